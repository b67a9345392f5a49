"""Arrays of text as Postgres prints them <-> cells (11-rows, section 6)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gsync.errors import Invalid
from gsync.objects.encoding import Value

DIMENSIONS_MAX = 6  # Postgres' MAXDIM
BOUND_MIN, BOUND_MAX = -(1 << 31), (1 << 31) - 1
BOUNDS = "#lb"

_SPACE = " \t\n\v\f\r"
_NEEDS_QUOTES = re.compile(r'[\s"\\{},]', re.ASCII)
_ESCAPED = re.compile(r'(["\\])')
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_BOUNDS_TEXT = re.compile(r"((?:\[[+-]?[0-9]{1,10}:[+-]?[0-9]{1,10}\])+)[ \t\n\v\f\r]*=", re.ASCII)
_BOUND = re.compile(r"\[([^:]*):([^\]]*)\]")
# What most arrays are, as printed.
_SIMPLE = re.compile(r'\{[^\s"\\{},]+(?:,[^\s"\\{},]+)*\}', re.ASCII)
# One token, after spaces: an item in quotes, a bare one, or punctuation.
_TOKEN = re.compile(
    r"""[ \t\n\v\f\r]*(?:
        "(?P<quoted>(?:[^"\\]|\\.)*)"
      | (?P<mark>[{},])
      | (?P<bare>(?:[^"\\{}, \t\n\v\f\r]|\\.)(?:(?:[^"\\{},]|\\.)*(?:[^"\\{}, \t\n\v\f\r]|\\.))?)
    )[ \t\n\v\f\r]*""",
    re.DOTALL | re.VERBOSE,
)


class NotArray(Invalid):
    """A text or a value is no array of text."""


def format_array(cell: Value) -> str:
    """Return what Postgres prints for the array `cell`, or raise NotArray if it is none."""
    shape = check_array(cell)
    if cell and cell[0] == BOUNDS and len(cell) > 1 and type(cell[1]) is list:
        _, bounds, items = cell
        ends = [f"[{low}:{low + size - 1}]" for low, size in zip(bounds, shape, strict=True)]
        return f"{''.join(ends)}={_format(items)}"
    return _format(cell)


def parse_array(text: str) -> list[Value]:
    """Return the cell of an array that is written as Postgres prints or reads it.

    Raises:
        NotArray: it is not, or its bounds do not fit its items.
    """
    if _SIMPLE.fullmatch(text) and text.isascii():
        return [None if item.upper() == "NULL" else item for item in text[1:-1].split(",")]
    match = _BOUNDS_TEXT.match(text)
    tokens = _tokens(text, match.end() if match else 0)
    if next(tokens, None) != ("{", None):
        raise NotArray("an array begins with {")
    items = _parse(tokens, 1)
    if next(tokens, None) is not None:
        raise NotArray("something follows the array")
    shape = check_array(items)
    if match is None:
        return items
    bounds = [(int(low), int(high)) for low, high in _BOUND.findall(match.group(1))]
    if [high - low + 1 for low, high in bounds] != shape:
        raise NotArray("the bounds are not those of the items")
    if all(low == 1 for low, _ in bounds):
        return items
    cell: list[Value] = [BOUNDS, [low for low, _ in bounds], items]
    check_array(cell)
    return cell


def check_array(cell: Value) -> list[int]:
    """Return the sizes of the dimensions of a cell, outermost first: none if it is empty.

    Raises:
        NotArray: it is no array of text, or its parts differ in shape.
    """
    if type(cell) is not list:
        raise NotArray(f"expected an array, found a {type(cell).__name__}")
    if len(cell) == 3 and cell[0] == BOUNDS and type(cell[1]) is list:
        shape = _shape(cell[2]) if type(cell[2]) is list else []
        _check_bounds(cell[1], shape)
        return shape
    return _shape(cell)


def _check_bounds(bounds: list[Value], shape: list[int]) -> None:
    if len(bounds) != len(shape) or not bounds:
        raise NotArray("not one lower bound for each dimension")
    for low, size in zip(bounds, shape, strict=True):
        if type(low) is not int or not BOUND_MIN <= low <= BOUND_MAX - size:
            raise NotArray("a lower bound is not an integer of 32 bits")
    if all(low == 1 for low in bounds):
        raise NotArray("lower bounds that are all 1 are not written")


def _shape(items: list[Value]) -> list[int]:
    level: list[Value] = items
    shape: list[int] = []
    size = len(items)
    while level:
        # `level` holds all that is at one depth, of arrays of one size.
        if len(shape) == DIMENSIONS_MAX:
            raise NotArray(f"an array of more than {DIMENSIONS_MAX} dimensions")
        shape.append(size)
        kinds = set(map(type, level))
        if kinds <= {str, type(None)}:
            _check_texts(level)
            return shape
        if kinds != {list}:
            raise NotArray("an array holds text and NULL, or arrays of one shape")
        sizes = set(map(len, level))
        if len(sizes) > 1 or sizes == {0}:
            raise NotArray("the parts of an array differ in shape, or are empty")
        (size,) = sizes
        level = [item for part in level for item in part]
    return shape


def _check_texts(items: list[Value]) -> None:
    for item in items:
        if item is not None and not item.isascii():
            try:
                item.encode()
            except UnicodeEncodeError:
                raise NotArray("an item of an array has a lone surrogate") from None


def _format(items: list[Value]) -> str:
    return "{" + ",".join([_format_item(item) for item in items]) + "}"


def _format_item(item: Value) -> str:
    if item is None:
        return "NULL"
    if type(item) is list:
        return _format(item)
    if item and item.upper() != "NULL" and not _NEEDS_QUOTES.search(item):
        return str(item)
    return '"' + _ESCAPED.sub(r"\\\1", item) + '"'


def _tokens(text: str, at: int) -> Iterator[tuple[str, str | None]]:
    """Yield punctuation as (mark, None), items as ("item", text or None for NULL)."""
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise NotArray("an item of the array does not end")
        at = match.end()
        if match["mark"]:
            yield match["mark"], None
        elif match["quoted"] is not None:
            yield "item", _ESCAPE.sub(r"\1", match["quoted"])
        elif match["bare"].upper() == "NULL":
            yield "item", None
        else:
            yield "item", _ESCAPE.sub(r"\1", match["bare"])


def _parse(tokens: Iterator[tuple[str, str | None]], depth: int) -> list[Value]:
    """Return the items up to the end of the array, whose { was read."""
    if depth > DIMENSIONS_MAX:
        raise NotArray(f"an array of more than {DIMENSIONS_MAX} dimensions")
    items: list[Value] = []
    for mark, item in tokens:
        if mark == "item":
            items.append(item)
        elif mark == "{":
            items.append(_parse(tokens, depth + 1))
        elif mark == "}" and not items:
            return items
        else:
            raise NotArray("an item is missing in the array")
        after, _ = next(tokens, ("", None))
        if after == "}":
            return items
        if after != ",":
            raise NotArray("expected , or } after an item of the array")
    raise NotArray("the array does not end")
