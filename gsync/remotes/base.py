"""What a connection to another store promises, whatever carries it. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from gsync.objects.oid import Kind, ObjectId
from gsync.protocol.frames import Frame
from gsync.protocol.messages import Begin, Fetch, Hello, Taken, Welcome

T = TypeVar("T")

MakeFrames = Callable[[], Iterable[Frame]]
"""Starts a stream of frames; called again for each attempt."""


@dataclass(slots=True)
class Traffic:
    """What a connection has moved so far.

    Attributes:
        bytes_sent: As they left, headers included.
        bytes_received: As they came, headers included.
        round_trips: Requests that waited for the answer to another one (06-wire, section 3).
    """

    bytes_sent: int = 0
    bytes_received: int = 0
    round_trips: int = 0
    _streaming: bool = field(default=False, repr=False)

    def count_request(self) -> None:
        """Count a request with one message."""
        self.round_trips += 1
        self._streaming = False

    def count_part(self) -> None:
        """Count a stream of frames; parts of one push count once, since none waits."""
        if not self._streaming:
            self.round_trips += 1
        self._streaming = True


def fitting(items: Sequence[T], size: Callable[[T], int], bytes_max: int) -> list[T]:
    """Return the first items, at least one, that have at most `bytes_max` bytes together."""
    batch: list[T] = []
    total = 0
    for item in items:
        total += size(item)
        if batch and total > bytes_max:
            break
        batch.append(item)
    return batch


class Connection(Protocol):
    """A conversation with another store.

    Every method may raise any GsyncError of the other side. What is Unavailable has been
    tried again as often as it makes sense, but for the streams that `fetch` and `objects`
    return: whoever reads them has the state that a second attempt must start from.
    """

    traffic: Traffic

    def hello(self, hello: Hello) -> Welcome:
        """Return the other side's refs, limits, and its log after what we have seen."""
        ...

    def log(self, after: int) -> list[bytes]:
        """Return encoded log entries with a seq above `after`."""
        ...

    def fetch(self, fetch: Fetch) -> Iterator[Frame]:
        """Yield the stream that brings the wants, its end frame last."""
        ...

    def objects(self, wants: Sequence[tuple[Kind, ObjectId]]) -> Iterator[Frame]:
        """Yield packs with the objects asked for, the end frame last."""
        ...

    def begin(self, begin: Begin) -> set[bytes]:
        """Pin what a push builds on; return the names of its frames that arrived before."""
        ...

    def frames(self, session: bytes, make_frames: MakeFrames) -> Taken:
        """Send a stream of frames; return what the other side made of it."""
        ...

    def retry(self, attempt: Callable[[], T], progress: Callable[[], int] = ...) -> T:
        """Return what `attempt` returns, tried again while that makes sense.

        What it asks of this connection is then not tried again by itself.

        Args:
            progress: How far the attempts have come. When one got further than those before,
                attempts are counted anew.
        """
        ...

    def close(self) -> None:
        """End the conversation; nothing else may be called after it."""
        ...
