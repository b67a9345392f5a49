"""A command that is killed leaves what was, or what shall be with its operation; never a part."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support_cli import environment, gsync_in, json_in, read_tree, write
from support_tables import SCHEMA, Live, generation, pair

# Instants of each command; a large number takes all of them (CONTRIBUTING.md).
KILLS = int(os.environ.get("GSYNC_KILLS", "4"))
ROWS = 20

# Runs a command and kills itself at the Nth thing that lasts: a commit of the store or of a
# database, before and after, and every change of a directory.
KILLED = """
import os, signal, sys
from gsync.cli.main import run
from gsync.replicas.sqlite import write
from gsync.store import sql

left = int(sys.argv[1])

def tick(*_):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

def around(owner, name, when):
    plain = getattr(owner, name)
    def counted(*args, **more):
        if not when(args):
            return plain(*args, **more)
        tick()
        found = plain(*args, **more)
        tick()
        return found
    setattr(owner, name, counted)

around(sql._Sqlite3, "query", lambda args: args[1] == "COMMIT")
around(write.SqliteWriting, "commit", lambda args: True)
CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir"}
sys.addaudithook(lambda event, args: tick() if event in CHANGES else None)
code = run(sys.argv[2:])
sys.stderr.write(f"left {left}")
sys.exit(code)
"""
NEVER = 1_000_000


def kill_at(folder: Path, instant: int, *args: str) -> int:
    """Run a command to be killed at `instant`; return the instants that it had otherwise."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(instant), *args],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode in (0, -signal.SIGKILL), done
    if done.returncode:
        return 0
    return instant - int(done.stderr.rpartition(b"left ")[2])


def make_pair(base: Path) -> tuple[Path, Live]:
    """Return a clone with a database that is one push behind its remote."""
    one, two = (Live("sqlite", f"sqlite:///{base / name}.db") for name in ("one", "two"))
    for live in (one, two):
        live.run(*SCHEMA["sqlite"].split(";"))
    gsync_in(base, "init", "--bare", "there")
    first, second = pair(base, one, two, generation(0, ROWS), str(base / "there"))
    one.fill(generation(1, ROWS))
    write(first, {"a.txt": b"1", "new/file": b"new"})
    gsync_in(first, "snapshot", "-m", "1")
    gsync_in(first, "push")
    return second, two


def prepare_pull(folder: Path, live: Live) -> list[str]:
    return ["pull"]


def prepare_undo(folder: Path, live: Live) -> list[str]:
    gsync_in(folder, "pull")
    write(folder, {"unsaved": b"unsaved"})
    live.run("INSERT INTO users VALUES (900, 'unsaved', 1, '1')")
    return ["undo"]


def prepare_restore(folder: Path, live: Live) -> list[str]:
    gsync_in(folder, "pull")
    write(folder, {"a.txt": b"unsaved"})
    return ["restore", "--force", "HEAD~1"]


def prepare_db_restore(folder: Path, live: Live) -> list[str]:
    gsync_in(folder, "pull")
    live.run("UPDATE users SET n = 4711 WHERE id = 6")
    return ["db", "restore", "--force", "HEAD~1"]


def look(folder: Path, live: Live) -> tuple[Any, ...]:
    """Return folder, rows, main, and how often each command is an operation that changed it."""
    found = json_in(folder, "ops", "-n", "100")["operations"]
    commands = sorted(o["command"] for o in found if o["refs"] or o["live"])
    main = json_in(folder, "refs")["refs"]["main"]
    content = json_in(folder, "ls", "HEAD")["entries"]
    return read_tree(folder), live.rows(), content, main, commands


PREPARE: dict[str, Callable[[Path, Live], list[str]]] = {
    "pull": prepare_pull,
    "undo": prepare_undo,
    "restore": prepare_restore,
    "db restore": prepare_db_restore,
}


@pytest.mark.parametrize(
    "name",
    [name if name == "undo" else pytest.param(name, marks=pytest.mark.slow) for name in PREPARE],
)
def test_killed_anywhere(name: str, tmp_path: Path) -> None:
    """Folder, rows, refs and operations are all before the command, or all after it."""
    folder, live = make_pair(tmp_path)
    command = PREPARE[name](folder, live)
    before = look(folder, live)
    kept = tmp_path / "kept"
    shutil.copytree(folder, kept / "folder", symlinks=True)
    database = Path(live.url.removeprefix("sqlite:///"))
    shutil.copy(database, kept / "rows.db")

    def put_back() -> None:
        shutil.rmtree(folder)
        shutil.copytree(kept / "folder", folder, symlinks=True)
        shutil.copy(kept / "rows.db", database)

    count = kill_at(folder, NEVER, *command)
    after = look(folder, live)
    assert after[:3] != before[:3]
    assert after[4] != before[4]
    assert count >= 8
    for instant in random.Random(name).sample(range(1, count + 1), min(KILLS, count)):
        put_back()
        kill_at(folder, instant, *command)
        # Whatever writes next finishes it or undoes it.
        gsync_in(folder, "gc", "--dry-run")
        found = look(folder, live)
        # A merge or an undo that is done again has an id of its own: the content counts.
        assert (*found[:3], found[4]) in ((*before[:3], before[4]), (*after[:3], after[4])), instant
        if found[4] == before[4]:
            assert found[3] == before[3]
        assert json_in(folder, "verify")["problems"] == []
        assert json_in(folder, "snapshot", "--dry-run")["dry_run"]
