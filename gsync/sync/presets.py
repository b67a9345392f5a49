"""Tables of well-known schemas, and how they are recorded. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gsync.config import TableConfig


@dataclass(frozen=True, slots=True)
class PresetTable:
    """One table of a known schema.

    Attributes:
        config: What `gsync.toml` says of it.
        notes: Why, a line each.
    """

    config: TableConfig
    notes: tuple[str, ...] = field(default=())


PRESETS: Mapping[str, Mapping[str, PresetTable]] = {
    # People and the contexts they own. Sessions stay where they are: a context that comes to
    # another server has none there, and that is no difference.
    "systemprompt": {
        "users": PresetTable(
            TableConfig(
                key=("id",),
                volatile=("updated_at",),
                protected=("roles", "status"),
                keep_rows=True,
            ),
            (
                "updated_at: left out, each server keeps its own",
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
                "session_id: sessions are never synced, so it names nothing elsewhere",
                "updated_at: left out, a trigger sets it at every update",
                "user_id: a context changes its owner here only when told to (--accept)",
            ),
        ),
    },
}
