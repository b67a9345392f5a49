"""Names that refs and tags may have (spec/06-wire.md, section 7)."""

from __future__ import annotations

import re

from gsync.errors import Invalid

_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_HEX_ONLY = re.compile(r"[0-9a-fA-F]+")
_TAKEN = frozenset({"main", "HEAD", "deploy", "tags"})


def check_tag_name(name: str) -> None:
    """Raise Invalid unless `name` may name a tag: not an id's digits, nor another ref's name."""
    if not _TAG.fullmatch(name) or name in _TAKEN or _HEX_ONLY.fullmatch(name):
        raise Invalid(
            f"not a tag's name: {name[:80]!r}; expected letters, digits, '.', '_' and '-', at most"
            " 63, not hex digits alone, and not main, HEAD, deploy or tags"
        )
