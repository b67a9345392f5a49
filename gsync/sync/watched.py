"""What `gsync watch` knows of a folder, asked over a socket in the repository's own directory."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gsync.frozen import frozen
from gsync.objects.oid import ObjectId
from gsync.replicas.base import Notice
from gsync.sync.repository import WATCH_SOCKET as SOCKET

ASK_S = 2.0
_ANSWER_BYTES_MAX = 16 << 20


@frozen
class Watched:
    """A folder as a watcher last saw it, and nothing has happened since.

    Attributes:
        files: The file tree that it equals.
        notices: What the scan noticed.
    """

    files: ObjectId
    notices: tuple[Notice, ...]


@contextmanager
def _beside(workdir: Path) -> Iterator[str]:
    """Give a short name for the socket: its own may be longer than the system takes."""
    directory = os.open(workdir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{SOCKET}"
    finally:
        os.close(directory)


def ask(root: Path, workdir: Path) -> Watched | None:
    """Return what a watcher says of the folder now; None if none does, or it does not know.

    It says so only if it has read all events since its last scan and there was none, of
    this directory and no other that had its name before.
    """
    if not os.path.lexists(workdir / SOCKET):
        return None
    try:
        if os.stat(workdir / SOCKET).st_uid not in (os.getuid(), 0):
            return None
        data = b""
        with _beside(workdir) as name, socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ASK_S)
            connection.connect(name)
            while part := connection.recv(1 << 16):
                data += part
                if len(data) > _ANSWER_BYTES_MAX:
                    return None
        answer = json.loads(data)
        now = os.stat(root)
        if answer["root"] != [now.st_dev, now.st_ino] or answer["files"] is None:
            return None
        notices = (Notice(bytes.fromhex(key), code, text) for key, code, text in answer["notices"])
        return Watched(ObjectId(bytes.fromhex(answer["files"])), tuple(notices))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a watcher that has just ended, or one of another version


@contextmanager
def answering(workdir: Path) -> Iterator[socket.socket]:
    """Give a socket that questions come to, made anew; the caller is the only watcher."""
    with suppress(FileNotFoundError):
        os.unlink(workdir / SOCKET)
    with _beside(workdir) as name, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        os.chmod(workdir / SOCKET, 0o600)
        listener.listen(16)
        listener.setblocking(False)
        try:
            yield listener
        finally:
            with suppress(FileNotFoundError):
                os.unlink(workdir / SOCKET)


def answer(connection: socket.socket, root: Sequence[int], watched: Watched | None) -> None:
    """Answer a question; who does not listen gets none."""
    document: dict[str, Any] = {"root": list(root), "files": None, "notices": []}
    if watched is not None:
        document["files"] = watched.files.hex()
        document["notices"] = [[n.path.hex(), n.code, n.text] for n in watched.notices]
    with connection, suppress(OSError):
        connection.settimeout(ASK_S)
        connection.sendall(json.dumps(document).encode())
