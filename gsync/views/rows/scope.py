"""Which rows of a table a view holds, such as those of one tenant (11-rows, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from gsync.errors import Invalid
from gsync.frozen import frozen
from gsync.objects.encoding import NotCanonical, Value, encode
from gsync.views.rows.texts import check_cell, format_cell

TYPES = ("bool", "int", "text", "uuid")
"""Types of columns that a condition may look at: equal there is equal in every engine."""

NAME_BYTES_MAX = 255
DEPTH_MAX = 8
CELLS_MAX = 1000


class Condition(NamedTuple):
    """A column has one of some values; NULL is none of them.

    Attributes:
        column: Its name.
        type: One of TYPES.
        cells: Sorted by their encoding, at least one.
    """

    column: str
    type: str
    cells: tuple[Value, ...]


class Follow(NamedTuple):
    """A row refers to one that the parent's scope holds.

    Attributes:
        columns: The columns of a foreign key.
        parent: The table that it refers to.
        parent_columns: The columns there, one for each.
        scope: That of the parent.
    """

    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]
    scope: Scope


@frozen
class Scope:
    """All conditions hold, and the parent is in its scope.

    Attributes:
        conditions: Sorted by column, each column once.
        follow: The parent's scope, if it counts; there is this or a condition.
    """

    conditions: tuple[Condition, ...] = ()
    follow: Follow | None = None


def make_condition(column: str, type_: str, cells: list[Value]) -> Condition:
    """Return a condition; cells in any order, and more than once."""
    unique = {encode(cell): cell for cell in cells}
    return Condition(column, type_, tuple(unique[body] for body in sorted(unique)))


def encode_scope(scope: Scope | None) -> Value:
    """Return the filter of a view: nil, or a list."""
    if scope is None:
        return None
    follow = scope.follow
    return [
        [[c.column, c.type, list(c.cells)] for c in scope.conditions],
        None
        if follow is None
        else [
            list(follow.columns),
            follow.parent,
            list(follow.parent_columns),
            encode_scope(follow.scope),
        ],
    ]


def decode_scope(value: Value, depth: int = 0) -> Scope | None:
    """Return the scope that a view's filter says, or raise NotCanonical."""
    if value is None and depth == 0:
        return None
    match value:
        case [[*conditions], follow] if depth < DEPTH_MAX and (conditions or follow is not None):
            found = Scope(tuple(map(_condition, conditions)), _follow(follow, depth))
        case _:
            raise NotCanonical("view: a filter that this gsync does not know")
    for left, right in pairwise(found.conditions):
        if left.column.encode() >= right.column.encode():
            raise NotCanonical("view: the conditions of a filter are not sorted strictly")
    return found


def _condition(item: Value) -> Condition:
    match item:
        case [str() as column, str() as type_, [*cells]] if (
            _is_name(column) and type_ in TYPES and 0 < len(cells) <= CELLS_MAX
        ):
            for cell in cells:
                if cell is None:
                    break
                try:
                    check_cell(type_, cell)
                except Invalid as error:
                    raise NotCanonical(f"view: a filter: {error.message}") from error
            else:
                found = Condition(column, type_, tuple(cells))
                if found == make_condition(column, type_, cells):
                    return found
    raise NotCanonical("view: a condition is not [column, type, [cell...]], sorted")


def _follow(item: Value, depth: int) -> Follow | None:
    match item:
        case None:
            return None
        case [[*columns], str() as parent, [*parent_columns], inner] if 0 < len(columns) == len(
            parent_columns
        ) and all(map(_is_name, (parent, *columns, *parent_columns))):
            scope = decode_scope(inner, depth + 1)
            assert scope is not None
            return Follow(tuple(columns), parent, tuple(parent_columns), scope)
    raise NotCanonical("view: a filter follows what is not [columns, parent, columns, filter]")


def _is_name(value: Value) -> bool:
    return type(value) is str and 0 < len(value.encode()) <= NAME_BYTES_MAX and "\0" not in value


# --- Messages ------------------------------------------------------------------------


def show_condition(condition: Condition) -> str:
    """Return a condition as a message says it: `tenant = 'acme'`."""
    cells = [
        repr(cell) if type(cell) is str else format_cell(condition.type, cell)
        for cell in condition.cells
    ]
    if len(cells) == 1:
        return f"{condition.column} = {cells[0]}"
    return f"{condition.column} in ({', '.join(cells)})"


def show_scope(scope: Scope) -> str:
    """Return a scope as a message says it."""
    return " and ".join(_parts(scope))


def _parts(scope: Scope) -> Iterator[str]:
    yield from map(show_condition, scope.conditions)
    if scope.follow is not None:
        columns = ", ".join(scope.follow.columns)
        yield f"{columns} in {scope.follow.parent} where {show_scope(scope.follow.scope)}"
