"""What the catalog of a SQLite file says."""

from __future__ import annotations

from pathlib import Path

import pytest
from replicas.sqlite.tables import make, query

from gsync.replicas.sqlite.names import DECLARED, has_numeric_affinity, logical_type
from gsync.replicas.tables.base import LiveForeignKey, LiveTrigger, LiveUnique
from gsync.views.rows.schema import TYPES, ForeignKey


def tables_of(database):
    with database.reading() as session:
        return {table.name: table for table in session.tables()}


@pytest.mark.parametrize(
    "declared, type_",
    [
        ("bool", "bool"), ("BOOLEAN", "bool"), ("int", "int"), ("UNSIGNED BIG INT", "int"),
        ("DECIMAL TEXT", "numeric"), ("numeric text(10, 2)", "numeric"), ("NUMERIC", None),
        ("DECIMAL(10,2)", None), ("DOUBLE PRECISION", "float"), ("FLOAT", "float"),
        ("VARCHAR(255)", "text"), ("clob", "text"), ("TEXT", "text"), ("BLOB(16)", "bytes"),
        ("UUID", "uuid"), ("UUID TEXT", "uuid"), ("DATE TEXT", "date"), ("DATETIME", "timestamp"),
        ("TIMESTAMP", "timestamp"), ("TIMESTAMPTZ  TEXT", "timestamptz"), ("JSONB", "jsonb"),
        ("JSON TEXT", "jsonb"), ("TEXT_ARRAY TEXT", "text[]"), ("", None), ("ANY", None),
        ("MONEY", None),
    ],
)  # fmt: skip
def test_declared_types(declared, type_):
    """The table of page 12, from the top."""
    assert logical_type(declared) == type_


def test_every_type_has_a_declared_one():
    """Which means it again, and under which SQLite converts no text."""
    assert {type_: logical_type(declared) for type_, declared in DECLARED.items()} == {
        type_: type_ for type_ in TYPES
    }
    assert [t for t, d in DECLARED.items() if has_numeric_affinity(d)] == ["bool", "int", "float"]


def test_columns_keys_and_defaults(tmp_path: Path):
    """Every column with what it is, in the table's order."""
    database = make(
        tmp_path / "a.db",
        """CREATE TABLE t (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            "a ""b" TEXT COLLATE NOCASE NOT NULL UNIQUE DEFAULT 'x''y',
            r BLOB DEFAULT (randomblob(16)),
            g INT GENERATED ALWAYS AS (id * 2) STORED,
            v INT AS (id * 3),
            n DECIMAL(10,2),
            UNIQUE (r, "a ""b"))""",
        "CREATE UNIQUE INDEX part ON t (n) WHERE n > 1",
        "CREATE UNIQUE INDEX expr ON t (abs(id))",
        "CREATE INDEX plain ON t (n)",
    )
    table = tables_of(database)["t"]
    columns = {column.name: column for column in table.columns}
    assert list(columns) == ["id", 'a "b', "r", "g", "v", "n"]
    assert [c.type for c in table.columns] == ["int", "text", "bytes", "int", "int", None]
    assert [c.fills_itself for c in table.columns] == [True, False, True, False, False, False]
    assert [c.generated for c in table.columns] == [False, False, False, True, True, False]
    assert [c.nullable for c in table.columns] == [False, False, True, True, True, True]
    assert columns['a "b'].default == "'x''y'" and columns["n"].native == "DECIMAL(10,2)"
    assert "NOCASE" in (columns['a "b'].key_problem or "")
    assert columns["id"].key_problem is None
    assert [(u.columns, u.primary) for u in table.uniques] == [
        (("id",), True), (('a "b',), False), (("r", 'a "b'), False)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "ddl, fills, nullable",
    [
        ("CREATE TABLE t (k INTEGER PRIMARY KEY)", True, False),
        ("CREATE TABLE t (k INTEGER, PRIMARY KEY (k))", True, False),
        ("CREATE TABLE t (k INTEGER PRIMARY KEY DESC)", False, False),
        ("CREATE TABLE t (k INT PRIMARY KEY)", False, False),
        ("CREATE TABLE t (k INTEGER PRIMARY KEY) WITHOUT ROWID", False, False),
        ("CREATE TABLE t (k INTEGER PRIMARY KEY) STRICT", True, False),
        ("CREATE TABLE t (k TEXT PRIMARY KEY DEFAULT (lower(hex(randomblob(8)))))", True, False),
    ],
)
def test_primary_keys_that_fill_themselves(tmp_path: Path, ddl, fills, nullable):
    """The rowid by another name, and random defaults."""
    (column,) = tables_of(make(tmp_path / "a.db", ddl))["t"].columns
    assert (column.fills_itself, column.nullable) == (fills, nullable)


def test_foreign_keys(tmp_path: Path):
    """In the order of their declaration; without columns they name the parent's key."""
    database = make(
        tmp_path / "a.db",
        "CREATE TABLE Parent (a INT, b INT, c TEXT UNIQUE, PRIMARY KEY (b, a))",
        """CREATE TABLE t (k INT PRIMARY KEY, x INT, y INT, z TEXT REFERENCES parent (c),
            s INT REFERENCES t ON DELETE SET NULL, gone INT REFERENCES nowhere,
            FOREIGN KEY (x, y) REFERENCES PARENT ON DELETE CASCADE)""",
    )
    assert tables_of(database)["t"].foreign == (
        LiveForeignKey("t(z)", ForeignKey(("z",), "Parent", ("c",)), True),
        LiveForeignKey("t(s)", ForeignKey(("s",), "t", ("k",), "set null"), True),
        LiveForeignKey("t(x, y)", ForeignKey(("x", "y"), "Parent", ("b", "a"), "cascade"), True),
    )


def test_triggers(tmp_path: Path):
    """With the event that they fire at, whatever stands before it."""
    database = make(
        tmp_path / "a.db",
        "CREATE TABLE t (k INT PRIMARY KEY, v)",
        """CREATE TRIGGER "on INSERT" /* or DELETE */ AFTER UPDATE OF v ON t
            WHEN new.v = 'INSERT' BEGIN
              UPDATE t SET v = 1;
            END""",
        "CREATE TRIGGER b BEFORE DELETE ON T BEGIN SELECT 1; END",
    )
    assert tables_of(database)["t"].triggers == (
        LiveTrigger("b", ("DELETE",), "SELECT 1; END"),
        LiveTrigger("on INSERT", ("UPDATE",), "UPDATE t SET v = 1;"),
    )


def test_virtual_tables_have_a_problem(tmp_path: Path):
    """Views and SQLite's own tables are not listed."""
    path = tmp_path / "a.db"
    database = make(
        path, "CREATE TABLE t (k INTEGER PRIMARY KEY AUTOINCREMENT)", "CREATE VIEW v AS SELECT 1",
        "CREATE VIRTUAL TABLE f USING fts5(x)", "INSERT INTO t VALUES (1)", "ANALYZE",
    )  # fmt: skip
    tables = tables_of(database)
    assert tables["f"].problem and "virtual" in tables["f"].problem
    assert tables["f_data"].problem and not tables["t"].problem
    assert "v" not in tables and not any(name.startswith("sqlite_") for name in tables)
    assert tables["t"].rows == 1 and tables["t"].uniques == (
        LiveUnique("PRIMARY KEY", ("k",), primary=True),
    )
    assert query(path, "SELECT count(*) FROM t") == [(1,)]
