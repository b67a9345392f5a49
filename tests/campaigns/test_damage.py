"""The short form of the campaign: `python -m tests.campaigns damage` is the long one."""

from __future__ import annotations

from pathlib import Path

from campaigns.damage import damage_all, make
from campaigns.damage_ways import damage_logs, damage_servers, repair_all


def test_damage_is_seen(tmp_path: Path) -> None:
    """Whatever was damaged: right content or a clear error, and no command falls over."""
    found = damage_all(make(tmp_path), tmp_path / "work", 42, 5)
    assert found.failures == []
    assert sum(found.cases.values()) > sum(found.harmless.values())


def test_damage_to_the_log_leaves_one_moment(tmp_path: Path) -> None:
    """Commits that the file does not hold yet may be gone; nothing is mixed."""
    assert damage_logs(make(tmp_path), tmp_path, 8, 5).failures == []


def test_a_damaged_server_gives_the_right_content_or_an_error(tmp_path: Path) -> None:
    found = damage_servers(make(tmp_path), tmp_path, 4, 5)
    assert found.failures == []


def test_what_repair_says_is_whole_is(tmp_path: Path) -> None:
    found, repaired = repair_all(make(tmp_path), tmp_path, 14, 5)
    assert found.failures == [] and repaired
