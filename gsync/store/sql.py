"""The little that the store asks of a SQLite library, filled by `sqlite3` and by apsw.

Both translate the library's exceptions here and nowhere else. Rows come as whole lists: a
reader pages by key instead of holding a cursor open, which would hold back checkpoints.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from gsync.errors import Corrupt, Denied, GsyncError, Unavailable
from gsync.oserrors import BAD_DISK, NO_ROOM

Row = tuple[Any, ...]

BUSY_MS = 30_000
"""How long to wait for a program that writes without our lock, like the sqlite3 shell."""


class StoreDamaged(Corrupt):
    """The database file itself is damaged, or is no database."""


class Connection(Protocol):
    """A connection in autocommit mode, usable from any thread, by one at a time."""

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run one statement and return all its rows."""
        ...

    def run_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> int:
        """Run one statement for each of `rows`; return how many rows of tables changed."""
        ...

    def close(self) -> None:
        """Close; the last connection to a file in WAL mode checkpoints it."""
        ...


Connect = Callable[[Path, bool], Connection]
"""Opens an existing file; True for reading only."""


def connect_sqlite3(path: Path, read_only: bool) -> Connection:
    """Return a connection through Python's own library."""
    try:
        db = sqlite3.connect(
            _uri(path, read_only),
            uri=True,
            timeout=BUSY_MS / 1000,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
    except sqlite3.Error as error:
        raise translated(error, path) from error
    return _Sqlite3(db, path)


def connect_apsw(path: Path, read_only: bool, *, vfs: str | None = None) -> Connection:
    """Return a connection through apsw, which brings a SQLite of its own.

    `vfs` names one of apsw's file systems, to be used instead of the operating system's.
    Two SQLite libraries in one process do not see each other's locks: a process that opens
    a file with this one must not open the same file with `connect_sqlite3`.
    """
    import apsw

    access = apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE
    try:
        db = apsw.Connection(_uri(path, read_only), flags=access | apsw.SQLITE_OPEN_URI, vfs=vfs)
    except apsw.Error as error:
        raise translated(error, path) from error
    db.set_busy_timeout(BUSY_MS)
    return _Apsw(db, path, apsw.Error)


def _uri(path: Path, read_only: bool) -> str:
    return f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rw'}"


class _Sqlite3:
    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db = db
        self._path = path

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        try:
            return self._db.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise translated(error, self._path) from error

    def run_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> int:
        before = self._db.total_changes
        try:
            self._db.executemany(sql, rows)
        except sqlite3.Error as error:
            raise translated(error, self._path) from error
        return self._db.total_changes - before

    def close(self) -> None:
        self._db.close()


class _Apsw:
    def __init__(self, db: Any, path: Path, error: type[Exception]) -> None:
        self._db = db
        self._path = path
        self._error = error

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        try:
            return list(self._db.execute(sql, parameters))
        except self._error as error:
            raise translated(error, self._path) from error

    def run_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> int:
        before: int = self._db.total_changes()
        try:
            self._db.executemany(sql, rows)
        except self._error as error:
            raise translated(error, self._path) from error
        after: int = self._db.total_changes()
        return after - before

    def close(self) -> None:
        self._db.close()


_NOT_OUR_FILE = ("no such table", "no such column", "unsupported file format")
"""What SQLite calls an error of the statement; ours are right for every file that is whole."""


def translated(error: Exception, path: Path) -> GsyncError:
    """Return what either library said of the file at `path` as one of the seven kinds."""
    code = getattr(error, "sqlite_errorcode", None) or getattr(error, "result", None) or 0
    if code & 0xFF == 1 and str(error).startswith(_NOT_OUR_FILE):
        code = 11
    match code & 0xFF:
        case 11 | 26:
            return StoreDamaged(
                f"{path} is damaged or no store: {error}",
                hint="keep the file as it is and restore the store from a remote or a copy",
            )
        case 8:
            return Denied(f"{path} cannot be written: {error}")
        case 10:
            return Unavailable(f"{path}: {error}", hint=BAD_DISK)
        case 13:
            return Unavailable(f"{path}: {error}", hint=NO_ROOM)
        case 14:
            hint = "check that its directory may be written, and the room on the disk"
            return Unavailable(f"{path}: {error}", hint=hint)
        case 5 | 6:
            return Unavailable(f"{path} is being written by a program without gsync's lock")
        case _:
            return Unavailable(f"{path}: {error}")
