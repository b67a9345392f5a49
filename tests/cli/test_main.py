"""The wiring of the command line: few tests, since what commands do is tested below it."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from gsync.cli import main as command_line
from gsync.cli.app import command
from gsync.cli.main import cli, run
from gsync.cli.output import EXIT_CODES, exit_code, key_json, size, when
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
from gsync.oserrors import from_os_error

HEAVY = ("json", "msgpack", "requests", "rich", "sqlite3", "sqlite_utils", "starlette", "tomllib")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch):
    """Let `gsync completion` raise what the test wants."""

    def install(error: BaseException) -> None:
        @command("completion")
        def fail() -> None:
            raise error

        monkeypatch.setattr(command_line, "_load", lambda target: fail)

    return install


def test_version_loads_only_click() -> None:
    """`gsync --version` prints the version, and of gsync's libraries imports click alone."""
    program = (
        "import sys; from gsync.cli.main import run; code = run(['--version'])\n"
        f"print(code, [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    first, second = done.stdout.splitlines()
    assert first.startswith("gsync ")
    assert (second, done.stderr) == ("0 []", "")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Invalid("x"), 2),
        (TooLarge("x"), 2),
        (Denied("x"), 3),
        (NotFound("x"), 4),
        (Conflict("x"), 5),
        (Corrupt("x"), 6),
        (Unavailable("x"), 7),
        (KeyboardInterrupt(), 130),
        (OSError(errno.ENOSPC, "No space left on device"), 7),
        (OSError(errno.EACCES, "Permission denied", "f"), 3),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141),
        (KeyError("x"), 70),
    ],
)
def test_every_failure_has_its_exit_code(error, code, failing, capsys) -> None:
    """Whatever a command raises becomes the exit code of its kind, without a traceback."""
    failing(error)
    assert run(["completion"]) == code
    assert "Traceback" not in capsys.readouterr().err


def test_subclass_has_the_code_of_its_kind() -> None:
    """An error nobody listed is found by its kind, and every kind is listed."""
    assert exit_code(type("Odd", (Corrupt,), {})("x")) == 6
    kinds = {kind for kind in GsyncError.__subclasses__() if kind.__module__ == "gsync.errors"}
    assert set(EXIT_CODES) == kinds


def test_error_is_two_lines(failing, capsys) -> None:
    """An error is one line and a hint on stderr, and cannot steer the terminal."""
    failing(Conflict("main moved\x1b[2J", hint="pull"))
    run(["completion"])
    assert capsys.readouterr() == ("", "gsync: main moved\\x1b[2J\nhint: pull\n")


@pytest.mark.parametrize("args", [["--json", "completion"], ["completion", "--json"]])
def test_error_as_json(args, failing, capsys) -> None:
    """With --json, before or after the command, an error is one document on stdout."""
    failing(NotFound("no such thing", hint="look", name="thing"))
    assert run(args) == 4
    out, err = capsys.readouterr()
    expected = {
        "kind": "not_found",
        "message": "no such thing",
        "hint": "look",
        "details": {"name": "thing"},
    }
    assert (json.loads(out), err) == ({"format": 1, "error": expected}, "")


def test_usage_error_as_json(capsys) -> None:
    """What click refuses has the same form, even when --json stands behind the mistake."""
    assert run(["completion", "--nonsense", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "invalid"


def test_defect_shows_traceback_only_when_asked(failing, capsys) -> None:
    """A defect is one line that asks for a report; -v adds the traceback."""
    failing(KeyError("x"))
    run(["completion"])
    assert capsys.readouterr().err.startswith("gsync: internal error: KeyError: 'x'\nhint: please")
    run(["completion", "-v"])
    assert "Traceback" in capsys.readouterr().err


def test_unknown_command_gets_a_guess(capsys) -> None:
    """A mistyped command is exit 2 with the nearest command in the hint."""
    assert run(["remot"]) == 2
    assert capsys.readouterr().err == (
        "gsync: no such command: gsync remot\nhint: did you mean 'gsync remote'?\n"
    )


def test_directories_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """-C before and after the command are taken one after the other."""
    seen: list[Path] = []

    @command("completion")
    @click.pass_obj
    def look(app) -> None:
        seen.append(app.directory)

    monkeypatch.setattr(command_line, "_load", lambda target: look)
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert run(["-C", str(tmp_path / "a"), "completion", "-C", "b"]) == 0
    assert seen == [tmp_path / "a" / "b"]
    assert run(["-C", str(tmp_path / "none"), "completion"]) == 4


def test_login_keeps_a_private_file(sealed: Path, capsys) -> None:
    """Without a keyring a token lies in a file of mode 0600, and logout takes it away."""
    (sealed / "token").write_text("secret-1\n")
    url = "https://example.org/team"
    assert run(["login", url, "--token-file", str(sealed / "token")]) == 0
    path = sealed / ".config" / "gsync" / "tokens.toml"
    assert path.stat().st_mode & 0o777 == 0o600
    assert "secret-1" in path.read_text()
    assert run(["logout", url]) == 0
    assert "secret-1" not in path.read_text()
    assert run(["logout", url]) == 4
    assert "secret-1" not in "".join(capsys.readouterr())


def test_numbers_and_keys_for_people() -> None:
    """Sizes, times and keys are shown as 10-cli says."""
    assert [size(n) for n in (0, 1023, 1024, 1536, 1 << 30)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 KiB",
        "1.0 GiB",
    ]
    assert when(0) == "1970-01-01T00:00:00Z"
    assert when(1) == "1970-01-01T00:00:00.000001Z"
    assert key_json(b"a\xff") == {"hex": "61ff"}
    assert isinstance(from_os_error(OSError(errno.EROFS, "x")), Denied)


def test_table_names_commands_that_exist() -> None:
    """Every command of the table can be loaded, and has the name the table gives it."""
    ctx = click.Context(cli)
    for name in cli.list_commands(ctx):
        found = cli.get_command(ctx, name)
        assert found is not None
        assert found.name == name
