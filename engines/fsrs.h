/*
 * engines/fsrs.h - how well a memory is retained: FSRS-6 with its published default parameters
 * (ENGINES.md A2; weights and update rules: open-spaced-repetition, FSRS-6).
 *
 * The state of a memory is a pure fold, in time order, of its creation (the first review, with the
 * creation's grade) and of its accesses (later reviews). fsrs_state.reps, lapses and spaced count
 * accesses only; reps == 0 means that nothing was folded yet, and folding starts from the creation.
 *
 * Who folds what: an access inside the window stays a record, and engines fold it over a copy of
 * mem_rec.base whenever they need to. An access that leaves the log for good (the hour horizon
 * passes it, or LIMIT_ACCESSES pushes it out) is folded into base by the key, oldest first by
 * (t_us, id); if its memory is not known at that moment it is lost.
 *
 * Order at the edges, so that the same records always give the same state:
 * - an access before the memory's creation, or before base.last_us (a late arrival after the cap
 *   pushed a younger one out), counts as happening at that moment: no time has passed since;
 * - a memory that is created again while it lives keeps its base: what was folded stays folded
 *   from the creation that was known then. A deleted memory takes its base with it.
 *
 * Units: days and microseconds as named. Nothing here allocates or fails; no result is NaN.
 */
#pragma once

#include "engines/record.h"

#include <stdint.h>

#define FSRS_STABILITY_MIN_DAYS 0.001
#define FSRS_STABILITY_MAX_DAYS 36500.0
/* An access is spaced when this much time passed since the previous access or the creation. */
#define FSRS_SPACED_US (INT64_C(6) * 3600 * 1000000)

/* The state right after the creation: S = w[grade - 1] * (0.5 + importance); an unknown importance
 * leaves S as it is. */
void fsrs_start(struct fsrs_state *ret, const struct mem_rec *m);

/* Reviews s by one access of m; starts from m's creation when s->reps == 0. */
void fsrs_fold(struct fsrs_state *s, const struct mem_rec *m, const struct access_rec *a);

/* Retention at t_us, (0, 1]; 1 at and before last_us. Falls monotonically with t_us. */
double fsrs_retention(const struct fsrs_state *s, int64_t t_us);

/* Days after last_us at which retention is `target` (0 < target <= 1). */
double fsrs_days_until(const struct fsrs_state *s, double target);
