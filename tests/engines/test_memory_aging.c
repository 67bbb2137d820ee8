/*
 * Goal: memory health says what ENGINES.md E1 asks for, in exactly its JSON.
 * Method: events go through the real features and the real key log; expected numbers are printed
 * by fsrs_golden.py or follow from counting.
 */
#include "core/clock.h"
#include "core/hash.h"
#include "engines/key.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include <setjmp.h> /* cmocka needs these three */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* A full hour: ages and windows come out round. */
#define T0 (INT64_C(1767225600) * US_PER_SECOND)

struct fixture {
    struct key *key;
    struct row row;
    int64_t as_of_us;
    int next_id;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    if (!f || key_new(STR("ann"), STR("bot"), &f->key, NULL))
        return -1;
    f->as_of_us = T0;
    row_init(&f->row, &tables[TABLE_MEMORY_HEALTH]);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    row_deinit(&f->row);
    key_free(f->key);
    free(f);
    return 0;
}

static struct key_change apply(struct fixture *f, struct event *e)
{
    char id[32];
    struct feature feature;
    struct key_change change;

    if (!e->id.ptr) {
        (void)snprintf(id, sizeof(id), "event-%d", f->next_id++);
        e->id = str_from(id);
    }
    e->user_id = STR("ann");
    e->bot_name = STR("bot");
    feature_extract(e, SOURCE_POSTGRES, (uint64_t)f->next_id + 1, NULL, &feature);
    assert_int_equal(key_apply(f->key, &feature, f->as_of_us, &change, NULL), STATUS_OK);
    return change;
}

static struct key_change memory(struct fixture *f, enum memory_op op, const char *memory_id,
                                int64_t at_us)
{
    struct event e = {.type = EVENT_MEMORY,
                      .at_us = at_us,
                      .u.memory = {.op = op,
                                   .memory_id = str_from(memory_id),
                                   .score = NAN,
                                   .importance = NAN,
                                   .memory_type = STR("conversation")}};
    return apply(f, &e);
}

static void create_about(struct fixture *f, const char *memory_id, int64_t at_us,
                         const char *content, double importance)
{
    struct event e = {.type = EVENT_MEMORY,
                      .at_us = at_us,
                      .u.memory = {.op = MEMORY_CREATE,
                                   .memory_id = str_from(memory_id),
                                   .score = NAN,
                                   .importance = importance,
                                   .memory_type = STR("fact"),
                                   .content = str_from(content)}};
    (void)apply(f, &e);
}

static void access_graded(struct fixture *f, const char *memory_id, int64_t at_us, int grade)
{
    struct event e = {.type = EVENT_MEMORY,
                      .at_us = at_us,
                      .u.memory = {.op = MEMORY_ACCESS,
                                   .memory_id = str_from(memory_id),
                                   .score = NAN,
                                   .grade = grade,
                                   .importance = NAN}};
    (void)apply(f, &e);
}

static struct key_change say(struct fixture *f, enum message_role role, int64_t at_us,
                             const char *content)
{
    struct event e = {.type = EVENT_MESSAGE,
                      .at_us = at_us,
                      .u.message = {.role = role,
                                    .op = MESSAGE_INSERT,
                                    .content = str_from(content),
                                    .emotion_confidence = NAN}};
    return apply(f, &e);
}

static void emit(struct fixture *f, int64_t as_of_us)
{
    struct error err;
    row_deinit(&f->row);
    row_init(&f->row, &tables[TABLE_MEMORY_HEALTH]);
    f->as_of_us = as_of_us;
    if (key_emit(f->key, TABLE_MEMORY_HEALTH, as_of_us, &f->row, &err))
        fail_msg("%s", err.text);
}

static void assert_column(const struct fixture *f, size_t column, const char *want)
{
    struct str got = row_value(&f->row, column);
    struct str expected = str_from(want);
    if (!str_equal(got, expected))
        fail_msg("got  " STR_FMT "\nwant %s", STR_ARGS(got), want);
}

static void assert_near(double got, double want, double tolerance)
{
    if (!(fabs(got - want) <= tolerance))
        fail_msg("got %.17g, want %.17g", got, want);
}

static json_t *parse(struct str text)
{
    json_t *json = json_loadb(text.ptr, text.len, 0, NULL);
    assert_non_null(json);
    return json;
}

static double detail(const struct fixture *f, const char *key)
{
    json_t *details = parse(row_details(&f->row));
    double value = json_number_value(json_object_get(details, key));
    json_decref(details);
    return value;
}

static void assert_reason(const struct fixture *f, const char *column, const char *want)
{
    json_t *details = parse(row_details(&f->row));
    assert_string_equal(
        json_string_value(json_object_get(json_object_get(details, "reason"), column)), want);
    json_decref(details);
}

static void test_the_worked_example_gives_its_numbers_to_the_byte(void **state)
{
    struct fixture *f = *state;

    memory(f, MEMORY_CREATE, "M1", T0 - 10 * US_PER_DAY);
    memory(f, MEMORY_CREATE, "M2", T0 - 4 * US_PER_DAY);
    memory(f, MEMORY_CREATE, "M3", T0 - 1 * US_PER_DAY);
    memory(f, MEMORY_ACCESS, "M2", T0 - 2 * US_PER_DAY);
    emit(f, T0);
    assert_column(
        f, MH_MEMORY_SNAPSHOT,
        "{\"drift\":null,\"fresh\":["
        "{\"R\":0.97495,\"age_h\":96,\"idle_h\":48,\"memory_id\":\"M2\",\"n\":1,\"n_spaced\":1,"
        "\"staleness\":0.0250496,\"type\":\"conversation\"},"
        "{\"R\":0.946847,\"age_h\":24,\"idle_h\":24,\"memory_id\":\"M3\",\"n\":0,\"n_spaced\":0,"
        "\"staleness\":0.0531525,\"type\":\"conversation\"}],"
        "\"hist_R\":[0,0,0,0,0,0,0,1,0,2],\"never_accessed\":2,\"stale\":["
        "{\"R\":0.774367,\"age_h\":240,\"idle_h\":240,\"memory_id\":\"M1\",\"n\":0,\"n_spaced\":0,"
        "\"staleness\":0.225633,\"type\":\"conversation\"}],"
        "\"total\":3,\"tracked\":3,\"v\":1}");
    assert_true(f->row.values[MH_AVG_MEMORY_AGE_HOURS].set);
    assert_near(f->row.values[MH_AVG_MEMORY_AGE_HOURS].number, 120, 0);
    assert_column(f, MH_FORGETTING_RISK_MEMORIES, "[]");
    assert_reason(f, "retrieval_frequency_trend", "insufficient_data: have 1, need 8");
    assert_reason(f, "topic_relevance_drift", "insufficient_data: have 0, need 5");
    assert_int_equal(f->row.state_flags, ROW_LEXICAL);
    assert_near(row_confidence(&f->row), 0.048, 0);
}

/* 30 retrievals this week, 12 the week before. */
static void add_trend_accesses(struct fixture *f)
{
    memory(f, MEMORY_CREATE, "M", T0 - 20 * US_PER_DAY);
    for (int i = 0; i < 30; i++)
        memory(f, MEMORY_ACCESS, "M", T0 - 7 * US_PER_DAY + i * US_PER_HOUR);
    for (int i = 0; i < 12; i++)
        memory(f, MEMORY_ACCESS, "M", T0 - 14 * US_PER_DAY + i * US_PER_HOUR);
}

static void test_thirty_retrievals_after_twelve_are_an_increase(void **state)
{
    struct fixture *f = *state;

    add_trend_accesses(f);
    emit(f, T0);
    assert_column(f, MH_RETRIEVAL_FREQUENCY_TREND, "increasing");
    assert_near(detail(f, "a"), 30, 0);
    assert_near(detail(f, "b"), 12, 0);
    assert_near(detail(f, "z"), 2.77746, 0);
}

static void test_more_retrievals_because_of_more_talk_are_no_increase(void **state)
{
    struct fixture *f = *state;

    add_trend_accesses(f);
    for (int i = 0; i < 40; i++)
        say(f, ROLE_USER, T0 - 6 * US_PER_DAY + i * US_PER_HOUR, "hello");
    for (int i = 0; i < 10; i++)
        say(f, ROLE_USER, T0 - 13 * US_PER_DAY + i * US_PER_HOUR, "hello");
    for (int i = 0; i < 200; i++)
        say(f, ROLE_BOT, T0 - 13 * US_PER_DAY + i * US_PER_MINUTE, "hello");
    emit(f, T0);
    assert_column(f, MH_RETRIEVAL_FREQUENCY_TREND, "stable");
    assert_near(detail(f, "z"), -1.38873, 0);
}

static void test_retrievals_that_fade_are_a_decline(void **state)
{
    struct fixture *f = *state;

    add_trend_accesses(f);
    emit(f, T0 + 7 * US_PER_DAY);
    assert_column(f, MH_RETRIEVAL_FREQUENCY_TREND, "declining");
    assert_near(detail(f, "a"), 0, 0);
    assert_near(detail(f, "b"), 30, 0);
}

static void test_without_accesses_nothing_is_inferred_from_age(void **state)
{
    struct fixture *f = *state;

    memory(f, MEMORY_CREATE, "M1", T0 - 300 * US_PER_DAY);
    emit(f, T0);
    assert_false(f->row.values[MH_RETRIEVAL_FREQUENCY_TREND].set);
    assert_false(f->row.values[MH_FORGETTING_RISK_MEMORIES].set);
    assert_reason(f, "retrieval_frequency_trend", "no_access_signal");
    assert_reason(f, "forgetting_risk_memories", "no_access_signal");
    assert_int_equal(f->row.state_flags, ROW_LEXICAL | ROW_NO_ACCESS_SIGNAL);
    assert_near(f->row.values[MH_AVG_MEMORY_AGE_HOURS].number, 7200, 0);
}

static void assert_recall(const struct fixture *f, const char *want)
{
    json_t *details = parse(row_details(&f->row));
    assert_string_equal(json_string_value(json_object_get(details, "recall")), want);
    json_decref(details);
}

static void test_recall_is_only_called_measured_once_something_was_missed(void **state)
{
    struct fixture *f = *state;

    memory(f, MEMORY_CREATE, "M1", T0 - 3 * US_PER_DAY);
    access_graded(f, "M1", T0 - 2 * US_PER_DAY, 4);
    emit(f, T0);
    assert_recall(f, "retention_of_access_history");
    access_graded(f, "M1", T0 - 1 * US_PER_DAY, 1);
    emit(f, T0);
    assert_recall(f, "recall_probability");
}

static void test_at_risk_are_valuable_faded_memories_worst_first(void **state)
{
    struct fixture *f = *state;
    int64_t long_ago = T0 - 25 * US_PER_DAY;

    create_about(f, "worthless", long_ago, "", 0.1);
    create_about(f, "good", long_ago, "", 0.8);
    create_about(f, "better", long_ago, "dog leg vet", 0.8);
    memory(f, MEMORY_CREATE, "used", long_ago);
    access_graded(f, "used", long_ago + 1, 1);
    access_graded(f, "used", long_ago + 2, 1);
    create_about(f, "pinned", long_ago, "", 1);
    memory(f, MEMORY_PIN, "pinned", T0);
    emit(f, T0 + 100 * US_PER_DAY);

    json_t *risk = parse(row_value(&f->row, MH_FORGETTING_RISK_MEMORIES));
    assert_int_equal(json_array_size(risk), 3);
    const char *order[] = {"better", "good", "used"};
    for (size_t i = 0; i < 3; i++) {
        json_t *item = json_array_get(risk, i);
        assert_string_equal(json_string_value(json_object_get(item, "memory_id")), order[i]);
        double r = json_real_value(json_object_get(item, "R"));
        double value = json_real_value(json_object_get(item, "value"));
        assert_true(r < 0.7 && value >= 0.3);
        assert_near(json_real_value(json_object_get(item, "risk")), value * (1 - r), 1e-5);
        double review_in_h = json_number_value(json_object_get(item, "review_in_h"));
        assert_true((review_in_h <= 0) == (r <= 0.5));
    }
    assert_string_equal(json_string_value(json_object_get(json_array_get(risk, 0), "topic")),
                        "dog leg vet");
    /* Two accesses: 2 / (2 + 3). */
    assert_near(json_real_value(json_object_get(json_array_get(risk, 2), "value")), 0.4, 0);
    json_decref(risk);
}

static void test_a_pinned_memory_never_fades(void **state)
{
    struct fixture *f = *state;

    memory(f, MEMORY_CREATE, "M1", T0 - 300 * US_PER_DAY);
    memory(f, MEMORY_PIN, "M1", T0);
    emit(f, T0 + 3000 * US_PER_DAY);
    json_t *snapshot = parse(row_value(&f->row, MH_MEMORY_SNAPSHOT));
    json_t *fresh = json_object_get(snapshot, "fresh");
    assert_int_equal(json_array_size(fresh), 1);
    assert_near(json_number_value(json_object_get(json_array_get(fresh, 0), "R")), 1, 0);
    assert_int_equal(json_array_size(json_object_get(snapshot, "stale")), 0);
    json_decref(snapshot);
}

static void test_lists_hold_five_each_with_ties_by_id_and_nothing_twice(void **state)
{
    struct fixture *f = *state;

    for (int i = 19; i >= 0; i--) {
        char id[16];
        (void)snprintf(id, sizeof(id), "old-%02d", i);
        memory(f, MEMORY_CREATE, id, T0 - 50 * US_PER_DAY);
        (void)snprintf(id, sizeof(id), "new-%02d", i);
        memory(f, MEMORY_CREATE, id, T0 - US_PER_HOUR);
    }
    emit(f, T0);
    json_t *snapshot = parse(row_value(&f->row, MH_MEMORY_SNAPSHOT));
    for (int list = 0; list < 2; list++) {
        json_t *items = json_object_get(snapshot, list ? "fresh" : "stale");
        assert_int_equal(json_array_size(items), 5);
        for (size_t i = 0; i < 5; i++) {
            char want[16];
            (void)snprintf(want, sizeof(want), "%s-%02zu", list ? "new" : "old", i);
            assert_string_equal(
                json_string_value(json_object_get(json_array_get(items, i), "memory_id")), want);
        }
    }
    json_decref(snapshot);
}

static double drift_after(struct fixture *f, const char *talk)
{
    static const char *const contents[] = {"dog leg", "dog vet", "dog walk", "dog food", "dog bed"};

    for (int i = 0; i < 5; i++) {
        char id[16];
        (void)snprintf(id, sizeof(id), "M%d", i);
        create_about(f, id, T0 - 20 * US_PER_DAY, contents[i], NAN);
        memory(f, MEMORY_ACCESS, id, T0 - 2 * US_PER_DAY);
    }
    say(f, ROLE_USER, T0 - US_PER_DAY, talk);
    say(f, ROLE_BOT, T0 - US_PER_DAY, "rust borrow checker");
    say(f, ROLE_USER, T0 - 8 * US_PER_DAY, "rust borrow checker");
    emit(f, T0);
    assert_true(f->row.values[MH_TOPIC_RELEVANCE_DRIFT].set);
    return f->row.values[MH_TOPIC_RELEVANCE_DRIFT].number;
}

static void test_memories_about_the_current_topic_have_not_drifted(void **state)
{
    /* Each memory shares one of its two words: cos = 1 / sqrt 2. */
    assert_near(drift_after(*state, "dog"), 1 - 1 / sqrt(2), 1e-8);
}

static void test_memories_about_something_else_have_drifted(void **state)
{
    assert_near(drift_after(*state, "kubernetes"), 1, 1e-8);
}

static void test_drift_needs_five_memories_in_use(void **state)
{
    struct fixture *f = *state;

    for (int i = 0; i < 6; i++) {
        char id[16];
        (void)snprintf(id, sizeof(id), "M%d", i);
        create_about(f, id, T0 - 20 * US_PER_DAY, "dog leg", NAN);
        if (i < 4)
            memory(f, MEMORY_ACCESS, id, T0 - 2 * US_PER_DAY);
    }
    say(f, ROLE_USER, T0 - US_PER_DAY, "dog");
    emit(f, T0);
    assert_false(f->row.values[MH_TOPIC_RELEVANCE_DRIFT].set);
    assert_reason(f, "topic_relevance_drift", "insufficient_data: have 4, need 5");
}

static void test_columns_stay_below_eight_kibibytes_whatever_the_ids(void **state)
{
    struct fixture *f = *state;

    for (int i = 0; i < 30; i++) {
        char id[120];
        memset(id, 1 + i % 8, sizeof(id));
        (void)snprintf(id + 60, sizeof(id) - 60, "%d", i);
        create_about(f, id, T0 - (i < 15 ? 60 * US_PER_DAY : US_PER_DAY), "", 0.9);
        if (i == 0)
            memory(f, MEMORY_ACCESS, id, T0 - 59 * US_PER_DAY);
    }
    memory(f, MEMORY_CREATE, "signal", T0 - US_PER_DAY);
    memory(f, MEMORY_ACCESS, "signal", T0);
    emit(f, T0);
    struct str snapshot = row_value(&f->row, MH_MEMORY_SNAPSHOT);
    struct str risk = row_value(&f->row, MH_FORGETTING_RISK_MEMORIES);
    assert_true(snapshot.len > 4000 && snapshot.len <= LIMIT_JSON_BYTES);
    assert_true(risk.len <= LIMIT_JSON_BYTES);
    json_decref(parse(snapshot));
    json_decref(parse(risk));
}

static void test_accesses_that_left_the_window_still_count(void **state)
{
    struct fixture *f = *state;

    memory(f, MEMORY_CREATE, "M", T0);
    for (int i = 1; i <= 5; i++)
        memory(f, MEMORY_ACCESS, "M", T0 + i * US_PER_DAY);
    emit(f, T0 + 6 * US_PER_DAY);
    json_t *before = parse(row_value(&f->row, MH_MEMORY_SNAPSHOT));
    emit(f, T0 + 60 * US_PER_DAY);
    assert_int_equal(key_log(f->key)->n_accesses, 0);
    json_t *after = parse(row_value(&f->row, MH_MEMORY_SNAPSHOT));
    json_t *old = json_array_get(json_object_get(before, "fresh"), 0);
    json_t *new = json_array_get(json_object_get(after, "stale"), 0);
    if (!new)
        new = json_array_get(json_object_get(after, "fresh"), 0);
    assert_int_equal(json_integer_value(json_object_get(old, "n")), 5);
    assert_int_equal(json_integer_value(json_object_get(new, "n")), 5);
    assert_int_equal(json_integer_value(json_object_get(new, "n_spaced")), 5);
    assert_near(json_number_value(json_object_get(new, "idle_h")), 55 * 24, 0);
    json_decref(before);
    json_decref(after);
}

static void test_messages_alone_neither_make_nor_touch_a_row(void **state)
{
    struct fixture *f = *state;

    struct key_change change = say(f, ROLE_USER, T0, "the dog hurt its leg");
    assert_true(change.applied);
    assert_false(key_has_row(f->key, TABLE_MEMORY_HEALTH));
    assert_int_equal(change.weight[TABLE_MEMORY_HEALTH], 0);
    assert_false(change.touched[TABLE_MEMORY_HEALTH]);

    change = memory(f, MEMORY_CREATE, "M1", T0);
    assert_true(key_has_row(f->key, TABLE_MEMORY_HEALTH));
    assert_int_equal(change.weight[TABLE_MEMORY_HEALTH], 1);
    assert_true(change.touched[TABLE_MEMORY_HEALTH]);
    assert_false(change.urgent[TABLE_MEMORY_HEALTH]);
}

static void test_pins_and_deletes_are_urgent(void **state)
{
    struct fixture *f = *state;

    memory(f, MEMORY_CREATE, "M1", T0);
    memory(f, MEMORY_CREATE, "M2", T0);
    assert_false(memory(f, MEMORY_ACCESS, "M1", T0).urgent[TABLE_MEMORY_HEALTH]);
    assert_true(memory(f, MEMORY_PIN, "M1", T0).urgent[TABLE_MEMORY_HEALTH]);
    assert_true(memory(f, MEMORY_DELETE, "M2", T0).urgent[TABLE_MEMORY_HEALTH]);
    memory(f, MEMORY_DELETE, "M1", T0);
    assert_false(key_has_row(f->key, TABLE_MEMORY_HEALTH));
}

static void test_a_row_is_valid_until_a_listed_memory_has_faded_by_two_percent(void **state)
{
    struct fixture *f = *state;

    memory(f, MEMORY_CREATE, "M1", T0);
    emit(f, T0);
    /* R = 0.98 of S = 2.3065: 2.3065 / f (0.98^(-1 / w20) - 1) days = 7.893 h; the cap is 6 h. */
    assert_int_equal(f->row.valid_until_us, T0 + 6 * US_PER_HOUR);
    access_graded(f, "M1", T0, 1);
    access_graded(f, "M1", T0, 1);
    emit(f, T0);
    assert_true(f->row.valid_until_us < T0 + 6 * US_PER_HOUR);
    double before = 1;
    emit(f, f->row.valid_until_us);
    json_t *snapshot = parse(row_value(&f->row, MH_MEMORY_SNAPSHOT));
    json_t *item = json_array_get(json_object_get(snapshot, "fresh"), 0);
    assert_near(json_number_value(json_object_get(item, "R")), before - 0.02, 1e-5);
    json_decref(snapshot);
}

static void test_a_row_is_valid_until_the_next_access_leaves_a_window(void **state)
{
    struct fixture *f = *state;

    memory(f, MEMORY_CREATE, "M", T0 - 20 * US_PER_DAY);
    memory(f, MEMORY_PIN, "M", T0);
    memory(f, MEMORY_ACCESS, "M", T0 - 7 * US_PER_DAY + 90 * US_PER_MINUTE);
    emit(f, T0);
    assert_int_equal(f->row.valid_until_us, T0 + 2 * US_PER_HOUR);
}

/* Exposure counts the user's messages of two weeks, interest those of one. */
static void test_a_row_is_valid_until_a_user_message_leaves_a_window(void **state)
{
    struct fixture *f = *state;

    memory(f, MEMORY_CREATE, "M", T0 - 20 * US_PER_DAY);
    memory(f, MEMORY_PIN, "M", T0);
    say(f, ROLE_BOT, T0 - 14 * US_PER_DAY + 30 * US_PER_MINUTE, "not counted");
    say(f, ROLE_USER, T0 - 14 * US_PER_DAY + 210 * US_PER_MINUTE, "two weeks ago");
    say(f, ROLE_USER, T0 - 7 * US_PER_DAY + 90 * US_PER_MINUTE, "a week ago");
    emit(f, T0);
    assert_int_equal(f->row.valid_until_us, T0 + 2 * US_PER_HOUR);
    emit(f, T0 + 2 * US_PER_HOUR);
    assert_int_equal(f->row.valid_until_us, T0 + 4 * US_PER_HOUR);
}

#define with_fixture(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        with_fixture(test_the_worked_example_gives_its_numbers_to_the_byte),
        with_fixture(test_thirty_retrievals_after_twelve_are_an_increase),
        with_fixture(test_more_retrievals_because_of_more_talk_are_no_increase),
        with_fixture(test_retrievals_that_fade_are_a_decline),
        with_fixture(test_without_accesses_nothing_is_inferred_from_age),
        with_fixture(test_recall_is_only_called_measured_once_something_was_missed),
        with_fixture(test_at_risk_are_valuable_faded_memories_worst_first),
        with_fixture(test_a_pinned_memory_never_fades),
        with_fixture(test_lists_hold_five_each_with_ties_by_id_and_nothing_twice),
        with_fixture(test_memories_about_the_current_topic_have_not_drifted),
        with_fixture(test_memories_about_something_else_have_drifted),
        with_fixture(test_drift_needs_five_memories_in_use),
        with_fixture(test_columns_stay_below_eight_kibibytes_whatever_the_ids),
        with_fixture(test_accesses_that_left_the_window_still_count),
        with_fixture(test_messages_alone_neither_make_nor_touch_a_row),
        with_fixture(test_pins_and_deletes_are_urgent),
        with_fixture(test_a_row_is_valid_until_a_listed_memory_has_faded_by_two_percent),
        with_fixture(test_a_row_is_valid_until_the_next_access_leaves_a_window),
        with_fixture(test_a_row_is_valid_until_a_user_message_leaves_a_window),
    };
    return cmocka_run_group_tests_name("engines/memory_aging", tests, NULL, NULL);
}
