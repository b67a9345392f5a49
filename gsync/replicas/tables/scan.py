"""Live rows against a map: what is in the one and not in the other, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from gsync.changes import Change
from gsync.maps.omap import EMPTY_MAP, MapBuilder, MapReader, edit_map, list_entries
from gsync.objects.oid import ObjectId
from gsync.replicas.tables.base import Fingerprint, Session, TablePlan
from gsync.store.base import ObjectReader, ObjectStore
from gsync.views.rows.values import SpillContent, name_content, spill_to

_STEP = 10_000


@dataclass(frozen=True, slots=True)
class TableScan:
    """What a table held, as a map.

    Attributes:
        root: The map's root.
        count: How many rows it has.
        added, modified, deleted: Rows, against the map that the scan started from.
    """

    root: ObjectId
    count: int
    added: int
    modified: int
    deleted: int


def scan_table(
    session: Session,
    plan: TablePlan,
    base: ObjectId,
    store: ObjectStore,
    progress: Callable[[int], None] | None = None,
    since: Since | None = None,
) -> TableScan:
    """Write the map of a table into `store` and return its root; not flushed.

    Args:
        base: The map to start from; what is equal in it is not written again.
        progress: Called now and then with the number of rows read since it was called last.
        since: What is new in the table, whose rows were those of `base`; else all is read.
    """
    if since is not None:
        return _edit(
            store, base, since.join(session, plan, store, spill_to(store.put)), since.count
        )
    rows = _counted(session.rows(plan, spill_to(store.put)), progress)
    if base == EMPTY_MAP:
        builder = MapBuilder(store)
        for key, row in rows:
            builder.add(key, row)
        return TableScan(builder.finish(), builder.count, builder.count, 0, 0)
    return _edit(store, base, join(list_entries(store, base), rows))


def _edit(
    store: ObjectStore,
    base: ObjectId,
    joined: Iterable[tuple[bytes, bytes | None, bytes | None]],
    total: int | None = None,
) -> TableScan:
    """Write `base` with what was joined to it; `total` is how many rows there are, if known."""
    count = added = modified = deleted = 0

    def edits() -> Iterator[tuple[bytes, bytes | None]]:
        nonlocal count, added, modified, deleted
        for key, old, new in joined:
            count += new is not None
            if old == new:
                continue
            if old is None:
                added += 1
            elif new is None:
                deleted += 1
            else:
                modified += 1
            yield key, new

    root = edit_map(store, base, edits())
    return TableScan(root, count if total is None else total, added, modified, deleted)


@dataclass(frozen=True, slots=True)
class Since:
    """What is new in a table since its rows were those of a map.

    Attributes:
        base: The map's root.
        bound: The fingerprint's, of then; None where nothing is new.
        count: How many rows there are now.
        gone: Keys and values of the map that the table has no longer, in order.
    """

    base: ObjectId
    bound: int | None
    count: int
    gone: Sequence[tuple[bytes, bytes]]

    def join(
        self, session: Session, plan: TablePlan, store: ObjectReader, spill: SpillContent
    ) -> Iterator[tuple[bytes, bytes | None, bytes | None]]:
        """Yield, in order of keys, what may differ: a key with its value in the map, and now."""
        if self.bound is None:
            return
        reader = MapReader(store, self.base)
        for key, old, new in join(self.gone, session.rows_since(plan, spill, self.bound)):
            yield (key, old, None) if new is None else (key, reader.find(key), new)


def find_since(
    session: Session,
    plan: TablePlan,
    base: ObjectId,
    count: int,
    before: Fingerprint,
    now: Fingerprint,
    store: ObjectReader,
) -> Since | None:
    """Return what is new in a table, or None if that cannot be told and all has to be read.

    Args:
        base: The map that held its rows `before`, `count` in number.
        now: What it is known by in this session; it continues `before`.
    """
    reader = MapReader(store, base)
    new = sum(
        reader.find(key) is None for key, _ in session.rows_since(plan, name_content, before.bound)
    )
    gone: list[tuple[bytes, bytes]] = []
    if count + new != now.total:
        live = ((key, b"") for key in session.keys(plan))
        entries = join(list_entries(store, base), live)
        gone = [(key, old) for key, old, here in entries if here is None and old is not None]
    if count + new - len(gone) != now.total:
        return None
    return Since(base, before.bound, now.total, gone)


def diff_table(
    session: Session, plan: TablePlan, base: ObjectId, store: ObjectReader
) -> Iterator[Change]:
    """Yield how the live rows differ from the map `base`, in key order; writes nothing."""
    for key, old, new in join(list_entries(store, base), session.rows(plan, name_content)):
        if old != new:
            yield Change(key, old, new)


Old = TypeVar("Old")
New = TypeVar("New")


def join(
    old: Iterable[tuple[bytes, Old]], new: Iterable[tuple[bytes, New]]
) -> Iterator[tuple[bytes, Old | None, New | None]]:
    """Yield every key of two sorted sequences with its value in each, or None."""
    old_entries, new_entries = iter(old), iter(new)
    left, right = next(old_entries, None), next(new_entries, None)
    while left is not None and right is not None:
        if left[0] == right[0]:
            yield left[0], left[1], right[1]
            left, right = next(old_entries, None), next(new_entries, None)
        elif left[0] < right[0]:
            yield left[0], left[1], None
            left = next(old_entries, None)
        else:
            yield right[0], None, right[1]
            right = next(new_entries, None)
    while left is not None:
        yield left[0], left[1], None
        left = next(old_entries, None)
    while right is not None:
        yield right[0], None, right[1]
        right = next(new_entries, None)


def _counted(
    rows: Iterator[tuple[bytes, bytes]], progress: Callable[[int], None] | None
) -> Iterator[tuple[bytes, bytes]]:
    if progress is None:
        return rows
    return _report(rows, progress)


def _report(
    rows: Iterator[tuple[bytes, bytes]], progress: Callable[[int], None]
) -> Iterator[tuple[bytes, bytes]]:
    count = 0
    for row in rows:
        yield row
        count += 1
        if count == _STEP:
            progress(count)
            count = 0
    progress(count)
