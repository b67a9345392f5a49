"""The documents that a file tree holds, and whose they are (17-documents, sections 1 and 2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from gsync.errors import NotFound
from gsync.frozen import frozen
from gsync.maps.omap import find_value, list_entries
from gsync.objects.chunk_list import list_chunks
from gsync.objects.oid import Kind, ObjectId
from gsync.store.base import ObjectReader
from gsync.sync.repository import Repository
from gsync.views.documents.document import DOCUMENT_BYTES_MAX, Document, read_document
from gsync.views.documents.frontmatter import BadFile, Problem
from gsync.views.documents.sources import Source, parse_sources
from gsync.views.files import FileEntry, decode_entry_trusted

CONFIGS = ("content/config.yaml", "services/content/config.yaml")


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
            return parse_sources(path, read_content(repo.store, entry))
    raise NotFound(
        f"no file says where documents are: looked for {', '.join(places)}",
        hint="[content] config in gsync.toml names another one",
    )


def read_content(store: ObjectReader, entry: FileEntry) -> bytes:
    """Return the content of a file."""
    assert entry.ref is not None
    if entry.ref.kind is Kind.BLOB:
        return store.get(Kind.BLOB, entry.ref.oid)
    chunks = list_chunks(lambda oid: store.get(Kind.CHUNK_LIST, oid), entry.ref)
    return b"".join(store.get(Kind.BLOB, chunk.oid) for chunk in chunks)


@frozen
class Placed:
    """A document where it lies.

    Attributes:
        path: Its path.
        entry: Its file.
        source: Whose it is.
        document: What it says; None if that is what both sides had agreed on, so nobody asked.
    """

    path: str
    entry: FileEntry
    source: Source
    document: Document | None


class DocumentFiles:
    """The documents of a file tree.

    Attributes:
        documents: By source id, slug and locale.
        problems: What is wrong with files, by path; these are not among the documents.
        empty: The ids of the sources that have no file at all.

    Args:
        known: What files were when both sides last agreed: path -> id of the content, and the
            document's key. Those that are still so are not read.
    """

    def __init__(
        self,
        store: ObjectReader,
        root: ObjectId | None,
        sources: Sequence[Source],
        known: Mapping[str, tuple[bytes, tuple[str, str, str]]],
    ) -> None:
        self._store = store
        self._known = known
        self.documents: dict[tuple[str, str, str], Placed] = {}
        self.problems: dict[str, tuple[Problem, ...]] = {}
        self.empty: set[str] = set()
        for source in sources:
            files = 0
            for path, entry in self._list(root, source):
                files += 1
                self._read(source, path, entry)
            if not files:
                self.empty.add(source.source_id)
        self.documents = {k: d for k, d in self.documents.items() if d.path not in self.problems}

    def _list(self, root: ObjectId | None, source: Source) -> Iterator[tuple[str, FileEntry]]:
        if root is None:
            return
        prefix = f"{source.directory}/".encode()
        for key, value in list_entries(self._store, root, prefix=prefix):
            try:
                path = key.decode()
            except UnicodeDecodeError:
                continue  # no name that ends with .md could be written into a row's path
            entry = decode_entry_trusted(value)
            if entry.is_file and source.holds(path):
                yield path, entry

    def _read(self, source: Source, path: str, entry: FileEntry) -> None:
        content, key = self._known.get(path, (None, None))
        if key is not None and content == entry.content_id:
            self._add(key, Placed(path, entry, source, None))
            return
        if entry.size > DOCUMENT_BYTES_MAX:
            shown = f"{entry.size:,} bytes, more than {DOCUMENT_BYTES_MAX:,}"
            self.problems[path] = (Problem(path, 0, 0, shown),)
            return
        try:
            document = read_document(path, read_content(self._store, entry), source)
        except BadFile as error:
            self.problems[path] = error.problems
            return
        if document is not None:
            key = (source.source_id, document.slug, document.locale)
            self._add(key, Placed(path, entry, source, document))

    def _add(self, key: tuple[str, str, str], placed: Placed) -> None:
        other = self.documents.get(key)
        if other is None:
            self.documents[key] = placed
            return
        _, slug, locale = key
        for one, two in ((other.path, placed.path), (placed.path, other.path)):
            text = f"{two} has the slug {slug!r} and the locale {locale}, too"
            self.problems[one] = (*self.problems.get(one, ()), Problem(one, 0, 0, text))

    def document(self, placed: Placed) -> Document:
        """Return what a document's file says, read if nobody has yet."""
        if placed.document is not None:
            return placed.document
        data = read_content(self._store, placed.entry)
        document = read_document(placed.path, data, placed.source)
        assert document is not None  # it was one when both sides agreed
        return document
