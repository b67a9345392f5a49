"""What a checkout asks of the file system, logged; and the folder after a power cut.

The model is stricter than any file system: what a file holds is durable once it was synced, and
torn before; a name that was made, moved or removed is durable once a directory that it was in,
or came to, was synced afterwards, and otherwise happened or not, as chance has it. A rename is
never half. Syncing the whole file system makes all of it durable. Linux only: names of open
directories are read from `/proc`.
"""

from __future__ import annotations

import builtins
import os
import random
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gsync.replicas.files.beside as beside
import gsync.replicas.files.checkout as checkout
import gsync.replicas.files.rename as rename

Patch = Callable[[Any, str, Any], None]


@dataclass
class Step:
    """One change of names, or a sync.

    Attributes:
        kind: `make`, `directory`, `link`, `move`, `exchange`, `remove`, `sync` or `sync all`.
        path: What is made, moved, removed or synced.
        target: Where it is moved to, what it changes places with, or what has a second name now.
        number: Of the file that is made or synced.
        content: Of a symlink that is made, or a file that is synced.
        mode: Of a file that is made.
    """

    kind: str
    path: str
    target: str = ""
    number: int = 0
    content: bytes | None = None
    mode: int = 0


class FolderLog:
    """The steps below `top`, and whoever wants to know of each before it happens."""

    def __init__(self, top: Path, before: Callable[[], None]) -> None:
        self.top = str(top)
        self.steps: list[Step] = []
        self._before = before

    def enter(self, step: Step) -> None:
        if step.path.startswith(self.top) or step.kind == "sync all":
            self._before()
            self.steps.append(step)

    def install(self, patch: Patch, *, skip: Callable[[Step], bool] = lambda _: False) -> None:
        """Log what checkouts do; syncs for which `skip` holds are left out (a sabotage)."""
        proxy = _LoggedOs(self, skip)
        patch(checkout, "os", proxy)
        patch(beside, "os", proxy)
        patch(checkout, "open", proxy.open_file)
        patch(checkout, "_sync_file_system", proxy.sync_all)
        patch(checkout, "rename_new", proxy.rename_new)
        patch(checkout, "exchange", proxy.exchange)


class _LoggedOs:
    """The module `os`, with what changes names and syncs logged."""

    def __init__(self, log: FolderLog, skip: Callable[[Step], bool]) -> None:
        self._log = log
        self._skip = skip

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        descriptor = os.open(path, flags, mode, dir_fd=dir_fd)
        if flags & os.O_CREAT:
            self._log.enter(_made(descriptor))
        return descriptor

    def open_file(self, path: Any, mode: str = "r", *args: Any, **named: Any) -> Any:
        file = builtins.open(path, mode, *args, **named)  # noqa: SIM115
        if "w" in mode:
            self._log.enter(_made(file.fileno()))
        return file

    def symlink(self, target: Any, path: Any, *, dir_fd: int | None = None) -> None:
        os.symlink(target, path, dir_fd=dir_fd)
        self._log.enter(Step("make", _at(path, dir_fd), content=os.fsencode(target)))

    def mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        os.mkdir(path, mode, dir_fd=dir_fd)
        self._log.enter(Step("directory", _at(path, dir_fd)))

    def makedirs(self, path: Any, mode: int = 0o777, exist_ok: bool = False) -> None:
        above = os.path.dirname(path)
        if not os.path.isdir(above):
            self.makedirs(above, mode, True)
        if not (exist_ok and os.path.isdir(path)):
            self.mkdir(path, mode)

    def rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        os.rmdir(path, dir_fd=dir_fd)
        self._log.enter(Step("remove", _at(path, dir_fd)))

    def unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        os.unlink(path, dir_fd=dir_fd)
        self._log.enter(Step("remove", _at(path, dir_fd)))

    def rename(
        self, old: Any, new: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None
    ) -> None:
        os.rename(old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        self._log.enter(Step("move", _at(old, src_dir_fd), _at(new, dst_dir_fd)))

    def rename_new(self, old: Any, new: Any, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        rename.rename_new(old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        self._log.enter(Step("move", _at(old, src_dir_fd), _at(new, dst_dir_fd)))

    def exchange(self, old: Any, new: Any, *, src_dir_fd: int, dst_dir_fd: int) -> bool:
        done = rename.exchange(old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        if done:
            self._log.enter(Step("exchange", _at(old, src_dir_fd), _at(new, dst_dir_fd)))
        return done

    def link(
        self,
        old: Any,
        new: Any,
        *,
        src_dir_fd: int | None = None,
        dst_dir_fd: int | None = None,
        follow_symlinks: bool = True,
    ) -> None:
        os.link(
            old,
            new,
            src_dir_fd=src_dir_fd,
            dst_dir_fd=dst_dir_fd,
            follow_symlinks=follow_symlinks,
        )
        self._log.enter(Step("link", _at(old, src_dir_fd), _at(new, dst_dir_fd)))

    def fsync(self, descriptor: int) -> None:
        os.fsync(descriptor)
        found = os.fstat(descriptor)
        content = None
        if stat.S_ISREG(found.st_mode):
            content = Path(_path(descriptor)).read_bytes()
        step = Step("sync", _path(descriptor), number=found.st_ino, content=content)
        if not self._skip(step):
            self._log.enter(step)

    def sync_all(self, descriptor: int) -> None:
        step = Step("sync all", _path(descriptor))
        if self._skip(step):
            return
        for made in [made for made in self._log.steps if made.number and made.kind == "make"]:
            if os.path.exists(made.path) and os.stat(made.path).st_ino == made.number:
                content = Path(made.path).read_bytes()
                self._log.enter(Step("sync", made.path, number=made.number, content=content))
        self._log.enter(step)


def _made(descriptor: int) -> Step:
    found = os.fstat(descriptor)
    return Step("make", _path(descriptor), number=found.st_ino, mode=found.st_mode)


def _path(descriptor: int) -> str:
    return os.fsdecode(os.readlink(f"/proc/self/fd/{descriptor}"))


def _at(path: Any, dir_fd: int | None) -> str:
    text = os.fsdecode(path)
    return text if dir_fd is None else os.path.join(_path(dir_fd), text)


# --- What a cut leaves -----------------------------------------------------------------------


@dataclass
class _Thing:
    """A file, a link, or a directory, which has no content."""

    mode: int
    content: bytes | None


def after_cut(before: Path, log: FolderLog, steps: int, r: random.Random, target: Path) -> None:
    """Write to `target` what a cut after that many steps leaves of the folder `before`.

    Args:
        before: A copy of the folder as it was when the log began; all of it is durable.
    """
    done = log.steps[:steps]
    things = dict(_read(before, log.top))
    contents = _contents(log, done, r)
    for step in _kept(done, r):
        _change(things, step, contents)
    _write(things, log.top, target)


def _contents(log: FolderLog, done: Iterable[Step], r: random.Random) -> dict[int, bytes]:
    """Return what each new file holds; it is torn unless it was synced."""
    synced: dict[int, bytes] = {}
    made: dict[int, Step] = {}
    whole = {s.number: s.content for s in log.steps if s.kind == "sync" and s.content is not None}
    for step in done:
        if step.kind == "make" and step.content is None:
            made[step.number] = step
        elif step.kind == "sync" and step.content is not None:
            synced[step.number] = step.content
    torn = {}
    for number in made:
        body = whole.get(number) or b""
        torn[number] = body[: r.randrange(len(body) + 1)] if r.random() < 0.5 else b""
    return torn | synced


def _kept(done: Sequence[Step], r: random.Random) -> list[Step]:
    """Return the changes of names that outlived the cut.

    Of a directory whose removal did, so did all that had emptied it.
    """
    kept: list[Step] = []
    synced: set[str] = set()
    all_synced = False
    for step in reversed(done):
        parents = {os.path.dirname(path) for path in (step.path, step.target) if path}
        if step.kind == "sync":
            synced.add(step.path)
        elif step.kind == "sync all":
            all_synced = True
        elif all_synced or parents & synced or r.random() < 0.5:
            kept.append(step)
            if step.kind == "remove":
                synced.add(step.path)
    return kept[::-1]


def _change(things: dict[str, _Thing], step: Step, contents: dict[int, bytes]) -> None:
    """Carry out one step, unless one before it that it needs did not happen."""
    place = step.target or step.path
    above, there = things.get(os.path.dirname(place)), things.get(place)
    if above is None or above.content is not None:
        return
    if step.target and there is not None and there.content is None:
        return
    match step.kind:
        case "directory":
            things.setdefault(step.path, _Thing(stat.S_IFDIR, None))
        case "make" if step.content is not None:
            things[step.path] = _Thing(stat.S_IFLNK, step.content)
        case "make":
            things[step.path] = _Thing(step.mode, contents[step.number])
        case "link" if step.path in things:
            things[step.target] = things[step.path]
        case "exchange" if step.path in things and there is not None:
            things[step.path], things[step.target] = there, things[step.path]
        case "move" if step.path in things:
            inner = [path for path in things if path.startswith(step.path + "/")]
            for path in [step.path, *inner]:
                things[step.target + path[len(step.path) :]] = things.pop(path)
        case "remove":
            if not any(path.startswith(step.path + "/") for path in things):
                things.pop(step.path, None)


def _read(folder: Path, top: str) -> Iterable[tuple[str, _Thing]]:
    yield top, _Thing(stat.S_IFDIR, None)
    for directory, names, files in os.walk(folder):
        for name in [*names, *files]:
            path = os.path.join(directory, name)
            found = os.lstat(path)
            key = os.path.join(top, os.path.relpath(path, folder))
            if stat.S_ISLNK(found.st_mode):
                yield key, _Thing(stat.S_IFLNK, os.fsencode(os.readlink(path)))
            elif stat.S_ISDIR(found.st_mode):
                yield key, _Thing(stat.S_IFDIR, None)
            else:
                yield key, _Thing(found.st_mode, Path(path).read_bytes())


def _write(things: dict[str, _Thing], top: str, target: Path) -> None:
    written: dict[int, str] = {}  # of files, which may have several names
    for path, thing in sorted(things.items()):
        here = os.path.join(target, os.path.relpath(path, top))
        first = written.setdefault(id(thing), here)
        if first != here:
            os.link(first, here, follow_symlinks=False)
        elif stat.S_ISDIR(thing.mode):
            os.makedirs(here, exist_ok=True)
        elif stat.S_ISLNK(thing.mode):
            assert thing.content is not None
            os.symlink(thing.content, os.fsencode(here))
        else:
            assert thing.content is not None
            Path(here).write_bytes(thing.content)
            os.chmod(here, stat.S_IMODE(thing.mode))
