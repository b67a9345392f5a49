"""Tables of two manifests, row by row and cell by cell; offline."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from gsync.changes import Change
from gsync.frozen import frozen
from gsync.maps.diff import diff_maps
from gsync.objects.encoding import Value
from gsync.objects.model import Collection, Manifest
from gsync.objects.oid import Kind
from gsync.store.base import ObjectReader
from gsync.views.rows.keys import decode_key
from gsync.views.rows.schema import Schema, decode_schema
from gsync.views.rows.values import decode_row, same_cell

PREFIX = "db/"


@frozen
class TableCounts:
    """What changed in one table, in rows.

    Attributes:
        collection: Its collection's name.
        rows: How many rows it has now.
        added, modified, deleted: Rows, against what was recorded before.
        notes: What else is new: a changed schema, another view.
    """

    collection: str
    rows: int
    added: int = 0
    modified: int = 0
    deleted: int = 0
    notes: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether anything is new."""
        return bool(self.added or self.modified or self.deleted or self.notes)


class CellChange(NamedTuple):
    """One cell that differs; a spilled cell is its Reference, None is NULL or absent."""

    column: str
    type: str
    old: Value
    new: Value


@frozen
class RowChange:
    """One row that differs.

    Attributes:
        collection: The table's collection.
        status: `added`, `modified` or `deleted`.
        key: The cells of its sync key.
        cells: What differs in a modified row; every cell that is not NULL of an added
            or deleted one.
        schema: The schema of the newer side, or of the older for what is deleted.
    """

    collection: str
    status: str
    key: tuple[Value, ...]
    cells: tuple[CellChange, ...]
    schema: Schema


def split_collection(name: str) -> tuple[str, str] | None:
    """Return database and table of a collection, or None if it is no table."""
    parts = name.split("/")
    return (parts[1], parts[2]) if len(parts) == 3 and parts[0] == "db" else None


def table_names(old: Manifest | None, new: Manifest | None) -> list[str]:
    """Return the names of all collections that are tables in one or both, sorted."""
    names = {c.name for m in (old, new) if m for c in m.collections if split_collection(c.name)}
    return sorted(names, key=str.encode)


def count_tables(
    store: ObjectReader, old: Manifest | None, new: Manifest | None
) -> Iterator[TableCounts]:
    """Yield what changed in each table that differs, counted; reads only what differs."""
    for name in table_names(old, new):
        before, after = _find(old, name), _find(new, name)
        if before == after:
            continue
        notes = []
        if before and after and before.schema != after.schema:
            notes.append("the schema changed")
        if before and after and before.view != after.view:
            notes.append("other columns are left out")
        if after is None:
            notes.append("no longer recorded")
        if before is None and after is not None:
            yield TableCounts(name, after.count, after.count, 0, 0)
            continue
        added = modified = deleted = 0
        if after is not None:
            for change in _changes(store, before, after):
                added += change.old is None
                deleted += change.new is None
                modified += change.old is not None and change.new is not None
        rows = after.count if after else 0
        yield TableCounts(name, rows, added, modified, deleted, tuple(notes))


def diff_tables(
    store: ObjectReader,
    old: Manifest | None,
    new: Manifest | None,
    names: Sequence[str] | None = None,
) -> Iterator[RowChange]:
    """Yield the rows in which tables differ, table by table, in key order.

    Costs what differs, not what there is. A table that is no longer recorded is skipped: its
    rows were not deleted.

    Args:
        names: Only these collections; all if None.
    """
    for name in table_names(old, new):
        before, after = _find(old, name), _find(new, name)
        if after is None or (names is not None and name not in names):
            continue
        if before is not None and before.root == after.root:
            continue
        changes = _changes(store, before, after)
        yield from describe_rows(
            changes, _schema(store, before or after), _schema(store, after), name
        )


def describe_rows(
    changes: Iterable[Change], old: Schema, new: Schema, collection: str
) -> Iterator[RowChange]:
    """Yield changes of a table's map as rows, read under the schema of their own side."""
    for change in changes:
        key = decode_key(change.key)
        before = read_row(old, change.old) if change.old is not None else {}
        after = read_row(new, change.new) if change.new is not None else {}
        status = "added" if change.old is None else "deleted" if change.new is None else "modified"
        types = old.types() if status == "deleted" else new.types()
        names = [name for name in types if name in before or name in after]
        if status == "modified":
            types = old.types() | types
            names = [name for name in types if name in before or name in after]
        cells = tuple(
            CellChange(name, types[name], before.get(name), after.get(name))
            for name in names
            if not same_cell(before.get(name), after.get(name))
        )
        yield RowChange(collection, status, key, cells, old if status == "deleted" else new)


def read_row(schema: Schema, row: bytes) -> dict[str, Value]:
    """Return the cells of a row by column, without the key; spilled ones as references."""
    cells = decode_row(row, schema.width)
    return {column.name: cells[column.slot] for column in schema.live}


def _find(manifest: Manifest | None, name: str) -> Collection | None:
    return manifest.find(name) if manifest else None


def _changes(store: ObjectReader, old: Collection | None, new: Collection) -> Iterator[Change]:
    return diff_maps(store, old.root if old else None, new.root)


def _schema(store: ObjectReader, collection: Collection) -> Schema:
    assert collection.schema is not None  # a table has one: page 11, section 1
    return decode_schema(store.get(Kind.SCHEMA, collection.schema))
