"""When a job is due. Pure: every time comes from outside, in UTC seconds since 1970.

A *slot* is a moment that a schedule names. A job is due when a slot has come that it was not run
for; of several that were missed the newest counts, so they are caught up once.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from blake3 import blake3

from gsync.config import JobConfig
from gsync.errors import Invalid

if TYPE_CHECKING:
    from cronsim import CronSim

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def check_schedule(job: JobConfig) -> None:
    """Raise Invalid if the job's schedule is none."""
    if job.every is not None:
        parse_duration(job.every, f"job {job.name}: every")
    elif job.cron is not None:
        _cron(job, datetime(2026, 1, 1, tzinfo=UTC), reverse=False)
    for name in ("jitter", "timeout"):
        text = getattr(job, name)
        if text is not None:
            parse_duration(text, f"job {job.name}: {name}")


def parse_duration(text: str, what: str) -> int:
    """Return the seconds of `90s`, `15m`, `6h` or `1d`.

    Raises:
        Invalid: it is none, or nothing, or more than a year.
    """
    number, unit = text[:-1], text[-1:]
    if number.isascii() and number.isdigit() and len(number) < 9 and unit in _UNITS_S:
        seconds = int(number) * _UNITS_S[unit]
        if 0 < seconds <= 366 * 86_400:
            return seconds
    raise Invalid(f"{what}: expected a time such as 90s, 15m, 6h or 1d, found {text[:40]!r}")


def last_slot(job: JobConfig, now_s: float) -> int | None:
    """Return the newest slot that has come by `now_s`; None for a job without a schedule."""
    if job.every is not None:
        every_s = parse_duration(job.every, f"job {job.name}: every")
        return int(now_s) // every_s * every_s
    if job.cron is None:
        return None
    # The iterator leaves out the moment that it starts from.
    start = datetime.fromtimestamp(int(now_s) + 1, UTC)
    return _stamp(next(_cron(job, start, reverse=True), None))


def next_slot(job: JobConfig, now_s: float) -> int | None:
    """Return the first slot after `now_s`; None if there is none."""
    if job.every is not None:
        every_s = parse_duration(job.every, f"job {job.name}: every")
        return (int(now_s) // every_s + 1) * every_s
    if job.cron is None:
        return None
    return _stamp(next(_cron(job, datetime.fromtimestamp(now_s, UTC), reverse=False), None))


def delay_s(job: JobConfig, slot_s: int, host: str) -> float:
    """Return how long after a slot a job runs: another share of its jitter on each machine."""
    if job.jitter is None:
        return 0.0
    share = int.from_bytes(blake3(f"{host} {job.name} {slot_s}".encode()).digest(8)) / 2**64
    return share * parse_duration(job.jitter, f"job {job.name}: jitter")


def due_slot(job: JobConfig, seen_s: int, now_s: float, host: str) -> int | None:
    """Return the slot that a job is to be run for now, or None.

    Args:
        seen_s: The slot that it was run for last, or when it was first seen.
    """
    slot = last_slot(job, now_s)
    if slot is None or slot <= seen_s:
        return None
    return slot if now_s >= slot + delay_s(job, slot, host) else None


def _cron(job: JobConfig, start: datetime, *, reverse: bool) -> CronSim:
    from cronsim import CronSim, CronSimError

    assert job.cron is not None
    try:
        zone = ZoneInfo(job.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise Invalid(
            f"job {job.name}: no time zone is called {job.timezone!r}",
            hint="write one such as Europe/Berlin, or UTC",
        ) from error
    try:
        return CronSim(job.cron, start.astimezone(zone), reverse=reverse)
    except CronSimError as error:
        raise Invalid(
            f"job {job.name}: {job.cron!r} is no cron expression: {error}",
            hint="five fields: minute, hour, day, month, weekday",
        ) from error


def _stamp(slot: datetime | None) -> int | None:
    return None if slot is None else round(slot.timestamp())
