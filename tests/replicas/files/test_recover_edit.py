"""An edit made after a crash is not lost to the recovery."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gsync.changes import Change
from gsync.objects.encoding import Reference
from gsync.objects.oid import Kind
from gsync.replicas.files import checkout
from gsync.store.base import ObjectStore
from gsync.store.memory import MemoryStore
from gsync.sync.doctor import examine
from gsync.sync.repository import init_repository, open_repository, snapshot, status
from gsync.views.files import EntryType, FileEntry, encode_entry


def entry(store: ObjectStore, content: bytes) -> bytes:
    ref = Reference(Kind.BLOB, store.put(Kind.BLOB, content), len(content))
    return encode_entry(FileEntry(EntryType.FILE, len(content), ref))


def crash(*_: object) -> None:
    raise KeyboardInterrupt


def interrupted(
    root: Path,
    workdir: Path,
    store: ObjectStore,
    changes: list[Change],
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    """Apply `changes` and crash where `step` would have been done."""
    with monkeypatch.context() as patch:
        patch.setattr(checkout, step, crash)
        patch.setattr(checkout, "_undo", crash)
        with pytest.raises(KeyboardInterrupt):
            checkout.apply_changes(root, changes, store, workdir)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def kept_in(workdir: Path) -> list[bytes]:
    found = [path for path in (workdir / "rescued").rglob("*") if path.is_file()]
    return sorted(path.read_bytes() for path in found)


def test_an_edit_between_crash_and_recovery_is_rescued(
    root: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkout is finished, and what was edited meanwhile lies in `rescued`."""
    store = MemoryStore()
    for name in ("a", "b"):
        (root / name).write_bytes(b"old")
    changes = [Change(name, entry(store, b"old"), entry(store, b"new")) for name in (b"a", b"b")]
    interrupted(root, workdir, store, changes, monkeypatch, "_carry_out")
    (root / "b").write_bytes(b"edited after the crash")
    assert checkout.recover(root, workdir)
    assert [(root / name).read_bytes() for name in ("a", "b")] == [b"new", b"new"]
    assert kept_in(workdir) == [b"edited after the crash"]
    assert os.listdir(workdir) == ["rescued"]


def test_a_file_saved_anew_after_a_crash_in_the_middle_of_its_swap_is_rescued(
    root: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old file has its second name already; an editor then puts another in its place."""
    store = MemoryStore()
    (root / "a").write_bytes(b"old")
    change = Change(b"a", entry(store, b"old"), entry(store, b"new"))
    link = os.link

    def link_and_crash(*args: object, **kwargs: object) -> None:
        link(*args, **kwargs)  # type: ignore[arg-type]
        crash()

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", link_and_crash)
        patch.setattr(checkout, "_undo", crash)
        with pytest.raises(KeyboardInterrupt):
            checkout.apply_changes(root, [change], store, workdir)
    (root / "saved").write_bytes(b"edited after the crash")
    (root / "saved").rename(root / "a")
    assert checkout.recover(root, workdir)
    assert (root / "a").read_bytes() == b"new"
    assert kept_in(workdir) == [b"edited after the crash"]


def test_a_file_put_into_a_directory_after_a_crash_is_rescued(
    root: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory has to give way to a file, with all that came into it since."""
    store = MemoryStore()
    (root / "d").mkdir()
    (root / "d/x").write_bytes(b"old")
    changes = [
        Change(b"d", None, entry(store, b"new")),
        Change(b"d/x", entry(store, b"old"), None),
    ]
    interrupted(root, workdir, store, changes, monkeypatch, "_carry_out")
    (root / "d/deep").mkdir()
    (root / "d/deep/mine").write_bytes(b"put there after the crash")
    assert checkout.recover(root, workdir)
    assert (root / "d").read_bytes() == b"new"
    assert kept_in(workdir) == [b"put there after the crash"]


def test_recovery_says_what_it_rescued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever edited must learn where that is."""
    init_repository(tmp_path)
    (tmp_path / "a").write_bytes(b"old")
    with open_repository(tmp_path) as repo, repo.writing("test"):
        snapshot(repo, "first")
        store = repo.store
        new = entry(store, b"new")
        store.flush()
        change = Change(b"a", entry(store, b"old"), new)
        interrupted(tmp_path, repo.workdir, store, [change], monkeypatch, "_carry_out")
    (tmp_path / "a").write_bytes(b"edited after the crash")
    with open_repository(tmp_path) as repo:
        (notice,) = [one for one in status(repo).notices if one.code == "rescued"]
        assert notice.path == b".gsync/rescued" and "1 path" in notice.text
        assert notice.text in [finding.text for finding in examine(repo)]
    assert kept_in(tmp_path / ".gsync") == [b"edited after the crash"]
