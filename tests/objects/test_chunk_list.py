"""Chunk lists: the vectors, a builder written from the page, and what a reader refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from gsync.objects.chunk_list import (
    CONTENT_BYTES_MAX,
    NODE_BYTES_MAX,
    ChunkList,
    ChunkListBuilder,
    decode_chunk_list,
    encode_chunk_list,
    ends_node,
    list_chunks,
)
from gsync.objects.encoding import NotCanonical, Reference
from gsync.objects.oid import Kind, ObjectId, object_id


def test_nodes_that_were_walked_are_left_out() -> None:
    """A tree that names one node 512 times over is checked with one look at each node."""
    chunk = Reference(Kind.BLOB, ObjectId(b"c" * 32), 8192)
    leaf = encode_chunk_list(ChunkList(0, (chunk,) * 512))
    below = Reference(Kind.CHUNK_LIST, object_id(Kind.CHUNK_LIST, leaf), 512 * 8192)
    top = encode_chunk_list(ChunkList(1, (below,) * 512))
    root = Reference(Kind.CHUNK_LIST, object_id(Kind.CHUNK_LIST, top), 512 * below.length)
    bodies, reads = {below.oid: leaf, root.oid: top}, list[ObjectId]()

    def get(oid: ObjectId) -> bytes:
        reads.append(oid)
        return bodies[oid]

    chunks = list(list_chunks(get, root, set()))
    assert set(chunks) == {chunk}
    assert reads == [root.oid, below.oid, below.oid]  # in the middle, and as the last


VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "spec" / "vectors" / "chunking.json").read_text()
)


class Bodies(dict[ObjectId, bytes]):
    """A store of nodes that counts what is put and what is read."""

    def __init__(self) -> None:
        super().__init__()
        self.got = 0

    def put(self, kind: Kind, body: bytes) -> ObjectId:
        oid = object_id(kind, body)
        self[oid] = body
        return oid

    def get_body(self, oid: ObjectId) -> bytes:
        self.got += 1
        return self[oid]


def chunks_of(rule: dict[str, Any]) -> list[Reference]:
    """Return the references that a vector describes; see `lists_rule` in the vectors."""
    count, distinct = rule["count"], rule["distinct"]
    chunks = []
    for number in range(count):
        seed = f"{rule['seed']} {number % distinct}".encode()
        oid = blake3(seed).digest()
        chunks.append(Reference(Kind.BLOB, ObjectId(oid), 8192 + oid[0] * 256))
    return chunks


def build(chunks: list[Reference], bodies: Bodies) -> Reference:
    builder = ChunkListBuilder(bodies.put)
    for chunk in chunks:
        builder.add(chunk)
    return builder.finish()


def naive_build(chunks: list[Reference]) -> tuple[bytes, list[int]]:
    """Build level by level as 02-chunking, section 3, says it.

    Returns:
        The root's id, and the number of nodes at each level.
    """
    entries: list[tuple[int, bytes, int]] = [(1, c.oid, c.length) for c in chunks]
    counts: list[int] = []
    while True:
        nodes: list[list[tuple[int, bytes, int]]] = [[]]
        for entry in entries:
            nodes[-1].append(entry)
            size = len(nodes[-1])
            if size == 512 or (size >= 32 and entry[1][-1] % 128 == 0):
                nodes.append([])
        if not nodes[-1]:
            nodes.pop()
        level = len(counts)
        counts.append(len(nodes))
        entries = [(2, naive_id(level, node), sum(entry[2] for entry in node)) for node in nodes]
        if len(entries) == 1:
            return entries[0][1], counts


def naive_id(level: int, node: list[tuple[int, bytes, int]]) -> bytes:
    size = len(node)
    array = bytes([0x90 + size]) if size < 16 else b"\xdc" + size.to_bytes(2, "big")
    body = b"\x93\x01" + bytes([level]) + array
    for kind, oid, length in node:
        body += b"\xc7\x29\x01" + bytes([kind]) + oid + length.to_bytes(8, "big")
    return blake3(body, derive_key_context="gsync 2026 chunk list v1").digest()


@pytest.mark.parametrize("case", VECTORS["lists"], ids=lambda case: case["description"])
def test_vectors_of_lists(case: dict[str, Any]) -> None:
    """Every list of the vectors has the root and the nodes per level that they say."""
    chunks, bodies = chunks_of(case["chunks"]), Bodies()
    root = build(chunks, bodies)
    assert (root.oid.hex(), root.length) == (case["root"], case["bytes"])
    assert naive_build(chunks) == (root.oid, case["nodes_per_level"])
    assert list(list_chunks(bodies.get_body, root)) == chunks
    assert bodies.got == sum(case["nodes_per_level"])


@pytest.mark.parametrize("case", VECTORS["reject_nodes"], ids=lambda case: case["reason"])
def test_vectors_of_refused_nodes(case: dict[str, Any]) -> None:
    """A node that no builder writes is refused without a look at any other."""
    with pytest.raises(NotCanonical):
        decode_chunk_list(bytes.fromhex(case["body"]))


@pytest.mark.parametrize("case", VECTORS["reject_trees"], ids=lambda case: case["reason"])
def test_vectors_of_refused_trees(case: dict[str, Any]) -> None:
    """Nodes that are each well formed and make no list that a builder writes are refused."""
    bodies = Bodies()
    for body in case["bodies"]:
        decode_chunk_list(bytes.fromhex(body))
        bodies.put(Kind.CHUNK_LIST, bytes.fromhex(body))
    root = Reference(Kind.CHUNK_LIST, ObjectId(bytes.fromhex(case["root"])), case["bytes"])
    with pytest.raises(NotCanonical):
        list(list_chunks(bodies.get_body, root))


@settings(deadline=None, max_examples=60)
@given(
    count=st.sampled_from([2, 31, 32, 33, 511, 512, 513, 1024, 1025]) | st.integers(2, 5000),
    last_bytes=st.lists(st.sampled_from([0, 1, 127, 128, 255]), min_size=1, max_size=40),
    tail=st.integers(1, 131_072),
)
def test_builder_equals_naive_build(count: int, last_bytes: list[int], tail: int) -> None:
    """Building as chunks come equals building level by level from the whole list."""
    chunks = [
        Reference(
            Kind.BLOB,
            ObjectId(number.to_bytes(31, "big") + bytes([last_bytes[number % len(last_bytes)]])),
            131_072 if number < count - 1 else tail,
        )
        for number in range(count)
    ]
    bodies = Bodies()
    root = build(chunks, bodies)
    oid, counts = naive_build(chunks)
    assert root == Reference(Kind.CHUNK_LIST, ObjectId(oid), sum(c.length for c in chunks))
    assert list(list_chunks(bodies.get_body, root)) == chunks
    assert len(bodies) <= sum(counts)
    for body in bodies.values():
        assert encode_chunk_list(decode_chunk_list(body)) == body


def test_edit_rewrites_few_nodes() -> None:
    """A chunk replaced, added or removed rewrites a node or two per level, not the list."""
    chunks = chunks_of({"seed": "edit", "count": 20_000, "distinct": 20_000})
    before = Bodies()
    build(chunks, before)
    extra = chunks_of({"seed": "extra", "count": 1, "distinct": 1})
    assert len(before) > 100
    for at in (0, 7_777, 19_998):
        for after in (chunks[:at] + extra + chunks[at:], chunks[:at] + chunks[at + 1 :]):
            bodies = Bodies()
            build(after, bodies)
            assert len(bodies.keys() - before.keys()) <= 6


def test_builder_holds_no_more_than_one_open_node_a_level() -> None:
    """A node is put as soon as it is complete: at no time are 512 chunks held back."""
    stored = 0

    def put(kind: Kind, body: bytes) -> ObjectId:
        nonlocal stored
        node = decode_chunk_list(body)
        stored += len(node.entries) if node.level == 0 else 0
        return object_id(kind, body)

    builder = ChunkListBuilder(put)
    chunks = chunks_of({"seed": "open", "count": 9_000, "distinct": 9_000})
    for count, chunk in enumerate(chunks, start=1):
        builder.add(chunk)
        assert count - stored < 512
    builder.finish()
    assert stored == len(chunks)


@pytest.mark.parametrize("lengths", [[], [131_072], [65_536, 65_536]])
def test_short_content_has_no_chunk_list(lengths: list[int]) -> None:
    """What is at most 128 KiB long is a blob, even if somebody cut it."""
    builder = ChunkListBuilder(Bodies().put)
    for length in lengths:
        builder.add(Reference(Kind.BLOB, ObjectId(bytes(32)), length))
    with pytest.raises(NotCanonical):
        builder.finish()


def test_largest_node_fits_its_limit() -> None:
    """512 entries take exactly the bytes that the limit allows."""
    entry = Reference(Kind.BLOB, ObjectId(b"\1" * 32), 131_072)
    assert len(encode_chunk_list(ChunkList(0, (entry,) * 512))) == NODE_BYTES_MAX
    assert CONTENT_BYTES_MAX == 1 << 58


def test_node_ends() -> None:
    """A node ends from entry 32 on where the low 7 bits are zero, and at entry 512."""
    stop, go = ObjectId(bytes(31) + b"\x80"), ObjectId(bytes(31) + b"\x40")
    assert [n for n in range(1, 513) if ends_node(n, stop)] == list(range(32, 513))
    assert [n for n in range(1, 513) if ends_node(n, go)] == [512]


def test_walk_refuses_a_blob() -> None:
    """A reference to a blob is no chunk list."""
    with pytest.raises(NotCanonical):
        list(list_chunks(Bodies().get_body, Reference(Kind.BLOB, ObjectId(bytes(32)), 200_000)))


@given(body=st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(body: bytes) -> None:
    """Bytes from anywhere are a node that encodes to the same bytes, or NotCanonical."""
    try:
        node = decode_chunk_list(body)
    except NotCanonical:
        return
    assert encode_chunk_list(node) == body


def test_every_flipped_bit_of_a_node_is_refused_or_another_node() -> None:
    """Damage never decodes to the node that was damaged."""
    chunks = chunks_of({"seed": "flip", "count": 3, "distinct": 3})
    body = encode_chunk_list(ChunkList(0, tuple(chunks)))
    for bit in range(8 * len(body)):
        damaged = bytearray(body)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert decode_chunk_list(bytes(damaged)).entries != tuple(chunks)
        except NotCanonical:
            continue
