"""verify, gc, stats, doctor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import click

from gsync.cli.app import App, command, dry_run_option
from gsync.cli.output import emit, size


@command()
@click.option("--quick", is_flag=True, help="Walk the roots, but do not rehash contents")
@click.pass_obj
def verify(app: App, quick: bool) -> None:
    """Rehash every object and walk every root; exit with 6 when anything is wrong."""
    from gsync.sync.maintenance import verify as check

    with app.open() as repo, app.progress("Verifying", "objects") as progress:
        found = check(repo.store, quick=quick, progress=progress)
    document = {
        "objects": found.objects,
        "bytes": found.bytes,
        "manifests": found.manifests,
        "quick": quick,
        "problems": [asdict(problem) for problem in found.problems],
    }

    def text() -> Iterator[str]:
        for problem in found.problems:
            yield f"{problem.kind}: {problem.id}: {problem.detail}"
        checked = "looked at" if quick else "rehashed"
        yield (
            f"{found.objects} objects ({size(found.bytes)}) {checked},"
            f" {found.manifests} manifests walked: {len(found.problems) or 'no'} problem(s)."
        )
        if found.problems:
            yield (
                "Keep a copy of the store as it is. A remote that is whole has the missing"
                " objects: clone it, and compare."
            )

    emit(app, document, text)
    if found.problems:
        app.exit(6)


@command()
@dry_run_option
@click.pass_obj
def gc(app: App, dry_run: bool) -> None:
    """Drop objects that no ref, tag, log entry or remote names."""
    from gsync.sync.maintenance import collect
    from gsync.sync.repository import now_us

    with app.open() as repo, repo.writing("gsync gc"):
        found = collect(repo.store, now_us(), dry_run=dry_run)
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
        {"findings": [asdict(finding) for finding in findings]},
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
