/*
 * engines/proactive_engagement_row.h - from the counts of E7 to its columns (ENGINES.md E7, A5).
 *
 * The engine and the oracle count in separate code and fill this struct; what they count must be
 * equal to the last integer. Everything that follows from the counts is computed here, once.
 */
#pragma once

#include "core/clock.h"
#include "core/jsonw.h"
#include "core/row.h"
#include "engines/fsrs.h"
#include "engines/gap_law.h"
#include "engines/kernels.h"
#include "engines/record.h"
#include "engines/segment.h"

#define EO_GAPS_MAX 512                  /* the newest return gaps */
#define EO_REPLY_US (30 * US_PER_MINUTE) /* a bot message is decided after this */

/*
 * When the bot may begin a conversation. Neither is in the configuration: hours are UTC as long as
 * no time zone of a user is known, and quiet ones are kept in UTC too (state flag NO_TZ).
 */
struct eo_params {
    unsigned quiet_from; /* hour of the day ... */
    unsigned quiet_to;   /* ... up to this one */
    bool assume_utc;     /* false: without a time zone there is no timing at all (Appendix B) */
};
extern const struct eo_params eo_defaults;

/* A cluster of segments (segment.h). */
struct eo_topic {
    char label[LIMIT_LABEL_BYTES];
    size_t label_len;
    uint32_t n;         /* user messages */
    uint32_t n_valence; /* of them with an emotion */
    int32_t valence_sum;
    int64_t last_us; /* last message of its newest segment */
    /* The newest segment's last user message is a question, its run is over, and the bot said
     * nothing more in it. */
    bool asked;
    int64_t asked_us;
    uint64_t asked_id;
};

/* A memory that E1 would list as at risk: the riskiest ones. */
#define EO_FADING_MAX 2
struct eo_fading {
    char name[LIMIT_LABEL_BYTES];
    size_t name_len;
    char topic[LIMIT_LABEL_BYTES];
    size_t topic_len;
    double value;
    double r;
    struct fsrs_state fsrs;
};
/* What E1 calls at risk (ENGINES.md E1); value is what the memory is worth. */
bool eo_is_fading(int64_t age_us, uint32_t importance, uint32_t accesses, double r,
                  double *ret_value);

struct eo_counts {
    int64_t as_of_us;
    bool truncated;
    int64_t first_seen_us;
    uint32_t n_user;    /* user messages in the window */
    uint32_t n_emotion; /* of them with an emotion */
    int64_t last_user_us;
    uint32_t hours[HOURS_OF_WEEK]; /* user messages */
    /* Closed return gaps, and room for the open one: from the last user message of a run to the
     * first one of the next run that has any, unless an attempt lies between. */
    size_t n_gaps;
    struct waiting gaps[EO_GAPS_MAX + 1];
    int64_t open_us; /* silence since last_user_us until T */
    struct consent consent;
    uint32_t resolved; /* attempts that were answered, or whose 24 hours have passed ... */
    uint32_t replied;  /* ... and those that were answered */
    uint32_t streak;   /* of the newest resolved ones without an answer, in a row */
    /* Bot messages whose 30 minutes have passed, and those with a user message in that time. */
    uint32_t decided;
    uint32_t answered;
    /* The law of the gap after the last user message. */
    struct gap_history history;
    unsigned gap_context;
    const struct epoch *epoch; /* of the day of T, or NULL */
    size_t n_topics;           /* the one that began first is the first */
    struct eo_topic topics[SEGMENT_CLUSTERS_MAX];
    size_t n_fading;
    struct eo_fading fading[EO_FADING_MAX];
    /* Moments at which the counts change by themselves; INT64_MAX = never. */
    int64_t next_expiry_us;
    int64_t next_outcome_us;
    int64_t run_end_us; /* the open run is over then */
};

/* Fills all columns, details, flags, confidence and valid_until. */
MUST_CHECK enum status eo_write(const struct eo_counts *c, const struct eo_params *params,
                                struct row *row, struct error *err);
/* {"gap_cdf":[[seconds,share],...],"id":...}: the trace of a user message. */
void eo_write_trace(const struct eo_counts *c, struct str id, struct jsonw *w);
