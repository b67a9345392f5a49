"""The names of the older system, over what gsync has (spec/seed-names.md).

What stands here is a face: nothing is kept, decided or sent by it.
"""

from __future__ import annotations

from gsync.sync.results import InvalidInput, MissingConfig
from gsync.sync.service import (
    ApiError,
    SyncConfig,
    SyncConfigBuilder,
    SyncDirection,
    SyncError,
    SyncOperationResult,
    SyncOpState,
    SyncService,
    Unauthorized,
)

__all__ = [
    "ApiError",
    "FileSyncService",
    "InvalidInput",
    "MissingConfig",
    "SyncConfig",
    "SyncConfigBuilder",
    "SyncDirection",
    "SyncError",
    "SyncOpState",
    "SyncOperationResult",
    "SyncService",
    "Unauthorized",
]


class FileSyncService:
    """The files alone of a `SyncService`."""

    def __init__(self, config: SyncConfig) -> None:
        self._service = SyncService(config)

    def sync(self) -> SyncOperationResult:
        """Bring the files to the tenant, or the reverse.

        Raises: as `SyncService.sync_files`.
        """
        return self._service.sync_files()
