"""A collection at any moment takes nothing from a push or a fetch that is under way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support_server import Tree
from support_server import commit as commit_tree

from gsync.errors import NotFound, Unavailable
from gsync.objects.encoding import decode_trusted
from gsync.objects.oid import Kind, ObjectId
from gsync.protocol.frames import Frame, FrameType
from gsync.protocol.messages import Announcement, Begin, Fetch, encode_announcement
from gsync.store.base import RefMove
from gsync.store.memory import MemoryStore
from gsync.store.names import CollectedMeanwhile
from gsync.store.sqlite import SqliteStore
from gsync.sync.maintenance import collect, forget, verify
from gsync.transfer.answer import Answerer
from gsync.transfer.history import order_new
from gsync.transfer.resume import LEASE_US, left_to_send
from gsync.transfer.send import send_manifests

NOW_US = 1_800_000_000_000_000
SESSION = b"s" * 16


def commit(
    store: SqliteStore | MemoryStore, *contents: bytes, parents: tuple[ObjectId, ...] = ()
) -> ObjectId:
    tree: Tree = {b"%d" % n: content for n, content in enumerate(contents)}
    return commit_tree(store, tree, parents)


class Push:
    """A push of a manifest with many contents onto a base that only its lease keeps."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        client = MemoryStore()
        self.base = commit(client, b"base")
        assert commit(store, b"base") == self.base
        # What comes was here before, and is dead: found present, it is not stored again.
        self.wanted = commit(client, b"new", b"more", parents=(self.base,))
        assert commit(store, b"new", b"more", parents=(self.base,)) == self.wanted
        store.flush()
        for old, new in ((None, self.base), (self.base, None)):
            store.move_refs([RefMove("tags/x", old, new)], time_us=1, actor="me", why="")
        self.contents = list(send_manifests(client, order_new(client, [self.wanted], [self.base])))
        body = encode_announcement(Announcement([("main", None, self.wanted)], "push"))
        self.announce = Frame(FrameType.ANNOUNCE, body)

    def answerer(self) -> Answerer:
        return Answerer(self.store, "me", lambda: NOW_US)

    def begin(self) -> set[bytes]:
        return self.answerer().begin(Begin(SESSION, [self.base]))

    def forget_base(self) -> None:
        """Nothing but the lease names the base from here on."""
        forget(self.store, [self.base, self.wanted], actor="me", reason="test", now_us=1)


@pytest.fixture
def push(tmp_path: Path) -> Iterator[Push]:
    with SqliteStore.create(tmp_path / "store.db") as store:
        yield Push(store)


@pytest.fixture
def collected(tmp_path: Path, push: Push) -> Callable[[], int]:
    """Collects as another process would; returns how many objects were dropped."""

    def run() -> int:
        with SqliteStore.open(tmp_path / "store.db") as other:
            return collect(other, NOW_US).objects

    return run


@pytest.mark.parametrize("at", range(5))
def test_a_collection_between_requests(push: Push, collected: Callable[[], int], at: int) -> None:
    """Before begin it takes what is dead; after that nothing that the push relies on."""
    push.begin()
    push.forget_base()
    assert len(push.contents) > 2
    parts = [push.contents[:1], push.contents[1:2], push.contents[2:], [push.announce]]
    for number, part in enumerate(parts):
        if number == at:
            collected()
        push.answerer().frames(SESSION, part)
    assert push.store.find_ref("main") == push.wanted
    assert push.store.missing([push.base]) == set()
    collected()
    assert verify(push.store).problems == []


def test_a_collection_within_a_request(push: Push, collected: Callable[[], int]) -> None:
    """What came since the journal was written may be gone: the push is to go on, and does."""
    push.begin()
    push.answerer().frames(SESSION, push.contents[:1])

    def interrupted() -> Iterator[Frame]:
        yield from push.contents[1:]
        assert collected() > 0
        yield push.announce

    with pytest.raises(Unavailable):
        push.answerer().frames(SESSION, interrupted())
    assert push.store.find_ref("main") is None
    held = push.begin()
    assert len(held) == 1
    rest = left_to_send([*push.contents, push.announce], held)
    push.answerer().frames(SESSION, rest)
    assert push.store.find_ref("main") == push.wanted
    assert verify(push.store).problems == []


def test_a_session_that_expired_is_forgotten(push: Push, tmp_path: Path) -> None:
    """After its lease nothing is kept for a session, nor said to be."""
    push.begin()
    push.answerer().frames(SESSION, push.contents)
    assert len(push.begin()) == len(push.contents)
    with SqliteStore.open(tmp_path / "store.db") as other:
        collect(other, NOW_US + LEASE_US)
    assert push.begin() == set()
    assert push.store.pinned(0) == set()
    assert push.store.get_state(f"transfer {SESSION.hex()}") is None
    with pytest.raises(NotFound):
        push.answerer().frames(SESSION, [push.announce])


def test_a_lease_that_is_prolonged_stops_no_collection(push: Push) -> None:
    """Beside a long push collections end: only what may be a new root holds one up."""
    push.begin()
    push.store.renew()
    mark = push.store.mark_collection(NOW_US)
    push.store.put(Kind.BLOB, b"not seen before")
    push.store.add_frames(SESSION.hex(), [b"f" * 32], NOW_US, expires_us=NOW_US + 2 * LEASE_US)
    assert push.store.leased(NOW_US + LEASE_US + 1) == {push.base}
    push.store.drop_objects(lambda _: True, mark)


def test_what_was_found_present_is_noted_or_nothing(
    push: Push, collected: Callable[[], int]
) -> None:
    """Frames are not noted when a collection ran since they were taken."""
    push.store.renew()
    push.store.grant_lease("s", (), NOW_US + 1)
    push.store.put(Kind.BLOB, b"new")
    push.store.flush()
    collected()
    with pytest.raises(CollectedMeanwhile):
        push.store.add_frames("s", [b"f" * 32], NOW_US)
    assert push.store.frames_of("s") == set()


def test_a_fetch_of_what_is_forgotten_meanwhile(push: Push, collected: Callable[[], int]) -> None:
    """It ends as unavailable, worth another try, which says what there is not any more."""
    client = MemoryStore()
    big = commit(client, *(b"%d" % n * 70_000 for n in range(9)))
    assert commit(push.store, *(b"%d" % n * 70_000 for n in range(9))) == big
    push.store.move_refs([RefMove("tags/b", None, big)], time_us=1, actor="me", why="")
    stream = push.answerer().fetch(Fetch([big], []))
    next(iter(stream))
    push.store.move_refs([RefMove("tags/b", big, None)], time_us=1, actor="me", why="")
    forget(push.store, [big], actor="me", reason="test", now_us=1)
    assert collected() > 0
    *_, last = stream
    assert last.type is FrameType.ERROR
    assert decode_trusted(last.body)[1] == "unavailable"
    with pytest.raises(NotFound):
        push.answerer().fetch(Fetch([big], []))


def test_tracking_lets_go_of_what_was_put(push: Push, collected: Callable[[], int]) -> None:
    """A collection after one fetch is none during the next on the same handle."""
    first = commit(push.store, b"first")
    push.store.set_tracking("origin", {"main": first})
    collected()
    second: ObjectId = commit(push.store, b"second")
    push.store.set_tracking("origin", {"main": second})
    assert push.store.tracking("origin") == {"main": second}
