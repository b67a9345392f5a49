"""TLS between the real command and the real server: who is believed, and what is said if not."""

from __future__ import annotations

import signal
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import require
from support_cli import gsync_in, make_repository, refused
from support_nginx import Authority
from support_server import RunningServer, running_server

from gsync.errors import Denied
from gsync.sync.service import SyncConfig, SyncService


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def server(authority: Authority, tmp_path: Path) -> Iterator[RunningServer]:
    require("server")
    with running_server(tmp_path / "data", tls=authority.make()) as running:
        yield running


def origin(folder: Path, server: RunningServer, *options: str, host: str = "127.0.0.1") -> Path:
    make_repository(folder)
    url = f"https://{host}:{server.port}/acme"
    gsync_in(folder, "remote", "add", "origin", url, *options)
    return folder


def test_push_and_clone(authority: Authority, server: RunningServer, tmp_path: Path) -> None:
    """A file of certificates of the remote's own is trusted, and a clone remembers it."""
    ca = str(authority.ca_file)
    folder = origin(tmp_path / "a", server, "--ca-file", ca)
    gsync_in(folder, "push", GSYNC_TOKEN=server.token())
    url = f"{server.base}/acme"
    gsync_in(tmp_path, "clone", url, "b", "--ca-file", ca, GSYNC_TOKEN=server.token())
    assert (tmp_path / "b" / "a.txt").read_bytes() == b"one\n"
    gsync_in(tmp_path / "b", "pull", GSYNC_TOKEN=server.token())


def test_as_a_library(authority: Authority, server: RunningServer, tmp_path: Path) -> None:
    """The file that vouches for the server is given with the configuration."""
    folder = make_repository(tmp_path / "services", {"a.txt": b"one\n"})
    config = SyncConfig("team", server.base, server.token("team"), folder)
    with pytest.raises(Denied, match="certificate"):
        SyncService(config).sync_files()
    assert SyncService(config.with_ca_file(str(authority.ca_file))).sync_files().items_synced


def test_the_usual_variable(authority: Authority, server: RunningServer, tmp_path: Path) -> None:
    """SSL_CERT_FILE is honoured, on loopback too; the remote's own file wins over it."""
    folder = origin(tmp_path / "a", server)
    token, bundle = server.token(), str(authority.ca_file)
    gsync_in(folder, "push", GSYNC_TOKEN=token, SSL_CERT_FILE=bundle)
    other = Authority(tmp_path, "other")
    other.make()
    folder = origin(tmp_path / "b", server, "--ca-file", str(other.ca_file))
    refused(folder, "push", code=3, GSYNC_TOKEN=token, SSL_CERT_FILE=bundle)


def test_nobody_vouches(server: RunningServer, tmp_path: Path) -> None:
    """A certificate of an unknown authority is refused at once; the hint says where to put it."""
    folder = origin(tmp_path / "a", server)
    message, hint = refused(folder, "push", code=3, GSYNC_TOKEN=server.token())
    assert "is not trusted: " in message and "issuer certificate" in message
    assert "ca_file" in hint and "SSL_CERT_FILE" in hint
    assert server.log() == ""


@pytest.mark.parametrize(
    ("made", "host", "why"),
    [
        ({"host": "example.org"}, "127.0.0.1", "127.0.0.1"),
        ({}, "localhost", "'localhost'"),
        ({"valid_days": -1}, "127.0.0.1", "expired"),
    ],
)
def test_what_the_certificate_says(
    authority: Authority, tmp_path: Path, made: dict, host: str, why: str
) -> None:
    """One for another name, or whose time is over, is refused with the reason."""
    require("server")
    with running_server(tmp_path / "data", tls=authority.make("odd", **made)) as server:
        folder = origin(tmp_path / "a", server, "--ca-file", str(authority.ca_file), host=host)
        message, _ = refused(folder, "push", code=3, GSYNC_TOKEN=server.token())
        assert "is not trusted" in message and why in message


def test_files_that_hold_no_certificates(server: RunningServer, tmp_path: Path) -> None:
    """A ca_file that is absent, or no PEM, is named as the reason."""
    (tmp_path / "text").write_text("no certificate\n")
    for name, said in (("absent", "No such file"), ("text", "holds none")):
        folder = origin(tmp_path / f"a-{name}", server, "--ca-file", str(tmp_path / name))
        message, hint = refused(folder, "push", code=2, GSYNC_TOKEN=server.token())
        assert said in message and "ca_file" in hint


def test_http_and_https_mixed_up(server: RunningServer, tmp_path: Path) -> None:
    """Either way round, the hint says which the address should begin with."""
    folder = make_repository(tmp_path / "a")
    url = f"http://127.0.0.1:{server.port}/acme"
    gsync_in(folder, "remote", "add", "origin", url)
    with (folder / ".gsync" / "config.toml").open("a") as config:
        config.write("\n[limits]\nattempts = 1\n")
    _, hint = refused(folder, "push", code=7, GSYNC_TOKEN=server.token())
    assert "begins with https://" in hint
    with running_server(tmp_path / "plain") as plain:
        folder = origin(tmp_path / "b", plain)
        message, hint = refused(folder, "push", code=2, GSYNC_TOKEN="gs_x")
        assert "does not speak TLS" in message and "begins with http://" in hint
        assert len(plain.log()) < 500


def presented(server: RunningServer) -> bytes:
    """The certificate that a new connection is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    plain = socket.create_connection(("127.0.0.1", server.port), 20)
    with context.wrap_socket(plain) as secure:
        found = secure.getpeercert(binary_form=True)
    assert found is not None
    return found


def hang_up(server: RunningServer, lines: int) -> str:
    """Send SIGHUP, and return the log when it has so many lines about it."""
    server.process.send_signal(signal.SIGHUP)
    for _ in range(600):
        if server.log().count(" reload ") == lines:
            break
        time.sleep(0.05)
    return server.log()


def test_a_renewed_certificate(authority: Authority, tmp_path: Path) -> None:
    """SIGHUP takes the new one into use; a broken one leaves the old, and service goes on."""
    require("server")
    cert, key = authority.make("renewed")
    with running_server(tmp_path / "data", tls=(cert, key)) as server:
        remote = server.connect(ca_file=str(authority.ca_file))
        first = presented(server)
        authority.make("renewed")
        assert presented(server) == first
        assert "was loaded again" in hang_up(server, 1)
        second = presented(server)
        assert second != first
        key.write_text("rubbish")
        assert "the old certificate stays in use" in hang_up(server, 2)
        assert presented(server) == second
        assert requests_healthz(server, authority) == "ok\n"
        remote.close()


def requests_healthz(server: RunningServer, authority: Authority) -> str:
    import requests

    return requests.get(f"{server.base}/healthz", verify=str(authority.ca_file), timeout=20).text


def test_hang_up_without_a_certificate(tmp_path: Path) -> None:
    """SIGHUP does not end a server that has nothing to load."""
    require("server")
    with running_server(tmp_path / "data") as server:
        assert "nothing to load" in hang_up(server, 1)
        assert server.process.poll() is None


def test_noise_instead_of_a_handshake_is_not_logged(server: RunningServer, tmp_path: Path) -> None:
    """Whoever knocks without a handshake, or a request, cannot fill the log."""
    with running_server(tmp_path / "plain") as plain:
        for port in (server.port, plain.port):
            for _ in range(50):
                with socket.create_connection(("127.0.0.1", port), 20) as noise:
                    noise.sendall(b"\x16\x03\x01 rubbish\r\n\x1b[31m\r\n\r\n" * 100)
        assert requests_status(plain) == 200
        assert len(plain.log()) < 500
    assert server.log() == ""


def requests_status(server: RunningServer) -> int:
    import requests

    return requests.get(f"{server.base}/healthz", timeout=20).status_code
