"""`gsync remote`: other stores by name."""

from __future__ import annotations

import os
from typing import Any

import click

from gsync.cli.app import (
    App,
    ca_file_option,
    dry_run_option,
    group,
    insecure_option,
    token_file_option,
)
from gsync.cli.output import emit, short, table


@group()
def remote() -> None:
    """List, add and remove other stores"""


@remote.command("add")
@click.argument("name")
@click.argument("url")
@token_file_option
@insecure_option
@ca_file_option
@dry_run_option
@click.pass_obj
def add(
    app: App,
    name: str,
    url: str,
    token_file: str | None,
    insecure_http: bool,
    ca_file: str | None,
    dry_run: bool,
) -> None:
    """Call the store at URL by NAME

    URL is http(s)://HOST[:PORT]/TENANT, file:///PATH or a path; of a peer that speaks the older
    system's tarballs tarball+https://HOST, or relay+https://HOST/TENANT through the control
    plane. --token-file is remembered.
    """
    from gsync.config import Remote
    from gsync.configedit import add_remote
    from gsync.errors import Conflict
    from gsync.urls import PathUrl, check_remote_name, parse_url

    check_remote_name(name)
    where = parse_url(url, insecure_http=insecure_http)
    # Read from another directory, a relative path would lead elsewhere.
    text = os.path.abspath(where.path) if isinstance(where, PathUrl) else str(where)
    if token_file is not None:
        token_file = str(app.directory / token_file)
    if ca_file is not None:
        ca_file = str(app.directory / ca_file)
    with app.open() as repo, repo.locked("gsync remote"):
        if dry_run:
            if name in repo.config.remotes:
                raise Conflict(f"a remote is called {name!r} already")
        else:
            add_remote(repo.workdir, name, Remote(text, token_file, insecure_http, ca_file))
    emit(
        app,
        {"name": name, "url": text},
        lambda: [f"{'would add' if dry_run else 'added'} {name}: {text}"],
        report=True,
    )


@remote.command("list")
@click.pass_obj
def list_(app: App) -> None:
    """List the remotes and their URLs"""
    with app.open(read_only=True) as repo:
        remotes = repo.config.remotes
    rows = [(name, remotes[name].url) for name in sorted(remotes)]
    emit(
        app,
        {"remotes": [{"name": name, "url": url} for name, url in rows]},
        lambda: table(rows),
    )


@remote.command("remove")
@click.argument("name")
@dry_run_option
@click.pass_obj
def remove(app: App, name: str, dry_run: bool) -> None:
    """Forget the store called NAME, its refs and its log; nothing is removed there"""
    from gsync.configedit import remove_remote
    from gsync.sync.exchange import forget_peer
    from gsync.sync.runs import forget_remote

    with app.open() as repo, repo.locked("gsync remote"):
        url = repo.config.remote(name).url
        if not dry_run:
            # First: what is half forgotten is fetched again, what is half kept would be believed.
            repo.store.drop_remote(name)
            forget_remote(repo.store, name)
            forget_peer(repo, url)
            remove_remote(repo.workdir, name)
    emit(
        app,
        {"name": name, "url": url},
        lambda: [f"{'would remove' if dry_run else 'removed'} {name}: {url}"],
        report=True,
    )


@remote.command("show")
@click.argument("name")
@token_file_option
@click.pass_obj
def show(app: App, name: str, token_file: str | None) -> None:
    """Show a remote: its URL, where its token comes from, and its refs as last seen"""
    from gsync.cli.credentials import find_token_and_source
    from gsync.urls import PathUrl

    with app.open(read_only=True) as repo:
        known = repo.config.remote(name)
        refs = dict(sorted(repo.store.tracking(name).items()))
    where = known.location()
    source = None
    if not isinstance(where, PathUrl):
        source = find_token_and_source(known.url, token_file or known.token_file, app.environment)[
            1
        ]
    document: dict[str, Any] = {
        "name": name,
        "url": known.url,
        "insecure_http": known.insecure_http,
        "token": source,
        "refs": {ref: oid.hex() for ref, oid in refs.items()},
    }

    def text() -> list[str]:
        rows = [("url", known.url)]
        if not isinstance(where, PathUrl):
            rows.append(("token", source or "none; see 'gsync login'"))
        return [*table([*rows, *((f"{name}/{ref}", short(oid)) for ref, oid in refs.items())])]

    emit(app, document, text)
