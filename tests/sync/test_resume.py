"""A transfer that is cut goes on: in one command, in the next, and when the server was away."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from campaigns.resume import slow_fetch, slow_push
from proxy import Proxy
from support import require
from support_cli import gsync_in, head, json_in, make_repository, read_tree, start, write
from support_server import RunningServer, running_server

from gsync.objects.oid import ObjectId
from gsync.protocol.messages import Fetch, Hello
from gsync.remotes.http import HttpRemote
from gsync.sync.exchange import Moved, clone, fetch, push
from gsync.sync.maintenance import verify
from gsync.sync.repository import Repository, init_repository, open_repository, snapshot
from gsync.transfer.resume import JOURNAL_BYTES, FrameNames

HELLO = Hello(1, None)

CUTS = 15
CUT_BYTES_MAX = 340_000
"""What a cut may cost: a frame of 256 KiB, 64 KiB that the server had not read, the requests."""

TENANTS = (f"r{n}" for n in range(1000))


@pytest.fixture(scope="module")
def server(
    sealed_environment: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    require("server")
    with running_server(tmp_path_factory.mktemp("server") / "data") as running:
        yield running


@pytest.fixture
def proxy(server: RunningServer) -> Iterator[Proxy]:
    require("proxy")
    with Proxy(server.port) as running:
        yield running


@pytest.fixture(scope="module")
def repo(
    sealed_environment: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Repository]:
    """A repository with noise, and files with names so long that their patches go on."""
    with repository(tmp_path_factory.mktemp("repo") / "one") as made:
        fill(made.root, 12, 1500)  # to begin anew costs more than all cuts may
        snapshot(made, "first")
        yield made


@contextmanager
def repository(folder: Path) -> Iterator[Repository]:
    init_repository(folder)
    with open_repository(folder) as made:
        yield made


def fill(folder: Path, mib: int, count: int = 0, seed: int = 1) -> None:
    r = random.Random(seed)
    content = {"large": r.randbytes(mib << 20)}
    long = "long" * 60
    content |= {f"d{n % 5}/{long}{n}": b"%d" % r.getrandbits(64) for n in range(count)}
    write(folder, content)


def connect(server: RunningServer, proxy: Proxy, tenant: str) -> HttpRemote:
    """A client that does not wait, nor give up: where cuts are near to each other none gets far."""
    url = f"{proxy.base}/{tenant}"
    return HttpRemote(url, server.token(tenant), attempts=CUTS + 2, sleep=lambda _: None)


def passed(proxy: Proxy, act: Callable[[], Moved]) -> tuple[int, ObjectId | None]:
    """What passed the proxy, and where the ref is."""
    proxy.reset()
    moved = act()
    return proxy.sent + proxy.received, moved.new


def cut_at(proxy: Proxy, way: str, total: int, seed: int) -> None:
    plan = sorted(random.Random(seed).sample(range(1000, total - 1000), CUTS))
    setattr(proxy, f"cut_{way}", plan[0])
    proxy.more_cuts = plan[1:]


def test_a_push_that_is_cut(server: RunningServer, proxy: Proxy, repo: Repository) -> None:
    """A push cut 15 times sends again only what was under way."""

    def run(tenant: str) -> tuple[int, ObjectId | None]:
        with closing(connect(server, proxy, tenant)) as remote:
            return passed(proxy, lambda: push(repo, tenant, remote))

    whole, _ = run(next(TENANTS))
    tenant = next(TENANTS)
    cut_at(proxy, "sent", whole, 2)
    cut, new = run(tenant)
    assert proxy.cuts == CUTS
    assert cut - whole <= CUTS * CUT_BYTES_MAX
    with closing(server.connect(tenant)) as remote:
        assert remote.hello(HELLO).refs["main"] == new == repo.head()
        assert len(remote.log(0)) == 1


@pytest.mark.parametrize("way", [fetch, clone])
def test_a_fetch_that_is_cut(
    server: RunningServer,
    proxy: Proxy,
    repo: Repository,
    tmp_path: Path,
    way: Callable[[Repository, str, HttpRemote], Moved],
) -> None:
    """A fetch or clone cut 15 times brings again only what was under way."""
    tenant = next(TENANTS)
    with closing(server.connect(tenant)) as remote:
        push(repo, tenant, remote)
    costs: list[int] = []
    for name in ("whole", "cut"):
        if costs:
            cut_at(proxy, "received", costs[0], 3)
        with (
            repository(tmp_path / name) as other,
            closing(connect(server, proxy, tenant)) as remote,
        ):
            cost, new = passed(proxy, partial(way, other, "origin", remote))
            costs.append(cost)
            assert new == repo.head()
            assert verify(other.store).problems == []
            assert other.store.frames_of("fetch origin") == set()
            assert other.store.leased(0) | other.store.pinned(0) == set()
    assert proxy.cuts == CUTS
    assert costs[1] - costs[0] <= CUTS * CUT_BYTES_MAX


# --- Restarts ----------------------------------------------------------------------------


def killed_at(proxy: Proxy, way: str, bytes_max: int, *args: str, folder: Path, **env: Any) -> None:
    """Run a command and kill it when so much has passed."""
    proxy.reset()
    proxy.delay_s = 0.02
    with start(folder, *args, **env) as process:
        for _ in range(6000):
            if getattr(proxy, way) >= bytes_max or process.poll() is not None:
                break
            time.sleep(0.01)
        assert process.poll() is None
        process.kill()
    proxy.delay_s = 0.0


def test_a_killed_client_goes_on(server: RunningServer, proxy: Proxy, tmp_path: Path) -> None:
    """A push, then a clone, killed after three quarters, is ended by the next command."""
    one = make_repository(tmp_path / "one", {})
    fill(one, 16)
    gsync_in(one, "snapshot")
    tenant = next(TENANTS)
    env: dict[str, Any] = {"GSYNC_TOKEN": server.token(tenant)}
    url = f"{proxy.base}/{tenant}"
    gsync_in(one, "remote", "add", "origin", url)
    killed_at(proxy, "sent", 12 << 20, "push", folder=one, **env)
    proxy.reset()
    pushed = json_in(one, "push", **env)
    assert pushed["new"] == head(one)
    assert proxy.sent < 5 << 20
    killed_at(proxy, "received", 12 << 20, "clone", url, "copy", folder=tmp_path, **env)
    assert {path.name for path in tmp_path.iterdir()} == {"one", ".copy.gsync-clone"}
    proxy.reset()
    gsync_in(tmp_path, "clone", url, "copy", **env)
    assert proxy.received < (5 << 20) + JOURNAL_BYTES
    assert {path.name for path in tmp_path.iterdir()} == {"one", "copy"}
    assert read_tree(tmp_path / "copy") == read_tree(one)
    assert json_in(tmp_path / "copy", "verify")["problems"] == []


def test_a_killed_server_goes_on(tmp_path: Path) -> None:
    """A push whose server was killed sends only what that one had not written down yet."""
    require("server")
    with repository(tmp_path / "one") as repo:
        fill(repo.root, 16)
        snapshot(repo, "first")
        with running_server(tmp_path / "data") as server, Proxy(server.port) as proxy:
            proxy.delay_s = 0.02

            def kill(_: float) -> None:
                raise KeyboardInterrupt

            url = f"{proxy.base}/acme"
            with closing(HttpRemote(url, server.token(), sleep=kill)) as remote:
                proxy.at_sent = (12 << 20, server.kill)
                with pytest.raises(KeyboardInterrupt):
                    push(repo, "origin", remote)
            port, tokens = server.port, server.tokens
        with (
            running_server(tmp_path / "data", port=port) as server,
            Proxy(port) as proxy,
        ):
            server.tokens = tokens
            with closing(connect(server, proxy, "acme")) as remote:
                assert push(repo, "origin", remote).new == repo.head()
            assert proxy.sent < (5 << 20) + JOURNAL_BYTES
            with closing(server.connect()) as remote, repository(tmp_path / "two") as other:
                assert clone(other, "origin", remote).new == repo.head()


def test_leftovers_of_a_clone(server: RunningServer, tmp_path: Path) -> None:
    """What a clone from elsewhere left, or one that had barely begun, is no hindrance."""
    one = make_repository(tmp_path / "one", {"a": b"a"})
    tenant = next(TENANTS)
    env: dict[str, Any] = {"GSYNC_TOKEN": server.token(tenant)}
    url = f"{server.base}/{tenant}"
    gsync_in(one, "remote", "add", "origin", url)
    gsync_in(one, "push", **env)
    left = tmp_path / ".copy.gsync-clone"
    make_repository(left / "repository", {"wrong": b"wrong"})
    write(left, {"tree/wrong": b"wrong"})
    gsync_in(tmp_path, "clone", url, "copy", **env)
    assert read_tree(tmp_path / "copy") == read_tree(one)
    (tmp_path / ".more.gsync-clone/repository/.gsync").mkdir(parents=True)
    gsync_in(tmp_path, "clone", url, "more", **env)
    assert read_tree(tmp_path / "more") == read_tree(one)
    assert not left.exists() and not (tmp_path / ".more.gsync-clone").exists()


# --- Lost answers ------------------------------------------------------------------------


def test_answers_that_are_lost(server: RunningServer, proxy: Proxy, tmp_path: Path) -> None:
    """Whichever answer of a push is lost, it succeeds, and moves the ref once."""
    tenant = next(TENANTS)
    with repository(tmp_path / "one") as repo, repository(tmp_path / "two") as other:
        received = [0, 0]
        for n in range(12):
            # The odd ones are begun, the others go in one request.
            write(repo.root, {f"f{n}": random.Random(n).randbytes(1_500_000 if n % 2 else 100)})
            made = snapshot(repo, "more").oid
            proxy.reset()
            if n > 1:
                proxy.cut_received = received[n % 2] * (n - 1) // 11
            with closing(connect(server, proxy, tenant)) as remote:
                moved = push(repo, "origin", remote)
            if n < 2:
                received[n] = proxy.received
            assert proxy.cuts == (n > 1)
            assert moved.new == made
            with closing(server.connect(tenant)) as remote:
                assert [made, n + 1] == [fetch(other, "origin", remote).new, len(remote.log(0))]


# --- Others ------------------------------------------------------------------------------


def test_slow_clients_are_in_nobodys_way(server: RunningServer, tmp_path: Path) -> None:
    """A push of ten files is done while one client sends, and one takes, a byte a second."""
    tenant, slow = next(TENANTS), next(TENANTS)
    with repository(tmp_path / "one") as repo:
        fill(repo.root, 8)
        snapshot(repo, "first")
        with closing(server.connect(slow)) as remote:
            push(repo, slow, remote)
        write(repo.root, {f"n{n}": b"%d" % n for n in range(10)})
        snapshot(repo, "second")
        with slow_push(server.port, slow, server.token(slow)), slow_fetch(server, slow):
            for other in (slow, tenant):
                with closing(server.connect(other)) as remote:
                    assert push(repo, other, remote).new == repo.head()


def test_a_journal_that_lies_is_forgotten(server: RunningServer, tmp_path: Path) -> None:
    """Where frames that were noted are not there after all, the fetch begins anew."""
    tenant = next(TENANTS)
    with repository(tmp_path / "one") as repo, repository(tmp_path / "two") as other:
        fill(repo.root, 0, 20)
        made = snapshot(repo, "first").oid
        assert made is not None
        with closing(server.connect(tenant)) as remote:
            push(repo, "origin", remote)
            stream = list(remote.fetch(Fetch([made], [])))
            names = FrameNames()
            for count in range(1, len(stream)):
                other.store.add_frames("fetch x", map(names.name, stream[:count]), 1)
                other.store.add_frames("fetch origin", other.store.frames_of("fetch x"), 1)
                assert fetch(other, "origin", remote).new == made
                assert other.store.missing([made]) == set()
                other.store.set_tracking("origin", {})
                drop_all(other)


def drop_all(repo: Repository) -> None:
    repo.store.drop_objects((), repo.store.mark_collection())
    repo.store.renew()
