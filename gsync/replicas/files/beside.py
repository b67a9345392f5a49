"""Directories made beside the place whose name they take when they are complete."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from gsync.replicas.files.remove import remove_tree

_NAME_BYTES_MAX = 200  # with what is added it stays below the 255 that file systems allow
_SUFFIX = re.compile(rb"[0-9a-f]{8}")


@contextmanager
def made_beside(target: bytes) -> Iterator[bytes]:
    """Give the block a new directory beside `target`, and remove it afterwards.

    What a process that was killed left of an earlier one is removed first: a maker that lives
    holds a lock on its directory.

    Raises:
        OSError: the directory cannot be made.
    """
    sweep_beside(target)
    made = b"".join((*_place(target), os.urandom(4).hex().encode()))
    os.mkdir(made, 0o700)
    descriptor = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield made
    finally:
        remove_tree(made)
        os.close(descriptor)


def sweep_beside(target: bytes) -> None:
    """Remove what makers of `target` left that were killed."""
    parent, prefix = _place(target)
    for name in os.listdir(parent) if os.path.isdir(parent) else ():
        if name.startswith(prefix) and _SUFFIX.fullmatch(name[len(prefix) :]):
            _remove_if_dead(parent + name)


def fsync_directory(path: bytes) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _place(target: bytes) -> tuple[bytes, bytes]:
    """Return the parent of `target`, with its slash, and how names beside it begin."""
    parent, name = os.path.split(target)
    return os.path.join(parent, b""), b"." + name[:_NAME_BYTES_MAX] + b".gsync-"


def _remove_if_dead(made: bytes) -> None:
    try:
        descriptor = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    else:
        remove_tree(made)
    finally:
        os.close(descriptor)
