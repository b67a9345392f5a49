"""Front matter: read with the place of every key, and edited where it stands (17-documents).

YAML is read by ruamel.yaml; it is never written anew, so whatever is not changed stays as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from gsync.errors import Invalid
from gsync.frozen import frozen

OPENER = "---"
BOM = "\ufeff"
_TAG = "tag:yaml.org,2002:"
_PLAIN = re.compile(r"[A-Za-z0-9_/][A-Za-z0-9_ ./@+()-]*")
# What a reader of UTF-8 files calls white space; str.strip takes four control characters more.
WHITE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)


class Problem(NamedTuple):
    """What is wrong with a file; lines and columns count from 1, 0 for the file as a whole."""

    path: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        place = f":{self.line}:{self.column}" if self.line else ""
        return f"{self.path}{place}: {self.message}"


class BadFile(Invalid):
    """A file has front matter that is not what it has to be."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(map(str, self.problems)))


class Scalar(NamedTuple):
    """A value that is no list and no map; `tag` is without YAML's prefix."""

    text: str
    tag: str


class Key(NamedTuple):
    """A key of the front matter, and where it and its value stand in the file's text."""

    name: str
    value: Scalar | list[Any] | dict[str, Any]
    key_start: int
    start: int
    end: int
    style: str | None
    is_plain_block: bool


@frozen
class FrontMatter:
    """A file with front matter.

    Attributes:
        path: What the file is called, for messages.
        text: All of the file.
        start, end: Where the YAML begins and ends in it.
        body_start: Where the body begins.
        keys: What the YAML says, in its order.
    """

    path: str
    text: str
    start: int
    end: int
    body_start: int
    keys: Mapping[str, Key]

    @property
    def body(self) -> str:
        """All behind the front matter."""
        return self.text[self.body_start :]

    @property
    def line_end(self) -> str:
        """How the lines of the front matter end."""
        return "\r\n" if self.text[: self.start].endswith("\r\n") else "\n"

    def place(self, index: int) -> tuple[int, int]:
        """Return line and column of a character."""
        line = self.text.count("\n", 0, index)
        return line + 1, index - (self.text.rfind("\n", 0, index) + 1) + 1

    def problem(self, message: str, key: str | None = None) -> Problem:
        """Return a problem with a key's value, or with the front matter."""
        known = self.keys.get(key) if key is not None else None
        at = known.start if known else self.start
        return Problem(self.path, *self.place(at), message)


def read_front_matter(path: str, data: bytes) -> FrontMatter | None:
    """Return the front matter of a file, or None if it has none.

    Raises:
        BadFile: it has, and that cannot be read.
    """
    head = data[:64].removeprefix(BOM.encode())
    if head.partition(b"\n")[0].rstrip() != OPENER.encode():
        return None
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise BadFile([Problem(path, line, column, "not UTF-8")]) from error
    start = text.index("\n") + 1 if "\n" in text else len(text)
    at = start
    while at < len(text):
        stop = text.find("\n", at)
        stop = len(text) if stop < 0 else stop + 1
        if text[at:stop].rstrip() == OPENER:
            return _parse(path, text, start, at, stop)
        at = stop
    raise BadFile([Problem(path, 1, 1, "the front matter is not closed: expected a line '---'")])


def _parse(path: str, text: str, start: int, end: int, body_start: int) -> FrontMatter:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError
    from ruamel.yaml.nodes import MappingNode

    bare = FrontMatter(path, text, start, end, body_start, {})
    try:
        root = YAML(typ="rt", pure=True).compose(text[start:end])
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = bare.place(start + mark.index) if mark else (0, 0)
        message = " ".join(str(error.problem or error.context).split())
        raise BadFile([Problem(path, *place, f"not YAML: {message}")]) from error
    except (YAMLError, ValueError, RecursionError) as error:
        message = " ".join(str(error).split())[:200]
        raise BadFile([Problem(path, 0, 0, f"not YAML: {message}")]) from error
    if root is None:
        return bare
    if not isinstance(root, MappingNode) or root.flow_style:
        problem = bare.problem("expected a mapping with a line for each key")
        raise BadFile([problem])
    keys: dict[str, Key] = {}
    problems = []
    for key_node, node in root.value:
        at = start + key_node.start_mark.index
        name = key_node.value
        if not isinstance(name, str) or name in keys:
            found = f"the key {name} stands twice" if isinstance(name, str) else "a key is no text"
            problems.append(Problem(path, *bare.place(at), found))
            continue
        style = getattr(node, "style", None)
        first, last = start + node.start_mark.index, start + yaml_end(node)
        if first >= last:  # the reader puts a value that is absent behind comments
            first = last = text.index(":", start + key_node.end_mark.index) + 1
        elif style in ("|", ">"):
            last = _block_end(text, first, key_node.start_mark.column)
        is_block = not getattr(node, "flow_style", False)
        keys[name] = Key(name, _value(node), at, first, last, style, is_block)
    if problems:
        raise BadFile(problems)
    return FrontMatter(path, text, start, end, body_start, keys)


def _value(node: Any) -> Scalar | list[Any] | dict[str, Any]:
    """Return what a node holds; one with an anchor or a tag of its own is a scalar of no type."""
    from ruamel.yaml.nodes import MappingNode, SequenceNode

    if getattr(node, "anchor", None):
        return Scalar("", "anchor")
    if isinstance(node, SequenceNode):
        return [_value(inner) for inner in node.value]
    if isinstance(node, MappingNode):
        return {str(key.value): _value(inner) for key, inner in node.value}
    tag = str(node.tag)
    return Scalar(node.value, tag.removeprefix(_TAG) if tag.startswith(_TAG) else "tag")


def yaml_end(node: Any) -> int:
    """Return where a node ends: a block ends with its last scalar, not with the next key."""
    if isinstance(node.value, list) and node.value and not node.flow_style:
        last = node.value[-1]
        return yaml_end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _block_end(text: str, start: int, column: int) -> int:
    """Return where the last line of a block of text ends that says something.

    Args:
        column: Of its key: the lines of the block begin further in.
    """
    at = end = text.index("\n", start)
    while True:
        stop = text.find("\n", at + 1)
        line = text[at + 1 : stop]
        is_inside = len(line) - len(line.lstrip(" ")) > column
        if stop < 0 or (line.strip() and not is_inside):
            break
        at = stop
        if line.strip():
            end = stop
    return end - 1 if text[end - 1] == "\r" else end


# --- Editing ---------------------------------------------------------------------------

Edit = str | bool | list[dict[str, str]] | None
"""What a key is to hold: a text, a boolean, a list of texts by name, or nothing at all."""


def edit(front: FrontMatter, edits: Mapping[str, Edit], body: str | None = None) -> str:
    """Return the file with some keys holding something else, None for no such key.

    Args:
        body: The body, without white space at its ends; None leaves it.
    """
    text = front.text
    if body is not None:
        text = text[: front.body_start] + _edited_body(front, body)
    spans: list[tuple[int, int, str]] = []
    new = ""
    for name, value in edits.items():
        key = front.keys.get(name)
        if key is None:
            if value is not None:
                new += f"{name}:{_block(value, front.line_end)}{front.line_end}"
        elif value is None:
            spans.append((*_lines(front, key), ""))
        else:
            spans.append((key.start, key.end, _replaced(front, key, value)))
    if new:
        spans.append((front.end, front.end, new))
    for start, end, put in sorted(spans, reverse=True):
        text = text[:start] + put + text[end:]
    return text


def _edited_body(front: FrontMatter, body: str) -> str:
    old = front.body
    kept = old.strip(WHITE)
    if kept:
        at = old.index(kept)
        before, after = old[:at], old[at + len(kept) :]
    else:
        before = after = front.line_end
        closing = front.text[front.end : front.body_start]
        if not closing.endswith("\n"):
            before = front.line_end * 2
    crlf = old.count("\r\n") * 2 > old.count("\n") if "\n" in old else front.line_end == "\r\n"
    return before + to_lines(body, "\r\n" if crlf else "\n") + after


def to_lines(text: str, line_end: str) -> str:
    """Return a text whose lines end so."""
    return text.replace("\r\n", "\n").replace("\n", line_end)


def _lines(front: FrontMatter, key: Key) -> tuple[int, int]:
    """Return the lines that a key and its value take."""
    start = front.text.rfind("\n", 0, key.key_start) + 1
    return start, front.text.index("\n", key.end) + 1


def _replaced(front: FrontMatter, key: Key, value: Edit) -> str:
    if isinstance(value, list):
        if key.is_plain_block and isinstance(key.value, list) and value:
            indent = front.place(key.start)[1] - 1
            return _items(value, " " * indent, front.line_end).lstrip(" ")
        put = _flow(value)
    else:
        put = _scalar(value, key.style if isinstance(key.value, Scalar) else None, key.name)
    return put if key.end > key.start else f" {put}"


def _block(value: Edit, line_end: str) -> str:
    if isinstance(value, list) and value:
        return line_end + _items(value, "  ", line_end)
    return " " + (_flow(value) if isinstance(value, list) else _scalar(value, '"', ""))


def _items(value: list[dict[str, str]], indent: str, line_end: str) -> str:
    lines = []
    for item in value:
        for at, (name, text) in enumerate(item.items()):
            lines.append(f"{indent}{'  ' if at else '- '}{name}: {quote(text)}")
    return line_end.join(lines)


def _flow(value: list[dict[str, str]]) -> str:
    items = (", ".join(f"{name}: {quote(text)}" for name, text in item.items()) for item in value)
    return f"[{', '.join(f'{{{item}}}' for item in items)}]"


def _scalar(value: Edit, style: str | None, name: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    assert isinstance(value, str)
    if style == "'" and _is_printable(value):
        return "'" + value.replace("'", "''") + "'"
    is_plain = style is None and _PLAIN.fullmatch(value) and not value.endswith(" ")
    if is_plain and (name == "published_at" or (name and _is_plain_text(value))):
        return value
    return quote(value)


def _is_plain_text(value: str) -> bool:
    """Return whether readers of YAML, old and new ones, take `value` for a text without quotes."""
    if not (value[0].isalpha() or value[0] == "/") or ": " in value or " #" in value:
        return False
    return value.lower() not in ("true", "false", "null", "yes", "no", "on", "off", "y", "n")


def _is_printable(text: str) -> bool:
    return all(char == "\t" or char.isprintable() for char in text)


def quote(text: str) -> str:
    """Return a text in double quotes; what is printable, and a tab, stands for itself."""
    if _is_printable(text) and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(char: str) -> str:
    if char == "\t" or (char.isprintable() and char not in '"\\'):
        return char
    if char in '"\\\n\r':
        return json.dumps(char)[1:-1]
    code = ord(char)
    return (
        f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
    )
