"""What a user types to decide a conflict -> collections, keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gsync.errors import Invalid, NotFound
from gsync.objects.encoding import Reference
from gsync.objects.model import FILES
from gsync.objects.oid import Kind
from gsync.sync.comparetables import split_collection
from gsync.sync.merging import find_unfinished, list_conflicts, read_side
from gsync.sync.repository import Repository
from gsync.sync.tables import content_loader, find_table, get_schema
from gsync.views.files import EntryType, FileEntry, encode_entry
from gsync.views.rows.keys import encode_key
from gsync.views.rows.texts import parse_cell
from gsync.views.rows.values import SPILL_CELL_BYTES, decode_row, encode_row, load_cell, spill_to


def find_collection(repo: Repository, text: str) -> str:
    """Return the name of the collection that `text` means in the unfinished merge.

    Raises:
        NotFound: no merge is unfinished, or it has no such collection.
    """
    unfinished = find_unfinished(repo)
    if unfinished is None:
        raise NotFound("no merge is unfinished", hint="'gsync pull' merges what a remote has")
    names = {kept.collection for kept in list_conflicts(repo, unfinished)}
    if text in names or text == FILES:
        return text
    return find_table(unfinished.manifest, text).name


def row_key(repo: Repository, collection: str, text: str) -> bytes:
    """Return the key of a row: the texts of its key columns, with commas between.

    Raises:
        Invalid: it is no key of that table.
    """
    unfinished = find_unfinished(repo)
    found = unfinished.manifest.find(collection) if unfinished else None
    if found is None or split_collection(collection) is None:
        raise Invalid(f"{collection} is no table", hint="'gsync conflicts' lists what is open")
    schema = get_schema(repo.store, found)
    parts = [text] if len(schema.key) == 1 else text.split(",")
    if len(parts) != len(schema.key):
        names = ", ".join(name for name, _ in schema.key)
        raise Invalid(f"the key of {schema.table} is ({names}): expected {len(schema.key)} values")
    types = [type_ for _, type_ in schema.key]
    return encode_key(types, [parse_cell(t, p) for t, p in zip(types, parts, strict=True)])


def file_value(repo: Repository, path: Path) -> bytes:
    """Keep the content of a file and return its entry.

    Raises:
        NotFound: there is no such file.
    """
    if not path.is_file():
        raise NotFound(f"no file {path}")
    content = path.read_bytes()
    reference = spill_to(repo.store.put)(content)
    kind = EntryType.EXECUTABLE if path.stat().st_mode & 0o100 else EntryType.FILE
    if reference.kind is Kind.BLOB:
        return encode_entry(FileEntry(kind, len(content), reference))
    from gsync.objects.oid import blob_id

    return encode_entry(FileEntry(kind, len(content), reference, blob_id(content)))


def cells_value(repo: Repository, wanted: tuple[str, bytes | None], cells: Sequence[str]) -> bytes:
    """Return the row of ours with some cells taken from other sides.

    Args:
        cells: `COLUMN=SIDE` each; SIDE is ours, theirs or base.

    Raises:
        Invalid: a column or a side is not one, or a side has no row.
    """
    unfinished = find_unfinished(repo)
    assert unfinished is not None  # found by find_collection before
    name, key = wanted
    kept = next(
        (k for k in list_conflicts(repo, unfinished) if (k.collection, k.key) == wanted), None
    )
    table = unfinished.manifest.find(name)
    if kept is None or key is None or table is None or split_collection(name) is None:
        raise NotFound("no such row is in conflict", hint="'gsync conflicts' lists what is")
    schema = get_schema(repo.store, table)
    load = content_loader(repo.store)
    slots = {column.name: column for column in schema.live}
    rows = {}
    for side in ("ours", "theirs", "base"):
        body = read_side(repo, unfinished, kept, side)
        rows[side] = decode_row(body, schema.width) if body is not None else None
    row = rows["ours"]
    if row is None or rows["theirs"] is None:
        raise Invalid("one side deleted this row: take --ours or --theirs as a whole")
    row = list(row)
    for text in cells:
        column, _, side = text.partition("=")
        source = rows.get(side)
        if column not in slots or source is None:
            raise Invalid(
                f"{text!r}: expected COLUMN=SIDE, with a column of {schema.table} and one of"
                " ours, theirs, base that has the row"
            )
        row[slots[column].slot] = source[slots[column].slot]
    for slot_column in schema.live:
        cell = row[slot_column.slot]
        if type(cell) is Reference and cell.length <= SPILL_CELL_BYTES:
            row[slot_column.slot] = load_cell(slot_column.type, cell, load)
    return encode_row(row, spill_to(repo.store.put))
