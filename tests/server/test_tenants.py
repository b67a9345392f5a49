"""Nobody learns anything of a tenant but with its own token: equal answers, to the last byte.

Two worlds are compared: a server on which the other tenant has manifests, refs and sessions, and
one where it has nothing, or is not even there. Every request is sent to both with every token.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import requests
from support import require
from support_hostile import announce, end, honest, pack
from support_server import RunningServer, accounts, running_server

from gsync.objects.oid import Kind, ObjectId, object_id
from gsync.protocol.frames import encode_frame
from gsync.protocol.messages import (
    Begin,
    Fetch,
    Hello,
    encode_begin,
    encode_fetch,
    encode_hello,
    encode_log,
    encode_wants,
)
from gsync.transfer.answer import Answerer

STORE, ROOTS = honest()
THEIRS = ROOTS[-1].manifest
CONTENT = object_id(Kind.BLOB, b"one\n")
SESSION = b"\x51" * 16
ABSENT = ObjectId(b"\x99" * 32)


class Ask(NamedTuple):
    """A request, what it needs, and whether it names something of the other tenant's."""

    name: str
    path: str
    body: bytes
    writes: bool = False


def asks(manifest: ObjectId, content: ObjectId, session: bytes) -> list[Ask]:
    """Every route, with ids and a session that may be somebody's."""
    frames = f"frames/{session.hex()}"
    return [
        Ask("hello", "hello", encode_hello(Hello(1, None))),
        Ask("hello, seen", "hello", encode_hello(Hello(1, (1, bytes(manifest))))),
        Ask("log", "log", encode_log(0)),
        Ask("fetch", "fetch", encode_fetch(Fetch([manifest], []))),
        Ask("fetch, have", "fetch", encode_fetch(Fetch([], [manifest]))),
        Ask("objects", "objects", encode_wants([(Kind.MANIFEST, manifest)])),
        Ask("objects, a content", "objects", encode_wants([(Kind.BLOB, content)])),
        Ask("begin", "begin", encode_begin(Begin(session, [])), True),
        Ask("begin, base", "begin", encode_begin(Begin(session, [manifest])), True),
        Ask("frames", frames, end(0), True),
        Ask("frames, a move", frames, announce(("tags/t", None, manifest)), True),
        Ask("frames, main", frames, announce(("main", manifest, manifest)), True),
        Ask("nothing", "nothing", b""),
    ]


THERE = asks(THEIRS, CONTENT, SESSION)
NOT_THERE = asks(ABSENT, ABSENT, b"\x52" * 16)
CREDENTIALS = (
    *("none", "wrong", "no bearer", "own read", "own write", "own admin"),
    *("revoked", "expired", "unknown tenant's"),
)


@pytest.fixture(scope="module")
def full(sealed_environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """A server on which `theirs` has a history, a session with a part, and tokens."""
    require("server")
    with running_server(tmp_path_factory.mktemp("full") / "data") as server:
        frames = list(Answerer(STORE, "x", lambda: 1).fetch(Fetch([THEIRS], [])))[:-1]
        whole = b"".join(map(encode_frame, frames)) + announce(("main", None, THEIRS))
        for session, body in (("aa" * 16, whole), (SESSION.hex(), pack([(1, b"part")]))):
            answer = requests.post(
                f"{server.base}/theirs/v1/frames/{session}",
                data=body,
                headers={"Authorization": f"Bearer {server.token('theirs')}"},
            )
            assert answer.status_code == 200, answer.content
        yield server


@pytest.fixture(scope="module")
def secrets(full: RunningServer) -> dict[str, str]:
    """A header for every credential, none of which opens `theirs`."""
    with accounts(full.data) as there:
        revoked, token = there.add_token("theirs", "admin")
        there.revoke_token(token.id)
        expired, _ = there.add_token("theirs", "admin", expires_us=1)
    headers = {f"own {scope}": full.token("own", scope) for scope in ("read", "write", "admin")}
    headers |= {"revoked": revoked, "expired": expired, "wrong": "gs_" + "A" * 43}
    found = {name: f"Bearer {secret}" for name, secret in headers.items()}
    return found | {"no bearer": full.token("theirs"), "unknown tenant's": "Bearer x", "none": ""}


def answer(server: RunningServer, tenant: str, ask: Ask, header: str) -> tuple[object, ...]:
    """All of an answer but the date."""
    headers = {"Authorization": header} if header else {}
    response = requests.post(
        f"{server.base}/{tenant}/v1/{ask.path}", data=ask.body, headers=headers
    )
    said = tuple((k, v) for k, v in response.headers.items() if k.lower() != "date")
    return response.status_code, response.reason, said, response.content


@pytest.mark.parametrize("credential", CREDENTIALS)
def test_strangers_learn_nothing(
    full: RunningServer, secrets: dict[str, str], credential: str
) -> None:
    """What is there and what is not, a tenant that is and one that is not: the same answer."""
    header = secrets[credential]
    for there, not_there in zip(THERE, NOT_THERE, strict=True):
        found = {
            answer(full, tenant, ask, header)
            for tenant in ("theirs", "nobody", "empty")
            for ask in (there, not_there)
        }
        assert len(found) == 1, (there.name, found)
        status = found.pop()[0]
        assert status == (404 if there.name == "nothing" else 401), there.name


@pytest.mark.parametrize("scope", ["read", "write", "admin"])
def test_a_tenant_does_not_learn_what_another_has(full: RunningServer, scope: str) -> None:
    """In a tenant's own room, what another has is answered for as what nobody has.

    Names are the only difference between the answers: those that the request itself holds.
    """
    header = f"Bearer {full.token('second', scope)}"
    for there, not_there in zip(THERE, NOT_THERE, strict=True):
        theirs = answer(full, "second", there, header)
        nobodys = answer(full, "second", not_there, header)
        assert strip(theirs) == strip(nobodys), there.name
        if there.writes and scope == "read":
            assert theirs[0] == 403
    store = full.data / "tenants" / "second" / "store.db"
    assert store.exists()


def strip(said: tuple[object, ...]) -> tuple[object, ...]:
    """The answer without the ids of its request."""
    body = said[-1]
    assert isinstance(body, bytes)
    for oid in (THEIRS, CONTENT, ABSENT):
        body = body.replace(oid.hex().encode(), b"ID" * 32).replace(
            oid.hex()[:12].encode(), b"I" * 12
        )
    return (*said[:-1], body)


def test_no_answer_names_another_tenant(full: RunningServer, secrets: dict[str, str]) -> None:
    """Neither a name, nor a token's name, nor a path of the server is in any answer."""
    forbidden = re.compile(rb"theirs|" + re.escape(str(full.data).encode()))
    for ask in (*THERE, *NOT_THERE):
        for tenant in ("own", "second", "nobody"):
            for header in (*secrets.values(), f"Bearer {full.token('second', 'write')}"):
                said = answer(full, tenant, ask, header)
                assert not forbidden.search(repr(said[2]).encode() + said[3]), (ask.name, tenant)  # type: ignore[operator]


def test_what_a_stranger_asks_makes_nothing(full: RunningServer, secrets: dict[str, str]) -> None:
    """No directory comes into being for a tenant that a request only named."""
    for header in secrets.values():
        for ask in THERE:
            answer(full, "madeup", ask, header)
    names = {path.name for path in Path(full.data / "tenants").iterdir()}
    assert names <= {"theirs", "own", "second"}


def test_equal_contents_are_not_shared(full: RunningServer) -> None:
    """A tenant that names a content which only another has sent must send it itself."""
    lie = announce(("main", None, THEIRS))
    ask = Ask("move", f"frames/{'cd' * 16}", lie, True)
    said = answer(full, "second", ask, f"Bearer {full.token('second', 'write')}")
    assert said[0] == 404
