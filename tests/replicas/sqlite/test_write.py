"""Writing changes into SQLite files: in one transaction, and nothing that was not meant."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from replicas.sqlite.tables import Kept, insert, make, plans_of, query, run

from gsync.errors import Conflict, Unavailable
from gsync.replicas.sqlite import connect
from gsync.replicas.sqlite.cells import Unwritable
from gsync.replicas.tables.base import Refused
from gsync.views.rows.keys import decode_key

PARENT = "CREATE TABLE p (k TEXT PRIMARY KEY, n INT UNIQUE, v TEXT)"
CHILD = "CREATE TABLE c (k TEXT PRIMARY KEY, p TEXT REFERENCES p ON DELETE CASCADE)"


class Moved(NamedTuple):
    """What writing did: the counts of upsert and delete, and whether the roots came out."""

    path: Path
    counts: dict[str, tuple[int, int, int]]
    proved: bool


def move(kept: Kept, tmp_path: Path, schema: list[str], old: dict, new: dict, **keys):
    """Write what turns the rows `old` into `new` into a file that holds `old`."""
    live, other = tmp_path / "live.db", tmp_path / "target.db"
    database, target = make(live, *schema), make(other, *[s for s in schema if "TRIGGER" not in s])
    for path, tables in ((live, old), (other, new)):
        for table, rows in tables.items():
            insert(path, table, rows)
    return apply(kept, database, target, **keys)


def apply(kept: Kept, database, target, *, commit: bool = True, **keys):
    with target.reading() as session:
        plans = plans_of(session, **keys)
        wanted = {name: kept.root(session, plan) for name, plan in plans.items()}
    counts = {}
    with database.writing() as session:
        plans = plans_of(session, **keys)
        for name, plan in plans.items():
            session.stage(plan, kept.changes(kept.root(session, plan), wanted[name]), kept.load)
        assert [c for p in plans.values() for c in session.clashes(p, 10)] == []
        for plan in plans.values():
            session.release(plan)
        for name, plan in sorted(plans.items(), reverse=True):
            counts[name] = session.upsert(plan)
        for name, plan in sorted(plans.items()):
            counts[name] = (*counts[name], session.delete(plan))
        found = {name: kept.root(session, plan) for name, plan in plans.items()}
        if commit:
            session.commit()
    return Moved(database.path, counts, found == wanted)


def test_rows_are_inserted_updated_and_deleted(tmp_path: Path):
    """Counts are those of the database, and rows outside the patch are not touched."""
    moved = move(
        Kept(), tmp_path, [PARENT],
        {"p": [("a", 1, "x"), ("b", 2, "x"), ("c", 3, "x")]},
        {"p": [("a", 1, "x"), ("b", 2, "y"), ("d", 4, "x"), ("e", None, None)]},
    )  # fmt: skip
    assert moved.counts == {"p": (2, 1, 1)} and moved.proved
    assert query(moved.path, "SELECT * FROM p ORDER BY k") == [
        ("a", 1, "x"), ("b", 2, "y"), ("d", 4, "x"), ("e", None, None)
    ]  # fmt: skip


@pytest.mark.parametrize("type_", ["TEXT", "INTEGER", "BLOB", "REAL"])
@pytest.mark.parametrize("null", ["", "NOT NULL"])
def test_rows_swap_unique_values(tmp_path: Path, type_, null):
    """By NULL, or by a random value for a while; else the constraint is named."""
    values = {"TEXT": ("x", "y", "z"), "BLOB": (b"x", b"y", b"z")}.get(type_, (1, 2, 3))
    x, y, z = values
    schema = [f"CREATE TABLE t (k INT PRIMARY KEY, u {type_} {null} UNIQUE)"]
    old, new = [(1, x), (2, y), (3, z)], [(1, z), (2, x), (3, y)]
    if type_ == "REAL" and null:
        with pytest.raises(Refused, match="unique constraint"):
            move(Kept(), tmp_path, schema, {"t": old}, {"t": new})
        return
    moved = move(Kept(), tmp_path, schema, {"t": old}, {"t": new})
    assert sorted(query(moved.path, "SELECT * FROM t")) == new and moved.proved


def test_many_rows_move_along_by_one(tmp_path: Path):
    """The cost follows the number of rows, not its square: this takes minutes otherwise."""
    schema = ["CREATE TABLE t (k INT PRIMARY KEY, l TEXT, n INT NOT NULL, UNIQUE (l, n))"]
    old = [(k, "list", k) for k in range(20_000)]
    new = [(k, "list", (k + 1) % 20_000) for k in range(20_000)]
    moved = move(Kept(), tmp_path, schema, {"t": old}, {"t": new})
    assert moved.proved and moved.counts == {"t": (0, 20_000, 0)}


def test_a_new_row_takes_the_value_of_a_deleted_one(tmp_path: Path):
    """The deleted one goes first, if nothing refers to its table."""
    schema = ["CREATE TABLE t (k INT PRIMARY KEY, u UUID NOT NULL UNIQUE)"]
    uuid = "00112233-4455-6677-8899-aabbccddeeff"
    moved = move(Kept(), tmp_path, schema, {"t": [(1, uuid)]}, {"t": [(2, uuid)]})
    assert moved.counts == {"t": (1, 0, 1)} and moved.proved


def test_a_clash_with_a_row_outside_the_patch_names_both(tmp_path: Path):
    """Under the collation of the constraint."""
    schema = "CREATE TABLE t (k INT PRIMARY KEY, u TEXT COLLATE NOCASE UNIQUE)"
    kept = Kept()
    old, new = make(tmp_path / "a.db", schema), make(tmp_path / "b.db", schema)
    insert(tmp_path / "b.db", "t", [(1, "Ann")])
    empty, full = kept.scan(old, "t", "k"), kept.scan(new, "t", "k")
    insert(tmp_path / "a.db", "t", [(7, "ANN")])
    with old.writing() as session:
        plan = plans_of(session, t=("k",))["t"]
        session.stage(plan, kept.changes(empty, full), kept.load)
        (clash,) = session.clashes(plan, 5)
    assert (clash.key, clash.holder, clash.values) == ((1,), (7,), (("u", "Ann"),))


def test_a_cascade_is_seen_before_the_commit(tmp_path: Path):
    """A parent that goes takes a child along that the target keeps: the roots differ."""
    kept = Kept()
    database = make(tmp_path / "a.db", PARENT, CHILD)
    target = make(tmp_path / "b.db", PARENT, CHILD)
    insert(tmp_path / "a.db", "p", [("a", 1, "x")])
    for name in ("a.db", "b.db"):
        insert(tmp_path / name, "c", [("k", "a")])
    moved = apply(kept, database, target, commit=False)
    assert not moved.proved
    assert query(tmp_path / "a.db", "SELECT k FROM p UNION SELECT k FROM c") == [("a",), ("k",)]


def test_a_child_moves_to_another_parent_before_the_old_one_goes(tmp_path: Path):
    """Deletes come last, so the cascade finds no child."""
    moved = move(
        Kept(), tmp_path, [PARENT, CHILD],
        {"p": [("a", 1, "x")], "c": [("k", "a")]}, {"p": [("b", 1, "x")], "c": [("k", "b")]},
    )  # fmt: skip
    assert moved.proved and moved.counts == {"p": (1, 0, 1), "c": (0, 1, 0)}


def test_a_trigger_that_alters_a_cell_is_seen(tmp_path: Path):
    """What is read back in the same transaction holds what the trigger wrote."""
    trigger = (
        "CREATE TRIGGER shout AFTER UPDATE ON p BEGIN"
        " UPDATE p SET v = upper(v) WHERE k = new.k; END"
    )
    moved = move(Kept(), tmp_path, [PARENT, trigger],
         {"p": [("a", 1, "x"), ("b", 1 << 40, "B")]},
         {"p": [("a", 1, "y"), ("b", 1 << 40, "B")]})  # fmt: skip
    assert not moved.proved


def test_a_row_that_is_as_meant_fires_no_trigger(tmp_path: Path):
    """Neither for an update nor for an insert."""
    kept = Kept()
    schema = [PARENT, "CREATE TABLE log (e TEXT PRIMARY KEY)"] + [
        f"CREATE TRIGGER t{e} {when} {e} ON p BEGIN INSERT INTO log VALUES ('{e}' || new.k); END"
        for when, e in (("BEFORE", "INSERT"), ("AFTER", "UPDATE"))
    ]
    database = make(tmp_path / "a.db", *schema)
    target = make(tmp_path / "b.db", *schema[:2])
    insert(tmp_path / "a.db", "p", [("a", 1, "x")])
    run(tmp_path / "a.db", "DELETE FROM log")
    insert(tmp_path / "b.db", "p", [("a", 1, "x"), ("b", 2, "x")])
    with target.reading() as session:
        wanted = kept.root(session, plans_of(session)["p"])
    with database.writing() as session:
        plan = plans_of(session)["p"]
        session.stage(plan, kept.changes(None, wanted), kept.load)
        assert session.upsert(plan) == (1, 0)
        session.commit()
    assert query(tmp_path / "a.db", "SELECT e FROM log") == [("INSERTb",)]


def test_an_update_is_as_fine_as_the_encoding(tmp_path: Path):
    """1.0 is not 1.00, A is not a, in whatever way the columns compare."""
    schema = [
        "CREATE TABLE t (k INT PRIMARY KEY, n NUMERIC TEXT, s TEXT COLLATE NOCASE, j JSON, b BLOB)"
    ]
    old = [(1, "1.0", "a", '"1"', b"1"), (2, "1", "b", "[1.0]", b"")]
    new = [(1, "1.00", "A", "1", b"2"), (2, "1", "b", "[1]", None)]
    moved = move(Kept(), tmp_path, schema, {"t": old}, {"t": new})
    assert moved.proved and moved.counts == {"t": (0, 2, 0)}
    assert query(moved.path, "SELECT n, s, typeof(j) FROM t WHERE k = 1") == [
        ("1.00", "A", "integer")
    ]


@pytest.mark.parametrize(
    ("declared", "old", "new"),
    [
        ("NUMERIC TEXT", "1.0", "1.00"),
        ("TEXT COLLATE NOCASE", "a", "A"),
        ("TEXT COLLATE RTRIM", "a", "a "),
        ("JSON", '"1"', "1"),
        ("BLOB", b"", None),
        ("DOUBLE", 0.1, 0.1 + 2e-17),
    ],
)
def test_a_change_that_sql_takes_for_none_is_written(tmp_path: Path, declared, old, new):
    """Each alone: a row is updated for any of its cells, and one would hide another."""
    schema = [f"CREATE TABLE t (k INT PRIMARY KEY, v {declared})"]
    moved = move(Kept(), tmp_path, schema, {"t": [(1, old)]}, {"t": [(1, new)]})
    assert moved.proved and moved.counts == {"t": (0, 1, 0)}


def test_keys_in_another_spelling_find_their_rows(tmp_path: Path):
    """The file keeps the spelling that it has."""
    schema = ["CREATE TABLE t (k UUID PRIMARY KEY, w TIMESTAMPTZ, v TEXT)"]
    one = "00112233-4455-6677-8899-AABBCCDDEEFF"
    three = one.replace("0011", "2222").lower()
    blob = b"\x11" + bytes(15)
    moved = move(
        Kept(), tmp_path, schema,
        {"t": [(one, "2024-01-01 01:00+01", "x"), (blob, None, "x")]},
        {"t": [(one.lower(), "2024-01-01 00:00Z", "y"), (three, "1969-01-01T00:00:00.25Z", "x")]},
    )  # fmt: skip
    assert moved.proved and moved.counts == {"t": (1, 1, 1)}
    assert query(moved.path, "SELECT * FROM t ORDER BY k") == [
        (one, "2024-01-01 00:00:00+00:00", "y"), (three, "1969-01-01 00:00:00.25+00:00", "x")
    ]  # fmt: skip
    assert query(moved.path, "SELECT datetime(w) FROM t WHERE v = 'y'") == [
        ("2024-01-01 00:00:00",)
    ]


def test_uuids_stay_blobs_where_they_are(tmp_path: Path):
    """A column whose UUIDs are blobs gets blobs."""
    schema = ["CREATE TABLE t (k UUID PRIMARY KEY)"]
    blobs = [(bytes([n]) * 16,) for n in range(3)]
    moved = move(Kept(), tmp_path, schema, {"t": blobs[:2]}, {"t": blobs[1:]})
    assert sorted(query(moved.path, "SELECT k FROM t")) == blobs[1:]


@pytest.mark.parametrize("cell", [float("nan"), -0.0])
def test_what_sqlite_does_not_keep_is_refused(tmp_path: Path, cell):
    """NaN would become NULL, and -0.0 would become 0.0."""
    from gsync.changes import Change
    from gsync.views.rows.keys import encode_key
    from gsync.views.rows.values import encode_row

    kept = Kept()
    database = make(tmp_path / "a.db", "CREATE TABLE t (k INT PRIMARY KEY, f REAL)")
    row = encode_row([cell], kept.spill)
    change = Change(encode_key(["int"], [5]), None, row)
    said = r"column f of table t, key \(5,\)"
    with pytest.raises(Unwritable, match=said), database.writing() as session:
        session.stage(plans_of(session)["t"], [change], kept.load)


@pytest.mark.parametrize(
    "clause, said",
    [
        ("v TEXT CHECK (v <> 'bad')", "CHECK constraint failed"),
        ("v TEXT, UNIQUE (v)", "UNIQUE constraint failed: t.v"),
        ("v TEXT REFERENCES t (k)", r"t\(v\) refers to t: 1 row without a parent"),
    ],
)
def test_a_constraint_names_itself(tmp_path: Path, clause, said):
    """What was there stays."""
    kept = Kept()
    strict = make(tmp_path / "a.db", f"CREATE TABLE t (k TEXT PRIMARY KEY, {clause})")
    lax = make(tmp_path / "b.db", "CREATE TABLE t (k TEXT PRIMARY KEY, v TEXT)")
    insert(tmp_path / "b.db", "t", [("1", "bad")] + ([("2", "bad")] if "UNIQUE" in clause else []))
    wanted = kept.scan(lax, "t")
    with pytest.raises(Conflict, match=said), strict.writing() as session:
        plan = plans_of(session)["t"]
        session.stage(plan, kept.changes(None, wanted), kept.load)
        session.upsert(plan)
        session.commit()
    assert query(tmp_path / "a.db", "SELECT * FROM t") == []


def test_a_table_of_hundreds_of_columns(tmp_path: Path):
    """SQLite's expressions end at a depth of 1,000."""
    columns = ", ".join(f"c{n} TEXT" for n in range(900))
    schema = [f"CREATE TABLE t (k INT PRIMARY KEY, {columns})"]
    moved = move(Kept(), tmp_path, schema, {"t": [(1, *["a"] * 900)]}, {"t": [(1, *["b"] * 900)]})
    assert moved.proved


def test_names_are_quoted(tmp_path: Path):
    """Whatever a table, a column and a constraint are called."""
    schema = [
        'CREATE TABLE "a""b; x" ("select" INT PRIMARY KEY, "gsync_key" TEXT, "q""" TEXT NOT NULL)',
        'CREATE UNIQUE INDEX "i ""n" ON "a""b; x" ("q""")',
    ]
    old, new = [(1, "a", "p"), (2, "b", "q")], [(1, "a", "q"), (2, "c", "p")]
    live = make(tmp_path / "live.db", *schema)
    target = make(tmp_path / "target.db", *schema)
    for path, rows in ((live.path, old), (target.path, new)):
        for row in rows:
            run(path, 'INSERT INTO "a""b; x" VALUES (?, ?, ?)', values=row)
    moved = apply(Kept(), live, target)
    assert moved.proved and query(live.path, 'SELECT * FROM "a""b; x"') == new


def test_long_cells_are_loaded(tmp_path: Path):
    """Texts, blobs and arrays that spilled come back."""
    schema = ["CREATE TABLE t (k INT PRIMARY KEY, a TEXT, b BLOB, c TEXT_ARRAY TEXT, d JSON TEXT)"]
    new = [(1, "é" * 9000, b"\xff" * 100_000, f'["{"x" * 5000}",null]', f'"{"y" * 5000}"')]
    moved = move(Kept(), tmp_path, schema, {"t": []}, {"t": new})
    assert moved.proved and query(moved.path, "SELECT * FROM t") == new


def test_another_writer_makes_it_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """After the busy timeout; reading goes on."""
    monkeypatch.setattr(connect, "BUSY_S", 0.1)
    database = make(tmp_path / "a.db", PARENT)
    with database.writing():
        with pytest.raises(Unavailable, match="in use"), database.writing():
            pass
        with database.reading() as session:
            assert [table.name for table in session.tables()] == ["p"]


def test_leaving_without_commit_rolls_back(tmp_path: Path):
    """As an exception does."""
    kept = Kept()
    database, target = make(tmp_path / "a.db", PARENT), make(tmp_path / "b.db", PARENT)
    insert(tmp_path / "b.db", "p", [("a", 1, "x")])
    moved = apply(kept, database, target, commit=False)
    assert moved.proved and query(tmp_path / "a.db", "SELECT * FROM p") == []


KILLED = """
import sys, time
from pathlib import Path
from gsync.replicas.sqlite import SqliteDatabase
from gsync.changes import Change
from gsync.views.rows.keys import encode_key
from gsync.views.rows.values import encode_row, name_content
from replicas.sqlite.tables import plans_of
with SqliteDatabase(Path(sys.argv[1])).writing() as session:
    plan = plans_of(session)["p"]
    session._db.execute("PRAGMA cache_size = 10")  # so that pages reach the file before the commit
    session.stage(plan, [Change(encode_key(["text"], [f"k{n:05}"]), None,
        encode_row([n, "new" * 20], name_content)) for n in range(5000)], None)
    print(session.upsert(plan), flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_a_kill_in_the_middle_leaves_the_old_rows(tmp_path: Path, mode):
    """Whatever had reached the file is rolled back at the next start."""
    path = tmp_path / "a.db"
    make(path, f"PRAGMA journal_mode={mode}", PARENT)
    old = [(f"k{n:05}", n, "old" * 20) for n in range(3000)]
    insert(path, "p", old)
    root = Path(__file__).parents[3]
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": f"{root}:{root / 'tests'}"},
    )  # fmt: skip
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "(2000, 3000)\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert query(path, "SELECT * FROM p ORDER BY k") == old
    assert query(path, "PRAGMA integrity_check") == [("ok",)]


def test_decoding_keys(tmp_path: Path):
    """The schema's order of key columns is kept, whatever the table's is."""
    kept = Kept()
    database = make(tmp_path / "a.db", "CREATE TABLE t (a TEXT, b INT, PRIMARY KEY (b, a))")
    insert(tmp_path / "a.db", "t", [("x", 1)])
    with database.reading() as session:
        ((key, _),) = session.rows(plans_of(session)["t"], kept.spill)
    assert decode_key(key) == (1, "x")
    assert sqlite3.sqlite_version_info >= (3, 37)
