"""Names and expressions of SQL, for what is read and what is written.

Every name that comes from a catalog passes `quote`; values never stand in a statement.
"""

from __future__ import annotations

from gsync.replicas.tables.base import TablePlan

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


def fine(plan: TablePlan, name: str, type_: str, column: str) -> str:
    """Return an expression over `column` that differs wherever cells differ."""
    if type_ in _COARSE or is_padded(plan, name):
        column = f"{column}::pg_catalog.text"
    if type_ in _COARSE or type_ == "text":
        return f'{column} COLLATE pg_catalog."C"'
    return column
