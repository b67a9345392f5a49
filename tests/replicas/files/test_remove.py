"""Removing trees of any depth."""

from __future__ import annotations

import os
from pathlib import Path

from gsync.replicas.files.remove import remove_tree


def test_a_tree_too_deep_for_recursion_goes_and_nothing_behind_a_link(tmp_path: Path):
    """2,000 levels are gone; what a link in it points to stays."""
    top, kept = tmp_path / "top", tmp_path / "kept"
    top.mkdir()
    kept.mkdir()
    (kept / "file").write_bytes(b"x")
    fd = os.open(top, os.O_RDONLY)
    for _ in range(2000):
        os.mkdir("d", dir_fd=fd)
        os.symlink(kept, "link", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    remove_tree(top)
    assert os.listdir(tmp_path) == ["kept"]
    assert os.listdir(kept) == ["file"]
