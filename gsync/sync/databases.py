"""Databases are added to a repository, listed, and checked."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gsync.config import (
    DatabaseConfig,
    TableConfig,
    Tables,
    expand,
)
from gsync.configedit import add_database, append_shared
from gsync.errors import Conflict, GsyncError, Invalid, NotFound
from gsync.frozen import replace
from gsync.maps.omap import EMPTY_MAP
from gsync.objects.model import Manifest
from gsync.replicas.tables.apply import TableMove, plan_moves
from gsync.replicas.tables.base import LiveTable, Refused, Session
from gsync.replicas.tables.plan import (
    Proposal,
    foreign_refusals,
    order_tables,
    plan_tables,
    propose,
    refusals,
)
from gsync.sync.opendb import open_database, open_url, read_password
from gsync.sync.presets import find_preset
from gsync.sync.recorded import get_schema, recorded_tables
from gsync.sync.repository import Repository
from gsync.sync.tables import last_scanned
from gsync.urls import DatabaseUrl, check_database_name, parse_database_url

# --- Adding --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Addition:
    """What adding a database would write, and why.

    Attributes:
        name: As the configuration calls it.
        config: What goes into `.gsync/config.toml`.
        known: Tables that `gsync.toml` names already; they were checked.
        proposals: Tables that it does not name yet, by name; without a `config` those that
            stay out.
        shared: What is appended to `gsync.toml`; empty if nothing.
        recorded: Whether HEAD has rows of this database, so that the live one has to be
            brought to it first.
        new: Whether this machine did not know yet where the database is.
    """

    name: str
    config: DatabaseConfig
    known: tuple[str, ...]
    proposals: tuple[Proposal, ...]
    shared: str
    recorded: bool
    new: bool

    @property
    def chosen(self) -> list[Proposal]:
        """The tables that are added."""
        return [proposal for proposal in self.proposals if proposal.config is not None]


def plan_addition(
    repo: Repository,
    name: str,
    config: DatabaseConfig,
    *,
    tables: Sequence[str] = (),
    preset: str | None = None,
    directory: Path | None = None,
) -> Addition:
    """Look at a live database and return what adding it means; writes nothing.

    Args:
        tables: Only these; every one of them has to be fit.
        preset: Take the tables of a known schema as PRESETS has them, and those in `tables`.
        directory: Where a relative path of a SQLite file begins; the top of the folder if None.

    Raises:
        Invalid: a bare store, a wrong name or URL, or no table can be recorded.
        Refused: a table that was asked for, or that `gsync.toml` names, cannot be recorded.
        NotFound: there is no such table or preset.
        Conflict: another database is called so here.
        Unavailable: it cannot be reached.
    """
    if repo.bare:
        raise Invalid(f"{repo.root} is a bare store, which follows no database")
    check_database_name(name)
    config = _check_free(repo, name, _settle(repo, config, directory or repo.root))
    location = parse_database_url(config.url)
    password = read_password(Path(expand(config.password_file))) if config.password_file else None
    database = open_url(location, password or repo.config.environment.password(name), repo.root)
    known = repo.config.shared.databases.get(name, {})
    recorded = recorded_tables(repo.manifest(repo.head()), name)
    with database.reading() as session:
        live = {table.name: table for table in session.tables()}
        _check_known(repo, session, known, repo.manifest(repo.head()), name)
    if preset or tables or not known:
        proposals = _choose(live, known, tables, preset, database.shown)
    else:
        proposals = []
    return Addition(
        name=name,
        config=config,
        known=tuple(known),
        proposals=tuple(proposals),
        shared=_shared_text(name, proposals, known),
        recorded=bool(recorded.keys() & known.keys()),
        new=name not in repo.config.local.databases,
    )


def add(repo: Repository, addition: Addition) -> None:
    """Write what `addition` says into both files; the caller holds the lock."""
    if addition.shared:
        append_shared(repo.root, addition.shared)
    add_database(repo.workdir, addition.name, addition.config)


def file_key(repo: Repository, config: DatabaseConfig) -> bytes | None:
    """Return the path of a SQLite file below the folder, or None where it lies elsewhere."""
    url = parse_database_url(config.url)
    if url.engine != "sqlite":
        return None
    relative = os.path.relpath(os.path.realpath(repo.root / url.location), repo.root.resolve())
    return None if relative.startswith("..") else os.fsencode(relative)


def _settle(repo: Repository, config: DatabaseConfig, directory: Path) -> DatabaseConfig:
    """Return `config` with paths that mean the same wherever gsync is started."""
    url = parse_database_url(config.url)
    if config.peer is not None:
        parse_database_url(config.peer)
    if url.engine == "sqlite":
        path = os.path.normpath(directory / url.location)
        inside = os.path.relpath(path, os.path.abspath(repo.root))
        shown = path if inside.startswith("..") or Path(url.location).is_absolute() else inside
        config = replace(config, url=str(DatabaseUrl("sqlite", shown)))
    if config.password_file is not None and not config.password_file.startswith("~/"):
        config = replace(config, password_file=os.path.abspath(directory / config.password_file))
    return config


def _check_free(repo: Repository, name: str, config: DatabaseConfig) -> DatabaseConfig:
    """Return `config` as it is spelled here already, or raise Conflict if another is called so."""
    here = repo.config.local.databases.get(name)
    if here is None or here.url == config.url:
        return config
    old, new = parse_database_url(here.url), parse_database_url(config.url)
    if old.engine == new.engine == "sqlite":
        paths = [os.path.realpath(repo.root / url.location) for url in (old, new)]
        if paths[0] == paths[1]:
            return replace(config, url=here.url)
    raise Conflict(
        f"a database is called {name!r} here already: {here.url}",
        hint=f"choose another name with --name, or edit [db.{name}] in .gsync/config.toml",
    )


def _check_known(
    repo: Repository, session: Session, known: Tables, head: Manifest | None, name: str
) -> None:
    """Raise Refused where the tables that `gsync.toml` names are not as it, or HEAD, says."""
    schemas = {
        table: get_schema(repo.store, collection)
        for table, collection in recorded_tables(head, name).items()
        if table in known
    }
    plan_tables(session.tables(), known, schemas)
    moves = {
        table: TableMove(known[table], EMPTY_MAP, EMPTY_MAP, schema)
        for table, schema in schemas.items()
    }
    plan_moves(session, moves)


def _choose(
    live: Mapping[str, LiveTable],
    known: Tables,
    tables: Sequence[str],
    preset: str | None,
    shown: str,
) -> list[Proposal]:
    for name in tables:
        if name not in live:
            raise NotFound(
                f"no table {name} in {shown}", hint=f"there are {', '.join(live) or 'none'}"
            )
    named = _from_preset(live, preset) if preset else {}
    wanted = [*named, *tables] if named or tables else list(live)
    proposals = {
        name: named.get(name) or propose(live[name]) for name in wanted if name not in known
    }
    unfit = [p for p in proposals.values() if p.config is None and p.table.name in tables]
    if unfit:
        raise Refused(
            "; ".join(f"table {p.table.name} cannot be recorded: {_join(p.reasons)}" for p in unfit)
        )
    proposals = _without_circles(proposals, explicit=bool(tables or preset))
    fit = {**known} | {name: p.config for name, p in proposals.items() if p.config}
    if not fit:
        raise Refused(
            f"{shown} has no table that can be recorded"
            + "".join(f"; {p.table.name}: {_join(p.reasons)}" for p in proposals.values()),
            hint="spec/12-databases.md, section 1, says what a table needs",
        )
    return [_with_parents(proposal, fit) for proposal in proposals.values()]


def _from_preset(live: Mapping[str, LiveTable], name: str) -> dict[str, Proposal]:
    found = {}
    columns = {table: [c.name for c in one.columns] for table, one in live.items()}
    for table, preset in find_preset(name, [columns]).items():
        if table not in live:
            raise NotFound(
                f"preset {name}: the database has no table {table}",
                hint="leave --preset out and look at what is proposed",
            )
        reasons = refusals(live[table], preset.config)
        if reasons:
            raise Refused(
                f"preset {name}: table {table} is not as it expects: {_join(reasons)}",
                hint="leave --preset out and look at what is proposed",
            )
        found[table] = Proposal(live[table], preset.config, (), preset.notes)
    return found


def _without_circles(proposals: Mapping[str, Proposal], *, explicit: bool) -> dict[str, Proposal]:
    _, circle = order_tables(p.table for p in proposals.values() if p.config is not None)
    if not circle:
        return dict(proposals)
    reason = (
        f"it is in, or refers to, a circle of foreign keys ({', '.join(sorted(circle))});"
        " make one of them DEFERRABLE"
    )
    if explicit:
        raise Refused(f"tables cannot be recorded together: {reason}")
    return {
        name: Proposal(p.table, None, (reason,)) if name in circle else p
        for name, p in proposals.items()
    }


def _with_parents(proposal: Proposal, fit: Tables) -> Proposal:
    """Return `proposal` with a note for each foreign key that may name other rows elsewhere."""
    if proposal.config is None:
        return proposal
    left_out = proposal.config.roles()
    notes = []
    for foreign in proposal.table.foreign:
        columns, parent = ", ".join(foreign.key.columns), foreign.key.parent
        if not left_out.keys().isdisjoint(foreign.key.columns):
            continue
        if parent not in fit:
            notes.append(
                f"{columns}: refers to {parent}, which is not recorded; the rows it names have"
                " to be in every copy already"
            )
    reasons = foreign_refusals(proposal.table, {**fit, proposal.table.name: proposal.config})
    if reasons:
        return replace(proposal, config=None, reasons=tuple(reasons))
    return replace(proposal, notes=(*proposal.notes, *notes)) if notes else proposal


def _join(reasons: Sequence[str]) -> str:
    return "; ".join(reasons)


# What `gsync.toml` gets. Only comments say what was seen: a value would have to be kept true.


def _shared_text(name: str, proposals: Sequence[Proposal], known: Tables) -> str:
    chosen = [proposal for proposal in proposals if proposal.config is not None]
    if not chosen:
        return ""
    lines = []
    if not known:
        lines += [
            f"# The database {name!r}: what of it is recorded. Everybody has to agree on this;",
            "# where each copy is stands in .gsync/config.toml. Settings: spec/09-config.md.",
        ]
    for proposal in chosen:
        assert proposal.config is not None
        lines += [*([""] if lines else []), *_table_lines(name, proposal, proposal.config)]
    refused = [proposal for proposal in proposals if proposal.config is None]
    if refused:
        lines += ["", f"# Not recorded of {name!r}, and why:"]
        lines += [_comment(f"  {p.table.name}: {_join(p.reasons)}") for p in refused]
    return "".join(f"{line}\n" for line in lines)


def _table_lines(name: str, proposal: Proposal, config: TableConfig) -> Iterator[str]:
    yield f"[db.{name}.tables.{_key(proposal.table.name)}]"
    for note in proposal.notes:
        yield _comment(note)
    yield f"key = {_list(config.key)}"
    for setting in ("local", "volatile", "excluded", "protected"):
        columns = getattr(config, setting)
        if columns:
            yield f"{setting} = {_list(columns)}"
    if config.keep_rows:
        yield "keep_rows = true"


def _comment(text: str) -> str:
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return f"# {plain}"


def _key(name: str) -> str:
    bare = name.replace("-", "").replace("_", "")
    return name if bare.isascii() and bare.isalnum() else _quote(name)


def _list(names: Sequence[str]) -> str:
    return f"[{', '.join(map(_quote, names))}]"


def _quote(name: str) -> str:
    # A TOML string is a JSON string, but for the one control character that JSON lets stand.
    return json.dumps(name, ensure_ascii=False).replace("\x7f", "\\u007f")


# --- Listing -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KnownDatabase:
    """A database that a repository knows of.

    Attributes:
        name: As the configuration calls it.
        url: Where it is, without secrets; None where this machine was not told.
        scanned: When it was last scanned here, in microseconds; None if never.
        tables: Tables with their rows in HEAD; None for one that is not recorded yet.
        unnamed: Which of them HEAD has, but `gsync.toml` does not name.
    """

    name: str
    url: str | None
    scanned: int | None
    tables: Mapping[str, int | None]
    unnamed: tuple[str, ...] = ()


def list_databases(repo: Repository) -> list[KnownDatabase]:
    """Return every database that a configuration file or HEAD names, sorted; offline."""
    head = repo.manifest(repo.head())
    shared, local = repo.config.shared.databases, repo.config.local.databases
    names = {*shared, *local, *recorded_databases(head)}
    scanned = last_scanned(repo)
    found = []
    for name in sorted(names):
        recorded = recorded_tables(head, name)
        tables: dict[str, int | None] = dict.fromkeys(shared.get(name, {}))
        tables |= {table: collection.count for table, collection in recorded.items()}
        url = str(parse_database_url(local[name].url)) if name in local else None
        unnamed = tuple(sorted(recorded.keys() - shared.get(name, {}).keys()))
        found.append(
            KnownDatabase(name, url, scanned.get(name), dict(sorted(tables.items())), unnamed)
        )
    return found


def recorded_databases(manifest: Manifest | None) -> list[str]:
    """Return the names of the databases that `manifest` has tables of, sorted."""
    from gsync.sync.comparetables import split_collection, table_names

    found = {split_collection(name) for name in table_names(None, manifest)}
    return sorted({names[0] for names in found if names})


# --- Checking ------------------------------------------------------------------------


def check_databases(repo: Repository) -> Iterator[tuple[str, str, str | None]]:
    """Yield level, text and hint of what is found when each database is asked; for `doctor`."""
    for name in repo.config.shared.databases.keys() | repo.config.local.databases.keys():
        yield _check_one(repo, name)


def _check_one(repo: Repository, name: str) -> tuple[str, str, str | None]:
    wanted = repo.config.shared.databases.get(name)
    if name not in repo.config.local.databases:
        return (
            "note",
            f"database {name}: this machine was not told where it is",
            f"'gsync db add URL --name {name}'",
        )
    if not wanted:
        return (
            "note",
            f"database {name}: gsync.toml names no table of it",
            "name some, or run 'gsync db add URL' again with --tables",
        )
    try:
        database = open_database(repo, name)
        with database.reading() as session:
            _check_known(repo, session, wanted, repo.manifest(repo.head()), name)
    except GsyncError as error:
        return "problem", f"database {name}: {error.message}", error.hint
    tables = "1 table" if len(wanted) == 1 else f"{len(wanted)} tables"
    return "ok", f"database {name}: {database.shown} has its {tables} as configured", None


# --- Naming live tables --------------------------------------------------------------


def select_live(repo: Repository, words: Sequence[str]) -> dict[str, list[str]]:
    """Return which live tables `words` name, by database; no table stands for all of them.

    A word is a database, which then also holds the bare tables after it, or a table:
    `users`, `main/users`, `db/main/users`. Without words all databases that are configured.

    Raises:
        NotFound: a word is none of them, or a table of several databases.
    """
    databases = {name: repo.config.shared.databases[name] for name in repo.config.databases}
    if not words:
        return {name: [] for name in databases if databases[name]}
    found: dict[str, list[str]] = {}
    current: str | None = None
    for word in words:
        if word in databases and not (current and word in databases[current]):
            current = word
            found.setdefault(word, [])
            continue
        name, _, table = word.removeprefix("db/").rpartition("/")
        within = [name] if name else [current] if current else list(databases)
        holders = [one for one in within if table in databases.get(one, {})]
        if len(holders) != 1:
            raise NotFound(
                f"{word!r} is no database or table that is configured here"
                if not holders
                else f"several databases have a table {table}: {', '.join(holders)}",
                hint=_known_names(databases),
            )
        found.setdefault(holders[0], []).append(table)
    return found


def _known_names(databases: Mapping[str, Tables]) -> str:
    names = [f"{name}/{table}" for name, tables in databases.items() for table in tables]
    if not names:
        return "add a database with 'gsync db add URL'"
    return f"there are {', '.join([*databases, *names][:20])}"
