"""The stat cache: what the last scan saw, one record a directory (08-files, section 4).

Beside what is live, the records hold the whole base map, spread over the directories: where
live and base differ, a record holds both. So a scan against the map that the cache knows
reads nothing from the store, and one against another map needs only their difference.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import msgpack  # type: ignore[import-untyped]

from gsync.objects.oid import OID_BYTES, ObjectId
from gsync.replicas.files.ignore import Verdict
from gsync.views.files import DIRECTORY_ENTRY

Folder = str | bytes | os.PathLike[str] | os.PathLike[bytes]
"""How a caller names a directory."""

Signature = tuple[int, int, int, int, int]
"""mode, size, mtime_ns, ctime_ns, inode."""

DIRECTORY_SIGNATURE: Signature = (0o040000, 0, 0, 0, 0)
UNKNOWN: Signature = (0, 0, 0, 0, 0)
"""Equal to the signature of nothing on a disk: read the file again."""

RACY_NS = 100_000_000
RACY_COARSE_NS = 2_000_000_000  # FAT has ticks of 2 s

_VERSION = 2  # 1 had records that did not say where to go on
_HEADER = b"\0"  # no path, so no directory, is named so


class ScanCache(Protocol):
    """Where the records are kept; the repository's store has this."""

    def load_scan_dirs(self) -> dict[bytes, bytes]:
        """Return all records by directory."""
        ...

    def save_scan_dirs(self, records: Mapping[bytes, bytes | None]) -> None:
        """Set or drop (None) records, all in one transaction."""
        ...


class MemoryCache:
    """A cache that lasts as long as the process."""

    def __init__(self) -> None:
        self.records: dict[bytes, bytes] = {}

    def load_scan_dirs(self) -> dict[bytes, bytes]:
        return dict(self.records)

    def save_scan_dirs(self, records: Mapping[bytes, bytes | None]) -> None:
        for directory, body in records.items():
            if body is None:
                self.records.pop(directory, None)
            else:
                self.records[directory] = body


class DirRecord(NamedTuple):
    """What one directory held. Names are sorted; the four columns go together.

    Attributes:
        fingerprint: Of the rules that the verdicts were made under.
        names: Its children; the empty name is the directory's own entry when it is empty.
        signatures: What lstat said of each; UNKNOWN where it is not to be believed.
        values: An encoded file entry, or the number of a Verdict.
        diffs: Name and base value (None: absent) where the base is not what `values` says.
        noted: Which names a scan has to speak about, by position.
        subdirectories: The names to go on with.
    """

    fingerprint: bytes
    names: tuple[bytes, ...]
    signatures: tuple[Signature, ...]
    values: tuple[bytes | int, ...]
    diffs: tuple[tuple[bytes, bytes | None], ...] = ()
    noted: tuple[int, ...] = ()
    subdirectories: tuple[bytes, ...] = ()


EMPTY_RECORD = DirRecord(b"", (), (), ())

SPOKEN_OF = frozenset((Verdict.SECRET, Verdict.SPECIAL, Verdict.ILLEGAL))


def make_record(
    fingerprint: bytes,
    names: tuple[bytes, ...],
    signatures: tuple[Signature, ...],
    values: tuple[bytes | int, ...],
    diffs: tuple[tuple[bytes, bytes | None], ...],
) -> DirRecord:
    """Return a record with what follows from its values: what to speak about, and go on with."""
    noted = tuple([at for at, value in enumerate(values) if value in SPOKEN_OF])
    subdirectories = tuple(
        [name for name, value in zip(names, values, strict=True) if value == Verdict.DIRECTORY]
    )
    return DirRecord(fingerprint, names, signatures, values, diffs, noted, subdirectories)


class Header(NamedTuple):
    """Which maps the records stand for.

    Attributes:
        base: The map that the base values are.
        live: The map that the live values are, once somebody wrote it.
    """

    base: ObjectId
    live: ObjectId | None


def load_index(cache: ScanCache) -> tuple[Header | None, dict[bytes, bytes]]:
    """Return the header, or None when there is nothing to build on, and the encoded records."""
    records = cache.load_scan_dirs()
    body = records.pop(_HEADER, None)
    try:
        version, base, live = msgpack.unpackb(body) if body is not None else (0, b"", b"")
    except (ValueError, TypeError, msgpack.UnpackException):
        version, base, live = 0, b"", b""
    if version != _VERSION or type(base) is not bytes or len(base) != OID_BYTES:
        return None, {}
    return Header(ObjectId(base), ObjectId(live) if live else None), records


def encode_header(header: Header) -> tuple[bytes, bytes]:
    """Return key and body of the header's record."""
    return _HEADER, msgpack.packb([_VERSION, header.base, header.live])


def encode_record(record: DirRecord) -> bytes:
    """Return the body of a record."""
    body: bytes = msgpack.packb(tuple(record))
    return body


def decode_record(body: bytes) -> DirRecord:
    """Return the record that `body` encodes; our own store wrote it."""
    return DirRecord._make(msgpack.unpackb(body, use_list=False))


def confirm(cache: ScanCache, base: ObjectId, live: ObjectId) -> None:
    """Remember that `live` is the map that the last scan against `base` found.

    A later scan against `live` then starts from what is known. To be called after the
    changes of a scan that wrote were made a map, all of them.
    """
    header, _ = load_index(cache)
    if header is not None and header.base == base:
        key, body = encode_header(Header(base, live))
        cache.save_scan_dirs({key: body})


def list_ignored(cache: ScanCache) -> list[tuple[bytes, Verdict]]:
    """Return what the last scan left out by rule or as a secret, sorted."""
    found = []
    for directory, body in load_index(cache)[1].items():
        record = decode_record(body)
        for name, value in zip(record.names, record.values, strict=True):
            if value == Verdict.IGNORED or value == Verdict.SECRET:
                found.append((join(directory, name), Verdict(int(value))))
    return sorted(found)


class Written(NamedTuple):
    """One path that a checkout wrote, and what lstat said of it then; None if it is gone."""

    path: bytes
    value: bytes | None
    signature: Signature


def record(
    cache: ScanCache, written: Iterable[Written], now_ns: int, fresh_root: ObjectId | None = None
) -> None:
    """Enter what a checkout wrote, so that the next scan need not read it.

    Args:
        now_ns: Not later than the moment from which others could change the files.
        fresh_root: The map that was written, if the folder holds nothing else.
    """
    header, records = load_index(cache) if fresh_root is None else (None, {})
    if header is None and fresh_root is None:
        return
    by_directory: dict[bytes, dict[bytes, Written]] = {}
    for item in written:
        directory, name = place_of(item.path, item.value == DIRECTORY_ENTRY)
        by_directory.setdefault(directory, {})[name] = item
    for directory in list(by_directory) if fresh_root else ():
        while directory:
            directory, _, _name = directory.rpartition(b"/")
            by_directory.setdefault(directory, {})
    saved: dict[bytes, bytes | None] = {}
    for directory, items in by_directory.items():
        body = records.get(directory)
        old = decode_record(body) if body is not None else EMPTY_RECORD
        saved[directory] = encode_record(_patched(old, items, now_ns, fresh_root is not None))
    if fresh_root is not None:
        saved = dict.fromkeys(cache.load_scan_dirs(), None) | saved
        header = Header(fresh_root, fresh_root)
    elif header is not None:
        header = Header(header.base, None)
    assert header is not None
    key, body = encode_header(header)
    saved[key] = body
    cache.save_scan_dirs(saved)


def _patched(
    old: DirRecord, items: Mapping[bytes, Written], now_ns: int, is_fresh: bool
) -> DirRecord:
    """Return a record with what was written; in a fresh folder that is the base as well."""
    base = base_of(old)
    live: dict[bytes, tuple[Signature, bytes | int]] = {
        name: (signature, value)
        for name, signature, value in zip(old.names, old.signatures, old.values, strict=True)
    }
    for name, item in items.items():
        live.pop(name, None)
        if item.value is not None:
            signature = item.signature
            if is_racy(signature, now_ns):
                signature = distrusted(signature)
            live[name] = (signature if name else DIRECTORY_SIGNATURE, item.value)
    names = tuple(sorted(live))
    values = tuple([live[name][1] for name in names])
    return make_record(
        b"" if old is EMPTY_RECORD else old.fingerprint,
        names,
        tuple([live[name][0] for name in names]),
        values,
        () if is_fresh else diffs_between(base, names, values),
    )


def base_of(record: DirRecord) -> dict[bytes, bytes]:
    """Return the base entries that lie in this directory."""
    base = live_of(record)
    for name, value in record.diffs:
        if value is None:
            base.pop(name, None)
        else:
            base[name] = value
    return base


def live_of(record: DirRecord) -> dict[bytes, bytes]:
    """Return the live entries that lie in this directory."""
    return {
        name: value
        for name, value in zip(record.names, record.values, strict=True)
        if type(value) is bytes
    }


def diffs_between(
    base: Mapping[bytes, bytes], names: Iterable[bytes], values: Iterable[Any]
) -> tuple[tuple[bytes, bytes | None], ...]:
    """Return what `DirRecord.diffs` holds for these live values over that base."""
    rest = dict(base)
    diffs: list[tuple[bytes, bytes | None]] = []
    for name, value in zip(names, values, strict=True):
        before = rest.pop(name, None)
        if type(value) is not bytes:
            value = None
        if value != before:
            diffs.append((name, before))
    return tuple(sorted([*diffs, *rest.items()]))


def place_of(path: bytes, is_directory_entry: bool) -> tuple[bytes, bytes]:
    """Return the record and the name under which an entry is kept."""
    if is_directory_entry:
        return path, b""
    directory, _, name = path.rpartition(b"/")
    return directory, name


def join(directory: bytes, name: bytes) -> bytes:
    """Return the path of a name in a record."""
    return directory + b"/" + name if directory and name else directory or name


def signature_of(stat: os.stat_result) -> Signature:
    """Return what is compared to tell whether a file may have changed."""
    return (stat.st_mode, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


def distrusted(signature: Signature) -> Signature:
    """Return a signature that no file has, of the same type: read the file again."""
    return (signature[0], -1, 0, 0, 0)


def is_racy(signature: Signature, read_ns: int) -> bool:
    """Return whether a file read at `read_ns` could change without its signature changing."""
    mtime_ns, ctime_ns = signature[2], signature[3]
    is_fine = mtime_ns % 1_000_000_000 or ctime_ns % 1_000_000_000
    return max(mtime_ns, ctime_ns) >= read_ns - (RACY_NS if is_fine else RACY_COARSE_NS)
