"""Differences of files as text: unified, or counted."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gsync.objects.oid import ObjectId
from gsync.paths import show_path
from gsync.replicas.files.checkout import read_live
from gsync.sync.compare import FileChange, describe, diff_manifests, files_root, select
from gsync.sync.contents import read_entry
from gsync.sync.repository import Repository, scan_against
from gsync.views.files import FileEntry

# Lines are compared up to this size, in bytes; beyond it only that a file differs is said:
# the comparison takes a time that grows with the square of the number of lines.
TEXT_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Sides:
    """Two states to compare.

    Attributes:
        repo: Where contents are read.
        old: The manifest on the left, or None for nothing.
        new: The manifest on the right, or None for the folder.
        changes: What differs.
    """

    repo: Repository
    old: ObjectId | None
    new: ObjectId | None
    changes: list[FileChange]

    @classmethod
    def of(cls, repo: Repository, revs: Sequence[ObjectId], paths: Sequence[bytes]) -> Sides:
        """Return HEAD against the folder, one manifest against it, or one against the other."""
        if len(revs) == 2:
            old, new = revs
            changes = diff_manifests(repo.store, repo.manifest(old), repo.manifest(new), paths)
            return cls(repo, old, new, changes)
        base = revs[0] if revs else repo.head()
        found = scan_against(repo, files_root(repo.manifest(base)))
        return cls(repo, base, None, select(describe(found), paths))

    def content(self, change: FileChange, side: str) -> bytes | None:
        """Return one side's content, or None when it is too large to compare as text."""
        entry = change.old if side == "old" else change.new
        if entry is None:
            return b""
        if entry.size > TEXT_BYTES_MAX:
            return None
        if side == "old" or self.new is not None:
            return b"".join(read_entry(self.repo.store, entry))
        return read_live(self.repo.root, change.path, TEXT_BYTES_MAX)


def unified_lines(sides: Sides, context: int = 3) -> Iterator[str]:
    """Yield the differences as unified text, with headers as git writes them."""
    for change in sides.changes:
        old_path = change.old_path or change.path
        old_name, new_name = show_path(b"a/" + old_path), show_path(b"b/" + change.path)
        yield f"diff --gsync {old_name} {new_name}"
        yield from _header(change)
        if change.old == change.new and change.old_path:
            continue
        old, new = sides.content(change, "old"), sides.content(change, "new")
        if old == new:
            continue
        if old is None or new is None or _is_binary(old) or _is_binary(new):
            yield f"Binary or large files {old_name} and {new_name} differ"
            continue
        yield f"--- {old_name if change.old else '/dev/null'}"
        yield f"+++ {new_name if change.new else '/dev/null'}"
        yield from _hunks(old, new, context)


def _header(change: FileChange) -> Iterator[str]:
    if change.old_path is not None:
        yield f"rename from {show_path(change.old_path)}"
        yield f"rename to {show_path(change.path)}"
    if change.old is None and change.new is not None:
        yield f"new {_word(change.new)}"
    elif change.new is None and change.old is not None:
        yield f"deleted {_word(change.old)}"
    elif change.old and change.new and change.old.type != change.new.type:
        yield f"old type {_word(change.old)}"
        yield f"new type {_word(change.new)}"


def _word(entry: FileEntry) -> str:
    return {0: "file", 1: "executable file", 2: "symlink", 3: "empty directory"}[entry.type]


def _hunks(old: bytes, new: bytes, context: int) -> Iterator[str]:
    lines = difflib.unified_diff(_lines(old), _lines(new), n=context, lineterm="")
    for number, line in enumerate(lines):
        if number < 2:
            continue  # the file names, which stand above already
        text, newline, _ = line.partition("\n")
        yield text
        if not newline and line[:1] in "+- ":
            yield "\\ No newline at end of file"


def _lines(content: bytes) -> list[str]:
    text = content.decode("utf-8", "replace")
    lines = text.split("\n")
    return [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


def _is_binary(content: bytes) -> bool:
    return b"\0" in content[:8000]


def stat_lines(sides: Sides) -> Iterator[str]:
    """Yield a line a file with the number of lines added and removed, and the sum."""
    total_added = total_removed = 0
    for change in sides.changes:
        name = show_path(change.path)
        if change.old_path is not None:
            name = f"{show_path(change.old_path)} => {name}"
        old, new = sides.content(change, "old"), sides.content(change, "new")
        if old is None or new is None or _is_binary(old) or _is_binary(new):
            before = change.old.size if change.old else 0
            after = change.new.size if change.new else 0
            yield f" {name} | binary {before} -> {after} bytes"
            continue
        hunks = [line for line in _hunks(old, new, 0) if not line.startswith(("@@", "\\"))]
        added = sum(line.startswith("+") for line in hunks)
        removed = len(hunks) - added
        total_added += added
        total_removed += removed
        yield f" {name} | +{added} -{removed}"
    yield (
        f" {len(sides.changes)} file(s) changed,"
        f" {total_added} line(s) added, {total_removed} removed"
    )
