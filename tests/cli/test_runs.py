"""`gsync runs`, and what `status` and `doctor` say of how remotes have fared."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest
from support import require
from support_cli import gsync_in, start
from support_server import running_server

from gsync.sync import runs
from gsync.sync.repository import init_repository, open_repository
from gsync.sync.runs import Health, Run, list_runs, recorded


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with one snapshot and two remotes: one is not there, and is never made."""
    folder = tmp_path / "work"
    folder.mkdir()
    gsync_in(folder, "init")
    (folder / "a.txt").write_text("one\n")
    gsync_in(folder, "snapshot", "-m", "first")
    gsync_in(folder, "remote", "add", "origin", str(tmp_path / "there"))
    gsync_in(folder, "remote", "add", "gone", str(tmp_path / "gone"))
    return folder


def health(folder: Path, remote: str) -> Any:
    return gsync_in(folder, "status", "--json").json["runs"].get(remote)


def fail(folder: Path) -> None:
    gsync_in(folder, "pull", "gone", code=4)


def test_every_attempt_is_on_record(work: Path) -> None:
    gsync_in(work, "push")
    fail(work)
    gsync_in(work, "sync")
    gsync_in(work, "sync", "--dry-run")
    newest, failed, first = gsync_in(work, "runs", "--json").json["runs"]
    assert [run["command"] for run in (newest, failed, first)] == ["sync", "pull", "push"]
    assert [run["outcome"] for run in (newest, failed, first)] == ["done", "failed", "done"]
    assert failed["error"]["kind"] == "not_found" and failed["remote"] == "gone"
    assert first["error"] is None
    assert first["bytes_sent"] > 0 and first["bytes_received"] > 0 and first["round_trips"] == 2
    head = gsync_in(work, "status", "--json").json["head"]
    assert first["old"] == first["new"] == head


def test_runs_are_chosen_by_remote_outcome_and_number(work: Path) -> None:
    gsync_in(work, "push")
    fail(work)
    gsync_in(work, "push")

    def chosen(*args: str) -> list[int]:
        return [run["id"] for run in gsync_in(work, "runs", "--json", *args).json["runs"]]

    assert chosen() == [3, 2, 1]
    assert chosen("origin") == [3, 1]
    assert chosen("--failed") == [2]
    assert chosen("-n", "1") == [3]
    text = gsync_in(work, "runs").text
    assert "not_found: " in text and "main at" in text


def test_failures_are_counted_until_a_sync_succeeds(work: Path, tmp_path: Path) -> None:
    gsync_in(work, "push")
    synced = health(work, "origin")["synced"]
    (tmp_path / "there").rename(tmp_path / "moved")
    for _ in range(2):
        gsync_in(work, "pull", code=4)
    found = health(work, "origin")
    assert found["failures"] == 2 and found["synced"] == synced
    assert str(tmp_path / "there") in found["error"]
    text = gsync_in(work, "status").text
    assert f"synced {synced[:19]}Z by push" in text and "2 runs have not ended well since" in text
    doctor = gsync_in(work, "doctor", "--json", code=1).json["findings"]
    assert [f for f in doctor if f["level"] == "problem" and "2 run(s) have failed" in f["text"]]

    (tmp_path / "moved").rename(tmp_path / "there")
    gsync_in(work, "fetch")
    assert health(work, "origin")["failures"] == 2  # nothing was brought together
    gsync_in(work, "pull")
    assert health(work, "origin")["failures"] == 0
    assert "ended well" not in gsync_in(work, "status").text


def test_a_run_that_failed_before_its_remote_was_known(work: Path) -> None:
    gsync_in(work, "push", "nowhere", code=4)
    assert health(work, "")["failures"] == 1
    assert "1 run has not ended well" in gsync_in(work, "status").text
    gsync_in(work, "push")
    assert health(work, "") is None


def test_kept_conflicts_are_no_success(work: Path, tmp_path: Path) -> None:
    gsync_in(work, "push")
    gsync_in(tmp_path, "clone", str(tmp_path / "there"), "other")
    assert health(tmp_path / "other", "origin")["command"] == "clone"
    for folder, text in ((tmp_path / "other", "theirs\n"), (work, "ours\n")):
        (folder / "a.txt").write_text(text)
        gsync_in(folder, "snapshot", "-m", "edit")
    gsync_in(tmp_path / "other", "push")
    gsync_in(work, "pull", code=1)
    assert gsync_in(work, "runs", "--json").json["runs"][0]["outcome"] == "conflicts"
    assert health(work, "origin")["failures"] == 1


def test_a_run_that_is_interrupted_is_on_record(work: Path, tmp_path: Path) -> None:
    require("server")
    with running_server(tmp_path / "data") as server:
        gsync_in(work, "remote", "add", "server", f"{server.base}/team")
        server.process.send_signal(signal.SIGSTOP)  # it takes the connection, and says nothing
        try:
            with start(work, "push", "server", GSYNC_TOKEN="x" * 40) as process:
                time.sleep(1)
                process.send_signal(signal.SIGINT)
                process.communicate(timeout=30)
        finally:
            server.process.send_signal(signal.SIGCONT)
    (run,) = gsync_in(work, "runs", "server", "--json").json["runs"]
    assert run["outcome"] == "failed" and run["error"]["kind"] == "interrupted"


def test_the_run_id_is_the_one_that_the_server_logs(work: Path, tmp_path: Path) -> None:
    require("server")
    with running_server(tmp_path / "data", log_format="json") as server:
        gsync_in(work, "remote", "add", "server", f"{server.base}/team")
        gsync_in(work, "push", "server", GSYNC_TOKEN=server.token("team"))
        (run,) = gsync_in(work, "runs", "server", "--json").json["runs"]
        assert run["run"] and f'"run": "{run["run"]}"' in server.log_path.read_text()


def test_sync_all_records_files_and_each_database(work: Path) -> None:
    gsync_in(work, "sync-all", code=2)  # no database is configured
    (run,) = gsync_in(work, "runs", "--json").json["runs"]
    assert (run["command"], run["remote"], run["outcome"]) == ("sync-all", "origin", "done")


def test_removing_a_remote_forgets_how_it_fared(work: Path) -> None:
    fail(work)
    assert health(work, "gone")["failures"] == 1
    gsync_in(work, "remote", "remove", "gone")
    assert health(work, "gone") is None


# --- As a library --------------------------------------------------------------------


def test_only_the_newest_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "RUNS_MAX", 3)
    init_repository(tmp_path)
    with open_repository(tmp_path) as repo:
        for _ in range(5):
            with recorded(repo, "push"):
                pass
        assert [run.id for run in list_runs(repo.store)] == [5, 4, 3]


def test_messages_that_are_no_text_are_kept_readable(tmp_path: Path) -> None:
    init_repository(tmp_path)
    with open_repository(tmp_path) as repo:
        with pytest.raises(ValueError, match="bad"), recorded(repo, "push"):
            raise ValueError("bad \udcff " + "x" * 1000)
        (run,) = list_runs(repo.store)
    assert run.error is not None
    kind, message = run.error
    assert kind == "defect" and message.startswith("ValueError: bad \\udcff x")
    assert len(message) < 520


def test_nothing_is_recorded_in_a_store_that_is_only_read(tmp_path: Path) -> None:
    init_repository(tmp_path)
    with open_repository(tmp_path, read_only=True) as repo, recorded(repo, "push"):
        pass
    with open_repository(tmp_path) as repo:
        assert list_runs(repo.store) == []


def test_health_after_runs() -> None:
    failed = Run("pull", began_us=5_000_000, outcome="failed", error=("denied", "no"))
    once = Health(1, "push").after(failed)
    assert once == Health(1, "push", 1, 5_000_000, "no")
    assert once.after(Run("fetch")) == once
    assert once.after(Run("pull", began_us=7_000_000, seconds=0.5)) == Health(7_500_000, "pull")
