/* tests/server/test_rate_limit.c - so many per second and no more, per key, in bounded memory. */
#include "server/rate_limit.h"

#include <setjmp.h> /* cmocka needs these three */
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "core/clock.h"

static struct rate_limit *make(unsigned rate, unsigned burst, size_t keys)
{
    struct rate_limit *r = NULL;
    assert_int_equal(STATUS_OK, rate_limit_new(rate, burst, keys, &r, NULL));
    return r;
}

static void test_the_rate_is_kept_whatever_the_pace(void **state)
{
    (void)state;
    struct rate_limit *r = make(10, 5, 16);
    int64_t now = 1234567;
    int passed = 0;
    for (int ms = 0; ms < 10000; ms++, now += 1000)
        passed += rate_limit_take(r, STR("a"), now, NULL);
    /* Five at once, and ten in each of ten seconds. */
    assert_in_range(passed, 104, 105);
    rate_limit_free(r);
}

static void test_a_burst_passes_and_then_it_is_said_when_to_come_again(void **state)
{
    (void)state;
    struct rate_limit *r = make(1, 3, 16);
    unsigned retry = 0;
    for (int i = 0; i < 3; i++)
        assert_true(rate_limit_take(r, STR("a"), 0, &retry));
    assert_false(rate_limit_take(r, STR("a"), 0, &retry));
    assert_int_equal(1, retry);
    /* Being refused costs nothing. */
    for (int i = 0; i < 100; i++)
        assert_false(rate_limit_take(r, STR("a"), US_PER_SECOND - 1, &retry));
    assert_true(rate_limit_take(r, STR("a"), US_PER_SECOND, &retry));
    assert_false(rate_limit_take(r, STR("a"), US_PER_SECOND, &retry));
    assert_true(rate_limit_take(r, STR("b"), US_PER_SECOND, &retry));
    assert_true(rate_limit_take(NULL, STR("a"), 0, &retry));
    rate_limit_free(r);
}

static void test_many_keys_neither_grow_it_nor_free_who_is_behind(void **state)
{
    (void)state;
    struct rate_limit *r = make(1, 2, 64);
    char key[32];
    assert_true(rate_limit_take(r, STR("greedy"), 0, NULL));
    assert_true(rate_limit_take(r, STR("greedy"), 0, NULL));
    /* Each of the others is less behind than the greedy one, so these make room for each other. */
    for (int i = 0; i < 10000; i++) {
        int n = snprintf(key, sizeof(key), "key-%d", i);
        assert_true(rate_limit_take(r, (struct str){key, (size_t)n}, 0, NULL));
    }
    assert_false(rate_limit_take(r, STR("greedy"), 0, NULL));
    rate_limit_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_rate_is_kept_whatever_the_pace),
        cmocka_unit_test(test_a_burst_passes_and_then_it_is_said_when_to_come_again),
        cmocka_unit_test(test_many_keys_neither_grow_it_nor_free_who_is_behind),
    };
    return cmocka_run_group_tests_name("server/rate_limit", tests, NULL, NULL);
}
