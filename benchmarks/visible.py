"""How long after a file was saved is it on the other side, when both sides sync in a loop?

gsync: `sync` in a loop here and `pull` in a loop there, over a server on loopback. rsync: `-a`
to a folder in a loop. unison: `-batch` in a loop. The loops do not wait, so this is the best that
each can do without being told of changes.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import data
from benchmarks.measure import Command, Sample
from benchmarks.measure import run as run_commands
from benchmarks.real_tree import data_set
from benchmarks.scenario import Bench
from benchmarks.servers import Server, gone
from benchmarks.tools import TOOLS

EDITS = 5
DEADLINE_S = 60.0
POLL_S = 0.002


class Loop:
    """Runs commands over and over in a thread, until its block ends."""

    def __init__(self, commands: Sequence[Command]) -> None:
        self._commands, self._ends = commands, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join(DEADLINE_S)

    def _run(self) -> None:
        while not self._ends.is_set():
            for command in self._commands:
                subprocess.run(
                    command.argv, cwd=command.folder, env=dict(command.env), capture_output=True
                )


def run(bench: Bench) -> None:
    """Save, and wait until it is there, by turns."""
    folder = bench.folder / "visible"
    ways: dict[str, Callable[[Bench, Path], None]] = {"gsync": _gsync, "rsync": _rsync}
    if subprocess.run(["sh", "-c", "command -v unison"], capture_output=True).returncode == 0:
        ways["unison"] = _unison
    else:
        bench.notes["visible"] = "unison is not installed"
    for name, way in ways.items():
        if name in bench.peers or name == "unison":
            way(bench, folder / name)
    gone(folder)


def _gsync(bench: Bench, folder: Path) -> None:
    tree, served = folder / "tree", folder / "server"
    tree.mkdir(parents=True)
    data_set(bench).make(tree)
    tool = TOOLS["gsync"](tree, folder / "home")
    tool.prepare()
    server: Server
    with tool.start_server(served) as server:  # type: ignore[misc]
        tool.connect(server, f"{server.host}:{server.port}", served)
        run_commands(tool.do("snapshot") + tool.do("push") + tool.do("clone", folder / "copy"))
        sync = [tool.command(*tool.do("snapshot")[0].argv[:3], "sync")]
        with Loop(sync), Loop(tool.do("pull", folder / "copy")):
            _measure(bench, "gsync", tree, folder / "copy")


def _rsync(bench: Bench, folder: Path) -> None:
    tree = folder / "tree"
    tree.mkdir(parents=True)
    data_set(bench).make(tree)
    tool = TOOLS["rsync"](tree, folder / "home")
    with Loop(tool.do("snapshot")):
        _measure(bench, "rsync", tree, tool.store)


def _unison(bench: Bench, folder: Path) -> None:
    tree, copy = folder / "tree", folder / "copy"
    tree.mkdir(parents=True)
    data_set(bench).make(tree)
    env = {"HOME": str(folder), "UNISON": str(folder / "unison"), "PATH": "/usr/bin:/bin"}
    argv = ["unison", "-batch", "-silent", str(tree), str(copy)]
    with Loop([Command(argv, folder, env)]):
        _measure(bench, "unison", tree, copy)


def _measure(bench: Bench, name: str, tree: Path, copy: Path) -> None:
    for number in range(bench.runs * EDITS + 1):
        path = data.files(tree)[number % 7]
        new = (tree / path).read_bytes() + f"# saved {number}\n".encode()
        (tree / path).write_bytes(new)
        began = time.monotonic()
        while not ((copy / path).exists() and (copy / path).read_bytes() == new):
            if time.monotonic() - began > DEADLINE_S:
                bench.failed(f"visible {name}", TimeoutError(f"{path} did not arrive"))
                return
            time.sleep(POLL_S)
        bench.add(Sample("visible", "R", "save to visible", name, number, time.monotonic() - began))
