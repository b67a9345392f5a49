"""The answering side of a conversation, for the server and for remotes that are a path.

Plain functions from messages to messages and streams; the caller carries the bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from gsync.errors import Conflict, GsyncError, Invalid, NotFound, Unavailable
from gsync.objects.encoding import encode
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
    ObjectMissing,
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
from gsync.transfer.resume import LEASE_US, Journal, left_to_send
from gsync.transfer.send import send_manifests, send_objects

DONE_ENTRIES_MAX = 1_000
"""How far back in the log an announcement is looked for that was carried out before."""


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
        frames = send_manifests(self._store, order_new(self._store, fetch.wants, known))
        return self._ended(left_to_send(frames, set(fetch.held)))

    def objects(self, wants: list[tuple[Kind, ObjectId]]) -> Iterator[Frame]:
        """Yield packs with the objects asked for."""
        absent = self._store.missing([oid for _, oid in wants])
        if absent:
            raise NotFound(f"no object {min(absent).hex()} here")
        return self._ended(send_objects(self._store, wants))

    def begin(self, begin: Begin) -> set[bytes]:
        """Pin what a push builds on, and return the frames of it that arrived before."""
        session = begin.session.hex()
        # First pinned, then looked for: no collection comes between.
        self._store.grant_lease(session, begin.bases, self._now_us() + LEASE_US)
        absent = set(begin.bases) - self._store.sizes(Kind.MANIFEST, begin.bases).keys()
        if absent:
            self._store.drop_lease(session)
            raise Conflict(
                f"manifest {min(absent).hex()[:12]} is not on the server any more",
                hint="run 'gsync fetch', then push again",
            )
        return self._store.frames_of(session)

    def frames(self, session: bytes, frames: Iterable[Frame]) -> Taken:
        """Take a stream of frames, and make the moves that it announces.

        What a stream that fails has brought is kept, unreachable and harmless; the session
        remembers which frames those were, so that they need not come again.

        Raises:
            Conflict: a ref has moved; nothing was moved.
            GsyncError: a frame was refused.
        """
        name = session.hex()
        self._store.renew()
        self._store.grant_lease(name, (), self._now_us() + LEASE_US)
        receiver = Receiver(self._store)
        journal = Journal(self._store, name, receiver, self._now_us)
        collections = self._store.collections()
        count, taken, ended = 0, [], False
        try:
            for frame in frames:
                if ended:
                    raise StreamBroken("a frame after the end of a stream")
                if frame.type is FrameType.ANNOUNCE:
                    remember_forgotten(self._store, receiver.forgotten)
                    taken = self._move(decode_announcement(frame.body))
                    ended = True
                elif frame.type is FrameType.END:
                    check_end(frame, count)
                    ended = True
                else:
                    journal.take(frame)
                count += 1
        except (NotFound, Invalid) as error:
            journal.save_what_came()
            if self._store.collections() == collections:
                raise
            raise Unavailable(
                "a garbage collection ran on the server during this push; nothing was moved",
                hint="push again: what has arrived is kept",
            ) from error
        except BaseException:
            journal.save_what_came()
            raise
        if taken:
            journal.end()
        else:
            journal.save()
        return Taken(count, taken)

    def _ended(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Yield `frames` and the end that proves to the receiver that none is missing."""
        count, collections = 0, self._store.collections()
        try:
            for frame in frames:
                count += 1
                yield frame
        except GsyncError as error:
            if isinstance(error, ObjectMissing) and self._store.collections() != collections:
                error = Unavailable(
                    "a garbage collection on the server dropped what was being sent",
                    hint="try again: what has arrived is kept",
                )
            yield Frame(FrameType.ERROR, encode_error(error))
            return
        yield Frame(FrameType.END, encode([count]))

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

        Its answer was lost on the way. The refs are not where it found them, and the same peer
        has made the same moves; others may have moved refs since. Where one was moved back to
        where it found it, it may have been made then, and anew.
        """
        last, moves = self._store.last_log_entry(), announcement.moves
        if last is None or all(self._store.find_ref(name) == old for name, old, _ in moves):
            return []
        entries = self._store.list_log(after=max(0, last.seq - DONE_ENTRIES_MAX))
        for start in range(len(entries) - len(moves), -1, -1):
            run = entries[start : start + len(moves)]
            made = [(entry.ref, entry.old, entry.new) for entry in run]
            if made == moves and all(entry.actor == self._actor for entry in run):
                since = {(entry.ref, entry.new) for entry in entries[start + len(moves) :]}
                if since & {(name, old) for name, old, _ in moves}:
                    return []
                return [encode_entry(entry) for entry in run]
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
