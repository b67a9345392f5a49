"""Users and contexts as the older system's document, from and into real databases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support_cli import gsync_in, json_in, refused
from support_pg import Database, MakeDatabase

from gsync.errors import Invalid
from gsync.replicas.postgres.connect import PostgresDatabase
from gsync.sync.exports import (
    ContextExport,
    DatabaseExport,
    ImportResult,
    UserExport,
    export_database,
    import_database,
)

SCHEMA = (Path(__file__).parent.parent / "systemprompt.sql").read_text()
LONG = "long " * 5_000


def run(database: Database, *statements: str) -> list[tuple[Any, ...]]:
    with database.connect(autocommit=True) as connection:
        for statement in statements[:-1]:
            connection.execute(statement)
        cursor = connection.execute(statements[-1])
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def ours(make_database: MakeDatabase) -> Database:
    database = make_database(SCHEMA)
    run(
        database,
        "INSERT INTO users (id, name, email, avatar_url, roles, email_verified, created_at) VALUES"
        " ('u2', 'Zoë', 'z@example.org', NULL, '{admin,\"a,b\"}', NULL,"
        " '2026-01-02 03:04:05.678+02'),"
        f" ('u1', 'ann', 'a@example.org', '{LONG}', '{{}}', true, '1999-12-31T23:59:59Z')",
        "INSERT INTO user_sessions VALUES ('s1', 'u1')",
        "INSERT INTO user_contexts (context_id, user_id, session_id, name, kind) VALUES"
        " ('c1', 'u1', 's1', E'tab\\there', 'cli_session'), ('c2', 'u2', NULL, '', 'user')",
    )
    return database


def test_the_document(tmp_path: Path, ours: Database) -> None:
    """Every row with every key, in order, as it is in the database."""
    gsync_in(tmp_path, "db", "export", "out.json", ours.url)
    document = json.loads((tmp_path / "out.json").read_text())
    assert list(document) == ["users", "contexts", "timestamp"]
    ann, zoe = document["users"]
    assert ",".join(ann) == (
        "id,name,email,full_name,display_name,status,email_verified,roles,is_bot,is_scanner,"
        "avatar_url,created_at,updated_at"
    )
    assert (ann["id"], ann["avatar_url"], ann["roles"]) == ("u1", LONG, [])
    assert ann["created_at"] == "1999-12-31T23:59:59Z"
    assert (zoe["name"], zoe["roles"], zoe["email_verified"]) == ("Zoë", ["admin", "a,b"], None)
    assert zoe["created_at"] == "2026-01-02T01:04:05.678Z"
    first, second = document["contexts"]
    assert set(first) == (
        {"context_id", "user_id", "session_id", "name", "kind", "created_at", "updated_at"}
    )
    assert (first["session_id"], first["name"], second["name"]) == ("s1", "tab\there", "")
    message, _ = refused(tmp_path, "db", "export", "out.json", ours.url, code=5)
    assert "exists already" in message


def test_into_another_database(tmp_path: Path, ours: Database, make_database: MakeDatabase) -> None:
    """What is not there is made, what is there is skipped, and a second time changes nothing."""
    theirs = make_database(SCHEMA)
    gsync_in(tmp_path, "db", "export", "out.json", ours.url)
    planned = json_in(tmp_path, "db", "import", "out.json", theirs.url, "--dry-run")
    assert (planned["created"], run(theirs, "SELECT count(*) FROM users")) == (4, [(0,)])
    done = json_in(tmp_path, "db", "import", "out.json", theirs.url)
    assert (done["created"], done["updated"], done["skipped"]) == (4, 0, 0)
    people = "SELECT id, name, email, avatar_url, roles, created_at FROM users ORDER BY 1"
    contexts = "SELECT context_id, user_id, name, kind, created_at FROM user_contexts ORDER BY 1"
    assert [run(theirs, query) for query in (people, contexts)] == [
        run(ours, query) for query in (people, contexts)
    ]
    assert run(theirs, "SELECT DISTINCT session_id FROM user_contexts") == [(None,)]
    again = json_in(tmp_path, "db", "import", "out.json", theirs.url)
    assert (again["created"], again["updated"], again["skipped"]) == (0, 0, 4)


def test_what_differs_is_not_overwritten(
    tmp_path: Path, ours: Database, make_database: MakeDatabase
) -> None:
    """An edited row stops the import, roles and owners are protected, and nothing is deleted."""
    theirs = make_database(SCHEMA)
    gsync_in(tmp_path, "db", "export", "out.json", ours.url)
    gsync_in(tmp_path, "db", "import", "out.json", theirs.url)
    run(
        theirs,
        "INSERT INTO users (id, name, email) VALUES ('u3', 'new', 'n@example.org')",
        "UPDATE user_contexts SET name = 'theirs' WHERE context_id = 'c1'",
    )
    message, hint = refused(tmp_path, "db", "import", "out.json", theirs.url, code=5)
    assert "c1" in message and "--take-file" in hint
    done = json_in(tmp_path, "db", "import", "out.json", theirs.url, "--take-file")
    assert (done["created"], done["updated"], done["skipped"]) == (0, 1, 3)
    assert run(theirs, "SELECT count(*) FROM users") == [(3,)]
    run(theirs, "UPDATE users SET roles = '{user}' WHERE id = 'u2'")
    message, hint = refused(tmp_path, "db", "import", "out.json", theirs.url, "--take-file", code=5)
    assert "roles" in message and "--accept" in hint
    assert run(theirs, "SELECT roles FROM users WHERE id = 'u2'") == [(["user"],)]
    # A name that somebody else has there is a clash, and said.
    document = json.loads((tmp_path / "out.json").read_text())
    document["users"].append({"id": "u9", "name": "new", "email": "x@example.org"})
    (tmp_path / "more.json").write_text(json.dumps(document))
    message, _ = refused(
        tmp_path,
        "db",
        "import",
        "more.json",
        theirs.url,
        "--take-file",
        "--accept",
        "users.roles",
        code=5,
    )
    assert "u9" in message and "u3" in message


USER = {"id": "u", "name": "n", "email": "e"}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "expected an object"),
        ({"users": []}, "'contexts' is no list"),
        ({"users": [5], "contexts": []}, "users[0]: expected an object"),
        ({"users": [{"id": "u", "name": "n"}], "contexts": []}, "users[0]: email is missing"),
        ({"users": [USER | {"roles": "admin"}], "contexts": []}, "users[0].roles"),
        ({"users": [USER | {"is_bot": "no"}], "contexts": []}, "true or false"),
        ({"users": [USER | {"created_at": "yesterday"}], "contexts": []}, "users[0].created_at"),
        ({"users": [], "contexts": [{"context_id": "c", "name": ""}]}, "user_id is missing"),
        ({"users": [USER | {"id": None}], "contexts": []}, "users[0]: id is missing"),
        ({"users": [USER | {"name": "\ud800"}], "contexts": []}, "users[0].name"),
        ({"users": [USER | {"roles": ["a\0"]}], "contexts": []}, "users[0].roles"),
    ],
)
def test_documents_that_are_none(document: object, said: str) -> None:
    """The error names the place, and what is expected there."""
    with pytest.raises(Invalid) as caught:
        DatabaseExport.from_json(document)
    assert said in str(caught.value)


def test_a_document_says_the_same_twice(tmp_path: Path, make_database: MakeDatabase) -> None:
    """Two rows with one id are refused before anything is written; so is a file that is no JSON."""
    theirs = make_database(SCHEMA)
    (tmp_path / "twice.json").write_text(json.dumps({"users": [USER, USER], "contexts": []}))
    assert "twice" in refused(tmp_path, "db", "import", "twice.json", theirs.url, code=2)[0]
    (tmp_path / "bad.json").write_text('{"users": [')
    assert "no JSON" in refused(tmp_path, "db", "import", "bad.json", theirs.url, code=2)[0]
    assert run(theirs, "SELECT count(*) FROM users") == [(0,)]


def test_unknown_keys_are_passed_over() -> None:
    """A document of a later version is read as far as it is known, and round trips."""
    more = {"users": [USER | {"later": 1}], "contexts": [], "skills": [], "timestamp": "t"}
    found = DatabaseExport.from_json(more)
    assert DatabaseExport.from_json(found.to_json()) == found
    assert found.users == (UserExport("u", "n", "e"),)


def test_from_python(tmp_path: Path, make_database: MakeDatabase) -> None:
    """The same without the command: what is written is counted by the database."""
    theirs = make_database(SCHEMA)
    export = DatabaseExport(
        (UserExport("u", "n", "e@example.org"),), (ContextExport("c", "u", "talk"),), ""
    )
    target = PostgresDatabase(theirs.url, None)
    assert import_database(export, target, "me") == ImportResult(2, 0, 0)
    found = export_database(PostgresDatabase(theirs.url, None))
    assert [user.id for user in found.users] == ["u"]
    assert [(context.context_id, context.name) for context in found.contexts] == [("c", "talk")]
