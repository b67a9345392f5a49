"""The ordered map against a dict, a rebuild and a listing."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsync.changes import Change
from gsync.maps.diff import diff_maps
from gsync.maps.omap import (
    EMPTY_MAP,
    KeyOrder,
    build_map,
    count_entries,
    edit_map,
    find_value,
    list_entries,
)
from gsync.objects.encoding import encode
from gsync.objects.model import Internal, decode_node
from gsync.objects.oid import Kind, ObjectId
from gsync.store.memory import MemoryStore

Mapping = dict[bytes, bytes]


@st.composite
def mappings(draw: st.DrawFn) -> Mapping:
    """Maps of up to some thousand entries with short, long, dense and sparse keys."""
    seed = draw(st.integers(0, 2**32))
    count = draw(st.sampled_from([0, 1, 2, 5, 30, 120, 400, 1500]))
    longest = draw(st.sampled_from([2, 8, 40, 600, 4096]))
    return random_mapping(random.Random(seed), count, longest)


def random_mapping(r: random.Random, count: int, longest: int) -> Mapping:
    keys = {r.randbytes(r.randint(1, longest)) for _ in range(count)}
    return {key: encode(r.randbytes(r.choice([0, 4, 60, 300]))) for key in keys}


def edited(r: random.Random, old: Mapping, share: float) -> dict[bytes, bytes | None]:
    changes: dict[bytes, bytes | None] = {}
    for key in old:
        if r.random() < share:
            changes[key] = None if r.random() < 0.5 else encode(r.randbytes(r.randint(0, 90)))
    for _ in range(int(len(old) * share) + 1):
        changes[r.randbytes(r.randint(1, 20))] = encode(r.randbytes(20))
    changes[b"never there"] = None
    return changes


def applied(old: Mapping, changes: dict[bytes, bytes | None]) -> Mapping:
    new = {**old, **{key: value for key, value in changes.items() if value is not None}}
    return {key: value for key, value in new.items() if changes.get(key, value) is not None}


def build(store: MemoryStore, mapping: Mapping) -> ObjectId:
    return build_map(store, sorted(mapping.items()))


def diff_by_listing(old: Mapping, new: Mapping) -> list[Change]:
    return [
        Change(key, old.get(key), new.get(key))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


@given(mapping=mappings())
def test_list_and_find_equal_the_dict(mapping: Mapping) -> None:
    """A built map lists what was put in, in order, and finds each key and no other."""
    store = MemoryStore()
    root = build(store, mapping)
    assert list(list_entries(store, root)) == sorted(mapping.items())
    assert count_entries(store, root) == len(mapping)
    for key in [*list(mapping)[:50], b"", b"\xff" * 10, b"m"]:
        assert find_value(store, root, key) == mapping.get(key)


@given(mapping=mappings(), prefix=st.binary(max_size=2))
def test_prefix_listing_equals_filtering(mapping: Mapping, prefix: bytes) -> None:
    """Listing a prefix, or from a start, yields what filtering the whole listing would."""
    store = MemoryStore()
    root = build(store, mapping)
    everything = sorted(mapping.items())
    assert list(list_entries(store, root, prefix=prefix)) == [
        entry for entry in everything if entry[0].startswith(prefix)
    ]
    assert list(list_entries(store, root, start=prefix)) == [
        entry for entry in everything if entry[0] >= prefix
    ]


@given(mapping=mappings(), seed=st.integers(0, 2**32), share=st.sampled_from([0, 0.01, 0.3, 1]))
def test_edit_equals_rebuild(mapping: Mapping, seed: int, share: float) -> None:
    """Editing a map gives the root that building the changed map anew gives."""
    store = MemoryStore()
    changes = edited(random.Random(seed), mapping, share)
    root = edit_map(store, build(store, mapping), sorted(changes.items()))
    assert root == build(MemoryStore(), applied(mapping, changes))


@given(old=mappings(), seed=st.integers(0, 2**32), share=st.sampled_from([0, 0.02, 0.5]))
def test_diff_equals_listing(old: Mapping, seed: int, share: float) -> None:
    """The walk over two maps finds exactly what comparing two full listings finds."""
    store = MemoryStore()
    new = applied(old, edited(random.Random(seed), old, share))
    left, right = build(store, old), build(store, new)
    assert list(diff_maps(store, left, right)) == diff_by_listing(old, new)
    assert list(diff_maps(store, right, left)) == diff_by_listing(new, old)
    assert list(diff_maps(store, None, right)) == diff_by_listing({}, new)


@given(old=mappings(), new=mappings())
def test_diff_of_strangers_equals_listing(old: Mapping, new: Mapping) -> None:
    """So it is for two maps that have nothing in common, of any two heights."""
    store = MemoryStore()
    changes = list(diff_maps(store, build(store, old), build(store, new)))
    assert changes == diff_by_listing(old, new)


def test_delete_everything_gives_the_empty_map() -> None:
    """A map edited down to nothing is the empty map, whatever its height was."""
    store = MemoryStore()
    mapping = random_mapping(random.Random(1), 5000, 30)
    root = edit_map(store, build(store, mapping), [(key, None) for key in sorted(mapping)])
    assert root == EMPTY_MAP == build(MemoryStore(), {})


def test_order_of_edits_leaves_no_trace() -> None:
    """A thousand single edits in any order give the root of one build."""
    r = random.Random(7)
    mapping = random_mapping(r, 1000, 40)
    roots = set()
    for _ in range(2):
        store = MemoryStore()
        root = build(store, {})
        entries = list(mapping.items())
        r.shuffle(entries)
        for entry in entries:
            root = edit_map(store, root, [entry])
        roots.add(root)
    assert roots == {build(MemoryStore(), mapping)}


def test_edit_and_diff_cost_follows_the_change() -> None:
    """One change in 50,000 entries reads and writes a path, not the map."""
    store = MemoryStore()
    mapping = {b"%07d" % i: encode(b"x" * 50) for i in range(50_000)}
    root = build(store, mapping)
    store.reads = store.writes = 0
    new = edit_map(store, root, [(b"0025000", encode(b"y" * 50))])
    assert store.reads <= 4
    assert store.writes <= 4
    store.reads = 0
    assert len(list(diff_maps(store, root, new))) == 1
    assert store.reads <= 8


@pytest.mark.parametrize("keys", [[b"b", b"a"], [b"a", b"a"], [b""]])
def test_unsorted_keys_are_refused(keys: list[bytes]) -> None:
    """Keys that do not rise strictly raise KeyOrder, in a build and in an edit."""
    entries = [(key, encode(1)) for key in keys]
    with pytest.raises(KeyOrder):
        build_map(MemoryStore(), entries)
    with pytest.raises(KeyOrder):
        store = MemoryStore()
        edit_map(store, build(store, {}), entries)


def test_every_node_is_canonical_and_of_bounded_size() -> None:
    """Nodes of a big map with awkward keys decode strictly and stay below the limit."""
    store = MemoryStore()
    mapping = random_mapping(random.Random(3), 3000, 4096)
    todo = [build(store, mapping)]
    levels = set()
    while todo:
        body = store.get(Kind.NODE, todo.pop())
        node = decode_node(body)
        if isinstance(node, Internal):
            levels.add(node.level)
            todo += node.children
        assert len(body) < 40_000
    # Keys of 2 KiB leave room for hardly more than two children in a node.
    assert 5 <= max(levels) <= 14
