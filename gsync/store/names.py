"""What a store keeps beside objects: refs and their log, leases, sessions, state, remotes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gsync.errors import Unavailable
from gsync.objects.encoding import NotCanonical
from gsync.objects.oid import OID_BYTES, Kind, ObjectId
from gsync.store.base import LogEntry, RefMove, RefMoved
from gsync.store.file import SqliteFile
from gsync.store.reader import in_lists
from gsync.store.reflog import decode_entry, encode_entry, next_entry
from gsync.store.sql import StoreDamaged


class CollectedMeanwhile(Unavailable):
    """Objects were dropped between putting and moving; what was found present may be gone."""

    def __init__(self) -> None:
        super().__init__(
            "a garbage collection ran while objects were being written; no ref was moved",
            hint="run the command again",
        )


class SqliteNames(SqliteFile):
    """Refs, Leases, Sessions, State, RemoteLogs and the stat cache in one file.

    Whatever may be a new root for garbage collection counts up `roots`, so that a collection
    that began before can tell (05-store, section 7).
    """

    # Refs

    def find_ref(self, name: str) -> ObjectId | None:
        rows = self._select("SELECT target FROM ref WHERE name = ?", name)
        return self._oid("ref", rows[0][0]) if rows else None

    def list_refs(self) -> dict[str, ObjectId]:
        rows = self._select("SELECT name, target FROM ref ORDER BY name")
        return {str(name): self._oid("ref", target) for name, target in rows}

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
        self.flush()
        with self._writing("moving refs") as db:
            self.check_collections()
            refs = self.list_refs()
            for move in moves:
                if refs.get(move.name) != move.old:
                    raise RefMoved(move.name, move.old, refs.get(move.name))
            entries = self._append_log(moves, time_us, actor, why)
            db.run_many("DELETE FROM ref WHERE name = ?", [(move.name,) for move in moves])
            # Of two moves of one ref the later one holds.
            targets = {move.name: move.new for move in moves}
            db.run_many(
                "INSERT INTO ref (name, target) VALUES (?, ?)",
                [(name, new) for name, new in targets.items() if new is not None],
            )
            self._save("state", "name", "value", states or {})
            for remote, seen in (tracking or {}).items():
                self._replace_tracking(remote, seen)
            self._count_up("roots")
        self._collections_seen = None
        return entries

    def list_log(self, after: int = 0, limit: int | None = None) -> list[LogEntry]:
        rows = self._select(
            "SELECT entry FROM ref_log WHERE seq > ? ORDER BY seq LIMIT ?",
            after,
            -1 if limit is None else limit,
        )
        return [self._entry(entry) for (entry,) in rows]

    def last_log_entry(self) -> LogEntry | None:
        rows = self._select("SELECT entry FROM ref_log ORDER BY seq DESC LIMIT 1")
        return self._entry(rows[0][0]) if rows else None

    def _append_log(
        self, moves: Sequence[RefMove], time_us: int, actor: str, why: str
    ) -> list[LogEntry]:
        last = self.last_log_entry()
        entries: list[LogEntry] = []
        for move in moves:
            last = next_entry(last, move, time_us=time_us, actor=actor, why=why)
            entries.append(last)
        self._db.run_many(
            "INSERT INTO ref_log (seq, entry, hash, ref, old, new, time_us, actor, why)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (e.seq, encode_entry(e), e.hash, e.ref, e.old, e.new, e.time_us, e.actor, e.why)
                for e in entries
            ],
        )
        return entries

    def check_collections(self) -> None:
        """Raise CollectedMeanwhile if what was found present while putting may be gone."""
        seen = self._collections_seen
        if seen is not None and self._counter("collections") != seen:
            self._collections_seen = None
            raise CollectedMeanwhile

    def _entry(self, body: bytes) -> LogEntry:
        try:
            return decode_entry(body)
        except (NotCanonical, TypeError) as error:
            raise StoreDamaged(f"{self.path} is damaged: a log holds what is no entry") from error

    def _oid(self, table: str, value: object) -> ObjectId:
        if type(value) is not bytes or len(value) != OID_BYTES:
            raise StoreDamaged(f"{self.path} is damaged: a row of {table} holds no id")
        return ObjectId(value)

    # Leases and sessions

    def grant_lease(self, session: str, oids: Iterable[ObjectId], expires_us: int) -> None:
        with self._writing("granting a lease") as db:
            db.query(
                "INSERT INTO session (session, floor, expires_us) VALUES (?, ?, ?)"
                " ON CONFLICT (session) DO UPDATE SET expires_us = excluded.expires_us",
                (session, self._counter("objects"), expires_us),
            )
            db.query("UPDATE lease SET expires_us = ? WHERE session = ?", (expires_us, session))
            db.run_many(
                "INSERT OR REPLACE INTO lease (session, oid, expires_us) VALUES (?, ?, ?)",
                [(session, oid, expires_us) for oid in oids],
            )
            self._count_up("roots")

    def drop_lease(self, session: str) -> None:
        with self._writing("dropping a lease") as db:
            db.query("DELETE FROM lease WHERE session = ?", (session,))
            db.query("DELETE FROM session WHERE session = ?", (session,))

    def leased(self, now_us: int) -> set[ObjectId]:
        rows = self._select(
            "SELECT DISTINCT l.oid FROM lease l LEFT JOIN object o ON o.oid = l.oid"
            " WHERE l.expires_us > ? AND ifnull(o.kind, ?) = ?",
            now_us,
            int(Kind.MANIFEST),
            int(Kind.MANIFEST),
        )
        return {ObjectId(oid) for (oid,) in rows}

    def pinned(self, now_us: int) -> set[ObjectId]:
        rows = self._select(
            "SELECT DISTINCT l.oid FROM lease l JOIN object o ON o.oid = l.oid"
            " WHERE l.expires_us > ? AND o.kind <> ?",
            now_us,
            int(Kind.MANIFEST),
        )
        return {ObjectId(oid) for (oid,) in rows}

    def frames_of(self, session: str) -> set[bytes]:
        rows = self._select("SELECT frame FROM session_frame WHERE session = ?", session)
        return {frame for (frame,) in rows}

    def add_frames(
        self,
        session: str,
        frames: Iterable[bytes],
        now_us: int,
        *,
        expires_us: int | None = None,
        states: Mapping[str, bytes | None] | None = None,
    ) -> None:
        self.flush()  # a frame that is remembered is never sent again
        found, self._found = self._found, None if self._found is None else set()
        collections, self._found_from = self._found_from, None
        with self._writing("noting frames") as db:
            now = self._counter("collections")
            if collections not in (None, now):
                raise CollectedMeanwhile
            db.run_many(
                "INSERT OR IGNORE INTO session_frame (session, frame, time_us) VALUES (?, ?, ?)",
                [(session, frame, now_us) for frame in frames],
            )
            self._pin(session, found or (), now_us, expires_us)
            self._save("state", "name", "value", states or {})
        self._found_from = None if found is None else now

    def _pin(
        self, session: str, oids: Iterable[ObjectId], now_us: int, expires_us: int | None
    ) -> None:
        """Pin those of `oids` that the floor of the session does not keep; prolong its lease.

        Only what may be new to a collection that runs counts as a new root: with a lease that is
        merely prolonged, no collection would ever end beside a long transfer.
        """
        rows = self._select("SELECT floor, expires_us FROM session WHERE session = ?", session)
        if not rows:
            return
        floor, until_us = rows[0]
        expires_us = max(until_us, expires_us or 0)
        below = [
            (session, oid, expires_us)
            for some, marks in in_lists(sorted(oids))
            for (oid,) in self._db.query(
                f"SELECT oid FROM object WHERE id <= {floor} AND oid IN ({marks})", some
            )
        ]
        for table in ("session", "lease"):
            self._db.query(
                f"UPDATE {table} SET expires_us = ? WHERE session = ?", (expires_us, session)
            )
        self._db.run_many(
            "INSERT OR REPLACE INTO lease (session, oid, expires_us) VALUES (?, ?, ?)", below
        )
        if below or until_us <= now_us:
            self._count_up("roots")

    def end_session(self, session: str) -> None:
        with self._writing("ending a session") as db:
            db.query("DELETE FROM session_frame WHERE session = ?", (session,))
        self._found = self._found_from = None

    def renew(self) -> None:
        self.flush()
        self._collections_seen = None
        self._found = set()
        self._found_from = self._counter("collections")

    def collections(self) -> int:
        """Return how many garbage collections there were."""
        return self._counter("collections")

    def drop_expired(self, now_us: int) -> None:
        """Forget the sessions that have expired, and the frames that they delivered.

        Comes before a collection works out what to keep: a session that lives on afterwards
        lives on in its mark too.
        """
        with self._writing("ending old sessions") as db:
            db.query("DELETE FROM lease WHERE expires_us <= ?", (now_us,))
            db.query("DELETE FROM session WHERE expires_us <= ?", (now_us,))
            db.query("DELETE FROM session_frame WHERE session NOT IN (SELECT session FROM session)")
            db.query(
                "DELETE FROM state WHERE name LIKE 'transfer %'"
                " AND substr(name, 10) NOT IN (SELECT session FROM session)"
            )

    # State

    def get_state(self, name: str) -> bytes | None:
        rows = self._select("SELECT value FROM state WHERE name = ?", name)
        return rows[0][0] if rows else None

    def set_states(self, values: Mapping[str, bytes | None]) -> None:
        with self._writing("saving state"):
            self._save("state", "name", "value", values)
            self._count_up("roots")

    def list_states(self, prefix: str) -> dict[str, bytes]:
        rows = self._select(
            "SELECT name, value FROM state WHERE name >= ? AND name < ? ORDER BY name",
            prefix,
            prefix + "\U0010ffff",
        )
        return dict(rows)

    def load_scan_dirs(self) -> dict[bytes, bytes]:
        """Return the stat cache: what was seen in each directory, by path."""
        return dict(self._select("SELECT path, body FROM scan_dir"))

    def save_scan_dirs(self, dirs: Mapping[bytes, bytes | None]) -> None:
        """Replace or drop (None) directories of the stat cache, all in one transaction."""
        with self._writing("saving the stat cache"):
            self._save("scan_dir", "path", "body", dirs)

    def _save(self, table: str, key: str, value: str, values: Mapping[Any, bytes | None]) -> None:
        self._db.run_many(
            f"DELETE FROM {table} WHERE {key} = ?",
            [(name,) for name, body in values.items() if body is None],
        )
        self._db.run_many(
            f"INSERT OR REPLACE INTO {table} ({key}, {value}) VALUES (?, ?)",
            [(name, body) for name, body in values.items() if body is not None],
        )

    # Remotes

    def tracking(self, remote: str) -> dict[str, ObjectId]:
        rows = self._select(
            "SELECT ref, target FROM tracking WHERE remote = ? ORDER BY ref", remote
        )
        return {str(ref): self._oid("tracking", target) for ref, target in rows}

    def set_tracking(
        self,
        remote: str,
        refs: Mapping[str, ObjectId],
        states: Mapping[str, bytes | None] | None = None,
    ) -> None:
        self.flush()  # objects before the names for them
        with self._writing("noting remote refs"):
            self.check_collections()
            self._replace_tracking(remote, refs)
            self._save("state", "name", "value", states or {})
            self._count_up("roots")
        self._collections_seen = None

    def _replace_tracking(self, remote: str, refs: Mapping[str, ObjectId]) -> None:
        self._db.query("DELETE FROM tracking WHERE remote = ?", (remote,))
        self._db.run_many(
            "INSERT INTO tracking (remote, ref, target) VALUES (?, ?, ?)",
            [(remote, ref, target) for ref, target in refs.items()],
        )

    def remote_log(self, remote: str, after: int = 0) -> list[LogEntry]:
        rows = self._select(
            "SELECT entry FROM remote_log WHERE remote = ? AND seq > ? ORDER BY seq", remote, after
        )
        return [self._entry(entry) for (entry,) in rows]

    def append_remote_log(self, remote: str, entries: Sequence[LogEntry]) -> None:
        with self._writing("noting a remote log") as db:
            db.run_many(
                "INSERT OR REPLACE INTO remote_log (remote, seq, entry) VALUES (?, ?, ?)",
                [(remote, entry.seq, encode_entry(entry)) for entry in entries],
            )

    def last_remote_entry(self, remote: str) -> LogEntry | None:
        """Return the newest entry kept of the remote's log, or None."""
        rows = self._select(
            "SELECT entry FROM remote_log WHERE remote = ? ORDER BY seq DESC LIMIT 1", remote
        )
        return self._entry(rows[0][0]) if rows else None

    def list_remotes(self) -> list[str]:
        """Return the names of the remotes of which something is kept."""
        rows = self._select(
            "SELECT remote FROM tracking UNION SELECT remote FROM remote_log ORDER BY remote"
        )
        return [name for (name,) in rows]

    def drop_remote(self, remote: str) -> None:
        with self._writing("forgetting a remote") as db:
            db.query("DELETE FROM tracking WHERE remote = ?", (remote,))
            db.query("DELETE FROM remote_log WHERE remote = ?", (remote,))
