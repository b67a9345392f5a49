"""Recorded tables are read, and written out to files; offline."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from tempfile import TemporaryFile
from typing import TextIO

from blake3 import blake3

from gsync.errors import Conflict, Invalid, NotFound
from gsync.maps.omap import EMPTY_MAP, edit_map, find_value, list_entries
from gsync.objects.chunk_list import ChunkListBuilder
from gsync.objects.chunking import CHUNKED_ABOVE_BYTES, Readable, read_chunks
from gsync.objects.encoding import Reference, Value
from gsync.objects.model import Collection, Manifest
from gsync.objects.oid import Kind, ObjectId
from gsync.paths import parents_of, show_path
from gsync.store.base import ObjectReader, ObjectStore
from gsync.sync.comparetables import read_row, split_collection, table_names
from gsync.sync.recorded import content_loader, find_table, get_schema
from gsync.views.files import EntryType, FileEntry, encode_entry
from gsync.views.rows.export import write_csv, write_jsonl
from gsync.views.rows.keys import decode_key

FORMATS = (".sqlite", ".db", ".csv", ".jsonl")
_SQLITE = (".sqlite", ".db")


@dataclass(frozen=True, slots=True)
class TablesWritten:
    """What a file of tables holds: rows by collection."""

    path: Path
    rows: dict[str, int]


def list_rows(
    store: ObjectReader, collection: Collection
) -> Iterator[tuple[tuple[Value, ...], dict[str, Value]]]:
    """Yield key cells, and the other cells by column, of every recorded row, in key order."""
    schema = get_schema(store, collection)
    for key, row in _entries(store, collection):
        yield decode_key(key), read_row(schema, row)


def list_keys(store: ObjectReader, collection: Collection) -> Iterator[tuple[Value, ...]]:
    """Yield the key cells of every recorded row, in key order."""
    for key, _ in _entries(store, collection):
        yield decode_key(key)


def _entries(store: ObjectReader, collection: Collection) -> Iterator[tuple[bytes, bytes]]:
    return iter(()) if collection.root == EMPTY_MAP else list_entries(store, collection.root)


def select_tables(
    manifest: Manifest, tables: Sequence[str], database: str | None = None
) -> list[Collection]:
    """Return the collections that `tables` name, each once; all if none is named.

    Args:
        tables: As `find_table` accepts them.
        database: Only tables of this one.

    Raises:
        NotFound: a table is not recorded; or none is.
    """
    if tables:
        found = [
            find_table(manifest, f"{database}/{name}" if database and "/" not in name else name)
            for name in tables
        ]
    else:
        found = [c for c in map(manifest.find, table_names(None, manifest)) if c]
        found = [c for c in found if database in (None, (split_collection(c.name) or ("",))[0])]
    if not found:
        where = f" of the database {database!r}" if database else ""
        raise NotFound(f"no table{where} is recorded there", hint="see 'gsync db list'")
    return sorted(dict.fromkeys(found), key=lambda collection: collection.name.encode())


def write_tables(
    store: ObjectReader, collections: Sequence[Collection], target: Path, *, dry_run: bool = False
) -> TablesWritten:
    """Write recorded tables into the new file `target`, whole or not at all.

    Its ending says as what: `.sqlite` (or `.db`) takes several tables, `.csv` and `.jsonl` one.

    Raises:
        Conflict: something has that name.
        Invalid: another ending, more tables than it takes, two tables of one name, or a cell
            that the format cannot hold.
        NotFound: there is no such directory.
    """
    _check_target(target, collections)
    rows = {collection.name: collection.count for collection in collections}
    if dry_run:
        return TablesWritten(target, rows)
    load = content_loader(store)
    if target.suffix in _SQLITE:
        from gsync.replicas.sqlite.export import write_sqlite

        tables = ((get_schema(store, c), _entries(store, c)) for c in collections)
        write_sqlite(target, tables, load)
        return TablesWritten(target, rows)
    write = write_csv if target.suffix == ".csv" else write_jsonl
    (collection,) = collections
    with new_file(target) as stream:
        write(stream, get_schema(store, collection), _entries(store, collection), load)
    return TablesWritten(target, rows)


def _check_target(target: Path, collections: Sequence[Collection]) -> None:
    if target.suffix not in FORMATS:
        raise Invalid(
            f"{target.name}: the ending does not say what to write",
            hint=f"name a file that ends in {', '.join(FORMATS)}",
        )
    if target.suffix not in _SQLITE and len(collections) != 1:
        raise Invalid(
            f"a {target.suffix} file holds one table, and {len(collections)} are asked for",
            hint="name one table, or a file that ends in .sqlite",
        )
    names = [(split_collection(c.name) or ("", ""))[1] for c in collections]
    for name in names:
        if names.count(name) > 1:
            raise Invalid(
                f"two databases have a table {name}, and a file holds one of that name",
                hint="choose a database with --db",
            )
    if os.path.lexists(target):
        raise _exists(target)
    if not target.parent.is_dir():
        raise NotFound(f"no such directory: {target.parent}")


def _exists(target: Path) -> Conflict:
    return Conflict(
        f"{target} exists already, and is not overwritten",
        hint="name another file, or move it away",
        path=str(target),
    )


def add_as_files(store: ObjectStore, root: ObjectId, collections: Sequence[Collection]) -> ObjectId:
    """Return the file tree `root` with each table beside the files, as `db/NAME/TABLE.jsonl`.

    What is written into the store is named by nothing, and goes with the next collection.

    Raises:
        Conflict: a file is called so, or stands where the folder would.
    """
    edits = []
    for collection in sorted(collections, key=lambda one: one.name.encode()):
        path = collection.name.encode() + FILE_SUFFIX
        for taken in (path, *parents_of(path)):
            if find_value(store, root, taken) is not None:
                raise Conflict(f"{show_path(taken)} is a file already, where rows were to go")
        with TemporaryFile("w+b") as content:
            text = TextIOWrapper(content, encoding="utf-8", newline="")
            write_jsonl(
                text,
                get_schema(store, collection),
                _entries(store, collection),
                content_loader(store),
            )
            text.flush()
            content.seek(0)
            edits.append((path, encode_entry(_put_file(store, content))))
            text.detach()
    return edit_map(store, root, edits)


FILE_SUFFIX = b".jsonl"


def _put_file(store: ObjectStore, content: Readable) -> FileEntry:
    whole, builder, size = blake3(), ChunkListBuilder(store.put), 0
    last = Reference(Kind.BLOB, store.put(Kind.BLOB, b""), 0)
    for chunk in read_chunks(content):
        whole.update(chunk)
        size += len(chunk)
        last = Reference(Kind.BLOB, store.put(Kind.BLOB, chunk), len(chunk))
        builder.add(last)
    if size <= CHUNKED_ABOVE_BYTES:
        return FileEntry(EntryType.FILE, size, last)
    return FileEntry(EntryType.FILE, size, builder.finish(), ObjectId(whole.digest()))


@contextmanager
def new_file(target: Path) -> Iterator[TextIO]:
    """Give a file that gets the name `target` at the end, unless something has it by then.

    Raises:
        Conflict: something has.
    """
    draft = target.with_name(f".{target.name}.part-{os.getpid()}")
    try:
        with draft.open("x", encoding="utf-8", newline="") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.link(draft, target)
    except FileExistsError as error:
        raise _exists(target) from error
    finally:
        with suppress(OSError):  # the file is there, or the error that kept it away is told
            draft.unlink(missing_ok=True)
