"""Decimal numbers as text, exactly as Postgres prints them (11-rows, section 6).

Nothing is ever computed, so no digit is lost and no number is expanded before its length is
known.
"""

from __future__ import annotations

import re

from gsync.errors import Invalid

# What Postgres' numeric holds.
DIGITS_BEFORE_MAX = 131_072
DIGITS_AFTER_MAX = 16_383
# Postgres refuses such exponents even of zero.
EXPONENT_END = (1 << 30) - 1

SPECIAL = ("NaN", "Infinity", "-Infinity")
FINITE = re.compile(r"(-?)(0|[1-9][0-9]*)(?:\.([0-9]+))?", re.ASCII)
_LENIENT = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?", re.ASCII)
_SPELLINGS = {
    "nan": "NaN",
    "infinity": "Infinity",
    "+infinity": "Infinity",
    "inf": "Infinity",
    "+inf": "Infinity",
    "-infinity": "-Infinity",
    "-inf": "-Infinity",
}


class NotNumeric(Invalid):
    """A text is no decimal number, or has more digits than Postgres holds."""


def is_numeric(text: str) -> bool:
    """Return whether `text` is a numeric cell: the one spelling of its value and scale."""
    if text in SPECIAL:
        return True
    match = FINITE.fullmatch(text)
    if match is None:
        return False
    sign, before, after = match.group(1), match.group(2), match.group(3) or ""
    if len(before) > DIGITS_BEFORE_MAX or len(after) > DIGITS_AFTER_MAX:
        return False
    return not sign or before != "0" or after.strip("0") != ""


def parse_numeric(text: str) -> str:
    """Return the cell of a number written with or without needless zeros and signs.

    Raises:
        NotNumeric: anything else, as what has an exponent.
    """
    special = _SPELLINGS.get(text[:16].lower()) if len(text) <= 16 else None
    if special is not None:
        return special
    match = _LENIENT.fullmatch(text)
    if match is None or not (match.group(2) or match.group(3)):
        raise NotNumeric("expected digits, without an exponent")
    return _spell(match.group(1), match.group(2), match.group(3) or "", 0)


def expand_number(sign: str, before: str, after: str, exponent: int) -> str:
    """Return `before`.`after` times ten to the `exponent` in full, as numeric_in reads it.

    As many digits stand after the point as were written, less the exponent.

    Raises:
        NotNumeric: the result has more digits than Postgres holds.
    """
    if abs(exponent) >= EXPONENT_END:
        raise NotNumeric("the exponent is too large")
    return _spell(sign, before, after, exponent)


def _spell(sign: str, before: str, after: str, exponent: int) -> str:
    digits = (before + after).lstrip("0")
    scale = max(0, len(after) - exponent)
    if scale > DIGITS_AFTER_MAX:
        raise NotNumeric(f"{scale} digits after the point, where {DIGITS_AFTER_MAX} are held")
    if not digits:
        return "0." + "0" * scale if scale else "0"
    digits_before = len(digits) - len(after) + exponent
    if digits_before > DIGITS_BEFORE_MAX:
        raise NotNumeric(
            f"{digits_before} digits before the point, where {DIGITS_BEFORE_MAX} are held"
        )
    digits += "0" * (exponent - len(after))
    minus = "-" if sign == "-" else ""
    if not scale:
        return minus + digits
    digits = digits.rjust(scale + 1, "0")
    return f"{minus}{digits[:-scale]}.{digits[-scale:]}"
