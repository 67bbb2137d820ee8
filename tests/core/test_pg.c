/*
 * tests/core/test_pg.c - failures are told apart by SQLSTATE, names are quoted, waits end.
 */
#include "core/pg.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void test_failures_are_classified_by_sqlstate(void **state)
{
    (void)state;
    static const struct {
        const char *sqlstate;
        enum status st;
    } rows[] = {
        {NULL, STATUS_IO},         {"", STATUS_IO},           {"08006", STATUS_IO},
        {"40P01", STATUS_IO},      {"53300", STATUS_IO},      {"55006", STATUS_IO},
        {"55P03", STATUS_IO},      {"57P01", STATUS_IO},      {"57P03", STATUS_IO},
        {"XX000", STATUS_IO},      {"0A000", STATUS_REFUSED}, {"28000", STATUS_REFUSED},
        {"28P01", STATUS_REFUSED}, {"3D000", STATUS_REFUSED}, {"3F000", STATUS_REFUSED},
        {"42501", STATUS_REFUSED}, {"42704", STATUS_REFUSED}, {"42P01", STATUS_REFUSED},
        {"55000", STATUS_REFUSED}, {"58P01", STATUS_REFUSED}, {"F0000", STATUS_REFUSED},
        {"22023", STATUS_INVALID}, {"22P05", STATUS_INVALID}, {"23505", STATUS_INVALID},
        {"54000", STATUS_INVALID}, {"WP001", STATUS_FENCED},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if (pg_status_of(rows[i].sqlstate) != rows[i].st)
            fail_msg("%s", rows[i].sqlstate ? rows[i].sqlstate : "(null)");
    assert_non_null(strstr(pg_source_hint("55000"), "max_slot_wal_keep_size"));
    assert_non_null(strstr(pg_source_hint("28P01"), "pg_hba.conf"));
    assert_string_equal(pg_source_hint("08006"), "");
    assert_string_equal(pg_source_hint(NULL), "");
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
    const struct pg_options what = {
        .conninfo = "no equals sign", .mode = PG_SOURCE, .timeout_ms = 1000};
    struct error err;
    PGconn *conn = NULL;
    assert_int_equal(pg_open(&what, &conn, &err), STATUS_INVALID);
    assert_null(conn);
}

/* The first takes connections and never says a word, as a host behind a broken network does. */
static void test_a_silent_host_does_not_keep_the_next_one_from_being_tried(void **state)
{
    (void)state;
    int silent = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    assert_int_equal(bind(silent, (struct sockaddr *)&at, len), 0);
    assert_int_equal(listen(silent, 4), 0);
    assert_int_equal(getsockname(silent, (struct sockaddr *)&at, &len), 0);
    char conninfo[200];
    snprintf(conninfo, sizeof(conninfo), "host=127.0.0.1,/nonexistent port=%d,5 dbname=x",
             (int)ntohs(at.sin_port));
    const struct pg_options what = {.conninfo = conninfo, .mode = PG_PLAIN, .timeout_ms = 50};
    struct error err;
    PGconn *conn = NULL;
    assert_int_equal(pg_open(&what, &conn, &err), STATUS_IO);
    assert_non_null(strstr(err.text, "did not answer in time"));
    assert_non_null(strstr(err.text, "/nonexistent/.s.PGSQL.5"));
    close(silent);
}

static void test_an_absent_server_is_worth_a_retry(void **state)
{
    (void)state;
    const struct pg_options what = {
        .conninfo = "host=/nonexistent dbname=x", .mode = PG_REPLICATION, .timeout_ms = 1000};
    struct error err;
    PGconn *conn = NULL;
    assert_int_equal(pg_open(&what, &conn, &err), STATUS_IO);
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

static void test_a_cancelled_wait_stays_cancelled(void **state)
{
    (void)state;
    int fds[2], idle[2];
    struct pg_ready ready;
    assert_int_equal(pipe2(fds, O_NONBLOCK), 0);
    assert_int_equal(pipe2(idle, O_NONBLOCK), 0);
    const struct pg_wait wait = {.clock = &clock_real, .wake_fd = fds[0], .wake_stops = true};
    assert_int_equal(write(fds[1], "w", 1), 1);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pg_poll(idle[0], true, false, US_PER_HOUR, &wait, &ready, NULL),
                         STATUS_OK);
        assert_true(ready.woken);
    }
    for (int i = 0; i < 2; i++) {
        close(fds[i]);
        close(idle[i]);
    }
}

static void test_a_connection_string_is_never_quoted(void **state)
{
    (void)state;
    struct error err;
    assert_int_equal(pg_conninfo_check("host=h password=secret'", NULL), STATUS_OK);
    assert_int_equal(pg_conninfo_check("host=h 'secret", &err), STATUS_INVALID);
    assert_null(strstr(err.text, "secret"));
    assert_int_equal(pg_conninfo_check("hots=h", &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "hots"));
    assert_int_equal(pg_conninfo_check("host=h replication=database", &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "replication"));
}

static void test_a_connection_without_a_server_says_why_in_one_line(void **state)
{
    (void)state;
    struct error err;
    assert_int_equal(pg_error(&err, NULL, NULL, "could not try"), STATUS_IO);
    assert_string_equal(err.text, "could not try: out of memory");
    assert_int_equal(pg_source_error(&err, NULL, NULL, "could not try"), STATUS_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_failures_are_classified_by_sqlstate),
        cmocka_unit_test(test_names_and_literals_are_quoted),
        cmocka_unit_test(test_an_error_becomes_one_line),
        cmocka_unit_test(test_a_malformed_connection_string_is_no_reason_to_retry),
        cmocka_unit_test(test_a_silent_host_does_not_keep_the_next_one_from_being_tried),
        cmocka_unit_test(test_an_absent_server_is_worth_a_retry),
        cmocka_unit_test(test_a_wake_up_ends_a_wait_and_is_used_up),
        cmocka_unit_test(test_a_cancelled_wait_stays_cancelled),
        cmocka_unit_test(test_a_connection_string_is_never_quoted),
        cmocka_unit_test(test_a_connection_without_a_server_says_why_in_one_line),
    };
    return cmocka_run_group_tests_name("core/pg", tests, NULL, NULL);
}
