"""db export and db import: users and contexts as the older system's document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from gsync.cli.app import App, accept_option, command, dry_run_option, split_names
from gsync.cli.output import emit
from gsync.errors import Conflict
from gsync.frozen import as_dict

if TYPE_CHECKING:
    from gsync.replicas.tables.base import Database


@command("export")
@click.argument("file", metavar="FILE.json")
@click.argument("database", default="main")
@click.pass_obj
def db_export(app: App, file: str, database: str) -> None:
    """Write the users and contexts of DATABASE as one document of the older system.

    DATABASE is a URL without a password, a configured database, or NAME:peer. A file that is
    there is not written over.
    """
    import json

    from gsync.sync.exports import export_database
    from gsync.sync.tablefiles import new_file

    path = app.directory / file
    found = export_database(_open(app, database))
    with new_file(path) as stream:
        json.dump(found.to_json(), stream, indent=2, ensure_ascii=False)
        stream.write("\n")
    counts = {"users": len(found.users), "contexts": len(found.contexts)}
    emit(
        app,
        {"file": str(path), **counts},
        lambda: iter([f"{file}: {counts['users']:,} users, {counts['contexts']:,} contexts."]),
        report=True,
    )


@command("import")
@click.argument("file", metavar="FILE.json")
@click.argument("database", default="main")
@click.option("--take-file", is_flag=True, help="Where the database has another row, take FILE's")
@accept_option
@dry_run_option
@click.pass_obj
def db_import(
    app: App, file: str, database: str, take_file: bool, accept: tuple[str, ...], dry_run: bool
) -> None:
    """Bring the users and contexts of such a document to DATABASE; nothing is deleted there.

    A row that is another one there stops it before anything is written.
    """
    from gsync.sync.exports import import_database, read_export
    from gsync.sync.pairs import BothChanged
    from gsync.sync.repository import local_user

    export = read_export(app.directory / file)
    target = _open(app, database)
    try:
        done = import_database(
            export,
            target,
            local_user(),
            accept=split_names(accept),
            force=take_file,
            dry_run=dry_run,
        )
    except Conflict as error:
        if isinstance(error, BothChanged):
            error.hint = "take those of the file with --take-file; nothing was written"
        raise

    def lines() -> Iterator[str]:
        verb = "Would write" if dry_run else "Wrote"
        yield (
            f"{verb} {done.created:,} new and {done.updated:,} changed row(s) into {target.shown};"
            f" {done.skipped:,} were there."
        )

    emit(app, {**as_dict(done), "database": target.shown, "dry_run": dry_run}, lines, report=True)


def _open(app: App, text: str) -> Database:
    from gsync.cli.commands.syncall import find_end

    if "/" in text:
        return find_end(app, None, text)
    with app.open() as repo:
        return find_end(app, repo, text)
