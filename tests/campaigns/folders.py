"""Power loss while a folder follows a manifest: after every cut it is old or new, and so is main.

A pull and a restore run once with every change of names and every sync logged; the folder is
rebuilt as a cut after each step would leave it, beside the store as it was then, and the next
command has to find its way.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from campaigns.commands import Refused, ask, check_store, edit, main_of
from campaigns.folder_log import FolderLog, Step, after_cut
from campaigns.report import show_failures, show_table
from support_cli import read_tree

from gsync.sync.repository import init_repository

SUMMARY = "power loss while a folder is written, at every step of it"

SKIPPED: dict[str, Callable[[Step], bool]] = {
    "": lambda step: False,
    "files-unsynced": lambda step: step.content is not None or step.kind == "sync all",
    "names-unsynced": lambda step: step.content is None,
}
"""What a sabotage leaves out."""

COMMANDS = (("pull", "path"), ("restore", "HEAD~1"))


@dataclass
class Report:
    """What came of the cuts: by command its steps, cuts, and where the folder was found."""

    rows: list[tuple[str, int, int, int, int]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class _Copies:
    """The store as it was before each step."""

    def __init__(self, store: Path, target: Path) -> None:
        self._store, self._target = store, target
        self._seen: object = None
        self._current = target
        self.at: list[Path] = []

    def take(self) -> None:
        names = [self._store, self._store.with_name("store.db-wal")]
        found = [path for path in names if path.exists()]
        seen = [(path, path.stat().st_size, path.stat().st_mtime_ns) for path in found]
        if seen != self._seen:
            self._current = self._target / str(len(self.at))
            self._current.mkdir(parents=True)
            # Not by this process: to close a file would drop its locks on it.
            subprocess.run(["cp", *found, self._current], check=True)
            self._seen = seen
        self.at.append(self._current)


def campaign(base: Path, seed: int, cuts: int, sabotage: str = "", many: bool = False) -> Report:
    """Cut a pull and a restore `cuts` times each.

    Args:
        many: Let so much change that the file system is synced as a whole.
    """
    report = Report()
    r = random.Random(seed)
    for command in COMMANDS:
        _cut_command(base / command[0], command, r, cuts, sabotage, many, report)
    return report


def _cut_command(
    base: Path,
    command: tuple[str, ...],
    r: random.Random,
    cuts: int,
    sabotage: str,
    many: bool,
    report: Report,
) -> None:
    folder = _prepare(base, command, r, many)
    before = base / "before"
    shutil.copytree(folder, before, symlinks=True)
    old = (read_tree(folder), _head(folder))
    copies = _Copies(folder / ".gsync" / "store.db", base / "stores")
    log = FolderLog(folder, copies.take)
    with pytest.MonkeyPatch.context() as patch:
        log.install(partial(patch.setattr, raising=False), skip=SKIPPED[sabotage])
        ask(folder, *command)
    copies.take()
    new = (read_tree(folder), _head(folder))
    if command[0] == "restore":
        assert new[1] == old[1]
    assert new[0] != old[0]
    found = {"old": 0, "new": 0}
    for number in range(cuts):
        # The last point is special: the command has returned.
        point = len(log.steps) if number % 8 == 0 else r.randrange(len(log.steps))
        place = base / f"cut{number}"
        after_cut(before, log, point, r, place)
        for name in ("store.db", "store.db-wal", "store.db-shm"):
            (place / ".gsync" / name).unlink(missing_ok=True)
        shutil.copytree(copies.at[point], place / ".gsync", dirs_exist_ok=True)
        try:
            state, wrong = _judge(place, command, old, new, ended=point == len(log.steps))
            found[state] += 1
        except Refused as error:
            wrong = [str(error)]
        report.failures += [f"{command[0]}, cut after step {point}: {text}" for text in wrong]
        shutil.rmtree(place)
    report.rows.append((command[0], len(log.steps), cuts, found["old"], found["new"]))


State = tuple[dict[bytes, tuple[str, bytes]], str | None]


def _judge(
    place: Path, command: tuple[str, ...], old: State, new: State, *, ended: bool
) -> tuple[str, list[str]]:
    ask(place, "snapshot", "--dry-run")
    now = (read_tree(place), _head(place))
    wrong = [] if now in (old, new) else ["folder and main are neither old nor new"]
    if ended and now != new:
        wrong.append("the command had returned, and what it did is lost")
    wrong += check_store(place / ".gsync" / "store.db")
    ask(place, *command)
    if (read_tree(place), _head(place)) != new:
        wrong.append("repeated, the command does not end in the new state")
    return "new" if now == new else "old", wrong


def _prepare(base: Path, command: tuple[str, ...], r: random.Random, many: bool) -> Path:
    """Return a folder in which `command` has something to do."""
    base.mkdir(parents=True)
    base = base.resolve()
    one = base / "one"
    init_repository(one)
    init_repository(base / "there", bare=True)
    _change(one, r, many)
    ask(one, "snapshot")
    ask(one, "remote", "add", "path", str(base / "there"))
    ask(one, "push", "path")
    two = base / "two"
    ask(base, "clone", str(base / "there"), "two")
    ask(two, "remote", "add", "path", str(base / "there"))
    _change(one, r, many)
    ask(one, "snapshot")
    ask(one, "push", "path")
    return two if command[0] == "pull" else one


def _change(folder: Path, r: random.Random, many: bool) -> None:
    edit(folder, r, "one")
    deep = folder / f"deep{r.randrange(1000)}" / "in" / "here"
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(r.randbytes(100))
    for old in folder.glob("deep*"):
        if old != deep.parent.parent:
            shutil.rmtree(old)
    for number in range(80 if many else 0):
        path = folder / "many" / str(number % 70) / str(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(r.randbytes(50))


def _head(folder: Path) -> str | None:
    return main_of(folder / ".gsync" / "store.db")


def add_options(parser: ArgumentParser) -> None:
    """Add what this campaign can be told."""
    parser.set_defaults(seeds=200)
    sabotages = [name for name in SKIPPED if name]
    parser.add_argument("--sabotage", choices=sabotages, default="", help="must make it fail")


def run(options: Namespace) -> int:
    """Run the campaign and print its figures; return how much failed."""
    rows, failures = [], []
    for many in (False, True):
        base = options.base / str(many)
        report = campaign(base, options.seed, options.seeds // 4, options.sabotage, many)
        rows += [(*row[:1], "many" if many else "few", *row[1:]) for row in report.rows]
        failures += report.failures
    show_table(("command", "changes", "steps", "cuts", "old", "new"), rows)
    show_failures(failures)
    return len(failures)
