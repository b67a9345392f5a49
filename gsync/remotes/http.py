"""A remote behind HTTP (06-wire, section 1). Import it only when one is used.

One loop tries again, and only what is Unavailable; one function says what a status means.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from gsync import __version__
from gsync.errors import (
    Conflict,
    Corrupt,
    Denied,
    GsyncError,
    Invalid,
    NotFound,
    TooLarge,
    Unavailable,
)
from gsync.objects.oid import Kind, ObjectId
from gsync.protocol.frames import (
    FRAME_OVERHEAD_BYTES,
    Frame,
    FrameType,
    StreamBroken,
    encode_frame,
    read_frames,
)
from gsync.protocol.messages import (
    RUN_HEADER,
    Begin,
    Fetch,
    Hello,
    Taken,
    Welcome,
    decode_entries,
    decode_error,
    decode_held,
    decode_taken,
    decode_welcome,
    encode_begin,
    encode_fetch,
    encode_hello,
    encode_log,
    encode_wants,
)
from gsync.remotes.base import MakeFrames, T, Traffic, fitting
from gsync.remotes.connection import (
    CONNECT_S,
    STALL_S,
    TRY_HTTPS,
    Connection,
    NotConnected,
    Response,
    bearer,
)
from gsync.urls import HttpUrl, parse_url

CONTENT_TYPE = "application/x-gsync"
RAISE_LIMIT = "raise the proxy's limit: client_max_body_size in nginx, LimitRequestBody in Apache"

ATTEMPTS_MAX = 5
BACKOFF_S = 0.5
BACKOFF_MAX_S = 10.0
RETRY_AFTER_MAX_S = 120.0
"""A server that wants to be left alone for longer is not waited for."""

FIRST_REQUEST_BYTES = 1 << 20
"""What nginx lets through unless told otherwise; the next request may have twice as much."""

ANSWER_BYTES_MAX = 8 << 20
_ERROR_BYTES_MAX = 64 << 10
_CHUNK_BYTES = 128 << 10

STATUS: dict[int, type[GsyncError]] = {
    400: Invalid,
    401: Denied,
    403: Denied,
    404: NotFound,
    407: Denied,
    408: Unavailable,
    409: Conflict,
    413: TooLarge,
    422: Corrupt,
    425: Unavailable,
    429: Unavailable,
    500: Unavailable,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}
"""What a status means where no message says it: something between us and the server answered."""


class ServerBusy(Unavailable):
    """The server asks to come again later.

    Attributes:
        retry_after_s: After how many seconds.
    """

    def __init__(self, message: str, hint: str | None, retry_after_s: float) -> None:
        super().__init__(message, hint=hint, retry_after_s=retry_after_s)
        self.retry_after_s = retry_after_s


class RefusedOnTheWay(TooLarge):
    """Something between us and the server takes no requests of this size."""


def _random() -> float:
    from random import random  # what only a wait needs is not loaded by every command

    return random()


class HttpRemote:
    """A tenant of a server.

    Args:
        url: `http(s)://HOST[:PORT]/TENANT`.
        token: Sent as it is, in the Authorization header and nowhere else; None for none.
        insecure_http: Let a token go through plain http beyond loopback.
        ca_file: Certificates to trust instead of the usual ones, PEM.
        run_id: Names what this connection is used for in the server's log; made up unless given.
        stall_s: How long the other side may neither send nor take a byte.
        attempts: How often a request is tried.
        sleep, rand: The clock and the dice of the waits between attempts.

    Raises:
        Invalid: the URL is not one of a server, or would send the token unencrypted.
    """

    def __init__(
        self,
        url: str,
        token: str | None,
        *,
        insecure_http: bool = False,
        ca_file: str | None = None,
        run_id: str | None = None,
        connect_s: float = CONNECT_S,
        stall_s: float = STALL_S,
        attempts: int = ATTEMPTS_MAX,
        sleep: Callable[[float], None] = time.sleep,
        rand: Callable[[], float] = _random,
    ) -> None:
        self._attempts = attempts
        self._trying = False
        where = parse_url(url, insecure_http=insecure_http)
        if not isinstance(where, HttpUrl):
            raise Invalid("not the URL of a server: expected http(s)://HOST[:PORT]/TENANT")
        self.traffic = Traffic()
        self.url = str(where)
        self._sleep = sleep
        self._rand = rand
        self.run_id = run_id or os.urandom(8).hex()
        self._request_bytes = FIRST_REQUEST_BYTES
        self._request_bytes_max: int | None = None
        self._connection = Connection(
            self.url, self.traffic, connect_s=connect_s, stall_s=stall_s, ca_file=ca_file
        )
        self._headers = {
            "User-Agent": f"gsync/{__version__}",
            "Content-Type": CONTENT_TYPE,
            RUN_HEADER: self.run_id,
            **bearer(token),
        }

    def hello(self, hello: Hello) -> Welcome:
        """Return the other side's refs, limits, and its log after what we have seen."""
        return decode_welcome(self._ask("hello", encode_hello(hello)))

    def log(self, after: int) -> list[bytes]:
        """Return encoded log entries with a seq above `after`."""
        return decode_entries(self._ask("log", encode_log(after)))

    def fetch(self, fetch: Fetch) -> Iterator[Frame]:
        """Yield the stream that brings the wants, its end frame last."""
        return self._stream("fetch", encode_fetch(fetch))

    def objects(self, wants: Sequence[tuple[Kind, ObjectId]]) -> Iterator[Frame]:
        """Yield packs with the objects asked for, the end frame last."""
        return self._stream("objects", encode_wants(wants))

    def begin(self, begin: Begin) -> set[bytes]:
        """Pin what a push builds on; return the names of its frames that arrived before."""
        return decode_held(self._ask("begin", encode_begin(begin)))

    def frames(self, session: bytes, make_frames: MakeFrames) -> Taken:
        """Send a stream of frames; return what the server made of it.

        The frames are held in memory, and go in as many requests as it takes: a proxy in
        between may take small ones only (06-wire, rule 1.5).
        """
        self.traffic.count_part()
        waiting, count = list(make_frames()), 0
        while True:
            batch = fitting(waiting, _wire_bytes, self._request_bytes)
            send = partial(self._send, f"frames/{session.hex()}", batch)
            try:
                taken = self.retry(send)
            except RefusedOnTheWay:
                self._shrink(batch)
                continue
            count += taken.frames
            del waiting[: len(batch)]
            if not waiting:
                return Taken(count, taken.entries)
            self._request_bytes = min(
                2 * self._request_bytes, self._request_bytes_max or 2 * self._request_bytes
            )

    def _send(self, name: str, frames: Sequence[Frame]) -> Taken:
        return decode_taken(self._read(name, _join(frames)))

    def _shrink(self, refused: Sequence[Frame]) -> None:
        """Send half as much in a request from now on, or raise when one frame was too much."""
        if len(refused) <= 1:
            raise self._named(
                RefusedOnTheWay(
                    f"something in front of {self.url} refuses a request of"
                    f" {sum(map(_wire_bytes, refused))} bytes, which cannot be cut",
                    hint=RAISE_LIMIT,
                )
            )
        self._request_bytes = self._request_bytes_max = sum(map(_wire_bytes, refused)) // 2

    def _named(self, error: GsyncError) -> GsyncError:
        """Return `error` with what finds it in the server's log."""
        error.details.setdefault("run", self.run_id)
        return error

    def retry(self, attempt: Callable[[], T], progress: Callable[[], int] = int) -> T:
        """Return what `attempt` returns, or raise its error when more attempts are no use.

        Inside another attempt it is the outer one that is tried again.
        """
        if self._trying:
            return attempt()
        self._trying = True
        try:
            return self._retry(attempt, progress)
        finally:
            self._trying = False

    def _retry(self, attempt: Callable[[], T], progress: Callable[[], int]) -> T:
        failures, before = 0, progress()
        while True:
            try:
                return attempt()
            except Unavailable as error:
                now = progress()
                failures = 1 if now > before else failures + 1
                before = max(now, before)
                if failures >= self._attempts:
                    raise
                wait_s = self._rand() * min(BACKOFF_MAX_S, BACKOFF_S * 2**failures)
                if isinstance(error, ServerBusy):
                    if error.retry_after_s > RETRY_AFTER_MAX_S:
                        raise
                    wait_s += error.retry_after_s
                self._sleep(wait_s)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _ask(self, name: str, message: bytes) -> bytes:
        self.traffic.count_request()
        return self.retry(lambda: self._read(name, message))

    def _read(self, name: str, body: bytes | Iterator[bytes]) -> bytes:
        response = self._post(name, body)
        try:
            with self._naming():
                answer = response.read_up_to(ANSWER_BYTES_MAX)
        finally:
            response.close()
        if len(answer) > ANSWER_BYTES_MAX:
            raise TooLarge(f"the server's answer has more than {ANSWER_BYTES_MAX} bytes")
        return answer

    def _stream(self, name: str, message: bytes) -> Iterator[Frame]:
        self.traffic.count_request()
        return self._read_stream(self.retry(lambda: self._post(name, message)))

    def _read_stream(self, response: Response) -> Iterator[Frame]:
        """Yield the frames of an answer; the last only when the answer is known to end there.

        So the connection can be used again although no reader asks for more than the end.
        """
        frames = read_frames(self._chunks(response))
        try:
            for frame in frames:
                if frame.type in (FrameType.END, FrameType.ERROR):
                    for _ in frames:
                        raise StreamBroken("a frame after the end of a stream")
                if frame.type is FrameType.ERROR and (error := decode_error(frame.body)):
                    raise self._named(error)
                yield frame
        finally:
            response.close()

    def _chunks(self, response: Response) -> Iterator[bytes]:
        with self._naming():
            yield from response.stream()

    def _post(self, name: str, body: bytes | Iterator[bytes]) -> Response:
        """Return the answer once its head is there, or raise what it says went wrong."""
        with self._naming():
            response = self._connection.request("POST", f"/v1/{name}", self._headers, body)
            try:
                _check_answer(response, self.url)
            except BaseException:
                response.close()
                raise
        return response

    @contextmanager
    def _naming(self) -> Iterator[None]:
        try:
            yield
        except NotConnected:  # there is nothing to find
            raise
        except GsyncError as error:
            self._named(error)
            raise


def _join(frames: Iterable[Frame]) -> Iterator[bytes]:
    """Yield the encoded frames, small ones together."""
    pending = bytearray()
    for frame in frames:
        pending += encode_frame(frame)
        if len(pending) >= _CHUNK_BYTES:
            yield bytes(pending)
            pending.clear()
    if pending:
        yield bytes(pending)


def _wire_bytes(frame: Frame) -> int:
    return len(frame.body) + FRAME_OVERHEAD_BYTES


def _check_answer(response: Response, url: str) -> None:
    """Raise unless a gsync server has answered with success."""
    status, is_ours = response.status, _is_ours(response)
    if status == 200 and is_ours and response.has_length:
        return
    if 300 <= status < 400:
        location = response.headers.get("Location", "nowhere")[:200]
        raise Invalid(
            f"{url} redirects to {location!r}, which is not followed",
            hint="use the address that the server itself has",
        )
    body = response.read_up_to(_ERROR_BYTES_MAX)[
        :_ERROR_BYTES_MAX
    ]  # raises what is cut off, the head included
    if not body and not response.has_length:
        raise Unavailable(f"{url} broke off in the middle of an answer")
    error = decode_error(body) if is_ours else None
    if error is None:
        error = _derived(response, url)
    if type(error) is Unavailable:
        wait_s = retry_after_s(response)
        if wait_s is not None:
            raise ServerBusy(error.message, error.hint, wait_s)
    raise error


def _is_ours(response: Response) -> bool:
    found = response.headers.get("Content-Type", "")
    return found.partition(";")[0].strip().lower() == CONTENT_TYPE


def _derived(response: Response, url: str) -> GsyncError:
    status = response.status
    if status == 200 and "Content-Type" not in response.headers:
        return Unavailable(f"{url} broke off in the middle of an answer")
    if status == 413:
        return RefusedOnTheWay(
            f"something in front of {url} refuses a request of this size (413)", hint=RAISE_LIMIT
        )
    kind = STATUS.get(status, Unavailable if status >= 500 else Invalid)
    what = response.headers.get("Content-Type", "nothing").partition(";")[0][:80]
    if what == CONTENT_TYPE:
        return kind(f"{url} answered {status} with an error that cannot be read")
    return kind(
        f"{url} answered {status} with {what}, where {CONTENT_TYPE} is expected",
        hint="is this a gsync server? A proxy or a login page may have answered for it"
        + (f"; {TRY_HTTPS}" if status == 400 and url.startswith("http:") else ""),
    )


def retry_after_s(response: Response) -> float | None:
    """Return the seconds that the answer asks us to wait, or None."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
