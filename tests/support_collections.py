"""Collections for tests that care for their rows alone."""

from __future__ import annotations

from gsync.objects.model import Collection
from gsync.objects.oid import Kind, ObjectId
from gsync.store.base import ObjectStore
from gsync.views.rows.schema import Column, KeyColumn, Schema, View, encode_schema, encode_view

TABLE = Schema("t", (KeyColumn("id", "int"),), (Column(0, "a", "text"),))


def put_table(store: ObjectStore, root: ObjectId, count: int) -> Collection:
    """Return the table `db/main/t` with these rows, its schema and view put into `store`."""
    schema = store.put(Kind.SCHEMA, encode_schema(TABLE))
    view = store.put(Kind.VIEW, encode_view(View()))
    return Collection("db/main/t", root, count, schema, view)
