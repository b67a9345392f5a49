"""What a user types to decide a conflict -> collections, keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gsync.errors import Invalid, NotFound
from gsync.objects.encoding import Value
from gsync.objects.model import FILES
from gsync.objects.oid import Kind
from gsync.sync.comparetables import split_collection
from gsync.sync.merging import Unfinished, find_unfinished, list_conflicts, read_side
from gsync.sync.recorded import content_loader, find_table, get_schema, policies_of
from gsync.sync.repository import Repository
from gsync.transfer.history import get_manifest
from gsync.views.conflicts import StoredConflict
from gsync.views.files import EntryType, FileEntry, encode_entry
from gsync.views.rows.merge import RowMerger
from gsync.views.rows.schema import Schema
from gsync.views.rows.show import parse_key
from gsync.views.rows.values import decode_row, spill_to


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
    # A table that ours has dropped is not in the merged manifest.
    ends = [name for name in names if name.endswith(f"/{text}")]
    return ends[0] if len(ends) == 1 else find_table(unfinished.manifest, text).name


def is_whole(repo: Repository, collection: str) -> bool:
    """Return whether it is that collection as a whole that is in conflict, not keys in it."""
    unfinished = find_unfinished(repo)
    return unfinished is not None and any(
        kept.collection == collection and kept.key is None
        for kept in list_conflicts(repo, unfinished)
    )


def row_key(repo: Repository, collection: str, text: str) -> bytes:
    """Return the key of a row: the texts of its key columns, with commas between, or as JSON.

    Raises:
        Invalid: it is no key of that table.
    """
    unfinished = find_unfinished(repo)
    found = unfinished.manifest.find(collection) if unfinished else None
    if found is None or split_collection(collection) is None:
        raise Invalid(f"{collection} is no table", hint="'gsync conflicts' lists what is open")
    return parse_key(get_schema(repo.store, found), text)


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
    """Return the row with what merges, cells that clash as ours has them, and some as told.

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
    sides = {side: read_side(repo, unfinished, kept, side) for side in ("base", "ours", "theirs")}
    if sides["ours"] is None or sides["theirs"] is None:
        raise Invalid("one side deleted this row: take --ours or --theirs as a whole")
    taken = {}
    for text in cells:
        column, _, side = text.partition("=")
        if column not in {c.name for c in schema.live} or sides.get(side) is None:
            raise Invalid(
                f"{text!r}: expected COLUMN=SIDE, with a column of {schema.table} and one of"
                " ours, theirs, base that has the row"
            )
        taken[column] = side
    merger = _row_merger(repo, unfinished, name, schema)
    return merger.choose(sides["base"], sides["ours"], sides["theirs"], taken)


def _row_merger(repo: Repository, unfinished: Unfinished, name: str, schema: Schema) -> RowMerger:
    """Return what merges rows of a table that both sides of a merge have, to `schema`."""
    schemas = []
    sides = [
        get_manifest(repo.store, oid) if oid is not None else None
        for oid in (unfinished.base, unfinished.ours, unfinished.theirs)
    ]
    for side in sides:
        found = side.find(name) if side is not None else None
        schemas.append(get_schema(repo.store, found) if found is not None else None)
    before, ours, theirs = schemas
    assert ours is not None and theirs is not None  # both have the row
    return RowMerger(
        *(before, ours, theirs, schema, content_loader(repo.store), spill_to(repo.store.put)),
        policies_of(repo, sides, name),
    )


class CellClash(NamedTuple):
    """A cell that both sides changed differently; None is NULL, or no row in the base."""

    column: str
    type: str
    base: Value
    ours: Value
    theirs: Value


def list_clashes(repo: Repository, unfinished: Unfinished, kept: StoredConflict) -> list[CellClash]:
    """Return the cells in which a row is in conflict; none for anything but two edited rows."""
    table = unfinished.manifest.find(kept.collection)
    if kept.key is None or table is None or split_collection(kept.collection) is None:
        return []
    base, ours, theirs = (
        read_side(repo, unfinished, kept, side) for side in ("base", "ours", "theirs")
    )
    if ours is None or theirs is None:
        return []
    schema = get_schema(repo.store, table)
    names = _row_merger(repo, unfinished, kept.collection, schema).list_clashes(base, ours, theirs)
    rows = [decode_row(row, schema.width) if row else None for row in (base, ours, theirs)]
    return [
        CellClash(c.name, c.type, *(row[c.slot] if row else None for row in rows))
        for c in schema.live
        if c.name in names
    ]
