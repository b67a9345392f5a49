"""Streams of length-prefixed frames (06-wire, section 4)."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from blake3 import blake3

from gsync.errors import Corrupt, TooLarge
from gsync.frozen import frozen
from gsync.objects.encoding import NotCanonical, Value, decode, encode
from gsync.objects.oid import OID_BYTES, ObjectId
from gsync.objects.packs import Pack, compress, decompress

FRAME_BYTES_MAX = 1_114_112
"""1 MiB of content and room for its outline: what either side holds of a stream at once."""

PATCH_BYTES_MAX = 4 << 20
"""What a patch frame may unpack to."""

RECORDS_MAX = 50_000

SLOT_MAX = 65_535
"""More than the elements of any value: one takes a byte, and a value has 65,536 with its head."""

Cells = tuple[tuple[int, Value], ...]
"""What changes in a value that is an array: slots, rising, with their new elements."""

_LENGTH = struct.Struct(">I")

FRAME_OVERHEAD_BYTES = _LENGTH.size + 1
"""What a frame's body has before it: the length and the type."""


class FrameType(IntEnum):
    """What a frame holds. The numbers are part of the format."""

    PACK = 1
    DELTA = 2
    PATCH = 3
    MANIFESTS = 4
    ANNOUNCE = 5
    END = 6
    ERROR = 7


class StreamBroken(Corrupt):
    """A stream ended in the middle, or holds what no sender writes."""


class Frame(NamedTuple):
    """One frame of a stream."""

    type: FrameType
    body: bytes

    @property
    def name(self) -> bytes:
        """The hash that names the frame when it is acknowledged."""
        hasher = blake3(bytes([self.type]))
        hasher.update(self.body)
        return hasher.digest()


def encode_frame(frame: Frame) -> bytes:
    """Return the frame with its length before it."""
    return _LENGTH.pack(len(frame.body) + 1) + bytes([frame.type]) + frame.body


def read_frames(chunks: Iterable[bytes]) -> Iterator[Frame]:
    """Yield the frames of a stream that arrives in chunks of any size.

    Raises:
        TooLarge: a frame is longer than a receiver accepts; nothing of it was kept.
        StreamBroken: the stream ends inside a frame, or a type is unknown.
    """
    buffer = bytearray()
    for chunk in chunks:
        buffer += chunk
        at = 0
        while len(buffer) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, at)
            if not 1 <= length <= FRAME_BYTES_MAX:
                raise TooLarge(f"a frame of {length} bytes: expected 1 to {FRAME_BYTES_MAX}")
            if len(buffer) - at < _LENGTH.size + length:
                break
            start = at + _LENGTH.size
            yield Frame(_type(buffer[start]), bytes(buffer[start + 1 : start + length]))
            at = start + length
        del buffer[:at]
    if buffer:
        raise StreamBroken(f"the stream was cut off: {len(buffer)} bytes of an unfinished frame")


def _type(number: int) -> FrameType:
    try:
        return FrameType(number)
    except ValueError:
        raise StreamBroken(f"a frame of unknown type {number}") from None


def check_end(frame: Frame, count: int) -> None:
    """Raise StreamBroken unless the end frame says that `count` frames came before it."""
    match decode(frame.body, FRAME_BYTES_MAX):
        case [said] if type(said) is int and said == count:
            return
    raise StreamBroken(f"the stream ends after {count} frames, and says otherwise")


def pack_frame(pack: Pack) -> Frame:
    """Return `pack` as a frame."""
    return Frame(FrameType.PACK, encode([pack.kinds, list(pack.sizes), pack.zstd, pack.data]))


def decode_pack(body: bytes) -> Pack:
    """Return the pack of a frame; what it unpacks to is checked when it is unpacked."""
    match decode(body, FRAME_BYTES_MAX):
        case [bytes(kinds), list() as sizes, bool(zstd), bytes(data)]:
            return Pack(kinds, _sizes(sizes, kinds), zstd, data)
    raise NotCanonical("pack frame: not [kinds, sizes, zstd, data]")


@frozen
class DeltaPack:
    """A pack compressed against the bodies of `bases`, one after the other."""

    pack: Pack
    bases: tuple[ObjectId, ...]


def delta_frame(delta: DeltaPack) -> Frame:
    """Return `delta` as a frame."""
    pack = delta.pack
    body = encode([pack.kinds, list(pack.sizes), list(delta.bases), pack.data])
    return Frame(FrameType.DELTA, body)


def decode_delta(body: bytes) -> DeltaPack:
    """Return the delta pack of a frame."""
    match decode(body, FRAME_BYTES_MAX):
        case [bytes(kinds), list() as sizes, list() as bases, bytes(data)]:
            pack = Pack(kinds, _sizes(sizes, kinds), True, data)
            return DeltaPack(pack, tuple(_oid(base) for base in bases))
    raise NotCanonical("delta frame: not [kinds, sizes, bases, data]")


@frozen
class Patch:
    """Some of what turns one map into another.

    Attributes:
        base: The root to start from; None for the empty map; b"" when it goes on from where
            the patch before it led.
        records: Keys, rising, with their new values, or with the cells that change in the value
            that the base has; None deletes.
        target: The root to arrive at, or None when another patch goes on.
    """

    base: ObjectId | None
    records: Sequence[tuple[bytes, bytes | Cells | None]]
    target: ObjectId | None


def patch_frame(patch: Patch) -> Frame:
    """Return `patch` as a frame; each key says only how it differs from the one before."""
    records: list[list[Any]] = []
    last = b""
    for key, value in patch.records:
        shared = _shared(last, key)
        flat = flatten_cells(value) if isinstance(value, tuple) else value
        records.append([shared, key[shared:], flat])
        last = key
    return Frame(FrameType.PATCH, compress(encode([patch.base, records, patch.target])))


def decode_patch(body: bytes) -> Patch:
    """Return the patch of a frame, keys whole again and strictly rising.

    Raises:
        Invalid: it is no patch that a sender writes.
    """
    match decode(decompress(body, PATCH_BYTES_MAX), PATCH_BYTES_MAX):
        case [base, list() as items, target] if len(items) <= RECORDS_MAX:
            pass
        case _:
            raise NotCanonical("patch frame: not [base, records, target]")
    records: list[tuple[bytes, bytes | Cells | None]] = []
    last = b""
    for item in items:
        match item:
            case [int(shared), bytes(rest), None | bytes() | list() as value]:
                pass
            case _:
                raise NotCanonical("patch frame: a record is not [shared, rest, value or cells]")
        if type(shared) is not int or not 0 <= shared <= len(last):
            raise NotCanonical("patch frame: a record shares what the key before does not have")
        key = last[:shared] + rest
        if key <= last:
            raise NotCanonical("patch frame: keys do not rise strictly")
        records.append((key, _cells(value) if isinstance(value, list) else value))
        last = key
    return Patch(
        ObjectId(b"") if base == b"" else _oid_or_none(base), records, _oid_or_none(target)
    )


def flatten_cells(cells: Cells) -> list[Value]:
    """Return cells as a patch holds them: slot, element, slot, element."""
    return [item for cell in cells for item in cell]


def _cells(flat: list[Value]) -> Cells:
    if not flat or len(flat) % 2:
        raise NotCanonical(f"patch frame: cells of {len(flat)} items, where pairs are expected")
    before = -1
    for slot in flat[::2]:
        if type(slot) is not int or not before < slot <= SLOT_MAX:
            raise NotCanonical(
                f"patch frame: slot {slot!r:.20} after {before}: expected to rise, to {SLOT_MAX}"
            )
        before = slot
    return tuple(zip(flat[::2], flat[1::2], strict=True))


def _shared(left: bytes, right: bytes) -> int:
    limit = min(len(left), len(right))
    if left[:limit] == right[:limit]:
        return limit
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if left[:middle] == right[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _sizes(sizes: list[Any], kinds: bytes) -> tuple[int, ...]:
    if len(sizes) != len(kinds) or any(type(n) is not int or n < 0 for n in sizes):
        raise NotCanonical("pack frame: sizes do not match kinds")
    return tuple(sizes)


def _oid(value: Any) -> ObjectId:
    if type(value) is not bytes or len(value) != OID_BYTES:
        raise NotCanonical("frame: an id is not 32 bytes")
    return ObjectId(value)


def _oid_or_none(value: Any) -> ObjectId | None:
    return None if value is None else _oid(value)
