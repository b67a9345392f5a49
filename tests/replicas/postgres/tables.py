"""Plans for tables of a test, and what is read and written by them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gsync.changes import Change
from gsync.objects.encoding import Reference
from gsync.replicas.postgres import PostgresDatabase
from gsync.replicas.postgres.write import PostgresWriting
from gsync.replicas.tables.base import Session, TablePlan
from gsync.views.rows.keys import decode_key, encode_key
from gsync.views.rows.schema import KeyColumn, NewColumn, View, make_schema
from gsync.views.rows.values import decode_row, encode_row, name_content

Rows = dict[tuple[Any, ...], dict[str, Any]]


class Contents:
    """Spilled contents, kept in memory."""

    def __init__(self) -> None:
        self.kept: dict[bytes, bytes] = {}

    def spill(self, content: bytes) -> Reference:
        reference = name_content(content)
        self.kept[reference.oid] = content
        return reference

    def load(self, reference: Reference) -> bytes:
        return self.kept[reference.oid]


def plan_of(
    session: Session, name: str, key: Iterable[str], local: Iterable[str] = ()
) -> TablePlan:
    """Return a plan that records all of a table but `local`."""
    (live,) = [table for table in session.tables() if table.name == name]
    types = {column.name: column.type for column in live.columns}
    key, local = tuple(key), sorted(local)
    columns = [
        NewColumn(c.name, c.type or "", c.nullable)
        for c in live.columns
        if c.name not in key and c.name not in local
    ]
    schema = make_schema(name, [KeyColumn(k, types[k] or "") for k in key], columns)
    return TablePlan(schema, View(tuple((c, "local") for c in local)), live)


def rows_of(session: Session, plan: TablePlan, contents: Contents | None = None) -> Rows:
    """Return the rows by key, after a check that keys come sorted."""
    encoded = list(session.rows(plan, (contents or Contents()).spill))
    assert [key for key, _ in encoded] == sorted(key for key, _ in encoded)
    return {decode_key(key): _named(plan, row) for key, row in encoded}


def read(url: str, name: str, key: Iterable[str], local: Iterable[str] = ()) -> Rows:
    """Return the rows of a table as others see it."""
    with PostgresDatabase(url).reading() as session:
        return rows_of(session, plan_of(session, name, key, local))


def change(
    plan: TablePlan,
    key: tuple[Any, ...],
    row: Mapping[str, Any] | None,
    contents: Contents | None = None,
) -> Change:
    """Return the change that puts `row` at `key`, or deletes it."""
    encoded_key = encode_key([type_ for _, type_ in plan.schema.key], key)
    if row is None:
        return Change(encoded_key, b"", None)
    cells = [None] * plan.schema.width
    for column in plan.schema.live:
        cells[column.slot] = row.get(column.name)
    return Change(encoded_key, None, encode_row(cells, (contents or Contents()).spill))


def apply(
    writing: PostgresWriting,
    patches: list[tuple[TablePlan, dict[tuple[Any, ...], Mapping[str, Any] | None]]],
) -> list[tuple[int, int, int]]:
    """Write patches as an apply does, parents first; return inserted, updated, deleted of each."""
    contents = Contents()
    for plan, patch in patches:
        changes = [change(plan, key, row, contents) for key, row in patch.items()]
        writing.stage(plan, sorted(changes), contents.load)
    for plan, _ in patches:
        assert writing.clashes(plan, 10) == []
    for plan, _ in patches:
        writing.release(plan)
    written = [writing.upsert(plan) for plan, _ in patches]
    deleted = [writing.delete(plan) for plan, _ in reversed(patches)][::-1]
    for plan, patch in patches:
        found = rows_of(writing, plan)
        for key, row in patch.items():
            assert (key in found) == (row is not None)
    return [(*counts, gone) for counts, gone in zip(written, deleted, strict=True)]


def _named(plan: TablePlan, row: bytes) -> dict[str, Any]:
    cells = decode_row(row, plan.schema.width)
    return {column.name: cells[column.slot] for column in plan.schema.live}
