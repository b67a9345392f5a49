"""`gsync.toml`, `.gsync/config.toml` and the environment -> frozen values (09-config).

Nothing else reads the environment, and nothing else knows what the files look like.
`gsync.toml` comes with a pull, so whatever could connect, run or reach out of the folder
is refused in it, known key or not.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from gsync.errors import Invalid, NotFound, TooLarge
from gsync.frozen import frozen
from gsync.urls import (
    HttpUrl,
    PathUrl,
    PeerUrl,
    check_database_name,
    check_remote_name,
    parse_database_url,
    parse_url,
)

SHARED_FILE = "gsync.toml"
LOCAL_FILE = "config.toml"
FILE_BYTES_MAX = 1 << 20
REMOTES_MAX = 1000
AUTHOR_BYTES_MAX = 255  # 04-manifest, rule 5

SHARED_TEMPLATE = """\
# What everybody who works on this content must agree on. This file is tracked.
# Addresses, commands and paths out of this folder are refused here: see .gsync/config.toml.
# Every setting: spec/09-config.md.

version = 1
"""

LOCAL_TEMPLATE = """\
# This machine's own settings. Never tracked; keep it readable by you alone.
# Every setting: spec/09-config.md. Tokens do not belong here: see 'gsync login'.

# Who made your manifests. Without it: the name you log in with.
# [author]
# name = "Ada Lovelace"
# email = "ada@example.org"

# Other stores. 'gsync remote add NAME URL' writes this for you.
# [remotes.origin]
# url = "https://sync.example.org/team"
# token_file = "~/.secrets/team-token"

# [limits]
# stall_s = 30
"""


class InvalidConfig(Invalid):
    """A configuration file, or a variable, is not what 09-config allows."""

    def __init__(self, file: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(f"{file}: {message}", hint=hint, file=file)


# --- Values --------------------------------------------------------------------------


@frozen
class TableConfig:
    """`[db.NAME.tables.TABLE]`: what everybody has to see in one table alike.

    Attributes:
        key: The columns of the sync key, in order.
        local: Columns that mean nothing in another database.
        volatile: Columns that a trigger keeps.
        excluded: Columns that are left out for another reason.
        protected: Columns that an apply changes only when told to.
        keep_rows: Whether an apply deletes rows only when told to.
        merge: The merge policy of columns, by name; a tuple of pairs.
        together: Groups of columns that a merge takes from one side.
        where: Columns, and the values of which a recorded row has one; a tuple of pairs.
        follow: Columns that refer to a row of another table, which has to be recorded.
    """

    key: tuple[str, ...]
    local: tuple[str, ...] = ()
    volatile: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    protected: tuple[str, ...] = ()
    keep_rows: bool = False
    merge: tuple[tuple[str, str], ...] = ()
    together: tuple[tuple[str, ...], ...] = ()
    where: tuple[tuple[str, tuple[str, ...]], ...] = ()
    follow: tuple[str, ...] = ()

    def roles(self) -> dict[str, str]:
        """Return the role of every column that is left out."""
        roles = dict.fromkeys(self.local, "local") | dict.fromkeys(self.volatile, "volatile")
        return roles | dict.fromkeys(self.excluded, "excluded")


Tables = Mapping[str, TableConfig]

MERGE_POLICIES = (
    *("conflict", "ours", "theirs", "max", "min", "counter", "union", "json3", "text3"),
)
_POLICY = re.compile(rf"{'|'.join(MERGE_POLICIES)}|latest\([^()]+\)")


@frozen
class ContentConfig:
    """`[content]`: documents on disk and in a database (17-documents).

    Attributes:
        config: The file that names their sources, if it is where nobody looks for it.
        database: The database whose rows they are, if several have some.
    """

    config: str | None = None
    database: str | None = None


@frozen
class Shared:
    """`gsync.toml`; `databases` has the tables of each database by name.

    Attributes:
        rules_file: `[rules] file`: the file of access rules, if it is where nobody looks for it.
    """

    version: int = 1
    databases: Mapping[str, Tables] = field(default_factory=dict)
    content: ContentConfig = ContentConfig()
    rules_file: str | None = None


@frozen
class Author:
    """`[author]`."""

    name: str | None = None
    email: str | None = None

    def __str__(self) -> str:
        email = f"<{self.email}>" if self.email else ""
        return f"{self.name or ''} {email}".strip()


@frozen
class Remote:
    """`[remotes.NAME]`."""

    url: str
    token_file: str | None = None
    insecure_http: bool = False
    ca_file: str | None = None
    client_id: str | None = None
    include: tuple[str, ...] = ()

    def location(self) -> HttpUrl | PeerUrl | PathUrl:
        """Return the URL, parsed."""
        return parse_url(self.url, insecure_http=self.insecure_http)


@frozen
class DatabaseConfig:
    """`[db.NAME]`: where this machine's copy of the database `NAME` is.

    Attributes:
        url: Without a password.
        password_file: A file that holds the password and nothing else.
        peer: The same tables elsewhere, for `sync-all`; or None.
        peer_password_file: The same for the peer.
    """

    url: str
    password_file: str | None = None
    peer: str | None = None
    peer_password_file: str | None = None


@frozen
class Limits:
    """`[limits]`: what one machine may want otherwise; what peers agree on is not here."""

    connect_s: int = 10
    stall_s: int = 30
    attempts: int = 5
    import_entries_max: int = 1_000_000
    import_bytes_max: int = 64 << 30
    import_ratio_max: int = 1_000
    ops_days: int = 90
    ops_max: int = 1_000


@frozen
class JobConfig:
    """One of `[[jobs]]`.

    Attributes:
        name: What it is called; its lease and its record are by that.
        run: Which command: one of `gsync.jobs.run.KINDS`.
        cron: When, as five fields, in `timezone`.
        every: When, as the time from one slot to the next, counted from 1970.
        timezone: Of `cron`.
        parameters: Of the command; a tuple of pairs.
        jitter: The most that it waits after a slot.
        timeout: After how long it is ended.
        on_failure: A command, with its arguments, to run when it has failed.
    """

    name: str
    run: str
    cron: str | None = None
    every: str | None = None
    timezone: str = "UTC"
    parameters: tuple[tuple[str, str], ...] = ()
    jitter: str | None = None
    timeout: str | None = None
    on_failure: tuple[str, ...] = ()


@frozen
class Local:
    """`.gsync/config.toml`."""

    author: Author = Author()
    remotes: Mapping[str, Remote] = field(default_factory=dict)
    limits: Limits = Limits()
    databases: Mapping[str, DatabaseConfig] = field(default_factory=dict)
    jobs: tuple[JobConfig, ...] = ()


@frozen
class Environment:
    """What the environment says; None where it says nothing.

    Attributes:
        passwords: Passwords of databases, by the part of the variable's name between
            `GSYNC_DB_` and `_PASSWORD`.
    """

    token: str | None = field(default=None, repr=False)
    author: str | None = None
    no_color: bool = False
    config_home: Path = Path()
    passwords: Mapping[str, str] = field(default_factory=dict, repr=False)

    def password(self, name: str, *, peer: bool = False) -> str | None:
        """Return the password of the database `name`, or of its peer, or None."""
        variable = name.upper().replace("-", "_") + ("_PEER" if peer else "")
        return self.passwords.get(variable)


@frozen
class Config:
    """All of it, with what overrides what decided."""

    shared: Shared = Shared()
    local: Local = Local()
    environment: Environment = Environment()

    @property
    def author(self) -> str | None:
        """Whom new manifests name as their author, or None where nobody said."""
        return self.environment.author or str(self.local.author) or None

    @property
    def remotes(self) -> Mapping[str, Remote]:
        """The remotes by name."""
        return self.local.remotes

    @property
    def limits(self) -> Limits:
        """This machine's limits."""
        return self.local.limits

    @property
    def databases(self) -> list[str]:
        """The names of the databases that have tables to record and a URL here, sorted."""
        return sorted(self.shared.databases.keys() & self.local.databases.keys())

    def remote(self, name: str) -> Remote:
        """Return the remote `name`, or raise NoRemote."""
        if name not in self.remotes:
            raise NoRemote(name, self.remotes)
        return self.remotes[name]


class NoRemote(NotFound):
    """No remote is called so."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        guess = _closest(name, known)
        super().__init__(
            f"no remote is called {name!r}",
            hint=f"did you mean {guess!r}?" if guess else "add it with 'gsync remote add NAME URL'",
            name=name,
        )


# --- Reading -------------------------------------------------------------------------


def load_config(root: Path, workdir: Path, environ: Mapping[str, str] | None = None) -> Config:
    """Return what the files of one repository and the environment say; files may be absent.

    Args:
        root: Where `gsync.toml` lies. A bare store (`root` is `workdir`) has none.
        environ: `os.environ` unless given.

    Raises:
        InvalidConfig: a file holds what 09-config does not allow.
    """
    shared = b"" if root == workdir else read_config_file(root / SHARED_FILE, SHARED_FILE)
    shown = LOCAL_FILE if root == workdir else f".gsync/{LOCAL_FILE}"
    local = read_config_file(workdir / LOCAL_FILE, shown)
    return Config(
        parse_shared(shared) if shared else Shared(),
        parse_local(local, shown) if local else Local(),
        environment(os.environ if environ is None else environ),
    )


def environment(environ: Mapping[str, str]) -> Environment:
    """Return the variables that gsync knows (09-config, section 6); an empty one is unset."""
    author = environ.get("GSYNC_AUTHOR") or None
    if author is not None:
        _check_author(author, "GSYNC_AUTHOR", "the variable")
    home = environ.get("XDG_CONFIG_HOME", "")
    return Environment(
        token=environ.get("GSYNC_TOKEN") or None,
        author=author,
        no_color=bool(environ.get("NO_COLOR")) or environ.get("TERM") == "dumb",
        # The base directory specification has a relative one ignored.
        config_home=Path(home) if home.startswith("/") else Path(expand("~/.config")),
        passwords={
            match[1]: value
            for name, value in environ.items()
            if value and (match := _PASSWORD.fullmatch(name))
        },
    )


_PASSWORD = re.compile(r"GSYNC_DB_([A-Z0-9_]+)_PASSWORD")


def expand(path: str) -> str:
    """Return `path` with a leading `~/` replaced by the home directory."""
    return os.path.expanduser(path) if path.startswith("~/") else path


def parse_shared(data: bytes) -> Shared:
    """Return what `gsync.toml` says, or raise InvalidConfig."""
    table = _parse(data, SHARED_FILE)
    _refuse_outside(_without_tables(table), SHARED_FILE, "")
    top = _Table(table, SHARED_FILE)
    version = top.whole("version", 1, 1, 1 << 31)
    if version != 1:
        raise InvalidConfig(
            SHARED_FILE,
            f"version {version} is newer than this gsync knows, which is 1",
            hint="install a newer gsync",
        )
    databases = {name: _tables(name, inner) for name, inner in top.tables("db").items()}
    content = top.table("content")
    documents = ContentConfig(content.text("config"), content.text("database"))
    content.close()
    rules = top.table("rules")
    rules_file = rules.text("file")
    rules.close()
    top.close()
    return Shared(version, databases, documents, rules_file)


def _without_tables(table: dict[str, Any]) -> dict[str, Any]:
    """Return the file without `db.NAME.tables`, which holds names that others chose.

    A table may well be called `hooks`; what stands below it is columns, and read as such.
    """
    databases = table.get("db")
    if not isinstance(databases, dict):
        return table
    rest = {
        name: {key: value for key, value in inner.items() if key != "tables"}
        if isinstance(inner, dict)
        else inner
        for name, inner in databases.items()
    }
    return table | {"db": rest}


def _tables(name: str, database: _Table) -> Tables:
    check_database_name(name)
    tables = {table: _table(table, inner) for table, inner in database.tables("tables").items()}
    database.close()
    return tables


def _table(name: str, table: _Table) -> TableConfig:
    if not _TABLE_NAME.fullmatch(name):
        raise InvalidConfig(
            table.file, f"{name[:80]!r} is no table that can be recorded: expected a name of"
            " letters, digits, '_', '.' and '-'"
        )  # fmt: skip
    found = TableConfig(
        key=table.names("key"),
        local=table.names("local"),
        volatile=table.names("volatile"),
        excluded=table.names("excluded"),
        protected=table.names("protected"),
        keep_rows=table.flag("keep_rows"),
        merge=table.texts("merge"),
        together=table.groups("together"),
        where=table.choices("where"),
        follow=table.names("follow"),
    )
    table.close()
    if not found.key:
        raise InvalidConfig(table.file, f"db table {name} has no key")
    named = [*found.key, *found.local, *found.volatile, *found.excluded]
    for column in named:
        if named.count(column) > 1:
            raise InvalidConfig(table.file, f"db table {name}: column {column} has two roles")
    for column in found.protected:
        if column in named:
            raise InvalidConfig(
                table.file, f"db table {name}: {column} is protected, but not recorded as data"
            )
    for column in (*found.follow, *(column for column, _ in found.where)):
        if column in found.roles():
            raise InvalidConfig(
                table.file, f"db table {name}: {column} chooses rows, but is left out of them"
            )
    _check_merge(table.file, f"db table {name}", found, named)
    return found


def _check_merge(file: str, where: str, found: TableConfig, named: list[str]) -> None:
    """Refuse policies for columns that no merge looks at, and columns in several groups."""
    grouped = [column for group in found.together for column in group]
    for column in (*grouped, *(column for column, _ in found.merge)):
        if column in named:
            raise InvalidConfig(
                file, f"{where}: {column} is never merged: it is in the key, or left out"
            )
    for column in grouped:
        if grouped.count(column) > 1:
            raise InvalidConfig(file, f"{where}: {column} stands in 'together' more than once")
    for column, policy in found.merge:
        if not _POLICY.fullmatch(policy):
            raise InvalidConfig(
                file,
                f"{where}: {policy[:80]!r} is no merge policy for {column}",
                hint=f"one of {', '.join(MERGE_POLICIES)}, latest(COLUMN)",
            )


_TABLE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}")


def parse_local(data: bytes, shown: str = f".gsync/{LOCAL_FILE}") -> Local:
    """Return what `.gsync/config.toml` says, or raise InvalidConfig."""
    top = _Table(_parse(data, shown), shown)
    author, limits = _author(top.table("author")), _limits(top.table("limits"))
    remotes = {name: _remote(name, table) for name, table in top.tables("remotes").items()}
    databases = {name: _database(name, table) for name, table in top.tables("db").items()}
    jobs = tuple(map(_job, top.list_of_tables("jobs")))
    top.close()
    names = [job.name for job in jobs]
    for name in names:
        if names.count(name) > 1:
            raise InvalidConfig(shown, f"two jobs are called {name!r}")
    return Local(author, remotes, limits, databases, jobs)


_JOB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def _job(table: _Table) -> JobConfig:
    """Return a job; whether its schedule and parameters are any is looked at when it is used."""
    job = JobConfig(
        name=table.text("name") or "",
        run=table.text("run") or "",
        cron=table.text("cron"),
        every=table.text("every"),
        timezone=table.text("timezone") or "UTC",
        parameters=table.texts("parameters"),
        jitter=table.text("jitter"),
        timeout=table.text("timeout"),
        on_failure=table.names("on_failure"),
    )
    table.close()
    if not _JOB_NAME.fullmatch(job.name):
        raise InvalidConfig(
            table.file, f"jobs: expected a name of {_JOB_NAME.pattern}, found {job.name[:80]!r}"
        )
    if not job.run:
        raise InvalidConfig(table.file, f"job {job.name} has no 'run'")
    if job.cron and job.every:
        raise InvalidConfig(table.file, f"job {job.name} has both 'cron' and 'every'")
    return job


def _database(name: str, table: _Table) -> DatabaseConfig:
    url = table.text("url")
    if url is None:
        raise InvalidConfig(table.file, f"db.{name} has no url")
    database = DatabaseConfig(
        url, table.text("password_file"), table.text("peer"), table.text("peer_password_file")
    )
    table.close()
    try:
        check_database_name(name)
        for text in filter(None, (database.url, database.peer)):
            parse_database_url(text)
    except Invalid as error:
        raise InvalidConfig(table.file, f"db.{name}: {error.message}", hint=error.hint) from error
    return database


def _author(table: _Table) -> Author:
    author = Author(table.text("name"), table.text("email"))
    table.close()
    if author.email is not None and not re.fullmatch(r"[^\s<>@]+@[^\s<>@]+", author.email):
        raise InvalidConfig(table.file, f"author.email is not an address: {author.email!r}")
    _check_author(str(author), table.file, "author")
    return author


def _check_author(text: str, file: str, where: str) -> None:
    if len(text.encode("utf-8", "surrogateescape")) > AUTHOR_BYTES_MAX or (
        text and not text.isprintable()
    ):
        raise InvalidConfig(
            file, f"{where}: expected at most {AUTHOR_BYTES_MAX} bytes of one printable line"
        )


def _remote(name: str, table: _Table) -> Remote:
    url = table.text("url")
    if url is None:
        raise InvalidConfig(table.file, f"remotes.{name} has no url")
    remote = Remote(
        url,
        table.text("token_file"),
        table.flag("insecure_http"),
        table.text("ca_file"),
        table.text("client_id"),
        table.names("include"),
    )
    table.close()
    try:
        check_remote_name(name)
        remote.location()
    except Invalid as error:
        raise InvalidConfig(
            table.file, f"remotes.{name}: {error.message}", hint=error.hint
        ) from error
    return remote


def _limits(table: _Table) -> Limits:
    standard = Limits()
    limits = Limits(
        connect_s=table.whole("connect_s", standard.connect_s, 1, 3600),
        stall_s=table.whole("stall_s", standard.stall_s, 1, 3600),
        attempts=table.whole("attempts", standard.attempts, 1, 100),
        import_entries_max=table.whole(
            "import_entries_max", standard.import_entries_max, 1, 1 << 40
        ),
        import_bytes_max=table.whole("import_bytes_max", standard.import_bytes_max, 1, 1 << 60),
        import_ratio_max=table.whole("import_ratio_max", standard.import_ratio_max, 1, 1 << 20),
        ops_days=table.whole("ops_days", standard.ops_days, 1, 36_500),
        ops_max=table.whole("ops_max", standard.ops_max, 1, 1_000_000),
    )
    table.close()
    return limits


class _Table:
    """One table of a file. What was asked for is what is known: `close` refuses the rest."""

    def __init__(self, values: Mapping[str, Any], file: str, where: str = "") -> None:
        self.file = file
        self._values = values
        self._where = where
        self._known: set[str] = set()

    def text(self, name: str) -> str | None:
        value = self._value(name, str, "a text", None)
        if value is not None and (not value or not value.isprintable()):
            raise self._wrong(name, "a text of printable characters", value)
        return value

    def names(self, name: str) -> tuple[str, ...]:
        values = self._value(name, list, "a list of names", [])
        for value in values:
            if not isinstance(value, str) or not value:
                raise self._wrong(name, "a list of names", value)
        return tuple(values)

    def texts(self, name: str) -> tuple[tuple[str, str], ...]:
        values = self._value(name, dict, "a table of texts", {})
        for key, value in values.items():
            if not isinstance(value, str) or not value.isprintable():
                raise self._wrong(f"{name}.{key}", "a text", value)
        return tuple(sorted(values.items()))

    def groups(self, name: str) -> tuple[tuple[str, ...], ...]:
        values = self._value(name, list, "a list of lists of names", [])
        for value in values:
            if not isinstance(value, list) or not all(isinstance(v, str) and v for v in value):
                raise self._wrong(name, "a list of lists of names", value)
        return tuple(tuple(value) for value in values)

    def choices(self, name: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
        values = self._value(name, dict, "a table of values", {})
        found = []
        for key, value in values.items():
            some = value if isinstance(value, list) else [value]
            if not some or not all(isinstance(one, str | int) for one in some):
                raise self._wrong(f"{name}.{key}", "a value, or a list of values", value)
            texts = [str(one).lower() if isinstance(one, bool) else str(one) for one in some]
            found.append((key, tuple(texts)))
        return tuple(sorted(found))

    def flag(self, name: str) -> bool:
        return bool(self._value(name, bool, "true or false", False))

    def whole(self, name: str, default: int, least: int, most: int) -> int:
        value = self._value(name, int, "a whole number", default)
        if isinstance(value, bool) or not least <= value <= most:
            raise self._wrong(name, f"a whole number from {least} to {most}", value)
        return int(value)

    def table(self, name: str) -> _Table:
        return _Table(self._value(name, dict, "a table", {}), self.file, self._path(name) + ".")

    def tables(self, name: str) -> dict[str, _Table]:
        values = self._value(name, dict, "a table of tables", {})
        if len(values) > REMOTES_MAX:
            raise self._wrong(name, f"at most {REMOTES_MAX} tables", len(values))
        for key, value in values.items():
            if not isinstance(value, dict):
                raise self._wrong(f"{name}.{key}", "a table", value)
        return {k: _Table(v, self.file, f"{self._path(name)}.{k}.") for k, v in values.items()}

    def list_of_tables(self, name: str) -> list[_Table]:
        values = self._value(name, list, "a list of tables", [])
        if len(values) > REMOTES_MAX:
            raise self._wrong(name, f"at most {REMOTES_MAX} tables", len(values))
        for value in values:
            if not isinstance(value, dict):
                raise self._wrong(name, "a list of tables", value)
        return [_Table(value, self.file, f"{self._path(name)}.") for value in values]

    def close(self) -> None:
        for name in self._values:
            if name not in self._known:
                guess = _closest(name, self._known)
                raise InvalidConfig(
                    self.file,
                    f"unknown setting {self._path(name)}",
                    hint=f"did you mean {self._path(guess)}?" if guess else self._all(),
                )

    def _all(self) -> str:
        return f"known here: {', '.join(sorted(self._known))}"

    def _value(self, name: str, kind: type, expected: str, default: Any) -> Any:
        self._known.add(name)
        value = self._values.get(name, default)
        if value is not default and not isinstance(value, kind):
            raise self._wrong(name, expected, value)
        return value

    def _wrong(self, name: str, expected: str, found: object) -> InvalidConfig:
        message = f"{self._path(name)}: expected {expected}, found {str(found)[:80]!r}"
        return InvalidConfig(self.file, message)

    def _path(self, name: str) -> str:
        return self._where + name


def _closest(name: str, known: Iterable[str]) -> str | None:
    import difflib

    return next(iter(difflib.get_close_matches(name, list(known), 1)), None)


def read_config_file(path: Path, shown: str) -> bytes:
    """Return the content, or nothing where there is no file; never waits for a pipe."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return b""
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InvalidConfig(shown, "not a regular file")
        data = file.read(FILE_BYTES_MAX + 1)
    if len(data) > FILE_BYTES_MAX:
        raise TooLarge(f"{shown} is longer than {FILE_BYTES_MAX} bytes")
    return data


def _parse(data: bytes, shown: str) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and TOMLDecodeError too
        raise InvalidConfig(shown, f"not TOML: {error}") from error


# --- What a tracked file must not hold -----------------------------------------------

_CONNECTS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|[^/\s]+@[^/\s]+:")
_COMMANDS = frozenset(
    ("cmd", "command", "commands", "exec", "hook", "hooks", "run", "script", "shell")
)
_ADDRESSES = frozenset(("dsn", "host", "password", "remote", "remotes", "secret", "token", "url"))
_ELSEWHERE = f"put it into .gsync/{LOCAL_FILE}, which a pull cannot change"


def _refuse_outside(value: object, file: str, where: str) -> None:
    """Raise InvalidConfig where something connects, runs, or leads out (09-config, rule 2.1)."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _refuse_key(key, file, f"{where}{key}")
            _refuse_text(key, file, f"{where}{key}")
            _refuse_outside(inner, file, f"{where}{key}.")
    elif isinstance(value, list):
        for inner in value:
            _refuse_outside(inner, file, where)
    elif isinstance(value, str):
        _refuse_text(value, file, where.removesuffix("."))


def _refuse_key(key: str, file: str, where: str) -> None:
    words = set(re.split(r"[^a-z]+", key.lower()))
    if words & _COMMANDS:
        raise InvalidConfig(
            file, f"{where}: a tracked file must not name commands", hint=_ELSEWHERE
        )
    if words & _ADDRESSES:
        raise InvalidConfig(
            file, f"{where}: a tracked file must not name addresses or secrets", hint=_ELSEWHERE
        )


def _refuse_text(text: str, file: str, where: str) -> None:
    if _CONNECTS.search(text):
        raise InvalidConfig(file, f"{where}: a tracked file must not hold URLs", hint=_ELSEWHERE)
    parts = text.replace("\\", "/").split("/")
    if parts[0] in ("", "~") and len(parts) > 1 or ".." in parts or re.match(r"[A-Za-z]:", text):
        raise InvalidConfig(
            file,
            f"{where}: {text[:80]!r} leads out of the folder",
            hint="write paths from the top of the folder, without '..'",
        )
