"""One life of a tree, led by every tool in turn: snapshot, push, clone, change, push, pull.

Each run begins with empty stores. Within a run every operation is done by one tool after the
other, in an order that turns with the run, so that whatever the machine does meanwhile meets all.
Run 0 warms up and is not timed; in it everything between client and server passes a proxy that
counts. Over a slow link there is no proxy: the link counts, in every run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import data
from benchmarks.measure import Command, Failed, Sample, run, together
from benchmarks.servers import ROOT, Server, gone
from benchmarks.tools import TOOLS, Tool
from benchmarks.wan import Link

sys.path.append(str(ROOT / "tests"))

from proxy import Proxy

ALL = frozenset(
    ("snapshot", "status", "restore", "send", "clone", "push_nothing", "pull_nothing")
    + ("snapshot_change", "send_change", "pull", "diff", "verify", "gc")
)


@dataclass
class Bench:
    """One invocation of the runner: what to measure, where, and what was found.

    Attributes:
        folder: Holds all data; on the file system that is measured.
        runs: After the warm-up.
        peers: Names of tools that are installed and wanted, gsync among them.
        quick: Sizes for a minute or two.
        sizes: Number of files, MiB, snapshots and rows, where not the usual.
    """

    folder: Path
    runs: int
    peers: Sequence[str]
    quick: bool
    sizes: dict[str, int] = field(default_factory=dict)
    sample_tree: Path | None = None
    samples: list[Sample] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)

    def size(self, name: str, full: int, quick: int) -> int:
        """Return how large something is to be."""
        return self.sizes.get(name, quick if self.quick else full)

    def add(self, sample: Sample) -> None:
        """Keep a sample, and say so."""
        self.samples.append(sample)
        shown = " ".join(
            f"{name}={value:.3f}" if isinstance(value, float) else f"{name}={value}"
            for name, value in sample.document().items()
            if name not in ("question", "data", "op", "tool", "run")
        )
        what = f"{sample.question:12} run {sample.run} {sample.op:16} {sample.tool:9}"
        sys.stderr.write(f"{what} {shown}\n")
        sys.stderr.flush()

    def failed(self, what: str, error: BaseException) -> None:
        """Keep that something failed: it is printed with the results, not hidden."""
        self.failures.append(f"{what}: {error}")
        sys.stderr.write(f"FAILED {what}: {error}\n")


@dataclass(frozen=True)
class DataSet:
    """A tree and how it changes.

    Attributes:
        name: As in tables, with its size.
        make: Fills an empty folder.
        change: Changes it for the run of this number.
    """

    name: str
    make: Callable[[Path], None]
    change: Callable[[Path, int], None]


class Scenario:
    """The scenario of one question.

    Args:
        question: Which.
        data_set: What lies in the tree.
        tools: Which tools take part, of those that are wanted.
        only: Which operations are measured; those that others rest on are done all the same.
        link: A slow link, instead of loopback.
    """

    def __init__(
        self,
        bench: Bench,
        question: str,
        data_set: DataSet,
        *,
        tools: Sequence[str] = tuple(TOOLS),
        only: Collection[str] = ALL,
        link: Link | None = None,
    ) -> None:
        self.bench, self.question, self.set = bench, question, data_set
        self.names = [name for name in tools if name in bench.peers]
        self.only, self.link = only, link
        self.folder = bench.folder / f"{question}-{data_set.name}"
        self.prefix: Sequence[str] = link.here if link else ()
        self._targets: dict[str, Path] = {}

    def run(self) -> None:
        """Lead it, warm-up and all runs."""
        self.folder.mkdir(parents=True)
        own, shared = self.folder / "own", self.folder / "shared"
        for tree in (own, shared):
            tree.mkdir()
            self.set.make(tree)
        with ExitStack() as stack:
            servers = {name: self._server(stack, TOOLS[name]) for name in self.names}
            for number in range(self.bench.runs + 1):
                turned = (
                    self.names[number % len(self.names) :] + self.names[: number % len(self.names)]
                )
                home = self.folder / f"run{number}"
                tools = []
                for name in turned:
                    place = home / f"{name.replace(' ', '')}-{number}"
                    tools.append(TOOLS[name](own if TOOLS[name].in_tree else shared, place))
                self._lead(number, tools, servers, (own, shared))
                for tool in tools:
                    tool.close()
                gone(home)
        gone(self.folder)

    def _server(self, stack: ExitStack, kind: type[Tool]) -> tuple[Server, Path] | None:
        if kind.start_server is None or not ({"send", "push_nothing", "clone"} & set(self.only)):
            return None
        folder = self.folder / f"server-{kind.name.replace(' ', '')}"
        where = {"host": self.link.address, "prefix": self.link.there} if self.link else {}
        return stack.enter_context(kind.start_server(folder, **where)), folder

    def _lead(
        self,
        number: int,
        tools: Sequence[Tool],
        servers: dict[str, tuple[Server, Path] | None],
        trees: Sequence[Path],
    ) -> None:
        with ExitStack() as stack:
            proxies: dict[str, Proxy] = {}
            for tool in tools:
                tool.prepare()
                tool.prefix = self.prefix
                server = servers[tool.name]
                if server is not None:
                    address = f"{server[0].host}:{server[0].port}"
                    if number == 0 and self.link is None:
                        proxy = proxies[tool.name] = stack.enter_context(Proxy(server[0].port))
                        address = proxy.base.removeprefix("http://")
                    tool.connect(*(server[0], address, server[1]))
            step = _Step(self, number, tools, proxies)
            step.all("snapshot")
            step.all("status")
            step.all("restore", target="restored")
            step.send("send", "snapshot")
            step.all("push_nothing")
            step.all("clone", target="clone", check=True)
            step.all("pull", name="pull_nothing", target="clone")
            for tree in trees:
                self.set.change(tree, number + 1)
            step.all("snapshot", name="snapshot_change")
            step.send("send_change", "snapshot_change")
            step.all("pull", target="clone", check=True)
            step.all("diff")
            step.all("verify")
            step.all("gc")


class _Step:
    """One operation of every tool, within a run."""

    def __init__(
        self, scenario: Scenario, number: int, tools: Sequence[Tool], proxies: dict[str, Proxy]
    ) -> None:
        self._of, self._number, self._tools, self._proxies = scenario, number, tools, proxies
        self._last: dict[tuple[str, str], Sample] = {}
        self._broken: set[str] = set()

    def all(self, op: str, *, name: str = "", target: str = "", check: bool = False) -> None:
        """Do one operation by every tool that has it.

        Args:
            op: The tool's method.
            name: What it is called here.
            target: The folder that it fills.
            check: In the warm-up, the folder must be the tree.
        """
        needed = name or op
        if needed in ("restore", "diff", "verify", "gc", "status") and needed not in self._of.only:
            return
        for tool in self._tools:
            method = "push" if op == "push_nothing" and tool.does("push") else op
            if not tool.does(method) or (op != "snapshot" and not self._reaches(tool, op)):
                continue
            arguments = [tool.home / target] if target else []
            self._one(tool, needed, method, *arguments)
            if check and self._number == 0 and tool.name not in self._broken:
                found, expected = data.digest(tool.home / target), data.digest(tool.tree)
                if found != expected:
                    self._fail(tool, needed, Failed(f"{found} is not the tree, {expected}"))

    def send(self, name: str, after: str) -> None:
        """Send the tree to the server; for tools that record first, the sum of both."""
        for tool in self._tools:
            if tool.server is None:
                continue
            if tool.does("push"):
                pushed = "push" + name.removeprefix("send")
                self._one(tool, pushed, "push")
                parts = [self._last.get((tool.name, part)) for part in (after, pushed)]
                if all(parts) and name in self._of.only:
                    self._of.bench.add(together(name, [part for part in parts if part]))
            elif tool.does("send"):
                self._one(tool, name, "send")

    def _reaches(self, tool: Tool, op: str) -> bool:
        return tool.server is not None or op not in ("push_nothing", "clone", "pull")

    def _one(self, tool: Tool, name: str, op: str, *targets: Path) -> None:
        """Measure one operation; a tool that failed does nothing more in this run."""
        if tool.name in self._broken:
            return
        try:
            sample = self._measure(tool, name, tool.do(op, *targets))
        except (Failed, OSError) as error:
            self._fail(tool, name, error)
            return
        self._last[tool.name, name] = sample
        if _is_wanted(name, self._of.only):
            self._of.bench.add(sample)

    def _fail(self, tool: Tool, name: str, error: BaseException) -> None:
        self._broken.add(tool.name)
        self._of.bench.failed(f"{self._of.question} run {self._number} {tool.name} {name}", error)

    def _measure(self, tool: Tool, name: str, commands: Sequence[Command]) -> Sample:
        of = self._of
        local = "snapshot" in name or name == "gc"
        os.sync()  # nobody pays for what another one left to be written
        before = tool.sizes()[0] if local else 0
        with self._wire(tool) as wire:
            cpu = tool.server.cpu() if tool.server else 0.0
            usage = run(commands, prefix=tool.prefix)
            server_cpu = tool.server.cpu() - cpu if tool.server and not local else None
        sample = {"wall_s": usage.wall_s, "cpu_s": usage.cpu_s, "peak_mib": usage.peak_mib}
        after = tool.sizes() if local else (0, 0)
        return Sample(
            of.question,
            of.set.name,
            name,
            tool.name,
            self._number,
            **sample,
            server_cpu_s=server_cpu if tool.server and name not in _LOCAL else None,
            wire_bytes=wire[0] if wire and name not in _LOCAL else None,
            store_bytes=after[0] if name == "gc" else after[0] - before if local else None,
            disk_bytes=after[1] if local else None,
        )

    @contextmanager
    def _wire(self, tool: Tool) -> Iterator[list[int]]:
        """Give a block a list that has the bytes between client and server when it ends."""
        found: list[int] = []
        link, proxy = self._of.link, self._proxies.get(tool.name)
        before = link.count() if link else None
        if proxy:
            proxy.reset()
        yield found
        if link and before:
            after = link.count()
            found.append(after.sent + after.received - before.sent - before.received)
        elif proxy:
            found.append(proxy.sent + proxy.received)


_LOCAL = frozenset(["snapshot", "snapshot_change", "status", "restore", "diff", "verify", "gc"])


def _is_wanted(name: str, only: Collection[str]) -> bool:
    return name in only or (name.startswith("push") and "send" + name[4:] in only)
