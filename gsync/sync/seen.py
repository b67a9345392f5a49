"""What tables were when they were last read whole, so that one that did not change is not read.

A state of the store for each table, beside its mark (12-databases, section 3.1). It is a cache: it
may be absent, and what it says counts only where everything else about the table is as it was.
"""

from __future__ import annotations

from dataclasses import dataclass

from gsync.frozen import replace
from gsync.objects.encoding import NotCanonical, decode_trusted, encode
from gsync.objects.model import Collection
from gsync.objects.oid import Kind, ObjectId, object_id
from gsync.replicas.tables.base import Database, Fingerprint, Session, TablePlan
from gsync.replicas.tables.scan import Since, find_since
from gsync.store.base import ObjectReader, State
from gsync.views.rows.schema import encode_schema, encode_view

USES_MAX = 20
AGE_MAX_US = 7 * 86_400 * 1_000_000
"""After so many uses, or so long, a table is read again whatever its fingerprint says: that rests
on how databases work, which is worth a look now and then."""

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Seen:
    """A table as it was when its rows were read.

    Attributes:
        shown: Where it was.
        collection: What it was recorded as: root, count, schema and view.
        fingerprint: What its rows are known by.
        read_us: When, in microseconds since 1970.
        uses: How often it has saved a reading since.
    """

    shown: str
    collection: Collection
    fingerprint: Fingerprint
    read_us: int
    uses: int = 0

    def holds_for(self, now: Seen, base: Collection) -> bool:
        """Return whether it can say something of the table that is `now` so, against `base`."""
        return (
            self.collection == base == now.collection
            and self.shown == now.shown
            and self.uses < USES_MAX
            and 0 <= now.read_us - self.read_us < AGE_MAX_US
        )

    def shows_unchanged(self, now: Seen, base: Collection) -> bool:
        """Return whether the table that is `now` so still has the rows of `base`."""
        return self.holds_for(now, base) and now.fingerprint.proves(self.fingerprint)

    def find_since(
        self, session: Session, plan: TablePlan, now: Seen, base: Collection, store: ObjectReader
    ) -> Since | None:
        """Return what is new in the table since it had the rows of `base`, if that can be told."""
        if not self.holds_for(now, base) or not now.fingerprint.continues(self.fingerprint):
            return None
        return find_since(
            session, plan, base.root, base.count, self.fingerprint, now.fingerprint, store
        )


def seen_name(collection: str) -> str:
    """Return the state that keeps what was seen of a table."""
    return f"seen {collection}"


def see(
    database: Database, plan: TablePlan, base: Collection, fingerprint: Fingerprint, now_us: int
) -> Seen:
    """Return what a live table is now, if it has the rows of `base`."""
    schema = object_id(Kind.SCHEMA, encode_schema(plan.schema))
    view = object_id(Kind.VIEW, encode_view(plan.view))
    found = replace(base, schema=schema, view=view)
    return Seen(database.shown, found, fingerprint, now_us)


def find_seen(store: State, name: str) -> Seen | None:
    """Return what was seen last of the table that is recorded as `name`, if that is known."""
    body = store.get_state(seen_name(name))
    if body is None:
        return None
    try:
        format_, shown, root, count, schema, view, print_, read_us, uses = decode_trusted(body)
        fingerprint = Fingerprint(*print_)
    except (NotCanonical, ValueError, TypeError):
        return None
    if format_ != _FORMAT:
        return None
    collection = Collection(name, ObjectId(root), count, ObjectId(schema), ObjectId(view))
    return Seen(shown, collection, fingerprint, read_us, uses)


def encode_seen(seen: Seen) -> bytes:
    """Return the state that keeps it."""
    found = seen.collection
    return encode(
        [_FORMAT, seen.shown, found.root, found.count, found.schema, found.view]
        + [list(seen.fingerprint), seen.read_us, seen.uses]
    )
