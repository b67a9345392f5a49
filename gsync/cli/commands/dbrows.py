"""db show, log, blame: recorded rows, and what became of one through time; all offline."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from gsync.cli.app import App, command
from gsync.cli.changes import manifest_json
from gsync.cli.output import note, print_json, short, style, when, write_lines
from gsync.cli.output import table as table_of
from gsync.errors import Invalid

if TYPE_CHECKING:
    from gsync.objects.encoding import Value
    from gsync.objects.model import Collection, Manifest
    from gsync.objects.oid import ObjectId
    from gsync.sync.repository import Repository
    from gsync.views.rows.schema import Schema

_SHOW_ROWS = 100
# Rows that the columns of plain text are measured by; longer values after them stick out.
_MEASURED_ROWS = 1000


# --- show ----------------------------------------------------------------------------


@command("show")
@click.argument("target", metavar="REV:TABLE")
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(min=0),
    default=_SHOW_ROWS,
    show_default=True,
    help="Show at most so many rows; 0 shows all",
)
@click.option(
    "--where",
    metavar="COLUMN=VALUE",
    multiple=True,
    help="Only rows of which this is true; also != < <= > >=; several times: all of them",
)
@click.pass_obj
def show(app: App, target: str, limit: int, where: tuple[str, ...]) -> None:
    """Show the rows of a recorded table; offline.

    NULL stands bare; an empty text, and one that could be taken for something else, in quotes.
    """
    from gsync.sync.recorded import find_table, get_schema
    from gsync.transfer.history import get_manifest

    rev, colon, name = target.rpartition(":")
    if not colon:
        raise Invalid(
            f"not REV:TABLE: {target!r}",
            hint="write it as in 'gsync db show HEAD:users'; 'gsync db list' names the tables",
        )
    with app.open() as repo:
        oid = app.resolve(repo, rev or "HEAD")
        collection = find_table(get_manifest(repo.store, oid), name)
        schema = get_schema(repo.store, collection)
        rows = _select(repo, collection, schema, where)
        if app.json:
            found = _table_json(repo, collection, schema, islice(rows, limit or None))
            print_json({"manifest": oid.hex()} | found)
            return
        _print_rows(app, repo, schema, islice(rows, limit or None))
        more = sum(1 for _ in rows) if where else collection.count - limit
    if limit and more > 0:
        note(app, f"… and {more:,} more row(s); --limit 0 shows all.")


def _select(
    repo: Repository, collection: Collection, schema: Schema, where: Sequence[str]
) -> Iterator[dict[str, Value]]:
    """Yield the rows of which all conditions are true, key columns first."""
    from gsync.sync.recorded import content_loader
    from gsync.sync.tablefiles import list_rows
    from gsync.views.rows.order import parse_conditions

    meets = parse_conditions(where, schema.types(), content_loader(repo.store))
    names = [name for name, _ in schema.key]
    for key, cells in list_rows(repo.store, collection):
        row = dict(zip(names, key, strict=True)) | cells
        if meets(row):
            yield row


def _table_json(
    repo: Repository, collection: Collection, schema: Schema, found: Iterable[dict[str, Value]]
) -> dict[str, Any]:
    from gsync.cli.rows import value_json
    from gsync.sync.recorded import content_loader

    load = content_loader(repo.store)
    types = schema.types()
    rows = [
        {name: value_json(value, types[name], load) for name, value in row.items()} for row in found
    ]
    return {
        "collection": collection.name,
        "key": [key.name for key in schema.key],
        "columns": types,
        "count": collection.count,
        "rows": rows,
    }


def _print_rows(
    app: App, repo: Repository, schema: Schema, found: Iterable[dict[str, Value]]
) -> None:
    from gsync.cli.rows import value_text
    from gsync.sync.recorded import content_loader

    load = content_loader(repo.store)
    types = list(schema.types().items())

    def texts() -> Iterator[list[str]]:
        for row in found:
            yield [value_text(row[name], type_, load, quote=False) for name, type_ in types]

    header = [name for name, _ in types]
    rows = texts()
    while batch := list(islice(rows, _MEASURED_ROWS)):
        _print_batch(app, header, batch, keys=len(schema.key))
        header = []
    if header:
        _print_batch(app, header, [], keys=len(schema.key))


def _print_batch(
    app: App, header: Sequence[str], rows: Sequence[Sequence[str]], *, keys: int
) -> None:
    if not sys.stdout.isatty():
        write_lines(table_of(rows, header))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=SIMPLE_HEAD, show_header=bool(header), pad_edge=False)
    for at in range(len(rows[0]) if rows else len(header)):
        name = Text(header[at]) if header else ""
        shown.add_column(name, style="bold" if at < keys else "", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(c, style="dim italic" if c == "NULL" else "") for c in row))
    Console(no_color=not app.color, highlight=False).print(shown)


# --- log, blame ----------------------------------------------------------------------


@command("log")
@click.argument("table")
@click.argument("key")
@click.argument("rev", default="HEAD")
@click.option("-n", "--limit", type=click.IntRange(min=1), help="At most so many")
@click.pass_obj
def log(app: App, table: str, key: str, rev: str, limit: int | None) -> None:
    """Show which manifests from REV (default HEAD) back changed one row, newest first; offline.

    KEY is the value of the key column; of several, with commas between or as a JSON array.
    """
    from gsync.cli.rows import row_json, row_lines
    from gsync.sync.recorded import content_loader
    from gsync.sync.rowhistory import list_row_changes

    with app.open() as repo:
        oid = app.resolve(repo, rev)
        name, row = _find_row(repo, oid, table, key)
        load = content_loader(repo.store)
        found = islice(list_row_changes(repo.store, oid, name, row), limit)
        if app.json:
            documents = [
                manifest_json(made, manifest) | {"row": row_json(change, load)}
                for made, manifest, change in found
            ]
            print_json({"collection": name, "changes": documents})
            return
        empty = True
        for made, manifest, change in found:
            empty = False
            click.echo(f"{_origin(app, made, manifest)}  {manifest.message.partition(chr(10))[0]}")
            write_lines(f"  {line}" for line in row_lines(app, change, load))
        if empty:
            note(app, f"No manifest from {short(oid)} back has a row {key} of {name}.")


@command("blame")
@click.argument("table")
@click.argument("key")
@click.argument("rev", default="HEAD")
@click.pass_obj
def blame(app: App, table: str, key: str, rev: str) -> None:
    """Show for each cell of one row which manifest gave it the value it has at REV; offline."""
    from gsync.cli.rows import value_json, value_text
    from gsync.sync.recorded import content_loader
    from gsync.sync.rowhistory import blame_row

    with app.open() as repo:
        oid = app.resolve(repo, rev)
        name, row = _find_row(repo, oid, table, key)
        load = content_loader(repo.store)
        found = blame_row(repo.store, oid, name, row)
        if app.json:
            cells = {
                cell.column: {
                    "value": value_json(cell.value, cell.type, load),
                    "oldest": cell.is_oldest,
                }
                | manifest_json(cell.oid, cell.manifest)
                for cell in found
            }
            print_json({"collection": name, "cells": cells})
            return
        rows = [
            [
                cell.column,
                value_text(cell.value, cell.type, load),
                _origin(app, cell.oid, cell.manifest) + (" or before" if cell.is_oldest else ""),
            ]
            for cell in found
        ]
        write_lines(table_of(rows))


def _find_row(repo: Repository, oid: ObjectId, table: str, key: str) -> tuple[str, bytes]:
    from gsync.sync.recorded import find_table, get_schema
    from gsync.transfer.history import get_manifest
    from gsync.views.rows.show import parse_key

    collection = find_table(get_manifest(repo.store, oid), table)
    return collection.name, parse_key(get_schema(repo.store, collection), key)


def _origin(app: App, oid: ObjectId, manifest: Manifest) -> str:
    return f"{style(app, short(oid), 'yellow')} {when(manifest.time_us)} {manifest.author}"
