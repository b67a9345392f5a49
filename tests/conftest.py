"""Home, time zone, locale, umask and environment are sealed for every test.

A developer's profile must not reach a test, nor a test a real account.

Fixtures that tests of several folders share are here too: Postgres servers and databases.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from support import require
from support_pg import (
    MAJORS,
    Cluster,
    Database,
    MakeCluster,
    MakeDatabase,
    Servers,
    default_major,
    find_servers,
)

# No deadline: a slow machine is not a failure. In CI the examples are the same each time.
settings.register_profile("gsync", deadline=None, print_blob=True)
settings.register_profile("gsync-ci", deadline=None, print_blob=True, derandomize=True)
settings.load_profile("gsync-ci" if os.environ.get("CI") else "gsync")
# Of the long form, `python -m tests.campaigns properties`: more cases, where a test sets no number.
if examples := os.environ.get("GSYNC_EXAMPLES"):
    settings.register_profile(
        "gsync-long", settings.get_profile("gsync"), max_examples=int(examples)
    )
    settings.load_profile("gsync-long")

# What a profile, a proxy or a cloud account puts into the environment.
SEALED_PREFIXES = ("AWS_", "DOCKER_", "FLY_", "GIT_", "GSYNC_", "LC_", "PG", "XDG_")
SEALED_NAMES = frozenset(
    (
        *("all_proxy", "ftp_proxy", "http_proxy", "https_proxy", "no_proxy"),
        *("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR", "SSL_CERT_FILE"),
        *("CLICOLOR", "CLICOLOR_FORCE", "COLUMNS", "FORCE_COLOR", "LINES", "NO_COLOR"),
        *("EDITOR", "LANG", "LANGUAGE", "PAGER", "SOURCE_DATE_EPOCH", "TZ", "VISUAL"),
    )
)


@pytest.fixture(autouse=True, scope="session")
def sealed_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Seal the environment for fixtures that outlive one test, such as servers."""
    with pytest.MonkeyPatch.context() as patch:
        seal(patch, tmp_path_factory.mktemp("home"))
        umask = os.umask(0o022)
        yield
        os.umask(umask)
    time.tzset()


@pytest.fixture(autouse=True)
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the test an empty home of its own, and undo what it did to the process."""
    environment, directory = dict(os.environ), os.getcwd()
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        set_home(patch, home)
        yield home
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    os.umask(0o022)
    time.tzset()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that takes `any_postgres` on each version; one that is missing is seen to be."""
    if "any_postgres" in metafunc.fixturenames:
        majors = sorted({*MAJORS, *find_servers()})
        ids = [f"pg{major}" for major in majors]
        metafunc.parametrize("any_postgres", majors, ids=ids, indirect=True)


@pytest.fixture(scope="session")
def postgres_servers(sealed_environment: None) -> Iterator[Servers]:
    """Give the clusters that this test process shares; none runs before it is asked for."""
    servers = Servers()
    yield servers
    servers.close()


@pytest.fixture
def make_database(postgres_servers: Servers) -> Iterator[MakeDatabase]:
    """Give a function that makes databases in a shared cluster, on the default version or `major`.

    With `schema`, SQL, each is a clone of a template in which it ran once. The databases
    are dropped after the test.
    """
    made: list[Database] = []

    def make(schema: str = "", *, major: int | None = None) -> Database:
        require("pg" if major is None else f"pg{major}")
        made.append(postgres_servers.cluster(major or default_major()).create_database(schema))
        return made[-1]

    yield make
    for database in made:
        if database.cluster.running:
            database.cluster.drop_database(database)


@pytest.fixture
def make_cluster(postgres_servers: Servers) -> Iterator[MakeCluster]:
    """Give a function that starts servers of the test's own, to be stopped, killed and started."""
    made: list[Cluster] = []

    def make(*, major: int | None = None, fsync: bool = False, tcp: bool = False) -> Cluster:
        require("pg" if major is None else f"pg{major}")
        programs = postgres_servers.programs(major or default_major())
        made.append(Cluster(programs, fsync=fsync, tcp=tcp))
        return made[-1]

    yield make
    for cluster in made:
        cluster.close()


@pytest.fixture
def postgres(make_database: MakeDatabase) -> Database:
    """Give an empty database on the default version."""
    return make_database()


@pytest.fixture
def any_postgres(make_database: MakeDatabase, request: pytest.FixtureRequest) -> Database:
    """Give an empty database on each version in turn."""
    return make_database(major=request.param)


def seal(patch: pytest.MonkeyPatch, home: Path) -> None:
    """Hide what the machine and the user bring into the environment; `home` is empty."""
    for name in list(os.environ):
        if is_sealed(name):
            patch.delenv(name)
    patch.setenv("TZ", "UTC")
    patch.setenv("LANG", "C.UTF-8")
    patch.setenv("LC_ALL", "C.UTF-8")
    patch.setenv("NO_PROXY", "*")
    patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    patch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    set_home(patch, home)
    time.tzset()


def is_sealed(name: str) -> bool:
    """Return whether no test may see the variable `name` as it was outside."""
    return name.startswith(SEALED_PREFIXES) or name in SEALED_NAMES or name.lower() in SEALED_NAMES


def set_home(patch: pytest.MonkeyPatch, home: Path) -> None:
    """Make `home` the home directory, with the places that belong below it."""
    patch.setenv("HOME", str(home))
    for name in ("CACHE", "CONFIG", "DATA", "STATE"):
        patch.setenv(f"XDG_{name}_HOME", str(home / f".{name.lower()}"))
    for name in ("CONFIG", "DATA"):
        patch.setenv(f"XDG_{name}_DIRS", str(home / f".system-{name.lower()}"))
