"""Recorded rows as text for other programs: CSV and JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TextIO

from gsync.objects.encoding import Value
from gsync.views.rows.keys import decode_key
from gsync.views.rows.schema import Schema
from gsync.views.rows.texts import format_cell, json_cell
from gsync.views.rows.values import LoadContent, decode_row, load_cell

_QUOTED = frozenset(',"\r\n')

Row = tuple[bytes, bytes]
"""An encoded key and an encoded row."""


def write_csv(stream: TextIO, schema: Schema, rows: Iterable[Row], load: LoadContent) -> None:
    """Write a header and one record a row, key columns first, as RFC 4180 has it.

    NULL is an empty field and an empty text is `""`, which is also how Postgres reads CSV.
    Open `stream` with `newline=""`.
    """
    types = schema.types()
    stream.write(",".join(map(_field, types)) + "\r\n")
    for cells in _cells(schema, rows, load):
        fields = (
            "" if cell is None else _field(format_cell(type_, cell))
            for type_, cell in zip(types.values(), cells, strict=True)
        )
        stream.write(",".join(fields) + "\r\n")


def _field(text: str) -> str:
    # `\.` alone ends the data for Postgres; spaces at an end are trimmed by some programs.
    if not text or text == "\\." or text != text.strip() or not _QUOTED.isdisjoint(text):
        return '"' + text.replace('"', '""') + '"'
    return text


def write_jsonl(stream: TextIO, schema: Schema, rows: Iterable[Row], load: LoadContent) -> None:
    """Write one JSON object a row and line, key columns first."""
    types = schema.types()
    for cells in _cells(schema, rows, load):
        document = {
            name: None if cell is None else json_cell(type_, cell)
            for (name, type_), cell in zip(types.items(), cells, strict=True)
        }
        stream.write(json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n")


def _cells(schema: Schema, rows: Iterable[Row], load: LoadContent) -> Iterator[list[Value]]:
    for key, row in rows:
        slots = decode_row(row, schema.width)
        yield [
            *decode_key(key),
            *(load_cell(column.type, slots[column.slot], load) for column in schema.live),
        ]
