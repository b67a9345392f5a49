"""A SQLite file seen from within one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from gsync.replicas.sqlite.inspect import list_tables
from gsync.replicas.sqlite.scan import scan_rows
from gsync.replicas.tables.base import LiveTable, TablePlan
from gsync.views.rows.values import SpillContent


class SqliteSession:
    """Fills `gsync.replicas.tables.base.Session`."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def tables(self) -> list[LiveTable]:
        """Return the tables of the file, in order of names."""
        return list_tables(self._db)

    def rows(self, plan: TablePlan, spill: SpillContent) -> Iterator[tuple[bytes, bytes]]:
        """Yield encoded key and encoded row of every row, in key order; see `scan_rows`."""
        return scan_rows(self._db, plan, spill)
