"""One transaction that brings tables to where a patch says (12-databases, section 4).

Changes are staged in one temporary table for each table, whose columns have the types and
collations of the table's own: `k0`, `k1`, ... for the key, `c` and the slot for the cells,
and `gone` for rows to be deleted. Everything after that is a statement over sets.

What can be deferred is, until the rows are read again or the transaction commits; then it
is checked, so that a deferred trigger too has done its work before the rows are proved.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from gsync.changes import Change
from gsync.errors import Unavailable
from gsync.objects.encoding import Reference, Value
from gsync.replicas.postgres import sql
from gsync.replicas.postgres.connect import PostgresSession
from gsync.replicas.postgres.errors import translated
from gsync.replicas.postgres.inspect import logical_name
from gsync.replicas.postgres.scan import cell_of
from gsync.replicas.tables.base import Clash, Dragged, LiveUnique, Refused, TablePlan, Unsure
from gsync.views.rows.keys import decode_key, key_encoder
from gsync.views.rows.texts import format_cell
from gsync.views.rows.values import (
    LoadContent,
    SpillContent,
    decode_row_trusted,
    load_cell,
)

if TYPE_CHECKING:
    import psycopg

BUFFER_CHARACTERS = 1 << 16

NESTED_LOOP_ROWS_MAX = 1000

# A parked value has at least this many random hex digits: 32 bits.
PARKED_CHARACTERS_MIN = 8

# The years 1000 to 9999, which `datetime` knows and prints with four digits.
EPOCH = datetime(1970, 1, 1)
DATETIME_MIN, DATETIME_MAX = -30_610_224_000_000_000, 253_402_300_799_999_999

_SPECIAL = re.compile(r"[\\\t\n\r]")
_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_LENGTH = re.compile(r"character(?: varying)?\((\d+)\)")
_RANDOM_HEX = "pg_catalog.replace(pg_catalog.gen_random_uuid()::pg_catalog.text, '-', '')"

_ALWAYS = """
SELECT attname::text FROM pg_catalog.pg_attribute
WHERE attrelid = %s::pg_catalog.regclass AND attidentity = 'a'
"""
_REFERENCED = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_constraint
    WHERE contype = 'f' AND confrelid = %s::pg_catalog.regclass)
"""
# Foreign keys whose rows are deleted or altered with the row that they refer to.
_DRAGGING = """
SELECT n.nspname::text, c.relname::text, f.confdeltype = 'c',
    ARRAY(SELECT a.attname::text FROM unnest(f.conkey) WITH ORDINALITY k(attnum, place)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = k.attnum
        ORDER BY k.place),
    ARRAY(SELECT a.attname::text FROM unnest(f.confkey) WITH ORDINALITY k(attnum, place)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = f.confrelid AND a.attnum = k.attnum
        ORDER BY k.place)
FROM pg_catalog.pg_constraint f JOIN pg_catalog.pg_class c ON c.oid = f.conrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE f.contype = 'f' AND f.conparentid = 0 AND f.confdeltype IN ('c', 'n', 'd')
    AND f.confrelid = %s::pg_catalog.regclass
ORDER BY 1, 2, f.conname
"""
# Columns that rows of other tables follow when they are updated, and how.
_FOLLOWED = """
SELECT a.attname::text, f.confupdtype::text
FROM pg_catalog.pg_constraint f JOIN pg_catalog.pg_attribute a
    ON a.attrelid = f.confrelid AND a.attnum = ANY (f.confkey)
WHERE f.contype = 'f' AND f.confupdtype IN ('c', 'n', 'd')
    AND f.confrelid = %s::pg_catalog.regclass
"""
# Owned by the column (serial, identity), or named by its default.
_SEQUENCES = """
SELECT a.attname::text,
    pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(s.relname)
FROM pg_catalog.pg_attribute a
    LEFT JOIN pg_catalog.pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
    JOIN pg_catalog.pg_depend d ON
        d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = a.attrelid
            AND d.refobjsubid = a.attnum AND d.deptype IN ('a', 'i')
        OR d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.objid = f.oid
    JOIN pg_catalog.pg_class s ON s.relkind = 'S' AND s.oid =
        CASE WHEN d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
            THEN d.objid ELSE d.refobjid END
    JOIN pg_catalog.pg_namespace n ON n.oid = s.relnamespace
WHERE a.attrelid = %s::pg_catalog.regclass AND a.attnum > 0 AND NOT a.attisdropped
GROUP BY 1, 2 ORDER BY 1, 2
"""


# Whether COPY may fill a table: nothing is in it, and nothing comes between.
_TAKES_COPY = """
SELECT NOT c.relhasrules AND c.relkind IN ('r', 'p') AND NOT pg_catalog.row_security_active(c.oid)
    AND NOT EXISTS (SELECT FROM {table})
FROM pg_catalog.pg_class c WHERE c.oid = %s::pg_catalog.regclass
"""


@dataclass(slots=True)
class _Stage:
    """The temporary table of one table, and what is in it.

    Attributes:
        direct: For a table without rows, which has no such table: what is written into it.
    """

    name: str
    places: dict[str, str]
    always: frozenset[str]
    puts: int = 0
    deletes: int = 0
    deleted_early: int = 0
    direct: tuple[Iterable[Change], LoadContent] | None = None


class PostgresWriting(PostgresSession):
    """A transaction that writes; nothing is seen by others before `commit`."""

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]], shown: str) -> None:
        """Take an open transaction in which nothing was written."""
        super().__init__(connection, shown)
        self._stages: dict[str, _Stage] = {}
        self._deferred = False

    def rows(self, plan: TablePlan, spill: SpillContent) -> Iterator[tuple[bytes, bytes]]:
        """Yield the rows as this transaction has made them; see the session that reads.

        Raises:
            Conflict: a deferred constraint does not hold.
        """
        self._check_deferred()
        yield from super().rows(plan, spill)

    def stage(self, plan: TablePlan, changes: Iterable[Change], load: LoadContent) -> None:
        """Bring the changed rows of one table to the server; once a table, before all else."""
        with translated(self._shown, plan.name):
            always = {name for (name,) in self._query(_ALWAYS, sql.qualified(plan.name))}
            stage = _Stage(f"gsync_stage_{len(self._stages)}", _places(plan), frozenset(always))
            self._stages[plan.name] = stage
            table = sql.qualified(plan.name)
            if self._ask(_TAKES_COPY.format(table=table.replace("%", "%%")), table):
                stage.direct = changes, load
                return
            columns = ", ".join(
                f"t.{sql.quote(name)} AS {place}" for name, place in stage.places.items()
            )
            self._run(
                f"CREATE TEMP TABLE {stage.name} ON COMMIT DROP AS SELECT {columns},"
                f" false AS gone FROM {sql.qualified(plan.name)} AS t WITH NO DATA"
            )
            self._fill(stage, plan, changes, load)
            # A new table has no statistics, and is taken for one of a few rows.
            self._run(f"ANALYZE pg_temp.{stage.name}")

    def outsiders(self, plan: TablePlan, limit: int) -> list[bytes]:
        """Return keys to be written that rows out of the table's scope have, at most `limit`."""
        stage, scope = self._stages[plan.name], plan.view.scope
        if scope is None or stage.direct:
            return []
        types = [type_ for _, type_ in plan.schema.key]
        encode_key = key_encoder(types)
        outputs = ", ".join(
            f"({sql.output(plan, name, type_, f's.{stage.places[name]}')})::pg_catalog.text"
            for name, type_ in plan.schema.key
        )
        with translated(self._shown, plan.name):
            rows = self._query(
                f"SELECT {outputs} FROM pg_temp.{stage.name} AS s JOIN"
                f" {sql.qualified(plan.name)} AS t ON {_same_key(plan, 's')}"
                f" WHERE NOT s.gone AND {sql.in_scope(scope, 't')} IS NOT TRUE LIMIT {limit:d}"
            )
        return [
            encode_key([cell_of(type_, text) for type_, text in zip(types, row, strict=True)])
            for row in rows
        ]

    def dragged(self, plan: TablePlan, plans: Mapping[str, TablePlan]) -> list[Dragged]:
        """Return the rows of other tables that go, or lose a value, with the staged deletions."""
        stage = self._stages[plan.name]
        if not stage.deletes:
            return []
        found = []
        table = sql.qualified(plan.name)
        with translated(self._shown, plan.name):
            for schema, name, deletes, columns, parents in self._query(_DRAGGING, table):
                same = " AND ".join(
                    f"c.{sql.quote(one)} = t.{sql.quote(parent)}"
                    for one, parent in zip(columns, parents, strict=True)
                )
                other = f"{sql.quote(schema)}.{sql.quote(name)}"
                child = logical_name(schema, name)
                scope = plans[child].view.scope if child in plans else None
                ((count, within),) = self._query(
                    f"SELECT count(*), count(*) FILTER (WHERE {sql.in_scope(scope, 'c')})"
                    f" FROM {other} AS c, {table} AS t, pg_temp.{stage.name} AS s"
                    f" WHERE s.gone AND {_same_key(plan, 's')} AND {same}"
                )
                if within:
                    found.append(Dragged(child, tuple(columns), deletes, within))
                if count > within:
                    found.append(Dragged(child, tuple(columns), deletes, count - within, True))
        return found

    def clashes(self, plan: TablePlan, limit: int) -> list[Clash]:
        """Return staged rows whose unique values rows outside the patch hold, at most `limit`."""
        found: list[Clash] = []
        stage = self._stages[plan.name]
        for unique in _uniques(plan) if not stage.direct else ():
            if len(found) < limit:
                with translated(self._shown, plan.name):
                    found += self._clashes(stage, plan, unique, limit - len(found))
        return found

    def release(self, plan: TablePlan) -> None:
        """Free the unique values that rows of the patch take from each other (rows swap them).

        Raises:
            Refused: a value can be freed in none of the ways there are.
        """
        stage = self._stages[plan.name]
        for unique in _uniques(plan) if not stage.direct else ():
            if not unique.deferrable:
                with translated(self._shown, plan.name):
                    self._release(stage, plan, unique)

    def upsert(self, plan: TablePlan) -> tuple[int, int]:
        """Write the staged rows, called parents first; return how many inserted and updated.

        Raises:
            Conflict: a constraint of the database does not hold.
            Interfered: another transaction wrote one of the rows.
            Refused: a value does not fit its column.
        """
        stage = self._stages[plan.name]
        if stage.direct:
            with translated(self._shown, plan.name):
                self._defer()
                count = self._fill_table(stage, plan, *stage.direct)
                self._advance_sequences(stage, plan)
            return count, 0
        if not stage.puts:
            return 0, 0
        with translated(self._shown, plan.name):
            self._defer()
            self._refuse_always(stage, plan)
            # A table that is empty when a statement is planned and full before it ends makes
            # a nested loop look cheap that takes hours: each row looks through all others.
            many = stage.puts >= NESTED_LOOP_ROWS_MAX
            if many:
                self._run("SET LOCAL enable_nestloop = off")
            ((inserted, updated),) = self._query(_upsert_statement(stage, plan))
            if many:
                self._run("SET LOCAL enable_nestloop TO DEFAULT")
            self._advance_sequences(stage, plan)
        return inserted, updated

    def delete(self, plan: TablePlan) -> int:
        """Delete the rows that the patch deletes; called children first, after all upserts."""
        stage = self._stages[plan.name]
        if not stage.deletes:
            return 0
        with translated(self._shown, plan.name):
            self._defer()
            count = self._run(
                f"DELETE FROM {sql.qualified(plan.name)} AS t USING pg_temp.{stage.name} AS s"
                f" WHERE s.gone AND {_same_key(plan, 's')}"
            )
        return count + stage.deleted_early

    def commit(self) -> None:
        """Check what was deferred, and commit.

        Raises:
            Conflict: a deferred constraint does not hold; nothing is written.
        """
        self._check_deferred()
        try:
            with translated(self._shown):
                self._run("COMMIT")
        except Unavailable as error:
            raise Unsure(
                f"{error.message}; whether it has committed is not known",
                hint="the next command looks, and finishes or drops what was begun",
            ) from error

    # --- Staging ---------------------------------------------------------------------

    def _fill(
        self, stage: _Stage, plan: TablePlan, changes: Iterable[Change], load: LoadContent
    ) -> None:
        def counted() -> Iterator[str]:
            for line, gone in _lines(plan, changes, load):
                stage.puts += not gone
                stage.deletes += gone
                yield line + ("\tt\n" if gone else "\tf\n")

        names = ", ".join([*stage.places.values(), "gone"])
        self._copy(f"COPY pg_temp.{stage.name} ({names}) FROM STDIN", counted())

    def _fill_table(
        self, stage: _Stage, plan: TablePlan, changes: Iterable[Change], load: LoadContent
    ) -> int:
        """Copy what is put straight into a table without rows, of which nothing can be deleted."""
        names = ", ".join(map(sql.quote, stage.places))
        return self._copy(
            f"COPY {sql.qualified(plan.name)} ({names}) FROM STDIN",
            (line + "\n" for line, gone in _lines(plan, changes, load) if not gone),
        )

    def _copy(self, statement: str, lines: Iterable[str]) -> int:
        with self._connection.cursor() as cursor:
            with cursor.copy(statement) as copy:
                buffered: list[str] = []
                size = 0
                for line in lines:
                    buffered.append(line)
                    size += len(line)
                    if size >= BUFFER_CHARACTERS:
                        copy.write("".join(buffered))
                        buffered, size = [], 0
                copy.write("".join(buffered))
            return cursor.rowcount

    # --- Unique values ---------------------------------------------------------------

    def _clashes(
        self, stage: _Stage, plan: TablePlan, unique: LiveUnique, limit: int
    ) -> list[Clash]:
        types = plan.schema.types()
        keys = [name for name, _ in plan.schema.key]
        wanted = [(name, f"s.{stage.places[name]}") for name in (*keys, *unique.columns)]
        wanted += [(name, f"t.{sql.quote(name)}") for name in keys]
        outputs = ", ".join(
            f"({sql.output(plan, name, types[name], column)})::pg_catalog.text"
            for name, column in wanted
        )
        rows = self._query(
            f"SELECT {outputs} FROM pg_temp.{stage.name} AS s JOIN {sql.qualified(plan.name)} AS t"
            f" ON {_same_values(stage, unique, 's')} WHERE NOT s.gone AND NOT EXISTS"
            f" (SELECT FROM pg_temp.{stage.name} AS o WHERE {_same_key(plan, 'o')})"
            f" LIMIT {limit:d}"
        )
        found = []
        for row in rows:
            cells = [
                cell_of(types[name], text) for (name, _), text in zip(wanted, row, strict=True)
            ]
            key, values, holder = (
                cells[: len(keys)],
                cells[len(keys) : -len(keys)],
                cells[-len(keys) :],
            )
            found.append(
                Clash(
                    plan.name,
                    unique.name,
                    tuple(key),
                    tuple(zip(unique.columns, values, strict=True)),
                    tuple(holder),
                )
            )
        return found

    def _release(self, stage: _Stage, plan: TablePlan, unique: LiveUnique) -> None:
        """Free values of one constraint which a row has and another staged row is to have."""
        table = sql.qualified(plan.name)
        changed = " OR ".join(
            f"t.{sql.quote(name)} IS DISTINCT FROM s.{stage.places[name]}"
            for name in unique.columns
        )
        other_key = " AND ".join(
            f"o.k{place} = s.k{place}" for place in range(len(plan.schema.key))
        )
        held = (
            f"{_same_key(plan, 's')} AND (s.gone OR {changed}) AND EXISTS"
            f" (SELECT FROM pg_temp.{stage.name} AS o WHERE NOT o.gone AND NOT ({other_key})"
            f" AND {_same_values(stage, unique, 'o')})"
        )
        source = f"pg_temp.{stage.name} AS s"
        if not self._ask(f"SELECT EXISTS (SELECT FROM {table} AS t, {source} WHERE {held})"):
            return
        if stage.deletes and not self._ask(_REFERENCED, table):
            stage.deleted_early += self._run(
                f"DELETE FROM {table} AS t USING {source} WHERE s.gone AND {held}"
            )
            if not self._ask(f"SELECT EXISTS (SELECT FROM {table} AS t, {source} WHERE {held})"):
                return
        column, value = self._parked(stage, plan, unique)
        if "{place}" in value:
            numbered = f"(SELECT *, row_number() OVER () AS place FROM {source}) AS s"
            source, value = numbered, value.replace("{place}", "s.place")
        self._run(
            f"UPDATE {table} AS t SET {sql.quote(column)} = {value} FROM {source} WHERE {held}"
        )

    def _parked(self, stage: _Stage, plan: TablePlan, unique: LiveUnique) -> tuple[str, str]:
        """Return a column of the constraint and an expression for a value that no row has."""
        keys = {name for name, _ in plan.schema.key}
        free = [n for n in unique.columns if n not in keys and n not in stage.always]
        # A row that refers to the value follows it to another and back, but not from NULL; and
        # where an update empties the reference, nothing brings it back.
        followed = self._query(_FOLLOWED, sql.qualified(plan.name))
        emptied = {name for name, action in followed if action != "c"}
        free = [name for name in free if name not in emptied]
        cascading = {name for name, _ in followed}
        for name in free:
            column = plan.live.column(name)
            if column is None or not column.nullable or unique.nulls_equal:
                continue
            if name not in cascading:
                return name, "NULL"
        referring = {name for foreign in plan.live.foreign for name in foreign.key.columns}
        for name in free:
            value = self._random_value(stage, plan, name)
            if name not in referring and value is not None:
                return name, value
        raise Refused(
            f"table {plan.name}: rows take values of {unique.name}"
            f" ({', '.join(unique.columns)}) from each other, and no column of it can hold"
            " another value meanwhile",
            hint=f"make the constraint deferrable: ALTER TABLE ... ADD CONSTRAINT {unique.name}"
            " UNIQUE (...) DEFERRABLE",
            table=plan.name,
            constraint=unique.name,
        )

    def _random_value(self, stage: _Stage, plan: TablePlan, name: str) -> str | None:
        column = plan.live.column(name)
        if column is None or column.type not in ("text", "uuid", "bytes", "int"):
            return None
        if column.type == "uuid":
            return "pg_catalog.gen_random_uuid()"
        if column.type == "bytes":
            return f"pg_catalog.decode({_RANDOM_HEX}, 'hex')"
        if column.type == "int":
            quoted, table = sql.quote(name), sql.qualified(plan.name)
            return (
                f"(SELECT max(p.{quoted}) FROM {table} AS p) + (SELECT coalesce(max("
                f"p.{stage.places[name]}), 0) FROM pg_temp.{stage.name} AS p WHERE NOT p.gone"
                f" AND p.{stage.places[name]} > 0) + {{place}}"
            )
        if column.native == "character":
            return None
        match = _LENGTH.fullmatch(column.native)
        if match is None:
            return _RANDOM_HEX
        length = int(match[1])
        if length < PARKED_CHARACTERS_MIN:
            return None
        return f"pg_catalog.left({_RANDOM_HEX}, {length})"

    # --- Writing ---------------------------------------------------------------------

    def _refuse_always(self, stage: _Stage, plan: TablePlan) -> None:
        """Refuse to update a column that is GENERATED ALWAYS AS IDENTITY: Postgres would."""
        for column in plan.schema.live:
            if column.name not in stage.always:
                continue
            if self._ask(
                f"SELECT EXISTS (SELECT FROM {sql.qualified(plan.name)} AS t JOIN"
                f" pg_temp.{stage.name} AS s ON {_same_key(plan, 's')} WHERE NOT s.gone AND"
                f" t.{sql.quote(column.name)} IS DISTINCT FROM s.c{column.slot})"
            ):
                raise Refused(
                    f"table {plan.name}: {column.name} is GENERATED ALWAYS AS IDENTITY, and a row"
                    " that exists is to get another value of it",
                    hint=f"leave it out as 'local', or ALTER COLUMN {column.name} SET GENERATED"
                    " BY DEFAULT",
                    table=plan.name,
                    column=column.name,
                )

    def _advance_sequences(self, stage: _Stage, plan: TablePlan) -> None:
        """Let the sequences of recorded columns go on after the values that were written."""
        types = plan.schema.types()
        for name, sequence in self._query(_SEQUENCES, sql.qualified(plan.name)):
            if types.get(name) != "int":
                continue
            top = (
                f"SELECT max({sql.quote(name)}) AS top FROM {sql.qualified(plan.name)}".replace(
                    "%", "%%"
                )
                if stage.direct
                else f"SELECT max({stage.places[name]}) AS top FROM pg_temp.{stage.name}"
                " WHERE NOT gone"
            )
            counter = sequence.replace("%", "%%")
            self._query(
                f"SELECT pg_catalog.setval(p.seqrelid, m.top) FROM ({top}) AS m, {counter} AS q,"
                " pg_catalog.pg_sequence AS p WHERE p.seqrelid = %s::pg_catalog.regclass"
                " AND p.seqincrement > 0 AND m.top <= p.seqmax AND (m.top > q.last_value"
                " OR m.top = q.last_value AND NOT q.is_called)",
                sequence,
            )

    def _defer(self) -> None:
        if not self._deferred:
            self._run("SET CONSTRAINTS ALL DEFERRED")
            self._deferred = True

    def _check_deferred(self) -> None:
        if self._deferred:
            with translated(self._shown):
                self._run("SET CONSTRAINTS ALL IMMEDIATE")
            self._deferred = False

    # --- Statements ------------------------------------------------------------------

    def _run(self, statement: str) -> int:
        """Execute a statement and return how many rows it wrote."""
        return self._connection.execute(statement).rowcount

    def _query(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        # Without values nothing is looked for, and a percent sign in a name stands for itself.
        cursor = self._connection.execute(statement, values or None)
        return cursor.fetchall()

    def _ask(self, statement: str, *values: object) -> bool:
        ((answer,),) = self._query(statement, *values)
        return bool(answer)


def _places(plan: TablePlan) -> dict[str, str]:
    """Return column -> its column in the stage."""
    places = {name: f"k{place}" for place, (name, _) in enumerate(plan.schema.key)}
    return places | {column.name: f"c{column.slot}" for column in plan.schema.live}


def _uniques(plan: TablePlan) -> list[LiveUnique]:
    """Return the unique constraints besides the key whose columns are all recorded."""
    recorded = plan.schema.types().keys()
    key = {name for name, _ in plan.schema.key}
    return [u for u in plan.live.uniques if recorded >= set(u.columns) and set(u.columns) != key]


def _same_key(plan: TablePlan, alias: str) -> str:
    """Return the condition that a row of the table, `t`, is the staged one."""
    return " AND ".join(
        f"t.{sql.quote(name)} = {alias}.k{place}" for place, (name, _) in enumerate(plan.schema.key)
    )


def _same_values(stage: _Stage, unique: LiveUnique, alias: str) -> str:
    """Return the condition that `t` has the unique values which a staged row is to have."""
    equal = "IS NOT DISTINCT FROM" if unique.nulls_equal else "="
    return " AND ".join(
        f"t.{sql.quote(name)} {equal} {alias}.{stage.places[name]}" for name in unique.columns
    )


def _upsert_statement(stage: _Stage, plan: TablePlan) -> str:
    """Return one statement that updates and inserts, and counts both.

    One, so that foreign keys among the rows are checked when all of them are there. Not
    ON CONFLICT DO UPDATE, which takes a number of every sequence, fires insert triggers for
    rows that exist, and knows no deferrable key. DO NOTHING remains for a key that another
    transaction has just inserted: Postgres then reports a serialization failure.
    """
    table = sql.qualified(plan.name)
    source = f"pg_temp.{stage.name} AS s"
    settable = [column for column in plan.schema.live if column.name not in stage.always]
    parts = []
    if settable:
        sets = ", ".join(f"{sql.quote(c.name)} = s.c{c.slot}" for c in settable)
        differs = " OR ".join(
            f"{sql.fine(plan, c.name, c.type, f't.{sql.quote(c.name)}')} IS DISTINCT FROM"
            f" {sql.fine(plan, c.name, c.type, f's.c{c.slot}')}"
            for c in settable
        )
        parts.append(
            f"updated AS (UPDATE {table} AS t SET {sets} FROM {source}"
            f" WHERE NOT s.gone AND {_same_key(plan, 's')} AND ({differs}) RETURNING 1)"
        )
    names = ", ".join(map(sql.quote, stage.places))
    values = ", ".join(f"s.{place}" for place in stage.places.values())
    keys = {name for name, _ in plan.schema.key}
    on_conflict = ""
    if any(set(u.columns) == keys and not u.deferrable for u in plan.live.uniques):
        on_conflict = f" ON CONFLICT ({', '.join(map(sql.quote, sorted(keys)))}) DO NOTHING"
    parts.append(
        f"inserted AS (INSERT INTO {table} ({names}) OVERRIDING SYSTEM VALUE SELECT {values}"
        f" FROM {source} WHERE NOT s.gone AND NOT EXISTS"
        f" (SELECT FROM {table} AS t WHERE {_same_key(plan, 's')}){on_conflict} RETURNING 1)"
    )
    updated = "(SELECT count(*) FROM updated)" if settable else "0"
    return f"WITH {', '.join(parts)} SELECT (SELECT count(*) FROM inserted), {updated}"


# --- Rows -> COPY text ---------------------------------------------------------------


def _lines(
    plan: TablePlan, changes: Iterable[Change], load: LoadContent
) -> Iterator[tuple[str, bool]]:
    """Yield a line of COPY for each change, without its end, and whether it is a deletion."""
    keys = [_RENDER[type_] for _, type_ in plan.schema.key]
    columns = [(column.slot, column.type, _RENDER[column.type]) for column in plan.schema.live]
    width = plan.schema.width
    nulls = ["\\N"] * len(columns)
    for change in changes:
        fields = [render(cell) for render, cell in zip(keys, decode_key(change.key), strict=True)]
        if change.new is None:
            yield "\t".join([*fields, *nulls]), True
            continue
        cells = decode_row_trusted(change.new, width)
        for slot, type_, render in columns:
            cell = cells[slot]
            if type(cell) is Reference:
                cell = load_cell(type_, cell, load)
            fields.append("\\N" if cell is None else render(cell))
        yield "\t".join(fields), False


def _escape(text: str) -> str:
    if not _SPECIAL.search(text):
        return text
    return _SPECIAL.sub(lambda match: _ESCAPES[match[0]], text)


def _render_time(type_: str) -> Callable[[Value], str]:
    def render(cell: Value) -> str:
        if type(cell) is int and DATETIME_MIN <= cell <= DATETIME_MAX:
            # Without an offset: the session is in UTC.
            return (EPOCH + timedelta(0, 0, cell)).isoformat(" ")
        return format_cell(type_, cell)

    return render


def _render_as(type_: str) -> Callable[[Value], str]:
    return lambda cell: format_cell(type_, cell)


_RENDER: dict[str, Callable[[Value], str]] = {
    "bool": lambda cell: "t" if cell else "f",
    "int": str,
    "numeric": str,
    "float": _render_as("float"),
    "text": _escape,
    "bytes": lambda cell: "\\\\x" + cell.hex(),
    "uuid": lambda cell: cell.hex(),
    "date": _render_as("date"),
    "timestamp": _render_time("timestamp"),
    "timestamptz": _render_time("timestamptz"),
    "jsonb": _escape,
    "text[]": lambda cell: _escape(format_cell("text[]", cell)),
}
