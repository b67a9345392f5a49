"""Rows <-> bytes (11-rows, section 5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import msgpack  # type: ignore[import-untyped]

from gsync.errors import Invalid
from gsync.objects.chunk_list import ChunkListBuilder
from gsync.objects.chunking import CHUNKED_ABOVE_BYTES, split_buffers
from gsync.objects.encoding import NotCanonical, Reference, Value, decode, decode_trusted, encode
from gsync.objects.oid import Kind, ObjectId, blob_id, object_id

SpillContent = Callable[[bytes], Reference]
"""Keeps (or only names) a content that is too long for its row, and returns the reference."""

LoadContent = Callable[[Reference], bytes]
"""Returns a content that was spilled."""

SPILL_CELL_BYTES = 1024
SPILL_ROW_BYTES = 8192
SPILL_SMALL_BYTES = 64
ROW_BYTES_MAX = 65_536

# A row of no more bytes has no cell to spill: its own header takes one.
_SURELY_WHOLE_BYTES = SPILL_CELL_BYTES + 1
_REFERENCE_BYTES = 44
_NAN = float("nan")
_PLAIN = frozenset({type(None), bool, int, float, str, bytes})
_TEXTS = frozenset({"text", "jsonb", "numeric"})


class BadRow(Invalid):
    """Cells cannot be a row, or bytes are not the row of a table of that width."""


def encode_row(cells: list[Value], spill: SpillContent) -> bytes:
    """Return the row of `cells`, each at the place of its slot; `cells` stays as it is.

    Cells that the spill rule says are handed to `spill`. A cell that is a reference stays
    one. Whether a content of at most SPILL_CELL_BYTES is spilled depends on the whole row, so
    who changes cells of a row, or puts those of several together, must load such references
    first (`load_cell`).

    Raises:
        BadRow: the row has more than ROW_BYTES_MAX, even so; or a reference is kept that the
            rule would not have made, which `decode_row` refuses.
        NotCanonical: a cell is no value that objects hold.
    """
    count = len(cells)
    if count and cells[-1] is None:
        while count and cells[count - 1] is None:
            count -= 1
        cells = cells[:count]
    kinds = set(map(type, cells))
    if kinds <= _PLAIN:
        try:
            body = cast(bytes, msgpack.packb(cells))
        except (ValueError, OverflowError) as error:
            raise NotCanonical(f"not a canonical value: {error}") from error
        # What may be a NaN, and one of other bits than the one NaN.
        if b"\xcb\x7f" in body or b"\xcb\xff" in body:
            body = encode(_with_one_nan(cells))
    else:
        body = encode(_with_one_nan(cells))
    row = body if len(body) <= _SURELY_WHOLE_BYTES else _spilled(cells, spill)
    if Reference in kinds:
        _check_kept(row)
    return row


def decode_row(body: bytes, width: int) -> list[Value]:
    """Return the `width` cells of a row; one that is spilled is a Reference.

    Raises:
        NotCanonical: `body` is not what `encode_row` writes.
        BadRow: it has cells beyond `width`.
    """
    cells = decode(body, ROW_BYTES_MAX)
    if type(cells) is not list or (cells and cells[-1] is None):
        raise NotCanonical("a row is an array that does not end with nil")
    if len(cells) > width:
        raise BadRow(f"a row of {len(cells)} cells, where the schema has {width} slots")
    if len(body) > _SURELY_WHOLE_BYTES or Reference in map(type, cells):
        _check_spill(cells, len(body))
    return cells + [None] * (width - len(cells))


def decode_row_trusted(body: bytes, width: int) -> list[Value]:
    """Return the cells of a row that `decode_row` has taken before; a third of its time."""
    cells: list[Value] = decode_trusted(body)
    return cells + [None] * (width - len(cells))


def load_cell(type_: str, cell: Value, load: LoadContent) -> Value:
    """Return a cell of a column of `type_` with its content, wherever that is.

    Raises:
        NotCanonical: the content is not one of such a cell.
    """
    if type(cell) is not Reference:
        return cell
    content = load(cell)
    if type_ in _TEXTS:
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise NotCanonical(f"the content of a {type_} is not UTF-8") from error
    if type_ == "bytes":
        return content
    if type_ == "text[]":
        return decode(content, len(content))
    raise NotCanonical(f"a {type_} is never kept apart from its row")


def spill_to(put: Callable[[Kind, bytes], ObjectId]) -> SpillContent:
    """Return what keeps contents as objects: a blob, or a chunk list of several.

    Args:
        put: Keeps the body of an object of that kind and returns its id.
    """

    def spill(content: bytes) -> Reference:
        if len(content) <= CHUNKED_ABOVE_BYTES:
            return Reference(Kind.BLOB, put(Kind.BLOB, content), len(content))
        builder = ChunkListBuilder(put)
        for chunk in split_buffers([content]):
            builder.add(Reference(Kind.BLOB, put(Kind.BLOB, chunk), len(chunk)))
        return builder.finish()

    return spill


def name_content(content: bytes) -> Reference:
    """Return the reference that `spill_to` gives `content`, and keep nothing."""
    if len(content) <= CHUNKED_ABOVE_BYTES:
        return Reference(Kind.BLOB, blob_id(content), len(content))
    return spill_to(object_id)(content)


def content_of(cell: Value) -> bytes | None:
    """Return the content of a cell that can be spilled, or None for all others."""
    kind = type(cell)
    if kind is str:
        return cast(str, cell).encode()
    if kind is bytes:
        return cast(bytes, cell)
    return encode(cell) if kind is list else None


def same_cell(one: Value, other: Value) -> bool:
    """Return whether two cells are the same, one of them spilled or not; 1.0 is not 1."""
    if type(one) is not type(other):
        if type(one) is Reference:
            one, other = other, one
        if type(other) is not Reference:
            return False
        content = content_of(one)
        return content is not None and name_content(content) == other
    # A float is equal to others that are not the same cell; nothing in an array is one.
    return bool(encode([one]) == encode([other])) if type(one) is float else bool(one == other)


def _spilled(cells: list[Value], spill: SpillContent) -> bytes:
    """Return the row with what is too long replaced (11-rows, section 5, rules 1 to 3)."""
    cells = _with_one_nan(cells)
    small: list[tuple[int, int, bytes]] = []
    for slot, cell in enumerate(cells):
        content = content_of(cell)
        if content is None or len(content) <= SPILL_SMALL_BYTES:
            continue
        if len(content) > SPILL_CELL_BYTES:
            cells[slot] = spill(content)
        else:
            small.append((-len(content), slot, content))
    body = encode(cells)
    row_bytes = len(body)
    if row_bytes > SPILL_ROW_BYTES:
        for _, slot, content in sorted(small):
            before = len(encode(cells[slot]))
            cells[slot] = spill(content)
            row_bytes -= before - len(encode(cells[slot]))
            if row_bytes <= SPILL_ROW_BYTES:
                break
        body = encode(cells)
    if len(body) > ROW_BYTES_MAX:
        raise BadRow(f"a row of {len(body)} bytes, where {ROW_BYTES_MAX} is the maximum")
    return body


def _check_kept(row: bytes) -> None:
    try:
        _check_spill(decode(row, ROW_BYTES_MAX), len(row))
    except NotCanonical as error:
        raise BadRow(
            f"{error.message}; references to at most {SPILL_CELL_BYTES} bytes have to be loaded"
            " before a row is written"
        ) from error


def _check_spill(cells: list[Value], row_bytes: int) -> None:
    """Refuse a row in which other cells are spilled than the rule says (11-rows, section 5).

    Whether the last content to go had to depends on the row's length before. It is taken for
    text or bytes here; an array has its head in its content, so where that was the last, a row
    may pass whose length before was up to `_head_bytes` short of what rule 2 asks for.
    """
    kept, gone = [], []
    for slot, cell in enumerate(cells):
        if type(cell) is Reference:
            chunked = cell.length > CHUNKED_ABOVE_BYTES
            if cell.kind is not (Kind.CHUNK_LIST if chunked else Kind.BLOB):
                raise NotCanonical(f"a spilled cell of {cell.length} bytes is of the wrong kind")
            if cell.length <= SPILL_CELL_BYTES:
                gone.append((-cell.length, slot))
            continue
        content = content_of(cell)
        if content is not None and len(content) > SPILL_SMALL_BYTES:
            kept.append((-len(content), slot))
    if kept and (min(kept)[0] < -SPILL_CELL_BYTES or row_bytes > SPILL_ROW_BYTES):
        raise NotCanonical("a row has a cell that should have been spilled")
    if gone:
        length, _ = last = max(gone)
        before = row_bytes - _REFERENCE_BYTES - length + _head_bytes(-length)
        needless = before <= SPILL_ROW_BYTES
        if -length <= SPILL_SMALL_BYTES or needless or (kept and min(kept) < last):
            raise NotCanonical("a row has a spilled cell that should have been kept")


def _head_bytes(content_bytes: int) -> int:
    """Return the bytes before a text of more than SPILL_SMALL_BYTES, up to SPILL_CELL_BYTES."""
    return 2 if content_bytes <= 255 else 3


def _with_one_nan(cells: list[Value]) -> list[Value]:
    return [_NAN if cell != cell and type(cell) is float else cell for cell in cells]
