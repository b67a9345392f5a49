"""The short form of the campaign: `python -m tests.campaigns damage` is the long one."""

from __future__ import annotations

from pathlib import Path

from campaigns.damage import damage_all, make


def test_damage_is_seen(tmp_path: Path) -> None:
    """Whatever was damaged: right content or a clear error, and no command falls over."""
    found = damage_all(make(tmp_path), tmp_path / "work", 42, 5)
    assert found.failures == []
    assert sum(found.cases.values()) > sum(found.harmless.values())
