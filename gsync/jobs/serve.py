"""Runs jobs when they are due, until it is told to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from gsync.config import JobConfig
from gsync.errors import GsyncError, Unavailable
from gsync.jobs.run import Runner
from gsync.jobs.schedule import next_slot
from gsync.sync.jobrecord import JobRun

LOOK_S = 30.0
"""How often settings are read again, and clocks that were moved are noticed."""

LEAST_S = 0.2


class Scheduler:
    """Looks which jobs are due, and gives each that is a thread.

    Args:
        load_jobs: Reads the settings.
        told: Hears what came of each run, and of what could not be run or read.
    """

    def __init__(
        self,
        runner: Runner,
        load_jobs: Callable[[], Sequence[JobConfig]],
        told: Callable[[str, JobRun | GsyncError], None],
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._runner = runner
        self._load_jobs = load_jobs
        self._told = told
        self._now_s = now_s
        self._jobs: Sequence[JobConfig] = ()
        self._threads: dict[str, threading.Thread] = {}

    def serve(self, stop: threading.Event) -> None:
        """Go on until `stop` is set; then end what runs, and return when it has ended."""
        while not stop.is_set():
            self._look()
            stop.wait(self._pause_s())
        self._runner.end()
        for thread in self._threads.values():
            thread.join()

    def _look(self) -> None:
        try:
            self._jobs = self._load_jobs()
        except GsyncError as error:
            self._told("settings", error)  # those from before hold
        for job in self._jobs:
            thread = self._threads.get(job.name)
            if thread is not None and thread.is_alive():
                continue
            try:
                if self._runner.due(job) is None:
                    continue
            except GsyncError as error:
                self._told(job.name, error)
                continue
            thread = threading.Thread(target=self._run, args=(job,), name=f"job {job.name}")
            self._threads[job.name] = thread
            thread.start()

    def _run(self, job: JobConfig) -> None:
        try:
            run = self._runner.run_due(job)
        except GsyncError as error:
            self._told(job.name, error)
            return
        except OSError as error:  # no process, no disk: it is tried again
            self._told(job.name, Unavailable(f"{error.filename or job.name}: {error.strerror}"))
            return
        if run is not None:
            self._told(job.name, run)

    def _pause_s(self) -> float:
        now_s = self._now_s()
        slots = []
        for job in self._jobs:
            try:
                slot = next_slot(job, now_s)
            except GsyncError:
                continue  # told when it was looked at
            if slot is not None:
                slots.append(slot - now_s)
        busy = any(thread.is_alive() for thread in self._threads.values())
        return max(LEAST_S, min([1.0 if busy else LOOK_S, *slots]))
