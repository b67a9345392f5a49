"""U, and nothing, pushed and pulled over a link of 50 ms and 20 Mbit/s: how many seconds?"""

from __future__ import annotations

from benchmarks.scenario import Bench, Scenario
from benchmarks.small_files import data_set
from benchmarks.wan import Link, congestion, missing

ROUND_TRIP_S, BITS_PER_S = 0.050, 20_000_000


def run(bench: Bench) -> None:
    """Lead the scenario with a link between client and server; root only."""
    reason = missing()
    if reason:
        bench.failed("slow_link", RuntimeError(f"left out: {reason}"))
        return
    bench.notes["congestion control"] = congestion()
    only = ("send", "send_change", "push_nothing", "clone", "pull", "pull_nothing")
    with Link(delay_s=ROUND_TRIP_S / 2, bits_per_s=BITS_PER_S) as link:
        count = bench.size("files", 100_000, 5_000)
        tools = ("gsync", "git", "rsync", "rsync -z", "restic")
        Scenario(bench, "slow link", data_set(count), tools=tools, only=only, link=link).run()
