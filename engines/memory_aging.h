/*
 * engines/memory_aging.h - the parts of the memory aging engine that its two files share: what it
 * counts of user messages (memory_aging.c) and the row made from that and from what the accesses of
 * each memory add up to (memory_aging_row.c). Private to them.
 */
#pragma once

#include "core/clock.h"
#include "engines/engine.h"
#include "engines/retention.h"

#define AGING_WEEK_US  (7 * US_PER_DAY)
#define AGING_LIST_MAX 5  /* stale and fresh memories shown */
#define AGING_RISK_MAX 10 /* memories at risk shown */
#define AGING_DIMS     256

__extension__ typedef __int128 int128;

enum aging_edge { EDGE_WEEK, EDGE_FORTNIGHT, EDGES };

struct memory_aging {
    int64_t edge_us[EDGES];
    int64_t user_messages[EDGES]; /* at or after each edge */
    int32_t interest[AGING_DIMS]; /* sum of user message vectors at or after EDGE_WEEK */
};

/* Fills every column of the row, details, flags, confidence and valid_until from a fresh survey. */
MUST_CHECK enum status aging_row(const struct memory_aging *s, const struct retention *retention,
                                 const struct key_log *log, struct row *row, struct error *err);
