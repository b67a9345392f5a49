"""The short form of `python -m tests.campaigns crowd`."""

from __future__ import annotations

from pathlib import Path

import pytest
from campaigns.crowd import PARTS, Report, campaign
from support import require


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_many_at_once(tmp_path: Path, part: str) -> None:
    """What is accepted stays, what is refused gets through later, and all stores are whole."""
    require("server")
    report = Report()
    campaign(tmp_path / "work", 1, part, {"clones": 5}.get(part, 2), report)
    assert report.failures == []
    assert sum(sum(codes.values()) for codes in report.ends.values()) >= 2
