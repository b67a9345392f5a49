"""The Python of the README runs as it stands there, but for the addresses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support_pg import MakeDatabase
from support_server import running_server

README = (Path(__file__).parent.parent / "README.md").read_text()
SCHEMA = (Path(__file__).parent / "systemprompt.sql").read_text()
ROWS = """
INSERT INTO users (id, name, email) VALUES ('u1', 'ada', 'ada@example.org');
INSERT INTO user_contexts (context_id, user_id, name) VALUES ('c1', 'u1', 'First');
"""


def test_sync_all_of_the_readme(
    tmp_path: Path,
    make_database: MakeDatabase,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A folder goes to a server, and a database to another, and the second time nothing does."""
    match = re.search(r"<!-- test: sync_all -->\n```python\n(.*?)```", README, re.DOTALL)
    assert match is not None
    code = match[1]
    assert len(code.splitlines()) <= 10
    here, there = make_database(SCHEMA), make_database(SCHEMA)
    with here.connect() as connection:
        connection.execute(ROWS)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "services").mkdir()
    (tmp_path / "services" / "a.yaml").write_text("a: 1\n")
    with running_server(tmp_path / "data") as server:
        (tmp_path / "token").write_text(server.token("team"))
        for stands, meant in (
            ("http://127.0.0.1:8420", server.base),
            ("postgresql://me@localhost/app", here.url),
            ("postgresql://me@db.example.org/app", there.url),
        ):
            assert code.count(f'"{stands}"') == 1
            code = code.replace(stands, meant)
        for files, rows in ((1, 2), (0, 0)):
            exec(compile(code, "README.md", "exec"), {})
            said = capsys.readouterr().out.splitlines()
            assert said == [f"files_push completed {files}", f"database_push completed {rows}"]
    with there.connect() as connection:
        found = connection.execute("SELECT name, user_id FROM user_contexts").fetchall()
    assert found == [("First", "u1")]
