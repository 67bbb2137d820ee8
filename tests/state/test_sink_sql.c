/* tests/state/test_sink_sql.c - what the sink sends: statement texts, filled arrays, and which of
 * several items of one key is sent. No server needed. */
#include "core/clock.h"
#include "state/sink_sql.h"
#include "state/sink_writer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct table_def by_user = {
    .name = "cache_a",
    .n_columns = 2,
    .columns = {{"score", COLUMN_FLOAT}, {"topics", COLUMN_JSON}},
};
static const struct table_def by_window = {
    .name = "cache_b",
    .by_window = true,
    .n_columns = 2,
    .columns = {{"trend", COLUMN_TEXT}, {"at", COLUMN_TIME}},
};

/* ---- statements ---- */

static enum status upsert_strict(const struct table_def *t, struct buf *out)
{
    return sink_sql_upsert(t, TTL_STRICT, out);
}

static void expect_sql(enum status (*write)(const struct table_def *, struct buf *),
                       const struct table_def *t, const char *text)
{
    CLEANUP(buf_deinit) struct buf sql;
    buf_init(&sql, 1 << 16);
    assert_int_equal(write(t, &sql), STATUS_OK);
    assert_int_equal(buf_append(&sql, "", 1), STATUS_OK);
    assert_string_equal(sql.data, text);
}

static void test_the_upsert_writes_every_column_under_the_guard(void **state)
{
    (void)state;
    expect_sql(
        upsert_strict, &by_user,
        "INSERT INTO cache_a AS t (user_id, bot_name, score, topics, as_of, source_lsn,"
        " row_version, event_count, engine_version, confidence, state_flags, valid_until, details,"
        " invalidated_at, computed_at, expires_at)"
        " SELECT user_id, bot_name, score, topics, as_of, source_lsn, row_version, event_count,"
        " engine_version, confidence, state_flags, valid_until, details, NULL, now(),"
        " now() + make_interval(secs => $15::float8)"
        " FROM unnest($1::text[], $2::text[], $3::float8[], $4::jsonb[], $5::timestamptz[],"
        " $6::pg_lsn[], $7::bigint[], $8::bigint[], $9::int[], $10::real[], $11::int[],"
        " $12::timestamptz[], $13::jsonb[]) AS n (user_id, bot_name, score, topics, as_of,"
        " source_lsn, row_version, event_count, engine_version, confidence, state_flags,"
        " valid_until, details)"
        " ON CONFLICT (user_id, bot_name) DO UPDATE SET score = EXCLUDED.score,"
        " topics = EXCLUDED.topics, as_of = EXCLUDED.as_of, source_lsn = EXCLUDED.source_lsn,"
        " row_version = EXCLUDED.row_version, event_count = EXCLUDED.event_count,"
        " engine_version = EXCLUDED.engine_version, confidence = EXCLUDED.confidence,"
        " state_flags = EXCLUDED.state_flags, valid_until = EXCLUDED.valid_until,"
        " details = EXCLUDED.details, invalidated_at = NULL, computed_at = EXCLUDED.computed_at,"
        " expires_at = EXCLUDED.expires_at"
        " WHERE (t.invalidated_at IS NULL OR t.invalidated_at <= (SELECT n.cleared_at"
        " FROM unnest($1::text[], $2::text[], $14::timestamptz[]) AS n (user_id, bot_name,"
        " cleared_at) WHERE n.user_id = t.user_id AND n.bot_name = t.bot_name))"
        " AND (t.row_version < EXCLUDED.row_version"
        " OR (t.row_version = EXCLUDED.row_version AND t.as_of < EXCLUDED.as_of))");
}

static void test_a_window_table_has_its_own_key(void **state)
{
    (void)state;
    expect_sql(sink_sql_remove, &by_window,
               "DELETE FROM cache_b AS t USING unnest($1::text[], $2::int[], $3::timestamptz[],"
               " $4::bigint[]) AS n (bot_name, time_window_hours, as_of, row_version)"
               " WHERE t.bot_name = n.bot_name AND t.time_window_hours = n.time_window_hours"
               " AND (t.row_version < n.row_version"
               " OR (t.row_version = n.row_version AND t.as_of < n.as_of))");
    CLEANUP(buf_deinit) struct buf sql;
    buf_init(&sql, 1 << 16);
    assert_int_equal(sink_sql_touch(&by_window, TTL_STRICT, &sql), STATUS_OK);
    assert_int_equal(buf_append(&sql, "", 1), STATUS_OK);
    assert_non_null(strstr(sql.data, "t.time_window_hours = n.time_window_hours"));
    assert_null(strstr(sql.data, "user_id"));
}

/* The two modes differ in one expression, of the upsert and of the touch. */
static void test_validity_prolongs_the_lifetime(void **state)
{
    (void)state;
    CLEANUP(buf_deinit) struct buf sql;
    buf_init(&sql, 1 << 16);
    assert_int_equal(sink_sql_upsert(&by_user, TTL_VALIDITY, &sql), STATUS_OK);
    assert_int_equal(buf_append(&sql, "", 1), STATUS_OK);
    assert_non_null(strstr(sql.data, " details, NULL, now(),"
                                     " greatest(now() + make_interval(secs => $15::float8),"
                                     " valid_until) FROM unnest("));
    buf_reset(&sql);
    assert_int_equal(sink_sql_touch(&by_user, TTL_VALIDITY, &sql), STATUS_OK);
    assert_int_equal(buf_append(&sql, "", 1), STATUS_OK);
    assert_non_null(strstr(sql.data, " computed_at = now(), expires_at ="
                                     " greatest(now() + make_interval(secs => $6::float8),"
                                     " n.valid_until) FROM n WHERE "));
    buf_reset(&sql);
    assert_int_equal(sink_sql_touch(&by_user, TTL_STRICT, &sql), STATUS_OK);
    assert_int_equal(buf_append(&sql, "", 1), STATUS_OK);
    assert_non_null(strstr(sql.data, " expires_at = now() + make_interval(secs => $6::float8)"
                                     " FROM n WHERE "));
}

static void test_a_row_fills_one_element_of_every_array(void **state)
{
    (void)state;
    struct row r;
    row_init(&r, &by_user);
    assert_int_equal(row_set_key(&r, STR("u\"1"), STR("bot")), STATUS_OK);
    row_set_float(&r, 0, 0.1);
    assert_int_equal(row_set_null(&r, 1, "have 3, need 5"), STATUS_OK);
    assert_int_equal(row_finish(&r), STATUS_OK);
    r.as_of_us = 0;
    r.row_version = UINT64_C(9007199254740993);
    r.event_count = 7;
    r.source_lsn = UINT64_C(0x16B374D848);
    r.confidence = 0.25;
    const struct row *rows[] = {&r};
    struct pg_array a[SINK_PARAMS_MAX];
    for (size_t i = 0; i < SINK_PARAMS_MAX; i++)
        pg_array_init(&a[i], 1 << 16);
    const int64_t cleared_us[] = {US_PER_SECOND};
    assert_int_equal(sink_sql_fill_upsert(&by_user, rows, cleared_us, 1, a), STATUS_OK);
    static const char details[] = "{\"{\\\"reason\\\":{\\\"topics\\\":\\\"have 3, need "
                                  "5\\\"}}\"}";
    static const char *const expected[] = {"{\"u\\\"1\"}",
                                           "{\"bot\"}",
                                           "{0.10000000000000001}",
                                           "{NULL}",
                                           "{1970-01-01T00:00:00Z}",
                                           "{16/B374D848}",
                                           "{9007199254740993}",
                                           "{7}",
                                           "{0}",
                                           "{0.25}",
                                           "{0}",
                                           "{NULL}",
                                           details,
                                           "{1970-01-01T00:00:01Z}"};
    assert_int_equal(sink_sql_upsert_arrays(&by_user), sizeof(expected) / sizeof(expected[0]));
    for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++)
        assert_string_equal(a[i].buf.data, expected[i]);
    for (size_t i = 0; i < SINK_PARAMS_MAX; i++)
        pg_array_deinit(&a[i]);
    row_deinit(&r);
}

/* ---- who is sent ---- */

static struct sink_node *make_node(const char *user, uint64_t version, bool touch)
{
    struct sink_node *node = calloc(1, sizeof(*node));
    assert_non_null(node);
    row_init(&node->item.row, &by_user);
    assert_int_equal(row_set_key(&node->item.row, str_from(user), STR("bot")), STATUS_OK);
    node->item.row.row_version = version;
    node->item.touch = touch;
    return node;
}

static void free_nodes(struct sink_node **nodes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        row_deinit(&nodes[i]->item.row);
        free(nodes[i]);
    }
}

static void test_the_newest_whole_row_of_a_key_is_sent(void **state)
{
    (void)state;
    struct sink_node *old = make_node("u", 3, false), *newest = make_node("u", 5, false);
    struct sink_node *other = make_node("a", 1, false), *touch = make_node("u", 4, true);
    struct sink_node *nodes[] = {old, touch, newest, other};
    sink_writer_arrange(nodes, 4);
    assert_ptr_equal(nodes[0], other);
    assert_ptr_equal(nodes[1], newest);
    assert_ptr_equal(other->leader, other);
    assert_ptr_equal(newest->leader, newest);
    assert_ptr_equal(old->leader, newest);
    assert_ptr_equal(touch->leader, newest);
    assert_int_equal(sink_writer_group_end(nodes, 4, 0), 1);
    assert_int_equal(sink_writer_group_end(nodes, 4, 1), 4);
    free_nodes(nodes, 4);
}

static void test_a_touch_newer_than_the_whole_row_is_sent_too(void **state)
{
    (void)state;
    struct sink_node *whole = make_node("u", 3, false), *touch = make_node("u", 5, true);
    struct sink_node *older_touch = make_node("u", 4, true);
    struct sink_node *nodes[] = {older_touch, whole, touch};
    sink_writer_arrange(nodes, 3);
    assert_ptr_equal(whole->leader, whole);
    assert_ptr_equal(touch->leader, touch);
    assert_ptr_equal(older_touch->leader, touch);
    free_nodes(nodes, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_upsert_writes_every_column_under_the_guard),
        cmocka_unit_test(test_a_window_table_has_its_own_key),
        cmocka_unit_test(test_validity_prolongs_the_lifetime),
        cmocka_unit_test(test_a_row_fills_one_element_of_every_array),
        cmocka_unit_test(test_the_newest_whole_row_of_a_key_is_sent),
        cmocka_unit_test(test_a_touch_newer_than_the_whole_row_is_sent_too),
    };
    return cmocka_run_group_tests_name("state/sink_sql", tests, NULL, NULL);
}
