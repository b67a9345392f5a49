"""jobs: commands on a schedule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from gsync.cli.app import App, dry_run_option, group
from gsync.cli.output import emit, note, table, when
from gsync.errors import GsyncError, NotFound

if TYPE_CHECKING:
    from gsync.config import JobConfig
    from gsync.jobs.run import Runner
    from gsync.sync.jobrecord import JobRun, JobState
    from gsync.sync.repository import Repository


@group()
def jobs() -> None:
    """Run commands on a schedule, and see what came of them."""


@jobs.command("list")
@click.pass_obj
def list_(app: App) -> None:
    """List the jobs of .gsync/config.toml, when they run next, and how they fared."""
    import time

    from gsync.jobs.run import command_line
    from gsync.jobs.schedule import check_schedule, next_slot
    from gsync.sync.jobrecord import load_all

    with app.open(read_only=True) as repo:
        wanted, states = repo.config.local.jobs, load_all(repo.store)
    rows = []
    for job in wanted:
        check_schedule(job)
        rows.append((job, command_line(job), next_slot(job, time.time()), states.get(job.name)))
    emit(
        app,
        {
            "jobs": [
                {
                    "name": job.name,
                    "run": job.run,
                    "cron": job.cron,
                    "every": job.every,
                    "timezone": job.timezone,
                    "parameters": dict(job.parameters),
                    "next": slot,
                    "failures": state.failures if state else 0,
                    "last": _run_json(state.runs[0]) if state and state.runs else None,
                }
                for job, _, slot, state in rows
            ]
        },
        lambda: _list_lines(rows),
    )


def _list_lines(
    rows: Sequence[tuple[JobConfig, list[str], int | None, JobState | None]],
) -> Iterator[str]:
    if not rows:
        yield "There is no job; [[jobs]] in .gsync/config.toml makes one (spec/16-jobs.md)."
        return
    yield from table(
        [
            (
                job.name,
                " ".join(words),
                f"{job.cron} {job.timezone}"
                if job.cron
                else f"every {job.every}"
                if job.every
                else "by hand",
                when(slot * 1_000_000) if slot else "-",
                _fared(state),
            )
            for job, words, slot, state in rows
        ],
        ("job", "runs", "when", "next", "last"),
    )


def _fared(state: JobState | None) -> str:
    if state is None or not state.runs:
        return "-"
    last = state.runs[0]
    more = f", {state.failures} in a row" if state.failures > 1 else ""
    return f"{last.outcome}{more}"


@jobs.command("run")
@click.argument("name", required=False)
@click.option("--due", is_flag=True, help="Run every job that is due, one after the other")
@dry_run_option
@click.pass_obj
def run(app: App, name: str | None, due: bool, dry_run: bool) -> None:
    """Run the job NAME now, or with --due all that are due, as from a timer of the system."""
    from gsync.jobs.run import command_line
    from gsync.jobs.schedule import check_schedule
    from gsync.sync.jobrecord import FAILED

    if (name is None) == (not due):
        raise click.UsageError("name a job, or give --due")
    with app.open(read_only=True) as repo:
        wanted = [_find(repo, name)] if name is not None else list(repo.config.local.jobs)
        runner = _runner(repo)
    wrong: dict[str, str] = {}
    done: dict[str, JobRun] = {}
    planned: dict[str, list[str]] = {}
    for job in wanted:
        try:
            check_schedule(job)
            words = command_line(job)
            if dry_run:
                planned[job.name] = words
                continue
            made = runner.run_now(job) if name is not None else runner.run_due(job)
        except GsyncError as error:
            if name is not None:
                raise
            wrong[job.name] = error.message  # it keeps no other from running
            continue
        if made is not None:
            done[job.name] = made
    shown = {"planned": planned} if dry_run else {"ran": _runs_json(done)}
    emit(
        app,
        {**shown, "wrong": wrong, "dry_run": dry_run},
        lambda: _ran_lines(planned, done, wrong),
        report=True,
    )
    if wrong or any(made.outcome == FAILED for made in done.values()):
        app.exit(1)


def _runs_json(done: dict[str, JobRun]) -> dict[str, Any]:
    return {job: _run_json(made) for job, made in done.items()}


def _ran_lines(
    planned: dict[str, list[str]], done: dict[str, JobRun], wrong: dict[str, str]
) -> Iterator[str]:
    if not (planned or done or wrong):
        yield "No job is due."
    for job, words in planned.items():
        yield f"{job}: gsync {' '.join(words)}"
    for job, made in done.items():
        yield f"{job}: {made.outcome} in {made.seconds:.2f} s"
        yield from (f"  {line}" for line in made.said.splitlines())
    yield from wrong.values()


@jobs.command("serve")
@click.option(
    "--metrics", metavar="[HOST:]PORT", help="Answer GET /metrics there with how jobs fared"
)
@click.pass_obj
def serve(app: App, metrics: str | None) -> None:
    """Run jobs when they are due, until interrupted; a line on stderr for each run."""
    import signal
    import threading

    from gsync.config import load_config
    from gsync.jobs.serve import Scheduler

    with app.open(read_only=True) as repo:
        runner = _runner(repo)
        root, workdir, path = repo.root, repo.workdir, repo.store.path
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def told(name: str, what: JobRun | GsyncError) -> None:
        if isinstance(what, GsyncError):
            note(app, f"{name}: {what.message}")
        else:
            note(app, f"{name}: {what.outcome} in {what.seconds:.2f} s")

    with ExitStack() as stack:
        if metrics is not None:
            from gsync.jobs.metrics import job_registry
            from gsync.server.metrics import expose, parse_address
            from gsync.store.sqlite import SqliteStore

            registry = job_registry(lambda: SqliteStore.open(path, read_only=True))
            url = stack.enter_context(expose(registry, *parse_address(metrics)))
            note(app, f"figures at {url}")
        note(app, f"serving the jobs of {root}")
        Scheduler(runner, lambda: load_config(root, workdir).local.jobs, told).serve(stop)


@jobs.command("history")
@click.argument("name", required=False)
@click.option("--failed", is_flag=True, help="Only those that did not end well")
@click.pass_obj
def history(app: App, name: str | None, failed: bool) -> None:
    """List what came of the runs of jobs, newest first."""
    from gsync.sync.jobrecord import FAILED, load_all

    with app.open(read_only=True) as repo:
        states = load_all(repo.store)
        if name is not None and name not in states:
            _find(repo, name)
    found = [
        (job, made)
        for job, state in states.items()
        for made in state.runs
        if name in (None, job) and (made.outcome == FAILED or not failed)
    ]
    found.sort(key=lambda pair: -pair[1].began_us)
    emit(
        app,
        {"runs": [{"job": job, **_run_json(made)} for job, made in found]},
        lambda: _history_lines(found),
    )


def _history_lines(found: Sequence[tuple[str, JobRun]]) -> Iterator[str]:
    if not found:
        yield "No run of a job is on record."
        return
    yield from table(
        [
            (
                when(made.began_us // 1_000_000 * 1_000_000),
                job,
                made.outcome,
                f"{made.seconds:.2f} s",
                made.said.rpartition("\n")[2],
            )
            for job, made in found
        ],
        ("time", "job", "outcome", "took", ""),
    )


def _run_json(made: JobRun) -> dict[str, Any]:
    from gsync.frozen import as_dict

    return as_dict(made)


def _find(repo: Repository, name: str) -> JobConfig:
    for job in repo.config.local.jobs:
        if job.name == name:
            return job
    known = ", ".join(job.name for job in repo.config.local.jobs)
    raise NotFound(f"no job is called {name!r}", hint=f"known: {known}" if known else None)


def _runner(repo: Repository) -> Runner:
    import socket

    from gsync.jobs.run import Runner
    from gsync.store.sqlite import SqliteStore

    path = repo.store.path
    return Runner(repo.root, repo.workdir, lambda: SqliteStore.open(path), socket.gethostname())
