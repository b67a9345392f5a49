"""Every command, option, setting and exit code is documented."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from gsync.cli.app import EverywhereOption
from gsync.cli.main import cli
from gsync.cli.output import EXIT_CODES
from gsync.config import Author, DatabaseConfig, Limits, Remote, TableConfig
from gsync.frozen import as_dict

ROOT = Path(__file__).parent.parent
COMMANDS = (ROOT / "README.md").read_text() + (ROOT / "spec" / "10-cli.md").read_text()
SETTINGS = (ROOT / "spec" / "09-config.md").read_text()


def walk(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        ctx = click.Context(command, info_name=name)
        for sub in command.list_commands(ctx):
            found = command.get_command(ctx, sub)
            assert found is not None
            yield from walk(found, f"{name} {sub}")


TREE = dict(walk(cli, "gsync"))


@pytest.mark.parametrize("name", TREE)
def test_command_is_documented(name: str) -> None:
    """A command has help, takes the options of everywhere, and is in the command page."""
    command = TREE[name]
    assert command.help
    assert command.help[0].isupper()
    assert any(isinstance(param, EverywhereOption) for param in command.params)
    assert f"`{name}" in COMMANDS


@pytest.mark.parametrize("name", TREE)
def test_options_have_help(name: str) -> None:
    """Every option says what it does, and is in the command page."""
    for param in TREE[name].params:
        if isinstance(param, click.Option):
            assert param.help, param.name
            assert max(param.opts, key=len) in COMMANDS, param.opts


def test_settings_are_documented() -> None:
    """Every setting of both files, and every variable, is in the configuration page."""
    names = ["GSYNC_TOKEN", "GSYNC_AUTHOR", "NO_COLOR", "XDG_CONFIG_HOME"]
    names += ["version", "GSYNC_DB_NAME_PASSWORD"]
    for table in (Author, DatabaseConfig, Limits, Remote, TableConfig):
        names += vars(table)["__slots__"]
    assert [name for name in names if f"`{name}`" not in SETTINGS] == []


def test_limits_are_documented_with_their_defaults() -> None:
    """The default of each limit is the one the configuration page gives."""
    for name, default in as_dict(Limits()).items():
        assert f"| `{name}` | {default:,} |" in SETTINGS


def test_exit_codes_are_documented() -> None:
    """The command page has the exit code of each kind."""
    for kind, code in EXIT_CODES.items():
        assert any(f"| {code} |" in line and kind.kind in line for line in COMMANDS.splitlines())
