"""What a live place promises. Interfaces only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import field
from typing import Protocol

from gsync.changes import Change
from gsync.errors import Conflict
from gsync.frozen import frozen
from gsync.objects.oid import ObjectId
from gsync.paths import show_path
from gsync.store.base import ObjectReader, ObjectStore

LEFTOVERS = ("journal", "stage")
"""Below the repository's own directory: what is there while a checkout runs, or was interrupted."""

RESCUED = "rescued"
"""Below the repository's own directory: what gave way and nobody had agreed to lose."""


@frozen
class Notice:
    """Something about one path that the user should know: skipped, secret, colliding."""

    path: bytes
    code: str
    text: str


@frozen
class Scan:
    """What a scan found, against the map it started from.

    Attributes:
        changes: What turns the base map into the live state, in key order.
        notices: Paths that were left out or need attention, in key order.
        files: How many paths were looked at.
        hashed: How many files had to be read.
    """

    changes: list[Change]
    notices: list[Notice] = field(default_factory=list)
    files: int = 0
    hashed: int = 0


class ReplicaChanged(Conflict):
    """Live content is not what the caller believed; nothing was written."""

    def __init__(self, paths: Sequence[bytes], what: str = "unsaved changes") -> None:
        shown = ", ".join(show_path(path) for path in paths[:5])
        more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
        super().__init__(
            f"{what} would be overwritten in {len(paths)} path(s): {shown}{more}",
            hint="save them with 'gsync snapshot', or undo them, then try again",
            paths=[show_path(path) for path in paths],
        )
        self.paths = list(paths)


class Replica(Protocol):
    """A live place where a collection is worked on."""

    def scan(self, base: ObjectId, store: ObjectReader | ObjectStore) -> Scan:
        """Return how the live state differs from the map `base`."""
        ...

    def apply(self, changes: Iterable[Change], store: ObjectReader) -> int:
        """Make the live state follow `changes`, all or nothing; return how many were made.

        Raises:
            ReplicaChanged: a live value is not the `old` of its change.
        """
        ...
