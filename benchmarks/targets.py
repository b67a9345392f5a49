"""The targets, as ratios of ours to a peer's figure in one run, and whether each was met."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from benchmarks.measure import Key, Spread

Summary = Mapping[Key, Mapping[str, Spread]]
OURS = "gsync"
SNAPSHOTS = ("git", "restic", "borg", "casync")


@dataclass(frozen=True)
class Target:
    """What is to be reached.

    Attributes:
        question: Where it is measured.
        op: Ours.
        metric: Of `measure.METRICS`.
        most: The ratio, or without peers the figure itself.
        peers: Against each of them; with `best`, against the best of them.
        their_op: Where theirs has another name.
        best: Against the least of the peers' figures only.
    """

    question: str
    op: str
    metric: str
    most: float
    peers: tuple[str, ...] = ()
    their_op: str = ""
    best: bool = False


TARGETS = (
    Target("small", "snapshot", "wall_s", 0.25, ("git",)),
    Target("small", "snapshot", "cpu_s", 0.3, ("git",)),
    Target("small", "snapshot", "wall_s", 0.4, ("restic",)),
    Target("small", "snapshot", "wall_s", 0.3, ("borg",)),
    Target("small", "snapshot", "wall_s", 0.8, ("casync",)),
    Target("small", "snapshot", "store_bytes", 0.8, ("git",), their_op="gc"),
    Target("small", "status", "cpu_s", 2.2, ("git",)),
    Target("small", "status", "cpu_s", 0.8, ("rsync",)),
    Target("small", "status", "cpu_s", 0.12, ("restic", "borg")),
    Target("small", "snapshot_change", "cpu_s", 0.6, ("git",)),
    Target("small", "snapshot_change", "store_bytes", 0.6, SNAPSHOTS, best=True),
    Target("small", "send", "wall_s", 0.15, ("git",)),
    Target("small", "send", "wall_s", 0.7, ("rsync -z",)),
    Target("small", "send", "wall_s", 0.4, ("restic",)),
    Target("small", "push_change", "wire_bytes", 0.25, ("git",)),
    Target("small", "push_change", "wire_bytes", 0.25, ("restic", "rsync"), their_op="send_change"),
    Target("small", "push_nothing", "wire_bytes", 2048),
    Target("small", "push_nothing", "wall_s", 6, ("git",)),
    Target("small", "push_nothing", "wall_s", 0.1, ("rsync", "restic")),
    Target("small", "clone", "wall_s", 0.6, ("git",)),
    Target("small", "clone", "wall_s", 0.7, ("rsync", "restic")),
    Target("large", "snapshot", "cpu_s", 1.0, ("borg",)),
    Target("large", "snapshot", "cpu_s", 0.3, ("restic",)),
    Target("large", "snapshot", "cpu_s", 0.12, ("git",)),
    Target("large", "snapshot_change", "store_bytes", 1_300_000),
    Target("large", "snapshot_change", "cpu_s", 0.6, ("borg",)),
    Target("large", "push_change", "wire_bytes", 0.9, ("rsync",), their_op="send_change"),
    Target("slow link", "send_change", "wall_s", 1, ("git", "rsync", "rsync -z"), best=True),
    Target("slow link", "push_nothing", "wall_s", 1, ("git", "rsync"), best=True),
    Target("slow link", "pull", "wall_s", 1, ("git", "rsync", "rsync -z"), best=True),
    Target("slow link", "pull_nothing", "wall_s", 1, ("git", "rsync"), best=True),
    Target("history", "after gc", "store_bytes", 0.8, ("git",)),
    Target("startup", "--version", "cpu_s", 1.5, ("python",), their_op="import click"),
    Target("startup", "status", "wall_s", 0.12),
    Target("real", "edit_to_server", "wall_s", 0.4),
)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """How a target fared; `found` is None where it was not measured."""

    target: Target
    data: str
    peer: str
    ours: float | None
    theirs: float | None
    found: float | None

    @property
    def met(self) -> bool | None:
        """Whether it was, or None."""
        return None if self.found is None else self.found <= self.target.most

    @property
    def said(self) -> str:
        """Met, or by how much it was missed."""
        if self.found is None:
            return "not measured"
        return "met" if self.met else f"missed, {self.found / self.target.most:.2f}x of it"


def judge(summary: Summary) -> list[Verdict]:
    """Return a verdict on every target, the ones furthest missed first."""
    found = [
        *(verdict for target in TARGETS for verdict in _judge(summary, target)),
        *_flat(summary),
    ]
    return sorted(found, key=lambda v: -(v.found / v.target.most) if v.found is not None else 9e9)


def _judge(summary: Summary, target: Target) -> Iterator[Verdict]:
    data = next((key[1] for key in summary if key[0] == target.question), "")

    def figure(op: str, tool: str) -> float | None:
        metrics = summary.get((target.question, data, op, tool), {})
        return metrics[target.metric].median if target.metric in metrics else None

    ours = figure(target.op, OURS)
    if not target.peers:
        yield Verdict(target, data, "", ours, None, ours)
        return
    theirs = {peer: figure(target.their_op or target.op, peer) for peer in target.peers}
    if target.best:
        known = {peer: value for peer, value in theirs.items() if value is not None}
        best = min(known, key=lambda peer: known[peer], default="")
        theirs = {f"best: {best}" if best else " ".join(target.peers): known.get(best)}
    for peer, value in theirs.items():
        ratio = ours / value if ours is not None and value else None
        yield Verdict(target, data, peer, ours, value, ratio)


def _flat(summary: Summary) -> Iterator[Verdict]:
    """A fixed change costs the same however many files there are; a snapshot grows as they do."""
    names = sorted(
        {key[1] for key in summary if key[0] == "scaling"},
        key=lambda name: int(name.split()[1].replace(",", "")),
    )
    if len(names) < 2:
        return
    small, large = names[0], names[-1]
    factor = int(large.split()[1].replace(",", "")) / int(small.split()[1].replace(",", ""))
    ops = {"push_change": 2.0, "pull": 2.0, "diff": 2.0, "snapshot": factor * 1.2}
    for op, most in ops.items():
        pair = [
            summary.get(("scaling", name, op, OURS), {}).get("wall_s") for name in (small, large)
        ]
        ours, theirs = (spread.median if spread else None for spread in reversed(pair))
        ratio = ours / theirs if ours is not None and theirs else None
        yield Verdict(Target("scaling", op, "wall_s", most), large, small, ours, theirs, ratio)
