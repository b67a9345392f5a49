"""clone, fetch, pull, push, sync."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gsync.cli.app import (
    App,
    P,
    R,
    ca_file_option,
    command,
    dry_run_option,
    insecure_option,
    moving_options,
    split_names,
    token_file_option,
)
from gsync.cli.changes import change_json, status_lines
from gsync.cli.output import detail, emit, key_json, short, size
from gsync.errors import Invalid, NotFound
from gsync.paths import show_path
from gsync.sync.exchange import Moved
from gsync.urls import PathUrl, parse_url

if TYPE_CHECKING:
    from gsync.sync.runs import Run


def _to_remote(function: Callable[P, R]) -> Callable[P, R]:
    """Add what a command takes that talks to one of the remotes."""
    return click.argument("remote", required=False)(token_file_option(insecure_option(function)))


def connector(
    app: App,
    repo: Any,
    remote: str | None,
    token_file: str | None,
    insecure: bool,
    create: bool = False,
    run: Run | None = None,
) -> tuple[str, Callable[[], Any]]:
    """Return the name of the remote that was meant, and what opens a connection to it.

    Args:
        run: Told the remote, and what goes over its connections.
    """
    from gsync.cli.credentials import find_token
    from gsync.sync.exchange import connect

    name = remote or _default_remote(repo)
    found = repo.config.remote(name)
    if run is not None:
        run.remote = name
    token = None
    if not isinstance(found.location(), PathUrl):
        token = find_token(found.url, token_file or found.token_file)
        detail(app, f"run {app.run_id}")
    insecure = insecure or found.insecure_http
    opening = partial(
        connect,
        repo,
        found.url,
        token=token,
        insecure_http=insecure,
        ca_file=found.ca_file,
        run_id=app.run_id,
        create=create,
    )
    return name, run.counting(opening) if run else opening


def _default_remote(repo: Any) -> str:
    names = sorted(repo.config.remotes)
    if "origin" in names:
        return "origin"
    if len(names) == 1:
        return str(names[0])
    if not names:
        raise NotFound("there is no remote yet", hint="add one: 'gsync remote add origin URL'")
    raise Invalid(f"which remote? there are {', '.join(names)}", hint="name one of them")


def moved_json(moved: Moved, **more: Any) -> dict[str, Any]:
    """Return what an exchange did as JSON documents have it."""
    return {
        "remote": moved.remote,
        "ref": moved.ref,
        "old": moved.old.hex() if moved.old else None,
        "new": moved.new.hex() if moved.new else None,
        "objects_sent": moved.objects_sent,
        "objects_received": moved.objects_received,
        "bytes_sent": moved.bytes_sent,
        "bytes_received": moved.bytes_received,
        "round_trips": moved.round_trips,
        "seconds": round(moved.seconds, 3),
        **({"not_deleted": list(map(key_json, moved.kept_there))} if moved.kept_there else {}),
        **({"not_carried": moved.not_carried} if moved.not_carried else {}),
        **more,
    }


def _peer_lines(moved: Moved) -> Iterator[str]:
    """Yield what a peer that speaks tarballs alone does not do."""
    if moved.kept_there:
        shown = ", ".join(map(show_path, moved.kept_there[:3]))
        more = f" and {len(moved.kept_there) - 3} more" if len(moved.kept_there) > 3 else ""
        yield (
            f"! {len(moved.kept_there)} path(s) that were deleted here stay there, since"
            f" {moved.remote} cannot delete: {shown}{more}"
        )
    if moved.not_carried:
        yield f"! {moved.not_carried} path(s) are none that {moved.remote} takes"


def pulled_json(moved: Moved, **more: Any) -> dict[str, Any]:
    """Return what a pull did: the exchange, and what changed in folder and databases."""
    document: dict[str, Any] = {
        "changes": [change_json(change) for change in moved.changes],
        "tables": [],
        "databases": {},
        "conflicts": moved.conflicts,
    }
    if moved.tables or moved.applied:
        from gsync.cli.counts import applied_json, counts_json

        document["tables"] = [counts_json(counts) for counts in moved.tables]
        document["databases"] = applied_json(moved.applied)
    return moved_json(moved, **document, **more)


def _pulled_lines(app: App, moved: Moved, *, dry_run: bool = False) -> Iterator[str]:
    yield from status_lines(app, moved.changes)
    if moved.tables or moved.applied:
        from gsync.cli.counts import applied_lines, table_lines

        yield from table_lines(moved.tables)
        verb = "would be written" if dry_run else "written"
        yield from (f"{verb}: {line}" for line in applied_lines(moved.applied, dry_run=dry_run))


def cost_line(moved: Moved) -> str:
    """Return what an exchange cost, as one line."""
    trips = "1 round trip" if moved.round_trips == 1 else f"{moved.round_trips} round trips"
    return (
        f"{moved.objects_sent} objects sent, {moved.objects_received} received;"
        f" {size(moved.bytes_sent)} out, {size(moved.bytes_received)} in;"
        f" {trips}; {moved.seconds:.2f} s"
    )


def _arrow(moved: Moved) -> str:
    old = short(moved.old) if moved.old else "nothing"
    new = short(moved.new) if moved.new else "nothing"
    return f"{old} -> {new}"


@command()
@_to_remote
@dry_run_option
@click.pass_obj
def fetch(
    app: App, remote: str | None, token_file: str | None, insecure_http: bool, dry_run: bool
) -> None:
    """Bring what the remote has; nothing of yours moves."""
    from gsync.sync import exchange
    from gsync.sync.runs import recorded

    with app.open() as repo, recorded(repo, "fetch", run_id=app.run_id, dry=dry_run) as run:
        name, connect = connector(app, repo, remote, token_file, insecure_http, run=run)
        with connect() as connection:
            if dry_run:
                moved = exchange.look(repo, name, connection)
            else:
                with repo.writing("gsync fetch"):
                    moved = exchange.fetch(repo, name, connection)
    verb = "would move" if dry_run else "moved"
    emit(
        app,
        moved_json(moved, dry_run=dry_run),
        lambda: [
            f"{moved.ref} is at {short(moved.new)}; nothing new."
            if moved.old == moved.new and moved.new
            else f"{moved.ref} {verb}: {_arrow(moved)}",
            cost_line(moved),
        ],
        report=True,
    )


@command()
@_to_remote
@moving_options
@click.pass_obj
def pull(
    app: App,
    remote: str | None,
    token_file: str | None,
    insecure_http: bool,
    no_databases: bool,
    accept: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Fetch, and bring main, the folder and the databases to where the remote is."""
    from gsync.sync import exchange
    from gsync.sync.runs import recorded

    with (
        app.open() as repo,
        recorded(repo, "pull", run_id=app.run_id, dry=dry_run) as run,
        repo.writing("gsync pull"),
    ):
        name, connect = connector(app, repo, remote, token_file, insecure_http, run=run)
        with connect() as connection:
            moved = exchange.pull(
                repo,
                name,
                connection,
                dry_run=dry_run,
                databases=not no_databases,
                accept=split_names(accept),
            )
        run.note_conflicts(moved.conflicts)
    emit(
        app,
        pulled_json(moved, dry_run=dry_run),
        lambda: [
            *_pulled_lines(app, moved, dry_run=dry_run),
            *unmerged_lines(moved.conflicts),
            "main stays where it is."
            if moved.conflicts
            else "Already up to date."
            if moved.old == moved.new
            else f"main {'would move' if dry_run else 'moved'}: {_arrow(moved)}",
            cost_line(moved),
        ],
        report=True,
    )
    if moved.conflicts:
        app.exit(1)


def unmerged_lines(count: int) -> list[str]:
    """Return what to do about the conflicts of a merge, if there are any."""
    if not count:
        return []
    return [
        f"{count} conflict(s) with what is here; folder and databases were not touched.",
        "See 'gsync conflicts', decide with 'gsync resolve', then 'gsync merge --continue'.",
    ]


@command()
@_to_remote
@dry_run_option
@click.pass_obj
def push(
    app: App, remote: str | None, token_file: str | None, insecure_http: bool, dry_run: bool
) -> None:
    """Send HEAD and tags to the remote; scans nothing."""
    from gsync.sync import exchange
    from gsync.sync.runs import recorded

    with (
        app.open() as repo,
        recorded(repo, "push", run_id=app.run_id, dry=dry_run) as run,
        repo.writing("gsync push"),
    ):
        name, connect = connector(
            app, repo, remote, token_file, insecure_http, create=not dry_run, run=run
        )
        with connect() as connection:
            moved = exchange.push(repo, name, connection, dry_run=dry_run)
    emit(
        app,
        moved_json(moved, dry_run=dry_run, refs=[ref for ref, _, _ in moved.refs]),
        lambda: [
            *(
                f"{name}/{ref} {'would move' if dry_run else 'moved'}:"
                f" {short(old) if old else 'nothing'} -> {short(new) if new else 'nothing'}"
                for ref, old, new in moved.refs
            ),
            *([] if moved.refs else ["Nothing to push: the remote has everything."]),
            *_peer_lines(moved),
            cost_line(moved),
        ],
        report=True,
    )


@command()
@_to_remote
@click.option("-m", "--message", default="sync", help="Message of the snapshot", show_default=True)
@moving_options
@click.pass_obj
def sync(
    app: App,
    remote: str | None,
    message: str,
    token_file: str | None,
    insecure_http: bool,
    no_databases: bool,
    accept: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Snapshot, pull, push."""
    from gsync.cli.counts import counts_json, table_lines
    from gsync.sync import exchange
    from gsync.sync.repository import snapshot
    from gsync.sync.runs import recorded

    with (
        app.open() as repo,
        recorded(repo, "sync", run_id=app.run_id, dry=dry_run) as run,
        repo.writing("gsync sync"),
    ):
        name, connect = connector(
            app, repo, remote, token_file, insecure_http, create=not dry_run, run=run
        )
        if dry_run:
            made = snapshot(
                repo,
                message,
                dry_run=True,
                databases=not no_databases,
                accept=split_names(accept),
            )
            with connect() as connection:
                pulled = exchange.pull(
                    repo,
                    name,
                    connection,
                    dry_run=True,
                    databases=not no_databases,
                    accept=split_names(accept),
                )
            document = {
                "snapshot": None,
                "changes": [change_json(c) for c in made.changes],
                "tables": [counts_json(counts) for counts in made.tables],
                "pull": pulled_json(pulled),
                "dry_run": True,
            }
            emit(
                app,
                document,
                lambda: [
                    *table_lines(made.tables),
                    *_pulled_lines(app, pulled, dry_run=True),
                    *unmerged_lines(pulled.conflicts),
                    f"Would record {len(made.changes)} change(s),"
                    f" and pull {len(pulled.changes)} change(s).",
                ],
                report=True,
            )
            if pulled.conflicts:
                app.exit(1)
            return
        made, pulled, pushed = exchange.sync(
            repo,
            name,
            connect,
            message,
            databases=not no_databases,
            accept=split_names(accept),
        )
        run.note_conflicts(pulled.conflicts)
    oid = made.oid
    emit(
        app,
        {
            "snapshot": oid.hex() if oid else None,
            "tables": [counts_json(counts) for counts in made.tables],
            "pull": pulled_json(pulled),
            "push": moved_json(pushed) if pushed else None,
            "dry_run": False,
        },
        lambda: [
            f"Snapshot {short(oid)}." if oid else "Nothing changed here.",
            *table_lines(made.tables),
            *_pulled_lines(app, pulled),
            *unmerged_lines(pulled.conflicts),
            f"Pulled {len(pulled.changes)} change(s)."
            if pulled.changes
            else "Nothing to pull."
            if not pulled.tables
            else "Pulled rows.",
            *_pushed_lines(name, pushed),
        ],
        report=True,
    )
    if pulled.conflicts:
        app.exit(1)


def _pushed_lines(name: str, pushed: Moved | None) -> list[str]:
    if pushed is None:
        return ["Nothing was pushed."]
    moved = f"{name}/main moved: {_arrow(pushed)}"
    return [
        moved if pushed.refs else "Nothing to push: the remote has everything.",
        *_peer_lines(pushed),
        cost_line(pushed),
    ]


@command()
@click.argument("url")
@click.argument("folder", required=False, metavar="[DIR]", type=click.Path(path_type=Path))
@token_file_option
@insecure_option
@ca_file_option
@dry_run_option
@click.pass_obj
def clone(
    app: App,
    url: str,
    folder: Path | None,
    token_file: str | None,
    insecure_http: bool,
    ca_file: str | None,
    dry_run: bool,
) -> None:
    """Make a new repository in DIR with all that URL has."""
    from gsync.cli.credentials import find_token
    from gsync.sync.cloning import clone_repository, name_from_url

    target = app.directory / (folder or Path(name_from_url(url)))
    if "://" not in url:
        url = os.path.abspath(app.directory / url)
    token = None
    if not isinstance(parse_url(url, insecure_http=True), PathUrl):
        token = find_token(url, token_file)
        detail(app, f"run {app.run_id}")
    if ca_file is not None:
        ca_file = str(app.directory / ca_file)
    moved, count = clone_repository(
        url,
        target,
        token=token,
        insecure_http=insecure_http,
        token_file=token_file,
        ca_file=ca_file,
        run_id=app.run_id,
        dry_run=dry_run,
        command="gsync clone",
    )
    databases = [] if dry_run else _databases_of(target)
    emit(
        app,
        moved_json(moved, directory=str(target.absolute()), paths=count, dry_run=dry_run),
        lambda: [
            f"{'Would clone' if dry_run else 'Cloned'} {short(moved.new)} into {target}:"
            f" {count} path(s)."
            if moved.new
            else f"The remote is empty; made an empty repository in {target}.",
            *(
                f"It has tables of {name}: in {target}, 'gsync db add URL --name {name}' says where"
                " yours are."
                for name in databases
            ),
            cost_line(moved),
        ],
        report=True,
    )


def _databases_of(folder: Path) -> list[str]:
    from gsync.config import load_config

    return sorted(load_config(folder, folder / ".gsync").shared.databases)
