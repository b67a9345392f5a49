"""Names and types as SQLite spells them."""

from __future__ import annotations

import re

_LENGTH = re.compile(r"\(\s*[-+]?\d+\s*(?:,\s*([-+]?\d+)\s*)?\)")
# fmt: off
_WHOLE = {
    "BOOL": "bool", "BOOLEAN": "bool",
    "NUMERIC TEXT": "numeric", "DECIMAL TEXT": "numeric",
    "UUID": "uuid", "UUID TEXT": "uuid",
    "DATE": "date", "DATE TEXT": "date",
    "TIMESTAMP": "timestamp", "TIMESTAMP TEXT": "timestamp",
    "DATETIME": "timestamp", "DATETIME TEXT": "timestamp",
    "TIMESTAMPTZ": "timestamptz", "TIMESTAMPTZ TEXT": "timestamptz",
    "JSON": "jsonb", "JSON TEXT": "jsonb", "JSONB": "jsonb", "JSONB TEXT": "jsonb",
    "TEXT_ARRAY TEXT": "text[]",
}
_PARTS = (
    ("INT", "int"),
    ("REAL", "float"), ("FLOA", "float"), ("DOUB", "float"),
    ("CHAR", "text"), ("CLOB", "text"), ("TEXT", "text"),
    ("BLOB", "bytes"),
)
DECLARED = {
    "bool": "BOOLEAN", "int": "INTEGER", "numeric": "NUMERIC TEXT", "float": "REAL",
    "text": "TEXT", "bytes": "BLOB", "uuid": "UUID TEXT", "date": "DATE TEXT",
    "timestamp": "TIMESTAMP TEXT", "timestamptz": "TIMESTAMPTZ TEXT", "jsonb": "JSON TEXT",
    "text[]": "TEXT_ARRAY TEXT",
}
# fmt: on
"""The declared type that a new file gets for each logical type; `logical_type` undoes it."""


def quoted(name: str) -> str:
    """Return `name` as an identifier in SQL, whatever it holds."""
    return '"' + name.replace('"', '""') + '"'


def table_in(schema: str, name: str) -> str:
    """Return a table's name with its schema: `main` or `temp`."""
    return f"{schema}.{quoted(name)}"


def logical_type(declared: str) -> str | None:
    """Return the type that a declared one stands for, or None (12-databases, section 2)."""
    name = " ".join(_LENGTH.sub(" ", declared).upper().split())
    if name in _WHOLE:
        return _WHOLE[name]
    return next((type_ for part, type_ in _PARTS if part in name), None)


def declared_scale(declared: str) -> int | None:
    """Return the digits after the point that `NUMERIC TEXT(10, 2)` declares, or None."""
    found = _LENGTH.search(declared)
    return int(found[1]) if found and found[1] else None


def has_numeric_affinity(declared: str) -> bool:
    """Return whether SQLite turns text that looks like a number into one (its rules 1 to 5)."""
    name = declared.upper()
    if "INT" in name:
        return True
    return not any(part in name for part in ("CHAR", "CLOB", "TEXT", "BLOB")) and bool(name)
