"""gsync watch as a real process beside edits, other commands, and failures."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support_cli import gsync_in, json_in, make_repository, refused, start, write

LIMIT_S = 60


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not what():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


def count(folder: Path) -> int:
    return len(json_in(folder, "log")["manifests"])


def is_saved(folder: Path, path: str, content: bytes) -> bool:
    found = json_in(folder, "ls", "HEAD")["entries"]
    if path not in [entry["key"] for entry in found]:
        return False
    return gsync_in(folder, "cat", f"HEAD:{path}").out == content


@contextmanager
def watching(folder: Path, *args: str) -> Iterator[subprocess.Popen[bytes]]:
    """Give a watcher that has begun to watch, and end it."""
    process = start(folder, "watch", "--rest", "0.3", *args)
    try:
        write(folder, {"begin": b"1"})
        wait_for(lambda: is_saved(folder, "begin", b"1"))
        yield process
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=LIMIT_S)
            assert process.returncode == 0, said
    finally:
        process.kill()
        process.communicate()


def test_what_changes_is_saved(tmp_path: Path) -> None:
    """New, altered, renamed and deleted, in directories that are new, in time."""
    folder = make_repository(tmp_path / "a", {"a": b"1", "b": b"2"})
    with watching(folder):
        write(folder, {"a": b"changed", "new/deep/c": b"3"})
        wait_for(lambda: is_saved(folder, "new/deep/c", b"3"))
        (folder / "new").rename(folder / "moved")
        (folder / "b").unlink()
        write(folder, {"moved/deep/d": b"4"})
        wait_for(lambda: is_saved(folder, "moved/deep/d", b"4"))
        paths = {entry["key"] for entry in json_in(folder, "ls", "HEAD")["entries"]}
        assert {"a", "moved/deep/c"} <= paths and not {"b", "new/deep/c"} & paths
        assert json_in(folder, "status")["changes"] == []


def test_a_burst_is_one_snapshot(tmp_path: Path) -> None:
    """Files that come one after the other are taken together, and nothing makes none."""
    folder = make_repository(tmp_path / "a", {"a": b"1"})
    with watching(folder, "-m", "by itself"):
        before = count(folder)
        for n in range(50):
            write(folder, {f"many/{n}": b"x"})
        wait_for(lambda: is_saved(folder, "many/49", b"x"))
        assert count(folder) - before <= 2
        assert json_in(folder, "log")["manifests"][0]["message"] == "by itself"
        after = count(folder)
        os.utime(folder / "a")
        write(folder, {"last": b"1"})
        wait_for(lambda: is_saved(folder, "last", b"1"))
        assert count(folder) == after + 1


def test_others_work_beside_it(tmp_path: Path) -> None:
    """It holds the repository only while it acts; what others change is no news."""
    folder = make_repository(tmp_path / "a", {"a": b"1"})
    with watching(folder):
        write(folder, {"a": b"2"})
        gsync_in(folder, "snapshot", "-m", "mine")
        gsync_in(folder, "restore", "HEAD~1", "a")
        wait_for(lambda: is_saved(folder, "a", b"1"))
        said = refused(folder, "watch", code=7)
        assert "gsync watch" in said[0]


def test_it_syncs(tmp_path: Path) -> None:
    """Both ways: what changes here goes there with the next sync, what changed there comes."""
    folder = make_repository(tmp_path / "a", {"a": b"1"})
    gsync_in(folder, "remote", "add", "origin", str(tmp_path / "store"))
    gsync_in(folder, "push")
    gsync_in(tmp_path, "clone", str(tmp_path / "store"), "b")
    other = tmp_path / "b"
    write(other, {"theirs": b"1"})
    gsync_in(other, "sync")
    with watching(folder, "--sync", "origin"):
        write(folder, {"ours": b"2"})
        wait_for(lambda: is_saved(folder, "ours", b"2") and (folder / "theirs").exists())
    gsync_in(other, "pull")
    assert (other / "ours").read_bytes() == b"2"


def test_a_failure_is_tried_again(tmp_path: Path) -> None:
    """What could not be saved is, once it can be, without another change."""
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    folder = make_repository(tmp_path / "a", {"a": b"1"})
    with watching(folder):
        write(folder, {"locked": b"1"})
        (folder / "locked").chmod(0)
        time.sleep(2)
        (folder / "locked").chmod(0o644)
        wait_for(lambda: is_saved(folder, "locked", b"1"))


def test_a_merge_that_waits_is_no_end(tmp_path: Path) -> None:
    """It says that it failed, goes on, and saves when the merge is done."""
    folder = make_repository(tmp_path / "a", {"a": b"1\n"})
    gsync_in(folder, "remote", "add", "origin", str(tmp_path / "store"))
    gsync_in(folder, "push")
    gsync_in(tmp_path, "clone", str(tmp_path / "store"), "b")
    write(tmp_path / "b", {"a": b"2\n"})
    gsync_in(tmp_path / "b", "sync")
    with watching(folder) as process:
        write(folder, {"a": b"3\n"})
        wait_for(lambda: is_saved(folder, "a", b"3\n"))
        gsync_in(folder, "pull", code=1)
        write(folder, {"more": b"x"})
        time.sleep(2)
        assert process.poll() is None
        gsync_in(folder, "merge", "--abort")
        wait_for(lambda: is_saved(folder, "more", b"x"))


def test_killed(tmp_path: Path) -> None:
    """The next one begins with what it has missed."""
    folder = make_repository(tmp_path / "a", {"a": b"1"})
    with watching(folder) as process:
        process.kill()
        process.wait()
    write(folder, {"missed": b"1"})
    with watching(folder):
        wait_for(lambda: is_saved(folder, "missed", b"1"))
    gsync_in(folder, "verify")
