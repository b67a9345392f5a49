"""Tarballs out of a repository and into it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gsync.errors import NotFound
from gsync.maps.diff import diff_maps
from gsync.maps.omap import EMPTY_MAP
from gsync.objects.model import FILES, Collection, encode_manifest
from gsync.objects.oid import Kind, ObjectId
from gsync.replicas.base import Notice
from gsync.replicas.files.ignore import is_secret
from gsync.sync.compare import FileChange, describe, files_root, is_below
from gsync.sync.repository import Repository, next_manifest
from gsync.tarball import TarLimits, read_tarball, write_tarball


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote; `left_out` names the tables that a tarball cannot hold."""

    entries: int
    tar_bytes: int
    gzip_bytes: int
    tar_blake3: bytes
    left_out: list[str]


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import made: the manifest, or None when nothing changed or in a dry run."""

    oid: ObjectId | None
    changes: list[FileChange]
    notices: list[Notice]


def export_file(
    repo: Repository,
    oid: ObjectId,
    paths: Sequence[bytes],
    target: Path | None,
    *,
    rows: bool = False,
    dry_run: bool = False,
) -> Exported:
    """Write the files of a manifest to `target`, or to stdout; it appears whole or not at all.

    With `rows` its tables (those that `paths` name, if there are any) stand beside the files as
    `db/NAME/TABLE.jsonl`; the caller holds the lock then.

    With `dry_run` the tarball is made and thrown away, so that its hash can be told.
    """
    manifest = repo.manifest(oid)
    root = files_root(manifest) or EMPTY_MAP
    tables = [c for c in manifest.collections if c.name != FILES] if manifest else []
    if rows and tables:
        from gsync.sync.tablefiles import FILE_SUFFIX, add_as_files

        named = {c.name.encode(): c for c in tables if is_below(c.name.encode(), paths or [b""])}
        root = add_as_files(repo.store, root, list(named.values()))
        paths = [path + FILE_SUFFIX if path in named else path for path in paths]
        tables = [c for c in tables if c not in named.values()]
    left_out = [c.name for c in tables]
    with open(os.devnull, "wb") if dry_run else _writing(target) as out:
        written = write_tarball(repo.store, root, out, paths=paths)
    return Exported(
        written.entries, written.tar_bytes, written.gzip_bytes, written.tar_blake3, left_out
    )


@contextmanager
def _writing(target: Path | None) -> Iterator[BinaryIO]:
    if target is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if not target.parent.is_dir():
        raise NotFound(f"no directory {target.parent}", hint="make it first")
    part = target.with_name(f".{target.name}.part-{os.getpid()}")
    try:
        with part.open("xb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.replace(part, target)
    except OSError as error:  # it names the other file, or none
        raise OSError(error.errno, error.strerror, str(target)) from error
    finally:
        part.unlink(missing_ok=True)


def import_file(
    repo: Repository, source: Path | None, message: str, *, dry_run: bool = False
) -> Imported:
    """Make a manifest from a tarball on top of HEAD, and bring the folder to it.

    The secret filter holds here too. Unsaved changes that the import would touch stop it
    before anything is written; objects that a refused tarball brought are collected later.

    Raises:
        NotFound: there is no such file.
        Invalid: the tarball holds what is never written; nothing was changed.
    """
    from gsync.sync.checkout import move_folder
    from gsync.sync.merging import check_no_merge

    if not dry_run:
        check_no_merge(repo)
    if source is not None and not source.is_file():
        raise NotFound(f"no file {source}")
    stream = sys.stdin.buffer if source is None else source.open("rb")
    with stream:
        read = read_tarball(stream, repo.store, limits=_limits(repo), accept=_accept)
    notices = [Notice(held.path, "secret", held.reason) for held in read.held_back]
    head = repo.head()
    parent = repo.manifest(head)
    base = files_root(parent)
    changes = describe(diff_maps(repo.store, base, read.root))
    if not changes and parent is not None or dry_run:
        return Imported(None, changes, notices)
    name = source.name if source else "stdin"
    manifest = next_manifest(
        parent,
        head,
        [Collection(FILES, read.root, read.count)],
        repo.author(),
        message or f"import {name}",
    )
    oid = repo.store.put(Kind.MANIFEST, encode_manifest(manifest))
    repo.store.flush()
    if repo.bare:
        repo.move("main", head, oid, "import")
    else:
        move_folder(repo, head, oid, why="import")
    return Imported(oid, changes, notices)


def _limits(repo: Repository) -> TarLimits:
    limits = repo.config.limits
    return TarLimits(
        entries_max=limits.import_entries_max,
        total_bytes_max=limits.import_bytes_max,
        ratio_max=limits.import_ratio_max,
    )


def _accept(path: bytes) -> str | None:
    if is_secret(path):
        return "looks like a secret, and is held back"
    return None
