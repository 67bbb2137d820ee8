-- What an application may ask of the rows of a user, in its own transaction: strategic_invalidate(),
-- strategic_touch(), strategic_recompute(), and a statement trigger that invalidates by itself.
--
-- A request is a row of strategic_request until the end of its transaction. Then, in one go and in
-- the order in which the sink locks rows, the rows that it invalidates are emptied, and it is handed
-- on: emitted as a transactional logical message when the cache lives in the source database, so
-- that it comes behind the changes of the same transaction; else it stays here, and the running
-- instance moves it to the source. So no row of the cache is locked for longer than a COMMIT takes.

CREATE TABLE strategic_request (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    op TEXT NOT NULL CHECK (op IN ('invalidate', 'recompute', 'touch', 'forget')),
    user_id TEXT NOT NULL,
    bot_name TEXT, -- NULL: of every bot
    reason TEXT,
    -- the rows of which tables are invalid at once; NULL = all
    tables TEXT[],
    -- The token: a row that is invalid because of it is valid again when it was computed by who has
    -- applied it.
    at TIMESTAMPTZ NOT NULL,
    transaction BIGINT NOT NULL,
    applied BOOL NOT NULL DEFAULT FALSE
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX strategic_request_open ON strategic_request (transaction) WHERE NOT applied;

-- Written by each instance when it starts: whether the cache it fills lives in the database that it
-- reads. Until one has, requests wait in strategic_request.
CREATE TABLE strategic_source (
    pipeline TEXT PRIMARY KEY,
    here BOOL NOT NULL,
    recorded_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- The name of a bot as rows have it: lower case, anything but a-z, 0-9, _ and - dropped, runs of
-- blanks, _ and - to one _, none at the ends. The empty string when nothing is left.
CREATE FUNCTION strategic_bot_name(p_bot TEXT)
RETURNS TEXT LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
SELECT btrim(regexp_replace(regexp_replace(
    translate(p_bot, 'ABCDEFGHIJKLMNOPQRSTUVWXYZ', 'abcdefghijklmnopqrstuvwxyz') COLLATE "C",
    '[^a-z0-9_\s\u001c-\u001f\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000-]+',
    '', 'g'), '[^a-z0-9]+', '_', 'g'), '_') $$;

-- As it goes into the slot (ingest/request.h).
CREATE FUNCTION strategic_request_text(r strategic_request)
RETURNS TEXT LANGUAGE sql STABLE AS $$
SELECT jsonb_build_object('op', r.op, 'user_id', r.user_id, 'bot_name', r.bot_name,
                          'reason', r.reason,
                          'at', (extract(epoch FROM r.at) * 1000000)::bigint)::text $$;

-- Keeps one request of this transaction; answers its token.
CREATE FUNCTION strategic_ask(p_op TEXT, p_user TEXT, p_bot TEXT, p_reason TEXT, p_tables TEXT[])
RETURNS TIMESTAMPTZ LANGUAGE plpgsql AS $$
DECLARE
    me BIGINT := txid_current();
    bot TEXT := strategic_bot_name(p_bot);
    unknown TEXT;
    token TIMESTAMPTZ;
BEGIN
    IF p_user IS NULL OR p_user = '' OR octet_length(p_user) > 512 THEN
        RAISE EXCEPTION 'the user is missing, or longer than 512 bytes'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF bot = '' OR octet_length(bot) > 512 THEN
        RAISE EXCEPTION 'the bot has no letter or digit in its name, or more than 512'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'NULL means every bot of the user.';
    END IF;
    SELECT t INTO unknown FROM unnest(p_tables) AS t
    WHERE t IS NULL OR t NOT IN (
        'strategic_memory_health', 'strategic_conversation_patterns',
        'strategic_personality_profiles', 'strategic_memory_behavior',
        'strategic_engagement_opportunities') LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION '"%" is no cache table of users', unknown
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO strategic_request (op, user_id, bot_name, reason, tables, at, transaction)
    VALUES (p_op, p_user, bot, left(p_reason, 100), p_tables, clock_timestamp(), me)
    RETURNING at INTO token;
    RETURN token;
END $$;

-- At the end of a transaction, for all of its requests at the first of them. Rows are locked table by
-- table and in each by user and bot, as the sink does: neither ever waits for the other in a circle.
CREATE FUNCTION strategic_request_end()
RETURNS TRIGGER LANGUAGE plpgsql AS $$
DECLARE
    me BIGINT := txid_current();
    target RECORD;
    here BOOL;
    elsewhere BOOL;
BEGIN
    IF NOT EXISTS (SELECT FROM strategic_request WHERE id = NEW.id AND NOT applied) THEN
        RETURN NULL;
    END IF;
    IF EXISTS (SELECT FROM strategic_request
               WHERE transaction = me AND NOT applied AND op = 'invalidate') THEN
        FOR target IN SELECT * FROM (VALUES
            ('strategic_memory_health', $q$memory_snapshot = '{}', forgetting_risk_memories = NULL$q$),
            ('strategic_conversation_patterns', $q$recent_topics = NULL,
              topic_transition_graph = NULL, communication_style = NULL, preferred_depth = NULL,
              emotional_engagement = NULL, optimal_response_length = NULL$q$),
            ('strategic_personality_profiles', $q$dominant_traits = NULL,
              user_response_patterns = NULL, adaptation_suggestions = NULL,
              trait_evolution_history = NULL$q$),
            ('strategic_memory_behavior', $q$forgetting_curve_params = NULL,
              high_retention_memories = NULL, low_retention_memories = NULL, consolidation = NULL$q$),
            ('strategic_engagement_opportunities', $q$suggested_topics = NULL,
              opportunities = NULL$q$)) AS v (name, emptied)
        LOOP
            BEGIN
                EXECUTE format($q$
                    SELECT FROM %1$I t JOIN strategic_request r
                      ON t.user_id = r.user_id AND (r.bot_name IS NULL OR t.bot_name = r.bot_name)
                    WHERE r.transaction = $1 AND NOT r.applied AND r.op = 'invalidate'
                      AND (r.tables IS NULL OR $2 = ANY (r.tables))
                    ORDER BY t.user_id COLLATE "C", t.bot_name COLLATE "C"
                    FOR UPDATE OF t $q$, target.name) USING me, target.name;
                EXECUTE format($q$
                    WITH wrong AS (
                        SELECT t.user_id, t.bot_name, max(r.at) AS at, max(r.reason) AS reason
                        FROM %1$I t JOIN strategic_request r
                          ON t.user_id = r.user_id AND (r.bot_name IS NULL OR t.bot_name = r.bot_name)
                        WHERE r.transaction = $1 AND NOT r.applied AND r.op = 'invalidate'
                          AND (r.tables IS NULL OR $2 = ANY (r.tables))
                        GROUP BY t.user_id, t.bot_name),
                    emptied AS (
                        UPDATE %1$I t SET invalidated_at = greatest(t.invalidated_at, wrong.at),
                            expires_at = least(t.expires_at, now()), details = NULL, %2$s
                        FROM wrong WHERE t.user_id = wrong.user_id AND t.bot_name = wrong.bot_name
                        RETURNING t.user_id, t.bot_name, t.row_version, wrong.reason)
                    SELECT count(pg_notify('strategic_cache', format(
                        '{"bot_name":%%s,"user_id":%%s,"tables":["%1$s"],"row_version":%%s,"reason":%%s}',
                        to_json(bot_name), to_json(user_id), row_version,
                        to_json(coalesce(reason, 'invalidate'))))) FROM emptied $q$,
                    target.name, target.emptied) USING me, target.name;
            EXCEPTION WHEN serialization_failure OR deadlock_detected THEN
                -- Under REPEATABLE READ and above a row that was written since the transaction began
                -- cannot be changed any more. The application's COMMIT is not to fail for it: the
                -- row stays as it is until it is computed again, which follows at once.
                NULL;
            END;
        END LOOP;
    END IF;
    SELECT coalesce(bool_or(s.here), FALSE), NOT coalesce(bool_and(s.here), FALSE)
    INTO here, elsewhere FROM strategic_source s;
    IF here THEN
        PERFORM pg_logical_emit_message(true, 'warmpath.request', content)
        FROM (SELECT DISTINCT ON (op, user_id, bot_name) id, strategic_request_text(r) AS content
              FROM strategic_request r WHERE transaction = me AND NOT applied
              ORDER BY op, user_id, bot_name, id DESC) newest ORDER BY id;
    END IF;
    IF elsewhere THEN
        UPDATE strategic_request SET applied = TRUE WHERE transaction = me AND NOT applied;
        NOTIFY strategic_request;
    ELSE
        DELETE FROM strategic_request WHERE transaction = me AND NOT applied;
    END IF;
    RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER strategic_request_end AFTER INSERT ON strategic_request
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION strategic_request_end();

-- The rows of the user with the bot (NULL: with every bot) are wrong. At COMMIT readers see them as
-- invalid, without anything that was derived from what the user said, until they have been computed
-- from what the transaction left. Answers the token.
CREATE FUNCTION strategic_invalidate(p_user TEXT, p_bot TEXT DEFAULT NULL,
                                     p_reason TEXT DEFAULT 'invalidate',
                                     p_tables TEXT[] DEFAULT NULL)
RETURNS TIMESTAMPTZ LANGUAGE sql SECURITY DEFINER AS $$
SELECT strategic_ask('invalidate', p_user, p_bot, p_reason, p_tables) $$;

-- The user is about to write: rows that are not young are renewed now.
CREATE FUNCTION strategic_touch(p_user TEXT, p_bot TEXT DEFAULT NULL)
RETURNS TIMESTAMPTZ LANGUAGE sql SECURITY DEFINER AS $$
SELECT strategic_ask('touch', p_user, p_bot, NULL, NULL) $$;

-- The rows are computed again, from what is known already; readers see the old ones until then.
CREATE FUNCTION strategic_recompute(p_user TEXT, p_bot TEXT DEFAULT NULL)
RETURNS TIMESTAMPTZ LANGUAGE sql SECURITY DEFINER AS $$
SELECT strategic_ask('recompute', p_user, p_bot, NULL, NULL) $$;

-- For who changes a table by hand or through a library that cannot call the above: statements that
-- UPDATE or DELETE rows of it invalidate the keys of those rows, in their own transaction. An UPDATE
-- counts when it changes one of the columns named, or any if none is. The bot is in a column, or the
-- same for all. Whoever changes the table needs the right to call strategic_invalidate().
CREATE FUNCTION strategic_watch(p_relation REGCLASS, p_user_column NAME,
                                p_bot_column NAME DEFAULT NULL, p_bot TEXT DEFAULT NULL,
                                p_columns NAME[] DEFAULT NULL)
RETURNS VOID LANGUAGE plpgsql AS $$
DECLARE
    named NAME[] := p_user_column || coalesce(p_columns, '{}');
    missing TEXT;
    arguments TEXT;
BEGIN
    IF (p_bot_column IS NULL) = (p_bot IS NULL) THEN
        RAISE EXCEPTION 'name either the column with the bot or the bot'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF p_bot_column IS NOT NULL THEN
        named := named || p_bot_column;
    END IF;
    SELECT c INTO missing FROM unnest(named) AS c
    WHERE NOT EXISTS (SELECT FROM pg_attribute a
                      WHERE a.attrelid = p_relation AND a.attname = c AND NOT a.attisdropped) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'table % has no column "%"', p_relation, missing
            USING ERRCODE = 'undefined_column';
    END IF;
    SELECT string_agg(quote_literal(x), ', ' ORDER BY n) INTO arguments
    FROM unnest(ARRAY[p_user_column::text, coalesce(p_bot_column, ''), coalesce(p_bot, '')]
                || coalesce(p_columns, '{}')::text[]) WITH ORDINALITY AS a (x, n);
    PERFORM strategic_unwatch(p_relation);
    EXECUTE format('CREATE TRIGGER strategic_watch_update AFTER UPDATE ON %s '
                   'REFERENCING OLD TABLE AS strategic_gone NEW TABLE AS strategic_come '
                   'FOR EACH STATEMENT EXECUTE FUNCTION strategic_watched(%s)',
                   p_relation, arguments);
    EXECUTE format('CREATE TRIGGER strategic_watch_delete AFTER DELETE ON %s '
                   'REFERENCING OLD TABLE AS strategic_gone '
                   'FOR EACH STATEMENT EXECUTE FUNCTION strategic_watched(%s)',
                   p_relation, arguments);
END $$;

CREATE FUNCTION strategic_unwatch(p_relation REGCLASS)
RETURNS VOID LANGUAGE plpgsql AS $$
DECLARE
    watcher NAME;
BEGIN
    FOR watcher IN SELECT tgname FROM pg_trigger
        WHERE tgrelid = p_relation AND tgname IN ('strategic_watch_update', 'strategic_watch_delete')
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', watcher, p_relation);
    END LOOP;
END $$;

-- With the rights of who changes the table: its columns may be of anybody's types. A row without a
-- user or a bot is of no key.
CREATE FUNCTION strategic_watched()
RETURNS TRIGGER LANGUAGE plpgsql AS $$
DECLARE
    bot TEXT := CASE WHEN TG_ARGV[1] = '' THEN quote_literal(TG_ARGV[2])
                     ELSE format('x.%I::text', TG_ARGV[1]) END;
    compared TEXT := 'x::text';
    keys TEXT;
BEGIN
    IF TG_NARGS > 3 THEN
        SELECT format('ROW(%s)::text', string_agg(format('x.%I', c), ', ')) INTO compared
        FROM unnest(TG_ARGV[3:]) AS c;
    END IF;
    IF TG_OP = 'UPDATE' THEN
        keys := format('SELECT x.%1$I::text, %2$s, %3$s FROM strategic_gone x EXCEPT ALL '
                       'SELECT x.%1$I::text, %2$s, %3$s FROM strategic_come x',
                       TG_ARGV[0], bot, compared);
    ELSE
        keys := format('SELECT x.%1$I::text, %2$s, NULL FROM strategic_gone x', TG_ARGV[0], bot);
    END IF;
    EXECUTE format('SELECT count(strategic_invalidate(u, b, $1)) FROM '
                   '(SELECT DISTINCT u, strategic_bot_name(b) AS b FROM (%s) AS k (u, b, changed)) d '
                   'WHERE u <> '''' AND octet_length(u) <= 512 AND b <> '''' '
                   'AND octet_length(b) <= 512', keys)
    USING lower(TG_OP);
    RETURN NULL;
END $$;

-- Functions that run with the rights of their owner, or in whatever session, look names up in this
-- schema and nowhere else; and nobody may call them unasked (deploy/roles.sql).
DO $$
DECLARE
    f TEXT;
BEGIN
    FOREACH f IN ARRAY ARRAY[
        'strategic_request_text(strategic_request)', 'strategic_ask(text, text, text, text, text[])',
        'strategic_request_end()', 'strategic_invalidate(text, text, text, text[])',
        'strategic_touch(text, text)', 'strategic_recompute(text, text)',
        'strategic_watch(regclass, name, name, text, name[])', 'strategic_unwatch(regclass)',
        'strategic_watched()']
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = pg_catalog, %I, pg_temp', f,
                       current_schema());
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
    END LOOP;
    -- It locks rows of the cache, whoever's transaction ends.
    ALTER FUNCTION strategic_request_end() SECURITY DEFINER;
END $$;
