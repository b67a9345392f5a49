"""One record of a patch: a whole value, or the cells that change in it (06-wire, section 4)."""

from __future__ import annotations

from gsync.errors import Invalid
from gsync.objects.encoding import NotCanonical, Value, encode
from gsync.protocol.frames import SLOT_MAX, Cells, flatten_cells

# Cells have to save as much as this: applying them costs the receiver a look into its base,
# which a byte or two (a new size and content in a file entry) are not worth.
_SAVED_BYTES_MIN = 8


def put_cells(value: Value, cells: Cells) -> bytes:
    """Return the encoding of `value` with `cells` put in.

    A cell beyond the end lengthens the array, with nils up to it. The result ends with no nil,
    whether `value` did or not: so cells can shorten an array too, and one result has one form.

    Raises:
        Invalid: `value` is no array.
    """
    if type(value) is not list:
        raise Invalid(f"cells for a value that is no array but a {type(value).__name__}")
    array = list(value)
    for slot, cell in cells:
        if slot < len(array):
            array[slot] = cell
        elif cell is not None:  # so that no nil makes the array long, only to be cut off again
            array.extend([None] * (slot - len(array)))
            array.append(cell)
    while array and array[-1] is None:
        array.pop()
    return encode(array)


def shortest_record(old: Value, new: Value, body: bytes) -> tuple[bytes | Cells, int]:
    """Return what brings `new` to a receiver that has `old`, and how many bytes it takes.

    That is the cells that differ when they are shorter and lead to `body`, which is the
    encoding of `new`; else `body` itself. Costs one encoding and one comparison of the cells.
    """
    if type(old) is list and type(new) is list:
        cells = _cells_between(old, new)
        size = _encoded_bytes(cells, below=len(body) - _SAVED_BYTES_MIN)
        if size is not None and put_cells(old, cells) == body:
            return cells, size
    return body, len(body)


def _cells_between(old: list[Value], new: list[Value]) -> Cells:
    kept = min(len(old), len(new))
    cells = [(slot, new[slot]) for slot in range(kept) if not _same(old[slot], new[slot])]
    cells += [(slot, None) for slot in range(kept, len(old)) if old[slot] is not None]
    cells += [(slot, new[slot]) for slot in range(kept, len(new)) if new[slot] is not None]
    return tuple(cells)


def _same(left: Value, right: Value) -> bool:
    """Whether two cells are one value; to Python 1, 1.0 and True are equal, and no NaN is."""
    if type(left) is not type(right):
        return False
    if type(left) in (float, list):
        return encode(left) == encode(right)
    return bool(left == right)


def _encoded_bytes(cells: Cells, *, below: int) -> int | None:
    """Return the length of `cells` in a patch; None if they do not fit, or are not `below`."""
    if not cells or len(cells) > below or cells[-1][0] > SLOT_MAX:
        return None
    try:
        # Inside as many arrays as in a patch: a cell may nest deeper in its value than there.
        size = len(encode([[[flatten_cells(cells)]]])) - 3
    except NotCanonical:
        return None
    return size if size <= below else None
