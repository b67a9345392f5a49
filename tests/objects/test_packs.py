"""Packs that lie about their size."""

from __future__ import annotations

import tracemalloc

import pytest
import zstandard

from gsync.objects.packs import PackCorrupt, decompress


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    """64 MiB in a few KB are refused by what their frame announces, without the memory."""
    compressor = zstandard.ZstdCompressor().compressobj(size=1 << 26)
    pieces = [compressor.compress(bytes(1 << 20)) for _ in range(64)]
    bomb = b"".join([*pieces, compressor.flush()])
    assert len(bomb) < 10_000
    tracemalloc.start()
    try:
        with pytest.raises(PackCorrupt, match="announces 67108864 bytes, where 1000 may come"):
            decompress(bomb, 1000)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
