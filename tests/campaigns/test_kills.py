"""The short form of `python -m tests.campaigns kills`, and that it notices what it is there for."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from campaigns.kills import CASES, Case, Merge, Pull, Restore, Snapshot, campaign
from support import require

OFFLINE = ("snapshot", "restore", "gc")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_killed_in_every_phase(case: type[Case], tmp_path: Path) -> None:
    """Old or new, both together, and whole: whatever phase a command is killed in."""
    if case.name not in OFFLINE:
        require("server")
    seed = int(os.environ.get("GSYNC_SEED", "1"))
    report = campaign(tmp_path, random.Random(seed), [case], per_phase=1, instants=1)
    assert report.failures == []
    assert len(report.phases) >= 4
    assert all(tally.kills == 1 for tally in report.phases.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sabotage", "case", "phase"),
    [
        ("no-journal", Restore, "carrying out"),
        ("no-pending", Pull, "carrying out"),
        ("no-pending", Merge, "moving refs"),
        ("ref-first", Snapshot, "moving refs"),
    ],
)
def test_sabotage_is_noticed(sabotage: str, case: type[Case], phase: str, tmp_path: Path) -> None:
    """Without the journal, the note of what is pending, or objects before refs, it fails."""
    if case.name not in OFFLINE:
        require("server")
    report = campaign(
        tmp_path,
        random.Random(2),
        [case],
        per_phase=6,
        phases=lambda name: name == phase,
        sabotage=sabotage,
    )
    assert any(failure.startswith(f"{case.name}, {phase}") for failure in report.failures)
