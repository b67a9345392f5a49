"""gsync's tables against the oracle's: random rows, and the edges that page 11 names."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import oracle as o
from oracle import rows as r

from gsync.errors import GsyncError
from gsync.maps.omap import build_map
from gsync.objects.encoding import Reference
from gsync.store.memory import MemoryStore
from gsync.views.rows import jsontext, keys, schema, texts, values

REFUSED = "refused"


def plain(v):
    """Tuples as lists and references as the oracle's, -0.0 and NaN by name, to be compared."""
    if isinstance(v, Reference):
        return o.Ref(int(v.kind), bytes(v.oid), v.length)
    if isinstance(v, o.Ref):
        return v
    if isinstance(v, (list, tuple)):
        return [plain(x) for x in v]
    return ("float", repr(v)) if isinstance(v, float) else (type(v).__name__, v)


def outcome(function, *args):
    try:
        return function(*args)
    except (o.Bad, GsyncError):
        return REFUSED


# --- cells ---

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
number = st.builds(
    lambda sign, whole, fraction: (
        sign * bool((whole + fraction).strip("0")) + whole + (f".{fraction}" if fraction else "")
    ),
    st.sampled_from(["", "-"]),
    st.integers(0, 10**25).map(str),
    st.text("00123", max_size=8),
)
endless = st.sampled_from(["infinity", "-infinity"])
moment = st.one_of(
    st.integers(-(10**17), 10**17),
    st.integers(r.FIRST_DAY * r.DAY, r.FAR - 1),
    st.sampled_from([r.FAR - 1, 0, -1, r.FIRST_DAY * r.DAY]),
    endless,
)
item = st.one_of(st.none(), text, st.sampled_from(["NULL", "nUll", "", "#lb", "a b", "\v", "\xa0"]))
grid = st.integers(1, 3).flatmap(
    lambda n: st.lists(st.lists(item, min_size=n, max_size=n), min_size=1, max_size=3)
)
bound = st.integers(-3, 3)
array = st.one_of(
    st.lists(item, max_size=4),
    grid,
    st.tuples(bound.filter(lambda b: b != 1), st.lists(item, min_size=1, max_size=3)).map(
        lambda v: ["#lb", [v[0]], v[1]]
    ),
    st.tuples(bound.filter(lambda b: b != 1), bound, grid).map(
        lambda v: ["#lb", [v[1], v[0]], v[2]]
    ),
)
document = st.recursive(
    st.none() | st.booleans() | st.integers() | st.decimals(allow_nan=False).map(float) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=4),
    max_leaves=8,
).map(json.dumps)
CELLS = {
    "bool": st.booleans(),
    "int": st.integers(-(2**63), 2**63 - 1),
    "numeric": number | st.sampled_from(["NaN", "Infinity", "-Infinity", "0", "0.00", "-0.01"]),
    "text": text,
    "bytes": st.binary(max_size=12) | st.binary(max_size=3).map(lambda b: b"\0\xff" + b + b"\0"),
    "uuid": st.binary(min_size=16, max_size=16),
    "date": st.integers(r.FIRST_DAY, r.LAST_DAY) | st.integers(-800000, 40000) | endless,
    "timestamp": moment,
    "timestamptz": moment,
    "float": st.floats(allow_nan=True).map(lambda x: float("nan") if x != x else x),
    "jsonb": st.just('{"a": 1.50, "bb": [null, "\\u0001"]}'),
    "text[]": array,
}
typed = st.sampled_from(sorted(CELLS)).flatmap(lambda t: st.tuples(st.just(t), CELLS[t]))
in_key = st.sampled_from(r.IN_KEYS).flatmap(lambda t: st.tuples(st.just(t), CELLS[t]))


@given(st.lists(in_key, min_size=1, max_size=4))
def test_keys(columns):
    """A key is the oracle's, and reads back as the cells."""
    types, cells = [t for t, _ in columns], [c for _, c in columns]
    key = keys.encode_key(types, cells)
    assert key == r.encode_key(types, cells)
    assert plain(keys.decode_key(key)) == plain(r.decode_key(key)) == plain(cells)


@given(st.lists(in_key, min_size=1, max_size=3), st.data())
def test_damaged_keys(columns, data):
    """Bytes that are nearly a key are refused by both, or have the same cells."""
    key = bytearray(r.encode_key([t for t, _ in columns], [c for _, c in columns]))
    at = data.draw(st.integers(0, len(key) - 1))
    match data.draw(st.sampled_from(["change", "cut", "insert"])):
        case "change":
            key[at] = data.draw(st.sampled_from([0, 1, 5, 48, 65, 127, 128, 255, key[at] ^ 1]))
        case "cut":
            del key[at:]
        case _:
            key.insert(at, data.draw(st.sampled_from([0, 48, 255])))
    got, want = outcome(keys.decode_key, bytes(key)), outcome(r.decode_key, bytes(key))
    assert plain(got) == plain(want)


BAD_KEYS = {
    "empty": "",
    "unknown tag": "30",
    "integer cut short": "2080000000",
    "zero with a scale above 16,383": "21024000",
    "D is shorter than E": "21038000023100",
    "D begins with 0": "2103800001303100",
    "D is empty": "210380000100",
    "D holds no digits": "21038000013a00",
    "exponent above 131,072": "21038200013100",
    "more than 16,383 digits after the point": "21037fc0003100",
    "negative with the end of a positive": "21017ffffece00",
    "unknown class": "2106",
    "no class": "21",
    "text without its end": "4061",
    "text that ends in an escape": "406100ff",
    "text that is not UTF-8": "40ff00",
    "text with a surrogate": "40eda08000",
    "uuid cut short": "42" + "00" * 15,
    "longer than 4,096": "40" + "61" * 4095 + "00",
}


@pytest.mark.parametrize("case", BAD_KEYS)
def test_refused_keys(case):
    key = bytes.fromhex(BAD_KEYS[case])
    assert outcome(r.decode_key, key) == REFUSED
    assert outcome(keys.decode_key, key) == REFUSED


BAD_CELLS = [
    ("int", 2**63), ("int", -(2**63) - 1), ("int", True), ("int", "infinity"), ("int", 1.0),
    ("bool", 1), ("numeric", "-0"), ("numeric", "-0.00"), ("numeric", "00.5"), ("numeric", ".5"),
    ("numeric", "5."), ("numeric", "1e3"), ("numeric", "+1"), ("numeric", ""), ("numeric", "nan"),
    ("numeric", "-NaN"), ("numeric", "١"), ("numeric", "1\n"), ("numeric", "1_0"), ("numeric", 1),
    ("numeric", "0." + "0" * 16384), ("numeric", "1" * 131073), ("text", b"a"), ("bytes", "a"),
    ("text", "\ud800"), ("uuid", bytes(15)), ("date", "2020-01-01"), ("date", "Infinity"),
    ("date", 2**63), ("date", r.FIRST_DAY - 1), ("date", r.LAST_DAY + 1),
    ("timestamp", r.FIRST_DAY * r.DAY - 1), ("timestamp", "294277-01-01 00:00:00"),
    ("timestamp", r.FAR), ("timestamp", "294245-12-31 00:00:00"),
    ("timestamp", "294246-02-29 00:00:00"), ("timestamp", "294246-01-01 00:00:00.10"),
    ("timestamp", "294246-01-01 00:00:00+00"), ("timestamptz", "294246-01-01 00:00:00"),
    ("timestamp", "0294246-01-01 00:00:00"), ("timestamp", "294246-01-01 24:00:00"),
    ("timestamp", "294246-01-01 00:00:60"), ("timestamp", "294246-01-01 00:00:00 BC"),
    ("timestamp", "294246-01-01 00:00:00\n"), ("timestamp", "294246-01-01T00:00:00"),
    ("timestamp", "294246-01-01 00:00:00."), ("timestamp", "294246-01-01 00:00:00.0"),
]  # fmt: skip
ONLY_IN_ROWS = [
    ("float", 1), ("float", "NaN"), ("jsonb", '{"a":1}'), ("jsonb", "1.0e1"), ("jsonb", ""),
    ("jsonb", 1), ("text[]", "{a}"), ("text[]", [1]), ("text[]", [[]]), ("text[]", [[], []]),
    ("text[]", ["a", ["b"]]), ("text[]", [["a"], ["b", "c"]]), ("text[]", [None, ["a"]]),
    ("text[]", [[["a"]], [["b"], ["c"]]]), ("text[]", ["#lb", [1], ["a"]]),
    ("text[]", ["#lb", [0], []]), ("text[]", ["#lb", [0, 1], ["a"]]), ("text[]", ["#lb", [], []]),
    ("text[]", ["#lb", [1, 1], [["a"]]]), ("text[]", ["#lb", ["0"], ["a"]]),
    ("text[]", ["#lb", [True], ["a"]]), ("text[]", ["#lb", [2**31], ["a"]]),
    ("text[]", ["#lb", [2**31 - 1], ["a"]]),
    ("text[]", ["#lb", [0], ["#lb", [0], ["a"]]]), ("text[]", [[[[[[["a"]]]]]]]),
    ("text[]", [b"a"]),
]  # fmt: skip


@pytest.mark.parametrize(("type_", "cell"), BAD_CELLS + ONLY_IN_ROWS)
def test_refused_cells(type_, cell):
    """What is no cell of its type is refused by the check that keys and rows rely on."""
    assert outcome(r.check_cell, type_, cell) == REFUSED
    assert outcome(texts.check_cell, type_, cell) == REFUSED


@pytest.mark.parametrize(
    ("type_", "cell"),
    [("timestamp", "294246-01-01 00:00:00"), ("timestamp", "294276-12-31 23:59:59.999999"),
     ("timestamptz", "294246-01-01 00:00:00.5+00"),
     ("text", None), ("float", 1.0), ("jsonb", "1"), ("text[]", [])],
)  # fmt: skip
def test_cells_that_are_not_in_keys(type_, cell):
    assert outcome(keys.encode_key, [type_], [cell]) == REFUSED
    if cell is not None:
        texts.check_cell(type_, cell)
        r.check_cell(type_, cell)


# --- rows ---


def row(cells):
    spilled = []

    def spill(content):
        spilled.append(content)
        return values.name_content(content)

    return values.encode_row(list(cells), spill), spilled


def compare(cells, types):
    body, spilled = row(cells)
    assert body == r.encode_row(cells)
    r.check_row(body, types)
    back = plain(values.decode_row(body, len(cells)))
    assert back == plain(o.decode(body)) + [("NoneType", None)] * (len(cells) - len(o.decode(body)))
    refs = [c for c in o.decode(body) if isinstance(c, o.Ref)]
    assert {r.name(c) for c in spilled} == set(refs) and len(spilled) == len(refs)


@given(st.lists(st.none() | typed, max_size=20))
def test_small_rows(columns):
    compare([c and c[1] for c in columns], [c and c[0] for c in columns])


SIZES = [0, 5, 63, 64, 65, 66, 300, 500, 500, 1023, 1024, 1025]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.none() | st.sampled_from(SIZES), max_size=60), st.randoms())
def test_rows_that_spill(sizes, rng):
    """Texts, bytes and arrays around the limits leave the row as in the oracle."""
    cells, types = [], []
    for n in sizes:
        t = rng.choice(["text", "bytes", "text[]", "numeric"])
        made = None
        if n is not None:
            made = {
                "text": "é" * (n // 2) + "a" * (n % 2),
                "bytes": bytes(n),
                "text[]": [None] * (n - 3 if n > 18 else n % 15),
                "numeric": "1" * max(n, 1),
            }[t]
        cells.append(made)
        types.append(t)
    compare(cells, types)


@pytest.mark.parametrize("size", [8189, 8190, 8191, 8192, 8193, 8194, 8195])
def test_a_row_around_8192_bytes(size):
    """A row of 8,192 bytes stays whole; else the longest, first cells go."""
    cells = ["a" * 1000] * 7
    rest = size - len(o.encode(cells))
    cells += ["b" * (rest // 2 - 3), b"c" * (rest - rest // 2 - 3)]
    assert len(o.encode(cells)) == size
    compare(cells, ["text"] * 8 + ["bytes"])


@pytest.mark.parametrize("n", [1023, 1024, 1025, 131071, 131072, 131073, 500_000])
def test_a_content_around_the_limits(n):
    data = random.Random(1).randbytes(n)
    compare([None, data, "x" * n], [None, "bytes", "text"])
    assert plain(values.name_content(data)) == r.name(data)


def test_ties_and_cells_of_64_bytes():
    compare(["a" * 64] * 200, ["text"] * 200)
    compare(["a" * 65] * 200, ["text"] * 200)
    compare([None] * 9000 + ["a" * 65, "b" * 64, 1], ["text"] * 9002 + ["int"])


@pytest.mark.parametrize(
    "cells", [[7.0] * 7282, [7.0] * 7281, [None] * 65532 + [1], [None] * 65533 + [1]]
)
def test_rows_around_65536_bytes(cells):
    want = outcome(r.encode_row, cells)
    got = outcome(row, cells)
    assert got == REFUSED if want == REFUSED else got[0] == want


@pytest.mark.parametrize("cells", [[-0.0], [0.0], [float("nan")], [float("-inf")], [1.0], [1],
                                   [], [None], [None, None], [None, 1, None], [""], [b""], [[]],
                                   [False], [True, 0]])  # fmt: skip
def test_rows_that_are_easily_taken_for_others(cells):
    assert row(cells)[0] == r.encode_row(cells)


LINK = r.name(b"x" * 65)
BAD_ROWS = {
    "nil at the end": [1, None],
    "nothing but nil": [None],
    "a cell more than columns": ["a"] * 4,
    "a text of 1,025 bytes in line": ["a" * 1025],
    "bytes of 1,025 in line": [None, None, bytes(1025)],
    "an array of 1,025 bytes in line": [None, [None] * 1022],
    "a short content that needed not go": [LINK],
    "a reference to 64 bytes": [r.name(b"x" * 64)],
    "a reference to no bytes": [r.name(b"")],
    "a blob of more than 131,072 bytes": [o.Ref(1, bytes(32), 131073)],
    "a chunk list of 131,072 bytes": [o.Ref(2, bytes(32), 131072)],
    "a reference to a node": [o.Ref(3, bytes(32), 2000)],
    "no array": "a",
    "nil": None,
    "a reference alone": LINK,
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_refused_rows(case):
    body = o.encode(BAD_ROWS[case])
    assert outcome(r.check_row, body, ["text", "text[]", "bytes"]) == REFUSED
    assert outcome(values.decode_row, body, 3) == REFUSED


def test_rows_that_are_not_canonical_msgpack():
    for body in (
        b"\x91\xcc\x01",
        b"\x91\x01\x01",
        b"",
        b"\x91",
        b"\x91\xca\0\0\0\0",
        b"\x81\x01\x01",
    ):
        assert outcome(values.decode_row, body, 3) == REFUSED


# --- JSON and texts ---

JSON = [
    '{"bb": 1, "a": 2, "a": 3}', '{"a": {"x": 1}, "a": {"y": 2}}', '{"é": 1, "z": 2, "ab": 3}',
    '{"": 0, "\\u0061": 1, "a": 2}', "1e2", "1.50", "1.50e1", "1.50e3", "1e-2", "-0", "-0.0",
    "-0.00e1", "0e5", "0e-5", "-0e-3", "1E+5", "12e-1", "0.0001e131075", "1e131071", "1e-16383",
    "123456789012345678901234567890.10", '"\\u001f\\u007f\\/\\b\\f\\n\\r\\t\\""', '"\x7f\u2028é😀"',
    '"\\ud83d\\ude00"', " [ 1 ,\n2\t] ", "[]", "{}", "[{}, []]", "null", "true", '"\\u000B"',
    "0e999999", "0.0e131073", '{"\\ud83d\\ude00": 1, "abcd": 2, "abcde": 0, "\uffff": 3}',
]  # fmt: skip
BAD_JSON = [
    "", " ", "nul", "01", "+1", ".5", "1.", "1e", "-", "[1,]", "{}x", "[1,2", '{"a"}', "{1:2}",
    "'a'", "NaN", "Infinity", "-Infinity", '"\x01"', '"a\tb"', '"\\u0000"', '"\\ud800"', '"\\x"',
    '"\\udc00\\ud800"', '"\\u12 4"', '"\\U0041"', "\ufeff1", "\xa01", "\x0b1", "1e131072", "١",
    "1_0", "1e-16384", "0e-16384", "0." + "0" * 16384, '{"a": "\\u0000", "a": 1}', "[1] [2]",
    '{"a": 1e131072, "a": 1}', '{"\\u0000": 1}', '"\ud800"', "1e99999999999999999999", "--1",
    '{"a": ["\\ud800"], "a": 1}', "0x10", "// a\n1", "[,1]", '{"a": 1,}', "1 2", "TRUE",
]  # fmt: skip


@pytest.mark.parametrize("source", JSON)
def test_json(source):
    want = r.canonical_json(source)
    assert jsontext.canonical_json(source) == want
    assert jsontext.canonical_json(want) == want


@pytest.mark.parametrize("source", BAD_JSON)
def test_refused_json(source):
    assert outcome(r.canonical_json, source) == REFUSED
    assert outcome(jsontext.canonical_json, source) == REFUSED


@given(document)
def test_random_json(source):
    want = outcome(r.canonical_json, source)
    assert outcome(jsontext.canonical_json, source) == want


@given(st.text('{}[],:" \\u0019eE.+-ntrfalse', max_size=12))
def test_random_text_as_json(source):
    assert outcome(jsontext.canonical_json, source) == outcome(r.canonical_json, source)


@pytest.mark.parametrize("depth", [100, 900, 5000, 100_000])
def test_deep_json(depth):
    """Deep documents are printed or refused, never a crash."""
    source = "[" * depth + "]" * depth
    assert outcome(jsontext.canonical_json, source) in (source, REFUSED)


@pytest.mark.parametrize("type_", r.TIMES)
def test_the_ends_of_time(type_):
    """The first and last moments are printed and read back; the text of late ones is the cell."""
    unit = 1 if type_ == "date" else r.DAY
    last = r.LAST_DAY if type_ == "date" else r.FAR - 1
    for cell in (r.FIRST_DAY * unit, last, -1, 0, -719163 * unit, -719162 * unit - 1):
        printed = r.format_cell(type_, cell)
        texts.check_cell(type_, cell)
        assert (texts.format_cell(type_, cell), texts.parse_cell(type_, printed)) == (printed, cell)


LISTS: dict[str, list] = {
    "{a,b}": ["a", "b"], "{}": [], '{"",NULL,"NULL"}': ["", None, "NULL"], "[1:1]={a}": ["a"],
    "[0:0]={a}": ["#lb", [0], ["a"]], "{{a},{b}}": [["a"], ["b"]], '{"\\\\\\""}': ['\\"'],
    "{\x1f,\xa0,\u2028}": ["\x1f", "\xa0", "\u2028"],
}  # fmt: skip
BAD_LISTS = ["{a,,b}", "{a", "{a}x", "{{a},{b,c}}", "{{},{}}", "[0:5]={a}", "[0:-1]={}", '{a"b"}',
             "[2147483647:2147483647]={a}", "{a,{b}}", "", "a", "{,}", "{a,}"]  # fmt: skip


@pytest.mark.parametrize("printed", LISTS)
def test_printed_arrays(printed):
    cell = LISTS[printed]
    assert plain(texts.parse_cell("text[]", printed)) == plain(cell)
    if printed[0] == "{" or cell[0] == "#lb":
        assert texts.format_cell("text[]", cell) == r.format_cell("text[]", cell) == printed


@pytest.mark.parametrize("printed", BAD_LISTS)
def test_refused_printed_arrays(printed):
    """What Postgres refuses is no array."""
    assert outcome(texts.parse_cell, "text[]", printed) == REFUSED


def test_spaces_beside_elements_are_no_elements():
    assert outcome(texts.parse_cell, "text[]", '{ a , "b" }') in (REFUSED, ["a", "b"])


@given(typed)
def test_text_forms(column):
    """A cell is printed as the oracle does, and read back as it was."""
    type_, cell = column
    printed = r.format_cell(type_, cell)
    assert texts.format_cell(type_, cell) == printed
    assert plain(texts.parse_cell(type_, printed)) == plain(cell)
    texts.check_cell(type_, cell)
    r.check_cell(type_, cell)


# --- schemas, views, tables ---

ONE = [1, "t", [["id", "int"]], [[0, "a", "text", True, None, False]], [], [], []]


def at(place, value, start=ONE):
    """A copy of a value with the one at a place of it changed."""
    copy = json.loads(json.dumps(start))
    inner = copy
    for i in place[:-1]:
        inner = inner[i]
    inner[place[-1]] = value
    return copy


def column(slot, name, retired=False):
    return [slot, name, "text", True, None, retired]


AB = at([3], [column(0, "a"), column(1, "ab"), column(2, "b")])
FK = [["a", "b"], "p", ["y", "x"], "cascade"]
SCHEMAS = {
    "one column": ONE,
    "no column but the key": at([3], []),
    "the last slot": at([3, 0, 0], 65534),
    "a retired column and a later one of its name": at([3], [column(0, "a", True), column(3, "a")]),
    "a retired column with the name of a key": at([3, 0], column(0, "id", True)),
    "unique constraints": at([4], [["a", "b"], ["a", "id"], ["ab"]], AB),
    "foreign keys": at(
        [5], [[["a"], "p", ["x"], "no action"], FK, [["ab"], "p", ["x"], "restrict"]], AB
    ),
    "foreign keys that differ in the action alone": at([5], [FK, [*FK[:3], "restrict"]], AB),
    "extras": at([6], [["a", 1], ["b", [None]]]),
    "1,600 columns, and retired ones": at(
        [3], [column(i, f"c{i:04}", i >= 1599) for i in range(1700)]
    ),
    "names of 255 bytes": at([1], "é" * 127 + "x"),
}
BAD_SCHEMAS = {
    "another version": at([0], 2),
    "no table": at([1], ""),
    "a table of 256 bytes": at([1], "x" * 256),
    "a table with NUL": at([1], "t\0"),
    "a column with NUL": at([3, 0, 1], "a\0"),
    "a parent without a name": at([5], [[["a"], "", ["x"], "cascade"]]),
    "a parent column of 256 bytes": at([5], [[["a"], "p", ["x" * 256], "cascade"]]),
    "no key": at([2], []),
    "a float in the key": at([2, 0, 1], "float"),
    "jsonb in the key": at([2, 0, 1], "jsonb"),
    "an unknown type": at([3, 0, 2], "money"),
    "slot 65,535": at([3, 0, 0], 65535),
    "slot true": at([3, 0, 0], True),
    "slot -1": at([3, 0, 0], -1),
    "a slot twice": at([3], [column(0, "a"), column(0, "b")]),
    "slots that fall": at([3], [column(1, "a"), column(0, "b")]),
    "a name twice": at([3], [column(0, "a"), column(1, "a")]),
    "the key's name": at([3, 0, 1], "id"),
    "a key column twice": at([2], [["id", "int"], ["id", "int"]]),
    "a retired column behind the live one": at([3], [column(0, "a"), column(1, "a", True)]),
    "nullable 1": at([3, 0, 3], 1),
    "a default": at([3, 0, 4], "x"),
    "retired nil": at([3, 0, 5], None),
    "a column without a name": at([3, 0, 1], ""),
    "an empty unique constraint": at([4], [[]]),
    "a unique constraint on nothing known": at([4], [["z"]]),
    "a unique constraint on a retired column": at([4], [["a"]], at([3, 0, 5], True)),
    "columns of a unique constraint not sorted": at([4], [["b", "a"]], AB),
    "a column twice in a unique constraint": at([4], [["a", "a"]], AB),
    "unique constraints not sorted": at([4], [["ab"], ["a", "b"]], AB),
    "a unique constraint twice": at([4], [["a"], ["a"]], AB),
    "the key as unique constraint": at([4], [["id"]]),
    "columns of a foreign key not sorted": at([5], [[["b", "a"], "p", ["x", "y"], "cascade"]], AB),
    "foreign keys not sorted": at([5], [FK, [["a"], "p", ["x"], "cascade"]], AB),
    "a foreign key twice": at([5], [FK, FK], AB),
    "more parent columns": at([5], [[["a"], "p", ["x", "y"], "cascade"]]),
    "an empty foreign key": at([5], [[[], "p", [], "cascade"]]),
    "a foreign key on nothing known": at([5], [[["z"], "p", ["x"], "cascade"]]),
    "an unknown action": at([5], [[["a"], "p", ["x"], "CASCADE"]]),
    "extras not sorted": at([6], [["b", 1], ["a", 1]]),
    "an extra twice": at([6], [["a", 1], ["a", 1]]),
    "65 extras": at([6], [[f"{i:02}", 0] for i in range(65)]),
    "a field less": ONE[:-1],
    "a field more": [*ONE, []],
    "1,601 columns": at([3], [column(i, f"c{i:04}") for i in range(1600)]),
}
VIEWS = {
    "empty": [1, [], None, []],
    "extras": [1, [], None, [["a", 1], ["b", [None]]]],
    "roles": [1, [["a", "local"], ["b", "volatile"], ["é", "excluded"]], None, []],
}
BAD_VIEWS = {
    "not sorted": [1, [["b", "local"], ["a", "local"]], None, []],
    "a column twice": [1, [["a", "local"], ["a", "volatile"]], None, []],
    "an unknown role": [1, [["a", "hidden"]], None, []],
    "a filter": [1, [], "x", []],
    "no name": [1, [["", "local"]], None, []],
    "another version": [2, [], None, []],
    "extras not sorted": [1, [], None, [["b", 1], ["a", 1]]],
    "a field less": [1, [], None],
}


@pytest.mark.parametrize("case", SCHEMAS)
def test_schemas(case):
    body = o.encode(SCHEMAS[case])
    r.check_schema(body)
    assert schema.encode_schema(schema.decode_schema(body)) == body


@pytest.mark.parametrize("case", BAD_SCHEMAS)
def test_refused_schemas(case):
    body = o.encode(BAD_SCHEMAS[case])
    assert outcome(r.check_schema, body) == REFUSED
    assert outcome(schema.decode_schema, body) == REFUSED


def made(columns, known=None, **more):
    new = [schema.NewColumn(n, "text", True) for n in columns]
    result = schema.make_schema("t", [schema.KeyColumn("id", "int")], new, known=known, **more)
    body = schema.encode_schema(result)
    r.check_schema(body)
    return result, o.decode(body)


def test_slots_follow_names_and_then_time():
    """Slots are in byte order at first, then the next free ones; what is gone is retired."""
    first, body = made(["é", "b", "Z"])
    assert body[3] == [column(0, "Z"), column(1, "b"), column(2, "é")]
    second, body = made(["y", "é", "a"], first)
    gone = [column(0, "Z", True), column(1, "b", True)]
    assert body[3] == [*gone, column(2, "é"), column(3, "a"), column(4, "y")]
    _, body = made(["b", "é", "a", "y"], second)
    assert body[3] == [*gone, *[column(2, "é"), column(3, "a"), column(4, "y"), column(5, "b")]]
    _, body = made(["y", "é", "a"], second)
    assert body == o.decode(schema.encode_schema(second))


def test_constraints_in_any_order_are_one_schema():
    """However a server lists constraints and their columns, the schema is the page's."""
    more = {
        "unique": [("b", "a"), ("ab",), ("id", "a")],
        "foreign": [
            schema.ForeignKey(("b", "a"), "p", ("x", "y"), "cascade"),
            schema.ForeignKey(("a",), "p", ("x",)),
        ],
    }
    _, body = made(["b", "ab", "a"], **more)
    assert body[4] == [["a", "b"], ["a", "id"], ["ab"]]
    assert body[5] == [[["a"], "p", ["x"], "no action"], [["a", "b"], "p", ["y", "x"], "cascade"]]


@pytest.mark.parametrize("case", VIEWS)
def test_views(case):
    body = o.encode(VIEWS[case])
    r.check_view(body)
    assert schema.encode_view(schema.decode_view(body)) == body


@pytest.mark.parametrize("case", BAD_VIEWS)
def test_refused_views(case):
    body = o.encode(BAD_VIEWS[case])
    assert outcome(r.check_view, body) == REFUSED
    assert outcome(schema.decode_view, body) == REFUSED


@settings(max_examples=15, deadline=None)
@given(
    st.dictionaries(
        st.tuples(CELLS["numeric"], text), st.tuples(text, array, CELLS["float"]), max_size=60
    )
)
def test_a_table_has_one_root(table):
    """Any order of the rows gives the oracle's root."""
    types = ["numeric", "text"]
    rows = [(list(k), list(c)) for k, c in table.items()]
    made = sorted((keys.encode_key(types, k), row(c)[0]) for k, c in rows)
    assert bytes(build_map(MemoryStore(), made)) == r.root(types, rows)
