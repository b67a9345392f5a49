"""The names of the older system, over what gsync has (spec/seed-names.md).

What stands here is a face: nothing is kept, decided or sent by it.
"""

from __future__ import annotations

from pathlib import Path

from gsync.remotes.older import RetryConfig
from gsync.sync.controlplane import (
    DeployResponse,
    RegistryToken,
    SyncApiClient,
    UploadResponse,
    exchange_subject_token,
    exchange_subject_token_at,
)
from gsync.sync.exports import ContextExport, DatabaseExport, ImportResult, UserExport
from gsync.sync.olderfiles import (
    FileBundle,
    FileDiffStatus,
    FileEntry,
    FileManifest,
    PullDownload,
    SyncDiffEntry,
    SyncDiffResult,
)
from gsync.sync.olderlocal import (
    AccessControlLocalSync,
    AccessControlSyncJob,
    ContentDiffCalculator,
    ContentDiffEntry,
    ContentDiffItem,
    ContentDiffResult,
    ContentLocalSync,
    ContentSyncJob,
    DiffStatus,
    DiskContent,
    LocalSyncDirection,
    LocalSyncResult,
    compute_content_hash,
    escape_yaml,
    export_content_to_file,
    generate_content_markdown,
)
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
    "AccessControlLocalSync",
    "AccessControlSyncJob",
    "ContentDiffCalculator",
    "ContentDiffEntry",
    "ContentDiffItem",
    "ContentDiffResult",
    "ContentLocalSync",
    "ContentSyncJob",
    "DiffStatus",
    "DiskContent",
    "LocalSyncDirection",
    "LocalSyncResult",
    "compute_content_hash",
    "escape_yaml",
    "export_content_to_file",
    "generate_content_markdown",
    "FileBundle",
    "FileDiffStatus",
    "FileEntry",
    "FileManifest",
    "PullDownload",
    "SyncDiffEntry",
    "SyncDiffResult",
    "ApiError",
    "ContextExport",
    "DatabaseExport",
    "DatabaseSyncService",
    "DeployResponse",
    "FileSyncService",
    "ImportResult",
    "InvalidInput",
    "MissingConfig",
    "RegistryToken",
    "RetryConfig",
    "SyncApiClient",
    "SyncConfig",
    "SyncConfigBuilder",
    "SyncDirection",
    "SyncError",
    "SyncOpState",
    "SyncOperationResult",
    "SyncResult",
    "SyncService",
    "Unauthorized",
    "UploadResponse",
    "UserExport",
    "exchange_subject_token",
    "exchange_subject_token_at",
]

SyncResult = SyncOperationResult
"""What calls return, under the name that scripts know; errors are raised."""


class FileSyncService:
    """The files alone of a `SyncService`."""

    def __init__(self, config: SyncConfig) -> None:
        self._service = SyncService(config)

    def sync(self) -> SyncOperationResult:
        """Bring the files to the tenant, or the reverse.

        Raises: as `SyncService.sync_files`.
        """
        return self._service.sync_files()


class DatabaseSyncService:
    """Users and contexts between two databases.

    Args:
        services_path: The folder whose repository remembers what both agreed on last; it is made
            there unless this is a dry run.
    """

    def __init__(
        self,
        direction: SyncDirection,
        dry_run: bool,
        local_database_url: str,
        cloud_database_url: str,
        services_path: str | Path = ".",
    ) -> None:
        self._service = SyncService(
            SyncConfig("", "", "", services_path)
            .with_direction(direction)
            .with_dry_run(dry_run)
            .with_local_database_url(local_database_url)
            .with_tenant_database_url(cloud_database_url)
        )

    def sync(self) -> SyncOperationResult:
        """Bring the rows from one to the other, all or none.

        Raises: as `SyncService.sync_database`.
        """
        return self._service.sync_database()
