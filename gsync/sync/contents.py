"""What a manifest holds: listing, and reading one file's bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gsync.errors import Invalid, NotFound
from gsync.maps.omap import find_value, list_entries
from gsync.objects.chunk_list import list_chunks
from gsync.objects.oid import Kind, ObjectId
from gsync.paths import show_path
from gsync.store.base import ObjectReader
from gsync.sync.compare import files_root
from gsync.sync.repository import Repository
from gsync.views.files import EntryType, FileEntry, decode_entry_trusted


def list_contents(
    repo: Repository, oid: ObjectId, paths: Sequence[bytes] = ()
) -> Iterator[tuple[bytes, FileEntry]]:
    """Yield paths and entries of a manifest's files, at or below `paths` if given, in order.

    Raises:
        NotFound: nothing in the manifest is at or below one of `paths`.
    """
    root = files_root(repo.manifest(oid))
    if root is None:
        return
    for path, value in select_entries(repo.store, root, paths):
        yield path, decode_entry_trusted(value)


def select_entries(
    store: ObjectReader, root: ObjectId, paths: Sequence[bytes]
) -> Iterator[tuple[bytes, bytes]]:
    """Yield the entries of a file tree at or below `paths`, or all, each once.

    Raises:
        NotFound: nothing is at or below one of `paths`.
    """
    if not paths or b"" in paths:
        yield from list_entries(store, root)
        return
    tops = sorted(set(paths))
    outer = [p for p in tops if not any(p.startswith(top + b"/") for top in tops)]
    for path in outer:
        value = find_value(store, root, path)
        if value is not None:
            yield path, value
            continue
        empty = True
        for entry in list_entries(store, root, prefix=path + b"/"):
            empty = False
            yield entry
        if empty:
            raise NotFound(
                f"no path {show_path(path)} in that manifest", hint="'gsync ls REV' lists them"
            )


def read_content(repo: Repository, oid: ObjectId, path: bytes) -> Iterator[bytes]:
    """Yield the bytes of one file of a manifest, hashed on the way; a symlink's are its target.

    Raises:
        NotFound: the manifest has no such path.
        Invalid: it is a directory.
    """
    root = files_root(repo.manifest(oid))
    value = find_value(repo.store, root, path) if root else None
    if value is None:
        if root and next(list_entries(repo.store, root, prefix=path + b"/"), None):
            raise Invalid(f"{show_path(path)} is a directory", hint="'gsync ls REV PATH' lists it")
        raise NotFound(
            f"no path {show_path(path)} in that manifest", hint="'gsync ls REV' lists them"
        )
    entry = decode_entry_trusted(value)
    if entry.type is EntryType.DIRECTORY:
        raise Invalid(f"{show_path(path)} is an empty directory")
    return read_entry(repo.store, entry)


def read_entry(store: ObjectReader, entry: FileEntry) -> Iterator[bytes]:
    """Yield the content of a file or the target of a symlink in pieces of at most 1 MiB."""
    ref = entry.ref
    if ref is None:
        return
    if ref.kind is Kind.BLOB:
        yield store.get(Kind.BLOB, ref.oid)
        return
    for chunk in list_chunks(lambda oid: store.get(Kind.CHUNK_LIST, oid), ref):
        yield store.get(Kind.BLOB, chunk.oid)
