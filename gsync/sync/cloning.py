"""Clone: a new repository that appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from gsync.config import Remote
from gsync.configedit import add_remote
from gsync.errors import Conflict, GsyncError, Invalid, Unavailable
from gsync.replicas.files.beside import fsync_directory, sweep_beside
from gsync.replicas.files.remove import remove_tree
from gsync.store.sqlite import SqliteStore
from gsync.sync.checkout import fill_folder
from gsync.sync.exchange import Moved, clone, connect, look
from gsync.sync.lock import locked
from gsync.sync.repository import (
    STORE,
    WORKDIR,
    Repository,
    find_root,
    init_repository,
    open_repository,
)
from gsync.sync.runs import recorded

_NAME_BYTES_MAX = 200  # with what is added it stays below the 255 that file systems allow


def name_from_url(url: str) -> str:
    """Return the directory that `gsync clone URL` makes when none is named."""
    path = urlsplit(url).path if "://" in url else url
    if url.startswith("tarball+"):  # a tenant's own host, which is named for it
        path = (urlsplit(url).hostname or "").partition(".")[0]
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
    ca_file: str | None,
    run_id: str | None = None,
    dry_run: bool,
    command: str,
) -> tuple[Moved, int]:
    """Clone `url` into `target`, which is absent or an empty directory.

    Everything is made in a directory beside it, and takes the target's name at the end, so that
    an interrupted clone leaves nothing under that name. What a clone left that lost its remote,
    or was killed, is where the next one into the same target goes on.

    Returns:
        What moved, and how many paths were written.

    Raises:
        Conflict: `target` is there and not empty, or lies inside a repository.
        Locked: another process clones into it.
    """
    target = Path(os.path.abspath(target))
    if not dry_run:
        sweep_beside(os.fsencode(target))
    _check_target(target)
    to_url = partial(
        connect, url=url, token=token, insecure_http=insecure_http, ca_file=ca_file, run_id=run_id
    )
    if dry_run:
        with to_url(None) as connection:
            return look(None, "origin", connection), 0
    made = _begun_beside(target)
    made.mkdir(parents=True, exist_ok=True)
    with locked(made / "lock", command, wait_s=0):
        try:
            _check_target(target)
            remote = Remote(url, token_file, insecure_http, ca_file)
            with _open_begun(made, remote) as repo, repo.writing(command):
                repo.recorder(command).explain("remove the folder that it made instead", final=True)
                tree = made / "tree"
                with recorded(repo, "clone", run_id=run_id or "") as run:
                    run.remote = "origin"
                    with run.counting(partial(to_url, repo))() as connection:
                        moved = clone(repo, run.remote, connection)
                    count = fill_folder(repo, tree) if moved.new else 0
            # A folder without files is not made by writing them.
            tree.mkdir(exist_ok=True)
            if not (tree / "gsync.toml").exists() and not moved.new:
                os.rename(made / "repository/gsync.toml", tree / "gsync.toml")
            os.rename(made / "repository" / WORKDIR, tree / WORKDIR)
            fsync_directory(os.fsencode(tree))
            os.rename(tree, target)  # onto an empty directory, or nothing
            fsync_directory(os.fsencode(target.parent))
        except (Unavailable, KeyboardInterrupt):
            if not _has_objects(made):
                remove_tree(made)
            raise
        except BaseException:
            remove_tree(made)
            raise
        remove_tree(made)
    return moved, count


def _begun_beside(target: Path) -> Path:
    """Return where a clone into `target` is made, which one that is repeated goes on from."""
    name = os.fsencode(target.name)[:_NAME_BYTES_MAX]
    return target.parent / f".{os.fsdecode(name)}.gsync-clone"


@contextmanager
def _open_begun(made: Path, remote: Remote) -> Iterator[Repository]:
    """Open the repository that a clone from `remote` began in `made`, or a new one."""
    root, tree = made / "repository", made / "tree"
    if (tree / WORKDIR).is_dir() and not (root / WORKDIR).exists():
        os.rename(tree / WORKDIR, root / WORKDIR)
    remove_tree(tree)
    if not _is_begun(root, remote):
        remove_tree(root)
        root.mkdir()
        init_repository(root)
        add_remote(root / WORKDIR, "origin", remote)
    with open_repository(root) as repo:
        yield repo


def _is_begun(root: Path, remote: Remote) -> bool:
    """Whether a whole repository is at `root` whose origin is `remote`."""
    if not (root / WORKDIR / STORE).is_file():
        return False
    try:
        with open_repository(root) as repo:
            return repo.config.local.remotes.get("origin") == remote
    except GsyncError:
        return False  # it was killed while it was made


def _has_objects(made: Path) -> bool:
    """Whether something has come that a repeated clone need not ask for."""
    try:
        with SqliteStore.open(made / "repository" / WORKDIR / STORE) as store:
            return next(store.list_objects(), None) is not None
    except GsyncError:
        return False


def _check_target(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Conflict(f"{target} exists and is not empty", hint="clone into a new directory")
    found = find_root(target.absolute().parent)
    if found is not None:
        raise Conflict(f"{target} lies inside the repository {found}", hint="clone outside of it")
