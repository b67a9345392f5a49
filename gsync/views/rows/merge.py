"""What becomes of a row that both sides changed, cell by cell (13-merge, section 6)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import zip_longest
from typing import NamedTuple, TypeVar

from gsync.errors import Invalid
from gsync.frozen import replace
from gsync.maps.merge import Combined
from gsync.objects.encoding import Reference, Value, encode
from gsync.views.mergefiles import TEXT_BYTES_MAX
from gsync.views.rows.policies import (
    SIDES,
    UNSETTLED,
    Policies,
    latest_column,
    newer_side,
    settler,
)
from gsync.views.rows.schema import Column, Schema
from gsync.views.rows.values import (
    SPILL_CELL_BYTES,
    BadRow,
    LoadContent,
    SpillContent,
    decode_row,
    encode_row,
    load_cell,
    same_cell,
)

_T = TypeVar("_T")


class _Absent:
    """The base of a cell whose row, or whose column as it now is, the base does not have."""


_ABSENT = _Absent()


class _Cell(NamedTuple):
    """A column of the merged schema; `known` is whether the base's is of the same type."""

    slot: int
    name: str
    type: str
    known: bool


class _Rows(NamedTuple):
    """The cells of the three rows by slot; _ABSENT where the base has none."""

    base: list[Value]
    ours: list[Value]
    theirs: list[Value]


class RowMerger:
    """Merges rows of one table; `combine` is what `merge_maps` takes.

    Args:
        base: The schema of the base, or None if the table was not there.
        ours, theirs: Those of the sides.
        merged: What `merge_schemas` made of the three.
        load: Returns the content of a spilled cell; asked only where cells of at most
            SPILL_CELL_BYTES were spilled, as they may come back into the merged row.
        spill: Keeps the content of a cell that is too long for its row.
        policies: What settles cells that both sides changed, and which go together.
    """

    def __init__(
        self,
        base: Schema | None,
        ours: Schema,
        theirs: Schema,
        merged: Schema,
        load: LoadContent,
        spill: SpillContent,
        policies: Policies | None = None,
    ) -> None:
        self.schema = merged
        self._policies = policies or Policies()
        self._widths = (base.width if base else 0, ours.width, theirs.width)
        self._load = load
        self._spill = spill
        old = {c.slot: c.type for c in base.columns if not c.retired} if base else {}
        self._columns = [
            _Cell(c.slot, c.name, c.type, old.get(c.slot) == c.type) for c in merged.live
        ]
        self._by_name = {column.name: column for column in self._columns}
        self._groups = [
            [self._by_name[name] for name in group if name in self._by_name]
            for group in self._policies.together
        ]

    def combine(
        self, key: bytes, base: bytes | None, ours: bytes | None, theirs: bytes | None
    ) -> Combined:
        """Return the merged row of a key, or the kind of conflict; about 20 µs for ten columns.

        Raises:
            NotCanonical, BadRow: a side has no row of its schema's width, as a peer may send.
        """
        if ours is None or theirs is None:
            return self._deleted(base, ours, theirs)
        cells, clashes = self._merge(base, ours, theirs)
        if not clashes:
            try:
                return Combined(encode_row(cells, self._spill))
            except BadRow:  # each side fits, and together they are too long
                pass
        return Combined(None, "add/add" if base is None else "edit/edit")

    def list_clashes(self, base: bytes | None, ours: bytes, theirs: bytes) -> list[str]:
        """Return the columns in which two edits of a row do not go together."""
        return self._merge(base, ours, theirs)[1]

    def choose(
        self, base: bytes | None, ours: bytes, theirs: bytes, sides: Mapping[str, str]
    ) -> bytes:
        """Return the merged row with the cells of some columns from `base`, `ours` or `theirs`.

        Cells that clash and are not in `sides` are those of ours, but columns that go together
        come from one side.

        Raises:
            Invalid: `sides` names several for columns that go together.
        """
        sides = self._with_groups(sides)
        cells, clashes = self._merge(base, ours, theirs)
        rows = {
            "base": self._cells(base, self._widths[0]) if base is not None else cells,
            "ours": self._cells(ours, self._widths[1]),
            "theirs": self._cells(theirs, self._widths[2]),
        }
        for slot, name, type_, known in self._columns:
            side = sides.get(name) or ("ours" if name in clashes else None)
            if side is None:
                continue
            found = rows[side][slot] if known or side != "base" else None
            if type(found) is Reference and found.length <= SPILL_CELL_BYTES:
                found = load_cell(type_, found, self._load)
            cells[slot] = found
        return encode_row(cells, self._spill)

    def _with_groups(self, sides: Mapping[str, str]) -> Mapping[str, str]:
        found = dict(sides)
        for group in self._groups:
            names = [column.name for column in group]
            chosen = {sides[name] for name in names if name in sides}
            if len(chosen) > 1:
                raise Invalid(
                    f"{', '.join(names)} go together, so all come from one side",
                    hint="'together' in gsync.toml says so",
                )
            found |= dict.fromkeys(names, *chosen) if chosen else {}
        return found

    def _deleted(self, base: bytes | None, ours: bytes | None, theirs: bytes | None) -> Combined:
        kept = ours if theirs is None else theirs
        assert base is not None and kept is not None  # else the sides would not differ
        width = self._widths[1] if theirs is None else self._widths[2]
        old, new = self._cells(base, self._widths[0]), self._cells(kept, width)
        for slot, _, type_, known in self._columns:
            before = old[slot] if known else None
            if not (_same(before, new[slot]) or _equal(type_, before, new[slot])):
                return Combined(None, "delete/edit" if ours is None else "edit/delete")
        return Combined(None)

    def _merge(
        self, base: bytes | None, ours: bytes, theirs: bytes
    ) -> tuple[list[Value], list[str]]:
        """Return the merged cells, and the columns whose cells could not be merged."""
        mine, other = self._cells(ours, self._widths[1]), self._cells(theirs, self._widths[2])
        rows = _Rows(self._base_cells(base), mine, other)
        cells: list[Value] = [None] * self.schema.width
        clashes = []
        sides: dict[int, str | None] = {}
        for group in self._groups:
            sides |= dict.fromkeys((column.slot for column in group), self._group_side(group, rows))
        for column in self._columns:
            slot = column.slot
            match sides.get(slot):
                case "ours":
                    found = mine[slot]
                case "theirs":
                    found = other[slot]
                case None:
                    found = _merge_cell(column.type, rows.base[slot], mine[slot], other[slot])
                    if found is _ABSENT:
                        found = self._settle(column, rows)
                case _:  # both changed the group, and nothing says whose it is
                    found = mine[slot] if _agree(column, mine, other) else _ABSENT
            if found is _ABSENT:
                clashes.append(column.name)
            elif type(found) is Reference and found.length <= SPILL_CELL_BYTES:
                found = load_cell(column.type, found, self._load)
            cells[slot] = found
        return cells, clashes

    def _base_cells(self, base: bytes | None) -> list[Value]:
        if base is None:
            return [_ABSENT] * self.schema.width
        cells = self._cells(base, self._widths[0])
        for slot, _, _, known in self._columns:
            # A column that is new since the base was NULL in every row.
            if not known and slot < self._widths[0]:
                cells[slot] = _ABSENT
        return cells

    def _group_side(self, group: list[_Cell], rows: _Rows) -> str | None:
        """Return whose cells a group has, "" if nothing says; None if cell by cell will do."""
        if (
            all(_agree(column, rows.ours, rows.theirs) for column in group)
            or all(_agree(column, rows.base, rows.ours) for column in group)
            or all(_agree(column, rows.base, rows.theirs) for column in group)
        ):
            return None
        named = {self._policies.columns.get(column.name) for column in group} - {None}
        return (self._side(named.pop(), rows) if len(named) == 1 else None) or ""

    def _side(self, policy: str | None, rows: _Rows) -> str | None:
        """Return the side that a policy takes all of, or None."""
        if policy is None or policy in SIDES:
            return policy
        clock = self._by_name.get(latest_column(policy) or "")
        if clock is None:
            return None
        return newer_side(
            clock.type,
            *(self._loaded(clock, side[clock.slot]) for side in (rows.ours, rows.theirs)),
        )

    def _settle(self, column: _Cell, rows: _Rows) -> Value:
        """Return what the column's policy makes of a cell that both changed, or _ABSENT."""
        policy = self._policies.of(column.name)
        side = self._side(policy, rows)
        if side is not None:
            return (rows.ours if side == "ours" else rows.theirs)[column.slot]
        cells = [cells[column.slot] for cells in rows]
        if any(type(cell) is Reference and cell.length > TEXT_BYTES_MAX for cell in cells):
            return _ABSENT
        base, ours, theirs = (self._loaded(column, cell) for cell in cells)
        found = settler(policy, column.type)(base, ours, theirs)
        return _ABSENT if found is UNSETTLED else found

    def _loaded(self, column: _Cell, cell: Value) -> Value:
        return None if cell is _ABSENT else load_cell(column.type, cell, self._load)

    def _cells(self, row: bytes, width: int) -> list[Value]:
        cells = decode_row(row, width)
        return cells + [None] * (self.schema.width - len(cells))


def _agree(column: _Cell, one: list[Value], other: list[Value]) -> bool:
    a, b = one[column.slot], other[column.slot]
    return _same(a, b) or _equal(column.type, a, b)


def _merge_cell(type_: str, base: Value, ours: Value, theirs: Value) -> Value:
    """Return the merged cell, or _ABSENT where both sides changed it."""
    if _same(ours, theirs) or _same(base, theirs):
        return ours
    if _same(base, ours):
        return theirs
    if _equal(type_, ours, theirs):
        return max(ours, theirs, key=encode)
    if _equal(type_, base, ours):
        return theirs
    return ours if _equal(type_, base, theirs) else _ABSENT


def _same(one: Value, other: Value) -> bool:
    """Return whether two cells are the same; one that is absent is the same as none."""
    return one is other is _ABSENT or (
        one is not _ABSENT and other is not _ABSENT and same_cell(one, other)
    )


def _equal(type_: str, one: Value, other: Value) -> bool:
    """Return whether two cells are two spellings of one value, as 1.0 and 1.00 are."""
    if type_ == "numeric" and type(one) is type(other) is str:
        return _shortest(one) == _shortest(other)
    return type_ == "float" and type(one) is type(other) is float and one == other


def _shortest(numeric: str) -> str:
    return numeric.rstrip("0").rstrip(".") if "." in numeric else numeric


# --- Schemas -------------------------------------------------------------------------


def merge_schemas(base: Schema | None, ours: Schema, theirs: Schema) -> Schema | None:
    """Return a schema that the rows of all three are rows of as they stand, or None.

    That is the longer one's columns, if the other's are the beginning of it and what it adds
    may be NULL. Constraints and extras are merged three-way, by element and as a whole. None
    also if neither can be told, so the table is a conflict (13-merge, rule 6.2).
    """
    if ours == theirs:
        return ours
    longer, shorter = (ours, theirs) if len(ours.columns) > len(theirs.columns) else (theirs, ours)
    if ours.key != theirs.key or ours.table != theirs.table:
        return None
    columns = []
    for new, old in zip_longest(longer.columns, shorter.columns):
        column = _merge_column(base, new, old)
        if column is None:
            return None
        columns.append(column)
    was = base or replace(ours, unique=(), foreign=(), extras=())
    if ours.extras != theirs.extras and was.extras not in (ours.extras, theirs.extras):
        return None
    return replace(
        longer,
        columns=tuple(columns),
        unique=_merge_sets(was.unique, ours.unique, theirs.unique),
        foreign=_merge_sets(was.foreign, ours.foreign, theirs.foreign),
        extras=theirs.extras if was.extras == ours.extras else ours.extras,
    )


def _merge_column(base: Schema | None, new: Column, old: Column | None) -> Column | None:
    if old is None:
        return new if new.nullable or new.retired else None
    if old == new:
        return new
    # Not NULL on one side only: rows of the other may have one.
    if old._replace(nullable=True) == new._replace(nullable=True):
        return new._replace(nullable=True)
    return None


def _merge_sets(base: Iterable[_T], ours: Iterable[_T], theirs: Iterable[_T]) -> tuple[_T, ...]:
    was, mine, other = set(base), set(ours), set(theirs)
    kept = (mine & other) | ((mine ^ other) - was)
    return tuple(sorted(kept))  # type: ignore[type-var]
