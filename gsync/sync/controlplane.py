"""The control plane: who knows where a tenant's database is."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from contextlib import closing
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
from gsync.remotes.base import Traffic
from gsync.remotes.connection import Connection, bearer, is_loopback
from gsync.remotes.http import ATTEMPTS_MAX, BACKOFF_MAX_S, BACKOFF_S, STATUS
from gsync.sync.results import InvalidInput, SyncError

ANSWER_BYTES_MAX = 1 << 20
_SHOWN_CHARS = 200


class ApiError(SyncError):
    """The control plane answered with something else than success.

    Attributes:
        status: With which HTTP status.
    """

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
# 500 is a defect at the other end, which the same request meets again.
_RETRIED = frozenset((429, 502, 503, 504))


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

    Args:
        ca_file: Certificates to trust instead of the usual ones, PEM.

    Raises:
        ApiError: it answered with no success, or has no database for the tenant.
        Unavailable: it cannot be reached.
        InvalidInput: `api_url` is none, or would send the token unencrypted.
    """
    base = check_api_url(api_url, insecure_http=insecure_http)
    path = f"/api/v1/cloud/tenants/{quote(tenant_id, safe='')}/database"
    url, headers = base + path, bearer(token)
    with closing(Connection(base, Traffic(), ca_file=ca_file)) as connection:
        answer = _retry(lambda: _ask(connection, path, headers, url), sleep, rand)
    found = answer.get("data", answer)
    found = found.get("database_url") if isinstance(found, dict) else None
    if found is None:
        raise _ApiNotFound(
            404,
            f"the control plane knows no database of the tenant {tenant_id!r}",
            hint="make one there, or set tenant_database_url",
        )
    if not isinstance(found, str):
        raise _ApiCorrupt(200, f"{url} answered with a database_url that is no text")
    return found


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
    if not host or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        raise InvalidInput("api_url", "expected http(s)://HOST[:PORT]")
    if parts.username is not None or parts.password is not None:
        raise InvalidInput("api_url", "must not hold a user, password or token")
    if parts.scheme == "http" and not insecure_http and not is_loopback(host):
        raise InvalidInput(
            "api_url", f"http://{host} would send the token unencrypted", hint="use https"
        )
    return api_url.rstrip("/")


def _retry(
    attempt: Callable[[], dict[str, Any]], sleep: Callable[[float], None], rand: Callable[[], float]
) -> dict[str, Any]:
    for number in range(1, ATTEMPTS_MAX):
        try:
            return attempt()
        except Unavailable as error:
            if isinstance(error, ApiError) and error.status not in _RETRIED:
                raise
            sleep(rand() * min(BACKOFF_MAX_S, BACKOFF_S * 2**number))
    return attempt()


def _ask(connection: Connection, path: str, headers: dict[str, str], url: str) -> dict[str, Any]:
    with closing(connection.request("GET", path, headers)) as response:
        body = response.read_up_to(ANSWER_BYTES_MAX)
    if response.status != 200:
        raise _refusal(response.status, url, body)
    try:
        answer = json.loads(body) if len(body) <= ANSWER_BYTES_MAX else None
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise _ApiCorrupt(200, f"{url} answered with something that is no JSON object")
    return answer


def _refusal(status: int, url: str, body: bytes) -> ApiError:
    text = body[: _SHOWN_CHARS * 4].decode("utf-8", "replace")[:_SHOWN_CHARS]
    said = "".join(c if c.isprintable() else " " for c in text).strip()
    kind = STATUS.get(status, Unavailable if status >= 500 else Invalid)
    error = Unauthorized if status == 401 else _BY_KIND[kind]
    message = f"{url} answered {status}" + (f": {said}" if said else "")
    return error(status, message, hint=_HINTS.get(kind))
