"""Power loss under the store: what a cut leaves is sound, and holds all that was acknowledged.

Two folders live through snapshots, pushes, pulls, merges, collections, checkpoints and reopened
stores, on a disk that logs. It is cut at points of chance; what remains is opened as ever.
"""

from __future__ import annotations

import random
import shutil
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from campaigns.commands import edit
from campaigns.disk_log import Disk, DiskLog, Spoiled
from campaigns.report import show_failures, show_table

from gsync.config import load_config
from gsync.errors import Corrupt, GsyncError
from gsync.objects.oid import Kind
from gsync.protocol.messages import Hello
from gsync.remotes.local import LocalRemote
from gsync.store import file
from gsync.store.sql import Connection
from gsync.store.sqlite import SqliteStore
from gsync.sync import exchange
from gsync.sync.maintenance import (
    KeepRule,
    collect,
    forget,
    list_forgettable,
    list_reachable,
    list_roots,
    verify,
)
from gsync.sync.repository import Repository, init_repository, now_us, snapshot
from gsync.transfer.answer import Answerer

SUMMARY = "power loss under the store, at points of chance in its writes"

SABOTAGES = ("synchronous-off", "synchronous-normal", "ref-first")
CHECKPOINT_PAGES = 12  # often, within a short life
ROUNDS = 3


class WatchedStore(SqliteStore):
    """A store that notes in the disk's log what its user has been told is done."""

    disk: DiskLog
    hasty = False

    def move_refs(self, *args: Any, **named: Any) -> Any:
        if self.hasty:  # a sabotage: objects after the ref that names them
            self.flush = lambda: None  # type: ignore[method-assign]
        done = super().move_refs(*args, **named)
        if self.hasty:
            del self.flush
        self._told()
        if self.hasty:
            self.flush()
        return done

    def set_tracking(self, *args: Any) -> None:
        super().set_tracking(*args)
        self._told()

    def set_states(self, *args: Any) -> None:
        super().set_states(*args)
        self._told()

    def drop_expired(self, *args: Any) -> None:
        super().drop_expired(*args)
        self._told()

    def _told(self) -> None:
        self.disk.note((str(self.path), facts(self)))


def facts(store: SqliteStore) -> dict[str, Any]:
    """Return what a store holds by name."""
    last, names = store.last_log_entry(), store.list_remotes()
    return {
        "refs": store.list_refs(),
        "log": last.hash if last else None,
        "tracking": [(name, store.tracking(name)) for name in names if store.tracking(name)],
        "states": dict(store._select("SELECT name, value FROM state")),
    }


@dataclass
class Life:
    """The two folders and the store between them, on one disk."""

    base: Path
    disk: DiskLog
    sabotage: str

    def store(self, path: Path) -> WatchedStore:
        store = WatchedStore.open(path, connect=self._connect)
        store.disk, store.hasty = self.disk, self.sabotage == "ref-first"
        return store

    def _connect(self, path: Path, read_only: bool) -> Connection:
        inner = self.disk.connect(path, read_only)
        word = {"synchronous-off": "OFF", "synchronous-normal": "NORMAL"}.get(self.sabotage)
        if word is None:
            return inner
        return Spoiled(
            inner, lambda sql: sql.replace("synchronous = FULL", f"synchronous = {word}")
        )

    @contextmanager
    def repository(self, name: str) -> Iterator[Repository]:
        root = self.base / name
        workdir = root / ".gsync"
        config = load_config(root, workdir)
        with Repository(root, workdir, self.store(workdir / "store.db"), config) as repo:
            yield repo

    @contextmanager
    def remote(self, actor: str) -> Iterator[LocalRemote]:
        with self.store(self.base / "there" / "store.db") as store:
            yield LocalRemote(Answerer(store, actor, now_us))

    def live(self, r: random.Random) -> None:
        """Do everything that writes to a store, some rounds long."""
        for folder in ("one", "two"):
            init_repository(self.base / folder)
        init_repository(self.base / "there", bare=True)
        for _ in range(ROUNDS):
            for name in ("one", "two"):
                with self.repository(name) as repo:
                    self._exchange(repo, name)
                    edit(repo.root, r, name)
                    snapshot(repo, "a change")
                    self._exchange(repo, name)
                    edit(repo.root, r, name)
                    snapshot(repo, "another")
                    self._exchange(repo, name)
            self._collect()

    def _exchange(self, repo: Repository, actor: str) -> None:
        with self.remote(actor) as remote:
            if remote.hello(Hello(1, None)).refs:
                exchange.pull(repo, "origin", remote)
            if repo.head() is not None:
                exchange.push(repo, "origin", remote)

    def _collect(self) -> None:
        with self.repository("one") as repo:
            old = list_forgettable(repo.store, KeepRule(last=2))
            forget(repo.store, old, actor="t", reason="gc", now_us=now_us())
            collect(repo.store, now_us())
        with self.store(self.base / "there" / "store.db") as store:
            collect(store, now_us())


@dataclass
class Report:
    """What came of the cuts.

    Attributes:
        entries: How many writes, syncs, deletions and notes the life was.
        cuts: How many cuts.
        stores: How many stores were opened after them.
        outcomes: How often a store was `sound`, and what was wrong otherwise.
        failures: What was wrong after which cut.
    """

    entries: int = 0
    cuts: int = 0
    stores: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def campaign(base: Path, seed: int, cuts: int, sabotage: str = "") -> Report:
    """Live once, cut `cuts` times, and look at what every cut leaves."""
    disk = DiskLog(f"gsync-campaign-{seed}-{sabotage}")
    r = random.Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file, "_WAL_PAGES_MAX", CHECKPOINT_PAGES)
        Life(base, disk, sabotage).live(r)
    report = Report(entries=len(disk.entries), cuts=cuts)
    begin = next(at for at, entry in enumerate(disk.entries) if entry.kind == "note")
    after, noted = Disk(disk), _notes(disk)
    points = sorted(r.randrange(begin + 1, len(disk.entries) + 1) for _ in range(cuts))
    for number, point in enumerate(points):
        after.forward(point)
        _check_cut(base / f"cut{number}", after, noted, r, report, f"cut at {point}")
    return report


def _notes(log: DiskLog) -> dict[str, list[dict[str, Any]]]:
    """Return what was noted about each store, in order."""
    notes: dict[str, list[dict[str, Any]]] = {}
    for entry in log.entries:
        if entry.kind == "note":
            notes.setdefault(entry.note[0], []).append(entry.note[1])
    return notes


def _check_cut(
    place: Path,
    disk: Disk,
    noted: dict[str, list[dict[str, Any]]],
    r: random.Random,
    report: Report,
    what: str,
) -> None:
    told = Counter(path for path, _ in disk.notes)
    files = dict(disk.cut(r))
    for at, path in enumerate(sorted(told)):
        directory = place / str(at)
        directory.mkdir(parents=True)
        for name, body in files.items():
            if name.startswith(path):
                (directory / Path(name).name).write_bytes(body)
        known = noted[path][told[path] - 1 : told[path] + 1]
        report.stores += 1
        outcome = _judge(directory / "store.db", known)
        report.outcomes[outcome.partition(":")[0]] += 1
        if outcome != "sound":
            report.failures.append(f"{what}, {Path(path).relative_to(place.parent)}: {outcome}")
    shutil.rmtree(place)


def _judge(path: Path, known: list[dict[str, Any]]) -> str:
    """Return `sound`, or what is wrong with a store of which `known` was the last that was told.

    The second of `known`, if any, was on its way when the power went.
    """
    try:
        with SqliteStore.open(path) as store:
            if broken := store.check_database():
                return f"corrupt: {broken[0]}"
            problems = verify(store).problems
            if problems:
                return f"holes: {problems[0].kind} {problems[0].detail}"
            for oid in list_reachable(store, list_roots(store, 0)):
                if store.missing([oid]):
                    return f"holes: {oid.hex()} cannot be read"
            found = facts(store)
            if found not in known:
                return f"lost: {', '.join(k for k in found if found[k] != known[0][k])}"
            store.put(Kind.BLOB, b"life goes on")
            store.flush()
    except Corrupt as error:
        return f"corrupt: {error}"
    except GsyncError as error:
        return f"holes: {error}"
    return "sound"


def add_options(parser: ArgumentParser) -> None:
    """Add what this campaign can be told."""
    parser.set_defaults(seeds=300)
    parser.add_argument("--sabotage", choices=SABOTAGES, default="", help="must make it fail")


def run(options: Namespace) -> int:
    """Run the campaign and print its figures; return how much failed."""
    report = campaign(options.base, options.seed, options.seeds, options.sabotage)
    show_table(
        ("log entries", "cuts", "stores opened", *report.outcomes),
        [(report.entries, report.cuts, report.stores, *report.outcomes.values())],
    )
    show_failures(report.failures)
    return len(report.failures)
