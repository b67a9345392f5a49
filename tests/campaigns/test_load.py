"""The short form of `python -m tests.campaigns load`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from campaigns.load import campaign
from support import require


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_clients_of_two_tenants(tmp_path: Path) -> None:
    """No command fails but by a refused push, and in the end all of a tenant have the same."""
    require("server")
    figures = campaign(tmp_path, 1, 12, 5)
    assert figures.failures == []
    assert sum(len(seconds) for seconds in figures.seconds.values()) >= 12
