"""Renaming without losing what somebody puts at the new name at that very moment.

Linux does both in one step (`renameat2`). Where system or file system has no such thing, a look
comes before a plain rename, and a moment remains between the two.
"""

from __future__ import annotations

import ctypes
import errno
import os

_NOREPLACE, _EXCHANGE = 1, 2  # linux/fs.h
_UNKNOWN_HERE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


def rename_new(name: bytes, to: bytes, *, src_dir_fd: int, dst_dir_fd: int) -> None:
    """Rename `name`, if nothing is at `to`.

    Raises:
        FileExistsError: something is, and stays.
        OSError: as `os.rename`.
    """
    if _rename(name, to, src_dir_fd, dst_dir_fd, _NOREPLACE):
        return
    try:
        os.stat(to, dir_fd=dst_dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(name, to, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        return
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def exchange(name: bytes, other: bytes, *, src_dir_fd: int, dst_dir_fd: int) -> bool:
    """Let two names change places; return False, with nothing done, where that is unknown.

    Raises:
        OSError: as `os.rename`; ENOENT if one of them is not there.
    """
    return _rename(name, other, src_dir_fd, dst_dir_fd, _EXCHANGE)


def _rename(name: bytes, to: bytes, src_dir_fd: int, dst_dir_fd: int, flags: int) -> bool:
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    if renameat2(src_dir_fd, name, dst_dir_fd, to, ctypes.c_uint(flags)) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNKNOWN_HERE:
        return False
    raise OSError(number, os.strerror(number))
