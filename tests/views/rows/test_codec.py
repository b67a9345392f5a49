"""Keys, rows and texts of cells: nothing is lost, nothing is spelled twice, order is kept."""

from __future__ import annotations

import math
import struct
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsync.errors import Invalid
from gsync.objects.encoding import Reference, decode, encode
from gsync.objects.oid import Kind
from gsync.store.memory import MemoryStore
from gsync.views.rows.jsontext import DEPTH_MAX, canonical_json
from gsync.views.rows.keys import BadKey, decode_key, encode_key
from gsync.views.rows.schema import (
    Column,
    KeyColumn,
    NewColumn,
    Schema,
    View,
    decode_schema,
    decode_view,
    encode_schema,
    encode_view,
    make_schema,
)
from gsync.views.rows.texts import check_cell, format_cell, json_cell, parse_cell
from gsync.views.rows.times import DAYS_MAX, DAYS_MIN, MICROSECONDS_END, MICROSECONDS_MIN
from gsync.views.rows.values import (
    ROW_BYTES_MAX,
    SPILL_CELL_BYTES,
    SPILL_ROW_BYTES,
    BadRow,
    decode_row,
    encode_row,
    load_cell,
    name_content,
    spill_to,
)

TRICKY = [
    "",
    "|",
    "<null>",
    "\t",
    "\\N",
    "NULL",
    "null",
    "a|b",
    "a",
    "b",
    "\0",
    "\0\xff",
    "{}",
    '"',
]
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
TEXT = st.sampled_from(TRICKY) | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ENDLESS = st.sampled_from(["infinity", "-infinity"])
DATE = st.integers(DAYS_MIN, DAYS_MAX) | ENDLESS
TIME = st.integers(MICROSECONDS_MIN, MICROSECONDS_END - 1) | ENDLESS
SCALE = 3


@st.composite
def fixed(draw: st.DrawFn) -> str:
    """Return a numeric of SCALE digits after the point."""
    number = draw(st.integers(-(10**12), 10**12))
    return f"{Decimal(number).scaleb(-SCALE):f}"


NUMERIC = fixed() | st.sampled_from(["NaN", "Infinity", "-Infinity"])
ITEMS = st.none() | TEXT
ARRAY = st.lists(ITEMS, max_size=4) | st.integers(1, 3).flatmap(
    lambda n: st.lists(st.lists(ITEMS, min_size=n, max_size=n), min_size=1, max_size=3)
)
CELLS: dict[str, st.SearchStrategy[Any]] = {
    "bool": st.booleans(),
    "int": INT64,
    "numeric": NUMERIC,
    "float": st.floats(),
    "text": TEXT,
    "bytes": st.binary(max_size=12),
    "uuid": st.binary(min_size=16, max_size=16),
    "date": DATE,
    "timestamp": TIME | st.just("294246-01-01 00:00:00"),
    "timestamptz": TIME | st.just("294276-12-31 23:59:59.5+00"),
    "jsonb": st.sampled_from(["null", "{}", '{"a": 1.50}', '["\\u0001", "é"]']),
    "text[]": ARRAY | ARRAY.filter(bool).map(
        lambda items: ["#lb", [0, 2][: 2 if isinstance(items[0], list) else 1], items]
    ),
}  # fmt: skip
KEYS = {
    type_: CELLS[type_] for type_ in ("bool", "int", "numeric", "text", "bytes", "uuid", "date")
} | {"timestamp": TIME, "timestamptz": TIME}
KEY = st.lists(st.sampled_from(sorted(KEYS)), min_size=1, max_size=4).flatmap(
    lambda types: st.tuples(*[st.just(types), *[st.tuples(*[KEYS[t] for t in types])] * 2])
)
TYPED = st.sampled_from(sorted(CELLS)).flatmap(lambda t: st.tuples(st.just(t), CELLS[t]))
ROW = st.lists(st.none() | st.sampled_from(sorted(CELLS)).flatmap(lambda t: CELLS[t]), max_size=8)


def rank(type_: str, cell: Any) -> Any:
    """Return what sorts as cells of a type are to sort."""
    if type_ == "numeric":
        return (2, 0) if cell == "NaN" else (1, Decimal(cell))
    if type_ in ("date", "timestamp", "timestamptz"):
        return math.inf if cell == "infinity" else -math.inf if cell == "-infinity" else cell
    return cell.encode() if type_ == "text" else cell


def same(one: Any, other: Any) -> bool:
    """Return whether two cells are one value: NaN is NaN, and neither 1.0 nor True is 1."""
    if type(one) is list and type(other) is list and len(one) == len(other):
        return all(map(same, one, other))
    if type(one) is float and type(other) is float:
        return (
            math.isnan(one)
            and math.isnan(other)
            or struct.pack("d", one) == struct.pack("d", other)
        )
    return type(one) is type(other) and bool(one == other)


@given(KEY)
def test_keys_read_back_and_sort_as_values(case: tuple[list[str], Any, Any]) -> None:
    """A key decodes without its types; keys are equal, less and greater as their cells are."""
    types, one, other = case
    keys = [encode_key(types, cells) for cells in (one, other)]
    assert [decode_key(key) for key in keys] == [tuple(one), tuple(other)]
    ranks = [tuple(map(rank, types, cells)) for cells in (one, other)]
    assert (keys[0] < keys[1]) == (ranks[0] < ranks[1])
    assert (keys[0] == keys[1]) == (ranks[0] == ranks[1])


@given(st.binary(max_size=24) | st.binary(max_size=12).map(lambda tail: b"\x21\x03" + tail))
def test_any_bytes_are_one_key_or_none(body: bytes) -> None:
    """What decodes as a key is the only encoding of its cells."""
    try:
        cells = decode_key(body)
    except Invalid:
        return
    types = []
    for tag_type in cells:
        types.append({bool: "bool", int: "int", bytes: "bytes", str: "text"}[type(tag_type)])
    if set(types) <= {"bool", "int"}:
        assert encode_key(types, cells) == body


@given(ROW, ROW)
def test_rows_read_back_and_differ(one: list[Any], other: list[Any]) -> None:
    """A row decodes to its cells; rows are equal where cells are, trailing NULLs aside."""
    rows = [encode_row(cells, name_content) for cells in (one, other)]
    width = max(len(one), len(other))
    for row, cells in zip(rows, (one, other), strict=True):
        assert same(decode_row(row, width), cells + [None] * (width - len(cells)))
    padded = [cells + [None] * (width - len(cells)) for cells in (one, other)]
    assert (rows[0] == rows[1]) == same(*padded)


@given(st.binary(max_size=24))
def test_any_bytes_are_one_row_or_none(body: bytes) -> None:
    """What decodes as a row encodes to the same bytes."""
    try:
        cells = decode_row(body, 30)
    except Invalid:
        return
    assert encode_row(cells, name_content) == body


@given(TYPED)
def test_texts_read_back(case: tuple[str, Any]) -> None:
    """The text form of a cell reads back as the cell, and the cell is one of its type."""
    type_, cell = case
    check_cell(type_, cell)
    assert same(parse_cell(type_, format_cell(type_, cell)), cell)
    json_cell(type_, cell)


@given(st.sampled_from(sorted(CELLS)), st.text(max_size=12))
def test_any_text_is_a_cell_or_refused(type_: str, text: str) -> None:
    """Any text says a cell that its type has, or raises Invalid."""
    try:
        cell = parse_cell(type_, text)
    except Invalid:
        return
    check_cell(type_, cell)
    assert same(parse_cell(type_, format_cell(type_, cell)), cell)


def test_every_nan_is_the_one() -> None:
    """NaNs of other bits make the same row."""
    for bits in (0x7FF0000000000001, 0xFFF8000000000000, 0x7FFFFFFFFFFFFFFF):
        (nan,) = struct.unpack(">d", struct.pack(">Q", bits))
        assert encode_row([nan], name_content).hex() == "91cb7ff8000000000000"


@pytest.mark.parametrize(
    ("type_", "content"),
    [("text", "é" * 600), ("bytes", b"x" * 1025), ("text[]", ["x" * 2000, None]),
     ("text", "0123456789" * 20_000), ("jsonb", '"' + "x" * 1100 + '"')],
)  # fmt: skip
def test_long_cells_are_kept_apart(type_: str, content: Any) -> None:
    """A long cell is a reference in its row, has the name a dry scan gives it, and comes back."""
    store = MemoryStore()
    row = encode_row([1, content], spill_to(store.put))
    assert row == encode_row([1, content], name_content)
    (_, reference) = decode_row(row, 2)
    assert type(reference) is Reference
    check_cell(type_, reference)
    if reference.kind is Kind.BLOB:
        assert load_cell(type_, reference, lambda ref: store.get(ref.kind, ref.oid)) == content
    else:
        assert reference.length == 200_000


def test_a_cell_of_the_limit_stays() -> None:
    """1,024 bytes stay, and one more does not."""
    assert decode_row(encode_row(["x" * SPILL_CELL_BYTES], name_content), 1) == ["x" * 1024]
    assert len(encode_row(["x" * (SPILL_CELL_BYTES + 1)], name_content)) == 45


def test_a_long_row_gives_up_its_longest_cells_first() -> None:
    """Of a row too long the longest cells go, of equal ones the lower slot, until it fits."""
    cells: list[Any] = ["s" * 64, *["m" * 900] * 9, "l" * 1000]
    row = encode_row(list(cells), name_content)
    assert len(row) <= SPILL_ROW_BYTES
    spilled = [i for i, cell in enumerate(decode_row(row, 11)) if type(cell) is Reference]
    assert spilled == [1, 10]
    with pytest.raises(Invalid):
        encode_row(["s" * 64] * 1100, name_content)
    assert ROW_BYTES_MAX < 1100 * 64


NOT_CELLS: list[tuple[str, Any]] = [
    ("bool", 1), ("int", True), ("int", 1 << 63), ("int", 1.0), ("numeric", "1e2"),
    ("numeric", "-0.0"), ("numeric", "01"), ("numeric", ".5"), ("numeric", "1."), ("float", 1),
    ("text", b"x"), ("text", "\ud800"), ("bytes", "x"), ("uuid", bytes(15)), ("date", "2024-01-01"),
    ("timestamp", MICROSECONDS_END), ("timestamp", "2024-01-01 00:00:00"),
    ("timestamptz", "294246-01-01 00:00:00"), ("jsonb", '{"a":1}'), ("text[]", [["a"], ["a", "b"]]),
    ("text[]", [[]]), ("text[]", ["a", ["b"]]), ("text[]", ["#lb", [1], ["a"]]), ("text[]", [1]),
    ("int", Reference(Kind.BLOB, name_content(b"").oid, 0)),
]  # fmt: skip


@pytest.mark.parametrize(("type_", "cell"), NOT_CELLS)
def test_what_a_type_does_not_have_is_refused(type_: str, cell: Any) -> None:
    """A value outside its type, or in a second spelling, is no cell."""
    with pytest.raises(Invalid):
        check_cell(type_, cell)


@pytest.mark.parametrize(
    "text", ["1e999999999", "-1E-999999999", "1e" + "9" * 5000, "[" * 100_000, "9" * 200_000,
             "[" * (DEPTH_MAX + 1) + "]" * (DEPTH_MAX + 1), "NaN", '"\\u0000"', '"\\ud800"', ""],
)  # fmt: skip
def test_bombs_of_json_are_refused(text: str) -> None:
    """No text makes a number of a gigabyte or exhausts the stack."""
    with pytest.raises(Invalid):
        canonical_json(text)


def test_depth_is_not_counted_in_strings() -> None:
    """Brackets in strings nest nothing."""
    text = '["' + "[" * 1000 + '"]'
    assert canonical_json(text) == text
    assert decode(encode_row([text], name_content), 2000) == [text]


def test_a_key_of_the_limit() -> None:
    """4,096 bytes are a key, and one more is none."""
    assert len(encode_key(["text"], ["x" * 4094])) == 4096
    with pytest.raises(BadKey):
        encode_key(["text"], ["x" * 4095])
    with pytest.raises(BadKey):
        encode_key(["int", "text"], [1, "x" * 4086])


@pytest.mark.parametrize(
    "cells",
    [["x" * 1025], [b"x" * 1025], [name_content(b"x" * 100)], [name_content(b"")],
     [Reference(Kind.BLOB, name_content(b"").oid, 131_073)], ["x" * 65] * 150],
)  # fmt: skip
def test_rows_that_spill_otherwise_are_refused(cells: list[Any]) -> None:
    """A row with other cells spilled than the rule says is a second encoding of its cells."""
    with pytest.raises(Invalid):
        decode_row(encode(cells), 200)


@pytest.mark.parametrize(
    ("type_", "text"),
    [("float", "1e999"), ("float", "-1e999"), ("float", "1e-999"), ("date", "0000-01-01"),
     ("date", "0000-01-01 BC"), ("date", "4714-11-23 BC"), ("date", "5874898-01-01"),
     ("timestamp", "4714-11-23 23:59:59.999999 BC"), ("timestamp", "294277-01-01 00:00:00"),
     ("timestamptz", "294276-12-31 23:59:59-01"), ("timestamptz", "4714-11-24 00:00:00+01 BC")],
)  # fmt: skip
def test_texts_beyond_a_type_are_refused(type_: str, text: str) -> None:
    """What a type does not hold is not made into what it does."""
    with pytest.raises(Invalid):
        parse_cell(type_, text)


@pytest.mark.parametrize(
    ("type_", "cell"),
    [("date", DAYS_MIN - 1), ("date", DAYS_MAX + 1), ("timestamp", MICROSECONDS_MIN - 1),
     ("timestamptz", MICROSECONDS_END), ("date", True)],
)  # fmt: skip
def test_keys_hold_no_other_times_than_cells(type_: str, cell: Any) -> None:
    """A key is not the way around the range of a type."""
    with pytest.raises(BadKey):
        encode_key([type_], [cell])


SHORT = name_content(b"x" * 255)


@pytest.mark.parametrize(
    "cells",
    [[SHORT], [1, SHORT, "y" * 1024], [SHORT, *["y" * 300] * 30], [SHORT, "y" * 2000],
     [Reference(Kind.CHUNK_LIST, SHORT.oid, 2000)]],
)  # fmt: skip
def test_no_row_is_written_that_is_not_read(cells: list[Any]) -> None:
    """A reference that a row of these cells would not have is not kept in silence."""
    with pytest.raises(BadRow, match="loaded"):
        encode_row(cells, name_content)


@pytest.mark.parametrize("size", [255, 256])
def test_a_short_content_goes_only_where_it_has_to(size: int) -> None:
    """A text of up to 255 bytes has a head of two: rows of 8,192 bytes keep it."""
    rest = SPILL_ROW_BYTES - 3 - len(encode("a" * size))
    for count, kept in ((rest, True), (rest + 1, False)):
        row = encode_row(["a" * size, *[True] * count], name_content)
        assert (type(decode_row(row, count + 1)[0]) is str) == kept
    with pytest.raises(Invalid):
        decode_row(encode([name_content(b"a" * size), *[True] * rest]), rest + 1)


def test_a_schema_keeps_what_it_does_not_know() -> None:
    """Extras outlive a new version of the table, and a key that is unique is not repeated."""
    key = [KeyColumn("b", "int"), KeyColumn("a", "int")]
    known = Schema("t", tuple(key), (Column(0, "c", "text"),), extras=(("later", 1),))
    found = make_schema("t", key, [NewColumn("d", "text", True)], [("a", "b")], known=known)
    assert found.extras == known.extras
    assert found.unique == ()
    assert decode_schema(encode_schema(found)) == found
    view = View((("c", "local"),), (("later", [None]),))
    assert decode_view(encode_view(view)) == view


@pytest.mark.parametrize(
    "extras", [(("b", 1), ("a", 1)), (("a", 1), ("a", 1)), (("", 1),), (("x" * 256, 1),)]
)
def test_extras_are_checked_where_they_are_written(extras: tuple[tuple[str, Any], ...]) -> None:
    """What is not decoded is not encoded."""
    with pytest.raises(Invalid):
        encode_schema(Schema("t", (KeyColumn("id", "int"),), (), extras=extras))
    with pytest.raises(Invalid):
        encode_view(View((), extras))
