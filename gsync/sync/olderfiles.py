"""Files as documents of the older system: manifests with SHA-256, and what a pull would change.

Nothing here is trusted by the core, whose identity of a file is another (04-manifest).
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Any

from blake3 import blake3

from gsync.errors import Invalid
from gsync.frozen import frozen
from gsync.maps.omap import list_entries
from gsync.paths import show_path
from gsync.replicas.files.ignore import is_secret
from gsync.store.memory import MemoryStore
from gsync.sync.controlplane import SyncApiClient
from gsync.sync.peers import CARRIED
from gsync.tarball import read_tarball
from gsync.views.files import decode_entry_trusted


@frozen
class FileEntry:
    """One file of a `FileManifest`: its path, the SHA-256 of its bytes, and how many they are."""

    path: str
    checksum: str
    size: int


@frozen
class FileManifest:
    """What files there are.

    Attributes:
        files: Sorted by path.
        timestamp: When, RFC 3339 in UTC.
        checksum: SHA-256 of the files' checksums, one after the other; it says nothing of paths.
    """

    files: tuple[FileEntry, ...]
    timestamp: str
    checksum: str

    @classmethod
    def of(cls, files: Iterable[FileEntry], when: datetime | None = None) -> FileManifest:
        """Return the manifest of `files`, made now."""
        ordered = tuple(sorted(files, key=lambda entry: entry.path.encode()))
        joined = "".join(entry.checksum for entry in ordered)
        time = (when or datetime.now(UTC)).astimezone(UTC).isoformat()
        return cls(ordered, time, sha256(joined.encode()).hexdigest())

    def to_json(self) -> dict[str, Any]:
        """Return its JSON form."""
        return {
            "files": [{"path": f.path, "checksum": f.checksum, "size": f.size} for f in self.files],
            "timestamp": self.timestamp,
            "checksum": self.checksum,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> FileManifest:
        """Return the manifest of a JSON form, whose other keys are passed over.

        Raises:
            Invalid: it is none.
        """
        try:
            files = tuple(
                FileEntry(str(f["path"]), str(f["checksum"]), int(f["size"]))
                for f in document["files"]
            )
            return cls(files, str(document["timestamp"]), str(document["checksum"]))
        except (KeyError, TypeError, ValueError) as error:
            raise Invalid(f"not a manifest of the older system: {error}") from error


@frozen
class FileBundle:
    """A manifest on its way; the files travel apart from it."""

    manifest: FileManifest

    def to_json(self) -> dict[str, Any]:
        """Return its JSON form, which has no data in it."""
        return {"manifest": self.manifest.to_json()}


class FileDiffStatus(StrEnum):
    """What a pull would do to a file; `Deleted` is one that only this side has."""

    ADDED = "Added"
    MODIFIED = "Modified"
    DELETED = "Deleted"
    UNCHANGED = "Unchanged"


@frozen
class SyncDiffEntry:
    """One file of a `SyncDiffResult`; the size is the other side's, 0 if it is not there."""

    path: str
    status: FileDiffStatus
    size: int


@frozen
class SyncDiffResult:
    """How the files of the other side differ from those here, by path."""

    entries: tuple[SyncDiffEntry, ...]
    added: int
    modified: int
    deleted: int
    unchanged: int

    @property
    def has_changes(self) -> bool:
        """Whether any file differs."""
        return bool(self.added or self.modified or self.deleted)

    @property
    def changed_paths(self) -> list[str]:
        """The paths of files that differ, those that only this side has among them."""
        return [one.path for one in self.entries if one.status is not FileDiffStatus.UNCHANGED]


@frozen
class PullDownload:
    """A tarball of the other side, and what it would change here."""

    data: bytes
    diff: SyncDiffResult


def list_manifest(folder: Path, include: Sequence[str] = CARRIED) -> FileManifest:
    """Return the older manifest of what a folder has below `include`, secrets left out."""
    return FileManifest.of(
        FileEntry(path, sha256(data).hexdigest(), len(data))
        for path, data in _walk(folder, include)
    )


def diff_tarball(data: bytes, folder: Path, include: Sequence[str] = CARRIED) -> SyncDiffResult:
    """Return how the files of a tarball differ from those of a folder; nothing is written.

    Raises:
        Invalid: the tarball holds what is never written.
    """
    store = MemoryStore()
    root = read_tarball(io.BytesIO(data), store).root
    theirs = {}
    for key, value in list_entries(store, root):
        entry = decode_entry_trusted(value)
        path = show_path(key)
        if entry.is_file and path.partition("/")[0] in include and not is_secret(key):
            theirs[path] = bytes(entry.content_id or b""), entry.size
    ours = {path: blake3(found).digest() for path, found in _walk(folder, include)}
    entries = []
    counts = dict.fromkeys(FileDiffStatus, 0)
    for path in sorted(theirs.keys() | ours.keys()):
        if path not in theirs:
            status, size = FileDiffStatus.DELETED, 0
        else:
            content, size = theirs[path]
            status = FileDiffStatus.ADDED
            if path in ours:
                same = content == ours[path]
                status = FileDiffStatus.UNCHANGED if same else FileDiffStatus.MODIFIED
        counts[status] += 1
        entries.append(SyncDiffEntry(path, status, size))
    return SyncDiffResult(tuple(entries), *(counts[status] for status in FileDiffStatus))


def download_and_diff(client: SyncApiClient, tenant_id: str, folder: Path) -> PullDownload:
    """Return the tenant's tarball and how it differs from a folder."""
    data = client.download_files(tenant_id, CARRIED)
    return PullDownload(data, diff_tarball(data, folder))


def _walk(folder: Path, include: Sequence[str]) -> Iterable[tuple[str, bytes]]:
    for name in include:
        for where, directories, files in os.walk(folder / name):
            directories.sort()
            for file in sorted(files):
                path = Path(where, file)
                shown = path.relative_to(folder).as_posix()
                if not path.is_symlink() and path.is_file() and not is_secret(os.fsencode(shown)):
                    yield shown, path.read_bytes()
