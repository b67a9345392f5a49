"""The store in a SQLite file: crashes, other writers, damage, versions, deltas, collection."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from gsync.errors import Denied, GsyncError, NotFound
from gsync.objects import packs
from gsync.objects.oid import Kind, ObjectId, blob_id
from gsync.objects.packs import pack_objects
from gsync.store import file, reader, schema
from gsync.store.base import ObjectCorrupt, RefMove
from gsync.store.file import StoreVersion
from gsync.store.lock import FileLock, StoreBusy
from gsync.store.names import CollectedMeanwhile
from gsync.store.schema import StoreExists
from gsync.store.sql import StoreDamaged
from gsync.store.sqlite import SqliteStore
from gsync.store.upkeep import RootsMoved

A = blob_id(b"a")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def text(n: int, size: int = 2000) -> bytes:
    r = random.Random(n)
    return b" ".join(b"%x" % r.getrandbits(16) for _ in range(size // 5))


def fill(store: SqliteStore, count: int) -> list[ObjectId]:
    oids = [store.put(Kind.BLOB, text(n)) for n in range(count)]
    store.flush()
    return oids


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
    )


WRITER = """
    import sys
    from gsync.objects.oid import Kind
    from gsync.store.sqlite import SqliteStore
    path, first, count, step = sys.argv[1], *map(int, sys.argv[2:])
    store = SqliteStore.open(path)
    for n in range(first, first + count):
        oid = store.put(Kind.BLOB, b"%d " % n * 300)
        if n % step == 0:
            store.flush()
            print(oid.hex(), flush=True)
    store.flush()
    store.close()
"""


def test_killed_writers_leave_a_whole_store(path: Path) -> None:
    """After kill -9 at any moment what was flushed is there and all that is there is sound."""
    SqliteStore.create(path).close()
    acknowledged: set[ObjectId] = set()
    for round_ in range(4):
        with start(WRITER, path, round_ * 10**7, 10**6, 150) as writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline() for _ in range(2)]
            time.sleep(0.05 * round_)
            writer.send_signal(signal.SIGKILL)
            lines += writer.stdout.read().splitlines()
        acknowledged |= {
            ObjectId(bytes.fromhex(line.strip())) for line in lines if len(line.strip()) == 64
        }
        with SqliteStore.open(path) as store:
            checked = dict(store.check_objects())
            assert not store.missing(acknowledged)
            assert acknowledged <= set(checked)
            assert not any(checked.values())
    assert len(acknowledged) >= 8


def test_commits_are_synchronous(path: Path) -> None:
    """Whoever is told of a commit may lose power: SQLite syncs its log before it returns."""
    with SqliteStore.create(path) as store:
        assert store._select("PRAGMA synchronous") == [(2,)]
    with SqliteStore.open(path) as store:
        assert store._select("PRAGMA synchronous") == [(2,)]
        assert store._select("PRAGMA journal_mode") == [("wal",)]


def test_two_writers_at_once(path: Path) -> None:
    """Two processes that put overlapping objects both succeed, each object is there once."""
    SqliteStore.create(path).close()
    writers = [start(WRITER, path, first, 3000, 40) for first in (0, 1000)]
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    with SqliteStore.open(path) as store:
        checked = list(store.check_objects())
        assert len(checked) == len(dict(checked)) == 4000
        assert not any(problem for _, problem in checked)
        empty = "SELECT count(*) FROM pack WHERE id NOT IN (SELECT pack FROM object)"
        assert store._select(empty) == [(0,)]


def test_a_busy_store_says_who_holds_it(path: Path) -> None:
    """A writer that waits in vain names the process and what it does; nothing is lost."""
    with SqliteStore.create(path) as store:
        oid = store.put(Kind.BLOB, b"body")
        store._lock._wait_s = 0.05
        with FileLock(path.with_name("store.db.lock")).held("long work"):
            with pytest.raises(StoreBusy, match=r"process \d+: long work"):
                store.flush()
            assert store.get(Kind.BLOB, oid) == b"body"
        store.flush()
        assert list(store.check_objects()) == [(oid, None)]


def test_every_flipped_byte_is_found(path: Path) -> None:
    """Damage in a pack fails the read and is listed; other packs stay readable."""
    with SqliteStore.create(path) as store:
        oids = fill(store, 100)
        data = store._select("SELECT data FROM pack WHERE id = 1")[0][0]
        inside = {oid for (oid,) in store._select("SELECT oid FROM object WHERE pack = 1")}
    for at in random.Random(1).sample(range(len(data)), 25):
        broken = data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :]
        with sqlite3.connect(path) as db:
            db.execute("UPDATE pack SET data = ? WHERE id = 1", (broken,))
        db.close()
        with SqliteStore.open(path) as store:
            bad = {oid for oid, problem in store.check_objects() if problem}
            assert bad <= inside
            for oid in bad:
                with pytest.raises(ObjectCorrupt):
                    store.get(Kind.BLOB, oid)
            good = [oid for oid in oids if oid not in bad]
            assert len(list(store.get_many([(Kind.BLOB, oid) for oid in good]))) == len(good)
            assert bad or all(store.get(Kind.BLOB, o) for o in oids)  # header bits may not matter


def test_a_missing_pack_is_found(path: Path) -> None:
    """An object whose pack is gone is damaged, not missing."""
    with SqliteStore.create(path) as store:
        oids = fill(store, 3)
        store._db.query("DELETE FROM pack")
        assert {oid for oid, problem in store.check_objects() if problem} == set(oids)
        with pytest.raises(ObjectCorrupt):
            store.get(Kind.BLOB, oids[0])


def test_a_newer_store_is_refused(path: Path) -> None:
    """The error names the version to install."""
    SqliteStore.create(path).close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE about SET value = '9.8.7'")
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreVersion) as caught:
        SqliteStore.open(path)
    assert caught.value.hint is not None
    assert "9.8.7" in caught.value.hint


def test_what_is_no_store_is_refused(path: Path) -> None:
    """No file, another program's database, or no database at all."""
    with pytest.raises(NotFound):
        SqliteStore.open(path)
    sqlite3.connect(path).execute("CREATE TABLE t (x)").connection.close()
    with pytest.raises(StoreVersion):
        SqliteStore.open(path)
    with pytest.raises(StoreExists):
        SqliteStore.create(path)
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(GsyncError):
        SqliteStore.open(path)


@pytest.mark.parametrize("size", [None, 0, 50, 100])
def test_a_destroyed_header_is_damage(path: Path, size: int | None) -> None:
    """A store whose header says that it is none is corrupt, not another program's database."""
    with SqliteStore.create(path) as store:
        store.put(Kind.BLOB, b"x")
    body = bytearray(path.read_bytes())
    body[68:72] = b"\0\0\0\0"  # application_id
    path.write_bytes(bytes(body)[:size])
    with pytest.raises(StoreDamaged):
        SqliteStore.open(path)
    assert path.stat().st_size == (len(body) if size is None else size)


def test_a_version_that_its_writer_does_not_know_is_damage(path: Path) -> None:
    """No gsync writes a version beyond the one it knows."""
    with SqliteStore.create(path):
        pass
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 65537")
    db.close()
    with pytest.raises(StoreDamaged):
        SqliteStore.open(path)


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("object", "size"),
        ("object", "kind"),
        ("pack", "data"),
        ("ref", "target"),
        ("state", "value"),
    ],
)
def test_rows_of_other_types_are_damage(path: Path, table: str, column: str) -> None:
    """A page can be whole to SQLite and hold rows that gsync never wrote: they are seen."""
    with SqliteStore.create(path) as store:
        oid = store.put(Kind.BLOB, b"x")
        store.move_refs([RefMove("main", None, oid)], time_us=1, actor="", why="")
        store.set_states({"a": b"b"})
        assert store.check_rows() == []
        store._db.query(f'UPDATE "{table}" SET "{column}" = ?', ("text",))
        assert store.check_rows() == [f"1 rows of {table} are not what gsync writes"]
        if table != "state":
            with pytest.raises(GsyncError):
                store.find_ref("main")
                SqliteStore.open(path).get(Kind.BLOB, oid)


@pytest.mark.parametrize("value", ["text", b"garbage", 5])
def test_a_log_of_what_is_no_entry_is_damage(path: Path, value: object) -> None:
    """An entry that nobody wrote is damage of the store, and not a mistake of whoever reads it."""
    with SqliteStore.create(path) as store:
        oid = store.put(Kind.BLOB, b"x")
        store.append_remote_log(
            "there", store.move_refs([RefMove("main", None, oid)], time_us=1, actor="", why="")
        )
        store._db.query("UPDATE ref_log SET entry = ?", (value,))
        store._db.query("UPDATE remote_log SET entry = ?", (value,))
        for read in (
            store.list_log,
            store.last_log_entry,
            lambda: store.remote_log("there"),
            lambda: store.last_remote_entry("there"),
        ):
            with pytest.raises(StoreDamaged):
                read()


def test_an_older_store_is_migrated_after_a_copy(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Migration keeps everything and leaves a copy; a failing one changes nothing."""
    with SqliteStore.create(path) as store:
        oids = fill(store, 5)

    def fails(db: Any) -> None:
        works(db)
        raise RuntimeError

    def works(db: Any) -> None:
        db.table("about").add_column("extra", str)
        db.table("added").create({"a": int}, pk="a")
        db.table("added").insert_all({"a": n} for n in range(500))

    monkeypatch.setattr(file, "VERSION", 2)
    monkeypatch.setattr(schema, "MIGRATIONS", {1: fails})
    with pytest.raises(RuntimeError):
        SqliteStore.open(path)
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert len(db.execute("SELECT * FROM about").fetchone()) == 2
        assert not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'added'").fetchall()
    db.close()
    with pytest.raises(StoreVersion):
        SqliteStore.open(path, read_only=True)
    monkeypatch.setattr(schema, "MIGRATIONS", {1: works})
    with SqliteStore.open(path) as store:
        assert not store.missing(oids)
        assert store._select("PRAGMA user_version") == [(2,)]
    monkeypatch.setattr(file, "VERSION", 1)
    with SqliteStore.open(path.with_name("store.db.v1.bak")) as copy:
        assert not copy.missing(oids)


def test_reading_only(path: Path) -> None:
    """A reader sees what a writer commits, cannot write, and never checkpoints."""
    with SqliteStore.create(path) as store:
        oids = fill(store, 10)
        wal = path.with_name("store.db-wal")
        with SqliteStore.open(path, read_only=True) as readers:
            size = wal.stat().st_size
            assert not readers.missing(oids)
            late = store.put(Kind.BLOB, b"late")
            store.flush()
            assert readers.get(Kind.BLOB, late) == b"late"
            with pytest.raises(Denied):
                readers.put(Kind.BLOB, b"new")
            with pytest.raises(Denied):
                readers.set_states({"a": b""})
        assert wal.stat().st_size >= size > 0
    with SqliteStore.open(path, read_only=True) as readers:
        assert not readers.missing(oids)


def node(n: int, edits: int) -> bytes:
    return b"node %d edit %d " % (n, edits) + random.Random(n).randbytes(4000)


def test_delta_chains_end(path: Path) -> None:
    """A node edited many times is stored as deltas, at most 8 deep, and reads back."""
    with SqliteStore.create(path) as store:
        near, bodies = None, {}
        for edit in range(30):
            near = store.put(Kind.NODE, node(1, edit), near)
            bodies[near] = node(1, edit)
            store.flush()
        depths = [depth for (depth,) in store._select("SELECT depth FROM pack ORDER BY id")]
        assert max(depths) == 8
        assert depths.count(0) == 4
        assert store.stats().stored_bytes < 8 * 4000
    with SqliteStore.open(path) as store:
        assert dict(store.get_many([(Kind.NODE, oid) for oid in bodies])) == bodies
        assert not any(problem for _, problem in store.check_objects())
        unlike = store.put(Kind.NODE, random.Random(99).randbytes(4000), near)
        store.flush()
        row = "SELECT p.encoding FROM pack p JOIN object o ON o.pack = p.id WHERE oid = ?"
        assert store._select(row, unlike)[0][0] != reader.DELTA


def test_collection_keeps_bases(path: Path) -> None:
    """What a kept delta is made against stays, all the way down; the rest goes."""
    with SqliteStore.create(path) as store:
        oids: list[ObjectId] = []
        for edit in range(5):
            oids.append(store.put(Kind.NODE, node(1, edit), oids[-1] if oids else None))
            store.flush()
        dropped = store.drop_objects({oids[3]}, store.mark_collection())
        assert (dropped.objects, dropped.bases) == (1, 3)
        assert store.get(Kind.NODE, oids[3]) == node(1, 3)
        assert store.missing(oids) == {oids[4]}


def test_collection_rewrites_sparse_packs(path: Path) -> None:
    """Kept objects read back, dropped ones are gone, and the file becomes smaller."""
    with SqliteStore.create(path) as store:
        oids = fill(store, 2000)
        before = store.stats()
        keep = set(oids[::7])
        dropped = store.drop_objects(keep, store.mark_collection())
        store.shrink_file()
        assert dropped.objects == 2000 - len(keep)
        assert dropped.stored_bytes == before.stored_bytes - store.stats().stored_bytes
        assert store.stats().file_bytes < before.file_bytes / 3
        assert store.stats().free_bytes == 0
        assert store.missing(oids) == set(oids) - keep
        store.rebuild_file()
    with SqliteStore.open(path) as store:
        assert {oid for oid, problem in store.check_objects() if not problem} == keep
        assert {oid for _, oid, _ in store.list_objects()} == keep


def test_collection_cannot_race_a_writer(path: Path) -> None:
    """Moved roots stop it, later objects stay, and a ref to what it dropped is not moved."""
    with SqliteStore.create(path) as store, SqliteStore.open(path) as other:
        old = store.put(Kind.BLOB, b"old")
        store.flush()
        mark = other.mark_collection()
        store.set_states({"op": b"1"})
        with pytest.raises(RootsMoved):
            other.drop_objects((), mark)
        mark = other.mark_collection()
        new = store.put(Kind.BLOB, b"new")
        assert store.put(Kind.BLOB, b"old") == old  # found present, so not written again
        store.flush()
        assert other.drop_objects((), mark).objects == 1
        assert store.missing([old, new]) == {old}
        with pytest.raises(CollectedMeanwhile):
            store.move_refs([RefMove("main", None, old)], time_us=1, actor="", why="")
        assert store.list_refs() == {}
        store.put(Kind.BLOB, b"old")
        store.move_refs([RefMove("main", None, old)], time_us=1, actor="", why="")
        assert store.get(Kind.BLOB, old) == b"old"


def test_whole_packs_go_out_as_stored(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is unpacked or compressed for a pack that is wanted whole."""
    with SqliteStore.create(path) as store:
        oids = fill(store, 640)
        calls: list[int] = []

        def counting(data: bytes, bytes_max: int, dictionary: bytes | None = None) -> bytes:
            calls.append(bytes_max)
            return packs.decompress(data, bytes_max, dictionary)

        monkeypatch.setattr(reader, "decompress", counting)
        wanted = [(Kind.BLOB, oid) for oid in oids]
        assert sum(len(pack.sizes) for pack in store.export_packs(wanted)) == 640
        assert not calls
        assert sum(len(pack.sizes) for pack in store.export_packs(wanted[1:])) == 639
        assert len(calls) == 1


def test_received_packs_are_stored_as_received(path: Path, tmp_path: Path) -> None:
    """A pack crosses two stores without being compressed again."""
    sent = pack_objects([(Kind.BLOB, text(n)) for n in range(20)])
    with SqliteStore.create(path) as store:
        oids = store.put_pack(sent)
        assert store.get(Kind.BLOB, oids[3]) == text(3)
        [out] = store.export_packs([(Kind.BLOB, oid) for oid in oids])
        assert out == sent
        assert packs.unpack_objects(out) == [(Kind.BLOB, text(n)) for n in range(20)]


def test_the_stat_cache_is_kept(path: Path) -> None:
    """Directories are replaced and dropped; the rest stays."""
    with SqliteStore.create(path) as store:
        store.save_scan_dirs({b"a": b"1", b"b\xff": b"2"})
        store.save_scan_dirs({b"a": None, b"c": b"3"})
        assert store.load_scan_dirs() == {b"b\xff": b"2", b"c": b"3"}


def test_views_are_readable(path: Path) -> None:
    """A person with the sqlite3 shell sees hex ids, names and times."""
    with SqliteStore.create(path) as store:
        oid = store.put(Kind.MANIFEST, b"m")
        store.move_refs([RefMove("main", None, oid)], time_us=10**15, actor="me", why="snapshot")
        store.grant_lease("s", [oid], 10**15)
        assert store._select("SELECT oid, kind FROM objects_hex") == [(oid.hex(), "manifest")]
        assert store._select("SELECT time, new, actor FROM ref_log_readable") == [
            ("2001-09-09T01:46:40Z", oid.hex(), "me")
        ]
        views = [v for (v,) in store._select("SELECT name FROM sqlite_schema WHERE type = 'view'")]
        assert len(views) == 6
        for view in views:
            store._select(f"SELECT * FROM {view}")


def test_opening_does_not_import_the_schema_library(path: Path) -> None:
    """sqlite-utils is for creating and migrating; opening does without."""
    SqliteStore.create(path).close()
    code = """
        import sys
        from gsync.store.sqlite import SqliteStore
        SqliteStore.open(sys.argv[1]).close()
        print("sqlite_utils" in sys.modules, "apsw" in sys.modules)
    """
    with start(code, path) as process:
        assert process.communicate()[0].split() == ["False", "False"]


def test_giving_up_leaves_nothing(path: Path) -> None:
    """A block that raises keeps what was flushed and nothing else."""

    def fail() -> None:
        with SqliteStore.create(path) as store:
            store.put(Kind.BLOB, b"a")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with SqliteStore.open(path) as store:
        assert store.missing([A]) == {A}


def test_create_clears_what_the_dead_left(tmp_path: Path) -> None:
    """The draft of a killed creator, and its journal, do not stay."""
    for name in ("store.db.new", "store.db.new-wal", "store.db.new-shm"):
        (tmp_path / name).write_bytes(b"torn")
    SqliteStore.create(tmp_path / "store.db").close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store.db", "store.db.lock"]
