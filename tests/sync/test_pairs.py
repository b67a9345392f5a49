"""Tables of two databases follow each other, and neither side's edits are lost."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_pg import MakeDatabase

from gsync.config import TableConfig
from gsync.errors import Conflict
from gsync.objects.oid import ObjectId
from gsync.replicas.postgres import PostgresDatabase
from gsync.replicas.sqlite import SqliteDatabase
from gsync.replicas.tables.apply import Protected
from gsync.replicas.tables.base import Refused
from gsync.sync.maintenance import collect, verify
from gsync.sync.pairs import (
    AGREED,
    SENT,
    BothChanged,
    PairCounts,
    PairResult,
    pair_name,
    sync_pair,
)
from gsync.sync.repository import Repository, init_repository, now_us, open_repository
from gsync.sync.service import preset_tables

SCHEMA = "CREATE TABLE item (id INTEGER PRIMARY KEY NOT NULL, name TEXT UNIQUE, note TEXT)"
TABLES = {"item": TableConfig(key=("id",))}
Rows = dict[int, str]


class Side:
    """A SQLite database with one table, as a dict of rows."""

    def __init__(self, path: Path, rows: Rows | None = None, schema: str = SCHEMA) -> None:
        self.path = path
        self.live = SqliteDatabase(path)
        self.run(schema)
        for key, note in (rows or {}).items():
            self.put(key, note)

    def run(self, sql: str, *values: object) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.path)) as db, db:
            return db.execute(sql, values).fetchall()

    def put(self, key: int, note: str | None) -> None:
        """Write a row, or delete it."""
        if note is None:
            self.run("DELETE FROM item WHERE id = ?", key)
        else:
            sql = "INSERT INTO item (id, name, note) VALUES (?, ?, ?) ON CONFLICT (id)"
            self.run(f"{sql} DO UPDATE SET note = ?", key, f"n{key}", note, note)

    @property
    def rows(self) -> Rows:
        return dict(self.run("SELECT id, note FROM item"))  # type: ignore[arg-type]


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repository]:
    init_repository(tmp_path / "repo")
    with open_repository(tmp_path / "repo") as found:
        yield found


def make(tmp_path: Path, left: Rows, right: Rows) -> tuple[Side, Side]:
    return Side(tmp_path / "left.db", left), Side(tmp_path / "right.db", right)


def move(
    repo: Repository, source: Side, target: Side, *, force: bool = False, dry_run: bool = False
) -> PairResult:
    return sync_pair(
        repo,
        source.live,
        target.live,
        TABLES,
        accept=["item"],  # tables of few rows are emptied often here, and meant to be
        force=force,
        dry_run=dry_run,
    )


def counts(result: PairResult) -> PairCounts:
    (found,) = result.tables
    return found


def test_first_sync_adds_and_leaves_alone(repo: Repository, tmp_path: Path) -> None:
    """Without a base, rows that only the target has stay, and equal ones are no conflict."""
    left, right = make(tmp_path, {1: "a", 2: "b"}, {2: "b", 3: "c"})
    done = move(repo, left, right)
    assert counts(done) == PairCounts("item", inserted=1, unchanged=1, only_in_target=1)
    assert left.rows == {1: "a", 2: "b"}
    assert right.rows == {1: "a", 2: "b", 3: "c"}
    again = move(repo, left, right)
    assert again.written == 0
    assert again.new == done.new


def test_first_sync_refuses_rows_that_differ(repo: Repository, tmp_path: Path) -> None:
    """Nobody knows which of two rows is newer, so nothing is written, and no base is made."""
    left, right = make(tmp_path, {1: "a", 2: "new"}, {1: "other"})
    with pytest.raises(BothChanged, match=r"item\(1\)") as caught:
        move(repo, left, right)
    assert isinstance(caught.value, Conflict)
    assert right.rows == {1: "other"}
    assert repo.store.tracking(pair_name(left.live, right.live)) == {}


def test_force_takes_the_source_and_deletes_nothing(repo: Repository, tmp_path: Path) -> None:
    """With force the source's row replaces one that differs; what only the target has stays."""
    left, right = make(tmp_path, {1: "a", 2: "b"}, {1: "other", 3: "c"})
    done = move(repo, left, right, force=True)
    assert counts(done) == PairCounts("item", 1, 1, only_in_target=1, conflicts=1)
    assert right.rows == {1: "a", 2: "b", 3: "c"}


def test_reverse_carries_what_the_target_kept(repo: Repository, tmp_path: Path) -> None:
    """Additions, edits and deletions of the target survive a sync and go back with the next."""
    left, right = make(tmp_path, {1: "a", 2: "b", 3: "c"}, {})
    move(repo, left, right)
    right.put(1, "edited")
    right.put(2, None)
    right.put(4, "added")
    left.put(3, "left's")
    done = move(repo, left, right)
    assert counts(done) == PairCounts("item", updated=1, only_in_target=1, kept=2)
    assert right.rows == {1: "edited", 3: "left's", 4: "added"}
    back = counts(move(repo, right, left))
    assert (back.inserted, back.updated, back.deleted) == (1, 1, 1)
    assert left.rows == right.rows == {1: "edited", 3: "left's", 4: "added"}


def test_same_row_on_both_sides_conflicts(repo: Repository, tmp_path: Path) -> None:
    """A row that both sides changed stops the sync, either way round, and moves no base."""
    left, right = make(tmp_path, {1: "a", 2: "b"}, {})
    base = move(repo, left, right).new
    left.put(1, "left's")
    left.put(2, "left's too")
    right.put(1, "right's")
    for source, target in ((left, right), (right, left)):
        with pytest.raises(BothChanged, match="changed on both sides"):
            move(repo, source, target)
    assert (left.rows, right.rows) == ({1: "left's", 2: "left's too"}, {1: "right's", 2: "b"})
    assert repo.store.tracking(pair_name(left.live, right.live)) == {AGREED: base}
    move(repo, left, right, force=True)
    assert left.rows == right.rows == {1: "left's", 2: "left's too"}


@pytest.mark.parametrize(("ours", "theirs"), [(None, "edited"), ("edited", None)])
def test_deletion_against_an_edit_conflicts(
    repo: Repository, tmp_path: Path, ours: str | None, theirs: str | None
) -> None:
    """A row deleted here and edited there is a conflict; force does what the source did."""
    left, right = make(tmp_path, {1: "a"}, {})
    move(repo, left, right)
    left.put(1, ours)
    right.put(1, theirs)
    with pytest.raises(BothChanged):
        move(repo, left, right)
    move(repo, left, right, force=True)
    assert left.rows == right.rows == ({1: ours} if ours else {})


def test_same_edit_on_both_sides_is_none(repo: Repository, tmp_path: Path) -> None:
    """Both sides made the same change: they agree."""
    left, right = make(tmp_path, {1: "a", 2: "b"}, {})
    move(repo, left, right)
    for side in (left, right):
        side.put(1, "same")
        side.put(2, None)
    done = move(repo, left, right)
    assert counts(done) == PairCounts("item", unchanged=1)


def test_dry_run_counts_and_changes_nothing(repo: Repository, tmp_path: Path) -> None:
    """A dry run gives the counts of the real run, and leaves the target and the base."""
    left, right = make(tmp_path, {1: "a", 2: "b"}, {3: "c"})
    move(repo, left, right)
    left.put(1, "edited")
    left.put(2, None)
    left.put(5, "e")
    before, pair = right.rows, pair_name(left.live, right.live)
    base = repo.store.tracking(pair)
    planned = move(repo, left, right, dry_run=True)
    assert right.rows == before
    assert repo.store.tracking(pair) == base
    assert planned.new == planned.old
    assert move(repo, left, right).tables == planned.tables
    assert planned.written == 3


def test_protected_is_accepted_by_name(repo: Repository, tmp_path: Path) -> None:
    """A protected column is a conflict until it is accepted, also when the source is taken."""
    left, right = make(tmp_path, {1: "a", 2: "x"}, {1: "b", 2: "x"})
    tables = {"item": TableConfig(key=("id",), protected=("note",), keep_rows=True)}
    with pytest.raises(Protected, match=r"item\.note"):
        sync_pair(repo, left.live, right.live, tables, force=True)
    assert right.rows == {1: "b", 2: "x"}
    sync_pair(repo, left.live, right.live, tables, force=True, accept=["item.note"])
    assert right.rows == {1: "a", 2: "x"}
    left.put(1, None)
    with pytest.raises(Protected, match="item in 1"):
        sync_pair(repo, left.live, right.live, tables)
    assert right.rows == {1: "a", 2: "x"}


def test_tables_that_are_not_alike_are_refused(repo: Repository, tmp_path: Path) -> None:
    """A table that the target lacks, or has with other columns, stops the sync by name."""
    left = Side(tmp_path / "left.db", {1: "a"})
    bare = Side(tmp_path / "bare.db", schema="CREATE TABLE other (x INTEGER)")
    with pytest.raises(Refused, match="item"):
        sync_pair(repo, left.live, bare.live, TABLES)
    bare.run("CREATE TABLE item (id INTEGER PRIMARY KEY NOT NULL, name TEXT UNIQUE)")
    with pytest.raises(Refused, match=r"bare\.db: .*note"):
        sync_pair(repo, left.live, bare.live, TABLES)
    with pytest.raises(Refused, match=r"left\.db: .*note"):
        sync_pair(repo, bare.live, left.live, TABLES)


def test_base_is_kept_and_compared(repo: Repository, tmp_path: Path) -> None:
    """Every sync that moved something is a manifest on top of the last; gc keeps all of them."""
    left, right = make(tmp_path, {1: "a"}, {})
    first = move(repo, left, right)
    left.put(2, "b")
    second = move(repo, left, right)
    with open_repository(tmp_path / "repo") as other:
        collect(other.store, now_us())
    assert second.new is not None
    manifest = repo.manifest(second.new)
    assert manifest is not None
    assert manifest.parents == (first.new,)
    assert manifest.message == f"db sync {left.live.shown} -> {right.live.shown}"
    assert [c.name for c in manifest.collections] == ["db/pair/item"]
    assert verify(repo.store).problems == []
    left.put(3, "c")
    with open_repository(tmp_path / "repo") as other:
        assert counts(move(other, left, right)).inserted == 1


def test_tables_of_another_run_keep_their_base(repo: Repository, tmp_path: Path) -> None:
    """A sync of one table leaves the base of another as it was."""
    left, right = make(tmp_path, {1: "a"}, {})
    for side in (left, right):
        side.run("CREATE TABLE tag (id INTEGER PRIMARY KEY NOT NULL)")
    left.run("INSERT INTO tag VALUES (7)")
    both = TABLES | {"tag": TableConfig(key=("id",))}
    sync_pair(repo, left.live, right.live, both)
    left.put(1, None)
    move(repo, left, right)
    right.run("DELETE FROM tag")
    sync_pair(repo, right.live, left.live, both, accept=["item", "tag"])
    assert (left.rows, left.run("SELECT * FROM tag")) == ({}, [])


def test_postgres_and_sqlite_are_a_pair(
    repo: Repository, tmp_path: Path, make_database: MakeDatabase
) -> None:
    """The same rows are the same in both engines, with every sort of NULL and of text."""
    tables = preset_tables("systemprompt")
    postgres = make_database((Path(__file__).parent.parent / "systemprompt.sql").read_text())
    with postgres.connect() as connection:
        connection.execute(
            "INSERT INTO users (id, name, email, roles, avatar_url, created_at) VALUES"
            " ('u|1', E'\\\\N', 'a@b', '{\"a,b\",NULL,\"NULL\"}', '', '2026-01-02 03:04:05.67+02'),"
            " ('<null>', E'tab\\there', 'c@d', '{}', NULL, NULL);"
            "INSERT INTO user_contexts (context_id, user_id, name) VALUES ('c', 'u|1', '')"
        )
    path = tmp_path / "there.db"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(
            "CREATE TABLE users (id TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL UNIQUE,"
            " email TEXT NOT NULL UNIQUE, full_name TEXT, display_name TEXT, status TEXT NOT NULL,"
            " email_verified BOOLEAN, roles TEXT_ARRAY TEXT NOT NULL, is_bot BOOLEAN,"
            " is_scanner BOOLEAN, avatar_url TEXT, created_at TIMESTAMPTZ,"
            " updated_at TIMESTAMPTZ);"
            "CREATE TABLE user_contexts (context_id TEXT PRIMARY KEY NOT NULL,"
            " user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE, session_id TEXT,"
            " name TEXT NOT NULL, kind TEXT NOT NULL, created_at TIMESTAMPTZ,"
            " updated_at TIMESTAMPTZ);"
        )
    one, other = PostgresDatabase(postgres.url, None), SqliteDatabase(path)
    assert sync_pair(repo, one, other, tables).written == 3
    back = sync_pair(repo, other, one, tables)
    assert (back.written, back.new) == (0, back.old)


@pytest.mark.parametrize("edited", [False, True])
def test_commit_without_a_base_is_found(
    repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edited: bool
) -> None:
    """A sync that ended between the target's commit and the new base is taken as done.

    Unless rows that it sent were changed since: then the older base holds, which may find a
    conflict too many, and loses nothing.
    """
    left, right = make(tmp_path, {1: "a"}, {})
    base = move(repo, left, right).new
    pair = pair_name(left.live, right.live)
    left.put(1, "sent")
    set_tracking = repo.store.set_tracking

    def cut(remote: str, refs: dict[str, ObjectId], *states: Any) -> None:
        if SENT not in refs:
            raise KeyboardInterrupt
        set_tracking(remote, refs, *states)

    with monkeypatch.context() as patch:
        patch.setattr(repo.store, "set_tracking", cut)
        with pytest.raises(KeyboardInterrupt):
            move(repo, left, right)
    assert right.rows == {1: "sent"}
    refs = repo.store.tracking(pair)
    assert refs[AGREED] == base
    move(repo, left, right, dry_run=True)
    assert repo.store.tracking(pair) == refs
    if edited:
        right.put(1, "right's")
        with pytest.raises(BothChanged):
            move(repo, left, right)
    else:
        assert move(repo, left, right).old != base
        right.put(1, "right's")
        move(repo, right, left)
        assert left.rows == {1: "right's"}
    assert right.rows == {1: "right's"}


def test_other_columns_are_another_beginning(repo: Repository, tmp_path: Path) -> None:
    """Where other columns are looked at, the old base says nothing: no row is deleted by it."""
    left, right = make(tmp_path, {1: "a", 2: "b"}, {})
    move(repo, left, right)
    left.put(1, None)
    right.put(2, "edited")
    less = {"item": TableConfig(key=("id",), excluded=("note",))}
    done = counts(sync_pair(repo, left.live, right.live, less))
    assert done == PairCounts("item", unchanged=1, only_in_target=1)
    assert right.rows == {1: "a", 2: "edited"}
    with pytest.raises(BothChanged):
        move(repo, left, right)


def test_new_column_keeps_the_base(repo: Repository, tmp_path: Path) -> None:
    """A column that both sides get is no difference in rows that have nothing in it."""
    left, right = make(tmp_path, {1: "a", 2: "b"}, {})
    move(repo, left, right)
    for side in (left, right):
        side.run("ALTER TABLE item ADD COLUMN more TEXT")
    left.put(1, None)
    left.run("UPDATE item SET more = 'm' WHERE id = 2")
    right.put(3, "c")
    done = counts(move(repo, left, right))
    assert (done.updated, done.deleted, done.only_in_target) == (1, 1, 1)
    assert right.run("SELECT id, more FROM item ORDER BY 1") == [(2, "m"), (3, None)]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_edits_against_a_model(data: st.DataObject) -> None:
    """Whatever both sides do, a sync does to the target what three dicts say, or refuses."""
    notes = st.none() | st.sampled_from("xyz")
    keys = st.integers(0, 4)
    with TemporaryDirectory() as name:
        directory = Path(name)
        init_repository(directory / "repo")
        sides = Side(directory / "left.db"), Side(directory / "right.db")
        models: tuple[Rows, Rows] = {}, {}
        base: Rows = {}
        with open_repository(directory / "repo") as repo:
            for _ in range(data.draw(st.integers(1, 12))):
                at = data.draw(st.integers(0, 1))
                source, target = models[at], models[1 - at]
                if data.draw(st.booleans()):
                    key, note = data.draw(keys), data.draw(notes)
                    sides[at].put(key, note)
                    source.pop(key, None)
                    source |= {key: note} if note else {}
                    continue
                force = data.draw(st.booleans())
                sent = {k for k in range(5) if base.get(k) != source.get(k)}
                clash = any(target.get(k) not in (base.get(k), source.get(k)) for k in sent)
                try:
                    move(repo, sides[at], sides[1 - at], force=force)
                except BothChanged:
                    assert clash
                    assert not force
                else:
                    assert force or not clash
                    for key in sent:
                        target.pop(key, None)
                        target |= {key: source[key]} if key in source else {}
                    base = dict(source)
                assert (sides[0].rows, sides[1].rows) == models


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_random_edits_converge(data: st.DataObject) -> None:
    """Edits of different rows on both sides, syncs in any direction: nothing is ever lost."""
    notes = st.none() | st.text("xy", max_size=2)
    start = st.dictionaries(st.integers(0, 9), st.text("xy", max_size=2), max_size=6)
    with TemporaryDirectory() as name:
        directory = Path(name)
        init_repository(directory / "repo")
        rows = data.draw(start)
        left = Side(directory / "left.db", rows)
        right = Side(directory / "right.db", data.draw(st.sampled_from([rows, {}])))
        with open_repository(directory / "repo") as repo:
            move(repo, left, right)
            meant = dict(left.rows)
            dirty: tuple[set[int], set[int]] = (set(), set())  # edited since it last went over
            for _ in range(data.draw(st.integers(1, 8))):
                what = data.draw(st.sampled_from(["left", "right", "push", "pull"]))
                mine = 0 if what in ("left", "push") else 1
                source, target = (left, right) if mine == 0 else (right, left)
                if what in ("push", "pull"):
                    move(repo, source, target)
                    dirty[mine].clear()
                    continue
                free = sorted(set(range(10)) - dirty[1 - mine])
                if not free:
                    continue
                key, note = data.draw(st.sampled_from(free)), data.draw(notes)
                source.put(key, note)
                dirty[mine].add(key)
                if note is None:
                    meant.pop(key, None)
                else:
                    meant[key] = note
            first, second = data.draw(st.sampled_from([(left, right), (right, left)]))
            move(repo, first, second)
            move(repo, second, first)
            assert left.rows == right.rows == meant
            assert move(repo, first, second).written == 0
