"""Names and expressions of SQL, for what is read and what is written.

Every name that comes from a catalog passes `quote`; no values stand in a statement but those
of scopes, by way of `literal`: COPY takes no parameters.
"""

from __future__ import annotations

from gsync.objects.encoding import Value
from gsync.replicas.tables.base import TablePlan
from gsync.views.rows.scope import Scope
from gsync.views.rows.texts import format_cell

BPCHAR = ("character(", "bpchar")

# Microseconds since 1970. Plain arithmetic would end the whole COPY at `infinity` and at
# years that 64 bits do not hold (11-rows, section 6).
_MICROSECONDS = (
    "CASE WHEN pg_catalog.isfinite({c}) AND {c} < '294246-01-01' THEN"
    " (extract(epoch FROM {c}) * 1000000)::pg_catalog.int8::pg_catalog.text"
    " ELSE {c}::pg_catalog.text END"
)
_FORMS = {
    # No backslash, so the line needs no second look.
    "bytes": "pg_catalog.encode({c}, 'hex')",
    "date": (
        "CASE WHEN pg_catalog.isfinite({c}) THEN ({c} - DATE '1970-01-01')::pg_catalog.text"
        " ELSE {c}::pg_catalog.text END"
    ),
    "timestamp": _MICROSECONDS,
    "timestamptz": _MICROSECONDS,
}
# Types of which SQL holds different cells for equal: 1.0 and 1.00, 0 and -0.
_COARSE = frozenset(("numeric", "float", "jsonb", "text[]"))


def quote(name: str) -> str:
    """Return `name` as an identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'


def qualified(table: str) -> str:
    """Return a logical table name as SQL; the schema stands before the first point."""
    schema, point, name = table.partition(".")
    return f"{quote(schema)}.{quote(name)}" if point else f"public.{quote(schema)}"


def columns_of(plan: TablePlan) -> list[tuple[str, str]]:
    """Return name and type of the columns that are read and written: the key's, then by slot."""
    return list(plan.schema.types().items())


def is_padded(plan: TablePlan, name: str) -> bool:
    """Return whether the column is `char(n)`, whose padding is no part of the value."""
    column = plan.live.column(name)
    return column is not None and column.native.startswith(BPCHAR)


def output(plan: TablePlan, name: str, type_: str, column: str) -> str:
    """Return the expression over `column` whose output is what `scan` turns into a cell."""
    if is_padded(plan, name):
        return f"{column}::pg_catalog.text"
    return _FORMS.get(type_, "{c}").format(c=column)


def sort_key(plan: TablePlan, name: str, type_: str, column: str, is_utf8: bool) -> str:
    """Return the expression by which rows come in the order of their encoded keys."""
    if type_ != "text":
        return column
    if is_utf8:
        return fine(plan, name, type_, column)
    return f"pg_catalog.convert_to({output(plan, name, type_, column)}, 'UTF8')"


def in_scope(scope: Scope | None, alias: str, depth: int = 0) -> str:
    """Return a condition that is true for the rows of `alias` in scope, and else false, or NULL."""
    if scope is None:
        return "true"
    parts = []
    for condition in scope.conditions:
        column = f"{alias}.{quote(condition.column)}"
        if condition.type == "text":
            column = f'{column}::pg_catalog.text COLLATE pg_catalog."C"'
        values = ", ".join(literal(condition.type, cell) for cell in condition.cells)
        parts.append(f"{column} IN ({values})")
    follow = scope.follow
    if follow is not None:
        parent = f"gsync_parent_{depth}"
        pairs = zip(follow.columns, follow.parent_columns, strict=True)
        same = " AND ".join(f"{parent}.{quote(b)} = {alias}.{quote(a)}" for a, b in pairs)
        parts.append(
            f"EXISTS (SELECT FROM {qualified(follow.parent)} AS {parent}"
            f" WHERE {same} AND {in_scope(follow.scope, parent, depth + 1)})"
        )
    return f"({' AND '.join(parts)})"


def literal(type_: str, cell: Value) -> str:
    """Return a cell of a type that scopes look at as SQL, under `standard_conforming_strings`."""
    if type_ == "bool":
        return "true" if cell else "false"
    if type_ == "int":
        return f"{cell:d}"
    text = format_cell(type_, cell).replace("'", "''")
    return f"'{text}'::pg_catalog.{type_}"


def fine(plan: TablePlan, name: str, type_: str, column: str) -> str:
    """Return an expression over `column` that differs wherever cells differ."""
    if type_ in _COARSE or is_padded(plan, name):
        column = f"{column}::pg_catalog.text"
    if type_ in _COARSE or type_ == "text":
        return f'{column} COLLATE pg_catalog."C"'
    return column
