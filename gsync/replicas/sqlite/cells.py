"""Values of SQLite's five classes <-> cells (12-databases, section 2).

A value that is not of its column's type is a fault, never converted: what two databases
show for it would differ.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import date, datetime
from typing import Any, NamedTuple

from gsync.errors import GsyncError, Invalid
from gsync.objects.encoding import Value
from gsync.replicas.sqlite.names import declared_scale, has_numeric_affinity
from gsync.views.rows.arrays import BOUNDS, check_array
from gsync.views.rows.texts import format_cell, parse_cell

Native = None | int | float | str | bytes

_EPOCH_DAY = date(1970, 1, 1).toordinal()
_EPOCH = datetime(1970, 1, 1)
_NUMERIC = re.compile(r"(?!-0(?:\.0+)?$)-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?").fullmatch
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}[ T](?:[01][0-9]|2[0-3]):[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?)"
    r"(Z|[+-][0-9]{2}(?::?[0-9]{2})?)?"
).fullmatch
_TOO_FINE = re.compile(r"\.[0-9]{7}").search
_UUID = re.compile(
    r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
).fullmatch
_WHOLE = re.compile(r"0|-?[1-9][0-9]*").fullmatch

SEVERAL_SPELLINGS = frozenset({"uuid", "date", "timestamp", "timestamptz", "numeric"})
"""Types of which two different values in a file may be one cell, or sort unlike their cells."""


class Reader(NamedTuple):
    """How the values of one column become cells.

    Attributes:
        classes: What Python's library gives for a value of the right class.
        convert: Makes the cell of one that is not NULL; raises ValueError or Invalid if it
            is none. None where the value is the cell.
    """

    classes: frozenset[type]
    convert: Callable[[Any], Value] | None


def reader(type_: str, declared: str, *, in_key: bool) -> Reader:
    """Return how a column of a logical and a declared type is read."""
    match type_:
        case "int":
            return Reader(frozenset({int}), None)
        case "float":
            return Reader(frozenset({float}), None)
        case "text":
            return Reader(frozenset({str}), None)
        case "bytes":
            return Reader(frozenset({bytes}), None)
        case "bool":
            return Reader(frozenset({int}), _read_bool)
        case "uuid":
            return Reader(frozenset({str, bytes}), _read_uuid)
        case "date":
            return Reader(frozenset({str}), _read_date)
        case "timestamp":
            return Reader(frozenset({str}), _read_timestamp)
        case "timestamptz":
            return Reader(frozenset({str}), _read_timestamptz)
        case "jsonb":
            # In a column of numeric affinity the document `12` has become an integer.
            return Reader(frozenset({str, int}), _read_json)
        case "numeric":
            scale = declared_scale(declared) if in_key else None
            return Reader(frozenset({str}), _numeric_reader(scale))
        case "text[]":
            return Reader(frozenset({str}), _read_array)
    raise AssertionError(f"no such type: {type_}")


def _read_bool(value: int) -> bool:
    if value in (0, 1):
        return value == 1
    raise ValueError("neither 0 nor 1")


def _read_uuid(value: str | bytes) -> bytes:
    if isinstance(value, str):
        if _UUID(value):
            return bytes.fromhex(value.replace("-", ""))
    elif len(value) == 16:
        return value
    raise ValueError("not a UUID")


def _read_date(value: str) -> Value:
    if len(value) == 10 and value[4] == "-" == value[7]:
        return date.fromisoformat(value).toordinal() - _EPOCH_DAY
    return parse_cell("date", value)


def _read_timestamp(value: str) -> Value:
    found = _TIME(value)
    if found is None:
        return _parse_other("timestamp", value)
    if found[2]:
        raise ValueError("a timestamp with an offset")
    since = datetime.fromisoformat(value) - _EPOCH
    return (since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds


def _read_timestamptz(value: str) -> Value:
    found = _TIME(value)
    if found is None:
        return _parse_other("timestamptz", value)
    offset = found[2]
    if not offset:
        raise ValueError("a timestamptz without an offset")
    since = datetime.fromisoformat(found[1]) - _EPOCH
    micros = (since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds
    if offset == "Z" or offset == "+00:00":
        return micros
    hours, minutes = int(offset[1:3]), int(offset[3:].lstrip(":") or 0)
    if hours > 15 or minutes > 59:
        raise ValueError("an offset that no zone has")
    ahead = (hours * 60 + minutes) * 60_000_000
    return micros + ahead if offset[0] == "-" else micros - ahead


def _parse_other(type_: str, value: str) -> Value:
    """Return the cell of a time that Python's datetime does not have."""
    if _TOO_FINE(value):
        raise ValueError("a time with more than six digits after the point")
    return parse_cell(type_, value)


def _read_json(value: str | int) -> Value:
    return str(value) if isinstance(value, int) else parse_cell("jsonb", value)


def _numeric_reader(scale: int | None) -> Callable[[str], Value]:
    def read(value: str) -> Value:
        if not _NUMERIC(value) and parse_cell("numeric", value) != value:
            raise ValueError("a number in another spelling than gsync's")
        if scale is not None and value[-1].isdigit() and len(value.partition(".")[2]) != scale:
            raise ValueError(f"not {scale} digits after the point")
        return value

    return read


def _read_array(value: str) -> Value:
    cells = json.loads(value)
    check_array(cells)
    if _has_bounds(cells):
        raise ValueError("an array whose first index is not 1")
    return cells


def _has_bounds(cells: list[Value]) -> bool:
    return len(cells) == 3 and cells[0] == BOUNDS and type(cells[1]) is list


# --- Writing -------------------------------------------------------------------------


class Unwritable(Invalid):
    """SQLite, or a column as it is declared, cannot hold this cell."""


def writer(type_: str, declared: str, *, as_blob: bool = False) -> Callable[[Value], Native] | None:
    """Return how a cell that is not NULL is written; None where it is written as it is.

    Args:
        type_: The logical type.
        declared: The type as the table declares it.
        as_blob: Whether the column's UUIDs are blobs.
    """
    match type_:
        case "int" | "text" | "bytes" | "numeric":
            return None
        case "bool":
            return int
        case "float":
            return _write_float
        case "uuid":
            return None if as_blob else lambda cell: format_cell("uuid", cell)
        case "date" | "timestamp":
            return lambda cell: format_cell(type_, cell)
        case "timestamptz":
            # SQLite's own functions know `+00:00`, but not `+00`.
            return lambda cell: format_cell("timestamptz", cell).replace("+00", "+00:00")
        case "jsonb":
            return _write_json_number if has_numeric_affinity(declared) else None
        case "text[]":
            return _write_array
    raise AssertionError(f"no such type: {type_}")


def _write_float(cell: float) -> float:
    if cell != cell:
        raise Unwritable("SQLite has no NaN: it stores NULL")
    if cell == 0 and str(cell) == "-0.0":
        raise Unwritable("SQLite has no negative zero: it stores 0.0")
    return cell


def _write_json_number(cell: str) -> Native:
    if cell[0] not in "-0123456789":
        return cell
    if _WHOLE(cell) and -(2**63) <= int(cell) < 2**63:
        return int(cell)
    raise Unwritable(
        f"the JSON number {cell[:40]} would become a binary float",
        hint="declare the column as JSON TEXT",
    )


def _write_array(cell: list[Value]) -> str:
    if _has_bounds(cell):
        raise Unwritable("an array whose first index is not 1")
    return json.dumps(cell, ensure_ascii=False, separators=(",", ":"))


FAULTS = (ValueError, GsyncError, RecursionError)
"""What a converter raises; OverflowError cannot be, since SQLite's integers have 64 bits."""
