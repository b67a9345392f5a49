"""What a server keeps in memory between requests."""

from __future__ import annotations

import random
import tracemalloc
from contextlib import ExitStack
from pathlib import Path

from gsync.objects.oid import Kind, ObjectId
from gsync.server.tenants import CACHE_KIB, Tenants

BODIES = 128
BODY_BYTES = 64 << 10


def test_stores_that_rest_hold_no_memory(tmp_path: Path) -> None:
    tenants = Tenants(tmp_path)
    source = random.Random(3)
    with tenants.store("ann") as store:
        oids = [store.put(Kind.BLOB, source.randbytes(BODY_BYTES)) for _ in range(BODIES)]
        store.flush()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        busy = _read_in_four(tenants, oids) - before
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        tenants.close()
    # While they work, each of the four keeps the packs that it unpacked last.
    assert 3 * (CACHE_KIB << 10) < busy < 5 * (CACHE_KIB << 10)
    assert after - before < 1 << 20


def _read_in_four(tenants: Tenants, oids: list[ObjectId]) -> int:
    """Read everything in four stores at once; return the bytes held before they rest."""
    with ExitStack() as stack:
        for store in [stack.enter_context(tenants.store("ann")) for _ in range(4)]:
            for oid in oids:
                store.get(Kind.BLOB, oid)
        return tracemalloc.get_traced_memory()[0]


def test_a_store_that_rested_goes_on(tmp_path: Path) -> None:
    tenants = Tenants(tmp_path)
    with tenants.store("ann") as store:
        first = store.put(Kind.BLOB, b"one")
        store.flush()
    with tenants.store("ann") as again:
        assert again is store
        assert again.get(Kind.BLOB, first) == b"one"
        assert again.put(Kind.BLOB, b"one") == first
        again.flush()
    tenants.close()
