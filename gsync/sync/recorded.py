"""Tables that a manifest holds: schemas, contents, and which tables `gsync.toml` names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gsync.config import Tables, parse_shared
from gsync.errors import Invalid, NotFound
from gsync.maps.omap import find_value
from gsync.objects.chunk_list import list_chunks
from gsync.objects.encoding import Reference
from gsync.objects.model import Collection, Manifest
from gsync.objects.oid import Kind
from gsync.store.base import ObjectReader
from gsync.sync.compare import files_root
from gsync.sync.comparetables import PREFIX, split_collection
from gsync.sync.repository import Repository
from gsync.views.files import decode_entry_trusted
from gsync.views.rows.schema import (
    Schema,
    View,
    decode_schema,
    decode_view,
)
from gsync.views.rows.values import LoadContent

if TYPE_CHECKING:
    from gsync.views.rows.policies import Policies


def collection_name(database: str, table: str) -> str:
    """Return the name of a table's collection."""
    return f"{PREFIX}{database}/{table}"


def get_schema(store: ObjectReader, collection: Collection) -> Schema:
    """Return the schema of a table's collection.

    Raises:
        Invalid: it is no table.
    """
    if collection.schema is None:
        raise Invalid(f"{collection.name} is no table")
    return decode_schema(store.get(Kind.SCHEMA, collection.schema))


def get_view(store: ObjectReader, collection: Collection) -> View:
    """Return the view of a table's collection."""
    if collection.view is None:
        raise Invalid(f"{collection.name} is no table")
    return decode_view(store.get(Kind.VIEW, collection.view))


def content_loader(store: ObjectReader) -> LoadContent:
    """Return what gives the content behind a spilled cell."""

    def load(reference: Reference) -> bytes:
        if reference.kind is Kind.BLOB:
            return store.get(Kind.BLOB, reference.oid)
        chunks = list_chunks(lambda oid: store.get(Kind.CHUNK_LIST, oid), reference)
        return b"".join(store.get(Kind.BLOB, chunk.oid) for chunk in chunks)

    return load


def recorded_tables(manifest: Manifest | None, database: str) -> dict[str, Collection]:
    """Return the collections of one database, by the table's name."""
    found = {}
    for collection in manifest.collections if manifest else ():
        names = split_collection(collection.name)
        if names and names[0] == database:
            found[names[1]] = collection
    return found


def tables_of(repo: Repository, manifest: Manifest | None) -> Mapping[str, Tables]:
    """Return which tables `gsync.toml` names in `manifest`; what is on disk if that is unreadable.

    A pull may bring a table and the setting that names it at once.
    """
    root = files_root(manifest)
    value = find_value(repo.store, root, b"gsync.toml") if root else None
    if value is not None:
        entry = decode_entry_trusted(value)
        if entry.ref is not None and entry.ref.kind is Kind.BLOB:
            try:
                return parse_shared(repo.store.get(Kind.BLOB, entry.ref.oid)).databases
            except Invalid:
                pass
    return repo.config.shared.databases


def policies_of(repo: Repository, sides: Sequence[Manifest | None], collection: str) -> Policies:
    """Return the policies that count in a merge of a table: what the three `gsync.toml` say.

    Args:
        sides: The manifests base, ours and theirs.
    """
    from gsync.views.rows.policies import Policies, join_groups, merge_policies

    database, table = split_collection(collection) or ("", "")
    found = []
    for manifest in sides:
        config = tables_of(repo, manifest).get(database, {}).get(table) if manifest else None
        found.append(
            Policies(dict(config.merge), join_groups(config.together)) if config else Policies()
        )
    return merge_policies(*found)


def find_table(manifest: Manifest, name: str) -> Collection:
    """Return the table `name`: `users`, `main/users` or `db/main/users`.

    Raises:
        NotFound: no table is called so; or several are, in different databases.
    """
    tables = [c for c in manifest.collections if split_collection(c.name)]
    found = [
        c
        for c in tables
        if name in (c.name, c.name.removeprefix(PREFIX), (split_collection(c.name) or ("", ""))[1])
    ]
    if len(found) == 1:
        return found[0]
    known = ", ".join(c.name.removeprefix(PREFIX) for c in (found or tables)) or "none"
    raise NotFound(
        f"{'several tables are' if found else 'no table is'} called {name!r}",
        hint=f"recorded there: {known}",
    )
