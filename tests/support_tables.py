"""Live databases of both engines under one small face, and repositories that record them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support_cli import gsync_in, make_repository
from support_pg import Database

from gsync.sync.repository import open_repository
from gsync.sync.tablemoves import restore_tables

SCHEMA = {
    "postgres": """
        CREATE TABLE users (id int PRIMARY KEY, email text NOT NULL UNIQUE, n int, doc jsonb);
        CREATE TABLE posts (id int PRIMARY KEY, body text,
            user_id int NOT NULL REFERENCES users (id) ON DELETE CASCADE);
    """,
    "sqlite": """
        CREATE TABLE users (id INTEGER PRIMARY KEY NOT NULL, email TEXT NOT NULL UNIQUE,
            n INTEGER, doc JSONB TEXT);
        CREATE TABLE posts (id INTEGER PRIMARY KEY NOT NULL, body TEXT,
            user_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE);
    """,
}
TABLES = """
[db.main.tables.users]
key = ["id"]

[db.main.tables.posts]
key = ["id"]
"""

State = dict[str, list[tuple[Any, ...]]]


@dataclass
class Live:
    """A database that runs."""

    engine: str
    url: str
    pg: Database | None = None

    def connect(self) -> Any:
        if self.pg is not None:
            return self.pg.connect(autocommit=False)
        return sqlite3.connect(self.url.removeprefix("sqlite:///"))

    def run(self, *statements: str) -> None:
        connection = self.connect()
        try:
            for statement in statements:
                connection.execute(statement)
            connection.commit()
        finally:
            connection.close()

    def fill(self, state: State) -> None:
        """Make the tables hold exactly `state`, in one transaction."""
        mark = "?" if self.engine == "sqlite" else "%s"
        connection = self.connect()
        try:
            cursor = connection.cursor()
            cursor.execute("DELETE FROM posts")
            cursor.execute("DELETE FROM users")
            for table in ("users", "posts"):
                rows = state[table]
                if rows:
                    marks = ", ".join([mark] * len(rows[0]))
                    cursor.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
            connection.commit()
        finally:
            connection.close()

    def rows(self) -> State:
        """Return what the tables hold, by key."""
        doc = "doc::text" if self.engine == "postgres" else "doc"
        connection = self.connect()
        try:
            users = connection.execute(f"SELECT id, email, n, {doc} FROM users ORDER BY id")
            found = {"users": [tuple(row) for row in users.fetchall()]}
            posts = connection.execute("SELECT id, body, user_id FROM posts ORDER BY id")
            found["posts"] = [tuple(row) for row in posts.fetchall()]
        finally:
            connection.close()
        return found


def generation(n: int, rows: int) -> State:
    """Return one state of both tables; from one to the next every kind of change occurs."""
    users = [
        (i, f"u{(i * 7 + n) % 100_003}@example.org", i * n, f'{{"i": {i}, "n": {n}}}')
        for i in range(rows)
        if (i + n) % 10
    ]
    posts = [
        (i, f"post {i} of generation {n} ".ljust(40 + i % 1500, "x"), user[0])
        for i, user in enumerate(users)
    ]
    return {"users": users, "posts": posts}


def recorded(folder: Path, live: Live, files: dict[str, bytes] | None = None) -> Path:
    """Make a repository in `folder` that records `live`."""
    make_repository(folder, {"gsync.toml": f"version = 1\n{TABLES}".encode(), **(files or {})})
    attach(folder, live)
    return folder


def attach(folder: Path, live: Live) -> None:
    """Tell a repository where its database is."""
    config = folder / ".gsync" / "config.toml"
    config.write_text(f'{config.read_text()}\n[db.main]\nurl = "{live.url}"\n')


def fill_from_head(folder: Path) -> None:
    """Bring the live tables of a repository to its HEAD."""
    with open_repository(folder) as repo, repo.writing("test"):
        manifest = repo.manifest(repo.head())
        assert manifest is not None
        restore_tables(repo, manifest, None, [])


def pair(base: Path, one: Live, other: Live, state: State, remote: str, **env: Any) -> list[Path]:
    """Return two repositories with equal databases, which push to and pull from `remote`."""
    one.fill(state)
    first = recorded(base / "one", one, {"a.txt": b"a"})
    gsync_in(first, "snapshot", "-m", "first")
    gsync_in(first, "remote", "add", "origin", remote)
    gsync_in(first, "push", **env)
    gsync_in(base, "clone", remote, "two", **env)
    attach(base / "two", other)
    fill_from_head(base / "two")
    return [first, base / "two"]


def differing(left: State, right: State) -> Iterable[str]:
    """Yield the tables in which two states differ."""
    return [table for table in left if left[table] != right[table]]
