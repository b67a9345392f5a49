"""What a tarball-only peer holds, as a store that answers for it (15-older-peers, section 3).

The peer knows files and nothing else: no base, no deletion, no condition. So a store of our own,
the *mirror*, stands for it: its `main` is the history of what the peer was seen to hold and what
was sent there, and everybody fetches from it and pushes to it as to any store. Before it answers,
it looks at the peer; before it lets main move, it sends the peer what changes there.

The **held** root is the tree that the peer must have now: what was last seen, and what was sent
since. What a download has otherwise was changed by somebody there. A file that was deleted here
and cannot be there stays in the held root, so it does not come back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import BinaryIO, Protocol

from gsync.changes import Change
from gsync.errors import Conflict, Corrupt, GsyncError, TooLarge
from gsync.maps.diff import diff_maps
from gsync.maps.omap import EMPTY_MAP, build_map, count_entries, edit_map, find_value, list_entries
from gsync.objects.encoding import decode_trusted, encode
from gsync.objects.model import EMPTY_MAP_BODY, FILES, Collection, Manifest, encode_manifest
from gsync.objects.oid import Kind, ObjectId
from gsync.paths import parents_of, show_path
from gsync.protocol.messages import Hello, Welcome
from gsync.remotes.base import Traffic, fitting
from gsync.remotes.local import LocalRemote
from gsync.replicas.files.ignore import is_secret
from gsync.store.base import LogEntry, RefMove
from gsync.store.sqlite import SqliteStore
from gsync.sync.compare import files_root
from gsync.sync.operations import reading_state
from gsync.tarball import TarLimits, read_tarball, write_tarball
from gsync.transfer.answer import Answerer
from gsync.transfer.history import get_manifest
from gsync.views.files import (
    EntryType,
    FileEntry,
    check_tree_changes,
    decode_entry_trusted,
    encode_entry,
)

CARRIED = ("agents", "config", "content", "skills")
"""Directories that both of the older lists have: a server refuses all of a tarball that has one
which is not in its own. `include` of a remote says otherwise."""

PART_BYTES = 64 << 20
"""Of contents in one upload, until the peer says that this is too much."""

_HELD = "held"
_SENDING = "sending"
_PART_BYTES = "part bytes"
_FILE_TYPES = (EntryType.FILE, EntryType.EXECUTABLE)


class PeerEmptied(Conflict):
    """A peer that held files holds none: it was set up anew, or somebody deleted all of them."""

    def __init__(self, name: str, count: int) -> None:
        super().__init__(
            f"{name} holds no file any more, where it held {count}; they are not deleted here",
            hint="was it set up anew? 'gsync remote remove' and 'add', then a push fills it",
        )


class Peer(Protocol):
    """Who takes and gives tarballs."""

    traffic: Traffic

    def download(self, directories: tuple[str, ...], out: BinaryIO) -> int: ...

    def upload(self, archive: BinaryIO, size: int) -> dict[str, object]: ...

    def close(self) -> None: ...


class PeerRemote(LocalRemote):
    """A connection to the mirror of a peer, which is looked at and sent to at its moments.

    Attributes:
        kept_there: Paths that were deleted here and stay at the peer, which cannot delete.
        not_carried: How many entries of what was pushed the peer does not take.
        in_the_way: Paths of these that are a directory here and a file there, or the reverse,
            since the peer cannot delete.

    Args:
        peer: Counts what goes over the wire.
        name: The peer's host: the author of what was changed there.
        include: The directories that travel, if not CARRIED.
    """

    def __init__(
        self,
        store: SqliteStore,
        peer: Peer,
        name: str,
        now_us: Callable[[], int],
        include: Sequence[str] = (),
    ) -> None:
        # What is between us and the mirror goes over no wire.
        super().__init__(Answerer(store, name, now_us, hold=self._hold), peer.traffic)
        self.kept_there: list[bytes] = []
        self.not_carried = 0
        self.in_the_way: list[bytes] = []
        self._include = tuple(sorted(include or CARRIED))
        self._store, self._peer, self._name, self._now_us = store, peer, name, now_us

    def hello(self, hello: Hello) -> Welcome:
        """Look at the peer, then return the mirror's refs and log."""
        self.look()
        return super().hello(hello)

    def close(self) -> None:
        """Close the connection to the peer; the mirror is the caller's."""
        self._peer.close()

    def why_not_sent(self, path: bytes, new: FileEntry | None) -> str | None:
        """Return why a change to `path` does not arrive at the peer, or None."""
        if path.partition(b"/")[0].decode("utf-8", "replace") not in self._include:
            return "outside of the directories that travel to this peer"
        if is_secret(path):
            return "looks like a secret, and is held back"
        if new is None:
            return "stays there: the peer cannot delete"
        if new.type not in _FILE_TYPES:
            return "only files travel to this peer"
        return "the peer has something in its way" if path in self.in_the_way else None

    # From the peer

    def look(self) -> None:
        """Take in what was changed at the peer, as a manifest of the mirror.

        Raises:
            Invalid, TooLarge: what the peer gives is never taken in; nothing was changed.
            GsyncError: the peer cannot be asked.
        """
        store = self._store
        with TemporaryFile(dir=store.path.parent) as spool:
            self._peer.download(self._include, spool)
            spool.seek(0)
            read = read_tarball(spool, store, limits=TarLimits(ratio_max=1000), accept=_accept)
        found = build_map(store, self._carried(read.root))
        held = self._held()
        seen = build_map(store, self._carried(held))
        if found == seen:
            if store.get_state(_SENDING) is not None:
                store.set_states({_SENDING: None})  # it did not arrive
            return
        if found == EMPTY_MAP:
            raise PeerEmptied(self._name, count_entries(store, seen))
        head = store.find_ref("main")
        parent = get_manifest(store, head) if head else None
        root = (files_root(parent) or EMPTY_MAP) if parent else EMPTY_MAP
        changes = list(self._changes(seen, found, root))
        moves = []
        if changes or head is None and found != EMPTY_MAP:
            new = edit_map(store, root, [(change.key, change.new) for change in changes])
            for _ in check_tree_changes(store, root, new, changes):
                pass
            others = [c for c in parent.collections if c.name != FILES] if parent else []
            files = Collection(FILES, new, count_entries(store, new))
            manifest = Manifest(
                parents=(head,) if head else (),
                collections=tuple(sorted([*others, files], key=lambda c: c.name.encode())),
                author=self._name,
                time_us=0,
                message=f"changes at {self._name}",
            )
            moves = [RefMove("main", head, store.put(Kind.MANIFEST, encode_manifest(manifest)))]
        # Of directories that do not travel any more the peer holds what it held.
        new_held = edit_map(store, held, [(c.key, c.new) for c in diff_maps(store, seen, found)])
        self._move(moves, new_held, "look", is_settled=True)

    def _changes(self, held: ObjectId, found: ObjectId, root: ObjectId) -> Iterator[Change]:
        """Yield what somebody changed at the peer as changes of the tree at `root`."""
        sent = self._sending()
        for change in diff_maps(self._store, held, found):
            arrived = find_value(self._store, sent, change.key) if sent else None
            if arrived and change.new and _same_content(arrived, change.new):
                continue  # ours: the upload came there, and its answer did not come here
            ours = find_value(self._store, root, change.key)
            new = change.new
            if new is not None and change.old is not None and _same_content(change.old, new):
                continue  # a mode: the peer may not keep them
            if new is not None and ours is not None:
                new = _with_type(new, decode_entry_trusted(ours).type)
            if new != ours:
                yield Change(change.key, ours, new)

    # To the peer

    @contextmanager
    def _hold(self) -> Iterator[PeerRemote]:
        yield self

    def settle(self) -> None:
        """Look once more: a push must build on what is there."""
        self.look()

    def move_refs(
        self, moves: Sequence[RefMove], *, time_us: int, actor: str, why: str
    ) -> list[LogEntry]:
        """Send the peer what changes for it, then move the mirror's refs."""
        main = next((move for move in moves if move.name == "main"), None)
        held = self._held()
        if main is not None and main.new is not None:
            root = files_root(get_manifest(self._store, main.new)) or EMPTY_MAP
            held = self._send(root, held)
        return self._move(moves, held, why, is_settled=True)

    def _send(self, root: ObjectId, held: ObjectId) -> ObjectId:
        """Upload what the peer has not; return the root that it holds then."""
        store = self._store
        seen = build_map(store, self._carried(held))
        wanted = self._without_clashes(build_map(store, self._carried(root)), seen)
        self.not_carried = count_entries(store, root) - count_entries(store, wanted)
        changes = list(diff_maps(store, seen, wanted))
        self.kept_there = [change.key for change in changes if change.new is None]
        waiting = [change for change in changes if change.new is not None]
        total = len(waiting)
        part_bytes = self._part_bytes()
        if waiting:
            sending = edit_map(store, held, [(change.key, change.new) for change in waiting])
            store.flush()
            store.set_states({_SENDING: bytes(sending)})
        while waiting:
            part = fitting(waiting, _size, part_bytes)
            try:
                self._upload(wanted, {change.key for change in part})
            except TooLarge as error:
                if len(part) == 1:
                    raise TooLarge(
                        f"{show_path(part[0].key)} is too large for the peer: {error.message}",
                        hint=error.hint,
                    ) from error
                part_bytes = max(1, sum(map(_size, part)) // 2)
                store.set_states({_PART_BYTES: encode(part_bytes)})
                continue
            except GsyncError as error:
                arrived = total - len(waiting)
                if arrived:
                    error.details |= {"completed": arrived, "total": total}
                    error.hint = error.hint or (
                        f"{arrived:,} of {total:,} files have arrived; the next sync goes on"
                    )
                raise
            held = edit_map(store, held, [(change.key, change.new) for change in part])
            # What has arrived is there, whatever becomes of the rest.
            self._move((), held, "upload", is_settled=False)
            del waiting[: len(part)]
        return held

    def _part_bytes(self) -> int:
        """Return the most that a part has: what the peer took when it had refused more."""
        kept = self._store.get_state(_PART_BYTES)
        if kept is None:
            return PART_BYTES
        with reading_state("what a peer takes at once"):
            return min(PART_BYTES, int(decode_trusted(kept)))

    def _upload(self, root: ObjectId, paths: set[bytes]) -> None:
        with TemporaryFile(dir=self._store.path.parent) as archive:
            write_tarball(self._store, root, archive, keep=lambda path, _: path in paths)
            answer = self._peer.upload(archive, archive.tell())
        # A gsync server counts what it had already, and what it held back, apart.
        taken = [answer.get(name) for name in ("files_uploaded", "unchanged", "held_back")]
        count = sum(
            len(n) if isinstance(n, list) else n for n in taken if isinstance(n, int | list)
        )
        if count != len(paths):
            raise Corrupt(
                f"{self._name} says that it took {count} files of {len(paths)} that were sent",
                hint="nothing is sent again blindly: 'gsync sync' looks at what is there first",
            )

    def _without_clashes(self, wanted: ObjectId, held: ObjectId) -> ObjectId:
        """Return `wanted` without what cannot be there beside what the peer cannot delete."""
        store = self._store
        self.in_the_way = []
        for change in diff_maps(store, held, wanted):
            if change.old is not None or change.new is None:
                continue
            below = next(list_entries(store, held, prefix=change.key + b"/"), None)
            above = (find_value(store, held, path) for path in parents_of(change.key))
            if below is not None or any(value is not None for value in above):
                self.in_the_way.append(change.key)
        return edit_map(store, wanted, [(path, None) for path in self.in_the_way])

    # The mirror

    def _carried(self, root: ObjectId) -> Iterator[tuple[bytes, bytes]]:
        """Yield the entries that the peer holds: regular files of its directories, no secrets."""
        for name in self._include:
            for path, value in list_entries(self._store, root, prefix=name.encode() + b"/"):
                if decode_entry_trusted(value).type in _FILE_TYPES and not is_secret(path):
                    yield path, value

    def _sending(self) -> ObjectId | None:
        """Return what the peer must hold if the upload arrived that nothing was heard of."""
        state = self._store.get_state(_SENDING)
        if state is None or self._store.missing([ObjectId(state)]):
            return None
        return ObjectId(state)

    def _held(self) -> ObjectId:
        state = self._store.get_state(_HELD)
        if state is None:
            self._store.put(Kind.NODE, EMPTY_MAP_BODY)
            return EMPTY_MAP
        return ObjectId(state)

    def _move(
        self, moves: Sequence[RefMove], held: ObjectId, why: str, *, is_settled: bool
    ) -> list[LogEntry]:
        """Move refs with the held root; once that is known, what was being sent is forgotten.

        Kept, it would take an edit that restores what we sent once for ours.
        """
        states: dict[str, bytes | None] = {_HELD: bytes(held)}
        if is_settled:
            states[_SENDING] = None
        return self._store.move_refs(
            moves, time_us=self._now_us(), actor=self._name, why=why, states=states
        )


def _accept(path: bytes) -> str | None:
    return "looks like a secret, and is held back" if is_secret(path) else None


def _same_content(old: bytes, new: bytes) -> bool:
    one, other = decode_entry_trusted(old), decode_entry_trusted(new)
    return (one.ref, one.size) == (other.ref, other.size)


def _with_type(value: bytes, type_: EntryType) -> bytes:
    entry = decode_entry_trusted(value)
    if type_ not in _FILE_TYPES:
        return value
    return encode_entry(FileEntry(type_, entry.size, entry.ref, entry.content))


def _size(change: Change) -> int:
    assert change.new is not None
    return decode_entry_trusted(change.new).size
