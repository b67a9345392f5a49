"""Documents of files under their older names, and what a tarball would change."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from support import require
from support_older import API_TOKEN, TENANT, running_older

from gsync.compat import (
    FileBundle,
    FileDiffStatus,
    FileEntry,
    FileManifest,
    PullDownload,
    SyncApiClient,
    SyncDiffEntry,
    SyncDiffResult,
)
from gsync.errors import Invalid
from gsync.sync.olderfiles import diff_tarball, download_and_diff, list_manifest


def test_manifest_document(tmp_path: Path) -> None:
    """Keys, checksum and sizes are the older system's; other keys are passed over."""
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents/b.md").write_bytes(b"two")
    (tmp_path / "agents/a.md").write_bytes(b"one")
    (tmp_path / "agents/.env").write_bytes(b"SECRET=1")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/x").write_bytes(b"x")
    found = list_manifest(tmp_path)
    assert [entry.path for entry in found.files] == ["agents/a.md", "agents/b.md"]
    assert found.files[0].checksum == (
        "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    )
    document = FileBundle(found).to_json()
    assert set(document) == {"manifest"}
    assert set(document["manifest"]) == {"files", "timestamp", "checksum"}
    again = json.loads(json.dumps(document["manifest"])) | {"total_size": 6}
    assert FileManifest.from_json(again) == found
    with pytest.raises(Invalid):
        FileManifest.from_json({"files": [{}]})
    big = FileManifest.of(FileEntry(f"f{n}", "", 2**64 - 1) for n in range(1000))
    assert FileManifest.from_json(json.loads(json.dumps(big.to_json()))) == big


def tarball(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for path, data in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.mark.parametrize(
    ("here", "there", "status"),
    [
        ({}, {"agents/a": b"1"}, "Added"),
        ({"agents/a": b"1"}, {"agents/a": b"1"}, "Unchanged"),
        ({"agents/a": b"1"}, {}, "Deleted"),
        ({"agents/a": b"1"}, {"agents/a": b"2"}, "Modified"),
    ],
)
def test_diff_of_a_tarball(
    tmp_path: Path, here: dict[str, bytes], there: dict[str, bytes], status: str
) -> None:
    """Each state of a file is told, and counted where it belongs; nothing is written."""
    for path, data in here.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(data)
    found = diff_tarball(tarball(there), tmp_path)
    size = len(there.get("agents/a", b""))
    assert found.entries == (SyncDiffEntry("agents/a", FileDiffStatus(status), size),)
    counted = {name: getattr(found, name.lower()) for name in FileDiffStatus}
    assert counted == {name: int(name == status) for name in FileDiffStatus}
    assert found.has_changes == (status != "Unchanged")
    assert found.changed_paths == (["agents/a"] if found.has_changes else [])


def test_download_and_diff(tmp_path: Path) -> None:
    """The tarball comes along with what it would change, and the folder stays as it is."""
    require("server")
    with running_older() as older:
        older.files = {"agents/a.md": b"one"}
        calls = SyncApiClient(older.base, API_TOKEN)
        found = download_and_diff(calls, TENANT, tmp_path)
        calls.close()
        assert type(found) is PullDownload and type(found.diff) is SyncDiffResult
        assert found.data == older.archive() and found.diff.added == 1
        assert list(tmp_path.iterdir()) == []
