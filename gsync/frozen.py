"""Frozen values, as `dataclass(frozen=True, slots=True)` makes them, in a sixth of the time.

`dataclasses` compiles eight functions for each class, 0.6 ms; a push of nothing met 58 classes,
a quarter of its processor time. Here one is compiled, the others are shared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, FrozenInstanceError, field
from operator import attrgetter
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[T]) -> type[T]:
    """Return the class anew, with slots for its annotated fields, `__init__`, ==, hash and repr.

    A field may have a default, or `field()` with `default`, `default_factory`, `repr` and
    `compare`. Fields are not inherited. `super()` without arguments does not work in methods.
    """
    namespace = dict(cls.__dict__)
    names = tuple(namespace.get("__annotations__", ()))
    fields: dict[str, Field[Any]] = {}
    for name in names:
        default = namespace.pop(name, MISSING)
        fields[name] = default if isinstance(default, Field) else field(default=default)
    for gone in ("__dict__", "__weakref__"):
        namespace.pop(gone, None)
    shown = [name for name in names if fields[name].repr]
    namespace.update(_shared(tuple(n for n in names if fields[n].compare), shown), __slots__=names)
    namespace.setdefault("__match_args__", names)
    made: type[T] = type(cls.__name__, cls.__bases__, namespace)
    made.__init__ = _init(made, fields)  # type: ignore[method-assign]
    return made


def replace(value: T, **changes: Any) -> T:
    """Return a frozen value with some of its fields changed."""
    return type(value)(**{**as_dict(value), **changes})


def as_dict(value: Any) -> dict[str, Any]:
    """Return the fields of a frozen value by name, in order; what they hold stays as it is."""
    return {name: getattr(value, name) for name in value.__slots__}


def _init(made: type, fields: dict[str, Field[Any]]) -> Callable[..., None]:
    """Compile `__init__`: it fills the slots by their descriptors, past `__setattr__`."""
    parameters, lines = ["self"], []
    names: dict[str, Any] = {"_missing": MISSING}
    for name, one in fields.items():
        names[f"_set_{name}"] = getattr(made, name).__set__
        value = name
        if one.default_factory is not MISSING:
            names[f"_make_{name}"] = one.default_factory
            parameters.append(f"{name}=_missing")
            value = f"_make_{name}() if {name} is _missing else {name}"
        elif one.default is not MISSING:
            names[f"_default_{name}"] = one.default
            parameters.append(f"{name}=_default_{name}")
        else:
            parameters.append(name)
        lines.append(f" _set_{name}(self, {value})")
    exec(f"def __init__({', '.join(parameters)}):\n" + "\n".join(lines or [" pass"]), names)
    init: Callable[..., None] = names["__init__"]
    init.__qualname__ = f"{made.__qualname__}.__init__"
    return init


def _shared(compared: tuple[str, ...], shown: list[str]) -> dict[str, Any]:
    key: Callable[[Any], Any] = attrgetter(*compared) if compared else lambda self: ()

    def __eq__(self: Any, other: object) -> Any:
        return key(self) == key(other) if other.__class__ is self.__class__ else NotImplemented

    def __hash__(self: Any) -> int:
        return hash(key(self))

    def __repr__(self: Any) -> str:
        parts = ", ".join(f"{name}={getattr(self, name)!r}" for name in shown)
        return f"{type(self).__qualname__}({parts})"

    def __reduce__(self: Any) -> Any:
        return type(self), tuple(as_dict(self).values())

    return {
        "__eq__": __eq__,
        "__hash__": __hash__,
        "__repr__": __repr__,
        "__reduce__": __reduce__,
        "__setattr__": _refuse,
        "__delattr__": _refuse,
    }


def _refuse(self: Any, name: str, *value: Any) -> None:
    raise FrozenInstanceError(f"cannot change {name!r} of a {type(self).__qualname__}")
