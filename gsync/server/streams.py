"""Bodies between the event loop and worker threads, one bounded piece at a time.

Stores are used in threads; a thread asks the loop for the next piece of a request, or hands
it the next one of an answer, and waits. So memory is bounded by the pieces, a slow peer slows
only its own thread, and nothing below the server knows that there is a loop.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Iterator
from contextlib import asynccontextmanager

import anyio
import anyio.from_thread
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from gsync.errors import GsyncError, TooLarge, Unavailable
from gsync.protocol.frames import Frame, FrameType, encode_frame
from gsync.protocol.messages import encode_error
from gsync.server.log import Record, log_defect

CONTENT_TYPE = "application/x-gsync"
STALL_S = 30.0
"""How long a peer may neither send nor take a byte (06-wire, section 1)."""

TURN_S = 10.0
"""How long a request waits for an earlier one of the same push; less than a client waits."""

CHUNK_BYTES = 128 << 10
"""Frames are sent in pieces of about this size: few hops between threads, little memory."""

Work = Callable[[Callable[[Iterable[Frame]], None]], None]
"""Does the work of an answer in a thread, and hands its frames to what it is given."""


class ClientStalled(Unavailable):
    """The client brought no byte for too long."""

    def __init__(self) -> None:
        super().__init__(f"no byte from the client for {STALL_S:.0f} s")


class ClientGone(Unavailable):
    """The client closed the connection before its request was complete."""

    def __init__(self) -> None:
        super().__init__("the client closed the connection")


class Defect(Unavailable):
    """Something failed that should not have: the server's fault, and worth another try."""

    def __init__(self) -> None:
        super().__init__(
            "the server failed",
            hint="its log says why; report it if it happens again",
        )


class Body:
    """The body of a request, read in pieces up to a limit."""

    def __init__(self, request: Request, bytes_max: int, record: Record) -> None:
        self._receive = request.receive
        self._bytes_max = bytes_max
        self._record = record
        self._ended = False
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and len(announced) < 20:
            self._check(int(announced))

    async def read(self) -> bytes:
        """Return all of it."""
        pieces = []
        while piece := await self.next_piece():
            pieces.append(piece)
        return b"".join(pieces)

    async def next_piece(self) -> bytes:
        """Return what came since, or b"" at the end.

        Raises:
            TooLarge: there is more than the limit allows.
            ClientStalled, ClientGone: the rest does not come.
        """
        while not self._ended:
            message = await self._next_message()
            if message["type"] == "http.disconnect":
                raise ClientGone
            piece: bytes = message.get("body", b"")
            self._ended = not message.get("more_body", False)
            self._record.bytes_in += len(piece)
            self._check(self._record.bytes_in)
            if piece:
                return piece
        return b""

    def pieces_in_thread(self) -> Iterator[bytes]:
        """Yield the pieces; for worker threads only."""
        while piece := anyio.from_thread.run(self.next_piece):
            yield piece

    async def _next_message(self) -> Message:
        try:
            with anyio.fail_after(STALL_S):
                return await self._receive()
        except TimeoutError:
            raise ClientStalled from None

    def _check(self, size: int) -> None:
        if size > self._bytes_max:
            raise TooLarge(f"a request of more than {self._bytes_max} bytes")


class Turns:
    """One request at a time for each key.

    A client whose connection was cut is back before the server has taken all that came through
    it: what it is told then has to be the whole of that.
    """

    def __init__(self) -> None:
        self._locks: dict[Hashable, anyio.Lock] = {}

    @asynccontextmanager
    async def take(self, key: Hashable) -> AsyncIterator[None]:
        """Wait for the request before with that `key`, then hold the block alone.

        Raises:
            Unavailable: that one goes on, as when its client has gone without a word.
        """
        lock = self._locks.setdefault(key, anyio.Lock())
        try:
            with anyio.fail_after(TURN_S):
                await lock.acquire()
        except TimeoutError:
            raise Unavailable(
                "an earlier request of this push is still being taken", hint="try again"
            ) from None
        try:
            yield
        finally:
            lock.release()
            if not lock.locked() and not lock.statistics().tasks_waiting:
                self._locks.pop(key, None)


class FrameStream:
    """An answer of frames, made in a worker thread while it is sent.

    The status is sent with the first frame: what fails before it has a status of its own, what
    fails later travels as an error frame (06-wire, section 4).
    """

    def __init__(self, work: Work, limiter: anyio.CapacityLimiter) -> None:
        self._work = work
        self._limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        def send_piece(data: bytes, more: bool) -> None:
            nonlocal started
            if not started:
                started = True
                headers = [(b"content-type", CONTENT_TYPE.encode())]
                start = {"type": "http.response.start", "status": 200, "headers": headers}
                anyio.from_thread.run(_send_or_drop, scope, send, start)
            body = {"type": "http.response.body", "body": data, "more_body": more}
            anyio.from_thread.run(_send_or_drop, scope, send, body)

        def take(frames: Iterable[Frame]) -> None:
            for piece in join_frames(_guarded(frames)):
                send_piece(piece, True)

        def run() -> None:
            try:
                self._work(take)
                send_piece(b"", False)
            except ClientGone:
                record: Record = scope["gsync"]
                record.status = 499
            except GsyncError:
                raise
            except Exception as error:
                log_defect(error)
                raise Defect from error

        await anyio.to_thread.run_sync(run, limiter=self._limiter)


def join_frames(frames: Iterable[Frame], piece_bytes: int = CHUNK_BYTES) -> Iterator[bytes]:
    """Yield the encoded frames in pieces: small ones together, large ones cut."""
    pending = bytearray()
    for frame in frames:
        pending += encode_frame(frame)
        at = 0
        while len(pending) - at >= piece_bytes:
            yield bytes(pending[at : at + piece_bytes])
            at += piece_bytes
        del pending[:at]
    if pending:
        yield bytes(pending)


def _guarded(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Yield `frames`; what fails once some are on their way becomes the last one."""
    count = 0
    try:
        for frame in frames:
            yield frame
            count += 1
    except (ClientGone, GeneratorExit):
        raise
    except Exception as error:
        if not isinstance(error, GsyncError):
            log_defect(error)
            error = Defect()
        if not count:
            raise error from None
        yield Frame(FrameType.ERROR, encode_error(error))


async def _send_or_drop(scope: Scope, send: Send, message: Message) -> None:
    """Send a piece of an answer as soon as the client takes the ones before.

    Raises:
        ClientGone: it took no byte for too long, and was cut off.
    """
    transport = scope.get("state", {}).get("transport")
    while True:
        waiting = transport.get_write_buffer_size() if transport else 0
        with anyio.move_on_after(STALL_S):
            # Only waits, for room in the connection's buffer, before it writes: to be
            # cancelled means that nothing of it was sent.
            await send(message)
            if transport is not None and transport.is_closing() and message.get("more_body"):
                raise ClientGone
            return
        if transport is None or transport.get_write_buffer_size() >= waiting:
            if transport is not None:
                transport.abort()
            raise ClientGone
