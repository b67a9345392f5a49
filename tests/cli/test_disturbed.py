"""Commands whose folder, rights or clock change while they run; each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import UNPRIVILEGED
from support_cli import ERROR_KINDS, environment, gsync_in, head, json_in, make_repository

FILES = {
    "a.txt": b"one\n",
    "m/b.txt": b"two\n",
    "m/deep/c.txt": b"three\n",
    "z.txt": b"four\n",
}

CLOSING = """
import os, sys
real, closed, target = os.open, [], sys.argv[1]

def opening(name, *args, **kwargs):
    if os.fsencode(name).endswith(b'a.txt') and not closed:
        closed.append(name)
        os.chmod(target, 0)
    return real(name, *args, **kwargs)

os.open = opening
from gsync.cli.main import main
sys.argv = ['gsync', *sys.argv[2:]]
main()
"""


def run(code: str, folder: Path, *args: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, timeout=60)


@pytest.mark.parametrize("path", ["z.txt", "m", "m/deep", "m/b.txt"])
def test_permission_that_goes_in_the_middle_of_a_scan(tmp_path: Path, path: str) -> None:
    """What can no longer be read is not taken for deleted: it is named, and nothing is recorded."""
    folder = make_repository(tmp_path / "work", FILES)
    before = head(folder)
    for name in FILES:  # all are to be read again
        (folder / name).write_bytes(b"edited " + FILES[name])
    code = UNPRIVILEGED + CLOSING
    done = run(code, folder, str(folder / path), "snapshot", "-m", "in the middle")
    (folder / path).chmod(0o755 if (folder / path).is_dir() else 0o644)
    assert b"Traceback" not in done.stderr and done.returncode in ERROR_KINDS, done
    assert path.encode() in done.stderr and b"cannot read" in done.stderr, done
    assert head(folder) == before
    made = json_in(folder, "snapshot", "-m", "all of it")
    assert made["changes"]["modified"] == len(FILES) and made["changes"]["deleted"] == 0
    gsync_in(folder, "verify")


CLOCK = """
import sys, time
offset = int(sys.argv.pop(1))
real, real_ns = time.time, time.time_ns
time.time = lambda: real() + offset
time.time_ns = lambda: real_ns() + offset * 10**9
from gsync.cli.main import main
sys.argv = ['gsync', *sys.argv[1:]]
main()
"""
DAY_S = 86_400


@pytest.mark.parametrize("offsets", [(0, -DAY_S), (DAY_S, 0), (-3650 * DAY_S, 3650 * DAY_S)])
def test_clock_that_jumps_between_commands(tmp_path: Path, offsets: tuple[int, int]) -> None:
    """No edit is hidden, nothing is collected too early, and history stays in its order."""
    folder = make_repository(tmp_path / "work", FILES)
    for round_, offset in enumerate(offsets * 2):
        stat = (folder / "a.txt").stat()
        (folder / "a.txt").write_bytes(b"%03d\n" % round_)  # of the same size always
        os.utime(folder / "a.txt", ns=(stat.st_atime_ns, stat.st_mtime_ns))
        for args in (("snapshot", "-m", f"round {round_}"), ("status", "--exit-code"), ("gc",)):
            done = run(CLOCK, folder, str(offset), *args)
            assert done.returncode == 0, (args, done)
        assert gsync_in(folder, "cat", "HEAD:a.txt").out == b"%03d\n" % round_
    messages = [one["message"] for one in json_in(folder, "log")["manifests"]]
    assert messages[:4] == ["round 3", "round 2", "round 1", "round 0"]
    gsync_in(folder, "undo")
    gsync_in(folder, "verify")
    gsync_in(folder, "reflog", "--verify")


def test_push_across_a_jump_of_the_clock(tmp_path: Path) -> None:
    """Leases are times: a clock that jumps must not let a collection drop what is being pushed."""
    folder = make_repository(tmp_path / "work", FILES)
    gsync_in(folder, "remote", "add", "origin", str(tmp_path / "there"))
    gsync_in(folder, "push")
    for offset in (2 * DAY_S, -2 * DAY_S):
        (folder / "new.txt").write_bytes(b"%d\n" % offset)
        gsync_in(folder, "snapshot", "-m", "more")
        assert run(CLOCK, folder, str(offset), "push").returncode == 0
        assert run(CLOCK, tmp_path / "there", str(-offset), "gc").returncode == 0
        gsync_in(tmp_path / "there", "verify")
    gsync_in(tmp_path, "clone", str(tmp_path / "there"), "copy")
    assert (tmp_path / "copy/new.txt").read_bytes() == b"%d\n" % (-2 * DAY_S)
