"""The file of a store: opening it, its version, and transactions under the writer's lock."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from gsync import __version__
from gsync.errors import Denied, GsyncError, Invalid, NotFound
from gsync.objects.oid import ObjectId
from gsync.store.lock import FileLock
from gsync.store.sql import Connect, Connection, Row, StoreDamaged, connect_sqlite3

APPLICATION_ID = 0x6773796E
"""`gsyn` in ASCII, at byte 68 of the file, so that file(1) can tell a store."""

VERSION = 1

_PAGE_BYTES_MIN = 512  # of any SQLite database that has something in it
_CACHE_KIB = 65_536  # mapping the file into memory was measured and gains nothing
_WAL_PAGES_MAX = 2000  # of 16 KiB: a checkpoint about every other batch of packs


class StoreVersion(Invalid):
    """The file is no store, or one of a version that this gsync cannot use."""


class SqliteFile:
    """An open store file; what is common to everything that is kept in it."""

    _collections_seen: int | None = None
    """Collections before the first put since the last move of refs; None when nothing was put."""

    _found: set[ObjectId] | None = None
    """What was put and was here already, since a transfer began; None when none has."""

    _found_from: int | None = None
    """Collections before the first of it."""

    def __init__(self, path: Path, db: Connection, lock: FileLock, read_only: bool) -> None:
        self.path = path
        self.read_only = read_only
        self._db = db
        self._lock = lock
        self._open = True

    @classmethod
    def create(cls, path: Path, *, connect: Connect = connect_sqlite3) -> Self:
        """Make a store at `path`, where nothing is yet, and open it."""
        from gsync.store.schema import create_file

        create_file(Path(path))
        return cls.open(path, connect=connect)

    @classmethod
    def open(
        cls, path: Path, *, read_only: bool = False, connect: Connect = connect_sqlite3
    ) -> Self:
        """Open the store at `path`; one of an older version is migrated first.

        Raises:
            NotFound: there is no file.
            StoreVersion: it is no store, or was written by a newer gsync.
        """
        path = Path(path)
        if not path.exists():
            raise NotFound(f"there is no store at {path}", path=str(path))
        lock = FileLock(path.with_name(path.name + ".lock"))
        db = connect(path, read_only)
        try:
            found = _check_version(db, path, read_only)
            if found < VERSION:
                _close(db, lock, read_only)
                _migrate(path, lock)
                db = connect(path, read_only)
            _configure(db, read_only)
        except BaseException:
            _close(db, lock, read_only)
            lock.close()
            raise
        return cls(path, db, lock, read_only)

    def close(self) -> None:
        """Close the file; what was put and not flushed is given up."""
        if self._open:
            self._open = False
            try:
                _close(self._db, self._lock, self.read_only)
            finally:
                self._lock.close()

    def limit_cache(self, kib: int) -> None:
        """Keep at most so many KiB of pages, and of unpacked packs, in memory.

        For whoever holds many stores open.
        """
        self._db.query(f"PRAGMA cache_size = -{kib}")

    def release_memory(self) -> None:
        """Give up what is kept only to be faster; for a handle that rests.

        A handle that has worked may hold tens of MiB of pages, unpacked packs and ids.
        """
        self._db.query("PRAGMA shrink_memory")

    def flush(self) -> None:
        """Make everything that was put durable."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None and self._open:
                self.flush()
        finally:
            self.close()

    @contextmanager
    def _writing(self, purpose: str) -> Iterator[Connection]:
        """Hold the writer's lock and one transaction, committed unless the block raises."""
        if self.read_only:
            raise Denied(f"{self.path} was opened for reading only")
        with self._lock.held(purpose):
            self._db.query("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.query("COMMIT")
            except BaseException:
                # SQLite may have rolled back by itself; then there is nothing to undo.
                with contextlib.suppress(GsyncError):
                    self._db.query("ROLLBACK")
                raise

    def _counter(self, name: str) -> int:
        rows = self._db.query("SELECT value FROM counter WHERE name = ?", (name,))
        if not rows or type(rows[0][0]) is not int:
            raise StoreDamaged(f"{self.path} is damaged: it does not count its {name}")
        value: int = rows[0][0]
        return value

    def _count_up(self, name: str, by: int = 1) -> None:
        self._db.query("UPDATE counter SET value = value + ? WHERE name = ?", (by, name))

    def _select(self, sql: str, *parameters: object) -> list[Row]:
        return self._db.query(sql, parameters)


def _check_version(db: Connection, path: Path, read_only: bool) -> int:
    application: int = db.query("PRAGMA application_id")[0][0]
    version: int = db.query("PRAGMA user_version")[0][0]
    if application != APPLICATION_ID or version < 1:
        # Empty, or with our tables below a header that is not ours: a store, and damaged.
        if path.stat().st_size < _PAGE_BYTES_MIN or _has_our_tables(db):
            raise StoreDamaged(
                f"{path} is damaged: its header is not the one of a store",
                hint="keep the file as it is and restore the store from a remote or a copy",
            )
        raise StoreVersion(f"{path} is a database, but no gsync store", path=str(path))
    if version > VERSION:
        writer = _writer(db)
        if writer in (None, __version__):
            raise StoreDamaged(
                f"{path} is damaged: its header says version {version}, where the gsync that"
                f" wrote it knows up to {VERSION}",
                hint="keep the file as it is and restore the store from a remote or a copy",
            )
        raise StoreVersion(
            f"{path} has store version {version}, where this gsync knows up to {VERSION}",
            hint=f"install gsync {writer} or later",
            found=version,
            known=VERSION,
            install=writer,
        )
    if version < VERSION and read_only:
        raise StoreVersion(
            f"{path} has the older store version {version} and was opened for reading only",
            hint="run any command that writes once, which migrates it",
            found=version,
            known=VERSION,
        )
    return version


def _has_our_tables(db: Connection) -> bool:
    found = db.query(
        "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN"
        " ('about', 'object', 'pack', 'ref_log')"
    )
    return bool(found[0][0] == 4)


def _writer(db: Connection) -> str | None:
    """Return who wrote the file: `about` keeps its place in every later layout."""
    try:
        rows = db.query("SELECT value FROM about WHERE name = 'written by gsync'")
    except GsyncError:
        rows = []
    return str(rows[0][0]) if rows else None


def _migrate(path: Path, lock: FileLock) -> None:
    from gsync.store.schema import migrate_file

    with lock.held("migrating the store"):
        migrate_file(path, VERSION)


def _configure(db: Connection, read_only: bool) -> None:
    db.query(f"PRAGMA cache_size = -{_CACHE_KIB}")
    if not read_only:
        db.query("PRAGMA synchronous = FULL")
        db.query(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES_MAX}")


def _close(db: Connection, lock: FileLock, read_only: bool) -> None:
    """Close under the lock: the last connection to close checkpoints and removes the WAL."""
    if read_only:
        db.close()
        return
    try:
        with lock.held("closing the store"):
            db.close()
    finally:
        db.close()
