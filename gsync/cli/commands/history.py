"""log, show, diff, refs, tag, reflog, forget."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from gsync.cli.app import App, command, dry_run_option
from gsync.cli.changes import change_json, manifest_json, status_lines
from gsync.cli.output import emit, note, short, style, when, write_line, write_lines
from gsync.errors import Conflict, Invalid, NotFound
from gsync.objects.model import Collection, Manifest
from gsync.objects.oid import ObjectId

if TYPE_CHECKING:
    from gsync.sync.comparetables import RowChange, TableCounts
    from gsync.sync.repository import Repository


@command()
@click.argument("arguments", nargs=-1, metavar="[REV] [PATH]...")
@click.option("--oneline", is_flag=True, help="One line a manifest")
@click.option("--since", metavar="TIME", help="Only manifests made at or after TIME")
@click.option("--until", metavar="TIME", help="Only manifests made at or before TIME")
@click.option("--author", metavar="TEXT", help="Only manifests whose author holds TEXT")
@click.option("-n", "--limit", type=click.IntRange(min=1), help="At most so many")
@click.pass_obj
def log(
    app: App,
    arguments: tuple[str, ...],
    oneline: bool,
    since: str | None,
    until: str | None,
    author: str | None,
    limit: int | None,
) -> None:
    """Show history from REV (default HEAD), newest first; with PATHs only what changed them."""
    from gsync.sync.repository import LogFilter
    from gsync.sync.repository import log as list_log
    from gsync.sync.revisions import parse_time

    with app.open() as repo:
        revs, paths = app.split_revisions(repo, arguments, most=1)
        wanted = LogFilter(
            paths=tuple(paths),
            since_us=parse_time(since, day_start=True) if since else None,
            until_us=parse_time(until) if until else None,
            author=author,
            limit=limit,
        )
        found = list_log(repo, app.resolve(repo, revs[0] if revs else "HEAD"), wanted)
        if app.json:
            emit(app, {"manifests": [manifest_json(oid, m) for oid, m in found]}, lambda: [])
            return
        for oid, manifest in found:
            for line in [_oneline(app, oid, manifest)] if oneline else _entry(app, oid, manifest):
                write_line(line)


def _oneline(app: App, oid: ObjectId, manifest: Manifest) -> str:
    first = manifest.message.partition("\n")[0]
    return f"{style(app, short(oid), 'yellow')} {first}"


def _entry(app: App, oid: ObjectId, manifest: Manifest) -> Iterator[str]:
    yield style(app, f"manifest {oid.hex()}", "yellow")
    if len(manifest.parents) > 1:
        yield f"Parents: {' '.join(map(short, manifest.parents))}"
    yield f"Author:  {manifest.author}"
    yield f"Date:    {when(manifest.time_us)}"
    yield ""
    for line in (manifest.message or "(no message)").splitlines():
        yield f"    {line}"
    yield ""


@command()
@click.argument("rev", default="HEAD")
@click.pass_obj
def show(app: App, rev: str) -> None:
    """Show one manifest, and what it changed."""
    from gsync.sync.repository import changes_of
    from gsync.transfer.history import get_manifest

    with app.open() as repo:
        oid = app.resolve(repo, rev)
        manifest = get_manifest(repo.store, oid)
        changes = changes_of(repo, manifest)
        parent = repo.manifest(manifest.parents[0]) if manifest.parents else None
        rows = _Rows.of(repo, parent, manifest)
        if app.json:
            document = [*map(change_json, changes), *rows.documents()]
            emit(app, manifest_json(oid, manifest) | {"changes": document}, lambda: [])
            return
        for line in _entry(app, oid, manifest):
            write_line(line)
        for c in manifest.collections:
            write_line(f"{c.name}: {_count(c)}, root {c.root.hex()}")
        write_line("")
        write_lines(chain(status_lines(app, changes), rows.lines(app)))


def _count(collection: Collection) -> str:
    one, more = ("row", "rows") if collection.schema else ("entry", "entries")
    return f"{collection.count:,} {one if collection.count == 1 else more}"


@dataclass(frozen=True, slots=True)
class _Rows:
    """What differs in the tables of two manifests, read anew each time it is asked for."""

    repo: Repository
    old: Manifest | None
    new: Manifest | None
    names: list[str]

    @classmethod
    def of(
        cls,
        repo: Repository,
        old: Manifest | None,
        new: Manifest | None,
        paths: Sequence[bytes] = (),
    ) -> _Rows:
        """Return the tables of both manifests; with paths those that they name."""
        from gsync.sync.compare import is_below
        from gsync.sync.comparetables import table_names

        names = table_names(old, new)
        if paths:
            wanted = [path for path in paths if path.startswith(b"db/")]
            names = [name for name in names if is_below(name.encode(), wanted)]
        return cls(repo, old, new, names)

    def changes(self) -> Iterator[RowChange]:
        if not self.names:
            return
        from gsync.sync.comparetables import diff_tables

        yield from diff_tables(self.repo.store, self.old, self.new, self.names)

    def counts(self) -> Iterator[TableCounts]:
        if not self.names:
            return
        from gsync.sync.comparetables import count_tables

        for counts in count_tables(self.repo.store, self.old, self.new):
            if counts.collection in self.names:
                yield counts

    def lines(self, app: App) -> Iterator[str]:
        """Yield rows with their cells, and what else is to say of a table, as text."""
        if not self.names:
            return
        from gsync.cli.rows import row_lines
        from gsync.sync.recorded import content_loader

        load = content_loader(self.repo.store)
        for change in self.changes():
            yield from row_lines(app, change, load)
        for counts in self.counts():
            yield from (f"{counts.collection}: {text}" for text in counts.notes)

    def brief_lines(self, app: App) -> Iterator[str]:
        from gsync.cli.rows import row_line

        for change in self.changes():
            yield row_line(app, change)

    def stat_lines(self) -> Iterator[str]:
        from gsync.cli.counts import table_stat

        for counts in self.counts():
            yield table_stat(counts)

    def documents(self) -> list[dict[str, Any]]:
        """Return all rows for JSON, in memory."""
        if not self.names:
            return []
        from gsync.cli.rows import row_json
        from gsync.sync.recorded import content_loader

        load = content_loader(self.repo.store)
        return [row_json(change, load) for change in self.changes()]

    def differ(self) -> bool:
        return any(counts.changed or counts.rows for counts in self.counts())


def _check_no_table(repo: Repository, paths: Sequence[bytes]) -> None:
    """Refuse the name of a table where only the folder is compared."""
    from gsync.sync.comparetables import table_names

    tables = {name.encode() for name in table_names(None, repo.manifest(repo.head()))}
    for path in paths:
        if path in tables and not (repo.root / os.fsdecode(path)).exists():
            table = path.decode().removeprefix("db/")
            raise Invalid(
                f"only the folder is compared, and {path.decode()} is a table",
                hint=f"'gsync db diff {table}' compares the live one with HEAD; or name two"
                " revisions",
            )


@command()
@click.argument("arguments", nargs=-1, metavar="[A [B]] [-- PATH...]")
@click.option("--stat", is_flag=True, help="Count lines instead of showing them")
@click.option("--name-status", is_flag=True, help="Show only letters and paths")
@click.option("--exit-code", is_flag=True, help="Exit with 1 when there are differences")
@click.pass_obj
def diff(
    app: App, arguments: tuple[str, ...], stat: bool, name_status: bool, exit_code: bool
) -> None:
    """Compare the folder with HEAD or with A, or A with B, tables included; offline."""
    from gsync.sync.textdiff import Sides, stat_lines, unified_lines

    with app.open() as repo:
        revs, paths = app.split_revisions(repo, arguments, most=2)
        sides = Sides.of(repo, [app.resolve(repo, rev) for rev in revs], paths)
        two = len(revs) == 2
        if not two:
            _check_no_table(repo, paths)
        old, new = (repo.manifest(sides.old), repo.manifest(sides.new)) if two else (None, None)
        rows = _Rows.of(repo, old, new, paths)
        if app.json:
            document = {
                "old": sides.old.hex() if sides.old else None,
                "new": sides.new.hex() if sides.new else None,
                "changes": [*map(change_json, sides.changes), *rows.documents()],
            }
            emit(app, document, lambda: [])
        elif name_status:
            lines = chain(status_lines(app, sides.changes), rows.brief_lines(app))
            emit(app, {}, lambda: lines)
        elif stat:
            emit(app, {}, lambda: chain(rows.stat_lines(), stat_lines(sides)))
        else:
            write_lines(_coloured(app, unified_lines(sides)))
            write_lines(rows.lines(app))
        differ = bool(sides.changes) or (exit_code and rows.differ())
    if not two and repo.config.databases:
        note(app, "Only the folder is compared; 'gsync db diff' compares live tables with HEAD.")
    if exit_code and differ:
        app.exit(1)


def _coloured(app: App, lines: Iterable[str]) -> Iterator[str]:
    colours = {"+": "green", "-": "red", "@": "cyan"}
    for line in lines:
        colour = colours.get(line[:1])
        yield style(app, line, colour) if colour else line


@command()
@click.pass_obj
def refs(app: App) -> None:
    """List refs, tags, and the refs of remotes and pairs of databases as last seen."""
    with app.open() as repo:
        found = {name: oid.hex() for name, oid in repo.store.list_refs().items()}
        for remote in sorted({*repo.config.remotes, *repo.store.list_remotes()}):
            for name, oid in repo.store.tracking(remote).items():
                found[f"{remote}/{name}"] = oid.hex()
    emit(
        app,
        {"refs": found},
        lambda: [f"{oid[:12]}  {name}" for name, oid in found.items()] or ["There is no ref yet."],
    )


@command()
@click.argument("name", required=False)
@click.argument("rev", default="HEAD")
@click.option("--delete", is_flag=True, help="Drop the tag here")
@dry_run_option
@click.pass_obj
def tag(app: App, name: str | None, rev: str, delete: bool, dry_run: bool) -> None:
    """Name REV for good; without NAME list the tags."""
    from gsync.sync.refnames import check_tag_name

    with app.open() as repo:
        if name is None:
            tags = {
                ref.removeprefix("tags/"): oid.hex()
                for ref, oid in repo.store.list_refs().items()
                if ref.startswith("tags/")
            }
            emit(app, {"tags": tags}, lambda: [f"{oid[:12]}  {tag}" for tag, oid in tags.items()])
            return
        check_tag_name(name)
        with repo.writing("gsync tag"):
            full = f"tags/{name}"
            old = repo.store.find_ref(full)
            if delete:
                if old is None:
                    raise NotFound(f"no tag {name!r}", hint="'gsync tag' lists them")
                new = None
            else:
                new = app.resolve(repo, rev)
                if old not in (None, new):
                    raise Conflict(
                        f"tag {name} is at {short(old)} and is never moved",
                        hint=f"drop it first: 'gsync tag --delete {name}'",
                    )
            if not dry_run and old != new:
                repo.move(full, old, new, "tag")
    target = new or old
    emit(
        app,
        {"tag": name, "manifest": new.hex() if new else None, "dry_run": dry_run},
        lambda: [f"{'Dropped' if delete else 'Tagged'} {name} at {short(target)}."],
    )


@command()
@click.argument("ref", required=False)
@click.option("--verify", is_flag=True, help="Check that the chain is whole")
@click.pass_obj
def reflog(app: App, ref: str | None, verify: bool) -> None:
    """Show who moved refs, when, from where to where."""
    from gsync.store.reflog import check_chain
    from gsync.sync.revisions import find_ref_name

    with app.open() as repo:
        remote = ref.partition("/")[0] if ref else ""
        if remote in repo.config.remotes:
            entries = repo.store.remote_log(remote)
            wanted = ref.partition("/")[2] if ref else ""
        else:
            entries = repo.store.list_log()
            wanted = (find_ref_name(repo.store, ref) or ref) if ref else ""
        if verify:
            check_chain(entries)
    selected = [e for e in reversed(entries) if not wanted or e.ref in (wanted, f"tags/{wanted}")]
    if ref and not selected:
        raise NotFound(f"the log has no entry for {ref!r}", hint="'gsync refs' lists the refs")
    document = {
        "entries": [
            {
                "seq": e.seq,
                "ref": e.ref,
                "old": e.old.hex() if e.old else None,
                "new": e.new.hex() if e.new else None,
                "time": when(e.time_us),
                "actor": e.actor,
                "why": e.why,
                "hash": e.hash.hex(),
            }
            for e in selected
        ],
        "verified": verify,
    }

    def text() -> Iterator[str]:
        for e in selected:
            move = f"{short(e.old) if e.old else '-':12} -> {short(e.new) if e.new else '-':12}"
            yield f"{e.seq:>5}  {when(e.time_us)}  {move}  {e.ref}  {e.actor}: {e.why}"
        if verify:
            yield f"The chain of {len(entries)} entries is whole."

    emit(app, document, text)


@command()
@click.argument("rev", required=False)
@click.option("--keep-last", type=click.IntRange(min=1), metavar="N", help="Keep the newest N")
@click.option(
    "--keep-daily", type=click.IntRange(min=1), metavar="N", help="Keep the last of each of N days"
)
@click.option("--before", metavar="TIME", help="Keep what was made at or after TIME")
@click.option("--reason", default="", help="Why; stands in the log")
@dry_run_option
@click.pass_obj
def forget(
    app: App,
    rev: str | None,
    keep_last: int | None,
    keep_daily: int | None,
    before: str | None,
    reason: str,
    dry_run: bool,
) -> None:
    """Drop history on purpose: one REV with a reason, or all that a rule lets go."""
    from gsync.sync import maintenance
    from gsync.sync.repository import now_us
    from gsync.sync.revisions import parse_time

    rule = maintenance.KeepRule(
        keep_last, keep_daily, parse_time(before, day_start=True) if before else None
    )
    if rev is not None and rule != maintenance.KeepRule():
        raise Invalid("give either a revision or a rule, not both")
    if rev is not None and not reason:
        raise Invalid("forgetting one revision needs --reason TEXT")
    with app.open() as repo, repo.writing("gsync forget"):
        if rev is not None:
            oids = [maintenance.check_forgettable(repo.store, app.resolve(repo, rev))]
        else:
            oids = maintenance.list_forgettable(repo.store, rule)
        dropped = maintenance.Collected(0, 0, 0)
        if oids and not dry_run:
            why = f"forget {len(oids)} manifest(s)" + (f": {reason}" if reason else "")
            maintenance.forget(
                repo.store,
                oids,
                actor=repo.author(),
                reason=why,
                now_us=now_us(),
                states=repo.note("forget", "what was forgotten is gone for good"),
            )
            dropped = maintenance.collect(repo.store, now_us())
    emit(
        app,
        {
            "forgotten": [oid.hex() for oid in oids],
            "objects": dropped.objects,
            "bytes": dropped.bytes,
            "dry_run": dry_run,
        },
        lambda: [
            *(short(oid) for oid in oids),
            f"{'Would forget' if dry_run else 'Forgot'} {len(oids)} manifest(s)"
            + (f" and dropped {dropped.objects} objects." if not dry_run else "."),
        ],
        report=True,
    )
