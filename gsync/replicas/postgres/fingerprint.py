"""Whether a table of Postgres is what it was: a sum over keys and row versions.

Whatever inserts or updates a row gives it the id of its transaction, `xmin`, so a table in which
every key has the `xmin` that it had has the rows that it had, as long as nothing but rows makes
values: the definition of the columns, enums, and the database itself are part of it too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gsync.objects.encoding import encode
from gsync.replicas.postgres import sql
from gsync.replicas.tables.base import Fingerprint, TablePlan

if TYPE_CHECKING:
    import psycopg

# A column that was dropped and added again under its name may have another value in old rows,
# which holds no row of its own (attmissingval). Enum labels can be renamed in place.
_DEFINITION = """
SELECT c.oid, c.relfilenode, c.relkind::text, c.relhassubclass,
  (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()),
  pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text,
  pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text,
  (SELECT pg_catalog.md5(pg_catalog.string_agg(pg_catalog.concat_ws(' ',
      a.attnum, a.attname, a.atttypid, a.atttypmod, a.attcollation, a.atthasmissing,
      a.attmissingval::text, a.attgenerated), E'\\n' ORDER BY a.attnum))
    FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
  (SELECT pg_catalog.md5(pg_catalog.string_agg(pg_catalog.concat_ws(' ',
      e.oid, e.enumtypid, e.enumlabel), E'\\n' ORDER BY e.oid)) FROM pg_catalog.pg_enum e)
FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass(%s)
"""


def read_fingerprint(
    connection: psycopg.Connection[tuple[Any, ...]], plan: TablePlan, identity: str
) -> Fingerprint | None:
    """Return what the rows of a table are known by, or None where nothing could be trusted.

    A table with children, a view, a server that may not be asked who it is, and a key of a type
    that has no hash have none.
    """
    if not identity or identity.startswith("/"):
        return None
    import psycopg

    connection.execute("SAVEPOINT gsync_fingerprint")
    try:
        definition = connection.execute(_DEFINITION, (sql.qualified(plan.name),)).fetchone()
        if definition is None or definition[2] != "r" or definition[3]:
            return None
        rows = connection.execute(_sum(plan)).fetchone()
    except (psycopg.errors.UndefinedFunction, psycopg.errors.InsufficientPrivilege):
        connection.execute("ROLLBACK TO SAVEPOINT gsync_fingerprint")
        return None
    finally:
        if not connection.closed and not connection.broken:
            connection.execute("RELEASE SAVEPOINT gsync_fingerprint")
    assert rows is not None
    oid, file, _, _, timeline, bound, clock, columns, enums = definition
    text = encode([identity, timeline, oid, file, columns, enums])
    # Rows come into a scope without being written, when what they follow does.
    by_writer = int(bound) if plan.view.scope is None else -1
    return Fingerprint(text, encode(list(rows)), int(clock), rows[0], by_writer)


def _sum(plan: TablePlan) -> bytes:
    """Return the statement that counts rows, and adds up hashes of their keys and versions."""
    keys = ", ".join(f"t.{sql.quote(name)}" for name, _ in plan.schema.key)
    scope = plan.view.scope
    where = f" WHERE {sql.in_scope(scope, 't')}" if scope else ""
    statement = (
        "SELECT count(*),"
        f" bit_xor(pg_catalog.hash_record_extended(ROW({keys}, t.xmin), 0))"
        f" FROM {sql.qualified(plan.name)} AS t{where}"
    )
    return statement.encode()
