"""init, status, snapshot, restore, ls, cat, untrack, export, import, collection."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gsync.cli.app import (
    App,
    command,
    dry_run_option,
    group,
    moving_options,
    split_names,
)
from gsync.cli.changes import change_json, status_lines
from gsync.cli.output import (
    emit,
    key_json,
    note,
    notices,
    short,
    size,
    table,
    when,
    write_line,
    write_lines,
)
from gsync.errors import Invalid
from gsync.paths import show_path

if TYPE_CHECKING:
    from gsync.objects.model import Collection
    from gsync.objects.oid import ObjectId
    from gsync.sync.repository import Repository


@command()
@click.argument("folder", required=False, metavar="[DIR]", type=click.Path(path_type=Path))
@click.option("--bare", is_flag=True, help="Make a store without a folder, to push to")
@dry_run_option
@click.pass_obj
def init(app: App, folder: Path | None, bare: bool, dry_run: bool) -> None:
    """Make a repository in DIR, or here."""
    from gsync.sync.repository import init_repository

    target = (app.directory / folder) if folder else app.directory
    workdir = init_repository(target, bare=bare, dry_run=dry_run)
    emit(
        app,
        {"repository": str(target.absolute()), "bare": bare, "dry_run": dry_run},
        lambda: [
            f"{'Would make' if dry_run else 'Made'} a gsync repository in {workdir}",
            *([] if bare or dry_run else ["Next: 'gsync status', then 'gsync snapshot -m TEXT'."]),
        ],
        report=True,
    )


@command()
@click.argument("paths", nargs=-1)
@click.option("--exit-code", is_flag=True, help="Exit with 1 when something changed")
@click.option("--full", is_flag=True, help="Scan the folder though 'gsync watch' knows of it")
@click.pass_obj
def status(app: App, paths: tuple[str, ...], exit_code: bool, full: bool) -> None:
    """Show what changed since the last snapshot, without the network."""
    from gsync.cli.conflicts import conflict_json
    from gsync.cli.runs import health_json
    from gsync.sync.repository import status as find_status

    with app.open() as repo, app.progress("Scanning", "files") as progress:
        found = find_status(repo, app.keys(repo, paths), progress, full=full)
    document = {
        "head": found.head.hex() if found.head else None,
        "clean": not found.changes,
        "changes": [change_json(change) for change in found.changes],
        "merge": found.merge,
        "conflicts": [conflict_json(kept) for kept in found.conflicts],
        "notices": [
            {"key": key_json(n.path), "code": n.code, "text": n.text} for n in found.notices
        ],
        "remotes": {
            name: {"ahead": ahead, "behind": behind}
            for name, (ahead, behind) in found.remotes.items()
        },
        "runs": {name: health_json(one) for name, one in found.health.items()},
        "jobs": {
            name: {"failures": state.failures, "error": state.last_failure}
            for name, state in found.jobs.items()
        },
        "databases": {
            name: {"scanned": when(scanned) if scanned is not None else None}
            for name, scanned in found.databases.items()
        },
    }
    emit(app, document, lambda: _status_lines(app, found))
    if exit_code and found.changes:
        app.exit(1)


def _status_lines(app: App, found: object) -> Iterator[str]:
    from gsync.cli.runs import health_lines
    from gsync.sync.repository import Status

    assert isinstance(found, Status)
    yield f"HEAD is {short(found.head)}." if found.head else "There is no snapshot yet."
    if found.merge is not None:
        left = len(found.conflicts)
        state = (
            f"{left} conflict(s) open, see 'gsync conflicts'"
            if left
            else ("all conflicts resolved, finish it with 'gsync merge --continue'")
        )
        yield f"Merging {found.merge}: {state}."
    yield from health_lines(found.remotes, found.health)
    for name, job in found.jobs.items():
        yield f"! job {name} failed {job.failures} time(s) in a row: {job.last_failure}"
    if found.changes:
        yield ""
        yield from status_lines(app, found.changes)
        yield ""
        if found.merge is None:
            yield "Record this with 'gsync snapshot -m TEXT'."
    else:
        yield "Nothing changed in the folder." if found.databases else "Nothing changed."
    yield from notices(app, found.notices)
    for name, scanned in found.databases.items():
        seen = f"last scanned {when(scanned)}" if scanned is not None else "never scanned yet"
        yield f"Database {name}: {seen}; 'gsync db status' looks at it."


@command()
@click.option("-m", "--message", default="", help="Why; shown by 'gsync log'")
@click.option("--full", is_flag=True, help="Read also tables that are known to be as they were")
@moving_options
@click.pass_obj
def snapshot(
    app: App,
    message: str,
    full: bool,
    no_databases: bool,
    accept: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Record the folder, and the tables of its databases, as a new manifest."""
    from gsync.cli.counts import counts_json, table_lines
    from gsync.sync.repository import snapshot as make_snapshot

    with (
        app.open() as repo,
        repo.writing("gsync snapshot"),
        app.progress("Scanning", "files and rows") as progress,
    ):
        made = make_snapshot(
            repo,
            message,
            dry_run=dry_run,
            databases=not no_databases,
            accept=split_names(accept),
            full=full,
            progress=progress,
        )
    counts = {
        "added": sum(c.status == "added" for c in made.changes),
        "modified": sum(c.status in ("modified", "type_changed") for c in made.changes),
        "deleted": sum(c.status == "deleted" for c in made.changes),
        "renamed": sum(c.status == "renamed" for c in made.changes),
    }
    document = {
        "manifest": made.oid.hex() if made.oid else None,
        "parents": [parent.hex() for parent in made.manifest.parents],
        "collections": {
            c.name: {"root": c.root.hex(), "entries": c.count} for c in made.manifest.collections
        },
        "changes": counts,
        "tables": [counts_json(one) for one in made.tables],
        "notices": [
            {"key": key_json(n.path), "code": n.code, "text": n.text} for n in made.notices
        ],
        "objects_new": made.objects_new,
        "bytes_new": made.bytes_new,
        "dry_run": dry_run,
    }

    def text() -> Iterator[str]:
        shown = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        rows = list(table_lines(made.tables))
        if made.oid is None and not (dry_run and (made.changes or rows)):
            yield "Nothing changed."
        elif dry_run:
            yield f"Would record: {shown or 'no file'}{', and rows:' if rows else '.'}"
        else:
            yield (
                f"{short(made.oid)} {shown or 'no files'};"
                f" {made.objects_new} new objects, {size(made.bytes_new)} more in the store."
            )
        yield from rows
        yield from notices(app, made.notices, brief=True)

    emit(app, document, text, report=True)


@command()
@click.argument("arguments", nargs=-1, metavar="[REV] [PATH]...")
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    help="Write into this new folder instead of the repository's",
)
@click.option("--force", is_flag=True, help="Overwrite unsaved changes")
@dry_run_option
@click.pass_obj
def restore(
    app: App, arguments: tuple[str, ...], to: Path | None, force: bool, dry_run: bool
) -> None:
    """Bring back files as they are in REV (default HEAD), all or those at PATHs."""
    from gsync.sync.checkout import restore_folder, restore_to

    with app.open() as repo:
        rev, paths = app.split_revisions(repo, arguments, most=1)
        oid = app.resolve(repo, rev[0] if rev else "HEAD")
        if to is not None:
            count = restore_to(repo, oid, paths, app.directory / to, dry_run=dry_run)
            changes = []
        else:
            with repo.writing("gsync restore"):
                changes = restore_folder(repo, oid, paths, force=force, dry_run=dry_run)
            count = len(changes)
    verb = "Would write" if dry_run else "Wrote"
    emit(
        app,
        {
            "manifest": oid.hex(),
            "paths": count,
            "changes": [change_json(change) for change in changes],
            "dry_run": dry_run,
        },
        lambda: [
            *status_lines(app, changes),
            f"{verb} {count} path(s) from {short(oid)}{f' to {to}' if to else ''}."
            if count
            else "Nothing to restore: the files are as they are in that manifest.",
        ],
        report=True,
    )


@command()
@click.argument("arguments", nargs=-1, metavar="[REV] [PATH]")
@click.option("-l", "--long", "long", is_flag=True, help="Show ids and sizes")
@click.pass_obj
def ls(app: App, arguments: tuple[str, ...], long: bool) -> None:
    """List what a manifest holds."""
    from gsync.sync.contents import list_contents

    with app.open() as repo:
        revs, paths = app.split_revisions(repo, arguments, most=1)
        oid = app.resolve(repo, revs[0] if revs else "HEAD")
        rows = _find_table(repo, oid, paths)
        if rows is not None:
            _list_table(app, repo, oid, rows)
            return
        found = list_contents(repo, oid, paths)
        names = {0: "file", 1: "executable", 2: "symlink", 3: "directory"}
        if app.json:
            entries = [
                {
                    "collection": "files",
                    "key": key_json(path),
                    "type": names[entry.type],
                    "size": entry.size,
                    "id": entry.content_id.hex() if entry.content_id else None,
                }
                for path, entry in found
            ]
            emit(app, {"manifest": oid.hex(), "entries": entries}, lambda: [])
            return
        letters = {0: "-", 1: "x", 2: "l", 3: "d"}
        for path, entry in found:
            line = show_path(path) + ("/" if entry.type == 3 else "")
            if long:
                identity = entry.content_id.hex() if entry.content_id else "-" * 64
                line = f"{letters[entry.type]} {identity} {entry.size:>12} {line}"
            write_line(line)


def _find_table(repo: Repository, oid: ObjectId, paths: list[bytes]) -> Collection | None:
    from gsync.sync.comparetables import split_collection

    manifest = repo.manifest(oid)
    name = paths[0].decode("utf-8", "surrogateescape") if len(paths) == 1 else ""
    return manifest.find(name) if manifest and split_collection(name) else None


def _list_table(app: App, repo: Repository, oid: ObjectId, rows: Collection) -> None:
    from gsync.cli.rows import key_text, row_key_json
    from gsync.sync.recorded import get_schema
    from gsync.sync.tablefiles import list_keys

    schema = get_schema(repo.store, rows)
    keys = list_keys(repo.store, rows)
    if app.json:
        entries = [
            {"collection": rows.name, "key": row_key_json(key, schema), "type": "row"}
            | {"size": None, "id": None}
            for key in keys
        ]
        emit(app, {"manifest": oid.hex(), "entries": entries}, lambda: [])
        return
    types = [column.type for column in schema.key]
    write_lines(f"{rows.name} {key_text(key, types)}" for key in keys)


@command()
@click.argument("target", metavar="REV:PATH")
@click.pass_obj
def cat(app: App, target: str) -> None:
    """Write the content of a file in a manifest to stdout."""
    from gsync.sync.contents import read_content

    rev, colon, path = target.rpartition(":")
    if not colon:
        raise Invalid(f"not REV:PATH: {target!r}", hint=f"for HEAD's, 'gsync cat HEAD:{target}'")
    with app.open() as repo:
        oid = app.resolve(repo, rev or "HEAD")
        for piece in read_content(repo, oid, app.key(repo, path)):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


@command()
@click.argument("paths", nargs=-1, required=True)
@dry_run_option
@click.pass_obj
def untrack(app: App, paths: tuple[str, ...], dry_run: bool) -> None:
    """Drop PATHs from the next manifests; the files stay on disk."""
    from gsync.sync.repository import untrack as drop

    with app.open() as repo, repo.writing("gsync untrack"):
        dropped = drop(repo, app.keys(repo, paths), dry_run=dry_run)
        tracked_again = [p for p in app.keys(repo, paths) if not app.is_ignored(repo, p)]
    emit(
        app,
        {"untracked": [key_json(path) for path in dropped], "dry_run": dry_run},
        lambda: [f"{'Would untrack' if dry_run else 'Untracked'} {len(dropped)} path(s)."],
        report=True,
    )
    if tracked_again:
        shown = ", ".join(map(show_path, tracked_again[:3]))
        note(
            app,
            f"{shown} is not ignored: add it to .gsyncignore, or the next snapshot"
            " tracks it again.",
        )


@command()
@click.argument("arguments", nargs=-1, metavar="[REV] [PATH]...")
@click.option(
    "-o",
    "--output",
    required=True,
    help="The file to write, or - for stdout",
    metavar="FILE.tar.gz",
)
@click.option("--rows", is_flag=True, help="Write tables too, as db/NAME/TABLE.jsonl")
@dry_run_option
@click.pass_obj
def export(app: App, arguments: tuple[str, ...], output: str, rows: bool, dry_run: bool) -> None:
    """Write a manifest's files as a deterministic tarball."""
    from gsync.sync.tarballs import export_file

    with app.open() as repo:
        revs, paths = app.split_revisions(repo, arguments, most=1)
        oid = app.resolve(repo, revs[0] if revs else "HEAD")
        target = None if output == "-" else app.directory / output
        with repo.writing("gsync export") if rows else nullcontext():
            written = export_file(repo, oid, paths, target, rows=rows, dry_run=dry_run)
    document = {
        "manifest": oid.hex(),
        "output": output,
        "entries": written.entries,
        "tar_bytes": written.tar_bytes,
        "gzip_bytes": written.gzip_bytes,
        "tar_blake3": written.tar_blake3.hex(),
        "left_out": written.left_out,
        "dry_run": dry_run,
    }
    lines = [
        f"{written.entries} entries, {size(written.gzip_bytes)} in {output}.",
        f"tar stream (BLAKE3): {written.tar_blake3.hex()}",
        *(f"Left out: table {name}." for name in written.left_out),
    ]
    if output == "-":
        for line in lines:
            note(app, line)
    else:
        emit(app, document, lambda: lines, report=True)


@command("import")
@click.argument("file", metavar="FILE.tar.gz")
@click.option("-m", "--message", default="", help="Why; shown by 'gsync log'")
@dry_run_option
@click.pass_obj
def import_(app: App, file: str, message: str, dry_run: bool) -> None:
    """Make a manifest from any tarball, and bring the folder to it."""
    from gsync.sync.tarballs import import_file

    with app.open() as repo, repo.writing("gsync import"):
        done = import_file(
            repo, None if file == "-" else app.directory / file, message, dry_run=dry_run
        )
    emit(
        app,
        {
            "manifest": done.oid.hex() if done.oid else None,
            "changes": [change_json(change) for change in done.changes],
            "notices": [
                {"key": key_json(n.path), "code": n.code, "text": n.text} for n in done.notices
            ],
            "dry_run": dry_run,
        },
        lambda: [
            *status_lines(app, done.changes),
            "Nothing changed."
            if not done.changes
            else f"{'Would import' if dry_run else 'Imported'} {len(done.changes)} change(s)"
            + (f" as {short(done.oid)}." if done.oid else "."),
            *notices(app, done.notices),
        ],
        report=True,
    )


@group()
def collection() -> None:
    """List and remove the collections of HEAD."""


@collection.command("list")
@click.pass_obj
def collection_list(app: App) -> None:
    """List the collections of HEAD."""
    with app.open() as repo:
        manifest = repo.manifest(repo.head())
    found = manifest.collections if manifest else ()
    emit(
        app,
        {
            "collections": [
                {"name": c.name, "root": c.root.hex(), "entries": c.count} for c in found
            ]
        },
        lambda: (
            list(
                table(
                    [
                        (
                            c.name,
                            f"{c.count:,} {'rows' if c.schema else 'entries'}",
                            short(c.root),
                        )
                        for c in found
                    ]
                )
            )
            if found
            else ["There is no snapshot yet."]
        ),
    )


@collection.command("remove")
@click.argument("name")
@dry_run_option
@click.pass_obj
def collection_remove(app: App, name: str, dry_run: bool) -> None:
    """Leave the collection NAME out of the next manifests."""
    from gsync.sync.repository import remove_collection

    with app.open() as repo, repo.writing("gsync collection remove"):
        manifest = remove_collection(repo, name, dry_run=dry_run)
    emit(
        app,
        {"removed": name, "collections": [c.name for c in manifest.collections]},
        lambda: [f"{'Would remove' if dry_run else 'Removed'} collection {name}."],
        report=True,
    )
