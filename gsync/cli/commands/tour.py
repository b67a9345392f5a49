"""tour: the main job on a small example, with real commands and a real server."""

from __future__ import annotations

import filecmp
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from gsync.cli.app import App, command
from gsync.cli.output import emit
from gsync.errors import Corrupt, Unavailable

START_TIMEOUT_S = 15.0
COMMAND_TIMEOUT_S = 60.0

_AGENT = """---
id: {name}
name: {title}
model: default
tools: [search, write]
---

You are {title}. Answer from the documentation in content/, name the page you used,
and say so when it does not know.
"""

_SKILL = """# {title}

When somebody asks for {title}, gather what is known, list what is missing, and propose
the next step. Keep it under two hundred words.
"""

_PAGE = """---
title: {title}
---

{title} explains one part of the platform. It is short so that the tour is quick.
"""


@command()
@click.option("--keep", is_flag=True, help="Keep the temporary folder")
@click.pass_obj
def tour(app: App, keep: bool) -> None:
    """Show the main job in a temporary folder: two pushes, a clone, a diff, a verify."""
    folder = Path(tempfile.mkdtemp(prefix="gsync-tour-"))
    guide = _Guide(app, folder)
    start = time.monotonic()
    try:
        guide.walk()
    finally:
        guide.stop_server()
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    seconds = time.monotonic() - start
    emit(
        app,
        {"commands": guide.commands, "seconds": round(seconds, 2), "folder": str(folder)},
        lambda: [
            "",
            f"Done in {seconds:.1f} s: {len(guide.commands)} commands, every byte compared.",
            f"The folder is kept: {folder}" if keep else "The temporary folder is gone again.",
        ],
    )


class _Guide:
    def __init__(self, app: App, folder: Path) -> None:
        self._app = app
        self._folder = folder
        self._server: subprocess.Popen[str] | None = None
        self._environment = _clean_environment(folder)
        self.commands: list[str] = []

    def walk(self) -> None:
        """Run the whole tour.

        Raises:
            Corrupt: a clone is not equal to its source.
            Unavailable: the server did not start.
        """
        work, copy, data = (self._folder / name for name in ("work", "copy", "data"))
        self._say("A server: one store for each tenant, a token to write to it.")
        token = self._gsync(
            self._folder, "token", "add", "--data", str(data), "--tenant", "demo",
            "--scope", "write", quiet=True,
        )  # fmt: skip
        self._environment["GSYNC_TOKEN"] = _token_in(token)
        url = self._start_server(data) + "/demo"

        self._say("A folder of agents, skills and content becomes a manifest.")
        make_sample(work)
        self._gsync(work, "init")
        self._gsync(work, "snapshot", "-m", "first")
        self._gsync(work, "remote", "add", "origin", url)
        self._gsync(work, "push")

        self._say("An edit, a rename, a new file and a deletion: only they travel.")
        edit_sample(work)
        self._gsync(work, "status")
        self._gsync(work, "snapshot", "-m", "second")
        self._gsync(work, "push")
        self._gsync(work, "push")

        self._say("Anywhere else, the same bytes.")
        self._gsync(self._folder, "clone", url, "copy")
        _compare(work, copy)
        click.echo("The two folders are equal, byte for byte.", err=self._app.json)

        self._say("Every past state can be compared offline, and checked.")
        self._gsync(copy, "log", "--oneline")
        self._gsync(copy, "diff", "HEAD~1", "HEAD", "--stat")
        self._gsync(copy, "verify")

    def _say(self, text: str) -> None:
        click.echo(f"\n{text}", err=self._app.json)

    def _gsync(self, directory: Path, *arguments: str, quiet: bool = False) -> str:
        shown = shlex.join(["gsync", *(_short(self._folder, a) for a in arguments)])
        self.commands.append(shown)
        place = directory.relative_to(self._folder)
        click.echo(f"{place if str(place) != '.' else '~'}$ {shown}", err=self._app.json)
        done = subprocess.run(
            [sys.executable, "-m", "gsync", *arguments],
            cwd=directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        output = _short(self._folder, done.stdout.rstrip())
        if quiet:
            output = re.sub(r"gs_\S+", "gs_… (shown once)", output)
        if output:
            click.echo("".join(f"  {line}\n" for line in output.splitlines()), nl=False,
                       err=self._app.json)  # fmt: skip
        if done.returncode:
            raise Unavailable(
                f"'{shown}' ended with {done.returncode}",
                hint="run the command by hand to see more, and report it if it should work",
            )
        return done.stdout

    def _start_server(self, data: Path) -> str:
        arguments = ["serve", "--data", str(data), "--port", "0"]
        self.commands.append("gsync serve --data data --port 0")
        click.echo(f"~$ {self.commands[-1]} &", err=self._app.json)
        log = self._folder / "server.log"
        with log.open("w") as out:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "gsync", *arguments],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._server.poll() is None:
            found = re.search(r"listening on (http://\S+)", log.read_text())
            if found:
                click.echo(f"  listening on {found[1]}", err=self._app.json)
                return found[1].rstrip("/")
            time.sleep(0.02)
        raise Unavailable(f"the server did not start: {log.read_text()[-500:]}")

    def stop_server(self) -> None:
        """End the server that this tour started."""
        if self._server is not None and self._server.poll() is None:
            self._server.terminate()
            try:
                self._server.wait(10)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()


def _clean_environment(folder: Path) -> dict[str, str]:
    """Return an environment in which nothing of the user's own set-up takes part."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GSYNC_")}
    environment["HOME"] = str(folder / "home")
    environment["NO_COLOR"] = "1"
    environment["NO_PROXY"] = "*"
    # The package that runs now is the one that the commands shall run.
    package = Path(__file__).parents[3]
    paths = [str(package), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        environment.pop(name, None)
    (folder / "home").mkdir()
    return environment


def _token_in(output: str) -> str:
    found = re.search(r"gs_[A-Za-z0-9_-]+", output)
    if found is None:
        raise Unavailable("'gsync token add' printed no token")
    return found[0]


def _short(folder: Path, text: str) -> str:
    return text.replace(f"{folder}/", "").replace(str(folder), "~")


def make_sample(folder: Path) -> None:
    """Write a small services tree: agents, skills, content, a configuration."""
    files: dict[str, str] = {"config/config.yaml": "name: demo\nlanguage: en\n"}
    for name in ("writer", "reviewer", "librarian"):
        files[f"agents/{name}.md"] = _AGENT.format(name=name, title=name.title())
    for name in ("summary", "comparison", "plan", "review"):
        files[f"skills/{name}/SKILL.md"] = _SKILL.format(title=name)
    for number in range(1, 41):
        files[f"content/page-{number:02}.md"] = _PAGE.format(title=f"Page {number}")
    _write(folder, files)


def edit_sample(folder: Path) -> None:
    """Change the sample: one edit, one rename, one new file, one deletion."""
    page = folder / "content/page-07.md"
    page.write_text(page.read_text() + "\nOne more line.\n")
    (folder / "skills/plan").rename(folder / "skills/planning")
    (folder / "content/page-40.md").unlink()
    _write(folder, {"agents/translator.md": _AGENT.format(name="translator", title="Translator")})


def _write(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _compare(left: Path, right: Path) -> None:
    names = [_list(folder) for folder in (left, right)]
    if names[0] != names[1]:
        raise Corrupt(f"the clone has other files: {sorted(set(names[0]) ^ set(names[1]))[:5]}")
    _, different, errors = filecmp.cmpfiles(left, right, names[0], shallow=False)
    if different or errors:
        raise Corrupt(f"the clone differs: {(different + errors)[:5]}")


def _list(folder: Path) -> Sequence[str]:
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and ".gsync" not in path.relative_to(folder).parts
    )
