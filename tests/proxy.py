"""A TCP proxy on loopback that counts what passes, and cuts, delays or drops it on demand."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from typing import Self

_POLL_S = 0.1
_JOIN_S = 10.0
_BYTES = 64 << 10


class Proxy:
    """Hands connections on to a port of this machine.

    Attributes:
        sent: Bytes from clients so far.
        received: Bytes from the server so far.
        connections: How many clients have connected.
        delay_s: How long each piece is held back.
        drop: How many of the next connections are closed at once.
        cut_sent: Cut the connection, once, when so many bytes have come from clients.
        cut_received: The same for bytes from the server.
    """

    def __init__(self, port: int) -> None:
        self.sent = self.received = self.connections = 0
        self.delay_s = 0.0
        self.drop = 0
        self.cut_sent: int | None = None
        self.cut_received: int | None = None
        self._target = ("127.0.0.1", port)
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self._closing = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(_POLL_S)
        self.base = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._start(self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        for each in [self._listener, *self._sockets]:
            _close(each)
        for thread in list(self._threads):
            thread.join(_JOIN_S)
            assert not thread.is_alive()

    def reset(self) -> None:
        """Count from zero."""
        with self._lock:
            self.sent = self.received = self.connections = 0

    def _start(self, target, *args) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing:
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            self.connections += 1
            if self.drop > 0:
                self.drop -= 1
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                client.close()
                continue
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            for each in (client, server):
                each.settimeout(None)
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets += [client, server]
            self._start(self._pump, client, server, "sent")
            self._start(self._pump, server, client, "received")

    def _pump(self, source: socket.socket, target: socket.socket, name: str) -> None:
        try:
            while data := source.recv(_BYTES):
                if self.delay_s:
                    time.sleep(self.delay_s)
                if self._count(name, len(data)):
                    _close(source)
                    _close(target)
                    return
                target.sendall(data)
            with suppress(OSError):
                target.shutdown(socket.SHUT_WR)
        except OSError:
            _close(source)
            _close(target)

    def _count(self, name: str, size: int) -> bool:
        """Count what passes; return whether this is where to cut."""
        with self._lock:
            total = getattr(self, name) + size
            setattr(self, name, total)
            limit = getattr(self, f"cut_{name}")
            if limit is None or total < limit:
                return False
            setattr(self, f"cut_{name}", None)
            return True


def _close(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
