"""Changes of rows into a SQLite file (12-databases, section 4, rules 4 to 7).

A row is updated first and inserted second, in two statements: an `INSERT ... ON CONFLICT`
fires BEFORE INSERT triggers for rows that it then updates, and `INSERT OR REPLACE` deletes
the row and, by cascades, its children.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from gsync.changes import Change
from gsync.errors import Conflict, GsyncError
from gsync.objects.encoding import Value
from gsync.replicas.sqlite.cells import Native, Unwritable, reader, writer
from gsync.replicas.sqlite.inspect import Index, primary_key, unique_indexes
from gsync.replicas.sqlite.names import quoted, table_in
from gsync.replicas.sqlite.scan import has_several_spellings, key_function
from gsync.replicas.sqlite.scopes import in_scope
from gsync.replicas.sqlite.session import SqliteSession
from gsync.replicas.tables.base import Clash, Dragged, Refused, TablePlan
from gsync.views.rows.keys import decode_key
from gsync.views.rows.values import LoadContent, decode_row_trusted, load_cell

_VIOLATIONS_MAX = 1000  # rows that break a foreign key, counted for a message
_PARKED_BITS = 62
_DRAGGING = ("CASCADE", "SET NULL", "SET DEFAULT")  # what ON DELETE does to other rows


@dataclass(frozen=True, slots=True)
class _Staged:
    """Where the changes of one table wait, in temporary tables.

    Attributes:
        plan: The table.
        table: Its name in SQL.
        puts, drops: The temporary tables with rows to be written, and keys to be deleted.
        mark: The column of the temporary tables that holds the encoded key.
        keys: The key columns.
        columns: The other columns that are written.
    """

    plan: TablePlan
    table: str
    puts: str
    drops: str
    mark: str
    keys: tuple[str, ...]
    columns: tuple[str, ...]

    def same_key(self, left: str, right: str) -> str:
        """Return SQL that holds where two aliases have one key; an index of `left` serves it.

        The plus takes away the right column's affinity, under which SQLite could not use
        the index of a temporary table, whose columns have none.
        """
        return " AND ".join(
            f"{left}.{quoted(k)} = +{right}.{quoted(k)} COLLATE BINARY" for k in self.keys
        )

    def key_in(self, other: str, alias: str) -> str:
        """Return SQL that holds where the key of `alias` is in the temporary table `other`."""
        return f"EXISTS (SELECT 1 FROM {other} AS o WHERE {self.same_key('o', alias)})"


class SqliteWriting(SqliteSession):
    """Fills `gsync.replicas.tables.base.Writing`."""

    def __init__(self, db: sqlite3.Connection) -> None:
        super().__init__(db)
        self._staged: dict[str, _Staged] = {}
        self._deleted_early: Counter[str] = Counter()

    def stage(self, plan: TablePlan, changes: Iterable[Change], load: LoadContent) -> None:
        """Bring the changed rows of one table into temporary tables.

        Raises:
            Unwritable: a cell has no form in SQLite; the message names table, column and key.
        """
        number = len(self._staged)
        staged = _Staged(
            plan,
            table_in("main", plan.name),
            f"temp.gsync_puts_{number}",
            f"temp.gsync_drops_{number}",
            _free_name(plan.schema.types()),
            tuple(key.name for key in plan.schema.key),
            tuple(column.name for column in plan.schema.live),
        )
        self._staged[plan.name] = staged
        keys = ", ".join(map(quoted, staged.keys))
        columns = "".join(f", {quoted(name)}" for name in staged.columns)
        # Without declared types nothing is converted on the way in, nor when compared.
        self._db.execute(f"CREATE TABLE {staged.puts} ({staged.mark}, {keys}{columns})")
        self._db.execute(f"CREATE TABLE {staged.drops} ({staged.mark}, {keys})")
        puts = f"INSERT INTO {staged.puts} VALUES (?{', ?' * (len(plan.schema.types()))})"
        drops = f"INSERT INTO {staged.drops} VALUES (?{', ?' * len(staged.keys)})"
        encode_key = _key_writer(self._db, plan)
        encode_cells = _row_writer(self._db, plan, load)
        db = self._db

        def rows() -> Iterator[tuple[Native | bytes, ...]]:
            for key, _, new in changes:
                if new is None:
                    db.execute(drops, (key, *encode_key(key)))
                else:
                    yield (key, *encode_key(key), *encode_cells(key, new))

        db.executemany(puts, rows())
        if has_several_spellings(plan):
            self._respell(staged)
        for table in (staged.puts, staged.drops):
            schema, name = table.split(".")
            db.execute(f"CREATE UNIQUE INDEX {schema}.{name}_key ON {name} ({keys})")

    def _respell(self, staged: _Staged) -> None:
        """Give staged keys the spelling that the file has, so that SQLite finds its rows."""
        keys = ", ".join(map(quoted, staged.keys))
        self._db.execute("DROP TABLE IF EXISTS temp.gsync_spelled")
        self._db.execute(
            f"CREATE TABLE temp.gsync_spelled AS SELECT {key_function(self._db, staged.plan)}"
            f" AS {staged.mark}, {keys} FROM {staged.table}"
        )
        self._db.execute(f"CREATE INDEX temp.gsync_spelled_key ON gsync_spelled ({staged.mark})")
        given = ", ".join(f"{quoted(name)} = s.{quoted(name)}" for name in staged.keys)
        for table in (staged.puts, staged.drops):
            self._db.execute(
                f"UPDATE {table} AS p SET {given} FROM temp.gsync_spelled AS s"
                f" WHERE s.{staged.mark} = p.{staged.mark}"
            )
        self._db.execute("DROP TABLE temp.gsync_spelled")

    def outsiders(self, plan: TablePlan, limit: int) -> list[bytes]:
        """Return keys to be written that rows out of the table's scope have, at most `limit`."""
        staged, scope = self._staged[plan.name], plan.view.scope
        if scope is None:
            return []
        rows = self._db.execute(
            f"SELECT p.{staged.mark} FROM {staged.puts} AS p JOIN {staged.table} AS t"
            f" ON {staged.same_key('t', 'p')} WHERE {in_scope(scope, 't')} IS NOT TRUE LIMIT ?",
            (limit,),
        )
        return [key for (key,) in rows]

    def dragged(self, plan: TablePlan, plans: Mapping[str, TablePlan]) -> list[Dragged]:
        """Return the rows of other tables that go, or lose a value, with the staged deletions."""
        staged = self._staged[plan.name]
        scopes = {name.lower(): plan.view.scope for name, plan in plans.items()}
        parts: dict[tuple[str, int], list[tuple[Any, ...]]] = {}
        for child, row in self._foreign_keys():
            if row[2].lower() == plan.name.lower() and row[6] in _DRAGGING:
                parts.setdefault((child, row[0]), []).append(row)
        found = []
        for (child, _), rows in parts.items():
            own = primary_key(self._db, plan.name)
            pairs = [(row[3], row[4] or own[row[1]]) for row in rows]
            same = " AND ".join(f"t.{quoted(to)} = c.{quoted(name)}" for name, to in pairs)
            names, deletes = tuple(name for name, _ in pairs), rows[0][6] == "CASCADE"
            inside = in_scope(scopes.get(child.lower()), "c")
            ((count, within),) = self._db.execute(
                f"SELECT count(*), count(*) FILTER (WHERE {inside}) FROM {staged.table} AS t"
                f" JOIN {table_in('main', child)} AS c ON {same}"
                f" WHERE {staged.key_in(staged.drops, 't')}"
            )
            if within:
                found.append(Dragged(child, names, deletes, within))
            if count > within:
                found.append(Dragged(child, names, deletes, count - within, True))
        return found

    def clashes(self, plan: TablePlan, limit: int) -> list[Clash]:
        """Return staged rows whose unique values rows outside the patch hold, at most `limit`."""
        staged = self._staged[plan.name]
        found: list[Clash] = []
        for index in self._other_uniques(staged):
            if len(found) < limit:
                found += self._clashes_at(staged, index, limit - len(found))
        return found

    def _clashes_at(self, staged: _Staged, index: Index, limit: int) -> Iterator[Clash]:
        keys = ", ".join(f"t.{quoted(name)}" for name in staged.keys)
        values = ", ".join(f"p.{quoted(name)}" for name in index.columns)
        rows = self._db.execute(
            f"SELECT p.{staged.mark}, {keys}, {values}"
            f" FROM {staged.puts} AS p JOIN {staged.table} AS t"
            f" ON {_same_values(index, 't', 'p')}"
            f" WHERE NOT {staged.key_in(staged.puts, 't')}"
            f" AND NOT {staged.key_in(staged.drops, 't')} LIMIT ?",
            (limit,),
        ).fetchall()
        width = len(staged.keys)
        for key, *rest in rows:
            holder = tuple(_read_all(staged.plan, staged.keys, rest[:width]))
            cells = _read_all(staged.plan, index.columns, rest[width:])
            yield Clash(
                staged.plan.name,
                index.name,
                tuple(decode_key(key)),
                tuple(zip(index.columns, cells, strict=True)),
                holder,
            )

    def release(self, plan: TablePlan) -> None:
        """Free the unique values that rows of the patch take from each other (rows swap them).

        A column of the constraint that may be NULL becomes NULL, and one of texts, blobs or
        integers becomes random; the row is written or deleted afterwards in any case.

        Raises:
            Refused: there is no such column, or rows of other tables follow it.
        """
        staged = self._staged[plan.name]
        for number, index in enumerate(self._other_uniques(staged)):
            schema, name = staged.puts.split(".")
            values = ", ".join(
                f"{quoted(column)} COLLATE {quoted(collation)}"
                for column, collation in zip(index.columns, index.collations, strict=True)
            )
            self._db.execute(f"CREATE INDEX {schema}.{name}_{number} ON {name} ({values})")
            taken = (
                f"EXISTS (SELECT 1 FROM {staged.puts} AS p WHERE {_same_values(index, 'p', 't')}"
                f" AND NOT ({staged.same_key('p', 't')}))"
                f" AND ({staged.key_in(staged.puts, 't')} OR {staged.key_in(staged.drops, 't')})"
            )
            with _constraints(self._db, plan, f"freeing the values of {index.name}"):
                if not self._is_referred_to(plan.name):
                    self._deleted_early[plan.name] += self._db.execute(
                        f"DELETE FROM {staged.table} AS t"
                        f" WHERE {taken} AND {staged.key_in(staged.drops, 't')}"
                    ).rowcount
                sql = f"SELECT 1 FROM {staged.table} AS t WHERE {taken} LIMIT 1"
                if self._db.execute(sql).fetchone():
                    column, value = self._parking(staged, index)
                    self._db.execute(
                        f"UPDATE {staged.table} AS t SET {quoted(column)} = {value} WHERE {taken}"
                    )

    def _is_referred_to(self, table: str) -> bool:
        return any(row[2].lower() == table.lower() for _, row in self._foreign_keys())

    def _foreign_keys(self) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """Yield the name of every table and a line of its PRAGMA foreign_key_list."""
        for (child,) in self._db.execute(
            "SELECT name FROM main.sqlite_schema WHERE type = 'table'"
        ).fetchall():
            for row in self._db.execute(f"PRAGMA main.foreign_key_list({quoted(child)})"):
                yield child, row

    def _parking(self, staged: _Staged, index: Index) -> tuple[str, str]:
        """Return the column that is altered to free a unique value, and the SQL of its value."""
        followed = self._followed_columns(staged.plan.name)
        free = [
            column
            for name in index.columns
            if name not in staged.keys
            and name.lower() not in followed
            and (column := staged.plan.live.column(name))
        ]
        for column in free:
            if column.nullable:
                return column.name, "NULL"
        # A prefix, so that what a crash of the whole machine might show tells where it is from.
        parked = {
            "text": f"'gsync-parked-{secrets.token_hex(8)}-' || hex(randomblob(8))",
            "bytes": "randomblob(16)",
            "int": "-abs(random() >> 1)",
        }
        for column in free:
            if column.type in parked:
                return column.name, parked[column.type]
        raise Refused(
            f"rows of {staged.plan.name} take values of the unique constraint {index.name}"
            f" ({', '.join(index.columns)}) from each other, and none of its columns can be"
            " altered meanwhile",
            hint="let one of its columns be NULL, or move the values in two steps",
            table=staged.plan.name,
            constraint=index.name,
        )

    def _followed_columns(self, table: str) -> set[str]:
        """Return columns, in lower case, that other rows follow when they are updated."""
        found: set[str] = set()
        own_key = {name.lower() for name in primary_key(self._db, table)}
        for _, row in self._foreign_keys():
            if row[2].lower() == table.lower() and row[5] != "NO ACTION":
                found |= {row[4].lower()} if row[4] else own_key
        return found

    def upsert(self, plan: TablePlan) -> tuple[int, int]:
        """Update, then insert the staged rows; return how many were inserted and updated.

        A row is updated where a value or its class differs, so that another spelling of
        the same time is replaced, and a row that is as it should be fires no trigger.
        """
        staged = self._staged[plan.name]
        with _constraints(self._db, plan, "writing rows"):
            updated = self._update(staged)
            names = [*staged.keys, *staged.columns]
            columns = ", ".join(map(quoted, names))
            inserted = self._db.execute(
                f"INSERT INTO {staged.table} ({columns}) SELECT {columns} FROM {staged.puts} AS p"
                f" WHERE NOT EXISTS (SELECT 1 FROM {staged.table} AS t"
                f" WHERE {staged.same_key('t', 'p')})"
            ).rowcount
        return inserted, updated

    def _update(self, staged: _Staged) -> int:
        if not staged.columns:
            return 0
        given = ", ".join(f"{quoted(name)} = p.{quoted(name)}" for name in staged.columns)
        # The plus takes away the column's affinity, which would convert the other value.
        differs = _any(
            [
                f"(+t.{name} COLLATE BINARY IS NOT p.{name}"
                f" OR typeof(t.{name}) <> typeof(p.{name}))"
                for name in map(quoted, staged.columns)
            ]
        )
        return self._db.execute(
            f"UPDATE {staged.table} AS t SET {given} FROM {staged.puts} AS p"
            f" WHERE {staged.same_key('t', 'p')} AND {differs}"
        ).rowcount

    def delete(self, plan: TablePlan) -> int:
        """Delete the rows that the patch deletes; return how many there were."""
        staged = self._staged[plan.name]
        left = ", ".join(f"{quoted(name)} COLLATE BINARY" for name in staged.keys)
        right = ", ".join(map(quoted, staged.keys))
        with _constraints(self._db, plan, "deleting rows"):
            deleted = self._db.execute(
                f"DELETE FROM {staged.table} WHERE ({left}) IN (SELECT {right} FROM {staged.drops})"
            ).rowcount
        return deleted + self._deleted_early[plan.name]

    def commit(self) -> None:
        """Commit.

        Raises:
            Conflict: rows would refer to rows that are not there; nothing is written.
        """
        try:
            self._db.execute("COMMIT")
        except sqlite3.IntegrityError as error:
            _raise_dangling(self._db, error)

    def _other_uniques(self, staged: _Staged) -> list[Index]:
        """Return the unique constraints besides the key, of columns that are all written."""
        written = {*staged.keys, *staged.columns}
        return [
            index
            for index in unique_indexes(self._db, staged.plan.name)
            if written.issuperset(index.columns) and set(index.columns) != set(staged.keys)
        ]


def _free_name(taken: Iterable[str]) -> str:
    name, names = "gsync_key", {other.lower() for other in taken}
    while name in names:
        name += "_"
    return name


def _any(terms: Sequence[str]) -> str:
    """Return the disjunction of `terms` as a balanced tree: SQLite takes 1,000 levels at most."""
    if len(terms) == 1:
        return terms[0]
    middle = len(terms) // 2
    return f"({_any(terms[:middle])} OR {_any(terms[middle:])})"


def _same_values(index: Index, left: str, right: str) -> str:
    """Return SQL that holds where two aliases have one unique value; `left`'s index serves it."""
    return " AND ".join(
        f"{left}.{quoted(name)} = +{right}.{quoted(name)} COLLATE {quoted(collation)}"
        for name, collation in zip(index.columns, index.collations, strict=True)
    )


def _read_all(plan: TablePlan, names: Sequence[str], values: Sequence[Any]) -> Iterator[Value]:
    types = plan.schema.types()
    for name, value in zip(names, values, strict=True):
        column = plan.live.column(name)
        convert = reader(types[name], column.native if column else "", in_key=False).convert
        yield value if value is None or convert is None else convert(value)


# --- Cells to values ---------------------------------------------------------------------


def _writer(
    db: sqlite3.Connection, plan: TablePlan, name: str, type_: str
) -> Callable[[Value], Native] | None:
    column = plan.live.column(name)
    as_blob = False
    if type_ == "uuid":
        # What the column has is continued: text unless its first value is a blob.
        found = db.execute(
            f"SELECT typeof({quoted(name)}) FROM {table_in('main', plan.name)}"
            f" WHERE {quoted(name)} IS NOT NULL LIMIT 1"
        ).fetchone()
        as_blob = found is not None and found[0] == "blob"
    return writer(type_, column.native if column else "", as_blob=as_blob)


def _key_writer(db: sqlite3.Connection, plan: TablePlan) -> Callable[[bytes], Sequence[Native]]:
    writers = [_writer(db, plan, key.name, key.type) for key in plan.schema.key]

    def write(key: bytes) -> Sequence[Native]:
        return [
            cell if one is None else one(cell)
            for one, cell in zip(writers, decode_key(key), strict=True)
        ]

    return write


def _row_writer(
    db: sqlite3.Connection, plan: TablePlan, load: LoadContent
) -> Callable[[bytes, bytes], Sequence[Native]]:
    width = plan.schema.width
    columns = [(c, _writer(db, plan, c.name, c.type)) for c in plan.schema.live]

    def write(key: bytes, row: bytes) -> Sequence[Native]:
        cells = decode_row_trusted(row, width)
        values: list[Native] = []
        for column, one in columns:
            cell = load_cell(column.type, cells[column.slot], load)
            try:
                values.append(cell if cell is None or one is None else one(cell))
            except GsyncError as error:
                raise Unwritable(
                    f"column {column.name} of table {plan.name}, key"
                    f" {tuple(decode_key(key))!r}: {error.message}",
                    hint=error.hint,
                    table=plan.name,
                    column=column.name,
                ) from error
        return values

    return write


# --- Constraints -------------------------------------------------------------------------


@contextmanager
def _constraints(db: sqlite3.Connection, plan: TablePlan, doing: str) -> Iterator[None]:
    """Translate what a constraint or a trigger of the table says into a Conflict."""
    try:
        yield
    except sqlite3.IntegrityError as error:
        if error.sqlite_errorname == "SQLITE_CONSTRAINT_FOREIGNKEY":
            _raise_dangling(db, error, plan.name)
        by = " by a trigger" if error.sqlite_errorname == "SQLITE_CONSTRAINT_TRIGGER" else ""
        raise Conflict(
            f"{doing} in table {plan.name} was refused{by}: {error}",
            hint="nothing was written",
            table=plan.name,
            constraint=str(error),
        ) from error


def _raise_dangling(
    db: sqlite3.Connection, error: sqlite3.IntegrityError, table: str | None = None
) -> NoReturn:
    """Raise a Conflict that names the foreign keys which rows break."""
    counts: dict[tuple[str, str, int], int] = {}
    cursor = db.execute("PRAGMA foreign_key_check")
    for child, _, parent, number in cursor.fetchmany(_VIOLATIONS_MAX):
        counts[child, parent, number] = counts.get((child, parent, number), 0) + 1
    lines = []
    for (child, parent, number), count in counts.items():
        columns = ", ".join(
            row[3]
            for row in db.execute(f"PRAGMA main.foreign_key_list({quoted(child)})")
            if row[0] == number
        )
        rows = "1 row" if count == 1 else f"{count:,} rows"
        lines.append(f"{child}({columns}) refers to {parent}: {rows} without a parent")
    where = f" in table {table}" if table else ""
    raise Conflict(
        f"a foreign key was broken{where}: {'; '.join(lines) or error}",
        hint="record the parent's table too, or write the parents first; nothing was written",
        constraint="; ".join(lines),
        table=table or "",
    ) from error
