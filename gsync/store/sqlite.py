"""A store in one SQLite file: every promise of `base`, put together (spec/05-store.md).

`file` opens it, `bodies` and `reader` hold objects, `names` all else, `upkeep` looks after it
and `mend` repairs it.
"""

from __future__ import annotations

from gsync.store.mend import SqliteMend
from gsync.store.names import SqliteNames


class SqliteStore(SqliteMend, SqliteNames):
    """Objects, packs, refs, leases, sessions, state and remote logs in one file.

    Made by `create` or `open`. Usable from any thread, by one at a time. As a context it
    flushes at the end unless the block raised.
    """
