"""Names that some system cannot hold, and trees that are large in one direction."""

from __future__ import annotations

import argparse
import os
import shutil
import stat
import time
import unicodedata
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from campaigns.report import show_failures, show_table
from support_cli import Done, gsync_in, json_in, refused

from gsync.replicas.files.remove import remove_tree

SUMMARY = "names that other systems refuse, names for terminals, and trees that are wide or deep"

PLAIN: dict[str, tuple[bytes, ...]] = {
    "case": (b"readme", b"README", b"ReadMe/x", b"stra\xc3\x9fe", b"STRASSE", b"\xc4\xb0", b"i"),
    "normalization": tuple(unicodedata.normalize(form, "Å/é").encode() for form in ("NFC", "NFD")),
    "other systems": (
        *(b"CON", b"nul", b"aux.txt", b"COM1", b"lpt1.log", b"a.", b"b ", b" c", b"C:", b"C:foo"),
        *(b"x:y", b"back\\slash", b'quo"te', b"star*", b"what?", b"<a>|b", b"desktop.ini"),
    ),
    "no text": (b"\xff", b"\xc3(", b"\xed\xa0\x80", b"\x80/\xfe", b"latin-\xe9"),
    "terminals": (
        *(b"new\nline", b"tab\tcr\rx", b"\x1b[31mred", b"\x1b]0;title\x07", b"\x7f", b"\xc2\x9b2J"),
        *("\u202etxt.exe".encode(), "\u2028".encode(), b"\x08\x08\x08", b"'; echo x", b"$(id)"),
    ),
    "dashes": (b"-", b"--", b"-rf", b"--help", b"-x/-y", b"@file", b"~", b"#", b"!x", b"%s%n"),
    "rules": (b"[ab]", b"#x", b"a**b", b"trail\\ ", b"**", b"{a,b}"),
    "255 bytes": (b"n" * 255, "\u00fc".encode() * 127 + b"x", b"\xf0\x9f\x98\x80" * 63),
    "not gsync": (
        b"gsync",
        b".gsyncx",
        b"gsync~10",
        b"x.gsync",
        ".gsynÇ".encode(),
        "․gsync".encode(),
    ),
}
OWN = (
    *(b".GSYNC", b".Gsync", b".gsync.", b".gsync ", b".gsync:stream", b"GSYNC~1", b"gsync~9"),
    *("\u200c.gsync".encode(), ".g\u200dsync".encode(), ".gsy\ufeffnc".encode()),
    *(".g\u017fync".encode(), b"x\\.gsync", b"..\\up", b"C:\\x"),
)
DEPTH = 1000
PATH_BYTES = 4096


def plant(folder: Path, names: Iterable[bytes]) -> None:
    """Make a file of each name, which holds it."""
    for name in names:
        path = os.path.join(os.fsencode(folder), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "xb") as file:
            file.write(name)


def nest(folder: Path, component: bytes, levels: int, leaf: bytes) -> bytes:
    """Make `levels` directories below each other and a file in the last; return its path."""
    fd = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(component, dir_fd=fd)
        below = os.open(component, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=fd)
        os.close(fd)
        fd = below
    file = os.open(leaf, os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=fd)
    os.write(file, b"deep\n")
    os.close(file)
    os.close(fd)
    return b"/".join([component] * levels + [leaf])


def files_in(folder: Path) -> dict[bytes, bytes]:
    """Return all files by path, reached by handles, so that no path is too long."""
    found: dict[bytes, bytes] = {}
    top = os.open(folder, os.O_RDONLY)
    pending = [(b"", os.dup(top))]
    os.close(top)
    while pending:
        prefix, fd = pending.pop()
        for text in os.listdir(fd):
            name = os.fsencode(text)
            if not prefix and name == b".gsync":
                continue
            if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                below = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=fd)
                pending.append((prefix + name + b"/", below))
            else:
                with open(os.open(name, os.O_RDONLY, dir_fd=fd), "rb") as file:
                    found[prefix + name] = file.read()
        os.close(fd)
    return found


def check_printed(done: Done) -> None:
    """What a terminal gets holds nothing that steers it, and a line for a line."""
    text = done.out.decode("utf-8", "surrogateescape") + done.err
    assert all(c.isprintable() or c in "\n\t" for c in text), repr(text)


def round_trip(base: Path, folder: Path) -> dict[bytes, bytes]:
    """Bring all of `folder` through every road; return what is there.

    Snapshot, push, clone, restore, a tarball out and in, and status after each.
    """
    files = files_in(folder)
    for command in (["status"], ["diff", "--stat"]):
        check_printed(gsync_in(folder, *command))
    check_printed(gsync_in(folder, "snapshot", "-m", "names"))
    for command in (["ls", "-l"], ["show"]):
        check_printed(gsync_in(folder, *command))
    assert json_in(folder, "status")["clean"]
    (base / "bare").mkdir()
    gsync_in(base / "bare", "init", "--bare")
    gsync_in(folder, "remote", "add", "origin", str(base / "bare"))
    gsync_in(folder, "push")
    roads = {"clone": base / "clone", "restore": base / "restored", "tarball": base / "imported"}
    gsync_in(base, "clone", str(base / "bare"), "clone")
    gsync_in(folder, "restore", "--to", str(roads["restore"]))
    gsync_in(folder, "export", "-o", str(base / "x.tar.gz"))
    roads["tarball"].mkdir()
    gsync_in(roads["tarball"], "init")
    check_printed(gsync_in(roads["tarball"], "import", str(base / "x.tar.gz")))
    for road, target in roads.items():
        found = files_in(target)
        found.pop(b"gsync.toml", None)
        expected = {path: body for path, body in files.items() if path != b"gsync.toml"}
        lacking, odd = (
            sorted(expected.keys() - found.keys()),
            sorted(found.keys() - expected.keys()),
        )
        assert found == expected, f"{road}: lacking {lacking[:5]}, too many {odd[:5]}"
    assert json_in(roads["clone"], "status")["clean"]
    assert json_in(roads["clone"], "verify")["problems"] == []
    return files


def try_plain(base: Path, *, group: str) -> int:
    """A group of awkward names comes back byte for byte by every road; they are ours to keep."""
    folder = base / "work"
    folder.mkdir()
    gsync_in(folder, "init")
    names = [name for name in PLAIN[group] if _holds(base, name)]
    plant(folder, names)
    round_trip(base, folder)
    for name in names[:2]:
        shown = gsync_in(folder, "cat", b"HEAD:" + name)
        assert shown.out == name
    if group in ("case", "normalization"):
        codes = {notice["code"] for notice in json_in(folder, "status")["notices"]}
        assert codes <= {"collision"}
    return len(names)


def _holds(base: Path, name: bytes) -> bool:
    """Return whether this file system has such a name, and apart from others."""
    probe = base / "probe"
    shutil.rmtree(probe, ignore_errors=True)
    probe.mkdir()
    try:
        plant(probe, [name])
        return files_in(probe) == {name: name}
    except (OSError, UnicodeError):
        return False
    finally:
        shutil.rmtree(probe)


def try_own(base: Path) -> int:
    """What some system takes for `.gsync` is left out with a notice, and the rest recorded."""
    folder = base / "work"
    folder.mkdir()
    gsync_in(folder, "init")
    names = [name for name in OWN if _holds(base, name)]
    plant(folder, [*names, b"kept"])
    notices = json_in(folder, "status")["notices"]
    assert sorted(n["key"] for n in notices if n["code"] == "illegal") == sorted(
        name.decode() for name in names
    )
    check_printed(gsync_in(folder, "status"))
    gsync_in(folder, "snapshot")
    entries = {entry["key"] for entry in json_in(folder, "ls")["entries"]}
    assert entries == {"gsync.toml", "kept"}
    return len(names)


def try_wide(base: Path, count: int) -> int:
    """A directory of `count` entries comes back by every road."""
    folder = base / "work"
    (folder / "wide").mkdir(parents=True)
    gsync_in(folder, "init")
    for n in range(count):
        (folder / "wide" / f"file-{n:06}").write_bytes(b"%d\n" % n)
    assert len(round_trip(base, folder)) == count + 1
    return count


def try_deep(base: Path) -> int:
    """1,000 levels come back by every road."""
    folder = base / "work"
    folder.mkdir()
    gsync_in(folder, "init")
    path = nest(folder, b"d", DEPTH, b"leaf")
    assert round_trip(base, folder)[path] == b"deep\n"
    return DEPTH


def try_long(base: Path) -> int:
    """The longest path that the system can open from its root comes back by every road."""
    folder = base / "work"
    folder.mkdir()
    gsync_in(folder, "init")
    room = PATH_BYTES - 1 - len(os.fsencode(base / "imported")) - 1
    levels = (room - 20) // 100
    path = nest(folder, b"x" * 99, levels, b"l" * (room - 100 * levels))
    assert len(path) == room
    assert round_trip(base, folder)[path] == b"deep\n"
    return len(path)


def try_too_long(base: Path) -> int:
    """A path that no map may hold is named and left out; the longest one that it may comes back.

    The longest is more than the system opens, with the folder's own path before it.
    """
    folder = base / "work"
    folder.mkdir()
    gsync_in(folder, "init")
    nest(folder, b"y" * 200, PATH_BYTES // 201 + 2, b"leaf")
    levels = (PATH_BYTES - 1) // 201
    longest = nest(folder, b"z" * 200, levels, b"l" * (PATH_BYTES - levels * 201))
    assert len(longest) == PATH_BYTES
    assert b"illegal" in gsync_in(folder, "snapshot").out
    recorded = {os.fsencode(entry["key"]) for entry in json_in(folder, "ls")["entries"]}
    assert {key for key in recorded if not key.startswith(b"y")} == {b"gsync.toml", longest}
    assert max(map(len, recorded)) <= PATH_BYTES
    gsync_in(base, "clone", str(folder), "back")
    try:
        assert files_in(base / "back")[longest] == b"deep\n"
    finally:
        remove_tree(base / "back")
    return 1


def try_folding(base: Path) -> int:
    """Where case is ignored, a tree with colliding names is refused before anything is written.

    The target is a directory of ext4 with case folding, where root can make one.
    """
    folder = base / "work"
    folder.mkdir()
    gsync_in(folder, "init")
    plant(folder, [b"readme", b"README"])
    gsync_in(folder, "snapshot")
    folding = base / "folding"
    folding.mkdir()
    made = make_folding(base, folding)
    if not made:
        return 0
    try:
        target = folding / "dir" / "out"
        message, _ = refused(folder, "restore", "--to", str(target), code=5)
        assert "README" in message and "readme" in message
        refused(folding / "dir", "clone", str(folder), "copy", code=5)
        assert list((folding / "dir").iterdir()) == []
    finally:
        os.system(f"umount -l '{folding}'")
    return 2


def make_folding(base: Path, place: Path) -> bool:
    """Mount ext4 at `place` with a directory `dir` that folds case; False where that cannot be."""
    image = base / "image"
    steps = (
        f"truncate -s 32M '{image}'",
        f"mkfs.ext4 -q -O casefold -E encoding=utf8 '{image}'",
        f"mount -o loop '{image}' '{place}'",
        f"mkdir '{place}/dir' && chattr +F '{place}/dir'",
    )
    for step in steps:
        if os.system(f"({step}) >/dev/null 2>&1"):
            os.system(f"umount -l '{place}' >/dev/null 2>&1")
            return False
    return True


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--entries", type=int, default=100_000, help="in one directory (100000)")
    parser.add_argument("--only", action="append", help="these, such as 'deep' or 'case'")


def run(options: argparse.Namespace) -> int:
    """Try everything once; print how many names came through."""
    tries: dict[str, Callable[[Path], int]] = {
        **{group: partial(try_plain, group=group) for group in PLAIN},
        "own names": try_own,
        "deep": try_deep,
        "long": try_long,
        "too long": try_too_long,
        "case folded": try_folding,
        "wide": lambda base: try_wide(base, options.entries),
    }
    rows: list[tuple[object, ...]] = []
    failures: list[str] = []
    for at, (name, one) in enumerate(tries.items()):
        if options.only and name not in options.only:
            continue
        began, count = time.monotonic(), 0
        base = options.base / str(at)
        base.mkdir()
        try:
            count = one(base)
        except AssertionError as error:
            failures.append(f"{name}: {str(error)[:500]}")
        remove_tree(base)
        rows.append((name, count, round(time.monotonic() - began)))
    show_table(("names", "count", "seconds"), rows)
    show_failures(failures)
    return len(failures)
