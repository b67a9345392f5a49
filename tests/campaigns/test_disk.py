"""The short form of the disk campaign, and a real file system that is full."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from campaigns.disk import SCENARIOS, drill, small_disk
from support import require
from support_cli import gsync_in, head, json_in, make_repository, read_tree, refused, write
from support_faults import Runner
from support_server import running_server

pytest.importorskip("apsw")

FAILING = ("error", "full", "gone")
CASES = [(name, FAILING[at % 3]) for at, name in enumerate(SCENARIOS)]


@pytest.fixture(scope="module")
def runner(sealed_environment: None) -> Iterator[Runner]:
    with Runner() as found:
        yield found


@pytest.mark.parametrize("mode", FAILING)
def test_restore_on_a_disk_that_fails(runner: Runner, tmp_path: Path, mode: str) -> None:
    """Wherever a restore fails the folder is old or new, it is said what to do, and it helps."""
    found = drill(runner, "restore", mode, tmp_path, lambda at: at + 11)
    assert found.faults == []
    assert found.refused >= 3


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mode"), CASES)
def test_command_on_a_disk_that_fails(runner: Runner, tmp_path: Path, name: str, mode: str) -> None:
    """At the 1st, 4th, 13th, ... operation: refs and folder old or new, and a repeat succeeds."""
    if SCENARIOS[name].served:
        require("server")
    found = drill(runner, name, mode, tmp_path, lambda at: 3 * at + 1)
    assert found.faults == []
    assert found.points >= 1


@pytest.mark.slow
def test_pull_after_the_swap(runner: Runner, tmp_path: Path) -> None:
    """A ref that cannot be written once the folder is new follows at the next start."""
    found = drill(runner, "pull", "full", tmp_path, lambda at: at + 1 if at > 70 else 71)
    assert found.faults == []
    assert found.refused >= 10


def test_short_writes_go_on(runner: Runner, tmp_path: Path) -> None:
    """What the disk takes in two parts is whole in the end."""
    found = drill(runner, "restore", "short", tmp_path)
    assert found.faults == []
    assert found.done == found.points >= 3


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 8 MiB."""
    require("root")
    try:
        with small_disk(tmp_path / "disk", "8m") as place:
            yield place
    except OSError as error:
        pytest.skip(f"no tmpfs: {error}")


def test_pull_onto_a_full_disk(disk: Path, tmp_path: Path) -> None:
    """It ends with 7, nothing has moved, and with room again it succeeds."""
    origin = make_repository(tmp_path / "origin")
    gsync_in(disk, "clone", str(origin), "copy")
    copy = disk / "copy"
    before, tree = head(copy), read_tree(copy)
    write(origin, {"big": os.urandom(1_500_000), "a.txt": b"changed\n"})
    gsync_in(origin, "snapshot")
    (disk / "filler").write_bytes(bytes(5_500_000))
    message, hint = refused(copy, "pull", code=7)
    assert "room" in hint, message
    assert (head(copy), read_tree(copy)) == (before, tree)
    (disk / "filler").unlink()
    gsync_in(copy, "pull")
    assert read_tree(copy) == read_tree(origin)
    assert json_in(copy, "verify")["problems"] == []


def test_push_to_a_server_whose_disk_is_full(disk: Path, tmp_path: Path) -> None:
    """The client is told with 7, the server goes on, and with room again the push succeeds."""
    require("server")
    folder = make_repository(tmp_path / "work")
    with running_server(disk / "data") as server:
        token = server.token()
        gsync_in(folder, "remote", "add", "origin", f"{server.base}/acme")
        gsync_in(folder, "push", GSYNC_TOKEN=token)
        first = head(folder)
        write(folder, {"big": os.urandom(2_500_000)})
        gsync_in(folder, "snapshot")
        filler = disk / "filler"
        filler.write_bytes(bytes(5_500_000))
        message, hint = refused(folder, "push", code=7, GSYNC_TOKEN=token)
        # A server that answers before it has read all may be seen to break off.
        assert ("full" in message and "room" in hint) or "broke off" in message
        gsync_in(folder, "fetch", GSYNC_TOKEN=token)
        assert json_in(folder, "refs")["refs"]["origin/main"] == first
        filler.unlink()
        gsync_in(folder, "push", GSYNC_TOKEN=token)
    assert json_in(folder, "refs")["refs"]["origin/main"] == head(folder)
