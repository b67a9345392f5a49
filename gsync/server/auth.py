"""Tokens, scopes and tenants: who may do what on this server.

`DATA/server.db` names the tenants and holds the hash of every token, never a token. A token
has 32 random bytes, so a plain hash of it is as hard to turn back as one made slow on purpose.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from blake3 import blake3

from gsync.errors import Conflict, Corrupt, Denied, Invalid, NotFound, Unavailable
from gsync.frozen import replace
from gsync.oserrors import from_os_error
from gsync.urls import check_tenant

TOKEN_PREFIX = "gs_"
TOKEN_CHARS_MAX = 128
SCOPES = ("read", "write", "admin")
"""Each allows what the ones before it allow."""

TOKEN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")

APPLICATION_ID = 0x67737376
"""`gssv`: marks the file as a server's."""

_LOOKUP_BYTES = 8
_BUSY_S = 30.0
_DURATION = re.compile(r"([1-9][0-9]{0,5})(m|h|d|w)")
_UNITS_S = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_COLUMNS = "id, tenant, name, scope, created_us, expires_us, revoked_us, hash"


class Unauthorized(Denied):
    """No valid token of the tenant came with the request; nothing says what was wrong with it."""

    def __init__(self) -> None:
        super().__init__(
            "no valid token for this tenant",
            hint="run 'gsync login URL' with a token that is neither revoked nor expired",
        )


class OutOfScope(Denied):
    """The token is valid and does not go that far."""

    def __init__(self, needed: str, scope: str) -> None:
        super().__init__(
            f"the token's scope is {scope}, where {needed} is needed",
            hint=f"ask for a token of scope {needed}",
        )


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of a token, but for the token.

    Attributes:
        id: Names it to people, 8 hex digits.
        tenant: Whose store it opens.
        name: Who or what uses it; the actor in the ref log.
        scope: One of `SCOPES`.
        created_us: When, in microseconds since 1970.
        expires_us: Until when it is valid, or None for ever.
        revoked_us: Since when it is not, or None.
    """

    id: str
    tenant: str
    name: str
    scope: str
    created_us: int
    expires_us: int | None
    revoked_us: int | None

    def is_valid(self, now_us: int) -> bool:
        """Return whether it opens anything at `now_us`."""
        return self.revoked_us is None and (self.expires_us is None or now_us < self.expires_us)

    def check_scope(self, needed: str) -> None:
        """Raise OutOfScope unless this token allows what `needed` allows."""
        if SCOPES.index(self.scope) < SCOPES.index(needed):
            raise OutOfScope(needed, self.scope)


class Accounts:
    """The tenants and tokens of one data directory. Usable from any thread.

    What another process changes is seen by the next call.

    Args:
        data: The directory; made with the file in it if absent.
        now_us: The clock, in microseconds since 1970.
    """

    def __init__(self, data: Path, now_us: Callable[[], int]) -> None:
        self.path = data / "server.db"
        self._now_us = now_us
        self._lock = threading.Lock()
        if not self.path.exists():
            _create(data, self.path)
        try:
            self._db = sqlite3.connect(
                self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
            )
            (application,) = self._db.execute("PRAGMA application_id").fetchone()
        except sqlite3.Error as error:
            raise _translated(error, self.path) from error
        if application != APPLICATION_ID:
            self._db.close()
            raise Invalid(f"{self.path} is not a server's file of tenants and tokens")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def add_token(
        self, tenant: str, scope: str, *, name: str | None = None, expires_us: int | None = None
    ) -> tuple[str, Token]:
        """Make a token, and its tenant if that is new; return the secret, kept nowhere, and it.

        Raises:
            Invalid: the name of the tenant, the token or the scope is not one.
            Conflict: the tenant has a valid token of that name.
        """
        check_tenant(tenant)
        if scope not in SCOPES:
            raise Invalid(f"no such scope: {scope[:40]!r}; expected read, write or admin")
        now_us, token_id = self._now_us(), secrets.token_hex(4)
        name = name or f"token-{token_id}"
        if not TOKEN_NAME.fullmatch(name):
            raise Invalid(f"not a token's name: expected {TOKEN_NAME.pattern}, found {name[:80]!r}")
        for other in self.list_tokens(tenant):
            if other.name == name and other.is_valid(now_us):
                raise Conflict(
                    f"tenant {tenant} has a token named {name}",
                    hint=f"revoke {other.id} first, or choose another name",
                )
        secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
        digest = _digest(secret)
        self._run(
            "INSERT INTO tenant(name, created_us) VALUES (?, ?) ON CONFLICT DO NOTHING",
            (tenant, now_us),
        )
        self._run(
            f"INSERT INTO token({_COLUMNS}, lookup) VALUES (?, ?, ?, ?, ?, ?, NULL, ?, ?)",
            (token_id, tenant, name, scope, now_us, expires_us, digest, digest[:_LOOKUP_BYTES]),
        )
        return secret, Token(token_id, tenant, name, scope, now_us, expires_us, None)

    def list_tokens(self, tenant: str | None = None) -> list[Token]:
        """Return the tokens of `tenant`, or all, revoked and expired ones too, oldest first."""
        rows = self._run(
            f"SELECT {_COLUMNS} FROM token WHERE ?1 IS NULL OR tenant = ?1"
            " ORDER BY tenant, created_us, id",
            (tenant,),
        )
        return [Token(*row[:-1]) for row in rows]

    def list_tenants(self) -> list[str]:
        """Return the names of all tenants, sorted."""
        return [name for (name,) in self._run("SELECT name FROM tenant ORDER BY name", ())]

    def revoke_token(self, which: str, tenant: str | None = None) -> Token:
        """Revoke the token with the id or the name `which`, from the next request on.

        Raises:
            NotFound, Conflict: as `find_token` does.
        """
        token, now_us = self.find_token(which, tenant), self._now_us()
        self._run("UPDATE token SET revoked_us = ? WHERE id = ?", (now_us, token.id))
        return replace(token, revoked_us=now_us)

    def find_token(self, which: str, tenant: str | None = None) -> Token:
        """Return the token with the id or the name `which` that is not revoked.

        Raises:
            NotFound: there is none.
            Conflict: several have that name.
        """
        found = [
            token
            for token in self.list_tokens(tenant)
            if which in (token.id, token.name) and token.revoked_us is None
        ]
        found = [token for token in found if token.id == which] or found
        if not found:
            raise NotFound(f"no token that could be revoked: {which[:80]!r}")
        if len(found) > 1:
            raise Conflict(
                f"{len(found)} tokens are named {which}",
                hint="name one by its id: " + ", ".join(token.id for token in found),
            )
        return found[0]

    def authenticate(self, tenant: str | None, secret: str | None) -> Token:
        """Return the token that `secret` is, if it is a valid one of `tenant`, or of any for None.

        A tenant that does not exist, a token that does not, one that is another tenant's,
        revoked or expired: all take the same steps and end in the same error.

        Raises:
            Unauthorized: it is not.
        """
        digest = _digest((secret or "")[:TOKEN_CHARS_MAX])
        rows = self._run(
            f"SELECT {_COLUMNS} FROM token WHERE lookup = ?", (digest[:_LOOKUP_BYTES],)
        )
        found: Token | None = None
        for row in rows or [(*("",) * 7, bytes(32))]:
            if hmac.compare_digest(row[-1], digest):
                found = Token(*row[:-1])
        wanted = tenant if tenant is not None else found.tenant if found else ""
        theirs = hmac.compare_digest((found.tenant if found else "").encode(), wanted.encode())
        if found is None or not theirs or not found.is_valid(self._now_us()):
            raise Unauthorized
        return found

    def look_up(self, token_id: str) -> Token:
        """Return the token of that id, which stands for one that was exchanged for it.

        Raises:
            Unauthorized: it is not valid any more.
        """
        rows = self._run(f"SELECT {_COLUMNS} FROM token WHERE id = ?", (token_id,))
        token = Token(*rows[0][:-1]) if rows else None
        if token is None or not token.is_valid(self._now_us()):
            raise Unauthorized
        return token

    def _run(self, sql: str, parameters: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        try:
            with self._lock:
                return self._db.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise _translated(error, self.path) from error


def parse_duration(text: str) -> int:
    """Return the microseconds of a duration such as `90d`, `12h`, `30m` or `2w`."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise Invalid(
            f"not a duration: {text[:40]!r}", hint="write minutes, hours, days or weeks, as in 90d"
        )
    return int(match[1]) * _UNITS_S[match[2]] * 1_000_000


def make_private_directory(path: Path) -> None:
    """Make a directory, and what is above it, that nobody but its owner can look into."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise from_os_error(error) from error


def _create(data: Path, path: Path) -> None:
    import sqlite_utils

    make_private_directory(data)
    try:
        # Made by us first, so that it is private from its first byte; SQLite gives the files
        # that it puts beside a database the same mode.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(path, timeout=_BUSY_S)
        connection.execute("PRAGMA journal_mode = WAL")
        db = sqlite_utils.Database(connection)
        db["tenant"].create({"name": str, "created_us": int}, pk="name", if_not_exists=True)  # type: ignore[union-attr]
        db["token"].create(  # type: ignore[union-attr]
            {
                "id": str,
                "tenant": str,
                "name": str,
                "scope": str,
                "created_us": int,
                "expires_us": int,
                "revoked_us": int,
                "hash": bytes,
                "lookup": bytes,
            },
            pk="id",
            foreign_keys=[("tenant", "tenant", "name")],
            not_null={"tenant", "name", "scope", "created_us", "hash", "lookup"},
            if_not_exists=True,
        )
        db["token"].create_index(["lookup"], if_not_exists=True)  # type: ignore[union-attr]
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.commit()
        connection.close()
    except OSError as error:
        raise from_os_error(error) from error
    except sqlite3.Error as error:
        raise _translated(error, path) from error


def _digest(secret: str) -> bytes:
    return blake3(secret.encode("utf-8", "surrogateescape")).digest()


def _translated(error: sqlite3.Error, path: Path) -> Corrupt | Unavailable:
    if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
        return Corrupt(f"{path} is damaged: {error}", hint="restore it from a backup")
    return Unavailable(f"{path} cannot be used now: {error}")
