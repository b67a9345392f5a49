"""What every command shares: the options that work everywhere, and what they mean.

Only click is imported before a command runs; the rest comes when it is used.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, ParamSpec, TypeVar

import click

from gsync.errors import NotFound

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from gsync.config import Environment
    from gsync.objects.oid import ObjectId
    from gsync.sync.repository import Repository

P = ParamSpec("P")
R = TypeVar("R")


class Options(NamedTuple):
    """The options that work everywhere, as given before and after the command's name."""

    directory: str = ""
    json: bool = False
    quiet: bool = False
    verbose: bool = False
    no_color: bool = False
    no_progress: bool = False


class App:
    """What a command gets from `click.pass_obj`; parsing fills it in before the command runs.

    Attributes:
        options: What was asked for everywhere.
        dashed: How many arguments stand after `--`, or None where there is no `--`.
    """

    def __init__(self, args: Sequence[str] = ()) -> None:
        at = list(args).index("--") if "--" in args else len(args)
        self.dashed = None if at == len(args) else len(args) - at - 1
        # Known before parsing: an error on the way there has a form too.
        before = args[:at]
        self.options = Options(
            json="--json" in before, verbose="-v" in before or "--verbose" in before
        )

    def enter(self) -> None:
        """Go where -C says, so that every path means what it would mean there.

        Raises:
            NotFound: there is no such directory.
        """
        if self.options.directory:
            try:
                os.chdir(self.options.directory)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise NotFound(f"no such directory: {self.options.directory}") from error

    @property
    def directory(self) -> Path:
        """The directory that the command works in; -C has taken effect."""
        from pathlib import Path

        return Path.cwd()

    @property
    def json(self) -> bool:
        """Whether the result is one JSON document."""
        return self.options.json

    @cached_property
    def run_id(self) -> str:
        """What names this run of a command to the servers that it talks to."""
        return os.urandom(8).hex()

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

    def open(self, *, read_only: bool = False) -> Repository:
        """Open the repository that the directory lies in; the caller closes it.

        Raises:
            NotFound: there is none.
        """
        from gsync.sync.repository import open_repository

        return open_repository(self.directory, read_only=read_only)

    def progress(
        self, label: str, unit: str
    ) -> AbstractContextManager[Callable[[int], None] | None]:
        """Give a block the function to call with the number of `unit` done, or None."""
        from gsync.cli.output import progress

        return progress(self, label, unit)

    def exit(self, code: int) -> NoReturn:
        """End the command with that exit code."""
        raise click.exceptions.Exit(code)

    def key(self, repo: Repository, text: str) -> bytes:
        """Return the key of a path that the user typed; empty for the top of the folder.

        A table's name, `db/NAME/TABLE`, is meant from the top unless there is such a path.

        Raises:
            Invalid: it leads out of the folder.
        """
        from gsync.errors import Invalid
        from gsync.paths import check_path

        if _is_table(text) and not os.path.lexists(text):
            return text.encode("utf-8", "surrogateescape")
        # In a bare store there is no folder, and paths are keys as they stand.
        root = os.sep if repo.bare else os.fspath(repo.root)
        path = os.path.normpath(os.path.join(root if repo.bare else os.getcwd(), text))
        relative = os.path.relpath(path, root)
        if relative == ".":
            return b""
        if relative == ".." or relative.startswith("../"):
            raise Invalid(f"{text} is outside of {root}", path=text)
        key = os.fsencode(relative)
        check_path(key)
        return key

    def keys(self, repo: Repository, texts: Iterable[str]) -> list[bytes]:
        """Return the keys of paths that the user typed."""
        return [self.key(repo, text) for text in texts]

    def is_ignored(self, repo: Repository, key: bytes) -> bool:
        """Return whether the rules keep `key` out where it is new."""
        from pathlib import Path

        from gsync.paths import parents_of
        from gsync.replicas.files.ignore import RULE_FILE, Rules

        def rules_in(directory: bytes, above: Rules | None) -> Rules:
            file = Path(os.fsdecode(os.path.join(os.fsencode(repo.root), directory, RULE_FILE)))
            return Rules(above, directory, file.read_bytes() if file.is_file() else None)

        rules = rules_in(b"", None)
        for directory in parents_of(key):
            if rules.verdict(directory, is_directory=True) is not None:
                return True
            rules = rules_in(directory, rules)
        is_directory = (Path(repo.root) / os.fsdecode(key)).is_dir()
        return rules.verdict(key, is_directory=is_directory) is not None

    def resolve(self, repo: Repository, text: str) -> ObjectId:
        """Return the manifest that `text` names, or raise NotFound or Invalid."""
        from gsync.sync.revisions import resolve

        return resolve(repo.store, text)

    def split_revisions(
        self, repo: Repository, arguments: Sequence[str], *, most: int
    ) -> tuple[list[str], list[bytes]]:
        """Return which arguments are revisions, at most `most` leading ones, and the others' keys.

        With `--` what stands before it are revisions and what stands after it paths.

        Raises:
            Invalid: an argument is both, or more than `most` stand before `--`.
            NotFound: an argument is neither.
        """
        from gsync.errors import Invalid

        if self.dashed is not None:
            at = len(arguments) - self.dashed
            if at > most:
                raise Invalid(f"expected at most {most} revision(s) before '--', found {at}")
            return list(arguments[:at]), self.keys(repo, arguments[at:])
        count = 0
        while count < min(most, len(arguments)) and self._is_revision(repo, arguments[count]):
            if os.path.lexists(arguments[count]):
                raise Invalid(
                    f"{arguments[count]!r} is both a revision and a path",
                    hint="put '--' between revisions and paths",
                )
            count += 1
        return list(arguments[:count]), self.keys(repo, arguments[count:])

    def _is_revision(self, repo: Repository, text: str) -> bool:
        try:
            self.resolve(repo, text)
        except NotFound:
            if os.path.lexists(text) or "/" in text or "." in text:
                return False
            raise
        return True


def _is_table(text: str) -> bool:
    """Return whether `text` is spelled like the collection of a table, wherever it is typed."""
    return text.startswith("db/") and text.count("/") == 2 and not text.endswith("/")


class EverywhereOption(click.Option):
    """An option that every command and every group of commands takes."""


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if not value or ctx.resilient_parsing or not isinstance(ctx.obj, App):
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
    own: list[tuple[str, str]] = []
    everywhere: list[tuple[str, str]] = []
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx)
        if record is not None and not isinstance(param, click.Argument):
            (everywhere if isinstance(param, EverywhereOption) else own).append(record)
    for title, records in (("Options", own), ("Options everywhere", everywhere)):
        if records:
            with to.section(title):
                to.write_dl(records)


class Command(click.Command):
    """A command that also takes the options of everywhere, and runs where -C says."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += _everywhere()

    def invoke(self, ctx: click.Context) -> Any:
        """Run in the directory that -C names."""
        if isinstance(ctx.obj, App):
            ctx.obj.enter()
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write its own options, then those of everywhere."""
        _write_options(self, ctx, formatter)


def command(name: str | None = None, **how: Any) -> Callable[[Callable[..., Any]], Command]:
    """Make a function a command; everything else is as for click's decorator."""
    return click.command(name, cls=Command, **how)


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


def group(name: str | None = None, **how: Any) -> Callable[[Callable[..., Any]], Group]:
    """Make a function a command of commands."""
    return click.group(name, cls=Group, **how)


class NoCommand(click.UsageError):
    """No command is called so."""

    def __init__(self, name: str, known: Iterable[str], within: str) -> None:
        import difflib

        super().__init__(f"no such command: {within} {name}")
        guess = difflib.get_close_matches(name, list(known), 1)
        self.hint = f"did you mean '{within} {guess[0]}'?" if guess else f"see '{within} --help'"


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


def ca_file_option(function: Callable[P, R]) -> Callable[P, R]:
    """Add `--ca-file`, which every command takes that makes a remote."""
    return click.option(
        "--ca-file", metavar="FILE", help="Trust the certificates in FILE, PEM, and no others"
    )(function)


def no_databases_option(function: Callable[P, R]) -> Callable[P, R]:
    """Add `--no-databases`, which every command that scans or writes the folder takes."""
    return click.option(
        "--no-databases", is_flag=True, help="Leave databases alone, whatever is configured"
    )(function)


def accept_option(function: Callable[P, R]) -> Callable[P, R]:
    """Add `--accept`, which every command that writes into databases takes."""
    return click.option(
        "--accept",
        metavar="TABLE[.COLUMN],...",
        multiple=True,
        help="Let what gsync.toml protects be altered, all rows of a table be gone, or a table"
        " be recorded that was never brought to HEAD",
    )(function)


def moving_options(function: Callable[P, R]) -> Callable[P, R]:
    """Add what a command takes that brings a folder and its databases to another manifest."""
    return no_databases_option(accept_option(dry_run_option(function)))


def split_names(texts: Iterable[str]) -> list[str]:
    """Return the names in options that take several, with commas between."""
    return [name.strip() for text in texts for name in text.split(",") if name.strip()]
