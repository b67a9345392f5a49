"""What every command shares: the options that work everywhere, and what they mean.

Only click is imported before a command runs; the rest comes when it is used.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import click

from gsync.errors import NotFound

if TYPE_CHECKING:
    from gsync.config import Environment
    from gsync.sync.repository import Repository

P = ParamSpec("P")
R = TypeVar("R")
Wrapper = Callable[[Callable[P, R]], Callable[P, R]]


class Options(NamedTuple):
    """The options that work everywhere, as given before and after the command's name."""

    directory: str = ""
    json: bool = False
    quiet: bool = False
    verbose: bool = False
    no_color: bool = False
    no_progress: bool = False


class App:
    """What a command gets as its first argument.

    Attributes:
        options: What was asked for everywhere.
        dashed: How many arguments stood after `--`, or None where there was no `--`.
        command: The command's full name, as the operation and the lock know it.
    """

    def __init__(self, options: Options, *, dashed: int | None = None, command: str = "gsync"):
        self.options = options
        self.dashed = dashed
        self.command = command
        self._opened: Repository | None = None

    def repository(self, *, read_only: bool = False) -> Repository:
        """Return the repository that the working directory lies in; opened once, closed at exit.

        Raises:
            NotFound: there is none.
        """
        if self._opened is None:
            from gsync.sync.repository import open_repository

            self._opened = open_repository(self.directory, read_only=read_only)
        return self._opened

    @property
    def directory(self) -> Any:
        """The directory that the command works in, as a Path: -C has taken effect."""
        from pathlib import Path

        return Path.cwd()

    @cached_property
    def environment(self) -> Environment:
        """What the environment says."""
        from gsync.config import environment

        return environment(os.environ)

    @cached_property
    def color(self) -> bool:
        """Whether results are coloured: on a terminal, unless somebody minds."""
        if self.options.no_color or self.options.json or not sys.stdout.isatty():
            return False
        return not self.environment.no_color

    @property
    def progress(self) -> bool:
        """Whether progress is shown: on a terminal, unless somebody minds."""
        unwanted = self.options.no_progress or self.options.json or self.options.quiet
        return not unwanted and sys.stderr.isatty()

    def split_dashes(self, args: Sequence[str]) -> tuple[list[str], list[str] | None]:
        """Return the arguments before and after `--`; None after it where there was no `--`."""
        if self.dashed is None:
            return list(args), None
        at = len(args) - self.dashed
        return list(args[:at]), list(args[at:])

    def close(self) -> None:
        """Close what was opened."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None


class Parsed:
    """What parsing has found so far; click hands it down as `ctx.obj`."""

    def __init__(self, args: Sequence[str] = ()) -> None:
        before = args[: args.index("--")] if "--" in args else args
        # Known before parsing: an error on the way there has a form too.
        self.options = Options(
            json="--json" in before, verbose="-v" in before or "--verbose" in before
        )
        self.dashed: int | None = None
        self.app: App | None = None

    def start(self, command: str) -> App:
        """Return the command's App, in the directory that -C names."""
        if self.options.directory:
            try:
                os.chdir(self.options.directory)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise NotFound(f"no such directory: {self.options.directory}") from error
        self.app = App(self.options, dashed=self.dashed, command=command)
        return self.app


class EverywhereOption(click.Option):
    """An option that every command and every group of commands takes."""


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if not value or ctx.resilient_parsing or not isinstance(ctx.obj, Parsed):
        return
    assert param.name is not None
    if param.name == "directory":  # each is relative to the one before it
        value = os.path.join(ctx.obj.options.directory, *value)
    ctx.obj.options = ctx.obj.options._replace(**{param.name: value})


def _everywhere() -> list[click.Parameter]:
    def option(*names: str, **how: Any) -> click.Parameter:
        return EverywhereOption(names, expose_value=False, callback=_remember, **how)

    return [
        option("-C", "directory", metavar="DIR", multiple=True, help="Run as if started in DIR"),
        option("--json", "json", is_flag=True, help="Print one JSON document and nothing else"),
        option("-q", "--quiet", is_flag=True, help="Print only what was asked for, and errors"),
        option("-v", "--verbose", is_flag=True, help="Say more; show where a defect happened"),
        option("--no-color", is_flag=True, help="Print without colours, as NO_COLOR does"),
        option("--no-progress", is_flag=True, help="Show no progress"),
    ]


def _write_options(command: click.Command, ctx: click.Context, to: click.HelpFormatter) -> None:
    own, everywhere = [], []
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx)
        if record is not None and not isinstance(param, click.Argument):
            (everywhere if isinstance(param, EverywhereOption) else own).append(record)
    for title, records in (("Options", own), ("Options everywhere", everywhere)):
        if records:
            with to.section(title):
                to.write_dl(records)


class Command(click.Command):
    """A command that also takes the options of everywhere, and knows where `--` stood."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += _everywhere()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and count what stands after `--`."""
        if isinstance(ctx.obj, Parsed):
            ctx.obj.dashed = len(args) - args.index("--") - 1 if "--" in args else None
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write its own options, then those of everywhere."""
        _write_options(self, ctx, formatter)


class Group(click.Group):
    """A command of commands. A name that it does not know gets the nearest that it does."""

    command_class = Command

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("no_args_is_help", False)
        super().__init__(*args, **kwargs)
        self.params += _everywhere()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or raise NoCommand with a guess."""
        if not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            raise NoCommand(args[0], self.names(ctx), ctx.command_path)
        return super().resolve_command(ctx, args)

    def names(self, ctx: click.Context) -> list[str]:
        """Return every name that a command has, aliases included."""
        return self.list_commands(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, then the options."""
        self.format_commands(ctx, formatter)
        _write_options(self, ctx, formatter)


class NoCommand(click.UsageError):
    """No command is called so."""

    def __init__(self, name: str, known: Iterable[str], within: str) -> None:
        import difflib

        super().__init__(f"no such command: {within} {name}")
        guess = difflib.get_close_matches(name, list(known), 1)
        self.hint = f"did you mean '{within} {guess[0]}'?" if guess else f"see '{within} --help'"


def pass_app(function: Callable[Concatenate[App, P], R]) -> Callable[P, R]:
    """Give a command its App as the first argument, in the directory that -C names."""

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        ctx = click.get_current_context()
        parsed = ctx.find_object(Parsed) or Parsed()
        return function(parsed.start(ctx.command_path), *args, **kwargs)

    return update_wrapper(call, function)


def dry_run_option(function: Callable[P, R]) -> Callable[P, R]:
    """Add `--dry-run`, which every command that writes takes."""
    return click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing")(
        function
    )


def token_file_option(function: Callable[P, R]) -> Callable[P, R]:
    """Add `--token-file`, which every command that talks to a server takes."""
    return click.option(
        "--token-file", metavar="FILE", help="Read the token from FILE; '-' is standard input"
    )(function)


def insecure_option(function: Callable[P, R]) -> Callable[P, R]:
    """Add `--insecure-http`, which every command that takes a URL takes."""
    return click.option(
        "--insecure-http", is_flag=True, help="Let plain http go beyond this machine"
    )(function)
