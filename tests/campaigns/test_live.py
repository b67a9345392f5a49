"""The short form of the campaign of live files."""

from __future__ import annotations

from pathlib import Path

import pytest
from campaigns import live

pytestmark = pytest.mark.slow


def test_contents_say_what_they_are() -> None:
    """A mix of two versions, a part and a file under another name are found out."""
    one, two = live.content("a", 1, 3000), live.content("a", 2, 3000)
    assert live.version_of("a", one) == 1
    assert live.version_of("b", one) is None
    assert live.version_of("a", one[:1500] + two[1500:]) is None
    assert live.version_of("a", one[:-1]) is None


def test_snapshots_while_somebody_writes(tmp_path: Path) -> None:
    """Each recorded file is one whole version, no link is followed, no edit goes unseen."""
    made, checked = live.snapshots(tmp_path, 1, 4)
    assert made >= 1
    assert checked >= 1


def test_pulls_while_somebody_writes(tmp_path: Path) -> None:
    """What is written during a pull is there afterwards."""
    moved, refused = live.pulls(tmp_path, 1, 3)
    assert moved + refused == 3
