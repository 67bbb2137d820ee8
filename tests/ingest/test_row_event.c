/*
 * tests/ingest/test_row_event.c - rows of metrics, attempts to reach out, characters and privacy
 * choices become events, or name the column and the reason (ENGINES.md section 8).
 *
 * Method: one table with a column for everything; each test maps what its type needs and writes the
 * row as text.
 */
#include "ingest/mapping.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ID, USER, BOT, AT, KIND, NAME, VALUE, DOC, TAGS, COLUMNS };
static const char *const names[COLUMNS] = {"id",   "user_id", "bot_name", "at",  "kind",
                                           "name", "value",   "doc",      "tags"};
static struct relation_column columns[COLUMNS];
static struct relation relation = {
    .id = 1, .schema = "public", .name = "t", .n_columns = COLUMNS, .columns = columns};
static struct event_arena *arena;
static struct event events[MAPPING_EVENTS_MAX];
static size_t n_events;
static struct error err;

static int setup(void **state)
{
    (void)state;
    for (int i = 0; i < COLUMNS; i++)
        snprintf(columns[i].name, sizeof(columns[i].name), "%s", names[i]);
    return event_arena_new(&arena, NULL);
}

static int teardown(void **state)
{
    (void)state;
    event_arena_free(arena);
    return 0;
}

static void from(struct mapping *m, enum mapping_field f, int column)
{
    m->fields[f].set = true;
    snprintf(m->fields[f].column, sizeof(m->fields[f].column), "%s", names[column]);
}

static struct mapping mapping_of(enum event_type type)
{
    struct mapping m = {.schema = "public", .table = "t", .type = type};
    from(&m, FIELD_ID, ID);
    from(&m, FIELD_BOT_NAME, BOT);
    from(&m, FIELD_AT, AT);
    if (type != EVENT_CHARACTER)
        from(&m, FIELD_USER_ID, USER);
    return m;
}

/* NULL is SQL's. */
static enum status insert(const struct mapping *m, const char *const row[COLUMNS])
{
    struct mapping_binding b;
    struct value values[COLUMNS];
    struct tuple t = {.n = COLUMNS, .values = values};
    for (int i = 0; i < COLUMNS; i++)
        values[i] = row[i] ? (struct value){VALUE_TEXT, str_from(row[i])}
                           : (struct value){.kind = VALUE_NULL};
    assert_int_equal(mapping_check(m, &err), STATUS_OK);
    assert_int_equal(mapping_bind(m, &relation, &b, &err), STATUS_OK);
    event_arena_reset(arena);
    n_events = 0;
    return mapping_apply(&b, CHANGE_INSERT, NULL, &t, arena, events, &n_events, &err);
}

static void expect_str(struct str got, const char *wanted)
{
    assert_int_equal(got.len, strlen(wanted));
    assert_memory_equal(got.ptr, wanted, got.len);
}

static struct mapping metric_mapping(void)
{
    struct mapping m = mapping_of(EVENT_METRIC);
    from(&m, FIELD_MEASUREMENT, KIND);
    from(&m, FIELD_FIELD, NAME);
    from(&m, FIELD_VALUE, VALUE);
    from(&m, FIELD_FIELDS, DOC);
    from(&m, FIELD_TAGS, TAGS);
    return m;
}

static const char *const point[COLUMNS] = {
    "7",    NULL, "Elena", "2026-01-05 10:00:00+00", "conversation_quality", "engagement_score",
    "0.75", NULL, NULL};

static void test_a_point_is_one_field(void **state)
{
    (void)state;
    struct mapping m = metric_mapping();
    assert_int_equal(insert(&m, point), STATUS_OK);
    assert_int_equal(n_events, 1);
    const struct event_metric *e = &events[0].u.metric;
    assert_int_equal(events[0].type, EVENT_METRIC);
    expect_str(events[0].bot_name, "elena");
    assert_int_equal(events[0].user_id.len, 0);
    expect_str(e->measurement, "conversation_quality");
    assert_int_equal(e->n_fields, 1);
    expect_str(e->fields[0].name, "engagement_score");
    assert_true(e->fields[0].value == 0.75);
}

static void test_a_document_of_fields_and_tags(void **state)
{
    (void)state;
    struct mapping m = metric_mapping();
    const char *row[COLUMNS];
    memcpy(row, point, sizeof(row));
    row[USER] = "anna";
    row[NAME] = row[VALUE] = NULL;
    row[DOC] = "{\"a\": 1, \"b\": null, \"c\": -0.5}";
    row[TAGS] = "{\"channel\": \"web\", \"shard\": 3}";
    assert_int_equal(insert(&m, row), STATUS_OK);
    const struct event_metric *e = &events[0].u.metric;
    expect_str(events[0].user_id, "anna");
    assert_int_equal(e->n_fields, 2);
    expect_str(e->fields[1].name, "c");
    assert_true(e->fields[1].value == -0.5);
    assert_int_equal(e->n_tags, 2);
    expect_str(e->tags[1].value, "3");
}

static void expect_bad(const struct mapping *m, const char *const *row, int column,
                       const char *value, const char *reason)
{
    const char *bad[COLUMNS];
    memcpy(bad, row, sizeof(bad));
    bad[column] = value;
    assert_int_equal(insert(m, bad), STATUS_INVALID);
    if (!strstr(err.text, reason))
        print_error("%s\n", err.text);
    assert_non_null(strstr(err.text, reason));
}

static void test_bad_points_name_the_column(void **state)
{
    (void)state;
    struct mapping m = metric_mapping();
    char many[2048] = "{\"f0\": 0";
    size_t len = strlen(many);
    for (int i = 1; i < 40; i++)
        len += (size_t)snprintf(many + len, sizeof(many) - len, ", \"f%d\": %d", i, i);
    snprintf(many + len, sizeof(many) - len, "}");
    expect_bad(&m, point, VALUE, "NaN", "field \"value\": is not a");
    expect_bad(&m, point, VALUE, "Infinity", "field \"value\"");
    expect_bad(&m, point, VALUE, "1e999", "field \"value\"");
    expect_bad(&m, point, DOC, "{\"x\": \"high\"}", "a member that is not a number");
    expect_bad(&m, point, DOC, "[1]", "is not an object of numbers");
    expect_bad(&m, point, DOC, many, "more fields than are taken");
    expect_bad(&m, point, DOC, "{\"engagement_score\": 1}", "twice");
    expect_bad(&m, point, TAGS, "{\"x\": [1]}", "field \"tags\"");
    expect_bad(&m, point, KIND, NULL, "field \"measurement\": is NULL");
    expect_bad(&m, point, BOT, "!!", "field \"bot_name\"");
}

static void test_attempts_come_from_a_log(void **state)
{
    (void)state;
    struct mapping m = mapping_of(EVENT_OUTREACH);
    from(&m, FIELD_OP, KIND);
    from(&m, FIELD_TOPIC, NAME);
    const char *row[COLUMNS] = {"o1", "anna", "elena", "2026-01-05 10:00:00+00", "replied", "vet"};
    assert_int_equal(insert(&m, row), STATUS_OK);
    assert_int_equal(events[0].u.outreach.op, OUTREACH_REPLIED);
    expect_str(events[0].u.outreach.topic, "vet");
    expect_bad(&m, row, KIND, "answered", "unknown value \"answered\"");
    assert_true(mapping_is_log(&m));
}

static void test_characters_have_weights_by_name(void **state)
{
    (void)state;
    struct mapping m = mapping_of(EVENT_CHARACTER);
    from(&m, FIELD_TRAITS, DOC);
    from(&m, FIELD_VERSION, VALUE);
    const char *row[COLUMNS] = {[ID] = "elena",
                                [BOT] = "elena",
                                [AT] = "2026-01-05 10:00:00+00",
                                [VALUE] = "3",
                                [DOC] = "{\"warm\": 0.5, \"curious\": 0.25}"};
    assert_int_equal(insert(&m, row), STATUS_OK);
    const struct event_character *c = &events[0].u.character;
    assert_int_equal(c->version, 3);
    assert_int_equal(c->n_traits, 2);
    expect_str(c->traits[0].name, "warm");
    assert_true(c->traits[1].weight == 0.25);
    expect_bad(&m, row, VALUE, "2.5", "is not a whole number");
    expect_bad(&m, row, DOC, "{\"warm\": \"much\"}", "whose weight is not a number");
    expect_bad(&m, row, DOC, "3", "is not a list of traits");
}

static void test_privacy_needs_no_bot(void **state)
{
    (void)state;
    struct mapping m = mapping_of(EVENT_PRIVACY);
    from(&m, FIELD_OP, KIND);
    from(&m, FIELD_SCOPE, NAME);
    snprintf(m.fields[FIELD_OP].enum_map[0].from, 64, "t");
    snprintf(m.fields[FIELD_OP].enum_map[0].to, 32, "optin");
    snprintf(m.fields[FIELD_OP].enum_map[1].from, 64, "f");
    snprintf(m.fields[FIELD_OP].enum_map[1].to, 32, "optout");
    m.fields[FIELD_OP].n_enum = 2;
    const char *row[COLUMNS] = {"p1", "anna", NULL, "2026-01-05 10:00:00+00", "f", "proactive"};
    assert_int_equal(insert(&m, row), STATUS_OK);
    assert_int_equal(events[0].u.privacy.op, PRIVACY_OPTOUT);
    expect_str(events[0].u.privacy.scope, "proactive");
    assert_int_equal(events[0].bot_name.len, 0);
    expect_bad(&m, row, USER, NULL, "field \"user_id\"");
}

static void test_rows_that_go_away_undo_nothing(void **state)
{
    (void)state;
    struct mapping m = metric_mapping();
    struct mapping_binding b;
    struct value values[COLUMNS] = {{VALUE_TEXT, STR("7")}};
    struct tuple t = {.n = COLUMNS, .values = values};
    assert_int_equal(mapping_bind(&m, &relation, &b, &err), STATUS_OK);
    assert_int_equal(mapping_apply(&b, CHANGE_DELETE, &t, NULL, arena, events, &n_events, &err),
                     STATUS_OK);
    assert_int_equal(n_events, 0);
}

static void test_a_metric_needs_a_number_from_somewhere(void **state)
{
    (void)state;
    struct mapping m = metric_mapping();
    m.fields[FIELD_FIELDS].set = m.fields[FIELD_VALUE].set = false;
    assert_int_equal(mapping_check(&m, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "field \"value\": is missing"));
    m.fields[FIELD_FIELD].set = false;
    assert_int_equal(mapping_check(&m, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "field \"fields\": is missing"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_point_is_one_field),
        cmocka_unit_test(test_a_document_of_fields_and_tags),
        cmocka_unit_test(test_bad_points_name_the_column),
        cmocka_unit_test(test_attempts_come_from_a_log),
        cmocka_unit_test(test_characters_have_weights_by_name),
        cmocka_unit_test(test_privacy_needs_no_bot),
        cmocka_unit_test(test_rows_that_go_away_undo_nothing),
        cmocka_unit_test(test_a_metric_needs_a_number_from_somewhere),
    };
    return cmocka_run_group_tests_name("ingest/row_event", tests, setup, teardown);
}
