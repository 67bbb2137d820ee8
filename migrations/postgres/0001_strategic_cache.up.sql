-- The six cache tables, the helper tables beside them, and the functions readers and the sink call.
--
-- Names are not schema-qualified on purpose: everything lives in the first schema of search_path
-- that exists, so one database can hold several installations. The caller runs this file in one
-- transaction.
--
-- The six tables may have been made by an earlier system. Then only what is missing is added, and
-- strategic_added remembers exactly what that was, so that going down removes nothing else.

CREATE VIEW strategic_objects AS
WITH cache AS (
    SELECT c.oid, c.relname, c.reloptions
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = current_schema()
      AND c.relkind IN ('r', 'p')
      AND c.relname IN ('strategic_memory_health', 'strategic_character_performance',
                        'strategic_personality_profiles', 'strategic_conversation_patterns',
                        'strategic_memory_behavior', 'strategic_engagement_opportunities')
)
SELECT relname::text AS relation, 'table'::text AS kind, relname::text AS name FROM cache
UNION ALL
SELECT cache.relname, 'column', a.attname
FROM cache JOIN pg_attribute a ON a.attrelid = cache.oid AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT cache.relname, 'index', i.relname
FROM cache JOIN pg_index x ON x.indrelid = cache.oid JOIN pg_class i ON i.oid = x.indexrelid
UNION ALL
SELECT cache.relname, 'option', split_part(o, '=', 1) FROM cache, unnest(cache.reloptions) o;

-- Filled with what is there before, and turned into what was added at the end of this file.
CREATE TABLE strategic_added (
    relation TEXT NOT NULL,
    kind TEXT NOT NULL, -- table, column, index, option
    name TEXT NOT NULL,
    PRIMARY KEY (relation, kind, name)
);
INSERT INTO strategic_added SELECT relation, kind, name FROM strategic_objects;

-- The seed schema, column for column.

CREATE TABLE IF NOT EXISTS strategic_memory_health (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id TEXT NOT NULL,
    bot_name TEXT NOT NULL,
    memory_snapshot JSONB NOT NULL,
    avg_memory_age_hours FLOAT,
    retrieval_frequency_trend TEXT, -- increasing, stable, declining
    forgetting_risk_memories JSONB,
    computed_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    expires_at TIMESTAMPTZ NOT NULL,
    UNIQUE (user_id, bot_name)
);

CREATE TABLE IF NOT EXISTS strategic_character_performance (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    bot_name TEXT NOT NULL,
    time_window_hours INTEGER NOT NULL DEFAULT 168,
    engagement_score_avg FLOAT,
    satisfaction_score_avg FLOAT,
    coherence_score_avg FLOAT,
    personality_consistency_index FLOAT,
    quality_trend TEXT, -- improving, stable, declining
    recent_anomalies JSONB,
    computed_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    expires_at TIMESTAMPTZ NOT NULL,
    UNIQUE (bot_name, time_window_hours)
);

CREATE TABLE IF NOT EXISTS strategic_personality_profiles (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id TEXT NOT NULL,
    bot_name TEXT NOT NULL,
    dominant_traits JSONB,
    user_response_patterns JSONB,
    adaptation_suggestions JSONB,
    trait_evolution_history JSONB,
    computed_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    expires_at TIMESTAMPTZ NOT NULL,
    UNIQUE (user_id, bot_name)
);

CREATE TABLE IF NOT EXISTS strategic_conversation_patterns (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id TEXT NOT NULL,
    bot_name TEXT NOT NULL,
    recent_topics JSONB,
    avg_topic_duration_minutes FLOAT,
    context_switch_frequency FLOAT,
    predicted_switch_likelihood FLOAT,
    topic_transition_graph JSONB,
    computed_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    expires_at TIMESTAMPTZ NOT NULL,
    UNIQUE (user_id, bot_name)
);

CREATE TABLE IF NOT EXISTS strategic_memory_behavior (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id TEXT NOT NULL,
    bot_name TEXT NOT NULL,
    forgetting_curve_params JSONB,
    high_retention_memories JSONB,
    low_retention_memories JSONB,
    recall_simulation_score FLOAT,
    computed_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    expires_at TIMESTAMPTZ NOT NULL,
    UNIQUE (user_id, bot_name)
);

CREATE TABLE IF NOT EXISTS strategic_engagement_opportunities (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id TEXT NOT NULL,
    bot_name TEXT NOT NULL,
    optimal_timing_hours FLOAT,
    receptivity_score FLOAT,
    suggested_topics JSONB,
    last_engagement_gap_hours FLOAT,
    proactive_success_rate FLOAT,
    computed_at TIMESTAMPTZ NOT NULL DEFAULT NOW(),
    expires_at TIMESTAMPTZ NOT NULL,
    UNIQUE (user_id, bot_name)
);

-- A table that was there before must at least have the seed's columns and its unique key: the
-- sink's ON CONFLICT needs the key, and readers need the columns.
DO $$
DECLARE
    seed RECORD;
    missing TEXT;
    target REGCLASS;
    keyed BOOLEAN;
BEGIN
    FOR seed IN
        SELECT * FROM (VALUES
            ('strategic_memory_health', ARRAY['user_id', 'bot_name'],
             ARRAY['memory_snapshot', 'avg_memory_age_hours', 'retrieval_frequency_trend',
                   'forgetting_risk_memories']),
            ('strategic_character_performance', ARRAY['bot_name', 'time_window_hours'],
             ARRAY['engagement_score_avg', 'satisfaction_score_avg', 'coherence_score_avg',
                   'personality_consistency_index', 'quality_trend', 'recent_anomalies']),
            ('strategic_personality_profiles', ARRAY['user_id', 'bot_name'],
             ARRAY['dominant_traits', 'user_response_patterns', 'adaptation_suggestions',
                   'trait_evolution_history']),
            ('strategic_conversation_patterns', ARRAY['user_id', 'bot_name'],
             ARRAY['recent_topics', 'avg_topic_duration_minutes', 'context_switch_frequency',
                   'predicted_switch_likelihood', 'topic_transition_graph']),
            ('strategic_memory_behavior', ARRAY['user_id', 'bot_name'],
             ARRAY['forgetting_curve_params', 'high_retention_memories', 'low_retention_memories',
                   'recall_simulation_score']),
            ('strategic_engagement_opportunities', ARRAY['user_id', 'bot_name'],
             ARRAY['optimal_timing_hours', 'receptivity_score', 'suggested_topics',
                   'last_engagement_gap_hours', 'proactive_success_rate'])
        ) AS v (relation, key, filled)
    LOOP
        target := format('%I.%I', current_schema(), seed.relation)::regclass;
        SELECT string_agg(w, ', ') INTO missing
        FROM unnest(seed.key || seed.filled || ARRAY['id', 'computed_at', 'expires_at']) w
        WHERE NOT EXISTS (SELECT FROM pg_attribute a
                          WHERE a.attrelid = target AND a.attname = w AND NOT a.attisdropped);
        IF missing IS NOT NULL THEN
            RAISE EXCEPTION 'table %.% exists but lacks the columns %', current_schema(),
                seed.relation, missing
                USING HINT = 'Rename or drop that table, then migrate up again.';
        END IF;
        SELECT EXISTS (
            SELECT FROM pg_index x
            WHERE x.indrelid = target AND x.indisunique AND x.indisvalid AND x.indpred IS NULL
              AND x.indexprs IS NULL AND x.indnkeyatts = 2
              AND (SELECT array_agg(a.attname::text ORDER BY a.attname)
                   FROM pg_attribute a
                   WHERE a.attrelid = target AND a.attnum = ANY (x.indkey))
                  = (SELECT array_agg(k ORDER BY k) FROM unnest(seed.key) k)) INTO keyed;
        IF NOT keyed THEN
            RAISE EXCEPTION 'table %.% exists but has no unique constraint on (%)',
                current_schema(), seed.relation, array_to_string(seed.key, ', ')
                USING HINT = 'Add the constraint, then migrate up again.';
        END IF;
    END LOOP;
END $$;

CREATE INDEX IF NOT EXISTS idx_memory_health_expires ON strategic_memory_health (expires_at);
CREATE INDEX IF NOT EXISTS idx_character_perf_expires
    ON strategic_character_performance (expires_at);
CREATE INDEX IF NOT EXISTS idx_personality_expires ON strategic_personality_profiles (expires_at);
CREATE INDEX IF NOT EXISTS idx_conv_patterns_expires
    ON strategic_conversation_patterns (expires_at);
CREATE INDEX IF NOT EXISTS idx_memory_behavior_expires ON strategic_memory_behavior (expires_at);
CREATE INDEX IF NOT EXISTS idx_engagement_expires
    ON strategic_engagement_opportunities (expires_at);

-- What every table says about its own freshness, all nullable so that older writers keep working.
-- row_version alone is NOT NULL: the guard of the sink's upsert compares with it.
DO $$
DECLARE
    cache_table TEXT;
    setting TEXT[];
BEGIN
    FOREACH cache_table IN ARRAY ARRAY[
        'strategic_memory_health', 'strategic_character_performance',
        'strategic_personality_profiles', 'strategic_conversation_patterns',
        'strategic_memory_behavior', 'strategic_engagement_opportunities']
    LOOP
        EXECUTE format($f$
            ALTER TABLE %I
                ADD COLUMN IF NOT EXISTS as_of TIMESTAMPTZ,
                ADD COLUMN IF NOT EXISTS source_lsn PG_LSN,
                ADD COLUMN IF NOT EXISTS row_version BIGINT NOT NULL DEFAULT 0,
                ADD COLUMN IF NOT EXISTS event_count BIGINT,
                ADD COLUMN IF NOT EXISTS engine_version INT,
                ADD COLUMN IF NOT EXISTS confidence REAL,
                ADD COLUMN IF NOT EXISTS state_flags INT,
                ADD COLUMN IF NOT EXISTS valid_until TIMESTAMPTZ,
                ADD COLUMN IF NOT EXISTS invalidated_at TIMESTAMPTZ,
                ADD COLUMN IF NOT EXISTS details JSONB
            $f$, cache_table);
        -- Rows are rewritten often: leave room in the page, vacuum early. A setting that the
        -- owner of an older table chose stays.
        FOREACH setting SLICE 1 IN ARRAY ARRAY[
            ['fillfactor', '80'], ['autovacuum_vacuum_scale_factor', '0.02']]
        LOOP
            IF NOT EXISTS (SELECT FROM strategic_objects o
                           WHERE o.relation = cache_table AND o.kind = 'option'
                             AND o.name = setting[1]) THEN
                EXECUTE format('ALTER TABLE %I SET (%s = %s)', cache_table, setting[1],
                               setting[2]);
            END IF;
        END LOOP;
    END LOOP;
END $$;

ALTER TABLE strategic_memory_health
    ADD COLUMN IF NOT EXISTS topic_relevance_drift FLOAT;
ALTER TABLE strategic_conversation_patterns
    ADD COLUMN IF NOT EXISTS communication_style JSONB,
    ADD COLUMN IF NOT EXISTS preferred_depth JSONB,
    ADD COLUMN IF NOT EXISTS emotional_engagement JSONB,
    ADD COLUMN IF NOT EXISTS optimal_response_length JSONB;
ALTER TABLE strategic_memory_behavior
    ADD COLUMN IF NOT EXISTS consolidation JSONB;
ALTER TABLE strategic_engagement_opportunities
    ADD COLUMN IF NOT EXISTS next_contact_at TIMESTAMPTZ,
    ADD COLUMN IF NOT EXISTS last_user_message_at TIMESTAMPTZ,
    ADD COLUMN IF NOT EXISTS opportunities JSONB;

-- From "what was there" to "what was added".
WITH before AS (DELETE FROM strategic_added RETURNING relation, kind, name)
INSERT INTO strategic_added
SELECT relation, kind, name FROM strategic_objects
EXCEPT
SELECT relation, kind, name FROM before;
DROP VIEW strategic_objects;

-- Who may write. The lease is renewed every few seconds; the epoch only changes with the holder,
-- and every sink transaction holds it FOR SHARE. They are two tables so that renewals do not wait
-- for those transactions.
CREATE TABLE strategic_lease (
    pipeline TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    until TIMESTAMPTZ NOT NULL
);
CREATE TABLE strategic_epoch (
    pipeline TEXT PRIMARY KEY,
    epoch BIGINT NOT NULL
);

-- How far the rows are; written in the same transaction as the rows themselves.
CREATE TABLE strategic_progress (
    pipeline TEXT PRIMARY KEY,
    epoch BIGINT NOT NULL,
    slot TEXT,
    slot_birth PG_LSN,
    covered_lsn PG_LSN,
    row_version BIGINT NOT NULL DEFAULT 0, -- the largest one ever written
    events_applied BIGINT,
    updated_at TIMESTAMPTZ NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE strategic_processor (
    shard SMALLINT PRIMARY KEY,
    heartbeat TIMESTAMPTZ NOT NULL,
    -- commit time up to which every event of the shard is reflected in rows
    caught_up_to TIMESTAMPTZ NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE strategic_key_activity (
    user_id TEXT,
    bot_name TEXT,
    shard SMALLINT NOT NULL,
    first_seen TIMESTAMPTZ,
    opted_out BOOL NOT NULL DEFAULT FALSE,
    PRIMARY KEY (user_id, bot_name)
); -- written once per key

CREATE TABLE strategic_bot_epoch (
    bot_name TEXT PRIMARY KEY,
    character_changed_at TIMESTAMPTZ NOT NULL
);

-- First statement of every sink transaction. Raises WP001, which undoes the transaction, unless the
-- caller's epoch is still the current one; otherwise a take-over waits for this transaction to end.
CREATE FUNCTION strategic_fence(p_pipeline TEXT, p_epoch BIGINT)
RETURNS VOID LANGUAGE plpgsql AS $$
DECLARE
    stored BIGINT;
BEGIN
    SELECT epoch INTO stored FROM strategic_epoch WHERE pipeline = p_pipeline FOR SHARE;
    IF stored IS DISTINCT FROM p_epoch THEN
        RAISE EXCEPTION 'pipeline "%" is at epoch %, not %', p_pipeline,
            coalesce(stored::text, 'none'), p_epoch USING ERRCODE = 'WP001';
    END IF;
END $$;

-- How far a reader may trust a row: fresh (by its age), current (by the processor's progress),
-- stale, expired, missing, or invalid. A missing row is tested first: the LEFT JOINs below would
-- otherwise let it fall through to expired.
CREATE FUNCTION strategic_freshness(expires TIMESTAMPTZ, valid TIMESTAMPTZ, inval TIMESTAMPTZ,
    computed TIMESTAMPTZ, beat TIMESTAMPTZ, caught TIMESTAMPTZ, changed TIMESTAMPTZ)
RETURNS TEXT LANGUAGE sql STABLE PARALLEL SAFE AS $$
SELECT CASE WHEN expires IS NULL THEN 'missing'
  WHEN inval IS NOT NULL OR computed < changed THEN 'invalid'
  WHEN expires > now() THEN 'fresh'
  WHEN valid > now() AND beat > now() - interval '60 s' AND caught > now() - interval '5 min'
    THEN 'current'
  WHEN expires > now() - interval '24 hours' THEN 'stale' ELSE 'expired' END $$;

-- Everything the hot path reads about one user and bot: one round trip, always one row.
CREATE FUNCTION strategic_bundle(p_user TEXT, p_bot TEXT, p_window INT DEFAULT 168)
RETURNS TABLE (mh_f TEXT, mh strategic_memory_health,
               pp_f TEXT, pp strategic_personality_profiles,
               cp_f TEXT, cp strategic_conversation_patterns,
               mb_f TEXT, mb strategic_memory_behavior,
               eo_f TEXT, eo strategic_engagement_opportunities,
               pf_f TEXT, pf strategic_character_performance)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
SELECT
 strategic_freshness(h.expires_at, h.valid_until, h.invalidated_at, h.computed_at, s.heartbeat,
                     s.caught_up_to, NULL), h,
 strategic_freshness(p.expires_at, p.valid_until, p.invalidated_at, p.computed_at, s.heartbeat,
                     s.caught_up_to, b.character_changed_at), p,
 strategic_freshness(c.expires_at, c.valid_until, c.invalidated_at, c.computed_at, s.heartbeat,
                     s.caught_up_to, NULL), c,
 strategic_freshness(m.expires_at, m.valid_until, m.invalidated_at, m.computed_at, s.heartbeat,
                     s.caught_up_to, NULL), m,
 strategic_freshness(o.expires_at, o.valid_until, o.invalidated_at, o.computed_at, s.heartbeat,
                     s.caught_up_to, NULL), o,
 strategic_freshness(f.expires_at, f.valid_until, f.invalidated_at, f.computed_at, s.heartbeat,
                     s.caught_up_to, b.character_changed_at), f
FROM (VALUES (1)) one(x)
LEFT JOIN strategic_key_activity a ON a.user_id = p_user AND a.bot_name = p_bot
LEFT JOIN strategic_processor s ON s.shard = a.shard
LEFT JOIN strategic_bot_epoch b ON b.bot_name = p_bot
LEFT JOIN strategic_memory_health h ON h.user_id = p_user AND h.bot_name = p_bot
LEFT JOIN strategic_personality_profiles p ON p.user_id = p_user AND p.bot_name = p_bot
LEFT JOIN strategic_conversation_patterns c ON c.user_id = p_user AND c.bot_name = p_bot
LEFT JOIN strategic_memory_behavior m ON m.user_id = p_user AND m.bot_name = p_bot
LEFT JOIN strategic_engagement_opportunities o ON o.user_id = p_user AND o.bot_name = p_bot
LEFT JOIN strategic_character_performance f
       ON f.bot_name = p_bot AND f.time_window_hours = p_window $$;
