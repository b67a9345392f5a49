"""What the catalog of Postgres says, as LiveTables."""

from __future__ import annotations

from typing import Any

import pytest
from support_pg import Database, MakeDatabase

from gsync.replicas.postgres import PostgresDatabase
from gsync.replicas.tables.base import LiveTable, LiveTrigger, LiveUnique
from gsync.views.rows.schema import ForeignKey

SCHEMA = """
CREATE SCHEMA billing;
CREATE TYPE mood AS ENUM ('glad');
CREATE DOMAIN short AS text;
CREATE COLLATION nocase (provider = libc, locale = 'C');
CREATE TABLE users (
    id serial PRIMARY KEY, email varchar(255) NOT NULL UNIQUE, code char(5) NOT NULL,
    uid uuid DEFAULT gen_random_uuid(), at timestamptz DEFAULT now(), amount numeric(10,2),
    free numeric, doc jsonb, tags text[], raw bytea, ok boolean, day date, feeling mood,
    name short, plain json, score double precision, twice int GENERATED ALWAYS AS (1 + 1) STORED,
    span int4range, UNIQUE (code, email) DEFERRABLE, "odd ""name%s" smallint);
CREATE UNIQUE INDEX partial_one ON users (code) WHERE ok;
CREATE UNIQUE INDEX lower_one ON users (lower(email));
CREATE UNIQUE INDEX plain_one ON users (uid) INCLUDE (ok);
CREATE TABLE billing.invoice (
    nr bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    payer int REFERENCES users ON DELETE CASCADE DEFERRABLE,
    parent bigint REFERENCES billing.invoice);
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
CREATE TRIGGER touched BEFORE INSERT OR UPDATE ON users FOR EACH ROW EXECUTE FUNCTION touch();
CREATE TRIGGER asleep BEFORE DELETE ON users FOR EACH ROW EXECUTE FUNCTION touch();
ALTER TABLE users DISABLE TRIGGER asleep;
CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
CREATE TABLE old (id int PRIMARY KEY);
CREATE TABLE young (more text) INHERITS (old);
CREATE TABLE ruled (id int PRIMARY KEY);
CREATE RULE nothing AS ON DELETE TO ruled DO INSTEAD NOTHING;
CREATE TABLE "a.b" (id int PRIMARY KEY);
CREATE TABLE hidden (id int PRIMARY KEY);
ALTER TABLE hidden ENABLE ROW LEVEL SECURITY;
CREATE VIEW seen AS SELECT 1 AS id;
CREATE MATERIALIZED VIEW kept AS SELECT 1 AS id;
CREATE FOREIGN DATA WRAPPER nowhere;
CREATE SERVER far FOREIGN DATA WRAPPER nowhere;
CREATE FOREIGN TABLE away (id int) SERVER far;
"""


def tables(database: Database) -> dict[str, LiveTable]:
    with PostgresDatabase(database.url).reading() as session:
        return {table.name: table for table in session.tables()}


@pytest.fixture
def live(any_postgres: Database) -> dict[str, LiveTable]:
    with any_postgres.connect() as connection:
        connection.execute(SCHEMA)
    return tables(any_postgres)


def test_which_tables(live: dict[str, LiveTable]) -> None:
    """Views and partitions are no tables; a table that cannot be carried says why."""
    assert list(live) == sorted(live)
    problems = {name: table.problem for name, table in live.items()}
    assert {name for name in problems if problems[name] is None} == {
        *("billing.invoice", "hidden", "parts", "users")
    }
    assert "foreign table" in (problems["away"] or "")
    assert "inherit" in (problems["old"] or "")
    assert "inherits" in (problems["young"] or "")
    assert "rules" in (problems["ruled"] or "")
    assert "point" in (problems["a.b"] or "")
    assert not {"parts_1", "seen", "kept"} & set(live)


def test_columns(live: dict[str, LiveTable]) -> None:
    """Types, what fills itself, what is generated and what cannot be in a key."""
    users = live["users"]
    assert {c.name: c.type for c in users.columns} == {
        **{"id": "int", "email": "text", "code": "text", "uid": "uuid", "at": "timestamptz"},
        **{"amount": "numeric", "free": "numeric", "doc": "jsonb", "tags": "text[]"},
        **{"raw": "bytes", "ok": "bool", "day": "date", "feeling": None, "name": None},
        **{"plain": None, "score": "float", "twice": "int", "span": None, 'odd "name%s': "int"},
    }
    assert {c.name for c in users.columns if c.fills_itself} == {"id", "uid"}
    assert {c.name for c in users.columns if c.generated} == {"twice"}
    assert {c.name for c in users.columns if not c.nullable} == {"id", "email", "code"}
    assert {c.name for c in users.columns if c.key_problem} == {
        *("free", "doc", "tags", "feeling", "name", "plain", "score", "twice", "span")
    }
    email = users.column("email")
    assert email is not None and email.native == "character varying(255)"
    number = live["billing.invoice"].column("nr")
    assert number is not None and number.fills_itself


def test_constraints(live: dict[str, LiveTable]) -> None:
    """Full unique indexes are keys; partial ones and expressions are not."""
    users = live["users"]
    assert users.uniques == (
        LiveUnique("users_pkey", ("id",), primary=True),
        LiveUnique("plain_one", ("uid",)),
        LiveUnique("users_code_email_key", ("code", "email"), deferrable=True),
        LiveUnique("users_email_key", ("email",)),
    )
    invoice = live["billing.invoice"]
    assert [(f.key, f.deferrable) for f in invoice.foreign] == [
        (ForeignKey(("parent",), "billing.invoice", ("nr",), "no action"), False),
        (ForeignKey(("payer",), "users", ("id",), "cascade"), True),
    ]
    assert users.triggers == (LiveTrigger("touched", ("INSERT", "UPDATE"), "public.touch()"),)


def test_nulls_not_distinct(make_database: MakeDatabase) -> None:
    """A unique constraint in which NULLs are equal says so."""
    database = make_database("CREATE TABLE t (id int PRIMARY KEY, a int UNIQUE NULLS NOT DISTINCT)")
    assert [u.nulls_equal for u in tables(database)["t"].uniques] == [False, True]


def test_a_collation_that_is_not_deterministic(postgres: Database) -> None:
    """Texts that differ and are equal cannot be keys."""
    with postgres.connect() as connection:
        try:
            connection.execute(
                "CREATE COLLATION loose (provider = icu, locale = 'und', deterministic = false)"
            )
        except Exception as error:
            pytest.skip(f"a server without ICU: {error}")
        connection.execute("CREATE TABLE t (id text COLLATE loose PRIMARY KEY)")
    (column,) = tables(postgres)["t"].columns
    assert "deterministic" in (column.key_problem or "")


def test_row_security_of_another_role(postgres: Database) -> None:
    """A policy that hides rows from the role is a reason to refuse the table."""
    role = f"reader_{postgres.name}"
    with postgres.connect(autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
        connection.execute("ALTER TABLE t ENABLE ROW LEVEL SECURITY")
        connection.execute(f"CREATE ROLE {role} LOGIN")
        connection.execute(f"GRANT SELECT ON t TO {role}")
    try:
        url = postgres.url.replace("postgres@", f"{role}@")
        with PostgresDatabase(url).reading() as session:
            (table,) = session.tables()
        assert "row-level security" in (table.problem or "")
    finally:
        with postgres.connect(autocommit=True) as connection:
            connection.execute(f"DROP OWNED BY {role}")
            connection.execute(f"DROP ROLE {role}")


def test_a_constraint_that_is_not_valid_yet(make_database: MakeDatabase) -> None:
    """From Postgres 18, NOT NULL may be said before it holds."""
    database: Any = make_database(major=18)
    with database.connect() as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY, a int)")
        connection.execute("ALTER TABLE t ADD CONSTRAINT n NOT NULL a NOT VALID")
    column = tables(database)["t"].column("a")
    assert column is not None and column.nullable
