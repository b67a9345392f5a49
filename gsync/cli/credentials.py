"""Tokens: where they are looked for, and where `gsync login` keeps them (10-cli, section 5).

A token is never in a URL, an argument, a message or a repository.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

from gsync.config import Environment, expand
from gsync.config import environment as read_environment
from gsync.configedit import write_file
from gsync.errors import Invalid, NotFound, TooLarge, Unavailable
from gsync.urls import HttpUrl, PathUrl, PeerUrl

TOKEN_BYTES_MAX = 4096
TOKENS_BYTES_MAX = 1 << 20
KEYRING_SERVICE = "gsync"
_TOKEN = re.compile(r"[\x21-\x7e]+")  # what a header carries


def find_token(
    url: str, token_file: str | os.PathLike[str] | None, environment: Environment | None = None
) -> str | None:
    """Return the token for `url`, or None where nobody gave one.

    Args:
        url: A server's tenant; whether plain http may carry a token is not decided here.
        token_file: What `--token-file`, else the remote, names; it wins over GSYNC_TOKEN.
        environment: The process's, unless given.
    """
    return find_token_and_source(url, token_file, environment)[0]


def find_token_and_source(
    url: str, token_file: str | os.PathLike[str] | None, environment: Environment | None = None
) -> tuple[str | None, str | None]:
    """Return the token as `find_token` does, and in words where it came from."""
    environment = environment or read_environment(os.environ)
    where = str(server_url(url, insecure_http=True))
    if token_file is not None:
        return read_token(expand(os.fspath(token_file))), "token file"
    if environment.token is not None:
        return check_token(environment.token, "GSYNC_TOKEN"), "GSYNC_TOKEN"
    stored = _load(tokens_path(environment)).get(where)
    if stored is not None:
        return check_token(stored, "tokens.toml"), "tokens.toml"
    stored = _from_keyring(where)
    return (None, None) if stored is None else (stored, "keyring")


def read_token(path: str) -> str:
    """Return the token that a file holds; `-` is standard input.

    Raises:
        NotFound: there is no such file.
        Invalid: it does not hold one token.
    """
    if path == "-":
        return check_token(sys.stdin.read(TOKEN_BYTES_MAX + 2), "standard input")
    try:
        with open(path, "rb") as file:
            data = file.read(TOKEN_BYTES_MAX + 2)
    except FileNotFoundError as error:
        raise NotFound(f"no such token file: {path}") from error
    return check_token(data.decode("ascii", "replace"), path)


def check_token(text: str, source: str) -> str:
    """Return the token without the space around it, or raise Invalid, which does not show it."""
    text = text.strip()
    if len(text) > TOKEN_BYTES_MAX or not _TOKEN.fullmatch(text):
        raise Invalid(
            f"{source} holds no token: expected 1 to {TOKEN_BYTES_MAX} ASCII characters, no spaces"
        )
    return text


def store_token(url: HttpUrl | PeerUrl, token: str, environment: Environment) -> str:
    """Keep the token of `url` for later, in place of an earlier one; return where, in words."""
    path = tokens_path(environment)
    tokens = _load(path)
    if _to_keyring(url, token):
        if tokens.pop(str(url), None) is not None:
            _save(path, tokens)
        return "keyring"
    _save(path, {**tokens, str(url): token})
    return str(path)


def drop_token(url: HttpUrl | PeerUrl, environment: Environment) -> bool:
    """Forget the token of `url` everywhere; return whether there was one."""
    path = tokens_path(environment)
    tokens = _load(path)
    dropped = tokens.pop(str(url), None) is not None
    if dropped:
        _save(path, tokens)
    return _drop_from_keyring(url) or dropped


def tokens_path(environment: Environment) -> Path:
    """Return the file that holds tokens where no keyring does."""
    return environment.config_home / "gsync" / "tokens.toml"


def _load(path: Path) -> dict[str, str]:
    import tomllib

    try:
        with open(path, "rb") as file:
            data = file.read(TOKENS_BYTES_MAX + 1)
    except FileNotFoundError:
        return {}
    if len(data) > TOKENS_BYTES_MAX:
        raise TooLarge(f"{path} is longer than {TOKENS_BYTES_MAX} bytes")
    try:
        tokens = tomllib.loads(data.decode()).get("tokens", {})
        if isinstance(tokens, dict) and all(isinstance(token, str) for token in tokens.values()):
            return dict(tokens)
    except ValueError:  # its message could show a token
        pass
    raise Invalid(f"{path} is damaged", hint="remove it, then 'gsync login' once more")


def _save(path: Path, tokens: dict[str, str]) -> None:
    import json

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Of ASCII texts, the JSON form is a TOML form too.
    lines = [f"{json.dumps(url)} = {json.dumps(token)}\n" for url, token in sorted(tokens.items())]
    text = "# Written by 'gsync login' and 'gsync logout'.\n[tokens]\n" + "".join(lines)
    write_file(path, text.encode(), mode=0o600)


# --- The keyring, where there is one -------------------------------------------------


def _keyring() -> Any | None:
    """Return the module `keyring` where it is installed and has somewhere to keep things."""
    try:
        import keyring
    except ImportError:
        return None
    try:
        # The backends that keep nothing have priorities below 1.
        return keyring if keyring.get_keyring().priority >= 1 else None
    except Exception:  # a backend that cannot even start is one that is not there
        return None


def _from_keyring(url: str) -> str | None:
    keyring = _keyring()
    if keyring is None:
        return None
    try:
        found: str | None = keyring.get_password(KEYRING_SERVICE, url)
        return found
    except Exception as error:  # backends raise what they like
        raise Unavailable(
            f"the keyring did not answer: {type(error).__name__}",
            hint="unlock it, or give the token with GSYNC_TOKEN or --token-file",
        ) from error


def _to_keyring(url: HttpUrl | PeerUrl, token: str) -> bool:
    keyring = _keyring()
    if keyring is None:
        return False
    try:
        keyring.set_password(KEYRING_SERVICE, str(url), token)
        return True
    except Exception:  # locked, or refused: the file takes it
        return False


def _drop_from_keyring(url: HttpUrl | PeerUrl) -> bool:
    keyring = _keyring()
    if keyring is None:
        return False
    try:
        if keyring.get_password(KEYRING_SERVICE, str(url)) is None:
            return False
        keyring.delete_password(KEYRING_SERVICE, str(url))
        return True
    except Exception as error:
        raise Unavailable(
            f"the keyring did not answer: {type(error).__name__}", hint="unlock it, then try again"
        ) from error


def server_url(text: str, *, insecure_http: bool = False) -> HttpUrl | PeerUrl:
    """Return `text` as the URL of a server's tenant, or raise Invalid."""
    from gsync.urls import parse_url

    url = parse_url(text, insecure_http=insecure_http)
    if isinstance(url, PathUrl):
        raise Invalid(f"only servers take a token: {os.fspath(url.path)} is a path")
    return url
