"""Tables of well-known schemas, and how they are recorded."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from gsync.config import TableConfig
from gsync.errors import NotFound
from gsync.frozen import frozen, replace


@frozen
class PresetTable:
    """One table of a known schema.

    Attributes:
        config: What `gsync.toml` says of it.
        notes: Why, a line each.
        optional: Whether a database may do without it.
    """

    config: TableConfig
    notes: tuple[str, ...] = ()
    optional: bool = False


_SURROGATE = "id: left out, each database numbers its rows itself"
_TIMES = "updated_at: left out, each server keeps its own"
_CLOCKS = ("created_at", "updated_at")
_NO_SESSION = "session_id: sessions are never synced, so it names nothing elsewhere"


def _below(
    *key: str,
    local: tuple[str, ...] = ("id",),
    volatile: tuple[str, ...] = ("updated_at",),
    notes: tuple[str, ...] = (_SURROGATE,),
) -> PresetTable:
    return PresetTable(TableConfig(key=key, local=local, volatile=volatile), notes, optional=True)


PRESETS: Mapping[str, Mapping[str, PresetTable]] = {
    # People, the contexts they own, and what was said and made in them. Sessions and tool
    # executions stay where they are: a context that comes to another server has none there, and
    # that is no difference. Notifications have no key, and are not recorded.
    "systemprompt": {
        "users": PresetTable(
            TableConfig(
                key=("id",),
                volatile=("updated_at",),
                protected=("roles", "status"),
                keep_rows=True,
            ),
            (
                _TIMES,
                "roles, status: who may do what is altered here only when told to (--accept)",
                "keep_rows: people are deleted here only when told to (--accept users)",
            ),
        ),
        "user_contexts": PresetTable(
            TableConfig(
                key=("context_id",),
                local=("session_id",),
                volatile=("updated_at",),
                protected=("user_id",),
            ),
            (
                _NO_SESSION,
                "updated_at: left out, a trigger sets it at every update",
                "user_id: a context changes its owner here only when told to (--accept)",
            ),
        ),
        "context_agents": _below("context_id", "agent_name"),
        "agent_tasks": _below(
            "task_id",
            local=("session_id",),
            notes=(_NO_SESSION, "updated_at: left out, a trigger sets it at every update"),
        ),
        "task_messages": _below(
            "task_id", "message_id", local=("id", "session_id"), notes=(_SURROGATE, _NO_SESSION)
        ),
        "message_parts": _below("message_id", "sequence_number"),
        "task_artifacts": _below(
            "context_id",
            "artifact_id",
            local=("id", "mcp_execution_id"),
            notes=(_SURROGATE, "mcp_execution_id: executions of tools are never synced"),
        ),
        "artifact_parts": _below("artifact_id", "sequence_number"),
        # Each server makes its own ids and times; the key is what files call a document by.
        "markdown_categories": PresetTable(
            TableConfig(key=("slug",), local=("id", "parent_id"), volatile=_CLOCKS),
            ("id, parent_id: left out, each database numbers its rows itself",),
            optional=True,
        ),
        "markdown_content": PresetTable(
            TableConfig(
                key=("source_id", "slug", "locale"), local=("id",), volatile=("updated_at",)
            ),
            ("id: left out, each server makes its own", _TIMES),
            optional=True,
        ),
        "access_control_entities": PresetTable(
            TableConfig(key=("entity_type", "entity_id"), volatile=_CLOCKS),
            ("created_at, updated_at: left out, each server keeps its own",),
            optional=True,
        ),
        "access_control_rules": PresetTable(
            TableConfig(
                key=("entity_type", "entity_id", "rule_type", "rule_value"),
                local=("id",),
                volatile=_CLOCKS,
            ),
            ("id: left out, each server makes its own",),
            optional=True,
        ),
    },
}


def find_preset(
    name: str, live: Collection[Mapping[str, Collection[str]]]
) -> dict[str, PresetTable]:
    """Return the tables of a known schema, as far as databases have them.

    Args:
        name: The schema.
        live: Of each database the columns of its tables. An optional table that one of them does
            not have is left out; so is, of what is left out of a table, a column that none has.

    Raises:
        NotFound: no schema is known by this name.
    """
    if name not in PRESETS:
        raise NotFound(f"no preset is called {name!r}", hint=f"known: {', '.join(sorted(PRESETS))}")
    found = {}
    for table, preset in PRESETS[name].items():
        if preset.optional and not all(table in tables for tables in live):
            continue
        columns = {column for tables in live for column in tables.get(table, ())}
        config = replace(
            preset.config,
            local=tuple(c for c in preset.config.local if c in columns),
            volatile=tuple(c for c in preset.config.volatile if c in columns),
        )
        found[table] = replace(preset, config=config if columns else preset.config)
    return found
