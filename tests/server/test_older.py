"""The older endpoints, by curl and tar as a user's script would, against a real server."""

from __future__ import annotations

import hashlib
import io
import json
import random
import socket
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from support import require
from support_cli import gsync_in, json_in, make_repository, write
from support_server import RunningServer, running_server

TREE = {
    "agents/a.yaml": b"name: a\n",
    "skills/s/SKILL.md": b"# s\n",
    "content/config.yaml": b"sources: {}\n",
    "config/config.yaml": b"x: 1\n",
    "web/index.html": b"<p>\n",
    "mcp/m.yaml": b"m\n",
    "profiles/p/profile.yaml": b"p\n",
}
FILES, RELAY = "/api/v1/sync/files", "/api/v1/cloud/tenants/team/files"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    require("server")
    with running_server(tmp_path_factory.mktemp("older") / "data") as running:
        yield running


def curl(*args: str, code: int = 0) -> bytes:
    done = subprocess.run(["curl", "-sS", *args], capture_output=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout


def archive(files: dict[str, bytes], **members: tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in members.values():
            tar.addfile(info)
    return out.getvalue()


def unpacked(data: bytes) -> dict[str, bytes]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
        for member in tar:
            assert member.isfile() and not member.name.startswith(("/", "./"))
            content = tar.extractfile(member)
            assert content is not None
            found[member.name] = content.read()
    return found


class Peer:
    """An older client of one tenant."""

    def __init__(self, server: RunningServer, tenant: str, scope: str = "write") -> None:
        self.base = server.base
        self.tenant = tenant
        self.headers = {"Authorization": f"Bearer {server.token(tenant, scope)}"}

    def get(self, path: str = FILES, **query: str) -> requests.Response:
        return requests.get(self.base + path, params=query, headers=self.headers, timeout=30)

    def post(self, data: Any, path: str = FILES, **query: str) -> requests.Response:
        headers = dict(self.headers)
        if "if_match" in query:
            headers["If-Match"] = query.pop("if_match")
        return requests.post(self.base + path, data=data, params=query, headers=headers, timeout=30)

    def files(self, names: str) -> dict[str, bytes]:
        answer = self.get(filter=names)
        assert answer.status_code == 200, answer.text
        return unpacked(answer.content)


def test_a_script_with_curl_and_tar(server: RunningServer, tmp_path: Path) -> None:
    """Up and down again, byte for byte, by the relay's path and by the direct one."""
    write(tmp_path / "services", TREE)
    names = sorted({path.split("/")[0] for path in TREE})
    packed = tmp_path / "up.tar.gz"
    subprocess.run(
        ["tar", "-czf", packed, "-C", tmp_path / "services", *names], check=True, timeout=30
    )
    auth = f"Authorization: Bearer {server.token('team')}"
    kind = "Content-Type: application/octet-stream"
    done = json.loads(
        curl("-H", auth, "-H", kind, "--data-binary", f"@{packed}", server.base + RELAY)
    )
    assert (done["files_uploaded"], done["unchanged"]) == (len(TREE), 0)
    assert done["uploaded_at"].endswith("Z")
    for path in (FILES, RELAY):
        url = f"{server.base}{path}?filter={','.join(names)}"
        out = tmp_path / "down.tar.gz"
        curl("-H", auth, "-o", str(out), url)
        assert out.read_bytes()[:2] == b"\x1f\x8b"
        assert unpacked(out.read_bytes()) == TREE
    again = json.loads(
        curl("-H", auth, "-H", kind, "--data-binary", f"@{packed}", server.base + FILES)
    )
    assert (again["files_uploaded"], again["unchanged"]) == (0, len(TREE))


def test_what_a_get_gives(server: RunningServer) -> None:
    """What both older lists share; what a filter names; nothing if it names nothing known."""
    peer = Peer(server, "gets")
    assert peer.get(dry_run="true").json()["files"] == []
    assert unpacked(peer.get().content) == {}
    assert peer.post(archive(TREE)).status_code == 200
    shared = {
        path: TREE[path]
        for path in TREE
        if path.split("/")[0] in ("agents", "skills", "content", "config")
    }
    answer = peer.get()
    assert answer.headers["Content-Type"] == "application/gzip"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="files.tar.gz"'
    assert int(answer.headers["Content-Length"]) == len(answer.content)
    assert unpacked(answer.content) == shared
    assert unpacked(peer.get(filter=" web , nothing ").content) == {"web/index.html": b"<p>\n"}
    assert unpacked(peer.get(filter="nothing").content) == {}
    for found in (peer.get(FILES + "/manifest").json(), peer.get(dry_run="1").json()):
        assert [file["path"] for file in found["files"]] == sorted(shared)
        sums = [hashlib.sha256(shared[path]).hexdigest() for path in sorted(shared)]
        assert [file["checksum"] for file in found["files"]] == sums
        assert found["checksum"] == hashlib.sha256("".join(sums).encode()).hexdigest()
        assert found["total_size"] == sum(map(len, shared.values()))
        assert [file["size"] for file in found["files"]] == [
            len(shared[path]) for path in sorted(shared)
        ]


def test_large_files(server: RunningServer) -> None:
    """A file that is kept in chunks comes back, and its checksum is of the whole."""
    peer, large = Peer(server, "large"), random.Random(1).randbytes(9 << 20)
    assert peer.post(archive({"content/large.bin": large})).json()["files_uploaded"] == 1
    assert peer.files("content") == {"content/large.bin": large}
    (file,) = peer.get(FILES + "/manifest").json()["files"]
    assert (file["checksum"], file["size"]) == (hashlib.sha256(large).hexdigest(), len(large))


def test_an_upload_adds_and_deletes_nothing(server: RunningServer) -> None:
    """What an archive does not have stays; an empty one and empty directories change nothing."""
    peer = Peer(server, "adds")
    peer.post(archive({"agents/a": b"1", "agents/b": b"1"}))
    done = peer.post(archive({"agents/b": b"2", "agents/c": b"2"})).json()
    assert done["files_uploaded"] == 2
    assert peer.files("agents") == {"agents/a": b"1", "agents/b": b"2", "agents/c": b"2"}
    assert peer.post(archive({})).json()["files_uploaded"] == 0
    directory = tarfile.TarInfo("agents")
    directory.type = tarfile.DIRTYPE
    assert peer.post(archive({}, d=directory)).json()["files_uploaded"] == 0
    assert len(peer.files("agents")) == 3


def test_an_empty_directory_is_filled(server: RunningServer) -> None:
    """A directory that was recorded empty takes files."""
    peer = Peer(server, "fills")
    directory = tarfile.TarInfo("agents/new")
    directory.type = tarfile.DIRTYPE
    assert peer.post(archive({}, d=directory)).status_code == 200
    assert peer.post(archive({"agents/new/x": b"1"})).json()["files_uploaded"] == 1
    assert peer.files("agents") == {"agents/new/x": b"1"}


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


GOOD = {"agents/good": b"new", "agents/other": b"new"}
DEVICE = tarfile.TarInfo("agents/null")
DEVICE.type = tarfile.CHRTYPE


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (archive({**GOOD, "agents/../../x": b""}), 422, "unsafe_archive"),
        (archive({**GOOD, "/agents/x": b""}), 422, "unsafe_archive"),
        (archive({**GOOD, "etc/passwd": b""}), 422, "unsafe_archive"),
        (archive({**GOOD, "agents": b""}), 422, "unsafe_archive"),
        (archive({**GOOD, "top": b""}), 422, "unsafe_archive"),
        (archive(GOOD, x=link("agents/l", "/etc/passwd")), 422, "unsafe_archive"),
        (archive(GOOD, x=link("agents/l", "good")), 422, "unsafe_archive"),
        (archive(GOOD, x=link("agents/l", "../x", tarfile.LNKTYPE)), 422, "unsafe_archive"),
        (archive(GOOD, x=DEVICE), 422, "unsafe_archive"),
        (archive({**GOOD, "agents/kept/below": b""}), 422, "unsafe_archive"),
        (archive({**GOOD, "agents/good": b"", "agents/x\0y": b""})[:-20], 400, "damaged_archive"),
        (archive(GOOD)[:-5], 400, "damaged_archive"),
        (b"no archive", 400, "damaged_archive"),
        (b"", 400, "damaged_archive"),
        (b"\x1f\x8b" + bytes(100), 400, "damaged_archive"),
    ],
)
@pytest.mark.parametrize("dry_run", ["false", "true"])
def test_archives_that_are_refused(
    server: RunningServer, data: bytes, status: int, code: str, dry_run: str
) -> None:
    """The status tells why, and nothing of the archive is there, however late the bad entry is."""
    peer = Peer(server, "refuses")
    peer.post(archive({"agents/kept": b"old"}))
    answer = peer.post(data, dry_run=dry_run)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert set(answer.json()) >= {"code", "message", "timestamp"}
    assert peer.files("agents") == {"agents/kept": b"old"}


def test_bombs(server: RunningServer) -> None:
    """What unpacks to far more than it is, or claims to, is refused as too large."""
    peer = Peer(server, "bombs")
    answer = peer.post(archive({"agents/zeros": bytes(64 << 20)}))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    huge = tarfile.TarInfo("agents/huge")
    huge.size = 1 << 50
    answer = peer.post(archive({}, x=huge))
    assert answer.status_code == 413
    assert peer.files("agents") == {}


def test_a_body_over_the_limit(server: RunningServer) -> None:
    """It is refused when it is announced, and when it turns out to be."""
    limit = requests.get(f"{server.base}/api/v1/sync/capabilities", timeout=30).json()["limits"]
    peer = Peer(server, "limits")
    head = (
        f"POST {FILES} HTTP/1.1\r\nHost: x\r\nAuthorization: {peer.headers['Authorization']}\r\n"
        f"Content-Length: {limit['upload_bytes'] + 1}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), 10) as raw:
        raw.sendall(head.encode())
        assert raw.recv(1000).startswith(b"HTTP/1.1 413 ")
    pieces = (bytes(1 << 20) for _ in range(limit["upload_bytes"] // (1 << 20) + 1))
    try:
        assert peer.post(pieces).status_code == 413
    except requests.ConnectionError:
        pass  # it answered and closed, and the client sent on


@pytest.mark.parametrize("cut", [1, 20, 300, 5000, 20_000])
def test_a_connection_that_is_cut(server: RunningServer, cut: int) -> None:
    """An upload that ends early, wherever, changes nothing; the next one is taken."""
    peer = Peer(server, f"cut{cut}")
    data = archive({"agents/x": random.Random(cut).randbytes(30_000)})
    head = (
        f"POST {FILES} HTTP/1.1\r\nHost: x\r\nAuthorization: {peer.headers['Authorization']}\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), 10) as raw:
        raw.sendall(head.encode() + data[:cut])
    assert peer.files("agents") == {}
    assert peer.post(data).json()["files_uploaded"] == 1


def test_who_may(server: RunningServer) -> None:
    """No token is 401, another tenant's too, and a token that reads does not write."""
    assert requests.get(server.base + FILES, timeout=30).status_code == 401
    reader, other = Peer(server, "team", "read"), Peer(server, "other")
    assert reader.get(RELAY).status_code == 200
    assert reader.post(archive({}), RELAY).status_code == 403
    assert other.get(RELAY).status_code == 401
    assert other.post(archive({}), RELAY).json()["code"] == "unauthorized"
    assert other.get(FILES, dry_run="maybe").status_code == 400


def test_secrets_stay(server: RunningServer) -> None:
    """They are held back on the way in, named, and do not go out."""
    peer = Peer(server, "secrets")
    answer = peer.post(archive({"config/.env": b"KEY=1", "config/key.pem": b"x", "config/a": b"1"}))
    held = [one["path"] for one in answer.json()["held_back"]]
    assert held == ["config/.env", "config/key.pem"]
    assert answer.json()["files_uploaded"] == 1
    assert peer.files("config") == {"config/a": b"1"}


def test_conditions(server: RunningServer) -> None:
    """An upload may be bound to what main is at; a dry run compares and changes nothing."""
    peer = Peer(server, "conditions")
    first = peer.post(archive({"agents/a": b"1"}))
    tag = first.headers["ETag"]
    assert peer.get().headers["ETag"] == tag == f'"{first.json()["manifest_id"]}"'
    planned = peer.post(archive({"agents/a": b"1", "agents/b": b"1"}), dry_run="true").json()
    assert (planned["files_uploaded"], planned["unchanged"]) == (1, 1)
    assert len(planned["manifest"]["files"]) == 2 and planned["dry_run"] is True
    assert peer.files("agents") == {"agents/a": b"1"}
    assert peer.post(archive({"agents/b": b"1"}), if_match=tag).status_code == 200
    answer = peer.post(archive({"agents/c": b"1"}), if_match=tag)
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert sorted(peer.files("agents")) == ["agents/a", "agents/b"]


def test_uploads_at_once(server: RunningServer) -> None:
    """All are taken, and each is a manifest on top of another."""
    peer, answers = Peer(server, "crowd"), []

    def send(number: int) -> None:
        answers.append(peer.post(archive({f"agents/{number}": b"x", "agents/same": b"y"})))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [answer.status_code for answer in answers] == [200] * 6
    assert sorted(peer.files("agents")) == [*(f"agents/{n}" for n in range(6)), "agents/same"]
    assert len({answer.json()["manifest_id"] for answer in answers}) == 6


def test_native_clients_see_uploads(server: RunningServer, tmp_path: Path) -> None:
    """What an older client sends is a manifest with its name; a native push goes out to it."""
    peer = Peer(server, "both")
    env: dict[str, Any] = {"GSYNC_TOKEN": server.token("both")}
    folder = make_repository(tmp_path / "a", {"agents/a": b"native\n", "notes": b"elsewhere\n"})
    gsync_in(folder, "remote", "add", "origin", f"{server.base}/both")
    gsync_in(folder, "push", **env)
    assert peer.files("agents") == {"agents/a": b"native\n"}
    assert peer.post(archive({"agents/a": b"older\n"})).status_code == 200
    gsync_in(folder, "pull", **env)
    assert (folder / "agents/a").read_bytes() == b"older\n"
    assert (folder / "notes").read_bytes() == b"elsewhere\n"
    top = json_in(folder, "log", "-n", "1")["manifests"][0]
    assert (top["author"], top["message"]) == ("write", "upload of an older client")


def test_an_attached_folder(tmp_path: Path) -> None:
    """An upload is applied there whole, on top of what is live; undo takes it back."""
    require("server")
    root = make_repository(tmp_path / "live", {"agents/a": b"1", "web/w": b"1"})
    with running_server(tmp_path / "data", attached={"team": root}) as server:
        peer = Peer(server, "team")
        write(root, {"agents/live": b"edited there"})
        assert peer.files("agents") == {"agents/a": b"1", "agents/live": b"edited there"}
        write(root, {"agents/live": b"and again"})
        assert peer.post(archive({"agents/a": b"2", "agents/new": b"2"})).status_code == 200
        assert (root / "agents/a").read_bytes() == b"2"
        assert (root / "agents/live").read_bytes() == b"and again"
        bad = peer.post(archive({"agents/a": b"3"}, x=link("agents/l", "a")))
        assert bad.status_code == 422
        assert (root / "agents/a").read_bytes() == b"2"
        gsync_in(root, "undo")
        assert (root / "agents/a").read_bytes() == b"1"
        assert not (root / "agents/new").exists()
        assert (root / "agents/live").read_bytes() == b"and again"
        assert peer.files("agents") == {"agents/a": b"1", "agents/live": b"and again"}
        write(root, {"agents/a": b"edited live"})
        assert peer.post(archive({"agents/a": b"over it"})).status_code == 200
        assert (root / "agents/a").read_bytes() == b"over it"
        assert gsync_in(root, "cat", "HEAD~1:agents/a").out == b"edited live"


# --- Tokens for tokens -----------------------------------------------------------------

TOKEN = "/api/v1/core/oauth/token"


def form(server: RunningServer, **values: str | None) -> dict[str, str]:
    found: dict[str, str | None] = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": server.token("team"),
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "client_id": "sp_web",
        **values,
    }
    return {name: value for name, value in found.items() if value is not None}


def exchange(server: RunningServer, **values: str | None) -> requests.Response:
    return requests.post(server.base + TOKEN, data=form(server, **values), timeout=30)


def test_a_token_for_a_token(server: RunningServer) -> None:
    """It opens the files of its tenant and no other's, as far as was asked for."""
    given = exchange(server, scope="read").json()
    assert given["token_type"] == "Bearer" and 0 < given["expires_in"] <= 3600
    headers = {"Authorization": f"Bearer {given['access_token']}"}
    assert requests.get(server.base + FILES, headers=headers, timeout=30).status_code == 200
    assert requests.get(server.base + RELAY, headers=headers, timeout=30).status_code == 200
    elsewhere = f"{server.base}/api/v1/cloud/tenants/other/files"
    assert requests.get(elsewhere, headers=headers, timeout=30).status_code == 401
    answer = requests.post(server.base + FILES, data=b"", headers=headers, timeout=30)
    assert answer.status_code == 403
    whole = exchange(server).json()
    assert whole["scope"] == "write"
    assert server.token("team") not in whole["access_token"]
    forged = given["access_token"][:-2] + ("AA" if given["access_token"][-2:] != "AA" else "BB")
    for wrong in (forged, "gsx_", "gsx_!", whole["access_token"] + "x"):
        headers = {"Authorization": f"Bearer {wrong}"}
        assert requests.get(server.base + FILES, headers=headers, timeout=30).status_code == 401


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"subject_token_type": "x"}, "invalid_request"),
        ({"client_id": None}, "invalid_request"),
        ({"client_id": "a b"}, "invalid_request"),
        ({"subject_token": "gs_wrong"}, "invalid_grant"),
        ({"subject_token": None}, "invalid_grant"),
        ({"scope": "everything"}, "invalid_scope"),
        ({"scope": "admin"}, "invalid_scope"),
        ({"requested_token_type": "x"}, "invalid_request"),
    ],
)
def test_exchanges_that_are_refused(
    server: RunningServer, values: dict[str, str | None], error: str
) -> None:
    """With 400 and the standard's name for it."""
    answer = exchange(server, **values)
    assert (answer.status_code, answer.json()["error"]) == (400, error)
    assert server.token("team") not in answer.text


def test_a_field_that_is_there_twice(server: RunningServer) -> None:
    """It is refused: readers differ in which they believe."""
    fields = [*form(server).items(), ("scope", "read"), ("scope", "write")]
    answer = requests.post(server.base + TOKEN, data=fields, timeout=30)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


def test_revoking_ends_what_was_given(tmp_path: Path) -> None:
    """And a client of the older release, which names no client, is taken only where that is set."""
    require("server")
    with running_server(tmp_path / "data") as server:
        given = exchange(server).json()["access_token"]
        headers = {"Authorization": f"Bearer {given}"}
        assert requests.get(server.base + FILES, headers=headers, timeout=30).status_code == 200
        gsync_in(tmp_path, "token", "revoke", "write", "--data", str(server.data))
        assert requests.get(server.base + FILES, headers=headers, timeout=30).status_code == 401
        log = server.log()
        assert given not in log and server.token("team") not in log
