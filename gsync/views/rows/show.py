"""Cells and rows as messages name them."""

from __future__ import annotations

from collections.abc import Iterable

from gsync.objects.encoding import Reference, Value
from gsync.views.rows.keys import decode_key
from gsync.views.rows.texts import format_cell

_CHARS_MAX = 60


def show_cell(cell: Value, type_: str | None = None) -> str:
    """Return a cell in one short line: `NULL`, `42`, `'text'`; the type is guessed if not given."""
    if cell is None:
        return "NULL"
    if type(cell) is Reference:
        return f"<{cell.length} bytes, {cell.oid.hex()[:12]}>"
    if type_ is None:
        type_ = guess_type(cell)
    text = repr(cell) if type(cell) is str else format_cell(type_, cell)
    return text if len(text) <= _CHARS_MAX else text[: _CHARS_MAX - 3] + "..."


def guess_type(cell: Value) -> str:
    """Return a type that a cell of a key, decoded without its schema, can be shown as."""
    if type(cell) is bytes:
        return "uuid" if len(cell) == 16 else "bytes"
    return {bool: "bool", int: "int", float: "float", list: "text[]"}.get(type(cell), "text")


def show_cells(cells: Iterable[Value]) -> str:
    """Return several cells in parentheses."""
    return f"({', '.join(map(show_cell, cells))})"


def show_row(table: str, key: bytes) -> str:
    """Return a row by its table and key: `users(42)`."""
    return table + show_cells(decode_key(key))
