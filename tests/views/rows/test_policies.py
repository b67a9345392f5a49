"""Merge policies of spec/13-merge, section 7, in plain words, and over generated cells."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsync.errors import Invalid
from gsync.objects.encoding import Reference, Value
from gsync.objects.oid import Kind
from gsync.store.memory import MemoryStore
from gsync.views.rows.merge import RowMerger
from gsync.views.rows.policies import Policies, merge_policies, suits
from gsync.views.rows.schema import KeyColumn, NewColumn, make_schema
from gsync.views.rows.values import decode_row, encode_row, spill_to

COLUMNS = {
    "note": "text",
    "seen": "timestamptz",
    "count": "int",
    "price": "numeric",
    "ratio": "float",
    "tags": "text[]",
    "data": "jsonb",
    "day": "date",
    "done": "bool",
    "raw": "bytes",
}
SCHEMA = make_schema(
    "t",
    (KeyColumn("id", "int"),),
    [NewColumn(name, type_, True) for name, type_ in COLUMNS.items()],
)
Row = dict[str, Any]


class Table:
    """Merges rows that are written down as the cells that are not NULL."""

    def __init__(self, columns: dict[str, str], *together: tuple[str, ...]) -> None:
        self.store = MemoryStore()
        self.spill = spill_to(self.store.put)
        policies = Policies(columns, together)
        self.merger = RowMerger(SCHEMA, SCHEMA, SCHEMA, SCHEMA, self.load, self.spill, policies)

    def load(self, ref: Reference) -> bytes:
        return self.store.get(Kind.BLOB, ref.oid)

    def encode(self, row: Row | None) -> bytes | None:
        if row is None:
            return None
        cells: list[Value] = [None] * SCHEMA.width
        for column in SCHEMA.live:
            cells[column.slot] = row.get(column.name)
        return encode_row(cells, self.spill)

    def merge(self, base: Row | None, ours: Row, theirs: Row) -> Row | list[str]:
        """Return the merged row, or the columns that are in conflict."""
        sides = [self.encode(row) for row in (base, ours, theirs)]
        found = self.merger.combine(b"key", *sides)
        assert sides[1] is not None
        assert sides[2] is not None
        if found.conflict is not None:
            return self.merger.list_clashes(sides[0], sides[1], sides[2])
        assert found.value is not None
        return self.decode(found.value)

    def decode(self, body: bytes) -> Row:
        cells = decode_row(body, SCHEMA.width)
        found = {c.name: cells[c.slot] for c in SCHEMA.live if cells[c.slot] is not None}
        return {
            name: self.load(cell).decode() if isinstance(cell, Reference) else cell
            for name, cell in found.items()
        }


C = "conflict"
CASES: list[tuple[str, str, str, Any, Any, Any, Any]] = [
    # what, column, policy, base, ours, theirs, merged
    ("nobody said anything", "count", C, 1, 2, 3, C),
    ("the side that merges", "count", "ours", 1, 2, 3, 2),
    ("the other side", "count", "theirs", 1, 2, 3, 3),
    ("a greater integer", "count", "max", 1, 2, 10, 10),
    ("a smaller integer", "count", "min", 1, 2, 10, 2),
    ("greater as a number, not as text", "price", "max", "1", "9", "10.0", "10.0"),
    ("NaN is above all numbers", "price", "max", "1", "NaN", "Infinity", "NaN"),
    ("minus infinity is below", "price", "min", "1", "-Infinity", "-5", "-Infinity"),
    ("floats", "ratio", "max", 0.5, 1.5, -3.0, 1.5),
    ("text by its bytes", "note", "max", "a", "Z", "é", "é"),
    ("infinity is the last day", "day", "max", 1, "infinity", 9999, "infinity"),
    ("a year that is too far for the integer", "seen", "max", 1,
     "294246-01-01 00:00:00+00", 9_000_000_000_000_000_000, "294246-01-01 00:00:00+00"),
    ("a value before none, for max", "count", "max", 1, None, 0, 0),
    ("a value before none, for min", "count", "min", 1, None, 5, 5),
    ("added on both sides", "count", "max", ..., 2, 3, 3),
    ("both counted", "count", "counter", 10, 13, 11, 14),
    ("both counted down", "price", "counter", "1.50", "1.00", "0.5", "0.00"),
    ("counted without a base", "count", "counter", ..., 2, 3, C),
    ("counted beyond the type", "count", "counter", 0, (1 << 63) - 1, 1, C),
    ("counted to infinity", "price", "counter", "1", "Infinity", "2", C),
    ("added to a set and taken from it", "tags", "union", ["a", "b"], ["b", "d"], ["a", "b", "c"],
     ["b", "c", "d"]),
    ("the same added", "tags", "union", [], ["x", None], ["x", "y"], ["x", "y", None]),
    ("sets without a base", "tags", "union", ..., ["a"], ["b"], ["a", "b"]),
    ("an array of arrays is no set", "tags", "union", [], [["a"]], [["b"]], C),
    ("one side set to NULL", "tags", "union", ["a"], None, ["b"], C),
    ("a set in JSON", "data", "union", '["a"]', '["a", 1]', '[1.0, "a"]', '["a", 1, 1.0]'),
    ("members of an object", "data", "json3", '{"a": 1, "b": 2}', '{"a": 3, "b": 2}', '{"a": 1}',
     '{"a": 3}'),
    ("members of an object in an object", "data", "json3", '{"a": {"x": 1, "y": 1}}',
     '{"a": {"x": 2, "y": 1}}', '{"a": {"x": 1, "y": 2}}', '{"a": {"x": 2, "y": 2}}'),
    ("one member, not alike", "data", "json3", '{"a": 1}', '{"a": 2}', '{"a": 3}', C),
    ("a member deleted and edited", "data", "json3", '{"a": 1}', "{}", '{"a": 3}', C),
    ("arrays as a whole", "data", "json3", '{"a": [1]}', '{"a": [1, 2]}', '{"a": [0, 1]}', C),
    ("no object", "data", "json3", "1", "2", '{"a": 3}', C),
    ("other lines", "note", "text3", "a\nb\nc\nd\n", "A\nb\nc\nd\n", "a\nb\nc\nD\n",
     "A\nb\nc\nD\n"),
    ("the same line", "note", "text3", "a\n", "b\n", "c\n", C),
    ("texts without a base", "note", "text3", ..., "a\n", "b\n", C),
    ("lines of a boolean", "done", "text3", None, True, False, C),
    ("the greater of two contents", "raw", "max", b"a", b"b", b"c", C),
]  # fmt: skip


@pytest.mark.parametrize("case", [pytest.param(case, id=case[0]) for case in CASES])
def test_cases(case: tuple[str, str, str, Any, Any, Any, Any]) -> None:
    """A cell that both changed becomes what its policy says, from either side alike."""
    _, column, policy, base, ours, theirs, expected = case
    table = Table({column: policy})
    old = None if base is ... else {"raw": b"same", column: base}
    mine, other = ({"raw": b"same", column: cell} for cell in (ours, theirs))
    merged = table.merge(old, mine, other)
    swapped = table.merge(old, other, mine)
    assert merged == ([column] if expected == C else mine | {column: expected})
    if policy not in ("ours", "theirs"):
        assert swapped == merged


def test_the_newer_row_has_its_cells() -> None:
    """`latest` asks another column, which is itself the greater one of the two."""
    table = Table({"note": "latest(seen)"})
    old, mine = {"note": "a", "seen": 1, "count": 1}, {"note": "b", "seen": 5, "count": 2}
    other = {"note": "c", "seen": 3, "count": 1, "done": True}
    merged = {"note": "b", "seen": 5, "count": 2, "done": True}
    assert table.merge(old, mine, other) == table.merge(old, other, mine) == merged
    assert table.merge(old, mine, other | {"seen": 5}) == ["note"]
    assert table.merge(old, mine | {"seen": None}, other) == old | {
        "note": "c", "seen": 3, "count": 2, "done": True
    }  # fmt: skip


def test_columns_that_go_together_come_from_one_side() -> None:
    """Different changes to a group are one conflict, or all of it is from one side."""
    old, mine, other = {"note": "open"}, {"note": "done", "day": 7}, {"note": "open", "done": True}
    table = Table({}, ("note", "day", "done"))
    assert table.merge(old, mine, other) == ["day", "done", "note"]
    assert Table({}).merge(old, mine, other) == mine | other | {"note": "done"}
    assert table.merge(old, mine, old | {"count": 1}) == mine | {"count": 1}
    assert table.merge(old, mine, mine | {"count": 1}) == mine | {"count": 1}
    base, ours, theirs = (table.encode(row) for row in (old, mine, other))
    assert ours is not None
    assert theirs is not None
    chosen = table.merger.choose(base, ours, theirs, {"done": "theirs"})
    assert table.decode(chosen) == other
    with pytest.raises(Invalid, match="go together"):
        table.merger.choose(base, ours, theirs, {"done": "theirs", "day": "ours"})
    newer = Table({"note": "latest(count)"}, ("note", "day", "done"))
    assert newer.merge(old | {"count": 1}, mine | {"count": 2}, other | {"count": 3}) == other | {
        "count": 3
    }


def test_long_texts_are_merged_where_they_are_kept() -> None:
    """A text that is spilled is loaded, merged and spilled again."""
    lines = [f"line {n:05}\n" for n in range(1000)]
    old = {"note": "".join(lines)}
    mine = {"note": old["note"].replace("line 00003", "three")}
    other = {"note": old["note"].replace("line 00900", "nine hundred")}
    both = {"note": mine["note"].replace("line 00900", "nine hundred")}
    assert Table({"note": "text3"}).merge(old, mine, other) == both
    assert Table({}).merge(old, mine, other) == ["note"]


def test_policies_are_merged_too() -> None:
    """Who changed a policy is right; who did not agree has none."""
    old = Policies({"a": "max", "b": "max", "c": "max"}, (("x", "y"),))
    mine = Policies({"a": "min", "b": "max", "c": "min", "d": "ours"}, (("x", "y"),))
    other = Policies({"a": "max", "c": "union"}, (("y", "z"),))
    found = merge_policies(old, mine, other)
    assert found == Policies({"a": "min", "c": "conflict", "d": "ours"}, (("y", "z"),))
    turned = merge_policies(old, other, mine)
    assert found == turned
    assert merge_policies(None, mine, other).together == (("x", "y", "z"),)


def test_what_suits_a_type() -> None:
    """A policy that can settle nothing in a column is known before a merge."""
    assert suits("max", "int")
    assert not suits("max", "jsonb")
    assert not suits("latest(body)", "text[]")
    assert suits("ours", "bytes")


TEXTS = st.lists(st.sampled_from(["a", "b", "c", None]), max_size=4)
ROWS = st.fixed_dictionaries(
    {},
    optional={
        "note": st.sampled_from(["", "a\nb\n", "a\nc\n", "x\nb\n"]),
        "seen": st.integers(0, 3),
        "count": st.integers(-2, 2),
        "price": st.sampled_from(["1", "1.0", "2", "NaN"]),
        "ratio": st.sampled_from([0.0, -0.0, 1.5, float("inf")]),
        "tags": TEXTS,
        "data": st.sampled_from(['{"a": 1}', '{"a": 2}', '{"a": 1, "b": 1}', "[1]", "[1, 2]"]),
        "day": st.integers(0, 2),
        "done": st.booleans(),
    },
)
POLICIES = st.fixed_dictionaries(
    {},
    optional={
        "note": st.sampled_from(["text3", "max", "latest(seen)"]),
        "count": st.sampled_from(["counter", "min", "max", "latest(day)"]),
        "price": st.sampled_from(["counter", "max"]),
        "ratio": st.sampled_from(["min", "max"]),
        "tags": st.just("union"),
        "data": st.sampled_from(["json3", "union"]),
    },
)
GROUPS = st.sampled_from([(), (("note", "done"),), (("note", "day", "count"), ("price", "tags"))])


@given(st.none() | ROWS, ROWS, ROWS, POLICIES, GROUPS)
def test_sides_may_be_swapped(
    base: Row | None, ours: Row, theirs: Row, policies: dict[str, str], groups: Any
) -> None:
    """Whatever the policies are, but for `ours` and `theirs`, both sides come to the same."""
    table = Table(policies, *groups)
    assert table.merge(base, ours, theirs) == table.merge(base, theirs, ours)


@given(st.none() | ROWS, ROWS, POLICIES, GROUPS)
def test_what_one_side_changed_is_taken(
    base: Row | None, ours: Row, policies: dict[str, str], groups: Any
) -> None:
    """A policy is asked only where both sides changed a cell."""
    table = Table(policies, *groups)
    if base is not None and table.encode(base) != table.encode(ours):
        assert table.encode(table.merge(base, ours, base)) == table.encode(ours)  # type: ignore[arg-type]
