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
#include <stdlib.h>

#include <cmocka.h>

#define HOUR_S INT64_C(3600)

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

/*
 * Exact values over all pairs, from bench/quality/data/trend.jsonl.gz: two random series with a
 * trend (noise; ties), and hourly means of the series "rogue_agent_key_hold" of the Numenta Anomaly
 * Benchmark (MIT, Copyright 2014-2024 Numenta Inc.; licence in bench/quality/data/NOTICE.md). The
 * values have 4 (variance), 6 (z) and 8 digits (slope); p is two-sided.
 */
struct reference {
    size_t n;
    double values[TREND_POINTS_MAX];
    int64_t s;
    double variance, z, p, slope;
};
static const struct reference references[] = {
    {20,
     {3.5486,   2.69982,   -0.525714, 0.96313,   2.22873,   -0.308274, 0.79225,
      1.13768,  -0.844304, -1.2747,   -0.866889, 1.10604,   -0.530359, -0.303354,
      -1.35874, -0.898468, -3.00281,  -1.62197,  -0.998679, -3.09366},
     -122,
     950.0,
     -3.925758,
     8.64569041331049e-05,
     -0.24591534},
    {20,
     {2, 2, 2, 2, 1, 1, -1, 0, 0, 1, 0, -2, -3, 0, -1, 0, -2, -3, -1, -1},
     -115,
     910.3333,
     -3.778371,
     0.0001578574260573164,
     -0.2},
    {60,
     {0,         0,         0,         0,         0.00510921, 0,         0,         0,
      0,         0,         0,         0.0190794, 0,          0,         0,         0,
      0,         0,         0,         0,         0,          0,         0.0117606, 0,
      0.0219931, 0.137555,  0.0298765, 0,         0,          0.0282765, 0.0815097, 0.0769129,
      0.07689,   0.0363018, 0.066128,  0.0691391, 0.0792265,  0.0782128, 0.0650223, 0.0596946,
      0.0429239, 0.102164,  0.0658342, 0.0335847, 0.0603885,  0.131284,  0.0638566, 0.122646,
      0.0722844, 0.0702871, 0.0363617, 0.0683143, 0.00964106, 0.0618251, 0.0658114, 0.0755049,
      0.104224,  0.0814387, 0.0304836, 0.0727769},
     891,
     23149.6667,
     5.849485,
     4.93097185914964e-09,
     0.0014633951},
};

static void test_trend_is_the_exact_test_on_reference_series(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(references) / sizeof(references[0]); i++) {
        const struct reference *r = &references[i];
        struct trend t = kernel_trend(r->values, r->n);
        assert_int_equal(t.s, r->s);
        assert_true(fabs(t.variance - r->variance) < 1e-4);
        assert_true(fabs(t.z - r->z) < 1e-6);
        double p = erfc(fabs(t.z) / sqrt(2.0));
        assert_true(fabs(p - r->p) <= 4e-6 * fabs(t.z) * r->p);
        assert_true(fabs(t.slope - r->slope) <= 1e-7 * fabs(r->slope));
    }
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

/* ENGINES.md K2: gaps of 2, 10 and 30 h, and one open for 12 h, over bins 0-6-24-48 h. */
static void test_the_golden_gaps_give_the_golden_survival(void **state)
{
    const int64_t edges_s[2] = {6 * HOUR_S, 24 * HOUR_S};
    const int64_t gaps_h[4] = {2, 10, 30, 12};
    uint32_t events[3] = {0};
    int64_t exposure_s[3] = {0};

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        size_t bin = kernel_gap_expose(edges_s, 3, gaps_h[i] * HOUR_S, 1, exposure_s);
        assert_int_equal(bin, kernel_gap_bin(edges_s, 3, gaps_h[i] * HOUR_S));
        events[bin] += i < 3;
    }
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(events[i], 1);
    assert_int_equal(exposure_s[0], 20 * HOUR_S);
    assert_int_equal(exposure_s[1], 28 * HOUR_S);
    assert_int_equal(exposure_s[2], 6 * HOUR_S);
    assert_near(kernel_survival(edges_s, 3, events, exposure_s, 0, 24 * HOUR_S), 0.389513);
    assert_near(kernel_survival(edges_s, 3, events, exposure_s, 24 * HOUR_S, 24 * HOUR_S),
                0.324369);
}

static void test_taking_gaps_out_restores_the_exposure(void **state)
{
    const int64_t edges_s[3] = {10, 100, 1000};
    const int64_t gaps_s[] = {0, 9, 10, 99, 100, 1000, 123456789};
    int64_t exposure_s[4] = {0};

    (void)state;
    for (size_t i = 0; i < 7; i++)
        kernel_gap_expose(edges_s, 4, gaps_s[i], 1, exposure_s);
    /* A gap that ends exactly at an edge is exposed in the whole bin before it and ends behind. */
    assert_int_equal(exposure_s[0], 0 + 9 + 5 * 10);
    assert_int_equal(exposure_s[1], 0 + 89 + 3 * 90);
    assert_int_equal(kernel_gap_bin(edges_s, 4, 10), 1);
    assert_int_equal(kernel_gap_bin(edges_s, 4, 123456789), 3);
    for (size_t i = 0; i < 7; i++)
        kernel_gap_expose(edges_s, 4, gaps_s[i], -1, exposure_s);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(exposure_s[i], 0);
}

/* ENGINES.md E5, with the digits that behavior_golden.py adds. */
static void test_the_golden_bins_give_the_golden_curve_and_score(void **state)
{
    const double lags[4] = {1, 4, 16, 64};
    const uint32_t events[4] = {40, 24, 12, 8};
    const double exposure[4] = {100, 150, 150, 200};
    struct power_fit fit;
    double score;

    (void)state;
    assert_true(kernel_power_fit(lags, events, exposure, 4, &fit));
    assert_near(fit.d, 0.567068353);
    assert_near(fit.a, 0.385396994);
    assert_true(fit.has_r2);
    assert_near(fit.r2, 0.993514470);
    assert_true(kernel_recency_score(lags, events, exposure, 4, &score));
    assert_near(score, 0.944862155);
}

static void test_a_curve_needs_three_bins_and_keeps_its_slope_in_bounds(void **state)
{
    const double lags[4] = {1, 4, 16, 64};
    const uint32_t two[4] = {5, 0, 5, 3};
    const double unexposed[4] = {10, 10, 10, 0};
    const uint32_t same[4] = {5, 5, 5, 5};
    const double even[4] = {10, 10, 10, 10};
    const uint32_t rising[4] = {1, 10, 100, 1000};
    const uint32_t falling[4] = {1000000, 1000, 1, 0};
    struct power_fit fit;

    (void)state;
    assert_false(kernel_power_fit(lags, two, unexposed, 4, &fit));
    assert_true(kernel_power_fit(lags, same, even, 4, &fit));
    assert_near(fit.d, POWER_D_MIN);
    assert_false(fit.has_r2);
    assert_true(kernel_power_fit(lags, rising, even, 4, &fit));
    assert_near(fit.d, POWER_D_MIN);
    assert_true(fit.has_r2 && fit.r2 < 0);
    assert_true(kernel_power_fit(lags, falling, even, 4, &fit));
    assert_near(fit.d, POWER_D_MAX);
}

static void test_a_rate_ratio_has_its_log_normal_interval(void **state)
{
    struct rate_ratio r;

    (void)state;
    /* 20 in 100 against 10 in 200: 4, times or over exp(1.96 sqrt(1/20 + 1/10)) = 2.136363 */
    assert_true(kernel_rate_ratio(20, 100, 10, 200, &r));
    assert_near(r.ratio, 4);
    assert_near(r.low, 1.872341);
    assert_near(r.high, 8.545451);
    assert_false(kernel_rate_ratio(0, 100, 10, 200, &r));
    assert_false(kernel_rate_ratio(20, 0, 10, 200, &r));
}

/* splitmix64, as numbers in (0, 1). */
static double uniform(uint64_t *seed)
{
    uint64_t z = (*seed += UINT64_C(0x9E3779B97F4A7C15));
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return ((double)((z ^ z >> 31) >> 11) + 0.5) / 9007199254740992.0;
}

/*
 * ENGINES.md section 9: 10,000 exponential gaps of 20 h on average, a third of them cut short by
 * the end of the observation. Every bin recovers the one rate within 5 %, which needs the open
 * gaps: without their exposure the rates are at least a quarter too high.
 */
static void test_the_hazard_of_exponential_gaps_is_recovered(void **state)
{
    const int64_t edges_s[2] = {6 * HOUR_S, 14 * HOUR_S};
    uint64_t seed = 20260105;
    uint32_t events[3] = {0}, all_events = 0;
    int64_t exposure_s[3] = {0}, of_closed_s[3] = {0};
    int64_t all_s = 0, all_closed_s = 0;

    (void)state;
    for (int i = 0; i < 10000; i++) {
        double gap_h = -20 * log(uniform(&seed));
        double end_h = -40 * log(uniform(&seed));
        bool closed = gap_h <= end_h;
        int64_t gap_s = llround(fmin(gap_h, end_h) * HOUR_S);
        events[kernel_gap_expose(edges_s, 3, gap_s, 1, exposure_s)] += closed;
        if (closed)
            kernel_gap_expose(edges_s, 3, gap_s, 1, of_closed_s);
    }
    for (size_t i = 0; i < 3; i++) {
        double rate = events[i] / ((double)exposure_s[i] / HOUR_S);
        if (fabs(rate * 20 - 1) > 0.05)
            fail_msg("bin %zu: %u events, rate %g per h, want 0.05", i, events[i], rate);
        all_events += events[i];
        all_s += exposure_s[i];
        all_closed_s += of_closed_s[i];
    }
    assert_true(fabs(all_events / ((double)all_s / HOUR_S) * 20 - 1) < 0.05);
    assert_true(all_events / ((double)all_closed_s / HOUR_S) * 20 > 1.25);
    /* Survival of one mean gap: 1/e. */
    double s = kernel_survival(edges_s, 3, events, exposure_s, 24 * HOUR_S, 20 * HOUR_S);
    assert_true(fabs(s * exp(1) - 1) < 0.05);
}

/* ENGINES.md section 9: shares of any size, samples of several sizes; the interval holds the true
 * share 95 times in 100, give or take 2. */
static void test_wilson_covers_ninety_five_in_a_hundred(void **state)
{
    const uint64_t sizes[] = {10, 30, 100, 300};
    uint64_t seed = 7;

    (void)state;
    for (size_t s = 0; s < 4; s++) {
        uint64_t n = sizes[s];
        int covered = 0;
        for (int round = 0; round < 4000; round++) {
            double p = uniform(&seed);
            uint64_t k = 0;
            for (uint64_t i = 0; i < n; i++)
                k += uniform(&seed) < p;
            covered += kernel_wilson_low(k, n) <= p && p <= kernel_wilson_high(k, n);
        }
        if (abs(covered - 3800) > 80)
            fail_msg("n = %d: %d of 4000 intervals hold the share", (int)n, covered);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_posterior_and_wilson_match_the_golden_numbers),
        cmocka_unit_test(test_wilson_stays_inside_zero_and_one),
        cmocka_unit_test(test_trend_matches_the_golden_series),
        cmocka_unit_test(test_trend_is_the_exact_test_on_reference_series),
        cmocka_unit_test(test_trend_corrects_for_ties_and_has_no_answer_for_a_constant),
        cmocka_unit_test(test_quantiles_of_the_golden_words),
        cmocka_unit_test(test_histogram_is_exact_up_to_64_and_within_its_error_above),
        cmocka_unit_test(test_taking_a_value_out_restores_the_histogram),
        cmocka_unit_test(test_variance_does_not_cancel),
        cmocka_unit_test(test_correlation_knows_perfect_none_and_undefined),
        cmocka_unit_test(test_entropy_of_equal_shares_is_the_logarithm),
        cmocka_unit_test(test_hour_of_week_starts_on_monday_in_utc),
        cmocka_unit_test(test_confidence_is_rounded_and_weighs_coverage),
        cmocka_unit_test(test_the_golden_gaps_give_the_golden_survival),
        cmocka_unit_test(test_taking_gaps_out_restores_the_exposure),
        cmocka_unit_test(test_the_golden_bins_give_the_golden_curve_and_score),
        cmocka_unit_test(test_a_curve_needs_three_bins_and_keeps_its_slope_in_bounds),
        cmocka_unit_test(test_a_rate_ratio_has_its_log_normal_interval),
        cmocka_unit_test(test_the_hazard_of_exponential_gaps_is_recovered),
        cmocka_unit_test(test_wilson_covers_ninety_five_in_a_hundred),
    };
    return cmocka_run_group_tests_name("engines/kernels", tests, NULL, NULL);
}
