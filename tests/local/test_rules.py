"""Access rules between their file and live tables, and who may use what."""

from __future__ import annotations

import itertools
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support_cli import gsync_in, json_in, make_repository, refused, start, write
from support_local import SCHEMA, SETTINGS, Side, done, local, make_local
from support_pg import MakeDatabase

from gsync.views.rules.parse import Entity, match_id
from gsync.views.rules.resolve import AccessRule, Subject, resolve

FILE = "access-control/roles.yaml"
SERVICES = Path(__file__).parent.parent.parent / "../shared/data/services-sample/services"


def text(*rules: str) -> bytes:
    return ("# about\nrules:\n" + "".join(f"  - {rule}\n" for rule in rules)).encode()


def entry(
    type_: str, id_: str, roles: str, access: str = "allow", *more: str, key: str = "entity_id"
) -> str:
    lines = [f"entity_type: {type_}", f"{key}: '{id_}'", f"access: {access}", f"roles: [{roles}]"]
    return "\n    ".join([*lines, *more])


def make(tmp_path: Path, side: Side, data: bytes) -> Path:
    return make_local(tmp_path / "a", side.url, {FILE: data})


def rules(side: Side, type_: str = "role") -> dict[str, str]:
    found = side.run(
        "SELECT entity_type, entity_id, rule_value, access FROM access_control_rules"
        " WHERE rule_type = ?",
        type_,
    )
    return {f"{row[0]}:{row[1]} {row[2]}": row[3] for row in found}


def add_entity(side: Side, type_: str, id_: str, source: str) -> None:
    side.run(
        "INSERT INTO access_control_entities (entity_type, entity_id, source) VALUES (?, ?, ?)",
        *(type_, id_, source),
    )


def add_rule(
    side: Side, type_: str, id_: str, value: str, access: str = "allow", rule_type: str = "role"
) -> None:
    side.run(
        "INSERT INTO access_control_rules (entity_type, entity_id, rule_type, rule_value, access)"
        " VALUES (?, ?, ?, ?, ?)",
        *(type_, id_, rule_type, value, access),
    )


def test_there_and_again(tmp_path: Path, side: Side) -> None:
    """Rules arrive; the second time nothing is done, and ids and times stay."""
    folder = make(
        tmp_path,
        side,
        text(entry("skill", "a", "user, admin"), entry("agent", "b", "user", "deny")),
    )
    assert done(local(folder, "to-db")) == (3, 0, 0, 0, 0)
    assert rules(side) == {
        "skill:a user": "allow", "skill:a admin": "allow", "agent:b user": "deny",
    }  # fmt: skip
    before = side.run("SELECT * FROM access_control_rules ORDER BY id")
    data = (folder / FILE).read_bytes()
    for command in ("to-db", "to-disk", "merge"):
        assert done(local(folder, command)) == (0, 0, 0, 0, 0)
    assert side.run("SELECT * FROM access_control_rules ORDER BY id") == before
    assert (folder / FILE).read_bytes() == data
    source = "SELECT DISTINCT source FROM access_control_entities"
    assert side.run(source) == [("ingestion:access_control_config",)]


def test_what_the_file_omits_is_revoked(tmp_path: Path, side: Side) -> None:
    """A role, and an entity as a whole; users' rules, and those of others, stay."""
    folder = make(
        tmp_path, side, text(entry("skill", "a", "user, admin"), entry("agent", "b", "user"))
    )
    local(folder, "to-db")
    add_entity(side, "marketplace", "m", "marketplace:m")
    add_rule(side, "marketplace", "m", "user")
    add_rule(side, "skill", "a", "ada", "deny", "user")
    add_rule(side, "skill", "a", "sales", "deny", "department")
    write(folder, {FILE: text(entry("skill", "a", "admin, editor"))})
    found = local(folder, "to-db")
    assert (found["items_deleted"], found["items_synced"]) == (2, 1)
    data = (folder / FILE).read_bytes()
    assert done(local(folder, "to-db", "--delete-orphans")) == (0, 0, 0, 0, 0)
    assert done(local(folder, "merge")) == (0, 0, 0, 0, 0)
    assert (folder / FILE).read_bytes() == data
    assert rules(side) == {
        "skill:a admin": "allow", "skill:a editor": "allow", "marketplace:m user": "allow",
    }  # fmt: skip
    assert rules(side, "user") == {"skill:a ada": "deny"}
    assert rules(side, "department") == {"skill:a sales": "deny"}
    assert len(side.run("SELECT * FROM access_control_entities")) == 3


def test_the_first_time(tmp_path: Path, side: Side) -> None:
    """The label says what came from the file, in a time that kept no base."""
    label = "ingestion:access_control_config"
    add_entity(side, "skill", "a", label)
    add_rule(side, "skill", "a", "old")
    add_rule(side, "skill", "a", "ada", "deny", "user")
    add_entity(side, "plugin", "p", "marketplace:m")
    add_rule(side, "plugin", "p", "user", "deny")
    add_rule(side, "plugin", "p", "staff", "deny")
    folder = make(
        tmp_path, side, text(entry("skill", "a", "new"), entry("plugin", "p", "user, staff"))
    )
    found = local(folder, "to-db", code=1)
    assert {item["conflict"] for item in found["items"]} == {None, "add/add"}
    assert rules(side)["skill:a new"] == "allow" and "skill:a old" not in rules(side)
    assert rules(side)["plugin:p user"] == "deny" and rules(side, "user")
    local(folder, "to-db", "--override", "ours")
    assert rules(side)["plugin:p user"] == "allow"
    sources = "SELECT source FROM access_control_entities ORDER BY entity_type"
    assert side.run(sources) == [("marketplace:m",), (label,)]


@pytest.mark.parametrize("data", [None, b"", b"# nothing\n", b"{}"])
def test_a_file_that_says_nothing(tmp_path: Path, side: Side, data: bytes | None) -> None:
    """It revokes nothing; an empty list revokes everything that the file had granted."""
    folder = make(tmp_path, side, text(entry("skill", "a", "user")))
    local(folder, "to-db")
    add_rule(side, "skill", "a", "ada", "deny", "user")
    if data is None:
        (folder / FILE).unlink()
    else:
        write(folder, {FILE: data})
    assert done(local(folder, "to-db")) == (0, 0, 0, 0, 0)
    assert rules(side) == {"skill:a user": "allow"}
    write(folder, {FILE: b"rules: []\n"})
    assert done(local(folder, "to-db", "--accept", "access_control_rules")) == (0, 0, 0, 1, 0)
    assert rules(side) == {} and rules(side, "user") == {"skill:a ada": "deny"}


BAD = {
    "rules: 5": "expected a list",
    "rule: []": "no key is called 'rule'",
    "rules: [": "not YAML",
    "rules:\n  - {entity_type: skill, entity_id: a, roles: [x], x: 1}": "no key is called 'x'",
    "rules:\n  - {entity_type: skil, entity_id: a, roles: [x]}": "is none of",
    "rules:\n  - {entity_type: slack_channel, entity_id: a, roles: [x]}": "no table takes",
    "rules:\n  - {entity_type: skill, roles: [x]}": "one of entity_id and entity_match",
    "rules:\n  - {entity_type: skill, entity_id: a, entity_match: a, roles: [x]}": "one of",
    "rules:\n  - {entity_type: skill, entity_id: a, roles: []}": "with a role in it",
    "rules:\n  - {entity_type: skill, entity_id: a, roles: [' ']}": "not blank",
    "rules:\n  - {entity_type: skill, entity_id: a, roles: [x, x]}": "stands twice",
    "rules:\n  - {entity_type: skill, entity_id: a, roles: [x], access: maybe}": "allow or deny",
    "rules:\n  - {entity_type: skill, entity_id: a, roles: [x], default_included: 1}": "true or",
    "rules:\n  - {entity_type: skill, entity_id: ' ', roles: [x]}": "is blank",
    "rules:\n  - &r {entity_type: skill, entity_id: a, roles: [x]}\n  - *r": "expected a map",
    "rules:\n  - {entity_type: skill, entity_id: a, roles: [x]}\n"
    "  - {entity_type: skill, entity_id: a, roles: [y, x], access: deny}": "about role x, too",
    "rules:\n  - {entity_type: skill, entity_match: 'a*', roles: [x]}\n"
    "  - {entity_type: skill, entity_match: '*b', roles: [x], access: deny}": "says otherwise",
    "rules:\n  - {entity_type: skill, entity_id: a, roles: [x], default_included: true}\n"
    "  - {entity_type: skill, entity_id: a, roles: [y], default_included: false}": "another d",
}


@pytest.mark.parametrize("data", BAD)
def test_a_file_that_is_wrong_does_nothing(tmp_path: Path, side: Side, data: str) -> None:
    """Neither a grant nor a revocation, and what is wrong is said with its line."""
    folder = make(tmp_path, side, text(entry("skill", "ab", "user")))
    local(folder, "to-db")
    write(folder, {FILE: data.encode()})
    found = local(folder, "to-db", "--delete-orphans", code=1)
    assert BAD[data] in "; ".join(one["message"] for one in found["problems"])
    assert all(one["path"] == FILE and one["line"] for one in found["problems"])
    assert rules(side) == {"skill:ab user": "allow"}


def test_all_that_is_wrong_is_said_together(tmp_path: Path, side: Side) -> None:
    """One run is enough to mend the file."""
    folder = make(tmp_path, side, text(entry("x", "a", "user"), entry("skill", "", "a, a")))
    found = local(folder, "to-db", code=1)
    assert [one["line"] for one in found["problems"]] == [3, 8, 10]


def test_patterns(tmp_path: Path, side: Side) -> None:
    """They are about what the table has; an id beside one counts; one that matches none is said."""
    for name in ("read", "read-all", "write"):
        add_entity(side, "skill", name, "marketplace:m")
    folder = make(
        tmp_path,
        side,
        text(
            entry("skill", "read*", "user", key="entity_match"),
            entry("skill", "read-all", "user", "deny"),
            entry("agent", "*", "user", key="entity_match"),
        ),
    )
    found = local(folder, "to-db")
    assert rules(side) == {"skill:read user": "allow", "skill:read-all user": "deny"}
    assert len(found["notices"]) == 1 and "no agent is called" in found["notices"][0]
    add_entity(side, "skill", "reader", "marketplace:m")
    assert done(local(folder, "to-db")) == (1, 0, 0, 0, 0)
    assert rules(side)["skill:reader user"] == "allow"


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*", ["", "a", "a*b"], []),
        ("a*", ["a", "ab"], ["", "ba"]),
        ("*a", ["a", "ba"], ["ab"]),
        ("a*b", ["ab", "axb", "abab"], ["a", "b", "ba"]),
        ("ab*ba", ["abba", "abxba"], ["aba", "ab", "ba"]),
        ("a**b", ["ab", "axb"], ["a"]),
        ("*x*y*", ["xy", "axbyc"], ["yx", "x"]),
        ("a?b.[c]", ["a?b.[c]"], ["axb.c", "a?bx[c]"]),
        ("a*b*c", ["abc", "aXbYc", "abbc"], ["acb", "ab"]),
    ],
)
def test_what_a_pattern_matches(pattern: str, yes: list[str], no: list[str]) -> None:
    """`*` is any text, also none; everything else is itself."""
    assert [one for one in yes + no if match_id(pattern, one)] == yes


def test_to_disk(tmp_path: Path, side: Side) -> None:
    """What the dashboard changed comes into the file where it belongs, and comments stay."""
    data = b"""# first
rules:
  # about a
  - entity_type: skill
    entity_id: a   # the id
    roles: [user, admin]  # who
  - {entity_type: agent, entity_id: b, roles: [user]}
  # about c
  - entity_type: skill
    entity_id: c
    access: allow
    default_included: false
    roles:
      - one
      - two  # second
    justification: old
  # at the end
"""
    folder = make(tmp_path, side, data)
    local(folder, "to-db")
    side.run("DELETE FROM access_control_rules WHERE rule_value = 'admin'")
    side.run("DELETE FROM access_control_rules WHERE rule_value = 'one'")
    side.run("UPDATE access_control_rules SET access = 'deny' WHERE entity_id = 'b'")
    side.run("UPDATE access_control_entities SET default_included = true WHERE entity_id = 'c'")
    add_rule(side, "skill", "a", "new", "deny")
    side.run("UPDATE access_control_rules SET justification = 'so' WHERE rule_value = 'new'")
    add_rule(side, "skill", "a", "ada", "deny", "user")
    assert done(local(folder, "to-db"))[:3] == (0, 3, 2)
    assert done(local(folder, "to-disk")) == (3, 0, 0, 2, 0)
    assert (
        (folder / FILE).read_text()
        == """# first
rules:
  # about a
  - entity_type: skill
    entity_id: a   # the id
    roles: [user]  # who
  - {entity_type: agent, entity_id: b, roles: [user], access: deny}
  # about c
  - entity_type: skill
    entity_id: c
    access: allow
    default_included: true
    roles:
      - two  # second
    justification: old
  - entity_type: skill
    entity_id: "a"
    access: deny
    roles: ["new"]
    justification: "so"
  # at the end
"""
    )
    assert local(folder, "diff")["items"] == []
    side.run("DELETE FROM access_control_rules WHERE rule_type = 'role'")
    local(folder, "to-disk", "--accept", "access_control_rules")
    assert (
        folder / FILE
    ).read_text() == "# first\nrules: []\n  # about a\n  # about c\n  # at the end\n"


def test_to_disk_where_there_is_no_file(tmp_path: Path, side: Side) -> None:
    """One is made; a file that is gone is not made anew from the half."""
    add_entity(side, "skill", "a", "ingestion:access_control_config")
    add_rule(side, "skill", "a", "user")
    folder = make_local(tmp_path / "a", side.url, {})
    assert done(local(folder, "to-db", "--delete-orphans")) == (0, 1, 0, 0, 0)
    assert done(local(folder, "to-disk")) == (1, 0, 0, 0, 0)
    assert (folder / FILE).read_text() == (
        'rules:\n  - entity_type: skill\n    entity_id: "a"\n    roles: ["user"]\n'
    )
    (folder / FILE).unlink()
    add_rule(side, "skill", "a", "more")
    found = local(folder, "to-disk", code=1)
    assert "says nothing" in found["errors"][0] and not (folder / FILE).exists()


def test_what_a_pattern_grants_is_not_changed_for_one(tmp_path: Path, side: Side) -> None:
    """The entry is named, and both sides stay."""
    add_entity(side, "skill", "a", "marketplace:m")
    add_entity(side, "skill", "b", "marketplace:m")
    own = text(entry("agent", "own", "x")).removeprefix(b"# about\nrules:\n")
    data = text(entry("skill", "*", "user", key="entity_match")) + own
    folder = make(tmp_path, side, data)
    local(folder, "to-db")
    side.run("DELETE FROM access_control_rules WHERE entity_id = 'b'")
    side.run("DELETE FROM access_control_rules WHERE entity_id = 'own'")
    found = local(folder, "to-disk", code=1)
    assert [bool(item["problem"]) for item in found["items"]] == [False, True]
    data = data.replace(own, b"")
    assert "line 3" in found["errors"][0] and "by hand" in found["errors"][0]
    assert (folder / FILE).read_bytes() == data
    assert done(local(folder, "to-db", "--override", "ours")) == (1, 0, 0, 0, 0)


def test_both_sides(tmp_path: Path, side: Side) -> None:
    """Other grants merge; one that both changed is a conflict."""
    folder = make(tmp_path, side, text(entry("skill", "a", "x"), entry("skill", "b", "x")))
    local(folder, "to-db")
    write(folder, {FILE: text(
        entry("skill", "a", "x", "allow", "justification: file"), entry("skill", "b", "x, y"),
    )})  # fmt: skip
    side.run("UPDATE access_control_rules SET justification = 'row' WHERE entity_id = 'a'")
    add_rule(side, "skill", "b", "z")
    found = local(folder, "merge", code=1)
    assert done(found) == (2, 0, 1, 0, 1)
    assert rules(side).keys() == {"skill:a x", "skill:b x", "skill:b y", "skill:b z"}
    assert b'roles: ["z"]' in (folder / FILE).read_bytes()
    local(folder, "merge", "--override", "theirs")
    assert b'justification: "row"' in (folder / FILE).read_bytes()


def test_undo(tmp_path: Path, side: Side) -> None:
    """It takes back a revocation, and what counts as agreed on."""
    folder = make(tmp_path, side, text(entry("skill", "a", "x, y")))
    local(folder, "to-db")
    write(folder, {FILE: text(entry("skill", "a", "x"))})
    local(folder, "to-db")
    gsync_in(folder, "undo")
    assert rules(side).keys() == {"skill:a x", "skill:a y"}
    assert done(local(folder, "to-db")) == (0, 0, 0, 1, 0)


def test_a_reader_never_sees_less(tmp_path: Path, side: Side) -> None:
    """While a role is renamed again and again, somebody has it at every moment."""
    if side.pg is None:
        pytest.skip("a reader beside a writer is Postgres's")
    folder = make(tmp_path, side, text(entry("skill", "a", "r0")))
    local(folder, "to-db")
    seen: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        assert side.pg is not None
        with side.pg.connect(autocommit=True) as connection:
            while not stop.is_set():
                cursor = connection.execute("SELECT count(*) FROM access_control_rules")
                seen.extend(row[0] for row in cursor.fetchall())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        for n in range(1, 8):
            write(folder, {FILE: text(entry("skill", "a", f"r{n}"))})
            local(folder, "to-db")
    finally:
        stop.set()
        thread.join()
    assert set(seen) == {1} and rules(side) == {"skill:a r7": "allow"}


def test_killed_in_the_middle(tmp_path: Path, side: Side) -> None:
    """All rules are the old ones or the new ones, and the next one ends it."""
    names = [f"s{n}" for n in range(60)]
    folder = make(tmp_path, side, text(*(entry("skill", name, "r0") for name in names)))
    local(folder, "to-db")
    rng = random.Random(7)
    for turn in range(1, 6):
        write(folder, {FILE: text(*(entry("skill", name, f"r{turn}") for name in names))})
        process = start(folder, "local", "to-db")
        time.sleep(rng.uniform(0.2, 1.0))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        found = {name.rpartition(" ")[2] for name in rules(side)}
        assert found in ({f"r{turn - 1}"}, {f"r{turn}"}) and len(rules(side)) == 60
        local(folder, "to-db")
        assert {name.rpartition(" ")[2] for name in rules(side)} == {f"r{turn}"}


def test_columns_that_no_file_says(tmp_path: Path, side: Side) -> None:
    """One that may not be NULL is named, with what to do, before anything is written."""
    settings = SETTINGS.replace(b'volatile = ["created_at", "updated_at"]', b"")
    folder = make_local(tmp_path / "a", side.url, {FILE: text(entry("skill", "a", "x"))}, settings)
    said = refused(folder, "local", "to-db", code=2)
    assert "created_at" in said[0] and "volatile" in said[1]
    assert rules(side) == {}


def test_the_status_counts_rules(tmp_path: Path, side: Side) -> None:
    """As a source of its own, called rules; it can be asked for alone."""
    folder = make(tmp_path, side, text(entry("skill", "a", "x")))
    found = local(folder, "status")
    assert [one["source_id"] for one in found["sources"]] == ["rules"]
    assert len(found["sources"][0]["added"]) == 1
    assert done(local(folder, "to-db", "rules")) == (1, 0, 0, 0, 0)
    assert "looked for" in refused(folder, "local", "to-db", "blog", code=4)[0]


# --- Who may use what ------------------------------------------------------------------


def check(folder: Path, *args: str, code: int = 0) -> tuple[str, str]:
    found = json_in(folder, "acl", "check", *args, code=code)
    return found["access"], found["reason"]


def test_who_could_use_what_then(tmp_path: Path, side: Side) -> None:
    """A manifest says it, whatever the tables have now, users' own rules as well."""
    folder = make(tmp_path, side, text(entry("skill", "a", "user")))
    local(folder, "to-db")
    gsync_in(folder, "tag", "fifth")
    write(folder, {FILE: text(entry("skill", "a", "admin"))})
    add_rule(side, "skill", "a", "ada", "deny", "user")
    local(folder, "to-db")
    asked = ("--entity", "skill:a", "--user", "ada", "--role")
    assert check(folder, *asked, "user", "--at", "fifth")[0] == "allow"
    assert check(folder, *asked, "user") == ("deny", "a rule of skill:a for user ada: deny")
    assert check(folder, "--entity", "skill:a", "--role", "admin")[0] == "allow"
    assert check(folder, "--entity", "skill:a", "--role", "user")[0] == "deny"
    assert "unknown" in check(folder, "--entity", "skill:zz", "--exit-code", code=1)[1]
    assert "TYPE:ID" in refused(folder, "acl", "check", "--entity", "skill", code=2)[0]


def expected(
    own: dict[str, str], parent: dict[str, str], default: bool, parent_default: bool
) -> str:
    """Say who may, from the guide alone: bands by how specific they are, denial first."""
    for band in ("user", "department", "role"):
        if band in own:
            return own[band]
    if not own:
        for band in ("user", "department", "role"):
            if band in parent:
                return parent[band]
    return "allow" if default or parent_default else "deny"


def test_every_mixture_of_rules() -> None:
    """Each band absent, allowed or denied, of the entity and of its parent, in any order."""
    one, parent = Entity("skill", "a"), Entity("plugin", "p")
    subject = Subject("ada", frozenset({"staff"}), {"department": "sales"})
    values = {"user": "ada", "department": "sales", "role": "staff"}
    rng = random.Random(3)
    ways: Any = itertools.product((None, "allow", "deny"), repeat=6)
    for way in ways:
        own = {b: a for b, a in zip(values, way[:3], strict=True) if a}
        other = {b: a for b, a in zip(values, way[3:], strict=True) if a}
        for default, parent_default in itertools.product((False, True), repeat=2):
            found = [AccessRule(one, b, values[b], a) for b, a in own.items()]
            found += [AccessRule(parent, b, values[b], a) for b, a in other.items()]
            rng.shuffle(found)
            decision = resolve(
                one, subject, found, {one: default, parent: parent_default}, [parent]
            )
            assert decision.access == expected(own, other, default, parent_default), (own, other)


def test_in_one_band_a_denial_decides() -> None:
    """Whatever the order; rules about others say nothing, but keep the parents out."""
    one, parent = Entity("skill", "a"), Entity("plugin", "p")
    both = [AccessRule(one, "role", "x", "allow"), AccessRule(one, "role", "y", "deny")]
    for order in (both, both[::-1]):
        assert resolve(one, Subject(roles=frozenset("xy")), order, {one: True}).access == "deny"
    stranger = [AccessRule(one, "role", "z", "allow"), AccessRule(parent, "role", "x", "allow")]
    subject = Subject(roles=frozenset("x"))
    assert (
        resolve(one, subject, stranger, {one: False}, [parent]).reason == "skill:a is not assigned"
    )
    assert resolve(one, subject, stranger[1:], {one: False}, [parent]).access == "allow"
    assert "unknown" in resolve(one, subject, both, {}).reason


@pytest.mark.skipif(not SERVICES.exists(), reason="there is no real tree beside the project")
def test_a_real_file(tmp_path: Path, side: Side) -> None:
    """It goes into the tables and back, and not a byte of it changes."""
    data = (SERVICES / FILE).read_bytes()
    folder = make(tmp_path, side, data)
    assert local(folder, "to-db")["errors"] == []
    assert done(local(folder, "to-disk")) == (0, 0, 0, 0, 0)
    assert (folder / FILE).read_bytes() == data
    assert check(folder, "--entity", "skill:use_dangerous_secret", "--role", "user")[0] == "deny"


def test_the_preset_records_what_is_needed(tmp_path: Path, make_database: MakeDatabase) -> None:
    """With the tables of the platform, one command sets all of it up."""
    schema = (Path(__file__).parent.parent / "systemprompt.sql").read_text() + SCHEMA
    database = make_database(schema)
    folder = make_repository(tmp_path / "a", {FILE: text(entry("skill", "a", "x"))})
    gsync_in(folder, "db", "add", database.url, "--preset", "systemprompt", "--yes")
    gsync_in(folder, "snapshot", "-m", "all of it")
    assert done(local(folder, "to-db")) == (1, 0, 0, 0, 0)
    assert done(local(folder, "merge")) == (0, 0, 0, 0, 0)
    assert rules(Side(database.url, database)) == {"skill:a x": "allow"}
    settings = (folder / "gsync.toml").read_text()
    assert "[db.main.tables.markdown_content]" in settings
    assert "[db.main.tables.access_control_entities]" in settings
