"""What every store promises, on every store that there is."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gsync.errors import TooLarge
from gsync.objects.model import BODY_BYTES_MAX
from gsync.objects.oid import Kind, ObjectId, blob_id, object_id
from gsync.objects.packs import (
    OBJECTS_MAX,
    PACK_BYTES_MAX,
    Pack,
    PackCorrupt,
    pack_objects,
    unpack_objects,
)
from gsync.store.base import ObjectMissing, RefMove, RefMoved
from gsync.store.memory import MemoryStore
from gsync.store.reflog import check_chain
from gsync.store.sql import connect_apsw, connect_sqlite3
from gsync.store.sqlite import SqliteStore

A, B, C = (blob_id(text) for text in (b"a", b"b", b"c"))


@pytest.fixture(params=["memory", "sqlite3", "apsw"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "memory":
        yield MemoryStore()
        return
    connect = connect_sqlite3 if request.param == "sqlite3" else connect_apsw
    with SqliteStore.create(tmp_path / "store.db", connect=connect) as made:
        yield made


def some_objects(seed: int, count: int) -> list[tuple[Kind, bytes]]:
    """Objects of all kinds and of sizes from nothing to beyond a pack, all different."""
    r = random.Random(seed)
    sizes = [0, 1, 10, 500, 3000, 20_000, 60_000]
    objects = [
        (r.choice(list(Kind)), b"%d " % n + r.randbytes(r.choice(sizes) // 2) * 2)
        for n in range(count)
    ]
    return [*objects, (Kind.BLOB, b""), (Kind.BLOB, r.randbytes(70_000)), (Kind.BLOB, b"x" * 2**20)]


def test_what_was_put_comes_back(store: Any) -> None:
    """Every body can be read at once, after a flush, singly and in one go."""
    objects = some_objects(1, 300)
    oids = [store.put(kind, body) for kind, body in objects]
    assert oids == [object_id(kind, body) for kind, body in objects]
    wanted = [(kind, oid) for (kind, _), oid in zip(objects, oids, strict=True)]
    expected = {oid: body for (_, body), oid in zip(objects, oids, strict=True)}
    assert dict(store.get_many(wanted)) == expected
    store.flush()
    assert dict(store.get_many(wanted + wanted)) == expected
    assert len(list(store.get_many(wanted + wanted))) == len(expected)
    assert all(store.get(kind, oid) == expected[oid] for kind, oid in wanted)


def test_putting_twice_changes_nothing(store: Any) -> None:
    """The same body has one id, before a flush and after it."""
    first = store.put(Kind.BLOB, b"body")
    assert store.put(Kind.BLOB, b"body") == first
    store.flush()
    assert store.put(Kind.BLOB, b"body") == first
    store.flush()
    assert len(list(store.export_packs([(Kind.BLOB, first)]))) == 1


def test_missing_objects_are_named(store: Any) -> None:
    """`missing` finds exactly what is not there; reading that raises, as does a wrong kind."""
    here = store.put(Kind.NODE, b"node")
    assert store.missing([here, A, B]) == {A, B}
    for kind, oid in [(Kind.BLOB, A), (Kind.BLOB, here)]:
        with pytest.raises(ObjectMissing):
            store.get(kind, oid)
        with pytest.raises(ObjectMissing):
            list(store.get_many([(kind, oid)]))
        with pytest.raises(ObjectMissing):
            list(store.export_packs([(kind, oid)]))
        store.flush()
    assert store.missing([here]) == set()
    assert store.sizes(Kind.NODE, [here, A]) == {here: 4}
    assert store.sizes(Kind.BLOB, [here, A]) == {}


def test_missing_of_many(store: Any) -> None:
    """Asking for very many ids at once gives the same answer."""
    here = {store.put(Kind.BLOB, b"%d" % n) for n in range(100)}
    absent = {blob_id(b"no %d" % n) for n in range(25_000)}
    store.flush()
    assert store.missing([*here, *absent]) == absent


def test_oversized_bodies_are_refused(store: Any) -> None:
    """A body above the limit of its kind is refused before it is kept."""
    with pytest.raises(TooLarge):
        store.put(Kind.NODE, bytes(BODY_BYTES_MAX[Kind.NODE] + 1))


def test_packs_travel(store: Any) -> None:
    """Any selection of objects goes out in packs within the limits and comes in again."""
    objects = some_objects(2, 400)
    oids = {store.put(kind, body): (kind, body) for kind, body in objects}
    store.flush()
    wanted = [(kind, oid) for n, (oid, (kind, _)) in enumerate(oids.items()) if n % 3 or n < 150]
    other, came = MemoryStore(), []
    for pack in store.export_packs(wanted):
        assert len(pack.sizes) <= OBJECTS_MAX
        assert sum(pack.sizes) <= PACK_BYTES_MAX or len(pack.sizes) == 1
        came += other.put_pack(pack)
    assert sorted(came) == sorted(oid for _, oid in wanted)
    assert dict(other.get_many(wanted)) == {oid: oids[oid][1] for _, oid in wanted}


def test_received_packs_are_kept(store: Any) -> None:
    """The ids come in the pack's order, and what was there already does no harm."""
    objects = some_objects(3, 30)[:30]
    for kind, body in objects[:10]:
        store.put(kind, body)
    expected = [object_id(kind, body) for kind, body in objects]
    for _ in range(2):
        assert store.put_pack(pack_objects(objects)) == expected
        store.flush()
    for (kind, body), oid in zip(objects, expected, strict=True):
        assert store.get(kind, oid) == body


def test_a_pack_with_one_object_twice(store: Any) -> None:
    """A peer may send an object twice in a pack; it is kept once."""
    pack = pack_objects([(Kind.BLOB, b"same"), (Kind.BLOB, b"same"), (Kind.BLOB, b"other")])
    ids = store.put_pack(pack)
    store.flush()
    assert ids[0] == ids[1] != ids[2]
    assert store.get(Kind.BLOB, ids[0]) == b"same"
    [out] = store.export_packs([(Kind.BLOB, ids[0]), (Kind.BLOB, ids[2])])
    assert sorted(body for _, body in unpack_objects(out)) == [b"other", b"same"]


@pytest.mark.parametrize(
    "pack",
    [
        Pack(b"\1", (5,), False, b"four"),
        Pack(b"\1", (3,), False, b"four"),
        Pack(b"\1\1", (4,), False, b"four"),
        Pack(b"\x63", (4,), False, b"four"),
        Pack(b"\1", (4,), True, b"four"),
        Pack(b"\1", (1 << 40,), True, pack_objects([(Kind.BLOB, bytes(1000))]).data),
        Pack(b"\1", (999,), True, pack_objects([(Kind.BLOB, bytes(1000))]).data),
    ],
)
def test_lying_packs_are_refused(store: Any, pack: Pack) -> None:
    """A pack that is not what its outline says leaves nothing behind."""
    with pytest.raises(PackCorrupt):
        store.put_pack(pack)
    store.flush()
    assert store.missing([blob_id(b"four")])


def test_packs_beyond_the_limits_are_refused(store: Any) -> None:
    """Too many objects, or one too large for its kind."""
    with pytest.raises(TooLarge):
        store.put_pack(pack_objects([(Kind.BLOB, b"%d" % n) for n in range(OBJECTS_MAX + 1)]))
    with pytest.raises(TooLarge):
        store.put_pack(pack_objects([(Kind.NODE, bytes(BODY_BYTES_MAX[Kind.NODE] + 1))]))


def move(store: Any, name: str, old: ObjectId | None, new: ObjectId | None) -> None:
    store.move_refs([RefMove(name, old, new)], time_us=7, actor="me", why="test")


def test_states_are_saved_with_the_move_or_not_at_all(store: Any) -> None:
    """What has to be true exactly when a ref has moved goes in its transaction."""
    store.set_states({"old": b"1"})
    how: dict[str, Any] = {"time_us": 7, "actor": "me", "why": "test"}
    store.move_refs([RefMove("main", None, A)], states={"mark": b"a", "old": None}, **how)
    assert (store.get_state("mark"), store.get_state("old")) == (b"a", None)
    with pytest.raises(RefMoved):
        store.move_refs([RefMove("main", B, C)], states={"mark": b"b"}, **how)
    assert store.get_state("mark") == b"a"


def test_refs_move_by_compare_and_swap(store: Any) -> None:
    """A move from where the ref is succeeds, any other changes nothing and is not logged."""
    assert store.last_log_entry() is None
    move(store, "main", None, A)
    move(store, "main", A, B)
    with pytest.raises(RefMoved) as caught:
        store.move_refs(
            [RefMove("other", None, C), RefMove("main", A, C)], time_us=8, actor="me", why="late"
        )
    assert (caught.value.expected, caught.value.found) == (A, B)
    assert store.list_refs() == {"main": B}
    move(store, "main", B, None)
    assert store.find_ref("main") is None
    assert [(e.seq, e.old, e.new) for e in store.list_log()] == [
        (1, None, A),
        (2, A, B),
        (3, B, None),
    ]
    check_chain(store.list_log())
    assert store.last_log_entry() == store.list_log()[-1]
    assert [e.seq for e in store.list_log(after=1, limit=1)] == [2]


def test_moving_a_ref_makes_objects_durable(store: Any) -> None:
    """Objects come before the ref that names them."""
    oid = store.put(Kind.MANIFEST, b"manifest")
    move(store, "main", None, oid)
    assert store.get(Kind.MANIFEST, oid) == b"manifest"
    assert not store.missing([oid])


def test_leases_end(store: Any) -> None:
    """What is leased is pinned until its time or until it is dropped; a grant prolongs all."""
    store.grant_lease("s", [A], 100)
    store.grant_lease("s", [B], 200)
    store.grant_lease("t", [C], 50)
    assert store.leased(40) == {A, B, C}
    assert store.leased(150) == {A, B}
    assert store.leased(200) == set()
    store.drop_lease("s")
    assert store.leased(0) == {C}


def test_sessions_remember_frames(store: Any) -> None:
    """Frames are remembered by session until it ends; noting one twice is no harm."""
    for _ in range(2):
        store.add_frames("s", [b"f1"], 1)
    store.add_frames("t", [b"f2"], 1)
    assert store.frames_of("s") == {b"f1"}
    store.end_session("s")
    assert (store.frames_of("s"), store.frames_of("t")) == (set(), {b"f2"})


def test_state_is_set_and_dropped(store: Any) -> None:
    """Named values are replaced and dropped together."""
    store.set_states({"a": b"1", "b": b"2"})
    store.set_states({"a": None, "b": b"3", "c": b""})
    assert [store.get_state(name) for name in "abc"] == [None, b"3", b""]


def test_states_are_listed_by_prefix(store: Any) -> None:
    """Those whose names begin so come in order, and no others."""
    store.set_states({"op 2": b"2", "op 1": b"1", "op": b"no", "oq": b"no", "mark x": b"no"})
    assert list(store.list_states("op ").items()) == [("op 1", b"1"), ("op 2", b"2")]


def test_tracking_moves_with_refs_or_not_at_all(store: Any) -> None:
    """Tracking refs and states are replaced in the transaction that moves a ref."""
    store.set_tracking("merge", {"unfinished": A}, {"s": b"1"})
    assert store.get_state("s") == b"1"
    how: dict[str, Any] = {"time_us": 1, "actor": "me", "why": "test"}
    with pytest.raises(RefMoved):
        store.move_refs([RefMove("main", A, B)], tracking={"merge": {}}, **how)
    assert store.tracking("merge") == {"unfinished": A}
    store.move_refs([RefMove("main", None, B)], tracking={"merge": {}}, **how)
    assert store.tracking("merge") == {}


def test_remotes_are_kept_apart(store: Any) -> None:
    """Tracking refs are replaced as a whole; logs grow; dropping takes one remote's only."""
    move(store, "main", None, A)
    move(store, "main", A, B)
    log = store.list_log()
    for remote in ("one", "two"):
        store.set_tracking(remote, {"main": A, "old": C})
        store.set_tracking(remote, {"main": B})
        store.append_remote_log(remote, log[:1])
        store.append_remote_log(remote, log[1:])
    assert store.tracking("one") == {"main": B}
    assert store.remote_log("one") == log
    assert store.remote_log("one", after=1) == log[1:]
    store.drop_remote("one")
    assert (store.tracking("one"), store.remote_log("one")) == ({}, [])
    assert (store.tracking("two"), store.remote_log("two")) == ({"main": B}, log)
