"""A store in memory: the second implementation of every promise in `base`, and of use in tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from gsync.errors import TooLarge
from gsync.frozen import replace
from gsync.objects.model import BODY_BYTES_MAX
from gsync.objects.oid import Kind, ObjectId, object_id
from gsync.objects.packs import OBJECTS_MAX, Pack, group_objects, pack_objects, unpack_objects
from gsync.store.base import LogEntry, ObjectMissing, RefMove, RefMoved
from gsync.store.reflog import next_entry


class MemoryStore:
    """Objects, refs, leases, sessions, state and remote logs in dictionaries.

    Attributes:
        reads: How many bodies were read, for tests that bound work.
        writes: How many new bodies were put.
    """

    def __init__(self) -> None:
        self.reads = 0
        self.writes = 0
        self._bodies: dict[ObjectId, tuple[Kind, bytes]] = {}
        self._refs: dict[str, ObjectId] = {}
        self._log: list[LogEntry] = []
        self._leases: dict[str, tuple[set[ObjectId], int]] = {}
        self._frames: dict[str, set[bytes]] = {}
        self._state: dict[str, bytes] = {}
        self._tracking: dict[str, dict[str, ObjectId]] = {}
        self._remote_logs: dict[str, list[LogEntry]] = {}

    # Objects

    def get(self, kind: Kind, oid: ObjectId) -> bytes:
        self.reads += 1
        found = self._bodies.get(oid)
        if found is None or found[0] is not kind:
            raise ObjectMissing(kind, oid)
        return found[1]

    def get_many(self, wanted: Sequence[tuple[Kind, ObjectId]]) -> Iterator[tuple[ObjectId, bytes]]:
        for kind, oid in dict.fromkeys(wanted):
            yield oid, self.get(kind, oid)

    def missing(self, oids: Iterable[ObjectId]) -> set[ObjectId]:
        return {oid for oid in oids if oid not in self._bodies}

    def put(self, kind: Kind, body: bytes, near: ObjectId | None = None) -> ObjectId:
        if len(body) > BODY_BYTES_MAX[kind]:
            raise TooLarge(f"a {kind.name.lower()} of {len(body)} bytes")
        oid = object_id(kind, body)
        if oid not in self._bodies:
            self.writes += 1
            self._bodies[oid] = (kind, body)
        return oid

    def flush(self) -> None:
        """Nothing to do: what is in memory is as durable as it gets."""

    # Packs

    def put_pack(self, pack: Pack) -> list[ObjectId]:
        if len(pack.sizes) > OBJECTS_MAX:
            raise TooLarge(f"a pack of {len(pack.sizes)} objects, where {OBJECTS_MAX} may come")
        objects = unpack_objects(pack)
        if any(len(body) > BODY_BYTES_MAX[kind] for kind, body in objects):
            raise TooLarge("a pack holds an object that is larger than its kind may be")
        return [self.put(kind, body) for kind, body in objects]

    def export_packs(self, wanted: Sequence[tuple[Kind, ObjectId]]) -> Iterator[Pack]:
        bodies = ((kind, self.get(kind, oid)) for kind, oid in dict.fromkeys(wanted))
        yield from map(pack_objects, group_objects(bodies))

    def sizes(self, kind: Kind, oids: Iterable[ObjectId]) -> dict[ObjectId, int]:
        found = {oid: self._bodies[oid] for oid in oids if oid in self._bodies}
        return {oid: len(body) for oid, (stored, body) in found.items() if stored is kind}

    # Refs

    def find_ref(self, name: str) -> ObjectId | None:
        return self._refs.get(name)

    def list_refs(self) -> dict[str, ObjectId]:
        return dict(sorted(self._refs.items()))

    def move_refs(
        self,
        moves: Sequence[RefMove],
        *,
        time_us: int,
        actor: str,
        why: str,
        states: Mapping[str, bytes | None] | None = None,
        tracking: Mapping[str, Mapping[str, ObjectId]] | None = None,
    ) -> list[LogEntry]:
        for move in moves:
            if self._refs.get(move.name) != move.old:
                raise RefMoved(move.name, move.old, self._refs.get(move.name))
        entries = []
        for move in moves:
            last = self._log[-1] if self._log else None
            entry = next_entry(last, move, time_us=time_us, actor=actor, why=why)
            self._log.append(entry)
            entries.append(entry)
            if move.new is None:
                self._refs.pop(move.name, None)
            else:
                self._refs[move.name] = move.new
        self.set_states(states or {})
        for remote, seen in (tracking or {}).items():
            self.set_tracking(remote, seen)
        return entries

    def list_log(self, after: int = 0, limit: int | None = None) -> list[LogEntry]:
        entries = [entry for entry in self._log if entry.seq > after]
        return entries if limit is None else entries[:limit]

    def last_log_entry(self) -> LogEntry | None:
        return self._log[-1] if self._log else None

    # Leases and sessions

    def grant_lease(self, session: str, oids: Iterable[ObjectId], expires_us: int) -> None:
        held, _ = self._leases.get(session, (set(), 0))
        self._leases[session] = (held | set(oids), expires_us)

    def drop_lease(self, session: str) -> None:
        self._leases.pop(session, None)

    def leased(self, now_us: int) -> set[ObjectId]:
        live = [oids for oids, expires_us in self._leases.values() if expires_us > now_us]
        return set().union(*live)

    def pinned(self, now_us: int) -> set[ObjectId]:
        return set()

    def frames_of(self, session: str) -> set[bytes]:
        return set(self._frames.get(session, ()))

    def add_frames(
        self,
        session: str,
        frames: Iterable[bytes],
        now_us: int,
        *,
        expires_us: int | None = None,
        states: Mapping[str, bytes | None] | None = None,
    ) -> None:
        self._frames.setdefault(session, set()).update(frames)
        if expires_us is not None:
            self.grant_lease(session, (), expires_us)
        self.set_states(states or {})

    def end_session(self, session: str) -> None:
        self._frames.pop(session, None)

    def renew(self) -> None:
        """Nothing to do: nobody else changes what is in memory."""

    def collections(self) -> int:
        return 0

    # State

    def get_state(self, name: str) -> bytes | None:
        return self._state.get(name)

    def set_states(self, values: Mapping[str, bytes | None]) -> None:
        for name, value in values.items():
            if value is None:
                self._state.pop(name, None)
            else:
                self._state[name] = value

    def list_states(self, prefix: str) -> dict[str, bytes]:
        return {n: self._state[n] for n in sorted(self._state) if n.startswith(prefix)}

    # Remotes

    def tracking(self, remote: str) -> dict[str, ObjectId]:
        return dict(self._tracking.get(remote, {}))

    def set_tracking(
        self,
        remote: str,
        refs: Mapping[str, ObjectId],
        states: Mapping[str, bytes | None] | None = None,
    ) -> None:
        self._tracking[remote] = dict(refs)
        self.set_states(states or {})

    def remote_log(self, remote: str, after: int = 0) -> list[LogEntry]:
        return [entry for entry in self._remote_logs.get(remote, []) if entry.seq > after]

    def append_remote_log(self, remote: str, entries: Sequence[LogEntry]) -> None:
        self._remote_logs.setdefault(remote, []).extend(replace(entry) for entry in entries)

    def drop_remote(self, remote: str) -> None:
        self._tracking.pop(remote, None)
        self._remote_logs.pop(remote, None)
