"""The package as it is installed."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import os
import subprocess
import sys
import time
from pathlib import Path

import gsync

REPOSITORY = Path(__file__).parent.parent


def test_import_loads_no_library() -> None:
    """`import gsync` costs nothing: no command line, network or database comes with it."""
    heavy = ("click", "msgpack", "requests", "rich", "sqlite3", "sqlite_utils", "starlette")
    program = f"import sys, gsync; print([m for m in {heavy!r} if m in sys.modules])"
    # -P: the installed gsync, not one in the working directory.
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_version_is_the_installed_one() -> None:
    """`gsync.__version__` is what pip says is installed."""
    assert gsync.__version__ == importlib.metadata.version("gsync")


def test_types_are_published() -> None:
    """The package tells type checkers that it is typed."""
    assert importlib.resources.files("gsync").joinpath("py.typed").is_file()


def test_requirements_name_no_registry() -> None:
    """What checks install is named by version and hash, wherever pip finds it."""
    text = (REPOSITORY / ".ci" / "requirements.txt").read_text()
    assert "--hash=sha256:" in text
    assert "://" not in text
    assert "index-url" not in text


def test_environment_is_sealed(sealed: Path) -> None:
    """A test sees an empty home, UTC, and no proxy or setting from outside."""
    assert Path.home() == sealed
    assert not list(sealed.iterdir())
    assert time.tzname == ("UTC", "UTC")
    assert not [name for name in os.environ if name.startswith(("GSYNC_", "PG", "AWS_"))]
    assert "https_proxy" not in os.environ
