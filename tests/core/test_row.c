/* tests/core/test_row.c - a row says everything: a value or a reason per column, in fixed bytes. */
#include "core/row.h"

#include "tests/core/aborts.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

enum { BETA, ALPHA, WHEN, WORD };

static const struct table_def users = {
    .name = "strategic_test",
    .n_columns = 4,
    .columns = {{"beta", COLUMN_FLOAT},
                {"alpha", COLUMN_JSON},
                {"when_at", COLUMN_TIME},
                {"word", COLUMN_TEXT}},
};

static const struct table_def windows = {
    .name = "strategic_window",
    .by_window = true,
    .n_columns = 1,
    .columns = {{"score", COLUMN_FLOAT}},
};

/* A row with every column filled, not yet finished. */
static void fill(struct row *r)
{
    row_init(r, &users);
    assert_int_equal(row_set_key(r, STR("u\"1"), STR("bot")), STATUS_OK);
    row_set_float(r, BETA, 1.0 / 3);
    assert_int_equal(row_set_json(r, ALPHA, STR("[1]")), STATUS_OK);
    row_set_time(r, WHEN, 1500000);
    assert_int_equal(row_set_text(r, WORD, STR("stable")), STATUS_OK);
    r->as_of_us = 2000000;
    r->valid_until_us = 3000000;
    r->event_count = 7;
    r->engine_version = 2;
    r->confidence = 0.12345;
    r->state_flags = ROW_LEXICAL | ROW_NO_TZ;
    r->row_version = 99;
    r->source_lsn = 98;
}

static void check_json(const struct row *r, const char *expected)
{
    struct buf out;
    buf_init(&out, 1 << 16);
    assert_int_equal(row_to_json(r, &out), STATUS_OK);
    assert_int_equal(buf_append(&out, "", 1), STATUS_OK);
    assert_string_equal(out.data, expected);
    buf_deinit(&out);
}

static void test_a_full_row_prints_all_keys_sorted(void **state)
{
    (void)state;
    struct row r;
    fill(&r);
    assert_int_equal(row_add_detail(&r, "zeta", STR("1")), STATUS_OK);
    assert_int_equal(row_add_detail(&r, "eta", STR("{\"x\":2}")), STATUS_OK);
    assert_int_equal(row_finish(&r), STATUS_OK);
    check_json(&r, "{\"row\":{\"alpha\":[1],\"as_of\":\"1970-01-01T00:00:02Z\","
                   "\"beta\":0.3333333333333333,\"bot_name\":\"bot\",\"confidence\":0.123,"
                   "\"details\":{\"eta\":{\"x\":2},\"zeta\":1},\"engine_version\":2,"
                   "\"event_count\":7,\"state_flags\":20,\"user_id\":\"u\\\"1\","
                   "\"valid_until\":\"1970-01-01T00:00:03Z\","
                   "\"when_at\":\"1970-01-01T00:00:01.500000Z\",\"word\":\"stable\"},"
                   "\"table\":\"strategic_test\"}");
    row_deinit(&r);
}

static void test_missing_values_are_null_with_their_reasons(void **state)
{
    (void)state;
    struct row r;
    row_init(&r, &users);
    assert_int_equal(row_set_key(&r, STR("u"), STR("b")), STATUS_OK);
    assert_int_equal(row_set_null(&r, WORD, "insufficient_data: have %d, need %d", 3, 5),
                     STATUS_OK);
    assert_int_equal(row_set_null(&r, BETA, "never \"here\""), STATUS_OK);
    assert_int_equal(row_set_null(&r, WHEN, "x"), STATUS_OK);
    assert_int_equal(row_set_json(&r, ALPHA, STR("{}")), STATUS_OK);
    assert_int_equal(row_add_detail(&r, "s", STR("1")), STATUS_OK);
    assert_int_equal(row_add_detail(&r, "a", STR("1")), STATUS_OK);
    assert_int_equal(row_finish(&r), STATUS_OK);
    assert_true(str_equal(row_details(&r),
                          STR("{\"a\":1,\"reason\":{\"beta\":\"never \\\"here\\\"\","
                              "\"when_at\":\"x\","
                              "\"word\":\"insufficient_data: have 3, need 5\"},\"s\":1}")));
    assert_null(row_value(&r, WORD).ptr);
    assert_true(str_equal(row_value(&r, ALPHA), STR("{}")));
    struct buf out;
    buf_init(&out, 1 << 16);
    assert_int_equal(row_to_json(&r, &out), STATUS_OK);
    assert_int_equal(buf_append(&out, "", 1), STATUS_OK);
    assert_non_null(strstr(out.data, "\"beta\":null,"));
    assert_non_null(strstr(out.data, "\"valid_until\":null,\"when_at\":null,\"word\":null}"));
    buf_deinit(&out);
    row_deinit(&r);
}

static void test_a_window_row_is_keyed_by_bot_and_hours(void **state)
{
    (void)state;
    struct row r;
    row_init(&r, &windows);
    assert_int_equal(row_set_key(&r, STR_NULL, STR("elena")), STATUS_OK);
    r.window_hours = 168;
    row_set_float(&r, 0, -0.0);
    assert_int_equal(row_finish(&r), STATUS_OK);
    check_json(&r, "{\"row\":{\"as_of\":\"1970-01-01T00:00:00Z\",\"bot_name\":\"elena\","
                   "\"confidence\":0,\"details\":{},\"engine_version\":0,\"event_count\":0,"
                   "\"score\":0,\"state_flags\":0,\"time_window_hours\":168,"
                   "\"valid_until\":null},\"table\":\"strategic_window\"}");
    row_deinit(&r);
}

static uint64_t finished_hash(struct row *r)
{
    assert_int_equal(row_finish(r), STATUS_OK);
    uint64_t h = row_payload_hash(r);
    row_deinit(r);
    return h;
}

/* What a reader cannot see changing must not cause a write. */
static void test_the_hash_ignores_time_and_versions(void **state)
{
    (void)state;
    struct row a;
    struct row b;
    fill(&a);
    fill(&b);
    b.as_of_us++;
    b.valid_until_us++;
    b.row_version++;
    b.source_lsn++;
    b.engine_version++;
    b.confidence = 0.1234; /* the same three decimals */
    assert_true(finished_hash(&a) == finished_hash(&b));
}

static void test_the_hash_sees_every_visible_change(void **state)
{
    (void)state;
    uint64_t seen[9];
    for (int change = 0; change < 9; change++) {
        struct row r;
        row_init(&r, &users);
        assert_int_equal(row_set_key(&r, STR("u"), STR("b")), STATUS_OK);
        if (change == 1)
            assert_int_equal(row_set_null(&r, BETA, "none"), STATUS_OK);
        else
            row_set_float(&r, BETA, change == 2 ? 0.5 : 0.25);
        assert_int_equal(row_set_json(&r, ALPHA, change == 3 ? STR("[2]") : STR("[1]")), STATUS_OK);
        row_set_time(&r, WHEN, change == 4 ? 2 : 1);
        assert_int_equal(row_set_text(&r, WORD, change == 5 ? STR("b") : STR("a")), STATUS_OK);
        r.confidence = change == 6 ? 0.6 : 0.5;
        r.state_flags = change == 7;
        r.event_count = change == 8;
        seen[change] = finished_hash(&r);
        assert_true(seen[change] != 0);
        for (int k = 0; k < change; k++)
            assert_true(seen[k] != seen[change]);
    }
}

static void test_values_beyond_their_bounds_are_refused(void **state)
{
    (void)state;
    static char big[LIMIT_JSON_BYTES + 2];
    memset(big, '1', sizeof(big));
    struct row r;
    row_init(&r, &users);
    assert_int_equal(row_set_json(&r, ALPHA, (struct str){big, LIMIT_JSON_BYTES + 1}),
                     STATUS_LIMIT);
    assert_int_equal(row_set_json(&r, ALPHA, (struct str){big, LIMIT_JSON_BYTES}), STATUS_OK);
    row_set_float(&r, BETA, 1);
    row_set_time(&r, WHEN, 1);
    assert_int_equal(row_set_text(&r, WORD, STR("")), STATUS_OK);
    assert_non_null(row_value(&r, WORD).ptr);
    assert_int_equal(row_add_detail(&r, "a", (struct str){big, LIMIT_DETAILS_BYTES}), STATUS_OK);
    assert_int_equal(row_finish(&r), STATUS_LIMIT);
    row_deinit(&r);
}

static void finish_without_reason(void)
{
    struct row r;
    row_init(&r, &windows);
    (void)!row_finish(&r);
}

static void set_twice(void)
{
    struct row r;
    row_init(&r, &windows);
    row_set_float(&r, 0, 1);
    row_set_float(&r, 0, 2);
}

static void set_the_wrong_type(void)
{
    struct row r;
    row_init(&r, &users);
    row_set_float(&r, WORD, 1);
}

static void test_a_column_without_value_or_reason_is_asserted(void **state)
{
    (void)state;
    assert_true(aborts(finish_without_reason));
    assert_true(aborts(set_twice));
    assert_true(aborts(set_the_wrong_type));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_full_row_prints_all_keys_sorted),
        cmocka_unit_test(test_missing_values_are_null_with_their_reasons),
        cmocka_unit_test(test_a_window_row_is_keyed_by_bot_and_hours),
        cmocka_unit_test(test_the_hash_ignores_time_and_versions),
        cmocka_unit_test(test_the_hash_sees_every_visible_change),
        cmocka_unit_test(test_values_beyond_their_bounds_are_refused),
        cmocka_unit_test(test_a_column_without_value_or_reason_is_asserted),
    };
    return cmocka_run_group_tests_name("core/row", tests, NULL, NULL);
}
