"""What do 12 patterns in a .gsyncignore cost, and in a .gitignore?"""

from __future__ import annotations

from benchmarks.measure import Sample
from benchmarks.measure import run as run_commands
from benchmarks.scenario import Bench
from benchmarks.servers import gone
from benchmarks.small_files import data_set
from benchmarks.tools import TOOLS

PATTERNS = """\
*.pyc
*.o
*~
.DS_Store
/build/
/dist/
node_modules/
**/cache/**
!**/cache/keep
docs/**/*.tmp
logs/[0-9]*.log
*.sw?
"""
FILES = {"gsync": ".gsyncignore", "git": ".gitignore"}


def run(bench: Bench) -> None:
    """Take status without and with the patterns, by turns; nothing matches them."""
    count = bench.size("files", 100_000, 5_000)
    folder = bench.folder / "ignore"
    chosen = data_set(count)
    tools = []
    for name in FILES:
        for rules in (False, True):
            if name not in bench.peers:
                continue
            tree = folder / f"{name}-{rules}"
            tree.mkdir(parents=True)
            chosen.make(tree)
            if rules:
                (tree / FILES[name]).write_text(PATTERNS)
            tool = TOOLS[name](tree, folder / f"{name}-{rules}-home")
            tool.prepare()
            run_commands(tool.do("snapshot"))
            tools.append(("12 patterns" if rules else "no patterns", tool))
    for number in range(bench.runs + 1):
        for op, tool in tools:
            usage = run_commands(tool.do("status"))
            what = ("ignore", chosen.name, op, tool.name, number)
            bench.add(Sample(*what, usage.wall_s, usage.cpu_s, peak_mib=usage.peak_mib))
    gone(folder)
