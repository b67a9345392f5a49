"""Make the small repository that this version leaves, for every later one to open.

Run once for a version whose format changed, and never again for an old one:
`python tests/stores/make_store.py tests/stores/v1`. The store is kept as a gzip tarball of
`store.db`, beside what it holds.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
import tempfile
from pathlib import Path

from gsync.objects.oid import Kind
from gsync.store.base import RefMove
from gsync.store.sqlite import SqliteStore
from gsync.sync.contents import list_contents
from gsync.sync.repository import init_repository, open_repository, snapshot

TIMES_US = (1_767_225_600_000_000, 1_767_312_000_000_000)


def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "folder"
        folder.mkdir()
        init_repository(folder)
        fill(folder)
        with open_repository(folder) as repo:
            first = snapshot(repo, "first", time_us=TIMES_US[0])
            change(folder)
            snapshot(repo, "second", time_us=TIMES_US[1])
            assert first.oid is not None
            repo.store.move_refs(
                [RefMove("tags/v1", None, first.oid)], time_us=TIMES_US[1], actor="me", why="tag"
            )
            refs = repo.store.list_refs()
            expected = {
                "refs": {name: oid.hex() for name, oid in refs.items()},
                "objects": sorted(oid.hex() for _, oid, _ in repo.store.list_objects()),
                "files": {
                    path.hex(): [int(entry.type), entry.size, (entry.content_id or b"").hex()]
                    for path, entry in list_contents(repo, refs["main"])
                },
            }
            repo.store.save_scan_dirs(dict.fromkeys(repo.store.load_scan_dirs()))
        with SqliteStore.open(folder / ".gsync/store.db") as store:
            store.rebuild_file()
            assert all(kind in Kind for kind, _, _ in store.list_objects())
        body = (folder / ".gsync/store.db").read_bytes()
    target.mkdir(parents=True, exist_ok=True)
    (target / "store.db.gz").write_bytes(gzip.compress(body, mtime=0))
    (target / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def fill(folder: Path) -> None:
    for number in range(120):
        path = folder / f"pages/{number % 7}/page-{number}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# Page {number}\n" + f"line {number}\n" * (number % 30))
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "link").symlink_to("pages/0/page-0.md")
    (folder / "empty").mkdir()
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9\n")).write_text("a name that is not UTF-8")
    (folder / "large.bin").write_bytes(b"".join(b"%08d" % i for i in range(40_000)))


def change(folder: Path) -> None:
    (folder / "pages/1/page-1.md").write_text("edited\n")
    (folder / "pages/2/page-2.md").unlink()
    (folder / "pages/3/page-3.md").rename(folder / "pages/3/moved.md")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
