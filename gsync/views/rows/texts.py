"""Cells <-> the text that people and databases write, and JSON (11-rows, section 6)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from gsync.errors import Invalid
from gsync.objects.encoding import Reference, Value
from gsync.views.rows import times
from gsync.views.rows.arrays import BOUNDS, check_array, format_array, parse_array
from gsync.views.rows.jsontext import canonical_json
from gsync.views.rows.numerics import is_numeric, parse_numeric

SPILLABLE = frozenset({"text", "bytes", "jsonb", "numeric", "text[]"})

_BOOLS = {"t": True, "true": True, "1": True, "f": False, "false": False, "0": False}
_INT = re.compile(r"[+-]?[0-9]{1,40}", re.ASCII)
_FLOAT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,6})?", re.ASCII)
_FLOAT_LENGTH_MAX = 2000  # no float needs more than about 1,080 digits
_SPECIAL_FLOATS = {
    "nan": math.nan,
    "infinity": math.inf,
    "inf": math.inf,
    "-infinity": -math.inf,
    "-inf": -math.inf,
}
_BYTES = re.compile(r"\\x((?:[0-9a-fA-F]{2})*)", re.ASCII)
_UUID = re.compile(
    r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}", re.ASCII
)


class BadCell(Invalid):
    """A value or a text is not one of its column's type."""


def format_cell(type_: str, cell: Value) -> str:
    """Return the text form of a cell of a column of `type_`, which is neither NULL nor spilled."""
    return _FORMAT[type_](cell)


def parse_cell(type_: str, text: str) -> Value:
    """Return the cell that `text` says, where databases may spell it otherwise than we do.

    Raises:
        BadCell: it says none.
    """
    try:
        return _PARSE[type_](text)
    except BadCell:
        raise
    except Invalid as error:
        raise BadCell(f"not a {type_}: {_shown(text)}: {error.message}") from error


def json_cell(type_: str, cell: Value) -> Any:
    """Return the cell as JSON documents of gsync show it: what a text form alone is, as text.

    NULL is None; a spilled cell is `{"object": id, "bytes": length}`.
    """
    if cell is None or type_ in ("bool", "int", "text") and type(cell) is not Reference:
        return cell
    if type(cell) is Reference:
        return {"object": cell.oid.hex(), "bytes": cell.length}
    if type_ == "bytes":
        return {"hex": cell.hex()}
    if type_ == "float" and math.isfinite(cell):
        return cell
    if type_ in ("timestamp", "timestamptz") and type(cell) is int:
        shown = times.rfc3339(cell, "Z" if type_ == "timestamptz" else "")
        return shown or format_cell(type_, cell)
    if type_ == "text[]":
        if len(cell) == 3 and cell[0] == BOUNDS and type(cell[1]) is list:
            return {"lower_bounds": cell[1], "cells": cell[2]}
        return cell
    return format_cell(type_, cell)


def check_cell(type_: str, cell: Value) -> None:
    """Raise BadCell unless `cell` is NULL, or one that columns of `type_` hold."""
    if cell is None or type(cell) is Reference and type_ in SPILLABLE:
        return
    try:
        if _CHECK[type_](cell):
            return
    except Invalid as error:
        raise BadCell(f"not a {type_}: {_shown(cell)}: {error.message}") from error
    raise BadCell(f"not a {type_}: {_shown(cell)}")


def _shown(cell: Value) -> str:
    if type(cell) is int and cell.bit_length() > 128:
        return f"an integer of {cell.bit_length()} bits"
    if type(cell) in (str, bytes) and len(cell) > 60:
        return f"{cell[:60]!r}..."
    return repr(cell)[:100] if type(cell) is not list else "an array"


# --- One function per type: cell -> text -----------------------------------------------


def _format_bool(cell: Value) -> str:
    return "true" if cell else "false"


def _format_float(cell: Value) -> str:
    if math.isfinite(cell):
        return repr(cell)
    return "NaN" if cell != cell else "Infinity" if cell > 0 else "-Infinity"


def _format_bytes(cell: Value) -> str:
    return "\\x" + str(cell.hex())


def _format_uuid(cell: Value) -> str:
    text = cell.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _format_date(cell: Value) -> str:
    return cell if type(cell) is str else times.format_date(cell)


def _format_timestamp(cell: Value) -> str:
    return cell if type(cell) is str else times.format_timestamp(cell)


def _format_timestamptz(cell: Value) -> str:
    return cell if type(cell) is str else times.format_timestamptz(cell)


_FORMAT: dict[str, Callable[[Value], str]] = {
    "bool": _format_bool,
    "int": str,
    "numeric": str,
    "float": _format_float,
    "text": str,
    "bytes": _format_bytes,
    "uuid": _format_uuid,
    "date": _format_date,
    "timestamp": _format_timestamp,
    "timestamptz": _format_timestamptz,
    "jsonb": str,
    "text[]": format_array,
}


# --- Text -> cell ------------------------------------------------------------------------


def _parse_bool(text: str) -> Value:
    cell = _BOOLS.get(text.lower() if len(text) <= 5 else text)
    if cell is None:
        raise Invalid("expected true or false")
    return cell


def _parse_int(text: str) -> Value:
    if _INT.fullmatch(text) and times.INT_MIN <= (cell := int(text)) <= times.INT_MAX:
        return cell
    raise Invalid("expected an integer of 64 bits")


def _parse_float(text: str) -> Value:
    special = _SPECIAL_FLOATS.get(text[:10].lower()) if len(text) <= 9 else None
    if special is not None:
        return special
    if len(text) > _FLOAT_LENGTH_MAX or not _FLOAT.fullmatch(text):
        raise Invalid("expected a number")
    cell = float(text)
    # As databases do, and so that no number silently becomes another.
    if math.isinf(cell) or cell == 0.0 and re.search("[1-9]", re.split("[eE]", text)[0]):
        raise Invalid("out of the range of 64-bit floats")
    return cell


def _parse_text(text: str) -> Value:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Invalid("a lone surrogate") from None
    return text


def _parse_bytes(text: str) -> Value:
    match = _BYTES.fullmatch(text)
    if match is None:
        raise Invalid("expected \\x and pairs of hex digits")
    return bytes.fromhex(match.group(1))


def _parse_uuid(text: str) -> Value:
    if not _UUID.fullmatch(text):
        raise Invalid("expected hex digits in groups of 8-4-4-4-12")
    return bytes.fromhex(text.replace("-", ""))


def _parse_date(text: str) -> Value:
    return text if text in times.INFINITIES else times.parse_date(text)


def _parse_timestamp(text: str) -> Value:
    if text in times.INFINITIES:
        return text
    found = times.parse_timestamp(text)
    return found if found < times.MICROSECONDS_END else times.format_timestamp(found)


def _parse_timestamptz(text: str) -> Value:
    if text in times.INFINITIES:
        return text
    found = times.parse_timestamptz(text)
    return found if found < times.MICROSECONDS_END else times.format_timestamptz(found)


_PARSE: dict[str, Callable[[str], Value]] = {
    "bool": _parse_bool,
    "int": _parse_int,
    "numeric": parse_numeric,
    "float": _parse_float,
    "text": _parse_text,
    "bytes": _parse_bytes,
    "uuid": _parse_uuid,
    "date": _parse_date,
    "timestamp": _parse_timestamp,
    "timestamptz": _parse_timestamptz,
    "jsonb": canonical_json,
    "text[]": parse_array,
}


# --- Is it a cell? -----------------------------------------------------------------------


def _is_int(cell: Value) -> bool:
    return type(cell) is int and times.INT_MIN <= cell <= times.INT_MAX


def _is_float(cell: Value) -> bool:
    return type(cell) is float


def _is_text(cell: Value) -> bool:
    return type(cell) is str and _parse_text(cell) == cell


def _is_date(cell: Value) -> bool:
    if type(cell) is str:
        return cell in times.INFINITIES
    return type(cell) is int and times.DAYS_MIN <= cell <= times.DAYS_MAX


def _is_moment(cell: Value) -> bool:
    return type(cell) is int and times.MICROSECONDS_MIN <= cell < times.MICROSECONDS_END


def _is_timestamp(cell: Value) -> bool:
    if type(cell) is str:
        return bool(_parse_timestamp(cell) == cell)
    return _is_moment(cell)


def _is_timestamptz(cell: Value) -> bool:
    if type(cell) is str:
        return bool(_parse_timestamptz(cell) == cell)
    return _is_moment(cell)


def _is_array(cell: Value) -> bool:
    check_array(cell)
    return True


_CHECK: dict[str, Callable[[Value], bool]] = {
    "bool": lambda cell: type(cell) is bool,
    "int": _is_int,
    "numeric": lambda cell: type(cell) is str and is_numeric(cell),
    "float": _is_float,
    "text": _is_text,
    "bytes": lambda cell: type(cell) is bytes,
    "uuid": lambda cell: type(cell) is bytes and len(cell) == 16,
    "date": _is_date,
    "timestamp": _is_timestamp,
    "timestamptz": _is_timestamptz,
    "jsonb": lambda cell: type(cell) is str and canonical_json(cell) == cell,
    "text[]": _is_array,
}
