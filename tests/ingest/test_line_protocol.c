/*
 * tests/ingest/test_line_protocol.c - lines are read as a real influxd reads them. The cases under
 * tests/data/influx have its verdicts and what it had stored afterwards; beyond them stand the few
 * places where this reader is meant to differ, and what only a caller of it can see.
 */
#include "ingest/line_protocol.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#define NOW_NS     INT64_C(1795387000123456789)
#define POINTS_MAX 8

static struct line_point points[POINTS_MAX]; /* static: they are large */
static size_t n_points, n_bad;
static char problem[768]; /* of the last bad line */

static void read_with(struct str body, const struct line_options *options)
{
    struct line_reader r;
    struct error err;
    enum status st;
    n_points = n_bad = 0;
    line_reader_init(&r, body, options);
    do {
        assert_true(n_points < POINTS_MAX);
        st = line_next(&r, &points[n_points], &err);
        n_points += st == STATUS_OK;
        n_bad += st == STATUS_INVALID;
        if (st == STATUS_INVALID)
            (void)snprintf(problem, sizeof(problem), "%s", err.text);
    } while (st != STATUS_END);
}

static void read_body(struct str body)
{
    read_with(body, &(struct line_options){.unit_ns = 1, .now_ns = NOW_NS});
}

static bool raw_is(struct str raw, enum line_part part, const char *want, size_t want_len)
{
    static char out[4096];
    assert_true(raw.len <= sizeof(out));
    return line_unescape(raw, part, out) == want_len && memcmp(out, want, want_len) == 0;
}

static bool same_series(const struct line_point *p, json_t *stored)
{
    json_t *name = json_object_get(stored, "name"), *tags = json_object_get(stored, "tags"), *value;
    const char *key = NULL;
    if (!raw_is(p->measurement, LINE_NAME, json_string_value(name), json_string_length(name)) ||
        p->n_tags != json_object_size(tags))
        return false;
    json_object_foreach(tags, key, value)
    {
        bool found = false;
        for (size_t i = 0; i < p->n_tags; i++)
            found |= raw_is(p->tags[i].key, LINE_NAME, key, strlen(key)) &&
                     raw_is(p->tags[i].value, LINE_NAME, json_string_value(value),
                            json_string_length(value));
        if (!found)
            return false;
    }
    return true;
}

static bool same_time(const struct line_point *p, json_t *at)
{
    if (json_is_integer(at))
        return p->has_time && p->time_ns == json_integer_value(at);
    return !p->has_time && p->time_ns == NOW_NS;
}

static bool same_value(const struct line_field *f, json_t *value)
{
    switch (f->type) {
    case LINE_FLOAT:
        return json_is_number(value) && json_number_value(value) == f->u.number;
    case LINE_INTEGER:
        return json_is_integer(value) && json_integer_value(value) == f->u.integer;
    case LINE_BOOLEAN:
        return json_is_boolean(value) && json_is_true(value) == f->u.truth;
    case LINE_STRING:
        return json_is_string(value) &&
               raw_is(f->u.text, LINE_TEXT, json_string_value(value), json_string_length(value));
    case LINE_UNSIGNED:
        break;
    }
    return false;
}

/* A row is what the points of one series and time add up to, field by field, the last one first. */
static void check_row(json_t *stored, json_t *row, size_t *seen)
{
    json_t *columns = json_object_get(stored, "columns");
    bool matched = false;
    for (size_t i = 0; i < n_points; i++)
        matched |= same_series(&points[i], stored) && same_time(&points[i], json_array_get(row, 0));
    assert_true(matched);
    for (size_t c = 1; c < json_array_size(columns); c++) {
        json_t *key = json_array_get(columns, c), *want = json_array_get(row, c);
        const struct line_field *found = NULL;
        for (size_t i = 0; i < n_points; i++) {
            struct line_point *p = &points[i];
            if (!same_series(p, stored) || !same_time(p, json_array_get(row, 0)))
                continue;
            for (size_t k = 0; k < p->n_fields; k++)
                if (raw_is(p->fields[k].key, LINE_NAME, json_string_value(key),
                           json_string_length(key)))
                    found = &p->fields[k];
        }
        assert_true(json_is_null(want) ? !found : found && same_value(found, want));
        *seen += found != NULL;
    }
}

static void check_case(json_t *c)
{
    json_t *line = json_object_get(c, "line"), *stored = json_object_get(c, "stored"), *s, *row;
    struct str body = {json_string_value(line), json_string_length(line)};
    bool accepted = json_integer_value(json_object_get(c, "status")) == 204;
    size_t i = 0, j = 0, seen = 0, ours = 0;
    read_body(body);
    if (memchr(body.ptr, '\r', body.len)) {
        assert_int_equal(n_bad, 0); /* the one difference: later versions take it, too */
        assert_int_equal(n_points, 1);
        return;
    }
    if ((n_bad == 0) != accepted)
        fail_msg("influxd %s \"%.*s\" (%zu bad lines here: %s)", accepted ? "accepts" : "refuses",
                 (int)body.len, body.ptr, n_bad, problem);
    json_array_foreach(stored, i, s)
    {
        json_array_foreach(json_object_get(s, "values"), j, row) check_row(s, row, &seen);
    }
    /* Nothing besides: a field that was overwritten by a later line counts once. */
    for (i = 0; i < n_points; i++)
        ours += points[i].n_fields;
    assert_true(stored && !json_is_null(stored) ? ours >= seen && n_points > 0 : ours == 0);
}

static void check_file(const char *path, size_t at_least)
{
    json_error_t err;
    size_t i = 0;
    json_t *c, *doc = json_load_file(path, JSON_ALLOW_NUL, &err);
    if (!doc)
        fail_msg("%s: %s", path, err.text);
    json_t *cases = json_object_get(doc, "cases");
    assert_true(json_array_size(cases) >= at_least);
    json_array_foreach(cases, i, c) check_case(c);
    json_decref(doc);
}

static void test_every_line_has_the_verdict_and_the_values_of_a_real_influxd(void **state)
{
    (void)state;
    check_file(SOURCE_ROOT "/tests/data/influx/line_protocol_cases.json", 57);
    check_file(SOURCE_ROOT "/tests/data/influx/line_protocol_more.json", 180);
}

static void test_a_bad_line_is_named_with_its_place_and_spoils_no_other(void **state)
{
    (void)state;
    struct line_reader r;
    static struct line_point p;
    struct error err;
    struct str body = STR("m v=1 5\n\n# note\r\nm,a v=1\r\nm s=\"x\ny\",v=2 6\nm v=3x 7\nm v=4 8");
    line_reader_init(&r, body, &(struct line_options){.unit_ns = 1});
    assert_int_equal(line_next(&r, &p, &err), STATUS_OK);
    assert_int_equal(p.number, 1);
    assert_int_equal(line_next(&r, &p, &err), STATUS_INVALID);
    assert_string_equal(err.text, "line 4, byte 4: a tag has no value");
    assert_int_equal(p.number, 4);
    assert_memory_equal(body.ptr + p.offset, "m,a v=1\r\n", 9);
    assert_true(str_equal(p.line, STR("m,a v=1")));
    assert_int_equal(line_next(&r, &p, &err), STATUS_OK);
    assert_int_equal(p.number, 5);
    assert_int_equal(p.n_fields, 2);
    assert_int_equal(line_next(&r, &p, &err), STATUS_INVALID);
    assert_string_equal(err.text, "line 7, byte 5: not a number, or one that is too large");
    assert_int_equal(line_next(&r, &p, &err), STATUS_OK);
    assert_int_equal(p.number, 8);
    assert_int_equal(p.time_ns, 8);
    assert_int_equal(line_next(&r, &p, &err), STATUS_END);
    assert_int_equal(line_next(&r, &p, &err), STATUS_END);
}

static void test_times_have_the_precision_of_the_request_and_never_overflow(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int64_t ns;
    } units[] = {{"", 1},           {"n", 1},           {"ns", 1},
                 {"u", 1000},       {"us", 1000},       {"ms", 1000000},
                 {"s", 1000000000}, {"m", 60000000000}, {"h", 3600000000000}};
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        struct line_options o = {.now_ns = NOW_NS};
        char body[64];
        assert_true(line_precision(str_from(units[i].name), &o.unit_ns));
        assert_int_equal(o.unit_ns, units[i].ns);
        int64_t largest = (INT64_MAX - 1) / o.unit_ns;
        (void)snprintf(body, sizeof(body), "m v=1 %" PRId64 "\nm v=1 -7", largest);
        read_with(str_from(body), &o);
        assert_int_equal(n_points, 2);
        assert_int_equal(points[0].time_ns, largest * o.unit_ns);
        assert_int_equal(points[1].time_ns, -7 * o.unit_ns);
        (void)snprintf(body, sizeof(body), "m v=1 %" PRId64, largest + 1);
        read_with(str_from(body), &o);
        assert_int_equal(n_bad, 1);
    }
    int64_t ns = 0;
    assert_false(line_precision(STR("d"), &ns));
    assert_false(line_precision(STR("S"), &ns));
    assert_false(line_precision(STR("nss"), &ns));
}

static void test_unsigned_integers_are_for_those_who_ask(void **state)
{
    (void)state;
    struct str body = STR("m v=18446744073709551615u\nm v=-1u\nm v=18446744073709551616u");
    read_body(body);
    assert_int_equal(n_bad, 3);
    read_with(body, &(struct line_options){.unit_ns = 1, .unsigned_integers = true});
    assert_int_equal(n_bad, 2);
    assert_int_equal(points[0].fields[0].type, LINE_UNSIGNED);
    assert_true(points[0].fields[0].u.natural == UINT64_MAX);
}

static void test_a_comment_ends_with_its_line_whatever_quotes_it_has(void **state)
{
    (void)state;
    read_body(STR("# a=\"b\nm v=1 7"));
    assert_int_equal(n_points, 1);
}

static void test_a_very_wide_point_is_counted_not_lost(void **state)
{
    (void)state;
    struct buf b;
    buf_init(&b, 1 << 20);
    assert_int_equal(buf_printf(&b, "m"), STATUS_OK);
    for (int i = 0; i < LINE_TAGS + 3; i++)
        assert_int_equal(buf_printf(&b, ",t%d=x", i), STATUS_OK);
    for (int i = 0; i < LINE_FIELDS + 5; i++)
        assert_int_equal(buf_printf(&b, "%cf%d=%d", i ? ',' : ' ', i, i), STATUS_OK);
    read_body((struct str){b.data, b.len});
    assert_int_equal(n_points, 1);
    assert_int_equal(points[0].n_tags, LINE_TAGS);
    assert_int_equal(points[0].tags_more, 3);
    assert_int_equal(points[0].n_fields, LINE_FIELDS);
    assert_int_equal(points[0].fields_more, 5);
    buf_deinit(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_line_has_the_verdict_and_the_values_of_a_real_influxd),
        cmocka_unit_test(test_a_bad_line_is_named_with_its_place_and_spoils_no_other),
        cmocka_unit_test(test_times_have_the_precision_of_the_request_and_never_overflow),
        cmocka_unit_test(test_unsigned_integers_are_for_those_who_ask),
        cmocka_unit_test(test_a_comment_ends_with_its_line_whatever_quotes_it_has),
        cmocka_unit_test(test_a_very_wide_point_is_counted_not_lost),
    };
    return cmocka_run_group_tests_name("ingest/line_protocol", tests, NULL, NULL);
}
