"""Tables follow a manifest: one transaction, guarded, proved by reading again, or nothing.

The rows of a database pass by twice within the transaction. The first time they are joined
with the base and the changes: that shows which rows somebody else has changed, and what
every row must be afterwards, as a running hash. The second time, after writing, the hash
must come out again. Both passes stream, so memory is that of the few rows worth reporting.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from blake3 import blake3

from gsync.changes import Change
from gsync.config import TableConfig
from gsync.errors import Conflict
from gsync.maps.diff import diff_maps
from gsync.maps.omap import list_entries
from gsync.objects.oid import ObjectId
from gsync.replicas.tables.base import (
    Applied,
    BadRows,
    Clash,
    Database,
    Difference,
    Dragged,
    Interfered,
    NotProved,
    Refused,
    Session,
    TablePlan,
    Writing,
)
from gsync.replicas.tables.plan import plan_tables
from gsync.replicas.tables.scan import join
from gsync.store.base import ObjectReader
from gsync.views.rows.check import row_checker
from gsync.views.rows.keys import decode_key
from gsync.views.rows.schema import Schema, describe_difference, is_compatible
from gsync.views.rows.scope import show_scope
from gsync.views.rows.show import show_cell, show_cells, show_row
from gsync.views.rows.values import LoadContent, decode_row, name_content

ATTEMPTS = 3
# How many rows a report names; the rest are counted.
ROWS_SHOWN_MAX = 10


@dataclass(frozen=True, slots=True)
class TableMove:
    """One table of a database, and where it goes.

    Attributes:
        config: What `gsync.toml` says of it.
        base: Root of the map that it is believed to hold.
        target: Root of the map that it shall hold.
        schema: The schema that rows of `target` follow.
        is_new: Whether nobody here has named the table yet: rows go in only when told to.
    """

    config: TableConfig
    base: ObjectId
    target: ObjectId
    schema: Schema
    is_new: bool = False


class RowsChanged(Conflict):
    """Live rows are not what the caller believed; nothing was written."""

    def __init__(
        self, rows: Sequence[str], count: int, database: str, *, hint: str | None = None
    ) -> None:
        more = f" and {count - len(rows)} more" if count > len(rows) else ""
        super().__init__(
            f"unsaved changes would be overwritten in {count} row(s) of {database}:"
            f" {', '.join(rows)}{more}",
            hint=hint or "save them with 'gsync snapshot', or undo them, then try again",
            rows=list(rows),
            count=count,
        )


class Protected(Conflict):
    """The changes touch what `gsync.toml` protects; nothing was written."""

    def __init__(self, found: Mapping[str, int], shown: Sequence[str]) -> None:
        what = "; ".join(f"{name} in {count} row(s)" for name, count in sorted(found.items()))
        super().__init__(
            f"protected by gsync.toml, or not named by it until now: {what}: {', '.join(shown)}",
            hint=f"look at the rows; then accept with --accept {','.join(sorted(found))}",
            protected=dict(found),
        )


class Where(Enum):
    """Where live rows stand between two states, as far as the changes between them tell."""

    BASE = "base"
    TARGET = "target"
    BETWEEN = "between"


@dataclass(slots=True)
class _Meant:
    """What the first pass over one table found."""

    plan: TablePlan
    move: TableMove
    to_write: int = 0
    changed: list[str] = field(default_factory=list)
    changed_count: int = 0
    protected: dict[str, int] = field(default_factory=dict)
    protected_rows: list[str] = field(default_factory=list)
    digest: bytes = b""
    unsaved: dict[bytes, bytes | None] = field(default_factory=dict)


# Live changes of rows that the patch does not touch, kept so that a report after a failed
# proof can tell them from damage; beyond it the report may name some of them too.
_UNSAVED_MAX = 100_000


def apply_tables(
    database: Database,
    moves: Mapping[str, TableMove],
    store: ObjectReader,
    load: LoadContent,
    *,
    accept: Iterable[str] = (),
    dry_run: bool = False,
) -> Applied:
    """Bring the tables of one database from their bases to their targets; all or nothing.

    Costs two scans of all tables in `moves`, unless nothing differs.

    Args:
        moves: All recorded tables of this database by name, also those that do not move:
            what a cascade or a trigger does to them is seen.
        accept: Names `TABLE` and `TABLE.COLUMN` of what is protected and may be touched.
        dry_run: Do all of it, and roll back.

    Raises:
        RowsChanged: a row to be written is not as in its base, nor as in its target.
        Protected: something protected would be altered, and is not in `accept`.
        Refused: the live schema is not the recorded one.
        NotProved: the rows read back are not the ones meant.
        Conflict: a constraint of the database, or a value that another row holds.
        Unavailable: the database is gone, or busy.
    """
    if all(move.base == move.target for move in moves.values()):
        return Applied()
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _attempt(database, moves, store, load, set(accept), dry_run)
        except Interfered:
            if attempt == ATTEMPTS:
                raise
    raise AssertionError("not reached")


def _attempt(
    database: Database,
    moves: Mapping[str, TableMove],
    store: ObjectReader,
    load: LoadContent,
    accept: set[str],
    dry_run: bool,
) -> Applied:
    with database.writing() as writing:
        plans = plan_moves(writing, moves)
        found = [_first_pass(writing, plan, moves[plan.name], store) for plan in plans]
        _stop_on_changed(found, database.shown)
        _stop_on_protected(found, accept)
        if not any(meant.to_write for meant in found):
            return Applied()
        applied = _write(writing, found, store, load, accept)
        for meant in found:
            _prove(writing, meant, store)
        if not dry_run:
            writing.commit()
        return applied


def plan_moves(session: Session, moves: Mapping[str, TableMove]) -> list[TablePlan]:
    """Return plans for the tables that `moves` names, parents first, as the database has them.

    Raises:
        Refused: a live table differs from its recorded schema.
    """
    plans = plan_tables(
        session.tables(),
        {name: move.config for name, move in moves.items()},
        {name: move.schema for name, move in moves.items()},
    )
    for plan in plans:
        recorded = moves[plan.name].schema
        if not is_compatible(recorded, plan.schema):
            raise Refused(
                f"table {plan.name} is not as recorded:"
                f" {'; '.join(describe_difference(recorded, plan.schema))}",
                hint="change the live table to match (gsync changes no table's definition),"
                " then try again",
                table=plan.name,
            )
    return plans


def _pairs(
    move: TableMove, store: ObjectReader
) -> Iterator[tuple[bytes, tuple[bytes | None, bytes | None]]]:
    """Yield every key of base and target with its row in each."""
    changes = diff_maps(store, move.base, move.target)
    change = next(changes, None)
    for key, row in list_entries(store, move.base):
        while change is not None and change.key < key:
            yield change.key, (None, change.new)
            change = next(changes, None)
        if change is not None and change.key == key:
            yield key, (row, change.new)
            change = next(changes, None)
        else:
            yield key, (row, row)
    while change is not None:
        yield change.key, (None, change.new)
        change = next(changes, None)


def three_way(
    session: Session, plan: TablePlan, move: TableMove, store: ObjectReader
) -> Iterator[tuple[bytes, bytes | None, bytes | None, bytes | None]]:
    """Yield every key with its row in base, target and the live table."""
    for key, pair, live in join(_pairs(move, store), session.rows(plan, name_content)):
        old, new = pair or (None, None)
        yield key, old, new, live


def _first_pass(session: Session, plan: TablePlan, move: TableMove, store: ObjectReader) -> _Meant:
    meant = _Meant(plan, move)
    digest = blake3()
    guard = _Guard(plan, move)
    for key, old, new, live in three_way(session, plan, move, store):
        if old == new:
            after = live
            if live != old and len(meant.unsaved) < _UNSAVED_MAX:
                meant.unsaved[key] = live
        else:
            after = new
            if live != new:
                meant.to_write += 1
                if live != old:
                    meant.changed_count += 1
                    if len(meant.changed) < ROWS_SHOWN_MAX:
                        meant.changed.append(show_row(plan.name, key))
                else:
                    guard.look(meant, key, old, new)
        if after is not None:
            _feed(digest, key, after)
    meant.digest = digest.digest()
    return meant


def _feed(digest: blake3, key: bytes, row: bytes) -> None:
    # Lengths first: without them (ab, c) and (a, bc) would be one.
    digest.update(b"%d %d " % (len(key), len(row)))
    digest.update(key)
    digest.update(row)


class _Guard:
    """What `gsync.toml` protects in one table."""

    def __init__(self, plan: TablePlan, move: TableMove) -> None:
        self._plan = plan
        self._is_new = move.is_new
        self._keep_rows = move.config.keep_rows
        self._slots = {
            column.slot: column.name
            for column in plan.schema.live
            if column.name in move.config.protected
        }

    def look(self, meant: _Meant, key: bytes, old: bytes | None, new: bytes | None) -> None:
        name = self._plan.name
        if self._is_new:
            self._note(meant, name, key)
            return
        if old is None or not (self._keep_rows or self._slots):
            return
        if new is None:
            if self._keep_rows:
                self._note(meant, name, key)
            return
        width = self._plan.schema.width
        before, after = decode_row(old, width), decode_row(new, width)
        for slot, column in self._slots.items():
            if before[slot] != after[slot]:
                self._note(meant, f"{name}.{column}", key)

    def _note(self, meant: _Meant, what: str, key: bytes) -> None:
        meant.protected[what] = meant.protected.get(what, 0) + 1
        if len(meant.protected_rows) < ROWS_SHOWN_MAX:
            meant.protected_rows.append(show_row(self._plan.name, key))


def _stop_on_changed(found: Sequence[_Meant], shown: str) -> None:
    rows = [row for meant in found for row in meant.changed][:ROWS_SHOWN_MAX]
    if rows:
        raise RowsChanged(rows, sum(meant.changed_count for meant in found), shown)


def _stop_on_protected(found: Sequence[_Meant], accept: set[str]) -> None:
    touched = {
        name: count
        for meant in found
        for name, count in meant.protected.items()
        if name not in accept
    }
    if touched:
        rows = [row for meant in found for row in meant.protected_rows]
        raise Protected(touched, rows[:ROWS_SHOWN_MAX])


def _write(
    writing: Writing,
    found: Sequence[_Meant],
    store: ObjectReader,
    load: LoadContent,
    accept: set[str],
) -> Applied:
    """Write all changes, parents first, deletions last and children first."""
    moving = [meant for meant in found if meant.to_write]
    plans = {meant.plan.name: meant.plan for meant in found}
    for meant in moving:
        writing.stage(meant.plan, _checked(meant.plan, meant.move, store), load)
    for meant in moving:
        _stop_on_outsiders(meant.plan, writing.outsiders(meant.plan, ROWS_SHOWN_MAX))
    _stop_on_dragged(
        [one for meant in moving for one in writing.dragged(meant.plan, plans)], found, accept
    )
    for meant in moving:
        _stop_on_clash(writing.clashes(meant.plan, ROWS_SHOWN_MAX))
    for meant in moving:
        writing.release(meant.plan)
    inserted, updated, deleted = {}, {}, {}
    for meant in moving:
        name = meant.plan.name
        inserted[name], updated[name] = writing.upsert(meant.plan)
    for meant in reversed(moving):
        deleted[meant.plan.name] = writing.delete(meant.plan)
    return Applied(inserted, updated, deleted)


def _checked(plan: TablePlan, move: TableMove, store: ObjectReader) -> Iterator[Change]:
    """Yield the changes of a table; what comes from another store is looked at first."""
    check = row_checker(move.schema, plan.view.scope)
    for change in diff_maps(store, move.base, move.target):
        check(change.key, change.new)
        yield change


def _stop_on_dragged(dragged: Sequence[Dragged], found: Sequence[_Meant], accept: set[str]) -> None:
    """Raise Conflict for rows that a deletion takes along and that no second reading would miss."""
    seen = {meant.plan.name: meant.plan.schema.types().keys() for meant in found}
    unseen = [
        one
        for one in dragged
        if one.table not in accept
        and not (
            one.table in seen
            and not one.out_of_scope
            and (one.deletes or seen[one.table] >= set(one.columns))
        )
    ]
    if not unseen:
        return
    shown = [
        f"{one.rows} row(s) of {one.table} ({', '.join(one.columns)})"
        f" {'would be deleted' if one.deletes else 'would lose the value'}"
        for one in unseen
    ]
    names = ",".join(sorted({one.table for one in unseen}))
    raise Conflict(
        f"rows that are not recorded refer to rows to be deleted: {'; '.join(shown)}",
        hint=f"look at the rows; then accept with --accept {names}; nothing was written",
        dragged=shown,
    )


def _stop_on_outsiders(plan: TablePlan, keys: Sequence[bytes]) -> None:
    """Raise Conflict where a row would take the place of one that belongs to somebody else."""
    if not keys:
        return
    assert plan.view.scope is not None
    rows = [show_row(plan.name, key) for key in keys]
    raise Conflict(
        f"rows out of scope have the keys of rows to be written: {', '.join(rows)}",
        hint=f"{plan.name} is recorded where {show_scope(plan.view.scope)}; nothing was written",
        rows=rows,
    )


def _stop_on_clash(clashes: Sequence[Clash]) -> None:
    if not clashes:
        return
    shown = [
        f"{clash.table}{show_cells(clash.key)} needs"
        f" {', '.join(f'{name}={show_cell(value)}' for name, value in clash.values)},"
        f" which {clash.table}{show_cells(clash.holder)} has"
        for clash in clashes
    ]
    raise Conflict(
        f"unique values are taken ({clashes[0].constraint}): {'; '.join(shown)}",
        hint="change or delete one of the rows on either side, snapshot, and try again;"
        " nothing was written",
        clashes=shown,
    )


# --- Proof ---------------------------------------------------------------------------


def _prove(writing: Writing, meant: _Meant, store: ObjectReader) -> None:
    """Read a table again and raise NotProved unless every row is as it was meant to be."""
    digest = blake3()
    for key, row in writing.rows(meant.plan, name_content):
        _feed(digest, key, row)
    if digest.digest() == meant.digest:
        return
    differences: list[Difference] = []
    count = 0
    for key, old, new, live in three_way(writing, meant.plan, meant.move, store):
        wanted = meant.unsaved.get(key, old) if old == new else new
        if live == wanted:
            continue
        count += 1
        if len(differences) < ROWS_SHOWN_MAX:
            differences += _compare(meant.plan.schema, key, wanted, live)
    raise _not_proved(meant.plan, differences, count)


def _compare(
    schema: Schema, key: bytes, meant: bytes | None, found: bytes | None
) -> list[Difference]:
    cells = decode_key(key)
    if meant is None or found is None:
        what = (None, "a row") if meant is None else ("a row", None)
        return [Difference(schema.table, cells, None, *what)]
    left, right = decode_row(meant, schema.width), decode_row(found, schema.width)
    return [
        Difference(schema.table, cells, column.name, left[column.slot], right[column.slot])
        for column in schema.live
        if left[column.slot] != right[column.slot]
    ]


def _not_proved(plan: TablePlan, differences: Sequence[Difference], count: int) -> NotProved:
    shown = "; ".join(
        f"{d.table}{show_cells(d.key)}"
        + (
            f".{d.column}: meant {show_cell(d.meant)}, found {show_cell(d.found)}"
            if d.column
            else ": there, and should not be"
            if d.meant is None
            else ": missing"
        )
        for d in differences[:ROWS_SHOWN_MAX]
    )
    columns = sorted({d.column for d in differences if d.column})
    triggers = [f"{t.name} ({', '.join(t.events)})" for t in plan.live.triggers]
    blame = f"triggers of {plan.name}: {', '.join(triggers)}. " if triggers else ""
    if columns:
        advice = f"list {', '.join(columns)} as volatile in gsync.toml, or change the trigger"
    else:
        advice = "look for cascades and triggers on the tables that refer to it"
    return NotProved(
        f"table {plan.name}: {count} row(s) read back are not as written, so everything was"
        f" rolled back: {shown}",
        differences,
        f"{blame}{advice}",
    )


# --- After a crash -------------------------------------------------------------------


def find_where(database: Database, moves: Mapping[str, TableMove], store: ObjectReader) -> Where:
    """Say whether live rows are at the base or the target of `moves`, by the changed rows.

    Tables that cannot be read as `moves` says, since somebody has altered them, are at neither.
    """
    try:
        return _find_where(database, moves, store)
    except (Refused, BadRows):
        return Where.BETWEEN


def _find_where(database: Database, moves: Mapping[str, TableMove], store: ObjectReader) -> Where:
    at_base = at_target = True
    with database.reading() as session:
        for plan in plan_moves(session, moves):
            move = moves[plan.name]
            if move.base == move.target:
                continue
            for _, old, new, live in three_way(session, plan, move, store):
                if old != new:
                    at_base = at_base and live == old
                    at_target = at_target and live == new
    return Where.TARGET if at_target else Where.BASE if at_base else Where.BETWEEN
