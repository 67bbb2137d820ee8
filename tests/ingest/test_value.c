/*
 * tests/ingest/test_value.c - text and JSON of database rows become exact times, numbers and lists,
 * or a reason; never a guess.
 */
#include "core/clock.h"
#include "ingest/value.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

static struct event_arena *arena;

static int setup(void **state)
{
    (void)state;
    return event_arena_new(&arena, NULL);
}

static int teardown(void **state)
{
    (void)state;
    event_arena_free(arena);
    return 0;
}

static void test_times_are_read_exactly_in_every_unit(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        enum time_unit unit;
        int64_t us;
    } rows[] = {
        {"2026-01-05 14:00:00+00", TIME_TIMESTAMP, INT64_C(1767621600000000)},
        {"2026-01-05T15:00:00.5+01:00", TIME_TIMESTAMP, INT64_C(1767621600500000)},
        {"2026-01-05 14:00:00.123456", TIME_NAIVE_UTC, INT64_C(1767621600123456)},
        {"1767621600", TIME_EPOCH_S, INT64_C(1767621600000000)},
        {"1767621600.1", TIME_EPOCH_S, INT64_C(1767621600100000)},
        {"1767621600.1234569", TIME_EPOCH_S, INT64_C(1767621600123456)},
        {"-1.5", TIME_EPOCH_S, -1500000},
        {"1.7676216e+09", TIME_EPOCH_S, INT64_C(1767621600000000)},
        {"1767621600001", TIME_EPOCH_MS, INT64_C(1767621600001000)},
        {"1767621600001.25", TIME_EPOCH_MS, INT64_C(1767621600001250)},
        {"1767621600000001", TIME_EPOCH_US, INT64_C(1767621600000001)},
        {"1767621600000001.9", TIME_EPOCH_US, INT64_C(1767621600000001)},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        int64_t us = 0;
        const char *why = value_time(str_from(rows[i].text), rows[i].unit, 0, &us);
        if (why || us != rows[i].us)
            fail_msg("%s: %lld %s", rows[i].text, (long long)us, why ? why : "");
    }
}

static void test_times_that_are_none_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        enum time_unit unit;
        const char *why;
    } rows[] = {
        {"infinity", TIME_TIMESTAMP, "infinite"},
        {"-infinity", TIME_NAIVE_UTC, "infinite"},
        {"2026-01-05 14:00:00", TIME_TIMESTAMP, "no time zone"},
        {"0044-03-15 12:00:00+00 BC", TIME_TIMESTAMP, "years 1 and 9999"},
        {"20260-01-05 14:00:00+00", TIME_TIMESTAMP, "years 1 and 9999"},
        {"", TIME_TIMESTAMP, "empty"},
        {"yesterday", TIME_NAIVE_UTC, "not a time"},
        {"12a", TIME_EPOCH_S, "not a number"},
        {"1.", TIME_EPOCH_MS, NULL}, /* a number, if an odd one */
        {".5", TIME_EPOCH_S, "not a number"},
        {"-", TIME_EPOCH_S, "not a number"},
        {"NaN", TIME_EPOCH_S, "not a number"},
        {"Infinity", TIME_EPOCH_S, "not a number"},
        {"99999999999999999999", TIME_EPOCH_US, "out of range"},
        {"9223372036854775807", TIME_EPOCH_S, "out of range"},
        {"1e300", TIME_EPOCH_S, "out of range"},
        {"253402300800", TIME_EPOCH_S, "years 1 and 9999"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        int64_t us = 0;
        const char *why = value_time(str_from(rows[i].text), rows[i].unit, 0, &us);
        if (!why != !rows[i].why || (why && !strstr(why, rows[i].why)))
            fail_msg("%s: %s", rows[i].text, why ? why : "accepted");
    }
}

static void test_numbers_are_finite_decimals(void **state)
{
    (void)state;
    static const char *const bad[] = {"",   "NaN", "Infinity", "-inf",  "0x10", "1,5",
                                      "1 ", "--",  "1e5e",     "1e999", "e",    "."};
    double value = 0;
    assert_null(value_number(STR("-1.25e2"), &value));
    assert_true(value == -125);
    assert_null(value_number(STR("0.1000000000000000055511151231257827021181583404541"), &value));
    assert_true(value == 0.1);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_non_null(value_number(str_from(bad[i]), &value));
}

static void test_embeddings_come_as_arrays_vectors_or_json(void **state)
{
    (void)state;
    const float *values = NULL;
    uint32_t dims = 0;
    const char *const good[] = {"{0.5,-1,2e-3}", "[0.5,-1,2e-3]", "[0.5, -1, 0.002]"};
    for (size_t i = 0; i < 3; i++) {
        assert_null(value_embedding(str_from(good[i]), arena, &values, &dims));
        assert_int_equal(dims, 3);
        assert_true(values[0] == 0.5F && values[1] == -1.0F && values[2] == 0.002F);
    }
    assert_null(value_embedding(STR("{}"), arena, &values, &dims));
    assert_int_equal(dims, 0);
    assert_null(values);

    const char *const bad[] = {"",        "{",       "0.5,1",     "{0.5,}",        "{NULL,1}",
                               "{NaN}",   "{{1,2}}", "[1,2}",     "[0:1]={0.5,1}", "{1e39}",
                               "{1:1}/5", "{\"1\"}", "{Infinity}"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        if (!value_embedding(str_from(bad[i]), arena, &values, &dims))
            fail_msg("%s was accepted", bad[i]);
}

static void test_embeddings_are_bounded(void **state)
{
    (void)state;
    static char text[2 * LIMIT_EMBEDDING_DIMS + 4];
    const float *values = NULL;
    uint32_t dims = 0;
    for (size_t i = 0; i <= LIMIT_EMBEDDING_DIMS; i++)
        memcpy(text + 2 * i, i ? ",1" : "{1", 2);
    text[2 * LIMIT_EMBEDDING_DIMS] = '}';
    assert_null(
        value_embedding((struct str){text, 2 * LIMIT_EMBEDDING_DIMS + 1}, arena, &values, &dims));
    assert_int_equal(dims, LIMIT_EMBEDDING_DIMS);
    text[2 * LIMIT_EMBEDDING_DIMS] = ',';
    text[2 * LIMIT_EMBEDDING_DIMS + 2] = '}';
    assert_non_null(
        value_embedding((struct str){text, 2 * LIMIT_EMBEDDING_DIMS + 3}, arena, &values, &dims));
}

static void test_traits_are_names_or_weighted_names(void **state)
{
    (void)state;
    struct event_trait traits[LIMIT_TRAITS];
    uint32_t n = 0;
    json_t *json = value_json(STR("[\"a\",{\"name\":\"b\",\"weight\":0.5},{\"name\":\"c\"},"
                                  "{\"name\":\"d\",\"weight\":null},\"e\",\"f\"]"));
    assert_non_null(json);
    assert_null(value_traits(json, arena, traits, LIMIT_TRAITS, &n));
    json_decref(json);
    assert_int_equal(n, 6); /* all are counted, the first ones kept */
    assert_true(str_equal(traits[0].name, STR("a")));
    assert_true(traits[0].weight == 1 && traits[1].weight == 0.5 && traits[3].weight == 1);
    assert_true(str_equal(traits[3].name, STR("d")));

    json_t *weights = value_json(STR("{\"a\":0.5,\"b\":1}"));
    assert_null(value_traits(weights, arena, traits, 1, &n));
    assert_int_equal(n, 2); /* of which one was taken */
    assert_true(str_equal(traits[0].name, STR("a")) && traits[0].weight == 0.5);
    json_decref(weights);

    static const char *const bad[] = {
        "{\"a\":\"x\"}",  "{\"\":1}",       "[1]",   "[{}]",
        "[\"\"]",         "[{\"name\":1}]", "\"a\"", "[{\"name\":\"a\",\"weight\":\"x\"}]",
        "[\"a\\u0000b\"]"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        json = value_json(str_from(bad[i]));
        assert_non_null(json);
        if (!value_traits(json, arena, traits, LIMIT_TRAITS, &n))
            fail_msg("%s was accepted", bad[i]);
        json_decref(json);
    }
}

static void test_json_paths_lead_to_members(void **state)
{
    (void)state;
    struct str text;
    json_t *json = value_json(STR("{\"a\":{\"b\":\"deep\",\"n\":12,\"r\":0.5,\"t\":true,"
                                  "\"z\":null,\"l\":[1]},\"big\":123456789012345678901234567890}"));
    assert_non_null(json); /* the huge integer costs nothing but its own precision */
    assert_null(value_json_text(value_json_path(json, "a.b"), arena, 100, &text));
    assert_true(str_equal(text, STR("deep")));
    assert_null(value_json_text(value_json_path(json, "a.n"), arena, 100, &text));
    assert_true(str_equal(text, STR("12")));
    assert_null(value_json_text(value_json_path(json, "a.r"), arena, 100, &text));
    assert_true(str_equal(text, STR("0.5")));
    assert_null(value_json_text(value_json_path(json, "a.t"), arena, 100, &text));
    assert_true(str_equal(text, STR("true")));
    assert_non_null(value_json_text(value_json_path(json, "a.l"), arena, 100, &text));
    assert_non_null(value_json_text(value_json_path(json, "big"), arena, 100, &text));
    assert_null(value_json_path(json, "a.z"));
    assert_null(value_json_path(json, "a.missing"));
    assert_null(value_json_path(json, "a.b.c"));
    assert_null(value_json_text(value_json_path(json, "a.b"), arena, 2, &text));
    assert_true(str_equal(text, STR("de")));
    json_decref(json);
    assert_null(value_json(STR("{\"a\":")));
    assert_null(value_json(STR("{\"a\":1} x")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_times_are_read_exactly_in_every_unit),
        cmocka_unit_test(test_times_that_are_none_are_refused),
        cmocka_unit_test(test_numbers_are_finite_decimals),
        cmocka_unit_test(test_embeddings_come_as_arrays_vectors_or_json),
        cmocka_unit_test(test_embeddings_are_bounded),
        cmocka_unit_test(test_traits_are_names_or_weighted_names),
        cmocka_unit_test(test_json_paths_lead_to_members),
    };
    return cmocka_run_group_tests_name("ingest/value", tests, setup, teardown);
}
