"""The short way to encode and decode the entry of a small file, against the general one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsync.objects.chunking import CHUNKED_ABOVE_BYTES
from gsync.objects.encoding import NotCanonical, Reference, decode, encode, find_blob_entry
from gsync.objects.model import VALUE_BYTES_MAX
from gsync.objects.oid import Kind, ObjectId
from gsync.views import files
from gsync.views.files import EntryType, FileEntry, decode_entry, encode_entry

lengths = st.one_of(
    st.sampled_from(
        [0, 1, 127, 128, 255, 256, 65535, 65536, CHUNKED_ABOVE_BYTES, CHUNKED_ABOVE_BYTES + 1]
        + [(1 << 32) - 1, 1 << 32, (1 << 63) - 1]
    ),
    st.integers(0, 1 << 20),
)
oids = st.binary(min_size=32, max_size=32).map(ObjectId)
references = st.builds(Reference, st.sampled_from(list(Kind)), oids, lengths)
values = st.tuples(st.integers(0, 5), lengths, references).map(list)


def slow_decode(value: bytes) -> FileEntry | None:
    """The general decoder and the rules, without the short way; None for what they refuse."""
    try:
        entry = files._entry(decode(value, VALUE_BYTES_MAX))
        files._check(entry)
    except NotCanonical:
        return None
    return entry


def fast_decode(value: bytes) -> FileEntry | None:
    try:
        return decode_entry(value)
    except NotCanonical:
        return None


@given(values, st.booleans())
def test_an_entry_has_one_encoding_whichever_way_it_is_made(
    value: list[object], equal: bool
) -> None:
    """The short way writes what the general encoder writes, and takes what it takes."""
    if equal:  # as of a file: the size is the reference's length
        assert isinstance(value[2], Reference)
        value[1] = value[2].length
    body = encode(value)
    found = fast_decode(body)
    assert found == slow_decode(body)
    if found is not None:
        assert encode_entry(found) == body
        assert type(found.type) is EntryType


@given(values, st.integers(0, 60), st.integers(0, 255), st.sampled_from(["set", "add", "cut"]))
def test_a_damaged_entry_is_taken_by_both_ways_or_by_neither(
    value: list[object], at: int, byte: int, how: str
) -> None:
    """No byte can be changed, added or removed so that the short way sees what is not there."""
    assert isinstance(value[2], Reference)
    value[0], value[1] = 0, value[2].length
    body = bytearray(encode(value))
    at = min(at, len(body) - 1)
    if how == "set":
        body[at] = byte
    elif how == "add":
        body.insert(at, byte)
    else:
        del body[at]
    assert fast_decode(bytes(body)) == slow_decode(bytes(body))


@pytest.mark.parametrize(
    ("written", "why"),
    [(b"\xcc\x05", "5 fits one byte"), (b"\xcd\x00\x05", "and"), (b"\xce\0\0\0\x05", "so on")],
)
def test_a_length_in_more_bytes_than_it_needs_is_refused(written: bytes, why: str) -> None:
    """A second encoding of the same entry would give one tree two ids."""
    body = encode_entry(FileEntry(EntryType.FILE, 5, Reference(Kind.BLOB, ObjectId(b"x" * 32), 5)))
    assert body[2:3] == b"\x05"
    longer = body[:2] + written + body[3:]
    assert find_blob_entry(longer) is None
    with pytest.raises(NotCanonical):
        decode_entry(longer)
