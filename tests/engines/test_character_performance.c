/*
 * Goal: character performance says what ENGINES.md E2 asks for, from events to the row.
 * Method: events go through the real features and the key of the bot; every row is compared with
 * the oracle's, byte for byte, and with numbers derived beside the test.
 */
#include "core/clock.h"
#include "engines/key.h"
#include "engines/metrics.h"
#include "engines/oracle/oracle.h"
#include "tests/support/script.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h> /* cmocka needs these three */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define T0 (INT64_C(1767225600) * US_PER_SECOND) /* 2026-01-01, a full day */

struct rig {
    struct key *key;
    struct oracle *oracle;
    struct row row;
    int64_t as_of_us;
    uint64_t ver;
    char json[1 << 15];
};

static int setup(void **state)
{
    struct rig *r = calloc(1, sizeof(*r));
    if (!r || key_new(STR(""), STR("elena"), &r->key, NULL) || oracle_new(&r->oracle, NULL))
        return -1;
    row_init(&r->row, &tables[TABLE_PERFORMANCE_168H]);
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    struct rig *r = *state;
    row_deinit(&r->row);
    key_free(r->key);
    oracle_free(r->oracle);
    free(r);
    return 0;
}

/* To the bot's key and to the oracle. */
static enum status apply(struct rig *r, struct event *e, struct key_change *change)
{
    char id[32];
    struct feature f;
    (void)snprintf(id, sizeof(id), "event-%llu", (unsigned long long)++r->ver);
    if (!e->id.ptr)
        e->id = str_from(id);
    e->bot_name = STR("elena");
    if (e->at_us > r->as_of_us)
        r->as_of_us = e->at_us;
    assert_true(engine_scopes(e) & 1u << ENGINE_BOT);
    feature_extract(e, SOURCE_POSTGRES, r->ver, NULL, &f);
    feature_for_bot(&f, e->user_id);
    assert_int_equal(oracle_add(r->oracle, e, SOURCE_POSTGRES, r->ver, r->as_of_us, NULL),
                     STATUS_OK);
    return key_apply(r->key, &f, r->as_of_us, change, NULL);
}

static struct key_change point(struct rig *r, int64_t at_us, const char *measurement,
                               const char *field, double value, const char *user)
{
    struct key_change change;
    struct event e = {.type = EVENT_METRIC, .at_us = at_us, .user_id = str_from(user)};
    e.u.metric.measurement = str_from(measurement);
    e.u.metric.n_fields = 1;
    e.u.metric.fields[0].name = str_from(field);
    e.u.metric.fields[0].value = value;
    assert_int_equal(apply(r, &e, &change), STATUS_OK);
    return change;
}

static void engagement(struct rig *r, int64_t at_us, double value, int n)
{
    for (int i = 0; i < n; i++)
        point(r, at_us + i * US_PER_MINUTE, "conversation_quality", "engagement_score", value, "");
}

static void say(struct rig *r, int64_t at_us, const char *text, const char *trait)
{
    struct key_change change;
    struct event e = {.type = EVENT_MESSAGE, .at_us = at_us, .user_id = STR("ann")};
    e.u.message.role = ROLE_BOT;
    e.u.message.op = MESSAGE_INSERT;
    e.u.message.content = str_from(text);
    e.u.message.emotion_confidence = NAN;
    if (trait) {
        e.u.message.n_traits = 1;
        e.u.message.traits[0].name = str_from(trait);
        e.u.message.traits[0].weight = 1;
    }
    assert_int_equal(apply(r, &e, &change), STATUS_OK);
}

static void define(struct rig *r, int64_t at_us, int64_t version, const char *const *names,
                   const double *weights, uint32_t n)
{
    struct key_change change;
    struct event e = {.type = EVENT_CHARACTER, .at_us = at_us};
    e.u.character.version = version;
    e.u.character.n_traits = n;
    for (uint32_t i = 0; i < n; i++) {
        e.u.character.traits[i].name = str_from(names[i]);
        e.u.character.traits[i].weight = weights[i];
    }
    assert_int_equal(apply(r, &e, &change), STATUS_OK);
}

static void restart(struct rig *r)
{
    struct buf page;
    struct error err = {0};
    buf_init(&page, LIMIT_KEY_BYTES);
    assert_int_equal(key_encode(r->key, &page), STATUS_OK);
    key_free(r->key);
    r->key = NULL;
    if (key_decode((struct str){page.data, page.len}, &r->key, &err))
        fail_msg("%s", err.text);
    buf_deinit(&page);
}

/* The row of one window; equal to the oracle's. */
static const struct row *emit(struct rig *r, enum table_id table)
{
    struct row naive;
    struct buf json, want;
    struct error err = {0};
    row_deinit(&r->row);
    row_init(&r->row, &tables[table]);
    row_init(&naive, &tables[table]);
    buf_init(&json, sizeof(r->json) - 1);
    buf_init(&want, sizeof(r->json) - 1);
    if (key_emit(r->key, table, r->as_of_us, &r->row, &err))
        fail_msg("%s", err.text);
    assert_int_equal(oracle_row(r->oracle, table, STR(""), STR("elena"), r->as_of_us, &naive, &err),
                     STATUS_OK);
    assert_int_equal(row_to_json(&r->row, &json), STATUS_OK);
    assert_int_equal(row_to_json(&naive, &want), STATUS_OK);
    memcpy(r->json, json.data, json.len);
    r->json[json.len] = 0;
    if (json.len != want.len || memcmp(json.data, want.data, json.len) != 0)
        fail_msg("engine %s\noracle %.*s", r->json, (int)want.len, want.data);
    row_deinit(&naive);
    buf_deinit(&json);
    buf_deinit(&want);
    return &r->row;
}

static void expect(const struct rig *r, const char *part)
{
    if (!strstr(r->json, part))
        fail_msg("no %s in %s", part, r->json);
}

static void expect_not(const struct rig *r, const char *part)
{
    if (strstr(r->json, part))
        fail_msg("%s in %s", part, r->json);
}

static void expect_number(const struct row *row, size_t column, double value)
{
    assert_true(row->values[column].set);
    assert_true(fabs(row->values[column].number - value) < 1e-9);
}

/* ---- trend ---- */

/* ENGINES.md E2: q = .60 .62 .61 .65 .66 .68 .70. All pairs but (.62, .61) rise: S = 20 - 1 = 19;
 * no ties, so var = 7 * 6 * 19 / 18 = 44.3333; z = 18 / 6.65833 = 2.70338; the median of the 21
 * slopes is (.66 - .61) / 3 = 1/60, times 6 days .10 >= .05. */
static void test_a_week_that_gets_better_is_improving(void **state)
{
    static const double days[] = {.60, .62, .61, .65, .66, .68, .70};
    struct rig *r = *state;
    for (int d = 0; d < 7; d++)
        engagement(r, T0 + d * US_PER_DAY + 10 * US_PER_HOUR, days[d], 5);
    /* The day that runs is not a day yet. */
    r->as_of_us = T0 + 7 * US_PER_DAY - US_PER_HOUR;
    emit(r, TABLE_PERFORMANCE_168H);
    expect(r, "\"days\":6");
    r->as_of_us = T0 + 7 * US_PER_DAY;
    const struct row *row = emit(r, TABLE_PERFORMANCE_168H);
    assert_true(str_equal(row_value(row, PF_QUALITY_TREND), STR("improving")));
    expect(r, "\"trend\":{\"S\":19,\"days\":7,\"slope_per_day\":0.0166667,\"z\":2.70338}");
    expect_number(row, PF_ENGAGEMENT_SCORE_AVG, 4.52 / 7);
    expect(r, "\"valid_until\":\"2026-01-08T01:00:00Z\"");
}

static void test_a_trend_too_small_to_matter_is_stable(void **state)
{
    struct rig *r = *state;
    for (int d = 0; d < 7; d++)
        engagement(r, T0 + d * US_PER_DAY, .60 + d * .005, 5);
    r->as_of_us = T0 + 7 * US_PER_DAY;
    const struct row *row = emit(r, TABLE_PERFORMANCE_168H);
    expect(r, "\"z\":3.00376");
    assert_true(str_equal(row_value(row, PF_QUALITY_TREND), STR("stable")));
}

static void test_a_day_has_a_trend_of_hours(void **state)
{
    struct rig *r = *state;
    for (int h = 0; h < 12; h++)
        engagement(r, T0 + h * US_PER_HOUR, .9 - h * .02, 5);
    r->as_of_us = T0 + 12 * US_PER_HOUR;
    const struct row *row = emit(r, TABLE_PERFORMANCE_24H);
    assert_true(str_equal(row_value(row, PF_QUALITY_TREND), STR("declining")));
    expect(r, "\"trend\":{\"S\":-66,\"hours\":12,\"slope_per_day\":-0.48,");
    row = emit(r, TABLE_PERFORMANCE_168H);
    assert_false(row->values[PF_QUALITY_TREND].set);
    expect(r, "\"quality_trend\":\"insufficient_data: have 0, need 5\"");
}

/* ---- averages ---- */

static void test_four_points_are_no_average(void **state)
{
    struct rig *r = *state;
    engagement(r, T0, .5, 4);
    const struct row *row = emit(r, TABLE_PERFORMANCE_24H);
    assert_false(row->values[PF_ENGAGEMENT_SCORE_AVG].set);
    expect(r, "\"engagement_score_avg\":\"insufficient_data: have 4, need 5\"");
    expect(r, "\"recent_anomalies\":\"insufficient_data: have 0, need 24\"");
    assert_true(row->confidence == 0);
    engagement(r, T0 + US_PER_HOUR, 1, 1);
    row = emit(r, TABLE_PERFORMANCE_24H);
    expect_number(row, PF_ENGAGEMENT_SCORE_AVG, .6);
}

/* Ann says .2 nine times, Bob .8 once: the mean of points is .26, that of users .5. */
static void test_heavy_users_do_not_hide_the_others(void **state)
{
    struct rig *r = *state;
    for (int i = 0; i < 9; i++)
        point(r, T0 + i * US_PER_MINUTE, "conversation_quality", "engagement_score", .2, "ann");
    point(r, T0, "conversation_quality", "engagement_score", .8, "bob");
    expect_number(emit(r, TABLE_PERFORMANCE_24H), PF_ENGAGEMENT_SCORE_AVG, .26);
    expect(r, "\"user_balanced\":{\"engagement\":0.5},\"users\":2");
    /* Nobody keeps a month of days per user. */
    emit(r, TABLE_PERFORMANCE_720H);
    expect(r, "\"user_balanced\":null");
}

static void test_coherence_has_a_source(void **state)
{
    struct rig *r = *state;
    for (int i = 0; i < 5; i++) {
        point(r, T0 + i, "conversation_quality", "natural_flow_score", .4, "");
        point(r, T0 + i, "conversation_quality", "topic_relevance", .6, "");
    }
    expect_number(emit(r, TABLE_PERFORMANCE_24H), PF_COHERENCE_SCORE_AVG, .5);
    expect(r, "\"coherence_source\":\"natural_flow+topic_relevance\"");
    for (int i = 0; i < 5; i++)
        point(r, T0 + i, "conversation_quality", "coherence_score", .9, "");
    expect_number(emit(r, TABLE_PERFORMANCE_24H), PF_COHERENCE_SCORE_AVG, .9);
    expect(r, "\"coherence_source\":\"coherence_score\"");
}

static void test_windows_slide_by_hours(void **state)
{
    struct rig *r = *state;
    engagement(r, T0 + 30 * US_PER_MINUTE, .2, 5);
    engagement(r, T0 + 24 * US_PER_HOUR, .8, 5);
    expect_number(emit(r, TABLE_PERFORMANCE_24H), PF_ENGAGEMENT_SCORE_AVG, .5);
    r->as_of_us = T0 + 25 * US_PER_HOUR;
    expect_number(emit(r, TABLE_PERFORMANCE_24H), PF_ENGAGEMENT_SCORE_AVG, .8);
    expect_number(emit(r, TABLE_PERFORMANCE_168H), PF_ENGAGEMENT_SCORE_AVG, .5);
    r->as_of_us = T0 + 745 * US_PER_HOUR;
    assert_int_equal(key_advance(r->key, r->as_of_us, NULL), STATUS_OK);
    assert_false(key_has_row(r->key, TABLE_PERFORMANCE_720H));
}

/* K4: exact up to 64 ms, else within 4.5 %. */
static void test_latencies_have_quantiles(void **state)
{
    struct rig *r = *state;
    for (int i = 1; i <= 100; i++)
        point(r, T0 + i, "response_time_v2", "value", i <= 95 ? i / 2.0 : 60, "");
    point(r, T0, "vector_memory_performance", "search_time_ms", 5000, "");
    emit(r, TABLE_PERFORMANCE_24H);
    expect(r, "\"latency_ms\":{\"p50\":25,\"p95\":48,\"p99\":60},"
              "\"latency_source\":\"response_time\"");
}

/* ---- points ---- */

static void test_the_same_point_again_replaces_the_first(void **state)
{
    struct rig *r = *state;
    for (int round = 0; round < 3; round++) {
        engagement(r, T0, round == 2 ? .9 : .1, 5);
        restart(r);
    }
    const struct row *row = emit(r, TABLE_PERFORMANCE_24H);
    assert_int_equal(row->event_count, 5);
    expect_number(row, PF_ENGAGEMENT_SCORE_AVG, .9);
    /* Another user's point of the same time is another point. */
    point(r, T0, "conversation_quality", "engagement_score", .9, "ann");
    assert_int_equal(emit(r, TABLE_PERFORMANCE_24H)->event_count, 6);
}

static void test_a_score_beyond_its_range_is_refused_whole(void **state)
{
    struct rig *r = *state;
    struct key_change change;
    engagement(r, T0, .5, 5);
    static const double values[] = {1.0000011, -.1, NAN, INFINITY};
    for (size_t i = 0; i < 4; i++) {
        struct event e = {.type = EVENT_METRIC, .at_us = T0};
        e.u.metric.measurement = STR("conversation_quality");
        e.u.metric.n_fields = 2;
        e.u.metric.fields[0].name = STR("satisfaction_score");
        e.u.metric.fields[0].value = .5;
        e.u.metric.fields[1].name = STR("engagement_score");
        e.u.metric.fields[1].value = values[i];
        assert_int_equal(apply(r, &e, &change), STATUS_INVALID);
    }
    assert_int_equal(emit(r, TABLE_PERFORMANCE_24H)->event_count, 5);
    /* Other numbers may be anything but infinite. */
    point(r, T0, "nab", "value", -1e12, "");
    struct event e = {.type = EVENT_METRIC, .at_us = T0};
    e.u.metric.measurement = STR("nab");
    e.u.metric.n_fields = 1;
    e.u.metric.fields[0].name = STR("value");
    e.u.metric.fields[0].value = 1e13;
    assert_int_equal(apply(r, &e, &change), STATUS_INVALID);
}

static void test_foreign_names_make_no_state_without_bound(void **state)
{
    struct rig *r = *state;
    struct event e = {.type = EVENT_METRIC, .at_us = T0, .bot_name = STR("elena")};
    e.u.metric.measurement = STR("weather");
    assert_true(feature_ignored(&e));
    for (int i = 0; i < 200; i++) {
        char field[64];
        (void)snprintf(field, sizeof(field), "field \xC3\xA4 \" %d of a rather long name", i);
        for (int h = 0; h < 30; h++)
            point(r, T0 + h * US_PER_HOUR + i, "nab", field, i, "");
    }
    assert_int_equal(key_log(r->key)->metrics->n_streams, METRIC_STREAMS);
    assert_int_equal(key_log(r->key)->metrics->dropped, (200 - METRIC_STREAMS) * 30);
    restart(r);
    emit(r, TABLE_PERFORMANCE_24H);
    assert_true(row_value(&r->row, PF_RECENT_ANOMALIES).len <= LIMIT_JSON_BYTES);
    /* A month later they have gone quiet, and their places are free. */
    point(r, T0 + 40 * US_PER_DAY, "nab", "new", 1, "");
    assert_int_equal(emit(r, TABLE_PERFORMANCE_24H)->event_count, 1);
}

/* ---- consistency ---- */

/* ENGINES.md E2: P = (.5 .3 .2) as it speaks, Q = (.4 .4 .2) as it should: 1 - sqrt(JSD) =
 * .904157. */
static void test_traits_are_held_against_the_definition(void **state)
{
    static const char *const names[] = {"warm", "dry", "curious"};
    static const double weights[] = {.4, .4, .2};
    struct rig *r = *state;
    engagement(r, T0, .5, 1);
    for (int i = 0; i < 100; i++)
        say(r, T0 + i * US_PER_MINUTE, "", names[i < 50 ? 0 : i < 80 ? 1 : 2]);
    define(r, T0, 3, names, weights, 3);
    const struct row *row = emit(r, TABLE_PERFORMANCE_168H);
    assert_true(fabs(row->values[PF_PERSONALITY_CONSISTENCY_INDEX].number - .904157) < 5e-7);
    expect(r, "\"pci_method\":\"traits_definition\"");
    expect(r, "\"character_version\":3");
    /* An older definition that comes late changes nothing, a newer one does. */
    define(r, T0 - US_PER_DAY, 9, names, weights, 1);
    emit(r, TABLE_PERFORMANCE_168H);
    expect(r, "\"character_version\":3");
    define(r, T0 + US_PER_HOUR, 4, names, weights, 0);
    expect_number(emit(r, TABLE_PERFORMANCE_168H), PF_PERSONALITY_CONSISTENCY_INDEX, 1);
    expect(r, "\"pci_method\":\"traits_history\"");
    /* What was measured outweighs both. */
    for (int i = 0; i < 10; i++)
        point(r, T0 + i, "character_consistency_v2", "value", .75, "");
    expect_number(emit(r, TABLE_PERFORMANCE_168H), PF_PERSONALITY_CONSISTENCY_INDEX, .75);
    expect(r, "\"pci_method\":\"metric\"");
}

static void test_a_bot_that_repeats_itself_is_consistent(void **state)
{
    struct rig *r = *state;
    engagement(r, T0, .5, 1);
    for (int i = 0; i < 50; i++) {
        emit(r, TABLE_PERFORMANCE_24H);
        expect(r, "\"personality_consistency_index\":null");
        say(r, T0 + i * US_PER_MINUTE, "the cake is in the oven", NULL);
    }
    const struct row *row = emit(r, TABLE_PERFORMANCE_24H);
    assert_true(fabs(row->values[PF_PERSONALITY_CONSISTENCY_INDEX].number - 1) < .01);
    expect(r, "\"pci_method\":\"vectors\"");
    assert_true(row->state_flags & ROW_LEXICAL);
}

static void test_messages_alone_make_no_row(void **state)
{
    struct rig *r = *state;
    enum table_id table = TABLE_PERFORMANCE_168H;
    say(r, T0, "hello", "warm");
    assert_false(key_has_row(r->key, table));
    assert_int_equal(oracle_row(r->oracle, table, STR(""), STR("elena"), T0, &r->row, NULL),
                     STATUS_END);
}

/* More messages than the log keeps: what leaves it still counts, and so do its edges. */
static void test_a_busy_bot_is_judged_by_all_it_said(void **state)
{
    static const char *const texts[] = {"the cake is in the oven", "my dog walks to the vet",
                                        "borrow the checker twice", "a train to the sea"};
    static const char *const names[] = {"warm", "dry", "curious"};
    struct rig *r = *state;
    uint64_t random = script_seed(1);
    engagement(r, T0, .5, 1);
    for (int i = 0; i < LIMIT_MESSAGES + 700; i++)
        say(r, T0 + i * 20 * US_PER_MINUTE, texts[script_below(&random, 4)],
            script_below(&random, 3) ? names[script_below(&random, 3)] : NULL);
    engagement(r, r->as_of_us, .5, 1);
    for (int days = 0; days < 30; days += 14) {
        for (enum table_id t = TABLE_PERFORMANCE_24H; t <= TABLE_PERFORMANCE_720H; t++)
            emit(r, t);
        restart(r);
        r->as_of_us += 14 * US_PER_DAY + 5 * US_PER_HOUR;
    }
}

/* ---- anomalies ---- */

/* ENGINES.md E2: median .70, MAD .02, x .55: z = .6745 * -.15 / .02 = -5.05875. */
static void test_an_hour_far_below_the_others_is_a_drop(void **state)
{
    static const double usual[] = {.68, .70, .72};
    struct rig *r = *state;
    for (int h = 0; h < 31; h++)
        engagement(r, T0 + h * US_PER_HOUR, h == 14 ? .55 : usual[(h - (h > 14)) % 3], 12);
    emit(r, TABLE_PERFORMANCE_168H);
    expect(r, "{\"end\":\"2026-01-01T15:00:00Z\",\"median\":0.7,\"method\":\"mad\","
              "\"metric\":\"engagement\",\"n\":12,\"start\":\"2026-01-01T14:00:00Z\","
              "\"type\":\"quality_drop\",\"value\":0.55,\"z\":-5.05875}");
    /* An hour above the others is no drop, and a fresh one has not ended. */
    engagement(r, T0 + 31 * US_PER_HOUR, .95, 12);
    engagement(r, T0 + 32 * US_PER_HOUR, .5, 12);
    emit(r, TABLE_PERFORMANCE_168H);
    expect_not(r, "\"value\":0.95");
    expect(r, "{\"end\":null,\"median\":0.7,\"method\":\"mad\",\"metric\":\"engagement\"");
    /* The window of a day has only what lies in it. */
    r->as_of_us = T0 + 39 * US_PER_HOUR;
    emit(r, TABLE_PERFORMANCE_24H);
    expect_not(r, "\"start\":\"2026-01-01T14:00:00Z\"");
    emit(r, TABLE_PERFORMANCE_168H);
    expect(r, "\"start\":\"2026-01-01T14:00:00Z\"");
}

/* 48 hours about .70, then 12 at .64: too near for a drop, but it stays. Median .70, MAD .02, sigma
 * .029652; each hour adds .06 / sigma - .5 = 1.52347: the sum is 18.2817 after 12 of them. */
static void test_a_level_that_moved_is_a_shift(void **state)
{
    static const double usual[] = {.68, .70, .72};
    struct rig *r = *state;
    for (int h = 0; h < 60; h++)
        engagement(r, T0 + h * US_PER_HOUR, h < 48 ? usual[2 - h % 3] : .64, 5);
    emit(r, TABLE_PERFORMANCE_168H);
    expect_not(r, "\"method\":\"mad\"");
    expect(r, "\"end\":null,\"median\":0.7,\"method\":\"cusum\",\"metric\":\"engagement\"");
    expect(r, "\"type\":\"quality_shift\"");
}

/* A point an hour, then nothing: more than 6 usual gaps of one hour are a silence. */
static void test_a_silence_is_seen_while_it_lasts_and_after(void **state)
{
    struct rig *r = *state;
    for (int h = 0; h < 30; h++)
        engagement(r, T0 + h * US_PER_HOUR, .7, 1);
    r->as_of_us = T0 + 35 * US_PER_HOUR;
    emit(r, TABLE_PERFORMANCE_24H);
    expect_not(r, "silence");
    r->as_of_us = T0 + 36 * US_PER_HOUR;
    emit(r, TABLE_PERFORMANCE_24H);
    expect(r, "{\"end\":null,\"median\":1,\"method\":\"silence\",\"metric\":\"engagement\","
              "\"n\":29,\"start\":\"2026-01-02T06:00:00Z\",\"type\":\"metric_silence\","
              "\"value\":7}");
    engagement(r, T0 + 40 * US_PER_HOUR, .7, 1);
    emit(r, TABLE_PERFORMANCE_24H);
    expect(r, "{\"end\":\"2026-01-02T16:00:00Z\",\"median\":1,\"method\":\"silence\"");
}

static void test_any_number_is_watched_as_it_comes(void **state)
{
    struct rig *r = *state;
    bool urgent = false;
    for (int i = 0; i < 3000; i++) {
        double noise = (i * 7919 % 101) / 101.0;
        bool odd = i >= 2900 && i < 2906;
        struct key_change c = point(r, T0 + i * 5 * US_PER_MINUTE, "nab", "value",
                                    1000 * (1 + noise * .1) + (odd ? 5000 : 0), "");
        urgent |= i >= 2900 && i % 12 != 0 && c.urgent[TABLE_PERFORMANCE_24H];
    }
    assert_true(urgent);
    emit(r, TABLE_PERFORMANCE_24H);
    expect(r, "\"method\":\"streaming\",\"metric\":\"nab.value\"");
}

/* The trace of an event is what was known before it: it is the same whatever its own value, and the
 * odd stretch raises one alarm. */
static void test_a_trace_does_not_peek(void **state)
{
    struct rig *r = *state;
    const struct engine_ops *ops = engine_find("character_performance");
    int alarms = 0;
    for (int i = 0; i < 3000; i++) {
        double value = 1000 + i * 7919 % 101 + (i > 2900 && i < 2910 ? 5000 : 0);
        struct event e = {.type = EVENT_METRIC,
                          .id = STR("p"),
                          .bot_name = STR("elena"),
                          .at_us = T0 + i * 5 * US_PER_MINUTE};
        e.u.metric.measurement = STR("nab");
        e.u.metric.n_fields = 1;
        e.u.metric.fields[0].name = STR("value");
        struct buf lines[2];
        for (int k = 0; k < 2; k++) {
            struct feature f;
            e.u.metric.fields[0].value = k ? value : -value;
            feature_extract(&e, SOURCE_POSTGRES, 1, NULL, &f);
            buf_init(&lines[k], 256);
            assert_int_equal(
                key_trace(r->key, ops, TRACE_BEFORE, &f, e.id, e.at_us, &lines[k], NULL),
                STATUS_OK);
        }
        assert_int_equal(lines[0].len, lines[1].len);
        assert_memory_equal(lines[0].data, lines[1].data, lines[0].len);
        alarms += strncmp(lines[0].data, "{\"anomaly\":true,", 16) == 0 && i > 2900;
        buf_deinit(&lines[0]);
        buf_deinit(&lines[1]);
        point(r, e.at_us, "nab", "value", value, "");
    }
    assert_int_equal(alarms, 1);
}

/* ---- everything at once ---- */

/* Points every few minutes for ten days, of several users and measurements, some late, some
 * again, with a level that moves and a pause; rows at random moments and across restarts. */
static void test_dense_metrics_agree_with_the_oracle(void **state)
{
    static const char *const fields[] = {"engagement_score", "satisfaction_score",
                                         "natural_flow_score", "coherence_score"};
    struct rig *r = *state;
    uint64_t random = script_seed(7);
    int64_t now_us = T0;
    for (int i = 0; i < 3000; i++) {
        bool pause = i == 2000;
        now_us += (1 + script_below(&random, 600)) * US_PER_SECOND + (pause ? 2 * US_PER_DAY : 0);
        int64_t at_us = now_us;
        if (script_below(&random, 10) == 0)
            at_us -= script_below(&random, 100) * US_PER_HOUR;
        at_us -= at_us % US_PER_SECOND;
        char user[16];
        (void)snprintf(user, sizeof(user), "u%u", script_below(&random, 9));
        double level = i > 2500 ? .55 : .75;
        double value = level + (script_below(&random, 100) - 50.0) / 500;
        if (script_below(&random, 3))
            point(r, at_us, "conversation_quality", fields[script_below(&random, 4)], value,
                  script_below(&random, 4) ? user : "");
        else if (script_below(&random, 2))
            point(r, at_us, "response_time_v2", "value",
                  value * (script_below(&random, 60) ? 900 : 90000), user);
        else
            point(r, at_us, "nab", "value", value * 1e6, "");
        if (script_below(&random, 500) == 0)
            restart(r);
        if (script_below(&random, 300) == 0)
            emit(r, TABLE_PERFORMANCE_24H + script_below(&random, 3));
    }
    for (int days = 0; days < 30; days += 9) {
        for (enum table_id t = TABLE_PERFORMANCE_24H; t <= TABLE_PERFORMANCE_720H; t++)
            emit(r, t);
        r->as_of_us += 9 * US_PER_DAY;
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_a_week_that_gets_better_is_improving),
        TEST(test_a_trend_too_small_to_matter_is_stable),
        TEST(test_a_day_has_a_trend_of_hours),
        TEST(test_four_points_are_no_average),
        TEST(test_heavy_users_do_not_hide_the_others),
        TEST(test_coherence_has_a_source),
        TEST(test_windows_slide_by_hours),
        TEST(test_latencies_have_quantiles),
        TEST(test_the_same_point_again_replaces_the_first),
        TEST(test_a_score_beyond_its_range_is_refused_whole),
        TEST(test_foreign_names_make_no_state_without_bound),
        TEST(test_traits_are_held_against_the_definition),
        TEST(test_a_bot_that_repeats_itself_is_consistent),
        TEST(test_messages_alone_make_no_row),
        TEST(test_a_busy_bot_is_judged_by_all_it_said),
        TEST(test_an_hour_far_below_the_others_is_a_drop),
        TEST(test_a_level_that_moved_is_a_shift),
        TEST(test_a_silence_is_seen_while_it_lasts_and_after),
        TEST(test_any_number_is_watched_as_it_comes),
        TEST(test_a_trace_does_not_peek),
        TEST(test_dense_metrics_agree_with_the_oracle),
    };
    return cmocka_run_group_tests_name("engines/character_performance", tests, NULL, NULL);
}
