"""A TCP proxy on loopback that counts what passes, and cuts, delays or drops it on demand."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
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
        cuts: How many were cut.
        delay_s: How long each piece is held back.
        drop: How many of the next connections are closed at once.
        cut_sent: Cut the connection, once, when so many bytes from clients have passed: exactly.
        cut_received: The same for bytes from the server.
        at_sent: What to do, once, when so many bytes have come from clients.
        more_cuts: Where the connections after the one that is cut are cut, rising.
    """

    def __init__(self, port: int) -> None:
        self.sent = self.received = self.connections = self.cuts = 0
        self.delay_s = 0.0
        self.drop = 0
        self.cut_sent: int | None = None
        self.cut_received: int | None = None
        self.more_cuts: list[int] = []
        self.at_sent: tuple[int, Callable[[], object]] | None = None
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
            self.sent = self.received = self.connections = self.cuts = 0

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
                if self.at_sent and self.sent >= self.at_sent[0]:
                    act, self.at_sent = self.at_sent[1], None
                    act()
                if self.delay_s:
                    time.sleep(self.delay_s)
                passing = self._count(name, len(data))
                if passing is not None:
                    target.sendall(data[:passing])
                    _close(source)
                    _close(target)
                    return
                target.sendall(data)
            with suppress(OSError):
                target.shutdown(socket.SHUT_WR)
        except OSError:
            _close(source)
            _close(target)

    def _count(self, name: str, size: int) -> int | None:
        """Count what passes; return None for all of it, or after how many bytes to cut."""
        with self._lock:
            before: int = getattr(self, name)
            limit: int | None = getattr(self, f"cut_{name}")
            if limit is None or before + size < limit:
                setattr(self, name, before + size)
                return None
            passing = max(0, limit - before)
            setattr(self, name, before + passing)
            setattr(self, f"cut_{name}", self.more_cuts.pop(0) if self.more_cuts else None)
            self.cuts += 1
            return passing


def _close(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
