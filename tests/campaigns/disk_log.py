"""What SQLite asks of a disk, logged; and the disk after a power cut at any point of the log.

A cut keeps what was synced and a random part of the rest: of each write after the last sync of
its file, all, nothing, or some of its sectors. A new file whose first sync had not come may be
gone, and a deletion that was not synced may not have happened. `-shm` files are memory, and are
not there after a cut. Reading, locking and all else is SQLite's own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from gsync.store.sql import Connection, connect_apsw

SECTOR_BYTES = 512


class Write(NamedTuple):
    """Bytes written, or None for a change of the file's length."""

    offset: int
    data: bytes | None


@dataclass
class Entry:
    """One step of the log: what was done with a file, or a note of whoever uses it."""

    kind: str
    name: str = ""
    write: Write | None = None
    note: Any = None


class DiskLog(apsw.VFS):
    """A disk that logs. Its files are those of the real one; keep it while they are open."""

    def __init__(self, name: str) -> None:
        self.vfs = name
        self.entries: list[Entry] = []
        self.initial: dict[str, bytes] = {}
        super().__init__(name, base="")

    def connect(self, path: Path, read_only: bool) -> Connection:
        """Open a database on this disk."""
        self.initial.setdefault(str(path), path.read_bytes())
        return connect_apsw(path, read_only, vfs=self.vfs)

    def note(self, what: Any) -> None:
        """Log something that the caller was told at this point."""
        self.entries.append(Entry("note", note=what))

    def xOpen(self, name: Any, flags: list[int]) -> Any:
        return _File(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        super().xDelete(filename, syncdir)
        self.entries.append(Entry("delete" if syncdir else "unlink", filename))


class _File(apsw.VFSFile):
    def __init__(self, log: DiskLog, name: Any, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._log = log
        self._name = name.filename() if isinstance(name, apsw.URIFilename) else name

    def _enter(self, kind: str, write: Write | None = None) -> None:
        if self._name is not None:
            self._log.entries.append(Entry(kind, self._name, write))

    def xWrite(self, data: bytes, offset: int) -> None:
        super().xWrite(data, offset)
        self._enter("write", Write(offset, bytes(data)))

    def xTruncate(self, size: int) -> None:
        super().xTruncate(size)
        self._enter("write", Write(size, None))

    def xSync(self, flags: int) -> None:
        super().xSync(flags)
        self._enter("sync")


@dataclass
class _State:
    """A file: what is durable, what is not yet, and whether its name is."""

    durable: bytearray
    pending: list[Write] = field(default_factory=list)
    named: bool = True
    gone: bool = False


class Disk:
    """The disk at a point of the log, which moves forward."""

    def __init__(self, log: DiskLog) -> None:
        self._log = log
        self._at = 0
        self._files = {n: _State(bytearray(body)) for n, body in log.initial.items()}
        self.notes: list[Any] = []

    def forward(self, to: int) -> None:
        """Go on to the entry with that number, which is the first that did not happen."""
        for entry in self._log.entries[self._at : to]:
            self._take(entry)
        self._at = to

    def _take(self, entry: Entry) -> None:
        if entry.kind == "note":
            self.notes.append(entry.note)
            return
        file = self._files.get(entry.name)
        if entry.kind == "delete":
            self._files.pop(entry.name, None)
        elif entry.kind == "unlink":
            if file is not None:
                file.gone = True
        else:
            if file is None or file.gone:
                file = self._files[entry.name] = _State(bytearray(), named=False)
            if entry.write is not None:
                file.pending.append(entry.write)
            else:
                for write in file.pending:
                    _apply(file.durable, write)
                file.pending, file.named = [], True

    def cut(self, r: random.Random) -> Iterator[tuple[str, bytes]]:
        """Yield the files that are there after a cut at this point, with their content."""
        for name, file in self._files.items():
            if (file.gone or not file.named) and r.random() < 0.5:
                continue
            body = bytearray(file.durable)
            for write in file.pending:
                fate = r.random()
                if fate < 0.5:
                    _apply(body, write)
                elif fate < 0.6 and write.data is not None:
                    _apply_torn(body, write.offset, write.data, r)
            yield name, bytes(body)


def _apply(body: bytearray, write: Write) -> None:
    if write.data is None:
        del body[write.offset :]
        body.extend(bytes(write.offset - len(body)))
        return
    body.extend(bytes(max(0, write.offset - len(body))))
    body[write.offset : write.offset + len(write.data)] = write.data


def _apply_torn(body: bytearray, offset: int, data: bytes, r: random.Random) -> None:
    """Write some of the sectors that `data` covers."""
    at = 0
    while at < len(data):
        size = SECTOR_BYTES - (offset + at) % SECTOR_BYTES
        if r.random() < 0.5:
            _apply(body, Write(offset + at, data[at : at + size]))
        at += size


Spoil = Callable[[str], str]


@dataclass
class Spoiled:
    """A connection whose statements are changed on the way, to show what is then lost."""

    inner: Connection
    spoil: Spoil

    def query(self, sql: str, *args: Any) -> Any:
        """Run one statement, changed."""
        return self.inner.query(self.spoil(sql), *args)

    def run_many(self, sql: str, rows: Any) -> int:
        """Run one statement for each of `rows`."""
        return self.inner.run_many(sql, rows)

    def close(self) -> None:
        """Close the connection."""
        self.inner.close()
