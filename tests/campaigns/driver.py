"""Runs gsync commands, each in a process that says on a pipe which phase it is in.

At the n-th arrival in a phase that was asked for, the process says `!` and waits to be killed;
otherwise it goes on, so that whoever reads the pipe may kill it at any instant and knows where.
gsync itself knows nothing of this: functions with good names are wrapped here. Sabotages leave
out what makes a kill harmless.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import gsync.cli.commands.care
import gsync.cli.commands.exchange
import gsync.cli.commands.files
import gsync.cli.commands.history
import gsync.cli.commands.merge
import gsync.cli.commands.server
import gsync.cli.main
import gsync.remotes.http
import gsync.replicas.files.checkout as checkout
import gsync.replicas.files.scan as scan
import gsync.server.run
import gsync.store.lock as lock
import gsync.store.names as names
import gsync.store.sql as sql
import gsync.sync.cloning as cloning
import gsync.sync.maintenance
import gsync.sync.merging
import gsync.sync.operations as operations
import gsync.sync.transfers as transfers
import gsync.transfer.receive as receive

STOPPED = "!"


class Announcer:
    """Tells the pipe about phases, and stops in one."""

    def __init__(self, descriptor: int, phase: str, nth: int) -> None:
        self._descriptor = descriptor
        self._phase = phase
        self._left = nth

    def reach(self, phase: str) -> None:
        os.write(self._descriptor, f"{phase}\n".encode())
        if phase == self._phase and self._left:
            self._left -= 1
            if not self._left:
                os.write(self._descriptor, f"{STOPPED}\n".encode())
                while True:
                    time.sleep(60)

    def around(self, owner: Any, name: str, phase: str) -> None:
        """Arrive in `phase` before and after each call of a function."""
        inner: Callable[..., Any] = getattr(owner, name)

        def announced(*args: Any, **named: Any) -> Any:
            self.reach(phase)
            result = inner(*args, **named)
            self.reach(phase)
            return result

        setattr(owner, name, announced)

    def along(self, owner: Any, name: str, phase: str) -> None:
        """Arrive in `phase` before each item that a generator yields, and at its end."""
        inner: Callable[..., Iterable[Any]] = getattr(owner, name)

        def announced(*args: Any, **named: Any) -> Iterator[Any]:
            for item in inner(*args, **named):
                self.reach(phase)
                yield item
            self.reach(phase)

        setattr(owner, name, announced)

    def transactions(self) -> None:
        """Arrive in the phase that a transaction's lock is held for: begun, and at its commit."""
        held, query = lock.FileLock.held, sql._Sqlite3.query
        purposes = {"": ""}

        @contextmanager
        def announced_held(this: lock.FileLock, purpose: str) -> Iterator[None]:
            with held(this, purpose):
                purposes[""] = purpose
                self.reach(purpose)
                yield

        def announced_query(this: Any, statement: str, *args: Any) -> Any:
            if statement != "COMMIT":
                return query(this, statement, *args)
            self.reach(purposes[""])
            rows = query(this, statement, *args)
            self.reach(purposes[""])
            return rows

        lock.FileLock.held = announced_held  # type: ignore[method-assign, assignment]
        sql._Sqlite3.query = announced_query  # type: ignore[method-assign, assignment]


class Renames:
    """The module `os` with renames announced."""

    def __init__(self, announcer: Announcer, phase: str) -> None:
        self.rename = os.rename
        announcer.around(self, "rename", phase)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


def announce(announcer: Announcer) -> None:
    """Wrap what a phase is made of."""
    announcer.around(scan._Scanner, "_take", "scanning")
    announcer.transactions()
    announcer.around(checkout, "_write_one", "staging")
    announcer.around(checkout, "_write_journal", "writing the journal")
    for name in ("_move_in", "_move_out", "_make_directory", "_remove_directory", "_sync_touched"):
        announcer.around(checkout, name, "carrying out")
    announcer.around(checkout, "_end", "dropping the journal")
    announcer.along(transfers, "send_manifests", "sending")
    announcer.around(receive.Receiver, "take", "receiving")
    cloning.os = Renames(announcer, "giving names")  # type: ignore[attr-defined, assignment]


def sabotage(kind: str) -> None:
    """Leave out one thing that makes a kill harmless."""
    match kind:
        case "no-journal":
            checkout._write_journal = lambda workdir, plan: None
        case "no-pending":
            set_states = names.SqliteNames.set_states

            def forgetful(this: Any, values: Any) -> None:
                set_states(this, {k: v for k, v in values.items() if k != operations.PENDING})

            names.SqliteNames.set_states = forgetful  # type: ignore[method-assign, assignment]
        case "ref-first":
            move_refs = names.SqliteNames.move_refs

            def hasty(this: Any, *args: Any, **named: Any) -> Any:
                this.flush = lambda: None
                done = move_refs(this, *args, **named)
                del this.flush
                this.flush()
                return done

            names.SqliteNames.move_refs = hasty  # type: ignore[method-assign, assignment]
        case _:
            raise SystemExit(f"no such sabotage: {kind}")


def run(request: dict[str, Any], pipe: int) -> int:
    """Run the command of a request and return how it ended."""
    for kind in filter(None, [request["sabotage"]]):
        sabotage(kind)
    announce(Announcer(pipe, request["phase"], request["nth"]))
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    return gsync.cli.main.run(request["command"])


def serve(control: socket.socket) -> None:
    """Fork a process for each request, which costs less than to start Python and import gsync.

    With a request come three descriptors: for phases, for stdout, and one that is told the
    process's id and later how it ended.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, 1 << 20, 3)
        if not data:
            return
        if os.fork() == 0:
            control.close()
            _watch(json.loads(data), *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _watch(request: dict[str, Any], pipe: int, out: int, reply: int) -> NoReturn:
    """Run one request in a child, and say how that ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child == 0:
        os.close(reply)
        os.dup2(out, 1)
        os.close(out)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - the one before knows another file
        code = 70
        try:
            code = run(request, pipe)
        finally:
            os._exit(code)
    os.close(pipe)
    os.close(out)
    os.write(reply, f"{child}\n".encode())
    _, status = os.waitpid(child, 0)
    os.write(reply, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
