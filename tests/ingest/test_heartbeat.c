/*
 * tests/ingest/test_heartbeat.c - a heartbeat is told from other logical messages, and measures
 * from its sending until it is durable.
 */
#include "ingest/heartbeat.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define PREFIX STR("warmpath.heartbeat")

static void test_the_statement_quotes_what_comes_back(void **state)
{
    (void)state;
    struct buf sql;
    buf_init(&sql, 512);
    assert_int_equal(heartbeat_sql("it's", 17, &sql), STATUS_OK);
    assert_string_equal(sql.data, "SELECT pg_catalog.pg_logical_emit_message(true, "
                                  "'warmpath.heartbeat', 'it''s 17')");
    buf_deinit(&sql);
}

static void test_only_our_own_are_read(void **state)
{
    (void)state;
    int64_t sent_us = 0;
    assert_true(heartbeat_read(PREFIX, STR("main 17"), "main", &sent_us));
    assert_int_equal(sent_us, 17);
    assert_false(heartbeat_read(STR("warmpath.heartbeats"), STR("main 17"), "main", &sent_us));
    assert_false(heartbeat_read(PREFIX, STR("main2 17"), "main", &sent_us));
    assert_false(heartbeat_read(PREFIX, STR("mai 17"), "main", &sent_us));
    assert_false(heartbeat_read(PREFIX, STR("main"), "main", &sent_us));
    assert_false(heartbeat_read(PREFIX, STR("main "), "main", &sent_us));
    assert_false(heartbeat_read(PREFIX, STR("main 17x"), "main", &sent_us));
    assert_false(heartbeat_read(PREFIX, STR("main -17"), "main", &sent_us));
    char large[4096];
    memset(large, '7', sizeof(large));
    memcpy(large, "main ", 5);
    assert_false(heartbeat_read(PREFIX, (struct str){large, sizeof(large)}, "main", &sent_us));
    assert_int_equal(sent_us, 17);
}

static void test_the_lag_ends_when_its_commit_is_durable(void **state)
{
    (void)state;
    struct heartbeat h = {.pipeline = "main"};
    int64_t lag_us = -1;
    assert_false(heartbeat_done(&h, 1000, 50, &lag_us));
    heartbeat_came(&h, PREFIX, STR("main 10"), 1000);
    heartbeat_came(&h, PREFIX, STR("main 40"), 2000);    /* does not hide the one that waits */
    assert_false(heartbeat_done(&h, 1000, 50, &lag_us)); /* ends where its commit record begins */
    assert_true(heartbeat_done(&h, 1001, 60, &lag_us));
    assert_int_equal(lag_us, 50);
    assert_false(heartbeat_done(&h, 1001, 60, &lag_us));
    heartbeat_came(&h, PREFIX, STR("main 70"), 3000);
    assert_true(heartbeat_done(&h, 4000, 65, &lag_us)); /* the clock was set back */
    assert_int_equal(lag_us, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_statement_quotes_what_comes_back),
        cmocka_unit_test(test_only_our_own_are_read),
        cmocka_unit_test(test_the_lag_ends_when_its_commit_is_durable),
    };
    return cmocka_run_group_tests_name("ingest/heartbeat", tests, NULL, NULL);
}
