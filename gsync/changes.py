"""What changed: the one currency of diff, merge and apply."""

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
