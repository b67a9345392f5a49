"""Where one chunk of a large content ends and the next begins (02-chunking, section 2).

The cut is part of the format: two peers that cut differently have different ids for the
same file. pyfastcdc does the work at 2 GB/s and is held to spec/vectors/chunking.json by
the tests. It is imported on first use: a command that meets no large file never pays for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from pyfastcdc import BinaryStreamReader, FastCDC, NormalizedChunking

CHUNK_BYTES_MIN = 8 * 1024
CHUNK_BYTES_AVERAGE = 32 * 1024
CHUNK_BYTES_MAX = 128 * 1024
NORMALIZATION: NormalizedChunking = 1

# At most this many bytes are one blob: what fits in one chunk gains little by being cut.
# More can not be a single chunk, so "one chunk" and "not cut" are the same thing.
CHUNKED_ABOVE_BYTES = CHUNK_BYTES_MAX


class Readable(Protocol):
    """What `read_chunks` reads from: an open binary file, or anything with `readinto`."""

    def readinto(self, target: memoryview, /) -> int:
        """Fill a beginning of `target` and return its size: 0 at the end, and only there."""
        ...


def cut(data: bytes | bytearray | memoryview) -> list[int]:
    """Return where each chunk of the content `data` ends, in order; the last is its length.

    Content of at most CHUNKED_ABOVE_BYTES is one chunk, a longer one at least two. Empty
    content has none.
    """
    view = memoryview(data).cast("B")
    if len(view) <= CHUNKED_ABOVE_BYTES:
        return [len(view)] if len(view) else []
    return [chunk.offset + chunk.length for chunk in _cutter().cut_buf(view)]


def split_buffers(buffers: Iterable[bytes | bytearray | memoryview]) -> Iterator[bytes]:
    """Yield the chunks of the content that `buffers` make up, in order.

    How the content is spread over buffers changes nothing, and empty ones are allowed.
    A buffer is used up before the next is asked for, so one may be filled again and again.
    Memory and chunks are those of `read_chunks`.
    """
    return read_chunks(_Buffers(buffers))


def read_chunks(stream: Readable) -> Iterator[bytes]:
    """Yield the chunks of the content of `stream`, in order.

    They are the ones `cut` finds. Content of one chunk is a blob of its own and needs no
    chunk list; content of none is empty. About 0.6 MiB are held, whatever the length.

    Raises:
        Whatever `stream` raises, at the chunk for which it was read.
    """
    head = _read_up_to(stream, CHUNKED_ABOVE_BYTES + 1)
    if len(head) <= CHUNKED_ABOVE_BYTES:
        if head:
            yield head
        return
    for chunk in _cutter().cut_stream(cast("BinaryStreamReader", _Resumed(head, stream))):
        yield bytes(chunk.data)  # a copy: pyfastcdc's view lives only until the next chunk


def _cutter() -> FastCDC:
    from pyfastcdc import FastCDC

    return FastCDC(
        CHUNK_BYTES_AVERAGE,
        min_size=CHUNK_BYTES_MIN,
        max_size=CHUNK_BYTES_MAX,
        normalized_chunking=NORMALIZATION,
    )


def _read_up_to(stream: Readable, size_bytes: int) -> bytes:
    buffer = bytearray(size_bytes)
    view = memoryview(buffer)
    filled = 0
    while filled < size_bytes and (got := stream.readinto(view[filled:])):
        filled += got
    return bytes(view[:filled])


class _Buffers:
    """Buffers of any sizes as one Readable."""

    def __init__(self, buffers: Iterable[bytes | bytearray | memoryview]) -> None:
        self._buffers = iter(buffers)
        self._rest = memoryview(b"")

    def readinto(self, target: memoryview, /) -> int:
        while not self._rest:
            buffer = next(self._buffers, None)
            if buffer is None:
                return 0
            self._rest = memoryview(buffer).cast("B")
        return self._take(target)

    def _take(self, target: memoryview) -> int:
        size = min(len(target), len(self._rest))
        target[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


class _Resumed(_Buffers):
    """A stream from which `head` was read already, as if it had not been."""

    def __init__(self, head: bytes, stream: Readable) -> None:
        super().__init__([head])
        self._stream = stream

    def readinto(self, target: memoryview, /) -> int:
        return super().readinto(target) or self._stream.readinto(target)
