"""A SQLite file seen from within one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

from gsync.replicas.sqlite.inspect import list_tables
from gsync.replicas.sqlite.scan import present_keys, scan_rows
from gsync.replicas.tables.base import Fingerprint, LiveTable, TablePlan
from gsync.views.rows.values import SpillContent, name_content


class SqliteSession:
    """Fills `gsync.replicas.tables.base.Session`."""

    def __init__(self, db: sqlite3.Connection, content: bytes | None = None) -> None:
        """Take an open transaction.

        Args:
            content: The hash of the file that it sees, where that is known.
        """
        self._db = db
        self._content = content

    def fingerprint(self, plan: TablePlan) -> Fingerprint | None:
        """Return the hash of the file: of all tables, since a file has no other that is true."""
        return Fingerprint(b"", self._content) if self._content is not None else None

    def rows_since(
        self, plan: TablePlan, spill: SpillContent, bound: int
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield all rows: a file does not say which ones are new."""
        return self.rows(plan, spill)

    def keys(self, plan: TablePlan) -> Iterator[bytes]:
        """Yield the encoded key of every row, in order."""
        return (key for key, _ in self.rows(plan, name_content))

    def tables(self) -> list[LiveTable]:
        """Return the tables of the file, in order of names."""
        return list_tables(self._db)

    def rows(self, plan: TablePlan, spill: SpillContent) -> Iterator[tuple[bytes, bytes]]:
        """Yield encoded key and encoded row of every row, in key order; see `scan_rows`."""
        return scan_rows(self._db, plan, spill)

    def present(self, plan: TablePlan, keys: Sequence[bytes]) -> list[bytes]:
        """Return those of `keys` that a row has, whatever the scope."""
        return present_keys(self._db, plan, keys)
