"""The sending side of a transfer: manifests -> frames (06-wire, sections 4 and 5).

For each manifest: what is new in each collection against the manifest's first parent, as
packs; then the patch from the parent's map; then the manifest itself. The receiver has the
parent, or has just been sent it, so nothing has to be asked.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import zip_longest

from gsync.maps.diff import diff_maps
from gsync.objects.chunk_list import decode_chunk_list
from gsync.objects.encoding import Reference, Value, decode_trusted, encode
from gsync.objects.model import Collection, Manifest, decode_manifest
from gsync.objects.oid import Kind, ObjectId
from gsync.objects.packs import OBJECTS_MAX, PACK_BYTES_MAX, Pack, compress
from gsync.protocol.frames import (
    Cells,
    DeltaPack,
    Frame,
    FrameType,
    Patch,
    delta_frame,
    pack_frame,
    patch_frame,
)
from gsync.store.base import PackStore
from gsync.transfer.patch import shortest_record

# Contents that are looked up together. In map order neighbours lie in the same pack, so the
# larger the batch the fewer packs are cut at its edges and compressed anew.
_BATCH_OBJECTS = 4096
_BATCH_BYTES = 16 << 20
# A delta's dictionary: small enough that many changed texts share one frame's overhead.
_DELTA_BASE_BYTES = 1 << 17
# A patch ends with whichever comes first: its bytes, what they are with the values that its
# cells make (half of what a receiver takes), its records (a third of what one takes).
_PATCH_BYTES = 1 << 18
_PATCH_WHOLE_BYTES = 1 << 21
_PATCH_RECORDS = 1 << 14
_MANIFESTS_BYTES = 1 << 19
# Remembered as sent, so that a content under many paths goes once. Beyond it is sent again.
_SENT_MAX = 1 << 18

Wanted = tuple[Kind, ObjectId, int]


def send_manifests(store: PackStore, order: Sequence[ObjectId]) -> Iterator[Frame]:
    """Yield the frames that bring `order` to a receiver; without an end or announcement.

    Memory is bounded by a batch of contents, and by the chunk list of the old version of a
    large file that changed.

    Args:
        store: Has everything below `order`.
        order: Manifests, oldest first; the receiver has the parents that are not in it.
    """
    sender = _Sender(store)
    bodies: list[bytes] = []
    absent: set[ObjectId] = set()
    size = 0
    for oid in order:
        body = store.get(Kind.MANIFEST, oid)
        manifest = decode_manifest(body)
        yield from sender.contents(manifest)
        bodies.append(body)
        absent |= store.missing(manifest.parents)
        size += len(body)
        if size > _MANIFESTS_BYTES:
            yield manifests_frame(bodies, absent)
            bodies, absent, size = [], set(), 0
    if bodies:
        yield manifests_frame(bodies, absent)


def send_objects(store: PackStore, wants: Sequence[tuple[Kind, ObjectId]]) -> Iterator[Frame]:
    """Yield packs with the objects asked for by id; manifests go as a frame of their own."""
    manifests = [oid for kind, oid in wants if kind is Kind.MANIFEST]
    others = [want for want in wants if want[0] is not Kind.MANIFEST]
    for pack in store.export_packs(others):
        yield pack_frame(pack)
    for start in range(0, len(manifests), 64):
        part = manifests[start : start + 64]
        bodies = [store.get(Kind.MANIFEST, oid) for oid in part]
        parents = [parent for body in bodies for parent in decode_manifest(body).parents]
        yield manifests_frame(bodies, store.missing(parents))


def manifests_frame(bodies: list[bytes], absent: Iterable[ObjectId]) -> Frame:
    """Return the frame of manifests, some of whose parents the sender has forgotten."""
    return Frame(FrameType.MANIFESTS, encode([bodies, sorted(absent)]))


class _Sender:
    """What has been sent, and what waits to be sent together."""

    def __init__(self, store: PackStore) -> None:
        self._store = store
        self._sent: set[ObjectId] = set()
        self._wanted: list[Wanted] = []
        self._wanted_bytes = 0
        self._deltas: list[tuple[ObjectId, ObjectId]] = []
        self._delta_bytes = 0

    def contents(self, manifest: Manifest) -> Iterator[Frame]:
        """Yield all that `manifest` has beyond its first parent, but not itself."""
        base = self._parent(manifest)
        for collection in manifest.collections:
            old = base.find(collection.name) if base else None
            yield from self._collection(old, collection)
        for _, value in manifest.extras:
            for ref in references_in(value):
                yield from self._want(ref, None)
        yield from self._flush()

    def _parent(self, manifest: Manifest) -> Manifest | None:
        if not manifest.parents or self._store.missing(manifest.parents[:1]):
            return None
        return decode_manifest(self._store.get(Kind.MANIFEST, manifest.parents[0]))

    def _collection(self, old: Collection | None, new: Collection) -> Iterator[Frame]:
        for kind, oid in ((Kind.SCHEMA, new.schema), (Kind.VIEW, new.view)):
            if oid is not None and (old is None or oid not in (old.schema, old.view)):
                yield from self._want(Reference(kind, oid, 0), None)
        if old is not None and old.root == new.root:
            return
        base = old.root if old else None
        start: ObjectId | None = base
        records: list[tuple[bytes, bytes | Cells | None]] = []
        size = whole = 0
        for key, old_body, body in diff_maps(self._store, base, new.root):
            record, record_bytes = yield from self._record(old_body, body)
            records.append((key, record))
            size += len(key) + record_bytes
            whole += len(key) + len(body or b"")
            if (
                size >= _PATCH_BYTES
                or whole >= _PATCH_WHOLE_BYTES
                or len(records) >= _PATCH_RECORDS
            ):
                yield patch_frame(Patch(start, records, None))
                start, records, size, whole = ObjectId(b""), [], 0, 0
        yield patch_frame(Patch(start, records, new.root))

    def _record(
        self, old_body: bytes | None, body: bytes | None
    ) -> Generator[Frame, None, tuple[bytes | Cells | None, int]]:
        """Queue what the new value refers to; return what stands for it, and its bytes."""
        if body is None:
            return None, 0
        value = decode_trusted(body)
        if old_body is None:
            for ref in references_in(value):
                yield from self._want(ref, None)
            return body, len(body)
        old = decode_trusted(old_body)
        yield from self._replaced(old, value)
        return shortest_record(old, value, body)

    def _replaced(self, old: Value, new: Value) -> Iterator[Frame]:
        """Queue what `new` refers to beyond `old`, each beside what stood in its slot."""
        had = set(references_in(old))
        for old_cell, cell in zip_longest(_cells_of(old), _cells_of(new)):
            before = list(references_in(old_cell))
            for index, ref in enumerate(references_in(cell)):
                if ref not in had:
                    yield from self._want(ref, before[index] if index < len(before) else None)

    def _want(self, ref: Reference, old: Reference | None) -> Iterator[Frame]:
        """Queue what `ref` reaches; `old` is what stood in its place, which the receiver has."""
        if ref.oid in self._sent:
            return
        base = _delta_base(old, ref)
        if base is not None:
            self._remember(ref.oid)
            self._deltas.append((ref.oid, base.oid))
            self._delta_bytes += base.length + ref.length
            if len(self._deltas) >= OBJECTS_MAX or self._delta_bytes >= _DELTA_BASE_BYTES:
                yield from self._flush_deltas()
            return
        known: set[ObjectId] = set()
        if ref.kind is Kind.CHUNK_LIST and old is not None and old.kind is Kind.CHUNK_LIST:
            known = {oid for _, oid, _ in _chunk_tree(self._store, old, set())}
        below = _chunk_tree(self._store, ref, known)
        for wanted in below if ref.kind is Kind.CHUNK_LIST else ((ref.kind, ref.oid, ref.length),):
            if wanted[1] in self._sent:
                continue
            self._remember(wanted[1])
            self._wanted.append(wanted)
            self._wanted_bytes += wanted[2]
            if len(self._wanted) >= _BATCH_OBJECTS or self._wanted_bytes >= _BATCH_BYTES:
                yield from self._flush_wanted()

    def _remember(self, oid: ObjectId) -> None:
        if len(self._sent) >= _SENT_MAX:
            self._sent.clear()
        self._sent.add(oid)

    def _flush(self) -> Iterator[Frame]:
        yield from self._flush_wanted()
        yield from self._flush_deltas()

    def _flush_wanted(self) -> Iterator[Frame]:
        wanted = [(kind, oid) for kind, oid, _ in self._wanted]
        self._wanted, self._wanted_bytes = [], 0
        if wanted:
            for pack in self._store.export_packs(wanted):
                yield pack_frame(pack)

    def _flush_deltas(self) -> Iterator[Frame]:
        deltas, self._deltas, self._delta_bytes = self._deltas, [], 0
        if not deltas:
            return
        bodies = dict(self._store.get_many([(Kind.BLOB, oid) for pair in deltas for oid in pair]))
        bases = list(dict.fromkeys(base for _, base in deltas))
        dictionary = b"".join(bodies[base] for base in bases)
        new = [bodies[oid] for oid, _ in deltas]
        if len(dictionary) > PACK_BYTES_MAX or sum(map(len, new)) > PACK_BYTES_MAX:
            for pack in self._store.export_packs([(Kind.BLOB, oid) for oid, _ in deltas]):
                yield pack_frame(pack)
            return
        data = compress(b"".join(new), dictionary)
        pack = Pack(bytes([Kind.BLOB]) * len(new), tuple(map(len, new)), True, data)
        yield delta_frame(DeltaPack(pack, tuple(bases)))


def _delta_base(old: Reference | None, new: Reference) -> Reference | None:
    """Return `old` if the blob `new` goes as its difference from it.

    Large blobs go whole: they would exceed a dictionary, and all that waits with them too.
    """
    if old is None or not old.kind is new.kind is Kind.BLOB:
        return None
    return old if 0 < old.length <= _DELTA_BASE_BYTES >= new.length else None


def _cells_of(value: Value) -> list[Value]:
    return value if type(value) is list else [value]


def references_in(value: Value) -> Iterator[Reference]:
    """Yield the references inside a decoded value, in order."""
    if type(value) is Reference:
        yield value
    elif type(value) is list:
        for item in value:
            yield from references_in(item)


def _chunk_tree(store: PackStore, root: Reference, known: set[ObjectId]) -> Iterator[Wanted]:
    """Yield all nodes and chunks of a chunk list that are not below a known one, in order."""
    if root.kind is not Kind.CHUNK_LIST or root.oid in known:
        return
    body = store.get(Kind.CHUNK_LIST, root.oid)
    yield Kind.CHUNK_LIST, root.oid, len(body)
    for entry in decode_chunk_list(body).entries:
        if entry.oid in known:
            continue
        if entry.kind is Kind.CHUNK_LIST:
            yield from _chunk_tree(store, entry, known)
        else:
            yield entry.kind, entry.oid, entry.length


def count_objects(frames: Iterable[Frame]) -> int:
    """Return how many objects `frames` bring: bodies in packs, and manifests."""
    return sum(map(objects_in, frames))


def objects_in(frame: Frame) -> int:
    """Return how many objects one frame brings."""
    if frame.type in (FrameType.PACK, FrameType.DELTA):
        return len(decode_trusted(frame.body)[0])
    if frame.type is FrameType.MANIFESTS:
        return len(decode_trusted(frame.body)[0])
    return 0
