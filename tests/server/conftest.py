"""One server for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import require
from support_server import RunningServer, running_server


@pytest.fixture(scope="module")
def server(
    sealed_environment: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    require("server")
    data: Path = tmp_path_factory.mktemp("server") / "data"
    with running_server(data) as running:
        yield running
