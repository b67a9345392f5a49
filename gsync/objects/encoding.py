"""Canonical msgpack: one value, one encoding (01-ids-and-encoding, section 3).

What is hashed is encoded here and nowhere else. The decoder accepts exactly what the
encoder writes: it decodes with the C library, encodes the result again and compares.
"""

from __future__ import annotations

import struct
from typing import Any, cast

import msgpack  # type: ignore[import-untyped]

from gsync.errors import Invalid
from gsync.frozen import frozen
from gsync.objects.oid import OID_BYTES, Kind, ObjectId

# Any canonical value: None, bool, int, float, str, bytes, list, Reference. A recursive
# alias would make mypy expand it at every use; validators narrow it where it matters.
Value = Any

DEPTH_MAX = 32
REFERENCE_EXT = 1
_REFERENCE = struct.Struct(">B32sQ")
_BLOB_HEAD = b"\xc7%c%c%c" % (_REFERENCE.size, REFERENCE_EXT, Kind.BLOB)
_NAN = b"\x7f\xf8\x00\x00\x00\x00\x00\x00"
_KINDS = {int(kind): kind for kind in Kind}


class NotCanonical(Invalid):
    """Bytes are not the one encoding of a value of the expected shape."""


@frozen
class Reference:
    """A pointer to an object from inside a value.

    Attributes:
        kind: What the object is; it takes part in the object's id.
        oid: The object's id.
        length: The number of content bytes it stands for: a blob's own size, and for
            a chunk list the size of the file that it lists.
    """

    kind: Kind
    oid: ObjectId
    length: int


_PLAIN = frozenset({type(None), bool, int, str, bytes, Reference})


def encode(value: Value) -> bytes:
    """Return the canonical encoding of `value`.

    Raises:
        NotCanonical: the value has no encoding: a map, a NaN that is not the one NaN,
            text with lone surrogates, an integer beyond 64 bits, nesting beyond 32.
    """
    try:
        body = cast(bytes, msgpack.packb(value, default=_pack_reference, strict_types=True))
    except (TypeError, ValueError, OverflowError) as error:
        raise NotCanonical(f"not a canonical value: {error}") from error
    _check(value, DEPTH_MAX)
    return body


def decode(body: bytes, max_bytes: int) -> Value:
    """Return the one value that `body` is the canonical encoding of.

    Args:
        body: Bytes from anywhere.
        max_bytes: More than this is refused before anything is decoded.

    Raises:
        NotCanonical: `body` is anything else.
    """
    if len(body) > max_bytes:
        raise NotCanonical(f"an object of {len(body)} bytes, where {max_bytes} is the maximum")
    value = decode_trusted(body)
    try:
        again = encode(value)
    except NotCanonical as error:
        raise NotCanonical("not canonical msgpack: holds a value that is never written") from error
    if again != body:
        raise NotCanonical("not canonical msgpack: a second encoding of the same value")
    return value


def decode_trusted(body: bytes) -> Value:
    """Return the value of `body`, which was admitted as canonical before and has its id.

    Raises:
        NotCanonical: not msgpack at all, so it never was admitted.
    """
    try:
        return msgpack.unpackb(body, ext_hook=_unpack_reference, strict_map_key=False)
    except NotCanonical:
        raise
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise NotCanonical(f"not msgpack: {error or type(error).__name__}") from error


def encode_blob_entry(number: int, oid: ObjectId, length: int) -> bytes:
    """Return what `encode([number, length, Reference(Kind.BLOB, oid, length)])` returns.

    The one value of which a tree has one a file, so it is put together without a packer.
    Only for a `number` below 128, an `oid` of 32 bytes and a `length` below 2^32.
    """
    return b"\x93%c%b\xc7%c%c%c%b%b" % (
        number,
        _encode_length(length),
        _REFERENCE.size,
        REFERENCE_EXT,
        Kind.BLOB,
        oid,
        length.to_bytes(8, "big"),
    )


def find_blob_entry(body: bytes) -> tuple[int, ObjectId, int] | None:
    """Return the arguments for which `encode_blob_entry` returns `body`, or None without any."""
    size = len(body)
    if not 47 <= size <= 51:  # by how many bytes the length is written with
        return None
    number, oid, length = body[1], ObjectId(body[-40:-8]), int.from_bytes(body[-8:], "big")
    if number < 128 and length < 1 << 32 and encode_blob_entry(number, oid, length) == body:
        return number, oid, length
    return None


def find_blob_entry_trusted(body: bytes) -> tuple[int, ObjectId, int] | None:
    """As `find_blob_entry`, of a body that is known to be canonical: its form says enough."""
    size = len(body)
    # The extension's head, a type, and the kind of a blob stand before the id.
    if not 47 <= size <= 51 or body[-44:-40] != _BLOB_HEAD or body[0] != 0x93:
        return None
    return body[1], ObjectId(body[-40:-8]), int.from_bytes(body[-8:], "big")


def _encode_length(value: int) -> bytes:
    if value < 1 << 7:
        return b"%c" % value
    if value < 1 << 8:
        return b"\xcc%c" % value
    if value < 1 << 16:
        return b"\xcd" + value.to_bytes(2, "big")
    return b"\xce" + value.to_bytes(4, "big")


def _pack_reference(value: Any) -> msgpack.ExtType:
    if type(value) is not Reference:
        raise TypeError(f"cannot encode a {type(value).__name__}")
    if len(value.oid) != OID_BYTES or not 0 <= value.length < 1 << 63:
        raise ValueError("a reference needs a 32-byte id and a length below 2^63")
    return msgpack.ExtType(REFERENCE_EXT, _REFERENCE.pack(value.kind, value.oid, value.length))


def _unpack_reference(code: int, data: bytes) -> Reference:
    if code != REFERENCE_EXT or len(data) != _REFERENCE.size:
        raise NotCanonical(f"extension {code} with {len(data)} bytes is not a reference")
    kind, oid, length = _REFERENCE.unpack(data)
    if kind not in _KINDS:
        raise NotCanonical(f"a reference to an object of unknown kind {kind}")
    return Reference(_KINDS[kind], ObjectId(oid), length)


def _check(value: Value, depth: int) -> None:
    """Refuse what the C packer lets through: maps, timestamps, other NaNs, deep nesting."""
    kind = type(value)
    if kind in _PLAIN:
        return
    if kind is list:
        if depth == 0:
            raise NotCanonical(f"nested deeper than {DEPTH_MAX}")
        for item in value:
            if type(item) not in _PLAIN:
                _check(item, depth - 1)
    elif kind is float:
        if value != value and struct.pack(">d", value) != _NAN:
            raise NotCanonical("a NaN other than 7ff8000000000000")
    else:
        raise NotCanonical(f"not a canonical value: cannot encode a {kind.__name__}")
