"""Rows <-> bytes (11-rows, section 5)."""

from __future__ import annotations

from collections.abc import Callable

from gsync.objects.encoding import Reference

SpillContent = Callable[[bytes], Reference]
"""Keeps (or only names) a content that is too long for its row, and returns the reference."""

LoadContent = Callable[[Reference], bytes]
"""Returns a content that was spilled."""
