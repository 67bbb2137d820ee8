/*
 * Goal: the law of the gap to the next message is a distribution, mixes what it is said to mix, and
 * is taught and traced as gap_law.h says.
 * Method: laws worked out from the shipped table by hand, a key for learning and traces.
 */
#include "core/clock.h"
#include "engines/gap_law.h"
#include "engines/key.h"

#include <math.h>
#include <setjmp.h> /* cmocka needs these three */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define T0 (INT64_C(1767571200) * US_PER_SECOND) /* 2026-01-05 00:00 UTC */

static void assert_near(double a, double b)
{
    if (fabs(a - b) > 1e-12)
        fail_msg("%.17g is not %.17g", a, b);
}

static double shipped(unsigned context, unsigned length)
{
    double sum = 0;
    for (unsigned b = 0; b < EPOCH_GAP_BINS; b++)
        sum += gap_prior[context][b];
    return gap_prior[context][length] / sum;
}

static void test_lengths_have_closed_upper_ends(void **state)
{
    (void)state;
    assert_true(gap_edges_us[0] == 2 * US_PER_SECOND);
    assert_true(gap_edges_us[EPOCH_GAP_BINS] == 150 * US_PER_DAY);
    assert_int_equal(gap_length(0), 0);
    assert_int_equal(gap_length(INT64_MAX), EPOCH_GAP_BINS - 1);
    for (unsigned b = 0; b < EPOCH_GAP_BINS; b++) {
        assert_true(gap_edges_us[b] < gap_edges_us[b + 1]);
        assert_int_equal(gap_length(gap_edges_us[b + 1]), b);
        if (b + 1 < EPOCH_GAP_BINS)
            assert_int_equal(gap_length(gap_edges_us[b + 1] + 1), b + 1);
    }
}

static void test_contexts_are_class_then_block(void **state)
{
    (void)state;
    assert_int_equal(gap_context(T0, 0), 0);
    assert_int_equal(gap_context(T0 + 4 * US_PER_HOUR, 2 * US_PER_MINUTE - 1), 1);
    assert_int_equal(gap_context(T0 - 1, 2 * US_PER_MINUTE), 6 + 5);
    assert_int_equal(gap_context(T0, 20 * US_PER_MINUTE), 12);
    assert_int_equal(gap_context(T0, US_PER_DAY), 18);
    assert_int_equal(gap_context(T0 + 23 * US_PER_HOUR, GAP_NONE), GAP_CONTEXTS - 1);
}

static void test_without_history_the_table_speaks(void **state)
{
    (void)state;
    struct gap_history none = {{0}};
    double law[EPOCH_GAP_BINS];
    for (unsigned c = 0; c < GAP_CONTEXTS; c++) {
        double sum = 0;
        gap_law(&none, c, NULL, law);
        for (unsigned b = 0; b < EPOCH_GAP_BINS; b++) {
            assert_near(law[b], shipped(c, b));
            assert_true(law[b] > 0);
            sum += law[b];
        }
        assert_near(sum, 1);
    }
}

/* One gap of now against 40 of the table: half of it in its length, a quarter on either side; the
 * outer lengths keep what would fall off. A gap before it weighs 62915 / 65536. */
static void test_own_gaps_count_and_fade(void **state)
{
    (void)state;
    struct gap_history h = {{0}};
    double law[EPOCH_GAP_BINS];
    gap_history_add(&h, gap_edges_us[10] + 1, GAP_NOW);
    gap_law(&h, 3, NULL, law);
    assert_near(law[10], (0.5 + 40 * shipped(3, 10)) / 41);
    assert_near(law[9], (0.25 + 40 * shipped(3, 9)) / 41);
    assert_near(law[11], (0.25 + 40 * shipped(3, 11)) / 41);
    assert_near(law[12], 40 * shipped(3, 12) / 41);
    uint32_t faded = gap_fade(GAP_NOW);
    assert_int_equal(faded, 62915);
    gap_history_add(&h, 0, faded);
    gap_law(&h, 3, NULL, law);
    double n = 41 + 62915.0 / 65536;
    assert_near(law[0], (0.75 * 62915 / 65536 + 40 * shipped(3, 0)) / n);
    uint32_t w = GAP_NOW;
    size_t gaps = 0;
    for (; w > 0; w = gap_fade(w))
        gaps++;
    assert_true(gaps > 100 && gaps < 300);
}

/* 100 gaps in one row: the row is half what it counts, half its class, which is half the same;
 * what is longer than an epoch can tell stays as it was. */
static void test_an_epoch_divides_the_short_gaps(void **state)
{
    (void)state;
    struct epoch *e = calloc(1, sizeof(*e));
    assert_non_null(e);
    struct gap_history none = {{0}};
    double law[EPOCH_GAP_BINS], before[EPOCH_GAP_BINS], short_gaps = 0, sum = 0;
    gap_law(&none, 7, NULL, before);
    gap_law(&none, 7, e, law);
    for (unsigned b = 0; b < EPOCH_GAP_BINS; b++)
        assert_near(law[b], before[b]); /* it has seen nothing */
    e->v[EPOCH_GAPS + 7 * EPOCH_GAP_BINS + 5] = 100 * EPOCH_SCALE;
    e->v[EPOCH_GAPS + 7 * EPOCH_GAP_BINS + 30] = 1000 * EPOCH_SCALE;
    gap_law(&none, 7, e, law);
    for (unsigned b = 0; b < 24; b++)
        short_gaps += before[b];
    for (unsigned b = 0; b < EPOCH_GAP_BINS; b++)
        sum += law[b];
    assert_near(sum, 1);
    assert_near(law[5], short_gaps * (0.75 + 0.25 * before[5] / short_gaps));
    assert_near(law[6], 0.25 * before[6]);
    assert_near(law[30], before[30]);
    /* Another hour of the class learns from the class, another class nothing. */
    gap_law(&none, 8, NULL, before);
    gap_law(&none, 8, e, law);
    assert_true(law[5] > before[5] + 0.1);
    gap_law(&none, 0, NULL, before);
    gap_law(&none, 0, e, law);
    assert_near(law[5], before[5]);
    free(e);
}

static void assert_is_distribution(const double law[EPOCH_GAP_BINS])
{
    struct gap_point p[GAP_POINTS];
    gap_points(law, p);
    double sum = 0;
    unsigned b = 0;
    for (size_t i = 0; i < GAP_POINTS; i++) {
        assert_true(p[i].cdf >= 0 && p[i].cdf <= 1);
        if (i > 0)
            assert_true(p[i].seconds > p[i - 1].seconds && p[i].cdf >= p[i - 1].cdf);
        for (; b < EPOCH_GAP_BINS && (double)gap_edges_us[b + 1] / 1e6 <= p[i].seconds; b++)
            sum += law[b];
        assert_true(fabs(sum - p[i].cdf) < 1e-9);
    }
}

/* Also when cells of the epoch are full, and when all gaps of the user are of one length. */
static void test_points_are_a_distribution_function(void **state)
{
    (void)state;
    struct epoch *e = calloc(1, sizeof(*e));
    assert_non_null(e);
    for (unsigned b = 0; b < EPOCH_GAP_BINS; b += 3)
        e->v[EPOCH_GAPS + 4 * EPOCH_GAP_BINS + b] = UINT32_MAX;
    for (unsigned c = 0; c < GAP_CONTEXTS; c++) {
        struct gap_history h = {{0}};
        double law[EPOCH_GAP_BINS];
        for (uint32_t w = GAP_NOW; w > 0; w = gap_fade(w))
            gap_history_add(&h, gap_edges_us[c], w);
        gap_law(&h, c, e, law);
        assert_is_distribution(law);
        gap_law(&h, c, NULL, law);
        assert_is_distribution(law);
    }
    free(e);
}

/* The law beyond an hour, divided at 80 %; the quantile of the whole at a full length is its end.
 */
static void test_quantiles_invert_the_law(void **state)
{
    (void)state;
    struct gap_history none = {{0}};
    double law[EPOCH_GAP_BINS], below = 0;
    gap_law(&none, 14, NULL, law);
    for (unsigned b = 0; b < 20; b++)
        below += law[b];
    int64_t at = gap_quantile_us(law, 0, below);
    assert_true(llabs(at - gap_edges_us[20]) < US_PER_SECOND);
    int64_t hour = gap_quantile_us(law, US_PER_HOUR, 0.8);
    assert_true(hour > US_PER_HOUR && hour < 150 * US_PER_DAY);
    assert_true(gap_quantile_us(law, US_PER_HOUR, 0.5) < hour);
    assert_true(gap_quantile_us(law, 200 * US_PER_DAY, 0.5) == 200 * US_PER_DAY);
}

static struct key_change write_message(struct key *k, const char *id, enum message_role role,
                                       int64_t t_us, struct feature *f)
{
    struct key_change change;
    struct event e = {.type = EVENT_MESSAGE, .id = str_from(id), .at_us = t_us};
    e.user_id = STR("user");
    e.bot_name = STR("bot");
    e.u.message.role = role;
    e.u.message.op = MESSAGE_INSERT;
    e.u.message.content = STR("");
    e.u.message.emotion_confidence = (double)NAN;
    feature_extract(&e, SOURCE_POSTGRES, (uint64_t)t_us, NULL, f);
    assert_int_equal(key_apply(k, f, t_us, &change, NULL), STATUS_OK);
    return change;
}

/* The cell of the gap that the message taught, or 0; 1 is what a gap counts. */
static unsigned taught(const struct key_change *c)
{
    unsigned cell = 0;
    for (uint32_t i = 0; i < c->delta.n; i++)
        if (c->delta.at[i].cell >= EPOCH_GAPS && c->delta.at[i].cell <= EPOCH_GAPS_END) {
            assert_int_equal(c->delta.at[i].count, 1);
            assert_int_equal(cell, 0);
            cell = c->delta.at[i].cell;
        }
    return cell;
}

static void test_each_user_message_teaches_the_gap_before_it(void **state)
{
    (void)state;
    struct key *k = NULL;
    struct feature f;
    assert_int_equal(key_new(STR("user"), STR("bot"), &k, NULL), STATUS_OK);
    struct key_change c = write_message(k, "a", ROLE_USER, T0, &f);
    assert_int_equal(taught(&c), 0);
    c = write_message(k, "b", ROLE_BOT, T0 + US_PER_SECOND, &f);
    assert_int_equal(taught(&c), 0);
    c = write_message(k, "c", ROLE_USER, T0 + 5 * US_PER_HOUR, &f);
    assert_int_equal(taught(&c), EPOCH_GAPS + (4 * GAP_BLOCKS + 0) * EPOCH_GAP_BINS +
                                     gap_length(5 * US_PER_HOUR));
    c = write_message(k, "d", ROLE_USER, T0 + 5 * US_PER_HOUR + US_PER_MINUTE, &f);
    assert_int_equal(taught(&c), EPOCH_GAPS + (2 * GAP_BLOCKS + 1) * EPOCH_GAP_BINS +
                                     gap_length(US_PER_MINUTE));
    c = write_message(k, "d", ROLE_USER, T0 + 5 * US_PER_HOUR + US_PER_MINUTE, &f);
    assert_int_equal(taught(&c), 0); /* seen before */
    key_free(k);
}

/* One line for each user message, with the law after it; it does not know what comes next. */
static void test_traces_never_peek(void **state)
{
    (void)state;
    struct key *k = NULL;
    struct feature first, f;
    const struct engine_ops *ops = engine_find("proactive_engagement");
    struct buf a, b;
    buf_init(&a, 4096);
    buf_init(&b, 4096);
    assert_int_equal(key_new(STR("user"), STR("bot"), &k, NULL), STATUS_OK);
    write_message(k, "a", ROLE_USER, T0, &first);
    assert_int_equal(key_trace(k, ops, TRACE_AFTER, &first, STR("a"), T0, &a, NULL), STATUS_OK);
    write_message(k, "b", ROLE_BOT, T0 + US_PER_MINUTE, &f);
    assert_int_equal(key_trace(k, ops, TRACE_AFTER, &f, STR("b"), T0, &b, NULL), STATUS_END);
    write_message(k, "c", ROLE_USER, T0 + 2 * US_PER_MINUTE, &f);
    assert_int_equal(key_trace(k, ops, TRACE_AFTER, &first, STR("a"), T0, &b, NULL), STATUS_OK);
    assert_int_equal(a.len, b.len);
    assert_memory_equal(a.data, b.data, a.len);
    assert_memory_equal(a.data, "{\"gap_cdf\":[[", 13);
    assert_memory_equal(a.data + a.len - 10, ",\"id\":\"a\"}", 10);
    buf_reset(&b);
    assert_int_equal(key_trace(k, ops, TRACE_AFTER, &f, STR("a"), T0, &b, NULL), STATUS_OK);
    assert_true(a.len != b.len || memcmp(a.data, b.data, a.len) != 0);
    buf_deinit(&a);
    buf_deinit(&b);
    key_free(k);
}

/* Somebody whose gaps are an hour, and who writes in the evenings alone. */
static void test_a_visit_is_where_a_return_is_likely(void **state)
{
    (void)state;
    struct gap_history h = {0};
    for (int i = 0; i < 200; i++)
        gap_history_add(&h, US_PER_HOUR, GAP_NOW);
    double law[EPOCH_GAP_BINS], even[HOURS_OF_WEEK], evenings[HOURS_OF_WEEK];
    gap_law(&h, 0, NULL, law);
    for (size_t i = 0; i < HOURS_OF_WEEK; i++) {
        even[i] = 1.0 / HOURS_OF_WEEK;
        evenings[i] = i % 24 >= 18 ? 1.0 / 42 : 0;
    }
    int64_t noon = (T0 / US_PER_DAY) * US_PER_DAY + 12 * US_PER_HOUR;
    int64_t half = 30 * US_PER_MINUTE;
    struct gap_visit v = gap_next_visit(law, even, noon, noon + half);
    assert_true(v.from_us <= noon + US_PER_HOUR && v.until_us > noon + US_PER_HOUR);
    /* Every step inside is likely, the one behind is not, and it never goes beyond a day. */
    for (int64_t t = v.from_us; t < v.until_us; t += GAP_VISIT_STEP_US)
        assert_true(gap_return(law, even, noon, t) >= GAP_LIKELY);
    assert_true(gap_return(law, even, noon, v.until_us) < GAP_LIKELY ||
                v.until_us >= noon + GAP_VISIT_HORIZON_US);
    /* At noon nobody is waited for who comes in the evening; nor beyond the horizon. */
    assert_true(gap_return(law, evenings, noon, noon + US_PER_HOUR) < 1e-9);
    v = gap_next_visit(law, evenings, noon, noon + half);
    assert_true(v.from_us == v.until_us || v.from_us >= noon + 6 * US_PER_HOUR - GAP_VISIT_STEP_US);
    v = gap_next_visit(law, even, noon, noon + 2 * US_PER_DAY);
    assert_int_equal(v.from_us, v.until_us);
    /* The same silence, the same answer. */
    struct gap_visit again = gap_next_visit(law, even, noon, noon + half);
    struct gap_visit once = gap_next_visit(law, even, noon, noon + half);
    assert_int_equal(again.from_us, once.from_us);
    assert_int_equal(again.until_us, once.until_us);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lengths_have_closed_upper_ends),
        cmocka_unit_test(test_contexts_are_class_then_block),
        cmocka_unit_test(test_without_history_the_table_speaks),
        cmocka_unit_test(test_own_gaps_count_and_fade),
        cmocka_unit_test(test_an_epoch_divides_the_short_gaps),
        cmocka_unit_test(test_points_are_a_distribution_function),
        cmocka_unit_test(test_quantiles_invert_the_law),
        cmocka_unit_test(test_each_user_message_teaches_the_gap_before_it),
        cmocka_unit_test(test_traces_never_peek),
        cmocka_unit_test(test_a_visit_is_where_a_return_is_likely),
    };
    return cmocka_run_group_tests_name("engines/gap_law", tests, NULL, NULL);
}
