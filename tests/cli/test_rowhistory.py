"""One row through time, and the rows that a condition lets through."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from support_cli import gsync_in, json_in, make_repository, refused

TABLE = """
CREATE TABLE posts (lang TEXT NOT NULL, id INTEGER NOT NULL, title TEXT, body TEXT,
  price NUMERIC TEXT, PRIMARY KEY (lang, id));
INSERT INTO posts VALUES ('en', 1, 'one', 'b', '9.5'), ('en', 2, 'two', NULL, '10.25'),
  ('de', 1, 'NULL', '', NULL);
"""


def edit(folder: Path, statement: str, message: str) -> str:
    """Change the table and record it; return the manifest."""
    with closing(sqlite3.connect(folder.parent / "app.db")) as db:
        db.executescript(statement)
    made: str = json_in(folder, "snapshot", "-m", message)["manifest"]
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with closing(sqlite3.connect(tmp_path / "app.db")) as db:
        db.executescript(TABLE)
    work = make_repository(tmp_path / "work", {})
    gsync_in(work, "db", "add", f"sqlite:///{tmp_path}/app.db", "--yes")
    return work


def test_a_row_has_a_history_and_its_cells_have_origins(folder: Path) -> None:
    """Manifests that changed other rows are not in it; a cell is from where it was last changed."""
    first = edit(folder, "", "first")
    edit(folder, "UPDATE posts SET body = 'x' WHERE lang = 'de'", "another row")
    second = edit(folder, "UPDATE posts SET title = 'uno' WHERE lang = 'en' AND id = 1", "title")
    third = edit(folder, "UPDATE posts SET body = 'c', price = '9.50' WHERE title = 'uno'", "body")
    (folder / "a.txt").write_bytes(b"1")
    gsync_in(folder, "snapshot")
    log = json_in(folder, "db", "log", "posts", "en,1")
    assert [change["manifest"] for change in log["changes"]] == [third, second, first]
    assert log["changes"][0]["row"]["cells"] == {"body": ["b", "c"], "price": ["9.5", "9.50"]}
    assert [change["row"]["status"] for change in log["changes"]] == ["modified"] * 2 + ["added"]
    blame = json_in(folder, "db", "blame", "main/posts", '["en", 1]')
    assert {column: cell["manifest"] for column, cell in blame["cells"].items()} == {
        "title": second, "body": third, "price": third
    }  # fmt: skip
    assert blame["cells"]["body"]["value"] == "c"
    assert not blame["cells"]["body"]["oldest"]
    text = gsync_in(folder, "db", "log", "posts", "en,1", "-n", "1").text
    assert "M db/main/posts ('en', 1)" in text
    assert "body: 'b' -> 'c'" in text
    assert "'uno'" in gsync_in(folder, "db", "blame", "posts", "en,1").text
    earlier = json_in(folder, "db", "blame", "posts", "en,1", second)
    assert earlier["cells"]["body"] == blame["cells"]["body"] | earlier["cells"]["body"]
    assert earlier["cells"]["body"]["manifest"] == first


def test_a_row_that_is_gone(folder: Path) -> None:
    """Its deletion and its return stand in the log; blame has nothing to say of it."""
    edit(folder, "", "first")
    gone = edit(folder, "DELETE FROM posts WHERE id = 2", "gone")
    message, hint = refused(folder, "db", "blame", "posts", "en,2", code=4)
    assert "no row posts('en', 2)" in message
    assert "db log" in hint
    back = edit(folder, "INSERT INTO posts VALUES ('en', 2, 'two', NULL, NULL)", "back")
    changes = json_in(folder, "db", "log", "posts", "en,2")["changes"]
    assert [(c["manifest"], c["row"]["status"]) for c in changes[:2]] == [
        (back, "added"),
        (gone, "deleted"),
    ]
    assert json_in(folder, "db", "blame", "posts", "en,2")["cells"]["title"]["manifest"] == back
    assert "has a row" in gsync_in(folder, "db", "log", "posts", "en,77").err
    refused(folder, "db", "log", "posts", "en", code=2)


def test_a_merge_is_in_the_log_only_where_it_made_the_row(folder: Path, tmp_path: Path) -> None:
    """Cells of two sides meet in a merge; each is from who changed it."""
    edit(folder, "", "first")
    ours = edit(folder, "UPDATE posts SET title = 'ours' WHERE id = 2", "ours")
    gsync_in(folder, "remote", "add", "origin", str(tmp_path / "bare"))
    gsync_in(folder, "push")
    gsync_in(tmp_path, "clone", str(tmp_path / "bare"), "two")
    with closing(sqlite3.connect(tmp_path / "two.db")) as db:
        db.executescript(TABLE)
    two = tmp_path / "two"
    gsync_in(two, "db", "add", f"sqlite:///{tmp_path}/two.db", "--yes")
    gsync_in(two, "db", "restore", "HEAD", "--force")
    with closing(sqlite3.connect(tmp_path / "two.db")) as db:
        db.executescript("UPDATE posts SET body = 'theirs' WHERE id = 2")
    theirs = json_in(two, "snapshot")["manifest"]
    edit(folder, "UPDATE posts SET price = '1' WHERE id = 2", "price")
    gsync_in(folder, "push")
    gsync_in(two, "sync")
    cells = json_in(two, "db", "blame", "posts", "en,2")["cells"]
    assert (cells["title"]["manifest"], cells["body"]["manifest"]) == (ours, theirs)
    changes = json_in(two, "db", "log", "posts", "en,2")["changes"]
    assert len(changes) == 5
    assert len(changes[0]["parents"]) == 2


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        (["id=1"], ["de1", "en1"]),
        (["id>1"], ["en2"]),
        (["price>=9.5"], ["en1", "en2"]),
        (["price<10"], ["en1"]),
        (["title=NULL"], []),
        (["title='NULL'"], ["de1"]),
        (["body=NULL"], ["en2"]),
        (["body!=NULL", "lang=en"], ["en1"]),
        (["body="], ["de1"]),
        (["lang != en"], ["de1"]),
        (["title>one"], ["en2"]),
    ],
)
def test_rows_are_chosen_by_conditions(folder: Path, where: list[str], ids: list[str]) -> None:
    edit(folder, "", "first")
    options = [part for text in where for part in ("--where", text)]
    rows = json_in(folder, "db", "show", "HEAD:posts", *options)["rows"]
    assert [f"{row['lang']}{row['id']}" for row in rows] == ids


def test_conditions_that_mean_nothing_are_refused(folder: Path) -> None:
    edit(folder, "", "first")
    for text, said in (
        ("nothing", "expected COLUMN=VALUE"),
        ("nope=1", "no column 'nope'"),
        ("id=x", "'x'"),
        ("id<NULL", "never so"),
    ):
        message, _ = refused(folder, "db", "show", "HEAD:posts", "--where", text, code=2)
        assert said in message
    shown = gsync_in(folder, "db", "show", "HEAD:posts", "--where", "id=1", "-n", "1")
    assert "1 more row" in shown.err
