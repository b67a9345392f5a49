"""What somebody saves in a folder while a checkout changes it is not lost."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from replicas.files.test_checkout import NEW, OLD, two_states
from replicas.files.trees import Tree, harvest

from gsync.replicas.base import ReplicaChanged
from gsync.replicas.files import checkout, rename
from gsync.replicas.files.checkout import apply_changes, recover

needs_exchange = pytest.mark.skipif(
    sys.platform != "linux", reason="no other system is asked to let two names change places"
)


def contents(folder: Path) -> list[bytes]:
    """What all files hold, those that were rescued among them."""
    return sorted(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def save(path: Path, content: bytes) -> None:
    """Save as editors do: a new file takes the name."""
    new = path.with_name(".saving")
    new.write_bytes(content)
    new.rename(path)


@pytest.mark.parametrize("name", ["a", "d", "c"])
@pytest.mark.parametrize("why", ["edited", "refused"])
def test_what_is_saved_between_swap_and_undo_stays(tmp_path, monkeypatch, name, why):
    """`a` had changed, `d` had gone and `c` come when somebody saved there; then all is undone."""
    old: Tree = {b"a": ("file", b"1"), b"b": ("file", b"1"), b"d": ("file", b"1")}
    new: Tree = {b"a": ("file", b"2"), b"b": ("file", b"2"), b"c": ("file", b"3")}
    store, live, changes = two_states(tmp_path, old, new)

    def save_and_refuse(*args):
        save(live / name, b"mine")
        if why == "refused":
            raise OSError(5, "no")
        return [b"b"]

    step = "_changed_meanwhile" if why == "edited" else "_sync_touched"
    real = getattr(checkout, step)

    def once(*args):
        monkeypatch.setattr(checkout, step, real)
        return save_and_refuse(*args)

    monkeypatch.setattr(checkout, step, once)
    with pytest.raises((ReplicaChanged, checkout.CheckoutFailed)):
        apply_changes(live, changes, store, live / ".gsync")
    assert harvest(live) == old | {os.fsencode(name): ("file", b"mine")}
    assert os.listdir(live / ".gsync") == []


def test_an_edit_that_gave_way_to_a_save_is_rescued(tmp_path, monkeypatch):
    """The edit came before the swap, the save after it: one keeps the name, none is lost."""
    store, live, changes = two_states(tmp_path, {b"a": ("file", b"1")}, {b"a": ("file", b"2")})
    carry_out = checkout._carry_out

    def edit_carry_out_and_save(*args):
        (live / "a").write_bytes(b"edited")
        carry_out(*args)
        save(live / "a", b"saved")

    monkeypatch.setattr(checkout, "_carry_out", edit_carry_out_and_save)
    with pytest.raises(ReplicaChanged):
        apply_changes(live, changes, store, live / ".gsync")
    assert (live / "a").read_bytes() == b"saved"
    assert contents(live / ".gsync/rescued") == [b"edited"]


@needs_exchange
def test_a_save_in_the_middle_of_a_swap_is_put_back(tmp_path, monkeypatch):
    """The old file has its second name, and the new one not yet its place."""
    store, live, changes = two_states(tmp_path, {b"a": ("file", b"1")}, {b"a": ("file", b"2")})
    link = os.link

    def link_and_save(*args, **kwargs):
        link(*args, **kwargs)
        save(live / "a", b"mine")

    monkeypatch.setattr(os, "link", link_and_save)
    with pytest.raises(ReplicaChanged):
        apply_changes(live, changes, store, live / ".gsync")
    assert harvest(live) == {b"a": ("file", b"mine")}
    assert os.listdir(live / ".gsync") == []


@needs_exchange
def test_a_file_made_where_one_is_to_come_is_put_back(tmp_path, monkeypatch):
    """Nothing was there when checkout looked."""
    store, live, changes = two_states(tmp_path, {}, {b"a": ("file", b"2")})
    real = checkout._put_in_place

    def make_and_put(*args):
        (live / "a").write_bytes(b"mine")
        real(*args)

    monkeypatch.setattr(checkout, "_put_in_place", make_and_put)
    with pytest.raises(ReplicaChanged):
        apply_changes(live, changes, store, live / ".gsync")
    assert harvest(live) == {b"a": ("file", b"mine")}
    assert os.listdir(live / ".gsync") == []


@needs_exchange
@pytest.mark.parametrize("saved", [False, True])
def test_a_crash_right_after_two_files_changed_places_is_finished(tmp_path, monkeypatch, saved):
    """What lies in the stage then is the old file, or what was saved in the middle."""
    store, live, changes = two_states(tmp_path, {b"a": ("file", b"1")}, {b"a": ("file", b"2")})

    def exchange_and_crash(*args, **kwargs):
        if saved:
            save(live / "a", b"mine")
        assert rename.exchange(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkout, "exchange", exchange_and_crash)
    with pytest.raises(KeyboardInterrupt):
        apply_changes(live, changes, store, live / ".gsync")
    monkeypatch.undo()
    assert recover(live, live / ".gsync")
    # Either stays, as long as the other is kept too.
    assert contents(live) == ([b"2", b"mine"] if saved else [b"2"])
    assert saved or (live / "a").read_bytes() == b"2"
    assert not (live / ".gsync/stage").exists()


def test_systems_that_cannot_exchange(tmp_path, monkeypatch):
    """They take a look and a rename, with the same outcome when nobody interferes."""
    monkeypatch.setattr(rename, "_rename", lambda *args: False)
    store, live, changes = two_states(tmp_path, OLD, NEW)
    before = harvest(live)
    with monkeypatch.context() as patch:
        patch.setattr(checkout, "_changed_meanwhile", lambda *args: [b"a"])
        with pytest.raises(ReplicaChanged):
            apply_changes(live, changes, store, live / ".gsync")
    assert harvest(live) == before
    apply_changes(live, changes, store, live / ".gsync")
    assert harvest(live) == NEW
    assert os.listdir(live / ".gsync") == []


def test_recovery_where_names_cannot_be_exchanged(tmp_path, monkeypatch):
    """A file saved anew after a crash in the middle of its swap is put aside first."""
    monkeypatch.setattr(rename, "_rename", lambda *args: False)
    store, live, changes = two_states(tmp_path, {b"a": ("file", b"1")}, {b"a": ("file", b"2")})

    def crash(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkout, "_put_in_place", crash)
        with pytest.raises(KeyboardInterrupt):
            apply_changes(live, changes, store, live / ".gsync")
    save(live / "a", b"mine")
    assert recover(live, live / ".gsync")
    assert (live / "a").read_bytes() == b"2"
    assert contents(live / ".gsync/rescued") == [b"mine"]


SAVER = """
import os, sys
for line in sys.stdin:
    turns, path = line.split()
    for _ in range(int(turns)):
        pass
    with open(path + ".saving", "wb") as file:
        file.write(b"mine")
    os.rename(path + ".saving", path)
    print(flush=True)
"""


@needs_exchange
def test_another_process_saves_at_any_moment(tmp_path):
    """Before, during or after: what it saved is live, or was what the checkout gave way to."""
    seed = random.Random(4)
    outcomes = set()
    with subprocess.Popen(
        [sys.executable, "-c", SAVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as saver:
        assert saver.stdin is not None and saver.stdout is not None
        for number in range(150):
            old, new = dict.fromkeys((b"a", b"b"), ("file", b"1")), {b"a": ("file", b"2")}
            store, live, changes = two_states(tmp_path / str(number % 2), old, new)
            saver.stdin.write(f"{seed.randrange(60_000)} {live / 'a'}\n")
            saver.stdin.flush()
            try:
                apply_changes(live, changes, store, live / ".gsync")
                outcomes.add("done")
            except ReplicaChanged:
                outcomes.add("gave way")
            saver.stdout.readline()
            assert (live / "a").read_bytes() == b"mine", number
            assert not (live / ".gsync/stage").exists()
        saver.stdin.close()
    assert outcomes == {"done", "gave way"}
