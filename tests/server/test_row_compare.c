/*
 * tests/server/test_row_compare.c - what verify calls equal: JSON by value, floats to the last bit.
 * The rows that need a PGresult are compared in the integration tests.
 */
#include "engines/tables.h"
#include "server/row_compare.h"

#include <setjmp.h> /* cmocka needs these three */
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

static bool same(const char *a, const char *b)
{
    json_t *x = json_loads(a, JSON_DECODE_ANY, NULL), *y = json_loads(b, JSON_DECODE_ANY, NULL);
    assert_true(x && y);
    bool answer = json_same(x, y);
    assert_int_equal(answer, json_same(y, x));
    json_decref(x);
    json_decref(y);
    return answer;
}

/* jsonb prints numbers in its own way and sorts keys by length: neither is a difference. */
static void test_json_is_equal_by_value(void **state)
{
    (void)state;
    assert_true(same("1", "1.0"));
    assert_true(same("1e6", "1000000"));
    assert_true(same("1.5e-7", "0.00000015"));
    assert_true(same("{\"bb\":1,\"a\":[2,{}]}", "{\"a\": [2, {}], \"bb\": 1}"));
    assert_true(same("null", "null"));
}

/* Everything else is one. */
static void test_json_differences_are_found_at_any_depth(void **state)
{
    (void)state;
    assert_false(same("1", "2"));
    assert_false(same("0.1", "0.10000000000000002"));
    assert_false(same("9007199254740993", "9007199254740992"));
    assert_false(same("\"1\"", "1"));
    assert_false(same("null", "false"));
    assert_false(same("true", "false"));
    assert_false(same("[1,2]", "[2,1]"));
    assert_false(same("[1]", "[1,1]"));
    assert_false(same("{\"a\":1}", "{\"a\":1,\"b\":null}"));
    assert_false(same("{\"a\":{\"b\":[1]}}", "{\"a\":{\"b\":[2]}}"));
    assert_false(same("{\"a\":1}", "{\"b\":1}"));
}

/* A result as a SELECT of row_select_list() gives it: one row of text values, NULL for NULL. */
static PGresult *result_of(const char *const values[], int n)
{
    PGresult *res = PQmakeEmptyPGresult(NULL, PGRES_TUPLES_OK);
    PGresAttDesc columns[RR_COLUMNS + ROW_COLUMNS_MAX];
    memset(columns, 0, sizeof(columns));
    for (int i = 0; i < n; i++)
        columns[i].name = (char *)(uintptr_t) "c";
    assert_int_equal(PQsetResultAttrs(res, n, columns), 1);
    for (int i = 0; i < n; i++)
        assert_int_equal(PQsetvalue(res, 0, i, (char *)(uintptr_t)values[i],
                                    values[i] ? (int)strlen(values[i]) : -1),
                         1);
    return res;
}

static char seen[512];

static void on_difference(void *ctx, const char *column, const char *expected, const char *got)
{
    (void)ctx;
    size_t n = strlen(seen);
    snprintf(seen + n, sizeof(seen) - n, "%s:%s/%s;", column, expected ? expected : "NULL",
             got ? got : "NULL");
}

#define N_VALUES (RR_COLUMNS + 5)

/* A memory health row with a value, a text and NULLs, and the values PostgreSQL would print. */
static void make_row(struct row *r, const char *values[N_VALUES])
{
    row_init(r, &tables[TABLE_MEMORY_HEALTH]);
    assert_int_equal(row_set_key(r, STR("u"), STR("b")), STATUS_OK);
    assert_int_equal(row_set_json(r, MH_MEMORY_SNAPSHOT, STR("{\"total\":3,\"v\":1}")), STATUS_OK);
    row_set_float(r, MH_AVG_MEMORY_AGE_HOURS, 0.1 + 0.2);
    assert_int_equal(row_set_text(r, MH_RETRIEVAL_FREQUENCY_TREND, STR("stable")), STATUS_OK);
    assert_int_equal(row_set_null(r, MH_FORGETTING_RISK_MEMORIES, "no signal"), STATUS_OK);
    assert_int_equal(row_set_null(r, MH_TOPIC_RELEVANCE_DRIFT, "too few"), STATUS_OK);
    r->event_count = 7;
    r->confidence = 0.333;
    r->state_flags = 4;
    r->engine_version = 1;
    assert_int_equal(row_finish(r), STATUS_OK);
    static char details[1024];
    snprintf(details, sizeof(details), STR_FMT, STR_ARGS(row_details(r)));
    const char *const printed[N_VALUES] = {"u",
                                           "b",
                                           "0",
                                           "7",
                                           "0.333",
                                           "4",
                                           "1",
                                           details,
                                           "{\"v\": 1, \"total\": 3}",
                                           "0.30000000000000004",
                                           "stable",
                                           NULL,
                                           NULL};
    memcpy(values, printed, sizeof(printed));
    seen[0] = '\0';
}

/* The row as PostgreSQL prints it equals the row as it was computed. */
static void test_a_row_equals_its_printed_form(void **state)
{
    (void)state;
    struct row r;
    const char *values[N_VALUES];
    make_row(&r, values);
    PGresult *res = result_of(values, N_VALUES);
    assert_int_equal(row_compare(&r, res, 0, on_difference, NULL), 0);
    assert_string_equal(seen, "");
    PQclear(res);
    row_deinit(&r);
}

/* Each column is compared: a change of any one of them is found and named. */
static void test_a_change_of_any_column_is_found(void **state)
{
    (void)state;
    static const struct {
        int column;
        const char *value, *difference;
    } cases[] = {
        {RR_EVENT_COUNT, "8", "event_count:7/8;"},
        {RR_CONFIDENCE, "0.334", "confidence:0.333/0.334;"},
        {RR_STATE_FLAGS, NULL, "state_flags:4/NULL;"},
        {RR_ENGINE_VERSION, "2", "engine_version:1/2;"},
        {RR_COLUMNS + MH_MEMORY_SNAPSHOT, "{\"v\": 1, \"total\": 4}",
         "memory_snapshot:{\"total\":3,\"v\":1}/{\"v\": 1, \"total\": 4};"},
        {RR_COLUMNS + MH_AVG_MEMORY_AGE_HOURS, "0.3",
         "avg_memory_age_hours:0.30000000000000004/0.3;"},
        {RR_COLUMNS + MH_AVG_MEMORY_AGE_HOURS, NULL,
         "avg_memory_age_hours:0.30000000000000004/NULL;"},
        {RR_COLUMNS + MH_RETRIEVAL_FREQUENCY_TREND, "declining",
         "retrieval_frequency_trend:stable/declining;"},
        {RR_COLUMNS + MH_FORGETTING_RISK_MEMORIES, "[]", "forgetting_risk_memories:NULL/[];"},
        {RR_COLUMNS + MH_TOPIC_RELEVANCE_DRIFT, "0", "topic_relevance_drift:NULL/0;"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct row r;
        const char *values[N_VALUES];
        make_row(&r, values);
        values[cases[i].column] = cases[i].value;
        PGresult *res = result_of(values, N_VALUES);
        assert_int_equal(row_compare(&r, res, 0, on_difference, NULL), 1);
        assert_string_equal(seen, cases[i].difference);
        PQclear(res);
        row_deinit(&r);
    }
    struct row r;
    const char *values[N_VALUES];
    make_row(&r, values);
    values[RR_DETAILS] = "{}";
    PGresult *res = result_of(values, N_VALUES);
    assert_int_equal(row_compare(&r, res, 0, on_difference, NULL), 1);
    assert_non_null(strstr(seen, "details:"));
    PQclear(res);
    row_deinit(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json_is_equal_by_value),
        cmocka_unit_test(test_json_differences_are_found_at_any_depth),
        cmocka_unit_test(test_a_row_equals_its_printed_form),
        cmocka_unit_test(test_a_change_of_any_column_is_found),
    };
    return cmocka_run_group_tests_name("server/row_compare", tests, NULL, NULL);
}
