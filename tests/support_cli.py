"""The real command in a process of its own, and folders to use it on."""

from __future__ import annotations

import contextlib
import io
import json
import os
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gsync

RUN_S = 60
ERROR_KINDS = {2: ("invalid", "too_large"), 3: "denied", 4: "not_found", 5: "conflict"}
ERROR_KINDS |= {6: "corrupt", 7: "unavailable"}


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def environment(**more: str) -> dict[str, str]:
    """Return what the command gets: this checkout, and who makes manifests."""
    root = str(Path(gsync.__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": root, "GSYNC_AUTHOR": "Ada <ada@example.org>", **more}


def start(folder: Path, *args: str | bytes, **env: str) -> subprocess.Popen[bytes]:
    """Start a command in `folder`; the caller ends it."""
    return subprocess.Popen(
        [sys.executable, "-m", "gsync", *args],
        cwd=folder,
        env=environment(**env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def gsync_in(folder: Path, *args: str | bytes, code: int = 0, **env: str) -> Done:
    """Run a command in `folder`; it must end with `code`, and never with a traceback."""
    with start(folder, *args, **env) as process:
        try:
            out, err = process.communicate(timeout=RUN_S)
        finally:
            process.kill()
    done = Done(process.returncode, out, err.decode("utf-8", "surrogateescape"))
    assert done.code == code, (args, done)
    assert "Traceback" not in done.err
    return done


def run_here(folder: Path, *args: str) -> tuple[int, bytes, str]:
    """Run the command in this process, which takes a tenth of the time; code and what it said."""
    from gsync.cli.main import run

    here, err = os.getcwd(), io.StringIO()
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="", write_through=True)
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(args)
    finally:
        os.chdir(here)
    return code, out.buffer.getvalue(), err.getvalue()


def json_in(folder: Path, *args: str | bytes, code: int = 0, **env: str) -> Any:
    """Run a command with --json; return its one document."""
    done = gsync_in(folder, "--json", *args, code=code, **env)
    document = done.json
    assert document["format"] == 1
    return document


def refused(folder: Path, *args: str | bytes, code: int, **env: str) -> tuple[str, str]:
    """Run a command that must fail well with `code`; return its message and hint.

    One line `gsync: `, at most one line `hint: `, nothing on stdout.
    """
    done = gsync_in(folder, *args, code=code, **env)
    lines = done.err.splitlines()
    assert done.out == b""
    assert 1 <= len(lines) <= 2, lines
    assert lines[0].startswith("gsync: ")
    assert all(line.startswith("hint: ") for line in lines[1:])
    return lines[0].removeprefix("gsync: "), "".join(lines[1:]).removeprefix("hint: ")


def read_tree(folder: Path) -> dict[bytes, tuple[str, bytes]]:
    """Return each path below `folder` with its type and content; `.gsync` is left out."""
    found: dict[bytes, tuple[str, bytes]] = {}
    top = os.fsencode(folder)
    for directory, names, files in os.walk(top):
        if directory == top and b".gsync" in names:
            names.remove(b".gsync")
        for name in [*names, *files]:
            path = os.path.join(directory, name)
            mode = os.lstat(path).st_mode
            key = os.path.relpath(path, top)
            if stat.S_ISLNK(mode):
                found[key] = ("link", os.readlink(path))
            elif stat.S_ISDIR(mode):
                found[key] = ("directory", b"")
            else:
                with open(path, "rb") as file:
                    found[key] = ("executable" if mode & 0o100 else "file", file.read())
    return found


def make_repository(folder: Path, files: dict[str, bytes] | None = None) -> Path:
    """Make a repository with one snapshot of `files` in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    gsync_in(folder, "init")
    write(folder, files if files is not None else {"a.txt": b"one\n", "d/b.txt": b"two\n"})
    gsync_in(folder, "snapshot", "-m", "first")
    return folder


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def head(folder: Path) -> str:
    """Return where main is."""
    return str(json_in(folder, "refs")["refs"]["main"])
