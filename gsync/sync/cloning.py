"""Clone: a new repository that appears whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from gsync.config import Remote
from gsync.configedit import add_remote
from gsync.errors import Conflict, Invalid
from gsync.replicas.files.beside import fsync_directory, made_beside, sweep_beside
from gsync.sync.checkout import fill_folder
from gsync.sync.exchange import Moved, clone, connect, look
from gsync.sync.repository import WORKDIR, find_root, init_repository, open_repository


def name_from_url(url: str) -> str:
    """Return the directory that `gsync clone URL` makes when none is named."""
    path = urlsplit(url).path if "://" in url else url
    name = path.rstrip("/").rpartition("/")[2]
    if not name or name in (".", ".."):
        raise Invalid(f"no directory name in {url!r}", hint="name one: 'gsync clone URL DIR'")
    return name


def clone_repository(
    url: str,
    target: Path,
    *,
    token: str | None,
    insecure_http: bool,
    token_file: str | None,
    dry_run: bool,
    command: str,
) -> tuple[Moved, int]:
    """Clone `url` into `target`, which is absent or an empty directory.

    Everything is made in a directory beside it, which takes its name at the end, so that
    an interrupted clone leaves nothing under that name.

    Returns:
        What moved, and how many paths were written.

    Raises:
        Conflict: `target` is there and not empty, or lies inside a repository.
    """
    target = Path(os.path.abspath(target))
    if not dry_run:
        sweep_beside(os.fsencode(target))
    _check_target(target)
    if dry_run:
        with connect(None, url, token=token, insecure_http=insecure_http) as connection:
            return look(None, "origin", connection), 0
    target.parent.mkdir(parents=True, exist_ok=True)
    with made_beside(os.fsencode(target)) as beside:
        made, tree = Path(os.fsdecode(beside), "store"), Path(os.fsdecode(beside), "tree")
        made.mkdir()
        init_repository(made)
        add_remote(
            made / WORKDIR,
            "origin",
            Remote(url, token_file, insecure_http),
        )
        count = 0
        with open_repository(made) as repo, repo.writing(command):
            repo.recorder(command).explain("remove the folder that it made instead", final=True)
            with connect(repo, url, token=token, insecure_http=insecure_http) as connection:
                moved = clone(repo, "origin", connection)
            if moved.new:
                count = fill_folder(repo, tree)
        # A folder without files is not made by writing them.
        tree.mkdir(exist_ok=True)
        os.rename(made / WORKDIR, tree / WORKDIR)
        if not (tree / "gsync.toml").exists() and not moved.new:
            os.rename(made / "gsync.toml", tree / "gsync.toml")
        fsync_directory(os.fsencode(tree))
        os.rename(tree, target)  # onto an empty directory, or nothing
        fsync_directory(os.fsencode(target.parent))
    return moved, count


def _check_target(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Conflict(f"{target} exists and is not empty", hint="clone into a new directory")
    found = find_root(target.absolute().parent)
    if found is not None:
        raise Conflict(f"{target} lies inside the repository {found}", hint="clone outside of it")
