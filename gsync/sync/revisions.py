"""What the user calls a manifest -> its id (spec/10-cli.md, revisions)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol

from gsync.errors import Invalid, NotFound
from gsync.objects.oid import Kind, ObjectId
from gsync.store.base import LogEntry, ObjectReader, Refs, RemoteLogs
from gsync.transfer.history import get_manifest

PREFIX_DIGITS_MIN = 4
_HEX = re.compile(r"[0-9a-f]{4,64}")
_STEPS = re.compile(r"(.*?)((?:~[0-9]*|\^)*)", re.DOTALL)
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class RevisionStore(ObjectReader, Refs, RemoteLogs, Protocol):
    """What resolving a revision takes."""

    def find_ids(self, kind: Kind, prefix: str, limit: int = 2) -> list[ObjectId]:
        """Return ids of that kind whose hex form begins with `prefix`."""
        ...


def resolve(store: RevisionStore, text: str) -> ObjectId:
    """Return the manifest that `text` names.

    Raises:
        NotFound: nothing is called so.
        Invalid: a prefix that is ambiguous or too short, or a malformed time.
    """
    if not text.isprintable():
        raise NotFound(f"no revision {text!r}")
    base, _, when = text.partition("@")
    match = _STEPS.fullmatch(base)
    assert match is not None
    name, steps = match.groups()
    name = name or "HEAD"
    oid = _at(store, name, parse_time(when)) if when else _named(store, name)
    for step in re.findall(r"~[0-9]*|\^", steps):
        count = int(step[1:] or 1) if step[0] == "~" else 1
        for _ in range(count):
            parents = get_manifest(store, oid).parents
            if not parents:
                raise NotFound(f"no manifest {text}: history ends at {oid.hex()[:12]}")
            oid = parents[0]
    return oid


def parse_time(text: str, *, day_start: bool = False) -> int:
    """Return microseconds since 1970 for an ISO 8601 time; without a zone it is UTC.

    A date alone means the end of that day, so that `@2026-01-05` is what was current when
    the 5th was over; or its start, where a range begins with it.

    Raises:
        Invalid: it is no such time.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Invalid(
            f"not a time: {text!r}; expected YYYY-MM-DD or YYYY-MM-DDTHH:MM[:SS][+HH:MM]"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    if _DAY.fullmatch(text) and not day_start:
        moment += timedelta(days=1) - timedelta(microseconds=1)
    return int((moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1))


def find_ref_name(store: Refs, name: str) -> str | None:
    """Return the full name of the local ref that `name` means: itself, or a tag."""
    name = "main" if name == "HEAD" else name
    for full in (name, f"tags/{name}"):
        if store.find_ref(full) is not None:
            return full
    return None


def _named(store: RevisionStore, name: str) -> ObjectId:
    ref = find_ref_name(store, name)
    if ref is not None:
        oid = store.find_ref(ref)
        assert oid is not None
        return oid
    if name == "HEAD":
        raise NotFound("there is no snapshot yet", hint="make the first with 'gsync snapshot'")
    remote, _, rest = name.partition("/")
    if rest:
        tracked = store.tracking(remote)
        for full in (rest, f"tags/{rest}"):
            if full in tracked:
                return tracked[full]
    if _HEX.fullmatch(name):
        return _by_prefix(store, name)
    raise NotFound(
        f"no revision {name!r}: expected a ref, a tag, REMOTE/REF, HEAD, or an id's first digits",
        hint="'gsync refs' and 'gsync log' list what there is",
    )


def _by_prefix(store: RevisionStore, prefix: str) -> ObjectId:
    found = store.find_ids(Kind.MANIFEST, prefix)
    if not found:
        raise NotFound(f"no manifest whose id begins with {prefix}")
    if len(found) > 1:
        raise Invalid(
            f"{prefix} is ambiguous: {found[0].hex()} and {found[1].hex()} begin so",
            hint="give more digits",
        )
    return found[0]


def _at(store: RevisionStore, name: str, time_us: int) -> ObjectId:
    entries, ref = _log_of(store, name)
    current = None
    for entry in entries:
        if entry.ref == ref and entry.time_us <= time_us:
            current = entry.new
    if current is None:
        raise NotFound(
            f"the log of {name} says of no manifest at that time",
            hint=f"'gsync reflog {name}' lists when it moved",
        )
    return current


def _log_of(store: RevisionStore, name: str) -> tuple[Sequence[LogEntry], str]:
    ref = find_ref_name(store, name)
    if ref is not None:
        return store.list_log(), ref
    remote, _, rest = name.partition("/")
    entries = store.remote_log(remote)
    names = {entry.ref for entry in entries}
    for full in (rest, f"tags/{rest}"):
        if full in names:
            return entries, full
    dropped = "main" if name == "HEAD" else name
    return store.list_log(), dropped
