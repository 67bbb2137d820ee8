/*
 * engines/kernels.h - the formulas that engines and the oracle share (ENGINES.md section 3).
 *
 * Input is integers, or doubles computed from integers in one fixed order; nothing here keeps
 * state, allocates or fails. Built with -ffp-contract=off, so that the same integers give the same
 * bits wherever they are computed. No result is NaN or infinite.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* -Wpedantic objects to the bare type name only. */
__extension__ typedef __int128 int128;

/* K1: sums. Mean of nothing is 0; ask n first. */
double kernel_mean(uint64_t n, int64_t sum);
/* Sample variance (n * sum2 - sum * sum) / (n (n - 1)), without cancellation; 0 below two values.
 */
double kernel_variance(uint64_t n, int64_t sum, int64_t sum2);

/* n pairs (x, y) as integer sums. */
struct pair_sums {
    uint32_t n;
    int64_t x, y, xx, yy, xy;
};
void pair_add(struct pair_sums *s, int64_t x, int64_t y);
/* Pearson's correlation; false when it is undefined (a constant side, or fewer than 3 pairs). */
bool kernel_correlation(const struct pair_sums *s, double *ret);

/* K3: (k + m p0) / (n + m) with m = 4, and the ends of Wilson's 95 % interval (z = 1.96). */
double kernel_posterior(uint64_t k, uint64_t n, double p0);
double kernel_wilson_low(uint64_t k, uint64_t n);  /* 0 for n = 0 */
double kernel_wilson_high(uint64_t k, uint64_t n); /* 1 for n = 0 */

/*
 * K4: integer histogram of values 0..65535: exact up to 64, then 8 buckets per octave, each shown
 * as an integer in its middle (relative error at most 4.5 %). Counts are exact, so taking
 * a value out restores the histogram it was put into.
 */
#define HIST_EXACT   64
#define HIST_BUCKETS (HIST_EXACT + 1 + 8 * 10)
struct hist {
    uint16_t count[HIST_BUCKETS];
};
size_t hist_bucket(uint32_t value); /* values above 65535 count as 65535 */
uint32_t hist_value(size_t bucket); /* what is shown for any value of the bucket */
void hist_change(struct hist *h, uint32_t value, int delta); /* delta is 1 or -1 */
uint32_t hist_total(const struct hist *h);
/* How many values are at most `value` (up to the end of its bucket). */
uint32_t hist_at_most(const struct hist *h, uint32_t value);
/* Nearest rank: the ceil(n * percent / 100)-th smallest value as shown; 0 when empty. */
uint32_t hist_quantile(const struct hist *h, unsigned percent);

/* K6: Mann-Kendall with tie-corrected variance and continuity, and Theil-Sen's slope per step. */
struct trend {
    int64_t s;
    double variance;
    double z;     /* 0 when all values are equal */
    double slope; /* median of all pairwise slopes */
};
#define TREND_POINTS_MAX 64
#define TREND_Z          1.645 /* one-sided 5 % */
/* n is at most TREND_POINTS_MAX; all zero for fewer than two points. */
struct trend kernel_trend(const double *values, size_t n);

/* Shannon entropy in bits of a count vector; 0 when it is empty. */
double kernel_entropy_bits(const uint32_t *counts, size_t n);

/* K8: 0..167, 0 = Monday 00:00 UTC. */
unsigned kernel_hour_of_week(int64_t t_us);
/* Days since 1970-01-01 UTC. */
int32_t kernel_day(int64_t t_us);

/* ENGINES.md 1.8: n / (n + n0) * covered / total, rounded half-even to 3 decimals; 0 for total 0.
 */
double kernel_confidence(uint64_t n, double n0, uint64_t covered, uint64_t total);
