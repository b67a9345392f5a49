"""Listing, checking, collecting and counting what a store holds (05-store, section 7)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from gsync.errors import Conflict, Corrupt
from gsync.frozen import frozen
from gsync.objects.oid import Kind, ObjectId, object_id
from gsync.objects.packs import OBJECTS_MAX, PACK_BYTES_MAX, PackCorrupt, pack_objects
from gsync.store.bodies import SqliteBodies
from gsync.store.reader import DELTA, RAW, ZSTD, PackReader

_PAGE_ROWS = 4096

_OID = "typeof({0}) = 'blob' AND length({0}) = 32"
_NUMBER = "typeof({0}) = 'integer' AND {0} >= 0"
_TEXT, _BYTES = "typeof({0}) = 'text'", "typeof({0}) = 'blob'"


def _rule(**columns: str) -> str:
    rules = [rule.format(f'"{column}"') for column, rule in columns.items()]
    return " AND ".join(f"({rule})" for rule in rules)


_ROWS = {
    "object": _rule(oid=_OID, kind=_NUMBER, pack=_NUMBER, offset=_NUMBER, size=_NUMBER),
    "pack": _rule(encoding=_NUMBER, depth=_NUMBER, size=_NUMBER, data=_BYTES)
    + " AND (base IS NULL OR typeof(base) = 'integer')",
    "ref": _rule(name=_TEXT, target=_OID),
    "ref_log": _rule(entry=_BYTES, hash=_OID),
    "lease": _rule(session=_TEXT, oid=_OID, expires_us=_NUMBER),
    "session": _rule(session=_TEXT, floor=_NUMBER, expires_us=_NUMBER),
    "session_frame": _rule(session=_TEXT, frame=_BYTES),
    "state": _rule(name=_TEXT, value=_BYTES),
    "tracking": _rule(remote=_TEXT, ref=_TEXT, target=_OID),
    "remote_log": _rule(remote=_TEXT, seq=_NUMBER, entry=_BYTES),
    "scan_dir": _rule(path=_BYTES, body=_BYTES),
    "counter": _rule(name=_TEXT, value=_NUMBER),
}
"""What a row of each table is: a damaged page can be whole to SQLite and hold anything."""

Keep = Collection[ObjectId] | Callable[[ObjectId], bool]


class RootsMoved(Conflict):
    """What has to be kept changed while a collection was working it out."""


@frozen
class CollectionMark:
    """The state of a store from which a collection works out what to keep."""

    roots: int
    collections: int
    last_object: int


@frozen
class Dropped:
    """What a collection removed.

    Attributes:
        objects, body_bytes: Objects dropped, and the bytes of their bodies.
        packs, stored_bytes: Packs dropped or replaced, and the bytes of the file they took,
            less those of the packs that replace them.
        rewritten: Packs that were rewritten because less than half of them was alive.
        bases: Objects kept only because a delta needs them.
    """

    objects: int
    body_bytes: int
    packs: int
    stored_bytes: int
    rewritten: int
    bases: int


@frozen
class Stats:
    """How much a store holds.

    Attributes:
        objects: Count and bytes of bodies, by kind.
        packs: Count and stored bytes, by the name of the encoding.
        file_bytes: The database file, without its WAL.
        free_bytes: What of that is unused.
    """

    objects: dict[Kind, tuple[int, int]]
    packs: dict[str, tuple[int, int]]
    file_bytes: int
    free_bytes: int

    @property
    def body_bytes(self) -> int:
        """Bytes of all bodies."""
        return sum(size for _, size in self.objects.values())

    @property
    def stored_bytes(self) -> int:
        """Bytes of all packs."""
        return sum(size for _, size in self.packs.values())


class SqliteUpkeep(SqliteBodies):
    """What verify, garbage collection and the admin commands need."""

    def list_objects(self) -> Iterator[tuple[Kind, ObjectId, int]]:
        """Yield kind, id and size of every object, in the order in which they came."""
        if self._pending:
            self.flush()
        last = 0
        while rows := self._select(
            "SELECT id, kind, oid, size FROM object WHERE id > ? ORDER BY id LIMIT ?",
            last,
            _PAGE_ROWS,
        ):
            last = rows[-1][0]
            for _, kind, oid, size in rows:
                yield Kind(kind), ObjectId(oid), size

    def check_objects(self) -> Iterator[tuple[ObjectId, str | None]]:
        """Yield every object once, with what is wrong with it, or None.

        Every pack is read from the file and unpacked, every body hashed. Memory is bounded.
        """
        if self._pending:
            self.flush()
        reader = PackReader(self._db)
        last = -1
        while packs := self._select(
            "SELECT DISTINCT pack FROM object WHERE pack > ? ORDER BY pack LIMIT 256", last
        ):
            for (last,) in packs:
                yield from self._check_pack(reader, last)

    def _check_pack(self, reader: PackReader, pack: int) -> Iterator[tuple[ObjectId, str | None]]:
        bodies, problem = None, "its pack is not there"
        try:
            bodies = reader.find_bodies(pack)
        except Corrupt as error:
            problem = error.message
        for oid, kind, offset, size in self._select(
            'SELECT oid, kind, "offset", size FROM object WHERE pack = ? ORDER BY id', pack
        ):
            if bodies is None:
                yield ObjectId(oid), problem
            elif kind not in set(Kind):
                yield ObjectId(oid), f"it has the unknown kind {kind}"
            elif object_id(Kind(kind), bodies[offset : offset + size]) != oid:
                yield ObjectId(oid), "stored bytes do not hash to the id"
            else:
                yield ObjectId(oid), None

    # Collecting

    def mark_collection(self, now_us: int = 0) -> CollectionMark:
        """Return the state to work out from what has to be kept; comes before reading refs.

        Objects that came after a session which is still live at `now_us` began are out of reach.
        """
        self.flush()
        last = self._counter("objects")
        floors = self._select("SELECT min(floor) FROM session WHERE expires_us > ?", now_us)
        if floors[0][0] is not None:
            last = min(last, floors[0][0])
        return CollectionMark(self._counter("roots"), self._counter("collections"), last)

    def drop_objects(self, keep: Keep, mark: CollectionMark) -> Dropped:
        """Drop the objects that were there at `mark` and are not to be kept.

        All in one transaction. Objects that came after `mark` stay. An object that a kept
        delta is made against stays too. A pack of which less than half is alive is rewritten.

        Raises:
            RootsMoved: refs, leases or the like changed since `mark`; nothing was dropped.
        """
        self.flush()
        is_kept = keep if callable(keep) else keep.__contains__
        with self._writing("dropping objects") as db:
            now = (self._counter("roots"), self._counter("collections"))
            if now != (mark.roots, mark.collections):
                raise RootsMoved(
                    "refs or leases changed during the collection; nothing was dropped",
                    hint="run it again",
                )
            db.query("CREATE TEMP TABLE IF NOT EXISTS dead (id INTEGER PRIMARY KEY)")
            db.query("DELETE FROM temp.dead")
            self._collect_dead(is_kept, mark.last_object)
            bases = self._revive_bases()
            dropped = self._drop_dead(bases)
            self._count_up("collections")
        self._known.clear()
        self._known_at = -1
        return dropped

    def shrink_file(self) -> None:
        """Give the file's free pages back to the file system, in place."""
        with self._writing("shrinking the file"):
            free = self._select("PRAGMA freelist_count")[0][0]
            # The pragma frees a page a step, and sqlite3 takes one step: so once for each.
            for _ in range(free):
                self._db.query("PRAGMA incremental_vacuum(1)")
        with self._lock.held("checkpointing"):
            self._db.query("PRAGMA wal_checkpoint(TRUNCATE)")

    def rebuild_file(self) -> None:
        """Write the file anew, in order and without gaps; needs as much space again."""
        with self._lock.held("rebuilding the file"):
            self._db.query("VACUUM")
            self._db.query("PRAGMA wal_checkpoint(TRUNCATE)")

    def _collect_dead(self, is_kept: Callable[[ObjectId], bool], last_object: int) -> None:
        last = 0
        while rows := self._select(
            "SELECT id, oid FROM object WHERE id > ? AND id <= ? ORDER BY id LIMIT ?",
            last,
            last_object,
            _PAGE_ROWS,
        ):
            last = rows[-1][0]
            dead = [(row,) for row, oid in rows if not is_kept(ObjectId(oid))]
            self._db.run_many("INSERT INTO temp.dead (id) VALUES (?)", dead)

    def _revive_bases(self) -> int:
        """Take out of `dead` what live deltas are made against, level by level."""
        revived = 0
        while changed := self._db.run_many(
            "DELETE FROM temp.dead WHERE id IN (SELECT p.base FROM pack p JOIN object o"
            " ON o.pack = p.id WHERE p.base IS NOT NULL"
            " AND o.id NOT IN (SELECT id FROM temp.dead)) AND ?",
            [(1,)],
        ):
            revived += changed
        return revived

    def _drop_dead(self, bases: int) -> Dropped:
        before = self._packs_total()
        objects, size = self._select(
            "SELECT count(*), coalesce(sum(size), 0) FROM object"
            " WHERE id IN (SELECT id FROM temp.dead)"
        )[0]
        self._db.query("DELETE FROM object WHERE id IN (SELECT id FROM temp.dead)")
        self._db.query("DELETE FROM temp.dead")
        packs = self._drop_empty_packs()
        rewritten = self._rewrite_sparse()
        stored = before - self._packs_total()
        return Dropped(objects, size, packs + rewritten, stored, rewritten, bases)

    def _packs_total(self) -> int:
        total: int = self._select("SELECT coalesce(sum(length(data)), 0) FROM pack")[0][0]
        return total

    def _rewrite_sparse(self) -> int:
        """Move what lives in packs that are mostly dead to new packs; return how many went."""
        sparse = self._select(
            "SELECT p.id FROM pack p JOIN object o ON o.pack = p.id WHERE p.encoding IN (?, ?)"
            " GROUP BY p.id HAVING 2 * sum(o.size) < p.size ORDER BY p.id",
            RAW,
            ZSTD,
        )
        emptied: list[tuple[int]] = []
        group: list[tuple[int, Kind, bytes]] = []
        size = 0
        for (pack,) in sparse:
            for item in self._read_sound(pack):
                if len(group) == OBJECTS_MAX or size + len(item[2]) > PACK_BYTES_MAX:
                    self._move_to_new_pack(group)
                    group, size = [], 0
                group.append(item)
                size += len(item[2])
                emptied.append((pack,))
        if group:
            self._move_to_new_pack(group)
        return self._db.run_many("DELETE FROM pack WHERE id = ?", sorted(set(emptied)))

    def _read_sound(self, pack: int) -> list[tuple[int, Kind, bytes]]:
        """Return row, kind and body of the objects in `pack`; none of them if one is damaged."""
        try:
            bodies = self._reader.find_bodies(pack)
        except PackCorrupt:
            bodies = None
        found = []
        for row, oid, kind, offset, size in self._select(
            'SELECT id, oid, kind, "offset", size FROM object WHERE pack = ?'
            ' ORDER BY "offset", size',
            pack,
        ):
            body = bodies[offset : offset + size] if bodies is not None else b""
            if bodies is None or object_id(Kind(kind), body) != oid:
                return []  # damage is kept as it is, for repair to see
            found.append((row, Kind(kind), body))
        return found

    def _move_to_new_pack(self, group: list[tuple[int, Kind, bytes]]) -> None:
        pack = pack_objects([(kind, body) for _, kind, body in group])
        self._count_up("packs")
        number = self._counter("packs")
        self._db.query(
            "INSERT INTO pack (id, encoding, base, depth, size, data) VALUES (?, ?, NULL, 0, ?, ?)",
            (number, ZSTD if pack.zstd else RAW, sum(pack.sizes), pack.data),
        )
        moves, offset = [], 0
        for row, _, body in group:
            moves.append((number, offset, row))
            offset += len(body)
        self._db.run_many('UPDATE object SET pack = ?, "offset" = ? WHERE id = ?', moves)

    def check_database(self) -> list[str]:
        """Return what SQLite's own check finds wrong with the file: nothing, as a rule."""
        rows = self._select("PRAGMA integrity_check(20)")
        return [text for (text,) in rows if text != "ok"]

    def check_rows(self) -> list[str]:
        """Return which tables have rows of other types than gsync writes: none, as a rule."""
        found = []
        for table, rule in _ROWS.items():
            ((count,),) = self._select(f"SELECT count(*) FROM {table} WHERE NOT ({rule})")
            if count:
                found.append(f"{count} rows of {table} are not what gsync writes")
        return found

    # Counting

    def stats(self) -> Stats:
        """Return how much is stored, not counting what was put and not flushed."""
        objects = self._select("SELECT kind, count(*), sum(size) FROM object GROUP BY kind")
        packs = self._select(
            "SELECT encoding, count(*), sum(length(data)) FROM pack GROUP BY encoding"
        )
        names = {RAW: "raw", ZSTD: "zstd", DELTA: "delta"}
        page_bytes = self._select("PRAGMA page_size")[0][0]
        return Stats(
            objects={Kind(kind): (count, size) for kind, count, size in objects},
            packs={names[encoding]: (count, size) for encoding, count, size in packs},
            file_bytes=self._select("PRAGMA page_count")[0][0] * page_bytes,
            free_bytes=self._select("PRAGMA freelist_count")[0][0] * page_bytes,
        )
