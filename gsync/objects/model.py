"""Nodes and manifests: values, their encodings, and what they refer to.

Layouts and limits are those of spec/03-map.md and spec/04-manifest.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from gsync.frozen import frozen
from gsync.objects.encoding import NotCanonical, Reference, Value, decode, decode_trusted, encode
from gsync.objects.oid import OID_BYTES, Kind, ObjectId

BODY_BYTES_MAX: dict[Kind, int] = {
    Kind.BLOB: 1 << 20,
    Kind.CHUNK_LIST: 1 << 16,
    Kind.NODE: 1 << 17,
    Kind.MANIFEST: 1 << 18,
    Kind.SCHEMA: 1 << 18,
    Kind.VIEW: 1 << 18,
}

KEY_BYTES_MAX = 4096
VALUE_BYTES_MAX = 65_536
LEVEL_MAX = 32
PARENTS_MAX = 16
COLLECTIONS_MAX = 4096
MESSAGE_BYTES_MAX = 65_536
NAME_BYTES_MAX = 255
EXTRAS_MAX = 64

FILES = "files"
"""The name of the collection that holds the file tree."""

_COLLECTION_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


# --- Nodes ---------------------------------------------------------------------------


@frozen
class Leaf:
    """The entries of one leaf, in key order: `values[i]` belongs to `keys[i]`."""

    keys: list[bytes]
    values: list[bytes]


@frozen
class Internal:
    """The children of one internal node, in key order.

    Attributes:
        level: At least 1; the children are at `level - 1`.
        keys: Each child's last key.
        children: Each child's id.
        rows: The number of entries below each child.
        sizes: The bytes of keys and values below each child.
    """

    level: int
    keys: list[bytes]
    children: list[ObjectId]
    rows: list[int]
    sizes: list[int]


Node = Leaf | Internal

EMPTY_MAP_BODY = encode([1, 0, [], []])


def encode_leaf(keys: list[bytes], values: list[bytes]) -> bytes:
    """Return the body of the leaf with these entries."""
    return encode([1, 0, keys, values])


def encode_internal(node: Internal) -> bytes:
    """Return the body of an internal node."""
    return encode([1, node.level, node.keys, node.children, node.rows, node.sizes])


def decode_node(body: bytes) -> Node:
    """Return the node that `body` encodes, checked as far as one node alone can be.

    Raises:
        NotCanonical: 03-map, section 1 or 2, does not hold. Where nodes end (section 3)
            and what a parent says of its children are checked by `maps.check`.
    """
    node = _node(decode(body, BODY_BYTES_MAX[Kind.NODE]))
    _check_keys(node.keys)
    if isinstance(node, Leaf):
        _check_values(node.values)
        if len(node.keys) != len(node.values):
            raise NotCanonical("map node: arrays of different lengths")
        if not node.keys and body != EMPTY_MAP_BODY:
            raise NotCanonical("map node: empty")
    else:
        _check_internal(node)
    return node


def decode_node_trusted(body: bytes) -> Node:
    """Return the node of a body that was checked when it was admitted to the store."""
    return _node(decode_trusted(body))


def _node(value: Value) -> Node:
    if type(value) is list and len(value) >= 4 and _is_version_1(value[0]):
        level = value[1]
        if type(level) is int and level == 0 and len(value) == 4:
            return Leaf(value[2], value[3])
        if len(value) == 6:
            return Internal(value[1], value[2], value[3], value[4], value[5])
    raise NotCanonical("map node: neither a leaf nor an internal node of version 1")


def _is_version_1(value: Value) -> bool:
    return type(value) is int and value == 1  # True and 1.0 are equal to it too


def _check_keys(keys: Any) -> None:
    if type(keys) is not list:
        raise NotCanonical("map node: keys are not an array")
    for key in keys:
        if type(key) is not bytes or not 1 <= len(key) <= KEY_BYTES_MAX:
            raise NotCanonical(f"map node: a key is not 1 to {KEY_BYTES_MAX} bytes")
    for left, right in pairwise(keys):
        if left >= right:
            raise NotCanonical("map node: keys do not rise strictly")


def _check_values(values: Any) -> None:
    if type(values) is not list:
        raise NotCanonical("map node: values are not an array")
    for value in values:
        if type(value) is not bytes:
            raise NotCanonical("map node: a value is not bytes")
        decode(value, VALUE_BYTES_MAX)


def _check_internal(node: Internal) -> None:
    if type(node.level) is not int or not 1 <= node.level <= LEVEL_MAX:
        raise NotCanonical(f"map node: level {node.level!r} is not 1 to {LEVEL_MAX}")
    columns = (node.children, node.rows, node.sizes)
    if not node.keys or any(type(c) is not list or len(c) != len(node.keys) for c in columns):
        raise NotCanonical("map node: arrays of different lengths, or empty")
    for child in node.children:
        if type(child) is not bytes or len(child) != OID_BYTES:
            raise NotCanonical("map node: a child is not a 32-byte id")
    for total in (*node.rows, *node.sizes):
        if type(total) is not int or not 1 <= total < 1 << 63:
            raise NotCanonical("map node: a total is not a positive integer below 2^63")


# --- Manifests -----------------------------------------------------------------------


@frozen
class Collection:
    """One named map of a manifest.

    Attributes:
        name: `files`, or `db/NAME/TABLE`.
        root: Id of the map's root node.
        count: Number of entries in the map.
        schema: Id of the schema that its values follow, or None for files.
        view: Id of the view that was looked through, or None for files.
    """

    name: str
    root: ObjectId
    count: int
    schema: ObjectId | None = None
    view: ObjectId | None = None


@frozen
class Manifest:
    """Which collections there were at one moment, and what they came from.

    Attributes:
        parents: Ids of the manifests before it; the first is the one that was worked on.
        collections: Sorted by name.
        author: Who says to have made it; a claim.
        time_us: When, in microseconds since 1970 in UTC; a claim too.
        message: Why.
        extras: Name and value pairs sorted by name, for what later versions add.
    """

    parents: tuple[ObjectId, ...]
    collections: tuple[Collection, ...]
    author: str
    time_us: int
    message: str
    extras: tuple[tuple[str, Value], ...] = ()

    def find(self, name: str) -> Collection | None:
        """Return the collection called `name`, or None."""
        return next((c for c in self.collections if c.name == name), None)


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the body of `manifest`, or raise NotCanonical where it breaks 04-manifest."""
    body = encode(
        [
            1,
            list(manifest.parents),
            [[c.name, c.root, c.count, c.schema, c.view] for c in manifest.collections],
            [
                manifest.author,
                manifest.time_us,
                manifest.message,
                [[name, value] for name, value in manifest.extras],
            ],
        ]
    )
    decode_manifest(body)
    return body


def decode_manifest(body: bytes) -> Manifest:
    """Return the manifest that `body` encodes.

    Raises:
        NotCanonical: 04-manifest, section 1, does not hold.
    """
    match decode(body, BODY_BYTES_MAX[Kind.MANIFEST]):
        case [
            version,
            list() as parents,
            list() as collections,
            [author, time_us, message, list() as extras],
        ] if _is_version_1(version):
            pass
        case [int() as version, *_] if version != 1:
            raise NotCanonical(f"manifest: version {version}, where this gsync knows 1")
        case _:
            raise NotCanonical("manifest: not [1, parents, collections, meta]")
    return Manifest(
        parents=_parents(parents),
        collections=_collections(collections),
        author=_text(author, "author", NAME_BYTES_MAX),
        time_us=_time(time_us),
        message=_text(message, "message", MESSAGE_BYTES_MAX),
        extras=read_extras(extras, "manifest"),
    )


def _parents(parents: list[Any]) -> tuple[ObjectId, ...]:
    found = tuple(_oid(parent, "parent") for parent in parents)
    if len(found) > PARENTS_MAX or len(set(found)) != len(found):
        raise NotCanonical(f"manifest: more than {PARENTS_MAX} parents, or one named twice")
    return found


def _collections(items: list[Any]) -> tuple[Collection, ...]:
    if len(items) > COLLECTIONS_MAX:
        raise NotCanonical(f"manifest: more than {COLLECTIONS_MAX} collections")
    found = tuple(_collection(item) for item in items)
    for left, right in pairwise(found):
        if left.name.encode() >= right.name.encode():
            raise NotCanonical("manifest: collections are not sorted strictly by name")
    return found


def _collection(item: Any) -> Collection:
    match item:
        case [str() as name, root, count, schema, view] if type(count) is int:
            pass
        case _:
            raise NotCanonical("manifest: a collection is not [name, root, count, schema, view]")
    check_collection_name(name)
    if not 0 <= count < 1 << 63:
        raise NotCanonical(f"manifest: {count} entries in {name}")
    if name == FILES and (schema is not None or view is not None):
        raise NotCanonical(f"manifest: {FILES} has neither schema nor view")
    return Collection(
        name,
        _oid(root, "root"),
        count,
        None if schema is None else _oid(schema, "schema"),
        None if view is None else _oid(view, "view"),
    )


def check_collection_name(name: str) -> None:
    """Raise NotCanonical unless `name` may name a collection (04-manifest, rule 1.3)."""
    if len(name) > NAME_BYTES_MAX or not _COLLECTION_NAME.fullmatch(name):
        raise NotCanonical(f"manifest: {name[:80]!r} is not a collection's name")


def read_extras(items: list[Any], what: str) -> tuple[tuple[str, Value], ...]:
    """Return the extras of a decoded `what`, or raise NotCanonical (04-manifest, rule 1.6)."""
    if len(items) > EXTRAS_MAX:
        raise NotCanonical(f"{what}: more than {EXTRAS_MAX} extras")
    found = []
    for item in items:
        match item:
            case [str() as name, value] if 1 <= len(name.encode()) <= NAME_BYTES_MAX:
                found.append((name, value))
            case _:
                raise NotCanonical(f"{what}: an extra is not [name, value]")
    for (left, _), (right, _) in pairwise(found):
        if left.encode() >= right.encode():
            raise NotCanonical(f"{what}: extras are not sorted strictly by name")
    return tuple(found)


def _oid(value: Any, what: str) -> ObjectId:
    if type(value) is not bytes or len(value) != OID_BYTES:
        raise NotCanonical(f"manifest: a {what} is not a 32-byte id")
    return ObjectId(value)


def _text(value: Any, what: str, bytes_max: int) -> str:
    if type(value) is not str or len(value.encode()) > bytes_max or "\0" in value:
        raise NotCanonical(f"manifest: the {what} is not text of at most {bytes_max} bytes")
    return value


def _time(value: Any) -> int:
    if type(value) is not int or not -(1 << 63) <= value < 1 << 63:
        raise NotCanonical("manifest: the time is not a 64-bit integer")
    return value


# --- References ----------------------------------------------------------------------


def references(kind: Kind, body: bytes) -> Iterator[tuple[Kind, ObjectId]]:
    """Yield what the object refers to, in order, with repetitions (01, section 4).

    The body was admitted before; nothing but its outline is checked.
    """
    if kind is Kind.BLOB:
        return
    value = decode_trusted(body)
    if kind is Kind.NODE:
        if value[1] == 0:
            for item in value[3]:
                yield from _inside(decode_trusted(item))
        else:
            for child in value[3]:
                yield Kind.NODE, ObjectId(child)
    elif kind is Kind.MANIFEST:
        for parent in value[1]:
            yield Kind.MANIFEST, ObjectId(parent)
        for _, root, _, schema, view in value[2]:
            yield Kind.NODE, ObjectId(root)
            if schema is not None:
                yield Kind.SCHEMA, ObjectId(schema)
            if view is not None:
                yield Kind.VIEW, ObjectId(view)
        yield from _inside(value[3][3])
    else:
        yield from _inside(value)


def _inside(value: Value) -> Iterator[tuple[Kind, ObjectId]]:
    if type(value) is Reference:
        yield value.kind, value.oid
    elif type(value) is list:
        for item in value:
            yield from _inside(item)
