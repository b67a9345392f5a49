"""ops, undo."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from gsync.cli.app import App, command, moving_options, split_names
from gsync.cli.changes import change_json, status_lines
from gsync.cli.output import emit, short, style, when
from gsync.errors import GsyncError, Invalid

if TYPE_CHECKING:
    from gsync.sync.compare import FileChange
    from gsync.sync.comparetables import TableCounts
    from gsync.sync.operations import Moves, Operation
    from gsync.sync.repository import Repository

_SHOWN = 20


@command()
@click.argument("words", nargs=-1, metavar="[[show] OP]")
@click.option("-n", "--limit", type=click.IntRange(min=1), default=_SHOWN, help="At most so many")
@click.pass_obj
def ops(app: App, words: tuple[str, ...], limit: int) -> None:
    """List what commands changed here, newest first; or show operation OP."""
    from gsync.sync.operations import get_operation, list_operations, undone_ids

    wanted = _number(words)
    with app.open() as repo:
        repo.settle("gsync ops")
        operations = list_operations(repo.store)
        undone = undone_ids(operations)
        if wanted is not None:
            _show(app, repo, get_operation(repo.store, wanted), undone)
            return
        shown = operations[:limit]
        emit(
            app,
            {"operations": [operation_json(one, undone) for one in shown]},
            lambda: (
                [_line(app, repo, one, undone) for one in shown] or ["Nothing was changed yet."]
            ),
        )


def _number(words: tuple[str, ...]) -> int | None:
    text = words[-1] if words else ""
    if words[:-1] not in ((), ("show",)) or (text and not text.isdecimal()):
        raise Invalid(
            f"not an operation: {' '.join(words)!r}; expected its number",
            hint="'gsync ops' lists them",
        )
    return int(text) if text else None


def operation_json(operation: Operation, undone: set[int]) -> dict[str, Any]:
    """Return an operation as JSON documents have it."""
    live = operation.live
    return {
        "operation": operation.id,
        "time": when(operation.time_us),
        "actor": operation.actor,
        "command": operation.command,
        "refs": _moves_json(operation.refs),
        "seen": _moves_json(operation.seen),
        "live": live
        and {
            "before": live.before.hex() if live.before else None,
            "after": live.after.hex() if live.after else None,
            "databases": list(live.databases),
        },
        "undoes": operation.undoes,
        "undone": operation.id in undone,
        "can_be_undone": operation.can_be_undone,
        "kept": operation.kept,
    }


def _moves_json(moves: Moves) -> dict[str, Any]:
    return {
        name: {"old": old.hex() if old else None, "new": new.hex() if new else None}
        for name, (old, new) in moves.items()
    }


def _line(app: App, repo: Repository, operation: Operation, undone: set[int]) -> str:
    command = operation.command
    if operation.undoes is not None:
        command += f" (of {operation.undoes})"
    state = style(app, " (undone)", "yellow") if operation.id in undone else ""
    what = "; ".join(_summary(repo, operation))
    return f"{operation.id:>5}  {when(operation.time_us)[:19]}Z  {command}{state}: {what}"


def _summary(repo: Repository, operation: Operation) -> Iterator[str]:
    if operation.refs:
        yield ", ".join(_arrows(operation.refs))
    elif operation.seen:
        yield ", ".join(_arrows(operation.seen))
    try:
        files, tables = _live(repo, operation)
    except GsyncError:  # forgotten
        files, tables = [], []
    if files:
        yield f"{len(files)} path(s)"
    yield from (
        f"{counts.added + counts.modified + counts.deleted} row(s) of {counts.collection}"
        for counts in tables
    )
    if operation.kept:
        yield "cannot be undone"


def _arrows(moves: Moves) -> Iterator[str]:
    for name, (old, new) in moves.items():
        yield f"{name} {short(old)} -> {short(new)}"


def _live(repo: Repository, operation: Operation) -> tuple[list[FileChange], list[TableCounts]]:
    """Return what an operation changed in the folder, and in tables."""
    from gsync.sync.compare import diff_manifests
    from gsync.sync.comparetables import count_tables, split_collection

    if operation.live is None:
        return [], []
    live = operation.live
    before, after = repo.manifest(live.before), repo.manifest(live.after)
    tables = [
        counts
        for counts in count_tables(repo.store, before, after)
        if (split_collection(counts.collection) or ("",))[0] in live.databases
        and counts.added + counts.modified + counts.deleted
    ]
    return diff_manifests(repo.store, before, after), tables


def _show(app: App, repo: Repository, operation: Operation, undone: set[int]) -> None:
    from gsync.cli.counts import counts_json, table_lines

    try:
        (files, tables), forgotten = _live(repo, operation), False
    except GsyncError:
        files, tables, forgotten = [], [], True
    document = operation_json(operation, undone) | {
        "changes": [change_json(change) for change in files],
        "tables": [counts_json(counts) for counts in tables],
        "forgotten": forgotten,
    }

    def text() -> Iterator[str]:
        yield style(app, f"operation {operation.id}", "yellow")
        yield f"Command: {operation.command}"
        yield f"Actor:   {operation.actor}"
        yield f"Date:    {when(operation.time_us)}"
        if operation.undoes is not None:
            yield f"Undoes:  operation {operation.undoes}"
        if operation.id in undone:
            yield "It is undone."
        if not operation.can_be_undone:
            from gsync.sync.undoing import why_kept

            yield f"It cannot be undone: {why_kept(operation)}."
        elif operation.kept:
            yield f"It cannot be undone in all: {operation.kept}."
        yield from _arrows(operation.refs)
        yield from _arrows(operation.seen)
        if operation.live is not None:
            live = operation.live
            yield f"Live before: {short(live.before)}, after: {short(live.after)}"
        if forgotten:
            yield "What it changed was forgotten."
        yield from status_lines(app, files)
        yield from table_lines(tables)

    emit(app, document, text)


@command()
@click.argument("operation", required=False, metavar="[OP]")
@moving_options
@click.pass_obj
def undo(
    app: App,
    operation: str | None,
    no_databases: bool,
    accept: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Bring refs, folder and tables to their state before operation OP.

    Without OP before the newest that is neither undone nor an undo itself. What was changed
    since is kept, and what was published becomes a new manifest with the old content.
    """
    from gsync.cli.counts import applied_json, applied_lines, counts_json, table_lines
    from gsync.sync.undoing import undo as undo_operation

    number = _number((operation,)) if operation is not None else None
    with app.open() as repo, repo.writing("gsync undo"):
        done = undo_operation(
            repo,
            number,
            databases=not no_databases,
            accept=split_names(accept),
            dry_run=dry_run,
        )
    undone = done.operation
    document = {
        "undone": undone.id,
        "command": undone.command,
        "operation": done.id,
        "refs": _moves_json(done.refs),
        "left": dict(done.left),
        "changes": [change_json(change) for change in done.changes],
        "tables": [counts_json(counts) for counts in done.tables],
        "databases": applied_json(done.applied),
        "conflicts": done.conflicts,
        "saved": done.saved.hex() if done.saved else None,
        "dry_run": dry_run,
    }

    def text() -> Iterator[str]:
        yield from status_lines(app, done.changes)
        yield from table_lines(done.tables)
        yield from (f"written: {line}" for line in applied_lines(done.applied, dry_run=dry_run))
        for arrow in _arrows(done.refs):
            yield f"{arrow}{' (would move)' if dry_run else ''}"
        yield from _left_lines(dict(done.left))
        if undone.kept:
            yield f"Not undone: {undone.kept}."
        if done.conflicts:
            from gsync.cli.commands.exchange import unmerged_lines

            yield from unmerged_lines(done.conflicts)
        elif dry_run:
            yield f"Would undo operation {undone.id} ({undone.command})."
        else:
            yield (
                f"Undid operation {undone.id} ({undone.command});"
                f" 'gsync undo {done.id}' brings it back."
            )

    emit(app, document, text, report=True)
    if done.conflicts:
        app.exit(1)


def _left_lines(left: Mapping[str, str]) -> Iterator[str]:
    yield from (f"{name} stays: {why}." for name, why in left.items())
