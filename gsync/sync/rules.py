"""Access rules between their file and the two tables (18-rules)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

from blake3 import blake3

from gsync.errors import Invalid
from gsync.frozen import frozen, replace
from gsync.maps.omap import EMPTY_MAP, build_map, find_value, list_entries
from gsync.objects.encoding import Value, decode_trusted, encode
from gsync.objects.model import EMPTY_MAP_BODY, Collection, Manifest, encode_manifest
from gsync.objects.oid import Kind, ObjectId
from gsync.sync.compare import files_root
from gsync.sync.docfiles import read_content
from gsync.sync.doctable import NamedTable
from gsync.sync.localplan import (
    Choices,
    Item,
    LocalPlan,
    Outcome,
    Sides,
    action,
    became,
    decide,
)
from gsync.sync.operations import LOCAL_MARK_PREFIX, reading_state
from gsync.sync.repository import Repository
from gsync.transfer.history import get_manifest
from gsync.views.documents.frontmatter import BadFile, Problem
from gsync.views.documents.sources import Source
from gsync.views.files import EntryType, FileEntry, decode_entry_trusted, encode_entry
from gsync.views.rules.parse import (
    Entity,
    Grant,
    NotEdited,
    Rule,
    RuleFile,
    Wanted,
    edit_rules,
    read_rules,
)
from gsync.views.rules.resolve import ROLE, AccessRule

RULES = "rules"
RULES_TABLE, ENTITIES_TABLE = "access_control_rules", "access_control_entities"
LABEL = "ingestion:access_control_config"
"""The source of entities that came from the file, as the older system calls it."""

FILES_LOOKED_FOR = tuple(
    f"{top}access-control/{name}"
    for top in ("", "services/")
    for name in ("config.yaml", "roles.yaml")
)
_RULE_KEY = ("entity_type", "entity_id", "rule_type", "rule_value")
_ENTITY_KEY = ("entity_type", "entity_id")
_ROWS, _DEFAULTS = "rows", "defaults"

Granted = tuple[Entity, str]


def find_rules(
    repo: Repository, root: ObjectId, named: str | None = None
) -> tuple[str, FileEntry] | None:
    """Return the file of rules of a file tree, or None.

    Args:
        named: Where it is; where settings say if None.
    """
    named = named or repo.config.shared.rules_file
    for path in (named,) if named else FILES_LOOKED_FOR:
        value = find_value(repo.store, root, path.encode())
        entry = decode_entry_trusted(value) if value is not None else None
        if entry is not None and entry.is_file:
            return path, entry
    return None


# --- The base --------------------------------------------------------------------------


class _Base:
    """What file and tables had alike when they last agreed.

    Attributes:
        exists: Whether they ever did.
        rows: Rows of the table of rules, by key.
        defaults: `default_included` of entities.
    """

    def __init__(self, repo: Repository, database: str, table: NamedTable) -> None:
        self._store = repo.store
        self._table = table
        self.state = f"{LOCAL_MARK_PREFIX}{database} rules"
        self.exists = False
        self.rows: dict[bytes, bytes] = {}
        self.defaults: dict[Entity, bool] = {}
        value = repo.store.get_state(self.state)
        if value is None:
            return
        with reading_state("when rules were last kept in step"):
            _, oid, _ = decode_trusted(value)
            oid = ObjectId(oid)
        if repo.store.missing([oid]):
            return
        self.exists = True
        manifest = get_manifest(repo.store, oid)
        rows, defaults = manifest.find(_ROWS), manifest.find(_DEFAULTS)
        assert rows is not None and defaults is not None
        old = NamedTable(repo, rows, _RULE_KEY)
        for key, row in list_entries(repo.store, rows.root):
            if old.schema != table.schema:
                row = table.row(old.cells(row), is_kept=True)
            self.rows[key] = row
        for key, body in list_entries(repo.store, defaults.root):
            type_, _, id_ = key.decode().partition(":")
            (self.defaults[Entity(type_, id_)],) = decode_trusted(body)

    def encode(self, rows: Mapping[bytes, bytes], defaults: Mapping[Entity, bool]) -> bytes:
        """Return the state that keeps another base, whose objects are stored."""
        store, table = self._store, self._table.collection
        store.put(Kind.NODE, EMPTY_MAP_BODY)
        named = sorted((str(entity).encode(), encode([one])) for entity, one in defaults.items())
        collections = (
            Collection(_DEFAULTS, build_map(store, named), len(named)),
            Collection(
                _ROWS, build_map(store, sorted(rows.items())), len(rows), table.schema, table.view
            ),
        )
        manifest = Manifest((), collections, "", 0, "rules as both sides had them")
        return encode([1, store.put(Kind.MANIFEST, encode_manifest(manifest)), b""])


# --- What the file says ----------------------------------------------------------------


@frozen
class _Said:
    """What a file of rules grants, of entities that there are.

    Attributes:
        grants: By entity and role.
        entities: Those that it names by their ids.
        defaults: What it says of `default_included`.
        notices: Patterns that match nothing.
    """

    grants: Mapping[Granted, Grant]
    entities: frozenset[Entity]
    defaults: Mapping[Entity, bool]
    notices: tuple[str, ...]


def _expand(file: RuleFile, catalog: Iterable[Entity]) -> _Said:
    """Return what the rules of a file come to.

    Raises:
        BadFile: two patterns say different things of one entity.
    """
    rules = file.rules or ()
    named = frozenset(Entity(rule.type, rule.pattern) for rule in rules if not rule.is_pattern)
    known = sorted({*catalog, *named})
    grants: dict[Granted, tuple[Rule, Grant]] = {}
    defaults: dict[Entity, tuple[Rule, bool]] = {}
    notices, problems = [], []
    for rule in sorted(rules, key=lambda one: one.is_pattern):  # ids first: they count
        about = [one for one in known if rule.matches(one)] if rule.is_pattern else None
        if about == []:
            notices.append(
                f"{file.path}:{rule.line}: no {rule.type} is called {rule.pattern!r}, so this says"
                " nothing"
            )
        for entity in [Entity(rule.type, rule.pattern)] if about is None else about:
            for role in rule.roles:
                other = grants.setdefault((entity, role), (rule, rule.grant))
                if other[0].is_pattern and other[1] != rule.grant:
                    text = f"it says otherwise of {role} of {entity} than line {other[0].line}"
                    problems.append(Problem(file.path, rule.line, 1, text))
            if rule.default_included is not None:
                defaults.setdefault(entity, (rule, rule.default_included))
    if problems:
        raise BadFile(problems)
    return _Said(
        {key: grant for key, (_, grant) in grants.items()},
        named,
        {entity: default for entity, (_, default) in defaults.items()},
        tuple(notices),
    )


# --- The plan --------------------------------------------------------------------------


class RulesPlanner:
    """What a local sync comes to for access rules; making it stores objects and changes nothing."""

    def __init__(
        self,
        repo: Repository,
        manifest: Manifest,
        database: str,
        direction: str,
        choices: Choices,
    ) -> None:
        self.direction = direction
        self.choices = choices
        self.store = repo.store
        self.table = NamedTable(repo, _recorded(manifest, database, RULES_TABLE), _RULE_KEY)
        self.catalog = NamedTable(repo, _recorded(manifest, database, ENTITIES_TABLE), _ENTITY_KEY)
        root = files_root(manifest) or EMPTY_MAP
        named = choices.rules_file or repo.config.shared.rules_file
        found = find_rules(repo, root, named)
        self._path = found[0] if found else named or FILES_LOOKED_FOR[1]
        self._entry = found[1] if found else None
        self.base = _Base(repo, database, self.table)
        self.entities: dict[Entity, dict[str, Value]] = {}
        for key, row in list_entries(self.store, self.catalog.collection.root):
            type_, id_ = self.catalog.parts(key)
            self.entities[Entity(type_, id_)] = self.catalog.cells(row)
        self.rows: dict[Granted, bytes] = {}
        for key, row in list_entries(self.store, self.table.collection.root):
            type_, id_, rule_type, value = self.table.parts(key)
            if rule_type == ROLE:
                self.rows[Entity(type_, id_), value] = row
        self.items: list[Item] = []
        self.problems: tuple[Problem, ...] = ()
        self.notices: tuple[str, ...] = ()
        self.unchanged = 0
        self.rule_edits: dict[bytes, bytes | None] = {}
        self.entity_edits: dict[bytes, bytes | None] = {}
        self.file_edits: dict[bytes, bytes | None] = {}
        self.agreed = dict(self.base.rows)
        self.defaults = dict(self.base.defaults)
        try:
            self._file = self._read_file()
            self._said = _expand(self._file, self.entities)
        except BadFile as error:
            self.problems = error.problems
            return
        self.notices = self._said.notices
        self._plan()

    def _read_file(self) -> RuleFile:
        if self._entry is None:
            return RuleFile(self._path, "", None)
        return read_rules(self._path, read_content(self.store, self._entry))

    def _plan(self) -> None:
        says_nothing = self._file.rules is None
        choices = self.choices
        if says_nothing and self.direction == "to-db":  # so nothing is an orphan
            choices = replace(choices, delete_orphans=False)
        revoked: dict[Granted, int] = {}
        granted: dict[Granted, tuple[Grant, int]] = {}
        for one in sorted(self._ours()):
            sides = self._sides(one, says_nothing)
            if sides.wanted == sides.row:
                self._agree(sides.key, sides.row)
                self.unchanged += sides.row is not None
                continue
            item = self._describe(one, sides)
            outcome = decide(self.direction, choices, item, sides, lambda _: ("access",))
            if isinstance(outcome, Outcome):
                if outcome.file != sides.wanted:
                    if outcome.file is None:
                        revoked[one] = len(self.items)
                    else:
                        granted[one] = (self._grant(outcome.file), len(self.items))
                    what = action(sides.wanted, outcome.file)
                    item = replace(item, path=self._path, file_action=what)
                if outcome.row != sides.row:
                    self.rule_edits[sides.key] = outcome.row
                    item = replace(item, row_action=action(sides.row, outcome.row))
                self._agree(sides.key, outcome.base)
            else:
                item = outcome
            self.items.append(item)
        defaults = self._plan_entities()
        if revoked or granted or defaults:
            self._write_file(revoked, granted, defaults, says_nothing)

    def _ours(self) -> set[Granted]:
        """Return the grants that file and tables share; all others are others'."""
        known = {self._granted(key) for key in self.base.rows}
        mine = {one for one in self.rows if self.entities.get(one[0], {}).get("source") == LABEL}
        return {*self._said.grants, *known, *mine}

    def _granted(self, key: bytes) -> Granted:
        type_, id_, _, value = self.table.parts(key)
        return Entity(type_, id_), value

    def _sides(self, one: Granted, says_nothing: bool) -> Sides:
        (entity, role), row = one, self.rows.get(one)
        key = self.table.key(entity.type, entity.id, ROLE, role)
        base = self.base.rows.get(key)
        is_label = self.entities.get(entity, {}).get("source") == LABEL
        if not self.base.exists and is_label and not says_nothing:
            base = row  # it came from the file, in a time that kept no base
        grant = self._said.grants.get(one)
        if says_nothing:
            wanted = base
        else:
            wanted = self._wanted(grant, row, base) if grant is not None else None
        return Sides(key, None, wanted, row, base)

    def _wanted(self, grant: Grant, row: bytes | None, base: bytes | None) -> bytes:
        known = row if row is not None else base
        cells = self.table.cells(known) if known is not None else {}
        return self.table.row({**cells, **grant._asdict()})

    def _grant(self, row: bytes) -> Grant:
        cells = self.table.cells(row)
        return Grant(str(cells["access"]), cast("str | None", cells.get("justification")))

    def _agree(self, key: bytes, row: bytes | None) -> None:
        if row is None:
            self.agreed.pop(key, None)
        else:
            self.agreed[key] = row

    def _describe(self, one: Granted, sides: Sides) -> Item:
        entity, role = one
        hashes = [
            blake3(encode(list(self._grant(row)))).hexdigest() if row is not None else None
            for row in (sides.wanted, sides.row)
        ]
        columns: tuple[str, ...] = ()
        if sides.wanted is not None and sides.row is not None:
            here, there = self._grant(sides.wanted), self._grant(sides.row)
            names = ("access", "justification")
            columns = tuple(n for n in names if getattr(here, n) != getattr(there, n))
        return Item(
            *(RULES, f"{entity} role {role}", "en", None, None),
            *(became(sides.base, sides.wanted), became(sides.base, sides.row), columns),
            disk_hash=hashes[0],
            row_hash=hashes[1],
        )

    # Entities

    def _plan_entities(self) -> dict[Entity, tuple[bool, int]]:
        """Note what becomes of entities; return the defaults that the file gets."""
        changed: dict[Entity, tuple[bool, int]] = {}
        created = {
            self._granted(key)[0]
            for key, row in self.rule_edits.items()
            if row is not None and self._granted(key)[0] not in self.entities
        }
        for entity in sorted(created):
            default = self._said.defaults.get(entity, False)
            cells: dict[str, Value] = {"default_included": default, "source": LABEL}
            self.entity_edits[self.catalog.key(*entity)] = self.catalog.row(cells)
            self.defaults[entity] = default
        for entity, wanted in sorted(self._said.defaults.items()):
            cells = self.entities.get(entity, {})
            if entity not in self.entities:
                continue
            now, base = bool(cells["default_included"]), self.base.defaults.get(entity)
            if base is None and cells.get("source") == LABEL:
                base = now
            if wanted == now:
                self.defaults[entity] = now
                continue
            sides = Sides(b"", None, _flag(wanted), _flag(now), _flag(base))
            item = Item(
                *(RULES, f"{entity} default_included", "en", None, None),
                *(became(sides.base, sides.wanted), became(sides.base, sides.row)),
                *(("default_included",),),
                disk_hash=str(wanted),
                row_hash=str(now),
            )
            outcome = decide(self.direction, self.choices, item, sides, lambda _: ("default",))
            if isinstance(outcome, Outcome):
                if outcome.row != sides.row:
                    row = self.catalog.row({**cells, "default_included": wanted})
                    self.entity_edits[self.catalog.key(*entity)] = row
                    item = replace(item, row_action="update")
                if outcome.file != sides.wanted:
                    changed[entity] = (now, len(self.items))
                    item = replace(item, file_action="update", path=self._path)
                if outcome.base is not None:
                    self.defaults[entity] = outcome.base == _flag(True)
            else:
                item = outcome
            self.items.append(item)
        return changed

    # The file

    def _write_file(
        self,
        revoked: dict[Granted, int],
        granted: dict[Granted, tuple[Grant, int]],
        defaults: Mapping[Entity, tuple[bool, int]],
        says_nothing: bool,
    ) -> None:
        """Note what the file becomes; what cannot be written into it is a problem."""
        while revoked or granted or defaults:
            wanted = Wanted(
                frozenset(revoked),
                {one: grant for one, (grant, _) in granted.items()},
                {entity: default for entity, (default, _) in defaults.items()},
            )
            try:
                if says_nothing and self.base.rows:
                    raise NotEdited("the file says nothing any more, and would say too little")
                data = edit_rules(self._file, wanted)
                self._check_written(data, wanted)
            except (NotEdited, BadFile) as error:
                about = getattr(error, "about", None) or {*revoked, *granted}
                self._leave(about, str(error), revoked, granted)
                if about == {*revoked, *granted} or not about:
                    for entity, (_, number) in defaults.items():
                        self._leave_item(number, str(error))
                        self.defaults.pop(entity, None)
                    defaults = {}
                continue
            self._keep_file(data)
            return

    def _leave(
        self,
        about: Iterable[Granted],
        why: str,
        revoked: dict[Granted, int],
        granted: dict[Granted, tuple[Grant, int]],
    ) -> None:
        """Leave grants as they are on both sides, as problems."""
        for one in about:
            number = revoked.pop(one, None)
            if number is None:
                _, number = granted.pop(one)
            self._leave_item(number, why)
            key = self.table.key(one[0].type, one[0].id, ROLE, one[1])
            self._agree(key, self.base.rows.get(key))

    def _leave_item(self, number: int, why: str) -> None:
        item = self.items[number]
        self.items[number] = replace(item, problem=why, file_action=None, path=self._path)

    def _keep_file(self, data: bytes) -> None:
        ref = self.table.spill(data)
        content = ObjectId(blake3(data).digest()) if ref.kind is not Kind.BLOB else None
        type_ = self._entry.type if self._entry else EntryType.FILE
        entry = FileEntry(type_, len(data), ref, content)
        self.file_edits[self._path.encode()] = encode_entry(entry)

    def _check_written(self, data: bytes, wanted: Wanted) -> None:
        """Raise NotEdited unless the file, read again, grants what it is to grant."""
        said = _expand(read_rules(self._path, data), self.entities)
        expected = {k: g for k, g in self._said.grants.items() if k not in wanted.revoked}
        if dict(said.grants) != expected | dict(wanted.granted):
            raise NotEdited("it would grant something else afterwards: edit it by hand")

    # What there is to tell

    @property
    def has_new_base(self) -> bool:
        """Whether something is agreed on that was not."""
        is_first = not self.base.exists and not self.problems and self._file.rules is not None
        changed = (self.agreed, self.defaults) != (self.base.rows, self.base.defaults)
        return changed or is_first

    def states(self) -> dict[str, bytes | None]:
        """Return the state that keeps what is agreed on once the plan is done."""
        return {self.base.state: self.base.encode(self.agreed, self.defaults)}

    def tables(self) -> list[tuple[Collection, Mapping[bytes, bytes | None]]]:
        """Return the tables that change, and how."""
        return [
            (self.catalog.collection, self.entity_edits),
            (self.table.collection, self.rule_edits),
        ]

    def result(self) -> LocalPlan:
        """Return what there is to tell."""
        return LocalPlan(
            *(self.direction, (Source(RULES, RULES, self._path),), tuple(self.items)),
            *({RULES: self.unchanged}, self.problems),
            notices=self.notices,
        )


def _flag(value: bool | None) -> bytes | None:
    return None if value is None else encode([value])


def _recorded(manifest: Manifest, database: str, table: str) -> Collection:
    collection = manifest.find(f"db/{database}/{table}")
    if collection is None:
        raise Invalid(
            f"db/{database}/{table} is not recorded",
            hint="'gsync db add URL --preset systemprompt' records it, then 'gsync snapshot'",
        )
    return collection


# --- For the resolver ------------------------------------------------------------------


def load_access(
    repo: Repository, manifest: Manifest
) -> tuple[list[AccessRule], dict[Entity, bool], str]:
    """Return all rules of a manifest, every entity with its default, and where they are from.

    Raises:
        Invalid: the manifest has neither the tables nor a file of rules.
        BadFile: it has a file alone, and that is none.
    """
    for collection in manifest.collections:
        name = collection.name.rpartition("/")
        if name[2] != RULES_TABLE or not collection.name.startswith("db/"):
            continue
        entities = manifest.find(f"{name[0]}/{ENTITIES_TABLE}")
        if entities is not None:
            return *_from_tables(repo, collection, entities), name[0]
    root = files_root(manifest) or EMPTY_MAP
    found = find_rules(repo, root)
    if found is None:
        raise Invalid(
            f"that manifest has no rules: no table {RULES_TABLE}, and no file"
            f" {' or '.join(FILES_LOOKED_FOR)}",
            hint="[rules] file in gsync.toml names another one",
        )
    path, entry = found
    file = read_rules(path, read_content(repo.store, entry))
    said = _expand(file, ())
    rules = [
        AccessRule(entity, ROLE, role, grant.access, grant.justification)
        for (entity, role), grant in said.grants.items()
    ]
    return rules, {one: said.defaults.get(one, False) for one in said.entities}, path


def _from_tables(
    repo: Repository, rules: Collection, entities: Collection
) -> tuple[list[AccessRule], dict[Entity, bool]]:
    table = NamedTable(repo, rules, _RULE_KEY)
    found = []
    for key, row in list_entries(repo.store, rules.root):
        type_, id_, rule_type, value = table.parts(key)
        cells = table.cells(row)
        why = cast("str | None", cells.get("justification"))
        entity = Entity(type_, id_)
        found.append(AccessRule(entity, rule_type, value, str(cells["access"]), why))
    catalog = NamedTable(repo, entities, _ENTITY_KEY)
    defaults = {}
    for key, row in list_entries(repo.store, entities.root):
        type_, id_ = catalog.parts(key)
        defaults[Entity(type_, id_)] = bool(catalog.cells(row)["default_included"])
    return found, defaults
