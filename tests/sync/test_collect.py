"""Garbage collection never drops what something names, nor what a push relies on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gsync.maps.omap import build_map
from gsync.objects.encoding import Reference
from gsync.objects.model import Collection, Manifest, encode_manifest
from gsync.objects.oid import Kind, ObjectId
from gsync.protocol.frames import Frame, FrameType
from gsync.protocol.messages import Announcement, Begin, encode_announcement
from gsync.store.base import RefMove
from gsync.store.memory import MemoryStore
from gsync.store.sqlite import SqliteStore
from gsync.sync.maintenance import KeepRule, collect, forget, list_forgettable, verify
from gsync.transfer.answer import Answerer
from gsync.transfer.history import order_new
from gsync.transfer.send import send_manifests
from gsync.views.files import EntryType, FileEntry, encode_entry

NOW_US = 1_800_000_000_000_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with SqliteStore.create(tmp_path / "store.db") as opened:
        yield opened


def commit(
    store: SqliteStore | MemoryStore, content: bytes, *parents: ObjectId, time_us: int = 0
) -> ObjectId:
    ref = Reference(Kind.BLOB, store.put(Kind.BLOB, content), len(content))
    value = encode_entry(FileEntry(EntryType.FILE, len(content), ref))
    files = Collection("files", build_map(store, [(b"a", value)]), 1)
    manifest = Manifest(parents, (files,), "me", time_us, "m")
    return store.put(Kind.MANIFEST, encode_manifest(manifest))


def move(store: SqliteStore, name: str, old: ObjectId | None, new: ObjectId) -> None:
    store.move_refs([RefMove(name, old, new)], time_us=NOW_US, actor="me", why="test")


def history(store: SqliteStore, count: int) -> list[ObjectId]:
    line: list[ObjectId] = []
    for n in range(count):
        line.append(commit(store, b"%d" % n, *line[-1:], time_us=n))
        move(store, "main", line[-2] if n else None, line[-1])
    return line


def test_forgotten_history_goes_and_named_history_stays(store: SqliteStore) -> None:
    """After forget and gc only what is kept is there, and verify finds no hole."""
    line = history(store, 6)
    move(store, "tags/v1", None, line[1])
    gone = list_forgettable(store, KeepRule(last=2))
    assert set(gone) == {line[0], line[2], line[3]}
    forget(store, gone, actor="me", reason="forget", now_us=NOW_US)
    collect(store, NOW_US)
    assert store.missing(line) == set(gone)
    assert verify(store).problems == []


def test_a_forgotten_manifest_that_is_named_again_stays(store: SqliteStore) -> None:
    """A tag made after forget keeps its target, and all below it, from the collection."""
    line = history(store, 4)
    forget(store, line[:2], actor="me", reason="forget", now_us=NOW_US)
    move(store, "tags/again", None, line[0])
    collect(store, NOW_US)
    assert store.missing(line) == {line[1]}
    assert verify(store).problems == []


def test_what_nothing_names_goes(store: SqliteStore) -> None:
    """Objects that were put and never named are dropped, and nothing else."""
    line = history(store, 2)
    loose = store.put(Kind.BLOB, b"loose")
    store.flush()
    assert collect(store, NOW_US, dry_run=True).objects == 1
    assert store.missing([loose]) == set()
    assert collect(store, NOW_US).objects == 1
    assert store.missing([loose, *line]) == {loose}


def test_objects_are_in_the_file_when_a_ref_has_moved(tmp_path: Path) -> None:
    """Whoever opens the file after a move finds what the ref names, though nobody flushed."""
    with SqliteStore.create(tmp_path / "store.db") as store:
        tip = commit(store, b"content")
        move(store, "main", None, tip)
        with SqliteStore.open(tmp_path / "store.db", read_only=True) as other:
            assert other.find_ref("main") == tip
            assert verify(other).problems == []


def test_a_leased_manifest_stays_with_all_below_it(store: SqliteStore) -> None:
    """What a push was told to leave out is kept until its lease ends."""
    leased = commit(store, b"left out")
    store.flush()
    store.grant_lease("s", [leased], NOW_US + 2)
    assert collect(store, NOW_US + 1).objects == 0
    # It was there before the session began, so the session's floor did not keep it.
    assert collect(store, NOW_US + 2).objects == 3
    assert store.missing([leased]) == {leased}


def test_what_came_in_an_open_session_stays(store: SqliteStore) -> None:
    """A part that has arrived is kept while the push that it belongs to may go on."""
    store.grant_lease("s", (), NOW_US + 2)
    arrived = commit(store, b"first part")
    store.flush()
    assert collect(store, NOW_US + 1).objects == 0
    assert store.missing([arrived]) == set()
    store.drop_lease("s")
    assert collect(store, NOW_US + 1).objects == 3


def test_what_a_remote_was_last_seen_at_stays(store: SqliteStore) -> None:
    """What was fetched and is not merged yet is no garbage."""
    fetched = commit(store, b"theirs")
    store.set_tracking("origin", {"main": fetched})
    assert collect(store, NOW_US).objects == 0
    store.renew()
    store.set_tracking("origin", {})
    assert collect(store, NOW_US).objects == 3


def test_a_collection_between_two_parts_drops_nothing(tmp_path: Path) -> None:
    """What a part brought stays, also what was there before and dead: the next relies on it."""
    client = MemoryStore()
    wanted = commit(client, b"content that the server had once")
    frames = list(send_manifests(client, order_new(client, [wanted], [])))
    body = encode_announcement(Announcement([("main", None, wanted)], "push"))
    announce = Frame(FrameType.ANNOUNCE, body)
    with SqliteStore.create(tmp_path / "store.db") as store:
        commit(store, b"content that the server had once")
        store.flush()

        def answerer() -> Answerer:
            return Answerer(store, "me", lambda: NOW_US)

        answerer().begin(Begin(b"s" * 16, []))
        answerer().frames(b"s" * 16, frames)
        with SqliteStore.open(tmp_path / "store.db") as other:
            assert collect(other, NOW_US).objects == 0
        answerer().frames(b"s" * 16, [announce])
        assert store.find_ref("main") == wanted
        assert verify(store).problems == []
