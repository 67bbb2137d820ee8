/*
 * engines/gap_law.h - the predictive distribution of the time to a user's next message (ENGINES.md
 * A5).
 *
 * A gap falls into one of 40 lengths, evenly spaced on a logarithmic scale from 2 s to 150 d. What
 * comes next depends on a context: the class of the gap before it and the 4-hour block of the day
 * (UTC) in which it starts. The law is the user's own gaps, newer ones counting more, together with
 * GAP_PRIOR gaps of the context's row: that of the bot's epoch where it knows enough, else the
 * shipped table (bench/train/gap_prior.py).
 *
 * An epoch counts gaps that have ended, and the longer a gap the fewer of them have: it only says
 * how gaps below seven hours divide among themselves. How many are longer is the table's word, and
 * the user's own.
 */
#pragma once

#include "core/clock.h"
#include "engines/epoch.h"
#include "engines/kernels.h"

#include <stddef.h>
#include <stdint.h>

#define GAP_CLASSES  5 /* below 2 min, 20 min, 1 d, longer, none known */
#define GAP_BLOCKS   6
#define GAP_CONTEXTS (GAP_CLASSES * GAP_BLOCKS)
#define GAP_POINTS   24
#define GAP_NONE     INT64_C(-1) /* no gap before: the first message in the log */

_Static_assert(GAP_CONTEXTS <= EPOCH_GAP_ROWS, "every context has a row in the epoch");

/* Generated: lower ends of the lengths and the upper one of the last, and the shipped rows. */
extern const int64_t gap_edges_us[EPOCH_GAP_BINS + 1];
extern const uint16_t gap_prior[GAP_CONTEXTS][EPOCH_GAP_BINS];

/* 0..39; shorter and longer gaps count as the first and the last length. */
unsigned gap_length(int64_t gap_us);
/* 0..29. previous_us: the gap that ended at t_us, or GAP_NONE. */
unsigned gap_context(int64_t t_us, int64_t previous_us);

/*
 * A user's own gaps. One gap weighs 1 in its length and spills a quarter to either side; it counts
 * 4 % less with each gap after it, in integers.
 */
struct gap_history {
    uint64_t weight[EPOCH_GAP_BINS]; /* GAP_UNIT = one gap of now */
};
#define GAP_NOW  UINT32_C(65536) /* weight of the newest gap */
#define GAP_UNIT (UINT64_C(4) * GAP_NOW)
uint32_t gap_fade(uint32_t weight); /* of the gap before; 0 after about 270 */
void gap_history_add(struct gap_history *h, int64_t gap_us, uint32_t weight);

/* Shares of the 40 lengths; all above 0, they add up to 1. epoch may be NULL. */
void gap_law(const struct gap_history *h, unsigned context, const struct epoch *epoch,
             double ret[EPOCH_GAP_BINS]);

/* The law as a distribution function on GAP_POINTS of the inner edges: those between which its
 * density is most nearly even are left out. Seconds and shares strictly rise. */
struct gap_point {
    double seconds;
    double cdf;
};
void gap_points(const double law[EPOCH_GAP_BINS], struct gap_point ret[GAP_POINTS]);
/* The first time at which the law reaches share `at` of what it leaves beyond `from_us`; inside a
 * length, as if gaps were even on the logarithmic scale. */
int64_t gap_quantile_us(const double law[EPOCH_GAP_BINS], int64_t from_us, double at);

/*
 * When a user who has been silent since last_us is likely to return: the next stretch, from now_us
 * on and at most GAP_VISIT_HORIZON_US after last_us, of steps of ten minutes in which he returns
 * with at least GAP_LIKELY. The law tells how likely that is at each length of silence; activity
 * (kernel_activity(), adds up to 1) makes the hours of his week in which he writes more likely and
 * the others less. from == until: there is none.
 *
 * GAP_LIKELY is the top decile as it was measured, not a share of each user's own hours: docs/
 * FRESHNESS.md has the command. So somebody who returns at random is never waited for.
 */
#define GAP_VISIT_HORIZON_US US_PER_DAY
#define GAP_VISIT_STEP_US    (10 * US_PER_MINUTE)
#define GAP_LIKELY           0.03
struct gap_visit {
    int64_t from_us, until_us;
};
struct gap_visit gap_next_visit(const double law[EPOCH_GAP_BINS],
                                const double activity[HOURS_OF_WEEK], int64_t last_us,
                                int64_t now_us);
/* The probability behind it: of a return within the step that begins at t_us. */
double gap_return(const double law[EPOCH_GAP_BINS], const double activity[HOURS_OF_WEEK],
                  int64_t last_us, int64_t t_us);
