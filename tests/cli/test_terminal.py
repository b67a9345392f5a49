"""What contents that somebody else wrote may do to a terminal: nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support_cli import environment, gsync_in, make_repository

HOSTILE = (
    b"\x1b]0;owned\x07 \x1b[2J \x1b[8mhidden\x1b[0m \x9b5m \xe2\x80\xaeback \x08\r plain\ttab\n"
)


def in_terminal(folder: Path, *args: str) -> bytes:
    """Run a command whose output is a terminal; return what came there."""
    reader, terminal = os.openpty()
    command = [sys.executable, "-m", "gsync", *args]
    with subprocess.Popen(
        command, cwd=folder, env=environment(TERM="xterm"), stdin=terminal, stdout=terminal
    ) as process:
        os.close(terminal)
        found = b""
        while True:
            try:
                piece = os.read(reader, 1 << 16)
            except OSError:  # the other end was closed
                break
            if not piece:
                break
            found += piece
    os.close(reader)
    assert process.returncode == 0
    return found


def test_a_diff_does_not_steer_the_terminal(tmp_path: Path) -> None:
    folder = make_repository(tmp_path / "work", {"a.txt": b"one\n"})
    (folder / "a.txt").write_bytes(HOSTILE)
    shown = in_terminal(folder, "diff").decode()
    assert "^[]0;owned^G ^[[2J ^[[8mhidden" in shown and "<202e>back ^H^M plain\ttab" in shown
    for steering in ("\x1b]", "\x1b[2J", "\x1b[8m", "\x9b", "\u202e", "\x08"):
        assert steering not in shown
    assert "\x1b[32m+" in shown  # colours of our own are still there


def test_a_message_does_not_steer_the_terminal(tmp_path: Path) -> None:
    folder = make_repository(tmp_path / "work", {"a.txt": b"one\n"})
    (folder / "a.txt").write_bytes(b"two\n")
    gsync_in(folder, "snapshot", "-m", "\x1b[2Jwiped")
    for args in (("log",), ("show", "HEAD")):
        shown = in_terminal(folder, *args)
        assert b"^[[2Jwiped" in shown and b"\x1b[2J" not in shown


def test_a_file_gets_what_the_content_is(tmp_path: Path) -> None:
    folder = make_repository(tmp_path / "work", {"a.txt": b"one\n"})
    (folder / "a.txt").write_bytes(HOSTILE)
    shown = gsync_in(folder, "diff").out
    assert b"+\x1b]0;owned\x07 \x1b[2J" in shown
