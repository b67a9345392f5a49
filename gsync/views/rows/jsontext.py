"""The one text of a JSON document: what Postgres prints for jsonb (11-rows, section 6)."""

from __future__ import annotations

import json
import re
from json.encoder import encode_basestring
from typing import Any, NoReturn

from gsync.errors import Invalid
from gsync.views.rows.numerics import NotNumeric, expand_number

# Python's reader and the writer below recurse; documents of people do not come near this.
DEPTH_MAX = 256

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")
_NUMBER = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]+))?", re.ASCII)
_EXPONENT_DIGITS_MAX = 12


class NotJson(Invalid):
    """A text is no JSON document, or none that jsonb can hold."""


class _Number(str):
    """A number, spelled in full."""

    __slots__ = ()


def canonical_json(text: str) -> str:
    """Return the canonical form of the JSON document `text`.

    Raises:
        NotJson: it is none; or has U+0000, a lone surrogate, a number with too many digits,
            or arrays and objects more than DEPTH_MAX deep. No number is expanded before
            its length is known.
    """
    return write_json(read_json(text))


def read_json(text: str) -> Any:
    """Return the document `text` as objects that `write_json` takes; numbers keep their spelling.

    Raises:
        NotJson: as for `canonical_json`.
    """
    _check_depth(text)
    try:
        return _READER.decode(text)
    except NotNumeric as error:
        raise NotJson(f"not JSON that can be recorded: {error.message}") from error
    except ValueError as error:
        raise NotJson(f"not JSON: {error}") from error
    except RecursionError as error:
        raise NotJson("JSON nested deeper than can be read here") from error


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= DEPTH_MAX:
        return
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > DEPTH_MAX:
            raise NotJson(f"JSON nested deeper than {DEPTH_MAX}")


def write_json(value: Any) -> str:
    """Return the canonical form of what `read_json` returned, or of what is made of such."""
    kind = type(value)
    if kind is str:
        return _write_text(value)
    if kind is _Number:
        return str(value)
    if kind is dict:
        members = [(name.encode(), name) for name in value]
        members.sort(key=lambda member: (len(member[0]), member[0]))
        inner = [f"{_write_text(name)}: {write_json(value[name])}" for _, name in members]
        return "{" + ", ".join(inner) + "}"
    if kind is list:
        return "[" + ", ".join([write_json(item) for item in value]) + "]"
    return _CONSTANTS[value]


def _write_text(text: str) -> str:
    if "\0" in text:
        raise NotJson("not JSON that can be recorded: U+0000 in a string")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise NotJson("not JSON: a lone surrogate in a string") from None
    return encode_basestring(text)


def _read_number(text: str) -> _Number:
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise NotJson("not JSON: a number has other than ASCII digits")
    sign, before, after, exponent = match.groups()
    if after is None and exponent is None and len(before) <= _EXPONENT_DIGITS_MAX:
        return _Number("0" if text == "-0" else text)
    if exponent is not None and len(exponent) > _EXPONENT_DIGITS_MAX:
        # Leading zeros say nothing; Python refuses to read more than some thousand digits.
        exponent = exponent[0] + exponent[1:].lstrip("0")
        if len(exponent) > _EXPONENT_DIGITS_MAX:
            raise NotJson("not JSON that can be recorded: the exponent is too large")
        exponent += "" if exponent[-1].isdigit() else "0"
    return _Number(expand_number(sign, before, after or "", int(exponent or 0)))


def _read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        # jsonb refuses U+0000 and the like in members, too, that a later one replaces.
        for _, value in pairs:
            write_json(value)
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise NotJson(f"not JSON: {name} is no number there")


_CONSTANTS = {None: "null", True: "true", False: "false"}
_READER = json.JSONDecoder(
    parse_float=_read_number,
    parse_int=_read_number,
    parse_constant=_refuse_constant,
    object_pairs_hook=_read_object,
)
