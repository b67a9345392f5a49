"""Requests of one push take turns."""

from __future__ import annotations

import anyio
import pytest

from gsync.errors import Unavailable
from gsync.server import streams
from gsync.server.streams import Turns


def test_one_after_the_other() -> None:
    """Requests with one key never overlap; others do not wait; nothing is left of them."""
    turns, inside, most = Turns(), [0, 0], [0, 0]

    async def request(key: int) -> None:
        async with turns.take(key):
            inside[key] += 1
            most[key] = max(most[key], inside[key])
            for _ in range(3):
                await anyio.lowlevel.checkpoint()
            assert sum(inside) in (1, 2)
            inside[key] -= 1

    async def run() -> None:
        async with anyio.create_task_group() as group:
            for n in range(20):
                group.start_soon(request, n % 2)

    anyio.run(run)
    assert most == [1, 1]
    assert turns._locks == {}


def test_one_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for too long is told to come again, and the one that goes on goes on."""
    monkeypatch.setattr(streams, "TURN_S", 0.05)
    turns = Turns()

    async def wait() -> None:
        with pytest.raises(Unavailable, match="still being taken"):
            async with turns.take("push"):
                raise AssertionError

    async def run() -> None:
        async with turns.take("push"):
            async with anyio.create_task_group() as group:
                group.start_soon(wait)
            assert len(turns._locks) == 1
        assert turns._locks == {}

    anyio.run(run)
