"""Object ids: 32 bytes of BLAKE3, one derivation per kind (01-ids-and-encoding, section 2)."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import NewType

from blake3 import blake3

from gsync.errors import Invalid

ObjectId = NewType("ObjectId", bytes)
"""The 32 bytes of an id. Shown to people as 64 lower-case hex digits."""

OID_BYTES = 32


class Kind(IntEnum):
    """What an object is. The numbers are part of the format."""

    BLOB = 1
    CHUNK_LIST = 2
    NODE = 3
    MANIFEST = 4
    SCHEMA = 5
    VIEW = 6


# A blob's id has no context: `b3sum FILE` prints it. All structure has one, so no
# file can pose as structure (01-ids-and-encoding, rule 2).
CONTEXTS: dict[Kind, str] = {
    Kind.CHUNK_LIST: "gsync 2026 chunk list v1",
    Kind.NODE: "gsync 2026 map node v1",
    Kind.MANIFEST: "gsync 2026 manifest v1",
    Kind.SCHEMA: "gsync 2026 schema v1",
    Kind.VIEW: "gsync 2026 view v1",
}

_NEW_HASHER: dict[Kind, Callable[[], blake3]] = {
    kind: blake3(derive_key_context=context).copy for kind, context in CONTEXTS.items()
}


class InvalidId(Invalid):
    """A text is not the hex form of an id."""


def object_id(kind: Kind, body: bytes) -> ObjectId:
    """Return the id of `body` as an object of `kind`; about 1 µs and 4 GB/s."""
    if kind is Kind.BLOB:
        return ObjectId(blake3(body).digest())
    hasher = _NEW_HASHER[kind]()
    hasher.update(body)
    return ObjectId(hasher.digest())


def blob_id(body: bytes) -> ObjectId:
    """Return the plain BLAKE3 of `body`."""
    return ObjectId(blake3(body).digest())


def parse_oid(text: str) -> ObjectId:
    """Return the id that 64 lower-case hex digits name, or raise InvalidId."""
    if len(text) == 2 * OID_BYTES and not set(text) - set("0123456789abcdef"):
        return ObjectId(bytes.fromhex(text))
    raise InvalidId(f"not an object id: expected 64 lower-case hex digits, found {text[:80]!r}")
