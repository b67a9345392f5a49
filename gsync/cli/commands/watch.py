"""watch: snapshots, and syncs, as a folder changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gsync.cli.app import App, command, no_databases_option
from gsync.cli.output import note

if TYPE_CHECKING:
    from gsync.jobs.watch import Ran


@command()
@click.option("--sync", "remote", metavar="REMOTE", help="Sync with it, too")
@click.option(
    "--rest",
    type=click.FloatRange(0.05, 3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Act when nothing has changed for so long",
)
@click.option("-m", "--message", metavar="TEXT", default="watch", help="What manifests say")
@click.option("--poll", is_flag=True, help="Look at every file: for network file systems")
@no_databases_option
@click.pass_obj
def watch(
    app: App, remote: str | None, rest: float, message: str, poll: bool, no_databases: bool
) -> None:
    """Make a snapshot whenever the folder has changed and come to rest, until interrupted.

    A line on standard error says what came of each. One is made at the start, and every ten
    minutes. A second interrupt does not wait for one that is under way.
    """
    import signal
    import sys

    from gsync.jobs.watch import Watcher

    with app.open(read_only=True) as repo:
        root, workdir = repo.root, repo.workdir
        if repo.bare:
            raise click.UsageError(f"{root} is a bare store, which has no folder to watch")
        if remote is not None:
            repo.config.remote(remote)
    gsync = [sys.executable, "-m", "gsync", "-C", str(root), "--json"]
    options = [f"--message={message}", *(["--no-databases"] if no_databases else [])]
    commands = [[*gsync, "snapshot", *options]]
    if remote is not None:
        commands.append([*gsync, "sync", remote, *options])
    watcher = Watcher(root, workdir, commands, lambda ran: _tell(app, ran), rest_s=rest, poll=poll)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: watcher.stop())
    watcher.run(lambda: note(app, f"watching {root}"))


def _tell(app: App, ran: Ran) -> None:
    error = ran.document.get("error")
    if error:
        note(app, f"failed: {error.get('message')}")
    elif ran.code:
        note(app, f"failed: {ran.said.strip() or f'exit code {ran.code}'}")
    elif ran.document.get("manifest"):
        note(app, f"{ran.document['manifest'][:12]} made")
