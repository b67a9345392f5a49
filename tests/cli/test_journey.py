"""One folder's life with the real command: what a user of it does, in that order."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from support_cli import gsync_in, head, json_in, make_repository, read_tree, refused, write

ODD = b"caf\xe9 \xff.bin"
LINES = b"two\nlines.txt"


def keys(changes: list[dict[str, Any]]) -> dict[Any, str]:
    def plain(key: Any) -> Any:
        return bytes.fromhex(key["hex"]) if isinstance(key, dict) else key.encode()

    return {plain(change["key"]): change["status"] for change in changes}


def undo_type_change(folder: Path) -> None:
    (folder / "file-then-dir" / "inside").unlink()
    (folder / "file-then-dir").rmdir()
    write(folder, {"file-then-dir": b"file\n"})


@pytest.fixture
def edited(tmp_path: Path) -> Iterator[Path]:
    """A folder with one snapshot and an unsaved change of every kind."""
    folder = make_repository(
        tmp_path / "work",
        {
            "keep.txt": b"keep\n",
            "text.txt": b"alpha\nbeta\ngamma\n",
            "gone.txt": b"gone\n",
            "old-name.bin": bytes(range(256)) * 40,
            "run.sh": b"#!/bin/sh\n",
            "file-then-dir": b"file\n",
            "sub/deep/x": b"x" * 3000,
        },
    )
    os.symlink("keep.txt", folder / "link")
    gsync_in(folder, "snapshot", "-m", "with a link")
    (folder / "text.txt").write_bytes(b"alpha\nBETA\ngamma\n")
    (folder / "gone.txt").unlink()
    (folder / "old-name.bin").rename(folder / "sub" / "new-name.bin")
    (folder / "run.sh").chmod(0o755)
    (folder / "file-then-dir").unlink()
    write(folder, {"file-then-dir/inside": b"inside\n", "added.txt": b"added\n"})
    (folder / "link").unlink()
    os.symlink("text.txt", folder / "link")
    (folder / "empty").mkdir()
    for name in (ODD, LINES):
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(name)
    yield folder


def test_init_snapshot_status_is_clean(tmp_path: Path) -> None:
    """After the first snapshot nothing differs, and a second one makes no manifest."""
    gsync_in(tmp_path, "init")
    assert json_in(tmp_path, "status")["head"] is None
    write(tmp_path, {"a": b"1", "d/b": b"2"})
    made = json_in(tmp_path, "snapshot", "-m", "first")
    assert made["changes"]["added"] >= 2
    assert made["parents"] == []
    status = json_in(tmp_path, "status")
    assert (status["clean"], status["head"], status["changes"]) == (True, made["manifest"], [])
    gsync_in(tmp_path, "status", "--exit-code")
    assert json_in(tmp_path, "snapshot")["manifest"] is None
    assert head(tmp_path) == made["manifest"]


EDITS = {
    b"text.txt": "modified",
    b"gone.txt": "deleted",
    b"sub/new-name.bin": "renamed",
    b"run.sh": "modified",
    b"file-then-dir": "deleted",
    b"file-then-dir/inside": "added",
    b"added.txt": "added",
    b"link": "modified",
    b"empty": "added",
    ODD: "added",
    LINES: "added",
}


def test_status_and_diff_tell_every_kind_of_change(edited: Path) -> None:
    """Status and diff agree on each path, as text and as JSON; names cannot break lines."""
    status = json_in(edited, "status")
    found = keys(status["changes"])
    mode = found.pop(b"run.sh")
    assert mode in ("modified", "type_changed")
    assert found == {k: v for k, v in EDITS.items() if k != b"run.sh"}
    by_key = {str(change["key"]): change for change in status["changes"]}
    assert by_key["sub/new-name.bin"]["old_key"] == "old-name.bin"
    assert by_key["added.txt"]["new"] == {
        "type": "file",
        "size": 6,
        "id": blake3(b"added\n").hexdigest(),
    }
    assert by_key["run.sh"]["new"]["type"] == "executable"
    assert keys(json_in(edited, "diff")["changes"]) == keys(status["changes"])
    lines = gsync_in(edited, "diff", "--name-status").text.splitlines()
    assert len(lines) == len(EDITS)
    assert all(re.match(r"[AMDRT] \S", line) for line in lines)
    assert "R old-name.bin -> sub/new-name.bin" in lines
    text = gsync_in(edited, "diff").out
    assert b"-beta\n+BETA\n" in text
    gsync_in(edited, "diff", "--stat")
    gsync_in(edited, "diff", "--exit-code", code=1)
    gsync_in(edited, "status", "--exit-code", code=1)
    only = json_in(edited, "status", "sub")["changes"]
    assert set(keys(only)) == {b"sub/new-name.bin"}


def test_dry_run_records_nothing(edited: Path) -> None:
    """A dry run of snapshot says what it would record, and moves no ref."""
    before = head(edited)
    assert json_in(edited, "snapshot", "--dry-run")["manifest"] is None
    assert head(edited) == before


def test_snapshot_log_show_ls_cat(edited: Path) -> None:
    """What was recorded is listed by log, show and ls; ids are those of b3sum."""
    made = json_in(edited, "snapshot", "-m", "edits\n\nwith a body")
    log = json_in(edited, "log")["manifests"]
    assert [m["message"].partition("\n")[0] for m in log] == ["edits", "with a link", "first"]
    assert log[0]["manifest"] == made["manifest"]
    assert log[0]["parents"] == [log[1]["manifest"]]
    assert log[0]["author"] == "Ada <ada@example.org>"
    assert len(gsync_in(edited, "log", "--oneline").text.splitlines()) == 3
    assert len(json_in(edited, "log", "-n", "1")["manifests"]) == 1
    touched = json_in(edited, "log", "text.txt")["manifests"]
    assert [m["manifest"] for m in touched] == [log[0]["manifest"], log[2]["manifest"]]
    shown = json_in(edited, "show")
    assert set(keys(shown["changes"])) == set(EDITS)
    entries = {}
    for entry in json_in(edited, "ls")["entries"]:
        key = entry["key"]
        entries[bytes.fromhex(key["hex"]) if isinstance(key, dict) else key.encode()] = entry
    tree = read_tree(edited)
    for path, (kind, content) in tree.items():
        if kind in ("file", "executable"):
            assert entries[path]["id"] == blake3(content).hexdigest()
            assert (entries[path]["type"], entries[path]["size"]) == (kind, len(content))
    assert entries[b"empty"]["type"] == "directory"
    assert entries[b"link"]["type"] == "symlink"
    long = gsync_in(edited, "ls", "-l").text
    assert f"x {blake3(b'#!/bin/sh' + bytes([10])).hexdigest()}" in long
    assert len(long.splitlines()) == len(entries)
    assert gsync_in(edited, "cat", "HEAD:text.txt").out == b"alpha\nBETA\ngamma\n"
    assert gsync_in(edited, "cat", "HEAD~1:text.txt").out == b"alpha\nbeta\ngamma\n"
    assert gsync_in(edited, "cat", b"HEAD:" + ODD).out == ODD
    assert gsync_in(edited, "cat", b"HEAD:" + LINES).out == LINES
    assert json_in(edited, "status")["clean"]


def test_restore_refuses_then_obeys(edited: Path) -> None:
    """Unsaved changes stop a restore with 5 and stay; --force, a PATH and --to do as they say."""
    unsaved = read_tree(edited)
    message, _ = refused(edited, "restore", code=5)
    assert "text.txt" in message or "changed" in message or "unsaved" in message
    assert read_tree(edited) == unsaved
    gsync_in(edited, "restore", "gone.txt")
    assert (edited / "gone.txt").read_bytes() == b"gone\n"
    assert (edited / "text.txt").read_bytes() == b"alpha\nBETA\ngamma\n"
    undo_type_change(edited)
    gsync_in(edited, "restore", "--force")
    assert (edited / "text.txt").read_bytes() == b"alpha\nbeta\ngamma\n"
    assert (edited / "run.sh").stat().st_mode & 0o111 == 0
    assert (edited / "added.txt").read_bytes() == b"added\n"
    out = edited.parent / "out"
    gsync_in(edited, "restore", "HEAD~1", "--to", str(out))
    assert (out / "text.txt").read_bytes() == b"alpha\nbeta\ngamma\n"
    assert not os.path.lexists(out / "link")
    refused(edited, "restore", "--to", str(out), code=5)


def test_restored_directory_is_seen(tmp_path: Path) -> None:
    """A directory that a restore brings back differs from HEAD, and can be recorded or undone."""
    folder = make_repository(tmp_path / "work", {"changing/inner": b"a", "b": b"b"})
    shutil.rmtree(folder / "changing")
    write(folder, {"changing": b"a file now"})
    gsync_in(folder, "snapshot")
    gsync_in(folder, "restore", "HEAD~1")
    changes = json_in(folder, "status")["changes"]
    assert {change["key"] for change in changes} == {"changing", "changing/inner"}
    gsync_in(folder, "restore", "HEAD", "--force")
    assert (folder / "changing").read_bytes() == b"a file now"
    gsync_in(folder, "restore", "HEAD~1")
    gsync_in(folder, "snapshot")
    assert gsync_in(folder, "cat", "HEAD:changing/inner").out == b"a"


def test_restore_to_is_the_folder(edited: Path) -> None:
    """Every kind of entry and name comes back as it was."""
    gsync_in(edited, "snapshot", "-m", "edits")
    gsync_in(edited, "restore", "--to", str(edited.parent / "out"))
    assert read_tree(edited.parent / "out") == read_tree(edited)


def test_old_state_and_back(edited: Path) -> None:
    """Restoring an old manifest and then HEAD brings every saved file back as it was."""
    undo_type_change(edited)
    gsync_in(edited, "snapshot", "-m", "edits")
    saved = read_tree(edited)
    gsync_in(edited, "restore", "HEAD~1")
    assert read_tree(edited) != saved
    gsync_in(edited, "restore", "HEAD", "--force")
    for name in ("gone.txt", "old-name.bin"):  # not in HEAD, so not restore's to remove
        (edited / name).unlink()
    assert read_tree(edited) == saved
    assert json_in(edited, "status")["clean"]


def test_tag_refs_reflog(edited: Path) -> None:
    """A tag is listed, is never moved, and its history stands in a chain that is whole."""
    gsync_in(edited, "tag", "v1")
    gsync_in(edited, "snapshot", "-m", "edits")
    refs = json_in(edited, "refs")["refs"]
    assert set(refs) == {"main", "tags/v1"}
    assert refs["main"] != refs["tags/v1"]
    assert json_in(edited, "tag")["tags"] == {"v1": refs["tags/v1"]}
    assert json_in(edited, "show", "v1")["manifest"] == refs["tags/v1"]
    _, hint = refused(edited, "tag", "v1", code=5)
    assert "--delete" in hint
    log = json_in(edited, "reflog", "--verify")
    assert log["verified"]
    assert [e["seq"] for e in log["entries"]] == [4, 3, 2, 1]
    assert log["entries"][0]["new"] == refs["main"]
    gsync_in(edited, "tag", "v1", "--delete")
    assert json_in(edited, "tag")["tags"] == {}
    refused(edited, "tag", "v1", "--delete", code=4)


def test_export_twice_then_import(edited: Path) -> None:
    """Two exports are the same bytes, and another repository makes the same root of them."""
    gsync_in(edited, "snapshot", "-m", "edits")
    one = json_in(edited, "export", "-o", "one.tar.gz")
    two = json_in(edited, "export", "HEAD", "-o", "../two.tar.gz")
    assert one["tar_blake3"] == two["tar_blake3"]
    tarball = (edited / "one.tar.gz").read_bytes()
    assert tarball == (edited.parent / "two.tar.gz").read_bytes()
    assert gsync_in(edited, "export", "-o", "-").out == tarball
    (edited / "one.tar.gz").unlink()
    other = edited.parent / "other"
    other.mkdir()
    gsync_in(other, "init")
    (other / "gsync.toml").unlink()
    gsync_in(other, "import", "../two.tar.gz", "-m", "taken in")
    here, there = json_in(edited, "show"), json_in(other, "show")
    assert here["collections"] == there["collections"]
    assert read_tree(other) == read_tree(edited)
    assert json_in(other, "status")["clean"]


def test_untrack_forget_gc_verify(edited: Path) -> None:
    """Untracked files stay on disk; forgotten history goes with gc, and the store is whole."""
    gsync_in(edited, "snapshot", "-m", "edits")
    first = json_in(edited, "log")["manifests"][-1]["manifest"]
    write(edited, {".gsyncignore": b"/added.txt\n"})
    gsync_in(edited, "untrack", "added.txt")
    assert (edited / "added.txt").read_bytes() == b"added\n"
    gsync_in(edited, "snapshot", "-m", "rules")
    assert "added.txt" not in gsync_in(edited, "ls").text
    before = json_in(edited, "stats")["objects"]
    forgot = json_in(edited, "forget", "--keep-last", "1", "--reason", "small disk")
    assert first in forgot["forgotten"]
    assert forgot["objects"] > 0
    assert json_in(edited, "gc")["objects"] == 0
    assert json_in(edited, "stats")["objects"] < before
    verified = json_in(edited, "verify")
    assert verified["problems"] == []
    gsync_in(edited, "verify", "--quick")
    gsync_in(edited, "cat", f"{first}:gone.txt", code=4)
    assert json_in(edited, "status")["clean"]
    assert gsync_in(edited, "cat", "HEAD:text.txt").out == b"alpha\nBETA\ngamma\n"
    assert json_in(edited, "reflog", "--verify")["verified"]
    gsync_in(edited, "doctor")


def test_revisions(edited: Path) -> None:
    """HEAD~1, a time, a unique prefix and a full id all name what they should."""
    first, second = (m["manifest"] for m in reversed(json_in(edited, "log")["manifests"]))
    between = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() + 1))
    time.sleep(2.1)
    third = json_in(edited, "snapshot", "-m", "edits")["manifest"]
    for text, expected in [
        ("HEAD", third),
        ("main", third),
        ("HEAD~1", second),
        ("HEAD~2", first),
        (f"HEAD@{between}", second),
        (f"main@{between}", second),
        (third[:8], third),
        (second, second),
        (f"{third[:12]}~1", second),
    ]:
        assert json_in(edited, "show", text)["manifest"] == expected, text
    refused(edited, "show", "HEAD~3", code=4)
    refused(edited, "show", "HEAD@2001-01-01", code=4)
    forward = json_in(edited, "diff", "HEAD~1", "HEAD")
    assert set(keys(forward["changes"])) == set(EDITS)
    assert (forward["old"], forward["new"]) == (second, third)
    assert json_in(edited, "diff", "HEAD", "HEAD")["changes"] == []
    below = json_in(edited, "diff", "HEAD~1", "HEAD", "--", "text.txt")
    assert keys(below["changes"]) == {b"text.txt": "modified"}


def test_argument_that_is_revision_and_path(edited: Path) -> None:
    """An argument that is both is refused with 2, and `--` decides."""
    gsync_in(edited, "snapshot", "-m", "edits")
    gsync_in(edited, "tag", "both", "HEAD~1")
    write(edited, {"both": b"a path\n"})
    gsync_in(edited, "snapshot", "-m", "both")
    _, hint = refused(edited, "diff", "both", code=2)
    assert "--" in hint
    assert len(json_in(edited, "diff", "both", "--")["changes"]) > 1
    assert json_in(edited, "diff", "--", "both")["changes"] == []
    assert gsync_in(edited, "ls", "--", "both").text == "both\n"


def test_subdirectory_and_dash_c(edited: Path) -> None:
    """A command below the top finds the repository, and paths are relative to where it runs."""
    gsync_in(edited, "snapshot", "-m", "edits")
    assert gsync_in(edited / "sub", "cat", "HEAD:deep/x").out == b"x" * 3000
    assert gsync_in(edited.parent, "-C", "work", "cat", "HEAD:keep.txt").out == b"keep\n"
    assert gsync_in(edited.parent, "cat", "-C", "work/sub", "HEAD:../keep.txt").out == b"keep\n"
