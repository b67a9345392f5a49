"""R: a service's 80 files with one edit, where start-up decides; `--tree DIR` gives a real one."""

from __future__ import annotations

from benchmarks import data
from benchmarks.measure import together
from benchmarks.scenario import Bench, DataSet, Scenario


def data_set(bench: Bench) -> DataSet:
    """Return R."""
    given = bench.sample_tree
    return DataSet(
        "R given" if given else "R",
        lambda tree: data.make_sample(tree, given),
        data.edit_sample,
    )


def run(bench: Bench) -> None:
    """Lead the whole scenario, and add up status, snapshot and push after the edit."""
    Scenario(bench, "real", data_set(bench)).run()
    found = {(s.tool, s.run, s.op): s for s in bench.samples if s.question == "real"}
    for tool, number in sorted({key[:2] for key in found}):
        parts = [
            found.get((tool, number, op)) for op in ("status", "snapshot_change", "push_change")
        ]
        if all(parts):
            bench.add(together("edit_to_server", [part for part in parts if part]))
