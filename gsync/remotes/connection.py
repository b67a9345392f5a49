"""One connection to a server, kept while it lasts, over a socket that counts its bytes.

Bytes are counted where they enter and leave the operating system, so that headers, failed
attempts and the ends of chunks are in. With TLS it is the plaintext: the records that carry it
add about 30 bytes for each 16 KiB, and the handshake some thousand.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import select
import socket
import ssl
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os.path import expanduser
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from gsync import telemetry
from gsync.errors import Denied, GsyncError, Invalid, Unavailable
from gsync.remotes.base import Traffic

CONNECT_S = 10.0
STALL_S = 30.0
"""How long the other side may neither send nor take a byte before an attempt ends."""

READ_BYTES = 128 << 10
SEND_BYTES = 64 << 10
"""A socket's timeout counts for a whole `sendall`; in pieces, it counts for progress."""

TRY_HTTPS = "does the server speak TLS? Then its address begins with https://"
CHECK_CA = "the remote's ca_file, or SSL_CERT_FILE"

_PATH_SAFE = "!$%&'()*+,/:;=@~?"
_NO_TLS = ("WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
_NO_PEM = ("NO_CERTIFICATE_OR_CRL_FOUND", "NO_START_LINE", "BAD_BASE64_DECODE")


class NotConnected(Unavailable):
    """No connection came about: the other side knows nothing of the request."""


class Connection:
    """Sends one request at a time to a server, over HTTP/1.1, and follows no redirect.

    A proxy that the environment names for the outside world (`https_proxy`, `no_proxy` and the
    like) is asked for any server but one on this machine.

    Args:
        base: `http(s)://HOST[:PORT]`; a path in it begins the path of every request.
        traffic: Where bytes are counted.
        ca_file: Certificates to trust instead of the system's, PEM.

    Raises:
        Invalid: the environment names a proxy that is not spoken to.
    """

    def __init__(
        self,
        base: str,
        traffic: Traffic,
        *,
        connect_s: float = CONNECT_S,
        stall_s: float = STALL_S,
        ca_file: str | None = None,
    ) -> None:
        self._base = base
        self._parts = urlsplit(base)
        self._host = self._parts.hostname or ""
        self._traffic = traffic
        self._connect_s = connect_s
        self._stall_s = stall_s
        self._ca_file = expanduser(ca_file) if ca_file is not None else None
        self._proxy = _find_proxy(self._parts.scheme, self._parts.hostname or "")
        self._http: http.client.HTTPConnection | None = None

    def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | Iterator[bytes] | None = None,
    ) -> Response:
        """Return the answer once its head is there. It must be closed before the next request.

        A body whose length `headers` do not say goes in chunks. What it raises passes through.

        Raises:
            NotConnected: no connection came about.
            Unavailable: it broke off, or nothing was sent or taken for too long.
            Denied: the server's certificate is not trusted.
            Invalid: the other side does not speak as the URL says.
        """
        headers = dict(headers)
        with telemetry.span(method, client=True, url_path=path, server_address=self._host) as span:
            telemetry.carry(headers)
            response = self._request(method, path, headers, body)
            if span is not None:
                span.set_attribute("http.response.status_code", response.status)
            return response

    def _request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | Iterator[bytes] | None,
    ) -> Response:
        kept = self._open()
        try:
            with _explained(self._base):
                kept.putrequest(method, self._target(path), skip_accept_encoding=True)
                for name, value in self._all_headers(headers, body):
                    kept.putheader(name, value)
            whole = self._send(kept, body, chunked="Content-Length" not in headers)
            with _explained(self._base):
                return Response(self, self._base, kept.getresponse(), reusable=whole)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection; the next request opens another one."""
        if self._http is not None:
            self._http.close()
            self._http = None

    def _open(self) -> http.client.HTTPConnection:
        if self._http is not None and _has_ended(self._http.sock):
            self.close()
        if self._http is None:
            made = self._make()
            try:
                with _explained(self._base, connecting=True):
                    made.connect()
            except BaseException:
                made.close()
                raise
            made.sock.settimeout(self._stall_s)
            self._http = made
        return self._http

    def _make(self) -> http.client.HTTPConnection:
        host, port, scheme = self._parts.hostname or "", self._parts.port, self._parts.scheme
        to = (host, port) if self._proxy is None else (self._proxy.host, self._proxy.port)
        made: http.client.HTTPConnection
        if scheme == "https":
            context = _context(self._traffic, self._ca_file, self._base)
            made = http.client.HTTPSConnection(*to, timeout=self._connect_s, context=context)
            if self._proxy is not None:
                made.set_tunnel(host, port or 443, headers=self._proxy.headers)
        else:
            made = http.client.HTTPConnection(*to, timeout=self._connect_s)

        def connect(*args: Any) -> socket.socket:
            return _counting(socket.create_connection(*args), self._traffic)

        made._create_connection = connect  # type: ignore[attr-defined]
        return made

    def _target(self, path: str) -> str:
        target = quote(self._parts.path.rstrip("/") + path, safe=_PATH_SAFE)
        if self._proxy is not None and self._parts.scheme == "http":
            return f"http://{self._parts.netloc}{target}"
        return target

    def _all_headers(
        self, headers: Mapping[str, str], body: bytes | Iterator[bytes] | None
    ) -> Iterator[tuple[str, str]]:
        yield from headers.items()
        if self._proxy is not None and self._parts.scheme == "http":
            yield from self._proxy.headers.items()
        if isinstance(body, bytes):
            yield "Content-Length", str(len(body))
        elif body is not None and "Content-Length" not in headers:
            yield "Transfer-Encoding", "chunked"

    def _send(
        self,
        kept: http.client.HTTPConnection,
        body: bytes | Iterator[bytes] | None,
        *,
        chunked: bool,
    ) -> bool:
        """Send what `putheader` has collected, and the body; return whether all was taken.

        A server that does not want a body may answer and close before it has taken all of it.
        """
        if body is None or isinstance(body, bytes):
            return self._is_taken(kept.endheaders, body)
        if not self._is_taken(kept.endheaders):
            return False
        for piece in body:
            framed = b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
            if piece and not self._is_taken(kept.send, framed):
                return False
        return not chunked or self._is_taken(kept.send, b"0\r\n\r\n")

    def _is_taken(self, send: Callable[..., None], *data: bytes | None) -> bool:
        with _explained(self._base):
            try:
                send(*data)
            except (BrokenPipeError, ConnectionResetError):
                return False
        return True


class Response:
    """An answer: its head, and its body as it comes.

    Attributes:
        status: The HTTP status.
        headers: By name, in any case.
        has_length: Whether the head says where the body ends; one that was cut off is else taken
            for a whole one.
    """

    def __init__(
        self, connection: Connection, url: str, raw: http.client.HTTPResponse, *, reusable: bool
    ) -> None:
        self._connection = connection
        self._url = url
        self._raw = raw
        self._reusable = reusable
        self._ended = False
        self.status = raw.status
        self.headers = raw.headers
        self.has_length = bool(raw.chunked) or raw.length is not None

    def stream(self) -> Iterator[bytes]:
        """Yield the body in pieces, as they arrive, of READ_BYTES at most.

        Raises:
            Unavailable: it broke off, or nothing came for too long.
        """
        while not self._ended and self._raw.length != 0:
            with _explained(self._url):
                piece = self._raw.read1(READ_BYTES)
                if not piece and self._raw.length:
                    raise http.client.IncompleteRead(b"", self._raw.length)
            if not piece:
                break
            yield piece
        self._ended = True

    def read_up_to(self, bytes_max: int) -> bytes:
        """Return the body; of one that is longer, more than `bytes_max` bytes of it."""
        pieces, size = [], 0
        for piece in self.stream():
            pieces.append(piece)
            size += len(piece)
            if size > bytes_max:
                break
        return b"".join(pieces)

    def close(self) -> None:
        """Let the next request have the connection, or close it if not all was read."""
        keep = self._reusable and (self._ended or self._raw.length == 0)
        if not keep or self._raw.will_close:
            self._connection.close()
        self._raw.close()


def is_loopback(host: str) -> bool:
    """Return whether `host` is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bearer(token: str | None) -> dict[str, str]:
    """Return the header that carries a token; none for None.

    Raises:
        Denied: it can be no token.
    """
    if token is None:
        return {}
    if not token.isascii() or not token.isprintable():
        raise Denied("the token holds characters that no token has", hint="gsync login again")
    return {"Authorization": f"Bearer {token}"}


def explain(
    error: OSError | http.client.HTTPException, url: str, *, connecting: bool
) -> GsyncError:
    """Return what went wrong with a connection, in our words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Denied(
            f"the certificate of {url} is not trusted: {error.verify_message}",
            hint=f"check the address; certificates of your own authority go into {CHECK_CA}",
        )
    if isinstance(error, ssl.SSLError) and error.reason in _NO_TLS:
        return Invalid(
            f"{url} does not speak TLS",
            hint="is it a server without a certificate? Then its address begins with http://",
        )
    if isinstance(error, ssl.SSLError) and error.reason in _NO_PEM:
        return Invalid(
            f"no certificates to trust for {url}: the file holds none",
            hint=f"check {CHECK_CA}: PEM is expected",
        )
    if isinstance(error, http.client.InvalidURL):
        return Invalid(f"not the URL of a server: {url}")
    hint = "check the address and the network; what arrived is kept, so trying again goes on"
    if url.startswith("http:") and isinstance(error, http.client.BadStatusLine):
        hint = f"{TRY_HTTPS}. Else {hint}"  # it may have waited for a handshake
    kind = NotConnected if connecting else Unavailable
    return kind(f"{url} cannot be reached or broke off: {_what(error)}", hint=hint)


def _what(error: OSError | http.client.HTTPException) -> str:
    if isinstance(error, TimeoutError):
        return "no byte for too long"
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return type(error).__name__


@contextmanager
def _explained(url: str, *, connecting: bool = False) -> Iterator[None]:
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        raise explain(error, url, connecting=connecting) from error


class _Proxy:
    def __init__(self, url: str) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme != "http" or not parts.hostname:
            raise Invalid(
                f"cannot use a proxy of the kind {parts.scheme}://; expected http://HOST:PORT",
                hint="set http_proxy or https_proxy, or no_proxy for this server",
            )
        self.host = parts.hostname
        self.port = parts.port or 80
        self.headers: dict[str, str] = {}
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self.headers["Proxy-Authorization"] = f"Basic {b64encode(user.encode()).decode()}"


def _find_proxy(scheme: str, host: str) -> _Proxy | None:
    if is_loopback(host) or not any(name.lower().endswith("_proxy") for name in os.environ):
        return None
    from urllib.request import getproxies_environment, proxy_bypass

    proxies = getproxies_environment()
    found = proxies.get(scheme) or proxies.get("all")
    if not found or proxy_bypass(host):
        return None
    return _Proxy(found)


def _has_ended(sock: socket.socket | None) -> bool:
    """Return whether a connection that waits for a request has been closed, or says something."""
    if sock is None:
        return True
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


class _CountingSocket(socket.socket):
    __slots__ = ("traffic",)
    traffic: Traffic

    def sendall(self, data: Any, flags: int = 0) -> None:
        view = memoryview(data).cast("B")
        while view:
            sent = self.send(view[:SEND_BYTES], flags)
            self.traffic.bytes_sent += sent
            view = view[sent:]

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        count = super().recv_into(*args, **kwargs)
        self.traffic.bytes_received += count
        return count


def _counting(plain: socket.socket, traffic: Traffic) -> socket.socket:
    timeout = plain.gettimeout()
    counting = _CountingSocket(plain.family, plain.type, plain.proto, plain.detach())
    counting.settimeout(timeout)
    counting.traffic = traffic
    return counting


def _context(traffic: Traffic, ca_file: str | None, url: str) -> ssl.SSLContext:
    class CountingTlsSocket(ssl.SSLSocket):
        def send(self, data: Any, flags: int = 0) -> int:
            count = super().send(data, flags)
            traffic.bytes_sent += count
            return count

        def recv_into(self, *args: Any, **kwargs: Any) -> int:
            count = super().recv_into(*args, **kwargs) or 0
            traffic.bytes_received += count
            return count

    try:
        context = ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError as error:
        raise explain(error, url, connecting=True) from error
    except OSError as error:
        raise Invalid(
            f"no certificates to trust for {url}: {ca_file}: {error.strerror or error}",
            hint=f"check {CHECK_CA}",
        ) from error
    context.sslsocket_class = CountingTlsSocket
    return context
