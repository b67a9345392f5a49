"""The short form of `python -m tests.campaigns stranger`."""

from __future__ import annotations

from pathlib import Path

import pytest
from campaigns.stranger import campaign
from support import require


@pytest.mark.slow
def test_nobody_loses_an_edit(tmp_path: Path) -> None:
    """What was saved in ten seconds beside commands that are killed is found afterwards."""
    require("server")
    ledger = campaign(tmp_path, 3, 10)
    assert ledger.failures == []
    assert len(ledger.saved) > 10 and ledger.killed
