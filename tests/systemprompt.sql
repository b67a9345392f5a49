-- Users and the contexts they own, with what refers to them: keys, checks and triggers.

CREATE FUNCTION set_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at = clock_timestamp();
    RETURN NEW;
END $$;

CREATE TABLE users (
    id TEXT PRIMARY KEY,
    name VARCHAR(255) NOT NULL UNIQUE,
    email VARCHAR(255) NOT NULL UNIQUE,
    full_name VARCHAR(255),
    display_name VARCHAR(255),
    status TEXT NOT NULL DEFAULT 'active'
        CHECK (status IN ('active', 'inactive', 'suspended', 'pending', 'deleted', 'temporary')),
    email_verified BOOLEAN DEFAULT false,
    roles TEXT[] NOT NULL DEFAULT '{user}',
    is_bot BOOLEAN DEFAULT false,
    is_scanner BOOLEAN DEFAULT false,
    avatar_url TEXT,
    created_at TIMESTAMPTZ DEFAULT now(),
    updated_at TIMESTAMPTZ DEFAULT now()
);

-- Sessions are never synced.
CREATE TABLE user_sessions (
    session_id TEXT PRIMARY KEY,
    user_id TEXT REFERENCES users (id) ON DELETE SET NULL,
    started_at TIMESTAMPTZ DEFAULT now()
);

CREATE TABLE user_contexts (
    context_id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    session_id TEXT REFERENCES user_sessions (session_id) ON DELETE SET NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL DEFAULT 'user' CHECK (kind IN ('user', 'cli_session')),
    created_at TIMESTAMPTZ DEFAULT now(),
    updated_at TIMESTAMPTZ DEFAULT now()
);

CREATE TRIGGER user_contexts_updated_at BEFORE UPDATE ON user_contexts
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();
