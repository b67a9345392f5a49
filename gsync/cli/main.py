"""`gsync`: the table of commands, and what becomes of whatever they raise.

A command's module is imported when the command is run, or its help is wanted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, NoReturn

import click

from gsync import __version__, telemetry
from gsync.cli.app import App, Group
from gsync.errors import GsyncError

COMPLETE_VARIABLE = "_GSYNC_COMPLETE"


class Entry(NamedTuple):
    """Where a command is, and under which heading the help has it."""

    section: str
    target: str  # below gsync.cli.commands, module:function


BASICS, HISTORY, SYNC, DATABASES = "Basics", "History", "Sync", "Databases"
CARE, SERVER = "Store care", "Server"
SECTIONS = (BASICS, HISTORY, SYNC, DATABASES, CARE, SERVER)

COMMANDS: dict[str, Entry] = {
    "tour": Entry(BASICS, "tour:tour"),
    "init": Entry(BASICS, "files:init"),
    "status": Entry(BASICS, "files:status"),
    "snapshot": Entry(BASICS, "files:snapshot"),
    "restore": Entry(BASICS, "files:restore"),
    "untrack": Entry(BASICS, "files:untrack"),
    "collection": Entry(BASICS, "files:collection"),
    "completion": Entry(BASICS, "completion:completion"),
    "log": Entry(HISTORY, "history:log"),
    "show": Entry(HISTORY, "history:show"),
    "diff": Entry(HISTORY, "history:diff"),
    "ls": Entry(HISTORY, "files:ls"),
    "cat": Entry(HISTORY, "files:cat"),
    "refs": Entry(HISTORY, "history:refs"),
    "tag": Entry(HISTORY, "history:tag"),
    "reflog": Entry(HISTORY, "history:reflog"),
    "forget": Entry(HISTORY, "history:forget"),
    "ops": Entry(HISTORY, "undo:ops"),
    "undo": Entry(HISTORY, "undo:undo"),
    "clone": Entry(SYNC, "exchange:clone"),
    "fetch": Entry(SYNC, "exchange:fetch"),
    "pull": Entry(SYNC, "exchange:pull"),
    "push": Entry(SYNC, "exchange:push"),
    "sync": Entry(SYNC, "exchange:sync"),
    "merge": Entry(SYNC, "merge:merge"),
    "conflicts": Entry(SYNC, "merge:conflicts"),
    "resolve": Entry(SYNC, "merge:resolve"),
    "sync-all": Entry(SYNC, "syncall:sync_all"),
    "runs": Entry(SYNC, "runs:runs"),
    "local": Entry(SYNC, "local:local"),
    "acl": Entry(HISTORY, "acl:acl"),
    "watch": Entry(SYNC, "watch:watch"),
    "jobs": Entry(SYNC, "jobs:jobs"),
    "remote": Entry(SYNC, "remote:remote"),
    "login": Entry(SYNC, "login:login"),
    "logout": Entry(SYNC, "login:logout"),
    "export": Entry(SYNC, "files:export"),
    "import": Entry(SYNC, "files:import_"),
    "db": Entry(DATABASES, "db:db"),
    "verify": Entry(CARE, "care:verify"),
    "gc": Entry(CARE, "care:gc"),
    "stats": Entry(CARE, "care:stats"),
    "doctor": Entry(CARE, "care:doctor"),
    "serve": Entry(SERVER, "server:serve"),
    "token": Entry(SERVER, "server:token"),
}

ALIASES = {"commit": "snapshot"}


class Root(Group):
    """The command `gsync`, which finds its commands in the table."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the table's order."""
        return list(COMMANDS)

    def names(self, ctx: click.Context) -> list[str]:
        """Return the names, and the aliases of those that are there."""
        return [*COMMANDS, *(alias for alias, name in ALIASES.items() if name in COMMANDS)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command that is called so, or return None."""
        entry = COMMANDS.get(ALIASES.get(cmd_name, cmd_name))
        return None if entry is None else _load(entry.target)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section for each heading."""
        width = max(map(len, COMMANDS))
        limit = formatter.width - 6 - width
        for section in SECTIONS:
            names = [name for name, entry in COMMANDS.items() if entry.section == section]
            rows = [(f"{name:{width}}", _load(COMMANDS[name].target)) for name in names]
            if rows:
                with formatter.section(section):
                    formatter.write_dl([(n, c.get_short_help_str(limit)) for n, c in rows])


def _load(target: str) -> click.Command:
    from importlib import import_module

    module, name = target.split(":")
    command = getattr(import_module(f"gsync.cli.commands.{module}"), name)
    assert isinstance(command, click.Command)
    return command


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    if isinstance(ctx.obj, App) and ctx.obj.options.json:
        from gsync.cli.output import print_json

        print_json({"version": __version__})
    else:
        click.echo(f"gsync {__version__}")
    ctx.exit()


@click.group(
    cls=Root,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Every command has --help. Formats and the protocol: spec/ in the source.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version",
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Keep files and tables the same in many places, and prove what was where, and when."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> NoReturn:
    """Run the command line of this process."""
    if instruction := os.environ.get(COMPLETE_VARIABLE):
        from click.shell_completion import shell_complete

        sys.exit(shell_complete(cli, {}, "gsync", COMPLETE_VARIABLE, instruction))
    sys.exit(run(sys.argv[1:]))


def run(args: Sequence[str]) -> int:
    """Run one command line and return the exit code; never raises."""
    _tolerate_any_text((sys.stdout, sys.stderr))
    app = App(args)
    name = next((word for word in args if word in COMMANDS), "")
    # The server's spans are those of its requests.
    with telemetry.tracing("gsync serve" if name == "serve" else "gsync"):
        code = _run_traced(args, app, name)
    return _flush(code)


def _run_traced(args: Sequence[str], app: App, name: str) -> int:
    try:
        if name == "serve":
            return _invoke(args, app)
        with telemetry.span(f"gsync {name}".rstrip(), gsync_run=app.run_id):
            code = _invoke(args, app)
            telemetry.note(gsync_exit=code)
        return code
    except BaseException as error:  # every way to fail ends here, as an exit code
        return _failed(error, app)


def _invoke(args: Sequence[str], app: App) -> int:
    try:
        with cli.make_context("gsync", list(args), obj=app) as ctx:
            result: object = cli.invoke(ctx)
    except click.exceptions.Exit as done:
        return done.exit_code
    return result if isinstance(result, int) else 0


def _failed(error: BaseException, app: App) -> int:
    from gsync.cli import output

    json, verbose = app.options.json, app.options.verbose
    try:
        if isinstance(error, GsyncError):
            if verbose:
                _print_causes(error)
            return output.report_error(error, json=json)
        if isinstance(error, click.ClickException):
            return output.report_usage(error, json=json)
        if isinstance(error, (KeyboardInterrupt, EOFError, click.Abort)):
            return output.report_interrupted(json=json)
        if isinstance(error, BrokenPipeError):
            return output.PIPE_CLOSED
        if isinstance(error, OSError):
            from gsync.oserrors import from_os_error

            return output.report_error(from_os_error(error), json=json)
        if isinstance(error, MemoryError):
            from gsync.errors import Unavailable

            return output.report_error(Unavailable("out of memory"), json=json)
        return output.report_internal(error, json=json, verbose=verbose)
    except BrokenPipeError:  # while the error was printed
        return output.PIPE_CLOSED


def _print_causes(error: BaseException) -> None:
    cause = error.__cause__
    while cause is not None:
        click.echo(f"because: {type(cause).__name__}: {cause}", err=True)
        cause = cause.__cause__


def _tolerate_any_text(streams: Iterable[Any]) -> None:
    """Let names that are not UTF-8, or not in the locale's encoding, be printed escaped."""
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _flush(code: int) -> int:
    """Write what is left; a reader who went away, or a full disk, must not raise at exit."""
    try:
        sys.stdout.flush()
        return code
    except OSError as error:
        # Python flushes once more at exit; let that go nowhere.
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except (OSError, ValueError):
            pass
        from gsync.cli import output
        from gsync.oserrors import from_os_error

        if isinstance(error, BrokenPipeError):
            return code or output.PIPE_CLOSED
        return output.report_error(from_os_error(error), json=False)
