"""Conflicts as entries of a map: round trip, limits, and what they keep alive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsync.changes import MergeConflict
from gsync.errors import Invalid
from gsync.maps.omap import build_map, list_entries
from gsync.objects.encoding import NotCanonical, Reference, decode, encode
from gsync.objects.model import KEY_BYTES_MAX, VALUE_BYTES_MAX, Collection, references
from gsync.objects.oid import Kind, ObjectId
from gsync.store.memory import MemoryStore
from gsync.views.conflicts import (
    UNREPEATED,
    StoredConflict,
    conflict_key,
    decode_conflict,
    encode_conflict,
    encode_conflicts,
    store_collection_conflict,
    store_conflict,
)

ENTRY = encode([0, 3, Reference(Kind.BLOB, ObjectId(b"\1" * 32), 3)])
OTHER = encode([0, 4, Reference(Kind.BLOB, ObjectId(b"\2" * 32), 4)])
EDITED = MergeConflict(b"a/b", "edit/edit", ENTRY, OTHER, ENTRY)


@pytest.mark.parametrize("resolution", [None, "base", "ours", "theirs", "edited"])
def test_round_trip(resolution: str | None) -> None:
    """A conflict comes back as it was, open or resolved."""
    conflict = store_conflict("files", EDITED)._replace(resolution=resolution)
    assert decode_conflict(*encode_conflict(conflict)) == conflict
    deleted = conflict._replace(kind="delete/edit", ours=None)
    assert decode_conflict(*encode_conflict(deleted)) == deleted


@given(key=st.binary(min_size=1, max_size=12), fill=st.sampled_from([0, 4000, 4078, 4084]))
def test_long_keys_have_keys_of_their_own(key: bytes, fill: int) -> None:
    """Keys that do not fit beside the collection's name are kept whole in the value."""
    key = b"k" * fill + key
    conflict = store_conflict("db/main/table", EDITED._replace(key=key))
    stored, value = encode_conflict(conflict)
    assert len(stored) <= KEY_BYTES_MAX
    assert decode_conflict(stored, value) == conflict
    assert conflict_key("db/main/table", key + b"!") != stored


def test_sides_that_are_too_long_are_left_out() -> None:
    """Base goes first, then theirs, then ours, and none without need."""
    long = encode(["x" * 60] * 500)  # half of what a value may have
    longest = encode(["x" * 60] * 1050)
    assert len(longest) <= VALUE_BYTES_MAX
    for base, ours, theirs, kept in [
        (long, long, long, (UNREPEATED, long, long)),
        (longest, long, long, (UNREPEATED, long, long)),
        (ENTRY, longest, long, (UNREPEATED, longest, UNREPEATED)),
        (longest, longest, longest, (UNREPEATED, longest, UNREPEATED)),
        (None, longest, longest, (None, longest, UNREPEATED)),
        (longest, None, longest, (UNREPEATED, None, longest)),
    ]:
        conflict = store_conflict("files", MergeConflict(b"a", "edit/edit", base, ours, theirs))
        key, value = encode_conflict(conflict)
        assert len(value) <= VALUE_BYTES_MAX
        found = decode_conflict(key, value)
        assert (found.base, found.ours, found.theirs) == kept


def test_references_of_every_side_are_seen() -> None:
    """What base, ours and theirs refer to belongs to the closure of the map of conflicts."""
    store = MemoryStore()
    root = build_map(store, encode_conflicts([store_conflict("files", EDITED)]))
    found = {oid for _, oid in references(Kind.NODE, store.get(Kind.NODE, root))}
    assert found == {ObjectId(b"\1" * 32), ObjectId(b"\2" * 32)}


def test_entries_are_sorted_and_whole_collections_among_them() -> None:
    """Conflicts of several collections, and of one as a whole, make one map."""
    store = MemoryStore()
    table = Collection("db/main/t", ObjectId(b"\3" * 32), 7, ObjectId(b"\4" * 32), None)
    conflicts = {
        store_conflict("files", EDITED),
        store_conflict("files", EDITED._replace(key=b"a")),
        store_collection_conflict("db/main/t", "schema", None, table, table),
    }
    root = build_map(store, encode_conflicts(conflicts))
    assert {decode_conflict(*entry) for entry in list_entries(store, root)} == conflicts


KEY, VALUE = encode_conflict(store_conflict("files", EDITED))
CELLS = decode(VALUE, VALUE_BYTES_MAX)


@pytest.mark.parametrize(
    ("why", "key", "value"),
    [
        ("an unknown kind", KEY, encode(["edit", *CELLS[1:]])),
        ("an unknown resolution", KEY, encode([*CELLS[:4], "both"])),
        ("no side", KEY, encode(["edit/edit", None, None, None, None])),
        ("a side that is no array", KEY, encode(["edit/edit", 1, *CELLS[2:]])),
        ("a side that is false", KEY, encode(["edit/edit", False, *CELLS[2:]])),
        ("a key in the value without need", KEY, encode([*CELLS, b"a/b"])),
        ("too short", KEY, encode(CELLS[:4])),
        ("a key that is not one", b"files", VALUE),
        ("an empty key", encode(["files", b""]), VALUE),
        ("a bad collection", encode(["../files", b"a"]), VALUE),
        ("a hashed key without need", encode(["files", b"a", b"\0" * 32]), encode([*CELLS, b"a"])),
        ("a long key without the hash", encode(["files", b"a" * 5000]), VALUE),
        ("a whole collection with a key", encode(["files"]), encode([*CELLS, b"a"])),
    ],
)
def test_others_are_refused(why: str, key: bytes, value: bytes) -> None:
    """An entry that the encoder does not write raises NotCanonical."""
    with pytest.raises(NotCanonical):
        decode_conflict(key, value)


@given(key=st.binary(max_size=60), value=st.binary(max_size=60))
def test_any_bytes_decode_or_are_refused(key: bytes, value: bytes) -> None:
    """Any bytes are a conflict or raise Invalid."""
    try:
        found = decode_conflict(key, value)
    except Invalid:
        return
    assert isinstance(found, StoredConflict)
