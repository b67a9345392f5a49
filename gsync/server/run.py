"""The server as a process: listens, says where, serves until it is told to stop."""

from __future__ import annotations

import asyncio
import ctypes
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gsync.errors import GsyncError, Invalid, Unavailable
from gsync.protocol.messages import Limits
from gsync.server import log
from gsync.server.app import Service, make_app
from gsync.server.attached import attach
from gsync.server.auth import Accounts
from gsync.server.metrics import Observe
from gsync.server.oauth import TokenExchange
from gsync.server.olderroutes import OlderService
from gsync.server.streams import STALL_S
from gsync.server.tenants import Tenants

HOST = "127.0.0.1"
PORT = 8420
KEEP_ALIVE_S = 75
STOP_S = 10
"""How long requests that run when the server is told to stop may take to finish."""

HEAD_BYTES_MAX = 64 << 10
"""Line and headers of a request, of which a client of ours sends some 300 bytes."""

_BACKLOG = 1024

_M_ARENA_MAX = -8  # malloc.h of glibc
_HEAPS = 2


def serve(
    data: Path,
    *,
    host: str = HOST,
    port: int = PORT,
    log_format: str = "text",
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    limits: Limits | None = None,
    attached: Sequence[tuple[str, Path]] = (),
    metrics_at: tuple[str, int] | None = None,
    without_client_id: bool = False,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve the tenants of a data directory until SIGTERM or SIGINT.

    SIGHUP loads the certificate and its key again, for connections made from then on.

    Args:
        data: The directory, made if absent.
        port: 0 takes a free one.
        log_format: How requests are logged to stderr: `text` or `json`.
        attached: Tenants with a live folder, and these folders.
        metrics_at: Host and port at which Prometheus gets figures; nowhere if None.
        without_client_id: Whether clients that exchange a token need not say who they are.
        ready: Told `listening on URL` when connections are taken; by default it is printed.

    Raises:
        Unavailable: the address is in use, or a folder is attached elsewhere.
        Invalid: there is no such address, or the certificate cannot be used.
        GsyncError: a folder cannot be attached; see `attached.attach`.
    """
    if (tls_cert is None) != (tls_key is None):
        raise Invalid("a certificate and its key go together", hint="give --tls-cert and --tls-key")
    log.set_format(log_format)
    _share_heaps()
    with (
        attach(attached, data) as folders,
        Accounts(data, _now_us) as accounts,
        _metrics(metrics_at) as observe,
    ):
        tenants = Tenants(data, folders)
        exchange = TokenExchange(accounts, _now_us, without_client_id=without_client_id)
        older = OlderService(exchange, tenants, _now_us)
        _take_in_first(tenants)
        listener = _listen(host, port)
        try:
            config = uvicorn.Config(
                make_app(Service(accounts, tenants, _now_us, limits), observe, older.routes()),
                http=_Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                log_level="critical",  # what happens to requests is in our own log
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=STOP_S,
                ssl_certfile=tls_cert,
                ssl_keyfile=tls_key,
            )
            _load(config)
            url = _url("https" if tls_cert else "http", listener)
            _run(_Server(config, lambda: (ready or _print)(f"listening on {url}")), listener)
        finally:
            listener.close()
            tenants.close()


@contextmanager
def _metrics(where: tuple[str, int] | None) -> Iterator[Observe | None]:
    if where is None:
        yield None
        return
    from gsync.server.metrics import metrics

    with metrics(*where) as (observe, url):
        log.log_metrics(url)
        yield observe


def _share_heaps() -> None:
    """Let all threads allocate from two heaps.

    glibc gives each thread of a busy process a heap of its own, up to eight for a core, and what
    a thread has freed stays in its heap: under fifty clients these were most of the memory.
    Without effect where the C library is another.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _HEAPS)


def _take_in_first(tenants: Tenants) -> None:
    """Finish what a crash left and scan once, so that no request waits for the first scan.

    A folder that cannot be taken in now does not keep other tenants from being served.
    """
    for tenant, folder in tenants.attached.items():
        try:
            folder.take_in_now(partial(tenants.store, tenant))
        except GsyncError as error:
            log.log_attached(tenant, f"cannot be taken in: {error.message}")


class _Server(uvicorn.Server):
    """Says when it is ready, and loads its certificate again when it is told to."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _reload, self.config)
        await super().startup(sockets)
        if self.started:
            self._ready()


class _Protocol(HttpToolsProtocol):
    """Drops a client that does not finish the head of a request, which uvicorn waits for.

    Nor may a head be longer than its limit: uvicorn would keep all of it, and the headers that
    can follow a body in chunks, too, which are dropped here.
    Hands the transport to the application, so that it can drop one that takes no answer.
    """

    _head_deadline: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _in_body = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_arrived()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_deadline is not None and self._head_bytes > HEAD_BYTES_MAX:
            self.transport.abort()
        cycle: object = self.cycle
        idle = cycle is None or self.cycle.response_complete
        if idle and self._head_deadline is None and not self.transport.is_closing():
            self._expect_head()

    def on_message_begin(self) -> None:
        self._in_body = False
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_body = True
        self._head_arrived()
        self.scope["state"]["transport"] = self.transport
        super().on_headers_complete()

    def _expect_head(self) -> None:
        self._head_bytes = 0
        self._head_deadline = self.loop.call_later(STALL_S, self.transport.abort)

    def _head_arrived(self) -> None:
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None


def _run(server: uvicorn.Server, listener: socket.socket) -> None:
    """Run until a signal; uvicorn raises it again after a graceful stop, which ends here."""
    before: dict[signal.Signals, Any] = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.signal(number, lambda *_: None)
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server((str(address[0]), port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        text = error.strerror if isinstance(error, OSError) else str(error)
        kind = Invalid if isinstance(error, socket.gaierror | OverflowError) else Unavailable
        raise kind(
            f"cannot listen on {host}:{port}: {text}", hint="choose another --host or --port"
        ) from error


def _load(config: uvicorn.Config) -> None:
    """Load the certificate now, so that a bad one is an error and not a traceback."""
    try:
        config.load()
    except OSError as error:
        raise Invalid(f"cannot use the certificate or its key: {error}") from error


def _reload(config: uvicorn.Config) -> None:
    """Take a new certificate into use; one that does not fit its key leaves the old in use."""
    if config.ssl is None:
        log.log_reload("nothing to load: there is no certificate")
        return
    assert config.ssl_certfile is not None
    try:
        # Tried on a context of its own: a half loaded one would refuse everybody.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            config.ssl_certfile, config.ssl_keyfile
        )
        config.ssl.load_cert_chain(config.ssl_certfile, config.ssl_keyfile)
    except OSError as error:
        log.log_reload(f"the old certificate stays in use; the new one cannot be loaded: {error}")
    else:
        log.log_reload("the certificate was loaded again")


def _url(scheme: str, listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _now_us() -> int:
    return time.time_ns() // 1000
