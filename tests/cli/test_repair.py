"""`verify --repair` puts good bodies where damaged or missing ones were, and loses nothing."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import require
from support_cli import gsync_in, json_in, read_tree, refused, start, write
from support_server import running_server

from gsync.maps.omap import EMPTY_MAP
from gsync.objects.encoding import encode
from gsync.objects.oid import Kind, ObjectId, object_id
from gsync.objects.packs import Pack, pack_objects
from gsync.protocol.frames import Frame, FrameType, pack_frame
from gsync.protocol.messages import Hello, Limits, Welcome
from gsync.remotes.base import Traffic
from gsync.store.sqlite import SqliteStore
from gsync.sync.repair import repair
from gsync.sync.repository import open_repository

KINDS = [kind.name.lower() for kind in Kind]
LARGE = random.Random(7).randbytes(2_500_000)


def store_of(folder: Path) -> Path:
    inner = folder / ".gsync" / "store.db"
    return inner if inner.exists() else folder / "store.db"


def sql(folder: Path, script: str, *parameters: object) -> list[Any]:
    with closing(sqlite3.connect(store_of(folder))) as db, db:
        return db.execute(script, parameters).fetchall()


def ids(folder: Path, kind: str) -> list[str]:
    """All objects of that kind, in the order in which they came."""
    rows = sql(folder, "SELECT lower(hex(oid)) FROM object WHERE kind = ? ORDER BY id", KIND[kind])
    return [oid for (oid,) in rows if oid != EMPTY_MAP.hex()]  # which nothing names


KIND = {kind.name.lower(): int(kind) for kind in Kind}


# --- Damage --------------------------------------------------------------------------------


def truncate(folder: Path, oid: str) -> None:
    sql(
        folder,
        "UPDATE pack SET data = substr(data, 1, length(data) - 3)"
        " WHERE id = (SELECT pack FROM object WHERE oid = ?)",
        bytes.fromhex(oid),
    )


def flip(folder: Path, oid: str) -> None:
    """Flip a bit of this object and of no other in its pack."""
    with SqliteStore.open(store_of(folder)) as store:
        found = 'SELECT pack, "offset" FROM object WHERE oid = ?'
        pack, offset = store._select(found, bytes.fromhex(oid))[0]
        bodies = bytearray(store._reader.find_bodies(pack) or b"")
    bodies[offset] ^= 0x40
    change = "UPDATE pack SET encoding = 0, base = NULL, data = ? WHERE id = ?"
    sql(folder, change, bytes(bodies), pack)


def delete(folder: Path, oid: str) -> None:
    """Remove the object, and its bytes from the pack that it was in."""
    flip(folder, oid)
    sql(folder, "DELETE FROM object WHERE oid = ?", bytes.fromhex(oid))
    sql(folder, "DELETE FROM pack WHERE id NOT IN (SELECT pack FROM object)")


def swap(folder: Path, oid: str) -> None:
    """Exchange the object with another one: each is under the other's id."""
    one = bytes.fromhex(oid)
    ((other,),) = sql(folder, "SELECT oid FROM object WHERE oid != ? ORDER BY id DESC LIMIT 1", one)
    with closing(sqlite3.connect(store_of(folder))) as db, db:
        for old, new in ((one, b"-"), (other, one), (b"-", other)):
            db.execute("UPDATE object SET oid = ? WHERE oid = ?", (new, old))


Damage = Callable[[Path, str], None]
DAMAGES: list[Damage] = [truncate, flip, delete, swap]


# --- Folders -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with every kind of object, its push, and what its main holds."""
    top = tmp_path_factory.mktemp("template")
    app = top / "app.db"
    with closing(sqlite3.connect(app)) as db, db:
        db.execute("CREATE TABLE users (id TEXT PRIMARY KEY, name TEXT)")
        db.executemany("INSERT INTO users VALUES (?, ?)", [(f"u{n}", f"n{n}") for n in range(50)])
    one = top / "one"
    one.mkdir()
    gsync_in(one, "init")
    gsync_in(one, "db", "add", f"sqlite:///{app}", "--yes")
    write(one, {f"d{n % 5}/f{n}": b"text %d\n" % n * (n + 1) for n in range(300)})
    write(one, {"large": LARGE})
    os.symlink("large", one / "link")
    gsync_in(one, "snapshot", "-m", "first")
    write(one, {"d1/f1": b"edited\n", "large": LARGE[:1_000_000] + b"x" + LARGE[1_000_000:]})
    gsync_in(one, "snapshot", "-m", "second")
    gsync_in(top, "init", "--bare", "there")
    gsync_in(one, "remote", "add", "origin", "../there")
    gsync_in(one, "push")
    shutil.copytree(one, top / "expected", symlinks=True, ignore=lambda *_: {".gsync"})
    for kind in KINDS:
        assert ids(one, kind), kind
    assert sql(one, "SELECT count(*) FROM pack WHERE encoding = 2")[0][0] > 0
    return top


@pytest.fixture
def work(template: Path, tmp_path: Path) -> Path:
    """A copy of the repository whose live files are all different, with its remote beside it."""
    shutil.copytree(template / "there", tmp_path / "there")
    one = tmp_path / "one"
    shutil.copytree(template / "one" / ".gsync", one / ".gsync")
    shutil.copy(template / "one" / "gsync.toml", one / "gsync.toml")
    config = one / ".gsync" / "config.toml"
    text = config.read_text().replace(str(template / "there"), str(tmp_path / "there"))
    config.write_text(text)
    write(one, {"d1/f1": b"not yet recorded\n"})
    return one


def check_whole(folder: Path, template: Path) -> None:
    """Verify finds nothing, and both states of the folder come back byte for byte."""
    assert json_in(folder, "verify")["problems"] == []
    out = folder.parent / "out"
    gsync_in(folder, "restore", "--to", str(out))
    assert read_tree(out) == read_tree(template / "expected")
    shutil.rmtree(out)
    assert gsync_in(folder, "cat", "HEAD~1:large").out == LARGE


def repaired(folder: Path, *args: str, code: int = 0, token: str = "") -> Any:
    return json_in(folder, "verify", "--repair", *args, code=code, GSYNC_TOKEN=token)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_damage_is_mended(
    work: Path, template: Path, kind: str, damage: Damage
) -> None:
    """Verify names the object; a repair brings it back, and says from where."""
    oid = ids(work, kind)[-1]
    damage(work, oid)
    problems = json_in(work, "verify", code=6)["problems"]
    assert oid in {problem["id"] for problem in problems}
    done = repaired(work)
    assert done["problems"] == done["lacking"] == done["remotes"] == []
    mended = {item["id"]: item for item in done["repaired"]}
    assert mended[oid]["kind"] == kind
    assert mended[oid]["from"] in (("the store",) if damage is swap else ("origin", "the store"))
    if damage in (truncate, flip) and len(mended) > 1:
        assert {item["from"] for item in mended.values()} <= {"origin", "the store"}
    check_whole(work, template)
    assert repaired(work)["repaired"] == []


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_server_mends(
    work: Path, template: Path, damage: Damage, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One object of each kind at once, from `gsync serve`."""
    require("server")
    with running_server(tmp_path_factory.mktemp("server") / "data") as server:
        token = server.token("mend")
        gsync_in(work, "remote", "add", "web", f"{server.base}/mend")
        gsync_in(work, "push", "web", GSYNC_TOKEN=token)
        shutil.rmtree(work.parent / "there")
        for kind in KINDS:
            damage(work, ids(work, kind)[0])
        gsync_in(work, "verify", code=6)
        done = repaired(work, "--from", "web", token=token)
    sources = {item["from"] for item in done["repaired"]}
    assert sources == {"the store"} if damage is swap else "web" in sources
    check_whole(work, template)


def test_all_of_it_is_gone(work: Path, template: Path) -> None:
    """With no object left, what refs name comes from the remote, level by level."""
    sql(work, "DELETE FROM object")
    sql(work, "DELETE FROM pack")
    done = repaired(work)
    assert {item["kind"] for item in done["repaired"]} == set(KINDS)
    check_whole(work, template)


def test_what_no_remote_has_stays_listed(work: Path, template: Path) -> None:
    """Damage that a remote shares is 6 and named; the rest is mended; a second remote helps."""
    shutil.copytree(work.parent / "there", work.parent / "whole")
    shared, others = ids(work, "blob")[5], ids(work, "node")[:2]
    for oid in (shared, *others):
        flip(work, oid)
    flip(work.parent / "there", shared)
    done = repaired(work, code=6)
    assert [item["id"] for item in done["lacking"]] == [shared]
    assert [item["id"] for item in done["problems"]] == [shared]
    assert set(others) <= {item["id"] for item in done["repaired"]}
    assert [item["remote"] for item in done["remotes"]] == ["origin"]
    text = gsync_in(work, "verify", "--repair", code=6).text
    assert f"nobody has: blob {shared}" in text
    gsync_in(work, "remote", "add", "second", "../whole")
    assert repaired(work, "--from", "origin", code=6)["repaired"] == []
    assert repaired(work)["repaired"] == [{"kind": "blob", "id": shared, "from": "second"}]
    check_whole(work, template)


def test_a_remote_that_is_away(work: Path, template: Path) -> None:
    """A remote that cannot be asked is reported, and the next one is asked."""
    oid = ids(work, "blob")[0]
    delete(work, oid)
    (work.parent / "there").rename(work.parent / "moved")
    done = repaired(work, code=6)
    assert [item["remote"] for item in done["remotes"]] == ["origin"]
    gsync_in(work, "remote", "add", "second", "../moved")
    assert repaired(work)["repaired"][0]["from"] == "second"
    check_whole(work, template)


def test_the_live_folder_mends(work: Path, template: Path) -> None:
    """Without a remote contents, chunks, chunk lists and links come from the live files."""
    shutil.rmtree(work.parent / "there")
    gsync_in(work, "remote", "remove", "origin")
    shutil.copytree(template / "expected", work, symlinks=True, dirs_exist_ok=True)
    with SqliteStore.open(store_of(work)) as store:
        link = object_id(Kind.BLOB, b"large").hex()
        small = object_id(Kind.BLOB, b"edited\n").hex()
        assert store.find_ids(Kind.BLOB, link)
    lost = {link, small, ids(work, "blob")[-1], ids(work, "chunk_list")[-1]}
    lost |= set(ids(work, "blob")[10:20])
    for oid in lost:
        delete(work, oid)
    planned = repaired(work, "--dry-run", code=6)
    done = repaired(work)
    assert {item["from"] for item in planned["repaired"]} == {"the folder"}
    assert {item["from"] for item in done["repaired"]} == {"the folder"}
    assert {item["id"] for item in done["repaired"]} == lost
    check_whole(work, template)


def test_the_live_folder_is_no_way_out(work: Path) -> None:
    """A directory that became a link is not followed: what is outside is not ours."""
    oid = object_id(Kind.BLOB, b"edited\n").hex()
    delete(work, oid)
    shutil.rmtree(work.parent / "there")
    outside = work.parent / "outside"
    write(outside, {"f1": b"edited\n"})
    shutil.rmtree(work / "d1")
    (work / "d1").symlink_to(outside)
    assert [item["id"] for item in repaired(work, code=6)["lacking"]] == [oid]


def test_rows_alone_are_gone(work: Path, template: Path) -> None:
    """A row that was deleted leaves the body in its pack, where a repair finds it."""
    shutil.rmtree(work.parent / "there")
    for kind in ("blob", "manifest"):
        oid = ids(work, kind)[-1]
        sql(work, "DELETE FROM object WHERE oid = ?", bytes.fromhex(oid))
        done = repaired(work)
        assert {"kind": kind, "id": oid, "from": "the store"} in done["repaired"]
        assert {item["from"] for item in done["repaired"]} == {"the store"}
    check_whole(work, template)


def test_dry_run_changes_nothing(work: Path) -> None:
    """It says what would be asked, and asks nobody."""
    oid = ids(work, "node")[0]
    delete(work, oid)
    before = sql(work, "SELECT * FROM object ORDER BY id")
    done = repaired(work, "--dry-run", code=6)
    assert done["dry_run"]
    assert {"kind": "node", "id": oid} in done["lacking"]
    assert done["repaired"] == done["remotes"] == []
    assert (
        f"would be asked for: node {oid}"
        in gsync_in(work, "verify", "--repair", "--dry-run", code=6).text
    )
    assert sql(work, "SELECT * FROM object ORDER BY id") == before


def test_what_nothing_names_is_dropped(work: Path, template: Path) -> None:
    """A damaged object that is not reachable is not asked for, but dropped."""
    with SqliteStore.open(store_of(work)) as store:
        stray = store.put(Kind.BLOB, b"named by nothing").hex()
    flip(work, stray)
    done = repaired(work)
    assert (done["repaired"], done["dropped"]) == ([], [stray])
    check_whole(work, template)


def test_forgotten_history_is_not_missing(work: Path) -> None:
    """What was forgotten on purpose is not fetched again."""
    gsync_in(work, "forget", "--keep-last", "1", "--quiet")
    gsync_in(work, "gc")
    count = len(ids(work, "manifest"))
    delete(work, ids(work, "blob")[-1])
    done = repaired(work)
    assert len(done["repaired"]) == 1
    assert len(ids(work, "manifest")) == count


def test_what_is_refused(work: Path) -> None:
    """Options that make no sense alone are wrong usage; an unknown remote is not found."""
    for args in (["--from", "origin"], ["--dry-run"], ["--repair", "--quick"]):
        refused(work, "verify", *args, code=2)
    refused(work, "verify", "--repair", "--from", "nobody", code=4)


# --- Hostile remotes -----------------------------------------------------------------------


class Hostile:
    """A connection that answers every request for objects in one bad way."""

    def __init__(self, answer: Callable[[Sequence[tuple[Kind, ObjectId]]], Iterator[Frame]]):
        self.traffic = Traffic()
        self.requests = 0
        self._answer = answer

    def hello(self, hello: Hello) -> Welcome:
        return Welcome(1, Limits(), {}, None, [])

    def objects(self, wants: Sequence[tuple[Kind, ObjectId]]) -> Iterator[Frame]:
        self.requests += 1
        return self._answer(wants)


END = Frame(FrameType.END, encode([1]))
JUNK = pack_frame(pack_objects([(Kind.BLOB, b"something else")]))


def endless(wants: Sequence[tuple[Kind, ObjectId]]) -> Iterator[Frame]:
    while True:
        yield JUNK


def bomb(wants: Sequence[tuple[Kind, ObjectId]]) -> Iterator[Frame]:
    whole = pack_objects([(Kind.BLOB, bytes(1 << 20))])
    yield pack_frame(Pack(whole.kinds, (16,), True, whole.data))


def other_kind(wants: Sequence[tuple[Kind, ObjectId]]) -> Iterator[Frame]:
    """The body that was asked for, as a chunk list."""
    yield pack_frame(pack_objects([(Kind.CHUNK_LIST, b"edited\n")]))
    yield END


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda wants: iter([JUNK, END]), id="another object"),
        pytest.param(lambda wants: iter([JUNK]), id="cut off"),
        pytest.param(lambda wants: iter([END]), id="nothing"),
        pytest.param(lambda wants: iter([Frame(FrameType.PACK, b"\xff")]), id="no pack"),
        pytest.param(lambda wants: iter([Frame(FrameType.ERROR, b"\xff")]), id="no error"),
        pytest.param(lambda wants: iter([Frame(FrameType.PATCH, b"")]), id="a patch"),
        endless,
        bomb,
        other_kind,
    ],
)
def test_a_hostile_remote_changes_nothing(work: Path, template: Path, answer: Any) -> None:
    """Whatever it answers is refused, nothing of it is stored, and the next remote is asked."""
    wanted = [
        object_id(Kind.BLOB, b"edited\n").hex(),
        ids(work, "schema")[0],
        ids(work, "chunk_list")[0],
    ]
    for oid in wanted:
        flip(work, oid)
    before = sql(work, "SELECT * FROM object ORDER BY id")
    hostile = Hostile(answer)

    @contextmanager
    def connect() -> Iterator[Any]:
        yield hostile

    with open_repository(work) as repo, repo.writing("test"):
        done = repair(repo, [("evil", connect)])
    assert {oid.hex() for _, oid in done.lacking} >= set(wanted)
    assert (done.mended, done.dropped) == ([], [])
    assert [refusal.remote for refusal in done.refusals] == ["evil"]
    assert sql(work, "SELECT * FROM object ORDER BY id") == before
    assert hostile.requests <= 2 * len(done.lacking)
    repaired(work)
    check_whole(work, template)


def test_a_remote_with_nothing_of_it_is_given_up(work: Path) -> None:
    """A remote that has none of many objects is not asked for each of them."""
    sql(work, "DELETE FROM object WHERE kind = 1")
    hostile = Hostile(lambda wants: iter([END]))

    @contextmanager
    def connect() -> Iterator[Any]:
        yield hostile

    with open_repository(work) as repo, repo.writing("test"):
        done = repair(repo, [("empty", connect)])
    assert len(done.lacking) > 280
    assert hostile.requests <= 256


# --- kill -9 -------------------------------------------------------------------------------


def test_killed_repair(work: Path, template: Path) -> None:
    """Wherever a repair is killed, nothing whole is lost, and repeating it mends the rest."""
    for kind in KINDS:
        for oid in ids(work, kind)[::2]:
            flip(work, oid)
    began = time.monotonic()
    copy = shutil.copytree(work, work.parent / "copy", symlinks=True)
    repaired(copy)
    whole_s = time.monotonic() - began
    shutil.rmtree(copy)
    bad = damaged_in(work)
    all_ids = {oid for kind in KINDS for oid in ids(work, kind)}
    kills = 0
    for after_s in sorted(random.Random(3).uniform(0.3, 1.0) * whole_s for _ in range(10)):
        kills += killed(start(work, "verify", "--repair"), after_s)
        now = damaged_in(work)
        assert now <= bad
        assert {oid for kind in KINDS for oid in ids(work, kind)} == all_ids
        bad = now
    assert kills > 0
    repaired(work)
    check_whole(work, template)


def damaged_in(folder: Path) -> set[ObjectId]:
    with SqliteStore.open(store_of(folder)) as store:
        return {oid for oid, problem in store.check_objects() if problem}


def killed(process: subprocess.Popen[bytes], after_s: float) -> bool:
    with process:
        try:
            process.wait(after_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
    return process.returncode == -signal.SIGKILL
