"""A remote that is a path on this machine: the same conversation without a carrier."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from gsync.objects.oid import Kind, ObjectId
from gsync.protocol.frames import Frame
from gsync.protocol.messages import (
    Begin,
    Fetch,
    Hello,
    Taken,
    Welcome,
    encode_begin,
    encode_entries,
    encode_fetch,
    encode_held,
    encode_hello,
    encode_log,
    encode_taken,
    encode_wants,
    encode_welcome,
)
from gsync.remotes.base import MakeFrames, T, Traffic
from gsync.transfer.answer import Answerer

_FRAME_OVERHEAD_BYTES = 5  # the length and the type


class LocalRemote:
    """The store behind `answerer`, which the caller has opened, and closes.

    Bytes are those of messages and frames, as they would be without headers.

    Args:
        traffic: Of somebody whom the store stands for, and who counts it; then nothing is here.
    """

    def __init__(self, answerer: Answerer, traffic: Traffic | None = None) -> None:
        self.traffic = traffic or Traffic()
        self._answerer = answerer
        self._counted = Traffic() if traffic else self.traffic

    def hello(self, hello: Hello) -> Welcome:
        """Return the other side's refs, limits, and its log after what we have seen."""
        self._asked(encode_hello(hello))
        welcome = self._answerer.hello(hello)
        self._answered(encode_welcome(welcome))
        return welcome

    def log(self, after: int) -> list[bytes]:
        """Return encoded log entries with a seq above `after`."""
        self._asked(encode_log(after))
        entries = self._answerer.log(after)
        self._answered(encode_entries(entries))
        return entries

    def fetch(self, fetch: Fetch) -> Iterator[Frame]:
        """Yield the stream that brings the wants, its end frame last."""
        self._asked(encode_fetch(fetch))
        return self._received(self._answerer.fetch(fetch))

    def objects(self, wants: Sequence[tuple[Kind, ObjectId]]) -> Iterator[Frame]:
        """Yield packs with the objects asked for, the end frame last."""
        self._asked(encode_wants(wants))
        return self._received(self._answerer.objects(list(wants)))

    def begin(self, begin: Begin) -> set[bytes]:
        """Pin what a push builds on; return the names of its frames that arrived before."""
        self._asked(encode_begin(begin))
        held = self._answerer.begin(begin)
        self._answered(encode_held(sorted(held)))
        return held

    def frames(self, session: bytes, make_frames: MakeFrames) -> Taken:
        """Send a stream of frames; return what the other side made of it."""
        self._counted.count_part()
        taken = self._answerer.frames(session, self._sent(make_frames()))
        self._answered(encode_taken(taken))
        return taken

    def retry(self, attempt: Callable[[], T], progress: Callable[[], int] = int) -> T:
        """Return what `attempt` returns: nothing gets lost on the way."""
        return attempt()

    def close(self) -> None:
        """Nothing to do: the store is the caller's."""

    def _asked(self, message: bytes) -> None:
        self._counted.count_request()
        self._counted.bytes_sent += len(message)

    def _answered(self, message: bytes) -> None:
        self._counted.bytes_received += len(message)

    def _sent(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        for frame in frames:
            self._counted.bytes_sent += len(frame.body) + _FRAME_OVERHEAD_BYTES
            yield frame

    def _received(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        for frame in frames:
            self._counted.bytes_received += len(frame.body) + _FRAME_OVERHEAD_BYTES
            yield frame
