"""COPY text -> keys and rows, for every type and awkward values, on every server."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from replicas.postgres.tables import Contents, plan_of, read, rows_of
from support_pg import Database

from gsync.objects.encoding import Reference
from gsync.replicas.postgres import PostgresDatabase
from gsync.replicas.tables.base import BadRows
from gsync.views.rows.keys import decode_key, encode_key
from gsync.views.rows.texts import format_cell

DAY = 86_400_000_000

# Type of Postgres, what is inserted, the cell.
CELLS: list[tuple[str, str, Any]] = [
    ("boolean", "t", True),
    ("boolean", "f", False),
    ("smallint", "-32768", -32768),
    ("integer", "2147483647", 2147483647),
    ("bigint", "-9223372036854775808", -(1 << 63)),
    ("bigint", "9223372036854775807", (1 << 63) - 1),
    ("numeric", "1.0", "1.0"),
    ("numeric", "1.00", "1.00"),
    ("numeric", "-0.000", "0.000"),
    ("numeric", "1e30", "1" + "0" * 30),
    ("numeric", "NaN", "NaN"),
    ("numeric", "-Infinity", "-Infinity"),
    ("numeric(8,3)", "3.14159", "3.142"),
    ("real", "0.1", 0.1),
    ("double precision", "-0", -0.0),
    ("double precision", "5e-324", 5e-324),
    ("double precision", "-infinity", -math.inf),
    ("double precision", "0.30000000000000004", 0.30000000000000004),
    ("text", "", ""),
    ("text", "\\N", "\\N"),
    ("text", "\v", "\v"),
    ("text", "\\v", "\\v"),
    ("text", "tab\tline\nreturn\r\b\f\v\\ \\t\\\\", "tab\tline\nreturn\r\b\f\v\\ \\t\\\\"),
    ("text", "\x01\x7f\u0085\u2028é\U0001f600", "\x01\x7f\u0085\u2028é\U0001f600"),
    ("text", "e\u0301", "e\u0301"),
    ("text", "NULL", "NULL"),
    ("varchar(10)", "ends ", "ends "),
    ("char(6)", "ab", "ab"),
    ("bytea", "\\x", b""),
    ("bytea", "\\x00ff5c0a09", b"\x00\xff\\\n\t"),
    ("uuid", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
     bytes.fromhex("a0eebc999c0b4ef8bb6d6bb9bd380a11")),
    ("date", "1970-01-01", 0),
    ("date", "1969-12-31", -1),
    ("date", "infinity", "infinity"),
    ("date", "-infinity", "-infinity"),
    ("date", "0044-03-15 BC", -735_160),
    ("date", "5874897-12-31", 2_145_042_905),
    ("timestamp", "1970-01-01 00:00:00.000001", 1),
    ("timestamp", "1969-12-31 23:59:59.999999", -1),
    ("timestamp", "2038-01-19 03:14:08.5", 2_147_483_648_500_000),
    ("timestamp", "infinity", "infinity"),
    ("timestamp", "-infinity", "-infinity"),
    ("timestamp", "4713-01-01 00:00:00 BC", -210_863_520_000 * 1_000_000),
    ("timestamp", "294245-12-31 23:59:59.999999", 9_223_339_708_799_999_999),
    ("timestamp", "294246-01-01 00:00:00", "294246-01-01 00:00:00"),
    ("timestamp", "294276-12-31 23:59:59.999999", "294276-12-31 23:59:59.999999"),
    ("timestamptz", "2000-01-01 00:00:00+02", 946_684_800_000_000 - 7_200_000_000),
    ("timestamptz", "infinity", "infinity"),
    ("timestamptz", "294246-01-01 00:00:00+00", "294246-01-01 00:00:00+00"),
    ("jsonb", '{"b":1.0,"a":[1e2,-0,null],"cc":"\\"\\\\\\u0001\\n/"}',
     '{"a": [100, 0, null], "b": 1.0, "cc": "\\"\\\\\\u0001\\n/"}'),
    ("jsonb", "1.00", "1.00"),
    ("jsonb", "null", "null"),
    ("text[]", "{}", []),
    ("text[]", '{a,NULL,"NULL","","b,c","\\"\\\\"," "}',
     ["a", None, "NULL", "", "b,c", '"\\', " "]),
    ("text[]", "{{a,b},{c,d}}", [["a", "b"], ["c", "d"]]),
    ("text[]", "[2:3]={a,b}", ["#lb", [2], ["a", "b"]]),
    ("varchar(3)[]", "{abc}", ["abc"]),
]  # fmt: skip


def test_cells(any_postgres: Database) -> None:
    """Each value comes out as the cell that page 11 says, and NULL as nil, wherever it stands."""
    with any_postgres.connect() as connection:
        columns = ", ".join(f"c{i} {type_}" for i, (type_, _, _) in enumerate(CELLS))
        connection.execute(f"CREATE TABLE t (id int PRIMARY KEY, {columns})")
        places = ", ".join("%s" for _ in CELLS)
        connection.execute(f"INSERT INTO t VALUES (1, {places})", [text for _, text, _ in CELLS])
        connection.execute("INSERT INTO t (id) VALUES (2)")
        connection.execute("INSERT INTO t (id, c0, c18) VALUES (3, true, 'x')")
    found = read(any_postgres.url, "t", ["id"])
    for i, (type_, text, cell) in enumerate(CELLS):
        assert repr(found[(1,)][f"c{i}"]) == repr(cell), (type_, text)
    assert set(found[(2,)].values()) == {None}
    assert {n: c for n, c in found[(3,)].items() if c is not None} == {"c0": True, "c18": "x"}


def test_nan(postgres: Database) -> None:
    """There is one NaN."""
    with postgres.connect() as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY, a float8, b float4)")
        connection.execute("INSERT INTO t VALUES (1, 'NaN', 'NaN')")
    with PostgresDatabase(postgres.url).reading() as session:
        plan = plan_of(session, "t", ["id"])
        ((_, row),) = session.rows(plan, Contents().spill)
    assert row == b"\x92" + b"\xcb\x7f\xf8\0\0\0\0\0\0" * 2


KEYS = [
    ("boolean", "bool", [False, True]),
    ("bigint", "int", [-(1 << 63), -1, 0, 1, 255, 256, (1 << 63) - 1]),
    ("numeric(12,2)", "numeric",
     ["NaN", "-1.50", "1.50", "0.00", "-0.01", "0.01", "10.00", "9.99", "-10.00", "-9.99"]),
    ("text", "text", ["", "a", "B", "ä", "a b", "ab", "a\x01", "\U0001f600", "\uffff", "\v", "\\"]),
    ("char(4)", "text", ["", "a", "a\x01", "B", "ab"]),
    ("bytea", "bytes", [b"", b"\0", b"\0\0", b"\0\xff", b"\x01", b"\xff", b"a"]),
    ("uuid", "uuid", [bytes([n] * 16) for n in (0, 1, 127, 128, 255)]),
    ("date", "date", ["infinity", "-infinity", -1, 0, 1, 20_000]),
    ("timestamp", "timestamp", ["infinity", "-infinity", -1, 0, 1, DAY]),
    ("timestamptz", "timestamptz", ["infinity", "-infinity", -1, 0, 1, DAY]),
]  # fmt: skip


@pytest.mark.parametrize(("native", "type_", "cells"), KEYS, ids=[k[0] for k in KEYS])
def test_keys_come_as_bytes_sort(
    postgres: Database, native: str, type_: str, cells: list[Any]
) -> None:
    """The order of the server is that of the encoded keys, alone and before another column."""
    pairs = [(cell, n) for cell in cells for n in (2, -1)]
    random.Random(1).shuffle(pairs)
    with postgres.connect() as connection:
        connection.execute(
            f"CREATE TABLE t (a {native}, n int, c text, PRIMARY KEY (a, n), UNIQUE (n, a))"
        )
        for cell, n in pairs:
            text = format_cell(type_, cell)
            connection.execute("INSERT INTO t VALUES (%s, %s, 'x')", [text, n])
    with PostgresDatabase(postgres.url).reading() as session:
        for key in (["a", "n"], ["n", "a"]):
            plan = plan_of(session, "t", key)
            types = [column_type for _, column_type in plan.schema.key]
            wanted = [pair if key[0] == "a" else pair[::-1] for pair in pairs]
            found = [key for key, _ in session.rows(plan, Contents().spill)]
            assert found == sorted(encode_key(types, cells) for cells in wanted)
            assert set(map(decode_key, found)) == set(wanted)


def test_spilled_cells(postgres: Database) -> None:
    """Long contents are spilled as the rule says, near its limits too."""
    with postgres.connect() as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY, a text, b bytea, c text[])")
        for n in (800, 900, 1000, 1023, 1024, 1025, 5000):
            connection.execute(
                "INSERT INTO t VALUES (%s, repeat('x', %s), decode(repeat('00', %s), 'hex'),"
                " array_fill(repeat('y', 40), ARRAY[%s / 42]))",
                [n, n, n, n],
            )
    contents = Contents()
    with PostgresDatabase(postgres.url).reading() as session:
        found = rows_of(session, plan_of(session, "t", ["id"]), contents)
    for (n,), row in found.items():
        assert (type(row["a"]) is Reference) == (n > 1024)
        assert (type(row["b"]) is Reference) == (n > 1024)
        assert (type(row["c"]) is Reference) == (n // 42 * 42 + 3 > 1024)
    assert contents.kept[found[(1025,)]["a"].oid] == b"x" * 1025


def test_a_reader_may_stop(postgres: Database) -> None:
    """After an iterator that was not read to its end, the session goes on."""
    with postgres.connect() as connection:
        connection.execute("CREATE TABLE t AS SELECT id FROM generate_series(1, 50000) AS id")
        connection.execute("ALTER TABLE t ADD PRIMARY KEY (id)")
    with PostgresDatabase(postgres.url).reading() as session:
        plan = plan_of(session, "t", ["id"])
        rows: Any = session.rows(plan, Contents().spill)
        assert decode_key(next(rows)[0]) == (1,)
        rows.close()
        assert len(list(session.rows(plan, Contents().spill))) == 50_000


def test_one_snapshot_holds_nobody_up(postgres: Database) -> None:
    """All tables are of one moment, and others write meanwhile."""
    with postgres.connect() as connection:
        connection.execute(
            "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)"
        )
        connection.execute("INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)")
    with PostgresDatabase(postgres.url).reading() as session:
        plans = [plan_of(session, name, ["id"]) for name in "ab"]
        assert set(rows_of(session, plans[0])) == {(1,)}
        with postgres.connect() as other:
            other.execute("SET lock_timeout = '2s'")
            other.execute("DELETE FROM a; DELETE FROM b; INSERT INTO b VALUES (2)")
        assert set(rows_of(session, plans[1])) == {(1,)}
    assert set(read(postgres.url, "b", ["id"])) == {(2,)}


def test_a_key_that_is_too_long(postgres: Database) -> None:
    """More than 4,096 bytes are refused, with the table."""
    with postgres.connect() as connection:
        connection.execute("CREATE TABLE t (id bytea PRIMARY KEY)")
        connection.execute("INSERT INTO t VALUES (decode(repeat('00', 2100), 'hex'))")
    with pytest.raises(BadRows, match="table t: .*4096"):
        read(postgres.url, "t", ["id"])


def test_settings_of_the_role_do_not_matter(postgres: Database) -> None:
    """A database whose defaults print otherwise gives the same cells."""
    with postgres.connect(autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE t (id date PRIMARY KEY, a timestamptz, b float8, c bytea, d text)"
        )
        connection.execute(
            "INSERT INTO t VALUES ('2001-02-03', '2001-02-03 04:05:06+00', 1/3.0::float8, 'a', 'ü')"
        )
        before = read(postgres.url, "t", ["id"])
        for name, value in {
            **{"DateStyle": "German", "TimeZone": "Asia/Kolkata", "extra_float_digits": "-5"},
            **{"bytea_output": "escape", "client_encoding": "LATIN1", "search_path": "nowhere"},
        }.items():
            connection.execute(f"ALTER DATABASE {postgres.name} SET {name} = '{value}'")
    assert read(postgres.url, "t", ["id"]) == before


def test_awkward_names(postgres: Database) -> None:
    """Names with quotes, percent signs and braces are names."""
    with postgres.connect() as connection:
        connection.execute('CREATE SCHEMA "S %s"')
        connection.execute('CREATE TABLE "S %s"."T ""{x}" ("k \'%s" int PRIMARY KEY, "{c}" text)')
        connection.execute('INSERT INTO "S %s"."T ""{x}" VALUES (1, \'a\')')
    assert read(postgres.url, 'S %s.T "{x}', ["k '%s"]) == {(1,): {"{c}": "a"}}


@pytest.mark.parametrize("encoding", ["LATIN1", "WIN1252", "EUC_JP"])
def test_a_database_in_another_encoding(postgres: Database, encoding: str) -> None:
    """Keys come in the order of their UTF-8, and texts as they are."""
    texts = {"EUC_JP": "a\uff71\u4e9c\u3042\u044f"}.get(encoding, "a\u00e9\u00ff\u0080"[:3])
    if encoding == "WIN1252":
        texts += "\u20ac\u0161\u2122"
    name = f"{postgres.name}_{encoding.lower()}"
    with postgres.connect(autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}'")
    other = Database(postgres.cluster, name)
    try:
        with other.connect() as connection:
            connection.execute("SET client_encoding = 'UTF8'")
            connection.execute("CREATE TABLE t (id text PRIMARY KEY, a text)")
            for text in texts:
                connection.execute("INSERT INTO t VALUES (%s, %s)", [text, text])
        assert read(other.url, "t", ["id"]) == {(text,): {"a": text} for text in texts}
    finally:
        postgres.cluster.drop_database(other)
