/*
 * tests/server/test_rate.c - so many a second pass, as many at once, and whoever must wait is told
 * how long; threads that ask at the same time share them.
 */
#include "server/rate.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <pthread.h>

static void test_a_burst_of_one_second_passes_and_then_the_rate(void **state)
{
    (void)state;
    struct rate r = {0};
    const int64_t begin = 1000 * US_PER_SECOND;
    int64_t wait_us = 0;
    for (int i = 0; i < 10; i++)
        assert_true(rate_take(&r, 10, begin, NULL));
    assert_false(rate_take(&r, 10, begin, &wait_us));
    assert_int_equal(wait_us, US_PER_SECOND / 10);
    assert_false(rate_take(&r, 10, begin + wait_us - 1, NULL));
    assert_true(rate_take(&r, 10, begin + wait_us, NULL));
    assert_false(rate_take(&r, 10, begin + wait_us, NULL));
    int passed = 0;
    for (int64_t t = begin + wait_us; t < begin + 11 * US_PER_SECOND; t += 1000)
        passed += rate_take(&r, 10, t, NULL);
    assert_in_range(passed, 107, 109);
}

static void test_one_a_second_and_none_at_all(void **state)
{
    (void)state;
    struct rate r = {0};
    assert_true(rate_take(&r, 1, US_PER_SECOND, NULL));
    assert_false(rate_take(&r, 1, US_PER_SECOND, NULL));
    assert_true(rate_take(&r, 1, 2 * US_PER_SECOND, NULL));
    for (int i = 0; i < 1000; i++)
        assert_true(rate_take(&r, 0, 0, NULL));
}

static struct rate shared;

static void *take_many(void *ctx)
{
    int *passed = ctx;
    for (int i = 0; i < 20000; i++)
        *passed += rate_take(&shared, 5000, US_PER_SECOND, NULL);
    return NULL;
}

static void test_threads_share_the_rate(void **state)
{
    (void)state;
    pthread_t threads[4];
    int passed[4] = {0}, sum = 0;
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, take_many, &passed[i]), 0);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        sum += passed[i];
    }
    assert_int_equal(sum, 5000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_burst_of_one_second_passes_and_then_the_rate),
        cmocka_unit_test(test_one_a_second_and_none_at_all),
        cmocka_unit_test(test_threads_share_the_rate),
    };
    return cmocka_run_group_tests_name("server/rate", tests, NULL, NULL);
}
