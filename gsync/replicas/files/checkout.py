"""Map -> live folder, all or nothing, under a journal (08-files, section 5).

Rules of this file. Every path is opened below the root's handle, one component at a time
and no link followed. Whatever is displaced is kept until all is in place. Each step can be
repeated and undone, so a journal read after a crash is simply carried out again.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat as st
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import field
from itertools import islice
from typing import Any

import msgpack  # type: ignore[import-untyped]
from blake3 import blake3

from gsync.changes import Change
from gsync.errors import (
    Conflict,
    Corrupt,
    Denied,
    GsyncError,
    Invalid,
    TooLarge,
    Unavailable,
)
from gsync.frozen import frozen
from gsync.objects.chunk_list import list_chunks
from gsync.objects.encoding import Reference
from gsync.objects.oid import Kind, ObjectId, blob_id
from gsync.oserrors import from_os_error, what_happened
from gsync.paths import check_path, check_sorted_paths, fold_path, parents_of, show_path
from gsync.replicas.base import RESCUED, ReplicaChanged
from gsync.replicas.files.beside import fsync_directory, made_beside
from gsync.replicas.files.index import (
    DIRECTORY_SIGNATURE,
    UNKNOWN,
    Folder,
    Signature,
    Written,
    signature_of,
)
from gsync.replicas.files.remove import remove_tree
from gsync.replicas.files.rename import exchange, rename_new
from gsync.store.base import ObjectCorrupt, ObjectReader
from gsync.views.files import DIRECTORY_ENTRY, EntryType, FileEntry, decode_entry

OPEN_DIRECTORIES_MAX = 64
FSYNC_EACH_MAX = 64  # above this one sync of the file system is cheaper
BATCH_ENTRIES = 256
BATCH_BYTES = 8 << 20
CHUNKS_AT_ONCE = 32  # 4 MiB at most

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LATER = b".later"  # beside the number of a change: what came after its old file gave way
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)

IsClean = Callable[[bytes, os.stat_result], bool]


class NamesCollide(Conflict):
    """Two paths of a tree are one name on this file system; nothing was written."""

    def __init__(self, one: bytes, other: bytes) -> None:
        super().__init__(
            f"{show_path(one)} and {show_path(other)} are one name on this file system",
            hint="check out on a file system that tells upper and lower case apart",
            paths=[show_path(one), show_path(other)],
        )


class CheckoutFailed(Unavailable):
    """The file system refused a step; everything is as it was before."""


@frozen
class Checkout:
    """What a checkout did.

    Attributes:
        count: How many changes were made.
        written: What now stands where, for `index.record`.
    """

    count: int
    written: list[Written] = field(default_factory=list)


def apply_changes(
    root: Folder,
    changes: Iterable[Change],
    store: ObjectReader,
    workdir: Folder,
    *,
    check: bool = True,
    is_clean: IsClean | None = None,
) -> Checkout:
    """Make the folder follow `changes`, all or nothing.

    Args:
        changes: Old and new entries by path.
        workdir: The repository's own directory, on the same file system.
        check: Compare what is live with the `old` values first.
        is_clean: Says that a path with this stat is known to have its old value, unread.

    Raises:
        ReplicaChanged: something live is not what `changes` start from, or an unknown file
            or a link is in the way; nothing was written.
        Denied: a directory may not be written; nothing was.
        CheckoutFailed: a step failed and those before it were undone.
    """
    ordered = _ordered(changes)
    entries = {c.key: decode_entry(c.new) for c in ordered if c.new is not None}
    workdir = os.fsencode(workdir)
    recover(root, workdir)
    with _Folder(os.fsencode(root)) as folder:
        # Looked at before it is read, which may take long: what is edited meanwhile is noticed.
        before = _signatures(folder, ordered)
        if check:
            _check_live(folder, ordered, is_clean)
        _check_unblocked(folder, ordered)
        _check_writable(folder, ordered)
        plan = _plan(folder, ordered)
        stage = os.path.join(workdir, b"stage", plan.operation)
        try:
            os.makedirs(os.path.join(stage, b"old"))
            ours = _write_stage(stage, [(n, entries[path]) for n, path in plan.moves_in], store)
            # The stage is there whenever the journal is.
            fsync_directory(os.path.dirname(stage))
            fsync_directory(workdir)
            moved = [path for path, was in before.items() if was != _signature(folder, path)]
            if moved:  # staging may take long
                raise ReplicaChanged(moved)
            _write_journal(workdir, plan)
        except OSError as error:
            _give_up(workdir)
            raise _failed(error, folder.root) from error
        except BaseException:
            _give_up(workdir)
            raise
        try:
            _carry_out(folder, stage, plan)
        except OSError as error:
            folder.forget()
            _undo_or_say(folder, stage, plan, ours, workdir)
            _end(workdir)
            raise _failed(error, folder.root) from error
        changed = _changed_meanwhile(stage, plan, before)
        if changed:  # between the last look and the swap
            folder.forget()
            _undo_or_say(folder, stage, plan, ours, workdir)
            _end(workdir)
            raise ReplicaChanged(changed)
        _end(workdir)
        return Checkout(len(ordered), [_written(folder, change) for change in ordered])


def check_changes(root: Folder, changes: Iterable[Change]) -> None:
    """Raise what `apply_changes` would raise before it writes anything."""
    ordered = _ordered(changes)
    with _Folder(os.fsencode(root)) as folder:
        _check_live(folder, ordered, None)
        _check_unblocked(folder, ordered)
        _check_writable(folder, ordered)


def _ordered(changes: Iterable[Change]) -> list[Change]:
    ordered = sorted(changes, key=lambda change: change.key)
    for change in ordered:
        check_path(change.key)
    return ordered


def recover(root: Folder, workdir: Folder) -> bool:
    """Finish or clear away what a crash left; return whether there was a journal.

    To be called at every start, by whoever holds the repository's lock. What somebody changed
    after the crash, and gave way now, is kept below `workdir/rescued`.
    """
    workdir = os.fsencode(workdir)
    plan = _read_journal(workdir)
    if plan is not None:
        try:
            with _Folder(os.fsencode(root)) as folder:
                stage = os.path.join(workdir, b"stage", plan.operation)
                _carry_out(folder, stage, plan)
                _rescue(stage, workdir, plan)
        except OSError as error:
            raise Unavailable(
                f"cannot finish an interrupted checkout: {error.strerror or error}",
                hint="it is tried again at the next start; nothing is lost until then",
            ) from error
    elif not os.path.lexists(os.path.join(workdir, b"stage")):
        return False
    _end(workdir)
    return plan is not None


def _rescue(stage: bytes, workdir: bytes, plan: _Plan) -> None:
    """Keep what gave way and is not what the plan expected: an edit made since."""
    rescued = os.path.join(workdir, os.fsencode(RESCUED))
    paths = dict((*plan.moves_out, *plan.moves_in))
    expected = dict(plan.olds)
    with _Folder(stage) as staged:
        old = staged.directory(b"old")
        for number in os.listdir(old):
            stat = os.stat(number, dir_fd=old, follow_symlinks=False)
            found = None  # of a directory: it was not empty, as it should have been
            if st.S_ISLNK(stat.st_mode):
                found = blob_id(os.fsencode(os.readlink(number, dir_fd=old)))
            elif st.S_ISREG(stat.st_mode):
                found = ObjectId(_hash_file(old, os.fsencode(number)))
            change = int(number.removesuffix(_LATER.decode()))
            if found is None or found != expected.get(change):
                os.makedirs(rescued, mode=0o700, exist_ok=True)
                name = paths[change].rpartition(b"/")[2][:200]
                target = b"-".join((plan.operation[:8], os.fsencode(number), name))
                os.rename(number, os.path.join(rescued, target), src_dir_fd=old)
    if os.path.isdir(rescued):
        fsync_directory(rescued)  # the journal goes next, and the stage with it


def checkout_fresh(
    target: Folder, entries: Iterable[tuple[bytes, bytes]], store: ObjectReader
) -> list[Written]:
    """Write a whole tree to `target`, which is absent or empty, and return what was written.

    It is written beside the target and moved there when it is complete and durable.

    Raises:
        Conflict: `target` holds something.
        NamesCollide: the file system would make one file of two paths.
    """
    target = os.path.abspath(os.fsencode(target))
    parent = os.path.dirname(target)
    try:
        os.makedirs(parent, exist_ok=True)
        if os.path.lexists(target) and (os.path.islink(target) or os.listdir(target)):
            raise Conflict(f"{show_path(target)} exists and is not an empty directory")
        with made_beside(target) as made:
            temporary = os.path.join(made, b"tree")
            os.mkdir(temporary)
            if _ignores_case(temporary):
                entries = list(entries)
                _check_collisions(path for path, _ in entries)
            with _Folder(temporary) as folder:
                written = list(_write_tree(folder, _checked(entries), store))
                _sync_file_system(folder.fd)
            os.rename(temporary, target)  # an empty directory may stand there
            fsync_directory(parent)
    except OSError as error:
        raise _failed(error, target) from error
    return written


def _failed(error: OSError, folder: bytes) -> GsyncError:
    """Return what to raise; names in the error may be relative to a handle, and are left out."""
    found = from_os_error(error)
    kind = type(found) if isinstance(found, (Denied, Invalid, TooLarge)) else CheckoutFailed
    what = f"nothing was changed in {show_path(folder)}: {what_happened(error)}"
    hint = found.hint or "see what is wrong there, then try again"
    return kind(what, hint=hint, errno=error.errno)


# --- A folder by its handles -----------------------------------------------------------


class _Folder:
    """Handles of a root and of directories below it, reached without following links."""

    def __init__(self, root: bytes) -> None:
        self.root = root
        self.fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._open: OrderedDict[bytes, int] = OrderedDict()

    def __enter__(self) -> _Folder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.forget()
        os.close(self.fd)

    def forget(self) -> None:
        """Close all handles but the root's; needed when directories go away."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    def directory(self, path: bytes) -> int:
        """Return the handle of a directory, good until some dozens of others were opened.

        Raises:
            OSError: ENOENT, or ENOTDIR where a component is a link or a file.
        """
        missing: list[bytes] = []
        while path and path not in self._open:
            missing.append(path)
            path = path.rpartition(b"/")[0]
        fd = self.fd
        if path:
            fd = self._open[path]
            self._open.move_to_end(path)
        for path in reversed(missing):
            fd = os.open(path.rpartition(b"/")[2], _DIRECTORY_FLAGS, dir_fd=fd)
            self._open[path] = fd
            if len(self._open) > OPEN_DIRECTORIES_MAX:
                os.close(self._open.popitem(last=False)[1])
        return fd

    def place(self, path: bytes) -> tuple[int, bytes]:
        """Return the handle of the parent, and the last component."""
        head, _, name = path.rpartition(b"/")
        return self.directory(head), name

    def find_stat(self, path: bytes) -> os.stat_result | None:
        """Return what lstat says, or None if no such path is below the root."""
        try:
            fd, name = self.place(path)
            return os.stat(name, dir_fd=fd, follow_symlinks=False)
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise

    def list_names(self, path: bytes) -> list[bytes]:
        return [os.fsencode(name) for name in os.listdir(self.directory(path))]


# --- Checking and planning -------------------------------------------------------------


def read_live(root: Folder, path: bytes, bytes_max: int) -> bytes | None:
    """Return the content of a live file or the target of a symlink; None beyond `bytes_max`.

    No link is followed on the way there. What is gone meanwhile, or is neither, is empty.
    """
    with _Folder(os.fsencode(root)) as folder:
        stat = folder.find_stat(path)
        if stat is None:
            return b""
        fd, name = folder.place(path)
        if st.S_ISLNK(stat.st_mode):
            return os.fsencode(os.readlink(name, dir_fd=fd))
        if not st.S_ISREG(stat.st_mode):
            return b""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, dir_fd=fd), "rb") as file:
            content = file.read(bytes_max + 1)
        return content if len(content) <= bytes_max else None


def _check_live(folder: _Folder, changes: Sequence[Change], is_clean: IsClean | None) -> None:
    try:
        differing = [
            c.key for c in changes if not _is_old(folder, c, is_clean) and not _is_done(folder, c)
        ]
    except OSError as error:
        raise _failed(error, folder.root) from error
    if differing:
        raise ReplicaChanged(differing)


def _check_unblocked(folder: _Folder, changes: Sequence[Change]) -> None:
    removed = {c.key for c in changes if c.old is not None}
    try:
        blocked = [c.key for c in changes if c.new is not None and _is_blocked(folder, c, removed)]
    except OSError as error:
        raise _failed(error, folder.root) from error
    if blocked:
        raise ReplicaChanged(blocked, "what gsync does not track")


def _check_writable(folder: _Folder, changes: Sequence[Change]) -> None:
    """Raise Denied if names in a directory that the changes need may not be altered."""
    denied = []
    for directory in sorted({_standing_above(folder, change.key) for change in changes}):
        fd = folder.directory(directory)
        if not os.access(b".", os.W_OK | os.X_OK, dir_fd=fd):
            denied.append(show_path(directory) or ".")
    if denied:
        raise Denied(
            f"nothing was changed: cannot write in the directory {denied[0]}: permission denied",
            hint="let the user who runs gsync write there",
            directories=denied,
        )


def _standing_above(folder: _Folder, path: bytes) -> bytes:
    """Return the nearest directory above `path` that is there; b"" for the root."""
    while path:
        path = path.rpartition(b"/")[0]
        if not path or _is_directory(folder, path):
            break
    return path


def _signatures(folder: _Folder, changes: Sequence[Change]) -> dict[bytes, Signature]:
    return {change.key: _signature(folder, change.key) for change in changes}


def _signature(folder: _Folder, path: bytes) -> Signature:
    stat = folder.find_stat(path)
    if stat is None:
        return UNKNOWN
    return DIRECTORY_SIGNATURE if st.S_ISDIR(stat.st_mode) else signature_of(stat)


def _is_old(folder: _Folder, change: Change, is_clean: IsClean | None) -> bool:
    stat = folder.find_stat(change.key)
    if change.old is None:
        return stat is None or st.S_ISDIR(stat.st_mode)  # what is in it: `_is_blocked`
    old = decode_entry(change.old)
    if stat is None or entry_type(stat.st_mode) is not old.type:
        return False
    if old.type is EntryType.DIRECTORY:
        return True
    if stat.st_size != old.size:
        return False
    if is_clean is not None and is_clean(change.key, stat):
        return True
    fd, name = folder.place(change.key)
    if old.type is EntryType.SYMLINK:
        return blob_id(os.readlink(name, dir_fd=fd)) == old.content_id
    return _hash_file(fd, name) == old.content_id


def _is_done(folder: _Folder, change: Change) -> bool:
    """Return whether what is live is what the change would bring: nothing would be lost."""
    if change.new is None:
        return folder.find_stat(change.key) is None
    return _is_old(folder, Change(change.key, change.new, None), None)


def entry_type(mode: int) -> EntryType | None:
    """Return what a file with this mode is in a map, or None."""
    if st.S_ISREG(mode):
        return EntryType.EXECUTABLE if mode & 0o100 else EntryType.FILE
    if st.S_ISLNK(mode):
        return EntryType.SYMLINK
    return EntryType.DIRECTORY if st.S_ISDIR(mode) else None


def _hash_file(directory: int, name: bytes) -> bytes:
    hasher = blake3()
    with open(os.open(name, _READ_FLAGS, dir_fd=directory), "rb", buffering=0) as file:
        while piece := file.read(1 << 20):
            hasher.update(piece)
    return hasher.digest()


def _is_blocked(folder: _Folder, change: Change, removed: set[bytes]) -> bool:
    """Return whether something that these changes do not remove stands in the way."""
    for parent in parents_of(change.key):
        stat = folder.find_stat(parent)
        if stat is None:
            break
        if not st.S_ISDIR(stat.st_mode) and parent not in removed:
            return True
    stat = folder.find_stat(change.key)
    if stat is None or not st.S_ISDIR(stat.st_mode) or change.new == DIRECTORY_ENTRY:
        return False
    return not _holds_only(folder, change.key, removed)


def _holds_only(folder: _Folder, directory: bytes, removed: set[bytes]) -> bool:
    for found in _directories_in(folder, directory):
        for name in folder.list_names(found):
            path = found + b"/" + name
            stat = folder.find_stat(path)
            if not (stat is not None and st.S_ISDIR(stat.st_mode)) and path not in removed:
                return False
    return True


@frozen
class _Plan:
    """What the journal holds; carried out in this order.

    Attributes:
        operation: Name of the directory below `stage`.
        moves_out: Number and path of what goes away, or gives way to another type.
        removed: Directories that go if they are empty, deepest first.
        made: Directories that are to be made, outermost first.
        moves_in: Number and path of what comes.
        olds: Number and content id of what gives way, as it was when the plan was made.
    """

    operation: bytes
    moves_out: list[tuple[int, bytes]]
    removed: list[bytes]
    made: list[bytes]
    moves_in: list[tuple[int, bytes]]
    olds: list[tuple[int, bytes]]


def _plan(folder: _Folder, changes: Sequence[Change]) -> _Plan:
    moves_out: list[tuple[int, bytes]] = []
    moves_in: list[tuple[int, bytes]] = []
    needed: set[bytes] = set()
    emptied: set[bytes] = set()
    for number, (path, old, new) in enumerate(changes):
        if old is not None and old != DIRECTORY_ENTRY and (new is None or new == DIRECTORY_ENTRY):
            moves_out.append((number, path))
        if old is not None and new is None:
            emptied.update(parents_of(path))
        if old == DIRECTORY_ENTRY:
            emptied.add(path)
        if new is not None:
            needed.update(parents_of(path))
            if new == DIRECTORY_ENTRY:
                needed.add(path)
            else:
                moves_in.append((number, path))
                stat = folder.find_stat(path)
                if stat is not None and st.S_ISDIR(stat.st_mode):
                    emptied.update(_directories_in(folder, path))
    return _Plan(
        os.urandom(8).hex().encode(),
        moves_out,
        sorted(emptied - needed, key=lambda path: (-path.count(b"/"), path)),
        sorted(path for path in needed if not _is_directory(folder, path)),
        moves_in,
        [
            (number, decode_entry(old).content_id or b"")
            for number, (_, old, _) in enumerate(changes)
            if old is not None
        ],
    )


def _is_directory(folder: _Folder, path: bytes) -> bool:
    stat = folder.find_stat(path)
    return stat is not None and st.S_ISDIR(stat.st_mode)


def _directories_in(folder: _Folder, directory: bytes) -> Iterator[bytes]:
    pending = [directory]
    while pending:
        found = pending.pop()
        yield found
        for name in folder.list_names(found):
            path = found + b"/" + name
            stat = folder.find_stat(path)
            if stat is not None and st.S_ISDIR(stat.st_mode):
                pending.append(path)


# --- Carrying out and undoing ----------------------------------------------------------


def _carry_out(folder: _Folder, stage: bytes, plan: _Plan) -> None:
    """Do what is left of `plan`; to repeat it changes nothing."""
    with _Folder(stage) as staged:
        old = staged.directory(b"old")
        for number, path in plan.moves_out:
            _move_out(folder, path, old, b"%d" % number)
        folder.forget()
        for path in plan.removed:
            _remove_directory(folder, path)
        folder.forget()
        for path in plan.made:
            _make_directory(folder, path)
        for number, path in plan.moves_in:
            _name_twice(folder, path, staged.fd, old, b"%d" % number)
        # Else a recovery could not tell which of two that have changed places is the old one.
        os.fsync(old)
        for number, path in plan.moves_in:
            _move_in(folder, path, staged.fd, old, b"%d" % number)
        _sync_touched(folder, plan)


def _changed_meanwhile(stage: bytes, plan: _Plan, before: dict[bytes, Signature]) -> list[bytes]:
    """Return the paths at which something else gave way than what was looked at `before`."""
    changed = []
    with _Folder(stage) as staged:
        old = staged.directory(b"old")
        later = {name for name in staged.list_names(b"old") if name.endswith(_LATER)}
        for number, path in (*plan.moves_out, *plan.moves_in):
            was = before[path]
            if b"%d" % number + _LATER in later:
                changed.append(path)
                continue
            try:
                found = signature_of(os.stat(b"%d" % number, dir_fd=old, follow_symlinks=False))
            except FileNotFoundError:
                found = UNKNOWN
            if was == DIRECTORY_SIGNATURE:
                # It should have been empty by then, and gone.
                if found != UNKNOWN:
                    changed.append(path)
            elif not _is_same_file(was, found):
                changed.append(path)
    return changed


def _is_same_file(was: Signature, found: Signature) -> bool:
    """Return whether nobody but a checkout, with its second names and renames, touched a file."""
    return (*was[:3], was[4]) == (*found[:3], found[4])  # those alter the ctime (3), no more


def _move_out(folder: _Folder, path: bytes, old: int, number: bytes) -> None:
    if _exists(old, number):
        return
    try:
        fd, name = folder.place(path)
        if st.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            return
        os.rename(name, number, src_dir_fd=fd, dst_dir_fd=old)
    except OSError as error:
        if error.errno not in _GONE:
            raise


def _remove_directory(folder: _Folder, path: bytes) -> None:
    try:
        fd, name = folder.place(path)
        os.rmdir(name, dir_fd=fd)
    except OSError as error:
        if error.errno not in (*_GONE, errno.ENOTEMPTY, errno.EEXIST):
            raise


def _make_directory(folder: _Folder, path: bytes) -> None:
    fd, name = folder.place(path)
    try:
        os.mkdir(name, dir_fd=fd)
    except FileExistsError:
        folder.directory(path)  # raises if it is something else


def _name_twice(folder: _Folder, path: bytes, staged: int, old: int, number: bytes) -> None:
    """Give what is replaced a second name in `old`, so that a reader finds it or the new one."""
    if not _exists(staged, number) or _exists(old, number):
        return
    fd, name = folder.place(path)
    try:
        os.link(name, number, src_dir_fd=fd, dst_dir_fd=old, follow_symlinks=False)
    except FileNotFoundError:
        pass  # nothing is there; or another one takes its name just now, and is put aside later
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise


def _move_in(folder: _Folder, path: bytes, staged: int, old: int, number: bytes) -> None:
    if _is_in_place(staged, old, number):
        return
    fd, name = folder.place(path)
    if not _exists(old, number) and _exists(fd, name):  # it takes no second name
        os.rename(name, number, src_dir_fd=fd, dst_dir_fd=old)
    _put_in_place(fd, name, staged, old, number)


def _put_in_place(fd: int, name: bytes, staged: int, old: int, number: bytes) -> None:
    """Move what is staged to its name; what somebody has saved there just now is kept in `old`."""
    try:
        rename_new(number, name, src_dir_fd=staged, dst_dir_fd=fd)
        return
    except FileExistsError:
        pass
    try:
        if not exchange(number, name, src_dir_fd=staged, dst_dir_fd=fd):
            _keep_later(fd, name, old, number)
            os.rename(number, name, src_dir_fd=staged, dst_dir_fd=fd)
            return
    except FileNotFoundError:  # removed just now
        rename_new(number, name, src_dir_fd=staged, dst_dir_fd=fd)
        return
    if not _exists(old, number):
        os.rename(number, number, src_dir_fd=staged, dst_dir_fd=old)
    elif not _are_one(staged, number, old, number):
        os.rename(number, number + _LATER, src_dir_fd=staged, dst_dir_fd=old)
    # Else it stays in the stage: were its removal durable before the exchange, the new one is lost.


def _is_in_place(staged: int, old: int, number: bytes) -> bool:
    """Return whether what was staged has moved in, or has changed places with the old one."""
    if not _exists(staged, number):
        return True
    return _exists(old, number) and _are_one(staged, number, old, number)


def _keep_later(fd: int, name: bytes, old: int, number: bytes) -> None:
    """Put aside what has a name that is needed, unless it is what is kept already."""
    if not _exists(old, number):
        os.rename(name, number, src_dir_fd=fd, dst_dir_fd=old)
    elif _exists(fd, name) and not _are_one(fd, name, old, number):
        os.rename(name, number + _LATER, src_dir_fd=fd, dst_dir_fd=old)


def _undo_or_say(
    folder: _Folder, stage: bytes, plan: _Plan, ours: Mapping[int, Signature], workdir: bytes
) -> None:
    try:
        _undo(folder, stage, plan, ours)
        _rescue(stage, workdir, plan)
    except OSError as error:
        raise Unavailable(
            f"neither finished nor undone in {show_path(folder.root)}: {what_happened(error)}",
            hint=f"{from_os_error(error).hint or 'see what is wrong there'}; the next command"
            " finishes it, and nothing is lost until then",
        ) from error


def _undo(folder: _Folder, stage: bytes, plan: _Plan, ours: Mapping[int, Signature]) -> None:
    """Put everything back, in such steps that `_carry_out` could start over at any of them.

    What somebody has saved since stays; what would have come back there is left in `old`.
    """
    with _Folder(stage) as staged:
        old = staged.directory(b"old")
        for number, path in reversed(plan.moves_in):
            _move_back(folder, path, staged.fd, old, b"%d" % number, ours[number])
        folder.forget()
        for path in reversed(plan.made):
            _remove_directory(folder, path)
        folder.forget()
        for path in reversed(plan.removed):
            _remake_directory(folder, path)
        for number, path in plan.moves_out:
            if _exists(old, b"%d" % number):
                fd, name = folder.place(path)
                _bring_back(fd, name, old, b"%d" % number)
        # The journal goes next, and the stage with it.
        _sync_touched(folder, plan)


def _move_back(
    folder: _Folder, path: bytes, staged: int, old: int, number: bytes, ours: Signature
) -> None:
    if _is_in_place(staged, old, number):
        fd, name = folder.place(path)
        try:
            os.rename(name, number, src_dir_fd=fd, dst_dir_fd=staged)
        except FileNotFoundError:  # somebody has removed it since
            pass
        else:
            found = signature_of(os.stat(number, dir_fd=staged, follow_symlinks=False))
            if not _is_same_file(ours, found):  # saved since
                _bring_back(fd, name, staged, number)
                return
    # The newer of the two, if somebody saved another one in the middle of the swap.
    newest = number + _LATER if _exists(old, number + _LATER) else number
    if not _exists(old, newest):
        return
    fd, name = folder.place(path)
    if _exists(fd, name) and _are_one(fd, name, old, newest):
        os.unlink(newest, dir_fd=old)
        return
    _bring_back(fd, name, old, newest)


def _bring_back(fd: int, name: bytes, kept: int, number: bytes) -> None:
    """Give a file its name back, unless somebody has put another one there."""
    try:
        rename_new(number, name, src_dir_fd=kept, dst_dir_fd=fd)
    except FileExistsError:
        if st.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            raise  # forward is the only way: what is in it belongs there


def _remake_directory(folder: _Folder, path: bytes) -> None:
    try:
        fd, name = folder.place(path)
        os.mkdir(name, dir_fd=fd)
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno not in _GONE:
            raise


def _exists(fd: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _are_one(fd: int, name: bytes, other_fd: int, other: bytes) -> bool:
    """Return whether two names, which are there, are of one file."""
    return os.path.samestat(
        os.stat(name, dir_fd=fd, follow_symlinks=False),
        os.stat(other, dir_fd=other_fd, follow_symlinks=False),
    )


def _written(folder: _Folder, change: Change) -> Written:
    stat = folder.find_stat(change.key)
    if change.new is None or stat is None:
        return Written(change.key, None, UNKNOWN)
    if change.new == DIRECTORY_ENTRY:
        return Written(change.key, change.new, DIRECTORY_SIGNATURE)
    return Written(change.key, change.new, signature_of(stat))


# --- The journal -----------------------------------------------------------------------


def _write_journal(workdir: bytes, plan: _Plan) -> None:
    fields = [plan.operation, plan.moves_out, plan.removed, plan.made, plan.moves_in, plan.olds]
    body = msgpack.packb([1, *fields])
    temporary = os.path.join(workdir, b"journal.tmp")
    with open(temporary, "wb") as file:
        file.write(blob_id(body) + body)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, os.path.join(workdir, b"journal"))
    fsync_directory(workdir)


def _read_journal(workdir: bytes) -> _Plan | None:
    path = os.path.join(workdir, b"journal")
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return None
    if blob_id(data[32:]) != data[:32]:
        raise Corrupt(f"{show_path(path)} is damaged", hint="keep it and what is in 'stage'")
    version, *fields = msgpack.unpackb(data[32:])
    if version != 1:  # with fields of its own
        raise Corrupt(
            f"{show_path(path)} has version {version}, where 1 is known",
            hint="finish with the gsync that began it; nothing is lost until then",
        )
    operation, moves_out, removed, made, moves_in, olds = fields
    return _Plan(operation, _pairs(moves_out), removed, made, _pairs(moves_in), _pairs(olds))


def _pairs(items: Any) -> list[tuple[int, bytes]]:
    return [(number, path) for number, path in items]


def _end(workdir: bytes) -> None:
    for name in (b"journal", b"journal.tmp"):
        try:
            os.unlink(os.path.join(workdir, name))
        except FileNotFoundError:
            pass
    fsync_directory(workdir)
    remove_tree(os.path.join(workdir, b"stage"))


def _give_up(workdir: bytes) -> None:
    """Clear away what was staged. A journal may be there already, though it could not be synced.

    Where that fails, both stay, or the stage does, and the next start makes of it what it is.
    """
    with suppress(OSError):
        _end(workdir)


# --- Writing contents ------------------------------------------------------------------


def _write_stage(
    stage: bytes, wanted: Sequence[tuple[int, FileEntry]], store: ObjectReader
) -> dict[int, Signature]:
    """Write what comes into the stage, and return by its number what it is known by."""
    written: dict[int, Signature] = {}
    fsync_each = len(wanted) <= FSYNC_EACH_MAX
    with _Folder(stage) as staged:
        pairs = iter([(b"%d" % number, entry) for number, entry in wanted])
        while batch := list(islice(pairs, BATCH_ENTRIES)):
            bodies = _bodies(batch, store)
            for name, entry in batch:
                stat = _write_one(staged.fd, name, entry, bodies, store, fsync=fsync_each)
                written[int(name)] = signature_of(stat)
        if fsync_each:
            os.fsync(staged.fd)
        else:
            _sync_file_system(staged.fd)
    return written


def _checked(entries: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    values: list[bytes] = []

    def paths() -> Iterator[bytes]:
        for path, value in entries:
            values.append(value)
            yield path

    for path in check_sorted_paths(paths()):
        yield path, values.pop()


def _write_tree(
    folder: _Folder, entries: Iterator[tuple[bytes, bytes]], store: ObjectReader
) -> Iterator[Written]:
    made: set[bytes] = {b""}
    while True:
        batch = [(path, value, decode_entry(value)) for path, value in _next_batch(entries)]
        if not batch:
            return
        bodies = _bodies([(path, entry) for path, _, entry in batch], store)
        for path, value, entry in batch:
            head, _, name = path.rpartition(b"/")
            if head not in made:
                for parent in (*parents_of(head), head):
                    if parent not in made:
                        _make_directory(folder, parent)
                        made.add(parent)
            if entry.type is EntryType.DIRECTORY:
                _make_directory(folder, path)
                yield Written(path, value, DIRECTORY_SIGNATURE)
                continue
            fd = folder.directory(head)
            stat = _write_one(fd, name, entry, bodies, store, fsync=False)
            yield Written(path, value, signature_of(stat))


def _next_batch(entries: Iterator[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return list(islice(entries, BATCH_ENTRIES))


def _bodies(batch: Iterable[tuple[bytes, FileEntry]], store: ObjectReader) -> dict[ObjectId, bytes]:
    """Return the blobs that a batch needs; at most 32 MiB, since a blob has 128 KiB."""
    wanted = [
        (Kind.BLOB, entry.ref.oid)
        for _, entry in batch
        if entry.ref is not None and entry.ref.kind is Kind.BLOB
    ]
    return _get_checked(wanted, store)


def _get_checked(
    wanted: Sequence[tuple[Kind, ObjectId]], store: ObjectReader
) -> dict[ObjectId, bytes]:
    bodies = {}
    for oid, body in store.get_many(wanted):
        if blob_id(body) != oid:
            raise ObjectCorrupt(oid, "stored bytes do not hash to their id")
        bodies[oid] = body
    return bodies


def _write_one(
    directory: int,
    name: bytes,
    entry: FileEntry,
    bodies: dict[ObjectId, bytes],
    store: ObjectReader,
    *,
    fsync: bool,
) -> os.stat_result:
    assert entry.ref is not None
    if entry.type is EntryType.SYMLINK:
        os.symlink(bodies[entry.ref.oid], name, dir_fd=directory)
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    mode = 0o777 if entry.type is EntryType.EXECUTABLE else 0o666
    fd = os.open(name, _NEW_FLAGS, mode, dir_fd=directory)
    try:
        if entry.ref.kind is Kind.BLOB:
            _write_all(fd, bodies[entry.ref.oid])
        else:
            _write_chunks(fd, entry, store)
        if fsync:
            os.fsync(fd)
        return os.fstat(fd)
    finally:
        os.close(fd)


def _write_chunks(fd: int, entry: FileEntry, store: ObjectReader) -> None:
    assert entry.ref is not None
    room = os.fstatvfs(fd)
    if entry.size > room.f_bavail * room.f_frsize:
        # Few chunks over and over can be a file of petabytes; and what cannot end need not begin.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    whole = blake3()
    chunks = list_chunks(lambda oid: store.get(Kind.CHUNK_LIST, oid), entry.ref)
    while some := list(islice(chunks, CHUNKS_AT_ONCE)):
        bodies = _get_checked([(Kind.BLOB, chunk.oid) for chunk in some], store)
        for chunk in some:
            body = bodies[chunk.oid]
            _check_length(chunk, body)
            whole.update(body)
            _write_all(fd, body)
    if whole.digest() != entry.content:
        raise ObjectCorrupt(entry.ref.oid, "its chunks do not hash to the file's content id")


def _check_length(chunk: Reference, body: bytes) -> None:
    if len(body) != chunk.length:
        raise ObjectCorrupt(chunk.oid, f"{len(body)} bytes, where {chunk.length} are announced")


def _write_all(fd: int, body: bytes) -> None:
    written = os.write(fd, body)
    while written < len(body):
        written += os.write(fd, memoryview(body)[written:])


# --- What file systems do --------------------------------------------------------------


def _ignores_case(directory: bytes) -> bool:
    """Return whether names that differ in case alone are one name here."""
    probe = os.path.join(directory, b".Probe")
    os.close(os.open(probe, _NEW_FLAGS, 0o600))
    try:
        return os.path.lexists(os.path.join(directory, b".pROBE"))
    finally:
        os.unlink(probe)


def _check_collisions(paths: Iterable[bytes]) -> None:
    seen: dict[str, bytes] = {}
    for path in paths:
        for one in (*parents_of(path), path):
            other = seen.setdefault(fold_path(one), one)
            if other != one:
                raise NamesCollide(other, one)


def _sync_touched(folder: _Folder, plan: _Plan) -> None:
    changed = [path for _, path in (*plan.moves_out, *plan.moves_in)]
    paths = {path.rpartition(b"/")[0] for path in (*changed, *plan.made, *plan.removed)}
    if len(paths) > FSYNC_EACH_MAX:
        _sync_file_system(folder.fd)
        return
    for path in (*sorted(paths), b""):
        try:
            os.fsync(folder.directory(path))
        except OSError as error:
            if error.errno not in _GONE:
                raise


def _sync_file_system(fd: int) -> None:
    """Make all that was written to the file system of `fd` durable."""
    try:
        syncfs = ctypes.CDLL(None, use_errno=True).syncfs
    except (AttributeError, OSError):
        os.sync()  # macOS has no syncfs
        return
    if syncfs(fd) != 0:
        raise OSError(ctypes.get_errno(), "syncfs")
