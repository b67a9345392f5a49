"""Databases of a repository: scanned with the folder, and brought where a manifest says.

What a live table was last known to hold is kept as its **mark**: the root it was scanned at
or brought to, and where that was. A table without a mark, or with one of another address,
has never been compared with HEAD, so its rows say nothing about what was deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gsync.config import TableConfig, Tables, expand, parse_shared
from gsync.errors import Conflict, Denied, Invalid, NotFound
from gsync.maps.diff import diff_maps
from gsync.maps.omap import EMPTY_MAP, edit_map, find_value
from gsync.objects.chunk_list import list_chunks
from gsync.objects.encoding import Reference, decode_trusted, encode
from gsync.objects.model import EMPTY_MAP_BODY, Collection, Manifest
from gsync.objects.oid import Kind, ObjectId
from gsync.replicas.tables.apply import (
    ROWS_SHOWN_MAX,
    RowsChanged,
    TableMove,
    Where,
    apply_tables,
    find_where,
    plan_moves,
)
from gsync.replicas.tables.base import Applied, Database, Session, TablePlan
from gsync.replicas.tables.plan import plan_tables
from gsync.replicas.tables.scan import TableScan, join, scan_table
from gsync.store.base import ObjectReader, ObjectStore
from gsync.sync.compare import files_root
from gsync.sync.comparetables import PREFIX, TableCounts, split_collection
from gsync.sync.repository import Repository, now_us
from gsync.urls import DatabaseUrl, parse_database_url
from gsync.views.files import decode_entry_trusted
from gsync.views.rows.schema import (
    Schema,
    View,
    continues,
    decode_schema,
    decode_view,
    encode_schema,
    encode_view,
)
from gsync.views.rows.show import show_row
from gsync.views.rows.values import LoadContent


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
            " listed first); or leave databases out with --no-databases",
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


def collection_name(database: str, table: str) -> str:
    """Return the name of a table's collection."""
    return f"{PREFIX}{database}/{table}"


# --- Reaching databases --------------------------------------------------------------


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


# --- What is recorded ----------------------------------------------------------------


def get_schema(store: ObjectReader, collection: Collection) -> Schema:
    """Return the schema of a table's collection.

    Raises:
        Invalid: it is no table.
    """
    if collection.schema is None:
        raise Invalid(f"{collection.name} is no table")
    return decode_schema(store.get(Kind.SCHEMA, collection.schema))


def get_view(store: ObjectReader, collection: Collection) -> View:
    """Return the view of a table's collection."""
    if collection.view is None:
        raise Invalid(f"{collection.name} is no table")
    return decode_view(store.get(Kind.VIEW, collection.view))


def content_loader(store: ObjectReader) -> LoadContent:
    """Return what gives the content behind a spilled cell."""

    def load(reference: Reference) -> bytes:
        if reference.kind is Kind.BLOB:
            return store.get(Kind.BLOB, reference.oid)
        chunks = list_chunks(lambda oid: store.get(Kind.CHUNK_LIST, oid), reference)
        return b"".join(store.get(Kind.BLOB, chunk.oid) for chunk in chunks)

    return load


def recorded_tables(manifest: Manifest | None, database: str) -> dict[str, Collection]:
    """Return the collections of one database, by the table's name."""
    found = {}
    for collection in manifest.collections if manifest else ():
        names = split_collection(collection.name)
        if names and names[0] == database:
            found[names[1]] = collection
    return found


def tables_of(repo: Repository, manifest: Manifest | None) -> Mapping[str, Tables]:
    """Return which tables `gsync.toml` names in `manifest`; what is on disk if that is unreadable.

    A pull may bring a table and the setting that names it at once.
    """
    root = files_root(manifest)
    value = find_value(repo.store, root, b"gsync.toml") if root else None
    if value is not None:
        entry = decode_entry_trusted(value)
        if entry.ref is not None and entry.ref.kind is Kind.BLOB:
            try:
                return parse_shared(repo.store.get(Kind.BLOB, entry.ref.oid)).databases
            except Invalid:
                pass
    return repo.config.shared.databases


# --- Marks ---------------------------------------------------------------------------


def _mark_name(collection: str) -> str:
    return f"mark {collection}"


def read_mark(repo: Repository, database: Database, collection: str) -> ObjectId | None:
    """Return the root that the live table was last known at, or None if it never was here."""
    mark = _find_mark(repo, database, collection)
    return mark[0] if mark else None


def _find_mark(
    repo: Repository, database: Database, collection: str
) -> tuple[ObjectId, Schema] | None:
    value = repo.store.get_state(_mark_name(collection))
    if value is None:
        return None
    if len(mark := decode_trusted(value)) != 3:
        return None
    shown, root, schema = mark
    if shown != database.shown or (root != EMPTY_MAP and repo.store.missing([root])):
        return None
    return ObjectId(root), decode_schema(schema)


def make_mark(database: Database, root: ObjectId, schema: Schema) -> bytes:
    """Return the mark of a table of `database` that is at `root`, whose rows follow `schema`."""
    return encode([database.shown, root, encode_schema(schema)])


def last_scanned(repo: Repository) -> dict[str, int | None]:
    """Return when each database was last scanned here, in microseconds, or None."""
    found: dict[str, int | None] = {}
    for name in repo.config.databases:
        value = repo.store.get_state(f"scanned {name}")
        found[name] = decode_trusted(value) if value is not None else None
    return found


# --- Scan ----------------------------------------------------------------------------


def scan_databases(
    repo: Repository,
    parent: Manifest | None,
    progress: Callable[[int], None] | None = None,
    accept: Iterable[str] = (),
) -> ScannedTables:
    """Scan every configured database and write what is new into the store, not flushed.

    Args:
        accept: Tables of which all rows may be gone.

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
        with database.reading() as session:
            for plan in plan_tables(session.tables(), wanted, known):
                collection = collection_name(name, plan.name)
                old = recorded.get(plan.name)
                mark = read_mark(repo, database, collection)
                found, count = record_table(session, plan, collection, old, repo.store, progress)
                if old is not None and mark != old.root and found.root != old.root:
                    raise NotAtHead(
                        collection,
                        "has never been brought to HEAD, and differs from it"
                        if mark is None
                        else "was last brought to another state than HEAD",
                    )
                stop_on_emptied(plan.name, old, found, accept)
                collections.append(found)
                counts.append(count)
                marks[_mark_name(collection)] = make_mark(database, found.root, plan.schema)
        marks[f"scanned {name}"] = encode(now_us())
    return ScannedTables(tuple(collections), tuple(counts), marks)


def record_table(
    session: Session,
    plan: TablePlan,
    name: str,
    old: Collection | None,
    store: ObjectStore,
    progress: Callable[[int], None] | None = None,
) -> tuple[Collection, TableCounts]:
    """Write the map, schema and view of one live table; return its collection and what changed.

    Args:
        old: What was recorded before; under another view it is no base to compare with.
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
    found: TableScan = scan_table(session, plan, base, store, progress)
    counts = TableCounts(
        name, found.count, found.added, found.modified, found.deleted, tuple(notes)
    )
    return Collection(name, found.root, found.count, schema, view), counts


# --- Apply ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DatabaseMove:
    """One database, and where its tables go.

    Attributes:
        name: As the configuration calls it.
        database: Where it is.
        moves: All its recorded tables, by name.
    """

    name: str
    database: Database
    moves: Mapping[str, TableMove]

    @property
    def is_still(self) -> bool:
        """Whether nothing moves."""
        return all(move.base == move.target for move in self.moves.values())


def plan_databases(
    repo: Repository, old: Manifest | None, new: Manifest | None
) -> list[DatabaseMove]:
    """Return what has to be written into the databases to follow a move of HEAD.

    A table that has a mark starts from it; one without starts from the rows of `old` that
    `new` has otherwise, so that only rows which are absent, or equal to either, are let
    through, and one that was deleted does not stay, to be recorded again from here.
    """
    wanted = tables_of(repo, new)
    found = []
    for name in sorted(repo.config.local.databases.keys() & wanted.keys()):
        recorded = recorded_tables(new, name)
        before = recorded_tables(old, name)
        database = open_database(repo, name)
        moves = {}
        for table, config in wanted[name].items():
            if table in recorded:
                collection = recorded[table]
                # A mark from before the table was left out says nothing about its rows now.
                marked = table in before
                mark = _find_mark(repo, database, collection.name) if marked else None
                if mark is not None:
                    _check_view(before.get(table), collection)
                    _check_slots(repo.store, mark[1], collection)
                start = mark[0] if mark else _start(repo, before.get(table), collection)
                moves[table] = _guarded(repo, name, _move(repo.store, config, start, collection))
        if moves:
            found.append(DatabaseMove(name, database, moves))
    return found


def _start(repo: Repository, old: Collection | None, new: Collection) -> ObjectId:
    """Return the root that a table without a mark starts from."""
    empty = _present(repo, EMPTY_MAP)
    if old is None or old.view != new.view:
        return empty
    _check_slots(repo.store, get_schema(repo.store, old), new)
    changes = diff_maps(repo.store, old.root, new.root)
    return edit_map(repo.store, empty, ((c.key, c.old) for c in changes if c.old is not None))


def _check_view(old: Collection | None, new: Collection) -> None:
    """Refuse to diff maps of one table that were looked at differently."""
    if old is not None and old.view != new.view:
        raise Conflict(
            f"{new.name} is recorded with other columns left out than it was here",
            hint="make 'gsync.toml' agree on both sides and snapshot, then pull; or pull with"
            " --no-databases and 'gsync db restore HEAD'",
        )


def _check_slots(store: ObjectReader, old: Schema, new: Collection) -> None:
    """Refuse to diff maps of one table in which equal bytes are other values."""
    if not _are_comparable(old, get_schema(store, new)):
        raise Conflict(
            f"{new.name} was recorded afresh, with another key or columns in other places",
            hint="pull with --no-databases; 'gsync db restore HEAD' then lists rows that differ",
        )


def _are_comparable(one: Schema, other: Schema) -> bool:
    return continues(one, other) or continues(other, one)


def _move(
    store: ObjectReader, config: TableConfig, base: ObjectId, target: Collection
) -> TableMove:
    return TableMove(config, base, target.root, get_schema(store, target))


def _guarded(repo: Repository, database: str, move: TableMove) -> TableMove:
    """Add what the `gsync.toml` on disk protects: the one that a manifest brings cannot undo it."""
    here = repo.config.shared.databases.get(database, {}).get(move.schema.table)
    if here is None:
        return replace(move, is_new=True)
    config = move.config
    left = (c.name for c in move.schema.live if c.name in here.protected)
    protected = tuple(dict.fromkeys((*config.protected, *left)))
    keep_rows = config.keep_rows or here.keep_rows
    return replace(move, config=replace(config, protected=protected, keep_rows=keep_rows))


def apply_databases(
    repo: Repository,
    moves: Sequence[DatabaseMove],
    *,
    accept: Iterable[str] = (),
    dry_run: bool = False,
) -> dict[str, Applied]:
    """Write all databases, each in its transaction, and mark their tables.

    With several, each is tried and rolled back first, so that one that refuses stops all.
    """
    load = content_loader(repo.store)
    accept = list(accept)
    moving = [move for move in moves if not move.is_still]
    if len(moving) > 1 and not dry_run:
        for move in moving:
            apply_tables(move.database, move.moves, repo.store, load, accept=accept, dry_run=True)
    done = {}
    for move in moves:
        done[move.name] = apply_tables(
            move.database, move.moves, repo.store, load, accept=accept, dry_run=dry_run
        )
        if not dry_run:
            mark_tables(repo, move)
    return done


def mark_tables(
    repo: Repository,
    move: DatabaseMove,
    states: Mapping[str, tuple[ObjectId, Schema]] | None = None,
) -> None:
    """Remember that the tables of `move` are derived from their targets, or from `states`."""
    if states is None:
        states = {table: (inner.target, inner.schema) for table, inner in move.moves.items()}
    repo.store.set_states(
        {
            _mark_name(collection_name(move.name, table)): make_mark(move.database, *state)
            for table, state in states.items()
        }
    )


def find_database(repo: Repository, move: DatabaseMove) -> Where:
    """Say whether a database is where `move` started, or where it leads."""
    return find_where(move.database, move.moves, repo.store)


def restore_tables(
    repo: Repository,
    manifest: Manifest,
    database: str | None,
    tables: Sequence[str],
    *,
    force: bool = False,
    accept: Iterable[str] = (),
    dry_run: bool = False,
) -> dict[str, Applied]:
    """Make live tables as they are in `manifest`; HEAD stays. Rows that no state knows stay too.

    Rows that were deleted and not recorded come back, as files do.

    Args:
        database: Only this one; all that are configured here if None.
        tables: Only these; all if empty.
        force: Overwrite unsaved changes, and remove rows that the manifest has not.

    Raises:
        NotFound: a table is not recorded there.
        RowsChanged: unsaved changes would be overwritten.
    """
    head = repo.manifest(repo.head())
    names = [database] if database else sorted(repo.config.local.databases)
    done: dict[str, Applied] = {}
    seen: set[str] = set()
    for name in names:
        live = open_database(repo, name)
        recorded = recorded_tables(manifest, name)
        wanted = tables_of(repo, manifest).get(name) or repo.config.shared.databases.get(name, {})
        moves = {}
        for table, config in wanted.items():
            if table not in recorded:
                continue
            collection = recorded[table]
            mark = _find_mark(repo, live, collection.name)
            base = EMPTY_MAP
            if mark and _are_comparable(mark[1], get_schema(repo.store, collection)):
                base = mark[0]
            if tables and table not in tables:
                # Not asked for: stays as it is, whatever that is, but is looked at.
                base_move = _move(repo.store, config, base, collection)
                moves[table] = TableMove(config, base, base, base_move.schema)
                continue
            seen.add(table)
            moves[table] = _guarded(repo, name, _move(repo.store, config, base, collection))
        if not moves:
            continue
        asked = [table for table in moves if not tables or table in tables]
        from_live = _from_live(repo, live, moves, asked)
        if not force:
            _keep_unsaved(repo, live, asked, moves, from_live)
        done[name] = apply_tables(
            live, from_live, repo.store, content_loader(repo.store), accept=accept, dry_run=dry_run
        )
        if not dry_run:
            heads = recorded_tables(head, name)
            states = {
                t: (heads[t].root, get_schema(repo.store, heads[t]))
                if t in heads
                else (moves[t].target, moves[t].schema)
                for t in asked
            }
            # Against HEAD, what came back is a change like any other.
            mark_tables(repo, DatabaseMove(name, live, moves), states)
    for table in tables:
        if table not in seen:
            raise NotFound(
                f"no table {table} is recorded there for a database that is configured here",
                hint="see 'gsync collection list' and [db] in .gsync/config.toml",
            )
    return done


def _from_live(
    repo: Repository, database: Database, moves: Mapping[str, TableMove], asked: Sequence[str]
) -> dict[str, TableMove]:
    """Return the moves from what is live now; tables that are not asked for stay as they are."""
    found = dict(moves)
    with database.reading() as session:
        for plan in plan_moves(session, moves):
            move = moves[plan.name]
            scanned = scan_table(session, plan, _present(repo, move.base), repo.store)
            target = move.target if plan.name in asked else scanned.root
            found[plan.name] = replace(move, base=scanned.root, target=target)
    return found


def _keep_unsaved(
    repo: Repository,
    database: Database,
    asked: Sequence[str],
    moves: Mapping[str, TableMove],
    from_live: dict[str, TableMove],
) -> None:
    """Let moves from what is live keep the rows that neither their base nor their target knows.

    Raises:
        RowsChanged: rows were changed since the base, and the target has them otherwise.
    """
    lost: list[str] = []
    count = 0
    for table in asked:
        base, move = moves[table].base, from_live[table]
        alone: list[tuple[bytes, bytes | None]] = []
        unsaved = ((c.key, c) for c in diff_maps(repo.store, base, move.base))
        wanted = ((c.key, c) for c in diff_maps(repo.store, move.base, move.target))
        for key, ours, theirs in join(unsaved, wanted):
            if ours is None or theirs is None or ours.new is None:
                continue
            if ours.old is None and theirs.new is None:
                alone.append((key, ours.new))
                continue
            count += 1
            if len(lost) < ROWS_SHOWN_MAX:
                lost.append(show_row(table, key))
        if alone:
            target = edit_map(repo.store, move.target, alone)
            from_live[table] = replace(move, target=target)
    if lost:
        raise RowsChanged(lost, count, database.shown, hint=_RESTORE_HINT)


_RESTORE_HINT = "save them with 'gsync snapshot', or overwrite them with --force"


def _present(repo: Repository, root: ObjectId) -> ObjectId:
    if root == EMPTY_MAP:
        repo.store.put(Kind.NODE, EMPTY_MAP_BODY)
    return root


# --- Reading what is recorded --------------------------------------------------------


def find_table(manifest: Manifest, name: str) -> Collection:
    """Return the table `name`: `users`, `main/users` or `db/main/users`.

    Raises:
        NotFound: no table is called so; or several are, in different databases.
    """
    tables = [c for c in manifest.collections if split_collection(c.name)]
    found = [
        c
        for c in tables
        if name in (c.name, c.name.removeprefix(PREFIX), (split_collection(c.name) or ("", ""))[1])
    ]
    if len(found) == 1:
        return found[0]
    known = ", ".join(c.name.removeprefix(PREFIX) for c in (found or tables)) or "none"
    raise NotFound(
        f"{'several tables are' if found else 'no table is'} called {name!r}",
        hint=f"recorded there: {known}",
    )
