/* clients/c/warmpath_read.h against a real server with the real schema: every freshness with what
 * it allows, NULL, values to the bit, the timeout while a table is locked, and what is wrong with a
 * connection. */
#include "clients/c/warmpath_read.h"
#include "state/migrate.h"
#include "tests/support/pgcluster.h"
#include "tests/support/sql.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

/* Longer than any statement takes; the test of the timeout has its own. */
#define PATIENT_MS 30000
#define SHORT_MS   200

static struct pgcluster *cluster;
static char *conninfo;
static PGconn *db;   /* writes */
static PGconn *conn; /* reads */
static struct warmpath_bundle bundle;

static void ignore_line(void *ctx, const char *line)
{
    (void)ctx;
    (void)line;
}

static int fresh(void **state)
{
    (void)state;
    conninfo = pgcluster_database(cluster, "test_warmpath_read");
    db = sql_open(conninfo);
    if (migrate_up(&migrate_cache, conninfo, ignore_line, NULL, NULL))
        return -1;
    sql_run(db,
            "INSERT INTO strategic_processor VALUES (0, now() + interval '1 day', now() + "
            "interval '1 day');"
            "INSERT INTO strategic_key_activity(user_id, bot_name, shard) VALUES ('u', 'b', 0)");
    conn = sql_open(conninfo);
    if (warmpath_prepare(conn, PATIENT_MS) != WARMPATH_OK)
        return -1;
    return 0;
}

static int finished(void **state)
{
    (void)state;
    warmpath_clear(&bundle);
    sql_close(conn);
    sql_close(db);
    free(conninfo);
    return 0;
}

static enum warmpath_status read_key(const char *user)
{
    warmpath_clear(&bundle);
    return warmpath_read(conn, user, "b", 168, PATIENT_MS, &bundle);
}

/* Rows of user u and bot b, with these ends. */
static void write_rows(const char *expires, const char *valid, const char *invalidated)
{
    const char *const rows[] = {
        "memory_health(user_id, bot_name, memory_snapshot, avg_memory_age_hours,"
        " retrieval_frequency_trend, VALUES ('u', 'b', '{\"total\": 3}', 120.5, 'stable',",
        "personality_profiles(user_id, bot_name, dominant_traits,"
        " VALUES ('u', 'b', '[{\"trait\": \"wärm\"}]',",
        "conversation_patterns(user_id, bot_name, predicted_switch_likelihood, recent_topics,"
        " communication_style, VALUES ('u', 'b', 0.1, '[]', '{\"n\": 240}',",
        "memory_behavior(user_id, bot_name, recall_simulation_score, VALUES ('u', 'b', -1e-300,",
        "engagement_opportunities(user_id, bot_name, receptivity_score, next_contact_at,"
        " VALUES ('u', 'b', 0.5, '2026-01-07 18:00:00.5+00',",
        "character_performance(bot_name, time_window_hours, engagement_score_avg, quality_trend,"
        " VALUES ('b', 168, 0.71, 'improving',",
    };
    sql_run(db, "TRUNCATE strategic_memory_health, strategic_personality_profiles,"
                " strategic_conversation_patterns, strategic_memory_behavior,"
                " strategic_engagement_opportunities, strategic_character_performance");
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const char *values = strstr(rows[i], "VALUES");
        sql_run(db,
                "INSERT INTO strategic_%.*s confidence, row_version, computed_at, expires_at,"
                " valid_until, invalidated_at) %s 0.75, 9007199254740991, now(), %s, %s, %s)",
                (int)(values - rows[i]), rows[i], values, expires, valid, invalidated);
    }
}

static void test_a_usable_row_has_everything(void **state)
{
    (void)state;
    const char *const ends[][2] = {{"now() + interval '1 h'", "NULL"},
                                   {"now() - interval '1 h'", "now() + interval '1 h'"}};
    for (int i = 0; i < 2; i++) {
        write_rows(ends[i][0], ends[i][1], "NULL");
        assert_int_equal(read_key("u"), WARMPATH_OK);
        assert_string_equal(bundle.problem, "");
        assert_int_equal(bundle.memory_health.row.freshness, i ? WARMPATH_CURRENT : WARMPATH_FRESH);
        assert_true(bundle.memory_health.row.confidence == 0.75);
        assert_true(bundle.memory_health.row.row_version == 9007199254740991.0);
        assert_true(bundle.memory_health.avg_memory_age_hours == 120.5);
        assert_string_equal(bundle.memory_health.retrieval_frequency_trend, "stable");
        assert_string_equal(bundle.memory_health.memory_snapshot_json, "{\"total\": 3}");
        assert_string_equal(bundle.personality.dominant_traits_json, "[{\"trait\": \"wärm\"}]");
        assert_true(bundle.conversation.predicted_switch_likelihood == 0.1);
        assert_string_equal(bundle.conversation.recent_topics_json, "[]");
        assert_true(bundle.memory_behavior.recall_simulation_score == -1e-300);
        assert_true(bundle.engagement.receptivity_score == 0.5);
        assert_true(bundle.engagement.next_contact_at == 1767808800.5);
        assert_true(bundle.performance.engagement_score_avg == 0.71);
        assert_string_equal(bundle.performance.quality_trend, "improving");
        /* NULL in a row that is there. */
        assert_true(isnan(bundle.memory_health.topic_relevance_drift));
        assert_null(bundle.memory_health.forgetting_risk_memories_json);
    }
}

static void test_a_stale_row_keeps_what_moves_slowly(void **state)
{
    (void)state;
    write_rows("now() - interval '1 h'", "NULL", "NULL");
    assert_int_equal(read_key("u"), WARMPATH_OK);
    assert_int_equal(bundle.conversation.row.freshness, WARMPATH_STALE);
    assert_true(bundle.conversation.row.confidence == 0.75);
    assert_true(isnan(bundle.conversation.predicted_switch_likelihood));
    assert_null(bundle.conversation.recent_topics_json);
    assert_string_equal(bundle.conversation.communication_style_json, "{\"n\": 240}");
    assert_non_null(bundle.personality.dominant_traits_json);
    assert_true(bundle.performance.engagement_score_avg == 0.71);
    assert_null(bundle.performance.quality_trend);
    assert_true(isnan(bundle.engagement.receptivity_score));
    assert_true(isnan(bundle.engagement.next_contact_at));
}

static void assert_nothing(enum warmpath_freshness freshness)
{
    assert_int_equal(bundle.personality.row.freshness, freshness);
    assert_int_equal(bundle.engagement.row.freshness, freshness);
    assert_null(bundle.personality.dominant_traits_json);
    assert_null(bundle.memory_health.memory_snapshot_json);
    assert_true(isnan(bundle.conversation.predicted_switch_likelihood));
    assert_true(isnan(bundle.performance.engagement_score_avg));
    assert_true(isnan(bundle.engagement.next_contact_at));
}

static void test_other_rows_keep_nothing(void **state)
{
    (void)state;
    write_rows("now() - interval '25 h'", "NULL", "NULL");
    assert_int_equal(read_key("u"), WARMPATH_OK);
    assert_nothing(WARMPATH_EXPIRED);
    write_rows("now() + interval '1 h'", "NULL", "now()");
    assert_int_equal(read_key("u"), WARMPATH_OK);
    assert_nothing(WARMPATH_INVALID);
    sql_run(db, "TRUNCATE strategic_character_performance");
    assert_int_equal(read_key("nobody"), WARMPATH_OK);
    assert_nothing(WARMPATH_MISSING);
    assert_true(isnan(bundle.personality.row.confidence));
    assert_string_equal(warmpath_freshness_name(WARMPATH_INVALID), "invalid");
}

/* A read of a locked table does not wait for it; the connection is of use again when the lock is
 * gone, or the statement is. */
static void test_a_late_answer_does_not_hold_the_caller(void **state)
{
    (void)state;
    write_rows("now() + interval '1 h'", "NULL", "NULL");
    for (int cancel = 0; cancel < 2; cancel++) {
        sql_run(db, "BEGIN; LOCK TABLE strategic_memory_behavior IN ACCESS EXCLUSIVE MODE");
        for (int i = 0; i < 3; i++) {
            warmpath_clear(&bundle);
            assert_int_equal(warmpath_read(conn, "u", "b", 168, SHORT_MS, &bundle), WARMPATH_LATE);
            assert_nothing(WARMPATH_MISSING);
            assert_non_null(strstr(bundle.problem, i ? "earlier read" : "no answer"));
        }
        if (cancel) {
            assert_true(warmpath_cancel(conn));
            /* Once the cancelled statement has ended, the next one waits for the lock. */
            int tries = 0;
            do {
                warmpath_clear(&bundle);
                assert_int_equal(warmpath_read(conn, "u", "b", 168, SHORT_MS, &bundle),
                                 WARMPATH_LATE);
                assert_true(tries++ < PATIENT_MS / SHORT_MS);
            } while (strstr(bundle.problem, "earlier read"));
        }
        sql_run(db, "COMMIT");
        assert_int_equal(read_key("u"), WARMPATH_OK);
        assert_true(bundle.conversation.predicted_switch_likelihood == 0.1);
        assert_int_equal(read_key("nobody"), WARMPATH_OK);
        assert_int_equal(bundle.conversation.row.freshness, WARMPATH_MISSING);
    }
}

static void test_what_is_wrong_with_a_connection_is_said(void **state)
{
    (void)state;
    write_rows("now() + interval '1 h'", "NULL", "NULL");
    sql_run(conn, "BEGIN");
    assert_int_equal(read_key("u"), WARMPATH_ERROR);
    assert_string_equal(bundle.problem, "the connection is inside a transaction");
    sql_run(conn, "ROLLBACK");
    assert_int_equal(read_key("u"), WARMPATH_OK);
    sql_run(conn, "DEALLOCATE ALL");
    assert_int_equal(read_key("u"), WARMPATH_ERROR);
    assert_non_null(strstr(bundle.problem, "does not exist"));
    assert_nothing(WARMPATH_MISSING);
    assert_int_equal(warmpath_prepare(conn, PATIENT_MS), WARMPATH_OK);
    assert_int_equal(read_key("u"), WARMPATH_OK);
    sql_run(db, "SELECT pg_terminate_backend(%d)", PQbackendPID(conn));
    assert_int_equal(read_key("u"), WARMPATH_ERROR);
    assert_true(strlen(bundle.problem) > 0);
    assert_nothing(WARMPATH_MISSING);
    assert_int_equal(read_key("u"), WARMPATH_ERROR);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_usable_row_has_everything, fresh, finished),
        cmocka_unit_test_setup_teardown(test_a_stale_row_keeps_what_moves_slowly, fresh, finished),
        cmocka_unit_test_setup_teardown(test_other_rows_keep_nothing, fresh, finished),
        cmocka_unit_test_setup_teardown(test_a_late_answer_does_not_hold_the_caller, fresh,
                                        finished),
        cmocka_unit_test_setup_teardown(test_what_is_wrong_with_a_connection_is_said, fresh,
                                        finished),
    };
    bool skip = false;
    cluster = pgcluster_open(&skip);
    if (!cluster)
        return skip ? 77 : 1;
    int failed = cmocka_run_group_tests_name("clients/warmpath_read", tests, NULL, NULL);
    pgcluster_close(cluster);
    return failed;
}
