"""A peer that speaks the older system's file endpoints: tarballs up and down (15-older-peers).

One retry loop wraps connecting, sending and reading of every call, and one function says what
is worth another attempt.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote, urlencode

from gsync import __version__
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
from gsync.remotes.connection import CONNECT_S, READ_BYTES, STALL_S, Connection, Response, bearer
from gsync.urls import PeerUrl

CLIENT_ID = "sp_web"
EXPIRES_EARLY_S = 30.0
EXPIRES_DEFAULT_S = 300.0
RETRY_AFTER_MAX_S = 120.0
ANSWER_BYTES_MAX = 64 << 20
BODY_LIMIT_BYTES = 2 << 20
"""What the older server took, from 0.11.1 on."""

RETRIED = frozenset((429, 502, 503, 504))
_KINDS: Mapping[int, type[GsyncError]] = {
    400: Invalid,
    401: Denied,
    403: Denied,
    404: NotFound,
    409: Conflict,
    413: TooLarge,
    422: Invalid,
}
_SHOWN_CHARS = 200
_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
_SUBJECT = "urn:ietf:params:oauth:token-type:jwt"

T = TypeVar("T")


def _random() -> float:
    from random import random

    return random()


@frozen
class RetryConfig:
    """How often a call is tried, and how long is waited in between.

    Attributes:
        max_attempts: How often; with 0 nothing is asked.
        initial_delay: Seconds before the second attempt.
        max_delay: The longest wait.
        exponential_base: What each wait is multiplied by for the next.
        jitter: The share of a wait that chance may take off.
    """

    max_attempts: int = 5
    initial_delay: float = 2.0
    max_delay: float = 30.0
    exponential_base: float = 2.0
    jitter: float = 0.0

    def next_delay(self, delay: float) -> float:
        """Return the wait after one of `delay` seconds."""
        return min(delay * self.exponential_base, self.max_delay)


class PeerAnswered(GsyncError):
    """The peer answered with no success. Every one is also of the kind that its status says.

    Attributes:
        status: The HTTP status.
        retry_after_s: How long the peer wants to be left alone, if it says so.
    """

    status: int | None = None
    retry_after_s: float | None = None


class PeerUnavailable(PeerAnswered, Unavailable):
    """The peer cannot answer now, or gave up."""


_CLASSES: dict[type[GsyncError], type[PeerAnswered]] = {Unavailable: PeerUnavailable}


def answered(status: int, message: str, hint: str | None = None) -> PeerAnswered:
    """Return the error for an answer of that status."""
    kind = _KINDS.get(status, Unavailable if status >= 500 or status == 429 else Invalid)
    made = _CLASSES.get(kind)
    if made is None:
        made = _CLASSES[kind] = type(f"Peer{kind.__name__}", (PeerAnswered, kind), {})
    error = made(message, hint=hint, status=status)
    error.status = status
    return error


def is_retried(error: GsyncError) -> bool:
    """Return whether the same call may succeed when it is made again; the only judge of that."""
    status = getattr(error, "status", None)
    return status in RETRIED if status is not None else isinstance(error, Unavailable)


def call(
    attempt: Callable[[], T],
    retry: RetryConfig,
    *,
    renew: Callable[[GsyncError], bool] = lambda error: False,
    sleep: Callable[[float], None] = time.sleep,
    rand: Callable[[], float] = _random,
) -> T:
    """Return what an attempt returns, or raise its error when more are no use.

    Args:
        renew: Mends what an error says is stale, and returns whether it did: then the same is
            tried again at once, once, and that costs no attempt.
    """
    renewed = False
    delay, number = retry.initial_delay, 0
    while True:
        if number >= retry.max_attempts:
            raise answered(503, f"no attempt is left: {number} are all there may be")
        number += 1
        try:
            return attempt()
        except GsyncError as error:
            if not renewed and renew(error):
                renewed, number = True, number - 1
                continue
            if not is_retried(error) or number >= retry.max_attempts:
                raise
            wait_s = delay * (1 - retry.jitter * rand())
            after_s = getattr(error, "retry_after_s", None)
            if after_s is not None:
                if after_s > RETRY_AFTER_MAX_S:
                    raise
                wait_s = max(wait_s, after_s)
            sleep(wait_s)
            delay = retry.next_delay(delay)


class OlderPeer:
    """Uploads and downloads of one tenant.

    Args:
        url: Where: the tenant's own host, or the control plane that relays for it.
        token: Sent as it is to the control plane; to a tenant's own host what it gives for it.
        client_id: Who we say we are when a token is exchanged.
        retry: How often to try.
        sleep, rand, now: The clock of waits, the dice of jitter, and the clock of tokens.
    """

    def __init__(
        self,
        url: PeerUrl,
        token: str | None,
        *,
        ca_file: str | None = None,
        client_id: str = CLIENT_ID,
        retry: RetryConfig | None = None,
        connect_s: float = CONNECT_S,
        stall_s: float = STALL_S,
        sleep: Callable[[float], None] = time.sleep,
        rand: Callable[[], float] = _random,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url
        self.traffic = Traffic()
        self.retry = retry or RetryConfig()
        self._token = token
        self._client_id = client_id
        self._sleep, self._rand, self._now = sleep, rand, now
        self._given: tuple[str, float] | None = None  # a token, and until when it is good
        self._secrets: set[str] = {token} if token else set()
        self._connection = Connection(
            url.base, self.traffic, connect_s=connect_s, stall_s=stall_s, ca_file=ca_file
        )
        self._files = (
            f"/api/v1/cloud/tenants/{quote(url.tenant, safe='')}/files"
            if url.tenant is not None
            else "/api/v1/sync/files"
        )

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def download(self, directories: tuple[str, ...], out: BinaryIO) -> int:
        """Write the tarball of some directories to `out`, whole, and return its length.

        Raises:
            GsyncError: it did not come, of the kind that says why; `out` holds what came.
        """
        query = f"?{urlencode({'filter': ','.join(directories)})}" if directories else ""
        path = self._files + query

        def attempt(headers: dict[str, str]) -> int:
            out.seek(0)
            out.truncate()
            response = self._connection.request("GET", path, headers)
            try:
                self._check(response)
                for piece in response.stream():
                    out.write(piece)
            finally:
                response.close()
            return out.tell()

        self.traffic.count_request()
        return self._call(attempt)

    def upload(self, archive: BinaryIO, size: int) -> dict[str, Any]:
        """Send a tarball of `size` bytes from the beginning of a file; return the peer's answer.

        Raises:
            PeerAnswered: the peer did not take it.
            Corrupt: the peer took it, and its answer cannot be read: it is not sent again.
            GsyncError: it did not get there.
        """

        def pieces() -> Iterator[bytes]:
            archive.seek(0)
            while piece := archive.read(READ_BYTES):
                yield piece

        def attempt(headers: dict[str, str]) -> dict[str, Any]:
            headers = headers | {
                "Content-Type": "application/octet-stream",
                "Content-Length": str(size),
            }
            response = self._connection.request("POST", self._files, headers, pieces())
            try:
                self._check(response)
                return self._read(response)
            finally:
                response.close()

        self.traffic.count_part()
        return self._call(attempt)

    # Calls

    def _call(self, attempt: Callable[[dict[str, str]], T]) -> T:
        def renew(error: GsyncError) -> bool:
            if getattr(error, "status", None) != 401 or self._given is None:
                return False
            self._given = None
            return True

        return call(
            lambda: attempt(self._headers()),
            self.retry,
            renew=renew,
            sleep=self._sleep,
            rand=self._rand,
        )

    def _headers(self) -> dict[str, str]:
        token = self._token
        if self.url.tenant is None and token is not None:
            token = self._exchanged(token)
        return {"User-Agent": f"gsync/{__version__}", "Accept": "*/*", **bearer(token)}

    def _exchanged(self, token: str) -> str:
        if self._given is None or self._now() >= self._given[1]:
            self._given = exchange_token(self._connection, token, self._client_id, self._now)
            self._secrets.add(self._given[0])
            self.traffic.count_request()
        return self._given[0]

    def _check(self, response: Response) -> None:
        if 200 <= response.status < 300 and response.has_length:
            return
        raise refusal(response, str(self.url), self._secrets)

    def _read(self, response: Response) -> dict[str, Any]:
        try:
            body = response.read_up_to(ANSWER_BYTES_MAX)
            answer = json.loads(body)
            if not isinstance(answer, dict) or not isinstance(answer["files_uploaded"], int):
                raise ValueError
        except (ValueError, KeyError, Unavailable) as error:
            raise Corrupt(
                f"{self.url} took the upload, and its answer cannot be read",
                hint="nothing is sent again blindly: 'gsync sync' looks at what is there first",
            ) from error
        return answer


def exchange_token(
    connection: Connection,
    token: str,
    client_id: str = CLIENT_ID,
    now: Callable[[], float] = time.monotonic,
) -> tuple[str, float]:
    """Return a token that a tenant's own host gives for ours, and until when it is good.

    Raises:
        PeerAnswered: it gives none.
        Corrupt: its answer holds none.
    """
    form = {
        "grant_type": _EXCHANGE,
        "subject_token": token,
        "subject_token_type": _SUBJECT,
        "client_id": client_id,
    }
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
    asked_s = now()
    response = connection.request(
        "POST", "/api/v1/core/oauth/token", headers, urlencode(form).encode()
    )
    try:
        if response.status != 200:
            raise refusal(response, "the token endpoint", [token])
        body = response.read_up_to(1 << 20)
    finally:
        response.close()
    try:
        answer = json.loads(body)
        given, lasts_s = answer["access_token"], float(answer.get("expires_in", EXPIRES_DEFAULT_S))
        if not isinstance(given, str) or not given:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corrupt("the token endpoint answered without a token") from error
    return given, asked_s + max(0.0, lasts_s - EXPIRES_EARLY_S)


def refusal(response: Response, who: str, secrets: Iterable[str] = ()) -> PeerAnswered:
    """Return the error that an answer without success is; of its body, what can be shown.

    Args:
        secrets: Tokens that the other side may have repeated in it.
    """
    body = response.read_up_to(64 << 10)
    for secret in secrets:
        body = body.replace(secret.encode(), b"***")
    text = body[: 4 * _SHOWN_CHARS].decode("utf-8", "replace")[:_SHOWN_CHARS]
    said = "".join(c if c.isprintable() else " " for c in text).strip()
    hint = None
    if response.status in (401, 403):
        hint = "check the token: 'gsync login URL'"
    elif response.status == 413:
        hint = f"the older server takes {BODY_LIMIT_BYTES >> 20} MiB in one request"
    error = answered(
        response.status, f"{who} answered {response.status}" + (f": {said}" if said else ""), hint
    )
    from gsync.remotes.http import retry_after_s

    error.retry_after_s = retry_after_s(response)
    return error
