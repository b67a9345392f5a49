"""The seven kinds of failure. Every other error of gsync subclasses one of them.

The edges map these kinds to exit codes (`cli/output.py`) and to HTTP statuses
(`server/app.py`) in one table each; nothing else inspects an error's class.
"""

from __future__ import annotations

from typing import Any, ClassVar


class GsyncError(Exception):
    """What went wrong, in one sentence: what, which, expected, found.

    Attributes:
        kind: The name of the kind, as JSON documents and the wire carry it.
        hint: What the user can do about it, or None.
        details: The facts of the sentence by name, for programs.
    """

    kind: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details


class Invalid(GsyncError):
    """The input is not what the specification allows; the same input will fail again."""

    kind = "invalid"


class Denied(GsyncError):
    """The caller may not do this."""

    kind = "denied"


class NotFound(GsyncError):
    """What was named does not exist."""

    kind = "not_found"


class Conflict(GsyncError):
    """The state is not the one the caller expected; nothing was changed."""

    kind = "conflict"


class TooLarge(GsyncError):
    """A limit was exceeded."""

    kind = "too_large"


class Corrupt(GsyncError):
    """Stored or received bytes are not what they claim to be."""

    kind = "corrupt"


class Unavailable(GsyncError):
    """Something needed is not there now; the only kind worth a retry."""

    kind = "unavailable"
