/*
 * engines/character_performance_row.h - from the counts of E2 to the columns of one window
 * (ENGINES.md E2, K4, K6, K7).
 *
 * The engine and the oracle count in separate code and fill this struct; what they count must be
 * equal to the last integer. Everything that follows from the counts is computed here, once.
 *
 * Windows are made of hours: [floor_hour(T) - W, T], the running hour included. Days are those of
 * UTC. What is kept by day (users, latencies) counts from the first day that the window touches.
 */
#pragma once

#include "core/row.h"
#include "engines/metrics.h"

#define PF_STEPS_MAX 30
#define PF_HOURS     168 /* of history that anomalies are looked for in, and the running one */
#define PF_TRAITS    65  /* names told apart, and all others together in the last one */
#define PF_QUALITY   4   /* engagement, satisfaction, coherence, flow and relevance together */

struct pf_sum {
    uint64_t n;
    int128 sum;  /* x 10^6 */
    int128 sum2; /* x 10^12 */
};

/* One complete day, or hour of the shortest window, of the scores that quality is made of. */
struct pf_step {
    struct pf_sum quality[PF_QUALITY];
};

struct pf_hour {
    int32_t hour; /* since 1970 */
    uint32_t n;
    int128 sum;
};

/* Hours with points, oldest first. */
struct pf_stream {
    uint64_t id;
    enum metric metric;
    size_t name_len;
    char name[METRIC_NAME_BYTES]; /* METRIC_OTHER */
    size_t n_hours;
    struct pf_hour hours[PF_HOURS + 1];
    const struct detector *detector;
};

/* Bot messages that show a trait. */
struct pf_trait {
    size_t name_len;
    char name[TRAIT_NAME_BYTES];
    uint32_t defined; /* weight in the character's definition, x 10^6 */
    uint32_t recent;  /* in the last 24 hours */
    uint32_t all;     /* in 30 days */
};

struct pf_counts {
    int64_t as_of_us;
    int window_hours;
    struct pf_sum scores[METRIC_AVERAGED];
    /* Averages in which every user weighs the same; sums of the users' means, x 10^9. */
    bool users_known; /* sums per user are complete for this window */
    uint32_t users;
    uint32_t balanced_n[USER_METRICS];
    int128 balanced_sum[USER_METRICS];
    uint32_t latencies[METRIC_LATENCIES][HIST_BUCKETS];
    size_t n_steps; /* by age, oldest first; without points too */
    struct pf_step steps[PF_STEPS_MAX];
    bool has_character;
    int64_t character_version;
    size_t n_traits; /* the last of PF_TRAITS is used when there are more names than that */
    struct pf_trait traits[PF_TRAITS];
    /* Directions of bot messages (voice.h), by whole days: of the window, and of 30 days. */
    uint32_t vectors;
    int64_t direction[VOICE_DIMS];
    int64_t centroid[VOICE_DIMS];
    size_t n_streams; /* by id */
    struct pf_stream streams[METRIC_STREAMS];
};

/* The trait of this name, made if there is room, else the one of all others. */
struct pf_trait *pf_trait(struct pf_counts *c, struct str name);

/* Fills all columns, details, flags, confidence and valid_until. */
MUST_CHECK enum status pf_row(const struct pf_counts *c, struct row *row, struct error *err);
