"""A server that lies, and the real command as its client: refused, and nothing written.

Each case is one lie. The command has to end with the exit code of its kind and one line, and the
repository has to be what it was: folder, refs, remotes as last seen and manifests, byte for byte.
"""

from __future__ import annotations

import random
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import msgpack  # type: ignore[import-untyped]
import pytest
from blake3 import blake3
from support import require
from support_cli import environment, gsync_in, read_tree, refused, run_here, write
from support_hostile import (
    EVIL,
    NOBODY,
    STREAMS,
    TREE,
    Answer,
    Case,
    Peer,
    end,
    endless,
    honest,
    hostile_server,
    http,
    pack,
)

from gsync.objects.encoding import encode
from gsync.objects.model import Internal, encode_internal, encode_leaf
from gsync.objects.oid import Kind, ObjectId, object_id
from gsync.store.memory import MemoryStore
from gsync.store.sqlite import SqliteStore
from gsync.sync.maintenance import verify
from gsync.transfer.history import order_new
from gsync.transfer.send import send_manifests

EXIT = {"invalid": 2, "too_large": 2, "denied": 3, "not_found": 4, "conflict": 5}
EXIT |= {"corrupt": 6, "unavailable": 7}
RSS_MAX_KIB = 300 << 10
LIMITS = "\n[limits]\nattempts = 1\nstall_s = 30\n"


def packed(value: object) -> bytes:
    body: bytes = msgpack.packb(value)
    return body


def store_of(folder: Path) -> Path:
    return folder / ".gsync" / "store.db"


def state_of(folder: Path) -> object:
    """Everything in a repository that a refused answer may not have touched.

    What came whole before the lie may be kept for the next attempt, with a lease of its own.
    """
    with closing(sqlite3.connect(store_of(folder))) as db:
        kept = [
            db.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
            for table in ("ref", "ref_log", "tracking")
        ]
    return kept, read_tree(folder)


def check_sound(folder: Path) -> None:
    with SqliteStore.open(store_of(folder)) as store:
        assert verify(store).problems == []


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, sealed_environment: None) -> Path:
    """A clone of an honest server, with an unsaved file; its remote is where tests say."""
    require("proxy")
    folder = tmp_path_factory.mktemp("template") / "work"
    store, _ = honest()
    with hostile_server(store) as peer:
        gsync_in(folder.parent, "clone", f"{peer.base}/acme", "work")
    config = folder / ".gsync" / "config.toml"
    config.write_text(config.read_text() + LIMITS)
    write(folder, {"unsaved": b"mine\n"})
    return folder


class Client:
    """A copy of the clone, and the means to point it at a server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._config = folder / ".gsync" / "config.toml"
        self._text = self._config.read_text()

    def use(self, peer: Peer) -> None:
        url = f"{peer.base}/acme"
        self._config.write_text(re.sub(r"http://127\.0\.0\.1:[0-9]+/[a-z]+", url, self._text))

    def forget_log(self) -> None:
        """What a server said of its log is kept, and held against it: the next one is another."""
        with closing(sqlite3.connect(store_of(self.folder))) as db, db:
            db.execute("DELETE FROM remote_log WHERE seq > 1")

    def forget_transfers(self) -> None:
        """What an honest part of a stream brought would be left out of the next one."""
        with closing(sqlite3.connect(store_of(self.folder))) as db, db:
            for table in ("session", "session_frame", "lease"):
                db.execute(f"DELETE FROM {table}")
            db.execute("DELETE FROM state WHERE name LIKE 'transfer %' OR name LIKE 'push to %'")


@pytest.fixture(scope="module")
def client(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Client:
    """One copy for all refusals: since nothing is written, it stays what it was."""
    folder = tmp_path_factory.mktemp("client") / "work"
    shutil.copytree(template, folder, symlinks=True)
    return Client(folder)


@pytest.fixture
def fresh(template: Path, tmp_path: Path) -> Client:
    """A copy of a test's own."""
    shutil.copytree(template, tmp_path / "work", symlinks=True)
    return Client(tmp_path / "work")


def check_refused(client: Client, peer: Peer, kinds: tuple[str, ...], *command: str) -> str:
    """The command ends with one of `kinds`, and the repository is what it was; returns why."""
    client.use(peer)
    before = state_of(client.folder)
    codes = {EXIT[kind] for kind in kinds}
    code, out, text = run_here(client.folder, *command)
    assert (code in codes, out) == (True, b""), (code, text, kinds)
    assert text.startswith("gsync: ") and "Traceback" not in text and "internal" not in text
    assert len(text.splitlines()) <= 2
    assert state_of(client.folder) == before, text
    client.forget_log()
    client.forget_transfers()
    return text


# --- Streams --------------------------------------------------------------------------------


def main_at(manifest: ObjectId) -> Callable[[bytes], bytes]:
    """Turn a welcome into one that has main at `manifest`, and a log that says so."""

    def change(body: bytes) -> bytes:
        welcome = msgpack.unpackb(body)
        entry = next_entry(welcome[5], manifest)
        welcome[5].append(entry)
        welcome[3] = [["main", manifest]]
        welcome[4] = [msgpack.unpackb(entry)[1], log_hash(entry)]
        return packed(welcome)

    return change


def log_hash(entry: bytes) -> bytes:
    return blake3(entry, derive_key_context="gsync 2026 ref log v1").digest()


LOG: list[bytes] = [
    entry for entry in [*honest()[0].list_log()] for entry in [msgpack.packb([
        1, entry.seq, entry.ref, entry.old, entry.new, entry.time_us, entry.actor, entry.why,
        entry.prev])]
]  # fmt: skip


def next_entry(entries: list[bytes], new: object, **change: object) -> bytes:
    """A log entry that goes on from the honest log, but for what `change` says."""
    last = entries[-1] if entries else LOG[-1]
    before = msgpack.unpackb(last)
    fields: dict[str, object] = {
        "version": 1,
        "seq": before[1] + 1,
        "ref": "main",
        "old": before[4],
        "new": new,
        "time": 2_000_000,
        "actor": "Eve",
        "why": "evil",
        "prev": log_hash(last),
    }
    return packed(list((fields | change).values()))


def welcome_with(change: Callable[[bytes], bytes], store: MemoryStore) -> Answer:
    """An answer to hello that is the honest one, changed."""

    def answer(body: bytes) -> list[bytes]:
        return [http(change(Peer(store, {}).honest("hello", body)))]

    return answer


ENDED = {"half a length", "half a frame", "the end says another count", "the end is no end"}
ENDED |= {"the end counts with true", "frames after the end", "two ends"}


@pytest.mark.parametrize("case", STREAMS, ids=[case.name for case in STREAMS])
def test_streams_that_lie_are_refused(client: Client, case: Case) -> None:
    """No stream of the table brings a manifest, moves what is tracked, or touches the folder."""
    store, roots = honest()
    frames, manifest = case.make(store, roots[-1])
    stream = b"".join([*frames, b"" if case.name in ENDED else end(len(frames))])
    hello = welcome_with(main_at(manifest), store)
    with hostile_server(store, hello=hello, fetch=stream) as peer:
        check_refused(client, peer, case.kinds, "pull")
    check_sound(client.folder)


SHORT = ["a path b'../x'", "a patch that leads elsewhere", "a second parent that is a blob"]


@pytest.mark.parametrize("name", SHORT)
def test_a_clone_that_is_lied_to_leaves_nothing(tmp_path: Path, name: str) -> None:
    """A clone that is refused leaves neither folder nor store."""
    case = next(case for case in STREAMS if case.name == name)
    store, roots = honest()
    frames, manifest = case.make(store, roots[-1])
    first = Peer(store, {}).honest("fetch", msgpack.packb([1, [roots[-1].manifest], []]))
    count = first.count  # the honest history comes first, then the lie
    assert count is not None
    whole = first[: -len(end(1))] + b"".join(frames)
    total = sum(1 for _ in _frames(whole))
    hello = welcome_with(lambda body: main_at(manifest)(body), store)
    with hostile_server(store, hello=hello, fetch=whole + end(total)) as peer:
        refused(tmp_path, "clone", f"{peer.base}/acme", "copy", code=EXIT[case.kinds[0]])
    assert list(tmp_path.iterdir()) == []


def _frames(data: bytes) -> Iterator[bytes]:
    while data:
        size = 4 + int.from_bytes(data[:4], "big")
        yield data[:size]
        data = data[size:]


# --- Messages -------------------------------------------------------------------------------


class Hello(NamedTuple):
    name: str
    kinds: tuple[str, ...]
    change: Callable[[list], object]


def _refs(*refs: list) -> Callable[[list], object]:
    return lambda welcome: welcome.__setitem__(3, list(refs))


def _entries(*changes: dict[str, object], head: bool = True) -> Callable[[list], object]:
    def change(welcome: list) -> None:
        for fields in changes:
            welcome[5].append(next_entry(welcome[5], **{"new": EVIL, **fields}))
        if head and welcome[5]:
            welcome[4] = [msgpack.unpackb(welcome[5][-1])[1], log_hash(welcome[5][-1])]

    return change


HELLOS = [
    Hello("not a list", ("invalid",), lambda w: w.clear()),
    Hello("protocol version 2", ("invalid",), lambda w: w.__setitem__(1, 2)),
    Hello("protocol version 0", ("invalid",), lambda w: w.__setitem__(1, 0)),
    Hello("message version 2", ("invalid",), lambda w: w.__setitem__(0, 2)),
    Hello("a limit of 0", ("invalid",), lambda w: w[2].__setitem__(2, 0)),
    Hello("a limit below 0", ("invalid",), lambda w: w[2].__setitem__(1, -1)),
    Hello("a limit that is true", ("invalid",), lambda w: w[2].__setitem__(1, True)),
    Hello("three limits", ("invalid",), lambda w: w[2].pop()),
    Hello("a ref ../../x", ("invalid",), _refs(["../../x", EVIL])),
    Hello("a ref tags/../x", ("invalid",), _refs(["tags/../x", EVIL])),
    Hello("a ref with an escape", ("invalid",), _refs(["tags/\x1b[2J", EVIL])),
    Hello("a ref of nobody's", ("invalid",), _refs(["heads/x", EVIL])),
    Hello("a ref twice", ("invalid",), _refs(["main", EVIL], ["main", EVIL])),
    Hello("refs out of order", ("invalid",), _refs(["tags/a", EVIL], ["main", EVIL])),
    Hello("a ref with a short id", ("invalid",), _refs(["main", b"short"])),
    Hello("10,001 refs", ("invalid",), _refs(*([f"tags/t{n:05}", EVIL] for n in range(10_001)))),
    Hello("a head of seq 0", ("invalid",), lambda w: w.__setitem__(4, [0, bytes(32)])),
    Hello("a head with a short hash", ("invalid",), lambda w: w.__setitem__(4, [1, b"x"])),
    Hello("another head", ("corrupt",), lambda w: w.__setitem__(4, [1, bytes(32)])),
    Hello("no head any more", ("corrupt",), lambda w: w.__setitem__(4, None)),
    Hello("a head far ahead", ("corrupt",), lambda w: w.__setitem__(4, [1 << 62, bytes(32)])),
    Hello("an entry of version 2", ("invalid",), _entries({"version": 2})),
    Hello("an entry with a gap", ("corrupt",), _entries({"seq": 3})),
    Hello("an entry again", ("corrupt",), _entries({"seq": 1})),
    Hello("an entry after another", ("corrupt",), _entries({"prev": bytes(32)})),
    Hello("an entry of 5,000 bytes", ("invalid",), _entries({"why": "y" * 5000})),
    Hello("an entry to a short id", ("invalid",), _entries({"new": b"short"})),
    Hello("the second entry breaks", ("corrupt",), _entries({}, {"prev": bytes(32)})),
    Hello("a ref that never comes", ("invalid",), _refs(["main", NOBODY])),
    Hello("a tag that never comes", ("invalid",), _refs(["tags/t", NOBODY])),
]


@pytest.mark.parametrize("case", HELLOS, ids=[case.name for case in HELLOS])
@pytest.mark.parametrize("command", ["pull", "push"])
def test_welcomes_that_lie_are_refused(client: Client, case: Hello, command: str) -> None:
    """Refs, limits and log of a server are checked before anything else is asked."""
    if command == "push" and "never comes" in case.name:
        pytest.skip("a push asks for nothing")
    store, _ = honest()

    def change(body: bytes) -> bytes:
        welcome = msgpack.unpackb(body)
        case.change(welcome)
        return packed(welcome)

    with hostile_server(
        store, hello=welcome_with(change, store), fetch=end(0), log=msgpack.packb([1, []])
    ) as peer:
        check_refused(client, peer, case.kinds, command)


def test_a_ref_at_what_is_no_manifest(client: Client) -> None:
    """A ref that points at a content, which the client even has, is not believed."""
    store, _ = honest()
    known = object_id(Kind.BLOB, TREE[b"a.txt"])

    def change(body: bytes) -> bytes:
        welcome = msgpack.unpackb(body)
        welcome[3] = [["main", known]]
        return packed(welcome)

    hello = welcome_with(change, store)
    with hostile_server(store, hello=hello, fetch=end(0)) as peer:
        check_refused(client, peer, ("invalid",), "pull")
        check_refused(client, peer, ("invalid",), "fetch")


@pytest.mark.parametrize(
    ("answer", "kinds"),
    [
        pytest.param([http(b"\xc1")], ("invalid",), id="garbage"),
        pytest.param([http(b"")], ("invalid",), id="nothing"),
        pytest.param([http(b"{}", 200, "Content-Type: text/html")], ("invalid",), id="a web page"),
        pytest.param([http(b"", 302, "Location: http://127.0.0.1:1/x")], ("invalid",), id="moved"),
        pytest.param([http(b"\xc1", 404)], ("not_found",), id="404"),
        pytest.param([http(b"\xc1", 500)], ("unavailable",), id="500"),
        pytest.param([http(b"\xc1", 999)], ("unavailable",), id="999"),
        pytest.param([http(encode([1, "defect", "x", None]), 500)], ("unavailable",), id="kind"),
        pytest.param([http(encode([1, "corrupt", "x", None]), 200)], ("invalid",), id="error, 200"),
        pytest.param([http(encode([1, "denied", "\x1b[2Jx", None]), 403)], ("denied",), id="steer"),
        pytest.param([b"\xff" * 5000], ("unavailable",), id="no HTTP"),
        pytest.param([b"HTTP/1.1 200 X\r\n" + b"A: b\r\n" * 200], ("unavailable",), id="200 heads"),
        pytest.param(
            [b"HTTP/1.1 200 X\r\nA: " + b"b" * 100_000], ("unavailable",), id="a long head"
        ),
        pytest.param([http(b"x" * 50)[:-10]], ("unavailable",), id="cut"),
        pytest.param([http(b"x")[:20]], ("unavailable",), id="cut head"),
        pytest.param([http(b"x", 200, "Content-Length: 5")], ("invalid", "unavailable"), id="two"),
        pytest.param(
            [b"HTTP/1.1 200 X\r\nContent-Type: application/x-gsync\r\n"
             b"Transfer-Encoding: chunked\r\n\r\nnohex\r\n"],
            ("unavailable",), id="no chunk",
        ),
        pytest.param(
            [http(b"\x1f\x8b" + bytes(50), 200, "Content-Encoding: gzip")], ("invalid",), id="gzip"
        ),
    ],
)  # fmt: skip
def test_answers_that_are_none(client: Client, answer: list[bytes], kinds: tuple[str, ...]) -> None:
    """What is no answer of a server is an error of its kind, without what steers a terminal."""

    def close(_: bytes) -> Iterator[bytes]:
        yield from answer
        raise OSError  # hang up

    with hostile_server(honest()[0], hello=close) as peer:
        assert "\x1b" not in check_refused(client, peer, kinds, "pull")


def test_a_server_that_says_nothing(fresh: Client) -> None:
    """A server that takes a request and never answers is given up after `stall_s`."""
    config = fresh.folder / ".gsync" / "config.toml"
    config.write_text(config.read_text().replace("stall_s = 30", "stall_s = 1"))
    client = Client(fresh.folder)
    done = threading.Event()

    def stall(_: bytes) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 X\r\n"
        done.wait(30)

    with hostile_server(honest()[0], hello=stall) as peer:
        text = check_refused(client, peer, ("unavailable",), "pull")
        done.set()
    assert "no byte for too long" in text


# --- Levels ---------------------------------------------------------------------------------


def test_nodes_by_id_that_lie_are_refused(tmp_path: Path) -> None:
    """Maps that come node by node are held to every rule that building one follows."""
    folder = tmp_path / "own"
    folder.mkdir()
    gsync_in(folder, "init")
    write(folder, {"own": b"history of its own\n"})
    gsync_in(folder, "snapshot", "-m", "own")
    config = folder / ".gsync" / "config.toml"
    config.write_text(config.read_text() + '\n[remote.origin]\nurl = "http://127.0.0.1:1/x"\n')
    config.write_text(config.read_text() + LIMITS)
    client = Client(folder)
    leaf = encode_leaf([b"a"], [b"\1"])
    below = object_id(Kind.NODE, leaf)
    deep = leaf
    nodes = [leaf]
    for level in range(1, 33):
        deep = encode_internal(Internal(level, [b"a"], [object_id(Kind.NODE, deep)], [1], [2]))
        nodes.append(deep)
    lies: dict[str, list[bytes]] = {
        "keys that fall": [msgpack.packb([1, 0, [b"b", b"a"], [b"\1", b"\1"]])],
        "a key twice": [msgpack.packb([1, 0, [b"a", b"a"], [b"\1", b"\1"]])],
        "a second encoding": [leaf.replace(b"\xc4\x01a", b"\xc5\x00\x01a")],
        "an empty node with a level": [msgpack.packb([1, 1, [], [], [], []])],
        "level 33": [msgpack.packb([1, 33, [b"a"], [below], [1], [2]])],
        "32 levels of one child": nodes[::-1],
        "a level that skips": [msgpack.packb([1, 2, [b"a"], [below], [1], [2]]), leaf],
        "totals that lie": [
            msgpack.packb([1, 1, [b"a", b"b"], [below, below], [9, 9], [2, 2]]), leaf],
        "a child twice": [
            msgpack.packb([1, 1, [b"a", b"b"], [below, below], [1, 1], [2, 2]]), leaf],
        "rows beyond 2^63": [msgpack.packb([1, 1, [b"a"], [below], [1 << 63], [2]]), leaf],
        "a child that is a content": [
            msgpack.packb([1, 1, [b"a", b"b"], [EVIL, EVIL], [1, 1], [2, 2]])],
    }  # fmt: skip
    for name, bodies in lies.items():
        store, roots = honest()
        for body in bodies:
            store.put(Kind.NODE, body)
        manifest = msgpack.unpackb(store.get(Kind.MANIFEST, roots[0].manifest))
        manifest[2][0][1] = object_id(Kind.NODE, bodies[0])
        manifest[2][0][2] = 1
        evil = store.put(Kind.MANIFEST, msgpack.packb(manifest))

        def change(body: bytes, evil: ObjectId = evil) -> bytes:
            return first_log(evil, body)

        with hostile_server(store, hello=welcome_with(change, store)) as peer:
            try:
                check_refused(client, peer, ("invalid", "not_found", "corrupt"), "fetch")
            except AssertionError as error:
                raise AssertionError(name) from error
    check_sound(folder)


def first_log(manifest: bytes, body: bytes) -> bytes:
    """A welcome whose log has one entry, which moves main to `manifest`."""
    welcome = msgpack.unpackb(body)
    entry = msgpack.packb([1, 1, "main", None, manifest, 1, "Eve", "evil", bytes(32)])
    welcome[3:] = [[["main", manifest]], [1, log_hash(entry)], [entry]]
    return packed(welcome)


# --- Push -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "kinds"),
    [
        pytest.param(b"\xc1", ("invalid",), id="garbage"),
        pytest.param(msgpack.packb([1, 2, []]), ("corrupt",), id="no entries"),
        pytest.param(
            msgpack.packb([1, 2, [next_entry(LOG, EVIL)]]), ("corrupt",), id="another move"
        ),
        pytest.param(msgpack.packb([1, 2, [b"x" * 5000]]), ("invalid",), id="no entry"),
        pytest.param(msgpack.packb([1, "2", []]), ("invalid",), id="no count"),
        pytest.param(msgpack.packb([2, 2, []]), ("invalid",), id="version 2"),
    ],
)
def test_a_push_that_was_not_carried_out_is_seen(
    fresh: Client, answer: bytes, kinds: tuple[str, ...]
) -> None:
    """A server that says yes, and whose log says something else, is not believed."""
    gsync_in(fresh.folder, "snapshot", "-m", "mine")
    with hostile_server(honest()[0], frames=answer) as peer:
        check_refused(fresh, peer, kinds, "push")


def test_a_server_that_says_it_has_everything(fresh: Client) -> None:
    """Whoever lies about what arrived gets it all in a second attempt of the same push."""
    write(fresh.folder, {"noise": random.Random(1).randbytes(2_000_000)})
    gsync_in(fresh.folder, "snapshot", "-m", "mine")
    store, _ = honest()

    names: set[bytes] = set()

    def begin(body: bytes) -> list[bytes]:
        with SqliteStore.open(store_of(fresh.folder)) as mine:
            head = mine.find_ref("main")
            assert head is not None
            new = order_new(mine, [head], {honest()[1][-1].manifest})
            names.update(f.name for f in send_manifests(mine, new))
        return [http(msgpack.packb([1, sorted(names)]))]

    with hostile_server(store, begin=begin) as peer:
        fresh.use(peer)
        gsync_in(fresh.folder, "push")
        with SqliteStore.open(store_of(fresh.folder)) as mine:
            head = mine.find_ref("main")
        assert store.find_ref("main") == head
    assert names
    check_sound(fresh.folder)


@pytest.mark.slow
def test_a_limit_without_end_is_not_believed(fresh: Client) -> None:
    """A server that takes parts of any size still gets them in parts that fit into memory."""
    write(fresh.folder, {"noise": random.Random(1).randbytes(80_000_000)})
    gsync_in(fresh.folder, "snapshot", "-m", "mine")
    store, _ = honest()
    parts: list[int] = []

    def limits(body: bytes) -> bytes:
        welcome = msgpack.unpackb(body)
        welcome[2][1] = 1 << 60
        return packed(welcome)

    def frames(body: bytes) -> list[bytes]:
        parts.append(len(body))
        return [http(msgpack.packb([1, 0, []]))]

    with hostile_server(store, hello=welcome_with(limits, store), frames=frames) as peer:
        check_refused(fresh, peer, ("corrupt",), "push")
    assert sum(parts) > 80_000_000
    assert max(parts) < 20_000_000


# --- Without end ----------------------------------------------------------------------------


def rss_of(folder: Path, *command: str) -> tuple[int, int, str]:
    """Run a command; return its exit code, its peak of memory in KiB, and what it said."""
    errors = folder.parent / "errors"
    with errors.open("wb") as err:
        process = start_with(folder, err, *command)
        # Not what wait4 says: that counts what the process was before it ran the command, and
        # so the memory of this one.
        peak = 0
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            found = re.search(r"VmHWM:\s*(\d+)", status.read_text())
            peak = max(peak, int(found[1]) if found else 0)
            time.sleep(0.02)
    return process.returncode, peak, errors.read_text()


def start_with(folder: Path, err, *command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "gsync", *command],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=err,
    )


BIG = pack([(1, bytes([n]) * (1 << 20)) for n in [0]])
ENDLESS: dict[str, tuple[dict[str, Answer], str, int]] = {
    "hello": ({"hello": lambda _: endless(b"\0" * (1 << 20), 1100)}, "too_large", 0),
    "an error": (
        {"hello": lambda _: endless(b"\0" * (1 << 20), 1100, status=500)},
        "unavailable",
        0,
    ),
    "a frame": ({"fetch": lambda _: endless(b"\0\x10\0\0\1" + b"x" * 100_000, 11_000)}, "any", 0),
    "frames": ({"fetch": lambda _: endless(BIG, 1100)}, "corrupt", 1 << 30),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDLESS)
def test_what_has_no_end_costs_no_memory(client: Client, name: str) -> None:
    """A server that offers more than 1 GiB, in what form it likes, is met with bounded memory."""
    answers, kind, least = ENDLESS[name]
    store, _ = honest()
    if "hello" not in answers:
        answers = {**answers, "hello": welcome_with(main_at(NOBODY), store)}
    with hostile_server(store, **answers) as peer:
        client.use(peer)
        before = state_of(client.folder)
        code, rss, text = rss_of(client.folder, "fetch")
        assert peer.sent >= least
    assert code == EXIT[kind] if kind != "any" else code in (2, 6), text
    assert rss < RSS_MAX_KIB
    assert state_of(client.folder) == before
    client.forget_log()
