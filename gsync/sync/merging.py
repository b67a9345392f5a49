"""Two histories become one: what merges is merged, what does not is kept as data (13-merge).

An unfinished merge is a manifest with both parents and the collection `conflicts`; no branch
points at it, and folder and databases stay as they were. It is kept by tracking refs under
the name `merge`, so that collection keeps what it names and `gsync refs` shows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gsync.changes import Change, MergeConflict
from gsync.errors import Conflict, Invalid, NotFound
from gsync.frozen import replace
from gsync.maps.merge import (
    CONFLICTS,
    Choice,
    CollectionMerge,
    Combine,
    merge_collections,
    merge_maps,
)
from gsync.maps.omap import EMPTY_MAP, build_map, count_entries, edit_map, find_value, list_entries
from gsync.objects.encoding import decode_trusted
from gsync.objects.model import (
    EMPTY_MAP_BODY,
    FILES,
    Collection,
    Manifest,
    encode_manifest,
)
from gsync.objects.oid import Kind, ObjectId
from gsync.paths import show_path
from gsync.sync.comparetables import split_collection
from gsync.sync.operations import operation_state
from gsync.sync.repository import Repository, now_us
from gsync.transfer.history import get_manifest, is_ancestor, merge_base
from gsync.views.conflicts import (
    StoredConflict,
    decode_conflict,
    encode_conflicts,
    store_collection_conflict,
    store_conflict,
)
from gsync.views.files import check_tree_changes
from gsync.views.rows.values import LoadContent

if TYPE_CHECKING:
    from gsync.replicas.tables.base import Applied

TRACKED = "merge"


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A merge that waits for its conflicts to be resolved.

    Attributes:
        oid: The manifest that holds it.
        manifest: That manifest: both parents, what merged, and the conflicts.
        name: What is merged, as the user called it.
        base: What both sides changed, or None for nothing.
    """

    oid: ObjectId
    manifest: Manifest
    name: str
    base: ObjectId | None

    @property
    def ours(self) -> ObjectId:
        """What HEAD was when the merge began."""
        return self.manifest.parents[0]

    @property
    def theirs(self) -> ObjectId:
        """What is merged into it."""
        return self.manifest.parents[1]


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge came to.

    Attributes:
        oid: The new manifest, or None while there are conflicts, or nothing to merge.
        conflicts: How many there are.
        applied: What was written into databases.
        would: In a dry run, the manifest that it would be, ours where there are conflicts.
    """

    oid: ObjectId | None
    conflicts: int = 0
    applied: dict[str, Applied] | None = None
    would: Manifest | None = None


class MergeUnfinished(Conflict):
    """Another merge waits for its conflicts to be resolved."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"a merge of {name} is not finished",
            hint="see 'gsync conflicts'; then 'gsync merge --continue', or '--abort'",
        )


class Unrelated(Conflict):
    """Two histories have no manifest in common."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} and HEAD have no history in common",
            hint=f"is it the right remote? if so, 'gsync merge {name}' takes both together: what"
            " only one has stays, and what both have differently is a conflict",
        )


def check_no_merge(repo: Repository) -> None:
    """Raise MergeUnfinished if HEAD must not move, because a merge began from it."""
    unfinished = find_unfinished(repo)
    if unfinished is not None:
        raise MergeUnfinished(unfinished.name)
    if repo.store.tracking(TRACKED):  # finished by a version that dropped this afterwards
        repo.store.set_tracking(TRACKED, {})


def check_finished(repo: Repository, oid: ObjectId, name: str) -> None:
    """Raise Invalid if manifest `oid` is an unfinished merge, whose conflicts nobody decided."""
    if get_manifest(repo.store, oid).find(CONFLICTS) is not None:
        raise Invalid(
            f"{name} is an unfinished merge, and history does not build on one",
            hint="merge again what it merged: 'gsync show' names it, as its second parent",
        )


def find_unfinished(repo: Repository) -> Unfinished | None:
    """Return the merge that waits, or None."""
    kept = repo.store.tracking(TRACKED)
    oid = kept.get("unfinished")
    if oid is None:
        return None
    manifest = get_manifest(repo.store, oid)
    head = repo.head()
    ours, theirs = manifest.parents
    # A crash after HEAD moved, before this was dropped: it is finished all the same.
    if head is not None and head != ours and is_ancestor(repo.store, theirs, head):
        return None
    base = kept.get("base") or merge_base(repo.store, ours, theirs)
    return Unfinished(oid, manifest, manifest.message.removeprefix("merge "), base)


def merge(
    repo: Repository,
    theirs: ObjectId,
    name: str,
    *,
    databases: bool = True,
    accept: Sequence[str] = (),
    dry_run: bool = False,
    unrelated: bool = False,
) -> Merged:
    """Merge manifest `theirs` into HEAD; the caller holds the lock.

    Without conflicts folder, databases and HEAD follow at once; with conflicts nothing live
    is touched and they are kept until they are resolved.

    Args:
        name: What it is, for messages: `origin/main`.
        unrelated: Merge it also where the two have no history in common.

    Raises:
        MergeUnfinished: another merge is not finished.
        Unrelated: the two have nothing in common.
        Invalid: `theirs` is an unfinished merge.
        ReplicaChanged, RowsChanged: unsaved changes are in the way; nothing was changed.
    """
    check_no_merge(repo)
    check_finished(repo, theirs, name)
    ours = repo.head()
    if ours is None or is_ancestor(repo.store, ours, theirs):
        return Merged(None) if dry_run else _forward(repo, ours, theirs, name, databases, accept)
    if is_ancestor(repo.store, theirs, ours):
        return Merged(None)
    if not unrelated and merge_base(repo.store, ours, theirs) is None:
        raise Unrelated(name)
    collections, conflicts = merge_manifests(repo, ours, theirs)
    manifest = Manifest(
        parents=(ours, theirs),
        collections=collections,
        author=repo.author(),
        time_us=now_us(),
        message=f"merge {name}",
    )
    if dry_run:
        return Merged(None, len(conflicts), would=manifest)
    if conflicts:
        _keep(repo, manifest, conflicts, "merge")
        return Merged(None, len(conflicts))
    return _finish(repo, ours, manifest, name, databases, accept)


def _forward(
    repo: Repository,
    ours: ObjectId | None,
    theirs: ObjectId,
    name: str,
    databases: bool,
    accept: Sequence[str],
) -> Merged:
    from gsync.sync.checkout import move_folder

    applied = move_folder(
        repo, ours, theirs, why=f"merge {name}", databases=databases, accept=accept
    )
    return Merged(theirs, 0, applied)


def _finish(
    repo: Repository,
    ours: ObjectId,
    manifest: Manifest,
    name: str,
    databases: bool,
    accept: Sequence[str],
    merge: Mapping[str, ObjectId] | None = None,
    undoes: int | None = None,
) -> Merged:
    from gsync.sync.checkout import move_folder

    oid = repo.store.put(Kind.MANIFEST, encode_manifest(manifest))
    repo.store.flush()
    applied = move_folder(
        repo,
        ours,
        oid,
        why=f"merge {name}",
        databases=databases,
        accept=accept,
        merge=merge,
        undoes=undoes,
    )
    return Merged(oid, 0, applied)


# --- Merging manifests ---------------------------------------------------------------


def merge_manifests(
    repo: Repository, ours: ObjectId, theirs: ObjectId
) -> tuple[tuple[Collection, ...], list[StoredConflict]]:
    """Return the merged collections, ours where there is a conflict, and the conflicts."""
    store = repo.store
    base_id = merge_base(store, ours, theirs)
    base = get_manifest(store, base_id) if base_id is not None else None
    return merge_contents(repo, base, get_manifest(store, ours), get_manifest(store, theirs))


def merge_contents(
    repo: Repository, base: Manifest | None, ours: Manifest, theirs: Manifest
) -> tuple[tuple[Collection, ...], list[StoredConflict]]:
    """Return the merged collections, ours where there is a conflict, and the conflicts."""
    found: list[Collection] = []
    conflicts: list[StoredConflict] = []
    sides = base, ours, theirs
    for part in merge_collections(*sides):
        merged = part.ours
        if part.choice is Choice.THEIRS:
            merged = part.theirs
        elif part.choice is Choice.CONFLICT:
            conflicts.append(_whole(part, part.conflict or "schema"))
        elif part.choice is Choice.ENTRIES:
            merged, more = _merge_entries(repo, part, sides)
            conflicts += more
        if merged is not None:
            found.append(merged)
    return tuple(found), conflicts


def _whole(part: CollectionMerge, kind: str) -> StoredConflict:
    return store_collection_conflict(part.name, kind, part.base, part.ours, part.theirs)


def _merge_entries(
    repo: Repository, part: CollectionMerge, sides: Sequence[Manifest | None]
) -> tuple[Collection | None, list[StoredConflict]]:
    """Merge the entries of one collection that both sides changed."""
    assert part.ours is not None and part.theirs is not None
    store = repo.store
    base = part.base.root if part.base else None
    combine: Combine
    schema = part.ours.schema
    if part.name == FILES:
        from gsync.views.mergefiles import FileMerger

        combine = FileMerger(_loader(repo), store.put).combine
    elif split_collection(part.name):
        prepared = _prepare_rows(repo, part, sides)
        if prepared is None:
            return part.ours, [_whole(part, "schema")]
        schema, combine = prepared
    else:
        return part.ours, [_whole(part, "edit/edit")]
    outcomes: Iterable[Change | MergeConflict] = merge_maps(
        store, base, part.ours.root, part.theirs.root, combine
    )
    if part.name == FILES:
        from gsync.views.mergefiles import find_path_conflicts

        outcomes = find_path_conflicts(store, base, part.ours.root, outcomes)
    conflicts: list[StoredConflict] = []

    def edits() -> Iterator[tuple[bytes, bytes | None]]:
        for outcome in outcomes:
            if isinstance(outcome, MergeConflict):
                conflicts.append(store_conflict(part.name, outcome))
            else:
                yield outcome.key, outcome.new

    root = edit_map(store, part.ours.root, edits())
    merged = Collection(part.name, root, count_entries(store, root), schema, part.ours.view)
    return merged, conflicts


def _loader(repo: Repository) -> LoadContent:
    from gsync.sync.recorded import content_loader

    return content_loader(repo.store)


def _prepare_rows(
    repo: Repository, part: CollectionMerge, sides: Sequence[Manifest | None]
) -> tuple[ObjectId, Combine] | None:
    """Return the merged schema's id and what merges rows, or None if there is no such schema."""
    from gsync.sync.recorded import get_schema, policies_of
    from gsync.views.rows.merge import RowMerger, merge_schemas
    from gsync.views.rows.schema import encode_schema
    from gsync.views.rows.values import spill_to

    assert part.ours is not None and part.theirs is not None
    base = get_schema(repo.store, part.base) if part.base else None
    ours, theirs = get_schema(repo.store, part.ours), get_schema(repo.store, part.theirs)
    merged = merge_schemas(base, ours, theirs)
    if merged is None:
        return None
    oid = repo.store.put(Kind.SCHEMA, encode_schema(merged))
    merger = RowMerger(
        *(base, ours, theirs, merged),
        *(_loader(repo), spill_to(repo.store.put), policies_of(repo, sides, part.name)),
    )
    return oid, merger.combine


# --- Conflicts as data ---------------------------------------------------------------


def _keep(
    repo: Repository, manifest: Manifest, conflicts: Sequence[StoredConflict], why: str
) -> None:
    """Keep an unfinished merge; the one kept before is replaced, but for its base."""
    kept = repo.store.tracking(TRACKED)
    _set_kept(repo, kept | {"unfinished": store_unfinished(repo, manifest, conflicts)}, why)


def _set_kept(repo: Repository, merge: Mapping[str, ObjectId], why: str) -> None:
    from gsync.sync.checkout import merge_moves

    recorder = repo.recorder(why)
    operation = recorder.next(repo.store, refs=merge_moves(repo, merge))
    repo.store.set_tracking(TRACKED, merge, operation_state(operation))
    recorder.saved = operation


def store_unfinished(
    repo: Repository, manifest: Manifest, conflicts: Sequence[StoredConflict]
) -> ObjectId:
    """Store a merge with its conflicts, and return its id; nothing points at it yet."""
    store = repo.store
    store.put(Kind.NODE, EMPTY_MAP_BODY)
    entries = encode_conflicts(conflicts)
    root = build_map(store, entries)
    collections = [c for c in manifest.collections if c.name != CONFLICTS]
    collections.append(Collection(CONFLICTS, root, len(entries)))
    manifest = replace(
        manifest, collections=tuple(sorted(collections, key=lambda c: c.name.encode()))
    )
    oid = store.put(Kind.MANIFEST, encode_manifest(manifest))
    store.flush()
    return oid


def list_conflicts(repo: Repository, unfinished: Unfinished) -> Iterator[StoredConflict]:
    """Yield the conflicts of an unfinished merge, resolved ones too, in order."""
    conflicts = unfinished.manifest.find(CONFLICTS)
    if conflicts is not None:
        for key, value in list_entries(repo.store, conflicts.root):
            yield decode_conflict(key, value)


def list_open(repo: Repository) -> list[StoredConflict]:
    """Return the conflicts that wait for a decision; none without an unfinished merge."""
    unfinished = find_unfinished(repo)
    if unfinished is None:
        return []
    return [kept for kept in list_conflicts(repo, unfinished) if kept.resolution is None]


def read_side(
    repo: Repository, unfinished: Unfinished, kept: StoredConflict, side: str
) -> bytes | None:
    """Return the value of a conflict's side, from its manifest where it was not repeated."""
    found = getattr(kept, side)
    if found is None or isinstance(found, bytes):
        return found
    oids = {"ours": unfinished.ours, "theirs": unfinished.theirs}
    oid = oids.get(side) or unfinished.base
    collection = get_manifest(repo.store, oid).find(kept.collection) if oid is not None else None
    if collection is None or kept.key is None:
        return None
    return find_value(repo.store, collection.root, kept.key)


# --- Resolving -----------------------------------------------------------------------


def resolve(
    repo: Repository,
    wanted: Sequence[tuple[str, bytes | None]],
    side: str,
    value: bytes | None = None,
) -> list[StoredConflict]:
    """Decide conflicts; return them as they are now. The caller holds the lock.

    Args:
        wanted: Collection and key of each; every open conflict if empty.
        side: `ours`, `theirs`, `base`, or `edited` for `value`, where None deletes.

    Raises:
        NotFound: no merge is unfinished, or nothing there is in conflict.
        Invalid: the value does not fit there.
    """
    unfinished = _need_unfinished(repo)
    kept = list(list_conflicts(repo, unfinished))
    chosen = set(wanted) or {(k.collection, k.key) for k in kept if k.resolution is None}
    for name, key in chosen - {(k.collection, k.key) for k in kept}:
        raise NotFound(
            f"{_show_key(name, key)} is not in conflict", hint="'gsync conflicts' lists what is"
        )
    done = [k._replace(resolution=side) if (k.collection, k.key) in chosen else k for k in kept]
    manifest = unfinished.manifest
    for before, after in zip(kept, done, strict=True):
        if before is not after:
            decided = value if side == "edited" else read_side(repo, unfinished, after, side)
            manifest = _decide(repo, manifest, after, decided)
    _keep(repo, manifest, done, "resolve")
    return [k for k in done if (k.collection, k.key) in chosen]


def _show_key(name: str, key: bytes | None) -> str:
    if key is None:
        return name
    if name == FILES:
        return show_path(key)
    from gsync.views.rows.show import show_row

    return show_row(f"{name} ", key)


def _need_unfinished(repo: Repository) -> Unfinished:
    unfinished = find_unfinished(repo)
    if unfinished is None:
        raise NotFound("no merge is unfinished", hint="'gsync pull' merges what a remote has")
    return unfinished


def _decide(
    repo: Repository, manifest: Manifest, kept: StoredConflict, value: bytes | None
) -> Manifest:
    """Return the manifest with one conflict's value in its merged map."""
    others = [c for c in manifest.collections if c.name != kept.collection]
    old = manifest.find(kept.collection)
    new: Collection | None
    if kept.key is None:
        new = Collection(*decode_trusted(value)) if value is not None else None
    else:
        assert old is not None  # entries are merged only where both sides have the collection
        root = edit_map(repo.store, old.root, [(kept.key, value)])
        new = replace(old, root=root, count=count_entries(repo.store, root))
    if new is not None:
        others.append(new)
    return replace(manifest, collections=tuple(sorted(others, key=lambda c: c.name.encode())))


def continue_merge(
    repo: Repository,
    *,
    databases: bool = True,
    accept: Sequence[str] = (),
    dry_run: bool = False,
) -> Merged:
    """Finish a merge whose conflicts are all resolved; the caller holds the lock.

    Raises:
        NotFound: no merge is unfinished.
        Conflict: conflicts are open, or HEAD has moved since the merge began.
        Invalid: a file and a path below it were both chosen.
        ReplicaChanged, RowsChanged: unsaved changes are in the way; nothing was changed.
    """
    unfinished = _need_unfinished(repo)
    left = list_open(repo)
    if left:
        raise Conflict(
            f"{len(left)} conflict(s) are not resolved",
            hint="see 'gsync conflicts'; then 'gsync resolve KEY --ours', --theirs or --file F",
        )
    if repo.head() != unfinished.ours:
        raise Conflict(
            "HEAD has moved since this merge began",
            hint="'gsync merge --abort' drops it, resolutions too; then merge again",
        )
    collections = tuple(c for c in unfinished.manifest.collections if c.name != CONFLICTS)
    manifest = replace(unfinished.manifest, collections=collections, time_us=now_us())
    _check_tree(repo, manifest)
    if dry_run:
        return Merged(None)
    try:
        return _finish(
            repo,
            unfinished.ours,
            manifest,
            unfinished.name,
            databases,
            accept,
            merge={},
            undoes=find_undone(unfinished),
        )
    except Conflict as error:
        if error.hint and "snapshot" in error.hint:  # which waits for the merge to end
            error.hint = (
                "undo or move them and try again; or save them: 'gsync merge --abort', which drops"
                " the resolutions, 'gsync snapshot', and merge again"
            )
        raise


_UNDOING = "the undoing of operation "


def undoing(operation: int) -> str:
    """Return what a merge that undoes an operation is called."""
    return f"{_UNDOING}{operation}"


def find_undone(unfinished: Unfinished) -> int | None:
    """Return the operation that a merge undoes when it is finished, or None."""
    number = unfinished.name.removeprefix(_UNDOING)
    return int(number) if number != unfinished.name and number.isdecimal() else None


def _check_tree(repo: Repository, manifest: Manifest) -> None:
    from gsync.maps.diff import diff_maps

    files = manifest.find(FILES)
    parent = get_manifest(repo.store, manifest.parents[0]).find(FILES)
    if files is None:
        return
    old = parent.root if parent else EMPTY_MAP
    try:
        for _ in check_tree_changes(
            repo.store, old, files.root, diff_maps(repo.store, old, files.root)
        ):
            pass
    except Invalid as error:
        raise Invalid(
            f"the resolutions do not go together: {error.message}",
            hint="resolve one of the paths again, with --delete",
        ) from error


def abort_merge(repo: Repository, *, dry_run: bool = False) -> Unfinished:
    """Drop an unfinished merge; nothing live was touched by it. The caller holds the lock."""
    unfinished = _need_unfinished(repo)
    if not dry_run:
        _set_kept(repo, {}, "merge --abort")
    return unfinished
