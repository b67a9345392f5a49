"""Users and contexts move between two Postgres servers through a real gsync server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support import require
from support_cli import gsync_in, json_in, refused
from support_pg import Database, MakeDatabase, find_servers
from support_server import running_server

SCHEMA = (Path(__file__).parent.parent / "systemprompt.sql").read_text()
USERS = "id, name, email, full_name, display_name, status, email_verified, roles, created_at"
CONTEXTS = "context_id, user_id, name, kind, created_at"


def run(database: Database, *statements: str) -> None:
    with database.connect(autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def rows(database: Database) -> list[list[tuple[object, ...]]]:
    """What has to be equal on both sides."""
    with database.connect(autocommit=True) as connection:
        return [
            connection.execute(f"SELECT {USERS} FROM users ORDER BY id").fetchall(),
            connection.execute(f"SELECT {CONTEXTS} FROM user_contexts ORDER BY 1").fetchall(),
        ]


def all_rows(database: Database) -> list[object]:
    """All that triggers and defaults did as well."""
    with database.connect(autocommit=True) as connection:
        return [
            connection.execute(f"SELECT t::text FROM {table} t ORDER BY 1").fetchall()
            for table in ("users", "user_contexts", "user_sessions")
        ]


def test_preset_through_a_server(tmp_path: Path, make_database: MakeDatabase) -> None:
    """Users and contexts arrive whole, edits follow, and what arrived moves nothing again."""
    require("server")
    majors = sorted(find_servers())
    ours = make_database(SCHEMA, major=majors[0])
    theirs = make_database(SCHEMA, major=majors[-1])
    run(
        ours,
        "INSERT INTO users (id, name, email, roles) SELECT 'u' || i, 'name' || i,"
        " i || '@example.org', '{user,editor}' FROM generate_series(1, 50) i",
        "INSERT INTO user_sessions SELECT 's' || i, 'u' || i FROM generate_series(1, 50) i",
        "INSERT INTO user_contexts (context_id, user_id, session_id, name) SELECT 'c' || i,"
        " 'u' || (i % 50 + 1), 's' || (i % 50 + 1), 'context ' || i FROM generate_series(1, 200) i",
    )
    with running_server(tmp_path / "data") as server:
        env: dict[str, Any] = {"GSYNC_TOKEN": server.token("team")}
        url = f"{server.base}/team"
        gsync_in(tmp_path, "init", "one")
        one, two = tmp_path / "one", tmp_path / "two"
        gsync_in(one, "db", "add", ours.url, "--preset", "systemprompt", "--yes")
        gsync_in(one, "snapshot", "-m", "people")
        gsync_in(one, "remote", "add", "origin", url)
        gsync_in(one, "push", **env)
        gsync_in(tmp_path, "clone", url, "two", **env)
        gsync_in(two, "db", "add", theirs.url, "--yes")
        gsync_in(two, "db", "restore", "HEAD")
        assert rows(theirs) == rows(ours)

        # Nothing moves again, though both sides have triggers, sessions and times of their own.
        before = all_rows(ours), all_rows(theirs)
        for folder in (one, two):
            assert json_in(folder, "snapshot")["manifest"] is None
            assert json_in(folder, "push", **env)["objects_sent"] == 0
            assert json_in(folder, "pull", **env)["objects_received"] == 0
        assert (all_rows(ours), all_rows(theirs)) == before

        # An edit there comes here; the session of the context here stays what it was.
        run(
            theirs,
            "UPDATE user_contexts SET name = 'renamed' WHERE context_id = 'c7'",
            "UPDATE users SET name = 'swap' WHERE id = 'u1'",
            "UPDATE users SET name = 'name1' WHERE id = 'u2'",
            "UPDATE users SET name = 'name2' WHERE id = 'u1'",
            "DELETE FROM user_contexts WHERE context_id = 'c8'",
        )
        gsync_in(two, "snapshot", "-m", "there")
        gsync_in(two, "push", **env)
        gsync_in(one, "pull", **env)
        assert rows(theirs) == rows(ours)
        with ours.connect(autocommit=True) as connection:
            found = connection.execute(
                "SELECT session_id FROM user_contexts WHERE context_id = 'c7'"
            ).fetchone()
        assert found == ("s8",)
        assert json_in(one, "snapshot")["manifest"] is None

        # Who may do what, and whose a context is, changes only when told to.
        run(
            theirs,
            "UPDATE users SET roles = '{admin}' WHERE id = 'u3'",
            "UPDATE user_contexts SET user_id = 'u4' WHERE context_id = 'c9'",
        )
        gsync_in(two, "snapshot", "-m", "an admin")
        gsync_in(two, "push", **env)
        before_rows = rows(ours)
        message, hint = refused(one, "pull", code=5, **env)
        assert "users.roles in 1 row" in message
        assert "user_contexts.user_id in 1 row" in message
        assert rows(ours) == before_rows
        gsync_in(one, "pull", "--accept", hint.split("--accept ")[1], **env)
        assert rows(theirs) == rows(ours)


def test_a_clash_on_email_is_named(tmp_path: Path, make_database: MakeDatabase) -> None:
    """An address that another row holds stops everything, with both keys, and nothing changes."""
    ours, theirs = (make_database(SCHEMA) for _ in range(2))
    gsync_in(tmp_path, "init", "--bare", "there")
    gsync_in(tmp_path, "init", "one")
    one, two = tmp_path / "one", tmp_path / "two"
    run(ours, "INSERT INTO users (id, name, email) VALUES ('a', 'ann', 'ann@example.org')")
    gsync_in(one, "db", "add", ours.url, "--preset", "systemprompt", "--yes")
    gsync_in(one, "snapshot")
    gsync_in(one, "remote", "add", "origin", str(tmp_path / "there"))
    gsync_in(one, "push")
    gsync_in(tmp_path, "clone", str(tmp_path / "there"), "two")
    gsync_in(two, "db", "add", theirs.url, "--yes")
    gsync_in(two, "db", "restore", "HEAD")
    run(
        ours,
        "INSERT INTO users (id, name, email) VALUES ('b', 'bob', 'bob@example.org')",
        "INSERT INTO user_contexts (context_id, user_id, name) VALUES ('c', 'b', 'of bob')",
    )
    gsync_in(one, "snapshot")
    gsync_in(one, "push")
    run(theirs, "INSERT INTO users (id, name, email) VALUES ('x', 'eve', 'bob@example.org')")
    before = all_rows(theirs)
    message, _ = refused(two, "pull", code=5)
    for word in ("users('b')", "email='bob@example.org'", "users('x')"):
        assert word in message
    assert all_rows(theirs) == before
