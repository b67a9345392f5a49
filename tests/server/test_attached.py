"""A tenant with a live folder and a database: nothing is lost on either side."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support import UNPRIVILEGED, require
from support_cli import gsync_in, json_in, make_repository, read_tree, refused, start, write
from support_pg import MakeDatabase
from support_server import RunningServer, clone, commit, push, running_server
from support_tables import SCHEMA, Live, fill_from_head, generation, recorded
from support_tables import attach as attach_database

from gsync.errors import Conflict, GsyncError, Invalid, NotFound, Unavailable
from gsync.protocol.frames import Frame, FrameType, encode_frame
from gsync.protocol.messages import Hello
from gsync.remotes.http import HttpRemote
from gsync.server.attached import attach
from gsync.sync.lock import locked
from gsync.sync.repository import init_repository, open_repository, scan

# Each kill takes some seconds; GSYNC_KILLS=50 is the long form (CONTRIBUTING.md).
KILLS = int(os.environ.get("GSYNC_KILLS", "4"))
ROWS = 40
ENGINES = pytest.mark.parametrize(
    "engine", ["sqlite", pytest.param("postgres", marks=pytest.mark.slow)]
)
WAIT_S = 60


@dataclass
class Site:
    """A folder at a server, with its database or without one, and where clients are made."""

    base: Path
    folder: Path
    live: Live | None = None
    port: int = 0
    env: dict[str, Any] = field(default_factory=dict)
    tokens: dict[tuple[str, str], str] = field(default_factory=dict)
    make_database: MakeDatabase | None = None

    @contextmanager
    def served(self, prelude: str = "") -> Iterator[RunningServer]:
        data = self.base / "data"
        attached = {"team": self.folder}
        with running_server(data, port=self.port, attached=attached, prelude=prelude) as server:
            self.port, server.tokens = server.port, self.tokens
            self.env = {"GSYNC_TOKEN": server.token("team")}
            yield server

    def client(self, name: str) -> tuple[Path, Live | None]:
        """A clone with a database of its own, which is at HEAD."""
        gsync_in(self.base, "clone", f"http://127.0.0.1:{self.port}/team", name, **self.env)
        folder, live = self.base / name, None
        if self.live is not None:
            live = make_live(self.live.engine, self.base / f"{name}.db", self.make_database)
            attach_database(folder, live)
            fill_from_head(folder)
        return folder, live

    def state(self) -> object:
        return read_tree(self.folder), self.live.rows() if self.live else None


def make_live(engine: str, path: Path, make_database: MakeDatabase | None) -> Live:
    if engine == "postgres":
        assert make_database is not None
        database = make_database(SCHEMA["postgres"])
        return Live("postgres", database.url, database)
    live = Live("sqlite", f"sqlite:///{path}")
    live.run(*SCHEMA["sqlite"].split(";"))
    return live


def make_site(tmp_path: Path, engine: str, request: pytest.FixtureRequest) -> Site:
    require("server")
    maker = request.getfixturevalue("make_database") if engine == "postgres" else None
    live = make_live(engine, tmp_path / "site.db", maker)
    live.fill(generation(1, ROWS))
    folder = recorded(tmp_path / "site", live, {"a.txt": b"a\n", "b.txt": b"b\n"})
    gsync_in(folder, "snapshot", "-m", "first")
    return Site(tmp_path, folder, live, make_database=maker)


@pytest.fixture
def files(tmp_path: Path) -> Site:
    """A folder without a database."""
    require("server")
    return Site(tmp_path, make_repository(tmp_path / "site", {"a.txt": b"a\n", "b.txt": b"b\n"}))


def head(folder: Path) -> str:
    with open_repository(folder, read_only=True) as repo:
        oid = repo.head()
    assert oid is not None
    return oid.hex()


def check_recorded(folder: Path) -> None:
    """All that is live there is in the manifest that main points at."""
    with open_repository(folder) as repo:
        assert scan(repo, write=False).changes == []


def set_n(live: Live | None, row: int, n: int) -> None:
    assert live is not None
    live.run(f"UPDATE users SET n = {n} WHERE id = {row}")


def n_of(live: Live | None) -> dict[int, int]:
    assert live is not None
    return {row[0]: row[2] for row in live.rows()["users"]}


def check_alike(site: Site, *clients: tuple[Path, Live | None]) -> None:
    for folder, live in clients:
        assert read_tree(folder) == read_tree(site.folder)
        assert head(folder) == head(site.folder)
        if live is not None:
            assert site.live is not None
            assert live.rows() == site.live.rows()
    check_recorded(site.folder)
    assert json_in(site.folder, "verify")["problems"] == []


# --- Both ways -----------------------------------------------------------------------


def test_what_changes_at_the_server_is_there_to_be_pulled(files: Site) -> None:
    """Nobody has to run a command there; who changed it, and who moved the ref, is recorded."""
    with files.served():
        folder, _ = files.client("one")
        write(files.folder, {"c.txt": b"made by a service\n"})
        gsync_in(folder, "pull", **files.env)
        assert (folder / "c.txt").read_bytes() == b"made by a service\n"
    made = json_in(files.folder, "log")["manifests"][0]
    assert made["author"] == "attached folder of team"
    moved = json_in(files.folder, "reflog")["entries"][0]
    assert (moved["why"], moved["new"]) == ("take in", made["manifest"])
    assert moved["actor"]


@ENGINES
def test_edits_on_both_sides_converge(
    engine: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Files and cells that either side changed are on both sides after one sync."""
    site = make_site(tmp_path, engine, request)
    with site.served():
        folder, live = site.client("one")
        write(site.folder, {"b.txt": b"from the server\n"})
        set_n(site.live, 1, 1001)
        write(folder, {"a.txt": b"from the client\n"})
        set_n(live, 2, 2002)
        gsync_in(folder, "sync", **site.env)
        check_alike(site, (folder, live))
        assert (folder / "a.txt").read_bytes() == b"from the client\n"
        assert (folder / "b.txt").read_bytes() == b"from the server\n"
        assert (n_of(live)[1], n_of(live)[2]) == (1001, 2002)
        assert live is not None
        live.run("DELETE FROM posts WHERE user_id = 3", "DELETE FROM users WHERE id = 3")
        (folder / "b.txt").unlink()
        gsync_in(folder, "sync", **site.env)
        check_alike(site, (folder, live))
        assert 3 not in n_of(site.live)
        assert not (site.folder / "b.txt").exists()
    pushed = json_in(site.folder, "reflog")["entries"][0]
    assert (pushed["actor"], pushed["why"]) == ("write", "push")


@ENGINES
def test_the_same_cell_on_both_sides(
    engine: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """It is a conflict at the client; the server keeps its own until that is decided."""
    site = make_site(tmp_path, engine, request)
    with site.served():
        folder, live = site.client("one")
        set_n(site.live, 1, 1001)
        set_n(live, 1, 2002)
        gsync_in(folder, "sync", code=1, **site.env)
        assert (n_of(site.live)[1], n_of(live)[1]) == (1001, 2002)
        gsync_in(folder, "resolve", "--all", "--theirs")
        gsync_in(folder, "merge", "--continue")
        assert n_of(live)[1] == 1001
        set_n(live, 1, 3003)
        gsync_in(folder, "sync", **site.env)
        assert n_of(site.live)[1] == 3003
        check_alike(site, (folder, live))


def test_an_edit_that_nobody_has_seen_refuses_a_push(files: Site) -> None:
    """What was edited after the hello is taken in before refs are compared: 409 and the new id."""
    with files.served() as server, closing(server.connect("team")) as remote:
        store, old = clone(remote)
        new = commit(store, {b"a.txt": b"pushed\n"}, (old,))
        write(files.folder, {"b.txt": b"edited meanwhile\n"})
        before = read_tree(files.folder)
        with pytest.raises(Conflict) as caught:
            push(remote, store, new, old)
        assert read_tree(files.folder) == before
        now = head(files.folder)
        assert now != old.hex()
        assert f"found {now[:12]}" in caught.value.message
        check_recorded(files.folder)


def test_push_says_so_and_sync_brings_both(files: Site) -> None:
    with files.served():
        folder, _ = files.client("one")
        write(files.folder, {"b.txt": b"edited there\n"})
        write(folder, {"a.txt": b"edited here\n"})
        gsync_in(folder, "snapshot", "-m", "here")
        message, hint = refused(folder, "push", code=5, **files.env)
        assert "somebody pushed first" in message
        assert "gsync sync" in hint
        gsync_in(folder, "sync", **files.env)
        check_alike(files, (folder, None))
        assert (files.folder / "a.txt").read_bytes() == b"edited here\n"
        assert (files.folder / "b.txt").read_bytes() == b"edited there\n"


RESTLESS = """
from gsync.server import attached
real, count = attached.snapshot, [0]
def snapshot(repo, *args, **kwargs):
    count[0] += 1
    (repo.root / 'log.txt').write_text(f'line {count[0]}')
    return real(repo, *args, **kwargs)
attached.snapshot = snapshot
"""


def test_sync_gives_up_after_three_times(files: Site) -> None:
    """A folder that changes between any two looks is pulled three times and pushed to none."""
    with files.served(RESTLESS) as server:
        folder, _ = files.client("one")
        write(folder, {"a.txt": b"edited here\n"})
        before = server.log().count("/v1/hello")
        refused_sync = start(folder, "sync", **files.env)
        _, err = refused_sync.communicate(timeout=WAIT_S)
        assert (refused_sync.returncode, server.log().count("/v1/hello") - before) == (5, 6), err
        assert b"somebody pushed first" in err
        assert (files.folder / "a.txt").read_bytes() == b"a\n"
    with files.served():
        gsync_in(folder, "sync", **files.env)
        check_alike(files, (folder, None))


def test_an_empty_folder_is_filled_by_the_first_push(tmp_path: Path) -> None:
    require("server")
    site = Site(tmp_path, tmp_path / "site")
    site.folder.mkdir()
    gsync_in(site.folder, "init")
    (site.folder / "gsync.toml").unlink()
    folder = make_repository(tmp_path / "one")
    with site.served():
        gsync_in(folder, "remote", "add", "origin", f"http://127.0.0.1:{site.port}/team")
        gsync_in(folder, "push", **site.env)
        check_alike(site, (folder, None))


def test_a_tag_alone_is_pushed(files: Site) -> None:
    with files.served():
        folder, _ = files.client("one")
        gsync_in(folder, "tag", "v1")
        gsync_in(folder, "push", **files.env)
        assert json_in(files.folder, "refs")["refs"]["tags/v1"] == head(folder)


# --- One scan at a time, shared ------------------------------------------------------

COUNTED = """
import time
from gsync.server import attached
scan, ask, base = attached.snapshot, attached.Attached.take_in, pathlib.Path({base!r})

def count(name):
    with (base / name).open('ab') as file:
        file.write(b'.')

def snapshot(*args, **kwargs):
    made = scan(*args, **kwargs)
    count('scans')
    while not (base / 'go').exists():
        time.sleep(0.01)
    return made

async def take_in(*args):
    count('asked')
    await ask(*args)

attached.snapshot, attached.Attached.take_in = snapshot, take_in
"""


@contextmanager
def counted_scans(site: Site) -> Iterator[RunningServer]:
    """A server that counts scans and who asked for one; a scan ends only while `go` is there."""
    (site.base / "go").touch()
    with site.served(COUNTED.format(base=str(site.base))) as server:
        (site.base / "scans").unlink()  # of the start
        (site.base / "go").unlink()
        yield server
        (site.base / "go").touch()


def wait_for(counted: Path, count: int) -> None:
    for _ in range(WAIT_S * 100):
        if counted.exists() and counted.stat().st_size >= count:
            return
        time.sleep(0.01)
    raise AssertionError(f"{counted}: never came to {count}")


def test_a_scan_serves_all_who_asked_before_it(files: Site) -> None:
    with counted_scans(files) as server, ThreadPoolExecutor(9) as pool:
        answers = [pool.submit(say_hello, server)]
        wait_for(files.base / "scans", 1)
        answers += [pool.submit(say_hello, server) for _ in range(8)]
        wait_for(files.base / "asked", 9)
        (files.base / "go").touch()
        assert {answer.result() for answer in answers} == {head(files.folder)}
        assert (files.base / "scans").stat().st_size == 2


def test_a_scan_that_began_before_the_question_does_not_answer_it(files: Site) -> None:
    with counted_scans(files) as server, ThreadPoolExecutor(2) as pool:
        old = head(files.folder)
        early = pool.submit(say_hello, server)
        wait_for(files.base / "scans", 1)
        write(files.folder, {"c.txt": b"after the scan\n"})
        late = pool.submit(say_hello, server)
        wait_for(files.base / "asked", 2)
        (files.base / "go").touch()
        assert early.result() == old
        assert late.result() == head(files.folder) != old


def test_a_scan_that_takes_long_is_said(files: Site) -> None:
    """A client must not give up on a server that only scans; the scan goes on meanwhile."""
    short = "from gsync.server import attached; attached.SCAN_WAIT_S = 0.5"
    (files.base / "go").touch()
    with files.served(short + COUNTED.format(base=str(files.base))) as server:
        old = head(files.folder)
        write(files.folder, {"c.txt": b"new\n"})
        (files.base / "go").unlink()
        with (
            closing(HttpRemote(f"{server.base}/team", server.token("team"), attempts=1)) as remote,
            pytest.raises(Unavailable, match="is being scanned"),
        ):
            remote.hello(Hello(1, None))
        (files.base / "go").touch()
        assert say_hello(server) == head(files.folder) != old


def say_hello(server: RunningServer) -> str:
    with closing(server.connect("team")) as remote:
        return remote.hello(Hello(1, None)).refs["main"].hex()


# --- What cannot be applied ----------------------------------------------------------


def push_refused(site: Site, folder: Path, code: int = 5) -> str:
    """Push what must be refused; nothing has moved at the server."""
    before, main = site.state(), head(site.folder)
    message, _ = refused(folder, "push", code=code, **site.env)
    assert site.state() == before
    assert head(site.folder) == main
    check_recorded(site.folder)
    return message


REFUSING = {
    "sqlite": [
        "CREATE TRIGGER picky BEFORE UPDATE ON users WHEN NEW.n = 77"
        " BEGIN SELECT RAISE(ABORT, 'not seventy-seven'); END"
    ],
    "postgres": [
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE check_violation USING MESSAGE = 'not seventy-seven'; END $$",
        "CREATE TRIGGER picky BEFORE UPDATE ON users FOR EACH ROW WHEN (NEW.n = 77)"
        " EXECUTE FUNCTION refuse()",
    ],
}


@ENGINES
def test_rows_that_the_database_refuses(
    engine: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Neither the files that came along nor the ref move; the refusal names the constraint."""
    site = make_site(tmp_path, engine, request)
    assert site.live is not None
    with site.served():
        folder, live = site.client("one")
        site.live.run(*REFUSING[engine])
        set_n(live, 1, 77)
        set_n(live, 2, 78)
        write(folder, {"a.txt": b"came along\n"})
        gsync_in(folder, "snapshot", "-m", "a number that is not wanted")
        message = push_refused(site, folder)
        assert "the folder of team at the server" in message
        assert "not seventy-seven" in message
        set_n(live, 1, 79)
        gsync_in(folder, "sync", **site.env)
        check_alike(site, (folder, live))


def test_protected_columns(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    site = make_site(tmp_path, "sqlite", request)
    with site.served():
        folder, live = site.client("one")
        text = (site.folder / "gsync.toml").read_text()
        guarded = text.replace('[db.main.tables.users]\nkey = ["id"]\n', GUARDED)
        write(site.folder, {"gsync.toml": guarded.encode()})
        gsync_in(folder, "pull", **site.env)
        set_n(live, 1, 77)
        write(folder, {"a.txt": b"came along\n"})
        gsync_in(folder, "snapshot", "-m", "more")
        assert "protected by gsync.toml" in push_refused(site, folder)


GUARDED = '[db.main.tables.users]\nkey = ["id"]\nprotected = ["n"]\n'


def test_an_ignored_file_in_the_way(files: Site) -> None:
    with files.served():
        folder, _ = files.client("one")
        write(files.folder, {".gsyncignore": b"*.cache\n", "x.cache": b"theirs alone\n"})
        gsync_in(folder, "pull", **files.env)
        write(folder, {".gsyncignore": b"", "x.cache": b"pushed\n"})
        gsync_in(folder, "snapshot", "-m", "cache")
        assert "x.cache" in push_refused(files, folder)
        assert (files.folder / "x.cache").read_bytes() == b"theirs alone\n"


def test_a_file_that_cannot_be_read(files: Site) -> None:
    """Nothing can be said of such a folder, so nothing is: the refusal names the path."""
    with files.served(UNPRIVILEGED):
        folder, _ = files.client("one")
        (files.folder / "b.txt").write_bytes(b"closed\n")
        (files.folder / "b.txt").chmod(0)
        message, _ = refused(folder, "pull", code=5, **files.env)
        assert "b.txt" in message


def test_a_directory_that_cannot_be_written(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """It is found before the database commits."""
    site = make_site(tmp_path, "sqlite", request)
    write(site.folder, {"d/c.txt": b"c\n"})
    with site.served(UNPRIVILEGED):
        folder, live = site.client("one")
        (site.folder / "d").chmod(0o500)
        try:
            set_n(live, 1, 77)
            write(folder, {"d/c.txt": b"pushed\n"})
            gsync_in(folder, "snapshot", "-m", "more")
            assert "directory d" in push_refused(site, folder)
        finally:
            (site.folder / "d").chmod(0o700)


# --- In the middle -------------------------------------------------------------------

EDIT = """
from gsync.sync import checkout
real, done = checkout._swap, []
def _swap(repo, changes):
    if not done and changes and {when}:
        done.append(1)
        pathlib.Path({path!r}).write_bytes(b'edited at the last moment\\n')
    return real(repo, changes)
checkout._swap = _swap
"""


@ENGINES
def test_an_edit_between_database_and_folder(
    engine: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The database has committed when the folder refuses: it is brought back, and sync merges."""
    site = make_site(tmp_path, engine, request)
    path = site.folder / "a.txt"
    with site.served(EDIT.format(when="True", path=str(path))):
        folder, live = site.client("one")
        before = site.state()
        set_n(live, 1, 77)
        write(folder, {"a.txt": b"pushed\n", "b.txt": b"pushed too\n"})
        gsync_in(folder, "snapshot", "-m", "more")
        main = head(site.folder)
        message, hint = refused(folder, "push", code=5, **site.env)
        assert "a.txt" in message
        assert "gsync sync" in hint
        assert head(site.folder) == main
        assert site.live is not None
        assert (before[1], b"b\n") == (site.live.rows(), (site.folder / "b.txt").read_bytes())  # type: ignore[index]
        assert path.read_bytes() == b"edited at the last moment\n"
        gsync_in(folder, "sync", code=1, **site.env)  # a conflict of one file, at the client
        gsync_in(folder, "resolve", "a.txt", "--theirs")
        gsync_in(folder, "merge", "--continue")
        gsync_in(folder, "sync", **site.env)
        check_alike(site, (folder, live))
        assert n_of(site.live)[1] == 77
        assert path.read_bytes() == b"edited at the last moment\n"


KILLED = {
    "before the database": ("checkout", "check_changes"),
    "before the folder": ("checkout", "_swap"),
    "before the refs": ("checkout", "_end"),
}
KILL = """
import os, signal
from gsync.sync import checkout, repository
def die(*args, **kwargs):
    if kwargs.get('why', args[2] if len(args) > 2 else '') != 'take in':
        os.kill(os.getpid(), signal.SIGKILL)
{owner}.{name} = die
"""


def push_into_death(site: Site, folder: Path, owner: str, name: str) -> None:
    """Push to a server that is killed where it would call `owner.name`."""
    with site.served(KILL.format(owner=owner, name=name)) as server:
        process = start(folder, "push", **site.env)
        try:
            assert server.process.wait(WAIT_S) == -signal.SIGKILL
        finally:
            process.kill()
            process.communicate()


@pytest.mark.slow
@ENGINES
@pytest.mark.parametrize("instant", KILLED)
def test_killed_in_the_middle_of_a_push(
    engine: str, instant: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The next start finishes it if the database has committed, else nothing has happened."""
    site = make_site(tmp_path, engine, request)
    owner, _, name = ".".join(KILLED[instant]).rpartition(".")
    with site.served():
        folder, live = site.client("one")
    assert live is not None
    before, main = site.state(), head(site.folder)
    set_n(live, 1, 77)
    write(folder, {"a.txt": b"pushed\n", "c.txt": b"new\n"})
    gsync_in(folder, "snapshot", "-m", "more")
    push_into_death(site, folder, owner, name)
    with site.served():
        if instant == "before the database":
            assert (site.state(), head(site.folder)) == (before, main)
        else:
            assert head(site.folder) == head(folder)
            check_alike(site, (folder, live))
            assert json_in(site.folder, "reflog")["entries"][0]["actor"] == "write"
        gsync_in(folder, "sync", **site.env)
        check_alike(site, (folder, live))
        assert n_of(site.live)[1] == 77


def test_edits_after_a_kill_that_go_neither_way(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Rows at the new state and files at the old, both edited: all stays until that is undone."""
    site = make_site(tmp_path, "sqlite", request)
    with site.served():
        folder, live = site.client("one")
    set_n(live, 1, 77)
    write(folder, {"a.txt": b"pushed\n"})
    gsync_in(folder, "snapshot", "-m", "more")
    push_into_death(site, folder, "checkout", "_swap")
    write(site.folder, {"a.txt": b"edited after the kill\n"})
    set_n(site.live, 1, 88)
    with site.served() as server:
        assert "cannot be taken in" in server.log()
        message, hint = refused(folder, "pull", code=5, **site.env)
        assert "an interrupted 'push' cannot go on" in message
        assert "a.txt" in message
        assert "gsync restore --force" in hint
        with open_repository(site.folder) as repo:
            repo.store.drop_expired(2**62)  # the push is long over
        gsync_in(site.folder, "gc")
        assert n_of(site.live)[1] == 88
        assert (site.folder / "a.txt").read_bytes() == b"edited after the kill\n"
        gsync_in(site.folder, "restore", "HEAD", "a.txt", "--force")
        gsync_in(folder, "sync", **site.env)
        check_alike(site, (folder, live))
        assert (site.folder / "a.txt").read_bytes() == b"pushed\n"
        assert n_of(live)[1] == 88


@pytest.mark.slow
@ENGINES
def test_killed_at_any_instant(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Folder and database are old or new together at the next start, and a sync finishes."""
    site = make_site(tmp_path, engine, request)
    assert site.live is not None
    with site.served():
        folder, live = site.client("one")
        assert live is not None
        began = time.monotonic()
        change(folder, live, 2)
        gsync_in(folder, "push", **site.env)
        whole_s = time.monotonic() - began
    r = random.Random(9)
    for n in range(3, 3 + KILLS):
        after_s = r.uniform(0.1, 1.1) * whole_s
        change(folder, live, n)
        with site.served() as server:
            process = start(folder, "push", **site.env)
            try:
                time.sleep(after_s)
                server.kill()
            finally:
                process.kill()
                process.communicate()
        with site.served():
            found = (site.folder / "a.txt").read_text(), site.live.rows()
            old = f"generation {n - 1}", generation(n - 1, ROWS)
            assert found in (old, (f"generation {n}", generation(n, ROWS))), (n, after_s)
            gsync_in(folder, "sync", **site.env)
            check_alike(site, (folder, live))
            assert (site.folder / "a.txt").read_text() == f"generation {n}"


def change(folder: Path, live: Live, n: int) -> None:
    live.fill(generation(n, ROWS))
    write(folder, {"a.txt": f"generation {n}".encode()})
    gsync_in(folder, "snapshot", "-m", f"generation {n}")


# --- Several at once -----------------------------------------------------------------


def sync_until_done(folder: Path, env: dict[str, Any]) -> None:
    """Sync again where others were faster three times, as a person would."""
    for _ in range(20):
        process = start(folder, "sync", **env)
        out, err = process.communicate(timeout=WAIT_S)
        if process.returncode == 0:
            return
        assert process.returncode in (5, 7), (out, err)
    raise AssertionError("20 syncs were refused")


@pytest.mark.slow
def test_two_pushers_and_a_command_in_the_folder(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """All that three changed at once, with the server in between, is everywhere in the end."""
    site = make_site(tmp_path, "sqlite", request)
    with site.served():
        clients = [site.client("one"), site.client("two")]

        def work(which: int) -> None:
            folder, live = clients[which]
            for n in range(3):
                write(folder, {f"{folder.name}.txt": b"%d\n" % n})
                set_n(live, 1 + which, 1000 * (which + 1) + n)
                sync_until_done(folder, site.env)

        def work_there() -> None:
            for n in range(3):
                write(site.folder, {"there.txt": b"%d\n" % n})
                set_n(site.live, 5, 5000 + n)
                process = start(site.folder, "snapshot", "-m", "there")
                _, err = process.communicate(timeout=WAIT_S)
                assert process.returncode in (0, 7), err

        with ThreadPoolExecutor(3) as pool:
            for job in [pool.submit(work, 0), pool.submit(work, 1), pool.submit(work_there)]:
                job.result()
        for folder, _ in clients:
            sync_until_done(folder, site.env)
        sync_until_done(clients[0][0], site.env)
        check_alike(site, *clients)
        for name in ("one", "two", "there"):
            assert (site.folder / f"{name}.txt").read_bytes() == b"2\n"
        assert [n_of(site.live)[row] for row in (1, 2, 5)] == [1002, 2002, 5002]


def test_a_command_that_works_there_for_long(files: Site) -> None:
    """Whoever asks meanwhile is told who holds the folder, and to come again."""
    prelude = "from gsync.server import attached; attached.WAIT_S = 0.2"
    with files.served(prelude) as server, closing(server.connect("team")) as remote:
        store, old = clone(remote)
        new = commit(store, {b"a.txt": b"pushed\n"}, (old,))
        with locked(files.folder / ".gsync" / "lock", "gsync pull"):
            with pytest.raises(Unavailable, match="in use by gsync pull"):
                remote.hello(Hello(1, None))
            with pytest.raises(Unavailable, match="in use by gsync pull"):
                push(remote, store, new, old)
            assert head(files.folder) == old.hex()
        push(remote, store, new, old)
        assert head(files.folder) == new.hex()
        assert "status=503" in server.log()


SLOW = """
import time
from gsync.server import attached
real = attached.snapshot
def snapshot(*args, **kwargs):
    time.sleep(1.2)
    return real(*args, **kwargs)
attached.snapshot = snapshot
"""


@pytest.mark.slow
def test_many_requests_leave_room_for_a_command(files: Site) -> None:
    """Whoever polls for the lock gets it beside clients whose slow scans follow each other."""
    with files.served(SLOW) as server, ThreadPoolExecutor(3) as pool:
        stop = threading.Event()

        def ask() -> int:
            count = 0
            while not stop.is_set():
                say_hello(server)
                count += 1
            return count

        asking = [pool.submit(ask) for _ in range(3)]
        try:
            for n in range(3):
                gsync_in(files.folder, "tag", f"v{n}")
        finally:
            stop.set()
        assert all(job.result() for job in asking)


def test_a_slow_pusher_does_not_hold_the_folder(files: Site) -> None:
    """Bytes of a client are waited for without the lock."""
    with files.served() as server:
        frame = encode_frame(Frame(FrameType.END, b"\x91\x00"))
        request = (
            f"POST /team/v1/frames/{'ab' * 16} HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: Bearer {server.token('team')}\r\nContent-Length: 100000\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(request.encode() + frame[:3])
            say_hello(server)
            write(files.folder, {"c.txt": b"meanwhile\n"})
            gsync_in(files.folder, "snapshot", "-m", "meanwhile")
            assert say_hello(server) == head(files.folder)


# --- What is attached ----------------------------------------------------------------


def serve_refused(base: Path, *args: str, code: int) -> str:
    message, _ = refused(base, "serve", "--data", "data", "--port", "0", *args, code=code)
    return message


def test_what_cannot_be_attached(tmp_path: Path) -> None:
    """Each is said before the server listens."""
    for name in ("site", "around", "data/inside"):
        init_repository(tmp_path / name)
    init_repository(tmp_path / "bare", bare=True)
    (tmp_path / "plain").mkdir()
    cases: list[tuple[str, type[GsyncError], list[tuple[str, str]]]] = [
        ("no tenant", Invalid, [("api", "site")]),
        ("no such directory", NotFound, [("team", "nowhere")]),
        ("no gsync folder", NotFound, [("team", "plain")]),
        ("no gsync folder", NotFound, [("team", "bare")]),
        ("attached to it already", Invalid, [("team", "site"), ("team", "around")]),
        ("attached to team already", Invalid, [("team", "site"), ("other", "site")]),
        ("one in the other", Invalid, [("team", "data/inside")]),
    ]
    for expected, kind, pairs in cases:
        wanted = [(tenant, tmp_path / folder) for tenant, folder in pairs]
        with pytest.raises(kind, match=expected), attach(wanted, tmp_path / "data"):
            pass
    around = tmp_path / "around"
    with pytest.raises(Invalid, match="one in the other"), attach([("team", around)], around / "d"):
        pass
    assert "expected TENANT=DIR" in serve_refused(tmp_path, "--attach", "team", code=2)


def test_a_tenant_that_has_a_store(tmp_path: Path) -> None:
    require("server")
    folder = make_repository(tmp_path / "site")
    with running_server(tmp_path / "data") as server:
        gsync_in(folder, "remote", "add", "origin", f"{server.base}/team")
        gsync_in(folder, "push", GSYNC_TOKEN=server.token("team"))
    assert "has a store" in serve_refused(tmp_path, "--attach", "team=site", code=5)


def test_two_servers_do_not_attach_one_folder(files: Site) -> None:
    with files.served():
        args = ["--data", "other", "--port", "0", "--attach", "team=site"]
        message, _ = refused(files.base, "serve", *args, code=7)
        assert "in use by gsync serve" in message


def test_the_command_attaches(files: Site) -> None:
    """`gsync serve --attach` end to end, and the tenant's own data stays out of the way."""
    gsync_in(files.base, "token", "add", "--data", "data", "--tenant", "team", "--scope", "read")
    with start(files.base, "serve", "--data", "data", "--port", "0", "--attach", "team=site") as at:
        try:
            assert at.stdout is not None
            assert at.stdout.readline().startswith(b"listening on http://127.0.0.1:")
        finally:
            at.terminate()
            at.communicate(timeout=WAIT_S)
    assert not (files.base / "data" / "tenants").exists()
