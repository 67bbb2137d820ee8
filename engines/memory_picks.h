/*
 * engines/memory_picks.h - the few memories of a key that come first by some rank, for the lists of
 * E1 and E5.
 */
#pragma once

#include "core/jsonw.h"
#include "engines/retention.h"

#define MEMORY_PICKS_MAX 10

struct memory_pick {
    size_t index; /* in log->memories */
    double rank;  /* smallest first; ties by memory id */
    double r;     /* retention as shown */
    double value; /* what E1 thinks it is worth */
};

struct memory_picks {
    size_t n;
    size_t max; /* at most MEMORY_PICKS_MAX */
    struct memory_pick items[MEMORY_PICKS_MAX];
};

void memory_picks_offer(struct memory_picks *list, const struct key_log *log, struct memory_pick p);

/* The earliest moment at which the shown R of an unpinned memory of the list has fallen by `by`, if
 * that is within a day; else INT64_MAX. */
int64_t memory_picks_change_us(const struct memory_picks *list, const struct key_log *log,
                               const struct retention *retention, double by);

/* The labels of a memory, joined by spaces and cut to LIMIT_LABEL_BYTES; empty without labels. */
#define MEMORY_TOPIC_BYTES (3 * (RECORD_LABEL_BYTES + 1))
struct str memory_topic(const struct key_log *log, const struct mem_rec *m,
                        char text[MEMORY_TOPIC_BYTES]);
