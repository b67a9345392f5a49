"""A slow link between two network namespaces, in user space: delay, rate and loss for real TCP.

    with Link(delay_s=0.025, bits_per_s=20_000_000) as link:
        subprocess.run([*link.here, "curl", f"http://{link.address}:8000/"])   # the client's side
        link.count()                                                          # bytes and packets

Root and iproute2 are all it needs; `missing()` says what is not there. Programs on the server's
side run with the prefix `link.there` and listen on `link.address`. A process of its own carries
the packets between two TUN devices, as many as the rate allows, each as late as the delay says;
what would wait for longer than QUEUE_S is dropped, and so is the part `loss`, by a seeded chance.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import shutil
import struct
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

QUEUE_S = 0.1
HERE, THERE = "10.77.0.1", "10.77.0.2"
DEVICE = "wan0"
BURST = 64
_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN_NO_PI = 0x400454CA, 0x1001


@dataclass(frozen=True)
class Count:
    """What the link carried since it began, both ways; bytes with the headers of IP and TCP."""

    sent: int
    received: int
    packets: int
    dropped: int


class Link:
    """A link that exists while its block runs.

    Args:
        delay_s: One way; a round trip takes twice as long.
        bits_per_s: In each direction.
        loss: The part of all packets that is dropped.
        seed: Which ones.
    """

    address = THERE

    def __init__(
        self, *, delay_s: float, bits_per_s: float, loss: float = 0.0, seed: int = 1
    ) -> None:
        self._settings = [str(x) for x in (delay_s, bits_per_s, loss, seed)]
        self._names = [f"wan{os.getpid()}{side}" for side in "ab"]
        self.here, self.there = (["ip", "netns", "exec", name] for name in self._names)

    def __enter__(self) -> Self:
        for name in self._names:
            _ip("netns", "add", name)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", __file__, *self._names, *self._settings],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            self._ask("")  # the devices are there
            for name, address in zip(self._names, (HERE, THERE), strict=True):
                _ip("-n", name, "link", "set", "lo", "up")
                _ip("-n", name, "addr", "add", f"{address}/24", "dev", DEVICE)
                _ip("-n", name, "link", "set", DEVICE, "mtu", "1500", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "_process"):
            self._process.kill()
            self._process.wait(10)
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                with suppress(BrokenPipeError):
                    pipe.close()
        for name in self._names:
            subprocess.run(["ip", "netns", "del", name], check=False)

    def count(self) -> Count:
        """Return what passed so far."""
        return Count(**self._ask("count\n"))

    def cut(self) -> None:
        """Drop everything from now on."""
        self._ask("cut\n")

    def mend(self) -> None:
        """Carry packets again."""
        self._ask("mend\n")

    def _ask(self, line: str) -> dict[str, int]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the link ended")
        found: dict[str, int] = json.loads(answer)
        return found


def missing() -> str | None:
    """Return why there can be no link here, or None."""
    if os.geteuid() != 0:
        return "not run by root"
    if not shutil.which("ip"):
        return "no program `ip` (iproute2)"
    return None if os.path.exists("/dev/net/tun") else "no /dev/net/tun"


def congestion() -> str:
    """Return the kernel's way of congestion control, which any figure depends on."""
    with open("/proc/sys/net/ipv4/tcp_congestion_control") as file:
        return file.read().strip()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _open_device(namespace: str) -> int:
    """Return a TUN device in `namespace`: a device belongs where it was opened."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        if libc.setns(there, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns", namespace)
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH", DEVICE.encode(), _IFF_TUN_NO_PI))
        if libc.setns(home, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        return device
    finally:
        os.close(home)
        os.close(there)


def _carry(devices: list[int], delay_s: float, bits_per_s: float, loss: float, seed: int) -> None:
    """Carry packets and answer lines on stdin until it ends."""
    r = random.Random(seed)
    count = {"sent": 0, "received": 0, "packets": 0, "dropped": 0}
    free = [0.0, 0.0]  # when each side has sent all that it took
    due: list[tuple[float, int, int, bytes]] = []
    cut, sequence, commands = False, 0, os.fdopen(0, buffering=1)
    _answer(count)
    while True:
        wait = max(0.0, due[0][0] - time.monotonic()) if due else None
        ready, _, _ = select.select([*devices, 0], [], [], wait)
        for side, device in enumerate(devices):
            for _ in range(BURST if device in ready else 0):
                try:
                    packet = os.read(device, 65536)
                except BlockingIOError:
                    break
                now = time.monotonic()
                start = max(now, free[side])
                if cut or r.random() < loss or start - now > QUEUE_S:
                    count["dropped"] += 1
                    continue
                free[side] = start + len(packet) * 8 / bits_per_s
                sequence += 1
                heapq.heappush(due, (free[side] + delay_s, sequence, side, packet))
        now = time.monotonic()
        while due and due[0][0] <= now:
            _, _, side, packet = heapq.heappop(due)
            count["packets"] += 1
            count["received" if side else "sent"] += len(packet)
            with suppress(OSError):
                os.write(devices[1 - side], packet)
        if 0 in ready:
            line = commands.readline()
            if not line:
                return
            cut = {"cut\n": True, "mend\n": False}.get(line, cut)
            _answer(count)


def _answer(count: dict[str, int]) -> None:
    sys.stdout.write(json.dumps(count) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    delay, rate, lost = map(float, sys.argv[3:6])
    _carry([_open_device(name) for name in sys.argv[1:3]], delay, rate, lost, int(sys.argv[6]))
