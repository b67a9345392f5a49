"""S and U: how long does everything take with 100,000 small files, and when 1 % of them change?"""

from __future__ import annotations

from benchmarks import data
from benchmarks.scenario import Bench, DataSet, Scenario


def data_set(count: int, changes: int | None = None) -> DataSet:
    """Return S with `count` files, of which 1 %, or `changes`, change."""
    return DataSet(
        f"S {count:,}",
        lambda tree: data.make_small(tree, count),
        lambda tree, number: data.change_small(tree, number, changes or max(1, count // 100)),
    )


def run(bench: Bench) -> None:
    """Lead the whole scenario with all tools."""
    Scenario(bench, "small", data_set(bench.size("files", 100_000, 5_000))).run()
