/*
 * engines/memory_aging.h - the parts of the memory aging engine that its two files share: the cache
 * of folded memories (memory_aging.c) and the row made from it (memory_aging_row.c). Private to
 * them.
 */
#pragma once

#include "core/clock.h"
#include "engines/engine.h"
#include "engines/fsrs.h"

#define AGING_WEEK_US  (7 * US_PER_DAY)
#define AGING_LIST_MAX 5  /* stale and fresh memories shown */
#define AGING_RISK_MAX 10 /* memories at risk shown */
#define AGING_DIMS     256

__extension__ typedef __int128 int128;

struct aging_entry {
    uint64_t id; /* of the memory record at the same index */
    struct fsrs_state fsrs;
    int64_t newest_us; /* (time, id) of the youngest access in the window */
    uint64_t newest_id;
    uint32_t in_window; /* accesses in the log that fsrs contains */
    bool stale;         /* everything but id must be folded again */
};

enum aging_edge { EDGE_WEEK, EDGE_FORTNIGHT, EDGES };

struct memory_aging {
    struct aging_entry *entries;
    size_t n;
    size_t cap;
    bool any_stale;
    int64_t edge_us[EDGES];
    int64_t user_messages[EDGES]; /* at or after each edge */
    int32_t interest[AGING_DIMS]; /* sum of user message vectors at or after EDGE_WEEK */
};

/* Fills every column of the row, details, flags, confidence and valid_until from a fresh survey. */
MUST_CHECK enum status aging_row(const struct memory_aging *s, const struct key_log *log,
                                 struct row *row, struct error *err);
/* The cached entry of the access's memory; NULL when the memory is not known. */
struct aging_entry *aging_entry(const struct memory_aging *s, const struct key_log *log,
                                const struct access_rec *a);
