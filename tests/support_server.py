"""A real server as a process of its own, and the small client that tests drive it with."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import gsync
from gsync.maps.omap import build_map
from gsync.objects.encoding import Reference
from gsync.objects.model import Collection, Manifest, encode_manifest
from gsync.objects.oid import Kind, ObjectId
from gsync.protocol.frames import Frame, FrameType
from gsync.protocol.messages import Announcement, Fetch, Hello, Taken, encode_announcement
from gsync.remotes.base import Connection
from gsync.remotes.http import HttpRemote
from gsync.server.auth import Accounts
from gsync.store.base import ObjectStore
from gsync.store.memory import MemoryStore
from gsync.transfer.history import order_new
from gsync.transfer.negotiate import take_stream
from gsync.transfer.receive import Receiver
from gsync.transfer.send import send_manifests
from gsync.views.files import EntryType, FileEntry, encode_entry

START_S = 30
CODE = """
import sys, pathlib
from gsync.protocol.messages import Limits
from gsync.server.run import serve
data, port, log_format, part_bytes, prelude, cert, key, *attached = sys.argv[1:]
exec(prelude, {"pathlib": pathlib})
serve(pathlib.Path(data), port=int(port), log_format=log_format,
      limits=Limits(part_bytes=int(part_bytes)),
      tls_cert=pathlib.Path(cert) if cert else None, tls_key=pathlib.Path(key) if key else None,
      attached=[(tenant, pathlib.Path(folder)) for tenant, folder in
                zip(attached[::2], attached[1::2])])
"""


@dataclass
class RunningServer:
    """A server that runs, and what it said so far."""

    data: Path
    process: subprocess.Popen[bytes]
    base: str
    log_path: Path
    tokens: dict[tuple[str, str], str] = field(default_factory=dict)
    clients: list[HttpRemote] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.base.rpartition(":")[2])

    def token(self, tenant: str = "acme", scope: str = "write") -> str:
        """A token of `tenant`, made once."""
        if (tenant, scope) not in self.tokens:
            with accounts(self.data) as there:
                self.tokens[tenant, scope] = there.add_token(tenant, scope, name=scope)[0]
        return self.tokens[tenant, scope]

    def connect(
        self,
        tenant: str = "acme",
        scope: str = "write",
        base: str = "",
        ca_file: str | None = None,
    ) -> HttpRemote:
        """A client that does not wait between attempts; it is closed with the server, too."""
        url, token = f"{base or self.base}/{tenant}", self.token(tenant, scope)
        client = HttpRemote(url, token, ca_file=ca_file, sleep=lambda _: None)
        self.clients.append(client)
        return client

    def log(self) -> str:
        return self.log_path.read_text()

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        self.process.kill()
        self.process.wait(START_S)


def accounts(data: Path) -> Accounts:
    return Accounts(data, lambda: time.time_ns() // 1000)


@contextmanager
def running_server(
    data: Path,
    *,
    port: int = 0,
    log_format: str = "text",
    part_bytes: int = 32 << 20,
    tls: tuple[Path, Path] | None = None,
    attached: Mapping[str, Path] | None = None,
    prelude: str = "",
) -> Iterator[RunningServer]:
    """Start a server and wait until it listens; it is gone after the block.

    Args:
        attached: Tenants with a live folder.
        prelude: Python that runs in the server first, to stop or to end it at an exact place.
    """
    folders = [str(part) for pair in (attached or {}).items() for part in pair]
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    log_path = data.parent / f"{data.name}.log"
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", CODE]
            + [str(data), str(port), log_format, str(part_bytes), prelude]
            + [*map(str, tls or ("", "")), *folders],
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, "PYTHONPATH": str(Path(gsync.__file__).parent.parent)},
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline().decode()
        assert line.startswith("listening on http"), log_path.read_text()
        running = RunningServer(data, process, line.split()[-1], log_path)
        yield running
        for client in running.clients:
            client.close()
    finally:
        process.stdout.close()
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(START_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(START_S)


Tree = dict[bytes, bytes]


def commit(store: ObjectStore, tree: Tree, parents: tuple[ObjectId, ...] = ()) -> ObjectId:
    """A manifest over small files."""
    entries = []
    for path, content in sorted(tree.items()):
        ref = Reference(Kind.BLOB, store.put(Kind.BLOB, content), len(content))
        entries.append((path, encode_entry(FileEntry(EntryType.FILE, len(content), ref))))
    files = Collection("files", build_map(store, entries), len(tree))
    body = encode_manifest(Manifest(parents, (files,), "me", 1, "a message"))
    return store.put(Kind.MANIFEST, body)


def random_tree(seed: int, count: int, size: int = 2000) -> Tree:
    r = random.Random(seed)
    return {b"d%d/f%d" % (i % 7, i): r.randbytes(r.randrange(1, size)) for i in range(count)}


def push(
    remote: Connection,
    store: MemoryStore,
    new: ObjectId,
    old: ObjectId | None = None,
    session: bytes = b"s" * 16,
) -> Taken:
    """Move the other side's main from `old` to `new`, in one stream."""
    order = order_new(store, [new], {old} if old else set())

    def frames() -> Iterator[Frame]:
        yield from send_manifests(store, order)
        body = encode_announcement(Announcement([("main", old, new)], "push"))
        yield Frame(FrameType.ANNOUNCE, body)

    return remote.frames(session, frames)


def clone(remote: Connection) -> tuple[MemoryStore, ObjectId]:
    """A new store with all that the other side's main reaches."""
    store = MemoryStore()
    main = remote.hello(Hello(1, None)).refs["main"]
    take_stream(Receiver(store), remote.fetch(Fetch([main], [])))
    return store, main
