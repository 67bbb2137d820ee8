/* tests/core/test_log.c - a record is one line of logfmt that a parser can take apart again. */
#include "core/log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* Runs one log_write with stderr going to a pipe, and returns what was written without ts=. */
#define CAPTURE(...)                                      \
    do {                                                  \
        int fds[2];                                       \
        assert_int_equal(pipe(fds), 0);                   \
        int saved = dup(STDERR_FILENO);                   \
        dup2(fds[1], STDERR_FILENO);                      \
        log_write(__VA_ARGS__);                           \
        dup2(saved, STDERR_FILENO);                       \
        close(saved);                                     \
        close(fds[1]);                                    \
        ssize_t n = read(fds[0], line, sizeof(line) - 1); \
        close(fds[0]);                                    \
        assert_true(n >= 0);                              \
        line[n] = '\0';                                   \
    } while (0)

static char line[8192];

static const char *without_time(void)
{
    assert_int_equal(strncmp(line, "ts=20", 5), 0);
    const char *space = strchr(line, ' ');
    assert_non_null(space);
    return space + 1;
}

static void test_words_become_msg_and_fields_follow(void **state)
{
    (void)state;
    CAPTURE(LOG_WARN, "sink", "could not connect error=\"%s\" retry_ms=%d", "refused", 200);
    assert_string_equal(without_time(), "level=warn stage=sink msg=\"could not connect\" "
                                        "error=\"refused\" retry_ms=200\n");
}

/* Error texts hold names in double quotes and line ends; a record stays one line and parseable. */
static void test_quotes_and_line_ends_in_values_are_escaped(void **state)
{
    (void)state;
    CAPTURE(LOG_ERROR, "ingest", "slot \"%s\" is gone error=\"%s\" n=1", "a",
            "slot \"a\" \\ does\nnot exist");
    assert_string_equal(without_time(), "level=error stage=ingest msg=\"slot \\\"a\\\" is gone\" "
                                        "error=\"slot \\\"a\\\" \\\\ does not exist\" n=1\n");
}

static void test_a_huge_record_is_cut_at_one_line(void **state)
{
    (void)state;
    char big[6000];
    memset(big, '"', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    CAPTURE(LOG_ERROR, "run", "%s", big);
    assert_true(strlen(line) <= 4096);
    assert_ptr_equal(strchr(line, '\n'), line + strlen(line) - 1);
}

static void test_levels_above_the_set_one_are_silent(void **state)
{
    (void)state;
    CAPTURE(LOG_DEBUG, "run", "unseen");
    assert_string_equal(line, "");
    log_set_level(LOG_DEBUG);
    CAPTURE(LOG_DEBUG, "run", "seen");
    assert_string_equal(without_time(), "level=debug stage=run msg=\"seen\"\n");
    log_set_level(LOG_INFO);
}

static void test_a_limit_lets_one_through_and_counts_the_rest(void **state)
{
    (void)state;
    struct log_limit l = {0};
    assert_int_equal(log_limit_pass(&l, 100, 50), 0);
    assert_int_equal(log_limit_pass(&l, 110, 50), -1);
    assert_int_equal(log_limit_pass(&l, 149, 50), -1);
    assert_int_equal(log_limit_pass(&l, 150, 50), 2);
    assert_int_equal(log_limit_pass(&l, 300, 50), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words_become_msg_and_fields_follow),
        cmocka_unit_test(test_quotes_and_line_ends_in_values_are_escaped),
        cmocka_unit_test(test_a_huge_record_is_cut_at_one_line),
        cmocka_unit_test(test_levels_above_the_set_one_are_silent),
        cmocka_unit_test(test_a_limit_lets_one_through_and_counts_the_rest),
    };
    return cmocka_run_group_tests_name("core/log", tests, NULL, NULL);
}
