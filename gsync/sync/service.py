"""Sync of a services folder and of two databases, with the results of the older API.

Each step is a use case of the core: files by snapshot, push and pull (06-wire), tables by
`sync_pair` (12-databases, 5). What is here only chooses ends and counts what happened.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from blake3 import blake3

from gsync.changes import Change
from gsync.config import SHARED_FILE, Tables, load_config
from gsync.errors import Conflict, GsyncError, Invalid
from gsync.frozen import replace
from gsync.maps.diff import diff_maps
from gsync.maps.omap import EMPTY_MAP
from gsync.objects.model import FILES, Manifest
from gsync.objects.oid import ObjectId
from gsync.paths import show_path
from gsync.remotes.base import Connection
from gsync.replicas.base import Notice, ReplicaChanged
from gsync.replicas.tables.base import Database
from gsync.store.sqlite import SqliteStore
from gsync.sync.compare import FileChange, describe, diff_manifests, files_root
from gsync.sync.controlplane import ApiError, Unauthorized, check_api_url, find_database_url
from gsync.sync.exchange import Behind, connect, fetch, pull, push
from gsync.sync.kinds import find_kind, keep_kind
from gsync.sync.opendb import open_url
from gsync.sync.operations import Operation, list_operations
from gsync.sync.pairs import PairResult, sync_pair
from gsync.sync.presets import find_preset
from gsync.sync.repository import (
    STORE,
    Repository,
    find_root,
    init_repository,
    open_repository,
    scan,
    scan_against,
    snapshot,
)
from gsync.sync.results import (
    InvalidInput,
    MissingConfig,
    SyncDirection,
    SyncError,
    SyncOperationResult,
    SyncOpState,
)
from gsync.sync.runs import recorded
from gsync.sync.undoing import Undone, undo
from gsync.transfer.history import is_ancestor
from gsync.urls import HttpUrl, InvalidName, InvalidUrl, check_tenant, parse_database_url, parse_url

__all__ = [
    "ApiError",
    "InvalidInput",
    "MissingConfig",
    "SyncConfig",
    "SyncConfigBuilder",
    "SyncDirection",
    "SyncError",
    "SyncOpState",
    "SyncOperationResult",
    "SyncService",
    "Unauthorized",
]

PRESET = "systemprompt"
# Names that the details of a dry run had for the tables of the preset.
_OLDER_NAMES = {"users": "users", "user_contexts": "contexts"}
# How many paths or held-back names details list; counts are always whole.
_LISTED_MAX = 1_000


# --- Configuration -------------------------------------------------------------------


class _Settable(ABC):
    """What a configuration and its builder share: setters that return a new one."""

    __slots__ = ()

    @abstractmethod
    def _with(self, **changes: Any) -> Self: ...

    def with_direction(self, direction: SyncDirection) -> Self:
        """Return the same with this direction."""
        return self._with(direction=direction)

    def with_dry_run(self, dry_run: bool) -> Self:
        """Return the same that compares only, or that writes."""
        return self._with(dry_run=dry_run)

    def with_verbose(self, verbose: bool) -> Self:
        """Return the same whose details list every change, or do not."""
        return self._with(verbose=verbose)

    def with_hostname(self, hostname: str | None) -> Self:
        """Return the same with this host for files; None goes by way of `api_url`."""
        return self._with(hostname=hostname)

    def with_local_database_url(self, url: str) -> Self:
        """Return the same with this database on this side."""
        return self._with(local_database_url=url)

    def with_tenant_database_url(self, url: str) -> Self:
        """Return the same with this database at the tenant; the control plane is not asked."""
        return self._with(tenant_database_url=url)

    def with_accepted(self, names: Iterable[str]) -> Self:
        """Return the same that may touch what is protected under these names."""
        return self._with(accepted=tuple(names))

    def with_ca_file(self, file: str | None) -> Self:
        """Return the same that trusts the certificates in this file alone; None the usual ones."""
        return self._with(ca_file=file)


@dataclass(frozen=True, slots=True)
class SyncConfig(_Settable):
    """What a `SyncService` works with. Nothing is checked before it is used.

    Attributes:
        tenant_id: Whose store and database are at the other end.
        api_url: The server, `https://HOST[:PORT]`: the control plane, and the store
            at `api_url/tenant_id`.
        api_token: Sent to both as the bearer; the space around it is not.
        services_path: The folder; a repository is made in it where there is none.
        direction: Which way.
        dry_run: Compare both sides and change neither.
        verbose: List in the details what changed, not only how much.
        hostname: Where the store is instead: `https://hostname/tenant_id`.
        local_database_url: The database on this side; it may hold a password.
        tenant_database_url: The one of the tenant; the control plane is asked if None.
        accepted: Names of what is protected in tables and may be touched.
        ca_file: Certificates that vouch for both servers, PEM, instead of the usual ones.
    """

    tenant_id: str
    api_url: str
    api_token: str = field(repr=False)
    services_path: str | os.PathLike[str]
    direction: SyncDirection = SyncDirection.PUSH
    dry_run: bool = False
    verbose: bool = False
    hostname: str | None = None
    local_database_url: str | None = field(default=None, repr=False)
    tenant_database_url: str | None = field(default=None, repr=False)
    accepted: tuple[str, ...] = ()
    ca_file: str | None = None

    @classmethod
    def builder(
        cls,
        tenant_id: str,
        api_url: str,
        api_token: str,
        services_path: str | os.PathLike[str],
    ) -> SyncConfigBuilder:
        """Return a builder, on which the setters work too."""
        return SyncConfigBuilder(cls(tenant_id, api_url, api_token, services_path))

    def _with(self, **changes: Any) -> Self:
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class SyncConfigBuilder(_Settable):
    """A configuration in the making."""

    config: SyncConfig

    def build(self) -> SyncConfig:
        """Return the configuration; this cannot fail."""
        return self.config

    def _with(self, **changes: Any) -> Self:
        return replace(self, config=replace(self.config, **changes))


# --- The service ---------------------------------------------------------------------


class SyncService:
    """Brings a services folder and its database to a tenant, or the reverse."""

    def __init__(self, config: SyncConfig) -> None:
        self.config = config

    def sync_files(self) -> SyncOperationResult:
        """Bring the files to the other side.

        Raises:
            SyncError: a setting is absent or wrong.
            Conflict: the other side has moved on, or unsaved changes are in the way.
            GsyncError: anything else that the core says.
        """
        config, folder = self.config, self._folder()
        url = self._remote_url()
        with (
            self._repository(folder) as repo,
            recorded(repo, "sync-all", dry=config.dry_run) as run,
            repo.writing("sync_files"),
        ):
            is_direct = config.hostname is not None
            kind = find_kind(repo, url, is_direct=is_direct, ca_file=config.ca_file)
            run.remote = _remote_name(repo, str(kind))
            opening = partial(
                connect, repo, str(kind), token=config.api_token.strip(), ca_file=config.ca_file
            )
            done = sync_folder(
                repo,
                run.remote,
                run.counting(opening),
                self._direction,
                dry_run=config.dry_run,
                verbose=config.verbose,
            )
            keep_kind(repo, url, kind)
            return done

    def list_files(self) -> SyncOperationResult:
        """Return what a push offers, without asking the other side; its details say so."""
        folder = self._folder()
        with self._repository(folder, temporary=True) as repo:
            found = describe(scan_against(repo, EMPTY_MAP))
        files = [
            {"path": show_path(c.path), "size": c.new.size, "checksum": c.new.content_id.hex()}
            for c in found
            if c.new is not None and c.new.content_id is not None
        ]
        details = {"compared": False, "manifest": {"files": files}}
        return SyncOperationResult.planned("files_push", len(files), details)

    def sync_database(self) -> SyncOperationResult:
        """Bring the tables to the other side, directly between the two databases.

        Raises:
            MissingConfig: `local_database_url` is not set.
            ApiError: the control plane does not say where the tenant's database is.
            Conflict: rows were changed on both sides, or are protected; nothing was written.
            GsyncError: anything else that the core says.
        """
        config, folder = self.config, self._folder()
        if not config.local_database_url:
            raise MissingConfig(
                "local_database_url",
                "there is no database on this side",
                hint="set it with with_local_database_url('postgresql://USER@HOST/DATABASE')",
            )
        local = _open_database("local_database_url", config.local_database_url)
        tenant = _open_database("tenant_database_url", self._tenant_url())
        is_push = self._direction is SyncDirection.PUSH
        source, target = (local, tenant) if is_push else (tenant, local)
        with (
            self._repository(folder) as repo,
            recorded(repo, "sync-all", dry=config.dry_run) as run,
            repo.writing("sync_database"),
        ):
            run.remote = "database"
            return sync_databases(
                repo,
                source,
                target,
                _choose_tables(repo),
                self._direction,
                accept=config.accepted,
                dry_run=config.dry_run,
            )

    def sync_all(self) -> list[SyncOperationResult]:
        """Do both, files first; whatever fails is an entry of the list and stops nothing else."""
        return [
            attempt(_files_operation(self._direction), self.sync_files),
            attempt("database", self.sync_database),
        ]

    def ops(self) -> list[Operation]:
        """Return what was changed in the folder's repository, newest first."""
        with self._repository(self._folder(), temporary=True) as repo:
            repo.settle("ops")
            return list_operations(repo.store)

    def undo(self, operation: int | None = None) -> Undone:
        """Bring refs, folder and tables to their state before an operation.

        Args:
            operation: Its number; the newest that is neither undone nor an undo if None.

        Raises: as `undoing.undo`.
        """
        config = self.config
        with self._repository(self._folder()) as repo, repo.writing("undo"):
            return undo(repo, operation, accept=config.accepted, dry_run=config.dry_run)

    @property
    def _direction(self) -> SyncDirection:
        """The direction, also where its JSON form was given."""
        try:
            return SyncDirection(self.config.direction)
        except ValueError as error:
            raise InvalidInput(
                "direction", f"expected Push or Pull, found {str(self.config.direction)[:80]!r}"
            ) from error

    def _folder(self) -> Path:
        if not os.fspath(self.config.services_path):
            raise InvalidInput("services_path", "is empty")
        folder = Path(self.config.services_path).absolute()
        is_push = self._direction is SyncDirection.PUSH
        if not folder.is_dir() and (is_push or os.path.lexists(folder)):
            raise InvalidInput("services_path", f"{folder} is no directory")
        return folder

    def _check_access(self) -> None:
        if not self.config.tenant_id:
            raise InvalidInput("tenant_id", "is empty")
        if not self.config.api_token.strip():
            raise InvalidInput("api_token", "is empty")

    def _remote_url(self) -> HttpUrl:
        self._check_access()
        try:
            check_tenant(self.config.tenant_id)
        except InvalidName as error:
            raise InvalidInput("tenant_id", error.message) from error
        where, base = "api_url", check_api_url(self.config.api_url)
        if self.config.hostname is not None:
            where, base = "hostname", f"https://{self.config.hostname}"
        try:
            found = parse_url(f"{base}/{self.config.tenant_id}")
            assert isinstance(found, HttpUrl)
            return found
        except InvalidUrl as error:
            raise InvalidInput(where, error.message, hint=error.hint) from error

    def _tenant_url(self) -> str:
        if self.config.tenant_database_url is not None:
            return self.config.tenant_database_url
        self._check_access()
        config = self.config
        return find_database_url(
            config.api_url, config.tenant_id, config.api_token.strip(), ca_file=config.ca_file
        )

    @contextmanager
    def _repository(self, folder: Path, *, temporary: bool = False) -> Iterator[Repository]:
        """Open the repository of the folder, or make it; to look only, a store elsewhere does."""
        if find_root(folder) == folder:
            with open_repository(folder) as repo:
                yield repo
        elif self.config.dry_run or temporary:
            init_repository(folder, dry_run=True)  # says why it could not be made
            with TemporaryDirectory(prefix="gsync-") as name:
                workdir = Path(name)
                with SqliteStore.create(workdir / STORE) as store:
                    yield Repository(folder, workdir, store, load_config(folder, workdir))
        else:
            had_settings = (folder / SHARED_FILE).exists()
            init_repository(folder)
            if not had_settings:
                # Only comments are in it, and the folder is somebody's content.
                (folder / SHARED_FILE).unlink()
            with open_repository(folder) as repo:
                yield repo


def attempt(operation: str, step: Callable[[], SyncOperationResult]) -> SyncOperationResult:
    """Return the result of `step`, or of its failure under the name `operation`."""
    try:
        return step()
    except (GsyncError, OSError) as error:
        return SyncOperationResult.failed(operation, error)


def _remote_name(repo: Repository, url: str) -> str:
    """Return what the repository calls the store at `url`, or a name that no other store has.

    What was seen of one tenant says nothing of another, though both be used on one folder.
    """
    for name, remote in sorted(repo.config.remotes.items()):
        if remote.url.rstrip("/") == url:
            return name
    return f"tenant-{blake3(url.encode()).hexdigest()[:16]}"


def _files_operation(direction: SyncDirection) -> str:
    return f"files_{direction.lower()}"


def _open_database(setting: str, url: str) -> Database:
    try:
        return open_url(parse_database_url(url, with_password=True), None, Path.cwd())
    except Invalid as error:
        raise InvalidInput(setting, error.message, hint=error.hint) from error


def _choose_tables(repo: Repository) -> Tables:
    """Return the tables of the database `main` or the first of `gsync.toml`; else the preset's."""
    databases = {name: found for name, found in repo.config.shared.databases.items() if found}
    if databases:
        return databases["main" if "main" in databases else sorted(databases)[0]]
    return preset_tables(PRESET)


def preset_tables(name: str, databases: Iterable[Database] = ()) -> Tables:
    """Return how the tables of a well-known schema are recorded.

    Args:
        databases: Where tables that are optional are looked for; without any, none is taken.

    Raises:
        NotFound: no schema is known by this name.
    """
    live = []
    for database in databases:
        with database.reading() as session:
            live.append({t.name: [c.name for c in t.columns] for t in session.tables()})
    return {table: found.config for table, found in find_preset(name, live or [{}]).items()}


# --- Files ---------------------------------------------------------------------------


def sync_folder(
    repo: Repository,
    remote: str,
    connect: Callable[[], AbstractContextManager[Connection]],
    direction: SyncDirection,
    *,
    dry_run: bool = False,
    verbose: bool = False,
    message: str = "sync",
) -> SyncOperationResult:
    """Bring the files of a repository to a remote, or the reverse. The caller holds the lock.

    Raises:
        Behind: the other side has what this one has not seen.
        Conflict: what both sides did could not be merged; the conflicts are kept.
        ReplicaChanged: unsaved changes would be overwritten; nothing was changed.
    """
    is_push = direction is SyncDirection.PUSH
    step = (_look_at_push if dry_run else _push) if is_push else _pull
    changes, notices, old, new, count = step(repo, remote, connect, message, dry_run)
    counts = _count_changes(changes)
    written = counts["created"] + counts["updated"]
    details: dict[str, Any] = {
        **counts,
        "unchanged": count - written,
        "skipped": len(notices),
        "from": old.hex() if old else None,
        "to": new.hex() if new else None,
    }
    if notices:
        details["held_back"] = [
            {"path": show_path(one.path), "reason": one.text} for one in notices[:_LISTED_MAX]
        ]
    if verbose:
        details["changes"] = [
            {"path": show_path(change.path), "status": change.status}
            for change in changes[:_LISTED_MAX]
        ]
    operation, total = _files_operation(direction), sum(counts.values())
    if dry_run:
        return SyncOperationResult.planned(operation, total, details)
    return SyncOperationResult.completed(operation, total).with_details(details)


# What changes at the target, what is held back, the target's manifest before and after, and
# how many entries it has after.
_Step = tuple[Sequence[FileChange], Sequence[Notice], ObjectId | None, ObjectId | None, int]
_Connect = Callable[[], AbstractContextManager[Connection]]


def _push(repo: Repository, remote: str, connect: _Connect, message: str, _: bool) -> _Step:
    made = snapshot(repo, message, databases=False)
    with connect() as connection:
        moved = push(repo, remote, connection)
    after = repo.manifest(moved.new)
    found = diff_manifests(repo.store, repo.manifest(moved.old), after)
    changes, left = _split_at_peer(connection, found)
    return changes, [*made.notices, *left], moved.old, moved.new, _count_files(after)


def _split_at_peer(
    connection: Connection, changes: Iterable[FileChange]
) -> tuple[list[FileChange], list[Notice]]:
    """Return which changes arrive at the other side, and why the others do not."""
    why_not_sent = getattr(connection, "why_not_sent", None)
    arrive, left = [], []
    for change in changes:
        why = why_not_sent(change.path, change.new) if why_not_sent else None
        if why is None:
            arrive.append(change)
        else:
            left.append(Notice(change.path, "not_sent", why))
    return arrive, left


def _look_at_push(repo: Repository, remote: str, connect: _Connect, message: str, _: bool) -> _Step:
    with connect() as connection:
        theirs = fetch(repo, remote, connection).new
    head = repo.head()
    found = scan(repo, write=False)
    if theirs is not None and (head is None or not is_ancestor(repo.store, theirs, head)):
        if head is None or found.changes or not is_ancestor(repo.store, head, theirs):
            raise Behind(remote, theirs)
        return [], found.notices, theirs, theirs, _count_files(repo.manifest(theirs))
    there = repo.manifest(theirs)
    changes = describe(scan_against(repo, files_root(there) or EMPTY_MAP))
    changes, left = _split_at_peer(connection, changes)
    grown = sum((c.old is None) - (c.new is None) for c in changes)
    return changes, [*found.notices, *left], theirs, None, _count_files(there) + grown


def _pull(repo: Repository, remote: str, connect: _Connect, message: str, dry_run: bool) -> _Step:
    with connect() as connection:
        theirs = fetch(repo, remote, connection).new
        head = repo.head()
        if theirs is None or (head is not None and is_ancestor(repo.store, theirs, head)):
            return [], [], head, head, _count_files(repo.manifest(head))
        if head is not None and not is_ancestor(repo.store, head, theirs):
            merged = pull(repo, remote, connection, databases=False, dry_run=dry_run)
            if merged.conflicts:
                raise Conflict(
                    f"{merged.conflicts} conflict(s) between {remote}/main and what is here",
                    hint="see 'gsync conflicts'; decide, then 'gsync merge --continue'",
                )
            after = repo.manifest(merged.new)
            return list(merged.changes), [], head, merged.new, _count_files(after)
        before, after = repo.manifest(head), repo.manifest(theirs)
        changes = _pending(repo, before, after)
        if dry_run:
            return changes, [], head, theirs, _count_files(after)
        repo.root.mkdir(parents=True, exist_ok=True)
        moved = pull(repo, remote, connection, databases=False)
        if moved.new != theirs:  # somebody pushed in between
            changes, after = list(moved.changes), repo.manifest(moved.new)
        return changes, [], head, moved.new, _count_files(after)


def _pending(repo: Repository, old: Manifest | None, new: Manifest | None) -> list[FileChange]:
    """Return what has to be written into the folder; what is as in `new` already is left out.

    Raises:
        ReplicaChanged: unsaved changes would be overwritten.
    """
    live: dict[bytes, bytes | None] = {}
    if repo.root.is_dir():
        live = {change.key: change.new for change in scan(repo, write=False).changes}
    pending: list[Change] = []
    lost = []
    for change in diff_maps(repo.store, files_root(old), files_root(new)):
        found = live.get(change.key, change.old)
        if found == change.new:
            continue
        pending.append(change)
        if found != change.old:
            lost.append(change.key)
    if lost:
        raise ReplicaChanged(lost)
    return describe(pending)


def _count_changes(changes: Iterable[FileChange]) -> dict[str, int]:
    counts = {"created": 0, "updated": 0, "deleted": 0}
    names = {"added": "created", "deleted": "deleted"}
    for change in changes:
        counts[names.get(change.status, "updated")] += 1
    return counts


def _count_files(manifest: Manifest | None) -> int:
    collection = manifest.find(FILES) if manifest else None
    return collection.count if collection else 0


# --- Tables --------------------------------------------------------------------------


def sync_databases(
    repo: Repository,
    source: Database,
    target: Database,
    tables: Tables,
    direction: SyncDirection,
    *,
    accept: Iterable[str] = (),
    force: bool = False,
    dry_run: bool = False,
) -> SyncOperationResult:
    """Bring tables from one database to the other. The caller holds the lock.

    Raises: as `sync_pair`.
    """
    done = sync_pair(repo, source, target, tables, accept=accept, force=force, dry_run=dry_run)
    operation, details = f"database_{direction.lower()}", pair_json(done)
    if dry_run:
        older = {
            _OLDER_NAMES[counts.table]: counts.written
            for counts in done.tables
            if counts.table in _OLDER_NAMES
        }
        return SyncOperationResult.planned(operation, done.written, older | details)
    return SyncOperationResult.completed(operation, done.written).with_details(details)


def pair_json(done: PairResult) -> dict[str, Any]:
    """Return what a sync of two databases did as JSON documents have it."""
    return {
        "source": done.source,
        "target": done.target,
        "pair": done.pair,
        "from": done.old.hex() if done.old else None,
        "to": done.new.hex() if done.new else None,
        "tables": {
            counts.table: {
                "created": counts.inserted,
                "updated": counts.updated,
                "deleted": counts.deleted,
                "unchanged": counts.unchanged,
                "skipped": counts.only_in_target + counts.kept,
                "only_in_target": counts.only_in_target,
                "kept": counts.kept,
                "conflicts": counts.conflicts,
            }
            for counts in done.tables
        },
    }
