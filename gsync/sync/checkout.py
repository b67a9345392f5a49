"""The folder follows a manifest, and the ref follows the folder, both or neither."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gsync.changes import Change
from gsync.errors import Conflict, GsyncError
from gsync.maps.diff import diff_maps
from gsync.maps.omap import EMPTY_MAP, find_value
from gsync.objects.encoding import decode_trusted, encode
from gsync.objects.oid import ObjectId
from gsync.paths import parents_of
from gsync.replicas.base import ReplicaChanged
from gsync.replicas.files.checkout import apply_changes, checkout_fresh, recover
from gsync.replicas.files.index import record
from gsync.sync.compare import FileChange, describe, files_root, is_below
from gsync.sync.contents import select_entries
from gsync.sync.repository import Repository, scan, scan_against

if TYPE_CHECKING:
    from gsync.replicas.tables.base import Applied
    from gsync.sync.tablemoves import DatabaseMove

# Names the move that a command is about to make: `[old, new, why, databases]`. Set before
# anything live is touched and dropped after the ref has moved, so that a crash in between can
# be finished.
_PENDING = "pending move"


def move_folder(
    repo: Repository,
    old: ObjectId | None,
    new: ObjectId,
    *,
    why: str,
    databases: bool = True,
    accept: Sequence[str] = (),
) -> dict[str, Applied]:
    """Bring folder and databases from manifest `old` to `new`, then move `main`.

    Databases first, each in one transaction that can still refuse, then the folder, whose
    unsaved changes were looked at before. A bare store has neither.

    Returns:
        What was written into each database, by its name.

    Raises:
        ReplicaChanged: unsaved changes are in the way; nothing was changed.
        RowsChanged: the same, in a table.
    """
    if repo.bare:
        repo.move("main", old, new, why)
        return {}
    changes = list(_between(repo, old, new))
    moves = _plan_databases(repo, old, new) if databases else []
    if moves:
        _stop_on_unsaved(repo, changes)
    names = [move.name for move in moves]
    repo.store.set_states({_PENDING: encode([old, new, why, names])})
    done: dict[str, Applied] = {}
    try:
        if moves:
            from gsync.sync.tablemoves import apply_databases

            done = apply_databases(repo, moves, accept=accept)
        _apply(repo, changes)
    except BaseException as error:
        # Where a database has committed, or may have, the next start goes on from there.
        committed = moves and _may_have_committed(repo, old, new, moves, error)
        if not committed and not (repo.workdir / "journal").exists():
            repo.store.set_states({_PENDING: None})
        raise
    repo.move("main", old, new, why, {_PENDING: None})
    return done


def _plan_databases(
    repo: Repository, old: ObjectId | None, new: ObjectId, names: Sequence[str] | None = None
) -> list[DatabaseMove]:
    if not repo.config.local.databases or names == []:
        return []
    from gsync.sync.tablemoves import plan_databases

    found = plan_databases(repo, repo.manifest(old), repo.manifest(new))
    return [move for move in found if names is None or move.name in names]


def _stop_on_unsaved(repo: Repository, changes: Sequence[Change]) -> None:
    """Raise ReplicaChanged if the folder would refuse `changes`, before a database commits."""
    live = {change.key: change.new for change in scan(repo, write=False).changes}
    lost = [c.key for c in changes if c.key in live and live[c.key] not in (c.old, c.new)]
    if lost:
        raise ReplicaChanged(lost)


def _between(repo: Repository, old: ObjectId | None, new: ObjectId) -> Iterable[Change]:
    return diff_maps(repo.store, files_root(repo.manifest(old)), files_root(repo.manifest(new)))


def _apply(repo: Repository, changes: Sequence[Change]) -> None:
    now_ns = time.time_ns()
    done = apply_changes(os.fsencode(repo.root), changes, repo.store, os.fsencode(repo.workdir))
    record(repo.store, done.written, now_ns)


def finish_interrupted(repo: Repository) -> str | None:
    """Finish or undo what an interrupted command left; return what was done, or None.

    The folder comes first: its journal says whether it goes forward or back. Databases that
    have committed pull everything else forward. The ref then moves if all is where the move
    would have brought it.

    Raises:
        Unavailable: a database that the command wrote to cannot be asked.
    """
    had_journal = recover(os.fsencode(repo.root), os.fsencode(repo.workdir))
    pending = repo.store.get_state(_PENDING)
    if pending is None:
        return "finished an interrupted change of the folder" if had_journal else None
    old, new, why, names = decode_trusted(pending)
    changes = list(_between(repo, old, new))
    done = None
    if repo.head() == old:
        done = f"an interrupted '{why}' had changed nothing"
        if _finish_databases(repo, old, new, names):
            try:
                _apply(repo, changes)
            except Conflict:
                done = f"an interrupted '{why}' stopped at unsaved changes: run it again"
        if _is_at(repo, changes) and (names == [] or _are_at(repo, old, new, names)):
            repo.move("main", old, new, why)
            done = f"finished an interrupted '{why}'"
    repo.store.set_states({_PENDING: None})
    return done


def _finish_databases(
    repo: Repository, old: ObjectId | None, new: ObjectId, names: Sequence[str]
) -> bool:
    """Bring all databases forward if one has committed; return whether they are there now."""
    moves = _plan_databases(repo, old, new, names)
    if not moves:
        return False
    from gsync.replicas.tables.apply import Where
    from gsync.replicas.tables.base import BadRows, Refused
    from gsync.sync.tablemoves import apply_databases, find_database, mark_tables

    where = {move.name: find_database(repo, move) for move in moves if not move.is_still}
    if Where.TARGET not in where.values() and not _has_committed(repo, old, new, moves):
        return False
    for move in moves:
        if where.get(move.name) is Where.TARGET:
            mark_tables(repo, move)
    rest = [move for move in moves if where.get(move.name) is not Where.TARGET]
    try:
        apply_databases(repo, rest)
    except (Conflict, Refused, BadRows):
        return False
    return True


def _may_have_committed(
    repo: Repository,
    old: ObjectId | None,
    new: ObjectId,
    moves: Sequence[DatabaseMove],
    error: BaseException,
) -> bool:
    from gsync.replicas.tables.base import Unsure

    if isinstance(error, Unsure) or not isinstance(error, GsyncError):
        return True
    return _has_committed(repo, old, new, moves)


def _has_committed(
    repo: Repository, old: ObjectId | None, new: ObjectId, moves: Sequence[DatabaseMove]
) -> bool:
    """Return whether the mark of a table that differs in old and new says that it is at new."""
    from gsync.sync.recorded import recorded_tables
    from gsync.sync.tablemoves import plan_databases

    before, after = repo.manifest(old), repo.manifest(new)
    names = {move.name for move in moves}
    for move in plan_databases(repo, before, after):
        if move.is_still and move.name in names:
            roots = {t: c.root for t, c in recorded_tables(before, move.name).items()}
            if any(roots.get(table) != inner.target for table, inner in move.moves.items()):
                return True
    return False


def _are_at(repo: Repository, old: ObjectId | None, new: ObjectId, names: Sequence[str]) -> bool:
    return all(move.is_still for move in _plan_databases(repo, old, new, names))


def _is_at(repo: Repository, changes: Sequence[Change]) -> bool:
    """Return whether all that `changes` touch is live as it shall be."""
    live = {change.key: change.new for change in scan(repo, write=False).changes}
    return all(live.get(change.key, change.old) == change.new for change in changes)


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
        _apply(repo, wanted)
    return describe(wanted)


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
