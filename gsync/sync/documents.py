"""Documents between disk and database: planned from one manifest, done as one move (17-documents).

A snapshot holds both sides, so a plan is a function of it and of the base: what the two were when
they last agreed. What the plan comes to is the next manifest, and folder and database follow it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from blake3 import blake3

from gsync.errors import Invalid, NotFound
from gsync.frozen import frozen, replace
from gsync.maps.omap import EMPTY_MAP, build_map, find_value, list_entries
from gsync.objects.encoding import decode_trusted, encode
from gsync.objects.model import EMPTY_MAP_BODY, Collection, Manifest, encode_manifest
from gsync.objects.oid import Kind, ObjectId
from gsync.paths import parents_of
from gsync.sync.compare import files_root
from gsync.sync.docfiles import DocumentFiles, Placed, load_sources, read_content
from gsync.sync.doctable import HASH, ID, DocumentTable
from gsync.sync.localplan import (
    Choices,
    Item,
    LocalPlan,
    Outcome,
    Sides,
    action,
    became,
    decide,
)
from gsync.sync.operations import LOCAL_MARK_PREFIX, reading_state
from gsync.sync.recorded import content_loader, policies_of
from gsync.sync.repository import Repository
from gsync.transfer.history import get_manifest
from gsync.views.documents.document import (
    NotHeld,
    content_hash,
    default_path,
    new_document,
    normal,
    write_document,
)
from gsync.views.documents.sources import Source
from gsync.views.files import EntryType, FileEntry, encode_entry
from gsync.views.rows.merge import RowMerger
from gsync.views.rows.policies import Policies

TABLE = "markdown_content"
_ROWS, _PATHS = "rows", "paths"

# --- The base --------------------------------------------------------------------------


@frozen
class _Agreed:
    """A document when both sides last agreed on it.

    Attributes:
        row: Its row.
        path: Where its file was.
        content: The id of that file's content, if the file said just what the row did.
    """

    row: bytes
    path: str
    content: bytes | None


class _Base:
    """What both sides were when they last agreed.

    Args:
        sources: What they were read by; other ones may take the same files for something else.
    """

    def __init__(
        self, repo: Repository, database: str, table: DocumentTable, sources: Sequence[Source]
    ) -> None:
        self._store = repo.store
        self._table = table
        self._sources = blake3(repr(sources).encode()).digest()
        self.state = f"{LOCAL_MARK_PREFIX}{database}"
        self.documents: dict[bytes, _Agreed] = {}
        value = repo.store.get_state(self.state)
        if value is None:
            return
        with reading_state("when documents were last kept in step"):
            _, oid, digest = decode_trusted(value)
            oid = ObjectId(oid)
        if repo.store.missing([oid]):
            return
        manifest = get_manifest(repo.store, oid)
        rows, paths = manifest.find(_ROWS), manifest.find(_PATHS)
        assert rows is not None and paths is not None
        old = DocumentTable(repo, rows)
        places = dict(list_entries(repo.store, paths.root))
        for key, row in list_entries(repo.store, rows.root):
            path, content = decode_trusted(places[key])
            if old.schema != table.schema:
                row = table.row(old.cells(row), is_kept=True)
            known = content if digest == self._sources else None
            self.documents[key] = _Agreed(row, path, known)

    def row(self, key: bytes) -> bytes | None:
        """Return the row of a document that was agreed on, or None."""
        found = self.documents.get(key)
        return found.row if found is not None else None

    def known(self) -> dict[str, tuple[bytes, tuple[str, str, str]]]:
        """Return what files need not be read as long as they are as they were."""
        known = {}
        for key, found in self.documents.items():
            if found.content is not None:
                source, slug, locale = self._table.parts(key)
                known[found.path] = (found.content, (source, slug, locale))
        return known

    def encode(self, documents: Mapping[bytes, _Agreed]) -> bytes:
        """Return the state that keeps another base, whose objects are stored."""
        self._store.put(Kind.NODE, EMPTY_MAP_BODY)
        table = self._table.collection
        entries = sorted(documents.items())
        paths = build_map(self._store, ((k, encode([d.path, d.content])) for k, d in entries))
        rows = build_map(self._store, ((key, found.row) for key, found in entries))
        collections = (
            Collection(_PATHS, paths, len(entries)),
            Collection(_ROWS, rows, len(entries), table.schema, table.view),
        )
        manifest = Manifest((), collections, "", 0, "documents as both sides had them")
        oid = self._store.put(Kind.MANIFEST, encode_manifest(manifest))
        return encode([1, oid, self._sources])


# --- The plan --------------------------------------------------------------------------


class DocumentPlanner:
    """What a local sync comes to for documents; making it stores objects and changes nothing."""

    def __init__(
        self,
        repo: Repository,
        manifest: Manifest,
        database: str,
        direction: str,
        choices: Choices,
    ) -> None:
        self.direction = direction
        self.choices = choices
        collection = manifest.find(f"db/{database}/{TABLE}")
        if collection is None:
            raise Invalid(
                f"db/{database}/{TABLE} is not recorded yet", hint="'gsync snapshot' records it"
            )
        self.store = repo.store
        self.root = files_root(manifest) or EMPTY_MAP
        self.table = DocumentTable(repo, collection)
        sources = load_sources(repo, self.root)
        self.sources = self._choose(sources)
        self._by_id = {source.source_id: source for source in self.sources}
        self.base = _Base(repo, database, self.table, sources)
        self.files = DocumentFiles(repo.store, self.root, self.sources, self.base.known())
        self.rows: dict[bytes, bytes] = {}
        self._owners: dict[tuple[str, str], str] = {}
        self._read_rows()
        self._merger = self._make_merger(
            policies_of(repo, (manifest, manifest, manifest), collection.name)
        )
        self.items: list[Item] = []
        self.unchanged: dict[str, int] = {one.source_id: 0 for one in self.sources}
        self.row_edits: dict[bytes, bytes | None] = {}
        self.file_edits: dict[bytes, bytes | None] = {}
        self.agreed = dict(self.base.documents)
        self._held_keys, self._held_sources = self._find_held()
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
        for key, row in list_entries(self.store, self.table.collection.root):
            source, slug, locale = self.table.parts(key)
            if source in self._by_id:
                self.rows[key] = row
            if alone:
                self._owners[slug, locale] = source

    def _make_merger(self, policies: Policies) -> RowMerger:
        columns = {"body": "text3", HASH: "theirs", ID: "ours", **policies.columns}
        known = {name: policy for name, policy in columns.items() if name in self.table.columns}
        schema = self.table.schema
        return RowMerger(
            *(schema, schema, schema, schema),
            *(content_loader(self.store), self.table.spill, Policies(known, policies.together)),
        )

    def _find_held(self) -> tuple[set[bytes], set[str]]:
        """Return the documents that a problem holds as they are, and sources that lose nothing."""
        by_path = {found.path: key for key, found in self.base.documents.items()}
        keys: set[bytes] = set()
        sources = set(self.files.empty)
        for path in self.files.problems:
            if path in by_path:
                keys.add(by_path[path])
            else:  # it may be any document of its source, under a new name
                sources |= {one.source_id for one in self.sources if one.holds(path)}
        return keys, sources

    def _plan(self) -> None:
        files = {self.table.key(*parts): file for parts, file in self.files.documents.items()}
        keys = files.keys() | self.rows.keys()
        keys |= {k for k in self.base.documents if self.table.parts(k)[0] in self._by_id}
        for key in sorted(keys, key=self.table.parts):
            self._one(self._sides(key, files.get(key)))

    def _sides(self, key: bytes, file: Placed | None) -> Sides:
        row, base = self.rows.get(key), self.base.row(key)
        if file is None:
            return Sides(key, None, None, row, base)
        if file.document is None and row == base:
            return Sides(key, file, base, row, base)
        document = self.files.document(file)
        wanted = self.table.wanted(key, document, row, base, file.source.category_id)
        return Sides(key, file, wanted, row, base)

    def _one(self, sides: Sides) -> None:
        source, slug, locale = self.table.parts(sides.key)
        is_held = sides.file is None and (
            sides.key in self._held_keys or source in self._held_sources
        )
        if sides.wanted == sides.row:
            if sides.row is not None:
                self.unchanged[source] += 1
                assert sides.file is not None
                self._agree(sides.key, sides.row, sides.file.path, sides.file.entry)
            elif not is_held:
                self.agreed.pop(sides.key, None)
            return
        item = self._describe(sides, source, slug, locale)
        is_orphan = self.choices.delete_orphans and self.direction == "to-db"
        if is_held and (item.disk == "deleted" or is_orphan):
            why = "files of its source are problems"
            if source in self.files.empty:
                why = "its source has no file at all"
            elif sides.key in self._held_keys:
                why = "its file is a problem"
            self.items.append(replace(item, problem=why))
            return
        outcome = decide(self.direction, self.choices, item, sides, self._merge)
        if isinstance(outcome, Outcome):
            item = self._write(item, sides, outcome)
        else:
            item = outcome
        self.items.append(item)

    def _describe(self, sides: Sides, source: str, slug: str, locale: str) -> Item:
        category = self._by_id[source].category_id
        names = self.table.ours
        says = self.files.document(sides.file).cells() if sides.file else None
        row = self.table.cells(sides.row) if sides.row is not None else None
        faces = self.table.faces(row, category) if row is not None else None
        columns: tuple[str, ...] = ()
        if row is not None and sides.wanted is not None:
            wanted = self.table.cells(sides.wanted)
            columns = tuple(name for name in names if wanted[name] != row[name])
        return Item(
            *(source, slug, locale, sides.file.path if sides.file else None),
            str((says or faces or {}).get("title")),
            *(became(sides.base, sides.wanted), became(sides.base, sides.row), columns),
            disk_hash=content_hash(says, names) if says else None,
            row_hash=content_hash(faces, names) if faces else None,
        )

    def _merge(self, sides: Sides) -> bytes | tuple[str, ...]:
        """Return two edits of one document as one, or the columns that clash."""
        assert sides.row is not None and sides.wanted is not None
        clashes = self._merger.list_clashes(sides.base, sides.row, sides.wanted)
        if clashes:
            return tuple(clashes)
        return self.table.merged(self._merger, sides.base, sides.row, sides.wanted)

    def _write(self, item: Item, sides: Sides, outcome: Outcome) -> Item:
        """Note what is written, and return the item with it."""
        path = sides.file.path if sides.file else None
        entry = sides.file.entry if sides.file else None
        if outcome.row != sides.row and sides.row is None:
            problem = self._check_owner(item)
            if problem is not None:
                return replace(item, problem=problem)
        if outcome.file != sides.wanted:
            try:
                path, entry = self._write_file(item, sides, outcome.file)
            except NotHeld as error:
                return replace(item, problem=str(error))
            item = replace(item, file_action=action(sides.wanted, outcome.file), path=path)
        if outcome.row != sides.row:
            self.row_edits[sides.key] = outcome.row
            item = replace(item, row_action=action(sides.row, outcome.row))
        if outcome.base is None:
            self.agreed.pop(sides.key, None)
        else:
            was = self.base.documents.get(sides.key)
            said = outcome.base == outcome.file
            where = path or (was.path if was else "")
            self._agree(sides.key, outcome.base, where, entry if said else None)
        return item

    def _agree(self, key: bytes, row: bytes, path: str, entry: FileEntry | None) -> None:
        content = entry.content_id if entry is not None else None
        self.agreed[key] = _Agreed(row, path, bytes(content) if content is not None else None)

    def _check_owner(self, item: Item) -> str | None:
        owner = self._owners.get((item.slug, item.locale))
        if owner is None or owner == item.source:
            return None
        gone = self.table.key(owner, item.slug, item.locale)
        if gone in self.row_edits and self.row_edits[gone] is None:
            return None
        has_file = (owner, item.slug, item.locale) in self.files.documents
        row = self.rows.get(gone)
        if not has_file and row is not None and row == self.base.row(gone):
            return None  # it moved from there, and its row is going to be deleted
        return f"the source {owner} has a row of this slug and locale"

    def _write_file(
        self, item: Item, sides: Sides, new: bytes | None
    ) -> tuple[str, FileEntry | None]:
        """Note what a file becomes that is to say what the row `new` does."""
        file = sides.file
        if new is None:
            assert file is not None
            self.file_edits[file.path.encode()] = None
            return file.path, None
        source = self._by_id[item.source]
        faces = self.table.faces(self.table.cells(new), source.category_id)
        if file is None:
            path, type_ = default_path(source, item.slug, item.locale), EntryType.FILE
            self._check_free(path)
            data = new_document(path, source, item.slug, item.locale, faces)
        else:
            path, type_ = file.path, file.entry.type
            says = self.files.document(file).cells()
            ours = {name: faces[name] for name in self.table.ours}
            changed = {n: v for n, v in ours.items() if normal(n, v) != normal(n, says[n])}
            old = read_content(self.store, file.entry)
            data = write_document(path, old, source, says | ours, changed)
        ref = self.table.spill(data)
        content = ObjectId(blake3(data).digest()) if ref.kind is not Kind.BLOB else None
        entry = FileEntry(type_, len(data), ref, content)
        self.file_edits[path.encode()] = encode_entry(entry)
        return path, entry

    def _check_free(self, path: str) -> None:
        key = path.encode()
        for parent in parents_of(key):
            if find_value(self.store, self.root, parent) is not None:
                raise NotHeld(f"{parent.decode()} is a file, where a directory is needed")
        taken = find_value(self.store, self.root, key) is not None or key in self.file_edits
        if taken or any(True for _ in list_entries(self.store, self.root, prefix=key + b"/")):
            raise NotHeld(f"{path} is taken by something else")

    @property
    def has_new_base(self) -> bool:
        """Whether something is agreed on that was not."""
        return self.agreed != self.base.documents

    def states(self) -> dict[str, bytes | None]:
        """Return the state that keeps what is agreed on once the plan is done."""
        return {self.base.state: self.base.encode(self.agreed)}

    def tables(self) -> list[tuple[Collection, Mapping[bytes, bytes | None]]]:
        """Return the tables that change, and how."""
        return [(self.table.collection, self.row_edits)]

    def result(self) -> LocalPlan:
        """Return what there is to tell."""
        problems = [one for found in self.files.problems.values() for one in found]
        return LocalPlan(
            *(self.direction, self.sources, tuple(self.items), self.unchanged),
            problems=tuple(sorted(problems)),
        )
