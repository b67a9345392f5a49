"""What became of jobs: for each the slot that was last taken, and its last runs, in the store."""

from __future__ import annotations

from collections.abc import Iterable

from gsync.frozen import frozen
from gsync.objects.encoding import decode_trusted, encode
from gsync.store.base import State
from gsync.sync.operations import reading_state

PREFIX = "job/"
RUNS_KEPT = 50
TEXT_MAX = 2_000

DONE, FAILED, RUNNING = "done", "failed", "running"
_FORMAT = 1


@frozen
class JobRun:
    """One run of a job.

    Attributes:
        slot_s: The slot it was for, in seconds since 1970; 0 for a run by hand.
        began_us: When it began, in microseconds since 1970.
        seconds: How long it took; 0 while it runs.
        outcome: `running`, `done` or `failed`; a run that never ended was interrupted.
        code: The exit code of its command.
        said: The end of what it printed, if it failed.
    """

    slot_s: int
    began_us: int
    seconds: float = 0.0
    outcome: str = RUNNING
    code: int = 0
    said: str = ""


@frozen
class JobState:
    """What is known of one job.

    Attributes:
        seen_s: The slot it was run for last; before the first one, when it was first seen.
        runs: The last runs, newest first.
    """

    seen_s: int
    runs: tuple[JobRun, ...] = ()

    @property
    def last_failure(self) -> str:
        """The last line of what the newest run that ended said."""
        run = next((run for run in self.runs if run.outcome != RUNNING), None)
        return run.said.rpartition("\n")[2] if run else ""

    @property
    def failures(self) -> int:
        """How many of the newest runs have failed, one after the other."""
        count = 0
        for run in self.runs:
            if run.outcome == RUNNING:
                continue
            if run.outcome == DONE:
                break
            count += 1
        return count


def load(store: State, name: str) -> JobState | None:
    """Return the state of a job, or None before it was first seen."""
    body = store.get_state(PREFIX + name)
    return None if body is None else _decode(body)


def failing(store: State, names: Iterable[str]) -> dict[str, JobState]:
    """Return the states of those of these jobs whose newest run has failed."""
    states = load_all(store)
    return {name: states[name] for name in names if name in states and states[name].failures}


def load_all(store: State) -> dict[str, JobState]:
    """Return the states of all jobs that were ever seen, by name."""
    found = store.list_states(PREFIX)
    return {name.removeprefix(PREFIX): _decode(body) for name, body in found.items()}


def save(store: State, name: str, state: JobState) -> None:
    """Keep the state of a job, in one transaction."""
    body = encode(
        [
            _FORMAT,
            state.seen_s,
            [
                [r.slot_s, r.began_us, round(r.seconds * 1e6), r.outcome, r.code, _text(r.said)]
                for r in state.runs[:RUNS_KEPT]
            ],
        ]
    )
    store.set_states({PREFIX + name: body})


def _decode(body: bytes) -> JobState:
    with reading_state("a job"):
        _, seen_s, runs = decode_trusted(body)
        return JobState(
            seen_s,
            tuple(
                JobRun(slot_s, began_us, took_us / 1e6, outcome, code, said)
                for slot_s, began_us, took_us, outcome, code, said in runs
            ),
        )


def _text(text: str) -> str:
    return text[-TEXT_MAX:].encode("utf-8", "backslashreplace").decode()
