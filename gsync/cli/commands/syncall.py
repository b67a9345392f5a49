"""sync-all, and db sync."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from gsync.cli.app import (
    App,
    accept_option,
    command,
    dry_run_option,
    insecure_option,
    split_names,
    token_file_option,
)
from gsync.cli.output import DIFFERENT, DONE, emit, exit_code, report_error, table
from gsync.errors import GsyncError, Invalid, NotFound
from gsync.oserrors import from_os_error

if TYPE_CHECKING:
    from gsync.config import Tables
    from gsync.replicas.tables.base import Database
    from gsync.sync.pairs import PairResult
    from gsync.sync.repository import Repository
    from gsync.sync.results import SyncDirection, SyncOperationResult

_COUNTS = ("created", "updated", "deleted", "unchanged", "skipped")


# --- sync-all ------------------------------------------------------------------------


@command("sync-all")
@click.option(
    "--direction",
    type=click.Choice(["push", "pull"]),
    default="push",
    show_default=True,
    help="Which way",
)
@click.option("--remote", metavar="NAME", help="Where the files go to, or come from")
@accept_option
@token_file_option
@insecure_option
@dry_run_option
@click.pass_obj
def sync_all(
    app: App,
    direction: str,
    remote: str | None,
    accept: tuple[str, ...],
    token_file: str | None,
    insecure_http: bool,
    dry_run: bool,
) -> None:
    """Bring the files to a remote, and every database to its peer, or the reverse.

    Each step is done whole or not at all, and one that fails keeps no other from being done.
    """
    from gsync.cli.commands.exchange import connector
    from gsync.config import load_config
    from gsync.sync.results import SyncDirection
    from gsync.sync.runs import recorded
    from gsync.sync.service import attempt, sync_folder

    way = SyncDirection.PUSH if direction == "push" else SyncDirection.PULL
    with app.open() as repo, repo.writing("gsync sync-all"):

        def files() -> SyncOperationResult:
            create = way is SyncDirection.PUSH and not dry_run
            with recorded(repo, "sync-all", run_id=app.run_id, dry=dry_run) as run:
                name, connect = connector(
                    app, repo, remote, token_file, insecure_http, create, run=run
                )
                return sync_folder(repo, name, connect, way, dry_run=dry_run)

        results = [attempt(f"files_{direction}", files)]
        repo.config = load_config(repo.root, repo.workdir)  # a pull may have brought tables
        results += _databases(repo, way, split_names(accept), dry_run=dry_run)
    emit(
        app,
        {"results": [result.to_json() for result in results]},
        lambda: _lines(results),
        report=True,
    )
    app.exit(_report(app, results))


def _databases(
    repo: Repository, way: SyncDirection, accept: Sequence[str], *, dry_run: bool
) -> Iterator[SyncOperationResult]:
    """Yield a result for each configured database; one that says why, if there is none."""
    from gsync.sync.opendb import open_database
    from gsync.sync.results import MissingConfig, SyncDirection, SyncOperationResult
    from gsync.sync.runs import recorded
    from gsync.sync.service import attempt, sync_databases

    def step(name: str) -> SyncOperationResult:
        if repo.config.local.databases[name].peer is None:
            raise MissingConfig(
                "peer",
                f"the database {name!r} is not known to be anywhere else",
                hint=f"set 'peer' of [db.{name}] in .gsync/config.toml",
            )
        here, there = open_database(repo, name), open_database(repo, name, peer=True)
        source, target = (here, there) if way is SyncDirection.PUSH else (there, here)
        tables = repo.config.shared.databases[name]
        with recorded(repo, "sync-all", dry=dry_run) as run:
            run.remote = f"{name}:peer"
            return sync_databases(repo, source, target, tables, way, accept=accept, dry_run=dry_run)

    for name in repo.config.databases:
        result = attempt("database", lambda name=name: step(name))  # type: ignore[misc]
        yield result.with_details({"database": name} | (result.details or {}))
    if not repo.config.databases:
        yield SyncOperationResult.failed(
            "database",
            MissingConfig(
                "db", "no database is configured here", hint="'gsync db add URL' does that"
            ),
        )


def _lines(results: Sequence[SyncOperationResult]) -> Iterator[str]:
    rows = []
    for result in results:
        state = "would be done" if result.dry_run else result.state.kind.replace("_", " ")
        details = result.details or {}
        what = details.get("database", "files" if "files" in result.operation else "")
        if "tables" in details:
            rows += [
                (result.operation, f"{what}/{name}", state, *_numbers(counts))
                for name, counts in details["tables"].items()
            ]
        else:
            rows.append((result.operation, what, state, *_numbers(details)))
    yield from table(rows, ("step", "what", "state", *_COUNTS))


def _numbers(counts: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(counts.get(name, "-")) for name in _COUNTS)


def _report(app: App, results: Sequence[SyncOperationResult]) -> int:
    """Print why steps failed and return the exit code: that of the first failure's kind."""
    code = DONE
    for result in results:
        if result.success:
            continue
        error = result.cause if isinstance(result.cause, GsyncError) else None
        if isinstance(result.cause, OSError):
            error = from_os_error(result.cause)
        assert error is not None  # nothing else ends a step
        if not app.json:
            report_error(error, json=False)
        partial = result.state.kind == "partial"
        code = code or (DIFFERENT if partial else exit_code(error))
    return code


# --- db sync -------------------------------------------------------------------------


@command("sync")
@click.argument("source")
@click.argument("target")
@click.option("--tables", metavar="TABLE,...", multiple=True, help="Only these tables")
@click.option("--preset", metavar="PRESET", help="Take the tables of a known schema: systemprompt")
@click.option(
    "--take-source", is_flag=True, help="Where both sides changed a row, take that of SOURCE"
)
@accept_option
@dry_run_option
@click.pass_obj
def db_sync(
    app: App,
    source: str,
    target: str,
    tables: tuple[str, ...],
    preset: str | None,
    take_source: bool,
    accept: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Bring what SOURCE changed since the last sync of the two to TARGET.

    Each is a URL without a password, a configured database, or NAME:peer. Rows that only TARGET
    has, or that it alone changed, stay; a row that both changed stops it before anything is
    written.
    """
    from gsync.sync.pairs import sync_pair
    from gsync.sync.runs import recorded
    from gsync.sync.service import pair_json

    with (
        app.open() as repo,
        recorded(repo, "db sync", run_id=app.run_id, dry=dry_run) as run,
        repo.writing("gsync db sync"),
    ):
        run.remote = next((end for end in (target, source) if end.endswith(":peer")), target)
        ends = find_end(app, repo, source), find_end(app, repo, target)
        if ends[0].shown == ends[1].shown:
            raise Invalid(
                f"SOURCE and TARGET are one database: {ends[0].shown}",
                hint="name two, as in 'gsync db sync main main:peer'",
            )
        done = sync_pair(
            repo,
            *ends,
            _tables(repo, (source, target), ends, preset, split_names(tables)),
            accept=split_names(accept),
            force=take_source,
            dry_run=dry_run,
        )
    emit(
        app,
        {**pair_json(done), "dry_run": dry_run},
        lambda: _pair_lines(done, dry_run=dry_run),
        report=True,
    )


def find_end(app: App, repo: Repository | None, text: str) -> Database:
    """Return the database that a URL, NAME or NAME:peer says; a name needs a repository."""
    from gsync.sync.opendb import open_database, open_url
    from gsync.urls import parse_database_url

    if repo is None or "/" in text:
        return open_url(parse_database_url(text), None, app.directory)
    name, colon, peer = text.partition(":")
    if colon and peer != "peer":
        raise Invalid(f"not a database: {text!r}", hint="write a URL, NAME, or NAME:peer")
    return open_database(repo, name, peer=bool(colon))


def _tables(
    repo: Repository,
    ends: Sequence[str],
    live: Sequence[Database],
    preset: str | None,
    only: Sequence[str],
) -> Tables:
    from gsync.sync.service import preset_tables

    databases = {name: found for name, found in repo.config.shared.databases.items() if found}
    named = [name for end in ends if (name := end.partition(":")[0]) in databases]
    if preset is not None:
        found = preset_tables(preset, live)
    elif named:
        found = databases[named[0]]
    elif len(databases) == 1:
        (found,) = databases.values()
    else:
        raise Invalid(
            "which tables? neither end is a database of gsync.toml",
            hint="name one by its name there, or take --preset systemprompt",
        )
    for name in only:
        if name not in found:
            raise NotFound(f"no table {name} is configured", hint=f"known: {', '.join(found)}")
    return {name: config for name, config in found.items() if not only or name in only}


def _pair_lines(done: PairResult, *, dry_run: bool) -> Iterator[str]:
    header = ("table", "inserted", "updated", "deleted", "unchanged", "only there", "kept there")
    yield from table(
        [
            (
                c.table,
                *map(str, (c.inserted, c.updated, c.deleted)),
                *map(str, (c.unchanged, c.only_in_target, c.kept)),
            )
            for c in done.tables
        ],
        header,
    )
    verb = "Would write" if dry_run else "Wrote"
    yield f"{verb} {done.written} row(s) into {done.target}."
    if done.new != done.old and done.new is not None:
        yield f"Recorded as {done.pair}/main: 'gsync show {done.pair}/main'."
