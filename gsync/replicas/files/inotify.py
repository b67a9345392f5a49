"""Linux tells when something below a folder happens; nothing is lost without its being known.

The kernel queues an event before the call returns that made it. So once the queue was read
empty, everything that was done before is known, or an overflow is.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

_ATTRIB, _CLOSE_WRITE, _MODIFY = 0x4, 0x8, 0x2
_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x40, 0x80, 0x100, 0x200
_DELETE_SELF, _MOVE_SELF = 0x400, 0x800
_UNMOUNT, _OVERFLOW, _IGNORED = 0x2000, 0x4000, 0x8000
_ONLYDIR, _DONT_FOLLOW, _ISDIR = 0x1000000, 0x2000000, 0x40000000
_NONBLOCK, _CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
_MASK = (
    _ATTRIB | _CLOSE_WRITE | _MODIFY | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF
    | _MOVE_SELF | _ONLYDIR | _DONT_FOLLOW
)  # fmt: skip
_HEAD = struct.Struct("iIII")
_READ_BYTES = 1 << 16

# File systems of this machine alone, whose every change passes its kernel's file calls.
LOCAL_TYPES = frozenset(("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "tmpfs", "zfs"))


class FolderEvents:
    """Whether anything happened below a folder, besides one directory in it.

    Attributes:
        is_trusted: Whether silence means that nothing happened: no event was lost, and all of
            the folder is on one local file system.

    Args:
        root: The folder.
        besides: The name of the directory right below it that does not count.

    Raises:
        OSError: the system gives no watch: too many, or none at all.
    """

    def __init__(self, root: bytes, besides: bytes) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(_NONBLOCK | _CLOEXEC)
        if self._fd < 0:
            raise _os_error(root)
        self._root = root
        self._besides = besides
        self._paths: dict[int, bytes] = {}
        self._device = os.stat(root).st_dev
        self.is_trusted = is_local(self._device)
        try:
            self._add_tree(root)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Return what is readable when something happened."""
        return int(self._fd)

    def close(self) -> None:
        """Give all watches back."""
        os.close(self._fd)

    def drain(self) -> bool:
        """Read all there is to read; return whether anything happened that counts.

        New directories are watched from then on; what is in them already may have changed
        without an event, so a scan has to begin after this.
        """
        happened = False
        while True:
            try:
                data = os.read(self._fd, _READ_BYTES)
            except BlockingIOError:
                return happened
            at = 0
            while at < len(data):
                watch, mask, _, length = _HEAD.unpack_from(data, at)
                name = data[at + _HEAD.size : at + _HEAD.size + length].rstrip(b"\0")
                at += _HEAD.size + length
                happened |= self._take(watch, mask, name)

    def _take(self, watch: int, mask: int, name: bytes) -> bool:
        if mask & (_OVERFLOW | _UNMOUNT):
            self.is_trusted = False  # for good: directories may be there that nobody watches
            return True
        if mask & _IGNORED:
            self._paths.pop(watch, None)
            return False
        directory = self._paths.get(watch)
        if directory is None:
            return True
        if directory == self._root:
            if name == self._besides:
                return False
            if mask & (_DELETE_SELF | _MOVE_SELF):
                self.is_trusted = False
        if mask & _ISDIR and mask & (_CREATE | _MOVED_TO):
            self._add_tree(os.path.join(directory, name))
        if mask & _ISDIR and mask & _MOVED_FROM:
            self._forget(os.path.join(directory, name))
        return True

    def _add_tree(self, top: bytes) -> None:
        todo = [top]
        while todo:
            directory = todo.pop()
            watch = self._libc.inotify_add_watch(self._fd, directory, _MASK)
            if watch < 0:
                error = _os_error(directory)
                if error.errno in (errno.ENOENT, errno.ENOTDIR):
                    continue  # it went again, which is an event of its parent
                if error.errno == errno.EACCES:
                    self.is_trusted = False
                    continue
                raise error
            self._paths[watch] = directory
            try:
                with os.scandir(directory) as entries:
                    for entry in entries:
                        is_besides = directory == self._root and entry.name == self._besides
                        if not is_besides and entry.is_dir(follow_symlinks=False):
                            if entry.stat(follow_symlinks=False).st_dev != self._device:
                                self.is_trusted = False
                            todo.append(entry.path)
            except FileNotFoundError:
                continue
            except OSError:
                self.is_trusted = False

    def _forget(self, top: bytes) -> None:
        """Give back the watches of a tree that went elsewhere, perhaps out of the folder.

        One that only moved within it is added anew by the event of where it is now, which comes
        after this one.
        """
        inside = top + b"/"
        for watch, path in list(self._paths.items()):
            if path == top or path.startswith(inside):
                self._libc.inotify_rm_watch(self._fd, watch)
                del self._paths[watch]


def is_available() -> bool:
    """Return whether this system can tell at all."""
    return sys.platform == "linux"


def is_local(device: int) -> bool:
    """Return whether a device holds a file system that only this machine changes."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                fields, _, rest = line.partition(" - ")
                if fields.split(" ")[2] == wanted:
                    return rest.split(" ")[0] in LOCAL_TYPES
    except OSError:
        pass
    return False


def _os_error(path: bytes) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), os.fsdecode(path))
