"""Watches a folder, and runs a command when it has come to rest (19-watch).

An event that is missed only delays what follows: every run scans the folder for itself, and one
is made now and then without any event.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from gsync.errors import Invalid, Unavailable
from gsync.frozen import frozen
from gsync.sync.lock import locked

LOOK_MS = 1_000
"""How often is looked whether a run is due that no event asks for."""

GATHER_MS = 50
"""For how long events are gathered before they are looked at."""

POLL_MS = 500

FULL_S = 600.0
"""After how long without a run one is made all the same."""

RETRY_S = 5.0
RETRY_MOST_S = 300.0
REST_TIMES = 20
"""Of a folder that never comes to rest, what changed for so many times that is taken."""


@frozen
class Ran:
    """What came of one run.

    Attributes:
        code: The command's exit code.
        output: What it wrote on standard output.
        said: What it wrote on standard error.
    """

    code: int
    output: str
    said: str


class Watcher:
    """Runs `argv` whenever the folder has changed and then rested.

    Args:
        root: The folder.
        workdir: Where its repository keeps its own things; what happens there is nothing new.
        rest_s: How long nothing has to happen.
        told: Hears what came of each run.
        poll: Look at every file instead of being told by the system: for network file systems.
    """

    def __init__(
        self,
        root: Path,
        workdir: Path,
        argv: Sequence[str],
        told: Callable[[Ran], None],
        *,
        rest_s: float,
        poll: bool = False,
    ) -> None:
        self._root = root
        self._workdir = os.path.realpath(workdir)
        self._argv = list(argv)
        self._told = told
        self._rest_s = rest_s
        self._rest_ms = max(1, int(rest_s * 1000))
        self._poll = poll
        self._stop = threading.Event()
        self._process: subprocess.Popen[str] | None = None

    def stop(self) -> None:
        """Let `run` return; a run that is under way may finish, unless this is called again."""
        process = self._process
        if self._stop.is_set() and process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        self._stop.set()

    def run(self, begun: Callable[[], None]) -> None:
        """Run the command once, then whenever it is time, until told to stop.

        Args:
            begun: Called once the folder is watched.

        Raises:
            Invalid: the library that watches is not installed.
            Locked: somebody watches this folder already.
            Unavailable: the system does not let it be watched.
        """
        with locked(Path(self._workdir) / "watch.lock", "gsync watch", wait_s=0):
            try:
                self._loop(begun)
            except OSError as error:
                raise Unavailable(
                    f"{self._root} cannot be watched: {error.strerror or error}",
                    hint="each directory takes one of the system's watches"
                    " (fs.inotify.max_user_watches); or look at every file with --poll",
                ) from error

    def _loop(self, begun: Callable[[], None]) -> None:
        try:
            from watchfiles._rust_notify import RustNotify
        except ImportError as error:
            raise Invalid(
                "the library that watches folders is not installed",
                hint="pip install 'gsync[watch]'",
            ) from error
        # Not by `watchfiles.watch`: what happens below .gsync, filtered there, keeps it from
        # telling anything, the passing of time included.
        notifier = RustNotify([str(self._root)], False, self._poll, POLL_MS, True, False)
        with notifier:
            begun()
            due = 0.0  # at once: what changed while nobody watched
            first = last = None
            fails = 0
            while not self._stop.is_set():
                wait_ms = LOOK_MS if first is None else self._rest_ms
                found = notifier.watch(GATHER_MS, GATHER_MS, wait_ms, self._stop)
                now = time.monotonic()
                if isinstance(found, set) and any(self._counts(path) for _, path in found):
                    first, last = first or now, now
                rests = last is not None and now - last >= self._rest_s
                never = first is not None and now - first >= self._rest_s * REST_TIMES
                if self._stop.is_set() or not (rests or never or now >= due):
                    continue
                first = last = None
                ran = self._run()
                self._told(ran)
                fails = fails + 1 if ran.code else 0
                wait_s = min(RETRY_S * 2 ** (fails - 1), RETRY_MOST_S) if fails else FULL_S
                due = time.monotonic() + wait_s

    def _counts(self, path: str) -> bool:
        """Return whether something that happened there is about the folder's content."""
        return path != self._workdir and not path.startswith(self._workdir + os.sep)

    def _run(self) -> Ran:
        process = subprocess.Popen(
            self._argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that a Ctrl-C lets it finish
        )
        self._process = process
        output, said = process.communicate()
        self._process = None
        return Ran(process.returncode, output, said)
