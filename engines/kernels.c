#include "engines/kernels.h"

#include "core/clock.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#define WILSON_Z    1.96
#define POSTERIOR_M 4.0

double kernel_mean(uint64_t n, int64_t sum)
{
    return n ? (double)sum / (double)n : 0.0;
}

double kernel_variance(uint64_t n, int64_t sum, int64_t sum2)
{
    if (n < 2)
        return 0.0;
    int128 top = (int128)n * sum2 - (int128)sum * sum;
    assert(top >= 0);
    return (double)top / ((double)n * (double)(n - 1));
}

void pair_add(struct pair_sums *s, int64_t x, int64_t y)
{
    s->n++;
    s->x += x;
    s->y += y;
    s->xx += x * x;
    s->yy += y * y;
    s->xy += x * y;
}

bool kernel_correlation(const struct pair_sums *s, double *ret)
{
    if (s->n < 3)
        return false;
    int128 xx = (int128)s->n * s->xx - (int128)s->x * s->x;
    int128 yy = (int128)s->n * s->yy - (int128)s->y * s->y;
    int128 xy = (int128)s->n * s->xy - (int128)s->x * s->y;
    if (xx <= 0 || yy <= 0)
        return false;
    double r = (double)xy / sqrt((double)xx * (double)yy);
    *ret = fmin(1.0, fmax(-1.0, r));
    return true;
}

size_t kernel_gap_bin(const int64_t *edges_s, size_t n, int64_t gap_s)
{
    assert(n > 0 && gap_s >= 0);
    size_t bin = 0;
    while (bin + 1 < n && gap_s >= edges_s[bin])
        bin++;
    return bin;
}

size_t kernel_gap_expose(const int64_t *edges_s, size_t n, int64_t gap_s, int sign,
                         int64_t *exposure_s)
{
    size_t bin = 0;
    int64_t from_s = 0;
    for (; bin + 1 < n && gap_s >= edges_s[bin]; bin++) {
        exposure_s[bin] += sign * (edges_s[bin] - from_s);
        from_s = edges_s[bin];
    }
    exposure_s[bin] += sign * (gap_s - from_s);
    return bin;
}

double kernel_survival(const int64_t *edges_s, size_t n, const uint32_t *events,
                       const int64_t *exposure_s, int64_t smoothing_s, int64_t t_s)
{
    uint64_t all_events = 0;
    int64_t all_exposure_s = 0;
    for (size_t i = 0; i < n; i++) {
        all_events += events[i];
        all_exposure_s += exposure_s[i];
    }
    double pooled = all_exposure_s > 0 ? (double)all_events / (double)all_exposure_s : 0;
    double smoothing = (double)smoothing_s;
    double hazard = 0;
    int64_t from_s = 0;
    for (size_t i = 0; i < n && from_s < t_s; i++) {
        int64_t to_s = i + 1 < n && edges_s[i] < t_s ? edges_s[i] : t_s;
        double exposed = (double)exposure_s[i] + smoothing;
        if (exposed > 0)
            hazard += ((double)events[i] + smoothing * pooled) / exposed * (double)(to_s - from_s);
        from_s = to_s;
    }
    return exp(-hazard);
}

bool kernel_rate_ratio(uint32_t e1, int64_t x1, uint32_t e2, int64_t x2, struct rate_ratio *ret)
{
    if (e1 == 0 || e2 == 0 || x1 <= 0 || x2 <= 0)
        return false;
    double ratio = ((double)e1 / (double)x1) / ((double)e2 / (double)x2);
    double spread = exp(1.96 * sqrt(1.0 / e1 + 1.0 / e2));
    *ret = (struct rate_ratio){.ratio = ratio, .low = ratio / spread, .high = ratio * spread};
    return true;
}

/* Weighted sums of (x, y) = (ln lag, ln rate) about their means. */
struct log_sums {
    double weight, mean_x, mean_y, xx, xy, yy;
};

static bool fits(const uint32_t *events, const double *exposure, size_t i)
{
    return events[i] > 0 && exposure[i] > 0;
}

static struct log_sums log_sums_of(const double *lags, const uint32_t *events,
                                   const double *exposure, size_t n)
{
    struct log_sums s = {0};
    for (size_t i = 0; i < n; i++) {
        if (!fits(events, exposure, i))
            continue;
        s.weight += events[i];
        s.mean_x += events[i] * log(lags[i]);
        s.mean_y += events[i] * log(events[i] / exposure[i]);
    }
    s.mean_x /= s.weight;
    s.mean_y /= s.weight;
    for (size_t i = 0; i < n; i++) {
        if (!fits(events, exposure, i))
            continue;
        double x = log(lags[i]) - s.mean_x;
        double y = log(events[i] / exposure[i]) - s.mean_y;
        s.xx += events[i] * x * x;
        s.xy += events[i] * x * y;
        s.yy += events[i] * y * y;
    }
    return s;
}

bool kernel_power_fit(const double *lags, const uint32_t *events, const double *exposure, size_t n,
                      struct power_fit *ret)
{
    size_t bins = 0;
    for (size_t i = 0; i < n; i++)
        bins += fits(events, exposure, i);
    if (bins < POWER_BINS_MIN)
        return false;
    struct log_sums s = log_sums_of(lags, events, exposure, n);
    double d = fmin(POWER_D_MAX, fmax(POWER_D_MIN, -s.xy / s.xx));
    double left = s.yy + 2 * d * s.xy + d * d * s.xx; /* sum of (y + d x)^2 */
    *ret = (struct power_fit){
        .a = exp(s.mean_y + d * s.mean_x),
        .d = d,
        .has_r2 = s.yy > 1e-12 * s.weight,
    };
    if (ret->has_r2)
        ret->r2 = 1 - left / s.yy;
    return true;
}

bool kernel_recency_score(const double *lags, const uint32_t *events, const double *exposure,
                          size_t n, double *ret)
{
    double all_events = 0;
    double all_expected = 0;
    for (size_t i = 0; i < n; i++) {
        all_events += events[i];
        all_expected += exposure[i] / sqrt(lags[i]);
    }
    if (all_events <= 0 || all_expected <= 0)
        return false;
    double distance = 0;
    for (size_t i = 0; i < n; i++)
        distance += fabs(events[i] / all_events - exposure[i] / sqrt(lags[i]) / all_expected);
    *ret = fmax(0, 1 - distance / 2);
    return true;
}

double kernel_posterior(uint64_t k, uint64_t n, double p0)
{
    return ((double)k + POSTERIOR_M * p0) / ((double)n + POSTERIOR_M);
}

static double wilson(uint64_t k, uint64_t n, double side)
{
    double z2 = WILSON_Z * WILSON_Z;
    double count = (double)n;
    double p = (double)k / count;
    double root = sqrt(p * (1.0 - p) / count + z2 / (4.0 * count * count));
    double end = (p + z2 / (2.0 * count) + side * WILSON_Z * root) / (1.0 + z2 / count);
    return fmin(1.0, fmax(0.0, end));
}

double kernel_wilson_low(uint64_t k, uint64_t n)
{
    assert(k <= n);
    return n ? wilson(k, n, -1.0) : 0.0;
}

double kernel_wilson_high(uint64_t k, uint64_t n)
{
    assert(k <= n);
    return n ? wilson(k, n, 1.0) : 1.0;
}

/* 2^(j/8) in 16.16 fixed point: the lower ends of the buckets inside an octave. */
static const uint32_t octave_steps[8] = {65536, 71468, 77936, 84990, 92682, 101070, 110218, 120194};

/* First value of bucket HIST_EXACT + 1 + i, for i up to 80 (one past the last bucket). */
static uint32_t log_bucket_start(size_t i)
{
    if (i == 0)
        return HIST_EXACT + 1;
    uint64_t base = (uint64_t)HIST_EXACT << (i / 8);
    return (uint32_t)((base * octave_steps[i % 8] + 65535) >> 16);
}

size_t hist_bucket(uint32_t value)
{
    if (value <= HIST_EXACT)
        return value;
    if (value > UINT16_MAX)
        value = UINT16_MAX;
    unsigned octave = 31u - (unsigned)__builtin_clz(value) - 6u; /* 64 = 2^6 */
    size_t i = (size_t)octave * 8 + 7;
    while (i > (size_t)octave * 8 && log_bucket_start(i) > value)
        i--;
    return HIST_EXACT + 1 + i;
}

uint32_t hist_value(size_t bucket)
{
    assert(bucket < HIST_BUCKETS);
    if (bucket <= HIST_EXACT)
        return (uint32_t)bucket;
    size_t i = bucket - HIST_EXACT - 1;
    /* The harmonic mean of both ends is as far from each of them, relative to that end. */
    uint64_t first = log_bucket_start(i), last = log_bucket_start(i + 1) - 1;
    return (uint32_t)((2 * first * last + (first + last) / 2) / (first + last));
}

void hist_change(struct hist *h, uint32_t value, int delta)
{
    uint16_t *count = &h->count[hist_bucket(value)];
    assert(delta > 0 ? *count < UINT16_MAX : *count > 0);
    *count = (uint16_t)(*count + delta);
}

uint32_t hist_total(const struct hist *h)
{
    uint32_t n = 0;
    for (size_t i = 0; i < HIST_BUCKETS; i++)
        n += h->count[i];
    return n;
}

uint32_t hist_at_most(const struct hist *h, uint32_t value)
{
    uint32_t n = 0;
    size_t last = hist_bucket(value);
    for (size_t i = 0; i <= last; i++)
        n += h->count[i];
    return n;
}

uint32_t hist_quantile(const struct hist *h, unsigned percent)
{
    assert(percent <= 100);
    uint32_t n = hist_total(h);
    uint32_t rank = (n * percent + 99) / 100;
    uint32_t seen = 0;
    for (size_t i = 0; i < HIST_BUCKETS; i++) {
        seen += h->count[i];
        if (seen && seen >= rank)
            return hist_value(i);
    }
    return 0;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sum of t (t - 1) (2 t + 5) over groups of equal values. */
static double tie_term(const double *values, size_t n)
{
    double sorted[TREND_POINTS_MAX];
    for (size_t i = 0; i < n; i++)
        sorted[i] = values[i];
    qsort(sorted, n, sizeof(*sorted), compare_doubles);
    double sum = 0.0;
    size_t start = 0;
    for (size_t i = 1; i <= n; i++) {
        if (i < n && compare_doubles(&sorted[i], &sorted[start]) == 0)
            continue;
        double t = (double)(i - start);
        sum += t * (t - 1.0) * (2.0 * t + 5.0);
        start = i;
    }
    return sum;
}

struct trend kernel_trend(const double *values, size_t n)
{
    assert(n <= TREND_POINTS_MAX);
    struct trend r = {0};
    if (n < 2)
        return r;
    double slopes[TREND_POINTS_MAX * (TREND_POINTS_MAX - 1) / 2];
    size_t n_slopes = 0;
    for (size_t i = 0; i < n; i++) {
        for (size_t j = i + 1; j < n; j++) {
            r.s += compare_doubles(&values[j], &values[i]);
            slopes[n_slopes++] = (values[j] - values[i]) / (double)(j - i);
        }
    }
    double count = (double)n;
    r.variance = (count * (count - 1.0) * (2.0 * count + 5.0) - tie_term(values, n)) / 18.0;
    if (r.s != 0)
        r.z = ((double)r.s - (r.s > 0 ? 1.0 : -1.0)) / sqrt(r.variance);
    qsort(slopes, n_slopes, sizeof(*slopes), compare_doubles);
    r.slope = n_slopes % 2 ? slopes[n_slopes / 2]
                           : (slopes[n_slopes / 2 - 1] + slopes[n_slopes / 2]) / 2.0;
    return r;
}

double kernel_entropy_bits(const uint32_t *counts, size_t n)
{
    uint64_t total = 0;
    for (size_t i = 0; i < n; i++)
        total += counts[i];
    if (total == 0)
        return 0.0;
    double sum = 0.0;
    for (size_t i = 0; i < n; i++)
        if (counts[i])
            sum += (double)counts[i] * log2((double)counts[i]);
    return fmax(0.0, log2((double)total) - sum / (double)total);
}

double kernel_divergence(const double *p, const double *q, size_t n)
{
    double p_sum = 0.0, q_sum = 0.0;
    for (size_t i = 0; i < n; i++) {
        p_sum += p[i];
        q_sum += q[i];
    }
    if (p_sum <= 0.0 || q_sum <= 0.0)
        return 1.0;
    double bits = 0.0;
    for (size_t i = 0; i < n; i++) {
        double a = p[i] / p_sum, b = q[i] / q_sum, middle = (a + b) / 2.0;
        if (a > 0.0)
            bits += a * log2(a / middle) / 2.0;
        if (b > 0.0)
            bits += b * log2(b / middle) / 2.0;
    }
    return fmin(1.0, fmax(0.0, bits));
}

unsigned kernel_hour_of_week(int64_t t_us)
{
    /* 1970-01-01 was a Thursday, so this Monday lies three days before it. */
    int64_t hours = time_floor_us(t_us, US_PER_HOUR) / US_PER_HOUR + 72;
    return (unsigned)((hours % 168 + 168) % 168);
}

#define ACTIVITY_KAPPA 28.0

void kernel_activity(const uint32_t counts[HOURS_OF_WEEK], const uint32_t *prior,
                     double ret[HOURS_OF_WEEK])
{
    uint64_t sum = 0, prior_sum = 0;
    for (size_t h = 0; h < HOURS_OF_WEEK; h++) {
        sum += 4 * (uint64_t)counts[h];
        prior_sum += prior ? prior[h] : 0;
    }
    for (size_t h = 0; h < HOURS_OF_WEEK; h++) {
        uint64_t smooth = 2 * (uint64_t)counts[h] +
                          counts[(h + HOURS_OF_WEEK - 1) % HOURS_OF_WEEK] +
                          counts[(h + 1) % HOURS_OF_WEEK];
        double share =
            prior_sum ? (double)prior[h] / (double)prior_sum : 1.0 / (double)HOURS_OF_WEEK;
        ret[h] = ((double)smooth + ACTIVITY_KAPPA * share) / ((double)sum + ACTIVITY_KAPPA);
    }
}

static int compare_waiting(const void *a, const void *b)
{
    const struct waiting *x = a, *y = b;
    if (x->us != y->us)
        return x->us < y->us ? -1 : 1;
    return x->censored - y->censored;
}

static int128 gcd128(int128 a, int128 b)
{
    while (b) {
        int128 rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* S as a reduced fraction while it fits, then as a double. */
struct survival {
    int128 top, bottom;
    bool exact;
    double s;
};

static void survival_step(struct survival *x, uint64_t at_risk, uint64_t ended)
{
    uint64_t left = at_risk - ended;
    x->s *= (double)left / (double)at_risk;
    int128 top = 0, bottom = 0;
    if (!x->exact || __builtin_mul_overflow(x->top, (int128)left, &top) ||
        __builtin_mul_overflow(x->bottom, (int128)at_risk, &bottom)) {
        x->exact = false;
        return;
    }
    int128 common = gcd128(bottom, top);
    x->top = top / common;
    x->bottom = bottom / common;
}

static bool survival_at_most(const struct survival *x, uint32_t p, uint32_t q)
{
    int128 left = 0, right = 0;
    if (x->exact && !__builtin_mul_overflow(x->top, (int128)q, &left) &&
        !__builtin_mul_overflow(x->bottom, (int128)p, &right))
        return left <= right;
    return x->s * (double)q <= (double)p;
}

bool kernel_survival_time(struct waiting *w, size_t n, uint32_t p, uint32_t q, int64_t *ret_us)
{
    if (n)
        qsort(w, n, sizeof(*w), compare_waiting);
    struct survival x = {1, 1, true, 1.0};
    for (size_t i = 0; i < n;) {
        size_t ended = 0, gone = 0;
        for (; i + gone < n && w[i + gone].us == w[i].us; gone++)
            ended += !w[i + gone].censored;
        if (ended)
            survival_step(&x, n - i, ended);
        if (ended && survival_at_most(&x, p, q)) {
            *ret_us = w[i].us;
            return true;
        }
        i += gone;
    }
    return false;
}

int32_t kernel_day(int64_t t_us)
{
    return (int32_t)(time_floor_us(t_us, US_PER_DAY) / US_PER_DAY);
}

double kernel_confidence(uint64_t n, double n0, uint64_t covered, uint64_t total)
{
    if (total == 0)
        return 0.0;
    double c = (double)n / ((double)n + n0) * ((double)covered / (double)total);
    return rint(c * 1000.0) / 1000.0;
}
