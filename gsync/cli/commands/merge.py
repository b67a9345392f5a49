"""conflicts, resolve, merge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gsync.cli.app import (
    App,
    command,
    dry_run_option,
    moving_options,
    split_names,
)
from gsync.cli.conflicts import conflict_json, conflict_lines, shown_conflict
from gsync.cli.output import emit, short
from gsync.errors import Invalid, NotFound


@command()
@click.option("--exit-code", is_flag=True, help="Exit with 1 when a conflict is open")
@click.pass_obj
def conflicts(app: App, exit_code: bool) -> None:
    """List what an unfinished merge could not merge."""
    from gsync.sync.merging import find_unfinished, list_conflicts
    from gsync.sync.resolving import list_clashes

    with app.open() as repo:
        unfinished = find_unfinished(repo)
        found = [
            (kept, list_clashes(repo, unfinished, kept))
            for kept in (list_conflicts(repo, unfinished) if unfinished else ())
            if unfinished
        ]
        left = sum(kept.resolution is None for kept, _ in found)
        emit(
            app,
            {
                "merge": unfinished.name if unfinished else None,
                "ours": unfinished.ours.hex() if unfinished else None,
                "theirs": unfinished.theirs.hex() if unfinished else None,
                "conflicts": [conflict_json(kept, clashes) for kept, clashes in found],
            },
            lambda: (
                [
                    f"Merging {unfinished.name}: {left} of {len(found)} conflict(s) open.",
                    *conflict_lines(app, found),
                    "Decide each: 'gsync resolve KEY --ours', --theirs, --delete or --file F."
                    if left
                    else "Finish it: 'gsync merge --continue'.",
                ]
                if unfinished
                else ["No merge is unfinished."]
            ),
        )
    if exit_code and left:
        app.exit(1)


@command()
@click.argument("keys", nargs=-1, metavar="KEY...")
@click.option(
    "--in", "collection", default="files", help="Collection of the KEYs", show_default=True
)
@click.option("--all", "everything", is_flag=True, help="All conflicts that are open")
@click.option("--ours", "side", flag_value="ours", help="Take what HEAD has")
@click.option("--theirs", "side", flag_value="theirs", help="Take what is merged in")
@click.option("--base", "side", flag_value="base", help="Take what both began with")
@click.option("--delete", "side", flag_value="delete", help="Take neither: delete it")
@click.option("--file", "file", type=click.Path(path_type=Path), help="Take the content of a file")
@click.option(
    "--cell",
    "cells",
    multiple=True,
    metavar="COLUMN=SIDE",
    help="Of a row, take one cell from a side",
)
@dry_run_option
@click.pass_obj
def resolve(
    app: App,
    keys: tuple[str, ...],
    collection: str,
    everything: bool,
    side: str | None,
    file: Path | None,
    cells: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Decide conflicts of an unfinished merge; nothing live is touched yet."""
    from gsync.sync import merging
    from gsync.sync.resolving import cells_value, file_value, find_collection, is_whole, row_key

    if sum((side is not None, file is not None, bool(cells))) != 1:
        raise Invalid("give one of --ours, --theirs, --base, --delete, --file and --cell")
    if everything == bool(keys):
        raise Invalid("give either KEYs or --all")
    if (file or cells) and len(keys) != 1:
        raise Invalid("--file and --cell decide one KEY")
    with app.open() as repo, repo.writing("gsync resolve"):
        name = find_collection(repo, collection)
        wanted: list[tuple[str, bytes | None]] = []
        for text in keys:
            if text in (name, collection) and is_whole(repo, name):
                wanted.append((name, None))
            elif name == "files":
                wanted.append((name, app.key(repo, text)))
            else:
                wanted.append((name, row_key(repo, name, text)))
        value: bytes | None = None
        how = side or "edited"
        if side == "delete":
            how = "edited"
        elif file is not None:
            if name != "files":
                raise Invalid("--file decides a file", hint="a row has --cell, --ours, --theirs")
            value = file_value(repo, app.directory / file)
        elif cells:
            value = cells_value(repo, wanted[0], cells)
        if dry_run:
            known = {(k.collection, k.key) for k in merging.list_open(repo)}
            for item in wanted:
                if item not in known:
                    raise NotFound("not in conflict", hint="'gsync conflicts' lists what is")
            done = [
                k for k in merging.list_open(repo) if not wanted or (k.collection, k.key) in wanted
            ]
        else:
            done = merging.resolve(repo, wanted, how, value)
        left = len(merging.list_open(repo))
    emit(
        app,
        {"resolved": [conflict_json(kept) for kept in done], "open": left, "dry_run": dry_run},
        lambda: [
            *(f"{shown_conflict(kept)}: {kept.resolution or how}" for kept in done),
            f"{left} conflict(s) open." if left else "All resolved: 'gsync merge --continue'.",
        ],
        report=True,
    )


@command()
@click.argument("rev", required=False)
@click.option(
    "--continue", "go_on", is_flag=True, help="Finish a merge whose conflicts are resolved"
)
@click.option("--abort", is_flag=True, help="Drop an unfinished merge")
@moving_options
@click.pass_obj
def merge(
    app: App,
    rev: str | None,
    go_on: bool,
    abort: bool,
    no_databases: bool,
    accept: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Merge REV, such as origin/main, into HEAD; or finish or drop a merge."""
    from gsync.sync import merging

    if (rev is not None) + go_on + abort != 1:
        raise Invalid("give one of REV, --continue and --abort")
    accepted = split_names(accept)
    with app.open() as repo, repo.writing("gsync merge"):
        if abort:
            name = merging.abort_merge(repo, dry_run=dry_run).name
            found = merging.Merged(None)
        elif go_on:
            unfinished = merging.find_unfinished(repo)
            name = unfinished.name if unfinished else ""
            found = merging.continue_merge(
                repo, databases=not no_databases, accept=accepted, dry_run=dry_run
            )
        else:
            assert rev is not None
            name = rev
            found = merging.merge(
                repo,
                app.resolve(repo, rev),
                rev,
                databases=not no_databases,
                accept=accepted,
                dry_run=dry_run,
                unrelated=True,
            )
    emit(
        app,
        {
            "manifest": found.oid.hex() if found.oid else None,
            "conflicts": found.conflicts,
            "dry_run": dry_run,
        },
        lambda: merged_lines(name, found, abort=abort, dry_run=dry_run),
        report=True,
    )
    if found.conflicts:
        app.exit(1)


def merged_lines(name: str, found: Any, *, abort: bool = False, dry_run: bool = False) -> list[str]:
    """Return what a merge came to, for people."""
    would = "Would have" if dry_run else "There are"
    if abort:
        return [
            f"{'Would drop' if dry_run else 'Dropped'} the merge of {name}; nothing had changed."
        ]
    if found.conflicts:
        return [
            f"{would} {found.conflicts} conflict(s); nothing was changed.",
            "See 'gsync conflicts', decide with 'gsync resolve', then 'gsync merge --continue'.",
        ]
    if found.oid is None:
        return [f"Would merge {name}." if dry_run else f"Nothing to merge: HEAD has {name}."]
    return [f"Merged {name}: HEAD is {short(found.oid)}."]
