-- Roles with no more rights than they need. Run it as a superuser or the owner of the database, with psql, as often as you like:
--
--   psql -d chat -v source_role=warmpath_source -v tables='public.chat_message, public.memory' -v schemas=public \
--        -v publication=warmpath -f deploy/roles.sql
--   psql -d chat -v sink_role=warmpath_sink -v reader_role=chat_app -f deploy/roles.sql      (after `warmpath migrate up`)
--
-- Each part runs when its variable is given, so that source and sink may be different databases, or one call does it all:
--   source_role  reads the mapped tables and the slot: source.conninfo. Needs `tables`, and `schemas` they are in (both are
--                lists with commas, quoted as in SQL). With `publication`, that is made for these tables when it is missing;
--                who runs this must own them. Then say source.create: true (the slot) or make the slot as well.
--   sink_role    writes the cache: sink.conninfo. `cache_schema` (default public) is where `warmpath migrate up` made it.
--   reader_role  reads the cache: the application. With `reader_timeout` (20ms, say), none of its statements takes longer: for a
--                role that does nothing else.
--   app_role     says that rows are wrong, or soon needed: strategic_invalidate(), _touch(), _recompute(), _watch(). Often the
--                same role as reader_role; it gets no right on any table.
--   legacy_role  an application that reads the cache under the names of the compatibility pack (`warmpath migrate compat up`):
--                its queries find the views of strategic_compat first. Never the role of sink.conninfo.
-- Roles are made without a password: \password warmpath_source, or a certificate, or peer. doctor names what is missing.
-- Tables with row-level security also need ALTER ROLE ... BYPASSRLS for the source role: a part of the rows would not do.

\set ON_ERROR_STOP on
SET client_min_messages = warning;
\if :{?cache_schema}
\else
    \set cache_schema public
\endif
SELECT current_database() AS database \gset
BEGIN;

\if :{?source_role}
    SELECT format('CREATE ROLE %I', :'source_role')
    WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'source_role') \gexec
    ALTER ROLE :"source_role" LOGIN REPLICATION;
    GRANT CONNECT ON DATABASE :"database" TO :"source_role";
    GRANT USAGE ON SCHEMA :schemas TO :"source_role";
    GRANT SELECT ON :tables TO :"source_role";
    \if :{?publication}
        SELECT format('CREATE PUBLICATION %I FOR TABLE %s WITH (publish_via_partition_root = true)', :'publication', :'tables')
        WHERE NOT EXISTS (SELECT FROM pg_publication WHERE pubname = :'publication') \gexec
    \endif
\endif

\if :{?sink_role}
    SELECT format('CREATE ROLE %I', :'sink_role')
    WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'sink_role') \gexec
    ALTER ROLE :"sink_role" LOGIN;
    GRANT CONNECT ON DATABASE :"database" TO :"sink_role";
    GRANT USAGE ON SCHEMA :"cache_schema" TO :"sink_role";
    -- Rows are replaced, renewed and, when a user is forgotten, removed.
    GRANT SELECT, INSERT, UPDATE, DELETE ON
        :"cache_schema".strategic_memory_health, :"cache_schema".strategic_character_performance,
        :"cache_schema".strategic_personality_profiles, :"cache_schema".strategic_conversation_patterns,
        :"cache_schema".strategic_memory_behavior, :"cache_schema".strategic_engagement_opportunities TO :"sink_role";
    -- Who may write, how far it is, and whose keys are alive.
    GRANT SELECT, INSERT, UPDATE ON
        :"cache_schema".strategic_lease, :"cache_schema".strategic_epoch, :"cache_schema".strategic_progress,
        :"cache_schema".strategic_processor TO :"sink_role";
    GRANT SELECT, INSERT, UPDATE, DELETE ON :"cache_schema".strategic_key_activity TO :"sink_role";
    GRANT SELECT, INSERT, UPDATE ON :"cache_schema".strategic_bot_epoch TO :"sink_role";
    GRANT SELECT ON :"cache_schema".strategic_migrations TO :"sink_role";
    GRANT EXECUTE ON FUNCTION :"cache_schema".strategic_fence(text, bigint) TO :"sink_role";
    -- Deletes rows that expired long ago.
    SELECT format('GRANT EXECUTE ON FUNCTION %I.strategic_sweep(interval, int) TO %I', :'cache_schema', :'sink_role')
    WHERE to_regprocedure(format('%I.strategic_sweep(interval, int)', :'cache_schema')) IS NOT NULL \gexec
    -- Requests to rebuild, where the migration that brings them has run.
    SELECT format('GRANT SELECT, INSERT, UPDATE ON %I.strategic_rebuild TO %I', :'cache_schema', :'sink_role')
    WHERE to_regclass(format('%I.strategic_rebuild', :'cache_schema')) IS NOT NULL \gexec
    -- Requests of applications are handed on, and made by `warmpath invalidate` and `recompute`.
    SELECT format('GRANT SELECT, DELETE ON %1$I.strategic_request TO %2$I; '
                  'GRANT SELECT, INSERT, UPDATE ON %1$I.strategic_source TO %2$I; '
                  'GRANT EXECUTE ON FUNCTION %1$I.strategic_invalidate(text, text, text, text[]), '
                  '%1$I.strategic_recompute(text, text), %1$I.strategic_request_text(%1$I.strategic_request) TO %2$I',
                  :'cache_schema', :'sink_role')
    WHERE to_regclass(format('%I.strategic_request', :'cache_schema')) IS NOT NULL \gexec
    -- Users who are forgotten: rows from before, receipts, and `warmpath forget`.
    SELECT format('GRANT SELECT ON %1$I.strategic_erasure TO %2$I; '
                  'GRANT EXECUTE ON FUNCTION %1$I.strategic_bury(text[], text[], bigint[], bigint[]), '
                  '%1$I.strategic_erased(text, bigint, text, text, bigint, bigint), '
                  '%1$I.strategic_erasure_report(text, bigint, bigint, int, int, jsonb), '
                  '%1$I.strategic_forget(text, text) TO %2$I', :'cache_schema', :'sink_role')
    WHERE to_regclass(format('%I.strategic_erasure', :'cache_schema')) IS NOT NULL \gexec
\endif

\if :{?reader_role}
    SELECT format('CREATE ROLE %I LOGIN', :'reader_role')
    WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'reader_role') \gexec
    GRANT CONNECT ON DATABASE :"database" TO :"reader_role";
    GRANT USAGE ON SCHEMA :"cache_schema" TO :"reader_role";
    -- The last three tell how fresh a row is.
    GRANT SELECT ON
        :"cache_schema".strategic_memory_health, :"cache_schema".strategic_character_performance,
        :"cache_schema".strategic_personality_profiles, :"cache_schema".strategic_conversation_patterns,
        :"cache_schema".strategic_memory_behavior, :"cache_schema".strategic_engagement_opportunities,
        :"cache_schema".strategic_key_activity, :"cache_schema".strategic_processor, :"cache_schema".strategic_bot_epoch
        TO :"reader_role";
    GRANT EXECUTE ON FUNCTION :"cache_schema".strategic_bundle(text, text, int),
        :"cache_schema".strategic_freshness(timestamptz, timestamptz, timestamptz, timestamptz, timestamptz, timestamptz, timestamptz)
        TO :"reader_role";
    SELECT format('GRANT EXECUTE ON FUNCTION %I.strategic_bundle_lite(text, text, int) TO %I', :'cache_schema', :'reader_role')
    WHERE to_regprocedure(format('%I.strategic_bundle_lite(text, text, int)', :'cache_schema')) IS NOT NULL \gexec
    \if :{?reader_timeout}
        ALTER ROLE :"reader_role" SET statement_timeout = :'reader_timeout';
    \endif
\endif

\if :{?app_role}
    SELECT format('CREATE ROLE %I LOGIN', :'app_role')
    WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'app_role') \gexec
    GRANT CONNECT ON DATABASE :"database" TO :"app_role";
    GRANT USAGE ON SCHEMA :"cache_schema" TO :"app_role";
    GRANT EXECUTE ON FUNCTION :"cache_schema".strategic_invalidate(text, text, text, text[]),
        :"cache_schema".strategic_touch(text, text), :"cache_schema".strategic_recompute(text, text),
        :"cache_schema".strategic_watch(regclass, name, name, text, name[]), :"cache_schema".strategic_unwatch(regclass),
        :"cache_schema".strategic_watched(), :"cache_schema".strategic_bot_name(text)
        TO :"app_role";
    SELECT format('GRANT EXECUTE ON FUNCTION %1$I.strategic_forget(text, text) TO %2$I; '
                  'GRANT SELECT ON %1$I.strategic_erasure TO %2$I', :'cache_schema', :'app_role')
    WHERE to_regclass(format('%I.strategic_erasure', :'cache_schema')) IS NOT NULL \gexec
\endif

\if :{?legacy_role}
    SELECT format('CREATE ROLE %I LOGIN', :'legacy_role')
    WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'legacy_role') \gexec
    GRANT CONNECT ON DATABASE :"database" TO :"legacy_role";
    GRANT USAGE ON SCHEMA strategic_compat TO :"legacy_role";
    GRANT SELECT ON ALL TABLES IN SCHEMA strategic_compat TO :"legacy_role";
    GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA strategic_compat TO :"legacy_role";
    GRANT USAGE ON SCHEMA :"cache_schema" TO :"legacy_role";
    GRANT EXECUTE ON FUNCTION
        :"cache_schema".strategic_freshness(timestamptz, timestamptz, timestamptz, timestamptz, timestamptz, timestamptz, timestamptz)
        TO :"legacy_role";
    ALTER ROLE :"legacy_role" IN DATABASE :"database" SET search_path = strategic_compat, :"cache_schema";
\endif

COMMIT;
