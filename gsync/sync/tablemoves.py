"""Live tables follow a manifest: what has to move, the move, and restoring without one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from gsync.config import TableConfig
from gsync.errors import Conflict, NotFound
from gsync.maps.diff import diff_maps
from gsync.maps.omap import EMPTY_MAP, edit_map
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
from gsync.replicas.tables.base import Applied, Database
from gsync.replicas.tables.scan import join, scan_table
from gsync.store.base import ObjectReader
from gsync.sync.opendb import open_database
from gsync.sync.recorded import (
    collection_name,
    content_loader,
    get_schema,
    recorded_tables,
    tables_of,
)
from gsync.sync.repository import Repository
from gsync.sync.tables import find_mark, make_mark, mark_name
from gsync.views.rows.schema import Schema, continues
from gsync.views.rows.show import show_row


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
                mark = find_mark(repo, database, collection.name) if marked else None
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
            mark_name(collection_name(move.name, table)): make_mark(move.database, *state)
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
            mark = find_mark(repo, live, collection.name)
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
