"""How many rows changed, and were written, as text and JSON; needs nothing that reads rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gsync.replicas.tables.base import Applied
    from gsync.sync.comparetables import TableCounts


def counts_text(counts: TableCounts) -> str:
    """Return what changed in a table: `2 added, 1 modified; the schema changed`."""
    words = [
        f"{count:,} {word}"
        for count, word in (
            (counts.added, "added"),
            (counts.modified, "modified"),
            (counts.deleted, "deleted"),
        )
        if count
    ]
    return "; ".join([", ".join(words) or "no row changed", *counts.notes])


def table_stat(counts: TableCounts) -> str:
    """Return what changed in a table as a line beside those of files."""
    return f" {counts.collection} | {counts_text(counts)}"


def table_lines(tables: Iterable[TableCounts]) -> Iterator[str]:
    """Yield a line for each table that changed: `db/main/users: 2 added; 14 rows now`."""
    for counts in tables:
        if counts.changed:
            yield f"{counts.collection}: {counts_text(counts)}; {rows_word(counts.rows)} now"


def counts_json(counts: TableCounts) -> dict[str, Any]:
    """Return what changed in a table as JSON documents have it."""
    return {
        "collection": counts.collection,
        "rows": counts.rows,
        "added": counts.added,
        "modified": counts.modified,
        "deleted": counts.deleted,
        "notes": list(counts.notes),
    }


def rows_word(count: int) -> str:
    """Return `1 row`, `2,500 rows`."""
    return "1 row" if count == 1 else f"{count:,} rows"


def applied_lines(applied: Mapping[str, Applied], *, dry_run: bool) -> Iterator[str]:
    """Yield a line a table that was written: what the database itself counted."""
    verbs = _PLANNED if dry_run else _DONE
    for name, done in sorted(applied.items()):
        for table, counts in _by_table(done).items():
            words = [f"{count:,} {verbs[word]}" for word, count in counts.items() if count]
            if words:
                yield f"{name}/{table}: {', '.join(words)}"


_DONE = {"inserted": "inserted", "updated": "updated", "deleted": "deleted"}
_PLANNED = {"inserted": "to insert", "updated": "to update", "deleted": "to delete"}


def applied_json(applied: Mapping[str, Applied]) -> dict[str, Any]:
    """Return what was written as `{database: {table: {"inserted", "updated", "deleted"}}}`."""
    return {name: _by_table(done) for name, done in sorted(applied.items())}


def _by_table(applied: Applied) -> dict[str, dict[str, int]]:
    tables = {*applied.inserted, *applied.updated, *applied.deleted}
    return {
        table: {
            "inserted": applied.inserted.get(table, 0),
            "updated": applied.updated.get(table, 0),
            "deleted": applied.deleted.get(table, 0),
        }
        for table in sorted(tables)
    }
