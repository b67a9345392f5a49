"""Removing a tree of any depth."""

from __future__ import annotations

import os
import shutil
import stat as st
from contextlib import suppress
from itertools import count

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: bytes | str | os.PathLike[str]) -> None:
    """Remove a directory and all in it, as far as that is possible; nothing is raised.

    `shutil.rmtree` recurses, and gives up at about 1,000 levels. What lies two levels down is
    moved one up there, until nothing is deep.
    """
    try:
        shutil.rmtree(path, ignore_errors=True)
        return
    except RecursionError:
        pass
    with suppress(OSError):
        top = os.open(path, _DIRECTORY_FLAGS)
        try:
            numbers = count()
            while names := [name for name in os.listdir(top) if _take_apart(top, name, numbers)]:
                if not [name for name in names if _remove(top, name)]:
                    break  # nothing goes away any more
        finally:
            os.close(top)
        os.rmdir(path)


def _take_apart(top: int, name: str, numbers: count[int]) -> bool:
    """Move the directories in `name` beside it and unlink the rest; return whether it is there."""
    if not st.S_ISDIR(os.stat(name, dir_fd=top, follow_symlinks=False).st_mode):
        return not _remove(top, name)
    with suppress(OSError):
        directory = os.open(name, _DIRECTORY_FLAGS, dir_fd=top)
        try:
            for inner in os.listdir(directory):
                if st.S_ISDIR(os.stat(inner, dir_fd=directory, follow_symlinks=False).st_mode):
                    free = f".removed-{os.getpid()}-{next(numbers)}"
                    os.rename(inner, free, src_dir_fd=directory, dst_dir_fd=top)
                else:
                    os.unlink(inner, dir_fd=directory)
        finally:
            os.close(directory)
    return True


def _remove(top: int, name: str) -> bool:
    """Remove a file, or a directory that is empty; return whether it is gone."""
    try:
        if st.S_ISDIR(os.stat(name, dir_fd=top, follow_symlinks=False).st_mode):
            os.rmdir(name, dir_fd=top)
        else:
            os.unlink(name, dir_fd=top)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
