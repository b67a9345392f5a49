"""acl check: who may use what, and what decided."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from gsync.cli.app import App, group
from gsync.cli.output import emit, short, when
from gsync.errors import Invalid, NotFound

if TYPE_CHECKING:
    from gsync.views.rules.parse import Entity
    from gsync.views.rules.resolve import Decision


@group()
def acl() -> None:
    """Look at access rules."""


@acl.command("check")
@click.option("--entity", metavar="TYPE:ID", required=True, help="What is to be used")
@click.option("--user", metavar="ID", help="Who uses it")
@click.option("--role", "roles", metavar="ROLE", multiple=True, help="A role that they have")
@click.option(
    "--dimension", "dimensions", metavar="NAME=VALUE", multiple=True, help="What else they are"
)
@click.option(
    "--parent",
    "parents",
    metavar="TYPE:ID",
    multiple=True,
    help="What it belongs to, nearest first",
)
@click.option("--at", "revision", metavar="REV", default="HEAD", show_default=True, help="When")
@click.option("--exit-code", is_flag=True, help="Exit with 1 if it is denied")
@click.pass_obj
def check(
    app: App,
    entity: str,
    user: str | None,
    roles: tuple[str, ...],
    dimensions: tuple[str, ...],
    parents: tuple[str, ...],
    revision: str,
    exit_code: bool,
) -> None:
    """Say whether somebody may use an entity, and which rule decided, as recorded in a manifest."""
    from gsync.sync.revisions import resolve as find_revision
    from gsync.sync.rules import load_access
    from gsync.views.rules.parse import ALLOW
    from gsync.views.rules.resolve import Subject, resolve

    wanted = _entity(entity)
    subject = Subject(user, frozenset(roles), dict(map(_dimension, dimensions)))
    with app.open(read_only=True) as repo:
        oid = find_revision(repo.store, revision)
        manifest = repo.manifest(oid)
        if manifest is None:
            raise NotFound("there is no manifest yet", hint="'gsync snapshot' makes one")
        rules, defaults, where = load_access(repo, manifest)
    found = resolve(wanted, subject, rules, defaults, [_entity(one) for one in parents])
    emit(
        app,
        {
            "entity": str(wanted),
            "access": found.access,
            "reason": found.reason,
            "rule": _rule_json(found),
            "default_of": str(found.default_of) if found.default_of else None,
            "manifest": oid.hex(),
            "time": when(manifest.time_us),
            "from": where,
        },
        lambda: _lines(found, f"{short(oid)} of {when(manifest.time_us)[:19]}Z, {where}"),
    )
    if exit_code and found.access != ALLOW:
        app.exit(1)


def _entity(text: str) -> Entity:
    from gsync.views.rules.parse import Entity

    type_, colon, id_ = text.partition(":")
    if not (type_ and colon and id_):
        raise Invalid(f"not an entity: {text[:80]!r}; expected TYPE:ID, such as skill:deploy")
    return Entity(type_, id_)


def _dimension(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise Invalid(f"not a dimension: {text[:80]!r}; expected NAME=VALUE")
    return name, value


def _rule_json(found: Decision) -> dict[str, Any] | None:
    rule = found.rule
    if rule is None:
        return None
    return {
        "entity": str(rule.entity),
        "rule_type": rule.type,
        "rule_value": rule.value,
        "access": rule.access,
        "justification": rule.justification,
    }


def _lines(found: Decision, where: str) -> Iterator[str]:
    yield f"{found.access}: {found.reason}"
    if found.rule is not None and found.rule.justification:
        yield f"    {found.rule.justification}"
    yield f"as in {where}"
