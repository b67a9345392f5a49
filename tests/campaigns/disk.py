"""Disk full and I/O errors at every operation that writes, in turn."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from campaigns.report import show_failures, show_table
from support_cli import read_tree, write
from support_faults import MODES, Ran, Runner
from support_server import accounts

import gsync

SUMMARY = "a disk that is full, fails once or is gone, from the n-th write of each command on"

POINTS_MAX = 2000
"""More operations than any of these commands has; a loop that gets there is a defect."""

FILES = {
    "a.txt": b"one\n" * 10,
    "b.txt": b"two\n",
    "gone.txt": b"will be deleted\n",
    "d/c.txt": b"three\n",
    "d/e/f.txt": b"four\n",
    "thing": b"a file that becomes a directory\n",
    "big.bin": random.Random(1).randbytes(300_000),
}
Setup = Callable[[Runner, Path], None]


def _ok(runner: Runner, folder: Path, *args: str) -> Ran:
    ran = runner.run(folder, *args)
    assert ran.code == 0, (args, ran)
    return ran


def _make(runner: Runner, base: Path, name: str = "work") -> Path:
    folder = base / name
    folder.mkdir()
    _ok(runner, folder, "init")
    write(folder, FILES)
    (folder / "link").symlink_to("a.txt")
    (folder / "empty").mkdir()
    _ok(runner, folder, "snapshot", "-m", "first")
    return folder


def _edit(folder: Path) -> None:
    (folder / "gone.txt").unlink()
    (folder / "thing").unlink()
    changed = bytearray(FILES["big.bin"])
    changed[150_000:150_010] = b"0123456789"
    write(folder, {"a.txt": b"changed\n", "thing/in.txt": b"in\n", "n/m/new.txt": b"new\n"})
    write(folder, {"big.bin": bytes(changed)})
    (folder / "b.txt").chmod(0o755)
    (folder / "link").unlink()
    (folder / "link").symlink_to("b.txt")


def _nothing(_: Runner, base: Path) -> None:
    (base / "work").mkdir()


def _edited(runner: Runner, base: Path) -> None:
    _edit(_make(runner, base))


def _two(runner: Runner, base: Path) -> None:
    """A repository with two snapshots, and an edit that is in neither."""
    folder = _make(runner, base)
    _edit(folder)
    _ok(runner, folder, "snapshot", "-m", "second")
    write(folder, {"unsaved.txt": b"nobody has this\n"})


def _bare(runner: Runner, base: Path) -> None:
    _two(runner, base)
    (base / "bare").mkdir()
    _ok(runner, base / "bare", "init", "--bare")
    _ok(runner, base / "work", "remote", "add", "origin", "../bare")


def _behind(runner: Runner, base: Path) -> None:
    """A clone that is one manifest behind its origin, with an edit of its own."""
    folder = _make(runner, base)
    (base / "bare").mkdir()
    _ok(runner, base / "bare", "init", "--bare")
    _ok(runner, folder, "remote", "add", "origin", "../bare")
    _ok(runner, folder, "push")
    _ok(runner, base, "clone", "bare", "copy")
    _ok(runner, base / "copy", "remote", "remove", "origin")
    _ok(runner, base / "copy", "remote", "add", "origin", "../bare")
    _edit(folder)
    _ok(runner, folder, "snapshot", "-m", "second")
    _ok(runner, folder, "push")
    write(base / "copy", {"unsaved.txt": b"nobody has this\n"})


def _diverged(runner: Runner, base: Path) -> None:
    _behind(runner, base)
    write(base / "copy", {"d/c.txt": b"three, changed in the clone\n"})
    _ok(runner, base / "copy", "snapshot", "-m", "here")


def _rows(runner: Runner, base: Path) -> None:
    folder = _make(runner, base)
    with sqlite3.connect(base / "live.sqlite") as db:
        db.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL)")
        db.executemany("INSERT INTO users VALUES (?, ?)", [(n, f"user {n}") for n in range(300)])
    db.close()
    _ok(runner, folder, "db", "add", "sqlite:///../live.sqlite", "--yes", "--tables", "users")
    _ok(runner, folder, "snapshot", "-m", "rows")
    with sqlite3.connect(base / "live.sqlite") as db:
        db.execute("UPDATE users SET name = 'changed' WHERE id = 7")
    db.close()


def _tarred(runner: Runner, base: Path) -> None:
    _two(runner, base)
    _ok(runner, base / "work", "export", "HEAD~1", "-o", "../old.tar.gz")
    (base / "work/unsaved.txt").unlink()


def _served(runner: Runner, base: Path) -> None:
    """What `_bare` has, with the bare store where a server has a tenant's."""
    _two(runner, base)
    (base / "tenant").mkdir()
    _ok(runner, base / "tenant", "init", "--bare")


@dataclass(frozen=True)
class Scenario:
    """A command, and the folder that it is run in.

    Attributes:
        repositories: Which have to be sound afterwards, where they are there.
        makes: The command makes something that it finds the second time.
        served: Pushed to a server, whose disk it is that fails.
        in_parts: What it makes may be there in part, until it is run again.
    """

    setup: Setup
    folder: str
    args: tuple[str, ...]
    repositories: tuple[str, ...] = ("work",)
    makes: bool = False
    served: bool = False
    in_parts: bool = False


SCENARIOS: dict[str, Scenario] = {
    "init": Scenario(
        lambda _, base: (base / "work").mkdir(), "work", ("init",), makes=True, in_parts=True
    ),
    "snapshot": Scenario(_edited, "work", ("snapshot", "-m", "second")),
    "snapshot-rows": Scenario(_rows, "work", ("snapshot", "-m", "changed")),
    "push": Scenario(_bare, "work", ("push",), ("work", "bare")),
    "serve": Scenario(_served, "work", ("push",), ("work", "tenant"), served=True),
    "pull": Scenario(_behind, "copy", ("pull",), ("copy", "bare")),
    "merge": Scenario(_diverged, "copy", ("pull",), ("copy", "bare")),
    "fetch": Scenario(_behind, "copy", ("fetch",), ("copy", "bare")),
    "clone": Scenario(_bare, ".", ("clone", "work", "made"), ("work", "made"), makes=True),
    "restore": Scenario(_two, "work", ("restore", "HEAD~1", "--force")),
    "restore-to": Scenario(_two, "work", ("restore", "--to", "../made"), makes=True),
    "gc": Scenario(_two, "work", ("forget", "--keep-last", "1", "--reason", "room")),
    "export": Scenario(_two, "work", ("export", "-o", "../made.tar.gz")),
    "import": Scenario(_tarred, "work", ("import", "../old.tar.gz")),
    "tag": Scenario(_two, "work", ("tag", "v1"), makes=True),
    "untrack": Scenario(_two, "work", ("untrack", "d"), makes=True),
    "remote": Scenario(_two, "work", ("remote", "add", "far", "https://x.example/y"), makes=True),
    "db-restore": Scenario(_rows, "work", ("db", "restore", "HEAD", "--force")),
    "db-file": Scenario(
        _rows, "work", ("db", "restore", "HEAD", "users", "--to-file", "../made.csv"), makes=True
    ),
}


@dataclass
class Figures:
    """What one scenario showed in one mode."""

    points: int = 0
    refused: int = 0
    done: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class State:
    """Everything that may be lost: live files, and what HEAD of each repository holds."""

    tree: dict[bytes, tuple[str, bytes]]
    heads: dict[str, Any]


def observe(
    runner: Runner, base: Path, repositories: Sequence[str], *, tags: bool = False
) -> State:
    """Return what stands below `base`; stores by what HEAD holds."""
    tree: dict[bytes, tuple[str, bytes]] = {}
    heads: dict[str, Any] = {}
    for name in sorted(os.listdir(base)):
        place = base / name
        if place.is_file():
            tree[name.encode()] = ("file", _content(place))
        elif not (place / "store.db").exists():
            tree |= {name.encode() + b"/" + path: node for path, node in read_tree(place).items()}
            config = place / ".gsync" / "config.toml"
            if config.exists():
                tree[name.encode() + b"/.gsync/config.toml"] = ("file", config.read_bytes())
    for name in repositories:
        if _is_repository(base / name):
            ran = runner.run(base / name, "--json", "log", "--limit", "1")
            assert ran.code in (0, 4), ran  # 4: there is no snapshot yet
            found = json.loads(ran.out).get("manifests", [])
            heads[name] = [manifest["collections"] for manifest in found]
            if tags:
                ran = runner.run(base / name, "--json", "tag")
                heads[name].append(json.loads(ran.out)["tags"])
    return State(tree, heads)


def _content(path: Path) -> bytes:
    if path.suffix != ".sqlite":
        return path.read_bytes()
    db = sqlite3.connect(path)
    try:
        return repr(db.execute("SELECT * FROM users ORDER BY id").fetchall()).encode()
    finally:
        db.close()


def _is_repository(folder: Path) -> bool:
    return (folder / ".gsync" / "store.db").exists() or (folder / "store.db").exists()


class Drill:
    """One scenario: its folders as they were before, what comes of it, and one try at a time."""

    def __init__(self, runner: Runner, name: str, place: Path, server: Server | None = None):
        self.runner = runner
        self.scenario = SCENARIOS[name]
        self.server = server
        self.template = place / "template"
        # Always the same place: repositories name their neighbours in full.
        self.base = place / "try"
        self.base.mkdir()
        self.scenario.setup(runner, self.base)
        shutil.copytree(self.base, self.template, symlinks=True)
        self.old = self._observe()
        ran = self._run(self.base)
        assert ran.code == 0, ran
        self.new = self._observe()
        self._clear()

    def try_point(self, at: int, mode: str, figures: Figures) -> bool:
        """Fail at operation `at`; return whether there was such an operation."""
        base = self.base
        shutil.copytree(self.template, base, symlinks=True)
        try:
            ran = self._run(base, at, mode)
            failed = ran.failed if self.server is None else self.server.failed(ran)
            if not failed:
                assert ran.code == 0, ran
                return False
            figures.points += 1
            figures.refused += ran.code != 0
            figures.done += ran.code == 0
            try:
                self._check(base, ran, mode, failed)
            except AssertionError as error:
                figures.faults.append(f"{at} {mode}, {failed}: {error}")
            return True
        finally:
            self._clear()

    def _clear(self) -> None:
        if self.server is not None:
            self.server.forget()
        shutil.rmtree(self.base)

    def _run(self, base: Path, at: int = 0, mode: str = "full") -> Ran:
        if self.server is not None:
            return self.server.push(self.runner, base, at, mode)
        args = self.scenario.args
        return self.runner.run(base / self.scenario.folder, *args, at=at, mode=mode)

    def _check(self, base: Path, ran: Ran, mode: str, failed: str) -> None:
        if ran.code:
            assert ran.code == 7, f"exit {ran.code}: {ran.err}"
            assert len(ran.err.splitlines()) == 2, f"no hint: {ran.err}"
            if mode == "full" and self.server is None:
                said = (ran.message + ran.hint).lower()
                assert "room" in said, f"says nothing of the disk: {ran.err}"
            if self.server is None:
                assert "/" in ran.message, f"says not where: {ran.err}"
        if any(name in failed for name in ("syncfs", "fsync", "close")) and "/stage/" in failed:
            assert ran.code, "what is staged was not made durable, and nobody was told"
        scenario = self.scenario
        is_open = any(base.glob("*/.gsync/journal"))  # the next command finishes it
        between = self._observe()
        if not scenario.in_parts and not is_open:
            self._check_state(between, mode)
        for name in scenario.repositories:
            if _is_repository(base / name):
                verified = self.runner.run(base / name, "verify")
                assert verified.code == 0, f"verify of {name}: {verified.out}{verified.err}"
        again = self._run(base)
        after = self._observe()
        if again.code:
            is_there = scenario.makes and again.code in (2, 4, 5)
            assert is_there and between.heads == self.new.heads, f"again: {again.err}"
            self._check_tree(between.tree, [self.new.tree], mode)
        assert after.heads == self.new.heads, f"HEAD differs: {after.heads}"
        self._check_tree(after.tree, [self.new.tree], mode)
        assert mode == "gone" or not list(base.glob("*/.gsync/stage/*")), "something is staged"

    def _observe(self) -> State:
        scenario = self.scenario
        tags = scenario.args[0] == "tag"
        found = observe(self.runner, self.base, scenario.repositories, tags=tags)
        if scenario.served:  # each try has a tenant, so an address, of its own
            found.tree.pop(b"work/.gsync/config.toml")
        return found

    def _check_state(self, found: State, mode: str) -> None:
        for name, heads in found.heads.items():
            known = [state.heads[name] for state in (self.old, self.new) if name in state.heads]
            assert heads in known, f"HEAD of {name} is neither old nor new"
        self._check_tree(found.tree, [self.old.tree, self.new.tree], mode)

    def _check_tree(self, found: dict[bytes, Any], known: Sequence[Any], mode: str) -> None:
        """Found is one of `known`; where nothing can be removed, temporary names may stay."""
        rest = {
            path: node
            for path, node in found.items()
            if mode == "full" or not any(part.startswith(b".") for part in path.split(b"/"))
        }
        if self.scenario.makes:  # where a clone that is repeated goes on
            rest = {p: node for p, node in rest.items() if not p.startswith(b".made.gsync-clone")}
        plain = [{p: n for p, n in tree.items() if p in found or p in rest} for tree in known]
        lacking = [[p for p in tree if p not in found] for tree in known]
        for tree, lacks in zip(plain, lacking, strict=True):
            if not lacks and all(tree.get(path) == node for path, node in rest.items()):
                return
        odd = [path for path, node in rest.items() if all(t.get(path) != node for t in known)]
        raise AssertionError(f"the tree is neither old nor new: {odd}, lacking {lacking}")


class Server:
    """A server whose disk fails, with a tenant of its own for each try."""

    def __init__(self, place: Path) -> None:
        self.data = place / "data"
        self.data.mkdir(mode=0o700)
        self.control = place / "control"
        self._count = 0
        self._mode = ("0", "full")
        self._say()
        self._log = (place / "server.log").open("wb")
        faults = Path(__file__).resolve().parents[1] / "support_faults.py"
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(faults), str(self.data), str(self.control)],
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, "PYTHONPATH": str(Path(gsync.__file__).parent.parent)},
        )
        assert self._process.stdout is not None
        self.base = self._process.stdout.readline().decode().split()[-1]
        self._tokens: dict[Path, tuple[str, str]] = {}

    def close(self) -> None:
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.terminate()
        self._process.wait(60)
        self._log.close()

    def push(self, runner: Runner, base: Path, at: int, mode: str) -> Ran:
        """Push `base`/work to a tenant whose store is `base`/tenant."""
        if base not in self._tokens:
            self._count += 1
            tenant = f"t{self._count}"
            with accounts(self.data) as there:
                token = there.add_token(tenant, "write", name="write")[0]
            store = self.data / "tenants" / tenant
            shutil.rmtree(store, ignore_errors=True)
            store.parent.mkdir(mode=0o700, exist_ok=True)
            shutil.move(base / "tenant", store)
            (base / "tenant").symlink_to(store)
            self._tokens[base] = tenant, token
            url = f"{self.base}/{tenant}"
            _ok(runner, base / "work", "remote", "add", "origin", url)
        self._mode = (str(at), mode)
        self._say()
        ran = runner.run(base / "work", "push", GSYNC_TOKEN=self._tokens[base][1])
        self._mode = ("0", "full")
        self._say()
        return ran

    def failed(self, ran: Ran) -> str:
        """Return what failed in the try that `ran` was, or nothing."""
        found = self.control.with_name("control.failed")
        try:
            return found.read_text()
        except FileNotFoundError:
            return ""
        finally:
            found.unlink(missing_ok=True)

    def forget(self) -> None:
        """Be done with all tenants there were."""
        for base in list(self._tokens):
            tenant, _ = self._tokens.pop(base)
            shutil.rmtree(self.data / "tenants" / tenant, ignore_errors=True)

    def _say(self) -> None:
        """Tell the server which operation fails, whole or not at all."""
        self._number = getattr(self, "_number", 0) + 1
        draft = self.control.with_name("control.new")
        draft.write_text(" ".join((*self._mode, str(self._number))))
        os.replace(draft, self.control)


def drill(
    runner: Runner, name: str, mode: str, place: Path, points: Callable[[int], int] | None = None
) -> Figures:
    """Fail scenario `name` at operation 1, and at each that follows, until there is none.

    Args:
        points: Returns the operation after the given one, to leave some out; by default the next.
    """
    figures = Figures()
    server = Server(place) if SCENARIOS[name].served else None
    try:
        one = Drill(runner, name, place, server)
        at = 1
        while one.try_point(at, mode, figures):
            at = points(at) if points else at + 1
            assert at < POINTS_MAX, f"{name} does not end"
    finally:
        if server is not None:
            server.close()
    return figures


# --- A real file system that is full -------------------------------------------------------


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """Mount a file system of `size` at the new directory `place`; OSError where that may not be."""
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "gsync-test", str(place)],
        capture_output=True,
    )
    if mounted.returncode:
        raise OSError(mounted.stderr.decode().strip())
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


# --- The long form -------------------------------------------------------------------------


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", action="append", choices=sorted(SCENARIOS), metavar="SCENARIO")
    parser.add_argument("--mode", action="append", choices=sorted(MODES))
    parser.add_argument("--step", type=int, default=1, help="fail every STEP-th operation (1)")


def run(options: argparse.Namespace) -> int:
    """Fail every command at every operation; print what came of it."""
    rows: list[tuple[object, ...]] = []
    failures: list[str] = []
    with Runner() as runner:
        for name in options.only or SCENARIOS:
            for mode in options.mode or MODES:
                began = time.monotonic()
                place = options.base / f"{name}-{mode}"
                place.mkdir()
                found = drill(runner, name, mode, place, lambda at: at + options.step)
                shutil.rmtree(place)
                wrong = len(found.faults)
                seconds = round(time.monotonic() - began)
                rows.append((name, mode, found.points, found.refused, found.done, wrong, seconds))
                failures += [f"{name} {fault}" for fault in found.faults]
    rows.append(("all", "", *(sum(int(str(row[at])) for row in rows) for at in range(2, 7))))
    show_table(("command", "mode", "points", "exit 7", "done", "wrong", "seconds"), rows)
    show_failures(failures)
    return len(failures)
