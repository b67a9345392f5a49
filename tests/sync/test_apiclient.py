"""The client of the control plane, against a strict one over a real socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import require
from support_older import API_TOKEN, TENANT, Older, hang_up, running_older, status

from gsync.compat import (
    ApiError,
    DeployResponse,
    InvalidInput,
    RegistryToken,
    RetryConfig,
    SyncApiClient,
    Unauthorized,
    UploadResponse,
    exchange_subject_token,
    exchange_subject_token_at,
)
from gsync.errors import Corrupt, Unavailable

BASE = "/api/v1/cloud/tenants/t%2F1"


@pytest.fixture
def older() -> Iterator[Older]:
    require("server")
    with running_older() as running:
        running.documents = {
            f"GET {BASE}": {"fly_app_name": "app-1", "more": 1},
            f"GET {BASE}/database": {"data": {"database_url": "postgresql://x"}},
            f"GET {BASE}/registry-token": {"registry": "r", "username": "u", "token": "t"},
            f"POST {BASE}/deploy": {"status": "ok", "app_url": "https://app"},
        }
        yield running


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def client(older: Older, waits: list[float]) -> Iterator[SyncApiClient]:
    made = SyncApiClient(older.base, API_TOKEN, sleep=waits.append, rand=lambda: 0.0)
    yield made
    made.close()


def test_documents(older: Older, client: SyncApiClient) -> None:
    """Bare and wrapped; keys that are not known are passed over."""
    assert client.get_tenant_app_id(TENANT) == "app-1"
    assert client.get_database_url(TENANT) == "postgresql://x"
    assert client.get_registry_token(TENANT) == RegistryToken("r", "u", "t")
    assert client.deploy(TENANT, "r/app:1") == DeployResponse("ok", "https://app")
    assert older.bodies == [b'{"image": "r/app:1"}']


@pytest.mark.parametrize(
    ("path", "ask"),
    [
        ("", lambda client: client.get_tenant_app_id(TENANT)),
        ("/database", lambda client: client.get_database_url(TENANT)),
    ],
)
def test_what_is_null(
    older: Older, client: SyncApiClient, path: str, ask: Callable[[SyncApiClient], str]
) -> None:
    """It is not there: 404, said in words."""
    older.documents[f"GET {BASE}{path}"] = {"fly_app_name": None, "database_url": None}
    with pytest.raises(ApiError) as caught:
        ask(client)
    assert caught.value.status == 404 and caught.value.code == "not_found"


@pytest.mark.parametrize("document", [{}, {"registry": 1, "username": "u", "token": "t"}, []])
def test_what_is_no_answer(older: Older, client: SyncApiClient, document: Any) -> None:
    """A good status with something else is corrupt, and is not asked for again."""
    older.documents[f"GET {BASE}/registry-token"] = document or [1] if document == [] else document
    with pytest.raises(Corrupt):
        client.get_registry_token(TENANT)
    assert len(older.asked) == 1


def test_files(older: Older, client: SyncApiClient) -> None:
    """By the relay, or by the tenant's own host with a token that it gave."""
    older.files = {"agents/a": b"1"}
    archive = older.archive()
    assert client.upload_files(TENANT, archive) == UploadResponse(1)
    assert client.download_files(TENANT, ["agents"]) == older.archive(("agents",))
    assert client.download_files(TENANT) == archive
    assert older.exchanges == []
    direct = client.with_direct_sync_origin(older.base)
    assert direct.upload_files(TENANT, archive) == UploadResponse(1)
    direct.close()
    assert older.asked[-1] == "POST /api/v1/sync/files" and len(older.exchanges) == 1
    assert client.with_direct_sync("acme.example.org").direct == "https://acme.example.org"
    assert direct.with_direct_sync(None).direct is None


def test_retries(older: Older, client: SyncApiClient, waits: list[float]) -> None:
    """What may be repeated is, by the one rule; a release never."""
    older.faults = [status(502), hang_up, status(429, Retry_After="9")]
    assert client.get_tenant_app_id(TENANT) == "app-1"
    assert waits == [2, 4, 9]
    older.faults = [status(503)]
    with pytest.raises(Unavailable):
        client.deploy(TENANT, "i")
    assert len(older.bodies) == 1
    older.faults = [status(500)]
    with pytest.raises(ApiError, match="500"):
        client.get_database_url(TENANT)
    older.faults = [status(503)] * 3
    twice = client.with_retry_config(RetryConfig(max_attempts=2))
    with pytest.raises(ApiError):
        twice.upload_files(TENANT, b"x")
    twice.close()
    assert older.faults == [older.faults[0]]


def test_who_may(older: Older, waits: list[float]) -> None:
    """401 is one error everywhere, once."""
    client = SyncApiClient(older.base, "another", sleep=waits.append)
    for ask in (
        lambda: client.get_database_url(TENANT),
        lambda: client.upload_files(TENANT, b"x"),
        lambda: client.deploy(TENANT, "i"),
    ):
        with pytest.raises(Unauthorized) as caught:
            ask()
        assert caught.value.status == 401 and "another" not in str(caught.value)
    client.close()
    assert waits == []


def test_tokens_for_tokens(older: Older) -> None:
    """What the endpoint gives; a refusal is one of the API."""
    assert exchange_subject_token_at(older.base, API_TOKEN) == "given-1"
    with pytest.raises(ApiError) as caught:
        exchange_subject_token_at(older.base, "another")
    assert caught.value.status == 403
    with pytest.raises(InvalidInput):
        exchange_subject_token_at("http://example.org", API_TOKEN)
    with pytest.raises(InvalidInput):
        exchange_subject_token("a b", API_TOKEN)


def test_names_of_tenants(older: Older, client: SyncApiClient) -> None:
    """Any text is one, and goes quoted; an empty one is refused before anything is asked."""
    with pytest.raises(InvalidInput, match="tenant_id"):
        client.get_database_url("")
    with pytest.raises(ApiError):
        client.upload_files("../../x?y", b"")
    assert older.asked == ["POST /api/v1/cloud/tenants/..%2F..%2Fx%3Fy/files"]
