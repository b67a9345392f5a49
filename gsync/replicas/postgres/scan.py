"""COPY text -> encoded keys and rows, one line at a time.

The text format has one line a row, its fields apart by tabs; a backslash, and control
characters by way of one, are all that is escaped. NULL is written as a raw vertical tab,
which never stands in a value, since there it is escaped: a line with a NULL thus has no
backslash, and only lines that have one are looked at twice. For each table two functions
are generated, one expression per column: for lines without and with backslashes.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgpack  # type: ignore[import-untyped]

from gsync.errors import Invalid
from gsync.objects.encoding import Value
from gsync.replicas.postgres import sql
from gsync.replicas.tables.base import BadRows, TablePlan
from gsync.views.rows.arrays import parse_array
from gsync.views.rows.keys import KEY_BYTES_MAX, decode_key, key_encoder
from gsync.views.rows.texts import format_cell
from gsync.views.rows.values import SpillContent, encode_row

if TYPE_CHECKING:
    import psycopg

NULL = "\v"

# A line of fewer bytes has no cell above 1,024 bytes and makes no row above 8,192: a cell is
# no longer than its text, but for floats (9 bytes for 2 characters) and for long items of
# arrays (a byte more), for which there is room.
SURELY_WHOLE_BYTES = 900

_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_TAGGED_INT = struct.Struct(">BQ").pack

Convert = Callable[[list[str]], tuple[bytes, list[Value]]]


def read_rows(
    connection: psycopg.Connection[tuple[Any, ...]],
    plan: TablePlan,
    spill: SpillContent,
    since: int | None = None,
) -> Iterator[tuple[bytes, bytes]]:
    """Yield encoded key and encoded row of every row, in key order.

    Args:
        since: Only rows of transactions that are not older than this one, by its whole id.
    """
    # A reader that stops early cancels the COPY; the transaction has to outlive that.
    connection.execute("SAVEPOINT gsync_rows")
    try:
        yield from _read(connection, plan, spill, since)
    except GeneratorExit:
        if not connection.closed:
            connection.execute("ROLLBACK TO SAVEPOINT gsync_rows")
        raise
    connection.execute("RELEASE SAVEPOINT gsync_rows")


def _read(
    connection: psycopg.Connection[tuple[Any, ...]],
    plan: TablePlan,
    spill: SpillContent,
    since: int | None,
) -> Iterator[tuple[bytes, bytes]]:
    plain, escaped = make_converter(plan, escaped=False), make_converter(plan, escaped=True)
    pack = msgpack.Packer().pack
    encoding = connection.info.parameter_status("server_encoding")
    is_utf8 = encoding in ("UTF8", "SQL_ASCII")
    statement = copy_statement(plan, is_utf8=is_utf8, since=since)
    before = b""
    data: Any = b""
    try:
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            for data in copy:
                line = str(data, "utf-8")
                fields = line[:-1].split("\t")
                key, cells = escaped(fields) if "\\" in line else plain(fields)
                if key <= before or len(key) > KEY_BYTES_MAX:
                    raise _bad_key(plan, key, before)
                before = key
                if len(data) < SURELY_WHOLE_BYTES:
                    while cells and cells[-1] is None:
                        cells.pop()
                    yield key, pack(cells)
                else:
                    yield key, encode_row(cells, spill)
    except BadRows:
        raise
    except (Invalid, ValueError) as error:
        shown = bytes(data[:80]).decode("utf-8", "replace")
        raise BadRows(
            f"table {plan.name}: a row cannot be carried: {error}; it begins with {shown!r}"
        ) from error


def present_keys(
    connection: psycopg.Connection[tuple[Any, ...]], plan: TablePlan, keys: Sequence[bytes]
) -> list[bytes]:
    """Return those of `keys` that a row has, whatever the scope."""
    if not keys:
        return []
    encode_key = key_encoder([type_ for _, type_ in plan.schema.key])
    names, wanted, values = [], [], []
    for name, type_ in plan.schema.key:
        column = plan.live.column(name)
        names.append(f"t.{sql.quote(name)}")
        wanted.append(f"%s::{column.native if column else type_}")
    row = f"({', '.join(wanted)})".replace("%", "%%").replace("%%s::", "%s::")
    for key in keys:
        cells = zip(decode_key(key), plan.schema.key, strict=True)
        values += [format_cell(type_, cell) for cell, (_, type_) in cells]
    outputs = ", ".join(
        f"({sql.output(plan, name, type_, f't.{sql.quote(name)}')})::pg_catalog.text"
        for name, type_ in plan.schema.key
    ).replace("%", "%%")
    table = sql.qualified(plan.name).replace("%", "%%")
    found = connection.execute(
        f"SELECT {outputs} FROM {table} AS t WHERE ({', '.join(names).replace('%', '%%')})"
        f" IN ({', '.join([row] * len(keys))})",
        values,
    ).fetchall()
    types = [type_ for _, type_ in plan.schema.key]
    rows = (
        encode_key([cell_of(type_, text) for type_, text in zip(types, texts, strict=True)])
        for texts in found
    )
    # What was cast to a column's type may have become the key of another row.
    return sorted(set(keys).intersection(rows))


def copy_statement(plan: TablePlan, *, is_utf8: bool, since: int | None = None) -> str:
    """Return the COPY that reads the table in key order; `is_utf8`: texts sort by UTF-8 already."""
    columns = sql.columns_of(plan)
    outputs = ", ".join(
        sql.output(plan, name, type_, f"t.{sql.quote(name)}") for name, type_ in columns
    )
    order = ", ".join(
        sql.sort_key(plan, name, type_, f"t.{sql.quote(name)}", is_utf8)
        for name, type_ in plan.schema.key
    )
    table, scope = sql.qualified(plan.name), plan.view.scope
    conditions = [sql.in_scope(scope, "t")] if scope else []
    if since is not None:
        # Ids are compared by age: they come round, and freezing leaves them as they are.
        oldest = f"'{since % 2**32}'::pg_catalog.xid"
        conditions.append(f"pg_catalog.age(t.xmin) <= pg_catalog.age({oldest})")
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return (
        f"COPY (SELECT {outputs} FROM {table} AS t{where} ORDER BY {order})"
        " TO STDOUT (FORMAT text, NULL E'\\x0b', ENCODING 'UTF8')"
    )


# --- Fields -> cells -----------------------------------------------------------------


def make_converter(plan: TablePlan, *, escaped: bool) -> Convert:
    """Return the function fields -> (encoded key, cells by slot) of a table."""
    keys = [f"k{place}" for place in range(len(plan.schema.key))]
    live = plan.schema.live
    names = keys + [f"c{column.slot}" for column in live]
    cells = ["None"] * plan.schema.width
    for column in live:
        field = f"c{column.slot}"
        cell = cell_expression(column.type, field, escaped)
        found = plan.live.column(column.name)
        if found is None or found.nullable:
            cell = f"(None if {field} == NULL else {cell})"
        cells[column.slot] = cell
    scope: dict[str, Any] = dict(_SCOPE)
    parts = []
    for name, (_, type_) in zip(keys, plan.schema.key, strict=True):
        scope[f"encode_{name}"] = key_encoder([type_])
        parts.append(_key_expression(type_, name, cell_expression(type_, name, escaped)))
    source = (
        "def convert(fields):\n"
        f"    ({', '.join(names)},) = fields\n"
        f"    return {' + '.join(parts)}, [{', '.join(cells)}]\n"
    )
    exec(compile(source, f"<rows of {plan.name}>", "exec"), scope)
    convert: Convert = scope["convert"]
    return convert


def cell_expression(type_: str, field: str, escaped: bool) -> str:
    """Return the expression that turns the text in the variable `field` into a cell."""
    if escaped and type_ in ("text", "jsonb", "text[]"):
        field = f"unescape({field})"
    return _EXPRESSIONS[type_].format(v=field)


def _key_expression(type_: str, name: str, cell: str) -> str:
    match type_:
        case "int":
            return f"pack_int(32, {cell} + SIGN)"
        case "text":
            return f'b"\\x40" + {cell}.encode() + b"\\0"'  # no text of Postgres holds a 00
        case "uuid":
            return f'b"\\x42" + {cell}'
    return f"encode_{name}(({cell},))"


def unescape(field: str) -> str:
    """Return what stood in the field before COPY escaped it."""
    if "\\" not in field:
        return field
    return _ESCAPE.sub(lambda match: _ESCAPED.get(match[1], match[1]), field)


def time_cell(text: str) -> int | str:
    """Return microseconds before 1970, or what has none as the text that it is."""
    return int(text) if text[1:].isdigit() else text


_EXPRESSIONS = {
    "bool": "({v}[0] == 't')",
    "int": "int({v})",
    "numeric": "{v}",
    "float": "float({v})",
    "text": "{v}",
    "bytes": "fromhex({v})",
    "uuid": "fromhex({v}.replace('-', ''))",
    "date": "({v} if {v}[-1] == 'y' else int({v}))",
    "timestamp": "(int({v}) if {v}.isdigit() else time_cell({v}))",
    "timestamptz": "(int({v}) if {v}.isdigit() else time_cell({v}))",
    "jsonb": "{v}",
    "text[]": "array({v})",
}
_SCOPE: dict[str, Any] = {
    "NULL": NULL,
    "SIGN": 1 << 63,
    "array": parse_array,
    "fromhex": bytes.fromhex,
    "pack_int": _TAGGED_INT,
    "time_cell": time_cell,
    "unescape": unescape,
}


_CELLS: dict[str, Callable[[str], Value]] = {
    type_: eval(f"lambda v: {expression.format(v='v')}", _SCOPE)
    for type_, expression in _EXPRESSIONS.items()
}


def cell_of(type_: str, text: str | None) -> Value:
    """Return the cell of what `sql.output` gives, cast to text."""
    return None if text is None else _CELLS[type_](text)


def _bad_key(plan: TablePlan, key: bytes, before: bytes) -> BadRows:
    if len(key) > KEY_BYTES_MAX:
        return BadRows(
            f"table {plan.name}: a key of {len(key)} bytes, where {KEY_BYTES_MAX} is the"
            f" maximum; it begins with {key[:40]!r}"
        )
    what = "there twice" if key == before else "not in order"
    return BadRows(f"table {plan.name}: the key {decode_key(key)!r} is {what}")
