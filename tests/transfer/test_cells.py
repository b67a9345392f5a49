"""Changed cells travel without their rows, and arrive as the same map."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_collections import put_table

from gsync.errors import GsyncError, Invalid
from gsync.maps.omap import build_map
from gsync.objects.encoding import Reference, decode_trusted, encode
from gsync.objects.model import Manifest, decode_manifest, encode_manifest
from gsync.objects.oid import Kind, ObjectId
from gsync.objects.packs import compress
from gsync.protocol.frames import (
    PATCH_BYTES_MAX,
    Cells,
    Frame,
    FrameType,
    Patch,
    decode_patch,
    encode_frame,
    patch_frame,
    read_frames,
)
from gsync.protocol.messages import Fetch
from gsync.store.memory import MemoryStore
from gsync.transfer import send
from gsync.transfer.answer import Answerer
from gsync.transfer.negotiate import take_stream
from gsync.transfer.patch import put_cells, shortest_record
from gsync.transfer.receive import PatchMismatch, Receiver
from gsync.transfer.send import objects_in

Rows = Mapping[bytes, Any]

# Values that Python takes for equal, or for different from themselves, first.
CELLS = st.recursive(
    st.sampled_from([None, 0, 1, True, False, 0.0, -0.0, 1.0, math.nan, math.inf, "", b"", "a"])
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
    | st.binary(max_size=40),
    lambda cells: st.lists(cells, max_size=4),
    max_leaves=6,
)
KEYS = st.binary(min_size=1, max_size=3)


@st.composite
def two_tables(draw: st.DrawFn) -> tuple[dict[bytes, Any], dict[bytes, Any]]:
    """A table, and the same after edits of cells, rows and lengths."""
    old: dict[bytes, Any] = draw(
        st.dictionaries(KEYS, st.lists(CELLS, max_size=8) | CELLS, max_size=20)
    )
    new = dict(old)
    for key in draw(st.sets(st.sampled_from(sorted(old)))) if old else ():
        row = list(new[key]) if isinstance(new[key], list) else []
        for slot, cell in draw(st.lists(st.tuples(st.integers(0, 30), CELLS), max_size=3)):
            row += [None] * (slot + 1 - len(row))
            row[slot] = cell
        new[key] = row[: draw(st.integers(0, len(row)))] if draw(st.booleans()) else row
    for key in draw(st.sets(KEYS, max_size=3)):
        new.pop(key, None)
    new.update(draw(st.dictionaries(KEYS, CELLS, max_size=3)))
    return old, new


def commit(store: MemoryStore, rows: Rows, parents: tuple[ObjectId, ...] = ()) -> ObjectId:
    root = build_map(store, [(key, encode(rows[key])) for key in sorted(rows)])
    tables = (put_table(store, root, len(rows)),)
    return store.put(Kind.MANIFEST, encode_manifest(Manifest(parents, tables, "me", 1, "m")))


def root_of(store: MemoryStore, manifest: ObjectId) -> ObjectId:
    return decode_manifest(store.get(Kind.MANIFEST, manifest)).collections[0].root


def stream(store: MemoryStore, want: ObjectId, haves: Sequence[ObjectId] = ()) -> list[Frame]:
    answerer = Answerer(store, "tester", lambda: 1_000_000)
    data = b"".join(map(encode_frame, answerer.fetch(Fetch([want], list(haves)))))
    return list(read_frames([data]))


def records_in(frames: Sequence[Frame]) -> dict[bytes, bytes | Cells | None]:
    patches = [decode_patch(f.body) for f in frames if f.type is FrameType.PATCH]
    return {key: record for patch in patches for key, record in patch.records}


def replicate(store: MemoryStore, old: Rows, new: Rows) -> list[Frame]:
    """Bring both states to another store, and return the frames of the second."""
    target = MemoryStore()
    first = commit(store, old)
    second = commit(store, new, (first,))
    take_stream(Receiver(target), stream(store, first))
    frames = stream(store, second, [first])
    take_stream(Receiver(target), frames)
    assert target.missing([second]) == set()
    assert set(store._bodies) - set(target._bodies) == set()
    return frames


@given(tables=two_tables())
def test_any_edit_of_cells_arrives(tables: tuple[Rows, Rows]) -> None:
    """Whatever changes between two tables, the receiver comes to the sender's root."""
    replicate(MemoryStore(), *tables)


@given(tables=two_tables(), records=st.integers(1, 4))
def test_cells_in_patches_that_go_on_arrive(tables: tuple[Rows, Rows], records: int) -> None:
    """Cells of a patch that goes on are put into what the patch before it left."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(send, "_PATCH_RECORDS", records)
        replicate(MemoryStore(), *tables)


@given(old=st.lists(CELLS, max_size=6), new=st.lists(CELLS, max_size=6))
def test_a_record_is_exact_and_not_longer(old: list[Any], new: list[Any]) -> None:
    """What the sender writes for a change makes the new value, and never takes more bytes."""
    body = encode(new)
    record, size = shortest_record(old, new, body)
    assert size <= len(body)
    if isinstance(record, tuple):
        assert put_cells(old, record) == body
        assert size == len(encode([item for cell in record for item in cell]))
    else:
        assert record == body


def test_a_cell_that_changed_is_sent_alone() -> None:
    """In wide rows each kind of change goes as the cells that differ, nil for what went."""
    text = "x" * 60
    old = {b"%d" % n: [n, text, None, 1.0, b"end"] for n in range(6)}
    new = {
        **old,
        b"0": [9, text, None, 1.0, b"end"],
        b"1": [1, text],
        b"2": [2, text, None, True, b"end", None, -0.0],
        b"3": [3, text, None, 1.0, b"end", None],
        b"4": [4, "y" * 60],
        b"5": [5, text, [[1, None]], 1.0, b"end"],
    }
    assert records_in(replicate(MemoryStore(), old, new)) == {
        b"0": ((0, 9),),
        b"1": ((3, None), (4, None)),
        b"2": ((3, True), (6, -0.0)),
        b"3": encode(new[b"3"]),
        b"4": encode(new[b"4"]),
        b"5": ((2, [[1, None]]),),
    }


def test_equal_numbers_of_two_types_are_two_cells() -> None:
    """1, 1.0 and true, and both zeros, replace each other; the one NaN stays itself."""
    text = "x" * 60
    cells = [0, False, 0.0, -0.0, 1, True, 1.0, math.nan, [1], [1.0], [True], [-0.0], [0.0]]
    for left in cells:
        for right in cells:
            record, _ = shortest_record([left, text], [right, text], encode([right, text]))
            same = encode(left) == encode(right)
            assert record == (encode([right, text]) if same else ((0, right),))


def test_deeply_nested_cells_go_whole() -> None:
    """A cell too deep for the arrays of a patch around it travels in its whole value."""
    for depth in range(25, 32):
        cell: Any = 1
        for _ in range(depth):
            cell = [cell]
        frames = replicate(MemoryStore(), {b"k": ["x" * 99, 0]}, {b"k": ["x" * 99, cell]})
        assert isinstance(records_in(frames)[b"k"], tuple) == (depth <= 28)


def test_one_number_in_each_of_a_thousand_rows_costs_a_tenth_of_them() -> None:
    """A counter that changed in 1,000 of 20,000 rows of 200 bytes is no 200 KB, and no 20."""
    r = random.Random(7)
    rows = {n.to_bytes(4, "big"): [n, r.randbytes(180), 1, "text"] for n in range(20_000)}
    new = dict(rows)
    for key in r.sample(sorted(rows), 1000):
        n, content, _, text = rows[key]
        new[key] = [n, content, r.randrange(1 << 16), text]
    frames = replicate(MemoryStore(), rows, new)
    assert sum(len(frame.body) for frame in frames) < 9_000


def test_what_cells_make_fits_the_patch() -> None:
    """Small cells in many long values make several patches, each of which is taken."""
    r = random.Random(8)
    rows = {b"%03d" % n: [r.randbytes(60_000), n] for n in range(150)}
    frames = replicate(MemoryStore(), rows, {key: [row[0], -1] for key, row in rows.items()})
    assert sum(frame.type is FrameType.PATCH for frame in frames) > 2
    assert sum(len(frame.body) for frame in frames) < 2_000


def spilled(store: MemoryStore, content: bytes) -> Reference:
    return Reference(Kind.BLOB, store.put(Kind.BLOB, content), len(content))


def test_only_new_contents_of_a_row_are_sent() -> None:
    """Of a row's many contents, nested ones too, those go that its old version has not."""
    store, r = MemoryStore(), random.Random(9)
    one, two, three, four, five = (spilled(store, r.randbytes(2000)) for _ in range(5))
    old = {b"k": [1, one, [two, ["x", three]], None], b"l": ["text"]}
    new = {b"k": [1, one, [two, ["x", four]], three], b"l": ["text", [five]]}
    frames = replicate(store, old, new)
    assert sum(map(objects_in, frames)) == 3  # two contents and the manifest


def test_a_spilled_text_goes_as_the_difference_from_its_slot() -> None:
    """The dictionary is what stood in the slot, although another content came before it."""
    store, r = MemoryStore(), random.Random(10)
    text = r.randbytes(20_000).hex().encode()
    old = [None, spilled(store, b"other" * 500), spilled(store, text)]
    added, edited = spilled(store, b"added" * 500), spilled(store, text[:900] + b"!" + text[900:])
    frames = replicate(store, {b"k": old}, {b"k": [added, old[1], edited]})
    assert sum(frame.type is FrameType.DELTA for frame in frames) == 1
    assert sum(len(frame.body) for frame in frames) < 700


def test_large_contents_do_not_spoil_a_delta() -> None:
    """Blobs beyond a dictionary go whole; what changed beside them still goes as a difference."""
    store, r = MemoryStore(), random.Random(11)
    text = r.randbytes(20_000).hex().encode()
    large = [spilled(store, r.randbytes(300_000)) for _ in range(2)]
    old = {b"k": [spilled(store, text), large[0]]}
    frames = replicate(store, old, {b"k": [spilled(store, text + b"!"), large[1]]})
    assert sum(len(frame.body) for frame in frames) < 301_000


# --- Peers that lie ------------------------------------------------------------------


def take_cells(base: Rows | None, record: Any, target: bytes = bytes(32)) -> None:
    """Have a receiver that has `base` take a patch with one raw record for the key k."""
    store = MemoryStore()
    root = None
    if base is not None:
        root = build_map(store, [(key, encode(base[key])) for key in sorted(base)])
    body = compress(encode([root, [[0, b"k", record]], target]))
    Receiver(store).take(Frame(FrameType.PATCH, body))


REFUSED: list[tuple[str, Rows | None, Any, str]] = [
    ("the base is the empty map", None, [0, 1], "does not have"),
    ("the base has no rows", {}, [0, 1], "does not have"),
    ("the base has other keys", {b"j": [1], b"l": [1]}, [0, 1], "does not have"),
    ("the old value is text", {b"k": "text"}, [0, 1], "no array but a str"),
    ("the old value is nil", {b"k": None}, [0, 1], "no array"),
    ("no cell", {b"k": [1]}, [], "pairs"),
    ("a slot without a cell", {b"k": [1]}, [0], "pairs"),
    ("a third item", {b"k": [1]}, [0, 1, 2], "pairs"),
    ("a slot comes twice", {b"k": [1]}, [0, 1, 0, 2], "expected to rise"),
    ("slots fall", {b"k": [1]}, [1, 1, 0, 2], "expected to rise"),
    ("a slot below 0", {b"k": [1]}, [-1, 1], "expected to rise"),
    ("a slot beyond all values", {b"k": [1]}, [65_536, 1], "expected to rise"),
    ("a huge slot", {b"k": [1]}, [2**64 - 1, 1], "expected to rise"),
    ("a slot that is true", {b"k": [1, 2]}, [True, 1], "expected to rise"),
    ("a slot that is a float", {b"k": [1]}, [0.0, 1], "expected to rise"),
    ("a slot that is text", {b"k": [1]}, ["0" * 99, 1], "expected to rise"),
    ("nils make the value too long", {b"k": [1]}, [65_535, 1], "65536"),
    ("a cell makes the value too long", {b"k": [1]}, [0, b"x" * 65_536], "65536"),
]


@pytest.mark.parametrize(
    "base,record,text", [case[1:] for case in REFUSED], ids=[c[0] for c in REFUSED]
)
def test_refused_cells(base: Rows | None, record: Any, text: str) -> None:
    """Cells that have no value to go into, or make none, are refused with the reason."""
    with pytest.raises(Invalid, match=text):
        take_cells(base, record)


def test_cells_that_lead_elsewhere_are_refused() -> None:
    """Cells that are legal and wrong are found by the target root."""
    with pytest.raises(PatchMismatch):
        take_cells({b"k": [1]}, [0, 2])


def test_cells_not_canonical_are_refused() -> None:
    """A cell has the one encoding of its value, as all of the frame."""
    for cell in (b"\xcc\x01", b"\xca\x3f\x80\x00\x00", b"\x80", b"\xd9\x01a", b"\xc7\x01\x02x"):
        body = b"\x93\xc0\x91\x93\x00\xc4\x01k\x92\x00" + cell + b"\xc0"
        with pytest.raises(Invalid):
            Receiver(MemoryStore()).take(Frame(FrameType.PATCH, compress(body)))


def test_cells_make_no_flood() -> None:
    """A few bytes of cells do not become more than a patch of whole values could bring."""
    store = MemoryStore()
    keys = [struct.pack(">H", n) for n in range(PATCH_BYTES_MAX // 60_000 + 1)]
    root = build_map(store, [(key, encode([])) for key in keys])
    flood = Patch(root, [(key, ((60_000, 1),)) for key in keys], None)
    with pytest.raises(Invalid, match="make more than"):
        Receiver(store).take(patch_frame(flood))
    Receiver(store).take(patch_frame(Patch(root, flood.records[:-1], None)))


def test_cells_go_on_where_the_patch_before_led() -> None:
    """A patch that goes on has the unfinished map as its base, with its keys and values."""
    store = MemoryStore()
    whole = build_map(store, [(b"a", encode([1])), (b"b", encode([2, 3]))])
    receiver = Receiver(store)
    receiver.take(patch_frame(Patch(None, [(b"a", encode([1])), (b"b", encode([2]))], None)))
    with pytest.raises(Invalid, match="does not have"):
        receiver.take(patch_frame(Patch(ObjectId(b""), [(b"c", ((1, 3),))], whole)))
    receiver.take(patch_frame(Patch(ObjectId(b""), [(b"b", ((1, 3),))], whole)))
    assert receiver.unfinished is None


@given(slots=st.lists(st.integers(-1, 70_000) | CELLS, max_size=5), old=CELLS)
def test_any_cells_are_put_or_refused(slots: list[Any], old: Any) -> None:
    """Whatever stands for cells is refused with one of our errors, if not for its root."""
    with pytest.raises(GsyncError):
        take_cells({b"k": old}, slots)


def test_put_cells_leaves_its_argument_alone() -> None:
    """The old value is not changed by what is made of it."""
    old = [1, 2]
    assert decode_trusted(put_cells(old, ((0, 5), (3, 6)))) == [5, 2, None, 6]
    assert old == [1, 2]
