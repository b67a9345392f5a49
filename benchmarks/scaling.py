"""What does each command cost with 10,000, 100,000 and 1,000,000 files and a fixed change?"""

from __future__ import annotations

from benchmarks.scenario import Bench, Scenario
from benchmarks.small_files import data_set

CHANGES = 100


def run(bench: Bench) -> None:
    """Lead the scenario with ever more files; of the peers git takes part."""
    largest = bench.size("scale_files", 1_000_000, 10_000)
    runs, bench.runs = bench.runs, min(bench.runs, 3)
    for count in (largest // 100, largest // 10, largest):
        Scenario(bench, "scaling", data_set(count, CHANGES), tools=("gsync", "git")).run()
    bench.runs = runs
