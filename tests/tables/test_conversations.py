"""Conversations with keys that each database numbers itself, between two servers."""

from __future__ import annotations

from pathlib import Path

from support_cli import gsync_in, json_in
from support_pg import Database, MakeDatabase, find_servers

HERE = Path(__file__).parent.parent
SCHEMA = (HERE / "systemprompt.sql").read_text() + (
    HERE / "systemprompt-conversations.sql"
).read_text()

# What has to be the same on both sides: everything but what is left out, by natural key.
CONTENT = {
    "users": "id, name, email, roles",
    "user_contexts": "context_id, user_id, name, kind",
    "context_agents": "context_id, agent_name, added_at",
    "agent_tasks": "task_id, context_id, status, agent_name, metadata, version, created_at",
    "task_messages": "task_id, message_id, role, sequence_number, metadata, reference_task_ids",
    "message_parts": "message_id, sequence_number, task_id, part_kind, text_content, data_content,"
    " file_id",
    "task_artifacts": "context_id, artifact_id, task_id, name, artifact_type, metadata",
    "artifact_parts": "artifact_id, sequence_number, context_id, text_content",
}


def run(database: Database, *statements: str) -> list[tuple[object, ...]]:
    with database.connect(autocommit=True) as connection:
        for statement in statements[:-1]:
            connection.execute(statement)
        cursor = connection.execute(statements[-1])
        return cursor.fetchall() if cursor.description else []


def content(database: Database) -> dict[str, list[tuple[object, ...]]]:
    return {
        table: run(database, f"SELECT {columns} FROM {table} ORDER BY 1, 2, 3")
        for table, columns in CONTENT.items()
    }


def numbers(database: Database) -> list[tuple[object, ...]]:
    return run(database, "SELECT task_id, message_id, id FROM task_messages ORDER BY 1, 2")


def converse(database: Database, side: str, contexts: int) -> None:
    """Fill a database with conversations of its own, numbered by its own sequences."""
    run(
        database,
        f"INSERT INTO users (id, name, email) SELECT '{side}u' || i, '{side} ' || i,"
        f" '{side}' || i || '@example.org' FROM generate_series(1, 5) i",
        f"INSERT INTO user_sessions SELECT '{side}s' || i, '{side}u' || i"
        " FROM generate_series(1, 5) i",
        "INSERT INTO user_contexts (context_id, user_id, session_id, name) SELECT"
        f" '{side}c' || i, '{side}u' || (i % 5 + 1), '{side}s' || (i % 5 + 1), 'talk ' || i"
        f" FROM generate_series(1, {contexts}) i",
        "INSERT INTO context_agents (context_id, agent_name) SELECT context_id, 'agent ' || j"
        f" FROM user_contexts, generate_series(1, 2) j WHERE context_id LIKE '{side}%'",
        "INSERT INTO context_notifications (context_id, agent_id, notification_type,"
        " notification_data) SELECT context_id, 'a', 'notifications/x', '{}' FROM user_contexts",
        "INSERT INTO mcp_tool_executions SELECT '" + side + "x' || i, 'search'"
        " FROM generate_series(1, 3) i",
        "INSERT INTO agent_tasks (task_id, context_id, status, agent_name, session_id, metadata)"
        " SELECT context_id || '.t' || j, context_id, 'TASK_STATE_COMPLETED', 'writer', 's',"
        " jsonb_build_object('step', j, 'tags', '[\"a\", null]'::jsonb) FROM user_contexts,"
        f" generate_series(1, 3) j WHERE context_id LIKE '{side}%'",
        "INSERT INTO task_messages (task_id, message_id, role, sequence_number,"
        " reference_task_ids) SELECT task_id, task_id || '.m' || j,"
        " CASE WHEN j % 2 = 0 THEN 'agent' ELSE 'user' END, j, ARRAY[task_id, NULL]"
        f" FROM agent_tasks, generate_series(1, 4) j WHERE context_id LIKE '{side}%'"
        " ORDER BY random()",
        "INSERT INTO message_parts (message_id, task_id, part_kind, sequence_number, text_content,"
        " data_content, file_id) SELECT message_id, task_id, CASE j WHEN 1 THEN 'text' ELSE 'data'"
        " END, j, CASE j WHEN 1 THEN E'said\\n\\t' || message_id END,"
        " CASE j WHEN 2 THEN '{\"n\": 1.50}'::jsonb END, gen_random_uuid() FROM task_messages,"
        f" generate_series(1, 2) j WHERE task_id LIKE '{side}%'",
        "INSERT INTO task_artifacts (task_id, context_id, artifact_id, name, artifact_type,"
        " mcp_execution_id) SELECT task_id, context_id, task_id || '.a', 'made', 'text',"
        f" '{side}x1' FROM agent_tasks WHERE context_id LIKE '{side}%'",
        "INSERT INTO artifact_parts (context_id, artifact_id, part_kind, sequence_number,"
        " text_content) SELECT context_id, artifact_id, 'text', j, 'part ' || j FROM"
        f" task_artifacts, generate_series(1, 2) j WHERE context_id LIKE '{side}%'",
    )


def test_two_databases_with_numbers_of_their_own_converge(
    tmp_path: Path, make_database: MakeDatabase
) -> None:
    """Both get the other's conversations, keep their own numbers, and then move nothing again."""
    majors = sorted(find_servers())
    one = make_database(SCHEMA, major=majors[0])
    two = make_database(SCHEMA, major=majors[-1])
    converse(one, "a", 20)
    converse(two, "b", 30)
    gsync_in(tmp_path, "init", "work")
    work = tmp_path / "work"

    def sync(source: Database, target: Database) -> dict[str, int]:
        ends = source.url, target.url
        found = json_in(work, "db", "sync", *ends, "--preset", "systemprompt")
        return {
            name: t["created"] + t["updated"] + t["deleted"] for name, t in found["tables"].items()
        }

    assert sync(one, two)["message_parts"] == 20 * 3 * 4 * 2
    assert sync(two, one)["message_parts"] == 30 * 3 * 4 * 2
    assert content(one) == content(two)
    assert len(content(one)["artifact_parts"]) == 50 * 3 * 2
    assert numbers(one) != numbers(two)
    before = numbers(one), numbers(two)
    # What is never synced: a context has no session in the other database, and no notification.
    there = "SELECT count(*) FROM user_contexts WHERE session_id IS NOT NULL"
    assert (run(one, there), run(two, there)) == ([(20,)], [(30,)])
    for ends in ((one, two), (two, one)):
        assert not any(sync(*ends).values())

    # Both go on; triggers and sequences do, too.
    run(
        one,
        "UPDATE agent_tasks SET version = 5, status = 'TASK_STATE_FAILED'"
        " WHERE task_id LIKE 'bc1%'",
    )
    run(
        two,
        "UPDATE message_parts SET text_content = 'again' WHERE task_id = 'ac2.t1' AND"
        " text_content IS NOT NULL",
    )
    run(two, "DELETE FROM agent_tasks WHERE task_id = 'ac3.t1'")
    converse(two, "d", 2)
    sync(one, two)
    sync(two, one)
    assert content(one) == content(two)
    assert run(one, "SELECT count(*) FROM task_messages WHERE task_id = 'ac3.t1'") == [(0,)]
    assert [n for n in numbers(one) if n in before[0]] == [n for n in before[0] if n[0] != "ac3.t1"]
    for ends in ((one, two), (two, one)):
        assert not any(sync(*ends).values())


def test_a_database_without_conversations_takes_people(
    tmp_path: Path, make_database: MakeDatabase
) -> None:
    """Tables that one side does not have are left out; those of people have to be there."""
    one = make_database(SCHEMA)
    two = make_database((HERE / "systemprompt.sql").read_text())
    converse(one, "a", 2)
    gsync_in(tmp_path, "init", "work")
    done = json_in(tmp_path / "work", "db", "sync", one.url, two.url, "--preset", "systemprompt")
    assert {name: t["created"] for name, t in done["tables"].items()} == {
        "users": 5,
        "user_contexts": 2,
    }
