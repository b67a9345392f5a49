"""The short form of `python -m tests.campaigns folders`, and that it notices a missing sync."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from campaigns.folders import campaign

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc/self/fd"),
]


@pytest.mark.parametrize("many", [False, True], ids=["few", "many"])
def test_folders_survive_power_loss(tmp_path: Path, many: bool) -> None:
    """After any cut folder and main are old or new together, and new once that was said."""
    report = campaign(tmp_path, 1, 24, many=many)
    assert report.failures == []
    for _, _, cuts, old, new in report.rows:
        assert cuts == 24 and old and new


@pytest.mark.parametrize("sabotage", ["files-unsynced", "names-unsynced"])
def test_missing_syncs_are_noticed(tmp_path: Path, sabotage: str) -> None:
    """Files or names that were not synced are torn or gone after a cut."""
    assert campaign(tmp_path, 1, 16, sabotage).failures
