"""The short form of the campaign of names."""

from __future__ import annotations

from pathlib import Path

import pytest
from campaigns import names

from gsync.replicas.files.remove import remove_tree

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("group", names.PLAIN)
def test_awkward_names_come_back(tmp_path: Path, group: str) -> None:
    """Snapshot, push, clone, restore, export and import give each name back, byte for byte."""
    assert names.try_plain(tmp_path, group=group) > 0


def test_own_names_are_left_out(tmp_path: Path) -> None:
    """What some system takes for `.gsync` is noticed and never recorded."""
    assert names.try_own(tmp_path) > 0


def test_deep_tree(tmp_path: Path) -> None:
    """1,000 levels come back by every road."""
    try:
        assert names.try_deep(tmp_path) == names.DEPTH
    finally:
        for place in list(tmp_path.iterdir()):  # pytest's own removal recurses
            if place.is_dir():
                remove_tree(place)


def test_longest_path(tmp_path: Path) -> None:
    """What the system can open comes back."""
    assert names.try_long(tmp_path) > 3500


def test_path_that_is_too_long(tmp_path: Path) -> None:
    """It is named and left out; the longest that a map holds comes back."""
    try:
        names.try_too_long(tmp_path)
    finally:
        remove_tree(tmp_path / "work")


def test_wide_directory(tmp_path: Path) -> None:
    """Thousands of entries in one directory come back."""
    assert names.try_wide(tmp_path, 3000) == 3000


def test_case_folded_target(tmp_path: Path) -> None:
    """On a file system that ignores case a tree with colliding names is refused unwritten."""
    if not names.try_folding(tmp_path):
        pytest.skip("no ext4 with case folding here, or not run by root")
