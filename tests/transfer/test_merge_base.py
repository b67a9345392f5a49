"""The last manifest that two came from, over histories of every shape."""

from __future__ import annotations

import random
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsync.objects.model import Manifest, encode_manifest
from gsync.objects.oid import Kind, ObjectId
from gsync.store.base import ObjectMissing
from gsync.store.memory import MemoryStore
from gsync.transfer.history import merge_base


class History:
    """Manifests by name, each with the names of its parents."""

    def __init__(self, text: str = "") -> None:
        self.store = MemoryStore()
        self.ids: dict[str, ObjectId] = {}
        self.parents: dict[str, list[str]] = {}
        for word in text.split():
            name, _, parents = word.partition(":")
            self.add(name, [p for p in parents.split(",") if p])

    def add(self, name: str, parents: list[str], *, absent: bool = False) -> None:
        self.parents[name] = parents
        manifest = Manifest(tuple(self.ids[p] for p in parents), (), "me", 1, name)
        store = MemoryStore() if absent else self.store
        self.ids[name] = store.put(Kind.MANIFEST, encode_manifest(manifest))

    def base(self, ours: str, theirs: str) -> str | None:
        found = merge_base(self.store, self.ids[ours], self.ids[theirs])
        assert found == merge_base(self.store, self.ids[theirs], self.ids[ours])
        return next((name for name, oid in self.ids.items() if oid == found), None)


@pytest.mark.parametrize(
    ("description", "history", "ours", "theirs", "base"),
    [
        ("the same", "a b:a", "b", "b", "b"),
        ("theirs came from ours", "a b:a c:b", "b", "c", "b"),
        ("a fork", "a b:a c:b d:b e:d", "c", "e", "b"),
        ("strangers", "a b x y:x", "b", "y", None),
        ("merged before, went on", "a b:a c:a d:b,c e:c", "d", "e", "c"),
        ("merged before both went on", "a b:a c:a m:b,c d:m e:c", "d", "e", "c"),
        ("a short way past the base", "a b:a c:b d:c,a e:c,a", "d", "e", "c"),
        ("criss-cross of unequal lengths", "a b:a x:a y:x m:b,y n:y,b", "m", "n", "y"),
        ("criss-cross with a third root", "a b:a z c:a,z d:c m:b,d n:d,b", "m", "n", "d"),
    ],
)
def test_cases(description: str, history: str, ours: str, theirs: str, base: str | None) -> None:
    """The base is the common ancestor that is furthest from the beginning."""
    assert History(history).base(ours, theirs) == base


def test_ties_go_to_the_greatest_id() -> None:
    """In an even criss-cross the greater id is the base, whoever asks."""
    h = History("a b:a c:a m:b,c n:c,b")
    assert h.base("m", "n") == max("bc", key=h.ids.__getitem__)


@given(seed=st.integers(0, 2**32))
def test_equals_the_rule_word_by_word(seed: int) -> None:
    """In any history the walk finds what comparing all sets of ancestors finds."""
    r = random.Random(seed)
    h = History()
    names = [str(i) for i in range(r.randint(1, 12))]
    for i, name in enumerate(names):
        h.add(name, r.sample(names[max(0, i - 5) : i], min(i, r.choice([0, 1, 1, 2, 2, 3]))))
    above: dict[str, set[str]] = {}
    distance: dict[str, int] = {}
    for name in names:
        above[name] = {name}.union(*(above[parent] for parent in h.parents[name]))
        distance[name] = max((distance[parent] + 1 for parent in h.parents[name]), default=0)
    for ours, theirs in product(names[-4:], repeat=2):
        common = above[ours] & above[theirs]
        best = [c for c in common if not any(c in above[d] for d in common - {c})]
        expected = max(best, key=lambda name: (distance[name], h.ids[name]), default=None)
        assert h.base(ours, theirs) == expected


def test_reads_follow_the_distance() -> None:
    """Of a history of 1,000 manifests only those since the base are read."""
    h = History()
    for i in range(1000):
        h.add(f"{i}", [f"{i - 1}"] if i else [])
    h.add("x", ["990"])
    h.store.reads = 0
    assert h.base("999", "x") == "990"
    assert h.store.reads <= 60


def test_forgotten_manifests_are_no_base() -> None:
    """A line ends where a manifest is not in the store; a tip has to be there."""
    h = History("a")
    h.add("gone", ["a"], absent=True)
    for name in ("b", "c"):
        h.add(name, ["gone"])
    assert h.base("b", "c") is None
    with pytest.raises(ObjectMissing):
        merge_base(h.store, h.ids["b"], h.ids["gone"])
