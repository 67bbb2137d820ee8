/*
 * tests/ingest/test_pgconn.c - failures are told apart by SQLSTATE, names are quoted, waits end.
 */
#include "ingest/pgconn.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static void test_failures_are_classified_by_sqlstate(void **state)
{
    (void)state;
    static const struct {
        const char *sqlstate;
        enum pg_failure failure;
    } rows[] = {
        {NULL, PG_RETRY},    {"", PG_RETRY},      {"08006", PG_RETRY}, {"57P01", PG_RETRY},
        {"57P03", PG_RETRY}, {"53300", PG_RETRY}, {"XX000", PG_RETRY}, {"55006", PG_SLOT_ACTIVE},
        {"55000", PG_FATAL}, {"42704", PG_FATAL}, {"42501", PG_FATAL}, {"28P01", PG_FATAL},
        {"28000", PG_FATAL}, {"3D000", PG_FATAL}, {"58P01", PG_FATAL}, {"22023", PG_FATAL},
        {"0A000", PG_FATAL},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if (pg_failure_of(rows[i].sqlstate) != rows[i].failure)
            fail_msg("%s", rows[i].sqlstate ? rows[i].sqlstate : "(null)");
    assert_non_null(strstr(pg_failure_hint("55000"), "max_slot_wal_keep_size"));
    assert_non_null(strstr(pg_failure_hint("28P01"), "pg_hba.conf"));
    assert_string_equal(pg_failure_hint("08006"), "");
    assert_string_equal(pg_failure_hint(NULL), "");
}

static void test_names_and_literals_are_quoted(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 100);
    assert_int_equal(pg_quote_ident(&b, "a\"b"), STATUS_OK);
    assert_int_equal(pg_quote_literal(&b, "c'd\"\\"), STATUS_OK);
    assert_true(str_equal((struct str){b.data, b.len}, STR("\"a\"\"b\"'c''d\"\\'")));
    buf_deinit(&b);
}

static void test_an_error_becomes_one_line(void **state)
{
    (void)state;
    char line[12];
    pg_error_line("first  \nsecond\n", line, sizeof(line));
    assert_string_equal(line, "first");
    pg_error_line("a message longer than its room", line, sizeof(line));
    assert_string_equal(line, "a message l");
    pg_error_line(NULL, line, sizeof(line));
    assert_string_equal(line, "");
}

static void test_a_malformed_connection_string_is_no_reason_to_retry(void **state)
{
    (void)state;
    const struct pg_connect what = {
        .conninfo = "no equals sign", .mode = PG_ORDINARY, .timeout_us = US_PER_SECOND};
    const struct pg_wait wait = {.clock = &clock_real, .wake_fd = -1};
    struct error err;
    PGconn *conn = NULL;
    assert_int_equal(pgconn_open(&what, &wait, &conn, &err), STATUS_INVALID);
    assert_null(conn);
}

static void test_an_absent_server_is_worth_a_retry(void **state)
{
    (void)state;
    const struct pg_connect what = {.conninfo = "host=/nonexistent dbname=x",
                                    .mode = PG_REPLICATION,
                                    .timeout_us = US_PER_SECOND};
    const struct pg_wait wait = {.clock = &clock_real, .wake_fd = -1};
    struct error err;
    PGconn *conn = NULL;
    assert_int_equal(pgconn_open(&what, &wait, &conn, &err), STATUS_IO);
    assert_non_null(strstr(err.text, "/nonexistent"));
}

static void test_a_wake_up_ends_a_wait_and_is_used_up(void **state)
{
    (void)state;
    int fds[2];
    struct pg_ready ready;
    assert_int_equal(pipe2(fds, O_NONBLOCK), 0);
    const struct pg_wait wait = {.clock = &clock_real, .wake_fd = fds[0]};
    assert_int_equal(write(fds[1], "w", 1), 1);
    /* An hour: only the wake-up can end it.. */
    assert_int_equal(pg_poll(-1, false, false, INT64_C(3600) * US_PER_SECOND, &wait, &ready, NULL),
                     STATUS_OK);
    assert_true(ready.woken);
    assert_int_equal(pg_poll(-1, false, false, 0, &wait, &ready, NULL), STATUS_OK);
    assert_false(ready.woken);
    close(fds[0]);
    close(fds[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_failures_are_classified_by_sqlstate),
        cmocka_unit_test(test_names_and_literals_are_quoted),
        cmocka_unit_test(test_an_error_becomes_one_line),
        cmocka_unit_test(test_a_malformed_connection_string_is_no_reason_to_retry),
        cmocka_unit_test(test_an_absent_server_is_worth_a_retry),
        cmocka_unit_test(test_a_wake_up_ends_a_wait_and_is_used_up),
    };
    return cmocka_run_group_tests_name("ingest/pgconn", tests, NULL, NULL);
}
