"""What has arrived of a transfer need not be sent again (06-wire, section 8).

The receiver keeps a journal of the frames that it has stored; the sender makes the same stream
again and leaves out those. Nothing is believed that is not checked: a frame that is left out by
mistake is found missing before a manifest is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from blake3 import blake3

from gsync.errors import GsyncError, Unavailable
from gsync.objects.encoding import decode_trusted, encode
from gsync.protocol.frames import Frame, FrameType
from gsync.store.base import Leases, Sessions, State
from gsync.transfer.history import remember_forgotten

if TYPE_CHECKING:
    from gsync.transfer.receive import Receiver

LEASE_US = 3600 * 1_000_000
"""How long what has arrived of a transfer is kept after the last that came."""

JOURNAL_BYTES = 4 << 20
"""What may have come since the journal was written: a power cut costs as much."""

JOURNAL_US = 60 * 1_000_000
"""The same in time, so that the lease of a slow transfer does not end."""

_KEPT = (FrameType.PACK, FrameType.DELTA, FrameType.PATCH, FrameType.MANIFESTS)


class JournalStore(Leases, Sessions, State, Protocol):
    """What a journal is kept in."""


class FrameNames:
    """Names the frames of one stream, in order.

    The name of a patch goes on from the name of the patch before: a patch means nothing without
    what it is applied to.
    """

    def __init__(self, last: bytes = b"") -> None:
        self.last = last

    def name(self, frame: Frame) -> bytes:
        """Return the name of the next frame."""
        if frame.type is not FrameType.PATCH:
            return frame.name
        hasher = blake3(bytes([frame.type]))
        hasher.update(frame.body)
        hasher.update(self.last)
        self.last = hasher.digest()
        return self.last


def left_to_send(frames: Iterable[Frame], held: Collection[bytes]) -> Iterator[Frame]:
    """Yield those of `frames`, a whole stream, whose names are not in `held`.

    Patches are left out up to the first that is not held: the receiver goes on from there.
    """
    if not held:
        yield from frames
        return
    names = FrameNames()
    patches_held = True
    for frame in frames:
        is_held = frame.type in _KEPT and names.name(frame) in held
        if frame.type is FrameType.PATCH:
            patches_held = is_held = patches_held and is_held
        if not is_held:
            yield frame


class Journal:
    """Takes the frames of one transfer, and keeps in the store which ones it has.

    Attributes:
        taken: How many it took.

    Args:
        store: Where the frames go too: what the journal names is durable before it does.
        session: Names the transfer; a lease for it has been granted.
        receiver: Takes the frames.
        now_us: The clock, in microseconds since 1970.
    """

    def __init__(
        self, store: JournalStore, session: str, receiver: Receiver, now_us: Callable[[], int]
    ) -> None:
        self.taken = 0
        self._store = store
        self._session = session
        self._receiver = receiver
        self._now_us = now_us
        saved = store.get_state(_state(session))
        last, receiver.unfinished = decode_trusted(saved) if saved else (b"", None)
        self._names = FrameNames(last)
        self._place = (last, receiver.unfinished)
        self._new: list[bytes] = []
        self._new_bytes = 0
        self._saved_us = now_us()

    def take(self, frame: Frame) -> None:
        """Store what `frame` brings; write the journal when it is time.

        Raises:
            GsyncError: the frame is refused. What came before is forgotten, since what is wrong
                may be what was left out: the transfer begins anew.
        """
        try:
            self._receiver.take(frame)
        except Unavailable:
            raise
        except GsyncError:
            if frame.type is not FrameType.ERROR:
                self.end()
            raise
        self.taken += 1
        self._new.append(self._names.name(frame))
        self._new_bytes += len(frame.body)
        self._place = (self._names.last, self._receiver.unfinished)
        late = self._now_us() - self._saved_us >= JOURNAL_US
        if late or self._new_bytes >= JOURNAL_BYTES:
            self.save()

    def save(self) -> None:
        """Make durable what has come, and that it has; prolong the lease.

        Raises:
            CollectedMeanwhile: some of it may be gone; nothing of it is noted.
        """
        new, self._new, self._new_bytes = self._new, [], 0
        if not new:
            return
        remember_forgotten(self._store, self._receiver.forgotten)
        self._saved_us = self._now_us()
        self._store.add_frames(
            self._session,
            new,
            self._saved_us,
            expires_us=self._saved_us + LEASE_US,
            states={_state(self._session): encode(list(self._place))},
        )

    def save_what_came(self) -> None:
        """Save on the way out of a failure, which is the one to be told."""
        with suppress(GsyncError):
            self.save()

    def end(self) -> None:
        """Forget the transfer: it is complete, or is to begin anew."""
        self._new, self._new_bytes = [], 0
        end_transfer(self._store, self._session)


def end_transfer(store: JournalStore, session: str) -> None:
    """Forget which frames of `session` have come, and let go of what it pinned."""
    store.end_session(session)
    store.drop_lease(session)
    if store.get_state(_state(session)) is not None:
        store.set_states({_state(session): None})


def _state(session: str) -> str:
    return f"transfer {session}"
