"""Cutting: the vectors, a slow cutter written from the page, and the shape of edits."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from gsync.objects.chunk_list import ChunkListBuilder, decode_chunk_list, list_chunks
from gsync.objects.chunking import (
    CHUNK_BYTES_AVERAGE,
    CHUNK_BYTES_MAX,
    CHUNK_BYTES_MIN,
    CHUNKED_ABOVE_BYTES,
    cut,
    read_chunks,
    split_buffers,
)
from gsync.objects.encoding import Reference
from gsync.objects.oid import Kind, ObjectId, blob_id, object_id

SPEC = Path(__file__).parents[2] / "spec"
VECTORS: dict[str, Any] = json.loads((SPEC / "vectors" / "chunking.json").read_text())
GEAR = [int(number, 16) for number in VECTORS["gear"]]
MASK_BEFORE = int(VECTORS["mask_before_average"], 16)
MASK_AFTER = int(VECTORS["mask_from_average"], 16)


def content_of(pieces: list[dict[str, Any]]) -> bytes:
    """Return the content that a vector describes: its pieces, one after the other."""
    out = bytearray()
    for piece in pieces:
        size = piece["bytes"]
        if "xof" in piece:
            out += blake3(piece["xof"].encode()).digest(length=size)
        else:
            pattern = bytes.fromhex(piece["repeat"])
            out += (pattern * (size // len(pattern) + 1))[:size]
    return bytes(out)


def slow_cut(data: bytes) -> list[int]:
    """Cut as 02-chunking, section 2, says it, one byte after the other."""
    if len(data) <= 131_072:
        return [len(data)] if data else []
    ends, start = [], 0
    while start < len(data):
        start += slow_chunk(data[start : start + 131_072])
        ends.append(start)
    return ends


def slow_chunk(rest: bytes) -> int:
    """Return the length of the first chunk of `rest`, of which 131,072 bytes are enough."""
    if len(rest) <= 8192:
        return len(rest)
    gear_hash = 0
    for at in range(8192, len(rest) - len(rest) % 2):
        gear_hash = (2 * gear_hash + GEAR[rest[at]]) % 2**64
        if gear_hash & (MASK_BEFORE if at < 32_768 else MASK_AFTER) == 0:
            return at
    return len(rest)


def chunk_reference(chunk: bytes) -> Reference:
    return Reference(Kind.BLOB, blob_id(chunk), len(chunk))


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """Contents up to some chunks long: noise, repetition and both, near the limits too."""
    pieces = draw(
        st.lists(
            st.tuples(
                st.binary(max_size=3),
                st.sampled_from([0, 1, 2, 8191, 8192, 8193, 32_767, 32_769, 131_071, 131_073])
                | st.integers(0, 150_000),
                st.booleans(),
            ),
            max_size=3,
        )
    )
    return b"".join(
        (seed or b"\0") * (size // max(len(seed), 1)) if flat else blake3(seed).digest(length=size)
        for seed, size, flat in pieces
    )


@pytest.mark.parametrize("case", VECTORS["contents"], ids=lambda case: case["description"])
def test_vectors_of_contents(case: dict[str, Any]) -> None:
    """Every content of the vectors is cut where they say and has the root they say."""
    data = content_of(case["content"])
    ends = cut(data)
    chunks = [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    assert len(data) == case["bytes"]
    assert b3_hex(data) == case["content_id"]
    assert len(ends) == case["count"]
    assert ends[: len(case["first_ends"])] == case["first_ends"]
    assert b3_hex(b"".join(end.to_bytes(8, "big") for end in ends)) == case["ends_digest"]
    ids = [blob_id(chunk) for chunk in chunks]
    assert b3_hex(b"".join(ids)) == case["ids_digest"]
    if chunks:
        assert (ids[0].hex(), ids[-1].hex()) == (case["first_id"], case["last_id"])
    if case["root"] is None:
        assert len(chunks) <= 1
        return
    bodies: dict[ObjectId, bytes] = {}

    def put(kind: Kind, body: bytes) -> ObjectId:
        oid = object_id(kind, body)
        bodies[oid] = body
        return oid

    builder = ChunkListBuilder(put)
    references = [chunk_reference(chunk) for chunk in chunks]
    for reference in references:
        builder.add(reference)
    root = builder.finish()
    assert (root.kind, root.oid.hex(), root.length) == (2, case["root"], case["bytes"])
    assert decode_chunk_list(bodies[root.oid]).level == case["root_level"]
    assert list(list_chunks(bodies.__getitem__, root)) == references


def b3_hex(data: bytes) -> str:
    return blake3(data).hexdigest()


def test_page_and_vectors_and_library_have_one_gear_table() -> None:
    """The page, the vectors and the library that cuts have the same numbers."""
    constants = pytest.importorskip("pyfastcdc.py.constants")
    page = (SPEC / "02-chunking.md").read_text()
    table = page.split("<!-- gear table -->")[1]
    assert [int(number, 16) for number in re.findall(r"\b[0-9a-f]{16}\b", table)] == GEAR
    assert list(constants.GEAR) == GEAR
    assert list(constants.GEAR_LS) == [2 * number % 2**64 for number in GEAR]
    assert (constants.MASKS[16], constants.MASKS[14]) == (MASK_BEFORE, MASK_AFTER)
    assert VECTORS["mask_before_average"] in page
    assert VECTORS["mask_from_average"] in page
    assert (VECTORS["min"], VECTORS["average"], VECTORS["max"], VECTORS["chunked_above"]) == (
        CHUNK_BYTES_MIN,
        CHUNK_BYTES_AVERAGE,
        CHUNK_BYTES_MAX,
        CHUNKED_ABOVE_BYTES,
    )


@settings(deadline=None, max_examples=40)
@given(data=contents())
def test_cut_equals_slow_cut(data: bytes) -> None:
    """The library and one loop over the bytes find the same cuts, whatever the content."""
    assert cut(data) == slow_cut(data)


@pytest.mark.parametrize("extra", range(-3, 4))
def test_cut_near_the_end(extra: int) -> None:
    """Content that ends within some bytes of what would be a cut is cut as the page says."""
    data = blake3(b"near the end").digest(length=400_000)
    for end in slow_cut(data)[4:8]:
        assert cut(data[: end + extra]) == slow_cut(data[: end + extra])


def test_slow_build_of_the_library_cuts_alike() -> None:
    """The library without its compiled part has the same cuts, so a fallback is only slow."""
    slow = pytest.importorskip("pyfastcdc.py")
    cutter = slow.FastCDC(32_768, min_size=8192, max_size=131_072, normalized_chunking=1)
    data = blake3(b"fallback").digest(length=400_001)
    assert [chunk.offset + chunk.length for chunk in cutter.cut_buf(data)] == cut(data)


@settings(deadline=None, max_examples=60)
@given(data=contents(), sizes=st.lists(st.integers(0, 200_000), max_size=30))
def test_streaming_equals_cut(data: bytes, sizes: list[int]) -> None:
    """However the content is spread over buffers and reads, the chunks are those of `cut`."""
    ends = cut(data)
    expected = [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    assert list(split_buffers(spread(data, sizes))) == expected
    assert list(read_chunks(ShortReads(data, sizes))) == expected
    assert list(read_chunks(io.BytesIO(data))) == expected


def spread(data: bytes, sizes: list[int]) -> Iterator[memoryview]:
    """Yield `data` in one buffer that is filled again and again, as a file is read."""
    buffer = bytearray(max([1, *sizes, len(data) - sum(sizes)]))
    at = 0
    for size in [*sizes, max(0, len(data) - sum(sizes))]:
        part = data[at : at + size]
        buffer[: len(part)] = part
        yield memoryview(buffer)[: len(part)]
        at += len(part)


class ShortReads(io.BytesIO):
    """A file whose reads return less than was asked for."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        super().__init__(data)
        self._sizes = [size for size in sizes if size]

    def readinto(self, target: Any, /) -> int:
        size = self._sizes.pop() if self._sizes else len(target)
        return super().readinto(memoryview(target)[:size])


def test_read_error_is_passed_on() -> None:
    """A read that fails in the middle ends the chunks with its own error, not with an end."""

    def failing() -> Iterator[bytes]:
        yield bytes(300_000)
        raise OSError("unplugged")

    with pytest.raises(OSError, match="unplugged"):
        list(split_buffers(failing()))


def test_memory_does_not_follow_length() -> None:
    """No more than a few chunks are read ahead of the one that is handed out."""
    read = 0

    def source() -> Iterator[bytes]:
        nonlocal read
        for number in range(200):
            read += 65_536
            yield blake3(number.to_bytes(4, "big")).digest(length=65_536)

    cut_bytes = 0
    for chunk in split_buffers(source()):
        assert read - cut_bytes <= 4 * CHUNK_BYTES_MAX
        cut_bytes += len(chunk)
    assert cut_bytes == read


@pytest.mark.parametrize("at", [0, 1_000_000, 4_194_303, 6_291_456])
def test_insert_changes_few_chunks(at: int) -> None:
    """Some bytes inserted anywhere cost a handful of chunks, not the rest of the content."""
    data = blake3(b"locality").digest(length=6_291_456)
    old = {blob_id(chunk) for chunk in split_buffers([data])}
    new = {blob_id(chunk) for chunk in split_buffers([data[:at], b"inserted", data[at:]])}
    assert len(new - old) <= 4
    assert len(old) > 100
