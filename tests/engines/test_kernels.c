/*
 * Goal: the shared formulas give the published and hand-derived numbers.
 * Method: golden values of docs/ENGINES.md, then comparison with naive code on generated values.
 */
#include "core/clock.h"
#include "engines/kernels.h"

#include <math.h>
#include <setjmp.h> /* cmocka needs these three */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void assert_near(double got, double want)
{
    if (!(fabs(got - want) <= 1e-6))
        fail_msg("got %.9f, want %.9f", got, want);
}

static void test_posterior_and_wilson_match_the_golden_numbers(void **state)
{
    (void)state;
    /* Base 12/22, as in E6; base 12/20 and 8 of 10, as in E3. */
    assert_near(kernel_posterior(9, 12, 12.0 / 22.0), 0.698864);
    assert_near(kernel_posterior(3, 10, 12.0 / 22.0), 0.370130);
    assert_near(kernel_posterior(8, 10, 0.6), 0.742857);
    assert_near(kernel_wilson_low(8, 10), 0.490157);
    assert_near(kernel_wilson_high(8, 10), 0.943319);
    assert_near(kernel_wilson_low(3, 4), 0.300636);
    assert_near(kernel_wilson_high(3, 4), 0.954414);
}

static void test_wilson_stays_inside_zero_and_one(void **state)
{
    (void)state;
    assert_near(kernel_wilson_low(0, 0), 0.0);
    assert_near(kernel_wilson_high(0, 0), 1.0);
    for (uint64_t n = 1; n < 40; n++) {
        for (uint64_t k = 0; k <= n; k++) {
            double low = kernel_wilson_low(k, n), high = kernel_wilson_high(k, n);
            assert_true(low >= 0.0 && low <= (double)k / (double)n + 1e-12);
            assert_true(high <= 1.0 && high >= (double)k / (double)n - 1e-12);
        }
    }
}

static void test_trend_matches_the_golden_series(void **state)
{
    (void)state;
    const double q[] = {.60, .62, .61, .65, .66, .68, .70};
    struct trend t = kernel_trend(q, 7);
    assert_int_equal(t.s, 19);
    assert_near(t.variance, 44.333333);
    assert_near(t.z, 18.0 / sqrt(133.0 / 3.0)); /* 2.70338 */
    assert_near(t.slope, 0.0166667);
}

static void test_trend_corrects_for_ties_and_has_no_answer_for_a_constant(void **state)
{
    (void)state;
    /* Two pairs of equals: (6*5*17 - 2 * 2*1*9) / 18 = 474/18. */
    const double tied[] = {1, 1, 2, 3, 3, 4};
    struct trend t = kernel_trend(tied, 6);
    assert_int_equal(t.s, 13);
    assert_near(t.variance, 474.0 / 18.0);
    assert_near(t.z, 12.0 / sqrt(474.0 / 18.0));
    const double flat[] = {5, 5, 5, 5, 5};
    t = kernel_trend(flat, 5);
    assert_int_equal(t.s, 0);
    assert_near(t.z, 0.0);
    assert_near(kernel_trend(flat, 1).z, 0.0);
}

static void test_quantiles_of_the_golden_words(void **state)
{
    (void)state;
    static const uint32_t words[] = {3, 5, 8, 8, 40};
    struct hist h = {0};
    for (size_t i = 0; i < 5; i++)
        hist_change(&h, words[i], 1);
    assert_int_equal(hist_quantile(&h, 50), 8);
    assert_int_equal(hist_quantile(&h, 90), 40);
    assert_int_equal(hist_quantile(&h, 0), 3);
    assert_int_equal(hist_quantile(&h, 100), 40);
    assert_near(kernel_mean(5, 64), 12.8);
}

static void test_histogram_is_exact_up_to_64_and_within_its_error_above(void **state)
{
    (void)state;
    size_t last = 0;
    for (uint32_t v = 0; v <= UINT16_MAX; v++) {
        size_t b = hist_bucket(v);
        assert_true(b == last || b == last + 1);
        last = b;
        double error = fabs((double)hist_value(b) - (double)v);
        if (v <= 64)
            assert_near(error, 0.0);
        else if (error > 0.045 * (double)v + 0.5)
            fail_msg("value %u is shown as %u", v, hist_value(b));
    }
    assert_int_equal(last, HIST_BUCKETS - 1);
    assert_int_equal(hist_bucket(UINT32_MAX), last);
}

static void test_taking_a_value_out_restores_the_histogram(void **state)
{
    (void)state;
    struct hist h = {0}, before;
    hist_change(&h, 7, 1);
    hist_change(&h, 700, 1);
    before = h;
    hist_change(&h, 70, 1);
    assert_int_equal(hist_total(&h), 3);
    assert_int_equal(hist_at_most(&h, 70), 2);
    hist_change(&h, 70, -1);
    assert_memory_equal(&h, &before, sizeof(h));
    assert_int_equal(hist_quantile(&(struct hist){0}, 50), 0);
}

static void test_variance_does_not_cancel(void **state)
{
    (void)state;
    /* 10^9 + {4, 7, 13, 16}: the textbook example, variance 30. */
    int64_t sum = 0, sum2 = 0;
    static const int64_t offsets[] = {4, 7, 13, 16};
    for (size_t i = 0; i < 4; i++) {
        int64_t x = 1000000000 + offsets[i];
        sum += x;
        sum2 += x * x;
    }
    assert_near(kernel_variance(4, sum, sum2), 30.0);
    assert_near(kernel_variance(1, 5, 25), 0.0);
}

static void test_correlation_knows_perfect_none_and_undefined(void **state)
{
    (void)state;
    double r;
    struct pair_sums line = {.n = 3, .x = 6, .y = 12, .xx = 14, .yy = 56, .xy = 28};
    assert_true(kernel_correlation(&line, &r));
    assert_near(r, 1.0);
    struct pair_sums constant = {.n = 3, .x = 6, .y = 15, .xx = 14, .yy = 75, .xy = 30};
    assert_false(kernel_correlation(&constant, &r));
    struct pair_sums few = {.n = 2, .x = 3, .y = 3, .xx = 5, .yy = 5, .xy = 5};
    assert_false(kernel_correlation(&few, &r));
}

static void test_entropy_of_equal_shares_is_the_logarithm(void **state)
{
    (void)state;
    uint32_t eight[8] = {5, 5, 5, 5, 5, 5, 5, 5}, one[3] = {0, 9, 0}, half[2] = {1, 1};
    assert_near(kernel_entropy_bits(eight, 8), 3.0);
    assert_near(kernel_entropy_bits(one, 3), 0.0);
    assert_near(kernel_entropy_bits(half, 2), 1.0);
    assert_near(kernel_entropy_bits(one, 1), 0.0);
}

static void test_hour_of_week_starts_on_monday_in_utc(void **state)
{
    (void)state;
    /* 2026-01-05 was a Monday. */
    int64_t monday_us = INT64_C(1767571200) * US_PER_SECOND;
    assert_int_equal(kernel_hour_of_week(monday_us), 0);
    assert_int_equal(kernel_hour_of_week(monday_us - 1), 167);
    assert_int_equal(kernel_hour_of_week(monday_us + 115 * US_PER_HOUR + 1), 115);
    assert_int_equal(kernel_hour_of_week(0), 72);
    assert_int_equal(kernel_hour_of_week(-1), 71);
    assert_int_equal(kernel_day(-1), -1);
    assert_int_equal(kernel_day(US_PER_DAY), 1);
}

static void test_confidence_is_rounded_and_weighs_coverage(void **state)
{
    (void)state;
    assert_near(kernel_confidence(50, 50.0, 50, 50), 0.5);
    assert_near(kernel_confidence(240, 50.0, 230, 240), 0.793);
    assert_near(kernel_confidence(0, 50.0, 0, 0), 0.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_posterior_and_wilson_match_the_golden_numbers),
        cmocka_unit_test(test_wilson_stays_inside_zero_and_one),
        cmocka_unit_test(test_trend_matches_the_golden_series),
        cmocka_unit_test(test_trend_corrects_for_ties_and_has_no_answer_for_a_constant),
        cmocka_unit_test(test_quantiles_of_the_golden_words),
        cmocka_unit_test(test_histogram_is_exact_up_to_64_and_within_its_error_above),
        cmocka_unit_test(test_taking_a_value_out_restores_the_histogram),
        cmocka_unit_test(test_variance_does_not_cancel),
        cmocka_unit_test(test_correlation_knows_perfect_none_and_undefined),
        cmocka_unit_test(test_entropy_of_equal_shares_is_the_logarithm),
        cmocka_unit_test(test_hour_of_week_starts_on_monday_in_utc),
        cmocka_unit_test(test_confidence_is_rounded_and_weighs_coverage),
    };
    return cmocka_run_group_tests_name("engines/kernels", tests, NULL, NULL);
}
