"""Postgres as a replica: its tables are scanned and written (12-databases).

psycopg is imported when a connection is opened, not before.
"""

from __future__ import annotations

from gsync.replicas.postgres.connect import PostgresDatabase, is_postgres_url


def open_database(url: str, password: str | None = None) -> PostgresDatabase:
    """Return the database at `url`; nothing is connected yet."""
    return PostgresDatabase(url, password)


__all__ = ["PostgresDatabase", "is_postgres_url", "open_database"]
