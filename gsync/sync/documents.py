"""Documents between disk and database: planned from one manifest, done as one move (17-documents).

A snapshot holds both sides, so a plan is a function of it and of the base: what the two were when
they last agreed. What the plan comes to is the next manifest, and folder and database follow it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any

from blake3 import blake3

from gsync.errors import Invalid, NotFound
from gsync.frozen import frozen, replace
from gsync.maps.omap import EMPTY_MAP, build_map, count_entries, edit_map, find_value, list_entries
from gsync.objects.chunk_list import list_chunks
from gsync.objects.encoding import Value, decode_trusted, encode
from gsync.objects.model import EMPTY_MAP_BODY, FILES, Collection, Manifest, encode_manifest
from gsync.objects.oid import Kind, ObjectId
from gsync.paths import parents_of
from gsync.store.base import ObjectReader
from gsync.sync.checkout import capture_folder, move_folder, replace_collections
from gsync.sync.compare import files_root
from gsync.sync.operations import LOCAL_MARK_PREFIX, reading_state
from gsync.sync.recorded import content_loader, get_schema, policies_of
from gsync.sync.repository import Repository, next_manifest, snapshot
from gsync.transfer.history import get_manifest
from gsync.views.documents.document import (
    COLUMNS,
    DOCUMENT_BYTES_MAX,
    Document,
    NotHeld,
    content_hash,
    default_path,
    new_document,
    normal,
    read_document,
    version_hash,
    write_document,
)
from gsync.views.documents.frontmatter import BadFile, Problem
from gsync.views.documents.sources import Source, parse_sources
from gsync.views.files import EntryType, FileEntry, decode_entry_trusted, encode_entry
from gsync.views.rows.keys import decode_key, key_encoder
from gsync.views.rows.merge import RowMerger
from gsync.views.rows.policies import Policies
from gsync.views.rows.schema import Column, Schema
from gsync.views.rows.texts import format_cell, parse_cell
from gsync.views.rows.values import decode_row_trusted, encode_row, load_cell, spill_to

TABLE = "markdown_content"
CONFIGS = ("content/config.yaml", "services/content/config.yaml")
_KEY = ("source_id", "slug", "locale")
_HASH, _ID = "version_hash", "id"
_ROWS, _PATHS = "rows", "paths"

DIRECTIONS = ("to-db", "to-disk", "merge")


@frozen
class Item:
    """A document that the two sides do not have alike, or of which one was the base.

    Attributes:
        source: Its source's id.
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
    """

    direction: str
    sources: tuple[Source, ...]
    items: tuple[Item, ...] = ()
    unchanged: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    manifest: ObjectId | None = None

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
    """

    override: str | None = None
    delete_orphans: bool = False
    only: tuple[str, ...] = ()


# --- Where it all is -------------------------------------------------------------------


def find_content(repo: Repository, database: str | None = None) -> str:
    """Return the name of the database whose documents are kept in step.

    Raises:
        Invalid: there is none, or several and nothing says which.
    """
    shared = repo.config.shared
    wanted = database or shared.content.database
    found = [name for name, tables in shared.databases.items() if TABLE in tables]
    if wanted is not None:
        found = [name for name in found if name == wanted]
    here = [name for name in found if name in repo.config.local.databases]
    if len(here) == 1:
        return here[0]
    if not found:
        which = f"database {wanted}" if wanted else "no database"
        raise Invalid(
            f"{which} has {'no ' if wanted else 'a '}table {TABLE} that is recorded",
            hint="'gsync db add URL --preset systemprompt' records it",
        )
    if not here:
        raise Invalid(
            f"this machine was not told where the database {found[0]} is",
            hint=f"'gsync db add URL --name {found[0]}'",
        )
    raise Invalid(
        f"{TABLE} is recorded of {', '.join(here)}",
        hint="say which with --database, or [content] database in gsync.toml",
    )


def load_sources(repo: Repository, root: ObjectId | None) -> tuple[Source, ...]:
    """Return the sources that a file tree names.

    Raises:
        NotFound: it has no such file.
        Invalid: the file is not what it has to be.
    """
    named = repo.config.shared.content.config
    places = (named,) if named else CONFIGS
    for path in places:
        value = find_value(repo.store, root, path.encode()) if root else None
        entry = decode_entry_trusted(value) if value is not None else None
        if entry is not None and entry.is_file:
            return parse_sources(path, _content(repo.store, entry))
    raise NotFound(
        f"no file says where documents are: looked for {', '.join(places)}",
        hint="[content] config in gsync.toml names another one",
    )


def _content(store: ObjectReader, entry: FileEntry) -> bytes:
    assert entry.ref is not None
    if entry.ref.kind is Kind.BLOB:
        return store.get(Kind.BLOB, entry.ref.oid)
    chunks = list_chunks(lambda oid: store.get(Kind.CHUNK_LIST, oid), entry.ref)
    return b"".join(store.get(Kind.BLOB, chunk.oid) for chunk in chunks)


# --- The two sides ---------------------------------------------------------------------


@frozen
class _Placed:
    path: str
    entry: FileEntry
    document: Document


class _Files:
    """The documents of a file tree, by the key of their row."""

    def __init__(self, store: ObjectReader, root: ObjectId | None, sources: Sequence[Source]):
        self.documents: dict[tuple[str, str, str], _Placed] = {}
        self.problems: dict[str, tuple[Problem, ...]] = {}
        self.empty: set[str] = set()
        for source in sources:
            files = 0
            for path, entry in self._list(store, root, source):
                files += 1
                self._read(store, source, path, entry)
            if not files:
                self.empty.add(source.source_id)

    def _list(
        self, store: ObjectReader, root: ObjectId | None, source: Source
    ) -> Iterator[tuple[str, FileEntry]]:
        if root is None:
            return
        prefix = f"{source.directory}/".encode()
        for key, value in list_entries(store, root, prefix=prefix):
            try:
                path = key.decode()
            except UnicodeDecodeError:
                continue  # no name that ends with .md could be written into a row's path
            entry = decode_entry_trusted(value)
            if entry.is_file and source.holds(path):
                yield path, entry

    def _read(self, store: ObjectReader, source: Source, path: str, entry: FileEntry) -> None:
        if entry.size > DOCUMENT_BYTES_MAX:
            shown = f"{entry.size:,} bytes, more than {DOCUMENT_BYTES_MAX:,}"
            self.problems[path] = (Problem(path, 0, 0, shown),)
            return
        try:
            document = read_document(path, _content(store, entry), source)
        except BadFile as error:
            self.problems[path] = error.problems
            return
        if document is None:
            return
        key = (source.source_id, document.slug, document.locale)
        other = self.documents.get(key)
        if other is None:
            self.documents[key] = _Placed(path, entry, document)
            return
        for one, two in ((other.path, path), (path, other.path)):
            text = f"{two} has the slug {document.slug!r} and the locale {document.locale}, too"
            self.problems[one] = (*self.problems.get(one, ()), Problem(one, 0, 0, text))

    def settle(self) -> None:
        """Drop documents that are problems."""
        self.documents = {k: d for k, d in self.documents.items() if d.path not in self.problems}


class _Table:
    """The columns of the table of documents, and its rows as cells by name.

    Faces are what people read of cells: texts, booleans, None.
    """

    def __init__(self, repo: Repository, collection: Collection) -> None:
        self.store = repo.store
        self.collection = collection
        self.schema: Schema = get_schema(repo.store, collection)
        names = [column.name for column in self.schema.key]
        if sorted(names) != sorted(_KEY):
            raise Invalid(
                f"{collection.name} has the key ({', '.join(names)}): documents are known by"
                f" {', '.join(_KEY)}",
                hint="'gsync db add URL --preset systemprompt' in a new database shows the"
                " settings; a table with another key is recorded afresh",
            )
        self._places = [names.index(name) for name in _KEY]
        self._order = [_KEY.index(name) for name in names]
        self._encode_key = key_encoder([column.type for column in self.schema.key])
        self.columns: dict[str, Column] = {column.name: column for column in self.schema.live}
        self.ours = [name for name in COLUMNS if name in self.columns]
        self._load = content_loader(repo.store)
        self.spill = spill_to(repo.store.put)

    def key(self, source: str, slug: str, locale: str) -> bytes:
        """Return the key of a row."""
        parts = (source, slug, locale)
        return self._encode_key([parts[at] for at in self._order])

    def parts(self, key: bytes) -> tuple[str, str, str]:
        """Return source, slug and locale of a row."""
        cells = decode_key(key)
        source, slug, locale = (str(cells[at]) for at in self._places)
        return source, slug, locale

    def cells(self, row: bytes) -> dict[str, Value]:
        """Return the cells of a row by name, loaded."""
        found = decode_row_trusted(row, self.schema.width)
        return {
            column.name: load_cell(column.type, found[column.slot], self._load)
            for column in self.columns.values()
        }

    def faces(self, cells: Mapping[str, Value], category: str | None) -> dict[str, Any]:
        """Return what the cells of a document say; what the table lacks says nothing.

        Args:
            category: That of documents which name none.
        """
        found: dict[str, Any] = dict.fromkeys(COLUMNS)
        found |= {"description": "", "keywords": "", "links": "[]", "public": True, "body": ""}
        for name in self.ours:
            cell, type_ = cells[name], self.columns[name].type
            if name == "public":
                found[name] = True if cell is None else cell not in (False, 0, "false", "f", "0")
            elif cell is None:
                found[name] = None
            else:
                found[name] = cell if type_ == "text" else format_cell(type_, cell)
        found["category_id"] = found["category_id"] or category
        return found

    def cell(self, name: str, face: Any) -> Value:
        """Return the cell of what a document says."""
        type_ = self.columns[name].type
        if face is None:
            return None
        if isinstance(face, bool):
            return face if type_ == "bool" else int(face) if type_ == "int" else str(face).lower()
        if name == "published_at" and type_ in ("timestamptz", "text"):
            face = f"{face}T00:00:00Z"
        return face if type_ == "text" else parse_cell(type_, face)

    def row(self, cells: Mapping[str, Value]) -> bytes:
        """Return the row of cells by name."""
        found: list[Value] = [None] * self.schema.width
        for name, column in self.columns.items():
            found[column.slot] = cells.get(name)
        return encode_row(found, self.spill)

    def wanted(
        self,
        key: bytes,
        document: Document,
        row: bytes | None,
        base: bytes | None,
        category: str | None,
    ) -> bytes:
        """Return the row that a file asks for: with cells that are alike as they stand.

        Where the row differs in nothing that a file holds, it is that row.
        """
        says = document.cells()
        now = self.cells(row) if row is not None else None
        was = self.cells(base) if base is not None else None
        sides = [(cells, self.faces(cells, category)) for cells in (now, was) if cells is not None]
        found: dict[str, Value] = {}
        for name in self.columns:
            if name not in COLUMNS:
                found[name] = next((cells[name] for cells, _ in sides), None)
        if not sides and self.columns.get(_ID) is not None:
            found[_ID] = _derived_id(key) if self.columns[_ID].type == "text" else None
        for name in self.ours:
            for cells, faces in sides:
                if normal(name, faces[name]) == normal(name, says[name]):
                    found[name] = cells[name]
                    break
            else:
                face = says[name]
                if name == "body" and sides and "\r\n" not in str(sides[0][1]["body"]):
                    face = face.replace("\r\n", "\n")
                found[name] = self.cell(name, face)
        return self.row(self._hashed(found, [cells for cells, _ in sides]))

    def _hashed(
        self, cells: dict[str, Value], known: Iterable[Mapping[str, Value]]
    ) -> dict[str, Value]:
        """Return cells with the hash of the older system: that of a side which is the same."""
        if _HASH not in self.columns:
            return cells
        for other in known:
            if all(cells[name] == other[name] for name in self.ours):
                return cells | {_HASH: other[_HASH]}
        return cells | {_HASH: version_hash(self.faces(cells, None))}

    def merged(self, merger: RowMerger, base: bytes | None, row: bytes, wanted: bytes) -> bytes:
        """Return two edits of one row as one; merger has found that they go together."""
        cells = self.cells(merger.choose(base, row, wanted, {}))
        return self.row(self._hashed(cells, [self.cells(row), self.cells(wanted)]))


def _derived_id(key: bytes) -> str:
    raw = bytearray(blake3(key).digest(length=16))
    raw[6] = raw[6] & 0x0F | 0x80
    raw[8] = raw[8] & 0x3F | 0x80
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


# --- The base --------------------------------------------------------------------------


class _Base:
    """What both sides were when they last agreed: rows, and where their files were."""

    def __init__(self, repo: Repository, database: str, table: _Table) -> None:
        self._repo = repo
        self.state = f"{LOCAL_MARK_PREFIX}{database}"
        self.rows: dict[bytes, bytes] = {}
        self.paths: dict[bytes, str] = {}
        value = repo.store.get_state(self.state)
        if value is None:
            return
        with reading_state("when documents were last kept in step"):
            _, oid = decode_trusted(value)
            oid = ObjectId(oid)
        if repo.store.missing([oid]):
            return
        manifest = get_manifest(repo.store, oid)
        rows, paths = manifest.find(_ROWS), manifest.find(_PATHS)
        assert rows is not None and paths is not None
        old = _Table(repo, rows)
        for key, row in list_entries(repo.store, rows.root):
            self.rows[key] = row if old.schema == table.schema else table.row(old.cells(row))
        for key, value in list_entries(repo.store, paths.root):
            (self.paths[key],) = decode_trusted(value)

    def encode(
        self, table: _Table, rows: Mapping[bytes, bytes], paths: Mapping[bytes, str]
    ) -> bytes:
        """Return the state that keeps another base, whose objects are stored."""
        store = self._repo.store
        store.put(Kind.NODE, EMPTY_MAP_BODY)
        parts = (
            (_PATHS, {key: encode([path]) for key, path in paths.items()}, None, None),
            (_ROWS, rows, table.collection.schema, table.collection.view),
        )
        collections = tuple(
            Collection(name, build_map(store, sorted(entries.items())), len(entries), schema, view)
            for name, entries, schema, view in parts
        )
        manifest = Manifest((), collections, "", 0, "documents as both sides had them")
        return encode([1, store.put(Kind.MANIFEST, encode_manifest(manifest))])


# --- The plan --------------------------------------------------------------------------


class _Planner:
    """Finds out what one local sync comes to; making it stores objects and changes nothing."""

    def __init__(
        self,
        repo: Repository,
        manifest: Manifest,
        database: str,
        direction: str,
        choices: Choices,
    ) -> None:
        self.repo = repo
        self.direction = direction
        self.choices = choices
        collection = manifest.find(f"db/{database}/{TABLE}")
        if collection is None:
            raise Invalid(
                f"db/{database}/{TABLE} is not recorded yet", hint="'gsync snapshot' records it"
            )
        self.root = files_root(manifest) or EMPTY_MAP
        self.table = _Table(repo, collection)
        self.sources = self._choose(load_sources(repo, self.root))
        self._by_id = {source.source_id: source for source in self.sources}
        self.base = _Base(repo, database, self.table)
        self.files = _Files(repo.store, self.root, self.sources)
        self.rows: dict[bytes, bytes] = {}
        self._owners: dict[tuple[str, str], str] = {}
        self._read_rows()
        policies = policies_of(repo, (manifest, manifest, manifest), collection.name)
        columns = {"body": "text3", _HASH: "theirs", _ID: "ours", **policies.columns}
        schema = self.table.schema
        load = content_loader(repo.store)
        self._merger = RowMerger(
            *(schema, schema, schema, schema),
            *(load, self.table.spill, Policies(columns, policies.together)),
        )
        self.items: list[Item] = []
        self.unchanged: dict[str, int] = {one.source_id: 0 for one in self.sources}
        self.row_edits: dict[bytes, bytes | None] = {}
        self.file_edits: dict[bytes, bytes | None] = {}
        self.base_rows = dict(self.base.rows)
        self.base_paths = dict(self.base.paths)
        self._plan()

    def _choose(self, sources: tuple[Source, ...]) -> tuple[Source, ...]:
        only = self.choices.only
        known = {name for one in sources for name in (one.name, one.source_id)}
        for name in only:
            if name not in known:
                raise NotFound(
                    f"no source is called {name!r}",
                    hint=f"known: {', '.join(one.name for one in sources) or 'none'}",
                )
        return tuple(o for o in sources if not only or o.name in only or o.source_id in only)

    def _read_rows(self) -> None:
        alone = any(set(u) == {"slug", "locale"} for u in self.table.schema.unique)
        for key, row in list_entries(self.repo.store, self.table.collection.root):
            source, slug, locale = self.table.parts(key)
            if source in self._by_id:
                self.rows[key] = row
            if alone:
                self._owners[slug, locale] = source

    def _plan(self) -> None:
        self.files.settle()
        documents = {self.table.key(*parts): d for parts, d in self.files.documents.items()}
        held = self._held()
        keys = documents.keys() | self.rows.keys()
        keys |= {k for k in self.base.rows if self.table.parts(k)[0] in self._by_id}
        for key in sorted(keys, key=self.table.parts):
            self._one(key, documents.get(key), held)

    def _held(self) -> tuple[set[bytes], set[str]]:
        """Return the documents that a problem holds as they are, and sources that lose nothing."""
        by_path = {path: key for key, path in self.base.paths.items()}
        keys: set[bytes] = set()
        sources = set(self.files.empty)
        for path in self.files.problems:
            if path in by_path:
                keys.add(by_path[path])
            else:  # it may be any document of its source, under a new name
                sources |= {one.source_id for one in self.sources if one.holds(path)}
        return keys, sources

    def _one(self, key: bytes, placed: _Placed | None, held: tuple[set[bytes], set[str]]) -> None:
        row, base = self.rows.get(key), self.base.rows.get(key)
        source, slug, locale = self.table.parts(key)
        category = self._by_id[source].category_id
        wanted = None
        if placed is not None:
            wanted = self.table.wanted(key, placed.document, row, base, category)
        is_held = placed is None and (key in held[0] or source in held[1])
        if wanted == row:
            if row is None:
                if not is_held:
                    self.base_rows.pop(key, None)
                    self.base_paths.pop(key, None)
                return
            self.unchanged[source] += 1
            self._agree(key, row, placed)
            return
        item = Item(
            *(source, slug, locale, placed.path if placed else None, None),
            *(_became(base, wanted), _became(base, row)),
        )
        cells = self.table.cells(row) if row is not None else None
        faces = self.table.faces(cells, category) if cells is not None else None
        says = placed.document.cells() if placed else None
        item = replace(
            item,
            title=str((says or faces or {}).get("title")),
            disk_hash=content_hash(says, self.table.ours) if says else None,
            row_hash=content_hash(faces, self.table.ours) if faces else None,
            columns=self._differing(wanted, row),
        )
        is_orphan = self.choices.delete_orphans and self.direction == "to-db"
        if is_held and (item.disk == "deleted" or is_orphan):
            why = "its file is a problem" if key in held[0] else "files of its source are problems"
            if source in self.files.empty:
                why = "its source has no file at all"
            self.items.append(replace(item, problem=why))
            return
        self.items.append(self._decide(item, key, placed, wanted, row, base))

    def _differing(self, wanted: bytes | None, row: bytes | None) -> tuple[str, ...]:
        if wanted is None or row is None:
            return ()
        one, two = self.table.cells(wanted), self.table.cells(row)
        return tuple(name for name in self.table.ours if one[name] != two[name])

    def _decide(
        self,
        item: Item,
        key: bytes,
        placed: _Placed | None,
        wanted: bytes | None,
        row: bytes | None,
        base: bytes | None,
    ) -> Item:
        """Return the item with what is done about it; the edits are kept."""
        to_db, to_disk = self.direction != "to-disk", self.direction != "to-db"
        override = self.choices.override
        if override == "ours" and to_db and (wanted is not None or item.disk == "deleted"):
            return self._write(item, key, placed, wanted, row, wanted, wanted, wanted)
        if override == "theirs" and to_disk and (row is not None or item.row == "deleted"):
            return self._write(item, key, placed, wanted, row, row, row, row)
        if self.choices.delete_orphans and base is None:
            if wanted is None and self.direction == "to-db":
                return self._write(item, key, placed, wanted, row, None, None, None)
            if row is None and self.direction == "to-disk":
                return self._write(item, key, placed, wanted, row, None, None, None)
        if base == row:  # changed on disk
            if not to_db:
                return item
            return self._write(item, key, placed, wanted, row, wanted, wanted, wanted)
        if base == wanted:  # changed in the database
            if not to_disk:
                return item
            return self._write(item, key, placed, wanted, row, row, row, row)
        return self._both(item, key, placed, wanted, row, base)

    def _both(
        self,
        item: Item,
        key: bytes,
        placed: _Placed | None,
        wanted: bytes | None,
        row: bytes | None,
        base: bytes | None,
    ) -> Item:
        override = self.choices.override
        if override is not None:  # whose other side is not written: it waits as that side's change
            if override == "theirs" and wanted is not None and self.direction == "to-db":
                self._set_base(key, wanted, placed)
            if override == "ours" and row is not None and self.direction == "to-disk":
                self._set_base(key, row, placed)
            return item
        if wanted is None or row is None:
            kind = "delete/edit" if wanted is None else "edit/delete"
            return replace(item, conflict=kind)
        clashes = self._merger.list_clashes(base, row, wanted)
        if clashes:
            kind = "add/add" if base is None else "edit/edit"
            return replace(item, conflict=kind, columns=tuple(clashes))
        merged = self.table.merged(self._merger, base, row, wanted)
        if self.direction == "to-db":
            return self._write(item, key, placed, wanted, row, merged, wanted, wanted)
        if self.direction == "to-disk":
            return self._write(item, key, placed, wanted, row, row, merged, row)
        return self._write(item, key, placed, wanted, row, merged, merged, merged)

    def _write(
        self,
        item: Item,
        key: bytes,
        placed: _Placed | None,
        wanted: bytes | None,
        row: bytes | None,
        new_row: bytes | None,
        new_file: bytes | None,
        new_base: bytes | None,
    ) -> Item:
        """Note what is written: a row, a file, and what both agree on from then on."""
        path = placed.path if placed else None
        if new_file != wanted:
            try:
                path = self._write_file(item, placed, wanted, new_file)
            except NotHeld as error:
                return replace(item, problem=str(error))
            item = replace(item, file_action=_action(wanted, new_file), path=path)
        if new_row != row:
            problem = self._check_owner(item) if row is None else None
            if problem is not None:
                return replace(item, problem=problem)
            self.row_edits[key] = new_row
            item = replace(item, row_action=_action(row, new_row))
        if new_base is None:
            self.base_rows.pop(key, None)
            self.base_paths.pop(key, None)
        else:
            self.base_rows[key] = new_base
            assert path is not None
            self.base_paths[key] = path
        return item

    def _check_owner(self, item: Item) -> str | None:
        owner = self._owners.get((item.slug, item.locale))
        if owner is None or (owner == item.source):
            return None
        gone = self.table.key(owner, item.slug, item.locale)
        if gone in self.row_edits and self.row_edits[gone] is None:
            return None
        has_file = (owner, item.slug, item.locale) in self.files.documents
        row = self.rows.get(gone)
        if not has_file and row is not None and row == self.base.rows.get(gone):
            return None  # it moved from there, and its row is going to be deleted
        return f"the source {owner} has a row of this slug and locale"

    def _write_file(
        self, item: Item, placed: _Placed | None, wanted: bytes | None, new: bytes | None
    ) -> str | None:
        if new is None:
            assert placed is not None
            self.file_edits[placed.path.encode()] = None
            return placed.path
        source = self._by_id[item.source]
        faces = self.table.faces(self.table.cells(new), source.category_id)
        if placed is None:
            path = default_path(source, item.slug, item.locale)
            self._check_free(path)
            data = new_document(path, source, item.slug, item.locale, faces)
            type_ = EntryType.FILE
        else:
            assert wanted is not None
            path, type_ = placed.path, placed.entry.type
            says = placed.document.cells()
            changed = {
                name: faces[name]
                for name in self.table.ours
                if normal(name, faces[name]) != normal(name, says[name])
            }
            whole = says | {name: faces[name] for name in self.table.ours}
            old = _content(self.repo.store, placed.entry)
            data = write_document(path, old, source, whole, changed)
        ref = self.table.spill(data)
        content = ObjectId(blake3(data).digest()) if ref.kind is not Kind.BLOB else None
        self.file_edits[path.encode()] = encode_entry(FileEntry(type_, len(data), ref, content))
        return path

    def _check_free(self, path: str) -> None:
        key = path.encode()
        store = self.repo.store
        for parent in parents_of(key):
            if find_value(store, self.root, parent) is not None:
                raise NotHeld(f"{parent.decode()} is a file, where a directory is needed")
        taken = find_value(store, self.root, key) is not None or key in self.file_edits
        if taken or any(True for _ in list_entries(store, self.root, prefix=key + b"/")):
            raise NotHeld(f"{path} is taken by something else")

    def _agree(self, key: bytes, row: bytes, placed: _Placed | None) -> None:
        assert placed is not None
        self.base_rows[key] = row
        self.base_paths[key] = placed.path

    def _set_base(self, key: bytes, row: bytes, placed: _Placed | None) -> None:
        self.base_rows[key] = row
        if placed is not None:
            self.base_paths[key] = placed.path

    @property
    def has_new_base(self) -> bool:
        """Whether something is agreed on that was not."""
        return self.base_rows != self.base.rows or self.base_paths != self.base.paths

    def states(self) -> dict[str, bytes | None]:
        """Return the state that keeps what is agreed on once the plan is done."""
        return {self.base.state: self.base.encode(self.table, self.base_rows, self.base_paths)}

    def collections(self) -> list[Collection]:
        """Return file tree and table as they are once the plan is done."""
        store = self.repo.store
        found = []
        if self.file_edits:
            root = edit_map(store, self.root, sorted(self.file_edits.items()))
            found.append(Collection(FILES, root, count_entries(store, root)))
        if self.row_edits:
            root = edit_map(store, self.table.collection.root, sorted(self.row_edits.items()))
            found.append(
                replace(self.table.collection, root=root, count=count_entries(store, root))
            )
        return found

    def result(self) -> LocalPlan:
        """Return what there is to tell."""
        problems = [one for found in self.files.problems.values() for one in found]
        return LocalPlan(
            *(self.direction, self.sources, tuple(self.items), self.unchanged),
            problems=tuple(sorted(problems)),
        )


def _became(base: bytes | None, now: bytes | None) -> str:
    if now is None:
        return "absent" if base is None else "deleted"
    return "added" if base is None else "same" if now == base else "edited"


def _action(old: bytes | None, new: bytes | None) -> str:
    return "create" if old is None else "delete" if new is None else "update"


# --- Doing it --------------------------------------------------------------------------


def plan_local(
    repo: Repository, direction: str, choices: Choices, database: str | None = None
) -> LocalPlan:
    """Return how folder and database differ as they are now, and what a sync would do.

    Nothing is kept but contents that nothing names. The caller holds the lock.
    """
    from gsync.sync.tables import scan_databases

    name = find_content(repo, database)
    now = capture_folder(repo, "as it is")
    tables = scan_databases(repo, repo.manifest(repo.head()))
    now = replace_collections(now, tables.collections, now.message)
    return _Planner(repo, now, name, direction, choices).result()


def sync_local(
    repo: Repository,
    direction: str,
    choices: Choices,
    database: str | None = None,
    *,
    message: str | None = None,
    accept: Sequence[str] = (),
) -> LocalPlan:
    """Bring documents from one side to the other, or both ways; the caller holds the lock.

    Raises:
        Conflict: something changed meanwhile; nothing was done.
        Refused: the database does not take it; nothing was done.
    """
    name = find_content(repo, database)
    snapshot(repo, f"before local {direction}", accept=accept, why=f"local {direction}")
    head = repo.head()
    manifest = repo.manifest(head)
    assert head is not None and manifest is not None
    plan = _Planner(repo, manifest, name, direction, choices)
    found = plan.result()
    collections = plan.collections()
    if not collections:
        if plan.has_new_base:
            states = plan.states()
            repo.store.flush()
            repo.store.set_states(states)
        return found
    made = next_manifest(
        manifest, head, collections, repo.author(), message or _message(direction, found)
    )
    oid = repo.store.put(Kind.MANIFEST, encode_manifest(made))
    states = plan.states()
    move_folder(repo, head, oid, why=f"local {direction}", accept=accept, states=states)
    return replace(found, manifest=oid)


def _message(direction: str, plan: LocalPlan) -> str:
    counts: dict[str, int] = defaultdict(int)
    for item in plan.items:
        for what, action in (("row", item.row_action), ("file", item.file_action)):
            if action is not None:
                counts[f"{what}(s) {action}d"] += 1
    shown = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
    return f"local {direction}: {shown}"
