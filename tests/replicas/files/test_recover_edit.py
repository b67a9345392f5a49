"""An edit made after a crash is not lost to the recovery."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gsync.changes import Change
from gsync.objects.encoding import Reference
from gsync.objects.oid import Kind
from gsync.replicas.files import checkout
from gsync.store.memory import MemoryStore
from gsync.views.files import EntryType, FileEntry, encode_entry


def entry(store: MemoryStore, content: bytes) -> bytes:
    ref = Reference(Kind.BLOB, store.put(Kind.BLOB, content), len(content))
    return encode_entry(FileEntry(EntryType.FILE, len(content), ref))


def test_an_edit_between_crash_and_recovery_is_rescued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkout is finished, and what was edited meanwhile lies in `rescued`."""
    root, workdir = tmp_path / "folder", tmp_path / "work"
    root.mkdir()
    workdir.mkdir()
    store = MemoryStore()
    for name in ("a", "b"):
        (root / name).write_bytes(b"old")
    changes = [Change(name, entry(store, b"old"), entry(store, b"new")) for name in (b"a", b"b")]

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkout, "_carry_out", crash)
        patch.setattr(checkout, "_undo", crash)
        with pytest.raises(KeyboardInterrupt):
            checkout.apply_changes(root, changes, store, workdir)
    (root / "b").write_bytes(b"edited after the crash")
    assert checkout.recover(root, workdir)
    assert [(root / name).read_bytes() for name in ("a", "b")] == [b"new", b"new"]
    kept = list((workdir / "rescued").iterdir())
    assert [path.read_bytes() for path in kept] == [b"edited after the crash"]
    assert os.listdir(workdir) == ["rescued"]
