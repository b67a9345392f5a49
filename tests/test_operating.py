"""What the operator's page shows is what there is: commands, options, configurations, backups."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import threading
from pathlib import Path

import click
import pytest
from support import require
from support_cli import gsync_in, json_in, make_repository, write
from support_nginx import Authority, find_nginx
from support_server import running_server

from gsync.cli.main import cli

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "operating.md").read_text()


def block(name: str) -> str:
    match = re.search(rf"<!-- test: {name} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert match is not None
    return match[1]


def commands() -> list[list[str]]:
    """Every command line of gsync in the page, as words."""
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL))
    fenced = re.findall(r"^(?:sudo -u gsync \S+/)?gsync (.+)$", shell, re.MULTILINE)
    inline = re.findall(r"`gsync ([^`\n]+)`", PAGE)
    unit = re.findall(r"^ExecStart=\S+/gsync (.+)$", block("systemd"), re.M)
    return [line.partition("#")[0].split() for line in [*fenced, *inline, *unit]]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_exist(words: list[str]) -> None:
    """Each command of the page, and each option of it, is one that gsync has."""
    command: click.Command = cli
    name = ""
    rest = list(words)
    if rest[0] == "-C":
        del rest[:2]
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), rest[0])
        assert found is not None, words
        command, name = found, f"{name} {rest.pop(0)}"
    known = {text for param in command.params for text in param.opts}
    for word in rest:
        assert not word.startswith("--") or word in known, (name, word)


def test_there_are_commands() -> None:
    """The page is read as it is meant: its commands are found."""
    names = {words[2] if words[0] == "-C" else words[0] for words in commands()}
    assert {"serve", "token", "clone", "verify", "gc", "remote", "login"} <= names


def test_the_unit(tmp_path: Path) -> None:
    """Systemd takes every line of the unit."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "gsync.service"
    text = block("systemd")
    assert text.count("/opt/gsync/bin/gsync") == 1
    unit.write_text(text.replace("/opt/gsync/bin/gsync", "/bin/true"))
    done = subprocess.run([program, "verify", str(unit)], capture_output=True, text=True)
    ours = [line for line in done.stderr.splitlines() if "gsync" in line]
    assert (done.returncode, ours) == (0, [])
    unit.write_text(text.replace("LockPersonality=", "LockPersonalty="))
    done = subprocess.run([program, "verify", str(unit)], capture_output=True, text=True)
    assert "LockPersonalty" in done.stderr


def test_the_proxy(tmp_path: Path) -> None:
    """Nginx takes the block, with certificates and a port of the test's own."""
    require("nginx")
    program = find_nginx()
    assert program is not None
    cert, key = Authority(tmp_path).make()
    text = block("nginx").replace("/etc/ssl/sync.example.org.pem", str(cert))
    text = text.replace("/etc/ssl/private/sync.example.org.key", str(key))
    for setting in ("client_max_body_size 64m", "proxy_buffering off"):
        assert setting in text
    paths = "".join(
        f"{name}_temp_path {tmp_path}/{name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    for given, code in ((text, 0), (text.replace("proxy_buffering", "proxy_bufering"), 1)):
        config = tmp_path / "nginx.conf"
        http = f"access_log off; {paths} {given.replace('listen 443', 'listen 127.0.0.1:1')}"
        head = f"pid {tmp_path}/pid; error_log stderr; events {{}}"
        config.write_text(f"{head}\nhttp {{ {http} }}\n")
        done = subprocess.run(
            [program, "-t", "-p", str(tmp_path), "-c", str(config)], capture_output=True, text=True
        )
        assert done.returncode == code, done.stderr


@pytest.mark.slow
def test_a_backup_during_pushes(tmp_path: Path) -> None:
    """A copy that the page's statement makes while pushes go on is whole, and can be served."""
    require("server")
    statement = re.search(r'"(VACUUM INTO) \'/backup/team.db\'"', block("backup"))
    assert statement is not None
    folder = make_repository(tmp_path / "a")
    pushed = threading.Event()
    stop = threading.Event()
    heads: list[str] = []

    with running_server(tmp_path / "data") as server:
        token = server.token("team")
        gsync_in(folder, "remote", "add", "origin", f"{server.base}/team")

        def push_on() -> None:
            for number in range(100):
                write(folder, {f"d/f{n}": b"%d %d\n" % (number, n) * 50 for n in range(number, 80)})
                heads.append(json_in(folder, "snapshot", "-m", str(number))["manifest"])
                gsync_in(folder, "push", GSYNC_TOKEN=token)
                pushed.set()
                if stop.is_set():
                    return

        pushing = threading.Thread(target=push_on)
        pushing.start()
        try:
            assert pushed.wait(300)
            copies = []
            for number in range(3):
                copy = tmp_path / f"copy{number}"
                copy.mkdir()
                source = server.data / "tenants" / "team" / "store.db"
                db = sqlite3.connect(f"file:{source}?mode=ro", uri=True)
                db.execute(f"{statement[1]} '{copy / 'store.db'}'")
                db.close()
                copies.append(copy)
        finally:
            stop.set()
            pushing.join(300)
        assert not pushing.is_alive()
    for copy in copies:
        found = json_in(copy, "verify")
        assert found["problems"] == [] and found["manifests"] >= 2
        assert json_in(copy, "refs")["refs"]["main"] in heads
        assert json_in(copy, "reflog", "--verify")["verified"] is True
    target = tmp_path / "new" / "tenants" / "team"
    target.mkdir(parents=True)
    shutil.copy(copies[-1] / "store.db", target / "store.db")
    with running_server(tmp_path / "new") as server:
        url = f"{server.base}/team"
        gsync_in(tmp_path, "clone", url, "b", GSYNC_TOKEN=server.token("team"))
        assert (tmp_path / "b" / "a.txt").read_bytes() == b"one\n"


@pytest.mark.slow
def test_an_older_copy_is_noticed_and_taken(tmp_path: Path) -> None:
    """A store from a backup stops clients that saw more; told so, they bring back what it lacks."""
    require("server")
    folder = make_repository(tmp_path / "a")
    store = tmp_path / "data" / "tenants" / "team" / "store.db"
    with running_server(tmp_path / "data") as server:
        token, url = server.token("team"), f"{server.base}/team"
        port = server.port
        gsync_in(folder, "remote", "add", "origin", url)
        gsync_in(folder, "push", GSYNC_TOKEN=token)
        db = sqlite3.connect(f"file:{store}?mode=ro", uri=True)
        db.execute(f"VACUUM INTO '{tmp_path / 'copy.db'}'")
        db.close()
        write(folder, {"late": b"1"})
        gsync_in(folder, "snapshot", "-m", "late")
        gsync_in(folder, "push", GSYNC_TOKEN=token)
    for path in store.parent.glob("store.db*"):
        path.unlink()
    shutil.copy(tmp_path / "copy.db", store)
    with running_server(tmp_path / "data", port=port):
        done = gsync_in(folder, "fetch", code=6, GSYNC_TOKEN=token)
        assert "restored from an old copy" in done.err
        gsync_in(folder, "remote", "remove", "origin")
        gsync_in(folder, "remote", "add", "origin", url)
        gsync_in(folder, "push", GSYNC_TOKEN=token)
        gsync_in(tmp_path, "clone", url, "b", GSYNC_TOKEN=token)
        assert (tmp_path / "b" / "late").read_bytes() == b"1"
