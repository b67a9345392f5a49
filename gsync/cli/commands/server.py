"""`gsync serve` and `gsync token`, on the server's machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gsync.cli.app import App, command, dry_run_option, group
from gsync.cli.output import emit, table, when
from gsync.errors import Invalid

if TYPE_CHECKING:
    from gsync.server.auth import Accounts, Token

data_option = click.option(
    "--data", required=True, metavar="DIR", help="Where the server keeps tenants and tokens"
)


@command()
@data_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8420, show_default=True, help="0 takes any"
)
@click.option("--tls-cert", metavar="FILE", help="Certificate chain, PEM")
@click.option("--tls-key", metavar="FILE", help="Private key of the certificate, PEM")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How the lines about requests are written",
)
@click.option(
    "--attach",
    "attached",
    multiple=True,
    metavar="TENANT=DIR",
    help="Serve a live gsync folder, its databases included, as a tenant; repeatable",
)
@click.option(
    "--metrics",
    metavar="[HOST:]PORT",
    help="Give Prometheus figures there, without a token; on this machine alone unless HOST is"
    " named",
)
@click.option(
    "--allow-missing-client-id",
    is_flag=True,
    help="Let clients of the older system exchange a token without saying who they are",
)
@click.pass_obj
def serve(
    app: App,
    data: str,
    host: str,
    port: int,
    tls_cert: str | None,
    tls_key: str | None,
    log_format: str,
    attached: tuple[str, ...],
    metrics: str | None,
    allow_missing_client_id: bool,
) -> None:
    """Serve the tenants of a data directory until interrupted

    Each request is one line on stderr. Make a token with 'gsync token add' first. An attached
    folder follows what is pushed to its tenant, and what changes in it is there to be pulled.
    """
    from gsync.server.metrics import parse_address
    from gsync.server.run import serve as run

    run(
        app.directory / data,
        host=host,
        port=port,
        log_format=log_format,
        tls_cert=app.directory / tls_cert if tls_cert else None,
        tls_key=app.directory / tls_key if tls_key else None,
        attached=[_attachment(app, text) for text in attached],
        metrics_at=parse_address(metrics) if metrics is not None else None,
        without_client_id=allow_missing_client_id,
    )


def _attachment(app: App, text: str) -> tuple[str, Path]:
    tenant, equals, directory = text.partition("=")
    if not equals or not directory:
        raise Invalid(f"--attach {text[:80]!r}: expected TENANT=DIR")
    return tenant, app.directory / directory


@group()
def token() -> None:
    """Make, list and revoke the tokens of a server"""


@token.command("add")
@data_option
@click.option("--tenant", required=True, help="Whose store it opens; made if new")
@click.option(
    "--scope",
    type=click.Choice(["read", "write", "admin"]),
    required=True,
    help="What its holder may do",
)
@click.option("--name", help="Who uses it; the actor in the ref log")
@click.option("--expires", metavar="DURATION", help="Valid for so long, as in 90d or 12h")
@dry_run_option
@click.pass_obj
def add(
    app: App,
    data: str,
    tenant: str,
    scope: str,
    name: str | None,
    expires: str | None,
    dry_run: bool,
) -> None:
    """Make a token and print it, this once

    It is stored as a hash, and cannot be shown again.
    """
    from gsync.server.auth import parse_duration
    from gsync.urls import check_tenant

    check_tenant(tenant)
    expires_us = _now_us() + parse_duration(expires) if expires else None
    until = when(expires_us) if expires_us else None
    secret = None
    if not dry_run:
        with _accounts(app, data) as accounts:
            secret, _ = accounts.add_token(tenant, scope, name=name, expires_us=expires_us)
    emit(
        app,
        {"token": secret, "tenant": tenant, "scope": scope, "expires": until},
        lambda: [secret or f"would make a token of scope {scope} for {tenant}"],
    )


@token.command("list")
@data_option
@click.option("--tenant", help="Only the tokens of this one")
@click.pass_obj
def list_(app: App, data: str, tenant: str | None) -> None:
    """List tokens by name, never the tokens themselves"""
    with _accounts(app, data) as accounts:
        tokens = accounts.list_tokens(tenant)
    now_us = _now_us()
    rows = [(t.id, t.tenant, t.name, t.scope, _state(t, now_us)) for t in tokens]
    emit(
        app,
        {"tokens": [_document(t) for t in tokens]},
        lambda: table(rows, ("id", "tenant", "name", "scope", "state")),
    )


@token.command("revoke")
@data_option
@click.option("--tenant", help="Whose token, where several have the name")
@click.argument("which", metavar="ID_OR_NAME")
@dry_run_option
@click.pass_obj
def revoke(app: App, data: str, tenant: str | None, which: str, dry_run: bool) -> None:
    """Revoke a token, from the next request on"""
    with _accounts(app, data) as accounts:
        find = accounts.find_token if dry_run else accounts.revoke_token
        found = find(which, tenant)
    verb = "would revoke" if dry_run else "revoked"
    emit(
        app,
        _document(found),
        lambda: [f"{verb} {found.name} ({found.id}) of {found.tenant}"],
        report=True,
    )


def _accounts(app: App, data: str) -> Accounts:
    from gsync.server.auth import Accounts

    return Accounts(app.directory / data, _now_us)


def _document(token: Token) -> dict[str, Any]:
    return {
        "id": token.id,
        "tenant": token.tenant,
        "name": token.name,
        "scope": token.scope,
        "created": when(token.created_us),
        "expires": when(token.expires_us) if token.expires_us else None,
        "revoked": when(token.revoked_us) if token.revoked_us else None,
    }


def _state(token: Token, now_us: int) -> str:
    if token.revoked_us is not None:
        return f"revoked {when(token.revoked_us)}"
    if not token.is_valid(now_us):
        return "expired"
    return f"until {when(token.expires_us)}" if token.expires_us else "valid"


def _now_us() -> int:
    return time.time_ns() // 1000
