"""Walks along manifests: order, ancestry, and what two histories share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from gsync.objects.encoding import decode_trusted, encode
from gsync.objects.model import Manifest, decode_manifest
from gsync.objects.oid import Kind, ObjectId
from gsync.store.base import ObjectMissing, ObjectReader, State


def get_manifest(store: ObjectReader, oid: ObjectId) -> Manifest:
    """Return the manifest `oid`, or raise ObjectMissing."""
    return decode_manifest(store.get(Kind.MANIFEST, oid))


_FORGOTTEN = "forgotten"


def forgotten_ids(store: State) -> set[ObjectId]:
    """Return the manifests that were forgotten on purpose: absent without being a hole."""
    body = store.get_state(_FORGOTTEN)
    return set(decode_trusted(body)) if body else set()


def remember_forgotten(store: State, oids: Iterable[ObjectId]) -> None:
    """Add `oids` to what is absent on purpose."""
    known = forgotten_ids(store)
    if not known.issuperset(oids):
        store.set_states({_FORGOTTEN: encode(sorted(known | set(oids)))})


def list_ancestors(store: ObjectReader, tips: Iterable[ObjectId]) -> Iterator[ObjectId]:
    """Yield `tips` and all manifests they came from, each once, nearer ones first.

    A manifest that is not in the store ends its line: history may have been forgotten.
    """
    todo = list(dict.fromkeys(tips))
    seen = set(todo)
    for oid in todo:
        try:
            manifest = get_manifest(store, oid)
        except ObjectMissing:
            continue
        yield oid
        for parent in manifest.parents:
            if parent not in seen:
                seen.add(parent)
                todo.append(parent)


def is_ancestor(store: ObjectReader, old: ObjectId, new: ObjectId) -> bool:
    """Return whether `new` came from `old`, or is `old`; reads the manifests between at least."""
    return any(oid == old for oid in list_ancestors(store, [new]))


def order_new(
    store: ObjectReader, wants: Iterable[ObjectId], known: Iterable[ObjectId]
) -> list[ObjectId]:
    """Return the manifests that `wants` reach and `known` do not, every parent before its child.

    What is known stands for all its ancestors. In a line the walk ends at the first known
    manifest; only where lines join are the ancestors of the known ones looked up. A parent
    that is not in the store was forgotten, and ends its line.

    Raises:
        ObjectMissing: a want is not in the store.
    """
    known = set(known)
    all_known: set[ObjectId] | None = None
    order: list[ObjectId] = []
    done: set[ObjectId] = set()
    for want in wants:
        stack = [(want, False)]
        while stack:
            oid, expanded = stack.pop()
            if expanded:
                order.append(oid)
                continue
            if oid in done or oid in known or (all_known is not None and oid in all_known):
                continue
            done.add(oid)
            parents = get_manifest(store, oid).parents
            if len(parents) > 1 and all_known is None and known:
                all_known = set(list_ancestors(store, known))
            stack.append((oid, True))
            absent = store.missing(parents)
            stack += [(parent, False) for parent in reversed(parents) if parent not in absent]
    return order


def choose_haves(store: ObjectReader, tips: Iterable[ObjectId], have_max: int) -> list[ObjectId]:
    """Return `tips` and ancestors of theirs at growing distances, at most `have_max`.

    A peer whose history ends k manifests back finds one that it knows at most about k
    further back than the newest it knows.
    """
    haves = list(dict.fromkeys(tips))
    step, at = 1, 0
    for index, oid in enumerate(list_ancestors(store, haves[:1])):
        if len(haves) >= have_max:
            break
        if index >= at:
            haves.append(oid)
            at, step = index + step, step * 2 if index >= 16 else 1
    return list(dict.fromkeys(haves))[:have_max]


# --- The base of a merge --------------------------------------------------------------

_OURS, _THEIRS, _BELOW = 1, 2, 4


def merge_base(store: ObjectReader, ours: ObjectId, theirs: ObjectId) -> ObjectId | None:
    """Return the last manifest that both came from, or None if there is none in the store.

    Of several best ones (a criss-cross) it is the one with the longest way to a first
    manifest, of those the greatest id (13-merge, section 1); the same whichever side is ours.
    Reads the manifests since the base; only of several best ones the whole history.

    Raises:
        ObjectMissing: `ours` or `theirs` is not in the store.
    """
    found = _best_common(store, ours, theirs)
    if len(found) <= 1:
        return next(iter(found), None)
    distance: dict[ObjectId, int] = {}
    for oid in order_new(store, found, ()):
        parents = get_manifest(store, oid).parents
        distance[oid] = 1 + max((distance.get(parent, 0) for parent in parents), default=0)
    return max(found, key=lambda oid: (distance[oid], oid))


def _best_common(store: ObjectReader, ours: ObjectId, theirs: ObjectId) -> set[ObjectId]:
    """Return common ancestors, the best ones among them; only one if it is the only best.

    Each side's mark is handed down, line by line in step. What has both is a common ancestor,
    and all that the walk has seen below it is marked so at once: nothing better lies there.
    """
    parents = {tip: get_manifest(store, tip).parents for tip in (ours, theirs)}
    marks: dict[ObjectId, int] = {}
    found: set[ObjectId] = set()
    waiting = [(ours, _OURS), (theirs, _THEIRS)]
    for oid, mark in waiting:
        before = marks.get(oid, 0)
        now = before | mark
        if now == before or before & _BELOW:
            continue
        if oid not in parents:
            try:
                parents[oid] = get_manifest(store, oid).parents
            except ObjectMissing:
                continue
        marks[oid] = now
        if now == _OURS | _THEIRS:
            found.add(oid)
            found -= _mark_below(marks, parents, oid)
        else:
            waiting += [(parent, mark) for parent in parents[oid]]
    return found


def _mark_below(
    marks: dict[ObjectId, int], parents: Mapping[ObjectId, tuple[ObjectId, ...]], oid: ObjectId
) -> set[ObjectId]:
    """Mark what the walk has seen below `oid`, and the next beyond it; return all of it."""
    found: set[ObjectId] = set()
    todo = list(parents[oid])
    for below in todo:
        before = marks.get(below, 0)
        if not before & _BELOW:
            marks[below] = before | _BELOW
            found.add(below)
            if before:
                todo += parents[below]
    return found
