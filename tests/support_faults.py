"""The real command on a disk that fails: the n-th operation that writes gets an error.

As a program this file is a process that has gsync loaded and runs command lines sent to it, each
in a fork of its own, or one server. Files are seen through `os` and `open`, the store through
a VFS of apsw. No privileges and no other program are needed.
"""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

COMMAND_S = 60

MODES: dict[str, str] = {
    "full": "from the n-th operation that takes room on, each fails with ENOSPC",
    "error": "the n-th operation fails with EIO, those after it do not",
    "short": "the n-th write takes half of its bytes, which is no error",
    "gone": "from the n-th operation on, each fails with EIO",
}
_ROOM = frozenset(("create", "write", "mkdir", "symlink", "link"))


@dataclass(frozen=True)
class Ran:
    """How a command ended, and how many operations it was charged for."""

    code: int
    out: str
    err: str
    operations: int
    failed: str

    @property
    def message(self) -> str:
        return self.err.splitlines()[0].removeprefix("gsync: ") if self.err else ""

    @property
    def hint(self) -> str:
        hints = [line for line in self.err.splitlines() if line.startswith("hint: ")]
        return hints[0].removeprefix("hint: ") if hints else ""


class Runner:
    """Runs command lines in forks of one process, which has everything loaded."""

    def __init__(self) -> None:
        import gsync

        root = str(Path(gsync.__file__).parent.parent)
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={
                **os.environ,
                "PYTHONPATH": root,
                "GSYNC_AUTHOR": "Ada <ada@example.org>",
                "PYTHONDONTWRITEBYTECODE": "1",
            },
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(COMMAND_S)
        self._process.stdout.close()

    def run(self, folder: Path, *args: str, at: int = 0, mode: str = "full", **env: str) -> Ran:
        """Run a command in `folder`; its operation number `at` fails, none with 0."""
        assert self._process.stdin is not None and self._process.stdout is not None
        job = {"cwd": str(folder), "args": args, "at": at, "mode": mode, "env": env}
        self._process.stdin.write(json.dumps(job).encode() + b"\n")
        self._process.stdin.flush()
        return Ran(**json.loads(self._process.stdout.readline()))


# --- In the process that is to fail -------------------------------------------------------


class _Disk:
    """Counts what is asked of the disk, and fails when it is time to."""

    def __init__(self, at: int, mode: str) -> None:
        self.at = at
        self.mode = mode
        self.count = 0
        self.failed = ""
        self.control: Path | None = None
        self._said = ""

    def fails(self, what: str, where: object) -> int:
        """Count one operation; return the number of the error that it gets, or 0."""
        if self.control is not None:
            self._listen(self.control)
        if self.mode == "short" or (self.mode == "full" and what not in _ROOM):
            return 0
        self.count += 1
        late = self.mode != "error" and 0 < self.at < self.count
        if self.count != self.at and not late:
            return 0
        if not self.failed and self.control is not None:
            with io.FileIO(f"{self.control}.failed", "w") as file:
                file.write(f"{what} {where}".encode())
        self.failed = self.failed or f"{what} {where}"
        return errno.ENOSPC if self.mode == "full" else errno.EIO

    def halves(self, where: object) -> bool:
        """Count one write; return whether it is to take half of its bytes."""
        if self.mode != "short":
            return False
        self.count += 1
        if self.count == self.at:
            self.failed = f"short write {where}"
        return self.count == self.at

    def charge(self, what: str, where: object) -> None:
        code = self.fails(what, where)
        if code:
            raise OSError(code, os.strerror(code), where if type(where) in (str, bytes) else None)

    def _listen(self, control: Path) -> None:
        """Start anew when whoever started this process says so."""
        with io.FileIO(control) as file:
            said = (file.read() or b"").decode()
        if said != self._said:
            self._said = said
            at, self.mode = said.split()[:2]
            self.at, self.count, self.failed = int(at), 0, ""


def _break_os(disk: _Disk) -> None:
    """Charge what goes through the module `os`."""
    written: dict[int, str] = {}
    real_open, real_write, real_close = os.open, os.write, os.close
    real_pwrite, lexists = os.pwrite, os.path.lexists

    def name(path: Any) -> Any:
        if isinstance(path, int):
            return os.readlink(f"/proc/self/fd/{path}") if os.path.exists("/proc/self/fd") else path
        return os.fspath(path)

    def is_there(path: Any, dir_fd: int | None) -> bool:
        try:
            os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
        except OSError:
            return False
        return True

    def open_(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_CREAT and not is_there(path, dir_fd):
            disk.charge("create", name(path))
        return real_open(path, flags, mode, dir_fd=dir_fd)

    def write(fd: int, data: Any) -> int:
        if fd > 2:
            code = disk.fails("write", name(fd))
            if code == errno.ENOSPC and disk.count == disk.at and len(data) > 1:
                return real_write(fd, memoryview(data)[: len(data) // 2])  # the last room
            if code:
                raise OSError(code, os.strerror(code))
            if disk.halves(name(fd)):
                data = memoryview(data)[: (len(data) + 1) // 2]
            written[fd] = name(fd)
        return real_write(fd, data)

    def pwrite(fd: int, data: Any, offset: int) -> int:
        disk.charge("write", name(fd))
        return real_pwrite(fd, data, offset)

    def close(fd: int) -> None:
        real_close(fd)
        if fd in written:
            disk.charge("close", written.pop(fd))

    os.open, os.write, os.pwrite, os.close = open_, write, pwrite, close
    simple = "fsync fdatasync ftruncate truncate mkdir rmdir unlink remove chmod fchmod"
    for function in simple.split():
        _charge(disk, function, lambda args: name(args[0]))
    for function in ("rename", "replace", "link", "symlink"):
        _charge(disk, function, lambda args: name(args[1]))

    def open_file(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        if not set(mode) & set("wxa+") or (not isinstance(file, int) and str(file) == os.devnull):
            return real_open_file(file, mode, buffering, encoding, errors, newline, closefd, opener)
        if not isinstance(file, int) and not lexists(file):
            disk.charge("create", name(file))
        raw = File(file, mode.replace("b", "").replace("t", ""), closefd, opener)
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        return io.TextIOWrapper(buffered, encoding, errors, newline)

    class File(io.FileIO):
        def write(self, data: Any) -> int:
            disk.charge("write", name(self.fileno()))
            if disk.halves(name(self.fileno())):
                data = memoryview(data)[: (len(data) + 1) // 2]
            return super().write(data) or 0

        def truncate(self, size: int | None = None) -> int:
            disk.charge("truncate", name(self.fileno()))
            return super().truncate(size)

    real_open_file = builtins.open
    for module in (builtins, io, sys.modules["_io"]):
        setattr(module, "open", open_file)  # noqa: B010


def _charge(disk: _Disk, function: str, where: Callable[[Any], object]) -> None:
    real = getattr(os, function)

    def charged(*args: Any, **named: Any) -> Any:
        disk.charge(function, where(args))
        return real(*args, **named)

    setattr(os, function, charged)


def _break_sync(disk: _Disk) -> None:
    """Charge `syncfs`, which is called around Python."""
    from gsync.replicas.files import checkout

    real = checkout._sync_file_system

    def sync(fd: int) -> None:
        disk.charge("syncfs", os.readlink(f"/proc/self/fd/{fd}"))
        real(fd)

    checkout._sync_file_system = sync


def _break_sqlite(disk: _Disk) -> object:
    """Let stores be opened through a VFS that charges; return it, to be kept."""
    import apsw

    from gsync.store import sql
    from gsync.store.file import SqliteFile

    def fail(what: str, where: str) -> None:
        code = disk.fails(what, where)
        if code:
            if what == "create":
                raise as_sqlite(apsw.CantOpenError("unable to open database file"), 14)
            if code == errno.ENOSPC:
                raise as_sqlite(apsw.FullError("database or disk is full"), 13)
            raise as_sqlite(apsw.IOError("disk I/O error"), 10)

    def as_sqlite(error: Any, number: int) -> Exception:
        error.result = error.extendedresult = number
        return error  # type: ignore[no-any-return]

    class Storage(apsw.VFS):
        def __init__(self) -> None:
            super().__init__("faulty", "")

        def xOpen(self, name: Any, flags: Any) -> Any:
            path = name.filename() if isinstance(name, apsw.URIFilename) else name
            if path and not os.path.exists(path):
                fail("create", path)
            return StorageFile(name, flags, path or "")

        def xDelete(self, filename: str, syncdir: bool) -> None:
            fail("unlink", filename)
            super().xDelete(filename, syncdir)

    class StorageFile(apsw.VFSFile):
        def __init__(self, name: Any, flags: Any, path: str) -> None:
            super().__init__("", name, flags)
            self.path = path

        def xWrite(self, data: Any, offset: int) -> None:
            fail("write", self.path)
            super().xWrite(data, offset)

        def xTruncate(self, newsize: int) -> None:
            fail("truncate", self.path)
            super().xTruncate(newsize)

        def xSync(self, flags: int) -> None:
            fail("fsync", self.path)
            super().xSync(flags)

    class Connection(sql._Apsw):
        def close(self) -> None:
            with suppress(apsw.Error):  # sqlite3 says nothing of a checkpoint that failed
                super().close()

    def connect(path: Path, read_only: bool) -> sql.Connection:
        access = apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE
        try:
            db = apsw.Connection(
                sql._uri(path, read_only), flags=access | apsw.SQLITE_OPEN_URI, vfs="faulty"
            )
        except apsw.Error as error:
            raise sql.translated(error, path) from error
        db.set_busy_timeout(sql.BUSY_MS)
        return Connection(db, path, apsw.Error)

    storage = Storage()
    for function in (SqliteFile.open, SqliteFile.create):
        function.__func__.__kwdefaults__["connect"] = connect  # type: ignore[attr-defined]
    # What a VFS raises and SQLite does not hand on would be printed; it has been counted.
    sys.unraisablehook = lambda _: None
    return storage


def _break_all(disk: _Disk) -> object:
    kept = _break_sqlite(disk)
    _break_sync(disk)
    _break_os(disk)
    return kept


def _load() -> None:
    """Import all that commands import while they run."""
    import importlib
    import pkgutil

    for package in ("gsync.cli.commands", "gsync.remotes", "gsync.sync", "gsync.store"):
        found = importlib.import_module(package)
        for module in pkgutil.iter_modules(found.__path__, package + "."):
            importlib.import_module(module.name)


def _run_jobs() -> None:
    _load()
    from gsync.remotes.http import HttpRemote

    defaults: Any = HttpRemote.__init__.__kwdefaults__
    defaults["sleep"] = lambda _: None  # waits for a server in vain
    replies = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        job = json.loads(line)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                os.close(reader)
                _run_job(job, out.fileno(), err.fileno(), writer)
            os.close(writer)
            with os.fdopen(reader) as facts:
                operations, _, failed = facts.read().partition(" ")
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            out.seek(0)
            err.seek(0)
            reply = {
                "code": code,
                "out": out.read().decode("utf-8", "replace"),
                "err": err.read().decode("utf-8", "replace"),
                "operations": int(operations or -1),
                "failed": failed,
            }
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _run_job(job: dict[str, Any], out: int, err: int, facts: int) -> None:
    code = 99
    try:
        from gsync.cli.main import run

        signal.alarm(COMMAND_S)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.chdir(job["cwd"])
        os.environ.update(job["env"])
        disk = _Disk(job["at"], job["mode"])
        real_write, kept = os.write, None
        if job["at"]:
            kept = _break_all(disk)
        code = run(job["args"])
        sys.stdout.flush()
        sys.stderr.flush()
        real_write(facts, f"{disk.count} {disk.failed}".encode("utf-8", "replace"))
        del kept
    finally:
        os._exit(code)


def _serve(data: str, control: str) -> None:
    """Serve `data`; which operation fails stands in the file `control`, as `N MODE RUN`."""
    from gsync.server.run import serve

    disk = _Disk(0, "full")
    kept = _break_all(disk)
    disk.control = Path(control)
    serve(Path(data), port=0)
    del kept


if __name__ == "__main__":
    if sys.argv[1:]:
        _serve(*sys.argv[1:])
    else:
        _run_jobs()
