"""Runs: what every attempt to sync came to, also those that failed (14-operations, section 5).

An operation says what was changed; a run says that something was tried. Each is a state of the
store, and one more state sums them up, so that `status` reads one.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gsync.errors import GsyncError
from gsync.frozen import frozen, replace
from gsync.objects.encoding import decode_trusted, encode
from gsync.objects.oid import ObjectId
from gsync.store.base import State
from gsync.sync.operations import reading_state

if TYPE_CHECKING:
    from gsync.remotes.base import Connection
    from gsync.sync.repository import Repository

PREFIX = "run/"
SUMMARY = "runs"
RUNS_MAX = 1_000
TEXT_MAX = 500

_FORMAT = 1

DONE, CONFLICTS, FAILED = "done", "conflicts", "failed"
SYNCING = frozenset(("clone", "db sync", "pull", "push", "sync", "sync-all"))
"""Commands after which the two sides have been brought together, as far as they go."""

Connect = Callable[[], AbstractContextManager["Connection"]]


@dataclass(slots=True)
class Run:
    """One attempt.

    Attributes:
        command: `clone`, `fetch`, `pull`, `push`, `sync` or `sync-all`.
        remote: What it talked to; empty where it failed before that was known.
        run_id: What the server's log calls it; empty where there is none.
        id: Its number in this store.
        began_us: When, in microseconds since 1970.
        seconds: How long.
        outcome: `done`; `conflicts`, which are kept and have to be resolved; or `failed`.
        error: Of what failed: its kind, `interrupted` or `defect`, and what it said.
        sent: Bytes, also of what was cut.
        received: The same.
        round_trips: Requests.
        old: Where main was, or None.
        new: Where it is now.
    """

    command: str
    remote: str = ""
    run_id: str = ""
    id: int = 0
    began_us: int = 0
    seconds: float = 0.0
    outcome: str = DONE
    error: tuple[str, str] | None = None
    sent: int = 0
    received: int = 0
    round_trips: int = 0
    old: ObjectId | None = None
    new: ObjectId | None = None

    def note_conflicts(self, count: int) -> None:
        """Say that it kept conflicts, if any."""
        if count:
            self.outcome = CONFLICTS

    def counting(self, connect: Connect) -> Connect:
        """Return `connect`, with what goes over its connections counted here."""

        @contextmanager
        def counted() -> Iterator[Connection]:
            with connect() as connection:
                try:
                    yield connection
                finally:
                    traffic = connection.traffic
                    self.sent += traffic.bytes_sent
                    self.received += traffic.bytes_received
                    self.round_trips += traffic.round_trips

        return counted


@frozen
class Health:
    """How a remote has fared.

    Attributes:
        synced_us: When the last run that brought both sides together ended, or None.
        command: Which command that was.
        failures: How many runs have not ended well since.
        failed_us: When the last of these ended, or None.
        error: What it said.
    """

    synced_us: int | None = None
    command: str = ""
    failures: int = 0
    failed_us: int | None = None
    error: str = ""

    def after(self, run: Run) -> Health:
        """Return the same after one more run."""
        ended_us = run.began_us + round(run.seconds * 1e6)
        if run.outcome != DONE:
            error = run.error[1] if run.error else "conflicts were kept, to be resolved"
            return replace(self, failures=self.failures + 1, failed_us=ended_us, error=_text(error))
        return Health(ended_us, run.command) if run.command in SYNCING else self


@dataclass(slots=True)
class _Summary:
    last_id: int = 0
    remotes: dict[str, Health] = field(default_factory=dict)


@contextmanager
def recorded(
    repo: Repository, command: str, *, run_id: str = "", dry: bool = False
) -> Iterator[Run]:
    """Record what the block comes to. It says which remote it talks to, and what moved.

    What cannot be recorded, as on a full disk, fails nothing. A run that is killed leaves no trace
    but that nothing succeeded.

    Args:
        dry: Record nothing.
    """
    run = Run(command, run_id=run_id, began_us=time.time_ns() // 1_000)
    began, run.old = time.monotonic(), repo.head()
    try:
        yield run
    except GsyncError as error:
        run.outcome, run.error = FAILED, (error.kind, error.message)
        raise
    except BaseException as error:
        name = type(error).__name__
        stopped = isinstance(error, (KeyboardInterrupt, SystemExit))
        run.outcome = FAILED
        run.error = ("interrupted", "interrupted") if stopped else ("defect", f"{name}: {error}")
        raise
    finally:
        run.seconds = time.monotonic() - began
        if not dry and not repo.store.read_only:
            with contextlib.suppress(GsyncError):
                run.new = repo.head()
                _save(repo.store, run)


def list_runs(store: State) -> list[Run]:
    """Return the runs that are kept, at most `RUNS_MAX`, newest first."""
    found = store.list_states(PREFIX)
    return [_decode(found[name]) for name in sorted(found, reverse=True)]


def health(store: State) -> dict[str, Health]:
    """Return how each remote has fared; "" is that of runs which failed before it was known."""
    return _summary(store).remotes


def forget_remote(store: State, remote: str) -> None:
    """Forget how a remote has fared; its runs stay until newer ones take their place."""
    summary = _summary(store)
    if summary.remotes.pop(remote, None) is not None:
        store.set_states({SUMMARY: _encode_summary(summary)})


def _save(store: State, run: Run) -> None:
    summary = _summary(store)
    run.id = summary.last_id = summary.last_id + 1
    before = summary.remotes.get(run.remote, Health())
    summary.remotes[run.remote] = before.after(run)
    if run.remote and run.outcome == DONE:
        # What failed before it was known where to is settled by what works.
        summary.remotes.pop("", None)
    states: dict[str, bytes | None] = {
        _name(run.id): _encode(run),
        SUMMARY: _encode_summary(summary),
    }
    if run.id > RUNS_MAX:
        states[_name(run.id - RUNS_MAX)] = None
    store.set_states(states)


def _name(number: int) -> str:
    return f"{PREFIX}{number:012d}"


def _text(text: str) -> str:
    """Return what can be stored of a message: paths in it need not be text."""
    return text[:TEXT_MAX].encode("utf-8", "backslashreplace").decode()


def _encode(run: Run) -> bytes:
    error = [run.error[0], _text(run.error[1])] if run.error else None
    return encode(
        [_FORMAT, run.id, run.run_id, run.command, run.remote, run.began_us]
        + [round(run.seconds * 1e6), run.outcome, error]
        + [run.sent, run.received, run.round_trips, run.old, run.new]
    )


def _decode(body: bytes) -> Run:
    with reading_state("a run"):
        _, number, run_id, command, remote, began_us, took_us, outcome, error, *rest = (
            decode_trusted(body)
        )
        found = (error[0], error[1]) if error else None
        return Run(command, remote, run_id, number, began_us, took_us / 1e6, outcome, found, *rest)


def _summary(store: State) -> _Summary:
    body = store.get_state(SUMMARY)
    if body is None:
        return _Summary()
    with reading_state("runs"):
        _, last_id, remotes = decode_trusted(body)
        return _Summary(last_id, {name: Health(*values) for name, *values in remotes})


def _encode_summary(summary: _Summary) -> bytes:
    return encode(
        [_FORMAT, summary.last_id]
        + [
            [
                [name, one.synced_us, one.command, one.failures, one.failed_us, one.error]
                for name, one in sorted(summary.remotes.items())
            ]
        ]
    )
