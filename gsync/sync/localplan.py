"""What differs between disk and database, and what a local sync does about it (17-documents, 4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field

from gsync.frozen import frozen, replace
from gsync.objects.oid import ObjectId
from gsync.sync.docfiles import Placed
from gsync.views.documents.frontmatter import Problem
from gsync.views.documents.sources import Source

DIRECTIONS = ("to-db", "to-disk", "merge")


@frozen
class Item:
    """A document, or a grant of a role, that the two sides do not have alike.

    Attributes:
        source: Its source's id; `rules` for grants.
        slug: The document's slug, or what the grant is about.
        path: Its file, or the one that it gets; None if there is none.
        disk, row: What became of it on that side: `same`, `added`, `edited`, `deleted`, `absent`.
        columns: In what the sides differ, where both have it.
        file_action, row_action: What is done there: `create`, `update`, `delete` or None.
        conflict: The kind of conflict that stops it, or None.
        problem: Why it is left alone, or None.
        disk_hash, row_hash: The content hash of each side that has it.
    """

    source: str
    slug: str
    locale: str
    path: str | None
    title: str | None
    disk: str
    row: str
    columns: tuple[str, ...] = ()
    file_action: str | None = None
    row_action: str | None = None
    conflict: str | None = None
    problem: str | None = None
    disk_hash: str | None = None
    row_hash: str | None = None

    @property
    def waits(self) -> bool:
        """Whether nothing is done though the sides differ."""
        return not (self.file_action or self.row_action)


@frozen
class LocalPlan:
    """What a local sync would do, or did.

    Attributes:
        direction: One of DIRECTIONS.
        sources: The sources that it is about.
        items: What the sides do not have alike, by source, slug and locale.
        unchanged: How many they have alike, by source id.
        problems: Files that are no documents though they should be.
        manifest: The manifest that was made, if one was.
        notices: What is odd, and in nobody's way.
    """

    direction: str
    sources: tuple[Source, ...]
    items: tuple[Item, ...] = ()
    unchanged: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    manifest: ObjectId | None = None
    notices: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Whether nothing is in the way of anything."""
        return not self.problems and not any(i.conflict or i.problem for i in self.items)


@frozen
class Choices:
    """How a local sync treats what needs a decision.

    Attributes:
        override: `ours` or `theirs`: whose side counts of all that differs; None for neither.
        delete_orphans: Delete what only the side that is written has.
        only: Names or ids of the sources that it is about; all if empty.
        rules_file: The file of access rules; where settings say if None.
    """

    override: str | None = None
    delete_orphans: bool = False
    only: tuple[str, ...] = ()
    rules_file: str | None = None


@frozen
class Sides:
    """One document or grant: what it is on both sides, and was.

    Attributes:
        file: A document's file.
        wanted: The row that the file asks for.
        row: The row that there is.
        base: The row that was agreed on.
    """

    key: bytes
    file: Placed | None
    wanted: bytes | None
    row: bytes | None
    base: bytes | None


@frozen
class Outcome:
    """What becomes of a document: its row, what its file says, and what is agreed on then."""

    row: bytes | None
    file: bytes | None
    base: bytes | None


Merge = Callable[[Sides], bytes | tuple[str, ...]]
"""Returns two edits as one, or in what they clash."""


def decide(
    direction: str, choices: Choices, item: Item, sides: Sides, merge: Merge
) -> Outcome | Item:
    """Return what becomes of something that differs, or why nothing does."""
    wanted, row, base = sides.wanted, sides.row, sides.base
    to_db, to_disk = direction != "to-disk", direction != "to-db"
    if choices.override == "ours" and to_db and (wanted is not None or item.disk == "deleted"):
        return Outcome(wanted, wanted, wanted)
    if choices.override == "theirs" and to_disk and (row is not None or item.row == "deleted"):
        return Outcome(row, row, row)
    if choices.delete_orphans and base is None:
        orphan = wanted if direction == "to-db" else row
        if orphan is None:
            return Outcome(None, None, None)
    if base == row:  # changed on disk
        return Outcome(wanted, wanted, wanted) if to_db else item
    if base == wanted:  # changed in the database
        return Outcome(row, row, row) if to_disk else item
    if choices.override is not None:
        # The side that counts is not written to, so what it has waits as its own change.
        return Outcome(row, wanted, wanted if direction == "to-db" else row)
    if wanted is None or row is None:
        return replace(item, conflict="delete/edit" if wanted is None else "edit/delete")
    merged = merge(sides)
    if isinstance(merged, tuple):
        kind = "add/add" if base is None else "edit/edit"
        return replace(item, conflict=kind, columns=merged)
    if direction == "to-db":
        return Outcome(merged, wanted, wanted)
    return Outcome(row, merged, row) if direction == "to-disk" else Outcome(merged, merged, merged)


def became(base: bytes | None, now: bytes | None) -> str:
    """Return what became of one side since both agreed."""
    if now is None:
        return "absent" if base is None else "deleted"
    return "added" if base is None else "same" if now == base else "edited"


def action(old: bytes | None, new: bytes | None) -> str:
    """Return what is done to go from one to the other."""
    return "create" if old is None else "delete" if new is None else "update"
