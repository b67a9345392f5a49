"""Figures of the requests, for Prometheus, on an address of their own.

They name tenants, and so are the operator's alone: the server's own address never answers with
them, whatever token asks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gsync.errors import Invalid, Unavailable
from gsync.server.log import Record

HOST = "127.0.0.1"
BUCKETS_S = (0.005, 0.02, 0.05, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)

Observe = Callable[[Record], None]


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of `[HOST:]PORT`; the host is this machine alone if none is named.

    Raises:
        Invalid: it is no such thing.
    """
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65_535:
        raise Invalid(f"not an address for metrics: {text[:80]!r}; expected [HOST:]PORT")
    return host.strip("[]") or HOST, int(port)


@contextmanager
def metrics(host: str, port: int) -> Iterator[tuple[Observe, str]]:
    """Answer `GET /metrics` at an address for the block.

    Yields:
        What is to be told of each request that has ended, and the URL.

    Raises:
        Invalid: the client library of Prometheus is not installed.
        Unavailable: the address is in use, or none of this machine.
    """
    try:
        from prometheus_client import (
            CollectorRegistry,
            Counter,
            Histogram,
            ProcessCollector,
        )
    except ImportError as error:
        raise Invalid(
            "metrics need the package prometheus-client",
            hint="install it: pip install 'gsync[metrics]'",
        ) from error
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    requests = Counter(
        "gsync_requests",
        "Requests that have ended; status 499 where the client had gone.",
        ("path", "tenant", "status"),
        registry=registry,
    )
    seconds = Histogram(
        "gsync_request_seconds",
        "From the head of a request to the end of its answer.",
        ("path",),
        buckets=BUCKETS_S,
        registry=registry,
    )
    received = Counter(
        "gsync_received_bytes", "Bodies of requests.", ("tenant",), registry=registry
    )
    sent = Counter("gsync_sent_bytes", "Bodies of answers.", ("tenant",), registry=registry)

    def observe(record: Record) -> None:
        tenant = record.tenant or ""
        requests.labels(record.path, tenant, str(record.status)).inc()
        seconds.labels(record.path).observe(time.monotonic() - record.started)
        received.labels(tenant).inc(record.bytes_in)
        sent.labels(tenant).inc(record.bytes_out)

    with expose(registry, host, port) as url:
        yield observe, url


@contextmanager
def expose(registry: Any, host: str, port: int) -> Iterator[str]:
    """Answer `GET /metrics` with what `registry` knows for the block, and give the URL.

    Raises:
        Unavailable: the address is in use, or none of this machine.
    """
    from prometheus_client import start_http_server

    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise Unavailable(
            f"cannot give metrics at {host}:{port}: {error.strerror or error}",
            hint="choose another address",
        ) from error
    shown = f"[{host}]" if ":" in host else host
    try:
        yield f"http://{shown}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
