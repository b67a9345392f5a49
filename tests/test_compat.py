"""The older system's names: the page that lists them is what the module has."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest
from support import require
from support_cli import make_repository
from support_pg import MakeDatabase
from support_server import running_server

from gsync import compat

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "spec" / "seed-names.md").read_text()


def rows(heading: str) -> list[list[str]]:
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


NAMES = {name: row for row in rows("Names") for name in re.findall(r"`(\w+)`", row[0])}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_where_the_page_says(name: str) -> None:
    """And one that is to come is nowhere, so that the page has to say when it has come."""
    _, where, does, test = NAMES[name]
    assert does
    if where == "*later*":
        assert not hasattr(compat, name)
        return
    assert name in compat.__all__ and inspect.getdoc(getattr(compat, name))
    assert getattr(importlib.import_module(where.strip("`")), name) is getattr(compat, name)
    assert name in (ROOT / test.strip("`")).read_text()


def test_no_name_is_left_out() -> None:
    errors = {"ApiError", "Unauthorized", "MissingConfig", "InvalidInput"}
    later = {name for name, row in NAMES.items() if row[1] == "*later*"}
    assert set(compat.__all__) == NAMES.keys() - later | errors
    assert len(NAMES) == 55


@pytest.mark.parametrize("name", ["ApiError", "Unauthorized", "MissingConfig", "InvalidInput"])
def test_errors_are_of_one_tree_and_in_the_page(name: str) -> None:
    error = getattr(compat, name)
    assert issubclass(error, compat.SyncError)
    assert any(f"`{name}`" in row[1] for row in rows("Errors"))


def test_errors_have_a_kind() -> None:
    for error in (compat.MissingConfig("x", "y"), compat.InvalidInput("x", "y")):
        assert error.code == "invalid" and not error.retryable


def test_the_builder_gives_what_was_set() -> None:
    builder = compat.SyncConfigBuilder(compat.SyncConfig("t", "https://api", "token", "services"))
    assert builder.with_dry_run(True).build().dry_run
    assert not builder.build().dry_run


def test_files_alone(tmp_path: Path) -> None:
    """`FileSyncService` pushes a folder to a server, and pulls it elsewhere."""
    require("server")
    folder = make_repository(tmp_path / "services", {"agents/a.yaml": b"agents: {}\n"})
    with running_server(tmp_path / "data") as server:
        config = compat.SyncConfig("team", server.base, server.token("team"), folder)
        assert compat.FileSyncService(config).sync().operation == "files_push"
        other = compat.SyncConfig(
            "team", server.base, server.token("team"), tmp_path / "other"
        ).with_direction(compat.SyncDirection.PULL)
        (tmp_path / "other").mkdir()
        assert compat.FileSyncService(other).sync().success
    assert (tmp_path / "other/agents/a.yaml").read_bytes() == b"agents: {}\n"


def test_databases_under_the_older_name(tmp_path: Path, make_database: MakeDatabase) -> None:
    """Both ways, with a folder that remembers; a dry run needs none."""
    schema = (ROOT / "tests" / "systemprompt.sql").read_text()
    ours, theirs = make_database(schema), make_database(schema)
    with ours.connect(autocommit=True) as connection:
        connection.execute("INSERT INTO users (id, name, email) VALUES ('u', 'n', 'e')")
    ends = ours.url, theirs.url, tmp_path

    def sync(direction: compat.SyncDirection, *, dry_run: bool) -> compat.SyncOperationResult:
        return compat.DatabaseSyncService(direction, dry_run, *ends).sync()

    planned = sync(compat.SyncDirection.PUSH, dry_run=True)
    assert planned.items_skipped == 1
    assert not (tmp_path / ".gsync").exists()
    assert sync(compat.SyncDirection.PUSH, dry_run=False).items_synced == 1
    assert sync(compat.SyncDirection.PUSH, dry_run=False).items_synced == 0
    with theirs.connect(autocommit=True) as connection:
        connection.execute("UPDATE users SET name = 'theirs'")
    assert sync(compat.SyncDirection.PULL, dry_run=False).items_synced == 1
    with ours.connect(autocommit=True) as connection:
        assert connection.execute("SELECT name FROM users").fetchall() == [("theirs",)]


def test_another_name_of_results() -> None:
    """`SyncResult` is what calls return."""
    assert compat.SyncResult is compat.SyncOperationResult
