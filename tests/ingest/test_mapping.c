/*
 * tests/ingest/test_mapping.c - rows become events as ingest/mapping.h says, or name the column and
 * the reason.
 *
 * Method: one message table and two memory tables, rows written as text; a row of the table of bad
 * values changes exactly one column of a good row.
 */
#include "ingest/mapping.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ID, USER, BOT, ROLE, CONTENT, AT, EMBEDDING, META, CONFIDENCE, COLUMNS };
static const char *const column_names[COLUMNS] = {"id",        "user_id", "bot_name",
                                                  "role",      "content", "created_at",
                                                  "embedding", "meta",    "confidence"};

static struct mapping messages;
static struct mapping memories; /* a table of memories: op is the constant create */
static struct mapping accesses; /* a log: op is a column */
static struct mapping_binding message_binding;
static struct mapping_binding memory_binding;
static struct mapping_binding access_binding;
static struct relation relation;
static struct relation_column columns[COLUMNS];
static struct event_arena *arena;
static struct event events[MAPPING_EVENTS_MAX];
static size_t n_events;
static struct error err;

static void set_column(struct mapping *m, enum mapping_field f, const char *column)
{
    m->fields[f].set = true;
    snprintf(m->fields[f].column, sizeof(m->fields[f].column), "%s", column);
}

static void set_constant(struct mapping *m, enum mapping_field f, const char *constant)
{
    m->fields[f].set = true;
    snprintf(m->fields[f].constant, sizeof(m->fields[f].constant), "%s", constant);
}

static void set_path(struct mapping *m, enum mapping_field f, const char *path)
{
    set_column(m, f, "meta");
    snprintf(m->fields[f].path, sizeof(m->fields[f].path), "%s", path);
}

static void add_enum(struct mapping *m, enum mapping_field f, const char *from, const char *to)
{
    struct mapping_source *s = &m->fields[f];
    snprintf(s->enum_map[s->n_enum].from, sizeof(s->enum_map[0].from), "%s", from);
    snprintf(s->enum_map[s->n_enum].to, sizeof(s->enum_map[0].to), "%s", to);
    s->n_enum++;
}

static struct mapping message_mapping(void)
{
    struct mapping m = {.schema = "public", .table = "chat", .type = EVENT_MESSAGE};
    set_column(&m, FIELD_ID, "id");
    set_column(&m, FIELD_USER_ID, "user_id");
    set_column(&m, FIELD_BOT_NAME, "bot_name");
    set_column(&m, FIELD_AT, "created_at");
    set_column(&m, FIELD_ROLE, "role");
    add_enum(&m, FIELD_ROLE, "human", "user");
    add_enum(&m, FIELD_ROLE, "assistant", "bot");
    add_enum(&m, FIELD_ROLE, "system", "");
    set_column(&m, FIELD_CONTENT, "content");
    set_column(&m, FIELD_EMBEDDING, "embedding");
    set_column(&m, FIELD_EMOTION_CONFIDENCE, "confidence");
    set_path(&m, FIELD_EMOTION, "emotion.label");
    set_path(&m, FIELD_TRAITS, "traits");
    return m;
}

static struct mapping memory_mapping(void)
{
    struct mapping m = {.schema = "public", .table = "memory", .type = EVENT_MEMORY};
    set_column(&m, FIELD_ID, "id");
    set_column(&m, FIELD_MEMORY_ID, "id");
    set_column(&m, FIELD_USER_ID, "user_id");
    set_constant(&m, FIELD_BOT_NAME, "Elena");
    set_column(&m, FIELD_AT, "created_at");
    set_constant(&m, FIELD_OP, "create");
    set_column(&m, FIELD_IMPORTANCE, "confidence");
    set_column(&m, FIELD_CONTENT, "content");
    return m;
}

static int setup(void **state)
{
    (void)state;
    for (int i = 0; i < COLUMNS; i++)
        snprintf(columns[i].name, sizeof(columns[i].name), "%s", column_names[i]);
    relation = (struct relation){.id = 1, .n_columns = COLUMNS, .columns = columns};
    snprintf(relation.schema, sizeof(relation.schema), "public");
    snprintf(relation.name, sizeof(relation.name), "chat");
    messages = message_mapping();
    memories = memory_mapping();
    accesses = memory_mapping();
    accesses.fields[FIELD_OP] = (struct mapping_source){.set = false};
    set_column(&accesses, FIELD_OP, "role");
    set_path(&accesses, FIELD_GRADE, "grade");
    set_path(&accesses, FIELD_OUTCOME, "outcome");
    return mapping_bind(&messages, &relation, &message_binding, NULL) ||
           mapping_bind(&memories, &relation, &memory_binding, NULL) ||
           mapping_bind(&accesses, &relation, &access_binding, NULL) ||
           event_arena_new(&arena, NULL);
}

static int teardown(void **state)
{
    (void)state;
    event_arena_free(arena);
    return 0;
}

/* A row as text; the address of `unsent` stands for an unchanged TOASTed value. */
static const char unsent[] = "(unsent)";
struct row_text {
    const char *v[COLUMNS];
};

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

static enum status apply(const struct mapping_binding *b, enum row_change change,
                         const struct row_text *before, const struct row_text *after)
{
    static struct value old_values[COLUMNS];
    static struct value new_values[COLUMNS];
    struct tuple old_tuple = {0};
    struct tuple new_tuple = {0};
    if (before)
        old_tuple = tuple_of(before, old_values);
    if (after)
        new_tuple = tuple_of(after, new_values);
    event_arena_reset(arena);
    n_events = 99;
    memset(&err, 0, sizeof(err));
    return mapping_apply(b, change, before ? &old_tuple : NULL, after ? &new_tuple : NULL, arena,
                         events, &n_events, &err);
}

static const struct row_text good = {
    {"m1", "u1", "Elena Bot", "human", "hello", "2026-01-05 14:00:00+00", "{0.5,1}",
     "{\"emotion\":{\"label\":\"joy\"},\"traits\":[\"warm\"]}", "0.75"}};

static struct row_text with(int column, const char *text)
{
    struct row_text row = good;
    row.v[column] = text;
    return row;
}

static void test_an_insert_is_a_message_with_every_field(void **state)
{
    (void)state;
    assert_int_equal(apply(&message_binding, CHANGE_INSERT, NULL, &good), STATUS_OK);
    assert_int_equal(n_events, 1);
    const struct event *e = &events[0];
    assert_int_equal(e->type, EVENT_MESSAGE);
    assert_int_equal(e->u.message.op, MESSAGE_INSERT);
    assert_int_equal(e->u.message.role, ROLE_USER);
    assert_true(str_equal(e->id, STR("m1")));
    assert_true(str_equal(e->user_id, STR("u1")));
    assert_true(str_equal(e->bot_name, STR("elena_bot")));
    assert_int_equal(e->at_us, INT64_C(1767621600000000));
    assert_true(str_equal(e->u.message.content, STR("hello")));
    assert_true(str_equal(e->u.message.emotion, STR("joy")));
    assert_true(e->u.message.emotion_confidence == 0.75);
    assert_int_equal(e->u.message.embedding_dims, 2);
    assert_int_equal(e->u.message.n_traits, 1);
    assert_true(str_equal(e->u.message.traits[0].name, STR("warm")));
    assert_null(e->u.message.channel_id.ptr);
}

static void test_absent_optional_values_are_absent(void **state)
{
    (void)state;
    const struct row_text row = {
        {"m1", "u1", "elena", "assistant", "", "2026-01-05 14:00:00+00", NULL, NULL, NULL}};
    assert_int_equal(apply(&message_binding, CHANGE_INSERT, NULL, &row), STATUS_OK);
    const struct event_message *m = &events[0].u.message;
    assert_int_equal(m->role, ROLE_BOT);
    assert_non_null(m->content.ptr); /* empty, not missing */
    assert_null(m->embedding);
    assert_null(m->emotion.ptr);
    assert_true(isnan(m->emotion_confidence));
    assert_int_equal(m->n_traits, 0);
}

static void test_bad_values_name_their_column_and_reason(void **state)
{
    (void)state;
    static char long_id[LIMIT_ID_BYTES + 2];
    memset(long_id, 'x', LIMIT_ID_BYTES + 1);
    const struct {
        int column;
        const char *text;
        const char *reason;
    } rows[] = {
        {ID, NULL, "NULL where"},
        {ID, "", "empty where"},
        {ID, long_id, "longer than an id"},
        {ID, "a\xFF", "UTF-8"},
        {USER, NULL, "NULL where"},
        {USER, "\xC0\x80", "UTF-8"},
        {BOT, NULL, "NULL where"},
        {BOT, "!!!", "no letters or digits"},
        {ROLE, NULL, "NULL where"},
        {ROLE, "alien", "\"alien\" is not in the enum map"},
        {ROLE, "\xFF", "(not text)"},
        {CONTENT, NULL, "NULL where"},
        {CONTENT, "a\xFF", "UTF-8"},
        {AT, NULL, "NULL where"},
        {AT, "infinity", "infinite"},
        {AT, "2026-01-05 14:00:00", "no time zone"},
        {EMBEDDING, "{1,NULL}", "not a finite number"},
        {META, "{", "not valid JSON"},
        {META, "{\"emotion\":{\"label\":[1]}}", "not a single value"},
        {META, "{\"traits\":3}", "list of traits"},
        {CONFIDENCE, "1.5", "between 0 and 1"},
        {CONFIDENCE, "NaN", "finite"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct row_text row = with(rows[i].column, rows[i].text);
        char column[80];
        snprintf(column, sizeof(column), "column \"%s\"", column_names[rows[i].column]);
        if (apply(&message_binding, CHANGE_INSERT, NULL, &row) != STATUS_INVALID ||
            !strstr(err.text, rows[i].reason) || !strstr(err.text, column) ||
            !strstr(err.text, "\"public.chat\""))
            fail_msg("row %zu: %s", i, err.text);
    }
}

static void test_a_reason_shows_at_most_40_bytes_of_a_word_and_nothing_of_other_values(void **state)
{
    (void)state;
    struct row_text row = with(ROLE, "secret-secret-secret-secret-secret-secret-secret");
    assert_int_equal(apply(&message_binding, CHANGE_INSERT, NULL, &row), STATUS_INVALID);
    assert_non_null(strstr(err.text, "\"secret-secret-secret-secret-secret-secre\""));
    const int private_columns[] = {AT, EMBEDDING, META, CONFIDENCE};
    for (size_t i = 0; i < 4; i++) {
        row = with(private_columns[i], "very-private");
        assert_int_equal(apply(&message_binding, CHANGE_INSERT, NULL, &row), STATUS_INVALID);
        assert_null(strstr(err.text, "very-private"));
    }
}

static void test_long_content_is_cut_just_beyond_the_limit(void **state)
{
    (void)state;
    char *text = malloc(3 * LIMIT_CONTENT_BYTES + 1);
    assert_non_null(text);
    for (size_t i = 0; i < 3 * LIMIT_CONTENT_BYTES; i += 3)
        memcpy(text + i, "\xE2\x82\xAC", 3);
    text[3 * LIMIT_CONTENT_BYTES] = '\0';
    struct row_text row = with(CONTENT, text);
    assert_int_equal(apply(&message_binding, CHANGE_INSERT, NULL, &row), STATUS_OK);
    struct str content = events[0].u.message.content;
    assert_ptr_equal(content.ptr, text); /* not copied */
    assert_true(content.len > LIMIT_CONTENT_BYTES && content.len <= LIMIT_CONTENT_BYTES + 8);
    assert_int_equal(content.len % 3, 0);
    free(text);
}

static void test_ignored_rows_give_no_event_whatever_else_they_hold(void **state)
{
    (void)state;
    const struct row_text row = {{NULL, NULL, NULL, "system", NULL, "infinity", "x", "{", "9"}};
    assert_int_equal(apply(&message_binding, CHANGE_INSERT, NULL, &row), STATUS_OK);
    assert_int_equal(n_events, 0);
}

static void test_an_update_is_the_whole_new_state(void **state)
{
    (void)state;
    struct row_text row = with(CONTENT, "edited");
    assert_int_equal(apply(&message_binding, CHANGE_UPDATE, NULL, &row), STATUS_OK);
    assert_int_equal(n_events, 1);
    assert_int_equal(events[0].u.message.op, MESSAGE_UPDATE);
    assert_true(str_equal(events[0].u.message.content, STR("edited")));
    /* The same key in the old row is no move. */
    assert_int_equal(apply(&message_binding, CHANGE_UPDATE, &good, &row), STATUS_OK);
    assert_int_equal(n_events, 1);
}

static void test_unchanged_content_comes_from_the_old_row_or_not_at_all(void **state)
{
    (void)state;
    struct row_text row = with(CONTENT, unsent);
    const struct row_text key = {{"m1", "u1", "Elena Bot"}};
    assert_int_equal(apply(&message_binding, CHANGE_UPDATE, NULL, &row), STATUS_OK);
    assert_null(events[0].u.message.content.ptr);
    assert_int_equal(apply(&message_binding, CHANGE_UPDATE, &key, &row), STATUS_OK);
    assert_null(events[0].u.message.content.ptr);
    assert_int_equal(apply(&message_binding, CHANGE_UPDATE, &good, &row), STATUS_OK);
    assert_true(str_equal(events[0].u.message.content, STR("hello")));
}

static void test_other_unchanged_values_need_the_old_row(void **state)
{
    (void)state;
    const int needed[] = {ID, USER, ROLE, AT, EMBEDDING, META};
    for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++) {
        struct row_text row = with(needed[i], unsent);
        assert_int_equal(apply(&message_binding, CHANGE_UPDATE, NULL, &row), STATUS_INVALID);
        assert_non_null(strstr(err.text, "ALTER TABLE \"public\".\"chat\" REPLICA IDENTITY FULL"));
        assert_int_equal(apply(&message_binding, CHANGE_UPDATE, &good, &row), STATUS_OK);
        assert_int_equal(n_events, 1);
    }
    assert_int_equal(events[0].u.message.n_traits, 1); /* META, from the old row */
}

static void test_a_changed_key_is_a_delete_and_an_insert(void **state)
{
    (void)state;
    const int key[] = {ID, USER, BOT};
    for (size_t i = 0; i < 3; i++) {
        struct row_text row = with(key[i], "other");
        assert_int_equal(apply(&message_binding, CHANGE_UPDATE, &good, &row), STATUS_OK);
        assert_int_equal(n_events, 2);
        assert_int_equal(events[0].type, EVENT_MESSAGE_DELETED);
        assert_int_equal(events[0].at_us, 0);
        assert_true(str_equal(events[0].id, STR("m1")));
        assert_true(str_equal(events[0].user_id, STR("u1")));
        assert_true(str_equal(events[0].bot_name, STR("elena_bot")));
        assert_int_equal(events[1].type, EVENT_MESSAGE);
        assert_int_equal(events[1].u.message.op, MESSAGE_INSERT);
    }
    /* Spelled differently, the bot is the same. */
    struct row_text row = with(BOT, "elena-bot");
    assert_int_equal(apply(&message_binding, CHANGE_UPDATE, &good, &row), STATUS_OK);
    assert_int_equal(n_events, 1);
}

static void test_a_moved_row_needs_its_whole_old_key_and_its_text(void **state)
{
    (void)state;
    const struct row_text half_key = {{"m0"}};
    const struct row_text full_key = {{"m0", "u1", "Elena Bot"}};
    struct row_text untold = with(CONTENT, unsent);
    assert_int_equal(apply(&message_binding, CHANGE_UPDATE, &half_key, &good), STATUS_INVALID);
    assert_non_null(strstr(err.text, "\"user_id\""));
    assert_int_equal(apply(&message_binding, CHANGE_UPDATE, &full_key, &good), STATUS_OK);
    assert_int_equal(n_events, 2);
    assert_int_equal(apply(&message_binding, CHANGE_UPDATE, &full_key, &untold), STATUS_INVALID);
    assert_non_null(strstr(err.text, "\"content\""));
}

static void test_a_delete_needs_the_key_columns_of_the_old_row(void **state)
{
    (void)state;
    const struct row_text key = {{"m1", "u1", "Elena Bot"}};
    assert_int_equal(apply(&message_binding, CHANGE_DELETE, &key, NULL), STATUS_OK);
    assert_int_equal(n_events, 1);
    assert_int_equal(events[0].type, EVENT_MESSAGE_DELETED);
    assert_int_equal(events[0].at_us, 0);
    assert_true(str_equal(events[0].bot_name, STR("elena_bot")));
    for (int column = ID; column <= BOT; column++) {
        struct row_text part = key;
        part.v[column] = NULL;
        assert_int_equal(apply(&message_binding, CHANGE_DELETE, &part, NULL), STATUS_INVALID);
        assert_non_null(strstr(err.text, "REPLICA IDENTITY FULL"));
        assert_non_null(strstr(err.text, column_names[column]));
    }
}

static void test_a_row_that_becomes_ignored_is_deleted(void **state)
{
    (void)state;
    struct row_text row = with(ROLE, "system");
    assert_int_equal(apply(&message_binding, CHANGE_UPDATE, NULL, &row), STATUS_OK);
    assert_int_equal(n_events, 1);
    assert_int_equal(events[0].type, EVENT_MESSAGE_DELETED);
    assert_true(str_equal(events[0].id, STR("m1")));
    assert_int_equal(apply(&message_binding, CHANGE_UPDATE, &good, &row), STATUS_OK);
    assert_int_equal(n_events, 1);
    /* It was ignored before, and is known to have been: nothing to take back. */
    assert_int_equal(apply(&message_binding, CHANGE_UPDATE, &row, &row), STATUS_OK);
    assert_int_equal(n_events, 0);
    assert_int_equal(apply(&message_binding, CHANGE_DELETE, &row, NULL), STATUS_OK);
    assert_int_equal(n_events, 0);
}

static void test_values_outside_an_enum_map_may_have_a_default(void **state)
{
    (void)state;
    struct mapping m = messages;
    struct mapping_binding b;
    struct row_text row = with(ROLE, "anything");
    m.fields[FIELD_ROLE].has_default = true;
    snprintf(m.fields[FIELD_ROLE].default_to, sizeof(m.fields[FIELD_ROLE].default_to), "bot");
    assert_int_equal(mapping_check(&m, &err), STATUS_OK);
    assert_int_equal(mapping_bind(&m, &relation, &b, &err), STATUS_OK);
    assert_int_equal(apply(&b, CHANGE_INSERT, NULL, &row), STATUS_OK);
    assert_int_equal(events[0].u.message.role, ROLE_BOT);
    m.fields[FIELD_ROLE].default_to[0] = '\0';
    assert_int_equal(apply(&b, CHANGE_INSERT, NULL, &row), STATUS_OK);
    assert_int_equal(n_events, 0);
}

static void test_a_table_of_memories_creates_and_deletes(void **state)
{
    (void)state;
    const struct row_text key = {{"m1", "u1"}};
    struct row_text row = with(CONTENT, NULL);
    assert_int_equal(apply(&memory_binding, CHANGE_INSERT, NULL, &row), STATUS_OK);
    assert_int_equal(events[0].type, EVENT_MEMORY);
    assert_int_equal(events[0].u.memory.op, MEMORY_CREATE);
    assert_true(str_equal(events[0].u.memory.memory_id, STR("m1")));
    assert_true(events[0].u.memory.importance == 0.75);
    assert_true(isnan(events[0].u.memory.score));
    assert_true(str_equal(events[0].bot_name, STR("elena"))); /* the constant, normalised */

    assert_int_equal(apply(&memory_binding, CHANGE_DELETE, &key, NULL), STATUS_OK);
    assert_int_equal(n_events, 1);
    assert_int_equal(events[0].u.memory.op, MEMORY_DELETE);
    assert_true(str_equal(events[0].u.memory.memory_id, STR("m1")));

    row = with(USER, "u2");
    assert_int_equal(apply(&memory_binding, CHANGE_UPDATE, &key, &row), STATUS_OK);
    assert_int_equal(n_events, 2);
    assert_int_equal(events[0].u.memory.op, MEMORY_DELETE);
    assert_true(str_equal(events[0].user_id, STR("u1")));
    assert_int_equal(events[1].u.memory.op, MEMORY_CREATE);
    assert_true(str_equal(events[1].user_id, STR("u2")));
}

static void test_a_log_of_memory_events_is_read_but_not_undone(void **state)
{
    (void)state;
    struct row_text row = with(ROLE, "access");
    row.v[META] = "{\"grade\":3,\"outcome\":\"hit\"}";
    assert_int_equal(apply(&access_binding, CHANGE_INSERT, NULL, &row), STATUS_OK);
    assert_int_equal(events[0].u.memory.op, MEMORY_ACCESS);
    assert_int_equal(events[0].u.memory.grade, 3);
    assert_int_equal(events[0].u.memory.outcome, OUTCOME_HIT);
    assert_int_equal(apply(&access_binding, CHANGE_DELETE, &row, NULL), STATUS_OK);
    assert_int_equal(n_events, 0); /* pruning a log forgets no memory */

    static const char *const bad[] = {"{\"grade\":5}", "{\"grade\":2.5}",
                                      "{\"outcome\":\"maybe\"}"};
    for (size_t i = 0; i < 3; i++) {
        row.v[META] = bad[i];
        assert_int_equal(apply(&access_binding, CHANGE_INSERT, NULL, &row), STATUS_INVALID);
    }
    row = with(ROLE, "forget");
    assert_int_equal(apply(&access_binding, CHANGE_INSERT, NULL, &row), STATUS_INVALID);
    assert_non_null(strstr(err.text, "\"forget\""));
}

static void test_binding_goes_by_name_and_names_what_is_missing(void **state)
{
    (void)state;
    struct relation_column turned[COLUMNS];
    struct relation rel = relation;
    struct mapping_binding b;
    rel.columns = turned;
    for (int i = 0; i < COLUMNS; i++)
        turned[i] = columns[COLUMNS - 1 - i];
    assert_int_equal(mapping_bind(&messages, &rel, &b, &err), STATUS_OK);
    assert_int_equal(b.columns[FIELD_ID][0], COLUMNS - 1);
    assert_int_equal(b.columns[FIELD_ID][1], -1);

    snprintf(turned[COLUMNS - 1 - CONTENT].name, sizeof(turned[0].name), "body");
    assert_int_equal(mapping_bind(&messages, &rel, &b, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "\"content\""));
    assert_non_null(strstr(err.text, "\"public.chat\""));
}

static void test_a_row_shorter_than_its_description_is_a_breach_of_protocol(void **state)
{
    (void)state;
    struct value values[COLUMNS];
    struct tuple t = tuple_of(&good, values);
    t.n = 3;
    assert_int_equal(
        mapping_apply(&message_binding, CHANGE_INSERT, NULL, &t, arena, events, &n_events, &err),
        STATUS_PROTOCOL);
}

static void test_columns_are_listed_once_each(void **state)
{
    (void)state;
    struct mapping_column out[MAPPING_COLUMNS_MAX];
    assert_int_equal(mapping_columns(&messages, out), COLUMNS);
    assert_int_equal(mapping_columns(&memories, out), 5);
    const struct mapping_set set = {.n = 1, .tables = {messages}};
    assert_ptr_equal(mapping_find(&set, STR("public"), STR("chat")), &set.tables[0]);
    assert_null(mapping_find(&set, STR("public"), STR("chats")));
    assert_null(mapping_find(&set, STR("other"), STR("chat")));
}

static void test_field_names_lead_back_to_fields(void **state)
{
    (void)state;
    for (int f = 0; f < MAPPING_FIELD_COUNT; f++)
        assert_int_equal(mapping_field_find(mapping_field_name((enum mapping_field)f)), f);
    assert_int_equal(mapping_field_find("colour"), MAPPING_FIELD_COUNT);
}

static void expect_bad(const struct mapping *m, const char *reason)
{
    if (mapping_check(m, &err) != STATUS_INVALID || !strstr(err.text, reason))
        fail_msg("expected \"%s\", got \"%s\"", reason, err.text);
}

static void test_mappings_that_cannot_work_are_refused(void **state)
{
    (void)state;
    struct mapping m = message_mapping();
    assert_int_equal(mapping_check(&m, &err), STATUS_OK);
    assert_int_equal(mapping_check(&memories, &err), STATUS_OK);
    assert_int_equal(mapping_check(&accesses, &err), STATUS_OK);

    m.fields[FIELD_ROLE].set = false;
    expect_bad(&m, "field \"role\": is missing");
    m = message_mapping();
    set_column(&m, FIELD_SCORE, "score");
    expect_bad(&m, "field \"score\": events of this type do not have it");
    m = message_mapping();
    m.fields[FIELD_ID].column[0] = '\0';
    expect_bad(&m, "neither");
    m = message_mapping();
    set_constant(&m, FIELD_ID, "1");
    expect_bad(&m, "both");
    m.fields[FIELD_ID].column[0] = '\0';
    expect_bad(&m, "needs a column");
    m = message_mapping();
    set_path(&m, FIELD_EMOTION, "a..b");
    expect_bad(&m, "empty member name");
    m = message_mapping();
    add_enum(&m, FIELD_ROLE, "x", "robot");
    expect_bad(&m, "\"robot\"");
    m = message_mapping();
    add_enum(&m, FIELD_ROLE, "human", "bot");
    expect_bad(&m, "lists twice");
    m = memory_mapping();
    set_constant(&m, FIELD_OP, "remember");
    expect_bad(&m, "\"remember\"");
    m = memory_mapping();
    set_constant(&m, FIELD_BOT_NAME, "???");
    expect_bad(&m, "letters or digits");
    m = message_mapping();
    m.type = EVENT_DEAD_LETTER;
    expect_bad(&m, "cannot be mapped");
    m = message_mapping();
    m.table[0] = '\0';
    expect_bad(&m, "without a schema or table name");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_insert_is_a_message_with_every_field),
        cmocka_unit_test(test_absent_optional_values_are_absent),
        cmocka_unit_test(test_bad_values_name_their_column_and_reason),
        cmocka_unit_test(
            test_a_reason_shows_at_most_40_bytes_of_a_word_and_nothing_of_other_values),
        cmocka_unit_test(test_long_content_is_cut_just_beyond_the_limit),
        cmocka_unit_test(test_ignored_rows_give_no_event_whatever_else_they_hold),
        cmocka_unit_test(test_an_update_is_the_whole_new_state),
        cmocka_unit_test(test_unchanged_content_comes_from_the_old_row_or_not_at_all),
        cmocka_unit_test(test_other_unchanged_values_need_the_old_row),
        cmocka_unit_test(test_a_changed_key_is_a_delete_and_an_insert),
        cmocka_unit_test(test_a_moved_row_needs_its_whole_old_key_and_its_text),
        cmocka_unit_test(test_a_delete_needs_the_key_columns_of_the_old_row),
        cmocka_unit_test(test_a_row_that_becomes_ignored_is_deleted),
        cmocka_unit_test(test_values_outside_an_enum_map_may_have_a_default),
        cmocka_unit_test(test_a_table_of_memories_creates_and_deletes),
        cmocka_unit_test(test_a_log_of_memory_events_is_read_but_not_undone),
        cmocka_unit_test(test_binding_goes_by_name_and_names_what_is_missing),
        cmocka_unit_test(test_a_row_shorter_than_its_description_is_a_breach_of_protocol),
        cmocka_unit_test(test_columns_are_listed_once_each),
        cmocka_unit_test(test_field_names_lead_back_to_fields),
        cmocka_unit_test(test_mappings_that_cannot_work_are_refused),
    };
    return cmocka_run_group_tests_name("ingest/mapping", tests, setup, teardown);
}
