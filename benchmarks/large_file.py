"""L: what does one file of a GiB cost, and an edit within it?"""

from __future__ import annotations

from benchmarks import data
from benchmarks.scenario import Bench, DataSet, Scenario

NAME = "large.bin"


def run(bench: Bench) -> None:
    """Lead the whole scenario with all tools."""
    mib = bench.size("mib", 1024, 64)
    data_set = DataSet(
        f"L {mib} MiB",
        lambda tree: data.make_large(tree / NAME, mib),
        lambda tree, number: data.edit_large(tree / NAME, number),
    )
    Scenario(bench, "large", data_set).run()
