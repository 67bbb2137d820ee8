-- The end of a row: what expired long ago is deleted.

-- Deletes rows of the six cache tables that expired more than p_keep ago, at most p_limit of them,
-- each table's oldest first by its index on expires_at, and with the last row of a key its
-- strategic_key_activity (unless that holds the user's opting out). Answers how many rows. A key
-- that comes back is written like a new one.
CREATE FUNCTION strategic_sweep(p_keep INTERVAL, p_limit INT)
RETURNS BIGINT LANGUAGE plpgsql AS $$
DECLARE
    target TEXT;
    removed BIGINT := 0;
    n BIGINT;
    users TEXT[];
    bots TEXT[];
BEGIN
    FOREACH target IN ARRAY ARRAY[
        'strategic_memory_health', 'strategic_personality_profiles',
        'strategic_conversation_patterns', 'strategic_memory_behavior',
        'strategic_engagement_opportunities']
    LOOP
        -- By key and not by ctid: an older table may be partitioned. Asked again in the DELETE,
        -- since the row may have been written anew meanwhile.
        EXECUTE format($q$
            WITH gone AS (
                DELETE FROM %1$I t USING (
                    SELECT user_id, bot_name FROM %1$I WHERE expires_at < now() - $1
                    ORDER BY expires_at LIMIT $2) dead
                WHERE t.user_id = dead.user_id AND t.bot_name = dead.bot_name
                  AND t.expires_at < now() - $1
                RETURNING t.user_id, t.bot_name)
            SELECT count(*), array_agg(user_id), array_agg(bot_name) FROM gone $q$, target)
        INTO n, users, bots USING p_keep, p_limit - removed;
        removed := removed + n;
        CONTINUE WHEN n = 0;
        DELETE FROM strategic_key_activity a USING unnest(users, bots) AS k (user_id, bot_name)
        WHERE a.user_id = k.user_id AND a.bot_name = k.bot_name AND NOT a.opted_out
          AND NOT EXISTS (SELECT FROM strategic_memory_health t
                          WHERE t.user_id = k.user_id AND t.bot_name = k.bot_name)
          AND NOT EXISTS (SELECT FROM strategic_personality_profiles t
                          WHERE t.user_id = k.user_id AND t.bot_name = k.bot_name)
          AND NOT EXISTS (SELECT FROM strategic_conversation_patterns t
                          WHERE t.user_id = k.user_id AND t.bot_name = k.bot_name)
          AND NOT EXISTS (SELECT FROM strategic_memory_behavior t
                          WHERE t.user_id = k.user_id AND t.bot_name = k.bot_name)
          AND NOT EXISTS (SELECT FROM strategic_engagement_opportunities t
                          WHERE t.user_id = k.user_id AND t.bot_name = k.bot_name);
    END LOOP;
    WITH gone AS (
        DELETE FROM strategic_character_performance t USING (
            SELECT bot_name, time_window_hours FROM strategic_character_performance
            WHERE expires_at < now() - p_keep ORDER BY expires_at LIMIT p_limit - removed) dead
        WHERE t.bot_name = dead.bot_name AND t.time_window_hours = dead.time_window_hours
          AND t.expires_at < now() - p_keep
        RETURNING 1)
    SELECT count(*) INTO n FROM gone;
    RETURN removed + n;
END $$;

-- What a bot is meant to be: when it was said (source time), in which version, and a number that is
-- the same for the same version and traits. character_changed_at, by this server's clock, moves only
-- when that number changes.
ALTER TABLE strategic_bot_epoch
    ADD COLUMN defined_at TIMESTAMPTZ,
    ADD COLUMN character_version BIGINT,
    ADD COLUMN definition BIGINT;
