"""The receiving side: check, stage and admit what arrived (06-wire, section 6).

Nothing is trusted: bodies are hashed, so ids never come with them; patches are applied to
our own base and must arrive at their root; a manifest is stored last, when all below it was
found, so that having a manifest means having everything.
"""

from __future__ import annotations

import re
from collections.abc import Collection as Collection_
from collections.abc import Iterable, Iterator

from gsync.changes import Change
from gsync.errors import Corrupt, Invalid
from gsync.maps.check import check_map
from gsync.maps.diff import diff_maps
from gsync.maps.omap import EMPTY_MAP, MapReader, count_entries, edit_map
from gsync.objects.chunk_list import Seen, decode_chunk_list, list_chunks
from gsync.objects.encoding import NotCanonical, Reference, decode, decode_trusted
from gsync.objects.model import (
    BODY_BYTES_MAX,
    EMPTY_MAP_BODY,
    FILES,
    VALUE_BYTES_MAX,
    Collection,
    Manifest,
    decode_manifest,
    decode_node,
)
from gsync.objects.oid import Kind, ObjectId
from gsync.objects.packs import PACK_BYTES_MAX, unpack_objects
from gsync.protocol.frames import (
    FRAME_BYTES_MAX,
    PATCH_BYTES_MAX,
    Cells,
    Frame,
    FrameType,
    Patch,
    decode_delta,
    decode_pack,
    decode_patch,
)
from gsync.protocol.messages import decode_error
from gsync.store.base import ObjectMissing, PackStore
from gsync.transfer.patch import put_cells
from gsync.transfer.send import references_in
from gsync.views.files import check_tree_changes
from gsync.views.rows.schema import decode_schema, decode_view

_CHECK_BATCH = 4096
_TABLE_NAME = re.compile(r"db/[^/]+/([^/]+)")  # 04-manifest, rule 1.4


class PatchMismatch(Corrupt):
    """A patch does not lead to the root that it announced."""

    def __init__(self, target: ObjectId, found: ObjectId) -> None:
        super().__init__(
            f"a patch does not lead to its root: expected {target.hex()}, found {found.hex()}",
            hint="nothing was changed; try again, and report it if it happens twice",
        )


class Incomplete(Invalid):
    """A manifest names something that is neither here nor was sent."""

    def __init__(self, kind: Kind, oid: ObjectId) -> None:
        super().__init__(
            f"incomplete transfer: {kind.name.lower()} {oid.hex()} is named but did not come",
            hint="the sender's store may be damaged: run 'gsync verify' there",
            id=oid.hex(),
        )


class Receiver:
    """Takes the frames of one transfer, in order.

    Attributes:
        objects: How many objects came.
        manifests: The manifests that were stored, in order.
        forgotten: Parents of theirs that the sender has forgotten; the caller keeps them.
        unfinished: Where the last patch led, while another is to go on from there.

    Args:
        by_level: Whether nodes come by id; the caller then checks the maps they make.
    """

    def __init__(self, store: PackStore, *, by_level: bool = False) -> None:
        self._store = store
        self._by_level = by_level
        self.unfinished: ObjectId | None = None
        self.objects = 0
        self.manifests: list[ObjectId] = []
        self.forgotten: set[ObjectId] = set()

    def take(self, frame: Frame) -> None:
        """Check one frame and store what it brings.

        Raises:
            GsyncError: the frame is refused; what came before it stays, and is harmless.
        """
        match frame.type:
            case FrameType.PACK:
                self._take_pack(frame.body)
            case FrameType.DELTA:
                self._take_delta(frame.body)
            case FrameType.PATCH:
                self._take_patch(frame.body)
            case FrameType.MANIFESTS:
                self._take_manifests(frame.body)
            case FrameType.ERROR:
                raise decode_error(frame.body) or Corrupt("the sender broke off without a reason")
            case _:
                raise Invalid(f"a frame of type {frame.type.name} where contents are expected")

    def _take_pack(self, body: bytes) -> None:
        pack = decode_pack(body)
        if len(pack.sizes) > 1 and sum(pack.sizes) > PACK_BYTES_MAX:
            raise Invalid(f"a pack of more than {PACK_BYTES_MAX} bytes")
        if any(kind != Kind.BLOB for kind in pack.kinds):
            for kind, inner in unpack_objects(pack):
                if kind is Kind.NODE and not self._by_level:
                    raise Invalid("a map node in a stream; maps come as patches")
                check_structure(kind, inner)
        self._store.put_pack(pack)
        self.objects += len(pack.sizes)

    def _take_delta(self, body: bytes) -> None:
        delta = decode_delta(body)
        if sum(delta.pack.sizes) > PACK_BYTES_MAX or set(delta.pack.kinds) - {int(Kind.BLOB)}:
            raise Invalid(f"a delta pack of more than {PACK_BYTES_MAX} bytes, or not of blobs")
        if len(delta.bases) > 2 * len(delta.pack.sizes) + 1:
            raise Invalid("a delta pack with more bases than objects")
        dictionary = bytearray()
        for base in delta.bases:
            dictionary += self._store.get(Kind.BLOB, base)
            if len(dictionary) > PACK_BYTES_MAX:
                raise Invalid(f"a delta pack against more than {PACK_BYTES_MAX} bytes")
        for kind, inner in unpack_objects(delta.pack, bytes(dictionary)):
            self._store.put(kind, inner)
            self.objects += 1

    def _take_patch(self, body: bytes) -> None:
        patch = decode_patch(body)
        for _, value in patch.records:
            if isinstance(value, bytes):
                decode(value, VALUE_BYTES_MAX)
        if patch.base is None:
            base = self._store.put(Kind.NODE, EMPTY_MAP_BODY)
        elif patch.base:
            base = patch.base
        elif self.unfinished is not None:
            base = self.unfinished
        else:
            raise Invalid("a patch goes on where none was begun")
        root = edit_map(self._store, base, self._whole_values(patch, base))
        self.unfinished = root if patch.target is None else None
        if patch.target not in (None, root):
            assert patch.target is not None
            raise PatchMismatch(patch.target, root)

    def _whole_values(self, patch: Patch, base: ObjectId) -> Iterator[tuple[bytes, bytes | None]]:
        """Yield keys and new values; one value at a time is made from its cells.

        Keys rise, so the look into the base goes along the leaves that the edit reads too.
        """
        reader = MapReader(self._store, base)
        whole = 0
        for key, value in patch.records:
            if isinstance(value, tuple):
                value = _with_cells(None if patch.base is None else reader.find(key), key, value)
                whole += len(key) + len(value)
                if whole > PATCH_BYTES_MAX:
                    raise Invalid(f"a patch whose cells make more than {PATCH_BYTES_MAX} bytes")
            yield key, value

    def _take_manifests(self, body: bytes) -> None:
        bodies, absent = decode_manifests(body)
        self.believe_forgotten(bodies, absent)
        for item in bodies:
            self.admit(item)

    def believe_forgotten(self, bodies: list[bytes], absent: set[ObjectId]) -> None:
        """Take the sender's word for absent parents, but for nothing that is here.

        What is marked as forgotten may be dropped by gc, so only parents of the manifests that
        came along, and only such as this store has not, can be marked by a peer.
        """
        parents = {parent for body in bodies for parent in decode_manifest(body).parents}
        self.forgotten |= self._store.missing(absent & parents)

    def admit(self, body: bytes) -> None:
        """Store one manifest, after the check that everything below it is here."""
        manifest = decode_manifest(body)
        check_closure(self._store, manifest, self.forgotten)
        self.manifests.append(self._store.put(Kind.MANIFEST, body))
        self.objects += 1


def _with_cells(old: bytes | None, key: bytes, cells: Cells) -> bytes:
    """Return the value that the cells make of `old`, which has passed the checks of a value."""
    if old is None:
        raise Invalid(f"patch: cells for key {key!r}, which its base does not have")
    try:
        value = put_cells(decode_trusted(old), cells)
    except Invalid as error:
        raise Invalid(f"patch: key {key!r}: {error}") from error
    if len(value) > VALUE_BYTES_MAX:
        raise Invalid(
            f"patch: cells make a value of {len(value)} bytes for key {key!r}: "
            f"expected at most {VALUE_BYTES_MAX}"
        )
    return value


def decode_manifests(body: bytes) -> tuple[list[bytes], set[ObjectId]]:
    """Return the bodies in a manifests frame, and the parents that their sender has forgotten."""
    match decode(body, FRAME_BYTES_MAX):
        case [[*bodies], [*absent]] if all(type(item) is bytes for item in (*bodies, *absent)):
            return bodies, set(absent)
    raise Invalid("manifests frame: not [bodies, forgotten parents]")


def check_closure(
    store: PackStore, manifest: Manifest, forgotten: Collection_[ObjectId] = ()
) -> None:
    """Raise unless everything below `manifest` is in the store and well formed.

    What its first parent has is complete already, so only the difference is walked. A parent
    of `forgotten` may be absent.

    Raises:
        Incomplete: something is missing.
        Invalid: a path, an entry or a count is not what page 04 allows, or a schema or view
            not what page 11 does.
    """
    try:
        absent = set(manifest.parents) - store.sizes(Kind.MANIFEST, manifest.parents).keys()
        for parent in absent - set(forgotten):
            raise Incomplete(Kind.MANIFEST, parent)
        base = None
        if manifest.parents and manifest.parents[0] not in absent:
            base = decode_manifest(store.get(Kind.MANIFEST, manifest.parents[0]))
        for collection in manifest.collections:
            _check_collection(store, base.find(collection.name) if base else None, collection)
        for _, value in manifest.extras:
            _check_present(store, references_in(value))
    except ObjectMissing as error:
        raise Incomplete(error.object_kind, error.oid) from error


def _check_collection(store: PackStore, old: Collection | None, new: Collection) -> None:
    _check_schema(store, old, new)
    if old is not None and old.root == new.root:
        if old.count != new.count:
            raise Invalid(f"manifest: {new.name} has {old.count} entries, not {new.count}")
        return
    found = count_entries(store, new.root)
    if found != new.count:
        raise Invalid(f"manifest: {new.name} has {found} entries, where it says {new.count}")
    changes: Iterable[Change] = diff_maps(store, old.root if old else None, new.root)
    if new.name == FILES:
        changes = check_tree_changes(store, old.root if old else None, new.root, changes)
    _check_present(
        store,
        (
            ref
            for change in changes
            if change.new is not None
            for ref in references_in(decode_trusted(change.new))
        ),
    )


def _check_schema(store: PackStore, old: Collection | None, new: Collection) -> None:
    """Refuse a table that no reader could read, by its name (11-rows, sections 1 to 3 and 7)."""
    table = _TABLE_NAME.fullmatch(new.name)
    if table and (new.schema is None or new.view is None):
        raise Invalid(f"manifest: the table {new.name} has no schema or no view")
    if old is not None and (old.schema, old.view) == (new.schema, new.view):
        return
    try:
        if new.schema is not None:
            schema = decode_schema(store.get(Kind.SCHEMA, new.schema))
            if table and schema.table != table[1]:
                raise Invalid(f"manifest: {new.name} has the schema of {schema.table[:80]!r}")
            _check_present(store, references_in([value for _, value in schema.extras]))
        if new.view is not None:
            view = decode_view(store.get(Kind.VIEW, new.view))
            _check_present(store, references_in([value for _, value in view.extras]))
    except NotCanonical as error:
        raise NotCanonical(f"manifest: {new.name}: {error.message}", hint=error.hint) from error


def _check_present(store: PackStore, references: Iterable[Reference]) -> None:
    # By all of it: one of two references to an object may lie about its length.
    batch: set[Reference] = set()
    for ref in _with_chunks(store, references):
        batch.add(ref)
        if len(batch) >= _CHECK_BATCH:
            _check_batch(store, batch)
            batch = set()
    _check_batch(store, batch)


def _with_chunks(store: PackStore, references: Iterable[Reference]) -> Iterator[Reference]:
    seen: Seen = set()
    for ref in references:
        if ref.kind not in (Kind.BLOB, Kind.CHUNK_LIST):
            raise Invalid(f"a value refers to a {ref.kind.name.lower()}, where contents may stand")
        if ref.kind is Kind.CHUNK_LIST:
            yield from list_chunks(lambda oid: store.get(Kind.CHUNK_LIST, oid), ref, seen)
        else:
            yield ref


def _check_batch(store: PackStore, batch: set[Reference]) -> None:
    sizes = store.sizes(Kind.BLOB, [ref.oid for ref in batch])
    for ref in batch:
        size = sizes.get(ref.oid)
        if size is None:
            raise Incomplete(ref.kind, ref.oid)
        if size != ref.length:
            raise Invalid(f"blob {ref.oid.hex()} has {size} bytes, where {ref.length} are named")


def check_structure(kind: Kind, body: bytes) -> None:
    """Refuse what no sender writes, before it is stored under its id."""
    match kind:
        case Kind.BLOB:
            pass
        case Kind.CHUNK_LIST:
            decode_chunk_list(body)
        case Kind.NODE:
            decode_node(body)
        case Kind.MANIFEST:
            raise Invalid("a manifest inside a pack; manifests have a frame of their own")
        case _:
            decode(body, BODY_BYTES_MAX[kind])


def check_received_map(store: PackStore, root: ObjectId, received: set[ObjectId]) -> None:
    """Check a map whose nodes came by id: those of `received` strictly, the rest was ours."""
    if root != EMPTY_MAP:
        check_map(store, root, lambda oid: oid not in received)
