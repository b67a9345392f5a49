"""Two folders and a store between them: push, pull and clone with the real command."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass
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
    write,
)
from support_server import RunningServer, running_server

NOTHING_TO_DO_BYTES_MAX = 2048


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


def test_new_files_are_seen_after_a_pull_that_deleted_beside_them(tmp_path: Path) -> None:
    """The stat cache of a directory from which a pull took a file still leads below it."""
    one = make_repository(tmp_path / "one", {"a.txt": b"1\n", "sub/x.txt": b"2\n"})
    gsync_in(one, "remote", "add", "origin", str(tmp_path / "there"))
    gsync_in(one, "push")
    gsync_in(tmp_path, "clone", str(tmp_path / "there"), "two")
    two = tmp_path / "two"
    gsync_in(two, "status")
    (one / "a.txt").unlink()
    gsync_in(one, "sync")
    gsync_in(two, "pull")
    write(two, {"sub/new.txt": b"3\n", "sub/deep/n.txt": b"4\n"})
    changes = json_in(two, "status")["changes"]
    assert [change["key"] for change in changes] == ["sub/deep/n.txt", "sub/new.txt"]
