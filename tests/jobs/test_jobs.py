"""Jobs as real processes: run, listed, cut off, hanging, and by two schedulers at once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families
from support_cli import gsync_in, json_in, make_repository, refused, start, write

from gsync.config import JobConfig, load_config
from gsync.errors import Invalid, Unavailable
from gsync.jobs.run import Runner, command_line
from gsync.store.sqlite import SqliteStore
from gsync.sync.jobrecord import JobRun, JobState, load, save


def configure(folder: Path, *lines: str) -> None:
    path = folder / ".gsync" / "config.toml"
    path.write_text(path.read_text() + "\n" + "\n".join(lines) + "\n")


def make(tmp_path: Path, *lines: str) -> Path:
    folder = make_repository(tmp_path / "a", {"a": b"1"})
    configure(folder, *lines)
    return folder


def runs_of(folder: Path, name: str) -> list[dict[str, Any]]:
    return [r for r in json_in(folder, "jobs", "history")["runs"] if r["job"] == name]


def is_running(pid: int) -> bool:
    """Whether a process is there, and no zombie that nobody has asked for."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def make_due(folder: Path, name: str) -> None:
    """Let it be long since the job ran."""
    with SqliteStore.open(folder / ".gsync" / "store.db") as store:
        state = load(store, name)
        save(store, name, JobState(1, state.runs if state else ()))


SNAPSHOT = (
    "[[jobs]]", 'name = "snap"', 'run = "snapshot"', 'every = "1h"',
    '[jobs.parameters]', 'message = "by the clock"',
)  # fmt: skip


def test_a_job_is_listed_and_run(tmp_path: Path) -> None:
    """By hand at once; by --due when its slot has come, and then not again."""
    folder = make(tmp_path, *SNAPSHOT)
    (listed,) = json_in(folder, "jobs", "list")["jobs"]
    assert (listed["name"], listed["last"], listed["failures"]) == ("snap", None, 0)
    assert time.time() < listed["next"] <= time.time() + 3600
    write(folder, {"a": b"2"})
    assert json_in(folder, "jobs", "run", "snap")["ran"]["snap"]["outcome"] == "done"
    top = json_in(folder, "log", "-n", "1")["manifests"][0]
    assert top["message"] == "by the clock"
    assert json_in(folder, "jobs", "run", "--due")["ran"] == {}
    make_due(folder, "snap")
    assert list(json_in(folder, "jobs", "run", "--due")["ran"]) == ["snap"]
    assert json_in(folder, "jobs", "run", "--due")["ran"] == {}
    assert [run["slot_s"] > 0 for run in runs_of(folder, "snap")] == [True, False]


def test_a_new_job_waits_for_its_first_slot(tmp_path: Path) -> None:
    """It is not caught up for the time before it was there."""
    folder = make(tmp_path, *SNAPSHOT)
    assert json_in(folder, "jobs", "run", "--due")["ran"] == {}
    assert runs_of(folder, "snap") == []


def test_a_dry_run_says_what_it_would_do(tmp_path: Path) -> None:
    """Nothing is run and nothing is on record."""
    folder = make(tmp_path, *SNAPSHOT)
    found = json_in(folder, "jobs", "run", "snap", "--dry-run")
    assert found["planned"] == {"snap": ["snapshot", "--message=by the clock"]}
    assert runs_of(folder, "snap") == []


def test_a_failure_is_seen(tmp_path: Path) -> None:
    """By the exit code, in the history with what was said, in status and doctor, and told."""
    told = tmp_path / "told"
    folder = make(
        tmp_path,
        "[[jobs]]", 'name = "away"', 'run = "sync"', 'every = "1h"',
        f'on_failure = ["sh", "-c", "echo $GSYNC_JOB $GSYNC_JOB_CODE > {told}"]',
        "[jobs.parameters]", 'remote = "nowhere"',
    )  # fmt: skip
    for _ in range(2):
        gsync_in(folder, "jobs", "run", "away", code=1)
    (last, _) = runs_of(folder, "away")
    assert last["outcome"] == "failed" and "nowhere" in last["said"] and last["code"] == 4
    assert told.read_text() == "away 4\n"
    (listed,) = json_in(folder, "jobs", "list")["jobs"]
    assert listed["failures"] == 2
    assert b"job away" in gsync_in(folder, "status").out
    findings = json_in(folder, "doctor", code=1)["findings"]
    assert any("job away" in finding["text"] for finding in findings)
    configure(folder)
    assert json_in(folder, "jobs", "history", "--failed")["runs"]


def test_a_job_that_hangs_is_ended(tmp_path: Path) -> None:
    """After its timeout, with all that it started; the run is a failure that says so."""
    folder = make(
        tmp_path, "[[jobs]]", 'name = "slow"', 'run = "snapshot"', 'timeout = "1s"'
    )  # fmt: skip
    lock = folder / ".gsync" / "lock"
    import fcntl

    with lock.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # so the snapshot waits
        gsync_in(folder, "jobs", "run", "slow", code=1)
    (run,) = runs_of(folder, "slow")
    assert run["outcome"] == "failed" and "timeout" in run["said"]
    assert run["seconds"] < 30


def test_two_schedulers_never_run_a_job_twice(tmp_path: Path) -> None:
    """Both look at once, again and again; each slot has one run."""
    folder = make(tmp_path, "[[jobs]]", 'name = "tick"', 'run = "gc"', 'every = "1s"')
    with start(folder, "jobs", "serve") as one, start(folder, "jobs", "serve") as two:
        deadline = time.monotonic() + 60
        while len(runs_of(folder, "tick")) < 6 and time.monotonic() < deadline:
            time.sleep(0.3)
        for process in (one, two):
            process.send_signal(signal.SIGTERM)
        for process in (one, two):
            assert process.wait(30) == 0
    slots = [run["slot_s"] for run in runs_of(folder, "tick")]
    assert len(slots) >= 6 and len(set(slots)) == len(slots)


def test_a_slot_that_was_taken_meanwhile(tmp_path: Path) -> None:
    """Who saw that a job is due, and came second, finds that it is not any more."""
    folder = make(tmp_path, *SNAPSHOT)
    workdir = folder / ".gsync"
    (job,) = load_config(folder, workdir).local.jobs

    def runner(kind: type[Runner]) -> Runner:
        return kind(folder, workdir, lambda: SqliteStore.open(workdir / "store.db"), "host")

    class Late(Runner):
        first = True

        def due(self, job: JobConfig) -> int | None:
            if self.first:
                self.first = False
                slot = super().due(job)
                assert runner(Runner).run_due(job) is not None
                return slot
            return super().due(job)

    runner(Runner).due(job)
    make_due(folder, "snap")
    assert runner(Late).run_due(job) is None
    assert len(runs_of(folder, "snap")) == 1


def test_a_scheduler_that_is_killed(tmp_path: Path) -> None:
    """What was cut off is on record as interrupted, and its slot is made up for, once."""
    folder = make(tmp_path, *SNAPSHOT)
    json_in(folder, "jobs", "run", "--due")
    with SqliteStore.open(folder / ".gsync" / "store.db") as store:
        save(store, "snap", JobState(1, (JobRun(3600, 10),)))  # as a kill leaves it
    assert runs_of(folder, "snap")[0]["outcome"] == "running"
    write(folder, {"a": b"2"})
    assert list(json_in(folder, "jobs", "run", "--due")["ran"]) == ["snap"]
    newest, cut = runs_of(folder, "snap")
    assert (newest["outcome"], cut["outcome"], cut["said"]) == ("done", "failed", "interrupted")


def test_a_running_job_is_not_run_beside_itself(tmp_path: Path) -> None:
    """By hand it is refused with who holds it; by --due it is left alone."""
    import fcntl

    folder = make(tmp_path, *SNAPSHOT)
    gsync_in(folder, "jobs", "run", "--due")
    make_due(folder, "snap")
    (folder / ".gsync" / "jobs").mkdir(exist_ok=True)
    with (folder / ".gsync" / "jobs" / "snap.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        message, _ = refused(folder, "jobs", "run", "snap", code=7)
        assert "in use" in message
        assert json_in(folder, "jobs", "run", "--due")["ran"] == {}
    assert list(json_in(folder, "jobs", "run", "--due")["ran"]) == ["snap"]


def test_a_scheduler_ends_what_runs(tmp_path: Path) -> None:
    """SIGTERM while a job waits: the job ends, then the scheduler, and no process stays."""
    import fcntl

    folder = make(tmp_path, "[[jobs]]", 'name = "s"', 'run = "snapshot"', 'every = "1s"')
    with (folder / ".gsync" / "lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with start(folder, "jobs", "serve") as serving:
            deadline = time.monotonic() + 30
            while not runs_of(folder, "s") and time.monotonic() < deadline:
                time.sleep(0.2)
            serving.send_signal(signal.SIGTERM)
            assert serving.wait(30) == 0
    assert runs_of(folder, "s")[0]["outcome"] == "failed"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (['name = "x"', 'run = "nothing"'], "nothing is called"),
        (['name = "x"', 'run = "gc"', 'every = "soon"'], "expected a time"),
        (['name = "x y"', 'run = "gc"'], "expected a name"),
        (['name = "x"'], "has no 'run'"),
        (['name = "x"', 'run = "gc"', 'cron = "* * * * *"', 'every = "1h"'], "both"),
        (['name = "x"', 'run = "gc"', "[jobs.parameters]", 'remote = "o"'], "no parameter"),
        (['name = "x"', 'run = "gc"', "when = 5"], "unknown setting"),
        (['name = "x"', 'run = "gc"', "[jobs.parameters]", 'dry_run = "perhaps"'], "true or"),
    ],
)
def test_settings_that_are_wrong(tmp_path: Path, lines: list[str], said: str) -> None:
    """The message names the job and the setting."""
    folder = make(tmp_path, "[[jobs]]", *lines)
    message, _ = refused(folder, "jobs", "list", code=2)
    assert said in message


def test_names(tmp_path: Path) -> None:
    """A job that there is not is named with those that there are; two of one name are refused."""
    folder = make(tmp_path, *SNAPSHOT)
    _, hint = refused(folder, "jobs", "run", "other", code=4)
    assert "snap" in hint
    refused(folder, "jobs", "run", code=2)
    configure(folder, *SNAPSHOT)
    assert "two jobs" in refused(folder, "jobs", "list", code=2)[0]


def test_a_parameter_is_no_option(tmp_path: Path) -> None:
    """A value that begins like an option is a value."""
    folder = make(
        tmp_path, "[[jobs]]", 'name = "x"', 'run = "sync"',
        "[jobs.parameters]", 'remote = "--help"',
    )  # fmt: skip
    gsync_in(folder, "jobs", "run", "x", code=1)
    assert "--help" in runs_of(folder, "x")[0]["said"]


def test_a_scheduler_ends_what_does_not_want_to(tmp_path: Path) -> None:
    """A command that passes SIGTERM by, and what it has started, are killed soon after."""
    folder = make(tmp_path, "[[jobs]]", 'name = "s"', 'run = "snapshot"')
    workdir = folder / ".gsync"
    (job,) = load_config(folder, workdir).local.jobs
    stubborn = "trap '' TERM; sleep 300 & echo $$ $! > pids; while true; do sleep 1; done"

    class Stubborn(Runner):
        def argv(self, words: Sequence[str]) -> list[str]:
            return ["sh", "-c", f"cd '{folder}'; {stubborn}"]

    path = workdir / "store.db"
    runner = Stubborn(folder, workdir, lambda: SqliteStore.open(path), "host", end_s=0.5)
    thread = threading.Thread(target=runner.run_now, args=(job,))
    thread.start()
    pids = folder / "pids"
    deadline = time.monotonic() + 30
    while not (pids.exists() and pids.read_text().strip()) and time.monotonic() < deadline:
        time.sleep(0.05)
    runner.end()
    thread.join(30)
    assert not thread.is_alive()
    for pid in map(int, pids.read_text().split()):
        assert not is_running(pid)
    assert runs_of(folder, "s")[0]["outcome"] == "failed"
    with pytest.raises(Unavailable, match="ends"):
        runner.run_now(job)


def test_a_wrong_job_keeps_no_other_from_running(tmp_path: Path) -> None:
    """--due runs those that can be run, says what is wrong with the rest, and fails."""
    folder = make(
        tmp_path, *SNAPSHOT, "[[jobs]]", 'name = "bad"', 'run = "gc"', 'every = "1h"',
        "[jobs.parameters]", 'remote = "x"',
    )  # fmt: skip
    json_in(folder, "jobs", "run", "--due", code=1)
    make_due(folder, "snap")
    found = json_in(folder, "jobs", "run", "--due", code=1)
    assert list(found["ran"]) == ["snap"]
    assert "no parameter" in found["wrong"]["bad"]


@pytest.mark.parametrize(
    ("run", "parameters", "words"),
    [
        ("local", {}, ["local", "merge"]),
        ("local", {"direction": "to-db", "source": "blog"}, ["local", "to-db", "--", "blog"]),
        ("content_sync", {}, ["local", "to-db"]),
        (
            "content_sync",
            {"direction": "disk", "override_existing": "YES", "delete_orphans": "0"},
            ["local", "to-disk", "--override=theirs"],
        ),
        (
            "content_sync",
            {"direction": "database", "override_existing": "true"},
            "direction: expected one of",
        ),
        ("local", {"override_existing": "true"}, "no parameter"),
        ("access_control_sync", {}, ["local", "to-db", "rules", "--delete-orphans"]),
        (
            "access_control_sync",
            {"delete_orphans": "False", "override_existing": "TRUE", "yaml_path": "x.yaml"},
            ["local", "to-db", "rules", "--override=ours", "--rules-file=x.yaml"],
        ),
    ],
)
def test_jobs_of_documents(run: str, parameters: dict[str, str], words: list[str] | str) -> None:
    """The older system's names, ways and defaults, and ours."""
    job = JobConfig("x", run, parameters=tuple(parameters.items()))
    if isinstance(words, str):
        with pytest.raises(Invalid, match=words):
            command_line(job)
    else:
        assert command_line(job) == words


def test_figures(tmp_path: Path) -> None:
    """A scheduler gives them, also of runs that were made by hand."""
    folder = make(
        tmp_path, *SNAPSHOT, "[[jobs]]", 'name = "bad"', 'run = "sync"',
        "[jobs.parameters]", 'remote = "nowhere"',
    )  # fmt: skip
    gsync_in(folder, "jobs", "run", "snap")
    gsync_in(folder, "jobs", "run", "bad", code=1)
    gsync_in(folder, "jobs", "run", "bad", code=1)
    with start(folder, "jobs", "serve", "--metrics", "0") as process:
        try:
            assert process.stderr is not None
            url = process.stderr.readline().decode().rpartition(" ")[2].strip()
            text = requests.get(url, timeout=30).text
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
    assert process.returncode == 0
    found = {
        (sample.name, sample.labels.get("job")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["gsync_job_failures", "bad"] == 2 and found["gsync_job_failures", "snap"] == 0
    assert found["gsync_job_last_success_seconds", "snap"] > 1e9
    assert ("gsync_job_last_success_seconds", "bad") not in found
