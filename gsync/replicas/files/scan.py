"""A live folder -> what turns the base map into it (08-files, section 1)."""

from __future__ import annotations

import errno
import os
import resource
import stat as st
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple, cast

from blake3 import blake3

from gsync.changes import Change
from gsync.errors import NotFound, TooLarge, Unavailable
from gsync.maps.diff import diff_maps
from gsync.objects.chunk_list import ChunkListBuilder
from gsync.objects.chunking import CHUNKED_ABOVE_BYTES, Readable, read_chunks
from gsync.objects.encoding import Reference
from gsync.objects.oid import Kind, ObjectId, blob_id, object_id
from gsync.paths import IllegalPath, check_path, fold_path, show_path
from gsync.replicas.base import Notice, Scan
from gsync.replicas.files.ignore import RULE_FILE, RULE_FILE_BYTES_MAX, Rules, Verdict
from gsync.replicas.files.index import (
    DIRECTORY_SIGNATURE,
    EMPTY_RECORD,
    UNKNOWN,
    DirRecord,
    Folder,
    Header,
    ScanCache,
    Signature,
    base_of,
    decode_record,
    diffs_between,
    distrusted,
    encode_header,
    encode_record,
    is_racy,
    join,
    live_of,
    load_index,
    make_record,
    place_of,
    signature_of,
)
from gsync.store.base import ObjectReader, ObjectStore
from gsync.views.files import (
    DIRECTORY_ENTRY,
    TARGET_BYTES_MAX,
    EntryType,
    FileEntry,
    encode_entry,
    encode_file,
)

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

READ_ATTEMPTS = 3
HANDLES_MAX = 64  # of directories one below the other; what is deeper is opened from there
BATCH_FILES = 64
BATCH_BYTES = 1 << 20
BATCHES_IN_FLIGHT = 6
# Threads pay when files are this large on average. On 100,000 files of 1.6 KB in the page
# cache they made the scan three times slower: each call hands the interpreter lock over.
OVERLAP_BYTES = 16 * 1024
# Where a file costs so many blocks (of 512 bytes) read from the disk, the page cache does not
# have it. Then files are announced before they are read, and the disk works on many at once;
# threads, which would wait for it one file each, spend the gain on the interpreter lock.
COLD_BLOCKS = 4
_EXCLUDED = b"below an excluded directory"
_TYPE_MASK = 0o170000

Put = Callable[[Kind, bytes], ObjectId]
Progress = Callable[[int, int], None]
"""Called now and then with the files and bytes read since the last call."""


class Unreadable(Unavailable):
    """Some paths could not be read, so nothing can be said about what is gone."""

    def __init__(self, paths: list[bytes]) -> None:
        shown = ", ".join(show_path(path) for path in paths[:5])
        more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
        super().__init__(
            f"cannot read {len(paths)} path(s): {shown}{more}",
            hint="make them readable, or leave them out with a line in .gsyncignore",
            paths=[show_path(path) for path in paths],
        )
        self.paths = paths


def scan_files(
    root: Folder,
    base_root: ObjectId,
    store: ObjectReader | ObjectStore,
    cache: ScanCache,
    *,
    write: bool,
    now_ns: Callable[[], int] = time.time_ns,
    progress: Progress | None = None,
) -> Scan:
    """Return how the folder `root` differs from the map `base_root`.

    Args:
        store: Has the map; receives the contents of what changed if `write`.
        cache: What earlier scans saw; receives what this one saw.
        write: Put contents into `store`. If not, they are hashed and dropped.

    Raises:
        Unreadable: a file or directory could not be read; the cache is as it was.
    """
    put: Put = cast("ObjectStore", store).put if write else object_id
    scanner = _Scanner(os.fsencode(root), put, write, now_ns, progress)
    scanner.load(cache, base_root, store)
    scanner.walk()
    return scanner.finish(cache, base_root)


class _Visit:
    """One directory that is not as the cache says."""

    __slots__ = ("base", "directory", "fingerprint", "names", "signatures", "values")

    def __init__(self, directory: bytes, fingerprint: bytes, base: dict[bytes, bytes]) -> None:
        self.directory = directory
        self.fingerprint = fingerprint
        self.base = base
        self.names: list[bytes] = []
        self.signatures: list[Signature] = []
        self.values: list[bytes | int | None] = []

    def add(self, name: bytes, signature: Signature, value: bytes | int | None) -> None:
        self.names.append(name)
        self.signatures.append(signature)
        self.values.append(value)


class _Job(NamedTuple):
    """A file to read, and where its entry goes."""

    visit: _Visit
    at: int
    path: bytes
    size: int


class _Content(NamedTuple):
    """A small file or a link as it was read; body None if it would not hold still."""

    signature: Signature
    body: bytes | None
    oid: ObjectId | None


class _Scanner:
    def __init__(
        self,
        root: bytes,
        put: Put,
        write: bool,
        now_ns: Callable[[], int],
        progress: Progress | None,
    ) -> None:
        self._root = root
        self._chain = _Chain(root)
        self._put = put
        self._write = write
        self._now_ns = now_ns
        self._progress = progress
        self._header: Header | None = None
        self._records: dict[bytes, bytes] = {}
        self._patches: dict[bytes, dict[bytes, bytes | None]] = {}
        self._base_is_live = False
        self._base_is_listed = False
        self._seen: set[bytes] = set()
        self._kept: list[bytes] = []
        self._visits: list[_Visit] = []
        self._changes: list[Change] = []
        self._notices: list[Notice] = []
        self._unreadable: list[bytes] = []
        self._saved: dict[bytes, bytes | None] = {}
        self._files = 0
        self._hashed = 0
        self._batch: list[_Job] = []
        self._batch_bytes = 0
        self._pool: ThreadPoolExecutor | None = None
        self._is_cold = False
        self._ahead = _Places(root)
        self._blocks = _blocks_read()
        self._running: deque[tuple[list[_Job], Callable[[], list[_Content | OSError]]]] = deque()

    # What is known

    def load(self, cache: ScanCache, base_root: ObjectId, store: ObjectReader) -> None:
        self._header, self._records = load_index(cache)
        header = self._header
        if header is not None and base_root in header:
            self._base_is_live = base_root == header.live
            return
        if header is not None:
            try:
                known = header.live or header.base
                self._add_patches(store, known, base_root)
                self._base_is_live = header.live is not None
                return
            except NotFound:
                self._patches = {}
        self._base_is_listed = True
        self._add_patches(store, None, base_root)

    def _add_patches(self, store: ObjectReader, old: ObjectId | None, new: ObjectId) -> None:
        patches = self._patches
        for path, before, after in diff_maps(store, old, new):
            if before is not None:
                directory, name = place_of(path, before == DIRECTORY_ENTRY)
                patches.setdefault(directory, {})[name] = None
            if after is not None:
                directory, name = place_of(path, after == DIRECTORY_ENTRY)
                patches.setdefault(directory, {})[name] = after

    def _base(self, directory: bytes, record: DirRecord) -> dict[bytes, bytes]:
        if self._base_is_listed:
            base = {}
        else:
            base = live_of(record) if self._base_is_live else base_of(record)
        for name, value in self._patches.get(directory, {}).items():
            if value is None:
                base.pop(name, None)
            else:
                base[name] = value
        return base

    def _is_base(self, directory: bytes, record: DirRecord) -> bool:
        """Return whether the base holds here what `record` saw live."""
        if self._base_is_listed or directory in self._patches:
            return self._base(directory, record) == live_of(record)
        return self._base_is_live or not record.diffs

    # The walk

    def walk(self) -> None:
        pending: list[tuple[bytes, Rules | None]] = [(b"", None)]
        try:
            while pending:
                directory, above = pending.pop()
                rules, subdirectories = self._enter(directory, above)
                pending.extend(
                    [(join(directory, name), rules) for name in reversed(subdirectories)]
                )
            self._visit_tracked_below_excluded()
            self._submit(last=True)
            while self._running:
                self._take_one()
        finally:
            self._chain.close()
            self._ahead.forget()
            if self._pool is not None:
                self._pool.shutdown(cancel_futures=True)

    def _enter(
        self, directory: bytes, above: Rules | None, *, excluded: bool = False
    ) -> tuple[Rules | None, tuple[bytes, ...]]:
        """Look at one directory; return its rules and where to go on."""
        self._seen.add(directory)
        body = self._records.get(directory)
        record = decode_record(body) if body is not None else EMPTY_RECORD
        absolute = self._root + b"/" + directory if directory else self._root
        try:
            names, signatures = self._chain.list_directory(directory)
        except OSError as error:
            if directory and error.errno in _GONE:
                self._seen.discard(directory)
                return above, ()
            self._unreadable.append(directory or b".")
            return above, ()
        rules = above
        if not excluded and (above is None or RULE_FILE in names):
            rules = Rules(
                above, directory, self._rule_text(absolute) if RULE_FILE in names else None
            )
        fingerprint = _EXCLUDED if excluded or rules is None else rules.fingerprint
        if directory:
            if not names:
                names, signatures = (b"",), (DIRECTORY_SIGNATURE,)
            elif b".gsync" in names and self._is_nested(directory, names, signatures):
                return rules, ()
        self._files += len(names)
        if (
            names == record.names
            and signatures == record.signatures
            and fingerprint == record.fingerprint
            and self._is_base(directory, record)
        ):
            if record.noted:
                self._note(directory, record)
            if record.diffs:
                self._saved[directory] = encode_record(record._replace(diffs=()))
            return rules, record.subdirectories
        visit = _Visit(directory, fingerprint, self._base(directory, record))
        self._visits.append(visit)
        self._examine(visit, record, names, signatures, None if excluded else rules)
        return rules, tuple(
            [
                name
                for name, value in zip(visit.names, visit.values, strict=True)
                if type(value) is not bytes and value == Verdict.DIRECTORY
            ]
        )

    def _rule_text(self, absolute: bytes) -> bytes | None:
        path = absolute[len(self._root) + 1 :]
        path = path + b"/" + RULE_FILE if path else RULE_FILE
        with _Places(self._root) as places:
            content = _read(places, path, RULE_FILE_BYTES_MAX)
        if isinstance(content, OSError):
            self._unreadable.append(path)
            return None
        if not st.S_ISREG(content.signature[0]):
            return None
        if content.body is None:
            raise TooLarge(
                f"{show_path(absolute)}/.gsyncignore has over {RULE_FILE_BYTES_MAX} bytes"
            )
        return content.body

    def _is_nested(
        self, directory: bytes, names: tuple[bytes, ...], signatures: tuple[Signature, ...]
    ) -> bool:
        if signatures[names.index(b".gsync")] != DIRECTORY_SIGNATURE:
            return False
        self._kept.append(directory)
        self._seen.discard(directory)
        text = f"{show_path(directory)} is a repository of its own and was left out"
        self._notices.append(Notice(directory, "nested", text))
        return True

    def _examine(
        self,
        visit: _Visit,
        record: DirRecord,
        names: tuple[bytes, ...],
        signatures: tuple[Signature, ...],
        rules: Rules | None,
    ) -> None:
        """Fill `visit` with what is known, and queue what has to be read."""
        cached = dict(
            zip(record.names, zip(record.signatures, record.values, strict=True), strict=True)
        )
        same_rules = record.fingerprint == visit.fingerprint
        directory, base, write = visit.directory, visit.base, self._write
        for name, signature in zip(names, signatures, strict=True):
            if not name:
                visit.add(name, signature, DIRECTORY_ENTRY)
                continue
            mode = signature[0] & _TYPE_MASK
            before, value = cached.get(name, (UNKNOWN, None))
            path = directory + b"/" + name if directory else name
            if mode == 0o100000 or mode == 0o120000:
                is_known = same_rules and before[0] & _TYPE_MASK == mode
                if name not in base and not (is_known and type(value) is bytes):
                    verdict = value if is_known else None
                    if type(verdict) is not int:
                        verdict = self._verdict(path, rules, is_directory=False)
                    if verdict is not None:
                        visit.add(name, signature, verdict)
                        continue
                if (
                    before == signature
                    and type(value) is bytes
                    and (not write or value == base.get(name))
                ):
                    visit.add(name, signature, value)
                else:
                    visit.add(name, signature, None)
                    self._queue(_Job(visit, len(visit.names) - 1, path, signature[1]))
            elif mode == 0o040000:
                visit.add(name, signature, self._directory_verdict(path, rules))
            else:
                visit.add(name, signature, Verdict.SPECIAL)

    def _directory_verdict(self, path: bytes, rules: Rules | None) -> int:
        if path == b".gsync":
            return Verdict.OWN
        verdict = self._verdict(path, rules, is_directory=True)
        return Verdict.DIRECTORY if verdict is None else verdict

    def _verdict(self, path: bytes, rules: Rules | None, *, is_directory: bool) -> int | None:
        if rules is None:
            return Verdict.IGNORED
        try:
            check_path(path)
        except IllegalPath:
            return Verdict.ILLEGAL
        return rules.verdict(path, is_directory=is_directory)

    def _visit_tracked_below_excluded(self) -> None:
        """Visit directories that the walk did not come to although the base has paths there."""
        is_real: dict[bytes, bool] = {b"": True}
        for directory in sorted((set(self._records) | set(self._patches)) - self._seen):
            body = self._records.get(directory)
            record = decode_record(body) if body is not None else EMPTY_RECORD
            base = self._base(directory, record)
            if base and not self._is_kept(directory) and self._is_real(directory, is_real):
                self._enter(directory, None, excluded=True)
            if directory in self._seen or (not base and directory not in self._records):
                continue
            if self._is_kept(directory):
                self._keep(directory, base)
                continue
            for name, value in base.items():
                self._changes.append(Change(join(directory, name), value, None))
            gone = DirRecord(b"", (), (), (), diffs_between(base, (), ()))
            self._saved[directory] = encode_record(gone) if base else None

    def _is_real(self, directory: bytes, known: dict[bytes, bool]) -> bool:
        """Return whether `directory` is one, and no link or other repository leads there."""
        unknown: list[bytes] = []
        while directory not in known:
            unknown.append(directory)
            directory = directory.rpartition(b"/")[0]
        found = known[directory]
        for directory in reversed(unknown):
            found = found and self._is_directory(directory)
            known[directory] = found
        return found

    def _is_directory(self, directory: bytes) -> bool:
        absolute = self._root + b"/" + directory
        try:
            found = st.S_ISDIR(os.lstat(absolute).st_mode)
            if found and os.path.isdir(absolute + b"/.gsync"):
                if not self._is_kept(directory):
                    self._kept.append(directory)
                return False
            return found
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            self._unreadable.append(directory)
            return False

    def _is_kept(self, directory: bytes) -> bool:
        return any(directory == kept or directory.startswith(kept + b"/") for kept in self._kept)

    def _keep(self, directory: bytes, base: dict[bytes, bytes]) -> None:
        names = tuple(sorted(base))
        record = DirRecord(b"", names, (UNKNOWN,) * len(names), tuple([base[n] for n in names]))
        self._saved[directory] = encode_record(record) if base else None

    # Reading

    def _queue(self, job: _Job) -> None:
        if self._is_cold:
            _announce(self._ahead, job.path)
        self._batch.append(job)
        self._batch_bytes += min(job.size, CHUNKED_ABOVE_BYTES)
        if len(self._batch) >= BATCH_FILES or self._batch_bytes >= BATCH_BYTES:
            self._submit()

    def _submit(self, *, last: bool = False) -> None:
        if not self._batch:
            return
        paths = [job.path for job in self._batch]
        nothing_beside = last and self._pool is None  # nor is it worth loading threads then
        if nothing_beside or self._batch_bytes < OVERLAP_BYTES * len(paths):
            if self._is_cold:  # read when it is taken: what was announced arrives meanwhile
                self._running.append((self._batch, lambda: self._read_here(paths)))
            else:
                contents = self._read_here(paths)
                self._running.append((self._batch, lambda: contents))
        else:
            self._pool = self._pool or _new_pool()
            future = self._pool.submit(
                _read_batch, self._root, paths, self._now_ns, not self._write
            )
            self._running.append((self._batch, future.result))
        self._batch, self._batch_bytes = [], 0
        if len(self._running) >= BATCHES_IN_FLIGHT:
            self._take_one()

    def _read_here(self, paths: list[bytes]) -> list[_Content | OSError]:
        """Read a batch, and see whether the disk was asked for it."""
        contents = _read_batch(self._root, paths, self._now_ns, not self._write)
        blocks = _blocks_read()
        self._is_cold = _CAN_ANNOUNCE and blocks - self._blocks >= COLD_BLOCKS * len(paths)
        self._blocks = blocks
        return contents

    def _take_one(self) -> None:
        jobs, contents_of = self._running.popleft()
        size = 0
        for job, content in zip(jobs, contents_of(), strict=True):
            if isinstance(content, OSError):
                self._unreadable.append(job.path)
                continue
            self._take(job, content)
            size += max(0, job.size)
        self._hashed += len(jobs)
        if self._progress is not None:
            self._progress(len(jobs), size)

    def _take(self, job: _Job, content: _Content) -> None:
        visit, at = job.visit, job.at
        signature, body, oid = content
        mode = signature[0]
        value: bytes | None = None
        if st.S_ISREG(mode) and signature[1] > CHUNKED_ABOVE_BYTES:
            signature, value = self._take_large(job)
        elif body is not None:
            if oid is None:
                oid = self._put(Kind.BLOB, body)
            size = len(body)
            if not st.S_ISLNK(mode):
                value = encode_file(oid, size, is_executable=bool(mode & 0o100))
            elif 1 <= size <= TARGET_BYTES_MAX:
                value = encode_entry(
                    FileEntry(EntryType.SYMLINK, size, Reference(Kind.BLOB, oid, size))
                )
        if value is None:
            self._take_unstable(job)
        else:
            visit.signatures[at], visit.values[at] = signature, value

    def _take_large(self, job: _Job) -> tuple[Signature, bytes | None]:
        """Stream one file through the chunker; about 1 MiB in memory, whatever its size."""
        for _ in range(READ_ATTEMPTS):
            read_ns = self._now_ns()
            try:
                with _Places(self._root) as places:
                    directory, name = places.place(job.path)
                    fd = os.open(name, _OPEN_FLAGS, dir_fd=directory)
            except OSError:
                continue
            with open(fd, "rb", buffering=0) as file:
                before = signature_of(os.fstat(fd))
                if not st.S_ISREG(before[0]) or before[1] <= CHUNKED_ABOVE_BYTES:
                    continue
                whole, builder, size = blake3(), ChunkListBuilder(self._put), 0
                for chunk in read_chunks(cast("Readable", file)):
                    whole.update(chunk)
                    size += len(chunk)
                    builder.add(Reference(Kind.BLOB, self._put(Kind.BLOB, chunk), len(chunk)))
                    if size > before[1]:
                        break
                if size != before[1] or signature_of(os.fstat(fd)) != before:
                    continue
            kind = EntryType.EXECUTABLE if before[0] & 0o100 else EntryType.FILE
            entry = FileEntry(kind, size, builder.finish(), ObjectId(whole.digest()))
            signature = distrusted(before) if is_racy(before, read_ns) else before
            return signature, encode_entry(entry)
        return UNKNOWN, None

    def _take_unstable(self, job: _Job) -> None:
        """Leave a file that will not hold still at its base value, or out."""
        visit, at = job.visit, job.at
        visit.signatures[at] = UNKNOWN
        visit.values[at] = visit.base.get(visit.names[at])
        text = f"{show_path(job.path)} changed while it was read and was left as it was"
        self._notices.append(Notice(job.path, "unstable", text))

    # The end

    def finish(self, cache: ScanCache, base_root: ObjectId) -> Scan:
        if self._unreadable:
            raise Unreadable(sorted(set(self._unreadable)))
        grown: set[bytes] = set()
        for visit in self._visits:
            self._finish_visit(visit, grown)
        changes = _merged(sorted(self._changes, key=itemgetter(0)))
        if grown:
            self._note_collisions(grown)
        header = Header(base_root, None if changes else base_root)
        key, body = encode_header(header)
        if self._saved or changes or self._header != header:
            self._saved[key] = body
            cache.save_scan_dirs(self._saved)
        self._notices.sort(key=lambda notice: (notice.path, notice.code))
        return Scan(changes, self._notices, self._files, self._hashed)

    def _finish_visit(self, visit: _Visit, grown: set[bytes]) -> None:
        directory, base = visit.directory, visit.base
        values = tuple([Verdict.OWN if value is None else value for value in visit.values])
        names = tuple(visit.names)
        record = make_record(
            visit.fingerprint,
            names,
            tuple(visit.signatures),
            values,
            diffs_between(base, names, values),
        )
        if record.diffs:
            live = live_of(record)
            for name, before in record.diffs:
                self._changes.append(Change(join(directory, name), before, live.get(name)))
                if before is None:
                    grown.add(directory)
        if record.noted:
            self._note(directory, record)
        body = encode_record(record)
        if body != self._records.get(directory):
            self._records[directory] = body
            self._saved[directory] = body

    def _note(self, directory: bytes, record: DirRecord) -> None:
        for at in record.noted:
            path = join(directory, record.names[at])
            code, text = _NOTED[cast("int", record.values[at])]
            self._notices.append(Notice(path, code, text.format(path=show_path(path))))

    def _note_collisions(self, grown: set[bytes]) -> None:
        """Report siblings, in directories that grew and those above, that fold to one name."""
        for directory in list(grown):
            while directory:
                directory = directory.rpartition(b"/")[0]
                grown.add(directory)
        for directory in grown:
            body = self._records.get(directory)
            if body is None:
                continue
            record = decode_record(body)
            by_fold: dict[str, list[bytes]] = {}
            for name, value in zip(record.names, record.values, strict=True):
                if name and (type(value) is bytes or value == Verdict.DIRECTORY):
                    by_fold.setdefault(fold_path(name), []).append(name)
            for names in by_fold.values():
                for name in names if len(names) > 1 else ():
                    others = ", ".join(show_path(other) for other in names if other != name)
                    path = join(directory, name)
                    text = f"{show_path(path)} and {others} are one name where case is ignored"
                    self._notices.append(Notice(path, "collision", text))


_NOTED: dict[bytes | int, tuple[str, str]] = {
    Verdict.SECRET: (
        "secret",
        "{path} looks like a secret and was held back; "
        "a line '!/{path}' in the top .gsyncignore includes it on purpose",
    ),
    Verdict.SPECIAL: ("special", "{path} is no file, link or directory and was skipped"),
    Verdict.ILLEGAL: ("illegal", "{path} has a name that no map may hold and was left out"),
}

_NAMES = (sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_ROOT_FLAGS = os.O_RDONLY | os.O_DIRECTORY | getattr(os, "O_CLOEXEC", 0)
_DIRECTORY_FLAGS = _ROOT_FLAGS | getattr(os, "O_NOFOLLOW", 0)
_OPEN_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
)


class _Chain:
    """Lists directories below a root; follows no link put in the place of one of them.

    The walk goes depth first, so the handles of the directories above the last one are kept.
    """

    def __init__(self, root: bytes) -> None:
        self._root = root
        self._fds: list[int] = []
        self._names: list[bytes] = []  # of all handles but the root's

    def close(self) -> None:
        """Close all handles."""
        self._keep(0)
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    def list_directory(self, path: bytes) -> tuple[tuple[bytes, ...], tuple[Signature, ...]]:
        """Return the names, sorted, and what lstat says of each.

        Raises:
            OSError: one of _GONE if `path` is no directory, or a link leads there.
        """
        if not self._fds:
            self._fds.append(os.open(self._root, _ROOT_FLAGS))
        names = path.split(b"/") if path else []
        same = 0
        while same < min(len(names), len(self._names)) and names[same] == self._names[same]:
            same += 1
        self._keep(same)
        fd, extra = self._fds[-1], -1
        try:
            for name in names[same:]:
                fd = os.open(name, _DIRECTORY_FLAGS, dir_fd=fd)
                if len(self._names) < HANDLES_MAX:
                    self._fds.append(fd)
                    self._names.append(name)
                    continue
                if extra >= 0:
                    os.close(extra)
                extra = fd
            return _list_directory(fd)
        finally:
            if extra >= 0:
                os.close(extra)

    def _keep(self, count: int) -> None:
        """Close the handles below the first `count` directories."""
        while len(self._names) > count:
            os.close(self._fds.pop())
            self._names.pop()


def _list_directory(fd: int) -> tuple[tuple[bytes, ...], tuple[Signature, ...]]:
    with os.scandir(fd) as listing:
        found = sorted([(entry.name.encode(*_NAMES), entry) for entry in listing])
        try:
            signatures = [
                (s.st_mode, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino)
                if s.st_mode & 0o170000 != 0o040000
                else DIRECTORY_SIGNATURE
                for s in [entry.stat(follow_symlinks=False) for _, entry in found]
            ]
            return tuple([name for name, _ in found]), tuple(signatures)
        except FileNotFoundError:
            return _list_vanishing(fd, [name for name, _ in found])


def _list_vanishing(fd: int, names: list[bytes]) -> tuple[tuple[bytes, ...], tuple[Signature, ...]]:
    kept: list[bytes] = []
    signatures: list[Signature] = []
    for name in names:
        try:
            stat = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            continue
        kept.append(name)
        signatures.append(DIRECTORY_SIGNATURE if st.S_ISDIR(stat.st_mode) else signature_of(stat))
    return tuple(kept), tuple(signatures)


_CAN_ANNOUNCE = hasattr(os, "posix_fadvise")


def _blocks_read() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_inblock


def _announce(places: _Places, path: bytes) -> None:
    """Have the system read a file that will be read soon; returns at once."""
    try:
        directory, name = places.place(path)
        fd = os.open(name, _OPEN_FLAGS, dir_fd=directory)
    except OSError:  # whoever reads it says what is wrong
        places.forget()
        return
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(fd)


def _new_pool() -> ThreadPoolExecutor:
    # Imported here, for that takes longer than a scan that reads only small files.
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(2, "gsync-scan")


def _read_batch(
    root: bytes, paths: list[bytes], now_ns: Callable[[], int], hashed: bool
) -> list[_Content | OSError]:
    """Read small files and links; runs beside the walk, so it touches nothing shared."""
    contents: list[_Content | OSError] = []
    with _Places(root) as places:
        for path in paths:
            read_ns = now_ns()
            content = _read(places, path, CHUNKED_ABOVE_BYTES)
            if not isinstance(content, OSError):
                signature, body, _ = content
                oid = blob_id(body) if hashed and body is not None else None
                if body is not None and is_racy(signature, read_ns):
                    signature = distrusted(signature)
                content = _Content(signature, body, oid)
            contents.append(content)
    return contents


class _Places:
    """Finds files below a root without following a link that somebody put in a directory's place.

    Files come directory by directory, so the handle of the last one is all that is kept.
    """

    def __init__(self, root: bytes) -> None:
        self._root = root
        self._directory: bytes | None = None
        self._fd = -1

    def __enter__(self) -> _Places:
        return self

    def __exit__(self, *_: object) -> None:
        self.forget()

    def forget(self) -> None:
        """Close the handle: what it is of may have been replaced."""
        if self._fd >= 0:
            os.close(self._fd)
        self._directory, self._fd = None, -1

    def place(self, path: bytes) -> tuple[int, bytes]:
        """Return the handle of the directory of `path`, good until the next call, and its name.

        Raises:
            OSError: ENOENT, or ENOTDIR where a component is a link or a file.
        """
        directory, _, name = path.rpartition(b"/")
        if directory != self._directory:
            self.forget()
            self._fd = os.open(self._root, _ROOT_FLAGS)
            for component in directory.split(b"/") if directory else ():
                below = os.open(component, _DIRECTORY_FLAGS, dir_fd=self._fd)
                os.close(self._fd)
                self._fd = below
            self._directory = directory
        return self._fd, name


def _read(places: _Places, path: bytes, size_max: int) -> _Content | OSError:
    """Return a file of up to `size_max` bytes or a link; a larger file comes without body."""
    signature = UNKNOWN
    for _ in range(READ_ATTEMPTS):
        try:
            directory, name = places.place(path)
        except OSError as error:
            places.forget()
            if error.errno in _GONE:
                continue
            return error
        try:
            fd = os.open(name, _OPEN_FLAGS, dir_fd=directory)
        except OSError as error:
            try:
                signature = signature_of(os.stat(name, dir_fd=directory, follow_symlinks=False))
                if st.S_ISLNK(signature[0]):
                    return _Content(signature, os.readlink(name, dir_fd=directory), None)
            except OSError:
                places.forget()
                continue
            if isinstance(error, FileNotFoundError):
                continue
            return error
        try:
            signature = signature_of(os.fstat(fd))
            if not st.S_ISREG(signature[0]):
                continue
            if signature[1] > size_max:
                return _Content(signature, None, None)
            body = os.read(fd, signature[1] + 1)
            if len(body) == signature[1] and signature_of(os.fstat(fd)) == signature:
                return _Content(signature, body, None)
        except OSError as error:
            return error
        finally:
            os.close(fd)
    return _Content(distrusted(signature), None, None)


def _merged(changes: list[Change]) -> list[Change]:
    """Join what happened to one path in two records: an empty directory became a file."""
    return list(_joined(changes))


def _joined(changes: list[Change]) -> Iterator[Change]:
    at = 0
    while at < len(changes):
        change = changes[at]
        if at + 1 < len(changes) and changes[at + 1].key == change.key:
            after = changes[at + 1]
            at += 1
            change = Change(change.key, change.old or after.old, change.new or after.new)
        yield change
        at += 1
