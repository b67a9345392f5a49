"""Sockets that count what passes through them, for `requests`.

Bytes are counted where they enter and leave the operating system, so that headers, failed
attempts and the ends of chunks are in. With TLS it is the plaintext: the records that carry it
add about 30 bytes for each 16 KiB, and the handshake some thousand.
"""

from __future__ import annotations

import socket
import ssl
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util.retry import Retry
from urllib3.util.ssl_ import create_urllib3_context

from gsync.remotes.base import Traffic

SEND_BYTES = 64 << 10
"""A socket's timeout counts for a whole `sendall`; in pieces, it counts for progress."""


class CountingAdapter(HTTPAdapter):
    """Carries requests over sockets that count into `traffic`; tries nothing twice."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=Retry(0, read=False))

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pool of connections, of our own kind."""
        kwargs["ssl_context"] = _context(self._traffic)
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _pools(self._traffic)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        """Return the pool of connections through a proxy, of our own kind."""
        kwargs["ssl_context"] = _context(self._traffic)
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = _pools(self._traffic)
        return manager


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


def _pools(traffic: Traffic) -> dict[str, Any]:
    class Connection(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return _counting(super()._new_conn(), traffic)

    class Pool(HTTPConnectionPool):
        ConnectionCls = Connection

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = HTTPSConnection  # counted by the sockets of its context

    return {"http": Pool, "https": TlsPool}


def _counting(plain: socket.socket, traffic: Traffic) -> socket.socket:
    timeout = plain.gettimeout()
    counting = _CountingSocket(plain.family, plain.type, plain.proto, plain.detach())
    counting.settimeout(timeout)
    counting.traffic = traffic
    return counting


def _context(traffic: Traffic) -> ssl.SSLContext:
    class CountingTlsSocket(ssl.SSLSocket):
        def send(self, data: Any, flags: int = 0) -> int:
            count = super().send(data, flags)
            traffic.bytes_sent += count
            return count

        def recv_into(self, *args: Any, **kwargs: Any) -> int:
            count = super().recv_into(*args, **kwargs) or 0
            traffic.bytes_received += count
            return count

    context = create_urllib3_context()
    context.sslsocket_class = CountingTlsSocket
    return context
