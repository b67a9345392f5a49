"""What a server is, found by asking it once (15-older-peers, section 3)."""

from __future__ import annotations

from contextlib import closing

from gsync.remotes.base import Traffic
from gsync.remotes.connection import Connection
from gsync.remotes.http import CONTENT_TYPE
from gsync.remotes.older import RETRIED, RetryConfig, call, refusal
from gsync.sync.repository import Repository
from gsync.urls import HttpUrl, PeerUrl


def find_kind(
    repo: Repository, url: HttpUrl, *, is_direct: bool, ca_file: str | None = None
) -> HttpUrl | PeerUrl:
    """Return the URL that says what the server at `url` is: as it is kept, else by asking.

    Args:
        is_direct: Whether a server that is not gsync's is the tenant's own host, and not the
            control plane.

    Raises: as `is_gsync`.
    """
    kept = repo.store.get_state(_state(url))
    if kept == b"gsync" if kept else is_gsync(url, ca_file=ca_file):
        return url
    return PeerUrl(url.base, None if is_direct else url.tenant)


def keep_kind(repo: Repository, url: HttpUrl, found: HttpUrl | PeerUrl) -> None:
    """Remember what the server at `url` is, once a sync with it as that has succeeded."""
    kind = b"gsync" if found == url else b"older"
    if repo.store.get_state(_state(url)) != kind:
        repo.store.set_states({_state(url): kind})


def is_gsync(url: HttpUrl, *, ca_file: str | None = None) -> bool:
    """Return whether a gsync server answers at `url`; it is sent no token.

    Raises:
        Unavailable: nobody answers, or what answers says that it cannot now.
    """

    def ask() -> bool:
        headers = {"Content-Type": CONTENT_TYPE}
        with closing(connection.request("POST", "/v1/hello", headers, b"")) as response:
            kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            if kind != CONTENT_TYPE and (response.status in RETRIED or response.status >= 500):
                raise refusal(response, str(url))
            return kind == CONTENT_TYPE

    with closing(Connection(str(url), Traffic(), ca_file=ca_file)) as connection:
        return call(ask, RetryConfig(jitter=0.25))


def _state(url: HttpUrl) -> str:
    return f"kind of {url}"
