"""Recorded tables as files: a scan of what was written gives the same roots."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from replicas.sqlite.tables import Kept, plans_of, query

from gsync.maps.omap import build_map, list_entries
from gsync.replicas.sqlite import SqliteDatabase
from gsync.replicas.sqlite.cells import Unwritable
from gsync.replicas.sqlite.export import FileExists, write_sqlite
from gsync.views.rows.export import write_csv, write_jsonl
from gsync.views.rows.keys import encode_key
from gsync.views.rows.schema import ForeignKey, KeyColumn, NewColumn, Schema, make_schema
from gsync.views.rows.values import encode_row

TYPES = ["bool", "bytes", "date", "float", "int", "jsonb", "numeric", "text", "text[]",
         "timestamp", "timestamptz", "uuid"]  # fmt: skip
EVERY = make_schema(
    'billing.every "one"',
    [KeyColumn("k", "text"), KeyColumn("n", "numeric")],
    [NewColumn(f"c {type_}", type_, True) for type_ in TYPES],
)
PARENT = make_schema("p", [KeyColumn("id", "int")], [NewColumn("u", "text", False)], [["u"]])
CHILD = make_schema(
    "c", [KeyColumn("u", "uuid"), KeyColumn("t", "timestamptz")], [NewColumn("p", "text", True)],
    foreign=[ForeignKey(("p",), "p", ("u",), "set null")], known=None,
)  # fmt: skip

# Columns stand in the order of their names, which is that of TYPES.
ROWS: list[list[Any]] = [
    [True, b"\0\xff", -719_163, -0.5, -(2**63), '{"a": 1.50}', "1.50", "", [], "infinity", 0,
     bytes(16)],
    [False, b"", "-infinity", 1e300, 2**63 - 1, "1", "-Infinity", "a,\"b\"\r\n", ["x", None],
     -(10**17), "294247-01-01 00:00:00+00", b"\xff" * 16],
    [None] * 12,
    [True, b"\1" * 9000, 10**6, float("inf"), 0, "1.0", "NaN", "é" * 9000, [["a"], ["NULL"]],
     10**17, -(10**17), bytes(range(16))],
    [None, None, "infinity", None, None, "null", "0.0", "\\.", [""], 1, -1, None],
]  # fmt: skip


def entries(kept: Kept) -> Iterator[tuple[bytes, bytes]]:
    for number, cells in enumerate(ROWS):
        key = encode_key(["text", "numeric"], [f"k\0{number}", f"{number}.50"])
        yield key, encode_row(list(cells), kept.spill)


def test_a_scan_of_the_file_gives_the_same_root(tmp_path: Path):
    """Of every type, with long cells and awkward ones."""
    kept = Kept()
    root = build_map(kept.store, entries(kept))
    path = tmp_path / "out.db"
    write_sqlite(path, [(EVERY, list_entries(kept.store, root))], kept.load)
    assert kept.scan(SqliteDatabase(path), EVERY.table) == root
    with SqliteDatabase(path).reading() as session:
        assert plans_of(session)[EVERY.table].schema == EVERY
    assert [p.name for p in tmp_path.iterdir()] == ["out.db"]


def test_keys_and_parents_are_declared(tmp_path: Path):
    """A foreign key whose parent is not written is left out."""
    kept = Kept()
    parents = [(encode_key(["int"], [n]), encode_row([f"u{n}"], kept.spill)) for n in (1, 2)]
    key = encode_key(["uuid", "timestamptz"], [bytes(16), 5])
    children = [(key, encode_row(["u1"], kept.spill))]
    both, alone = tmp_path / "both.db", tmp_path / "alone.db"
    write_sqlite(both, [(CHILD, iter(children)), (PARENT, iter(parents))], kept.load)
    write_sqlite(alone, [(CHILD, iter(children))], kept.load)
    for path, foreign in ((both, CHILD.foreign), (alone, ())):
        with SqliteDatabase(path).reading() as session:
            plans = plans_of(session)
            assert plans["c"].schema.foreign == foreign
            assert not any(c.fills_itself for t in plans.values() for c in t.live.columns)
    with SqliteDatabase(both).reading() as session:
        assert plans_of(session)["p"].schema == PARENT
    assert query(both, "PRAGMA foreign_key_check") == []
    assert kept.scan(SqliteDatabase(both), "c") == build_map(kept.store, children)


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path: Path):
    """A file that is there stays; a cell that SQLite has no form for leaves none."""
    path = tmp_path / "out.db"
    path.write_text("mine")
    with pytest.raises(FileExists):
        write_sqlite(path, [(EVERY, iter([]))], Kept().load)
    assert path.read_text() == "mine"
    schema = make_schema("t", [KeyColumn("k", "int")], [NewColumn("f", "float", True)])
    rows = [(encode_key(["int"], [n]), encode_row([float("nan")], Kept().spill)) for n in (1, 2)]
    with pytest.raises(Unwritable, match=r"column f of table t, key \(1,\)"):
        write_sqlite(tmp_path / "other.db", [(schema, iter(rows))], Kept().load)
    assert [p.name for p in tmp_path.iterdir()] == ["out.db"]


def small() -> tuple[Schema, list[tuple[bytes, bytes]], Kept]:
    kept = Kept()
    columns = [NewColumn(n, t, True) for n, t in (("a", "text"), ("b", "bool"), ("c", "bytes"))]
    schema = make_schema("t", [KeyColumn("k", "timestamptz")], columns)
    cells: list[list[Any]] = [
        ["", True, b"\1"],
        [None, None, None],
        ['x,"y"\n', False, b"\2" * 5000],
        ["\\."],
    ]
    rows = [
        (encode_key(["timestamptz"], [n]), encode_row(row, kept.spill))
        for n, row in enumerate(cells)
    ]
    return schema, rows, kept


def test_csv_tells_null_from_an_empty_text(tmp_path: Path):
    """And reads back with any reader of RFC 4180."""
    schema, rows, kept = small()
    stream = io.StringIO(newline="")
    write_csv(stream, schema, rows, kept.load)
    lines = stream.getvalue().split("\r\n")
    assert lines[:3] == [
        "k,a,b,c", '1970-01-01 00:00:00+00,"",true,\\x01', "1970-01-01 00:00:00.000001+00,,,"
    ]  # fmt: skip
    assert lines[-2:] == ['1970-01-01 00:00:00.000003+00,"\\.",,', ""]
    read = list(csv.reader(io.StringIO(stream.getvalue(), newline="")))
    assert read[3] == [
        "1970-01-01 00:00:00.000002+00", 'x,"y"\n', "false", "\\x" + "02" * 5000
    ]  # fmt: skip


def test_json_lines_hold_an_object_a_row(tmp_path: Path):
    """Names are the columns', key columns first."""
    schema, rows, kept = small()
    stream = io.StringIO()
    write_jsonl(stream, schema, rows, kept.load)
    documents = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [list(document) for document in documents] == [["k", "a", "b", "c"]] * 4
    assert documents[1] == {"k": "1970-01-01T00:00:00.000001Z", "a": None, "b": None, "c": None}
    assert documents[2]["a"] == 'x,"y"\n'
