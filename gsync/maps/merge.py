"""Base, ours, theirs -> what turns ours into the merged map, and what cannot be merged (13-merge).

What a value means is not known here: `combine` decides where both sides changed a key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from typing import NamedTuple

from gsync.changes import Change, MergeConflict
from gsync.maps.diff import diff_maps
from gsync.objects.model import Collection, Manifest
from gsync.objects.oid import ObjectId
from gsync.store.base import ObjectReader

CONFLICTS = "conflicts"
"""The collection of an unfinished merge; never merged itself."""


class Combined(NamedTuple):
    """What becomes of a key that both sides changed.

    Attributes:
        value: The merged value, or None for a deletion; without meaning in a conflict.
        conflict: The kind of conflict, or None if there is none.
    """

    value: bytes | None
    conflict: str | None = None


Combine = Callable[[bytes, bytes | None, bytes | None, bytes | None], Combined]
"""From key, base, ours and theirs, where both sides differ from the base and each other."""


def merge_maps(
    store: ObjectReader,
    base: ObjectId | None,
    ours: ObjectId | None,
    theirs: ObjectId | None,
    combine: Combine,
) -> Iterator[Change | MergeConflict]:
    """Yield what turns the map `ours` into the merged map, and the conflicts, in key order.

    Costs what the two differences from `base` cost (`diff_maps`), not what the maps hold.
    Roots are None for empty maps. Where a conflict is yielded, the value of `ours` stays, so
    no change of that key comes with it.

    Args:
        combine: Decides where both sides changed a key, and not to the same value.

    Yields:
        A Change whose `old` is the value of `ours`, or a MergeConflict; each key at most once.

    Raises:
        ObjectMissing: a node that differs is not in `store`.
    """
    if theirs in (base, ours):
        return
    if ours == base:
        yield from diff_maps(store, ours, theirs)
        return
    left, right = diff_maps(store, base, ours), diff_maps(store, base, theirs)
    mine = next(left, None)
    for other in right:
        while mine is not None and mine.key < other.key:
            mine = next(left, None)
        if mine is None or mine.key != other.key:
            yield other
        elif mine.new != other.new:
            found = combine(other.key, other.old, mine.new, other.new)
            if found.conflict is not None:
                yield MergeConflict(other.key, found.conflict, other.old, mine.new, other.new)
            elif found.value != mine.new:
                yield Change(other.key, mine.new, found.value)


# --- Collections ---------------------------------------------------------------------


class Choice(Enum):
    """What becomes of one collection as a whole (13-merge, section 2)."""

    OURS = "ours"
    THEIRS = "theirs"
    ENTRIES = "entries"  # both changed it: its entries are merged
    CONFLICT = "conflict"


class CollectionMerge(NamedTuple):
    """One collection of a merge.

    Attributes:
        name: Its name.
        base, ours, theirs: It on each side, or None where it is not there.
        choice: What becomes of it. ENTRIES of a table are only merged if `merge_schemas`
            finds a common schema; else that is a conflict too.
        conflict: The kind, if `choice` is CONFLICT.
    """

    name: str
    base: Collection | None
    ours: Collection | None
    theirs: Collection | None
    choice: Choice
    conflict: str | None = None


def merge_collections(
    base: Manifest | None, ours: Manifest, theirs: Manifest
) -> Iterator[CollectionMerge]:
    """Yield what becomes of each collection that one of the three has, in order of names."""
    sides = [{c.name: c for c in m.collections} if m else {} for m in (base, ours, theirs)]
    for name in sorted({name for side in sides for name in side} - {CONFLICTS}, key=str.encode):
        old, mine, other = (side.get(name) for side in sides)
        yield CollectionMerge(name, old, mine, other, *_choose(old, mine, other))


def _choose(
    base: Collection | None, ours: Collection | None, theirs: Collection | None
) -> tuple[Choice, str | None]:
    if ours == theirs or base == theirs:
        return Choice.OURS, None
    if base == ours:
        return Choice.THEIRS, None
    if ours is None or theirs is None:
        return Choice.CONFLICT, "delete/edit" if ours is None else "edit/delete"
    if ours.view != theirs.view or (base is not None and base.view != ours.view):
        return Choice.CONFLICT, "schema"
    return Choice.ENTRIES, None
