"""Scanning SQLite files: one order, one root, and rows that cannot be carried."""

from __future__ import annotations

from pathlib import Path

import pytest
from replicas.sqlite.tables import insert, make, plans_of, run

from gsync.replicas.tables.base import BadRows
from gsync.views.rows.keys import decode_key
from gsync.views.rows.values import decode_row, name_content

EVERY = """CREATE TABLE every (
    id INTEGER PRIMARY KEY, a BOOLEAN, b BIGINT, c NUMERIC TEXT, d REAL, e VARCHAR(9), f BLOB,
    g UUID, h DATE, i TIMESTAMP, j TIMESTAMPTZ, k JSON, l TEXT_ARRAY TEXT)"""
UUID = "00112233-4455-6677-8899-aabbccddeeff"


def rows_of(database, table="every", **keys):
    with database.reading() as session:
        plan = plans_of(session, **keys)[table]
        names = [column.name for column in plan.schema.live]
        return [
            (decode_key(key), dict(zip(names, decode_row(row, plan.schema.width), strict=True)))
            for key, row in session.rows(plan, name_content)
        ]


def test_every_type_has_its_cell(tmp_path: Path):
    """Each declared type of page 12 gives the cell of page 11."""
    path = tmp_path / "a b?c#d%.db"
    database = make(path, EVERY)
    insert(path, "every", [
        (1, 1, -(2**63), "1.50", -0.5, "h\0é", b"\0\xff", UUID.upper(), "2024-02-29",
         "1970-01-01 00:00:01.5", "1970-01-01T02:00:00+02:00", '{"bb":1,"a":1e2}', '["x",null]'),
        (2, *[None] * 12),
    ])  # fmt: skip
    assert rows_of(database) == [
        ((1,), {
            "a": True, "b": -(2**63), "c": "1.50", "d": -0.5, "e": "h\0é", "f": b"\0\xff",
            "g": bytes.fromhex(UUID.replace("-", "")), "h": 19782, "i": 1_500_000, "j": 0,
            "k": '{"a": 100, "bb": 1}', "l": ["x", None],
        }),
        ((2,), dict.fromkeys("abcdefghijkl")),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "column, value, said",
    [
        ("a", 2, "an integer, where bool"),
        ("b", "x", "holds text, where int is expected (BIGINT)"),
        ("d", "x", "float"), ("e", b"x", "a blob"), ("f", "x", "bytes"),
        ("c", "01.5", "numeric"),
        ("g", "x", "uuid"), ("h", 5, "an integer"), ("h", "2023-02-29", "date"),
        ("i", "2024-01-01 00:00:00Z", "timestamp"), ("j", "2024-01-01 00:00:00", "timestamptz"),
        ("i", "2024-01-01 00:00:00.0000001", "timestamp"), ("k", "{", "jsonb"), ("k", 1.5, "jsonb"),
        ("l", '["a",["b"]]', "text[]"), ("l", "{a}", "text[]"), ("l", "[1]", "text[]"),
        ("l", "[" * 100_000, "text[]"),
    ],
)  # fmt: skip
def test_a_value_outside_its_type_stops_the_scan(tmp_path: Path, column, value, said):
    """The message names table, column, key and count."""
    path = tmp_path / "f.db"
    database = make(path, EVERY)
    run(path, "INSERT INTO every (id) VALUES (1)")
    for number in (7, 8):
        run(path, f"INSERT INTO every (id) VALUES ({number})")
        run(path, f"UPDATE every SET {column} = ? WHERE id = {number}", values=(value,))
    with pytest.raises(BadRows) as caught:
        rows_of(database)
    message = str(caught.value)
    assert f"column {column} of table every" in message
    assert "in 2 rows; the key of the first is (7)" in message
    assert said in message


def test_text_that_is_not_utf8_stops_the_scan(tmp_path: Path):
    """It is counted too, and the reader is as before."""
    path = tmp_path / "f.db"
    database = make(path, EVERY, "INSERT INTO every (id, e) VALUES (3, CAST(x'ff41' AS TEXT))")
    with pytest.raises(BadRows, match="column e of table every: holds text.*not UTF-8.* 1 row"):
        rows_of(database)


@pytest.mark.parametrize("type_", ["TEXT", "UUID", "DATE", "BLOB", "NUMERIC TEXT(9,2)"])
def test_null_in_a_key_stops_the_scan(tmp_path: Path, type_):
    """SQLite lets a primary key be NULL."""
    database = make(
        tmp_path / "f.db",
        f"CREATE TABLE t (k {type_} PRIMARY KEY)",
        "INSERT INTO t VALUES (NULL)",
    )
    with pytest.raises(BadRows, match="column k of table t: holds NULL.*1 row"):
        rows_of(database, "t")


def test_one_key_in_two_spellings_stops_the_scan(tmp_path: Path):
    """SQLite takes them for two; a map has one place."""
    path = tmp_path / "f.db"
    database = make(path, "CREATE TABLE t (k TIMESTAMPTZ PRIMARY KEY)")
    insert(path, "t", [("2024-01-01 00:00:00Z",), ("2024-01-01 01:00:00+01",)])
    with pytest.raises(BadRows, match="table t: 1 keys .* 2 rows"):
        rows_of(database, "t")


@pytest.mark.parametrize(
    "type_, values",
    [
        ("INTEGER", [-(2**63), -1, 0, 1, 2**63 - 1]),
        ("BIGINT", [-(2**63), -1, 0, 1, 2**63 - 1]),
        ("TEXT", ["", "\0", "\0\0", "a", "a\0", "a\0b", "ab", "é", "\ue000", "\U00010000"]),
        ("BLOB", [b"", b"\0", b"\0\xff", b"\xff", b"\xff\0"]),
        ("UUID TEXT", [UUID.upper().replace("0011", "F011"), UUID, UUID.replace("00", "0a")]),
        ("DATE", ["0044-03-15 BC", "0001-01-01", "2024-01-01", "12024-01-01", "infinity"]),
        ("TIMESTAMP", ["2024-01-01 00:00:00", "1969-01-01T00:00", "1970-01-01 00:00:00.5"]),
        ("NUMERIC TEXT(9,1)", ["-10.0", "-9.5", "0.0", "9.5", "10.0"]),
    ],
)  # fmt: skip
def test_rows_come_in_the_order_of_their_keys(tmp_path: Path, type_, values):
    """Whatever SQLite's own order is, also in composite keys."""
    path = tmp_path / "f.db"
    database = make(path, f"CREATE TABLE t (k {type_} NOT NULL, n INT, PRIMARY KEY (k, n))")
    insert(path, "t", [(value, n) for value in reversed(values) for n in (1, -1)])
    with database.reading() as session:
        keys = [key for key, _ in session.rows(plans_of(session)["t"], name_content)]
    assert keys == sorted(keys) and len(set(keys)) == 2 * len(values)


def test_a_snapshot_does_not_see_later_writes(tmp_path: Path):
    """A write in WAL mode goes on beside a scan, which is of one moment."""
    path = tmp_path / "f.db"
    database = make(path, "PRAGMA journal_mode=WAL", "CREATE TABLE t (k INT PRIMARY KEY)")
    insert(path, "t", [(n,) for n in range(3000)])
    with database.reading() as session:
        rows = session.rows(plans_of(session)["t"], name_content)
        next(rows)
        run(path, "DELETE FROM t")
        assert len(list(rows)) == 2999
