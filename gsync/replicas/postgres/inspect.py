"""The catalogs of Postgres -> LiveTables, in a few queries however many tables there are."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from gsync.replicas.tables.base import (
    LiveColumn,
    LiveForeignKey,
    LiveTable,
    LiveTrigger,
    LiveUnique,
)
from gsync.views.rows.schema import KEY_TYPES, ForeignKey

if TYPE_CHECKING:
    import psycopg

NULLS_NOT_DISTINCT_SINCE = 150_000
NOT_NULL_NOT_VALID_SINCE = 180_000

# 12-databases, section 2. Names of pg_catalog.pg_type.
TYPES = {
    "bool": "bool",
    "int2": "int",
    "int4": "int",
    "int8": "int",
    "numeric": "numeric",
    "float4": "float",
    "float8": "float",
    "text": "text",
    "varchar": "text",
    "bpchar": "text",
    "bytea": "bytes",
    "uuid": "uuid",
    "date": "date",
    "timestamp": "timestamp",
    "timestamptz": "timestamptz",
    "jsonb": "jsonb",
    "_text": "text[]",
    "_varchar": "text[]",
}
FILLS_ITSELF = ("nextval(", "gen_random_uuid(", "uuid_generate_", "random(", "uuidv4(", "uuidv7(")
ON_DELETE = {
    "a": "no action",
    "r": "restrict",
    "c": "cascade",
    "n": "set null",
    "d": "set default",
}
EVENTS = ((4, "INSERT"), (8, "DELETE"), (16, "UPDATE"), (32, "TRUNCATE"))

_TABLES = """
SELECT c.oid, n.nspname, c.relname, c.relkind::text, c.reltuples, row_security_active(c.oid),
    EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid) AND c.relkind <> 'p',
    EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid),
    EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'f') AND NOT c.relispartition AND c.relpersistence <> 't'
    AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
        AND d.objid = c.oid AND d.deptype = 'e')
"""
# A NOT NULL that is NOT VALID says nothing of the rows that were there before it.
_UNCHECKED = """EXISTS (SELECT FROM pg_constraint u WHERE u.conrelid = a.attrelid
    AND u.contype = 'n' AND NOT u.convalidated AND u.conkey = ARRAY[a.attnum])"""
_COLUMNS = """
SELECT a.attrelid, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod),
    CASE WHEN t.typnamespace = 'pg_catalog'::regnamespace THEN t.typname::text END,
    a.atttypmod, NOT a.attnotnull OR {unchecked}, pg_get_expr(d.adbin, d.adrelid),
    a.attidentity::text, a.attgenerated::text, coalesce(l.collisdeterministic, true)
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    LEFT JOIN pg_collation l ON l.oid = a.attcollation
WHERE a.attrelid = ANY(%s) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum
"""
# Full: no predicate, no expression; an exclusion constraint (WITHOUT OVERLAPS) is none.
_UNIQUES = """
SELECT i.indrelid, c.relname, i.indkey::int2[], i.indnkeyatts, i.indisprimary,
    NOT i.indimmediate, {nulls_equal}
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = ANY(%s) AND i.indisunique AND i.indisvalid AND NOT i.indisexclusion
    AND i.indpred IS NULL AND i.indexprs IS NULL
ORDER BY i.indrelid, NOT i.indisprimary, c.relname
"""
_FOREIGN = """
SELECT f.conrelid, f.conname, f.conkey, n.nspname, p.relname,
    ARRAY(SELECT a.attname::text FROM unnest(f.confkey) WITH ORDINALITY k(attnum, place)
        JOIN pg_attribute a ON a.attrelid = f.confrelid AND a.attnum = k.attnum ORDER BY k.place),
    f.confdeltype::text, f.condeferrable
FROM pg_constraint f JOIN pg_class p ON p.oid = f.confrelid
    JOIN pg_namespace n ON n.oid = p.relnamespace
WHERE f.conrelid = ANY(%s) AND f.contype = 'f' AND f.conparentid = 0
ORDER BY f.conrelid, f.conname
"""
_TRIGGERS = """
SELECT t.tgrelid, t.tgname, t.tgtype, n.nspname || '.' || p.proname || '()'
FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE t.tgrelid = ANY(%s) AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A')
ORDER BY t.tgrelid, t.tgname
"""


class _Parts(NamedTuple):
    """What belongs to one table, by its oid."""

    columns: dict[int, dict[int, LiveColumn]]
    uniques: dict[int, list[LiveUnique]]
    foreign: dict[int, list[LiveForeignKey]]
    triggers: dict[int, list[LiveTrigger]]


def read_tables(connection: psycopg.Connection[tuple[Any, ...]]) -> list[LiveTable]:
    """Return the user tables, in order of names; views and partitions are left out."""
    # Without a path, types and functions are printed with their schema. What triggers look
    # up later needs the path back.
    row = connection.execute(
        "SELECT current_setting('search_path'), set_config('search_path', '', true)"
    ).fetchone()
    assert row is not None
    found = connection.execute(_TABLES).fetchall()
    parts = _read_parts(connection, [table[0] for table in found])
    connection.execute("SELECT set_config('search_path', %s, true)", [row[0]])
    tables = [_table(table, parts) for table in found]
    return sorted(tables, key=lambda table: table.name.encode())


def logical_name(schema: str, table: str) -> str:
    """Return `table`, or `schema.table` outside of `public`."""
    return table if schema == "public" else f"{schema}.{table}"


def _read_parts(connection: psycopg.Connection[tuple[Any, ...]], oids: list[int]) -> _Parts:
    parts = _Parts(defaultdict(dict), defaultdict(list), defaultdict(list), defaultdict(list))
    columns, uniques, foreign, triggers = parts
    version = connection.info.server_version
    unchecked = _UNCHECKED if version >= NOT_NULL_NOT_VALID_SINCE else "false"
    for oid, number, *rest in connection.execute(
        _COLUMNS.replace("{unchecked}", unchecked), [oids]
    ):
        columns[oid][number] = _column(*rest)
    nulls_equal = "i.indnullsnotdistinct" if version >= NULLS_NOT_DISTINCT_SINCE else "false"
    for oid, name, numbers, count, primary, deferrable, equal in connection.execute(
        _UNIQUES.replace("{nulls_equal}", nulls_equal), [oids]
    ):
        names = tuple(columns[oid][number].name for number in numbers[:count])
        uniques[oid].append(LiveUnique(name, names, primary, deferrable, equal))
    for oid, name, numbers, schema, parent, others, on_delete, deferrable in connection.execute(
        _FOREIGN, [oids]
    ):
        names = tuple(columns[oid][number].name for number in numbers)
        key = ForeignKey(names, logical_name(schema, parent), tuple(others), ON_DELETE[on_delete])
        foreign[oid].append(LiveForeignKey(name, key, deferrable))
    for oid, name, bits, function in connection.execute(_TRIGGERS, [oids]):
        events = tuple(event for bit, event in EVENTS if bits & bit)
        triggers[oid].append(LiveTrigger(name, events, function))
    return parts


def _table(found: tuple[Any, ...], parts: _Parts) -> LiveTable:
    oid, schema, name, kind, rows, hidden, is_parent, is_child, has_rules = found
    problem = None
    if kind == "f":
        problem = "it is a foreign table: its rows are on another server"
    elif is_parent:
        problem = "other tables inherit from it, so that it shows their rows as its own"
    elif is_child:
        problem = "it inherits from another table, which shows its rows too"
    elif hidden:
        problem = "row-level security hides rows of it from this role"
    elif "." in schema or (schema == "public" and "." in name):
        problem = "a point in its name would stand for the end of a schema's name"
    elif has_rules:
        problem = "it has rules, which turn writes into others"
    return LiveTable(
        logical_name(schema, name),
        tuple(parts.columns[oid].values()),
        tuple(parts.uniques[oid]),
        tuple(parts.foreign[oid]),
        tuple(parts.triggers[oid]),
        int(rows),
        problem,
    )


def _column(
    name: str,
    native: str,
    catalog_type: str | None,
    modifier: int,
    nullable: bool,
    default: str | None,
    identity: str,
    generated: str,
    deterministic: bool,
) -> LiveColumn:
    type_ = TYPES.get(catalog_type or "")
    problem = None
    if type_ is None:
        problem = f"its type {native} is not carried"
    elif type_ not in KEY_TYPES:
        problem = f"equal values of {native} have several spellings"
    elif type_ == "numeric" and modifier == -1:
        problem = "numeric without a declared scale: 1.0 and 1.00 are equal"
    elif not deterministic:
        problem = "its collation is not deterministic: different texts are equal"
    elif generated:
        problem = "the database computes it"
    fills_itself = bool(identity) or any(part in (default or "") for part in FILLS_ITSELF)
    return LiveColumn(
        name,
        type_,
        native,
        nullable,
        None if generated else default,
        fills_itself and not generated,
        bool(generated),
        problem,
    )
