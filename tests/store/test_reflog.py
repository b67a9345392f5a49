"""The chain of the ref log: no entry can be altered, left out or moved unseen."""

from __future__ import annotations

import pytest

from gsync.frozen import replace
from gsync.objects.oid import blob_id
from gsync.store.base import LogEntry, RefMove
from gsync.store.reflog import LogBroken, check_chain, decode_entry, encode_entry, next_entry

IDS = [blob_id(b"%d" % n) for n in range(6)]


def chain() -> list[LogEntry]:
    entries: list[LogEntry] = []
    for old, new in zip([None, *IDS], IDS, strict=False):
        last = entries[-1] if entries else None
        entries.append(next_entry(last, RefMove("main", old, new), time_us=7, actor="me", why="w"))
    return entries


def altered(entry: LogEntry, **values: object) -> LogEntry:
    """The entry with other values and the hash that its bytes then have."""
    return decode_entry(encode_entry(replace(entry, **values)))


@pytest.mark.parametrize("values", [{"why": "x"}, {"actor": "x"}, {"time_us": 8}, {"new": None}])
def test_an_altered_entry_breaks_the_chain(values: dict[str, object]) -> None:
    """Each entry but the last is held by the hash in the next, whatever is altered in it."""
    entries = chain()
    check_chain(entries)
    for at in range(len(entries) - 1):
        broken = [*entries[:at], altered(entries[at], **values), *entries[at + 1 :]]
        with pytest.raises(LogBroken):
            check_chain(broken)


def test_a_chain_without_one_or_in_another_order_is_broken() -> None:
    entries = chain()
    for at in range(len(entries) - 1):
        with pytest.raises(LogBroken):
            check_chain(entries[:at] + entries[at + 1 :])
    with pytest.raises(LogBroken):
        check_chain([entries[1], entries[0], *entries[2:]])


def test_a_chain_goes_on_from_the_last_that_was_seen() -> None:
    """What follows an entry follows no other, with the same number or not."""
    entries = chain()
    check_chain(entries[3:], entries[2])
    for last in (None, entries[1], entries[3], altered(entries[2], why="x")):
        with pytest.raises(LogBroken):
            check_chain(entries[3:], last)
