"""What to ask for next (06-wire, section 5). The caller carries the questions."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from typing import Protocol

from gsync.objects.model import references
from gsync.objects.oid import Kind, ObjectId, object_id
from gsync.objects.packs import unpack_objects
from gsync.protocol.frames import Frame, FrameType, StreamBroken, check_end, decode_pack
from gsync.store.base import PackStore
from gsync.transfer.receive import (
    Incomplete,
    Receiver,
    check_received_map,
    decode_manifests,
)

Want = tuple[Kind, ObjectId]


class Taker(Protocol):
    """Takes frames one by one: a receiver, or a journal before it."""

    def take(self, frame: Frame) -> None:
        """Check one frame and store what it brings."""
        ...


def take_stream(receiver: Taker, frames: Iterable[Frame]) -> int:
    """Take all frames of a stream up to its end; return how many there were.

    Raises:
        StreamBroken: it ends without an end frame, or with a wrong count.
    """
    count = 0
    for frame in frames:
        if frame.type is FrameType.END:
            check_end(frame, count)
            return count
        receiver.take(frame)
        count += 1
    raise StreamBroken(f"the stream was cut off after {count} frames")


def fetch_by_level(
    store: PackStore, receiver: Receiver, wants: Iterable[ObjectId], want_max: int
) -> Generator[list[Want], Iterable[Frame], None]:
    """Ask for what `wants` reach and is not here, one level of references at a time.

    For histories without a common manifest. Yields lists of at most `want_max` objects, and is
    sent the stream that answers. Manifests are stored last, parents first, each after the check
    of everything below it, so an interruption leaves no manifest without its contents.
    """
    received: set[ObjectId] = set()
    manifests: list[tuple[ObjectId, bytes]] = []
    todo: list[Want] = [(Kind.MANIFEST, oid) for oid in sorted(store.missing(wants))]
    asked = {oid for _, oid in todo}
    while todo:
        found: dict[ObjectId, Kind] = {}
        for start in range(0, len(todo), want_max):
            batch = todo[start : start + want_max]
            owed = {oid for _, oid in batch}
            for kind, body, oid in _bodies((yield batch), receiver):
                if oid not in owed:
                    raise StreamBroken(f"{kind.name.lower()} {oid.hex()} came unasked")
                owed.discard(oid)
                received.add(oid)
                if kind is Kind.MANIFEST:
                    manifests.append((oid, body))
                for below, inner in references(kind, body):
                    if inner not in asked and inner not in receiver.forgotten:
                        found[inner] = below
            if owed:
                raise Incomplete(batch[0][0], min(owed))
        todo = sorted(_absent(store, found, received, asked))
    for _, body in reversed(manifests):
        for kind, oid in references(Kind.MANIFEST, body):
            if kind is Kind.NODE:
                check_received_map(store, oid, received)
    _admit_in_order(store, receiver, manifests)


def _absent(
    store: PackStore,
    found: dict[ObjectId, Kind],
    received: set[ObjectId],
    asked: set[ObjectId],
) -> list[Want]:
    """Return what of `found` and below it is not here.

    Structure that is here may be what an interrupted attempt left, without what it refers to:
    it is walked, and checked like what is received now. A manifest that is here is complete.
    """
    absent: list[Want] = []
    while found:
        gone = store.missing(found)
        absent += [(found[oid], oid) for oid in gone]
        asked |= found.keys()
        below: dict[ObjectId, Kind] = {}
        for oid, kind in found.items():
            if oid not in gone and kind in (Kind.NODE, Kind.CHUNK_LIST):
                received.add(oid)
                for inner_kind, inner in references(kind, store.get(kind, oid)):
                    if inner not in asked:
                        below[inner] = inner_kind
        found = below
    return absent


def _admit_in_order(
    store: PackStore, receiver: Receiver, manifests: list[tuple[ObjectId, bytes]]
) -> None:
    waiting = dict(manifests)
    while waiting:
        ready = [
            (oid, body)
            for oid, body in waiting.items()
            if not any(
                inner in waiting
                for kind, inner in references(Kind.MANIFEST, body)
                if kind is Kind.MANIFEST
            )
        ]
        if not ready:
            raise StreamBroken("manifests that descend from each other in a circle")
        for oid, body in ready:
            receiver.admit(body)
            del waiting[oid]


def _bodies(frames: Iterable[Frame], receiver: Receiver) -> Iterator[tuple[Kind, bytes, ObjectId]]:
    """Yield what a stream of objects brings; packs are stored, manifests are only handed out."""
    count = 0
    for frame in frames:
        if frame.type is FrameType.END:
            check_end(frame, count)
            return
        count += 1
        if frame.type is FrameType.MANIFESTS:
            bodies, absent = decode_manifests(frame.body)
            receiver.believe_forgotten(bodies, absent)
            for body in bodies:
                yield Kind.MANIFEST, body, object_id(Kind.MANIFEST, body)
        else:
            receiver.take(frame)
            if frame.type is FrameType.PACK:
                for kind, body in unpack_objects(decode_pack(frame.body)):
                    yield kind, body, object_id(kind, body)
    raise StreamBroken(f"the stream was cut off after {count} frames")
