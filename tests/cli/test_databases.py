"""Tables of live databases with the real command: what a user of them does, in that order."""

from __future__ import annotations

import csv
import json
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support_cli import gsync_in, head, json_in, refused, write
from support_pg import Database, MakeDatabase

SCHEMA = """
CREATE TABLE users (
  id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, email TEXT, bio TEXT, active BOOLEAN,
  score REAL, updated_at TIMESTAMPTZ TEXT
);
CREATE TABLE posts (
  id INTEGER PRIMARY KEY, slug TEXT NOT NULL UNIQUE,
  author TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE, body TEXT, meta JSON TEXT
);
CREATE TABLE audit (at TEXT, what TEXT);
CREATE TRIGGER touch AFTER UPDATE ON users BEGIN
  UPDATE users SET updated_at = '2026-01-01 00:00:00Z' WHERE id = new.id;
END;
"""
ROWS = """
INSERT INTO users VALUES
  ('u1', 'Ann', 'ann@x.org', printf('%.3000c', 'x'), 1, 1.5, NULL),
  ('u2', 'Bob', NULL, 'NULL', 0, NULL, NULL),
  ('u3', 'Cyd', '', 'two
lines', NULL, -2.0, NULL);
INSERT INTO posts (slug, author, body, meta) VALUES
  ('a', 'u1', 'one', '{"n": 1}'), ('b', 'u1', 'two', NULL), ('c', 'u2', 'three', '[]');
"""


def sql(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA foreign_keys = ON")
        db.executescript(script)


def rows(path: Path, table: str) -> list[tuple[Any, ...]]:
    wanted = {"users": "id, name, email, bio, active, score", "posts": "slug, author, body, meta"}
    with closing(sqlite3.connect(path)) as db:
        return db.execute(f"SELECT {wanted[table]} FROM {table} ORDER BY 1").fetchall()


def add(folder: Path, database: Path, *more: str) -> Any:
    return json_in(folder, "db", "add", f"sqlite:///{database}", "--yes", *more)


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A SQLite file of an application."""
    path = tmp_path / "app.db"
    sql(path, SCHEMA + ROWS)
    return path


@pytest.fixture
def folder(tmp_path: Path, app: Path) -> Path:
    """A repository that has recorded the tables of `app` once."""
    work = tmp_path / "work"
    work.mkdir()
    gsync_in(work, "init")
    write(work, {"a.txt": b"one\n"})
    add(work, app)
    gsync_in(work, "snapshot", "-m", "first")
    return work


# --- A life --------------------------------------------------------------------------


def test_tables_travel_from_one_database_to_another_and_back(
    folder: Path, app: Path, tmp_path: Path
) -> None:
    """Rows edited here, then there, are equal in both databases at the end; files go along."""
    sql(app, "UPDATE users SET email = 'ann@y.org' WHERE id = 'u1'; DELETE FROM posts WHERE id = 2")
    status = json_in(folder, "db", "status")
    assert not status["clean"]
    assert [t["modified"] + t["deleted"] for t in status["databases"]["main"]["tables"]] == [1, 1]
    made = json_in(folder, "snapshot", "-m", "edited")
    assert {t["collection"]: t["modified"] for t in made["tables"]}["db/main/users"] == 1
    bare, other, copy = tmp_path / "bare", tmp_path / "other", tmp_path / "copy.db"
    gsync_in(folder, "remote", "add", "origin", str(bare))
    gsync_in(folder, "push")

    told = gsync_in(tmp_path, "clone", str(bare), str(other)).text
    assert "gsync db add URL --name main" in told
    sql(copy, SCHEMA)
    added = add(other, copy)
    assert (added["known"], added["proposal"], added["recorded"]) == (["posts", "users"], "", True)
    message, hint = refused(other, "snapshot", code=5)
    assert "never been brought to HEAD" in message
    assert "db restore HEAD" in hint
    done = json_in(other, "db", "restore", "HEAD")
    assert done["databases"]["main"]["users"] == {"inserted": 3, "updated": 0, "deleted": 0}
    assert rows(copy, "users") == rows(app, "users")
    assert rows(copy, "posts") == rows(app, "posts")
    assert json_in(other, "snapshot")["manifest"] is None

    sql(
        copy, "DELETE FROM users WHERE id = 'u2'; INSERT INTO users (id, name) VALUES ('u4', 'Dan')"
    )
    write(other, {"b.txt": b"two\n"})
    gsync_in(other, "snapshot", "-m", "from the other side")
    gsync_in(other, "push")
    pulled = json_in(folder, "pull")
    assert pulled["databases"]["main"]["users"] == {"inserted": 1, "updated": 0, "deleted": 1}
    assert {t["collection"]: t["deleted"] for t in pulled["tables"]} == {
        "db/main/posts": 1,
        "db/main/users": 1,
    }
    assert rows(copy, "users") == rows(app, "users")
    assert rows(copy, "posts") == rows(app, "posts")
    assert (folder / "b.txt").read_bytes() == b"two\n"
    assert json_in(folder, "db", "status", "--exit-code")["clean"]
    assert json_in(folder, "pull")["databases"] == {}
    assert json_in(folder, "snapshot")["manifest"] is None


def test_diff_show_and_log_tell_rows_and_cells(folder: Path, app: Path) -> None:
    """Offline and live, as text and as JSON, the same cells are told; long ones shortened."""
    sql(
        app,
        "UPDATE users SET email = NULL, bio = bio || 'y' WHERE id = 'u1';"
        " UPDATE users SET email = 'NULL' WHERE id = 'u3'; DELETE FROM posts WHERE slug = 'b';"
        " INSERT INTO users (id, name) VALUES ('it''s', 'Eve')",
    )
    write(folder, {"a.txt": b"changed\n"})
    expected = [
        "D db/main/posts ('b')",
        "  author: 'u1'",
        "  body: 'two'",
        "A db/main/users ('it's')",
        "  name: 'Eve'",
        "M db/main/users ('u1')",
        "  bio: '…xxxxxxxxxx' -> '…xxxxxxxxxxy'",
        "  email: 'ann@x.org' -> NULL",
        "M db/main/users ('u3')",
        "  email: '' -> 'NULL'",
    ]
    assert gsync_in(folder, "db", "diff").text.splitlines() == expected
    assert gsync_in(folder, "db", "diff", "users").text.splitlines() == expected[3:]
    assert gsync_in(folder, "db", "diff", "main", "posts", "--stat").text == (
        " db/main/posts | 1 deleted\n"
    )
    gsync_in(folder, "db", "diff", "--exit-code", code=1)
    live = json_in(folder, "db", "diff")["changes"]
    told = gsync_in(folder, "diff")
    assert "gsync db diff" in told.err
    assert "db/main" not in told.text
    gsync_in(folder, "snapshot", "-m", "second")
    both = gsync_in(folder, "diff", "HEAD~1", "HEAD").text
    assert both.splitlines()[-len(expected) :] == expected
    assert "+changed" in both
    only = gsync_in(folder, "diff", "HEAD~1", "HEAD", "--", "db/main/posts").text
    assert only.splitlines() == expected[:3]
    names = gsync_in(folder, "diff", "--name-status", "HEAD~1", "HEAD").text.splitlines()
    assert names == ["M a.txt", *(line for line in expected if not line.startswith(" "))]
    stat = gsync_in(folder, "diff", "--stat", "HEAD~1", "HEAD").text
    assert " db/main/users | 1 added, 2 modified" in stat
    changes = json_in(folder, "diff", "HEAD~1", "HEAD")["changes"]
    assert [change for change in changes if change["collection"] != "files"] == live
    by_key = {tuple(change["key"]): change for change in live}
    assert by_key["u3",]["cells"] == {"email": ["", "NULL"]}
    assert by_key["u1",]["cells"]["email"] == ["ann@x.org", None]
    assert by_key["u1",]["cells"]["bio"][1] == "x" * 3000 + "y"
    assert by_key["b",]["status"] == "deleted"
    assert gsync_in(folder, "show").text.splitlines()[-len(expected) :] == expected
    assert json_in(folder, "show")["changes"][1:] == live
    assert len(json_in(folder, "log", "db/main/posts")["manifests"]) == 2
    gsync_in(folder, "snapshot", "-m", "nothing")
    sql(app, "UPDATE users SET name = 'Robert' WHERE id = 'u2'")
    gsync_in(folder, "snapshot", "-m", "third")
    assert len(json_in(folder, "log", "db/main/posts")["manifests"]) == 2
    assert len(json_in(folder, "log", "db/main/users")["manifests"]) == 3


def test_recorded_rows_are_shown_and_written_to_files(folder: Path, tmp_path: Path) -> None:
    """NULL, the empty text and the text NULL stay apart, shown and in every kind of file."""
    lines = gsync_in(folder, "db", "show", "HEAD:users").text.splitlines()
    assert lines[0].split() == ["id", "active", "bio", "email", "name", "score"]
    assert lines[2].split() == ["u2", "false", "'NULL'", "NULL", "Bob", "NULL"]
    assert lines[3].split() == ["u3", "NULL", "two\\nlines", "''", "Cyd", "-2.0"]
    shown = json_in(folder, "db", "show", "HEAD:db/main/users", "--limit", "2")
    assert (shown["key"], shown["count"], len(shown["rows"])) == (["id"], 3, 2)
    assert shown["rows"][1]["email"] is None
    assert shown["rows"][0]["bio"] == "x" * 3000
    assert "1 more" in gsync_in(folder, "db", "show", ":posts", "-n", "2").err
    keys = [entry["key"] for entry in json_in(folder, "ls", "HEAD", "db/main/posts")["entries"]]
    assert keys == [["a"], ["b"], ["c"]]
    assert "3 rows" in gsync_in(folder, "collection", "list").text

    gsync_in(folder, "db", "restore", "HEAD", "users", "--to-file", "u.csv")
    with (folder / "u.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert (found[2]["bio"], found[1]["bio"]) == ("two\nlines", "NULL")
    gsync_in(folder, "db", "restore", "HEAD", "users", "--to-file", "u.jsonl")
    lines = (folder / "u.jsonl").read_text().splitlines()
    assert [json.loads(line)["email"] for line in lines] == ["ann@x.org", None, ""]
    out = tmp_path / "out.sqlite"
    written = json_in(folder, "db", "materialize", "HEAD", str(out))
    assert written["tables"] == [
        {"collection": "db/main/posts", "rows": 3},
        {"collection": "db/main/users", "rows": 3},
    ]
    assert rows(out, "users") == rows(tmp_path / "app.db", "users")
    assert rows(out, "posts") == rows(tmp_path / "app.db", "posts")
    before = out.read_bytes()
    refused(folder, "db", "materialize", "HEAD", str(out), code=5)
    assert out.read_bytes() == before
    refused(folder, "db", "restore", "HEAD", "--to-file", "all.csv", code=2)
    refused(folder, "db", "restore", "HEAD", "users", "--to-file", "u.xml", code=2)
    assert not list(folder.glob(".*part*"))


def test_a_tarball_takes_tables_along_when_asked(folder: Path) -> None:
    """Tables are named as left out; with --rows they stand in it as JSON lines, always alike."""
    found = json_in(folder, "export", "-o", "plain.tar.gz")
    assert found["left_out"] == ["db/main/posts", "db/main/users"]
    found = json_in(folder, "export", "-o", "rows.tar.gz", "--rows")
    assert found["left_out"] == []
    with tarfile.open(folder / "rows.tar.gz") as tar:
        assert {"a.txt", "db/main/posts.jsonl", "db/main/users.jsonl"} <= set(tar.getnames())
        file = tar.extractfile("db/main/users.jsonl")
        assert file is not None
        assert json.loads(file.readlines()[2])["bio"] == "two\nlines"
    again = json_in(folder, "export", "HEAD", "-o", "again.tar.gz", "--rows")
    assert again["tar_blake3"] == found["tar_blake3"]
    only = json_in(folder, "export", "-o", "one.tar.gz", "--rows", "--", "db/main/posts")
    assert (only["entries"], only["left_out"]) == (1, ["db/main/users"])


# --- Adding --------------------------------------------------------------------------


def test_a_proposal_is_written_only_when_agreed_to(tmp_path: Path, app: Path) -> None:
    """Nobody is asked where nobody is there; --yes writes what was shown, with its reasons."""
    gsync_in(tmp_path, "init")
    before = (tmp_path / "gsync.toml").read_bytes()
    shown = gsync_in(tmp_path, "db", "add", "sqlite:///app.db")
    assert "--yes" in shown.err
    assert 'volatile = ["updated_at"]' in shown.text
    gsync_in(tmp_path, "db", "add", "sqlite:///app.db", "--yes", "--dry-run")
    assert (tmp_path / "gsync.toml").read_bytes() == before
    document = json_in(tmp_path, "db", "add", "sqlite:///app.db")
    assert not document["written"]
    assert document["tables"]["posts"]["key"] == ["slug"]
    assert document["tables"]["posts"]["local"] == ["id"]
    assert "no primary key" in document["refused"]["audit"][0]
    done = gsync_in(tmp_path, "db", "add", "sqlite:///app.db", "--yes")
    assert ".gsyncignore" in done.err  # it lies in the folder
    text = (tmp_path / "gsync.toml").read_text()
    assert text.startswith(before.decode())
    assert document["proposal"] in text
    assert "#   audit: no key" in text
    assert 'url = "sqlite:///app.db"' in (tmp_path / ".gsync" / "config.toml").read_text()
    listed = json_in(tmp_path, "db", "list")["databases"]
    assert [(one["name"], one["scanned"]) for one in listed] == [("main", None)]
    assert json_in(tmp_path, "status")["databases"] == {"main": {"scanned": None}}
    gsync_in(tmp_path, "doctor")
    gsync_in(tmp_path, "snapshot")
    assert json_in(tmp_path, "status")["databases"]["main"]["scanned"]
    again = add(tmp_path, app)
    assert (again["known"], again["written"]) == (["posts", "users"], True)


def test_a_relative_path_means_the_same_from_everywhere(tmp_path: Path, app: Path) -> None:
    """A path is read from where the command runs, and kept from the top of the folder."""
    gsync_in(tmp_path, "init")
    (tmp_path / "sub").mkdir()
    gsync_in(tmp_path / "sub", "db", "add", "sqlite:///../app.db", "--yes", "--tables", "users")
    gsync_in(tmp_path, "db", "status")
    gsync_in(tmp_path / "sub", "db", "status")
    assert list(json_in(tmp_path, "db", "list")["databases"][0]["tables"]) == [
        {"name": "users", "rows": None, "configured": True}
    ]
    more = add(tmp_path, app, "--tables", "posts")
    assert (list(more["tables"]), more["known"]) == (["posts"], ["users"])


def test_names_that_others_chose_are_written_so_that_they_are_read_again(tmp_path: Path) -> None:
    """Quotes, backslashes, tabs and dots in names; words that are refused elsewhere; a comment."""
    gsync_in(tmp_path, "init")
    sql(
        tmp_path / "odd.sqlite",
        """CREATE TABLE hooks (url TEXT PRIMARY KEY, "a""b\\c" TEXT, "tab	and" TEXT);
        CREATE TABLE "with.dot" (id TEXT PRIMARY KEY, "http://x/" TEXT, n INTEGER);
        CREATE TABLE prices (id TEXT PRIMARY KEY, price NUMERIC);
        CREATE TABLE "a b" (id TEXT PRIMARY KEY);
        CREATE TABLE child (id TEXT PRIMARY KEY, up TEXT REFERENCES "a b" (id));
        INSERT INTO hooks VALUES ('u', 'v', 'w'); INSERT INTO "with.dot" VALUES ('1', 2, 3);""",
    )
    found = json_in(tmp_path, "db", "add", "sqlite:///odd.sqlite", "--name", "odd-1", "--yes")
    assert found["tables"].keys() == {"hooks", "with.dot", "child"}
    assert "a b" in found["refused"]
    assert "not recorded" in " ".join(found["notes"]["child"])
    assert "price: the type NUMERIC is not carried" in " ".join(found["refused"]["prices"])
    made = json_in(tmp_path, "snapshot", "-m", "odd")
    assert made["collections"]["db/odd-1/with.dot"]["entries"] == 1
    (row,) = json_in(tmp_path, "db", "show", "HEAD:hooks")["rows"]
    assert row == {"url": "u", 'a"b\\c': "v", "tab	and": "w"}
    gsync_in(tmp_path, "db", "show", "HEAD:hooks")
    assert gsync_in(tmp_path, "ls", "HEAD", "db/odd-1/with.dot").text == "db/odd-1/with.dot ('1')\n"


PRESET = """
CREATE TABLE users (
  id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, email TEXT NOT NULL UNIQUE,
  status TEXT NOT NULL DEFAULT 'active', roles TEXT_ARRAY TEXT NOT NULL DEFAULT '["user"]',
  created_at TIMESTAMPTZ TEXT, updated_at TIMESTAMPTZ TEXT
);
CREATE TABLE user_sessions (session_id TEXT PRIMARY KEY, user_id TEXT);
CREATE TABLE user_contexts (
  context_id TEXT PRIMARY KEY, user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  session_id TEXT REFERENCES user_sessions (session_id) ON DELETE SET NULL,
  name TEXT NOT NULL, updated_at TIMESTAMPTZ TEXT
);
INSERT INTO users (id, name, email) VALUES ('1', 'Ann', 'a@x'), ('2', 'Bob', 'b@x');
INSERT INTO user_sessions VALUES ('s', '1');
INSERT INTO user_contexts VALUES ('c', '1', 's', 'first', NULL);
"""


def test_a_preset_protects_what_must_not_change_by_the_way(tmp_path: Path) -> None:
    """A lost session is no change; a role, an owner and a deletion wait to be accepted."""
    app, copy = tmp_path / "app.db", tmp_path / "copy.db"
    work, other = tmp_path / "work", tmp_path / "other"
    work.mkdir()
    gsync_in(work, "init")
    for path in (app, copy):
        sql(path, PRESET)
    found = add(work, app, "--preset", "systemprompt")
    assert list(found["tables"]) == ["users", "user_contexts"]
    gsync_in(work, "snapshot")
    sql(app, "UPDATE user_contexts SET session_id = NULL, updated_at = '2026-01-01 00:00:00Z'")
    assert json_in(work, "db", "status")["clean"]
    gsync_in(work, "remote", "add", "origin", str(tmp_path / "bare"))
    gsync_in(work, "push")
    gsync_in(tmp_path, "clone", str(tmp_path / "bare"), str(other))
    add(other, copy)
    gsync_in(other, "db", "restore", "HEAD")
    sql(
        app,
        """UPDATE users SET roles = '["admin"]' WHERE id = '1'; DELETE FROM users WHERE id = '2';
        UPDATE user_contexts SET user_id = '1', name = 'renamed'""",
    )
    gsync_in(work, "snapshot")
    gsync_in(work, "push")
    message, hint = refused(other, "pull", code=5)
    assert "users.roles" in message
    assert "--accept users,users.roles" in hint
    refused(other, "pull", "--accept", "users", code=5)
    with closing(sqlite3.connect(copy)) as db:
        assert db.execute("SELECT count(*) FROM users").fetchone() == (2,)
    gsync_in(other, "pull", "--accept", "users,users.roles")
    with closing(sqlite3.connect(copy)) as db:
        assert db.execute("SELECT id, roles FROM users").fetchall() == [("1", '["admin"]')]
        assert db.execute("SELECT session_id, name FROM user_contexts").fetchall() == [
            ("s", "renamed")
        ]


# --- What stops ----------------------------------------------------------------------

WRONG: list[tuple[str, list[str], int, str]] = [
    ("another scheme", ["mysql://h/d"], 2, "not the URL of a database"),
    ("a password", ["postgresql://u:secret@h/d"], 2, "holds a password"),
    ("no such file", ["sqlite:///absent.db"], 4, "absent.db"),
    ("a name with a blank", ["sqlite:////APP", "--name", "a b"], 2, "not a database's name"),
    ("a table without a key", ["sqlite:////APP", "--tables", "audit"], 2, "no primary key"),
    ("no such table", ["sqlite:////APP", "--tables", "nothing"], 4, "no table nothing"),
    ("no such preset", ["sqlite:////APP", "--preset", "nothing"], 4, "no preset"),
    ("a preset of other tables", ["sqlite:////APP", "--preset", "systemprompt"], 2, "roles"),
    ("no password file", ["sqlite:////APP", "--password-file", "none"], 4, "none does not exist"),
    ("a peer with a password", ["sqlite:////APP", "--peer", "postgresql://u:x@h/d"], 2, "password"),
]


@pytest.mark.parametrize(
    ("args", "code", "part"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG]
)
def test_what_cannot_be_added_is_refused(
    tmp_path: Path, app: Path, args: list[str], code: int, part: str
) -> None:
    """Wrong input gets one line and a code, writes nothing, and repeats no secret."""
    gsync_in(tmp_path, "init")
    args = [arg.replace("/APP", str(app)) for arg in args]
    message, hint = refused(tmp_path, "db", "add", *args, "--yes", code=code)
    assert part in message
    assert "secret" not in message + hint
    assert "[db." not in (tmp_path / "gsync.toml").read_text()


def test_unsaved_rows_stop_what_would_overwrite_them(folder: Path, app: Path) -> None:
    """Restore names the row and changes nothing; with --force it goes on; rows of ours stay."""
    sql(app, "UPDATE users SET name = 'Anne' WHERE id = 'u1'; DELETE FROM posts WHERE slug = 'c'")
    before = rows(app, "users")
    message, hint = refused(folder, "db", "restore", "HEAD", code=5)
    assert "users('u1')" in message
    assert "--force" in hint
    assert rows(app, "users") == before
    error = json_in(folder, "db", "restore", "HEAD", "users", code=5)["error"]
    assert error["details"] == {"rows": ["users('u1')"], "count": 1}
    assert json_in(folder, "db", "restore", "HEAD", "posts")["databases"]["main"]["posts"] == {
        "inserted": 1,
        "updated": 0,
        "deleted": 0,
    }
    sql(app, "INSERT INTO users (id, name) VALUES ('mine', 'Mine')")
    gsync_in(folder, "db", "restore", "HEAD", "--force", "--dry-run")
    assert rows(app, "users") != before
    assert {t["modified"] for t in json_in(folder, "db", "status")["databases"]["main"]["tables"]}
    gsync_in(folder, "db", "restore", "HEAD", "users", "--force")
    assert json_in(folder, "db", "status", "--exit-code")["clean"]


def test_an_older_state_comes_back_and_is_a_change_again(folder: Path, app: Path) -> None:
    """After a restore of HEAD~1 the next snapshot records what came back; other tables stay."""
    first = rows(app, "users")
    sql(app, "UPDATE users SET score = 9 WHERE id = 'u1'; UPDATE posts SET body = 'x'")
    gsync_in(folder, "snapshot")
    sql(app, "UPDATE posts SET body = 'unsaved' WHERE slug = 'a'")
    gsync_in(folder, "db", "restore", "HEAD~1", "users")
    assert rows(app, "users") == first
    assert rows(app, "posts")[0][2] == "unsaved"
    made = json_in(folder, "snapshot")["tables"]
    assert {t["collection"]: t["modified"] for t in made} == {
        "db/main/posts": 1,
        "db/main/users": 1,
    }


def test_databases_can_be_left_out(folder: Path, app: Path) -> None:
    """With --no-databases a snapshot carries the tables as they were; one that is gone stops it."""
    old = json_in(folder, "db", "list")["databases"]
    app.rename(app.with_name("away.db"))
    write(folder, {"a.txt": b"more\n"})
    refused(folder, "snapshot", code=4)
    problems = json_in(folder, "doctor", code=1)["findings"]
    assert any("database main" in f["text"] for f in problems if f["level"] == "problem")
    made = json_in(folder, "snapshot", "--no-databases")
    assert made["tables"] == []
    assert made["collections"]["db/main/users"]["entries"] == 3
    assert json_in(folder, "db", "list")["databases"] == old
    assert head(folder) == made["manifest"]


def test_what_is_not_there_is_named(folder: Path) -> None:
    """Unknown revisions, tables and databases are 4, with what there is."""
    assert "posts" in refused(folder, "db", "show", "HEAD:nothing", code=4)[1]
    refused(folder, "db", "show", "users", code=2)
    refused(folder, "db", "show", "HEAD~7:users", code=4)
    refused(folder, "db", "restore", "HEAD~7", code=4)
    refused(folder, "db", "restore", "HEAD", "nothing", code=4)
    refused(folder, "db", "restore", "HEAD", "--db", "other", code=4)
    assert "main/users" in refused(folder, "db", "diff", "nothing", code=4)[1]
    refused(folder, "db", "status", "other", code=4)


# --- Postgres ------------------------------------------------------------------------

PG_SCHEMA = """
CREATE TABLE users (
  id text PRIMARY KEY, name varchar(255) NOT NULL UNIQUE, email text, bio text, active boolean,
  score double precision, updated_at timestamptz
);
CREATE TABLE posts (
  id serial PRIMARY KEY, slug text NOT NULL UNIQUE,
  author text NOT NULL REFERENCES users ON DELETE CASCADE, body text, meta jsonb
);
"""


def test_postgres_and_sqlite_follow_each_other(
    folder: Path, app: Path, tmp_path: Path, make_database: MakeDatabase
) -> None:
    """A Postgres brought to what a SQLite file recorded has its roots, and sends edits back."""
    server: Database = make_database(PG_SCHEMA)
    other, bare = tmp_path / "other", tmp_path / "bare"
    gsync_in(folder, "remote", "add", "origin", str(bare))
    gsync_in(folder, "push")
    gsync_in(tmp_path, "clone", str(bare), str(other))
    assert json_in(other, "db", "add", server.url)["recorded"]
    gsync_in(other, "db", "restore", "HEAD")
    assert json_in(other, "db", "status", "--exit-code")["clean"]
    assert json_in(other, "snapshot")["manifest"] is None
    with server.connect() as connection:
        connection.execute("UPDATE users SET email = 'new', score = 0.1 WHERE id = 'u2'")
        connection.execute("DELETE FROM posts WHERE slug = 'a'")
    assert "M db/main/users ('u2')" in gsync_in(other, "db", "diff").text
    gsync_in(other, "snapshot")
    gsync_in(other, "push")
    gsync_in(folder, "pull")
    assert rows(app, "users")[1][2::3] == ("new", 0.1)
    assert [row[0] for row in rows(app, "posts")] == ["b", "c"]
    assert json_in(folder, "snapshot")["manifest"] is None
    assert server.name in json_in(other, "db", "list")["databases"][0]["url"]


# --- What a newcomer meets -----------------------------------------------------------


def test_a_reference_to_ids_that_each_copy_fills_is_refused(tmp_path: Path) -> None:
    """Such a number names another row elsewhere, so the table is not recorded with it."""
    app, work = tmp_path / "app.db", tmp_path / "work"
    sql(
        app,
        "CREATE TABLE person (id INTEGER PRIMARY KEY, email TEXT NOT NULL UNIQUE);"
        " CREATE TABLE post (slug TEXT PRIMARY KEY NOT NULL, author INTEGER REFERENCES person (id),"
        " owner TEXT REFERENCES person (email)); CREATE TABLE odd (id TEXT PRIMARY KEY, value)",
    )
    work.mkdir()
    gsync_in(work, "init")
    found = json_in(work, "db", "add", f"sqlite:///{app}", "--dry-run")
    (reason,) = found["refused"]["post"]
    assert reason.startswith("author refers to person (id), which is left out there")
    assert found["refused"]["odd"][0].startswith("value: it declares no type; list it as excluded")
    assert "post: author refers to person (id)" in found["proposal"]
    gsync_in(work, "db", "add", f"sqlite:///{app}", "--yes")
    config = work / "gsync.toml"
    config.write_text(config.read_text() + '\n[db.main.tables.post]\nkey = ["slug"]\n')
    message, _ = refused(work, "snapshot", code=2)
    assert "author refers to person (id)" in message
    config.write_text(config.read_text() + 'excluded = ["author"]\n')
    gsync_in(work, "snapshot")


def test_rows_of_a_table_that_was_left_out_meanwhile_are_not_deleted(
    folder: Path, app: Path, tmp_path: Path
) -> None:
    """A table recorded again by others says nothing about rows that nobody recorded here."""
    bare, other, copy = tmp_path / "bare", tmp_path / "other", tmp_path / "copy.db"
    gsync_in(folder, "remote", "add", "origin", str(bare))
    gsync_in(folder, "push")
    gsync_in(tmp_path, "clone", str(bare), str(other))
    sql(copy, SCHEMA + ROWS)
    add(other, copy)
    gsync_in(other, "db", "restore", "HEAD")
    kept = rows(copy, "posts")
    assert kept

    named = (folder / "gsync.toml").read_text()
    head, _, _ = named.partition("[db.main.tables.posts]")
    without = head + "[db.main.tables.users]" + named.partition("[db.main.tables.users]")[2]
    (folder / "gsync.toml").write_text(without)
    gsync_in(folder, "collection", "remove", "db/main/posts")
    gsync_in(folder, "snapshot", "-m", "without posts")
    gsync_in(folder, "push")
    gsync_in(other, "pull")
    sql(app, "DELETE FROM posts")
    (folder / "gsync.toml").write_text(named)
    gsync_in(folder, "snapshot", "-m", "posts again, empty")
    gsync_in(folder, "push")
    assert json_in(other, "pull")["databases"].get("main", {}) == {}
    assert rows(copy, "posts") == kept


def test_a_table_that_is_gone_hides_no_other(folder: Path, app: Path) -> None:
    """Status and diff of one table ask nothing of the rest."""
    sql(app, "DROP TABLE posts; UPDATE users SET name = 'Bea' WHERE id = 'u1'")
    assert " 1 modified" in gsync_in(folder, "db", "status", "users").text
    assert "M db/main/users ('u1')" in gsync_in(folder, "db", "diff", "users").text
    message, _ = refused(folder, "db", "status", code=2)
    assert "posts" in message


def test_what_is_said_next_can_be_done(folder: Path, app: Path, tmp_path: Path) -> None:
    """Hints lead on, in a clone that has no database yet as where there is one."""
    bare, other, copy = tmp_path / "bare", tmp_path / "other", tmp_path / "copy.db"
    gsync_in(folder, "remote", "add", "origin", str(bare))
    gsync_in(folder, "push")
    gsync_in(tmp_path, "clone", str(bare), str(other))
    message, hint = refused(other, "db", "restore", "HEAD", code=4)
    assert "no database is configured here" in message
    assert "gsync db add URL --name main" in hint
    sql(copy, SCHEMA)
    add(other, copy)
    told = gsync_in(other, "db", "status").text
    assert "gsync db restore HEAD" in told
    assert "gsync snapshot" not in told
    assert "gsync db status" in gsync_in(other, "db", "add", f"sqlite:///{copy}", "--yes").err
    message, hint = refused(folder, "diff", "--", "db/main/users", code=2)
    assert "db/main/users is a table" in message
    assert "gsync db diff main/users" in hint
    _, hint = refused(folder, "db", "show", "HEAD", code=2)
    assert "HEAD:users" in hint
    message, _ = refused(folder, "db", "sync", "main", "main", code=2)
    assert "one database" in message
