"""A remote behind HTTP (06-wire, section 1). Import it only when one is used: `requests` is slow.

One session keeps its connection. One loop tries again, and only what is Unavailable; one
function says what an exception of the libraries, and one what a status, means.
"""

from __future__ import annotations

import http.client
import ipaddress
import random
import secrets
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from functools import partial
from os.path import expanduser
from urllib.parse import urlsplit

import requests
import urllib3
from requests.auth import AuthBase

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
from gsync.remotes.base import MakeFrames, T, Traffic
from gsync.remotes.counting import CountingAdapter
from gsync.urls import HttpUrl, parse_url

CONTENT_TYPE = "application/x-gsync"
CONNECT_S = 10.0
STALL_S = 30.0
"""How long the other side may neither send nor take a byte before an attempt ends."""

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
        rand: Callable[[], float] = random.random,
    ) -> None:
        self._attempts = attempts
        self._trying = False
        where = parse_url(url, insecure_http=insecure_http)
        if not isinstance(where, HttpUrl):
            raise Invalid("not the URL of a server: expected http(s)://HOST[:PORT]/TENANT")
        self.traffic = Traffic()
        self.url = str(where)
        self._timeout = (connect_s, stall_s)
        self._sleep = sleep
        self._rand = rand
        self.run_id = run_id or secrets.token_hex(8)
        self._request_bytes = FIRST_REQUEST_BYTES
        self._request_bytes_max: int | None = None
        self._session = requests.Session()
        # A proxy for the outside world is not asked for a server on this machine.
        host = urlsplit(where.base).hostname or ""
        self._proxies = {"no_proxy": host} if is_loopback(host) else {}
        # Given with each request: the session's own setting would yield to REQUESTS_CA_BUNDLE.
        self._verify = expanduser(ca_file) if ca_file is not None else None
        self._session.headers.clear()
        self._session.headers["User-Agent"] = f"gsync/{__version__}"
        self._session.headers[RUN_HEADER] = self.run_id
        # An auth of our own: without one, requests would look into ~/.netrc.
        self._session.auth = Bearer(token)
        self._session.mount("http://", CountingAdapter(self.traffic))
        self._session.mount("https://", CountingAdapter(self.traffic))

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
            batch = _fitting(waiting, self._request_bytes)
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
        self._session.close()

    def _ask(self, name: str, message: bytes) -> bytes:
        self.traffic.count_request()
        return self.retry(lambda: self._read(name, message))

    def _read(self, name: str, body: bytes | Iterator[bytes]) -> bytes:
        with self._translated():
            response = self._post(name, body)
            try:
                return _read_all(response, ANSWER_BYTES_MAX)
            finally:
                response.close()

    def _stream(self, name: str, message: bytes) -> Iterator[Frame]:
        self.traffic.count_request()

        def start() -> requests.Response:
            with self._translated():
                return self._post(name, message)

        return self._read_stream(self.retry(start))

    def _read_stream(self, response: requests.Response) -> Iterator[Frame]:
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

    def _chunks(self, response: requests.Response) -> Iterator[bytes]:
        with self._translated():
            yield from response.raw.stream(_CHUNK_BYTES, decode_content=False)

    def _post(self, name: str, body: bytes | Iterator[bytes]) -> requests.Response:
        """Return the answer once its head is there, or raise what it says went wrong."""
        response = self._session.post(
            f"{self.url}/v1/{name}",
            data=body,
            headers={"Content-Type": CONTENT_TYPE},
            timeout=self._timeout,
            proxies=self._proxies,
            verify=self._verify,
            stream=True,
            allow_redirects=False,
        )
        try:
            _check_answer(response, self.url)
        except GsyncError as error:
            response.close()
            raise self._named(error) from None
        except BaseException:
            response.close()
            raise
        return response

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except GsyncError:
            raise
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            explained = explain(error, self.url)
            never_there = isinstance(explained, NotConnected)
            raise (explained if never_there else self._named(explained)) from error
        except OSError as error:
            if error.errno is not None:
                raise
            raise Invalid(  # the only one that requests raises as it is
                f"no certificates to trust for {self.url}: {error}",
                hint="check the remote's ca_file, or REQUESTS_CA_BUNDLE",
            ) from error


class Bearer(AuthBase):
    """A token in the Authorization header of every request, or nothing for None."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def is_loopback(host: str) -> bool:
    """Return whether `host` is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


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


def _fitting(frames: Sequence[Frame], bytes_max: int) -> list[Frame]:
    """Return the first frames, at least one, that have at most `bytes_max` together."""
    batch: list[Frame] = []
    size = 0
    for frame in frames:
        size += _wire_bytes(frame)
        if batch and size > bytes_max:
            break
        batch.append(frame)
    return batch


def _read_all(response: requests.Response, bytes_max: int) -> bytes:
    pieces, size = [], 0
    for piece in response.raw.stream(_CHUNK_BYTES, decode_content=False):
        size += len(piece)
        if size > bytes_max:
            raise TooLarge(f"the server's answer has more than {bytes_max} bytes")
        pieces.append(piece)
    return b"".join(pieces)


def _check_answer(response: requests.Response, url: str) -> None:
    """Raise unless a gsync server has answered with success."""
    status, is_ours = response.status_code, _is_ours(response)
    if status == 200 and is_ours and _has_length(response):
        return
    if 300 <= status < 400:
        location = response.headers.get("Location", "nowhere")[:200]
        raise Invalid(
            f"{url} redirects to {location!r}, which is not followed",
            hint="use the address that the server itself has",
        )
    body = _read_some(response, _ERROR_BYTES_MAX)  # raises what is cut off, the head included
    if not body and not _has_length(response):
        raise Unavailable(f"{url} broke off in the middle of an answer")
    error = decode_error(body) if is_ours else None
    if error is None:
        error = _derived(response, url)
    if type(error) is Unavailable:
        wait_s = _retry_after_s(response)
        if wait_s is not None:
            raise ServerBusy(error.message, error.hint, wait_s)
    raise error


def _has_length(response: requests.Response) -> bool:
    """Whether the head says where the body ends; one that was cut off is taken for a whole one."""
    return bool(response.raw.chunked) or "Content-Length" in response.headers


def _read_some(response: requests.Response, bytes_max: int) -> bytes:
    body = b""
    for piece in response.raw.stream(_CHUNK_BYTES, decode_content=False):
        body += piece
        if len(body) > bytes_max:
            break
    return body[:bytes_max]


def _is_ours(response: requests.Response) -> bool:
    found = response.headers.get("Content-Type", "")
    return found.partition(";")[0].strip().lower() == CONTENT_TYPE


def _derived(response: requests.Response, url: str) -> GsyncError:
    status = response.status_code
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


def _retry_after_s(response: requests.Response) -> float | None:
    """Return the seconds that the answer asks us to wait, or None."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


class NotConnected(Unavailable):
    """No connection came about: the other side knows nothing of the request."""


def explain(error: Exception, url: str) -> GsyncError:
    """Return what an exception of requests or urllib3 says, in our words."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Denied(
                f"the certificate of {url} is not trusted: {cause.verify_message}",
                hint="check the address; certificates of your own authority go into the remote's"
                " ca_file, or into REQUESTS_CA_BUNDLE",
            )
    for cause in causes:
        if isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS:
            return Invalid(
                f"{url} does not speak TLS",
                hint="is it a server without a certificate? Then its address begins with http://",
            )
        if isinstance(cause, ssl.SSLError) and cause.reason in _NO_PEM:
            return Invalid(
                f"no certificates to trust for {url}: the file holds none",
                hint="check the remote's ca_file, or REQUESTS_CA_BUNDLE: PEM is expected",
            )
    if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidSchema):
        return Invalid(f"not the URL of a server: {url}")
    what = _TIMED_OUT if any(map(_is_timeout, causes)) else _innermost(causes)
    hint = "check the address and the network; what arrived is kept, so trying again goes on"
    if url.startswith("http:") and any(isinstance(c, http.client.BadStatusLine) for c in causes):
        hint = f"{TRY_HTTPS}. Else {hint}"  # it may have waited for a handshake
    never = any(isinstance(c, _NEVER_CONNECTED) for c in causes)
    return (NotConnected if never else Unavailable)(
        f"{url} cannot be reached or broke off: {what}", hint=hint
    )


TRY_HTTPS = "does the server speak TLS? Then its address begins with https://"
RAISE_LIMIT = "raise the proxy's limit: client_max_body_size in nginx, LimitRequestBody in Apache"

_NO_TLS = ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
_NO_PEM = ("NO_CERTIFICATE_OR_CRL_FOUND", "NO_START_LINE", "BAD_BASE64_DECODE")
_NEVER_CONNECTED = (
    urllib3.exceptions.NewConnectionError,
    urllib3.exceptions.ConnectTimeoutError,
    ssl.SSLError,
)
_TIMED_OUT = "no byte for too long"


def _is_timeout(error: BaseException) -> bool:
    if isinstance(error, urllib3.exceptions.NewConnectionError):
        return False  # a timeout by inheritance only
    return isinstance(error, TimeoutError | requests.Timeout | urllib3.exceptions.TimeoutError)


def _innermost(causes: list[BaseException]) -> str:
    for cause in reversed(causes):
        if (
            isinstance(cause, OSError)
            and cause.strerror
            and not isinstance(cause, requests.RequestException)
        ):
            return cause.strerror
    return type(causes[-1]).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and what it was made of, innermost last."""
    seen: set[int] = set()
    todo: list[BaseException | object] = [error]
    while todo:
        found = todo.pop(0)
        if not isinstance(found, BaseException) or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        todo += [*found.args, getattr(found, "reason", None), found.__cause__, found.__context__]
