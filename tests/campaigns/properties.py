"""All tests that draw their cases by chance, with many more cases."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from campaigns.report import show_failures, show_table

SUMMARY = "every property-based test, with many cases"

TESTS = Path(__file__).resolve().parents[1]


def property_tests() -> list[str]:
    """Return the files, below `tests`, that have tests with drawn cases."""
    found = []
    for path in sorted(TESTS.rglob("test_*.py")):
        if "\n@given(" in path.read_text():
            found.append(path.relative_to(TESTS.parent).as_posix())
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--examples", type=int, default=2000, help="cases for each test (2000)")
    parser.add_argument("--only", help="files with this in their path")


def run(options: argparse.Namespace) -> int:
    """Run each file with the drawn tests; a failure prints what reproduces it."""
    rows: list[tuple[object, ...]] = []
    failures: list[str] = []
    for path in property_tests():
        if options.only and options.only not in path:
            continue
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "", path],
            cwd=TESTS.parent,
            env={**os.environ, "GSYNC_EXAMPLES": str(options.examples)},
            capture_output=True,
            text=True,
        )
        passed = re.search(r"(\d+) passed", done.stdout)
        count = int(passed[1]) if passed else 0
        rows.append((path, count, done.returncode, round(time.monotonic() - began)))
        if done.returncode or not count:
            failures.append(f"{path}: {done.stdout[-1500:]}")
    show_table(("file", "passed", "exit", "seconds"), rows)
    show_failures(failures)
    return len(failures)
