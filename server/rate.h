/*
 * server/rate.h - so many a second, and at most those of one second at once. Any thread.
 */
#pragma once

#include "core/clock.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct rate {
    _Atomic int64_t next_us; /* monotonic: when the bucket will be full again */
};

/* per_second 0: no limit. False: not now; *ret_wait_us, when not NULL, until the next one. */
static inline bool rate_take(struct rate *r, int64_t per_second, int64_t now_us,
                             int64_t *ret_wait_us)
{
    if (per_second <= 0)
        return true;
    int64_t each_us = US_PER_SECOND / per_second ? US_PER_SECOND / per_second : 1;
    int64_t next = atomic_load_explicit(&r->next_us, memory_order_relaxed), taken;
    do {
        int64_t from = next > now_us ? next : now_us;
        if (from + each_us - now_us > US_PER_SECOND && from > now_us) {
            if (ret_wait_us)
                *ret_wait_us = from + each_us - now_us - US_PER_SECOND;
            return false;
        }
        taken = from + each_us;
    } while (!atomic_compare_exchange_weak_explicit(&r->next_us, &next, taken, memory_order_relaxed,
                                                    memory_order_relaxed));
    return true;
}
