"""Tables that are known to be as they were are not read, and no change is ever missed."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support_cli import json_in, make_repository
from support_pg import Database as PgDatabase

from gsync.maps.omap import EMPTY_MAP
from gsync.objects.oid import ObjectId
from gsync.replicas.tables.base import Fingerprint
from gsync.replicas.tables.plan import plan_tables
from gsync.replicas.tables.scan import join, scan_table
from gsync.store.memory import MemoryStore
from gsync.sync import seen, tables
from gsync.sync.livetables import compare_with_head
from gsync.sync.opendb import open_database
from gsync.sync.recorded import get_schema, recorded_tables
from gsync.sync.repository import Repository, open_repository, snapshot
from gsync.sync.seen import find_seen

COLUMNS = "(id INT PRIMARY KEY, body TEXT, mood TEXT)"
CONFIG = b'version = 1\n[db.main.tables.notes]\nkey = ["id"]\n'
COLLECTION = "db/main/notes"


@contextmanager
def repository(folder: Path, url: str) -> Iterator[Repository]:
    """A repository of one table, `notes`, which exists."""
    make_repository(folder, {"gsync.toml": CONFIG})
    config = folder / ".gsync" / "config.toml"
    config.write_text(f'{config.read_text()}\n[db.main]\nurl = "{url}"\n')
    with open_repository(folder) as repo:
        snapshot(repo, "first")
        yield repo


def read_whole(repo: Repository) -> ObjectId:
    """Return the root of the live table, read without any memory."""
    database = open_database(repo, "main")
    recorded = recorded_tables(repo.manifest(repo.head()), "main")
    known = {name: get_schema(repo.store, found) for name, found in recorded.items()}
    with database.reading() as session:
        (plan,) = plan_tables(session.tables(), repo.config.shared.databases["main"], known)
        return scan_table(session, plan, EMPTY_MAP, MemoryStore()).root


def recorded_root(repo: Repository) -> ObjectId:
    return recorded_tables(repo.manifest(repo.head()), "main")["notes"].root


class Reads:
    """Counts whole readings of tables, and those of what is new alone."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count = self.partial = 0
        real = scan_table

        def counted(*args: Any) -> Any:
            self.count += args[5] is None
            self.partial += args[5] is not None
            return real(*args)

        patch.setattr(tables, "scan_table", counted)

    def of(self, repo: Repository, **options: Any) -> int:
        """Take a snapshot, check that it has what is live, and return how many it read."""
        before = self.count
        snapshot(repo, "again", accept=["notes"], **options)
        assert recorded_root(repo) == read_whole(repo)
        return self.count - before


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


@pytest.fixture
def filled(postgres: PgDatabase) -> PgDatabase:
    with postgres.connect() as db:
        db.execute(f"CREATE TABLE notes {COLUMNS}")
        db.execute("INSERT INTO notes SELECT n, 'text ' || n FROM generate_series(1, 200) n")
    return postgres


# --- Postgres ------------------------------------------------------------------------


def test_what_did_not_change_is_not_read(tmp_path: Path, filled: PgDatabase, reads: Reads) -> None:
    with repository(tmp_path / "a", filled.url) as repo:
        assert reads.of(repo) == 0
        assert reads.of(repo, full=True) == 1
        with filled.connect(autocommit=True) as db:
            db.execute("VACUUM FREEZE notes")
            assert reads.of(repo) == 0
            db.execute("UPDATE notes SET body = 'other' WHERE id = 7")
        assert reads.of(repo) == 0 and reads.partial == 1
        assert reads.of(repo) == 0 and reads.partial == 1


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM notes WHERE id = 3",
        "DELETE FROM notes",
        "INSERT INTO notes VALUES (0, 'new')",
        "UPDATE notes SET id = id + 1000 WHERE id = 5",
        "UPDATE notes SET body = body || '!'",
        "DELETE FROM notes WHERE id < 50; INSERT INTO notes SELECT n FROM generate_series(40, 60) n"
        " ON CONFLICT DO NOTHING; INSERT INTO notes SELECT n FROM generate_series(500, 550) n",
    ],
)
def test_what_is_new_alone_is_read(
    tmp_path: Path, filled: PgDatabase, reads: Reads, change: str
) -> None:
    with repository(tmp_path / "a", filled.url) as repo:
        reads.of(repo)
        with filled.connect() as db:
            db.execute(change)
        assert reads.of(repo) == 0 and reads.partial == 1
        assert reads.of(repo) == 0 and reads.partial == 1


@pytest.mark.parametrize(
    "change",
    [
        "TRUNCATE notes; INSERT INTO notes SELECT n, 'text ' || n FROM generate_series(1, 200) n",
        "ALTER TABLE notes DROP mood; ALTER TABLE notes ADD mood TEXT DEFAULT 'glad'",
        "ALTER TABLE notes ALTER body TYPE VARCHAR(4) USING left(body, 4)",
        "DROP TABLE notes; CREATE TABLE notes (id INT PRIMARY KEY, body TEXT, mood TEXT)",
    ],
)
def test_every_kind_of_change_is_seen(
    tmp_path: Path, filled: PgDatabase, reads: Reads, change: str
) -> None:
    with repository(tmp_path / "a", filled.url) as repo:
        reads.of(repo)
        with filled.connect() as db:
            db.execute(change)
        assert reads.of(repo) == 1


def test_histories_with_open_transactions(tmp_path: Path, filled: PgDatabase, reads: Reads) -> None:
    """What was begun before a snapshot and is committed after it is seen by the next."""
    r = random.Random(11)
    working: list[tuple[Any, int]] = []  # connections, and where their keys begin
    with repository(tmp_path / "a", filled.url) as repo:
        for step in range(100):
            what = r.choice(("begin", "write", "write", "write", "delete", "end", "end"))
            if not working or (what == "begin" and len(working) < 4):
                free = sorted(set(range(0, 200, 10)) - {keys for _, keys in working})
                working.append((filled.connect(), r.choice(free)))
                working[-1][0].execute("SELECT pg_current_xact_id()")
            db, keys = r.choice(working)
            key = keys + r.randrange(1, 10)
            if what == "write":
                db.execute("SAVEPOINT s")
                db.execute(
                    "INSERT INTO notes VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET body = %s",
                    (key, f"step {step}", f"again {step}"),
                )
                db.execute("ROLLBACK TO s" if r.random() < 0.3 else "RELEASE s")
            elif what == "delete":
                db.execute("DELETE FROM notes WHERE id = %s", (key,))
            elif what == "end":
                db.rollback() if r.random() < 0.3 else db.commit()
                db.close()
                working.remove((db, keys))
            reads.of(repo)
        for db, _ in working:
            db.close()
    assert reads.partial > 5 and reads.count <= 100 // seen.USES_MAX


def test_status_reads_nothing_of_what_is_known(
    tmp_path: Path, filled: PgDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    with repository(tmp_path / "a", filled.url) as repo:
        real, count = join, [0]

        def counted(*args: Any) -> Any:
            count[0] += 1
            return real(*args)

        monkeypatch.setattr("gsync.sync.livetables.join", counted)

        def compared(**options: Any) -> tuple[int, int]:
            count[0] = 0
            found = [
                live.count(lambda _: None) for live in compare_with_head(repo, "main", **options)
            ]
            assert [counts.rows for counts in found] == [200]
            return count[0], found[0].modified

        assert compared() == (0, 0)
        assert compared(full=True) == (1, 0)
        with filled.connect() as db:
            db.execute("UPDATE notes SET body = repeat('long', 500) WHERE id = 7")
        assert compared() == (0, 1)
        assert compared(full=True) == (1, 1)


def test_a_server_that_does_not_say_who_it_is(
    tmp_path: Path, filled: PgDatabase, reads: Reads
) -> None:
    with filled.connect() as db:
        db.execute("CREATE ROLE nosy LOGIN; GRANT ALL ON notes TO nosy")
        db.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    with repository(tmp_path / "a", filled.url.replace("postgres@", "nosy@")) as repo:
        assert reads.of(repo) == 1
        assert reads.of(repo) == 1


def test_it_is_read_now_and_then(
    tmp_path: Path, filled: PgDatabase, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    with repository(tmp_path / "a", filled.url) as repo:
        assert [reads.of(repo) for _ in range(22)] == [0] * 20 + [1, 0]
        monkeypatch.setattr(tables, "now_us", lambda: 2**50)
        assert [reads.of(repo) for _ in range(2)] == [1, 0]


def test_fingerprints() -> None:
    """Transaction ids come round, and a database that was set back counts from lower."""

    def known(rows: bytes = b"x", clock: int = 1000, bound: int = 900) -> Fingerprint:
        return Fingerprint(b"table", rows, clock, 1, bound)

    before = known()
    for now in (known(), known(clock=2**31)):
        assert now.proves(before) and now.continues(before)
    for now in (known(clock=999), known(clock=1000 + 2**31), known()._replace(text=b"other")):
        assert not now.proves(before) and not now.continues(before)
    assert not known(b"y").proves(before) and known(b"y").continues(before)
    assert known(bound=-1).proves(before) and not known(bound=-1).continues(before)


# --- SQLite --------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_a_file_that_did_not_change_is_not_read(tmp_path: Path, reads: Reads, mode: str) -> None:
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"PRAGMA journal_mode={mode}")
        db.execute(f"CREATE TABLE notes {COLUMNS}")
        db.execute("INSERT INTO notes VALUES (1, 'one', NULL)")
        with repository(tmp_path / "a", f"sqlite:///{path}") as repo:
            assert reads.of(repo) == 0
            for change in (
                "UPDATE notes SET body = 'two'",
                "INSERT INTO notes VALUES (2, 'x', 'y')",
                "DELETE FROM notes WHERE id = 1",
            ):
                db.execute(change)
                assert reads.of(repo) == 1
                assert reads.of(repo) == 0
            assert reads.of(repo, full=True) == 1


def test_a_file_that_is_written_meanwhile_has_no_fingerprint(
    tmp_path: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot may be of after the hash was taken, or the reverse."""
    from gsync.replicas.sqlite.connect import SqliteDatabase

    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"CREATE TABLE notes {COLUMNS}")
        db.execute("INSERT INTO notes VALUES (1, 'one', NULL)")
        with repository(tmp_path / "a", f"sqlite:///{path}") as repo:
            real = SqliteDatabase._check

            def written(self: SqliteDatabase, opened: sqlite3.Connection) -> None:
                monkeypatch.setattr(SqliteDatabase, "_check", real)
                db.execute("UPDATE notes SET body = body || '+'")
                real(self, opened)

            monkeypatch.setattr(SqliteDatabase, "_check", written)
            assert reads.of(repo) == 1
            assert find_seen(repo.store, COLLECTION) is None
            assert reads.of(repo) == 1
            assert reads.of(repo) == 0


def test_the_command_reads_all_with_full(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"CREATE TABLE notes {COLUMNS}")
    with repository(tmp_path / "a", f"sqlite:///{path}"):
        pass
    for args in (("db", "status"), ("db", "diff")):
        assert json_in(tmp_path / "a", *args) == json_in(tmp_path / "a", *args, "--full")
    assert json_in(tmp_path / "a", "snapshot", "--full")["manifest"] is None
    assert seen.USES_MAX == 20
