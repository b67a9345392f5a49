"""What the operating system says -> one of the seven kinds, with what can be done about it."""

from __future__ import annotations

import errno

from gsync.errors import Conflict, Denied, GsyncError, Invalid, NotFound, TooLarge, Unavailable
from gsync.paths import show_path

NO_ROOM = "make room on the disk, then try again"
BAD_DISK = "check the disk and the room on it, then run 'gsync verify'"

# errno -> the kind of failure, and what can be done about it. Others are Unavailable.
_KINDS: dict[int, tuple[type[GsyncError], str | None]] = {
    errno.EACCES: (Denied, "check who owns it and its mode"),
    errno.EPERM: (Denied, "check who owns it and its mode"),
    errno.EROFS: (Denied, "the file system is mounted read-only"),
    errno.ENOENT: (NotFound, None),
    errno.ENOTDIR: (NotFound, None),
    errno.EEXIST: (Conflict, None),
    errno.ENOTEMPTY: (Conflict, None),
    errno.EISDIR: (Invalid, "name a file, not a directory"),
    errno.EINVAL: (Invalid, None),
    errno.ELOOP: (Invalid, None),
    errno.ENAMETOOLONG: (Invalid, None),
    errno.EFBIG: (TooLarge, "the file system does not hold files of this size"),
    errno.ENOSPC: (Unavailable, NO_ROOM),
    errno.EDQUOT: (Unavailable, "your quota is used up; make room, then try again"),
    errno.EMFILE: (Unavailable, "raise the limit of open files: ulimit -n"),
    errno.ENFILE: (Unavailable, None),
    errno.EIO: (Unavailable, BAD_DISK),
    errno.EADDRINUSE: (Unavailable, "choose another port with --port"),
}


def from_os_error(error: OSError) -> GsyncError:
    """Return what the operating system said as one of the seven kinds."""
    kind, hint = _KINDS.get(error.errno or 0, (Unavailable, None))
    names: list[str] = []
    for name in (error.filename, error.filename2):
        if isinstance(name, (str, bytes)):
            raw = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
            names.append(show_path(raw))
    where = f"{' -> '.join(names)}: " if names else ""
    return kind(where + what_happened(error), hint=hint, errno=error.errno)


def what_happened(error: OSError) -> str:
    """Return the words for it, as they stand within a sentence."""
    what = (error.strerror or str(error) or type(error).__name__).strip()
    return what[:1].lower() + what[1:]
