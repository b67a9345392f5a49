"""The live tables that documents and rules are kept in, and repositories beside them."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support_cli import gsync_in, json_in, make_repository
from support_pg import Database

SCHEMA = (Path(__file__).parent / "systemprompt-content.sql").read_text()
SETTINGS = b"""version = 1
[db.main.tables.markdown_content]
key = ["source_id", "slug", "locale"]
local = ["id"]
volatile = ["updated_at"]

[db.main.tables.access_control_entities]
key = ["entity_type", "entity_id"]
volatile = ["created_at", "updated_at"]

[db.main.tables.access_control_rules]
key = ["entity_type", "entity_id", "rule_type", "rule_value"]
local = ["id"]
volatile = ["created_at", "updated_at"]
"""


@dataclass
class Side:
    """The live database."""

    url: str
    pg: Database | None = None

    def run(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        if self.pg is not None:
            with self.pg.connect(autocommit=True) as connection:
                cursor = connection.execute(statement.replace("?", "%s"), values or None)
                return cursor.fetchall() if cursor.description else []
        file = sqlite3.connect(self.url.removeprefix("sqlite:///"))
        try:
            found = file.execute(statement, values).fetchall()
            file.commit()
            return found
        finally:
            file.close()


def make_sqlite(path: Path) -> str:
    """Make a database with the tables, and return its URL."""
    file = sqlite3.connect(path)
    file.executescript(SCHEMA.replace("gen_random_uuid()::text", "(lower(hex(randomblob(16))))"))
    file.close()
    return f"sqlite:///{path}"


def make_local(folder: Path, url: str, files: dict[str, bytes], settings: bytes = SETTINGS) -> Path:
    """Make a repository that records the tables beside `files`."""
    make_repository(folder, {"gsync.toml": settings, **files})
    gsync_in(folder, "db", "add", url, "--yes")
    gsync_in(folder, "snapshot", "-m", "first")
    return folder


def local(folder: Path, *args: str, code: int = 0) -> Any:
    return json_in(folder, "local", *args, code=code)


def done(result: Any) -> tuple[int, ...]:
    """Return what was synced, skipped, skipped though on both sides, and deleted; and errors."""
    names = ("items_synced", "items_skipped", "items_skipped_modified", "items_deleted")
    return (*(result[name] for name in names), len(result["errors"]))
