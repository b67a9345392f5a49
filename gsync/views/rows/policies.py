"""What becomes of a cell that both sides changed, where a policy says so (13-merge, section 7).

A policy is asked only where the plain rules leave a conflict. What it cannot settle stays one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Context, Decimal
from typing import Any

from gsync.objects.encoding import Value, encode
from gsync.views.mergefiles import is_text
from gsync.views.rows.jsontext import read_json, write_json
from gsync.views.rows.numerics import (
    DIGITS_AFTER_MAX,
    DIGITS_BEFORE_MAX,
    SPECIAL,
    is_numeric,
)
from gsync.views.rows.order import ORDERED, rank
from gsync.views.textmerge import merge_lines

CONFLICT = "conflict"
SIDES = frozenset({"ours", "theirs"})

_INT_LIMIT = 1 << 63
_EXACT = Context(prec=DIGITS_BEFORE_MAX + DIGITS_AFTER_MAX + 2)
_TYPES: dict[str, frozenset[str]] = {
    "max": ORDERED,
    "min": ORDERED,
    "counter": frozenset({"int", "numeric"}),
    "union": frozenset({"text[]", "jsonb"}),
    "json3": frozenset({"jsonb"}),
    "text3": frozenset({"text"}),
}
_LATEST = re.compile(r"latest\((.+)\)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Policies:
    """How the cells of one table are merged.

    Attributes:
        columns: The policy of each column that has one: `max`, `latest(updated_at)`.
        together: Groups of columns that come from one side.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    together: tuple[tuple[str, ...], ...] = ()

    def of(self, column: str) -> str:
        """Return the policy of `column`; one that `latest` looks at is `max` unless said."""
        found = self.columns.get(column)
        if found is not None:
            return found
        clocks = {latest_column(policy) for policy in self.columns.values()}
        return "max" if column in clocks else CONFLICT


def is_policy(text: str) -> bool:
    """Return whether `text` is the name of a policy."""
    return text in SIDES or text == CONFLICT or text in _TYPES or latest_column(text) is not None


def latest_column(policy: str) -> str | None:
    """Return the column that `latest(COLUMN)` looks at, or None for other policies."""
    match = _LATEST.fullmatch(policy)
    return match[1] if match else None


def suits(policy: str, type_: str) -> bool:
    """Return whether a policy can settle anything in a column of a type.

    For `latest(COLUMN)` that is the type of the column that it looks at.
    """
    if latest_column(policy) is not None:
        return type_ in ORDERED
    return type_ in _TYPES.get(policy, (type_,))


def merge_policies(base: Policies | None, ours: Policies, theirs: Policies) -> Policies:
    """Return the policies that count in a merge: three-way, column by column.

    Where both sides changed one to something else, the column has none.
    """
    old = base or Policies()
    columns = {}
    for name in ours.columns.keys() | theirs.columns.keys():
        was, mine, other = (p.columns.get(name) for p in (old, ours, theirs))
        policy = mine if was == other or mine == other else other if was == mine else CONFLICT
        if policy is not None:
            columns[name] = policy
    if ours.together == theirs.together or old.together == theirs.together:
        groups = ours.together
    elif old.together == ours.together:
        groups = theirs.together
    else:
        groups = join_groups((*ours.together, *theirs.together))
    return Policies(columns, groups)


def join_groups(groups: Iterable[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """Return `groups` with those that share a column made one, sorted."""
    joined: list[set[str]] = []
    for group in groups:
        wide = set(group)
        apart = []
        for other in joined:
            if other & wide:
                wide |= other
            else:
                apart.append(other)
        joined = [*apart, wide]
    return tuple(sorted(tuple(sorted(group)) for group in joined))


# --- Cells ---------------------------------------------------------------------------

UNSETTLED = object()
"""What a policy returns that has nothing to say about the three cells."""

Settle = Callable[[Value, Value, Value], Any]
"""From base (None if there is none, or NULL), ours and theirs to a cell, or UNSETTLED."""


def settler(policy: str, type_: str) -> Settle:
    """Return what settles a cell of a column of `type_`; cells come loaded, whatever their size."""
    if not suits(policy, type_):
        return _leave
    match policy:
        case "max" | "min":
            return _extreme(type_, highest=policy == "max")
        case "counter":
            return _count_int if type_ == "int" else _count_numeric
        case "union":
            return _unite_array if type_ == "text[]" else _unite_json
        case "json3":
            return _merge_json
        case "text3":
            return _merge_text
    return _leave


def newer_side(type_: str, ours: Value, theirs: Value) -> str | None:
    """Return the side whose cell, of a column that `latest` looks at, is the greater one."""
    mine, other = rank(type_, ours), rank(type_, theirs)
    if mine == other:
        return None
    return "ours" if mine > other else "theirs"


def _leave(base: Value, ours: Value, theirs: Value) -> Any:
    return UNSETTLED


def _extreme(type_: str, *, highest: bool) -> Settle:
    def settle(base: Value, ours: Value, theirs: Value) -> Any:
        if ours is None or theirs is None:  # a value is preferred to none, either way
            return theirs if ours is None else ours
        mine, other = rank(type_, ours), rank(type_, theirs)
        return ours if (mine > other) == highest else theirs

    return settle


def _count_int(base: Value, ours: Value, theirs: Value) -> Any:
    if base is None or ours is None or theirs is None:
        return UNSETTLED
    total = ours + theirs - base
    return total if -_INT_LIMIT <= total < _INT_LIMIT else UNSETTLED


def _count_numeric(base: Value, ours: Value, theirs: Value) -> Any:
    if any(cell is None or cell in SPECIAL for cell in (base, ours, theirs)):
        return UNSETTLED
    total = _EXACT.subtract(_EXACT.add(Decimal(ours), Decimal(theirs)), Decimal(base))
    text = format(total, "f")
    return text if is_numeric(text) else UNSETTLED


def _unite_array(base: Value, ours: Value, theirs: Value) -> Any:
    sides = [] if base is None else base, ours, theirs
    if any(side is None or any(type(item) is list for item in side) for side in sides):
        return UNSETTLED  # NULL, more than one dimension, or bounds of its own
    return _unite(*sides, key=encode)


def _unite_json(base: Value, ours: Value, theirs: Value) -> Any:
    if ours is None or theirs is None:
        return UNSETTLED
    sides = [[] if cell is None else read_json(cell) for cell in (base, ours, theirs)]
    if any(type(side) is not list for side in sides):
        return UNSETTLED
    return write_json(_unite(*sides, key=lambda item: write_json(item).encode()))


def _unite(
    base: list[Any], ours: list[Any], theirs: list[Any], *, key: Callable[[Any], bytes]
) -> list[Any]:
    """Return what both kept of the base in its order, then what either added, by its bytes."""
    was, mine, other = ({key(item): item for item in side} for side in (base, ours, theirs))
    kept = [item for name, item in was.items() if name in mine and name in other]
    added = {name: item for name, item in (mine | other).items() if name not in was}
    return kept + [added[name] for name in sorted(added)]


def _merge_json(base: Value, ours: Value, theirs: Value) -> Any:
    if ours is None or theirs is None:
        return UNSETTLED
    sides = [{} if cell is None else read_json(cell) for cell in (base, ours, theirs)]
    merged = _merge_objects(*sides)
    return UNSETTLED if merged is UNSETTLED else write_json(merged)


def _merge_objects(base: Any, ours: Any, theirs: Any) -> Any:
    """Return the merged object, members three-way, or UNSETTLED; a member may be one again."""
    if type(ours) is not dict or type(theirs) is not dict:
        return UNSETTLED
    old = base if type(base) is dict else {}
    merged = {}
    for name in ours.keys() | theirs.keys():
        was, mine, other = (side.get(name, UNSETTLED) for side in (old, ours, theirs))
        if _alike(mine, other) or _alike(was, other):
            value = mine
        elif _alike(was, mine):
            value = other
        else:
            value = _merge_objects(was, mine, other)
            if value is UNSETTLED:
                return UNSETTLED
        if value is not UNSETTLED:  # a member that is gone
            merged[name] = value
    return merged


def _alike(one: Any, other: Any) -> bool:
    if one is UNSETTLED or other is UNSETTLED:
        return one is other
    return write_json(one) == write_json(other)


def _merge_text(base: Value, ours: Value, theirs: Value) -> Any:
    if base is None or ours is None or theirs is None:
        return UNSETTLED
    texts = [cell.encode() for cell in (base, ours, theirs)]
    if not all(map(is_text, texts)):
        return UNSETTLED
    merged = merge_lines(*texts)
    return UNSETTLED if merged is None else merged.decode()
