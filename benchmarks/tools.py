"""Every program that is measured: how it does each operation, with its default settings.

A tool has a tree to keep and a folder for its store. A method gives the commands of one operation;
what a tool has no method for, it does not do. Operations, in the order of a scenario:

snapshot     the tree as it is into an empty local store
status       what changed; where a tool cannot tell without it, a second snapshot
restore      the newest snapshot into a new folder
push         what is recorded to an empty store on a server
send         the tree as it is to an empty store on a server, with all that this takes
push_nothing, clone, pull    with that server; clone into a new folder, pull into the clone
diff         names of what differs between the last two snapshots
verify, gc   read everything stored again; drop what nothing needs
"""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import ClassVar

from benchmarks import servers
from benchmarks.measure import Command, run, sizes
from benchmarks.servers import ROOT, Server

Commands = list[Command]
AUTHOR = {
    "GIT_AUTHOR_NAME": "Bench",
    "GIT_AUTHOR_EMAIL": "bench@example.org",
    "GIT_COMMITTER_NAME": "Bench",
    "GIT_COMMITTER_EMAIL": "bench@example.org",
    "GSYNC_AUTHOR": "Bench <bench@example.org>",
}


class Tool:
    """What all tools share.

    Attributes:
        name: As in tables and in `--peers`.
        program: What must be in PATH.
        start_server: How its server starts; None where there is none.
        beside: Files that are no part of the store, such as the cache of what files were like.
        in_tree: It keeps its store in the tree, which is then its own.
    """

    name: ClassVar[str]
    program: ClassVar[str]
    version_argv: ClassVar[Sequence[str]] = ("--version",)
    start_server: ClassVar[Callable[..., Server] | None] = None
    beside: ClassVar[Sequence[str]] = ()
    in_tree: ClassVar[bool] = False

    def __init__(self, tree: Path, home: Path) -> None:
        self.tree, self.home = tree, home
        self.store = home / "store"
        self.server: Server | None = None
        self.prefix: Sequence[str] = ()  # what makes a command run on the client's side of a link
        self.address = ""
        self.place = home.name  # the name of its store on the server
        self.count = 0
        self.env: dict[str, str] = {
            **AUTHOR,
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_CACHE_HOME": str(home / "cache"),
        }
        home.mkdir(parents=True)

    @classmethod
    def version(cls) -> str | None:
        """Return what it says its version is, or None where it is not installed."""
        path = shutil.which(cls.program)
        if path is None:
            return None
        said = subprocess.run([path, *cls.version_argv], capture_output=True, text=True).stdout
        return said.strip().splitlines()[0] if said.strip() else "unknown"

    def prepare(self) -> None:
        """Make an empty store; not measured."""

    def connect(self, server: Server, address: str, served: Path) -> None:
        """Make an empty store on the server, and remember it; not measured.

        Args:
            server: Where it is.
            address: Host and port to use, which may be those of a proxy.
            served: The folder that the server serves.
        """
        self.server, self.address = server, address

    def does(self, op: str) -> bool:
        """Return whether it has that operation."""
        return getattr(self, op, None) is not None

    def do(self, op: str, *targets: Path) -> Commands:
        """Return the commands of one operation, by its name."""
        commands: Commands = getattr(self, op)(*targets)
        return commands

    def command(
        self, *argv: str, folder: Path | None = None, env: Mapping[str, str] | None = None
    ) -> Command:
        """Return a command of this tool, in its tree unless said otherwise."""
        return Command(argv, folder or self.tree, {**self.env, **(env or {})})

    def untimed(self, *argv: str, folder: Path | None = None) -> str:
        """Run something that is no part of a figure."""
        return run([self.command(*argv, folder=folder or self.home)]).output

    def sizes(self) -> tuple[int, int]:
        """Return the bytes of its store, and what the file system allots for them.

        The cache of what files were like is not counted: it holds nothing that is kept.
        """
        return sizes(self.store, without=self.beside)

    def close(self) -> None:
        """Drop what it keeps in the tree."""


class Gsync(Tool):
    """This program."""

    name, program, in_tree = "gsync", sys.executable, True
    start_server = staticmethod(servers.gsync_server)

    @classmethod
    def version(cls) -> str | None:
        """Return gsync's version and Python's."""
        from gsync import __version__

        return f"gsync {__version__}, Python {sys.version.split()[0]}"

    def prepare(self) -> None:
        self.store = self.tree / ".gsync"
        self.env["PYTHONPATH"] = str(ROOT)
        self.untimed(*self._gsync("init"), folder=self.tree)

    def connect(self, server: Server, address: str, served: Path) -> None:
        super().connect(server, address, served)
        add = ("token", "add", "--data", str(served / "data"), "--tenant", self.place)
        secret = self.untimed(*self._gsync(*add, "--scope", "write")).strip()
        self.env["GSYNC_TOKEN"] = secret
        url = f"http://{address}/{self.place}"
        self.untimed(
            *self._gsync("remote", "add", "origin", url, "--insecure-http"), folder=self.tree
        )

    def sizes(self) -> tuple[int, int]:
        apparent, allotted = super().sizes()
        query = "SELECT total(pgsize) FROM dbstat WHERE name LIKE '%scan_dir%'"
        with closing(sqlite3.connect(self.store / "store.db")) as database:
            cache = int(database.execute(query).fetchone()[0])
        return apparent - cache, allotted - cache

    def snapshot(self) -> Commands:
        return [self.command(*self._gsync("snapshot", "-m", "state"))]

    def status(self) -> Commands:
        return [self.command(*self._gsync("status"))]

    def restore(self, target: Path) -> Commands:
        return [self.command(*self._gsync("restore", "HEAD", "--to", str(target)))]

    def push(self) -> Commands:
        return [self.command(*self._gsync("push"))]

    def clone(self, target: Path) -> Commands:
        url = f"http://{self.address}/{self.place}"
        argv = self._gsync("clone", url, str(target), "--insecure-http")
        return [self.command(*argv, folder=self.home)]

    def pull(self, target: Path) -> Commands:
        return [self.command(*self._gsync("pull"), folder=target)]

    def diff(self) -> Commands:
        return [self.command(*self._gsync("diff", "HEAD~1", "HEAD", "--name-status"))]

    def verify(self) -> Commands:
        return [self.command(*self._gsync("verify"))]

    def gc(self) -> Commands:
        return [self.command(*self._gsync("gc"))]

    def close(self) -> None:
        for name in (".gsync", "gsync.toml"):
            if (self.tree / name).exists():
                (self.tree / name).rename(self.home / f"old-{name}")

    def _gsync(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "gsync", *arguments]


class Git(Tool):
    """git; `gc` is left to its own operation, as otherwise it runs whenever it likes."""

    name, program = "git", "git"
    start_server = staticmethod(servers.git_server)
    beside = ("index",)

    def prepare(self) -> None:
        self.env |= {"GIT_CONFIG_NOSYSTEM": "1"}
        self.untimed("git", "config", "--global", "gc.auto", "0")
        self.untimed("git", "config", "--global", "init.defaultBranch", "main")
        self.untimed("git", "init", "-q", "--bare", str(self.store))
        self.untimed("git", f"--git-dir={self.store}", "config", "core.bare", "false")
        self.where = {"GIT_DIR": str(self.store), "GIT_WORK_TREE": str(self.tree)}

    def connect(self, server: Server, address: str, served: Path) -> None:
        super().connect(server, address, served)
        bare = served / f"{self.place}.git"
        self.untimed("git", "init", "-q", "--bare", str(bare))
        self.untimed("git", f"--git-dir={bare}", "config", "gc.auto", "0")
        url = f"http://{address}/{self.place}.git"
        self.untimed("git", f"--git-dir={self.store}", "remote", "add", "origin", url)

    def snapshot(self) -> Commands:
        commit = ("git", "commit", "-q", "-m", "state")
        return [
            self.command("git", "add", "-A", env=self.where),
            self.command(*commit, env=self.where),
        ]

    def status(self) -> Commands:
        return [self.command("git", "status", "--porcelain", env=self.where)]

    def restore(self, target: Path) -> Commands:
        target.mkdir()
        where = {**self.where, "GIT_WORK_TREE": str(target)}
        where["GIT_INDEX_FILE"] = str(self.home / "restore.index")
        argv = ("git", "checkout", "-q", "-f", "HEAD", "--", ".")
        return [self.command(*argv, folder=target, env=where)]

    def push(self) -> Commands:
        return [self.command("git", "push", "-q", "origin", "HEAD:refs/heads/main", env=self.where)]

    def clone(self, target: Path) -> Commands:
        url = f"http://{self.address}/{self.place}.git"
        return [self.command("git", "clone", "-q", url, str(target), folder=self.home)]

    def pull(self, target: Path) -> Commands:
        return [self.command("git", "pull", "-q", "--ff-only", folder=target)]

    def diff(self) -> Commands:
        return [self.command("git", "diff", "--name-status", "HEAD~1", "HEAD", env=self.where)]

    def verify(self) -> Commands:
        return [self.command("git", "fsck", "--full", "--no-progress", env=self.where)]

    def gc(self) -> Commands:
        return [self.command("git", "gc", "-q", "--prune=now", env=self.where)]


class Restic(Tool):
    """restic, to a local repository and to rclone's server for it."""

    name, program, version_argv = "restic", "restic", ("version",)
    start_server = staticmethod(servers.restic_server)

    def prepare(self) -> None:
        self.env |= {"RESTIC_PASSWORD": "bench", "RESTIC_REPOSITORY": str(self.store)}
        self.untimed("restic", "init")

    def connect(self, server: Server, address: str, served: Path) -> None:
        super().connect(server, address, served)
        self.remote = {"RESTIC_REPOSITORY": f"rest:http://{address}/{self.place}"}
        init = self.command("restic", "init", folder=self.home, env=self.remote)
        run([init], prefix=self.prefix)

    def snapshot(self) -> Commands:
        return [self.command("restic", "backup", "-q", ".")]

    status = snapshot

    def restore(self, target: Path) -> Commands:
        return [self.command("restic", "restore", "-q", "latest", "--target", str(target))]

    def send(self) -> Commands:
        return [self.command("restic", "backup", "-q", ".", env=self.remote)]

    push_nothing = send

    def clone(self, target: Path) -> Commands:
        argv = ("restic", "restore", "-q", "latest", "--target", str(target))
        return [self.command(*argv, env=self.remote)]

    def diff(self) -> Commands:
        lines = self.untimed("restic", "snapshots", "-c").splitlines()
        ids = [line.split()[0] for line in lines if line[:8].isalnum() and line[8:9] == " "]
        return [self.command("restic", "diff", "-q", *ids[-2:])]

    def verify(self) -> Commands:
        return [self.command("restic", "check", "-q", "--read-data")]

    def gc(self) -> Commands:
        return [self.command("restic", "prune", "-q")]


class Borg(Tool):
    """borg without encryption, compressed by lz4 as it does unasked."""

    name, program = "borg", "borg"

    def prepare(self) -> None:
        self.env |= {
            "BORG_BASE_DIR": str(self.home),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
            "BORG_REPO": str(self.store),
        }
        self.untimed("borg", "init", "-e", "none", str(self.store))

    def snapshot(self) -> Commands:
        self.count += 1
        return [self.command("borg", "create", f"::{self.count}", ".")]

    status = snapshot

    def restore(self, target: Path) -> Commands:
        target.mkdir()
        return [self.command("borg", "extract", f"::{self.count}", folder=target)]

    def diff(self) -> Commands:
        return [self.command("borg", "diff", f"::{self.count - 1}", str(self.count))]

    def verify(self) -> Commands:
        return [self.command("borg", "check", "--verify-data")]

    def gc(self) -> Commands:
        return [self.command("borg", "compact")]


class Rsync(Tool):
    """rsync -a: a copy, in place of a snapshot; and its daemon."""

    name, program = "rsync", "rsync"
    start_server = staticmethod(servers.rsync_server)
    how: ClassVar[str] = "-a"

    def snapshot(self) -> Commands:
        return [self.command("rsync", self.how, "--delete", "./", f"{self.store}/")]

    def status(self) -> Commands:
        return [self.command("rsync", f"{self.how}n", "--delete", "./", f"{self.store}/")]

    def connect(self, server: Server, address: str, served: Path) -> None:
        super().connect(server, address, served)
        self.url = f"rsync://{address}/all/{self.place}/"

    def send(self) -> Commands:
        return [self.command("rsync", self.how, "--delete", "./", self.url)]

    push_nothing = send

    def clone(self, target: Path) -> Commands:
        return [self.command("rsync", self.how, "--delete", self.url, f"{target}/")]

    pull = clone


class RsyncZ(Rsync):
    """The same with compression, which only the network sees."""

    name, how = "rsync -z", "-az"

    snapshot = status = None  # type: ignore[assignment]


class Casync(Tool):
    """casync, into a local store of chunks."""

    name, program = "casync", "casync"

    def snapshot(self) -> Commands:
        self.count += 1
        return [self._casync("make", f"{self.home}/{self.count}.caidx", ".")]

    status = snapshot

    def restore(self, target: Path) -> Commands:
        return [self._casync("extract", f"{self.home}/{self.count}.caidx", str(target))]

    def gc(self) -> Commands:
        return [self._casync("gc", f"{self.home}/{self.count}.caidx")]

    def _casync(self, *argv: str) -> Command:
        return self.command("casync", f"--store={self.store}", *argv)


class Bup(Tool):
    """bup: index, then save."""

    name, program = "bup", "bup"

    def prepare(self) -> None:
        self.env["BUP_DIR"] = str(self.store)
        self.untimed("bup", "init")

    def snapshot(self) -> Commands:
        save = ("bup", "save", "-q", "-n", "main", str(self.tree))
        return [self.command("bup", "index", str(self.tree)), self.command(*save)]

    def status(self) -> Commands:
        return [self.command("bup", "index", "-m", "-u", str(self.tree))]

    def restore(self, target: Path) -> Commands:
        return [
            self.command("bup", "restore", "-q", "-C", str(target), f"main/latest{self.tree}/.")
        ]


TOOLS: dict[str, type[Tool]] = {
    tool.name: tool for tool in (Gsync, Git, Restic, Borg, Rsync, RsyncZ, Casync, Bup)
}
