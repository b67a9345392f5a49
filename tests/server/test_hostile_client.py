"""A client that lies, and a real server: refused with a status, no ref moved, nothing broken.

`test_requests` has what is no message or no frame at all; here the lies are well formed.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest
import requests
from support_hostile import (
    STREAMS,
    Case,
    Lie,
    Root,
    announce,
    chunk_tree,
    end,
    frame,
    honest,
    pack,
)
from support_server import RunningServer

from gsync.objects.encoding import encode
from gsync.objects.oid import Kind, ObjectId, object_id
from gsync.protocol.frames import encode_frame
from gsync.protocol.messages import (
    Begin,
    Fetch,
    Hello,
    decode_error,
    decode_welcome,
    encode_begin,
    encode_fetch,
    encode_hello,
    encode_wants,
)
from gsync.server.app import STATUS
from gsync.store.memory import MemoryStore
from gsync.store.sqlite import SqliteStore
from gsync.sync.maintenance import collect, verify
from gsync.transfer.answer import Answerer

CODES = {kind.kind: status for kind, status in STATUS.items() if kind.kind != "unavailable"}
CODES |= {"denied": 403}
RSS_MAX_KIB = 300 << 10
TENANT = "evil"
_sessions = (n.to_bytes(16, "big") for n in count(1))


def post(
    server: RunningServer, name: str, body: object, *, tenant: str = TENANT, scope: str = "write"
) -> requests.Response:
    headers = {"Authorization": f"Bearer {server.token(tenant, scope)}"}
    url = f"{server.base}/{tenant}/v1/{name}"
    return requests.post(url, data=body, headers=headers, timeout=60)  # type: ignore[arg-type]


def push_raw(server: RunningServer, body: object, session: bytes | None = None) -> str | None:
    """Send the bytes of a push; return the kind of error, or None where it was taken."""
    name = f"frames/{(session or next(_sessions)).hex()}"
    response = post(server, name, body)
    if response.status_code == 200:
        return None
    error = decode_error(response.content)
    assert error is not None, response.content[:200]
    assert response.status_code == CODES[error.kind]
    return error.kind


def path_of(server: RunningServer, tenant: str = TENANT) -> Path:
    return server.data / "tenants" / tenant / "store.db"


def state_of(server: RunningServer) -> object:
    """Refs, log and manifests of the tenant."""
    with SqliteStore.open(path_of(server), read_only=True) as store:
        manifests = [oid for kind, oid, _ in store.list_objects() if kind is Kind.MANIFEST]
        return store.list_refs(), store.list_log(), sorted(manifests)


def check_sound(server: RunningServer) -> None:
    with SqliteStore.open(path_of(server)) as store:
        assert verify(store).problems == []
    assert "defect" not in server.log()


@pytest.fixture(scope="module")
def root(server: RunningServer) -> Root:
    """What the honest history's last manifest is, pushed to the server."""
    store, roots = honest()
    assert push_raw(server, whole_push(store, roots[-1].manifest)) is None
    return roots[-1]


def whole_push(store: MemoryStore, manifest: ObjectId) -> bytes:
    frames = list(Answerer(store, "x", lambda: 1).fetch(Fetch([manifest], [])))[:-1]
    return b"".join(map(encode_frame, frames)) + announce(("main", None, manifest))


ENDED = {"half a length", "half a frame", "the end says another count", "the end is no end"}
ENDED |= {"the end counts with true", "frames after the end", "two ends"}


@pytest.mark.parametrize("case", STREAMS, ids=[case.name for case in STREAMS])
def test_streams_that_lie_are_refused(server: RunningServer, root: Root, case: Case) -> None:
    """No stream of the table moves a ref or leaves a manifest, announced or not."""
    store, _ = honest()
    frames, manifest = case.make(store, root)
    before = state_of(server)
    move = b"" if case.name in ENDED else announce(("main", root.manifest, manifest))
    assert push_raw(server, b"".join(frames) + move) in case.kinds
    assert state_of(server) == before
    assert "defect" not in server.log()


def test_the_server_is_sound_after_all_of_it(server: RunningServer, root: Root) -> None:
    """What lies left behind is waste: verify finds nothing, a collection works, a push too."""
    check_sound(server)
    with SqliteStore.open(path_of(server)) as kept:
        collect(kept, now_us=time.time_ns() // 1000 + 7200 * 1_000_000)
        assert verify(kept).problems == []
    store, _ = honest()
    good = Lie(store, root).file(b"fine", b"fine").stream()
    body = b"".join(good.frames) + announce(("main", root.manifest, good.manifest))
    assert push_raw(server, body) is None
    assert post(server, "fetch", encode_fetch(Fetch([good.manifest], []))).status_code == 200
    check_sound(server)


def test_moves_that_lie_are_refused(server: RunningServer) -> None:
    """A ref moves to a manifest that is here, from where it is, and not back."""
    store, roots = honest(({b"a": b"1"}, {b"a": b"2"}))
    first, second = (root.manifest for root in roots)
    tenant = "moves"

    def send(body: bytes) -> str | None:
        name = f"frames/{next(_sessions).hex()}"
        response = post(server, name, body, tenant=tenant)
        error = decode_error(response.content)
        return None if response.status_code == 200 else error.kind if error else "?"

    assert send(whole_push(store, second)) is None
    blob = object_id(Kind.BLOB, b"2")
    for move, kind in (
        (("main", second, bytes(32)), "not_found"),
        (("main", second, blob), "not_found"),
        (("main", first, second), "conflict"),
        (("main", None, second), None),  # the push before, once more: answered as before
        (("main", None, first), "conflict"),
        (("main", second, first), "conflict"),
        (("main", second, None), "conflict"),
        (("tags/t", second, first), "conflict"),
        (("tags/t", None, blob), "not_found"),
    ):
        assert send(announce(move)) == kind, move
    both = announce(("tags/t", None, first), ("main", second, first))
    assert send(both) == "conflict"
    for name in ("../x", "heads/x", "main/", "tags/", "tags/a/b", "tags/..", "tags/\n", "MAIN", ""):
        assert send(announce((name, None, first))) == "invalid", name
    long = encode([[["main", second, first]], "w" * 256])
    assert send(frame(5, long)) == "invalid"
    hello = post(server, "hello", encode_hello(Hello(1, None)), tenant=tenant)
    assert decode_welcome(hello.content).refs == {"main": second}


def test_requests_for_another_kind(server: RunningServer, root: Root) -> None:
    """A content is not handed out as a manifest, nor pinned as one, nor the other way round."""
    blob = object_id(Kind.BLOB, b"one\n")
    for name, body in (
        ("fetch", encode_fetch(Fetch([blob], []))),
        ("begin", encode_begin(Begin(b"k" * 16, [blob]))),
    ):
        assert post(server, name, body).status_code in (404, 409)
    for kind, oid in ((Kind.MANIFEST, blob), (Kind.BLOB, root.manifest), (Kind.NODE, blob)):
        response = post(server, "objects", encode_wants([(kind, oid)]))
        assert response.status_code == 404 or response.content[4] == 7  # an error frame
    with SqliteStore.open(path_of(server)) as store:
        assert blob not in store.leased(0)


def test_a_session_that_was_never_begun(server: RunningServer, root: Root) -> None:
    """Whoever makes up a session, or uses another's, has nothing of it but what it sent itself."""
    store, _ = honest()
    lie = Lie(store, root).file(b"new", b"session").stream()
    theirs = b"t" * 16
    assert push_raw(server, lie.frames[0], theirs) is None
    made_up = push_raw(server, announce(("tags/s", None, lie.manifest)), b"u" * 16)
    assert made_up == "not_found"
    assert push_raw(server, announce(("tags/s", None, lie.manifest)), theirs) == "not_found"


def test_petabytes_of_chunks_in_a_few_nodes(server: RunningServer, root: Root) -> None:
    """A chunk list that names one node over and over is checked in the time of its nodes."""
    store, _ = honest()
    for levels in (1, 4):
        value, objects = chunk_tree(levels)
        lie = Lie(store, root).entry(b"huge", value)
        lie.packs = [pack([item]) for item in objects]
        assert push_raw(server, b"".join(lie.stream().frames)) is None  # canonical: taken
    check_sound(server)


# --- Without end ----------------------------------------------------------------------------


def rss_kib(server: RunningServer) -> int:
    """The most memory that the server ever had."""
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0])


PIECE = b"x" * (1 << 20)


def offer(server: RunningServer, head: str, pieces: Iterator[bytes], bytes_max: int) -> int:
    """Send a head and pieces until the server has had enough; return how many bytes it took."""
    token = server.token(TENANT)
    start = f"POST /{TENANT}/v1/{head}Authorization: Bearer {token}\r\nHost: x\r\n"
    sent = 0
    with closing(socket.create_connection(("127.0.0.1", server.port))) as raw:
        raw.settimeout(20)
        try:
            raw.sendall(start.encode())
            for piece in pieces:
                raw.sendall(piece)
                sent += len(piece)
                if sent >= bytes_max:
                    break
        except OSError:
            pass  # it has hung up
    return sent


def forever(first: bytes, piece: bytes) -> Iterator[bytes]:
    yield first
    while True:
        yield piece


CHUNK = b"%x\r\n" % len(PIECE) + PIECE + b"\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
FRAMES = pack([(1, bytes(1 << 20))])
ENDLESS = {
    "a message": ("hello HTTP/1.1\r\n", CHUNKED, CHUNK),
    "a frame": (
        f"frames/{'ab' * 16} HTTP/1.1\r\n",
        CHUNKED,
        b"%x\r\n" % len(FRAMES) + FRAMES + b"\r\n",
    ),
    "a header": ("hello HTTP/1.1\r\n", b"X: ", PIECE),
    "headers": ("hello HTTP/1.1\r\n", b"", b"X-Header: value\r\n" * 60_000),
    "a path": ("", b"", PIECE),
    "trailers": (
        "hello HTTP/1.1\r\n",
        CHUNKED + b"1\r\n\xc1\r\n0\r\n",
        b"X-Header: value\r\n" * 60_000,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDLESS)
def test_what_has_no_end_costs_no_memory(server: RunningServer, root: Root, name: str) -> None:
    """A client that offers more than 1 GiB, in what form it likes, is met with bounded memory."""
    if not os.path.exists("/proc/self/status"):
        pytest.skip("no /proc to read memory from")
    head, first, piece = ENDLESS[name]
    before = state_of(server)
    offer(server, head, forever(first, piece), 1100 << 20)
    assert rss_kib(server) < RSS_MAX_KIB
    assert state_of(server) == before
    assert requests.get(f"{server.base}/healthz", timeout=30).status_code == 200


def test_heads_that_are_too_long_are_refused(server: RunningServer) -> None:
    """The head of a request has a limit, which no client of ours comes near."""
    for head in (b"X-Header: value\r\n" * 12_000, b"X: y\r\n" * 40_000):
        with closing(socket.create_connection(("127.0.0.1", server.port))) as raw:
            raw.settimeout(20)
            try:
                raw.sendall(b"POST /evil/v1/hello HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n")
                answer = raw.recv(100)
            except ConnectionError:
                answer = b""
        assert answer == b""  # hung up; whoever reads on answers for the missing token
    assert "defect" not in server.log()


def test_ends_that_count_wrongly(server: RunningServer, root: Root) -> None:
    """An end that counts wrongly is refused, one that counts rightly ends a part."""
    blob = pack([(Kind.BLOB, b"part")])
    assert push_raw(server, blob + end(2)) == "corrupt"
    assert push_raw(server, blob + end(1)) is None
    assert push_raw(server, blob + end(1) + blob) == "corrupt"
