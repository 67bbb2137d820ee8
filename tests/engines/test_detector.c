/*
 * Goal: the streaming detector raises one alarm for one episode, survives every value, and goes on
 * from its durable bytes as if nothing had happened.
 * Method: made-up streams with a fixed random sequence, one point a slot unless said otherwise.
 */
#include "core/buf.h"
#include "core/clock.h"
#include "engines/detector.h"

#include <float.h>
#include <math.h>
#include <setjmp.h> /* cmocka needs these three */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define START_US (INT64_C(1767225600) * US_PER_SECOND)
#define WEEK     2016 /* slots */

static uint64_t seed;

static double uniform(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(seed >> 11) / 9007199254740992.0;
}

static double noise(void)
{
    return uniform() + uniform() + uniform() - 1.5;
}

static int64_t slot_us(int slot)
{
    return START_US + slot * DETECTOR_SLOT_US;
}

static int alarms; /* raised by feed() */

static void feed(struct detector *d, int slot, double value)
{
    detector_point(d, slot_us(slot), value);
    alarms += detector_alarm(d);
    double score = detector_score(d);
    assert_true(score >= 0.0 && score <= 1.0);
}

static void start(struct detector *d, uint64_t with_seed)
{
    seed = with_seed;
    alarms = 0;
    detector_init(d);
}

static void assert_same(const struct detector *a, const struct detector *b)
{
    struct buf x, y;
    buf_init(&x, DETECTOR_BYTES_MAX);
    buf_init(&y, DETECTOR_BYTES_MAX);
    assert_int_equal(detector_encode(a, &x), STATUS_OK);
    assert_int_equal(detector_encode(b, &y), STATUS_OK);
    assert_int_equal(x.len, y.len);
    assert_memory_equal(x.data, y.data, x.len);
    buf_deinit(&x);
    buf_deinit(&y);
}

static void test_a_drop_that_lasts_is_one_alarm_and_one_episode(void **state)
{
    (void)state;
    struct detector d;
    start(&d, 7);
    for (int i = 0; i < WEEK; i++)
        feed(&d, i, 10.0 + noise());
    assert_int_equal(alarms, 0);
    for (int i = WEEK; i < WEEK + 12; i++)
        feed(&d, i, noise());
    assert_int_equal(alarms, 1);
    assert_int_equal(d.n_episodes, 1);
    const struct detector_episode *e = &d.episodes[0];
    assert_true(e->start_us >= slot_us(WEEK - 1) && e->start_us <= slot_us(WEEK + 1));
    assert_true(e->end_us > slot_us(WEEK + 2));
    assert_true(e->open);
    assert_true(e->n >= 1);
    assert_true(e->peak >= 0.5);
    assert_true(fabs(e->level - 10.0) < 0.5);
    assert_true(fabs(e->value) < 1.5);
}

static void test_a_constant_stream_never_alarms(void **state)
{
    (void)state;
    static const double values[] = {0.0, -3.5, 1e300, DBL_MIN / 4.0};
    for (size_t v = 0; v < 4; v++) {
        struct detector d;
        start(&d, 1);
        for (int i = 0; i < 3 * WEEK; i++)
            feed(&d, i, values[v]);
        assert_int_equal(alarms, 0);
    }
}

/* At most one alarm in three days, whatever the law of the noise: white, of heavy tails, dependent,
 * or with a daily rhythm. */
static void test_noise_alone_seldom_alarms(void **state)
{
    (void)state;
    for (int law = 0; law < 4; law++) {
        struct detector d;
        start(&d, 17 + (uint64_t)law);
        double x = 0.0;
        for (int i = 0; i < 10 * WEEK; i++) {
            if (law == 0)
                x = noise();
            else if (law == 1)
                x = pow(uniform() + 1e-3, -0.5);
            else if (law == 2)
                x = 0.9 * x + noise();
            else
                x = 3.0 * sin((double)i * 6.283185307 / 288.0) + noise();
            feed(&d, i, x);
        }
        assert_true(alarms <= 10 * 7 / 3);
    }
}

/* Spikes, silence, a drift upwards and a step: with the daily rhythm going on. */
static void test_every_kind_of_oddity_alarms_within_hours(void **state)
{
    (void)state;
    for (int kind = 0; kind < 4; kind++) {
        struct detector d;
        start(&d, 23 + (uint64_t)kind);
        int before = 0;
        for (int i = 0; i < 2 * WEEK + 72; i++) {
            double x = sin((double)i * 6.283185307 / 288.0) + 0.3 * noise();
            int odd = i - 2 * WEEK;
            if (odd == 0)
                before = alarms;
            if (odd >= 0 && kind == 0)
                x += odd % 3 == 0 ? 5.0 : 0.0;
            else if (odd >= 0 && kind == 1)
                x = 0.0;
            else if (odd >= 0 && kind == 2)
                x += 0.1 * odd;
            else if (odd >= 0 && kind == 3)
                x += 2.0;
            feed(&d, i, x);
        }
        assert_true(alarms > before);
    }
}

static void test_small_changes_of_a_large_number_are_seen(void **state)
{
    (void)state;
    struct detector small, large;
    start(&small, 31);
    detector_init(&large);
    for (int i = 0; i < WEEK; i++) {
        double x = (double)(i / 3 % 2) + noise() / 10.0;
        feed(&small, i, x);
        feed(&large, i, x + 1e9);
        assert_true(fabs(detector_score(&small) - detector_score(&large)) < 0.02);
    }
}

static void test_no_value_breaks_it(void **state)
{
    (void)state;
    static const double odd[] = {0.0,   -0.0, DBL_MAX, -DBL_MAX, DBL_MIN / 8.0, INFINITY,
                                 1e12,  NAN,  -1e-7,   1e-300,   -1e12,         5e-7,
                                 -1e11, 1.0,  3e300,   -INFINITY};
    struct detector d;
    start(&d, 99);
    for (int i = 0; i < 20000; i++)
        feed(&d, i, odd[(size_t)(uniform() * 16.0)]);
    assert_true(d.refused > 1000 && d.refused < 8000);
    struct detector again;
    struct buf b;
    buf_init(&b, DETECTOR_BYTES_MAX);
    assert_int_equal(detector_encode(&d, &b), STATUS_OK);
    struct reader r = reader_of(b.data, b.len);
    assert_int_equal(detector_decode(&again, &r, NULL), STATUS_OK);
    buf_deinit(&b);
}

static void
test_order_inside_open_slots_does_not_matter_and_late_points_change_nothing(void **state)
{
    (void)state;
    struct detector a, b;
    start(&a, 3);
    detector_init(&b);
    for (int i = 0; i < WEEK; i++) {
        double x = noise() * 1e9, y = noise() * 1e-3, z = noise();
        detector_point(&a, slot_us(i), x);
        detector_point(&a, slot_us(i) + 1, y);
        detector_point(&a, slot_us(i + 1), z);
        detector_point(&b, slot_us(i + 1), z);
        detector_point(&b, slot_us(i) + 1, y);
        detector_point(&b, slot_us(i), x);
    }
    assert_same(&a, &b);
    detector_point(&a, slot_us(WEEK - 2), 1e12);
    assert_int_equal(a.late, 1);
    a.late = 0;
    assert_same(&a, &b);
}

static void test_a_gap_of_centuries_costs_nothing_and_a_refused_time_changes_nothing(void **state)
{
    (void)state;
    struct detector d;
    start(&d, 5);
    detector_point(&d, TIME_MIN_US, 1.0);
    detector_point(&d, START_US, 2.0);
    detector_point(&d, TIME_MAX_US, 3.0);
    assert_int_equal(d.slots, 2);
    detector_point(&d, INT64_MAX, 4.0);
    detector_point(&d, INT64_MIN, 4.0);
    assert_int_equal(d.refused, 2);
    assert_int_equal(d.slots, 2);
}

static void test_a_decoded_detector_goes_on_like_the_original(void **state)
{
    (void)state;
    struct detector d;
    start(&d, 11);
    for (int i = 0; i < 4 * WEEK; i++) {
        double x = sin((double)i / 45.8) + 0.2 * noise() + (i % 700 < 3 ? 9.0 : 0.0);
        feed(&d, i, x);
        if (i % 97 == 0) {
            struct detector other;
            memset(&other, 0xA5, sizeof(other));
            struct buf b;
            buf_init(&b, DETECTOR_BYTES_MAX);
            assert_int_equal(detector_encode(&d, &b), STATUS_OK);
            struct reader r = reader_of(b.data, b.len);
            assert_int_equal(detector_decode(&other, &r, NULL), STATUS_OK);
            assert_int_equal(reader_left(&r), 0);
            assert_same(&d, &other);
            assert_true(detector_alarm(&d) == detector_alarm(&other));
            d = other;
            buf_deinit(&b);
        }
    }
    assert_true(alarms >= 3);
}

static void test_the_fullest_state_fits_its_bound(void **state)
{
    (void)state;
    struct detector d;
    start(&d, 1);
    memset(d.ranks, 0xFF, sizeof(d.ranks));
    d.newest_us = d.rising_us = TIME_MIN_US;
    d.first_slot = INT64_MIN;
    d.late = d.refused = d.slots = UINT64_MAX;
    d.open[0].n = d.open[1].n = UINT32_MAX;
    d.n_episodes = DETECTOR_EPISODES;
    for (int i = 0; i < DETECTOR_EPISODES; i++)
        d.episodes[i] = (struct detector_episode){
            .start_us = TIME_MIN_US, .end_us = TIME_MAX_US, .n = UINT32_MAX};
    struct buf b;
    buf_init(&b, DETECTOR_BYTES_MAX);
    assert_int_equal(detector_encode(&d, &b), STATUS_OK); /* the writer asserts its room */
    buf_deinit(&b);
}

static void test_cut_or_changed_bytes_are_corrupt_or_harmless(void **state)
{
    (void)state;
    struct detector d;
    start(&d, 13);
    for (int i = 0; i < WEEK; i++)
        feed(&d, i, i % 300 == 299 ? 50.0 : noise());
    struct buf b;
    buf_init(&b, DETECTOR_BYTES_MAX);
    assert_int_equal(detector_encode(&d, &b), STATUS_OK);
    for (size_t len = 0; len < b.len; len++) {
        struct detector other;
        struct reader r = reader_of(b.data, len);
        assert_int_equal(detector_decode(&other, &r, NULL), STATUS_CORRUPT);
    }
    int corrupt = 0;
    for (size_t i = 0; i < b.len; i++) {
        b.data[i] ^= (char)0xFF;
        struct detector other;
        struct reader r = reader_of(b.data, b.len);
        enum status st = detector_decode(&other, &r, NULL);
        if (st == STATUS_OK)
            for (int k = 0; k < 50; k++)
                feed(&other, WEEK + 2 + k, noise());
        corrupt += st == STATUS_CORRUPT;
        b.data[i] ^= (char)0xFF;
    }
    /* The rest are digits of numbers that may have any value. */
    assert_true(corrupt > 440);
    buf_deinit(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_drop_that_lasts_is_one_alarm_and_one_episode),
        cmocka_unit_test(test_a_constant_stream_never_alarms),
        cmocka_unit_test(test_noise_alone_seldom_alarms),
        cmocka_unit_test(test_every_kind_of_oddity_alarms_within_hours),
        cmocka_unit_test(test_small_changes_of_a_large_number_are_seen),
        cmocka_unit_test(test_no_value_breaks_it),
        cmocka_unit_test(
            test_order_inside_open_slots_does_not_matter_and_late_points_change_nothing),
        cmocka_unit_test(test_a_gap_of_centuries_costs_nothing_and_a_refused_time_changes_nothing),
        cmocka_unit_test(test_a_decoded_detector_goes_on_like_the_original),
        cmocka_unit_test(test_the_fullest_state_fits_its_bound),
        cmocka_unit_test(test_cut_or_changed_bytes_are_corrupt_or_harmless),
    };
    return cmocka_run_group_tests_name("engines/detector", tests, NULL, NULL);
}
