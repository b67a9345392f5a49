"""Live tables follow a manifest: what has to move, the move, and restoring without one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gsync.config import TableConfig
from gsync.errors import Conflict, NotFound
from gsync.frozen import replace
from gsync.maps.diff import diff_maps
from gsync.maps.omap import EMPTY_MAP, count_entries, edit_map
from gsync.objects.model import EMPTY_MAP_BODY, Collection, Manifest, encode_manifest
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
from gsync.sync.comparetables import split_collection
from gsync.sync.opendb import open_database
from gsync.sync.operations import Live, operation_state
from gsync.sync.recorded import (
    collection_name,
    content_loader,
    get_schema,
    recorded_tables,
    tables_of,
)
from gsync.sync.repository import Repository, next_manifest, now_us
from gsync.sync.tables import find_mark, make_mark, mark_name, stop_on_emptied
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
    mark: bool = True,
) -> dict[str, Applied]:
    """Write all databases, each in its transaction, and mark their tables.

    With several, each is tried and rolled back first, so that one that refuses stops all.

    Args:
        mark: Whether the tables are marked; else the caller does it when all is done.
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
        if mark and not dry_run:
            mark_tables(repo, move)
    return done


def mark_tables(repo: Repository, move: DatabaseMove) -> None:
    """Remember that the tables of `move` are derived from their targets."""
    repo.store.set_states(marks_after([move]))


def marks_after(moves: Iterable[DatabaseMove]) -> dict[str, bytes | None]:
    """Return the marks of the tables of `moves`, once they are at their targets."""
    return {
        mark_name(collection_name(move.name, table)): make_mark(
            move.database, inner.target, inner.schema
        )
        for move in moves
        for table, inner in move.moves.items()
    }


def plan_between(
    repo: Repository, old: Manifest | None, new: Manifest | None, names: Sequence[str]
) -> list[DatabaseMove]:
    """Return what has to be written for tables to go from what `old` has to what `new` has.

    As `plan_databases`, but whatever the marks say: what `old` has was live a moment ago. A
    table that only one of them has stays as it is.
    """
    found = []
    for name in sorted(repo.config.local.databases.keys() & set(names)):
        before, after = recorded_tables(old, name), recorded_tables(new, name)
        here = repo.config.shared.databases.get(name, {})
        named = (tables_of(repo, manifest).get(name, {}) for manifest in (old, new))
        configs = {**here, **next(named), **next(named)}
        moves = {
            table: _guarded(
                repo, name, _move(repo.store, configs[table], before[table].root, collection)
            )
            for table, collection in after.items()
            if table in before and table in configs
        }
        if moves:
            found.append(DatabaseMove(name, open_database(repo, name), moves))
    return found


def record_moves(
    repo: Repository, old: ObjectId | None, new: ObjectId, moves: Sequence[DatabaseMove]
) -> Live:
    """Return what `moves` write, for the operation to note: before they are made.

    A table that starts from anything but what manifest `old` has of it, as one that was never
    brought to HEAD, is scanned, so that it can be brought back to how it is now.
    """
    names = tuple(move.name for move in moves)
    before: list[Collection] = []
    after: list[Collection] = []
    for move in moves:
        recorded = recorded_tables(repo.manifest(old), move.name)
        target = recorded_tables(repo.manifest(new), move.name)
        odd = [
            table
            for table, inner in move.moves.items()
            if table not in recorded or recorded[table].root != inner.base
        ]
        if odd and not move.is_still:
            live = _from_live(repo, move.database, move.moves, odd)
            for table in odd:
                inner = move.moves[table]
                changes = diff_maps(repo.store, inner.base, inner.target)
                end = edit_map(repo.store, live[table].base, ((c.key, c.new) for c in changes))
                before.append(_at(repo, target[table], live[table].base))
                after.append(_at(repo, target[table], end))
        elif odd:
            before += [target[table] for table in odd]
    if not before:
        return Live(old, new, names)
    return Live(
        _store_beside(repo, old, before, "before a move"),
        _store_beside(repo, new, after, "after a move"),
        names,
    )


def capture_tables(
    repo: Repository, manifest: Manifest, tables: Iterable[str], accept: Iterable[str] = ()
) -> tuple[list[Collection], dict[str, bytes | None]]:
    """Return live tables as they are now, and the marks that say so; contents not flushed.

    Args:
        manifest: What they are scanned against; it has all of them.
        tables: Names of their collections.
        accept: Tables of which all rows may be gone.

    Raises:
        Emptied: a table has lost all its rows.
        Refused: a live table is not as recorded.
    """
    found: list[Collection] = []
    marks: dict[str, bytes | None] = {}
    wanted = [names for table in tables if (names := split_collection(table)) is not None]
    for move in plan_between(repo, manifest, manifest, [name for name, _ in wanted]):
        asked = [table for name, table in wanted if name == move.name and table in move.moves]
        live = _from_live(repo, move.database, {t: move.moves[t] for t in asked}, asked)
        recorded = recorded_tables(manifest, move.name)
        for table in asked:
            collection = _at(repo, recorded[table], live[table].base)
            stop_on_emptied(table, recorded[table], collection, accept)
            found.append(collection)
            schema = get_schema(repo.store, collection)
            marks[mark_name(collection.name)] = make_mark(move.database, collection.root, schema)
    return found, marks


def _at(repo: Repository, collection: Collection, root: ObjectId) -> Collection:
    return replace(collection, root=root, count=count_entries(repo.store, root))


def _store_beside(
    repo: Repository, oid: ObjectId | None, collections: Iterable[Collection], message: str
) -> ObjectId:
    """Store manifest `oid` with some tables as they were live; return the id."""
    manifest = next_manifest(repo.manifest(oid), oid, collections, repo.author(), message, now_us())
    return repo.store.put(Kind.MANIFEST, encode_manifest(manifest))


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
    return restore_databases(
        repo, manifest, {database: tables}, force=force, accept=accept, dry_run=dry_run
    )


def restore_databases(
    repo: Repository,
    manifest: Manifest,
    wanted: Mapping[str | None, Sequence[str]],
    *,
    force: bool = False,
    accept: Iterable[str] = (),
    dry_run: bool = False,
) -> dict[str, Applied]:
    """Do as `restore_tables` for several databases, as one move.

    Args:
        wanted: Tables by database, as the arguments of `restore_tables`.
    """
    moves: list[DatabaseMove] = []
    asked: dict[str, list[str]] = {}
    for database, tables in wanted.items():
        names = [database] if database else sorted(repo.config.local.databases)
        found = [_plan_restore(repo, manifest, name, tables, force=force) for name in names]
        kept = [one for one in found if one is not None]
        moves += [move for move, _ in kept]
        asked |= {move.name: names for move, names in kept}
        for table in tables:
            if not any(table in names for _, names in kept):
                raise NotFound(
                    f"no table {table} is recorded there for a database that is configured here",
                    hint="see 'gsync collection list' and [db] in .gsync/config.toml",
                )
    if dry_run:
        return apply_databases(repo, moves, accept=accept, dry_run=True)
    return _restore(repo, manifest, moves, asked, list(accept)) if moves else {}


def _plan_restore(
    repo: Repository, manifest: Manifest, name: str, tables: Sequence[str], *, force: bool
) -> tuple[DatabaseMove, list[str]] | None:
    """Return what restores one database from what is live, and the tables that it restores."""
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
        moves[table] = _guarded(repo, name, _move(repo.store, config, base, collection))
    if not moves:
        return None
    asked = [table for table in moves if not tables or table in tables]
    from_live = _from_live(repo, live, moves, asked)
    if not force:
        _keep_unsaved(repo, live, asked, moves, from_live)
    return DatabaseMove(name, live, from_live), asked


def _restore(
    repo: Repository,
    manifest: Manifest,
    moves: Sequence[DatabaseMove],
    asked: Mapping[str, Sequence[str]],
    accept: Sequence[str],
) -> dict[str, Applied]:
    """Write `moves`; the rows that were live before are kept for an undo."""
    from gsync.sync.checkout import Move, carry_out

    head = repo.head()
    before: list[Collection] = []
    after: list[Collection] = []
    marks: dict[str, bytes | None] = {}
    for move in moves:
        recorded = recorded_tables(manifest, move.name)
        heads = recorded_tables(repo.manifest(head), move.name)
        for table, inner in move.moves.items():
            before.append(_at(repo, recorded[table], inner.base))
            after.append(_at(repo, recorded[table], inner.target))
            if table in asked[move.name]:
                # Against HEAD, what came back is a change like any other.
                at = heads.get(table, recorded[table])
                marks[mark_name(recorded[table].name)] = make_mark(
                    move.database, at.root, get_schema(repo.store, at)
                )
    names = tuple(move.name for move in moves)
    old = _store_beside(repo, head, before, "before a restore")
    new = _store_beside(repo, head, after, "after a restore")
    recorder = repo.recorder("db restore")
    if before == after:
        live = None
    else:
        live = Live(old, new, names)
    operation = recorder.next(repo.store, states=marks, live=live)
    states = {**marks, **(operation_state(operation) if live or operation.marks else {})}
    whole = Move(old, new, "db restore", names, states=states, by_mark=False)
    done = carry_out(repo, whole, moves, accept=accept)
    recorder.saved = operation
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
