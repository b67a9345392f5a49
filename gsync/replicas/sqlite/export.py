"""Recorded tables as a new SQLite file, whose scan gives the same roots again."""

from __future__ import annotations

import itertools
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from gsync.errors import Conflict, GsyncError, Invalid, Unavailable
from gsync.objects.encoding import Value
from gsync.oserrors import BAD_DISK, NO_ROOM, from_os_error
from gsync.replicas.sqlite.cells import Native, Unwritable, writer
from gsync.replicas.sqlite.names import DECLARED, quoted
from gsync.views.rows.keys import decode_key
from gsync.views.rows.schema import Schema
from gsync.views.rows.values import LoadContent, decode_row, load_cell

Entries = Iterator[tuple[bytes, bytes]]
"""Encoded keys and rows of one map, in order."""

# SQLite's numbers for what is the disk's fault.
_DISK_HINTS = {10: BAD_DISK, 13: NO_ROOM}


class FileExists(Conflict):
    """There is something at the path where a file was to be written."""


def write_sqlite(path: Path, tables: Iterable[tuple[Schema, Entries]], load: LoadContent) -> None:
    """Write tables into a new file at `path`, complete or not at all, in constant memory.

    The sync key becomes the primary key; unique constraints are declared, and foreign keys
    whose parent is written too.

    Raises:
        FileExists: something has that name; it is left as it is.
        Unwritable: SQLite has no form for a cell; the message says which.
        Invalid: SQLite refuses the tables, say for columns that differ in case alone.
    """
    path = Path(path)
    if os.path.lexists(path):
        raise _exists(path)
    draft = path.with_name(f"{path.name}.new-{os.getpid()}")
    try:
        draft.unlink(missing_ok=True)
        db = sqlite3.connect(draft, isolation_level=None)
        try:
            _fill(db, list(tables), load)
        finally:
            db.close()
        _sync(draft)
        os.link(draft, path)
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError as error:
        raise from_os_error(error) from error
    except sqlite3.Error as error:
        hint = _DISK_HINTS.get(error.sqlite_errorcode & 0xFF)
        kind = Invalid if hint is None else Unavailable
        raise kind(f"cannot write {path}: {error}", hint=hint, path=str(path)) from error
    finally:
        with suppress(OSError):  # the file is there, or the error that kept it away is told
            draft.unlink(missing_ok=True)


def _exists(path: Path) -> FileExists:
    return FileExists(
        f"{path} exists already", hint="name another file, or move it away", path=str(path)
    )


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _fill(
    db: sqlite3.Connection, tables: Sequence[tuple[Schema, Entries]], load: LoadContent
) -> None:
    db.execute("PRAGMA journal_mode = OFF")  # a draft that is not complete is thrown away
    db.execute("PRAGMA synchronous = OFF")
    db.execute("PRAGMA foreign_keys = OFF")
    db.execute("BEGIN")
    schemas = {schema.table: schema for schema, _ in tables}
    for schema, entries in tables:
        first = next(entries, None)
        declared = _declared(schema, decode_key(first[0]) if first else None)
        db.execute(_create_table(schema, declared, schemas))
        marks = ", ".join("?" * len(declared))
        names = ", ".join(map(quoted, declared))
        rows = itertools.chain([first] if first else [], entries)
        db.executemany(
            f"INSERT INTO {quoted(schema.table)} ({names}) VALUES ({marks})",
            _rows(schema, declared, rows, load),
        )
    db.execute("COMMIT")


def _declared(schema: Schema, first: Sequence[Value] | None) -> dict[str, str]:
    """Return the declared type of every column, key columns first."""
    found = {name: DECLARED[type_] for name, type_ in schema.types().items()}
    for at, (name, type_) in enumerate(schema.key):
        if type_ == "int":
            # Not INTEGER: alone that would be the rowid, which a new row draws for itself.
            found[name] = "BIGINT"
        elif type_ == "numeric" and first is not None:
            # In a key all have the same digits after the point; the schema does not say it.
            found[name] += f"(1000,{len(str(first[at]).partition('.')[2])})"
    return found


def _create_table(schema: Schema, declared: dict[str, str], written: dict[str, Schema]) -> str:
    nullable = {column.name for column in schema.live if column.nullable}
    lines = [
        f"{quoted(name)} {type_}{'' if name in nullable else ' NOT NULL'}"
        for name, type_ in declared.items()
    ]
    lines.append(f"PRIMARY KEY ({_list(name for name, _ in schema.key)})")
    lines += [f"UNIQUE ({_list(columns)})" for columns in schema.unique]
    for foreign in schema.foreign:
        parent = written.get(foreign.parent)
        if parent is not None and _is_key(parent, foreign.parent_columns):
            lines.append(
                f"FOREIGN KEY ({_list(foreign.columns)}) REFERENCES {quoted(foreign.parent)}"
                f" ({_list(foreign.parent_columns)}) ON DELETE {foreign.on_delete.upper()}"
            )
    return f"CREATE TABLE {quoted(schema.table)} (\n  " + ",\n  ".join(lines) + "\n)"


def _is_key(parent: Schema, columns: Iterable[str]) -> bool:
    """Return whether a foreign key may name `columns`: SQLite wants them unique."""
    uniques = [{name for name, _ in parent.key}, *map(set, parent.unique)]
    return set(columns) in uniques


def _list(names: Iterable[str]) -> str:
    return ", ".join(map(quoted, names))


def _rows(
    schema: Schema,
    declared: dict[str, str],
    entries: Iterable[tuple[bytes, bytes]],
    load: LoadContent,
) -> Iterator[list[Native]]:
    key_writers = [writer(key.type, declared[key.name]) for key in schema.key]
    columns = [(c, writer(c.type, declared[c.name])) for c in schema.live]
    for key, row in entries:
        cells = decode_row(row, schema.width)
        values = [
            _written(schema, key, name, cell, one)
            for (name, _), one, cell in zip(schema.key, key_writers, decode_key(key), strict=True)
        ]
        for column, one in columns:
            cell = load_cell(column.type, cells[column.slot], load)
            values.append(_written(schema, key, column.name, cell, one))
        yield values


def _written(
    schema: Schema, key: bytes, name: str, cell: Value, one: Callable[[Value], Native] | None
) -> Native:
    if cell is None or one is None:
        native: Native = cell
        return native
    try:
        return one(cell)
    except GsyncError as error:
        raise Unwritable(
            f"column {name} of table {schema.table}, key {tuple(decode_key(key))!r}:"
            f" {error.message}",
            hint=error.hint,
            table=schema.table,
            column=name,
        ) from error
