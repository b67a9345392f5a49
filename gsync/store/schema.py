"""The tables of a store, and how an older file becomes a newer one (05-store, section 2).

Imported only when a store is created or migrated: sqlite-utils takes longer to import than
most commands take to run.
"""

from __future__ import annotations

import contextlib
import glob
import os
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path

from sqlite_utils import Database

from gsync import __version__
from gsync.errors import Conflict
from gsync.oserrors import from_os_error
from gsync.store.file import APPLICATION_ID, VERSION
from gsync.store.lock import FileLock
from gsync.store.sql import translated

PAGE_BYTES = 16_384

Migration = Callable[[Database], None]

MIGRATIONS: Mapping[int, Migration] = {}
"""By the version that each starts from; every one leads to the next version."""


class StoreExists(Conflict):
    """There is something at the path where a store was to be created."""


def create_file(path: Path) -> None:
    """Make an empty store at `path`, complete or not at all.

    Raises:
        StoreExists: something has that name; it is left as it is.
    """
    lock = FileLock(path.with_name(path.name + ".lock"))
    with contextlib.closing(lock), lock.held("creating the store"):
        _create_locked(path, path.with_name(path.name + ".new"))


def _create_locked(path: Path, draft: Path) -> None:
    # What is left of one who was killed, with its journal.
    for left in path.parent.glob(f"{glob.escape(draft.name)}*"):
        left.unlink()
    try:
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        db = sqlite3.connect(draft, isolation_level=None)
        try:
            _fill(db)
        finally:
            db.close()
        os.link(draft, path)
        _fsync_directory(path.parent)
    except FileExistsError as error:
        raise StoreExists(f"{path} exists already") from error
    except OSError as error:
        raise from_os_error(error) from error
    except sqlite3.Error as error:
        raise translated(error, path) from error
    finally:
        draft.unlink(missing_ok=True)


def _fsync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def migrate_file(path: Path, to: int) -> Path | None:
    """Bring the store at `path` to version `to`; the caller holds the lock.

    All steps are one transaction: they happen, or the file stays as it was.

    Returns:
        Where the copy is that was made before, or None when nothing had to be done.
    """
    db = sqlite3.connect(path, isolation_level=None)
    try:
        found: int = db.execute("PRAGMA user_version").fetchone()[0]
        return _migrate(db, path, found, to) if found < to else None  # another was first
    except OSError as error:
        raise from_os_error(error) from error
    except sqlite3.Error as error:
        raise translated(error, path) from error
    finally:
        db.close()


def _migrate(db: sqlite3.Connection, path: Path, found: int, to: int) -> Path:
    copy = path.with_name(f"{path.name}.v{found}.bak")
    draft = copy.with_name(copy.name + ".new")
    draft.unlink(missing_ok=True)
    # Not a copy of the file: opening and closing it would drop the locks of this process
    # on it, and would miss what is still in the WAL.
    db.execute("VACUUM INTO ?", (str(draft),))
    os.replace(draft, copy)
    db.execute("BEGIN EXCLUSIVE")
    try:
        for version in range(found, to):
            MIGRATIONS[version](Database(db))
        _mark(db, to)
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise
    return copy


def _fill(db: sqlite3.Connection) -> None:
    for pragma in (
        f"page_size = {PAGE_BYTES}",
        "auto_vacuum = INCREMENTAL",
        "journal_mode = WAL",
        "synchronous = FULL",
    ):
        db.execute(f"PRAGMA {pragma}")
    tables = Database(db)
    _create_tables(tables)
    _create_views(tables)
    _mark(db, VERSION)


def _mark(db: sqlite3.Connection, version: int) -> None:
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {version}")
    db.execute(
        "INSERT OR REPLACE INTO about (name, value) VALUES ('written by gsync', ?)", (__version__,)
    )


def _create_tables(db: Database) -> None:
    db.table("about").create({"name": str, "value": str}, pk="name")
    db.table("counter").create({"name": str, "value": int}, pk="name", not_null={"value"})
    db.table("counter").insert_all(
        {"name": name, "value": 0} for name in ("packs", "collections", "roots", "objects")
    )
    db.table("object").create(
        {"id": int, "oid": bytes, "kind": int, "pack": int, "offset": int, "size": int},
        pk="id",
        not_null={"oid", "kind", "pack", "offset", "size"},
    )
    db.table("object").create_index(["oid"], index_name="object_oid", unique=True)
    db.table("object").create_index(["pack"], index_name="object_pack")
    db.table("pack").create(
        {"id": int, "encoding": int, "base": int, "depth": int, "size": int, "data": bytes},
        pk="id",
        not_null={"encoding", "depth", "size", "data"},
    )
    # Few packs have a base, and only those are in the index.
    db.execute("CREATE INDEX pack_base ON pack (base) WHERE base IS NOT NULL")
    db.table("ref").create({"name": str, "target": bytes}, pk="name", not_null={"target"})
    db.table("ref_log").create(
        {
            "seq": int,
            "entry": bytes,
            "hash": bytes,
            "ref": str,
            "old": bytes,
            "new": bytes,
            "time_us": int,
            "actor": str,
            "why": str,
        },
        pk="seq",
        not_null={"entry", "hash"},
    )
    db.table("lease").create(
        {"session": str, "oid": bytes, "expires_us": int}, pk=("session", "oid")
    )
    # Objects with a row above `floor` may belong to the session, and stay while it lasts.
    db.table("session").create(
        {"session": str, "floor": int, "expires_us": int},
        pk="session",
        not_null={"floor", "expires_us"},
    )
    db.table("session_frame").create(
        {"session": str, "frame": bytes, "time_us": int}, pk=("session", "frame")
    )
    db.table("state").create({"name": str, "value": bytes}, pk="name", not_null={"value"})
    db.table("tracking").create(
        {"remote": str, "ref": str, "target": bytes}, pk=("remote", "ref"), not_null={"target"}
    )
    db.table("remote_log").create(
        {"remote": str, "seq": int, "entry": bytes}, pk=("remote", "seq"), not_null={"entry"}
    )
    db.table("scan_dir").create({"path": bytes, "body": bytes}, pk="path", not_null={"body"})


_KIND_NAME = (
    "CASE o.kind WHEN 1 THEN 'blob' WHEN 2 THEN 'chunk list' WHEN 3 THEN 'node'"
    " WHEN 4 THEN 'manifest' WHEN 5 THEN 'schema' WHEN 6 THEN 'view' ELSE o.kind END"
)
_ENCODING_NAME = "CASE p.encoding WHEN 0 THEN 'raw' WHEN 1 THEN 'zstd' WHEN 2 THEN 'delta' END"


def _readable(column: str) -> str:
    return f"strftime('%Y-%m-%dT%H:%M:%SZ', {column} / 1000000, 'unixepoch')"


def _create_views(db: Database) -> None:
    db.create_view(
        "objects_hex",
        f"SELECT o.id, lower(hex(o.oid)) AS oid, {_KIND_NAME} AS kind, o.size, o.pack,"
        f' o."offset", {_ENCODING_NAME} AS encoding, p.depth'
        " FROM object o LEFT JOIN pack p ON p.id = o.pack",
    )
    db.create_view(
        "packs_readable",
        f"SELECT p.id, {_ENCODING_NAME} AS encoding, lower(hex(b.oid)) AS base, p.depth,"
        " (SELECT count(*) FROM object o WHERE o.pack = p.id) AS objects,"
        " p.size, length(p.data) AS stored"
        " FROM pack p LEFT JOIN object b ON b.id = p.base",
    )
    db.create_view("refs_hex", "SELECT name, lower(hex(target)) AS target FROM ref")
    db.create_view(
        "ref_log_readable",
        f"SELECT seq, {_readable('time_us')} AS time, ref, lower(hex(old)) AS old,"
        " lower(hex(new)) AS new, actor, why, lower(hex(hash)) AS hash FROM ref_log",
    )
    db.create_view(
        "leases_readable",
        f"SELECT session, lower(hex(oid)) AS oid, {_readable('expires_us')} AS expires FROM lease",
    )
    db.create_view("tracking_hex", "SELECT remote, ref, lower(hex(target)) AS target FROM tracking")
