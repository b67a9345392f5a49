"""Folders for tests: a tree as a dict, written to a disk and read from it by obvious code."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from hypothesis import strategies as st

from gsync.changes import Change
from gsync.maps.diff import diff_maps
from gsync.maps.omap import EMPTY_MAP, build_map, edit_map, list_entries
from gsync.objects.oid import ObjectId
from gsync.replicas.base import Scan
from gsync.replicas.files.index import MemoryCache, ScanCache
from gsync.replicas.files.scan import scan_files
from gsync.store.memory import MemoryStore

Node = tuple[str, bytes]  # "file", "exec", "link" or "dir", and the content or target
Tree = dict[bytes, Node]

NAMES = st.sampled_from(
    [b"a", b"b", b"-rf", b" ", b"new\nline", b"\xff\xfe", "ü".encode(), b"a-b", b"x.txt", b"A b"]
)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(b"/".join)
CONTENTS = st.one_of(
    st.binary(max_size=30), st.integers(0, 9).map(lambda n: bytes([n]) * (131_072 + n))
)
NODES: st.SearchStrategy[Node] = st.one_of(
    st.tuples(st.just("file"), CONTENTS),
    st.tuples(st.just("exec"), CONTENTS),
    st.tuples(st.just("link"), st.sampled_from([b"nowhere", b"/etc", b"../..", b"a", b"\xff"])),
    st.tuples(st.just("dir"), st.just(b"")),
)


def _legal(tree: Tree) -> Tree:
    legal: Tree = {}
    for path, node in sorted(tree.items()):
        parts = path.split(b"/")
        if not any(b"/".join(parts[:n]) in legal for n in range(1, len(parts))):
            legal[path] = node
    return legal


TREES = st.dictionaries(PATHS, NODES, max_size=8).map(_legal)


def plant(root: str | Path, tree: Mapping[bytes, Node]) -> None:
    os.makedirs(root, exist_ok=True)
    for path, (kind, content) in tree.items():
        full = os.path.join(os.fsencode(root), path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        if kind == "dir":
            os.makedirs(full, exist_ok=True)
        elif kind == "link":
            os.symlink(content, full)
        else:
            with open(full, "wb") as file:
                file.write(content)
            os.chmod(full, 0o755 if kind == "exec" else 0o644)


def harvest(root: str | Path) -> Tree:
    tree: Tree = {}
    top = os.fsencode(root)
    for directory, names, files in os.walk(top):
        names[:] = [name for name in names if name != b".gsync"]
        for name in [*names, *files]:
            full = os.path.join(directory, name)
            path = os.path.relpath(full, top)
            mode = os.lstat(full).st_mode
            if stat.S_ISLNK(mode):
                tree[path] = ("link", os.readlink(full))
            elif stat.S_ISDIR(mode):
                if not os.listdir(full):
                    tree[path] = ("dir", b"")
            else:
                with open(full, "rb") as file:
                    tree[path] = ("exec" if mode & 0o100 else "file", file.read())
    return tree


def scan(
    root: str | Path,
    store: MemoryStore,
    base: ObjectId = EMPTY_MAP,
    cache: ScanCache | None = None,
    *,
    write: bool = True,
) -> Scan:
    build_map(store, [])
    cache = MemoryCache() if cache is None else cache
    return scan_files(str(root), base, store, cache, write=write)


def commit(store: MemoryStore, base: ObjectId, scan: Scan) -> ObjectId:
    return edit_map(store, base, [(change.key, change.new) for change in scan.changes])


def snapshot(root: str | Path, store: MemoryStore) -> ObjectId:
    return commit(store, EMPTY_MAP, scan(root, store))


def changes_between(store: MemoryStore, old: ObjectId, new: ObjectId) -> list[Change]:
    return list(diff_maps(store, old, new))


def paths_of(store: MemoryStore, root: ObjectId) -> list[bytes]:
    return [path for path, _ in list_entries(store, root)]
