"""Through HTTP, stores become what they would become without it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from proxy import Proxy
from support_server import (
    RunningServer,
    clone,
    commit,
    push,
    random_tree,
    running_server,
)

from gsync.errors import Conflict, NotFound, Unavailable
from gsync.objects.oid import Kind, ObjectId
from gsync.protocol.frames import Frame, FrameType
from gsync.protocol.messages import Begin, Fetch, Hello
from gsync.remotes.http import HttpRemote
from gsync.remotes.local import LocalRemote
from gsync.store.memory import MemoryStore
from gsync.store.sqlite import SqliteStore
from gsync.transfer.answer import Answerer
from gsync.transfer.history import order_new
from gsync.transfer.negotiate import take_stream
from gsync.transfer.receive import Receiver
from gsync.transfer.resume import left_to_send
from gsync.transfer.send import send_manifests


def bodies(store: MemoryStore) -> dict:
    return dict(store._bodies)


def local(store: MemoryStore) -> LocalRemote:
    return LocalRemote(Answerer(store, "tester", lambda: time.time_ns() // 1000))


@pytest.mark.parametrize("count", [0, 1, 400])
def test_http_equals_local(server: RunningServer, count: int) -> None:
    """Push, push again, clone and fetch bring the same objects by HTTP and by path."""
    mine, other = MemoryStore(), MemoryStore()
    tree = random_tree(count, count)
    first = commit(mine, tree)
    second = commit(mine, {**tree, b"new": b"content"}, (first,))
    tenant = f"equal{count}"
    http, path = server.connect(tenant), local(other)
    for remote in (http, path):
        push(remote, mine, first)
        push(remote, mine, second, first)
    by_http, main = clone(http)
    by_path, _ = clone(path)
    assert main == second
    assert bodies(by_http) == bodies(by_path)
    assert set(bodies(by_http)) >= set(bodies(mine))
    frames = list(http.fetch(Fetch([second], [first])))
    assert frames == list(path.fetch(Fetch([second], [first])))
    wants = [(Kind.MANIFEST, first), (Kind.BLOB, ObjectId(mine.put(Kind.BLOB, b"content")))]
    assert [f.type for f in http.objects(wants)] == [
        *(FrameType.PACK, FrameType.MANIFESTS),
        FrameType.END,
    ]
    assert http.log(0) == http.hello(Hello(1, None)).entries
    http.close()


def test_bytes_are_what_a_proxy_counts(server: RunningServer) -> None:
    """Counted bytes agree with a proxy's within 1 %; in fact they are equal."""
    mine = MemoryStore()
    first = commit(mine, random_tree(1, 300))
    with Proxy(server.port) as proxy:
        remote = server.connect("counted", base=proxy.base)
        push(remote, mine, first)
        clone(remote)
        with pytest.raises(NotFound):
            remote.fetch(Fetch([ObjectId(b"x" * 32)], []))
        assert proxy.connections == 1
        assert (remote.traffic.bytes_sent, remote.traffic.bytes_received) == (
            proxy.sent,
            proxy.received,
        )
        assert remote.traffic.bytes_sent > 200_000
        remote.close()


def test_nothing_to_do_costs_one_trip_and_little(server: RunningServer) -> None:
    """A hello that finds nothing new is one round trip of less than 1200 bytes both ways."""
    mine = MemoryStore()
    remote = server.connect("idle")
    push(remote, mine, commit(mine, {b"a": b"b"}))
    head = remote.hello(Hello(1, None)).head
    remote = server.connect("idle")
    assert remote.hello(Hello(1, head)).entries == []
    assert remote.traffic.round_trips == 1
    assert remote.traffic.bytes_sent + remote.traffic.bytes_received < 1200


def test_parts_of_a_push_are_one_trip(server: RunningServer) -> None:
    """Hello, begin and any number of parts are three dependent requests."""
    mine = MemoryStore()
    first = commit(mine, random_tree(2, 500))
    contents = list(send_manifests(mine, order_new(mine, [first], set())))
    remote, session = server.connect("parts"), b"p" * 16
    remote.hello(Hello(1, None))
    assert remote.begin(Begin(session, [])) == set()
    for at in range(len(contents) - 1):
        remote.frames(session, partial(list, contents[at : at + 1]))
    held = server.connect("parts").begin(Begin(session, []))
    assert list(left_to_send(contents, held)) == contents[-1:]
    push(remote, mine, first, session=session)
    assert remote.traffic.round_trips == 3
    assert clone(remote)[1] == first


def test_a_ref_that_moved_is_a_conflict(server: RunningServer) -> None:
    """A push against an old value is refused, and the ref stays."""
    mine = MemoryStore()
    first, second = commit(mine, {b"a": b"1"}), commit(mine, {b"a": b"2"})
    remote = server.connect("moved")
    push(remote, mine, first)
    with pytest.raises(Conflict, match="main has moved"):
        push(remote, mine, second)
    assert remote.hello(Hello(1, None)).refs == {"main": first}


def test_a_cut_connection_is_tried_again(server: RunningServer) -> None:
    """A push and a hello whose connection is cut succeed at a later attempt."""
    mine = MemoryStore()
    first = commit(mine, random_tree(3, 300))
    with Proxy(server.port) as proxy:
        proxy.drop, proxy.cut_sent = 2, 100_000
        remote = server.connect("cut", base=proxy.base)
        push(remote, mine, first)
        assert remote.traffic.bytes_sent >= proxy.sent  # what a cut swallowed was sent, too
        proxy.reset()
        proxy.cut_received = 100_000
        with pytest.raises(Unavailable, match="broke off"):
            clone(remote)
        assert bodies(clone(remote)[0]).keys() >= bodies(mine).keys()
        remote.close()


def test_a_killed_server_keeps_its_refs(tmp_path: Path) -> None:
    """A kill -9 in the middle of a push moves nothing, and the push works when repeated."""
    mine = MemoryStore()
    first = commit(mine, {b"a": b"1"})
    second = commit(mine, random_tree(4, 2000), (first,))
    with running_server(tmp_path / "data") as server:
        push(server.connect(), mine, first)

        def frames() -> Iterator[Frame]:
            for count, frame in enumerate(send_manifests(mine, [second])):
                yield frame
                if count == 10:
                    server.kill()

        remote = server.connect()
        with pytest.raises(Unavailable):
            remote.frames(b"k" * 16, frames)
        port, tokens = server.port, server.tokens
    with running_server(tmp_path / "data", port=port) as server:
        server.tokens = tokens
        assert remote.hello(Hello(1, None)).refs == {"main": first}
        push(remote, mine, second, first)
        assert bodies(clone(remote)[0]).keys() >= {second}
        remote.close()
    store = SqliteStore.open(tmp_path / "data/tenants/acme/store.db")
    assert store.find_ref("main") == second
    store.close()


def test_many_clients_fetch_at_once(server: RunningServer) -> None:
    """Twenty clones at a time each bring everything."""
    mine = MemoryStore()
    first = commit(mine, random_tree(5, 200))
    push(server.connect("many"), mine, first)

    def run(number: int) -> int:
        remote = server.connect("many")
        copy = clone(remote)[0]
        remote.close()
        return len(bodies(copy).keys() & bodies(mine).keys())

    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(run, range(40))) == {len(bodies(mine))}


def test_an_interrupted_reader_frees_its_connection(server: RunningServer) -> None:
    """A stream that is given up leaves the server and the client able to go on."""
    mine = MemoryStore()
    first = commit(mine, random_tree(6, 3000))
    remote = server.connect("given-up")
    push(remote, mine, first)
    stream = remote.fetch(Fetch([first], []))
    next(iter(stream))
    stream.close()  # type: ignore[attr-defined]
    assert clone(remote)[1] == first
    receiver = Receiver(MemoryStore())
    assert take_stream(receiver, remote.fetch(Fetch([first], []))) > 3
    assert isinstance(remote, HttpRemote)
