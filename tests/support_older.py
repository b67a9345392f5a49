"""A server of the older system, made from what is known of it: files, tarballs, tokens.

It keeps files in memory, adds and never deletes, knows no condition, and can be told to fail.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

INCLUDED = ("agents", "skills", "content", "mcp", "ai", "config", "profiles")
DIRECT, TENANT = "/api/v1/sync/files", "t/1"
RELAY = "/api/v1/cloud/tenants/t%2F1/files"
API_TOKEN = "operator.jwt"

Fault = Callable[["Handler"], bool]
"""Answers in place of the server, and returns whether it did."""


@dataclass
class Older:
    """Its state, and what it was asked.

    Attributes:
        files: What it holds.
        given: Tokens that it gave, and takes.
        faults: What the next file calls meet, in order.
        documents: What the control plane says, by method and path below the tenant's.
        limit_bytes: The longest body it takes.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    given: list[str] = field(default_factory=list)
    faults: list[Fault | None] = field(default_factory=list)
    limit_bytes: int = 2 << 20
    asked: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    exchanges: list[dict[str, str]] = field(default_factory=list)
    gives_token: bool = True
    documents: dict[str, object] = field(default_factory=dict)
    base: str = ""
    relayed: str = RELAY

    def archive(self, names: tuple[str, ...] = INCLUDED) -> bytes:
        """Its files as it sends them: disk order, times and owners of its own."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for path in sorted(self.files, key=lambda path: path[::-1]):
                if path.split("/")[0] in names:
                    info = tarfile.TarInfo(path)
                    info.size, info.mtime, info.uid = len(self.files[path]), 1_700_000_000, 1000
                    tar.addfile(info, io.BytesIO(self.files[path]))
        return gzip.compress(out.getvalue(), mtime=0)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    older: Older

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.older.asked.append(f"GET {urlsplit(self.path).path}")
        if self.fails() or not self.admits() or self.tells("GET"):
            return
        names = parse_qs(urlsplit(self.path).query).get("filter")
        wanted = tuple(names[0].split(",")) if names else INCLUDED
        self.say(200, self.older.archive(tuple(n for n in INCLUDED if n in wanted)))

    def do_POST(self) -> None:
        path = urlsplit(self.path).path
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if path == "/api/v1/core/oauth/token":
            self.exchange(body)
            return
        self.older.asked.append(f"POST {path}")
        self.older.bodies.append(body)
        if self.fails() or not self.admits() or self.tells("POST"):
            return
        if len(body) > self.older.limit_bytes:
            self.say_json(413, {"code": "payload_too_large"})
            return
        taken = {}
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(body))) as tar:
            for member in tar:
                if not member.isfile() or member.name.split("/")[0] not in INCLUDED:
                    self.say_json(500, {"code": "internal_error", "message": member.name})
                    return
                content = tar.extractfile(member)
                assert content is not None
                taken[member.name] = content.read()
        self.older.files.update(taken)
        self.say_json(200, {"files_uploaded": len(taken), "uploaded_at": "2026-01-01T00:00:00Z"})

    def exchange(self, body: bytes) -> None:
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        self.older.exchanges.append(form)
        if "client_id" not in form:
            self.say_json(400, {"error": "invalid_request"})
        elif form.get("subject_token") != API_TOKEN or not self.older.gives_token:
            self.say_json(403, {"error": "access_denied"})
        else:
            self.older.given = [f"given-{len(self.older.exchanges)}"]
            self.say_json(200, {"access_token": self.older.given[0], "expires_in": 300})

    def fails(self) -> bool:
        fault = self.older.faults.pop(0) if self.older.faults else None
        return fault is not None and fault(self)

    def tells(self, method: str) -> bool:
        found = self.older.documents.get(f"{method} {urlsplit(self.path).path}")
        if found is not None:
            self.say_json(200, found)
        return found is not None

    def admits(self) -> bool:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        path = urlsplit(self.path).path
        good = {DIRECT: self.older.given, self.older.relayed: [API_TOKEN]}.get(path)
        if f"{self.command} {path}" in self.older.documents:
            good = [API_TOKEN]
        if good is None:
            self.say_json(404, {"code": "not_found"})
        elif token not in good:
            self.say_json(401, {"code": "unauthorized"})
        return good is not None and token in good

    def say(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def say_json(self, status: int, document: object, **headers: str) -> None:
        self.say(status, json.dumps(document).encode(), Content_Type="application/json", **headers)


def status(code: int, **headers: str) -> Fault:
    """Answer with that status once."""

    def fault(handler: Handler) -> bool:
        handler.say_json(code, {"code": "fault"}, **headers)
        return True

    return fault


def answer(body: bytes) -> Fault:
    """Answer 200 with that body once."""

    def fault(handler: Handler) -> bool:
        handler.say(200, body)
        return True

    return fault


def cut(count: int) -> Fault:
    """Send `count` bytes of an archive that was to be longer, and close."""

    def fault(handler: Handler) -> bool:
        data = handler.older.archive()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[:count])
        handler.wfile.flush()
        handler.close_connection = True
        return True

    return fault


def hang_up(handler: Handler) -> bool:
    """Close without an answer."""
    handler.close_connection = True
    return True


@contextmanager
def running_older() -> Iterator[Older]:
    """Start one on loopback."""
    older = Older()
    made = type("Bound", (Handler,), {"older": older})
    server = ThreadingHTTPServer(("127.0.0.1", 0), made)
    server.daemon_threads = True
    older.base = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield older
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
