"""Replacing damaged objects loses nothing that is whole, whatever it was stored against."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from gsync.objects.oid import Kind, ObjectId, blob_id
from gsync.store.base import ObjectMissing
from gsync.store.mend import Found
from gsync.store.sqlite import SqliteStore
from gsync.store.upkeep import RootsMoved


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with SqliteStore.create(tmp_path / "store.db") as opened:
        yield opened


def damaged(store: SqliteStore) -> set[ObjectId]:
    return {oid for oid, problem in store.check_objects() if problem}


def chain(store: SqliteStore, length: int) -> list[Found]:
    """Nodes of which each is stored as a delta of the one before."""
    body = random.Random(1).randbytes(3000)
    found: list[Found] = []
    for n in range(length):
        body = body[:-2] + b"%02d" % n
        oid = store.put(Kind.NODE, body, near=found[-1][1] if found else None)
        store.flush()
        found.append((Kind.NODE, oid, body))
    deltas = store._select("SELECT count(*) FROM pack WHERE encoding = 2")
    assert deltas == [(length - 1,)]
    return found


def test_deltas_of_a_replaced_base_are_whole_again(store: SqliteStore) -> None:
    """When the base of a chain is replaced, what was damaged with it reads again."""
    nodes = chain(store, 4)
    store._db.query("UPDATE pack SET data = zeroblob(length(data)) WHERE id = 1")
    assert damaged(store) == {oid for _, oid, _ in nodes}
    store.replace_objects(nodes[:1])
    assert damaged(store) == set()
    assert [store.get(Kind.NODE, oid) for _, oid, _ in nodes] == [body for _, _, body in nodes]


def test_a_delta_of_a_row_under_a_wrong_id_stays_whole(store: SqliteStore) -> None:
    """Two exchanged rows: the delta was made against what lies there, and keeps its body."""
    nodes = chain(store, 2)
    blob = store.put(Kind.BLOB, b"other")
    store.flush()
    base = nodes[0][1]
    for old, new in ((base, b"-"), (blob, base), (b"-", blob)):
        store._db.query("UPDATE object SET oid = ? WHERE oid = ?", (new, old))
    assert damaged(store) == {base, blob}
    found = list(store.find_stray({}, damaged(store)))
    assert {oid for _, oid, _ in found} == {base, blob}
    store.replace_objects(found)
    store.drop_leftovers()
    assert damaged(store) == set()
    assert store.get(Kind.NODE, nodes[1][1]) == nodes[1][2]
    assert store.get(Kind.BLOB, blob) == b"other"


def test_what_is_a_delta_of_a_dropped_object_stays(store: SqliteStore) -> None:
    """A damaged base that still serves its delta may go; the delta is stored whole first."""
    nodes = chain(store, 2)
    wrong = blob_id(b"somebody else")
    store._db.query("UPDATE object SET oid = ? WHERE oid = ?", (wrong, nodes[0][1]))
    store.drop_damaged([wrong], store.mark_collection())
    assert damaged(store) == set()
    assert store.get(Kind.NODE, nodes[1][1]) == nodes[1][2]
    with pytest.raises(ObjectMissing):
        store.get(Kind.NODE, nodes[0][1])


def test_nothing_is_dropped_when_a_root_came(store: SqliteStore) -> None:
    """What was worked out before a lease or a ref came is not acted on."""
    oid = store.put(Kind.BLOB, b"x")
    mark = store.mark_collection()
    store.grant_lease("push", [oid], 1)
    with pytest.raises(RootsMoved):
        store.drop_damaged([oid], mark)
    assert store.get(Kind.BLOB, oid) == b"x"


def test_a_pack_that_was_cut_off_gives_what_is_before_the_cut(store: SqliteStore) -> None:
    """Of a pack that is not compressed, whole bodies are found before the cut."""
    bodies = [random.Random(n).randbytes(200) for n in range(10)]
    oids = [store.put(Kind.BLOB, body) for body in bodies]
    store.flush()
    store._db.query("UPDATE pack SET data = substr(data, 1, 950)")
    assert damaged(store) == set(oids)
    store.replace_objects(list(store.find_stray({}, damaged(store))))
    assert damaged(store) == set(oids[4:])


def test_an_object_that_was_not_there_gets_a_row(store: SqliteStore) -> None:
    """A missing object is added, found at once, and replaced again without harm."""
    found = (Kind.BLOB, blob_id(b"new"), b"new")
    for _ in range(2):
        store.replace_objects([found])
        store.drop_leftovers()
        assert store.get(Kind.BLOB, found[1]) == b"new"
        assert damaged(store) == set()
    assert store.totals() == (1, 3)
