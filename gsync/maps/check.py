"""Are nodes that came from outside what building would have made (03-map, section 5)?"""

from __future__ import annotations

from collections.abc import Callable

from gsync.errors import Corrupt
from gsync.maps.splitter import CHILD_BYTES, splitter
from gsync.objects.model import Internal, Leaf, Node, decode_node, decode_node_trusted
from gsync.objects.oid import Kind, ObjectId
from gsync.store.base import ObjectReader


class MapBroken(Corrupt):
    """A node is not where or what its parent says, or ends where no node ends."""

    def __init__(self, oid: ObjectId, why: str) -> None:
        super().__init__(f"map node {oid.hex()}: {why}", id=oid.hex())
        self.oid = oid


def check_map(
    store: ObjectReader,
    root: ObjectId,
    is_known: Callable[[ObjectId], bool] = lambda oid: False,
) -> int:
    """Check the map at `root` and return the number of its entries.

    A known subtree was checked for another place. What depends on the place is checked again:
    what the parent says, the order of keys, and where its levels end. That reads its left
    and right edge and nothing between.

    Args:
        is_known: Whether a node, with all below it, was checked before.

    Raises:
        MapBroken: a rule of 03-map, section 5, does not hold.
        NotCanonical: a node is not well formed in itself.
        ObjectMissing: a node is not there.
    """
    node = decode_node(store.get(Kind.NODE, root))
    if isinstance(node, Internal) and len(node.children) < 2:
        raise MapBroken(root, "an internal root with one child")
    _check(store, root, node, b"", True, is_known)
    return sum(node.rows) if isinstance(node, Internal) else len(node.keys)


def _check(
    store: ObjectReader,
    oid: ObjectId,
    node: Node,
    above: bytes,
    is_last: bool,
    is_known: Callable[[ObjectId], bool],
) -> None:
    """Check the node and all below it, whose keys have to lie above `above`."""
    _check_ends(oid, node, is_last)
    if isinstance(node, Leaf):
        _check_first_key(oid, node, above)
        return
    for index, child_oid in enumerate(node.children):
        child = decode_node(store.get(Kind.NODE, child_oid))
        if _level(child) != node.level - 1:
            raise MapBroken(child_oid, f"level {_level(child)} below level {node.level}")
        if _totals(child) != (node.rows[index], node.sizes[index], node.keys[index]):
            raise MapBroken(child_oid, "its last key or totals are not what its parent says")
        child_is_last = is_last and index == len(node.children) - 1
        if is_known(child_oid):
            _check_left_edge(store, child_oid, child, above)
            if not child_is_last:
                _check_right_edge(store, child_oid, child)
        else:
            _check(store, child_oid, child, above, child_is_last, is_known)
        above = node.keys[index]


def _check_left_edge(store: ObjectReader, oid: ObjectId, node: Node, above: bytes) -> None:
    while isinstance(node, Internal):
        oid = node.children[0]
        node = decode_node_trusted(store.get(Kind.NODE, oid))
    _check_first_key(oid, node, above)


def _check_right_edge(store: ObjectReader, oid: ObjectId, node: Node) -> None:
    _check_last_ends(oid, node)
    while isinstance(node, Internal):
        oid = node.children[-1]
        node = decode_node_trusted(store.get(Kind.NODE, oid))
        _check_last_ends(oid, node)


def _check_first_key(oid: ObjectId, leaf: Leaf, above: bytes) -> None:
    if leaf.keys and leaf.keys[0] <= above:
        raise MapBroken(oid, "a key is not above the keys of the node before")


def _check_ends(oid: ObjectId, node: Node, is_last: bool) -> None:
    ends = splitter(_level(node))
    before = 0
    for index, size in enumerate(_entry_sizes(node)):
        is_end = ends(node.keys[index], before, before + size, index + 1)
        if is_end and index < len(node.keys) - 1:
            raise MapBroken(oid, "it goes on where the split rule ends a node")
        if not is_end and index == len(node.keys) - 1 and not is_last:
            raise MapBroken(oid, "it ends where the split rule ends no node")
        before += size


def _check_last_ends(oid: ObjectId, node: Node) -> None:
    sizes = _entry_sizes(node)
    before = sum(sizes[:-1])
    if not splitter(_level(node))(node.keys[-1], before, before + sizes[-1], len(sizes)):
        raise MapBroken(oid, "it ends where the split rule ends no node")


def _entry_sizes(node: Node) -> list[int]:
    if isinstance(node, Internal):
        return [len(key) + CHILD_BYTES for key in node.keys]
    return [len(key) + len(value) for key, value in zip(node.keys, node.values, strict=True)]


def _level(node: Node) -> int:
    return node.level if isinstance(node, Internal) else 0


def _totals(node: Node) -> tuple[int, int, bytes]:
    if isinstance(node, Internal):
        return sum(node.rows), sum(node.sizes), node.keys[-1]
    return len(node.keys), sum(_entry_sizes(node)), node.keys[-1] if node.keys else b""
