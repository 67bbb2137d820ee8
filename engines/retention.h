/*
 * engines/retention.h - what the accesses of each memory add up to, worked out once for the engines
 * that need it (E1, E5): its FSRS state, its retention at T, and the gaps between accesses.
 *
 * A cache of F(log): the key keeps it up to date record by record from the first question on. An
 * access that is younger than all others of its memory is folded on at once; anything else marks
 * its memory, and the next question folds it again. Both ways run the same operations in the same
 * order, so they agree bit for bit.
 */
#pragma once

#include "engines/fsrs.h"
#include "engines/record.h"

/*
 * Gaps by lag (ENGINES.md E5). The gap of an access starts at the access before it, of the same
 * memory, or else at the creation; a gap is spaced or massed after the access that opened it. Times
 * before the start count as the start, as in fsrs.h, so a gap is never negative. Gaps are counted
 * in whole seconds.
 */
#define RETENTION_LAGS 9
extern const int64_t retention_lag_edges_s[RETENTION_LAGS - 1];

struct gap_counts {
    uint32_t events[RETENTION_LAGS];
    int64_t exposure_s[RETENTION_LAGS];
    /* Of gaps that an access opened, by whether it was spaced; see FSRS_SPACED_US. */
    uint32_t after_events[2];
    int64_t after_exposure_s[2];
};

/* What opened a gap. */
enum gap_opener { GAP_AFTER_CREATION = -1, GAP_AFTER_MASSED = 0, GAP_AFTER_SPACED = 1 };
enum gap_opener gap_opener_of(const struct fsrs_state *s); /* of the gap that is open after s */
void gap_count(struct gap_counts *c, enum gap_opener opener, int64_t gap_us, bool closed);

/* One memory; those of a key are in the order of log->memories. */
struct retained {
    uint64_t id;
    struct fsrs_state fsrs;
    double r;           /* retention at T; what is pinned fades here like everything else */
    uint32_t in_window; /* accesses in the log that fsrs contains */
    /* private */
    bool stale;
    int64_t newest_us; /* (time, id) of the youngest access in the window ... */
    uint64_t newest_id;
    double r_before; /* ... and the retention right before it */
};

/* What has become of a memory when its oldest access has left for good. */
struct leaving {
    bool set;
    uint64_t memory;
    struct fsrs_state base;
    struct retained entry;
    bool any_stale;
};

struct retention {
    struct retained *at;
    size_t n;
    struct gap_counts closed; /* gaps that an access in the window closed */
    uint64_t known;           /* accesses in the window whose memory is known */
    /* private */
    size_t cap;
    bool started; /* `at` covers the memories of the log */
    bool counted; /* closed is right */
    bool any_stale;
    bool aged; /* every r and known are those of aged_us */
    int64_t aged_us;
    struct leaving leaving; /* from the retraction of an access to the next change of its memory */
};

/* *ret is valid until the next change of the log. NOMEM. */
MUST_CHECK enum status retention_of(const struct key_log *log, const struct retention **ret,
                                    struct error *err);
/*
 * Retention of a memory right before the access (t, id), whether or not it is in the log: from the
 * creation and the accesses known that are older. False when the memory is not known, or when its
 * base (record.h) contains an access as young as t: what came before can no longer be told.
 */
bool retention_before(const struct key_log *log, uint64_t memory, int64_t t_us, uint64_t id,
                      double *ret);
size_t retention_bytes(const struct retention *r); /* NULL: 0 */

/* ---- for the key ---- */
MUST_CHECK enum status retention_new(struct retention **ret);
void retention_free(struct retention *r);
/* After record `index` entered, and before it leaves; of memories and accesses. When there is no
 * memory it starts over at the next question. */
void retention_insert(struct retention *r, const struct key_log *log, enum record_kind kind,
                      size_t index);
void retention_retract(struct retention *r, const struct key_log *log, enum record_kind kind,
                       size_t index);
