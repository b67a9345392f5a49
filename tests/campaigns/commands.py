"""gsync's commands, run to the end in this process, or killed in one of their own."""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from campaigns.driver import STOPPED
from support_cli import environment

from gsync.cli.main import run
from gsync.store.sqlite import SqliteStore
from gsync.sync.maintenance import verify

DRIVER = Path(__file__).with_name("driver.py")
END_S = 60
LASTING = {"config.toml", "lock", "store.db", "store.db-shm", "store.db-wal", "store.db.lock"}
"""All that may lie in a repository's own directory when nothing runs."""


class Refused(AssertionError):
    """A command that had to succeed did not."""


def ask(folder: Path, *args: str, code: int = 0) -> Any:
    """Run a command in `folder`, in this process, which must end with `code`; return its JSON."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        found = run(["--json", *args])
    if found != code:
        raise Refused(f"{' '.join(args)} ended with {found}: {out.getvalue()}{err.getvalue()}")
    return json.loads(out.getvalue()) if out.getvalue() else None


def main_of(store: Path) -> str | None:
    """Return where `main` is in a store's file, or None; nothing is recovered first."""
    with SqliteStore.open(store, read_only=True) as opened:
        found = opened.find_ref("main")
    return found.hex() if found else None


def check_store(store: Path) -> list[str]:
    """Return all that `gsync verify` would find wrong."""
    with SqliteStore.open(store) as opened:
        return [f"verify: {p.kind} {p.id}: {p.detail}" for p in verify(opened).problems]


def check_leftovers(folder: Path) -> list[str]:
    """Return what an interrupted command left in a repository, or beside it."""
    left = [f"left in .gsync: {n}" for n in os.listdir(folder / ".gsync") if n not in LASTING]
    beside = [n for n in os.listdir(folder.parent) if n.startswith(".")]
    return left + [f"left beside the folder: {name}" for name in beside]


class Driver:
    """The process that commands are forked from; it ends with its `control`."""

    _current: Driver | None = None

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, DRIVER, str(theirs.fileno())],
                env=environment(),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    @classmethod
    def get(cls) -> Driver:
        """Return the driver, started if there is none."""
        if cls._current is None:
            cls._current = cls()
            atexit.register(cls._current.close)
        return cls._current

    def close(self) -> None:
        """End it."""
        self._control.close()
        self._process.wait(END_S)
        Driver._current = None

    def fork(self, request: dict[str, Any], descriptors: list[int]) -> None:
        """Have a request run."""
        socket.send_fds(self._control, [json.dumps(request).encode()], descriptors)


class Running:
    """A gsync process that announces its phases, and can be killed in one."""

    def __init__(
        self, folder: Path, command: list[str], *, phase: str = "", nth: int = 0, sabotage: str = ""
    ) -> None:
        self.phases: list[str] = []
        self._rest = b""
        self._pipe, phases_in = os.pipe()
        out, out_in = os.pipe()
        ends, ends_in = os.pipe()
        request = {
            "folder": str(folder),
            "command": command,
            "phase": phase,
            "nth": nth,
            "sabotage": sabotage,
            "environment": environment(),
        }
        Driver.get().fork(request, [phases_in, out_in, ends_in])
        for descriptor in (phases_in, out_in, ends_in):
            os.close(descriptor)
        self.out, self._ends = os.fdopen(out, "rb"), os.fdopen(ends, "rb", buffering=0)
        self._pid = int(self._ends.readline())

    def has_ended(self) -> bool:
        """Return whether it has ended."""
        return bool(select.select([self._ends], [], [], 0)[0])

    def follow(self, until_s: float = END_S) -> bool:
        """Read phases until the process ends, or waits to be killed, or the time is over.

        Returns:
            Whether it has not ended.
        """
        deadline = time.monotonic() + until_s
        while (left := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select([self._pipe], [], [], left)
            if not ready:
                break
            data = os.read(self._pipe, 65536)
            if not data:
                return False
            *lines, self._rest = (self._rest + data).split(b"\n")
            self.phases += [line.decode() for line in lines]
            if self.phases and self.phases[-1] == STOPPED:
                break
        return True

    def kill(self) -> bool:
        """Kill it; return whether it had not ended by itself."""
        if not self.has_ended():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
        code = int(self._ends.readline())
        self.out.close()
        self._ends.close()
        os.close(self._pipe)
        return code == -signal.SIGKILL

    @property
    def last_phase(self) -> str:
        """The phase that it was in last."""
        return next((name for name in reversed(self.phases) if name != STOPPED), "starting")

    @property
    def counts(self) -> Counter[str]:
        """How often it arrived in each phase."""
        return Counter(name for name in self.phases if name != STOPPED)


def edit(folder: Path, r: random.Random, top: str) -> None:
    """Change files below `top` in every way that a folder can change."""
    here = folder / top
    here.mkdir(exist_ok=True)
    (here / "kept").write_bytes(b"always here")
    (here / "large").write_bytes(r.randbytes(300_000))
    for n in range(12):
        path = here / f"d{n % 3}" / f"f{n}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(r.randbytes(r.randrange(1, 3000)))
        path.chmod(r.choice((0o644, 0o755)))
    for n in r.sample(range(3, 12), 3):
        (here / f"d{n % 3}" / f"f{n}").unlink()
    (here / "link").unlink(missing_ok=True)
    (here / "link").symlink_to(f"target{r.randrange(100)}")
    changing = here / "changing"  # a file, then a directory, then a file again
    if changing.is_dir():
        (changing / "inner").unlink()
        changing.rmdir()
        changing.write_bytes(r.randbytes(10))
    else:
        changing.unlink(missing_ok=True)
        changing.mkdir()
        (changing / "inner").write_bytes(r.randbytes(10))
