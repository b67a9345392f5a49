"""Tenants with a live folder and databases: what changed there is taken in, pushes are applied.

The tenant's store is the folder's own, `DIR/.gsync/store.db`, so the commands work there as in
any repository, and at the same time: whoever works holds the repository's lock, the server too.

Rules of this file (06-wire, section 9). Before a ref is answered for, or compared, the folder
is scanned; one scan serves all that asked before it began. Nothing is merged. The lock is never
held while bytes of a client are waited for.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import anyio
import anyio.to_thread

from gsync.config import load_config
from gsync.errors import Conflict, Corrupt, GsyncError, Invalid, NotFound, Unavailable
from gsync.replicas.base import ReplicaChanged
from gsync.replicas.files.scan import Unreadable
from gsync.replicas.tables.apply import RowsChanged
from gsync.server.log import log_attached
from gsync.store.base import LogEntry, RefMove
from gsync.store.sqlite import SqliteStore
from gsync.sync.checkout import move_folder, pending_roots
from gsync.sync.lock import WAIT_S, Locked, locked
from gsync.sync.repository import SERVING, STORE, WORKDIR, Repository, scan, snapshot
from gsync.urls import check_tenant

HOLDER = "gsync serve"
"""What others are told who wait for the repository."""

STREAK_S = 1.0
PAUSE_S = 0.15
"""How long requests may follow each other without a gap, and how long it is: commands poll for
the lock every 50 ms, and would starve beside a server that takes it again at once."""

SCAN_WAIT_S = 20.0
"""How long a request waits for a scan: less than a client waits for a byte, by default 30 s."""

WHY, MESSAGE = "take in", "changes in the attached folder"

_UNDO = "keep these edits elsewhere and 'gsync restore --force' the paths; then it goes on"

OpenStore = Callable[[], AbstractContextManager[SqliteStore]]


class Attached:
    """One tenant's folder. `take_in` belongs to the event loop, all else to any thread.

    Attributes:
        tenant: Whose it is.
        root: The folder.
        store: The path of its store, which is the tenant's.
    """

    def __init__(self, tenant: str, root: Path) -> None:
        self.tenant = tenant
        self.root = root
        self.store = root / WORKDIR / STORE
        self._in_use = threading.Lock()  # the file lock is polled; requests here take turns
        self._streak_s = self._released_s = 0.0
        self._one_scan = asyncio.Lock()
        self._next_scan: asyncio.Task[None] | None = None

    async def take_in(self, open_store: OpenStore) -> None:
        """Return when a scan that began after this call has moved main to what is live.

        Raises:
            Unavailable: that takes long. It goes on, and what it has hashed need not be again.
            GsyncError: it could not be taken in, and why; main is where it was.
        """
        if self._next_scan is None:
            self._next_scan = asyncio.create_task(self._take_in_next(open_store))
        try:
            await asyncio.wait_for(asyncio.shield(self._next_scan), SCAN_WAIT_S)
        except TimeoutError as error:
            raise Unavailable(
                f"the folder of {self.tenant} at the server is being scanned",
                hint="much has changed there; try again",
            ) from error

    async def _take_in_next(self, open_store: OpenStore) -> None:
        async with self._one_scan:
            # From here on it may miss what changes: who asks now gets the one after it.
            self._next_scan = None
            limiter = anyio.CapacityLimiter(1)  # of its own: a long scan delays no other tenant
            await anyio.to_thread.run_sync(self.take_in_now, open_store, limiter=limiter)

    def take_in_now(self, open_store: OpenStore) -> None:
        """Finish what was interrupted, and take in what is live; see `take_in`."""
        with open_store() as store, self.hold(store) as mover:
            mover.settle()

    @contextmanager
    def hold(self, store: SqliteStore) -> Iterator[AttachedMover]:
        """Hold the folder, with what an interrupted push or command left finished or undone.

        Raises:
            Unavailable: a command, or another request, held it for too long.
        """
        with self._locked():
            with self.naming_the_folder():
                config = load_config(self.root, self.store.parent)
                repo = Repository(self.root, self.store.parent, store, config)
                done = repo.recover()
                if done is not None:
                    log_attached(self.tenant, done)
                if pending_roots(store):
                    raise Conflict(f"{done}", hint=_UNDO)
            yield AttachedMover(self, repo)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if not self._in_use.acquire(timeout=WAIT_S):
            raise self._busy("another request")
        try:
            self._let_commands_in()
            with ExitStack() as stack:
                try:
                    stack.enter_context(locked(self.store.parent / "lock", HOLDER, WAIT_S))
                except Locked as error:
                    raise self._busy(error.details["holder"] or "another process") from error
                yield
        finally:
            self._released_s = time.monotonic()
            self._in_use.release()

    def _let_commands_in(self) -> None:
        now_s = time.monotonic()
        if now_s - self._released_s > PAUSE_S:
            self._streak_s = now_s
        elif now_s - self._streak_s > STREAK_S:
            time.sleep(PAUSE_S)
            self._streak_s = time.monotonic()

    def _busy(self, holder: str) -> Unavailable:
        return Unavailable(
            f"the folder of {self.tenant} at the server is in use by {holder}",
            hint="try again when it is done",
        )

    @contextmanager
    def naming_the_folder(self) -> Iterator[None]:
        """Say of errors that they are about the server's folder.

        Whatever is wrong there is no fault of the request: a conflict with what is live.
        """
        try:
            yield
        except GsyncError as error:
            kind: type[GsyncError] = Conflict
            if isinstance(error, Unavailable | Corrupt) and not isinstance(error, Unreadable):
                kind = Unavailable if isinstance(error, Unavailable) else Corrupt
            hint = f"at the server: {error.hint}" if error.hint else None
            if isinstance(error, ReplicaChanged | RowsChanged):
                hint = "run 'gsync sync': it brings what changed there, and pushes again"
            where = f"the folder of {self.tenant} at the server"
            raise kind(f"{where}: {error.message}", hint=hint, **error.details) from error


class AttachedMover:
    """Moves the refs of a tenant, with folder and databases; while the folder is held."""

    def __init__(self, attached: Attached, repo: Repository) -> None:
        self._attached = attached
        self._repo = repo

    def settle(self) -> None:
        """Take in what changed in folder and databases, as a manifest of the server's own."""
        with self._attached.naming_the_folder():
            repo = self._repo
            if repo.head() is None and not scan(repo, write=False).changes:
                return  # an empty folder waits for its first push
            author = f"attached folder of {self._attached.tenant}"
            made = snapshot(repo, MESSAGE, author=author, why=WHY)
        if made.oid is not None:
            log_attached(self._attached.tenant, f"took in {made.oid.hex()}")

    def move_refs(
        self, moves: Sequence[RefMove], *, time_us: int, actor: str, why: str
    ) -> list[LogEntry]:
        """Bring folder and databases to the new main, both or neither, then move the refs."""
        store = self._repo.store
        main = next((move for move in moves if move.name == "main"), None)
        if main is None or main.new is None:
            return store.move_refs(moves, time_us=time_us, actor=actor, why=why)
        store.check_collections()  # before anything live is touched
        last = store.last_log_entry()
        with self._attached.naming_the_folder():
            move_folder(self._repo, main.old, main.new, why=why, actor=actor, refs=moves)
        return store.list_log(after=last.seq if last else 0, limit=len(moves))


@contextmanager
def attach(wanted: Sequence[tuple[str, Path]], data: Path) -> Iterator[dict[str, Attached]]:
    """Give the attached folders by tenant, which no other server may attach inside the block.

    Args:
        wanted: Tenants and their folders.
        data: The server's own directory.

    Raises:
        NotFound: there is no such folder, or it is none of gsync's.
        Invalid: a tenant or a folder is named twice; or the folder holds `data`, or the reverse.
        Conflict: the tenant has a store in `data`.
        Locked: another server has attached the folder.
    """
    found: dict[str, Attached] = {}
    with ExitStack() as stack:
        for tenant, directory in wanted:
            attached = _check(tenant, directory, data.resolve(), found)
            serving = attached.store.parent / SERVING
            stack.enter_context(locked(serving, HOLDER, wait_s=0))
            found[tenant] = attached
        yield found


def _check(tenant: str, directory: Path, data: Path, others: dict[str, Attached]) -> Attached:
    check_tenant(tenant)
    what = f"cannot attach {directory} to {tenant}"
    if tenant in others:
        raise Invalid(f"{what}: {others[tenant].root} is attached to it already")
    if not directory.is_dir():
        raise NotFound(f"{what}: there is no such directory")
    attached = Attached(tenant, directory.resolve())
    if not attached.store.is_file():
        raise NotFound(
            f"{what}: it is no gsync folder",
            hint=f"make one with 'gsync init {directory}'; a bare store has no folder to attach",
        )
    for other in others.values():
        if other.root == attached.root:
            raise Invalid(f"{what}: it is attached to {other.tenant} already")
    if data.is_relative_to(attached.root) or attached.root.is_relative_to(data):
        raise Invalid(
            f"{what}: it and the data directory {data} lie one in the other",
            hint="keep them apart: a folder is scanned, and the data directory is not for it",
        )
    store = data / "tenants" / tenant / STORE
    if store.is_file():
        with SqliteStore.open(store, read_only=True) as there:
            if there.last_log_entry() is not None:
                raise Conflict(
                    f"{what}: the tenant has a store in {store.parent}",
                    hint="attach to another tenant; or fetch what it holds into the folder, and"
                    " move it away",
                )
    return attached
