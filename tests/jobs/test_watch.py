"""gsync watch as a real process beside edits, other commands, and failures."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
from support_cli import gsync_in, json_in, make_repository, refused, start, write

from gsync.replicas.files.inotify import FolderEvents, is_local
from gsync.sync.repository import open_repository, status
from gsync.sync.watched import ask

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


def is_known(folder: Path) -> bool:
    return ask(folder, folder / ".gsync") is not None


@pytest.mark.skipif(sys.platform != "linux", reason="watchers answer on Linux alone")
def test_status_asks_it(tmp_path: Path) -> None:
    """It says what a scan would, after every sort of change, and nothing that is not so."""
    folder = make_repository(tmp_path / "a", {"a": b"1", "d/b": b"2", ".env": b"secret"})
    rng = random.Random(5)
    with watching(folder):
        wait_for(lambda: is_known(folder))
        names = [notice["key"] for notice in json_in(folder, "status")["notices"]]
        assert names == [".env"]
        for n in range(60):
            change_something(folder, rng, n)
            asked, scanned = json_in(folder, "status"), json_in(folder, "status", "--full")
            # A snapshot may have come between the two.
            if asked["head"] == scanned["head"]:
                assert asked["changes"] == scanned["changes"]
            if n % 10 == 0:
                wait_for(lambda: is_known(folder))
                assert json_in(folder, "status", "--full")["changes"] == []


def change_something(folder: Path, rng: random.Random, n: int) -> None:
    directories = [p for p in folder.rglob("*") if p.is_dir() and ".gsync" not in p.parts]
    files = [p for p in folder.rglob("*") if p.is_file() and ".gsync" not in p.parts]
    files = [p for p in files if p.name != "gsync.toml"]
    where = rng.choice([folder, *directories])
    match rng.randrange(7):
        case 0:
            write(where, {f"new{n}/x/y": b"%d" % n})
        case 1 if directories:
            rng.choice(directories).rename(folder / f"moved{n}")
        case 2:
            rng.choice(files).chmod(0o755)
        case 3:
            rng.choice(files).unlink()
        case 4:
            (where / f"link{n}").symlink_to("a")
        case 5:
            rng.choice(files).write_bytes(b"same length %d" % (n % 10))
        case _:
            write(where, {f"file{n}": b"%d" % n})


@pytest.mark.skipif(sys.platform != "linux", reason="watchers answer on Linux alone")
def test_a_change_before_the_question_is_in_the_answer(tmp_path: Path) -> None:
    """However soon it is asked, and wherever the change is."""
    folder = make_repository(tmp_path / "a", {"a": b"1", "d/e/f": b"2"})
    with watching(folder):
        for n in range(30):
            wait_for(lambda: is_known(folder))
            if n % 3 == 0:
                (folder / "d/e/f").write_bytes(b"%d" % n)
            elif n % 3 == 1:
                (folder / f"new{n}").mkdir()
                (folder / f"new{n}/x").write_bytes(b"1")
            else:
                (folder / f"new{n - 1}").rename(folder / f"d/new{n}")
            assert not is_known(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="watchers answer on Linux alone")
def test_whom_status_does_not_believe(tmp_path: Path) -> None:
    """A watcher that is gone, of another folder, or of another HEAD."""
    folder = make_repository(tmp_path / "a", {"a": b"1", "b": b"2"})
    with watching(folder) as process:
        wait_for(lambda: is_known(folder))
        gsync_in(folder, "untrack", "b")
        found = json_in(folder, "status")
        assert [change["key"] for change in found["changes"]] == ["b"]
        process.kill()
        process.wait()
    assert (folder / ".gsync/watch.sock").exists()
    write(folder, {"a": b"3"})
    changes = json_in(folder, "status")["changes"]
    assert "a" in [change["key"] for change in changes]


@pytest.mark.skipif(sys.platform != "linux", reason="watchers answer on Linux alone")
def test_another_directory_of_the_name(tmp_path: Path) -> None:
    """What a watcher knows is of the directory that it has, and not of one with its name."""
    folder = make_repository(tmp_path / "a", {"a": b"1"})
    with watching(folder):
        wait_for(lambda: is_known(folder))
        (tmp_path / "b").mkdir()
        assert ask(tmp_path / "b", folder / ".gsync") is None
        assert ask(folder, folder / ".gsync") is not None


@pytest.mark.skipif(sys.platform != "linux", reason="there is no inotify")
def test_what_happens_in_new_directories(tmp_path: Path) -> None:
    """Made, moved in, moved within; what was moved out is none of ours any more."""
    (tmp_path / "a").mkdir()
    (tmp_path / "other/deep").mkdir(parents=True)
    events = FolderEvents(os.fsencode(tmp_path / "a"), b".gsync")

    def happens(path: str) -> bool:
        events.drain()
        (tmp_path / path).write_bytes(b"x")
        return events.drain()

    try:
        assert not events.drain()
        (tmp_path / "a/n/m").mkdir(parents=True)
        assert happens("a/n/m/x")
        (tmp_path / "other").rename(tmp_path / "a/in")
        assert happens("a/in/deep/x")
        (tmp_path / "a/in").rename(tmp_path / "a/n/within")
        assert happens("a/n/within/deep/y")
        (tmp_path / "a/n").rename(tmp_path / "out")
        assert not happens("out/within/deep/z")
        assert not happens("out/m/z")
        (tmp_path / "a/.gsync").mkdir()
        assert not happens("a/.gsync/x")
    finally:
        events.close()


@pytest.mark.skipif(sys.platform != "linux", reason="watchers answer on Linux alone")
def test_lost_events_are_known(tmp_path: Path) -> None:
    """Once the queue has overflowed, nothing is said any more."""
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    (tmp_path / "a").mkdir()
    (tmp_path / "a/one").write_bytes(b"")
    (tmp_path / "a/two").write_bytes(b"")
    events = FolderEvents(os.fsencode(tmp_path / "a"), b".gsync")
    try:
        was_local = events.is_trusted
        for _ in range(most // 2 + 10):
            os.utime(tmp_path / "a/one")
            os.utime(tmp_path / "a/two")
        assert events.drain() and not events.is_trusted
        assert was_local == is_local(os.stat(tmp_path).st_dev)
    finally:
        events.close()


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


@pytest.mark.skipif(sys.platform != "linux", reason="watchers answer on Linux alone")
def test_status_scans_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a watcher that knows; with --full it does."""
    folder = make_repository(tmp_path / "a", {"a": b"1"})

    def never(*_: object, **__: object) -> NoReturn:
        raise AssertionError("it scans")

    with watching(folder), open_repository(folder) as repo:
        wait_for(lambda: is_known(folder))
        monkeypatch.setattr("gsync.replicas.files.scan.scan_files", never)
        assert status(repo).changes == []
        with pytest.raises(AssertionError, match="it scans"):
            status(repo, full=True)
