"""What the rows of a table look like, and what of the table is looked at (11-rows, 2 and 3)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple

from gsync.frozen import frozen
from gsync.objects.encoding import NotCanonical, Value, decode, encode
from gsync.objects.model import BODY_BYTES_MAX, read_extras
from gsync.objects.oid import Kind
from gsync.views.rows.scope import Scope, decode_scope, encode_scope

# fmt: off
TYPES = frozenset((
    "bool", "int", "numeric", "float", "text", "bytes", "uuid",
    "date", "timestamp", "timestamptz", "jsonb", "text[]",
))
# fmt: on
KEY_TYPES = TYPES - {"float", "jsonb", "text[]"}
ROLES = ("local", "volatile", "excluded")
ON_DELETE = ("no action", "restrict", "cascade", "set null", "set default")
COLUMNS_MAX = 1600
SLOT_MAX = 65_534
NAME_BYTES_MAX = 255


class KeyColumn(NamedTuple):
    """A column of the sync key."""

    name: str
    type: str


class Column(NamedTuple):
    """A column that rows hold.

    Attributes:
        slot: Its place in every row, for good.
        name: What the database calls it.
        type: One of TYPES.
        nullable: Whether it may be NULL.
        retired: Whether the table has it no more.
    """

    slot: int
    name: str
    type: str
    nullable: bool = True
    retired: bool = False


class ForeignKey(NamedTuple):
    """Columns whose values name a row of another table.

    Attributes:
        columns: The referring columns; in a schema in byte order.
        parent: The table referred to, by its logical name.
        parent_columns: Its columns, in the order of `columns`.
        on_delete: One of ON_DELETE.
    """

    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]
    on_delete: str = "no action"


@frozen
class Schema:
    """The schema object of one table.

    Attributes:
        table: Its logical name.
        key: The columns of the sync key, in its order.
        columns: All other columns that rows hold, or held, by slot.
        unique: Columns of each unique constraint, besides the key.
        foreign: Foreign keys between recorded tables.
        extras: Name and value pairs sorted by name, for what later versions add.
    """

    table: str
    key: tuple[KeyColumn, ...]
    columns: tuple[Column, ...]
    unique: tuple[tuple[str, ...], ...] = ()
    foreign: tuple[ForeignKey, ...] = ()
    extras: tuple[tuple[str, Value], ...] = ()

    @property
    def live(self) -> tuple[Column, ...]:
        """The columns that the table has now, by slot."""
        return tuple(column for column in self.columns if not column.retired)

    @property
    def width(self) -> int:
        """The length of a row before trailing nils are left off."""
        return self.columns[-1].slot + 1 if self.columns else 0

    def types(self) -> dict[str, str]:
        """Return the type of every live column, key columns first."""
        return dict(self.key) | {column.name: column.type for column in self.live}


class NewColumn(NamedTuple):
    """A column as a database has it now, before it has a slot."""

    name: str
    type: str
    nullable: bool


def make_schema(
    table: str,
    key: Iterable[KeyColumn],
    columns: Iterable[NewColumn],
    unique: Iterable[Iterable[str]] = (),
    foreign: Iterable[ForeignKey] = (),
    known: Schema | None = None,
) -> Schema:
    """Return the schema of a table, with slots and extras of `known` kept (11-rows, rule 2.3).

    Constraints may come in any order, and so may their columns; the key among `unique` is left
    out, as it goes without saying.

    Raises:
        NotCanonical: 11-rows, section 2, does not hold.
    """
    key = tuple(key)
    live = {column.name: column for column in columns}
    found: list[Column] = []
    for old in known.columns if known else ():
        new = None if old.retired else live.pop(old.name, None)
        if new is None:
            found.append(old._replace(retired=True))
        else:
            found.append(Column(old.slot, new.name, new.type, new.nullable))
    slot = found[-1].slot + 1 if found else 0
    for name in sorted(live, key=str.encode):
        found.append(Column(slot, name, live[name].type, live[name].nullable))
        slot += 1
    uniques = {tuple(sorted(names, key=str.encode)) for names in unique}
    schema = Schema(
        table,
        key,
        tuple(found),
        tuple(sorted(uniques - {_sorted_key(key)})),
        tuple(sorted(set(map(_sort_pairs, foreign)))),
        known.extras if known else (),
    )
    _check(schema)
    return schema


def _sorted_key(key: tuple[KeyColumn, ...]) -> tuple[str, ...]:
    return tuple(sorted((column.name for column in key), key=str.encode))


def _sort_pairs(foreign: ForeignKey) -> ForeignKey:
    pairs = sorted(
        zip(foreign.columns, foreign.parent_columns, strict=True), key=lambda pair: pair[0].encode()
    )
    columns, parents = zip(*pairs, strict=True)
    return foreign._replace(columns=columns, parent_columns=parents)


def is_compatible(old: Schema, new: Schema) -> bool:
    """Return whether rows of the one can be written into a table of the other as they are."""
    return old.key == new.key and {(c.name, c.type) for c in old.live} == {
        (c.name, c.type) for c in new.live
    }


def continues(old: Schema, new: Schema) -> bool:
    """Return whether equal keys and rows of both mean the same: no slot is another column's.

    So it is for a schema that was made with the other as `known`, at any distance.
    """
    if old.key != new.key:
        return False
    slots = {column.slot: column for column in new.columns}
    for column in old.columns:
        now = slots.get(column.slot)
        if now is None or now.name != column.name or (column.retired and not now.retired):
            return False
    return True


def describe_difference(recorded: Schema, live: Schema) -> list[str]:
    """Return what a person has to know of how `live` is not `recorded`, a line each."""
    found = []
    if recorded.key != live.key:
        found.append(f"the key is {_show_key(live)}, recorded is {_show_key(recorded)}")
    old = {c.name: c.type for c in recorded.live}
    new = {c.name: c.type for c in live.live}
    found += [f"column {name} ({old[name]}) is missing" for name in old if name not in new]
    found += [f"column {name} ({new[name]}) is not recorded" for name in new if name not in old]
    found += [
        f"column {name} is {new[name]}, recorded is {old[name]}"
        for name in old
        if name in new and old[name] != new[name]
    ]
    return found


def _show_key(schema: Schema) -> str:
    return "(" + ", ".join(f"{name} {type_}" for name, type_ in schema.key) + ")"


def encode_schema(schema: Schema) -> bytes:
    """Return the body of a schema object, or raise NotCanonical where it breaks page 11."""
    _check(schema)
    return encode(
        [
            1,
            schema.table,
            [[name, type_] for name, type_ in schema.key],
            [[c.slot, c.name, c.type, c.nullable, None, c.retired] for c in schema.columns],
            [list(names) for names in schema.unique],
            [[list(f.columns), f.parent, list(f.parent_columns), f.on_delete]
             for f in schema.foreign],
            [list(extra) for extra in schema.extras],
        ]
    )  # fmt: skip


def decode_schema(body: bytes) -> Schema:
    """Return the schema that `body` encodes.

    Raises:
        NotCanonical: 11-rows, section 2, does not hold.
    """
    match decode(body, BODY_BYTES_MAX[Kind.SCHEMA]):
        case [
            int() as version,
            str() as table,
            list() as key,
            list() as columns,
            list() as unique,
            list() as foreign,
            list() as extras,
        ] if type(version) is int and version == 1:
            pass
        case [int() as version, *_] if version != 1:
            raise NotCanonical(f"schema: version {version}, where this gsync knows 1")
        case _:
            raise NotCanonical("schema: not [1, table, key, columns, unique, foreign, extras]")
    schema = Schema(
        table,
        tuple(_key_column(item) for item in key),
        tuple(_column(item) for item in columns),
        tuple(_names(item) for item in unique),
        tuple(_foreign(item) for item in foreign),
        read_extras(extras, "schema"),
    )
    _check(schema)
    return schema


def _key_column(item: Any) -> KeyColumn:
    match item:
        case [str() as name, str() as type_]:
            return KeyColumn(name, type_)
    raise NotCanonical("schema: a key column is not [name, type]")


def _column(item: Any) -> Column:
    match item:
        case [int() as slot, str() as name, str() as type_, bool() as null, None, bool() as gone]:
            if type(slot) is int:
                return Column(slot, name, type_, null, gone)
    raise NotCanonical("schema: a column is not [slot, name, type, nullable, nil, retired]")


def _names(item: Any) -> tuple[str, ...]:
    if type(item) is list and item and all(type(name) is str for name in item):
        return tuple(item)
    raise NotCanonical("schema: a list of columns is expected")


def _foreign(item: Any) -> ForeignKey:
    match item:
        case [columns, str() as parent, parent_columns, str() as on_delete]:
            return ForeignKey(_names(columns), parent, _names(parent_columns), on_delete)
    raise NotCanonical("schema: a foreign key is not [columns, table, columns, on delete]")


def _check(schema: Schema) -> None:
    _check_name(schema.table, "table")
    if not schema.key:
        raise NotCanonical(f"schema: {schema.table} has no key")
    if len(schema.key) + len(schema.live) > COLUMNS_MAX:
        raise NotCanonical(f"schema: {schema.table} has more than {COLUMNS_MAX} columns")
    for name, type_ in schema.key:
        _check_name(name, "column")
        if type_ not in KEY_TYPES:
            raise NotCanonical(f"schema: {name} of type {type_} cannot be in a key")
    for column in schema.columns:
        _check_name(column.name, "column")
        if column.type not in TYPES:
            raise NotCanonical(
                f"schema: column {column.name} of {schema.table} has the type"
                f" {column.type[:80]!r}, which this gsync does not know"
            )
        if not 0 <= column.slot <= SLOT_MAX:
            raise NotCanonical(f"schema: slot {column.slot} is not 0 to {SLOT_MAX}")
    for left, right in pairwise(schema.columns):
        if left.slot >= right.slot:
            raise NotCanonical("schema: slots do not rise strictly")
    names = [column.name for column in schema.key] + [column.name for column in schema.live]
    if len(set(names)) != len(names):
        raise NotCanonical(f"schema: a column of {schema.table} is named twice")
    _check_retired(schema)
    _check_constraints(schema, set(names))
    read_extras([list(extra) for extra in schema.extras], "schema")


def _check_retired(schema: Schema) -> None:
    """Refuse a retired column in a slot above a live one of its name: it would have kept that."""
    live: set[str] = set()
    for column in schema.columns:
        if not column.retired:
            live.add(column.name)
        elif column.name in live:
            raise NotCanonical(
                f"schema: the retired column {column.name} of {schema.table} has a slot above"
                " the live one of its name"
            )


def _check_constraints(schema: Schema, names: set[str]) -> None:
    for columns in schema.unique:
        if tuple(sorted(set(columns), key=str.encode)) != columns or not names.issuperset(columns):
            raise NotCanonical(f"schema: unique {list(columns)} is not sorted, or not recorded")
        if columns == _sorted_key(schema.key):
            raise NotCanonical(f"schema: unique {list(columns)} is the key, which is not repeated")
    for foreign in schema.foreign:
        if foreign.on_delete not in ON_DELETE or len(foreign.columns) != len(
            foreign.parent_columns
        ):
            raise NotCanonical(f"schema: the foreign key {list(foreign.columns)} is not one")
        columns = foreign.columns
        if tuple(sorted(set(columns), key=str.encode)) != columns or not names.issuperset(columns):
            raise NotCanonical(
                f"schema: foreign key {list(columns)} is not sorted strictly, or not recorded"
            )
        _check_name(foreign.parent, "table")
        for name in foreign.parent_columns:
            _check_name(name, "column")
    for items in (schema.unique, schema.foreign):
        for one, other in pairwise(items):
            if one >= other:
                raise NotCanonical("schema: constraints are not sorted strictly")


def _check_name(name: str, what: str) -> None:
    if not 1 <= len(name.encode()) <= NAME_BYTES_MAX or "\0" in name:
        raise NotCanonical(f"schema: {name[:80]!r} is not a {what}'s name")


# --- Views ---------------------------------------------------------------------------


@frozen
class View:
    """The view object of one table.

    Attributes:
        roles: (column, role), sorted by column.
        extras: Name and value pairs sorted by name, for what later versions add.
        scope: Which rows it holds; all if None.
    """

    roles: tuple[tuple[str, str], ...] = ()
    extras: tuple[tuple[str, Value], ...] = ()
    scope: Scope | None = None


def encode_view(view: View) -> bytes:
    """Return the body of a view object, or raise NotCanonical where it breaks page 11."""
    _check_view(view)
    extras = [list(extra) for extra in view.extras]
    return encode([1, [list(role) for role in view.roles], encode_scope(view.scope), extras])


def decode_view(body: bytes) -> View:
    """Return the view that `body` encodes.

    Raises:
        NotCanonical: 11-rows, section 3, does not hold.
    """
    match decode(body, BODY_BYTES_MAX[Kind.VIEW]):
        case [int() as version, list() as roles, scope, list() as extras] if (
            type(version) is int and version == 1
        ):
            pass
        case _:
            raise NotCanonical(
                "view: not [1, roles, filter, extras], which is all this gsync knows"
            )
    found = []
    for item in roles:
        match item:
            case [str() as column, str() as role]:
                found.append((column, role))
            case _:
                raise NotCanonical("view: a role is not [column, role]")
    view = View(tuple(found), read_extras(extras, "view"), decode_scope(scope))
    _check_view(view)
    return view


def _check_view(view: View) -> None:
    for column, role in view.roles:
        _check_name(column, "column")
        if role not in ROLES:
            raise NotCanonical(f"view: {role[:80]!r} is no role; known: {', '.join(ROLES)}")
    for (left, _), (right, _) in pairwise(view.roles):
        if left.encode() >= right.encode():
            raise NotCanonical("view: columns are not sorted strictly")
    read_extras([list(extra) for extra in view.extras], "view")
