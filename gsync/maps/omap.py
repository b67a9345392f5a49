"""Build, read and edit the ordered Merkle map (03-map).

A level of a tree is a sequence of entries cut into nodes, and the nodes of one level are
the entries of the next. So building and editing are one procedure, applied level by level:
feed entries to a cutter and collect the nodes that come out. An edit feeds it only the nodes
that hold a change, and those after them until an old boundary and a new one coincide.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from gsync.errors import Invalid
from gsync.maps.splitter import CHILD_BYTES, splitter
from gsync.objects.encoding import NotCanonical
from gsync.objects.model import (
    EMPTY_MAP_BODY,
    KEY_BYTES_MAX,
    VALUE_BYTES_MAX,
    Internal,
    Leaf,
    Node,
    decode_node_trusted,
    encode_internal,
    encode_leaf,
)
from gsync.objects.oid import Kind, ObjectId, object_id
from gsync.store.base import ObjectReader, ObjectStore, ObjectWriter

EMPTY_MAP = object_id(Kind.NODE, EMPTY_MAP_BODY)
"""Root of the map without entries."""

# Nodes kept decoded while an edit or a lookup walks along a tree: the open path and its
# neighbours. Changes come sorted, so more would hardly be hit again.
_NODE_CACHE_MAX = 64


class KeyOrder(Invalid):
    """Entries or changes were not handed in with strictly rising keys."""

    def __init__(self, before: bytes, key: bytes) -> None:
        super().__init__(f"keys must rise strictly: {key!r} came after {before!r}")


class _Child(NamedTuple):
    """What an internal node says of one child, beside its last key."""

    oid: ObjectId
    rows: int
    size: int


class _Cut(NamedTuple):
    """A node that was written: an entry of the level above."""

    last_key: bytes
    child: _Child


def build_map(sink: ObjectWriter, entries: Iterable[tuple[bytes, bytes]]) -> ObjectId:
    """Write the map with these entries and return its root; one open node a level in memory.

    Args:
        sink: Where the nodes go; not flushed.
        entries: Keys and encoded values, keys strictly rising.

    Raises:
        KeyOrder: the keys do not rise.
    """
    builder = MapBuilder(sink)
    for key, value in entries:
        builder.add(key, value)
    return builder.finish()


class MapBuilder:
    """A map in the making, for a caller that has entries one by one."""

    def __init__(self, sink: ObjectWriter) -> None:
        self._sink = sink
        self._last = b""
        self._levels: list[_Cutter] = []
        self.count = 0

    def add(self, key: bytes, value: bytes) -> None:
        """Append an entry; about 2 µs. Raises KeyOrder unless `key` is above all before it."""
        if key <= self._last:
            raise KeyOrder(self._last, key)
        check_entry(key, value)
        self._last = key
        self.count += 1
        cut = self._cutter(0).add(key, value)
        if cut:
            self._lift(1, cut)

    def finish(self) -> ObjectId:
        """Write the open nodes and return the root."""
        if not self.count:
            return self._sink.put(Kind.NODE, EMPTY_MAP_BODY)
        level = 0
        while True:
            cutter = self._cutter(level)
            cut = cutter.close()
            # The only node of its level is the root (03-map, section 4). It may have been
            # lifted already, but an internal node never ends with one child, so nothing
            # was written above it.
            if cutter.nodes == 1 and cutter.last is not None:
                return cutter.last.child.oid
            if cut:
                self._lift(level + 1, cut)
            level += 1

    def _lift(self, level: int, cut: _Cut) -> None:
        above = self._cutter(level).add(cut.last_key, cut.child)
        if above:
            self._lift(level + 1, above)

    def _cutter(self, level: int) -> _Cutter:
        while level >= len(self._levels):
            self._levels.append(_Cutter(self._sink, len(self._levels)))
        return self._levels[level]


def check_entry(key: bytes, value: bytes) -> None:
    """Raise Invalid unless key and value keep the limits of 03-map, section 1."""
    if not 1 <= len(key) <= KEY_BYTES_MAX:
        raise Invalid(f"map key of {len(key)} bytes: expected 1 to {KEY_BYTES_MAX}")
    if len(value) > VALUE_BYTES_MAX:
        raise Invalid(f"map value of {len(value)} bytes: expected at most {VALUE_BYTES_MAX}")


class _Cutter:
    """Cuts the entries of one level into nodes and writes them."""

    def __init__(self, sink: ObjectWriter, level: int) -> None:
        self._sink = sink
        self._level = level
        self._ends = splitter(level)
        self._keys: list[bytes] = []
        self._payloads: list[Any] = []
        self._size = 0
        self.near: ObjectId | None = None
        self.nodes = 0
        self.last: _Cut | None = None

    @property
    def is_open(self) -> bool:
        """Whether entries wait for their node to end."""
        return bool(self._keys)

    def add(self, key: bytes, payload: Any) -> _Cut | None:
        """Append an entry (a value in a leaf, else a _Child); return the node it ended."""
        before = self._size
        after = before + len(key) + (CHILD_BYTES if self._level else len(payload))
        self._keys.append(key)
        self._payloads.append(payload)
        self._size = after
        if self._ends(key, before, after, len(self._keys)):
            return self._cut()
        return None

    def close(self) -> _Cut | None:
        """End the last node of the level; None if no entry waits."""
        return self._cut() if self._keys else None

    def _cut(self) -> _Cut:
        keys, payloads = self._keys, self._payloads
        if self._level == 0:
            body = encode_leaf(keys, payloads)
            rows, size = len(keys), self._size
        else:
            children = [child.oid for child in payloads]
            row_list = [child.rows for child in payloads]
            sizes = [child.size for child in payloads]
            body = encode_internal(Internal(self._level, keys, children, row_list, sizes))
            rows, size = sum(row_list), sum(sizes)
        oid = self._sink.put(Kind.NODE, body, self.near)
        self._keys, self._payloads, self._size = [], [], 0
        self.nodes += 1
        self.last = _Cut(keys[-1], _Child(oid, rows, size))
        return self.last


# --- Reading -------------------------------------------------------------------------


class MapReader:
    """Point lookups in one map; keeps the nodes of the last paths decoded."""

    def __init__(self, store: ObjectReader, root: ObjectId) -> None:
        self._nodes = _Nodes(store)
        self._root = root

    def find(self, key: bytes) -> bytes | None:
        """Return the value of `key`, or None; reads one node a level at most."""
        node = self._nodes.get(self._root)
        while isinstance(node, Internal):
            at = bisect_left(node.keys, key)
            if at == len(node.keys):
                return None
            node = self._nodes.get(node.children[at])
        at = bisect_left(node.keys, key)
        return node.values[at] if at < len(node.keys) and node.keys[at] == key else None


def find_value(store: ObjectReader, root: ObjectId, key: bytes) -> bytes | None:
    """Return the value of `key` in the map at `root`, or None."""
    return MapReader(store, root).find(key)


def list_entries(
    store: ObjectReader, root: ObjectId, start: bytes = b"", prefix: bytes = b""
) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values in key order.

    Args:
        start: Begin at the first key that is not below this one.
        prefix: Yield only keys that begin so; nodes without any are not read.
    """
    start = max(start, prefix)
    for leaf in _leaves(store, root, start, prefix):
        at = bisect_left(leaf.keys, start) if start else 0
        for key, value in zip(leaf.keys[at:], leaf.values[at:], strict=True):
            if prefix and not key.startswith(prefix):
                return
            yield key, value


def count_entries(store: ObjectReader, root: ObjectId) -> int:
    """Return how many entries the map has; reads the root alone."""
    node = decode_node_trusted(store.get(Kind.NODE, root))
    return sum(node.rows) if isinstance(node, Internal) else len(node.keys)


def _leaves(
    store: ObjectReader, oid: ObjectId, start: bytes, prefix: bytes = b""
) -> Iterator[Leaf]:
    node = decode_node_trusted(store.get(Kind.NODE, oid))
    if isinstance(node, Leaf):
        yield node
        return
    at = bisect_left(node.keys, start) if start else 0
    for index in range(at, len(node.children)):
        before = node.keys[index - 1] if index else b""
        # Every key of this child is above `before`: past the prefix, past the range.
        if prefix and before > prefix and not before.startswith(prefix):
            return
        yield from _leaves(store, node.children[index], start, prefix)


class _Nodes:
    """Nodes by id, the last few of them kept decoded."""

    def __init__(self, store: ObjectReader) -> None:
        self._store = store
        self._kept: OrderedDict[ObjectId, Node] = OrderedDict()

    def get(self, oid: ObjectId) -> Node:
        node = self._kept.get(oid)
        if node is None:
            node = decode_node_trusted(self._store.get(Kind.NODE, oid))
            self._kept[oid] = node
            if len(self._kept) > _NODE_CACHE_MAX:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(oid)
        return node


# --- Editing -------------------------------------------------------------------------


def edit_map(
    store: ObjectStore, root: ObjectId, changes: Iterable[tuple[bytes, bytes | None]]
) -> ObjectId:
    """Write the map at `root` with `changes` applied and return the new root.

    The result is the root that building the changed map anew would have. k changes in a map
    of n entries read and write O(k log n) nodes; changes close together share them. Held in
    memory: the open nodes, and some 100 bytes for each leaf that is rewritten.

    Args:
        store: Has the nodes of `root`; receives the new ones; is not flushed.
        root: The map to start from.
        changes: Key and new value, or None to delete the key; keys strictly rising.
            Deleting what is not there, or setting what is, changes nothing.

    Raises:
        KeyOrder: the keys do not rise.
    """
    nodes = _Nodes(store)
    top = nodes.get(root)
    height = top.level if isinstance(top, Internal) else 0
    edits: Iterable[tuple[bytes, Any]] = _checked(changes)
    for level in range(height):
        edits = _edit_level(store, _LevelWalk(nodes, root, height, level), edits)
        if not edits:
            return root
    cuts = _recut_root(store, nodes, root, top, edits)
    if not cuts:
        return store.put(Kind.NODE, EMPTY_MAP_BODY)
    if len(cuts) == 1:
        return _without_single_children(nodes, cuts[0].child.oid)
    return _build_above(store, height + 1, cuts)


def _checked(
    changes: Iterable[tuple[bytes, bytes | None]],
) -> Iterator[tuple[bytes, bytes | None]]:
    last = b""
    for key, value in changes:
        if key <= last:
            raise KeyOrder(last, key)
        check_entry(key, value or b"")
        last = key
        yield key, value


class _Place(NamedTuple):
    """One node of a level, and where it stands."""

    oid: ObjectId
    node: Node
    last_key: bytes
    is_last: bool


class _LevelWalk:
    """The nodes of one level below the root, from left to right."""

    def __init__(self, nodes: _Nodes, root: ObjectId, height: int, level: int) -> None:
        self._nodes = nodes
        self._root = root
        self._depth = height - level
        self._path: list[tuple[Internal, int]] = []
        self.level = level

    def seek(self, key: bytes) -> _Place:
        """Return the node that holds `key`, or would: the last node if all keys are below it."""
        self._path = []
        oid = self._root
        for _ in range(self._depth):
            node = self._internal(oid)
            index = min(bisect_left(node.keys, key), len(node.keys) - 1)
            self._path.append((node, index))
            oid = node.children[index]
        return self._place(oid)

    def next(self) -> _Place:
        """Return the node right of the last one returned, which was not the last."""
        depth = len(self._path) - 1
        while self._path[depth][1] == len(self._path[depth][0].keys) - 1:
            depth -= 1
        node, index = self._path[depth]
        del self._path[depth:]
        self._path.append((node, index + 1))
        oid = node.children[index + 1]
        while len(self._path) < self._depth:
            node = self._internal(oid)
            self._path.append((node, 0))
            oid = node.children[0]
        return self._place(oid)

    def _place(self, oid: ObjectId) -> _Place:
        parent, index = self._path[-1]
        is_last = all(at == len(node.keys) - 1 for node, at in self._path)
        return _Place(oid, self._nodes.get(oid), parent.keys[index], is_last)

    def _internal(self, oid: ObjectId) -> Internal:
        node = self._nodes.get(oid)
        if not isinstance(node, Internal):
            raise NotCanonical("map node: a leaf where its parent says an internal node is")
        return node


def _edit_level(
    sink: ObjectWriter, walk: _LevelWalk, edits: Iterable[tuple[bytes, Any]]
) -> list[tuple[bytes, _Child | None]]:
    """Cut the changed stretches of one level anew; return the edits of the level above."""
    pending = _Peekable(edits)
    cutter = _Cutter(sink, walk.level)
    replaced: dict[bytes, ObjectId] = {}
    above: dict[bytes, _Child | None] = {}
    while pending.head is not None:
        place = walk.seek(pending.head[0])
        while True:
            cutter.near = place.oid
            replaced[place.last_key] = place.oid
            above.setdefault(place.last_key, None)
            for key, payload in _merged(place.node, pending, place.is_last):
                cut = cutter.add(key, payload)
                if cut:
                    above[cut.last_key] = cut.child
            if place.is_last:
                cut = cutter.close()
                if cut:
                    above[cut.last_key] = cut.child
            # An old boundary that is a new one too: what follows is as it was.
            if not cutter.is_open:
                break
            place = walk.next()
    for key, oid in replaced.items():
        child = above[key]
        if child is not None and child.oid == oid:
            del above[key]
    return sorted(above.items())


def _recut_root(
    sink: ObjectWriter,
    nodes: _Nodes,
    root: ObjectId,
    top: Node,
    edits: Iterable[tuple[bytes, Any]],
) -> list[_Cut]:
    """Return all nodes that the root's level has after `edits`."""
    cutter = _Cutter(sink, top.level if isinstance(top, Internal) else 0)
    cutter.near = root
    cuts = [cutter.add(*entry) for entry in _merged(top, _Peekable(edits), True)]
    return [cut for cut in (*cuts, cutter.close()) if cut]


def _merged(node: Node, pending: _Peekable, is_last: bool) -> Iterator[tuple[bytes, Any]]:
    """Yield the entries of `node` with the pending edits up to its last key applied."""
    payloads: Iterable[Any]
    if isinstance(node, Leaf):
        payloads = node.values
    else:
        payloads = map(_Child, node.children, node.rows, node.sizes)
    for key, payload in zip(node.keys, payloads, strict=True):
        while pending.head is not None and pending.head[0] < key:
            edit = pending.take()
            if edit[1] is not None:
                yield edit
        if pending.head is not None and pending.head[0] == key:
            edit = pending.take()
            if edit[1] is not None:
                yield edit
        else:
            yield key, payload
    while is_last and pending.head is not None:
        edit = pending.take()
        if edit[1] is not None:
            yield edit


def _without_single_children(nodes: _Nodes, root: ObjectId) -> ObjectId:
    """Return the root below internal nodes with one child, which a rebuild never makes."""
    node = nodes.get(root)
    while isinstance(node, Internal) and len(node.children) == 1:
        root = node.children[0]
        node = nodes.get(root)
    return root


def _build_above(sink: ObjectWriter, level: int, cuts: list[_Cut]) -> ObjectId:
    """Build levels over two or more nodes until one is left; return it."""
    while len(cuts) > 1:
        cutter = _Cutter(sink, level)
        above = [cutter.add(cut.last_key, cut.child) for cut in cuts]
        cuts = [cut for cut in (*above, cutter.close()) if cut]
        level += 1
    return cuts[0].child.oid


class _Peekable:
    """Edits in order, the next one in sight."""

    def __init__(self, edits: Iterable[tuple[bytes, Any]]) -> None:
        self._edits = iter(edits)
        self.head: tuple[bytes, Any] | None = next(self._edits, None)

    def take(self) -> tuple[bytes, Any]:
        taken = self.head
        assert taken is not None
        self.head = next(self._edits, None)
        return taken
