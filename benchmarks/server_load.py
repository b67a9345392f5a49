"""How many clients a second does one server serve, when 1, 8 or 32 push and clone R at once?"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.measure import Sample
from benchmarks.measure import run as run_commands
from benchmarks.real_tree import data_set
from benchmarks.scenario import Bench
from benchmarks.servers import Server, gone
from benchmarks.tools import TOOLS, Tool

CLIENTS = (1, 8, 32)


def run(bench: Bench) -> None:
    """For each number of clients: all push at once to stores of their own, then all clone."""
    folder = bench.folder / "load"
    for name in ("gsync", "git"):
        if name not in bench.peers:
            continue
        served = folder / name / "server"
        with TOOLS[name].start_server(served) as server:  # type: ignore[misc]
            for number in range(bench.runs + 1):
                for clients in CLIENTS:
                    place = folder / name / f"{number}-{clients}"
                    _round(bench, name, clients, number, place, server, served)
    gone(folder)


def _round(
    bench: Bench, name: str, clients: int, number: int, folder: Path, server: Server, served: Path
) -> None:
    chosen = data_set(bench)
    tools = []
    for i in range(clients):
        tree = folder / f"tree{i}"
        tree.mkdir(parents=True)
        chosen.make(tree)
        tool = TOOLS[name](tree, folder / f"c{number}-{clients}-{i}")
        tool.prepare()
        tool.connect(server, f"{server.host}:{server.port}", served)
        run_commands(tool.do("snapshot"))
        tools.append(tool)

    def push(tool: Tool) -> float:
        return run_commands(tool.do("push")).cpu_s

    def clone(tool: Tool) -> float:
        return run_commands(tool.do("clone", tool.home / "clone")).cpu_s

    for op, act in (("push", push), ("clone", clone)):
        began, cpu = time.monotonic(), server.cpu()
        with ThreadPoolExecutor(clients) as pool:
            spent = sum(pool.map(act, tools))
        wall = time.monotonic() - began
        what = ("load", chosen.name, f"{op} by {clients}", name, number)
        per_client = (server.cpu() - cpu) / clients
        bench.add(
            Sample(*what, wall, spent / clients, server_cpu_s=per_client, value=clients / wall)
        )
    gone(folder)
