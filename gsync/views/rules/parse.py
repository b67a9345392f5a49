"""The file of access rules: read with the place of everything, and edited where it stands.

All that is wrong is reported together (18-rules, section 1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from gsync.frozen import frozen
from gsync.views.documents.frontmatter import BadFile, Problem, quote, yaml_end

KINDS = (
    *("gateway_route", "mcp_server", "plugin", "agent", "marketplace", "skill", "hook"),
    *("slack_workspace", "teams_tenant"),
)
NOT_KEPT = ("slack_channel", "teams_conversation")
"""Kinds that the older system reads, and its tables refuse."""

ALLOW, DENY = "allow", "deny"
_KEYS = (
    *("entity_type", "entity_id", "entity_match", "access", "default_included", "roles"),
    "justification",
)
_TAG = "tag:yaml.org,2002:"


class Entity(NamedTuple):
    """What a rule is about: `skill:deploy`."""

    type: str
    id: str

    def __str__(self) -> str:
        return f"{self.type}:{self.id}"


class Grant(NamedTuple):
    """What a rule says of one role."""

    access: str
    justification: str | None


@frozen
class Rule:
    """One entry of the file.

    Attributes:
        number: Its place in the list, from 0.
        line: Where it begins.
        pattern: Of the ids that it is about, with `*`; or the one id.
        is_pattern: Whether it is a pattern.
        default_included: What it says of that, or None.
        span: Where its lines begin and end.
        roles_span: Where the value of `roles` begins and ends.
        role_spans: The same for each role.
        values: Where the values of its keys begin and end.
        column: Of its keys.
        is_flow: Whether it is written in braces.
        is_role_flow: Whether its roles are written in brackets.
    """

    number: int
    line: int
    type: str
    pattern: str
    is_pattern: bool
    grant: Grant
    default_included: bool | None
    roles: tuple[str, ...]
    span: tuple[int, int]
    roles_span: tuple[int, int]
    role_spans: tuple[tuple[int, int], ...]
    values: Mapping[str, tuple[int, int]]
    column: int
    is_flow: bool
    is_role_flow: bool

    def matches(self, entity: Entity) -> bool:
        """Return whether the rule is about an entity."""
        if entity.type != self.type:
            return False
        return match_id(self.pattern, entity.id) if self.is_pattern else self.pattern == entity.id


@frozen
class RuleFile:
    """A file of rules.

    Attributes:
        rules: Its entries, or None where it has no list at all, which says nothing.
        list_span: Where the value of `rules` begins and ends.
        is_flow: Whether that is written in brackets.
    """

    path: str
    text: str
    rules: tuple[Rule, ...] | None
    list_span: tuple[int, int] = (0, 0)
    is_flow: bool = False


def match_id(pattern: str, text: str) -> bool:
    """Return whether an id is what a pattern says, in which `*` is any text, also none."""
    first, *middle = pattern.split("*")
    if not middle:
        return text == pattern
    *middle, last = middle
    if not text.startswith(first) or len(text) < len(first) + len(last):
        return False
    at, stop = len(first), len(text) - len(last)
    for part in middle:
        found = text.find(part, at, stop)
        if found < 0:
            return False
        at = found + len(part)
    return text.endswith(last)


def read_rules(path: str, data: bytes) -> RuleFile:
    """Return what a file says.

    Raises:
        BadFile: it is not what it has to be; with all that is wrong.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadFile([Problem(path, line, 1, "not UTF-8")]) from error
    try:
        root = YAML(typ="rt", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        message = " ".join(str(error.problem or error.context).split())
        problem = Problem(path, place[0], place[1], f"not YAML: {message}")
        raise BadFile([problem]) from error
    except (YAMLError, ValueError, RecursionError) as error:
        raise BadFile([Problem(path, 0, 0, f"not YAML: {error}")]) from error
    return _Reader(path, text).read(root)


class _Reader:
    def __init__(self, path: str, text: str) -> None:
        self._path = path
        self._text = text
        self._problems: list[Problem] = []

    def _problem(self, node: Any, message: str) -> None:
        mark = node.start_mark
        self._problems.append(Problem(self._path, mark.line + 1, mark.column + 1, message))

    def read(self, root: Any) -> RuleFile:
        if root is None:
            return RuleFile(self._path, self._text, None)
        keys = self._mapping(root, "", ("rules",))
        found: tuple[Rule, ...] | None = None
        span, is_flow = (0, 0), False
        if "rules" in keys:
            name, node = keys["rules"]
            span = (node.start_mark.index, yaml_end(node))
            if _is(node, "null"):
                at = self._text.index(":", name.end_mark.index) + 1
                found, span = (), (at, at)
            elif not _is(node, "seq"):
                self._problem(node, "rules: expected a list")
            else:
                rules = [self._rule(number, one) for number, one in enumerate(node.value)]
                found = tuple(rule for rule in rules if rule is not None)
                is_flow = bool(node.flow_style)
        self._check_together(found or ())
        if self._problems:
            raise BadFile(sorted(self._problems, key=lambda one: (one.line, one.column)))
        return RuleFile(self._path, self._text, found, span, is_flow)

    def _mapping(self, node: Any, where: str, known: Sequence[str]) -> dict[str, tuple[Any, Any]]:
        if not _is(node, "map"):
            self._problem(node, f"{where}expected a map")
            return {}
        keys: dict[str, tuple[Any, Any]] = {}
        for name, value in node.value:
            if name.value not in known:
                self._problem(name, f"{where}no key is called {str(name.value)[:40]!r}")
            elif name.value in keys:
                self._problem(name, f"{where}the key {name.value} stands twice")
            else:
                keys[name.value] = (name, value)
        return keys

    def _rule(self, number: int, node: Any) -> Rule | None:
        before = len(self._problems)
        where = f"rule {number}: "
        found = self._mapping(node, where, _KEYS)
        keys = {name: value for name, (_, value) in found.items()}
        if not keys and not _is(node, "map"):
            return None
        type_ = self._text_of(keys, "entity_type", where, node, needed=True)
        if type_ in NOT_KEPT:
            self._problem(keys["entity_type"], f"{where}{type_} is a kind that no table takes")
        elif type_ and type_ not in KINDS:
            shown = ", ".join(KINDS)
            self._problem(keys["entity_type"], f"{where}entity_type: {type_!r} is none of {shown}")
        targets = [name for name in ("entity_id", "entity_match") if name in keys]
        if len(targets) != 1:
            self._problem(node, f"{where}expected one of entity_id and entity_match")
        target = targets[0] if targets else "entity_id"
        pattern = self._text_of(keys, target, where, node) or ""
        access = self._text_of(keys, "access", where, node) or ALLOW
        if access not in (ALLOW, DENY):
            self._problem(keys["access"], f"{where}access: expected allow or deny")
        default = self._flag(keys, where)
        justification = self._text_of(keys, "justification", where, node)
        roles, spans = self._roles(keys, where, node)
        if len(self._problems) > before:
            return None
        column = node.start_mark.column
        return Rule(
            *(number, node.start_mark.line + 1, type_ or "", pattern, target == "entity_match"),
            *(Grant(access, justification), default, roles),
            (node.start_mark.index, yaml_end(node)),
            (keys["roles"].start_mark.index, yaml_end(keys["roles"])),
            spans,
            {name: (one.start_mark.index, yaml_end(one)) for name, one in keys.items()},
            *(column, bool(node.flow_style), bool(keys["roles"].flow_style)),
        )

    def _text_of(
        self, keys: Mapping[str, Any], name: str, where: str, rule: Any, *, needed: bool = False
    ) -> str | None:
        node = keys.get(name)
        if node is None:
            if needed:
                self._problem(rule, f"{where}{name} is missing")
            return None
        if _is(node, "null") and name == "justification":
            return None
        if not _is(node, "str") or "\0" in node.value:
            self._problem(node, f"{where}{name}: expected a text")
            return None
        if not node.value.strip():
            self._problem(node, f"{where}{name} is blank")
        return str(node.value)

    def _flag(self, keys: Mapping[str, Any], where: str) -> bool | None:
        node = keys.get("default_included")
        if node is None:
            return None
        if not _is(node, "bool"):
            self._problem(node, f"{where}default_included: expected true or false")
            return None
        return bool(node.value.lower() == "true")

    def _roles(
        self, keys: Mapping[str, Any], where: str, rule: Any
    ) -> tuple[tuple[str, ...], tuple[tuple[int, int], ...]]:
        node = keys.get("roles")
        if node is None:
            self._problem(rule, f"{where}roles is missing")
            return (), ()
        if not _is(node, "seq") or not node.value:
            self._problem(node, f"{where}roles: expected a list with a role in it")
            return (), ()
        found: list[str] = []
        for one in node.value:
            if not _is(one, "str") or not one.value.strip():
                self._problem(one, f"{where}roles: expected a text that is not blank")
            elif one.value in found:
                self._problem(one, f"{where}roles: {one.value} stands twice")
            else:
                found.append(one.value)
        return tuple(found), tuple((o.start_mark.index, yaml_end(o)) for o in node.value)

    def _check_together(self, rules: Iterable[Rule]) -> None:
        """Refuse two entries that say something of one entity and role, or of one default."""
        said: dict[tuple[str, str, bool, str], Rule] = {}
        defaults: dict[tuple[str, str, bool], Rule] = {}
        for rule in rules:
            target = (rule.type, rule.pattern, rule.is_pattern)
            other = defaults.get(target)
            if rule.default_included is not None:
                if other is not None and other.default_included != rule.default_included:
                    text = f"rule {rule.number}: rule {other.number} has another default_included"
                    self._problems.append(Problem(self._path, rule.line, 1, text))
                defaults.setdefault(target, rule)
            for role in rule.roles:
                first = said.setdefault((*target, role), rule)
                if first is not rule:
                    text = f"rule {rule.number}: rule {first.number} is about role {role}, too"
                    self._problems.append(Problem(self._path, rule.line, 1, text))


def _is(node: Any, tag: str) -> bool:
    """Return whether a node is of a type, without an anchor or a tag of its own."""
    return str(node.tag) == f"{_TAG}{tag}" and not getattr(node, "anchor", None)


# --- Editing ---------------------------------------------------------------------------


class NotEdited(Exception):
    """What is wanted cannot be written into the file as it is.

    Attributes:
        about: What of it cannot, if not all.
    """

    def __init__(self, message: str, about: Iterable[tuple[Entity, str]] = ()) -> None:
        super().__init__(message)
        self.about = set(about)


@frozen
class Wanted:
    """What is to become of the file.

    Attributes:
        revoked: Entities and roles that no entry is to be about any more.
        granted: What is to be said of entities and roles, anew or otherwise.
        defaults: What is to be said of `default_included`.
    """

    revoked: frozenset[tuple[Entity, str]]
    granted: Mapping[tuple[Entity, str], Grant]
    defaults: Mapping[Entity, bool]


def edit_rules(file: RuleFile, wanted: Wanted) -> bytes:
    """Return the file with some rules otherwise; comments and all other bytes stay.

    Raises:
        NotEdited: an entry is about more than what changes, or written on one line with others.
    """
    if file.rules and file.is_flow:
        raise NotEdited("its rules stand in brackets: write them below each other")
    spans: list[tuple[int, int, str]] = []
    gone: set[int] = set()
    new = dict(wanted.granted)
    for rule in file.rules or ():
        _edit_rule(file, rule, wanted, new, spans, gone)
    appended = "".join(_entry(file, e, role, g, wanted) for (e, role), g in sorted(new.items()))
    left = [rule for rule in file.rules or () if rule.number not in gone]
    text = file.text
    eol = "\r\n" if "\r\n" in text else "\n"
    if appended:
        spans.append(_append(file, appended, eol))
    elif not left and file.rules:
        at = text.rindex(":", 0, file.list_span[0]) + 1
        spans.append((at, at, " []"))
    for start, end, put in sorted(spans, reverse=True):
        text = text[:start] + put + text[end:]
    return text.encode()


def _edit_rule(
    file: RuleFile,
    rule: Rule,
    wanted: Wanted,
    new: dict[tuple[Entity, str], Grant],
    spans: list[tuple[int, int, str]],
    gone: set[int],
) -> None:
    changed = {
        (entity, role)
        for entity, role in {*wanted.revoked, *wanted.granted}
        if role in rule.roles and rule.matches(entity)
    }
    if rule.is_pattern and changed:
        entity, role = min(changed)
        raise NotEdited(
            f"line {rule.line}: {role} of {entity} comes from a pattern, which other entities"
            " share: edit it by hand",
            changed,
        )
    entity = Entity(rule.type, rule.pattern)
    default = wanted.defaults.get(entity) if not rule.is_pattern else None
    if default is not None and rule.default_included is not None:
        spans.append((*rule.values["default_included"], "true" if default else "false"))
    if not changed:
        return
    same = {new[one] for one in changed if one in new}
    if len(changed) == len(rule.roles) and len(same) == 1 and changed <= new.keys():
        (grant,) = same
        _set_grant(file, rule, grant, spans)
        for one in changed:
            del new[one]
        return
    left = [n for n, role in enumerate(rule.roles) if (entity, role) not in changed]
    if not left:
        spans.append((*_lines(file.text, rule.span), ""))
        gone.add(rule.number)
    elif rule.is_role_flow:
        texts = [file.text[slice(*rule.role_spans[n])] for n in left]
        spans.append((*rule.roles_span, f"[{', '.join(texts)}]"))
    else:
        for n, role in enumerate(rule.roles):
            if (entity, role) in changed:
                spans.append((*_lines(file.text, rule.role_spans[n]), ""))


def _set_grant(file: RuleFile, rule: Rule, grant: Grant, spans: list[tuple[int, int, str]]) -> None:
    """Say something else of all roles of one entry."""
    put = {"access": grant.access}
    if grant.justification is not None:
        put["justification"] = quote(grant.justification)
    eol = "\r\n" if "\r\n" in file.text else "\n"
    for name, value in put.items():
        if getattr(rule.grant, name) == getattr(grant, name):
            continue
        if name in rule.values:
            spans.append((*rule.values[name], value))
        elif rule.is_flow:
            at = rule.span[1] - 1
            spans.append((at, at, f", {name}: {value}"))
        else:
            end = _lines(file.text, rule.span)[1]
            lead = "" if file.text[:end].endswith("\n") else eol
            spans.append((end, end, f"{lead}{' ' * rule.column}{name}: {value}{eol}"))
    if grant.justification is None and rule.grant.justification is not None:
        spans.append((*rule.values["justification"], "null"))


def _lines(text: str, span: tuple[int, int]) -> tuple[int, int]:
    """Return the lines that something takes."""
    start = text.rfind("\n", 0, span[0]) + 1
    end = text.find("\n", span[1])
    return start, len(text) if end < 0 else end + 1


def _entry(file: RuleFile, entity: Entity, role: str, grant: Grant, wanted: Wanted) -> str:
    column = file.rules[0].column - 2 if file.rules and not file.rules[0].is_flow else 2
    column = max(column, 0)
    lines = [f"- entity_type: {entity.type}", f"  entity_id: {quote(entity.id)}"]
    if grant.access != ALLOW:
        lines.append(f"  access: {grant.access}")
    known = any(not r.is_pattern and r.matches(entity) for r in file.rules or ())
    if wanted.defaults.get(entity) and not known:
        lines.append("  default_included: true")
    lines.append(f"  roles: [{quote(role)}]")
    if grant.justification is not None:
        lines.append(f"  justification: {quote(grant.justification)}")
    return "".join(f"{' ' * column}{line}\n" for line in lines)


def _append(file: RuleFile, entries: str, eol: str) -> tuple[int, int, str]:
    entries = entries.replace("\n", eol)
    if file.rules:
        end = _lines(file.text, (file.list_span[1], file.list_span[1]))[1]
        return end, end, ("" if file.text[:end].endswith("\n") else eol) + entries
    if file.rules is None:
        end = len(file.text)
        lead = "" if not file.text or file.text.endswith("\n") else eol
        return end, end, f"{lead}rules:{eol}{entries}"
    start, end = file.list_span
    while start and file.text[start - 1] == " ":
        start -= 1
    rest = entries.removesuffix(eol)
    return start, end, f"{eol}{rest}"
