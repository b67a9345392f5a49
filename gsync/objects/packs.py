"""Many small objects in one zstd frame (05-store, section 3; 06-wire, section 4).

The form is the same at rest and on the wire, so a pack is compressed once in its life: the
sender reads it from its store, and the receiver stores what it received, hashed first.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence

import zstandard

from gsync.errors import Corrupt
from gsync.frozen import frozen
from gsync.objects.oid import Kind

OBJECTS_MAX = 64
"""Objects in a pack: 64 small texts together compress 3.0 : 1, one by one 2.1 : 1."""

PACK_BYTES_MAX = 1 << 18
"""Bodies in a pack, in bytes, unless it holds one object alone: what a read may unpack."""

BODIES_BYTES_LIMIT = PACK_BYTES_MAX + (1 << 20)
"""More than any pack holds: what a reader refuses to unpack."""

LEVEL = 3
_INCOMPRESSIBLE = 0.97  # a gain below 3 % is not worth unpacking at every read

_local = threading.local()


class PackCorrupt(Corrupt):
    """A pack does not unpack to what its outline says."""


@frozen
class Pack:
    """Some objects side by side.

    Attributes:
        kinds: The kind of each object, one byte each.
        sizes: The length of each body in bytes.
        zstd: Whether `data` is compressed; else it is the bodies as they are.
        data: The bodies, one after the other.
    """

    kinds: bytes
    sizes: tuple[int, ...]
    zstd: bool
    data: bytes


def pack_objects(objects: Sequence[tuple[Kind, bytes]]) -> Pack:
    """Return `objects` as one pack; releases the interpreter lock while it compresses."""
    bodies = b"".join(body for _, body in objects)
    kinds = bytes(kind for kind, _ in objects)
    sizes = tuple(len(body) for _, body in objects)
    data = _compressor().compress(bodies)
    if len(data) >= len(bodies) * _INCOMPRESSIBLE:
        return Pack(kinds, sizes, False, bodies)
    return Pack(kinds, sizes, True, data)


def group_objects(
    objects: Iterable[tuple[Kind, bytes]],
) -> Iterator[list[tuple[Kind, bytes]]]:
    """Yield `objects` in groups that each fit into one pack, in order."""
    group: list[tuple[Kind, bytes]] = []
    size = 0
    for kind, body in objects:
        if group and (len(group) >= OBJECTS_MAX or size + len(body) > PACK_BYTES_MAX):
            yield group
            group, size = [], 0
        group.append((kind, body))
        size += len(body)
    if group:
        yield group


def unpack_objects(pack: Pack, dictionary: bytes | None = None) -> list[tuple[Kind, bytes]]:
    """Return kinds and bodies of a pack from anywhere; never unpacks more than announced.

    Args:
        dictionary: The raw content that the pack was compressed against, if it was.

    Raises:
        PackCorrupt: the data does not unpack to the announced sizes.
    """
    total = sum(pack.sizes)
    if total > BODIES_BYTES_LIMIT or len(pack.kinds) != len(pack.sizes):
        raise PackCorrupt(f"a pack of {total} bytes in {len(pack.sizes)} objects is not allowed")
    bodies = decompress(pack.data, total, dictionary) if pack.zstd else pack.data
    if len(bodies) != total:
        raise PackCorrupt(f"a pack unpacks to {len(bodies)} bytes, where it announced {total}")
    found, at = [], 0
    for kind, size in zip(pack.kinds, pack.sizes, strict=True):
        found.append((_kind(kind), bodies[at : at + size]))
        at += size
    return found


def compress(body: bytes, dictionary: bytes | None = None) -> bytes:
    """Return `body` as one zstd frame, against raw content `dictionary` if given."""
    if not dictionary:
        return _compressor().compress(body)
    raw = zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    parameters = zstandard.ZstdCompressionParameters.from_level(
        LEVEL, source_size=len(body), dict_size=len(dictionary), write_dict_id=False
    )
    compressor = zstandard.ZstdCompressor(dict_data=raw, compression_params=parameters)
    return compressor.compress(body)


def decompress(data: bytes, bytes_max: int, dictionary: bytes | None = None) -> bytes:
    """Return what one zstd frame holds, which may be `bytes_max` at most.

    Raises:
        PackCorrupt: it is no zstd frame, or holds more.
    """
    try:
        announced = zstandard.frame_content_size(data)
        if not 0 <= announced <= bytes_max:
            raise PackCorrupt(f"a frame announces {announced} bytes, where {bytes_max} may come")
        if dictionary:
            raw = zstandard.ZstdCompressionDict(
                dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT
            )
            decompressor = zstandard.ZstdDecompressor(dict_data=raw)
        else:
            decompressor = _decompressor()
        return decompressor.decompress(data, max_output_size=max(bytes_max, 1))
    except zstandard.ZstdError as error:
        raise PackCorrupt(f"a pack does not decompress: {error}") from error


def _kind(number: int) -> Kind:
    try:
        return Kind(number)
    except ValueError:
        raise PackCorrupt(f"a pack holds an object of unknown kind {number}") from None


def _compressor() -> zstandard.ZstdCompressor:
    # One a thread: they are not safe to share, and making one costs 1.6 times a use.
    if not hasattr(_local, "compressor"):
        _local.compressor = zstandard.ZstdCompressor(level=LEVEL)
    compressor: zstandard.ZstdCompressor = _local.compressor
    return compressor


def _decompressor() -> zstandard.ZstdDecompressor:
    if not hasattr(_local, "decompressor"):
        _local.decompressor = zstandard.ZstdDecompressor()
    decompressor: zstandard.ZstdDecompressor = _local.decompressor
    return decompressor
