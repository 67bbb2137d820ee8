-- Users who are forgotten: strategic_forget() for applications, and what the running instance tells
-- of each request. No name is stored here: whoever knows a name can look its receipts up.

CREATE TABLE strategic_erasure (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_hash BYTEA NOT NULL,
    bot_hash BYTEA, -- of user and bot; NULL: every bot of the user
    token BIGINT NOT NULL, -- when it was asked for, microseconds since 1970: what is older goes
    requested_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    rows_removed BIGINT NOT NULL DEFAULT 0,
    workers INT, -- that have to report; NULL: none has yet
    reports JSONB NOT NULL DEFAULT '{}', -- by worker: how much has gone, and what could not
    finished_at TIMESTAMPTZ
);
CREATE UNIQUE INDEX strategic_erasure_request
    ON strategic_erasure (user_hash, (coalesce(bot_hash, '')), token);
-- Of rows that the sink writes it asks whether they are from before a request.
CREATE INDEX strategic_erasure_recent ON strategic_erasure ((coalesce(finished_at, 'infinity')));

CREATE TABLE strategic_erasure_key (key BYTEA NOT NULL);
INSERT INTO strategic_erasure_key
SELECT decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex');

-- Keyed, NULL for NULL; names hold no NUL byte.
CREATE FUNCTION strategic_erasure_hash(p_user TEXT, p_bot TEXT DEFAULT '')
RETURNS BYTEA LANGUAGE sql STABLE AS $$
SELECT sha256(key || sha256(key || convert_to(p_user, 'UTF8') || '\x00'::bytea
                            || convert_to(p_bot, 'UTF8')))
FROM strategic_erasure_key $$;

-- The rows of the user older than p_version (NULL: whatever their version) go, in the order in which
-- the sink locks them; answers how many.
CREATE FUNCTION strategic_erase_rows(p_user TEXT, p_bot TEXT, p_version BIGINT)
RETURNS BIGINT LANGUAGE plpgsql AS $$
DECLARE
    target TEXT;
    n BIGINT;
    removed BIGINT := 0;
BEGIN
    FOREACH target IN ARRAY ARRAY[
        'strategic_memory_health', 'strategic_conversation_patterns',
        'strategic_personality_profiles', 'strategic_memory_behavior',
        'strategic_engagement_opportunities']
    LOOP
        EXECUTE format($q$
            WITH gone AS (
                DELETE FROM %1$I WHERE user_id = $1 AND ($2 IS NULL OR bot_name = $2)
                   AND ($3 IS NULL OR row_version < $3)
                RETURNING user_id, bot_name, row_version)
            SELECT count(pg_notify('strategic_cache', format(
                '{"bot_name":%%s,"user_id":%%s,"tables":["%1$s"],"row_version":%%s,"reason":"erase"}',
                to_json(bot_name), to_json(user_id), greatest(row_version + 1, $3)))) FROM gone
            $q$, target) INTO n USING p_user, p_bot, p_version;
        removed := removed + n;
    END LOOP;
    DELETE FROM strategic_key_activity a
    WHERE a.user_id = p_user AND (p_bot IS NULL OR a.bot_name = p_bot)
      AND (p_version IS NULL OR NOT EXISTS (SELECT FROM strategic_conversation_patterns t
                                            WHERE t.user_id = a.user_id AND t.bot_name = a.bot_name));
    DELETE FROM strategic_rebuild
    WHERE user_id = p_user AND (p_bot IS NULL OR bot_name = p_bot) AND finished_at IS NOT NULL;
    RETURN removed;
END $$;

-- The row of a request, made by whoever hears of it first; counts what it removes.
CREATE FUNCTION strategic_erasure_open(p_user TEXT, p_bot TEXT, p_token BIGINT, p_version BIGINT)
RETURNS BIGINT LANGUAGE plpgsql AS $$
DECLARE
    erasure BIGINT;
    n BIGINT;
BEGIN
    INSERT INTO strategic_erasure (user_hash, bot_hash, token)
    VALUES (strategic_erasure_hash(p_user), strategic_erasure_hash(p_user, p_bot), p_token)
    ON CONFLICT DO NOTHING;
    SELECT id INTO erasure FROM strategic_erasure
    WHERE user_hash = strategic_erasure_hash(p_user) AND token = p_token
      AND bot_hash IS NOT DISTINCT FROM strategic_erasure_hash(p_user, p_bot);
    IF p_version IS DISTINCT FROM 0 THEN
        n := strategic_erase_rows(p_user, p_bot, p_version);
        UPDATE strategic_erasure SET rows_removed = rows_removed + n WHERE id = erasure AND n > 0;
    END IF;
    RETURN erasure;
END $$;

-- The user is to be forgotten, with one bot or (NULL) with all: cache rows go with the caller's
-- transaction, everything else when the running instance reads of it. Answers the id of the receipt
-- in strategic_erasure.
CREATE FUNCTION strategic_forget(p_user TEXT, p_bot TEXT DEFAULT NULL)
RETURNS BIGINT LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    token TIMESTAMPTZ := strategic_ask('forget', p_user, p_bot, NULL, NULL);
BEGIN
    RETURN strategic_erasure_open(p_user, strategic_bot_name(p_bot),
                                  (extract(epoch FROM token) * 1000000)::bigint, NULL);
END $$;

-- By the running instance: a worker's state holds nothing of the user any more. Rows that are older
-- than p_version go (0: none; it is not the worker that writes them).
CREATE FUNCTION strategic_erased(p_pipeline TEXT, p_epoch BIGINT, p_user TEXT, p_bot TEXT,
                                 p_token BIGINT, p_version BIGINT)
RETURNS BIGINT LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM strategic_fence(p_pipeline, p_epoch);
    RETURN strategic_erasure_open(p_user, p_bot, p_token, p_version);
END $$;

-- Nor do its files hold the name. The receipt is complete when all workers have said so.
CREATE FUNCTION strategic_erasure_report(p_pipeline TEXT, p_epoch BIGINT, p_id BIGINT, p_worker INT,
                                         p_workers INT, p_report JSONB)
RETURNS VOID LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM strategic_fence(p_pipeline, p_epoch);
    UPDATE strategic_erasure
    SET reports = reports || jsonb_build_object(p_worker::text, p_report), workers = p_workers
    WHERE id = p_id;
    UPDATE strategic_erasure SET finished_at = clock_timestamp()
    WHERE id = p_id AND finished_at IS NULL
      AND NOT EXISTS (SELECT FROM generate_series(0, p_workers - 1) w WHERE NOT reports ? w::text);
END $$;

-- Last in a transaction of the sink: of the rows that it has written, those go that were computed
-- before the user was forgotten; seen is the newest request that a row knows of. A worker has no such
-- rows when its receipt is complete: then a day is time enough for what was on its way.
CREATE FUNCTION strategic_bury(p_users TEXT[], p_bots TEXT[], p_seen BIGINT[], p_versions BIGINT[])
RETURNS BIGINT LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    dead RECORD;
    removed BIGINT := 0;
BEGIN
    IF NOT EXISTS (SELECT FROM strategic_erasure
                   WHERE coalesce(finished_at, 'infinity') > now() - interval '1 day') THEN
        RETURN 0;
    END IF;
    FOR dead IN
        SELECT n.user_id, n.bot_name, max(n.version) AS version
        FROM unnest(p_users, p_bots, p_seen, p_versions) AS n (user_id, bot_name, seen, version)
        JOIN strategic_erasure e ON e.user_hash = strategic_erasure_hash(n.user_id)
          AND (e.bot_hash IS NULL OR e.bot_hash = strategic_erasure_hash(n.user_id, n.bot_name))
        WHERE e.token > n.seen
          AND coalesce(e.finished_at, 'infinity') > now() - interval '1 day'
        GROUP BY n.user_id, n.bot_name
    LOOP
        removed := removed + strategic_erase_rows(dead.user_id, dead.bot_name, dead.version + 1);
    END LOOP;
    RETURN removed;
END $$;

-- As in 0003_requests: names are looked up in this schema and nowhere else, and nobody may call them
-- unasked (deploy/roles.sql).
DO $$
DECLARE
    f TEXT;
BEGIN
    FOREACH f IN ARRAY ARRAY[
        'strategic_erasure_hash(text, text)', 'strategic_erase_rows(text, text, bigint)',
        'strategic_erasure_open(text, text, bigint, bigint)', 'strategic_forget(text, text)',
        'strategic_erased(text, bigint, text, text, bigint, bigint)',
        'strategic_erasure_report(text, bigint, bigint, int, int, jsonb)',
        'strategic_bury(text[], text[], bigint[], bigint[])']
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = pg_catalog, %I, pg_temp', f,
                       current_schema());
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
    END LOOP;
END $$;
