/*
 * tests/ingest/test_qdrant.c - a point to its events, what is remembered of it, and the paging of a
 * reading against a small server made of arrays.
 */
#include "ingest/qdrant_walk.h"

#include <setjmp.h> /* cmocka needs these three */
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/clock.h"

#define UUID  "5c56c793-69f3-4fbf-87e6-c4bf54c28c26"
#define T0    INT64_C(1767621600) /* 2026-01-05T14:00:00Z */
#define T0_US (T0 * US_PER_SECOND)

static const struct qdrant_rules rules = {
    .name = "mem",
    .collection = {"Memories Elena", 14},
    .now_us = T0_US + 5,
};
static struct event_arena *arena;
static struct buf scratch;
static struct qdrant_page page; /* of the last point: the events borrow from it */
static struct qdrant_point point;
static struct qdrant_events found;

static int setup(void **state)
{
    (void)state;
    buf_init(&scratch, 8u << 20);
    return event_arena_new(&arena, NULL);
}

static int teardown(void **state)
{
    (void)state;
    qdrant_page_deinit(&page);
    event_arena_free(arena);
    buf_deinit(&scratch);
    return 0;
}

/* The events of one point; payload NULL: none. */
static void read_point_by(const struct qdrant_rules *by, const char *id, const char *payload,
                          const struct qdrant_known *was)
{
    char body[8192];
    struct error err = {0};
    qdrant_page_deinit(&page);
    snprintf(body, sizeof(body),
             "{\"result\":{\"points\":[{\"id\":%s,\"payload\":%s}],\"next_page_offset\":null}}", id,
             payload ? payload : "null");
    assert_int_equal(qdrant_page_read(str_from(body), &page, &err), STATUS_OK);
    assert_int_equal(page.n, 1);
    assert_int_equal(qdrant_page_point(&page, 0, &point, &err), STATUS_OK);
    assert_int_equal(qdrant_point_events(by, &point, was, arena, &scratch, &found, &err),
                     STATUS_OK);
    for (size_t i = 0; i < found.n; i++)
        assert_int_equal(event_check(&found.events[i], &err), STATUS_OK);
}

static void read_point(const char *id, const char *payload, const struct qdrant_known *was)
{
    read_point_by(&rules, id, payload, was);
}

static void assert_str(struct str got, const char *want)
{
    assert_int_equal(got.len, strlen(want));
    assert_memory_equal(got.ptr, want, got.len);
}

/* What is remembered outlives the arena. */
static struct qdrant_known keep(struct buf *bytes)
{
    struct qdrant_known k;
    buf_init(bytes, 4096);
    assert_int_equal(qdrant_known_encode(&found.known, bytes), STATUS_OK);
    assert_int_equal(qdrant_known_decode((struct str){bytes->data, bytes->len}, &k, NULL),
                     STATUS_OK);
    return k;
}

#define BASE "\"user_id\":\"ann\",\"timestamp_unix\":1767621600"

/* ---- a point to its events ---- */

static void test_a_point_is_a_memory(void **state)
{
    (void)state;
    read_point("\"" UUID "\"",
               "{" BASE ",\"content\":\"the dog hurt its leg\",\"memory_type\":\"fact\","
               "\"overall_significance\":0.75,\"keywords\":[1,{}]}",
               NULL);
    assert_int_equal(found.n, 1);
    assert_true(found.changed);
    const struct event *e = &found.events[0];
    assert_int_equal(e->type, EVENT_MEMORY);
    assert_int_equal(e->u.memory.op, MEMORY_CREATE);
    assert_str(e->id, UUID);
    assert_str(e->u.memory.memory_id, UUID);
    assert_str(e->user_id, "ann");
    assert_str(e->bot_name, "memories_elena");
    assert_true(e->at_us == T0_US);
    assert_str(e->u.memory.content, "the dog hurt its leg");
    assert_str(e->u.memory.memory_type, "fact");
    assert_true(e->u.memory.importance == 0.75);
    assert_true(isnan(e->u.memory.score));
    assert_int_equal(found.known.kinds, QDRANT_IS_MEMORY);
}

static void test_a_point_with_a_role_is_a_message_too(void **state)
{
    (void)state;
    static const struct {
        const char *role;
        enum message_role is;
    } roles[] = {{"user", ROLE_USER}, {"human", ROLE_USER}, {"assistant", ROLE_BOT},
                 {"bot", ROLE_BOT},   {"ai", ROLE_BOT},     {"narrator", 0}};
    for (size_t i = 0; i < sizeof(roles) / sizeof(roles[0]); i++) {
        char payload[512];
        snprintf(payload, sizeof(payload),
                 "{" BASE ",\"role\":\"%s\",\"content\":\"hi\",\"channel_id\":881,"
                 "\"emotional_context\":\"joy\",\"roberta_confidence\":0.5}",
                 roles[i].role);
        read_point("7", payload, NULL);
        assert_int_equal(found.n, roles[i].is ? 2 : 1);
        if (!roles[i].is)
            continue;
        const struct event *e = &found.events[1];
        assert_int_equal(e->type, EVENT_MESSAGE);
        assert_int_equal(e->u.message.role, roles[i].is);
        assert_int_equal(e->u.message.op, MESSAGE_INSERT);
        assert_str(e->id, "7");
        assert_str(e->u.message.content, "hi");
        assert_str(e->u.message.channel_id, "881");
        assert_str(e->u.message.emotion, "joy");
        assert_true(e->u.message.emotion_confidence == 0.5);
        assert_int_equal(found.known.kinds, QDRANT_IS_MEMORY | QDRANT_IS_MESSAGE);
    }
    /* The same message may come from a table: then its own id says so. */
    read_point("7", "{" BASE ",\"role\":\"user\",\"content\":\"hi\",\"message_id\":991}", NULL);
    assert_str(found.events[1].id, "991");
    assert_str(found.events[0].id, "7");
}

static void test_repetitions_of_others_stand_for_nothing(void **state)
{
    (void)state;
    static const char *const payloads[] = {
        "{\"role\":\"conversation_pair\"}", "{\"memory_type\":\"conversation_pair\"}",
        "{\"role\":\"system\"}", "{\"role\":\"tool\",\"user_id\":[1]}"};
    for (size_t i = 0; i < sizeof(payloads) / sizeof(payloads[0]); i++) {
        read_point("7", payloads[i], NULL);
        assert_int_equal(found.n, 0);
        assert_true(found.ignored && found.changed);
        struct qdrant_known was = found.known;
        read_point("7", payloads[i], &was);
        assert_false(found.ignored || found.changed);
    }
}

static void test_protected_from_decay_is_pinned(void **state)
{
    (void)state;
    read_point("7", "{" BASE ",\"decay_protection\":true}", NULL);
    assert_int_equal(found.n, 2);
    assert_int_equal(found.events[1].u.memory.op, MEMORY_PIN);
    assert_str(found.events[1].u.memory.memory_id, "7");
    read_point("7", "{" BASE ",\"decay_protection\":0.9}", NULL);
    assert_int_equal(found.n, 2);
    read_point("7", "{" BASE ",\"decay_protection\":false}", NULL);
    assert_int_equal(found.n, 1);
}

static void test_ids_are_exact(void **state)
{
    (void)state;
    static const char *const ids[] = {"0", "9007199254740993", "9223372036854775807",
                                      "9223372036854775808", "18446744073709551615"};
    for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
        read_point(ids[i], "{" BASE ",\"role\":\"user\",\"content\":\"\",\"id\":9007199254740993}",
                   NULL);
        assert_str(found.events[0].u.memory.memory_id, ids[i]);
        assert_str(found.events[1].id, "9007199254740993");
    }
    read_point("1",
               "{\"user_id\":18446744073709551614,\"timestamp_unix\":1,\"content\":\"-123456789"
               "0123456789 \\\"12345678901234567890\"}",
               NULL);
    assert_str(found.events[0].user_id, "18446744073709551614");
    assert_str(found.events[0].u.memory.content, "-1234567890123456789 \"12345678901234567890");
}

static void test_times_of_all_forms(void **state)
{
    (void)state;
    static const struct {
        const char *payload;
        int64_t at_us; /* 0: a dead letter */
    } times[] = {
        {"\"timestamp_unix\":1767621600", T0_US},
        {"\"timestamp_unix\":1767621600.25", T0_US + 250000},
        {"\"timestamp_unix\":\"1767621600.5\"", T0_US + 500000},
        {"\"timestamp_unix\":null,\"timestamp\":\"2026-01-05T14:00:00\"", T0_US},
        {"\"timestamp\":\"2026-01-05T14:00:00.123456\"", T0_US + 123456},
        {"\"timestamp\":\"2026-01-05T16:00:00+02:00\"", T0_US},
        {"\"timestamp\":\"2026-01-05T14:00:00Z\"", T0_US},
        {"\"timestamp_unix\":[1767621600]", 0},
        {"\"timestamp_unix\":true", 0},
        {"\"timestamp_unix\":1767621600000000", 0}, /* microseconds: 56 million years */
        {"\"timestamp\":\"yesterday\"", 0},
        {"\"timestamp\":null", 0},
    };
    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
        char payload[256];
        snprintf(payload, sizeof(payload), "{\"user_id\":\"ann\",%s}", times[i].payload);
        read_point("7", payload, NULL);
        assert_int_equal(found.n, 1);
        if (times[i].at_us) {
            assert_int_equal(found.events[0].type, EVENT_MEMORY);
            assert_true(found.events[0].at_us == times[i].at_us);
        } else {
            assert_int_equal(found.events[0].type, EVENT_DEAD_LETTER);
        }
    }
}

static void test_the_bot_is_the_configured_one_or_that_of_the_point_or_the_collection(void **state)
{
    (void)state;
    struct qdrant_rules fixed = rules;
    fixed.bot_name = STR("Marcus");
    read_point_by(&fixed, "7", "{" BASE ",\"bot_name\":\"Gabriel\"}", NULL);
    assert_str(found.events[0].bot_name, "marcus");
    read_point("7", "{" BASE ",\"bot_name\":\"Gabriel\"}", NULL);
    assert_str(found.events[0].bot_name, "gabriel");
    read_point("7", "{" BASE ",\"bot\":\"Sophia B\"}", NULL);
    assert_str(found.events[0].bot_name, "sophia_b");
}

static void test_what_cannot_be_used_is_a_dead_letter_once(void **state)
{
    (void)state;
    static const struct {
        const char *payload;
        const char *reason;
    } bad[] = {
        {NULL, "no payload"},
        {"{\"timestamp_unix\":1}", "user_id"},
        {"{\"user_id\":\"\",\"timestamp_unix\":1}", "user_id"},
        {"{\"user_id\":{\"a\":1},\"timestamp_unix\":1}", "user_id"},
        {"{\"user_id\":\"a\\u0000b\",\"timestamp_unix\":1}", "user"},
        {"{\"user_id\":\"ann\"}", "timestamp"},
        {"{" BASE ",\"content\":[\"a\"]}", "content"},
        {"{" BASE ",\"access_count\":3,\"last_accessed\":\"soon\"}", "last_accessed"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        read_point("7", bad[i].payload, NULL);
        assert_int_equal(found.n, 1);
        const struct event_dead_letter *d = &found.events[0].u.dead_letter;
        assert_int_equal(found.events[0].type, EVENT_DEAD_LETTER);
        assert_str(d->where, "qdrant:mem");
        assert_non_null(strstr(d->reason.ptr, bad[i].reason));
        assert_int_equal(found.known.kinds, 0);
        struct qdrant_known was = found.known;
        read_point("7", bad[i].payload, &was);
        assert_int_equal(found.n, 0);
        assert_false(found.changed);
        read_point("7", "{" BASE "}", &was);
        assert_int_equal(found.n, 1);
        assert_int_equal(found.events[0].type, EVENT_MEMORY);
    }
}

static void test_what_is_no_share_is_not_given(void **state)
{
    (void)state;
    static const char *const values[] = {"1.5", "-0.1", "\"high\"", "[0.5]", "null"};
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        char payload[256];
        snprintf(payload, sizeof(payload), "{" BASE ",\"overall_significance\":%s}", values[i]);
        read_point("7", payload, NULL);
        assert_int_equal(found.events[0].type, EVENT_MEMORY);
        assert_true(isnan(found.events[0].u.memory.importance));
    }
}

/* ---- what is remembered ---- */

static void test_a_point_that_is_unchanged_gives_nothing(void **state)
{
    (void)state;
    static const char payload[] =
        "{" BASE ",\"role\":\"user\",\"content\":\"hi\",\"decay_protection\":true}";
    struct buf bytes;
    read_point("7", payload, NULL);
    assert_int_equal(found.n, 3);
    struct qdrant_known was = keep(&bytes);
    read_point("7", payload, &was);
    assert_int_equal(found.n, 0);
    assert_false(found.changed);
    /* Members that mean nothing here may change. */
    read_point("7",
               "{" BASE
               ",\"role\":\"user\",\"content\":\"hi\",\"decay_protection\":true,\"word_count\":1}",
               &was);
    assert_false(found.changed);
    read_point("7", "{" BASE ",\"role\":\"user\",\"content\":\"hi you\",\"decay_protection\":true}",
               &was);
    assert_int_equal(found.n, 3);
    assert_int_equal(found.events[2].u.message.op, MESSAGE_UPDATE);
    assert_str(found.events[2].u.message.content, "hi you");
    /* A hash of 0 is that of nothing: all is sent again. */
    was.hash = 0;
    read_point("7", payload, &was);
    assert_int_equal(found.n, 3);
    buf_deinit(&bytes);
}

static void test_a_point_that_moves_is_deleted_where_it_was(void **state)
{
    (void)state;
    struct buf bytes;
    read_point("7", "{" BASE ",\"role\":\"user\",\"content\":\"hi\"}", NULL);
    struct qdrant_known was = keep(&bytes);
    read_point("7", "{\"user_id\":\"bob\",\"timestamp_unix\":1,\"role\":\"user\"}", &was);
    assert_int_equal(found.n, 4);
    assert_int_equal(found.events[0].u.memory.op, MEMORY_DELETE);
    assert_str(found.events[0].user_id, "ann");
    assert_int_equal(found.events[1].type, EVENT_MESSAGE_DELETED);
    assert_str(found.events[1].user_id, "ann");
    assert_str(found.events[2].user_id, "bob");
    /* No message any more. */
    read_point("7", "{" BASE "}", &was);
    assert_int_equal(found.n, 2);
    assert_int_equal(found.events[0].type, EVENT_MESSAGE_DELETED);
    assert_int_equal(found.events[1].u.memory.op, MEMORY_CREATE);
    /* Another id. */
    read_point("7", "{" BASE ",\"role\":\"user\",\"content\":\"hi\",\"message_id\":\"x\"}", &was);
    assert_int_equal(found.n, 3);
    assert_int_equal(found.events[0].type, EVENT_MESSAGE_DELETED);
    assert_str(found.events[0].id, "7");
    assert_str(found.events[2].id, "x");
    /* Nothing any more. */
    read_point("7", "{\"role\":\"system\"}", &was);
    assert_int_equal(found.n, 2);
    qdrant_gone_events(&rules, STR("7"), &was, &found);
    assert_int_equal(found.n, 2);
    assert_int_equal(found.events[0].u.memory.op, MEMORY_DELETE);
    assert_str(found.events[0].u.memory.memory_id, "7");
    assert_int_equal(found.events[1].type, EVENT_MESSAGE_DELETED);
    for (size_t i = 0; i < found.n; i++)
        assert_int_equal(event_check(&found.events[i], NULL), STATUS_OK);
    buf_deinit(&bytes);
}

static void test_a_point_that_became_unusable_is_still_known_as_what_it_was(void **state)
{
    (void)state;
    struct buf bytes, later;
    read_point("7", "{" BASE "}", NULL);
    struct qdrant_known was = keep(&bytes);
    read_point("7", "{\"user_id\":\"ann\"}", &was);
    assert_int_equal(found.n, 1);
    assert_int_equal(found.events[0].type, EVENT_DEAD_LETTER);
    struct qdrant_known now = keep(&later);
    qdrant_gone_events(&rules, STR("7"), &now, &found);
    assert_int_equal(found.n, 1);
    assert_str(found.events[0].user_id, "ann");
    buf_deinit(&bytes);
    buf_deinit(&later);
}

static void test_accesses_are_counted_up(void **state)
{
    (void)state;
    struct buf bytes, later;
    read_point("7",
               "{" BASE ",\"access_count\":2,\"last_accessed_unix\":1767625200,"
               "\"retrieval_score\":0.5}",
               NULL);
    assert_int_equal(found.n, 3);
    assert_int_equal(found.events[1].u.memory.op, MEMORY_ACCESS);
    assert_str(found.events[1].id, "7#1");
    assert_str(found.events[2].id, "7#2");
    assert_true(found.events[2].at_us == T0_US + US_PER_HOUR);
    assert_true(found.events[2].u.memory.score == 0.5);
    struct qdrant_known was = keep(&bytes);
    read_point("7", "{" BASE ",\"access_count\":3,\"last_accessed\":\"2026-01-05T16:00:00\"}",
               &was);
    assert_int_equal(found.n, 1); /* only that; the memory is unchanged */
    assert_true(found.changed);
    assert_str(found.events[0].id, "7#3");
    assert_true(found.events[0].at_us == T0_US + 2 * US_PER_HOUR);
    struct qdrant_known three = keep(&later);
    /* Smaller: none. Without a time: they wait. Far ahead: the last ones. */
    read_point("7", "{" BASE ",\"access_count\":1,\"last_accessed_unix\":1767625200}", &three);
    assert_int_equal(found.n, 0);
    read_point("7", "{" BASE ",\"access_count\":9}", &three);
    assert_int_equal(found.n, 0);
    assert_int_equal(found.known.accesses, 3);
    read_point("7", "{" BASE ",\"access_count\":1000000,\"last_accessed_unix\":1767625200}",
               &three);
    assert_int_equal(found.n, QDRANT_ACCESSES_MAX);
    assert_str(found.events[QDRANT_ACCESSES_MAX - 1].id, "7#1000000");
    buf_deinit(&bytes);
    buf_deinit(&later);
    /* Without a count, each time is one access. */
    read_point("7", "{" BASE ",\"last_accessed_unix\":1767625200}", NULL);
    assert_int_equal(found.n, 2);
    assert_str(found.events[1].id, "7@1767625200000000");
}

static void test_what_is_remembered_is_checked(void **state)
{
    (void)state;
    struct buf bytes;
    read_point("7", "{" BASE "}", NULL);
    (void)keep(&bytes);
    struct qdrant_known k;
    for (size_t len = 0; len < bytes.len; len++)
        assert_int_equal(qdrant_known_decode((struct str){bytes.data, len}, &k, NULL),
                         STATUS_CORRUPT);
    buf_deinit(&bytes);
}

/* ---- answers ---- */

static void test_other_answers_are_refused(void **state)
{
    (void)state;
    static const char *const bodies[] = {
        "",
        "<html>",
        "[]",
        "{}",
        "{\"result\":{\"points\":{}}}",
        "{\"result\":{\"points\":[],\"next_page_offset\":{}}}",
        "{\"result\":{\"points\":[],\"next_page_offset\":\"\"}}",
        "{\"result\":{\"points\":[],\"next_page_offset\":-1}}",
        "{\"result\":{\"points\":[],\"next_page_offset\":\"x\\\"},{\"}}",
        "{\"result\":{\"points\":[{\"id\":1}",
        "{\"result\":{\"points\":[],\"next_page_offset\":00000000000195918311}}",
    };
    struct qdrant_page p = {0};
    for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++)
        assert_int_equal(qdrant_page_read(str_from(bodies[i]), &p, NULL), STATUS_PROTOCOL);
    static const char *const points[] = {
        "7", "{}", "{\"id\":null}", "{\"id\":1.5}", "{\"id\":\"a'b\"}", "{\"id\":[1]}"};
    for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++) {
        char body[128];
        struct qdrant_point pt;
        snprintf(body, sizeof(body), "{\"result\":{\"points\":[%s]}}", points[i]);
        assert_int_equal(qdrant_page_read(str_from(body), &p, NULL), STATUS_OK);
        assert_int_equal(qdrant_page_point(&p, 0, &pt, NULL), STATUS_PROTOCOL);
        qdrant_page_deinit(&p);
    }
}

static void test_a_missing_index_is_recognised(void **state)
{
    (void)state;
    assert_true(qdrant_is_index_missing(400, STR("No range index for `order_by` key")));
    assert_true(qdrant_is_index_missing(422, STR("Index required but not found")));
    assert_false(qdrant_is_index_missing(400, STR("Wrong input: limit")));
    assert_false(qdrant_is_index_missing(500, STR("index")));
    assert_false(qdrant_is_index_missing(400, STR("inde")));
}

/* ---- readings ---- */

#define N_MAX 400
#define NONE  ((double)NAN)
struct world {
    int n;
    double at[N_MAX]; /* of the point with the id i; NAN: it has none */
    bool old;         /* does not know order_by */
    int requests, ordered, largest_seen;
    int times[N_MAX]; /* how often a point came */
};

static bool is_excluded(const json_t *filter, int id)
{
    const json_t *ids =
        json_object_get(json_array_get(json_object_get(filter, "must_not"), 0), "has_id");
    for (size_t i = 0; i < json_array_size(ids); i++)
        if (json_integer_value(json_array_get(ids, i)) == id)
            return true;
    return false;
}

static bool is_in_range(const json_t *filter, double at)
{
    const json_t *range =
        json_object_get(json_array_get(json_object_get(filter, "must"), 0), "range");
    const json_t *gte = json_object_get(range, "gte"), *gt = json_object_get(range, "gt"),
                 *lte = json_object_get(range, "lte");
    return !range ||
           ((!gte || at >= json_number_value(gte)) && (!gt || at > json_number_value(gt)) &&
            (!lte || at <= json_number_value(lte)));
}

/* Every other one first: equal values are in no order of ids. */
static int shuffled(int i, int n)
{
    return i < (n + 1) / 2 ? 2 * i : 2 * (i - (n + 1) / 2) + 1;
}

static void put_answer(struct world *w, const int *ids, int n, const char *next, struct buf *out)
{
    buf_reset(out);
    assert_int_equal(buf_printf(out, "{\"result\":{\"points\":["), STATUS_OK);
    for (int i = 0; i < n; i++) {
        w->times[ids[i]]++;
        assert_int_equal(buf_printf(out, "%s{\"id\":%d,\"payload\":{", i ? "," : "", ids[i]),
                         STATUS_OK);
        if (!isnan(w->at[ids[i]]))
            assert_int_equal(buf_printf(out, "\"timestamp_unix\":%.17g", w->at[ids[i]]), STATUS_OK);
        assert_int_equal(buf_printf(out, "}}"), STATUS_OK);
    }
    assert_int_equal(buf_printf(out, "],\"next_page_offset\":%s}}", next), STATUS_OK);
}

static void answer(struct world *w, const char *request, struct buf *out)
{
    json_t *q = json_loads(request, 0, NULL);
    assert_non_null(q);
    const json_t *order = w->old ? NULL : json_object_get(q, "order_by");
    const json_t *filter = json_object_get(q, "filter"),
                 *start = json_object_get(order, "start_from");
    int limit = (int)json_integer_value(json_object_get(q, "limit")), ids[N_MAX], n = 0;
    int seen = (int)json_array_size(
        json_object_get(json_array_get(json_object_get(filter, "must_not"), 0), "has_id"));
    w->requests++;
    w->ordered += order != NULL;
    w->largest_seen = seen > w->largest_seen ? seen : w->largest_seen;
    for (int i = 0; i < w->n; i++) {
        int id = order ? shuffled(i, w->n) : i;
        bool ranged = json_object_get(filter, "must") || order;
        if ((ranged && isnan(w->at[id])) || is_excluded(filter, id) ||
            (!isnan(w->at[id]) && !is_in_range(filter, w->at[id])) ||
            (start && w->at[id] < json_number_value(start)) ||
            (!order && id < json_integer_value(json_object_get(q, "offset"))))
            continue;
        int at = n++;
        for (; order && at > 0 && w->at[ids[at - 1]] > w->at[id]; at--)
            ids[at] = ids[at - 1];
        ids[at] = id;
    }
    assert_false(order && json_object_get(q, "offset"));
    char next[16] = "null";
    if (!order && n > limit)
        snprintf(next, sizeof(next), "%d", ids[limit]);
    put_answer(w, ids, n < limit ? n : limit, next, out);
    json_decref(q);
}

static enum status read_world(struct world *w, struct qdrant_walk *walk)
{
    struct buf request, body;
    enum status st = STATUS_OK;
    buf_init(&request, 1u << 20);
    buf_init(&body, 1u << 20);
    for (int i = 0; i < 1000 && !st; i++) {
        struct qdrant_page p = {0};
        buf_reset(&request);
        assert_int_equal(qdrant_walk_request(walk, &request), STATUS_OK);
        assert_int_equal(buf_put_u8(&request, 0), STATUS_OK);
        answer(w, request.data, &body);
        assert_int_equal(qdrant_page_read((struct str){body.data, body.len}, &p, NULL), STATUS_OK);
        st = qdrant_walk_page(walk, &p, NULL);
        qdrant_page_deinit(&p);
    }
    buf_deinit(&request);
    buf_deinit(&body);
    return st;
}

static void test_all_points_come_once_by_id(void **state)
{
    (void)state;
    for (int n = 0; n < 12; n++) {
        struct world w = {.n = n};
        struct qdrant_walk walk;
        for (int i = 0; i < n; i++)
            w.at[i] = i % 3 ? (double)(T0 + i) : NONE;
        qdrant_walk_init(&walk, QDRANT_READ_ALL, -INFINITY, 4, 0);
        assert_int_equal(read_world(&w, &walk), STATUS_END);
        for (int i = 0; i < n; i++)
            assert_int_equal(w.times[i], 1);
        assert_int_equal(w.requests, n > 8 ? 3 : n > 4 ? 2 : 1);
        int last = (n - 1) % 3 ? n - 1 : n - 2; /* the newest that has a time */
        assert_true(n < 2 ? isnan(walk.newest) : walk.newest == (double)(T0 + last));
        qdrant_walk_deinit(&walk);
    }
}

static void test_since_leaves_out_what_is_older(void **state)
{
    (void)state;
    struct world w = {.n = 30};
    struct qdrant_walk walk;
    for (int i = 0; i < w.n; i++)
        w.at[i] = i == 29 ? NONE : (double)(T0 + (i * 7) % 30);
    qdrant_walk_init(&walk, QDRANT_READ_SINCE, T0 + 10.5, 4, 0);
    assert_int_equal(read_world(&w, &walk), STATUS_END);
    for (int i = 0; i < w.n; i++)
        assert_int_equal(w.times[i], w.at[i] >= T0 + 10.5);
    assert_true(walk.newest == T0 + 29);
    qdrant_walk_deinit(&walk);
}

/* Every shape of ties, page size and bound: all points that have the key come at least once. */
static void test_in_order_every_point_comes(void **state)
{
    (void)state;
    for (int ties = 1; ties <= 64; ties *= 2)
        for (uint32_t limit = 1; limit <= 9; limit += 4)
            for (size_t seen_max = 3; seen_max <= 300; seen_max *= 10) {
                struct world w = {.n = 200};
                struct qdrant_walk walk;
                for (int i = 0; i < w.n; i++)
                    w.at[i] = i % 50 == 7 ? NONE : (double)T0 + 0.1 * (i / ties);
                double since = ties % 4 ? -INFINITY : T0 + 0.3;
                qdrant_walk_init(&walk, QDRANT_READ_ORDERED, since, limit, seen_max);
                assert_int_equal(read_world(&w, &walk), STATUS_END);
                for (int i = 0; i < w.n; i++)
                    assert_int_equal(w.times[i] > 0, w.at[i] >= since);
                assert_true(walk.at == walk.newest);
                assert_true(w.largest_seen <= (int)(seen_max + limit));
                qdrant_walk_deinit(&walk);
            }
}

static void test_in_order_nothing_comes_twice_but_ties_beyond_the_bound(void **state)
{
    (void)state;
    struct world w = {.n = 200};
    struct qdrant_walk walk;
    for (int i = 0; i < w.n; i++)
        w.at[i] = T0 + (i / 40);
    qdrant_walk_init(&walk, QDRANT_READ_ORDERED, -INFINITY, 7, 0);
    assert_int_equal(read_world(&w, &walk), STATUS_END);
    for (int i = 0; i < w.n; i++)
        assert_int_equal(w.times[i], 1);
    qdrant_walk_deinit(&walk);
}

static void test_a_server_that_does_not_order_is_noticed(void **state)
{
    (void)state;
    struct world w = {.n = 30, .old = true};
    struct qdrant_walk walk;
    for (int i = 0; i < w.n; i++)
        w.at[i] = T0 + i; /* as it happens, in order */
    qdrant_walk_init(&walk, QDRANT_READ_ORDERED, -INFINITY, 4, 0);
    assert_int_equal(read_world(&w, &walk), STATUS_INVALID);
    qdrant_walk_deinit(&walk);
    w.n = 3; /* one page, but not in order */
    w.at[1] = T0 - 1;
    qdrant_walk_init(&walk, QDRANT_READ_ORDERED, -INFINITY, 4, 0);
    assert_int_equal(read_world(&w, &walk), STATUS_INVALID);
    qdrant_walk_deinit(&walk);
}

static enum status give_page(struct qdrant_walk *walk, const char *body)
{
    struct qdrant_page p = {0};
    assert_int_equal(qdrant_page_read(str_from(body), &p, NULL), STATUS_OK);
    enum status st = qdrant_walk_page(walk, &p, NULL);
    qdrant_page_deinit(&p);
    return st;
}

static void test_pages_that_never_end_are_ended(void **state)
{
    (void)state;
    struct qdrant_walk walk;
    qdrant_walk_init(&walk, QDRANT_READ_ALL, -INFINITY, 1, 0);
    static const char same[] = "{\"result\":{\"points\":[{\"id\":5}],\"next_page_offset\":6}}";
    assert_int_equal(give_page(&walk, same), STATUS_OK);
    assert_int_equal(give_page(&walk, same), STATUS_PROTOCOL);
    qdrant_walk_deinit(&walk);
    /* What was to be left out comes again. */
    qdrant_walk_init(&walk, QDRANT_READ_ORDERED, -INFINITY, 2, 0);
    static const char twice[] = "{\"result\":{\"points\":[{\"id\":5,\"order_value\":3},"
                                "{\"id\":5,\"order_value\":3}]}}";
    assert_int_equal(give_page(&walk, twice), STATUS_OK);
    assert_int_equal(walk.seen.len, QDRANT_ID_BYTES);
    assert_int_equal(give_page(&walk, twice), STATUS_INVALID);
    qdrant_walk_deinit(&walk);
}

static void test_several_values_give_a_point_several_times(void **state)
{
    (void)state;
    struct qdrant_walk walk;
    qdrant_walk_init(&walk, QDRANT_READ_ORDERED, -INFINITY, 3, 0);
    assert_int_equal(
        give_page(&walk, "{\"result\":{\"points\":["
                         "{\"id\":5,\"order_value\":3,\"payload\":{\"timestamp_unix\":[3,9]}},"
                         "{\"id\":6,\"order_value\":4,\"payload\":{\"timestamp_unix\":4}},"
                         "{\"id\":5,\"order_value\":9,\"payload\":{\"timestamp_unix\":[3,9]}}]}}"),
        STATUS_OK);
    assert_true(walk.at == 9);
    qdrant_walk_deinit(&walk);
    /* Without order_value nobody can say where the page ended. */
    qdrant_walk_init(&walk, QDRANT_READ_ORDERED, -INFINITY, 3, 0);
    assert_int_equal(
        give_page(&walk,
                  "{\"result\":{\"points\":[{\"id\":5,\"payload\":{\"timestamp_unix\":[3,9]}}]}}"),
        STATUS_INVALID);
    qdrant_walk_deinit(&walk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_point_is_a_memory),
        cmocka_unit_test(test_a_point_with_a_role_is_a_message_too),
        cmocka_unit_test(test_repetitions_of_others_stand_for_nothing),
        cmocka_unit_test(test_protected_from_decay_is_pinned),
        cmocka_unit_test(test_ids_are_exact),
        cmocka_unit_test(test_times_of_all_forms),
        cmocka_unit_test(test_the_bot_is_the_configured_one_or_that_of_the_point_or_the_collection),
        cmocka_unit_test(test_what_cannot_be_used_is_a_dead_letter_once),
        cmocka_unit_test(test_what_is_no_share_is_not_given),
        cmocka_unit_test(test_a_point_that_is_unchanged_gives_nothing),
        cmocka_unit_test(test_a_point_that_moves_is_deleted_where_it_was),
        cmocka_unit_test(test_a_point_that_became_unusable_is_still_known_as_what_it_was),
        cmocka_unit_test(test_accesses_are_counted_up),
        cmocka_unit_test(test_what_is_remembered_is_checked),
        cmocka_unit_test(test_other_answers_are_refused),
        cmocka_unit_test(test_a_missing_index_is_recognised),
        cmocka_unit_test(test_all_points_come_once_by_id),
        cmocka_unit_test(test_since_leaves_out_what_is_older),
        cmocka_unit_test(test_in_order_every_point_comes),
        cmocka_unit_test(test_in_order_nothing_comes_twice_but_ties_beyond_the_bound),
        cmocka_unit_test(test_a_server_that_does_not_order_is_noticed),
        cmocka_unit_test(test_pages_that_never_end_are_ended),
        cmocka_unit_test(test_several_values_give_a_point_several_times),
    };
    return cmocka_run_group_tests_name("ingest/qdrant", tests, setup, teardown);
}
