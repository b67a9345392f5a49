"""The file endpoints of the older system, over the same stores (15-older-peers).

An upload becomes a manifest, so what an older client pushes has history and can be undone. It is
taken whole or not at all: nothing live is touched before all of it was read and checked.
"""

from __future__ import annotations

import errno
import hashlib
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from itertools import islice
from tempfile import TemporaryFile
from typing import Any, BinaryIO

from gsync.changes import Change
from gsync.errors import (
    Conflict,
    Corrupt,
    Denied,
    GsyncError,
    Invalid,
    NotFound,
    TooLarge,
    Unavailable,
)
from gsync.frozen import frozen
from gsync.maps.diff import diff_maps
from gsync.maps.omap import EMPTY_MAP, count_entries, edit_map, find_value, list_entries
from gsync.objects.chunk_list import list_chunks
from gsync.objects.model import EMPTY_MAP_BODY, FILES, Collection, encode_manifest
from gsync.objects.oid import Kind, ObjectId
from gsync.paths import IllegalPath, parents_of, show_path
from gsync.replicas.files.ignore import is_secret
from gsync.server.attached import AttachedMover
from gsync.server.auth import Unauthorized
from gsync.server.streams import ClientStalled
from gsync.store.base import ObjectReader, RefMove
from gsync.store.sqlite import SqliteStore
from gsync.sync.compare import files_root
from gsync.sync.repository import next_manifest
from gsync.tarball import (
    TarballDamaged,
    TarballRead,
    TarballRefused,
    TarLimits,
    read_tarball,
    write_tarball,
)
from gsync.transfer.history import get_manifest
from gsync.views.files import (
    DIRECTORY_ENTRY,
    EntryType,
    FileEntry,
    check_tree_changes,
    decode_entry_trusted,
)

SHARED = (b"agents", b"skills", b"content", b"config")
"""What a GET that names nothing gives: what both older lists have, without `profiles`."""

TAKEN = (
    *(b"access-control", b"agents", b"ai", b"config", b"content", b"hooks", b"mcp", b"plugins"),
    *(b"profiles", b"skills", b"web"),
)
"""What an upload may hold, and a GET may name: all that either list had."""

UPLOAD_BYTES_MAX = 100 << 20
LIMITS = TarLimits(
    entries_max=100_000,
    names_bytes_max=16 << 20,
    file_bytes_max=1 << 30,
    total_bytes_max=1 << 30,
    ratio_max=200,
)
CAPABILITIES = {
    "protocols": ["gsync/1", "older/1"],
    "include": [name.decode() for name in TAKEN],
    "shared": [name.decode() for name in SHARED],
    "limits": {
        "upload_bytes": UPLOAD_BYTES_MAX,
        "entries": LIMITS.entries_max,
        "file_bytes": LIMITS.file_bytes_max,
        "total_bytes": LIMITS.total_bytes_max,
    },
    "auth": {
        "scopes": {"GET": "read", "POST": "write"},
        "token_endpoint": "/api/v1/core/oauth/token",
    },
}

_BATCH = 64
_TRIES = 5
_MANIFESTS_KEPT = 8
_FILE_TYPES = (EntryType.FILE, EntryType.EXECUTABLE)

Hold = Callable[[], AbstractContextManager[AttachedMover]] | None


class UnsafeArchive(Invalid):
    """An archive that holds what is never written."""


class DiskFull(Unavailable):
    """There is no room for what was sent."""


STATUS: Sequence[tuple[type[GsyncError], int, str]] = (  # the first that fits
    (Unauthorized, 401, "unauthorized"),
    (ClientStalled, 408, "stalled"),
    (TarballDamaged, 400, "damaged_archive"),
    (UnsafeArchive, 422, "unsafe_archive"),
    (TarballRefused, 422, "unsafe_archive"),
    (IllegalPath, 422, "unsafe_archive"),
    (DiskFull, 507, "disk_full"),
    (Invalid, 400, "invalid"),
    (Denied, 403, "denied"),
    (NotFound, 404, "not_found"),
    (Conflict, 409, "conflict"),
    (TooLarge, 413, "too_large"),
    (Corrupt, 500, "corrupt"),
    (Unavailable, 503, "unavailable"),
)


@frozen
class Uploaded:
    """What came of an upload.

    Attributes:
        document: The answer.
        head: The manifest that main is at.
    """

    document: dict[str, Any]
    head: ObjectId | None


def envelope(error: GsyncError) -> tuple[int, dict[str, Any]]:
    """Return the status and the document that say what failed."""
    status, code = next((s, c) for kind, s, c in STATUS if isinstance(error, kind))
    return status, {
        "code": code,
        "message": error.message,
        "timestamp": _now(),
        **({"hint": error.hint} if error.hint else {}),
    }


def parse_filter(text: str | None) -> tuple[bytes, ...]:
    """Return the directories that a `filter` names; those that are not known are dropped."""
    if text is None:
        return SHARED
    names = {name.strip().encode("utf-8", "surrogateescape") for name in text.split(",")}
    return tuple(name for name in TAKEN if name in names)


# --- Out ------------------------------------------------------------------------------


class Listings:
    """Manifests in the older form, some of them kept: each costs a reading of all contents."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[ObjectId, tuple[bytes, ...]], list[dict[str, Any]]] = (
            OrderedDict()
        )

    def manifest(
        self, store: SqliteStore, head: ObjectId | None, directories: tuple[bytes, ...]
    ) -> dict[str, Any]:
        """Return `{files, timestamp, checksum, total_size}` of what main holds there."""
        root = _root(store, head)
        files = self._kept.get((root, directories))
        if files is None:
            files = list(_list_files(store, root, directories))
            self._kept[root, directories] = files
            while len(self._kept) > _MANIFESTS_KEPT:
                self._kept.popitem(last=False)
        return _manifest(files)


def write_archive(
    store: SqliteStore, head: ObjectId | None, directories: tuple[bytes, ...], out: BinaryIO
) -> None:
    """Write the files of some directories as a tarball: regular files alone, no secrets."""
    root = _root(store, head)
    there = [name for name in directories if next(_below(store, root, name), None) is not None]
    if there:
        write_tarball(store, root, out, paths=there, keep=_travels)
    else:
        write_tarball(store, root, out, keep=lambda path, entry: False)


def _travels(path: bytes, entry: FileEntry) -> bool:
    return entry.type in _FILE_TYPES and not is_secret(path)


def _root(store: SqliteStore, head: ObjectId | None) -> ObjectId:
    if head is None or (root := files_root(get_manifest(store, head))) is None:
        store.put(Kind.NODE, EMPTY_MAP_BODY)
        return EMPTY_MAP
    return root


def _below(store: ObjectReader, root: ObjectId, name: bytes) -> Iterator[tuple[bytes, bytes]]:
    return iter(list_entries(store, root, prefix=name + b"/"))


def _list_files(
    store: ObjectReader, root: ObjectId, directories: Iterable[bytes]
) -> Iterator[dict[str, Any]]:
    for name in sorted(directories):
        entries = (
            (path, entry)
            for path, value in _below(store, root, name)
            if _travels(path, entry := decode_entry_trusted(value))
        )
        yield from _describe(store, entries)


def _describe(
    store: ObjectReader, entries: Iterator[tuple[bytes, FileEntry]]
) -> Iterator[dict[str, Any]]:
    while batch := list(islice(entries, _BATCH)):
        refs = [entry.ref for _, entry in batch if entry.ref is not None]
        blobs = [(ref.kind, ref.oid) for ref in refs if ref.kind is Kind.BLOB]
        bodies = dict(store.get_many(blobs))
        for path, entry in batch:
            assert entry.ref is not None  # a file has one
            hasher = hashlib.sha256()
            if entry.ref.kind is Kind.BLOB:
                hasher.update(bodies[entry.ref.oid])
            else:
                for chunk in list_chunks(lambda oid: store.get(Kind.CHUNK_LIST, oid), entry.ref):
                    hasher.update(store.get(Kind.BLOB, chunk.oid))
            yield {
                "path": path.decode("utf-8", "replace"),
                "checksum": hasher.hexdigest(),
                "size": entry.size,
            }


def _manifest(files: Sequence[dict[str, Any]]) -> dict[str, Any]:
    joined = "".join(file["checksum"] for file in files)
    return {
        "files": files,
        "timestamp": _now(),
        "checksum": hashlib.sha256(joined.encode()).hexdigest(),
        "total_size": sum(file["size"] for file in files),
    }


# --- In -------------------------------------------------------------------------------


def take_upload(
    pieces: Iterable[bytes],
    store: SqliteStore,
    actor: str,
    now_us: Callable[[], int],
    hold: Hold,
    *,
    only_on: str | None = None,
    dry_run: bool = False,
) -> Uploaded:
    """Read an archive, and make what main is afterwards: its files added, nothing deleted.

    The archive lies in a nameless file beside the store until it was read; memory is bounded.

    Args:
        hold: Holds the attached folder of the tenant, if it has one.
        only_on: The manifest that main has to be at, in hex, if that matters to the client.

    Raises:
        TarballDamaged, TarballRefused, UnsafeArchive, TarballTooLarge: nothing was changed.
        Conflict: main is somewhere else; or something live is in the way.
        DiskFull: there is no room.
    """
    try:
        with TemporaryFile(dir=store.path.parent) as spool:
            for piece in pieces:
                spool.write(piece)
            spool.seek(0)
            read = read_tarball(spool, store, limits=LIMITS, accept=_accept)
        _check_types(store, read)
        with hold() if hold else nullcontext() as mover:
            if mover is not None:
                mover.settle()
            return _move(store, mover, read, actor, now_us, only_on, dry_run=dry_run)
    except (OSError, GsyncError) as error:
        if _is_full(error):
            raise DiskFull("there is no room for the upload; nothing was changed") from error
        raise


def _accept(path: bytes) -> str | None:
    top = path.partition(b"/")[0]
    if top not in TAKEN or (top == path):
        raise UnsafeArchive(
            f"tarball entry {show_path(path)}: not below one of"
            f" {', '.join(name.decode() for name in TAKEN)}"
        )
    return "looks like a secret, and is held back" if is_secret(path) else None


def _check_types(store: SqliteStore, read: TarballRead) -> None:
    for path, value in list_entries(store, read.root):
        if decode_entry_trusted(value).type is EntryType.SYMLINK:
            raise UnsafeArchive(f"tarball entry {show_path(path)}: a link, where files are taken")


def _move(
    store: SqliteStore,
    mover: AttachedMover | None,
    read: TarballRead,
    actor: str,
    now_us: Callable[[], int],
    only_on: str | None,
    *,
    dry_run: bool,
) -> Uploaded:
    for number in range(_TRIES):
        head = store.find_ref("main")
        if only_on is not None and only_on != (head.hex() if head else ""):
            raise Conflict(
                f"main is at {head.hex() if head else 'nothing'}, where {only_on[:64]} is expected",
                hint="get what has changed, and send again",
            )
        root = _root(store, head)
        changes = list(_changes(store, root, read))
        new = edit_map(store, root, [(change.key, change.new) for change in changes])
        for _ in check_tree_changes(store, root, new, changes):
            pass
        document = _document(store, root, read, changes, dry_run=dry_run)
        if dry_run or not changes:
            return Uploaded(document, head)
        manifest = next_manifest(
            get_manifest(store, head) if head else None,
            head,
            [Collection(FILES, new, count_entries(store, new))],
            actor,
            "upload of an older client",
            now_us(),
        )
        oid = store.put(Kind.MANIFEST, encode_manifest(manifest))
        store.flush()
        moves = [RefMove("main", head, oid)]
        try:
            (mover or store).move_refs(moves, time_us=now_us(), actor=actor, why="upload")
        except Conflict:
            # Nothing live is in the way of a bare store: somebody else was first. Files are
            # added to what there is, so they can be to what there is now.
            if mover is not None or only_on is not None or number == _TRIES - 1:
                raise
            continue
        return Uploaded({**document, "manifest_id": oid.hex()}, oid)
    raise AssertionError("the last try returns or raises")


def _changes(store: SqliteStore, root: ObjectId, read: TarballRead) -> Iterator[Change]:
    """Yield what an upload adds or alters, and the empty directories that it fills, in order."""
    found: dict[bytes, Change] = {}
    for change in diff_maps(store, root, read.root):
        if change.new is None:
            continue
        if change.new == DIRECTORY_ENTRY and next(_below(store, root, change.key), None):
            continue  # it is there, with something in it
        found[change.key] = change
        for parent in parents_of(change.key):
            if parent not in found and find_value(store, root, parent) == DIRECTORY_ENTRY:
                found[parent] = Change(parent, DIRECTORY_ENTRY, None)
    yield from sorted(found.values())


def _document(
    store: SqliteStore,
    root: ObjectId,
    read: TarballRead,
    changes: Sequence[Change],
    *,
    dry_run: bool,
) -> dict[str, Any]:
    entries = [
        (path, entry)
        for path, value in list_entries(store, read.root)
        if (entry := decode_entry_trusted(value)).type in _FILE_TYPES
    ]
    altered = {change.key for change in changes}
    written = sum(path in altered for path, _ in entries)
    document: dict[str, Any] = {
        "files_uploaded": written,
        "uploaded_at": _now(),
        "unchanged": len(entries) - written,
        "held_back": [
            {"path": held.path.decode("utf-8", "replace"), "reason": held.reason}
            for held in read.held_back
        ],
    }
    if dry_run:
        document |= {"dry_run": True, "manifest": _manifest(list(_describe(store, iter(entries))))}
    return document


def _is_full(error: BaseException | None) -> bool:

    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if isinstance(error, sqlite3.Error) and error.sqlite_errorname == "SQLITE_FULL":
            return True
        error = error.__cause__
    return False


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
