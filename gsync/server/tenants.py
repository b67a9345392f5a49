"""The open stores of tenants. One store is used by one request at a time, then by the next."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from gsync.errors import Conflict
from gsync.server.attached import Attached
from gsync.server.auth import make_private_directory
from gsync.store.sqlite import SqliteStore
from gsync.urls import check_tenant

IDLE_MAX = 32
"""Open stores that nobody uses: each holds some file handles."""

IDLE_PER_TENANT_MAX = 4

CACHE_KIB = 4096
"""Of pages and of packs that each open store keeps: a busy server has fifty, a command one."""


class Tenants:
    """Stores below one data directory, or in attached folders, by tenant.

    Usable from any thread.
    """

    def __init__(self, data: Path, attached: Mapping[str, Attached] | None = None) -> None:
        self.attached = attached or {}
        self._root = data / "tenants"
        self._lock = threading.Lock()
        # The tenant used last stands last.
        self._idle: OrderedDict[str, list[SqliteStore]] = OrderedDict()
        self._closed = False

    @contextmanager
    def store(self, tenant: str) -> Iterator[SqliteStore]:
        """Hand out a store of `tenant` for the block, made if the tenant has none.

        What was put and not flushed is given up when the block raises.
        """
        store = self._take(tenant)
        try:
            yield store
            # What idle stores would keep is many times what all else in the server needs.
            store.release_memory()
        except BaseException:
            store.close()
            raise
        self._give_back(tenant, store)

    def close(self) -> None:
        """Close the stores that nobody uses; the others are closed when they come back."""
        with self._lock:
            self._closed = True
            stores = [store for stores in self._idle.values() for store in stores]
            self._idle.clear()
        for store in stores:
            store.close()

    def _take(self, tenant: str) -> SqliteStore:
        with self._lock:
            idle = self._idle.get(tenant)
            if idle:
                return idle.pop()
        return self._open(tenant)

    def _give_back(self, tenant: str, store: SqliteStore) -> None:
        surplus: list[SqliteStore] = []
        with self._lock:
            idle = self._idle.setdefault(tenant, [])
            self._idle.move_to_end(tenant)
            if self._closed or len(idle) >= IDLE_PER_TENANT_MAX:
                surplus.append(store)
            else:
                idle.append(store)
            while sum(map(len, self._idle.values())) > IDLE_MAX:
                surplus += self._idle.popitem(last=False)[1]
        for other in surplus:
            other.close()

    def _open(self, tenant: str) -> SqliteStore:
        check_tenant(tenant)
        if tenant in self.attached:
            return _limited(SqliteStore.open(self.attached[tenant].store))
        path = self._root / tenant / "store.db"
        if not path.exists():
            make_private_directory(self._root)
            make_private_directory(path.parent)
            with self._lock:
                if not path.exists():
                    try:
                        return _limited(SqliteStore.create(path))
                    except Conflict:
                        pass  # another process was first
        return _limited(SqliteStore.open(path))


def _limited(store: SqliteStore) -> SqliteStore:
    store.limit_cache(CACHE_KIB)
    return store
