"""Which of two cells is the greater one, and which rows a condition lets through."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from operator import eq, ge, gt, le, lt, ne
from typing import Any

from gsync.errors import Invalid
from gsync.objects.encoding import Reference, Value
from gsync.views.rows.texts import parse_cell
from gsync.views.rows.times import parse_timestamp, parse_timestamptz
from gsync.views.rows.values import LoadContent, load_cell

ORDERED = frozenset({"bool", "int", "numeric", "float", "text", "date", "timestamp", "timestamptz"})
"""Types whose cells have an order here; of the others only equality is known."""

_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": eq, "!=": ne, "<": lt, "<=": le, ">": gt, ">=": ge
}  # fmt: skip
_CONDITION = re.compile(r"(.+?)\s*(!=|<=|>=|=|<|>)\s*(.*)", re.DOTALL)

Cells = Mapping[str, Value]


def rank(type_: str, cell: Value) -> tuple[int, Any]:
    """Return what orders the cells of an ordered type as Postgres does, NULL below all.

    Texts are ordered by their bytes, whatever the collation of a column.
    """
    if cell is None:
        return -2, 0
    if type_ == "text":
        return 0, cell.encode()
    if cell in ("-infinity", "-Infinity"):
        return -1, 0
    if cell in ("infinity", "Infinity"):
        return 1, 0
    if type_ == "numeric":
        return (2, 0) if cell == "NaN" else (0, Decimal(cell))
    if type_ == "float":
        return (2, 0) if cell != cell else (0, cell)
    if type(cell) is str:  # a time too far for the integer
        return 0, (parse_timestamp if type_ == "timestamp" else parse_timestamptz)(cell)
    return 0, cell


def parse_conditions(
    texts: Iterable[str], types: Mapping[str, str], load: LoadContent
) -> Callable[[Cells], bool]:
    """Return what tells whether a row meets all of the conditions `COLUMN=VALUE`.

    The operators are = != < <= > >=. A bare NULL is NULL, which is equal to itself and neither
    less nor greater than anything; the text is 'NULL', in quotes.

    Args:
        types: The columns, key columns too, with their types.
        load: Gives the content of a spilled cell.

    Raises:
        Invalid: a column is not there, a value is none of its type, or its type has no order.
    """
    checks = [_parse(text, types, load) for text in texts]
    return lambda cells: all(check(cells) for check in checks)


def _parse(text: str, types: Mapping[str, str], load: LoadContent) -> Callable[[Cells], bool]:
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise Invalid(f"not a condition: {text!r}; expected COLUMN=VALUE, or != < <= > >=")
    column, sign, wanted = match.groups()
    if column not in types:
        raise Invalid(f"no column {column!r}", hint=f"there are: {', '.join(types)}")
    type_, compare = types[column], _OPERATORS[sign]
    if sign not in ("=", "!=") and type_ not in ORDERED:
        raise Invalid(f"{column} is a {type_}, which has no order: expected = or !=")
    if wanted == "NULL":
        if compare not in (eq, ne):
            raise Invalid(f"{column} {sign} NULL is never so: expected = or !=")
        return lambda cells: compare(cells[column], None)
    if len(wanted) > 1 and wanted[0] == wanted[-1] == "'":
        wanted = wanted[1:-1]
    value = parse_cell(type_, wanted)
    key = rank(type_, value) if type_ in ORDERED else value

    def check(cells: Cells) -> bool:
        cell = cells[column]
        if cell is None:
            return compare is ne
        if type(cell) is Reference:
            cell = load_cell(type_, cell, load)
        return compare(rank(type_, cell) if type_ in ORDERED else cell, key)

    return check
