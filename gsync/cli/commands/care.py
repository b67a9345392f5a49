"""verify, gc, stats, doctor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from gsync.cli.app import App, command, dry_run_option, insecure_option, token_file_option
from gsync.cli.output import emit, size
from gsync.errors import Invalid
from gsync.frozen import as_dict

if TYPE_CHECKING:
    from gsync.objects.oid import Kind
    from gsync.sync.maintenance import Verified


@command()
@click.option("--quick", is_flag=True, help="Walk the roots, but do not rehash contents")
@click.option("--repair", is_flag=True, help="Replace what is damaged or missing")
@click.option(
    "--from",
    "remote",
    metavar="REMOTE",
    help="With --repair: ask this remote only, and not each in turn",
)
@token_file_option
@insecure_option
@dry_run_option
@click.pass_obj
def verify(
    app: App,
    quick: bool,
    repair: bool,
    remote: str | None,
    token_file: str | None,
    insecure_http: bool,
    dry_run: bool,
) -> None:
    """Rehash every object and walk every root; exit with 6 when anything is wrong."""
    from gsync.sync.maintenance import verify as check

    if repair:
        if quick:
            raise Invalid("--repair has to rehash contents, which --quick leaves out")
        _repair(app, remote, token_file, insecure_http, dry_run)
        return
    for name, value in (("--from", remote), ("--token-file", token_file), ("--dry-run", dry_run)):
        if value:
            raise Invalid(f"{name} is for --repair: verify alone changes nothing and asks nobody")
    with app.open() as repo, app.progress("Verifying", "objects") as progress:
        found = check(repo.store, quick=quick, progress=progress)

    def text() -> Iterator[str]:
        yield from _problem_lines(found, quick=quick)
        if found.problems:
            yield (
                "'gsync verify --repair' takes what is whole from the folder and the remotes."
                " Keep a copy of the store as it is until that is done."
            )

    emit(app, _verified_json(found, quick=quick), text)
    if found.problems:
        app.exit(6)


def _repair(
    app: App, remote: str | None, token_file: str | None, insecure: bool, dry_run: bool
) -> None:
    from gsync.sync.repair import repair as mend

    with app.open() as repo:
        names = [remote] if remote else _remotes(repo)
        if remote:
            repo.config.remote(remote)  # refused before anything is done, if nobody is called so
        sources = [(name, _opener(app, repo, name, token_file, insecure)) for name in names]
        with (
            repo.writing("gsync verify --repair"),
            app.progress("Repairing", "objects") as progress,
        ):
            done = mend(repo, sources, dry_run=dry_run, progress=progress)
    found = done.verified
    document = _verified_json(found, quick=False) | {
        "repaired": [
            {"kind": _kind(m.kind), "id": m.oid.hex(), "from": m.source} for m in done.mended
        ],
        "lacking": [{"kind": _kind(kind), "id": oid.hex()} for kind, oid in done.lacking],
        "dropped": [oid.hex() for oid in done.dropped],
        "remotes": [{"remote": r.remote, "why": r.why} for r in done.refusals],
        "dry_run": dry_run,
    }

    def text() -> Iterator[str]:
        verb = "would be repaired" if dry_run else "repaired"
        for m in done.mended:
            yield f"{verb}: {_kind(m.kind)} {m.oid.hex()} from {m.source}"
        for oid in done.dropped:
            yield f"dropped: {oid.hex()}: damaged, and nothing named it"
        for refusal in done.refusals:
            yield f"{refusal.remote} was no help for all of it: {refusal.why}"
        for kind, oid in done.lacking:
            verb = "would be asked for" if dry_run else "nobody has"
            yield f"{verb}: {_kind(kind)} {oid.hex()}"
        yield from _problem_lines(found, quick=False)
        if dry_run and done.lacking and not names:
            yield "There is no remote to ask: 'gsync remote add NAME URL'."
        elif any(problem.id == "store.db" for problem in found.problems):
            yield "The file itself is broken: clone from a remote that is whole."

    emit(app, document, text)
    if found.problems:
        app.exit(6)


def _remotes(repo: Any) -> list[str]:
    return sorted(repo.config.remotes, key=lambda name: (name != "origin", name))


def _opener(app: App, repo: Any, name: str, token_file: str | None, insecure: bool) -> Any:
    """Return what connects to a remote; a token is looked for only then."""
    from gsync.cli.commands.exchange import connector

    return lambda: connector(app, repo, name, token_file, insecure)[1]()


def _kind(kind: Kind) -> str:
    return kind.name.lower()


def _verified_json(found: Verified, *, quick: bool) -> dict[str, Any]:
    return {
        "objects": found.objects,
        "bytes": found.bytes,
        "manifests": found.manifests,
        "quick": quick,
        "problems": [as_dict(problem) for problem in found.problems],
    }


def _problem_lines(found: Verified, *, quick: bool) -> Iterator[str]:
    for problem in found.problems:
        yield f"{problem.kind}: {problem.id}: {problem.detail}"
    checked = "looked at" if quick else "rehashed"
    yield (
        f"{found.objects} objects ({size(found.bytes)}) {checked},"
        f" {found.manifests} manifests walked: {len(found.problems) or 'no'} problem(s)."
    )


@command()
@dry_run_option
@click.pass_obj
def gc(app: App, dry_run: bool) -> None:
    """Drop objects that no ref, tag, log entry or remote names."""
    from gsync.sync.maintenance import collect
    from gsync.sync.operations import drop_old_operations
    from gsync.sync.repository import now_us

    with app.open() as repo, repo.writing("gsync gc"):
        if not dry_run:
            limits = repo.config.limits
            drop_old_operations(repo.store, now_us(), days=limits.ops_days, most=limits.ops_max)
        found = collect(repo.store, now_us(), dry_run=dry_run)
        if found.objects and not dry_run:
            repo.store.set_states(repo.note("gc", "objects that nothing named are gone for good"))
    emit(
        app,
        {
            "objects": found.objects,
            "bytes": found.bytes,
            "kept": found.kept,
            "dry_run": dry_run,
        },
        lambda: [
            f"{'Would drop' if dry_run else 'Dropped'} {found.objects} objects"
            f" ({size(found.bytes)}); {found.kept} stay."
        ],
        report=True,
    )


@command()
@click.pass_obj
def stats(app: App) -> None:
    """Show sizes and ratios of the store."""
    with app.open() as repo:
        found = repo.store.stats()
        refs = len(repo.store.list_refs())
        entries = len(repo.store.list_log())
    objects = sum(count for count, _ in found.objects.values())
    packs = sum(count for count, _ in found.packs.values())
    document = {
        "kinds": {
            kind.name.lower(): {"objects": count, "bytes": total}
            for kind, (count, total) in found.objects.items()
        },
        "objects": objects,
        "bytes": found.body_bytes,
        "stored_bytes": found.stored_bytes,
        "file_bytes": found.file_bytes,
        "packs": packs,
        "refs": refs,
        "log_entries": entries,
    }

    def text() -> Iterator[str]:
        for kind, (count, total) in found.objects.items():
            yield f"{kind.name.lower():<11} {count:>10} objects {size(total):>12}"
        ratio = found.body_bytes / found.stored_bytes if found.stored_bytes else 1.0
        yield f"{'all':<11} {objects:>10} objects {size(found.body_bytes):>12}"
        yield (
            f"stored as {size(found.stored_bytes)} in {packs} packs,"
            f" {ratio:.2f} : 1; the file has {size(found.file_bytes)}"
        )
        yield f"{refs} refs, {entries} log entries"

    emit(app, document, text)


@command()
@click.pass_obj
def doctor(app: App) -> None:
    """Say what is wrong with this set-up, and how to mend it."""
    from gsync.sync.doctor import examine

    with app.open() as repo:
        findings = examine(repo)
    marks = {"ok": "ok", "note": "note", "problem": "problem"}
    emit(
        app,
        {"findings": [as_dict(finding) for finding in findings]},
        lambda: [
            line
            for f in findings
            for line in [
                f"{marks[f.level]:<8} {f.text}",
                *([f"         {f.hint}"] if f.hint else []),
            ]
        ],
    )
    if any(finding.level == "problem" for finding in findings):
        app.exit(1)
