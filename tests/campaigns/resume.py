"""Transfers that are cut again and again, and clients that are slow: what it costs."""

from __future__ import annotations

import argparse
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from campaigns.report import show_failures, show_table
from proxy import Proxy
from support_cli import head, start
from support_server import RunningServer, running_server

from gsync.protocol.messages import Fetch, Hello, encode_fetch

SUMMARY = "cut push, pull and clone at random offsets; slow clients beside a push"

RATIO_MAX = 1.1
SLOWED_S_MAX = 1.0
COMMAND_S = 3600


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what only this campaign has."""
    parser.add_argument("--cuts", type=int, default=100, help="cuts of each transfer")
    parser.add_argument("--mib", type=int, default=256, help="size of what is transferred")


def run(options: argparse.Namespace) -> int:
    """Run all, print the figures, and return how many claims failed."""
    r = random.Random(options.seed)
    failures: list[str] = []
    with ExitStack() as stack:
        server = stack.enter_context(running_server(options.base / "data"))
        rows = []
        for name, costs in measure(options.base, server, r, options.cuts, options.mib):
            whole, cut = costs
            ratio = cut.wire_bytes / whole.wire_bytes
            rows.append(
                (
                    name,
                    cut.cuts,
                    cut.commands,
                    whole.wire_bytes,
                    cut.wire_bytes,
                    f"{ratio:.3f}",
                    f"{cut.client_bytes / whole.wire_bytes:.3f}",
                    f"{whole.seconds:.1f}",
                    f"{cut.seconds:.1f}",
                )
            )
            if ratio > RATIO_MAX:
                failures.append(f"{name}: {ratio:.3f} times the bytes of an uncut transfer")
            if cut.cuts < options.cuts:
                failures.append(f"{name}: cut {cut.cuts} times, {options.cuts} meant")
        show_table(
            (
                *("transfer", "cuts", "commands", "uncut", "cut", "ratio", "as client counts"),
                *("uncut s", "cut s"),
            ),
            rows,
        )
        alone, beside = push_beside_slow_clients(options.base, server)
        show_table(
            ("push of ten files", "seconds"),
            [("alone", f"{alone:.2f}"), ("beside two clients at 1 byte/s", f"{beside:.2f}")],
        )
        if beside - alone > SLOWED_S_MAX:
            failures.append(f"slow clients slowed another's push by {beside - alone:.2f} s")
    show_failures(failures)
    return len(failures)


@dataclass(frozen=True)
class Cost:
    """What one transfer cost.

    Attributes:
        cuts: How often its connection was cut.
        commands: How often the command had to be run.
        wire_bytes: Bytes both ways that passed the proxy.
        client_bytes: The same as the client counted them: with what lay in buffers at a cut.
    """

    cuts: int
    commands: int
    wire_bytes: int
    client_bytes: int
    seconds: float


def measure(
    base: Path, server: RunningServer, r: random.Random, cuts: int, mib: int
) -> Iterator[tuple[str, tuple[Cost, Cost]]]:
    """Yield each transfer with its cost uncut and cut, each to and from a tenant of its own."""
    one, tenants = base / "one", ("whole", "cut")
    with Proxy(server.port) as proxy:
        env = {tenant: {"GSYNC_TOKEN": server.token(tenant)} for tenant in tenants}
        one.mkdir()
        command(one, "init")
        fill(one / "first", r, 1)
        command(one, "snapshot", "-m", "first")
        for tenant in tenants:
            command(one, "remote", "add", tenant, f"{proxy.base}/{tenant}")
            command(one, "push", tenant, **env[tenant])
            command(base, "clone", f"{proxy.base}/{tenant}", f"pull-{tenant}", **env[tenant])
        fill(one / "second", r, mib)
        command(one, "snapshot", "-m", "second")
        for name, folder, words in (
            ("push", "one", ("push", "TENANT")),
            ("pull", "pull-TENANT", ("pull",)),
            ("clone", ".", ("clone", f"{proxy.base}/TENANT", "clone-TENANT")),
        ):
            costs: list[Cost] = []
            for tenant in tenants:
                total = costs[0].wire_bytes if costs else 0
                plan = sorted(r.sample(range(1000, total - 1000), cuts)) if total else []
                where = base / folder.replace("TENANT", tenant)
                said = [word.replace("TENANT", tenant) for word in words]
                costs.append(transfer(proxy, plan, name == "push", where, said, env[tenant]))
            yield name, (costs[0], costs[1])
    for tenant in tenants:
        for folder in (f"pull-{tenant}", f"clone-{tenant}"):
            assert head(base / folder) == head(one)
            assert json.loads(command(base / folder, "verify"))["problems"] == []


def transfer(
    proxy: Proxy,
    plan: list[int],
    upwards: bool,
    folder: Path,
    words: list[str],
    env: dict[str, str],
) -> Cost:
    """Run a command until it succeeds, its connection cut after so many bytes each of `plan`."""
    proxy.reset()
    first, proxy.more_cuts = (plan[0], plan[1:]) if plan else (None, [])
    if upwards:
        proxy.cut_sent = first
    else:
        proxy.cut_received = first
    began, commands, counted = time.monotonic(), 0, 0
    while True:
        commands += 1
        with start(folder, "--json", *words, **env) as process:
            out, err = process.communicate(timeout=COMMAND_S)
        if process.returncode == 0:
            counted += sum(json.loads(out)[f"bytes_{way}"] for way in ("sent", "received"))
            break
        assert process.returncode == 7 and commands < 100, err
    seconds = time.monotonic() - began
    return Cost(proxy.cuts, commands, proxy.sent + proxy.received, counted, seconds)


def push_beside_slow_clients(base: Path, server: RunningServer) -> tuple[float, float]:
    """Return the seconds that a push of ten files takes alone, and beside slow clients."""
    folder, token = base / "ten", server.token("cut")
    folder.mkdir()
    command(folder, "init")
    command(folder, "remote", "add", "origin", f"{server.base}/ten")
    seconds = []
    with ExitStack() as stack:
        for round_ in range(2):
            for n in range(10):
                (folder / f"{round_}-{n}").write_bytes(random.Random(n).randbytes(2000))
            command(folder, "snapshot", "-m", "ten")
            if round_:
                stack.enter_context(slow_push(server.port, "cut", token))
                stack.enter_context(slow_fetch(server, "cut"))
            done = command(folder, "push", GSYNC_TOKEN=server.token("ten"))
            seconds.append(float(json.loads(done)["seconds"]))
    return seconds[0], seconds[1]


@contextmanager
def slow_push(port: int, tenant: str, token: str) -> Iterator[threading.Thread]:
    """Send the frames of a push at 1 byte/s for as long as the block runs."""
    head = (
        f"POST /{tenant}/v1/frames/{'5' * 32} HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {token}\r\nContent-Type: application/x-gsync\r\n"
        f"Content-Length: 100000\r\n\r\n"
    )
    with (
        socket.create_connection(("127.0.0.1", port)) as client,
        _repeated(
            lambda: client.sendall(b"\0"), head_sent=lambda: client.sendall(head.encode())
        ) as thread,
    ):
        yield thread


@contextmanager
def slow_fetch(server: RunningServer, tenant: str) -> Iterator[threading.Thread]:
    """Take all that `tenant` has at 1 byte/s for as long as the block runs."""
    with closing(server.connect(tenant)) as remote:
        main = remote.hello(Hello(1, None)).refs["main"]
    body = encode_fetch(Fetch([main], []))
    head = (
        f"POST /{tenant}/v1/fetch HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {server.token(tenant)}\r\nContent-Type: application/x-gsync\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", server.port))
        with _repeated(
            lambda: client.recv(1), head_sent=lambda: client.sendall(head.encode() + body)
        ) as thread:
            yield thread


@contextmanager
def _repeated(
    act: Callable[[], object], head_sent: Callable[[], object]
) -> Iterator[threading.Thread]:
    """Do `act` once a second in a thread, after the request is on its way."""
    done = threading.Event()

    def run() -> None:
        while not done.wait(1):
            act()

    head_sent()
    act()
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield thread
        assert thread.is_alive(), "the slow client was cut off"
    finally:
        done.set()
        thread.join()


def fill(folder: Path, r: random.Random, mib: int) -> None:
    """Write `mib` MiB: half of it one large file of noise, half small texts and small noise."""
    folder.mkdir()
    (folder / "large.bin").write_bytes(r.randbytes(mib << 19))
    words = [r.randbytes(r.randrange(2, 9)).hex() for _ in range(5000)]
    size = n = 0
    while size < mib << 19:
        content = " ".join(r.choices(words, k=r.randrange(10, 1500))).encode()
        if n % 2:
            content = r.randbytes(r.randrange(1, 20_000))
        path = folder / f"d{n % 50}" / f"f{n}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        size, n = size + len(content), n + 1


def command(folder: Path, *words: str, **env: str) -> bytes:
    """Run a command with --json that must succeed; return what it says."""
    with start(folder, "--json", *words, **env) as process:
        out, err = process.communicate(timeout=COMMAND_S)
    assert process.returncode == 0, err
    return out
