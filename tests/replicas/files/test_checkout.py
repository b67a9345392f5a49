"""Checking out: the identity with scan, all or nothing, and nothing outside the root."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from blake3 import blake3
from hypothesis import given, settings
from replicas.files.trees import (
    TREES,
    Tree,
    changes_between,
    commit,
    harvest,
    plant,
    scan,
    snapshot,
)

from gsync.changes import Change
from gsync.errors import Conflict, Corrupt, Denied
from gsync.maps.omap import EMPTY_MAP, list_entries
from gsync.objects.chunk_list import ChunkListBuilder
from gsync.objects.encoding import Reference
from gsync.objects.oid import Kind, ObjectId, blob_id
from gsync.replicas.base import ReplicaChanged
from gsync.replicas.files import checkout
from gsync.replicas.files.beside import made_beside
from gsync.replicas.files.checkout import (
    CheckoutFailed,
    NamesCollide,
    apply_changes,
    checkout_fresh,
    recover,
)
from gsync.replicas.files.index import MemoryCache, record
from gsync.store.memory import MemoryStore
from gsync.views.files import EntryType, FileEntry, encode_entry

HERE = Path(__file__).parent


def two_states(tmp_path: Path, old: Tree, new: Tree) -> tuple[MemoryStore, Path, list[Change]]:
    """A folder that holds `old`, and the changes that make it `new`."""
    store, live, other = MemoryStore(), tmp_path / "live", tmp_path / "other"
    for folder, tree in ((live, old), (other, new)):
        shutil.rmtree(folder, ignore_errors=True)
        plant(folder, tree)
    changes = changes_between(store, snapshot(live, store), snapshot(other, store))
    (live / ".gsync").mkdir()
    return store, live, changes


@settings(max_examples=60)
@given(tree=TREES)
def test_fresh_checkout_is_the_identity(tmp_path_factory, tree):
    """What scan read, checkout_fresh writes, byte for byte, and the next scan reads no file."""
    top = tmp_path_factory.mktemp("fresh")
    store = MemoryStore()
    plant(top / "a", tree)
    root = snapshot(top / "a", store)
    written = checkout_fresh(top / "b", list_entries(store, root), store)
    assert harvest(top / "b") == harvest(top / "a") == tree
    cache = MemoryCache()
    record(cache, written, time.time_ns() + 10**9, root)
    again = scan(top / "b", store, root, cache, write=False)
    assert again.changes == []
    shutil.rmtree(top)


@settings(max_examples=120)
@given(old=TREES, new=TREES)
def test_apply_arrives_at_the_new_tree(tmp_path_factory, old, new):
    """From any tree to any other, through all changes of type; the cache stays true."""
    top = tmp_path_factory.mktemp("apply")
    store, live, changes = two_states(top, old, new)
    base = snapshot(live, store)
    cache = MemoryCache()
    scan(live, store, base, cache)
    done = apply_changes(live, changes, store, live / ".gsync")
    assert done.count == len(changes)
    assert harvest(live) == new
    assert os.listdir(live / ".gsync") == []
    record(cache, done.written, time.time_ns())
    root = snapshot(live, store)
    assert scan(live, store, root, copy_of(cache), write=False).changes == []
    assert scan(live, store, base, copy_of(cache), write=False).changes == changes
    # What comes into any directory is seen, whatever the checkout wrote about it.
    for directory in [path for path in live.rglob("*") if path.is_dir()]:
        if directory.name != ".gsync":
            (directory / "added").write_bytes(b"later")
    seen = scan(live, store, root, cache, write=False).changes
    assert seen == scan(live, store, root, write=False).changes
    shutil.rmtree(top)


def copy_of(cache: MemoryCache) -> MemoryCache:
    copied = MemoryCache()
    copied.records = dict(cache.records)
    return copied


@settings(max_examples=60)
@given(old=TREES, new=TREES)
def test_a_failed_step_is_undone(tmp_path_factory, old, new):
    """Whichever rename fails, the folder is as it was, empty directories included."""
    top = tmp_path_factory.mktemp("undo")
    store, live, changes = two_states(top, old, new)
    count = [0]
    for fail_at in range(1, 6):
        count[0] = 0

        def failing(source, target, fail_at=fail_at):
            if os.path.basename(target) != b"journal":
                count[0] += 1
                if count[0] == fail_at:
                    raise PermissionError(13, "no")

        with pytest.MonkeyPatch.context() as patch:
            before_each_rename(patch, failing)
            try:
                apply_changes(live, changes, store, live / ".gsync")
                break
            except (CheckoutFailed, Denied):
                pass
        assert harvest(live) == old
        assert os.listdir(live / ".gsync") == []
    shutil.rmtree(top)


def test_unsaved_changes_are_refused_and_listed(tmp_path):
    """Every path whose live state is not `old` is named, and nothing is written."""
    old: Tree = {b"a": ("file", b"1"), b"b": ("file", b"1"), b"c": ("file", b"1")}
    store, live, changes = two_states(tmp_path, old, {b"d": ("file", b"1")})
    (live / "a").write_text("2")
    (live / "b").chmod(0o755)
    (live / "d").write_text("unknown")
    before = harvest(live)
    with pytest.raises(ReplicaChanged) as caught:
        apply_changes(live, changes, store, live / ".gsync")
    assert caught.value.paths == [b"a", b"b", b"d"]
    assert harvest(live) == before


def before_each_rename(patch: pytest.MonkeyPatch, hook: Callable[[bytes, bytes], None]) -> None:
    """Call `hook` with both names before anything is renamed, in whichever way."""

    def hooked(real):
        def call(source, target, **kwargs):
            hook(source, target)
            return real(source, target, **kwargs)

        return call

    patch.setattr(os, "rename", hooked(os.rename))
    for name in ("rename_new", "exchange"):
        patch.setattr(checkout, name, hooked(getattr(checkout, name)))


def test_untracked_files_are_never_deleted(tmp_path, monkeypatch):
    """A directory that holds one is not replaced, and not removed when it empties."""
    old: Tree = {b"d/x": ("file", b"1")}
    store, live, changes = two_states(tmp_path, old, {b"d": ("file", b"1")})
    (live / "d/mine").write_text("keep")
    with monkeypatch.context() as patch, pytest.raises(ReplicaChanged):
        patch.setattr(checkout, "_carry_out", lambda *_: pytest.fail("something was moved"))
        apply_changes(live, changes, store, live / ".gsync")
    gone = [change for change in changes if change.new is None]
    apply_changes(live, gone, store, live / ".gsync")
    assert harvest(live) == {b"d/mine": ("file", b"keep")}


def test_change_during_staging_is_refused(tmp_path, monkeypatch):
    """An edit between the check and the swap is a conflict, not a loss."""
    store, live, changes = two_states(tmp_path, {b"a": ("file", b"1")}, {b"a": ("file", b"2")})
    real = checkout._write_stage

    def slow(*args):
        real(*args)
        (live / "a").write_text("3")

    monkeypatch.setattr(checkout, "_write_stage", slow)
    monkeypatch.setattr(checkout, "_carry_out", lambda *_: pytest.fail("something was moved"))
    with pytest.raises(ReplicaChanged):
        apply_changes(live, changes, store, live / ".gsync")
    assert harvest(live) == {b"a": ("file", b"3")}
    assert os.listdir(live / ".gsync") == []


@pytest.mark.parametrize("edit", ["in place", "replaced", "deleted", "made"])
def test_change_at_the_last_moment_is_refused(tmp_path, monkeypatch, edit):
    """What somebody does between the last look and the swap is put back, and everything else."""
    old = dict.fromkeys((b"a", b"b", b"d"), ("file", b"1"))
    new = dict.fromkeys((b"a", b"b", b"c"), ("file", b"22"))
    store, live, changes = two_states(tmp_path, old, new)
    real = checkout._carry_out

    def late(*args):
        if edit == "in place":
            (live / "a").write_bytes(b"x")
        elif edit == "replaced":
            (tmp_path / "new").write_bytes(b"x")
            (tmp_path / "new").rename(live / "a")
        elif edit == "deleted":
            (live / "a").unlink()
        else:
            (live / "c").write_bytes(b"x")
        monkeypatch.setattr(checkout, "_carry_out", real)
        real(*args)

    monkeypatch.setattr(checkout, "_carry_out", late)
    with pytest.raises(ReplicaChanged) as caught:
        apply_changes(live, changes, store, live / ".gsync")
    assert caught.value.paths == [b"c" if edit == "made" else b"a"]
    expected = {"a": b"x", "b": b"1", "d": b"1"}
    if edit == "deleted":
        del expected["a"]
    if edit == "made":
        expected |= {"a": b"1", "c": b"x"}
    found = {p.name: p.read_bytes() for p in live.iterdir() if p.is_file()}
    assert found == expected
    assert list((live / ".gsync").iterdir()) == []


@pytest.mark.parametrize("to", ["file", "nothing"])
def test_a_file_put_into_a_directory_that_goes_is_kept(tmp_path, monkeypatch, to):
    """It was not there at the last look, and the directory must give way to a file, or go."""
    old: Tree = {b"d/x": ("file", b"1"), b"z": ("file", b"1")}
    new: Tree = {b"z": ("file", b"2")} | ({b"d": ("file", b"1")} if to == "file" else {})
    store, live, changes = two_states(tmp_path, old, new)
    real = checkout._carry_out

    def late(*args):
        (live / "d/mine").write_text("keep")
        monkeypatch.setattr(checkout, "_carry_out", real)
        real(*args)

    monkeypatch.setattr(checkout, "_carry_out", late)
    mine: Tree = {b"d/mine": ("file", b"keep")}
    if to == "file":
        with pytest.raises(ReplicaChanged) as caught:
            apply_changes(live, changes, store, live / ".gsync")
        assert caught.value.paths == [b"d"]
        assert harvest(live) == old | mine
    else:
        apply_changes(live, changes, store, live / ".gsync")
        assert harvest(live) == new | mine
    assert os.listdir(live / ".gsync") == []


@pytest.mark.parametrize("how", ["in place", "anew"])
def test_an_edit_while_other_files_are_compared_is_seen(tmp_path, how):
    """Large files take long to read; the ones compared before may change meanwhile."""
    old: Tree = {b"a": ("file", b"1"), b"b": ("file", b"1")}
    new: Tree = {b"a": ("file", b"2"), b"b": ("file", b"2")}
    store, live, changes = two_states(tmp_path, old, new)

    def edit_then_compare(path, stat):
        if path == b"b":
            target = live / "a" if how == "in place" else tmp_path / "saved"
            target.write_bytes(b"mine")
            target.replace(live / "a")
        return False

    with pytest.raises(ReplicaChanged) as caught:
        apply_changes(live, changes, store, live / ".gsync", is_clean=edit_then_compare)
    assert caught.value.paths == [b"a"]
    assert harvest(live) == {b"a": ("file", b"mine"), b"b": ("file", b"1")}


def test_each_sync_that_fails_leaves_old_or_new(tmp_path, monkeypatch):
    """And what the next start finds can be carried out, or is cleared away."""
    old: Tree = {b"a": ("file", b"1"), b"d/b": ("file", b"1"), b"gone": ("file", b"1")}
    new: Tree = {b"a": ("file", b"2"), b"d/b": ("file", b"2"), b"made": ("file", b"1")}
    real, outcomes = os.fsync, set()
    for failing in range(100):
        store, live, changes = two_states(tmp_path, old, new)
        calls = 0

        def once(fd, failing=failing):
            nonlocal calls
            calls += 1
            if calls == failing + 1:
                raise OSError(5, "no")
            real(fd)

        monkeypatch.setattr(os, "fsync", once)
        try:
            apply_changes(live, changes, store, live / ".gsync")
            outcomes.add("done")
        except (CheckoutFailed, OSError):
            outcomes.add("failed")
        monkeypatch.setattr(os, "fsync", real)
        recover(live, live / ".gsync")
        assert harvest(live) in (old, new), failing
        assert os.listdir(live / ".gsync") == [], failing
        if calls <= failing:
            break
    assert outcomes == {"done", "failed"} and failing > 8


def test_what_was_undone_is_durable_before_the_journal_goes(tmp_path, monkeypatch):
    """Else a power cut could leave neither the files nor what says where they are."""
    store, live, changes = two_states(
        tmp_path, {b"a": ("file", b"1"), b"b": ("file", b"1")}, {b"a": ("file", b"2")}
    )
    done: list[str] = []
    sync, unlink, undo = os.fsync, os.unlink, checkout._undo

    def fail(*args):
        raise OSError(5, "not now")

    def noting_undo(*args):
        done.append("undo")
        undo(*args)
        done.append("undone")

    def noting_sync(fd):
        if os.path.samestat(os.fstat(fd), live.lstat()):
            done.append("folder")
        sync(fd)

    def noting_unlink(path, **kwargs):
        if os.fsdecode(os.path.basename(path)) == "journal":
            done.append("journal")
        unlink(path, **kwargs)

    monkeypatch.setattr(checkout, "_move_in", fail)
    monkeypatch.setattr(checkout, "_undo", noting_undo)
    monkeypatch.setattr(os, "fsync", noting_sync)
    monkeypatch.setattr(os, "unlink", noting_unlink)
    with pytest.raises(CheckoutFailed):
        apply_changes(live, changes, store, live / ".gsync")
    assert "folder" in done[done.index("undo") : done.index("undone")]
    assert done[-1] == "journal"


def test_what_the_journal_tells_of_is_durable_first(tmp_path, monkeypatch):
    """Contents are synced before the journal is, and it before it has its name: then all moves."""
    new: Tree = {b"a": ("file", b"new"), b"big": ("file", b"big" * 100_000)}
    store, live, changes = two_states(tmp_path, {b"a": ("file", b"old")}, new)
    done: list[str] = []
    sync = os.fsync

    def name_of(fd):
        # Read by stat: /proc has no names of descriptors on other systems.
        found = os.fstat(fd)
        for path in sorted((live / ".gsync").rglob("*")):
            if os.path.samestat(path.lstat(), found):
                return path.name
        return "other"

    def noting_sync(fd):
        done.append(f"sync {name_of(fd)}")
        sync(fd)

    def note(source, target):
        name = os.fsdecode(os.path.basename(target))
        done.append("named" if name == "journal" else f"moved {os.fsdecode(source)}")

    monkeypatch.setattr(os, "fsync", noting_sync)
    before_each_rename(monkeypatch, note)
    apply_changes(live, changes, store, live / ".gsync")
    before = done[: done.index("named")]
    assert {"sync 0", "sync 1", "sync journal.tmp"} <= set(before)
    assert before[-1] == "sync journal.tmp"
    assert not any(what.startswith("moved") for what in before)
    assert {"moved 0", "moved 1"} <= set(done)
    assert harvest(live) == new


@pytest.mark.parametrize("when", ["before", "during"])
def test_planted_link_leads_nowhere(tmp_path, monkeypatch, when):
    """A link in place of a directory stops the checkout; nothing is written behind it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    old: Tree = {b"d/a": ("file", b"1"), b"z": ("file", b"1")}
    new: Tree = {b"d/a": ("file", b"1"), b"d/b": ("file", b"2"), b"z": ("file", b"2")}
    store, live, changes = two_states(tmp_path, old, new)
    real = checkout._carry_out

    def plant_link(*args):
        shutil.rmtree(live / "d")
        (live / "d").symlink_to(outside)
        if args:
            args[0].forget()
            real(*args)

    if when == "before":
        plant_link()
    else:
        monkeypatch.setattr(checkout, "_carry_out", plant_link)
    with pytest.raises((Conflict, CheckoutFailed, Denied)):
        apply_changes(live, changes, store, live / ".gsync")
    assert os.listdir(outside) == []
    assert (live / "z").read_bytes() == b"1"


def test_damaged_content_is_refused(tmp_path):
    """Bytes that do not hash to their id never reach the folder."""
    store, live, changes = two_states(tmp_path, {}, {b"a": ("file", b"good")})
    store._bodies[blob_id(b"good")] = (Kind.BLOB, b"evil")
    with pytest.raises(Corrupt):
        apply_changes(live, changes, store, live / ".gsync")
    assert harvest(live) == {} and os.listdir(live / ".gsync") == []


def test_a_file_larger_than_the_disk_is_refused_unwritten(tmp_path, monkeypatch):
    """A list that names one chunk over and over claims any size, and is all that it takes."""
    store = MemoryStore()
    builder = ChunkListBuilder(store.put)
    chunk = bytes(1 << 16)
    ref = Reference(Kind.BLOB, store.put(Kind.BLOB, chunk), len(chunk))
    for _ in range(64):
        builder.add(ref)
    whole = blake3(chunk * 64).digest()
    entry = FileEntry(EntryType.FILE, 64 * len(chunk), builder.finish(), ObjectId(whole))
    change = Change(b"big", None, encode_entry(entry))
    live = tmp_path / "live"
    (live / ".gsync").mkdir(parents=True)
    real, room = os.fstatvfs, 4 << 20
    monkeypatch.setattr(
        os, "fstatvfs", lambda fd: SimpleNamespace(f_bavail=room - 1, f_frsize=1, real=real(fd))
    )
    monkeypatch.setattr(checkout, "_write_all", lambda *_: pytest.fail("written"))
    with pytest.raises(CheckoutFailed, match="space"):
        apply_changes(live, [change], store, live / ".gsync")
    with pytest.raises(CheckoutFailed, match="space"):
        checkout_fresh(tmp_path / "fresh", [(b"big", encode_entry(entry))], store)
    assert harvest(live) == {} and not (tmp_path / "fresh").exists()


def test_fresh_refuses_what_is_not_empty(tmp_path):
    """A target with something in it is left alone."""
    plant(tmp_path / "t", {b"a": ("file", b"")})
    with pytest.raises(Conflict):
        checkout_fresh(tmp_path / "t", [], MemoryStore())
    assert os.listdir(tmp_path) == ["t"]


def test_fresh_refuses_collisions_where_case_is_ignored(tmp_path, monkeypatch):
    """Before anything is written."""
    store = MemoryStore()
    plant(tmp_path / "a", {b"D/x": ("file", b""), b"d/y": ("file", b"")})
    root = snapshot(tmp_path / "a", store)
    monkeypatch.setattr(checkout, "_ignores_case", lambda directory: True)
    with pytest.raises(NamesCollide):
        checkout_fresh(tmp_path / "b", list_entries(store, root), store)
    assert sorted(os.listdir(tmp_path)) == ["a"]


def test_stage_without_journal_is_cleared(tmp_path):
    """What was only staged never happened."""
    (tmp_path / ".gsync/stage/op/old").mkdir(parents=True)
    assert recover(tmp_path, tmp_path / ".gsync") is False
    assert os.listdir(tmp_path / ".gsync") == []


OLD: Tree = {
    **{b"d%d/f%d" % (n % 5, n): ("file", b"old %d" % n) for n in range(30)},
    **{b"t": ("file", b"to a directory"), b"u/v": ("exec", b"to a file"), b"e": ("dir", b"")},
    b"l": ("link", b"nowhere"),
}
NEW: Tree = {
    **{b"d%d/f%d" % (n % 7, n): ("file", b"new %d" % n) for n in range(10, 40)},
    **{b"t/x": ("file", b"1"), b"u": ("file", b"2"), b"e/y": ("link", b"x"), b"g": ("dir", b"")},
    b"l": ("exec", b"big" * 60_000),
}
KILLED = """
import os, random, signal, sys
sys.path[:0] = sys.argv[4:]
from pathlib import Path
from replicas.files.test_checkout import NEW, OLD, ObjectId, changes_between
from replicas.files.trees import plant, snapshot
from gsync.replicas.files.checkout import apply_changes
from gsync.store.memory import MemoryStore
top, count, stop = Path(sys.argv[1]), 0, int(sys.argv[2])
store = MemoryStore()
changes = changes_between(store, snapshot(top / "old", store), snapshot(top / "new", store))
def dying(real):
    def call(*args, **kwargs):
        global count
        count += 1
        if count == stop:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    return call
for name in ("rename", "link", "rmdir", "mkdir", "unlink", "open", "symlink", "fsync"):
    setattr(os, name, dying(getattr(os, name)))
apply_changes(top / "live", changes, store, top / "live/.gsync")
print(count)
"""


def test_kill_leaves_old_or_new(tmp_path):
    """Killed at any call that writes, and recovered: the old tree or the new one, exactly."""
    plant(tmp_path / "old", OLD)
    plant(tmp_path / "new", NEW)
    outcomes = set()

    def run(stop: int) -> subprocess.CompletedProcess[bytes]:
        shutil.rmtree(tmp_path / "live", ignore_errors=True)
        plant(tmp_path / "live", OLD)
        (tmp_path / "live/.gsync").mkdir()
        paths = [str(HERE.parents[1]), str(HERE.parents[2])]
        command = [sys.executable, "-c", KILLED, str(tmp_path), str(stop), "", *paths]
        return subprocess.run(command, capture_output=True, check=False)

    whole = run(0)
    assert whole.returncode == 0, whole.stderr.decode()
    calls = int(whole.stdout)
    randomly = random.Random(4)
    for stop in sorted(randomly.sample(range(1, calls + 1), 24)):
        assert run(stop).returncode == -9
        live = tmp_path / "live"
        recover(live, live / ".gsync")
        found = harvest(live)
        assert found in (OLD, NEW), f"killed at call {stop} of {calls}"
        assert os.listdir(live / ".gsync") == []
        outcomes.add(found == NEW)
    assert outcomes == {False, True}


class Stop(BaseException):
    """Not caught by anything: what a kill looks like from inside."""


def test_recover_can_itself_be_interrupted(tmp_path, monkeypatch):
    """Stopped at any rename, twice, the roll forward starts over and arrives."""
    left = [0]

    def stopping(source, target):
        if os.path.basename(target) != b"journal":
            left[0] -= 1
            if left[0] < 0:
                raise Stop

    before_each_rename(monkeypatch, stopping)
    for stop in range(0, 40, 7):
        left[0] = 1000
        store, live, changes = two_states(tmp_path, OLD, NEW)
        left[0] = stop
        with pytest.raises(Stop):
            apply_changes(live, changes, store, live / ".gsync")
        left[0] = 2
        with pytest.raises(Stop):
            recover(live, live / ".gsync")
        left[0] = 1000
        assert recover(live, live / ".gsync")
        assert harvest(live) == NEW


def test_roots_agree(tmp_path):
    """Applying the changes of a scan elsewhere gives the same root there."""
    store, live, changes = two_states(tmp_path, OLD, NEW)
    apply_changes(live, changes, store, live / ".gsync", is_clean=lambda path, stat: False)
    found: ObjectId = commit(store, EMPTY_MAP, scan(live, store))
    assert found == snapshot(tmp_path / "other", store)


def test_fresh_clears_what_the_dead_left(tmp_path):
    """What a killed maker left beside the target goes; what a living one makes stays."""
    target = os.fsencode(tmp_path / "t")
    with made_beside(target) as living:
        dead = tmp_path / ".t.gsync-0123abcd"
        (dead / "tree").mkdir(parents=True)
        (tmp_path / ".t.gsync-mine").mkdir()
        checkout_fresh(target, [], MemoryStore())
        assert not dead.exists() and os.path.isdir(living)
    assert sorted(os.listdir(tmp_path)) == [".t.gsync-mine", "t"]
