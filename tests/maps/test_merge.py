"""The merge of maps and collections against a dict, and its symmetry."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsync.changes import Change, MergeConflict
from gsync.maps.merge import Choice, Combined, merge_collections, merge_maps
from gsync.maps.omap import EMPTY_MAP, build_map, edit_map, list_entries
from gsync.objects.encoding import encode
from gsync.objects.model import Collection, Manifest
from gsync.objects.oid import ObjectId
from gsync.store.memory import MemoryStore

Mapping = dict[bytes, bytes]


def greatest(key: bytes, *sides: bytes | None) -> Combined:
    """Merge to the greatest value, so that both outcomes occur: deletions are conflicts."""
    _, ours, theirs = sides
    if ours is None or theirs is None:
        return Combined(None, "delete/edit" if ours is None else "edit/delete")
    return Combined(max(ours, theirs))


@st.composite
def sides(draw: st.DrawFn) -> tuple[Mapping, Mapping, Mapping]:
    """A base and two edits of it, from all alike to nothing in common."""
    r = random.Random(draw(st.integers(0, 2**32)))
    count = draw(st.sampled_from([0, 1, 4, 40, 900]))
    share = draw(st.sampled_from([0.0, 0.02, 0.4]))
    keys = [r.randbytes(r.randint(1, 3)) for _ in range(count + 3)]
    base = {key: encode(r.randbytes(40)) for key in keys[:count]}
    return base, edited(r, base, keys, share), edited(r, base, keys, share)


def edited(r: random.Random, base: Mapping, keys: list[bytes], share: float) -> Mapping:
    side = dict(base)
    for key in keys:
        if r.random() < share:
            if r.random() < 0.4:
                side.pop(key, None)
            else:
                side[key] = encode(r.randint(0, 3))
    return side


def by_listing(base: Mapping, ours: Mapping, theirs: Mapping) -> tuple[Mapping, set[MergeConflict]]:
    """Merge as the page says it, key by key over whole dicts."""
    merged, conflicts = {}, set()
    for key in base.keys() | ours.keys() | theirs.keys():
        old, mine, other = base.get(key), ours.get(key), theirs.get(key)
        value = mine
        if mine == old:
            value = other
        elif other not in (mine, old):
            found = greatest(key, old, mine, other)
            if found.conflict:
                conflicts.add(MergeConflict(key, found.conflict, old, mine, other))
            else:
                value = found.value
        if value is not None:
            merged[key] = value
    return merged, conflicts


def merged(
    store: MemoryStore, base: Mapping, ours: Mapping, theirs: Mapping
) -> tuple[Mapping, set[MergeConflict]]:
    old, mine, other = (build_map(store, sorted(side.items())) for side in (base, ours, theirs))
    return applied(store, mine, merge_maps(store, old, mine, other, greatest))


def applied(
    store: MemoryStore, root: ObjectId, outcomes: Iterable[Change | MergeConflict]
) -> tuple[Mapping, set[MergeConflict]]:
    outcomes = list(outcomes)
    assert [o.key for o in outcomes] == sorted({o.key for o in outcomes})
    changes = [o for o in outcomes if isinstance(o, Change)]
    ours = dict(list_entries(store, root))
    assert all(change.old == ours.get(change.key) for change in changes)
    assert all(change.old != change.new for change in changes)
    new = edit_map(store, root, [(change.key, change.new) for change in changes])
    conflicts = {o for o in outcomes if isinstance(o, MergeConflict)}
    return dict(list_entries(store, new)), conflicts


@given(sides=sides())
def test_merge_equals_listing(sides: tuple[Mapping, Mapping, Mapping]) -> None:
    """Editing ours by what the walk yields gives the map and conflicts of three full listings."""
    assert merged(MemoryStore(), *sides) == by_listing(*sides)


@given(sides=sides())
def test_swapped_sides_merge_alike(sides: tuple[Mapping, Mapping, Mapping]) -> None:
    """With the sides swapped, the same keys conflict, and all others have the same value."""
    base, ours, theirs = sides
    one, conflicts = merged(MemoryStore(), base, ours, theirs)
    two, swapped = merged(MemoryStore(), base, theirs, ours)
    assert {c.swapped() for c in conflicts} == swapped
    for key in {c.key for c in conflicts}:
        one.pop(key, None)
        two.pop(key, None)
    assert one == two


@given(sides=sides())
def test_one_sided_merges(sides: tuple[Mapping, Mapping, Mapping]) -> None:
    """A side that changed nothing adds nothing, and the same change twice is one."""
    base, ours, _ = sides
    for case in [(base, base, ours), (base, ours, base), (base, ours, ours), ({}, ours, {})]:
        assert merged(MemoryStore(), *case) == (ours, set())


def test_deletes_travel() -> None:
    """What one side deleted and the other left is gone; what was added beside it stays."""
    base = {b"a": encode(1), b"b": encode(1), b"c": encode(1)}
    ours = {b"b": encode(1), b"c": encode(1), b"d": encode(1)}
    theirs = {b"a": encode(1), b"c": encode(1), b"e": encode(1)}
    expected = {key: encode(1) for key in (b"c", b"d", b"e")}
    assert merged(MemoryStore(), base, ours, theirs) == (expected, set())


def test_absent_roots_are_empty_maps() -> None:
    """None stands for the map without entries on every side."""
    store = MemoryStore()
    root = build_map(store, [(b"a", encode(1))])
    for empty in (None, build_map(store, [])):
        assert list(merge_maps(store, empty, empty, root, greatest)) == [
            Change(b"a", None, encode(1))
        ]
        assert list(merge_maps(store, empty, root, empty, greatest)) == []
        assert list(merge_maps(store, root, empty, root, greatest)) == []
        assert list(merge_maps(store, root, root, empty, greatest)) == [
            Change(b"a", encode(1), None)
        ]


def test_cost_follows_the_changes() -> None:
    """Two changes in 50,000 entries are merged by reading two paths, not the map."""
    store = MemoryStore()
    base = build_map(store, [(b"%07d" % i, encode(b"x" * 50)) for i in range(50_000)])
    ours = edit_map(store, base, [(b"0025000", encode(1))])
    theirs = edit_map(store, base, [(b"0040000", encode(2))])
    store.reads = 0
    assert list(merge_maps(store, base, ours, theirs, greatest)) == [
        Change(b"0040000", encode(b"x" * 50), encode(2))
    ]
    assert store.reads <= 16


# --- Collections ---------------------------------------------------------------------

A, B, C = (
    Collection("db/main/t", ObjectId(bytes([i]) * 32), 1, EMPTY_MAP, EMPTY_MAP) for i in (1, 2, 3)
)
VIEWED = Collection("db/main/t", ObjectId(b"\4" * 32), 1, EMPTY_MAP, ObjectId(b"\5" * 32))


@pytest.mark.parametrize(
    ("description", "base", "ours", "theirs", "choice", "kind"),
    [
        ("nobody changed it", A, A, A, Choice.OURS, None),
        ("only ours changed", A, B, A, Choice.OURS, None),
        ("only theirs changed", A, A, B, Choice.THEIRS, None),
        ("both made the same change", A, B, B, Choice.OURS, None),
        ("both changed it", A, B, C, Choice.ENTRIES, None),
        ("only ours added it", None, B, None, Choice.OURS, None),
        ("only theirs added it", None, None, B, Choice.THEIRS, None),
        ("both added it, not alike", None, B, C, Choice.ENTRIES, None),
        ("ours stopped recording it", A, None, A, Choice.OURS, None),
        ("theirs stopped recording it", A, A, None, Choice.THEIRS, None),
        ("ours stopped, theirs changed", A, None, B, Choice.CONFLICT, "delete/edit"),
        ("ours changed, theirs stopped", A, B, None, Choice.CONFLICT, "edit/delete"),
        ("only theirs looks at other columns", A, A, VIEWED, Choice.THEIRS, None),
        ("ours changed, theirs looks at other columns", A, B, VIEWED, Choice.CONFLICT, "schema"),
    ],
)
def test_collections(
    description: str,
    base: Collection | None,
    ours: Collection | None,
    theirs: Collection | None,
    choice: Choice,
    kind: str | None,
) -> None:
    """A collection is taken from a side, merged by entries, or a conflict, as the page says."""
    sides = [manifest(side) for side in (base, ours, theirs)]
    (found,) = merge_collections(*sides)
    assert (found.choice, found.conflict) == (choice, kind)
    if base is None:
        assert list(merge_collections(None, *sides[1:])) == [found]


def manifest(collection: Collection | None) -> Manifest:
    return Manifest((), (collection,) if collection else (), "me", 1, "")
