"""A repository: one folder, its store, and what is done with both offline."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING

from gsync.changes import Change
from gsync.config import Config, load_config
from gsync.configedit import write_templates
from gsync.errors import Conflict, Invalid, NotFound
from gsync.frozen import frozen, replace
from gsync.maps.diff import diff_maps
from gsync.maps.omap import EMPTY_MAP, edit_map, find_value, list_entries
from gsync.objects.model import (
    EMPTY_MAP_BODY,
    FILES,
    Collection,
    Manifest,
    encode_manifest,
)
from gsync.objects.oid import Kind, ObjectId
from gsync.paths import check_path, show_path
from gsync.replicas.base import LEFTOVERS, RESCUED, Notice, Scan
from gsync.store.base import RefMove
from gsync.store.sqlite import SqliteStore
from gsync.sync.compare import FileChange, describe, files_root, select
from gsync.sync.lock import Locked, locked
from gsync.sync.operations import PENDING, Recorder, operation_state
from gsync.sync.runs import Health, health
from gsync.transfer.history import get_manifest, is_ancestor, list_ancestors

if TYPE_CHECKING:
    from gsync.sync.comparetables import TableCounts
    from gsync.sync.jobrecord import JobState
    from gsync.sync.tables import ScannedTables
    from gsync.views.conflicts import StoredConflict

WORKDIR = ".gsync"
STORE = "store.db"
WATCH_SOCKET = "watch.sock"
SERVING = "serving"
"""A lock below `.gsync`, held while a server has the folder attached; never removed."""


def now_us() -> int:
    """Return the time in microseconds since 1970, in UTC."""
    return time.time_ns() // 1000


class NoRepository(NotFound):
    """There is no repository here or above."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"not inside a gsync repository: {path}",
            hint="make one with 'gsync init', or go to one, or use -C DIR",
        )


@frozen
class Status:
    """How things stand, as far as can be said offline.

    Attributes:
        head: The manifest that the folder is compared with, or None before the first.
        changes: What differs from it.
        notices: Paths that are left out or need attention.
        remotes: For each remote as last seen, how many manifests we are ahead and behind.
        health: How runs with remotes, and with the peers of databases, have ended.
        jobs: Those whose last run has failed.
        databases: When each database was last scanned, in microseconds, or None.
        merge: What an unfinished merge merges, or None.
        conflicts: Those of its conflicts that are open.
    """

    head: ObjectId | None
    changes: list[FileChange]
    notices: list[Notice]
    remotes: dict[str, tuple[int, int]]
    health: dict[str, Health] = field(default_factory=dict)
    jobs: dict[str, JobState] = field(default_factory=dict)
    databases: dict[str, int | None] = field(default_factory=dict)
    merge: str | None = None
    conflicts: tuple[StoredConflict, ...] = ()


@frozen
class Snapshot:
    """What a snapshot made.

    Attributes:
        oid: The new manifest, or None when nothing had changed (or in a dry run).
        manifest: What it holds, or would hold.
        changes: Against the manifest before.
        notices: Paths that were left out or need attention.
        objects_new: Objects that the store had not had before.
        bytes_new: How many bytes they take in the store, compressed.
        tables: The tables that were scanned, and what changed in them.
    """

    oid: ObjectId | None
    manifest: Manifest
    changes: list[FileChange]
    notices: list[Notice]
    objects_new: int
    bytes_new: int
    tables: tuple[TableCounts, ...] = ()


class Repository:
    """An open repository.

    Attributes:
        root: The folder, or the directory of a bare store.
        workdir: Where the store lies: `.gsync` below the folder; the root itself when bare.
        store: The open store.
        config: What both configuration files say.
        bare: Whether there is no folder.
    """

    def __init__(self, root: Path, workdir: Path, store: SqliteStore, config: Config) -> None:
        self.root = root
        self.workdir = workdir
        self.store = store
        self.config = config
        self.bare = workdir == root
        self._recorder: Recorder | None = None

    def __enter__(self) -> Repository:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    def locked(self, command: str) -> AbstractContextManager[None]:
        """Hold the repository for one command that writes; see `lock.locked`."""
        return locked(self.workdir / "lock", command)

    @contextmanager
    def writing(self, command: str) -> Iterator[None]:
        """Hold the repository, with what an interrupted command left finished or undone."""
        with self.locked(command):
            self.recover()
            self._recorder = self._new_recorder(command.removeprefix("gsync "))
            try:
                yield
            finally:
                self._recorder = None

    def _new_recorder(self, command: str) -> Recorder:
        return Recorder(command, local_user(), now_us)

    def recorder(self, command: str) -> Recorder:
        """Return what notes the operation of the command that holds the repository.

        Args:
            command: What it is called where nobody holds it: a use case called by itself.
        """
        return self._recorder or self._new_recorder(command)

    def recover(self) -> str | None:
        """Finish or undo what an interrupted command left; say what was done, or None."""
        left = not self.bare and any(os.path.lexists(self.workdir / name) for name in LEFTOVERS)
        if not left and self.store.get_state(PENDING) is None:
            return None
        from gsync.sync.checkout import finish_interrupted

        return finish_interrupted(self)

    def settle(self, command: str) -> None:
        """Finish or undo what an interrupted command left, if there is such a thing."""
        if self.store.get_state(PENDING) is not None:
            with self.locked(command):
                self.recover()

    # Manifests

    def head(self) -> ObjectId | None:
        """Return the manifest that `main` points at, or None before the first."""
        return self.store.find_ref("main")

    def manifest(self, oid: ObjectId | None) -> Manifest | None:
        """Return the manifest `oid`; None for None."""
        return None if oid is None else get_manifest(self.store, oid)

    def author(self) -> str:
        """Return whom new manifests name as their author."""
        return self.config.author or local_user()

    def move(
        self,
        name: str,
        old: ObjectId | None,
        new: ObjectId | None,
        why: str,
        states: Mapping[str, bytes | None] | None = None,
    ) -> None:
        """Move one ref by compare-and-swap, log it, and note it as this command's operation.

        The actor is the local user.

        Args:
            states: What is saved with it, in one transaction.
        """
        recorder = self.recorder(why)
        operation = recorder.next(self.store, refs={name: (old, new)}, states=states)
        self.store.move_refs(
            [RefMove(name, old, new)],
            time_us=now_us(),
            actor=local_user(),
            why=why,
            states={**(states or {}), **operation_state(operation)},
        )
        recorder.saved = operation

    def see(self, remote: str, refs: Mapping[str, ObjectId]) -> None:
        """Remember where the refs of `remote` are, as part of this command's operation."""
        seen = self.store.tracking(remote)
        moved = {
            f"{remote}/{name}": (seen.get(name), refs.get(name))
            for name in seen.keys() | refs.keys()
            if seen.get(name) != refs.get(name)
        }
        if not moved:
            return
        recorder = self.recorder(f"see {remote}")
        operation = recorder.next(self.store, seen=moved)
        self.store.set_tracking(remote, refs, operation_state(operation))
        recorder.saved = operation

    def note(self, command: str, kept: str) -> dict[str, bytes | None]:
        """Return the state that notes an operation which cannot be undone, and why.

        For what changes no ref: the caller saves it with whatever it changes.
        """
        recorder = self.recorder(command)
        recorder.explain(kept)
        recorder.saved = recorder.next(self.store)
        return operation_state(recorder.saved)


def init_repository(directory: Path, *, bare: bool = False, dry_run: bool = False) -> Path:
    """Make a repository in `directory` and return the path of its store's directory.

    A folder that has a `gsync.toml` keeps it. With `dry_run` nothing is made.

    Raises:
        Conflict: there is one already, here or above.
    """
    directory = Path(os.path.abspath(directory))
    found = find_root(directory)
    if found is not None:
        raise Conflict(
            f"{found} is a gsync repository already, and one inside another is not kept apart",
            hint="choose a folder outside of it",
        )
    workdir = directory if bare else directory / WORKDIR
    if bare and directory.is_dir() and any(directory.iterdir()):
        raise Conflict(f"{directory} is not empty", hint="a bare store needs a new directory")
    if dry_run:
        return workdir
    workdir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not bare:
        write_templates(directory)
    SqliteStore.create(workdir / STORE).close()
    return workdir


def find_root(start: Path) -> Path | None:
    """Return the nearest directory at or above `start` that is a repository, or None."""
    start = Path(os.path.abspath(start))  # without "..", which lies in no repository
    for directory in (start, *start.parents):
        if (directory / WORKDIR / STORE).is_file() or _is_bare(directory):
            return directory
    return None


def _is_bare(directory: Path) -> bool:
    return directory.name != WORKDIR and (directory / STORE).is_file()


def open_repository(start: Path, *, read_only: bool = False) -> Repository:
    """Open the repository that `start` lies in.

    Raises:
        NoRepository: there is none.
    """
    root = find_root(start)
    if root is None:
        raise NoRepository(start.absolute())
    workdir = root if _is_bare(root) else root / WORKDIR
    config = load_config(root, workdir)
    store = SqliteStore.open(workdir / STORE, read_only=read_only)
    repo = Repository(root, workdir, store, config)
    if not read_only and (workdir / "journal").exists():
        _finish(repo)
    return repo


def _finish(repo: Repository) -> None:
    """Finish what a crash left, unless the command that works at it is still alive."""
    try:
        with locked(repo.workdir / "lock", "gsync", wait_s=0):
            repo.recover()
    except Locked:
        pass


def local_user() -> str:
    """Return the name of the user whose process this is."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no passwd entry for the user, and no LOGNAME
        return f"uid {os.getuid()}"


# --- Scanning ------------------------------------------------------------------------


def scan(repo: Repository, *, write: bool, progress: Callable[[int], None] | None = None) -> Scan:
    """Return how the folder differs from HEAD.

    Args:
        write: Put new contents into the store, not flushed; else they are only hashed.
        progress: Called now and then with the number of files looked at.

    Raises:
        Invalid: the repository has no folder.
    """
    if repo.bare:
        raise Invalid(f"{repo.root} is a bare store and has no folder to scan")
    from gsync.replicas.files.scan import scan_files

    base = files_root(repo.manifest(repo.head())) or _empty_map(repo)
    seen = 0

    def count(files: int, _: int) -> None:
        nonlocal seen
        seen += files
        if progress:
            progress(seen)

    return scan_files(
        repo.root, base, repo.store, repo.store, write=write, progress=count if progress else None
    )


def _empty_map(repo: Repository) -> ObjectId:
    if repo.store.missing([EMPTY_MAP]):
        repo.store.put(Kind.NODE, EMPTY_MAP_BODY)
    return EMPTY_MAP


def status(
    repo: Repository,
    paths: Sequence[bytes] = (),
    progress: Callable[[int], None] | None = None,
    *,
    full: bool = False,
) -> Status:
    """Return how the folder differs from HEAD, and HEAD from the remotes as last seen.

    Args:
        full: Scan also where `gsync watch` says that nothing changed.
    """
    found = None if full else _watched(repo)
    found = found or scan(repo, write=False, progress=progress)
    merge, conflicts = _unfinished(repo)
    return Status(
        head=repo.head(),
        changes=select(describe(found.changes), paths),
        notices=[*found.notices, *rescued(repo)],
        remotes={name: ahead_behind(repo, name) for name in sorted(repo.config.remotes)},
        health=health(repo.store),
        jobs=_failing_jobs(repo),
        databases=_last_scanned(repo),
        merge=merge,
        conflicts=conflicts,
    )


def _watched(repo: Repository) -> Scan | None:
    """Return what a scan would find, if somebody watches the folder and it is as HEAD is."""
    if repo.bare or not os.path.lexists(repo.workdir / WATCH_SOCKET):
        return None
    from gsync.sync.watched import ask

    head = files_root(repo.manifest(repo.head()))
    watched = ask(repo.root, repo.workdir)
    if watched is None or watched.files != head:
        return None
    return Scan([], list(watched.notices))


def rescued(repo: Repository) -> list[Notice]:
    """Return what to say of edits that gave way when an interrupted command was finished."""
    try:
        names = os.listdir(repo.workdir / RESCUED)
    except FileNotFoundError:
        return []
    if not names:
        return []
    text = (
        f"{len(names)} path(s) that were edited after a command was interrupted, and gave way when"
        " it was finished: take from there what is needed, then remove it"
    )
    return [Notice(f"{WORKDIR}/{RESCUED}".encode(), "rescued", text)]


def _unfinished(repo: Repository) -> tuple[str | None, tuple[StoredConflict, ...]]:
    if not repo.store.tracking("merge"):
        return None, ()
    from gsync.sync.merging import find_unfinished, list_open

    unfinished = find_unfinished(repo)
    return (unfinished.name if unfinished else None), tuple(list_open(repo))


def _last_scanned(repo: Repository) -> dict[str, int | None]:
    if not repo.config.databases:
        return {}
    from gsync.sync.tables import last_scanned

    return last_scanned(repo)


def ahead_behind(repo: Repository, remote: str) -> tuple[int, int]:
    """Return how many manifests `main` has that the remote's had not, and the reverse."""
    ours = repo.head()
    theirs = repo.store.tracking(remote).get("main")
    if ours == theirs:
        return 0, 0
    left = set(list_ancestors(repo.store, [ours])) if ours else set()
    if theirs is None:
        return len(left), 0
    if theirs in left:
        return len(left) - len(set(list_ancestors(repo.store, [theirs]))), 0
    right = set(list_ancestors(repo.store, [theirs]))
    return len(left - right), len(right - left)


def _failing_jobs(repo: Repository) -> dict[str, JobState]:
    if not repo.config.local.jobs:
        return {}
    from gsync.sync.jobrecord import failing

    return failing(repo.store, [job.name for job in repo.config.local.jobs])


def snapshot(
    repo: Repository,
    message: str,
    *,
    dry_run: bool = False,
    time_us: int | None = None,
    databases: bool = True,
    accept: Sequence[str] = (),
    author: str | None = None,
    why: str = "snapshot",
    full: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Snapshot:
    """Record folder and databases as a new manifest, unless nothing changed.

    Collections that this machine does not scan are carried from the parent unchanged. The
    caller holds the lock.

    Args:
        databases: Scan the databases too; else their tables are carried.
        accept: Tables of which all rows may be gone.
        author: Whom the manifest names; the one of the configuration if None.
        why: What the ref log says.
        full: Read also the tables that are known to be as they were.
        progress: Called now and then with the number of files and rows looked at.

    Raises:
        Unavailable: a file could not be read, or would not hold still; a database is gone.
        NotAtHead: a live table was never brought to HEAD.
        Emptied: a table has lost all its rows.
    """
    if not dry_run:
        _check_no_merge(repo)
    head = repo.head()
    parent = repo.manifest(head)
    objects, size = repo.store.objects_written, repo.store.bytes_written
    found = scan(repo, write=not dry_run, progress=progress)
    tables = None
    if databases:
        tables = _scan_databases(repo, parent, _after(found.files, progress), accept, full)
    changes = describe(found.changes)
    base = files_root(parent) or EMPTY_MAP
    counts = tables.counts if tables else ()
    new_table = tables and any(not parent or not parent.find(c.name) for c in tables.collections)
    has_rows = new_table or any(c.changed for c in counts)
    if not found.changes and parent is not None and not has_rows:
        if tables and not dry_run:
            repo.store.set_states(tables.marks)
        return Snapshot(None, parent, [], found.notices, 0, 0, counts)
    count = _count(parent) + sum((c.new is not None) - (c.old is not None) for c in found.changes)
    root = EMPTY_MAP
    if not dry_run:
        root = edit_map(repo.store, base, ((change.key, change.new) for change in found.changes))
    manifest = next_manifest(
        parent,
        head,
        [Collection(FILES, root, count), *(tables.collections if tables else ())],
        author or repo.author(),
        message,
        time_us,
    )
    if dry_run:
        return Snapshot(None, manifest, changes, found.notices, 0, 0, counts)
    oid = repo.store.put(Kind.MANIFEST, encode_manifest(manifest))
    # With the ref, not after it: a table whose mark is not HEAD's is not recorded again.
    repo.move("main", head, oid, why, tables.marks if tables else None)
    from gsync.replicas.files.index import confirm

    confirm(repo.store, base, root)
    return Snapshot(
        oid,
        manifest,
        changes,
        found.notices,
        repo.store.objects_written - objects,
        repo.store.bytes_written - size,
        counts,
    )


def _check_no_merge(repo: Repository) -> None:
    """Raise MergeUnfinished while a merge waits, since it began from the HEAD that there is."""
    if repo.store.tracking("merge"):
        from gsync.sync.merging import check_no_merge

        check_no_merge(repo)


def _after(done: int, progress: Callable[[int], None] | None) -> Callable[[int], None] | None:
    """Return what adds up rows on top of `done` files, since a table tells only what is new."""
    if progress is None:
        return None

    def add(rows: int) -> None:
        nonlocal done
        done += rows
        progress(done)

    return add


def _scan_databases(
    repo: Repository,
    parent: Manifest | None,
    progress: Callable[[int], None] | None,
    accept: Sequence[str],
    full: bool,
) -> ScannedTables | None:
    if not repo.config.databases:
        return None
    from gsync.sync.tables import scan_databases

    return scan_databases(repo, parent, progress, accept, full=full)


def _count(manifest: Manifest | None) -> int:
    collection = manifest.find(FILES) if manifest else None
    return collection.count if collection else 0


def next_manifest(
    parent: Manifest | None,
    head: ObjectId | None,
    collections: Iterable[Collection],
    author: str,
    message: str,
    time_us: int | None = None,
) -> Manifest:
    """Return the manifest after `parent` (whose id is `head`) with these collections replaced."""
    found = {c.name: c for c in parent.collections} if parent else {}
    found |= {c.name: c for c in collections}
    return Manifest(
        parents=(head,) if head else (),
        collections=tuple(sorted(found.values(), key=lambda c: c.name.encode())),
        author=author,
        time_us=now_us() if time_us is None else time_us,
        message=message,
    )


# --- Leaving things out --------------------------------------------------------------


def untrack(repo: Repository, paths: Sequence[bytes], *, dry_run: bool = False) -> list[bytes]:
    """Stop tracking `paths` and what lies below them, as a new manifest; files stay on disk.

    Raises:
        NotFound: nothing tracked is called so.
    """
    _check_no_merge(repo)
    head = repo.head()
    parent = repo.manifest(head)
    root = files_root(parent)
    if parent is None or root is None:
        raise NotFound("nothing is tracked yet")
    dropped: set[bytes] = set()
    for path in paths:
        check_path(path)
        below = {key for key, _ in list_entries(repo.store, root, prefix=path + b"/")}
        if find_value(repo.store, root, path) is not None:
            below.add(path)
        if not below:
            raise NotFound(f"{show_path(path)} is not tracked")
        dropped |= below
    if not dry_run:
        new_root = edit_map(repo.store, root, [(path, None) for path in sorted(dropped)])
        files = Collection(FILES, new_root, _count(parent) - len(dropped))
        shown = ", ".join(map(show_path, paths))
        manifest = next_manifest(parent, head, [files], repo.author(), f"untrack {shown}")
        oid = repo.store.put(Kind.MANIFEST, encode_manifest(manifest))
        repo.move("main", head, oid, "untrack")
        repo.store.save_scan_dirs(dict.fromkeys(repo.store.load_scan_dirs()))
    return sorted(dropped)


def remove_collection(repo: Repository, name: str, *, dry_run: bool = False) -> Manifest:
    """Leave collection `name` out of a new manifest on top of HEAD; return that manifest.

    Raises:
        NotFound: HEAD has no such collection.
        Invalid: it is the file tree, which leaves path by path.
    """
    _check_no_merge(repo)
    head = repo.head()
    parent = repo.manifest(head)
    if parent is None or parent.find(name) is None:
        raise NotFound(f"HEAD has no collection {name!r}", hint="see 'gsync collection list'")
    if name == FILES:
        raise Invalid("the collection 'files' is not removed", hint="see 'gsync untrack'")
    manifest = replace(
        parent,
        parents=(head,) if head else (),
        collections=tuple(c for c in parent.collections if c.name != name),
        author=repo.author(),
        time_us=now_us(),
        message=f"remove collection {name}",
    )
    if not dry_run:
        oid = repo.store.put(Kind.MANIFEST, encode_manifest(manifest))
        repo.move("main", head, oid, "collection remove")
    return manifest


# --- History -------------------------------------------------------------------------


@frozen
class LogFilter:
    """Which manifests a log lists; each condition is optional."""

    paths: tuple[bytes, ...] = ()
    since_us: int | None = None
    until_us: int | None = None
    author: str | None = None
    limit: int | None = None


def log(
    repo: Repository, start: ObjectId, wanted: LogFilter
) -> Iterator[tuple[ObjectId, Manifest]]:
    """Yield manifests from `start` back, newest first, that `wanted` lets through.

    With paths: those manifests whose files at or below one of them differ from the first
    parent's; costs a look-up a manifest for each path.
    """
    count = 0
    for oid in list_ancestors(repo.store, [start]):
        manifest = get_manifest(repo.store, oid)
        if wanted.since_us is not None and manifest.time_us < wanted.since_us:
            continue
        if wanted.until_us is not None and manifest.time_us > wanted.until_us:
            continue
        if wanted.author and wanted.author.lower() not in manifest.author.lower():
            continue
        if wanted.paths and not _touches(repo, manifest, wanted.paths):
            continue
        yield oid, manifest
        count += 1
        if wanted.limit is not None and count >= wanted.limit:
            return


def _touches(repo: Repository, manifest: Manifest, paths: Sequence[bytes]) -> bool:
    parent = repo.manifest(manifest.parents[0]) if manifest.parents else None
    for path in paths:
        name = path.decode("utf-8", "surrogateescape")
        ours, theirs = manifest.find(name), parent.find(name) if parent else None
        if (ours or theirs) and ours != theirs:
            return True
    new, old = files_root(manifest), files_root(parent)
    if new == old:
        return False
    return any(_below(repo, new, path) != _below(repo, old, path) for path in paths)


def _below(repo: Repository, root: ObjectId | None, path: bytes) -> list[tuple[bytes, bytes]]:
    if root is None:
        return []
    found = list(list_entries(repo.store, root, prefix=path + b"/" if path else b""))
    value = find_value(repo.store, root, path) if path else None
    return found if value is None else [*found, (path, value)]


def changes_of(repo: Repository, manifest: Manifest) -> list[FileChange]:
    """Return what `manifest` changed against its first parent."""
    from gsync.sync.compare import diff_manifests

    parent = repo.manifest(manifest.parents[0]) if manifest.parents else None
    return diff_manifests(repo.store, parent, manifest)


def check_descends(repo: Repository, old: ObjectId | None, new: ObjectId) -> bool:
    """Return whether `new` builds on `old`; anything builds on None."""
    return old is None or is_ancestor(repo.store, old, new)


def scan_against(repo: Repository, root: ObjectId | None) -> list[Change]:
    """Return how the folder differs from the file tree `root`, key by key.

    The folder is compared with HEAD, which the stat cache knows, and HEAD with `root`.
    """
    head = files_root(repo.manifest(repo.head()))
    live = {change.key: change for change in scan(repo, write=False).changes}
    if root == head:
        return list(live.values())
    found: list[Change] = []
    between = {change.key: change for change in diff_maps(repo.store, root, head)}
    for key in sorted(between.keys() | live.keys()):
        first, second = between.get(key), live.get(key)
        old = first.old if first else second.old if second else None
        new = second.new if second else first.new if first else None
        if old != new:
            found.append(Change(key, old, new))
    return found
