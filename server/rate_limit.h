/*
 * server/rate_limit.h - so many requests per second for each of many keys.
 *
 * A key may be `burst` requests ahead of its rate. The table is bounded: when a new key needs room,
 * one that is not behind goes, else the one that is least behind; forgetting a key only gives it
 * its burst again. Any thread. Clock: monotonic microseconds, passed in.
 */
#pragma once

#include "core/buf.h"
#include "core/cleanup.h"
#include "core/status.h"

#include <stdbool.h>

struct rate_limit;

/* rate and burst: at least 1. keys: rounded up to a power of two, at least 8. */
MUST_CHECK enum status rate_limit_new(unsigned rate, unsigned burst, size_t keys,
                                      struct rate_limit **ret, struct error *err);
void rate_limit_free(struct rate_limit *r); /* NULL is a no-op */
CLEANUP_FREEP(struct rate_limit, rate_limit_free);
/* Whether one more request may pass now. If not, *ret_retry_s (may be NULL) is after how many
 * seconds, at least 1, it may. A NULL limit lets everything pass. */
bool rate_limit_take(struct rate_limit *r, struct str key, int64_t now_us, unsigned *ret_retry_s);
