"""local: documents between disk and database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from gsync.cli.app import App, accept_option, dry_run_option, group, split_names
from gsync.cli.output import emit, table
from gsync.frozen import as_dict

if TYPE_CHECKING:
    from gsync.sync.localplan import Item, LocalPlan

_SHOWN = 50
_IN_A_FILE = {"create": "add to", "update": "change in", "delete": "take out of"}
_WHOLE_FILE = {"create": "create", "update": "update", "delete": "delete"}
_SIDES = {"added": "new", "edited": "changed", "deleted": "deleted"}


@group()
def local() -> None:
    """Keep Markdown files and rows of a database one collection."""


def _about(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--database", metavar="NAME", help="Whose rows, if several have some"),
        click.argument("sources", nargs=-1, metavar="[SOURCE...]"),
    ):
        command = option(command)
    return command


def _writing(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        dry_run_option,
        accept_option,
        click.option("-m", "--message", metavar="TEXT", help="What the manifest says"),
        click.option(
            "--override",
            type=click.Choice(["ours", "theirs"]),
            help="Where both differ, take the file (ours) or the row (theirs)",
        ),
        click.option("--rules-file", metavar="PATH", help="The file of access rules"),
    ):
        command = option(command)
    return _about(command)


_orphans = click.option(
    "--delete-orphans", is_flag=True, help="Delete also what the other side never had"
)


@local.command("status")
@_about
@click.pass_obj
def status(app: App, sources: tuple[str, ...], database: str | None) -> None:
    """Count the documents of SOURCES, or all, that are alike, changed, and in the way."""
    plan = _look(app, sources, database)
    emit(app, _plan_json(plan), lambda: _status_lines(plan))


@local.command("diff")
@_about
@click.pass_obj
def diff(app: App, sources: tuple[str, ...], database: str | None) -> None:
    """List the documents that folder and database do not have alike, and in what they differ."""
    plan = _look(app, sources, database)
    emit(app, _plan_json(plan), lambda: _diff_lines(plan))


@local.command("to-db")
@_writing
@_orphans
@click.pass_obj
def to_db(app: App, /, **options: Any) -> None:
    """Bring what changed in files to the rows; what changed in rows alone waits."""
    _sync(app, "to-db", **options)


@local.command("to-disk")
@_writing
@_orphans
@click.pass_obj
def to_disk(app: App, /, **options: Any) -> None:
    """Bring what changed in rows to the files; what changed in files alone waits."""
    _sync(app, "to-disk", **options)


@local.command("merge")
@_writing
@click.pass_obj
def merge(app: App, /, **options: Any) -> None:
    """Bring what changed on either side to the other, both edits of one document together."""
    _sync(app, "merge", **options)


def _look(app: App, sources: tuple[str, ...], database: str | None) -> LocalPlan:
    from gsync.sync.local import plan_local
    from gsync.sync.localplan import Choices

    with app.open() as repo, repo.writing("gsync local"):
        return plan_local(repo, "merge", Choices(only=sources), database)


def _sync(
    app: App,
    direction: str,
    *,
    sources: tuple[str, ...],
    database: str | None,
    override: str | None,
    rules_file: str | None,
    message: str | None,
    accept: tuple[str, ...],
    dry_run: bool,
    delete_orphans: bool = False,
) -> None:
    from gsync.sync.local import plan_local, sync_local
    from gsync.sync.localplan import Choices
    from gsync.sync.olderlocal import count_results

    choices = Choices(override, delete_orphans, sources, rules_file)
    with app.open() as repo, repo.writing(f"gsync local {direction}"):
        if dry_run:
            plan = plan_local(repo, direction, choices, database)
        else:
            plan = sync_local(
                repo, direction, choices, database, message=message, accept=split_names(accept)
            )
    emit(
        app,
        {**_plan_json(plan), **count_results(plan).to_json(), "dry_run": dry_run},
        lambda: _sync_lines(plan, dry_run),
        report=True,
    )
    if not plan.is_clean:
        app.exit(1)


# --- As JSON ---------------------------------------------------------------------------


def _plan_json(plan: LocalPlan) -> dict[str, Any]:
    from gsync.sync.olderlocal import diff_results

    return {
        "direction": plan.direction,
        "manifest": plan.manifest.hex() if plan.manifest else None,
        "sources": [entry.diff.to_json() for entry in diff_results(plan)],
        "items": [
            {name: list(v) if isinstance(v, tuple) else v for name, v in as_dict(item).items()}
            for item in plan.items
        ],
        "problems": [one._asdict() for one in plan.problems],
        "notices": list(plan.notices),
    }


# --- As text ---------------------------------------------------------------------------


def _status_lines(plan: LocalPlan) -> Iterator[str]:
    rows = []
    for source in plan.sources:
        items = [item for item in plan.items if item.source == source.source_id]
        files = [item for item in items if item.disk not in ("same", "absent")]
        changed = [item for item in items if item.row not in ("same", "absent")]
        conflicts = sum(item.conflict is not None for item in items)
        rows.append(
            (
                source.name,
                f"{plan.unchanged[source.source_id]:,}",
                f"{len(files):,}",
                f"{len(changed):,}",
                f"{conflicts:,}",
            )
        )
    if not rows:
        yield "There is no source of documents that is enabled."
        return
    yield from table(rows, ("source", "alike", "changed on disk", "in the database", "conflicts"))
    yield from _problem_lines(plan)


def _diff_lines(plan: LocalPlan) -> Iterator[str]:
    from gsync.sync.olderlocal import show_item

    if not plan.items:
        yield f"{sum(plan.unchanged.values()):,} are alike."
    for item in plan.items:
        yield f"{show_item(item)}: {_differs(item)}"
    yield from _problem_lines(plan)


def _differs(item: Item) -> str:
    parts = [
        f"{_SIDES[how]} {where}"
        for how, where in ((item.disk, "on disk"), (item.row, "in the database"))
        if how in _SIDES
    ]
    text = ", ".join(parts)
    if item.columns:
        text += f" ({', '.join(item.columns)})"
    if item.conflict:
        text += f"; conflict: {item.conflict}"
    return text + (f"; {item.problem}" if item.problem else "")


def _sync_lines(plan: LocalPlan, dry_run: bool) -> Iterator[str]:
    from gsync.sync.olderlocal import show_item

    would = "would " if dry_run else ""
    done = [item for item in plan.items if not item.waits]
    for item in done[:_SHOWN]:
        what = [f"{would}{item.row_action} row"] if item.row_action else []
        if item.file_action:
            verbs = _IN_A_FILE if item.source == "rules" else _WHOLE_FILE
            what.append(f"{would}{verbs[item.file_action]} {item.path}")
        yield f"{show_item(item)}: {', '.join(what)}"
    if len(done) > _SHOWN:
        yield f"... and {len(done) - _SHOWN:,} more"
    waiting = [item for item in plan.items if item.waits]
    for item in waiting:
        if item.conflict or item.problem:
            yield f"{show_item(item)}: left alone; {_differs(item)}"
    calm = sum(not (item.conflict or item.problem) for item in waiting)
    if calm:
        yield f"{calm:,} changed on the other side alone, and wait."
    if not plan.items:
        yield f"{sum(plan.unchanged.values()):,} are alike."
    yield from _problem_lines(plan)
    if any(item.conflict for item in plan.items):
        yield "To settle conflicts, edit one side as it shall be, or give --override ours|theirs."


def _problem_lines(plan: LocalPlan) -> Iterator[str]:
    yield from map(str, plan.problems)
    yield from plan.notices
