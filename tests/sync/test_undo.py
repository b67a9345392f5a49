"""Every command that changed refs, folder or tables is undone, and an undo too."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support_cli import gsync_in, head, json_in, make_repository, read_tree, refused, start, write
from support_pg import MakeDatabase
from support_tables import SCHEMA, Live, State, attach, generation, pair, recorded

from gsync.sync.service import SyncConfig, SyncService

FILES = {"a.txt": b"a1\n", "b.txt": b"b1\n", "d/c.txt": b"c1\n"}
Tree = dict[bytes, tuple[str, bytes]]


def ops(folder: Path) -> list[dict[str, Any]]:
    return list(json_in(folder, "ops", "-n", "100")["operations"])


def undo(folder: Path, *args: str, code: int = 0) -> Any:
    return json_in(folder, "undo", *args, code=code)


def refs(folder: Path) -> dict[str, str]:
    return dict(json_in(folder, "refs")["refs"])


def own_refs(folder: Path) -> dict[str, str]:
    return {name: oid for name, oid in refs(folder).items() if not name.startswith("origin/")}


def check_whole(folder: Path) -> None:
    assert json_in(folder, "verify")["problems"] == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository with two snapshots."""
    made = make_repository(tmp_path / "folder", FILES)
    write(made, {"a.txt": b"a2\n"})
    gsync_in(made, "snapshot", "-m", "second")
    return made


@pytest.fixture
def clones(tmp_path: Path) -> tuple[Path, Path]:
    """Two clones of one bare store that have the same."""
    one = make_repository(tmp_path / "one", FILES)
    gsync_in(tmp_path, "init", "--bare", "there")
    gsync_in(one, "remote", "add", "origin", str(tmp_path / "there"))
    gsync_in(one, "push")
    gsync_in(tmp_path, "clone", str(tmp_path / "there"), "two")
    return one, tmp_path / "two"


def push_edit(folder: Path, **content: bytes) -> None:
    write(folder, {name.replace("_", "."): body for name, body in content.items()})
    gsync_in(folder, "snapshot", "-m", "edit")
    gsync_in(folder, "push")


# --- Each command, undone and redone -----------------------------------------------------


def edit_and_snapshot(folder: Path) -> None:
    gsync_in(folder, "snapshot", "-m", "third")


def make_tarball(folder: Path) -> Path:
    other = make_repository(folder.parent / "other", {"a.txt": b"imported\n", "new": b"new\n"})
    gsync_in(other, "export", "-o", "../other.tar.gz")
    return folder.parent / "other.tar.gz"


COMMANDS: dict[str, Callable[[Path], Any]] = {
    "a snapshot of edits, additions and deletions": edit_and_snapshot,
    "a restore of one path over an unsaved edit": lambda f: gsync_in(
        f, "restore", "--force", "a.txt"
    ),
    "a restore of everything from an older manifest": lambda f: gsync_in(
        f, "restore", "--force", "HEAD~1"
    ),
    "a restore of a deleted path": lambda f: gsync_in(f, "restore", "b.txt"),
    "an import": lambda f: (
        gsync_in(f, "restore", "--force"),
        gsync_in(f, "import", str(make_tarball(f))),
    ),
    "a tag": lambda f: gsync_in(f, "tag", "v1"),
    "an untrack": lambda f: gsync_in(f, "untrack", "d/c.txt"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_undone_and_redone(folder: Path, name: str) -> None:
    """After an undo folder and refs are as before the command; undoing that, as after it."""
    write(folder, {"a.txt": b"unsaved\n", "e.txt": b"added\n"})
    (folder / "b.txt").unlink()
    if name == "an import":
        gsync_in(folder, "restore", "--force")
    before = read_tree(folder), refs(folder)
    COMMANDS[name](folder)
    after = read_tree(folder), refs(folder)
    assert after != before
    done = undo(folder)
    assert (read_tree(folder), refs(folder)) == before
    undo(folder, str(done["operation"]))
    assert (read_tree(folder), refs(folder)) == after
    undo(folder, str(ops(folder)[0]["operation"]))
    assert (read_tree(folder), refs(folder)) == before
    check_whole(folder)


def test_a_pull_is_undone(clones: tuple[Path, Path]) -> None:
    """The folder is as before; main, which is published, gets the old content on top."""
    one, two = clones
    push_edit(one, a_txt=b"a2\n", new_txt=b"new\n")
    before, old = read_tree(two), head(two)
    gsync_in(two, "pull")
    after, pulled = read_tree(two), head(two)
    done = undo(two)
    assert read_tree(two) == before
    assert json_in(two, "show", "HEAD")["parents"] == [pulled]
    assert json_in(two, "diff", old, "HEAD")["changes"] == []
    assert json_in(two, "status")["changes"] == []
    # The remote takes it as any push, and the other clone follows.
    gsync_in(two, "push")
    gsync_in(one, "pull")
    assert read_tree(one) == before
    undo(two, str(done["operation"]))
    assert read_tree(two) == after
    check_whole(two)


def test_a_pull_that_was_undone_stays_away(clones: tuple[Path, Path]) -> None:
    """Pulling again does not bring back what an undo took out."""
    one, two = clones
    push_edit(one, a_txt=b"a2\n")
    gsync_in(two, "pull")
    undo(two)
    before = read_tree(two)
    gsync_in(two, "pull")
    assert read_tree(two) == before


def test_a_merge_is_undone(clones: tuple[Path, Path]) -> None:
    """A merge was not published, so main goes back to what it was."""
    one, two = clones
    push_edit(one, a_txt=b"a2\n")
    write(two, {"b.txt": b"b2\n"})
    gsync_in(two, "snapshot", "-m", "mine")
    before = read_tree(two), own_refs(two)
    gsync_in(two, "pull")
    after = read_tree(two), own_refs(two)
    done = undo(two)
    assert (read_tree(two), own_refs(two)) == before
    undo(two, str(done["operation"]))
    assert (read_tree(two), own_refs(two)) == after


def test_a_sync_is_one_operation(clones: tuple[Path, Path]) -> None:
    """Snapshot, pull and push of a sync are undone at once, and what was unsaved is again."""
    one, two = clones
    push_edit(one, a_txt=b"a2\n")
    write(two, {"b.txt": b"b2\n"})
    before = read_tree(two)
    gsync_in(two, "sync")
    assert [one["command"] for one in ops(two)][:1] == ["sync"]
    undo(two)
    assert read_tree(two) == before
    gsync_in(two, "snapshot", "-m", "again")
    gsync_in(two, "push")
    gsync_in(one, "pull")
    assert read_tree(one) == before


def test_a_published_snapshot_is_never_moved_back(clones: tuple[Path, Path]) -> None:
    """The old content comes on top of what was pushed, and a plain push takes it there."""
    one, two = clones
    push_edit(one, a_txt=b"a2\n", new_txt=b"new\n")
    published, tree = head(one), read_tree(one)
    undo(one)
    assert json_in(one, "show", "HEAD")["parents"] == [published]
    assert json_in(one, "diff", "HEAD~2", "HEAD")["changes"] == []
    # As before the snapshot: the folder has the edits, and they are not recorded.
    assert read_tree(one) == tree
    assert {c["key"] for c in json_in(one, "status")["changes"]} == {"a.txt", "new.txt"}
    gsync_in(one, "push")
    gsync_in(two, "pull")
    assert (two / "a.txt").read_bytes() == b"a1\n"
    assert not (two / "new.txt").exists()


def test_the_first_snapshot(tmp_path: Path) -> None:
    """Undone, there is no main, and the folder is as it was."""
    folder = make_repository(tmp_path / "folder", FILES)
    before = read_tree(folder)
    done = undo(folder)
    assert "main" not in refs(folder)
    assert read_tree(folder) == before
    undo(folder, str(done["operation"]))
    assert json_in(folder, "status")["changes"] == []


def test_deleting_a_tag(folder: Path) -> None:
    """The tag is there again."""
    gsync_in(folder, "tag", "v1")
    before = refs(folder)
    gsync_in(folder, "tag", "--delete", "v1")
    undo(folder)
    assert refs(folder) == before


def test_untrack_of_an_ignored_path(folder: Path) -> None:
    """Undone, the path is tracked again: an edit of it shows."""
    write(folder, {".gsyncignore": b"d/\n"})
    gsync_in(folder, "snapshot", "-m", "rules")
    gsync_in(folder, "untrack", "d/c.txt")
    assert json_in(folder, "status")["changes"] == []
    undo(folder)
    assert json_in(folder, "status")["changes"] == []
    write(folder, {"d/c.txt": b"edited\n"})
    assert [c["key"] for c in json_in(folder, "status")["changes"]] == ["d/c.txt"]


# --- What was changed since --------------------------------------------------------------


def test_unsaved_edits_stay(clones: tuple[Path, Path]) -> None:
    """Edits that nobody recorded are in the folder after the undo, and can be had back alone."""
    one, two = clones
    push_edit(one, a_txt=b"a2\n")
    gsync_in(two, "pull")
    write(two, {"b.txt": b"unsaved\n", "e.txt": b"added\n"})
    live = read_tree(two)
    done = undo(two)
    assert read_tree(two) == live | {b"a.txt": ("file", b"a1\n")}
    gsync_in(two, "restore", done["saved"], "--to", "../saved")
    assert read_tree(two.parent / "saved") == live
    undo(two, str(done["operation"]))
    assert read_tree(two) == live


def test_an_overwritten_edit_comes_back(folder: Path) -> None:
    """A forced restore keeps what it overwrites."""
    write(folder, {"a.txt": b"unsaved\n"})
    gsync_in(folder, "restore", "--force")
    assert (folder / "a.txt").read_bytes() == b"a2\n"
    write(folder, {"b.txt": b"later\n"})
    undo(folder)
    assert (folder / "a.txt").read_bytes() == b"unsaved\n"
    assert (folder / "b.txt").read_bytes() == b"later\n"


def test_restored_directory_shows(folder: Path) -> None:
    """A file that comes back in a directory that was gone is an addition, and is recorded."""
    shutil.rmtree(folder / "d")
    gsync_in(folder, "snapshot", "-m", "without")
    gsync_in(folder, "restore", "HEAD~1", "d/c.txt")
    assert [(c["key"], c["status"]) for c in json_in(folder, "status")["changes"]] == [
        ("d/c.txt", "added")
    ]
    gsync_in(folder, "snapshot", "-m", "with")
    assert gsync_in(folder, "cat", "HEAD:d/c.txt").out == FILES["d/c.txt"]


def test_an_older_operation(folder: Path) -> None:
    """Its changes go, those of later operations stay, lines of one file included."""
    lines = [b"%d\n" % n for n in range(10)]
    write(folder, {"text": b"".join(lines)})
    gsync_in(folder, "snapshot", "-m", "third")
    other = make_repository(
        folder.parent / "other", {**FILES, "a.txt": b"a2\n", "text": b"ONE\n" + b"".join(lines[1:])}
    )
    gsync_in(other, "export", "-o", "../other.tar.gz")
    gsync_in(folder, "import", "../other.tar.gz")
    imported = ops(folder)[0]["operation"]
    write(folder, {"text": b"ONE\n" + b"".join(lines[1:9]) + b"NINE\n", "b.txt": b"b2\n"})
    gsync_in(folder, "snapshot", "-m", "later")
    later = head(folder)
    undo(folder, str(imported))
    assert (folder / "text").read_bytes() == b"".join(lines[:9]) + b"NINE\n"
    assert (folder / "b.txt").read_bytes() == b"b2\n"
    assert json_in(folder, "show", "HEAD")["parents"] == [later]
    assert json_in(folder, "status")["changes"] == []


def conflicting(folder: Path) -> tuple[int, Tree]:
    """Return an operation whose change was changed again since, unsaved."""
    gsync_in(folder, "import", str(make_tarball(folder)))
    write(folder, {"a.txt": b"changed since\n", "e.txt": b"unsaved\n"})
    return int(ops(folder)[0]["operation"]), read_tree(folder)


def test_a_conflict_is_kept_and_resolved(folder: Path) -> None:
    """Nothing live changes, what is live is recorded, and continuing finishes the undo."""
    number, live = conflicting(folder)
    done = undo(folder, str(number), code=1)
    assert done["conflicts"] == 1
    assert read_tree(folder) == live
    assert json_in(folder, "status")["changes"] == []
    found = json_in(folder, "conflicts")
    assert [(c["key"], c["kind"]) for c in found["conflicts"]] == [("a.txt", "edit/edit")]
    assert not next(o for o in ops(folder) if o["operation"] == number)["undone"]
    gsync_in(folder, "resolve", "a.txt", "--base")
    gsync_in(folder, "merge", "--continue")
    assert (folder / "a.txt").read_bytes() == b"imported\n"
    assert not (folder / "new").exists()
    assert (folder / "b.txt").read_bytes() == b"b1\n"
    assert (folder / "e.txt").read_bytes() == b"unsaved\n"
    assert next(o for o in ops(folder) if o["operation"] == number)["undone"]
    check_whole(folder)


def test_a_conflict_is_aborted(folder: Path) -> None:
    """Aborting leaves the operation as it was; undoing both leaves everything as it was."""
    number, live = conflicting(folder)
    before = refs(folder)
    undo(folder, str(number), code=1)
    waiting = refs(folder)
    gsync_in(folder, "merge", "--abort")
    assert read_tree(folder) == live
    assert not next(o for o in ops(folder) if o["operation"] == number)["undone"]
    undo(folder)
    assert refs(folder) == waiting
    assert len(json_in(folder, "conflicts")["conflicts"]) == 1
    undo(folder)
    assert refs(folder) == before
    assert read_tree(folder) == live


def test_merge_commands(clones: tuple[Path, Path]) -> None:
    """A pull with conflicts, a resolve and a continued merge are undone one by one."""
    one, two = clones
    push_edit(one, a_txt=b"theirs\n")
    write(two, {"a.txt": b"ours\n"})
    gsync_in(two, "snapshot", "-m", "mine")
    states = [(read_tree(two), own_refs(two))]
    for command in (
        ["pull"],
        ["resolve", "a.txt", "--theirs"],
        ["merge", "--continue"],
    ):
        gsync_in(two, *command, code=1 if command == ["pull"] else 0)
        states.append((read_tree(two), own_refs(two)))
    for state in reversed(states[:-1]):
        undo(two)
        assert (read_tree(two), own_refs(two)) == state
    check_whole(two)


def test_another_operation_waits_for_the_merge(clones: tuple[Path, Path]) -> None:
    """While a merge waits, an operation that moved main is not undone."""
    one, two = clones
    push_edit(one, a_txt=b"theirs\n")
    write(two, {"a.txt": b"ours\n"})
    gsync_in(two, "snapshot", "-m", "mine")
    mine = ops(two)[0]["operation"]
    gsync_in(two, "pull", code=1)
    message, _ = refused(two, "undo", str(mine), code=5)
    assert "not finished" in message


# --- What cannot be undone ---------------------------------------------------------------


def test_refusals(clones: tuple[Path, Path]) -> None:
    """Each says why, and nothing changes."""
    one, two = clones
    push_edit(one, a_txt=b"a2\n")
    gsync_in(two, "fetch")
    assert "seen" in refused(two, "undo", str(ops(two)[0]["operation"]), code=5)[0]
    clone = ops(two)[-1]
    assert clone["command"] == "clone"
    assert "remove the folder" in refused(two, "undo", str(clone["operation"]), code=5)[0]
    assert "no operation 99" in refused(two, "undo", "99", code=4)[0]
    gsync_in(two, "undo", code=4)


def test_undone_twice(folder: Path) -> None:
    """A second undo of one operation is refused, and names the undo to undo."""
    number = ops(folder)[0]["operation"]
    done = undo(folder)
    message, hint = refused(folder, "undo", str(number), code=5)
    assert "undone already" in message
    assert f"gsync undo {done['operation']}" in hint


def test_forgotten_history(folder: Path) -> None:
    """What was dropped on purpose is not undone to, and the error says so."""
    first = json_in(folder, "log")["manifests"][-1]["manifest"]
    gsync_in(folder, "forget", first, "--reason", "test")
    number = next(o["operation"] for o in ops(folder) if o["command"] == "snapshot")
    assert "forgotten" in refused(folder, "undo", str(number), code=4)[0]
    assert [o["command"] for o in ops(folder)][:1] == ["forget"]
    assert not ops(folder)[0]["can_be_undone"]


def test_nothing_is_noted_where_nothing_changed(folder: Path) -> None:
    """Dry runs, looks and refused commands leave no operation."""
    before = ops(folder)
    write(folder, {"a.txt": b"unsaved\n"})
    gsync_in(folder, "snapshot", "--dry-run")
    gsync_in(folder, "restore", "--force", "--dry-run")
    gsync_in(folder, "undo", "--dry-run")
    gsync_in(folder, "status")
    refused(folder, "restore", "a.txt", code=5)
    assert ops(folder) == before


def test_dry_run_says_what_would_change(folder: Path) -> None:
    """And changes nothing."""
    gsync_in(folder, "restore", "HEAD~1")
    before = read_tree(folder), refs(folder)
    done = undo(folder, "--dry-run")
    assert [c["key"] for c in done["changes"]] == ["a.txt"]
    assert (read_tree(folder), refs(folder)) == before
    assert undo(folder)["changes"] == done["changes"]


# --- The list ----------------------------------------------------------------------------


def test_operations_are_listed(clones: tuple[Path, Path]) -> None:
    """Newest first, with what they changed and whether they are undone."""
    one, two = clones
    push_edit(one, a_txt=b"a2\n")
    gsync_in(two, "pull")
    gsync_in(two, "tag", "v1")
    done = undo(two)
    found = ops(two)
    assert [o["command"] for o in found] == ["undo", "tag", "pull", "clone"]
    assert [o["undone"] for o in found] == [False, True, False, False]
    assert [o["operation"] for o in found] == [4, 3, 2, 1]
    assert found[0]["undoes"] == 3 == done["undone"]
    assert set(found[2]["refs"]) == {"main"}
    assert set(found[2]["seen"]) == {"origin/main"}
    shown = json_in(two, "ops", "show", "2")
    assert [c["key"] for c in shown["changes"]] == ["a.txt"]
    assert json_in(two, "ops", "2") == shown
    text = gsync_in(two, "ops", "-n", "2").text
    assert len(text.splitlines()) == 2
    assert "(undone)" in text
    assert "M a.txt" in gsync_in(two, "ops", "2").text


def test_collected_store(folder: Path) -> None:
    """A collection keeps all that operations name, so that every one can still be undone."""
    write(folder, {"a.txt": b"unsaved\n"})
    live = read_tree(folder)
    gsync_in(folder, "restore", "--force")
    gsync_in(folder, "gc")
    check_whole(folder)
    undo(folder)
    assert read_tree(folder) == live


def test_old_operations_go(folder: Path) -> None:
    """A collection drops operations beyond the limit, and what they alone named."""
    with (folder / ".gsync/config.toml").open("a") as config:
        config.write("\n[limits]\nops_max = 2\n")
    write(folder, {"a.txt": b"a secret that was overwritten\n"})
    gsync_in(folder, "restore", "--force")
    captured = json_in(folder, "ops", str(ops(folder)[0]["operation"]))["live"]["before"]
    gsync_in(folder, "tag", "v1")
    gsync_in(folder, "tag", "v2")
    gsync_in(folder, "gc")
    assert [o["command"] for o in ops(folder)] == ["gc", "tag", "tag"]
    refused(folder, "show", captured, code=4)


def test_bare_store(tmp_path: Path) -> None:
    """There are only refs; main never goes back, since others fetch it from here."""
    bare = tmp_path / "bare"
    gsync_in(tmp_path, "init", "--bare", "bare")
    one = make_repository(tmp_path / "one", FILES)
    gsync_in(one, "export", "-o", "../one.tar.gz")
    gsync_in(bare, "import", "../one.tar.gz")
    first = head(bare)
    write(one, {"a.txt": b"a2\n"})
    gsync_in(one, "snapshot", "-m", "second")
    gsync_in(one, "export", "-o", "../two.tar.gz")
    gsync_in(bare, "import", "../two.tar.gz")
    second = head(bare)
    gsync_in(bare, "tag", "v1")
    undo(bare)
    assert "tags/v1" not in refs(bare)
    undo(bare)
    assert json_in(bare, "show", "HEAD")["parents"] == [second]
    assert json_in(bare, "diff", first, "HEAD")["changes"] == []
    check_whole(bare)


def test_from_python(folder: Path) -> None:
    """The service lists operations and undoes them."""
    service = SyncService(SyncConfig("tenant", "http://127.0.0.1:1", "token", folder))
    gsync_in(folder, "restore", "HEAD~1")
    assert [one.command for one in service.ops()][:1] == ["restore"]
    assert [change.path for change in service.undo().changes] == [b"a.txt"]
    assert (folder / "a.txt").read_bytes() == b"a2\n"
    assert service.ops()[0].undoes == service.ops()[1].id


# --- Tables ------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "postgres"])
def make_live(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Live]:
    """Makes live databases of one engine."""

    def make(name: str) -> Live:
        if request.param == "postgres":
            make_database: MakeDatabase = request.getfixturevalue("make_database")
            database = make_database(SCHEMA["postgres"])
            return Live("postgres", database.url, database)
        live = Live("sqlite", f"sqlite:///{tmp_path / name}.db")
        live.run(*SCHEMA["sqlite"].split(";"))
        return live

    return make


def shown(state: State) -> str:
    return json.dumps(state)


def test_rows_follow(make_live: Callable[[str], Live], tmp_path: Path) -> None:
    """A pull, a snapshot and a restore are undone in folder and tables, and redone."""
    one, two = make_live("one"), make_live("two")
    gsync_in(tmp_path, "init", "--bare", "there")
    first, second = pair(tmp_path, one, two, generation(0, 40), str(tmp_path / "there"))

    def state() -> tuple[Tree, State]:
        return read_tree(second), two.rows()

    start = state()
    one.fill(generation(1, 40))
    (first / "a.txt").write_text("1")
    gsync_in(first, "snapshot", "-m", "1")
    gsync_in(first, "push")
    gsync_in(second, "pull")
    pulled = state()
    assert pulled[1] == generation(1, 40)
    done = undo(second)
    assert state() == start
    assert json_in(second, "snapshot")["manifest"] is None
    undo(second, str(done["operation"]))
    assert state() == pulled
    # Rows that were changed since stay, saved or not.
    two.run("UPDATE users SET n = 4711 WHERE id = 5", "INSERT INTO users VALUES (900, 'x', 1, '1')")
    edited = two.rows()
    gsync_in(second, "snapshot", "-m", "rows")
    two.run("UPDATE users SET n = 4712 WHERE id = 6")
    unsaved = two.rows()
    undo(second)  # of the snapshot: rows stay, and are not recorded
    assert two.rows() == unsaved
    gsync_in(second, "snapshot", "-m", "again")
    gsync_in(second, "db", "restore", "HEAD~1", "--force")
    assert two.rows() == generation(1, 40)
    undo(second)
    assert two.rows() == unsaved
    assert json_in(second, "snapshot")["manifest"] is None
    assert edited != unsaved
    check_whole(second)


def test_filling_a_table_is_undone(make_live: Callable[[str], Live], tmp_path: Path) -> None:
    """The rows go; the table was never brought to HEAD then, so that it is not recorded empty."""
    one, two = make_live("one"), make_live("two")
    gsync_in(tmp_path, "init", "--bare", "there")
    _, second = pair(tmp_path, one, two, generation(0, 20), str(tmp_path / "there"))
    undo(second)
    assert two.rows() == {"users": [], "posts": []}
    refused(second, "snapshot", code=5)
    gsync_in(second, "db", "restore", "HEAD")
    assert two.rows() == one.rows()


def test_pull_into_a_table_that_was_never_at_head(tmp_path: Path) -> None:
    """It is brought back to what it held, which no manifest had."""
    one, two = (Live("sqlite", f"sqlite:///{tmp_path / name}.db") for name in ("one", "two"))
    for live in (one, two):
        live.run(*SCHEMA["sqlite"].split(";"))
    gsync_in(tmp_path, "init", "--bare", "there")
    one.fill(generation(0, 20))
    first = recorded(tmp_path / "one", one, {"a.txt": b"a"})
    gsync_in(first, "snapshot", "-m", "first")
    gsync_in(first, "remote", "add", "origin", str(tmp_path / "there"))
    gsync_in(first, "push")
    gsync_in(tmp_path, "clone", str(tmp_path / "there"), "two")
    second = tmp_path / "two"
    attach(second, two)
    two.fill({"users": [r for r in one.rows()["users"] if r[0] == 3], "posts": []})
    two.run("INSERT INTO users VALUES (777, 'mine', 1, '1')")
    before = two.rows()
    one.run("UPDATE users SET n = 99 WHERE id = 3", "INSERT INTO users VALUES (800, 'y', 1, '1')")
    gsync_in(first, "snapshot", "-m", "second")
    gsync_in(first, "push")
    gsync_in(second, "pull")
    assert two.rows() != before
    undo(second)
    assert two.rows() == before


def test_rows_in_conflict(tmp_path: Path) -> None:
    """A row that the operation wrote and that was changed since is a conflict, decided by cell."""
    one, two = (Live("sqlite", f"sqlite:///{tmp_path / name}.db") for name in ("one", "two"))
    for live in (one, two):
        live.run(*SCHEMA["sqlite"].split(";"))
    gsync_in(tmp_path, "init", "--bare", "there")
    first, second = pair(tmp_path, one, two, generation(0, 20), str(tmp_path / "there"))
    one.run("UPDATE users SET n = 1, email = 'one' WHERE id = 3")
    gsync_in(first, "snapshot", "-m", "second")
    gsync_in(first, "push")
    gsync_in(second, "pull")
    two.run("UPDATE users SET n = 2 WHERE id = 3")
    changed = two.rows()
    assert undo(second, code=1)["conflicts"] == 1
    assert two.rows() == changed
    gsync_in(second, "resolve", "--in", "users", "3", "--cell", "n=ours")
    gsync_in(second, "merge", "--continue")
    (row,) = [row for row in two.rows()["users"] if row[0] == 3]
    (old,) = [row for row in generation(0, 20)["users"] if row[0] == 3]
    assert (row[1], row[2]) == (old[1], 2)
    assert json_in(second, "snapshot")["manifest"] is None


def test_collection_remove(tmp_path: Path) -> None:
    """Undone, the table is recorded again."""
    live = Live("sqlite", f"sqlite:///{tmp_path / 'one'}.db")
    live.run(*SCHEMA["sqlite"].split(";"))
    live.fill(generation(0, 20))
    folder = recorded(tmp_path / "one", live)
    gsync_in(folder, "snapshot", "-m", "first")
    before, rows = refs(folder), live.rows()
    gsync_in(folder, "collection", "remove", "db/main/posts")
    undo(folder)
    assert refs(folder) == before
    assert live.rows() == rows
    assert json_in(folder, "snapshot")["manifest"] is None


def test_without_databases(tmp_path: Path) -> None:
    """--no-databases undoes the folder alone, and tables stay as they are."""
    one, two = (Live("sqlite", f"sqlite:///{tmp_path / name}.db") for name in ("one", "two"))
    for live in (one, two):
        live.run(*SCHEMA["sqlite"].split(";"))
    gsync_in(tmp_path, "init", "--bare", "there")
    first, second = pair(tmp_path, one, two, generation(0, 20), str(tmp_path / "there"))
    one.fill(generation(1, 20))
    write(first, {"a.txt": b"1"})
    gsync_in(first, "snapshot", "-m", "1")
    gsync_in(first, "push")
    gsync_in(second, "pull")
    rows = two.rows()
    undo(second, "--no-databases")
    assert (second / "a.txt").read_bytes() == b"a"
    assert two.rows() == rows
    refused(second, "snapshot", code=5)
    gsync_in(second, "db", "restore", "HEAD", "--force")
    assert two.rows() == generation(0, 20)


def test_a_sync_of_two_databases_is_refused(tmp_path: Path) -> None:
    """What the target held before is not kept; the operation says so."""
    one, two = (Live("sqlite", f"sqlite:///{tmp_path / name}.db") for name in ("one", "two"))
    for live in (one, two):
        live.run(*SCHEMA["sqlite"].split(";"))
    one.fill(generation(0, 20))
    folder = recorded(tmp_path / "folder", one)
    gsync_in(folder, "db", "sync", "main", two.url)
    found = ops(folder)[0]
    assert (found["command"], found["can_be_undone"]) == ("db sync", False)
    assert "not kept" in refused(folder, "undo", str(found["operation"]), code=5)[0]


# --- Any order ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_everything_is_undone(seed: int, tmp_path: Path) -> None:
    """Whatever commands ran, undoing all of them leads back to the first state, step by step."""
    r = random.Random(seed)
    folder = make_repository(tmp_path / "folder", FILES)
    other = make_repository(tmp_path / "other", {"a.txt": b"imported\n", "z": b"z\n"})
    gsync_in(other, "export", "-o", "../other.tar.gz")

    def edit() -> None:
        name = r.choice(["a.txt", "b.txt", "d/c.txt", "e", "f/g"])
        path = folder / name
        if path.exists() and r.random() < 0.3:
            path.unlink()
        else:
            write(folder, {name: b"%d\n" % r.randrange(1000)})

    commands = [
        ["snapshot", "-m", "x"],
        ["restore", "--force"],
        ["restore", "--force", "HEAD~1"],
        ["import", "../other.tar.gz"],
        ["tag", "v1"],
        ["tag", "--delete", "v1"],
        ["untrack", "a.txt"],
    ]
    states = []
    for _ in range(8):
        edit()
        command = r.choice(commands)
        before, known = (read_tree(folder), refs(folder)), len(ops(folder))
        run_any(folder, *command)
        if len(ops(folder)) > known:
            states.append((before, (read_tree(folder), refs(folder))))
    # Edits between commands are undone by nothing, so each step starts from after its command.
    for before, after in reversed(states):
        restore_tree(folder, after[0])
        assert refs(folder) == after[1]
        undo(folder)
        assert (read_tree(folder), refs(folder)) == before
    check_whole(folder)


def run_any(folder: Path, *command: str) -> None:
    """Run a command that may be refused."""
    with start(folder, *command) as process:
        _, err = process.communicate(timeout=60)
    assert b"Traceback" not in err, err


def restore_tree(folder: Path, tree: Tree) -> None:
    for path in [p for p in folder.iterdir() if p.name != ".gsync"]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name, (kind, content) in sorted(tree.items()):
        if kind == "directory":
            (folder / name.decode()).mkdir(parents=True, exist_ok=True)
        else:
            write(folder, {name.decode(): content})


@pytest.mark.parametrize("name", ["op 000000000001", "runs", "pending move", "run/000000000001"])
@pytest.mark.parametrize("body", [b"\xa5\xa1", b"\x94\x01\x02\x03\x04", b"\xc0"])
def test_a_damaged_state_is_said(tmp_path: Path, name: str, body: bytes) -> None:
    """Not a defect, and no wrong use: the store is damaged, and the message says so."""
    folder = make_repository(tmp_path / "work", {"a.txt": b"one\n"})
    gsync_in(folder, "push", code=4)  # a run
    with closing(sqlite3.connect(folder / ".gsync" / "store.db")) as db, db:
        db.execute("INSERT OR REPLACE INTO state (name, value) VALUES (?, ?)", (name, body))
    for args in (("status",), ("ops",), ("runs",), ("verify",), ("gc",)):
        with start(folder, *args) as process:
            _, err = process.communicate(timeout=60)
        assert process.returncode in (0, 6) and b"Traceback" not in err, (args, err)
