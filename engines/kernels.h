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

/*
 * K2: occurrence and exposure by lag (piecewise exponential). Bin i holds the lags from edges_s[i -
 * 1] (0 for the first) up to, not including, edges_s[i]; the last of the n bins has no upper edge,
 * so there are n - 1 edges. A gap is exposed in every bin it crosses, and its event, if it has one,
 * falls into the bin it ends in: an open gap adds exposure only. Integers: what was added can be
 * taken away again (sign = -1).
 */
size_t kernel_gap_bin(const int64_t *edges_s, size_t n, int64_t gap_s);
/* Returns the bin the gap ends in. */
size_t kernel_gap_expose(const int64_t *edges_s, size_t n, int64_t gap_s, int sign,
                         int64_t *exposure_s);
/* S(t) = exp(-sum of rate * length), rate = (events + a r0) / (exposure + a) with r0 the rate over
 * all bins; a = 0: as observed, and a bin without exposure has no events. */
double kernel_survival(const int64_t *edges_s, size_t n, const uint32_t *events,
                       const int64_t *exposure_s, int64_t smoothing_s, int64_t t_s);
/* Rate ratio (e1 / x1) / (e2 / x2) with its log-normal 95 % interval; false when a side has no
 * events or no exposure. */
struct rate_ratio {
    double ratio;
    double low;
    double high;
};
bool kernel_rate_ratio(uint32_t e1, int64_t x1, uint32_t e2, int64_t x2, struct rate_ratio *ret);

/*
 * The need-odds law (ENGINES.md E5): events / exposure = a lag^-d, by least squares on logarithms
 * over the bins with events and exposure, weighted by their events. d is held to [POWER_D_MIN,
 * POWER_D_MAX], and a is the best one for that d.
 */
#define POWER_BINS_MIN 3
#define POWER_D_MIN    0.05
#define POWER_D_MAX    2.0
struct power_fit {
    double a; /* rate at lag 1, in events per unit of exposure */
    double d;
    double r2; /* weighted, of the logarithms; below 0 when the held d fits worse than a constant */
    bool has_r2; /* false: all rates are equal */
};
/* False for fewer than POWER_BINS_MIN such bins. */
bool kernel_power_fit(const double *lags, const uint32_t *events, const double *exposure, size_t n,
                      struct power_fit *ret);
/* 1 - half the distance between the shares of events and those of exposure * lag^-1/2: 1 when
 * events follow the human recency law. False without events or exposure. */
bool kernel_recency_score(const double *lags, const uint32_t *events, const double *exposure,
                          size_t n, double *ret);

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

/* K9: Jensen-Shannon divergence in bits of two vectors of weights, 0..1; 1 when one is empty. */
double kernel_divergence(const double *p, const double *q, size_t n);

/* K8: 0..167, 0 = Monday 00:00 UTC. */
#define HOURS_OF_WEEK 168
unsigned kernel_hour_of_week(int64_t t_us);
/* K8: the share of activity of each hour, a(h) = (2 c_h + c_{h-1} + c_{h+1} + 28 g_h) / (sum + 28)
 * with g = prior / sum of prior; uniform when prior is NULL or empty. The shares add up to 1. */
void kernel_activity(const uint32_t counts[HOURS_OF_WEEK], const uint32_t *prior,
                     double ret[HOURS_OF_WEEK]);

/* K10: one waiting time; censored: it had not ended when it was looked at. */
struct waiting {
    int64_t us;
    bool censored;
};
/* Kaplan-Meier: the smallest waiting time at which survival is at most p/q, exactly as long as the
 * product fits 128 bits; ends before censorings at equal times. Sorts w. False: never reached. */
bool kernel_survival_time(struct waiting *w, size_t n, uint32_t p, uint32_t q, int64_t *ret_us);
/* Days since 1970-01-01 UTC. */
int32_t kernel_day(int64_t t_us);

/* ENGINES.md 1.8: n / (n + n0) * covered / total, rounded half-even to 3 decimals; 0 for total 0.
 */
double kernel_confidence(uint64_t n, double n0, uint64_t covered, uint64_t total);
