"""Who may do what: tokens, scopes, tenants."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest
import requests
from support_server import RunningServer, accounts, commit, push

from gsync.errors import Conflict, Denied, GsyncError, Invalid, NotFound
from gsync.objects.oid import ObjectId
from gsync.protocol.messages import (
    Begin,
    Fetch,
    Hello,
    decode_error,
    encode_begin,
    encode_fetch,
    encode_hello,
    encode_log,
    encode_wants,
)
from gsync.remotes.http import HttpRemote
from gsync.server.auth import Accounts, OutOfScope, Unauthorized, parse_duration
from gsync.store.memory import MemoryStore

DAY_US = 86_400_000_000
REQUESTS = {
    "hello": encode_hello(Hello(1, None)),
    "log": encode_log(0),
    "fetch": encode_fetch(Fetch([], [])),
    "objects": encode_wants([]),
    "begin": encode_begin(Begin(b"s" * 16, [])),
    f"frames/{'00' * 16}": b"",
}
WRITING = {"begin", f"frames/{'00' * 16}"}


class Clock:
    def __init__(self) -> None:
        self.now_us = DAY_US

    def __call__(self) -> int:
        return self.now_us


def test_a_token_is_valid_until_it_expires_or_is_revoked(tmp_path: Path) -> None:
    """A token opens its tenant from when it is made until its end, and no longer."""
    clock = Clock()
    with Accounts(tmp_path / "data", clock) as there:
        secret, token = there.add_token("acme", "read", expires_us=clock.now_us + DAY_US)
        assert there.authenticate("acme", secret) == token
        clock.now_us += DAY_US - 1
        assert there.authenticate("acme", secret) == token
        clock.now_us += 1
        with pytest.raises(Unauthorized):
            there.authenticate("acme", secret)
        secret, token = there.add_token("acme", "read", name="laptop")
        with Accounts(tmp_path / "data", clock) as another:
            assert another.revoke_token("laptop").revoked_us == clock.now_us
        with pytest.raises(Unauthorized):
            there.authenticate("acme", secret)
        assert [t.is_valid(clock.now_us) for t in there.list_tokens()] == [False, False]


@pytest.mark.parametrize(
    "secret",
    [None, "", "gs_", "gs_" + "A" * 43, "x" * 10_000, "\udcff", "gs_\0"],
)
def test_what_is_no_token_opens_nothing(tmp_path: Path, secret: str | None) -> None:
    """No text but the token itself opens a tenant, or another one."""
    with Accounts(tmp_path, Clock()) as there:
        right, _ = there.add_token("acme", "admin")
        there.add_token("other", "admin")
        for tenant, given in (
            *(("acme", secret), ("nobody", secret), ("other", right), ("nobody", right)),
            *(("", right), ("acme", right[:-1]), ("acme", right + "x"), ("ACME", right)),
        ):
            with pytest.raises(Unauthorized):
                there.authenticate(tenant, given)


def test_tokens_are_not_in_the_file(tmp_path: Path) -> None:
    """Nothing in the data directory holds the token, and nobody else can look into it."""
    data = tmp_path / "data"
    with Accounts(data, Clock()) as there:
        secret, _ = there.add_token("acme", "read")
        for path in data.iterdir():
            assert secret.encode() not in path.read_bytes()
            assert secret[3:20].encode() not in path.read_bytes()
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(data.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("tenant", "scope", "name"),
    [
        ("api", "read", None),
        ("healthz", "read", None),
        ("../acme", "read", None),
        ("A", "read", None),
        ("", "read", None),
        ("a" * 64, "read", None),
        ("acme", "root", None),
        ("acme", "read", "two words"),
        ("acme", "read", "line\nbreak"),
    ],
)
def test_names_that_are_refused(tmp_path: Path, tenant: str, scope: str, name: str | None) -> None:
    """Tenants, scopes and names outside their grammar make no token."""
    with Accounts(tmp_path, Clock()) as there:
        with pytest.raises(Invalid):
            there.add_token(tenant, scope, name=name)
        assert there.list_tokens() == [] == there.list_tenants()


def test_names_and_ids_revoke(tmp_path: Path) -> None:
    """A live name is unique in its tenant; the id decides between tenants."""
    with Accounts(tmp_path, Clock()) as there:
        _, first = there.add_token("acme", "read", name="ci")
        _, second = there.add_token("other", "read", name="ci")
        with pytest.raises(Conflict, match="has a token named"):
            there.add_token("acme", "write", name="ci")
        with pytest.raises(Conflict, match="2 tokens"):
            there.revoke_token("ci")
        assert there.revoke_token(first.id).tenant == "acme"
        assert there.revoke_token("ci").id == second.id
        with pytest.raises(NotFound):
            there.revoke_token("ci")
        there.add_token("acme", "write", name="ci")


def test_durations() -> None:
    """Minutes, hours, days and weeks, and nothing else."""
    assert [parse_duration(t) for t in ("90d", "12h", "1m", "2w")] == [
        *(90 * DAY_US, DAY_US // 2),
        *(60_000_000, 14 * DAY_US),
    ]
    for text in ("", "d", "0d", "-1d", "1.5d", "1y", "9999999d", "1d ", " 1d"):
        with pytest.raises(Invalid):
            parse_duration(text)


def test_another_database_is_left_alone(tmp_path: Path) -> None:
    """A file that is no server's is refused."""
    sqlite3.connect(tmp_path / "server.db").executescript("CREATE TABLE t(a)")
    with pytest.raises(Invalid, match=r"server\.db is not"):
        Accounts(tmp_path, Clock())


@pytest.mark.parametrize("name", REQUESTS)
def test_every_wrong_credential_gets_the_same_answer(server: RunningServer, name: str) -> None:
    """Unknown tenant, unknown token, another tenant's, revoked, none: the same bytes."""
    theirs, own = server.token("theirs", "admin"), server.token("own", "admin")
    with accounts(server.data) as there:
        revoked, token = there.add_token("own", "admin")
        there.revoke_token(token.id)
        expired, _ = there.add_token("own", "admin", expires_us=1)
    answers = set()
    for tenant, header in (
        ("own", f"Bearer {theirs}"),
        ("own", f"Bearer {revoked}"),
        ("own", f"Bearer {expired}"),
        ("own", "Bearer gs_" + "A" * 43),
        ("own", "Bearer "),
        ("own", f"Basic {own}"),
        ("own", own),
        ("own", ""),
        ("nobody", f"Bearer {own}"),
        ("api", f"Bearer {own}"),
        ("OWN", f"Bearer {own}"),
        ("..%2fown", f"Bearer {own}"),
    ):
        response = requests.post(
            f"{server.base}/{tenant}/v1/{name}",
            data=REQUESTS[name],
            headers={"Authorization": header},
        )
        if tenant.startswith(".."):  # no route has a slash there
            assert response.status_code == 404
            continue
        headers = {k: v for k, v in response.headers.items() if k != "date"}
        answers.add((response.status_code, response.content, tuple(headers.items())))
    assert len(answers) == 1
    status, body, _ = answers.pop()
    assert status == 401
    assert isinstance(decode_error(body), Denied)


@pytest.mark.parametrize("scope", ["read", "write", "admin"])
@pytest.mark.parametrize("name", REQUESTS)
def test_scopes(server: RunningServer, scope: str, name: str) -> None:
    """`read` reads, `write` and `admin` write too; what goes beyond is 403."""
    response = requests.post(
        f"{server.base}/scopes/v1/{name}",
        data=REQUESTS[name],
        headers={"Authorization": f"Bearer {server.token('scopes', scope)}"},
    )
    refused = scope == "read" and name in WRITING
    assert response.status_code == (403 if refused else 200)
    if refused:
        assert isinstance(decode_error(response.content), Denied)


def test_a_reader_cannot_push(server: RunningServer) -> None:
    """The client of a read token is told which scope it needs."""
    mine = MemoryStore()
    first = commit(mine, {b"a": b"1"})
    with pytest.raises(Denied, match="scope is read, where write is needed"):
        push(server.connect("reader", "read"), mine, first)
    assert server.connect("reader", "read").hello(Hello(1, None)).refs == {}


def test_no_tenant_sees_another(server: RunningServer) -> None:
    """What one tenant pushed is not there for another, even by id."""
    mine = MemoryStore()
    first = commit(mine, {b"a": b"secret"})
    push(server.connect("left"), mine, first)
    right = server.connect("right")
    assert right.hello(Hello(1, None)).refs == {}
    for ask in (
        lambda: right.fetch(Fetch([first], [])),
        lambda: right.begin(Begin(b"s" * 16, [ObjectId(first)])),
    ):
        with pytest.raises(GsyncError):
            ask()


def test_a_client_without_a_token_is_denied(server: RunningServer) -> None:
    """No token is a wrong token, with a hint."""
    remote = HttpRemote(f"{server.base}/acme", None)
    with pytest.raises(Denied) as caught:
        remote.hello(Hello(1, None))
    assert "gsync login" in (caught.value.hint or "")
    remote.close()


def test_scopes_are_ordered(tmp_path: Path) -> None:
    """Each scope allows what the ones below it allow."""
    with Accounts(tmp_path, Clock()) as there:
        for have, allowed in (("read", 1), ("write", 2), ("admin", 3)):
            _, token = there.add_token("acme", have)
            passed = 0
            for needed in ("read", "write", "admin"):
                try:
                    token.check_scope(needed)
                    passed += 1
                except OutOfScope:
                    pass
            assert passed == allowed
