"""Verify, collect, forget: the care of a store (05-store, sections 6 and 7)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from gsync.changes import Change
from gsync.errors import Corrupt, GsyncError, Invalid, NotFound
from gsync.maps.check import check_map
from gsync.maps.omap import list_entries
from gsync.objects.model import FILES, references
from gsync.objects.oid import Kind, ObjectId
from gsync.store.base import ObjectMissing, ObjectReader, RefMove
from gsync.store.reflog import check_chain
from gsync.store.sqlite import SqliteStore
from gsync.sync.checkout import pending_roots
from gsync.sync.operations import list_local_bases, named_manifests
from gsync.transfer.history import (
    forgotten_ids,
    get_manifest,
    list_ancestors,
    remember_forgotten,
)
from gsync.views.files import check_tree_changes

_BATCH = 4096
_DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong with a store.

    Attributes:
        kind: `damaged`, `missing`, `invalid` or `log`.
        id: The object's id in hex, or the ref's name.
        detail: What is wrong with it, and what names it.
    """

    kind: str
    id: str
    detail: str


@dataclass(slots=True)
class Verified:
    """What a verify looked at, and what it found."""

    objects: int = 0
    bytes: int = 0
    manifests: int = 0
    problems: list[Problem] = field(default_factory=list)


def list_roots(store: SqliteStore, now_us: int) -> set[ObjectId]:
    """Return every manifest that something names: what gc starts from.

    Refs, tags, remotes as last seen, the ref logs of this store and of its remotes,
    operations, an unfinished move, and leases. `forget` shortens what log and operations keep.
    """
    roots = set(store.list_refs().values()) | store.leased(now_us)
    forgotten = forgotten_ids(store)
    for entry in store.list_log():
        roots |= {oid for oid in (entry.old, entry.new) if oid is not None and oid not in forgotten}
    roots |= named_manifests(store).keys() - forgotten
    roots |= list_local_bases(store).keys()
    for remote in store.list_remotes():
        roots |= set(store.tracking(remote).values())
    return roots | pending_roots(store)


def verify(
    store: SqliteStore, *, quick: bool = False, progress: Callable[[int], None] | None = None
) -> Verified:
    """Check every object and every root, and go on past what is wrong.

    Every pack is unpacked and every body hashed, unless `quick`; then every manifest that a
    ref, a tag, the log or a remote names is walked to the last reference, and the log's chain
    is followed. Memory holds the ids of all objects: about 100 bytes each.
    """
    found = Verified()
    _verify_database(store, found)
    if store.check_rows():
        return found  # nothing can be read out of such rows
    found.objects, found.bytes = store.totals()
    if not quick:
        for done, (oid, problem) in enumerate(store.check_objects()):
            if problem:
                found.problems.append(Problem("damaged", oid.hex(), problem))
            if progress and done % 1000 == 0:
                progress(done)
    _verify_roots(store, found)
    _verify_logs(store, found)
    return found


def _verify_database(store: SqliteStore, found: Verified) -> None:
    for text in (*store.check_database(), *store.check_rows()):
        found.problems.append(Problem("damaged", "store.db", text))


def _verify_roots(store: SqliteStore, found: Verified) -> None:
    checked_nodes: set[ObjectId] = set()
    named = _names(store)
    done: set[ObjectId] = set()
    forgotten = forgotten_ids(store)
    for oid, name in named.items():
        todo = [oid]
        while todo:
            current = todo.pop()
            is_named = current == oid and name.startswith("ref ")
            if current in done or (
                current in forgotten and not is_named and store.missing([current])
            ):
                continue
            done.add(current)
            try:
                todo += get_manifest(store, current).parents
            except GsyncError as error:
                found.problems.append(_problem(error, current, f"named by {name}"))
                continue
            found.manifests += 1
            _verify_manifest(store, current, checked_nodes, found)


def _verify_manifest(
    store: SqliteStore, oid: ObjectId, checked: set[ObjectId], found: Verified
) -> None:
    manifest = get_manifest(store, oid)
    found.problems.extend(_missing_beside(store, oid))
    for collection in manifest.collections:
        where = f"below {collection.name} of manifest {oid.hex()[:12]}"
        if collection.root in checked:
            continue
        try:
            count = check_map(store, collection.root, checked.__contains__)
            if count != collection.count:
                text = (
                    f"{collection.name} holds {count} entries, the manifest says {collection.count}"
                )
                found.problems.append(Problem("invalid", oid.hex(), text))
            if collection.name == FILES:
                entries = list_entries(store, collection.root)
                changes = (Change(path, None, value) for path, value in entries)
                for _ in check_tree_changes(store, None, collection.root, changes):
                    pass
        except GsyncError as error:
            found.problems.append(_problem(error, collection.root, where))
            continue
        for problem in _missing_below(store, collection.root, checked, where):
            found.problems.append(problem)


def _missing_beside(store: SqliteStore, oid: ObjectId) -> Iterator[Problem]:
    """Yield what a manifest names beside maps and manifests: schemas, views, their extras."""
    where = f"named by manifest {oid.hex()[:12]}"
    todo = [
        (kind, below)
        for kind, below in references(Kind.MANIFEST, store.get(Kind.MANIFEST, oid))
        if kind not in (Kind.NODE, Kind.MANIFEST)
    ]
    for kind, below in dict.fromkeys(todo):
        if kind in (Kind.SCHEMA, Kind.VIEW):
            try:
                inner = references(kind, store.get(kind, below))
                yield from _absent(store, {ref: inside for inside, ref in inner}, where)
            except GsyncError as error:
                yield _problem(error, below, where)
        else:
            yield from _absent(store, {below: kind}, where)


def _missing_below(
    store: SqliteStore, root: ObjectId, checked: set[ObjectId], where: str
) -> Iterator[Problem]:
    """Yield what the map at `root` refers to and the store has not; skips checked subtrees."""
    wanted: dict[ObjectId, Kind] = {}
    for kind, oid in _walk_nodes(store, root, checked):
        wanted[oid] = kind
        if len(wanted) >= _BATCH:
            yield from _absent(store, wanted, where)
            wanted = {}
    yield from _absent(store, wanted, where)


def _walk_nodes(
    store: ObjectReader, root: ObjectId, checked: set[ObjectId]
) -> Iterator[tuple[Kind, ObjectId]]:
    todo = [root]
    while todo:
        oid = todo.pop()
        if oid in checked:
            continue
        checked.add(oid)
        for kind, below in references(Kind.NODE, store.get(Kind.NODE, oid)):
            if kind is Kind.NODE:
                todo.append(below)
            else:
                yield kind, below


def _absent(store: SqliteStore, wanted: dict[ObjectId, Kind], where: str) -> Iterator[Problem]:
    present: set[ObjectId] = set()
    for kind in set(wanted.values()):
        present |= store.sizes(kind, [oid for oid, of in wanted.items() if of is kind]).keys()
    absent = wanted.keys() - present
    for oid in sorted(absent):
        yield Problem(
            "missing", oid.hex(), f"{wanted[oid].name.lower()} {where} is not in the store"
        )
    for oid, kind in wanted.items():
        if kind is Kind.CHUNK_LIST and oid not in absent:
            yield from _absent_chunks(store, oid, where)


def _absent_chunks(store: SqliteStore, oid: ObjectId, where: str) -> Iterator[Problem]:
    try:
        below = dict(_chunks(store, oid, {oid}))
    except GsyncError as error:
        yield _problem(error, oid, where)
        return
    for chunk in sorted(store.missing(below)):
        yield Problem("missing", chunk.hex(), f"chunk {where} is not in the store")


def _chunks(
    store: ObjectReader, oid: ObjectId, seen: set[ObjectId]
) -> Iterator[tuple[ObjectId, Kind]]:
    for kind, below in references(Kind.CHUNK_LIST, store.get(Kind.CHUNK_LIST, oid)):
        if below in seen:
            continue
        seen.add(below)
        yield below, kind
        if kind is Kind.CHUNK_LIST:
            yield from _chunks(store, below, seen)


def _problem(error: GsyncError, oid: ObjectId, where: str) -> Problem:
    if isinstance(error, ObjectMissing):
        return Problem("missing", error.oid.hex(), f"{error.object_kind.name.lower()} {where}")
    kind = "damaged" if isinstance(error, Corrupt) else "invalid"
    return Problem(kind, oid.hex(), f"{error.message} ({where})")


def _names(store: SqliteStore) -> dict[ObjectId, str]:
    named = {oid: f"ref {name}" for name, oid in store.list_refs().items()}
    for remote in store.list_remotes():
        for name, oid in store.tracking(remote).items():
            named.setdefault(oid, f"{remote}/{name}")
    for entry in store.list_log():
        for moved in (entry.new, entry.old):
            if moved is not None:
                named.setdefault(moved, f"entry {entry.seq} of the ref log")
    for oid, operation in named_manifests(store).items():
        named.setdefault(oid, f"operation {operation}")
    for oid, name in list_local_bases(store).items():
        named.setdefault(oid, f"the base {name}")
    return named


def _verify_logs(store: SqliteStore, found: Verified) -> None:
    for name, entries in [
        ("the ref log", store.list_log()),
        *((f"the log of {remote}", store.remote_log(remote)) for remote in store.list_remotes()),
    ]:
        try:
            check_chain(entries)
        except Corrupt as error:
            found.problems.append(Problem("log", name, error.message))
    left = {entry.ref: entry.new for entry in store.list_log() if entry.ref != "forget"}
    refs = store.list_refs()
    for name in sorted(left.keys() | refs.keys()):
        if left.get(name) != refs.get(name):
            found.problems.append(Problem("log", name, "the ref is not where its log left it"))


# --- Collecting ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Collected:
    """What a garbage collection dropped, or would drop: objects, and bytes of their bodies."""

    objects: int
    bytes: int
    kept: int


def collect(store: SqliteStore, now_us: int, *, dry_run: bool = False) -> Collected:
    """Drop all objects that nothing names, and give the space back.

    Raises:
        Corrupt: something named is missing: nothing is dropped from a damaged store.
        Conflict: refs moved meanwhile; nothing was dropped.
    """
    if not dry_run:
        store.drop_expired(now_us)
    mark = store.mark_collection(now_us)
    keep = list_reachable(store, list_roots(store, now_us)) | store.pinned(now_us)
    if dry_run:
        dead = [size for _, oid, size in store.list_objects() if oid not in keep]
        return Collected(len(dead), sum(dead), len(keep))
    dropped = store.drop_objects(keep, mark)
    store.shrink_file()
    return Collected(dropped.objects, dropped.body_bytes, len(keep))


def list_reachable(store: SqliteStore, roots: Iterable[ObjectId]) -> set[ObjectId]:
    """Return all ids that `roots` reach; parents that were forgotten end their line.

    Raises:
        Corrupt: an object is named and missing.
    """
    found: set[ObjectId] = set()
    roots = set(roots)
    todo: list[tuple[Kind, ObjectId]] = [(Kind.MANIFEST, oid) for oid in roots]
    # What something names stays, whatever was forgotten before it was named.
    forgotten = forgotten_ids(store) - roots
    while todo:
        # Blobs have no references and are most of all objects: they are never read.
        batch = [(kind, oid) for kind, oid in todo if oid not in found and oid not in forgotten]
        found.update(oid for _, oid in batch)
        inner = [(kind, oid) for kind, oid in dict.fromkeys(batch) if kind is not Kind.BLOB]
        todo = []
        kinds = {oid: kind for kind, oid in inner}
        try:
            for start in range(0, len(inner), 512):
                for oid, body in store.get_many(inner[start : start + 512]):
                    todo += references(kinds[oid], body)
        except ObjectMissing as error:
            raise Corrupt(
                f"{error.object_kind.name.lower()} {error.oid.hex()} is named but missing;"
                " nothing was collected",
                hint="'gsync verify' says what names it",
                id=error.oid.hex(),
            ) from error
    return found


# --- Forgetting ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeepRule:
    """Which manifests of `main` stay; what any condition keeps is kept."""

    last: int | None = None
    daily: int | None = None
    before_us: int | None = None


def list_forgettable(store: SqliteStore, rule: KeepRule) -> list[ObjectId]:
    """Return the manifests of history that `rule` lets go, newest first.

    What refs, tags and remotes as last seen point at always stays.

    Raises:
        Invalid: the rule keeps nothing, or has no condition.
        NotFound: there is no history.
    """
    head = store.find_ref("main")
    if head is None:
        raise NotFound("there is no history to forget")
    if rule.last is None and rule.daily is None and rule.before_us is None:
        raise Invalid("forget needs --keep-last, --keep-daily or --before")
    line = list(list_ancestors(store, [head]))
    kept = set(store.list_refs().values())
    for remote in store.list_remotes():
        kept |= set(store.tracking(remote).values())
    if rule.last is not None:
        kept |= set(line[: rule.last])
    if rule.daily is not None:
        kept |= _last_of_days(store, line, rule.daily)
    if rule.before_us is not None:
        kept |= {o for o in line if get_manifest(store, o).time_us >= rule.before_us}
    others = {entry.new for entry in store.list_log()} | {e.old for e in store.list_log()}
    others |= named_manifests(store).keys()
    loose = [oid for oid in others if oid is not None and oid not in line]
    lost = [oid for oid in list_ancestors(store, loose) if oid not in line]
    return [oid for oid in [*line, *lost] if oid not in kept]


def check_forgettable(store: SqliteStore, oid: ObjectId) -> ObjectId:
    """Return `oid` unless a ref or a remote points at it.

    Raises:
        Invalid: something points at it.
    """
    for name, target in store.list_refs().items():
        if target == oid:
            raise Invalid(f"{oid.hex()[:12]} is where {name} points, and stays")
    for remote in store.list_remotes():
        if oid in store.tracking(remote).values():
            raise Invalid(f"{oid.hex()[:12]} is where {remote} was last seen, and stays")
    unfinished = store.tracking("merge").get("unfinished")
    if unfinished is not None:
        parents = get_manifest(store, unfinished).parents
        if oid in parents and store.find_ref("main") == parents[0]:
            raise Invalid(
                f"{oid.hex()[:12]} is one side of a merge that is not finished, and stays",
                hint="'gsync merge --continue' or '--abort' ends it",
            )
    return oid


def _last_of_days(store: SqliteStore, line: list[ObjectId], days: int) -> set[ObjectId]:
    newest: dict[object, ObjectId] = {}
    for oid in line:
        newest.setdefault(get_manifest(store, oid).time_us // _DAY_US, oid)
        if len(newest) > days:
            newest.popitem()
            break
    return set(newest.values())


def forget(
    store: SqliteStore,
    oids: Iterable[ObjectId],
    *,
    actor: str,
    reason: str,
    now_us: int,
    states: Mapping[str, bytes | None] | None = None,
) -> None:
    """Mark `oids` as forgotten and say so in the ref log; `collect` then drops them.

    The log entry is one for the ref `forget`, from and to nothing, whose reason counts them.
    """
    remember_forgotten(store, oids)
    store.move_refs(
        [RefMove("forget", None, None)],
        time_us=now_us,
        actor=actor,
        why=reason[:200],
        states=states,
    )
