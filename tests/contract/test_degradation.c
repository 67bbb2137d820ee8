/*
 * tests/contract/test_degradation.c - what a missing signal costs (ENGINES.md Appendix B): nothing
 * is imputed, the column is NULL with a reason or the method says so, and a flag tells the reader.
 *
 * Method: the same ten days of chat with every signal, and with one of them left out.
 */
#include "core/clock.h"
#include "tests/contract/world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>
#include <math.h>

#define START_US (INT64_C(1767571200) * US_PER_SECOND) /* 2026-01-05, a Monday */
#define DAYS     10

enum signal {
    EMBEDDINGS = 1 << 0,
    EMOTION = 1 << 1,
    ACCESSES = 1 << 2,
    TRAITS = 1 << 3,
    METRICS = 1 << 4,
    OUTREACH = 1 << 5,
    EVERYTHING = (1 << 6) - 1,
};

struct chat {
    struct world world;
    unsigned signals;
    int64_t t_us;
    uint64_t n;
    char id[32];
    char text[96];
    float embedding[16];
};

static struct event event_of(struct chat *c, enum event_type type)
{
    snprintf(c->id, sizeof(c->id), "e%llu", (unsigned long long)++c->n);
    return (struct event){.type = type,
                          .id = str_from(c->id),
                          .user_id = STR("anna"),
                          .bot_name = STR("elena"),
                          .at_us = c->t_us};
}

static void send(struct chat *c, const struct event *e)
{
    world_apply(&c->world, e, SOURCE_POSTGRES, c->n, c->t_us);
}

static void say(struct chat *c, int topic, bool bot)
{
    static const char *const words[] = {"dog leg vet limp", "rust borrow checker loop",
                                        "oven sugar flour cake"};
    static const char *const ends[] = {"?", "!", "."};
    snprintf(c->text, sizeof(c->text), "%s again and number %d%s", words[topic], (int)(c->n % 7),
             ends[c->n % 3]);
    struct event e = event_of(c, EVENT_MESSAGE);
    struct event_message *m = &e.u.message;
    m->role = bot ? ROLE_BOT : ROLE_USER;
    m->op = MESSAGE_INSERT;
    m->content = str_from(c->text);
    m->emotion_confidence = NAN;
    if (c->signals & EMOTION) {
        m->emotion = c->n % 3 ? STR("joy") : STR("sadness");
        m->emotion_confidence = 0.8;
    }
    if (c->signals & TRAITS && bot) {
        m->n_traits = 1;
        m->traits[0].name = c->n % 4 ? STR("warm") : STR("curious");
        m->traits[0].weight = 1;
    }
    if (c->signals & EMBEDDINGS) {
        for (int i = 0; i < 16; i++)
            c->embedding[i] = (i % 3 == topic ? 1.0f : 0.05f) + (float)(c->n % 5) / 100.0f;
        m->embedding = c->embedding;
        m->embedding_dims = 16;
        m->embedding_model = STR("test-16");
    }
    send(c, &e);
    c->t_us += 50 * US_PER_SECOND;
}

static void remember(struct chat *c, int day)
{
    struct event e = event_of(c, EVENT_MEMORY);
    char id[16];
    e.u.memory = (struct event_memory){.op = MEMORY_CREATE, .score = NAN, .importance = 0.8};
    snprintf(id, sizeof(id), "memory-%d", day);
    e.u.memory.memory_id = str_from(id);
    e.u.memory.content = STR("dog leg vet limp");
    send(c, &e);
    for (int i = 0; i < day && c->signals & ACCESSES; i++) {
        e = event_of(c, EVENT_MEMORY);
        e.u.memory = (struct event_memory){
            .op = MEMORY_ACCESS, .score = 0.5, .importance = NAN, .outcome = OUTCOME_HIT};
        snprintf(id, sizeof(id), "memory-%d", i);
        e.u.memory.memory_id = str_from(id);
        send(c, &e);
    }
}

static void measure(struct chat *c)
{
    struct event e = event_of(c, EVENT_METRIC);
    e.user_id = STR_NULL;
    e.u.metric.measurement = STR("conversation_quality");
    e.u.metric.n_fields = 1;
    e.u.metric.fields[0].name = STR("engagement_score");
    e.u.metric.fields[0].value = 0.5 + (double)(c->n % 10) / 50;
    send(c, &e);
}

static void reach_out(struct chat *c)
{
    struct event e = event_of(c, EVENT_OUTREACH);
    e.u.outreach.op = OUTREACH_SENT;
    send(c, &e);
    c->t_us += US_PER_HOUR;
}

static struct chat chat_with(unsigned signals)
{
    struct chat c = {.signals = signals};
    for (int day = 0; day < DAYS; day++) {
        c.t_us = START_US + day * US_PER_DAY + 9 * US_PER_HOUR;
        remember(&c, day);
        for (int i = 0; i < 40; i++) {
            if (i % 20 == 0)
                c.t_us += 2 * US_PER_HOUR;
            if (signals & METRICS)
                measure(&c);
            say(&c, (i / 10 + day) % 3, i % 2);
        }
        if (signals & OUTREACH && day % 2)
            reach_out(&c);
    }
    c.t_us += US_PER_HOUR;
    return c;
}

/* "row" of the line, or NULL when there is none; the caller decrefs. */
static json_t *row_of(struct chat *c, struct str user, enum table_id table)
{
    char *line = world_row(world_key(&c->world, user, STR("elena")), table, c->t_us);
    json_t *root = *line ? json_loads(line, 0, NULL) : NULL;
    json_t *row = json_incref(json_object_get(root, "row"));
    json_decref(root);
    free(line);
    return row;
}

static json_t *user_row(struct chat *c, enum table_id table)
{
    json_t *row = row_of(c, STR("anna"), table);
    assert_non_null(row);
    return row;
}

static unsigned flags_of(const json_t *row)
{
    return (unsigned)json_integer_value(json_object_get(row, "state_flags"));
}

static void assert_null_with_reason(const json_t *row, const char *column)
{
    const json_t *details = json_object_get(row, "details");
    const json_t *reason = json_object_get(json_object_get(details, "reason"), column);
    assert_true(json_is_null(json_object_get(row, column)));
    assert_true(json_string_length(reason) > 0);
}

static void test_with_every_signal_nothing_is_flagged(void **state)
{
    (void)state;
    struct chat c = chat_with(EVERYTHING);
    static const struct {
        enum table_id table;
        unsigned never;
        const char *filled[4];
    } expected[] = {
        {TABLE_MEMORY_HEALTH, ROW_NO_ACCESS_SIGNAL, {"forgetting_risk_memories"}},
        {TABLE_CONVERSATION_PATTERNS,
         ROW_LEXICAL | ROW_NO_EMOTION,
         {"recent_topics", "emotional_engagement", "communication_style"}},
        {TABLE_PERSONALITY_PROFILES,
         ROW_SURFACE_TRAITS | ROW_NO_EMOTION,
         {"dominant_traits", "user_response_patterns"}},
        {TABLE_MEMORY_BEHAVIOR, 0, {"forgetting_curve_params", "low_retention_memories"}},
        {TABLE_ENGAGEMENT_OPPORTUNITIES,
         ROW_PRIOR_ONLY,
         {"proactive_success_rate", "receptivity_score", "suggested_topics"}},
    };
    for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
        json_t *row = user_row(&c, expected[i].table);
        assert_int_equal(flags_of(row) & expected[i].never, 0);
        for (size_t k = 0; k < 4 && expected[i].filled[k]; k++)
            if (json_is_null(json_object_get(row, expected[i].filled[k])))
                fail_msg("%s is NULL", expected[i].filled[k]);
        json_decref(row);
    }
    json_t *row = row_of(&c, STR(""), TABLE_PERFORMANCE_168H);
    assert_non_null(row);
    assert_true(json_is_number(json_object_get(row, "engagement_score_avg")));
    json_decref(row);
    world_free(&c.world);
}

static void test_without_embeddings_vectors_are_lexical(void **state)
{
    (void)state;
    struct chat c = chat_with(EVERYTHING & ~EMBEDDINGS);
    json_t *row = user_row(&c, TABLE_CONVERSATION_PATTERNS);
    assert_true(flags_of(row) & ROW_LEXICAL);
    assert_true(json_is_array(json_object_get(row, "recent_topics")));
    json_decref(row);
    row = user_row(&c, TABLE_MEMORY_HEALTH);
    assert_true(json_is_null(json_object_get(row, "topic_relevance_drift")) ||
                flags_of(row) & ROW_LEXICAL);
    json_decref(row);
    world_free(&c.world);
}

static void test_without_emotion_nothing_is_felt(void **state)
{
    (void)state;
    struct chat c = chat_with(EVERYTHING & ~EMOTION);
    json_t *row = user_row(&c, TABLE_CONVERSATION_PATTERNS);
    assert_null_with_reason(row, "emotional_engagement");
    const json_t *topics = json_object_get(row, "recent_topics");
    assert_true(json_array_size(topics) > 0);
    for (size_t i = 0; i < json_array_size(topics); i++)
        assert_true(json_is_null(json_object_get(json_array_get(topics, i), "valence")));
    json_decref(row);
    row = user_row(&c, TABLE_PERSONALITY_PROFILES);
    assert_true(flags_of(row) & ROW_NO_EMOTION);
    const json_t *patterns = json_object_get(row, "user_response_patterns");
    const char *trait;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)patterns, trait, value)
    {
        /* Without emotion a reply is all that is known to be good. */
        assert_true(json_number_value(json_object_get(value, "reply_rate")) ==
                    json_number_value(json_object_get(value, "positive_rate")));
    }
    json_decref(row);
    world_free(&c.world);
}

static void test_without_accesses_disuse_is_not_inferred(void **state)
{
    (void)state;
    struct chat c = chat_with(EVERYTHING & ~ACCESSES);
    json_t *row = user_row(&c, TABLE_MEMORY_HEALTH);
    assert_true(flags_of(row) & ROW_NO_ACCESS_SIGNAL);
    assert_null_with_reason(row, "retrieval_frequency_trend");
    assert_null_with_reason(row, "forgetting_risk_memories");
    assert_true(json_is_number(json_object_get(row, "avg_memory_age_hours")));
    json_decref(row);
    row = user_row(&c, TABLE_MEMORY_BEHAVIOR);
    assert_true(flags_of(row) & ROW_PRIOR_ONLY);
    assert_string_equal(json_string_value(json_object_get(
                            json_object_get(row, "forgetting_curve_params"), "status")),
                        "prior");
    assert_null_with_reason(row, "low_retention_memories");
    assert_null_with_reason(row, "recall_simulation_score");
    json_decref(row);
    world_free(&c.world);
}

static void test_without_traits_only_the_surface_is_described(void **state)
{
    (void)state;
    struct chat c = chat_with(EVERYTHING & ~TRAITS);
    json_t *row = user_row(&c, TABLE_PERSONALITY_PROFILES);
    assert_true(flags_of(row) & ROW_SURFACE_TRAITS);
    const json_t *traits = json_object_get(row, "dominant_traits");
    assert_true(json_array_size(traits) > 0);
    for (size_t i = 0; i < json_array_size(traits); i++)
        assert_string_equal(json_string_value(json_object_get(json_array_get(traits, i), "source")),
                            "surface");
    json_decref(row);
    world_free(&c.world);
}

static void test_without_metrics_there_is_no_performance_row(void **state)
{
    (void)state;
    struct chat c = chat_with(EVERYTHING & ~METRICS);
    for (enum table_id t = TABLE_PERFORMANCE_24H; t <= TABLE_PERFORMANCE_720H; t++)
        assert_null(row_of(&c, STR(""), t));
    world_free(&c.world);
}

static void test_without_outreach_no_success_is_guessed(void **state)
{
    (void)state;
    struct chat c = chat_with(EVERYTHING & ~OUTREACH);
    json_t *row = user_row(&c, TABLE_ENGAGEMENT_OPPORTUNITIES);
    assert_true(flags_of(row) & ROW_PRIOR_ONLY);
    assert_null_with_reason(row, "proactive_success_rate");
    assert_true(json_is_number(json_object_get(row, "last_engagement_gap_hours")));
    json_decref(row);
    world_free(&c.world);
}

/* No mapping knows a time zone yet: hours are UTC, and the row says so. */
static void test_without_a_time_zone_hours_are_utc_and_flagged(void **state)
{
    (void)state;
    struct chat c = chat_with(EVERYTHING);
    json_t *row = user_row(&c, TABLE_ENGAGEMENT_OPPORTUNITIES);
    assert_true(flags_of(row) & ROW_NO_TZ);
    json_decref(row);
    row = user_row(&c, TABLE_CONVERSATION_PATTERNS);
    assert_true(flags_of(row) & ROW_NO_TZ);
    json_decref(row);
    world_free(&c.world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_with_every_signal_nothing_is_flagged),
        cmocka_unit_test(test_without_embeddings_vectors_are_lexical),
        cmocka_unit_test(test_without_emotion_nothing_is_felt),
        cmocka_unit_test(test_without_accesses_disuse_is_not_inferred),
        cmocka_unit_test(test_without_traits_only_the_surface_is_described),
        cmocka_unit_test(test_without_metrics_there_is_no_performance_row),
        cmocka_unit_test(test_without_outreach_no_success_is_guessed),
        cmocka_unit_test(test_without_a_time_zone_hours_are_utc_and_flagged),
    };
    return cmocka_run_group_tests_name("contract/degradation", tests, NULL, NULL);
}
