"""How long does a command take that has nothing to do?"""

from __future__ import annotations

import sys

from benchmarks.measure import Command, Sample
from benchmarks.measure import run as run_commands
from benchmarks.real_tree import data_set
from benchmarks.scenario import Bench
from benchmarks.servers import gone
from benchmarks.tools import TOOLS

TIMES = 5  # short commands scatter more, and cost little


def run(bench: Bench) -> None:
    """Start each command several times a run, by turns."""
    folder = bench.folder / "startup"
    tree = folder / "tree"
    tree.mkdir(parents=True)
    chosen = data_set(bench)
    chosen.make(tree)
    tools = {}
    for name in ("gsync", "git"):
        if name in bench.peers:
            tools[name] = tool = TOOLS[name](tree, folder / name)
            tool.prepare()
            run_commands(tool.do("snapshot"))
    env = tools["gsync"].env

    def python(*argv: str) -> list[Command]:
        return [Command([sys.executable, *argv], tree, env)]

    cases = {
        ("nothing", "python"): python("-c", "pass"),
        ("import click", "python"): python("-c", "import click"),
        ("--version", "gsync"): python("-m", "gsync", "--version"),
        ("--help", "gsync"): python("-m", "gsync", "--help"),
        ("log -n 1", "gsync"): python("-m", "gsync", "log", "-n", "1"),
        **{("status", name): tool.do("status") for name, tool in tools.items()},
    }
    for number in range(bench.runs * TIMES + 1):
        for (op, tool_name), commands in cases.items():
            usage = run_commands(commands)
            what = ("startup", chosen.name, op, tool_name, number)
            bench.add(Sample(*what, usage.wall_s, usage.cpu_s, peak_mib=usage.peak_mib))
    for tool in tools.values():
        tool.close()
    gone(folder)
