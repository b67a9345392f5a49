"""What changed, and what could not be merged: the one currency of diff, merge and apply."""

from __future__ import annotations

from typing import NamedTuple


class Change(NamedTuple):
    """One key whose value differs. A tuple, since a first snapshot makes 100,000 of them.

    Attributes:
        key: The key in its map.
        old: The value before, or None where there was none.
        new: The value after, or None where there is none.
    """

    key: bytes
    old: bytes | None
    new: bytes | None


class MergeConflict(NamedTuple):
    """One key that two sides changed in ways that do not go together (13-merge).

    The name sets it apart from `errors.Conflict`: this one is data, and no failure.

    Attributes:
        key: The key in its map.
        kind: `edit/edit`, `add/add`, `delete/edit`, `edit/delete`, `type`, `file/directory`;
            what ours did stands first.
        base: The value that both sides began with, or None.
        ours: The value on our side, or None where it is deleted.
        theirs: The value on their side, or None where it is deleted.
    """

    key: bytes
    kind: str
    base: bytes | None
    ours: bytes | None
    theirs: bytes | None

    def swapped(self) -> MergeConflict:
        """Return the conflict as the other side sees it."""
        kind = "/".join(reversed(self.kind.split("/"))) if "delete" in self.kind else self.kind
        return MergeConflict(self.key, kind, self.base, self.theirs, self.ours)
