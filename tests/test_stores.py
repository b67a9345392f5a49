"""Repositories as earlier versions left them open, and hold what they held."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from gsync.sync.contents import list_contents
from gsync.sync.maintenance import verify
from gsync.sync.repository import init_repository, open_repository
from gsync.transfer.history import list_ancestors

STORES = sorted(path.parent for path in (Path(__file__).parent / "stores").glob("*/expected.json"))


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    init_repository(tmp_path / "folder")
    body = gzip.decompress((request.param / "store.db.gz").read_bytes())
    (tmp_path / "folder/.gsync/store.db").write_bytes(body)
    return tmp_path / "folder"


@pytest.mark.parametrize(
    ("folder", "store"),
    [(store, store) for store in STORES],
    indirect=["folder"],
    ids=[store.name for store in STORES],
)
def test_kept_store_opens(folder: Path, store: Path) -> None:
    """It verifies, has the same refs, objects and files, and its history is whole."""
    expected = json.loads((store / "expected.json").read_text())
    with open_repository(folder) as repo:
        assert verify(repo.store).problems == []
        refs = repo.store.list_refs()
        assert {name: oid.hex() for name, oid in refs.items()} == expected["refs"]
        found = sorted(oid.hex() for _, oid, _ in repo.store.list_objects())
        assert found == expected["objects"]
        assert len(list(list_ancestors(repo.store, [refs["main"]]))) == 2
        files = {
            path.hex(): [int(entry.type), entry.size, (entry.content_id or b"").hex()]
            for path, entry in list_contents(repo, refs["main"])
        }
    assert files == expected["files"]


def test_there_is_one_store_for_each_version() -> None:
    """The version that writes today has a kept store."""
    from gsync.store.file import VERSION

    assert (Path(__file__).parent / f"stores/v{VERSION}").is_dir()
