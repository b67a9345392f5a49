"""Who may use what: bands of rules, and what decides (18-rules, section 4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from gsync.frozen import frozen
from gsync.views.rules.parse import ALLOW, DENY, Entity

USER, ROLE = "user", "role"


class AccessRule(NamedTuple):
    """A row of the table of rules."""

    entity: Entity
    type: str
    value: str
    access: str
    justification: str | None = None


@frozen
class Decision:
    """Whether somebody may use an entity, and why.

    Attributes:
        access: `allow` or `deny`.
        reason: In words.
        rule: The rule that decided, or None.
        default_of: The entity whose `default_included` decided, or None.
    """

    access: str
    reason: str
    rule: AccessRule | None = None
    default_of: Entity | None = None


@frozen
class Subject:
    """Who asks.

    Attributes:
        user: The user's id, or None.
        roles: The roles that they have.
        dimensions: What else is known of them, as `department: sales`.
    """

    user: str | None = None
    roles: frozenset[str] = frozenset()
    dimensions: Mapping[str, str] = {}

    def band(self, rule: AccessRule) -> int | None:
        """Return how specific a rule is for them, 0 the most; None if it is about others."""
        if rule.type == USER:
            return 0 if rule.value == self.user else None
        if rule.type == ROLE:
            return 2 if rule.value in self.roles else None
        return 1 if self.dimensions.get(rule.type) == rule.value else None


def resolve(
    entity: Entity,
    subject: Subject,
    rules: Iterable[AccessRule],
    defaults: Mapping[Entity, bool],
    parents: Sequence[Entity] = (),
) -> Decision:
    """Return whether `subject` may use `entity`.

    Args:
        rules: All that there are; those of other entities are passed over.
        defaults: Every entity that is in the catalog, and its `default_included`.
        parents: What the entity belongs to, nearest first.
    """
    if entity not in defaults:
        return Decision(DENY, f"{entity} is an unknown entity")
    line = (entity, *parents)
    by_entity: dict[Entity, list[AccessRule]] = {one: [] for one in line}
    for rule in rules:
        if rule.entity in by_entity:
            by_entity[rule.entity].append(rule)
    for one in line:
        found = _decide(by_entity[one], subject)
        if found is not None:
            who = f"{found.type} {found.value}"
            return Decision(found.access, f"a rule of {one} for {who}: {found.access}", found)
        if one == entity and by_entity[one]:
            break  # it has rules of its own, so those of its parents do not count
    for one in line:
        if defaults.get(one):
            return Decision(ALLOW, f"{one} is included by default", default_of=one)
    return Decision(DENY, f"{entity} is not assigned")


def _decide(rules: Iterable[AccessRule], subject: Subject) -> AccessRule | None:
    """Return the rule of the most specific band that decides; in it, a denial does."""
    about = [(band, rule) for rule in rules if (band := subject.band(rule)) is not None]
    if not about:
        return None
    _, found = min(
        about, key=lambda one: (one[0], one[1].access != DENY, one[1].type, one[1].value)
    )
    return found
