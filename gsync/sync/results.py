"""What a step of a sync came to, as the older API has it: results, states, and their JSON.

A step is atomic here, so it is `completed`, `failed` or `not_started`; `partial` is said only
of a peer that is not, which took k of n.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from gsync.errors import GsyncError, Invalid
from gsync.frozen import replace


class SyncDirection(StrEnum):
    """Which way: `Push` brings what is here to the tenant, `Pull` the reverse."""

    PUSH = "Push"
    PULL = "Pull"


class SyncError(GsyncError):
    """A step of a sync failed. Every one is also of one of the seven kinds.

    Attributes:
        status: The HTTP status that somebody answered with, or None.
    """

    status: int | None = None

    @property
    def code(self) -> str:
        """The name of its kind."""
        return self.kind

    @property
    def retryable(self) -> bool:
        """Whether trying the same again may help."""
        return self.kind == "unavailable"


class MissingConfig(SyncError, Invalid):
    """A setting that the step needs is absent, so it was not started."""

    def __init__(self, field_name: str, why: str, *, hint: str | None = None) -> None:
        super().__init__(f"{field_name} is not set: {why}", hint=hint, field=field_name)


class InvalidInput(SyncError, Invalid):
    """A setting is not what it may be; the message names it."""

    def __init__(self, field_name: str, why: str, *, hint: str | None = None) -> None:
        super().__init__(f"{field_name}: {why}", hint=hint, field=field_name)


@dataclass(frozen=True, slots=True)
class SyncOpState:
    """How far a step came.

    Attributes:
        kind: `not_started`, `partial`, `completed` or `failed`.
        count, total: How many items of how many, of a partial one; else None.
    """

    kind: str
    count: int | None = None
    total: int | None = None

    NOT_STARTED: ClassVar[SyncOpState]
    COMPLETED: ClassVar[SyncOpState]
    FAILED: ClassVar[SyncOpState]

    @classmethod
    def partial(cls, count: int, total: int) -> SyncOpState:
        """Return the state of a step that did `count` items of `total`."""
        return cls("partial", count, total)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form, tagged by `kind`."""
        if self.kind == "partial":
            return {"kind": self.kind, "completed": self.count, "total": self.total}
        return {"kind": self.kind}

    @classmethod
    def from_json(cls, value: object) -> SyncOpState:
        """Return the state that a JSON value is; unknown keys are ignored.

        Raises:
            Invalid: it is none.
        """
        match value:
            case {"kind": "partial", "completed": int() as count, "total": int() as total}:
                return cls.partial(count, total)
            case {"kind": ("not_started" | "completed" | "failed") as kind}:
                return cls(kind)
        raise Invalid(f"not the state of a sync: {str(value)[:80]!r}")


SyncOpState.NOT_STARTED = SyncOpState("not_started")
SyncOpState.COMPLETED = SyncOpState("completed")
SyncOpState.FAILED = SyncOpState("failed")


@dataclass(frozen=True, slots=True)
class SyncOperationResult:
    """What one step did.

    Attributes:
        operation: `files_push`, `files_pull`, `database_push`, `database_pull`, or `database`
            where a full sync did not get as far.
        success: Whether it is completed.
        items_synced: Items changed at the target, and no others.
        items_skipped: In a dry run, items that a real run would change.
        errors: What went wrong, a sentence each.
        details: More, as JSON, or None.
        state: How far it came.
        dry_run: Whether nothing was to be changed.
        cause: The error behind a failure, where it happened in this process.
    """

    operation: str
    success: bool
    items_synced: int = 0
    items_skipped: int = 0
    errors: tuple[str, ...] = ()
    details: Any = None
    state: SyncOpState = SyncOpState.COMPLETED
    dry_run: bool = False
    cause: Exception | None = field(default=None, compare=False, repr=False)

    @classmethod
    def completed(cls, operation: str, items_synced: int) -> SyncOperationResult:
        """Return the result of a step that changed so many items."""
        return cls(operation, True, items_synced)

    @classmethod
    def planned(cls, operation: str, items: int, details: Any = None) -> SyncOperationResult:
        """Return the result of a dry run that would change so many items."""
        return cls(operation, True, 0, items, details=details, dry_run=True)

    @classmethod
    def failed(cls, operation: str, error: Exception) -> SyncOperationResult:
        """Return the result of a step that `error` ended, or kept from starting."""
        missing = isinstance(error, MissingConfig)
        state = SyncOpState.NOT_STARTED if missing else SyncOpState.FAILED
        done = 0
        match getattr(error, "details", None):
            case {"completed": int() as done, "total": int() as total}:
                state = SyncOpState.partial(done, total)
        return cls(operation, False, done, errors=(str(error),), state=state, cause=error)

    def with_details(self, details: Any) -> SyncOperationResult:
        """Return the same with these details instead."""
        return replace(self, details=details)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form; `dry_run` is there only when it is true."""
        document = {
            "operation": self.operation,
            "success": self.success,
            "items_synced": self.items_synced,
            "items_skipped": self.items_skipped,
            "errors": list(self.errors),
            "details": self.details,
            "state": self.state.to_json(),
        }
        return document | ({"dry_run": True} if self.dry_run else {})

    @classmethod
    def from_json(cls, value: object) -> SyncOperationResult:
        """Return the result that a JSON value is.

        A missing state is a completed one; unknown keys are ignored.

        Raises:
            Invalid: it is none.
        """
        if not isinstance(value, Mapping):
            raise Invalid(f"not the result of a sync: {str(value)[:80]!r}")
        match dict(value):
            case {
                "operation": str() as operation,
                "success": bool() as success,
                "items_synced": int() as synced,
                "items_skipped": int() as skipped,
                "errors": list() as errors,
            }:
                state = value.get("state")
                return cls(
                    operation,
                    success,
                    synced,
                    skipped,
                    tuple(map(str, errors)),
                    value.get("details"),
                    SyncOpState.COMPLETED if state is None else SyncOpState.from_json(state),
                    value.get("dry_run") is True,
                )
        raise Invalid(f"not the result of a sync: {str(value)[:80]!r}")
