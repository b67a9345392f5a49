"""Streams that no honest peer sends, and a server that sends whatever it is told to.

Bytes are made by hand where our encoders would refuse to make them. The same streams go to both
sides: as the answer of a server to `fetch`, and as the body of a push.
"""

from __future__ import annotations

import random
import socketserver
import struct
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgpack  # type: ignore[import-untyped]
import zstandard

from gsync.errors import GsyncError
from gsync.maps.omap import EMPTY_MAP, build_map, edit_map
from gsync.objects.chunk_list import ChunkList, ChunkListBuilder, encode_chunk_list
from gsync.objects.chunking import split_buffers
from gsync.objects.encoding import Reference, encode
from gsync.objects.model import Collection, Manifest, decode_manifest, encode_manifest
from gsync.objects.oid import Kind, ObjectId, blob_id, object_id
from gsync.protocol.frames import Frame, FrameType, encode_frame, read_frames
from gsync.protocol.messages import (
    Announcement,
    decode_begin,
    decode_fetch,
    decode_hello,
    decode_log,
    decode_wants,
    encode_announcement,
    encode_entries,
    encode_error,
    encode_held,
    encode_taken,
    encode_welcome,
)
from gsync.store.memory import MemoryStore
from gsync.transfer.answer import Answerer
from gsync.views.files import EntryType, FileEntry, encode_entry

# --- Frames made by hand -------------------------------------------------------------------


def frame(kind: int, body: bytes) -> bytes:
    """A frame of any type with any body."""
    return struct.pack(">I", len(body) + 1) + bytes([kind]) + body


def end(count: int) -> bytes:
    return frame(FrameType.END, msgpack.packb([count]))


def pack(
    items: Sequence[tuple[int, bytes]],
    *,
    sizes: Sequence[int] | None = None,
    data: bytes | None = None,
    zstd: bool = False,
) -> bytes:
    """A pack frame; sizes and data are what the items say unless they lie."""
    kinds = bytes(kind for kind, _ in items)
    bodies = b"".join(body for _, body in items)
    told = list(sizes) if sizes is not None else [len(body) for _, body in items]
    return frame(1, msgpack.packb([kinds, told, zstd, bodies if data is None else data]))


def patch(base: bytes | None, records: Sequence[Sequence[Any]], target: bytes | None) -> bytes:
    """A patch frame; `records` are [shared, rest, value]."""
    body = msgpack.packb([base, list(map(list, records)), target])
    return frame(3, zstandard.ZstdCompressor().compress(body))


def manifests(bodies: Sequence[bytes], absent: Sequence[bytes] = ()) -> bytes:
    return frame(4, msgpack.packb([list(bodies), list(absent)]))


def announce(*moves: tuple[str, bytes | None, bytes | None]) -> bytes:
    listed = [(n, o and ObjectId(o), w and ObjectId(w)) for n, o, w in moves]
    body = encode_announcement(Announcement(listed, "push"))  # type: ignore[arg-type]
    return frame(FrameType.ANNOUNCE, body)


def bomb(size: int) -> bytes:
    """`size` zeros as one zstd frame with its content size."""
    return zstandard.ZstdCompressor(level=19).compress(bytes(size))


def unsized(body: bytes) -> bytes:
    """One zstd frame that does not say what it unpacks to."""
    compressor = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    return compressor.compress(body) + compressor.flush()


# --- A history, and manifests that go on from it -------------------------------------------

LARGE = random.Random(5).randbytes(400_000)
TREE = {b"a.txt": b"one\n", b"d/b.txt": b"two\n", b"large": LARGE, b"gone": b"g"}


class Root(NamedTuple):
    """Where a hostile stream goes on from: a manifest that both sides have, and its map."""

    manifest: ObjectId
    files: ObjectId


def file_value(store: MemoryStore, content: bytes) -> bytes:
    """The entry of a file, its content put into `store`."""
    if len(content) <= 131_072:
        ref = Reference(Kind.BLOB, store.put(Kind.BLOB, content), len(content))
        return encode_entry(FileEntry(EntryType.FILE, len(content), ref))
    builder = ChunkListBuilder(store.put)
    for chunk in split_buffers([content]):
        builder.add(Reference(Kind.BLOB, store.put(Kind.BLOB, chunk), len(chunk)))
    return encode_entry(FileEntry(EntryType.FILE, len(content), builder.finish(), blob_id(content)))


def link_value(store: MemoryStore, target: bytes) -> bytes:
    ref = Reference(Kind.BLOB, store.put(Kind.BLOB, target), len(target))
    return encode_entry(FileEntry(EntryType.SYMLINK, len(target), ref))


def commit_tree(
    store: MemoryStore, tree: Mapping[bytes, bytes], parents: tuple[ObjectId, ...] = ()
) -> Root:
    """A manifest over `tree`."""
    root = build_map(store, [(path, file_value(store, tree[path])) for path in sorted(tree)])
    files = Collection("files", root, len(tree))
    manifest = Manifest(parents, (files,), "Ada <ada@example.org>", 1_000_000, "made")
    return Root(store.put(Kind.MANIFEST, encode_manifest(manifest)), root)


def honest(
    trees: Iterable[Mapping[bytes, bytes]] = (TREE,),
) -> tuple[MemoryStore, list[Root]]:
    """A store with a history of `trees`, whose main is the last."""
    store, roots = MemoryStore(), list[Root]()
    answerer = Answerer(store, "Ada", lambda: 1_000_000)
    for number, tree in enumerate(trees):
        parents = (roots[-1].manifest,) if roots else ()
        roots.append(commit_tree(store, tree, parents))
        old = roots[-2].manifest if number else None
        move = Announcement([("main", old, roots[-1].manifest)], "made")
        name = bytes([number]) * 16
        answerer.frames(name, [Frame(FrameType.ANNOUNCE, encode_announcement(move))])
    return store, roots


class Stream(NamedTuple):
    """What is sent, and the manifest that it would have the receiver point a ref at."""

    frames: list[bytes]
    manifest: ObjectId


class Case(NamedTuple):
    """One way to lie, and how it has to end.

    Attributes:
        name: In plain words.
        kinds: The kinds of error, one of which it has to be.
        make: What is sent, to a peer that has what `Root` names.
    """

    name: str
    kinds: tuple[str, ...]
    make: Callable[[MemoryStore, Root], Stream]


class Lie:
    """A manifest over the base with some entries more, and the frames that bring it."""

    def __init__(self, store: MemoryStore, root: Root) -> None:
        self.store, self.root = store, root
        self.entries: dict[bytes, bytes] = {}
        self.packs: list[bytes] = []
        self.count: int | None = None
        self.parents: tuple[ObjectId, ...] = (root.manifest,)
        self.rest: list[Collection] = []

    def file(self, path: bytes, content: bytes = b"evil") -> Lie:
        """Add a file, sent with its content."""
        return self.entry(path, file_value(self.store, content), (Kind.BLOB, content))

    def entry(self, path: bytes, value: bytes, *objects: tuple[Kind, bytes]) -> Lie:
        """Add any value, sent with any objects."""
        self.entries[path] = value
        if objects:
            self.packs.append(pack(objects))
        return self

    @property
    def target(self) -> ObjectId:
        """The root that the entries lead to, by a map that checks no path."""
        changes: list[tuple[bytes, bytes | None]] = [
            (key, self.entries[key]) for key in sorted(self.entries)
        ]
        return edit_map(self.store, self.root.files, changes)

    def patch(self) -> bytes:
        records = [(0, key, self.entries[key]) for key in sorted(self.entries)]
        return patch(self.root.files, records, self.target)

    def body(self) -> bytes:
        old = decode_manifest(self.store.get(Kind.MANIFEST, self.root.manifest))
        base = old.collections[0].count
        added = [k for k in self.entries if k not in TREE]
        count = base + len(added) if self.count is None else self.count
        files = Collection("files", self.target, count)
        collections = tuple(sorted([files, *self.rest], key=lambda c: c.name))
        return encode_manifest(Manifest(self.parents, collections, "Eve", 2_000_000, "evil"))

    def stream(self, body: bytes | None = None) -> Stream:
        body = self.body() if body is None else body
        manifest = object_id(Kind.MANIFEST, body)
        patches = [self.patch()] if self.entries else []
        return Stream([*self.packs, *patches, manifests([body])], manifest)


NOBODY = ObjectId(b"\x77" * 32)
SENT = [pack([(Kind.BLOB, b"evil")])]


def broken(*frames: bytes) -> Callable[[MemoryStore, Root], Stream]:
    """A stream of frames that need no base; none of them makes a manifest."""
    return lambda store, root: Stream(list(frames), NOBODY)


def evil_path(*paths: bytes) -> Callable[[MemoryStore, Root], Stream]:
    def make(store: MemoryStore, root: Root) -> Stream:
        lie = Lie(store, root)
        for path in paths:
            lie.file(path)
        return lie.stream()

    return make


def evil_value(value: bytes, *objects: tuple[Kind, bytes]) -> Callable[[MemoryStore, Root], Stream]:
    def make(store: MemoryStore, root: Root) -> Stream:
        lie = Lie(store, root).entry(b"evil", value)
        lie.packs = [pack(objects)] if objects else []
        try:
            return lie.stream()
        except Exception:  # no map has such a value: say a root at random
            bad = patch(root.files, [(0, b"evil", value)], NOBODY)
            return Stream([*lie.packs, bad], NOBODY)

    return make


def evil_body(change: Callable[[list[Any]], Any]) -> Callable[[MemoryStore, Root], Stream]:
    """A manifest whose decoded body was changed."""

    def make(store: MemoryStore, root: Root) -> Stream:
        lie = Lie(store, root).file(b"evil")
        decoded = msgpack.unpackb(lie.body())
        changed = change(decoded)
        body = changed if isinstance(changed, bytes) else msgpack.packb(decoded)
        return lie.stream(body)

    return make


def _set(at: int, value: Any) -> Callable[[list[Any]], None]:
    def change(body: list[Any]) -> None:
        body[at] = value

    return change


def _collection(name: str, schema: bytes | None = None) -> Callable[[list[Any]], None]:
    def change(body: list[Any]) -> None:
        body[2].insert(0, [name, EMPTY_MAP, 0, schema, schema])

    return change


def _entry(size: int, ref: Reference | None, content: bytes | None = None, kind: int = 0) -> bytes:
    return encode([kind, size, ref] if content is None else [kind, size, ref, content])


def _deep(levels: int) -> bytes:
    return b"\x91" * levels + b"\xc0"


def _link_and_below(store: MemoryStore, root: Root) -> Stream:
    lie = Lie(store, root)
    lie.entry(b"way", link_value(store, b"/etc"), (Kind.BLOB, b"/etc"))
    return lie.file(b"way/passwd").stream()


def _wrong_root(store: MemoryStore, root: Root) -> Stream:
    lie = Lie(store, root).file(b"evil")
    entry = lie.entries[b"evil"]
    bad = patch(root.files, [(0, b"other", entry)], lie.target)
    return Stream([*lie.packs, bad, manifests([lie.body()])], object_id(Kind.MANIFEST, lie.body()))


def _unknown_base(store: MemoryStore, root: Root) -> Stream:
    return Stream([patch(NOBODY, [(0, b"k", b"\x01")], None)], NOBODY)


def _records(*records: Sequence[Any]) -> Callable[[MemoryStore, Root], Stream]:
    return lambda store, root: Stream([patch(root.files, records, NOBODY)], NOBODY)


def _reordered(store: MemoryStore, root: Root) -> Stream:
    whole = Lie(store, root).file(b"evil").stream()
    return Stream(whole.frames[::-1], whole.manifest)


def _left_out(at: int) -> Callable[[MemoryStore, Root], Stream]:
    def make(store: MemoryStore, root: Root) -> Stream:
        whole = Lie(store, root).file(b"evil", b"never sent %d" % at).stream()
        return Stream(whole.frames[:at] + whole.frames[at + 1 :], whole.manifest)

    return make


def _second_parent(store: MemoryStore, root: Root) -> Stream:
    lie = Lie(store, root).file(b"evil")
    lie.parents = (root.manifest, blob_id(b"evil"))
    return lie.stream()


def _first_parent(store: MemoryStore, root: Root) -> Stream:
    lie = Lie(store, root).file(b"evil")
    lie.parents = (blob_id(b"evil"),)
    return lie.stream()


def _manifest_as_content(store: MemoryStore, root: Root) -> Stream:
    size = len(store.get(Kind.MANIFEST, root.manifest))
    value = _entry(size, Reference(Kind.BLOB, root.manifest, size))
    return Lie(store, root).entry(b"evil", value).stream()


def _manifest_as_root(store: MemoryStore, root: Root) -> Stream:
    lie = Lie(store, root)
    body = msgpack.unpackb(lie.body())
    body[2][0][1] = root.manifest
    return lie.stream(msgpack.packb(body))


def chunk_tree(levels: int) -> tuple[bytes, list[tuple[Kind, bytes]]]:
    """A file entry of a chunk list in which each node holds one other node 512 times over.

    Some kilobytes that stand for up to hundreds of petabytes; canonical, as far as one sees.
    """
    chunk = b"c" * 8192
    objects: list[tuple[Kind, bytes]] = [(Kind.BLOB, chunk)]
    entry = Reference(Kind.BLOB, blob_id(chunk), len(chunk))
    for level in range(levels + 1):
        body = encode_chunk_list(ChunkList(level, (entry,) * 512))
        objects.append((Kind.CHUNK_LIST, body))
        entry = Reference(Kind.CHUNK_LIST, object_id(Kind.CHUNK_LIST, body), entry.length * 512)
    return _entry(entry.length, entry, b"c" * 32), objects


def _chunk_lies(change: Callable[[list[Reference]], Any]) -> Callable[..., Stream]:
    """A chunk list with references that lie."""

    def make(store: MemoryStore, root: Root) -> Stream:
        chunks = [bytes([n]) * 65_536 for n in range(4)]
        refs = [Reference(Kind.BLOB, blob_id(c), len(c)) for c in chunks]
        changed = change(refs)
        level, entries = changed if isinstance(changed, tuple) else (0, refs)
        body = encode([1, level, entries])
        size = sum(len(c) for c in chunks)
        ref = Reference(Kind.CHUNK_LIST, object_id(Kind.CHUNK_LIST, body), size)
        lie = Lie(store, root).entry(b"evil", _entry(size, ref, blob_id(b"".join(chunks))))
        lie.packs = [pack([(Kind.BLOB, c)]) for c in chunks] + [pack([(Kind.CHUNK_LIST, body)])]
        return lie.stream()

    return make


def _longer(refs: list[Reference]) -> None:
    refs[1] = Reference(Kind.BLOB, refs[1].oid, refs[1].length + 1)


def _two_lengths(store: MemoryStore, root: Root) -> Stream:
    """Of two references to a content the first lies; the second is right, and hides it."""
    lie = Lie(store, root).entry(b"evil-1", _entry(5, Reference(Kind.BLOB, EVIL, 5)))
    return lie.file(b"evil-2", b"evil").stream()


EVIL = blob_id(b"evil")
SIZE_OK = Reference(Kind.BLOB, EVIL, 4)
INVALID, CORRUPT, LARGE_KIND, LOST = "invalid", "corrupt", "too_large", "not_found"
NESTED = (1 << 62) + 5

STREAMS: list[Case] = [
    # Frames
    Case("half a length", (CORRUPT,), broken(b"\0\0")),
    Case("half a frame", (CORRUPT,), broken(frame(1, b"x" * 100)[:-7])),
    Case("a frame of nothing", (LARGE_KIND,), broken(b"\0\0\0\0")),
    Case("a frame of 4 GiB", (LARGE_KIND,), broken(b"\xff\xff\xff\xff\1")),
    Case("a frame of an unknown type", (CORRUPT,), broken(frame(8, b""))),
    Case("a frame of type 0", (CORRUPT,), broken(frame(0, b""))),
    Case("the end says another count", (CORRUPT,), broken(*SENT, end(7))),
    Case("the end is no end", (INVALID, CORRUPT), broken(*SENT, frame(6, b"\xc1"))),
    Case("the end counts with true", (INVALID, CORRUPT), broken(*SENT, frame(6, b"\x91\xc3"))),
    Case("frames after the end", (CORRUPT,), broken(*SENT, end(1), *SENT)),
    Case("two ends", (CORRUPT,), broken(end(0), end(1))),
    Case("an error without a kind", (CORRUPT, INVALID), broken(frame(7, b"\x90"))),
    # Packs
    Case("a pack of garbage", (INVALID,), broken(frame(1, b"\xc1garbage"))),
    Case("a pack of an unknown kind", (CORRUPT,), broken(pack([(9, b"x")]))),
    Case("a manifest in a pack", (INVALID,), broken(pack([(4, b"\x90")]))),
    Case("a node in a stream", (INVALID,), broken(pack([(3, encode([1, 0, [], []]))]))),
    Case("a chunk list of garbage", (INVALID,), broken(pack([(2, b"\x90")]))),
    Case("a schema that is not canonical", (INVALID,), broken(pack([(5, b"\xcc\x01")]))),
    Case("sizes that add up to less", (CORRUPT,), broken(pack([(1, b"evil")], sizes=[3]))),
    Case("sizes that add up to more", (CORRUPT,), broken(pack([(1, b"evil")], sizes=[5]))),
    Case("a size below zero", (INVALID,), broken(pack([(1, b"evil")], sizes=[-4]))),
    Case("a size of 2^63", (CORRUPT, INVALID), broken(pack([(1, b"evil")], sizes=[1 << 63]))),
    Case("one size too many", (INVALID,), broken(pack([(1, b"evil")], sizes=[2, 2]))),
    Case("65 objects in a pack", (LARGE_KIND,), broken(pack([(1, b"%d" % n) for n in range(65)]))),
    Case(
        "a pack beyond 256 KiB",
        (INVALID,),
        broken(pack([(1, bytes(200_000)), (1, bytes(200_001))])),
    ),
    Case(
        "a blob beyond 1 MiB",
        (LARGE_KIND, CORRUPT),
        broken(pack([(1, b"")], sizes=[(1 << 20) + 1], data=bomb((1 << 20) + 1), zstd=True)),
    ),
    Case(
        "a bomb that says so",
        (CORRUPT,),
        broken(pack([(1, b"")], sizes=[1 << 30], data=bomb(1 << 28), zstd=True)),
    ),
    Case(
        "a bomb that says 4 bytes",
        (CORRUPT,),
        broken(pack([(1, b"")], sizes=[4], data=bomb(1 << 28), zstd=True)),
    ),
    Case(
        "a bomb that says nothing",
        (CORRUPT,),
        broken(pack([(1, b"")], sizes=[4], data=unsized(bytes(1 << 26)), zstd=True)),
    ),
    Case(
        "a delta against nothing that is here",
        (LOST,),
        broken(frame(2, msgpack.packb([b"\1", [4], [bytes(32)], b"x"]))),
    ),
    Case(
        "a delta of structure",
        (INVALID,),
        broken(frame(2, msgpack.packb([b"\3", [4], [], bomb(4)]))),
    ),
    Case(
        "a delta against more than it makes",
        (INVALID,),
        broken(frame(2, msgpack.packb([b"\1", [4], [EVIL] * 9, bomb(4)]))),
    ),
    # Patches
    Case("a patch of garbage", (CORRUPT,), broken(frame(3, b"garbage"))),
    Case("a patch that is a bomb", (CORRUPT,), broken(frame(3, bomb(1 << 28)))),
    Case("a patch that goes on from nothing", (INVALID,), broken(patch(b"", [], None))),
    Case("a patch with a short base", (INVALID,), broken(patch(b"short", [], None))),
    Case("a patch against an unknown base", (LOST, INVALID), _unknown_base),
    Case("a patch that leads elsewhere", (CORRUPT,), _wrong_root),
    Case("keys that fall", (INVALID,), _records((0, b"b", b"\1"), (0, b"a", b"\1"))),
    Case("a key twice", (INVALID,), _records((0, b"b", b"\1"), (1, b"", b"\1"))),
    Case("an empty key", (INVALID,), _records((0, b"", b"\1"))),
    Case("a key that shares too much", (INVALID,), _records((5, b"b", b"\1"))),
    Case("a key beyond its limit", (INVALID, LARGE_KIND), _records((0, b"k" * 5000, b"\1"))),
    Case(
        "a value beyond its limit",
        (INVALID, LARGE_KIND),
        _records((0, b"k", msgpack.packb(b"v" * 70_000))),
    ),
    Case("a value in a second encoding", (INVALID,), evil_value(b"\xcc\x01")),
    Case("a value with something after it", (INVALID,), evil_value(b"\x01\x01")),
    Case("a value that is a map", (INVALID,), evil_value(b"\x81\x01\x01")),
    Case("a value with a timestamp", (INVALID,), evil_value(b"\xd6\xff\0\0\0\0")),
    Case("a value nested too deep", (INVALID,), evil_value(_deep(33))),
    Case("a value nested without end", (INVALID,), evil_value(_deep(60_000))),
    Case("cells for a key that is not there", (INVALID,), _records((0, b"nokey", [0, 1]))),
    Case("cells at falling slots", (INVALID,), _records((0, b"a.txt", [2, 1, 1, 1]))),
    Case("cells at half a pair", (INVALID,), _records((0, b"a.txt", [2]))),
    Case("a slot beyond the last", (INVALID,), _records((0, b"a.txt", [65_536, 1]))),
    # File entries
    Case("a reference of an unknown kind", (INVALID,), evil_value(
        b"\x93\x00\x04\xc7\x29\x01\x09" + EVIL + bytes(7) + b"\x04")),
    Case("a reference with a short id", (INVALID,), evil_value(
        b"\x93\x00\x04\xc7\x05\x01\x01abcd")),
    Case("a file of an unknown type", (INVALID,), evil_value(
        _entry(4, SIZE_OK, kind=4), (Kind.BLOB, b"evil"))),
    Case("a file without content", (INVALID,), evil_value(_entry(4, None))),
    Case("a file of another size", (INVALID,), evil_value(
        _entry(5, SIZE_OK), (Kind.BLOB, b"evil"))),
    Case("a blob of another length", (INVALID,), evil_value(
        _entry(5, Reference(Kind.BLOB, EVIL, 5)), (Kind.BLOB, b"evil"))),
    Case("a blob of 2^62 bytes", (INVALID,), evil_value(
        _entry(NESTED, Reference(Kind.BLOB, EVIL, NESTED)), (Kind.BLOB, b"evil"))),
    Case("a chunk list of 2^62 bytes", (INVALID,), evil_value(
        _entry(NESTED, Reference(Kind.CHUNK_LIST, EVIL, NESTED), EVIL), (Kind.BLOB, b"evil"))),
    Case("a chunk list that is a blob", (INVALID,), evil_value(
        _entry(200_000, Reference(Kind.CHUNK_LIST, EVIL, 200_000), EVIL), (Kind.BLOB, b"evil"))),
    Case("a manifest as content", (INVALID,), _manifest_as_content),
    Case("a symlink to nothing", (INVALID,), evil_value(
        _entry(0, Reference(Kind.BLOB, blob_id(b""), 0), kind=2), (Kind.BLOB, b""))),
    Case("a directory with content", (INVALID,), evil_value(
        _entry(4, SIZE_OK, kind=3), (Kind.BLOB, b"evil"))),
    Case("a blob of two lengths", (INVALID,), _two_lengths),
    Case("a chunk that is longer", (INVALID,), _chunk_lies(_longer)),
    Case("chunks that fall short", (INVALID,), _chunk_lies(lambda refs: refs.pop())),
    Case("a chunk too many", (INVALID,), _chunk_lies(lambda refs: refs.append(refs[0]))),
    Case("a chunk that is not there", (INVALID,), _chunk_lies(
        lambda refs: refs.insert(0, Reference(Kind.BLOB, NOBODY, refs.pop().length)))),
    Case("a chunk list of level 9", (INVALID,), _chunk_lies(lambda refs: (9, refs))),
    Case("a chunk list of chunk lists that are blobs", (INVALID,), _chunk_lies(
        lambda refs: (1, [Reference(Kind.CHUNK_LIST, r.oid, r.length) for r in refs]))),
    # Manifests
    Case("a manifest without its contents", (INVALID,), _left_out(0)),
    Case("a manifest without its map", (INVALID,), _left_out(1)),
    Case("a manifest before all else", (INVALID,), _reordered),
    Case("a manifest of garbage", (INVALID,), broken(manifests([b"garbage"]))),
    Case("a manifest of version 2", (INVALID,), evil_body(_set(0, 2))),
    Case("a manifest in a second encoding", (INVALID,), evil_body(
        lambda body: msgpack.packb(body).replace(b"\xa5files", b"\xd9\x05files"))),
    Case("a count that is too high", (INVALID,), evil_body(
        lambda body: body[2][0].__setitem__(2, 2**40))),
    Case("a count that is too low", (INVALID,), evil_body(
        lambda body: body[2][0].__setitem__(2, 1))),
    Case("a root that is a manifest", (INVALID,), _manifest_as_root),
    Case("a root that nobody has", (INVALID,), evil_body(
        lambda body: body[2][0].__setitem__(1, bytes(32)))),
    Case("collections out of order", (INVALID,), evil_body(_collection("zzz"))),
    Case("a collection twice", (INVALID,), evil_body(_collection("files"))),
    Case("a collection called ../x", (INVALID,), evil_body(_collection("../x"))),
    Case("a collection with a quote", (INVALID,), evil_body(_collection('db/main/t"; DROP'))),
    Case("a table without a schema", (INVALID,), evil_body(_collection("db/main/t"))),
    Case("a table whose schema is a blob", (INVALID,), evil_body(_collection("db/main/t", EVIL))),
    Case("files with a schema", (INVALID,), evil_body(
        lambda body: body[2][0].__setitem__(3, EVIL))),
    Case("an author of 300 bytes", (INVALID,), evil_body(
        lambda body: body[3].__setitem__(0, "A" * 300))),
    Case("a message with a NUL", (INVALID,), evil_body(
        lambda body: body[3].__setitem__(2, "a\0b"))),
    Case("extras out of order", (INVALID,), evil_body(
        lambda body: body[3].__setitem__(3, [["b", 1], ["a", 1]]))),
    Case("17 parents", (INVALID,), evil_body(
        lambda body: body[1].extend(bytes([n]) * 32 for n in range(16)))),
    Case("the same parent twice", (INVALID,), evil_body(lambda body: body[1].extend(body[1]))),
    Case("a parent that nobody has", (INVALID,), evil_body(lambda body: body[1].append(NOBODY))),
    Case("a first parent that is a blob", (INVALID,), _first_parent),
    Case("a second parent that is a blob", (INVALID,), _second_parent),
    # Paths
    *(
        Case(f"a path {path!r}", (INVALID,), evil_path(path))
        for path in (
            b"..", b"../x", b"d/../../x", b"/etc/passwd", b"//x", b"d//x", b"d/", b".", b"./x",
            b"a\0b", b".gsync", b".gsync/config.toml", b".GSYNC/x", b".gSyNc", b"d/.gsync/x",
            b".gsync.", b".gsync /x", b".gsync::$DATA", b"gsync~1/x", b".gs\xe2\x80\x8cync/x",
            b"..\\x", b"d\\..\\..\\x", b"C:\\x", b"n" * 256, b"d/" + b"n" * 300,
        )
    ),
    Case("a file below a file", (INVALID,), evil_path(b"a.txt/x")),
    Case("a file where a directory is", (INVALID,), evil_path(b"d")),
    Case("a file below a symlink", (INVALID,), _link_and_below),
]  # fmt: skip


# --- A server that says what it is told to --------------------------------------------------

Answer = bytes | Callable[[bytes], Iterable[bytes]]
"""The body of an answer with status 200; or, from the request's body, all bytes of an answer."""


def http(body: bytes, status: int = 200, *headers: str) -> bytes:
    """One answer, whole."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}"]
    if not any(line.lower().startswith("content-type") for line in headers):
        lines.append("Content-Type: application/x-gsync")
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


def endless(piece: bytes, times: int, *, status: int = 200) -> Iterator[bytes]:
    """An answer in chunks, `times` times the same, and then the end."""
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/x-gsync\r\n"
    yield head.encode() + b"Transfer-Encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n" % len(piece) + piece + b"\r\n"
    for _ in range(times):
        yield chunk
    yield b"0\r\n\r\n"


@dataclass
class Peer:
    """A server of one tenant: honest, but for the answers that were put in."""

    store: MemoryStore
    answers: dict[str, Answer]
    base: str = ""
    sent: int = 0

    def answer(self, name: str, body: bytes) -> Iterable[bytes]:
        """All bytes of the answer to one request."""
        answer = self.answers.get(name.partition("/")[0])
        if isinstance(answer, bytes):
            return [http(answer)]
        if answer is not None:
            return answer(body)
        try:
            return [http(self.honest(name, body))]
        except GsyncError as error:
            return [http(encode_error(error), 400)]

    def honest(self, name: str, body: bytes) -> bytes:
        """What a server answers."""
        answerer = Answerer(self.store, "Ada", lambda: 1_000_000)
        match name.partition("/")[0]:
            case "hello":
                return encode_welcome(answerer.hello(decode_hello(body)))
            case "log":
                return encode_entries(answerer.log(decode_log(body)))
            case "fetch":
                return b"".join(map(encode_frame, answerer.fetch(decode_fetch(body))))
            case "objects":
                wants = decode_wants(body, 16_384)
                return b"".join(map(encode_frame, answerer.objects(wants)))
            case "begin":
                return encode_held(sorted(answerer.begin(decode_begin(body))))
            case _:
                session = bytes.fromhex(name.partition("/")[2])
                return encode_taken(answerer.frames(session, read_frames([body])))


class _Handler(socketserver.StreamRequestHandler):
    timeout = 20
    peer: Peer

    def handle(self) -> None:
        try:
            while self._serve_one():
                pass
        except OSError:
            pass  # the client has had enough

    def _serve_one(self) -> bool:
        words = self.rfile.readline(65_536).split()
        if len(words) < 2:
            return False
        headers = {}
        while line := self.rfile.readline(65_536).strip():
            key, _, value = line.decode("latin-1").partition(":")
            headers[key.lower()] = value.strip()
        body = self._body(headers)
        for piece in self.peer.answer(words[1].decode().partition("/v1/")[2], body):
            self.wfile.write(piece)
            self.peer.sent += len(piece)
        return True

    def _body(self, headers: Mapping[str, str]) -> bytes:
        if "content-length" in headers:
            return self.rfile.read(int(headers["content-length"]))
        body = b""
        while size := int(self.rfile.readline(100) or b"0", 16):
            body += self.rfile.read(size)
            self.rfile.readline(100)
        self.rfile.readline(100)
        return body


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        traceback.print_exc()  # a mistake of the test


@contextmanager
def hostile_server(store: MemoryStore, **answers: Answer) -> Iterator[Peer]:
    """Serve `store` honestly, but for `answers`, by the name of the request."""
    peer = Peer(store, dict(answers))
    handler = type("Handler", (_Handler,), {"peer": peer})
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        peer.base = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield peer
        finally:
            server.shutdown()
            thread.join(10)
