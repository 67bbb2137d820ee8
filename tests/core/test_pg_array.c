/* tests/core/test_pg_array.c - array literals read back as what went in. */
#include "core/pg_array.h"

#include "core/cleanup.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static void expect_array(struct pg_array *a, const char *text)
{
    assert_int_equal(pg_array_end(a), STATUS_OK);
    assert_string_equal(a->buf.data, text);
}

static void test_text_elements_are_quoted_and_escaped(void **state)
{
    (void)state;
    CLEANUP(pg_array_deinit) struct pg_array a;
    pg_array_init(&a, 1 << 20);
    pg_array_begin(&a);
    expect_array(&a, "{}");
    pg_array_begin(&a);
    pg_array_text(&a, STR("plain"));
    pg_array_text(&a, STR(""));
    pg_array_text(&a, STR("NULL"));
    pg_array_text(&a, STR_NULL);
    pg_array_text(&a, STR("a\"b\\c"));
    pg_array_text(&a, STR("\\"));
    pg_array_text(&a, STR("{,} \n"));
    expect_array(&a, "{\"plain\",\"\",\"NULL\",NULL,\"a\\\"b\\\\c\",\"\\\\\",\"{,} \n\"}");
}

static void test_doubles_read_back_as_the_same_number(void **state)
{
    (void)state;
    static const double values[] = {0.1, 1.0 / 3, 5e-324, 1.7976931348623157e308, -0.5, 1e15 + 0.3};
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        CLEANUP(pg_array_deinit) struct pg_array a;
        pg_array_init(&a, 1 << 20);
        pg_array_begin(&a);
        pg_array_double(&a, values[i]);
        assert_int_equal(pg_array_end(&a), STATUS_OK);
        assert_true(strtod(a.buf.data + 1, NULL) == values[i]);
    }
}

static void test_times_keep_their_microseconds(void **state)
{
    (void)state;
    CLEANUP(pg_array_deinit) struct pg_array a;
    pg_array_init(&a, 1 << 20);
    pg_array_begin(&a);
    pg_array_time(&a, INT64_C(1767622800123456));
    pg_array_time(&a, INT64_MAX);
    expect_array(&a, "{2026-01-05T14:20:00.123456Z,infinity}");
}

static void test_an_array_that_outgrows_its_bound_fails(void **state)
{
    (void)state;
    CLEANUP(pg_array_deinit) struct pg_array a;
    pg_array_init(&a, 8);
    pg_array_begin(&a);
    pg_array_text(&a, STR("0123456789"));
    assert_int_equal(pg_array_end(&a), STATUS_LIMIT);
    pg_array_begin(&a);
    expect_array(&a, "{}");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text_elements_are_quoted_and_escaped),
        cmocka_unit_test(test_doubles_read_back_as_the_same_number),
        cmocka_unit_test(test_times_keep_their_microseconds),
        cmocka_unit_test(test_an_array_that_outgrows_its_bound_fails),
    };
    return cmocka_run_group_tests_name("core/pg_array", tests, NULL, NULL);
}
