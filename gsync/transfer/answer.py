"""The answering side of a conversation, for the server and for remotes that are a path.

Plain functions from messages to messages and streams; the caller carries the bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, Protocol

from gsync.errors import Conflict, GsyncError, Invalid, NotFound, Unavailable
from gsync.objects.encoding import decode_trusted, encode
from gsync.objects.oid import Kind, ObjectId
from gsync.protocol.frames import Frame, FrameType, StreamBroken, check_end
from gsync.protocol.messages import (
    VERSION,
    Announcement,
    Begin,
    Fetch,
    Hello,
    Limits,
    Taken,
    Welcome,
    check_ref_name,
    decode_announcement,
    encode_error,
)
from gsync.store.base import (
    Leases,
    LogEntry,
    PackStore,
    RefMove,
    RefMoved,
    Refs,
    Sessions,
    State,
)
from gsync.store.reflog import encode_entry
from gsync.transfer.history import is_ancestor, order_new, remember_forgotten
from gsync.transfer.receive import Receiver
from gsync.transfer.send import send_manifests, send_objects

LEASE_US = 3600 * 1_000_000
"""How long what a push relies on is kept after its last request."""


class AnsweringStore(PackStore, Refs, Leases, Sessions, State, Protocol):
    """What answering takes: objects, refs, leases, sessions and state of one tenant."""


class Mover(Protocol):
    """Carries out the moves of an announcement, and keeps others out until it is released."""

    def settle(self) -> None:
        """Bring the refs to what they stand for, before they are compared."""
        ...

    def move_refs(
        self, moves: Sequence[RefMove], *, time_us: int, actor: str, why: str
    ) -> list[LogEntry]:
        """Move all refs or none, as `Refs.move_refs` does, and what follows them."""
        ...


class _RefsOnly:
    """Moves the refs of a store that nothing live follows."""

    def __init__(self, store: Refs) -> None:
        self._store = store

    def settle(self) -> None:
        pass

    def move_refs(
        self, moves: Sequence[RefMove], *, time_us: int, actor: str, why: str
    ) -> list[LogEntry]:
        return self._store.move_refs(moves, time_us=time_us, actor=actor, why=why)


class _Part(NamedTuple):
    """One request of a push: its first frame's name, and where an open patch had led."""

    first: bytes
    start: ObjectId | None
    collections: int


def _part_state(session: str) -> str:
    return f"push {session}"


class Answerer:
    """One tenant's store, as its peers see it.

    Args:
        store: The tenant's store.
        actor: Whom the edge authenticated; goes into the ref log.
        now_us: The clock, in microseconds since 1970.
        limits: What is told to peers, and enforced here.
        may_move: Whether peers may move refs. Not those of a repository with a folder: it
            would look as if somebody had undone the push there.
        hold: Holds what follows the refs, such as an attached folder, while they move.
    """

    def __init__(
        self,
        store: AnsweringStore,
        actor: str,
        now_us: Callable[[], int],
        limits: Limits | None = None,
        *,
        may_move: bool = True,
        hold: Callable[[], AbstractContextManager[Mover]] | None = None,
    ) -> None:
        self._hold = hold or (lambda: nullcontext(_RefsOnly(store)))
        self._may_move = may_move
        self._store = store
        self._actor = actor
        self._now_us = now_us
        self.limits = limits or Limits()

    def hello(self, hello: Hello) -> Welcome:
        """Return refs, limits, and the log after what the client has seen."""
        if hello.version < 1:
            raise Invalid(f"protocol version {hello.version}, where this server speaks {VERSION}")
        last = self._store.last_log_entry()
        end = last.seq if last else 0
        after = 0
        if hello.seen is not None:
            seq, digest = hello.seen
            there = self._store.list_log(after=seq - 1, limit=1)
            if there and there[0].hash == digest:
                after = seq
        return Welcome(
            version=min(hello.version, VERSION),
            limits=self.limits,
            refs=self._store.list_refs(),
            head=(last.seq, last.hash) if last else None,
            # What was moved since `last` was read belongs to the next hello: a client that got
            # more entries than `head` counts would take the log for rewritten.
            entries=[encode_entry(e) for e in self._list_log(after) if e.seq <= end],
        )

    def log(self, after: int) -> list[bytes]:
        """Return encoded log entries with a seq above `after`, as many as an answer holds."""
        return [encode_entry(e) for e in self._list_log(after)]

    def _list_log(self, after: int) -> list[LogEntry]:
        return self._store.list_log(after, self.limits.log_max)

    def fetch(self, fetch: Fetch) -> Iterator[Frame]:
        """Yield the stream that brings the wants to a client that has the haves.

        Raises:
            NotFound: a want is not here; raised before anything is yielded.
        """
        absent = self._store.missing(fetch.wants)
        if absent:
            raise NotFound(f"no manifest {min(absent).hex()} here")
        known = set(fetch.haves) - self._store.missing(fetch.haves)
        return _ended(send_manifests(self._store, order_new(self._store, fetch.wants, known)))

    def objects(self, wants: list[tuple[Kind, ObjectId]]) -> Iterator[Frame]:
        """Yield packs with the objects asked for."""
        absent = self._store.missing([oid for _, oid in wants])
        if absent:
            raise NotFound(f"no object {min(absent).hex()} here")
        return _ended(send_objects(self._store, wants))

    def begin(self, begin: Begin) -> set[bytes]:
        """Pin what a push builds on, and return the frames of it that arrived before."""
        absent = set(begin.bases) - self._store.sizes(Kind.MANIFEST, begin.bases).keys()
        if absent:
            raise Conflict(
                f"manifest {min(absent).hex()[:12]} is not on the server any more",
                hint="run 'gsync fetch', then push again",
            )
        session = begin.session.hex()
        self._store.grant_lease(session, begin.bases, self._now_us() + LEASE_US)
        if self._store.get_state(_part_state(session)) is None:
            body = encode([b"", None, None, self._store.collections()])
            self._store.set_states({_part_state(session): body})
        return self._store.frames_of(session)

    def frames(self, session: bytes, frames: Iterable[Frame]) -> Taken:
        """Take a stream of frames, and make the moves that it announces.

        A stream that fails leaves what it stored, unreachable and harmless; the session
        remembers which frames those were, so that they need not come again.

        Raises:
            Conflict: a ref has moved; nothing was moved.
            GsyncError: a frame was refused.
        """
        name = session.hex()
        self._store.renew()
        self._store.grant_lease(name, (), self._now_us() + LEASE_US)
        receiver = Receiver(self._store)
        part: _Part | None = None
        count, taken, ended = 0, [], False
        arrived: list[bytes] = []
        try:
            for frame in frames:
                if ended:
                    raise StreamBroken("a frame after the end of a stream")
                if part is None:
                    part = self._part(name, frame)
                    receiver.unfinished = part.start
                if frame.type is FrameType.ANNOUNCE:
                    remember_forgotten(self._store, receiver.forgotten)
                    announcement = decode_announcement(frame.body)
                    self._store.flush()
                    taken = self._move(announcement)
                    ended = True
                elif frame.type is FrameType.END:
                    check_end(frame, count)
                    ended = True
                else:
                    receiver.take(frame)
                    if frame.type in (FrameType.PACK, FrameType.DELTA):
                        arrived.append(frame.name)
                count += 1
        finally:
            if not taken:
                self._store.flush()
                self._store.add_frames(name, arrived, self._now_us())
        if taken:
            self._store.end_session(name)
            self._store.drop_lease(name)
            self._store.set_states({_part_state(name): None})
        elif part is not None:
            remember_forgotten(self._store, receiver.forgotten)
            body = encode([part.first, part.start, receiver.unfinished, part.collections])
            self._store.set_states({_part_state(name): body})
        return Taken(count, taken)

    def _part(self, session: str, first: Frame) -> _Part:
        """Return where the patches of this part of a push go on.

        A part may come again, because its answer was lost: then it starts where it started,
        and not where it ended.
        """
        saved = self._store.get_state(_part_state(session))
        collections = self._store.collections()
        if saved is None:
            return _Part(first.name, None, collections)
        last_first, start, end, seen = decode_trusted(saved)
        if seen != collections:
            # What an earlier part found present, and did not store again, may be gone.
            self._store.set_states({_part_state(session): None})
            raise Unavailable(
                "a garbage collection ran on the server during this push; nothing was moved",
                hint="push again",
            )
        return _Part(first.name, start if last_first == first.name else end, collections)

    def _move(self, announcement: Announcement) -> list[bytes]:
        if not self._may_move:
            raise Conflict(
                "the remote is a repository with a folder, which a push would not change",
                hint="pull from there, or push to a bare store: 'gsync init --bare DIR'",
            )
        if not announcement.moves:
            raise Invalid("an announcement without a move")
        for name, _, _ in announcement.moves:
            check_ref_name(name)
        with self._hold() as mover:
            done = self._done_before(announcement)
            if done:
                return done
            mover.settle()
            for name, old, new in announcement.moves:
                self._check_move(name, old, new)
            entries = mover.move_refs(
                [RefMove(*move) for move in announcement.moves],
                time_us=self._now_us(),
                actor=self._actor,
                why=announcement.why,
            )
        return [encode_entry(entry) for entry in entries]

    def _done_before(self, announcement: Announcement) -> list[bytes]:
        """Return the log entries of an announcement that was carried out and is repeated.

        Its answer was lost on the way. All its refs are where it wanted them, and the last
        entries of the log are the ones it made.
        """
        last = self._store.last_log_entry()
        if last is None:
            return []
        entries = self._store.list_log(after=last.seq - len(announcement.moves))
        made = [(entry.ref, entry.old, entry.new) for entry in entries]
        if made == announcement.moves and all(e.actor == self._actor for e in entries):
            return [encode_entry(entry) for entry in entries]
        return []

    def _check_move(self, name: str, old: ObjectId | None, new: ObjectId | None) -> None:
        found = self._store.find_ref(name)
        if found != old:
            raise RefMoved(name, old, found)
        if new is not None:
            self._store.get(Kind.MANIFEST, new)
        if name == "main" and (new is None or (old and not is_ancestor(self._store, old, new))):
            raise Conflict(
                "main moves only to a manifest that descends from the one it points at",
                hint="pull first; then what you push builds on what is there",
            )
        if name.startswith("tags/") and old is not None and new is not None:
            raise Conflict(f"tag {name[5:]} exists and is never moved")


def _ended(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Yield `frames` and the end that proves to the receiver that none is missing."""
    count = 0
    try:
        for frame in frames:
            count += 1
            yield frame
    except GsyncError as error:
        yield Frame(FrameType.ERROR, encode_error(error))
        return
    yield Frame(FrameType.END, encode([count]))
