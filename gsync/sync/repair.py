"""Repair: what is damaged or missing comes again, from wherever it is whole (05-store, section 8).

Looked for in this order: elsewhere in the store, in the live folder, at the remotes. What is
found is hashed and stored in batches, each one transaction, in the place of what is damaged;
nothing else is touched, so a repair that was interrupted is simply run again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import NamedTuple

from gsync.errors import Corrupt, Denied, GsyncError, Invalid, Unavailable
from gsync.objects.encoding import decode_trusted
from gsync.objects.model import (
    BODY_BYTES_MAX,
    FILES,
    Leaf,
    decode_manifest,
    decode_node_trusted,
    references,
)
from gsync.objects.oid import Kind, ObjectId, object_id
from gsync.objects.packs import unpack_objects
from gsync.protocol.frames import Frame, FrameType, StreamBroken, decode_pack
from gsync.protocol.messages import Hello, Limits, decode_error
from gsync.remotes.base import Connection
from gsync.replicas.files.recover import read_objects
from gsync.store.base import ObjectMissing
from gsync.store.mend import Found
from gsync.store.sqlite import SqliteStore
from gsync.store.upkeep import RootsMoved
from gsync.sync.maintenance import Verified, verify
from gsync.sync.repository import Repository, now_us
from gsync.transfer.history import forgotten_ids
from gsync.transfer.receive import check_structure, decode_manifests
from gsync.transfer.send import references_in

STORE_SOURCE = "the store"
FOLDER_SOURCE = "the folder"

BATCH_OBJECTS = 1024
"""Objects replaced in one transaction."""

BATCH_BYTES = 1 << 25

REFUSED_MAX = 256
"""Requests that bring nothing, one after the other, until a remote is believed to be no help."""

_LOOKUPS = 4096

Source = tuple[str, Callable[[], AbstractContextManager[Connection]]]
"""A remote's name, and what opens a connection to it."""


@dataclass(frozen=True, slots=True)
class Mended:
    """An object that is whole again, and where its body came from."""

    kind: Kind
    oid: ObjectId
    source: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a remote was no help, or not for all that it was asked for."""

    remote: str
    why: str


@dataclass(slots=True)
class Repaired:
    """What a repair found, and what it did about it.

    Attributes:
        verified: What was found: before a dry run, or after the repair.
        mended: What is whole again, in order; of a dry run, what would be without a remote.
        dropped: Damaged objects that nothing reached.
        lacking: What nobody had; of a dry run, what the remotes would be asked for first.
        refusals: What remotes had to say.
    """

    verified: Verified
    mended: list[Mended] = field(default_factory=list)
    dropped: list[ObjectId] = field(default_factory=list)
    lacking: list[tuple[Kind, ObjectId]] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)


def repair(
    repo: Repository,
    sources: Sequence[Source],
    *,
    dry_run: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Repaired:
    """Verify, replace what is damaged or missing by what the store, folder or remotes have.

    Only what something names is replaced; a node or manifest that came is followed to what it
    names in turn. Damaged objects that nothing reaches are dropped, once nothing is lacking.
    The caller holds the repository's lock.

    Args:
        sources: Remotes, asked in that order for what is still lacking.
        dry_run: Change nothing, and ask nobody.
    """
    mark = repo.store.mark_collection(now_us())
    found = verify(repo.store, progress=progress)
    if not found.problems or any(problem.id == "store.db" for problem in found.problems):
        # Where SQLite finds its own file broken, writing to it makes matters worse.
        return Repaired(found)
    damaged = {ObjectId(bytes.fromhex(p.id)) for p in found.problems if p.kind == "damaged"}
    result = Repaired(found)
    with ExitStack() as stack:
        mender = _Mender(repo, damaged, result, stack, dry_run=dry_run)
        mender.run(sources)
    result.lacking = sorted((item.kind, oid) for oid, item in mender.walk.lacking.items())
    if dry_run:
        return result
    if not result.lacking:
        repo.store.drop_leftovers()
    result.verified = verify(repo.store, progress=progress)
    left = {ObjectId(bytes.fromhex(p.id)) for p in result.verified.problems if p.kind == "damaged"}
    left &= damaged
    if left and not result.lacking and mender.walk.is_complete:
        try:
            repo.store.drop_damaged(left, mark)
        except RootsMoved:
            return result  # somebody pushed meanwhile: they may be reached now
        result.dropped = sorted(left)
        result.verified = verify(repo.store, progress=progress)
    return result


class _Mender:
    """Goes round the places where bodies may be, until nothing is lacking or nothing new comes."""

    def __init__(
        self,
        repo: Repository,
        damaged: set[ObjectId],
        result: Repaired,
        stack: ExitStack,
        *,
        dry_run: bool,
    ) -> None:
        self.walk = _Walk(repo.store, damaged)
        self._repo = repo
        self._damaged = damaged
        self._result = result
        self._stack = stack
        self._dry_run = dry_run
        self._asked: set[tuple[str, ObjectId]] = set()
        self._batch: list[Found] = []
        self._batch_bytes = 0

    def run(self, sources: Sequence[Source]) -> None:
        self.walk.run()
        remotes = [] if self._dry_run else [_Remote(source, self._stack) for source in sources]
        while self.walk.lacking:
            before = len(self._result.mended)
            self._take(STORE_SOURCE, self._stray)
            if not self._repo.bare:
                self._take(FOLDER_SOURCE, self._live)
            for remote in remotes:
                if len(self._result.mended) == before and self.walk.lacking:
                    self._take(remote.name, remote.fetch)
            if len(self._result.mended) == before or self._dry_run:
                break
        self._result.refusals += [
            Refusal(remote.name, remote.why) for remote in remotes if remote.why
        ]

    def _take(self, name: str, look: Callable[[dict[ObjectId, Kind]], Iterator[Found]]) -> None:
        """Store what `look` finds of what is lacking and was not looked for there before."""
        wanted = {
            oid: item.kind
            for oid, item in self.walk.lacking.items()
            if (name, oid) not in self._asked
        }
        if not wanted:
            return
        self._asked |= {(name, oid) for oid in wanted}
        for kind, oid, body in look(wanted):
            if wanted.get(oid) is kind and _is_well_formed(kind, body):
                del wanted[oid]
                self._batch.append((kind, oid, body))
                self._batch_bytes += len(body)
                if len(self._batch) >= BATCH_OBJECTS or self._batch_bytes >= BATCH_BYTES:
                    self._store_batch(name)
        self._store_batch(name)
        self.walk.look_again()

    def _store_batch(self, name: str) -> None:
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        if not batch:
            return
        if not self._dry_run:
            self._repo.store.replace_objects(batch)
        self._result.mended += [Mended(kind, oid, name) for kind, oid, _ in batch]
        oids = [oid for _, oid, _ in batch]
        if self._dry_run:
            self.walk.give_up(oids)
        else:
            self.walk.go_on(oids)

    def _stray(self, wanted: dict[ObjectId, Kind]) -> Iterator[Found]:
        # What is damaged and not known to be lacking yet is taken too: when the rows that are
        # mended now have moved, it is harder to find.
        for kind, oid, body in self._repo.store.find_stray(dict(wanted), self._damaged):
            if (STORE_SOURCE, oid) not in self._asked:
                self._asked.add((STORE_SOURCE, oid))
                wanted[oid] = kind
            yield kind, oid, body

    def _live(self, wanted: dict[ObjectId, Kind]) -> Iterator[Found]:
        paths: dict[bytes, set[ObjectId]] = {}
        for oid in wanted:
            for path in self.walk.paths_of(oid):
                paths.setdefault(path, set()).add(oid)
        root = os.fsencode(self._repo.root)
        for path, oids in sorted(paths.items()):
            if oids & wanted.keys():
                yield from read_objects(root, path)


def _is_well_formed(kind: Kind, body: bytes) -> bool:
    """Return whether a body may be stored; its id was named by something that was checked."""
    try:
        if len(body) > BODY_BYTES_MAX[kind]:
            return False
        if kind is Kind.MANIFEST:
            decode_manifest(body)
        else:
            check_structure(kind, body)
    except GsyncError:
        return False
    return True


# --- What is lacking ------------------------------------------------------------------


class _Item(NamedTuple):
    """An object that something names.

    Attributes:
        path: Whose content it is or belongs to, below `files`.
        in_files: Whether it is a node of `files`.
    """

    kind: Kind
    oid: ObjectId
    path: bytes | None = None
    in_files: bool = False


class _Walk:
    """Everything that refs, the log and remotes reach, and what of it is not there or damaged.

    Attributes:
        lacking: What was named and is not to be had, with what is known of it.
        is_complete: Whether all that is there could be read, and so followed.
    """

    def __init__(self, store: SqliteStore, damaged: Iterable[ObjectId]) -> None:
        self.lacking: dict[ObjectId, _Item] = {}
        self.is_complete = True
        self._store = store
        self._damaged = set(damaged)
        self._paths: dict[ObjectId, set[bytes]] = {}
        self._done: set[tuple[ObjectId, bytes | None]] = set()
        self._blobs: dict[ObjectId, set[bytes]] = {}
        firm = set(store.list_refs().values()) | store.leased(now_us())
        for remote in store.list_remotes():
            firm |= set(store.tracking(remote).values())
        logged = {
            oid for entry in store.list_log() for oid in (entry.old, entry.new) if oid is not None
        }
        # What was forgotten on purpose is no hole; what a ref names is one, whatever was forgotten.
        self._forgotten = forgotten_ids(store) - firm
        self._todo = [_Item(Kind.MANIFEST, oid) for oid in sorted(firm | logged)]

    def run(self) -> None:
        """Follow all that is to be followed."""
        while self._todo:
            self._visit(self._todo.pop())
            if len(self._blobs) >= _LOOKUPS or not self._todo:
                self._look_up_blobs()

    def go_on(self, oids: Iterable[ObjectId]) -> None:
        """Follow objects that were lacking and are whole now."""
        for oid in oids:
            self._damaged.discard(oid)
            item = self.lacking.pop(oid, None)
            if item is None:  # nothing that was followed names it
                continue
            for path in self._paths.pop(oid, set()) | {item.path}:
                self._done.discard((oid, path))
                self._todo.append(item._replace(path=path))
        self.run()

    def give_up(self, oids: Iterable[ObjectId]) -> None:
        """Take objects off the list without following them."""
        for oid in oids:
            self.lacking.pop(oid, None)

    def look_again(self) -> None:
        """Follow what is whole without having been replaced: deltas of what was."""
        present = self.lacking.keys() - self._store.missing(self.lacking)
        self.go_on([oid for oid in present if self._is_whole(self.lacking[oid])])

    def paths_of(self, oid: ObjectId) -> set[bytes]:
        """Return the paths in `files` whose content a lacking object is, or is part of."""
        return self._paths.get(oid, set())

    def _is_whole(self, item: _Item) -> bool:
        try:
            self._store.get(item.kind, item.oid)
        except (ObjectMissing, Corrupt):
            return False
        return True

    def _visit(self, item: _Item) -> None:
        if item.kind is Kind.BLOB:
            paths = self._blobs.setdefault(item.oid, set())
            if item.path is not None:
                paths.add(item.path)
            return
        # A chunk list is walked for each path, so that each is known to its chunks.
        key = (item.oid, item.path)
        if key in self._done:
            return
        self._done.add(key)
        try:
            body = self._store.get(item.kind, item.oid)
        except (ObjectMissing, Corrupt):
            if item.oid not in self._forgotten:
                self._note(item)
            return
        try:
            self._todo += _below(item, body)
        except GsyncError:
            self.is_complete = False  # verify says what is wrong with it

    def _look_up_blobs(self) -> None:
        blobs, self._blobs = self._blobs, {}
        absent = self._store.missing(blobs)
        for oid, paths in blobs.items():
            if oid in absent or oid in self._damaged:
                self._note(_Item(Kind.BLOB, oid), paths)

    def _note(self, item: _Item, paths: Iterable[bytes] = ()) -> None:
        self.lacking.setdefault(item.oid, item)
        known = self._paths.setdefault(item.oid, set())
        known.update(paths)
        if item.path is not None:
            known.add(item.path)


def _below(item: _Item, body: bytes) -> Iterator[_Item]:
    """Yield what the object names, with the path that it belongs to."""
    if item.kind is Kind.MANIFEST:
        files = decode_manifest(body).find(FILES)
        for kind, oid in references(Kind.MANIFEST, body):
            yield _Item(kind, oid, None, files is not None and oid == files.root)
    elif item.kind is Kind.NODE and item.in_files:
        node = decode_node_trusted(body)
        if isinstance(node, Leaf):
            for key, value in zip(node.keys, node.values, strict=True):
                for ref in references_in(decode_trusted(value)):
                    yield _Item(ref.kind, ref.oid, key)
        else:
            yield from (_Item(Kind.NODE, oid, None, True) for oid in node.children)
    else:
        yield from (_Item(kind, oid, item.path) for kind, oid in references(item.kind, body))


# --- Remotes --------------------------------------------------------------------------


class _Refused(Exception):
    """A request did not bring all that it asked for; the peer's fault, or the way's."""

    def __init__(self, error: GsyncError) -> None:
        super().__init__(error.message)
        self.error = error


class _Remote:
    """A remote that is asked for objects, until it is found to be no help.

    Attributes:
        name: Its name.
        why: The last reason why something did not come; empty if all came.
    """

    def __init__(self, source: Source, stack: ExitStack) -> None:
        self.name, self._open = source
        self.why = ""
        self._stack = stack
        self._connection: Connection | None = None
        self._want_max = Limits().want_max
        self._given_up = False
        self._refused = 0

    def fetch(self, wanted: dict[ObjectId, Kind]) -> Iterator[Found]:
        """Yield what comes of `wanted`, hashed.

        A request is refused as a whole when the remote has not all of it, or finds damage of
        its own: then it is halved, down to the objects that this remote cannot give.
        """
        if not self._connect():
            return
        assert self._connection is not None
        wants = sorted((kind, oid) for oid, kind in wanted.items())
        todo = [wants[at : at + self._want_max] for at in range(0, len(wants), self._want_max)]
        while todo and not self._given_up:
            batch = todo.pop()
            owed = dict.fromkeys(batch)
            try:
                for kind, oid, body in _ask(self._connection, batch):
                    if (kind, oid) in owed:
                        del owed[kind, oid]
                        self._refused = 0
                        yield kind, oid, body
                if owed:
                    self.why = "it answered with something else than what was asked for"
            except _Refused as refused:
                self.why = refused.error.message
                self._given_up = isinstance(refused.error, (Unavailable, Denied))
            rest = list(owed)
            if rest:
                self._refused += 1
                self._given_up |= self._refused >= REFUSED_MAX
            if rest and len(batch) > 1:
                middle = (len(rest) + 1) // 2
                todo += [part for part in (rest[middle:], rest[:middle]) if part]

    def _connect(self) -> bool:
        if self._connection is None and not self._given_up:
            try:
                self._connection = self._stack.enter_context(self._open())
                limits = self._connection.hello(Hello(1, None)).limits
                self._want_max = max(1, min(limits.want_max, self._want_max))
            except GsyncError as error:
                self.why, self._given_up = error.message, True
        return not self._given_up


def _ask(connection: Connection, batch: list[tuple[Kind, ObjectId]]) -> Iterator[Found]:
    """Yield what one request brings, hashed: at most as many objects as it asked for.

    Raises:
        _Refused: something went wrong on the way; what came before it holds.
    """
    try:
        yield from _bodies(connection.objects(batch), len(batch))
    except GsyncError as error:
        raise _Refused(error) from error


def _bodies(frames: Iterable[Frame], objects_max: int) -> Iterator[Found]:
    objects = 0
    for count, frame in enumerate(frames):
        found = _in_frame(frame)
        objects += len(found)
        if frame.type is FrameType.END:
            return
        if objects > objects_max or count > objects_max:
            raise StreamBroken("more came than was asked for")
        yield from ((kind, object_id(kind, body), body) for kind, body in found)
    raise StreamBroken("the answer was cut off")


def _in_frame(frame: Frame) -> list[tuple[Kind, bytes]]:
    match frame.type:
        case FrameType.PACK:
            return unpack_objects(decode_pack(frame.body))
        case FrameType.MANIFESTS:
            return [(Kind.MANIFEST, body) for body in decode_manifests(frame.body)[0]]
        case FrameType.END:
            return []
        case FrameType.ERROR:
            raise decode_error(frame.body) or Corrupt("the sender broke off without a reason")
        case _:
            raise Invalid(f"a frame of type {frame.type.name} where objects are expected")
