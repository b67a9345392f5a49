"""Two roots -> what turns the one map into the other (03-map, section 6)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gsync.changes import Change
from gsync.objects.model import Internal, Leaf, Node, decode_node_trusted
from gsync.objects.oid import Kind, ObjectId
from gsync.store.base import ObjectReader


def diff_maps(store: ObjectReader, old: ObjectId | None, new: ObjectId | None) -> Iterator[Change]:
    """Yield what turns the map `old` into the map `new`, in key order.

    Subtrees with equal ids are skipped unread, so the cost follows the size of the
    difference and not of the maps: about two node reads per leaf that differs, and
    one open node per level held in memory.

    Args:
        old: Root to start from, or None for the empty map: every entry is an addition.
        new: Root to arrive at, or None for the empty map: every entry is a deletion.

    Yields:
        One change per key that differs: `old` is None for an addition, `new` for a
        deletion.

    Raises:
        ObjectMissing: a node that differs is not in `store`. What was yielded before
            it still holds.
        NotCanonical: a node is not well formed; see spec/03-map.md.
    """
    left, right = _Side(store, old), _Side(store, new)
    while left.live and right.live:
        if left.subtree is not None and right.subtree is not None:
            _descend(left, right)
        elif left.subtree is not None:
            # When the other side comes to the very same subtree after its open leaf, what is
            # left of that leaf lies before the subtree, which then need not be read.
            if right.subtree_after_leaf() != left.subtree:
                left.open()
            else:
                for key, value in right.rest_of_leaf():
                    yield Change(key, None, value)
        elif right.subtree is not None:
            if left.subtree_after_leaf() != right.subtree:
                right.open()
            else:
                for key, value in left.rest_of_leaf():
                    yield Change(key, value, None)
        elif left.key < right.key:
            yield Change(left.key, left.value, None)
            left.step()
        elif left.key > right.key:
            yield Change(right.key, None, right.value)
            right.step()
        else:
            if left.value != right.value:
                yield Change(left.key, left.value, right.value)
            left.step()
            right.step()
    for key, value in left.drain():
        yield Change(key, value, None)
    for key, value in right.drain():
        yield Change(key, None, value)


def _descend(left: _Side, right: _Side) -> None:
    """Skip two equal subtrees, or open the higher one, both when they are level."""
    if left.subtree == right.subtree:
        left.step()
        right.step()
        return
    left_level, right_level = left.level(), right.level()
    if left_level >= right_level:
        left.open()
    if right_level >= left_level:
        right.open()


class _Side:
    """A walk through one map whose head is a subtree not yet opened, or an entry.

    Attributes:
        live: Whether there is a head.
        subtree: The head's id when it is a subtree, else None.
        key: The head's key when it is an entry.
        value: And its value.
    """

    def __init__(self, store: ObjectReader, root: ObjectId | None) -> None:
        self._store = store
        self._open: list[list[Any]] = []  # [node, index of the child that the head lies in]
        self._leaf: Leaf | None = None
        self._at = 0
        self._read: Node | None = None  # the head, when it was read to learn its level
        self.live = root is not None
        self.subtree = root
        self.key = b""
        self.value = b""

    def level(self) -> int:
        """Return the level of the subtree at the head."""
        if self._open:
            return int(self._open[-1][0].level) - 1
        node = self._read = self._node()
        return node.level if isinstance(node, Internal) else 0

    def open(self) -> None:
        """Replace the subtree at the head by what is in it."""
        node = self._node()
        self._read = None
        if isinstance(node, Internal):
            self._open.append([node, 0])
            self.subtree = node.children[0]
        elif node.keys:
            self._leaf, self._at = node, 0
            self.subtree, self.key, self.value = None, node.keys[0], node.values[0]
        else:
            self.live = False

    def step(self) -> None:
        """Go past the head."""
        leaf = self._leaf
        if leaf is not None:
            self._at += 1
            if self._at < len(leaf.keys):
                self.key, self.value = leaf.keys[self._at], leaf.values[self._at]
                return
            self._leaf = None
        while self._open:
            top = self._open[-1]
            top[1] += 1
            if top[1] < len(top[0].children):
                self.subtree = top[0].children[top[1]]
                return
            self._open.pop()
        self.live = False

    def subtree_after_leaf(self) -> ObjectId | None:
        """Return the sibling right of the leaf that the head lies in, if there is one."""
        if not self._open:
            return None
        node, index = self._open[-1]
        return node.children[index + 1] if index + 1 < len(node.children) else None

    def rest_of_leaf(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the entries from the head to the end of its leaf, going past them."""
        while self.live and self.subtree is None:
            yield self.key, self.value
            self.step()

    def drain(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield all entries that are left."""
        while self.live:
            if self.subtree is not None:
                self.open()
            else:
                yield self.key, self.value
                self.step()

    def _node(self) -> Node:
        if self._read is not None:
            return self._read
        assert self.subtree is not None
        return decode_node_trusted(self._store.get(Kind.NODE, self.subtree))
