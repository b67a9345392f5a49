"""A SQLite file seen from within one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

from gsync.replicas.sqlite.inspect import list_tables
from gsync.replicas.sqlite.scan import present_keys, scan_rows
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

    def present(self, plan: TablePlan, keys: Sequence[bytes]) -> list[bytes]:
        """Return those of `keys` that a row has, whatever the scope."""
        return present_keys(self._db, plan, keys)
