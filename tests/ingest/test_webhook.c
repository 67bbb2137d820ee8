/*
 * tests/ingest/test_webhook.c - the body of each sender becomes the events that the mapping says;
 * what cannot be used is kept, what means nothing here is ignored, ids of deliveries are found.
 *
 * Method: the bodies of tests/data/webhooks through a mapping of their own; events are compared in
 * their public form.
 */
#include "ingest/webhook.h"

#include "core/event.h"

#include <setjmp.h> /* cmocka needs these three */
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RECEIVED_US INT64_C(1767625200000000) /* 2026-01-05T15:00:00Z */

static struct mapping_set tables;
static struct webhook_result result;
static struct buf lines; /* the events, one line of JSON each */
static const char *each_path, *id_path;
static struct str header_id, header_event;
static enum webhook_form form;

static int setup(void **state)
{
    (void)state;
    memset(&tables, 0, sizeof(tables));
    webhook_result_init(&result);
    buf_init(&lines, 1 << 24);
    each_path = id_path = "";
    header_id = header_event = STR_NULL;
    form = WEBHOOK_FORM_JSON;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    webhook_result_deinit(&result);
    buf_deinit(&lines);
    return 0;
}

/* ---- mappings ---- */

static struct mapping *table(const char *name, enum event_type type)
{
    struct mapping *m = &tables.tables[tables.n++];
    m->type = type;
    snprintf(m->schema, sizeof(m->schema), "public");
    snprintf(m->table, sizeof(m->table), "%s", name);
    return m;
}

/* "column", "column/path", "=constant" or "~template". */
static struct mapping_source *from(struct mapping *m, enum mapping_field f, const char *what)
{
    struct mapping_source *s = &m->fields[f];
    s->set = true;
    if (what[0] == '=')
        snprintf(s->constant, sizeof(s->constant), "%s", what + 1);
    else if (what[0] == '~')
        snprintf(s->template, sizeof(s->template), "%s", what + 1);
    else {
        size_t n = strcspn(what, "/");
        snprintf(s->column, sizeof(s->column), "%.*s", (int)n, what);
        snprintf(s->path, sizeof(s->path), "%s", what[n] ? what + n + 1 : "");
    }
    return s;
}

static struct mapping *message(const char *name, const char *id, const char *user, const char *bot,
                               const char *content, const char *at)
{
    struct mapping *m = table(name, EVENT_MESSAGE);
    from(m, FIELD_ID, id);
    from(m, FIELD_USER_ID, user);
    from(m, FIELD_BOT_NAME, bot);
    from(m, FIELD_ROLE, "=user");
    from(m, FIELD_CONTENT, content);
    from(m, FIELD_AT, at);
    return m;
}

/* As in the row changes of Supabase and Sequin. */
static struct mapping *messages_table(const char *at)
{
    struct mapping *m = message("messages", "id", "user_id", "=elena", "body", at);
    struct mapping_source *role = from(m, FIELD_ROLE, "author");
    role->constant[0] = '\0';
    role->n_enum = 2;
    snprintf(role->enum_map[0].from, 64, "human");
    snprintf(role->enum_map[0].to, 32, "user");
    snprintf(role->enum_map[1].from, 64, "system");
    snprintf(m->soft_delete, sizeof(m->soft_delete), "removed");
    return m;
}

/* ---- decoding ---- */

static void print_events(void)
{
    struct event_arena *arena;
    struct error err;
    assert_int_equal(event_arena_new(&arena, &err), STATUS_OK);
    struct reader r = reader_of(result.events.data, result.events.len);
    uint32_t n = 0;
    for (; reader_left(&r) > 0; n++) {
        struct event e;
        event_arena_reset(arena);
        struct str bytes = reader_blob(&r);
        assert_int_equal(event_decode(bytes, arena, &e, &err), STATUS_OK);
        assert_int_equal(event_to_json(&e, &lines, &err), STATUS_OK);
        assert_int_equal(buf_append_str(&lines, STR("\n")), STATUS_OK);
    }
    assert_false(r.bad);
    assert_int_equal(n, result.n_events);
    assert_int_equal(buf_append(&lines, "", 1), STATUS_OK);
    event_arena_free(arena);
}

static void decode(enum webhook_preset preset, struct str body)
{
    struct webhook_config cfg = {"hook", preset, each_path, id_path, &tables};
    struct webhook_delivery in = {form, body, header_id, header_event, RECEIVED_US};
    struct webhook *w;
    struct error err;
    for (size_t i = 0; i < tables.n; i++)
        assert_int_equal(mapping_check(&tables.tables[i], &err), STATUS_OK);
    webhook_result_deinit(&result);
    webhook_result_init(&result);
    buf_reset(&lines);
    assert_int_equal(webhook_new(&cfg, &w, &err), STATUS_OK);
    assert_int_equal(webhook_decode(w, &in, &result, &err), STATUS_OK);
    webhook_free(w);
    print_events();
}

static void decode_text(enum webhook_preset preset, const char *body)
{
    decode(preset, str_from(body));
}

static void decode_file(enum webhook_preset preset, const char *name)
{
    char path[512], *body = malloc(1 << 16);
    snprintf(path, sizeof(path), SOURCE_ROOT "/tests/data/webhooks/%s", name);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    size_t n = fread(body, 1, 1 << 16, f);
    fclose(f);
    decode(preset, (struct str){body, n});
    free(body);
}

static void assert_counts(uint32_t usable, uint32_t ignored, uint32_t dead)
{
    if (result.n_usable != usable || result.n_ignored != ignored || result.n_dead != dead)
        fail_msg("usable %u, ignored %u, dead %u: %s", result.n_usable, result.n_ignored,
                 result.n_dead, lines.data);
}

static void assert_lines(const char *wanted)
{
    assert_string_equal(lines.data, wanted);
}

/* ---- row changes ---- */

static void test_supabase_rows_are_what_the_table_would_be(void **state)
{
    (void)state;
    struct mapping *m = messages_table("inserted_at");
    from(m, FIELD_EMOTION, "meta/mood.label");
    from(m, FIELD_EMOTION_CONFIDENCE, "meta/mood.confidence");
    decode_file(WEBHOOK_SUPABASE, "supabase_insert.json");
    assert_counts(1, 0, 0);
    assert_lines(
        "{\"at\":\"2026-01-05T14:00:00Z\",\"bot_name\":\"elena\",\"content\":\"Is the garden "
        "open?\",\"emotion\":\"joy\",\"emotion_confidence\":0.75,\"id\":\"101\",\"role\":"
        "\"user\",\"type\":\"message\",\"user_id\":\"3f0c\"}\n");
    assert_string_equal(result.id, ""); /* two equal deliveries may be two changes */
    decode_file(WEBHOOK_SUPABASE, "supabase_update.json"); /* of the key */
    assert_counts(1, 0, 0);
    assert_int_equal(result.by_type[EVENT_MESSAGE_DELETED], 1);
    assert_int_equal(result.by_type[EVENT_MESSAGE], 1);
    assert_non_null(strstr(lines.data, "\"id\":\"100\",\"type\":\"message_deleted\""));
    assert_non_null(strstr(lines.data, "\"content\":\"Is the garden open today?\",\"id\":\"101\""));
    decode_file(WEBHOOK_SUPABASE, "supabase_delete.json");
    assert_counts(1, 0, 0);
    assert_non_null(strstr(lines.data, "\"id\":\"101\",\"type\":\"message_deleted\""));
}

static void test_a_soft_deleted_row_is_a_delete(void **state)
{
    (void)state;
    messages_table("inserted_at");
    decode_text(
        WEBHOOK_SUPABASE,
        "{\"type\":\"UPDATE\",\"table\":\"messages\",\"schema\":\"public\",\"record\":{\"id\":"
        "1,\"user_id\":\"u\",\"body\":\"b\",\"author\":\"human\",\"inserted_at\":\"2026-01-05T14:"
        "00:00Z\",\"removed\":true},\"old_record\":{\"id\":1,\"user_id\":\"u\",\"body\":\"b\","
        "\"author\":\"human\",\"inserted_at\":\"2026-01-05T14:00:00Z\",\"removed\":false}}");
    assert_counts(1, 0, 0);
    assert_int_equal(result.by_type[EVENT_MESSAGE_DELETED], 1);
}

static void test_other_tables_and_ignored_values_are_ignored(void **state)
{
    (void)state;
    messages_table("inserted_at");
    static const char by_system[] =
        "{\"type\":\"INSERT\",\"table\":\"messages\",\"schema\":\"public\","
        "\"record\":{\"author\":\"system\"}}";
    static const char *const bodies[] = {
        "{\"type\":\"INSERT\",\"table\":\"plans\",\"schema\":\"public\",\"record\":{\"id\":1}}",
        "{\"type\":\"INSERT\",\"table\":\"messages\",\"schema\":\"other\",\"record\":{\"id\":1}}",
        by_system,
        "[]",
    };
    for (size_t i = 0; i < 4; i++) {
        decode_text(WEBHOOK_SUPABASE, bodies[i]);
        assert_counts(0, i < 3, 0);
        assert_int_equal(result.n_events, 0);
        assert_false(webhook_result_is_bad(&result));
    }
}

static void test_a_row_change_that_is_none_is_kept(void **state)
{
    (void)state;
    messages_table("inserted_at");
    static const struct {
        const char *body, *why;
    } rows[] = {
        {"{\"type\":\"TRUNCATE\",\"table\":\"messages\"}", "is not an insert, update or delete"},
        {"{\"type\":\"INSERT\",\"record\":{}}", "does not say which table"},
        {"{\"type\":\"INSERT\",\"table\":\"messages\",\"record\":null}", "has no row"},
        {"{\"type\":\"DELETE\",\"table\":\"messages\",\"record\":{},\"old_record\":null}",
         "has no row"},
        {"{\"type\":\"INSERT\",\"table\":\"messages\",\"record\":{\"id\":1,\"author\":\"human\"}}",
         "table \\\"public.messages\\\", column \\\"user_id\\\", field \\\"user_id\\\": is NULL"},
        {"{\"type\":\"INSERT\",\"table\":\"messages\",\"record\":{\"id\":1,\"author\":\"alien\"}}",
         "the value \\\"alien\\\" is not in the enum map"},
        {"7", "json: "},
        {"[7]", "is not an object"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        decode_text(WEBHOOK_SUPABASE, rows[i].body);
        assert_counts(0, 0, 1);
        assert_true(webhook_result_is_bad(&result));
        if (!strstr(lines.data, rows[i].why) || !strstr(lines.data, "\"where\":\"webhook:hook\""))
            fail_msg("%s gave %s", rows[i].body, lines.data);
    }
}

static void test_sequin_batches_know_when_they_were_committed(void **state)
{
    (void)state;
    messages_table(WEBHOOK_COLUMN_AT);
    decode_file(WEBHOOK_SEQUIN, "sequin_batch.json");
    assert_counts(1, 1, 0);
    assert_lines(
        "{\"at\":\"2026-01-05T14:00:00.250000Z\",\"bot_name\":\"elena\",\"content\":\"Tea, "
        "please.\",\"id\":\"7\",\"role\":\"user\",\"type\":\"message\",\"user_id\":\"ann\"}\n");
    assert_int_equal(strlen(result.id), 64); /* of both elements together */
    decode_file(WEBHOOK_SEQUIN, "sequin_update.json");
    assert_counts(1, 0, 0); /* the id was 7 before: `changes` says so */
    assert_non_null(strstr(lines.data, "\"id\":\"7\",\"type\":\"message_deleted\""));
    assert_non_null(strstr(lines.data, "\"content\":\"Coffee, please.\",\"id\":\"8\""));
    assert_string_equal(result.id, "a2V5LTM=");
    decode_file(WEBHOOK_SEQUIN, "sequin_delete.json");
    assert_counts(1, 0, 0);
    assert_non_null(strstr(lines.data, "\"id\":\"8\",\"type\":\"message_deleted\""));
}

/* Without a key of its own, a message is known by its table, row and commit time. */
static void test_sequin_ids_from_before_there_were_keys(void **state)
{
    (void)state;
    messages_table(WEBHOOK_COLUMN_AT);
#define OLD_SEQUIN(id)                                                     \
    "{\"record\":{\"id\":" id                                              \
    ",\"name\":\"x\"},\"action\":\"read\",\"metadata\":{\"table_schema\":" \
    "\"public\",\"table_name\":\"plans\",\"commit_timestamp\":\"2026-01-05T14:01:00Z\"}}"
    decode_text(WEBHOOK_SEQUIN, OLD_SEQUIN("8"));
    assert_string_equal(result.id, "plans 8 2026-01-05T14:01:00Z");
    decode_text(WEBHOOK_SEQUIN, "{\"data\":[" OLD_SEQUIN("8") "," OLD_SEQUIN("9") "]}");
    assert_int_equal(strlen(result.id), 64);
    decode_text(WEBHOOK_SEQUIN, "{\"data\":[" OLD_SEQUIN("8") "," OLD_SEQUIN("null") "]}");
    assert_string_equal(result.id, ""); /* one without leaves all without */
}

static void test_deletes_of_memories_happened_when_they_were_committed(void **state)
{
    (void)state;
    struct mapping *m = table("memories", EVENT_MEMORY);
    from(m, FIELD_ID, "id");
    from(m, FIELD_MEMORY_ID, "id");
    from(m, FIELD_USER_ID, "user_id");
    from(m, FIELD_BOT_NAME, "=elena");
    from(m, FIELD_OP, "=create");
    from(m, FIELD_AT, "created_at");
    decode_text(
        WEBHOOK_SEQUIN,
        "{\"record\":{\"id\":\"k\",\"user_id\":\"u\"},\"action\":\"delete\",\"metadata\":{"
        "\"table_schema\":\"public\",\"table_name\":\"memories\",\"commit_timestamp\":\"2026-"
        "01-05T14:02:00Z\"}}");
    assert_counts(1, 0, 0);
    assert_non_null(strstr(lines.data, "\"at\":\"2026-01-05T14:02:00Z\""));
    decode_text(WEBHOOK_SUPABASE,
                "{\"type\":\"DELETE\",\"table\":\"memories\",\"schema\":\"public\","
                "\"old_record\":{\"id\":\"k\",\"user_id\":\"u\"}}");
    assert_non_null(strstr(lines.data, "\"at\":\"2026-01-05T15:00:00Z\""));
}

/* Each step of the counter is an access; the old row says where it stood. */
static void test_counters_count_from_the_old_row(void **state)
{
    (void)state;
    struct mapping *m = table("memories", EVENT_MEMORY);
    from(m, FIELD_ID, "id");
    from(m, FIELD_MEMORY_ID, "id");
    from(m, FIELD_USER_ID, "=u");
    from(m, FIELD_BOT_NAME, "=elena");
    from(m, FIELD_OP, "=access");
    from(m, FIELD_AT, WEBHOOK_COLUMN_AT);
    snprintf(m->counter, sizeof(m->counter), "n");
#define COUNTED(n, old)                                       \
    "{\"record\":{\"id\":\"k\",\"n\":" n "},\"changes\":" old \
    ",\"action\":\"update\",\"metadata\":{"                   \
    "\"table_schema\":\"public\",\"table_name\":\"memories\"}}"
    decode_text(WEBHOOK_SEQUIN, COUNTED("7", "{\"n\":4}"));
    assert_counts(1, 0, 0);
    assert_int_equal(result.n_events, 3);
    assert_non_null(strstr(lines.data, "\"id\":\"k#5\""));
    assert_non_null(strstr(lines.data, "\"id\":\"k#7\""));
    decode_text(WEBHOOK_SEQUIN, COUNTED("7", "{\"other\":1}"));
    assert_counts(0, 1, 0);
}

/* ---- mapped bodies ---- */

static void test_github_events_choose_their_mapping(void **state)
{
    (void)state;
    struct mapping *m = message("issue_comment", "comment/id", "comment/user.login",
                                "repository/full_name", "comment/body", "comment/created_at");
    from(m, FIELD_CHANNEL_ID, "@delivery");
    header_id = STR("72d3162e-cc78");
    header_event = STR("issue_comment");
    decode_file(WEBHOOK_GITHUB, "github_issue_comment.json");
    assert_counts(1, 0, 0);
    assert_lines(
        "{\"at\":\"2026-01-05T14:00:00Z\",\"bot_name\":\"octochat\",\"channel_id\":\"72d3162e-"
        "cc78\",\"content\":\"The same here since Monday.\",\"id\":\"992001\",\"role\":\"user\","
        "\"type\":\"message\",\"user_id\":\"carl\"}\n");
    assert_string_equal(result.id, "72d3162e-cc78");
    header_event = STR("ping");
    decode_file(WEBHOOK_GITHUB, "github_ping.json");
    assert_counts(0, 1, 0);
}

static void test_stripe_events_have_their_id_in_the_body(void **state)
{
    (void)state;
    struct mapping *m = table("invoice", EVENT_METRIC);
    from(m, FIELD_ID, "@body.id");
    from(m, FIELD_USER_ID, "customer");
    from(m, FIELD_BOT_NAME, "=elena");
    from(m, FIELD_AT, "@body.created")->time_unit = TIME_EPOCH_S;
    from(m, FIELD_MEASUREMENT, "=payment");
    from(m, FIELD_FIELD, "=amount");
    from(m, FIELD_VALUE, "amount_due");
    each_path = "data.object";
    decode_file(WEBHOOK_STRIPE, "stripe_event.json");
    assert_counts(1, 0, 0);
    assert_string_equal(result.id, "evt_1Mqqb");
    assert_non_null(strstr(lines.data, "\"at\":\"2026-01-05T14:00:00Z\""));
    assert_non_null(strstr(lines.data, "\"id\":\"evt_1Mqqb\""));
    assert_non_null(strstr(lines.data, "\"amount\":1299"));
}

static void test_slack_messages_and_the_challenge(void **state)
{
    (void)state;
    message("event", "ts", "user", "=elena", "text", "ts")->fields[FIELD_AT].time_unit =
        TIME_EPOCH_S;
    each_path = "event";
    decode_file(WEBHOOK_SLACK, "slack_message.json");
    assert_counts(1, 0, 0);
    assert_string_equal(result.id, "Ev0PV52K21");
    assert_non_null(strstr(lines.data, "\"at\":\"2026-01-05T14:00:00.000200Z\""));
    decode_file(WEBHOOK_SLACK, "slack_challenge.json");
    assert_int_equal(result.reply, WEBHOOK_REPLY_CHALLENGE);
    assert_string_equal(result.challenge, "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P");
    assert_counts(0, 0, 0);
    /* What is echoed can be no markup; it is then no challenge, and without `event` nothing. */
    decode_text(WEBHOOK_SLACK, "{\"type\":\"url_verification\",\"challenge\":\"<b>\"}");
    assert_int_equal(result.reply, WEBHOOK_REPLY_NONE);
    assert_counts(0, 1, 0);
    char long_one[400] = "{\"type\":\"url_verification\",\"challenge\":\"";
    memset(long_one + strlen(long_one), 'a', 257);
    strncat(long_one, "\"}", 3);
    decode_text(WEBHOOK_SLACK, long_one);
    assert_int_equal(result.reply, WEBHOOK_REPLY_NONE);
    decode_file(WEBHOOK_STANDARD, "slack_challenge.json"); /* of nobody else */
    assert_int_equal(result.reply, WEBHOOK_REPLY_NONE);
    form = WEBHOOK_FORM_URLENCODED;
    decode_text(WEBHOOK_SLACK,
                "payload=%7B%22event_id%22%3A%22E1%22%2C%22event%22%3A%7B%22ts%22%3A"
                "%221767621600%22%2C%22user%22%3A%22U%22%2C%22text%22%3A%22a+b%22%7D%7D");
    assert_counts(1, 0, 0);
    assert_non_null(strstr(lines.data, "\"content\":\"a b\""));
}

static void test_forms_are_rows_of_texts(void **state)
{
    (void)state;
    message("x", "id", "user", "=elena", "text", WEBHOOK_COLUMN_AT);
    form = WEBHOOK_FORM_URLENCODED;
    decode_text(WEBHOOK_JSON, "id=1&user=u%2Fv&text=50%25+of+it%");
    assert_counts(1, 0, 0);
    assert_non_null(strstr(lines.data, "\"content\":\"50% of it%\""));
    assert_non_null(strstr(lines.data, "\"user_id\":\"u/v\""));
    static const char *const bad[] = {"", "id=1&id=2", "id=%ff", "id%00=1&id=2", "id=a%00"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        decode_text(WEBHOOK_JSON, bad[i]);
        assert_counts(0, 0, 1);
    }
}

static void test_discord_pings_and_events(void **state)
{
    (void)state;
    message("x", "@delivery", "user/id", "=elena", "user/username", WEBHOOK_COLUMN_AT);
    each_path = "event.data";
    header_id = STR("sig");
    decode_file(WEBHOOK_DISCORD, "discord_ping.json"); /* 204 */
    assert_int_equal(result.reply, WEBHOOK_REPLY_NONE);
    assert_counts(0, 1, 0);
    decode_file(WEBHOOK_DISCORD, "discord_interaction_ping.json");
    assert_int_equal(result.reply, WEBHOOK_REPLY_PONG);
    decode_file(WEBHOOK_DISCORD, "discord_event.json"); /* type 1, and no PING */
    assert_int_equal(result.reply, WEBHOOK_REPLY_NONE);
    assert_counts(1, 0, 0);
    assert_non_null(strstr(lines.data, "\"user_id\":\"80351110224678912\""));
}

static void test_telegram_updates(void **state)
{
    (void)state;
    struct mapping *m =
        message("x", "~{update_id}", "message/from.id", "=elena", "message/text", "message/date");
    m->fields[FIELD_AT].time_unit = TIME_EPOCH_S;
    snprintf(m->only_if, sizeof(m->only_if), "message");
    decode_file(WEBHOOK_TELEGRAM, "telegram_update.json");
    assert_counts(1, 0, 0);
    assert_string_equal(result.id, "10000");
    assert_non_null(strstr(lines.data, "\"user_id\":\"1111111\""));
    decode_text(WEBHOOK_TELEGRAM, "{\"update_id\":10001,\"poll\":{}}"); /* only_if */
    assert_counts(0, 1, 0);
}

static void test_each_leads_to_the_rows_and_what_is_around_them(void **state)
{
    (void)state;
    message("x", "id", "user", "=elena", "text", "@body.timestamp");
    each_path = "data";
    decode_file(WEBHOOK_STANDARD, "standard_event.json");
    assert_counts(2, 0, 0);
    assert_non_null(strstr(lines.data, "\"at\":\"2026-01-05T14:00:00Z\""));
    decode_text(WEBHOOK_STANDARD, "{\"type\":\"other\"}");
    assert_counts(0, 1, 0);
    decode_text(WEBHOOK_STANDARD, "{\"data\":[7],\"timestamp\":1}");
    assert_counts(0, 0, 1);
}

/* One row, two events: explode by two mappings of the same row. */
static void test_several_mappings_take_one_row_or_none_does(void **state)
{
    (void)state;
    message("x", "~{id}:q", "u", "=elena", "question", WEBHOOK_COLUMN_AT);
    struct mapping *m = message("x", "~{id}:a", "u", "=elena", "answer", WEBHOOK_COLUMN_AT);
    snprintf(m->fields[FIELD_ROLE].constant, 128, "bot");
    decode_text(WEBHOOK_JSON, "{\"id\":1,\"u\":\"u\",\"question\":\"q?\",\"answer\":\"a.\"}");
    assert_counts(1, 0, 0);
    assert_int_equal(result.n_events, 2);
    decode_text(WEBHOOK_JSON, "{\"id\":1,\"u\":\"u\",\"question\":\"q?\"}");
    assert_counts(0, 0, 1);
    assert_int_equal(result.n_events, 1); /* the dead letter alone */
    assert_int_equal(result.by_type[EVENT_MESSAGE], 0);
}

/* ---- the own form, and the forms of a body ---- */

static void test_own_events_come_alone_in_arrays_and_in_lines(void **state)
{
    (void)state;
    decode_file(WEBHOOK_WARMPATH, "warmpath.jsonl"); /* by what it looks like */
    assert_counts(2, 0, 0);
    char *copy = strdup(lines.data);
    form = WEBHOOK_FORM_LINES;
    decode_file(WEBHOOK_WARMPATH, "warmpath.jsonl");
    assert_lines(copy);
    form = WEBHOOK_FORM_JSON;
    char array[4096];
    char *second = strchr(copy, '\n');
    *second++ = '\0';
    snprintf(array, sizeof(array), " [%s,\n %s]\r\n", copy, second);
    decode_text(WEBHOOK_WARMPATH, array);
    assert_counts(2, 0, 0);
    decode_text(WEBHOOK_WARMPATH, copy);
    assert_counts(1, 0, 0);
    free(copy);
}

static void test_a_bad_line_or_element_leaves_the_others(void **state)
{
    (void)state;
#define EVENT(id)                                                 \
    "{\"type\":\"privacy\",\"id\":\"" id                          \
    "\",\"user_id\":\"u\",\"op\":\"optout\",\"at\":\"2026-01-05T" \
    "14:00:00Z\"}"
    form = WEBHOOK_FORM_LINES;
    decode_text(WEBHOOK_WARMPATH, EVENT("1") "\n{\"type\"\n\n" EVENT("2") "\r\n");
    assert_counts(2, 0, 1);
    assert_false(webhook_result_is_bad(&result));
    assert_non_null(strstr(lines.data, "\"bytes\":\"{\\\"type\\\"\""));
    form = WEBHOOK_FORM_JSON;
    decode_text(WEBHOOK_WARMPATH, "[" EVENT("1") ",{\"type\":\"privacy\"}," EVENT("2") ",null]");
    assert_counts(2, 0, 2);
    decode_text(WEBHOOK_WARMPATH, "{\"type\":\"dead_letter\",\"id\":\"1\",\"at\":1,\"where\":\"w\","
                                  "\"reason\":\"r\",\"bytes\":\"b\"}");
    assert_counts(0, 0, 1);
    assert_non_null(strstr(lines.data, "a dead letter cannot be sent"));
}

static void test_json_is_strict(void **state)
{
    (void)state;
    message("x", "id", "u", "=elena", "text", WEBHOOK_COLUMN_AT);
    static const struct {
        const char *body, *why;
    } rows[] = {
        {"", "json: there is none"},
        {" \r\n\t", "json: there is none"},
        {"{", "json: line 1"},
        {"{\"id\":1,\"id\":2}", "duplicate"},
        {"{\"id\":9223372036854775808}", "too big integer"},
        {"{\"id\":1e999}", "real number overflow"},
        {"{\"id\":\"a\\u0000b\"}", "json: line 1"},
        {"{\"id\":\"\xff\"}", "json: line 1"},
        {"{} {}", "json: line 1"},
        {"{\"id\":NaN}", "json: line 1"},
        {"\"text\"", "json: "},
        {"{\n\"id\": 1,\n\"id\": 2}", "json: line 3"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        decode_text(WEBHOOK_JSON, rows[i].body);
        assert_counts(0, 0, 1);
        if (!strstr(lines.data, rows[i].why))
            fail_msg("%s gave %s", rows[i].body, lines.data);
    }
    decode_text(WEBHOOK_JSON, "{\"id\":9223372036854775807,\"u\":-5,\"text\":0.1}");
    assert_counts(1, 0, 0);
    assert_non_null(strstr(lines.data, "\"id\":\"9223372036854775807\""));
    assert_non_null(strstr(lines.data, "\"content\":\"0.1\""));
}

/* An own event is read by itself, as strictly. */
static void test_own_events_are_strict(void **state)
{
    (void)state;
#define OWN(more)                                                                              \
    "{\"type\":\"privacy\",\"id\":\"1\",\"user_id\":\"u\",\"op\":\"optout\",\"at\":\"2026-01-" \
    "05T14:"                                                                                   \
    "00:00Z\"" more "}"
    char deep[512];
    for (int more = 0; more < 2; more++) {
        char brackets[2][80] = {"", ""};
        memset(brackets[0], '[', WEBHOOK_DEPTH_MAX - 1 + (size_t)more);
        memset(brackets[1], ']', WEBHOOK_DEPTH_MAX - 1 + (size_t)more);
        snprintf(deep, sizeof(deep), OWN(",\"x\":%s%s"), brackets[0], brackets[1]);
        decode_text(WEBHOOK_WARMPATH, deep);
        assert_counts(!more, 0, more);
    }
    static const char *const bad[] = {OWN(",\"id\":\"2\""), OWN(",\"x\":9223372036854775808"),
                                      OWN(",\"x\":\"\xff\""), OWN("") " {}", OWN("") "]"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        decode_text(WEBHOOK_WARMPATH, bad[i]);
        assert_counts(0, 0, 1);
    }
    /* Where the id of the delivery is in the body, the body is read for it. */
    id_path = "x.key";
    decode_text(WEBHOOK_WARMPATH, OWN(",\"x\":{\"key\":\"k1\"}"));
    assert_counts(1, 0, 0);
    assert_string_equal(result.id, "k1");
}

static void test_depth_and_size_are_bounded(void **state)
{
    (void)state;
    message("x", "id", "u", "=elena", "text", WEBHOOK_COLUMN_AT);
    for (int more = 0; more < 2; more++) {
        char body[512] = "{\"id\":1,\"u\":2,\"text\":";
        size_t n = strlen(body);
        for (int i = 0; i < WEBHOOK_DEPTH_MAX - 1 + more; i++)
            body[n++] = '[';
        n += (size_t)snprintf(body + n, sizeof(body) - n, "\"]\\\"[\"");
        for (int i = 0; i < WEBHOOK_DEPTH_MAX - 1 + more; i++)
            body[n++] = ']';
        body[n] = '}';
        decode(WEBHOOK_JSON, (struct str){body, n + 1});
        assert_counts(!more, 0, more);
    }
    assert_non_null(strstr(lines.data, "has more than 64 levels"));
    /* A large element is kept as its beginning. */
    size_t size = 1 << 18;
    char *large = malloc(size);
    memset(large, 'x', size);
    memcpy(large, "{\"id\":\"", 7);
    memcpy(large + size - 2, "\"}", 2);
    decode(WEBHOOK_JSON, (struct str){large, size});
    assert_counts(0, 0, 1);
    assert_true(result.events.len < LIMIT_DEAD_LETTER_BYTES + 512);
    free(large);
}

/* ---- ids of deliveries ---- */

static void test_where_the_id_of_a_delivery_comes_from(void **state)
{
    (void)state;
    message("x", "id", "u", "=elena", "text", WEBHOOK_COLUMN_AT);
    decode_text(WEBHOOK_JSON, "{\"id\":1}");
    assert_string_equal(result.id, "");
    header_id = STR("from-header");
    decode_text(WEBHOOK_JSON, "{\"id\":1}");
    assert_string_equal(result.id, "from-header");
    decode_text(WEBHOOK_JSON, "not json"); /* also then: a repetition gets 2xx */
    assert_string_equal(result.id, "from-header");
    id_path = "meta.key";
    decode_text(WEBHOOK_JSON, "{\"id\":1,\"meta\":{\"key\":\"named\"}}");
    assert_string_equal(result.id, "named");
    decode_text(WEBHOOK_JSON, "{\"id\":1,\"meta\":{\"key\":77}}");
    assert_string_equal(result.id, "77");
    decode_text(WEBHOOK_JSON, "{\"id\":1,\"meta\":{}}");
    assert_string_equal(result.id, "from-header");
    header_id = STR_NULL;
    decode_text(WEBHOOK_JSON, "{\"id\":1,\"meta\":{\"key\":[]}}");
    assert_string_equal(result.id, "");
    char body[400];
    snprintf(body, sizeof(body), "{\"meta\":{\"key\":\"%0200d\"}}", 1);
    decode_text(WEBHOOK_JSON, body);
    assert_int_equal(strlen(result.id), 64);
}

/* The same elements in another order, or parted otherwise, are another delivery. */
static void test_several_elements_have_one_id_together(void **state)
{
    (void)state;
    message("x", "id", "u", "=elena", "text", WEBHOOK_COLUMN_AT);
    static const char *const bodies[] = {
        "[{\"k\":\"a\"},{\"k\":\"b\"}]", "[{\"k\":\"a\"},{\"k\":\"b\"}]",
        "[{\"k\":\"b\"},{\"k\":\"a\"}]", "[{\"k\":\"ab\"},{\"k\":\"c\"}]",
        "[{\"k\":\"a\"},{\"k\":\"bc\"}]"};
    char ids[5][WEBHOOK_ID_BYTES + 1];
    id_path = "k";
    for (size_t i = 0; i < 5; i++) {
        decode_text(WEBHOOK_JSON, bodies[i]);
        memcpy(ids[i], result.id, sizeof(ids[i]));
        assert_int_equal(strlen(ids[i]), 64);
        for (size_t k = 0; k < i; k++)
            assert_int_equal(strcmp(ids[i], ids[k]) == 0, i == 1 && k == 0);
    }
}

static void test_content_types(void **state)
{
    (void)state;
    static const struct {
        const char *type;
        enum webhook_form form;
    } rows[] = {
        {"", WEBHOOK_FORM_JSON},
        {"application/json", WEBHOOK_FORM_JSON},
        {"Application/JSON; charset=utf-8", WEBHOOK_FORM_JSON},
        {"application/json;charset=utf-8", WEBHOOK_FORM_JSON},
        {"application/cloudevents+json", WEBHOOK_FORM_JSON},
        {"text/plain ; x", WEBHOOK_FORM_JSON},
        {"application/octet-stream", WEBHOOK_FORM_JSON},
        {"application/x-ndjson", WEBHOOK_FORM_LINES},
        {"application/jsonl", WEBHOOK_FORM_LINES},
        {"application/x-www-form-urlencoded", WEBHOOK_FORM_URLENCODED},
        {"text/html", WEBHOOK_FORM_UNKNOWN},
        {"multipart/form-data; boundary=x", WEBHOOK_FORM_UNKNOWN},
        {"application/xml", WEBHOOK_FORM_UNKNOWN},
        {"application/+json", WEBHOOK_FORM_UNKNOWN},
        {"application/jso", WEBHOOK_FORM_UNKNOWN},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if (webhook_form(str_from(rows[i].type)) != rows[i].form)
            fail_msg("%s", rows[i].type);
    assert_int_equal(webhook_form(STR_NULL), WEBHOOK_FORM_JSON);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_supabase_rows_are_what_the_table_would_be),
        TEST(test_a_soft_deleted_row_is_a_delete),
        TEST(test_other_tables_and_ignored_values_are_ignored),
        TEST(test_a_row_change_that_is_none_is_kept),
        TEST(test_sequin_batches_know_when_they_were_committed),
        TEST(test_sequin_ids_from_before_there_were_keys),
        TEST(test_deletes_of_memories_happened_when_they_were_committed),
        TEST(test_counters_count_from_the_old_row),
        TEST(test_github_events_choose_their_mapping),
        TEST(test_stripe_events_have_their_id_in_the_body),
        TEST(test_slack_messages_and_the_challenge),
        TEST(test_forms_are_rows_of_texts),
        TEST(test_discord_pings_and_events),
        TEST(test_telegram_updates),
        TEST(test_each_leads_to_the_rows_and_what_is_around_them),
        TEST(test_several_mappings_take_one_row_or_none_does),
        TEST(test_own_events_come_alone_in_arrays_and_in_lines),
        TEST(test_a_bad_line_or_element_leaves_the_others),
        TEST(test_json_is_strict),
        TEST(test_own_events_are_strict),
        TEST(test_depth_and_size_are_bounded),
        TEST(test_where_the_id_of_a_delivery_comes_from),
        TEST(test_several_elements_have_one_id_together),
        TEST(test_content_types),
    };
    return cmocka_run_group_tests_name("ingest/webhook", tests, NULL, NULL);
}
