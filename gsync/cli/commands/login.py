"""`gsync login` and `gsync logout`."""

from __future__ import annotations

import click

from gsync.cli.app import App, command, dry_run_option, insecure_option, token_file_option
from gsync.cli.output import emit
from gsync.errors import NotFound


@command()
@click.argument("url")
@token_file_option
@insecure_option
@dry_run_option
@click.pass_obj
def login(app: App, url: str, token_file: str | None, insecure_http: bool, dry_run: bool) -> None:
    """Keep the token for the server's tenant at URL

    The token is read from --token-file, else asked for, and kept in the keyring where there is
    one, else in a file that only you can read.
    """
    from gsync.cli.credentials import check_token, read_token, server_url, store_token

    where = server_url(url, insecure_http=insecure_http)
    if token_file is not None:
        token = read_token(token_file)
    else:
        asked = click.prompt(f"Token for {where}", hide_input=True, err=True)
        token = check_token(asked, "the answer")
    stored = None if dry_run else store_token(where, token, app.environment)
    emit(
        app,
        {"url": str(where), "stored": stored},
        lambda: [f"would keep the token for {where}" if dry_run else f"token kept in {stored}"],
        report=True,
    )


@command()
@click.argument("url")
@dry_run_option
@click.pass_obj
def logout(app: App, url: str, dry_run: bool) -> None:
    """Forget the token for the server's tenant at URL"""
    from gsync.cli.credentials import drop_token, find_token_and_source, server_url
    from gsync.config import environment

    where = server_url(url, insecure_http=True)
    if dry_run:
        # What the environment holds is not ours to forget.
        home = {"XDG_CONFIG_HOME": str(app.environment.config_home)}
        found = find_token_and_source(str(where), None, environment(home))[0] is not None
    else:
        found = drop_token(where, app.environment)
    if not found:
        raise NotFound(f"no token is kept for {where}")
    emit(
        app,
        {"url": str(where)},
        lambda: [f"{'would forget' if dry_run else 'forgot'} the token for {where}"],
        report=True,
    )
