/*
 * tests/ingest/test_mapping_operators.c - lists of sources, templates, zones, soft deletes,
 * counters and several mappings of one table, each for INSERT, UPDATE, DELETE, NULL and unsent
 * values.
 *
 * Method: one table of conversations, both sides in a row, and the memories' counters beside it;
 * each test writes rows as text and says which columns the replica identity brings.
 */
#include "ingest/mapping.h"
#include "ingest/template.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

enum { ID, GUILD, USER, SAID, ANSWER, AT, META, EMOTION, GONE, COUNT, LAST, COLUMNS };
static const char *const column_names[COLUMNS] = {
    "id", "guild", "user_id", "said", "answer", "at", "meta", "emotion", "gone", "count", "last"};

static struct relation relation;
static struct relation_column columns[COLUMNS];
static struct event_arena *arena;
static struct event events[MAPPING_EVENTS_MAX];
static size_t n_events;
static struct error err;

static void identity(bool full)
{
    for (int i = 0; i < COLUMNS; i++)
        columns[i].identity = full || i == ID || i == GUILD || i == USER;
}

static int setup(void **state)
{
    (void)state;
    for (int i = 0; i < COLUMNS; i++)
        snprintf(columns[i].name, sizeof(columns[i].name), "%s", column_names[i]);
    relation = (struct relation){
        .schema = "public", .name = "pairs", .n_columns = COLUMNS, .columns = columns};
    identity(true);
    return event_arena_new(&arena, NULL);
}

static int teardown(void **state)
{
    (void)state;
    event_arena_free(arena);
    return 0;
}

static int full_identity(void **state)
{
    (void)state;
    identity(true);
    return 0;
}

#define TEXT(to, text) snprintf((to), sizeof(to), "%s", (text))

/* text: a column, "=constant", or a template when it has a brace. */
static struct mapping_source source(const char *text)
{
    struct mapping_source s = {.set = true};
    if (strchr(text, '{'))
        TEXT(s.template, text);
    else if (*text == '=')
        TEXT(s.constant, text + 1);
    else
        TEXT(s.column, text);
    return s;
}

/* Another source for the field, behind those it has. */
static struct mapping_source *also(struct mapping *m, enum mapping_field f, const char *text)
{
    struct mapping_source *last = &m->fields[f];
    while (last->next)
        last = &m->more[last->next - 1];
    m->more[m->n_more] = source(text);
    last->next = (uint8_t)++m->n_more;
    return &m->more[m->n_more - 1];
}

static struct mapping message(const char *id, const char *role, const char *content)
{
    struct mapping m = {.schema = "public", .table = "pairs", .type = EVENT_MESSAGE};
    m.fields[FIELD_ID] = source(id);
    m.fields[FIELD_USER_ID] = source("user_id");
    m.fields[FIELD_BOT_NAME] = source("=elena");
    m.fields[FIELD_ROLE] = source(role);
    m.fields[FIELD_CONTENT] = source(content);
    m.fields[FIELD_AT] = source("at");
    TEXT(m.fields[FIELD_AT].zone, "UTC");
    return m;
}

static struct mapping counter(void)
{
    struct mapping m = {.schema = "public", .table = "pairs", .type = EVENT_MEMORY};
    m.fields[FIELD_ID] = source("id");
    m.fields[FIELD_MEMORY_ID] = source("id");
    m.fields[FIELD_USER_ID] = source("user_id");
    m.fields[FIELD_BOT_NAME] = source("=elena");
    m.fields[FIELD_OP] = source("=access");
    m.fields[FIELD_AT] = source("last");
    TEXT(m.fields[FIELD_AT].zone, "UTC");
    TEXT(m.counter, "count");
    return m;
}

static const char unsent[] = "(unsent)";
struct row_text {
    const char *v[COLUMNS];
};
static const struct row_text good = {{"7", "g", "u1", "hello", "hi", "2026-01-05 14:00:00",
                                      "{\"mood\":{\"label\":\"joy\"}}", "calm", NULL, "2",
                                      "2026-01-06 00:00:00"}};

static struct row_text with(int column, const char *text)
{
    struct row_text row = good;
    row.v[column] = text;
    return row;
}

static struct tuple tuple_of(const struct row_text *row, struct value values[COLUMNS])
{
    for (int i = 0; i < COLUMNS; i++) {
        enum value_kind kind = !row->v[i]            ? VALUE_NULL
                               : row->v[i] == unsent ? VALUE_UNCHANGED
                                                     : VALUE_TEXT;
        values[i] = (struct value){kind, kind == VALUE_TEXT ? str_from(row->v[i]) : STR_NULL};
    }
    return (struct tuple){COLUMNS, values};
}

static enum status apply(const struct mapping *m, enum row_change change,
                         const struct row_text *before, const struct row_text *after)
{
    static struct value values[2][COLUMNS];
    struct tuple old_tuple = {0};
    struct tuple new_tuple = {0};
    struct mapping_binding b;
    if (before)
        old_tuple = tuple_of(before, values[0]);
    if (after)
        new_tuple = tuple_of(after, values[1]);
    memset(&err, 0, sizeof(err));
    enum status st = mapping_check(m, &err);
    if (!st)
        st = mapping_bind(m, &relation, &b, &err);
    if (st)
        fail_msg("%s", err.text);
    event_arena_reset(arena);
    n_events = 99;
    return mapping_apply(&b, change, before ? &old_tuple : NULL, after ? &new_tuple : NULL, arena,
                         events, &n_events, &err);
}

/* "type id" of every event, the types as insert, update, delete, access. */
static void assert_events(enum status st, const char *expected)
{
    char text[4096] = "";
    if (st)
        fail_msg("%s", err.text);
    for (size_t i = 0; i < n_events; i++) {
        const struct event *e = &events[i];
        size_t len = strlen(text);
        const char *name = e->type == EVENT_MESSAGE_DELETED    ? "delete"
                           : e->type == EVENT_MEMORY           ? "access"
                           : e->u.message.op == MESSAGE_INSERT ? "insert"
                                                               : "update";
        snprintf(text + len, sizeof(text) - len, "%s%s " STR_FMT, len ? ", " : "", name,
                 STR_ARGS(e->id));
    }
    assert_string_equal(text, expected);
}

static void assert_refused(enum status st, const char *reason)
{
    if (st != STATUS_INVALID || !strstr(err.text, reason))
        fail_msg("expected \"%s\", got %d \"%s\"", reason, (int)st, err.text);
}

static void test_the_first_source_with_a_value_wins(void **state)
{
    (void)state;
    struct mapping m = message("id", "=user", "said");
    m.fields[FIELD_EMOTION] = source("meta");
    TEXT(m.fields[FIELD_EMOTION].path, "mood.label");
    also(&m, FIELD_EMOTION, "emotion");
    also(&m, FIELD_EMOTION, "=none");
    const struct {
        const char *meta, *emotion, *expected;
    } rows[] = {{"{\"mood\":{\"label\":\"joy\"}}", "calm", "joy"},
                {"{\"mood\":{}}", "calm", "calm"},
                {NULL, "calm", "calm"},
                {NULL, NULL, "none"}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct row_text row = with(META, rows[i].meta);
        row.v[EMOTION] = rows[i].emotion;
        assert_int_equal(apply(&m, CHANGE_INSERT, NULL, &row), STATUS_OK);
        assert_true(str_equal(events[0].u.message.emotion, str_from(rows[i].expected)));
    }
}

/* What may have a value decides; that it was not sent is no reason to take the next one. */
static void test_an_unsent_source_does_not_give_way(void **state)
{
    (void)state;
    struct mapping m = message("id", "=user", "said");
    m.fields[FIELD_EMOTION] = source("meta");
    TEXT(m.fields[FIELD_EMOTION].path, "mood.label");
    also(&m, FIELD_EMOTION, "emotion");
    const struct row_text now = with(META, unsent);
    assert_refused(apply(&m, CHANGE_UPDATE, NULL, &now), "column \"meta\", field \"emotion\"");
    assert_int_equal(apply(&m, CHANGE_UPDATE, &good, &now), STATUS_OK);
    assert_true(str_equal(events[0].u.message.emotion, STR("joy")));
    /* Of a key: id is not in the identity, so the old row's first source is not known. */
    struct mapping k = message("emotion", "=user", "said");
    also(&k, FIELD_ID, "id");
    identity(false);
    const struct row_text key = {{"7", "g", "u1"}};
    assert_refused(apply(&k, CHANGE_DELETE, &key, NULL), "column \"emotion\", field \"id\"");
}

static void test_a_missing_column_is_passed_over_when_there_is_another(void **state)
{
    (void)state;
    struct mapping m = message("id", "=user", "body");
    struct mapping_binding b;
    assert_int_equal(mapping_bind(&m, &relation, &b, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "\"body\""));
    also(&m, FIELD_CONTENT, "text");
    assert_int_equal(mapping_bind(&m, &relation, &b, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "\"body\""));
    also(&m, FIELD_CONTENT, "said");
    m.fields[FIELD_CHANNEL_ID] = source("{guild}/{nowhere}");
    also(&m, FIELD_CHANNEL_ID, "guild");
    assert_events(apply(&m, CHANGE_INSERT, NULL, &good), "insert 7");
    assert_true(str_equal(events[0].u.message.content, STR("hello")));
    assert_true(str_equal(events[0].u.message.channel_id, STR("g")));
    TEXT(m.only_if, "nowhere");
    assert_int_equal(mapping_bind(&m, &relation, &b, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "needs for \"only_if\""));
}

static void test_a_template_needs_all_its_columns(void **state)
{
    (void)state;
    struct mapping m = message("{guild}/{id}:{{u}}", "=user", "said");
    m.fields[FIELD_BOT_NAME] = source("{guild} Bot");
    assert_events(apply(&m, CHANGE_INSERT, NULL, &good), "insert g/7:{u}");
    assert_true(str_equal(events[0].bot_name, STR("g_bot")));
    struct row_text row = with(GUILD, NULL);
    assert_refused(apply(&m, CHANGE_INSERT, NULL, &row),
                   "template \"{guild}/{id}:{{u}}\", field \"id\": is NULL");
    also(&m, FIELD_ID, "id");
    also(&m, FIELD_BOT_NAME, "=elena");
    assert_events(apply(&m, CHANGE_INSERT, NULL, &row), "insert 7");
    row = with(GUILD, "h");
    assert_events(apply(&m, CHANGE_UPDATE, &good, &row), "delete g/7:{u}, insert h/7:{u}");
    static char long_id[LIMIT_ID_BYTES + 1];
    memset(long_id, 'x', LIMIT_ID_BYTES);
    row = with(ID, long_id);
    assert_refused(apply(&m, CHANGE_INSERT, NULL, &row), "longer than an id");
    /* Content may be one, and is unchanged when a part of it is. */
    m = message("id", "=user", "{said} / {answer}");
    row = with(ANSWER, unsent);
    assert_events(apply(&m, CHANGE_UPDATE, NULL, &row), "update 7");
    assert_null(events[0].u.message.content.ptr);
    assert_events(apply(&m, CHANGE_UPDATE, &good, &row), "update 7");
    assert_true(str_equal(events[0].u.message.content, STR("hello / hi")));
}

static void test_times_have_a_zone_and_may_be_moved(void **state)
{
    (void)state;
    const int64_t noon_us = INT64_C(1767614400000000); /* 2026-01-05 12:00:00 UTC */
    const struct {
        const char *zone, *text;
        enum time_unit unit;
        int64_t plus_us, expected_us;
    } rows[] = {
        {"UTC", "2026-01-05 12:00:00", TIME_TIMESTAMP, 0, noon_us},
        {"+02:00", "2026-01-05 14:00:00", TIME_TIMESTAMP, 0, noon_us},
        {"-0330", "2026-01-05 08:30:00", TIME_TIMESTAMP, 0, noon_us},
        {"+5", "2026-01-05 17:00:00", TIME_TIMESTAMP, 1000, noon_us + 1000},
        {"+02:00", "2026-01-05 13:00:00+01", TIME_TIMESTAMP, 0, noon_us},
        {"", "1767614400000000999", TIME_EPOCH_NS, 0, noon_us},
        {"", "1.7676144e+18", TIME_EPOCH_NS, 0, noon_us},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct mapping m = message("id", "=user", "said");
        const struct row_text row = with(AT, rows[i].text);
        TEXT(m.fields[FIELD_AT].zone, rows[i].zone);
        m.fields[FIELD_AT].time_unit = rows[i].unit;
        m.fields[FIELD_AT].plus_us = rows[i].plus_us;
        assert_int_equal(apply(&m, CHANGE_INSERT, NULL, &row), STATUS_OK);
        assert_int_equal(events[0].at_us, rows[i].expected_us);
    }
    struct mapping m = message("id", "=user", "said");
    m.fields[FIELD_AT].plus_us = 1000;
    const struct row_text row = with(AT, "9999-12-31 23:59:59.9999");
    assert_refused(apply(&m, CHANGE_INSERT, NULL, &row), "at");
}

static void test_a_soft_delete_takes_the_row_away_until_it_is_undone(void **state)
{
    (void)state;
    struct mapping m = message("id", "=user", "said");
    TEXT(m.soft_delete, "gone");
    const struct row_text gone = with(GONE, "2026-01-07 00:00:00");
    assert_events(apply(&m, CHANGE_INSERT, NULL, &gone), "");
    assert_events(apply(&m, CHANGE_UPDATE, &good, &gone), "delete 7");
    assert_events(apply(&m, CHANGE_UPDATE, &gone, &gone), "");
    assert_events(apply(&m, CHANGE_UPDATE, &gone, &good), "insert 7");
    assert_events(apply(&m, CHANGE_DELETE, &gone, NULL), "");
    assert_events(apply(&m, CHANGE_DELETE, &good, NULL), "delete 7");
    const char *const none[] = {"f", "false", "0"};
    for (size_t i = 0; i < 3; i++) {
        const struct row_text row = with(GONE, none[i]);
        assert_events(apply(&m, CHANGE_INSERT, NULL, &row), "insert 7");
    }
    /* Back with a text that is not sent: from the old row, or not at all. */
    struct row_text back = with(SAID, unsent);
    assert_events(apply(&m, CHANGE_UPDATE, &gone, &back), "insert 7");
    assert_true(str_equal(events[0].u.message.content, STR("hello")));
    identity(false);
    assert_events(apply(&m, CHANGE_UPDATE, NULL, &gone), "delete 7");
    assert_events(apply(&m, CHANGE_UPDATE, NULL, &good), "update 7");
    assert_refused(apply(&m, CHANGE_UPDATE, NULL, &back), "REPLICA IDENTITY FULL");
    /* The flag itself may be part of the identity: then an unsent old row had the same. */
    columns[GONE].identity = true;
    assert_events(apply(&m, CHANGE_UPDATE, NULL, &back), "update 7");
    columns[GONE].identity = false;
}

static void test_a_half_that_is_not_there_yet_is_no_event(void **state)
{
    (void)state;
    struct mapping m = message("{id}:b", "=bot", "answer");
    TEXT(m.only_if, "answer");
    const struct row_text silent = with(ANSWER, NULL);
    const struct row_text unchanged = with(ANSWER, unsent);
    assert_events(apply(&m, CHANGE_INSERT, NULL, &silent), "");
    assert_events(apply(&m, CHANGE_UPDATE, &silent, &good), "insert 7:b");
    assert_events(apply(&m, CHANGE_UPDATE, &good, &unchanged), "update 7:b");
    assert_events(apply(&m, CHANGE_UPDATE, &good, &silent), "delete 7:b");
    assert_events(apply(&m, CHANGE_DELETE, &silent, NULL), "");
}

/* A key that moves while the row is away leaves nothing to take back. */
static void test_a_row_that_moves_while_away_is_one_insert(void **state)
{
    (void)state;
    struct mapping m = message("id", "=user", "said");
    TEXT(m.soft_delete, "gone");
    const struct row_text gone = with(GONE, "t");
    struct row_text moved = with(USER, "u2");
    assert_events(apply(&m, CHANGE_UPDATE, &gone, &moved), "insert 7");
    moved.v[GONE] = "t";
    assert_events(apply(&m, CHANGE_UPDATE, &good, &moved), "delete 7");
    assert_true(str_equal(events[0].user_id, STR("u1")));
}

static void test_a_list_of_ignored_values_lets_the_others_pass(void **state)
{
    (void)state;
    struct mapping m = message("id", "emotion", "said");
    TEXT(m.fields[FIELD_ROLE].enum_map[0].from, "calm");
    m.fields[FIELD_ROLE].n_enum = 1;
    assert_events(apply(&m, CHANGE_INSERT, NULL, &good), "");
    const struct row_text user = with(EMOTION, "user");
    assert_events(apply(&m, CHANGE_INSERT, NULL, &user), "insert 7");
    assert_events(apply(&m, CHANGE_UPDATE, &good, &user), "insert 7");
    TEXT(m.fields[FIELD_ROLE].enum_map[1].from, "x");
    TEXT(m.fields[FIELD_ROLE].enum_map[1].to, "bot");
    m.fields[FIELD_ROLE].n_enum = 2;
    assert_refused(apply(&m, CHANGE_INSERT, NULL, &user), "\"user\" is not in the enum map");
}

static void test_a_counter_gives_an_event_for_each_step(void **state)
{
    (void)state;
    struct mapping m = counter();
    struct row_text before = good;
    struct row_text after = with(COUNT, "4");
    assert_events(apply(&m, CHANGE_INSERT, NULL, &good), "access 7#1, access 7#2");
    assert_int_equal(events[1].at_us, INT64_C(1767657600000000));
    assert_events(apply(&m, CHANGE_UPDATE, &before, &after), "access 7#3, access 7#4");
    assert_events(apply(&m, CHANGE_UPDATE, &after, &before), ""); /* down */
    assert_events(apply(&m, CHANGE_UPDATE, &before, &before), "");
    assert_events(apply(&m, CHANGE_DELETE, &before, NULL), "");
    after = with(COUNT, NULL);
    after.v[LAST] = NULL; /* never read: there need not be a time */
    assert_events(apply(&m, CHANGE_INSERT, NULL, &after), "");
    assert_events(apply(&m, CHANGE_UPDATE, &after, &before), "access 7#1, access 7#2");
    after.v[COUNT] = "1";
    assert_refused(apply(&m, CHANGE_INSERT, NULL, &after), "column \"last\", field \"at\"");
    const char *const bad[] = {"1.5", "x", "1e300"};
    for (size_t i = 0; i < 3; i++) {
        after = with(COUNT, bad[i]);
        assert_refused(apply(&m, CHANGE_INSERT, NULL, &after), "column \"count\": is not a");
    }
    after = with(COUNT, "-3");
    assert_events(apply(&m, CHANGE_INSERT, NULL, &after), "");
    assert_events(apply(&m, CHANGE_UPDATE, &after, &good), "access 7#1, access 7#2");
}

static void test_a_counter_that_leaps_gives_the_last_64(void **state)
{
    (void)state;
    struct mapping m = counter();
    const struct row_text after = with(COUNT, "1000002");
    assert_int_equal(apply(&m, CHANGE_UPDATE, &good, &after), STATUS_OK);
    assert_int_equal(n_events, MAPPING_COUNTER_EVENTS);
    assert_true(str_equal(events[0].id, STR("7#999939")));
    assert_true(str_equal(events[63].id, STR("7#1000002")));
    assert_int_equal(apply(&m, CHANGE_INSERT, NULL, &after), STATUS_OK);
    assert_int_equal(n_events, MAPPING_COUNTER_EVENTS);
    assert_true(str_equal(events[0].id, STR("7#999939")));
}

static void test_a_counter_needs_what_it_was(void **state)
{
    (void)state;
    struct mapping m = counter();
    identity(false);
    const struct row_text key = {{"7", "g", "u0"}};
    const struct row_text after = with(COUNT, "3");
    assert_refused(apply(&m, CHANGE_UPDATE, NULL, &after),
                   "column \"count\": the value was not sent with the change; run: ALTER TABLE");
    assert_refused(apply(&m, CHANGE_UPDATE, &key, &after), "column \"count\": the value was not");
    assert_events(apply(&m, CHANGE_INSERT, NULL, &after), "access 7#1, access 7#2, access 7#3");
    /* In the identity, and not sent: it did not change. */
    columns[COUNT].identity = true;
    assert_events(apply(&m, CHANGE_UPDATE, NULL, &after), "");
    columns[COUNT].identity = false;
}

/* A memory that comes back brings its accesses, with the ids they had. */
static void test_a_counter_starts_again_with_a_row_that_was_away(void **state)
{
    (void)state;
    struct mapping m = counter();
    TEXT(m.soft_delete, "gone");
    const struct row_text gone = with(GONE, "t");
    const struct row_text more = with(COUNT, "3");
    assert_events(apply(&m, CHANGE_INSERT, NULL, &gone), "");
    assert_events(apply(&m, CHANGE_UPDATE, &good, &gone), "");
    assert_events(apply(&m, CHANGE_UPDATE, &gone, &more), "access 7#1, access 7#2, access 7#3");
}

static void test_templates_are_read_part_by_part(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        enum template_step end;
        const char *parts;
    } rows[] = {
        {"", TEMPLATE_END, ""},
        {"a{b}c", TEMPLATE_END, "'a'[b]'c'"},
        {"{{{a}}}", TEMPLATE_END, "'{'[a]'}'"},
        {"{a}{b}", TEMPLATE_END, "[a][b]"},
        {"x{", TEMPLATE_MALFORMED, "'x'"},
        {"x}", TEMPLATE_MALFORMED, "'x'"},
        {"{}", TEMPLATE_MALFORMED, ""},
        {"{a{b}", TEMPLATE_MALFORMED, ""},
        {"{a}}", TEMPLATE_MALFORMED, "[a]"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char parts[64] = "";
        const char *at = rows[i].text;
        struct template_part part;
        enum template_step step;
        while ((step = template_next(&at, &part)) == TEMPLATE_PART)
            snprintf(parts + strlen(parts), sizeof(parts) - strlen(parts),
                     part.is_column ? "[" STR_FMT "]" : "'" STR_FMT "'", STR_ARGS(part.text));
        assert_int_equal(step, rows[i].end);
        assert_string_equal(parts, rows[i].parts);
    }
}

#define OPERATOR(test) cmocka_unit_test_setup(test, full_identity)

int main(void)
{
    const struct CMUnitTest tests[] = {
        OPERATOR(test_the_first_source_with_a_value_wins),
        OPERATOR(test_an_unsent_source_does_not_give_way),
        OPERATOR(test_a_missing_column_is_passed_over_when_there_is_another),
        OPERATOR(test_a_template_needs_all_its_columns),
        OPERATOR(test_times_have_a_zone_and_may_be_moved),
        OPERATOR(test_a_soft_delete_takes_the_row_away_until_it_is_undone),
        OPERATOR(test_a_half_that_is_not_there_yet_is_no_event),
        OPERATOR(test_a_row_that_moves_while_away_is_one_insert),
        OPERATOR(test_a_list_of_ignored_values_lets_the_others_pass),
        OPERATOR(test_a_counter_gives_an_event_for_each_step),
        OPERATOR(test_a_counter_that_leaps_gives_the_last_64),
        OPERATOR(test_a_counter_needs_what_it_was),
        OPERATOR(test_a_counter_starts_again_with_a_row_that_was_away),
        OPERATOR(test_templates_are_read_part_by_part),
    };
    return cmocka_run_group_tests_name("ingest/mapping_operators", tests, setup, teardown);
}
