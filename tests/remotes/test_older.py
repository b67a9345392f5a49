"""The client of older peers: tokens, retries, and what each answer means."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support import require
from support_older import (
    API_TOKEN,
    DIRECT,
    RELAY,
    TENANT,
    Handler,
    Older,
    answer,
    cut,
    hang_up,
    running_older,
    status,
)

from gsync.errors import Corrupt, Denied, GsyncError, NotFound, TooLarge, Unavailable
from gsync.remotes.older import OlderPeer, PeerAnswered, RetryConfig, is_retried
from gsync.urls import InvalidUrl, PeerUrl, parse_url

ALL = ("agents", "skills", "content", "config")


@contextmanager
def peer(
    older: Older, *, relay: bool = False, token: str | None = API_TOKEN, **more: Any
) -> Iterator[tuple[OlderPeer, list[float]]]:
    waits: list[float] = []
    url = PeerUrl(older.base, TENANT if relay else None)
    made = OlderPeer(url, token, stall_s=2, sleep=waits.append, rand=lambda: 0.0, **more)
    try:
        yield made, waits
    finally:
        made.close()


@pytest.fixture
def older() -> Iterator[Older]:
    require("server")
    with running_older() as running:
        yield running


def get(made: OlderPeer) -> bytes:
    out = io.BytesIO()
    assert made.download(ALL, out) == len(out.getvalue())
    return out.getvalue()


def put(made: OlderPeer, older: Older) -> dict[str, Any]:
    data = older.archive()
    return made.upload(io.BytesIO(data), len(data))


def test_paths_and_tokens(older: Older) -> None:
    """A tenant's host gets what it gave for our token, the control plane gets ours."""
    older.files = {"agents/a": b"1"}
    with peer(older) as (made, _):
        for _ in range(3):
            assert put(made, older)["files_uploaded"] == 1
        assert get(made) == older.archive(ALL)
    assert set(older.asked) == {f"POST {DIRECT}", f"GET {DIRECT}"}
    (form,) = older.exchanges
    assert form == {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": API_TOKEN,
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "client_id": "sp_web",
    }
    older.asked.clear()
    with peer(older, relay=True) as (made, _):
        put(made, older)
        get(made)
    assert older.asked == [f"POST {RELAY}", f"GET {RELAY}"]
    assert len(older.exchanges) == 1


def test_a_token_is_used_until_shortly_before_its_end(older: Older) -> None:
    """300 s less 30, by the clock from before it was asked for."""
    clock = [1000.0]
    with peer(older, now=lambda: clock[0]) as (made, _):
        get(made)
        clock[0] += 269
        get(made)
        assert len(older.exchanges) == 1
        clock[0] += 2
        get(made)
        assert len(older.exchanges) == 2


def test_a_stale_token_is_exchanged_again_once(older: Older) -> None:
    """One 401 costs no attempt and no wait; a second one is the end."""
    with peer(older, retry=RetryConfig(max_attempts=1)) as (made, waits):
        get(made)
        older.given = []  # as after a restart
        older.faults = [status(401)]
        get(made)
        assert (len(older.exchanges), waits) == (2, [])
        older.faults = [status(401), status(401)]
        with pytest.raises(Denied) as caught:
            get(made)
        assert (len(older.exchanges), waits) == (3, [])
        assert API_TOKEN not in str(caught.value) + str(caught.value.details)


def test_no_token_no_call(older: Older) -> None:
    """What refuses an exchange is told to the caller; nothing is sent without a token, or twice."""
    older.gives_token = False
    with peer(older) as (made, waits), pytest.raises(Denied, match="answered 403"):
        put(made, older)
    assert (older.asked, waits, len(older.exchanges)) == ([], [], 1)


def test_a_relay_has_nothing_to_exchange(older: Older) -> None:
    """401 there is final."""
    older.faults = [status(401)]
    with peer(older, relay=True) as (made, waits), pytest.raises(Denied):
        put(made, older)
    assert (len(older.asked), waits) == (1, [])


def test_what_is_tried_again(older: Older) -> None:
    """429, 502, 503, 504 and cut connections are; each attempt sends the same bytes."""
    older.faults = [status(502), status(503), hang_up, status(504)]
    with peer(older, relay=True) as (made, waits):
        put(made, older)
    assert waits == [2, 4, 8, 16]
    assert len(older.bodies) == 5 and len(set(older.bodies)) == 1


@pytest.mark.parametrize("code", [400, 403, 404, 409, 422, 500, 501])
def test_what_is_not(older: Older, code: int) -> None:
    """Everything else is said at once, as the kind that the status means."""
    older.faults = [status(code)]
    with peer(older, relay=True) as (made, waits), pytest.raises(PeerAnswered) as caught:
        put(made, older)
    assert (caught.value.status, len(older.asked), waits) == (code, 1, [])
    assert not is_retried(caught.value)
    assert isinstance(caught.value, NotFound) == (code == 404)


def test_the_end_of_patience(older: Older) -> None:
    """Exactly as many attempts as there may be; the last status and its body are said."""
    older.faults = [status(503)] * 9
    with peer(older, relay=True) as (made, waits), pytest.raises(Unavailable) as caught:
        get(made)
    assert len(older.asked) == 5 and waits == [2, 4, 8, 16]
    assert "503" in str(caught.value) and "fault" in str(caught.value)
    with (
        peer(older, relay=True, retry=RetryConfig(max_attempts=0)) as (made, _),
        pytest.raises(PeerAnswered) as error,
    ):
        get(made)
    assert error.value.status == 503 and len(older.asked) == 5


def test_retry_after(older: Older) -> None:
    """What the peer asks for is waited, if it is no more than two minutes."""
    older.faults = [status(429, Retry_After="7"), status(429, Retry_After="1")]
    with peer(older, relay=True) as (made, waits):
        get(made)
        assert waits == [7, 4]
        older.faults = [status(429, Retry_After="7200")]
        with pytest.raises(Unavailable):
            get(made)
        assert waits == [7, 4]


def test_delays() -> None:
    """2, 4, 8, 16, then 30; nothing stays nothing; a base of one is flat; no overflow."""
    config, delay, found = RetryConfig(), 2.0, []
    for _ in range(5):
        delay = config.next_delay(delay)
        found.append(delay)
    assert found == [4, 8, 16, 30, 30]
    assert config.next_delay(0.0) == 0
    assert RetryConfig(exponential_base=1.0).next_delay(2.0) == 2
    assert RetryConfig(exponential_base=1e300).next_delay(1e300) == 30


def test_jitter(older: Older) -> None:
    """Chance takes off the share that is set, and no more."""
    older.faults = [status(503)]
    waits: list[float] = []
    made = OlderPeer(
        PeerUrl(older.base, TENANT), API_TOKEN, retry=RetryConfig(jitter=0.5),
        sleep=waits.append, rand=lambda: 1.0,
    )  # fmt: skip
    get(made)
    made.close()
    assert waits == [1.0]


@pytest.mark.parametrize("count", [0, 1, 10, 100, 200])
def test_a_download_that_is_cut(older: Older, count: int) -> None:
    """Wherever it ends, it is asked for again; what was written of it is gone."""
    older.files = {"agents/a": bytes(range(256)) * 8}
    older.faults = [cut(count)]
    with peer(older, relay=True) as (made, waits):
        assert get(made) == older.archive(ALL)
    assert waits == [2]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"files_uploaded": "x"}', b"\xff"])
def test_a_good_status_with_a_bad_answer(older: Older, body: bytes) -> None:
    """The upload arrived: it is not sent again, and the error says what to do."""
    older.faults = [answer(body)]
    with peer(older, relay=True) as (made, waits), pytest.raises(Corrupt) as caught:
        put(made, older)
    assert (len(older.asked), waits) == (1, [])
    assert "gsync sync" in (caught.value.hint or "")


def test_too_large(older: Older) -> None:
    """413 is said with the limit that the older server has."""
    older.files, older.limit_bytes = {"agents/a": b"x"}, 10
    with peer(older, relay=True) as (made, _), pytest.raises(TooLarge) as caught:
        put(made, older)
    assert "2 MiB" in (caught.value.hint or "")


def test_nobody_there() -> None:
    """A refused connection is tried as often as the rest."""
    waits: list[float] = []
    made = OlderPeer(PeerUrl("http://127.0.0.1:1", "t"), "x", sleep=waits.append)
    with pytest.raises(GsyncError, match="refused"):
        get(made)
    made.close()
    assert len(waits) == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tarball+https://Acme.example.org/", PeerUrl("https://acme.example.org", None)),
        ("tarball+http://localhost:81", PeerUrl("http://localhost:81", None)),
        ("relay+https://api.example.org/T%2f1", PeerUrl("https://api.example.org", "T/1")),
        ("tarball+http://example.org", None),
        ("relay+http://example.org/t", None),
        ("relay+https://example.org", None),
        ("relay+https://example.org/a/b", None),
        ("tarball+https://example.org/t", None),
        ("tarball+https://me:pw@example.org", None),
        ("tarball+ftp://example.org", None),
        ("other+https://example.org/t", None),
    ],
)
def test_urls(text: str, expected: PeerUrl | None) -> None:
    """Each names its transport; what would show a token or is none is refused."""
    if expected is None:
        with pytest.raises(InvalidUrl):
            parse_url(text)
    else:
        assert parse_url(text) == expected
        assert parse_url(str(expected)) == expected


@pytest.mark.parametrize("relay", [False, True])
def test_a_token_that_is_repeated_is_not_shown(older: Older, relay: bool) -> None:
    """A server that quotes a token in its answer does not get it into our message."""

    def quoting(handler: Handler) -> bool:
        handler.say(403, f"bad: {handler.headers['Authorization']} {API_TOKEN}".encode())
        return True

    older.faults = [quoting]
    with peer(older, relay=relay) as (made, _), pytest.raises(Denied, match="bad: ") as caught:
        get(made)
    for token in (API_TOKEN, *older.given):
        assert token not in str(caught.value)
