"""How runs, and how remotes have fared, look as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gsync.cli.output import when
from gsync.sync.runs import Health, Run


def health_json(health: Health) -> dict[str, Any]:
    """Return how a remote has fared as JSON documents have it."""
    return {
        "synced": _when(health.synced_us),
        "command": health.command or None,
        "failures": health.failures,
        "failed": _when(health.failed_us),
        "error": health.error or None,
    }


def health_lines(
    remotes: Mapping[str, tuple[int, int]], every: Mapping[str, Health]
) -> Iterator[str]:
    """Yield how far each remote is, when it was synced last, and what has failed since.

    Args:
        remotes: How many manifests there are to push and to pull, for each remote.
        every: Also those of databases' peers, and of runs whose remote was never known.
    """
    for name in sorted(remotes.keys() | every.keys()):
        health = every.get(name, Health())
        said = []
        if name in remotes:
            ahead, behind = remotes[name]
            far = f"{ahead} to push, {behind} to pull" if ahead or behind else "up to date"
            said.append(f"{far}, as last seen")
        if name:
            said.append(synced_text(health))
        if said:
            yield f"{name}: {'; '.join(said)}."
        if health.failures:
            yield f"  {failure_text(health)} See 'gsync runs --failed'."


def synced_text(health: Health) -> str:
    """Return when a remote was synced last."""
    if health.synced_us is None:
        return "never synced"
    return f"synced {_second(health.synced_us)} by {health.command}"


def failure_text(health: Health) -> str:
    """Return what has failed since a remote was synced last."""
    assert health.failed_us is not None
    count = "1 run has" if health.failures == 1 else f"{health.failures} runs have"
    return f"{count} not ended well since, the last {_second(health.failed_us)}: {health.error}."


def run_json(run: Run) -> dict[str, Any]:
    """Return a run as JSON documents have it."""
    return {
        "id": run.id,
        "run": run.run_id or None,
        "command": run.command,
        "remote": run.remote or None,
        "time": when(run.began_us),
        "seconds": round(run.seconds, 3),
        "outcome": run.outcome,
        "error": {"kind": run.error[0], "message": run.error[1]} if run.error else None,
        "bytes_sent": run.sent,
        "bytes_received": run.received,
        "round_trips": run.round_trips,
        "old": run.old.hex() if run.old else None,
        "new": run.new.hex() if run.new else None,
    }


def _when(time_us: int | None) -> str | None:
    return None if time_us is None else when(time_us)


def _second(time_us: int) -> str:
    return when(time_us // 1_000_000 * 1_000_000)
