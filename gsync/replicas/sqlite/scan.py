"""Rows of a table in key order (12-databases, section 3).

A scan is written twice. The fast way stops at the first thing that is not as it should be,
whatever it is; then the slow way reads the table cell by cell, counts what is wrong, and
says it.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gsync.errors import GsyncError
from gsync.objects.encoding import Reference, Value
from gsync.objects.oid import OID_BYTES, Kind, ObjectId
from gsync.replicas.sqlite.cells import FAULTS, SEVERAL_SPELLINGS, Reader, reader
from gsync.replicas.sqlite.names import quoted, table_in
from gsync.replicas.sqlite.scopes import in_scope
from gsync.replicas.tables.base import BadRows, TablePlan
from gsync.views.rows.keys import key_encoder
from gsync.views.rows.values import SpillContent, encode_row

BATCH_ROWS = 1000
"""Rows fetched at a time: beyond this the calls no longer show."""

_SHOWN_MAX = 80  # characters of a value in a message

_FAULTS_MAX = 100  # kinds of faults counted apart

_numbers = itertools.count()


def scan_rows(
    db: sqlite3.Connection, plan: TablePlan, spill: SpillContent
) -> Iterator[tuple[bytes, bytes]]:
    """Yield encoded key and encoded row of every row, in key order, in constant memory.

    Raises:
        BadRows: a key is NULL, too long or there twice, or a value outside its type.
    """
    try:
        if has_several_spellings(plan):
            yield from _scan_by_encoded_key(db, plan, spill)
        else:
            yield from _scan_by_columns(db, plan, spill)
    except (sqlite3.OperationalError, *FAULTS) as error:
        if _is_damage(error):
            raise
        _raise_faults(db, plan)
        raise


def _is_damage(error: Exception) -> bool:
    name = getattr(error, "sqlite_errorname", None) or ""
    return name.startswith(("SQLITE_BUSY", "SQLITE_IOERR", "SQLITE_CORRUPT", "SQLITE_FULL"))


def has_several_spellings(plan: TablePlan) -> bool:
    """Return whether SQLite's order and equality of keys are not those of the encoded keys."""
    return any(column.type in SEVERAL_SPELLINGS for column in plan.schema.key)


def _scan_by_columns(
    db: sqlite3.Connection, plan: TablePlan, spill: SpillContent
) -> Iterator[tuple[bytes, bytes]]:
    """Scan where SQLite sorts the key columns as their encodings sort, mostly by an index."""
    keys = [key.name for key in plan.schema.key]
    width = len(keys)
    encode_key = key_encoder([column.type for column in plan.schema.key])
    columns = ", ".join(map(quoted, [*keys, *(c.name for c in plan.schema.live)]))
    order = ", ".join(f"{quoted(name)} COLLATE BINARY" for name in keys)
    sql = f"SELECT {columns} FROM {_rows_of(plan)} ORDER BY {order}"
    key_readers, cell_readers = _key_readers(plan), _cell_readers(plan)

    def convert(batch: list[tuple[Any, ...]]) -> Iterator[tuple[bytes, list[Value]]]:
        values = list(zip(*batch, strict=True))
        found = [_convert(one, v, False) for one, v in zip(key_readers, values, strict=False)]
        encoded = map(encode_key, zip(*found, strict=True))
        return zip(encoded, _place(plan, cell_readers, values[width:], len(batch)), strict=True)

    return _encoded(db, sql, convert, spill)


def _scan_by_encoded_key(
    db: sqlite3.Connection, plan: TablePlan, spill: SpillContent
) -> Iterator[tuple[bytes, bytes]]:
    """Scan where only the encodings sort as they should: SQLite sorts by them, on disk."""
    columns = "".join(f", {quoted(column.name)}" for column in plan.schema.live)
    sql = f"SELECT {key_function(db, plan)} AS encoded{columns} FROM {_rows_of(plan)} ORDER BY 1"
    readers = _cell_readers(plan)

    def convert(batch: list[tuple[Any, ...]]) -> Iterator[tuple[bytes, list[Value]]]:
        encoded, *values = zip(*batch, strict=True)
        return zip(encoded, _place(plan, readers, values, len(batch)), strict=True)

    return _encoded(db, sql, convert, spill)


def _rows_of(plan: TablePlan) -> str:
    """Return the table as SQL, and the condition of its scope, if it is recorded in part."""
    table, scope = table_in("main", plan.name), plan.view.scope
    return f"{table} AS t WHERE {in_scope(scope, 't')}" if scope else table


def present_keys(db: sqlite3.Connection, plan: TablePlan, keys: Sequence[bytes]) -> list[bytes]:
    """Return those of `keys` that a row has, whatever the scope; costs a scan of the keys."""
    wanted = set(keys)
    rows = db.execute(f"SELECT {key_function(db, plan)} FROM {table_in('main', plan.name)}")
    return sorted({key for (key,) in rows if key in wanted})


def _encoded(
    db: sqlite3.Connection,
    sql: str,
    convert: Callable[[list[tuple[Any, ...]]], Iterator[tuple[bytes, list[Value]]]],
    spill: SpillContent,
) -> Iterator[tuple[bytes, bytes]]:
    last = b""
    cursor = db.execute(sql)
    try:
        while batch := cursor.fetchmany(BATCH_ROWS):
            for key, cells in convert(batch):
                if key <= last:
                    raise ValueError("the key is there twice")
                last = key
                yield key, encode_row(cells, spill)
    finally:
        cursor.close()


def _convert(one: Reader, values: Sequence[Any], nullable: bool) -> Sequence[Value]:
    """Return the cells of some values of one column, or raise: a column at a time is fastest."""
    classes = set(map(type, values))
    if nullable:
        classes.discard(type(None))
    if not classes <= one.classes:
        raise ValueError("a value of another class than its column's")
    convert = one.convert
    if convert is None:
        return values
    return [None if value is None else convert(value) for value in values]


def _place(
    plan: TablePlan, readers: Sequence[Reader], values: Sequence[Sequence[Any]], count: int
) -> Iterator[list[Value]]:
    """Yield the cells of `count` rows, each at its slot, from the values of live columns."""
    slots: list[Sequence[Value]] = [(None,) * count] * plan.schema.width
    for column, one, some in zip(plan.schema.live, readers, values, strict=True):
        slots[column.slot] = _convert(one, some, True)
    return map(list, zip(*slots, strict=True)) if slots else iter([[] for _ in range(count)])


def key_function(db: sqlite3.Connection, plan: TablePlan, alias: str = "") -> str:
    """Return SQL for the encoded key of a row; an error where the row has none."""
    name = f"gsync_key_{next(_numbers)}"
    readers = _key_readers(plan)
    encode_key = key_encoder([column.type for column in plan.schema.key])

    def encoded(*values: Any) -> bytes:
        return encode_key([_read(*pair, in_key=True) for pair in zip(readers, values, strict=True)])

    db.create_function(name, len(readers), encoded, deterministic=True)
    prefix = f"{alias}." if alias else ""
    return f"{name}({', '.join(prefix + quoted(key.name) for key in plan.schema.key)})"


def _key_readers(plan: TablePlan) -> list[Reader]:
    return [reader(key.type, _native(plan, key.name), in_key=True) for key in plan.schema.key]


def _cell_readers(plan: TablePlan) -> list[Reader]:
    return [reader(c.type, _native(plan, c.name), in_key=False) for c in plan.schema.live]


def _native(plan: TablePlan, name: str) -> str:
    column = plan.live.column(name)
    return column.native if column else ""


# --- Saying what is wrong ----------------------------------------------------------------


def _raise_faults(db: sqlite3.Connection, plan: TablePlan) -> None:
    """Read the whole table, cell by cell, and raise BadRows for what is wrong with it."""
    faults = _count_faults(db, plan)
    if not faults:
        _raise_twice(db, plan)
        return
    lines = []
    for (column, why), (count, key) in faults.items():
        rows = "1 row" if count == 1 else f"{count:,} rows"
        where = f"column {column} of " if column else ""
        which = "its key is" if count == 1 else "the key of the first is"
        lines.append(f"{where}table {plan.name}: {why} in {rows}; {which} {key}")
    raise BadRows(
        "; ".join(lines[:5]),
        hint="correct these rows, or leave the column out with the role `excluded`",
        table=plan.name,
        count=sum(count for count, _ in faults.values()),
    )


def _count_faults(
    db: sqlite3.Connection, plan: TablePlan
) -> dict[tuple[str, str], tuple[int, str]]:
    """Return how many rows have which fault in which column, and the key of one of them."""
    names = [key.name for key in plan.schema.key] + [c.name for c in plan.schema.live]
    width = len(plan.schema.key)
    readers = [*_key_readers(plan), *_cell_readers(plan)]
    encode_key = key_encoder([column.type for column in plan.schema.key])
    found: dict[tuple[str, str], tuple[int, str]] = {}
    cursor = db.cursor()
    old_factory, db.text_factory = db.text_factory, bytearray
    try:
        cursor.execute(f"SELECT {', '.join(map(quoted, names))} FROM {_rows_of(plan)}")
        while batch := cursor.fetchmany(BATCH_ROWS):
            for row in batch:
                cells: list[Value] = []
                faults: list[tuple[str, str]] = []
                for at, value in enumerate(row):
                    try:
                        cells.append(_read(readers[at], value, in_key=at < width))
                    except FAULTS as error:
                        what = f"holds {_class_name(value)}, where {_expected(plan, names[at])}"
                        why = error.message if isinstance(error, GsyncError) else str(error)
                        faults.append((names[at], f"{what} ({why})" if why else what))
                if not faults:
                    try:
                        encode_key(cells[:width])
                        encode_row(cells[width:], _name_only)
                    except FAULTS as error:
                        faults.append(("", str(error)))
                for fault in faults:
                    if fault not in found and len(found) >= _FAULTS_MAX:
                        fault = ("", "other faults")
                    count, key = found.get(fault, (0, ""))
                    found[fault] = count + 1, key or _show(row[:width])
    finally:
        db.text_factory = old_factory
        cursor.close()
    return found


def _read(one: Reader, value: Any, *, in_key: bool) -> Value:
    if value is None:
        if in_key:
            raise ValueError("")
        return None
    if type(value) is bytearray:
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise ValueError("it is not UTF-8") from None
    if type(value) not in one.classes:
        raise ValueError("")
    if one.convert is None:
        return value
    try:
        return one.convert(value)
    except FAULTS as error:
        raise ValueError("") from error


def _class_name(value: Any) -> str:
    match value:
        case None:
            return "NULL"
        case bytearray():
            return "text"
        case bytes():
            return "a blob"
        case int():
            return "an integer"
        case _:
            return "a real number"


def _expected(plan: TablePlan, name: str) -> str:
    native = _native(plan, name)
    type_ = plan.schema.types()[name]
    return f"{type_} is expected" + (f" ({native})" if native else "")


def _show(values: Sequence[Any]) -> str:
    shown = [v.decode(errors="replace") if isinstance(v, bytearray) else v for v in values]
    return "(" + ", ".join(repr(v)[:_SHOWN_MAX] for v in shown) + ")"


def _name_only(content: bytes) -> Reference:
    return Reference(Kind.BLOB, ObjectId(bytes(OID_BYTES)), len(content))


def _raise_twice(db: sqlite3.Connection, plan: TablePlan) -> None:
    """Raise BadRows if two rows have one key, which SQLite takes for two."""
    columns = ", ".join(f"min({quoted(key.name)})" for key in plan.schema.key)
    found = db.execute(
        f"SELECT count(*), {columns} FROM {_rows_of(plan)}"
        f" GROUP BY {key_function(db, plan)} HAVING count(*) > 1"
    ).fetchall()
    if not found:
        return
    raise BadRows(
        f"table {plan.name}: {len(found):,} keys are there more than once, in"
        f" {sum(row[0] for row in found):,} rows: one value in several spellings, such as the"
        f" key {_show(found[0][1:])}",
        hint="delete or correct all but one of each",
        table=plan.name,
        count=len(found),
    )
