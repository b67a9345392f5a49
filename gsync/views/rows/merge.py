"""What becomes of a row that both sides changed, cell by cell (13-merge, section 6)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import zip_longest
from typing import TypeVar

from gsync.maps.merge import Combined
from gsync.objects.encoding import Reference, Value, encode
from gsync.views.rows.schema import Column, Schema
from gsync.views.rows.values import (
    SPILL_CELL_BYTES,
    BadRow,
    LoadContent,
    SpillContent,
    content_of,
    decode_row,
    encode_row,
    load_cell,
    name_content,
)

_T = TypeVar("_T")


class _Absent:
    """The base of a cell whose row, or whose column as it now is, the base does not have."""


_ABSENT = _Absent()


class RowMerger:
    """Merges rows of one table; `combine` is what `merge_maps` takes.

    Args:
        base: The schema of the base, or None if the table was not there.
        ours, theirs: Those of the sides.
        merged: What `merge_schemas` made of the three.
        load: Returns the content of a spilled cell; asked only where cells of at most
            SPILL_CELL_BYTES were spilled, as they may come back into the merged row.
        spill: Keeps the content of a cell that is too long for its row.
    """

    def __init__(
        self,
        base: Schema | None,
        ours: Schema,
        theirs: Schema,
        merged: Schema,
        load: LoadContent,
        spill: SpillContent,
    ) -> None:
        self.schema = merged
        self._widths = (base.width if base else 0, ours.width, theirs.width)
        self._load = load
        self._spill = spill
        old = {c.slot: c.type for c in base.columns if not c.retired} if base else {}
        self._columns = [(c.slot, c.name, c.type, old.get(c.slot) == c.type) for c in merged.live]

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

        Cells that clash and are not in `sides` are those of ours.
        """
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
        old = self._cells(base, self._widths[0]) if base is not None else None
        mine, other = self._cells(ours, self._widths[1]), self._cells(theirs, self._widths[2])
        cells: list[Value] = [None] * self.schema.width
        clashes = []
        for slot, name, type_, known in self._columns:
            before: Value = _ABSENT
            if old is not None:
                # A column that is new since the base was NULL in every row.
                before = old[slot] if known else _ABSENT if slot < self._widths[0] else None
            found = _merge_cell(type_, before, mine[slot], other[slot])
            if found is _ABSENT:
                clashes.append(name)
            elif type(found) is Reference and found.length <= SPILL_CELL_BYTES:
                found = load_cell(type_, found, self._load)
            cells[slot] = found
        return cells, clashes

    def _cells(self, row: bytes, width: int) -> list[Value]:
        cells = decode_row(row, width)
        return cells + [None] * (self.schema.width - len(cells))


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
    """Return whether two cells are the same, one of them spilled or not."""
    if type(one) is not type(other):
        if type(one) is Reference:
            one, other = other, one
        if type(other) is not Reference or one is _ABSENT:
            return False
        content = content_of(one)
        return content is not None and name_content(content) == other
    # A float is equal to others that are not the same cell; nothing in an array is one.
    return bool(encode([one]) == encode([other])) if type(one) is float else bool(one == other)


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
