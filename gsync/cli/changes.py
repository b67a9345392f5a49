"""How changes and manifests look, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from gsync.cli.app import App
from gsync.cli.output import key_json, style
from gsync.objects.model import Manifest
from gsync.objects.oid import ObjectId
from gsync.paths import show_path
from gsync.sync.compare import FileChange
from gsync.views.files import FileEntry

_LETTERS = {
    "added": ("A", "green"),
    "modified": ("M", "yellow"),
    "deleted": ("D", "red"),
    "renamed": ("R", "cyan"),
    "type_changed": ("T", "magenta"),
}


def status_lines(app: App, changes: Iterable[FileChange]) -> Iterator[str]:
    """Yield a line a change: a letter and the path, for a rename both."""
    for change in changes:
        path = show_path(change.path)
        if change.old_path is not None:
            path = f"{show_path(change.old_path)} -> {path}"
        yield f"{letter(app, change.status)} {path}"


def letter(app: App, status: str) -> str:
    """Return the letter of a change, in its colour."""
    found, colour = _LETTERS[status]
    return style(app, found, colour)


def change_json(change: FileChange) -> dict[str, Any]:
    """Return one change as JSON documents have it."""
    document: dict[str, Any] = {
        "collection": change.collection,
        "key": key_json(change.path),
        "status": change.status,
        "old": entry_json(change.old),
        "new": entry_json(change.new),
    }
    if change.old_path is not None:
        document["old_key"] = key_json(change.old_path)
    return document


def entry_json(entry: FileEntry | None) -> dict[str, Any] | None:
    """Return one side of a change."""
    if entry is None:
        return None
    oid = entry.content_id
    return {
        "type": entry.type.name.lower(),
        "size": entry.size,
        "id": oid.hex() if oid else None,
    }


def manifest_json(oid: ObjectId, manifest: Manifest) -> dict[str, Any]:
    """Return one manifest as JSON documents have it."""
    from gsync.cli.output import when

    return {
        "manifest": oid.hex(),
        "parents": [parent.hex() for parent in manifest.parents],
        "author": manifest.author,
        "time": when(manifest.time_us),
        "message": manifest.message,
        "collections": {
            c.name: {"root": c.root.hex(), "entries": c.count} for c in manifest.collections
        },
    }
