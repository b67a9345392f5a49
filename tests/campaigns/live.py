"""Snapshots and pulls of a folder that somebody writes at the same time."""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from campaigns.report import show_failures, show_table
from support_cli import gsync_in, json_in, start

SUMMARY = "a writer that never rests, while snapshot, restore and pull run in a loop"

SIZES = (0, 40, 3_000, 131_072, 400_000)
FILES = 24
DIRECTORIES = 4
_HEAD = re.compile(rb"(\S+) ([0-9]+) ([0-9]+) ([0-9a-f]{32})\n")


def content(path: str, version: int, size: int) -> bytes:
    """Return what says by itself where it belongs, which version it is, and that it is whole."""
    body = random.Random(f"{path} {version}").randbytes(size)
    digest = hashlib.md5(f"{path} {version}".encode() + body).hexdigest()
    return f"{path} {version} {size} {digest}\n".encode() + body


def version_of(path: str, data: bytes) -> int | None:
    """Return the version of a whole content, or None for anything else: a mix, a part."""
    match = _HEAD.match(data)
    if match is None or match[1].decode() != path:
        return None
    version, size = int(match[2]), int(match[3])
    return version if data == content(path, version, size) else None


class Writer:
    """Changes files of a folder as editors and programs do, from a seed.

    A writer that truncates leaves a part of a file for a moment, which is a state of the file
    and no mix: only files that are replaced whole are held to be whole.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.version = 0

    def step(self) -> None:
        at = self.random.randrange(FILES)
        style = ("replace", "truncate", "append", "shape")[at % 4]
        path = f"{style}-{at % DIRECTORIES}/f{at}"
        self.version += 1
        target = self.folder / path
        data = content(path, self.version, self.random.choice(SIZES))
        target.parent.mkdir(exist_ok=True)
        if style == "replace":
            draft = target.with_name(f"{target.name}~")
            draft.write_bytes(data)
            os.replace(draft, target)
        elif style == "truncate":
            target.write_bytes(data)
        elif style == "append":
            with target.open("ab") as file:
                file.write(b"%d\n" % self.version)
        else:
            self._reshape(target)

    def _reshape(self, target: Path) -> None:
        """Turn a file into a directory, a link out of the folder, nothing, or a file again."""
        if target.is_symlink() or target.is_file():
            target.unlink()
        elif target.is_dir():
            for inner in target.iterdir():
                inner.unlink()
            target.rmdir()
        shape = self.random.randrange(4)
        if shape == 0:
            target.mkdir()
            (target / "inner").write_bytes(b"inner\n")
        elif shape == 1:
            target.symlink_to(self.folder.parent / "outside")
        elif shape == 2:
            path = target.relative_to(self.folder).as_posix()
            target.write_bytes(content(path, self.version, 100))


def write_on(folder: Path, seed: int) -> None:
    """Write until the standard input ends; print how many steps that were."""
    writer = Writer(folder, seed)
    os.set_blocking(0, False)
    while os.read(0, 1) if _is_readable() else True:
        writer.step()
    sys.stdout.write(f"{writer.version}\n")


def _is_readable() -> bool:
    import select

    return bool(select.select([0], [], [], 0.0005)[0])


@contextmanager
def writing(folder: Path, seed: int) -> Iterator[None]:
    """Run a writer as a process of its own for the block."""
    code = (
        "import sys, pathlib; sys.path[:0] = sys.argv[3:]; from campaigns.live import write_on;"
        "write_on(pathlib.Path(sys.argv[1]), int(sys.argv[2]))"
    )
    paths = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder), str(seed), *paths],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    try:
        yield
    finally:
        process.stdin.close()
        try:
            assert process.wait(60) == 0, "the writer failed"
        finally:
            process.kill()
            process.wait()


def check_snapshot(folder: Path, revision: str) -> int:
    """Every recorded file that is only ever replaced is one whole version; return how many."""
    checked = 0
    for entry in json_in(folder, "ls", revision)["entries"]:
        path = entry["key"]
        assert "outside" not in path and not path.endswith("secret"), f"{path}: a link was followed"
        if path.startswith("replace-") and not path.endswith("~"):
            data = gsync_in(folder, "cat", f"{revision}:{path}").out
            assert version_of(path, data) is not None, f"{revision}:{path} is a mix"
            checked += 1
        elif path.startswith("append-"):
            numbers = gsync_in(folder, "cat", f"{revision}:{path}").out
            lines = numbers.split(b"\n")
            assert lines[-1] == b"", f"{revision}:{path} ends in the middle of a line"
            assert [int(line) for line in lines[:-1]] == sorted(int(line) for line in lines[:-1])
    return checked


def check_nothing_is_hidden(folder: Path) -> None:
    """When all is quiet, one more snapshot has exactly what is live: no edit went unseen."""
    gsync_in(folder, "snapshot", "-m", "quiet")
    assert json_in(folder, "status")["clean"]
    target = folder.parent / f"quiet-{time.monotonic_ns()}"
    gsync_in(folder, "restore", "--to", str(target))
    listed = subprocess.run(
        ["diff", "-r", "--no-dereference", "-x", ".gsync", str(folder), str(target)],
        capture_output=True,
        text=True,
    )
    assert listed.returncode == 0, f"live and recorded differ: {listed.stdout[:500]}"


def make(base: Path) -> Path:
    folder = base / "work"
    folder.mkdir()
    (base / "outside").mkdir()
    (base / "outside" / "secret").write_text("must not be read\n")
    gsync_in(folder, "init")
    (folder / ".gsyncignore").write_text("*~\n")
    gsync_in(folder, "snapshot", "-m", "first")
    return folder


def snapshots(base: Path, seed: int, rounds: int) -> tuple[int, int]:
    """Make snapshots while a writer writes; return how many, and how many files were checked."""
    folder = make(base)
    made = []
    with writing(folder, seed):
        for n in range(rounds):
            with start(folder, "--json", "snapshot", "-m", str(n)) as process:
                out, err = process.communicate(timeout=120)
            assert process.returncode in (0, 7), (out, err)
            if process.returncode == 7:
                assert b"cannot read" in out, out
            else:
                made.append(json_in(folder, "refs")["refs"]["main"])
    checked = sum(check_snapshot(folder, oid) for oid in dict.fromkeys(made))
    check_nothing_is_hidden(folder)
    assert json_in(folder, "verify")["problems"] == []
    return len(made), checked


def pulls(base: Path, seed: int, rounds: int) -> tuple[int, int]:
    """Pull over a folder that a writer writes; no version that it wrote last is lost.

    The origin changes the same files. Returns how many pulls moved, and how many refused.
    """
    origin = make(base)
    writer = Writer(origin, seed)
    for _ in range(2 * FILES):
        writer.step()
    gsync_in(origin, "snapshot", "-m", "filled")
    gsync_in(base, "clone", str(origin), "copy")
    copy = base / "copy"
    moved = refused = 0
    for n in range(rounds):
        for _ in range(3):
            writer.step()
        gsync_in(origin, "snapshot", "-m", str(n))
        target = copy / "replace-0" / "mine"
        target.parent.mkdir(exist_ok=True)
        with start(copy, "--json", "pull") as process:
            last = b""
            for version in range(50):
                time.sleep(0.01)
                if process.poll() is not None:
                    break
                draft = target.with_name("mine~")
                draft.write_bytes(b"%d %d" % (n, version))
                os.replace(draft, target)
                last = b"%d %d" % (n, version)
            out, err = process.communicate(timeout=120)
        assert process.returncode in (0, 5), (out, err)
        moved += process.returncode == 0
        refused += process.returncode == 5
        assert not last or target.read_bytes() == last, "what was written during a pull is gone"
    gsync_in(copy, "snapshot", "-m", "mine")
    assert json_in(copy, "verify")["problems"] == []
    return moved, refused


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=25, help="commands for each seed (25)")


def run(options: argparse.Namespace) -> int:
    """Run both for some seeds; print how much was checked."""
    rows: list[tuple[object, ...]] = []
    failures: list[str] = []
    for seed in range(options.seed, options.seed + (options.seeds or 4)):
        for name, one in (("snapshot", snapshots), ("pull", pulls)):
            base = options.base / f"{name}{seed}"
            base.mkdir()
            began, found = time.monotonic(), (0, 0)
            try:
                found = one(base, seed, options.rounds)
            except AssertionError as error:
                failures.append(f"{name}, seed {seed}: {str(error)[:500]}")
            rows.append((name, seed, options.rounds, *found, round(time.monotonic() - began)))
    show_table(("command", "seed", "runs", "done", "checked or refused", "seconds"), rows)
    show_failures(failures)
    return len(failures)
