"""What a legal path is (04-manifest, section 2). Pure: nothing here touches a disk."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

from gsync.errors import Invalid

PATH_BYTES_MAX = 4096
COMPONENT_BYTES_MAX = 255

# What nearly every path looks like, decided in one match: plain ASCII components that start
# with a letter, digit, underscore or hyphen. Everything else takes the slow road below.
_PLAIN = re.compile(rb"[A-Za-z0-9_-][A-Za-z0-9._ -]*(/[A-Za-z0-9_-][A-Za-z0-9._ -]*)*")
_HFS_IGNORED = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
_SHORT_NAME = re.compile(r"gsync~[0-9]")
_DRIVE = re.compile(rb"[A-Za-z]:[/\\]")


class IllegalPath(Invalid):
    """A path that never enters a map."""

    def __init__(self, path: bytes, why: str) -> None:
        super().__init__(f"illegal path {show_path(path)}: {why}", path=show_path(path))


def check_path(path: bytes) -> None:
    """Raise IllegalPath unless rules 1 to 5 hold for `path`; under 1 µs for plain ones."""
    if len(path) > PATH_BYTES_MAX:
        raise IllegalPath(path, f"longer than {PATH_BYTES_MAX} bytes")
    if len(path) <= COMPONENT_BYTES_MAX and _PLAIN.fullmatch(path) and b"~" not in path:
        return
    _check_slowly(path)


def _check_slowly(path: bytes) -> None:
    if not path:
        raise IllegalPath(path, "empty")
    if b"\0" in path:
        raise IllegalPath(path, "holds a NUL byte")
    for component in path.split(b"/"):
        if component in (b"", b".", b".."):
            raise IllegalPath(path, "absolute, or has an empty, '.' or '..' component")
        if len(component) > COMPONENT_BYTES_MAX:
            raise IllegalPath(path, f"a component is longer than {COMPONENT_BYTES_MAX} bytes")
        if _is_reserved(component):
            raise IllegalPath(path, "a component is '.gsync', which is gsync's own")
    if _DRIVE.match(path):
        raise IllegalPath(path, "begins with a drive")
    if b"\\" in path:
        pieces = path.replace(b"\\", b"/").split(b"/")
        if any(piece in (b"", b".", b"..") for piece in pieces):
            raise IllegalPath(path, "read with backslashes as separators it leaves its folder")
        if any(_is_reserved(piece) for piece in pieces):
            raise IllegalPath(path, "a component is '.gsync', which is gsync's own")


def _is_reserved(component: bytes) -> bool:
    """Whether some file system takes the component for `.gsync` (04-manifest, rule 2.5)."""
    if b"s" not in component.lower() and component.isascii():
        return False
    text = component.decode("utf-8", "surrogateescape")
    name = _HFS_IGNORED.sub("", text.partition(":")[0])  # behind the colon NTFS has streams
    name = name.rstrip(". ").casefold()
    return name == ".gsync" or _SHORT_NAME.fullmatch(name) is not None


def check_sorted_paths(paths: Iterable[bytes]) -> Iterator[bytes]:
    """Yield `paths`, which rise strictly, and raise IllegalPath where rule 1 to 6 breaks.

    A path that is the directory of a later one need not be its neighbour (`a`, `a-b`,
    `a/b`), but everything between them begins with it too, so a stack of prefixes is enough.
    """
    prefixes: list[bytes] = []
    for path in paths:
        check_path(path)
        while prefixes and not path.startswith(prefixes[-1]):
            prefixes.pop()
        for prefix in prefixes:
            if path[len(prefix)] == 0x2F:
                raise IllegalPath(path, f"{show_path(prefix)} is a file and a directory at once")
        prefixes.append(path)
        yield path


def parents_of(path: bytes) -> Iterator[bytes]:
    """Yield the directories that `path` lies in, outermost first: a, a/b for a/b/c."""
    at = path.find(b"/")
    while at >= 0:
        yield path[:at]
        at = path.find(b"/", at + 1)


def fold_path(path: bytes) -> str:
    """Return what `path` becomes on a file system that ignores case and normalizes."""
    text = path.decode("utf-8", "surrogateescape")
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def show_path(path: bytes) -> str:
    """Return `path` for people: as it is, or quoted when it holds what a terminal must not see."""
    text = path.decode("utf-8", "backslashreplace")
    if text.isprintable() and text and not text.startswith(('"', " ")) and not text.endswith(" "):
        return text
    escaped = "".join(c if c.isprintable() and c not in '"\\' else _escape(c) for c in text)
    return f'"{escaped}"'


def _escape(char: str) -> str:
    return {'"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\"}.get(
        char, char.encode("unicode_escape").decode()
    )
