"""Addresses, sessions and what goes wrong with them."""

from __future__ import annotations

import subprocess
import sys

import pytest
from replicas.postgres.tables import Contents, plan_of
from support_pg import Database, MakeCluster

from gsync.errors import Denied, Invalid, NotFound, Unavailable
from gsync.replicas.postgres import PostgresDatabase
from gsync.replicas.postgres.connect import hide_password


def test_passwords_are_not_shown() -> None:
    """Neither the one before the host nor those among the parameters."""
    for url, shown in {
        "postgresql://u:p@h:5/d": "postgresql://u@h:5/d",
        "postgres://u:p%40@h/d?sslmode=require": "postgres://u@h/d?sslmode=require",
        "postgresql:///d?host=/s&password=p": "postgresql:///d?host=/s",
        "postgresql:///d?password=p&host=/s": "postgresql:///d?host=/s",
        "postgresql://h1:1,h2:2/d": "postgresql://h1:1,h2:2/d",
    }.items():
        assert hide_password(url) == shown
        assert PostgresDatabase(url).shown == shown


def test_no_url_of_postgres() -> None:
    """What is none is refused before anything is connected, and not repeated."""
    with pytest.raises(Invalid, match="not a URL"):
        PostgresDatabase("mysql://u:secret@h/d")
    with pytest.raises(Invalid, match="libpq"), PostgresDatabase("postgresql://h/d?no=1").reading():
        pass


def test_psycopg_is_imported_late() -> None:
    """Importing the package costs no import of psycopg."""
    code = "import gsync.replicas.postgres, sys; assert 'psycopg' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_psycopg_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without psycopg the message says what to install."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(Invalid) as caught, PostgresDatabase("postgresql:///d").reading():
        pass
    assert "gsync[postgres]" in (caught.value.hint or "")


def test_nobody_answers() -> None:
    """A host that refuses is Unavailable; the message is one line and has no password."""
    database = PostgresDatabase("postgresql://u:secret@127.0.0.1:9/d")
    with pytest.raises(Unavailable) as caught, database.reading():
        pass
    assert "\n" not in caught.value.message and "secret" not in caught.value.message


def test_no_such_database(any_postgres: Database) -> None:
    """A database that does not exist is NotFound."""
    database = PostgresDatabase(any_postgres.url.replace(any_postgres.name, "nowhere"))
    with pytest.raises(NotFound, match="nowhere"), database.reading():
        pass


def test_a_wrong_password(make_cluster: MakeCluster) -> None:
    """A password that is refused, or none, is Denied; the right one may come apart from the URL."""
    cluster = make_cluster(tcp=True)
    database = cluster.create_database()
    url = hide_password(database.tcp_url)
    for password in ("wrong-one", None):
        with pytest.raises(Denied) as caught, PostgresDatabase(url, password).reading():
            pass
        assert "wrong-one" not in str(caught.value)
    with PostgresDatabase(url, cluster.password).reading() as session:
        assert session.tables() == []


def test_no_right_to_read(postgres: Database) -> None:
    """A table that the role may not read is Denied, and named."""
    role = f"nobody_{postgres.name}"
    with postgres.connect(autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
        connection.execute(f"CREATE ROLE {role} LOGIN")
    try:
        url = postgres.url.replace("postgres@", f"{role}@")
        with PostgresDatabase(url).reading() as session:
            plan = plan_of(session, "t", ["id"])
            with pytest.raises(Denied, match="table t: "):
                list(session.rows(plan, Contents().spill))
    finally:
        with postgres.connect(autocommit=True) as connection:
            connection.execute(f"DROP ROLE {role}")


def test_the_server_ends_the_session(postgres: Database) -> None:
    """A backend that is killed while it is read is Unavailable."""
    with postgres.connect(autocommit=True) as other:
        other.execute("CREATE TABLE t AS SELECT id, repeat('x', 500) AS a"
                      " FROM generate_series(1, 100000) AS id")  # fmt: skip
        other.execute("ALTER TABLE t ADD PRIMARY KEY (id)")
        with PostgresDatabase(postgres.url).reading() as session:
            plan = plan_of(session, "t", ["id"])
            rows = session.rows(plan, Contents().spill)
            next(rows)
            kill(other)
            with pytest.raises(Unavailable):
                list(rows)


def kill(connection) -> None:
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'gsync'"
        " AND datname = current_database()"
    )
