"""Run one campaign in its long form: `python -m tests.campaigns NAME [options]`.

A campaign is a module beside this one with `SUMMARY`, `add_options(parser)` and
`run(options) -> int`; it prints a table of figures and returns how many claims failed.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
import time
from pathlib import Path

import click

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

import pytest  # noqa: E402
from conftest import seal  # noqa: E402


def main() -> None:
    """Run the campaign that the command line names, with home and environment sealed."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns", description=__doc__)
    commands = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    modules = {}
    for name in sorted(find_campaigns()):
        modules[name] = importlib.import_module(f"campaigns.{name}")
        command = commands.add_parser(name, help=modules[name].SUMMARY)
        command.add_argument("--seed", type=int, default=1, help="what chance begins from")
        command.add_argument("--seeds", type=int, help="how many cases, in the campaign's unit")
        modules[name].add_options(command)
    options = parser.parse_args()
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="gsync-campaign-") as directory,
        pytest.MonkeyPatch.context() as patch,
    ):
        base = Path(directory)
        (base / "home").mkdir()
        seal(patch, base / "home")
        options.base = base / "work"
        options.base.mkdir()
        os.umask(0o022)
        failures = modules[options.name].run(options)
    click.echo(f"{options.name}: {failures} failures, {time.monotonic() - began:.0f} s")
    sys.exit(1 if failures else 0)


def find_campaigns() -> list[str]:
    """Return the names of the modules that are campaigns: those that have a summary."""
    return [path.stem for path in HERE.glob("*.py") if "\nSUMMARY = " in path.read_text()]


if __name__ == "__main__":
    main()
