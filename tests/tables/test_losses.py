"""Rows that must not be lost, written or brought back without a word."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support_cli import gsync_in, json_in, refused, write
from support_pg import Database, MakeDatabase

from gsync.config import TableConfig
from gsync.errors import Conflict
from gsync.maps.omap import EMPTY_MAP, edit_map, list_entries
from gsync.objects.encoding import encode
from gsync.objects.model import EMPTY_MAP_BODY
from gsync.objects.oid import Kind
from gsync.replicas.postgres import open_database
from gsync.replicas.tables.apply import TableMove, apply_tables
from gsync.replicas.tables.plan import plan_tables
from gsync.replicas.tables.scan import scan_table
from gsync.store.memory import MemoryStore
from gsync.sync.recorded import content_loader
from gsync.sync.repository import open_repository

Row = tuple[bytes, bytes]
Edit = tuple[bytes, bytes | None]


class Side:
    """One repository beside one SQLite file."""

    def __init__(self, folder: Path, database: Path) -> None:
        self.folder, self.database = folder, database

    def sql(self, script: str) -> None:
        with closing(sqlite3.connect(self.database)) as db:
            db.executescript(script)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.database)) as db:
            return db.execute(query).fetchall()

    def attach(self) -> None:
        config = self.folder / ".gsync" / "config.toml"
        config.write_text(f'{config.read_text()}\n[db.main]\nurl = "sqlite:///{self.database}"\n')

    def configure(self, text: str) -> None:
        write(self.folder, {"gsync.toml": f"version = 1\n{text}".encode()})

    def send(self) -> None:
        gsync_in(self.folder, "snapshot", "-m", "change")
        gsync_in(self.folder, "push")


def two_sides(base: Path, schema: str, rows: str, config: str) -> tuple[Side, Side]:
    """Two repositories of one remote whose databases hold the same."""
    first = Side(base / "one", base / "one.db")
    second = Side(base / "two", base / "two.db")
    first.folder.mkdir()
    gsync_in(first.folder, "init")
    first.configure(config)
    first.sql(schema + rows)
    second.sql(schema)
    first.attach()
    gsync_in(first.folder, "remote", "add", "origin", str(base / "bare"))
    first.send()
    gsync_in(base, "clone", str(base / "bare"), str(second.folder))
    second.attach()
    gsync_in(second.folder, "db", "restore", "HEAD")
    return first, second


USERS = "CREATE TABLE users (id INTEGER PRIMARY KEY NOT NULL, name TEXT, role TEXT);"
ROWS = "INSERT INTO users VALUES (1, 'Ann', 'user'), (2, 'Bob', 'user'), (3, 'Cyd', 'user');"
CONFIG = '[db.main.tables.users]\nkey = ["id"]\n'


def test_a_deletion_reaches_a_database_whose_mark_is_gone(tmp_path: Path) -> None:
    """A folder that moved has no mark; a row deleted elsewhere does not come back from there."""
    first, second = two_sides(tmp_path, USERS, ROWS, CONFIG)
    moved = tmp_path / "moved.db"
    second.database.rename(moved)
    second.database = moved
    config = second.folder / ".gsync" / "config.toml"
    config.write_text(config.read_text().replace("two.db", "moved.db"))
    first.sql("DELETE FROM users WHERE id = 2; UPDATE users SET name = 'Cid' WHERE id = 3")
    first.send()
    gsync_in(second.folder, "pull")
    assert second.rows("SELECT id, name FROM users ORDER BY id") == [(1, "Ann"), (3, "Cid")]
    assert json_in(second.folder, "snapshot")["manifest"] is None


def test_an_edit_stops_a_deletion_where_the_mark_is_gone(tmp_path: Path) -> None:
    first, second = two_sides(tmp_path, USERS, ROWS, CONFIG)
    with open_repository(second.folder) as repo:
        repo.store.set_states({"mark db/main/users": None})
    second.sql("UPDATE users SET name = 'Rob' WHERE id = 2")
    first.sql("DELETE FROM users WHERE id = 2")
    first.send()
    message, _ = refused(second.folder, "pull", code=5)
    assert "unsaved changes" in message
    assert second.rows("SELECT name FROM users WHERE id = 2") == [("Rob",)]


def test_protection_is_not_taken_away_by_what_it_protects_from(tmp_path: Path) -> None:
    """A pull that drops `protected` and `keep_rows` is held by what stood here before."""
    guarded = CONFIG + 'protected = ["role"]\nkeep_rows = true\n'
    first, second = two_sides(tmp_path, USERS, ROWS, guarded)
    first.configure(CONFIG)
    first.sql("UPDATE users SET role = 'admin' WHERE id = 1; DELETE FROM users WHERE id = 3")
    first.send()
    message, _ = refused(second.folder, "pull", code=5)
    assert "protected by gsync.toml" in message
    assert second.rows("SELECT role FROM users ORDER BY id") == [("user",)] * 3
    gsync_in(second.folder, "pull", "--accept", "users,users.role")
    assert second.rows("SELECT role FROM users ORDER BY id") == [("admin",), ("user",)]


def test_a_table_that_was_not_recorded_here_is_not_written(tmp_path: Path) -> None:
    schema = USERS + "CREATE TABLE admins (id INTEGER PRIMARY KEY NOT NULL, name TEXT);"
    first, second = two_sides(tmp_path, schema, ROWS, CONFIG)
    second.sql("INSERT INTO admins VALUES (1, 'root')")
    first.configure(CONFIG + '[db.main.tables.admins]\nkey = ["id"]\n')
    first.sql("INSERT INTO admins VALUES (7, 'mallory')")
    first.send()
    message, hint = refused(second.folder, "pull", code=5)
    assert "not named" in message
    assert "--accept admins" in hint
    assert second.rows("SELECT name FROM admins") == [("root",)]
    gsync_in(second.folder, "pull", "--accept", "admins")
    assert second.rows("SELECT name FROM admins ORDER BY 1") == [("mallory",), ("root",)]


def test_a_slot_that_means_another_column_is_not_compared(tmp_path: Path) -> None:
    """A table recorded afresh has slots of its own: equal bytes are other values."""
    schema = "CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, a TEXT, b TEXT);"
    config = '[db.main.tables.t]\nkey = ["id"]\n'
    first, second = two_sides(
        tmp_path, schema, "INSERT INTO t VALUES (1, 'x', NULL), (2, 'y', NULL);", config
    )
    gsync_in(first.folder, "collection", "remove", "db/main/t")
    first.sql("UPDATE t SET b = 'x' WHERE id = 1; ALTER TABLE t DROP COLUMN a")
    first.send()
    second.sql("ALTER TABLE t DROP COLUMN a")
    message, _ = refused(second.folder, "pull", code=5)
    assert "recorded afresh" in message
    gsync_in(second.folder, "pull", "--no-databases")
    refused(second.folder, "db", "restore", "HEAD", code=5)
    gsync_in(second.folder, "db", "restore", "HEAD", "--force")
    assert second.rows("SELECT id, b FROM t ORDER BY id") == [(1, "x"), (2, None)]
    assert json_in(second.folder, "snapshot")["manifest"] is None


def test_rows_that_no_manifest_has_stop_a_cascade(tmp_path: Path) -> None:
    schema = USERS + (
        "CREATE TABLE notes (id INTEGER PRIMARY KEY, owner INTEGER REFERENCES users (id)"
        " ON DELETE CASCADE);"
    )
    first, second = two_sides(tmp_path, schema, ROWS, CONFIG)
    second.sql("INSERT INTO notes VALUES (1, 2)")
    first.sql("DELETE FROM users WHERE id = 2")
    first.send()
    message, hint = refused(second.folder, "pull", code=5)
    assert "1 row(s) of notes (owner) would be deleted" in message
    assert "--accept notes" in hint
    assert second.rows("SELECT owner FROM notes") == [(2,)]
    gsync_in(second.folder, "pull", "--accept", "notes")
    assert second.rows("SELECT owner FROM notes") == []


def test_a_unique_value_that_is_taken_names_both_rows(tmp_path: Path) -> None:
    schema = "CREATE TABLE users (id INTEGER PRIMARY KEY NOT NULL, name TEXT UNIQUE, role TEXT);"
    first, second = two_sides(tmp_path, schema, ROWS, CONFIG)
    first.sql("INSERT INTO users VALUES (4, 'Dee', 'user')")
    first.send()
    second.sql("INSERT INTO users VALUES (9, 'Dee', 'user')")
    before = second.rows("SELECT * FROM users ORDER BY id")
    message, _ = refused(second.folder, "pull", code=5)
    for word in ("users(4)", "name='Dee'", "users(9)"):
        assert word in message
    assert second.rows("SELECT * FROM users ORDER BY id") == before


PARENT = "CREATE TABLE u (id int PRIMARY KEY, email text UNIQUE);"


def apply(database: Database, edit: Callable[[list[Row]], list[Edit]]) -> None:
    """Apply edits of the rows of `u`, the only table that is recorded."""
    store = MemoryStore()
    store.put(Kind.NODE, EMPTY_MAP_BODY)
    live, config = open_database(database.url), TableConfig(key=("id",))
    with live.reading() as session:
        (plan,) = plan_tables(session.tables(), {"u": config}, {})
        base = scan_table(session, plan, EMPTY_MAP, store).root
    target = edit_map(store, base, edit(list(list_entries(store, base))))
    move = TableMove(config, base, target, plan.schema)
    apply_tables(live, {"u": move}, store, content_loader(store))


def test_children_follow_values_that_are_swapped(make_database: MakeDatabase) -> None:
    """Freeing a value by NULL would leave NULL in a child that follows its parent's updates."""
    database = make_database(
        PARENT + "CREATE TABLE follows (parent int, email text REFERENCES u (email)"
        " ON UPDATE CASCADE); INSERT INTO u VALUES (1, 'a'), (2, 'b');"
        "INSERT INTO follows VALUES (1, 'a'), (2, 'b')"
    )
    apply(database, lambda rows: [(rows[0][0], rows[1][1]), (rows[1][0], rows[0][1])])
    with database.connect() as connection:
        found = connection.execute("SELECT * FROM follows ORDER BY 1").fetchall()
    assert found == [(1, "b"), (2, "a")]


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "SET DEFAULT"])
def test_rows_of_other_tables_stop_a_deletion(make_database: MakeDatabase, action: str) -> None:
    database = make_database(
        PARENT + f"CREATE TABLE notes (u text REFERENCES u (email) ON DELETE {action});"
        "INSERT INTO u VALUES (1, 'a'), (2, 'b'); INSERT INTO notes VALUES ('b')"
    )
    with pytest.raises(Conflict, match=r"1 row\(s\) of notes \(u\)"):
        apply(database, lambda rows: [(rows[1][0], None)])
    apply(database, lambda rows: [(rows[0][0], None)])
    with database.connect() as connection:
        assert connection.execute("SELECT * FROM notes").fetchall() == [("b",)]


def test_a_cut_off_move_is_dropped_where_the_table_has_changed_since(tmp_path: Path) -> None:
    """A migration between a kill and the next start must not shut the repository."""
    first, second = two_sides(tmp_path, USERS, ROWS, CONFIG)
    first.sql("UPDATE users SET name = 'Rob' WHERE id = 2")
    first.send()
    gsync_in(second.folder, "fetch")
    with open_repository(second.folder) as repo:
        theirs = repo.store.tracking("origin")["main"]
        repo.store.set_states({"pending move": encode([repo.head(), theirs, "pull", ["main"]])})
    second.sql("ALTER TABLE users ADD COLUMN age INTEGER; UPDATE users SET age = 7 WHERE id = 1")
    gsync_in(second.folder, "snapshot", "-m", "migrated")
    shown = json_in(second.folder, "snapshot")
    assert shown["manifest"] is None
    assert second.rows("SELECT name, age FROM users WHERE id < 3") == [("Ann", 7), ("Bob", None)]


def test_a_database_that_was_made_anew_is_not_recorded_as_emptied(tmp_path: Path) -> None:
    """The same address with empty tables stops a snapshot and a sync of two databases."""
    first, second = two_sides(tmp_path, USERS, ROWS, CONFIG)
    urls = [f"sqlite:///{side.database}" for side in (first, second)]
    gsync_in(first.folder, "db", "sync", *urls)
    first.database.unlink()
    first.sql(USERS)
    for command in (["snapshot"], ["db", "sync", *urls]):
        message, hint = refused(first.folder, *command, code=5)
        assert "users is empty, and 3 row(s)" in message
        assert "--accept users" in hint
    assert len(second.rows("SELECT * FROM users")) == 3
    gsync_in(first.folder, "db", "restore", "HEAD", "--force")
    assert json_in(first.folder, "snapshot")["manifest"] is None
    first.sql("DELETE FROM users")
    made = json_in(first.folder, "snapshot", "--accept", "users")
    assert made["tables"][0]["deleted"] == 3


def test_another_database_behind_the_same_url_is_not_taken_for_the_one_before(
    tmp_path: Path, make_database: MakeDatabase
) -> None:
    """What a backup put in its place lacks was not deleted, and undoes nothing elsewhere."""
    schema = "CREATE TABLE u (id int PRIMARY KEY, name text);"
    database = make_database(schema + "INSERT INTO u VALUES (1, 'a'), (2, 'b')")
    other = SqliteSide(tmp_path / "other.db")
    other.sql("CREATE TABLE u (id INTEGER PRIMARY KEY NOT NULL, name TEXT)")
    folder = tmp_path / "one"
    folder.mkdir()
    gsync_in(folder, "init")
    gsync_in(folder, "db", "add", database.url, "--name", "main", "--yes")
    gsync_in(folder, "snapshot")
    pair = ["db", "sync", "main", other.url]
    gsync_in(folder, *pair)
    replace_database(database, schema + "INSERT INTO u VALUES (1, 'a')")
    message, hint = refused(folder, "snapshot", code=5)
    assert "never been brought to HEAD in this database" in message
    assert "--accept u" in hint
    gsync_in(folder, *pair)
    assert other.rows() == [(1, "a"), (2, "b")]
    made = json_in(folder, "snapshot", "--accept", "u")
    assert made["tables"][0]["deleted"] == 1
    assert json_in(folder, "snapshot")["manifest"] is None


class SqliteSide:
    """A SQLite file with a table `u`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.url = f"sqlite:///{path}"

    def sql(self, script: str) -> None:
        with closing(sqlite3.connect(self._path)) as db:
            db.executescript(script)

    def rows(self) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self._path)) as db:
            return db.execute("SELECT id, name FROM u ORDER BY id").fetchall()


def replace_database(database: Database, script: str) -> None:
    """Put a new database in the place of one, under the same name."""
    database.cluster.drop_database(database)
    with replace(database, name="postgres").connect(autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {database.name}")
    with database.connect() as connection:
        connection.execute(script)
