"""The control plane: where a tenant's database is, what opens its registry, and its files."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from io import BytesIO
from typing import Any
from urllib.parse import quote, urlsplit

from gsync.errors import (
    Conflict,
    Corrupt,
    Denied,
    GsyncError,
    Invalid,
    NotFound,
    TooLarge,
    Unavailable,
)
from gsync.frozen import frozen
from gsync.remotes.base import Traffic
from gsync.remotes.connection import Connection, bearer, is_loopback
from gsync.remotes.http import STATUS
from gsync.remotes.older import (
    CLIENT_ID,
    OlderPeer,
    PeerAnswered,
    RetryConfig,
    call,
    exchange_token,
    refusal,
)
from gsync.sync.results import InvalidInput, SyncError
from gsync.urls import PeerUrl

ANSWER_BYTES_MAX = 1 << 20


class ApiError(SyncError):
    """The control plane answered with something else than success.

    Attributes:
        status: With which HTTP status.
    """

    retry_after_s: float | None = None

    def __init__(self, status: int, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint, status=status)
        self.status = status


class Unauthorized(ApiError, Denied):
    """The control plane does not know the token (any more)."""


class _ApiInvalid(ApiError, Invalid): ...


class _ApiDenied(ApiError, Denied): ...


class _ApiNotFound(ApiError, NotFound): ...


class _ApiConflict(ApiError, Conflict): ...


class _ApiTooLarge(ApiError, TooLarge): ...


class _ApiCorrupt(ApiError, Corrupt): ...


class _ApiUnavailable(ApiError, Unavailable): ...


# An error of the kind that its status says, so that exit codes and retries follow.
_BY_KIND: dict[type[GsyncError], type[ApiError]] = {
    Invalid: _ApiInvalid,
    Denied: _ApiDenied,
    NotFound: _ApiNotFound,
    Conflict: _ApiConflict,
    TooLarge: _ApiTooLarge,
    Corrupt: _ApiCorrupt,
    Unavailable: _ApiUnavailable,
}
_HINTS: dict[type[GsyncError], str] = {
    Denied: "check api_token and tenant_id",
    NotFound: "check tenant_id and api_url",
    Unavailable: "try again later",
}


@frozen
class RegistryToken:
    """What opens the registry that a tenant's images go to."""

    registry: str
    username: str
    token: str


@frozen
class UploadResponse:
    """What the peer made of an upload."""

    files_uploaded: int


@frozen
class DeployResponse:
    """What the control plane says of a release."""

    status: str
    app_url: str | None = None


class SyncApiClient:
    """Calls of the control plane, and of tenants' own hosts; one connection for each.

    Args:
        api_url: The control plane.
        token: The operator's.
        direct: The origin of the tenant's own host, which files go to and come from then.
        retry: How often a call that may be repeated is tried.

    Raises:
        InvalidInput: a URL is none, or would send the token unencrypted.
    """

    def __init__(
        self,
        api_url: str,
        token: str,
        *,
        direct: str | None = None,
        retry: RetryConfig | None = None,
        insecure_http: bool = False,
        ca_file: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
        rand: Callable[[], float] = random.random,
    ) -> None:
        self.api_url = check_api_url(api_url, insecure_http=insecure_http)
        self.direct = check_api_url(direct, insecure_http=insecure_http) if direct else None
        self.retry = retry or RetryConfig()
        self._token = token
        self._insecure_http = insecure_http
        self._ca_file = ca_file
        self._sleep, self._rand = sleep, rand
        self._peer: OlderPeer | None = None

    def with_direct_sync(self, hostname: str | None) -> SyncApiClient:
        """Return the same that moves files to and from `https://HOSTNAME`; None for the relay."""
        return self.with_direct_sync_origin(f"https://{hostname}" if hostname else None)

    def with_direct_sync_origin(self, origin: str | None) -> SyncApiClient:
        """Return the same that moves files to and from that origin; None for the relay."""
        return self._with(direct=origin)

    def with_retry_config(self, retry: RetryConfig) -> SyncApiClient:
        """Return the same that tries so often."""
        return self._with(retry=retry)

    def close(self) -> None:
        """Close the connection that files went over."""
        if self._peer is not None:
            self._peer.close()
            self._peer = None

    def upload_files(self, tenant_id: str, archive: bytes) -> UploadResponse:
        """Send a tarball.

        Raises:
            ApiError: it was not taken.
            Corrupt: it was taken, and the answer cannot be read: it is not sent again.
        """
        with _as_api_errors():
            answer = self._files(tenant_id).upload(BytesIO(archive), len(archive))
        return UploadResponse(answer["files_uploaded"])

    def download_files(self, tenant_id: str, directories: Sequence[str] = ()) -> bytes:
        """Return a tarball of some directories; of what the peer gives unasked, if none is named.

        Raises:
            ApiError: it was refused.
        """
        out = BytesIO()
        with _as_api_errors():
            self._files(tenant_id).download(tuple(directories), out)
        return out.getvalue()

    def get_database_url(self, tenant_id: str) -> str:
        """Return where the tenant's database is, secrets included.

        Raises:
            ApiError: it answered with no success, or has no database for the tenant.
            Unavailable: it cannot be reached.
        """
        found = self._get(tenant_id, "/database", "database_url")
        if found is None:
            raise _ApiNotFound(
                404,
                f"the control plane knows no database of the tenant {tenant_id!r}",
                hint="make one there, or set tenant_database_url",
            )
        return found

    def get_tenant_app_id(self, tenant_id: str) -> str:
        """Return the name of the tenant's application.

        Raises:
            ApiError: it answered with no success, or the tenant has none.
        """
        found = self._get(tenant_id, "", "fly_app_name")
        if found is None:
            raise _ApiNotFound(404, f"the tenant {tenant_id!r} has no application")
        return found

    def get_registry_token(self, tenant_id: str) -> RegistryToken:
        """Return what opens the registry; it is a secret.

        Raises: as `get_database_url`.
        """
        answer = self._json("GET", tenant_id, "/registry-token")
        return RegistryToken(
            *(_text(answer, name, self.api_url) for name in ("registry", "username", "token"))
        )

    def deploy(self, tenant_id: str, image: str) -> DeployResponse:
        """Release an image. It is not tried again: nobody knows what became of it.

        Raises:
            ApiError: it was refused.
            Unavailable: no answer came.
        """
        answer = self._json("POST", tenant_id, "/deploy", {"image": image})
        url = answer.get("app_url")
        return DeployResponse(
            _text(answer, "status", self.api_url), url if isinstance(url, str) else None
        )

    def _with(self, **changes: Any) -> SyncApiClient:
        settings = {
            "direct": self.direct,
            "retry": self.retry,
            "insecure_http": self._insecure_http,
            "ca_file": self._ca_file,
            "sleep": self._sleep,
            "rand": self._rand,
        }
        return SyncApiClient(self.api_url, self._token, **{**settings, **changes})

    def _files(self, tenant_id: str) -> OlderPeer:
        _check_tenant_id(tenant_id)
        url = PeerUrl(self.direct, None) if self.direct else PeerUrl(self.api_url, tenant_id)
        if self._peer is None or self._peer.url != url:
            self.close()
            self._peer = OlderPeer(
                url,
                self._token,
                ca_file=self._ca_file,
                retry=self.retry,
                sleep=self._sleep,
                rand=self._rand,
            )
        return self._peer

    def _get(self, tenant_id: str, path: str, name: str) -> str | None:
        answer = self._json("GET", tenant_id, path)
        return None if answer.get(name) is None else _text(answer, name, self.api_url)

    def _json(self, method: str, tenant_id: str, path: str, body: object = None) -> dict[str, Any]:
        """Return the document of an answer, out of its `data` if it is wrapped in one."""
        _check_tenant_id(tenant_id)
        path = f"/api/v1/cloud/tenants/{quote(tenant_id, safe='')}{path}"
        headers = bearer(self._token) | {"Accept": "application/json"}
        data = None
        if body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        url = self.api_url + path
        retry = self.retry if method == "GET" else RetryConfig(max_attempts=1)
        with closing(Connection(self.api_url, Traffic(), ca_file=self._ca_file)) as connection:

            def ask() -> dict[str, Any]:
                with closing(connection.request(method, path, headers, data)) as response:
                    if response.status != 200:
                        raise refusal(response, url, (self._token,))
                    return _document(response.read_up_to(ANSWER_BYTES_MAX), url)

            with _as_api_errors(_HINTS):
                answer = call(ask, retry, sleep=self._sleep, rand=self._rand)
        found = answer.get("data", answer)
        return found if isinstance(found, dict) else answer


def exchange_subject_token(
    hostname: str, token: str, *, client_id: str = CLIENT_ID, ca_file: str | None = None
) -> str:
    """Return what `https://HOSTNAME` gives for a token.

    Raises: as `exchange_subject_token_at`.
    """
    return exchange_subject_token_at(
        f"https://{hostname}", token, client_id=client_id, ca_file=ca_file
    )


def exchange_subject_token_at(
    origin: str,
    token: str,
    *,
    client_id: str = CLIENT_ID,
    insecure_http: bool = False,
    ca_file: str | None = None,
) -> str:
    """Return what the token endpoint of an origin gives for a token.

    Raises:
        ApiError: it gives none.
        InvalidInput: `origin` is none, or would get the token unencrypted.
    """
    base = check_api_url(origin, insecure_http=insecure_http)
    with closing(Connection(base, Traffic(), ca_file=ca_file)) as connection, _as_api_errors():
        return exchange_token(connection, token, client_id)[0]


def find_database_url(
    api_url: str,
    tenant_id: str,
    token: str,
    *,
    insecure_http: bool = False,
    ca_file: str | None = None,
    sleep: Callable[[float], None] = time.sleep,
    rand: Callable[[], float] = random.random,
) -> str:
    """Return where the control plane at `api_url` says the tenant's database is, secrets included.

    Raises: as `SyncApiClient` and its `get_database_url`.
    """
    return SyncApiClient(
        api_url, token, insecure_http=insecure_http, ca_file=ca_file, sleep=sleep, rand=rand
    ).get_database_url(tenant_id)


def check_api_url(api_url: str, *, insecure_http: bool = False) -> str:
    """Return `api_url` without the slash at its end.

    Raises:
        InvalidInput: it is no http(s) URL, holds a secret, or would send the token unencrypted.
    """
    try:
        parts = urlsplit(api_url)
    except ValueError:  # brackets that hold no address
        parts = urlsplit("")
    host = parts.hostname
    is_host = bool(host) and not any(c.isspace() for c in host or "")
    if not is_host or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        raise InvalidInput("api_url", "expected http(s)://HOST[:PORT]")
    if parts.username is not None or parts.password is not None:
        raise InvalidInput("api_url", "must not hold a user, password or token")
    if parts.scheme == "http" and not insecure_http and not is_loopback(host or ""):
        raise InvalidInput(
            "api_url", f"http://{host} would send the token unencrypted", hint="use https"
        )
    return api_url.rstrip("/")


def _check_tenant_id(tenant_id: str) -> None:
    if not tenant_id:
        raise InvalidInput("tenant_id", "is empty")


def _document(body: bytes, url: str) -> dict[str, Any]:
    try:
        answer = json.loads(body) if len(body) <= ANSWER_BYTES_MAX else None
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise _ApiCorrupt(200, f"{url} answered with something that is no JSON object")
    return answer


def _text(answer: dict[str, Any], name: str, url: str) -> str:
    found = answer.get(name)
    if not isinstance(found, str):
        raise _ApiCorrupt(200, f"{url} answered with a {name} that is no text")
    return found


@contextmanager
def _as_api_errors(hints: Mapping[type[GsyncError], str] | None = None) -> Iterator[None]:
    """Say what a peer answered as the older API does; a token that is not known is one error."""
    try:
        yield
    except PeerAnswered as error:
        status = error.status or 0
        kind = STATUS.get(status, Unavailable if status >= 500 else Invalid)
        made = Unauthorized if status == 401 else _BY_KIND[kind]
        raise made(status, error.message, hint=(hints or {}).get(kind, error.hint)) from error
