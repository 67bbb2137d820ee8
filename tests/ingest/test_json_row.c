/*
 * tests/ingest/test_json_row.c - a JSON object is a row: every kind of value as the text that a
 * column would have, and the mapping's operators on it as on a table's row.
 *
 * Method: each operator twice, on the JSON object and on the same values as a tuple of a table; the
 * events are equal.
 */
#include "ingest/json_row.h"

#include "core/event.h"

#include <setjmp.h> /* cmocka needs these three */
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct mapping mapping;
static struct event_arena *arena;
static struct buf out; /* the events, one line each, or the error */

static int setup(void **state)
{
    (void)state;
    memset(&mapping, 0, sizeof(mapping));
    snprintf(mapping.schema, sizeof(mapping.schema), "s");
    snprintf(mapping.table, sizeof(mapping.table), "t");
    buf_init(&out, 1 << 24);
    return event_arena_new(&arena, NULL);
}

static int teardown(void **state)
{
    (void)state;
    buf_deinit(&out);
    event_arena_free(arena);
    return 0;
}

static struct mapping_source *column(enum mapping_field f, const char *name)
{
    struct mapping_source *s = &mapping.fields[f];
    if (s->set) { /* one more alternative */
        while (s->next)
            s = &mapping.more[s->next - 1];
        s->next = (uint8_t)(mapping.n_more + 1);
        s = &mapping.more[mapping.n_more++];
    }
    s->set = true;
    snprintf(s->column, sizeof(s->column), "%s", name);
    return s;
}

static void constant(enum mapping_field f, const char *text)
{
    struct mapping_source *s = column(f, "");
    snprintf(s->constant, sizeof(s->constant), "%s", text);
}

static void message(void)
{
    mapping.type = EVENT_MESSAGE;
    column(FIELD_ID, "id");
    column(FIELD_USER_ID, "user_id");
    constant(FIELD_BOT_NAME, "elena");
    constant(FIELD_ROLE, "user");
    column(FIELD_CONTENT, "content");
    column(FIELD_AT, "at");
}

static void print(enum status st, const struct event *events, size_t n, const struct error *err)
{
    buf_reset(&out);
    for (size_t i = 0; i < n && !st; i++) {
        assert_int_equal(event_to_json(&events[i], &out, NULL), STATUS_OK);
        assert_int_equal(buf_append_str(&out, STR("\n")), STATUS_OK);
    }
    if (st)
        assert_int_equal(buf_printf(&out, "%d: %s", st, err->text), STATUS_OK);
    assert_int_equal(buf_append(&out, "", 1), STATUS_OK);
}

static json_t *parse(const char *text)
{
    json_t *json = text ? json_loads(text, 0, NULL) : NULL;
    assert_true(!text || json);
    return json;
}

static void apply(enum row_change change, const char *row, const char *old_row, const char *members,
                  const char *around)
{
    struct event *events = calloc(MAPPING_EVENTS_MAX, sizeof(*events));
    struct error err = {.text = ""};
    struct json_table *t;
    size_t n = 0;
    json_t *parts[4] = {parse(row), parse(old_row), parse(members), parse(around)};
    assert_int_equal(mapping_check(&mapping, &err), STATUS_OK);
    assert_int_equal(json_table_new(&mapping, &t, &err), STATUS_OK);
    assert_ptr_equal(json_table_mapping(t), &mapping);
    event_arena_reset(arena);
    struct json_change c = {change, parts[0], parts[1], parts[2], parts[3]};
    enum status st = json_row_apply(t, &c, arena, events, &n, &err);
    print(st, events, n, &err);
    json_table_free(t);
    for (size_t i = 0; i < 4; i++)
        json_decref(parts[i]);
    free(events);
}

static void insert(const char *row)
{
    apply(CHANGE_INSERT, row, NULL, NULL, NULL);
}

#define MAX 8
/* The same as the tuple of a table whose columns are those of the mapping. */
static void insert_tuple(const char *const names[], const char *const texts[])
{
    static struct relation_column columns[MAX];
    struct event *events = calloc(MAPPING_EVENTS_MAX, sizeof(*events));
    struct relation rel = {.schema = "s", .name = "t", .columns = columns};
    struct value values[MAX];
    struct mapping_binding b;
    struct error err = {.text = ""};
    size_t n = 0;
    for (; names[rel.n_columns]; rel.n_columns++) {
        uint16_t i = rel.n_columns;
        snprintf(columns[i].name, sizeof(columns[i].name), "%s", names[i]);
        values[i].kind = texts[i] ? VALUE_TEXT : VALUE_NULL;
        values[i].text = str_from(texts[i]);
    }
    struct tuple tuple = {rel.n_columns, values};
    assert_int_equal(mapping_bind(&mapping, &rel, &b, &err), STATUS_OK);
    event_arena_reset(arena);
    enum status st = mapping_apply(&b, CHANGE_INSERT, NULL, &tuple, arena, events, &n, &err);
    print(st, events, n, &err);
    free(events);
}

/* Both give the same, and it holds `part`. */
static void assert_as_table(const char *row, const char *const names[], const char *const texts[],
                            const char *part)
{
    insert(row);
    char *from_json = strdup(out.data);
    insert_tuple(names, texts);
    assert_string_equal(from_json, out.data);
    if (!strstr(from_json, part))
        fail_msg("%s gave %s", row, from_json);
    free(from_json);
}

#define NAMES(...) ((const char *const[]){"id", "user_id", "content", "at", __VA_ARGS__, NULL})
#define TEXTS(...) ((const char *const[]){"1", "u", "c", AT, __VA_ARGS__})
#define AT         "2026-01-05T14:00:00Z"
#define ROW        "{\"id\":1,\"user_id\":\"u\",\"content\":\"c\",\"at\":\"" AT "\""

static void test_values_are_the_texts_of_columns(void **state)
{
    (void)state;
    static const struct {
        const char *json, *text;
    } rows[] = {
        {"\"plain\"", "plain"},
        {"\"\\u00e9\\n\"", "\303\251\\n"},
        {"-7", "-7"},
        {"9223372036854775807", "9223372036854775807"},
        {"0.1", "0.1"},
        {"1e300", "1e+300"},
        {"0.30000000000000004", "0.30000000000000004"},
        {"true", "true"},
        {"false", "false"},
        {"[1,\"a\",null]", "[1,\\\"a\\\",null]"},
        {"{\"k\":{\"l\":1.5}}", "{\\\"k\\\":{\\\"l\\\":1.5}}"},
        {"[]", "[]"},
    };
    message();
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char row[256], wanted[256];
        snprintf(row, sizeof(row), "{\"id\":1,\"user_id\":\"u\",\"at\":\"" AT "\",\"content\":%s}",
                 rows[i].json);
        snprintf(wanted, sizeof(wanted), "\"content\":\"%s\",\"id\"", rows[i].text);
        insert(row);
        if (!strstr(out.data, wanted))
            fail_msg("%s gave %s", row, out.data);
    }
}

static void test_null_and_a_missing_member_are_null(void **state)
{
    (void)state;
    message();
    column(FIELD_EMOTION, "mood");
    assert_as_table(ROW ",\"mood\":null}", NAMES("mood"), TEXTS(NULL), "\"content\":\"c\"");
    assert_as_table(ROW "}", NAMES("mood"), TEXTS(NULL), "\"content\":\"c\"");
    assert_null(strstr(out.data, "emotion"));
    insert("{\"id\":1,\"user_id\":null,\"content\":\"c\",\"at\":\"" AT "\"}");
    assert_non_null(strstr(out.data, "field \"user_id\": is NULL where a value is needed"));
}

static void test_alternatives_paths_maps_and_templates(void **state)
{
    (void)state;
    message();
    snprintf(column(FIELD_EMOTION, "meta")->path, 128, "mood.label");
    column(FIELD_EMOTION, "mood");
    assert_as_table(ROW ",\"meta\":{\"mood\":{\"label\":\"joy\"}},\"mood\":\"calm\"}",
                    NAMES("meta", "mood"), TEXTS("{\"mood\":{\"label\":\"joy\"}}", "calm"),
                    "\"emotion\":\"joy\"");
    assert_as_table(ROW ",\"meta\":{\"mood\":null},\"mood\":\"calm\"}", NAMES("meta", "mood"),
                    TEXTS("{\"mood\":null}", "calm"), "\"emotion\":\"calm\"");
    /* A text that is JSON, as of a column of text. */
    assert_as_table(ROW ",\"meta\":\"{\\\"mood\\\":{\\\"label\\\":\\\"joy\\\"}}\"}",
                    NAMES("meta", "mood"), TEXTS("{\"mood\":{\"label\":\"joy\"}}", NULL),
                    "\"emotion\":\"joy\"");
    struct mapping_source *role = &mapping.fields[FIELD_ROLE];
    role->constant[0] = '\0';
    snprintf(role->column, sizeof(role->column), "kind");
    role->n_enum = 2;
    snprintf(role->enum_map[0].from, 64, "7");
    snprintf(role->enum_map[0].to, 32, "bot");
    snprintf(role->enum_map[1].from, 64, "true");
    const char *const *names = NAMES("meta", "mood", "kind");
    assert_as_table(ROW ",\"kind\":7}", names, TEXTS(NULL, NULL, "7"), "\"role\":\"bot\"");
    assert_as_table(ROW ",\"kind\":true}", names, TEXTS(NULL, NULL, "true"), "");
    assert_string_equal(out.data, ""); /* ignored */
    assert_as_table(ROW ",\"kind\":8}", names, TEXTS(NULL, NULL, "8"), "is not in the enum map");
    struct mapping_source *id = &mapping.fields[FIELD_ID];
    id->column[0] = '\0';
    snprintf(id->template, sizeof(id->template), "{id}/{user_id}:{kind}");
    assert_as_table(ROW ",\"kind\":7}", names, TEXTS(NULL, NULL, "7"), "\"id\":\"1/u:7\"");
}

static void test_times_in_every_unit(void **state)
{
    (void)state;
    static const struct {
        enum time_unit unit;
        const char *zone, *json, *text, *at;
    } rows[] = {
        {TIME_TIMESTAMP, "", "\"2026-01-05 15:00:00+01\"", "2026-01-05 15:00:00+01", AT},
        {TIME_TIMESTAMP, "+02:00", "\"2026-01-05T16:00:00\"", "2026-01-05T16:00:00", AT},
        {TIME_NAIVE_UTC, "", "\"2026-01-05T14:00:00\"", "2026-01-05T14:00:00", AT},
        {TIME_EPOCH_S, "", "1767621600", "1767621600", AT},
        {TIME_EPOCH_S, "", "1767621600.25", "1767621600.25", "2026-01-05T14:00:00.250000Z"},
        {TIME_EPOCH_MS, "", "1767621600000", "1767621600000", AT},
        {TIME_EPOCH_NS, "", "1767621600000000000", "1767621600000000000", AT},
        {TIME_TIMESTAMP, "", "1767621600", "1767621600", ""},
    };
    message();
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char row[256];
        mapping.fields[FIELD_AT].time_unit = rows[i].unit;
        snprintf(mapping.fields[FIELD_AT].zone, 8, "%s", rows[i].zone);
        snprintf(row, sizeof(row), "{\"id\":1,\"user_id\":\"u\",\"content\":\"c\",\"at\":%s}",
                 rows[i].json);
        const char *part = i + 1 < sizeof(rows) / sizeof(rows[0]) ? rows[i].at : ": table";
        assert_as_table(row, ((const char *const[]){"id", "user_id", "content", "at", NULL}),
                        ((const char *const[]){"1", "u", "c", rows[i].text}), part);
    }
}

static void test_conditions_and_numbers(void **state)
{
    (void)state;
    message();
    column(FIELD_EMBEDDING, "vector");
    column(FIELD_TRAITS, "traits");
    snprintf(mapping.only_if, sizeof(mapping.only_if), "shown");
    const char *const *names = NAMES("vector", "traits", "shown");
    assert_as_table(ROW ",\"vector\":[0.5,-1],\"traits\":[\"kind\"],\"shown\":{\"by\":1}}", names,
                    TEXTS("[0.5,-1]", "[\"kind\"]", "{\"by\":1}"), "\"embedding\":[0.5,-1");
    static const char *const away[] = {"false", "0", "null"};
    for (size_t i = 0; i < 3; i++) {
        char row[256];
        snprintf(row, sizeof(row), ROW ",\"shown\":%s}", away[i]);
        assert_as_table(row, names, TEXTS(NULL, NULL, strcmp(away[i], "null") ? away[i] : NULL),
                        "");
        assert_string_equal(out.data, "");
    }
}

/* The old row, of which some members were different. */
static void test_a_changed_key_is_a_delete_and_an_insert(void **state)
{
    (void)state;
    message();
    apply(CHANGE_UPDATE, ROW "}", ROW "}", "{\"id\":9,\"content\":\"before\"}", NULL);
    assert_non_null(strstr(out.data, "\"id\":\"9\",\"type\":\"message_deleted\""));
    assert_non_null(
        strstr(out.data, "\"content\":\"c\",\"id\":\"1\",\"role\":\"user\",\"type\":\"message\""));
    apply(CHANGE_UPDATE, ROW "}", ROW "}", "{\"content\":\"before\"}", NULL);
    assert_non_null(strstr(out.data, "\"type\":\"message_updated\""));
    assert_null(strstr(out.data, "message_deleted"));
    apply(CHANGE_UPDATE, ROW "}", NULL, NULL, NULL); /* what it was is not known */
    assert_non_null(strstr(out.data, "\"type\":\"message_updated\""));
    apply(CHANGE_DELETE, NULL, "{\"id\":1,\"user_id\":\"u\"}", NULL, NULL);
    assert_non_null(strstr(out.data, "\"type\":\"message_deleted\""));
}

static void test_columns_around_the_row(void **state)
{
    (void)state;
    message();
    column(FIELD_CHANNEL_ID, "@body.team");
    snprintf(mapping.fields[FIELD_AT].column, MAPPING_NAME_BYTES, "@at");
    static const char around[] =
        "{\"@at\":\"2026-01-05T15:00:00Z\",\"@body\":{\"team\":{\"id\":5},\"at\":1}}";
    apply(CHANGE_INSERT, ROW ",\"@at\":\"2000-01-01T00:00:00Z\",\"team\":1}", NULL, NULL, around);
    assert_non_null(strstr(out.data, "\"at\":\"2026-01-05T15:00:00Z\""));
    assert_non_null(strstr(out.data, "\"channel_id\":\"{\\\"id\\\":5}\""));
    snprintf(mapping.fields[FIELD_CHANNEL_ID].path, 128, "id");
    apply(CHANGE_INSERT, ROW "}", NULL, NULL, around);
    assert_non_null(strstr(out.data, "\"channel_id\":\"5\""));
    apply(CHANGE_INSERT, ROW "}", NULL, NULL, NULL); /* nothing around */
    assert_non_null(strstr(out.data, "field \"at\": is NULL"));
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_values_are_the_texts_of_columns),
        TEST(test_null_and_a_missing_member_are_null),
        TEST(test_alternatives_paths_maps_and_templates),
        TEST(test_times_in_every_unit),
        TEST(test_conditions_and_numbers),
        TEST(test_a_changed_key_is_a_delete_and_an_insert),
        TEST(test_columns_around_the_row),
    };
    return cmocka_run_group_tests_name("ingest/json_row", tests, NULL, NULL);
}
