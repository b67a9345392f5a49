"""The short form of the campaign: `python -m tests.campaigns hostile` is the long one."""

from __future__ import annotations

from pathlib import Path

from campaigns.hostile import mutate_answers, mutate_requests
from support import require
from support_server import running_server


def test_mutated_requests(tmp_path: Path) -> None:
    """A server refuses what it does not understand, and points no ref at less than everything."""
    require("server")
    with running_server(tmp_path / "data") as server:
        found = mutate_requests(server, 300, 5)
    assert found.failures == []
    assert len(found.outcomes) == 6


def test_mutated_answers(tmp_path: Path) -> None:
    """A client ends with an error of a kind, or with what the server really has."""
    require("proxy")
    found = mutate_answers(tmp_path, 60, 5)
    assert found.failures == []
    assert len(found.outcomes) == 2
