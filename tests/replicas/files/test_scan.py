"""Scanning a folder, the stat cache, and what stays out."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replicas.files.trees import TREES, Tree, commit, paths_of, plant, scan, snapshot

from gsync.maps.omap import EMPTY_MAP
from gsync.objects.oid import Kind, blob_id
from gsync.replicas.files import scan as scan_module
from gsync.replicas.files.ignore import Rules, Verdict, is_secret
from gsync.replicas.files.index import MemoryCache, confirm, list_ignored
from gsync.replicas.files.scan import Unreadable, scan_files
from gsync.store.memory import MemoryStore
from gsync.views.files import decode_entry


def files(tree: dict[str, str]) -> Tree:
    return {os.fsencode(path): ("file", text.encode()) for path, text in tree.items()}


@pytest.mark.parametrize(
    "path",
    [".env", "a/.env.local", ".envrc", "secrets.json", "x/key.pem", "id_rsa", "id_ed25519_work"]
    + ["id_ecdsa", ".aws/credentials", "credentials.json", ".netrc", ".PGPASS", ".env.d/x"],
)
def test_secrets_are_held_back(path):
    """A name that tools give to secrets is one, in any directory."""
    assert is_secret(path.encode())


@pytest.mark.parametrize(
    "path", [".env.example", ".env.sample", "x/.env.template", "id_rsa.pub", "id_ed25519.pub", "a"]
)
def test_what_only_looks_like_a_secret_is_let_in(path):
    """Examples and public keys are no secrets."""
    assert not is_secret(path.encode())


@pytest.mark.parametrize(
    ("rules", "path", "is_directory", "verdict", "why"),
    [
        ("*.tmp", "a.tmp", False, Verdict.IGNORED, "a pattern without slash matches anywhere"),
        ("*.tmp\n!a.tmp", "a.tmp", False, None, "the last line that matches wins"),
        ("build/", "build", False, None, "a directory rule does not match a file"),
        ("build/", "x/build", True, Verdict.IGNORED, "a directory rule matches at any depth"),
        ("/build", "x/build", True, None, "a leading slash anchors"),
        ("*.tmp\n!x/", "x/a.tmp", False, Verdict.IGNORED, "a directory let in lets in no file"),
        ("", ".env", False, Verdict.SECRET, "secrets need no rule"),
        ("!.env", ".env", False, None, "a negated line includes one on purpose"),
        ("!*", ".env", False, Verdict.SECRET, "a negated line that names nothing does not"),
        ("*", ".env", False, Verdict.IGNORED, "a rule that ignores one is a rule"),
        ("", ".git", True, Verdict.IGNORED, "Git's own directory is left out"),
        ("!.git", ".git", True, None, "unless it is asked for"),
        ("a/**", "a", True, None, "what is in a directory is not the directory"),
    ],
)
def test_rules(rules, path, is_directory, verdict, why):
    """A rule file decides as Git would, except that secrets must be named."""
    found = Rules(None, b"", rules.encode()).verdict(path.encode(), is_directory=is_directory)
    assert found == verdict, why


def test_nested_rule_files(tmp_path):
    """A deeper file overrides, and what lies below an excluded directory stays out."""
    store = MemoryStore()
    plant(tmp_path, files({".gsyncignore": "*.log\nout/\n", "a.log": "", "out/keep": ""}))
    plant(tmp_path, files({"sub/.gsyncignore": "!b.log\n", "sub/b.log": "", "sub/c.log": ""}))
    plant(tmp_path, files({"out/.gsyncignore": "!keep\n"}))
    root = snapshot(tmp_path, store)
    assert paths_of(store, root) == [b".gsyncignore", b"sub/.gsyncignore", b"sub/b.log"]


def test_a_tracked_path_stays_tracked(tmp_path):
    """New rules keep new paths out; what is in the base is scanned, edited and deleted."""
    store, cache = MemoryStore(), MemoryCache()
    plant(tmp_path, files({"d/a": "1", "d/b": "1", "d/e/c": "1", "x.log": "1", "o/gone": "1"}))
    base = commit(store, EMPTY_MAP, scan(tmp_path, store, cache=cache))
    plant(tmp_path, files({".gsyncignore": "d/\no/\n*.log", "d/new": "", "d/a": "22", "y.log": ""}))
    (tmp_path / "o/gone").unlink()
    (tmp_path / "o").rmdir()
    for attempt in (cache, cache, MemoryCache()):
        found = scan(tmp_path, store, base, attempt)
        assert [c.key for c in found.changes] == [b".gsyncignore", b"d/a", b"o/gone"]
    assert (b"y.log", Verdict.IGNORED) in list_ignored(cache)


def test_secrets_are_noticed_until_included(tmp_path):
    """What the filter holds back is a notice in each scan, until a rule names it."""
    store, cache = MemoryStore(), MemoryCache()
    plant(tmp_path, files({".env": "x", "a": "x"}))
    for _ in range(2):
        found = scan(tmp_path, store, cache=cache)
        assert [(n.path, n.code) for n in found.notices] == [(b".env", "secret")]
        assert "!/.env" in found.notices[0].text
    plant(tmp_path, files({".gsyncignore": "!.env\n"}))
    found = scan(tmp_path, store, cache=cache)
    assert b".env" in [c.key for c in found.changes] and not found.notices


def test_special_files_and_nested_repositories(tmp_path):
    """A FIFO does not hang the scan; it, a socket and another repository are left out."""
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "sock"))
        plant(tmp_path, files({"inner/.gsync/x": "", "inner/y": "", ".gsync/store": ""}))
        found = scan(tmp_path, MemoryStore())
    assert found.changes == []
    codes = [(n.path, n.code) for n in found.notices]
    assert codes == [(b"fifo", "special"), (b"inner", "nested"), (b"sock", "special")]


def test_illegal_and_colliding_names_are_noticed(tmp_path):
    """A name no map may hold is left out; names that fold together are reported."""
    plant(tmp_path, files({"x/README": "1", "x/readme": "2", "a\\..\\b": "", "X": ""}))
    found = scan(tmp_path, MemoryStore())
    codes = {(n.path, n.code) for n in found.notices}
    assert (b"a\\..\\b", "illegal") in codes
    assert {path for path, code in codes if code == "collision"} == {
        *(b"x/README", b"x/readme", b"x", b"X")
    }


def test_no_op_reads_nothing(tmp_path):
    """A scan against the map that the last one found reads no file and no object."""
    store, cache = MemoryStore(), MemoryCache()
    plant(tmp_path, files({f"d{n % 3}/f{n}": str(n) for n in range(20)}))
    (tmp_path / "empty").mkdir()
    time.sleep(0.15)
    found = scan(tmp_path, store, cache=cache)
    root = commit(store, EMPTY_MAP, found)
    confirm(cache, EMPTY_MAP, root)
    reads = store.reads
    again = scan(tmp_path, store, root, cache, write=False)
    assert (again.changes, again.hashed, store.reads) == ([], 0, reads)


def test_edit_within_the_tick_is_seen(tmp_path):
    """Same size, same mtime, right after the scan: the racy rule reads the file again."""
    store, cache, path = MemoryStore(), MemoryCache(), tmp_path / "f"
    base = EMPTY_MAP
    for n in range(50):
        path.write_text(f"{n % 10}")
        os.utime(path, ns=(10**18, 10**18))
        found = scan(tmp_path, store, base, cache)
        assert [c.key for c in found.changes] == [b"f"]
        base = commit(store, base, found)


def test_status_stores_nothing_and_snapshot_after_it_does(tmp_path):
    """A dry scan hashes without storing, and its cache does not fool the scan that writes."""
    store, cache = MemoryStore(), MemoryCache()
    plant(tmp_path, files({"f": "content"}))
    time.sleep(0.15)
    dry = scan(tmp_path, store, cache=cache, write=False)
    assert store.missing([blob_id(b"content")])
    assert scan(tmp_path, store, cache=cache, write=False).hashed == 0
    assert scan(tmp_path, store, cache=cache).changes == dry.changes
    assert store.get(Kind.BLOB, blob_id(b"content")) == b"content"


def test_touched_file_is_no_change(tmp_path):
    """A changed stat with equal content changes nothing but the cache."""
    store, cache = MemoryStore(), MemoryCache()
    plant(tmp_path, files({"f": "x"}))
    root = commit(store, EMPTY_MAP, scan(tmp_path, store, cache=cache))
    time.sleep(0.15)
    os.utime(tmp_path / "f", ns=(5, 5))
    time.sleep(0.15)
    found = scan(tmp_path, store, root, cache, write=False)
    assert (found.changes, found.hashed) == ([], 1)
    assert scan(tmp_path, store, root, cache, write=False).hashed == 0


def test_large_file_is_a_chunk_list(tmp_path):
    """A large file's entry names its chunk list and the hash that b3sum prints."""
    body = os.urandom(700_000)
    plant(tmp_path, {b"big": ("file", body)})
    for write in (True, False):
        change = scan(tmp_path, MemoryStore(), write=write).changes[0]
        assert change.new is not None
        entry = decode_entry(change.new)
        assert (entry.size, entry.content) == (len(body), blob_id(body))


def test_unreadable_is_an_error_and_no_deletion(tmp_path):
    """What cannot be read stops the scan with a list; it is not taken for deleted."""
    plant(tmp_path, files({"ok": "1", "dir/x": "1", "file": "1"}))
    os.chmod(tmp_path / "dir", 0)
    os.chmod(tmp_path / "file", 0)
    assert unreadable_without_rights(tmp_path, MemoryStore()) == [b"dir", b"file"]
    os.chmod(tmp_path / "dir", 0o755)


def test_unreadable_below_an_excluded_directory(tmp_path):
    """Tracked paths that nothing but the base leads to are not taken for deleted either."""
    store = MemoryStore()
    plant(tmp_path, files({"out/deep/x": "1", "ok": "1"}))
    root = snapshot(tmp_path, store)
    plant(tmp_path, files({".gsyncignore": "out/\n"}))
    assert [c.key for c in scan(tmp_path, store, root).changes] == [b".gsyncignore"]
    os.chmod(tmp_path / "out", 0)
    assert b"out/deep" in unreadable_without_rights(tmp_path, store, root)
    os.chmod(tmp_path / "out", 0o755)


def unreadable_without_rights(folder, *arguments):
    """Return what a scan cannot read in a process that is nobody's."""
    for parent in [folder, *folder.parents][:-2]:
        if os.geteuid() == 0:
            os.chmod(parent, os.stat(parent).st_mode | 0o555)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if os.geteuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            scan(folder, *arguments)
        except Unreadable as error:
            os.write(writer, b"\n".join(error.paths))
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    with open(reader, "rb") as pipe:
        return pipe.read().split(b"\n")


def test_missing_root_is_an_error(tmp_path):
    """A folder that is not there is not an empty one."""
    with pytest.raises(Unreadable):
        scan(tmp_path / "absent", MemoryStore())


def test_file_that_never_holds_still(tmp_path, monkeypatch):
    """It is kept at its base value, with a notice."""
    store = MemoryStore()
    plant(tmp_path, files({"f": "x"}))
    base = snapshot(tmp_path, store)
    plant(tmp_path, files({"f": "yy", "new": "z"}))
    real, count = os.fstat, [0]

    def moving(fd):
        count[0] += 1
        stat = list(real(fd))
        return os.stat_result([*stat[:10]], {"st_mtime_ns": count[0], "st_ctime_ns": count[0]})

    monkeypatch.setattr(os, "fstat", moving)
    found = scan(tmp_path, store, base)
    assert found.changes == []
    assert [(n.path, n.code) for n in found.notices] == [(b"f", "unstable"), (b"new", "unstable")]


@settings(max_examples=60)
@given(trees=st.lists(TREES, min_size=2, max_size=4), confirmed=st.booleans())
def test_cached_scan_equals_fresh_scan(tmp_path_factory, trees, confirmed):
    """Whatever the cache holds, a scan finds what one without cache finds."""
    import shutil

    top: Path = tmp_path_factory.mktemp("scan")
    store, cache, roots = MemoryStore(), MemoryCache(), [EMPTY_MAP]
    found = scan(top, store)
    for tree in trees:
        shutil.rmtree(top)
        plant(top, tree)
        for base in roots[-2:]:
            found = scan(top, store, base, cache)
            assert found.changes == scan(top, store, base).changes
        roots.append(commit(store, roots[-1], found))
        assert paths_of(store, roots[-1]) == sorted(tree)
        if confirmed:
            confirm(cache, roots[-2], roots[-1])
    shutil.rmtree(top)


def test_what_is_not_in_memory_is_announced(tmp_path, monkeypatch):
    """Many files before they are read, each once, and the scan finds what it finds anyhow."""
    tree = files({f"d{n % 7}/f{n:03d}": str(n) for n in range(600)})
    plant(tmp_path, tree)
    os.symlink("f001", tmp_path / "d1/link")
    expected = scan(tmp_path, MemoryStore()).changes
    announced, ahead = [], [0]

    def announce(fd, offset, length, advice):
        assert (offset, length, advice) == (0, 0, os.POSIX_FADV_WILLNEED)
        announced.append(os.fstat(fd).st_ino)

    read_batch = scan_module._read_batch

    def read(*arguments):
        ahead.append(len(announced) - sum(ahead_of))
        ahead_of.append(len(arguments[1]))
        return read_batch(*arguments)

    ahead_of = [0]
    monkeypatch.setattr(scan_module, "COLD_BLOCKS", 0)  # so every batch seems to be from the disk
    monkeypatch.setattr(scan_module, "_read_batch", read)
    monkeypatch.setattr(os, "posix_fadvise", announce)
    assert scan(tmp_path, MemoryStore()).changes == expected
    assert len(announced) == len(set(announced)) == 600 - scan_module.BATCH_FILES
    assert max(ahead) >= 4 * scan_module.BATCH_FILES


def test_what_was_announced_may_go_or_change(tmp_path, monkeypatch):
    """Reading decides, and not what was announced."""
    plant(tmp_path, files({f"f{n:03d}": str(n) for n in range(300)}))

    def announce(fd, *_):
        name = os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))
        match int(name[1:]) % 3:
            case 0:
                os.unlink(tmp_path / name)
            case 1:
                (tmp_path / name).write_text(f"new {name}")

    monkeypatch.setattr(scan_module, "COLD_BLOCKS", 0)
    monkeypatch.setattr(os, "posix_fadvise", announce)
    store = MemoryStore()
    found = scan(tmp_path, store)
    monkeypatch.undo()
    root = commit(store, EMPTY_MAP, found)
    assert scan(tmp_path, store, root).changes == []


def test_progress_and_clock_are_arguments(tmp_path):
    """Files and bytes are told as they are read."""
    plant(tmp_path, files({"a": "123", "b": "4"}))
    told: list[tuple[int, int]] = []
    store = MemoryStore()
    snapshot(tmp_path, store)
    scan_files(
        os.fsencode(tmp_path),
        EMPTY_MAP,
        store,
        MemoryCache(),
        write=False,
        now_ns=lambda: 0,
        progress=lambda files, size: told.append((files, size)),
    )
    assert told == [(2, 4)]
