"""Changes to both configuration files: whole or not at all, with their comments kept (09-config).

What is written is read again first, so that no command leaves a file that the next refuses.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gsync.config import (
    LOCAL_FILE,
    LOCAL_TEMPLATE,
    SHARED_FILE,
    SHARED_TEMPLATE,
    DatabaseConfig,
    NoRemote,
    Remote,
    parse_local,
    parse_shared,
    read_config_file,
)
from gsync.errors import Conflict
from gsync.urls import check_database_name, check_remote_name


def write_templates(root: Path) -> None:
    """Write both files, commented, where they are absent; `.gsync` is there already."""
    if not os.path.lexists(root / SHARED_FILE):
        write_file(root / SHARED_FILE, SHARED_TEMPLATE.encode(), mode=0o644)
    if not os.path.lexists(root / ".gsync" / LOCAL_FILE):
        write_file(root / ".gsync" / LOCAL_FILE, LOCAL_TEMPLATE.encode(), mode=0o600)


def add_remote(workdir: Path, name: str, remote: Remote) -> None:
    """Write `remote` into the file in `workdir`, whose comments stay; the caller holds the lock.

    Raises:
        Conflict: another remote is called so.
        Invalid: the name or the URL is not allowed.
    """
    check_remote_name(name)
    remote.location()

    def add(document: Any) -> None:
        import tomlkit

        remotes = document.setdefault("remotes", tomlkit.table(is_super_table=True))
        if name in remotes:
            raise Conflict(
                f"a remote is called {name!r} already: {remotes[name].get('url')}",
                hint=f"remove it with 'gsync remote remove {name}', or choose another name",
            )
        table = tomlkit.table()
        table["url"] = remote.url
        if remote.token_file is not None:
            table["token_file"] = remote.token_file
        if remote.insecure_http:
            table["insecure_http"] = True
        if remote.ca_file is not None:
            table["ca_file"] = remote.ca_file
        remotes[name] = table

    _edit(workdir / LOCAL_FILE, add)


def remove_remote(workdir: Path, name: str) -> None:
    """Take the remote `name` out of the file in `workdir`; the caller holds the lock.

    Raises:
        NoRemote: none is called so.
    """

    def remove(document: Any) -> None:
        remotes = document.get("remotes", {})
        if name not in remotes:
            raise NoRemote(name, remotes)
        del remotes[name]
        if not remotes:
            del document["remotes"]

    _edit(workdir / LOCAL_FILE, remove)


def add_database(workdir: Path, name: str, database: DatabaseConfig) -> None:
    """Write `[db.NAME]` into the file in `workdir`; the caller holds the lock.

    Raises:
        Conflict: another database is called so.
    """
    check_database_name(name)

    def add(document: Any) -> None:
        import tomlkit

        databases = document.setdefault("db", tomlkit.table(is_super_table=True))
        if name in databases and databases[name].get("url") != database.url:
            raise Conflict(
                f"a database is called {name!r} already: {databases[name].get('url')}",
                hint="choose another name with --name",
            )
        table = databases.setdefault(name, tomlkit.table())
        table["url"] = database.url
        for key in ("password_file", "peer", "peer_password_file"):
            value = getattr(database, key)
            if value is not None:
                table[key] = value

    _edit(workdir / LOCAL_FILE, add)


def append_shared(root: Path, text: str) -> None:
    """Append `text`, whole tables with their comments, to `gsync.toml`; the rest stays as it is.

    Raises:
        InvalidConfig: the file would not be one afterwards.
    """
    path = root / SHARED_FILE
    data = read_config_file(path, SHARED_FILE) or SHARED_TEMPLATE.encode()
    if not data.endswith(b"\n"):
        data += b"\n"
    data += b"\n" + text.encode()
    parse_shared(data)
    write_file(path, data, mode=stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o644)


def _edit(path: Path, change: Callable[[Any], None]) -> None:
    shown = f".gsync/{LOCAL_FILE}"
    data = read_config_file(path, shown)
    parse_local(data, shown)
    import tomlkit

    document = tomlkit.parse(data.decode())
    change(document)
    text = tomlkit.dumps(document).encode()
    parse_local(text, shown)  # what we write, we can read
    write_file(path, text, mode=0o600)


def write_file(path: Path, data: bytes, *, mode: int) -> None:
    """Replace `path` by `data`, whole or not at all, durably, with exactly that mode."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, flags, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
