"""Whatever dies while rows are written, a database is as before or as it was meant to be."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import require
from support_cli import gsync_in, json_in, start
from support_pg import Cluster, MakeCluster, MakeDatabase
from support_server import running_server
from support_tables import SCHEMA, Live, generation, pair

# Each kill takes about a second; GSYNC_KILLS=50 is the long form (CONTRIBUTING.md).
KILLS = int(os.environ.get("GSYNC_KILLS", "4"))
ROWS = 800


def instants(seed: int, whole_s: float) -> list[float]:
    r = random.Random(seed)
    return [r.uniform(0.2, 1.05) * whole_s for _ in range(KILLS)]


def make_live(engine: str, path: Path, make_database: MakeDatabase | None) -> Live:
    if engine == "postgres":
        assert make_database is not None
        database = make_database(SCHEMA["postgres"])
        return Live("postgres", database.url, database)
    live = Live("sqlite", f"sqlite:///{path}")
    live.run(*SCHEMA["sqlite"].split(";"))
    return live


def push_generation(folder: Path, live: Live, n: int, **env: Any) -> None:
    live.fill(generation(n, ROWS))
    (folder / "a.txt").write_text(f"generation {n}")
    gsync_in(folder, "snapshot", "-m", f"generation {n}", **env)
    gsync_in(folder, "push", **env)


def pull_and_kill(folder: Path, after_s: float, kill: Callable[[Any], None], **env: Any) -> None:
    process = start(folder, "pull", **env)
    try:
        time.sleep(after_s)
        kill(process)
        process.communicate(timeout=60)
    finally:
        process.kill()


def check_finished(folder: Path, live: Live, n: int, **env: Any) -> None:
    """A pull goes on from whatever was left, and nothing is lost, invented or half done."""
    gsync_in(folder, "pull", **env)
    assert live.rows() == generation(n, ROWS)
    assert (folder / "a.txt").read_text() == f"generation {n}"
    assert json_in(folder, "snapshot")["manifest"] is None
    assert json_in(folder, "verify")["problems"] == []
    assert json_in(folder, "status")["remotes"]["origin"] == {"ahead": 0, "behind": 0}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
def test_killed_client(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A killed pull leaves the old rows or the new ones, and the next one brings the new ones."""
    make_database = request.getfixturevalue("make_database") if engine == "postgres" else None
    one = make_live(engine, tmp_path / "one.db", make_database)
    two = make_live(engine, tmp_path / "two.db", make_database)
    gsync_in(tmp_path, "init", "--bare", "there")
    first, second = pair(tmp_path, one, two, generation(0, ROWS), str(tmp_path / "there"))
    push_generation(first, one, 1)
    began = time.monotonic()
    gsync_in(second, "pull")
    whole = time.monotonic() - began
    for n, after in enumerate(instants(5, whole), start=2):
        push_generation(first, one, n)
        pull_and_kill(second, after, lambda process: process.kill())
        assert two.rows() in (generation(n - 1, ROWS), generation(n, ROWS)), (n, after)
        check_finished(second, two, n)


@pytest.mark.slow
def test_killed_database(tmp_path: Path, make_cluster: MakeCluster) -> None:
    """A Postgres that is killed while rows are written comes back with the old or the new ones."""
    require("pg")
    clusters: list[Cluster] = [make_cluster(fsync=True), make_cluster(fsync=True)]
    lives = []
    for cluster in clusters:
        database = cluster.create_database(SCHEMA["postgres"])
        lives.append(Live("postgres", database.url, database))
    one, two = lives
    gsync_in(tmp_path, "init", "--bare", "there")
    first, second = pair(tmp_path, one, two, generation(0, ROWS), str(tmp_path / "there"))
    push_generation(first, one, 1)
    began = time.monotonic()
    gsync_in(second, "pull")
    whole = time.monotonic() - began
    for n, after in enumerate(instants(6, whole), start=2):
        push_generation(first, one, n)
        pull_and_kill(second, after, lambda _: clusters[1].kill())
        clusters[1].start()
        assert two.rows() in (generation(n - 1, ROWS), generation(n, ROWS)), (n, after)
        check_finished(second, two, n)


@pytest.mark.slow
def test_killed_server(tmp_path: Path) -> None:
    """A server that is killed under a pull costs a repetition and nothing else."""
    require("server")
    one = make_live("sqlite", tmp_path / "one.db", None)
    two = make_live("sqlite", tmp_path / "two.db", None)
    data = tmp_path / "data"
    with running_server(data) as server:
        port, env = server.port, {"GSYNC_TOKEN": server.token("team")}
        url = f"{server.base}/team"
        first, second = pair(tmp_path, one, two, generation(0, ROWS), url, **env)
    for n, after in enumerate(instants(7, 0.6), start=1):
        with running_server(data, port=port) as server:
            push_generation(first, one, n, **env)
            pull_and_kill(second, after, lambda _, at=server: at.kill(), **env)  # type: ignore[misc]
            assert two.rows() in (generation(n - 1, ROWS), generation(n, ROWS))
        with running_server(data, port=port):
            check_finished(second, two, n, **env)
