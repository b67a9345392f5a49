"""The servers that tools push to, each a process of its own that is started and ended here."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from benchmarks.measure import cpu_of

START_S = 60.0
END_S = 30.0
ROOT = Path(__file__).resolve().parent.parent
_KNOCK = "import socket,sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 1).close()"


class Server:
    """A process that listens on a port.

    Args:
        argv: `{port}` and `{host}` in it are filled in.
        folder: Where it runs, and its log is written.
        prefix: What makes it run elsewhere, in a network namespace.
        says_port: It picks the port, and prints it last on its first line.
    """

    def __init__(
        self,
        argv: Sequence[str],
        folder: Path,
        *,
        host: str = "127.0.0.1",
        prefix: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        says_port: bool = False,
    ) -> None:
        self.host = host
        self.port = 0 if says_port else free_port()
        filled = [part.format(host=host, port=self.port) for part in argv]
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*prefix, *filled],
                cwd=folder,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if says_port else log,
                stderr=log,
            )
        try:
            if says_port:
                assert self._process.stdout is not None
                line = self._process.stdout.readline().decode()
                self.port = int(line.split()[-1].rpartition(":")[2])
            else:
                self._wait_until_ready(prefix)
        except BaseException as error:
            self.close()
            raise RuntimeError(f"no server: {argv}, see {folder}/server.log") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process, which may have others below it."""
        return self._process.pid

    def cpu(self) -> float:
        """Return the CPU seconds that it and its processes have taken so far."""
        return cpu_of(self._process.pid)

    def close(self) -> None:
        """End it; twice is once."""
        self._process.terminate()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(END_S)
        if self._process.stdout:
            self._process.stdout.close()

    def _wait_until_ready(self, prefix: Sequence[str]) -> None:
        deadline = time.monotonic() + START_S
        knock = [*prefix, sys.executable, "-I", "-S", "-c", _KNOCK, self.host, str(self.port)]
        while subprocess.run(knock, stderr=subprocess.DEVNULL).returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("it does not listen")
            time.sleep(0.05)


def free_port() -> int:
    """Return a port that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def gsync_server(folder: Path, **how: object) -> Server:
    """Start `gsync serve`."""
    argv = [sys.executable, "-m", "gsync", "serve", "--data", "data", "--host", "{host}"]
    (folder / "data").mkdir(mode=0o700, parents=True, exist_ok=True)
    env = {"PYTHONPATH": str(ROOT)}
    return Server([*argv, "--port", "0"], folder, env=env, says_port=True, **how)  # type: ignore[arg-type]


def git_server(folder: Path, **how: object) -> Server:
    """Start git's HTTP backend on bare repositories below `folder`."""
    argv = [sys.executable, "-m", "benchmarks.githttp", str(folder), "{host}"]
    env = {"PYTHONPATH": str(ROOT), "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    return Server(argv, folder, env=env, says_port=True, **how)  # type: ignore[arg-type]


def rsync_server(folder: Path, **how: object) -> Server:
    """Start a daemon of rsync whose module `all` is what is below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "rsyncd.conf"
    owner = f"uid = {os.geteuid()}\ngid = {os.getegid()}\n"
    config.write_text(
        f"use chroot = no\n{owner}reverse lookup = no\n[all]\npath = {folder}\nread only = no\n"
    )
    argv = ["rsync", "--daemon", "--no-detach", f"--config={config}"]
    return Server([*argv, "--address={host}", "--port={port}"], folder, **how)  # type: ignore[arg-type]


def restic_server(folder: Path, **how: object) -> Server:
    """Start rclone's server for restic, on repositories below `folder`."""
    argv = ["rclone", "serve", "restic", "--addr", "{host}:{port}", str(folder / "data")]
    return Server(argv, folder, env={"HOME": str(folder)}, **how)  # type: ignore[arg-type]


def gone(path: Path) -> None:
    """Remove a tree, whatever the modes in it; absent is gone."""
    with suppress(FileNotFoundError):
        subprocess.run(["rm", "-rf", "--", str(path)], check=False)
