"""SQLite files as replicas of tables (12-databases)."""

from gsync.replicas.sqlite.connect import SqliteDatabase

__all__ = ["SqliteDatabase"]
