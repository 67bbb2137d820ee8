/*
 * tests/ingest/test_influx_rows.c - answers of a real influxd to /query give the points that were
 * written, and what is no such answer is refused with what the server said.
 */
#include "ingest/influx_rows.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <string.h>

static struct line_point points[4];
static size_t n_points;
static struct error err;

static enum status take(void *ctx, const struct line_point *p, struct error *e)
{
    (void)ctx;
    assert_true(n_points < 4);
    points[n_points++] = *p; /* its strings are gone after the call: numbers and lengths stay */
    if (p->time_ns == 13)
        return error_set(e, STATUS_LIMIT, "no further");
    return STATUS_OK;
}

static enum status read_rows(const char *json)
{
    n_points = 0;
    return influx_rows_read(str_from(json), take, NULL, &err);
}

static enum status check_first(void *ctx, const struct line_point *p, struct error *e)
{
    (void)e;
    if (++*(int *)ctx != 1)
        return STATUS_OK;
    assert_true(p->plain && p->has_time);
    assert_true(str_equal(p->measurement, STR("conversation_quality")));
    assert_int_equal(p->time_ns, INT64_C(1700000000000000001));
    assert_int_equal(p->n_tags, 1); /* the empty one is none */
    assert_true(str_equal(p->tags[0].key, STR("bot")));
    assert_true(str_equal(p->tags[0].value, STR("Elena B")));
    assert_int_equal(p->n_fields, 4);
    assert_true(str_equal(p->fields[0].key, STR("big")));
    assert_int_equal(p->fields[0].type, LINE_INTEGER);
    assert_true(p->fields[0].u.integer == INT64_MAX);
    assert_int_equal(p->fields[1].type, LINE_FLOAT);
    assert_true(p->fields[1].u.number == 0.1);
    assert_int_equal(p->fields[2].type, LINE_BOOLEAN);
    assert_int_equal(p->fields[3].type, LINE_STRING);
    assert_true(str_equal(p->fields[3].u.text, STR("a\"b\nc")));
    return STATUS_OK;
}

static void test_rows_of_a_chunk_are_points(void **state)
{
    (void)state;
    static const char chunk[] =
        "{\"results\":[{\"statement_id\":0,\"series\":[{\"name\":\"conversation_quality\","
        "\"tags\":{\"bot\":\"Elena B\",\"user_id\":\"\"},"
        "\"columns\":[\"time\",\"big\",\"e\",\"ok\",\"text\"],\"values\":["
        "[1700000000000000001,9223372036854775807,0.1,true,\"a\\\"b\\nc\"],"
        "[1700000000000000002,null,1,null,null],[1700000000000000003,null,null,null,null]],"
        "\"partial\":true}],\"partial\":true}]}\n";
    int n = 0;
    if (influx_rows_read(str_from(chunk), check_first, &n, &err))
        fail_msg("%s", err.text);
    assert_int_equal(n, 2); /* a row without a value is none */
    assert_int_equal(read_rows(chunk), STATUS_OK);
    assert_int_equal(points[1].n_fields, 1);
    assert_int_equal(points[1].fields[0].type, LINE_INTEGER); /* how influxd writes 1.0 */
}

static void test_what_the_server_says_is_told(void **state)
{
    (void)state;
    assert_int_equal(read_rows("{\"results\":[{\"statement_id\":0}]}"), STATUS_OK);
    assert_int_equal(n_points, 0);
    assert_int_equal(read_rows("{\"results\":[{\"statement_id\":0,\"error\":\"database name "
                               "required\"}]}"),
                     STATUS_INVALID);
    assert_string_equal(err.text, "InfluxDB answers: database name required");
    assert_int_equal(read_rows("{\"error\":\"unable to parse\"}"), STATUS_INVALID);
    static const char *const odd[] = {
        "",
        "[]",
        "{\"results\":{}}",
        "{\"results\":[{\"series\":[{\"name\":\"m\",\"columns\":[\"v\"],\"values\":[[1]]}]}]}",
        "{\"results\":[{\"series\":[{\"columns\":[\"time\"],\"values\":[[1]]}]}]}",
        "{\"results\":[{\"series\":[{\"name\":\"m\",\"columns\":[\"time\",\"v\"],"
        "\"values\":[[1]]}]}]}",
        "{\"results\":[{\"series\":[{\"name\":\"m\",\"columns\":[\"time\",\"v\"],"
        "\"values\":[[\"2026-01-01T00:00:00Z\",1]]}]}]}",
        "{\"results\":[{\"series\":[{\"name\":\"m\",\"columns\":[\"time\",\"v\"],"
        "\"values\":[[1,[]]]}]}]}",
        "{\"results\":[",
    };
    for (size_t i = 0; i < sizeof(odd) / sizeof(odd[0]); i++)
        assert_int_equal(read_rows(odd[i]), STATUS_PROTOCOL);
}

static void test_a_reader_may_stop(void **state)
{
    (void)state;
    assert_int_equal(read_rows("{\"results\":[{\"series\":[{\"name\":\"m\",\"columns\":[\"time\","
                               "\"v\"],\"values\":[[12,1],[13,1],[14,1]]}]}]}"),
                     STATUS_LIMIT);
    assert_int_equal(n_points, 2);
}

static enum status take_name(void *ctx, struct str name, struct error *e)
{
    (void)e;
    return buf_printf(ctx, STR_FMT ";", STR_ARGS(name));
}

static void test_names_and_queries(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 4096);
    assert_int_equal(
        influx_names_read(STR("{\"results\":[{\"statement_id\":0,\"series\":[{\"name\":"
                              "\"measurements\",\"columns\":[\"name\"],\"values\":[[\"a\"],"
                              "[\"b,c\"]]}]}]}"),
                          take_name, &b, NULL),
        STATUS_OK);
    assert_true(str_equal((struct str){b.data, b.len}, STR("a;b,c;")));
    buf_reset(&b);
    assert_int_equal(influx_select(STR("a\"b\\"), -5, 7, &b), STATUS_OK);
    assert_true(str_equal((struct str){b.data, b.len},
                          STR("SELECT * FROM \"a\\\"b\\\\\" WHERE time >= -5 AND time < 7 "
                              "GROUP BY *")));
    buf_reset(&b);
    assert_int_equal(influx_select(STR("m"), 0, INT64_MAX, &b), STATUS_OK);
    assert_true(str_equal((struct str){b.data, b.len},
                          STR("SELECT * FROM \"m\" WHERE time >= 0 GROUP BY *")));
    buf_deinit(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_of_a_chunk_are_points),
        cmocka_unit_test(test_what_the_server_says_is_told),
        cmocka_unit_test(test_a_reader_may_stop),
        cmocka_unit_test(test_names_and_queries),
    };
    return cmocka_run_group_tests_name("ingest/influx_rows", tests, NULL, NULL);
}
