"""What tables a SQLite file has, as its catalog says."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from gsync.replicas.sqlite.names import declared_scale, logical_type, quoted
from gsync.replicas.tables.base import (
    LiveColumn,
    LiveForeignKey,
    LiveTable,
    LiveTrigger,
    LiveUnique,
)
from gsync.views.rows.schema import KEY_TYPES, ForeignKey

_RANDOM = re.compile(r"\b(?:random|randomblob|\w*uuid\w*)\s*\(", re.IGNORECASE)
# A name in one of SQL's four quotes, a comment, a word, or any other character.
_TOKEN = re.compile(
    r"""(?P<skip>"(?:[^"]|"")*"|'(?:[^']|'')*'|`(?:[^`]|``)*`|\[[^\]]*\]|--[^\n]*|/\*.*?\*/)"""
    r"""|(?P<word>\w+)|(?P<other>\S)""",
    re.DOTALL,
)
_EVENTS = ("DELETE", "INSERT", "UPDATE")
_PROBLEMS = {
    "virtual": "it is a virtual table, whose rows a module keeps elsewhere",
    "shadow": "it holds the inner data of a virtual table",
}


class Index(NamedTuple):
    """A unique index over columns: `collations` as it compares them."""

    name: str
    columns: tuple[str, ...]
    collations: tuple[str, ...]
    primary: bool


def list_tables(db: sqlite3.Connection) -> list[LiveTable]:
    """Return all tables of the main schema in order of names; virtual ones with a problem."""
    kinds = {
        name: kind
        for schema, name, kind, *_ in db.execute("PRAGMA table_list")
        if schema == "main" and kind != "view" and not name.lower().startswith("sqlite_")
    }
    names = {name.lower(): name for name in kinds}
    counts = _counts(db)
    found = []
    for name in sorted(kinds, key=str.encode):
        kind = kinds[name]
        if kind in _PROBLEMS:
            found.append(LiveTable(name, (), problem=_PROBLEMS[kind]))
            continue
        indexes = unique_indexes(db, name)
        found.append(
            LiveTable(
                name,
                tuple(_columns(db, name, indexes)),
                tuple(LiveUnique(i.name, i.columns, i.primary) for i in indexes),
                tuple(_foreign(db, name, names)),
                tuple(_triggers(db, name)),
                counts.get(name.lower(), -1),
            )
        )
    return found


def unique_indexes(db: sqlite3.Connection, table: str) -> list[Index]:
    """Return the primary key, then unique indexes by name; partial and expression ones not."""
    found = []
    for _, name, unique, origin, partial in db.execute(f"PRAGMA main.index_list({quoted(table)})"):
        if unique and not partial:
            # Without the entries that only locate the row (key = 0).
            parts = [p for p in db.execute(f"PRAGMA main.index_xinfo({quoted(name)})") if p[5]]
            if all(part[2] is not None for part in parts):
                columns = tuple(part[2] for part in parts)
                found.append(Index(name, columns, tuple(p[4] for p in parts), origin == "pk"))
    if not any(index.primary for index in found):
        key = primary_key(db, table)
        if key:  # the rowid by another name, which needs no index
            found.append(Index("PRIMARY KEY", key, ("BINARY",), True))
    return sorted(found, key=lambda index: (not index.primary, index.name.encode()))


def primary_key(db: sqlite3.Connection, table: str) -> tuple[str, ...]:
    """Return the columns of the primary key in its order; none if there is none."""
    rows = db.execute(f"PRAGMA main.table_xinfo({quoted(table)})").fetchall()
    return tuple(name for place, name in sorted((r[5], r[1]) for r in rows) if place)


def _columns(db: sqlite3.Connection, table: str, indexes: list[Index]) -> Iterator[LiveColumn]:
    primary = next((index for index in indexes if index.primary), None)
    rowid = primary.columns[0] if primary and primary.name == "PRIMARY KEY" else None
    folded = {
        column: collation
        for index in indexes
        for column, collation in zip(index.columns, index.collations, strict=True)
        if collation.upper() != "BINARY"
    }
    for row in db.execute(f"PRAGMA main.table_xinfo({quoted(table)})").fetchall():
        _, name, native, not_null, default, place, hidden = row
        type_ = logical_type(native)
        # A primary key may hold NULL unless the table is WITHOUT ROWID or STRICT. It is
        # taken for what its author meant: one that does stops the scan by name.
        nullable = not (not_null or place)
        yield LiveColumn(
            name=name,
            type=type_,
            native=native,
            nullable=nullable,
            default=default,
            fills_itself=name == rowid or bool(default and _RANDOM.search(default)),
            generated=hidden in (2, 3),
            key_problem=_key_problem(type_, native, folded.get(name)),
        )


def _key_problem(type_: str | None, native: str, collation: str | None) -> str | None:
    if type_ is None:
        return f"gsync does not carry the type {native or 'of an undeclared column'}"
    if type_ not in KEY_TYPES:
        return f"equal values of type {type_} can be spelled in several ways"
    if type_ == "numeric" and declared_scale(native) is None:
        return "the digits after the point are not declared, as in NUMERIC TEXT(10,2)"
    if collation is not None and type_ == "text":
        return f"under the collation {collation} different texts are equal"
    return None


def _foreign(db: sqlite3.Connection, table: str, names: dict[str, str]) -> Iterator[LiveForeignKey]:
    groups: dict[int, list[tuple[str, str, str | None, str]]] = {}
    for row in db.execute(f"PRAGMA main.foreign_key_list({quoted(table)})").fetchall():
        number, _, parent, column, to, _, on_delete, _ = row
        groups.setdefault(number, []).append((parent, column, to, on_delete))
    for number in sorted(groups, reverse=True):  # SQLite lists the last declared first
        parts = groups[number]
        parent = names.get(parts[0][0].lower())
        if parent is None:
            continue  # the parent does not exist: SQLite refuses writes, nothing can be said
        columns = tuple(part[1] for part in parts)
        if any(part[2] is None for part in parts):
            parent_columns = primary_key(db, parent)
        else:
            parent_columns = tuple(part[2] or "" for part in parts)
        yield LiveForeignKey(
            f"{table}({', '.join(columns)})",
            ForeignKey(columns, parent, parent_columns, parts[0][3].lower()),
            deferrable=True,  # PRAGMA defer_foreign_keys holds for all of them
        )


def _triggers(db: sqlite3.Connection, table: str) -> Iterator[LiveTrigger]:
    for name, sql in db.execute(
        "SELECT name, sql FROM main.sqlite_schema WHERE type = 'trigger'"
        " AND tbl_name = ? COLLATE NOCASE ORDER BY name",
        (table,),
    ):
        event, text = _parse_trigger(sql)
        yield LiveTrigger(name, (event,) if event else (), text)


def _parse_trigger(sql: str) -> tuple[str | None, str]:
    """Return the event that `sql` fires at, and the first line between BEGIN and END."""
    event = None
    for token in _words(sql):
        word = token[0].upper()
        if event is None and word in _EVENTS:
            event = word
        if event is not None and word == "BEGIN":
            body = sql[token.end() :].strip()
            return event, body.splitlines()[0].strip() if body else ""
    return event, ""


def _words(sql: str) -> Iterable[re.Match[str]]:
    """Yield the bare words of `sql`, the trigger's own name left out if it is one."""
    words = [token for token in _TOKEN.finditer(sql) if token["word"]]
    return (w for w in words if w[0].upper() not in ("CREATE", "TEMP", "TEMPORARY", "TRIGGER"))


def _counts(db: sqlite3.Connection) -> dict[str, int]:
    """Return rows by table in lower case, as the last ANALYZE counted them."""
    if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_stat1'").fetchone():
        return {}
    found: dict[str, int] = {}
    for table, stat in db.execute("SELECT tbl, stat FROM main.sqlite_stat1"):
        first = str(stat).split(" ", 1)[0]
        if first.isdigit():
            found[str(table).lower()] = max(int(first), found.get(str(table).lower(), 0))
    return found
