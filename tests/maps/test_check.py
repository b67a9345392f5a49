"""Received maps: what building makes is accepted, and each rule of 03-map, section 5, is kept."""

from __future__ import annotations

import json
import random
from itertools import count
from pathlib import Path

import pytest

from gsync.errors import Corrupt, Invalid
from gsync.maps.check import MapBroken, check_map
from gsync.maps.omap import build_map, edit_map
from gsync.maps.splitter import CHILD_BYTES, splitter
from gsync.objects.encoding import encode
from gsync.objects.model import (
    Internal,
    Leaf,
    Node,
    decode_node,
    encode_internal,
    encode_leaf,
)
from gsync.objects.oid import Kind, ObjectId
from gsync.store.base import ObjectMissing
from gsync.store.memory import MemoryStore

VECTORS = json.loads(
    (Path(__file__).parents[2] / "spec" / "vectors" / "map.json").read_text(encoding="utf-8")
)
VALUE = encode(bytes(597))  # 600 bytes, so that an entry alone may end a leaf


class Tree:
    """A store in which trees are put together by hand, bottom up."""

    def __init__(self) -> None:
        self.store = MemoryStore()

    def leaf(self, *keys: bytes, value: bytes = VALUE) -> ObjectId:
        """Put the leaf with these keys."""
        return self.store.put(Kind.NODE, encode_leaf(list(keys), [value] * len(keys)))

    def parent(self, *children: ObjectId) -> ObjectId:
        """Put an internal node that says of its children what is true."""
        nodes = [self.node(child) for child in children]
        level = nodes[0].level + 1 if isinstance(nodes[0], Internal) else 1
        rows = [sum(n.rows) if isinstance(n, Internal) else len(n.keys) for n in nodes]
        sizes = [
            sum(n.sizes) if isinstance(n, Internal) else sum(map(len, n.keys + n.values))
            for n in nodes
        ]
        return self.put(Internal(level, [n.keys[-1] for n in nodes], list(children), rows, sizes))

    def put(self, node: Internal) -> ObjectId:
        return self.store.put(Kind.NODE, encode_internal(node))

    def node(self, oid: ObjectId) -> Node:
        return decode_node(self.store.get(Kind.NODE, oid))

    def internal(self, oid: ObjectId) -> Internal:
        node = self.node(oid)
        assert isinstance(node, Internal)
        return node

    def refused(self, root: ObjectId, *known: ObjectId) -> str:
        """Return why `root` is refused, when `known` and what is below them was checked before."""
        with pytest.raises(MapBroken) as caught:
            check_map(self.store, root, lambda oid: oid in known)
        return str(caught.value)


def keys_that(
    ends: bool, level: int = 0, before: int = 0, entries: int = 1, width: int = 7
) -> list[bytes]:
    """Return 200 rising keys after which a node ends, or does not, as its entry `entries`."""
    found: list[bytes] = []
    size = width + (len(VALUE) if level == 0 else CHILD_BYTES)
    for i in count():
        key = f"{i:07d}".encode().ljust(width, b"k")
        if splitter(level)(key, before, before + size, entries) == ends:
            found.append(key)
            if len(found) == 200:
                return found
    raise AssertionError


ENDS = keys_that(True)
GOES_ON = keys_that(False)


@pytest.mark.parametrize("case", VECTORS["reject"] + VECTORS["reject_trees"])
def test_vectors_are_refused(case: dict) -> None:
    """Each node and tree that the vectors refuse is refused, as one that came from outside."""
    store = MemoryStore()
    bodies = [bytes.fromhex(body) for body in case.get("bodies", [case.get("hex")])]
    root = [store.put(Kind.NODE, body) for body in bodies][-1]
    absent = case["description"] == "a child that is not there"
    with pytest.raises(ObjectMissing if absent else (Invalid, Corrupt)):
        check_map(store, root)


def test_edited_maps_are_accepted_whatever_was_known() -> None:
    """A map edited from a known one passes, with all nodes of the old one taken as known."""
    r = random.Random(3)
    for size in (0, 1, 50, 3_000, 20_000):
        store = MemoryStore()
        old = build_map(
            store, ((f"{i:07d}".encode(), encode(r.randbytes(30))) for i in range(size))
        )
        known = {old, *below(store, old)}
        for _ in range(6):
            edits = {f"{r.randrange(size + 9):07d}".encode(): encode(r.randbytes(30)) for _ in "ab"}
            new = edit_map(store, old, sorted(edits.items()))
            assert check_map(store, new, known.__contains__) == check_map(store, new)


def below(store: MemoryStore, root: ObjectId) -> set[ObjectId]:
    node = decode_node(store.get(Kind.NODE, root))
    if isinstance(node, Leaf):
        return set()
    return set(node.children).union(*(below(store, child) for child in node.children))


def test_known_subtrees_are_read_at_their_edges_only() -> None:
    """Of a known subtree only the nodes at its left and right edge are read."""
    store = MemoryStore()
    root = build_map(store, ((f"{i:07d}".encode(), encode(bytes(30))) for i in range(60_000)))
    node = decode_node(store.get(Kind.NODE, root))
    assert isinstance(node, Internal) and node.level == 2
    edges = set()
    for child in node.children:
        inner = decode_node(store.get(Kind.NODE, child))
        assert isinstance(inner, Internal)
        edges |= {child, inner.children[0], inner.children[-1]}
    sparse = MemoryStore()
    for oid in {root} | edges:
        sparse.put(Kind.NODE, store.get(Kind.NODE, oid))
    assert check_map(sparse, root, lambda oid: oid != root) == 60_000


@pytest.mark.parametrize("known", [False, True])
def test_keys_that_overlap_under_one_parent(known: bool) -> None:
    """A leaf that begins below the last key of the leaf before it is refused, known or not."""
    tree = Tree()
    first, second = tree.leaf(ENDS[3]), tree.leaf(ENDS[2][:-1], ENDS[5])
    root = tree.parent(first, second)
    assert "above" in tree.refused(root, *([second] if known else []))


@pytest.mark.parametrize("known", [False, True])
def test_keys_that_overlap_across_parents(known: bool) -> None:
    """The first leaf of the second parent may not begin below what the first parent holds."""
    tree = Tree()
    leaves = keys_that(True, width=600)
    inner = keys_that(True, level=1, before=640, entries=2, width=600)
    y = next(key for key in leaves[2:-1] if key in set(inner))
    left = tree.parent(tree.leaf(leaves[0]), tree.leaf(y))
    right = tree.parent(tree.leaf(leaves[1]), tree.leaf(leaves[-1]))
    root = tree.parent(left, right)
    assert "above" in tree.refused(root, *([left, right] if known else []))


@pytest.mark.parametrize("field", ["keys", "rows", "sizes"])
def test_what_a_parent_says_of_a_known_child(field: str) -> None:
    """A wrong last key, or wrong totals, of a child that was in the store are refused."""
    tree = Tree()
    children = [tree.leaf(ENDS[0]), tree.leaf(ENDS[1])]
    node = tree.internal(tree.parent(*children))
    match field:
        case "keys":
            node.keys[1] += b"x"
        case "rows":
            node.rows[1] += 1
        case _:
            node.sizes[1] -= 1
    assert "parent says" in tree.refused(tree.put(node), *children)


def test_level_of_a_known_child() -> None:
    """A known child that is not one level below its parent is refused."""
    tree = Tree()
    leaf, inner = tree.leaf(ENDS[0]), tree.parent(tree.leaf(ENDS[1]), tree.leaf(ENDS[2]))
    mixed = Internal(2, [ENDS[0], ENDS[2]], [leaf, inner], [1, 2], [607, 1214])
    assert "level" in tree.refused(tree.put(mixed), leaf, inner)


@pytest.mark.parametrize("known", [False, True])
def test_last_leaf_reused_in_the_middle(known: bool) -> None:
    """A leaf that ended only because its level did may not stand in the middle of another."""
    tree = Tree()
    last, after = tree.leaf(GOES_ON[0]), tree.leaf(GOES_ON[1])
    root = tree.parent(last, after)
    assert check_map(tree.store, last) == 1
    assert "ends" in tree.refused(root, *([last] if known else []))


def test_last_leaf_below_a_known_node_in_the_middle() -> None:
    """Also when it is the last leaf of a known node that itself ends where a node ends."""
    tree = Tree()
    wide = keys_that(True, width=600)
    going = set(keys_that(False, width=600))
    inner = keys_that(True, level=1, before=640, entries=2, width=600)
    last = next(key for key in inner if key in going and key > wide[0])
    left = tree.parent(tree.leaf(wide[0]), tree.leaf(last))
    assert check_map(tree.store, left) == 2
    right = tree.parent(*(tree.leaf(key) for key in [k for k in wide if k > last][:2]))
    root = tree.parent(left, right)
    assert "ends where the split rule ends no node" in tree.refused(root, left, right)


def test_last_node_of_one_child_in_the_middle() -> None:
    """A known internal node with one child, legal at the end of a level, is refused elsewhere."""
    tree = Tree()
    single = tree.parent(tree.leaf(ENDS[0]))
    right = tree.parent(tree.leaf(ENDS[1]), tree.leaf(ENDS[2]))
    assert "ends" in tree.refused(tree.parent(single, right), single, right)


@pytest.mark.parametrize("known", [False, True])
def test_root_with_one_child(known: bool) -> None:
    """A root with one child is refused: its child is the root of the same map."""
    tree = Tree()
    leaf = tree.leaf(ENDS[0])
    assert "one child" in tree.refused(tree.parent(leaf), *([leaf] if known else []))


def test_leaf_that_goes_on_too_long() -> None:
    """A leaf with an entry behind one that ends it is refused."""
    tree = Tree()
    assert "goes on" in tree.refused(tree.leaf(ENDS[0], ENDS[1]))


def test_empty_leaf_below_a_parent() -> None:
    """The empty leaf is a map, and never a child: rows and bytes of a child are positive."""
    tree = Tree()
    assert check_map(tree.store, tree.leaf()) == 0
    node = Internal(1, [ENDS[0], b"x"], [tree.leaf(ENDS[0]), tree.leaf()], [1, 1], [607, 1])
    assert "parent says" in tree.refused(tree.put(node))
