"""Write a file tree as one `.tar.gz`: the same tree, the same tar bytes everywhere."""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO

from blake3 import blake3

from gsync.errors import Invalid, NotFound
from gsync.maps.omap import find_value, list_entries
from gsync.objects.chunk_list import list_chunks
from gsync.objects.encoding import NotCanonical, Reference
from gsync.objects.oid import Kind, ObjectId
from gsync.paths import check_path, parents_of, show_path
from gsync.store.base import ObjectReader
from gsync.tarball.headers import (
    BLOCK_BYTES,
    DIRECTORY,
    RECORD_BYTES,
    REGULAR,
    SYMLINK,
    encode_member,
    padding,
)
from gsync.views.files import EntryType, FileEntry, decode_entry_trusted

# Level 6: on text 9 gains 1 % for twice the time. It is zlib's own default.
_LEVEL = 6
# Objects read at once: enough to open each pack once, and at most 32 MiB of bodies, since
# no blob of a file tree is larger than a chunk.
_BATCH_OBJECTS = 256
# What the compressor is handed at a time. Fixed, so that how a content is stored cannot
# show in the compressed bytes.
_PIECE_BYTES = 1 << 16
_MTIME_LIMIT = 8**11

_MODES = {
    EntryType.FILE: 0o644,
    EntryType.EXECUTABLE: 0o755,
    EntryType.SYMLINK: 0o777,
    EntryType.DIRECTORY: 0o755,
}


class NoSuchPath(NotFound):
    """A path was asked for that the tree does not have."""

    def __init__(self, path: bytes) -> None:
        super().__init__(f"no path {show_path(path)} in this tree", path=show_path(path))


@dataclass(frozen=True, slots=True)
class TarballWritten:
    """What was written.

    Attributes:
        tar_blake3: Plain BLAKE3 of the tar stream before compression: what is compared
            across machines.
        gzip_bytes: Size of the file.
        tar_bytes: Size of the tar stream.
        entries: Files, symlinks and empty directories in it.
    """

    tar_blake3: ObjectId
    gzip_bytes: int
    tar_bytes: int
    entries: int


def write_tarball(
    store: ObjectReader,
    root: ObjectId,
    out: BinaryIO,
    *,
    paths: Sequence[bytes] = (),
    keep: Callable[[bytes, FileEntry], bool] | None = None,
    mtime: int = 0,
) -> TarballWritten:
    """Write the file tree at `root` to `out` and return its digest and sizes.

    Members come in the order of the map. Memory is bounded by some 32 MiB of contents,
    whatever the sizes of files and tree.

    Args:
        out: Only `write` is called.
        paths: Files, or directories with all below them; empty for the whole tree.
        keep: Says which of these go in; all, if None.
        mtime: The time that every member gets, in seconds since 1970.

    Raises:
        NoSuchPath: one of `paths` is neither an entry nor above one; nothing was written.
        ObjectMissing, ObjectCorrupt: a content is not in the store as it should be. What
            was written then is no whole archive.
    """
    if not 0 <= mtime < _MTIME_LIMIT:
        raise Invalid(f"time {mtime} does not fit into a tar header")
    entries = _selected(store, root, paths)
    if keep is not None:
        entries = (pair for pair in entries if keep(*pair))
    stream = _GzipStream(out)
    count = 0
    while batch := list(islice(entries, _BATCH_OBJECTS)):
        _write_batch(store, stream, batch, mtime)
        count += len(batch)
    return stream.finish(count)


def _selected(
    store: ObjectReader, root: ObjectId, paths: Sequence[bytes]
) -> Iterator[tuple[bytes, FileEntry]]:
    found: Iterable[tuple[bytes, bytes]] = list_entries(store, root)
    if paths:
        for path in paths:
            check_path(path)
        wanted = set(paths)
        tops = [path for path in wanted if wanted.isdisjoint(parents_of(path))]
        found = heapq.merge(*[_below(store, root, path) for path in sorted(tops)])
        for path in wanted.difference(tops):
            _below(store, root, path)
    return ((path, decode_entry_trusted(value)) for path, value in found)


def _below(store: ObjectReader, root: ObjectId, path: bytes) -> Iterable[tuple[bytes, bytes]]:
    value = find_value(store, root, path)
    if value is not None:
        return [(path, value)]
    if next(list_entries(store, root, prefix=path + b"/"), None) is None:
        raise NoSuchPath(path)
    return list_entries(store, root, prefix=path + b"/")


def _write_batch(
    store: ObjectReader,
    stream: _GzipStream,
    batch: Sequence[tuple[bytes, FileEntry]],
    mtime: int,
) -> None:
    bodies = _blobs(store, [entry.ref for _, entry in batch if entry.ref is not None])
    for path, entry in batch:
        mode = _MODES[entry.type]
        if entry.ref is None:
            stream.write(encode_member(path + b"/", DIRECTORY, mode, 0, mtime=mtime))
        elif entry.type is EntryType.SYMLINK:
            target = bodies[entry.ref.oid]
            stream.write(encode_member(path, SYMLINK, mode, 0, link=target, mtime=mtime))
        else:
            stream.write(encode_member(path, REGULAR, mode, entry.size, mtime=mtime))
            if entry.ref.kind is Kind.CHUNK_LIST:
                _write_chunks(store, stream, path, entry, entry.ref)
            else:
                stream.write(bodies[entry.ref.oid])
            stream.write(padding(entry.size))


def _write_chunks(
    store: ObjectReader, stream: _GzipStream, path: bytes, entry: FileEntry, ref: Reference
) -> None:
    chunks = list_chunks(lambda oid: store.get(Kind.CHUNK_LIST, oid), ref)
    hasher = blake3()
    while batch := list(islice(chunks, _BATCH_OBJECTS)):
        bodies = _blobs(store, batch)
        for chunk in batch:
            body = bodies[chunk.oid]
            hasher.update(body)
            stream.write(body)
    if hasher.digest() != entry.content:
        raise NotCanonical(f"{show_path(path)}: its chunks are not the content that it names")


def _blobs(store: ObjectReader, refs: Sequence[Reference]) -> dict[ObjectId, bytes]:
    """Return the bodies of those of `refs` that are blobs; a length off would shift the tar."""
    blobs = [ref for ref in refs if ref.kind is Kind.BLOB]
    bodies = dict(store.get_many([(ref.kind, ref.oid) for ref in blobs]))
    for ref in blobs:
        if len(bodies[ref.oid]) != ref.length:
            raise NotCanonical(f"blob {ref.oid.hex()} is not {ref.length} bytes long")
    return bodies


class _GzipStream:
    """One gzip member (07-tarball, section 3) around a tar stream that is hashed on its way.

    By hand, since `gzip` writes no comment, and its header has changed between Pythons.
    """

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        self._waiting = bytearray()
        self._hasher = blake3()
        self._crc = 0
        self._tar_bytes = 0
        self._gzip_bytes = 0
        self._emit(_gzip_header())

    def write(self, data: bytes) -> None:
        self._waiting += data
        if len(self._waiting) >= _PIECE_BYTES:
            whole = len(self._waiting) - len(self._waiting) % _PIECE_BYTES
            with memoryview(self._waiting) as view:
                for at in range(0, whole, _PIECE_BYTES):
                    self._take(view[at : at + _PIECE_BYTES])
            del self._waiting[:whole]

    def finish(self, entries: int) -> TarballWritten:
        """Write what ends the archive and return what was written."""
        self.write(bytes(2 * BLOCK_BYTES))
        self.write(bytes(-(self._tar_bytes + len(self._waiting)) % RECORD_BYTES))
        self._take(bytes(self._waiting))
        self._emit(self._deflate.flush())
        self._emit(self._crc.to_bytes(4, "little"))
        self._emit((self._tar_bytes & 0xFFFFFFFF).to_bytes(4, "little"))
        digest = ObjectId(self._hasher.digest())
        return TarballWritten(digest, self._gzip_bytes, self._tar_bytes, entries)

    def _take(self, piece: bytes | memoryview) -> None:
        self._hasher.update(piece)
        self._crc = zlib.crc32(piece, self._crc)
        self._tar_bytes += len(piece)
        self._emit(self._deflate.compress(piece))

    def _emit(self, data: bytes) -> None:
        if data:
            self._out.write(data)
            self._gzip_bytes += len(data)


def _gzip_header() -> bytes:
    """Return a header with no time, unknown system (255), and the compressor in the comment."""
    comment = f"gsync; zlib {zlib.ZLIB_RUNTIME_VERSION} level {_LEVEL}"
    return b"\x1f\x8b\x08\x10\0\0\0\0\x00\xff" + comment.encode("ascii") + b"\0"
