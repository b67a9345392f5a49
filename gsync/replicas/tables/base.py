"""What a database promises to whoever scans or writes its tables. Interfaces only.

A scan and an apply are written once, over these; Postgres and SQLite fill them. All of a
database happens in one session: one read-only snapshot for a scan, one transaction for an
apply, so that parents and children agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from gsync.changes import Change
from gsync.errors import Conflict, Invalid, Unavailable
from gsync.objects.encoding import Value
from gsync.views.rows.schema import ForeignKey, Schema, View
from gsync.views.rows.values import LoadContent, SpillContent


@dataclass(frozen=True, slots=True)
class LiveColumn:
    """A column as the database has it.

    Attributes:
        name: Its name.
        type: The logical type (11-rows, section 6), or None if gsync does not carry it.
        native: The type as the database prints it: `character varying(255)`.
        nullable: Whether it may be NULL.
        default: The default as SQL, or None.
        fills_itself: Whether a sequence, an identity or a random function fills it, so
            that it differs between copies of the same data.
        generated: Whether the database computes it from other columns.
        key_problem: Why it cannot be part of a sync key, or None.
    """

    name: str
    type: str | None
    native: str
    nullable: bool
    default: str | None = None
    fills_itself: bool = False
    generated: bool = False
    key_problem: str | None = None


@dataclass(frozen=True, slots=True)
class LiveUnique:
    """A primary key or unique constraint or index; partial and expression ones are left out.

    Attributes:
        name: Its name.
        columns: Its columns in order.
        primary: Whether it is the primary key.
        deferrable: Whether its check can be deferred; ON CONFLICT does not take such.
        nulls_equal: Whether it holds two NULLs for the same value (NULLS NOT DISTINCT).
    """

    name: str
    columns: tuple[str, ...]
    primary: bool = False
    deferrable: bool = False
    nulls_equal: bool = False


@dataclass(frozen=True, slots=True)
class LiveForeignKey:
    """A foreign key, with what its schema form does not say."""

    name: str
    key: ForeignKey
    deferrable: bool = False


@dataclass(frozen=True, slots=True)
class LiveTrigger:
    """A trigger: its name, the events it fires at (`UPDATE`), the first line of its code."""

    name: str
    events: tuple[str, ...]
    text: str = ""


@dataclass(frozen=True, slots=True)
class LiveTable:
    """A table as the database's catalog has it.

    Attributes:
        name: The logical name: `users`, or `billing.invoice` outside the default schema.
        columns: In the database's order.
        uniques: The primary key first.
        foreign: Foreign keys to other tables, and to itself.
        triggers: User triggers that are enabled.
        rows: About how many rows there are, as far as the catalog knows; -1 if it does not.
        problem: Why the table as a whole cannot be carried, or None.
    """

    name: str
    columns: tuple[LiveColumn, ...]
    uniques: tuple[LiveUnique, ...] = ()
    foreign: tuple[LiveForeignKey, ...] = ()
    triggers: tuple[LiveTrigger, ...] = ()
    rows: int = -1
    problem: str | None = None

    def column(self, name: str) -> LiveColumn | None:
        """Return the column `name`, or None."""
        return next((c for c in self.columns if c.name == name), None)


@dataclass(frozen=True, slots=True)
class TablePlan:
    """One table, and how it is read and written.

    Attributes:
        schema: The schema that rows follow, with slots.
        view: Which columns are left out, and why.
        live: What the catalog says.
    """

    schema: Schema
    view: View
    live: LiveTable

    @property
    def name(self) -> str:
        """The logical name of the table."""
        return self.schema.table


class Clash(NamedTuple):
    """A row of the patch that needs a unique value which a row outside of it has.

    Attributes:
        table: The logical name.
        constraint: The unique constraint.
        key: The sync key of the row that was to be written, decoded.
        values: The column values that clash.
        holder: The sync key of the row that has them, decoded.
    """

    table: str
    constraint: str
    key: tuple[Value, ...]
    values: tuple[tuple[str, Value], ...]
    holder: tuple[Value, ...]


class Dragged(NamedTuple):
    """Rows that the database deletes or alters because a row that they refer to is deleted.

    Attributes:
        table: Their table's logical name.
        columns: What refers to the deleted rows.
        deletes: Whether they are deleted; else the columns are set to NULL or a default.
        rows: How many.
        out_of_scope: Whether they are rows of a recorded table which its scope leaves out.
    """

    table: str
    columns: tuple[str, ...]
    deletes: bool
    rows: int
    out_of_scope: bool = False


class Fingerprint(NamedTuple):
    """What tells, without reading rows, whether a table is what it was (12-databases, 3.1).

    Attributes:
        text: Of the database and the table's definition.
        rows: Of all rows; equal for equal ones only.
        clock: Counts the database's transactions, whose ids come round.
        total: How many rows there are.
        bound: The oldest transaction that could still write then, so that all rows of later
            ones are what is new; -1 where new rows cannot be told so.
    """

    text: bytes
    rows: bytes
    clock: int = 0
    total: int = -1
    bound: int = -1

    def proves(self, before: Fingerprint) -> bool:
        """Return whether the table holds the rows that it held `before`."""
        return self._is_later(before) and self.rows == before.rows

    def continues(self, before: Fingerprint) -> bool:
        """Return whether what is new since `before` can be told by who wrote it."""
        return self._is_later(before) and before.bound >= 0 and self.bound >= 0

    def _is_later(self, before: Fingerprint) -> bool:
        return self.text == before.text and 0 <= self.clock - before.clock < 1 << 31


class Session(Protocol):
    """A database seen from within one transaction."""

    def fingerprint(self, plan: TablePlan) -> Fingerprint | None:
        """Return what the rows of a table are known by, or None where nothing could be trusted.

        Costs a pass of the server over the table at most, and sends nothing of it.
        """
        ...

    def tables(self) -> list[LiveTable]:
        """Return what the catalog has, in order of names: user tables only."""
        ...

    def rows(self, plan: TablePlan, spill: SpillContent) -> Iterator[tuple[bytes, bytes]]:
        """Yield encoded key and encoded row of every row, in key order, in constant memory.

        Of a table that is recorded in part, those of its scope.

        Raises:
            BadRows: a key is NULL, too long or there twice, or a value outside its type.
        """
        ...

    def rows_since(
        self, plan: TablePlan, spill: SpillContent, bound: int
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield as `rows` does those that may have been written since a fingerprint's `bound`."""
        ...

    def keys(self, plan: TablePlan) -> Iterator[bytes]:
        """Yield the encoded key of every row, in order, in constant memory."""
        ...

    def present(self, plan: TablePlan, keys: Sequence[bytes]) -> list[bytes]:
        """Return those of `keys` that a row has, whatever the scope; hand in some hundreds."""
        ...


class Writing(Session, Protocol):
    """A transaction that writes; nothing is seen by others before `commit`."""

    def stage(self, plan: TablePlan, changes: Iterable[Change], load: LoadContent) -> None:
        """Bring the changed rows of one table to the server; once a table, before all else."""
        ...

    def dragged(self, plan: TablePlan, plans: Mapping[str, TablePlan]) -> list[Dragged]:
        """Return the rows of other tables that go, or lose a value, with the staged deletions.

        Called when all tables are staged, before anything is written.

        Args:
            plans: All recorded tables; of those that are recorded in part, rows in and out of
                scope are told apart.
        """
        ...

    def outsiders(self, plan: TablePlan, limit: int) -> list[bytes]:
        """Return keys to be written that rows out of the table's scope have, at most `limit`."""
        ...

    def clashes(self, plan: TablePlan, limit: int) -> list[Clash]:
        """Return staged rows whose unique values rows outside the patch hold, at most `limit`."""
        ...

    def release(self, plan: TablePlan) -> None:
        """Free the unique values that rows of the patch take from each other (rows swap them).

        Raises:
            Refused: a value can be freed in none of the ways there are.
        """
        ...

    def upsert(self, plan: TablePlan) -> tuple[int, int]:
        """Write the staged rows, called parents first; return how many inserted and updated."""
        ...

    def delete(self, plan: TablePlan) -> int:
        """Delete the rows that the patch deletes; called children first, after all upserts."""
        ...

    def commit(self) -> None:
        """Commit. Until then everything can be undone; afterwards nothing.

        Raises:
            Unsure: the connection was lost meanwhile.
        """
        ...


class Database(Protocol):
    """A live database, reachable.

    Attributes:
        engine: `postgres` or `sqlite`.
        shown: The URL without its secrets, for messages.
    """

    @property
    def engine(self) -> str: ...

    @property
    def shown(self) -> str: ...

    def identity(self) -> str:
        """Return what tells this database from another one at the same URL, or "" if nothing does.

        Connects if nothing has yet.

        Raises:
            Unavailable: the database cannot be reached.
        """
        ...

    def reading(self, *, fingerprints: bool = False) -> AbstractContextManager[Session]:
        """Open one read-only snapshot.

        Args:
            fingerprints: Whether its tables are to have some, where they can.

        Raises:
            Unavailable: the database cannot be reached, or does not answer in time.
        """
        ...

    def writing(self) -> AbstractContextManager[Writing]:
        """Open one transaction that writes; leaving it without `commit` rolls back.

        Raises:
            Unavailable: as above, or another writer holds it for too long.
        """
        ...


class BadRows(Invalid):
    """Rows of a live table cannot be carried; the message names table, column, key and count."""


class Interfered(Conflict):
    """Another transaction wrote the same rows; all was rolled back, and may be tried again."""


class Unsure(Unavailable):
    """The connection was lost during a commit: the database may have committed, or not."""


class Refused(Invalid):
    """A table cannot be recorded or written as it is; says why and what would help."""


class NotProved(Conflict):
    """After writing, the rows read back were not the ones meant; everything was rolled back.

    Attributes:
        differences: Table, decoded key, column, meant and found, a few of them.
    """

    def __init__(self, message: str, differences: Sequence[Difference], hint: str) -> None:
        super().__init__(message, hint=hint)
        self.differences = list(differences)


class Difference(NamedTuple):
    """One cell, or one row (column None), that is not as it was meant."""

    table: str
    key: tuple[Value, ...]
    column: str | None
    meant: Value
    found: Value


@dataclass(frozen=True, slots=True)
class Applied:
    """What an apply did, counted by the database's own answers.

    Attributes:
        inserted, updated, deleted: Rows by table.
    """

    inserted: Mapping[str, int] = field(default_factory=dict)
    updated: Mapping[str, int] = field(default_factory=dict)
    deleted: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """All rows written."""
        return sum(map(sum, (d.values() for d in (self.inserted, self.updated, self.deleted))))
