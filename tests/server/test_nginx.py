"""The real command, a real nginx with TLS and its own defaults, and the real server."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import require
from support_cli import gsync_in, json_in, make_repository, read_tree, refused, write
from support_nginx import Authority, Nginx, running_nginx
from support_server import RunningServer, running_server

MIB = 1 << 20


@pytest.fixture(autouse=True, scope="module")
def needed() -> None:
    require("server")
    require("nginx")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with running_server(tmp_path / "data") as running:
        yield running


@pytest.fixture
def nginx(authority: Authority, server: RunningServer, tmp_path: Path) -> Iterator[Nginx]:
    with running_nginx(tmp_path / "nginx", authority, server.port) as running:
        yield running


def origin(folder: Path, nginx: Nginx, authority: Authority, files: dict[str, bytes]) -> Path:
    make_repository(folder, files)
    ca = str(authority.ca_file)
    gsync_in(folder, "remote", "add", "origin", f"{nginx.base}/acme", "--ca-file", ca)
    return folder


def random_bytes(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def refusals(nginx: Nginx) -> int:
    return sum(status == 413 for _, _, status in nginx.statuses())


@pytest.mark.slow
def test_push_pull_clone(
    authority: Authority, server: RunningServer, nginx: Nginx, tmp_path: Path
) -> None:
    """Many small files and a large one go and come back, though no request may have over 1 MiB."""
    small = {f"d{i % 20}/f{i}.txt": b"%d\n" % i * (i % 40) for i in range(2000)}
    files = {**small, "large.bin": random_bytes(24 * MIB)}
    folder = origin(tmp_path / "a", nginx, authority, files)
    token, ca = server.token(), str(authority.ca_file)
    pushed = json_in(folder, "push", GSYNC_TOKEN=token)
    assert pushed["refs"] == ["main"]
    assert refusals(nginx) == 1
    sent = [path for _, path, status in nginx.statuses() if "/frames/" in path and status == 200]
    assert len(sent) > 20
    # One request was refused, when at most all of it had been sent.
    assert pushed["bytes_sent"] < 1.02 * 24 * MIB + 3 * MIB
    gsync_in(tmp_path, "clone", f"{nginx.base}/acme", "b", "--ca-file", ca, GSYNC_TOKEN=token)
    clone = tmp_path / "b"
    assert read_tree(clone) == read_tree(folder)
    write(clone, {"large.bin": files["large.bin"][:MIB] + b"!" + files["large.bin"][MIB:]})
    gsync_in(clone, "snapshot", "-m", "second")
    gsync_in(clone, "push", GSYNC_TOKEN=token)
    gsync_in(folder, "pull", GSYNC_TOKEN=token)
    assert read_tree(clone) == read_tree(folder)
    assert {status for _, _, status in nginx.statuses()} == {200, 413}
    log = server.log()
    assert set(re.findall(r"status=(\d+)", log)) == {"200"}


@pytest.mark.slow
def test_small_limits(authority: Authority, server: RunningServer, tmp_path: Path) -> None:
    """Below the size of a frame nothing goes; the error says how large it was and what to set."""
    settings = "client_max_body_size 100k;"
    with running_nginx(tmp_path / "nginx", authority, server.port, settings) as nginx:
        folder = origin(tmp_path / "a", nginx, authority, {"x": random_bytes(2 * MIB)})
        message, hint = refused(folder, "push", code=2, GSYNC_TOKEN=server.token())
        size = re.search(r"refuses a request of (\d+) bytes", message)
        assert size is not None and 100 << 10 < int(size[1]) < 400 << 10
        assert "client_max_body_size" in hint
        tried = [path for _, path, status in nginx.statuses() if status == 413]
        assert len(tried) <= 5
    settings = "client_max_body_size 400k;"
    with running_nginx(tmp_path / "other", authority, server.port, settings) as nginx:
        gsync_in(folder, "remote", "remove", "origin")
        url, ca = f"{nginx.base}/acme", str(authority.ca_file)
        gsync_in(folder, "remote", "add", "origin", url, "--ca-file", ca)
        gsync_in(folder, "push", GSYNC_TOKEN=server.token())
        assert refusals(nginx) == 2


@pytest.mark.slow
def test_without_buffers(authority: Authority, server: RunningServer, tmp_path: Path) -> None:
    """The settings of the operator's page: nothing is refused, and pieces come as they are made."""
    settings = """client_max_body_size 64m; proxy_http_version 1.1;
        proxy_request_buffering off; proxy_buffering off;"""
    with running_nginx(tmp_path / "nginx", authority, server.port, settings) as nginx:
        folder = origin(tmp_path / "a", nginx, authority, {"x": random_bytes(12 * MIB)})
        gsync_in(folder, "push", GSYNC_TOKEN=server.token())
        url, ca = f"{nginx.base}/acme", str(authority.ca_file)
        gsync_in(tmp_path, "clone", url, "b", "--ca-file", ca, GSYNC_TOKEN=server.token())
        assert read_tree(tmp_path / "b") == read_tree(folder)
        assert {status for _, _, status in nginx.statuses()} == {200}


@pytest.mark.slow
def test_a_server_that_restarts(authority: Authority, tmp_path: Path) -> None:
    """While nginx answers 502 the client waits and tries again; then its push goes through."""
    with running_server(tmp_path / "data") as first:
        token, port = first.token(), first.port
        first.kill()
    with running_nginx(tmp_path / "nginx", authority, port) as nginx:
        folder = origin(tmp_path / "a", nginx, authority, {"x": b"1"})
        with (folder / ".gsync" / "config.toml").open("a") as config:
            config.write("\n[limits]\nattempts = 60\n")
        done: list[int] = []
        pushing = threading.Thread(
            target=lambda: done.append(json_in(folder, "push", GSYNC_TOKEN=token)["round_trips"])
        )
        pushing.start()
        wait_for_status(nginx, 502)
        with running_server(tmp_path / "data", port=port) as second:
            pushing.join(120)
            assert done == [2]
            assert "status=200" in second.log()
        with (folder / ".gsync" / "config.toml").open() as config:
            text = config.read()
        (folder / ".gsync" / "config.toml").write_text(text.replace("= 60", "= 1"))
        message, hint = refused(folder, "fetch", code=7, GSYNC_TOKEN=token)
        assert "answered 502" in message and "proxy" in hint


def wait_for_status(nginx: Nginx, status: int) -> None:
    import time

    for _ in range(1200):
        if status in [found for _, _, found in nginx.statuses()]:
            return
        time.sleep(0.05)
    raise AssertionError(nginx.statuses())


def test_plain_http_to_its_port(
    authority: Authority, server: RunningServer, nginx: Nginx, tmp_path: Path
) -> None:
    """Nginx answers with a page of its own; the hint says that the address begins with https."""
    folder = make_repository(tmp_path / "a")
    url = nginx.base.replace("https:", "http:") + "/acme"
    gsync_in(folder, "remote", "add", "origin", url)
    message, hint = refused(folder, "push", code=2, GSYNC_TOKEN=server.token())
    assert "answered 400" in message and "begins with https://" in hint


def test_a_prefix_is_no_tenant(nginx: Nginx, tmp_path: Path) -> None:
    """A server below a path cannot be named: the error says what a URL looks like."""
    folder = make_repository(tmp_path / "a")
    _, hint = refused(folder, "remote", "add", "origin", f"{nginx.base}/gsync/acme", code=2)
    assert "/TENANT" in hint
