"""Damage to the write-ahead log, damage seen by a client over HTTP, and what repair makes of it.

Beside `damage`, which reads a damaged store by the commands of its own folder.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from campaigns.damage import CLEAR, DAMAGES, Found, Sound, check, flip, renew
from support_cli import read_tree, run_here, start
from support_server import running_server

WAL = "store.db-wal"
REFUSED = {*CLEAR, 2, 7}  # also what the other side sent and is not whole, or could not send
ENDED_S = 60


# --- The write-ahead log -------------------------------------------------------------------


def _drop(path: Path, r: random.Random) -> str:
    path.unlink()
    return "removed"


def _cut(path: Path, r: random.Random) -> str:
    size = r.randrange(path.stat().st_size)
    os.truncate(path, size)
    return f"cut to {size}"


def _rewind(path: Path, r: random.Random) -> str:
    with path.open("r+b") as file:
        file.write(r.randbytes(32))
    return "its header"


LOG_DAMAGES: dict[str, Callable[[Path, random.Random], str]] = {
    "wal removed": _drop, "wal cut": _cut, "wal bit": flip, "wal header": _rewind,
}  # fmt: skip


def damage_logs(sound: Sound, base: Path, cases: int, seed: int) -> Found:
    """Damage the log of commits that the file does not hold yet.

    What it held may be gone then: an earlier state is right too, if all of it is of one moment.
    """
    found = Found()
    earlier = dict(sound.said)
    loaded, work = base / "loaded", base / "log work"
    shutil.copytree(sound.folder, loaded, symlinks=True)
    (loaded / "a.txt").write_bytes(b"later\n")
    with closing(sqlite3.connect(loaded / ".gsync/store.db")) as holder:
        holder.execute("SELECT count(*) FROM object").fetchone()  # open: nobody checkpoints last
        code, _, err = run_here(loaded, "snapshot", "-m", "later")
        assert code == 0, err
        shutil.copytree(loaded, work, symlinks=True)
    later = {command: run_here(loaded, *command)[:2] for command in sound.said}
    tree, whole = read_tree(loaded), base / "whole"
    shutil.copytree(work / ".gsync", whole)
    assert (whole / WAL).stat().st_size > 0
    for number in range(cases):
        name = list(LOG_DAMAGES)[number % len(LOG_DAMAGES)]
        r = random.Random(seed * 1_000_033 + number)
        shutil.rmtree(work / ".gsync")
        shutil.copytree(whole, work / ".gsync")
        (work / ".gsync/store.db-shm").unlink(missing_ok=True)
        what = LOG_DAMAGES[name](work / ".gsync" / WAL, r)
        wrong = [
            [w for w in (check(Sound(work, said, of), work)[0]) if w]
            for said, of in ((later, tree), (earlier, sound.tree))
        ]
        found.cases[name] += 1
        if all(wrong):
            found.wrong[name] += 1
            found.failures.append(f"case {number}, {name}, {what}: {wrong[0][0]}; {wrong[1][0]}")
    return found


# --- Over HTTP -----------------------------------------------------------------------------


def damage_servers(sound: Sound, base: Path, cases: int, seed: int) -> Found:
    """Damage the store of a server and clone from it, and pull into a clone that lacks the last."""
    found = Found()
    data = base / "data"
    there = data / "tenants/team"
    there.mkdir(parents=True, mode=0o700)
    whole = base / "there" / "store.db"
    tokens: dict[tuple[str, str], str] = {}
    for number in range(cases):
        name = list(DAMAGES)[number % len(DAMAGES)]
        r = random.Random(seed * 1_000_037 + number)
        for old in there.glob("store.db*"):
            old.unlink()
        shutil.copy(whole, there / "store.db")
        what = DAMAGES[name](there / "store.db", r)
        copy = base / f"clone {number}"
        with running_server(data) as server:
            server.tokens = tokens
            done = start(
                base, "clone", f"{server.base}/team", copy.name, GSYNC_TOKEN=server.token("team")
            )
            with done as process:
                _, err = process.communicate(timeout=ENDED_S)
        found.cases[name] += 1
        wrong = ""
        if process.returncode == 0:
            found.harmless[name] += 1
            if read_tree(copy) != sound.tree:
                wrong = "the clone is something else"
            elif run_here(copy, "verify")[0] != 0:
                wrong = "the clone's store is not sound"
        elif process.returncode not in REFUSED or b"Traceback" in err:
            wrong = f"clone ends with {process.returncode}: {err.decode()[:200]}"
        elif copy.exists():
            wrong = "a clone that failed left its folder"
        if wrong:
            found.wrong[name] += 1
            found.failures.append(f"case {number}, {name}, {what}: {wrong}")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.rmtree(copy.with_name(f".{copy.name}.gsync-clone"), ignore_errors=True)
    return found


# --- Repair --------------------------------------------------------------------------------


def repair_all(sound: Sound, base: Path, cases: int, seed: int) -> tuple[Found, int]:
    """Damage stores, and repair those that open from the remote; return also how many were whole.

    After a repair that says it is done, every command gives the right content.
    """
    found, repaired = Found(), 0
    work = base / "repair work"
    shutil.copytree(sound.folder, work, symlinks=True)
    for number in range(cases):
        name = list(DAMAGES)[number % len(DAMAGES)]
        r = random.Random(seed * 1_000_039 + number)
        renew(sound, work)
        what = DAMAGES[name](work / ".gsync" / "store.db", r)
        if run_here(work, "verify")[0] == 0:
            continue
        found.cases[name] += 1
        code, _, err = run_here(work, "verify", "--repair")
        if code == 0:
            repaired += 1
            wrong, harmless = check(sound, work)
            if not harmless:
                wrong.insert(0, "verify finds more after a repair that ended well")
        else:
            found.harmless[name] += 1  # not mended, and said so
            wrong = [] if code in CLEAR and "internal" not in err else [f"{code}: {err[:200]}"]
        if wrong:
            found.wrong[name] += 1
            found.failures.append(f"case {number}, {name}, {what}: repair: {wrong[0]}")
    return found, repaired
