"""Which files are opened, and what is done to them."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from replicas.sqlite.tables import insert, make, plans_of, query

from gsync.errors import Corrupt, Denied, GsyncError, Invalid, NotFound, Unavailable
from gsync.replicas.sqlite import SqliteDatabase
from gsync.store.sqlite import SqliteStore
from gsync.views.rows.values import name_content


@pytest.mark.parametrize("how", ["reading", "writing"])
def test_a_file_that_is_not_there_is_never_made(tmp_path: Path, how):
    """Nor a folder."""
    path = tmp_path / "none.db"
    with pytest.raises(NotFound, match="no database file"), getattr(SqliteDatabase(path), how)():
        pass
    with pytest.raises(NotFound), getattr(SqliteDatabase(tmp_path), how)():
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["reading", "writing"])
@pytest.mark.parametrize("body", [b"not a database" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, how, body):
    """And left as it is."""
    path = tmp_path / "a.db"
    path.write_bytes(body)
    with pytest.raises((Corrupt, Invalid)), getattr(SqliteDatabase(path), how)():
        pass
    assert path.read_bytes() == body


def test_a_store_of_gsync_is_refused(tmp_path: Path):
    """Its rows are objects, whose roots would depend on how they are packed."""
    SqliteStore.create(tmp_path / "store.db").close()
    with (
        pytest.raises(Invalid, match="gsync's own"),
        SqliteDatabase(tmp_path / "store.db").reading(),
    ):
        pass


def test_another_encoding_is_refused(tmp_path: Path):
    """Text sorts by other bytes there."""
    database = make(tmp_path / "a.db", "PRAGMA encoding='UTF-16le'", "CREATE TABLE t (k TEXT)")
    with pytest.raises(Invalid, match="UTF-16le"), database.reading():
        pass


def test_a_reader_cannot_write(tmp_path: Path):
    """Neither by mistake."""
    database = make(tmp_path / "a.db", "CREATE TABLE t (k TEXT)")
    with pytest.raises(Denied), database.reading() as session:
        session._db.execute("INSERT INTO t VALUES (1)")


def test_an_empty_file_is_a_database_without_tables(tmp_path: Path):
    """As SQLite sees it."""
    (tmp_path / "a.db").touch()
    with SqliteDatabase(tmp_path / "a.db").reading() as session:
        assert session.tables() == []


def test_a_wal_database_whose_last_writer_is_gone_is_read(tmp_path: Path):
    """Though no -wal and -shm files are there."""
    database = make(tmp_path / "a.db", "PRAGMA journal_mode=WAL", "CREATE TABLE t (k INT)")
    assert [path.name for path in tmp_path.iterdir()] == ["a.db"]
    with database.reading() as session:
        assert [table.name for table in session.tables()] == ["t"]


WITHOUT_ROOT = """
import os, sys
from pathlib import Path
from gsync.replicas.sqlite import SqliteDatabase
if os.getuid() == 0:
    os.setgid(65534); os.setuid(65534)
try:
    with getattr(SqliteDatabase(Path(sys.argv[1])), sys.argv[2])() as session:
        print(len(session.tables()))
except Exception as error:
    print(type(error).__name__, error, error.hint)
"""


@pytest.mark.parametrize(
    "mode, how, said",
    [
        ("DELETE", "reading", "1"),
        ("DELETE", "writing", "Denied"),
        ("WAL", "reading", "Unavailable|Denied"),
        ("WAL", "writing", "Unavailable|Denied"),
    ],
)
def test_a_folder_that_may_only_be_read(mode, how, said):
    """WAL needs files beside the database even to read; the message says so."""
    # Not below pytest's folder, which other users may not enter: root tests as another one.
    with tempfile.TemporaryDirectory() as folder:
        shown = open_as_nobody(Path(folder), mode, how)
    assert shown.split(" ")[0].strip() in said.split("|"), shown
    assert mode == "DELETE" or how == "writing" or "WAL" in shown


def open_as_nobody(folder: Path, mode: str, how: str) -> str:
    make(folder / "a.db", f"PRAGMA journal_mode={mode}", "CREATE TABLE t (k INT)")
    os.chmod(folder / "a.db", 0o444)
    os.chmod(folder, 0o555)
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_ROOT, str(folder / "a.db"), how],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    os.chmod(folder, 0o755)
    return done.stdout or done.stderr


def test_a_lock_that_stays_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """For readers too, in the old journal mode."""
    monkeypatch.setattr("gsync.replicas.sqlite.connect.BUSY_S", 0.05)
    database = make(tmp_path / "a.db", "CREATE TABLE t (k INT)")
    other = sqlite3.connect(database.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        for how in (database.reading, database.writing):
            with pytest.raises(Unavailable, match="in use"), how():
                pass
    finally:
        other.close()


def test_a_reader_in_the_way_of_the_commit_is_unavailable(tmp_path: Path, monkeypatch):
    """And what was written is rolled back."""
    monkeypatch.setattr("gsync.replicas.sqlite.connect.BUSY_S", 0.05)
    database = make(tmp_path / "a.db", "CREATE TABLE t (k INT)")
    insert(database.path, "t", [(1,)])
    other = sqlite3.connect(database.path, isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT * FROM t").fetchall()
    try:
        with pytest.raises(Unavailable), database.writing() as session:
            session._db.execute("DELETE FROM t")
            session.commit()
    finally:
        other.close()
    assert query(database.path, "SELECT * FROM t") == [(1,)]


def test_functions_of_the_file_are_not_trusted(tmp_path: Path):
    """A view or trigger that would run what the application trusts does not run."""
    database = make(tmp_path / "a.db", "CREATE TABLE t (k INT)")
    with database.writing() as session:
        assert session._db.execute("PRAGMA trusted_schema").fetchone() == (0,)
        assert session._db.execute("PRAGMA foreign_keys").fetchone() == (1,)
        assert session._db.execute("PRAGMA defer_foreign_keys").fetchone() == (1,)


@pytest.mark.parametrize("at", range(0, 4096 * 3, 517))
def test_a_damaged_file_raises_one_of_the_kinds(tmp_path: Path, at):
    """Whatever byte is lost."""
    path = tmp_path / "a.db"
    make(path, "CREATE TABLE t (k TEXT PRIMARY KEY, v TEXT)")
    insert(path, "t", [(f"k{n}", "x" * 50) for n in range(60)])
    body = bytearray(path.read_bytes())
    body[at : at + 40] = b"\xff" * 40
    path.write_bytes(body)

    try:
        with SqliteDatabase(path).reading() as session:
            for plan in plans_of(session).values():
                list(session.rows(plan, name_content))
    except GsyncError:
        pass
