"""What the file tree's values mean: path -> file entry (04-manifest, section 3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Any

from gsync.changes import Change
from gsync.frozen import frozen
from gsync.maps.omap import MapReader, list_entries
from gsync.objects.chunk_list import CONTENT_BYTES_MAX
from gsync.objects.chunking import CHUNKED_ABOVE_BYTES
from gsync.objects.encoding import (
    NotCanonical,
    Reference,
    decode,
    decode_trusted,
    encode,
    encode_blob_entry,
    find_blob_entry,
    find_blob_entry_trusted,
)
from gsync.objects.model import VALUE_BYTES_MAX
from gsync.objects.oid import OID_BYTES, Kind, ObjectId
from gsync.paths import IllegalPath, check_path, check_sorted_paths, parents_of, show_path
from gsync.store.base import ObjectReader

TARGET_BYTES_MAX = 4095


class EntryType(IntEnum):
    """What stands at a path. The numbers are part of the format."""

    FILE = 0
    EXECUTABLE = 1
    SYMLINK = 2
    DIRECTORY = 3


@frozen
class FileEntry:
    """One path of a file tree.

    Attributes:
        type: What it is.
        size: Bytes of content; of the target for a symlink, 0 for a directory.
        ref: The content as a blob or a chunk list; None for a directory.
        content: BLAKE3 of all bytes of a file in chunks, else None.
    """

    type: EntryType
    size: int
    ref: Reference | None
    content: ObjectId | None = None

    @property
    def content_id(self) -> ObjectId | None:
        """The plain BLAKE3 of the content, as `b3sum` prints it; None for a directory."""
        if self.content is not None:
            return self.content
        return self.ref.oid if self.ref is not None else None

    @property
    def is_file(self) -> bool:
        """Whether it is a file, executable or not."""
        return self.type <= EntryType.EXECUTABLE


_USUAL = (EntryType.FILE, EntryType.EXECUTABLE)

DIRECTORY_ENTRY = encode([int(EntryType.DIRECTORY), 0, None])
"""The encoded entry of an empty directory."""


def encode_entry(entry: FileEntry) -> bytes:
    """Return the map value of `entry`."""
    if _is_usual(entry):
        assert entry.ref is not None
        return encode_blob_entry(entry.type, entry.ref.oid, entry.size)
    if entry.content is None:
        return encode([int(entry.type), entry.size, entry.ref])
    return encode([int(entry.type), entry.size, entry.ref, entry.content])


def encode_file(oid: ObjectId, size: int, *, is_executable: bool) -> bytes:
    """Return the map value of a file that is one blob: as `encode_entry`, in a fifth of the time.

    Only for a size of up to CHUNKED_ABOVE_BYTES.
    """
    return encode_blob_entry(1 if is_executable else 0, oid, size)


def decode_entry(value: bytes) -> FileEntry:
    """Return the file entry that a map value from anywhere encodes.

    Raises:
        NotCanonical: 04-manifest, section 3, does not hold.
    """
    entry = _find_usual(value)
    if entry is None:
        entry = _entry(decode(value, VALUE_BYTES_MAX))
        _check(entry)
    return entry


def decode_entry_trusted(value: bytes) -> FileEntry:
    """Return the file entry of a value that was checked when its map was admitted."""
    found = find_blob_entry_trusted(value)
    if found is not None and found[0] <= EntryType.EXECUTABLE:
        number, oid, size = found
        return FileEntry(_USUAL[number], size, Reference(Kind.BLOB, oid, size))
    return _entry(decode_trusted(value))


def check_tree_changes(
    store: ObjectReader, old: ObjectId | None, new: ObjectId, changes: Iterable[Change]
) -> Iterator[Change]:
    """Yield the changes from tree `old` to tree `new`, and raise Invalid where page 04 breaks.

    The old tree is legal, so a path can clash only with one that was added: each added path
    is looked up as a directory of others and others as its directories, O(log n) each.

    Raises:
        IllegalPath: a path is illegal, or a file and a directory at once.
        NotCanonical: a value is no file entry.
    """
    if old is None:
        yield from _check_whole_tree(changes)
        return
    tree = MapReader(store, new)
    for change in changes:
        if change.new is not None:
            decode_entry(change.new)
            if change.old is None:
                check_path(change.key)
                _check_place(store, tree, new, change.key)
        yield change


def _check_whole_tree(changes: Iterable[Change]) -> Iterator[Change]:
    seen: list[Change] = []

    def paths() -> Iterator[bytes]:
        for change in changes:
            seen.append(change)
            yield change.key

    for _ in check_sorted_paths(paths()):
        change = seen.pop()
        if change.new is not None:
            decode_entry(change.new)
        yield change


def _check_place(store: ObjectReader, tree: MapReader, root: ObjectId, path: bytes) -> None:
    for parent in parents_of(path):
        if tree.find(parent) is not None:
            raise IllegalPath(path, f"{show_path(parent)} is a file and a directory at once")
    below = next(list_entries(store, root, prefix=path + b"/"), None)
    if below is not None:
        raise IllegalPath(path, f"{show_path(below[0])} makes it a file and a directory at once")


def _is_usual(entry: FileEntry) -> bool:
    """Return whether it is a file that is one blob, as nearly all are."""
    ref = entry.ref
    return (
        entry.type <= EntryType.EXECUTABLE
        and type(ref) is Reference
        and ref.kind is Kind.BLOB
        and ref.length == entry.size
        and 0 <= entry.size <= CHUNKED_ABOVE_BYTES
        and len(ref.oid) == OID_BYTES
        and entry.content is None
    )


def _find_usual(value: bytes) -> FileEntry | None:
    """Return the entry of a file that is one blob; None where `value` is anything else."""
    found = find_blob_entry(value)
    if found is None or found[0] > EntryType.EXECUTABLE or found[2] > CHUNKED_ABOVE_BYTES:
        return None
    number, oid, size = found
    return FileEntry(_USUAL[number], size, Reference(Kind.BLOB, oid, size))


def _entry(value: Any) -> FileEntry:
    match value:
        case [int(number), int(size), ref] if type(number) is type(size) is int:
            return FileEntry(_type(number), size, ref)
        case [int(number), int(size), ref, bytes(content)] if type(number) is type(size) is int:
            return FileEntry(_type(number), size, ref, ObjectId(content))
    raise NotCanonical("file entry: not [type, size, ref] or [type, size, ref, content]")


def _type(number: int) -> EntryType:
    try:
        return EntryType(number)
    except ValueError:
        raise NotCanonical(f"file entry: unknown type {number}") from None


def _check(entry: FileEntry) -> None:
    if entry.type is EntryType.DIRECTORY:
        if entry != FileEntry(EntryType.DIRECTORY, 0, None):
            raise NotCanonical("file entry: a directory is [3, 0, nil]")
        return
    ref = entry.ref
    if type(ref) is not Reference or ref.length != entry.size:
        raise NotCanonical("file entry: no reference, or one of another length than the size")
    if entry.type is EntryType.SYMLINK:
        if ref.kind is not Kind.BLOB or not 1 <= entry.size <= TARGET_BYTES_MAX:
            raise NotCanonical(f"file entry: a symlink's target is 1 to {TARGET_BYTES_MAX} bytes")
        if entry.content is not None:
            raise NotCanonical("file entry: a symlink has no content id")
    elif entry.size <= CHUNKED_ABOVE_BYTES:
        if ref.kind is not Kind.BLOB or entry.content is not None:
            raise NotCanonical(f"file entry: {entry.size} bytes are one blob")
    elif entry.size > CONTENT_BYTES_MAX:
        raise NotCanonical(f"file entry: content of {entry.size} bytes")
    elif ref.kind is not Kind.CHUNK_LIST or entry.content is None:
        raise NotCanonical(f"file entry: {entry.size} bytes are a chunk list with a content id")
    if entry.content is not None and len(entry.content) != OID_BYTES:
        raise NotCanonical("file entry: the content id is not 32 bytes")
