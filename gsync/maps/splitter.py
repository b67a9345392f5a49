"""Where one node of a map ends and the next begins (03-map, section 3)."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable
from functools import cache
from pkgutil import get_data

from blake3 import blake3

NODE_BYTES_MIN = 512
NODE_BYTES_MAX = 16_384  # beyond this a node always ends
CHILD_BYTES = 40  # what a child's id and totals count for beside its last key
ENTRIES_MIN_INTERNAL = 2

_SPLIT_CONTEXT = "gsync 2026 map split v1"


@cache
def split_table() -> array[int]:
    """Return W, which the page's vectors list: 84 KB, read once when a map is first cut."""
    # Not importlib.resources, which imports tempfile, shutil and all that they need.
    body = get_data("gsync.maps", "split-table.bin")
    assert body is not None, "every loader of files has get_data"
    table = array("Q", body)
    if sys.byteorder == "big":
        table.byteswap()
    return table


def splitter(level: int) -> Callable[[bytes, int, int, int], bool]:
    """Return the predicate `ends(key, before, after, entries)` for nodes of `level`.

    `before` and `after` are the sizes of the node without and with the entry, `entries`
    their number with it. A call hashes the key once: about 0.5 µs.
    """
    weights = split_table()
    beyond = len(weights)
    base = blake3(bytes([level]), derive_key_context=_SPLIT_CONTEXT)
    fork = base.copy
    entries_min = ENTRIES_MIN_INTERNAL if level else 1
    from_bytes = int.from_bytes

    def ends(key: bytes, before: int, after: int, entries: int) -> bool:
        if after < NODE_BYTES_MIN or entries < entries_min:
            return False
        if after > NODE_BYTES_MAX or before >= beyond:
            return True
        hasher = fork()
        hasher.update(key)
        weight = weights[before]
        lost = weight - (weights[after] if after < beyond else 0)
        return from_bytes(hasher.digest(4), "little") * weight < lost << 32

    return ends
