"""Fetch, pull, push, clone and sync: both ends in sight (spec/06-wire.md)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from gsync.config import Limits as ConfigLimits
from gsync.errors import Conflict, Invalid, NotFound
from gsync.frozen import frozen, replace
from gsync.objects.oid import Kind, ObjectId
from gsync.protocol.frames import StreamBroken
from gsync.protocol.messages import Hello, Welcome
from gsync.remotes.base import Connection
from gsync.store.base import LogEntry
from gsync.store.reflog import LogBroken, check_chain, decode_entry
from gsync.store.sqlite import SqliteStore
from gsync.sync.compare import FileChange, diff_manifests
from gsync.sync.repository import (
    STORE,
    WORKDIR,
    Repository,
    Snapshot,
    init_repository,
    local_user,
    now_us,
    snapshot,
)
from gsync.sync.transfers import Download, Moves, Upload
from gsync.transfer.history import is_ancestor, list_ancestors
from gsync.urls import PathUrl, PeerUrl, parse_url

if TYPE_CHECKING:
    from gsync.replicas.tables.base import Applied
    from gsync.sync.comparetables import TableCounts

PULL_ATTEMPTS = 3
PEERS = "peers"
"""Below the repository's own directory: a mirror for each peer that speaks tarballs alone."""


@frozen
class Moved:
    """What an exchange did to one ref, and what it cost.

    Attributes:
        remote: The remote's name.
        ref: The ref that moved, here or there.
        old: Where it pointed.
        new: Where it points.
        objects_sent: Objects sent.
        objects_received: Objects received.
        bytes_sent: Bytes on the wire, headers included.
        bytes_received: The same, the other way.
        round_trips: The longest chain of requests that waited for an answer.
        seconds: How long it took.
        changes: What changed in the folder, for a pull or clone.
        refs: All refs that moved, by name.
        tables: What changed in tables, for a pull.
        applied: What was written into databases, by database.
        conflicts: How many conflicts a merge left to be resolved; nothing was changed then.
        kept_there: What was deleted here and stays at a peer that cannot delete.
        not_carried: How many entries a peer does not take.
    """

    remote: str
    ref: str
    old: ObjectId | None
    new: ObjectId | None
    objects_sent: int
    objects_received: int
    bytes_sent: int
    bytes_received: int
    round_trips: int
    seconds: float
    changes: tuple[FileChange, ...] = ()
    refs: tuple[tuple[str, ObjectId | None, ObjectId | None], ...] = ()
    tables: tuple[TableCounts, ...] = ()
    applied: Mapping[str, Applied] = field(default_factory=dict)
    conflicts: int = 0
    kept_there: tuple[bytes, ...] = ()
    not_carried: int = 0


class Behind(Conflict):
    """The remote's main has moved past what this push builds on."""

    def __init__(self, remote: str, theirs: ObjectId) -> None:
        super().__init__(
            f"{remote}'s main is at {theirs.hex()[:12]}, which HEAD does not build on:"
            " somebody pushed first",
            hint=f"run 'gsync sync {remote}', which merges and pushes; nothing was changed",
            theirs=theirs.hex(),
        )


_REWRITTEN = (
    "the server's history was rewritten or restored from an old copy; find out which before"
    " going on. 'gsync remote remove' and 'add' accept the new one"
)


class _Exchange:
    """One conversation with one remote, and its count."""

    def __init__(self, repo: Repository, remote: str, connection: Connection) -> None:
        self.repo = repo
        self.remote = remote
        self.connection = connection
        self.sent = 0
        self.received = 0
        self._start = time.monotonic()

    def hello(self) -> Welcome:
        """Say hello, and check that the remote's log goes on from what was seen of it."""
        kept = self.repo.store.last_remote_entry(self.remote)
        welcome = self.connection.hello(Hello(1, (kept.seq, kept.hash) if kept else None))
        try:
            self._follow_log(kept, welcome)
        except LogBroken as error:
            raise LogBroken(f"{self.remote}: {error.message}", hint=_REWRITTEN) from error
        return welcome

    def _follow_log(self, kept: LogEntry | None, welcome: Welcome) -> None:
        entries = [decode_entry(body) for body in welcome.entries]
        last = entries[-1] if entries else kept
        while welcome.head and last and last.seq < welcome.head[0]:
            more = [decode_entry(body) for body in self.connection.log(last.seq)]
            if not more:
                break
            check_chain(more, last)  # also ends a server that repeats itself
            entries += more
            last = more[-1]
        check_chain(entries, kept)
        if (welcome.head or (0, bytes(32))) != ((last.seq, last.hash) if last else (0, bytes(32))):
            raise LogBroken(
                "the ref log does not continue the one seen before:"
                f" expected to reach entry {last.seq if last else 0},"
                f" found a log that ends at {welcome.head[0] if welcome.head else 0}",
            )
        self.repo.store.append_remote_log(self.remote, entries)

    def fetch(self, welcome: Welcome) -> None:
        """Bring the manifests of all the remote's refs, and remember where they point."""
        store = self.repo.store
        wants = sorted(_lacking(store, welcome.refs))
        if not wants:
            self.repo.see(self.remote, welcome.refs)
            return
        tracking = store.tracking(self.remote)
        tips = [*store.list_refs().values(), *tracking.values()]
        by_level = bool(tips and not tracking and _is_stranger(self.repo, welcome))
        download = Download(store, self.remote, self.connection, now_us, by_level=by_level)
        try:
            download.run(wants, tips, welcome.limits)
        finally:
            self.received += download.objects
        for oid in _lacking(store, welcome.refs):  # a stream that ends well may leave out all
            from gsync.transfer.receive import Incomplete

            raise Incomplete(Kind.MANIFEST, oid)
        self.repo.see(self.remote, welcome.refs)
        download.end()

    def push(self, welcome: Welcome, moves: Moves) -> None:
        """Send what the new manifests of `moves` have beyond the remote's, and move its refs."""
        store = self.repo.store
        upload = Upload(store, self.remote, self.connection, welcome, moves)
        taken = upload.run()
        self.sent += upload.objects
        entries = [decode_entry(body) for body in taken.entries]
        if [(entry.ref, entry.old, entry.new) for entry in entries] != moves:
            raise StreamBroken(
                f"{self.remote} took the push, and its log entries are not those of its moves",
                hint=f"'gsync fetch {self.remote}' says where its refs are now",
            )
        kept = store.last_remote_entry(self.remote)
        try:
            check_chain(entries, kept)
            store.append_remote_log(self.remote, entries)
        except LogBroken:
            pass  # somebody moved another ref in between: the next hello brings all of it
        refs = dict(welcome.refs)
        for name, _, new in moves:
            if new is None:
                refs.pop(name, None)
            else:
                refs[name] = new
        self.repo.see(self.remote, refs)

    def result(
        self,
        ref: str,
        old: ObjectId | None,
        new: ObjectId | None,
        changes: Iterable[FileChange] = (),
        refs: Iterable[tuple[str, ObjectId | None, ObjectId | None]] = (),
    ) -> Moved:
        """Return what was done, with what it cost."""
        traffic = self.connection.traffic
        return Moved(
            remote=self.remote,
            ref=ref,
            old=old,
            new=new,
            objects_sent=self.sent,
            objects_received=self.received,
            bytes_sent=traffic.bytes_sent,
            bytes_received=traffic.bytes_received,
            round_trips=traffic.round_trips,
            seconds=time.monotonic() - self._start,
            changes=tuple(changes),
            refs=tuple(refs),
            kept_there=tuple(getattr(self.connection, "kept_there", ())),
            not_carried=getattr(self.connection, "not_carried", 0),
        )


def _lacking(store: SqliteStore, refs: Mapping[str, ObjectId]) -> set[ObjectId]:
    """Return where `refs` point and no manifest is here; another object does not count."""
    return set(refs.values()) - store.sizes(Kind.MANIFEST, refs.values()).keys()


def _is_stranger(repo: Repository, welcome: Welcome) -> bool:
    """Return whether none of the remote's logged manifests is one of ours."""
    named = {e.new for e in map(decode_entry, welcome.entries) if e.new is not None}
    named |= set(welcome.refs.values())
    return len(repo.store.missing(named)) == len(named)


# --- Use cases -----------------------------------------------------------------------


def look(repo: Repository | None, remote: str, connection: Connection) -> Moved:
    """Say where the remote's main is, and bring nothing."""
    start = time.monotonic()
    welcome = connection.hello(Hello(1, None))
    seen = repo.store.tracking(remote).get("main") if repo else None
    traffic = connection.traffic
    return Moved(
        remote=remote,
        ref=f"{remote}/main",
        old=seen,
        new=welcome.refs.get("main"),
        objects_sent=0,
        objects_received=0,
        bytes_sent=traffic.bytes_sent,
        bytes_received=traffic.bytes_received,
        round_trips=traffic.round_trips,
        seconds=time.monotonic() - start,
    )


def fetch(repo: Repository, remote: str, connection: Connection) -> Moved:
    """Bring what the remote has and this repository has not; refs of ours do not move."""
    exchange = _Exchange(repo, remote, connection)
    old = repo.store.tracking(remote)
    welcome = exchange.hello()
    exchange.fetch(welcome)
    return exchange.result(
        f"{remote}/main",
        old.get("main"),
        welcome.refs.get("main"),
        refs=_moved(old, welcome.refs),
    )


def push(repo: Repository, remote: str, connection: Connection, *, dry_run: bool = False) -> Moved:
    """Send HEAD, tags and deploy refs; move the remote's, by compare-and-swap.

    Nothing is scanned. A tag that is there with another target is left alone.

    Raises:
        Behind: HEAD does not build on the remote's main.
        Invalid: there is nothing to push.
    """
    exchange = _Exchange(repo, remote, connection)
    head = repo.head()
    if head is None:
        raise Invalid("there is nothing to push", hint="make a snapshot first: 'gsync snapshot'")
    welcome = exchange.hello()
    theirs = welcome.refs.get("main")
    if theirs is not None and not _builds_on(repo, theirs, head):
        if not repo.store.missing([theirs]) and is_ancestor(repo.store, head, theirs):
            repo.see(remote, welcome.refs)
            return exchange.result("main", theirs, theirs)
        raise Behind(remote, theirs)
    moves = _moves(repo, welcome.refs)
    if moves and not dry_run:
        exchange.push(welcome, moves)
    elif not moves:
        repo.see(remote, welcome.refs)
    elif dry_run:
        exchange.sent += Upload(repo.store, remote, connection, welcome, moves).count()
    return exchange.result("main", theirs, head, refs=moves)


def _builds_on(repo: Repository, theirs: ObjectId, head: ObjectId) -> bool:
    return not repo.store.missing([theirs]) and is_ancestor(repo.store, theirs, head)


def _moves(repo: Repository, theirs: dict[str, ObjectId]) -> Moves:
    moves: Moves = []
    for name, oid in repo.store.list_refs().items():
        if theirs.get(name) == oid or (name.startswith("tags/") and name in theirs):
            continue
        if (
            name.startswith("deploy/")
            and name in theirs
            and not _builds_on(repo, theirs[name], oid)
        ):
            continue  # what runs there is newer than what is known here, or was rolled back
        moves.append((name, theirs.get(name), oid))
    return moves


def _moved(old: dict[str, ObjectId], new: dict[str, ObjectId]) -> Moves:
    names = sorted(old.keys() | new.keys())
    return [(n, old.get(n), new.get(n)) for n in names if old.get(n) != new.get(n)]


def pull(
    repo: Repository,
    remote: str,
    connection: Connection,
    *,
    dry_run: bool = False,
    databases: bool = True,
    accept: Sequence[str] = (),
) -> Moved:
    """Fetch, then bring `main`, folder and databases to the remote's main, or merge it.

    A merge that leaves conflicts changes nothing live: they are kept until they are resolved.
    Unsaved changes to paths and rows that the remote did not touch stay. The caller holds the
    lock.

    Args:
        databases: Write the databases too; else their tables are fetched only.
        accept: What is protected in tables and may be touched (12-databases, rule 4.3).

    Raises:
        MergeUnfinished: the merge before waits for its conflicts to be resolved.
        ReplicaChanged: unsaved changes would be overwritten; nothing was changed.
        RowsChanged: the same, in a table.
    """
    from gsync.sync.checkout import move_folder
    from gsync.sync.comparetables import count_tables
    from gsync.sync.merging import check_finished, check_no_merge, merge

    check_no_merge(repo)
    exchange = _Exchange(repo, remote, connection)
    welcome = exchange.hello()
    exchange.fetch(welcome)
    _take_tags(repo, remote, welcome.refs)
    head, theirs = repo.head(), welcome.refs.get("main")
    if theirs is None or theirs == head or (head and is_ancestor(repo.store, theirs, head)):
        return exchange.result("main", head, head)
    if head is not None and not is_ancestor(repo.store, head, theirs):
        merged = merge(
            repo,
            theirs,
            f"{remote}/main",
            databases=databases,
            accept=accept,
            dry_run=dry_run,
        )
        after_id = merged.oid or (theirs if merged.would and not merged.conflicts else head)
        before, after = repo.manifest(head), merged.would or repo.manifest(after_id)
        found = exchange.result("main", head, after_id, diff_manifests(repo.store, before, after))
        return replace(
            found,
            tables=tuple(count_tables(repo.store, before, after)),
            applied=merged.applied or {},
            conflicts=merged.conflicts,
        )
    check_finished(repo, theirs, f"{remote}/main")
    before, after = repo.manifest(head), repo.manifest(theirs)
    changes = diff_manifests(repo.store, before, after)
    applied: dict[str, Applied] = {}
    if not dry_run:
        applied = move_folder(
            repo, head, theirs, why=f"pull {remote}", databases=databases, accept=accept
        )
    elif databases and repo.config.local.databases:
        from gsync.sync.tablemoves import apply_databases, plan_databases

        moves = plan_databases(repo, before, after)
        applied = apply_databases(repo, moves, accept=accept, dry_run=True)
    found = exchange.result("main", head, theirs, changes)
    return replace(found, tables=tuple(count_tables(repo.store, before, after)), applied=applied)


def _take_tags(repo: Repository, remote: str, refs: dict[str, ObjectId]) -> None:
    ours = repo.store.list_refs()
    for name, oid in refs.items():
        if name.startswith("tags/") and name not in ours:
            repo.move(name, None, oid, f"fetch {remote}")
        elif name.startswith("deploy/") and ours.get(name) != oid:
            old = ours.get(name)
            if old is None or is_ancestor(repo.store, old, oid):
                repo.move(name, old, oid, f"fetch {remote}")


def sync(
    repo: Repository,
    remote: str,
    connect: Callable[[], AbstractContextManager[Connection]],
    message: str,
    *,
    databases: bool = True,
    accept: Sequence[str] = (),
) -> tuple[Snapshot, Moved, Moved | None]:
    """Snapshot, pull, push; return what each did. Nothing is pushed while there are conflicts."""
    made = snapshot(repo, message, databases=databases, accept=accept)
    with connect() as connection:
        pulled = pull(repo, remote, connection, databases=databases, accept=accept)
    if pulled.conflicts:
        return made, pulled, None
    for attempt in range(PULL_ATTEMPTS):
        with connect() as connection:
            if repo.head() is None:
                return made, pulled, pulled
            try:
                return made, pulled, push(repo, remote, connection)
            except Conflict:
                if attempt == PULL_ATTEMPTS - 1:
                    raise
        with connect() as connection:
            pulled = pull(repo, remote, connection, databases=databases, accept=accept)
        if pulled.conflicts:
            return made, pulled, None
    raise AssertionError("not reached")


def clone(repo: Repository, remote: str, connection: Connection) -> Moved:
    """Fill a new repository from the remote; the folder is written by the caller.

    Raises:
        NotFound: the remote has no main yet.
    """
    exchange = _Exchange(repo, remote, connection)
    welcome = exchange.hello()
    main = welcome.refs.get("main")
    exchange.fetch(welcome)
    if main is not None:
        # A clone that goes on where one was interrupted may find refs of that one.
        there = repo.store.list_refs()
        for name, oid in welcome.refs.items():
            if there.get(name) != oid:
                repo.move(name, there.get(name), oid, f"clone {remote}")
    return exchange.result("main", None, main)


def new_since(repo: Repository, remote: str) -> list[ObjectId]:
    """Return the manifests of `main` that the remote's main did not have when last seen."""
    head, theirs = repo.head(), repo.store.tracking(remote).get("main")
    if head is None:
        return []
    known = set(list_ancestors(repo.store, [theirs])) if theirs else set()
    return [oid for oid in list_ancestors(repo.store, [head]) if oid not in known]


@contextmanager
def connect(
    repo: Repository | None,
    url: str,
    *,
    token: str | None = None,
    insecure_http: bool = False,
    ca_file: str | None = None,
    run_id: str | None = None,
    create: bool = False,
) -> Iterator[Connection]:
    """Open a connection to the remote at `url`: HTTP, or a store on this machine.

    Args:
        ca_file: Certificates to trust instead of the usual ones.
        run_id: Names the command to the server.
        create: Make a bare store where a path is absent or an empty directory.

    Raises:
        NotFound: no store is at that path.
        Invalid: the URL is not one that a remote has.
    """
    location = parse_url(url, insecure_http=insecure_http)
    if isinstance(location, PathUrl):
        path = Path(location.path)
        if not path.is_absolute() and repo is not None:
            path = repo.root / path
        from gsync.remotes.local import LocalRemote
        from gsync.transfer.answer import Answerer

        with _open_store(path, create) as (store, has_folder):
            answerer = Answerer(store, local_user(), now_us, may_move=not has_folder)
            yield LocalRemote(answerer)
        return
    if isinstance(location, PeerUrl):
        with _open_peer(repo, location, token, ca_file) as peer:
            yield peer
        return
    from gsync.remotes.http import HttpRemote

    limits = repo.config.limits if repo else ConfigLimits()
    connection = HttpRemote(
        url,
        token,
        insecure_http=insecure_http,
        ca_file=ca_file,
        run_id=run_id,
        connect_s=limits.connect_s,
        stall_s=limits.stall_s,
        attempts=limits.attempts,
    )
    try:
        yield connection
    finally:
        connection.close()


@contextmanager
def _open_peer(
    repo: Repository | None, url: PeerUrl, token: str | None, ca_file: str | None
) -> Iterator[Connection]:
    """Open the mirror of a peer, below the repository; one that is only looked at has none."""
    from urllib.parse import urlsplit

    from gsync.remotes.older import CLIENT_ID, OlderPeer, RetryConfig
    from gsync.sync.peers import PeerRemote

    limits = repo.config.limits if repo else ConfigLimits()
    remotes = repo.config.remotes.values() if repo else ()
    remote = next((one for one in remotes if str(one.location()) == str(url)), None)
    with ExitStack() as stack:
        peer = OlderPeer(
            url,
            token,
            ca_file=ca_file,
            client_id=(remote.client_id if remote else None) or CLIENT_ID,
            retry=RetryConfig(max_attempts=limits.attempts, jitter=0.25),
            connect_s=limits.connect_s,
            stall_s=limits.stall_s,
        )
        stack.callback(peer.close)
        if repo is None:
            workdir = Path(stack.enter_context(TemporaryDirectory(prefix="gsync-")))
        else:
            workdir = _peer_directory(repo, str(url))
            workdir.mkdir(parents=True, exist_ok=True)
        file = workdir / STORE
        make = SqliteStore.open if file.is_file() else SqliteStore.create
        store = stack.enter_context(make(file))
        name = urlsplit(url.base).hostname or "peer"
        yield PeerRemote(store, peer, name, now_us, remote.include if remote else ())


def forget_peer(repo: Repository, url: str) -> None:
    """Remove the mirror of the peer at `url`, if there is one, and no other remote has it."""
    url = str(parse_url(url, insecure_http=True))
    if sum(str(remote.location()) == url for remote in repo.config.remotes.values()) <= 1:
        directory = _peer_directory(repo, url)
        if directory.is_dir():
            from gsync.replicas.files.remove import remove_tree

            remove_tree(directory)


def _peer_directory(repo: Repository, url: str) -> Path:
    from blake3 import blake3

    return repo.workdir / PEERS / blake3(url.encode()).hexdigest()[:16]


@contextmanager
def _open_store(path: Path, create: bool) -> Iterator[tuple[SqliteStore, bool]]:
    has_folder = (path / WORKDIR / STORE).is_file()
    file = path / WORKDIR / STORE if has_folder else path / STORE
    if not file.is_file():
        empty = path.is_dir() and not any(path.iterdir())
        if not create or not (empty or not path.exists()) or not path.parent.is_dir():
            raise NotFound(
                f"no gsync store at {path}",
                hint="a path remote is a repository, or a bare store made with 'gsync init --bare'",
            )
        init_repository(path, bare=True)
    with SqliteStore.open(file) as store:
        yield store, has_folder
