"""One command at a time in one repository, and who it is.

The lock is the operating system's (`flock`), so it ends with the process that holds it,
however that ends. The file says who holds it, for the message of whoever waits.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gsync.errors import Unavailable

WAIT_S = 10.0
_POLL_S = 0.05


class Locked(Unavailable):
    """Another command works in this repository."""

    def __init__(self, path: Path, holder: str) -> None:
        super().__init__(
            f"the repository is in use by {holder or 'another process'}: {path}",
            hint="wait until it is done, then try again",
            holder=holder,
        )


@contextmanager
def locked(path: Path, command: str, wait_s: float = WAIT_S) -> Iterator[None]:
    """Hold the repository's lock inside the block.

    Args:
        path: The lock file, made if absent.
        command: What others are told, e.g. `gsync snapshot`.
        wait_s: How long to wait for another holder.

    Raises:
        Locked: the other holder did not finish in time.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _acquire(descriptor, path, wait_s)
        with suppress(OSError):  # said for others' messages alone
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{command} (process {os.getpid()})".encode(), 0)
        try:
            yield
        finally:
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: Path, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace")
                raise Locked(path, holder) from None
            time.sleep(_POLL_S)
