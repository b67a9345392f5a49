"""One table in two engines: equal rows, equal roots, and every change proved."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from support_cli import gsync_in, refused
from support_pg import Database as PgDatabase
from support_pg import MakeDatabase
from support_tables import SCHEMA, Live, generation, pair

from gsync.config import TableConfig
from gsync.maps.diff import diff_maps
from gsync.maps.omap import EMPTY_MAP, edit_map
from gsync.objects.encoding import encode
from gsync.objects.model import EMPTY_MAP_BODY
from gsync.objects.oid import Kind, ObjectId
from gsync.replicas.sqlite import SqliteDatabase
from gsync.replicas.tables.apply import TableMove, apply_tables
from gsync.replicas.tables.base import Database
from gsync.replicas.tables.plan import plan_tables
from gsync.replicas.tables.scan import scan_table
from gsync.store.memory import MemoryStore
from gsync.sync.comparetables import describe_rows
from gsync.sync.recorded import content_loader
from gsync.views.rows.check import WrongRow
from gsync.views.rows.keys import encode_key
from gsync.views.rows.schema import Schema

POSTGRES = """
CREATE TABLE things (
    a int, b text, "select" boolean, amount numeric, ratio double precision, name varchar(100),
    data bytea, ref uuid, day date, at timestamp, at_zone timestamptz, doc jsonb, tags text[],
    PRIMARY KEY (a, b)
)
"""
SQLITE = """
CREATE TABLE things (
    tags TEXT_ARRAY TEXT, doc JSONB TEXT, at_zone TIMESTAMPTZ TEXT, at TIMESTAMP TEXT,
    day DATE TEXT, ref UUID TEXT, data BLOB, name VARCHAR(100), ratio DOUBLE, amount NUMERIC TEXT,
    "select" BOOLEAN, b TEXT NOT NULL, a INTEGER NOT NULL, PRIMARY KEY (a, b)
)
"""
THINGS = TableConfig(key=("a", "b"))
# fmt: off
TEXTS = [
    "", " ", "|", "a|b", "<null>", "NULL", "\\N", "\\", "tab\there", "line\nline", "é", "e\u0301",
    "\U0001f600", "'; DROP TABLE things; --", "x" * 1024, "x" * 1025, "y" * 200_000,
]
# fmt: on


def random_rows(seed: int, count: int) -> list[tuple[Any, ...]]:
    """Rows of `things` as texts that both engines spell alike, NULL as None."""
    r = random.Random(seed)

    def maybe(value: Any) -> Any:
        return None if r.random() < 0.15 else value

    keys = {(r.randrange(-50, 50), r.choice(TEXTS[:-3])) for _ in range(count)}
    return [
        (
            a,
            b,
            maybe(r.random() < 0.5),
            maybe(r.choice(["0", "1.0", "1.00", "-0.5", "123456789012345678901234567890.123"])),
            maybe(r.choice([0.0, 0.1, 1e300, -2.5e-310, float(r.randrange(10**6))])),
            maybe(r.choice(TEXTS)[:100]),
            maybe(r.randbytes(r.choice([0, 1, 16, 2000]))),
            maybe(f"{r.randrange(1 << 128):032x}"),
            maybe(r.choice(["1969-12-31", "2024-02-29", "0001-01-01", "9999-12-31"])),
            maybe(r.choice(["1970-01-01 00:00:00", "2024-05-05 12:30:00.000001"])),
            maybe(r.choice(["2024-05-05 12:30:00.5+00", "1900-01-01 00:00:00+00"])),
            maybe(r.choice(['{"a": 1, "bb": [1.50, null, "x"]}', "[]", '"é"', "1.0", "null"])),
            maybe(r.choice([[], ["a"], ["", None, "NULL", 'q"\\'], ["{", "}", ","]])),
        )
        for a, b in sorted(keys)
    ]


def fill_postgres(database: PgDatabase, rows: list[tuple[Any, ...]]) -> None:
    with database.connect(autocommit=True) as connection, connection.cursor() as cursor:
        marks = "%s, %s, %s, %s::numeric, %s, %s, %s, %s::uuid, %s::date, %s::timestamp,"
        marks += " %s::timestamptz, %s::jsonb, %s::text[]"
        cursor.executemany(f"INSERT INTO things VALUES ({marks})", rows)


def fill_sqlite(path: Path, rows: list[tuple[Any, ...]]) -> None:
    import json
    import uuid

    names = 'a, b, "select", amount, ratio, name, data, ref, day, at, at_zone, doc, tags'
    with sqlite3.connect(path) as connection:
        for row in rows:
            values = list(row)
            values[7] = None if row[7] is None else str(uuid.UUID(row[7])).upper()
            values[9] = None if row[9] is None else row[9].replace(" ", "T")
            values[11] = None if row[11] is None else row[11].replace(": ", " :  ")
            values[12] = None if row[12] is None else json.dumps(row[12])
            marks = ", ".join("?" * len(values))
            connection.execute(f"INSERT INTO things ({names}) VALUES ({marks})", values)
    connection.close()


def scanned(
    database: Database, store: MemoryStore, known: Schema | None = None, table: str = "things"
) -> tuple[ObjectId, Schema]:
    """Scan one table from nothing; return root and schema."""
    store.put(Kind.NODE, EMPTY_MAP_BODY)
    with database.reading() as session:
        config = {table: THINGS if table == "things" else TableConfig(("id",))}
        known_schemas = {table: known} if known else {}
        (plan,) = plan_tables(session.tables(), config, known_schemas)
        return scan_table(session, plan, EMPTY_MAP, store).root, plan.schema


def sqlite_things(path: Path) -> SqliteDatabase:
    with sqlite3.connect(path) as connection:
        connection.execute(SQLITE)
    connection.close()
    return SqliteDatabase(path)


def postgres_of(database: PgDatabase) -> Database:
    from gsync.replicas.postgres import PostgresDatabase

    return PostgresDatabase(database.url)


@pytest.mark.parametrize("seed", range(3))
def test_equal_rows_have_equal_roots(
    seed: int, tmp_path: Path, make_database: MakeDatabase
) -> None:
    """Rows that each engine was given in its own way and order of columns are one map."""
    rows = random_rows(seed, 150)
    there = make_database(POSTGRES)
    fill_postgres(there, rows)
    here = sqlite_things(tmp_path / "things.db")
    fill_sqlite(tmp_path / "things.db", rows)
    store = MemoryStore()
    (left, left_schema), (right, right_schema) = (
        scanned(postgres_of(there), store),
        scanned(here, store),
    )
    assert left_schema.types() == right_schema.types()
    assert list(describe_rows(diff_maps(store, left, right), left_schema, right_schema, "t")) == []
    assert left == right


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("forward", [True, False], ids=["to sqlite", "to postgres"])
def test_changes_arrive_in_the_other_engine(
    seed: int, forward: bool, tmp_path: Path, make_database: MakeDatabase
) -> None:
    """diff(a, b) written into a live a makes it b, and an edited map is the rebuilt one."""
    there = make_database(POSTGRES)
    here = sqlite_things(tmp_path / "things.db")
    store = MemoryStore()
    target: Database = here if forward else postgres_of(there)
    base = EMPTY_MAP
    store.put(Kind.NODE, EMPTY_MAP_BODY)
    for step in range(3):
        source = make_database(POSTGRES)
        fill_postgres(source, random_rows(100 * seed + step, 120))
        wanted, schema = scanned(postgres_of(source), store)
        changes = diff_maps(store, base, wanted)
        assert edit_map(store, base, ((c.key, c.new) for c in changes)) == wanted
        applied = apply_tables(
            target,
            {"things": TableMove(THINGS, base, wanted, schema)},
            store,
            content_loader(store),
        )
        assert applied.total == sum(1 for _ in diff_maps(store, base, wanted))
        assert scanned(target, store, schema)[0] == wanted
        base = wanted


def test_two_servers_hold_the_same_by_except_all(
    tmp_path: Path, make_database: MakeDatabase
) -> None:
    """After a push and a pull the databases differ in no row, as Postgres itself counts."""
    one, two = (make_database(SCHEMA["postgres"]) for _ in range(2))
    lives = [Live("postgres", d.url, d) for d in (one, two)]
    gsync_in(tmp_path, "init", "--bare", "there")
    first, second = pair(tmp_path, lives[0], lives[1], generation(0, 300), str(tmp_path / "there"))
    lives[0].fill(generation(3, 320))
    gsync_in(first, "snapshot")
    gsync_in(first, "push")
    gsync_in(second, "pull")
    for table in ("users", "posts"):
        with two.connect(autocommit=True) as source, one.connect(autocommit=True) as target:
            target.execute(f"CREATE TABLE copy_of_{table} (LIKE {table})")
            with (
                source.cursor().copy(f"COPY {table} TO STDOUT") as out,
                target.cursor().copy(f"COPY copy_of_{table} FROM STDIN") as into,
            ):
                for block in out:
                    into.write(block)
            found = target.execute(
                f"(TABLE {table} EXCEPT ALL TABLE copy_of_{table}) UNION ALL"
                f" (TABLE copy_of_{table} EXCEPT ALL TABLE {table})"
            ).fetchall()
            assert found == []
            assert target.execute(f"SELECT count(*) FROM copy_of_{table}").fetchone() != (0,)


TRIGGERS = {
    "postgres": """
        CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN NEW.email := upper(NEW.email); RETURN NEW; END $$;
        CREATE TRIGGER shouting BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION shout();
    """,
    "sqlite": """
        CREATE TRIGGER shouting AFTER UPDATE ON users WHEN NEW.email <> upper(NEW.email) BEGIN
        UPDATE users SET email = upper(NEW.email) WHERE id = NEW.id; END
    """,
}


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
def test_a_trigger_that_alters_a_cell_is_found_and_undone(
    engine: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The report names table, column, both values and the trigger; nothing has changed."""
    if engine == "postgres":
        make_database = request.getfixturevalue("make_database")
        lives = [Live(engine, d.url, d) for d in (make_database(SCHEMA[engine]) for _ in "12")]
    else:
        lives = [Live(engine, f"sqlite:///{tmp_path}/{name}.db") for name in "12"]
        for live in lives:
            live.run(*SCHEMA[engine].split(";"))
    gsync_in(tmp_path, "init", "--bare", "there")
    first, second = pair(tmp_path, lives[0], lives[1], generation(0, 30), str(tmp_path / "there"))
    lives[1].run(TRIGGERS[engine])
    lives[0].run("UPDATE users SET email = 'ann@example.org' WHERE id = 4")
    (first / "a.txt").write_text("changed")
    gsync_in(first, "snapshot")
    gsync_in(first, "push")
    message, hint = refused(second, "pull", code=5)
    for word in ("users(4).email", "'ann@example.org'", "'ANN@EXAMPLE.ORG'", "rolled back"):
        assert word in message
    assert "shouting" in hint
    assert "volatile" in hint
    assert lives[1].rows() == generation(0, 30)
    assert (second / "a.txt").read_text() == "a"
    lives[1].run("DROP TRIGGER shouting" + (" ON users" if engine == "postgres" else ""))
    gsync_in(second, "pull")
    assert lives[1].rows() == lives[0].rows()


def test_a_row_changed_since_is_no_loss(tmp_path: Path) -> None:
    """Unsaved rows that a pull would overwrite stop it by name; others stay through it."""
    lives = [Live("sqlite", f"sqlite:///{tmp_path}/{name}.db") for name in "12"]
    for live in lives:
        live.run(*SCHEMA["sqlite"].split(";"))
    gsync_in(tmp_path, "init", "--bare", "there")
    first, second = pair(tmp_path, lives[0], lives[1], generation(0, 30), str(tmp_path / "there"))
    lives[0].run("UPDATE users SET n = 7 WHERE id = 4", "DELETE FROM posts WHERE id = 9")
    gsync_in(first, "snapshot")
    gsync_in(first, "push")
    lives[1].run("UPDATE users SET n = 8 WHERE id = 4", "UPDATE users SET n = 9 WHERE id = 5")
    before = lives[1].rows()
    message, _ = refused(second, "pull", code=5)
    assert "users(4)" in message
    assert "users(5)" not in message
    assert lives[1].rows() == before
    lives[1].run("UPDATE users SET n = 0 WHERE id = 4")
    gsync_in(second, "pull")
    after = {row[0]: row[2] for row in lives[1].rows()["users"]}
    assert (after[4], after[5]) == (7, 9)


WRONG = [
    ("a key of another type", encode_key(["text"], ["a"]), [1, "a"]),
    ("a key with a column too many", encode_key(["int", "int"], [1, 2]), [1, "a"]),
    ("text in an integer", encode_key(["int"], [1]), ["1; DROP TABLE t"]),
    ("a boolean in an integer", encode_key(["int"], [1]), [True]),
    ("an integer in a text", encode_key(["int"], [1]), [1, 2]),
    ("NULL that may not be", encode_key(["int"], [1]), [None, "a"]),
    ("a cell too many", encode_key(["int"], [1]), [1, "a", 2]),
]


@pytest.mark.parametrize(("what", "key", "cells"), WRONG, ids=[what for what, _, _ in WRONG])
@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
def test_rows_that_no_database_gave_are_refused(
    engine: str,
    what: str,
    key: bytes,
    cells: list[Any],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """A peer's row that is not of its schema is named, and nothing is written."""
    database: Database
    if engine == "postgres":
        make_database = request.getfixturevalue("make_database")
        there = make_database("CREATE TABLE t (id int PRIMARY KEY, a int NOT NULL, b text)")
        database = postgres_of(there)
    else:
        with sqlite3.connect(tmp_path / "t.db") as connection:
            connection.execute(
                "CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, a INTEGER NOT NULL, b TEXT)"
            )
        connection.close()
        database = SqliteDatabase(tmp_path / "t.db")
    store = MemoryStore()
    store.put(Kind.NODE, EMPTY_MAP_BODY)
    _, schema = scanned(database, store, table="t")
    wanted = edit_map(store, EMPTY_MAP, [(key, encode(cells))])
    move = TableMove(TableConfig(("id",)), EMPTY_MAP, wanted, schema)
    with pytest.raises(WrongRow, match="table t"):
        apply_tables(database, {"t": move}, store, content_loader(store))
    assert scanned(database, store, table="t")[0] == EMPTY_MAP
