"""Two folders and a store between them: push, pull and clone with the real command."""

from __future__ import annotations

import os
import random
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from proxy import Proxy
from support import require
from support_cli import (
    gsync_in,
    head,
    json_in,
    make_repository,
    read_tree,
    refused,
    start,
    write,
)
from support_server import RunningServer, running_server

NOTHING_TO_DO_BYTES_MAX = 2048
KILLS = int(os.environ.get("GSYNC_KILLS", "4"))


def files(count: int = 40, seed: int = 1) -> dict[str, bytes]:
    r = random.Random(seed)
    return {f"d{n % 5}/f{n}": r.randbytes(r.randrange(10, 4000)) for n in range(count)}


@dataclass
class There:
    """A remote, and what a client needs for it."""

    url: str
    env: dict[str, Any]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    require("server")
    with running_server(tmp_path_factory.mktemp("server") / "data") as running:
        yield running


@pytest.fixture(params=["path", "http"])
def there(request: pytest.FixtureRequest, tmp_path: Path) -> There:
    """An empty remote, each test its own."""
    if request.param == "path":
        gsync_in(tmp_path, "init", "--bare", "there")
        return There(str(tmp_path / "there"), {})
    return http_remote(request.getfixturevalue("server"), request.node.name)


def http_remote(server: RunningServer, name: str) -> There:
    tenant = "t" + "".join(c for c in name.lower() if c.isalnum())[:40]
    return There(f"{server.base}/{tenant}", {"GSYNC_TOKEN": server.token(tenant)})


def pushed(folder: Path, there: There, content: dict[str, bytes] | None = None) -> Path:
    """Make a repository and push it to `there`."""
    make_repository(folder, files() if content is None else content)
    gsync_in(folder, "remote", "add", "origin", there.url)
    gsync_in(folder, "push", **there.env)
    return folder


def cloned(folder: Path, there: There) -> Path:
    gsync_in(folder.parent, "clone", there.url, folder.name, **there.env)
    return folder


def state(folder: Path) -> tuple[Any, str]:
    return read_tree(folder), head(folder)


def test_push_edit_clone_pull(there: There, tmp_path: Path) -> None:
    """What is pushed arrives byte for byte; nothing to do is one trip, an edit at most three."""
    one = make_repository(tmp_path / "one", files())
    os.symlink("d0/f0", one / "link")
    with open(os.path.join(os.fsencode(one), b"odd \xff\nname"), "wb") as file:
        file.write(b"odd")
    (one / "empty").mkdir()
    (one / "d0" / "f0").chmod(0o755)
    gsync_in(one, "snapshot")
    gsync_in(one, "remote", "add", "origin", there.url)
    first = json_in(one, "push", **there.env)
    assert (first["old"], first["new"], first["remote"]) == (None, head(one), "origin")
    assert first["objects_sent"] > 40
    two = cloned(tmp_path / "two", there)
    assert state(two) == state(one)
    assert json_in(two, "status")["clean"]

    idle = json_in(one, "push", **there.env)
    assert (idle["round_trips"], idle["objects_sent"]) == (1, 0)
    assert idle["bytes_sent"] + idle["bytes_received"] < NOTHING_TO_DO_BYTES_MAX
    idle = json_in(two, "pull", **there.env)
    assert (idle["round_trips"], idle["objects_received"]) == (1, 0)
    assert idle["bytes_sent"] + idle["bytes_received"] < NOTHING_TO_DO_BYTES_MAX

    write(one, {"d1/f1": b"edited\n", "new/file": b"new\n"})
    (one / "d2" / "f2").unlink()
    gsync_in(one, "snapshot", "-m", "edit")
    gsync_in(one, "tag", "v1")
    edit = json_in(one, "push", **there.env)
    assert edit["round_trips"] <= 3
    assert sorted(edit["refs"]) == ["main", "tags/v1"]
    assert edit["bytes_sent"] < first["bytes_sent"] / 10
    assert json_in(two, "pull", "--dry-run", **there.env)["new"] == head(one)
    pull = json_in(two, "pull", **there.env)
    assert pull["round_trips"] <= 3
    assert {c["key"]: c["status"] for c in pull["changes"]} == {
        "d1/f1": "modified",
        "d2/f2": "deleted",
        "new": "added",
        "new/file": "added",
    } or "new" not in {c["key"] for c in pull["changes"]}
    assert state(two) == state(one)
    assert "v1" in json_in(two, "tag")["tags"]
    for folder in (one, two):
        assert json_in(folder, "verify")["problems"] == []


def test_unsaved_changes(there: There, tmp_path: Path) -> None:
    """A pull keeps unsaved changes elsewhere, and where it would touch them changes nothing."""
    one = pushed(tmp_path / "one", there)
    two = cloned(tmp_path / "two", there)
    write(one, {"d1/f1": b"theirs\n"})
    gsync_in(one, "snapshot")
    gsync_in(one, "push", **there.env)
    write(two, {"d3/f3": b"mine\n", "untracked": b"mine\n"})
    gsync_in(two, "pull", **there.env)
    assert (two / "d1" / "f1").read_bytes() == b"theirs\n"
    assert (two / "d3" / "f3").read_bytes() == (two / "untracked").read_bytes() == b"mine\n"
    write(one, {"d3/f3": b"theirs too\n", "d4/f4": b"theirs\n"})
    gsync_in(one, "snapshot")
    gsync_in(one, "push", **there.env)
    before = state(two)
    message, hint = refused(two, "pull", code=5, **there.env)
    assert "d3/f3" in message
    assert hint
    assert state(two) == before
    gsync_in(two, "restore", "--force", "d3/f3")
    gsync_in(two, "pull", **there.env)
    assert (two / "d3" / "f3").read_bytes() == b"theirs too\n"


def test_untracked_file_is_in_the_way(there: There, tmp_path: Path) -> None:
    """A file that was never saved is not overwritten by one that a pull brings."""
    one = pushed(tmp_path / "one", there)
    two = cloned(tmp_path / "two", there)
    write(one, {"new": b"theirs\n"})
    gsync_in(one, "snapshot")
    gsync_in(one, "push", **there.env)
    write(two, {"new": b"mine\n"})
    before = state(two)
    message, _ = refused(two, "pull", code=5, **there.env)
    assert "new" in message
    assert state(two) == before


def test_somebody_pushed_first(there: There, tmp_path: Path) -> None:
    """The second of two pushes is refused with 5 and sent to sync, which merges and pushes."""
    one = pushed(tmp_path / "one", there)
    two = cloned(tmp_path / "two", there)
    write(one, {"d1/f1": b"one\n"})
    write(two, {"d2/f2": b"two\n"})
    gsync_in(one, "snapshot")
    gsync_in(two, "snapshot")
    gsync_in(one, "push", **there.env)
    before = state(two)
    _, hint = refused(two, "push", code=5, **there.env)
    assert "gsync sync" in hint
    assert state(two) == before
    gsync_in(two, "fetch", **there.env)
    gsync_in(two, "diff", "origin/main", "HEAD")
    assert json_in(two, "status")["remotes"]["origin"] == {"ahead": 1, "behind": 1}
    gsync_in(two, "sync", **there.env)
    gsync_in(one, "pull", **there.env)
    assert state(one) == state(two)
    assert json_in(one, "status")["remotes"]["origin"] == {"ahead": 0, "behind": 0}


def test_sync_both_ways(there: There, tmp_path: Path) -> None:
    """Sync records, brings and sends in one go."""
    one = pushed(tmp_path / "one", there)
    two = cloned(tmp_path / "two", there)
    write(one, {"d1/f1": b"one\n"})
    assert json_in(one, "sync", **there.env)["snapshot"] == head(one)
    json_in(two, "sync", **there.env)
    assert state(two) == state(one)


def test_history_rewritten(tmp_path: Path) -> None:
    """A remote whose log is not the one seen before is corrupt, for fetch, pull and push."""
    gsync_in(tmp_path, "init", "--bare", "there")
    there = There(str(tmp_path / "there"), {})
    one = pushed(tmp_path / "one", there)
    (tmp_path / "there").rename(tmp_path / "gone")
    gsync_in(tmp_path, "init", "--bare", "there")
    pushed(tmp_path / "other", there, {"a": b"other\n"})
    before = state(one)
    for command in ("fetch", "pull", "push"):
        refused(one, command, code=6)
    assert state(one) == before


def test_server_history_rewritten(tmp_path: Path) -> None:
    """The same of a server: it was restarted with a fresh store of that tenant."""
    require("server")
    data = tmp_path / "data"
    with running_server(data) as server:
        there = http_remote(server, "rewritten")
        one = pushed(tmp_path / "one", there)
    [store] = [path for path in data.rglob("store.db") if "rewritten" in str(path)]
    for path in store.parent.glob("store.db*"):
        path.unlink()
    with running_server(data, port=server.port) as again:
        pushed(tmp_path / "other", there, {"a": b"other\n"})
        assert again.port == server.port
        refused(one, "fetch", code=6, **there.env)


def test_refused_remotes(server: RunningServer, tmp_path: Path) -> None:
    """A wrong token is 3, no token is 3, a read token may not push, an unknown remote is 4."""
    there = http_remote(server, "refused")
    one = pushed(tmp_path / "one", there)
    refused(one, "push", code=3, GSYNC_TOKEN="gs_wrong")
    refused(one, "fetch", code=3)
    other = server.token("another")
    refused(one, "fetch", code=3, GSYNC_TOKEN=other)
    write(one, {"new": b"new\n"})
    gsync_in(one, "snapshot")
    read = server.token("trefused", "read")
    gsync_in(one, "fetch", GSYNC_TOKEN=read)
    refused(one, "push", code=3, GSYNC_TOKEN=read)
    refused(one, "push", "elsewhere", code=4, **there.env)
    (tmp_path / "token").write_text(there.env["GSYNC_TOKEN"] + "\n")
    gsync_in(one, "push", "--token-file", str(tmp_path / "token"))


@pytest.mark.slow
def test_server_down(tmp_path: Path) -> None:
    """A server that is down is 7, within a minute, and changes nothing."""
    one = make_repository(tmp_path / "one", {"a": b"a"})
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    gsync_in(one, "remote", "add", "origin", f"http://127.0.0.1:{port}/t")
    before = state(one)
    refused(one, "push", code=7, GSYNC_TOKEN="x")
    assert state(one) == before


def test_path_with_a_folder(tmp_path: Path) -> None:
    """A push into a repository that has a folder is refused with 5: the folder would lag."""
    one = make_repository(tmp_path / "one", {"a": b"a"})
    gsync_in(tmp_path, "clone", "one", "two")
    two = tmp_path / "two"
    write(two, {"a": b"b"})
    gsync_in(two, "snapshot")
    before = state(one)
    refused(two, "push", code=5)
    assert state(one) == before


def test_clone_into_what_is_there(there: There, tmp_path: Path) -> None:
    """A clone never touches a folder that holds something, nor goes into a repository."""
    one = pushed(tmp_path / "one", there, {"a": b"a"})
    write(tmp_path, {"full/mine": b"mine"})
    refused(tmp_path, "clone", there.url, "full", code=5, **there.env)
    assert read_tree(tmp_path / "full") == {b"mine": ("file", b"mine")}
    refused(one, "clone", there.url, "inside", code=5, **there.env)
    assert not (one / "inside").exists()
    (tmp_path / "void").mkdir()
    assert state(cloned(tmp_path / "void", there)) == state(one)


def test_clone_of_nothing(tmp_path: Path) -> None:
    """A clone of a path without a store is 4, and leaves nothing."""
    refused(tmp_path, "clone", "nowhere", "copy", code=4)
    assert list(tmp_path.iterdir()) == []


# --- What it costs -----------------------------------------------------------------------


def test_bytes_are_those_on_the_wire(server: RunningServer, tmp_path: Path) -> None:
    """Bytes reported for push, clone and nothing to do agree within 1 % with a proxy's count."""
    require("proxy")
    there = http_remote(server, "counted")
    one = make_repository(tmp_path / "one", files(200))
    with Proxy(server.port) as proxy:
        url = there.url.replace(server.base, proxy.base)
        gsync_in(one, "remote", "add", "origin", url)

        def check(folder: Path, *args: str) -> None:
            proxy.reset()
            done = json_in(folder, *args, **there.env)
            assert done["bytes_sent"] == pytest.approx(proxy.sent, rel=0.01)
            assert done["bytes_received"] == pytest.approx(proxy.received, rel=0.01)

        check(one, "push")
        check(one, "push")
        check(tmp_path, "clone", url, "two")
        write(one, {"d1/f1": b"edited\n"})
        gsync_in(one, "snapshot")
        check(one, "push")
        check(tmp_path / "two", "pull")
        check(tmp_path / "two", "fetch")


# --- kill -9 -------------------------------------------------------------------------------


def killed(run: Callable[[], subprocess.Popen[bytes]], after_s: float) -> bool:
    """Start a command and kill it; return whether it had not ended by itself."""
    with run() as process:
        try:
            process.wait(after_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
    return process.returncode != 0


def instants(seed: int, whole_s: float) -> list[float]:
    """Return when to kill: from where the interpreter has started to about the end."""
    r = random.Random(seed)
    return sorted(r.uniform(0.15, 1.0) * whole_s for _ in range(KILLS))


def timed(*args: Any, **env: Any) -> float:
    began = time.monotonic()
    gsync_in(*args, **env)
    return time.monotonic() - began


def check_whole(folder: Path) -> None:
    assert json_in(folder, "verify")["problems"] == []
    assert json_in(folder, "reflog", "--verify")["verified"]


@pytest.mark.slow
def test_killed_snapshot(tmp_path: Path) -> None:
    """Wherever a snapshot is killed, main is old or new, and the next one records the same."""
    folder = make_repository(tmp_path / "work", files(300))
    write(folder, files(300, seed=2))
    whole = timed(folder, "snapshot")
    for n, after in enumerate(instants(3, whole)):
        write(folder, files(300, seed=10 + n))
        before = head(folder)
        killed(lambda: start(folder, "snapshot"), after)
        check_whole(folder)
        log = [m["manifest"] for m in json_in(folder, "log", "-n", "2")["manifests"]]
        assert before in log
        gsync_in(folder, "snapshot")
        assert json_in(folder, "status")["clean"]
        assert json_in(folder, "show")["parents"] == [before]
    out = tmp_path / "out"
    gsync_in(folder, "restore", "--to", str(out))
    assert read_tree(out) == read_tree(folder)


@pytest.mark.slow
def test_killed_restore(tmp_path: Path) -> None:
    """Wherever a restore is killed, repeating it brings the folder to where it was to be."""
    folder = make_repository(tmp_path / "work", files(300))
    old = read_tree(folder)
    write(folder, files(300, seed=2))
    gsync_in(folder, "snapshot")
    new = read_tree(folder)
    whole = timed(folder, "restore", "HEAD~1")
    gsync_in(folder, "restore", "HEAD", "--force")
    assert read_tree(folder) == new
    for after in instants(4, whole):
        killed(lambda: start(folder, "restore", "HEAD~1"), after)
        json_in(folder, "snapshot", "--dry-run")  # takes the lock, so finishes what was left
        assert read_tree(folder) in (old, new)
        gsync_in(folder, "restore", "HEAD~1", "--force")
        assert read_tree(folder) == old
        check_whole(folder)
        gsync_in(folder, "restore", "HEAD", "--force")
        assert read_tree(folder) == new


@pytest.mark.slow
def test_killed_push(there: There, tmp_path: Path) -> None:
    """Wherever a push is killed, the remote's main is old or new, and repeating it succeeds."""
    one = pushed(tmp_path / "one", there, files(300))
    write(one, files(300, seed=2))
    gsync_in(one, "snapshot")
    whole = timed(one, "push", **there.env)
    for n, after in enumerate(instants(5, whole)):
        before = head(one)
        write(one, files(300, seed=10 + n))
        gsync_in(one, "snapshot")
        killed(lambda: start(one, "push", **there.env), after)
        seen = json_in(one, "fetch", "--dry-run", **there.env)["new"]
        assert seen in (before, head(one))
        gsync_in(one, "push", **there.env)
        assert json_in(one, "fetch", **there.env)["new"] == head(one)
    check_whole(one)
    two = cloned(tmp_path / "two", there)
    check_whole(two)
    assert state(two) == state(one)


@pytest.mark.slow
def test_killed_pull(there: There, tmp_path: Path) -> None:
    """Wherever a pull is killed, folder and main are old or new together, or become so."""
    one = pushed(tmp_path / "one", there, files(300))
    two = cloned(tmp_path / "two", there)
    write(one, files(300, seed=2))
    gsync_in(one, "snapshot")
    gsync_in(one, "push", **there.env)
    whole = timed(two, "pull", **there.env)
    for n, after in enumerate(instants(6, whole)):
        old = state(two)
        write(one, files(300, seed=10 + n))
        gsync_in(one, "snapshot")
        gsync_in(one, "push", **there.env)
        killed(lambda: start(two, "pull", **there.env), after)
        json_in(two, "snapshot", "--dry-run")  # takes the lock, so finishes what was left
        assert state(two) in (old, state(one))
        gsync_in(two, "pull", **there.env)
        assert state(two) == state(one)
        assert json_in(two, "status")["clean"]
    check_whole(two)


@pytest.mark.slow
def test_killed_clone(there: There, tmp_path: Path) -> None:
    """A killed clone leaves nothing under the target's name, and can be repeated."""
    one = pushed(tmp_path / "one", there, files(300))
    whole = timed(tmp_path, "clone", there.url, "whole", **there.env)
    for n, after in enumerate(instants(7, whole)):
        target = tmp_path / f"copy{n}"
        killed(partial(start, tmp_path, "clone", there.url, target.name, **there.env), after)
        if target.exists():
            assert state(target) == state(one)
        else:
            assert state(cloned(target, there)) == state(one)


@pytest.mark.slow
def test_killed_server(tmp_path: Path) -> None:
    """A server killed during a push has main old or new when it is back, and is whole."""
    require("server")
    data = tmp_path / "data"
    with running_server(data) as server:
        there = http_remote(server, "killed")
        one = pushed(tmp_path / "one", there, files(100))
    port = server.port
    r = random.Random(8)
    for n in range(4):
        write(one, files(300, seed=20 + n))
        before = head(one)
        gsync_in(one, "snapshot")
        with running_server(data, port=port) as server, start(one, "push", **there.env) as process:
            time.sleep(r.uniform(0.3, 0.9))
            server.kill()
            process.kill()
            process.communicate(timeout=30)
        with running_server(data, port=port):
            assert json_in(one, "fetch", "--dry-run", **there.env)["new"] in (before, head(one))
            gsync_in(one, "push", **there.env)
    [store] = [path for path in data.rglob("store.db") if "killed" in str(path)]
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    with running_server(data, port=port):
        assert state(cloned(tmp_path / "two", there)) == state(one)
