"""Runs jobs: each as a process of its own, under a lease, and what came of it on record.

The lease is a file lock, so it ends with the process that holds it, however that ends. Under it
the slot is read again: who comes second finds that it was taken, and does nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

from gsync.config import JobConfig
from gsync.errors import Invalid, Unavailable
from gsync.frozen import frozen
from gsync.jobs.schedule import due_slot, parse_duration
from gsync.store.base import State
from gsync.sync.jobrecord import DONE, FAILED, JobRun, JobState, load, save
from gsync.sync.lock import Locked, locked

TIMEOUT = "6h"
OpenStore = Callable[[], AbstractContextManager[State]]

END_S = 10.0
"""How long a job that is ended may take to clear up before it is killed."""

_SAID_BYTES = 4_000
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off", "")


@frozen
class Command:
    """How a kind of job is a command line.

    Attributes:
        words: The command.
        flags: Parameters that are true or false, and their options.
        options: Parameters with a value, and their options.
        places: Parameters that stand for themselves, in order.
        ways: What `direction` may say, and the word that follows the command; the first unless
            said.
        override_existing: Whether the parameter of this name takes the side that is read.
        defaults: Parameters that hold unless others are given.
    """

    words: tuple[str, ...]
    flags: Mapping[str, str] = {}
    options: Mapping[str, str] = {}
    places: tuple[str, ...] = ()
    ways: Mapping[str, str] = {}
    override_existing: bool = False
    defaults: Mapping[str, str] = {}


KINDS: Mapping[str, Command] = {
    "sync": Command(
        ("sync",),
        {"no_databases": "--no-databases", "dry_run": "--dry-run"},
        {"message": "--message", "accept": "--accept"},
        ("remote",),
    ),
    "snapshot": Command(
        ("snapshot",),
        {"no_databases": "--no-databases", "full": "--full", "dry_run": "--dry-run"},
        {"message": "--message", "accept": "--accept"},
    ),
    "local": Command(
        ("local",),
        {"delete_orphans": "--delete-orphans", "dry_run": "--dry-run"},
        {name: f"--{name}" for name in ("database", "override", "message", "accept")},
        ("source",),
        {way: way for way in ("merge", "to-db", "to-disk")},
    ),
    "content_sync": Command(
        ("local",),
        {"delete_orphans": "--delete-orphans", "dry_run": "--dry-run"},
        ways={
            **dict.fromkeys(("to_db", "to-db", "db", "to_database"), "to-db"),
            **dict.fromkeys(("to_disk", "to-disk", "disk"), "to-disk"),
        },
        override_existing=True,
    ),
    "access_control_sync": Command(
        ("local", "to-db", "rules"),
        {"delete_orphans": "--delete-orphans", "dry_run": "--dry-run"},
        {"yaml_path": "--rules-file"},
        override_existing=True,
        defaults={"delete_orphans": "true"},
    ),
    "verify": Command(("verify",)),
    "gc": Command(("gc",), {"dry_run": "--dry-run"}),
}


def command_line(job: JobConfig, *, dry_run: bool = False) -> list[str]:
    """Return the words that follow `gsync -C FOLDER` for a job.

    Raises:
        Invalid: it is of no kind that there is, or a parameter is none of that kind.
    """
    kind = KINDS.get(job.run)
    if kind is None:
        raise Invalid(
            f"job {job.name}: nothing is called {job.run!r}", hint=f"one of {', '.join(KINDS)}"
        )
    parameters = {**kind.defaults, **dict(job.parameters)}
    if dry_run:
        if "dry_run" not in kind.flags:
            raise Invalid(f"job {job.name}: {job.run} changes nothing, so there is no dry run")
        parameters["dry_run"] = "true"
    known = {*kind.flags, *kind.options, *kind.places}
    known |= {"direction"} if kind.ways else set()
    known |= {"override_existing"} if kind.override_existing else set()
    for name in parameters:
        if name not in known:
            raise Invalid(
                f"job {job.name}: {job.run} has no parameter {name}",
                hint=f"known: {', '.join(sorted(known)) or 'none'}",
            )
    words = list(kind.words)
    if kind.ways:
        way = parameters.get("direction", next(iter(kind.ways)))
        if way not in kind.ways:
            raise Invalid(
                f"job {job.name}: direction: expected one of {', '.join(kind.ways)}, found"
                f" {way[:40]!r}"
            )
        words.append(kind.ways[way])
    if "override_existing" in parameters and kind.override_existing:
        where = f"job {job.name}: override_existing"
        if parse_flag(parameters["override_existing"], where):
            words.append(f"--override={'ours' if 'to-db' in words else 'theirs'}")
    for name, option in kind.flags.items():
        if name in parameters and parse_flag(parameters[name], f"job {job.name}: {name}"):
            words.append(option)
    for name, option in kind.options.items():
        if name in parameters:
            words.append(f"{option}={parameters[name]}")
    words += ["--", *(parameters[name] for name in kind.places if name in parameters)]
    return words if words[-1] != "--" else words[:-1]


def parse_flag(text: str, what: str) -> bool:
    """Return what a parameter that is true or false says; any case.

    Raises:
        Invalid: it is neither.
    """
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise Invalid(f"{what}: expected true or false, found {text[:40]!r}")


class Runner:
    """Runs the jobs of one repository.

    Args:
        root: Its folder.
        workdir: Where it keeps its own things.
        open_store: Opens its store; it is not held while a job runs, which may want it alone.
        host: Names this machine, for jitter.
        now_s: The clock.
        end_s: How long what is ended may take to clear up before it is killed.
    """

    def __init__(
        self,
        root: Path,
        workdir: Path,
        open_store: OpenStore,
        host: str,
        now_s: Callable[[], float] = time.time,
        end_s: float = END_S,
    ) -> None:
        self._root = root
        self._leases = workdir / "jobs"
        self._open_store = open_store
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._starting = threading.Lock()
        self._ends = False
        self._end_s = end_s
        self._host = host
        self._now_s = now_s

    def due(self, job: JobConfig) -> int | None:
        """Return the slot that a job is to be run for now, or None; remember one that is new."""
        now_s = self._now_s()
        with self._open_store() as store:
            state = load(store, job.name)
            if state is None:
                save(store, job.name, JobState(int(now_s)))
                return None
        return due_slot(job, state.seen_s, now_s, self._host)

    def run_due(self, job: JobConfig) -> JobRun | None:
        """Run a job if it is due and nobody else runs it; return what came of it, or None."""
        if self.due(job) is None:
            return None
        try:
            return self._run(job, by_hand=False)
        except Locked:
            return None

    def run_now(self, job: JobConfig) -> JobRun:
        """Run a job whether it is due or not.

        Raises:
            Locked: it is running.
        """
        run = self._run(job, by_hand=True)
        assert run is not None
        return run

    def _run(self, job: JobConfig, *, by_hand: bool) -> JobRun | None:
        words = command_line(job)
        self._leases.mkdir(exist_ok=True)
        with locked(self._leases / f"{job.name}.lock", f"job {job.name}", wait_s=0):
            slot = 0 if by_hand else self.due(job)
            if slot is None:
                return None  # somebody else has just run it
            began_us = int(self._now_s() * 1e6)
            with self._open_store() as store:
                state = load(store, job.name) or JobState(int(self._now_s()))
                before = tuple(_ended(run) for run in state.runs)
                save(store, job.name, JobState(state.seen_s, (JobRun(slot, began_us), *before)))
            began = time.monotonic()
            code, said = self._process(job, words)
            run = JobRun(
                slot,
                began_us,
                time.monotonic() - began,
                DONE if code == 0 else FAILED,
                code,
                "" if code == 0 else said,
            )
            # A run that was cut off leaves its slot: the next scheduler makes up for it.
            with self._open_store() as store:
                save(store, job.name, JobState(max(state.seen_s, slot), (run, *before)))
        if run.outcome == FAILED and job.on_failure and not self._ends:
            self._tell(job, run)
        return run

    def _process(self, job: JobConfig, words: Sequence[str]) -> tuple[int, str]:
        timeout_s = parse_duration(job.timeout or TIMEOUT, f"job {job.name}: timeout")
        with TemporaryFile() as output:
            with self._starting:
                if self._ends:
                    raise Unavailable(f"job {job.name}: the scheduler ends")
                process = subprocess.Popen(
                    self.argv(words),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                self._processes.add(process)
            try:
                code = process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                _end(process, self._end_s)
                return 124, f"{_tail(output)}\nended after {timeout_s} s, the job's timeout"
            except BaseException:
                _end(process, self._end_s)
                raise
            finally:
                self._processes.discard(process)
            return code, _tail(output)

    def argv(self, words: Sequence[str]) -> list[str]:
        """Return the command line of `gsync WORDS...` in the repository."""
        return [sys.executable, "-m", "gsync", "-C", str(self._root), "--no-progress", *words]

    def end(self) -> None:
        """End what runs, and start nothing more; what is ended is on record as failed."""
        with self._starting:
            self._ends = True
            processes = list(self._processes)
        for process in processes:
            _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + self._end_s
        for process in processes:
            _end(process, max(0.0, deadline - time.monotonic()))

    def _tell(self, job: JobConfig, run: JobRun) -> None:
        environment = {
            **os.environ,
            "GSYNC_JOB": job.name,
            "GSYNC_JOB_CODE": str(run.code),
            "GSYNC_JOB_SAID": run.said,
        }
        with suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(
                list(job.on_failure),
                cwd=self._root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=60,
                check=False,
            )


def _ended(run: JobRun) -> JobRun:
    """Return a run that nobody goes on with as one that failed; we hold the lease."""
    if run.outcome in (DONE, FAILED):
        return run
    return JobRun(run.slot_s, run.began_us, 0.0, FAILED, -1, "interrupted")


def _end(process: subprocess.Popen[bytes], end_s: float) -> None:
    """End a process and what it has started: asked first, then without asking."""
    _signal(process, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(end_s)
    _signal(process, signal.SIGKILL)  # what it has started may have passed the first one by
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"process {process.pid} does not end") from None


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _tail(output: BinaryIO) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - _SAID_BYTES))
    return output.read().decode("utf-8", "replace").strip()
