"""The servers that tests of rows run on: real, of several versions, and gone afterwards."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from support import require
from support_pg import (
    Cluster,
    Database,
    MakeCluster,
    MakeDatabase,
    Servers,
    copy_programs,
    find_servers,
    missing_server,
)

SCHEMA = "CREATE TABLE place (id int PRIMARY KEY, name text); INSERT INTO place VALUES (1, 'Bern')"


def test_each_version_starts(any_postgres: Database) -> None:
    """The server is of the version that the test asked for, and its database is empty."""
    with any_postgres.connect() as connection:
        version = connection.execute("SHOW server_version_num").fetchone()
        tables = connection.execute("SELECT * FROM pg_tables WHERE schemaname = 'public'")
        assert version is not None
        assert int(version[0]) // 10000 == any_postgres.major
        assert tables.fetchall() == []


def test_addresses_are_understood(postgres: Database) -> None:
    """The address means the same to psycopg, to libpq's own programs and to urllib."""
    assert urlsplit(postgres.url).path == f"/{postgres.name}"
    with psycopg.connect(postgres.url) as connection:
        assert connection.info.dbname == postgres.name
    psql = find_servers()[postgres.major] / "psql"
    said = subprocess.run(
        [psql, "-XAtc", "SELECT current_database()", postgres.url], capture_output=True, text=True
    )
    assert said.stdout.strip() == postgres.name, said.stderr


def test_clones_are_apart(make_database: MakeDatabase) -> None:
    """Databases with one schema start equal, and what one does the other does not see."""
    one, other = make_database(SCHEMA), make_database(SCHEMA)
    with one.connect() as connection:
        connection.execute("DELETE FROM place")
    with other.connect() as connection:
        assert connection.execute("SELECT * FROM place").fetchall() == [(1, "Bern")]


def test_wrong_schema_leaves_no_template(make_database: MakeDatabase) -> None:
    """SQL that fails halfway fails again, instead of leaving half a template."""
    for _ in range(2):
        with pytest.raises(psycopg.errors.UndefinedTable):
            make_database("CREATE TABLE half (id int); SELECT * FROM nowhere")


def test_tcp_asks_for_a_password(make_cluster: MakeCluster) -> None:
    """On 127.0.0.1 the server is open to whoever knows the password, and to nobody else."""
    database = make_cluster(tcp=True).create_database()
    with psycopg.connect(database.tcp_url) as connection:
        assert connection.info.host == "127.0.0.1"
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(database.tcp_url.replace(database.cluster.password, "wrong"))


@pytest.mark.parametrize("how", ["fast", "immediate", "kill"])
def test_committed_rows_survive(make_cluster: MakeCluster, how: str) -> None:
    """What was committed is there after a stop and after a crash; what was not, is not."""
    cluster = make_cluster(fsync=True)
    database = cluster.create_database(SCHEMA)
    with database.connect() as connection:
        connection.execute("INSERT INTO place VALUES (2, 'Chur')")
    open_connection = database.connect()
    open_connection.execute("INSERT INTO place VALUES (3, 'Davos')")
    end(cluster, how)
    open_connection.close()
    assert not cluster.running

    cluster.start()
    with database.connect() as connection:
        assert connection.execute("SHOW fsync").fetchone() == ("on",)
        rows = connection.execute("SELECT name FROM place ORDER BY id").fetchall()
    assert rows == [("Bern",), ("Chur",)]
    assert ("database system was not properly shut down" in cluster.log()) == (how != "fast")


@pytest.mark.parametrize("how", ["fast", "kill"])
def test_closing_leaves_nothing(make_cluster: MakeCluster, how: str) -> None:
    """After `close` there is no process and no directory, whatever happened before."""
    cluster = make_cluster()
    pid = int((cluster.directory / "data/postmaster.pid").read_text().split()[0])
    end(cluster, how)
    cluster.close()
    assert not cluster.directory.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_programs_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in a private home serves a server that runs as another user."""
    require("root")
    require("pg18")
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    programs = copy_programs(find_servers()[18], private)
    monkeypatch.setattr("support_pg.find_servers", lambda: {18: programs})
    monkeypatch.setattr("tempfile.tempdir", str(private))
    assert missing_server(18) is None
    servers = Servers()
    try:
        assert servers.cluster(18).create_database().major == 18
        assert not servers.programs(18).is_relative_to(private)
    finally:
        servers.close()


def test_another_test_stopped_the_server(make_database: MakeDatabase) -> None:
    """A shared server that was stopped starts again for the next who asks."""
    make_database().cluster.stop()
    with make_database().connect() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def end(cluster: Cluster, how: str) -> None:
    if how == "kill":
        cluster.kill()
    else:
        cluster.stop(immediate=how == "immediate")
