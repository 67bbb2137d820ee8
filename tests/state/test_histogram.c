/* tests/state/test_histogram.c - quantiles stay within the promised error of the true ones. */
#include "state/histogram.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static void test_an_empty_histogram_has_quantile_zero(void **state)
{
    (void)state;
    struct histogram h = {0};
    assert_int_equal(histogram_quantile(&h, 0.5), 0);
}

static void test_quantiles_are_at_most_a_sixteenth_too_high(void **state)
{
    (void)state;
    struct histogram h = {0};
    for (int64_t us = 1; us <= 100000; us++)
        histogram_add(&h, us);
    static const double quantiles[] = {0.001, 0.01, 0.5, 0.9, 0.99, 1};
    for (size_t i = 0; i < sizeof(quantiles) / sizeof(quantiles[0]); i++) {
        double exact = quantiles[i] * 100000;
        double got = (double)histogram_quantile(&h, quantiles[i]);
        assert_true(got >= exact && got <= exact * (1 + 1.0 / 16));
    }
}

static void test_extreme_durations_are_kept_in_the_outer_buckets(void **state)
{
    (void)state;
    struct histogram h = {0};
    histogram_add(&h, -5);
    assert_int_equal(histogram_quantile(&h, 1), 1);
    histogram_add(&h, INT64_MAX);
    assert_true(histogram_quantile(&h, 1) > INT64_C(3600) * 1000000);
    assert_int_equal(h.n, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_an_empty_histogram_has_quantile_zero),
        cmocka_unit_test(test_quantiles_are_at_most_a_sixteenth_too_high),
        cmocka_unit_test(test_extreme_durations_are_kept_in_the_outer_buckets),
    };
    return cmocka_run_group_tests_name("state/histogram", tests, NULL, NULL);
}
