"""The commands `sync-all` and `db sync`."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from support_cli import gsync_in, json_in, refused, write

SCHEMA = "CREATE TABLE item (id INTEGER PRIMARY KEY NOT NULL, note TEXT)"
SHARED = b'version = 1\n[db.app.tables.item]\nkey = ["id"]\nprotected = ["note"]\n'


def run(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        for statement in statements:
            db.execute(statement)


def rows(path: Path) -> dict[int, str]:
    with closing(sqlite3.connect(path)) as db:
        return dict(db.execute("SELECT id, note FROM item"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository with a remote, and a database with a peer, both empty at the other end."""
    path = tmp_path / "here"
    path.mkdir()
    gsync_in(path, "init")
    write(path, {"gsync.toml": SHARED, "a.txt": b"one\n", ".gsyncignore": b"*.db\n"})
    gsync_in(path, "remote", "add", "origin", str(tmp_path / "bare"))
    with (path / ".gsync" / "config.toml").open("a") as file:
        file.write(
            f'\n[db.app]\nurl = "sqlite:///{path / "app.db"}"\n'
            f'peer = "sqlite:///{tmp_path / "peer.db"}"\n'
        )
    run(path / "app.db", SCHEMA, "INSERT INTO item VALUES (1, 'a'), (2, 'b')")
    run(tmp_path / "peer.db", SCHEMA)
    return path


def test_sync_all_there_and_back(folder: Path, tmp_path: Path) -> None:
    """Files and tables go to their other ends, and a second run has nothing to do."""
    document = json_in(folder, "sync-all")
    files, database = document["results"]
    assert (files["operation"], files["success"], files["items_synced"]) == ("files_push", True, 3)
    assert (database["operation"], database["items_synced"]) == ("database_push", 2)
    assert database["details"]["database"] == "app"
    assert rows(tmp_path / "peer.db") == {1: "a", 2: "b"}
    again = json_in(folder, "sync-all")["results"]
    assert [result["items_synced"] for result in again] == [0, 0]
    run(tmp_path / "peer.db", "INSERT INTO item VALUES (3, 'c')")
    planned = json_in(folder, "sync-all", "--direction", "pull", "--dry-run")["results"]
    assert [result["items_skipped"] for result in planned] == [0, 1]
    assert rows(folder / "app.db") == {1: "a", 2: "b"}
    text = gsync_in(folder, "sync-all", "--direction", "pull").text.splitlines()
    assert text[0].split() == [
        "step", "what", "state", "created", "updated", "deleted", "unchanged", "skipped"
    ]  # fmt: skip
    assert text[2].split() == ["database_pull", "app/item", "completed", "1", "0", "0", "2", "0"]
    assert rows(folder / "app.db") == {1: "a", 2: "b", 3: "c"}


def test_sync_all_ends_as_its_first_failure(folder: Path, tmp_path: Path) -> None:
    """A step that fails keeps no other from being done, and the exit code is of its kind."""
    run(tmp_path / "peer.db", "INSERT INTO item VALUES (1, 'other')")
    document = json_in(folder, "sync-all", code=5)
    files, database = document["results"]
    assert files["success"]
    assert database["state"] == {"kind": "failed"}
    assert "item(1)" in database["errors"][0]
    done = gsync_in(folder, "sync-all", "--remote", "nowhere", code=4)
    assert done.err.count("gsync: ") == 2


def test_sync_all_without_a_peer(folder: Path) -> None:
    """A database that is known to be nowhere else is not started, and says what to set."""
    config = folder / ".gsync" / "config.toml"
    config.write_text(
        "".join(s for s in config.read_text().splitlines(True) if not s.startswith("peer"))
    )
    database = json_in(folder, "sync-all", code=2)["results"][1]
    assert database["state"] == {"kind": "not_started"}
    assert "peer is not set" in database["errors"][0]


def test_db_sync_by_name_and_by_url(folder: Path, tmp_path: Path) -> None:
    """A database is named by its configuration, as the peer of one, or by its URL."""
    dry = json_in(folder, "db", "sync", "app", "app:peer", "--dry-run")
    assert (dry["tables"]["item"]["created"], dry["to"], dry["dry_run"]) == (2, None, True)
    assert rows(tmp_path / "peer.db") == {}
    done = json_in(folder, "db", "sync", "app", f"sqlite:///{tmp_path / 'peer.db'}")
    assert done["tables"]["item"]["created"] == 2
    run(tmp_path / "peer.db", "INSERT INTO item VALUES (7, 'x')")
    text = gsync_in(folder, "db", "sync", "app:peer", "sqlite:///app.db").text
    assert "Wrote 1 row(s)" in text
    assert rows(folder / "app.db") == {1: "a", 2: "b", 7: "x"}
    pair = done["pair"]
    assert json_in(folder, "refs")["refs"][f"{pair}/main"] != done["to"]
    log = json_in(folder, "log", f"{pair}/main")["manifests"]
    assert [entry["manifest"] for entry in log][1:] == [done["to"]]
    shown = json_in(folder, "show", f"{pair}/main")
    assert "db sync" in str(shown)
    assert "db/pair/item" in gsync_in(folder, "diff", f"{pair}/main~1", f"{pair}/main").text


def test_db_sync_conflicts(folder: Path, tmp_path: Path) -> None:
    """Rows that differ stop it; the source's are taken when that is said, and accepted."""
    run(tmp_path / "peer.db", "INSERT INTO item VALUES (1, 'other'), (9, 'mine')")
    message, hint = refused(folder, "db", "sync", "app", "app:peer", code=5)
    assert "item(1)" in message
    assert "--take-source" in hint
    message, hint = refused(folder, "db", "sync", "app", "app:peer", "--take-source", code=5)
    assert "--accept item.note" in hint
    gsync_in(folder, "db", "sync", "app", "app:peer", "--take-source", "--accept", "item.note")
    assert rows(tmp_path / "peer.db") == {1: "a", 2: "b", 9: "mine"}


def test_db_sync_needs_to_know_what(folder: Path) -> None:
    """Tables, presets and databases that are not known are refused by name."""
    assert "nope" in refused(folder, "db", "sync", "app", "nope", code=4)[0]
    assert "nope" in refused(folder, "db", "sync", "app", "app:peer", "--tables", "nope", code=4)[0]
    assert "nope" in refused(folder, "db", "sync", "app", "app:peer", "--preset", "nope", code=4)[0]
    refused(folder, "db", "sync", "app", "app:other", code=2)
    secret = "postgresql://me:hidden@localhost/app"
    message, hint = refused(folder, "db", "sync", "app", secret, code=2)
    assert "hidden" not in message + hint


def test_syncs_of_databases_are_on_record(folder: Path) -> None:
    """Each by the peer that it talked to, the failed ones too; a dry run is none."""
    json_in(folder, "db", "sync", "app", "app:peer", "--dry-run")
    assert json_in(folder, "runs")["runs"] == []
    json_in(folder, "db", "sync", "app", "app:peer")
    refused(folder, "db", "sync", "app:peer", "app", "--tables", "nothing", code=4)
    failed, done = json_in(folder, "runs")["runs"]
    assert (done["command"], done["remote"], done["outcome"]) == ("db sync", "app:peer", "done")
    assert (failed["remote"], failed["outcome"]) == ("app:peer", "failed")
    fared = json_in(folder, "status")["runs"]["app:peer"]
    assert (fared["command"], fared["failures"]) == ("db sync", 1)
