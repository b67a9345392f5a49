"""What a remote may be called and where it may lie (09-config, sections 4 and 5). Pure."""

from __future__ import annotations

import re
from dataclasses import field

from gsync.errors import Invalid
from gsync.frozen import frozen

URL_CHARS_MAX = 2048
# Tenants that would hide a route of the server.
TENANTS_RESERVED = frozenset(("api", "healthz", "metrics"))
# Remotes that would read as a revision of this repository.
REMOTES_RESERVED = frozenset(("main", "head", "deploy", "merge"))

_TENANT = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_REMOTE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_HEX_ONLY = re.compile(r"[0-9A-Fa-f]{4,}")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_HOST = re.compile(
    r"([A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?"
)
_LOOPBACK = re.compile(r"localhost|127(?:\.[0-9]{1,3}){3}|\[::1\]")
_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})")
_PORTS = {"http": 80, "https": 443}


class InvalidUrl(Invalid):
    """A text is not the address of a store; the message never repeats a password in it."""


class InvalidName(Invalid):
    """A name is not one that a remote or a tenant may have."""


@frozen
class HttpUrl:
    """A tenant of a server.

    Attributes:
        base: `http(s)://HOST[:PORT]`, lower case, without the port that is the default.
        tenant: Whose store it is.
    """

    base: str
    tenant: str

    def __str__(self) -> str:
        return f"{self.base}/{self.tenant}"


@frozen
class PeerUrl:
    """A peer that takes and gives tarballs alone.

    Attributes:
        base: As of an HttpUrl.
        tenant: Whose files the control plane at `base` relays, unquoted; None for a tenant's
            own host.
    """

    base: str
    tenant: str | None

    def __str__(self) -> str:
        if self.tenant is None:
            return f"tarball+{self.base}"
        from urllib.parse import quote

        return f"relay+{self.base}/{quote(self.tenant, safe='')}"


@frozen
class PathUrl:
    """A repository, or a bare store, on this machine.

    Attributes:
        path: As written: absolute, or relative to what the caller says.
    """

    path: str

    def __str__(self) -> str:
        return self.path


def parse_url(text: str, *, insecure_http: bool = False) -> HttpUrl | PeerUrl | PathUrl:
    """Return where `text` points.

    Args:
        insecure_http: Let plain http go beyond loopback.

    Raises:
        InvalidUrl: it points nowhere that gsync goes, or has a secret in it.
    """
    if not text or len(text) > URL_CHARS_MAX or not text.isprintable():
        raise InvalidUrl(f"not a URL: expected 1 to {URL_CHARS_MAX} printable characters")
    match = _SCHEME.fullmatch(text)
    if match is None:
        return _parse_path(text)
    scheme, rest = match[1].lower(), match[2]
    if scheme in _PORTS:
        return _parse_http(scheme, rest, insecure_http=insecure_http)
    kind, plus, carrier = scheme.partition("+")
    if plus and kind in ("relay", "tarball") and carrier in _PORTS:
        return _parse_peer(kind, carrier, rest, insecure_http=insecure_http)
    if scheme == "file":
        return _parse_file(rest)
    raise InvalidUrl(
        f"no such kind of remote: {scheme}://",
        hint="use http(s)://HOST[:PORT]/TENANT, file:///PATH, or a path; for an older peer"
        " tarball+https://HOST or relay+https://HOST/TENANT",
    )


def _parse_peer(kind: str, scheme: str, rest: str, *, insecure_http: bool) -> PeerUrl:
    if kind == "relay":
        authority, _, path = rest.partition("/")
        tenant = path.removesuffix("/")
        if not tenant or "/" in tenant or any(c in tenant for c in "?#"):
            raise InvalidUrl(
                f"expected one tenant after the host, found {path!r}",
                hint=f"write relay+{scheme}://{authority}/TENANT",
            )
        # A tenant there is named as that system names it.
        where = _parse_http(scheme, f"{authority}/t", insecure_http=insecure_http)
        return PeerUrl(where.base, _unquote(tenant))
    authority = rest.removesuffix("/")
    if "/" in authority:
        raise InvalidUrl(
            f"a tenant's own host has no path: {rest!r}",
            hint=f"write tarball+{scheme}://HOST[:PORT], or relay+{scheme}://HOST/TENANT",
        )
    return PeerUrl(_parse_http(scheme, f"{authority}/t", insecure_http=insecure_http).base, None)


def _parse_http(scheme: str, rest: str, *, insecure_http: bool) -> HttpUrl:
    authority, _, path = rest.partition("/")
    if "@" in authority:
        raise InvalidUrl(
            "a URL must not hold a user, password or token",
            hint="leave out what stands before '@'; give the token with 'gsync login URL'",
        )
    if "?" in rest or "#" in rest:
        raise InvalidUrl("a remote's URL has no '?' and no '#'")
    match = _HOST.fullmatch(authority)
    if match is None or not 0 < int(match[2] or 1) < 65536:
        raise InvalidUrl(f"not a host, or host:port: {authority!r}")
    host, port = match[1].lower(), int(match[2] or _PORTS[scheme])
    tenant = path.removesuffix("/")
    if not tenant or "/" in tenant:
        raise InvalidUrl(
            f"expected one tenant after the host, found {path!r}",
            hint=f"write {scheme}://{authority}/TENANT",
        )
    check_tenant(tenant)
    if scheme == "http" and not insecure_http and not _LOOPBACK.fullmatch(host):
        raise InvalidUrl(
            f"http://{authority} would send the token unencrypted",
            hint="use https, or --insecure-http where nobody else can listen",
        )
    shown = "" if port == _PORTS[scheme] else f":{port}"
    return HttpUrl(f"{scheme}://{host}{shown}", tenant)


def _parse_file(rest: str) -> PathUrl:
    if not rest.startswith("/"):
        raise InvalidUrl("a file URL has three slashes", hint="write file:///PATH")
    raw = _PERCENT.sub(lambda m: bytes((int(m[1], 16),)), rest.encode("utf-8", "surrogateescape"))
    if b"\0" in raw:
        raise InvalidUrl("a path holds no NUL byte")
    return PathUrl(raw.decode("utf-8", "surrogateescape"))


def _parse_path(text: str) -> PathUrl:
    if ":" in text.partition("/")[0]:
        raise InvalidUrl(
            f"neither a URL nor a path: {text.rpartition('@')[2]!r}",
            hint="ssh is not spoken; a path whose first part has a colon begins with './'",
        )
    return PathUrl(text)


def check_tenant(name: str) -> None:
    """Raise InvalidName unless `name` may be a tenant's."""
    if not _TENANT.fullmatch(name):
        raise InvalidName(
            f"not a tenant: expected {_TENANT.pattern}, found {name[:80]!r}", name=name[:80]
        )
    if name in TENANTS_RESERVED:
        raise InvalidName(f"{name!r} is a route of the server and no tenant", name=name)


def check_remote_name(name: str) -> None:
    """Raise InvalidName unless `name` may be a remote's."""
    if not _REMOTE.fullmatch(name):
        raise InvalidName(
            f"not a remote's name: expected {_REMOTE.pattern}, found {name[:80]!r}", name=name[:80]
        )
    if name.lower() in REMOTES_RESERVED:
        raise InvalidName(f"{name!r} is a ref's name and cannot be a remote's", name=name)
    if _HEX_ONLY.fullmatch(name):
        raise InvalidName(
            f"a remote called {name!r} could be mistaken for a manifest's id",
            hint="add a letter after f, or a hyphen",
            name=name,
        )


# --- Databases -----------------------------------------------------------------------

_DATABASE = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_POSTGRES = re.compile(r"(postgres(?:ql)?)://(?:([^/?#@]*)@)?([^@]*)", re.DOTALL)


@frozen
class DatabaseUrl:
    """Where a database is.

    Attributes:
        engine: `postgres` or `sqlite`.
        location: For Postgres the URL without its password, as libpq reads it; for SQLite
            the path of the file, absolute or relative to what the caller says.
        password: What stood in the URL, percent-encoded no more; or None.
    """

    engine: str
    location: str
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return self.location if self.engine == "postgres" else f"sqlite:///{self.location}"


def parse_database_url(text: str, *, with_password: bool = False) -> DatabaseUrl:
    """Return where `text` points: `postgresql://...` as libpq has it, or `sqlite:///PATH`.

    After the three slashes stands the path: `sqlite:///app.db` is relative, and an absolute
    one makes a fourth, `sqlite:////var/lib/app.db`, as SQLAlchemy and Django read it.

    Args:
        with_password: Let the URL of a Postgres hold a password; a caller that writes URLs
            down, or takes them from a command line, does not.

    Raises:
        InvalidUrl: it is neither, or has a password in it.
    """
    if not text or len(text) > URL_CHARS_MAX or not text.isprintable():
        raise InvalidUrl(f"a URL has 1 to {URL_CHARS_MAX} printable characters")
    if text.startswith("sqlite:"):
        path = text.removeprefix("sqlite:///")
        if path == text or not path or "?" in path or "#" in path:
            raise InvalidUrl(
                "expected sqlite:///PATH",
                hint="a relative path follows three slashes, an absolute one makes four",
            )
        return DatabaseUrl("sqlite", path)
    match = _POSTGRES.fullmatch(text)
    if not match:
        raise InvalidUrl(
            f"not the URL of a database: {text.partition(':')[0][:40]!r}",
            hint="write postgresql://USER@HOST/DATABASE or sqlite:///PATH",
        )
    user, colon, password = (match[2] or "").partition(":")
    rest, query, options = match[3].partition("?")
    in_query = re.search(r"(?:^|&)password=", options)
    if (colon or in_query) and not with_password or in_query:
        raise InvalidUrl(
            f"the URL of the database at {rest.partition('/')[0] or 'localhost'} holds a password",
            hint="leave it out: put it into a file and name that as password_file, or into the"
            " variable GSYNC_DB_NAME_PASSWORD, or into ~/.pgpass",
        )
    location = f"postgresql://{user + '@' if user else ''}{rest}{query}{options}"
    return DatabaseUrl("postgres", location, _unquote(password) if colon else None)


def _unquote(text: str) -> str:
    raw = _PERCENT.sub(lambda m: bytes((int(m[1], 16),)), text.encode())
    return raw.decode("utf-8", "replace")


def check_database_name(name: str) -> None:
    """Raise InvalidName unless `name` may be a database's in the configuration."""
    if not _DATABASE.fullmatch(name):
        raise InvalidName(
            f"not a database's name: expected {_DATABASE.pattern}, found {name[:80]!r}",
            name=name[:80],
        )
