"""Objects in a store's file: put, get, packs in and out (05-store, sections 3 and 4)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gsync.errors import Denied, TooLarge
from gsync.frozen import frozen
from gsync.objects.model import BODY_BYTES_MAX
from gsync.objects.oid import OID_BYTES, Kind, ObjectId, object_id
from gsync.objects.packs import (
    OBJECTS_MAX,
    PACK_BYTES_MAX,
    Pack,
    PackCorrupt,
    compress,
    pack_objects,
    unpack_objects,
)
from gsync.store.base import ObjectCorrupt, ObjectMissing
from gsync.store.file import SqliteFile
from gsync.store.lock import FileLock
from gsync.store.reader import (
    CACHE_BYTES,
    DELTA,
    DELTA_DEPTH_MAX,
    RAW,
    ZSTD,
    PackReader,
    Place,
    find_present,
    in_lists,
    locate,
)
from gsync.store.sql import Connection

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

LARGE_BYTES = 1 << 16
"""An object above this is a pack of its own: neighbours would gain it nothing."""

BATCH_BYTES = 1 << 25
"""Bodies inserted in one transaction: some 10 MB of packs, held for a fraction of a second."""

ALONE_BYTES = 1 << 18
"""As much is packed without a thread: starting one takes as long."""

_WORKERS = 2
_IN_FLIGHT_MAX = 8  # packs being compressed: enough to keep the workers busy
_KNOWN_MAX = 1 << 17  # ids remembered as present: about 12 MB
_WHOLE_SET_MIN = 20_000  # from here on reading all ids is cheaper than asking for each

Item = tuple[Kind, ObjectId, bytes]


@dataclass(slots=True)
class _Buffer:
    """Objects that wait for enough neighbours to make a pack."""

    items: list[Item] = field(default_factory=list)
    size: int = 0

    def has_room_for(self, body: bytes) -> bool:
        return len(self.items) < OBJECTS_MAX and self.size + len(body) <= PACK_BYTES_MAX


@frozen
class _Sealed:
    """A pack on its way into the file.

    Attributes:
        pack: The pack, or its compression that is still running.
        outline: Kind, id, offset and size of the objects to be found in it.
        size: Bytes of all its bodies.
        base: The object that it is a delta of, or None.
    """

    pack: Future[Pack] | Pack
    outline: list[tuple[Kind, ObjectId, int, int]]
    size: int
    base: ObjectId | None = None


class SqliteBodies(SqliteFile):
    """Objects in a store's file; the ObjectStore and PackStore of `base`.

    What was put goes through: arrived (not yet looked up) -> a buffer for its sort -> in
    flight (being compressed) -> sealed -> inserted. Until then its body is in `_pending`, from
    where reads are answered. The lock is held for the last step only.
    """

    def __init__(self, path: Path, db: Connection, lock: FileLock, read_only: bool) -> None:
        super().__init__(path, db, lock, read_only)
        self.objects_written = 0
        """How many objects this handle has added to the file."""
        self.bytes_written = 0
        """How many bytes of packs."""
        self._cache_bytes = CACHE_BYTES
        self._reader = PackReader(db)
        self._pool: ThreadPoolExecutor | None = None
        self._alone_bytes = ALONE_BYTES
        self._pending: dict[ObjectId, tuple[Kind, bytes]] = {}
        self._known: set[ObjectId] = set()
        self._known_at = -1
        self._arrived: deque[tuple[Kind, ObjectId, bytes, ObjectId | None]] = deque()
        self._arrived_bytes = 0
        self._blobs = _Buffer()
        self._structure = _Buffer()
        self._in_flight: deque[_Sealed] = deque()
        self._sealed: list[_Sealed] = []
        self._sealed_bytes = 0

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        super().close()

    def limit_cache(self, kib: int) -> None:
        super().limit_cache(kib)
        self._cache_bytes = kib << 10
        self._reader = PackReader(self._db, self._cache_bytes)

    def release_memory(self) -> None:
        super().release_memory()
        self._known = set()  # a cleared set keeps its table
        self._reader = PackReader(self._db, self._cache_bytes)

    # Reading

    def get(self, kind: Kind, oid: ObjectId) -> bytes:
        if oid in self._pending:
            return self._pending_body(kind, oid)
        # A collection in another process may move an object between our two reads.
        for _ in range(3):
            place = locate(self._db, [oid]).get(oid)
            if place is None or place.kind != kind:
                raise ObjectMissing(kind, oid)
            body = self._find_body(kind, oid, place)
            if body is not None:
                return body
        raise ObjectCorrupt(oid, "the pack that should hold it is not there")

    def get_many(self, wanted: Sequence[tuple[Kind, ObjectId]]) -> Iterator[tuple[ObjectId, bytes]]:
        kinds = _kinds(wanted)
        here = {o: self._pending_body(kind, o) for o, kind in kinds.items() if o in self._pending}
        places = self._places({o: kind for o, kind in kinds.items() if o not in here})
        yield from here.items()
        for oid, place in sorted(places.items(), key=_storage_order):
            body = self._find_body(kinds[oid], oid, place)
            yield oid, self.get(kinds[oid], oid) if body is None else body

    def find_ids(self, kind: Kind, prefix: str, limit: int = 2) -> list[ObjectId]:
        """Return up to `limit` stored ids of that kind whose hex form begins with `prefix`."""
        low = bytes.fromhex(prefix.ljust(2 * OID_BYTES, "0"))
        high = bytes.fromhex(prefix.ljust(2 * OID_BYTES, "f"))
        rows = self._select(
            "SELECT oid FROM object WHERE oid BETWEEN ? AND ? AND kind = ? ORDER BY oid LIMIT ?",
            low,
            high,
            int(kind),
            limit,
        )
        return [ObjectId(oid) for (oid,) in rows]

    def missing(self, oids: Iterable[ObjectId]) -> set[ObjectId]:
        asked = {oid for oid in oids if oid not in self._pending}
        if len(asked) >= _WHOLE_SET_MIN and 4 * len(asked) >= self._count_objects():
            asked.difference_update([oid for (oid,) in self._select("SELECT oid FROM object")])
            return asked
        return asked - find_present(self._db, asked)

    def sizes(self, kind: Kind, oids: Iterable[ObjectId]) -> dict[ObjectId, int]:
        asked = set(oids)
        pending = {oid: self._pending[oid] for oid in asked if oid in self._pending}
        found = {oid: len(body) for oid, (stored, body) in pending.items() if stored is kind}
        places = locate(self._db, asked - pending.keys())
        return found | {oid: place.size for oid, place in places.items() if place.kind == kind}

    def _count_objects(self) -> int:
        count: int = self._select("SELECT count(*) FROM object")[0][0]
        return count

    def _pending_body(self, kind: Kind, oid: ObjectId) -> bytes:
        found, body = self._pending[oid]
        if found is not kind:
            raise ObjectMissing(kind, oid)
        return body

    def _places(self, kinds: dict[ObjectId, Kind]) -> dict[ObjectId, Place]:
        places = locate(self._db, kinds)
        for oid, kind in kinds.items():
            if oid not in places or places[oid].kind != kind:
                raise ObjectMissing(kind, oid)
        return places

    def _find_body(self, kind: Kind, oid: ObjectId, place: Place) -> bytes | None:
        """Return the body at `place`, hashed, or None when its pack has gone."""
        try:
            bodies = self._reader.find_bodies(place.pack)
        except PackCorrupt as error:
            raise ObjectCorrupt(oid, error.message) from error
        if bodies is None:
            return None
        body = bodies[place.offset : place.offset + place.size]
        if object_id(kind, body) != oid:
            raise ObjectCorrupt(oid, "stored bytes do not hash to the id")
        return body

    # Writing

    def put(self, kind: Kind, body: bytes, near: ObjectId | None = None) -> ObjectId:
        oid = object_id(kind, body)
        if self._collections_seen is None:
            self._begin_puts()
        if oid in self._pending or oid in self._known:
            self._note_found([oid])
            return oid
        if len(body) > BODY_BYTES_MAX[kind]:
            raise _too_large(kind, len(body))
        self._pending[oid] = (kind, body)
        self._arrived.append((kind, oid, body, near))
        self._arrived_bytes += len(body)
        if len(self._arrived) >= OBJECTS_MAX or self._arrived_bytes >= PACK_BYTES_MAX:
            self._admit()
        return oid

    def flush(self) -> None:
        if not self._pending:
            return
        self._admit()
        for buffer in (self._blobs, self._structure):
            self._seal(buffer)
        while self._in_flight:
            self._land()
        self._insert()

    def put_pack(self, pack: Pack) -> list[ObjectId]:
        """Keep the objects of a pack from anywhere, as it was compressed; return their ids.

        Raises:
            PackCorrupt: it is not what its outline says.
            TooLarge: it has too many objects, or one that is larger than its kind may be.
        """
        if len(pack.sizes) > OBJECTS_MAX:
            raise TooLarge(f"a pack of {len(pack.sizes)} objects, where {OBJECTS_MAX} may come")
        objects = unpack_objects(pack)
        for kind, body in objects:
            if len(body) > BODY_BYTES_MAX[kind]:
                raise _too_large(kind, len(body))
        oids = [object_id(kind, body) for kind, body in objects]
        if self._collections_seen is None:
            self._begin_puts()
        fresh = self._fresh(oids)
        if 2 * sum(len(objects[at][1]) for at in fresh.values()) < sum(pack.sizes):
            for at in fresh.values():
                self.put(*objects[at])
        elif fresh:
            self._take_pack(pack, objects, fresh)
        return oids

    def export_packs(self, wanted: Sequence[tuple[Kind, ObjectId]]) -> Iterator[Pack]:
        """Yield packs that hold the objects of `wanted`, each once, and nothing else.

        A stored pack that is wanted whole goes out as it is stored, neither unpacked nor
        hashed: who receives it does both. The others follow, packed anew.
        """
        if self._pending:
            self.flush()
        kinds = _kinds(wanted)
        places = sorted(self._places(kinds).items(), key=_storage_order)
        rest: list[tuple[Kind, ObjectId]] = []
        start = 0
        while start < len(places):
            pack_id, end = places[start][1].pack, start
            while end < len(places) and places[end][1].pack == pack_id:
                end += 1
            members = places[start:end]
            stored = self._find_stored(pack_id, [place for _, place in members])
            if stored is not None:
                yield stored
            else:
                rest.extend((kinds[oid], oid) for oid, _ in members)
            start = end
        yield from self._repack(rest, kinds)

    def _begin_puts(self) -> None:
        if self.read_only:
            raise Denied(f"{self.path} was opened for reading only")
        self._collections_seen = self._counter("collections")
        if self._known_at != self._collections_seen:
            self._known.clear()
            self._known_at = self._collections_seen

    def _remember(self, oids: Iterable[ObjectId]) -> None:
        if len(self._known) >= _KNOWN_MAX:
            self._known.clear()
        self._known.update(oids)

    def _note_found(self, oids: Iterable[ObjectId]) -> None:
        if self._found is not None:
            self._found.update(oids)

    # From arrived to sealed

    def _admit(self) -> None:
        """Drop what the file has already; send the rest on to its buffer."""
        present = find_present(self._db, [oid for _, oid, _, _ in self._arrived])
        self._note_found(present)
        self._remember(present)
        while self._arrived:  # one by one: what fails to be written stays where it was
            kind, oid, body, near = self._arrived[0]
            if oid in present:
                del self._pending[oid]
            else:
                self._send_on(kind, oid, body, near)
            self._arrived.popleft()
        self._arrived_bytes = 0

    def _send_on(self, kind: Kind, oid: ObjectId, body: bytes, near: ObjectId | None) -> None:
        delta = self._find_delta(oid, body, near) if near and kind is Kind.NODE else None
        if delta is not None:
            self._make_room()
            self._in_flight.append(delta)
        elif len(body) > LARGE_BYTES:
            self._send([(kind, oid, body)], len(body))
        else:
            self._gather(self._blobs if kind is Kind.BLOB else self._structure, kind, oid, body)

    def _gather(self, buffer: _Buffer, kind: Kind, oid: ObjectId, body: bytes) -> None:
        if not buffer.has_room_for(body):
            self._seal(buffer)
        buffer.items.append((kind, oid, body))
        buffer.size += len(body)

    def _seal(self, buffer: _Buffer) -> None:
        if buffer.items:
            self._send(buffer.items, buffer.size)
            buffer.items, buffer.size = [], 0

    def _send(self, items: list[Item], size: int) -> None:
        self._make_room()
        packed = [(kind, body) for kind, _, body in items]
        if self._pool is None and size <= self._alone_bytes:
            self._alone_bytes -= size
            self._in_flight.append(_Sealed(pack_objects(packed), _outline(items), size))
            return
        if self._pool is None:
            # Here, for it takes longer to import than a small command to pack what it writes.
            from concurrent.futures import ThreadPoolExecutor

            self._pool = ThreadPoolExecutor(_WORKERS, "gsync-pack")
        future = self._pool.submit(pack_objects, packed)
        self._in_flight.append(_Sealed(future, _outline(items), size))

    def _make_room(self) -> None:
        while len(self._in_flight) >= _IN_FLIGHT_MAX:
            self._land()

    def _land(self) -> None:
        """Wait for the oldest pack in flight; insert when a batch is together."""
        oldest = self._in_flight[0]
        if not isinstance(oldest.pack, Pack):
            oldest = _Sealed(oldest.pack.result(), oldest.outline, oldest.size)
        self._in_flight.popleft()
        self._sealed.append(oldest)
        self._sealed_bytes += oldest.size
        if self._sealed_bytes >= BATCH_BYTES:
            self._insert()

    def _find_delta(self, oid: ObjectId, body: bytes, near: ObjectId) -> _Sealed | None:
        """Return `body` as a delta of `near`, or None where that is not possible or no gain."""
        base = self._bases([near]).get(near)
        if base is None or base[1] >= DELTA_DEPTH_MAX:
            return None
        try:
            data = compress(body, self.get(Kind.NODE, near))
        except (ObjectCorrupt, ObjectMissing):
            return None
        if 2 * len(data) >= len(body):
            return None
        pack = Pack(bytes([Kind.NODE]), (len(body),), True, data)
        return _Sealed(pack, _outline([(Kind.NODE, oid, body)]), len(body), near)

    def _bases(self, oids: Iterable[ObjectId]) -> dict[ObjectId, tuple[int, int]]:
        """Return the row and the depth of those of `oids` that are nodes in the file."""
        found = {}
        for some, marks in in_lists(sorted(oids)):
            for oid, row, depth in self._db.query(
                "SELECT o.oid, o.id, p.depth FROM object o JOIN pack p ON p.id = o.pack"
                f" WHERE o.kind = {int(Kind.NODE)} AND o.oid IN ({marks})",
                some,
            ):
                found[ObjectId(oid)] = (row, depth)
        return found

    def _fresh(self, oids: Sequence[ObjectId]) -> dict[ObjectId, int]:
        """Return those of `oids` that are new here, with their place in `oids`."""
        every = {oid: at for at, oid in enumerate(oids)}
        asked = {
            o: at for o, at in every.items() if o not in self._pending and o not in self._known
        }
        present = find_present(self._db, asked)
        self._remember(present)
        fresh = {oid: at for oid, at in asked.items() if oid not in present}
        self._note_found(every.keys() - fresh.keys())
        return fresh

    def _take_pack(
        self, pack: Pack, objects: list[tuple[Kind, bytes]], fresh: dict[ObjectId, int]
    ) -> None:
        offsets = [0]
        for size in pack.sizes:
            offsets.append(offsets[-1] + size)
        self._make_room()
        outline = []
        for oid, at in fresh.items():
            self._pending[oid] = objects[at]
            outline.append((objects[at][0], oid, offsets[at], pack.sizes[at]))
        self._in_flight.append(_Sealed(pack, outline, offsets[-1]))

    # From sealed to inserted

    def _insert(self) -> None:
        """Insert all sealed packs in one transaction; they stay sealed if it fails."""
        if not self._sealed:
            return
        with self._writing("storing objects"):
            self._insert_packs(self._sealed)
        for sealed in self._sealed:
            oids = [oid for _, oid, _, _ in sealed.outline]
            for oid in oids:
                self._pending.pop(oid, None)
            self._remember(oids)
        self._sealed, self._sealed_bytes = [], 0

    def _insert_packs(self, batch: Sequence[_Sealed]) -> None:
        first = self._counter("packs") + 1
        bases = self._bases({sealed.base for sealed in batch if sealed.base is not None})
        packs: list[tuple[int, int, int | None, int, int, bytes]] = []
        objects: list[tuple[object, ...]] = []
        for number, sealed in enumerate(batch, first):
            packs.append((number, *self._pack_row(sealed, bases)))
            objects.extend(
                (oid, int(kind), number, offset, size) for kind, oid, offset, size in sealed.outline
            )
        self._count_up("packs", len(packs))
        # Rows are numbered by a counter and not by SQLite, which may reuse the number of a row
        # that was dropped: a session's floor must stay below what came after it.
        row = self._counter("objects")
        self._count_up("objects", len(objects))
        self._db.run_many(
            "INSERT INTO pack (id, encoding, base, depth, size, data) VALUES (?, ?, ?, ?, ?, ?)",
            packs,
        )
        new = self._db.run_many(
            'INSERT OR IGNORE INTO object (id, oid, kind, pack, "offset", size)'
            " VALUES (?, ?, ?, ?, ?, ?)",
            [(number, *values) for number, values in enumerate(objects, row + 1)],
        )
        self.objects_written += new
        self.bytes_written += sum(len(pack[-1]) for pack in packs)
        if new < len(objects):  # another writer had some of them first
            self._drop_empty_packs(first)

    def _pack_row(
        self, sealed: _Sealed, bases: dict[ObjectId, tuple[int, int]]
    ) -> tuple[int, int | None, int, int, bytes]:
        assert isinstance(sealed.pack, Pack)
        pack = sealed.pack
        if sealed.base is not None:
            row, depth = bases.get(sealed.base, (0, DELTA_DEPTH_MAX))
            if depth < DELTA_DEPTH_MAX:
                return DELTA, row, depth + 1, sealed.size, pack.data
            # The base was collected, or became deeper, since the delta was made.
            pack = pack_objects([self._pending[sealed.outline[0][1]]])
        return ZSTD if pack.zstd else RAW, None, 0, sealed.size, pack.data

    def _drop_empty_packs(self, first: int = 0) -> int:
        return self._db.run_many(
            "DELETE FROM pack WHERE id >= ?"
            " AND NOT EXISTS (SELECT 1 FROM object WHERE object.pack = pack.id)",
            [(first,)],
        )

    # Packs out

    def _find_stored(self, pack_id: int, wanted: Sequence[Place]) -> Pack | None:
        """Return a pack as it is stored if `wanted`, by offset, are all it holds, else None."""
        sizes = tuple(place.size for place in wanted)
        rows = self._select("SELECT encoding, size FROM pack WHERE id = ?", pack_id)
        # Nothing overlaps, so members that add up to the size are the whole pack.
        if not rows or rows[0][0] == DELTA or rows[0][1] != sum(sizes):
            return None
        data = self._select("SELECT data FROM pack WHERE id = ?", pack_id)
        if not data:
            return None
        kinds = bytes(place.kind for place in wanted)
        return Pack(kinds, sizes, rows[0][0] == ZSTD, data[0][0])

    def _repack(
        self, wanted: Sequence[tuple[Kind, ObjectId]], kinds: dict[ObjectId, Kind]
    ) -> Iterator[Pack]:
        """Yield `wanted` in packs within the limits, content apart from structure."""
        buffers = (_Buffer(), _Buffer())
        for oid, body in self.get_many(wanted):
            kind = kinds[oid]
            if len(body) > LARGE_BYTES:
                yield pack_objects([(kind, body)])
                continue
            buffer = buffers[kind is not Kind.BLOB]
            if not buffer.has_room_for(body):
                yield pack_objects([(k, b) for k, _, b in buffer.items])
                buffer.items, buffer.size = [], 0
            buffer.items.append((kind, oid, body))
            buffer.size += len(body)
        for buffer in buffers:
            if buffer.items:
                yield pack_objects([(k, b) for k, _, b in buffer.items])


def _kinds(wanted: Sequence[tuple[Kind, ObjectId]]) -> dict[ObjectId, Kind]:
    return {oid: kind for kind, oid in wanted}


def _storage_order(item: tuple[ObjectId, Place]) -> tuple[int, int, int]:
    return item[1].pack, item[1].offset, item[1].size


def _outline(items: Iterable[Item]) -> list[tuple[Kind, ObjectId, int, int]]:
    outline, offset = [], 0
    for kind, oid, body in items:
        outline.append((kind, oid, offset, len(body)))
        offset += len(body)
    return outline


def _too_large(kind: Kind, size: int) -> TooLarge:
    return TooLarge(
        f"a {kind.name.lower()} of {size} bytes, where {BODY_BYTES_MAX[kind]} are allowed"
    )
