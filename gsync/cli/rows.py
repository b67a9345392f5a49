"""How rows and their cells look, as text and as JSON."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from gsync.cli.app import App
from gsync.cli.changes import letter
from gsync.cli.output import size, style
from gsync.errors import GsyncError
from gsync.objects.encoding import Reference, Value
from gsync.sync.comparetables import CellChange, RowChange
from gsync.views.rows.schema import Schema
from gsync.views.rows.texts import format_cell, json_cell
from gsync.views.rows.values import LoadContent, load_cell

# A spilled cell up to this many bytes is read to be shown; a longer one is only named.
LOADED_BYTES_MAX = 16 << 10
# Characters of one value in a line of text.
VALUE_CHARS_MAX = 60
# Characters before the first that differs.
_CONTEXT_CHARS = 10


# --- Text ----------------------------------------------------------------------------


def row_lines(app: App, change: RowChange, load: LoadContent) -> Iterator[str]:
    """Yield the line of a row, then one for each of its cells that differ."""
    yield row_line(app, change)
    for cell in change.cells:
        yield f"  {cell.column}: {_cell_text(app, change.status, cell, load)}"


def row_line(app: App, change: RowChange) -> str:
    """Return a row as a letter, its collection and its key: `M db/main/users (42)`."""
    types = [type_ for _, type_ in change.schema.key]
    return f"{letter(app, change.status)} {change.collection} {key_text(change.key, types)}"


def key_text(key: Iterable[Value], types: Iterable[str]) -> str:
    """Return the cells of a key in parentheses."""
    cells = (value_text(cell, type_, None) for cell, type_ in zip(key, types, strict=False))
    return f"({', '.join(cells)})"


def _cell_text(app: App, status: str, cell: CellChange, load: LoadContent) -> str:
    if status == "added":
        return style(app, value_text(cell.new, cell.type, load), "green")
    old, new = _loaded(cell.old, cell.type, load), _loaded(cell.new, cell.type, load)
    same = _same_start(old, new)
    shown = style(app, value_text(old, cell.type, None, skip=same), "red")
    if status == "deleted":
        return shown
    return f"{shown} -> {style(app, value_text(new, cell.type, None, skip=same), 'green')}"


def _loaded(value: Value, type_: str, load: LoadContent) -> Value:
    if not isinstance(value, Reference):
        return value
    found = _load(value, type_, load)
    return value if found is None else found


def _same_start(old: Value, new: Value) -> int:
    """Return how many characters to leave off two long texts so that they are seen to differ."""
    if not (isinstance(old, str) and isinstance(new, str)):
        return 0
    if max(len(old), len(new)) <= VALUE_CHARS_MAX:
        return 0
    same = len(os.path.commonprefix((old, new)))
    return same - _CONTEXT_CHARS if same > VALUE_CHARS_MAX // 2 else 0


def value_text(
    value: Value, type_: str, load: LoadContent | None, *, quote: bool = True, skip: int = 0
) -> str:
    """Return a cell for people: NULL bare, texts quoted, and shortened where it is long.

    Args:
        load: Gives the content behind a spilled cell; without it, or if that is long, the
            cell is only named.
        quote: Put every text into quotes; else only one that could be read as something else.
        skip: Leave off so many characters of a text at its start.
    """
    if value is None:
        return "NULL"
    if isinstance(value, Reference):
        found = _load(value, type_, load)
        if found is None:
            return f"<{type_}, {size(value.length)}, {value.oid.hex()[:12]}>"
        value = found
    text = _format(type_, value)
    dots = "…" if skip else ""
    if type_ == "text" and (quote or _is_misleading(text)):
        return f"'{dots}{_shorten(text[skip:])}'"
    return dots + _shorten(text[skip:])


def _is_misleading(text: str) -> bool:
    return text in ("", "NULL") or text != text.strip() or text[0] in "'<"


def _shorten(text: str) -> str:
    if len(text) <= VALUE_CHARS_MAX:
        return _plain(text)
    return _plain(text[: VALUE_CHARS_MAX - 1]) + "…"


def _plain(text: str) -> str:
    """Return `text` without what would start a line or steer the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _format(type_: str, value: Value) -> str:
    try:
        return format_cell(type_, value)
    except (GsyncError, ValueError, TypeError):  # a cell of another time than its schema
        return str(value)


def _load(reference: Reference, type_: str, load: LoadContent | None) -> Value:
    if load is None or reference.length > LOADED_BYTES_MAX:
        return None
    return load_cell(type_, reference, load)


# --- JSON ----------------------------------------------------------------------------


def row_json(change: RowChange, load: LoadContent) -> dict[str, Any]:
    """Return one row that differs as JSON documents have it."""
    return {
        "collection": change.collection,
        "key": row_key_json(change.key, change.schema),
        "status": change.status,
        "cells": {
            cell.column: [
                value_json(cell.old, cell.type, load),
                value_json(cell.new, cell.type, load),
            ]
            for cell in change.cells
        },
    }


def row_key_json(key: Iterable[Value], schema: Schema) -> list[Any]:
    """Return a sync key as JSON documents have it."""
    return [
        value_json(cell, type_, None) for cell, (_, type_) in zip(key, schema.key, strict=False)
    ]


def value_json(value: Value, type_: str, load: LoadContent | None) -> Any:
    """Return a cell for programs, as `texts.json_cell` has it; a short spilled one is read."""
    if isinstance(value, Reference):
        found = _load(value, type_, load)
        value = value if found is None else found
    return json_cell(type_, value)
