"""What stands in the log: enough to find a request by, and nothing that a client could forge."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import requests
from support import require
from support_cli import gsync_in, make_repository, refused, write
from support_server import RunningServer, running_server

from gsync.protocol.messages import Hello, encode_hello
from gsync.server import log

HELLO = encode_hello(Hello(1, None))
FIELDS = {"event", "time", "method", "path", "tenant", "token", "run", "status", "error"}
FIELDS |= {"bytes_in", "bytes_out", "seconds"}


def hello(server: RunningServer, secret: str | None = None, **headers: str) -> requests.Response:
    headers["Authorization"] = f"Bearer {secret or server.token()}"
    headers["Content-Type"] = "application/x-gsync"
    return requests.post(f"{server.base}/acme/v1/hello", data=HELLO, headers=headers, timeout=30)


def run_of(said: str) -> str:
    match = re.search(r"^run ([0-9a-f]{16})$", said, re.MULTILINE)
    assert match is not None, said
    return match[1]


@pytest.mark.slow
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_run_is_found_and_no_secret(tmp_path: Path, log_format: str) -> None:
    """Push, clone, refusals: each command has one run in the log, and no token is anywhere."""
    require("server")
    folder = make_repository(tmp_path / "a")
    said, runs = "", []
    with running_server(tmp_path / "data", log_format=log_format) as server:
        token, wrong = server.token(), "gs_" + "W" * 43
        url = f"{server.base}/acme"
        gsync_in(folder, "remote", "add", "origin", url)
        (tmp_path / "token").write_text(token)
        commands = [
            (folder, ("push", "-v"), token, 0),
            (tmp_path, ("clone", url, "b", "-v"), token, 0),
            (tmp_path, ("clone", url, "c", "-v", "--token-file", str(tmp_path / "token")), "", 0),
            (folder, ("fetch", "-v"), wrong, 3),
            (folder, ("fetch", "-v", "--json"), wrong, 3),
        ]
        for where, args, secret, code in commands:
            done = gsync_in(where, *args, code=code, GSYNC_TOKEN=secret)
            said += done.text + done.err
            runs.append(run_of(done.err))
        evil = f"http://user:{wrong}@127.0.0.1:{server.port}/acme"
        for args in (("clone", evil, "d"), ("-C", str(folder), "remote", "add", "evil", evil)):
            done = gsync_in(tmp_path, *args, "-v", code=2)
            said += done.text + done.err
        requests.get(f"{server.base}/acme/{token}?token={token}", timeout=30)
        requests.get(f"{server.base}/healthz", auth=("user", token), timeout=30)
    logged = server.log()
    for text in (logged, said, (folder / ".gsync" / "config.toml").read_text()):
        assert token not in text and token[3:20] not in text
        assert wrong not in text and wrong[3:20] not in text
    assert len(set(runs)) == len(runs)
    # What has no valid token is not believed its run either.
    assert [logged.count(run) for run in runs] == [2, 2, 2, 0, 0]
    if log_format == "json":
        lines = [json.loads(line) for line in logged.splitlines()]
        assert all(line.keys() == FIELDS for line in lines)
        first = lines[0]
        assert (first["tenant"], first["token"], first["run"]) == ("acme", "write", runs[0])
        assert first["bytes_in"] > 0 and first["bytes_out"] > 0 and first["seconds"] > 0
    else:
        assert re.search(rf"tenant=acme token=write run={runs[0]} status=200 ", logged)


def test_an_error_names_the_run(tmp_path: Path) -> None:
    """The hint, and the details in JSON, say what to look for; a run never asked is not named."""
    require("server")
    folder = make_repository(tmp_path / "a")
    with running_server(tmp_path / "data") as server:
        reader = server.token(scope="read")
        gsync_in(folder, "remote", "add", "origin", f"{server.base}/acme")
        _, hint = refused(folder, "push", code=3, GSYNC_TOKEN=reader)
        run = hint.rpartition(" ")[2]
        assert hint.endswith(f"; the server's log has it under run {run}")
        document = gsync_in(folder, "--json", "push", code=3, GSYNC_TOKEN=reader).json
        other = document["error"]["details"]["run"]
        assert other != run and "run" not in document["error"]["hint"]
    for each in (run, other):
        assert re.search(rf"token=read run={each} status=403", server.log())
    with (folder / ".gsync" / "config.toml").open("a") as config:
        config.write("\n[limits]\nattempts = 1\n")
    document = gsync_in(folder, "--json", "push", code=7, GSYNC_TOKEN=reader).json
    assert document["error"]["details"] == {}


@pytest.mark.parametrize(
    "run",
    [
        "x" * 65,
        "a b",
        "a=b",
        "run\x1b[31m",
        "caf\xe9",
        "a\ttoken=admin",
        '"',
        "",
    ],
)
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_run_that_is_no_name_is_left_out(tmp_path: Path, run: str, log_format: str) -> None:
    """The header is a client's: what is long, or could be read as more, does not reach the log."""
    require("server")
    with running_server(tmp_path / "data", log_format=log_format) as server:
        response = hello(server, **{"Gsync-Run": run})
        assert response.status_code in (200, 400)  # 400: the parser of HTTP takes no control bytes
        assert hello(server, **{"Gsync-Run": "A_b-9" + "z" * 59}).status_code == 200
    *before, last = server.log().splitlines()
    assert "A_b-9" + "z" * 59 in last
    for line in before:
        assert "run=" not in line and (log_format == "text" or json.loads(line)["run"] is None)


def test_names_cannot_make_lines(tmp_path: Path) -> None:
    """Whatever stands in paths, methods and names, a request is one line of visible ASCII."""
    require("server")
    with running_server(tmp_path / "data") as server:
        for path in ("/a%0d%0arequest%20status=200", "/%1b[31m/v1/hello", "/" + "x" * 3000):
            requests.post(server.base + path, data=b"", timeout=30)
        requests.request("PROPFIND", server.base + "/acme", timeout=30)
    lines = server.log().splitlines()
    assert len(lines) == 4
    for line in lines:
        assert line.isascii() and line.isprintable() and len(line) < 400
        assert line.count(" request ") == 1


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_values_are_one_line(capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    """A message with line ends, escape sequences and what looks like fields is one value."""
    message = 'a\nb\x1b[31m "x" status=200 caf\xe9 \u2028'
    log.set_format(log_format)
    try:
        log.log_defect(ValueError(message + "z" * 5000))
    finally:
        log.set_format("text")
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.endswith("\n")
    assert said[:-1].isascii() and said[:-1].isprintable() and len(said) < 1000
    value = re.search(r' message=("(?:[^"\\]|\\.)*") ', said)
    found = json.loads(value[1]) if value else json.loads(said)["message"]
    assert found.startswith(message)


def test_verbose_says_the_run_first(tmp_path: Path) -> None:
    """Without -v nothing is said of it, and a remote that is a path has none."""
    folder = make_repository(tmp_path / "a")
    gsync_in(folder, "remote", "add", "disk", str(tmp_path / "disk"))
    write(folder, {"c": b"3"})
    assert "run " not in gsync_in(folder, "push", "-v").err
