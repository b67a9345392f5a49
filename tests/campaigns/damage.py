"""Random damage to a store's file: what commands say is right, or they say what is wrong.

A repository with files and a table is damaged in one place after the other: bytes flipped, the
file cut, pages zeroed or exchanged, rows of any table changed, dropped or swapped, the header
destroyed. After each, every command that reads gives the right content or ends with 4 or 6.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import click
from support_cli import read_tree, run_here, write

SUMMARY = "damage a store at random; no command may give wrong content"
PAGE = 16_384
LARGE = random.Random(7).randbytes(600_000)
PATHS = ("a.txt", "d/f3", "large", "link")
CLEAR = {4, 6}  # not found, corrupt
Damage = Callable[[Path, random.Random], str]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what this campaign is asked."""
    parser.add_argument("--cases", type=int, default=3000, help="how many stores to damage")


def run(options: argparse.Namespace) -> int:
    """Run the long form; return how many cases were wrong."""
    from campaigns.damage_ways import damage_logs, damage_servers, repair_all

    cases, seed = options.cases, getattr(options, "seed", 1)
    with tempfile.TemporaryDirectory(prefix="gsync-damage-") as directory:
        base = Path(directory)
        sound = make(base)
        every = [("read by commands", damage_all(sound, base / "work", cases, seed))]
        every.append(("in the log", damage_logs(sound, base, cases // 10, seed)))
        every.append(("cloned over HTTP", damage_servers(sound, base, cases // 20, seed)))
        mended, repaired = repair_all(sound, base, cases // 5, seed)
        every.append((f"repaired, {repaired} whole again", mended))
    for title, found in every:
        click.echo(f"{title:<24} {'cases':>6} {'found':>6} {'harmless':>9} {'wrong':>6}")
        for name, count in sorted(found.cases.items()):
            harmless, wrong = found.harmless[name], found.wrong[name]
            click.echo(f"{name:<24} {count:>6} {count - harmless:>6} {harmless:>9} {wrong:>6}")
        for line in found.failures[:40]:
            click.echo(f"FAILED: {line}")
    return sum(len(found.failures) for _, found in every)


@dataclass
class Sound:
    """A repository that is whole, and what its commands say."""

    folder: Path
    said: dict[tuple[str, ...], tuple[int, bytes]]
    tree: dict[bytes, tuple[str, bytes]]


@dataclass
class Found:
    """What came of damaged stores, by the name of the damage.

    Attributes:
        cases: How many.
        harmless: Where verify found nothing: waste was damaged, or what can be made anew.
        wrong: Where a command said something wrong.
        failures: Those, in words.
    """

    cases: Counter[str] = field(default_factory=Counter)
    harmless: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def make(base: Path) -> Sound:
    """A repository with every kind of object, two manifests and a remote as last seen."""
    folder = base / "sound"
    folder.mkdir()
    app = base / "app.db"
    with closing(sqlite3.connect(app)) as db, db:
        db.execute("CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT)")
        db.executemany("INSERT INTO users VALUES (?, ?)", [(f"u{n}", f"n{n}") for n in range(50)])
    must(folder, "init")
    must(folder, "db", "add", f"sqlite:///{app}", "--yes")
    write(folder, {f"d/f{n}": b"text %d\n" % n * (n + 1) for n in range(60)})
    write(folder, {"a.txt": b"one\n", "large": LARGE})
    os.symlink("large", folder / "link")
    must(folder, "snapshot", "-m", "first")
    write(folder, {"d/f3": b"edited\n", "large": LARGE[:300_000] + b"x" + LARGE[300_000:]})
    must(folder, "snapshot", "-m", "second")
    must(base, "init", "--bare", "there")
    must(folder, "remote", "add", "origin", "../there")
    must(folder, "push")
    said = {command: run_here(folder, *command)[:2] for command in commands()}
    assert all(code in (0, 1) for code, _ in said.values()), said
    return Sound(folder, said, read_tree(folder))


def must(folder: Path, *args: str) -> None:
    code, out, err = run_here(folder, *args)
    assert code == 0, (args, out, err)


def commands() -> Iterator[tuple[str, ...]]:
    """Commands that read, whose output is known."""
    yield from (("log",), ("reflog",), ("diff", "HEAD~1", "HEAD"), ("show", "HEAD"))
    yield ("--json", "diff", "HEAD~1", "HEAD")
    yield from (("db", "show", "HEAD:users"), ("export", "-o", "-", "--rows", "HEAD"))
    for revision in ("HEAD", "HEAD~1"):
        yield "ls", revision
        yield from (("cat", f"{revision}:{path}") for path in PATHS)


# --- Damage --------------------------------------------------------------------------------


def flip(path: Path, r: random.Random) -> str:
    with path.open("r+b") as file:
        at = r.randrange(path.stat().st_size)
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ (1 << r.randrange(8))]))
    return f"a bit of byte {at}"


def overwrite(path: Path, r: random.Random) -> str:
    at, size = r.randrange(path.stat().st_size), r.randrange(1, 200)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(r.randbytes(size))
    return f"{size} bytes from {at}"


def cut(path: Path, r: random.Random) -> str:
    size = r.choice([0, 1, 99, 100, PAGE - 1, r.randrange(path.stat().st_size)])
    os.truncate(path, size)
    return f"cut to {size}"


def page(path: Path, r: random.Random) -> str:
    number = r.randrange(path.stat().st_size // PAGE)
    with path.open("r+b") as file:
        file.seek(number * PAGE)
        file.write(r.choice([bytes(PAGE), r.randbytes(PAGE)]))
    return f"page {number}"


def exchange(path: Path, r: random.Random) -> str:
    pages = path.stat().st_size // PAGE
    one, other = r.randrange(pages), r.randrange(pages)
    with path.open("r+b") as file:
        file.seek(one * PAGE)
        left = file.read(PAGE)
        file.seek(other * PAGE)
        right = file.read(PAGE)
        file.seek(one * PAGE)
        file.write(right)
        file.seek(other * PAGE)
        file.write(left)
    return f"pages {one} and {other}"


def header(path: Path, r: random.Random) -> str:
    at = r.randrange(100)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(r.randbytes(r.randrange(1, 100 - at + 1)))
    return f"header from {at}"


def row(path: Path, r: random.Random) -> str:
    """Drop a row, or give one of its cells a value that somebody else has, or none at all."""
    with closing(sqlite3.connect(path)) as db:
        tables = [t for (t,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        full = [t for t in tables if db.execute(f"SELECT count(*) FROM {t}").fetchone()[0]]
        table = r.choice(full)
        rows = [row for (row,) in db.execute(f"SELECT rowid FROM {table}")]
        which = r.choice(rows)
        columns = [c[1] for c in db.execute(f"PRAGMA table_info({table})")]
        column = r.choice(columns)
        what = r.choice(["drop", "garbage", "number", "text", "other"])
        new: object = {"garbage": r.randbytes(32), "number": r.randrange(-5, 1 << 40)}.get(
            what, "x"
        )
        if what == "other":
            other = r.choice(rows)
            found = f'SELECT "{column}" FROM {table} WHERE rowid = ?'
            (new,) = db.execute(found, (other,)).fetchone()
        try:
            with db:
                if what == "drop":
                    db.execute(f"DELETE FROM {table} WHERE rowid = ?", (which,))
                else:
                    db.execute(f'UPDATE {table} SET "{column}" = ? WHERE rowid = ?', (new, which))
        except sqlite3.Error:
            return "refused by SQLite"
    return f"{what}: {table}.{column}, row {which}"


DAMAGES: dict[str, Damage] = {
    "bit": flip, "bytes": overwrite, "cut": cut, "page": page, "pages exchanged": exchange,
    "header": header, "row": row,
}  # fmt: skip


# --- What comes of it ----------------------------------------------------------------------


def damage_all(sound: Sound, work: Path, cases: int, seed: int) -> Found:
    """Damage `cases` copies, each kind of damage in turn."""
    found = Found()
    shutil.copytree(sound.folder, work, symlinks=True)
    for number in range(cases):
        name = list(DAMAGES)[number % len(DAMAGES)]
        r = random.Random(seed * 1_000_003 + number)
        renew(sound, work)
        what = DAMAGES[name](work / ".gsync" / "store.db", r)
        wrong, harmless = check(sound, work)
        found.cases[name] += 1
        found.harmless[name] += harmless
        if wrong:
            found.wrong[name] += 1
            found.failures.append(f"case {number}, {name}, {what}: {wrong[0]}")
    return found


def renew(sound: Sound, work: Path) -> None:
    """Make the store of `work` whole again."""
    for old in (work / ".gsync").glob("store.db*"):
        old.unlink()
    shutil.copy(sound.folder / ".gsync" / "store.db", work / ".gsync" / "store.db")


def check(sound: Sound, work: Path) -> tuple[list[str], bool]:
    """Return what commands said that is neither right nor clear, and whether verify is content."""
    wrong = []
    code, _, err = run_here(work, "verify")
    if code not in (0, *CLEAR) or "internal" in err:
        wrong.append(f"verify ends with {code}: {err.strip()}")
    for command, (right_code, right) in sound.said.items():
        got, out, err = run_here(work, *command)
        if got == right_code:
            if out != right and (code == 0 or command[0] == "cat"):
                wrong.append(f"{' '.join(command)} says something else and verify {code}")
        elif got not in CLEAR:
            wrong.append(f"{' '.join(command)} ends with {got}: {err.strip()[:200]}")
    out_folder = work.parent / "out"
    got, _, err = run_here(work, "restore", "--to", str(out_folder))
    if got == 0 and read_tree(out_folder) != sound.tree:
        wrong.append(f"restore brings something else, and verify ends with {code}")
    elif got not in (0, *CLEAR):
        wrong.append(f"restore ends with {got}: {err.strip()[:200]}")
    shutil.rmtree(out_folder, ignore_errors=True)
    return wrong, code == 0
