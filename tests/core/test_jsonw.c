/* tests/core/test_jsonw.c - the canonical bytes of JSON, to the last digit. */
#include "core/jsonw.h"

#include "tests/core/aborts.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct buf out;

static struct jsonw start(void)
{
    struct jsonw w;
    buf_reset(&out);
    jsonw_init(&w, &out);
    return w;
}

static void check(const struct jsonw *w, const char *expected)
{
    assert_int_equal(jsonw_status(w), STATUS_OK);
    assert_int_equal(buf_append(&out, "", 1), STATUS_OK);
    assert_string_equal(out.data, expected);
}

static void check_number(double v, const char *expected)
{
    struct jsonw w = start();
    jsonw_number(&w, v);
    check(&w, expected);
}

static void test_numbers_have_six_digits_at_most(void **state)
{
    (void)state;
    check_number(0.5467, "0.5467");
    check_number(46, "46");
    check_number(0, "0");
    check_number(-0.0, "0");
    check_number(-1.5, "-1.5");
    check_number(1.0 / 3, "0.333333");
    check_number(123456.7, "123457");
    check_number(1234567, "1.23457e+06");
    check_number(0.0001, "0.0001");
    check_number(0.00001234567, "1.23457e-05");
    check_number(1e-7, "1e-07");
    check_number(1e300, "1e+300");
}

/* Exact ties, which only numbers with few bits can have, go to the even digit. */
static void test_ties_go_to_the_even_digit(void **state)
{
    (void)state;
    check_number(100000.5, "100000");
    check_number(100001.5, "100002");
    check_number(0.0000152587890625, "1.52588e-05"); /* 2^-16, no tie: 1.52587890625 */
    check_number(1000002.5, "1e+06");
    check_number(1000005, "1e+06");
    check_number(1000015, "1.00002e+06");
}

static void check_double(double v, const char *expected)
{
    struct jsonw w = start();
    jsonw_double(&w, v);
    check(&w, expected);
}

static void test_doubles_are_read_back(void **state)
{
    (void)state;
    check_double(0.1, "0.1");
    check_double(0.1 + 0.2, "0.30000000000000004");
    check_double(100, "100");
    check_double(-0.0, "0");
    check_double(1e22, "1e+22");
    check_double(5e-324, "4.94065645841247e-324");
    uint64_t x = 88172645463325252u;
    for (int i = 0; i < 20000; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        double v = 0;
        memcpy(&v, &x, sizeof(v));
        if (!isfinite(v))
            continue;
        struct jsonw w = start();
        jsonw_double(&w, v);
        assert_int_equal(buf_append(&out, "", 1), STATUS_OK);
        assert_true(strtod(out.data, NULL) == v);
    }
}

static void test_nested_containers_get_their_commas(void **state)
{
    (void)state;
    struct jsonw w = start();
    jsonw_object_begin(&w);
    jsonw_key(&w, "a");
    jsonw_array_begin(&w);
    jsonw_int(&w, INT64_MIN);
    jsonw_bool(&w, true);
    jsonw_null(&w);
    jsonw_object_begin(&w);
    jsonw_object_end(&w);
    jsonw_array_begin(&w);
    jsonw_array_end(&w);
    jsonw_array_end(&w);
    jsonw_key(&w, "b");
    jsonw_object_begin(&w);
    jsonw_key(&w, "a");
    jsonw_raw(&w, STR("[1,2]"));
    jsonw_key(&w, "t");
    jsonw_time(&w, 1500000);
    jsonw_object_end(&w);
    jsonw_object_end(&w);
    check(&w, "{\"a\":[-9223372036854775808,true,null,{},[]],"
              "\"b\":{\"a\":[1,2],\"t\":\"1970-01-01T00:00:01Z\"}}");
}

static void test_strings_are_escaped_minimally(void **state)
{
    (void)state;
    struct jsonw w = start();
    jsonw_string(&w, STR("a\"b\\c/\b\f\n\r\t\x01\x1F\x7F caf\xC3\xA9"));
    check(&w, "\"a\\\"b\\\\c/\\b\\f\\n\\r\\t\\u0001\\u001f\x7F caf\xC3\xA9\"");
}

/* What is no text must not reach jsonb: each bad byte becomes U+FFFD. */
static void test_bytes_that_are_no_text_are_replaced(void **state)
{
    (void)state;
    struct jsonw w = start();
    jsonw_string(&w, STR("a\xFF\xE2\x82z\0"));
    check(&w, "\"a\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBDz\xEF\xBF\xBD\"");
}

/* Escapes sort by what they stand for: a quote (0x22) is before A (0x41) although it is written
 * with a backslash (0x5c). The order is asserted, so passing is not aborting. */
static void test_keys_are_ordered_as_they_were_before_escaping(void **state)
{
    (void)state;
    struct jsonw w = start();
    jsonw_object_begin(&w);
    static const char *const keys[] = {"\x01", "\n", "\"", "A", "AB", "\\", "b"};
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        jsonw_key(&w, keys[i]);
        jsonw_int(&w, 1);
    }
    jsonw_object_end(&w);
    assert_int_equal(jsonw_status(&w), STATUS_OK);
}

static void write_keys_out_of_order(void)
{
    struct jsonw w = start();
    jsonw_object_begin(&w);
    jsonw_key(&w, "b");
    jsonw_int(&w, 1);
    jsonw_key(&w, "a");
}

static void write_a_key_twice(void)
{
    struct jsonw w = start();
    jsonw_object_begin(&w);
    jsonw_key(&w, "a");
    jsonw_int(&w, 1);
    jsonw_key(&w, "a");
}

static void write_nan(void)
{
    struct jsonw w = start();
    jsonw_number(&w, NAN);
}

static void write_a_member_without_key(void)
{
    struct jsonw w = start();
    jsonw_object_begin(&w);
    jsonw_int(&w, 1);
}

static void test_what_is_not_canonical_is_asserted(void **state)
{
    (void)state;
    assert_true(aborts(write_keys_out_of_order));
    assert_true(aborts(write_a_key_twice));
    assert_true(aborts(write_nan));
    assert_true(aborts(write_a_member_without_key));
}

static void test_the_first_failure_sticks(void **state)
{
    (void)state;
    struct buf small;
    buf_init(&small, 4);
    struct jsonw w;
    jsonw_init(&w, &small);
    jsonw_array_begin(&w);
    jsonw_string(&w, STR("too long"));
    jsonw_int(&w, 1);
    jsonw_array_end(&w);
    assert_int_equal(jsonw_status(&w), STATUS_LIMIT);
    assert_true(small.len <= 4);
    buf_deinit(&small);
}

static int setup(void **state)
{
    (void)state;
    buf_init(&out, 1 << 16);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    buf_deinit(&out);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers_have_six_digits_at_most),
        cmocka_unit_test(test_ties_go_to_the_even_digit),
        cmocka_unit_test(test_doubles_are_read_back),
        cmocka_unit_test(test_nested_containers_get_their_commas),
        cmocka_unit_test(test_strings_are_escaped_minimally),
        cmocka_unit_test(test_bytes_that_are_no_text_are_replaced),
        cmocka_unit_test(test_keys_are_ordered_as_they_were_before_escaping),
        cmocka_unit_test(test_what_is_not_canonical_is_asserted),
        cmocka_unit_test(test_the_first_failure_sticks),
    };
    return cmocka_run_group_tests_name("core/jsonw", tests, setup, teardown);
}
