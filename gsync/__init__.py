"""gsync: content-addressed sync of files and database rows."""

from __future__ import annotations

# What type checkers take for true; `typing` itself takes longer to load than all the rest.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from gsync.sync.service import (
        SyncConfig,
        SyncDirection,
        SyncOperationResult,
        SyncOpState,
        SyncService,
    )

__version__ = "0.1.0"

__all__ = [
    "SyncConfig",
    "SyncDirection",
    "SyncOpState",
    "SyncOperationResult",
    "SyncService",
    "__version__",
]


def __getattr__(name: str) -> object:
    """Return a name of the public API, loaded when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'gsync' has no attribute {name!r}")
    from gsync.sync import service

    globals()[name] = value = getattr(service, name)
    return value
