"""A live database with the tables of documents and rules, of either engine."""

from __future__ import annotations

from pathlib import Path

import pytest
from support_local import SCHEMA, Side, make_sqlite
from support_pg import MakeDatabase


@pytest.fixture(params=["sqlite", "postgres"])
def side(request: pytest.FixtureRequest, tmp_path: Path) -> Side:
    """Give an empty database."""
    if request.param == "postgres":
        make: MakeDatabase = request.getfixturevalue("make_database")
        database = make(SCHEMA)
        return Side(database.url, database)
    return Side(make_sqlite(tmp_path / "c.db"))
