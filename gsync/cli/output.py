"""Results -> text, tables or one JSON document; errors -> exit codes.

Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from gsync.cli.app import App
from gsync.errors import (
    Conflict,
    Corrupt,
    Denied,
    GsyncError,
    Invalid,
    NotFound,
    TooLarge,
    Unavailable,
)

if TYPE_CHECKING:
    from gsync.replicas.base import Notice

JSON_FORMAT = 1

DONE = 0
DIFFERENT = 1
INTERNAL = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED = 130  # 128 + SIGINT, as shells say it
PIPE_CLOSED = 141  # 128 + SIGPIPE

# 10-cli, section 3. Looked up with isinstance, so that every error of a kind has its code.
EXIT_CODES: dict[type[GsyncError], int] = {
    Invalid: 2,
    TooLarge: 2,
    Denied: 3,
    NotFound: 4,
    Conflict: 5,
    Corrupt: 6,
    Unavailable: 7,
}

# Also the marks that let text run from right to left, and hide what it says.
_STEERING = re.compile(
    r"(?!\x1b\[(?:0|1|2|3[1-6])?m)[\x00-\x08\x0a-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)

# A command that is done sooner shows no progress, and does not load what draws it.
_PROGRESS_AFTER_S = 0.5


def exit_code(error: GsyncError) -> int:
    """Return the exit code of an error's kind."""
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), INTERNAL)


# --- Results -------------------------------------------------------------------------


def emit(
    app: App,
    document: dict[str, Any],
    text: Callable[[], Iterable[str]],
    *,
    report: bool = False,
) -> None:
    """Print the result: `document` with --json, else the lines of `text`.

    Args:
        document: Without `format`, which is added.
        text: Called only when text is wanted.
        report: The text only tells what was done, so that -q leaves it out.
    """
    if app.options.json:
        print_json(document)
    elif not (report and app.options.quiet):
        write_lines(text())


def write_lines(lines: Iterable[str]) -> None:
    """Print lines as they come; `click.echo` would flush after each of a million."""
    show = visible if sys.stdout.isatty() else str
    for line in lines:
        sys.stdout.write(show(line) + "\n")


def write_line(line: str) -> None:
    """Print one line."""
    write_lines((line,))


def visible(line: str) -> str:
    """Return `line` with what would steer a terminal made visible: contents are anybody's.

    Tabs and changes of colour pass; ESC is `^[`, and what lies above ASCII `<9b>`.
    """
    if line.isprintable():
        return line
    return _STEERING.sub(lambda found: _shown(ord(found[0])), line)


def _shown(code: int) -> str:
    return f"^{chr(code ^ 0x40)}" if code < 0x80 else f"<{code:02x}>"


def print_json(document: dict[str, Any]) -> None:
    """Print `document` as one JSON document with its format number."""
    import json

    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(
        {"format": JSON_FORMAT, **document}, ensure_ascii=not utf8, indent=2, default=_plain
    )
    sys.stdout.write(text + "\n")


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return key_json(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return str(value)


def note(app: App, text: str) -> None:
    """Tell the user something beside the result, unless -q."""
    if not app.options.quiet:
        click.echo(text, err=True)


def detail(app: App, text: str) -> None:
    """Tell the user something that only -v asks for."""
    if app.options.verbose:
        click.echo(text, err=True)


def warn(app: App, text: str) -> None:
    """Tell the user what may be wrong, even with -q."""
    click.echo(f"warning: {text}", err=True)


def style(app: App, text: str, color: str) -> str:
    """Return `text` in that colour of click's where colours are wanted."""
    return click.style(text, fg=color) if app.color else text


def table(rows: Iterable[Sequence[str]], header: Sequence[str] = ()) -> Iterator[str]:
    """Yield `rows` as lines of aligned columns, the header above them where there is one."""
    lines = [header, *rows] if header else list(rows)
    widths = [max(map(_cells, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = (c + " " * (width - _cells(c)) for c, width in zip(line, widths, strict=True))
        yield "  ".join(padded).rstrip()


def _cells(text: str) -> int:
    if text.isascii() and text.isprintable():
        return len(text)
    from rich.cells import cell_len

    return cell_len(click.unstyle(text))


def size(count: int) -> str:
    """Return a number of bytes for people: `17 B`, `1.5 KiB`."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 1023.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} PiB"


def short(oid: bytes | None) -> str:
    """Return the digits of an id that are enough for people; `none` for no id."""
    return "none" if oid is None else oid.hex()[:12]


def when(time_us: int) -> str:
    """Return microseconds since 1970 as RFC 3339 in UTC; the fraction only where there is one."""
    from datetime import UTC, datetime, timedelta

    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)
    except OverflowError:  # a manifest's time is a claim, and may be any number
        return f"{time_us} us"
    return moment.isoformat().replace("+00:00", "Z")


def key_json(key: bytes) -> str | dict[str, str]:
    """Return a key for JSON: as text, or its hex form where it is not UTF-8."""
    try:
        return key.decode()
    except UnicodeDecodeError:
        return {"hex": key.hex()}


def notices(app: App, found: Sequence[Notice], *, brief: bool = False) -> Iterator[str]:
    """Yield what a scan noticed: a line for each, or when brief one for each sort."""
    from gsync.paths import show_path

    if not brief:
        for one in found:
            text = one.text.removeprefix(f"{show_path(one.path)} ")
            yield f"{style(app, '!', 'yellow')} {show_path(one.path)}: {text}"
        return
    sorts: dict[str, int] = {}
    for one in found:
        sorts[one.code] = sorts.get(one.code, 0) + 1
    for code, count in sorted(sorts.items()):
        yield f"{style(app, '!', 'yellow')} {count} path(s): {code}; 'gsync status' lists them"


@contextmanager
def progress(app: App, label: str, unit: str) -> Iterator[Callable[[int], None] | None]:
    """Give the block a function to be told how far it is, or None where nobody watches.

    Args:
        unit: What the numbers count, such as files; for `bytes` the speed is shown too.
    """
    unwanted = app.options.no_progress or app.options.json or app.options.quiet
    if unwanted or not sys.stderr.isatty():
        yield None
        return
    import time

    bars: list[tuple[Any, Any]] = []
    began = time.monotonic()

    def advance(done: int) -> None:
        if not bars:
            if time.monotonic() - began < _PROGRESS_AFTER_S:
                return
            bars.append(_start_bar(app, label, unit))
        bar, task = bars[0]
        bar.update(task, completed=done)

    try:
        yield advance
    finally:
        for bar, _ in bars:
            bar.stop()


def _start_bar(app: App, label: str, unit: str) -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import (
        DownloadColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TransferSpeedColumn,
    )

    columns: list[ProgressColumn] = [TextColumn("{task.description}")]
    if unit == "bytes":
        columns += [DownloadColumn(), TransferSpeedColumn()]
    else:
        columns += [TextColumn(f"{{task.completed:,}} {unit}")]
    console = Console(stderr=True, no_color=app.options.no_color or app.environment.no_color)
    bar = Progress(*columns, TimeElapsedColumn(), console=console, transient=True)
    bar.start()
    return bar, bar.add_task(label, total=None)


# --- Errors --------------------------------------------------------------------------


def report_error(error: GsyncError, *, json: bool) -> int:
    """Print `error` as 10-cli, section 3 says; return its exit code."""
    hint, run = error.hint, error.details.get("run")
    if run and not json and not isinstance(error, Conflict):  # one that is nobody's fault
        found = f"the server's log has it under run {run}"
        hint = f"{hint}; {found}" if hint else found
    _print_error(error.kind, error.message, hint, error.details, json=json)
    return exit_code(error)


def report_usage(error: click.ClickException, *, json: bool) -> int:
    """Print what click says about wrong usage in the form of every other error."""
    message, hint = _usage(error)
    _print_error(Invalid.kind, message, hint, {}, json=json)
    return EXIT_CODES[Invalid]


def _usage(error: click.ClickException) -> tuple[str, str | None]:
    ctx = getattr(error, "ctx", None)
    hint = f"see '{ctx.command_path} --help'" if ctx else None
    if isinstance(error, click.NoSuchOption):
        if error.possibilities:
            hint = f"did you mean {error.possibilities[0]}?"
        return f"no such option: {error.option_name}", hint
    text = " ".join(error.format_message().split()).removesuffix(".")
    return text[:1].lower() + text[1:], getattr(error, "hint", None) or hint


def report_internal(error: BaseException, *, json: bool, verbose: bool) -> int:
    """Print one line about a defect of gsync, and the traceback only with -v."""
    if verbose:
        import traceback

        sys.stderr.write("".join(traceback.format_exception(error)))
    what = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    hint = "please report this" + ("" if verbose else ", with what the same command prints with -v")
    _print_error("internal", f"internal error: {what}", hint, {}, json=json)
    return INTERNAL


def report_interrupted(*, json: bool) -> int:
    """Print that the user stopped the command."""
    _print_error("interrupted", "interrupted", None, {}, json=json)
    return INTERRUPTED


def _print_error(
    kind: str, message: str, hint: str | None, details: dict[str, Any], *, json: bool
) -> None:
    if json:
        error = {"kind": kind, "message": message, "hint": hint, "details": details}
        print_json({"error": error})
        return
    click.echo(f"gsync: {_one_line(message)}", err=True)
    if hint:
        click.echo(f"hint: {_one_line(hint)}", err=True)


def _one_line(text: str) -> str:
    """Return `text` without what would start a line or steer the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
