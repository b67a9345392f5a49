"""Traces: a real collector gets them over HTTP, of a real command and a real server."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from support import require
from support_cli import gsync_in, make_repository
from support_server import running_server


class Collector:
    """What was sent to it."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.url = ""

    def spans(self) -> list[tuple[str, Any]]:
        found = []
        for body in self.bodies:
            request = ExportTraceServiceRequest()
            request.ParseFromString(body)
            for resource in request.resource_spans:
                names = {a.key: a.value.string_value for a in resource.resource.attributes}
                found += [
                    (names["service.name"], span)
                    for scope in resource.scope_spans
                    for span in scope.spans
                ]
        return found


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            collector.bodies.append(body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def test_a_push_is_one_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command, its requests, and what the server did of them; no secret in any."""
    require("server")
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        with running_server(tmp_path / "data", prelude=TRACED) as server:
            token = server.token("team")
            folder = make_repository(tmp_path / "a", {"name.txt": b"content"})
            gsync_in(folder, "remote", "add", "origin", f"{server.base}/team")
            gsync_in(folder, "push", GSYNC_TOKEN=token)
            gsync_in(folder, "show", "nothing", code=4)
    spans = collector.spans()
    (push,) = [span for _, span in spans if span.name == "gsync push"]
    requests = [s for _, s in spans if s.parent_span_id == push.span_id]
    assert {span.name for span in requests} == {"POST"} and len(requests) == 2
    served = [(who, s) for who, s in spans if s.parent_span_id in {r.span_id for r in requests}]
    assert {who for who, _ in served} == {"gsync serve"}
    assert {span.name for _, span in served} == {
        "POST /{tenant}/v1/hello",
        "POST /{tenant}/v1/frames/{session}",
    }
    assert {span.trace_id for _, span in served} == {push.trace_id}
    assert [a.value.int_value for a in push.attributes if a.key == "gsync.exit"] == [0]
    (failed,) = [span for _, span in spans if span.name == "gsync show"]
    assert {a.key: a.value.string_value for a in failed.attributes}["error.type"] == "not_found"
    sent = b"".join(collector.bodies)
    assert token.encode() not in sent
    assert b"name.txt" not in sent


TRACED = """
from gsync import telemetry
tracing = telemetry.tracing("gsync serve")
tracing.__enter__()
import atexit
atexit.register(tracing.__exit__, None, None, None)
"""


def test_a_collector_that_is_not_there_fails_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command does what it does, and says nothing of it."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    folder = make_repository(tmp_path / "a", {"a": b"1"})
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert gsync_in(folder, "status").err == ""
    monkeypatch.delenv("OTEL_SDK_DISABLED")
    gsync_in(folder, "status")
