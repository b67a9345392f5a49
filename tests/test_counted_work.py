"""How much work fixed scenarios make: counted, so that it says the same on any machine.

A limit is what the scenario took when it was set, and a little. A change that needs more has to
say so here; one that needs less should lower it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import require
from support_cli import gsync_in, write
from support_counting import Work, count_in
from support_server import RunningServer, running_server

pytestmark = pytest.mark.slow

SMALL, LARGE = 100, 1600
PER_DIRECTORY = 20
EDITED = 5


def tree(count: int) -> dict[str, bytes]:
    """Return files of up to 4 KiB, the same each time."""
    r = random.Random(count)
    return {
        f"d{i // PER_DIRECTORY:03}/f{i:05}.txt": r.randbytes(r.randrange(100, 2000)).hex().encode()
        for i in range(count)
    }


def edit(folder: Path, count: int) -> None:
    """Change the beginning of some files that lie apart."""
    for name, body in list(tree(count).items())[:: count // EDITED]:
        (folder / name).write_bytes(b"edited" + body)


@dataclass(frozen=True)
class Life:
    """What each command of one tree's life took."""

    count: int
    works: dict[str, Work]

    def __getitem__(self, name: str) -> Work:
        return self.works[name]


def live(server: RunningServer, folder: Path, count: int) -> Life:
    """Snapshot, push, clone; edit five files, and all of it again."""
    folder.mkdir()
    one, two = folder / "one", folder / "two"
    one.mkdir()
    tenant = f"t{count}"
    url, env = f"{server.base}/{tenant}", {"GSYNC_TOKEN": server.token(tenant)}
    gsync_in(one, "init")
    write(one, tree(count))
    works = {"first snapshot": count_in(one, "snapshot", "-m", "first")}
    works["status"] = count_in(one, "status")
    works["status again"] = count_in(one, "status")
    works["snapshot of nothing"] = count_in(one, "snapshot")
    gsync_in(one, "remote", "add", "origin", url)
    works["first push"] = count_in(one, "push", **env)
    works["push of nothing"] = count_in(one, "push", **env)
    works["clone"] = count_in(folder, "clone", url, str(two), **env)
    works["pull of nothing"] = count_in(two, "pull", **env)
    edit(one, count)
    works["snapshot"] = count_in(one, "snapshot", "-m", "edit")
    works["push"] = count_in(one, "push", **env)
    works["pull"] = count_in(two, "pull", **env)
    works["diff"] = count_in(one, "diff", "HEAD~1", "HEAD", "--name-status")
    return Life(count, works)


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Life, Life]]:
    require("server")
    folder = tmp_path_factory.mktemp("counted")
    with running_server(folder / "data") as server:
        yield tuple(live(server, folder / str(count), count) for count in (SMALL, LARGE))  # type: ignore[misc]


@dataclass(frozen=True)
class Limit:
    """The most that a command may do in either life; None where the number of files decides."""

    files: int | None = None
    directories: int | None = None
    statements: int | None = None
    reads: int | None = None
    modules: int | None = None
    round_trips: int | None = None
    bytes_sent: int | None = None
    bytes_received: int | None = None
    objects_sent: int | None = None
    objects_received: int | None = None


# Files include the settings and rules that each command reads, and directories that are opened
# on the way to a file. Modules depend on the version of
# Python and of the libraries, hence the room.
LIMITS = {
    "status again": Limit(files=3, statements=12, reads=2, modules=215),
    "snapshot of nothing": Limit(files=3, statements=14, reads=3, modules=230),
    "snapshot": Limit(files=3 + 3 * EDITED, statements=85, reads=24, modules=240),
    "diff": Limit(files=3, directories=0, statements=41, reads=27, modules=245),
    "push of nothing": Limit(
        files=3, directories=0, statements=24, reads=2, modules=255,
        round_trips=1, bytes_sent=305, bytes_received=230, objects_sent=0,
    ),
    "push": Limit(
        files=3, directories=0, statements=70, reads=33, modules=255,
        round_trips=2, bytes_sent=1450, bytes_received=490, objects_sent=6,
    ),
    "pull of nothing": Limit(
        files=5, directories=0, statements=24, reads=1, modules=295,
        round_trips=1, bytes_sent=305, bytes_received=230, objects_received=0,
    ),
    "pull": Limit(
        files=33, directories=3, statements=186, reads=84, modules=310,
        round_trips=2, bytes_sent=640, bytes_received=1300, objects_received=6,
    ),
    "first push": Limit(files=3, directories=0, modules=255, round_trips=3),
    "clone": Limit(directories=4, modules=380, round_trips=2),
}  # fmt: skip


@pytest.mark.parametrize("name", LIMITS)
def test_a_command_does_no_more_than_it_did(lives: tuple[Life, Life], name: str) -> None:
    """However many files there are, a fixed change takes no more than this, of anything."""
    over = {}
    for life in lives:
        found = life[name]
        for what, most in vars(LIMITS[name]).items():
            value = getattr(found, what) if hasattr(found, what) else found.document.get(what)
            if most is not None and value > most:
                over[f"{what} with {life.count} files"] = f"{value}, at most {most}"
    assert not over


def test_a_snapshot_opens_what_changed_and_lists_what_there_is(lives: tuple[Life, Life]) -> None:
    """Each directory is listed once, and no file is opened that is as it was."""
    for life in lives:
        directories = life.count // PER_DIRECTORY + 1
        # Files are read by way of their directories' handles.
        assert life["first snapshot"].files <= life.count + 3 * directories + 4
        assert life["first snapshot"].directories <= directories
        assert life["status again"].directories <= directories
        # The status before it has remembered what every file was like.
        assert life["snapshot of nothing"].statements <= life["status"].statements


def test_first_transfers_grow_with_the_tree_and_no_faster(lives: tuple[Life, Life]) -> None:
    """Statements, files and bytes per file do not grow with the number of files."""
    small, large = lives
    factor = large.count / small.count
    for name, metric in [
        ("first snapshot", "statements"),
        ("first push", "statements"),
        ("clone", "statements"),
        ("clone", "files"),
    ]:
        grown = getattr(large[name], metric) / getattr(small[name], metric)
        assert grown <= factor, (name, metric)
    sent = [life["first push"].document["bytes_sent"] / life.count for life in lives]
    received = [life["clone"].document["bytes_received"] / life.count for life in lives]
    assert sent[1] <= sent[0] and received[1] <= received[0]
