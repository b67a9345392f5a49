-- What was said and made in contexts; run after systemprompt.sql. Ids that each database numbers
-- itself stand beside the keys that rows are known by.

CREATE TABLE mcp_tool_executions (
    mcp_execution_id TEXT PRIMARY KEY,
    tool_name TEXT NOT NULL
);

CREATE TABLE context_agents (
    id SERIAL PRIMARY KEY,
    context_id TEXT NOT NULL REFERENCES user_contexts (context_id) ON DELETE CASCADE,
    agent_name TEXT NOT NULL,
    added_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    last_active_at TIMESTAMPTZ,
    UNIQUE (context_id, agent_name)
);

CREATE TABLE context_notifications (
    id SERIAL PRIMARY KEY,
    context_id TEXT NOT NULL REFERENCES user_contexts (context_id) ON DELETE CASCADE,
    agent_id TEXT NOT NULL,
    notification_type TEXT NOT NULL,
    notification_data JSONB NOT NULL,
    received_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    broadcasted BOOLEAN DEFAULT false
);

CREATE TABLE agent_tasks (
    task_id TEXT PRIMARY KEY,
    context_id TEXT NOT NULL REFERENCES user_contexts (context_id) ON DELETE CASCADE,
    status TEXT NOT NULL DEFAULT 'TASK_STATE_SUBMITTED' CHECK (status IN (
        'TASK_STATE_PENDING', 'TASK_STATE_SUBMITTED', 'TASK_STATE_WORKING',
        'TASK_STATE_INPUT_REQUIRED', 'TASK_STATE_COMPLETED', 'TASK_STATE_CANCELED',
        'TASK_STATE_FAILED', 'TASK_STATE_REJECTED', 'TASK_STATE_AUTH_REQUIRED',
        'TASK_STATE_UNKNOWN')),
    status_timestamp TIMESTAMPTZ NOT NULL DEFAULT now(),
    user_id TEXT,
    session_id TEXT,
    trace_id TEXT,
    agent_name TEXT,
    started_at TIMESTAMPTZ,
    completed_at TIMESTAMPTZ,
    execution_time_ms INTEGER,
    error_message TEXT,
    metadata JSONB DEFAULT '{}',
    version BIGINT DEFAULT 0,
    created_at TIMESTAMPTZ DEFAULT now(),
    updated_at TIMESTAMPTZ DEFAULT now()
);

CREATE TRIGGER agent_tasks_updated_at BEFORE UPDATE ON agent_tasks
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

CREATE TABLE task_messages (
    id SERIAL PRIMARY KEY,
    task_id TEXT NOT NULL REFERENCES agent_tasks (task_id) ON DELETE CASCADE,
    message_id TEXT NOT NULL,
    client_message_id TEXT,
    role TEXT NOT NULL CHECK (role IN ('user', 'agent')),
    context_id TEXT,
    user_id TEXT,
    session_id TEXT,
    trace_id TEXT,
    sequence_number INTEGER NOT NULL,
    metadata JSONB DEFAULT '{}',
    reference_task_ids TEXT[],
    created_at TIMESTAMPTZ DEFAULT now(),
    updated_at TIMESTAMPTZ DEFAULT now(),
    UNIQUE (task_id, message_id),
    UNIQUE (message_id, task_id),
    UNIQUE (task_id, sequence_number)
);

CREATE TABLE message_parts (
    id SERIAL PRIMARY KEY,
    message_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    part_kind TEXT NOT NULL CHECK (part_kind IN ('text', 'file', 'data')),
    sequence_number INTEGER NOT NULL,
    text_content TEXT,
    file_name TEXT,
    file_mime_type TEXT,
    file_uri TEXT,
    file_bytes TEXT,
    file_id UUID,
    data_content JSONB,
    metadata JSONB,
    UNIQUE (message_id, sequence_number),
    FOREIGN KEY (message_id, task_id) REFERENCES task_messages (message_id, task_id)
        ON DELETE CASCADE,
    CHECK ((part_kind = 'text' AND text_content IS NOT NULL)
        OR (part_kind = 'file' AND (file_uri IS NOT NULL OR file_bytes IS NOT NULL))
        OR (part_kind = 'data' AND data_content IS NOT NULL))
);

CREATE TABLE task_artifacts (
    id SERIAL PRIMARY KEY,
    task_id TEXT NOT NULL REFERENCES agent_tasks (task_id) ON DELETE CASCADE,
    context_id TEXT NOT NULL,
    artifact_id TEXT NOT NULL,
    name TEXT,
    description TEXT,
    artifact_type TEXT NOT NULL,
    source TEXT,
    tool_name TEXT,
    mcp_execution_id TEXT REFERENCES mcp_tool_executions (mcp_execution_id) ON DELETE SET NULL,
    fingerprint TEXT,
    skill_id TEXT,
    skill_name TEXT,
    metadata JSONB DEFAULT '{}',
    created_at TIMESTAMPTZ DEFAULT now(),
    updated_at TIMESTAMPTZ DEFAULT now(),
    UNIQUE (task_id, artifact_id),
    UNIQUE (context_id, artifact_id)
);

CREATE TABLE artifact_parts (
    id SERIAL PRIMARY KEY,
    context_id TEXT NOT NULL,
    artifact_id TEXT NOT NULL,
    part_kind TEXT NOT NULL CHECK (part_kind IN ('text', 'file', 'data')),
    sequence_number INTEGER NOT NULL,
    text_content TEXT,
    file_name TEXT,
    file_mime_type TEXT,
    file_uri TEXT,
    file_bytes TEXT,
    data_content JSONB,
    metadata JSONB,
    UNIQUE (artifact_id, sequence_number),
    FOREIGN KEY (context_id, artifact_id) REFERENCES task_artifacts (context_id, artifact_id)
        ON DELETE CASCADE
);
