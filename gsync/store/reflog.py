"""The hash-chained ref log: entries, their bytes, the check of a chain (05-store, section 5)."""

from __future__ import annotations

from collections.abc import Sequence

from blake3 import blake3

from gsync.errors import Corrupt
from gsync.objects.encoding import NotCanonical, decode, encode
from gsync.objects.oid import OID_BYTES, ObjectId
from gsync.store.base import LogEntry, RefMove

ENTRY_BYTES_MAX = 4096
NO_HASH = bytes(32)
_CONTEXT = "gsync 2026 ref log v1"


class LogBroken(Corrupt):
    """A ref log does not hang together, or does not continue the one last seen."""


def next_entry(
    last: LogEntry | None, move: RefMove, *, time_us: int, actor: str, why: str
) -> LogEntry:
    """Return the entry that records `move` after `last`, or as the first of a log."""
    seq = last.seq + 1 if last else 1
    prev = last.hash if last else NO_HASH
    entry = LogEntry(seq, move.name, move.old, move.new, time_us, actor, why, prev, b"")
    return decode_entry(encode_entry(entry))


def encode_entry(entry: LogEntry) -> bytes:
    """Return the bytes of `entry`: what is hashed, stored and sent."""
    return encode(
        [
            1,
            entry.seq,
            entry.ref,
            entry.old,
            entry.new,
            entry.time_us,
            entry.actor,
            entry.why,
            entry.prev,
        ]
    )


def decode_entry(body: bytes) -> LogEntry:
    """Return the entry that `body` encodes, its hash computed.

    Raises:
        NotCanonical: it is no log entry of version 1.
    """
    match decode(body, ENTRY_BYTES_MAX):
        case [1, int(seq), str(ref), old, new, int(time_us), str(actor), str(why), bytes(prev)] if (
            seq >= 1 and len(prev) == 32
        ):
            digest = blake3(body, derive_key_context=_CONTEXT).digest()
            return LogEntry(seq, ref, _oid(old), _oid(new), time_us, actor, why, prev, digest)
    raise NotCanonical("ref log entry: not [1, seq, ref, old, new, time, actor, why, prev]")


def check_chain(entries: Sequence[LogEntry], last: LogEntry | None = None) -> None:
    """Raise LogBroken unless `entries` follow on `last` (None: on nothing) and on each other."""
    seq, prev = (last.seq, last.hash) if last else (0, NO_HASH)
    for entry in entries:
        if entry.seq != seq + 1 or entry.prev != prev:
            raise LogBroken(
                f"the ref log breaks at entry {entry.seq}: expected entry {seq + 1} after"
                f" {prev.hex()[:12]}, found one after {entry.prev.hex()[:12]}",
                hint="history was rewritten or damaged; compare with another copy before going on",
                seq=entry.seq,
            )
        seq, prev = entry.seq, entry.hash


def _oid(value: object) -> ObjectId | None:
    if value is None:
        return None
    if type(value) is not bytes or len(value) != OID_BYTES:
        raise NotCanonical("ref log entry: old or new is not a 32-byte id or nil")
    return ObjectId(value)
