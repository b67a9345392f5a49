"""Conflicts as entries of the collection `conflicts` (13-merge, section 8)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from gsync.changes import MergeConflict
from gsync.objects.encoding import NotCanonical, Value, decode, encode
from gsync.objects.model import KEY_BYTES_MAX, VALUE_BYTES_MAX, Collection, check_collection_name
from gsync.objects.oid import blob_id

KINDS = frozenset(
    (
        *("edit/edit", "add/add", "delete/edit", "edit/delete"),
        *("type", "file/directory", "schema"),
    )
)
RESOLUTIONS = frozenset(("base", "ours", "theirs", "edited"))
KEY_HEAD_BYTES = 3072


class Unrepeated(NamedTuple):
    """Stands for a value that was too long to repeat: its manifest's own map has it."""


UNREPEATED = Unrepeated()
Side = bytes | Unrepeated | None


class StoredConflict(NamedTuple):
    """One conflict of an unfinished merge.

    Attributes:
        collection: The collection that it is in.
        key: The key in that collection's map, or None if it is the collection as a whole.
        kind: One of KINDS.
        base, ours, theirs: The encoded values; None where there is none.
        resolution: One of RESOLUTIONS, or None while it is open.
    """

    collection: str
    key: bytes | None
    kind: str
    base: Side
    ours: Side
    theirs: Side
    resolution: str | None = None


def store_conflict(collection: str, conflict: MergeConflict) -> StoredConflict:
    """Return the open conflict of a key of `collection`."""
    return StoredConflict(collection, *conflict)


def store_collection_conflict(
    name: str,
    kind: str,
    base: Collection | None,
    ours: Collection | None,
    theirs: Collection | None,
) -> StoredConflict:
    """Return the open conflict of a collection as a whole."""
    old, mine, other = map(_encode_collection, (base, ours, theirs))
    return StoredConflict(name, None, kind, old, mine, other)


def _encode_collection(c: Collection | None) -> bytes | None:
    return None if c is None else encode([c.name, c.root, c.count, c.schema, c.view])


def conflict_key(collection: str, key: bytes | None) -> bytes:
    """Return the key under which the conflict of a key of `collection` is kept."""
    if key is None:
        return encode([collection])
    whole = encode([collection, key])
    if len(whole) <= KEY_BYTES_MAX:
        return whole
    return encode([collection, key[:KEY_HEAD_BYTES], blob_id(key)])


def encode_conflict(conflict: StoredConflict) -> tuple[bytes, bytes]:
    """Return key and value of a conflict; sides are left out until the value is short enough."""
    key = conflict_key(conflict.collection, conflict.key)
    value = encode(_value(conflict))
    if len(value) > VALUE_BYTES_MAX:
        conflict = conflict._replace(base=_left_out(conflict.base))
        value = encode(_value(conflict))
    if len(value) > VALUE_BYTES_MAX:
        conflict = conflict._replace(theirs=_left_out(conflict.theirs))
        value = encode(_value(conflict))
    if len(value) > VALUE_BYTES_MAX:
        conflict = conflict._replace(ours=_left_out(conflict.ours))
        value = encode(_value(conflict))
    decode_conflict(key, value)
    return key, value


def encode_conflicts(conflicts: Iterable[StoredConflict]) -> list[tuple[bytes, bytes]]:
    """Return the entries of the collection `conflicts`, in key order."""
    return sorted(map(encode_conflict, conflicts))


def decode_conflict(key: bytes, value: bytes) -> StoredConflict:
    """Return the conflict that an entry from anywhere encodes.

    Raises:
        NotCanonical: 13-merge, section 8, does not hold.
    """
    match decode(value, VALUE_BYTES_MAX):
        case [str() as kind, base, ours, theirs, resolution, *rest] if kind in KINDS:
            pass
        case _:
            raise NotCanonical("conflict: not [kind, base, ours, theirs, resolution] of a kind")
    if resolution is not None and resolution not in RESOLUTIONS:
        raise NotCanonical("conflict: the resolution is none that is known")
    collection, found = _read_key(key, rest)
    if base is None and ours is None and theirs is None:
        raise NotCanonical("conflict: no side has a value")
    sides = (_side(base), _side(ours), _side(theirs))
    conflict = StoredConflict(collection, found, kind, *sides, resolution)
    if conflict_key(collection, found) != key:
        raise NotCanonical("conflict: another key than its own")
    return conflict


def _read_key(key: bytes, rest: list[Value]) -> tuple[str, bytes | None]:
    match decode(key, KEY_BYTES_MAX), rest:
        case [str() as name], []:
            found = None
        case [str() as name, bytes() as found], []:
            pass
        case [str() as name, bytes(), bytes()], [bytes() as found] if len(found) <= KEY_BYTES_MAX:
            pass
        case _:
            raise NotCanonical("conflict: the key is not [collection], or [collection, key]")
    check_collection_name(name)
    if found == b"":
        raise NotCanonical("conflict: the key in its collection is empty")
    return name, found


def _left_out(side: Side) -> Side:
    return None if side is None else UNREPEATED


def _value(conflict: StoredConflict) -> list[Value]:
    key = conflict.key
    sides = map(_nested, (conflict.base, conflict.ours, conflict.theirs))
    value: list[Value] = [conflict.kind, *sides, conflict.resolution]
    if key is not None and len(encode([conflict.collection, key])) > KEY_BYTES_MAX:
        value.append(key)
    return value


def _nested(side: Side) -> Value:
    """Return the value of a side as a part of another, so that its references are seen."""
    if isinstance(side, bytes):
        return decode(side, VALUE_BYTES_MAX)
    return None if side is None else True


def _side(nested: Value) -> Side:
    if nested is None:
        return None
    if nested is True:
        return UNREPEATED
    if type(nested) is not list:
        raise NotCanonical("conflict: a side is not a value, true or nil")
    return encode(nested)
