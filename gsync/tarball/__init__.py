"""A file tree as one `.tar.gz` and back (07-tarball). Pure but for the files handed in."""

from gsync.tarball.read import (
    HeldBack,
    TarballDamaged,
    TarballRead,
    TarballRefused,
    TarballTooLarge,
    TarLimits,
    read_tarball,
)
from gsync.tarball.write import TarballWritten, write_tarball

__all__ = [
    "HeldBack",
    "TarLimits",
    "TarballDamaged",
    "TarballRead",
    "TarballRefused",
    "TarballTooLarge",
    "TarballWritten",
    "read_tarball",
    "write_tarball",
]
