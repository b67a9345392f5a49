"""Databases by name or URL -> reachable, with the password from where it is kept."""

from __future__ import annotations

from pathlib import Path

from gsync.config import expand
from gsync.errors import Denied, Invalid, NotFound
from gsync.replicas.tables.base import Database
from gsync.sync.repository import Repository
from gsync.urls import DatabaseUrl, parse_database_url


def open_database(repo: Repository, name: str, *, peer: bool = False) -> Database:
    """Return the database `name` of this repository's configuration, not connected yet.

    Raises:
        NotFound: no such database, or no URL for it here.
    """
    config = repo.config.local.databases.get(name)
    url = (config.peer if peer else config.url) if config else None
    if config is None or url is None:
        raise NotFound(
            f"no {'peer of the ' if peer else ''}database {name!r} is configured here",
            hint=f"'gsync db add URL --name {name}' writes where it is"
            if not peer
            else f"set 'peer' of [db.{name}] in .gsync/config.toml",
        )
    file = config.peer_password_file if peer else config.password_file
    password = read_password(Path(expand(file))) if file else None
    if password is None:
        password = repo.config.environment.password(name, peer=peer)
    return open_url(parse_database_url(url), password, repo.root)


def open_url(url: DatabaseUrl, password: str | None, start: Path) -> Database:
    """Return the database at `url`; a relative path begins at `start`."""
    if url.engine == "sqlite":
        from gsync.replicas.sqlite import SqliteDatabase

        return SqliteDatabase(start / url.location)
    from gsync.replicas.postgres import PostgresDatabase

    return PostgresDatabase(url.location, url.password or password)


def read_password(path: Path) -> str:
    """Return the one line that a password file holds.

    Raises:
        NotFound, Denied: there is no such file, or it may not be read.
        Invalid: it holds something else.
    """
    try:
        text = path.read_text().rstrip("\n")
    except FileNotFoundError as error:
        raise NotFound(
            f"the password file {path} does not exist", hint="see [db] in .gsync/config.toml"
        ) from error
    except PermissionError as error:
        raise Denied(f"the password file {path} cannot be read: permission denied") from error
    if not text or "\n" in text:
        raise Invalid(f"the password file {path} does not hold one line")
    return text
