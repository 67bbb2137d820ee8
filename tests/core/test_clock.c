/* tests/core/test_clock.c - times are read and written without the C library's calendar. */
#include "core/clock.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static int64_t parse_ok(const char *text)
{
    int64_t t_us = -1;
    assert_int_equal(time_parse(text, strlen(text), &t_us), 0);
    return t_us;
}

static void check_format(int64_t t_us, int micros, const char *expected)
{
    char out[40];
    int n = time_format(t_us, micros, out);
    assert_string_equal(out, expected);
    assert_int_equal(n, strlen(expected));
}

static void test_known_times_are_read(void **state)
{
    (void)state;
    assert_true(parse_ok("1970-01-01T00:00:00Z") == 0);
    assert_true(parse_ok("1969-12-31T23:59:59.999999Z") == -1);
    assert_true(parse_ok("2000-01-01T00:00:00Z") == US_POSTGRES_EPOCH);
    assert_true(parse_ok("2026-01-05T14:00:00Z") == INT64_C(1767621600) * US_PER_SECOND);
    assert_true(parse_ok("0001-01-01T00:00:00Z") == TIME_MIN_US);
    assert_true(parse_ok("9999-12-31T23:59:59.999999Z") == TIME_MAX_US);
}

/* What a server prints with DateStyle ISO, and the looser spellings of RFC 3339. */
static void test_the_spellings_of_postgresql_are_read(void **state)
{
    (void)state;
    int64_t t = parse_ok("2026-01-05T14:00:00.5Z");
    assert_true(parse_ok("2026-01-05 14:00:00.5+00") == t);
    assert_true(parse_ok("2026-01-05 19:30:00.5+05:30") == t);
    assert_true(parse_ok("2026-01-05 08:00:00.50-06") == t);
    assert_true(parse_ok("2026-01-05 14:19:32.5+00:19:32") == t);
    assert_true(parse_ok("2026-01-05t14:00:00.500000999z") == t);
    assert_true(parse_ok("2016-12-31T23:59:60Z") == parse_ok("2017-01-01T00:00:00Z"));
}

static void test_a_missing_zone_is_told_apart(void **state)
{
    (void)state;
    int64_t t_us = 0;
    assert_int_equal(time_parse("2026-01-05 14:00:00", 19, &t_us), -2);
    assert_true(t_us == parse_ok("2026-01-05T14:00:00Z"));
}

static void test_what_is_no_time_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "infinity",
        "-infinity",
        "2026-01-05",
        "2026-01-05T",
        "2026-01-05T14:00Z",
        "2026-13-01T00:00:00Z",
        "2026-00-01T00:00:00Z",
        "2026-02-29T00:00:00Z",
        "2026-04-31T00:00:00Z",
        "1900-02-29T00:00:00Z",
        "2026-01-32T00:00:00Z",
        "2026-01-05T24:00:00Z",
        "2026-01-05T14:60:00Z",
        "2026-01-05T14:00:61Z",
        "2026-01-05T14:00:00.Z",
        "2026-01-05T14:00:00+",
        "2026-01-05T14:00:00+5",
        "2026-01-05T14:00:00+05:",
        "2026-01-05T14:00:00+24:00",
        "2026-01-05T14:00:00Zx",
        "2026-01-05T14:00:00 UTC",
        "0044-03-15 12:00:00+00 BC",
        "12026-01-05T14:00:00Z",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+01",
        "9999-12-31T23:59:59-01",
        "2026-1-05T14:00:00Z",
        " 2026-01-05T14:00:00Z",
        "2026-01-05x14:00:00Z",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        int64_t t_us = 42;
        if (time_parse(bad[i], strlen(bad[i]), &t_us) != -1)
            fail_msg("\"%s\" was taken", bad[i]);
        assert_true(t_us == 42);
    }
}

static void test_times_are_written(void **state)
{
    (void)state;
    check_format(0, 0, "1970-01-01T00:00:00Z");
    check_format(-1, 1, "1969-12-31T23:59:59.999999Z");
    check_format(-1, 0, "1969-12-31T23:59:59Z");
    check_format(INT64_C(1767621600) * US_PER_SECOND, 1, "2026-01-05T14:00:00Z");
    check_format(INT64_C(1767621600) * US_PER_SECOND + 5, 1, "2026-01-05T14:00:00.000005Z");
    check_format(INT64_C(951782400) * US_PER_SECOND, 0, "2000-02-29T00:00:00Z");
    check_format(INT64_MIN, 1, "0001-01-01T00:00:00Z");
    check_format(INT64_MAX, 1, "9999-12-31T23:59:59.999999Z");
}

/* Days follow each other, each is read back as it was written, and the last is as many days after
 * the first as the calendar says: first..last by step days. */
static void check_days(int64_t first_us, int64_t last_us, int64_t step)
{
    char previous[40] = "";
    for (int64_t t_us = first_us; t_us <= last_us; t_us += step * US_PER_DAY) {
        char out[40];
        int n = time_format(t_us, 0, out);
        int64_t back = 0;
        if (time_parse(out, (unsigned long)n, &back) != 0 || back != t_us)
            fail_msg("%s was not read back", out);
        if (strcmp(previous, out) >= 0)
            fail_msg("%s does not follow %s", out, previous);
        memcpy(previous, out, sizeof(previous));
    }
}

/* Every day of one whole period of the calendar, 400 years, and a sample of all others. */
static void test_days_are_read_back(void **state)
{
    (void)state;
    int64_t first_us = parse_ok("1850-01-01T00:00:00Z");
    int64_t last_us = parse_ok("2250-01-01T00:00:00Z");
    assert_true(last_us - first_us == 146097 * US_PER_DAY);
    check_days(first_us, last_us, 1);
    check_days(TIME_MIN_US, TIME_MAX_US, 131);
}

static void test_floor_goes_towards_the_past(void **state)
{
    (void)state;
    assert_true(time_floor_us(7, 5) == 5);
    assert_true(time_floor_us(5, 5) == 5);
    assert_true(time_floor_us(-1, 5) == -5);
    assert_true(time_floor_us(-5, 5) == -5);
    assert_true(time_floor_us(0, US_PER_DAY) == 0);
}

static void test_a_virtual_clock_shows_its_variable(void **state)
{
    (void)state;
    int64_t now_us = 10;
    struct clock c = clock_virtual(&now_us);
    assert_true(clock_wall_us(&c) == 10);
    now_us += US_PER_HOUR;
    assert_true(clock_wall_us(&c) == 10 + US_PER_HOUR);
    assert_true(clock_mono_us(&c) == 10 + US_PER_HOUR);
}

static void test_the_real_clocks_run(void **state)
{
    (void)state;
    int64_t first = clock_mono_us(&clock_real);
    assert_true(clock_mono_us(&clock_real) >= first);
    /* Not before this was written, not in seconds or milliseconds. */
    assert_true(clock_wall_us(&clock_real) > parse_ok("2026-01-01T00:00:00Z"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_times_are_read),
        cmocka_unit_test(test_the_spellings_of_postgresql_are_read),
        cmocka_unit_test(test_a_missing_zone_is_told_apart),
        cmocka_unit_test(test_what_is_no_time_is_refused),
        cmocka_unit_test(test_times_are_written),
        cmocka_unit_test(test_days_are_read_back),
        cmocka_unit_test(test_floor_goes_towards_the_past),
        cmocka_unit_test(test_a_virtual_clock_shows_its_variable),
        cmocka_unit_test(test_the_real_clocks_run),
    };
    return cmocka_run_group_tests_name("core/clock", tests, NULL, NULL);
}
