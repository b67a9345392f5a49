"""Local syncs: documents and rules between disk and database, as one manifest and one move.

A snapshot comes first, so that what both sides were is on record; what is planned from it is the
manifest on top, to which database and folder move together or not at all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from gsync.errors import Invalid, NotFound
from gsync.frozen import replace
from gsync.maps.omap import EMPTY_MAP, count_entries, edit_map
from gsync.objects.model import FILES, Collection, Manifest, encode_manifest
from gsync.objects.oid import Kind
from gsync.sync.checkout import capture_folder, move_folder, replace_collections
from gsync.sync.compare import files_root
from gsync.sync.docfiles import load_sources
from gsync.sync.documents import TABLE, DocumentPlanner
from gsync.sync.localplan import Choices, LocalPlan
from gsync.sync.repository import Repository, next_manifest, snapshot
from gsync.sync.rules import RULES, RULES_TABLE, RulesPlanner, find_rules


def plan_local(
    repo: Repository, direction: str, choices: Choices, database: str | None = None
) -> LocalPlan:
    """Return how folder and database differ as they are now, and what a sync would do.

    Nothing is kept but contents that nothing names. The caller holds the lock.
    """
    from gsync.sync.tables import scan_databases

    name = find_local(repo, database)
    now = capture_folder(repo, "as it is")
    tables = scan_databases(repo, repo.manifest(repo.head()))
    now = replace_collections(now, tables.collections, now.message)
    return _Local(repo, now, name, direction, choices).result()


def sync_local(
    repo: Repository,
    direction: str,
    choices: Choices,
    database: str | None = None,
    *,
    message: str | None = None,
    accept: Sequence[str] = (),
) -> LocalPlan:
    """Bring documents and rules from one side to the other, or both ways.

    The caller holds the lock.

    Args:
        direction: `to-db`, `to-disk` or `merge`.
        message: What the manifest says; counts if None.
        accept: Tables of which all rows may be gone.

    Raises:
        Conflict: something changed meanwhile; nothing was done.
        Refused: the database does not take it; nothing was done.
    """
    name = find_local(repo, database)
    snapshot(repo, f"before local {direction}", accept=accept, why=f"local {direction}")
    head = repo.head()
    manifest = repo.manifest(head)
    assert head is not None and manifest is not None
    plan = _Local(repo, manifest, name, direction, choices)
    found = plan.result()
    collections = plan.collections()
    states = plan.states()
    if not collections:
        if states:
            repo.store.flush()
            repo.store.set_states(states)
        return found
    text = message or _message(direction, found)
    made = next_manifest(manifest, head, collections, repo.author(), text)
    oid = repo.store.put(Kind.MANIFEST, encode_manifest(made))
    move_folder(repo, head, oid, why=f"local {direction}", accept=accept, states=states)
    return replace(found, manifest=oid)


def find_local(repo: Repository, database: str | None = None) -> str:
    """Return the name of the database whose documents and rules are kept in step.

    Raises:
        Invalid: there is none, or several and nothing says which.
    """
    shared = repo.config.shared
    wanted = database or shared.content.database
    tables = (TABLE, RULES_TABLE)
    found = [name for name, known in shared.databases.items() if any(t in known for t in tables)]
    if wanted is not None:
        found = [name for name in found if name == wanted]
    here = [name for name in found if name in repo.config.local.databases]
    if len(here) == 1:
        return here[0]
    if not found:
        which = f"database {wanted} has no" if wanted else "no database has a"
        raise Invalid(
            f"{which} table {' or '.join(tables)} that is recorded",
            hint="'gsync db add URL --preset systemprompt' records them",
        )
    if not here:
        raise Invalid(
            f"this machine was not told where the database {found[0]} is",
            hint=f"'gsync db add URL --name {found[0]}'",
        )
    raise Invalid(
        f"such tables are recorded of {', '.join(here)}",
        hint="say which with --database, or [content] database in gsync.toml",
    )


class _Local:
    """All that one local sync is about."""

    def __init__(
        self,
        repo: Repository,
        manifest: Manifest,
        database: str,
        direction: str,
        choices: Choices,
    ) -> None:
        self._store = repo.store
        self._root = files_root(manifest) or EMPTY_MAP
        self._direction = direction
        self._planners: list[DocumentPlanner | RulesPlanner] = []
        names = [name for name in choices.only if name != RULES]
        with_rules = not choices.only or len(names) < len(choices.only)
        has_rules = with_rules and self._has_rules(repo, manifest, database, choices)
        if names or not choices.only:
            documents = replace(choices, only=tuple(names))
            if names or not has_rules or self._has_documents(repo, manifest, database):
                planner = DocumentPlanner(repo, manifest, database, direction, documents)
                self._planners.append(planner)
        if has_rules or (with_rules and choices.only):
            self._planners.append(RulesPlanner(repo, manifest, database, direction, choices))

    def _has_documents(self, repo: Repository, manifest: Manifest, database: str) -> bool:
        if manifest.find(f"db/{database}/{TABLE}") is None:
            return False
        try:
            load_sources(repo, self._root)
        except NotFound:
            return False
        return True

    def _has_rules(
        self, repo: Repository, manifest: Manifest, database: str, choices: Choices
    ) -> bool:
        found = manifest.find(f"db/{database}/{RULES_TABLE}")
        return found is not None and (
            find_rules(repo, self._root, choices.rules_file) is not None or found.count > 0
        )

    def result(self) -> LocalPlan:
        """Return what there is to tell."""
        plans = [planner.result() for planner in self._planners]
        return LocalPlan(
            self._direction,
            tuple(source for plan in plans for source in plan.sources),
            tuple(item for plan in plans for item in plan.items),
            {name: count for plan in plans for name, count in plan.unchanged.items()},
            tuple(problem for plan in plans for problem in plan.problems),
            notices=tuple(notice for plan in plans for notice in plan.notices),
        )

    def states(self) -> dict[str, bytes | None]:
        """Return the states that keep what is agreed on once the plan is done."""
        found: dict[str, bytes | None] = {}
        for planner in self._planners:
            if planner.has_new_base:
                found |= planner.states()
        return found

    def collections(self) -> list[Collection]:
        """Return file tree and tables as they are once the plan is done."""
        found = []
        files: dict[bytes, bytes | None] = {}
        for planner in self._planners:
            files |= planner.file_edits
            for table, edits in planner.tables():
                if edits:
                    root = edit_map(self._store, table.root, sorted(edits.items()))
                    count = count_entries(self._store, root)
                    found.append(replace(table, root=root, count=count))
        if files:
            root = edit_map(self._store, self._root, sorted(files.items()))
            found.append(Collection(FILES, root, count_entries(self._store, root)))
        return found


def _message(direction: str, plan: LocalPlan) -> str:
    counts: dict[str, int] = defaultdict(int)
    for item in plan.items:
        for what, action in (("row", item.row_action), ("file", item.file_action)):
            if action is not None:
                counts[f"{what}(s) {action}d"] += 1
    shown = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
    return f"local {direction}: {shown}"
