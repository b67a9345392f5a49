"""Kill -9 in every phase of every command that writes, and at instants that chance chooses.

Afterwards `verify` finds nothing, refs and folder are the old ones or the new ones, and both
together; repeated, the command succeeds; nothing is left behind.
"""

from __future__ import annotations

import os
import random
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from campaigns.commands import (
    Driver,
    Refused,
    Running,
    ask,
    check_leftovers,
    check_store,
    edit,
    main_of,
)
from campaigns.report import show_failures, show_table
from support_cli import read_tree
from support_server import accounts

from gsync.store.sqlite import SqliteStore
from gsync.sync.maintenance import KeepRule, forget, list_forgettable
from gsync.sync.repository import init_repository

SUMMARY = "kill -9 in every phase of snapshot, push, pull, merge, restore, clone and gc"

ATTEMPTS = 4  # arrivals in a phase differ a little from one run to the next
SABOTAGES = ("no-journal", "no-pending", "ref-first")

Tree = dict[bytes, tuple[str, bytes]]


class Case:
    """A command, with a place in which it has something to do, time and again."""

    name = ""
    command: list[str]
    folder: Path
    """Where the command runs; its repository, but for clone."""

    def __init__(self, base: Path, sabotage: str) -> None:
        self.base = base
        self.sabotage = sabotage
        base.mkdir(parents=True)

    def prepare(self, r: random.Random) -> None:
        """Bring about what the command is to change; note the old state and the new."""
        raise NotImplementedError

    def start(self, phase: str = "", nth: int = 0) -> Running:
        """Start what is killed."""
        return Running(self.folder, self.command, phase=phase, nth=nth, sabotage=self.sabotage)

    def check(self) -> tuple[str, list[str]]:
        """Return whether the command was found undone or done, and what is wrong."""
        raise NotImplementedError

    def settle(self) -> list[str]:
        """Repeat the command and return what is wrong then."""
        raise NotImplementedError

    def close(self) -> None:
        """End what runs."""

    @property
    def store(self) -> Path:
        return self.folder / ".gsync" / "store.db"


def make_folder(folder: Path, r: random.Random) -> Path:
    init_repository(folder)
    for top in ("one", "two"):
        edit(folder, r, top)
    ask(folder, "snapshot", "-m", "first")
    return folder


def recover(folder: Path) -> None:
    """Do what the next command does first."""
    ask(folder, "snapshot", "--dry-run")


def head(folder: Path) -> str | None:
    return main_of(folder / ".gsync" / "store.db")


def verdict(found: object, old: object, new: object, what: str) -> tuple[str, list[str]]:
    if found == new:
        return "done", []
    return "undone", [] if found == old else [f"{what} is neither old nor new"]


class Snapshot(Case):
    name = "snapshot"
    command = ["snapshot", "-m", "killed"]

    def __init__(self, base: Path, sabotage: str) -> None:
        super().__init__(base, sabotage)
        self.folder = make_folder(base / "work", random.Random(1))

    def prepare(self, r: random.Random) -> None:
        self.old = head(self.folder)
        edit(self.folder, r, "one")
        self.tree = read_tree(self.folder)

    def check(self) -> tuple[str, list[str]]:
        raw = head(self.folder)
        recover(self.folder)
        wrong = check_store(self.store)
        if raw != head(self.folder):
            wrong.append("main moved without the command")
        if raw != self.old:
            wrong += self._check_recorded()
        return "done" if raw != self.old else "undone", wrong

    def settle(self) -> list[str]:
        ask(self.folder, *self.command)
        return self._check_recorded() + check_leftovers(self.folder)

    def _check_recorded(self) -> list[str]:
        wrong = []
        if ask(self.folder, "show")["parents"] != [self.old]:
            wrong.append("the snapshot does not build on the one before")
        out = self.base / f"out-{time.monotonic_ns()}"
        ask(self.folder, "restore", "--to", str(out))
        if read_tree(out) != self.tree or read_tree(self.folder) != self.tree:
            wrong.append("the snapshot holds something else than the folder")
        return wrong


class Restore(Case):
    name = "restore"
    command = ["restore", "HEAD~1"]

    def __init__(self, base: Path, sabotage: str) -> None:
        super().__init__(base, sabotage)
        self.folder = make_folder(base / "work", random.Random(2))

    def prepare(self, r: random.Random) -> None:
        ask(self.folder, "snapshot")
        self.new = read_tree(self.folder)
        edit(self.folder, r, "one")
        edit(self.folder, r, "two")
        ask(self.folder, "snapshot")
        self.old, self.head = read_tree(self.folder), head(self.folder)

    def check(self) -> tuple[str, list[str]]:
        recover(self.folder)
        state, wrong = verdict(read_tree(self.folder), self.old, self.new, "the folder")
        if head(self.folder) != self.head:
            wrong.append("main has moved")
        return state, wrong + check_store(self.store)

    def settle(self) -> list[str]:
        ask(self.folder, *self.command)
        _, wrong = verdict(read_tree(self.folder), self.new, self.new, "the folder")
        return wrong + check_leftovers(self.folder)


class Exchange(Case):
    """Two folders, and a server between them into whose store `one` also pushes by path."""

    def __init__(self, base: Path, sabotage: str) -> None:
        super().__init__(base, sabotage)
        self.data = base / "data"
        self.tenant = self.data / "tenants" / "acme"
        self.data.mkdir(mode=0o700)
        with accounts(self.data) as there:
            os.environ["GSYNC_TOKEN"] = there.add_token("acme", "write", name="t")[0]
        self.server, self.url = self.serve()
        self.one = make_folder(base / "one", random.Random(3))
        ask(self.one, "remote", "add", "origin", self.url)
        ask(self.one, "push")
        ask(self.one, "remote", "add", "path", str(self.tenant))
        self.two = base / "two"
        ask(base, "clone", self.url, "two")

    def serve(self, phase: str = "", nth: int = 0, port: int = 0) -> tuple[Running, str]:
        command = ["serve", "--data", str(self.data), "--port", str(port)]
        server = Running(self.base, command, phase=phase, nth=nth)
        line = server.out.readline().decode().split()
        return server, f"{line[-1]}/acme"

    def publish(self, r: random.Random, top: str = "one") -> None:
        """Record a change in `one` and bring it to the server."""
        edit(self.one, r, top)
        ask(self.one, "snapshot")
        ask(self.one, "push", "path")

    def close(self) -> None:
        self.server.kill()


class Push(Exchange):
    name = "push"
    command = ["push", "origin"]

    def __init__(self, base: Path, sabotage: str) -> None:
        super().__init__(base, sabotage)
        self.folder = self.one

    def prepare(self, r: random.Random) -> None:
        self.old = head(self.one)
        edit(self.one, r, "one")
        edit(self.one, r, "two")
        ask(self.one, "snapshot")
        self.new = head(self.one)

    def check(self) -> tuple[str, list[str]]:
        state, wrong = verdict(
            main_of(self.tenant / "store.db"), self.old, self.new, "the remote's main"
        )
        recover(self.one)
        if head(self.one) != self.new:
            wrong.append("our own main has moved")
        return state, wrong + check_store(self.tenant / "store.db") + check_store(self.store)

    def settle(self) -> list[str]:
        ask(self.one, *self.command)
        wrong = check_leftovers(self.one) + check_store(self.tenant / "store.db")
        if main_of(self.tenant / "store.db") != self.new:
            wrong.append("the remote's main is not ours after a push")
        if ask(self.one, "status")["remotes"][self.command[-1]] != {"ahead": 0, "behind": 0}:
            wrong.append("status does not know of the push")
        return wrong


class PushToPath(Push):
    """Both sides in one process, which dies with both."""

    name = "push to a path"
    command = ["push", "path"]


class PushServer(Push):
    """A push whose server is killed."""

    name = "push (server)"

    def __init__(self, base: Path, sabotage: str) -> None:
        super().__init__(base, sabotage)
        config = self.one / ".gsync" / "config.toml"
        config.write_text(config.read_text() + "\n[limits]\nattempts = 1\n")

    def start(self, phase: str = "", nth: int = 0) -> Running:
        self.server.kill()
        port = int(self.url.rpartition(":")[2].partition("/")[0])
        server, _ = self.serve(phase, nth, port)
        self.client = Running(self.folder, self.command)
        return _WithClient(server, self.client)

    def check(self) -> tuple[str, list[str]]:
        port = int(self.url.rpartition(":")[2].partition("/")[0])
        self.server, _ = self.serve(port=port)
        return super().check()


class _WithClient(Running):
    """A server that is followed until its client is done."""

    def __init__(self, server: Running, client: Running) -> None:
        self._server, self._client = server, client
        self.phases = server.phases

    def follow(self, until_s: float = 60) -> bool:
        deadline = time.monotonic() + until_s
        while time.monotonic() < deadline:
            if not self._server.follow(0.01) or self._server.phases[-1:] == ["!"]:
                return True
            if self._client.has_ended():
                self._server.follow(0.01)
                return self._server.phases[-1:] == ["!"]
        return True

    def kill(self) -> bool:
        killed = self._server.kill()
        self._client.follow()
        self._client.kill()
        return killed


class Pull(Exchange):
    name = "pull"
    command = ["pull", "origin"]

    def __init__(self, base: Path, sabotage: str) -> None:
        super().__init__(base, sabotage)
        self.folder = self.two

    def prepare(self, r: random.Random) -> None:
        self.publish(r)
        self.publish(r, "two")
        self.old = (read_tree(self.two), head(self.two))
        self.new = (read_tree(self.one), head(self.one))

    def check(self) -> tuple[str, list[str]]:
        _, wrong = verdict(head(self.two), self.old[1], self.new[1], "main")
        recover(self.two)
        state, more = verdict(
            (read_tree(self.two), head(self.two)), self.old, self.new, "folder and main"
        )
        return state, wrong + more + check_store(self.store)

    def settle(self) -> list[str]:
        ask(self.two, *self.command)
        now = (read_tree(self.two), head(self.two))
        _, wrong = verdict(now, self.new, self.new, "folder and main after a pull")
        if not ask(self.two, "status")["clean"]:
            wrong.append("status is not clean")
        return wrong + check_leftovers(self.two)


class Merge(Exchange):
    name = "merge"
    command = ["merge", "origin/main"]

    def __init__(self, base: Path, sabotage: str) -> None:
        super().__init__(base, sabotage)
        self.folder = self.two

    def prepare(self, r: random.Random) -> None:
        ask(self.one, "pull", "path")
        self.publish(r)
        edit(self.two, r, "two")
        ask(self.two, "snapshot")
        ask(self.two, "fetch", "origin")
        self.ours, self.theirs = head(self.two), head(self.one)
        self.old = read_tree(self.two)
        outer = {k: v for k, v in self.old.items() if not k.startswith(b"one/")}
        self.new = outer | {k: v for k, v in read_tree(self.one).items() if k[:4] == b"one/"}

    def check(self) -> tuple[str, list[str]]:
        recover(self.two)
        state, wrong = verdict(read_tree(self.two), self.old, self.new, "the folder")
        moved = head(self.two) != self.ours
        if moved != (state == "done"):
            wrong.append(f"the folder is {state}, and main has {'' if moved else 'not '}moved")
        return state, wrong + check_store(self.store)

    def settle(self) -> list[str]:
        ask(self.two, *self.command)
        _, wrong = verdict(read_tree(self.two), self.new, self.new, "the merged folder")
        if ask(self.two, "show")["parents"] != [self.ours, self.theirs]:
            wrong.append("HEAD is not a merge of both")
        if not ask(self.two, "status")["clean"]:
            wrong.append("status is not clean")
        ask(self.two, "push", "origin")
        return wrong + check_leftovers(self.two)


class Clone(Exchange):
    name = "clone"

    def __init__(self, base: Path, sabotage: str) -> None:
        super().__init__(base, sabotage)
        self.folder = base
        self.count = 0

    def prepare(self, r: random.Random) -> None:
        self.publish(r)
        self.count += 1
        self.target = self.base / f"copy{self.count}"
        self.command = ["clone", self.url, self.target.name]

    def check(self) -> tuple[str, list[str]]:
        if not self.target.exists():
            return "undone", []
        return "done", self._check_copy()

    def settle(self) -> list[str]:
        ask(self.base, *self.command, code=5 if self.target.exists() else 0)
        return self._check_copy() + check_leftovers(self.target)

    def _check_copy(self) -> list[str]:
        now = (read_tree(self.target), head(self.target))
        there = (read_tree(self.one), head(self.one))
        _, wrong = verdict(now, there, there, "the copy")
        return wrong + check_store(self.target / ".gsync" / "store.db")


class Collect(Case):
    name = "gc"
    command = ["gc"]

    def __init__(self, base: Path, sabotage: str) -> None:
        super().__init__(base, sabotage)
        self.folder = make_folder(base / "work", random.Random(4))

    def prepare(self, r: random.Random) -> None:
        for top in ("one", "two", "one"):
            edit(self.folder, r, top)
            ask(self.folder, "snapshot")
        with SqliteStore.open(self.store) as store:
            old = list_forgettable(store, KeepRule(last=2))
            forget(store, old, actor="t", reason="to have garbage", now_us=time.time_ns() // 1000)
        self.log = self._kept()
        self.tree = read_tree(self.folder)
        self.garbage = self._garbage()

    def check(self) -> tuple[str, list[str]]:
        wrong = check_store(self.store)
        recover(self.folder)
        if self._kept() != self.log:
            wrong.append("history has changed")
        if read_tree(self.folder) != self.tree:
            wrong.append("the folder has changed")
        return "done" if self._garbage() < self.garbage else "undone", wrong

    def settle(self) -> list[str]:
        ask(self.folder, *self.command)
        wrong = check_store(self.store) + check_leftovers(self.folder)
        if ask(self.folder, *self.command)["objects"]:
            wrong.append("it had left something to drop")
        out = self.base / f"out-{time.monotonic_ns()}"
        ask(self.folder, "restore", "--to", str(out))
        _, more = verdict(read_tree(out), self.tree, self.tree, "what is restored after it")
        return wrong + more

    def _kept(self) -> list[str]:
        return [m["manifest"] for m in ask(self.folder, "log", "-n", "2")["manifests"]]

    def _garbage(self) -> int:
        return int(ask(self.folder, "gc", "--dry-run")["objects"])


CASES: Sequence[type[Case]] = (
    Snapshot,
    Push,
    PushServer,
    PushToPath,
    Pull,
    Merge,
    Restore,
    Clone,
    Collect,
)

# --- The campaign ------------------------------------------------------------------------


@dataclass
class Tally:
    """What came of the kills in one phase of one command."""

    kills: int = 0
    undone: int = 0
    done: int = 0

    def count(self, state: str) -> None:
        self.kills += 1
        self.done += state == "done"
        self.undone += state == "undone"


@dataclass
class Report:
    """What the kills of a campaign came to.

    Attributes:
        phases: By command and phase, the kills in it.
        instants: By command, the kills at instants of chance.
        failures: What was wrong, each with the command, the phase and the arrival.
    """

    phases: dict[tuple[str, str], Tally] = field(default_factory=dict)
    instants: dict[str, Tally] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


def campaign(
    base: Path,
    r: random.Random,
    cases: Sequence[type[Case]],
    *,
    per_phase: int,
    instants: int = 0,
    phases: Callable[[str], bool] = lambda _: True,
    sabotage: str = "",
) -> Report:
    """Kill each command in each of its phases, and `instants` times whenever chance has it.

    Args:
        per_phase: Kills in each phase of each command.
        instants: Kills at instants of chance, in all.
        phases: Which phases.
    """
    report = Report()
    Driver.get()  # its start is no part of how long a command takes
    for number, make in enumerate(cases):
        with _Place(make, base / str(number), sabotage) as place:
            counts, whole_s = _census(place, r)
            for phase in filter(phases, sorted(counts)):
                tally = report.phases.setdefault((make.name, phase), Tally())
                for _ in range(per_phase):
                    _kill_in(place, r, phase, counts[phase], tally, report.failures)
            tally = report.instants.setdefault(make.name, Tally())
            for _ in range(len(range(number, instants, len(cases)))):
                after_s = r.uniform(0.1, 1.05) * whole_s
                _kill_after(place, r, after_s, tally, report.failures)
    return report


class _Place:
    """The case that kills go on with; a new one after one that failed."""

    def __init__(self, make: type[Case], base: Path, sabotage: str) -> None:
        self._make, self._base, self._sabotage = make, base, sabotage
        self._count = 0
        self._case: Case | None = None

    def __enter__(self) -> _Place:
        return self

    def __exit__(self, *_: object) -> None:
        self.give_up()

    def case(self, r: random.Random) -> Case:
        """Return the case, prepared for its next kill."""
        if self._case is None:
            self._count += 1
            self._case = self._make(self._base / str(self._count), self._sabotage)
        self._case.prepare(r)
        return self._case

    def give_up(self) -> None:
        """Leave the case as it is."""
        if self._case is not None:
            self._case.close()
            self._case = None


def _census(place: _Place, r: random.Random) -> tuple[dict[str, int], float]:
    """Return how often the command arrives in each phase, and how long it takes."""
    case = place.case(r)
    began = time.monotonic()
    running = case.start()
    running.follow()
    whole_s = time.monotonic() - began
    running.kill()
    assert running.counts, "it announced no phase"
    case.check()
    wrong = case.settle()
    assert not wrong, wrong
    return dict(running.counts), whole_s


def _kill_in(
    place: _Place, r: random.Random, phase: str, count: int, tally: Tally, failures: list[str]
) -> None:
    """Kill the command once in `phase`, at an arrival of chance."""
    for _ in range(ATTEMPTS):
        case, nth = place.case(r), r.randint(1, count)
        with _noted(place, f"{case.name}, {phase} {nth}", failures) as wrong:
            running = case.start(phase, nth)
            running.follow()
            stopped = running.phases[-1:] == ["!"]
            running.kill()
            state, found = case.check()
            wrong += found + case.settle()
        if stopped:
            if not wrong:
                tally.count(state)
            else:
                tally.kills += 1
            return
        count = max(1, nth - 1)


def _kill_after(
    place: _Place, r: random.Random, after_s: float, tally: Tally, failures: list[str]
) -> None:
    for _ in range(ATTEMPTS):
        case = place.case(r)
        with _noted(place, f"{case.name}, after {after_s:.3f} s", failures) as wrong:
            running = case.start()
            running.follow(after_s)
            killed = running.kill()
            state, found = case.check()
            wrong += [f"{running.last_phase}: {text}" for text in found + case.settle()]
            if killed:
                tally.count(state)
        if killed or wrong:
            return
        after_s *= 0.7


@contextmanager
def _noted(place: _Place, what: str, failures: list[str]) -> Iterator[list[str]]:
    """Take what the block finds wrong, and do not go on with a case that is broken."""
    wrong: list[str] = []
    try:
        yield wrong
    except Refused as error:
        wrong.append(str(error))
    if wrong:
        failures += [f"{what}: {text}" for text in wrong]
        place.give_up()


def add_options(parser: ArgumentParser) -> None:
    """Add what this campaign can be told."""
    parser.set_defaults(seeds=200)
    parser.add_argument("--per-phase", type=int, default=10, help="kills in each phase")
    names = [case.name for case in CASES]
    parser.add_argument("--only", action="append", choices=names, help="one command; repeatable")
    parser.add_argument("--sabotage", choices=SABOTAGES, default="", help="must make it fail")


def run(options: Namespace) -> int:
    """Run the campaign and print its figures; return how much failed."""
    cases = [case for case in CASES if not options.only or case.name in options.only]
    r = random.Random(options.seed)
    report = campaign(
        options.base,
        r,
        cases,
        per_phase=options.per_phase,
        instants=options.seeds,
        sabotage=options.sabotage,
    )
    rows = [(*key, t.kills, t.undone, t.done) for key, t in report.phases.items()]
    rows += [
        (name, "(any instant)", t.kills, t.undone, t.done) for name, t in report.instants.items()
    ]
    tallies = [*report.phases.values(), *report.instants.values()]
    total = [
        sum(column) for column in zip(*((t.kills, t.undone, t.done) for t in tallies), strict=True)
    ]
    show_table(("command", "phase", "kills", "undone", "done"), [*rows, ("all", "", *total)])
    for (name, phase), tally in report.phases.items():
        if tally.kills < options.per_phase:
            report.failures.append(f"{name}, {phase}: killed {tally.kills} times only")
    show_failures(report.failures)
    return len(report.failures)
