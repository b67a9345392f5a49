"""From samples to files: raw runs, a summary, a page and charts; losing rows come first."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import charts
from benchmarks.measure import METRICS, Spread, summarize
from benchmarks.scenario import Bench
from benchmarks.targets import OURS, Summary, Verdict, judge

SHOWN = ("wall_s", "cpu_s", "server_cpu_s", "peak_mib", "wire_bytes", "store_bytes")


def machine(folder: Path) -> dict[str, str]:
    """Return what a figure depends on."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*: (.*)", info)
    name = model[1] if model else platform.machine()
    memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    how = ["findmnt", "-no", "FSTYPE", "-T", str(folder)]
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "processors": f"{len(os.sched_getaffinity(0))} x {name}",
        "memory": f"{int(memory[1]) / 2**20:.0f} GiB" if memory else "unknown",
        "file system": subprocess.run(how, capture_output=True, text=True).stdout.strip(),
        "system": f"{platform.system()} {platform.release()}",
        "load before": " ".join(Path("/proc/loadavg").read_text().split()[:3]),
    }


def write(bench: Bench, out: Path, about: dict[str, object]) -> str:
    """Write everything into `out`; return the Markdown page."""
    out.mkdir(parents=True, exist_ok=True)
    summary = summarize(bench.samples)
    verdicts = judge(summary)
    documents = [sample.document() for sample in bench.samples]
    _dump(out / "runs.json", {**about, "failures": bench.failures, "runs": documents})
    _dump(
        out / "summary.json",
        {
            **about,
            "rows": [
                {**dict(zip(("question", "data", "op", "tool"), key, strict=True)),
                 **{name: asdict(spread) for name, spread in metrics.items()}}
                for key, metrics in summary.items()
            ],
            "targets": [
                {**asdict(v.target), "data": v.data, "peer": v.peer, "ours": v.ours,
                 "theirs": v.theirs, "found": v.found, "verdict": v.said}
                for v in verdicts
            ],
        },
    )  # fmt: skip
    drawn = list(_charts(summary))
    for name, svg in drawn:
        (out / name).write_text(svg)
    page = "\n".join(_page(bench, about, summary, verdicts, [name for name, _ in drawn]))
    (out / "results.md").write_text(page)
    return page


def _page(
    bench: Bench,
    about: dict[str, object],
    summary: Summary,
    verdicts: Sequence[Verdict],
    names: Sequence[str],
) -> Iterator[str]:
    yield "# Results\n"
    for name, value in about.items():
        if isinstance(value, dict):
            yield f"- {name}: " + "; ".join(f"{k} {v}" for k, v in value.items())
        else:
            yield f"- {name}: {value}"
    if bench.failures:
        yield "\n## Failed or left out\n"
        yield from (f"- {' '.join(failure.split())[:300]}" for failure in bench.failures)
    yield "\n## Targets\n"
    yield "| where | operation | metric | ours | peer | theirs | target | found | |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for v in verdicts:
        t, metric = v.target, METRICS[v.target.metric]
        limit = f"<= {t.most:g}x" if v.peer else f"<= {_figure(t.metric, t.most)}"
        found = (
            "" if v.found is None else f"{v.found:.2f}x" if v.peer else _figure(t.metric, v.found)
        )
        cells = (t.question, t.op, metric, _figure(t.metric, v.ours), v.peer or "-",
                 _figure(t.metric, v.theirs), limit, found, v.said)  # fmt: skip
        yield f"| {' | '.join(cells)} |"
    yield "\n## All operations\n"
    yield "Median (least to most). Ordered by ours against the best peer's wall time.\n"
    heads = ["where", "operation", "tool", *(METRICS[name] for name in SHOWN), "ours / it"]
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" * (len(SHOWN) + 4)
    for row in _ordered(summary):
        yield from _rows(summary, row)
    for name in names:
        yield f"\n![{name}]({name})"
    yield ""


def _ordered(summary: Summary) -> list[tuple[str, str, str]]:
    """Return question, data and operation of each row, the ones that we lose first."""
    rows = list(dict.fromkeys(key[:3] for key in summary))

    def ratio(row: tuple[str, str, str]) -> float:
        tools = {
            k[3]: m["wall_s"].median for k, m in summary.items() if k[:3] == row and "wall_s" in m
        }
        peers = [value for tool, value in tools.items() if tool != OURS]
        return tools[OURS] / min(peers) if OURS in tools and peers and min(peers) else 0.0

    return sorted(rows, key=ratio, reverse=True)


def _rows(summary: Summary, row: tuple[str, str, str]) -> Iterator[str]:
    found = {key[3]: metrics for key, metrics in summary.items() if key[:3] == row}
    ours = found.get(OURS, {}).get("wall_s")
    for tool in sorted(found, key=lambda name: (name != OURS, _wall(found[name]))):
        theirs = found[tool].get("wall_s")
        both = ours and theirs and tool != OURS
        ratio = f"{ours.median / theirs.median:.2f}x" if both and ours and theirs else ""
        cells = [f"{row[0]}, {row[1]}", row[2], tool]
        cells += [_spread(name, found[tool].get(name)) for name in SHOWN]
        yield f"| {' | '.join(cells)} | {ratio} |"


def _charts(summary: Summary) -> Iterator[tuple[str, str]]:
    for question in dict.fromkeys(key[0] for key in summary):
        if question in ("history", "scaling"):
            continue
        groups: dict[str, dict[str, tuple[float, float, float]]] = {}
        data = next(key[1] for key in summary if key[0] == question)
        for key, metrics in summary.items():
            if key[0] == question and "wall_s" in metrics:
                wall = metrics["wall_s"]
                groups.setdefault(key[2], {})[key[3]] = (wall.median, wall.low, wall.high)
        if groups:
            name = f"time-{question.replace(' ', '-')}.svg"
            yield name, charts.bars(f"{data}: seconds of wall time", "s", groups)
    for metric, unit in (("wall_s", "seconds"), ("peak_mib", "MiB")):
        lines = _lines(summary, metric)
        if lines:
            title = f"{METRICS[metric]} against the number of files"
            yield f"scaling-{metric}.svg", charts.curves(title, "files", unit, lines)
    growth = _history(summary)
    if growth:
        title = "Time of a snapshot as history grows"
        yield "history.svg", charts.curves(title, "tenth of the history", "seconds", growth)


def _lines(summary: Summary, metric: str) -> dict[str, list[tuple[float, float]]]:
    lines: dict[str, list[tuple[float, float]]] = {}
    for (question, data, op, tool), metrics in summary.items():
        if question == "scaling" and tool == OURS and metric in metrics:
            count = float(data.split()[1].replace(",", ""))
            lines.setdefault(op, []).append((count, metrics[metric].median))
    return lines


def _history(summary: Summary) -> dict[str, list[tuple[float, float]]]:
    lines: dict[str, list[tuple[float, float]]] = {}
    for (question, _, op, tool), metrics in summary.items():
        if question == "history" and op.startswith("tenth"):
            lines.setdefault(tool, []).append((float(op.split()[1]), metrics["wall_s"].median))
    return lines


def _wall(metrics: object) -> float:
    assert isinstance(metrics, dict)
    spread = metrics.get("wall_s")
    return spread.median if isinstance(spread, Spread) else 0.0


def _spread(name: str, spread: Spread | None) -> str:
    if spread is None:
        return ""
    if spread.low == spread.high or name in ("peak_mib", "wire_bytes", "store_bytes"):
        return _figure(name, spread.median)
    ends = f"{_figure(name, spread.low)} to {_figure(name, spread.high)}"
    return f"{_figure(name, spread.median)} ({ends})"


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return ""
    if name.endswith("bytes"):
        return (
            f"{value:,.0f}"
            if value < 10_000
            else f"{value / 1000:,.1f} k"
            if value < 1e7
            else f"{value / 1e6:,.1f} M"
        )
    return f"{value:.0f}" if name == "peak_mib" else f"{value:.3g}"


def _dump(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=1) + "\n")
