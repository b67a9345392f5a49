"""Cells and rows as messages name them, and keys as people name rows."""

from __future__ import annotations

import json
from collections.abc import Iterable

from gsync.errors import Invalid
from gsync.objects.encoding import Reference, Value
from gsync.views.rows.keys import decode_key, encode_key
from gsync.views.rows.schema import Schema
from gsync.views.rows.texts import format_cell, parse_cell

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


def parse_key(schema: Schema, text: str) -> bytes:
    """Return the key of a row: the texts of its key columns, with commas between, or as JSON.

    Raises:
        Invalid: it is no key of that table.
    """
    parts = [text] if len(schema.key) == 1 else _split_key(text)
    if len(parts) != len(schema.key):
        names = ", ".join(name for name, _ in schema.key)
        raise Invalid(f"the key of {schema.table} is ({names}): expected {len(schema.key)} values")
    types = [type_ for _, type_ in schema.key]
    return encode_key(types, [parse_cell(t, p) for t, p in zip(types, parts, strict=True)])


def _split_key(text: str) -> list[str]:
    """Return the parts of a key: of a JSON array, as '--json' has it, or by commas."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if type(found) is not list:
        return text.split(",")
    return [part if type(part) is str else json.dumps(part) for part in found]
