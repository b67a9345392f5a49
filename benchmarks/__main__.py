"""The runner: `python -m benchmarks`. See README.md beside it."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import traceback
from importlib import import_module
from pathlib import Path

from benchmarks import report
from benchmarks.scenario import Bench
from benchmarks.tools import TOOLS

QUESTIONS = {
    "startup": "startup",
    "real": "real_tree",
    "visible": "visible",
    "small": "small_files",
    "large": "large_file",
    "link": "slow_link",
    "history": "history",
    "ignore": "ignore_rules",
    "load": "server_load",
    "rows": "rows",
    "scaling": "scaling",
}
QUICK = ("startup", "real", "small", "large", "link", "history")


def main() -> int:
    """Measure, print the page, and write the files; the exit code is 1 when something failed."""
    options = _options()
    work = Path(tempfile.mkdtemp(prefix="gsync-bench-", dir=options.work))
    # As after an installation: compiled once, in the warm-up, whatever the environment says.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(work / "pycache")
    versions, missing = _peers(options.peers)
    sizes = {name: value for name in SIZES if (value := getattr(options, name)) is not None}
    bench = Bench(work, options.runs, [*versions], options.quick, sizes, options.tree)
    about: dict[str, object] = {
        "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
        "machine": report.machine(work),
        "versions": versions,
        "not installed": ", ".join(missing) or "none",
        "runs": f"{options.runs} after a warm-up",
    }
    page = ""
    try:
        for name in options.only:
            try:
                module = import_module(f"benchmarks.{QUESTIONS[name]}")
                getattr(module, "run_beside_peers", module.run)(bench)
            except Exception as error:  # the other questions are worth an answer all the same
                traceback.print_exc()
                bench.failed(name, error)
            page = report.write(bench, options.out, {**about, **bench.notes})
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(page)
    return 1 if bench.failures else 0


SIZES = ("files", "mib", "snapshots", "history_files", "scale_files", "rows")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, and no long questions")
    parser.add_argument("--peers", default=",".join(TOOLS), help="names, with commas; default: all")
    parser.add_argument("--only", help=f"questions, with commas, of {', '.join(QUESTIONS)}")
    parser.add_argument(
        "--runs", type=int, default=3, help="after a warm-up; at least 3 to publish"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results"), help="for the files"
    )
    parser.add_argument("--work", type=Path, help="where the data lies: the disk that is measured")
    parser.add_argument("--tree", type=Path, help="a real tree to take for R")
    for name in SIZES:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help="a size")
    options = parser.parse_args()
    chosen = options.only.split(",") if options.only else QUICK if options.quick else QUESTIONS
    if unknown := [name for name in chosen if name not in QUESTIONS]:
        parser.error(f"no such question: {', '.join(unknown)}")
    options.only = [name for name in QUESTIONS if name in chosen]
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    return options


def _peers(wanted: str) -> tuple[dict[str, str], list[str]]:
    """Return the versions of the tools that are there, gsync first, and who is missing."""
    versions, missing = {}, []
    for name in dict.fromkeys(["gsync", *wanted.split(",")]):
        version = TOOLS[name].version() if name in TOOLS else None
        if version is None:
            missing.append(name)
        else:
            versions[name] = version
    return versions, missing


if __name__ == "__main__":
    sys.exit(main())
