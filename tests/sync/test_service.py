"""A folder and a database go to a tenant and back, by the names and results of the older API."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support_pg import Database, MakeDatabase, find_servers
from support_server import RunningServer, running_server

import gsync
from gsync.errors import Conflict, Denied, Invalid, NotFound, Unavailable
from gsync.replicas.base import ReplicaChanged
from gsync.replicas.tables.apply import Protected
from gsync.replicas.tables.base import Refused
from gsync.sync.controlplane import find_database_url
from gsync.sync.exchange import Behind
from gsync.sync.merging import Unrelated
from gsync.sync.pairs import BothChanged
from gsync.sync.results import (
    InvalidInput,
    MissingConfig,
    SyncDirection,
    SyncOperationResult,
    SyncOpState,
)
from gsync.sync.service import ApiError, SyncConfig, SyncService, Unauthorized

SCHEMA = (Path(__file__).parent.parent / "systemprompt.sql").read_text()
PULL, PUSH = SyncDirection.PULL, SyncDirection.PUSH
NOBODY = "http://127.0.0.1:1"

ADA = """
INSERT INTO users (id, name, email, roles) VALUES ('u1', 'ada', 'ada@example.org', '{user,admin}');
INSERT INTO users (id, name, email, created_at) VALUES ('u2', 'bob', 'bob@example.org', now());
INSERT INTO user_sessions (session_id, user_id) VALUES ('s1', 'u1');
INSERT INTO user_contexts (context_id, user_id, session_id, name, kind) VALUES
    ('c1', 'u1', 's1', 'First', 'user'), ('c2', 'u2', NULL, 'Second', 'cli_session');
"""


# --- Ends ----------------------------------------------------------------------------


@dataclass
class ControlPlane:
    """A control plane: what it answers by path, and what it was asked."""

    url: str
    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)


@contextmanager
def running_control_plane() -> Iterator[ControlPlane]:
    found = ControlPlane("")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked.append((self.path, self.headers.get("Authorization")))
            status, body = found.answers.get(self.path, (404, {"error": "no such tenant"}))
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    with running_control_plane() as found:
        yield found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("server") / "data") as found:
        yield found


@pytest.fixture
def tenant(server: RunningServer, request: pytest.FixtureRequest) -> str:
    """A tenant that no other test has."""
    return f"t{abs(hash(request.node.nodeid)) % 10**12}"


@pytest.fixture
def config(server: RunningServer, tenant: str, tmp_path: Path) -> SyncConfig:
    """Files of a folder with two files, at a real server."""
    (tmp_path / "services").mkdir()
    write(tmp_path / "services", {"a.yaml": "a: 1\n", "b.md": "# b\n"})
    return SyncConfig(tenant, server.base, server.token(tenant), tmp_path / "services")


@dataclass(frozen=True)
class Pair:
    """Databases of the schema in two servers; the local one has two users with a context each."""

    local: Database
    tenant: Database


@pytest.fixture
def pair(make_database: MakeDatabase) -> Pair:
    local = make_database(SCHEMA)
    found = Pair(local, make_database(SCHEMA, major=max(find_servers())))
    run(found.local, ADA)
    return found


@pytest.fixture
def tables(config: SyncConfig, pair: Pair) -> SyncConfig:
    """The same with both databases."""
    local, tenant = pair.local.url, pair.tenant.url
    return config.with_local_database_url(local).with_tenant_database_url(tenant)


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def read(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and ".gsync" not in path.parts
    }


def run(database: Database, sql: str) -> None:
    with database.connect() as connection:
        connection.execute(sql)


def ask(database: Database, sql: str) -> list[tuple[Any, ...]]:
    with database.connect() as connection:
        return connection.execute(sql).fetchall()


def dump(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Return everything, what gsync leaves out included."""
    names = ("users", "user_sessions", "user_contexts")
    return {name: ask(database, f"SELECT * FROM {name} ORDER BY 1") for name in names}


def names(database: Database) -> tuple[list[str], list[str]]:
    emails = ask(database, "SELECT email FROM users ORDER BY 1")
    contexts = ask(database, "SELECT name FROM user_contexts ORDER BY 1")
    return [row[0] for row in emails], [row[0] for row in contexts]


def counts(result: SyncOperationResult, table: str) -> tuple[int, ...]:
    found = result.details["tables"][table]
    return tuple(found[n] for n in ("created", "updated", "deleted", "unchanged", "skipped"))


# --- Configuration and JSON ----------------------------------------------------------


def test_defaults_and_setters() -> None:
    """Setters stand alone, chain, change no other field, and leave the one they started from."""
    plain = SyncConfig.builder("t", "https://api", "token", "services").build()
    assert plain == SyncConfig(
        tenant_id="t", api_url="https://api", api_token="token", services_path="services"
    )
    assert (plain.direction, plain.dry_run, plain.verbose) == (PUSH, False, False)
    assert plain.hostname is plain.local_database_url is plain.tenant_database_url is None
    full = (
        SyncConfig.builder("t", "https://api", "token", "services")
        .with_direction(PULL)
        .with_dry_run(True)
        .with_verbose(True)
        .with_hostname("host")
        .with_local_database_url("postgresql:///a")
        .build()
    )
    assert (full.direction, full.dry_run, full.verbose, full.hostname) == (PULL, True, True, "host")
    assert full.with_hostname(None).hostname is None
    assert full.hostname == "host"
    assert full.local_database_url == "postgresql:///a"


@pytest.mark.parametrize("name", ["", "x" * 10_000, "../..", "a b%/?#\u00e9"])
def test_tenant_is_kept_as_it_is(name: str) -> None:
    """Any text is stored as a tenant; whether it is one is asked when it is used."""
    config = SyncConfig(name, "https://api.example.org", "token", ".")
    assert config.tenant_id == name
    with pytest.raises(InvalidInput, match="tenant_id"):
        SyncService(config).sync_files()


def test_direction_may_be_its_json_form(tmp_path: Path) -> None:
    """A direction out of a JSON document means what it says."""
    config = SyncConfig("t", NOBODY, "token", tmp_path, direction="Push")  # type: ignore[arg-type]
    assert SyncService(config).sync_all()[0].operation == "files_push"


def test_secrets_are_not_printed() -> None:
    """The form of a configuration for people holds no token and no password."""
    config = SyncConfig("t", "https://api", "t0ken", ".").with_local_database_url(
        "postgresql://u:passw0rd@h/d"
    )
    assert "t0ken" not in repr(config)
    assert "passw0rd" not in repr(config)


def test_direction_and_states_as_json() -> None:
    """Directions and states have the older forms, and come back from them."""
    assert json.dumps([PUSH, PULL]) == '["Push", "Pull"]'
    assert SyncDirection("Pull") is PULL
    forms = {
        SyncOpState.NOT_STARTED: {"kind": "not_started"},
        SyncOpState.partial(2, 5): {"kind": "partial", "completed": 2, "total": 5},
        SyncOpState.COMPLETED: {"kind": "completed"},
        SyncOpState.FAILED: {"kind": "failed"},
    }
    for state, form in forms.items():
        assert state.to_json() == form
        assert SyncOpState.from_json(form | {"more": 1}) == state
    with pytest.raises(Invalid):
        SyncOpState.from_json({"kind": "partial"})


def test_results_as_json() -> None:
    """Constructors set what the older ones set; without a state a result is completed."""
    done = SyncOperationResult.completed("files_push", 3)
    assert done.to_json() == {
        "operation": "files_push",
        "success": True,
        "items_synced": 3,
        "items_skipped": 0,
        "errors": [],
        "details": None,
        "state": {"kind": "completed"},
    }
    assert done.with_details({"a": 1}).with_details({"b": 2}).details == {"b": 2}
    planned = SyncOperationResult.planned("files_pull", 4, {"c": 3})
    assert (planned.success, planned.items_synced, planned.items_skipped) == (True, 0, 4)
    assert planned.state == SyncOpState.COMPLETED
    assert planned.to_json()["dry_run"] is True
    failed = SyncOperationResult.failed("database", Conflict("no"))
    for result in (done, planned, failed):
        assert SyncOperationResult.from_json(json.loads(json.dumps(result.to_json()))) == result
    old = done.to_json() | {"unknown": True}
    del old["state"]
    assert SyncOperationResult.from_json(old) == done
    with pytest.raises(Invalid):
        SyncOperationResult.from_json({"operation": "files_push"})


def test_names_at_the_top() -> None:
    """The package hands on the names of the API, and no others."""
    assert gsync.SyncConfig is SyncConfig
    assert gsync.SyncService is SyncService
    with pytest.raises(AttributeError):
        gsync.SyncNothing  # noqa: B018


def test_package_costs_nothing() -> None:
    """Importing the package loads nothing else, until a name is asked for."""
    code = "import sys; n = set(sys.modules); import gsync; print(*set(sys.modules) - n)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"gsync", "__future__"}


# --- Files ---------------------------------------------------------------------------


def test_files_there_and_back(config: SyncConfig, tmp_path: Path) -> None:
    """A push and a pull elsewhere give the same files; counts are what changed, not what is."""
    service, folder = SyncService(config), tmp_path / "services"
    pushed = service.sync_files()
    assert (pushed.operation, pushed.success, pushed.items_synced) == ("files_push", True, 2)
    assert service.sync_files().items_synced == 0
    there = tmp_path / "there"
    pull = SyncService(
        SyncConfig(**vars_of(config) | {"services_path": there}).with_direction(PULL)
    )
    pulled = pull.sync_files()
    assert (pulled.operation, pulled.items_synced) == ("files_pull", 2)
    assert read(there) == read(folder) == {"a.yaml": "a: 1\n", "b.md": "# b\n"}
    write(folder, {"a.yaml": "a: 2\n", "c.md": "c"})
    (folder / "b.md").unlink()
    again = service.sync_files()
    assert again.items_synced == 3
    assert {n: again.details[n] for n in ("created", "updated", "deleted", "unchanged")} == {
        "created": 1, "updated": 1, "deleted": 1, "unchanged": 0
    }  # fmt: skip
    assert pull.sync_files().items_synced == 3
    assert pull.sync_files().items_synced == 0
    assert read(there) == read(folder)


def vars_of(config: SyncConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in SyncConfig.__dataclass_fields__}


def test_dry_run_of_files_changes_neither_side(config: SyncConfig, tmp_path: Path) -> None:
    """A dry run counts what a real run would do, in both directions, and makes nothing."""
    folder, dry = tmp_path / "services", config.with_dry_run(True)
    planned = SyncService(dry).sync_files()
    assert (planned.items_synced, planned.items_skipped) == (0, 2)
    assert not (folder / ".gsync").exists()
    SyncService(config).sync_files()
    assert SyncService(dry).sync_files().items_skipped == 0
    write(folder, {"a.yaml": "a: 2\n"})
    verbose = SyncService(dry.with_verbose(True)).sync_files()
    assert verbose.items_skipped == 1
    assert verbose.details["changes"] == [{"path": "a.yaml", "status": "modified"}]
    assert SyncService(config).sync_files().items_synced == 1
    there = SyncConfig(**vars_of(dry) | {"services_path": tmp_path / "there"})
    assert SyncService(there.with_direction(PULL)).sync_files().items_skipped == 2
    assert not (tmp_path / "there").exists()


def test_listing_is_not_a_comparison(tmp_path: Path) -> None:
    """What a push offers can be listed without a server, and says that nothing was compared."""
    config = SyncConfig("t", NOBODY, "token", tmp_path)
    empty = SyncService(config).list_files()
    assert (empty.success, empty.items_synced, empty.items_skipped) == (True, 0, 0)
    write(tmp_path, {"a": "1", "b/c": "2"})
    found = SyncService(config).list_files()
    assert found.items_skipped == 2
    assert [file["path"] for file in found.details["manifest"]["files"]] == ["a", "b/c"]
    assert found.details["compared"] is False
    assert not (tmp_path / ".gsync").exists()


def test_files_are_refused_where_the_other_side_moved(config: SyncConfig, tmp_path: Path) -> None:
    """Two folders without a common past do not overwrite each other, dry or not."""
    SyncService(config).sync_files()
    write(tmp_path / "other", {"a.yaml": "mine"})
    other = SyncConfig(**vars_of(config) | {"services_path": tmp_path / "other"})
    for way, kind, name in ((PULL, ReplicaChanged, r"a\.yaml"), (PUSH, Behind, "pushed first")):
        for dry in (True, False):
            with pytest.raises(kind, match=name):
                SyncService(other.with_direction(way).with_dry_run(dry)).sync_files()
    assert read(tmp_path / "other") == {"a.yaml": "mine"}
    for dry in (True, False):
        with pytest.raises(Unrelated):  # the push that was refused has made a snapshot
            SyncService(other.with_direction(PULL).with_dry_run(dry)).sync_files()


def test_two_tenants_of_one_folder(config: SyncConfig, server: RunningServer, tenant: str) -> None:
    """What one tenant has says nothing of another."""
    other = SyncConfig(
        **vars_of(config) | {"tenant_id": f"{tenant}-b", "api_token": server.token(f"{tenant}-b")}
    )
    for each in (config, other, config, other):
        assert SyncService(each).sync_files().success
    assert SyncService(other.with_dry_run(True)).sync_files().items_skipped == 0


def test_secrets_stay_out_and_are_named(config: SyncConfig, tmp_path: Path) -> None:
    """A file that looks like a secret is skipped, with its reason."""
    write(tmp_path / "services", {".env": "TOKEN=1"})
    done = SyncService(config).sync_files()
    assert (done.items_synced, done.details["skipped"]) == (2, 1)
    assert done.details["held_back"][0]["path"] == ".env"


@pytest.mark.parametrize(
    ("changes", "field_name"),
    [
        ({"tenant_id": ""}, "tenant_id"),
        ({"tenant_id": "a/b"}, "tenant_id"),
        ({"api_token": ""}, "api_token"),
        ({"api_url": "ftp://x"}, "api_url"),
        ({"api_url": "http://sync.example.org"}, "api_url"),
        ({"api_url": "https://me:secret@sync.example.org"}, "api_url"),
        ({"api_url": "https://sync.example.org/below"}, "api_url"),
        ({"hostname": "me:secret@sync.example.org"}, "hostname"),
        ({"hostname": ""}, "hostname"),
        ({"direction": "Sideways"}, "direction"),
        ({"services_path": ""}, "services_path"),
        ({"services_path": "/nowhere/at/all"}, "services_path"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, str], field_name: str, tmp_path: Path) -> None:
    """A setting is checked when it is used; the error names it and shows no secret."""
    good: dict[str, Any] = {
        "tenant_id": "t", "api_url": NOBODY, "api_token": "token", "services_path": str(tmp_path)
    }  # fmt: skip
    with pytest.raises(InvalidInput, match=f"^{field_name}: ") as caught:
        SyncService(SyncConfig(**good | changes)).sync_files()
    assert "secret" not in str(caught.value)
    assert caught.value.code == "invalid"
    assert not caught.value.retryable


def test_hostname_is_where_files_go(config: SyncConfig) -> None:
    """With a host name files go straight there, by https; without one to the API's address."""
    direct = config.with_hostname("127.0.0.1:1")
    result = SyncService(direct).sync_all()[0]
    assert result.state == SyncOpState.FAILED
    assert "https://127.0.0.1:1/" in result.errors[0]
    assert SyncService(direct.with_hostname(None)).sync_files().success


# --- The control plane ---------------------------------------------------------------


def test_database_url_is_asked_for(plane: ControlPlane) -> None:
    """The tenant is escaped in the path, the token is the bearer, both forms of answer are read."""
    plane.answers["/api/v1/cloud/tenants/a%2Fb%20c/database"] = 200, {"database_url": "x", "y": 1}
    assert find_database_url(plane.url, "a/b c", "tok") == "x"
    assert plane.asked == [("/api/v1/cloud/tenants/a%2Fb%20c/database", "Bearer tok")]
    plane.answers["/api/v1/cloud/tenants/t/database"] = 200, {"data": {"database_url": "z"}}
    assert find_database_url(plane.url + "/", "t", "tok") == "z"


@pytest.mark.parametrize(
    ("status", "kind", "requests"),
    [
        (401, Unauthorized, 1), (403, Denied, 1), (404, NotFound, 1), (400, Invalid, 1),
        (500, Unavailable, 1), (503, Unavailable, 5), (429, Unavailable, 5),
    ],
)  # fmt: skip
def test_refusals_keep_their_status(
    plane: ControlPlane, status: int, kind: type[Exception], requests: int
) -> None:
    """A failed look-up keeps its status and text, is of its kind, and is retried if that helps."""
    plane.answers["/api/v1/cloud/tenants/t/database"] = status, {"message": "said so"}
    with pytest.raises(ApiError, match="said so") as caught:
        find_database_url(plane.url, "t", "tok", sleep=lambda _: None)
    assert isinstance(caught.value, kind)
    assert caught.value.status == status
    assert len(plane.asked) == requests
    assert "tok" not in str(caught.value)


@pytest.mark.parametrize("body", [{"database_url": None}, {}, {"data": {}}])
def test_tenant_without_a_database(plane: ControlPlane, body: object) -> None:
    """An answer without a database is an ApiError 404."""
    plane.answers["/api/v1/cloud/tenants/t/database"] = 200, body
    with pytest.raises(ApiError) as caught:
        find_database_url(plane.url, "t", "tok")
    assert (caught.value.status, caught.value.code) == (404, "not_found")


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"", b'{"database_url": 7}'])
def test_answers_that_are_none(plane: ControlPlane, body: bytes) -> None:
    """Success with an unreadable answer is a fault of the other end."""
    plane.answers["/api/v1/cloud/tenants/t/database"] = 200, body
    with pytest.raises(ApiError) as caught:
        find_database_url(plane.url, "t", "tok")
    assert caught.value.code == "corrupt"


def test_full_sync_goes_on_without_the_control_plane(config: SyncConfig, pair: Pair) -> None:
    """A server that knows no such route fails the database step with its status, not the files."""
    files, database = SyncService(config.with_local_database_url(pair.local.url)).sync_all()
    assert (files.operation, files.success, files.items_synced) == ("files_push", True, 2)
    assert (database.operation, database.success) == ("database", False)
    assert database.state == SyncOpState.FAILED
    assert isinstance(database.cause, ApiError)
    assert database.cause.status == 404


def test_database_url_comes_from_the_control_plane(
    plane: ControlPlane, pair: Pair, tmp_path: Path
) -> None:
    """Where no address is given, the control plane's is used; a refusal's text is in the result."""
    config = SyncConfig("team", plane.url, "tok", tmp_path).with_local_database_url(pair.local.url)
    path = "/api/v1/cloud/tenants/team/database"
    plane.answers[path] = 200, {"database_url": pair.tenant.url}
    assert SyncService(config).sync_database().items_synced == 4
    assert plane.asked == [(path, "Bearer tok")]
    plane.answers[path] = 500, {"error": "out of order"}
    with pytest.raises(ApiError) as caught:
        SyncService(config).sync_database()
    assert caught.value.status == 500
    entry = SyncService(config).sync_all()[1]
    assert "out of order" in entry.errors[0]


# --- Tables --------------------------------------------------------------------------


def test_no_local_database(config: SyncConfig) -> None:
    """Without a database on this side the step is not started, and says which setting is absent."""
    with pytest.raises(MissingConfig, match="local_database_url"):
        SyncService(config).sync_database()
    files, database = SyncService(config).sync_all()
    assert files.success
    assert (database.operation, database.items_synced) == ("database", 0)
    assert database.state == SyncOpState.NOT_STARTED
    assert "local_database_url" in database.errors[0]


def test_push_and_pull_of_users(tables: SyncConfig, pair: Pair) -> None:
    """Users and contexts arrive, sessions stay, and what the tenant adds comes back."""
    service = SyncService(tables)
    files, done = service.sync_all()
    assert (files.operation, done.operation) == ("files_push", "database_push")
    assert done.items_synced == 4
    assert counts(done, "users") == counts(done, "user_contexts") == (2, 0, 0, 0, 0)
    assert names(pair.tenant) == names(pair.local)
    assert ask(pair.tenant, "SELECT DISTINCT session_id FROM user_contexts") == [(None,)]
    run(pair.tenant, "INSERT INTO users (id, name, email) VALUES ('u3', 'eve', 'eve@example.org')")
    run(pair.tenant, "INSERT INTO user_contexts (context_id, user_id, name) VALUES ('c3','u3','T')")
    assert counts(service.sync_database(), "users") == (0, 0, 0, 2, 1)
    back = SyncService(tables.with_direction(PULL)).sync_database()
    assert (back.operation, back.items_synced) == ("database_pull", 2)
    assert names(pair.local) == names(pair.tenant)
    assert ask(pair.local, "SELECT session_id FROM user_contexts WHERE context_id = 'c1'") == [
        ("s1",)
    ]


def test_second_run_is_still(tables: SyncConfig, pair: Pair) -> None:
    """After an update, whose trigger sets a time of its own, the next run writes nothing."""
    service = SyncService(tables)
    service.sync_database()
    run(pair.local, "UPDATE user_contexts SET name = 'Renamed' WHERE context_id = 'c1'")
    run(pair.local, "UPDATE users SET updated_at = now() + interval '1 day'")
    assert counts(service.sync_database(), "user_contexts") == (0, 1, 0, 1, 0)
    times = "SELECT context_id, updated_at FROM user_contexts ORDER BY 1"
    assert ask(pair.local, times) != ask(pair.tenant, times)
    before = dump(pair.tenant)
    for direction in (PUSH, PULL, PUSH):
        assert SyncService(tables.with_direction(direction)).sync_database().items_synced == 0
    assert dump(pair.tenant) == before


def test_dry_run_of_tables(tables: SyncConfig, pair: Pair) -> None:
    """A dry run compares both databases, says what would be written, and writes nothing."""
    before = dump(pair.local), dump(pair.tenant)
    planned = SyncService(tables.with_dry_run(True)).sync_database()
    assert (planned.success, planned.items_synced, planned.items_skipped) == (True, 0, 4)
    assert (planned.details["users"], planned.details["contexts"]) == (2, 2)
    assert (dump(pair.local), dump(pair.tenant)) == before
    SyncService(tables).sync_database()
    assert SyncService(tables.with_dry_run(True)).sync_database().items_skipped == 0


def test_database_with_itself(tables: SyncConfig, pair: Pair) -> None:
    """A database synced with itself succeeds and changes nothing."""
    same = tables.with_tenant_database_url(pair.local.url)
    before = dump(pair.local)
    files, database = SyncService(same).sync_all()
    assert (files.operation, database.operation) == ("files_push", "database_push")
    assert files.success
    assert (database.success, database.items_synced) == (True, 0)
    assert dump(pair.local) == before


def test_target_without_tables(tables: SyncConfig, make_database: MakeDatabase) -> None:
    """A target without the tables fails whole, and names what it lacks."""
    bare = tables.with_tenant_database_url(make_database().url)
    with pytest.raises(Refused, match="users"):
        SyncService(bare).sync_database()
    entry = SyncService(bare).sync_all()[1]
    assert (entry.state, entry.items_synced) == (SyncOpState.FAILED, 0)


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("direction", [PUSH, PULL])
def test_database_out_of_reach(tables: SyncConfig, direction: SyncDirection, dry_run: bool) -> None:
    """A database that does not answer is an error of every sort of run."""
    config = tables.with_direction(direction).with_dry_run(dry_run)
    lost = config.with_tenant_database_url("postgresql://me:hidden@127.0.0.1:1/app")
    with pytest.raises(Unavailable) as caught:
        SyncService(lost).sync_database()
    assert "hidden" not in str(caught.value)


def test_clash_of_unique_values(tables: SyncConfig, pair: Pair) -> None:
    """An address that another user has is reported with both keys, and nothing is written."""
    run(pair.tenant, "INSERT INTO users (id, name, email) VALUES ('x9', 'x', 'ada@example.org')")
    before = dump(pair.tenant)
    with pytest.raises(Conflict, match=r"u1.*ada@example\.org.*x9"):
        SyncService(tables).sync_database()
    assert dump(pair.tenant) == before


def test_owner_and_roles_change_only_when_told(tables: SyncConfig, pair: Pair) -> None:
    """A change of owner, role or status is a conflict unless it is accepted by name."""
    service = SyncService(tables)
    service.sync_database()
    for sql, name in [
        (
            "UPDATE user_contexts SET user_id = 'u2' WHERE context_id = 'c1'",
            "user_contexts.user_id",
        ),
        ("UPDATE users SET roles = '{admin}' WHERE id = 'u2'", "users.roles"),
        ("UPDATE users SET status = 'suspended' WHERE id = 'u2'", "users.status"),
    ]:
        run(pair.local, sql)
        before = dump(pair.tenant)
        with pytest.raises(Protected, match=name):
            service.sync_database()
        assert dump(pair.tenant) == before
        assert SyncService(tables.with_accepted([name])).sync_database().items_synced == 1


def test_deleted_users_stay_unless_accepted(tables: SyncConfig, pair: Pair) -> None:
    """A user is deleted at the other side only when that is accepted; a context always."""
    service = SyncService(tables)
    service.sync_database()
    run(pair.local, "DELETE FROM user_contexts WHERE context_id = 'c1'")
    assert counts(service.sync_database(), "user_contexts") == (0, 0, 1, 1, 0)
    run(pair.local, "DELETE FROM users WHERE id = 'u1'")
    with pytest.raises(Protected, match="users in 1"):
        service.sync_database()
    done = SyncService(tables.with_accepted(["users"])).sync_database()
    assert counts(done, "users") == (0, 0, 1, 1, 0)


def test_rows_that_differ_at_first(tables: SyncConfig, pair: Pair) -> None:
    """Two users with one id that differ are never merged by a guess."""
    run(pair.tenant, "INSERT INTO users (id, name, email) VALUES ('u1', 'other', 'o@example.org')")
    with pytest.raises(BothChanged, match="u1"):
        SyncService(tables).sync_database()


def test_tables_of_the_folder(tables: SyncConfig, pair: Pair, tmp_path: Path) -> None:
    """Tables that `gsync.toml` names are taken instead of the preset."""
    text = 'version = 1\n[db.app.tables.users]\nkey = ["id"]\nvolatile = ["updated_at"]\n'
    write(tmp_path / "services", {"gsync.toml": text})
    done = SyncService(tables).sync_database()
    assert list(done.details["tables"]) == ["users"]
    assert names(pair.tenant)[1] == []
