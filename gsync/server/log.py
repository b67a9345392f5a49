"""One line on stderr for each request. No secret reaches it: tokens are named, never shown."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TextIO

FORMATS = ("text", "json")

_lock = threading.Lock()
_format = "text"


@dataclass(slots=True)
class Record:
    """What is said about one request.

    Attributes:
        method: The HTTP method.
        path: The template of the path, so that no name in it becomes a name of its own.
        tenant: Whose store, once the token was found valid.
        token: The name of the token.
        run: What the client calls the run of its command, once its token was found valid.
        status: What was answered; 499 when the client had gone.
        error: The kind of what failed.
        bytes_in: Of the body, as far as it was read.
        bytes_out: Of the answer's body.
    """

    method: str
    path: str = "-"
    tenant: str | None = None
    token: str | None = None
    run: str | None = None
    status: int = 499
    error: str | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    started: float = field(default_factory=time.monotonic)


def set_format(name: str) -> None:
    """Write lines as `text` or as `json` from now on."""
    global _format
    assert name in FORMATS
    _format = name


def log_request(record: Record) -> None:
    """Write the line of a finished request."""
    _write(
        "request",
        method=record.method[:16],
        path=record.path,
        tenant=record.tenant,
        token=record.token,
        run=record.run,
        status=record.status,
        error=record.error,
        bytes_in=record.bytes_in,
        bytes_out=record.bytes_out,
        seconds=round(time.monotonic() - record.started, 4),
    )


def log_defect(error: BaseException) -> None:
    """Write where something failed that should not have; the stack, and not the values in it."""
    places = traceback.extract_tb(error.__traceback__)
    stack = " < ".join(f"{p.name}:{p.lineno}" for p in reversed(places[-12:]))
    _write("defect", error=type(error).__name__, message=str(error)[:500], stack=stack)


def log_reload(message: str) -> None:
    """Write what came of the wish to load the certificate again."""
    _write("reload", message=message[:500])


def log_metrics(url: str) -> None:
    """Write where Prometheus gets figures."""
    _write("metrics", url=url)


def log_attached(tenant: str, what: str) -> None:
    """Write what a server did with the folder of a tenant, or why it could not."""
    _write("attached", tenant=tenant, message=what[:500])


def _write(event: str, **fields: Any) -> None:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    line = _FORMATTERS[_format](now, event, fields)
    out: TextIO = sys.stderr
    with _lock:
        try:
            out.write(line + "\n")
            out.flush()
        except OSError:
            pass  # nobody reads the log; that must not stop the server


def _text(now: str, event: str, fields: dict[str, Any]) -> str:
    shown = (f"{key}={_plain(value)}" for key, value in fields.items() if value is not None)
    return f"{now} {event} {' '.join(shown)}"


def _json(now: str, event: str, fields: dict[str, Any]) -> str:
    return json.dumps({"time": now, "event": event, **fields})


def _plain(value: Any) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


_PLAIN = re.compile(r"[!#-~]+")  # no space, no quote, nothing that steers a terminal


_FORMATTERS: dict[str, Callable[[str, str, dict[str, Any]], str]] = {"text": _text, "json": _json}
