"""Opening a SQLite file that belongs to somebody else.

Nothing is created, no extension is loaded, and what the file's own schema calls is not
trusted. The library's exceptions are translated here and nowhere else.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blake3 import blake3

from gsync.errors import Conflict, Corrupt, Denied, GsyncError, Invalid, NotFound, Unavailable
from gsync.replicas.sqlite.session import SqliteSession
from gsync.replicas.sqlite.write import SqliteWriting
from gsync.store.file import APPLICATION_ID

BUSY_S = 10.0
"""How long to wait for another writer; a web application's transactions are far shorter."""

VERSION_MIN = (3, 37, 0)  # PRAGMA table_list, which tells virtual and shadow tables

# What tells gsync's own files; the second one keeps a server's tokens.
_OWN_FILES = (APPLICATION_ID, 0x67737376)


class SqliteDatabase:
    """A SQLite file; fills `gsync.replicas.tables.base.Database`."""

    engine = "sqlite"

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    @property
    def shown(self) -> str:
        """The file as a URL."""
        return f"sqlite:///{self.path}"

    def identity(self) -> str:
        """Return "": a file has none, since programs write it anew and rename it."""
        return ""

    @contextmanager
    def reading(self, *, fingerprints: bool = False) -> Iterator[SqliteSession]:
        """Open one read-only snapshot.

        Args:
            fingerprints: Whether they are asked for: the file is hashed twice.

        Raises:
            NotFound: there is no file; one is never made.
            Invalid: it is one of gsync's own, or in another encoding than UTF-8.
            Corrupt: it is no database.
            Unavailable: another program holds it for too long.
        """
        with self._open(read_only=True) as db:
            db.execute("PRAGMA query_only = ON")
            before = self._content() if fingerprints else None
            db.execute("BEGIN")
            self._check(db)
            # What was there before the snapshot was taken and after it was there while it was.
            known = fingerprints and before == self._content()
            yield SqliteSession(db, before if known else None)

    @contextmanager
    def writing(self) -> Iterator[SqliteWriting]:
        """Open one transaction that writes; leaving it without `commit` rolls back.

        Raises:
            NotFound, Invalid, Corrupt, Unavailable: as above.
            Denied: the file or its folder may only be read.
        """
        with self._open(read_only=False) as db:
            db.execute("PRAGMA foreign_keys = ON")
            db.execute("BEGIN IMMEDIATE")
            self._check(db)
            db.execute("PRAGMA defer_foreign_keys = ON")
            yield SqliteWriting(db)

    def _content(self) -> bytes:
        """Return a hash of all that makes the rows: the file, and its log where there is one."""
        whole = blake3()
        for path in (self.path, self.path.with_name(f"{self.path.name}-wal")):
            try:
                with path.open("rb", buffering=0) as file:
                    while piece := file.read(1 << 20):
                        whole.update(piece)
            except FileNotFoundError:
                pass
            whole.update(b"\0end of file\0")
        return whole.digest()

    @contextmanager
    def _open(self, *, read_only: bool) -> Iterator[sqlite3.Connection]:
        """Open the file, and translate what the library raises until it is closed."""
        if not self.path.is_file():
            raise NotFound(
                f"there is no database file at {self.path}",
                hint="gsync never makes one; create its tables first",
                path=str(self.path),
            )
        if sqlite3.sqlite_version_info < VERSION_MIN:
            raise Unavailable(
                f"SQLite {sqlite3.sqlite_version} is too old for tables;"
                f" {'.'.join(map(str, VERSION_MIN))} is needed",
                hint="use a Python that brings a newer SQLite",
            )
        if not read_only and not os.access(self.path, os.W_OK):
            # SQLite would open it for reading, and say so at the first write only.
            raise Denied(f"{self.path} may only be read", path=str(self.path))
        uri = f"{self.path.absolute().as_uri()}?mode={'ro' if read_only else 'rw'}"
        db: sqlite3.Connection | None = None
        try:
            db = sqlite3.connect(
                uri, uri=True, timeout=BUSY_S, isolation_level=None, cached_statements=256
            )
            db.execute("PRAGMA trusted_schema = OFF")
            yield db
        except sqlite3.Error as error:
            raise translated(error, self.path) from error
        finally:
            if db is not None:
                db.close()  # a transaction that is open is rolled back

    def _check(self, db: sqlite3.Connection) -> None:
        """Read for the first time, which takes the snapshot, and refuse what is not ours to use."""
        db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if db.execute("PRAGMA application_id").fetchone()[0] in _OWN_FILES:
            raise Invalid(
                f"{self.path} is one of gsync's own files, not a database of yours",
                path=str(self.path),
            )
        encoding = db.execute("PRAGMA encoding").fetchone()[0]
        if encoding != "UTF-8":
            raise Invalid(
                f"{self.path} keeps its text as {encoding}, where UTF-8 is expected",
                hint="dump it with `sqlite3 FILE .dump` into a new file",
                path=str(self.path),
            )


_BUSY = {"SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL"}
_CONSTRAINT = "SQLITE_CONSTRAINT"


def translated(error: sqlite3.Error, path: Path) -> GsyncError:
    """Return the failure that an exception of the library means here."""
    name = getattr(error, "sqlite_errorname", "") or ""
    primary = "_".join(name.split("_")[:2])
    facts = {"path": str(path), "code": name}
    if primary in _BUSY:
        return Unavailable(
            f"{path} is in use: another program wrote to it, or held it, for {BUSY_S:g} s",
            hint="try again, or stop the program that holds it",
            **facts,
        )
    if primary in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
        return Corrupt(
            f"{path} is no SQLite database, or is damaged: {error}",
            hint="`sqlite3 FILE 'PRAGMA integrity_check'` says more",
            **facts,
        )
    if primary == "SQLITE_CANTOPEN":
        return Unavailable(
            f"{path} cannot be opened: {error}",
            hint="a database in WAL mode needs a folder in which its -wal and -shm files can be"
            " made, even for reading",
            **facts,
        )
    if primary in ("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH"):
        return Denied(
            f"{path} may not be written: {error}",
            hint="SQLite writes to the file and makes others beside it; in WAL mode reading does"
            " so too",
            **facts,
        )
    if primary in ("SQLITE_FULL", "SQLITE_IOERR"):
        return Unavailable(f"{path}: {error}", **facts)
    if primary == _CONSTRAINT:
        return Conflict(f"{path}: {error}", **facts)
    return Invalid(f"{path}: {error}", **facts)
