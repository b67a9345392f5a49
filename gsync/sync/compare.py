"""Changes between two states, as people speak of them: with renames and types."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gsync.changes import Change
from gsync.frozen import frozen
from gsync.maps.diff import diff_maps
from gsync.objects.model import FILES, Manifest
from gsync.objects.oid import ObjectId
from gsync.store.base import ObjectReader
from gsync.views.files import EntryType, FileEntry, decode_entry_trusted


@frozen
class FileChange:
    """One path that differs.

    Attributes:
        status: `added`, `modified`, `deleted`, `renamed` or `type_changed`.
        path: Where it is now, or was when it is gone.
        old_path: Where it was before, for a rename.
        old: The entry before, or None.
        new: The entry after, or None.
        collection: The collection it belongs to.
    """

    status: str
    path: bytes
    old_path: bytes | None
    old: FileEntry | None
    new: FileEntry | None
    collection: str = FILES


def describe(changes: Iterable[Change]) -> list[FileChange]:
    """Return `changes` of a file tree with renames found by equal content, sorted by path.

    A deleted and an added path of the same type and content are one rename; where several
    fit, the ones with the same file name are paired first, then in path order.
    """
    found: list[FileChange] = []
    added: list[tuple[bytes, FileEntry]] = []
    deleted: dict[object, list[tuple[bytes, FileEntry]]] = {}
    for change in changes:
        old = decode_entry_trusted(change.old) if change.old is not None else None
        new = decode_entry_trusted(change.new) if change.new is not None else None
        if old is not None and new is not None:
            status = "modified" if _group(old) == _group(new) else "type_changed"
            found.append(FileChange(status, change.key, None, old, new))
        elif new is not None:
            added.append((change.key, new))
        elif old is not None:
            deleted.setdefault(_identity(old), []).append((change.key, old))
    for path, new in added:
        source = None
        if deleted and new.size:
            source = _take_source(deleted.get(_identity(new)), path)
        if source is None:
            found.append(FileChange("added", path, None, None, new))
        else:
            found.append(FileChange("renamed", path, source[0], source[1], new))
    for rest in deleted.values():
        found += [FileChange("deleted", path, None, old, None) for path, old in rest]
    return sorted(found, key=lambda change: change.path)


def _group(entry: FileEntry) -> str:
    return "file" if entry.is_file else entry.type.name


def _identity(entry: FileEntry) -> object:
    if entry.type is EntryType.DIRECTORY:
        return None
    return _group(entry), entry.content_id


def _take_source(
    sources: list[tuple[bytes, FileEntry]] | None, path: bytes
) -> tuple[bytes, FileEntry] | None:
    if not sources:
        return None
    name = path.rpartition(b"/")[2]
    same_name = [i for i, (old, _) in enumerate(sources) if old.rpartition(b"/")[2] == name]
    return sources.pop(same_name[0] if same_name else 0)


def diff_manifests(
    store: ObjectReader,
    old: Manifest | None,
    new: Manifest | None,
    paths: Sequence[bytes] = (),
) -> list[FileChange]:
    """Return how the files of two manifests differ, below `paths` if given; None is empty."""
    old_root, new_root = files_root(old), files_root(new)
    if old_root == new_root:
        return []
    changes = diff_maps(store, old_root, new_root)
    return select(describe(changes), paths)


def select(changes: Iterable[FileChange], paths: Sequence[bytes]) -> list[FileChange]:
    """Return those changes that touch one of `paths` or something below it; all if none given."""
    if not paths:
        return list(changes)
    return [
        change
        for change in changes
        if is_below(change.path, paths) or (change.old_path and is_below(change.old_path, paths))
    ]


def is_below(path: bytes, paths: Sequence[bytes]) -> bool:
    """Return whether `path` is one of `paths`, or lies below one; the empty path is the root."""
    return any(not top or path == top or path.startswith(top + b"/") for top in paths)


def files_root(manifest: Manifest | None) -> ObjectId | None:
    """Return the root of the manifest's file tree, or None without one."""
    collection = manifest.find(FILES) if manifest else None
    return collection.root if collection else None
