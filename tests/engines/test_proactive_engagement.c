/*
 * Goal: engagement rows are what ENGINES.md E7 says, and stay NULL with a reason where it says so.
 * Method: hand-made histories with numbers from the specification or worked out beside them; each
 * row must equal the oracle's byte for byte.
 */
#include "core/clock.h"
#include "engines/key.h"
#include "engines/oracle/oracle.h"
#include "engines/proactive_engagement_row.h"

#include <math.h>
#include <setjmp.h> /* cmocka needs these three */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define TABLE TABLE_ENGAGEMENT_OPPORTUNITIES
/* 2026-01-05, a Monday, 20:00 UTC: the last user message of most histories. */
#define LAST_US ((INT64_C(1767571200) + 20 * 3600) * US_PER_SECOND)

enum { TUESDAY = 24, WEDNESDAY = 48, SUNDAY = 144 };

struct rig {
    struct key *key;
    struct oracle *oracle;
    struct epoch_list epochs;
    int64_t now_us;
    uint64_t ver;
    unsigned id;
    struct row row;
};

static int rig_start(void **state)
{
    struct rig *r = calloc(1, sizeof(*r));
    assert_non_null(r);
    r->now_us = LAST_US;
    assert_int_equal(key_new(STR("user"), STR("bot"), &r->key, NULL), STATUS_OK);
    assert_int_equal(oracle_new(&r->oracle, NULL), STATUS_OK);
    key_set_epochs(r->key, &r->epochs);
    assert_int_equal(oracle_set_epochs(r->oracle, STR("bot"), &r->epochs), STATUS_OK);
    row_init(&r->row, &tables[TABLE]);
    *state = r;
    return 0;
}

static int rig_stop(void **state)
{
    struct rig *r = *state;
    key_free(r->key);
    oracle_free(r->oracle);
    epoch_list_deinit(&r->epochs);
    row_deinit(&r->row);
    free(r);
    return 0;
}

static struct key_change post(struct rig *r, struct event *e)
{
    struct feature f;
    struct key_change change;
    e->user_id = STR("user");
    e->bot_name = STR("bot");
    feature_extract(e, SOURCE_POSTGRES, ++r->ver, &r->epochs, &f);
    assert_int_equal(key_apply(r->key, &f, r->now_us, &change, NULL), STATUS_OK);
    assert_int_equal(oracle_add(r->oracle, e, SOURCE_POSTGRES, r->ver, r->now_us, NULL), STATUS_OK);
    return change;
}

static struct key_change say(struct rig *r, enum message_role role, int64_t t_us, const char *text,
                             const char *emotion)
{
    char id[32];
    int n = snprintf(id, sizeof(id), "m%u", ++r->id);
    struct event e = {.type = EVENT_MESSAGE, .id = {id, (size_t)n}, .at_us = t_us};
    e.u.message.role = role;
    e.u.message.op = MESSAGE_INSERT;
    e.u.message.content = str_from(text);
    e.u.message.emotion = str_from(emotion);
    e.u.message.emotion_confidence = emotion ? 1.0 : (double)NAN;
    return post(r, &e);
}

static void user(struct rig *r, int64_t t_us)
{
    say(r, ROLE_USER, t_us, "one two three", NULL);
}

static struct key_change reach_out(struct rig *r, enum outreach_op op, const char *id, int64_t t_us)
{
    struct event e = {.type = EVENT_OUTREACH, .id = str_from(id), .at_us = t_us};
    e.u.outreach.op = op;
    return post(r, &e);
}

static struct key_change wish(struct rig *r, enum privacy_op op, int64_t t_us)
{
    struct event e = {.type = EVENT_PRIVACY, .id = STR("p"), .at_us = t_us};
    e.u.privacy.op = op;
    e.u.privacy.scope = STR("proactive");
    return post(r, &e);
}

/* Six user messages, an hour or more apart, the last one at LAST_US. */
static void golden_gaps(struct rig *r)
{
    static const int hours[] = {30, 26, 22, 20, 8};
    int64_t t_us = LAST_US - 106 * US_PER_HOUR;
    user(r, t_us);
    for (size_t i = 0; i < 5; i++)
        user(r, t_us += hours[i] * US_PER_HOUR);
    assert_true(t_us == LAST_US);
}

/* The epoch of the first day; the list owns it. */
static struct epoch *add_epoch(struct rig *r)
{
    struct epoch *e = calloc(1, sizeof(*e));
    assert_non_null(e);
    e->day = kernel_day(LAST_US) - 20;
    assert_int_equal(epoch_list_add(&r->epochs, e), STATUS_OK);
    return e;
}

static void emit(struct rig *r, int64_t now_us)
{
    struct error err = {0};
    struct row naive;
    struct buf a, b;
    r->now_us = now_us;
    row_deinit(&r->row);
    row_init(&r->row, &tables[TABLE]);
    row_init(&naive, &tables[TABLE]);
    if (key_emit(r->key, TABLE, now_us, &r->row, &err))
        fail_msg("%s", err.text);
    if (oracle_row(r->oracle, TABLE, STR("user"), STR("bot"), now_us, &naive, &err))
        fail_msg("%s", err.text);
    buf_init(&a, 1 << 20);
    buf_init(&b, 1 << 20);
    assert_int_equal(row_to_json(&r->row, &a), STATUS_OK);
    assert_int_equal(row_to_json(&naive, &b), STATUS_OK);
    if (!str_equal((struct str){a.data, a.len}, (struct str){b.data, b.len}))
        fail_msg("engine %.*s\noracle %.*s", (int)a.len, a.data, (int)b.len, b.data);
    assert_true(r->row.valid_until_us == naive.valid_until_us);
    buf_deinit(&a);
    buf_deinit(&b);
    row_deinit(&naive);
}

static double number(const struct rig *r, size_t column)
{
    assert_true(r->row.values[column].set);
    return r->row.values[column].number;
}

static void assert_near(double a, double b)
{
    if (fabs(a - b) > 1e-12)
        fail_msg("%.17g is not %.17g", a, b);
}

static bool has(struct str text, const char *part)
{
    return memmem(text.ptr, text.len, part, strlen(part)) != NULL;
}

static void assert_json(const struct rig *r, size_t column, const char *expected)
{
    struct str got = row_value(&r->row, column);
    if (!str_equal(got, str_from(expected)))
        fail_msg("%s: " STR_FMT, tables[TABLE].columns[column].name, STR_ARGS(got));
}

static void assert_detail(const struct rig *r, const char *part)
{
    if (!has(row_details(&r->row), part))
        fail_msg("no %s in " STR_FMT, part, STR_ARGS(row_details(&r->row)));
}

static void assert_reason(const struct rig *r, size_t column, const char *reason)
{
    char part[128];
    assert_false(r->row.values[column].set);
    snprintf(part, sizeof(part), "\"%s\":\"%s", tables[TABLE].columns[column].name, reason);
    assert_detail(r, part);
}

/*
 * The specification's example: gaps of 8, 20, 22, 26, 30 h and a silence of 12 h. Survival falls to
 * 5/6 at 8 h; then, with the open gap gone, 5/8, 5/12, 5/24 at 20, 22, 26 h, and 0 at 30 h: the
 * first time at most 1/5. 30 h after Monday 20:00 is Wednesday 02:00, quiet until 08:00.
 *
 * Activity is that of the bot's epoch and of six messages, none on a Wednesday, so that there
 * a(h) = 28 g_h / 52: 18:00 has 35 of 700 and 19:00, the busiest that is not quiet, 42; 35 >= 0.8
 * * 42. Wednesday 18:00 is 46 h after the last message. The busiest hour of the week is one with a
 * user message and no prior, 2 / 52; now, Tuesday 08:00, has 32 of 700, 1.28 / 52: a ratio of 0.64.
 *
 * p0 = 1/2 of the bot's 40 attempts; 3 of 4 resolved attempts were answered: p = 5/8; no streak:
 * 0.625 * sqrt(0.64) = 0.5.
 */
static void golden_epoch(struct rig *r)
{
    struct epoch *e = add_epoch(r);
    uint32_t *how = &e->v[EPOCH_HOW];
    how[WEDNESDAY + 3] = 45; /* busier, but quiet */
    how[WEDNESDAY + 18] = 35;
    how[WEDNESDAY + 19] = 42;
    how[TUESDAY + 8] = 32;
    for (size_t i = 0; i < 11; i++)
        how[SUNDAY + i] = 49;
    how[SUNDAY + 12] = 7;
    e->v[EPOCH_OUTREACH_RESOLVED] = 40 * EPOCH_SCALE;
    e->v[EPOCH_OUTREACH_REPLIED] = 20 * EPOCH_SCALE;
}

static void golden_attempts(struct rig *r)
{
    int64_t t_us = LAST_US - 20 * US_PER_DAY;
    reach_out(r, OUTREACH_SENT, "ignored", t_us);
    reach_out(r, OUTREACH_SENT, "one", t_us + 2 * US_PER_DAY);
    reach_out(r, OUTREACH_REPLIED, "one", t_us + 2 * US_PER_DAY + US_PER_HOUR);
    reach_out(r, OUTREACH_SENT, "two", t_us + 4 * US_PER_DAY);
    reach_out(r, OUTREACH_REPLIED, "an id of its own", t_us + 5 * US_PER_DAY);
    reach_out(r, OUTREACH_SENT, "three", t_us + 6 * US_PER_DAY);
    reach_out(r, OUTREACH_REPLIED, "three", t_us + 6 * US_PER_DAY + US_PER_HOUR);
    reach_out(r, OUTREACH_SENT, "waiting", LAST_US + 6 * US_PER_HOUR);
}

static void test_the_example_of_the_specification(void **state)
{
    struct rig *r = *state;
    golden_epoch(r);
    golden_gaps(r);
    golden_attempts(r);
    emit(r, LAST_US + 12 * US_PER_HOUR);
    assert_detail(r, "\"return_gaps\":{\"n\":5,\"source\":\"own_gaps\",\"unusual_h\":30}");
    assert_near(number(r, EO_OPTIMAL_TIMING_HOURS), 46);
    assert_near(number(r, EO_NEXT_CONTACT_AT), (double)(LAST_US + 46 * US_PER_HOUR));
    assert_near(number(r, EO_RECEPTIVITY_SCORE), 0.5);
    assert_near(number(r, EO_LAST_ENGAGEMENT_GAP_HOURS), 12);
    assert_near(number(r, EO_LAST_USER_MESSAGE_AT), (double)LAST_US);
    assert_near(number(r, EO_PROACTIVE_SUCCESS_RATE), 0.75);
    assert_detail(r, "\"ci95\":[0.300636,0.954414],\"replied\":3,\"resolved\":4,"
                     "\"unanswered_in_a_row\":0");
    assert_detail(r, "\"prior\":{\"p0\":0.5,\"source\":\"outreach_of_bot\"}");
    assert_near(r->row.confidence, 0.333); /* 5 / (5 + 10) */
    assert_int_equal(r->row.state_flags & ROW_PRIOR_ONLY, 0);
}

/* Without the censored open gap, 26 h would be enough: S = 4/5, 3/5, 2/5, 1/5. */
static void test_survival_is_exact_and_counts_what_is_still_open(void **state)
{
    (void)state;
    struct waiting gaps[] = {{30, false}, {8, false},  {12, true},
                             {26, false}, {20, false}, {22, false}};
    int64_t at = 0;
    assert_true(kernel_survival_time(gaps, 6, 5, 6, &at) && at == 8);
    assert_true(kernel_survival_time(gaps, 6, 5, 8, &at) && at == 20);
    assert_true(kernel_survival_time(gaps, 6, 5, 12, &at) && at == 22);
    assert_true(kernel_survival_time(gaps, 6, 5, 24, &at) && at == 26);
    assert_true(kernel_survival_time(gaps, 6, 1, 5, &at) && at == 30);
    struct waiting closed[] = {{8, false}, {20, false}, {22, false}, {26, false}, {30, false}};
    assert_true(kernel_survival_time(closed, 5, 1, 5, &at) && at == 26);
    /* An end counts before a censoring of the same length; censorings alone end nothing. */
    struct waiting tied[] = {{5, true}, {5, false}};
    assert_true(kernel_survival_time(tied, 2, 1, 2, &at) && at == 5);
    struct waiting open[] = {{5, true}, {7, true}};
    assert_false(kernel_survival_time(open, 2, 1, 2, &at));
    assert_false(kernel_survival_time(NULL, 0, 1, 2, &at));
}

/* 512 different gaps do not fit a fraction of 128 bits: the product goes on as a double. */
static void test_survival_of_many_gaps_stays_close(void **state)
{
    (void)state;
    struct waiting gaps[1000];
    for (int i = 0; i < 1000; i++)
        gaps[i] = (struct waiting){i + 1, i % 7 == 3};
    int64_t at = 0;
    assert_true(kernel_survival_time(gaps, 1000, 1, 2, &at));
    double s = 1;
    int64_t expected = 0;
    for (int i = 0; i < 1000 && expected == 0; i++) {
        if (!gaps[i].censored)
            s *= (1000.0 - i - 1) / (1000.0 - i);
        if (s <= 0.5)
            expected = i + 1;
    }
    assert_true(at == expected);
}

/* c = 3 in one hour, kappa = 28, uniform prior: that hour 2*3, its neighbours 3, of 4*3 + 28. */
static void test_activity_is_smoothed_and_adds_up_to_one(void **state)
{
    (void)state;
    uint32_t counts[HOURS_OF_WEEK] = {[0] = 3};
    double a[HOURS_OF_WEEK], sum = 0;
    kernel_activity(counts, NULL, a);
    for (size_t h = 0; h < HOURS_OF_WEEK; h++)
        sum += a[h];
    assert_near(sum, 1);
    assert_near(a[0], (6 + 28.0 / 168) / 40);
    assert_near(a[1], (3 + 28.0 / 168) / 40);
    assert_near(a[167], a[1]);
    assert_near(a[2], (28.0 / 168) / 40);
    uint32_t prior[HOURS_OF_WEEK] = {[5] = 10, [6] = 30};
    kernel_activity(counts, prior, a);
    assert_near(a[6], 28.0 * 0.75 / 40);
    assert_near(a[2], 0);
}

static void test_too_little_is_null_with_a_reason(void **state)
{
    struct rig *r = *state;
    user(r, LAST_US);
    emit(r, LAST_US + 2 * US_PER_HOUR);
    assert_reason(r, EO_OPTIMAL_TIMING_HOURS, "insufficient_data: have 0, need 5");
    assert_reason(r, EO_NEXT_CONTACT_AT, "insufficient_data: have 0, need 5");
    assert_reason(r, EO_RECEPTIVITY_SCORE, "insufficient_data: have 1, need 20");
    assert_reason(r, EO_PROACTIVE_SUCCESS_RATE, "insufficient_data: have 0, need 1");
    assert_near(number(r, EO_LAST_ENGAGEMENT_GAP_HOURS), 2);
    assert_int_equal(r->row.state_flags & ROW_PRIOR_ONLY, ROW_PRIOR_ONLY);
    assert_near(r->row.confidence, 0);
}

static void test_a_bot_alone_has_a_row_of_reasons(void **state)
{
    struct rig *r = *state;
    say(r, ROLE_BOT, LAST_US, "hello", NULL);
    emit(r, LAST_US + US_PER_HOUR);
    assert_reason(r, EO_LAST_ENGAGEMENT_GAP_HOURS, "insufficient_data: have 0, need 1");
    assert_reason(r, EO_LAST_USER_MESSAGE_AT, "insufficient_data: have 0, need 1");
    assert_json(r, EO_SUGGESTED_TOPICS, "[]");
}

/* An attempt between two messages says nothing about when the user comes back alone. */
static void test_a_return_after_an_attempt_is_no_return_gap(void **state)
{
    struct rig *r = *state;
    golden_gaps(r);
    reach_out(r, OUTREACH_SENT, "o", LAST_US - 4 * US_PER_HOUR);
    emit(r, LAST_US + 12 * US_PER_HOUR);
    assert_reason(r, EO_OPTIMAL_TIMING_HOURS, "insufficient_data: have 4, need 5");
    assert_near(number(r, EO_PROACTIVE_SUCCESS_RATE), 1);
}

/* Answered within 24 hours or not; open until then. Two in a row without an answer: no third. */
static void test_unanswered_attempts_stop_the_bot(void **state)
{
    struct rig *r = *state;
    golden_epoch(r);
    golden_gaps(r);
    reach_out(r, OUTREACH_SENT, "a", LAST_US + US_PER_HOUR);
    emit(r, LAST_US + 25 * US_PER_HOUR);
    assert_reason(r, EO_PROACTIVE_SUCCESS_RATE, "insufficient_data: have 0, need 1");
    emit(r, LAST_US + 25 * US_PER_HOUR + 1);
    assert_near(number(r, EO_PROACTIVE_SUCCESS_RATE), 0);
    /* p = (0 + 2) / 5, halved by the streak; Tuesday 21:00 is 28 * 0 / 52 of activity. */
    assert_near(number(r, EO_RECEPTIVITY_SCORE), 0);
    assert_true(r->row.values[EO_OPTIMAL_TIMING_HOURS].set);
    reach_out(r, OUTREACH_SENT, "b", LAST_US + 30 * US_PER_HOUR);
    emit(r, LAST_US + 55 * US_PER_HOUR);
    assert_reason(r, EO_OPTIMAL_TIMING_HOURS, "unanswered");
    assert_detail(r, "\"unanswered_in_a_row\":2");
    user(r, LAST_US + 54 * US_PER_HOUR + 1); /* just too late for b */
    emit(r, LAST_US + 56 * US_PER_HOUR);
    assert_near(number(r, EO_PROACTIVE_SUCCESS_RATE), 0);
}

static void test_an_opt_out_silences_the_row_until_the_opt_in(void **state)
{
    struct rig *r = *state;
    golden_epoch(r);
    golden_gaps(r);
    golden_attempts(r);
    struct key_change change = wish(r, PRIVACY_OPTOUT, LAST_US);
    assert_true(change.applied && change.touched[TABLE] && change.urgent[TABLE]);
    emit(r, LAST_US + 12 * US_PER_HOUR);
    assert_near(number(r, EO_RECEPTIVITY_SCORE), 0);
    assert_detail(r, "\"receptivity\":\"opted_out\"");
    assert_reason(r, EO_OPTIMAL_TIMING_HOURS, "opted_out");
    assert_reason(r, EO_NEXT_CONTACT_AT, "opted_out");
    assert_reason(r, EO_SUGGESTED_TOPICS, "opted_out");
    assert_reason(r, EO_OPPORTUNITIES, "opted_out");
    assert_near(number(r, EO_PROACTIVE_SUCCESS_RATE), 0.75);
    wish(r, PRIVACY_OPTIN, LAST_US + 1);
    emit(r, LAST_US + 12 * US_PER_HOUR);
    assert_near(number(r, EO_RECEPTIVITY_SCORE), 0.5);
}

/* What must be shown at once, and what counts. */
static void test_attempts_are_urgent_and_user_messages_count(void **state)
{
    struct rig *r = *state;
    struct key_change c = say(r, ROLE_USER, LAST_US, "hello", NULL);
    assert_int_equal(c.weight[TABLE], 1);
    assert_false(c.urgent[TABLE]);
    c = say(r, ROLE_BOT, LAST_US, "hello", NULL);
    assert_int_equal(c.weight[TABLE], 0);
    c = reach_out(r, OUTREACH_SENT, "o", LAST_US);
    assert_true(c.urgent[TABLE] && c.touched[TABLE]);
    c = reach_out(r, OUTREACH_REPLIED, "o", LAST_US);
    assert_true(c.urgent[TABLE]);
}

/* Without attempts, p is what the user's answers to the bot say: here 6 of 12. */
static void test_without_attempts_the_prior_speaks_alone(void **state)
{
    struct rig *r = *state;
    for (int i = 12; i > 0; i--) {
        say(r, ROLE_BOT, LAST_US - i * US_PER_DAY, "how are you", NULL);
        user(r, LAST_US - i * US_PER_DAY + (i % 2 ? US_PER_MINUTE : 31 * US_PER_MINUTE));
        user(r, LAST_US - i * US_PER_DAY + 40 * US_PER_MINUTE);
    }
    emit(r, LAST_US);
    assert_detail(r, "\"prior\":{\"p0\":0.5,\"source\":\"replies_of_user\"}");
    assert_int_equal(r->row.state_flags, ROW_LEXICAL | ROW_NO_TZ | ROW_NO_EMOTION | ROW_PRIOR_ONLY);
    assert_true(number(r, EO_RECEPTIVITY_SCORE) > 0);
    assert_true(number(r, EO_RECEPTIVITY_SCORE) <= 0.5);
}

/* Appendix B: hours are UTC and flagged; when that may not be assumed, there is no timing. */
static void test_without_a_time_zone_quiet_hours_decide(void **state)
{
    struct rig *r = *state;
    golden_gaps(r);
    emit(r, LAST_US + 12 * US_PER_HOUR);
    assert_detail(r, "\"hours\":{\"assume_utc\":true,\"quiet\":[22,8]}");
    struct eo_counts c = {.as_of_us = LAST_US, .n_user = 20, .last_user_us = LAST_US};
    struct eo_params never = {.quiet_from = 22, .quiet_to = 8, .assume_utc = false};
    for (c.n_gaps = 0; c.n_gaps < 9; c.n_gaps++)
        c.gaps[c.n_gaps].us = 10 * US_PER_HOUR;
    row_deinit(&r->row);
    row_init(&r->row, &tables[TABLE]);
    assert_int_equal(row_set_key(&r->row, STR("user"), STR("bot")), STATUS_OK);
    assert_int_equal(eo_write(&c, &never, &r->row, NULL), STATUS_OK);
    assert_int_equal(row_finish(&r->row), STATUS_OK);
    assert_reason(r, EO_OPTIMAL_TIMING_HOURS, "no_time_zone");
}

/*
 * Two topics a day apart. The dog: four messages that score 1/2 (no emotion) * 2^(-1/14) * 4/7; the
 * garden: two happy ones, whose question the bot never answered: (1/2 + 1/2 * 1) * 2/5 * 1.5. Both
 * are recent; a question that was just asked is not yet left alone.
 */
static void test_topics_are_scored_and_questions_found(void **state)
{
    struct rig *r = *state;
    int64_t t_us = LAST_US - US_PER_DAY;
    for (int i = 0; i < 4; i++)
        say(r, ROLE_USER, t_us - i * US_PER_MINUTE, "vet injured paw bandage", NULL);
    say(r, ROLE_USER, LAST_US - US_PER_MINUTE, "roses tulips compost seeds", "joy");
    say(r, ROLE_USER, LAST_US, "roses tulips compost seeds?", "joy");
    emit(r, LAST_US + 59 * US_PER_MINUTE);
    assert_false(has(row_value(&r->row, EO_SUGGESTED_TOPICS), "unresolved_question"));
    emit(r, LAST_US + US_PER_HOUR);
    assert_false(r->row.state_flags & ROW_NO_EMOTION);
    assert_true(has(row_value(&r->row, EO_SUGGESTED_TOPICS),
                    "[{\"last_discussed\":\"2026-01-05T20:00:00Z\",\"n\":2,\"reasons\":["
                    "\"unresolved_question\",\"positive_valence\",\"recent\"]"));
    char score[64];
    snprintf(score, sizeof(score), "\"score\":%.6g,", 0.5 * exp2(-(25.0 / 24) / 14) * (4.0 / 7));
    assert_true(has(row_value(&r->row, EO_SUGGESTED_TOPICS), score));
    snprintf(score, sizeof(score), "\"score\":%.6g,", exp2(-(1.0 / 24) / 14) * (2.0 / 5) * 1.5);
    assert_true(has(row_value(&r->row, EO_SUGGESTED_TOPICS), score));
    assert_true(has(row_value(&r->row, EO_OPPORTUNITIES), "\"type\":\"unresolved_question\""));
    say(r, ROLE_BOT, LAST_US + US_PER_MINUTE, "in spring", NULL);
    emit(r, LAST_US + 2 * US_PER_HOUR);
    assert_false(has(row_value(&r->row, EO_SUGGESTED_TOPICS), "unresolved_question"));
    assert_json(r, EO_OPPORTUNITIES, "[]");
}

/* 30 h is unusual for the golden gaps: from then on the silence is long, for 14 days. */
static void test_silence_becomes_an_opportunity(void **state)
{
    struct rig *r = *state;
    golden_gaps(r);
    emit(r, LAST_US + 30 * US_PER_HOUR - 1);
    assert_json(r, EO_OPPORTUNITIES, "[]");
    assert_true(r->row.valid_until_us == LAST_US + 30 * US_PER_HOUR);
    emit(r, LAST_US + 31 * US_PER_HOUR);
    assert_json(r, EO_OPPORTUNITIES,
                "[{\"since\":\"2026-01-07T02:00:00Z\",\"strength\":1,\"type\":\"long_silence\","
                "\"valid_until\":\"2026-01-19T20:00:00Z\"}]");
}

static void test_anniversaries_last_a_day(void **state)
{
    struct rig *r = *state;
    user(r, LAST_US);
    emit(r, LAST_US + 7 * US_PER_DAY - 1);
    assert_json(r, EO_OPPORTUNITIES, "[]");
    emit(r, LAST_US + 7 * US_PER_DAY);
    assert_json(r, EO_OPPORTUNITIES,
                "[{\"since\":\"2026-01-12T20:00:00Z\",\"strength\":0.4,\"type\":\"anniversary\","
                "\"valid_until\":\"2026-01-13T20:00:00Z\"}]");
    emit(r, LAST_US + 8 * US_PER_DAY);
    assert_json(r, EO_OPPORTUNITIES, "[]");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, rig_start, rig_stop)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_the_example_of_the_specification),
        cmocka_unit_test(test_survival_is_exact_and_counts_what_is_still_open),
        cmocka_unit_test(test_survival_of_many_gaps_stays_close),
        cmocka_unit_test(test_activity_is_smoothed_and_adds_up_to_one),
        TEST(test_too_little_is_null_with_a_reason),
        TEST(test_a_bot_alone_has_a_row_of_reasons),
        TEST(test_a_return_after_an_attempt_is_no_return_gap),
        TEST(test_unanswered_attempts_stop_the_bot),
        TEST(test_an_opt_out_silences_the_row_until_the_opt_in),
        TEST(test_attempts_are_urgent_and_user_messages_count),
        TEST(test_without_attempts_the_prior_speaks_alone),
        TEST(test_without_a_time_zone_quiet_hours_decide),
        TEST(test_topics_are_scored_and_questions_found),
        TEST(test_silence_becomes_an_opportunity),
        TEST(test_anniversaries_last_a_day),
    };
    return cmocka_run_group_tests_name("engines/proactive_engagement", tests, NULL, NULL);
}
