/*
 * engines/memory_behavior_row.h - from what E5 counts to its five columns (ENGINES.md E5).
 *
 * The engine and the oracle count in separate code and fill this struct; what they count must be
 * equal to the last integer. Everything that follows from the counts is computed here, once.
 */
#pragma once

#include "core/row.h"
#include "engines/retention.h"

#define MB_LIST_MAX      10
#define MB_HIGH_SPACED   2 /* spaced accesses before a memory can be listed as well retained ... */
#define MB_LOW_R         0.5 /* ... at or above this R; below it, accessed ones are listed as fading */
#define MB_CONSOLIDATED  3 /* spaced accesses */
#define MB_LAPSED_R      0.3
#define MB_FADE_R        0.02 /* a row is out of date when a listed R has moved this far */
#define MB_STABILITY_MAX 365.0

/* A listed memory. */
struct mb_memory {
    char name[LIMIT_LABEL_BYTES];
    size_t name_len;
    char topic[LIMIT_LABEL_BYTES];
    size_t topic_len; /* 0: none */
    double r;
    struct fsrs_state fsrs;
};

struct mb_counts {
    int64_t as_of_us;
    uint64_t accesses;      /* ever, of the memories tracked */
    uint64_t lapses;        /* of them, missed */
    struct gap_counts gaps; /* closed in the window, and open at T */
    size_t n_high, n_low;
    struct mb_memory high[MB_LIST_MAX]; /* by R falling, then id */
    struct mb_memory low[MB_LIST_MAX];  /* by R rising, then id */
    uint64_t n_new, n_consolidating, n_consolidated, n_lapsed;
    /* Moments at which the counts change by themselves, or a listed R has; INT64_MAX = never. */
    int64_t next_expiry_us;
    int64_t next_fade_us;
};

/* When an access leaves the window. */
int64_t mb_expiry_us(int64_t t_us);
/* Counts one memory under its stage of consolidation. */
void mb_consolidate(struct mb_counts *c, uint32_t spaced, double r);

/* Fills the five columns, flags, confidence, valid_until and details. */
MUST_CHECK enum status mb_write(const struct mb_counts *c, struct row *row, struct error *err);
