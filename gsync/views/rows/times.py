"""Days and microseconds since 1970 <-> text, in UTC, for any year (11-rows, section 6).

The calendar is the proleptic Gregorian one. `datetime` knows the years 1 to 9999; databases
know more. Within, years are counted with a year 0 (1 BC), as astronomers do.
"""

from __future__ import annotations

import re

from gsync.errors import Invalid

SECOND = 1_000_000
DAY = 86_400 * SECOND
INT_MIN, INT_MAX = -(1 << 63), (1 << 63) - 1

INFINITIES = ("infinity", "-infinity")

# Postgres' dates end with the year 5,874,897.
_YEAR = r"([0-9]{4}|[1-9][0-9]{4,6})"
_DATE = rf"{_YEAR}-([0-9]{{2}})-([0-9]{{2}})"
_TIME = r"([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,6})0*)?"
_OFFSET = r"(?:(Z)|([+-])([0-9]{2})(?::?([0-9]{2}))?)"
_DATE_TEXT = re.compile(rf"{_DATE}( BC)?", re.ASCII)
_TIMESTAMP_TEXT = re.compile(rf"{_DATE}[ T]{_TIME}( BC)?", re.ASCII)
_TIMESTAMPTZ_TEXT = re.compile(rf"{_DATE}[ T]{_TIME}{_OFFSET}( BC)?", re.ASCII)
_TEXT_LENGTH_MAX = 100

_ERA_DAYS = 146_097  # of 400 years
_EPOCH = 719_468  # days from 1 March of year 0 to 1970-01-01
_MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_OFFSET_HOURS_MAX = 15


class NotTime(Invalid):
    """A text is no date or no time."""


def days_of(year: int, month: int, day: int) -> int:
    """Return the days from 1970-01-01 to a date that exists; the year before 1 is 0."""
    # Years begin in March here, so that the leap day is the last one.
    year -= month < 3
    era, year_of_era = divmod(year, 400)
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    return era * _ERA_DAYS + day_of_era - _EPOCH


def date_of(days: int) -> tuple[int, int, int]:
    """Return year, month and day that are `days` after 1970-01-01."""
    era, day_of_era = divmod(days + _EPOCH, _ERA_DAYS)
    year_of_era = (
        day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096
    ) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month_from_march = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * month_from_march + 2) // 5 + 1
    month = month_from_march + 3 if month_from_march < 10 else month_from_march - 9
    return era * 400 + year_of_era + (month < 3), month, day


MICROSECONDS_END = days_of(294_246, 1, 1) * DAY
"""Timestamps from here on are text: soon after, 64 bits end (11-rows, section 6)."""

# What Postgres holds: from the first day of its Julian calendar on.
DAYS_MIN, DAYS_MAX = days_of(-4713, 11, 24), days_of(5_874_897, 12, 31)
MICROSECONDS_MIN = DAYS_MIN * DAY
_TIME_END = days_of(294_277, 1, 1) * DAY


def format_date(days: int) -> str:
    """Return `YYYY-MM-DD`, with ` BC` for the years before 1."""
    date, era = _format_date(days)
    return date + era


def format_timestamp(microseconds: int) -> str:
    """Return `YYYY-MM-DD HH:MM:SS[.ffffff]`, with ` BC` for the years before 1."""
    date, time, era = _format_timestamp(microseconds)
    return f"{date} {time}{era}"


def format_timestamptz(microseconds: int) -> str:
    """Return what `format_timestamp` does, with `+00` after the time."""
    date, time, era = _format_timestamp(microseconds)
    return f"{date} {time}+00{era}"


def rfc3339(microseconds: int, offset: str) -> str | None:
    """Return a time with `T` and `offset`, or None if RFC 3339 has no such year."""
    date, time, era = _format_timestamp(microseconds)
    return f"{date}T{time}{offset}" if len(date) == 10 and not era else None


def parse_date(text: str) -> int:
    """Return the days of a date, or raise NotTime."""
    match = _DATE_TEXT.fullmatch(text) if len(text) <= _TEXT_LENGTH_MAX else None
    if match is None:
        raise NotTime("expected YYYY-MM-DD")
    year, month, day, era = match.groups()
    return _date_within(_days(year, month, day, era))


def parse_timestamp(text: str) -> int:
    """Return the microseconds of a time without an offset, or raise NotTime.

    They may be MICROSECONDS_END or more, where the cell is text.
    """
    match = _TIMESTAMP_TEXT.fullmatch(text) if len(text) <= _TEXT_LENGTH_MAX else None
    if match is None:
        raise NotTime("expected YYYY-MM-DD HH:MM:SS, without an offset")
    year, month, day, hour, minute, second, fraction, era = match.groups()
    return _time_within(_days(year, month, day, era) * DAY + _time(hour, minute, second, fraction))


def parse_timestamptz(text: str) -> int:
    """Return the microseconds of a time with an offset or `Z`, in UTC, or raise NotTime.

    They may be MICROSECONDS_END or more, where the cell is text.
    """
    match = _TIMESTAMPTZ_TEXT.fullmatch(text) if len(text) <= _TEXT_LENGTH_MAX else None
    if match is None:
        raise NotTime("expected YYYY-MM-DD HH:MM:SS and an offset")
    year, month, day, hour, minute, second, fraction, utc, sign, hours, minutes, era = (
        match.groups()
    )
    local = _days(year, month, day, era) * DAY + _time(hour, minute, second, fraction)
    if utc:
        return _time_within(local)
    offset = _offset(sign, hours, minutes or "00")
    return _time_within(local - offset)


def _format_date(days: int) -> tuple[str, str]:
    year, month, day = date_of(days)
    if year > 0:
        return f"{year:04d}-{month:02d}-{day:02d}", ""
    return f"{1 - year:04d}-{month:02d}-{day:02d}", " BC"


def _format_timestamp(microseconds: int) -> tuple[str, str, str]:
    days, rest = divmod(microseconds, DAY)
    seconds, fraction = divmod(rest, SECOND)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    date, era = _format_date(days)
    time = f"{hour:02d}:{minute:02d}:{second:02d}"
    if fraction:
        time += f".{fraction:06d}".rstrip("0")
    return date, time, era


def _days(year_text: str, month_text: str, day_text: str, era: str | None) -> int:
    year, month, day = int(year_text), int(month_text), int(day_text)
    if year == 0:
        raise NotTime("there is no year 0; the year before 1 is 1 BC")
    if era:
        year = 1 - year
    if not 1 <= month <= 12:
        raise NotTime(f"there is no month {month}")
    leap = month == 2 and year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if not 1 <= day <= _MONTH_DAYS[month - 1] + leap:
        raise NotTime(f"there is no day {day} in that month")
    return days_of(year, month, day)


def _time(hour_text: str, minute_text: str, second_text: str, fraction: str | None) -> int:
    hour, minute, second = int(hour_text), int(minute_text), int(second_text)
    if hour > 23 or minute > 59 or second > 59:
        raise NotTime("the time of day is not 00:00:00 to 23:59:59")
    found = (hour * 3600 + minute * 60 + second) * SECOND
    return found + int(fraction.ljust(6, "0")) if fraction else found


def _offset(sign: str, hours: str, minutes: str) -> int:
    if int(hours) > _OFFSET_HOURS_MAX or int(minutes) > 59:
        raise NotTime(f"an offset of {sign}{hours}:{minutes}")
    offset = (int(hours) * 60 + int(minutes)) * 60 * SECOND
    return -offset if sign == "-" else offset


def _date_within(days: int) -> int:
    if DAYS_MIN <= days <= DAYS_MAX:
        return days
    raise NotTime("dates go from 4714-11-24 BC to 5874897-12-31")


def _time_within(microseconds: int) -> int:
    if MICROSECONDS_MIN <= microseconds < _TIME_END:
        return microseconds
    raise NotTime("times go from 4714-11-24 BC to the end of the year 294276")
