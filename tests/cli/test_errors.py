"""Every way to be refused: an exit code, one line, a hint, and nothing changed."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from support import require
from support_cli import (
    ERROR_KINDS,
    gsync_in,
    head,
    json_in,
    make_repository,
    read_tree,
    refused,
    run_here,
    start,
    write,
)

# arguments, exit code, what the message or the hint must hold, why
WRONG = [
    (["nonsense"], 2, "no such command", "no command is called so"),
    (["snapshott"], 2, "snapshot", "a mistyped command gets a guess"),
    (["snapshot", "--mesage", "x"], 2, "no such option", "no option is called so"),
    (["snapshot", "extra"], 2, "", "too many arguments"),
    (["log", "-n", "none"], 2, "", "a number that is none"),
    (["log", "-n", "0"], 2, "", "a number out of its range"),
    (["log", "--since", "yesterday-ish"], 2, "not a time", "a time that is none"),
    (["show", "no-such-rev"], 4, "no-such-rev", "no revision"),
    (["show", "abc"], 4, "abc", "a prefix too short to be one"),
    (["show", "ffffffffffff"], 4, "ffffffffffff", "a prefix of nothing"),
    (["show", "HEAD~9"], 4, "HEAD~9", "beyond the first manifest"),
    (["show", "HEAD@tomorrow"], 2, "not a time", "a revision with a bad time"),
    (["show", "origin/main"], 4, "origin/main", "a remote never seen"),
    (["diff", "HEAD", "HEAD", "HEAD", "--"], 2, "2", "too many revisions"),
    (["diff", "nowhere"], 4, "nowhere", "neither revision nor path"),
    (["ls", "HEAD", "none.txt"], 4, "none.txt", "no such path in the manifest"),
    (["ls", "--", "../outside"], 2, "outside", "a path out of the folder"),
    (["cat", "a.txt"], 2, "HEAD:a.txt", "cat without a colon"),
    (["cat", "HEAD:none"], 4, "none", "cat of no file"),
    (["restore", "--", "none.txt"], 4, "none.txt", "restore of what never was"),
    (["untrack"], 2, "", "untrack of nothing"),
    (["untrack", "none.txt"], 4, "none.txt", "untrack of what is not tracked"),
    (["tag", "bad name"], 2, "bad name", "a tag with a space"),
    (["tag", "../x"], 2, "../x", "a tag that climbs"),
    (["tag", "v1", "no-such-rev"], 4, "no-such-rev", "a tag on nothing"),
    (["forget"], 2, "keep", "forget without a rule"),
    (["export"], 2, "output", "export without a place"),
    (["export", "-o", "no/such/dir/x.tar.gz"], 4, "no/such/dir", "export into no directory"),
    (["import", "none.tar.gz"], 4, "none.tar.gz", "import of no file"),
    (["import", "a.txt"], 2, "", "import of what is no tarball"),
    (["push"], 4, "remote", "no remote yet"),
    (["push", "nobody"], 4, "nobody", "no remote is called so"),
    (["pull", "nobody"], 4, "nobody", "no remote is called so"),
    (["fetch", "nobody"], 4, "nobody", "no remote is called so"),
    (["remote", "add", "bad/name", "/tmp/x"], 2, "bad/name", "a remote's name with a slash"),
    (["remote", "add", "o", "ftp://example.org/x"], 2, "ftp", "a scheme nobody speaks"),
    (["remote", "add", "o", "http://example.org/x"], 2, "", "plain http beyond this machine"),
    (["remote", "add", "o", "https://u:p@example.org/x"], 2, "", "a password in a URL"),
    (["remote", "show", "o"], 4, "o", "no such remote"),
    (["collection", "remove", "rows"], 4, "rows", "no such collection"),
    (["collection", "remove", "files"], 2, "files", "the file tree is not removed"),
    (["reflog", "nowhere"], 4, "nowhere", "a ref without a log"),
    (["-C", "no-such-dir", "status"], 4, "no-such-dir", "-C to nowhere"),
    (["init"], 5, "already", "a repository is here"),
    (["init", "d"], 5, "", "a repository is above"),
]


def without_process(message: str) -> str:
    """Return a message without the number of the process, which a temporary name has."""
    return re.sub(r"\.part-[0-9]+", "", message)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that no refused command may change."""
    return make_repository(tmp_path_factory.mktemp("errors") / "work")


@pytest.mark.parametrize(("args", "code", "part", "why"), WRONG, ids=[w[3] for w in WRONG])
def test_wrong_input(made: Path, args: list[str], code: int, part: str, why: str) -> None:
    """It is refused as text and as JSON, with the same code, and nothing is changed."""
    before, at = read_tree(made), head(made)
    message, hint = refused(made, *args, code=code)
    assert part in message + hint
    document = json_in(made, *args, code=code)
    error = document["error"]
    assert set(error) == {"kind", "message", "hint", "details"}
    assert error["kind"] in ERROR_KINDS[code]
    assert without_process(error["message"]) == without_process(message)
    assert (error["hint"] or "") == hint
    assert (read_tree(made), head(made)) == (before, at)


@pytest.mark.parametrize("args", [["status"], ["snapshot"], ["log"], ["push"], ["verify"], ["gc"]])
def test_outside_of_a_repository(tmp_path: Path, args: list[str]) -> None:
    """Every command that needs a repository says so with 4, and makes nothing."""
    message, hint = refused(tmp_path, *args, code=4)
    assert "not inside a gsync repository" in message
    assert "gsync init" in hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("args", [["show"], ["cat", "HEAD:a"], ["export", "-o", "x.tar.gz"]])
def test_before_the_first_snapshot(tmp_path: Path, args: list[str]) -> None:
    """What needs a manifest says with 4 that there is none yet."""
    gsync_in(tmp_path, "init")
    _, hint = refused(tmp_path, *args, code=4)
    assert "gsync snapshot" in hint
    assert not (tmp_path / "x.tar.gz").exists()


def test_push_before_the_first_snapshot(tmp_path: Path) -> None:
    """A push of nothing is refused, and the remote stays empty."""
    gsync_in(tmp_path, "init", "work")
    gsync_in(tmp_path, "init", "--bare", "there")
    gsync_in(tmp_path / "work", "remote", "add", "origin", str(tmp_path / "there"))
    refused(tmp_path / "work", "push", code=2)
    assert json_in(tmp_path / "there", "refs")["refs"] == {}


@pytest.mark.parametrize("text", ["version = ", "version = 99\n", "[remotes.x]\nurl = '/x'\n"])
def test_broken_configuration(tmp_path: Path, text: str) -> None:
    """A gsync.toml that is not what it may be is named, with 2."""
    make_repository(tmp_path)
    (tmp_path / "gsync.toml").write_text(text)
    message, _ = refused(tmp_path, "status", code=2)
    assert "gsync.toml" in message


# --- Damage ----------------------------------------------------------------------------


def flip_stored_byte(folder: Path, content: bytes) -> None:
    """Change one byte of `content` where it lies in the store, below its database."""
    store = folder / ".gsync" / "store.db"
    with closing(apsw.Connection(str(store))) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = bytearray(store.read_bytes())
    at = whole.find(content)
    assert at >= 0
    whole[at + len(content) // 2] ^= 1
    store.write_bytes(whole)


def test_flipped_byte(tmp_path: Path) -> None:
    """One flipped byte of a content: verify and cat end with 6, all else stays readable."""
    noise = os.urandom(2000)  # does not compress, so that it lies there as it is
    make_repository(tmp_path, {"noise": noise, "fine": b"fine\n"})
    flip_stored_byte(tmp_path, noise[200:264])
    problems = json_in(tmp_path, "verify", code=6)["problems"]
    assert problems
    assert all(set(problem) == {"kind", "id", "detail"} for problem in problems)
    gsync_in(tmp_path, "verify", code=6)
    done = gsync_in(tmp_path, "cat", "HEAD:noise", code=6)
    assert done.out == b""
    assert done.err.startswith("gsync: ")
    assert json_in(tmp_path, "cat", "HEAD:noise", code=6)["error"]["kind"] == "corrupt"
    gsync_in(tmp_path, "restore", "--to", str(tmp_path.parent / f"{tmp_path.name}-out"), code=6)
    gsync_in(tmp_path, "log")
    assert (tmp_path / "noise").read_bytes() == noise


def test_lost_ref(tmp_path: Path) -> None:
    """A ref that its log knows and that is gone is a problem."""
    make_repository(tmp_path)
    gsync_in(tmp_path, "tag", "v1")
    with closing(apsw.Connection(str(tmp_path / ".gsync" / "store.db"))) as db:
        db.execute("DELETE FROM ref WHERE name = 'tags/v1'")
    problems = json_in(tmp_path, "verify", code=6)["problems"]
    assert [(problem["kind"], problem["id"]) for problem in problems] == [("log", "tags/v1")]


@pytest.mark.parametrize("size", [0, 1, 99, 5000])
def test_store_that_was_cut(tmp_path: Path, size: int) -> None:
    """A store.db that was cut, down to nothing, is corrupt for every command, and stays so."""
    make_repository(tmp_path)
    store = tmp_path / ".gsync" / "store.db"
    with closing(apsw.Connection(str(store))) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    os.truncate(store, size)
    for command in (("log",), ("verify",), ("cat", "HEAD:a.txt"), ("snapshot", "-m", "x")):
        code, out, err = run_here(tmp_path, *command)
        assert (code, out) == (6, b""), err
    assert store.stat().st_size == size


def test_store_that_is_no_store(tmp_path: Path) -> None:
    """A store.db that is something else is corrupt, and left as it is."""
    content = b"this is no database" * 1000
    make_repository(tmp_path)
    for extra in (tmp_path / ".gsync").glob("store.db-*"):
        extra.unlink()
    (tmp_path / ".gsync" / "store.db").write_bytes(content)
    refused(tmp_path, "log", code=6)
    assert (tmp_path / ".gsync" / "store.db").read_bytes() == content


# --- Others at work ----------------------------------------------------------------------


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A repository that another command holds, and the lock to let go of."""
    folder = make_repository(tmp_path / "work")
    descriptor = os.open(folder / ".gsync" / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.write(descriptor, b"gsync snapshot (process 4711)")
    yield folder, descriptor
    os.close(descriptor)


def test_second_command_waits(held: tuple[Path, int]) -> None:
    """A command waits for the one before it, and then does its work; readers do not wait."""
    folder, descriptor = held
    write(folder, {"a.txt": b"changed\n"})
    with start(folder, "snapshot", "-m", "second") as process:
        time.sleep(1)
        assert process.poll() is None
        began = time.monotonic()
        gsync_in(folder, "log")
        gsync_in(folder, "status")
        assert time.monotonic() - began < 9
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        process.communicate(timeout=30)
    assert process.returncode == 0
    assert json_in(folder, "log")["manifests"][0]["message"] == "second"


@pytest.mark.slow
def test_second_command_names_the_holder(held: tuple[Path, int]) -> None:
    """A command that waited long enough ends with 7 and says who works there."""
    folder, _ = held
    message, hint = refused(folder, "snapshot", code=7)
    assert "gsync snapshot (process 4711)" in message
    assert hint


def test_many_snapshots_at_once(tmp_path: Path) -> None:
    """Of four snapshots at once each ends well, and history is one line."""
    folder = make_repository(tmp_path / "work")
    write(folder, {"a.txt": b"changed\n"})
    running = [start(folder, "snapshot", "-m", str(n)) for n in range(4)]
    for process in running:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert len(json_in(folder, "log")["manifests"]) == 2
    assert json_in(folder, "verify")["problems"] == []


# --- Disks ---------------------------------------------------------------------------------


def test_read_only_directory(tmp_path: Path) -> None:
    """Where nothing may be written, init and export say so with 3."""
    folder = make_repository(tmp_path / "work")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if os.access(closed, os.W_OK):
        pytest.skip("this user may write everywhere")
    refused(closed, "init", code=3)
    refused(folder, "export", "-o", str(closed / "x.tar.gz"), code=3)
    assert list(closed.iterdir()) == []


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A file that may not be read stops the snapshot, is named, and no ref moves."""
    folder = make_repository(tmp_path / "work")
    write(folder, {"closed": b"x"})
    (folder / "closed").chmod(0)
    if os.access(folder / "closed", os.R_OK):
        pytest.skip("this user may read everything")
    before = head(folder)
    message, hint = refused(folder, "snapshot", code=7)
    assert "closed" in message
    assert ".gsyncignore" in hint
    assert head(folder) == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    require("root")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "gsync-test", str(place)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs: {mounted.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_disk_full(small_disk: Path) -> None:
    """A full disk ends a snapshot with 7; what was there before stays whole and usable."""
    folder = make_repository(small_disk / "work", {"a.txt": b"one\n"})
    before = head(folder)
    write(folder, {"big": os.urandom(2_200_000)})
    message, hint = refused(folder, "snapshot", code=7)
    assert "full" in message + hint or "space" in message + hint
    assert head(folder) == before
    (folder / "big").unlink()
    assert gsync_in(folder, "cat", "HEAD:a.txt").out == b"one\n"
    write(folder, {"a.txt": b"two\n"})
    gsync_in(folder, "snapshot")
    assert json_in(folder, "verify")["problems"] == []


def test_disk_full_while_files_are_written(small_disk: Path, tmp_path: Path) -> None:
    """A restore and a clone that do not fit end with 7 and leave nothing behind."""
    folder = make_repository(tmp_path / "work", {"big": os.urandom(6_000_000)})
    refused(folder, "restore", "--to", str(small_disk / "out"), code=7)
    refused(small_disk, "clone", str(folder), "copy", code=7)
    refused(folder, "export", "-o", str(small_disk / "x.tar.gz"), code=7)
    assert list(small_disk.iterdir()) == []
