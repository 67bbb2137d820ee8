/* tests/core/test_metrics.c - counts with labels add up, from any thread, in bounded memory. */
#include "core/metrics.h"

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* The set with these labels, or count UINT64_MAX when there is none. */
struct wanted {
    const char *a, *b;
    struct metric_sample found;
    unsigned sets, matches;
};

static void look(void *ctx, const struct metric_sample *s)
{
    struct wanted *w = ctx;
    w->sets++;
    if (strcmp(s->labels[0], w->a) == 0 && strcmp(s->labels[1], w->b) == 0) {
        w->found = *s;
        w->matches++;
    }
}

static struct wanted read_set(enum metric_id m, const char *a, const char *b)
{
    struct wanted w = {.a = a, .b = b};
    metric_each(m, look, &w);
    return w;
}

static void test_sets_are_counted_apart(void **state)
{
    (void)state;
    metric_add(METRIC_WEBHOOK_REQUESTS, "app", "204", 2);
    metric_add(METRIC_WEBHOOK_REQUESTS, "app", "401", 1);
    metric_add(METRIC_WEBHOOK_REQUESTS, "204", "app", 5); /* the same strings the other way round */
    metric_add(METRIC_WEBHOOK_REQUESTS, "app", "204", 1);
    metric_add(METRIC_WEBHOOK_REQUESTS, "idle", "204", 0);
    assert_int_equal(read_set(METRIC_WEBHOOK_REQUESTS, "app", "204").found.count, 3);
    assert_int_equal(read_set(METRIC_WEBHOOK_REQUESTS, "app", "401").found.count, 1);
    assert_int_equal(read_set(METRIC_WEBHOOK_REQUESTS, "204", "app").found.count, 5);
    assert_int_equal(read_set(METRIC_WEBHOOK_REQUESTS, "idle", "204").matches, 1);
    assert_int_equal(read_set(METRIC_WEBHOOK_REQUESTS, "idle", "204").found.count, 0);
    assert_int_equal(metric_total(METRIC_WEBHOOK_REQUESTS), 9);
}

static void test_what_is_too_much_is_counted_as_other(void **state)
{
    (void)state;
    char name[32];
    for (int i = 0; i < 10 * LIMIT_METRIC_SETS; i++) {
        snprintf(name, sizeof(name), "source-%d", i);
        metric_add(METRIC_WEBHOOK_REJECTED, name, "signature", 1);
    }
    struct wanted other = read_set(METRIC_WEBHOOK_REJECTED, "other", "other");
    assert_int_equal(other.sets, LIMIT_METRIC_SETS + 1);
    assert_int_equal(other.found.count, 9 * LIMIT_METRIC_SETS);
    assert_int_equal(metric_total(METRIC_WEBHOOK_REJECTED), 10 * LIMIT_METRIC_SETS);
    /* What was there before goes on under its own name. */
    metric_add(METRIC_WEBHOOK_REJECTED, "source-0", "signature", 1);
    assert_int_equal(read_set(METRIC_WEBHOOK_REJECTED, "source-0", "signature").found.count, 2);
}

/* A source may be called so: two series of one name would make the whole page unreadable. */
static void test_a_set_that_is_called_other_is_the_same_one(void **state)
{
    (void)state;
    char name[32];
    metric_add(METRIC_EVENTS_DUPLICATE, "other", NULL, 1);
    for (int i = 0; i < LIMIT_METRIC_SETS; i++) {
        snprintf(name, sizeof(name), "source-%d", i);
        metric_add(METRIC_EVENTS_DUPLICATE, name, NULL, 1);
    }
    struct wanted other = read_set(METRIC_EVENTS_DUPLICATE, "other", "");
    assert_int_equal(other.matches, 1);
    assert_int_equal(other.found.count, 2);
}

static void test_labels_are_text_and_cut(void **state)
{
    (void)state;
    char first[METRIC_LABEL_BYTES + 10], second[METRIC_LABEL_BYTES + 10];
    memset(first, 'x', sizeof(first));
    memset(second, 'x', sizeof(second));
    first[sizeof(first) - 1] = second[sizeof(second) - 1] = '\0';
    second[sizeof(second) - 2] = 'y'; /* they differ only in what is cut: one series, not two */
    metric_add(METRIC_EVENTS_IGNORED, first, NULL, 1);
    metric_add(METRIC_EVENTS_IGNORED, second, NULL, 1);
    first[METRIC_LABEL_BYTES - 1] = '\0';
    assert_int_equal(read_set(METRIC_EVENTS_IGNORED, first, "").found.count, 2);
    metric_add(METRIC_EVENTS_IGNORED, "caf\xC3\xA9\xFF!", NULL, 1);
    assert_int_equal(read_set(METRIC_EVENTS_IGNORED, "caf\xC3\xA9", "").found.count, 1);
}

static void test_a_gauge_is_there_only_while_it_is_known(void **state)
{
    (void)state;
    assert_int_equal(read_set(METRIC_CONFIG_RELOAD_SUCCESS, "", "").sets, 0);
    metric_set(METRIC_CONFIG_RELOAD_SUCCESS, NULL, NULL, 0);
    assert_int_equal(read_set(METRIC_CONFIG_RELOAD_SUCCESS, "", "").sets, 1);
    assert_true(read_set(METRIC_CONFIG_RELOAD_SUCCESS, "", "").found.value == 0.0);
    metric_set(METRIC_CONFIG_RELOAD_SUCCESS, NULL, NULL, 1);
    assert_true(read_set(METRIC_CONFIG_RELOAD_SUCCESS, "", "").found.value == 1.0);
    metric_set(METRIC_CONFIG_RELOAD_SUCCESS, NULL, NULL, NAN);
    assert_int_equal(read_set(METRIC_CONFIG_RELOAD_SUCCESS, "", "").sets, 0);
}

static void test_a_duration_falls_into_the_first_bucket_that_holds_it(void **state)
{
    (void)state;
    for (size_t i = 1; i < METRIC_BUCKETS; i++)
        assert_true(metric_bounds_us[i] > metric_bounds_us[i - 1]);
    int64_t last = metric_bounds_us[METRIC_BUCKETS - 1];
    metric_observe(METRIC_CACHE_LATENCY, NULL, NULL, -1); /* a clock was set back */
    metric_observe(METRIC_CACHE_LATENCY, NULL, NULL, metric_bounds_us[0]); /* le: it is in */
    metric_observe(METRIC_CACHE_LATENCY, NULL, NULL, metric_bounds_us[0] + 1);
    metric_observe(METRIC_CACHE_LATENCY, NULL, NULL, last);
    metric_observe(METRIC_CACHE_LATENCY, NULL, NULL, last + 1);
    struct metric_sample s = read_set(METRIC_CACHE_LATENCY, "", "").found;
    assert_int_equal(s.buckets[0], 2);
    assert_int_equal(s.buckets[1], 1);
    assert_int_equal(s.buckets[METRIC_BUCKETS - 1], 1);
    assert_int_equal(s.buckets[METRIC_BUCKETS], 1);
    assert_int_equal(s.count, 5);
    assert_int_equal(s.sum_us, 2 * metric_bounds_us[0] + 1 + 2 * last + 1);
}

#define THREADS 4
#define ROUNDS  20000

static void *hammer(void *arg)
{
    char name[32];
    for (int i = 0; i < ROUNDS; i++) {
        snprintf(name, sizeof(name), "s%d", i % 16);
        metric_add(METRIC_EVENTS_RECEIVED, name, "message", 1);
        metric_observe(METRIC_WEBHOOK_DURATION, name, NULL, i);
    }
    return arg;
}

static void test_nothing_is_lost_between_threads(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, hammer, NULL), 0);
    for (int i = 0; i < 100; i++)
        (void)read_set(METRIC_WEBHOOK_DURATION, "s0", ""); /* a reader beside them */
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    struct wanted one = read_set(METRIC_EVENTS_RECEIVED, "s0", "message");
    assert_int_equal(one.sets, 16);
    assert_int_equal(one.found.count, THREADS * ROUNDS / 16);
    assert_int_equal(metric_total(METRIC_WEBHOOK_DURATION), THREADS * ROUNDS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sets_are_counted_apart),
        cmocka_unit_test(test_what_is_too_much_is_counted_as_other),
        cmocka_unit_test(test_a_set_that_is_called_other_is_the_same_one),
        cmocka_unit_test(test_labels_are_text_and_cut),
        cmocka_unit_test(test_a_gauge_is_there_only_while_it_is_known),
        cmocka_unit_test(test_a_duration_falls_into_the_first_bucket_that_holds_it),
        cmocka_unit_test(test_nothing_is_lost_between_threads),
    };
    return cmocka_run_group_tests_name("core/metrics", tests, NULL, NULL);
}
