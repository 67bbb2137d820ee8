-- Requests to rebuild keys from the source tables, and how far each has come. `warmpath rebuild`
-- inserts a row, or anybody who may; the running instance works on them one at a time, in order of
-- id. What is done stays done: after a restart a request goes on behind its cursor.

CREATE TABLE strategic_rebuild (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pipeline TEXT NOT NULL,
    -- what to rebuild: NULL = all users, and then the bots' own keys; a user; a user with one bot
    user_id TEXT CHECK (user_id <> ''),
    bot_name TEXT CHECK (bot_name <> ''),
    -- only the rows of this engine are written at once, the others when their triggers say so
    engine TEXT,
    reason TEXT NOT NULL DEFAULT 'command',
    requested_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    started_at TIMESTAMPTZ,
    finished_at TIMESTAMPTZ,
    -- the last user that is durably rebuilt; with all users done, the last bot
    users_done BOOL NOT NULL DEFAULT FALSE,
    cursor TEXT,
    keys_done BIGINT NOT NULL DEFAULT 0,
    rows_read BIGINT NOT NULL DEFAULT 0,
    retries BIGINT NOT NULL DEFAULT 0,
    -- why it failed, or what it could not do; NULL = nothing to say
    error TEXT,
    CHECK (bot_name IS NULL OR user_id IS NOT NULL)
);

CREATE INDEX strategic_rebuild_open ON strategic_rebuild (pipeline, id) WHERE finished_at IS NULL;
