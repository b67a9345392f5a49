"""Somebody who tries to lose data: edits, commands and kill -9 on two clones and a live server.

Three folders with a database each, one of them attached to the server, are edited all the time,
in files and rows, while commands run in them that may be killed, as the server may. Whatever was
saved carries a token. In the end every token has to be found: live, in a manifest that something
names, or in what was rescued; what was deleted on purpose is not looked for.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import click
from campaigns.commands import check_store
from campaigns.report import show_failures, show_table
from support_cli import environment, gsync_in, make_repository, read_tree, start

from gsync.maps.omap import list_entries
from gsync.objects.model import FILES
from gsync.store.sqlite import SqliteStore
from gsync.sync.contents import read_entry
from gsync.sync.maintenance import list_roots
from gsync.sync.repository import WORKDIR
from gsync.transfer.history import get_manifest, list_ancestors
from gsync.views.files import decode_entry

SUMMARY = "edits, commands and kill -9 on two clones and an attached server; no edit may be lost"

TOKEN = re.compile(rb"tok\d{6}\.")
TABLE = "CREATE TABLE notes (id TEXT PRIMARY KEY, body TEXT NOT NULL)"
BODY_MAX = 900
END_S = 120
EXPECTED = {0, 1, 2, 3, 4, 5, 7, -9}
"""Ways for a command to end; 6 and 70 would be damage, and a defect."""

ROUNDS_MAX = 12

CLIENT = {"sync": 6, "pull": 4, "push": 2, "snapshot": 2, "undo": 1, "gc": 1, "merge": 1}
SERVED = {"snapshot": 3, "undo": 1, "gc": 1, "status": 1, "merge": 2}
EDITS = {
    "new": 5, "append": 4, "save": 4, "move": 1, "delete": 1, "directory": 1,
    "row": 4, "cell": 4, "drop": 1,
}  # fmt: skip


@dataclass
class Place:
    """A folder and its database."""

    folder: Path
    database: Path
    commands: dict[str, int]
    is_merging: bool = False

    def rows(self) -> list[tuple[str, str]]:
        with closing(sqlite3.connect(self.database, timeout=30)) as db:
            return db.execute("SELECT id, body FROM notes ORDER BY id").fetchall()


@dataclass
class Ledger:
    """What was saved and has to be found, and what happened."""

    saved: dict[bytes, str] = field(default_factory=dict)
    count: int = 0
    edits: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    killed: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def token(self) -> bytes:
        self.count += 1
        return b"tok%06d." % self.count

    def dropped(self, content: bytes) -> None:
        """Deleted on purpose: nobody misses it."""
        for token in TOKEN.findall(content):
            self.saved.pop(token, None)


# --- Edits ---------------------------------------------------------------------------------


def edit(place: Place, r: random.Random, ledger: Ledger) -> None:
    """Do one edit, as an editor or an application would."""
    (what,) = r.choices(list(EDITS), list(EDITS.values()))
    token = ledger.token()
    with suppress(FileNotFoundError, NotADirectoryError, FileExistsError, IsADirectoryError):
        # What a pull takes away in between is not there to be edited.
        if what in ("row", "cell", "drop"):
            done = _edit_row(place, r, ledger, what, token)
        else:
            done = _edit_file(place.folder, r, ledger, what, token)
        if done:
            ledger.edits[what] += 1


def _files(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.rglob("*"))
        if WORKDIR not in path.parts and path.name != "gsync.toml" and path.is_file()
    ]


def _edit_file(folder: Path, r: random.Random, ledger: Ledger, what: str, token: bytes) -> bool:
    every = _files(folder)
    if what == "new" or not every:
        path = folder / f"d{r.randrange(5)}" / f"f{r.randrange(40)}"
        path.parent.mkdir(exist_ok=True)
        with path.open("xb") as file:
            file.write(token + b"\n" + r.randbytes(r.choice((0, 100, 200_000))))
        ledger.saved[token] = f"{what} {path}"
        return True
    path = r.choice(every)
    if what == "append":
        with path.open("ab") as file:
            file.write(token + b"\n")
            file.flush()
            with suppress(FileNotFoundError):
                # Where it gave way while it was open, the writer has written to nowhere.
                if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                    ledger.saved[token] = f"{what} {path}"
        return True
    if what == "save":
        draft = folder / WORKDIR.replace("gsync", "draft")
        draft.write_bytes(path.read_bytes() + token + b"\n")
        os.replace(draft, path)
        ledger.saved[token] = f"{what} {path}"
    elif what == "move":
        os.rename(path, path.with_name(f"moved{ledger.count}"))
    elif what == "delete":
        ledger.dropped(path.read_bytes())
        path.unlink()
    elif path.parent != folder:  # a directory gives way to a file
        directory = path.parent
        gone = folder / f".gone{ledger.count}"
        os.rename(directory, gone)
        for inner in _files(gone):
            ledger.dropped(inner.read_bytes())
        shutil.rmtree(gone)
        with directory.open("xb") as stream:
            stream.write(token)
        ledger.saved[token] = f"{what} {directory}"
    return True


def _edit_row(place: Place, r: random.Random, ledger: Ledger, what: str, token: bytes) -> bool:
    with closing(sqlite3.connect(place.database, timeout=30, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        rows = db.execute(
            "SELECT id, body FROM notes WHERE length(body) < ?", (BODY_MAX,)
        ).fetchall()
        text = token.decode()
        which, body = r.choice(rows) if rows else ("", "")
        if what == "row" or not rows:
            db.execute("INSERT INTO notes VALUES (?, ?)", (f"n{ledger.count}", text))
        elif what == "cell":
            db.execute("UPDATE notes SET body = body || ? WHERE id = ?", (text, which))
        else:
            db.execute("DELETE FROM notes WHERE id = ?", (which,))
        db.execute("COMMIT")
        if what == "drop" and rows:
            ledger.dropped(body.encode())
        else:
            ledger.saved[token] = f"{what} {place.database.name}"
    return True


# --- Commands ------------------------------------------------------------------------------


class Server:
    """`gsync serve` with the live folder attached; killed and started at will."""

    def __init__(self, base: Path, folder: Path) -> None:
        self._command = [sys.executable, "-m", "gsync", "serve", "--data", str(base / "data")]
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._command += ["--port", str(self._port), "--attach", f"team={folder}"]
        self._log = base / "server.log"
        self.url = f"http://127.0.0.1:{self._port}/team"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=environment(), stdout=subprocess.PIPE, stderr=log
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith(b"listening"), self._log.read_text()[-2000:]

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def command(place: Place, r: random.Random, ledger: Ledger, token: str) -> None:
    """Run one command, edit while it runs, and kill it or let it end."""
    (what,) = r.choices(list(place.commands), list(place.commands.values()))
    if place.is_merging and r.random() < 0.8:  # nothing else is done while it waits
        what = "merge"
    for args in _arguments(what, r):
        doomed = r.random() < 0.5
        with start(place.folder, *args, GSYNC_TOKEN=token) as process:
            if doomed:
                deadline = time.monotonic() + r.uniform(0.05, 1.2)
                while time.monotonic() < deadline and process.poll() is None:
                    if r.random() < 0.3:
                        edit(place, r, ledger)
                    time.sleep(0.02)
                process.kill()
            elif r.random() < 0.5:
                edit(place, r, ledger)
            try:
                _, err = process.communicate(timeout=END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                ledger.failures.append(f"{args} in {place.folder.name} hangs")
                return
        place.is_merging = process.returncode == 1 or b"is not finished" in err
        ledger.killed[what] += process.returncode == -9
        ledger.ends[what] += process.returncode != -9
        if process.returncode not in EXPECTED or b"Traceback" in err:
            ledger.failures.append(
                f"{args} in {place.folder.name} ends with {process.returncode}:"
                f" {err.decode()[-500:]}"
            )


def _arguments(what: str, r: random.Random) -> Iterator[tuple[str, ...]]:
    if what == "merge":
        if r.random() < 0.2:
            yield "merge", "--abort"
            return
        yield "resolve", "--all", r.choice(("--ours", "--theirs"))
        yield "merge", "--continue"
    elif what == "snapshot":
        yield "snapshot", "-m", "by hand"
    else:
        yield (what,)


# --- The campaign --------------------------------------------------------------------------


def campaign(base: Path, seed: int, seconds: float) -> Ledger:
    """Try for so long, bring all to one state, and look for what was saved."""
    r, ledger = random.Random(seed), Ledger()
    served = _make(base)
    server = Server(base, served.folder)
    token = gsync_in(
        base, "token", "add", "--data", str(base / "data"), "--tenant", "team", "--scope", "write"
    ).text.strip()
    server.start()
    try:
        clients = [_clone(base, server.url, name, token) for name in ("one", "two")]
        places = [served, *clients]
        until = time.monotonic() + seconds
        while time.monotonic() < until and not ledger.failures:
            for _ in range(r.randrange(4)):
                edit(r.choice(places), r, ledger)
            command(r.choice(places), r, ledger, token)
            if r.random() < 0.1:
                server.kill()
                ledger.killed["serve"] += 1
                server.start()
        _settle(places, ledger, token)
    finally:
        server.kill()
    for place in places:
        ledger.failures += check_store(place.folder / WORKDIR / "store.db")
    found = set[bytes]()
    for place in places:
        found |= _find(place)
    for saved, where in ledger.saved.items():
        if saved not in found:
            ledger.failures.append(f"{saved.decode()} is lost: {where}")
    return ledger


def _make(base: Path) -> Place:
    database = base / "served.db"
    with closing(sqlite3.connect(database)) as db:
        db.execute(TABLE)
    folder = make_repository(base / "served", {"first.txt": b"one\n"})
    gsync_in(folder, "db", "add", f"sqlite:///{database}", "--yes")
    gsync_in(folder, "snapshot", "-m", "first")
    return Place(folder, database, SERVED)


def _clone(base: Path, url: str, name: str, token: str) -> Place:
    gsync_in(base, "clone", url, name, GSYNC_TOKEN=token)
    database = base / f"{name}.db"
    with closing(sqlite3.connect(database)) as db:
        db.execute(TABLE)
    gsync_in(base / name, "db", "add", f"sqlite:///{database}", "--yes")
    gsync_in(base / name, "db", "restore", "HEAD")
    return Place(base / name, database, CLIENT)


def _settle(places: list[Place], ledger: Ledger, token: str) -> None:
    """Resolve and sync until all three are alike."""
    said: list[str] = []

    def does(place: Place, *args: str) -> int:
        with start(place.folder, *args, GSYNC_TOKEN=token) as process:
            _, err = process.communicate(timeout=END_S)
        if process.returncode:
            said.append(f"{place.folder.name}: {' '.join(args)}: {err.decode()}")
        return process.returncode

    for _ in range(ROUNDS_MAX):
        said.clear()
        ended = True
        for place in places:
            does(place, "resolve", "--all", "--ours")
            if does(place, "merge", "--continue") == 5:  # unsaved changes are in its way
                does(place, "merge", "--abort")
                does(place, "snapshot", "-m", "before it is merged again")
            last = ("snapshot", "-m", "in the end") if place.commands is SERVED else ("sync",)
            ended = does(place, *last) == 0 and ended
        first = (read_tree(places[0].folder), places[0].rows())
        if ended and all((read_tree(p.folder), p.rows()) == first for p in places):
            return
    ledger.failures.append(f"they do not come to one state: {''.join(said)}")


def _find(place: Place) -> set[bytes]:
    """Return the tokens that are live, named by a manifest, or rescued."""
    found = {token for _, body in place.rows() for token in TOKEN.findall(body.encode())}
    rescued = [p for p in (place.folder / WORKDIR / "rescued").rglob("*") if p.is_file()]
    for path in [*_files(place.folder), *rescued]:
        found.update(TOKEN.findall(path.read_bytes()))
    workdir = place.folder / WORKDIR
    with SqliteStore.open(workdir / "store.db") as store:
        seen = set()
        for oid in list_ancestors(store, list_roots(store, 0)):
            for collection in get_manifest(store, oid).collections:
                for key, value in list_entries(store, collection.root):
                    if (collection.name == FILES, value) in seen:
                        continue
                    seen.add((collection.name == FILES, value))
                    if collection.name == FILES:
                        entry = decode_entry(value)
                        value = b"".join(read_entry(store, entry)) if entry.ref else b""
                    found.update(TOKEN.findall(key + b" " + value))
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("--minutes", type=float, default=30, help="for how long (30)")


def show(ledger: Ledger) -> None:
    """Print what was done."""
    show_table(["edit", "times"], sorted(ledger.edits.items()))
    names = sorted({*ledger.ends, *ledger.killed})
    show_table(
        ["command", "ended", "killed"], [[n, ledger.ends[n], ledger.killed[n]] for n in names]
    )
    click.echo(f"{len(ledger.saved)} edits to be found, {sum(ledger.killed.values())} kills")
    show_failures(ledger.failures)


def run(options: argparse.Namespace) -> int:
    """Run it, print the figures and return how much failed."""
    ledger = campaign(options.base, options.seed, options.minutes * 60)
    show(ledger)
    return len(ledger.failures)
