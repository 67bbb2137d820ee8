#include "state/histogram.h"

#include <assert.h>
#include <math.h>
#include <stddef.h>

#define BUCKETS (HISTOGRAM_DOUBLINGS * HISTOGRAM_PER_DOUBLING)

/* Within a doubling the buckets are linear: integer arithmetic only, and still within 1/16. */
static size_t bucket_of(uint64_t us)
{
    if (us < HISTOGRAM_PER_DOUBLING)
        return us;
    int top = 63 - __builtin_clzll(us);
    uint64_t within = (us >> (top - 4)) & (HISTOGRAM_PER_DOUBLING - 1);
    size_t i = (size_t)(top - 3) * HISTOGRAM_PER_DOUBLING + within;
    return i < BUCKETS ? i : BUCKETS - 1;
}

static int64_t upper_edge(size_t i)
{
    if (i < HISTOGRAM_PER_DOUBLING)
        return (int64_t)i;
    size_t top = i / HISTOGRAM_PER_DOUBLING + 3;
    uint64_t within = i % HISTOGRAM_PER_DOUBLING;
    return (int64_t)(((HISTOGRAM_PER_DOUBLING + within + 1) << (top - 4)) - 1);
}

void histogram_add(struct histogram *h, int64_t us)
{
    h->counts[bucket_of(us < 1 ? 1 : (uint64_t)us)]++;
    h->n++;
}

int64_t histogram_quantile(const struct histogram *h, double q)
{
    assert(q > 0 && q <= 1);
    if (h->n == 0)
        return 0;
    uint64_t rank = (uint64_t)ceil(q * (double)h->n);
    uint64_t seen = 0;
    for (size_t i = 0; i < BUCKETS; i++) {
        seen += h->counts[i];
        if (seen >= rank)
            return upper_edge(i);
    }
    return upper_edge(BUCKETS - 1);
}
