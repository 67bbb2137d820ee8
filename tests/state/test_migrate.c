/* tests/state/test_migrate.c - migrations up, down and status against a real server: the schema is
 * the promised one, nothing is left behind, and nobody else's tables are harmed. */
#include "core/cleanup.h"
#include "state/migrate.h"
#include "tests/support/pgcluster.h"
#include "tests/support/sql.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct pgcluster *cluster;

static void freep(char **text)
{
    free(*text);
}
#define TEXT CLEANUP(freep) char *

struct lines {
    int n;
    char text[1024];
};

static void add_line(void *ctx, const char *line)
{
    struct lines *l = ctx;
    size_t at = strlen(l->text);
    snprintf(l->text + at, sizeof(l->text) - at, "%s%s", l->n++ ? "\n" : "", line);
}

static char *fresh_database(PGconn **ret)
{
    char *conninfo = pgcluster_database(cluster, "test_migrate");
    *ret = sql_open(conninfo);
    return conninfo;
}

static void migrate_all(const char *conninfo)
{
    struct lines lines = {0};
    struct error err = {0};
    if (migrate_up(&migrate_cache, conninfo, add_line, &lines, &err))
        fail_msg("%s", err.text);
}

/* Everything in the schema that a migration could leave behind. */
static char *schema_of(PGconn *db)
{
    return sql_text(
        db,
        "SELECT c.relname, c.relkind::text, c.reloptions, a.attname, format_type(a.atttypid,"
        " a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid)"
        " FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0"
        " AND NOT a.attisdropped LEFT JOIN pg_attrdef d ON d.adrelid = c.oid"
        " AND d.adnum = a.attnum WHERE c.relnamespace = 'public'::regnamespace"
        " UNION ALL SELECT proname, prokind::text, NULL, pg_get_function_identity_arguments(oid),"
        " NULL, NULL, NULL FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        " UNION ALL SELECT typname, 'T', NULL, NULL, NULL, NULL, NULL FROM pg_type"
        " WHERE typnamespace = 'public'::regnamespace ORDER BY 1, 2, 4");
}

/* ---- what up makes ---- */

static void test_up_makes_the_seed_columns_first_and_exactly(void **state)
{
    (void)state;
    CLEANUP(sql_closep) PGconn *db = NULL;
    TEXT conninfo = fresh_database(&db);
    migrate_all(conninfo);
    TEXT columns = sql_text(
        db,
        "SELECT table_name, string_agg(column_name || ':' || udt_name || CASE is_nullable"
        " WHEN 'NO' THEN '!' ELSE '' END || CASE WHEN column_default IS NULL THEN '' ELSE '='"
        " || column_default END, ' ' ORDER BY ordinal_position)"
        " FROM information_schema.columns JOIN (SELECT table_name AS t, ordinal_position AS last"
        " FROM information_schema.columns WHERE column_name = 'expires_at') e"
        " ON t = table_name AND ordinal_position <= last"
        " WHERE table_schema = 'public' GROUP BY table_name ORDER BY table_name");
    assert_string_equal(
        columns,
        "strategic_character_performance|id:uuid!=gen_random_uuid() bot_name:text!"
        " time_window_hours:int4!=168 engagement_score_avg:float8 satisfaction_score_avg:float8"
        " coherence_score_avg:float8 personality_consistency_index:float8 quality_trend:text"
        " recent_anomalies:jsonb computed_at:timestamptz!=now() expires_at:timestamptz!\n"
        "strategic_conversation_patterns|id:uuid!=gen_random_uuid() user_id:text! bot_name:text!"
        " recent_topics:jsonb avg_topic_duration_minutes:float8 context_switch_frequency:float8"
        " predicted_switch_likelihood:float8 topic_transition_graph:jsonb"
        " computed_at:timestamptz!=now() expires_at:timestamptz!\n"
        "strategic_engagement_opportunities|id:uuid!=gen_random_uuid() user_id:text!"
        " bot_name:text! optimal_timing_hours:float8 receptivity_score:float8"
        " suggested_topics:jsonb last_engagement_gap_hours:float8 proactive_success_rate:float8"
        " computed_at:timestamptz!=now() expires_at:timestamptz!\n"
        "strategic_memory_behavior|id:uuid!=gen_random_uuid() user_id:text! bot_name:text!"
        " forgetting_curve_params:jsonb high_retention_memories:jsonb"
        " low_retention_memories:jsonb recall_simulation_score:float8"
        " computed_at:timestamptz!=now() expires_at:timestamptz!\n"
        "strategic_memory_health|id:uuid!=gen_random_uuid() user_id:text! bot_name:text!"
        " memory_snapshot:jsonb! avg_memory_age_hours:float8 retrieval_frequency_trend:text"
        " forgetting_risk_memories:jsonb computed_at:timestamptz!=now()"
        " expires_at:timestamptz!\n"
        "strategic_personality_profiles|id:uuid!=gen_random_uuid() user_id:text! bot_name:text!"
        " dominant_traits:jsonb user_response_patterns:jsonb adaptation_suggestions:jsonb"
        " trait_evolution_history:jsonb computed_at:timestamptz!=now() expires_at:timestamptz!");
}

static void test_up_adds_nullable_columns_only(void **state)
{
    (void)state;
    CLEANUP(sql_closep) PGconn *db = NULL;
    TEXT conninfo = fresh_database(&db);
    migrate_all(conninfo);
    TEXT added = sql_text(
        db,
        "SELECT column_name, udt_name, count(*), string_agg(CASE is_nullable WHEN 'NO' THEN"
        " column_default END, ' ') FROM information_schema.columns JOIN (SELECT table_name AS t,"
        " ordinal_position AS last FROM information_schema.columns"
        " WHERE column_name = 'expires_at') e ON t = table_name AND ordinal_position > last"
        " WHERE table_schema = 'public' GROUP BY 1, 2 ORDER BY 3 DESC, 1");
    assert_string_equal(added, "as_of|timestamptz|6|-\n"
                               "confidence|float4|6|-\n"
                               "details|jsonb|6|-\n"
                               "engine_version|int4|6|-\n"
                               "event_count|int8|6|-\n"
                               "invalidated_at|timestamptz|6|-\n"
                               "row_version|int8|6|0 0 0 0 0 0\n"
                               "source_lsn|pg_lsn|6|-\n"
                               "state_flags|int4|6|-\n"
                               "valid_until|timestamptz|6|-\n"
                               "communication_style|jsonb|1|-\n"
                               "consolidation|jsonb|1|-\n"
                               "emotional_engagement|jsonb|1|-\n"
                               "last_user_message_at|timestamptz|1|-\n"
                               "next_contact_at|timestamptz|1|-\n"
                               "opportunities|jsonb|1|-\n"
                               "optimal_response_length|jsonb|1|-\n"
                               "preferred_depth|jsonb|1|-\n"
                               "topic_relevance_drift|float8|1|-");
}

static void test_up_makes_the_named_indexes_keys_and_settings(void **state)
{
    (void)state;
    CLEANUP(sql_closep) PGconn *db = NULL;
    TEXT conninfo = fresh_database(&db);
    migrate_all(conninfo);
    TEXT indexes = sql_text(db, "SELECT indexname, regexp_replace(indexdef, '^.* ON public.', '')"
                                " FROM pg_indexes WHERE schemaname = 'public'"
                                " AND indexname LIKE 'idx_%%' ORDER BY 1");
    assert_string_equal(
        indexes,
        "idx_character_perf_expires|strategic_character_performance USING btree (expires_at)\n"
        "idx_conv_patterns_expires|strategic_conversation_patterns USING btree (expires_at)\n"
        "idx_engagement_expires|strategic_engagement_opportunities USING btree (expires_at)\n"
        "idx_memory_behavior_expires|strategic_memory_behavior USING btree (expires_at)\n"
        "idx_memory_health_expires|strategic_memory_health USING btree (expires_at)\n"
        "idx_personality_expires|strategic_personality_profiles USING btree (expires_at)");
    TEXT keys = sql_text(db, "SELECT pg_get_constraintdef(oid), count(*) FROM pg_constraint"
                             " WHERE contype = 'u'"
                             " AND connamespace = 'public'::regnamespace GROUP BY 1 ORDER BY 1");
    assert_string_equal(keys, "UNIQUE (bot_name, time_window_hours)|1\n"
                              "UNIQUE (user_id, bot_name)|5");
    assert_int_equal(sql_number(db, "SELECT count(*) FROM pg_class WHERE reloptions @>"
                                    " '{fillfactor=80,autovacuum_vacuum_scale_factor=0.02}'"),
                     6);
}

static void test_a_second_up_does_nothing(void **state)
{
    (void)state;
    CLEANUP(sql_closep) PGconn *db = NULL;
    TEXT conninfo = fresh_database(&db);
    struct lines first = {0}, second = {0};
    assert_int_equal(migrate_up(&migrate_cache, conninfo, add_line, &first, NULL), STATUS_OK);
    assert_int_equal(first.n, *migrate_cache.n);
    assert_memory_equal(first.text, "applied 0001_strategic_cache", 28);
    TEXT before = schema_of(db);
    assert_int_equal(migrate_up(&migrate_cache, conninfo, add_line, &second, NULL), STATUS_OK);
    assert_int_equal(second.n, 0);
    TEXT after = schema_of(db);
    assert_string_equal(before, after);
}

/* ---- down ---- */

static void test_down_leaves_nothing_behind(void **state)
{
    (void)state;
    CLEANUP(sql_closep) PGconn *db = NULL;
    TEXT conninfo = fresh_database(&db);
    migrate_all(conninfo);
    sql_run(db, "INSERT INTO strategic_memory_health (user_id, bot_name, memory_snapshot,"
                " expires_at) VALUES ('u', 'b', '{}', now())");
    struct lines lines = {0};
    struct error err = {0};
    if (migrate_down(&migrate_cache, conninfo, 0, add_line, &lines, &err))
        fail_msg("%s", err.text);
    assert_int_equal(lines.n, *migrate_cache.n);
    TEXT schema = schema_of(db);
    assert_string_equal(schema, "");
    migrate_all(conninfo);
}

static void make_earlier_tables(PGconn *db)
{
    sql_run(db, "CREATE TABLE strategic_memory_health (id UUID PRIMARY KEY DEFAULT"
                " gen_random_uuid(), user_id TEXT NOT NULL, bot_name TEXT NOT NULL,"
                " memory_snapshot JSONB NOT NULL, avg_memory_age_hours FLOAT,"
                " retrieval_frequency_trend TEXT, forgetting_risk_memories JSONB,"
                " computed_at TIMESTAMPTZ NOT NULL DEFAULT NOW(), expires_at TIMESTAMPTZ NOT NULL,"
                " UNIQUE(user_id, bot_name)) WITH (fillfactor = 90);"
                "CREATE INDEX idx_memory_health_expires ON strategic_memory_health(expires_at);"
                /* Without its index, and with a column of ours that the owner already has. */
                "CREATE TABLE strategic_memory_behavior (id UUID PRIMARY KEY DEFAULT"
                " gen_random_uuid(), user_id TEXT NOT NULL, bot_name TEXT NOT NULL,"
                " forgetting_curve_params JSONB, high_retention_memories JSONB,"
                " low_retention_memories JSONB, recall_simulation_score FLOAT,"
                " computed_at TIMESTAMPTZ NOT NULL DEFAULT NOW(), expires_at TIMESTAMPTZ NOT NULL,"
                " confidence REAL, UNIQUE(user_id, bot_name));"
                "INSERT INTO strategic_memory_health (user_id, bot_name, memory_snapshot,"
                " expires_at) VALUES ('u', 'b', '{\"old\":1}', now())");
}

static void test_tables_of_an_earlier_system_survive_up_and_down(void **state)
{
    (void)state;
    CLEANUP(sql_closep) PGconn *db = NULL;
    TEXT conninfo = fresh_database(&db);
    make_earlier_tables(db);
    TEXT before = schema_of(db);
    migrate_all(conninfo);
    assert_int_equal(sql_number(db, "SELECT row_version FROM strategic_memory_health"), 0);
    assert_int_equal(sql_number(db, "SELECT count(*) FROM pg_indexes"
                                    " WHERE indexname = 'idx_memory_behavior_expires'"),
                     1);
    TEXT settings = sql_text(db, "SELECT reloptions FROM pg_class"
                                 " WHERE relname = 'strategic_memory_health'");
    assert_string_equal(settings, "{fillfactor=90,autovacuum_vacuum_scale_factor=0.02}");
    assert_int_equal(migrate_down(&migrate_cache, conninfo, 0, add_line, &(struct lines){0}, NULL),
                     STATUS_OK);
    TEXT after = schema_of(db);
    assert_string_equal(before, after);
    TEXT row = sql_text(db, "SELECT user_id, memory_snapshot FROM strategic_memory_health");
    assert_string_equal(row, "u|{\"old\": 1}");
}

static void test_a_table_that_does_not_fit_is_refused_and_nothing_changes(void **state)
{
    (void)state;
    CLEANUP(sql_closep) PGconn *db = NULL;
    TEXT conninfo = fresh_database(&db);
    sql_run(db, "CREATE TABLE strategic_memory_behavior (id INT, user_id TEXT)");
    TEXT before = schema_of(db);
    struct error err = {0};
    assert_int_not_equal(migrate_up(&migrate_cache, conninfo, add_line, &(struct lines){0}, &err),
                         STATUS_OK);
    assert_non_null(strstr(err.text, "strategic_memory_behavior exists but lacks the columns"));
    assert_non_null(strstr(err.text, "bot_name"));
    TEXT after = schema_of(db);
    assert_string_equal(before, after);
}

/* ---- what is refused ---- */

static void test_a_changed_migration_is_refused_with_an_explanation(void **state)
{
    (void)state;
    CLEANUP(sql_closep) PGconn *db = NULL;
    TEXT conninfo = fresh_database(&db);
    migrate_all(conninfo);
    sql_run(db, "UPDATE strategic_migrations SET checksum = '0123456789abcdef' WHERE version = 1");
    struct error err = {0};
    assert_int_equal(migrate_up(&migrate_cache, conninfo, add_line, &(struct lines){0}, &err),
                     STATUS_REFUSED);
    assert_non_null(strstr(err.text, "0001_strategic_cache was applied at "));
    assert_int_equal(migrate_down(&migrate_cache, conninfo, 0, add_line, &(struct lines){0}, NULL),
                     STATUS_REFUSED);
    struct lines lines = {0};
    bool pending = true;
    assert_int_equal(migrate_status(&migrate_cache, conninfo, add_line, &lines, &pending, NULL),
                     STATUS_OK);
    assert_non_null(strstr(lines.text, "its text has changed"));
}

static void test_a_database_of_a_newer_program_is_refused(void **state)
{
    (void)state;
    CLEANUP(sql_closep) PGconn *db = NULL;
    TEXT conninfo = fresh_database(&db);
    migrate_all(conninfo);
    sql_run(db, "INSERT INTO strategic_migrations VALUES (%d, 'later', 'x')", *migrate_cache.n + 1);
    struct error err = {0};
    assert_int_equal(migrate_up(&migrate_cache, conninfo, add_line, &(struct lines){0}, &err),
                     STATUS_REFUSED);
    assert_non_null(strstr(err.text, "_later, which this program does not know"));
}

/* ---- status, concurrency ---- */

static void test_status_tells_pending_from_applied(void **state)
{
    (void)state;
    CLEANUP(sql_closep) PGconn *db = NULL;
    TEXT conninfo = fresh_database(&db);
    struct lines lines = {0};
    bool pending = false;
    assert_int_equal(migrate_status(&migrate_cache, conninfo, add_line, &lines, &pending, NULL),
                     STATUS_OK);
    assert_true(pending);
    assert_int_equal(lines.n, *migrate_cache.n);
    assert_memory_equal(lines.text, "0001 strategic_cache pending", 28);
    migrate_all(conninfo);
    struct lines after = {0};
    assert_int_equal(migrate_status(&migrate_cache, conninfo, add_line, &after, &pending, NULL),
                     STATUS_OK);
    assert_false(pending);
    assert_memory_equal(after.text, "0001 strategic_cache applied 2", 30);
}

static void *up_in_thread(void *arg)
{
    struct lines lines = {0};
    enum status st = migrate_up(&migrate_cache, arg, add_line, &lines, NULL);
    return (void *)(intptr_t)(st ? -1 : lines.n);
}

static void test_migrations_started_at_once_do_not_collide(void **state)
{
    (void)state;
    CLEANUP(sql_closep) PGconn *db = NULL;
    TEXT conninfo = fresh_database(&db);
    pthread_t threads[6];
    for (int i = 0; i < 6; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, up_in_thread, conninfo), 0);
    int applied = 0;
    for (int i = 0; i < 6; i++) {
        void *n = NULL;
        pthread_join(threads[i], &n);
        assert_true((intptr_t)n >= 0);
        applied += (int)(intptr_t)n;
    }
    assert_int_equal(applied, *migrate_cache.n);
}

/* ---- what readers call ---- */

static void test_the_bundle_tells_all_six_degrees_of_freshness(void **state)
{
    (void)state;
    CLEANUP(sql_closep) PGconn *db = NULL;
    TEXT conninfo = fresh_database(&db);
    migrate_all(conninfo);
    sql_run(db,
            "INSERT INTO strategic_processor VALUES (7, now(), now());"
            "INSERT INTO strategic_key_activity VALUES ('u', 'b', 7, now());"
            "INSERT INTO strategic_bot_epoch VALUES ('b', now() - interval '1 minute');"
            "INSERT INTO strategic_memory_health (user_id, bot_name, memory_snapshot, expires_at)"
            " VALUES ('u', 'b', '{}', now() + interval '1 minute');"
            "INSERT INTO strategic_personality_profiles (user_id, bot_name, computed_at,"
            " expires_at) VALUES ('u', 'b', now() - interval '2 min', now() + interval '1 min');"
            "INSERT INTO strategic_conversation_patterns (user_id, bot_name, expires_at,"
            " valid_until) VALUES ('u', 'b', now() - interval '1 h', now() + interval '1 h');"
            "INSERT INTO strategic_memory_behavior (user_id, bot_name, expires_at)"
            " VALUES ('u', 'b', now() - interval '1 h');"
            "INSERT INTO strategic_engagement_opportunities (user_id, bot_name, expires_at)"
            " VALUES ('u', 'b', now() - interval '25 h')");
    TEXT all = sql_text(db, "SELECT mh_f, pp_f, cp_f, mb_f, eo_f, pf_f"
                            " FROM strategic_bundle('u', 'b')");
    assert_string_equal(all, "fresh|invalid|current|stale|expired|missing");
    /* A processor that has stopped turns current into stale without writing anything. */
    sql_run(db, "UPDATE strategic_processor SET heartbeat = now() - interval '2 min'");
    TEXT stopped = sql_text(db, "SELECT cp_f FROM strategic_bundle('u', 'b')");
    assert_string_equal(stopped, "stale");
    TEXT nobody = sql_text(db, "SELECT mh_f, (mh).user_id FROM strategic_bundle('x', 'y')");
    assert_string_equal(nobody, "missing|-");
}

int main(void)
{
    bool skip = false;
    cluster = pgcluster_open(&skip);
    if (!cluster)
        return skip ? 77 : 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_up_makes_the_seed_columns_first_and_exactly),
        cmocka_unit_test(test_up_adds_nullable_columns_only),
        cmocka_unit_test(test_up_makes_the_named_indexes_keys_and_settings),
        cmocka_unit_test(test_a_second_up_does_nothing),
        cmocka_unit_test(test_down_leaves_nothing_behind),
        cmocka_unit_test(test_tables_of_an_earlier_system_survive_up_and_down),
        cmocka_unit_test(test_a_table_that_does_not_fit_is_refused_and_nothing_changes),
        cmocka_unit_test(test_a_changed_migration_is_refused_with_an_explanation),
        cmocka_unit_test(test_a_database_of_a_newer_program_is_refused),
        cmocka_unit_test(test_status_tells_pending_from_applied),
        cmocka_unit_test(test_migrations_started_at_once_do_not_collide),
        cmocka_unit_test(test_the_bundle_tells_all_six_degrees_of_freshness),
    };
    int failed = cmocka_run_group_tests_name("state/migrate", tests, NULL, NULL);
    pgcluster_close(cluster);
    return failed;
}
