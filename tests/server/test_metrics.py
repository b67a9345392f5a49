"""Figures for Prometheus: what a server did, at an address that only its operator reaches."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from support import require
from support_cli import environment, gsync_in, make_repository, refused

from gsync.errors import Invalid
from gsync.server.metrics import parse_address


@contextmanager
def served(data: Path) -> Iterator[tuple[str, str, Path]]:
    """A server with figures; give where it listens, where they are, and its log."""
    log = data.parent / "log"
    command = [sys.executable, "-m", "gsync", "serve", "--data", str(data), "--port", "0"]
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            [*command, "--metrics", "0"],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            url = process.stdout.readline().split()[-1]
            found = re.search(r"url=(\S+)", log.read_text())
            assert found is not None
            yield url, found[1], log
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0


def figures(url: str) -> dict[tuple[str, str, str], float]:
    """Return sums by name, tenant, and status or path."""
    answer = requests.get(url, timeout=10)
    assert answer.status_code == 200 and "Bearer" not in answer.text
    found: dict[tuple[str, str, str], float] = defaultdict(float)
    for family in text_string_to_metric_families(answer.text):
        for name, labels, value, *_ in family.samples:
            what = labels.get("status") or labels.get("path", "")
            found[name, labels.get("tenant", ""), what] += value
    return found


def test_requests_bytes_and_refusals_are_counted(tmp_path: Path) -> None:
    require("server")
    data, folder = tmp_path / "data", make_repository(tmp_path / "work", {"a": b"x" * 100_000})
    token = gsync_in(
        tmp_path, "token", "add", "--data", str(data), "--tenant", "ann", "--scope", "write"
    ).text.strip()
    with served(data) as (url, where, log):
        gsync_in(folder, "remote", "add", "origin", f"{url}/ann")
        gsync_in(folder, "push", GSYNC_TOKEN=token)
        refused(folder, "push", code=3, GSYNC_TOKEN="wrong" * 8)
        found = figures(where)
        assert token not in requests.get(where, timeout=10).text
        assert token not in log.read_text()
        # The server's own address has no figures, for nobody.
        for headers in ({}, {"Authorization": f"Bearer {token}"}):
            assert requests.get(f"{url}/metrics", headers=headers, timeout=10).status_code == 404
    assert found["gsync_requests_total", "ann", "200"] >= 2
    assert found["gsync_requests_total", "", "401"] == 1
    assert found["gsync_received_bytes_total", "ann", ""] > 0
    assert found["gsync_sent_bytes_total", "ann", ""] > 0
    assert found["gsync_request_seconds_count", "", "/{tenant}/v1/hello"] == 2
    assert found["process_resident_memory_bytes", "", ""] > 1 << 20


def test_addresses() -> None:
    assert parse_address("9420") == ("127.0.0.1", 9420)
    assert parse_address("0.0.0.0:1") == ("0.0.0.0", 1)
    assert parse_address("[::1]:1") == ("::1", 1)
    for text in ("", "x", "1:x", "70000", "localhost", "1:2:"):
        with pytest.raises(Invalid):
            parse_address(text)


def test_an_address_in_use_is_said(tmp_path: Path) -> None:
    require("server")
    with served(tmp_path / "data") as (_, where, _log):
        port = where.split(":")[2].split("/")[0]
        message, _ = refused(
            tmp_path, "serve", "--data", "other", "--port", "0", "--metrics", port, code=7
        )
        assert port in message
