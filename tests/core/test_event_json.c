/* tests/core/test_event_json.c - each public form of an event is read; what is wrong is named. */
#include "core/event.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static struct event_arena *arena;
static struct error err;
static struct event e;

#define HEAD "\"id\":\"i/1\",\"user_id\":\"u\",\"bot_name\":\" My-Bot\",\"at\":5"

static enum status parse(struct str line)
{
    event_arena_reset(arena);
    return event_from_json(line, arena, &e, &err);
}

static void take(const char *line)
{
    if (parse(str_from(line)))
        fail_msg("%s: %s", err.text, line);
}

static void refuse_str(struct str line, const char *why)
{
    assert_int_equal(parse(line), STATUS_INVALID);
    if (strncmp(err.text, why, strlen(why)) != 0)
        fail_msg("\"%s\" does not start with \"%s\"", err.text, why);
}

static void refuse(const char *line, const char *why)
{
    refuse_str(str_from(line), why);
}

static void check_str(struct str s, const char *expected)
{
    assert_true(str_equal(s, str_from(expected)));
}

static void test_a_full_message_is_read(void **state)
{
    (void)state;
    take("{\"type\":\"message\"," HEAD ",\"role\":\"bot\",\"content\":\"h\\u00e9\\n\","
         "\"emotion\":\"joy\",\"emotion_confidence\":0.5,\"embedding\":[-1,0.5],"
         "\"embedding_model\":\"m\",\"traits\":[{\"name\":\"warm\",\"weight\":0.25},"
         "{\"name\":\"dry\"}],\"channel_id\":\"c\",\"unknown\":[1]}");
    assert_int_equal(e.type, EVENT_MESSAGE);
    check_str(e.id, "i/1");
    check_str(e.user_id, "u");
    check_str(e.bot_name, "my_bot");
    assert_true(e.at_us == 5);
    const struct event_message *m = &e.u.message;
    assert_int_equal(m->role, ROLE_BOT);
    assert_int_equal(m->op, MESSAGE_INSERT);
    check_str(m->content, "h\xC3\xA9\n");
    check_str(m->emotion, "joy");
    assert_true(m->emotion_confidence == 0.5);
    assert_int_equal(m->embedding_dims, 2);
    assert_true(m->embedding[0] == -1 && m->embedding[1] == 0.5f);
    check_str(m->embedding_model, "m");
    assert_int_equal(m->n_traits, 2);
    check_str(m->traits[0].name, "warm");
    assert_true(m->traits[0].weight == 0.25);
    assert_true(m->traits[1].weight == 1);
    check_str(m->channel_id, "c");
}

static void test_absent_members_have_no_value(void **state)
{
    (void)state;
    take("{\"type\":\"message\"," HEAD ",\"role\":\"user\",\"content\":\"\",\"emotion\":null,"
         "\"embedding\":[]}");
    const struct event_message *m = &e.u.message;
    assert_non_null(m->content.ptr);
    assert_int_equal(m->content.len, 0);
    assert_null(m->emotion.ptr);
    assert_true(isnan(m->emotion_confidence));
    assert_null(m->embedding);
    assert_int_equal(m->embedding_dims, 0);
    assert_int_equal(m->n_traits, 0);
    assert_null(m->channel_id.ptr);
}

static void test_all_traits_are_counted_and_four_kept(void **state)
{
    (void)state;
    take("{\"type\":\"message\"," HEAD ",\"role\":\"user\",\"content\":\"\",\"traits\":["
         "{\"name\":\"a\"},{\"name\":\"b\"},{\"name\":\"c\"},{\"name\":\"d\"},{\"name\":\"e\"},"
         "{\"name\":\"f\"}]}");
    assert_int_equal(e.u.message.n_traits, 6);
    check_str(e.u.message.traits[3].name, "d");
}

static void test_edits_and_deletes_are_read(void **state)
{
    (void)state;
    take("{\"type\":\"message_updated\"," HEAD ",\"role\":\"user\"}");
    assert_int_equal(e.type, EVENT_MESSAGE);
    assert_int_equal(e.u.message.op, MESSAGE_UPDATE);
    assert_null(e.u.message.content.ptr);
    take("{\"type\":\"message_deleted\"," HEAD "}");
    assert_int_equal(e.type, EVENT_MESSAGE_DELETED);
}

static void test_memory_events_are_read(void **state)
{
    (void)state;
    take("{\"type\":\"memory\"," HEAD ",\"op\":\"access\",\"memory_id\":\"m\",\"score\":0.5,"
         "\"grade\":4,\"outcome\":\"miss\",\"importance\":1,\"memory_type\":\"fact\","
         "\"content\":\"c\"}");
    const struct event_memory *m = &e.u.memory;
    assert_int_equal(m->op, MEMORY_ACCESS);
    check_str(m->memory_id, "m");
    assert_true(m->score == 0.5 && m->importance == 1);
    assert_int_equal(m->grade, 4);
    assert_int_equal(m->outcome, OUTCOME_MISS);
    check_str(m->memory_type, "fact");
    check_str(m->content, "c");
    take("{\"type\":\"memory\"," HEAD ",\"op\":\"pin\",\"memory_id\":\"m\"}");
    assert_true(isnan(m->score) && isnan(m->importance));
    assert_int_equal(m->grade, 0);
    assert_int_equal(m->outcome, OUTCOME_NONE);
}

static void test_the_other_types_are_read(void **state)
{
    (void)state;
    take("{\"type\":\"metric\",\"id\":\"i\",\"bot_name\":\"b\",\"at\":1,\"measurement\":\"x\","
         "\"fields\":{\"z\":1,\"a\":2.5},\"tags\":{\"k\":\"v\"}}");
    assert_int_equal(e.user_id.len, 0);
    assert_int_equal(e.u.metric.n_fields, 2);
    check_str(e.u.metric.fields[0].name, "z");
    assert_true(e.u.metric.fields[1].value == 2.5);
    check_str(e.u.metric.tags[0].key, "k");
    check_str(e.u.metric.tags[0].value, "v");
    take("{\"type\":\"outreach\"," HEAD ",\"op\":\"opted_out\",\"topic\":\"t\"}");
    assert_int_equal(e.u.outreach.op, OUTREACH_OPTED_OUT);
    check_str(e.u.outreach.topic, "t");
    take("{\"type\":\"character\",\"id\":\"i\",\"bot_name\":\"b\",\"at\":1,\"version\":3,"
         "\"traits\":{\"warm\":0.5}}");
    assert_true(e.u.character.version == 3);
    check_str(e.u.character.traits[0].name, "warm");
    assert_true(e.u.character.traits[0].weight == 0.5);
    take("{\"type\":\"privacy\",\"id\":\"i\",\"user_id\":\"u\",\"at\":1,\"op\":\"erase\","
         "\"scope\":\"all\"}");
    assert_int_equal(e.u.privacy.op, PRIVACY_ERASE);
    check_str(e.u.privacy.scope, "all");
    take("{\"type\":\"dead_letter\",\"id\":\"i\",\"at\":1,\"where\":\"w\",\"reason\":\"r\","
         "\"bytes_base64\":\"/wD+\"}");
    assert_true(str_equal(e.u.dead_letter.bytes, STR("\xFF\x00\xFE")));
}

static void test_times_are_microseconds_or_rfc_3339_with_a_zone(void **state)
{
    (void)state;
#define AT(at) \
    "{\"type\":\"message_deleted\",\"id\":\"i\",\"user_id\":\"u\",\"bot_name\":\"b\"," at "}"
    take(AT("\"at\":\"1970-01-01T01:00:00.000007+01:00\""));
    assert_true(e.at_us == 7);
    take(AT("\"at\":-7"));
    assert_true(e.at_us == -7);
    refuse(AT("\"at\":\"1970-01-01T01:00:00\""), "at: \"1970-01-01T01:00:00\" has no zone");
    refuse(AT("\"at\":\"yesterday\""), "at: \"yesterday\" is not an RFC 3339 time");
    refuse(AT("\"at\":1.5"), "at: must be");
    refuse(AT("\"at\":true"), "at: must be");
    refuse(AT("\"at\":null"), "at: missing");
    refuse(AT("\"x\":1"), "at: missing");
    refuse(AT("\"at\":9223372036854775807"), "at: not within");
    refuse(AT("\"at\":9223372036854775808"), "json: ");
}

/* One thing wrong per line; the text says where it is. */
static void test_refusals_name_the_member(void **state)
{
    (void)state;
#define MESSAGE(more) "{\"type\":\"message\"," HEAD ",\"content\":\"c\"," more "}"
#define MEMORY(more)  "{\"type\":\"memory\"," HEAD ",\"memory_id\":\"m\"," more "}"
#define METRIC(more)  "{\"type\":\"metric\"," HEAD ",\"measurement\":\"m\"," more "}"
    static const struct {
        const char *line;
        const char *why;
    } bad[] = {
        {"", "json: byte 0"},
        {"[]", "json: must be an object, not an array"},
        {"{} {}", "json: byte"},
        {"{\"type\":\"message\",\"type\":\"memory\"}", "json: byte"},
        {"{\"type\":\"\xFF\"}", "json: byte"},
        {"{}", "type: missing"},
        {"{\"type\":1}", "type: must be a string, not an integer"},
        {"{\"type\":\"messages\"}", "type: unknown value \"messages\""},
        {"{\"type\":\"message\\u0000\"}", "type: unknown value"},
        {"{\"type\":\"message_deleted\",\"at\":1}", "id: missing"},
        {"{\"type\":\"message_deleted\",\"at\":1,\"id\":7}", "id: must be a string"},
        {"{\"type\":\"message_deleted\",\"at\":1,\"id\":\"i\",\"bot_name\":\"b\"}",
         "user_id: missing"},
        {"{\"type\":\"message_deleted\",\"at\":1,\"id\":\"i\",\"user_id\":\"u\","
         "\"bot_name\":\"!\"}",
         "bot_name: \"!\" holds none"},
        {MESSAGE("\"role\":\"system\""), "role: unknown value \"system\""},
        {MESSAGE("\"x\":1"), "role: missing"},
        {"{\"type\":\"message\"," HEAD ",\"role\":\"user\"}", "content: missing"},
        {"{\"type\":\"message\"," HEAD ",\"role\":\"user\",\"content\":5}", "content: must be"},
        {"{\"type\":\"message\"," HEAD ",\"role\":\"user\",\"content\":\"ab\\u0000\"}",
         "content: byte 2 is not valid"},
        {MESSAGE("\"role\":\"user\",\"emotion_confidence\":2"), "emotion_confidence: 2"},
        {MESSAGE("\"role\":\"user\",\"embedding\":{}"), "embedding: must be an array"},
        {MESSAGE("\"role\":\"user\",\"embedding\":[1,\"2\"]"), "embedding[1]: must be a number"},
        {MESSAGE("\"role\":\"user\",\"embedding\":[1,null]"), "embedding[1]: must be a number"},
        {MESSAGE("\"role\":\"user\",\"embedding\":[1e39]"), "embedding[0]: not a finite"},
        {MESSAGE("\"role\":\"user\",\"traits\":[\"a\"]"), "traits[0]: must be an object"},
        {MESSAGE("\"role\":\"user\",\"traits\":[{}]"), "traits[0].name: missing"},
        {MESSAGE(
             "\"role\":\"user\",\"traits\":[{\"name\":\"a\"},{\"name\":\"b\",\"weight\":\"x\"}]"),
         "traits[1].weight: must be a number, not a string"},
        {MESSAGE("\"role\":\"user\",\"trait_count\":1"), "trait_count: does not fit"},
        {MEMORY("\"op\":\"forget\""), "op: unknown value \"forget\""},
        {MEMORY("\"op\":\"access\",\"grade\":5"), "grade: 5"},
        {MEMORY("\"op\":\"access\",\"grade\":0"), "grade: 0"},
        {MEMORY("\"op\":\"access\",\"grade\":4294967297"), "grade: 4294967297"},
        {MEMORY("\"op\":\"access\",\"grade\":1.0"), "grade: must be an integer"},
        {MEMORY("\"op\":\"access\",\"outcome\":\"none\""), "outcome: unknown value"},
        {MEMORY("\"op\":\"access\",\"score\":-1"), "score: -1"},
        {METRIC("\"x\":1"), "fields: missing"},
        {METRIC("\"fields\":[1]"), "fields: must be an object"},
        {METRIC("\"fields\":{\"a\":\"1\"}"), "fields.a: must be a number, not a string"},
        {METRIC("\"fields\":{\"a\":null}"), "fields.a: must be a number, not null"},
        {METRIC("\"fields\":{},\"tags\":{\"k\":1}"), "tags.k: must be a string"},
        {"{\"type\":\"character\"," HEAD ",\"traits\":{}}", "version: missing"},
        {"{\"type\":\"character\"," HEAD ",\"version\":\"1\"}", "version: must be an integer"},
        {"{\"type\":\"dead_letter\",\"at\":1,\"bytes_base64\":\"a\"}", "bytes_base64: is not"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        refuse(bad[i].line, bad[i].why);
    refuse_str(STR("{\"type\":\"message_deleted\",\0}"), "json: byte");
}

static void test_what_exceeds_a_bound_is_refused(void **state)
{
    (void)state;
    struct buf line;
    buf_init(&line, 2 * LIMIT_EVENT_BYTES);
    assert_int_equal(buf_printf(&line, "{\"type\":\"message\"," HEAD
                                       ",\"role\":\"user\",\"content\":\"\",\"embedding\":[0"),
                     STATUS_OK);
    for (int i = 0; i < LIMIT_EMBEDDING_DIMS; i++)
        assert_int_equal(buf_append(&line, ",0", 2), STATUS_OK);
    assert_int_equal(buf_append(&line, "]}", 2), STATUS_OK);
    refuse_str((struct str){line.data, line.len}, "embedding: 8193 numbers");

    buf_reset(&line);
    assert_int_equal(buf_printf(&line, "{\"type\":\"metric\"," HEAD
                                       ",\"measurement\":\"m\",\"fields\":{\"f\":0"),
                     STATUS_OK);
    for (int i = 0; i < 32; i++)
        assert_int_equal(buf_printf(&line, ",\"f%d\":0", i), STATUS_OK);
    assert_int_equal(buf_append(&line, "}}", 2), STATUS_OK);
    refuse_str((struct str){line.data, line.len}, "fields: 33 members, at most 32");

    assert_int_equal(buf_reserve(&line, LIMIT_EVENT_BYTES + 1), STATUS_OK);
    memset(line.data, ' ', LIMIT_EVENT_BYTES + 1);
    refuse_str((struct str){line.data, LIMIT_EVENT_BYTES + 1}, "json: 4194305 bytes");
    buf_deinit(&line);
}

/* The printed form, byte for byte: what `replay` and fixtures exchange. */
static void test_an_event_is_printed_with_sorted_keys(void **state)
{
    (void)state;
    take("{\"type\":\"message_updated\"," HEAD ",\"role\":\"user\",\"content\":\"c\","
         "\"traits\":[{\"name\":\"n\",\"weight\":0.1}],\"embedding\":[0.5]}");
    struct buf out;
    buf_init(&out, 1 << 16);
    assert_int_equal(event_to_json(&e, &out, &err), STATUS_OK);
    assert_int_equal(buf_append(&out, "", 1), STATUS_OK);
    assert_string_equal(out.data,
                        "{\"at\":\"1970-01-01T00:00:00.000005Z\",\"bot_name\":\"my_bot\","
                        "\"content\":\"c\",\"embedding\":[0.5],\"id\":\"i/1\",\"role\":\"user\","
                        "\"traits\":[{\"name\":\"n\",\"weight\":0.1}],"
                        "\"type\":\"message_updated\",\"user_id\":\"u\"}");
    buf_deinit(&out);
}

static int setup(void **state)
{
    (void)state;
    return event_arena_new(&arena, &err);
}

static int teardown(void **state)
{
    (void)state;
    event_arena_free(arena);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_full_message_is_read),
        cmocka_unit_test(test_absent_members_have_no_value),
        cmocka_unit_test(test_all_traits_are_counted_and_four_kept),
        cmocka_unit_test(test_edits_and_deletes_are_read),
        cmocka_unit_test(test_memory_events_are_read),
        cmocka_unit_test(test_the_other_types_are_read),
        cmocka_unit_test(test_times_are_microseconds_or_rfc_3339_with_a_zone),
        cmocka_unit_test(test_refusals_name_the_member),
        cmocka_unit_test(test_what_exceeds_a_bound_is_refused),
        cmocka_unit_test(test_an_event_is_printed_with_sorted_keys),
    };
    return cmocka_run_group_tests_name("core/event_json", tests, setup, teardown);
}
