"""Undo: refs, folder and tables go back to before one operation, as an operation of its own.

Three-way throughout (14-operations): the base is how things were after the operation, ours is
how they are now, theirs how they were before it. `main` and what is live are merged on their
own, since an operation such as a snapshot changes one without the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gsync.errors import Conflict, NotFound
from gsync.frozen import replace
from gsync.maps.omap import EMPTY_MAP
from gsync.objects.encoding import decode_trusted, encode
from gsync.objects.model import EMPTY_MAP_BODY, FILES, Collection, Manifest, encode_manifest
from gsync.objects.oid import Kind, ObjectId
from gsync.store.base import RefMove
from gsync.sync.checkout import (
    Move,
    capture_folder,
    carry_out,
    merge_moves,
    replace_collections,
)
from gsync.sync.compare import FileChange, diff_manifests
from gsync.sync.comparetables import TableCounts, count_tables, split_collection, table_names
from gsync.sync.merging import (
    TRACKED,
    MergeUnfinished,
    find_unfinished,
    merge_contents,
    store_unfinished,
    undoing,
)
from gsync.sync.operations import (
    MARK_PREFIX,
    Live,
    Moves,
    Operation,
    get_operation,
    list_operations,
    operation_state,
    undone_ids,
)
from gsync.sync.repository import SERVING, Repository, now_us
from gsync.transfer.history import get_manifest, list_ancestors

if TYPE_CHECKING:
    from gsync.replicas.tables.base import Applied
    from gsync.sync.tablemoves import DatabaseMove
    from gsync.views.conflicts import StoredConflict

_MERGE = f"{TRACKED}/"


@dataclass(frozen=True, slots=True)
class Undone:
    """What an undo did, or would do.

    Attributes:
        operation: What was undone.
        id: The undo's own operation, or None in a dry run.
        refs: The refs that moved.
        left: Refs that were left where they are, each with the reason.
        changes: What changed in the folder.
        tables: What changed in tables.
        applied: What was written into databases.
        conflicts: How many conflicts wait to be resolved; nothing live was changed then.
        saved: The manifest that keeps what was live before, if that was written over.
    """

    operation: Operation
    id: int | None = None
    refs: Moves = field(default_factory=dict)
    left: tuple[tuple[str, str], ...] = ()
    changes: tuple[FileChange, ...] = ()
    tables: tuple[TableCounts, ...] = ()
    applied: Mapping[str, Applied] = field(default_factory=dict)
    conflicts: int = 0
    saved: ObjectId | None = None


class NotUndone(Conflict):
    """An operation that cannot be undone, or is undone already."""


def choose_operation(repo: Repository, number: int | None = None) -> Operation:
    """Return operation `number`, or the newest that is neither undone nor an undo itself.

    Raises:
        NotFound: there is no such operation.
        NotUndone: it is undone already, or cannot be.
    """
    operations = list_operations(repo.store)
    undone = undone_ids(operations)
    if number is None:
        for operation in operations:
            if operation.can_be_undone and operation.undoes is None and operation.id not in undone:
                return operation
        raise NotFound("there is nothing to undo", hint="'gsync ops' lists what was done")
    operation = get_operation(repo.store, number)
    if number in undone:
        by = next(o.id for o in operations if o.undoes == number and o.id not in undone)
        raise NotUndone(
            f"operation {number} ({operation.command}) is undone already",
            hint=f"to have it back, undo that: 'gsync undo {by}'",
        )
    if not operation.can_be_undone:
        raise NotUndone(
            f"operation {number} ({operation.command}) cannot be undone: {why_kept(operation)}"
        )
    return operation


def why_kept(operation: Operation) -> str:
    """Return why an operation has nothing that an undo would bring back."""
    return operation.kept or "it changed nothing here, and what was sent or seen stays so"


def undo(
    repo: Repository,
    number: int | None = None,
    *,
    databases: bool = True,
    accept: Sequence[str] = (),
    dry_run: bool = False,
) -> Undone:
    """Bring refs, folder and tables to their state before an operation; the caller holds the lock.

    What was changed since is merged. With conflicts nothing live is touched: what is live is
    recorded on `main`, and the conflicts wait as those of any merge do.

    Args:
        number: The operation; the newest that is neither undone nor an undo if None.
        databases: Write the databases too.
        accept: What is protected in tables and may be touched (12-databases, rule 4.3).

    Raises:
        NotFound: there is no such operation, or what it names was forgotten.
        NotUndone: it is undone already, or cannot be.
        MergeUnfinished: a merge waits that this operation did not begin.
        ReplicaChanged, RowsChanged: something changed meanwhile; nothing was changed.
    """
    operation = choose_operation(repo, number)
    _check_present(repo, operation)
    plan = _Plan(repo, operation, databases, accept)
    return plan.show() if dry_run else plan.do()


def _check_present(repo: Repository, operation: Operation) -> None:
    absent = repo.store.missing(operation.manifests())
    if absent:
        shown = ", ".join(sorted(oid.hex()[:12] for oid in absent))
        raise NotFound(
            f"operation {operation.id} ({operation.command}) cannot be undone: its manifest(s)"
            f" {shown} were forgotten"
        )


class _Plan:
    """What undoing one operation comes to; making it stores objects and changes nothing else."""

    def __init__(
        self, repo: Repository, operation: Operation, databases: bool, accept: Sequence[str]
    ) -> None:
        self.repo = repo
        self.operation = operation
        self.accept = accept
        self.head = repo.head()
        self.now = self._content(self.head)
        self.before, self.after = operation.refs.get("main", (self.head, self.head))
        self.conflicts: list[StoredConflict] = []
        self.left: list[tuple[str, str]] = []
        self.live_marks: dict[str, bytes | None] = {}
        self.names: tuple[str, ...] = ()
        if operation.live is not None and databases:
            here = repo.config.local.databases
            self.names = tuple(name for name in operation.live.databases if name in here)
        self.merge = self._plan_merge()
        self.main, self.main_content = self._plan_main()
        self.live_before, self.live_after = self._plan_live()
        self.refs = self._plan_refs()
        if self.conflicts:
            self._turn_into_merge()
        self._restart_merge()

    def _content(self, oid: ObjectId | None) -> Manifest:
        """Return manifest `oid`; for None one that holds no files and no tables."""
        if oid is not None:
            return get_manifest(self.repo.store, oid)
        self.repo.store.put(Kind.NODE, EMPTY_MAP_BODY)
        return self._manifest((), [Collection(FILES, EMPTY_MAP, 0)], "nothing")

    def _manifest(
        self, parents: Iterable[ObjectId | None], collections: Iterable[Collection], message: str
    ) -> Manifest:
        ordered = sorted(collections, key=lambda c: c.name.encode())
        known = tuple(parent for parent in parents if parent is not None)
        return Manifest(known, tuple(ordered), self.repo.author(), now_us(), message)

    def _put(self, manifest: Manifest) -> ObjectId:
        return self.repo.store.put(Kind.MANIFEST, encode_manifest(manifest))

    @property
    def _title(self) -> str:
        return f"undo operation {self.operation.id} ({self.operation.command})"

    # Refs

    def _plan_merge(self) -> Mapping[str, ObjectId] | None:
        """Return what is kept of an unfinished merge afterwards; None if that stays."""
        mine = {n: p for n, p in self.operation.refs.items() if n.startswith(_MERGE)}
        now = self.repo.store.tracking(TRACKED)
        if not mine:
            unfinished = find_unfinished(self.repo)
            if unfinished and ("main" in self.operation.refs or self.operation.live):
                raise MergeUnfinished(unfinished.name)
            return None
        then = dict(now)
        for full, (old, new) in mine.items():
            name = full.removeprefix(_MERGE)
            if now.get(name) != new:
                raise NotUndone(
                    f"the merge that operation {self.operation.id} ({self.operation.command}) was"
                    " about has changed since",
                    hint="undo the later operations first: 'gsync ops'",
                )
            then.pop(name, None)
            if old is not None:
                then[name] = old
        return then

    def _restart_merge(self) -> None:
        """A merge waits again only where HEAD is what it began from."""
        unfinished = self.merge.get("unfinished") if self.merge else None
        if unfinished is None or self.conflicts:
            return
        if get_manifest(self.repo.store, unfinished).parents[0] == self.main:
            return
        if "main" not in self.operation.refs:
            raise NotUndone(
                "HEAD has moved since that merge began, which therefore cannot go on",
                hint="merge again",
            )
        self.merge = None
        self.left.append(("merge/unfinished", "HEAD is not where that merge began"))

    def _plan_main(self) -> tuple[ObjectId | None, Manifest]:
        """Return where main goes, and what it holds there."""
        if "main" not in self.operation.refs or self.head == self.before:
            return self.head, self.now
        before = self._content(self.before)
        if self.head == self.after and not self._is_published(self.head):
            return self.before, before
        collections = before.collections
        if self.head != self.after:
            collections, conflicts = merge_contents(
                self.repo, self._content(self.after), self.now, before
            )
            self.conflicts += conflicts
        if collections == self.now.collections:
            return self.head, self.now
        manifest = self._manifest([self.head], collections, self._title)
        return self._put(manifest), manifest

    def _is_published(self, oid: ObjectId | None) -> bool:
        """Return whether others may have `oid`: a remote was seen to, or they fetch from here."""
        if self.repo.bare or (self.repo.workdir / SERVING).exists():
            return True
        store = self.repo.store
        tips = [
            tip
            for remote in store.list_remotes()
            if remote != TRACKED
            for tip in store.tracking(remote).values()
        ]
        return any(known == oid for known in list_ancestors(store, tips))

    def _plan_refs(self) -> list[RefMove]:
        store = self.repo.store
        moves = [RefMove("main", self.head, self.main)] if self.main != self.head else []
        seen = [store.tracking(remote) for remote in store.list_remotes()]
        for name, (old, new) in sorted(self.operation.refs.items()):
            if name == "main" or name.startswith(_MERGE):
                continue
            now = store.find_ref(name)
            if now == old:
                continue
            if now != new:
                self.left.append((name, "it has moved since"))
            elif name.startswith("deploy/") and any(refs.get(name) == now for refs in seen):
                self.left.append((name, "a remote has it so"))
            else:
                moves.append(RefMove(name, now, old))
        return moves

    # Live content

    def _plan_live(self) -> tuple[Manifest | None, Manifest | None]:
        """Return what is live and what shall be; None if the operation wrote nothing live."""
        live = self.operation.live
        if live is None or self.repo.bare:
            return None, None
        before, after = self._content(live.before), self._content(live.after)
        old, new = ({c.name: c for c in m.collections} for m in (before, after))
        tables = [
            name
            for name in old.keys() & new.keys()
            if old[name] != new[name] and (split_collection(name) or ("",))[0] in self.names
        ]
        files = old.get(FILES) != new.get(FILES)
        self.left += [
            (name, "no such database is configured here")
            for name in live.databases
            if name not in self.repo.config.local.databases
        ]
        ours = self._capture(after, tables, files=files)
        wanted = [*tables, *([FILES] if files else [])]
        theirs = replace_collections(after, [old[name] for name in wanted if name in old], "")
        collections, conflicts = merge_contents(self.repo, after, ours, theirs)
        self.conflicts += conflicts
        return ours, replace_collections(ours, collections, f"after: {self._title}")

    def _capture(self, base: Manifest, tables: Sequence[str], *, files: bool) -> Manifest:
        """Return HEAD with what is live of the folder, and of some tables."""
        title = f"before: {self._title}"
        ours = capture_folder(self.repo, title) if files else replace(self.now, message=title)
        if not tables:
            return ours
        from gsync.sync.tablemoves import capture_tables

        found, self.live_marks = capture_tables(self.repo, base, tables, self.accept)
        return replace_collections(ours, found, title)

    def _marks(self) -> dict[str, bytes | None]:
        """Return the marks that tables have afterwards, where they differ from now."""
        live = self.operation.live
        left = set(live.databases) - set(self.names) if live else set()
        was = self._content(self.before) if "main" in self.operation.refs else self.now
        noted = [name.removeprefix(MARK_PREFIX) for name in self.operation.marks]
        found: dict[str, bytes | None] = {}
        for name in {*noted, *table_names(self.now, self.main_content)}:
            if (split_collection(name) or ("",))[0] in left:
                continue
            state = MARK_PREFIX + name
            now = self.repo.store.get_state(state)
            then = self._mark(name, now, was, self.operation.marks.get(state))
            if then != now:
                found[state] = then
        return found

    def _mark(
        self,
        name: str,
        now: bytes | None,
        was: Manifest,
        noted: tuple[bytes | None, bytes | None] | None,
    ) -> bytes | None:
        here, there, back = (m.find(name) for m in (self.now, self.main_content, was))
        if noted is not None and now == noted[1] and there == back:
            return noted[0]
        if now is None or here is None:
            return now
        shown, root, _, *rest = decode_trusted(now)
        if root != here.root or here == there:
            return now
        if there is None or there.schema is None:
            return None
        return encode([shown, there.root, self.repo.store.get(Kind.SCHEMA, there.schema), *rest])

    # Conflicts

    def _turn_into_merge(self) -> None:
        """Record what is live on main, and keep a merge that takes the operation out of it."""
        live = self.operation.live
        ours = self.live_before
        if live is not None and ours is not None:
            base, theirs = self._content(live.after), self._content(live.before)
        else:
            base, theirs = self._content(self.after), self._content(self.before)
            ours = self.now if self.repo.bare else capture_folder(self.repo, "")
        main = self.head
        if ours.collections != self.now.collections:
            title = f"unsaved changes before: {self._title}"
            main = self._put(self._manifest([self.head], ours.collections, title))
        collections, self.conflicts = merge_contents(self.repo, base, ours, theirs)
        assert main is not None  # a conflict takes two sides
        if not self.conflicts:  # main alone had one: it goes where the folder goes
            self.main_content = self._manifest([main], collections, self._title)
            self.main = self._put(self.main_content)
            self.live_before = ours
            self.live_after = replace_collections(ours, collections, f"after: {self._title}")
            self.refs = self._plan_refs()
            return
        other = self._put(self._manifest([], theirs.collections, f"before {self._title[5:]}"))
        merge = self._manifest([main, other], collections, f"merge {undoing(self.operation.id)}")
        oid = store_unfinished(self.repo, merge, self.conflicts)
        self.merge = {"unfinished": oid, "base": self._put(replace(base, message="base"))}
        self.main, self.main_content = main, ours
        self.live_before = self.live_after = None
        self.refs = [RefMove("main", self.head, main)] if main != self.head else []

    # Doing it

    def show(self) -> Undone:
        """Return what would be done."""
        store = self.repo.store
        changes: list[FileChange] = []
        tables: list[TableCounts] = []
        if self.live_before is not None and self.live_after is not None:
            changes = diff_manifests(store, self.live_before, self.live_after)
            tables = list(count_tables(store, self.live_before, self.live_after))
        return Undone(
            self.operation,
            refs={
                **{move.name: (move.old, move.new) for move in self.refs},
                **(merge_moves(self.repo, self.merge) if self.merge is not None else {}),
            },
            left=tuple(self.left),
            changes=tuple(changes),
            tables=tuple(counts for counts in tables if counts.changed),
            conflicts=len(self.conflicts),
        )

    def do(self) -> Undone:
        """Do it, and return what was done."""
        repo, shown = self.repo, self.show()
        live: Live | None = None
        marks = self.live_marks if self.conflicts else self._marks()
        if self.live_before is not None and self.live_after is not None:
            live = Live(self._put(self.live_before), self._put(self.live_after), self.names)
        recorder = repo.recorder("undo")
        if not self.conflicts:
            recorder.undoing(self.operation.id)
        operation = recorder.next(repo.store, refs=shown.refs, states=marks, live=live)
        move = Move(
            live.before if live else self.head,
            live.after if live else self.head,
            f"undo {self.operation.id}",
            self.names if live else (),
            tuple(self.refs),
            {**marks, **operation_state(operation)},
            self.merge,
            by_mark=False,
        )
        applied = carry_out(repo, move, self._databases(), accept=self.accept)
        recorder.saved = operation
        return replace(shown, id=operation.id, applied=applied, saved=live.before if live else None)

    def _databases(self) -> list[DatabaseMove]:
        if not self.names or self.live_before is None:
            return []
        from gsync.sync.tablemoves import plan_between

        return plan_between(self.repo, self.live_before, self.live_after, self.names)
