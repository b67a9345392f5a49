"""Live tables against what is recorded of them; reads only."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gsync.changes import Change
from gsync.errors import NotFound
from gsync.maps.omap import EMPTY_MAP, list_entries
from gsync.objects.encoding import Reference
from gsync.objects.model import Collection
from gsync.objects.oid import ObjectId
from gsync.replicas.tables.base import Database, Session, TablePlan
from gsync.replicas.tables.plan import plan_tables
from gsync.replicas.tables.scan import Since, join
from gsync.sync.comparetables import RowChange, TableCounts, describe_rows
from gsync.sync.opendb import open_database
from gsync.sync.recorded import (
    collection_name,
    content_loader,
    get_schema,
    get_view,
    recorded_tables,
)
from gsync.sync.repository import Repository, now_us
from gsync.sync.seen import find_seen, see
from gsync.sync.tables import read_mark
from gsync.views.rows.schema import Schema
from gsync.views.rows.values import LoadContent, name_content

Joined = Iterator[tuple[bytes, bytes | None, bytes | None]]
"""Keys with the rows that two sides have of them."""

# Contents of live cells that are kept while their row is shown, in bytes.
_KEPT_BYTES = 16 << 20


@dataclass(slots=True)
class LiveTable:
    """One live table, compared while its rows pass by once.

    Attributes:
        collection: What it is, or would be, recorded as.
        old: The schema of what is recorded, or the live one.
        new: The live schema.
        notes: What a person should know beside the rows.
        at_head: Whether the live table is derived from HEAD; else a snapshot may be refused.
        rows: Live rows, as far as `changes` was read.
        load: Gives contents of cells, also of live ones that are in no store, while the
            row that has them is the last that `changes` yielded.
    """

    collection: str
    old: Schema
    new: Schema
    notes: tuple[str, ...]
    load: LoadContent
    at_head: bool = True
    rows: int = 0
    _changes: Iterator[Change] = field(default=iter(()), repr=False)

    def changes(self) -> Iterator[RowChange]:
        """Yield the rows that differ, in key order; once."""
        yield from describe_rows(self._changes, self.old, self.new, self.collection)

    def count(self, see: Callable[[RowChange], None]) -> TableCounts:
        """Read all that is left of `changes`, show each to `see`, and return how many there are."""
        found = {"added": 0, "modified": 0, "deleted": 0}
        for change in self.changes():
            found[change.status] += 1
            see(change)
        return TableCounts(
            self.collection,
            self.rows,
            found["added"],
            found["modified"],
            found["deleted"],
            self.notes,
        )


@dataclass(frozen=True, slots=True)
class _Base:
    """What a live table is compared with: nothing, where `collection` is None."""

    collection: Collection | None
    root: ObjectId
    notes: tuple[str, ...] = ()
    at_head: bool = True


def compare_with_head(
    repo: Repository, name: str, tables: Sequence[str] = (), *, full: bool = False
) -> Iterator[LiveTable]:
    """Yield the live tables of a database, each to be read before the next, against HEAD.

    Args:
        full: Read also the tables that are known to be as they were.

    Raises:
        NotFound: there is no such database here, or table in `gsync.toml`.
        Refused: a table is not as `gsync.toml` says.
        Unavailable: the database cannot be reached.
    """
    return _compare(repo, name, tables, _at_head, full)


def compare_with_marks(
    repo: Repository, name: str, tables: Sequence[str] = (), *, full: bool = False
) -> Iterator[LiveTable]:
    """Do the same against what each table was last known to hold here: its mark.

    A table without a mark is compared with HEAD.
    """
    return _compare(repo, name, tables, _at_mark, full)


def _at_head(repo: Repository, database: Database, collection: Collection) -> _Base:
    return _Base(collection, collection.root)


def _at_mark(repo: Repository, database: Database, collection: Collection) -> _Base:
    mark = read_mark(repo, database, collection.name)
    if mark is None:
        note = "never brought to HEAD: 'gsync db restore HEAD'"
        return _Base(collection, collection.root, (note,), at_head=False)
    if mark != collection.root:
        note = "HEAD has other rows than this database was last brought to"
        return _Base(collection, mark, (note,), at_head=False)
    return _Base(collection, mark)


def _compare(
    repo: Repository,
    name: str,
    tables: Sequence[str],
    find_base: Callable[[Repository, Database, Collection], _Base],
    full: bool,
) -> Iterator[LiveTable]:
    wanted = repo.config.shared.databases.get(name, {})
    for table in tables:
        if table not in wanted:
            raise NotFound(
                f"gsync.toml names no table {table} of the database {name!r}",
                hint=f"it names {', '.join(wanted) or 'none'}",
            )
    database = open_database(repo, name)
    recorded = recorded_tables(repo.manifest(repo.head()), name)
    known = {t: get_schema(repo.store, c) for t, c in recorded.items() if t in wanted}
    with database.reading(fingerprints=not full) as session:
        # Only what is asked for has to be as configured.
        asked = {table: wanted[table] for table in tables or wanted}
        plans = {plan.name: plan for plan in plan_tables(session.tables(), asked, known)}
        for table in sorted(plans):
            yield _table(
                repo, database, session, plans[table], name, recorded, known, find_base, full
            )


def _table(
    repo: Repository,
    database: Database,
    session: Session,
    plan: TablePlan,
    name: str,
    recorded: Mapping[str, Collection],
    known: Mapping[str, Schema],
    find_base: Callable[[Repository, Database, Collection], _Base],
    full: bool,
) -> LiveTable:
    base = _Base(None, EMPTY_MAP, ("not recorded yet",))
    old = recorded.get(plan.name)
    if old is not None and get_view(repo.store, old) != plan.view:
        base = _Base(None, EMPTY_MAP, ("other columns are left out than in HEAD",))
    elif old is not None:
        base = find_base(repo, database, old)
    notes = base.notes
    schema = known[plan.name] if base.collection else plan.schema
    if schema.types() != plan.schema.types():
        notes += ("the schema changed",)
    contents = _Contents(content_loader(repo.store))
    found = LiveTable(
        collection_name(name, plan.name), schema, plan.schema, notes, contents.load, base.at_head
    )

    def changes() -> Iterator[Change]:
        since = None
        if base.collection is not None and base.root == base.collection.root and not full:
            since = _find_since(repo, database, session, plan, base.collection)
        if since is not None:
            found.rows = since.count
            joined = since.join(session, plan, repo.store, contents.spill)
        else:
            entries = list_entries(repo.store, base.root) if base.root != EMPTY_MAP else iter(())
            joined = counted(join(entries, session.rows(plan, contents.spill)))
        for key, before, after in joined:
            if before != after:
                yield Change(key, before, after)

    def counted(joined: Joined) -> Joined:
        for one in joined:
            found.rows += one[2] is not None
            yield one

    found._changes = changes()
    return found


def _find_since(
    repo: Repository, database: Database, session: Session, plan: TablePlan, base: Collection
) -> Since | None:
    """Return what is new in a table since it was recorded as `base`, if that can be told."""
    seen = find_seen(repo.store, base.name)
    if seen is None or seen.collection.root != base.root:
        return None
    fingerprint = session.fingerprint(plan)
    if fingerprint is None:
        return None
    now = see(database, plan, base, fingerprint, now_us())
    if seen.shows_unchanged(now, base):
        return Since(base.root, None, base.count, ())
    return seen.find_since(session, plan, now, base, repo.store)


class _Contents:
    """Contents of the cells that were read last, and behind them the store's."""

    def __init__(self, load: LoadContent) -> None:
        self._load = load
        self._kept: OrderedDict[ObjectId, bytes] = OrderedDict()
        self._bytes = 0

    def spill(self, content: bytes) -> Reference:
        """Name a content, and keep it for a while."""
        reference = name_content(content)
        if reference.oid not in self._kept:
            self._kept[reference.oid] = content
            self._bytes += len(content)
        # The row that came last has to stay whole, and it is one row ahead of what is shown.
        while self._bytes > _KEPT_BYTES and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= len(dropped)
        return reference

    def load(self, reference: Reference) -> bytes:
        """Return the content behind a reference."""
        kept = self._kept.get(reference.oid)
        return kept if kept is not None else self._load(reference)
