/*
 * state/histogram.h - quantiles of many durations in fixed memory.
 *
 * Buckets: one per microsecond up to 16, then 16 per doubling, up to about 4.7 hours; so a reported
 * quantile is at most 1/16 above the true one. Not thread-safe.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define HISTOGRAM_DOUBLINGS    ((size_t)34)
#define HISTOGRAM_PER_DOUBLING ((size_t)16)

struct histogram {
    uint64_t n;
    uint64_t counts[HISTOGRAM_DOUBLINGS * HISTOGRAM_PER_DOUBLING];
};

void histogram_add(struct histogram *h, int64_t us); /* below 1 counts as 1 */
/* Upper edge of the bucket that holds the q-quantile (0 < q <= 1); 0 when empty. */
int64_t histogram_quantile(const struct histogram *h, double q);
