"""One row through the manifests: what changed it when, and where each cell comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gsync.changes import Change
from gsync.errors import NotFound
from gsync.maps.omap import EMPTY_MAP, find_value
from gsync.objects.encoding import Value
from gsync.objects.model import Collection, Manifest
from gsync.objects.oid import ObjectId
from gsync.store.base import ObjectReader
from gsync.sync.comparetables import RowChange, describe_rows, read_row
from gsync.sync.recorded import get_schema
from gsync.transfer.history import get_manifest, list_ancestors
from gsync.views.rows.show import show_row
from gsync.views.rows.values import same_cell


@dataclass(frozen=True, slots=True)
class CellOrigin:
    """Which manifest gave a cell the value that it has.

    Attributes:
        column: Its name.
        type: Its logical type.
        value: What it holds; a Reference if it is spilled.
        oid: The manifest.
        manifest: The same, decoded.
        is_oldest: Whether parents of that manifest were forgotten, so that the value may be
            older than it.
    """

    column: str
    type: str
    value: Value
    oid: ObjectId
    manifest: Manifest
    is_oldest: bool


def list_row_changes(
    store: ObjectReader, start: ObjectId, collection: str, key: bytes
) -> Iterator[tuple[ObjectId, Manifest, RowChange]]:
    """Yield the manifests from `start` back in which a row is unlike in every parent, newest first.

    A merge that took the row from one side is none of them. Costs a look-up for each manifest
    in which the table is not as in its parents.
    """
    rows = _Rows(store, collection, key)
    for oid in list_ancestors(store, [start]):
        manifest = get_manifest(store, oid)
        new = rows.find(manifest)
        parents = [get_manifest(store, p) for p in _present(store, manifest)]
        olds = [rows.find(parent) for parent in parents]
        if new in olds or (new is None and not parents):
            continue
        old = olds[0] if olds else None
        before = parents[0].find(collection) if parents else None
        after = manifest.find(collection)
        if after is None:  # the table left, with all its rows: nothing was deleted
            continue
        schema = get_schema(store, after)
        before_schema = get_schema(store, before) if before else schema
        (change,) = describe_rows([Change(key, old, new)], before_schema, schema, collection)
        if change.status != "modified" or change.cells:
            yield oid, manifest, change


def blame_row(
    store: ObjectReader, start: ObjectId, collection: str, key: bytes
) -> list[CellOrigin]:
    """Return for each cell of a row the last manifest, from `start` back, that gave it its value.

    Where several parents have the value, the first of them is followed.

    Raises:
        NotFound: the row is not there at `start`.
    """
    rows = _Rows(store, collection, key)
    row = rows.cells(get_manifest(store, start))
    if row is None:
        table = collection.rpartition("/")[2]
        raise NotFound(
            f"no row {show_row(table, key)} in {start.hex()[:12]}",
            hint=f"'gsync db log {table} KEY' shows when it was deleted",
        )
    types = rows.types(get_manifest(store, start))
    found: dict[str, CellOrigin] = {}
    waiting: dict[ObjectId, set[str]] = {start: set(row)}
    while waiting:
        oid, names = waiting.popitem()
        manifest = get_manifest(store, oid)
        left = set(names)
        present = _present(store, manifest)
        for parent in present:
            old = rows.cells(get_manifest(store, parent)) or {}
            same = {name for name in left if name in old and same_cell(old[name], row[name])}
            if same:
                waiting.setdefault(parent, set()).update(same)
                left -= same
        is_oldest = len(present) < len(manifest.parents)
        for name in left:
            found[name] = CellOrigin(name, types[name], row[name], oid, manifest, is_oldest)
    return [found[name] for name in types if name in found]


def _present(store: ObjectReader, manifest: Manifest) -> list[ObjectId]:
    absent = store.missing(manifest.parents)
    return [parent for parent in manifest.parents if parent not in absent]


class _Rows:
    """One row in many manifests; a root, and a schema, is looked at once."""

    def __init__(self, store: ObjectReader, collection: str, key: bytes) -> None:
        self._store = store
        self._name = collection
        self._key = key
        self._values: dict[ObjectId, bytes | None] = {EMPTY_MAP: None}
        self._cells: dict[tuple[ObjectId | None, bytes], Mapping[str, Value]] = {}

    def find(self, manifest: Manifest) -> bytes | None:
        """Return the row as it is stored, or None."""
        table = manifest.find(self._name)
        if table is None:
            return None
        if table.root not in self._values:
            self._values[table.root] = find_value(self._store, table.root, self._key)
        return self._values[table.root]

    def cells(self, manifest: Manifest) -> Mapping[str, Value] | None:
        """Return the cells by column, or None where there is no such row."""
        row = self.find(manifest)
        if row is None:
            return None
        table = self._table(manifest)
        name = table.schema, row
        if name not in self._cells:
            self._cells[name] = read_row(get_schema(self._store, table), row)
        return self._cells[name]

    def types(self, manifest: Manifest) -> dict[str, str]:
        return get_schema(self._store, self._table(manifest)).types()

    def _table(self, manifest: Manifest) -> Collection:
        table = manifest.find(self._name)
        assert table is not None
        return table
