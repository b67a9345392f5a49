"""Are nodes that came from outside what building would have made (03-map, section 5)?"""

from __future__ import annotations

from collections.abc import Callable

from gsync.errors import Corrupt
from gsync.maps.splitter import CHILD_BYTES, splitter
from gsync.objects.model import Internal, Leaf, Node, decode_node
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
    """Check all nodes of the map at `root` and return the number of its entries.

    Args:
        is_known: Whether a node, with all below it, was checked before: those are read (for
            what their parents say of them) but not descended into.

    Raises:
        MapBroken: a rule of 03-map, section 5, does not hold.
        NotCanonical: a node is not well formed in itself.
        ObjectMissing: a node is not there.
    """
    body = store.get(Kind.NODE, root)
    node = decode_node(body)
    if isinstance(node, Internal) and len(node.children) < 2:
        raise MapBroken(root, "an internal root with one child")
    rows, _, _ = _check(store, root, node, b"", True, is_known)
    return rows


def _check(
    store: ObjectReader,
    oid: ObjectId,
    node: Node,
    above: bytes,
    is_last: bool,
    is_known: Callable[[ObjectId], bool],
) -> tuple[int, int, bytes]:
    """Check the node and all below it; return its entries, their bytes, and its last key."""
    if node.keys and node.keys[0] <= above:
        raise MapBroken(oid, "a key is not above the keys of the node before")
    _check_end(oid, node, is_last)
    if isinstance(node, Leaf):
        size = sum(map(len, node.keys)) + sum(map(len, node.values))
        return len(node.keys), size, node.keys[-1] if node.keys else b""
    for index, child_oid in enumerate(node.children):
        child = decode_node(store.get(Kind.NODE, child_oid))
        level = child.level if isinstance(child, Internal) else 0
        if level != node.level - 1:
            raise MapBroken(child_oid, f"level {level} below level {node.level}")
        child_is_last = is_last and index == len(node.children) - 1
        if is_known(child_oid):
            found = _totals(child)
        else:
            found = _check(store, child_oid, child, above, child_is_last, is_known)
        if found != (node.rows[index], node.sizes[index], node.keys[index]):
            raise MapBroken(child_oid, "its last key or totals are not what its parent says")
        above = node.keys[index]
    return sum(node.rows), sum(node.sizes), node.keys[-1]


def _totals(node: Node) -> tuple[int, int, bytes]:
    if isinstance(node, Internal):
        return sum(node.rows), sum(node.sizes), node.keys[-1]
    size = sum(map(len, node.keys)) + sum(map(len, node.values))
    return len(node.keys), size, node.keys[-1] if node.keys else b""


def _check_end(oid: ObjectId, node: Node, is_last: bool) -> None:
    level = node.level if isinstance(node, Internal) else 0
    ends = splitter(level)
    before = 0
    count = len(node.keys)
    for index, key in enumerate(node.keys):
        after = before + len(key)
        after += CHILD_BYTES if isinstance(node, Internal) else len(node.values[index])
        if ends(key, before, after, index + 1) != (index == count - 1) and not (
            index == count - 1 and is_last
        ):
            raise MapBroken(oid, "it does not end where the split rule ends a node")
        before = after
