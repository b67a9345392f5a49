"""What Postgres and psycopg raise -> the seven kinds. Translated here and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gsync.errors import Conflict, Denied, GsyncError, Invalid, NotFound, Unavailable
from gsync.replicas.tables.base import BadRows, Interfered, Refused

if TYPE_CHECKING:
    import psycopg

# What libpq says before a session exists comes without an SQLSTATE, in the server's words.
_DENIED = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry|role .* does not exist"
    r"|permission denied for database|is not permitted to log in"
)
_NO_DATABASE = re.compile(r'database ".*" does not exist')
_INTERFERED = frozenset(("40001", "40P01"))
_TOO_BUSY = ("53", "57", "58")
_DETAIL_CHARACTERS_MAX = 400


@contextmanager
def translated(shown: str, table: str | None = None) -> Iterator[None]:
    """Raise what psycopg raises in the block as an error of gsync, which names `table`."""
    import psycopg

    try:
        yield
    except psycopg.Error as error:
        raise translate(error, shown, table) from error


def translate(error: psycopg.Error, shown: str, table: str | None = None) -> GsyncError:
    """Return the error that gsync raises for one of a session's."""
    state = error.sqlstate or ""
    what = one_line(error.diag.message_primary or str(error))
    table = table or error.diag.table_name
    name = f"table {table}" if table else shown
    if state in _INTERFERED:
        return Interfered(
            f"{name}: another transaction changed the same rows meanwhile ({what})",
            hint="nothing was changed; try again",
            sqlstate=state,
        )
    if state == "55P03":
        return Unavailable(
            f"{name}: locked by another session for too long ({what})",
            hint="wait for it to finish, or look for it in pg_stat_activity",
            sqlstate=state,
        )
    if state == "42501":
        return Denied(
            f"{name}: {what}",
            hint="grant the role what it lacks: SELECT to read; INSERT, UPDATE, DELETE to write",
            sqlstate=state,
        )
    if state.startswith("23"):
        return _violation(error, name, what)
    if state == "P0001":
        return Conflict(f"{name}: the database refused the change: {what}", sqlstate=state)
    if state == "22021":
        return BadRows(f"{name}: text that is not UTF-8 ({what})", sqlstate=state)
    if state.startswith("22"):
        return Refused(
            f"{name}: a value does not fit the column: {what}",
            hint="the table differs from the one recorded: compare types and lengths",
            sqlstate=state,
        )
    if state in ("42P01", "42703", "3F000"):
        return Conflict(f"{name}: {what}; it was there a moment ago", sqlstate=state)
    if not state or state.startswith(("08", *_TOO_BUSY)):
        return Unavailable(
            f"{shown}: the connection was lost or the server is not able to go on ({what})",
            hint="nothing was changed unless it was committing; try again",
            sqlstate=state,
        )
    return Invalid(f"{name}: {what} (SQLSTATE {state})", sqlstate=state)


def translate_connect(error: psycopg.Error, shown: str) -> GsyncError:
    """Return the error that gsync raises where no connection came about."""
    what, state = one_line(str(error)), error.sqlstate or ""
    if state == "3D000" or _NO_DATABASE.search(what):
        return NotFound(f"{shown}: {what}", hint="create the database, or correct its name")
    if state.startswith("28") or state == "42501" or _DENIED.search(what):
        return Denied(f"{shown}: {what}", hint="check the user, the password and pg_hba.conf")
    return Unavailable(
        f"cannot connect to {shown}: {what}",
        hint="check that the server runs and that host and port are right",
    )


def one_line(text: str) -> str:
    """Return `text` on one line, and not too long."""
    line = " ".join(text.split())
    return line if len(line) <= _DETAIL_CHARACTERS_MAX else line[: _DETAIL_CHARACTERS_MAX - 1] + "…"


def _violation(error: psycopg.Error, name: str, what: str) -> Conflict:
    diag = error.diag
    detail = one_line(diag.message_detail or "")
    return Conflict(
        f"{name}: {what}" + (f"; {detail}" if detail else ""),
        hint="nothing was changed; the rows break a rule of the database",
        sqlstate=error.sqlstate,
        table=diag.table_name,
        constraint=diag.constraint_name,
        column=diag.column_name,
    )
