"""The table of spec/13-merge for rows, in plain words, and over generated cells."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsync.changes import Change, MergeConflict
from gsync.maps.merge import merge_maps
from gsync.maps.omap import build_map, edit_map, list_entries
from gsync.objects.encoding import Reference, Value
from gsync.objects.oid import Kind, ObjectId
from gsync.store.memory import MemoryStore
from gsync.views.rows.merge import RowMerger, _same, merge_schemas
from gsync.views.rows.schema import (
    Column,
    ForeignKey,
    KeyColumn,
    NewColumn,
    Schema,
    decode_schema,
    encode_schema,
    make_schema,
)
from gsync.views.rows.values import content_of, decode_row, encode_row, spill_to

KEY = (KeyColumn("id", "int"),)
TYPES = {"a": "text", "b": "int", "c": "numeric", "d": "float", "e": "text[]"}


def schema(*columns: str, known: Schema | None = None, **more: Any) -> Schema:
    return make_schema(
        "t", KEY, [NewColumn(c, TYPES.get(c, "text"), True) for c in columns], known=known, **more
    )


TABLE = schema("a", "b", "c", "d", "e")
WIDER = schema("a", "b", "c", "d", "e", "f", known=TABLE)


class Rows:
    """Merges rows that are written down as lists of cells."""

    def __init__(self, base: Schema | None, ours: Schema, theirs: Schema) -> None:
        merged = merge_schemas(base, ours, theirs)
        assert merged is not None
        self.store = MemoryStore()
        self.merged = merged
        self.spill = spill_to(self.store.put)
        self.merger = RowMerger(base, ours, theirs, merged, self.load, self.spill)

    def load(self, ref: Reference) -> bytes:
        return self.store.get(Kind.BLOB, ref.oid)

    def row(self, cells: list[Value] | None) -> bytes | None:
        return None if cells is None else encode_row(cells, self.spill)

    def merge(self, *sides: list[Value] | None) -> list[Value] | str | None:
        """Return the cells without trailing NULLs, None if deleted, or the kind of conflict."""
        base, ours, theirs = map(self.row, sides)
        found = self.merger.combine(b"key", base, ours, theirs)
        if found.conflict is not None:
            return found.conflict
        if found.value is None:
            return None
        cells = decode_row(found.value, self.merged.width)
        while cells and cells[-1] is None:
            cells.pop()
        return cells


ZERO, MINUS = 0.0, -0.0

CASES: list[tuple[str, Any, Any, Any, Any]] = [
    ("two cells", ["x", 1], ["y", 1], ["x", 2], ["y", 2]),
    ("one cell, not alike", ["x", 1], ["y", 1], ["z", 1], "edit/edit"),
    ("one cell alike, one each", ["x", 1, "1"], ["y", 2, "1"], ["y", 1, "2"], ["y", 2, "2"]),
    ("set to NULL and edited", ["x", 1], ["x", None], ["x", 2], "edit/edit"),
    ("set to NULL, another edited", ["x", 1], ["x"], ["y", 1], ["y"]),
    ("set from NULL, another edited", ["x"], ["x", 1], ["y"], ["y", 1]),
    ("added, cells alike but one", None, ["x", 1], ["x"], "add/add"),
    ("added, spelled differently", None, ["x", 1, "1.0"], ["x", 1, "1.00"], ["x", 1, "1.00"]),
    ("deleted, edited", ["x", 1], None, ["x", 2], "delete/edit"),
    ("edited, deleted", ["x", 1], ["x", 2], None, "edit/delete"),
    ("deleted, spelled differently", ["x", 1, "1.0"], None, ["x", 1, "1.00"], None),
    ("deleted, another zero", ["x", 1, "1", ZERO], ["x", 1, "1", MINUS], None, None),
    ("two spellings", ["x", 1, "1"], ["x", 1, "1.0"], ["x", 1, "1.00"], ["x", 1, "1.00"]),
    ("spelled differently, edited", ["x", 1, "1"], ["x", 1, "1.0"], ["x", 1, "2"], ["x", 1, "2"]),
    ("edited to two spellings", ["x", 1, "1"], ["x", 1, "2"], ["x", 1, "2.0"], ["x", 1, "2.0"]),
    ("100 is not 1", ["x", 1, "5"], ["x", 1, "100"], ["x", 1, "1"], "edit/edit"),
    ("arrays whole", [None, None, None, None, ["a"]], [None, None, None, None, ["a", "b"]],
     [None, None, None, None, ["c", "a"]], "edit/edit"),
    ("an array and a text", ["x", None, None, None, ["a"]], ["x", None, None, None, ["b"]],
     ["y", None, None, None, ["a"]], ["y", None, None, None, ["b"]]),
]  # fmt: skip


@pytest.mark.parametrize("case", [pytest.param(case, id=case[0]) for case in CASES])
def test_cases(case: tuple[str, Any, Any, Any, Any]) -> None:
    """Rows that both sides changed are merged by cells, or are conflicts, as the page says."""
    _, base, ours, theirs, expected = case
    rows = Rows(TABLE, TABLE, TABLE)
    assert rows.merge(base, ours, theirs) == expected
    turned = {"delete/edit": "edit/delete", "edit/delete": "delete/edit"}
    if isinstance(expected, str):
        expected = turned.get(expected, expected)
    assert rows.merge(base, theirs, ours) == expected


def test_clashing_columns_are_named() -> None:
    """Of a row that conflicts it can be told which columns do."""
    rows = Rows(TABLE, TABLE, TABLE)
    base, ours, theirs = (encode_row(cells, rows.spill) for cells in (["x", 1], ["y", 2], ["z", 2]))
    assert rows.merger.list_clashes(base, ours, theirs) == ["a"]
    assert rows.merger.list_clashes(None, base, ours) == ["a", "b"]


# --- Spilled cells -------------------------------------------------------------------

WIDE = make_schema("t", KEY, [NewColumn(f"c{i:02}", "text", True) for i in range(20)])


def test_spilled_cells_meet_those_in_line() -> None:
    """A row that grew spills cells that did not change; they are no edits of theirs."""
    rows = Rows(WIDE, WIDE, WIDE)
    base = [f"{i:02}" * 200 for i in range(18)]
    ours = [*base, "o" * 1000, "o" * 1000]  # beyond 8,192 bytes: the longest are spilled
    theirs = ["short", *base[1:]]
    assert Reference in map(type, decode_row(rows.row(ours) or b"", 20))
    assert Reference not in map(type, decode_row(rows.row(theirs) or b"", 20))
    merged = ["short", *ours[1:]]
    assert rows.merger.combine(b"k", *map(rows.row, (base, ours, theirs))) == (
        rows.row(merged),
        None,
    )
    # and what is spilled on both sides comes back into a row that shrank
    small = [None] * 12 + base[12:]
    gone = [None if i >= 12 else cell for i, cell in enumerate(ours)]
    expected = rows.row([None] * 20)
    sides = [rows.row(cells) for cells in (ours, [*small, *ours[18:]], gone)]
    assert rows.merger.combine(b"k", *sides) == (expected, None)


def test_long_contents_are_compared_unread() -> None:
    """Cells of more than 1,024 bytes are compared by reference, and none is loaded."""
    rows = Rows(TABLE, TABLE, TABLE)
    sides = [rows.row(cells) for cells in (["x" * 5000, 1], ["y" * 5000, 1], ["x" * 5000, 2])]
    expected = rows.row(["y" * 5000, 2])
    rows.store.reads = 0
    assert rows.merger.combine(b"k", *sides) == (expected, None)
    assert rows.store.reads == 0


def test_a_row_that_becomes_too_long_is_a_conflict() -> None:
    """Each side's row fits, but not both edits in one."""
    names = [NewColumn(f"c{i:04}", "text", True) for i in range(1500)]
    table = make_schema("t", KEY, names)
    rows = Rows(table, table, table)
    cell = "x" * 60
    ours, theirs = [cell] * 750, [None] * 750 + [cell] * 750
    assert rows.merge([], ours, theirs) == "edit/edit"


@given(seed=st.integers(0, 2**32))
def test_any_rows_merge_as_their_cells_do(seed: int) -> None:
    """Cells merge as their contents would, spilled or not, and alike from both sides."""
    r = random.Random(seed)
    rows = Rows(WIDE, WIDE, WIDE)

    def text() -> str | None:
        return r.choice([None, "x", "y" * r.choice([40, 70, 500, 1000, 1024, 1025, 3000])])

    base = [text() for _ in range(20)]
    share = r.choice([0.02, 0.2, 0.6])
    ours, theirs = ([text() if r.random() < share else cell for cell in base] for _ in range(2))
    merged, clashes = [], False
    for old, mine, other in zip(base, ours, theirs, strict=True):
        clashes |= mine != other and old not in (mine, other)
        merged.append(other if mine == old else mine)
    expected = (None, "edit/edit") if clashes else (rows.row(merged), None)
    assert rows.merger.combine(b"k", *map(rows.row, (base, ours, theirs))) == expected
    assert rows.merger.combine(b"k", *map(rows.row, (base, theirs, ours))) == expected


@given(seed=st.integers(0, 2**32))
def test_maps_of_rows_merge_alike_from_both_sides(seed: int) -> None:
    """Tables merge key by key and cell by cell; a side that did nothing adds nothing."""
    r = random.Random(seed)
    rows = Rows(TABLE, TABLE, TABLE)

    def cells() -> list[Value]:
        return [r.choice("xy"), r.choice([1, 2]), r.choice(["1", "1.0", "2"])]

    def edited(old: dict[bytes, list[Value]]) -> dict[bytes, list[Value]]:
        new = {key: row for key, row in old.items() if r.random() < 0.9}
        for key in map(bytes, ([i] for i in range(12))):
            if r.random() < 0.3:
                row, at = list(new.get(key, cells())), r.randrange(3)
                row[at] = cells()[at]
                new[key] = row
        return new

    base = {bytes([i]): cells() for i in range(10)}
    sides = [base, edited(base), edited(base)]
    old, mine, other = (
        build_map(rows.store, [(k, rows.row(side[k]) or b"") for k in sorted(side)])
        for side in sides
    )
    one, conflicts = merged_maps(rows, old, mine, other)
    two, swapped = merged_maps(rows, old, other, mine)
    assert {c.swapped() for c in conflicts} == swapped
    settled = {c.key for c in conflicts}
    assert one.items() - two.items() <= {(k, one.get(k)) for k in settled}
    assert two.items() - one.items() <= {(k, two.get(k)) for k in settled}
    assert merged_maps(rows, old, mine, old) == merged_maps(rows, old, old, mine)
    assert merged_maps(rows, old, mine, mine) == (dict(list_entries(rows.store, mine)), set())


def merged_maps(
    rows: Rows, base: ObjectId, ours: ObjectId, theirs: ObjectId
) -> tuple[dict[bytes, bytes], set[MergeConflict]]:
    outcomes = list(merge_maps(rows.store, base, ours, theirs, rows.merger.combine))
    changes = [(o.key, o.new) for o in outcomes if isinstance(o, Change)]
    root = edit_map(rows.store, ours, changes)
    return dict(list_entries(rows.store, root)), {
        o for o in outcomes if isinstance(o, MergeConflict)
    }


# --- Schemas -------------------------------------------------------------------------

RETIRED = schema("a", "b", "c", "d", known=TABLE)
OTHER = schema("a", "b", "c", "d", "e", "g", known=TABLE)
WIDEST = schema("a", "b", "c", "d", "e", "f", "g", known=WIDER)
RETYPED = Schema("t", KEY, (Column(0, "a", "int"), *TABLE.columns[1:]))
OTHER_KEY = Schema("t", (KeyColumn("id", "text"),), TABLE.columns)
STRICT = Schema("t", KEY, (TABLE.columns[0]._replace(nullable=False), *TABLE.columns[1:]))
NEEDED = Schema("t", KEY, (*TABLE.columns, Column(5, "f", "text", False)))
UNIQUE_A = schema("a", "b", "c", "d", "e", unique=[["a"]])
UNIQUE_B = schema("a", "b", "c", "d", "e", unique=[["b"]])
UNIQUE_AB = schema("a", "b", "c", "d", "e", unique=[["a"], ["b"]])
WIDER_A = schema("a", "b", "c", "d", "e", "f", known=TABLE, unique=[["a"]])
PARENT = ForeignKey(("b",), "p", ("id",))
CHILD = schema("a", "b", "c", "d", "e", foreign=[PARENT])
CHILD_A = schema("a", "b", "c", "d", "e", foreign=[PARENT], unique=[["a"]])
EXTRA = Schema("t", KEY, TABLE.columns, extras=(("x", 1),))
EXTRA_2 = Schema("t", KEY, TABLE.columns, extras=(("x", 2),))


@pytest.mark.parametrize(
    ("description", "base", "ours", "theirs", "merged"),
    [
        ("one side added a column", TABLE, WIDER, TABLE, WIDER),
        ("one added a column, the other that and one more", TABLE, WIDER, WIDEST, WIDEST),
        ("both added other columns", TABLE, WIDER, OTHER, None),
        ("both added the same", TABLE, WIDER, WIDER, WIDER),
        ("one retired a column", TABLE, RETIRED, TABLE, None),
        ("both retired it", TABLE, RETIRED, RETIRED, RETIRED),
        ("one changed a type", TABLE, RETYPED, TABLE, None),
        ("one changed the key", TABLE, OTHER_KEY, TABLE, None),
        ("one made a column NOT NULL", TABLE, STRICT, TABLE, TABLE),
        ("one made a column nullable", STRICT, STRICT, TABLE, TABLE),
        ("one added a column that is NOT NULL", TABLE, NEEDED, TABLE, None),
        ("one added a unique constraint", TABLE, UNIQUE_A, TABLE, UNIQUE_A),
        ("one dropped it", UNIQUE_A, UNIQUE_A, TABLE, TABLE),
        ("each added one", TABLE, UNIQUE_A, UNIQUE_B, UNIQUE_AB),
        ("one dropped one, the other added one", UNIQUE_A, TABLE, UNIQUE_AB, UNIQUE_B),
        ("one added a column, the other a constraint", TABLE, WIDER, UNIQUE_A, WIDER_A),
        ("one added a foreign key, one another constraint", TABLE, CHILD, UNIQUE_A, CHILD_A),
        ("no base", None, UNIQUE_A, UNIQUE_B, UNIQUE_AB),
        ("one added an extra", TABLE, EXTRA, TABLE, EXTRA),
        ("both changed an extra", TABLE, EXTRA, EXTRA_2, None),
        ("one changed an extra", EXTRA, EXTRA, EXTRA_2, EXTRA_2),
    ],
)
def test_schemas(
    description: str,
    base: Schema | None,
    ours: Schema,
    theirs: Schema,
    merged: Schema | None,
) -> None:
    """Two schemas become one under which all rows stand as they are, or the table conflicts."""
    assert merge_schemas(base, ours, theirs) == merged
    assert merge_schemas(base, theirs, ours) == merged
    if merged is not None:
        assert decode_schema(encode_schema(merged)) == merged


def test_rows_under_two_schemas() -> None:
    """A column that one side added meets the edits of the other."""
    rows = Rows(TABLE, WIDER, TABLE)
    ours = ["x", 1, None, None, None, "new"]
    assert rows.merge(["x", 1], ours, ["y", 1]) == ["y", 1, None, None, None, "new"]
    assert rows.merge(None, ours, ["x", 1]) == "add/add"
    assert rows.merge(["x", 1], None, ["x", 1, None, None, ["e"]]) == "delete/edit"
    assert rows.merge(["x", 1], ours, None) == "edit/delete"


def test_a_base_of_another_type_equals_nothing() -> None:
    """Where both sides changed a column's type, the base's cell is no cell of it."""
    rows = Rows(TABLE, RETYPED, RETYPED)
    assert rows.merge(["x", 1], [5, 1], [5, 2]) == [5, 2]
    assert rows.merge(["x", 1], [5, 1], [6, 1]) == "edit/edit"


def test_content_of_every_spillable_cell_is_found_again() -> None:
    """The content of an array is its encoding, so one in line equals the same one spilled."""
    rows = Rows(TABLE, TABLE, TABLE)
    array = ["a" * 100] * 9
    spilled = rows.spill(content_of(array) or b"")
    assert _same(array, spilled)
    assert _same(spilled, array)
    assert not _same(["b"], spilled)
    assert not _same(None, spilled)
