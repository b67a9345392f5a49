"""Small SQLite files, and plans for their tables."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gsync.changes import Change
from gsync.maps.diff import diff_maps
from gsync.maps.omap import build_map
from gsync.objects.encoding import Reference
from gsync.objects.oid import ObjectId
from gsync.replicas.sqlite import SqliteDatabase
from gsync.replicas.tables.base import LiveTable, Session, TablePlan
from gsync.store.memory import MemoryStore
from gsync.views.rows.schema import ForeignKey, KeyColumn, NewColumn, View, make_schema
from gsync.views.rows.values import spill_to


def make(path: Path, *statements: str) -> SqliteDatabase:
    """Return a new database in which `statements` have run."""
    run(path, *statements)
    return SqliteDatabase(path)


def run(path: Path, *statements: str, values: Sequence[Any] = ()) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    try:
        for statement in statements:
            db.execute(statement, values)
    finally:
        db.close()


def insert(path: Path, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
    db = sqlite3.connect(path)
    try:
        for row in rows:
            db.execute(f'INSERT INTO "{table}" VALUES ({", ".join("?" * len(row))})', row)
        db.commit()
    finally:
        db.close()


def query(path: Path, sql: str) -> list[tuple[Any, ...]]:
    db = sqlite3.connect(path)
    try:
        return db.execute(sql).fetchall()
    finally:
        db.close()


def plan_of(live: LiveTable, key: Iterable[str] = (), roles: Mapping[str, str] = {}) -> TablePlan:
    """Return a plan by which all columns of `live` are carried that have no role."""
    names = tuple(key) or live.uniques[0].columns
    found = {c.name: c for c in live.columns if c.name not in roles}
    schema = make_schema(
        live.name,
        [KeyColumn(name, found[name].type or "") for name in names],
        [NewColumn(n, c.type or "", c.nullable) for n, c in found.items() if n not in names],
        [
            u.columns
            for u in live.uniques
            if set(u.columns) <= set(found) and set(u.columns) != set(names)
        ],
        [
            ForeignKey(*f.key)
            for f in live.foreign
            if set(f.key.columns) <= set(found)
        ],
    )  # fmt: skip
    return TablePlan(schema, View(tuple(sorted(roles.items()))), live)


def plans_of(session: Session, **keys: tuple[str, ...]) -> dict[str, TablePlan]:
    return {t.name: plan_of(t, keys.get(t.name, ())) for t in session.tables() if not t.problem}


class Kept:
    """A store in memory, with what spills into it and what loads from it."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.spill = spill_to(self.store.put)

    def load(self, reference: Reference) -> bytes:
        return self.store.get(reference.kind, reference.oid)

    def root(self, session: Session, plan: TablePlan) -> ObjectId:
        return build_map(self.store, session.rows(plan, self.spill))

    def scan(self, database: SqliteDatabase, table: str, *key: str) -> ObjectId:
        with database.reading() as session:
            return self.root(session, plans_of(session, **({table: key} if key else {}))[table])

    def changes(self, old: ObjectId | None, new: ObjectId | None) -> Iterator[Change]:
        return diff_maps(self.store, old, new)
