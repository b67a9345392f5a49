"""Whatever comes in: a limit, a status and a message for each, and never a 500."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import requests
from support_server import RunningServer, commit, push, running_server

from gsync.errors import Invalid
from gsync.objects.encoding import encode
from gsync.protocol.frames import Frame, FrameType, encode_frame
from gsync.protocol.messages import (
    FETCH_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    Announcement,
    Hello,
    decode_error,
    encode_announcement,
    encode_hello,
)
from gsync.store.memory import MemoryStore
from gsync.transfer.history import order_new
from gsync.transfer.send import send_manifests

MESSAGES = ("hello", "log", "fetch", "objects", "begin")
SESSION = "ab" * 16
_r = random.Random(7)
GARBAGE = [
    b"",
    b"\0",
    b"\xc1",
    b"{}",
    b"<html>",
    encode(1),
    encode([]),
    encode([1]),
    encode([2, 1, None]),
    encode([1, -1]),
    encode([1, "x", None]),
    encode([1, [[1]]]),
    encode([1, [b"short"], []]),
    encode([1, [], [b"short"]]),
    encode([1, [[99, bytes(32)]]]),
    encode([1, [], [], []]),
    encode([1, b"", []]),
    encode([1, True, None]) + b"\0",
    b"\xdd\xff\xff\xff\xff",
    b"\x91" * 100_000,
    b"\xc6\xff\xff\xff\xff",
    *(_r.randbytes(_r.randrange(1, 300)) for _ in range(20)),
]


def post(server: RunningServer, name: str, body, **headers: str) -> requests.Response:
    headers["Authorization"] = f"Bearer {server.token('bad')}"
    return requests.post(f"{server.base}/bad/v1/{name}", data=body, headers=headers)


def kind_of(response: requests.Response) -> str:
    error = decode_error(response.content)
    assert error is not None, (response.status_code, response.content[:200])
    return error.kind


@pytest.mark.parametrize("name", MESSAGES)
def test_garbage_messages_are_invalid(server: RunningServer, name: str) -> None:
    """Bytes that are no message get 400 and the kind invalid, on every endpoint."""
    for body in GARBAGE:
        response = post(server, name, body)
        if name == "log" and body == encode([1, 0]):
            continue
        assert (response.status_code, kind_of(response)) == (400, "invalid"), body[:40]


def frame(kind: int, body: bytes) -> bytes:
    return (len(body) + 1).to_bytes(4, "big") + bytes([kind]) + body


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param(b"\0\0", 422, id="half a length"),
        pytest.param(b"\0\0\0\0", 413, id="a frame without a type"),
        pytest.param(b"\xff\xff\xff\xff\1", 413, id="a frame of 4 GiB"),
        pytest.param(frame(1, b"x")[:-1], 422, id="half a frame"),
        pytest.param(frame(99, b""), 422, id="an unknown type"),
        pytest.param(frame(1, b"garbage"), 400, id="a pack of garbage"),
        pytest.param(frame(1, encode([b"\1", [5], True, b"no zstd"])), 422, id="not zstd"),
        pytest.param(frame(1, encode([b"\1", [5], False, b"abc"])), 422, id="wrong size"),
        pytest.param(frame(2, encode([b"\1", [5], [], b"no"])), 422, id="a delta of garbage"),
        pytest.param(frame(2, encode([b"\1", [5], [bytes(32)], b""])), 404, id="an absent base"),
        pytest.param(frame(3, b"not zstd"), 422, id="a patch of garbage"),
        pytest.param(frame(4, encode([[b"manifest"], []])), 400, id="a manifest of garbage"),
        pytest.param(frame(4, encode([])), 400, id="no manifests"),
        pytest.param(frame(5, encode([[], "why"])), 400, id="no moves"),
        pytest.param(frame(5, encode([[["x", None, None]], "why"])), 400, id="a bad ref name"),
        pytest.param(
            frame(5, encode_announcement(Announcement([("main", None, b"x" * 32)], ""))),  # type: ignore[list-item]
            404,
            id="an absent manifest",
        ),
        pytest.param(frame(7, encode([1, "invalid", "text", None])), 400, id="an error"),
        pytest.param(frame(6, encode([0])) + frame(6, encode([0])), 422, id="after the end"),
    ],
)
def test_garbage_frames_are_refused(server: RunningServer, body: bytes, status: int) -> None:
    """A stream that no sender writes is refused with its kind, and never 500."""
    response = post(server, f"frames/{SESSION}", body)
    assert (response.status_code, kind_of(response) != "unavailable") == (status, True)


def test_random_frames_are_refused(server: RunningServer) -> None:
    """Random bytes, and random bodies of every type, get a status below 500."""
    r = random.Random(8)
    for number in range(150):
        body = r.randbytes(r.randrange(1, 200))
        sent = body if number % 3 == 0 else frame(r.randrange(1, 8), body)
        response = post(server, f"frames/{SESSION}", sent)
        assert response.status_code in (200, 400, 404, 413, 422), sent
    assert "defect" not in server.log()


@pytest.mark.parametrize("session", ["0", "AB" * 16, "zz" * 16, "ab" * 17, "ab" * 15, "%00" * 16])
def test_a_bad_session_is_invalid(server: RunningServer, session: str) -> None:
    """A session is 32 hex digits in lower case."""
    response = post(server, f"frames/{session}", b"")
    assert (response.status_code, kind_of(response)) == (400, "invalid")


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("name", MESSAGES)
def test_large_messages_are_refused(server: RunningServer, name: str, chunked: bool) -> None:
    """A message above its limit is refused, also when its length is not announced."""
    body = b"\0" * ((FETCH_BYTES_MAX if name == "fetch" else MESSAGE_BYTES_MAX) + 1)
    response = post(server, name, iter([body]) if chunked else body)
    assert (response.status_code, kind_of(response)) == (413, "too_large")


def test_large_parts_are_refused(tmp_path: Path) -> None:
    """A part of much more than the advertised size is refused while it comes."""
    mine = MemoryStore()
    with running_server(tmp_path / "data", part_bytes=1 << 20) as server:
        first = commit(mine, {b"f%d" % i: os.urandom(90_000) for i in range(40)})
        pieces = [encode_frame(f) for f in send_manifests(mine, order_new(mine, [first], set()))]
        response = post(server, f"frames/{SESSION}", iter(pieces))
        assert (response.status_code, kind_of(response)) == (413, "too_large")
        remote = server.connect("bad")
        assert remote.hello(Hello(1, None)).limits.part_bytes == 1 << 20
        assert remote.hello(Hello(1, None)).refs == {}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/acme", 404),
        ("POST", "/acme/v1/nothing", 404),
        ("POST", "/acme/v2/hello", 404),
        ("POST", "/acme/v1/hello/", 404),
        ("GET", "/acme/v1/hello", 405),
        ("PUT", "/acme/v1/hello", 405),
        ("POST", "/healthz", 405),
    ],
)
def test_other_paths_and_methods(
    server: RunningServer, method: str, path: str, status: int
) -> None:
    """What is no route gets a message too."""
    response = requests.request(method, server.base + path)
    assert (response.status_code, kind_of(response)) == (status, "not_found")


def test_healthz_needs_no_token(server: RunningServer) -> None:
    response = requests.get(f"{server.base}/healthz")
    assert (response.status_code, response.text) == (200, "ok\n")


def test_hello_of_a_later_version_is_answered_with_ours(server: RunningServer) -> None:
    """A client that speaks more is served what both speak."""
    assert server.connect("bad").hello(Hello(9, None)).version == 1
    assert post(server, "hello", encode_hello(Hello(1, (5, bytes(32))))).status_code == 200


def lines(text: str) -> Iterator[dict]:
    for line in text.splitlines():
        yield json.loads(line)


def test_the_log_names_and_shows_no_secret(tmp_path: Path) -> None:
    """One line a request, with who and how much, and no token in it; SIGTERM ends with 0."""
    mine = MemoryStore()
    with running_server(tmp_path / "data", log_format="json") as server:
        remote = server.connect()
        push(remote, mine, commit(mine, {b"a": b"1"}))
        wrong = "gs_" + "B" * 43
        requests.post(
            f"{server.base}/hidden/v1/hello", headers={"Authorization": f"Bearer {wrong}"}
        )
        requests.get(f"{server.base}/healthz?token={wrong}")
        remote.close()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
        assert server.token() not in server.log() and wrong not in server.log()
        assert "hidden" not in server.log()
    first, second, third = lines(server.log())
    assert {k: first[k] for k in ("event", "method", "path", "tenant", "token", "status")} == {
        "event": "request",
        "method": "POST",
        "path": "/{tenant}/v1/frames/{session}",
        "tenant": "acme",
        "token": "write",
        "status": 200,
    }
    assert first["bytes_in"] > 100 and first["bytes_out"] > 10 and first["seconds"] > 0
    assert (second["tenant"], second["status"], second["error"]) == (None, 401, "denied")
    assert (third["path"], third["status"]) == ("/healthz", 200)


def test_the_data_directory_is_private(server: RunningServer) -> None:
    """Directories are 0700 and files 0600."""
    mine = MemoryStore()
    push(server.connect("private"), mine, commit(mine, {b"a": b"1"}))
    for path in server.data.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_slow_pushers_block_nobody(server: RunningServer) -> None:
    """Clients that stop in the middle of a request do not keep others waiting."""
    head = (
        f"POST /slow/v1/frames/{SESSION} HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {server.token('slow')}\r\nContent-Length: 1000\r\n\r\n\0"
    )
    mine = MemoryStore()
    address = ("127.0.0.1", server.port)
    stalled = [socket.create_connection(address) for _ in range(60)]
    try:
        for number, each in enumerate(stalled):
            each.sendall(head.encode() if number % 2 else head.encode()[:50])
        time.sleep(0.3)
        started = time.monotonic()
        remote = server.connect("slow")
        push(remote, mine, commit(mine, {b"a": b"1"}))
        assert remote.hello(Hello(1, None)).refs.keys() == {"main"}
        assert time.monotonic() - started < 5
    finally:
        for each in stalled:
            each.close()


def test_a_broken_request_head_is_refused(server: RunningServer) -> None:
    """What is no HTTP gets 400 and a closed connection."""
    with closing(socket.create_connection(("127.0.0.1", server.port))) as raw:
        raw.settimeout(10)
        raw.sendall(b"\x16\x03\x01 this is TLS\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 400")
        while raw.recv(1000):
            pass


def test_an_error_is_of_its_kind_at_the_client(server: RunningServer) -> None:
    """The kind, the text and the hint of an error arrive as they were raised."""
    with pytest.raises(Invalid, match="pack frame"):
        server.connect("bad").frames(b"s" * 16, lambda: [Frame(FrameType.PACK, encode([1]))])
