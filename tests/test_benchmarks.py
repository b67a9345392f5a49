"""The benchmarks run, and say what they found; how fast anything is, no test asks."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest
from support import require
from support_cli import environment

ROOT = Path(__file__).resolve().parent.parent
RUN_S = 600
OPERATIONS = {
    *("snapshot", "status", "restore", "push", "send", "push_nothing", "clone", "pull_nothing"),
    *("snapshot_change", "push_change", "send_change", "pull", "diff", "verify", "gc"),
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="only in the whole source"),
]


def test_a_run_leaves_raw_runs_a_page_and_charts(tmp_path: Path) -> None:
    """Each operation is measured after a warm-up that counts bytes; who is missing is said."""
    require("server")
    out = tmp_path / "out"
    what = ["--only", "small", "--peers", "nobody", "--files", "60", "--runs", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *what, "--work", tmp_path, "--out", out],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=RUN_S,
    )
    assert done.returncode == 0, done.stderr
    assert "- not installed: nobody\n" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    runs = json.loads((out / "runs.json").read_text())
    assert runs["failures"] == []
    found = {(run["op"], run["run"]) for run in runs["runs"]}
    assert found == {(op, number) for op in OPERATIONS for number in (0, 1)}
    counted = {run["op"] for run in runs["runs"] if "wire_bytes" in run and run["run"] == 0}
    assert counted >= {"push", "push_nothing", "clone", "pull", "push_change"}
    summary = json.loads((out / "summary.json").read_text())
    verdicts = {v["verdict"] for v in summary["targets"] if v["op"] == "push_nothing" and v["ours"]}
    assert "met" in verdicts  # of bytes, which no peer is needed for
    assert xml.etree.ElementTree.parse(out / "time-small.svg").getroot().tag.endswith("svg")


def test_the_slow_link_delays_counts_and_cuts(tmp_path: Path) -> None:
    """What crosses it takes no less than its delay, is counted, and stops when it is cut."""
    require("root")
    sys.path.append(str(ROOT))
    try:
        from benchmarks.wan import Link, missing
    finally:
        sys.path.remove(str(ROOT))
    if reason := missing():
        pytest.skip(reason)
    with Link(delay_s=0.1, bits_per_s=10e6) as link:
        serve = [*link.there, sys.executable, "-m", "http.server", "-b", link.address, "8000"]
        with subprocess.Popen(serve, cwd=tmp_path, stderr=subprocess.DEVNULL) as server:
            try:
                (tmp_path / "body").write_bytes(bytes(200_000))
                took, size = _fetch(link.here, f"http://{link.address}:8000/body", attempts=50)
                assert size == 200_000
                assert took >= 0.4  # one round trip to connect, one for the answer
                count = link.count()
                assert count.received > 200_000 > count.sent > 0
                link.cut()
                with pytest.raises(subprocess.CalledProcessError):
                    _fetch(link.here, f"http://{link.address}:8000/body", attempts=1)
                link.mend()
                assert _fetch(link.here, f"http://{link.address}:8000/body", attempts=5)[1]
            finally:
                server.terminate()


def _fetch(prefix: list[str], url: str, *, attempts: int) -> tuple[float, int]:
    """Return how long it took to get `url`, and its size; raise if it did not come."""
    code = f"""
import time, urllib.request
for left in reversed(range({attempts})):
    try:
        began = time.monotonic()
        body = urllib.request.urlopen({url!r}, timeout=3).read()
        break
    except OSError:
        if not left: raise
        time.sleep(0.1)
print(time.monotonic() - began, len(body))
"""
    done = subprocess.run(
        [*prefix, sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    took, size = done.stdout.split()
    return float(took), int(size)
