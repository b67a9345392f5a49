"""Patches written in one transaction, or not at all."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest
from replicas.postgres.tables import Contents, apply, change, plan_of, read, rows_of
from replicas.postgres.test_connect import kill
from replicas.postgres.test_scan import CELLS
from support_pg import Database

from gsync.errors import Conflict, Denied, Invalid, Unavailable
from gsync.replicas.postgres import PostgresDatabase, connect
from gsync.replicas.tables.base import Clash, Interfered, Refused

Patch = Mapping[tuple[Any, ...], Mapping[str, Any] | None]


def run(database: Database, statements: str) -> None:
    with database.connect() as connection:
        connection.execute(statements)


def write(
    database: Database,
    name: str,
    patch: Patch,
    key: tuple[str, ...] = ("id",),
    local: tuple[str, ...] = (),
) -> tuple[int, int, int]:
    """Write a patch of one table and commit; return inserted, updated, deleted."""
    with PostgresDatabase(database.url).writing() as writing:
        plan = plan_of(writing, name, key, local)
        (counts,) = apply(writing, [(plan, dict(patch))])
        writing.commit()
    return counts


def test_insert_update_delete(any_postgres: Database) -> None:
    """Rows are counted by what happened to them; one that is as it should be is not written."""
    run(
        any_postgres,
        "CREATE TABLE t (id int PRIMARY KEY, a text, b int);"
        "INSERT INTO t VALUES (1, 'same', 1), (2, 'old', 2), (3, 'gone', 3)",
    )
    patch: Patch = {
        (1,): {"a": "same", "b": 1},
        (2,): {"a": "new\t\n\\\r\v\x01%s", "b": None},
        (3,): None,
        (4,): {"a": None, "b": 4},
        (5,): None,
    }
    assert write(any_postgres, "t", patch) == (1, 1, 1)
    assert read(any_postgres.url, "t", ["id"]) == {
        key: row for key, row in patch.items() if row is not None
    }


def test_many_rows_into_an_empty_table(postgres: Database) -> None:
    """The cost of a first apply follows the number of rows, not its square."""
    run(postgres, "CREATE TABLE t (id int PRIMARY KEY, a text); ANALYZE t")
    patch = {(n,): {"a": "x" * 100} for n in range(20_000)}
    started = time.monotonic()
    assert write(postgres, "t", patch) == (20_000, 0, 0)
    assert time.monotonic() - started < 20


def test_an_empty_table_of_any_name(postgres: Database) -> None:
    """Names that a format would take for its own are names."""
    run(postgres, 'CREATE TABLE "t{}%s" (id int PRIMARY KEY, "a%" text)')
    assert write(postgres, "t{}%s", {(1,): {"a%": "x"}, (2,): {"a%": None}}) == (2, 0, 0)
    assert read(postgres.url, "t{}%s", ["id"]) == {(1,): {"a%": "x"}, (2,): {"a%": None}}


def test_an_empty_table_with_a_rule(postgres: Database) -> None:
    """COPY would pass the rule by: such a table is refused, with rows in it or without."""
    run(
        postgres,
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE seen (id int);"
        "CREATE RULE r AS ON INSERT TO t DO ALSO INSERT INTO seen VALUES (new.id)",
    )
    with pytest.raises(Invalid, match="rules"):
        write(postgres, "t", {(1,): {}})


def test_nothing_before_the_commit(postgres: Database) -> None:
    """Without a commit nothing is changed."""
    run(postgres, "CREATE TABLE t (id int PRIMARY KEY, a text)")
    with PostgresDatabase(postgres.url).writing() as writing:
        apply(writing, [(plan_of(writing, "t", ["id"]), {(1,): {"a": "x"}})])
    assert read(postgres.url, "t", ["id"]) == {}


def test_every_cell_comes_back(any_postgres: Database) -> None:
    """Every awkward value of every type is written as it was read."""
    columns = ", ".join(f"c{i} {type_}" for i, (type_, _, _) in enumerate(CELLS))
    run(any_postgres, f"CREATE TABLE t (id int PRIMARY KEY, {columns})")
    row = dict(sorted((f"c{i}", cell) for i, (_, _, cell) in enumerate(CELLS)))
    assert write(any_postgres, "t", {(1,): row, (2,): {}}) == (2, 0, 0)
    assert repr(read(any_postgres.url, "t", ["id"])[(1,)]) == repr(row)
    assert write(any_postgres, "t", {(1,): row, (2,): {}}) == (0, 0, 0)
    assert write(any_postgres, "t", {(1,): {}, (2,): row}) == (0, 2, 0)
    assert repr(read(any_postgres.url, "t", ["id"])[(2,)]) == repr(row)


@pytest.mark.parametrize(
    ("native", "old", "new"),
    [
        ("numeric", "1.0", "1.00"),
        ("jsonb", "1.0", "1"),
        ("jsonb", '{"a": 1.0}', '{"a": 1.00}'),
        ("float8", 0.0, -0.0),
        ("text[]", ["a"], ["#lb", [2], ["a"]]),
        ("text", "a", "a "),
        ("timestamp", "infinity", 0),
    ],
)
def test_values_that_sql_takes_for_equal(
    postgres: Database, native: str, old: Any, new: Any
) -> None:
    """What has another encoding is written, though SQL may see no difference."""
    run(postgres, f"CREATE TABLE t (id int PRIMARY KEY, a {native})")
    write(postgres, "t", {(1,): {"a": old}})
    assert write(postgres, "t", {(1,): {"a": new}}) == (0, 1, 0)
    assert repr(read(postgres.url, "t", ["id"])[(1,)]["a"]) == repr(new)


def test_keys_of_every_type(postgres: Database) -> None:
    """A key of several columns finds its row."""
    run(
        postgres,
        "CREATE TABLE t (a text, b numeric(6,2), c uuid, d timestamptz, e bytea, f date,"
        " g bool, h char(4), x int, PRIMARY KEY (a, b, c, d, e, f, g, h))",
    )
    key = ("ä\\\t", "1.50", b"\0" * 16, -1, b"\0\n", "infinity", True, "ab")
    names = tuple("abcdefgh")
    assert write(postgres, "t", {key: {"x": 1}}, names) == (1, 0, 0)
    assert write(postgres, "t", {key: {"x": 2}}, names) == (0, 1, 0)
    assert read(postgres.url, "t", names) == {key: {"x": 2}}
    assert write(postgres, "t", {key: None}, names) == (0, 0, 1)


def test_spilled_contents(postgres: Database) -> None:
    """Contents that were kept apart are loaded and written."""
    run(postgres, "CREATE TABLE t (id int PRIMARY KEY, a text, b bytea, c text[], d jsonb)")
    row = {
        "a": "ü\\\n" * 100_000,
        "b": b"\0\\" * 100_000,
        "c": ["x\\" * 2000, None],
        "d": '"' + "y" * 5000 + '"',
    }
    assert write(postgres, "t", {(1,): row}) == (1, 0, 0)
    with postgres.connect() as connection:
        found = connection.execute("SELECT a, b, c, d::text FROM t").fetchone()
    assert found == tuple(row.values())


# --- Unique values -------------------------------------------------------------------


@pytest.mark.parametrize(
    "unique",
    [
        "text UNIQUE",
        "text NOT NULL UNIQUE",
        "varchar(12) NOT NULL UNIQUE",
        "text NOT NULL UNIQUE DEFERRABLE",
        "text UNIQUE DEFERRABLE INITIALLY DEFERRED",
    ],
)
def test_a_swap_of_texts(any_postgres: Database, unique: str) -> None:
    """Rows take unique values from each other, in a circle and from rows that go."""
    run(
        any_postgres,
        f"CREATE TABLE t (id int PRIMARY KEY, a {unique});"
        "INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd'), (9, 'kept')",
    )
    patch: Patch = {
        **{(1,): {"a": "b"}, (2,): {"a": "c"}, (3,): {"a": "a"}},
        **{(4,): None, (5,): {"a": "d"}},
    }
    assert write(any_postgres, "t", patch) == (1, 3, 1)
    assert read(any_postgres.url, "t", ["id"]) == {
        **{(1,): {"a": "b"}, (2,): {"a": "c"}, (3,): {"a": "a"}},
        **{(5,): {"a": "d"}, (9,): {"a": "kept"}},
    }


def test_a_swap_of_places(postgres: Database) -> None:
    """Integers that are unique within a list change places, under a check too."""
    run(
        postgres,
        "CREATE TABLE t (id int PRIMARY KEY, list int NOT NULL, place int NOT NULL CHECK"
        " (place > 0), UNIQUE (list, place)); INSERT INTO t SELECT n, 1, n"
        " FROM generate_series(1, 50) AS n",
    )
    places = random.Random(1).sample(range(1, 51), 50)
    patch = {(n,): {"list": 1, "place": place} for n, place in enumerate(places, 1)}
    moved = sum(n != place for n, place in enumerate(places, 1))
    assert write(postgres, "t", patch) == (0, moved, 0)
    assert read(postgres.url, "t", ["id"]) == patch


def test_a_value_that_only_passes_on(postgres: Database) -> None:
    """Rows that need no release are written once."""
    run(
        postgres,
        "CREATE TABLE t (id int PRIMARY KEY, a text UNIQUE, n int DEFAULT 0);"
        "CREATE FUNCTION tick() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN new.n := old.n + 1; RETURN new; END';"
        "CREATE TRIGGER counted BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION tick();"
        "INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')",
    )
    patch: Patch = {(1,): {"a": "b"}, (2,): {"a": "x"}, (3,): {"a": "z"}}
    write(postgres, "t", patch, local=("n",))
    with postgres.connect() as connection:
        found = connection.execute("SELECT id, a, n FROM t ORDER BY id").fetchall()
    assert found == [(1, "b", 1), (2, "x", 2), (3, "z", 1)]


def test_a_value_that_cannot_be_freed(postgres: Database) -> None:
    """Where no column can hold another value meanwhile, the constraint is named."""
    run(
        postgres,
        "CREATE TABLE t (id int PRIMARY KEY, a date NOT NULL UNIQUE);"
        "INSERT INTO t VALUES (1, '2000-01-01'), (2, '2000-01-02')",
    )
    with pytest.raises(Refused, match="t_a_key"):
        write(postgres, "t", {(1,): {"a": 10958}, (2,): {"a": 10957}})
    assert read(postgres.url, "t", ["id"]) == {(1,): {"a": 10957}, (2,): {"a": 10958}}


def test_a_deletion_that_frees_a_value(postgres: Database) -> None:
    """A row that goes leaves its value, of whatever type, to another."""
    run(
        postgres,
        "CREATE TABLE t (id int PRIMARY KEY, a date NOT NULL UNIQUE);"
        "INSERT INTO t VALUES (1, '2000-01-01')",
    )
    assert write(postgres, "t", {(1,): None, (2,): {"a": 10957}}) == (1, 0, 1)


def test_clashes(postgres: Database) -> None:
    """A value of a row outside the patch is reported with both keys; one of the patch is not."""
    run(
        postgres,
        "CREATE TABLE t (id text PRIMARY KEY, a int, b uuid, UNIQUE (a, b));"
        "INSERT INTO t SELECT 'row' || n, n, NULL FROM generate_series(1, 3) AS n;"
        "UPDATE t SET b = '00000000-0000-0000-0000-000000000001' WHERE a = 1",
    )
    contents = Contents()
    uid = bytes(15) + b"\1"
    patch: dict[tuple[str], Any] = {("new",): {"a": 1, "b": uid}, ("n2",): {"a": 2, "b": None}}
    with PostgresDatabase(postgres.url).writing() as writing:
        plan = plan_of(writing, "t", ["id"])
        writing.stage(plan, [change(plan, k, row) for k, row in patch.items()], contents.load)
        assert writing.clashes(plan, 5) == [
            Clash("t", "t_a_b_key", ("new",), (("a", 1), ("b", uid)), ("row1",))
        ]
    patch[("row1",)] = None
    assert write(postgres, "t", patch) == (2, 0, 1)


def test_nulls_that_are_equal_clash(any_postgres: Database) -> None:
    """Under NULLS NOT DISTINCT, two NULLs clash, and a swap does not park at NULL."""
    if any_postgres.major < 15:
        pytest.skip("from Postgres 15 on")
    run(
        any_postgres,
        "CREATE TABLE t (id int PRIMARY KEY, a text UNIQUE NULLS NOT DISTINCT);"
        "INSERT INTO t VALUES (1, NULL), (2, 'b'), (3, 'c')",
    )
    assert write(any_postgres, "t", {(1,): {"a": "b"}, (2,): {"a": "c"}, (3,): {}}) == (0, 3, 0)
    with PostgresDatabase(any_postgres.url).writing() as writing:
        plan = plan_of(writing, "t", ["id"])
        writing.stage(plan, [change(plan, (4,), {})], Contents().load)
        assert [clash.holder for clash in writing.clashes(plan, 5)] == [(3,)]


# --- Keys, identities, sequences -----------------------------------------------------


def test_a_key_that_is_deferrable(postgres: Database) -> None:
    """Such a key is no aim of ON CONFLICT, and is written all the same."""
    run(postgres, "CREATE TABLE t (id int PRIMARY KEY DEFERRABLE, a text)")
    assert write(postgres, "t", {(1,): {"a": "x"}, (2,): {"a": "y"}}) == (2, 0, 0)
    assert write(postgres, "t", {(1,): {"a": "z"}, (3,): {"a": "y"}}) == (1, 1, 0)


def test_identities_and_sequences(any_postgres: Database) -> None:
    """Recorded identities are written as they are, and their sequences go on after them."""
    run(
        any_postgres,
        "CREATE TABLE a (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, x text);"
        "CREATE TABLE s (id serial PRIMARY KEY, x text);"
        "CREATE SEQUENCE own; CREATE TABLE o (id int DEFAULT nextval('own') PRIMARY KEY, x text)",
    )
    for name in "aso":
        assert write(any_postgres, name, {(7,): {"x": "a"}, (3,): {"x": "b"}}) == (2, 0, 0)
        assert write(any_postgres, name, {(7,): {"x": "c"}, (2,): {"x": "b"}}) == (1, 1, 0)
        with any_postgres.connect() as connection:
            made = connection.execute(f"INSERT INTO {name} (x) VALUES ('n') RETURNING id")
            assert made.fetchone() == (8,)


def test_an_identity_beside_the_key(postgres: Database) -> None:
    """GENERATED ALWAYS beside the key is inserted, kept, and refused where it is to change."""
    run(
        postgres,
        "CREATE TABLE t (k text PRIMARY KEY, id int GENERATED ALWAYS AS IDENTITY, x text)",
    )
    assert write(postgres, "t", {("a",): {"id": 5, "x": "1"}}, ("k",)) == (1, 0, 0)
    assert write(postgres, "t", {("a",): {"id": 5, "x": "2"}}, ("k",)) == (0, 1, 0)
    with pytest.raises(Refused, match="id is GENERATED ALWAYS"):
        write(postgres, "t", {("a",): {"id": 6, "x": "2"}}, ("k",))


def test_local_ids_are_not_used_up(postgres: Database) -> None:
    """An update takes no number of the sequence that fills a local id."""
    run(postgres, "CREATE TABLE t (id serial PRIMARY KEY, k text NOT NULL UNIQUE, x int)")
    for x in range(5):
        write(postgres, "t", {("a",): {"x": x}}, ("k",), ("id",))
    with postgres.connect() as connection:
        assert connection.execute("SELECT last_value FROM t_id_seq").fetchone() == (1,)


def test_partitions_and_other_schemas(any_postgres: Database) -> None:
    """A partitioned table is written through its parent."""
    run(
        any_postgres,
        'CREATE SCHEMA "S"; CREATE TABLE "S"."T%s" (id int, a text, PRIMARY KEY (id))'
        ' PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF "S"."T%s" FOR VALUES FROM (0)'
        ' TO (10); CREATE TABLE p2 PARTITION OF "S"."T%s" DEFAULT',
    )
    assert write(any_postgres, "S.T%s", {(1,): {"a": "x"}, (100,): {"a": "y"}}) == (2, 0, 0)
    assert write(any_postgres, "S.T%s", {(1,): {"a": "z"}, (100,): None}) == (0, 1, 1)
    assert read(any_postgres.url, "S.T%s", ["id"]) == {(1,): {"a": "z"}}


# --- Foreign keys and triggers -------------------------------------------------------


def test_a_table_that_refers_to_itself(any_postgres: Database) -> None:
    """Rows may come in any order, refer to rows that come with them, and go together."""
    run(
        any_postgres,
        "CREATE TABLE t (id int PRIMARY KEY, up int REFERENCES t);"
        "INSERT INTO t VALUES (5, NULL), (6, 5), (7, 6)",
    )
    patch: Patch = {
        **{(1,): {"up": 3}, (2,): {"up": 1}, (3,): {"up": 3}, (5,): {"up": 2}},
        **{(6,): None, (7,): None},
    }
    assert write(any_postgres, "t", patch) == (3, 1, 2)


@pytest.mark.parametrize("deferrable", ["", "DEFERRABLE"])
def test_two_tables(any_postgres: Database, deferrable: str) -> None:
    """A child moves from a parent that goes to one that comes, and does not go with the first."""
    run(
        any_postgres,
        "CREATE TABLE a (id int PRIMARY KEY);"
        f"CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a ON DELETE CASCADE {deferrable});"
        "INSERT INTO a VALUES (1); INSERT INTO b VALUES (1, 1), (2, 1)",
    )
    with PostgresDatabase(any_postgres.url).writing() as writing:
        parents, children = (plan_of(writing, name, ["id"]) for name in "ab")
        counts = apply(
            writing,
            [(parents, {(1,): None, (2,): {}}), (children, {(1,): {"a": 2}, (2,): None})],
        )
        writing.commit()
    assert counts == [(1, 0, 1), (0, 1, 1)]
    assert read(any_postgres.url, "b", ["id"]) == {(1,): {"a": 2}}


def test_a_circle_that_is_deferred(postgres: Database) -> None:
    """Two tables that refer to each other are written if one key can wait."""
    run(
        postgres,
        "CREATE TABLE a (id int PRIMARY KEY, b int NOT NULL);"
        "CREATE TABLE b (id int PRIMARY KEY, a int NOT NULL REFERENCES a);"
        "ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b DEFERRABLE",
    )
    with PostgresDatabase(postgres.url).writing() as writing:
        a, b = (plan_of(writing, name, ["id"]) for name in "ab")
        apply(writing, [(a, {(1,): {"b": 1}}), (b, {(1,): {"a": 1}})])
        writing.commit()
    assert read(postgres.url, "a", ["id"]) == {(1,): {"b": 1}}


@pytest.mark.parametrize(
    ("column", "row", "words"),
    [
        ("int REFERENCES t", {"a": 9}, "t_a_fkey"),
        ("int REFERENCES t DEFERRABLE", {"a": 9}, "t_a_fkey"),
        ("int CHECK (a > 0)", {"a": -1}, "t_a_check"),
        ("int NOT NULL", {}, "null value"),
        ("int UNIQUE DEFERRABLE", {"a": 1}, "t_a_key"),
    ],
)
def test_rules_of_the_database(
    any_postgres: Database, column: str, row: dict[str, Any], words: str
) -> None:
    """A row that breaks one is a Conflict that names it, and nothing is written."""
    run(any_postgres, f"CREATE TABLE t (id int PRIMARY KEY, a {column})")
    run(any_postgres, "INSERT INTO t VALUES (1, 1)")
    before = read(any_postgres.url, "t", ["id"])
    contents = Contents()
    with (
        pytest.raises(Conflict, match=words) as caught,
        PostgresDatabase(any_postgres.url).writing() as writing,
    ):
        plan = plan_of(writing, "t", ["id"])
        rows = {(2,): row, (3,): {"a": 2}}
        writing.stage(plan, [change(plan, k, r) for k, r in rows.items()], contents.load)
        writing.upsert(plan)
        rows_of(writing, plan)
    assert caught.value.details["table"] == "t"
    assert read(any_postgres.url, "t", ["id"]) == before


def test_a_value_that_does_not_fit(postgres: Database) -> None:
    """A text that is longer than the column is Refused, and the table named."""
    run(postgres, "CREATE TABLE t (id int PRIMARY KEY, a varchar(3))")
    with pytest.raises(Refused, match="table t: .*too long"):
        write(postgres, "t", {(1,): {"a": "abcd"}})


@pytest.mark.parametrize("deferred", ["", "CONSTRAINT"])
def test_a_trigger_is_seen(postgres: Database, deferred: str) -> None:
    """What a trigger makes of a row is read before the commit, even if it acts late."""
    when, options = ("AFTER", "DEFERRABLE INITIALLY DEFERRED") if deferred else ("BEFORE", "")
    body = (
        "UPDATE t SET a = upper(a) WHERE id = new.id AND a <> upper(a); RETURN NULL;"
        if deferred
        else "new.a := upper(new.a); RETURN new;"
    )
    run(
        postgres,
        "CREATE TABLE t (id int PRIMARY KEY, a text);"
        f"CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {body} END$$;"
        f"CREATE {deferred} TRIGGER shouting {when} INSERT OR UPDATE ON t {options}"
        " FOR EACH ROW EXECUTE FUNCTION shout()",
    )
    contents = Contents()
    with PostgresDatabase(postgres.url).writing() as writing:
        plan = plan_of(writing, "t", ["id"])
        writing.stage(plan, [change(plan, (1,), {"a": "quiet"})], contents.load)
        writing.upsert(plan)
        assert rows_of(writing, plan) == {(1,): {"a": "QUIET"}}


def test_triggers_find_what_they_name(postgres: Database) -> None:
    """A trigger that relies on the search path works as it does for others."""
    run(
        postgres,
        "CREATE TABLE t (id int PRIMARY KEY, a text); CREATE TABLE audit (id int);"
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN INSERT INTO audit VALUES (new.id); RETURN new; END';"
        "CREATE TRIGGER noted BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION note()",
    )
    assert write(postgres, "t", {(1,): {"a": "x"}}) == (1, 0, 0)
    with postgres.connect() as connection:
        assert connection.execute("SELECT id FROM audit").fetchall() == [(1,)]


# --- Others --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "meanwhile",
    ["UPDATE t SET a = 'y' WHERE id = 1", "DELETE FROM t WHERE id = 1", "INSERT INTO t VALUES (2)"],
)
def test_a_concurrent_write(any_postgres: Database, meanwhile: str) -> None:
    """A row that another transaction wrote since the snapshot is a reason to start again."""
    run(any_postgres, "CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t VALUES (1, 'x')")
    with (
        pytest.raises(Interfered, match="table t"),
        PostgresDatabase(any_postgres.url).writing() as writing,
    ):
        plan = plan_of(writing, "t", ["id"])
        run(any_postgres, meanwhile)
        apply(writing, [(plan, {(1,): {"a": "z"}, (2,): {"a": "z"}})])


def test_the_backend_is_killed(postgres: Database) -> None:
    """A session that the server ends is Unavailable, and nothing is changed."""
    run(postgres, "CREATE TABLE t (id int PRIMARY KEY, a text)")
    with (
        pytest.raises(Unavailable),
        PostgresDatabase(postgres.url).writing() as writing,
    ):
        plan = plan_of(writing, "t", ["id"])
        apply(writing, [(plan, {(1,): {"a": "z"}})])
        with postgres.connect() as other:
            kill(other)
        writing.commit()
    assert read(postgres.url, "t", ["id"]) == {}


def test_a_lock_that_is_not_released(postgres: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table locked for too long is Unavailable, and so is another writer of gsync."""
    monkeypatch.setitem(connect.SETTINGS, "lock_timeout", "200")
    run(postgres, "CREATE TABLE t (id int PRIMARY KEY, a text)")
    database = PostgresDatabase(postgres.url)
    with postgres.connect() as other:
        other.execute("LOCK TABLE t IN SHARE MODE")
        with pytest.raises(Unavailable, match="table t: locked"), database.writing() as writing:
            apply(writing, [(plan_of(writing, "t", ["id"]), {(1,): {"a": "z"}})])
    with database.writing(), pytest.raises(Unavailable), database.writing():
        pass
    with database.writing():
        pass


def test_a_second_writer_sees_what_the_first_wrote(postgres: Database) -> None:
    """The snapshot is taken after the wait for the other writer, not before."""
    run(postgres, "CREATE TABLE t (id int PRIMARY KEY, a text)")
    database = PostgresDatabase(postgres.url)
    found: list[Any] = []

    def second() -> None:
        with database.writing() as writing:
            found.append(rows_of(writing, plan_of(writing, "t", ["id"])))

    thread = threading.Thread(target=second)
    with database.writing() as writing:
        thread.start()
        apply(writing, [(plan_of(writing, "t", ["id"]), {(1,): {"a": "z"}})])
        writing.commit()
    thread.join(20)
    assert found == [{(1,): {"a": "z"}}]


def test_no_right_to_write(postgres: Database) -> None:
    """A table that the role may not write is Denied, and named."""
    role = f"reader_{postgres.name}"
    run(postgres, "CREATE TABLE t (id int PRIMARY KEY, a text)")
    run(postgres, f"CREATE ROLE {role} LOGIN; GRANT SELECT ON t TO {role}")
    try:
        database = PostgresDatabase(postgres.url.replace("postgres@", f"{role}@"))
        with pytest.raises(Denied, match="table t: "), database.writing() as writing:
            apply(writing, [(plan_of(writing, "t", ["id"]), {(1,): {"a": "z"}})])
    finally:
        run(postgres, f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_any_patch_is_written(any_postgres: Database) -> None:
    """Random patches under two unique constraints end where they say, each from the last."""
    run(
        any_postgres,
        "CREATE TABLE t (id int PRIMARY KEY, a text UNIQUE, b int NOT NULL UNIQUE, c numeric)",
    )
    chance = random.Random(7)
    state: dict[tuple[int], dict[str, Any]] = {}
    for _ in range(12):
        ids = chance.sample(range(12), 8)
        texts = chance.sample("abcdefghijkl", 8)
        numbers = chance.sample(range(12), 8)
        new = {
            (n,): {"a": chance.choice([a, a, None]), "b": b, "c": chance.choice(["1.0", "1.00"])}
            for n, a, b in zip(ids, texts, numbers, strict=True)
        }
        patch: dict[tuple[int], Any] = {key: None for key in state if key not in new}
        patch |= {key: row for key, row in new.items() if state.get(key) != row}
        counts = write(any_postgres, "t", patch)
        assert counts == (
            len(new.keys() - state.keys()),
            sum(key in state and key in patch for key in new),
            len(state.keys() - new.keys()),
        )
        state = new
        assert read(any_postgres.url, "t", ["id"]) == state
