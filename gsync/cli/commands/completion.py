"""`gsync completion`."""

from __future__ import annotations

import click

from gsync.cli.app import App, command
from gsync.cli.output import emit
from gsync.errors import Invalid

# shell -> the line that switches completion on, and where it goes.
INSTRUCTIONS = {
    "bash": ('eval "$(gsync completion bash)"', "~/.bashrc"),
    "zsh": ('eval "$(gsync completion zsh)"', "~/.zshrc"),
    "fish": ("gsync completion fish | source", "~/.config/fish/config.fish"),
}


@command()
@click.argument("shell", required=False, type=click.Choice(list(INSTRUCTIONS)))
@click.pass_obj
def completion(app: App, shell: str | None) -> None:
    """Print what completes gsync's commands in SHELL, or how to switch it on"""
    if shell is None:
        lines = {name: {"line": line, "file": file} for name, (line, file) in INSTRUCTIONS.items()}
        emit(
            app,
            {"shells": lines},
            lambda: [f"{n}: add to {file}:  {line}" for n, (line, file) in INSTRUCTIONS.items()],
        )
        return
    from click.shell_completion import get_completion_class

    from gsync.cli.main import COMPLETE_VARIABLE, cli

    found = get_completion_class(shell)
    if found is None:
        raise Invalid(f"click knows no completion for {shell}")
    script = found(cli, {}, "gsync", COMPLETE_VARIABLE).source()
    emit(app, {"shell": shell, "script": script}, lambda: [script])
