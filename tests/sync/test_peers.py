"""A peer that speaks tarballs alone, as a remote like any other, by the commands."""

from __future__ import annotations

import io
import random
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import require
from support_cli import gsync_in, json_in, make_repository, refused, start, write
from support_older import API_TOKEN, Fault, Handler, Older, hang_up, running_older, status

from gsync.sync.service import SyncConfig, SyncDirection, SyncService

ENV: dict[str, Any] = {"GSYNC_TOKEN": API_TOKEN}


@pytest.fixture(params=["direct", "relay"])
def url(request: pytest.FixtureRequest, older: Older) -> str:
    return f"tarball+{older.base}" if request.param == "direct" else f"relay+{older.base}/t%2F1"


@pytest.fixture
def older() -> Iterator[Older]:
    require("server")
    with running_older() as running:
        yield running


def make(folder: Path, url: str, files: dict[str, bytes]) -> Path:
    make_repository(folder, files)
    gsync_in(folder, "remote", "add", "origin", url)
    return folder


def sync(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json_in(folder, "sync", **ENV)
    return found


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".gsync" not in path.parts and path.name != "gsync.toml"
    }


def test_there_and_back(tmp_path: Path, older: Older, url: str) -> None:
    """A push fills the peer, edits there come back, and then nothing moves."""
    folder = make(tmp_path / "a", url, {"agents/a": b"1", "content/c.md": b"1", "notes": b"n"})
    found = json_in(folder, "push", **ENV)
    assert older.files == {"agents/a": b"1", "content/c.md": b"1"}
    assert found["not_carried"] == 2  # notes and gsync.toml
    older.files["content/c.md"] = b"edited there"
    older.files["content/new.md"] = b"new there"
    gsync_in(folder, "pull", **ENV)
    assert (folder / "content/c.md").read_bytes() == b"edited there"
    assert (folder / "content/new.md").read_bytes() == b"new there"
    assert (folder / "notes").read_bytes() == b"n"
    asked = len(older.asked)
    assert sync(folder)["snapshot"] is None
    posts = [line for line in older.asked[asked:] if line.startswith("POST")]
    assert posts == []
    before = json_in(folder, "refs")["refs"]
    sync(folder)
    assert json_in(folder, "refs")["refs"] == before


def test_what_was_deleted_here_does_not_come_back(tmp_path: Path, older: Older, url: str) -> None:
    """The peer cannot delete: it is told so, again and again, and the file stays away here."""
    folder = make(tmp_path / "a", url, {"agents/a": b"1", "agents/b": b"1"})
    gsync_in(folder, "push", **ENV)
    (folder / "agents/b").unlink()
    out = gsync_in(folder, "sync", **ENV).out
    assert b"agents/b" in out and b"cannot delete" in out
    assert "agents/b" in older.files
    older.files["agents/c"] = b"from there"
    sync(folder)
    assert sorted(files_of(folder)) == ["agents/a", "agents/c"]
    # An edit of it there is an edit, and comes.
    older.files["agents/b"] = b"alive"
    sync(folder)
    assert (folder / "agents/b").read_bytes() == b"alive"


def test_what_was_deleted_there_goes_here(tmp_path: Path, older: Older, url: str) -> None:
    """A file that the peer had and has no more was deleted there."""
    folder = make(tmp_path / "a", url, {"agents/a": b"1", "agents/b": b"1"})
    gsync_in(folder, "push", **ENV)
    del older.files["agents/b"]
    sync(folder)
    assert sorted(files_of(folder)) == ["agents/a"]
    assert sorted(older.files) == ["agents/a"]


def test_edits_on_both_sides(tmp_path: Path, older: Older, url: str) -> None:
    """They merge by lines; what does not is a conflict, and nothing is sent."""
    text = b"".join(b"%d\n" % n for n in range(20))
    folder = make(tmp_path / "a", url, {"content/c.md": text})
    gsync_in(folder, "push", **ENV)
    older.files["content/c.md"] = text.replace(b"18\n", b"there\n")
    write(folder, {"content/c.md": text.replace(b"2\n", b"here\n", 1)})
    sync(folder)
    both = text.replace(b"2\n", b"here\n", 1).replace(b"18\n", b"there\n")
    assert (folder / "content/c.md").read_bytes() == both == older.files["content/c.md"]
    older.files["content/c.md"] = both.replace(b"5\n", b"five there\n", 1)
    write(folder, {"content/c.md": both.replace(b"5\n", b"five here\n", 1)})
    sent = len(older.bodies)
    gsync_in(folder, "sync", code=1, **ENV)
    assert len(older.bodies) == sent
    assert b"five here" in (folder / "content/c.md").read_bytes()


def test_first_contact_with_what_is_there(tmp_path: Path, older: Older, url: str) -> None:
    """Two trees without a common past are not merged by themselves; told to, nothing is lost."""
    older.files = {"agents/a": b"same", "agents/there": b"t"}
    folder = make(tmp_path / "a", url, {"agents/a": b"same", "agents/here": b"h"})
    _, hint = refused(folder, "pull", code=5, **ENV)
    assert "gsync merge origin/main" in hint
    refused(folder, "push", code=5, **ENV)
    gsync_in(folder, "merge", "origin/main")
    sync(folder)
    expected = {"agents/a": b"same", "agents/here": b"h", "agents/there": b"t"}
    assert files_of(folder) == expected == older.files


def test_clone(tmp_path: Path, older: Older, url: str) -> None:
    """What a peer holds becomes a folder, with the peer as its remote."""
    older.files = {"agents/a": b"1", "skills/s/SKILL.md": b"# s"}
    gsync_in(tmp_path, "clone", url, "b", **ENV)
    assert files_of(tmp_path / "b") == older.files
    write(tmp_path / "b", {"agents/new": b"2"})
    sync(tmp_path / "b")
    assert older.files["agents/new"] == b"2"


def test_a_limit_splits_an_upload(tmp_path: Path, older: Older, url: str) -> None:
    """What the peer refuses as too large goes in parts; one file that is cannot."""
    rng = random.Random(1)
    files = {f"content/{n}.bin": rng.randbytes(9000) for n in range(20)}
    older.limit_bytes = 40_000
    folder = make(tmp_path / "a", url, files)
    gsync_in(folder, "push", **ENV)
    assert older.files == files
    write(folder, {"content/large.bin": rng.randbytes(90_000)})
    gsync_in(folder, "snapshot")
    message, _ = refused(folder, "push", code=2, **ENV)
    assert "content/large.bin" in message


def test_a_limit_is_remembered(tmp_path: Path, older: Older, url: str) -> None:
    """The next push begins with what the peer takes, and is refused nothing."""
    rng = random.Random(2)
    older.limit_bytes = 40_000
    folder = make(tmp_path / "a", url, {f"content/{n}": rng.randbytes(9000) for n in range(20)})
    gsync_in(folder, "push", **ENV)
    before = len(older.bodies)
    assert any(len(body) > older.limit_bytes for body in older.bodies)
    write(folder, {f"content/more{n}": rng.randbytes(9000) for n in range(20)})
    sync(folder)
    assert len(older.files) == 40
    assert all(len(body) <= older.limit_bytes for body in older.bodies[before:])


def test_what_has_arrived_is_said(tmp_path: Path, older: Older) -> None:
    """Of an upload in parts that fails: how many files of how many; the next one goes on."""
    rng = random.Random(3)
    older.limit_bytes = 40_000
    files = {f"content/{n:02d}": rng.randbytes(9000) for n in range(20)}
    folder = make(tmp_path / "a", f"relay+{older.base}/t%2F1", files)
    older.limit_bytes = 40_000
    gsync_in(folder, "push", **ENV)
    changed = {path: rng.randbytes(9000) for path in files}
    write(folder, changed)
    older.faults = [None, None, None, None, status(403)]  # looks and parts that go well, first
    found = json_in(folder, "sync-all", code=1, **ENV)["results"][0]
    kind, done, total = (found["state"][name] for name in ("kind", "completed", "total"))
    assert (kind, total, found["items_synced"]) == ("partial", 20, done) and 0 < done < 20
    arrived = [path for path in files if older.files[path] == changed[path]]
    assert len(arrived) == done
    older.faults = []
    gsync_in(folder, "push", **ENV)
    assert older.files == changed


def test_killed_in_the_middle(tmp_path: Path, older: Older, url: str) -> None:
    """Whenever a sync is killed, the next one ends with both sides equal, and no edit lost."""

    def slowly(_: Handler) -> bool:
        time.sleep(0.05)
        return False

    rng = random.Random(4)
    older.limit_bytes = 40_000
    files = {f"content/{n:02d}": rng.randbytes(9000) for n in range(12)}
    folder = make(tmp_path / "a", url, files)
    sync(folder)
    for turn in range(8):
        older.faults = [slowly] * 40
        ours = {f"content/{n:02d}": b"ours %d" % turn + rng.randbytes(9000) for n in range(6)}
        theirs = {f"content/{n:02d}": b"theirs %d" % turn for n in range(6, 12)}
        write(folder, ours)
        older.files |= theirs
        process = start(folder, "sync", **ENV)
        time.sleep(rng.uniform(0.15, 0.9))
        process.kill()
        process.communicate()
        older.faults = []
        sync(folder)
        files |= ours | theirs
        assert older.files == files
        assert {path: (folder / path).read_bytes() for path in files} == files
    gsync_in(folder, "verify")


def test_only_what_changed_is_sent(tmp_path: Path, older: Older, url: str) -> None:
    """One edit is one file, and equal trees make equal archives."""
    folder = make(tmp_path / "a", url, {f"content/{n}.md": b"%d" % n for n in range(50)})
    gsync_in(folder, "push", **ENV)
    write(folder, {"content/7.md": b"edited"})
    sync(folder)
    with tarfile.open(fileobj=io.BytesIO(older.bodies[-1]), mode="r:gz") as tar:
        assert tar.getnames() == ["content/7.md"]


@pytest.mark.parametrize(("fault", "code"), [(status(403), 3), (status(500), 7), (hang_up, 0)])
def test_a_push_that_fails_is_made_good(
    tmp_path: Path, older: Older, fault: Fault, code: int
) -> None:
    """What is worth it is tried again; else the next push sends what did not arrive."""
    folder = make(tmp_path / "a", f"relay+{older.base}/t%2F1", {"agents/a": b"1"})
    older.faults = [None, None, fault]  # two looks, then the upload
    gsync_in(folder, "push", code=code, **ENV)
    gsync_in(folder, "push", **ENV)
    assert older.files == {"agents/a": b"1"}
    sync(folder)
    assert files_of(folder) == {"agents/a": b"1"}


def test_an_upload_whose_answer_was_lost(tmp_path: Path, older: Older) -> None:
    """It arrived; the next sync sees it there, and neither a conflict nor a second upload."""
    folder = make(tmp_path / "a", f"relay+{older.base}/t%2F1", {"agents/a": b"1"})

    def take_and_mumble(handler: Handler) -> bool:
        older.files["agents/a"] = b"1"
        handler.say(200, b"mumble")
        return True

    older.faults = [None, None, take_and_mumble]
    message, hint = refused(folder, "push", code=6, **ENV)
    assert "cannot be read" in message and "gsync sync" in hint
    refused(folder, "sync", code=5, **ENV)  # the first contact, with what is there by now
    gsync_in(folder, "merge", "origin/main")
    sync(folder)
    assert older.files == {"agents/a": b"1"} == files_of(folder)


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/x", "agents/../../x", "agents/a/b", "agents/\x01/../x"]
)
def test_hostile_archives(tmp_path: Path, older: Older, name: str) -> None:
    """What a peer gives is checked whole before anything is touched."""
    folder = make(tmp_path / "a", f"relay+{older.base}/t%2F1", {"agents/a": b"1"})
    gsync_in(folder, "push", **ENV)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for path in ("agents/a", name):
            info = tarfile.TarInfo(path)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"bad"))
    older.archive = lambda names=(): out.getvalue()  # type: ignore[method-assign]
    gsync_in(folder, "pull", code=2, **ENV)
    assert files_of(folder) == {"agents/a": b"1"}
    assert list(tmp_path.rglob("x")) == []


def test_convergence(tmp_path: Path, older: Older, url: str) -> None:
    """After any edits on both sides of different files, both hold the same, deletions aside."""
    rng = random.Random(7)
    folder = make(tmp_path / "a", url, {f"content/{n}": b"0" for n in range(8)})
    gsync_in(folder, "push", **ENV)
    gone: set[str] = set()
    for step in range(12):
        here, there = rng.sample(range(20), 2)
        mine, theirs = f"content/{here}", f"content/{there}"
        if rng.random() < 0.3 and (folder / mine).exists():
            (folder / mine).unlink()
            gone.add(mine)
        else:
            write(folder, {mine: b"h%d" % step})
            gone.discard(mine)
        older.files[theirs] = b"t%d" % step
        gone.discard(theirs)
        sync(folder)
        assert files_of(folder) == {p: b for p, b in older.files.items() if p not in gone}


def test_removing_the_remote_forgets_the_mirror(tmp_path: Path, older: Older) -> None:
    """Added again, it is a first contact."""
    folder = make(tmp_path / "a", f"tarball+{older.base}", {"agents/a": b"1"})
    gsync_in(folder, "push", **ENV)
    assert list((folder / ".gsync/peers").iterdir())
    gsync_in(folder, "remote", "remove", "origin")
    assert not list((folder / ".gsync/peers").iterdir())


def test_a_peer_set_up_anew_deletes_nothing(tmp_path: Path, older: Older, url: str) -> None:
    """One that held files and gives none is a conflict; accepted anew, it is filled."""
    folder = make(tmp_path / "a", url, {"agents/a": b"1", "agents/b": b"1"})
    gsync_in(folder, "push", **ENV)
    older.files.clear()
    for command in ("pull", "sync", "push"):
        refused(folder, command, code=5, **ENV)
    assert sorted(files_of(folder)) == ["agents/a", "agents/b"]
    gsync_in(folder, "remote", "remove", "origin")
    gsync_in(folder, "remote", "add", "origin", url)
    gsync_in(folder, "push", **ENV)
    assert older.files == {"agents/a": b"1", "agents/b": b"1"}


def test_only_directories_that_every_server_takes(tmp_path: Path, older: Older, url: str) -> None:
    """A directory that a server does not know would spoil the whole tarball, and is not sent."""
    files = {"agents/a": b"1", "web/x": b"1", "hooks/x": b"1", "mcp/x": b"1"}
    folder = make(tmp_path / "a", url, files)
    gsync_in(folder, "push", **ENV)
    assert older.files == {"agents/a": b"1"}
    settings = folder / ".gsync/config.toml"
    settings.write_text(settings.read_text() + 'include = ["agents", "mcp"]\n')
    write(folder, {"agents/a": b"2"})
    sync(folder)
    assert older.files == {"agents/a": b"2", "mcp/x": b"1"}


def test_what_we_sent_is_not_an_edit_of_theirs(tmp_path: Path, older: Older, url: str) -> None:
    """An upload whose answer was lost needs no merge, and is not sent twice."""
    folder = make(tmp_path / "a", url, {"agents/a": b"1"})
    gsync_in(folder, "push", **ENV)
    write(folder, {"agents/a": b"2", "agents/b": b"1"})
    gsync_in(folder, "snapshot", "-m", "two")

    def lost(handler: Handler) -> bool:
        older.files |= {"agents/a": b"2", "agents/b": b"1"}
        handler.say(200, b"<html>")
        return True

    older.faults = [None, None, lost]
    refused(folder, "push", code=6, **ENV)
    posts = len(older.bodies)
    gsync_in(folder, "push", **ENV)
    assert len(older.bodies) == posts
    assert len(json_in(folder, "log")["manifests"]) == 2


def test_a_directory_where_the_peer_has_a_file(tmp_path: Path, older: Older, url: str) -> None:
    """What lingers there keeps what would be below it away, and the rest is sent."""
    folder = make(tmp_path / "a", url, {"agents/a": b"1"})
    gsync_in(folder, "push", **ENV)
    (folder / "agents/a").unlink()
    write(folder, {"agents/a/b": b"below", "agents/c": b"1"})
    sync(folder)
    assert older.files == {"agents/a": b"1", "agents/c": b"1"}
    sync(folder)
    assert sorted(files_of(folder)) == ["agents/a/b", "agents/c"]


def test_the_service_asks_once_what_a_server_is(tmp_path: Path, older: Older) -> None:
    """One that is no gsync server is the control plane; counts are of what arrived there."""
    folder = make_repository(tmp_path / "a", {"agents/a": b"1", "agents/b": b"1", "notes": b"n"})
    asked: list[str] = []
    config = SyncConfig("acme", older.base, API_TOKEN, folder)

    def run(config: SyncConfig) -> dict[str, Any]:
        older.asked.clear()
        found = SyncService(config).sync_files().to_json()
        asked.append(" ".join(older.asked))
        return found

    older.relayed = "/api/v1/cloud/tenants/acme/files"
    planned = run(config.with_dry_run(True))
    assert (planned["items_skipped"], older.files) == (2, {})
    done = run(config)
    assert (done["items_synced"], done["details"]["created"]) == (2, 2)
    assert older.files == {"agents/a": b"1", "agents/b": b"1"}
    (folder / "agents/b").unlink()
    again = run(config)
    assert (again["items_synced"], again["details"]["deleted"]) == (0, 0)
    held = {one["path"]: one["reason"] for one in again["details"]["held_back"]}
    assert "cannot delete" in held["agents/b"]
    older.files["agents/c"] = b"there"
    assert run(config.with_direction(SyncDirection.PULL))["items_synced"] == 1
    assert (folder / "agents/c").read_bytes() == b"there"
    assert ["v1/hello" in line for line in asked] == [True, False, False, False]


def test_fewer_directories_delete_nothing(tmp_path: Path, older: Older) -> None:
    """A directory that does not travel any more is not one that was emptied there."""
    folder = make(tmp_path / "a", f"relay+{older.base}/t%2F1", {"agents/a": b"1", "ai/x": b"1"})
    config = folder / ".gsync" / "config.toml"
    wide = config.read_text() + 'include = ["agents", "ai"]\n'
    config.write_text(wide)
    sync(folder)
    assert sorted(older.files) == ["agents/a", "ai/x"]
    config.write_text(wide.replace(', "ai"', ""))
    older.files["agents/a"] = b"2"
    sync(folder)
    assert files_of(folder) == {"agents/a": b"2", "ai/x": b"1"}
    config.write_text(wide)
    older.files["ai/x"] = b"3"
    sync(folder)
    assert files_of(folder) == {"agents/a": b"2", "ai/x": b"3"}


def test_an_edit_taken_back_there(tmp_path: Path, older: Older, url: str) -> None:
    """What was sent once and is there again, after something else, is an edit like any other."""
    folder = make(tmp_path / "a", url, {"agents/a": b"ours"})
    sync(folder)
    for content in (b"theirs", b"ours", b"theirs again", b"ours"):
        older.files["agents/a"] = content
        sync(folder)
        assert (files_of(folder), older.files) == ({"agents/a": content}, {"agents/a": content})
