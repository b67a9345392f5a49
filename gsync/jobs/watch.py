"""Watches a folder, runs commands when it has come to rest, and says what it knows (19-watch).

An event that is missed only delays what follows: every run scans the folder for itself, and one
is made now and then without any event. What is *said* of the folder is another matter: that is
left to the system's own events, of which none is lost without its being known.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Protocol

from gsync.errors import Invalid, Unavailable
from gsync.frozen import frozen
from gsync.objects.oid import ObjectId
from gsync.replicas.base import Notice
from gsync.replicas.files.inotify import FolderEvents, is_available
from gsync.sync.lock import locked
from gsync.sync.watched import Watched, answer, answering

LOOK_S = 1.0
"""How often is looked whether a run is due that no event asks for."""

FULL_S = 600.0
"""After how long without a run one is made all the same."""

RETRY_S = 5.0
RETRY_MOST_S = 300.0
REST_TIMES = 20
"""Of a folder that never comes to rest, what changed for so many times that is taken."""

_GATHER_MS = 50
_POLL_MS = 500
_RUN_LOOK_S = 0.05


@frozen
class Ran:
    """What came of one command.

    Attributes:
        code: Its exit code.
        document: What it wrote on standard output, if that is a JSON object.
        said: What it wrote on standard error.
    """

    code: int
    document: dict[str, Any]
    said: str


class _Eyes(Protocol):
    """Something that sees when a folder changes."""

    @property
    def is_trusted(self) -> bool: ...

    def wait(self, seconds: float, others: Sequence[socket.socket]) -> None:
        """Wait until something may have happened, or one of `others` can be read."""

    def drain(self) -> bool:
        """Return whether anything happened since the last call."""

    def close(self) -> None: ...


class _SystemEyes:
    """The system's own events, of which none is lost unnoticed."""

    def __init__(self, root: Path, workdir: Path) -> None:
        self._events = FolderEvents(os.fsencode(root), os.fsencode(workdir.name))

    @property
    def is_trusted(self) -> bool:
        return self._events.is_trusted

    def wait(self, seconds: float, others: Sequence[socket.socket]) -> None:
        ready: list[Any] = [self._events, *others]
        select.select(ready, (), (), seconds)

    def drain(self) -> bool:
        return self._events.drain()

    def close(self) -> None:
        self._events.close()


class _LibraryEyes:
    """What watchfiles sees: on other systems, and by looking at every file again and again."""

    is_trusted = False

    def __init__(self, root: Path, workdir: Path, *, poll: bool, stop: threading.Event) -> None:
        try:
            from watchfiles._rust_notify import RustNotify
        except ImportError as error:
            raise Invalid(
                "the library that watches folders is not installed",
                hint="pip install 'gsync[watch]'",
            ) from error
        self._workdir = os.path.realpath(workdir)
        self._stop = stop
        self._happened = False
        self._notifier = RustNotify([str(root)], False, poll, _POLL_MS, True, False)

    def wait(self, seconds: float, others: Sequence[socket.socket]) -> None:
        if self._stop.is_set():  # then it returns at once
            time.sleep(seconds)
        found = self._notifier.watch(
            _GATHER_MS, _GATHER_MS, max(1, int(seconds * 1000)), self._stop
        )
        if isinstance(found, set):
            self._happened |= any(self._counts(path) for _, path in found)

    def _counts(self, path: str) -> bool:
        return path != self._workdir and not path.startswith(self._workdir + os.sep)

    def drain(self) -> bool:
        happened, self._happened = self._happened, False
        return happened

    def close(self) -> None:
        self._notifier.close()


class Watcher:
    """Runs commands whenever the folder has changed and then rested.

    Args:
        root: The folder.
        workdir: Where its repository keeps its own things; what happens there is nothing new.
        commands: Command lines, one after the other as long as they go well; the first is a
            `gsync --json snapshot`, which says what the folder is.
        told: Hears what came of each.
        rest_s: How long nothing has to happen.
        poll: Look at every file instead of being told by the system: for network file systems.
    """

    def __init__(
        self,
        root: Path,
        workdir: Path,
        commands: Sequence[Sequence[str]],
        told: Callable[[Ran], None],
        *,
        rest_s: float,
        poll: bool = False,
    ) -> None:
        self._root = root
        self._workdir = workdir
        self._commands = [list(one) for one in commands]
        self._told = told
        self._rest_s = rest_s
        self._poll = poll
        self._stop = threading.Event()
        self._first: float | None = None
        self._last: float | None = None
        self._due = 0.0  # at once: what changed while nobody watched
        self._fails = 0
        self._run: _Run | None = None
        self._next: list[list[str]] = []
        self._watched: Watched | None = None

    def stop(self) -> None:
        """Let `run` return; what is under way may finish, unless this is called again."""
        run = self._run
        if self._stop.is_set() and run is not None:
            run.end()
        self._stop.set()

    def run(self, begun: Callable[[], None]) -> None:
        """Run the commands once, then whenever it is time, until told to stop.

        Args:
            begun: Called once the folder is watched.

        Raises:
            Invalid: the library that watches is not installed.
            Locked: somebody watches this folder already.
            Unavailable: the system does not let it be watched.
        """
        with ExitStack() as stack:
            stack.enter_context(locked(self._workdir / "watch.lock", "gsync watch", wait_s=0))
            try:
                eyes = self._open_eyes()
            except OSError as error:
                raise Unavailable(
                    f"{error.filename or self._root} cannot be watched: {error.strerror or error}",
                    hint="each directory takes one of the system's watches"
                    " (fs.inotify.max_user_watches); or look at every file with --poll",
                ) from error
            stack.callback(eyes.close)
            sockets = []
            if eyes.is_trusted:
                sockets.append(stack.enter_context(answering(self._workdir)))
            place = os.stat(self._root)
            begun()
            while self._run is not None or not self._stop.is_set():
                eyes.wait(self._wait_s(), sockets)
                self._look(eyes)
                for listener in sockets:
                    self._answer_all(listener, eyes, (place.st_dev, place.st_ino))

    def _open_eyes(self) -> _Eyes:
        is_inside = self._workdir.parent == self._root
        if is_available() and is_inside and not self._poll:
            return _SystemEyes(self._root, self._workdir)
        return _LibraryEyes(self._root, self._workdir, poll=self._poll, stop=self._stop)

    def _wait_s(self) -> float:
        if self._run is not None:
            return _RUN_LOOK_S
        return LOOK_S if self._last is None else min(LOOK_S, self._rest_s)

    def _look(self, eyes: _Eyes) -> None:
        """See what happened, and begin or end what is to be run."""
        self._drain(eyes)
        now = time.monotonic()
        if self._run is not None:
            if self._run.is_done():
                self._end_run(self._run.result(), eyes)
            return
        rests = self._last is not None and now - self._last >= self._rest_s
        never = self._first is not None and now - self._first >= self._rest_s * REST_TIMES
        if rests or never or now >= self._due:
            self._next = list(self._commands)
            self._begin_next(eyes)

    def _drain(self, eyes: _Eyes) -> None:
        if eyes.drain():
            now = time.monotonic()
            self._first, self._last = self._first or now, now
            self._watched = None

    def _begin_next(self, eyes: _Eyes) -> None:
        if len(self._next) == len(self._commands):  # whatever happened until now, it scans
            self._first = self._last = None
            self._watched = None
        command = self._next.pop(0)
        try:
            self._run = _Run(command)
        except OSError as error:  # no memory, no process, no room: it is tried again
            self._end_run(Ran(1, {}, f"{command[0]}: {error.strerror or error}"), eyes)

    def _end_run(self, ran: Ran, eyes: _Eyes) -> None:
        is_scan = len(self._next) == len(self._commands) - 1
        self._run = None
        self._told(ran)
        self._drain(eyes)
        if is_scan and ran.code == 0 and self._last is None and eyes.is_trusted:
            self._watched = _watched(ran.document)
        if ran.code == 0 and self._next and not self._stop.is_set():
            self._begin_next(eyes)
            return
        self._next = []
        self._fails = self._fails + 1 if ran.code else 0
        wait_s = FULL_S
        if self._fails:
            wait_s = min(RETRY_S * 2 ** (self._fails - 1), RETRY_MOST_S)
        self._due = time.monotonic() + wait_s

    def _answer_all(self, listener: socket.socket, eyes: _Eyes, place: Sequence[int]) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self._drain(eyes)  # all that was done before the question
            answer(connection, place, self._watched if eyes.is_trusted else None)


class _Run:
    """A command that runs in a session of its own, so that a Ctrl-C lets it finish."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._output = TemporaryFile()  # noqa: SIM115  closed by result()
        self._errors = TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._errors,
            start_new_session=True,
        )

    def is_done(self) -> bool:
        """Return whether it has ended."""
        return self._process.poll() is not None

    def end(self) -> None:
        """Ask it to end."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)

    def result(self) -> Ran:
        """Return what came of it, once it has ended."""
        output, said = (_text(file) for file in (self._output, self._errors))
        try:
            document = json.loads(output)
        except ValueError:
            document = {}
        found = document if isinstance(document, dict) else {}
        return Ran(self._process.returncode, found, said)


def _text(file: IO[bytes]) -> str:
    with file:
        file.seek(0)
        return file.read().decode("utf-8", "replace")


def _watched(document: dict[str, Any]) -> Watched | None:
    """Return what a snapshot says of the folder, if it says it as this version does."""
    try:
        files = ObjectId(bytes.fromhex(document["collections"]["files"]["root"]))
        notices = tuple(
            Notice(_key(one["key"]), one["code"], one["text"]) for one in document["notices"]
        )
    except (KeyError, TypeError, ValueError):
        return None
    return Watched(files, notices)


def _key(value: str | dict[str, str]) -> bytes:
    return value.encode() if isinstance(value, str) else bytes.fromhex(value["hex"])
