"""What is wrong with this set-up, and how to mend it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gsync.config import expand
from gsync.paths import show_path
from gsync.sync.repository import STORE, Repository, rescued, scan
from gsync.sync.runs import Health, health

FREE_BYTES_MIN = 1 << 30
WAL_BYTES_MAX = 1 << 28


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: `ok`, `note` or `problem`.
        text: What was found.
        hint: What to do about it, or None.
    """

    level: str
    text: str
    hint: str | None = None


def examine(repo: Repository) -> list[Finding]:
    """Return what was found, problems last; reads only."""
    order = {"ok": 0, "note": 1, "problem": 2}
    return sorted(_examine(repo), key=lambda finding: order[finding.level])


def _examine(repo: Repository) -> Iterator[Finding]:
    yield from _store(repo)
    yield from _permissions(repo)
    yield from _space(repo)
    yield from _remotes(repo)
    yield from _jobs(repo)
    if not repo.bare:
        yield from _folder(repo)
        yield from _databases(repo)


def _store(repo: Repository) -> Iterator[Finding]:
    problems = list(repo.store.check_database())
    for text in problems:
        yield Finding("problem", f"store.db: {text}", "run 'gsync verify'; keep a copy first")
    if not problems:
        yield Finding("ok", "the store's database is sound ('gsync verify' checks the contents)")
    wal = repo.workdir / f"{STORE}-wal"
    if wal.exists() and wal.stat().st_size > WAL_BYTES_MAX:
        yield Finding(
            "note",
            f"the store's write-ahead log has {wal.stat().st_size >> 20} MiB",
            "a reader that never ends keeps it; end it, then 'gsync gc'",
        )
    version = sqlite3.sqlite_version_info
    if version < (3, 51, 3) and version not in {(3, 50, 7), (3, 44, 6)}:
        yield Finding(
            "note",
            f"SQLite {sqlite3.sqlite_version} can damage a database when two connections reset its"
            " log at once; gsync keeps to one writer, other programs must only read store.db",
        )


def _permissions(repo: Repository) -> Iterator[Finding]:
    for path in (repo.workdir / "config.toml", repo.workdir / STORE):
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
            yield Finding("problem", f"{path} can be read by others", f"chmod 600 {path}")
    if not os.access(repo.workdir, os.W_OK):
        yield Finding("problem", f"{repo.workdir} cannot be written", "check its owner and mode")


def _space(repo: Repository) -> Iterator[Finding]:
    free = shutil.disk_usage(repo.workdir).free
    if free < FREE_BYTES_MIN:
        yield Finding("problem", f"only {free >> 20} MiB are free", "make room, or 'gsync gc'")
    else:
        yield Finding("ok", f"{free >> 30} GiB are free")


def _remotes(repo: Repository) -> Iterator[Finding]:
    fared = health(repo.store)
    if not repo.config.remotes:
        yield Finding("note", "there is no remote", "'gsync remote add origin URL'")
    for name, remote in sorted(repo.config.remotes.items()):
        if remote.url.startswith("http:") and not _is_loopback(remote.url):
            yield Finding(
                "problem", f"remote {name} is plain http beyond this machine", "use https"
            )
        yield _fared(name, fared.get(name, Health()))
        for what, file in (("token", remote.token_file), ("certificate", remote.ca_file)):
            if file is not None and not Path(expand(file)).is_file():
                yield Finding("problem", f"remote {name}: no {what} file {file}", "make it")


def _jobs(repo: Repository) -> Iterator[Finding]:
    jobs = [job.name for job in repo.config.local.jobs]
    if not jobs:
        return
    from gsync.sync.jobrecord import failing

    failed = failing(repo.store, jobs)
    for name, state in failed.items():
        yield Finding(
            "problem",
            f"job {name}: the last {state.failures} run(s) have failed, the newest with:"
            f" {state.last_failure}",
            "see 'gsync jobs history --failed'",
        )
    if not failed:
        yield Finding("ok", f"{len(jobs)} job(s), none of which failed last")


def _fared(name: str, health: Health) -> Finding:
    """Say when a remote was synced last: what fails for long must not go unseen."""
    if health.failures:
        last = "never" if health.synced_us is None else f"last {_day(health.synced_us)}"
        return Finding(
            "problem",
            f"remote {name} was {last} synced; {health.failures} run(s) have failed since, the"
            f" newest with: {health.error}",
            "see 'gsync runs --failed'",
        )
    if health.synced_us is None:
        return Finding("note", f"remote {name} was never synced with", f"'gsync sync {name}'")
    return Finding("ok", f"remote {name} was last synced {_day(health.synced_us)}")


def _day(time_us: int) -> str:
    return datetime.fromtimestamp(time_us // 1_000_000, UTC).isoformat().replace("+00:00", "Z")


def _is_loopback(url: str) -> bool:
    from urllib.parse import urlsplit

    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def _folder(repo: Repository) -> Iterator[Finding]:
    found = scan(repo, write=False)
    for notice in rescued(repo):
        yield Finding("note", notice.text, f"look into {show_path(notice.path)}")
    levels = {"secret": "note", "unreadable": "problem", "collision": "problem"}
    for notice in found.notices:
        yield Finding(levels.get(notice.code, "note"), notice.text)
    if not found.notices:
        yield Finding("ok", "nothing in the folder is held back")


def _databases(repo: Repository) -> Iterator[Finding]:
    if not (repo.config.shared.databases or repo.config.local.databases):
        return
    from gsync.sync.databases import check_databases

    for level, text, hint in check_databases(repo):
        yield Finding(level, text, hint)
