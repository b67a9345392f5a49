"""Files and directories that change while a scan looks at them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from replicas.files.trees import commit, harvest, plant, scan

from gsync.maps.omap import EMPTY_MAP, build_map, find_value, list_entries
from gsync.objects.model import EMPTY_MAP_BODY
from gsync.objects.oid import Kind, ObjectId, blob_id
from gsync.replicas.files import scan as scanning
from gsync.replicas.files.checkout import checkout_fresh
from gsync.replicas.files.index import MemoryCache
from gsync.replicas.files.scan import scan_files
from gsync.store.memory import MemoryStore
from gsync.views.files import decode_entry

OLD, NEW = b"old " * 100_000, b"new " * 100_000


class Disturbed(MemoryStore):
    """A store that lets something happen when the n-th chunk of a file arrives."""

    def __init__(self, happens: Callable[[], None], times: int) -> None:
        super().__init__()
        self.happens = happens
        self.times = times

    def put(self, kind: Kind, body: bytes, near: ObjectId | None = None) -> ObjectId:
        if kind is Kind.BLOB and self.times:
            self.times -= 1
            self.happens()
        return super().put(kind, body, near)


def _replace(path: Path) -> None:
    draft = path.with_name("draft")
    draft.write_bytes(NEW)
    os.replace(draft, path)


def _rewrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(NEW)


def _grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(NEW)


def _shrink(path: Path) -> None:
    os.truncate(path, 200_000)


@pytest.mark.parametrize("change", [_replace, _rewrite, _grow, _shrink])
def test_large_file_changed_while_it_is_read(tmp_path: Path, change: Callable[[Path], None]):
    """What is recorded is the new content, whole: it is read again."""
    path = tmp_path / "live" / "big"
    plant(path.parent, {b"big": ("file", OLD)})
    store = Disturbed(lambda: change(path), 1)
    root = commit(store, EMPTY_MAP, scan(path.parent, store))
    value = find_value(store, root, b"big")
    assert value is not None
    assert decode_entry(value).content_id == blob_id(path.read_bytes())
    assert path.read_bytes() != OLD


def test_large_file_that_never_rests_keeps_what_it_was(tmp_path: Path):
    """Not a mix, and not nothing: the base's entry, and a notice."""
    path = tmp_path / "live" / "big"
    plant(path.parent, {b"big": ("file", OLD)})
    store = Disturbed(lambda: _grow(path), 0)
    root = commit(store, EMPTY_MAP, scan(path.parent, store))
    _rewrite(path)
    store.times = 1000
    found = scan(path.parent, store, root)
    assert found.changes == []
    assert [notice.code for notice in found.notices] == ["unstable"]
    store.times = 0
    assert [change.key for change in scan(path.parent, store, root).changes] == [b"big"]


@pytest.mark.parametrize("size", [10, 300_000])
def test_link_in_place_of_a_directory_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
):
    """Put there between listing and reading, it leads the scan nowhere."""
    live, outside = tmp_path / "live", tmp_path / "outside"
    plant(live, {b"d/f": ("file", b"x" * size), b"other": ("file", b"o")})
    plant(outside, {b"f": ("file", b"s" * size)})
    listing = scanning._list_directory

    def listing_then_swapping(fd: int):
        found = listing(fd)
        directory = live / "d"
        if not directory.is_symlink() and os.path.samestat(os.fstat(fd), directory.stat()):
            shutil.rmtree(directory)
            directory.symlink_to(outside)
        return found

    monkeypatch.setattr(scanning, "_list_directory", listing_then_swapping)
    store = MemoryStore()
    found = scan(live, store)
    assert [change.key for change in found.changes] == [b"other"]
    assert [(notice.path, notice.code) for notice in found.notices] == [(b"d/f", "unstable")]
    monkeypatch.undo()
    assert (b"d") in [change.key for change in scan(live, store).changes]


def test_names_behind_a_link_are_not_seen(tmp_path: Path):
    """It takes the place of a directory after the one above was listed, before its turn."""
    live, outside = tmp_path / "live", tmp_path / "outside"
    plant(live, {b"a/%d" % number: ("file", b"x") for number in range(scanning.BATCH_FILES)})
    plant(live, {b"z/mine": ("file", b"1"), b"z/y/mine": ("file", b"1")})
    plant(outside, {b"file": ("file", b"s"), b"y/file": ("file", b"s")})
    (outside / "empty").mkdir()
    store = MemoryStore()
    store.put(Kind.NODE, EMPTY_MAP_BODY)

    def swap_when_a_is_read() -> int:
        if not (live / "z").is_symlink():
            (live / "z").rename(tmp_path / "gone")
            (live / "z").symlink_to(outside)
        return 10**18

    found = scan_files(
        live, EMPTY_MAP, store, MemoryCache(), write=True, now_ns=swap_when_a_is_read
    )
    assert (live / "z").is_symlink()
    seen = [*(change.key for change in found.changes), *(notice.path for notice in found.notices)]
    assert [path for path in seen if path.startswith(b"z/")] == []


def test_a_tree_deeper_than_the_handles_that_are_kept(tmp_path: Path):
    """Found whole, and no handle is left open."""
    deep = b"/".join([b"d"] * (2 * scanning.HANDLES_MAX))
    plant(tmp_path / "live", {deep + b"/f": ("file", b"1"), b"d/d/e/f": ("file", b"1")})
    store = MemoryStore()
    handles = Path("/proc/self/fd")
    before = len(list(handles.iterdir())) if handles.exists() else 0
    found = scan(tmp_path / "live", store)
    assert sorted(change.key for change in found.changes) == sorted([deep + b"/f", b"d/d/e/f"])
    assert (len(list(handles.iterdir())) if handles.exists() else 0) <= before


def test_file_gone_between_listing_and_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It is left as it was, with a notice; the next scan finds it gone."""
    plant(tmp_path, {b"a": ("file", b"1"), b"b": ("file", b"2")})
    store, cache = MemoryStore(), MemoryCache()
    root = commit(store, EMPTY_MAP, scan(tmp_path, store, cache=cache))
    (tmp_path / "a").write_bytes(b"changed")
    listing = scanning._list_directory

    def listing_then_removing(fd: int):
        found = listing(fd)
        (tmp_path / "a").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(scanning, "_list_directory", listing_then_removing)
    found = scan(tmp_path, store, root, cache)
    assert found.changes == [] and [n.code for n in found.notices] == ["unstable"]
    monkeypatch.undo()
    after = scan(tmp_path, store, root, cache)
    assert [(change.key, change.new) for change in after.changes] == [(b"a", None)]


@pytest.mark.parametrize("offset_s", [-86_400, 0, 86_400])
def test_clock_that_jumps_hides_no_edit(tmp_path: Path, offset_s: int):
    """Set back or forth by a day between two edits of equal size, each edit is seen."""
    path = tmp_path / "f"
    store, cache = MemoryStore(), MemoryCache()
    root, now = EMPTY_MAP, 1_800_000_000
    for n in range(6):
        path.write_bytes(b"version %d" % n)
        now += offset_s if n % 2 else 1
        os.utime(path, (now, now))
        found = scan(tmp_path, store, root, cache)
        assert [change.key for change in found.changes] == [b"f"]
        root = commit(store, root, found)


def test_same_size_and_mtime_with_other_content_is_seen(tmp_path: Path):
    """A tool that sets mtime back after an edit cannot set ctime back."""
    path = tmp_path / "f"
    path.write_bytes(b"one")
    os.utime(path, (1_000_000_000, 1_000_000_000))
    store, cache = MemoryStore(), MemoryCache()
    build_map(store, [])
    later_ns = path.stat().st_ctime_ns + 10_000_000_000  # so that the racy rule does not help
    found = scan_files(tmp_path, EMPTY_MAP, store, cache, write=True, now_ns=lambda: later_ns)
    root = commit(store, EMPTY_MAP, found)
    path.write_bytes(b"two")
    os.utime(path, (1_000_000_000, 1_000_000_000))
    assert [c.key for c in scan(tmp_path, store, root, cache).changes] == [b"f"]


@pytest.mark.parametrize(("later_ns", "read"), [(0, 1), (50_000_000, 1), (200_000_000, 0)])
def test_file_read_within_the_tick_is_read_again(tmp_path: Path, later_ns: int, read: int):
    """Its signature could stay while its content changes, so a scan does not believe it."""
    (tmp_path / "f").write_bytes(b"content")
    os.utime(tmp_path / "f", ns=(1, 1_000_000_001))
    changed_ns = (tmp_path / "f").stat().st_ctime_ns
    store, cache = MemoryStore(), MemoryCache()
    build_map(store, [])
    for hashed in (1, read):
        found = scan_files(
            tmp_path, EMPTY_MAP, store, cache, write=False, now_ns=lambda: changed_ns + later_ns
        )
        assert found.hashed == hashed


def test_hard_links_and_sparse_files_come_back_by_content(tmp_path: Path):
    """Two names of one file are two files with its content; a hole is zeros."""
    live = tmp_path / "live"
    plant(live, {b"a": ("file", b"shared")})
    os.link(live / "a", live / "b")
    with (live / "sparse").open("wb") as file:
        file.truncate(1_000_000)
    store = MemoryStore()
    root = commit(store, EMPTY_MAP, scan(live, store))
    checkout_fresh(tmp_path / "out", list_entries(store, root), store)
    assert harvest(tmp_path / "out") == harvest(live)
    assert (tmp_path / "out" / "a").stat().st_nlink == 1
