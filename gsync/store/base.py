"""What a store promises. Interfaces only: no disk, no clock, no socket.

No Protocol here spans objects and refs, so that a server can later keep the ones in
object storage and the others in a database. One test suite runs on every implementation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from gsync.errors import Conflict, Corrupt, NotFound
from gsync.frozen import frozen
from gsync.objects.oid import Kind, ObjectId
from gsync.objects.packs import Pack


class ObjectMissing(NotFound):
    """An object that something refers to is not in the store."""

    def __init__(self, kind: Kind, oid: ObjectId) -> None:
        super().__init__(
            f"the store has no {kind.name.lower()} {oid.hex()}",
            hint="'gsync verify' lists what is missing",
            id=oid.hex(),
        )
        self.oid = oid
        self.object_kind = kind


class ObjectCorrupt(Corrupt):
    """Stored bytes do not hash to the id they are stored under."""

    def __init__(self, oid: ObjectId, why: str) -> None:
        super().__init__(
            f"object {oid.hex()} is damaged: {why}",
            hint="'gsync verify' lists all damage; keep the store as it is until then",
            id=oid.hex(),
        )
        self.oid = oid


class RefMoved(Conflict):
    """A ref does not point at what the mover expected: somebody was first."""

    def __init__(self, name: str, expected: ObjectId | None, found: ObjectId | None) -> None:
        super().__init__(
            f"ref {name} has moved: expected {_short(expected)}, found {_short(found)}",
            ref=name,
            expected=expected.hex() if expected else None,
            found=found.hex() if found else None,
        )
        self.name = name
        self.expected = expected
        self.found = found


def _short(oid: ObjectId | None) -> str:
    return oid.hex()[:12] if oid else "nothing"


class ObjectReader(Protocol):
    """Bodies by id."""

    def get(self, kind: Kind, oid: ObjectId) -> bytes:
        """Return the body of an object, hashed on the way out.

        Raises:
            ObjectMissing: no object of that kind has that id.
            ObjectCorrupt: what is stored does not hash to the id.
        """
        ...

    def get_many(self, wanted: Sequence[tuple[Kind, ObjectId]]) -> Iterator[tuple[ObjectId, bytes]]:
        """Yield the body of every object of `wanted`, in any order, repetitions once.

        Order follows the storage, so that each pack is opened once: hand in some hundreds.
        """
        ...

    def missing(self, oids: Iterable[ObjectId]) -> set[ObjectId]:
        """Return those of `oids` that are not here."""
        ...


class ObjectWriter(Protocol):
    """Where new bodies go."""

    def put(self, kind: Kind, body: bytes, near: ObjectId | None = None) -> ObjectId:
        """Keep `body` and return its id; putting what is there already changes nothing.

        What was put can be read at once, and is durable after the next `flush`, or after the
        next move of a ref in the same store.

        Args:
            near: An object of the same kind that this one replaces and resembles; a hint.
        """
        ...

    def flush(self) -> None:
        """Make everything that was put durable."""
        ...


class ObjectStore(ObjectReader, ObjectWriter, Protocol):
    """Bodies in and out."""


class PackStore(ObjectStore, Protocol):
    """A store that also takes and gives whole packs, for transfer."""

    def put_pack(self, pack: Pack) -> list[ObjectId]:
        """Keep the objects of a pack from anywhere; return their ids in the pack's order.

        Every body is hashed. Durable like what was `put`.

        Raises:
            PackCorrupt: the pack is not what its outline says; nothing of it was kept.
            TooLarge: it has too many objects, or one that is larger than its kind may be.
        """
        ...

    def export_packs(self, wanted: Sequence[tuple[Kind, ObjectId]]) -> Iterator[Pack]:
        """Yield packs that hold the objects of `wanted`, each once, and nothing else.

        They come in the order of the storage. Bodies may go out unhashed: who receives them
        hashes them.

        Raises:
            ObjectMissing: one of them is not here.
        """
        ...

    def sizes(self, kind: Kind, oids: Iterable[ObjectId]) -> dict[ObjectId, int]:
        """Return the body size of each of `oids` that is here and of that kind."""
        ...


@frozen
class RefMove:
    """One ref to move: compare with `old`, swap in `new`; None stands for absent."""

    name: str
    old: ObjectId | None
    new: ObjectId | None


@frozen
class LogEntry:
    """One move of a ref, as a link of the hash-chained ref log (05-store, section 5).

    Attributes:
        seq: 1 for the first entry of a store, then rising by one.
        ref: The ref that moved.
        old: Where it pointed, or None when it was made.
        new: Where it points since, or None when it was dropped.
        time_us: When, by the clock of the store that moved it.
        actor: Whom that store authenticated.
        why: The command that moved it.
        prev: Hash of the entry before, 32 zero bytes for the first.
        hash: Hash of this entry.
    """

    seq: int
    ref: str
    old: ObjectId | None
    new: ObjectId | None
    time_us: int
    actor: str
    why: str
    prev: bytes
    hash: bytes


class Refs(Protocol):
    """Names for manifests, moved by compare-and-swap, each move logged."""

    def find_ref(self, name: str) -> ObjectId | None:
        """Return where `name` points, or None."""
        ...

    def list_refs(self) -> dict[str, ObjectId]:
        """Return all refs by name, sorted."""
        ...

    def move_refs(
        self,
        moves: Sequence[RefMove],
        *,
        time_us: int,
        actor: str,
        why: str,
        states: Mapping[str, bytes | None] | None = None,
        tracking: Mapping[str, Mapping[str, ObjectId]] | None = None,
    ) -> list[LogEntry]:
        """Move all of `moves` or none, and append one log entry each, in one transaction.

        Args:
            states: Saved in the same transaction, as `set_states` does: what has to be true
                exactly when the refs have moved.
            tracking: Replaced in the same transaction, as `set_tracking` does, by remote.

        Raises:
            RefMoved: a ref is not at its `old`; nothing was changed.
        """
        ...

    def list_log(self, after: int = 0, limit: int | None = None) -> list[LogEntry]:
        """Return the log entries with a `seq` above `after`, oldest first."""
        ...

    def last_log_entry(self) -> LogEntry | None:
        """Return the newest log entry, or None before the first move."""
        ...


class Leases(Protocol):
    """Promises that objects stay for a while although no ref reaches them."""

    def grant_lease(self, session: str, oids: Iterable[ObjectId], expires_us: int) -> None:
        """Pin manifests `oids` for `session`, or prolong what it holds."""
        ...

    def drop_lease(self, session: str) -> None:
        """Release what `session` pinned."""
        ...

    def leased(self, now_us: int) -> set[ObjectId]:
        """Return the manifests that are pinned at `now_us`, with all below them."""
        ...

    def pinned(self, now_us: int) -> set[ObjectId]:
        """Return what else is: objects that frames brought and that were here already."""
        ...


class Sessions(Protocol):
    """Which frames of an unfinished push have arrived, so that none is sent twice."""

    def frames_of(self, session: str) -> set[bytes]:
        """Return the hashes of the frames that `session` has delivered."""
        ...

    def add_frames(
        self,
        session: str,
        frames: Iterable[bytes],
        now_us: int,
        *,
        expires_us: int | None = None,
        states: Mapping[str, bytes | None] | None = None,
    ) -> None:
        """Remember that what these frames brought is stored, and pin it for the session.

        That is all that was put since `renew` or the last call, what was here before included.

        Args:
            expires_us: Until when the session's lease is prolonged.
            states: Saved in the same transaction, as `set_states` does.

        Raises:
            CollectedMeanwhile: a collection ran since; nothing was remembered.
        """
        ...

    def end_session(self, session: str) -> None:
        """Forget the frames of `session`."""
        ...

    def renew(self) -> None:
        """Believe nothing that was seen before: a transfer begins on a handle that is kept."""
        ...

    def collections(self) -> int:
        """Return how many garbage collections there were, so that one between can be told."""
        ...


class State(Protocol):
    """Small named values of this repository that are no objects: cached, or local."""

    def get_state(self, name: str) -> bytes | None:
        """Return the value of `name`, or None."""
        ...

    def set_states(self, values: Mapping[str, bytes | None]) -> None:
        """Set or drop (None) named values, all in one transaction."""
        ...

    def list_states(self, prefix: str) -> dict[str, bytes]:
        """Return the values whose names begin with `prefix`, in order of names."""
        ...


class RemoteLogs(Protocol):
    """What this repository last saw of its remotes: refs, and the log that moved them."""

    def tracking(self, remote: str) -> dict[str, ObjectId]:
        """Return the refs of `remote` as last seen."""
        ...

    def set_tracking(
        self,
        remote: str,
        refs: Mapping[str, ObjectId],
        states: Mapping[str, bytes | None] | None = None,
    ) -> None:
        """Replace the refs of `remote` as last seen; `states` in the same transaction."""
        ...

    def remote_log(self, remote: str, after: int = 0) -> list[LogEntry]:
        """Return the entries kept of the remote's log, oldest first."""
        ...

    def append_remote_log(self, remote: str, entries: Sequence[LogEntry]) -> None:
        """Keep more of the remote's log; the caller has checked the chain."""
        ...

    def drop_remote(self, remote: str) -> None:
        """Forget everything about `remote`."""
        ...
