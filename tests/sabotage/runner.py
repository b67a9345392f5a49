"""Breaks a copy of the tree in one place after the other, and sees whether its tests notice.

A sabotage that goes unnoticed means that a safety claim rests on no test.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sabotage.claims import Claim

ROOT = Path(__file__).resolve().parents[2]

# A sabotage may make a loop endless; the slowest of the named tests take a tenth of this.
TIMEOUT_S = 300

_OUTCOME = re.compile(r"(PASSED|FAILED|ERROR) (tests/\S+?\.py::[^\s\[]+)", re.MULTILINE)


class DoesNotApply(Exception):
    """The old text of a claim is not in its file exactly once."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of the tests of one claim.

    Attributes:
        caught: Whether every named test turned red.
        green: Named tests that stayed green, or did not run at all.
        output: The last lines of pytest.
    """

    caught: bool
    green: tuple[str, ...]
    output: str


def sabotaged(claim: Claim, text: str) -> str:
    """Return `text`, the content of the claim's file, with its sabotage.

    Raises:
        DoesNotApply: the old text is not there exactly once.
    """
    count = text.count(claim.old)
    if count != 1:
        raise DoesNotApply(
            f"{claim.name}: {claim.file} holds the old text {count} times, expected once: the code"
            f" has moved, so write the sabotage anew: {claim.old.strip()[:80]!r}"
        )
    return text.replace(claim.old, claim.new)


def copy_tree(target: Path) -> None:
    """Copy what Git tracks, as it is in the working tree, to the new directory `target`."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


@contextmanager
def applied(claim: Claim, copy: Path) -> Iterator[None]:
    """Break the file of `claim` in `copy`, and mend it afterwards."""
    path = copy / claim.file
    stat, before = path.stat(), path.read_text()
    path.write_text(sabotaged(claim, before))
    try:
        yield
    finally:
        path.write_text(before)
        # The compiled files of the sound tree are good again.
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def check_green(claims: Sequence[Claim], copy: Path) -> Outcome:
    """Run the tests of all `claims` without a sabotage; `caught` is False if all are green."""
    tests = list(dict.fromkeys(test for claim in claims for test in claim.tests))
    passed, failed, output = _run(tests, copy, timeout_s=TIMEOUT_S * len(claims), compiled=True)
    return Outcome(bool(failed), tuple(t for t in tests if t in failed or t not in passed), output)


def check_caught(claim: Claim, copy: Path) -> Outcome:
    """Run the tests of `claim` with its sabotage.

    Raises:
        DoesNotApply: the code has moved.
    """
    with applied(claim, copy):
        try:
            _, failed, output = _run(claim.tests, copy, timeout_s=TIMEOUT_S, compiled=False)
        except subprocess.TimeoutExpired:
            return Outcome(False, claim.tests, f"no end after {TIMEOUT_S} s")
    green = tuple(test for test in claim.tests if test not in failed)
    return Outcome(not green, green, output)


def _run(
    tests: Sequence[str], copy: Path, *, timeout_s: float, compiled: bool
) -> tuple[set[str], set[str], str]:
    """Return which tests passed and which failed, and the end of what pytest says."""
    others = [
        path
        for path in os.environ.get("PYTHONPATH", "").split(os.pathsep)
        if path and Path(path).resolve() not in (ROOT, ROOT / "tests")
    ]
    outside = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment = outside | {
        # Programs that tests start somewhere else find the copy too.
        "PYTHONPATH": os.pathsep.join([str(copy), str(copy / "tests"), *others]),
        "CI": "1",  # the same examples each time
    }
    if not compiled:
        # A file and its sabotage may agree in all that compiled code is known by.
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rA", "--tb=line", "-p", "no:cacheprovider", *tests],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
    )
    outcomes = [(match[1], match[2]) for match in _OUTCOME.finditer(done.stdout)]
    return (
        {test for outcome, test in outcomes if outcome == "PASSED"},
        {test for outcome, test in outcomes if outcome != "PASSED"},
        "\n".join((done.stdout + done.stderr).splitlines()[-25:]),
    )
