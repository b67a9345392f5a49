"""The short form of `python -m tests.campaigns power`, and that it notices what it is there for."""

from __future__ import annotations

from pathlib import Path

import pytest
from campaigns.power import campaign


@pytest.mark.slow
def test_stores_survive_power_loss(tmp_path: Path) -> None:
    """After any cut a store is sound and has all that was acknowledged."""
    report = campaign(tmp_path, 1, 40)
    assert report.failures == []
    assert report.outcomes["sound"] == report.stores > 80


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sabotage", "outcome"),
    [("synchronous-off", "corrupt"), ("synchronous-normal", "lost"), ("ref-first", "holes")],
)
def test_what_is_not_synced_is_missed(sabotage: str, outcome: str, tmp_path: Path) -> None:
    """Unsynced commits are corrupt or lost, and refs before objects are holes: it is seen."""
    assert campaign(tmp_path, 1, 60, sabotage).outcomes[outcome] > 0
