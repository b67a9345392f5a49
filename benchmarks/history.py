"""H: does a snapshot take as long, and the store grow as little, after 300 of them?"""

from __future__ import annotations

from benchmarks import data
from benchmarks.measure import Command, Sample
from benchmarks.measure import run as run_commands
from benchmarks.scenario import Bench
from benchmarks.servers import gone
from benchmarks.tools import TOOLS

CHANGES = 20
PARTS = 10


def run(bench: Bench) -> None:
    """Take snapshots of a tree that changes, and sum them up for each tenth of the history."""
    files, count = bench.size("history_files", 5_000, 500), bench.size("snapshots", 300, 30)
    name = f"H {count} x {CHANGES} of {files:,}"
    folder = bench.folder / "history"
    trees = {True: folder / "own", False: folder / "shared"}
    for tree in trees.values():
        tree.mkdir(parents=True)
        data.make_small(tree, files)
    kinds = [TOOLS[peer] for peer in ("gsync", "git", "restic", "borg") if peer in bench.peers]
    tools = [kind(trees[kind.in_tree], folder / kind.name) for kind in kinds]
    for tool in tools:
        tool.prepare()
        run_commands(tool.do("snapshot"))
    for number in range(count):
        for tree in trees.values():
            data.change_small(tree, number, CHANGES)
        part = 1 + number * PARTS // count
        for tool in tools:
            before = tool.sizes()[0]
            commands: list[Command] = tool.do("snapshot")
            usage = run_commands(commands)
            grown = tool.sizes()[0] - before
            what = ("history", name, f"tenth {part:02}", tool.name, number + 1)
            bench.add(
                Sample(*what, usage.wall_s, usage.cpu_s, peak_mib=usage.peak_mib, store_bytes=grown)
            )
    for tool in tools:
        usage = run_commands(tool.do("gc"))
        size, disk = tool.sizes()
        what = ("history", name, "after gc", tool.name, 1)
        bench.add(
            Sample(
                *what, usage.wall_s, usage.cpu_s, peak_mib=usage.peak_mib,
                store_bytes=size, disk_bytes=disk,
            )
        )  # fmt: skip
        tool.close()
    gone(folder)
