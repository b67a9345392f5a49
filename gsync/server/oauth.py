"""Tokens in exchange for tokens (RFC 8693), as clients of the older system ask for them.

What is given is short-lived and kept nowhere: it says which token it stands for, how far it
goes and until when, under a key that ends with the process. After a restart clients get 401,
and exchange again. Revoking a token ends all that it was exchanged for.
"""

from __future__ import annotations

import hmac
import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from blake3 import blake3

from gsync.errors import Denied, Invalid
from gsync.frozen import replace
from gsync.server.auth import SCOPES, Accounts, Token, Unauthorized

EXCHANGED_PREFIX = "gsx_"
EXPIRES_S = 900
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
SUBJECT_TYPES = (
    "urn:ietf:params:oauth:token-type:jwt",
    "urn:ietf:params:oauth:token-type:access_token",
)
GIVEN_TYPE = "urn:ietf:params:oauth:token-type:access_token"

_CLIENT_ID = re.compile(r"[A-Za-z0-9._-]{1,100}")
_MAC_BYTES = 32


class ExchangeRefused(Invalid):
    """An exchange that the standard has a name for (RFC 6749, section 5.2).

    Attributes:
        oauth_error: That name.
    """

    def __init__(self, oauth_error: str, message: str) -> None:
        super().__init__(message)
        self.oauth_error = oauth_error


class TokenExchange:
    """Gives tokens for tokens, and knows those that it gave. Usable from any thread.

    Args:
        accounts: Whose tokens are taken.
        now_us: The clock, in microseconds since 1970.
        without_client_id: Take an exchange that names no client, as the older client's.
    """

    def __init__(
        self, accounts: Accounts, now_us: Callable[[], int], *, without_client_id: bool = False
    ) -> None:
        self._accounts = accounts
        self._now_us = now_us
        self._without_client_id = without_client_id
        self._key = secrets.token_bytes(_MAC_BYTES)

    def exchange(self, form: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Return the answer to a request; `form` is what it has, in order.

        Raises:
            ExchangeRefused: it is not one that can be met, and why.
        """
        asked = _once(form)
        if asked.get("grant_type") != EXCHANGE:
            raise ExchangeRefused("unsupported_grant_type", f"expected {EXCHANGE}")
        if asked.get("subject_token_type") not in SUBJECT_TYPES:
            raise ExchangeRefused(
                "invalid_request", f"subject_token_type: expected {' or '.join(SUBJECT_TYPES)}"
            )
        if asked.get("requested_token_type", GIVEN_TYPE) != GIVEN_TYPE:
            raise ExchangeRefused("invalid_request", f"only {GIVEN_TYPE} is given")
        client = asked.get("client_id", "")
        if not _CLIENT_ID.fullmatch(client) and (client or not self._without_client_id):
            raise ExchangeRefused("invalid_request", "client_id: expected the name of the client")
        try:
            token = self._accounts.authenticate(None, asked.get("subject_token"))
        except Unauthorized:
            raise ExchangeRefused("invalid_grant", "the subject_token is not valid here") from None
        scope = _scope(asked.get("scope"), token)
        return {
            "access_token": self._give(token, scope),
            "issued_token_type": GIVEN_TYPE,
            "token_type": "Bearer",
            "expires_in": EXPIRES_S,
            "scope": scope,
        }

    def authenticate(self, tenant: str | None, secret: str | None) -> Token:
        """Return the token that `secret` is, or stands for, if it is a valid one of `tenant`.

        Raises:
            Unauthorized: it is not.
        """
        if secret is None or not secret.startswith(EXCHANGED_PREFIX):
            return self._accounts.authenticate(tenant, secret)
        token = self._take(secret.removeprefix(EXCHANGED_PREFIX))
        if tenant is not None and not hmac.compare_digest(token.tenant.encode(), tenant.encode()):
            raise Unauthorized
        return token

    def _give(self, token: Token, scope: str) -> str:
        claim = f"{token.id} {scope} {self._now_us() + EXPIRES_S * 1_000_000}".encode()
        return EXCHANGED_PREFIX + urlsafe_b64encode(self._mac(claim) + claim).decode().rstrip("=")

    def _take(self, text: str) -> Token:
        try:
            data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except ValueError:
            raise Unauthorized from None
        mac, claim = data[:_MAC_BYTES], data[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(claim)):
            raise Unauthorized
        token_id, scope, until_us = claim.decode().split(" ")
        if self._now_us() >= int(until_us):
            raise Unauthorized
        return replace(self._accounts.look_up(token_id), scope=scope)

    def _mac(self, claim: bytes) -> bytes:
        return blake3(claim, key=self._key).digest()


def _once(form: Sequence[tuple[str, str]]) -> Mapping[str, str]:
    asked: dict[str, str] = {}
    for name, value in form:
        if name in asked and name not in ("resource", "audience"):
            raise ExchangeRefused("invalid_request", f"{name[:40]} is there twice")
        asked[name] = value
    return asked


def _scope(wanted: str | None, token: Token) -> str:
    """Return the widest scope that was asked for, at most the token's own."""
    if wanted is None:
        return token.scope
    names = wanted.split()
    if not names or any(name not in SCOPES for name in names):
        raise ExchangeRefused("invalid_scope", f"expected some of {', '.join(SCOPES)}")
    scope = max(names, key=SCOPES.index)
    try:
        token.check_scope(scope)
    except Denied as error:
        raise ExchangeRefused("invalid_scope", error.message) from error
    return scope
