"""Frozen values behave as `dataclass(frozen=True, slots=True)` would have made them."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, dataclass, field
from typing import Any

import pytest

from gsync.frozen import as_dict, frozen, replace


@frozen
class Pair:
    """A pair."""

    left: int
    right: tuple[int, ...] = ()
    names: dict[str, int] = field(default_factory=dict)
    secret: str = field(default="", repr=False, compare=False)

    def total(self) -> int:
        return self.left + sum(self.right)


@dataclass(frozen=True, slots=True)
class Reference:
    """What the standard library makes of the same."""

    left: int
    right: tuple[int, ...] = ()
    names: dict[str, int] = field(default_factory=dict)
    secret: str = field(default="", repr=False, compare=False)


@frozen
class Empty:
    """Nothing."""


@frozen
class One:
    """One field."""

    only: int


CALLS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((1,), {}),
    ((1, (2, 3)), {}),
    ((), {"left": 1, "names": {"a": 1}}),
    ((1,), {"secret": "x"}),
    ((), {}),
    ((1, (), {}, "", 5), {}),
    ((1,), {"left": 2}),
    ((1,), {"other": 2}),
]


@pytest.mark.parametrize(("args", "named"), CALLS)
def test_calls_are_those_of_a_dataclass(args: tuple[Any, ...], named: dict[str, Any]) -> None:
    """The same arguments are taken and refused, and the same values stand in the fields."""
    try:
        expected = Reference(*args, **named)
    except TypeError:
        with pytest.raises(TypeError):
            Pair(*args, **named)
        return
    made = Pair(*args, **named)
    assert as_dict(made) == as_dict(expected)
    assert repr(made) == repr(expected).replace("Reference", "Pair")
    assert "x" not in repr(made).partition("(")[2]


def test_equal_and_hash() -> None:
    """Fields that are compared decide, and values of another class are never equal."""
    assert Pair(1, (2,)) == Pair(1, (2,), secret="x") != Pair(2, (2,))
    others: list[object] = [Reference(1), 1, None]
    assert all(Pair(1) != other for other in others)
    assert One(1) == One(1) and hash(One(1)) == hash(One(1))
    assert len({One(1), One(1), One(2)}) == 2
    assert Empty() == Empty() and repr(Empty()).endswith("Empty()")


def test_nothing_can_be_changed() -> None:
    """Fields and others can be neither set nor deleted."""
    made = Pair(1)
    for change in (
        lambda: setattr(made, "left", 2),
        lambda: setattr(made, "other", 2),
        lambda: delattr(made, "left"),
    ):
        with pytest.raises(FrozenInstanceError, match="of a Pair"):
            change()
    assert not hasattr(made, "__dict__")
    assert made.left == 1


def test_factories_are_not_shared() -> None:
    """Each value has a default of its own."""
    first, second = Pair(1), Pair(1)
    assert first.names == second.names and first.names is not second.names


def test_copies() -> None:
    """A value can be copied, pickled, changed in a copy, and matched by position."""
    made = Pair(1, (2,), {"a": 1}, "x")
    for twin in (copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert twin == made and twin.secret == "x"
    assert replace(made, left=5) == Pair(5, (2,), {"a": 1})
    with pytest.raises(TypeError):
        replace(made, other=1)
    assert made.total() == 3
    match made:
        case Pair(left, (right,)):
            assert (left, right) == (1, 2)
        case _:
            pytest.fail("does not match")
