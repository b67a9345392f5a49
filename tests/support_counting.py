"""Runs `gsync` in this process and writes down what it did: a script of its own, see `count_in`.

Work is counted where Python reports it (audit events): what was opened, which directories were
listed, which connections made, which modules imported; SQLite reports each statement, of which
`executemany` makes one a row. Work that C code does unasked is not seen.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RUN_S = 120


@dataclass(frozen=True)
class Work:
    """What one command did.

    Attributes:
        files: Opened below the folder, `.gsync` left out.
        directories: Listed.
        statements: Of SQL, in all databases.
        reads: Those of them that fetch packs of objects.
        modules: Imported by the end.
        document: What the command printed.
    """

    files: int
    directories: int
    statements: int
    reads: int
    modules: int
    document: Any


def count_in(folder: Path, *args: str, **env: str) -> Work:
    """Run a command with --json in `folder`; return its work. It must end well."""
    from support_cli import environment

    report = folder.parent / f"{folder.name}.work"
    done = subprocess.run(
        [sys.executable, __file__, str(report), str(folder), "--json", *args],
        cwd=folder,
        env=environment(**env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=RUN_S,
    )
    assert done.returncode == 0, done
    return Work(**json.loads(report.read_text()), document=json.loads(done.stdout))


def main() -> int:
    """Count until the command ends."""
    report, folder, *args = sys.argv[1:]
    # This script's own folder must not be where modules are found.
    sys.path.pop(0)
    own = os.path.join(folder, ".gsync")
    count: Counter[str] = Counter()

    def statement(sql: str) -> None:
        count["statements"] += 1
        count["reads"] += sql.lstrip().startswith("SELECT") and "pack" in sql

    def hook(event: str, values: tuple[Any, ...]) -> None:
        # An open descriptor that gets a file object is no second opening: so is bytecode written,
        # where there is none yet.
        # Nor is a handle of a directory.
        if (
            event == "open"
            and isinstance(values[0], (str, bytes))
            and not values[2] & os.O_DIRECTORY
        ):
            path = os.fsdecode(values[0])
            if not os.path.isabs(path) or path.startswith(folder) and not path.startswith(own):
                count["files"] += 1
        elif event == "os.scandir":
            count["directories"] += 1

    def connect(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = opened(*args, **kwargs)
        connection.set_trace_callback(statement)
        return connection

    opened: Any = sqlite3.connect
    vars(sqlite3)["connect"] = connect
    sys.addaudithook(hook)
    from gsync.cli.main import run

    code = run(args)
    names = ("files", "directories", "statements", "reads")
    found = {name: count[name] for name in names}
    found["modules"] = len(sys.modules)
    Path(report).write_text(json.dumps(found))
    return code


if __name__ == "__main__":
    sys.exit(main())
