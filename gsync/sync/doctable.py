"""The table of documents: its rows as what documents say, and the reverse (17-documents, 3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from blake3 import blake3

from gsync.errors import Invalid
from gsync.objects.encoding import Value
from gsync.objects.model import Collection
from gsync.sync.recorded import content_loader, get_schema
from gsync.sync.repository import Repository
from gsync.views.documents.document import COLUMNS, Document, normal, version_hash
from gsync.views.rows.keys import decode_key, key_encoder
from gsync.views.rows.merge import RowMerger
from gsync.views.rows.schema import Column, Schema
from gsync.views.rows.texts import format_cell, parse_cell
from gsync.views.rows.values import decode_row_trusted, encode_row, load_cell, spill_to

HASH, ID = "version_hash", "id"
_KEY = ("source_id", "slug", "locale")


class NamedTable:
    """A recorded table whose keys and rows are read and made by the names of columns.

    Args:
        key: The columns that its key has to have, in the order in which they are given here.

    Raises:
        Invalid: its key has other columns.
    """

    def __init__(self, repo: Repository, collection: Collection, key: Sequence[str]) -> None:
        self.store = repo.store
        self.collection = collection
        self.schema: Schema = get_schema(repo.store, collection)
        names = [column.name for column in self.schema.key]
        if sorted(names) != sorted(key):
            raise Invalid(
                f"{collection.name} has the key ({', '.join(names)}): what is on disk is known by"
                f" {', '.join(key)}",
                hint="'gsync db add URL --preset systemprompt' in a new database shows the"
                " settings; a table with another key is recorded afresh",
            )
        self._places = [names.index(name) for name in key]
        self._order = [key.index(name) for name in names]
        self._encode_key = key_encoder([column.type for column in self.schema.key])
        self.columns: dict[str, Column] = {column.name: column for column in self.schema.live}
        self._load = content_loader(repo.store)
        self.spill = spill_to(repo.store.put)

    def key(self, *parts: str) -> bytes:
        """Return the key of a row."""
        return self._encode_key([parts[at] for at in self._order])

    def parts(self, key: bytes) -> tuple[str, ...]:
        """Return the columns of a key."""
        cells = decode_key(key)
        return tuple(str(cells[at]) for at in self._places)

    def cells(self, row: bytes) -> dict[str, Value]:
        """Return the cells of a row by name, loaded."""
        found = decode_row_trusted(row, self.schema.width)
        return {
            column.name: load_cell(column.type, found[column.slot], self._load)
            for column in self.columns.values()
        }

    def row(self, cells: Mapping[str, Value], *, is_kept: bool = False) -> bytes:
        """Return the row of cells by name.

        Args:
            is_kept: Whether it is only compared with others, and never written.

        Raises:
            Invalid: a column that may not be NULL has no cell.
        """
        found: list[Value] = [None] * self.schema.width
        for name, column in self.columns.items():
            found[column.slot] = cells.get(name)
            if found[column.slot] is None and not column.nullable and not is_kept:
                raise Invalid(
                    f"{self.collection.name} records {name}, which no file says and which may not"
                    " be NULL",
                    hint=f"if the database fills it, list {name} as volatile in gsync.toml, then"
                    " 'gsync snapshot'",
                )
        return encode_row(found, self.spill)


class DocumentTable(NamedTable):
    """The table of documents.

    Faces are what people read of cells: texts, booleans, None.
    """

    def __init__(self, repo: Repository, collection: Collection) -> None:
        super().__init__(repo, collection, _KEY)
        self.ours = [name for name in COLUMNS if name in self.columns]

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
        if not sides and self.columns.get(ID) is not None:
            found[ID] = _derived_id(key) if self.columns[ID].type == "text" else None
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
        if HASH not in self.columns:
            return cells
        for other in known:
            if all(cells[name] == other[name] for name in self.ours):
                return cells | {HASH: other[HASH]}
        return cells | {HASH: version_hash(self.faces(cells, None))}

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
