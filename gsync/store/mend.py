"""Putting good bodies where damaged ones are (05-store, section 8)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from gsync.objects.oid import Kind, ObjectId, object_id
from gsync.objects.packs import PackCorrupt, group_objects, pack_objects
from gsync.store.reader import RAW, ZSTD, PackReader, in_lists
from gsync.store.upkeep import CollectionMark, RootsMoved, SqliteUpkeep

_PAGE_PACKS = 256

Found = tuple[Kind, ObjectId, bytes]
_Placed = tuple[int, Kind, bytes]


class SqliteMend(SqliteUpkeep):
    """What repair needs: bodies that lie in the wrong place, and a way to replace others.

    An object keeps its row when its body moves, so what is a delta of it is one of the good
    body from then on.
    """

    def find_stray(
        self, wanted: Mapping[ObjectId, Kind], damaged: Collection[ObjectId]
    ) -> Iterator[Found]:
        """Yield bodies of `wanted` and `damaged` that lie in packs where no row says so.

        Looked at are the places of `damaged` objects and what lies between the others: rows
        that were exchanged or deleted leave bodies there. Every pack is read.
        """
        self.flush()
        reader = PackReader(self._db)
        last = -1
        while packs := self._select(
            "SELECT id FROM pack WHERE id > ? ORDER BY id LIMIT ?", last, _PAGE_PACKS
        ):
            for (last,) in packs:
                for piece in self._loose_pieces(reader, last, damaged):
                    for kind in Kind:
                        oid = object_id(kind, piece)
                        if wanted.get(oid) is kind or oid in damaged:
                            yield kind, oid, piece

    def replace_objects(self, found: Sequence[Found]) -> None:
        """Store the bodies of `found` in the place of what is stored under their ids.

        One transaction. What is a delta of a replaced row and whole moves too: it was made
        against what lies there now. The packs stay as they are, also when no row points to
        them any more: bodies that are lacking may lie there. `drop_leftovers` ends that.
        """
        for kind, oid, body in found:
            assert object_id(kind, body) == oid, "a body that does not hash to its id"
        self.flush()
        with self._writing("repairing objects"):
            rows = self._rows_of([oid for _, oid, _ in found])
            moves = self._whole_deltas_of(rows)
            placed = [
                (rows[oid] if oid in rows else self._new_row(kind, oid), kind, body)
                for kind, oid, body in found
            ]
            for group in _groups([*placed, *moves]):
                self._place(group)
        self._reader = PackReader(self._db)  # deltas may have been unpacked against bad bases

    def drop_damaged(self, oids: Collection[ObjectId], mark: CollectionMark) -> None:
        """Drop damaged objects that nothing reaches; what is whole and a delta of them stays.

        Raises:
            RootsMoved: refs, leases or the like changed since `mark`; nothing was dropped.
        """
        self.flush()
        with self._writing("dropping damaged objects") as db:
            if (self._counter("roots"), self._counter("collections")) != (
                mark.roots,
                mark.collections,
            ):
                raise RootsMoved("refs or leases changed during the repair; nothing was dropped")
            rows = self._rows_of(oids)
            for group in _groups(self._whole_deltas_of(rows)):
                self._place(group)
            db.run_many("DELETE FROM object WHERE id = ?", [(row,) for row in rows.values()])
            self._drop_empty_packs()
            self._count_up("collections")
        self._reader = PackReader(self._db)
        self._known.clear()
        self._known_at = -1

    def drop_leftovers(self) -> None:
        """Drop the packs that replaced objects have left behind."""
        with self._writing("dropping empty packs"):
            self._drop_empty_packs()

    def totals(self) -> tuple[int, int]:
        """Return how many objects there are, and the bytes of their bodies."""
        self.flush()
        count, size = self._select("SELECT count(*), coalesce(sum(size), 0) FROM object")[0]
        return count, size

    def _loose_pieces(
        self, reader: PackReader, pack: int, damaged: Collection[ObjectId]
    ) -> Iterator[bytes]:
        bodies = self._readable(reader, pack)
        end = 0
        for oid, offset, size in self._select(
            'SELECT oid, "offset", size FROM object WHERE pack = ? ORDER BY "offset", size', pack
        ):
            if ObjectId(oid) in damaged:
                yield bodies[offset : offset + size]
                continue
            if offset > end:
                yield bodies[end:offset]
            end = max(end, offset + size)
        if len(bodies) > end:
            yield bodies[end:]

    def _readable(self, reader: PackReader, pack: int) -> bytes:
        """Return the bodies in a pack; of one that was cut off and is not compressed, the rest."""
        try:
            return reader.find_bodies(pack) or b""
        except PackCorrupt:
            rows = self._select("SELECT data FROM pack WHERE id = ? AND encoding = ?", pack, RAW)
            return bytes(rows[0][0]) if rows else b""

    def _rows_of(self, oids: Collection[ObjectId]) -> dict[ObjectId, int]:
        found = {}
        for some, marks in in_lists(sorted(oids)):
            for oid, row in self._db.query(
                f"SELECT oid, id FROM object WHERE oid IN ({marks})", some
            ):
                found[ObjectId(oid)] = row
        return found

    def _whole_deltas_of(self, rows: Mapping[ObjectId, int]) -> list[_Placed]:
        """Return what is whole and a delta of one of `rows`, and is not one of them."""
        reader = PackReader(self._db)
        return [
            (row, kind, body)
            for base in rows.values()
            for (pack,) in self._select("SELECT id FROM pack WHERE base = ?", base)
            for row, oid, kind, body in self._whole_in(reader, pack)
            if oid not in rows
        ]

    def _whole_in(
        self, reader: PackReader, pack: int
    ) -> Iterator[tuple[int, ObjectId, Kind, bytes]]:
        try:
            bodies = reader.find_bodies(pack)
        except PackCorrupt:
            return
        for row, oid, kind, offset, size in self._select(
            'SELECT id, oid, kind, "offset", size FROM object WHERE pack = ? ORDER BY "offset"',
            pack,
        ):
            if bodies is None or kind not in set(Kind):
                continue
            body = bodies[offset : offset + size]
            if object_id(Kind(kind), body) == oid:
                yield row, ObjectId(oid), Kind(kind), body

    def _new_row(self, kind: Kind, oid: ObjectId) -> int:
        self._count_up("objects")
        row = self._counter("objects")
        self._db.query(
            'INSERT INTO object (id, oid, kind, pack, "offset", size) VALUES (?, ?, ?, 0, 0, 0)',
            (row, oid, int(kind)),
        )
        return row

    def _place(self, group: Sequence[_Placed]) -> None:
        """Put the bodies of `group` into one new pack, and their rows there."""
        pack = pack_objects([(kind, body) for _, kind, body in group])
        self._count_up("packs")
        number = self._counter("packs")
        self._db.query(
            "INSERT INTO pack (id, encoding, base, depth, size, data) VALUES (?, ?, NULL, 0, ?, ?)",
            (number, ZSTD if pack.zstd else RAW, sum(pack.sizes), pack.data),
        )
        moves, offset = [], 0
        for row, kind, body in group:
            moves.append((int(kind), number, offset, len(body), row))
            offset += len(body)
        self._db.run_many(
            'UPDATE object SET kind = ?, pack = ?, "offset" = ?, size = ? WHERE id = ?', moves
        )


def _groups(placed: Sequence[_Placed]) -> Iterator[Sequence[_Placed]]:
    start = 0
    for group in group_objects((kind, body) for _, kind, body in placed):
        yield placed[start : start + len(group)]
        start += len(group)
