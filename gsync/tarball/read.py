"""Read a file tree from any tarball (07-tarball, section 4): refuse first, then build.

Nothing is written but objects, and no root is handed out before the last byte of the
archive was read and all of it passed. No path is ever opened.
"""

from __future__ import annotations

import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, NoReturn

from blake3 import blake3

from gsync.errors import Invalid, TooLarge
from gsync.maps.omap import build_map
from gsync.objects.chunk_list import ChunkListBuilder
from gsync.objects.chunking import CHUNKED_ABOVE_BYTES, read_chunks
from gsync.objects.encoding import Reference
from gsync.objects.oid import Kind, ObjectId
from gsync.paths import check_path, parents_of, show_path
from gsync.store.base import ObjectStore
from gsync.tarball.headers import (
    BLOCK_BYTES,
    CONTIGUOUS,
    DIRECTORY,
    GNU_LABEL,
    GNU_LONG_LINK,
    GNU_LONG_NAME,
    HARD_LINK,
    OLD_REGULAR,
    PAX,
    PAX_GLOBAL,
    REGULAR,
    SYMLINK,
    BadHeader,
    Header,
    parse_block,
    parse_pax,
)
from gsync.views.files import (
    DIRECTORY_ENTRY,
    TARGET_BYTES_MAX,
    EntryType,
    FileEntry,
    decode_entry_trusted,
    encode_entry,
)

# Long names, pax headers: a path is 4,096 bytes, a few attributes and comments besides.
_EXTENSION_BYTES_MAX = 1 << 20
_READ_BYTES = 1 << 16
_EXECUTABLE_BITS = 0o100
_GZIP_WBITS = 16 + zlib.MAX_WBITS
_MAGIC_BYTES = 6
_FIELDS = {b"path": "name", b"linkpath": "link", b"size": "size"}
_CHARSETS = (b"BINARY", b"ISO-IR 10646 2000 UTF-8")
_WHAT_IT_IS = {
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a FIFO",
    b"S": "a sparse file, which is stored in pieces",
    b"M": "the rest of a file from another volume",
    b"D": "a directory listing of an incremental dump",
}
_OTHER_FORMATS = {
    b"\xfd7zXZ": "xz",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"\x04\x22\x4d\x18": "lz4",
}


class TarballRefused(Invalid):
    """A tarball is damaged, or holds what no file tree holds."""


class TarballDamaged(TarballRefused):
    """It is no archive, or not a whole one: no fault of what was meant to be in it."""


class TarballTooLarge(TooLarge):
    """A tarball is beyond a limit."""


@dataclass(frozen=True, slots=True)
class TarLimits:
    """How much of a tarball is taken in before it is refused.

    Attributes:
        entries_max: Members, directories included.
        names_bytes_max: All paths together; they are held in memory.
        file_bytes_max: One file.
        total_bytes_max: The whole tar stream, after decompression.
        ratio_max: Bytes that one compressed byte may become, on average; counted once
            `ratio_after_bytes` have come out. Deflate ends at about 1,032.
        ratio_after_bytes: See there.
    """

    entries_max: int = 1_000_000
    names_bytes_max: int = 256 << 20
    file_bytes_max: int = 64 << 30
    total_bytes_max: int = 64 << 30
    ratio_max: int = 1_000
    ratio_after_bytes: int = 16 << 20


@dataclass(frozen=True, slots=True)
class HeldBack:
    """A member that did not enter the tree, and why."""

    path: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class TarballRead:
    """What was read.

    Attributes:
        root: The map of files.
        count: Entries of that map.
        held_back: What `accept` turned away, in the order of the archive.
        tar_blake3: Plain BLAKE3 of the tar stream, as `write_tarball` returns it.
        tar_bytes: Size of the tar stream.
    """

    root: ObjectId
    count: int
    held_back: tuple[HeldBack, ...]
    tar_blake3: ObjectId
    tar_bytes: int


def accept_all(path: bytes) -> str | None:
    """Hold nothing back."""
    return None


def read_tarball(
    stream: BinaryIO,
    store: ObjectStore,
    *,
    limits: TarLimits | None = None,
    accept: Callable[[bytes], str | None] = accept_all,
) -> TarballRead:
    """Put what a tarball holds into `store` and return the root of its file tree.

    Reads to the end of `stream`. Contents are held a chunk at a time; paths and entries,
    some 300 bytes each, until the end. The store is not flushed. After an error there may
    be objects in it that nothing refers to.

    Args:
        stream: A tar archive (v7, ustar, GNU or pax), plain or in gzip.
        accept: Given a path, a directory's with a `/` at its end, returns None to take it
            in or the reason to hold it back. Checks hold for what is held back, too.

    Raises:
        TarballRefused, IllegalPath: see 07-tarball, section 4.
        TarballTooLarge: beyond one of `limits`.
    """
    limits = limits or TarLimits()
    source = _Source(stream, limits)
    reader = _Reader(source, store, limits, accept)
    for header in _members(source, limits):
        reader.take(header)
    source.finish()
    entries = reader.tree()
    root = build_map(store, entries)
    digest = ObjectId(source.hasher.digest())
    return TarballRead(root, len(entries), tuple(reader.held_back), digest, source.tar_bytes)


# --- The tree ------------------------------------------------------------------------

_HELD_BACK = b""  # in place of an entry; no entry is empty


class _Reader:
    """Takes members in any order; knows at the end whether they make a tree."""

    def __init__(
        self,
        source: _Source,
        store: ObjectStore,
        limits: TarLimits,
        accept: Callable[[bytes], str | None],
    ) -> None:
        self._source = source
        self._store = store
        self._limits = limits
        self._accept = accept
        self._entries: dict[bytes, bytes] = {}
        self._directories: dict[bytes, bool] = {}
        self._names_bytes = 0
        self.held_back: list[HeldBack] = []

    def take(self, header: Header) -> None:
        """Check one member and put its content."""
        kind = header.type
        if kind == GNU_LABEL:
            _refuse_content(header)
            return
        is_directory = kind == DIRECTORY or (kind == OLD_REGULAR and header.name.endswith(b"/"))
        path = _tidy(header.name, is_directory=is_directory)
        if is_directory and path in (b"", b"."):
            _refuse_content(header)
            return
        check_path(path)
        self._names_bytes += len(path)
        if self._names_bytes > self._limits.names_bytes_max:
            raise TarballTooLarge(
                f"tarball entry {show_path(path)}: all names together are longer than "
                f"{self._limits.names_bytes_max} bytes"
            )
        if is_directory:
            self._take_directory(path, header)
            return
        if path in self._entries or path in self._directories:
            _refuse(path, "a second entry of this name")
        reason = self._accept(path)
        if kind in (REGULAR, OLD_REGULAR, CONTIGUOUS):
            self._entries[path] = self._file(path, header, hold_back=reason is not None)
        elif kind == SYMLINK:
            self._entries[path] = self._symlink(path, header)
        elif kind == HARD_LINK:
            target = self._hard_link(path, header)
            if self._entries[target] == _HELD_BACK and reason is None:
                reason = f"a hard link to {show_path(target)}, which is held back"
            self._entries[path] = self._entries[target]
        else:
            _refuse(path, f"{_WHAT_IT_IS.get(kind, f'of unknown type {kind!r}')}, not a file")
        if reason is not None:
            self._entries[path] = _HELD_BACK
            self.held_back.append(HeldBack(path, reason))

    def tree(self) -> list[tuple[bytes, bytes]]:
        """Return the entries of the map in its order, or refuse what is no tree."""
        self._check_places()
        taken = [(path, entry) for path, entry in self._entries.items() if entry != _HELD_BACK]
        taken += [(path, DIRECTORY_ENTRY) for path in self._empty_directories()]
        taken.sort()
        return taken

    def _take_directory(self, path: bytes, header: Header) -> None:
        _refuse_content(header)
        if path in self._entries:
            _refuse(path, "a file and a directory at once")
        # The same directory twice says nothing new: appending to an archive makes it.
        if path not in self._directories:
            reason = self._accept(path + b"/")
            self._directories[path] = reason is None
            if reason is not None:
                self.held_back.append(HeldBack(path + b"/", reason))

    def _file(self, path: bytes, header: Header, *, hold_back: bool) -> bytes:
        if header.size > self._limits.file_bytes_max:
            raise TarballTooLarge(
                f"tarball entry {show_path(path)}: {header.size} bytes, "
                f"where a file may have {self._limits.file_bytes_max}"
            )
        self._source.announce(path, header.size)
        content = _Content(self._source, header.size)
        if hold_back:
            content.skip()
            return _HELD_BACK
        is_executable = header.mode & _EXECUTABLE_BITS
        type_ = EntryType.EXECUTABLE if is_executable else EntryType.FILE
        entry = _put_content(self._store, content, header.size, type_)
        self._source.skip_padding(header.size)
        return encode_entry(entry)

    def _symlink(self, path: bytes, header: Header) -> bytes:
        _refuse_content(header)
        target = header.link
        if not 1 <= len(target) <= TARGET_BYTES_MAX or b"\0" in target:
            _refuse(path, f"a symlink's target is 1 to {TARGET_BYTES_MAX} bytes without NUL")
        oid = self._store.put(Kind.BLOB, target)
        ref = Reference(Kind.BLOB, oid, len(target))
        return encode_entry(FileEntry(EntryType.SYMLINK, len(target), ref))

    def _hard_link(self, path: bytes, header: Header) -> bytes:
        _refuse_content(header)
        target = _tidy(header.link, is_directory=False)
        if target not in self._entries:
            _refuse(path, f"a hard link to {show_path(target)}, which is no file before it")
        return target

    def _check_places(self) -> None:
        """Refuse a path below one that is no directory (04-manifest, rule 2.6)."""
        for paths in (self._entries, self._directories):
            for path in paths:
                for parent in parents_of(path):
                    if parent in self._entries:
                        _refuse(path, f"lies below {show_path(parent)}, {self._what(parent)}")

    def _what(self, path: bytes) -> str:
        entry = self._entries[path]
        if entry != _HELD_BACK and decode_entry_trusted(entry).type is EntryType.SYMLINK:
            return "which is a symlink"
        return "which is a file and a directory at once"

    def _empty_directories(self) -> Iterator[bytes]:
        """Yield those with nothing of the archive below them, be it held back."""
        paths = sorted([*self._entries, *self._directories])
        for path, is_accepted in self._directories.items():
            at = bisect_left(paths, path + b"/")
            is_empty = at == len(paths) or not paths[at].startswith(path + b"/")
            if is_accepted and is_empty:
                yield path


def _put_content(store: ObjectStore, content: _Content, size: int, type_: EntryType) -> FileEntry:
    if size <= CHUNKED_ABOVE_BYTES:
        oid = store.put(Kind.BLOB, content.read_all())
        return FileEntry(type_, size, Reference(Kind.BLOB, oid, size))
    hasher = blake3()
    builder = ChunkListBuilder(store.put)
    for chunk in read_chunks(content):
        hasher.update(chunk)
        builder.add(Reference(Kind.BLOB, store.put(Kind.BLOB, chunk), len(chunk)))
    return FileEntry(type_, size, builder.finish(), ObjectId(hasher.digest()))


def _tidy(name: bytes, *, is_directory: bool) -> bytes:
    """Return a name without the `./` that many writers begin with, and a directory's `/`."""
    while name.startswith(b"./"):
        name = name[2:]
    return name.rstrip(b"/") if is_directory and name.strip(b"/") else name


def _refuse(path: bytes, why: str) -> NoReturn:
    raise TarballRefused(f"tarball entry {show_path(path)}: {why}", path=show_path(path))


def _refuse_content(header: Header) -> None:
    """Refuse content where there is none: readers do not agree on whether to skip it."""
    if header.size:
        _refuse(header.name, f"{header.size} bytes of content on what is no file")


# --- Members -------------------------------------------------------------------------


class _Extension:
    """What stood before a member and replaces fields of its header."""

    def __init__(self) -> None:
        self._fields: dict[str, bytes] = {}

    def set(self, field: str, value: bytes) -> None:
        # Which one wins differs between readers.
        if field in self._fields:
            raise BadHeader(f"its {field} is given twice")
        self._fields[field] = value

    def add_pax(self, records: dict[bytes, bytes]) -> None:
        self.set("pax header", b"")
        for key, value in records.items():
            if key.startswith(b"GNU.sparse."):
                raise BadHeader("a sparse file, which is stored in pieces")
            if key == b"hdrcharset" and value not in _CHARSETS:
                raise BadHeader("its names are in an unknown character set")
            field = _FIELDS.get(key)
            if field and value:
                self.set(field, value)

    def apply(self, header: Header) -> Header:
        size = header.size
        if "size" in self._fields:
            digits = self._fields["size"]
            if not digits.isdigit() or len(digits) > 19:
                raise BadHeader("its size is not a number")
            size = int(digits)
        name = self._fields.get("name", header.name)
        return Header(name, header.type, header.mode, size, self._fields.get("link", header.link))

    def __bool__(self) -> bool:
        return bool(self._fields)


def _members(source: _Source, limits: TarLimits) -> Iterator[Header]:
    """Yield the members up to the two blocks of zeros; the caller reads each content."""
    extension = _Extension()
    name = b""  # of the last member or extension, to say where it broke
    count = 0
    while True:
        try:
            header = parse_block(source.read(BLOCK_BYTES))
            if header is None:
                if extension:
                    raise BadHeader("an extended header, and no entry after it")
                break
            name = header.name
            if header.type in (PAX, PAX_GLOBAL, GNU_LONG_NAME, GNU_LONG_LINK):
                _extend(source, header, extension)
                continue
            header, extension = extension.apply(header), _Extension()
        except BadHeader as error:
            raise _unreadable(error, name, is_first=not count) from None
        count += 1
        name = header.name
        if count > limits.entries_max:
            raise TarballTooLarge(
                f"tarball entry {show_path(name)}: more than {limits.entries_max} entries"
            )
        yield header
    if source.read(BLOCK_BYTES).strip(b"\0"):
        raise TarballDamaged("the tarball ends with one block of zeros, not two")


def _extend(source: _Source, header: Header, extension: _Extension) -> None:
    if header.size > _EXTENSION_BYTES_MAX:
        raise TarballTooLarge(
            f"tarball entry {show_path(header.name)}: an extended header of {header.size} bytes, "
            f"where {_EXTENSION_BYTES_MAX} may come"
        )
    body = source.read(header.size)
    source.skip_padding(header.size)
    if header.type == PAX:
        extension.add_pax(parse_pax(body))
    elif header.type == GNU_LONG_NAME:
        extension.set("name", body.rstrip(b"\0"))
    elif header.type == GNU_LONG_LINK:
        extension.set("link", body.rstrip(b"\0"))
    else:
        # For all that follow: comments and times are passed over, one name or size for
        # many files is not what anybody means.
        if not _FIELDS.keys().isdisjoint(parse_pax(body)):
            raise BadHeader("a global header that sets a name or a size")


def _unreadable(error: BadHeader, name: bytes, *, is_first: bool) -> TarballRefused:
    if is_first and not name:
        return TarballDamaged(f"not a tar archive: {error}")
    where = f"tarball entry {show_path(name)}, or the one after it"
    return TarballDamaged(f"{where}: {error}", path=show_path(name))


# --- Bytes ---------------------------------------------------------------------------


class _Content:
    """The content of one member."""

    def __init__(self, source: _Source, size: int) -> None:
        self._source = source
        self._size = size
        self._left = size

    def readinto(self, target: memoryview, /) -> int:
        piece = self._source.read_some(min(len(target), self._left))
        target[: len(piece)] = piece
        self._left -= len(piece)
        return len(piece)

    def read_all(self) -> bytes:
        self._left = 0
        return self._source.read(self._size)

    def skip(self) -> None:
        while self._left:
            self._left -= len(self._source.read_some(min(self._left, _READ_BYTES)))
        self._source.skip_padding(self._size)


class _Source:
    """The tar stream: decompressed, counted, hashed, limited."""

    def __init__(self, stream: BinaryIO, limits: TarLimits) -> None:
        self._stream = stream
        self._limits = limits
        self._packed_bytes = 0
        self._unpacked_bytes = 0
        self._pieces = self._unpacked()
        self._ready = b""
        self._at = 0
        self.hasher = blake3()
        self.tar_bytes = 0

    def read(self, size: int) -> bytes:
        """Return exactly `size` bytes; the caller has bounded them."""
        if self._at + size <= len(self._ready):
            return self._next(size)
        pieces = []
        while size:
            pieces.append(self.read_some(size))
            size -= len(pieces[-1])
        return b"".join(pieces)

    def read_some(self, size_max: int) -> bytes:
        """Return 1 to `size_max` bytes, or none when none are asked for."""
        if size_max and self._at == len(self._ready) and not self._fill():
            raise TarballDamaged(f"the tarball is cut off after {self.tar_bytes} bytes of tar")
        return self._next(min(size_max, len(self._ready) - self._at))

    def skip_padding(self, size: int) -> None:
        self.read(-size % BLOCK_BYTES)

    def announce(self, path: bytes, size: int) -> None:
        """Refuse a content that will exceed the limit, before it is read."""
        if self.tar_bytes + size > self._limits.total_bytes_max:
            raise TarballTooLarge(
                f"tarball entry {show_path(path)}: with its {size} bytes the archive is larger "
                f"than {self._limits.total_bytes_max}"
            )

    def finish(self) -> None:
        """Read to the end, which proves the checksum of gzip, and allow zeros alone."""
        while self._at < len(self._ready) or self._fill():
            if self._next(len(self._ready) - self._at).strip(b"\0"):
                raise TarballDamaged("there is something after the end of the archive")

    def _next(self, size: int) -> bytes:
        piece = self._ready[self._at : self._at + size]
        self._at += size
        self.tar_bytes += size
        return piece

    def _fill(self) -> bool:
        self._ready, self._at = next(self._pieces, b""), 0
        self.hasher.update(self._ready)
        self._unpacked_bytes += len(self._ready)
        if self._unpacked_bytes > self._limits.total_bytes_max:
            raise TarballTooLarge(
                f"the archive is larger than {self._limits.total_bytes_max} bytes"
            )
        return bool(self._ready)

    def _unpacked(self) -> Iterator[bytes]:
        head = b""
        while len(head) < _MAGIC_BYTES and (more := self._stream.read(_MAGIC_BYTES - len(head))):
            head += more
        if not head:
            raise TarballDamaged("the tarball is empty")
        for magic, format_ in _OTHER_FORMATS.items():
            if head.startswith(magic):
                raise TarballDamaged(
                    f"this is {format_}, where a tar archive is expected, plain or in gzip",
                    hint="unpack it first, or pack it with gzip",
                )
        self._packed_bytes = len(head)
        if head.startswith(b"\x1f\x8b"):
            yield from self._gunzip(head)
            return
        while head:
            yield head
            head = self._stream.read(_READ_BYTES)

    def _gunzip(self, data: bytes) -> Iterator[bytes]:
        """Yield what the gzip members hold, at most `_READ_BYTES` at a time."""
        inflate = zlib.decompressobj(_GZIP_WBITS)
        while True:
            try:
                out = inflate.decompress(data, _READ_BYTES)
            except zlib.error as error:
                raise TarballDamaged(
                    f"the gzip stream is damaged after {self._unpacked_bytes} bytes of tar: {error}"
                ) from error
            if out:
                self._check_ratio(len(out))
                yield out
            data = inflate.unconsumed_tail
            if inflate.eof:
                # Zeros may follow, from tapes and blocks, and further members.
                data = inflate.unused_data.lstrip(b"\0")
                while not data and (more := self._read_packed()):
                    data = more.lstrip(b"\0")
                if not data:
                    return
                inflate = zlib.decompressobj(_GZIP_WBITS)
            elif not data and not out:
                data = self._read_packed()
                if not data:
                    raise TarballDamaged(
                        f"the gzip stream is cut off after {self._unpacked_bytes} bytes of tar"
                    )

    def _read_packed(self) -> bytes:
        data = self._stream.read(_READ_BYTES)
        self._packed_bytes += len(data)
        return data

    def _check_ratio(self, more_bytes: int) -> None:
        unpacked = self._unpacked_bytes + more_bytes
        if (
            unpacked > self._limits.ratio_after_bytes
            and unpacked > self._limits.ratio_max * self._packed_bytes
        ):
            raise TarballTooLarge(
                f"{self._packed_bytes} compressed bytes became {unpacked}: more than "
                f"{self._limits.ratio_max} to one"
            )
