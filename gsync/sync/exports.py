"""Users and their contexts as one JSON document, as the older system wrote it (seed-names, 3)."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from gsync.config import TableConfig
from gsync.errors import Invalid
from gsync.frozen import as_dict, frozen
from gsync.replicas.sqlite.connect import SqliteDatabase
from gsync.replicas.tables.base import Database
from gsync.replicas.tables.plan import plan_tables
from gsync.store.memory import MemoryStore
from gsync.store.sqlite import SqliteStore
from gsync.sync.comparetables import read_row
from gsync.sync.pairs import PairResult, sync_pair
from gsync.sync.presets import find_preset
from gsync.sync.recorded import content_loader
from gsync.views.rows.keys import decode_key
from gsync.views.rows.texts import json_cell, parse_cell
from gsync.views.rows.values import load_cell, spill_to

DOCUMENT_BYTES_MAX = 1 << 30
"""The older system held such a document in memory, and so do we."""

T = TypeVar("T")


@frozen
class UserExport:
    """A user. Times are RFC 3339."""

    id: str
    name: str
    email: str
    full_name: str | None = None
    display_name: str | None = None
    status: str = "active"
    email_verified: bool | None = False
    roles: tuple[str, ...] = ("user",)
    is_bot: bool | None = False
    is_scanner: bool | None = False
    avatar_url: str | None = None
    created_at: str | None = None
    updated_at: str | None = None


@frozen
class ContextExport:
    """A context and its owner. Times are RFC 3339; a session names nothing elsewhere."""

    context_id: str
    user_id: str
    name: str
    session_id: str | None = None
    kind: str = "user"
    created_at: str | None = None
    updated_at: str | None = None


@frozen
class DatabaseExport:
    """All users and contexts of a database at one moment."""

    users: tuple[UserExport, ...]
    contexts: tuple[ContextExport, ...]
    timestamp: str

    def to_json(self) -> dict[str, Any]:
        """Return the document."""
        return {
            "users": [as_dict(user) for user in self.users],
            "contexts": [as_dict(context) for context in self.contexts],
            "timestamp": self.timestamp,
        }

    @classmethod
    def from_json(cls, document: object) -> DatabaseExport:
        """Return what a document says; keys that are not known are passed over.

        Raises:
            Invalid: it is none; the message says where.
        """
        if not isinstance(document, dict):
            raise Invalid("not an export of a database: expected an object of users and contexts")
        return cls(
            tuple(_read_all(document, "users", UserExport, _USER_TYPES)),
            tuple(_read_all(document, "contexts", ContextExport, _CONTEXT_TYPES)),
            str(document.get("timestamp", "")),
        )


@frozen
class ImportResult:
    """What an import did, by the database's own answers.

    Attributes:
        created, updated: Rows written.
        skipped: Rows of the document that the database had already.
    """

    created: int
    updated: int
    skipped: int


_TEXT = ("text", "TEXT")
_FLAG = ("bool", "BOOLEAN")
_TIME = ("timestamptz", "TIMESTAMPTZ")
# The logical and the declared type of each column.
_USER_TYPES = {
    **dict.fromkeys(("id", "name", "email", "full_name", "display_name", "status"), _TEXT),
    **dict.fromkeys(("email_verified", "is_bot", "is_scanner"), _FLAG),
    "roles": ("text[]", "TEXT_ARRAY TEXT"),
    "avatar_url": _TEXT,
    **dict.fromkeys(("created_at", "updated_at"), _TIME),
}
_CONTEXT_TYPES = {
    **dict.fromkeys(("context_id", "user_id", "session_id", "name", "kind"), _TEXT),
    **dict.fromkeys(("created_at", "updated_at"), _TIME),
}
# Of these columns, those that a table has may not be NULL. An owner is none of a user's.
_NEEDED = ("id", "context_id", "user_id", "name", "email")
_TABLES: Mapping[str, tuple[str, type, Mapping[str, tuple[str, str]]]] = {
    "users": ("id", UserExport, _USER_TYPES),
    "user_contexts": ("context_id", ContextExport, _CONTEXT_TYPES),
}


def _read_all(
    document: Mapping[str, Any], name: str, make: Callable[..., T], types: Mapping[str, Any]
) -> Iterator[T]:
    items = document.get(name)
    if not isinstance(items, list):
        raise Invalid(f"not an export of a database: {name!r} is no list")
    for at, item in enumerate(items):
        where = f"{name}[{at}]"
        if not isinstance(item, dict):
            raise Invalid(f"{where}: expected an object, found {_shown(item)}")
        known = {key: item[key] for key in types if key in item}
        missing = [key for key in _NEEDED if key in types and known.get(key) is None]
        if missing:
            raise Invalid(f"{where}: {', '.join(missing)} is missing")
        for key, value in known.items():
            known[key] = _checked(value, types[key][0], f"{where}.{key}")
        yield make(**known)


def _checked(value: Any, type_: str, where: str) -> Any:
    if value is None:
        return None
    if type_ == "text[]":
        if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
            return tuple(_checked(one, "text", where) for one in value)
        raise Invalid(f"{where}: expected a list of texts, found {_shown(value)}")
    if not isinstance(value, bool if type_ == "bool" else str):
        expected = {"bool": "true or false", "timestamptz": "a time (RFC 3339)"}.get(type_, "text")
        raise Invalid(f"{where}: expected {expected}, found {_shown(value)}")
    if isinstance(value, str) and ("\0" in value or not _is_utf8(value)):
        raise Invalid(f"{where}: a text that no database holds")
    if type_ == "timestamptz" and isinstance(value, str):
        try:
            parse_cell(type_, value)
        except Invalid as error:
            raise Invalid(f"{where}: {error.message}", hint=error.hint) from error
    return value


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a pair of surrogates
        return False
    return True


def _shown(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)[:60]


def read_export(path: Path) -> DatabaseExport:
    """Return the document in a file.

    Raises:
        Invalid: it is none, or larger than DOCUMENT_BYTES_MAX.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(DOCUMENT_BYTES_MAX + 1)
    if len(data) > DOCUMENT_BYTES_MAX:
        raise Invalid(f"{path}: more than {DOCUMENT_BYTES_MAX} bytes")
    try:
        return DatabaseExport.from_json(json.loads(data))
    except (ValueError, RecursionError) as error:
        if isinstance(error, Invalid):
            error.message = f"{path}: {error.message}"
            raise
        raise Invalid(f"{path} is no JSON document: {error}") from error


# --- From a database ------------------------------------------------------------------


def export_database(database: Database) -> DatabaseExport:
    """Return the users and contexts of a database, from one snapshot, in order of their ids.

    Raises:
        Refused: the tables are not there, or are not of that schema.
        Unavailable: the database cannot be reached.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    wanted = {table: TableConfig(key=(key,)) for table, (key, _, _) in _TABLES.items()}
    store = MemoryStore()  # for cells that are too long for a row
    load, spill = content_loader(store), spill_to(store.put)
    with database.reading() as session:
        for plan in plan_tables(session.tables(), wanted, {}):
            types = plan.schema.types()
            found[plan.name] = []
            for key, row in session.rows(plan, spill):
                cells = dict(zip(types, decode_key(key), strict=False)) | read_row(plan.schema, row)
                found[plan.name].append(
                    {
                        name: json_cell(types[name], load_cell(types[name], cell, load))
                        for name, cell in cells.items()
                    }
                )
    made = {
        table: tuple(
            make(**{name: row[name] for name in types if name in row}) for row in found[table]
        )
        for table, (_, make, types) in _TABLES.items()
    }
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return DatabaseExport(made["users"], made["user_contexts"], now)


# --- Into a database ------------------------------------------------------------------


def import_database(
    export: DatabaseExport,
    database: Database,
    author: str,
    *,
    accept: Iterable[str] = (),
    force: bool = False,
    dry_run: bool = False,
) -> ImportResult:
    """Bring the rows of a document into a database; all or nothing.

    Nothing is deleted. Columns that stay where they are (sessions, `updated_at`) are not taken.

    Args:
        author: Who does it.
        accept: What is protected and may be touched (12-databases, rule 4.3).
        force: Take the document's row where the database has another; else that is a conflict.
        dry_run: Do all of it, and roll back.

    Raises: as `gsync.sync.pairs.sync_pair`.
    """
    with TemporaryDirectory(prefix="gsync-") as folder:
        path = Path(folder) / "export.sqlite"
        _fill(path, export)
        with SqliteStore.create(Path(folder) / "store.sqlite") as store:
            done = sync_pair(
                _Throwaway(store, author),
                SqliteDatabase(path),
                database,
                {
                    table: preset.config
                    for table, preset in find_preset("systemprompt", [{}]).items()
                },
                accept=accept,
                force=force,
                dry_run=dry_run,
            )
    return _result(done)


class _Throwaway:
    """A place that keeps nothing of the pair: the next document is another one."""

    def __init__(self, store: SqliteStore, author: str) -> None:
        self.store = store
        self._author = author

    def author(self) -> str:
        return self._author

    def note(self, command: str, kept: str) -> dict[str, bytes | None]:
        return {}


def _result(done: PairResult) -> ImportResult:
    created = sum(counts.inserted for counts in done.tables)
    updated = sum(counts.updated for counts in done.tables)
    return ImportResult(created, updated, sum(counts.unchanged for counts in done.tables))


def _fill(path: Path, export: DatabaseExport) -> None:
    with closing(sqlite3.connect(path)) as db:
        rows: Mapping[str, Sequence[UserExport | ContextExport]] = {
            "users": export.users,
            "user_contexts": export.contexts,
        }
        for table, (key, _, types) in _TABLES.items():
            columns = [
                f"{name} {declared}{' PRIMARY KEY NOT NULL' if name == key else ''}"
                for name, (_, declared) in types.items()
            ]
            db.execute(f"CREATE TABLE {table} ({', '.join(columns)})")
            marks = ", ".join("?" * len(types))
            seen = set()
            for row in rows[table]:
                cells = as_dict(row)
                if cells[key] in seen:
                    raise Invalid(f"{table}: {key} {cells[key]!r} is there twice")
                seen.add(cells[key])
                db.execute(
                    f"INSERT INTO {table} VALUES ({marks})",
                    [_native(cells[name], type_) for name, (type_, _) in types.items()],
                )
        db.commit()


def _native(value: Any, type_: str) -> Any:
    return json.dumps(value) if type_ == "text[]" and value is not None else value
