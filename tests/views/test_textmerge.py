"""Merging by lines: plain cases, every alignment of small texts, and git."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import require

from gsync.views.textmerge import count_lines, merge_lines


def lines(text: str) -> bytes:
    return "".join(f"{line}\n" for line in text.split()).encode()


@pytest.mark.parametrize(
    ("description", "base", "ours", "theirs", "merged"),
    [
        ("edits far apart", "a b c d e", "A b c d e", "a b c d E", "A b c d E"),
        ("one kept line between", "a b c", "A b c", "a b C", "A b C"),
        ("neighbouring lines", "a b c d", "a B c d", "a b C d", None),
        ("the same line", "a b c", "a B c", "a X c", None),
        ("the same edit", "a b c", "a B c", "a B c", "a B c"),
        ("the same edit and one more", "a b c d e", "A b c d e", "A b c d E", "A b c d E"),
        ("the same insertion and one more", "a b c d", "a x b c d", "a x b c D", "a x b c D"),
        ("two insertions at one place", "a b", "a x b", "a y b", None),
        ("insertions at both ends", "a b", "x a b", "a b y", "x a b y"),
        ("insertions in nothing", "", "x", "y", None),
        ("deleted and edited", "a b c", "a c", "a B c", None),
        ("deleted and kept", "a b c d e", "b c d e", "a b c d", "b c d"),
        ("both deleted, one more", "a b c d e", "a c d e", "a d e", None),
        ("everything deleted, something edited", "a b c", "", "a b C", None),
        ("one of many equal lines gone, one edited", "x x x x x", "x x x x", "x x y x x", None),
        ("an equal line added, an edit among them", "x x x", "x x x x", "x y x", None),
        ("equal lines, edits outside them", "a b x x c d", "A b x x c d", "a b x c d", "A b x c d"),
        ("a block moved, an edit far away", "a b c d e f g", "c a b d e f g", "a b c d e f G",
         "c a b d e f G"),
    ],
)  # fmt: skip
def test_cases(description: str, base: str, ours: str, theirs: str, merged: str | None) -> None:
    """Edits with a kept line between them go together; what touches does not, unless equal."""
    expected = None if merged is None else lines(merged)
    assert merge_lines(lines(base), lines(ours), lines(theirs)) == expected
    assert merge_lines(lines(base), lines(theirs), lines(ours)) == expected


@pytest.mark.parametrize(
    ("description", "base", "ours", "theirs", "merged"),
    [
        ("no final newline is kept", b"a\nb\nc", b"A\nb\nc", b"a\nb\nc", b"A\nb\nc"),
        ("one side adds it", b"a\nb\nc", b"A\nb\nc", b"a\nb\nc\n", b"A\nb\nc\n"),
        ("one side takes it away", b"a\nb\nc\n", b"A\nb\nc\n", b"a\nb\nc", b"A\nb\nc"),
        ("one adds it, the other adds a line", b"a\nb", b"a\nb\n", b"a\nb\nc", None),
        ("CR LF is kept as it is", b"a\r\nb\r\nc\r\n", b"A\r\nb\r\nc\r\n", b"a\r\nb\r\nC\r\n",
         b"A\r\nb\r\nC\r\n"),
        ("CR alone ends no line", b"a\rb\rc", b"A\rb\rc", b"a\rb\rC", None),
        ("other line ends on one side are edits", b"a\nb\n", b"a\r\nb\r\n", b"a\nB\n", None),
        ("NEL and form feed end no line", "a\x85\x0cb\nc\nd\n".encode(),
         "A\x85\x0cb\nc\nd\n".encode(), "a\x85\x0cb\nc\nD\n".encode(),
         "A\x85\x0cb\nc\nD\n".encode()),
    ],
)  # fmt: skip
def test_line_ends(
    description: str, base: bytes, ours: bytes, theirs: bytes, merged: bytes | None
) -> None:
    """Line ends and a missing last one are bytes like others, and none is made up."""
    assert merge_lines(base, ours, theirs) == merged
    assert merge_lines(base, theirs, ours) == merged


@pytest.mark.parametrize("text", [b"", b"a", b"a\n", b"\n", b"a\nb", b"\n\n"])
def test_count_lines(text: bytes) -> None:
    """Lines are counted as they are cut."""
    assert count_lines(text) == len(text.split(b"\n")) - (text.endswith(b"\n") or not text)


# --- Against every alignment ----------------------------------------------------------

small = st.text("ab", max_size=5)


@given(base=small, ours=small, theirs=small)
def test_some_alignment_gives_it(base: str, ours: str, theirs: str) -> None:
    """What is merged is what textbook diff3 makes of some alignment of each side, or None."""
    found = merge_lines(*(lines(" ".join(text)) for text in (base, ours, theirs)))
    assert found == merge_lines(*(lines(" ".join(text)) for text in (base, theirs, ours)))
    if found is not None:
        assert found in {
            lines(" ".join(merged))
            for one, other in product(alignments(base, ours), alignments(base, theirs))
            if (merged := diff3(base, ours, one, theirs, other)) is not None
        }


@given(seed=st.integers(0, 2**32))
def test_distinct_lines_equal_diff3(seed: int) -> None:
    """Where lines are distinct and none moved, there is one alignment, and diff3 is met exactly."""
    r = random.Random(seed)
    base = "abcdefgh"[: r.randint(0, 8)]
    fresh = iter("ABCDEFGHIJKLMNOP")
    ours, theirs = (edited(r, base, fresh) for _ in range(2))
    if r.random() < 0.3 and ours:
        theirs = ours[: r.randint(0, len(ours))] + theirs[r.randint(0, len(theirs)) :]
        theirs = "".join(dict.fromkeys(c for c in base if c in theirs)) or theirs[:1]
    kept = [tuple((base.index(c), side.index(c)) for c in base if c in side)
            for side in (ours, theirs)]  # fmt: skip
    merged = diff3(base, ours, kept[0], theirs, kept[1])
    expected = None if merged is None else lines(" ".join(merged))
    assert merge_lines(*(lines(" ".join(text)) for text in (base, ours, theirs))) == expected


def edited(r: random.Random, base: str, fresh: Iterator[str]) -> str:
    side = list(base)
    for _ in range(r.randint(0, 2)):
        at = r.randint(0, len(side))
        side[at : at + r.randint(0, 2)] = [next(fresh) for _ in range(r.randint(0, 2))]
    return "".join(side)


Alignment = tuple[tuple[int, int], ...]


def alignments(base: str, side: str, i: int = 0, j: int = 0) -> Iterator[Alignment]:
    """Yield all ways to take lines of the one for lines of the other, in order."""
    yield ()
    for at in range(i, len(base)):
        for to in range(j, len(side)):
            if base[at] == side[to]:
                for rest in alignments(base, side, at + 1, to + 1):
                    yield ((at, to), *rest)


def diff3(base: str, ours: str, one: Alignment, theirs: str, other: Alignment) -> str | None:
    """Merge by the lines that both sides keep: between two of them, one side's or equal."""
    left, right = dict(one), dict(other)
    stable = [i for i in range(len(base)) if i in left and i in right]
    merged, i, j, k = "", 0, 0, 0
    for at in [*stable, len(base)]:
        to, till = left.get(at, len(ours)), right.get(at, len(theirs))
        was, mine, his = base[i:at], ours[j:to], theirs[k:till]
        if mine == his or his == was:
            merged += mine
        elif mine == was:
            merged += his
        else:
            return None
        merged += base[at : at + 1]
        i, j, k = at + 1, to + 1, till + 1
    return merged


# --- Against git, and for time --------------------------------------------------------


def test_equal_to_git(tmp_path: Path) -> None:
    """Where both find a merge of ordinary texts it is the same one, and we seldom find none."""
    require("git")
    r = random.Random(1)
    found = {"both": 0, "git alone": 0, "gsync alone": 0, "neither": 0}
    for _ in range(150):
        base = [ordinary_line(r) for _ in range(r.randint(1, 60))]
        texts = [b"".join(text) for text in (base, rewritten(r, base), rewritten(r, base))]
        ours, git = merge_lines(*texts), merged_by_git(tmp_path, texts)
        if ours is not None and git is not None:
            assert ours == git
        both = (ours is not None, git is not None)
        found[
            {(1, 1): "both", (0, 1): "git alone", (1, 0): "gsync alone"}.get(both, "neither")
        ] += 1
    assert found["both"] > 60, found
    assert found["git alone"] <= 8, found


def ordinary_line(r: random.Random) -> bytes:
    return r.choice(
        [b"\n", b"    }\n", b"line %d\n" % r.randrange(10**6), b"x %d\n" % r.randrange(99)]
    )


def rewritten(r: random.Random, base: list[bytes]) -> list[bytes]:
    side = list(base)
    for _ in range(r.randint(0, 3)):
        at = r.randint(0, len(side))
        side[at : at + r.randint(0, 3)] = [ordinary_line(r) for _ in range(r.randint(0, 3))]
    return side


def merged_by_git(folder: Path, texts: list[bytes]) -> bytes | None:
    for name, text in zip(("base", "ours", "theirs"), texts, strict=True):
        (folder / name).write_bytes(text)
    command = ["git", "merge-file", "-p", "ours", "base", "theirs"]
    done = subprocess.run(command, cwd=folder, capture_output=True)
    return done.stdout if done.returncode == 0 else None


@pytest.mark.parametrize("alphabet", [2, 50, 10**9])
def test_bounded_work_on_hostile_texts(alphabet: int) -> None:
    """20,000 lines that have hardly anything in common come to an end, in seconds at most."""
    r = random.Random(2)
    texts = [b"".join(b"%d\n" % r.randrange(alphabet) for _ in range(20_000)) for _ in range(3)]
    assert merge_lines(*texts) is None


def test_bounded_work_on_shuffled_texts() -> None:
    """So do lines that are all there, in three orders."""
    r = random.Random(2)
    shuffled = [b"%d\n" % i for i in range(20_000)]
    r.shuffle(shuffled)
    texts = [b"".join(text) for text in (sorted(shuffled), shuffled, shuffled[::-1])]
    assert merge_lines(*texts) is None
