-- Removes exactly what going up has added. A cache table of an earlier system stays, with its rows
-- and without our columns; a cache table that we created goes, with its rows.

DROP FUNCTION strategic_bundle(TEXT, TEXT, INT);
DROP FUNCTION strategic_freshness(TIMESTAMPTZ, TIMESTAMPTZ, TIMESTAMPTZ, TIMESTAMPTZ, TIMESTAMPTZ,
                                  TIMESTAMPTZ, TIMESTAMPTZ);
DROP FUNCTION strategic_fence(TEXT, BIGINT);
DROP TABLE strategic_bot_epoch, strategic_key_activity, strategic_processor, strategic_progress,
    strategic_epoch, strategic_lease;

DO $$
DECLARE
    added RECORD;
BEGIN
    FOR added IN
        SELECT a.relation, a.kind, a.name
        FROM strategic_added a
        WHERE a.kind = 'table'
           OR NOT EXISTS (SELECT FROM strategic_added t
                          WHERE t.relation = a.relation AND t.kind = 'table')
        ORDER BY a.relation, a.kind, a.name
    LOOP
        -- The owner may have removed something by hand since: that is no reason to fail.
        CASE added.kind
            WHEN 'table' THEN
                EXECUTE format('DROP TABLE IF EXISTS %I', added.relation);
            WHEN 'column' THEN
                EXECUTE format('ALTER TABLE IF EXISTS %I DROP COLUMN IF EXISTS %I',
                               added.relation, added.name);
            WHEN 'index' THEN
                EXECUTE format('DROP INDEX IF EXISTS %I', added.name);
            WHEN 'option' THEN
                EXECUTE format('ALTER TABLE IF EXISTS %I RESET (%s)', added.relation, added.name);
        END CASE;
    END LOOP;
END $$;

DROP TABLE strategic_added;
