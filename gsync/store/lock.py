"""One writer at a time: a lock file held for the length of a transaction (05-store, section 6)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gsync.errors import Unavailable
from gsync.oserrors import from_os_error

WAIT_S = 30.0
"""How long a writer waits for another one; a batch takes well under a second."""

_POLL_MAX_S = 0.1
_HOLDER_BYTES_MAX = 200


class StoreBusy(Unavailable):
    """Another process went on writing for longer than we wait."""


class FileLock:
    """An advisory lock on a file of its own, free again when its holder dies.

    Two of them on one path exclude each other within a process as well. The file is never
    removed: removing it would let two holders lock two files of one name.
    """

    def __init__(self, path: Path, *, wait_s: float = WAIT_S) -> None:
        self.path = path
        self._wait_s = wait_s
        self._file: int | None = None

    @contextmanager
    def held(self, purpose: str) -> Iterator[None]:
        """Hold the lock for the block.

        Raises:
            StoreBusy: somebody else held it all the time; the message says who and what for.
        """
        file = self._open()
        self._acquire(file)
        try:
            # Who holds it is said for others' messages alone: a full disk does not stop the
            # holder here, or closing a store would hide why it is closed.
            with suppress(OSError):
                os.ftruncate(file, 0)
                os.pwrite(file, f"process {os.getpid()}: {purpose}".encode(), 0)
            yield
        finally:
            _unlock(file)

    def close(self) -> None:
        """Give the file back."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> int:
        if self._file is None:
            try:
                self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise from_os_error(error) from error
        return self._file

    def _acquire(self, file: int) -> None:
        deadline, pause_s = time.monotonic() + self._wait_s, 0.001
        while not _try_lock(file):
            if time.monotonic() >= deadline:
                holder = os.pread(file, _HOLDER_BYTES_MAX, 0).decode(errors="replace")
                raise StoreBusy(
                    f"{self.path} is held by {holder or 'another process'}"
                    f" for more than {self._wait_s:g} s",
                    hint="wait for it to end, or end it, and try again",
                    holder=holder,
                )
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _POLL_MAX_S)


def _try_lock(file: int) -> bool:
    import fcntl  # not on Windows, where this module has to import

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _unlock(file: int) -> None:
    import fcntl

    fcntl.flock(file, fcntl.LOCK_UN)
