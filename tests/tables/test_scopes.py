"""Tables recorded in part: rows of other tenants are neither read as deleted, nor touched."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support_cli import gsync_in, json_in, make_repository, refused
from support_pg import MakeDatabase

Row = tuple[Any, ...]

SCHEMA = """
CREATE TABLE users (id {int} PRIMARY KEY NOT NULL, tenant TEXT, name TEXT);
CREATE TABLE posts (id {int} PRIMARY KEY NOT NULL, title TEXT,
  user_id {int} NOT NULL REFERENCES users (id) ON DELETE CASCADE);
CREATE TABLE tags (post {int} NOT NULL REFERENCES posts (id) ON DELETE CASCADE, tag TEXT NOT NULL,
  PRIMARY KEY (post, tag));
CREATE TABLE notes (id {int} PRIMARY KEY NOT NULL, tenant TEXT,
  user_id {int} NOT NULL REFERENCES users (id) ON DELETE CASCADE);
"""
OURS = """
INSERT INTO users VALUES (1, 'a''b', 'Ann'), (2, 'a''b', 'Bob');
INSERT INTO posts VALUES (10, 'ours', 1), (20, 'ours', 2);
INSERT INTO tags VALUES (10, 'x'), (20, 'y');
"""
OTHERS = """
INSERT INTO users VALUES (5, 'other', 'Eve'), (6, NULL, 'Fay');
INSERT INTO posts VALUES (50, 'theirs', 5), (60, 'theirs', 6);
INSERT INTO tags VALUES (50, 'z');
"""
TOML = """
[db.main.tables.users]
key = ["id"]
where = { tenant = "a'b" }

[db.main.tables.posts]
key = ["id"]
follow = ["user_id"]

[db.main.tables.tags]
key = ["post", "tag"]
follow = ["post"]

[db.main.tables.notes]
key = ["id"]
where = { tenant = "a'b" }
"""


class Side:
    """A repository beside a database of either engine."""

    def __init__(self, folder: Path, url: str, connect: Any) -> None:
        self.folder, self.url, self._connect = folder, url, connect

    def run(self, script: str) -> None:
        with closing(self._connect()) as connection:
            if self.url.startswith("sqlite"):
                connection.execute("PRAGMA foreign_keys = ON")
            for statement in filter(str.strip, script.split(";")):
                connection.execute(statement)
            connection.commit()

    def rows(self, table: str, where: str = "1 = 1") -> list[Row]:
        with closing(self._connect()) as connection:
            found = connection.execute(f"SELECT * FROM {table} WHERE {where} ORDER BY 1, 2")
            return [tuple(row) for row in found.fetchall()]

    def all_rows(self) -> dict[str, list[Row]]:
        return {table: self.rows(table) for table in ("users", "posts", "tags", "notes")}

    def attach(self) -> None:
        config = self.folder / ".gsync" / "config.toml"
        config.write_text(f'{config.read_text()}\n[db.main]\nurl = "{self.url}"\n')


@pytest.fixture(params=["sqlite", "postgres"])
def sides(
    request: pytest.FixtureRequest, tmp_path: Path, make_database: MakeDatabase
) -> Iterator[tuple[Side, Side]]:
    """Two repositories of one remote; the second's database has rows of another tenant too."""
    found = []
    connect: Any
    for name in ("one", "two"):
        if request.param == "sqlite":
            path = tmp_path / f"{name}.db"
            url, connect = f"sqlite:///{path}", lambda path=path: sqlite3.connect(path)
        else:
            database = make_database()
            url, connect = database.url, database.connect
        side = Side(tmp_path / name, url, connect)
        side.run(SCHEMA.format(int="INTEGER"))
        found.append(side)
    one, two = found
    make_repository(one.folder, {"gsync.toml": b"version = 1\n" + TOML.encode()})
    one.attach()
    one.run(OURS + OTHERS.replace("(5,", "(8,").replace(" 5)", " 8)").replace("(50,", "(80,"))
    gsync_in(one.folder, "snapshot", "-m", "first")
    gsync_in(one.folder, "remote", "add", "origin", str(tmp_path / "bare"))
    gsync_in(one.folder, "push")
    gsync_in(tmp_path, "clone", str(tmp_path / "bare"), "two")
    two.attach()
    two.run(OTHERS)
    gsync_in(two.folder, "db", "restore", "HEAD")
    yield one, two


@pytest.mark.slow
def test_other_tenants_rows_are_not_seen_and_not_touched(sides: tuple[Side, Side]) -> None:
    """Edits and deletions of a scope travel; what is outside stays on each side as it is."""
    one, two = sides
    shown = json_in(one.folder, "db", "show", "HEAD:users")
    assert [row["id"] for row in shown["rows"]] == [1, 2]
    assert [row["id"] for row in json_in(one.folder, "db", "show", "HEAD:posts")["rows"]] == [
        10,
        20,
    ]
    assert json_in(one.folder, "db", "show", "HEAD:tags")["count"] == 2
    outside = {
        "users": two.rows("users", "tenant IS NULL OR tenant = 'other'"),
        "posts": two.rows("posts", "title = 'theirs'"),
        "tags": two.rows("tags", "post = 50"),
    }
    assert len(outside["users"]) == 2
    one.run(
        "UPDATE users SET name = 'Anna' WHERE id = 1; DELETE FROM users WHERE id = 2;"
        "INSERT INTO users VALUES (3, 'a''b', 'Cyd'); INSERT INTO posts VALUES (30, 'new', 3);"
        "INSERT INTO tags VALUES (30, 'q')"
    )
    gsync_in(one.folder, "snapshot")
    gsync_in(one.folder, "push")
    gsync_in(two.folder, "pull")
    assert two.rows("users", "tenant = 'a''b'") == [(1, "a'b", "Anna"), (3, "a'b", "Cyd")]
    assert two.rows("posts", "title <> 'theirs'") == [(10, "ours", 1), (30, "new", 3)]
    assert two.rows("tags", "post < 50") == [(10, "x"), (30, "q")]
    for table, rows in outside.items():
        assert [row for row in two.rows(table) if row in rows] == rows
    assert json_in(two.folder, "db", "status")["clean"]
    assert json_in(two.folder, "snapshot")["manifest"] is None


def test_a_row_that_leaves_the_scope_is_not_taken_for_deleted(sides: tuple[Side, Side]) -> None:
    """Its tenant, or what it belongs to, has changed: somebody has to say what that means."""
    one, two = sides
    one.run("UPDATE users SET tenant = 'other' WHERE id = 2")
    message, hint = refused(one.folder, "snapshot", code=5)
    assert "have left its scope" in message
    assert "--accept" in hint
    one.run("UPDATE users SET tenant = 'a''b' WHERE id = 2; DELETE FROM tags WHERE post = 20")
    made = json_in(one.folder, "snapshot")
    assert {t["collection"]: t["deleted"] for t in made["tables"]}["db/main/tags"] == 1
    one.run("UPDATE posts SET user_id = 8 WHERE id = 20")
    message, _ = refused(one.folder, "snapshot", code=5)
    assert "posts(20)" in message
    gsync_in(one.folder, "snapshot", "--accept", "posts")
    gsync_in(one.folder, "push")
    gsync_in(two.folder, "pull")
    assert two.rows("posts", "id = 20") == []
    assert one.rows("posts", "id = 20") == [(20, "ours", 8)]


def test_a_key_that_another_tenant_has_is_not_overwritten(sides: tuple[Side, Side]) -> None:
    """A row of the scope whose key a row outside of it has stops the pull; nothing is written."""
    one, two = sides
    one.run("INSERT INTO users VALUES (5, 'a''b', 'taken'), (4, 'a''b', 'free')")
    gsync_in(one.folder, "snapshot")
    gsync_in(one.folder, "push")
    before = two.all_rows()
    message, hint = refused(two.folder, "pull", code=5)
    assert "users(5)" in message
    assert 'tenant = "a\'b"' in hint
    assert two.all_rows() == before


def test_a_deletion_that_would_take_other_rows_along_is_stopped(sides: tuple[Side, Side]) -> None:
    """A row outside the scope refers to one in it, and would go with it unseen."""
    one, two = sides
    two.run("INSERT INTO notes VALUES (1, 'other', 2)")
    one.run("DELETE FROM users WHERE id = 2")
    gsync_in(one.folder, "snapshot")
    gsync_in(one.folder, "push")
    before = two.all_rows()
    message, hint = refused(two.folder, "pull", code=5)
    assert "1 row(s) of notes (user_id) would be deleted" in message
    assert "--accept notes" in hint
    assert two.all_rows() == before
    gsync_in(two.folder, "pull", "--accept", "notes")
    assert two.rows("notes") == []


def test_another_scope_is_another_view(sides: tuple[Side, Side]) -> None:
    """A changed scope starts the table afresh; nothing is read as deleted or added elsewhere."""
    one, two = sides
    toml = one.folder / "gsync.toml"
    toml.write_text(toml.read_text().replace('tenant = "a\'b"', 'tenant = ["a\'b", "other"]'))
    made = json_in(one.folder, "snapshot")
    assert {t["collection"]: t["rows"] for t in made["tables"]}["db/main/users"] == 3
    gsync_in(one.folder, "push")
    before = two.all_rows()
    message, _ = refused(two.folder, "pull", code=5)
    assert "other columns" in message or "view" in message or "rows" in message
    assert two.all_rows() == before


@pytest.mark.parametrize(
    ("users", "posts", "said"),
    [
        ('where = { nope = "x" }', "", "it has no column nope"),
        ('where = { id = "x" }', "", "id:"),
        ("", 'follow = ["user_id"]', "of which all is recorded"),
        ('where = { tenant = "x" }', 'follow = ["title"]', "refers to no table that is recorded"),
        ('local = ["tenant"]\nwhere = { tenant = "x" }', "", "left out of them"),
    ],
)
def test_scopes_that_choose_nothing_are_refused(
    tmp_path: Path, users: str, posts: str, said: str
) -> None:
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(SCHEMA.format(int="INTEGER"))
    toml = (
        f'version = 1\n[db.main.tables.users]\nkey = ["id"]\n{users}\n'
        f'[db.main.tables.posts]\nkey = ["id"]\n{posts}\n'
    )
    folder = make_repository(tmp_path / "one", {})
    (folder / "gsync.toml").write_text(toml)
    Side(folder, f"sqlite:///{path}", None).attach()
    message, _ = refused(folder, "snapshot", code=2)
    assert said in message
