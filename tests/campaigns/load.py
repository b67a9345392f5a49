"""Many clients that push, pull and clone for a while, all from one server.

Each client is a folder, and each command a process of its own; clients of one tenant push to the
same `main`, so some are refused and sync. Nothing else may fail, and the server's memory has to
stay where it was.
"""

from __future__ import annotations

import random
import shutil
import threading
import time
from argparse import ArgumentParser, Namespace
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import click
from campaigns.commands import ask, check_store, edit
from campaigns.report import show_failures, show_table
from support_cli import environment, read_tree, start
from support_server import RunningServer, running_server

from gsync.sync.repository import init_repository

SUMMARY = "clients that push, pull and clone at once for minutes, and the server's memory meanwhile"

END_S = 600
REFUSED = 5
CLIENTS_A_TENANT = 10
GROWTH_MAX = 1.25
"""What the server's memory in the last third may be, as a part of the most in the first two."""

SETTLED_S = 300
"""A server that has just begun grows: stores are opened, and threads started."""

WEIGHTS = {"sync": 6, "pull": 3, "clone": 1}


@dataclass
class Figures:
    """What the clients saw: how commands ended, how long they took, the server's memory."""

    ends: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    memory_kib: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class _Client:
    """One folder, and the thread that works in it."""

    def __init__(self, folder: Path, url: str, token: str, seed: int) -> None:
        self.folder, self.url = folder, url
        self._token = token
        self._random = random.Random(seed)
        self._number = seed

    def work(self, until: float, figures: Figures) -> None:
        """Run commands until then."""
        while time.monotonic() < until:
            (what,) = self._random.choices(list(WEIGHTS), list(WEIGHTS.values()))
            if what == "sync":
                edit(self.folder, self._random, f"client {self._number}")
            if what == "clone":
                copy = self.folder.with_name(f"{self.folder.name} copy")
                self.run(figures, what, copy.parent, "clone", self.url, copy.name)
                shutil.rmtree(copy, ignore_errors=True)
            else:
                self.run(figures, what, self.folder, what)

    def run(self, figures: Figures, what: str, folder: Path, *args: str) -> int:
        """Run one command and note how it ended and how long it took."""
        began = time.monotonic()
        with start(folder, *args, GSYNC_TOKEN=self._token) as process:
            _, err = process.communicate(timeout=END_S)
        figures.seconds[what].append(time.monotonic() - began)
        figures.ends[what][process.returncode] += 1
        if process.returncode not in (0, REFUSED):
            figures.failures.append(f"{what} ended with {process.returncode}: {err.decode()}")
        return process.returncode


def campaign(base: Path, seed: int, clients: int, seconds: float) -> Figures:
    """Let `clients` work for `seconds`, then bring all of them to one state and compare."""
    figures = Figures()
    with running_server(base / "data") as server:
        teams = [
            _make_team(base, server, number, min(CLIENTS_A_TENANT, clients - at), seed)
            for number, at in enumerate(range(0, clients, CLIENTS_A_TENANT))
        ]
        until = time.monotonic() + seconds
        everybody = [client for team in teams for client in team]
        threads = [threading.Thread(target=c.work, args=(until, figures)) for c in everybody]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            figures.memory_kib.append(_memory_kib(server))
            time.sleep(1)
        for thread in threads:
            thread.join()
        for team in teams:
            figures.failures += _agree(team, figures)
    for number in range(len(teams)):
        store = base / "data" / "tenants" / f"team{number}" / "store.db"
        figures.failures += check_store(store)
    third = max(1, len(figures.memory_kib) // 3)
    before, after = max(figures.memory_kib[: 2 * third]), max(figures.memory_kib[-third:])
    if seconds >= SETTLED_S and after > GROWTH_MAX * before:
        figures.failures.append(f"the server grew from {before} to {after} KiB")
    return figures


def _make_team(
    base: Path, server: RunningServer, number: int, count: int, seed: int
) -> list[_Client]:
    tenant = f"team{number}"
    token, url = server.token(tenant), f"{server.base}/{tenant}"
    folders = [base / f"{tenant} {at}" for at in range(count)]
    first = folders[0]
    init_repository(first)
    edit(first, random.Random(seed), "start")
    ask(first, "snapshot")
    ask(first, "remote", "add", "origin", url)
    made = [
        _Client(folder, url, token, seed * 1000 + number * 100 + at)
        for at, folder in enumerate(folders)
    ]
    setting_up = Figures()
    made[0].run(setting_up, "push", first, "push")
    for client in made[1:]:
        client.run(setting_up, "clone", base, "clone", url, client.folder.name)
    assert not setting_up.failures, setting_up.failures
    return made


def _agree(team: list[_Client], figures: Figures) -> list[str]:
    """Sync everybody twice, one after the other; return what is wrong then."""
    ends = Figures()
    for client in (*team, *team):
        client.run(ends, "sync", client.folder, "sync")
    trees = [read_tree(client.folder) for client in team]
    wrong = [f"after all: {failure}" for failure in ends.failures]
    if any(tree != trees[0] for tree in trees):
        wrong.append("folders of one tenant differ after a sync of all")
    return wrong


def _memory_kib(server: RunningServer) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def add_options(parser: ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("--clients", type=int, default=50, help="how many clients (50)")
    parser.add_argument("--minutes", type=float, default=10, help="for how long (10)")


def run(options: Namespace) -> int:
    """Run it, print the figures and return how much failed."""
    environment()
    figures = campaign(options.base, options.seed, options.clients, options.minutes * 60)
    rows = []
    for what, seconds in sorted(figures.seconds.items()):
        seconds.sort()
        ends = figures.ends[what]
        rows.append(
            [what, len(seconds), ends[0], ends[REFUSED], len(seconds) - ends[0] - ends[REFUSED]]
            + [f"{median(seconds):.2f}", f"{seconds[len(seconds) * 95 // 100]:.2f}"]
            + [f"{seconds[-1]:.2f}"]
        )
    show_table(
        ["command", "runs", "done", "refused", "failed", "median s", "95 % s", "max s"], rows
    )
    memory = figures.memory_kib
    tenth = max(1, len(memory) // 10)
    shown = [max(memory[at : at + tenth]) >> 10 for at in range(0, len(memory), tenth)]
    click.echo(f"server memory, MiB, by tenths: {', '.join(map(str, shown))}")
    show_failures(figures.failures)
    return len(figures.failures)
