"""Objects to and from a remote, going on where it broke off (spec/06-wire.md, section 8).

A transfer that fails is tried again while that makes sense. What came, or was acknowledged, is
kept on both sides, so that the next attempt, or the next command, does not send it again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

from gsync.errors import Corrupt, Invalid, NotFound
from gsync.objects.oid import Kind, ObjectId
from gsync.protocol.frames import Frame, FrameType
from gsync.protocol.messages import (
    SESSION_BYTES,
    Announcement,
    Begin,
    Fetch,
    Limits,
    Taken,
    Welcome,
    encode_announcement,
)
from gsync.remotes.base import Connection
from gsync.store.sqlite import SqliteStore
from gsync.transfer.history import choose_haves, order_new, remember_forgotten
from gsync.transfer.resume import LEASE_US, Journal, end_transfer, left_to_send
from gsync.transfer.send import objects_in, send_manifests

ONE_REQUEST_BYTES = 1 << 20
"""A push that fits goes with its announcement in one request; a longer one is begun first."""

PART_BYTES_MAX = 64 << 20
"""A quarter of a part is held in memory, so a server's limit is not believed beyond this."""

HELD_SENT_MAX = 28_000
"""Names of frames that a fetch says are here: 7 GB of contents, in a request below the megabyte
that proxies let through. What is beyond comes again."""

Moves = list[tuple[str, ObjectId | None, ObjectId | None]]


class Download:
    """What brings the manifests of a remote's refs, and all below them.

    Attributes:
        objects: How many have come.

    Args:
        now_us: The clock, in microseconds since 1970.
        by_level: Whether to ask for objects level by level: the remote knows none of our
            manifests, and we have objects that it may have too.
    """

    def __init__(
        self,
        store: SqliteStore,
        remote: str,
        connection: Connection,
        now_us: Callable[[], int],
        *,
        by_level: bool,
    ) -> None:
        self.objects = 0
        self._progress = 0
        self._store = store
        self._connection = connection
        self._now_us = now_us
        self._by_level = by_level
        self._session = f"fetch {remote}"

    def run(self, wants: Sequence[ObjectId], tips: Iterable[ObjectId], limits: Limits) -> None:
        """Bring `wants`; what it keeps of an attempt stays until `end`."""
        haves = choose_haves(self._store, tips, limits.have_max)

        def attempt() -> None:
            if self._by_level:
                self._take_levels(wants, limits.want_max)
            else:
                self._take_stream(wants, haves)

        self._connection.retry(attempt, lambda: self._progress)

    def end(self) -> None:
        """Forget the transfer: something names what it brought."""
        end_transfer(self._store, self._session)

    def _take_stream(self, wants: Sequence[ObjectId], haves: Sequence[ObjectId]) -> None:
        held = self._store.frames_of(self._session)
        try:
            self._take_rest(wants, haves, held)
        except (Invalid, Corrupt):
            # The other side does not know how to leave frames out, or what was left out does
            # not fit what came. The journal is forgotten; from the beginning it may go.
            if not held:
                raise
            self.end()
            self._take_rest(wants, haves, set())

    def _take_rest(
        self, wants: Sequence[ObjectId], haves: Sequence[ObjectId], held: set[bytes]
    ) -> None:
        from gsync.transfer.negotiate import take_stream
        from gsync.transfer.receive import Incomplete, Receiver

        store = self._store
        store.renew()
        store.grant_lease(self._session, (), self._now_us() + LEASE_US)
        receiver = Receiver(store)
        journal = Journal(store, self._session, receiver, self._now_us)
        names = sorted(held)[:HELD_SENT_MAX]
        try:
            take_stream(journal, self._connection.fetch(Fetch(list(wants), list(haves), names)))
            absent = store.missing(wants)
            if absent:  # a stream that ends well may leave out all
                raise Incomplete(Kind.MANIFEST, min(absent))
            remember_forgotten(store, receiver.forgotten)
        except BaseException:
            journal.save_what_came()
            raise
        finally:
            self.objects += receiver.objects
            self._progress += journal.taken
        store.flush()

    def _take_levels(self, wants: Sequence[ObjectId], want_max: int) -> None:
        """Ask level by level; what came before is here, and is not asked for again."""
        from gsync.transfer.negotiate import fetch_by_level
        from gsync.transfer.receive import Receiver

        self._store.grant_lease(self._session, (), self._now_us() + LEASE_US)
        receiver = Receiver(self._store, by_level=True)
        conversation = fetch_by_level(self._store, receiver, wants, want_max)
        try:
            asked = next(conversation)
            while True:
                asked = conversation.send(self._connection.objects(asked))
        except StopIteration:
            remember_forgotten(self._store, receiver.forgotten)
        finally:
            self.objects += receiver.objects
            self._progress += receiver.objects
            self._store.flush()


class Upload:
    """What brings manifests to a remote, and moves its refs there.

    Its session is kept in the store until the refs have moved, so that the next command finds
    again what arrived.

    Attributes:
        objects: How many were sent.
    """

    def __init__(
        self,
        store: SqliteStore,
        remote: str,
        connection: Connection,
        welcome: Welcome,
        moves: Moves,
    ) -> None:
        self.objects = 0
        self._store = store
        self._connection = connection
        self._part_bytes = min(welcome.limits.part_bytes, PART_BYTES_MAX)
        known = set(welcome.refs.values())
        self._bases = sorted(known - store.missing(known))
        wanted = [new for _, _, new in moves if new is not None]
        self._order = order_new(store, wanted, self._bases)
        body = encode_announcement(Announcement(moves, "push"))
        self._announcement = Frame(FrameType.ANNOUNCE, body)
        self._state = f"push to {remote}"
        self._session = store.get_state(self._state)
        self._held: set[bytes] = set()
        self._announced = False

    def run(self) -> Taken:
        """Send what the remote has not; return what it made of it."""
        taken = self._connection.retry(self._attempt, lambda: len(self._held))
        if self._store.get_state(self._state) is not None:
            self._store.set_states({self._state: None})
        return taken

    def count(self) -> int:
        """Return how many objects would be sent, and send none."""
        return sum(map(objects_in, send_manifests(self._store, self._order)))

    def _attempt(self) -> Taken:
        try:
            return self._send_rest()
        except (Invalid, Corrupt, NotFound):
            # What was left out does not fit, or is not there any more: from the beginning it may.
            if not self._held:
                raise
            self._held, self._session = set(), None
            return self._send_rest()

    def _send_rest(self) -> Taken:
        if self._session is None:
            return self._begin_anew()
        if self._announced:
            # The refs may have moved, and only the answer was lost.
            try:
                return self._send_parts(self._session, iter(()))
            except NotFound:
                self._announced = False
        self._held = self._connection.begin(Begin(self._session, self._bases))
        frames = send_manifests(self._store, self._order)
        return self._send_parts(self._session, left_to_send(frames, self._held))

    def _begin_anew(self) -> Taken:
        self._session = os.urandom(SESSION_BYTES)
        frames = send_manifests(self._store, self._order)
        head, rest = _take_bytes(frames, ONE_REQUEST_BYTES)
        if rest is not None:
            self._store.set_states({self._state: self._session})
            self._connection.begin(Begin(self._session, self._bases))
        return self._send_parts(self._session, chain(head, rest or ()))

    def _send_parts(self, session: bytes, frames: Iterator[Frame]) -> Taken:
        """Send `frames` and the announcement, in as many requests as it takes.

        One has a quarter of what the server allows: a proxy in between may hand on a request
        only when it has all of it, and what is cut off before that is lost.
        """
        following = next(frames, None)
        is_last = False

        def part() -> Iterator[Frame]:
            nonlocal following, is_last
            size = 0
            while following is not None:
                size += len(following.body)
                if size > max(self._part_bytes // 4, len(following.body)):
                    return
                self.objects += objects_in(following)
                frame, following = following, next(frames, None)
                yield frame
            is_last = self._announced = True
            yield self._announcement

        while True:
            taken = self._connection.frames(session, part)
            if is_last:
                return taken


def _take_bytes(
    frames: Iterator[Frame], bytes_max: int
) -> tuple[list[Frame], Iterator[Frame] | None]:
    """Return the frames up to `bytes_max`, and the rest, or None if that was all."""
    head: list[Frame] = []
    size = 0
    for frame in frames:
        head.append(frame)
        size += len(frame.body)
        if size > bytes_max:
            return head, frames
    return head, None
