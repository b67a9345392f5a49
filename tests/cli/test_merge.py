"""Two people and one remote: what merges, what is a conflict, and how it is decided."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from support_cli import gsync_in, json_in, make_repository, refused

LINES = b"".join(b"line %d\n" % n for n in range(20))
START = {"text": LINES, "gone": b"gone\n", "kept": b"kept\n", "data": b"\0one"}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two clones that have the same."""
    one = make_repository(tmp_path / "one", START)
    gsync_in(tmp_path, "init", "--bare", "there")
    gsync_in(one, "remote", "add", "origin", str(tmp_path / "there"))
    gsync_in(one, "push")
    gsync_in(tmp_path, "clone", str(tmp_path / "there"), "two")
    return one, tmp_path / "two"


def record(folder: Path, message: str = "edit", **content: bytes | None) -> None:
    for name, body in content.items():
        if body is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(body)
    gsync_in(folder, "snapshot", "-m", message)


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != "gsync.toml"
    }


def test_independent_edits_combine(pair: tuple[Path, Path]) -> None:
    """Deletions travel, other files and other lines of one file combine, and both end alike."""
    one, two = pair
    record(one, text=LINES.replace(b"line 3\n", b"three\n"), gone=None, new1=b"1")
    record(two, text=LINES.replace(b"line 15\n", b"fifteen\n"), new2=b"2")
    gsync_in(one, "push")
    message, hint = refused(two, "push", code=5)
    assert "somebody pushed first" in message
    assert "gsync sync origin" in hint
    would = json_in(two, "pull", "--dry-run")
    assert {c["key"] for c in would["changes"]} == {"gone", "new1", "text"}
    assert files(two)["gone"] == b"gone\n"
    gsync_in(two, "sync")
    gsync_in(one, "pull")
    merged = LINES.replace(b"line 3\n", b"three\n").replace(b"line 15\n", b"fifteen\n")
    expected = {"text": merged, "kept": b"kept\n", "data": b"\0one", "new1": b"1", "new2": b"2"}
    assert files(one) == files(two) == expected
    shown = json_in(two, "show")
    assert len(shown["parents"]) == 2
    assert json_in(one, "status")["remotes"]["origin"] == {"ahead": 0, "behind": 0}
    assert json_in(one, "verify")["problems"] == []


def test_conflicts_are_data_and_touch_nothing(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """The folder is as before until all is decided; each way to decide does what it says."""
    one, two = pair
    record(one, text=b"ours\n", gone=None, data=b"\0two", kept=b"kept 1\n", other=b"o")
    gsync_in(one, "push")
    record(two, text=b"theirs\n", gone=b"edited\n", data=b"\0three", kept=b"kept 2\n")
    before, head = files(two), json_in(two, "log", "-n", "1")["manifests"][0]["manifest"]
    pulled = gsync_in(two, "pull", code=1)
    assert "4 conflict(s)" in pulled.text
    assert files(two) == before
    assert json_in(two, "log", "-n", "1")["manifests"][0]["manifest"] == head
    found = json_in(two, "conflicts")
    assert {c["key"]: c["kind"] for c in found["conflicts"]} == {
        "data": "edit/edit",
        "gone": "edit/delete",
        "kept": "edit/edit",
        "text": "edit/edit",
    }
    assert json_in(two, "status")["merge"] == "origin/main"
    assert len(json_in(two, "status")["conflicts"]) == 4
    for command in (["snapshot", "-m", "x"], ["pull"], ["sync"], ["untrack", "kept"]):
        message, _ = refused(two, *command, code=5)
        assert "not finished" in message
    refused(two, "merge", "--continue", code=5)
    gsync_in(two, "resolve", "text", "--theirs")
    gsync_in(two, "resolve", "gone", "--delete")
    gsync_in(two, "resolve", "data", "--ours")
    (tmp_path / "mine").write_bytes(b"by hand\n")
    gsync_in(two, "resolve", "kept", "--file", str(tmp_path / "mine"))
    assert files(two) == before
    gsync_in(two, "gc")
    gsync_in(two, "merge", "--continue")
    expected = {"text": b"ours\n", "data": b"\0three", "kept": b"by hand\n", "other": b"o"}
    assert files(two) == expected
    assert json_in(two, "conflicts")["conflicts"] == []
    gsync_in(two, "push")
    gsync_in(one, "pull")
    assert files(one) == expected
    assert json_in(two, "verify")["problems"] == []


def test_abort_leaves_everything(pair: tuple[Path, Path]) -> None:
    """An aborted merge can be begun again; unsaved changes stay through both."""
    one, two = pair
    record(one, text=b"ours\n")
    gsync_in(one, "push")
    record(two, text=b"theirs\n")
    (two / "unsaved").write_bytes(b"u")
    gsync_in(two, "pull", code=1)
    gsync_in(two, "merge", "--abort")
    assert json_in(two, "conflicts")["merge"] is None
    gsync_in(two, "pull", code=1)
    gsync_in(two, "resolve", "--all", "--ours")
    gsync_in(two, "merge", "--continue")
    assert files(two)["text"] == b"theirs\n"
    assert files(two)["unsaved"] == b"u"


def test_file_against_directory(pair: tuple[Path, Path]) -> None:
    """A path that is a file here and a directory there is a conflict of all of them."""
    one, two = pair
    (one / "place").mkdir()
    (one / "place" / "a").write_bytes(b"a")
    record(one)
    gsync_in(one, "push")
    record(two, place=b"a file")
    gsync_in(two, "pull", code=1)
    kinds = {c["key"]: c["kind"] for c in json_in(two, "conflicts")["conflicts"]}
    assert kinds == {"place": "file/directory", "place/a": "file/directory"}
    gsync_in(two, "resolve", "place/a", "--theirs")
    gsync_in(two, "resolve", "place", "--ours")
    message, _ = refused(two, "merge", "--continue", code=2)
    assert "do not go together" in message
    gsync_in(two, "resolve", "place", "--delete")
    gsync_in(two, "merge", "--continue")
    assert (two / "place" / "a").read_bytes() == b"a"


class Tables:
    """Two repositories of one remote, each with a database of its own that holds the same."""

    def __init__(self, base: Path, table: str, rows: str) -> None:
        self._base = base
        self.run("one", table, rows)
        self.run("two", table)
        self.one, self.two = make_repository(base / "one", {}), base / "two"
        gsync_in(self.one, "db", "add", f"sqlite:///{base}/one.db", "--yes")
        gsync_in(self.one, "snapshot")
        gsync_in(base, "init", "--bare", "there")
        gsync_in(self.one, "remote", "add", "origin", str(base / "there"))
        gsync_in(self.one, "push")
        gsync_in(base, "clone", str(base / "there"), "two")
        gsync_in(self.two, "db", "add", f"sqlite:///{base}/two.db", "--yes")
        gsync_in(self.two, "db", "restore", "HEAD")

    def run(self, name: str, *statements: str) -> None:
        with sqlite3.connect(self._base / f"{name}.db") as db:
            for statement in statements:
                db.execute(statement)
        db.close()

    def rows(self, name: str, query: str) -> list[tuple[object, ...]]:
        with sqlite3.connect(self._base / f"{name}.db") as db:
            found = db.execute(query).fetchall()
        db.close()
        return found


def test_rows_merge_by_cell(tmp_path: Path) -> None:
    """Other rows and other cells of one row combine; one cell on both sides is a conflict."""
    tables = Tables(
        tmp_path,
        "CREATE TABLE users (id INTEGER PRIMARY KEY NOT NULL, a TEXT, b TEXT)",
        "INSERT INTO users SELECT value, 'a', 'b' FROM json_each('[1, 2, 3, 4]')",
    )
    one, two, run = tables.one, tables.two, tables.run

    def rows(name: str) -> list[tuple[object, ...]]:
        return tables.rows(name, "SELECT * FROM users ORDER BY id")

    run("one", "UPDATE users SET a = 'one' WHERE id IN (1, 2)")
    run("one", "DELETE FROM users WHERE id = 4")
    run("two", "UPDATE users SET b = 'two' WHERE id = 1")
    run("two", "UPDATE users SET a = 'two', b = 'two' WHERE id = 2")
    run("two", "INSERT INTO users VALUES (5, 'new', NULL)")
    gsync_in(one, "snapshot")
    gsync_in(one, "push")
    before = rows("two")
    gsync_in(two, "sync", code=1)
    assert rows("two") == before
    (conflict,) = json_in(two, "conflicts")["conflicts"]
    assert (conflict["collection"], conflict["key"]) == ("db/main/users", [2])
    assert conflict["cells"] == {"a": {"base": "a", "ours": "two", "theirs": "one"}}
    assert "a: ours 'two', theirs 'one'" in gsync_in(two, "conflicts").text
    refused(two, "resolve", "--in", "users", "2", "--cell", "c=ours", code=2)
    gsync_in(two, "resolve", "--in", "users", "2", "--cell", "a=theirs", "--cell", "b=ours")
    gsync_in(two, "merge", "--continue")
    expected = [(1, "one", "two"), (2, "one", "two"), (3, "a", "b"), (5, "new", None)]
    assert rows("two") == expected
    gsync_in(two, "push")
    gsync_in(one, "pull")
    assert rows("one") == expected
    assert json_in(one, "snapshot")["manifest"] is None


def test_an_unfinished_merge_is_not_built_on(pair: tuple[Path, Path]) -> None:
    """Its manifest can be named, but neither merged nor moved to: nobody decided it."""
    one, two = pair
    record(one, text=b"ours\n")
    gsync_in(one, "push")
    record(two, text=b"theirs\n")
    gsync_in(two, "pull", code=1)
    gsync_in(two, "tag", "half", "merge/unfinished")
    assert "merge of origin/main" in gsync_in(two, "merge", "--abort", "--dry-run").text
    gsync_in(two, "merge", "--abort")
    refused(two, "merge", "--abort", "--dry-run", code=4)
    message, _ = refused(two, "merge", "half", code=2)
    assert "unfinished" in message
    record(two, kept=b"on top\n")
    refused(two, "merge", "half", code=2)
    gsync_in(two, "pull", code=1)


def test_bare_store_merges_without_a_folder(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """In a bare store HEAD moves, forward or by a merge, and no file is written."""
    one, _ = pair
    gsync_in(tmp_path, "init", "--bare", "bare")
    bare = tmp_path / "bare"
    gsync_in(bare, "remote", "add", "origin", str(one))
    before = sorted(path.name for path in bare.iterdir())
    gsync_in(bare, "fetch")
    gsync_in(bare, "merge", "origin/main")
    assert sorted(path.name for path in bare.iterdir()) == before
    record(one, text=b"new\n")
    gsync_in(bare, "fetch")
    gsync_in(bare, "merge", "origin/main")
    assert sorted(path.name for path in bare.iterdir()) == before
    assert gsync_in(bare, "cat", "HEAD:text").out == b"new\n"


def test_rows_in_conflict_are_decided_by_what_fits(tmp_path: Path) -> None:
    """--cell keeps what merges of the row, a file is no row, and any key can be named."""
    tables = Tables(
        tmp_path,
        "CREATE TABLE t (k TEXT NOT NULL, n INTEGER NOT NULL, a TEXT, b TEXT, c TEXT,"
        " PRIMARY KEY (k, n))",
        "INSERT INTO t VALUES ('x,y', 1, 'a', 'b', 'c'), ('z', 2, 'a', 'b', 'c')",
    )
    one, two, run = tables.one, tables.two, tables.run
    run("one", "UPDATE t SET a = 'one', b = 'one'")
    run("two", "UPDATE t SET a = 'two', c = 'two'")
    gsync_in(one, "snapshot")
    gsync_in(one, "push")
    gsync_in(two, "sync", code=1)
    (tmp_path / "row").write_bytes(b"no row")
    message, _ = refused(two, "resolve", "--in", "t", "z,2", "--file", "../row", code=2)
    assert "--file decides a file" in message
    gsync_in(two, "resolve", "--in", "t", "z,2", "--cell", "a=theirs")
    gsync_in(two, "resolve", "--in", "t", '["x,y", 1]', "--cell", "a=ours")
    gsync_in(two, "merge", "--continue")
    found = tables.rows("two", "SELECT * FROM t ORDER BY n")
    assert found == [("x,y", 1, "two", "one", "two"), ("z", 2, "one", "one", "two")]
    assert json_in(two, "verify")["problems"] == []
    assert json_in(two, "snapshot")["manifest"] is None


def test_unsaved_changes_at_the_end_of_a_merge(pair: tuple[Path, Path]) -> None:
    """They stay, and the hint names a way that is open; both sides are kept until the end."""
    one, two = pair
    record(one, text=b"ours\n")
    gsync_in(one, "push")
    record(two, text=b"theirs\n")
    gsync_in(two, "pull", code=1)
    theirs = json_in(two, "conflicts")["theirs"]
    record(one, kept=b"later\n")
    gsync_in(one, "push")
    gsync_in(two, "fetch")
    message, _ = refused(two, "forget", theirs, "--reason", "x", code=2)
    assert "merge that is not finished" in message
    gsync_in(two, "resolve", "text", "--theirs")
    (two / "text").write_bytes(b"unsaved\n")
    _, hint = refused(two, "merge", "--continue", code=5)
    assert "gsync merge --abort" in hint
    assert (two / "text").read_bytes() == b"unsaved\n"
    (two / "text").write_bytes(b"theirs\n")
    gsync_in(two, "merge", "--continue")
    assert (two / "text").read_bytes() == b"ours\n"


def test_a_whole_table_goes_by_its_short_name(tmp_path: Path) -> None:
    """A table that one side has dropped and the other changed is decided as a whole."""
    tables = Tables(
        tmp_path,
        "CREATE TABLE t (k INTEGER PRIMARY KEY NOT NULL)",
        "DELETE FROM t",
    )
    one, two = tables.one, tables.two
    gsync_in(two, "collection", "remove", "db/main/t")
    tables.run("one", "INSERT INTO t VALUES (7)")
    gsync_in(one, "snapshot")
    gsync_in(one, "push")
    gsync_in(two, "pull", code=1)
    (conflict,) = json_in(two, "conflicts")["conflicts"]
    assert (conflict["kind"], conflict["key"]) == ("delete/edit", None)
    gsync_in(two, "resolve", "--in", "t", "t", "--theirs")
    message, _ = refused(two, "resolve", "--in", "t", "7", "--ours", code=4)
    assert message.isprintable()
    assert "7" in message
    gsync_in(two, "merge", "--continue")
    assert "db/main/t: 1 row" in gsync_in(two, "show").text


def test_policies_settle_what_both_changed(tmp_path: Path) -> None:
    """What `gsync.toml` says of a column is done by `sync`; the rest is a conflict as ever."""
    tables = Tables(
        tmp_path,
        "CREATE TABLE posts (id INTEGER PRIMARY KEY NOT NULL, body TEXT, views INTEGER, at INTEGER,"
        " status TEXT, done INTEGER)",
        "INSERT INTO posts SELECT value, 'a\nb\nc\n', 10, 1, 'open', 0 FROM json_each('[1, 2]')",
    )
    one, two = tables.one, tables.two
    toml = (one / "gsync.toml").read_text().replace(
        "[db.main.tables.posts]",
        '[db.main.tables.posts]\ntogether = [["status", "done"]]\n'
        'merge = { body = "text3", views = "counter", status = "latest(at)" }',
    )  # fmt: skip
    (one / "gsync.toml").write_text(toml)
    gsync_in(one, "snapshot", "-m", "policies")
    gsync_in(one, "push")
    gsync_in(two, "pull")
    edit = "UPDATE posts SET body = replace(body, '{0}', '{1}'), views = views + {2}, at = {2}"
    tables.run("one", edit.format("a", "A", 3) + ", done = 1 WHERE id = 1")
    tables.run("two", edit.format("c", "C", 5) + ", status = 'closed' WHERE id = 1")
    tables.run("one", "UPDATE posts SET done = 2 WHERE id = 2")
    tables.run("two", "UPDATE posts SET done = 3 WHERE id = 2")
    gsync_in(one, "snapshot")
    gsync_in(one, "push")
    gsync_in(two, "sync", code=1)
    (conflict,) = json_in(two, "conflicts")["conflicts"]
    assert (conflict["key"], list(conflict["cells"])) == ([2], ["done"])
    gsync_in(two, "resolve", "--in", "posts", "2", "--theirs")
    gsync_in(two, "merge", "--continue")
    gsync_in(two, "push")
    gsync_in(one, "pull")
    expected = [(1, "A\nb\nC\n", 18, 5, "closed", 0), (2, "a\nb\nc\n", 10, 1, "open", 2)]
    for name in ("one", "two"):
        assert tables.rows(name, "SELECT * FROM posts ORDER BY id") == expected


@pytest.mark.parametrize("side", ["one", "two"])
def test_a_policy_that_one_side_has_just_got_counts(tmp_path: Path, side: str) -> None:
    """What was agreed on one side since the last common manifest holds for the merge."""
    tables = Tables(
        tmp_path,
        "CREATE TABLE posts (id INTEGER PRIMARY KEY NOT NULL, views INTEGER)",
        "INSERT INTO posts VALUES (1, 10)",
    )
    toml = (tables.one if side == "one" else tables.two) / "gsync.toml"
    section = "[db.main.tables.posts]"
    toml.write_text(
        toml.read_text().replace(section, f'{section}\nmerge = {{ views = "counter" }}')
    )
    tables.run("one", "UPDATE posts SET views = views + 3")
    tables.run("two", "UPDATE posts SET views = views + 5")
    for folder in (tables.one, tables.two, tables.one):
        gsync_in(folder, "sync")
    for name in ("one", "two"):
        assert tables.rows(name, "SELECT * FROM posts") == [(1, 18)]


def test_a_policy_that_settles_nothing_is_refused(tmp_path: Path) -> None:
    """A policy for a column that is not there, or of a type that it does not go with."""
    tables = Tables(
        tmp_path, "CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, a BLOB)", "SELECT 1"
    )
    toml = tables.one / "gsync.toml"
    before = toml.read_text()
    for policy, said in (
        ('a = "max"', "max does not go with a, a bytes"),
        ('b = "ours"', "no column b, for ours"),
        ('a = "latest(b)"', "no column b, for latest(b)"),
    ):
        added = f"[db.main.tables.t]\nmerge = {{ {policy} }}"
        toml.write_text(before.replace("[db.main.tables.t]", added))
        message, _ = refused(tables.one, "snapshot", code=2)
        assert said in message
