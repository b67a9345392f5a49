"""What was measured: one `Sample` for each command and run, and how a command becomes one."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

SPAWN = Path(__file__).with_name("spawn.py")
OUTPUT_SHOWN = 600
METRICS = {
    "wall_s": "wall s",
    "cpu_s": "CPU s",
    "server_cpu_s": "server's CPU s",
    "peak_mib": "peak MiB",
    "wire_bytes": "wire bytes",
    "store_bytes": "store bytes",
    "disk_bytes": "disk bytes",
    "value": "value",
}
_TICKS_S = 1 / os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A command that was to be measured did not end well."""


@dataclass(frozen=True)
class Command:
    """A command line, with what it needs around it."""

    argv: Sequence[str]
    folder: Path
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """One operation of one tool in one run; what was not measured is None.

    Attributes:
        data: Which data set, with its size.
        run: 0 is the warm-up, which counts bytes and no time.
        server_cpu_s: User and system time of the server and its processes meanwhile.
        wire_bytes: Both ways, between client and server.
        store_bytes: What the operation added to the tool's store.
        disk_bytes: The store as the file system allots it, afterwards.
        value: For what is none of these, in the unit that the operation names.
    """

    question: str
    data: str
    op: str
    tool: str
    run: int
    wall_s: float | None = None
    cpu_s: float | None = None
    server_cpu_s: float | None = None
    peak_mib: float | None = None
    wire_bytes: int | None = None
    store_bytes: int | None = None
    disk_bytes: int | None = None
    value: float | None = None

    def document(self) -> dict[str, object]:
        """Return it as JSON has it, without what is None."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Spread:
    """The middle and the ends of what several runs gave."""

    median: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Usage:
    """What commands took, one after the other."""

    wall_s: float
    cpu_s: float
    peak_mib: float
    output: str


def run(commands: Iterable[Command], *, prefix: Sequence[str] = ()) -> Usage:
    """Run commands one after the other; return what they took together.

    Raises:
        Failed: one ended with another code than 0.
    """
    total = Usage(0, 0, 0, "")
    for command in commands:
        one = _run_one(command, prefix)
        total = Usage(
            total.wall_s + one.wall_s,
            total.cpu_s + one.cpu_s,
            max(total.peak_mib, one.peak_mib),
            one.output,
        )
    return total


def _run_one(command: Command, prefix: Sequence[str]) -> Usage:
    with tempfile.TemporaryDirectory(prefix="gsb") as folder:
        report, output = Path(folder, "report"), Path(folder, "output")
        spawn = [sys.executable, "-I", "-S", str(SPAWN), str(report), str(output)]
        subprocess.run(
            [*prefix, *spawn, *command.argv],
            cwd=command.folder,
            env={**os.environ, **command.env},
            stdin=subprocess.DEVNULL,
            check=True,
        )
        found = json.loads(report.read_text())
        said = output.read_text(errors="replace")
    if found["code"]:
        raise Failed(f"{' '.join(command.argv)}: code {found['code']}: {said[-OUTPUT_SHOWN:]}")
    return Usage(found["wall_s"], found["cpu_s"], found["peak_mib"], said)


def cpu_of(pid: int) -> float:
    """Return the CPU seconds of a running process, of those below it, and of those that ended."""
    children: dict[int, list[int]] = {}
    spent: dict[int, float] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it ended meanwhile
            children.setdefault(int(fields[1]), []).append(int(name))
            spent[int(name)] = sum(map(int, fields[11:15])) * _TICKS_S
    total, todo = 0.0, [pid]
    while todo:
        one = todo.pop()
        total += spent.get(one, 0.0)
        todo += children.get(one, [])
    return total


def sizes(folder: Path, *, without: Sequence[str] = ()) -> tuple[int, int]:
    """Return the bytes in the files below `folder`, and what the file system allots for them."""
    apparent = allotted = 0
    for directory, _, names in os.walk(folder):
        for name in names:
            if name not in without:
                found = os.lstat(os.path.join(directory, name))
                apparent += found.st_size
                allotted += found.st_blocks * 512
    return apparent, allotted


Key = tuple[str, str, str, str]
"""Question, data, operation, tool."""


def summarize(samples: Iterable[Sample]) -> dict[Key, dict[str, Spread]]:
    """Return the spread of each metric over the runs after the warm-up.

    Bytes on the wire are counted in the warm-up, where all goes through a proxy.
    """
    found: dict[Key, dict[str, list[float]]] = {}
    for sample in samples:
        metrics = found.setdefault((sample.question, sample.data, sample.op, sample.tool), {})
        for name in METRICS:
            value = getattr(sample, name)
            if value is not None and (sample.run > 0 or name == "wire_bytes"):
                metrics.setdefault(name, []).append(value)
    return {
        key: {
            name: Spread(statistics.median(values), min(values), max(values), len(values))
            for name, values in metrics.items()
        }
        for key, metrics in found.items()
        if metrics
    }


def together(op: str, parts: Sequence[Sample]) -> Sample:
    """Return one sample that is its parts done one after the other."""

    def added(name: str) -> float | None:
        values = [getattr(part, name) for part in parts]
        kept = [value for value in values if value is not None]
        return sum(kept) if kept else None

    names = ("wall_s", "cpu_s", "server_cpu_s", "wire_bytes", "store_bytes")
    peak = max((part.peak_mib or 0 for part in parts), default=0)
    sums = {name: added(name) for name in names}
    return replace(parts[-1], op=op, peak_mib=peak, disk_bytes=None, **sums)  # type: ignore[arg-type]
