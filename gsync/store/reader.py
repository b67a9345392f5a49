"""Reading packs out of a store's file, with the last ones unpacked kept at hand."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

from gsync.frozen import frozen
from gsync.objects.oid import ObjectId
from gsync.objects.packs import BODIES_BYTES_LIMIT, PackCorrupt, decompress
from gsync.store.base import ObjectCorrupt
from gsync.store.sql import Connection, Row

RAW, ZSTD, DELTA = 0, 1, 2
"""How a pack is stored: as it is, one frame, one frame against the body of another object."""

DELTA_DEPTH_MAX = 8
"""Deltas on the way to a body: each is a pack to read."""

CACHE_BYTES = 1 << 24
_IN_SIZES = (1, 8, 64, 900)  # few different statements; SQLite before 3.32 takes 999 at most


@frozen
class Place:
    """Where an object lies: `size` bytes from `offset` on in the unpacked pack."""

    kind: int
    pack: int
    offset: int
    size: int


class PackReader:
    """Unpacked packs by number. A pack never changes and its number is never used again."""

    def __init__(self, db: Connection, cache_bytes: int = CACHE_BYTES) -> None:
        self._db = db
        self._cache: OrderedDict[int, bytes] = OrderedDict()
        self._cached_bytes = 0
        self._cache_bytes = cache_bytes

    def find_bodies(self, pack: int, depth: int = 0) -> bytes | None:
        """Return the bodies in `pack`, one after the other, or None when there is no such pack.

        Raises:
            PackCorrupt: it does not unpack to the size it should have.
        """
        if pack in self._cache:
            self._cache.move_to_end(pack)
            return self._cache[pack]
        rows = self._db.query(
            'SELECT p.encoding, p.size, p.data, p.base, o.pack, o."offset", o.size'
            " FROM pack p LEFT JOIN object o ON o.id = p.base WHERE p.id = ?",
            (pack,),
        )
        if not rows:
            return None
        bodies = self._unpack(pack, rows[0], depth)
        self._keep(pack, bodies)
        return bodies

    def _unpack(self, pack: int, row: Row, depth: int) -> bytes:
        encoding, size, data, base, base_pack, base_offset, base_size = row
        if type(size) is not int or type(data) is not bytes:
            raise PackCorrupt(f"pack {pack} is a row of other types")
        if size > BODIES_BYTES_LIMIT:
            raise PackCorrupt(f"pack {pack} claims {size} bytes")
        if encoding == RAW:
            bodies: bytes = data
        elif encoding == ZSTD:
            bodies = decompress(data, size)
        elif encoding == DELTA:
            if depth >= DELTA_DEPTH_MAX:
                raise PackCorrupt(f"pack {pack} is more than {DELTA_DEPTH_MAX} deltas deep")
            below = self.find_bodies(base_pack, depth + 1) if base_pack is not None else None
            if below is None or type(base_offset) is not int or type(base_size) is not int:
                raise PackCorrupt(f"pack {pack} is a delta of object {base}, which is gone")
            bodies = decompress(data, size, below[base_offset : base_offset + base_size])
        else:
            raise PackCorrupt(f"pack {pack} has the unknown encoding {encoding}")
        if len(bodies) != size:
            raise PackCorrupt(f"pack {pack} holds {len(bodies)} bytes instead of {size}")
        return bodies

    def _keep(self, pack: int, bodies: bytes) -> None:
        self._cache[pack] = bodies
        self._cached_bytes += len(bodies)
        while self._cached_bytes > self._cache_bytes:
            _, dropped = self._cache.popitem(last=False)
            self._cached_bytes -= len(dropped)


def locate(db: Connection, oids: Iterable[ObjectId]) -> dict[ObjectId, Place]:
    """Return where those of `oids` lie that are in the file."""
    found = {}
    for some, marks in in_lists(sorted(oids)):
        for oid, kind, pack, offset, size in db.query(
            f'SELECT oid, kind, pack, "offset", size FROM object WHERE oid IN ({marks})', some
        ):
            if not type(pack) is type(offset) is type(size) is int:
                raise ObjectCorrupt(ObjectId(oid), "its row says no place in the store")
            found[ObjectId(oid)] = Place(kind, pack, offset, size)
    return found


def find_present(db: Connection, oids: Iterable[ObjectId]) -> set[ObjectId]:
    """Return those of `oids` that are in the file."""
    found: set[ObjectId] = set()
    for some, marks in in_lists(sorted(oids)):
        rows = db.query(f"SELECT oid FROM object WHERE oid IN ({marks})", some)
        found.update(ObjectId(oid) for (oid,) in rows)
    return found


def in_lists(items: Sequence[ObjectId]) -> Iterator[tuple[list[ObjectId], str]]:
    """Yield `items` in parts, each with its question marks; a part may repeat its last item."""
    for start in range(0, len(items), _IN_SIZES[-1]):
        part = list(items[start : start + _IN_SIZES[-1]])
        size = next(size for size in _IN_SIZES if size >= len(part))
        yield part + part[-1:] * (size - len(part)), ",".join("?" * size)
