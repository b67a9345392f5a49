"""What a remote may be called and where it may lie (09-config, sections 4 and 5). Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gsync.errors import Invalid

URL_CHARS_MAX = 2048
# Tenants that would hide a route of the server.
TENANTS_RESERVED = frozenset(("api", "healthz", "metrics"))
# Remotes that would read as a revision of this repository.
REMOTES_RESERVED = frozenset(("main", "head", "deploy"))

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


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class PathUrl:
    """A repository, or a bare store, on this machine.

    Attributes:
        path: As written: absolute, or relative to what the caller says.
    """

    path: str

    def __str__(self) -> str:
        return self.path


def parse_url(text: str, *, insecure_http: bool = False) -> HttpUrl | PathUrl:
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
    if scheme == "file":
        return _parse_file(rest)
    raise InvalidUrl(
        f"no such kind of remote: {scheme}://",
        hint="use http(s)://HOST[:PORT]/TENANT, file:///PATH, or a path",
    )


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
