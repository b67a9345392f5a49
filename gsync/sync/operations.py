"""The operations of a repository: what each command changed, kept so that it can be undone.

An operation is one value of the store's state (14-operations), written in the transaction that
moves the refs. A command that moves refs several times writes its operation anew each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field
from typing import Any

from gsync.errors import Corrupt, NotFound
from gsync.frozen import frozen, replace
from gsync.objects.encoding import NotCanonical, decode_trusted, encode
from gsync.objects.oid import ObjectId
from gsync.store.base import State

PREFIX = "op "
PENDING = "pending move"
"""The state that keeps a move while it is made; `checkout` says what is in it."""

MARK_PREFIX = "mark "
LOCAL_MARK_PREFIX = f"{MARK_PREFIX}local/"
"""States that name a manifest: what folder and a database were when they last agreed."""

_FORMAT = 1
_DAY_US = 86_400_000_000

Moves = Mapping[str, tuple[ObjectId | None, ObjectId | None]]
"""Refs by name, with where they pointed before and after; None for absent."""


@frozen
class Live:
    """What was written into folder and databases: all that differs between two manifests.

    Attributes:
        before, after: The manifests. What they have alike was not touched, and need not be
            what was live.
        databases: The databases whose tables count; those of others were not written.
    """

    before: ObjectId | None
    after: ObjectId | None
    databases: tuple[str, ...] = ()


@frozen
class Operation:
    """What one command changed.

    Attributes:
        id: Rises by one from 1.
        time_us: When it was last written, in microseconds.
        actor: The local user.
        command: The command, without `gsync`.
        refs: This repository's refs that it moved, and `merge/unfinished`.
        seen: Refs of remotes, `REMOTE/REF`, that were seen to have moved.
        marks: Marks of tables, by state name, as they were stored before and after.
        live: What it wrote into folder and databases, or None.
        undoes: The operation that it undid, or None.
        kept: Why it, or a part of it, cannot be undone, or None.
        final: Whether that goes for all of it, though it moved refs.
    """

    id: int
    time_us: int
    actor: str
    command: str
    refs: Moves = field(default_factory=dict)
    seen: Moves = field(default_factory=dict)
    marks: Mapping[str, tuple[bytes | None, bytes | None]] = field(default_factory=dict)
    live: Live | None = None
    undoes: int | None = None
    kept: str | None = None
    final: bool = False

    @property
    def can_be_undone(self) -> bool:
        """Whether there is anything that an undo would bring back."""
        return not self.final and (bool(self.refs) or self.live is not None)

    def manifests(self) -> set[ObjectId]:
        """Return the manifests that it names."""
        named = {oid for pair in (*self.refs.values(), *self.seen.values()) for oid in pair}
        if self.live is not None:
            named |= {self.live.before, self.live.after}
        return {oid for oid in named if oid is not None}


class Recorder:
    """The operation of one command while it runs."""

    def __init__(self, command: str, actor: str, now_us: Callable[[], int]) -> None:
        self._blank = Operation(0, 0, actor, command)
        self._now_us = now_us
        self.saved: Operation | None = None
        """The operation as it was last saved; the caller sets it when its transaction is done."""

    def explain(self, kept: str, *, final: bool = False) -> None:
        """Say why what follows cannot be undone, `final` if refs that it moves neither."""
        self._blank = replace(self._blank, kept=kept, final=final)
        if self.saved is not None:
            self.saved = replace(self.saved, kept=kept, final=final)

    def undoing(self, operation: int) -> None:
        """Say which operation what follows undoes."""
        self._blank = replace(self._blank, undoes=operation)

    def next(
        self,
        store: State,
        *,
        refs: Moves | None = None,
        seen: Moves | None = None,
        states: Mapping[str, bytes | None] | None = None,
        live: Live | None = None,
    ) -> Operation:
        """Return the operation as it is once these changes are made too.

        Args:
            states: States that are saved with them; marks of tables among them are noted.
            live: What is written into folder and databases.
        """
        operation = self.saved or replace(self._blank, id=last_id(store) + 1)
        marks = {
            name: (store.get_state(name), value)
            for name, value in (states or {}).items()
            if name.startswith(MARK_PREFIX)
        }
        if live is not None and operation.live is not None:
            names = dict.fromkeys((*operation.live.databases, *live.databases))
            live = Live(operation.live.before, live.after, tuple(names))
        return replace(
            operation,
            time_us=self._now_us(),
            refs=_joined(operation.refs, refs or {}),
            seen=_joined(operation.seen, seen or {}),
            marks=_joined(operation.marks, marks),
            live=live or operation.live,
        )


def _joined(first: Mapping[str, tuple[Any, Any]], then: Mapping[str, tuple[Any, Any]]) -> Any:
    """Return changes that follow each other as one; what came back to where it was is none."""
    found = dict(first)
    for name, (old, new) in then.items():
        found[name] = (found[name][0] if name in found else old, new)
    return {name: pair for name, pair in found.items() if pair[0] != pair[1]}


# --- As states -----------------------------------------------------------------------


def operation_state(operation: Operation) -> dict[str, bytes | None]:
    """Return the state that keeps `operation`."""
    live = operation.live
    body = [
        _FORMAT,
        operation.id,
        operation.time_us,
        operation.actor,
        operation.command,
        *(
            [[name, old, new] for name, (old, new) in sorted(changes.items())]
            for changes in (operation.refs, operation.seen, operation.marks)
        ),
        [live.before, live.after, list(live.databases)] if live else None,
        operation.undoes,
        operation.kept,
        operation.final,
    ]
    return {_name(operation.id): encode(body)}


def _name(operation: int) -> str:
    return f"{PREFIX}{operation:012d}"


def _decode(body: bytes) -> Operation:
    with reading_state("an operation"):
        _, id_, time_us, actor, command, refs, seen, marks, live, *rest = decode_trusted(body)
        refs, seen, marks = (
            {n: (old, new) for n, old, new in part} for part in (refs, seen, marks)
        )
        found = Live(live[0], live[1], tuple(live[2])) if live else None
        return Operation(id_, time_us, actor, command, refs, seen, marks, found, *rest)


@contextmanager
def reading_state(what: str) -> Iterator[None]:
    """Say that the store is damaged where a state of it is not what was written.

    Raises:
        Corrupt: the block met something that is no encoding, or has another shape.
    """
    try:
        yield
    except (NotCanonical, ValueError, TypeError, IndexError) as error:
        raise Corrupt(
            f"the store is damaged: its state of {what} cannot be read",
            hint="restore a backup of it, or clone anew; 'gsync doctor' says more",
        ) from error


def list_local_bases(store: State) -> dict[ObjectId, str]:
    """Return the manifests that local syncs go on from, and what keeps each."""
    found = {}
    for name, body in store.list_states(LOCAL_MARK_PREFIX).items():
        with reading_state("when documents were last kept in step"):
            _, oid, _ = decode_trusted(body)
            found[ObjectId(oid)] = name.removeprefix(MARK_PREFIX)
    return found


def last_id(store: State) -> int:
    """Return the id of the newest operation, or 0."""
    names = store.list_states(PREFIX)
    return int(max(names).removeprefix(PREFIX)) if names else 0


def list_operations(store: State) -> list[Operation]:
    """Return all operations that are kept, newest first."""
    found = store.list_states(PREFIX)
    return [_decode(found[name]) for name in sorted(found, reverse=True)]


def get_operation(store: State, operation: int) -> Operation:
    """Return one operation.

    Raises:
        NotFound: there is none of that number, or it was dropped.
    """
    body = store.get_state(_name(operation))
    if body is None:
        raise NotFound(f"no operation {operation} is kept", hint="'gsync ops' lists those that are")
    return _decode(body)


def undone_ids(operations: Iterable[Operation]) -> set[int]:
    """Return which of all `operations`, newest first, are undone: by an undo that still holds."""
    undone: set[int] = set()
    for operation in operations:
        if operation.undoes is not None and operation.id not in undone:
            undone.add(operation.undoes)
    return undone


def named_manifests(store: State) -> dict[ObjectId, int]:
    """Return every manifest that an operation names, with the newest one that does."""
    found: dict[ObjectId, int] = {}
    for operation in list_operations(store):
        for oid in operation.manifests():
            found.setdefault(oid, operation.id)
    return found


def drop_old_operations(store: State, now_us: int, *, days: int, most: int) -> int:
    """Drop operations older than `days`, and beyond the newest `most`; return how many went.

    The newest stays, so that no number is used twice.
    """
    dropped = [
        operation.id
        for place, operation in enumerate(list_operations(store))
        if place and (place >= most or operation.time_us < now_us - days * _DAY_US)
    ]
    if dropped:
        store.set_states({_name(operation): None for operation in dropped})
    return len(dropped)
