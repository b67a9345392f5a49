"""The older system's names for documents and rules between disk and database (seed-names).

A face: `sync.local` decides and does everything. The folder is a repository that records the
tables, since that is where what both sides agreed on is kept.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Any

from gsync.errors import Conflict, Invalid, NotFound
from gsync.frozen import as_dict, frozen
from gsync.sync.local import plan_local, sync_local
from gsync.sync.localplan import Choices, Item, LocalPlan
from gsync.sync.repository import Repository, open_repository
from gsync.sync.results import InvalidInput, MissingConfig
from gsync.views.documents.document import (
    NotHeld,
    default_path,
    new_document,
    read_document,
)
from gsync.views.documents.frontmatter import BadFile
from gsync.views.documents.sources import Source

# --- Hashes and Markdown ---------------------------------------------------------------


def compute_content_hash(body: str, title: str) -> str:
    """Return SHA-256, in hex, of title and body, one after the other.

    It says nothing of other keys, nor where one ends; ours is `ContentDiffItem.disk_hash`.
    """
    return sha256(title.encode() + body.encode()).hexdigest()


def escape_yaml(text: str) -> str:
    """Return a text as it stood in double quotes: backslashes, quotes and LF escaped."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


@frozen
class DiskContent:
    """A document as it is on disk.

    Attributes:
        body: Without white space at its ends.
    """

    slug: str
    title: str
    body: str
    kind: str
    locale: str = "en"

    @classmethod
    def read(
        cls, path: str, data: bytes, allowed_content_types: Iterable[str] = ()
    ) -> DiskContent | None:
        """Return the document that a file is, or None if it is none of these types.

        Raises:
            InvalidInput: it is one, and wrong; each problem with line and column.
        """
        source = Source("", "", os.path.dirname(path), None, tuple(allowed_content_types))
        try:
            found = read_document(path, data, source)
        except BadFile as error:
            raise InvalidInput(path, error.message) from error
        if found is None:
            return None
        return cls(found.slug, found.title, found.body, found.kind, found.locale)


_ROW = {
    "description": "", "body": "", "keywords": "", "kind": "article", "image": None,
    "category_id": None, "public": True, "links": "[]",
}  # fmt: skip


def generate_content_markdown(content: Mapping[str, Any]) -> str:
    """Return the file of a row that has none: what is absent is left out, and not made empty.

    Args:
        content: The row's cells; `title`, `author`, `slug` and `published_at` at least.

    Raises:
        InvalidInput: no file can say what the row does.
    """
    slug = str(content.get("slug", ""))
    try:
        cells = {**_ROW, **content}
        data = new_document(slug, Source("", "", ""), slug, str(cells.get("locale", "en")), cells)
    except KeyError as error:
        raise InvalidInput(slug, f"the row has no {error}") from error
    except NotHeld as error:
        raise InvalidInput(slug, str(error)) from error
    return data.decode()


def export_content_to_file(
    content: Mapping[str, Any], base: str | os.PathLike[str], source_name: str
) -> Path:
    """Write the file of a row below `base`, whole or not at all, and return its path.

    Raises:
        InvalidInput: its slug is no path, or no file can say what it does.
        Conflict: another file stands there.
    """
    source = Source(source_name, "", ".")
    try:
        name = default_path(source, str(content["slug"]), str(content.get("locale", "en")))
    except NotHeld as error:
        raise InvalidInput(str(content["slug"]), str(error)) from error
    path = Path(base, name)
    data = generate_content_markdown(content).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as draft:
        draft.write(data)
    try:
        os.chmod(draft.name, 0o644)
        os.link(draft.name, path)
    except FileExistsError as error:
        if path.read_bytes() != data:
            raise Conflict(
                f"{path} is there already, and says something else",
                hint="'gsync local diff' shows what; it writes edits where they belong",
            ) from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(draft.name)
    return path


# --- What differs ----------------------------------------------------------------------


class DiffStatus(StrEnum):
    """Which side has a document: the disk alone, the database alone, or both otherwise."""

    ADDED = "Added"
    REMOVED = "Removed"
    MODIFIED = "Modified"


@frozen
class ContentDiffItem:
    """A document that differs; the hashes are of all that both sides hold.

    Times are None: they are no content, and nothing is judged by them.
    """

    slug: str
    source_id: str
    status: DiffStatus
    disk_hash: str | None = None
    db_hash: str | None = None
    disk_updated_at: str | None = None
    db_updated_at: str | None = None
    title: str | None = None


@frozen
class ContentDiffResult:
    """What differs between the files and the rows of one source, each list by slug."""

    source_id: str
    added: tuple[ContentDiffItem, ...] = ()
    removed: tuple[ContentDiffItem, ...] = ()
    modified: tuple[ContentDiffItem, ...] = ()
    unchanged: int = 0

    @property
    def has_changes(self) -> bool:
        """Whether anything differs."""
        return bool(self.added or self.removed or self.modified)

    def to_json(self) -> dict[str, Any]:
        """Return its JSON form."""
        lists = {
            name: [as_dict(item) for item in getattr(self, name)]
            for name in ("added", "removed", "modified")
        }
        return {"source_id": self.source_id, **lists, "unchanged": self.unchanged}


@frozen
class ContentDiffEntry:
    """What differs in one source, with where it is."""

    name: str
    source_id: str
    category_id: str | None
    path: str
    allowed_content_types: tuple[str, ...]
    diff: ContentDiffResult


def diff_results(plan: LocalPlan) -> list[ContentDiffEntry]:
    """Return what a plan says of each source."""
    return [
        ContentDiffEntry(
            *(one.name, one.source_id, one.category_id, one.directory, one.kinds),
            _diff_of(plan, one.source_id),
        )
        for one in plan.sources
    ]


def _diff_of(plan: LocalPlan, source: str) -> ContentDiffResult:
    lists: dict[DiffStatus, list[ContentDiffItem]] = {status: [] for status in DiffStatus}
    for item in plan.items:
        if item.source == source:
            status = _status(item)
            found = ContentDiffItem(
                *(item.slug, source, status, item.disk_hash, item.row_hash), title=item.title
            )
            lists[status].append(found)
    added, removed, modified = (tuple(found) for found in lists.values())
    return ContentDiffResult(source, added, removed, modified, plan.unchanged[source])


def _status(item: Item) -> DiffStatus:
    if item.row_hash is None:
        return DiffStatus.ADDED
    return DiffStatus.REMOVED if item.disk_hash is None else DiffStatus.MODIFIED


class ContentDiffCalculator:
    """Compares the files of a repository's folder with the rows of its database.

    Args:
        folder: The folder, or a path below it.
        database: The database's name, if several have documents.
    """

    def __init__(self, folder: str | os.PathLike[str], database: str | None = None) -> None:
        self._folder = Path(folder)
        self._database = database

    def calculate_diff(self, source_id: str) -> ContentDiffResult:
        """Return what differs in one source; nothing is changed.

        Raises:
            InvalidInput: there is no such source.
        """
        with _holding(self._folder, "gsync local") as repo:
            try:
                plan = plan_local(repo, "merge", Choices(only=(source_id,)), self._database)
            except NotFound as error:
                raise InvalidInput(source_id, error.message) from error
        return diff_results(plan)[0].diff


# --- Syncs -----------------------------------------------------------------------------


class LocalSyncDirection(StrEnum):
    """Which side is written."""

    TO_DISK = "to_disk"
    TO_DATABASE = "to_database"


@frozen
class LocalSyncResult:
    """What a local sync changed.

    Attributes:
        items_synced: How many were written: created and updated.
        items_skipped: How many wait that one side alone has.
        items_skipped_modified: How many wait that both have.
        items_deleted: How many were deleted.
        errors: Conflicts and problems; what they are about was left as it was.
    """

    items_synced: int = 0
    items_skipped: int = 0
    items_skipped_modified: int = 0
    items_deleted: int = 0
    errors: tuple[str, ...] = ()
    direction: LocalSyncDirection = LocalSyncDirection.TO_DISK

    def to_json(self) -> dict[str, Any]:
        """Return its JSON form."""
        return {**as_dict(self), "errors": list(self.errors)}


def count_results(plan: LocalPlan) -> LocalSyncResult:
    """Return the counts of a plan that was done, or would be."""
    waiting = [item for item in plan.items if item.waits]
    both = [item for item in waiting if item.disk_hash is not None and item.row_hash is not None]
    written = [item for item in plan.items if not item.waits]
    deleted = [i for i in written if "delete" in (i.file_action, i.row_action)]
    to_disk = plan.direction == "to-disk"
    return LocalSyncResult(
        *(len(written) - len(deleted), len(waiting) - len(both), len(both), len(deleted)),
        (
            *map(str, plan.problems),
            *(f"{show_item(one)}: {one.problem}" for one in plan.items if one.problem),
            *(f"{show_item(one)}: {one.conflict} conflict" for one in plan.items if one.conflict),
        ),
        LocalSyncDirection.TO_DISK if to_disk else LocalSyncDirection.TO_DATABASE,
    )


def show_item(item: Item) -> str:
    """Return what an item is called: `blog/first-post (de)`."""
    locale = "" if item.locale == "en" else f" ({item.locale})"
    return f"{item.source}/{item.slug}{locale}"


class ContentLocalSync:
    """Brings documents of a repository's folder to the rows of its database, and back.

    Args:
        folder: The folder, or a path below it.
        sources: Only these, by name or id.
        database: The database's name, if several have documents.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        sources: Iterable[str] = (),
        database: str | None = None,
    ) -> None:
        self._folder = Path(folder)
        self._sources = tuple(sources)
        self._database = database

    def sync_to_disk(self, delete_orphans: bool = False) -> LocalSyncResult:
        """Bring what changed in rows to the files; with the flag, files without a row go."""
        return self._sync("to-disk", Choices(None, delete_orphans, self._sources))

    def sync_to_db(
        self, delete_orphans: bool = False, override_existing: bool = False
    ) -> LocalSyncResult:
        """Bring what changed in files to the rows; with the flag, rows without a file go.

        Args:
            override_existing: Take the file wherever both differ.
        """
        override = "ours" if override_existing else None
        return self._sync("to-db", Choices(override, delete_orphans, self._sources))

    def _sync(self, direction: str, choices: Choices) -> LocalSyncResult:
        with _holding(self._folder, f"gsync local {direction}") as repo:
            return count_results(sync_local(repo, direction, choices, self._database))


class AccessControlLocalSync:
    """Brings the file of access rules of a repository's folder to its database.

    Args:
        folder: The folder, or a path below it.
        yaml_path: The file, from the top of the folder; where settings say if None.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        yaml_path: str | None = None,
        database: str | None = None,
    ) -> None:
        self._folder = Path(folder)
        self._yaml_path = yaml_path
        self._database = database

    def sync_to_db(
        self, override_existing: bool = False, delete_orphans: bool = False
    ) -> LocalSyncResult:
        """Grant what the file grants, and revoke what it does not grant any more.

        Raises:
            MissingConfig: there is no such file.
            InvalidInput: it is wrong; nothing was done.
        """
        override = "ours" if override_existing else None
        choices = Choices(override, delete_orphans, ("rules",), self._yaml_path)
        with _holding(self._folder, "gsync local to-db") as repo:
            from gsync.sync.rules import FILES_LOOKED_FOR

            named = self._yaml_path or repo.config.shared.rules_file
            places = (named,) if named else FILES_LOOKED_FOR
            if not any((repo.root / place).is_file() for place in places):
                raise MissingConfig("yaml_path", f"no file {' or '.join(places)}")
            plan = sync_local(repo, "to-db", choices, self._database)
        if plan.problems:
            raise InvalidInput("yaml_path", "; ".join(map(str, plan.problems)))
        return count_results(plan)


@contextmanager
def _holding(folder: Path, command: str) -> Iterator[Repository]:
    """Give an open repository that the block has for itself."""
    with open_repository(folder) as repo, repo.writing(command):
        yield repo


# --- Jobs ------------------------------------------------------------------------------


@frozen
class JobResult:
    """What came of a job.

    Attributes:
        success: Whether nothing failed, of single items either.
    """

    success: bool
    message: str | None
    items_processed: int
    items_failed: int
    duration_ms: int


class _Job:
    name = ""
    description = ""
    tags: tuple[str, ...] = ()
    schedule = ""
    enabled = False

    def execute(
        self, folder: str | os.PathLike[str], parameters: Mapping[str, str] | None = None
    ) -> JobResult:
        """Run the job by hand.

        Args:
            parameters: As in `[[jobs]]` of `.gsync/config.toml` (spec/16-jobs.md).

        Raises:
            InvalidInput: a parameter is none of this job, or not what it has to be.
        """
        began = time.monotonic()
        given = dict(parameters or {})
        try:
            result = self._run(Path(folder), given)
        except Invalid as error:
            if isinstance(error, MissingConfig | InvalidInput):
                raise
            raise InvalidInput("parameters", error.message) from error
        count = result.items_synced + result.items_deleted
        message = f"{count} written" if count else "there is nothing to do"
        return JobResult(
            *(not result.errors, "; ".join(result.errors) or message, count, len(result.errors)),
            round((time.monotonic() - began) * 1000),
        )

    def _run(self, folder: Path, given: dict[str, str]) -> LocalSyncResult:
        raise NotImplementedError

    def _flag(self, given: dict[str, str], name: str, default: bool = False) -> bool:
        text = given.pop(name, str(default)).lower()
        if text in ("true", "1", "yes", "on"):
            return True
        if text in ("false", "0", "no", "off", ""):
            return False
        raise InvalidInput(name, f"expected true or false, found {text[:40]!r}")

    def _refuse_others(self, given: Mapping[str, str]) -> None:
        if given:
            raise InvalidInput(", ".join(given), f"{self.name} has no such parameter")


class ContentSyncJob(_Job):
    """The job `content_sync`: documents, `to_db` unless `direction` says `to_disk`."""

    name = "content_sync"
    description = "Brings documents between disk and database"
    tags = ("content", "sync")

    def _run(self, folder: Path, given: dict[str, str]) -> LocalSyncResult:
        direction = given.pop("direction", "to_db")
        orphans = self._flag(given, "delete_orphans")
        override = self._flag(given, "override_existing")
        self._refuse_others(given)
        sync = ContentLocalSync(folder)
        if direction in ("to_db", "to-db", "db", "to_database"):
            return sync.sync_to_db(orphans, override)
        if direction in ("to_disk", "to-disk", "disk"):
            return sync.sync_to_disk(orphans)
        raise InvalidInput("direction", f"expected to_db or to_disk, found {direction[:40]!r}")


class AccessControlSyncJob(_Job):
    """The job `access_control_sync`: rules to the database; `delete_orphans` unless said."""

    name = "access_control_sync"
    description = "Brings access rules to the database"
    tags = ("access-control", "sync", "bootstrap")

    def _run(self, folder: Path, given: dict[str, str]) -> LocalSyncResult:
        path = given.pop("yaml_path", None)
        orphans = self._flag(given, "delete_orphans", True)
        override = self._flag(given, "override_existing")
        self._refuse_others(given)
        return AccessControlLocalSync(folder, path).sync_to_db(override, orphans)
