"""Many at once against one server, each a process of its own.

Two pushers, pushes during collections, a server that is killed or stopped in the middle of a
push, and clones all at the same time: what was accepted is in history, what was refused goes
through after a sync, and every store is whole.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from campaigns.commands import ask, check_store, edit, main_of
from campaigns.report import show_failures, show_table
from support_cli import read_tree, start
from support_server import RunningServer, running_server

from gsync.sync.repository import init_repository

SUMMARY = "two pushers, pushes during gc and server restarts, and many clones at once"

END_S = 300
BIG_BYTES = 3 << 20  # beyond one request, so that it is begun, leased and sent in parts
REFUSED, UNAVAILABLE = 5, 7


@dataclass
class Report:
    """What each part came to: rounds, how commands ended, and what was wrong."""

    rounds: Counter[str] = field(default_factory=Counter)
    ends: dict[str, Counter[int]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def end(self, part: str, code: int) -> int:
        """Count how a command ended."""
        self.ends.setdefault(part, Counter())[code] += 1
        return code


class Team:
    """A server and two folders that share one history."""

    def __init__(self, base: Path, r: random.Random) -> None:
        self.base, self.data = base, base / "data"
        self.store = self.data / "tenants" / "acme" / "store.db"
        with running_server(self.data) as server:
            self.port = server.port
            self.token = server.token("acme")
            os.environ["GSYNC_TOKEN"] = self.token
            self.url = f"{server.base}/acme"
            one = base / "one"
            init_repository(one)
            edit(one, r, "one")
            ask(one, "snapshot")
            ask(one, "remote", "add", "origin", self.url)
            ask(one, "push")
            ask(base, "clone", self.url, "two")
        self.folders = [one, base / "two"]

    @contextmanager
    def serving(self) -> Iterator[RunningServer]:
        """Run the server, again at the same address."""
        with running_server(self.data, port=self.port) as server:
            yield server

    def run(self, folder: Path, *args: str) -> subprocess.Popen[bytes]:
        """Start a command."""
        return start(folder, *args, GSYNC_TOKEN=self.token)

    def history(self) -> set[str]:
        """Return the manifests in the history of the server's main."""
        log = ask(self.store.parent, "log", "-n", "100000")["manifests"]
        return {manifest["manifest"] for manifest in log}

    def agree(self) -> list[str]:
        """Bring both folders to the end of history; return what is wrong then."""
        for folder in (*self.folders, self.folders[0]):
            ask(folder, "sync")
        one, two = ((read_tree(f), main_of(f / ".gsync" / "store.db")) for f in self.folders)
        wrong = [] if one == two else ["the folders differ after a sync of both"]
        if main_of(self.store) != one[1]:
            wrong.append("the server's main is not theirs")
        for store in (self.store, *(folder / ".gsync" / "store.db" for folder in self.folders)):
            wrong += check_store(store)
        return wrong


def ended(process: subprocess.Popen[bytes]) -> int:
    """Wait for a command; return how it ended."""
    with process:
        process.communicate(timeout=END_S)
    return process.returncode


def head(folder: Path) -> str:
    found = main_of(folder / ".gsync" / "store.db")
    assert found is not None
    return found


def pushers(team: Team, r: random.Random, rounds: int, report: Report) -> list[str]:
    """Push from both folders at once; one is refused with 5, syncs and is through."""
    wrong: list[str] = []
    with team.serving():
        for _ in range(rounds):
            for folder, top in zip(team.folders, ("one", "two"), strict=True):
                edit(folder, r, top)
                ask(folder, "snapshot")
            mine = [head(folder) for folder in team.folders]
            running = [team.run(folder, "push") for folder in team.folders]
            codes = [report.end("pushers", ended(process)) for process in running]
            if sorted(codes) != [0, REFUSED]:
                wrong.append(f"two pushes at once ended with {codes}")
            for code, oid, folder in zip(codes, mine, team.folders, strict=True):
                if (code == 0) != (oid in team.history()):
                    wrong.append(f"a push ended with {code}, and history says otherwise")
                if code:
                    ask(folder, "sync")
            if not set(mine) <= team.history():
                wrong.append("something is not in history after a sync")
            wrong += team.agree()
    return wrong


def pushes_during_gc(team: Team, r: random.Random, rounds: int, report: Report) -> list[str]:
    """Collect again and again while something large is pushed; in the end it is there."""
    wrong: list[str] = []
    one = team.folders[0]
    with team.serving():
        for _ in range(rounds):
            (one / "big").write_bytes(r.randbytes(BIG_BYTES))
            edit(one, r, "one")
            ask(one, "snapshot")
            push = team.run(one, "push")
            while push.poll() is None:
                report.end("gc meanwhile", ended(team.run(team.store.parent, "gc")))
            code = report.end("push during gc", ended(push))
            wrong += check_store(team.store)
            if code not in (0, UNAVAILABLE):
                wrong.append(f"a push during a collection ended with {code}")
            if code:
                ask(one, "push")
            if head(one) not in team.history():
                wrong.append("what was pushed is not in history")
    with team.serving():
        return wrong + team.agree()


def restarts(team: Team, r: random.Random, rounds: int, report: Report) -> list[str]:
    """End the server in the middle of a push, politely or not, and start it again at once."""
    wrong: list[str] = []
    one = team.folders[0]
    for number in range(rounds):
        (one / "big").write_bytes(r.randbytes(BIG_BYTES))
        ask(one, "snapshot")
        with team.serving() as server:
            push = team.run(one, "push")
            time.sleep(r.uniform(0.1, 0.8))
            if number % 2:
                server.process.send_signal(signal.SIGTERM)
                server.process.wait(END_S)
            else:
                server.kill()
        with team.serving():
            code = report.end("push over a restart", ended(push))
            if code not in (0, UNAVAILABLE):
                wrong.append(f"a push over a restart ended with {code}")
            if code == 0 and head(one) not in team.history():
                wrong.append("a push was reported as done and is not in history")
            ask(one, "push")
            if head(one) not in team.history():
                wrong.append("what was pushed is not in history")
            wrong += check_store(team.store)
    with team.serving():
        return wrong + team.agree()


def clones(team: Team, r: random.Random, count: int, report: Report) -> list[str]:
    """Clone `count` times at once; every copy is whole and the same."""
    wrong: list[str] = []
    names = [f"copy{number}" for number in range(count)]
    with team.serving():
        running = [team.run(team.base, "clone", team.url, name) for name in names]
        for process in running:
            if report.end("clones", ended(process)) != 0:
                wrong.append("a clone failed")
    there = (read_tree(team.folders[0]), head(team.folders[0]))
    for name in names:
        copy = team.base / name
        if copy.exists():
            wrong += check_store(copy / ".gsync" / "store.db")
            if (read_tree(copy), head(copy)) != there:
                wrong.append(f"{name} is not what was cloned")
    return wrong


PARTS = {
    "pushers": pushers,
    "gc": pushes_during_gc,
    "restarts": restarts,
    "clones": clones,
}


def campaign(base: Path, seed: int, part: str, rounds: int, report: Report) -> None:
    """Run one part, for so many rounds or with so many clones."""
    base.mkdir()
    r = random.Random(seed)
    wrong = PARTS[part](Team(base, r), r, rounds, report)
    report.rounds[part] += rounds
    report.failures += [f"{part}: {text}" for text in wrong]


def add_options(parser: ArgumentParser) -> None:
    """Add what this campaign can be told."""
    parser.set_defaults(seeds=20)
    parser.add_argument("--only", choices=list(PARTS), help="one part alone")


def run(options: Namespace) -> int:
    """Run the campaign and print its figures; return how much failed."""
    report, rows = Report(), []
    for part in PARTS:
        if options.only in (None, part):
            began = time.monotonic()
            campaign(options.base / part, options.seed, part, options.seeds, report)
            rows.append((part, report.rounds[part], f"{time.monotonic() - began:.0f}"))
    show_table(("part", "rounds or clones", "seconds"), rows)
    for name, codes in report.ends.items():
        show_table(
            (name, *(f"exit {code}" for code in sorted(codes))),
            [("", *(codes[code] for code in sorted(codes)))],
        )
    show_failures(report.failures)
    return len(report.failures)
