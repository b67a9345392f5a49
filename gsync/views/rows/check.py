"""Whether a row that came from elsewhere is one of its table's schema."""

from __future__ import annotations

from collections.abc import Callable

from gsync.errors import Invalid
from gsync.objects.encoding import Reference, Value
from gsync.views.rows.keys import decode_key, key_encoder
from gsync.views.rows.schema import Schema
from gsync.views.rows.scope import Scope, show_condition
from gsync.views.rows.show import show_cell, show_row
from gsync.views.rows.texts import SPILLABLE, check_cell
from gsync.views.rows.values import decode_row

# What needs no look at the value: any of the class is a cell of the type. That a jsonb is
# canonical is left to the database, which prints it so, and to the reading after writing.
_PLAIN: dict[str, type] = {"text": str, "bytes": bytes, "jsonb": str, "float": float, "bool": bool}

CheckRow = Callable[[bytes, bytes | None], None]


class WrongRow(Invalid):
    """A recorded key or row is not one of the schema that it is recorded under."""


def row_checker(schema: Schema, scope: Scope | None = None) -> CheckRow:
    """Return what raises WrongRow unless a key and its row (None: no row) are of `schema`.

    About 5 µs for ten columns.

    Args:
        scope: Rows also have to meet its conditions; what it follows is in another table, and
            not looked at.
    """
    places = {name: at for at, (name, _) in enumerate(schema.key)}
    slots = {column.name: column.slot for column in schema.live}
    conditions = [
        (condition, places.get(condition.column), slots.get(condition.column))
        for condition in (scope.conditions if scope else ())
    ]
    types = [type_ for _, type_ in schema.key]
    encode = key_encoder(types)
    width = schema.width
    columns = [(c.slot, c.name, c.type, _PLAIN.get(c.type), c.nullable) for c in schema.live]
    retired = [c.slot for c in schema.columns if c.retired]

    def check(key: bytes, row: bytes | None) -> None:
        try:
            cells = decode_key(key)
            if len(cells) != len(types) or encode(cells) != key:
                raise WrongRow(f"the key has other columns than ({', '.join(types)})")
            if row is not None:
                found = decode_row(row, width)
                check_cells(found)
                if conditions:
                    check_scope(cells, found)
        except Invalid as error:
            raise WrongRow(
                f"a recorded row is not one of table {schema.table}:"
                f" {_shown(schema.table, key)}: {error.message}",
                hint="whoever made this manifest wrote it wrongly: nothing of it was applied",
                table=schema.table,
            ) from error

    def check_cells(row: list[Value]) -> None:
        for slot, name, type_, plain, nullable in columns:
            cell = row[slot]
            kind = type(cell)
            if kind is plain:
                continue
            if cell is None:
                if not nullable:
                    raise WrongRow(f"{name} is NULL, where the schema has NOT NULL")
            elif not (kind is Reference and type_ in SPILLABLE):
                check_cell(type_, cell)
        for slot in retired:
            if row[slot] is not None:
                raise WrongRow(f"a cell at the retired slot {slot}")

    def check_scope(key: tuple[Value, ...], row: list[Value]) -> None:
        for condition, place, slot in conditions:
            cell = key[place] if place is not None else None if slot is None else row[slot]
            # 1 and True are equal to Python.
            if not any(type(cell) is type(one) and cell == one for one in condition.cells):
                raise WrongRow(
                    f"{condition.column} is {show_cell(cell, condition.type)}, and the table is"
                    f" recorded where {show_condition(condition)}"
                )

    return check


def _shown(table: str, key: bytes) -> str:
    try:
        return show_row(table, key)
    except Invalid:
        return key[:40].hex()
