"""When jobs are due, by a clock of the test's own over a whole year."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from gsync.config import JobConfig
from gsync.errors import Invalid
from gsync.frozen import replace
from gsync.jobs.schedule import check_schedule, delay_s, due_slot, last_slot, next_slot

BERLIN = ZoneInfo("Europe/Berlin")
START = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
DAY_S = 86_400


def job(**settings: object) -> JobConfig:
    return JobConfig("j", "snapshot", **settings)  # type: ignore[arg-type]


def runs_in_a_year(one: JobConfig, step_s: int) -> list[datetime]:
    """What a scheduler that looks every `step_s` runs, as local times of Berlin."""
    seen, found = START, []
    for now in range(START, START + 365 * DAY_S, step_s):
        slot = due_slot(one, seen, now, "host")
        if slot is not None:
            seen = slot
            found.append(datetime.fromtimestamp(slot, UTC).astimezone(BERLIN))
    return found


def test_a_year_of_nights() -> None:
    """A night job runs once each night, also where the clock jumps over it or shows it twice."""
    found = runs_in_a_year(job(cron="30 2 * * *", timezone="Europe/Berlin"), 600)
    assert len(found) == 365 == len({time.date() for time in found})
    odd = [time for time in found if (time.hour, time.minute) != (2, 30)]
    # On 29 March 2026 there is no 2:30; on 25 October it is there twice, and the job ran once.
    assert [time.date().isoformat() for time in odd] in (["2026-03-29"], [])
    assert sum(time.date().isoformat() == "2026-10-25" for time in found) == 1


def test_a_year_of_hours() -> None:
    """An hourly job runs every hour that there is, 8,760 of them, in a zone with two changes."""
    found = runs_in_a_year(job(cron="0 * * * *", timezone="Europe/Berlin"), 900)
    assert len(found) == 365 * 24 - 1
    gaps = {b.timestamp() - a.timestamp() for a, b in zip(found, found[1:], strict=False)}
    assert gaps == {3600.0}


def test_every() -> None:
    """Slots are counted from 1970, so all machines have the same."""
    one = job(every="15m")
    assert last_slot(one, 1_000) == 900 == last_slot(one, 900)
    assert next_slot(one, 900) == 1_800
    assert len(runs_in_a_year(job(every="6h"), 3_600)) == 365 * 4 - 1


def test_missed_slots_are_caught_up_once() -> None:
    """After a week without a scheduler the newest slot counts."""
    one = job(cron="0 * * * *")
    slot = due_slot(one, START, START + 7 * DAY_S + 60, "host")
    assert slot == START + 7 * DAY_S
    assert due_slot(one, slot, START + 7 * DAY_S + 60, "host") is None


def test_jitter_is_of_the_machine_and_the_slot() -> None:
    """It is within what is set, differs between machines, and is the same when asked again."""
    one = job(every="1h", jitter="10m")
    delays = {delay_s(one, START, f"host{n}") for n in range(50)}
    assert len(delays) == 50 and all(0 <= delay < 600 for delay in delays)
    late = delay_s(one, START + 3600, "host")
    assert due_slot(one, START, START + 3600 + late - 1, "host") is None
    assert due_slot(one, START, START + 3600 + late, "host") == START + 3600


def test_a_clock_that_goes_back() -> None:
    """Nothing is run twice for one slot."""
    one = job(every="1h")
    assert due_slot(one, START + 3600, START + 1800, "host") is None
    assert due_slot(one, START + 3600, START + 3700, "host") is None


def test_by_hand_alone() -> None:
    """A job without a schedule is never due."""
    assert (last_slot(job(), START), next_slot(job(), START)) == (None, None)
    assert due_slot(job(), 0, START, "host") is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"cron": "61 * * * *"}, "no cron expression"),
        ({"cron": "daily"}, "no cron expression"),
        ({"cron": "0 0 * * *", "timezone": "Mars/Olympus"}, "no time zone"),
        ({"cron": "0 0 * * *", "timezone": "../etc/passwd"}, "no time zone"),
        ({"every": "0m"}, "every"),
        ({"every": "soon"}, "every"),
        ({"every": "15m", "jitter": "x"}, "jitter"),
        ({"timeout": "-1s"}, "timeout"),
    ],
)
def test_schedules_that_are_none(settings: dict[str, str], said: str) -> None:
    """They are refused by the job's name, before anything runs."""
    with pytest.raises(Invalid, match=said) as caught:
        check_schedule(job(**settings))
    assert "job j" in str(caught.value)


def test_a_leap_day() -> None:
    """A schedule that comes once in four years has a next slot."""
    one = replace(job(cron="0 0 29 2 *"), name="leap")
    slot = next_slot(one, START)
    assert slot == int(datetime(2028, 2, 29, tzinfo=UTC).timestamp())
    assert timedelta(seconds=slot - START) > timedelta(days=700)
