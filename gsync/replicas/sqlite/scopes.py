"""Scopes as conditions of SQL, as SQLite has them (12-databases, section 6)."""

from __future__ import annotations

from gsync.objects.encoding import Value
from gsync.replicas.sqlite.names import quoted, table_in
from gsync.views.rows.scope import Condition, Scope


def in_scope(scope: Scope | None, alias: str, depth: int = 0) -> str:
    """Return SQL that is true for rows of `alias` in scope, and else false or NULL."""
    if scope is None:
        return "TRUE"
    parts = [_condition(condition, alias) for condition in scope.conditions]
    follow = scope.follow
    if follow is not None:
        parent = f"gsync_parent_{depth}"
        pairs = zip(follow.columns, follow.parent_columns, strict=True)
        same = " AND ".join(f"{parent}.{quoted(b)} = {alias}.{quoted(a)}" for a, b in pairs)
        parts.append(
            f"EXISTS (SELECT 1 FROM {table_in('main', follow.parent)} AS {parent}"
            f" WHERE {same} AND {in_scope(follow.scope, parent, depth + 1)})"
        )
    return f"({' AND '.join(parts)})"


def _condition(condition: Condition, alias: str) -> str:
    column = f"{alias}.{quoted(condition.column)}"
    if condition.type == "uuid":
        # Sixteen bytes, or a text in any case.
        text = f"CASE typeof({column}) WHEN 'blob' THEN hex({column}) ELSE {column} END"
        column = f"replace(lower({text}), '-', '')"
    values = ", ".join(_literal(condition.type, cell) for cell in condition.cells)
    return f"{column} COLLATE BINARY IN ({values})"


def _literal(type_: str, cell: Value) -> str:
    match cell:
        case bool() | int():
            return str(int(cell))
        case bytes():
            return f"'{cell.hex()}'"
        case str() if "\0" in cell:
            return f"CAST(X'{cell.encode().hex()}' AS TEXT)"
        case str():
            return "'" + cell.replace("'", "''") + "'"
    raise AssertionError(f"no condition has such a cell: {type_}")
