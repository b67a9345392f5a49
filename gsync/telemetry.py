"""Traces for OpenTelemetry, where its packages are installed and the environment names a collector.

Without one nothing is imported and nothing is done. What is named is that of the standard:
`OTEL_EXPORTER_OTLP_ENDPOINT` and its kind; `OTEL_SDK_DISABLED` turns it off. No secret, no
content and no name of a file is in a span.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_FLUSH_MS = 5_000

_tracer: Any = None


@contextmanager
def tracing(service: str) -> Iterator[None]:
    """Send the spans of the block to the collector that the environment names, if it does.

    They are sent at its end, and now and then before. A collector that does not answer fails
    nothing, and delays the end by some seconds.
    """
    global _tracer
    if _tracer is not None or not _is_wanted(os.environ):
        yield
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:  # the variables may be meant for others
        yield
        return
    from gsync import __version__

    resource = Resource.create({"service.name": service, "service.version": __version__})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=_FLUSH_MS // 1000)))
    _tracer = provider.get_tracer("gsync", __version__)
    try:
        yield
    finally:
        _tracer = None
        provider.force_flush(_FLUSH_MS)
        provider.shutdown()


def _is_wanted(environment: Mapping[str, str]) -> bool:
    disabled = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    return not disabled and any(environment.get(name) for name in _ENDPOINTS)


@contextmanager
def span(name: str, *, client: bool = False, **attributes: str | int | float) -> Iterator[Any]:
    """Time the block; what it raises is noted, by its kind. Yields the span, or None.

    Args:
        client: Whether it is a request to somebody, who may go on with it.
        attributes: Names have `_` where the standard's have dots.
    """
    if _tracer is None:
        yield None
        return
    from opentelemetry.trace import SpanKind, Status, StatusCode

    kind = SpanKind.CLIENT if client else SpanKind.INTERNAL
    with _tracer.start_as_current_span(
        name, kind=kind, record_exception=False, set_status_on_exception=False
    ) as made:
        _set(made, attributes)
        try:
            yield made
        except BaseException as error:
            made.set_attribute("error.type", getattr(error, "kind", type(error).__name__))
            made.set_status(Status(StatusCode.ERROR))
            raise


def note(**attributes: str | int | float) -> None:
    """Add to the span that is open, if one is."""
    if _tracer is not None:
        from opentelemetry.trace import get_current_span

        _set(get_current_span(), attributes)


def carry(headers: MutableMapping[str, str]) -> None:
    """Add what makes whoever gets the headers go on with this trace."""
    if _tracer is not None:
        from opentelemetry.propagate import inject

        inject(headers)


@contextmanager
def served(headers: Mapping[str, str]) -> Iterator[Any]:
    """Time the answer to a request, as part of the client's trace. Yields the span, or None."""
    if _tracer is None:
        yield None
        return
    from opentelemetry.propagate import extract
    from opentelemetry.trace import SpanKind

    with _tracer.start_as_current_span(
        "request",
        context=extract(headers),
        kind=SpanKind.SERVER,
        record_exception=False,
        set_status_on_exception=False,
    ) as made:
        yield made


def _set(made: Any, attributes: Mapping[str, str | int | float]) -> None:
    for name, value in attributes.items():
        made.set_attribute(name.replace("__", ".").replace("_", "."), value)
