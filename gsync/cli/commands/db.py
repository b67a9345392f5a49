"""db: add, list, status, diff, restore, materialize; the others are put in at the end."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gsync.cli.app import (
    App,
    accept_option,
    dry_run_option,
    group,
    split_names,
)
from gsync.cli.commands.dbexport import db_export, db_import
from gsync.cli.commands.dbrows import blame, log, show
from gsync.cli.commands.syncall import db_sync
from gsync.cli.output import (
    emit,
    note,
    print_json,
    short,
    style,
    table,
    warn,
    when,
    write_line,
    write_lines,
)
from gsync.errors import Invalid, NotFound

if TYPE_CHECKING:
    from gsync.replicas.tables.plan import Proposal
    from gsync.sync.comparetables import RowChange, TableCounts
    from gsync.sync.databases import Addition
    from gsync.sync.repository import Repository

# Rows that `db status` names of each table; the rest is counted.
_STATUS_ROWS = 10


@group()
def db() -> None:
    """Record tables of live databases beside the files."""


# --- add, list -----------------------------------------------------------------------


@db.command("add")
@click.argument("url")
@click.option("--name", default="main", show_default=True, help="What to call the database")
@click.option("-y", "--yes", is_flag=True, help="Write the proposal without asking")
@click.option("--preset", metavar="PRESET", help="Take the tables of a known schema: systemprompt")
@click.option("--tables", metavar="TABLE,...", multiple=True, help="Only these tables")
@click.option("--password-file", metavar="FILE", help="A file that holds the password alone")
@click.option("--peer", metavar="URL", help="The same tables elsewhere, for 'gsync sync-all'")
@dry_run_option
@click.pass_obj
def add(
    app: App,
    url: str,
    name: str,
    yes: bool,
    preset: str | None,
    tables: tuple[str, ...],
    password_file: str | None,
    peer: str | None,
    dry_run: bool,
) -> None:
    """Look at the database at URL, and propose which of its tables to record.

    URL is postgresql://USER@HOST/DATABASE, or sqlite:///PATH. The proposal goes to gsync.toml,
    where it can be edited, and the address to .gsync/config.toml.
    """
    from gsync.config import DatabaseConfig
    from gsync.sync.databases import add as add_database
    from gsync.sync.databases import plan_addition

    config = DatabaseConfig(url, password_file, peer)
    with app.open() as repo:
        found = plan_addition(
            repo,
            name,
            config,
            tables=split_names(tables),
            preset=preset,
            directory=app.directory,
        )
        written = False
        if not app.json and not (yes and app.options.quiet):
            write_lines(_addition_lines(app, found))
        if not dry_run and (yes or not found.shared or _agreed(app)):
            with repo.writing("gsync db add"):
                add_database(repo, found)
            written = True
        tracked = _tracked_file(app, repo, found)
    if app.json:
        print_json(_addition_json(found, written=written, dry_run=dry_run))
    else:
        for line in _after_addition(found, written=written, dry_run=dry_run):
            note(app, line)
    if tracked:
        warn(
            app,
            f"{tracked} lies in the folder, so it is tracked as a file too;"
            f" put {tracked}* into .gsyncignore, and 'gsync untrack {tracked}' if it is tracked",
        )


def _agreed(app: App) -> bool:
    if app.json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    return click.confirm("Write this to gsync.toml?", default=False, err=True)


def _tracked_file(app: App, repo: Repository, found: Addition) -> str | None:
    from gsync.paths import show_path
    from gsync.sync.databases import file_key

    key = file_key(repo, found.config)
    return show_path(key) if key is not None and not app.is_ignored(repo, key) else None


def _addition_lines(app: App, found: Addition) -> Iterator[str]:
    for proposal in found.proposals:
        if proposal.config is None:
            mark, text = style(app, "-", "yellow"), "; ".join(proposal.reasons)
        else:
            mark, text = style(app, "+", "green"), _summary(proposal)
        yield f"{mark} {proposal.table.name}: {text}"
    if found.shared:
        yield ""
        for line in found.shared.splitlines():
            yield style(app, f"    {line}", "cyan") if line.startswith("#") else f"    {line}"
        yield ""


def _summary(proposal: Proposal) -> str:
    from gsync.cli.counts import rows_word

    assert proposal.config is not None
    words = [f"key ({', '.join(proposal.config.key)})"]
    if proposal.table.rows >= 0:
        words.append(f"about {rows_word(proposal.table.rows)}")
    left_out = proposal.config.roles()
    if left_out:
        words.append(f"without {', '.join(left_out)}")
    return ", ".join(words)


def _after_addition(found: Addition, *, written: bool, dry_run: bool) -> Iterator[str]:
    if not written:
        again = "" if dry_run else " Run it again with --yes to write this."
        yield f"Nothing was written.{again}"
        return
    if found.shared:
        yield f"Added {len(found.chosen)} table(s) of {found.name} to gsync.toml."
    else:
        yield f"The {len(found.known)} table(s) of {found.name} are as gsync.toml says."
    yield f"The address is in .gsync/config.toml: {found.config.url}"
    if found.recorded and found.new:
        yield "Next: 'gsync db restore HEAD' brings the database to what is recorded."
    elif found.shared or not found.recorded:
        yield "Next: look at gsync.toml, then 'gsync snapshot -m TEXT'."
    else:
        yield "Next: 'gsync db status' compares it with what is recorded."


def _addition_json(found: Addition, *, written: bool, dry_run: bool) -> dict[str, Any]:
    from gsync.frozen import as_dict

    return {
        "name": found.name,
        "url": found.config.url,
        "known": list(found.known),
        "tables": {p.table.name: as_dict(p.config) for p in found.chosen if p.config},
        "refused": {p.table.name: list(p.reasons) for p in found.proposals if p.config is None},
        "notes": {p.table.name: list(p.notes) for p in found.chosen if p.notes},
        "proposal": found.shared,
        "recorded": found.recorded,
        "written": written,
        "dry_run": dry_run,
    }


@db.command("list")
@click.pass_obj
def list_(app: App) -> None:
    """List the databases, their tables, and how many rows HEAD has of them."""
    from gsync.sync.databases import list_databases

    with app.open() as repo:
        found = list_databases(repo)
    document = {
        "databases": [
            {
                "name": one.name,
                "url": one.url,
                "scanned": when(one.scanned) if one.scanned is not None else None,
                "tables": [
                    {"name": name, "rows": rows, "configured": name not in one.unnamed}
                    for name, rows in one.tables.items()
                ],
            }
            for one in found
        ]
    }

    def text() -> Iterator[str]:
        for one in found:
            yield style(app, one.name, "cyan") + f"  {one.url or 'not configured here'}"
            yield f"  last scanned: {when(one.scanned) if one.scanned is not None else 'never'}"
            rows = [
                (
                    f"  {name}",
                    "not recorded yet" if count is None else f"{count:,} row(s)",
                    "not in gsync.toml" if name in one.unnamed else "",
                )
                for name, count in one.tables.items()
            ]
            yield from table(rows) if rows else ()
            if one.url is None:
                yield f"  'gsync db add URL --name {one.name}' says where it is"
        if not found:
            yield "There is no database yet: 'gsync db add URL'."

    emit(app, document, text)


# --- status, diff --------------------------------------------------------------------


@db.command("status")
@click.argument("words", nargs=-1, metavar="[NAME] [TABLE]...")
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(min=0),
    default=_STATUS_ROWS,
    show_default=True,
    help="Name at most so many rows of each table",
)
@click.option("--full", is_flag=True, help="Read also tables that are known to be as they were")
@click.option("--exit-code", is_flag=True, help="Exit with 1 when something changed")
@click.pass_obj
def status(app: App, words: tuple[str, ...], limit: int, full: bool, exit_code: bool) -> None:
    """Show what changed in live tables since they were last recorded or written."""
    from gsync.cli.counts import counts_json, counts_text, rows_word
    from gsync.cli.rows import row_line
    from gsync.sync.databases import list_databases, select_live
    from gsync.sync.livetables import compare_with_marks

    documents = {}
    dirty = behind = False
    with app.open() as repo:
        known = {one.name: one for one in list_databases(repo)}
        for name, tables in select_live(repo, words).items():
            scanned = known[name].scanned
            seen = when(scanned) if scanned is not None else None
            counted: list[TableCounts] = []
            for live in compare_with_marks(repo, name, tables, full=full):
                if not app.json and not counted:
                    write_line(f"{style(app, name, 'cyan')}  {known[name].url}")
                    write_line(f"  last scanned: {seen or 'never'}")
                rows: list[RowChange] = []

                def keep(change: RowChange, rows: list[RowChange] = rows) -> None:
                    if len(rows) < limit:
                        rows.append(change)

                counts = live.count(keep)
                counted.append(counts)
                changed = bool(counts.added or counts.modified or counts.deleted)
                dirty = dirty or changed
                behind = behind or (changed and not live.at_head)
                if app.json:
                    continue
                short_name = live.collection.rpartition("/")[2]
                write_line(f"  {short_name}: {counts_text(counts)}; {rows_word(counts.rows)} now")
                for change in rows:
                    write_line(f"    {row_line(app, change)}")
                more = counts.added + counts.modified + counts.deleted - len(rows)
                if more and limit:
                    write_line(f"    … and {more:,} more; 'gsync db diff' shows all")
            documents[name] = {
                "url": known[name].url,
                "scanned": seen,
                "tables": [counts_json(counts) for counts in counted],
            }
    if app.json:
        print_json({"clean": not dirty, "databases": documents})
    elif not documents:
        write_line("There is no database yet: 'gsync db add URL'.")
    elif behind:
        write_line("Before a snapshot, bring this to HEAD with 'gsync db restore HEAD'.")
    elif dirty:
        write_line("Record this with 'gsync snapshot -m TEXT'.")
    if exit_code and dirty:
        app.exit(1)


@db.command("diff")
@click.argument("words", nargs=-1, metavar="[NAME] [TABLE]...")
@click.option("--stat", is_flag=True, help="Count rows instead of showing them")
@click.option("--full", is_flag=True, help="Read also tables that are known to be as they were")
@click.option("--exit-code", is_flag=True, help="Exit with 1 when there are differences")
@click.pass_obj
def diff(app: App, words: tuple[str, ...], stat: bool, full: bool, exit_code: bool) -> None:
    """Compare live tables with HEAD, down to the cell."""
    from gsync.cli.counts import counts_json, table_stat
    from gsync.cli.rows import row_json, row_lines
    from gsync.sync.databases import select_live
    from gsync.sync.livetables import compare_with_head

    changes: list[dict[str, Any]] = []
    counted: list[TableCounts] = []
    with app.open() as repo:
        for name, tables in select_live(repo, words).items():
            for live in compare_with_head(repo, name, tables, full=full):

                def see(change: RowChange, load: Any = live.load) -> None:
                    if app.json:
                        changes.append(row_json(change, load))
                    elif not stat:
                        write_lines(row_lines(app, change, load))

                counts = live.count(see)
                counted.append(counts)
                if stat and not app.json and counts.changed:
                    write_line(table_stat(counts))
                elif not app.json:
                    for text in counts.notes:
                        note(app, f"{live.collection}: {text}")
        head = repo.head()
    if app.json:
        tables_json = [counts_json(counts) for counts in counted]
        print_json(
            {"old": head.hex() if head else None, "new": None, "changes": changes}
            | {"tables": tables_json}
        )
    if exit_code and any(c.added or c.modified or c.deleted for c in counted):
        app.exit(1)


# --- restore, materialize ------------------------------------------------------------


@db.command("restore")
@click.argument("rev")
@click.argument("tables", nargs=-1, metavar="[TABLE]...")
@click.option("--db", "name", metavar="NAME", help="Only this database")
@click.option(
    "--to-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write a new .sqlite, .csv or .jsonl file instead; offline",
)
@click.option("--force", is_flag=True, help="Overwrite unsaved rows, and remove those not in REV")
@accept_option
@dry_run_option
@click.pass_obj
def restore(
    app: App,
    rev: str,
    tables: tuple[str, ...],
    name: str | None,
    to_file: Path | None,
    force: bool,
    accept: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Bring live tables to how they are in REV; HEAD stays.

    Rows that were changed and not recorded stop it before anything is written.
    """
    if to_file is not None:
        _write_file(app, rev, tables, name, to_file, dry_run=dry_run)
        return
    from gsync.cli.counts import applied_json, applied_lines
    from gsync.sync.comparetables import split_collection
    from gsync.sync.databases import recorded_databases
    from gsync.sync.tablefiles import select_tables
    from gsync.sync.tablemoves import restore_databases
    from gsync.transfer.history import get_manifest

    with app.open() as repo, repo.writing("gsync db restore"):
        oid = app.resolve(repo, rev)
        manifest = get_manifest(repo.store, oid)
        wanted: dict[str | None, list[str]] = {}
        found = select_tables(manifest, tables, name)
        if not tables:
            wanted[name] = []
        for collection in found if tables else ():
            inner = split_collection(collection.name) or ("", "")
            wanted.setdefault(inner[0], []).append(inner[1])
        done = restore_databases(
            repo,
            manifest,
            wanted,
            force=force,
            accept=split_names(accept),
            dry_run=dry_run,
        )
    if not done:
        recorded = [name] if name else recorded_databases(manifest)
        raise NotFound(
            f"no database is configured here for what {short(oid)} records of"
            f" {', '.join(recorded)}",
            hint=f"'gsync db add URL --name {recorded[0]}' says where it is; or write a file with"
            " --to-file",
        )
    total = sum(one.total for one in done.values())
    verb = "Would restore" if dry_run else "Restored"
    emit(
        app,
        {
            "manifest": oid.hex(),
            "databases": applied_json(done),
            "dry_run": dry_run,
        },
        lambda: [
            *applied_lines(done, dry_run=dry_run),
            f"{verb} {_databases(done)} to {short(oid)}."
            if total
            else f"Nothing to restore: {_databases(done)} is at {short(oid)}.",
        ],
        report=True,
    )


@db.command("materialize")
@click.argument("rev")
@click.argument("output", metavar="OUT.sqlite", type=click.Path(path_type=Path))
@click.option("--db", "name", metavar="NAME", help="Only this database")
@dry_run_option
@click.pass_obj
def materialize(app: App, rev: str, output: Path, name: str | None, dry_run: bool) -> None:
    """Write all tables of REV into a new SQLite file; offline."""
    if output.suffix not in (".sqlite", ".db"):
        raise Invalid(
            f"{output.name}: expected a name that ends in .sqlite or .db",
            hint=f"for one table, 'gsync db restore {rev} TABLE --to-file FILE.csv'",
        )
    _write_file(app, rev, (), name, output, dry_run=dry_run)


def _databases(names: Iterable[str]) -> str:
    listed = list(names)
    return f"database{'s' if len(listed) > 1 else ''} {', '.join(listed)}"


def _write_file(
    app: App, rev: str, tables: Iterable[str], name: str | None, target: Path, *, dry_run: bool
) -> None:
    from gsync.cli.counts import rows_word
    from gsync.sync.tablefiles import select_tables, write_tables
    from gsync.transfer.history import get_manifest

    with app.open() as repo:
        oid = app.resolve(repo, rev)
        found = select_tables(get_manifest(repo.store, oid), list(tables), name)
        written = write_tables(repo.store, found, app.directory / target, dry_run=dry_run)
    verb = "Would write" if dry_run else "Wrote"
    emit(
        app,
        {
            "manifest": oid.hex(),
            "output": str(target),
            "tables": [{"collection": n, "rows": rows} for n, rows in written.rows.items()],
            "dry_run": dry_run,
        },
        lambda: [
            *(f"{collection}: {rows_word(rows)}" for collection, rows in written.rows.items()),
            f"{verb} {len(written.rows)} table(s) of {short(oid)} to {target}.",
        ],
        report=True,
    )


for command_ in (show, log, blame, db_sync, db_export, db_import):
    db.add_command(command_)
