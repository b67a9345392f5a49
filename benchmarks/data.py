"""Data sets that follow from a seed alone: the same bytes, names and times wherever they are made.

S   many small texts in a tree, 512 bytes to 8 KiB, about 50 in a directory
U   1 % of S changed: 55 of 100 edited, 15 deleted, 15 renamed, 15 added
L   one large file, by turns a MiB of noise and a MiB of text; its edit inserts 1,052,909 bytes at
    10 % and overwrites 64 KiB at 60 %: an odd number, or blocks of a fixed size would look good
R   a tree of 80 files as of a service's configuration, or a copy of one that is given; one edit
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

EPOCH_S = 1_700_000_000
MIB = 1 << 20
INSERT_BYTES, OVERWRITE_BYTES = 1_052_909, 64 << 10
PER_DIRECTORY = 50
OWN = (".git", ".gsync", "gsync.toml")  # what tools keep inside a tree

SYLLABLES = (
    *("ar", "be", "con", "da", "el", "fi", "gra", "ho", "in", "ja", "ke", "lo", "men", "nor"),
    *("op", "pra", "qui", "ren", "sta", "tor", "ul", "ver", "wi", "ex", "yo", "za", "ter"),
)
# Short words first: they are drawn far more often, as in prose.
WORDS = [
    "".join(parts)
    for parts in itertools.chain(
        itertools.product(SYLLABLES), list(itertools.product(SYLLABLES, repeat=2))[::3]
    )
]
_WEIGHTS = list(itertools.accumulate(1 / (rank + 3) for rank in range(len(WORDS))))


def make_small(root: Path, count: int, seed: int = 1) -> None:
    """Write `count` small texts below `root`."""
    directories = max(1, count // PER_DIRECTORY)
    names = [f"a{i % 20:02}/b{i // 20 % 10}/c{i // 200:03}" for i in range(directories)]
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
    r = random.Random(f"small-{seed}")
    for i in range(count):
        path = f"{root}/{names[i % directories]}/{r.choice(WORDS)}-{i:06}.md"
        _write(path, text(r, int(512 * 16 ** r.random())))


def change_small(root: Path, seed: int, count: int) -> None:
    """Change `count` of the files below `root`: edit, delete, rename and add some."""
    r = random.Random(f"change-{seed}")
    paths = [path for path in files(root) if path.endswith(".md")]
    chosen = r.sample(paths, min(count, len(paths)))
    for i, name in enumerate(chosen):
        path, kind = root / name, i * 100 // len(chosen)
        if kind < 55:
            lines = path.read_bytes().split(b"\n")
            lines[len(lines) // 2] = sentence(r).encode()
            if r.random() < 0.5:
                lines += [b"", sentence(r).encode(), b""]
            path.write_bytes(b"\n".join(lines))
        elif kind < 70:
            path.unlink()
        elif kind < 85:
            path.rename(path.with_name(f"moved-{seed}-{path.name}"))
        else:
            (path.parent / f"added-{seed}-{i:05}.md").write_bytes(
                text(r, int(512 * 16 ** r.random()))
            )


def make_large(path: Path, mib: int, seed: int = 1) -> None:
    """Write a file of `mib` MiB."""
    r = random.Random(f"large-{seed}")
    pool = text(r, 4 * MIB)
    with path.open("wb") as file:
        for i in range(mib):
            file.write(r.randbytes(MIB) if i % 2 == 0 else _mixed(r, pool))
    os.utime(path, (EPOCH_S, EPOCH_S))


def edit_large(path: Path, seed: int) -> None:
    """Insert at 10 % and overwrite at 60 % of the file; it is a new file afterwards."""
    r = random.Random(f"edit-{seed}")
    size = path.stat().st_size
    insert_at, overwrite_at = size // 10, size * 6 // 10
    new = path.with_name(path.name + ".new")
    with path.open("rb") as source, new.open("wb") as target:
        _copy(source, target, insert_at)
        target.write(r.randbytes(INSERT_BYTES))
        _copy(source, target, overwrite_at - insert_at)
        target.write(r.randbytes(OVERWRITE_BYTES))
        source.seek(OVERWRITE_BYTES, os.SEEK_CUR)
        shutil.copyfileobj(source, target, MIB)
    new.replace(path)


def make_sample(root: Path, source: Path | None, seed: int = 1) -> None:
    """Copy the tree `source`, or write 80 files like those of a service's configuration."""
    if source is not None:
        shutil.copytree(source, root, dirs_exist_ok=True, symlinks=True)
        return
    r = random.Random(f"sample-{seed}")
    for i in range(80):
        directory = root / r.choice(WORDS[:12]) / r.choice(WORDS[30:60])
        directory.mkdir(parents=True, exist_ok=True)
        name = f"{r.choice(WORDS)}-{i:02}.{'yaml' if i % 3 else 'md'}"
        _write(str(directory / name), text(r, int(1024 * 16 ** r.random())))


def edit_sample(root: Path, seed: int) -> None:
    """Change one line of one text."""
    path = root / files(root)[seed % 7]
    path.write_bytes(path.read_bytes() + f"# changed {seed}\n".encode())


def text(r: random.Random, size: int) -> bytes:
    """Return a text with headings, lists and paragraphs, of `size` bytes."""
    words = r.choices(WORDS, cum_weights=_WEIGHTS, k=size // 4 + 40)
    title = " ".join(words[:4])
    out = [
        f"---\ntitle: {title}\nid: {r.getrandbits(64):016x}\ntags: [{', '.join(words[4:8])}]\n---\n"
    ]
    at, have = 8, len(out[0])
    while have < size and at < len(words):
        kind, taken = r.random(), words[at : at + r.randint(6, 40)]
        at += len(taken)
        if kind < 0.12:
            piece = f"\n## {' '.join(taken[:3]).title()}\n\n"
        elif kind < 0.3:
            piece = "".join(f"- {word} {i}\n" for i, word in enumerate(taken[:8]))
        else:
            piece = f"{' '.join(taken).capitalize()} {r.getrandbits(20):05x}.\n"
        out.append(piece)
        have += len(piece)
    body = "".join(out).encode()
    return body[: size - 1].ljust(size - 1, b".") + b"\n"


def sentence(r: random.Random) -> str:
    """Return one line of prose."""
    return " ".join(r.choices(WORDS, cum_weights=_WEIGHTS, k=r.randint(6, 18))).capitalize() + "."


def files(root: Path) -> list[str]:
    """Return the paths of all files below `root`, sorted; what tools keep there is left out."""
    return sorted(os.path.relpath(path, root) for path in _walk(root))


def digest(root: Path) -> str:
    """Return a hash over paths and contents: equal trees, wherever they are, have the same."""
    h = hashlib.blake2b(digest_size=16)
    for name in files(root):
        path = root / name
        body = os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
        h.update(f"{name}\0{len(body)}\0".encode() + body)
    return h.hexdigest()


def _walk(root: Path) -> Iterator[str]:
    for directory, below, names in os.walk(root):
        below[:] = [name for name in below if name not in OWN]
        yield from (os.path.join(directory, name) for name in names if name not in OWN)


def _write(path: str, body: bytes) -> None:
    with open(path, "wb") as file:
        file.write(body)
    os.utime(path, (EPOCH_S, EPOCH_S))


def _mixed(r: random.Random, pool: bytes) -> bytes:
    """Return a MiB of pieces of `pool`, salted, so that no two are equal."""
    out = bytearray()
    while len(out) < MIB:
        at = r.randrange(len(pool) - 1000)
        out += b"%016x " % r.getrandbits(64) + pool[at : at + r.randint(200, 900)]
    return bytes(out[:MIB])


def _copy(source: BinaryIO, target: BinaryIO, count: int) -> None:
    while count > 0:
        block = source.read(min(count, MIB))
        target.write(block)
        count -= len(block)
