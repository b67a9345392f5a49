"""What tests ask of the machine they run on."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from functools import partial

import pytest
from support_nginx import find_nginx
from support_pg import KNOWN_MAJORS, missing_server

# Components, comma-separated, that must be there: their tests fail instead of skipping.
# Read once, at import: the variable is sealed away from the tests themselves.
REQUIRED = frozenset(filter(None, os.environ.get("GSYNC_REQUIRE", "").split(",")))


def require(component: str) -> None:
    """Return if `component` is usable here; otherwise skip the test, with the reason.

    A component named in GSYNC_REQUIRE fails the test instead: a check that must run
    cannot fade away unnoticed. A new component gets a line in `PROBES`.
    """
    missing = PROBES[component]()
    if missing is None:
        return
    if component in REQUIRED:
        pytest.fail(f"{component} is required by GSYNC_REQUIRE: {missing}", pytrace=False)
    pytest.skip(f"{component}: {missing}")


def _loopback() -> str | None:
    try:
        with socket.create_server(("127.0.0.1", 0)):
            return None
    except OSError as error:
        return f"no port to listen on at 127.0.0.1 ({error})"


def _server() -> str | None:
    for module in ("starlette", "uvicorn", "httptools"):
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed"
    return _loopback()


def _git() -> str | None:
    return None if shutil.which("git") else "git is not installed"


def _gnutar() -> str | None:
    tar = shutil.which("tar")
    if tar and b"GNU tar" in subprocess.run([tar, "--version"], capture_output=True).stdout:
        return None
    return "the tar in PATH is not GNU tar"


def _nginx() -> str | None:
    return _loopback() if find_nginx() else "nginx is not installed"


def _root() -> str | None:
    return None if os.geteuid() == 0 else "not run by root"


# Python that a process begins with which is to be denied what it has no right to.
UNPRIVILEGED = """
import ctypes, os
if os.geteuid() == 0:  # give up what lets root read and write what it may not
    libc, header = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    sets[0] &= ~6
    sets[1] &= ~6
    assert libc.capset(header, sets) == 0
"""

# component -> a function that says what is missing, or returns None.
PROBES: dict[str, Callable[[], str | None]] = {
    "git": _git,
    "gnutar": _gnutar,
    "nginx": _nginx,
    "pg": missing_server,
    **{f"pg{major}": partial(missing_server, major) for major in KNOWN_MAJORS},
    "proxy": _loopback,
    "root": _root,
    "server": _server,
}
