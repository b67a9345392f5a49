"""How often the client tries, how long it waits, and what it makes of answers that are not ours."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest
from support import require

from gsync.errors import (
    Conflict,
    Corrupt,
    Denied,
    GsyncError,
    Invalid,
    NotFound,
    TooLarge,
    Unavailable,
)
from gsync.protocol.frames import Frame, FrameType, StreamBroken, encode_frame
from gsync.protocol.messages import (
    Hello,
    Limits,
    Taken,
    Welcome,
    encode_error,
    encode_taken,
    encode_welcome,
)
from gsync.remotes.base import Traffic
from gsync.remotes.connection import Connection
from gsync.remotes.http import ATTEMPTS_MAX, HttpRemote, ServerBusy

WELCOME = encode_welcome(Welcome(1, Limits(), {}, None, []))
OURS = "application/x-gsync"
RESET = b"\1\0\0\0\0\0\0\0"  # SO_LINGER of 0 s: closing resets


def answer(status: int, body: bytes, kind: str = OURS, *more: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", "Connection: close", f"Content-Length: {len(body)}"]
    lines += [f"Content-Type: {kind}", *more]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Script:
    """A server that does one thing for each request, in order: bytes to send, or what to do."""

    def __init__(self, steps: list[bytes | str]) -> None:
        self.steps = list(steps)
        self.requests: list[bytes] = []
        self.waits: list[float] = []
        self.done = threading.Event()

    def serve(self, listener: socket.socket) -> None:
        while not self.done.is_set():
            try:
                client, _ = listener.accept()
            except OSError:
                continue
            with client:
                client.settimeout(10)
                self._serve_one(client)

    def _serve_one(self, client: socket.socket) -> None:
        head = b""
        try:
            while b"\r\n\r\n" not in head:
                piece = client.recv(65536)
                if not piece:
                    return
                head += piece
            head, _, body = head.partition(b"\r\n\r\n")
            if b"chunked" in head:
                while not body.endswith(b"0\r\n\r\n"):
                    body += _more(client)
            elif not head.startswith(b"CONNECT "):
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                while len(body) < length:
                    body += _more(client)
        except OSError:
            return
        self.requests.append(head + b"\r\n\r\n" + body)
        step = self.steps.pop(0) if self.steps else answer(500, b"the script ended")
        if step == "stall":
            client.recv(1)  # until the client has had enough
        elif step == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        elif isinstance(step, bytes):
            client.sendall(step)


def _more(client: socket.socket) -> bytes:
    piece = client.recv(65536)
    if not piece:
        raise ConnectionError("the client has gone")
    return piece


@contextmanager
def scripted(
    *steps: bytes | str, rand: Callable[[], float] = lambda: 0.0, token: str | None = "gs_secret"
) -> Iterator[tuple[HttpRemote, Script]]:
    require("proxy")
    script = Script(list(steps))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        thread = threading.Thread(target=script.serve, args=(listener,), daemon=True)
        thread.start()
        remote = HttpRemote(
            f"http://127.0.0.1:{listener.getsockname()[1]}/acme",
            token,
            stall_s=0.5,
            sleep=script.waits.append,
            rand=rand,
        )
        try:
            yield remote, script
        finally:
            remote.close()
            script.done.set()
            thread.join(15)
            assert not thread.is_alive()


HELLO = Hello(1, None)
GOOD = answer(200, WELCOME)
CHUNKED = (
    f"HTTP/1.1 200 X\r\nContent-Type: {OURS}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    + b"%x\r\n%b\r\n0\r\n\r\n" % (len(WELCOME), WELCOME)
)


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param("reset", id="connection reset"),
        pytest.param("close", id="closed without an answer"),
        pytest.param("stall", id="no byte for too long"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Le", id="cut in the head"),
        pytest.param(GOOD[: GOOD.index(b"-gsync")], id="cut in the type"),
        pytest.param(GOOD[: GOOD.index(b"\r\n\r\n")], id="cut before the end of the head"),
        pytest.param(CHUNKED[: CHUNKED.index(b"unked")], id="cut before the length is known"),
        pytest.param(CHUNKED[: CHUNKED.index(b"\r\n\r\n") + 4], id="cut before the first chunk"),
        pytest.param(GOOD[:-3], id="cut in the body"),
        pytest.param(b"not HTTP at all\r\n\r\n", id="not HTTP"),
        pytest.param(answer(503, b"busy", "text/plain"), id="503 of a proxy"),
        pytest.param(answer(502, b"", "text/html"), id="502"),
        pytest.param(answer(429, b"", "text/html"), id="429"),
        pytest.param(answer(408, b"", "text/html"), id="408"),
        pytest.param(answer(500, encode_error(Unavailable("x"))), id="500 of ours"),
    ],
)
def test_what_is_unavailable_is_tried_five_times(bad: bytes | str) -> None:
    """Four failures and a success are a success; five failures are the last one's error."""
    with scripted(*[bad] * (ATTEMPTS_MAX - 1), GOOD) as (remote, script):
        assert remote.hello(HELLO).refs == {}
        assert len(script.requests) == ATTEMPTS_MAX == 5
        assert remote.traffic.round_trips == 1
    with scripted(*[bad] * (ATTEMPTS_MAX + 1)) as (remote, script):
        with pytest.raises(Unavailable):
            remote.hello(HELLO)
        assert len(script.requests) == ATTEMPTS_MAX
        assert len(script.waits) == ATTEMPTS_MAX - 1


@pytest.mark.parametrize("error", [Invalid, Denied, NotFound, Conflict, TooLarge, Corrupt])
def test_nothing_else_is_tried_again(error: type[GsyncError]) -> None:
    """The other kinds are raised at once, with their text and hint, whatever the status."""
    sent = error("what happened", hint="what to do")
    with scripted(answer(503, encode_error(sent)), GOOD) as (remote, script):
        with pytest.raises(error, match="what happened") as caught:
            remote.hello(HELLO)
        assert (caught.value.hint, len(script.requests), script.waits) == ("what to do", 1, [])


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Invalid),
        (401, Denied),
        (403, Denied),
        (404, NotFound),
        (409, Conflict),
        (418, Invalid),
        (422, Corrupt),
        (200, Invalid),
    ],
)
def test_answers_of_something_else_are_named(status: int, kind: type[GsyncError]) -> None:
    """A page of a portal or a proxy gives the status's kind, and asks whether this is gsync."""
    with scripted(answer(status, b"<html>log in", "text/html; charset=x")) as (remote, script):
        with pytest.raises(kind, match="text/html") as caught:
            remote.hello(HELLO)
        assert "is this a gsync server" in (caught.value.hint or "")
        assert len(script.requests) == 1


def test_waits_grow_and_have_full_jitter() -> None:
    """Each wait is a random part of a bound that doubles."""
    bad = answer(502, b"", "text/html")
    with scripted(*[bad] * 5, rand=lambda: 1.0) as (remote, script):
        with pytest.raises(Unavailable):
            remote.hello(HELLO)
        assert script.waits == [1.0, 2.0, 4.0, 8.0]
    with scripted(*[bad] * 5, rand=lambda: 0.25) as (remote, script):
        with pytest.raises(Unavailable):
            remote.hello(HELLO)
        assert script.waits == [0.25, 0.5, 1.0, 2.0]


def test_retry_after_is_honoured() -> None:
    """Seconds and dates of Retry-After are waited at least; a very long one ends it."""
    busy = encode_error(Unavailable("busy"))
    with scripted(
        answer(503, busy, OURS, "Retry-After: 7"),
        answer(503, b"", "text/html", "Retry-After: Thu, 01 Jan 1970 00:00:00 GMT"),
        answer(503, b"", "text/html", "Retry-After: soon"),
        GOOD,
    ) as (remote, script):
        remote.hello(HELLO)
        assert script.waits == [7.0, 0.0, 0.0]
    with scripted(answer(503, busy, OURS, "Retry-After: 86400")) as (remote, script):
        with pytest.raises(ServerBusy):
            remote.hello(HELLO)
        assert (len(script.requests), script.waits) == (1, [])


def test_a_redirect_is_not_followed() -> None:
    """A redirect is an error that names where it leads; the token goes nowhere else."""
    moved = answer(302, b"", "text/html", "Location: http://evil.example/")
    with scripted(moved, GOOD) as (remote, script):
        with pytest.raises(Invalid, match="redirects to 'http://evil.example/'"):
            remote.hello(HELLO)
        assert len(script.requests) == 1


def test_a_push_is_sent_anew_with_each_attempt() -> None:
    """A stream that was cut is sent again from its first frame; it is made once."""
    frames = [Frame(FrameType.PACK, b"x" * 100_000), Frame(FrameType.END, b"y")]
    made = []

    def make() -> list[Frame]:
        made.append(1)
        return frames

    steps: list[bytes | str] = ["reset", answer(503, b""), answer(200, encode_taken(Taken(2, [])))]
    with scripted(*steps) as (remote, script):
        assert remote.frames(b"s" * 16, make) == Taken(2, [])
        assert len(made) == 1
        last = script.requests[-1]
        assert all(each.body in last for each in frames)
        assert f"/acme/v1/frames/{(b's' * 16).hex()} ".encode() in last


def test_what_fails_while_a_stream_is_made_is_not_the_networks_fault() -> None:
    """An error of the frames themselves is raised as it is, after one attempt."""

    def make() -> Iterator[Frame]:
        yield Frame(FrameType.END, b"")
        raise Corrupt("our own store")

    with scripted(GOOD) as (remote, script):
        with pytest.raises(Corrupt, match="our own store"):
            remote.frames(b"s" * 16, make)
        assert script.waits == []


PAGE_413 = answer(413, b"<html>too large", "text/html")


def test_a_proxys_limit_halves_the_requests() -> None:
    """What something in between refuses goes in smaller requests; nothing goes twice, all goes."""
    frames = [Frame(FrameType.PACK, bytes([n]) * 100_000) for n in range(8)]
    good = answer(200, encode_taken(Taken(2, [])))
    steps: list[bytes | str] = [PAGE_413, PAGE_413, good, good, good, good, good]
    with scripted(*steps) as (remote, script):
        assert remote.frames(b"s" * 16, lambda: frames) == Taken(2 * 4, [])
        assert remote.frames(b"s" * 16, lambda: frames[:2]) == Taken(2, [])
    there = [[n for n in range(8) if bytes([n]) * 100 in r] for r in script.requests]
    assert there[0] == list(range(8)) and there[1] == [0, 1, 2, 3]
    assert there[2:] == [[0, 1], [2, 3], [4, 5], [6, 7], [0, 1]]
    assert script.waits == []


def test_a_limit_below_one_frame_is_named() -> None:
    """Where nothing can be cut any more, the error says how much was refused, and which setting."""
    frames = [Frame(FrameType.PACK, b"x" * 100_000), Frame(FrameType.PACK, b"y" * 50_000)]
    with scripted(*[PAGE_413] * 3) as (remote, script):
        with pytest.raises(TooLarge, match="refuses a request of 100005 bytes") as caught:
            remote.frames(b"s" * 16, lambda: frames)
        assert "client_max_body_size" in (caught.value.hint or "")
        assert len(script.requests) == 2
        with pytest.raises(TooLarge, match="413") as caught:
            remote.hello(HELLO)
        assert "client_max_body_size" in (caught.value.hint or "")


def test_requests_begin_small_and_grow() -> None:
    """The first has what a proxy's usual limit lets through; each that is taken doubles it."""
    frames = [Frame(FrameType.PACK, bytes([n]) * 262_144) for n in range(20)]
    good = answer(200, encode_taken(Taken(1, [])))
    with scripted(*[good] * 9) as (remote, script):
        remote.frames(b"s" * 16, lambda: frames)
    assert [sum(bytes([n]) * 99 in r for n in range(20)) for r in script.requests] == [3, 7, 10]
    assert len(script.requests[0].partition(b"\r\n\r\n")[2]) < 1 << 20


def test_the_run_is_named() -> None:
    """Each request carries one id, and an error that the other side knows of shows it."""
    refusal = answer(403, encode_error(Denied("no")))
    with scripted(GOOD, refusal, answer(502, b"", "text/html"), GOOD) as (remote, script):
        remote.hello(HELLO)
        with pytest.raises(Denied) as caught:
            remote.hello(HELLO)
        remote.hello(HELLO)
        assert caught.value.details == {"run": remote.run_id}
        assert len(remote.run_id) == 16
        header = f"Gsync-Run: {remote.run_id}\r\n".encode()
        assert [r.count(header) for r in script.requests] == [1, 1, 1, 1]


def test_a_stream_that_breaks_off_is_the_readers_to_repeat() -> None:
    """A cut in the middle of an answer's frames is Unavailable, and not tried again."""
    from gsync.protocol.messages import Fetch

    end = encode_frame(Frame(FrameType.END, b"\x91\0"))
    with scripted(
        answer(200, end * 2)[: -len(end)], answer(200, end + end), answer(200, end), GOOD
    ) as (remote, script):
        with pytest.raises(Unavailable, match="broke off"):
            list(remote.fetch(Fetch([], [])))
        with pytest.raises(StreamBroken, match="after the end"):
            list(remote.fetch(Fetch([], [])))
        assert [f.type for f in remote.fetch(Fetch([], []))] == [FrameType.END]
        assert (script.waits, remote.traffic.round_trips) == ([], 3)


def test_the_token_goes_into_one_header() -> None:
    """The request has one Authorization header and few others; without a token, none."""
    with scripted(GOOD) as (remote, script):
        remote.hello(HELLO)
    names = sorted(line.split(b":")[0].lower() for line in script.requests[0].split(b"\r\n")[1:7])
    head = script.requests[0].partition(b"\r\n\r\n")[0]
    assert names[:2] == [b"authorization", b"content-length"]
    assert head.count(b"gs_secret") == 1
    assert len(head) < 300
    with scripted(GOOD, token=None) as (remote, script):
        remote.hello(HELLO)
    assert b"uthorization" not in script.requests[0]


def test_netrc_and_proxies_do_not_touch_loopback(monkeypatch: pytest.MonkeyPatch, sealed) -> None:
    """A login in ~/.netrc does not replace the token, and no proxy is asked for this machine."""
    (sealed / ".netrc").write_text("default login somebody password secret\n")
    (sealed / ".netrc").chmod(0o600)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with scripted(GOOD) as (remote, script):
        remote.hello(HELLO)
        assert b"Authorization: Bearer gs_secret" in script.requests[0]


@contextmanager
def behind_a_proxy(
    monkeypatch: pytest.MonkeyPatch, variable: str, url: str, *steps: bytes, user: str = ""
) -> Iterator[tuple[HttpRemote, Script]]:
    """A remote that only a proxy knows the address of, and the proxy."""
    with scripted(*steps) as (direct, script):
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.setenv(variable, direct.url.replace("/acme", "").replace("//", f"//{user}"))
        yield (
            HttpRemote(
                url, "gs_secret", insecure_http=True, sleep=script.waits.append, rand=lambda: 0.0
            ),
            script,
        )


@pytest.mark.parametrize("variable", ["http_proxy", "ALL_PROXY"])
def test_a_proxy_is_asked(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """A proxy of the environment gets the whole address, and a password of its own."""
    url = "http://sync.example.org:81/acme"
    with behind_a_proxy(monkeypatch, variable, url, GOOD, user="me:p%40ss@") as (remote, script):
        remote.hello(HELLO)
    head = script.requests[0].partition(b"\r\n\r\n")[0]
    assert head.startswith(b"POST http://sync.example.org:81/acme/v1/hello HTTP/1.1\r\n")
    assert b"Host: sync.example.org:81\r\n" in head
    assert b"Proxy-Authorization: Basic bWU6cEBzcw==" in head  # base64 of me:p@ss


def test_a_tunnel_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server with TLS is reached through a tunnel; what the proxy answers is said, no token."""
    url, refusal = "https://sync.example.org/acme", answer(403, b"", "text/plain")
    with (
        behind_a_proxy(monkeypatch, "https_proxy", url, *[refusal] * ATTEMPTS_MAX) as (
            remote,
            proxy,
        ),
        pytest.raises(Unavailable, match="Tunnel connection failed: 403"),
    ):
        remote.hello(HELLO)
    assert len(proxy.requests) == ATTEMPTS_MAX
    assert proxy.requests[0].startswith(b"CONNECT sync.example.org:443 HTTP/1.")
    assert b"gs_secret" not in b"".join(proxy.requests)


def test_proxies_that_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """`no_proxy` is honoured, and a proxy of an unknown kind is refused by name."""
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:1")
    with pytest.raises(Invalid, match="socks5"):
        HttpRemote("https://sync.example.org/acme", "gs_secret")
    monkeypatch.setenv("no_proxy", "example.org")
    HttpRemote("https://sync.example.org/acme", "gs_secret")


def test_an_answer_before_the_end_of_a_body() -> None:
    """A server that refuses a body while it comes, and closes, is understood."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(1000)
                client.sendall(answer(413, b"", "text/html"))
                client.shutdown(socket.SHUT_RD)
                client.recv(1)
                client.settimeout(10)
                while client.recv(1 << 16):
                    pass

        thread = threading.Thread(target=refuse, daemon=True)
        thread.start()
        connection = Connection(f"http://127.0.0.1:{listener.getsockname()[1]}", Traffic())
        with closing(connection):
            response = connection.request("POST", "/", {}, iter([bytes(1 << 20)] * 64))
            assert response.status == 413
            response.close()
        thread.join(15)
        assert not thread.is_alive()


def test_a_connection_that_ended_meanwhile_costs_no_attempt() -> None:
    """A server that closes between two requests, without having said so, is asked anew at once."""
    kept = GOOD.replace(b"Connection: close\r\n", b"")
    with scripted(kept, kept, kept) as (remote, script):
        for _ in range(3):
            remote.hello(HELLO)
            select.select([remote._connection._http.sock], [], [], 10)  # type: ignore[union-attr]
    assert (len(script.requests), script.waits) == (3, [])


def test_a_body_shorter_than_it_says() -> None:
    """An answer that ends before its length says broke off, however it is read."""
    cut = answer(200, b"x" * 1000)[:-900]
    with scripted(cut, cut) as (remote, _):
        with closing(Connection(remote.url, Traffic())) as connection:
            response = connection.request("POST", "/", {}, b"")
            pieces = response.stream()
            assert next(pieces) == b"x" * 100
            with pytest.raises(Unavailable, match="broke off"):
                next(pieces)
        with (
            closing(Connection(remote.url, Traffic())) as connection,
            pytest.raises(Unavailable, match="broke off"),
        ):
            connection.request("POST", "/", {}, b"").read_up_to(5000)


def test_what_a_body_raises_passes_through() -> None:
    """A store that cannot be read while it is sent is no fault of the connection."""

    def body() -> Iterator[bytes]:
        yield b"one"
        raise OSError(5, "a disk fault")

    with scripted() as (remote, script):
        connection = Connection(remote.url, Traffic())
        with closing(connection), pytest.raises(OSError, match="a disk fault"):
            connection.request("POST", "/", {}, body())
    assert script.requests == []


@pytest.mark.parametrize("token", ["gs_\nX: y", "gs_\u00e9"])
def test_a_token_that_is_none(token: str) -> None:
    """A token that would end its header is refused before anything is sent."""
    with pytest.raises(Denied, match="characters"):
        HttpRemote("https://sync.example.org/acme", token)


@pytest.mark.parametrize(
    ("url", "insecure"),
    [
        ("http://example.com/acme", False),
        ("http://127.0.0.1.example.com/acme", False),
        ("ftp://localhost/acme", True),
        ("/a/path", True),
        ("http://user:pass@localhost/acme", True),
        ("https://example.com/", True),
        ("https://example.com/a?b", True),
    ],
)
def test_urls_that_are_refused(url: str, insecure: bool) -> None:
    """What would show the token, or is no server, is refused before anything is sent."""
    with pytest.raises(Invalid):
        HttpRemote(url, "gs_secret", insecure_http=insecure)


def test_plain_http_can_be_allowed() -> None:
    """Loopback needs no leave, the rest takes it from the caller."""
    HttpRemote("http://localhost/acme", "gs_secret").close()
    HttpRemote("http://example.com/acme", "gs_secret", insecure_http=True).close()


def test_nobody_listening_is_unavailable() -> None:
    """A refused connection is Unavailable and says so."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    remote = HttpRemote(f"http://127.0.0.1:{port}/acme", None, sleep=lambda _: None)
    with pytest.raises(Unavailable, match="refused"):
        remote.hello(HELLO)
    remote.close()


@pytest.mark.parametrize("broken", [3, 100])
def test_attempts_are_counted_anew_after_progress(broken: int) -> None:
    """What gets further each time is tried for as long as it does, what does not five times."""
    with scripted() as (remote, script):
        done = 0

        def attempt() -> str:
            nonlocal done
            done += 1
            if done < 40:
                raise Unavailable("cut off")
            return "arrived"

        if broken > 40:
            assert remote.retry(attempt, lambda: min(done, broken)) == "arrived"
            assert len(script.waits) == 39
        else:
            with pytest.raises(Unavailable):
                remote.retry(attempt, lambda: min(done, broken))
            assert done == broken + ATTEMPTS_MAX - 1


def test_an_attempt_within_an_attempt_is_one() -> None:
    """Requests of an attempt that is tried again are not tried again by themselves."""
    with scripted(*["reset"] * (ATTEMPTS_MAX + 3)) as (remote, script):
        with pytest.raises(Unavailable):
            remote.retry(lambda: remote.hello(HELLO))
        assert len(script.requests) == ATTEMPTS_MAX
