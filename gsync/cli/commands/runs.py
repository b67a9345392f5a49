"""runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from gsync.cli.app import App, command
from gsync.cli.output import emit, short, size, table, when

if TYPE_CHECKING:
    from gsync.sync.runs import Run

_SHOWN = 20


@command()
@click.argument("remote", required=False)
@click.option("--failed", is_flag=True, help="Only those that did not end well")
@click.option("-n", "--limit", type=click.IntRange(min=1), default=_SHOWN, help="At most so many")
@click.pass_obj
def runs(app: App, remote: str | None, failed: bool, limit: int) -> None:
    """List what every attempt to sync came to, newest first, also those that failed."""
    from gsync.cli.runs import run_json
    from gsync.sync.runs import DONE, list_runs

    with app.open() as repo:
        found = [
            run
            for run in list_runs(repo.store)
            if (remote is None or run.remote == remote) and not (failed and run.outcome == DONE)
        ][:limit]
    emit(app, {"runs": [run_json(run) for run in found]}, lambda: _lines(found))


def _lines(found: Sequence[Run]) -> Iterator[str]:
    if not found:
        yield "No run is on record."
        return
    rows = [
        (
            when(run.began_us // 1_000_000 * 1_000_000),
            run.command,
            run.remote or "-",
            run.outcome,
            size(run.sent),
            size(run.received),
            f"{run.seconds:.2f} s",
            _what(run),
        )
        for run in found
    ]
    yield from table(rows, ("time", "command", "remote", "outcome", "out", "in", "took", ""))


def _what(run: Run) -> str:
    if run.error is not None:
        return f"{run.error[0]}: {run.error[1]}"
    return f"main at {short(run.new)}" if run.old == run.new else f"main to {short(run.new)}"
