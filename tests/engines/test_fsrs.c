/*
 * Goal: the stability model is FSRS-6, behaves for every history, and folds order into nothing.
 * Method: numbers of fsrs_golden.py (40 decimal digits, separate code), then properties over
 * random histories with a printed seed.
 */
#include "core/clock.h"
#include "engines/fsrs.h"

#include <math.h>
#include <setjmp.h> /* cmocka needs these three */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define REVIEWS_MAX 40
#define START_US    (INT64_C(1767225600) * US_PER_SECOND)

static int64_t days_us(double days)
{
    return (int64_t)llround(days * (double)US_PER_DAY);
}

struct golden {
    const char *name;
    uint32_t importance;
    uint8_t grade;
    size_t n;
    struct {
        double days; /* since the review before */
        uint8_t grade;
    } reviews[4]; /* the first one stands for those left out */
    double difficulty, stability;
    double r[4]; /* after 1 h, 1 d, 30 d, 50 years */
    double half_days;
};

/* Printed by fsrs_golden.py. */
static const struct golden golden[] = {
    {"new, good",
     UINT32_MAX,
     3,
     0,
     {{0, 0}},
     2.11810397045902,
     2.3065,
     {0.997296701325401, 0.946847499382546, 0.667526333873036, 0.251279643998694},
     208.402683861692},
    {"new, failed",
     UINT32_MAX,
     1,
     0,
     {{0, 0}},
     6.4133,
     0.212,
     {0.973195544800720, 0.766195730228414, 0.466871281473509, 0.173907658838057},
     19.1551567217337},
    {"new, hard, of no importance",
     0,
     2,
     0,
     {{0, 0}},
     5.11217070560106,
     0.64655,
     {0.990597788983138, 0.867367501756683, 0.553217300151280, 0.206533706814922},
     58.4187102756458},
    {"new, easy, most important",
     1000000,
     4,
     0,
     {{0, 0}},
     1,
     12.44340,
     {0.999494766564152, 0.988374364001810, 0.829407753369204, 0.325830388065015},
     1124.31734505293},
    {"used after two days",
     UINT32_MAX,
     3,
     1,
     {{2, 3}},
     2.11698586648856,
     10.9643323358207,
     {0.999426757605269, 0.986881367487749, 0.817905546700983, 0.319538185783511},
     990.676906801028},
    {"used on the same day",
     UINT32_MAX,
     3,
     1,
     {{0.25, 3}},
     2.11698586648856,
     2.3065,
     {0.997296701325401, 0.946847499382546, 0.667526333873036, 0.251279643998694},
     208.402683861692},
    {"same day, every kind of grade",
     UINT32_MAX,
     3,
     3,
     {{0.001, 1}, {0.001, 2}, {0.4999, 4}},
     7.67648530729370,
     0.913050147474798,
     {0.993274026231245, 0.893629746821248, 0.582663779197447, 0.217822816208225},
     82.4982012720840},
    {"days apart, every kind of grade",
     UINT32_MAX,
     3,
     4,
     {{0.5, 2}, {10, 1}, {1, 3}, {30, 4}},
     7.67081273150516,
     23.0960819743043,
     {0.999727559612560, 0.993610361106624, 0.881050459373536, 0.358401469937670},
     2086.83523526324},
    {"forgotten again and again",
     800000,
     1,
     12,
     {{1, 1}},
     9.98658763048767,
     0.00360779258157901,
     {0.678916621835297, 0.421123925349422, 0.249388028728060, 0.0927951220058958},
     0.325980341130444},
    {"known by heart",
     800000,
     4,
     12,
     {{100, 4}},
     1,
     4687.02499725993,
     {0.999998656142318, 0.999967751145979, 0.999035905719682, 0.784653908077069},
     423493.860288667},
    {"failed forty times at once",
     300000,
     2,
     40,
     {{0, 1}},
     9.98659331322132,
     0.001,
     {0.562261215701728, 0.345669442903976, 0.204623208993440, 0.0761374816992779},
     0.0903545128383664},
};

static void assert_near(const char *what, double got, double want)
{
    if (fabs(got - want) > 1e-9 * fmax(1, fabs(want)))
        fail_msg("%s: got %.15g, want %.15g", what, got, want);
}

static void test_every_golden_history_gives_the_published_numbers(void **state)
{
    static const double ages_days[4] = {1.0 / 24, 1, 30, 18262};

    (void)state;
    for (size_t i = 0; i < sizeof(golden) / sizeof(golden[0]); i++) {
        const struct golden *g = &golden[i];
        struct mem_rec m = {.created_us = START_US, .importance = g->importance, .grade = g->grade};
        struct fsrs_state s;
        int64_t t_us = START_US;

        fsrs_start(&s, &m);
        for (size_t k = 0; k < g->n; k++) {
            size_t at = k < 4 && g->reviews[k].grade ? k : 0;
            t_us += days_us(g->reviews[at].days);
            struct access_rec a = {.t_us = t_us, .grade = g->reviews[at].grade};
            fsrs_fold(&s, &m, &a);
        }
        assert_near(g->name, s.difficulty, g->difficulty);
        assert_near(g->name, s.stability_days, g->stability);
        for (size_t k = 0; k < 4; k++)
            assert_near(g->name, fsrs_retention(&s, t_us + days_us(ages_days[k])), g->r[k]);
        assert_near(g->name, fsrs_days_until(&s, 0.5), g->half_days);
        assert_int_equal(s.reps, g->n);
    }
}

static uint64_t next_random(uint64_t *seed)
{
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *seed >> 33;
}

/* A random memory with a random history; about half of the reviews follow at once. */
static struct fsrs_state random_history(uint64_t *seed)
{
    struct mem_rec m = {
        .created_us = START_US,
        .importance = next_random(seed) % 3 ? (uint32_t)(next_random(seed) % 1000001) : UINT32_MAX,
        .grade = (uint8_t)(1 + next_random(seed) % 4),
    };
    struct fsrs_state s;
    int64_t t_us = START_US;
    size_t n = next_random(seed) % REVIEWS_MAX;

    fsrs_start(&s, &m);
    for (size_t i = 0; i < n; i++) {
        int64_t most_us = next_random(seed) % 2 ? US_PER_HOUR : 400 * US_PER_DAY;
        t_us += (int64_t)(next_random(seed) << 20 | next_random(seed)) % most_us;
        struct access_rec a = {.t_us = t_us, .grade = (uint8_t)(1 + next_random(seed) % 4)};
        fsrs_fold(&s, &m, &a);
    }
    return s;
}

static void test_retention_falls_from_a_second_to_fifty_years_and_is_never_nan(void **state)
{
    uint64_t seed = 20260105;

    (void)state;
    print_message("seed %llu\n", (unsigned long long)seed);
    for (int round = 0; round < 2000; round++) {
        struct fsrs_state s = random_history(&seed);
        double before = 1;

        assert_true(s.stability_days >= 0.001 && s.stability_days <= 36500);
        assert_true(s.difficulty >= 1 && s.difficulty <= 10);
        for (int64_t age_us = US_PER_SECOND; age_us < 18300 * US_PER_DAY; age_us += age_us / 8) {
            double r = fsrs_retention(&s, s.last_us + age_us);
            assert_true(isfinite(r));
            assert_true(r > 0 && r < before);
            before = r;
        }
    }
}

static void test_days_until_is_the_inverse_of_retention(void **state)
{
    uint64_t seed = 7;

    (void)state;
    for (int round = 0; round < 2000; round++) {
        struct fsrs_state s = random_history(&seed);
        for (int tenths = 3; tenths < 10; tenths++) {
            double target = tenths / 10.0;
            double days = fsrs_days_until(&s, target);
            if (days < 1e-3 || days > 1e5)
                continue; /* beyond what microseconds in 64 bits resolve */
            assert_near("target", fsrs_retention(&s, s.last_us + days_us(days)), target);
        }
    }
}

static void test_an_access_before_the_creation_counts_as_at_the_creation(void **state)
{
    struct mem_rec m = {.created_us = START_US, .importance = UINT32_MAX, .grade = 3};
    struct access_rec early = {.t_us = START_US - 5 * US_PER_DAY, .grade = 1};
    struct access_rec at_once = {.t_us = START_US, .grade = 1};
    struct fsrs_state a = {0};
    struct fsrs_state b = {0};

    (void)state;
    fsrs_fold(&a, &m, &early);
    fsrs_fold(&b, &m, &at_once);
    assert_memory_equal(&a, &b, sizeof(a));
    assert_int_equal(a.last_us, START_US);
    assert_int_equal(a.lapses, 1);
    assert_int_equal(a.spaced, 0);
}

static void test_a_fold_from_a_base_equals_the_fold_from_the_creation(void **state)
{
    struct mem_rec m = {.created_us = START_US, .importance = 400000, .grade = 2};
    struct fsrs_state whole = {0};
    struct fsrs_state base = {0};

    (void)state;
    for (int i = 0; i < 6; i++) {
        struct access_rec a = {.t_us = START_US + i * (31 * US_PER_HOUR),
                               .grade = (uint8_t)(1 + i % 4)};
        fsrs_fold(&whole, &m, &a);
        if (i < 3)
            fsrs_fold(&base, &m, &a);
    }
    /* The base alone carries the history: a changed creation no longer matters. */
    m.created_us += US_PER_DAY;
    m.importance = 0;
    for (int i = 3; i < 6; i++) {
        struct access_rec a = {.t_us = START_US + i * (31 * US_PER_HOUR),
                               .grade = (uint8_t)(1 + i % 4)};
        fsrs_fold(&base, &m, &a);
    }
    assert_memory_equal(&whole, &base, sizeof(base));
    assert_int_equal(whole.spaced, 5);
}

static void test_an_access_is_spaced_from_six_hours_on(void **state)
{
    struct mem_rec m = {.created_us = START_US, .importance = UINT32_MAX, .grade = 3};
    struct fsrs_state s = {0};
    struct access_rec soon = {.t_us = START_US + 6 * US_PER_HOUR - 1, .grade = 3};
    struct access_rec later = {.t_us = soon.t_us + 6 * US_PER_HOUR, .grade = 3};

    (void)state;
    fsrs_fold(&s, &m, &soon);
    assert_int_equal(s.spaced, 0);
    fsrs_fold(&s, &m, &later);
    assert_int_equal(s.spaced, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_golden_history_gives_the_published_numbers),
        cmocka_unit_test(test_retention_falls_from_a_second_to_fifty_years_and_is_never_nan),
        cmocka_unit_test(test_days_until_is_the_inverse_of_retention),
        cmocka_unit_test(test_an_access_before_the_creation_counts_as_at_the_creation),
        cmocka_unit_test(test_a_fold_from_a_base_equals_the_fold_from_the_creation),
        cmocka_unit_test(test_an_access_is_spaced_from_six_hours_on),
    };
    return cmocka_run_group_tests_name("engines/fsrs", tests, NULL, NULL);
}
