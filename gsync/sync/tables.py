"""Live tables -> recorded ones, and the mark that each is remembered by.

What a live table was last known to hold is kept as its **mark**: the root it was scanned at
or brought to, and where that was. A table without a mark, or with one of another address,
has never been compared with HEAD, so its rows say nothing about what was deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from gsync.errors import Conflict
from gsync.frozen import replace
from gsync.maps.diff import diff_maps
from gsync.maps.omap import EMPTY_MAP
from gsync.objects.encoding import decode_trusted, encode
from gsync.objects.model import EMPTY_MAP_BODY, Collection, Manifest
from gsync.objects.oid import Kind, ObjectId
from gsync.replicas.tables.apply import ROWS_SHOWN_MAX
from gsync.replicas.tables.base import Database, Session, TablePlan
from gsync.replicas.tables.plan import plan_tables
from gsync.replicas.tables.scan import Since, TableScan, scan_table
from gsync.store.base import ObjectStore
from gsync.sync.comparetables import TableCounts
from gsync.sync.opendb import open_database
from gsync.sync.operations import reading_state
from gsync.sync.recorded import (
    collection_name,
    get_schema,
    recorded_tables,
)
from gsync.sync.repository import Repository, now_us
from gsync.sync.seen import encode_seen, find_seen, see, seen_name
from gsync.views.rows.schema import (
    Schema,
    decode_schema,
    encode_schema,
    encode_view,
)
from gsync.views.rows.show import show_row

_KEYS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class ScannedTables:
    """What a scan of all databases found.

    Attributes:
        collections: One for each recorded table.
        counts: The same, as changes.
        marks: What the tables are to be marked with when the manifest is made.
    """

    collections: tuple[Collection, ...] = ()
    counts: tuple[TableCounts, ...] = ()
    marks: Mapping[str, bytes | None] = field(default_factory=dict)


class NotAtHead(Conflict):
    """A live table is not derived from HEAD, so what it lacks was not deleted there."""

    def __init__(self, collection: str, why: str) -> None:
        super().__init__(
            f"{collection} {why}",
            hint="bring the database to HEAD with 'gsync db restore HEAD' (rows that differ are"
            f" listed first); if its rows are the ones to keep, as after a move of the database to"
            f" another server, say --accept {collection.rpartition('/')[2]}; or leave databases"
            " out with --no-databases",
            collection=collection,
        )


class Emptied(Conflict):
    """A table has lost all its rows; a database that was made anew looks just so."""

    def __init__(self, table: str, rows: int) -> None:
        super().__init__(
            f"table {table} is empty, and {rows} row(s) were recorded of it before",
            hint=f"if they were deleted on purpose, say --accept {table}; if the database was made"
            " anew, 'gsync db restore HEAD --force' fills it",
            table=table,
            rows=rows,
        )


def stop_on_emptied(
    table: str, old: Collection | None, new: Collection, accept: Iterable[str]
) -> None:
    """Raise Emptied if all rows of a table are gone and nobody said that they may be."""
    if old is not None and old.count and not new.count and table not in accept:
        raise Emptied(table, old.count)


class LeftScope(Conflict):
    """Rows are no longer in the scope of their table, and are there still: not deleted."""

    def __init__(self, table: str, rows: list[str], count: int) -> None:
        more = f" and {count - len(rows)} more" if count > len(rows) else ""
        super().__init__(
            f"{count} row(s) of {table} have left its scope and are there still:"
            f" {', '.join(rows)}{more}",
            hint=f"to record them as gone, so that a pull deletes them elsewhere, say --accept"
            f" {table}",
            table=table,
            rows=rows,
            count=count,
        )


def stop_on_left(
    session: Session,
    plan: TablePlan,
    old: Collection | None,
    new: Collection,
    store: ObjectStore,
    accept: Iterable[str],
) -> None:
    """Raise LeftScope if rows that would be recorded as deleted only left the table's scope."""
    same_view = old is not None and old.view == new.view
    if plan.view.scope is None or not same_view or plan.name in accept:
        return
    gone = (c.key for c in diff_maps(store, old.root if old else None, new.root) if c.new is None)
    rows: list[str] = []
    count = 0
    while keys := list(islice(gone, _KEYS_AT_ONCE)):
        for key in session.present(plan, keys):
            count += 1
            if len(rows) < ROWS_SHOWN_MAX:
                rows.append(show_row(plan.name, key))
    if count:
        raise LeftScope(plan.name, rows, count)


# --- Marks ---------------------------------------------------------------------------


def mark_name(collection: str) -> str:
    """Return the state that keeps the mark of a table."""
    return f"mark {collection}"


def read_mark(repo: Repository, database: Database, collection: str) -> ObjectId | None:
    """Return the root that the live table was last known at, or None if it never was here."""
    mark = find_mark(repo, database, collection)
    return mark[0] if mark else None


def find_mark(
    repo: Repository, database: Database, collection: str
) -> tuple[ObjectId, Schema] | None:
    """Return root and schema of a live table's mark, or None if it has none that holds here."""
    value = repo.store.get_state(mark_name(collection))
    if value is None:
        return None
    with reading_state("a table's mark"):
        if len(mark := decode_trusted(value)) != 4:
            return None
        shown, root, schema, identity = mark
    if (shown, identity) != (database.shown, database.identity()) or (
        root != EMPTY_MAP and repo.store.missing([root])
    ):
        return None
    return ObjectId(root), decode_schema(schema)


def make_mark(database: Database, root: ObjectId, schema: Schema) -> bytes:
    """Return the mark of a table of `database` that is at `root`, whose rows follow `schema`."""
    return encode([database.shown, root, encode_schema(schema), database.identity()])


def last_scanned(repo: Repository) -> dict[str, int | None]:
    """Return when each database was last scanned here, in microseconds, or None."""
    found: dict[str, int | None] = {}
    for name in repo.config.databases:
        value = repo.store.get_state(f"scanned {name}")
        with reading_state("when databases were scanned"):
            found[name] = decode_trusted(value) if value is not None else None
    return found


# --- Scan ----------------------------------------------------------------------------


def scan_databases(
    repo: Repository,
    parent: Manifest | None,
    progress: Callable[[int], None] | None = None,
    accept: Iterable[str] = (),
    *,
    full: bool = False,
) -> ScannedTables:
    """Scan every configured database and write what is new into the store, not flushed.

    Args:
        accept: Tables that are recorded as they are: without a mark, or with all rows gone.
        full: Read also the tables that are known to be as they were.

    Raises:
        NotAtHead: a live table was never brought to HEAD.
        Emptied: a table has lost all its rows.
        Refused: a table is not what `gsync.toml` says.
        Unavailable: a database cannot be reached.
    """
    collections: list[Collection] = []
    counts: list[TableCounts] = []
    marks: dict[str, bytes | None] = {}
    for name in repo.config.databases:
        wanted = repo.config.shared.databases[name]
        if not wanted:
            continue
        database = open_database(repo, name)
        recorded = recorded_tables(parent, name)
        known = {t: get_schema(repo.store, c) for t, c in recorded.items() if t in wanted}
        with database.reading(fingerprints=True) as session:
            for plan in plan_tables(session.tables(), wanted, known):
                collection = collection_name(name, plan.name)
                old = recorded.get(plan.name)
                mark = read_mark(repo, database, collection)
                fingerprint = session.fingerprint(plan)
                seen = find_seen(repo.store, collection)
                now = old and fingerprint and see(database, plan, old, fingerprint, now_us())
                if not (old and now and seen) or full or not seen.holds_for(now, old):
                    seen = None
                if old and now and seen and seen.shows_unchanged(now, old):
                    found, count = old, TableCounts(collection, old.count, 0, 0, 0)
                else:
                    since = None
                    if old and now and seen:
                        since = seen.find_since(session, plan, now, old, repo.store)
                    found, count = record_table(
                        session, plan, collection, old, repo.store, progress, since
                    )
                    seen = seen if since is not None else None
                if fingerprint is not None:
                    read = see(database, plan, found, fingerprint, now_us())
                    if seen is not None:
                        read = replace(read, read_us=seen.read_us, uses=seen.uses + 1)
                    seen = read
                marks[seen_name(collection)] = encode_seen(seen) if seen else None
                at_head = old is None or old.root in (mark, found.root)
                if not at_head and plan.name not in accept:
                    raise NotAtHead(
                        collection,
                        "has never been brought to HEAD in this database, and differs from it"
                        if mark is None
                        else "was last brought to another state than HEAD",
                    )
                stop_on_emptied(plan.name, old, found, accept)
                stop_on_left(session, plan, old, found, repo.store, accept)
                collections.append(found)
                counts.append(count)
                marks[mark_name(collection)] = make_mark(database, found.root, plan.schema)
        marks[f"scanned {name}"] = encode(now_us())
    return ScannedTables(tuple(collections), tuple(counts), marks)


def record_table(
    session: Session,
    plan: TablePlan,
    name: str,
    old: Collection | None,
    store: ObjectStore,
    progress: Callable[[int], None] | None = None,
    since: Since | None = None,
) -> tuple[Collection, TableCounts]:
    """Write the map, schema and view of one live table; return its collection and what changed.

    Args:
        old: What was recorded before; under another view it is no base to compare with.
        since: What is new since `old`; else all is read.
    """
    schema = store.put(Kind.SCHEMA, encode_schema(plan.schema))
    view = store.put(Kind.VIEW, encode_view(plan.view))
    notes = []
    base = EMPTY_MAP
    if old is not None and old.view == view:
        base = old.root
        if old.schema != schema:
            notes.append("the schema changed")
    elif old is not None:
        notes.append("columns are left out that were not, or the reverse: recorded afresh")
    if base == EMPTY_MAP:
        store.put(Kind.NODE, EMPTY_MAP_BODY)
    found: TableScan = scan_table(session, plan, base, store, progress, since)
    counts = TableCounts(
        name, found.count, found.added, found.modified, found.deleted, tuple(notes)
    )
    return Collection(name, found.root, found.count, schema, view), counts
