"""A URL -> sessions on a Postgres server, under settings that make text come out one way."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from gsync.errors import Invalid
from gsync.frozen import replace
from gsync.objects.encoding import Reference
from gsync.replicas.postgres.errors import translate_connect, translated
from gsync.replicas.tables.base import Fingerprint, LiveTable, Refused, TablePlan
from gsync.views.rows.values import SpillContent

if TYPE_CHECKING:
    import psycopg

    from gsync.replicas.postgres.write import PostgresWriting

    Connection = psycopg.Connection[tuple[Any, ...]]

SERVER_MIN = 140_000
TRANSACTION_TIMEOUT_SINCE = 170_000
CONNECT_TIMEOUT_S = 10
LOCK_TIMEOUT_MS = 10_000

# One writer of gsync per database: "gsyn" as a number, then what the lock is for.
ADVISORY_LOCK = (0x6773796E, 1)

# Output has one form, and nothing ends a long scan but an error. `row_security = off` makes
# a policy that would hide rows an error, where the default would drop them in silence.
SETTINGS = {
    "client_encoding": "UTF8",
    "DateStyle": "ISO, YMD",
    "TimeZone": "UTC",
    "IntervalStyle": "iso_8601",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "row_security": "off",
    "lock_timeout": str(LOCK_TIMEOUT_MS),
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "standard_conforming_strings": "on",
}
_SECRETS = re.compile(r"(?i)(^|&)(password|sslpassword)=[^&]*")


def is_postgres_url(url: str) -> bool:
    """Return whether `url` names a Postgres database."""
    return url.startswith(("postgresql://", "postgres://"))


class PostgresDatabase:
    """A Postgres database at a URL. Each session is a connection of its own.

    Attributes:
        engine: `postgres`.
        shown: The URL without its password.
    """

    engine = "postgres"

    def __init__(
        self, url: str, password: str | None = None, *, connect_timeout_s: int = CONNECT_TIMEOUT_S
    ) -> None:
        """Take the address; nothing is connected yet.

        Args:
            url: As libpq reads it; a directory of a unix socket is the parameter `host`.
            password: Takes the place of one in the URL.
            connect_timeout_s: For each address that the host has.

        Raises:
            Invalid: not a URL of Postgres.
        """
        if not is_postgres_url(url):
            raise Invalid(
                f"not a URL of Postgres: {url.partition(':')[0][:40]!r} where postgresql:// is"
                " expected"
            )
        self.shown = hide_password(url)
        self._url = url
        self._password = password
        self._connect_timeout_s = connect_timeout_s
        self._identity: str | None = None

    def identity(self) -> str:
        """Return the cluster's identifier, which `initdb` draws, and the database's oid in it.

        A standby that takes over has those of the server that it stood by. Connects if nothing
        has yet.
        """
        if self._identity is None:
            self._connect().close()
        assert self._identity is not None
        return self._identity

    @contextmanager
    def reading(self, *, fingerprints: bool = False) -> Iterator[PostgresSession]:
        """Open one read-only snapshot of the whole database; writers are not held up.

        Args:
            fingerprints: Whether they are asked for; here they cost nothing before that.

        Raises:
            Unavailable: the server cannot be reached.
            Denied: it does not let this user in.
            NotFound: it has no such database.
        """
        connection = self._connect()
        try:
            with translated(self.shown):
                # Within the transaction, so that a pooler's connection is left as it was.
                connection.execute(
                    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; "
                    + _settings(connection, "SET LOCAL")
                    + "; SET LOCAL search_path = ''"
                )
            yield PostgresSession(connection, self.shown, self._identity or "")
        finally:
            connection.close()

    @contextmanager
    def writing(self) -> Iterator[PostgresWriting]:
        """Open one transaction that writes; leaving it without `commit` rolls back.

        Raises:
            Unavailable, Denied, NotFound: as above; Unavailable too if another writer of
                gsync does not finish in time.
            Refused: the connection goes through a pooler.
        """
        from gsync.replicas.postgres.write import PostgresWriting

        connection = self._connect()
        try:
            with translated(self.shown):
                self._refuse_pooler(connection)
                # The search path is left to the role: triggers look things up by it.
                connection.execute(_settings(connection, "SET"))
                _notice_lost_client(connection)
                # Before the snapshot: taken inside, it would wait with an old one.
                connection.execute("SELECT pg_advisory_lock(%s, %s)", ADVISORY_LOCK)
                connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ WRITE")
            yield PostgresWriting(connection, self.shown)
        finally:
            connection.close()

    def _connect(self) -> Connection:
        psycopg = _import_psycopg()
        try:
            parameters = psycopg.conninfo.conninfo_to_dict(self._url)
        except psycopg.Error as error:
            raise Invalid(f"{self.shown}: not a URL that libpq understands") from error
        if self._password is not None:
            parameters["password"] = self._password
        parameters["connect_timeout"] = self._connect_timeout_s
        parameters.setdefault("application_name", "gsync")
        parameters["client_encoding"] = "UTF8"
        try:
            connection: Connection = psycopg.connect(
                **parameters, autocommit=True, prepare_threshold=None
            )
        except psycopg.Error as error:
            raise translate_connect(error, self.shown) from None
        version = connection.info.server_version
        if version < SERVER_MIN:
            connection.close()
            raise Invalid(
                f"{self.shown}: Postgres {version // 10000}, where 14 is the oldest that works",
                hint="upgrade the server",
            )
        if self._identity is None:
            with translated(self.shown):
                self._identity = _read_identity(connection)
        return connection

    def _refuse_pooler(self, connection: Connection) -> None:
        """Refuse a connection whose server process is not the one that it was told of."""
        row = connection.execute("SELECT pg_backend_pid()").fetchone()
        assert row is not None
        if row[0] != connection.pgconn.backend_pid:
            raise Refused(
                f"{self.shown}: goes through a connection pooler, where locks and temporary"
                " tables do not hold",
                hint="use the address of the server itself to write",
            )


class PostgresSession:
    """A database seen from within one transaction."""

    def __init__(self, connection: Connection, shown: str, identity: str = "") -> None:
        """Take an open transaction; without an identity nothing has a fingerprint."""
        self._connection = connection
        self._shown = shown
        self._identity = identity

    def fingerprint(self, plan: TablePlan) -> Fingerprint | None:
        """Return what the rows of a table are known by; see `read_fingerprint`."""
        from gsync.replicas.postgres.fingerprint import read_fingerprint

        with translated(self._shown, plan.name):
            return read_fingerprint(self._connection, plan, self._identity)

    def tables(self) -> list[LiveTable]:
        """Return what the catalog has, in order of names: user tables only."""
        from gsync.replicas.postgres.inspect import read_tables

        with translated(self._shown):
            return read_tables(self._connection)

    def rows(self, plan: TablePlan, spill: SpillContent) -> Iterator[tuple[bytes, bytes]]:
        """Yield encoded key and encoded row of every row, in key order, in constant memory.

        Nothing else can be asked of the session until the iterator ends or is closed.

        Raises:
            BadRows: a key is too long or there twice, or a value has no encoding.
        """
        from gsync.replicas.postgres.scan import read_rows

        with translated(self._shown, plan.name):
            yield from read_rows(self._connection, plan, spill)

    def rows_since(
        self, plan: TablePlan, spill: SpillContent, bound: int
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield as `rows` does those of transactions that are not older than `bound`."""
        from gsync.replicas.postgres.scan import read_rows

        with translated(self._shown, plan.name):
            yield from read_rows(self._connection, plan, spill, bound)

    def keys(self, plan: TablePlan) -> Iterator[bytes]:
        """Yield the encoded key of every row, in order, in constant memory."""
        bare = replace(plan, schema=replace(plan.schema, columns=()))
        return (key for key, _ in self.rows(bare, _no_content))

    def present(self, plan: TablePlan, keys: Sequence[bytes]) -> list[bytes]:
        """Return those of `keys` that a row has, whatever the scope; hand in some hundreds."""
        from gsync.replicas.postgres.scan import present_keys

        with translated(self._shown, plan.name):
            return present_keys(self._connection, plan, keys)


def _no_content(content: bytes) -> Reference:
    raise AssertionError("a row of no columns has no content")


def hide_password(url: str) -> str:
    """Return `url` without the passwords in it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url.partition("://")[0] + "://…"
    user, at, host = parts.netloc.rpartition("@")
    query = _SECRETS.sub("", parts.query).lstrip("&")
    shown = urlunsplit(parts._replace(netloc=user.partition(":")[0] + at + host, query=query))
    # urlunsplit drops the empty authority of postgresql:///name.
    return shown if "://" in shown else shown.replace(":", "://", 1)


def _settings(connection: Connection, verb: str) -> str:
    values = dict(SETTINGS)
    if connection.info.server_version >= TRANSACTION_TIMEOUT_SINCE:
        values["transaction_timeout"] = "0"
    return "; ".join(f"{verb} {name} = '{value}'" for name, value in values.items())


def _read_identity(connection: Connection) -> str:
    """Return `CLUSTER/OID`; the cluster is left out where this user may not ask for it."""
    row = connection.execute(
        "SELECT oid, has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')"
        " FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()"
    ).fetchone()
    assert row is not None
    oid, may_ask = row
    if not may_ask:
        return f"/{oid}"
    found = connection.execute(
        "SELECT system_identifier FROM pg_catalog.pg_control_system()"
    ).fetchone()
    assert found is not None
    return f"{found[0]}/{oid}"


def _notice_lost_client(connection: Connection) -> None:
    """Let the server end a long statement of ours, with its locks, when we are gone."""
    import psycopg

    try:
        connection.execute("SET client_connection_check_interval = '5s'")
    except psycopg.errors.InvalidParameterValue:
        pass  # not on every platform


def _import_psycopg() -> Any:
    try:
        import psycopg
        import psycopg.conninfo
    except ImportError as error:
        raise Invalid(
            "psycopg is not installed, and a Postgres database is asked for",
            hint="pip install 'gsync[postgres]'",
        ) from error
    return psycopg
