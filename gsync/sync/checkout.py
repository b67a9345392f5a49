"""The folder follows a manifest, and the ref follows the folder, both or neither."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING

from gsync.changes import Change
from gsync.errors import Conflict, GsyncError, Unavailable
from gsync.frozen import frozen, replace
from gsync.maps.diff import diff_maps
from gsync.maps.omap import EMPTY_MAP, count_entries, edit_map, find_value
from gsync.objects.encoding import decode_trusted, encode
from gsync.objects.model import EMPTY_MAP_BODY, FILES, Collection, Manifest, encode_manifest
from gsync.objects.oid import Kind, ObjectId
from gsync.paths import parents_of
from gsync.replicas.base import ReplicaChanged
from gsync.replicas.files.checkout import (
    apply_changes,
    check_changes,
    checkout_fresh,
    recover,
)
from gsync.replicas.files.index import Written, record
from gsync.store.base import RefMove, State
from gsync.sync.compare import FileChange, describe, files_root, is_below
from gsync.sync.contents import select_entries
from gsync.sync.operations import PENDING, Live, operation_state, reading_state
from gsync.sync.repository import (
    Repository,
    local_user,
    next_manifest,
    now_us,
    scan,
    scan_against,
)

if TYPE_CHECKING:
    from gsync.replicas.tables.base import Applied
    from gsync.sync.tablemoves import DatabaseMove


@frozen
class Move:
    """A move of folder and databases, and what is saved in one transaction at its end.

    Kept as a state from before anything live is touched until that transaction, so that a crash
    in between can be finished.

    Attributes:
        old, new: The manifests between which everything moves that differs in them.
        why: The command, for the ref log and for messages.
        databases: The databases that move along, by name.
        refs: Refs that move at the end.
        states: States that are saved at the end, the operation among them.
        merge: What is kept of an unfinished merge from then on; None leaves that as it is.
        by_mark: Whether tables start from their marks and get new ones; else what `old` has
            of them was live a moment ago, and `states` has their marks.
        actor: Who moves the refs; the local user if None.
    """

    old: ObjectId | None
    new: ObjectId | None
    why: str
    databases: tuple[str, ...] = ()
    refs: tuple[RefMove, ...] = ()
    states: Mapping[str, bytes | None] = field(default_factory=dict)
    merge: Mapping[str, ObjectId] | None = None
    by_mark: bool = True
    actor: str | None = None


def move_folder(
    repo: Repository,
    old: ObjectId | None,
    new: ObjectId,
    *,
    why: str,
    databases: bool = True,
    accept: Sequence[str] = (),
    merge: Mapping[str, ObjectId] | None = None,
    undoes: int | None = None,
    actor: str | None = None,
    refs: Sequence[RefMove] = (),
    states: Mapping[str, bytes | None] | None = None,
) -> dict[str, Applied]:
    """Bring folder and databases from manifest `old` to `new`, then move `main`.

    Databases first, each in one transaction that can still refuse, then the folder, whose
    unsaved changes were looked at before. Where the folder refuses nevertheless, the databases
    are brought back. A bare store has neither.

    Args:
        merge: What is kept of an unfinished merge once `main` has moved.
        undoes: The operation that this one undoes.
        actor: Who moves the refs; the local user if None.
        refs: What moves at once, `main` among it; `main` alone if empty.
        states: What is saved at once with it.

    Returns:
        What was written into each database, by its name.

    Raises:
        ReplicaChanged: unsaved changes are in the way; nothing was changed.
        RowsChanged: the same, in a table.
    """
    moves = _plan_databases(repo, old, new) if databases and not repo.bare else []
    live = None
    marks: dict[str, bytes | None] = {}
    if not repo.bare:
        live = Live(old, new, tuple(move.name for move in moves))
    if moves:
        from gsync.sync.tablemoves import marks_after, record_moves

        live = record_moves(repo, old, new, moves)
        marks = marks_after(moves)
    marks |= states or {}
    refs = refs or [RefMove("main", old, new)]
    moved = {ref.name: (ref.old, ref.new) for ref in refs}
    if merge is not None:
        moved |= merge_moves(repo, merge)
    recorder = repo.recorder(why)
    if undoes is not None:
        recorder.undoing(undoes)
    operation = recorder.next(repo.store, refs=moved, states=marks, live=live)
    if actor is not None:
        operation = replace(operation, actor=actor)
    move = Move(
        old,
        new,
        why,
        live.databases if live else (),
        tuple(refs),
        {**marks, **operation_state(operation)},
        merge,
        actor=actor,
    )
    done = carry_out(repo, move, moves, accept=accept)
    recorder.saved = operation
    return done


def merge_moves(
    repo: Repository, merge: Mapping[str, ObjectId]
) -> dict[str, tuple[ObjectId | None, ObjectId | None]]:
    """Return how an operation notes that the unfinished merge becomes `merge`, if it does."""
    old = repo.store.tracking("merge")
    return {
        f"merge/{name}": (old.get(name), merge.get(name))
        for name in old.keys() | merge.keys()
        if old.get(name) != merge.get(name)
    }


def carry_out(
    repo: Repository,
    move: Move,
    moves: Sequence[DatabaseMove] = (),
    *,
    accept: Sequence[str] = (),
) -> dict[str, Applied]:
    """Do what `move` says: databases, folder, then its refs and states in one transaction.

    Args:
        moves: Its databases, as they are to be written.

    Raises: as `move_folder`.
    """
    changes = [] if repo.bare else list(_between(repo, move.old, move.new))
    if any(not one.is_still for one in moves):
        check_changes(os.fsencode(repo.root), changes)  # before a database commits
    repo.store.flush()  # what the state names is there before it
    waiting = repo.store.get_state(PENDING)
    if waiting is not None:
        return _beside(repo, move, waiting, changes)
    repo.store.set_states({PENDING: _encode(move)})
    done: dict[str, Applied] = {}
    try:
        if moves:
            from gsync.sync.tablemoves import apply_databases

            done = apply_databases(repo, moves, accept=accept, mark=move.by_mark)
        now_ns = time.time_ns()
        written = _swap(repo, changes) if changes else []
    except BaseException as error:
        # Where a database has committed, or may have, and cannot be brought back, the next
        # start goes on from there, and where the folder may have been changed: every kind of
        # ours says that it was not.
        unchanged = isinstance(error, GsyncError) and not (repo.workdir / "journal").exists()
        if unchanged and (not moves or _are_back(repo, move, moves, error)):
            with suppress(GsyncError):  # else the next start does
                repo.store.set_states({PENDING: None})
        raise
    if written:
        record(repo.store, written, now_ns)
    _end(repo, move)
    return done


def _beside(
    repo: Repository, move: Move, waiting: bytes, changes: Sequence[Change]
) -> dict[str, Applied]:
    """Carry out what alters files alone, while an interrupted move waits for just that.

    Raises:
        Conflict: `move` does more, and the other one has to go on first.
    """
    if move.refs or move.databases:
        raise Conflict(
            f"an interrupted '{_decode(waiting).why}' cannot go on: files were edited since, and a"
            " database has what belongs to its end",
            hint="keep these edits elsewhere and 'gsync restore --force' the paths that 'gsync"
            " status' names; then run this again",
        )
    _apply(repo, changes)
    repo.store.set_states(move.states)
    return {}


def _end(repo: Repository, move: Move) -> None:
    repo.store.move_refs(
        move.refs,
        time_us=now_us(),
        actor=move.actor or local_user(),
        why=move.why,
        states={**move.states, PENDING: None},
        tracking=None if move.merge is None else {"merge": move.merge},
    )


def _encode(move: Move) -> bytes:
    return encode(
        [
            move.old,
            move.new,
            move.why,
            list(move.databases),
            [[ref.name, ref.old, ref.new] for ref in move.refs],
            [[name, value] for name, value in sorted(move.states.items())],
            None if move.merge is None else [[n, oid] for n, oid in sorted(move.merge.items())],
            move.by_mark,
            move.actor,
        ]
    )


def _decode(body: bytes) -> Move:
    with reading_state("an interrupted command"):
        old, new, why, names, *more = decode_trusted(body)
        if not more:  # by a version that kept no operations
            return Move(old, new, why, tuple(names), (RefMove("main", old, new),))
        refs, states, merge, by_mark, actor = more
        return Move(
            old,
            new,
            why,
            tuple(names),
            tuple(RefMove(*ref) for ref in refs),
            dict(states),
            None if merge is None else dict(merge),
            by_mark,
            actor,
        )


def pending_roots(store: State) -> set[ObjectId]:
    """Return the manifests that an unfinished move needs, for garbage collection to keep."""
    pending = store.get_state(PENDING)
    if pending is None:
        return set()
    move = _decode(pending)
    named = {move.old, move.new, *(move.merge or {}).values()}
    named |= {oid for ref in move.refs for oid in (ref.old, ref.new)}
    return {oid for oid in named if oid is not None}


def _plan_databases(
    repo: Repository,
    old: ObjectId | None,
    new: ObjectId | None,
    names: Sequence[str] | None = None,
) -> list[DatabaseMove]:
    if not repo.config.local.databases or (names is not None and not names):
        return []
    from gsync.sync.tablemoves import plan_databases

    found = plan_databases(repo, repo.manifest(old), repo.manifest(new))
    return [move for move in found if names is None or move.name in names]


def _plan(repo: Repository, move: Move) -> list[DatabaseMove]:
    """Return the databases of a move that was interrupted, as they are to be written."""
    if move.by_mark:
        return _plan_databases(repo, move.old, move.new, move.databases)
    if not move.databases:
        return []
    from gsync.sync.tablemoves import plan_between

    return plan_between(repo, repo.manifest(move.old), repo.manifest(move.new), move.databases)


def _live_values(repo: Repository, changes: Sequence[Change]) -> dict[bytes, bytes | None]:
    """Return what the folder has at the keys of `changes`."""
    if not changes:
        return {}
    live = {change.key: change.new for change in scan(repo, write=False).changes}
    head = files_root(repo.manifest(repo.head()))
    for change in changes:
        if change.key not in live:
            live[change.key] = find_value(repo.store, head, change.key) if head else None
    return live


def _between(repo: Repository, old: ObjectId | None, new: ObjectId | None) -> Iterable[Change]:
    return diff_maps(repo.store, files_root(repo.manifest(old)), files_root(repo.manifest(new)))


def _apply(repo: Repository, changes: Sequence[Change]) -> None:
    now_ns = time.time_ns()
    record(repo.store, _swap(repo, changes), now_ns)


def _swap(repo: Repository, changes: Sequence[Change]) -> list[Written]:
    root, workdir = os.fsencode(repo.root), os.fsencode(repo.workdir)
    return apply_changes(root, changes, repo.store, workdir).written


def finish_interrupted(repo: Repository) -> str | None:
    """Finish or undo what an interrupted command left; return what was done, or None.

    The folder comes first: its journal says whether it goes forward or back. Databases that
    have committed pull everything else forward. Refs and the operation then follow if all is
    where the move would have brought it.

    Raises:
        Unavailable: a database that the command wrote to cannot be asked.
    """
    had_journal = recover(os.fsencode(repo.root), os.fsencode(repo.workdir))
    pending = repo.store.get_state(PENDING)
    if pending is None:
        return "finished an interrupted change of the folder" if had_journal else None
    move = _decode(pending)
    changes = [] if repo.bare else list(_between(repo, move.old, move.new))
    if all(repo.store.find_ref(ref.name) == ref.old for ref in move.refs):
        done = f"an interrupted '{move.why}' had changed nothing"
        if _finish_databases(repo, move):
            try:
                _apply(repo, changes)
            except Conflict as error:
                if not _take_back(repo, move):
                    # Tried again by the next command: rows are at `new` and files at `old`.
                    return f"an interrupted '{move.why}' cannot go on: {error.message}"
                done = f"undid an interrupted '{move.why}': unsaved changes were in the way"
        if _is_at(repo, changes) and (not move.databases or _are_at(repo, move)):
            _end(repo, move)
            return f"finished an interrupted '{move.why}'"
    else:
        done = f"an interrupted '{move.why}' was overtaken by another move"
    repo.store.set_states({PENDING: None})
    return done


def _finish_databases(repo: Repository, move: Move) -> bool:
    """Bring all databases forward if one has committed; return whether they are there now."""
    moves = _plan(repo, move)
    if not moves:
        return False
    from gsync.replicas.tables.apply import Where
    from gsync.replicas.tables.base import BadRows, Refused
    from gsync.sync.tablemoves import apply_databases, find_database, mark_tables

    where = {one.name: find_database(repo, one) for one in moves if not one.is_still}
    if Where.TARGET not in where.values() and not _has_committed(repo, move, moves):
        return False
    for one in moves:
        if move.by_mark and where.get(one.name) is Where.TARGET:
            mark_tables(repo, one)
    rest = [one for one in moves if where.get(one.name) is not Where.TARGET]
    try:
        apply_databases(repo, rest, mark=move.by_mark)
    except (Conflict, Refused, BadRows):
        return False
    return True


def _are_back(
    repo: Repository, move: Move, moves: Sequence[DatabaseMove], error: BaseException
) -> bool:
    """Return whether databases are as in `old` after `error`, brought back if one was not."""
    from gsync.replicas.tables.base import Unsure

    if isinstance(error, Unsure) or not isinstance(error, GsyncError):
        return False  # it may have committed, and will be asked
    try:
        return not _has_committed(repo, move, moves) or _take_back(repo, move)
    except Unavailable:  # it cannot be asked now
        return False


def _take_back(repo: Repository, move: Move) -> bool:
    """Bring databases that have committed back to `old`; return whether that could be done."""
    from gsync.sync.recorded import recorded_tables
    from gsync.sync.tablemoves import apply_databases, plan_between, plan_databases

    before, after = repo.manifest(move.old), repo.manifest(move.new)
    for name in move.databases:
        if recorded_tables(after, name).keys() - recorded_tables(before, name).keys():
            return False  # rows of a table that `old` does not know would stay
    try:
        if move.by_mark:
            moves = [m for m in plan_databases(repo, after, before) if m.name in move.databases]
        else:
            moves = plan_between(repo, after, before, move.databases)
        # Nothing is protected from it: it brings back what stood there a moment ago.
        apply_databases(repo, moves, accept=_all_names(moves), mark=move.by_mark)
    except GsyncError:
        return False
    return True


def _all_names(moves: Sequence[DatabaseMove]) -> list[str]:
    tables = [found for move in moves for found in move.moves.items()]
    columns = [f"{name}.{column.name}" for name, inner in tables for column in inner.schema.live]
    return [*(name for name, _ in tables), *columns]


def _has_committed(repo: Repository, move: Move, moves: Sequence[DatabaseMove]) -> bool:
    """Return whether a database is where `move` leads, by its marks where they say so."""
    from gsync.sync.recorded import recorded_tables
    from gsync.sync.tablemoves import plan_databases

    if not move.by_mark:
        return _count_arrived(repo, moves) > 0
    before, after = repo.manifest(move.old), repo.manifest(move.new)
    names = {one.name for one in moves}
    for one in plan_databases(repo, before, after):
        if one.is_still and one.name in names:
            roots = {t: c.root for t, c in recorded_tables(before, one.name).items()}
            if any(roots.get(table) != inner.target for table, inner in one.moves.items()):
                return True
    return False


def _count_arrived(repo: Repository, moves: Sequence[DatabaseMove]) -> int:
    from gsync.replicas.tables.apply import Where
    from gsync.sync.tablemoves import find_database

    moving = [one for one in moves if not one.is_still]
    return sum(find_database(repo, one) is Where.TARGET for one in moving)


def _are_at(repo: Repository, move: Move) -> bool:
    moves = _plan(repo, move)
    if move.by_mark:
        return all(one.is_still for one in moves)
    return _count_arrived(repo, moves) == sum(not one.is_still for one in moves)


def _is_at(repo: Repository, changes: Sequence[Change]) -> bool:
    """Return whether all that `changes` touch is live as it shall be."""
    live = _live_values(repo, changes)
    return all(live[change.key] == change.new for change in changes)


def capture_folder(repo: Repository, message: str) -> Manifest:
    """Return HEAD with the folder as it is now, its contents stored and not flushed."""
    head = repo.head()
    parent = repo.manifest(head)
    base = files_root(parent)
    if base is None:
        base = repo.store.put(Kind.NODE, EMPTY_MAP_BODY)
    changes = scan(repo, write=True).changes
    root = edit_map(repo.store, base, ((change.key, change.new) for change in changes))
    files = Collection(FILES, root, count_entries(repo.store, root))
    return next_manifest(parent, head, [files], repo.author(), message)


def restore_folder(
    repo: Repository,
    oid: ObjectId,
    paths: Sequence[bytes],
    *,
    force: bool = False,
    dry_run: bool = False,
) -> list[FileChange]:
    """Make files as they are in manifest `oid`, all or those at or below `paths`; HEAD stays.

    Tracked files that the manifest has not are removed; files that no manifest has stay.

    Raises:
        NotFound: nothing in the manifest, nor in HEAD, is at or below one of `paths`.
        ReplicaChanged: unsaved changes would be overwritten, and `force` is not given.
    """
    root = files_root(repo.manifest(oid)) or EMPTY_MAP
    head = files_root(repo.manifest(repo.head())) or EMPTY_MAP
    for path in paths:
        if path and find_value(repo.store, head, path) is None:
            next(iter(select_entries(repo.store, root, [path])))
    unsaved = {change.key: change for change in scan(repo, write=False).changes}
    wanted: list[Change] = []
    alone: set[bytes] = set()
    for change in scan_against(repo, root):
        if paths and not is_below(change.key, paths):
            continue
        known = unsaved.get(change.key)
        wanted.append(Change(change.key, change.new, change.old))
        if change.old is None and known is not None and known.old is None:
            alone.add(change.key)
    # What is on disk alone is not ours to remove, unless it stands where something comes back.
    brought = {change.key for change in wanted if change.new is not None}
    above = {parent for key in brought for parent in parents_of(key)}
    alone -= {
        key for key in alone if key in above or any(top in brought for top in parents_of(key))
    }
    wanted = [change for change in wanted if change.key not in alone]
    lost = [c.key for c in wanted if c.key in unsaved and unsaved[c.key].new is not None]
    if lost and not force:
        raise ReplicaChanged(lost)
    if wanted and not dry_run:
        _write_restored(repo, wanted)
    return describe(wanted)


def _write_restored(repo: Repository, wanted: Sequence[Change]) -> None:
    """Write `wanted` into the folder, which is kept as it was before, unsaved changes included."""
    before = capture_folder(repo, "before a restore")
    root = files_root(before)
    assert root is not None
    # It may have been edited since it was compared; nobody has agreed to lose that.
    lost = [c.key for c in wanted if find_value(repo.store, root, c.key) != c.old]
    if lost:
        raise ReplicaChanged(lost)
    after_root = edit_map(repo.store, root, ((change.key, change.new) for change in wanted))
    files = Collection(FILES, after_root, count_entries(repo.store, after_root))
    after = replace_collections(before, [files], "after a restore")
    old, new = (repo.store.put(Kind.MANIFEST, encode_manifest(m)) for m in (before, after))
    recorder = repo.recorder("restore")
    operation = recorder.next(repo.store, live=Live(old, new))
    carry_out(repo, Move(old, new, "restore", states=operation_state(operation), by_mark=False))
    recorder.saved = operation


def replace_collections(
    manifest: Manifest, collections: Iterable[Collection], message: str
) -> Manifest:
    """Return `manifest` with these collections replaced, under another message."""
    found = {c.name: c for c in manifest.collections} | {c.name: c for c in collections}
    ordered = tuple(sorted(found.values(), key=lambda c: c.name.encode()))
    return replace(manifest, collections=ordered, message=message)


def restore_to(
    repo: Repository, oid: ObjectId, paths: Sequence[bytes], target: Path, *, dry_run: bool
) -> int:
    """Write the files of a manifest to a new folder; return how many paths that are.

    Raises:
        Conflict: `target` holds something.
        NotFound: nothing in the manifest is at or below one of `paths`.
    """
    root = files_root(repo.manifest(oid)) or EMPTY_MAP
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Conflict(f"{target} exists and is not empty", hint="restore into a new directory")
    entries = select_entries(repo.store, root, paths)
    if dry_run:
        return sum(1 for _ in entries)
    return len(checkout_fresh(os.fsencode(target), entries, repo.store))


def fill_folder(repo: Repository, target: Path) -> int:
    """Write HEAD's files to `target`, a new folder that the repository's own will become.

    The stat cache is told, so that the first status in the new folder reads no file.
    """
    root = files_root(repo.manifest(repo.head())) or EMPTY_MAP
    now_ns = time.time_ns()
    written = checkout_fresh(os.fsencode(target), select_entries(repo.store, root, []), repo.store)
    record(repo.store, written, now_ns, fresh_root=root)
    return len(written)
