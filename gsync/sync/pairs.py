"""Two databases side by side: the tables of one follow those of the other (12-databases, 5).

What both agreed on last is the **base** of the pair. It is kept as a manifest under a tracking
name of the store, and is always *the source's root*, also where the target keeps edits of its
own. That loses nothing, in either direction. A row is in one of four states when A has been
brought to B, with `base` before, `a` and `b` for the two sides:

- A changed it (`base != a`): `b` has become `a`, and the new base `a` says that both agree.
- Neither changed it: nothing to say.
- B alone changed it (`base == a != b`): it stays in B, and the new base, which is `a`, still
  differs from B and not from A. So the next A -> B leaves it alone, since A did not touch it,
  and the next B -> A sees a change of B's and carries it, a deletion as well as an edit.
- Both changed it, differently: a conflict; nothing was written and the base has not moved.

Had the base been what B holds, the third row would look like one that A has changed, and the
next A -> B would undo B's edit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from blake3 import blake3

from gsync.config import Tables
from gsync.errors import Conflict, Invalid
from gsync.frozen import replace
from gsync.maps.omap import EMPTY_MAP, edit_map
from gsync.objects.model import EMPTY_MAP_BODY, Collection, Manifest, encode_manifest
from gsync.objects.oid import Kind, ObjectId
from gsync.replicas.tables.apply import (
    RowsChanged,
    TableMove,
    Where,
    apply_tables,
    find_where,
    plan_moves,
    three_way,
)
from gsync.replicas.tables.base import Database, Session, TablePlan
from gsync.replicas.tables.plan import plan_tables
from gsync.store.sqlite import SqliteStore
from gsync.sync.recorded import collection_name, content_loader, get_schema, recorded_tables
from gsync.sync.repository import now_us
from gsync.sync.tables import record_table, stop_on_emptied, stop_on_left
from gsync.transfer.history import get_manifest
from gsync.views.rows.show import show_row

# The tables of a pair belong to no configured database; this stands in their collections' names.
DATABASE = "pair"
# Refs below a pair's tracking name: what both agreed on last, and what was being sent.
AGREED = "main"
SENT = "sent"
# How many rows a report names; the rest are counted.
_SHOWN_MAX = 10


class Place(Protocol):
    """What a pair needs of a repository."""

    store: SqliteStore

    def author(self) -> str:
        """Return whom new manifests name as their author."""
        ...

    def note(self, command: str, kept: str) -> dict[str, bytes | None]:
        """Return the state that notes an operation which cannot be undone, and why."""
        ...


@dataclass(frozen=True, slots=True)
class PairCounts:
    """What became of the rows of one table.

    Attributes:
        table: Its name.
        inserted, updated, deleted: Written at the target, by the target's own answers.
        unchanged: Equal on both sides before.
        only_in_target: Rows that the source does not have and did not delete; they stay.
        kept: Rows that the target alone edited or deleted; they stay so.
        conflicts: Rows that differ, where the source's was taken because the caller said so.
    """

    table: str
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    unchanged: int = 0
    only_in_target: int = 0
    kept: int = 0
    conflicts: int = 0

    @property
    def written(self) -> int:
        """Rows written."""
        return self.inserted + self.updated + self.deleted


@dataclass(frozen=True, slots=True)
class PairResult:
    """What a sync of two databases did, or would do.

    Attributes:
        source, target: Their URLs without secrets.
        pair: The tracking name that the base is kept under.
        tables: One for each table, by name.
        old: The base before, or None for the first sync.
        new: The base now; the same as `old` where nothing is new, or in a dry run.
    """

    source: str
    target: str
    pair: str
    tables: tuple[PairCounts, ...]
    old: ObjectId | None
    new: ObjectId | None

    @property
    def written(self) -> int:
        """Rows written, or to be written, in all tables."""
        return sum(counts.written for counts in self.tables)


class BothChanged(RowsChanged):
    """Rows differ in both databases and neither is known to be older; nothing was written."""

    def __init__(
        self, rows: list[str], counts: Mapping[str, int], target: str, *, first: bool
    ) -> None:
        count = sum(counts.values())
        more = f" and {count - len(rows)} more" if count > len(rows) else ""
        why = (
            "differ, and these two databases have not been synced from here before"
            if first
            else "were changed on both sides since the last sync"
        )
        Conflict.__init__(
            self,
            f"{count} row(s) of {target} {why}: {', '.join(rows)}{more}",
            hint="make the rows alike on either side; or take those of the source with"
            " --take-source. Nothing was written",
            rows=rows,
            count=count,
            conflicts=dict(counts),
        )


def pair_name(one: Database, other: Database) -> str:
    """Return the tracking name of two databases, the same in both directions.

    Another database behind one of the URLs makes another pair, which has agreed on nothing yet.
    """
    both = "\n".join(sorted(f"{side.shown} {side.identity()}".rstrip() for side in (one, other)))
    return f"db-{blake3(both.encode()).hexdigest()[:16]}"


def sync_pair(
    repo: Place,
    source: Database,
    target: Database,
    tables: Tables,
    *,
    accept: Iterable[str] = (),
    force: bool = False,
    dry_run: bool = False,
) -> PairResult:
    """Bring what `source` changed since the last sync of these two to `target`; all or nothing.

    Costs one scan of the source and up to three of the target. The caller holds the lock.

    Args:
        tables: Which tables, and how they are looked at.
        accept: What is protected and may be touched (12-databases, rule 4.3).
        force: Take the source's row where both differ. Rows that only the target has stay.
        dry_run: Do all of it, and roll back; the store gets objects that nothing names.

    Raises:
        BothChanged: rows were changed on both sides, and not `force`.
        Protected: something protected would be altered, and is not in `accept`.
        Refused: a table is not there, not as in `tables`, or not alike on both sides.
        Conflict: a constraint of the target, or a value that another row holds.
        Unavailable: a database is gone, or busy.
    """
    store = repo.store
    pair = pair_name(source, target)
    old = _settle(repo, pair, source, target, tables, dry_run=dry_run)
    base = get_manifest(store, old) if old else None
    accept = list(accept)
    with _naming(source):
        sent = _scan(store, source, tables, recorded_tables(base, DATABASE), accept)
    moves = {
        name: TableMove(
            tables[name],
            _start(store, recorded_tables(base, DATABASE).get(name), collection),
            collection.root,
            get_schema(store, collection),
        )
        for name, collection in sent.items()
    }
    with _naming(target):
        seen = _compare(store, target, moves, force=force)
    conflicts = {name: look.counts.conflicts for name, look in seen.items()}
    if not force and any(conflicts.values()):
        rows = [row for look in seen.values() for row in look.rows][:_SHOWN_MAX]
        raise BothChanged(rows, conflicts, target.shown, first=base is None)
    moves = {name: replace(move, base=seen[name].base) for name, move in moves.items()}
    manifest = _next(repo, old, base, sent, f"db sync {source.shown} -> {target.shown}")
    new = old
    if manifest is not None and not dry_run:
        new = store.put(Kind.MANIFEST, encode_manifest(manifest))
        assert new is not None
        store.set_tracking(pair, ({AGREED: old} if old else {}) | {SENT: new})
    applied = apply_tables(
        target, moves, store, content_loader(store), accept=accept, dry_run=dry_run
    )
    if new is not None and new != old:
        store.set_tracking(pair, {AGREED: new}, _note(repo, target))
    counts = tuple(
        replace(
            seen[name].counts,
            inserted=applied.inserted.get(name, 0),
            updated=applied.updated.get(name, 0),
            deleted=applied.deleted.get(name, 0),
        )
        for name in sorted(seen)
    )
    return PairResult(source.shown, target.shown, pair, counts, old, new)


@contextmanager
def _naming(database: Database) -> Iterator[None]:
    """Say in a refusal which of the two databases has the table that it names."""
    try:
        yield
    except Invalid as error:
        if database.shown not in error.message:
            error.message = f"{database.shown}: {error.message}"
            error.args = (error.message,)
        raise


# --- The base ------------------------------------------------------------------------


def _settle(
    repo: Place,
    pair: str,
    one: Database,
    other: Database,
    tables: Tables,
    *,
    dry_run: bool,
) -> ObjectId | None:
    """Return the base, moved on if a sync was cut off after its target had committed.

    Then every row that was sent is in both databases as it was sent, whichever was the target.
    Where that cannot be seen, the older base holds: rows that both have alike are no conflict.
    """
    store = repo.store
    refs = store.tracking(pair)
    agreed, sent = refs.get(AGREED), refs.get(SENT)
    if sent is None:
        return agreed
    before = recorded_tables(get_manifest(store, agreed) if agreed else None, DATABASE)
    after = recorded_tables(get_manifest(store, sent), DATABASE)
    moves = {
        name: TableMove(
            tables[name],
            _start(store, before.get(name), collection),
            collection.root,
            get_schema(store, collection),
        )
        for name, collection in after.items()
        if name in tables and collection != before.get(name)
    }
    if set(moves) == {name for name, c in after.items() if c != before.get(name)} and all(
        find_where(database, moves, store) is Where.TARGET for database in (one, other)
    ):
        agreed = sent
    if not dry_run:
        states = _note(repo, other) if agreed == sent else None
        store.set_tracking(pair, {AGREED: agreed} if agreed else {}, states)
    return agreed


def _note(repo: Place, target: Database) -> dict[str, bytes | None]:
    """Return the state that notes a sync to `target` as this command's operation."""
    return repo.note(
        "db sync",
        f"the rows that {target.shown} had before are not kept here; what is wrong there is mended"
        " there, or brought back by a sync in the other direction",
    )


def _start(store: SqliteStore, old: Collection | None, new: Collection) -> ObjectId:
    """Return the root to start from; the empty map where the old one says nothing of the new."""
    if (
        old is not None
        and old.view == new.view
        and get_schema(store, old).key == get_schema(store, new).key
    ):
        return old.root
    store.put(Kind.NODE, EMPTY_MAP_BODY)
    return EMPTY_MAP


def _next(
    repo: Place,
    old: ObjectId | None,
    base: Manifest | None,
    sent: Mapping[str, Collection],
    message: str,
) -> Manifest | None:
    """Return the manifest after `base`, or None if it would say the same."""
    found = {c.name: c for c in base.collections} if base else {}
    before = dict(found)
    found |= {c.name: c for c in sent.values()}
    if base is not None and found == before:
        return None
    return Manifest(
        parents=(old,) if old else (),
        collections=tuple(sorted(found.values(), key=lambda c: c.name.encode())),
        author=repo.author(),
        time_us=now_us(),
        message=message,
    )


# --- Looking at both -----------------------------------------------------------------


def _scan(
    store: SqliteStore,
    source: Database,
    tables: Tables,
    old: Mapping[str, Collection],
    accept: Iterable[str],
) -> dict[str, Collection]:
    """Write the tables of `source`, from one snapshot, into the store; return them by name."""
    known = {name: get_schema(store, c) for name, c in old.items() if name in tables}
    found = {}
    with source.reading() as session:
        for plan in plan_tables(session.tables(), tables, known):
            name = collection_name(DATABASE, plan.name)
            before = old.get(plan.name)
            found[plan.name], _ = record_table(session, plan, name, before, store)
            stop_on_emptied(plan.name, before, found[plan.name], accept)
            stop_on_left(session, plan, before, found[plan.name], store, accept)
    return found


@dataclass(slots=True)
class _Look:
    """How the target compares in one table; `base` has the conflicts settled if they are forced."""

    counts: PairCounts
    base: ObjectId
    rows: list[str] = field(default_factory=list)


def _compare(
    store: SqliteStore, target: Database, moves: Mapping[str, TableMove], *, force: bool
) -> dict[str, _Look]:
    found = {}
    with target.reading() as session:
        for plan in plan_moves(session, moves):
            found[plan.name] = _look(store, session, plan, moves[plan.name], force=force)
    return found


def _look(
    store: SqliteStore, session: Session, plan: TablePlan, move: TableMove, *, force: bool
) -> _Look:
    unchanged = only_in_target = kept = conflicts = 0
    rows: list[str] = []

    def settled() -> Iterator[tuple[bytes, bytes | None]]:
        """Yield the target's rows in conflict: as a base, they let the source's replace them."""
        nonlocal unchanged, only_in_target, kept, conflicts
        for key, old, new, live in three_way(session, plan, move, store):
            if live == new:
                unchanged += live is not None
            elif old == new:
                only_in_target += new is None
                kept += new is not None
            elif live != old:
                conflicts += 1
                if len(rows) < _SHOWN_MAX:
                    rows.append(show_row(plan.name, key))
                yield key, live

    base = move.base
    if force:
        base = edit_map(store, move.base, settled())
    else:
        for _ in settled():
            pass
    counts = PairCounts(
        plan.name,
        unchanged=unchanged,
        only_in_target=only_in_target,
        kept=kept,
        conflicts=conflicts,
    )
    return _Look(counts, base, rows)
