/*
 * engines/personality_profile_row.h - from the counts of E3 to its four columns (ENGINES.md E3).
 *
 * The engine and the oracle count in separate code and fill this struct; what they count must be
 * equal to the last integer. Everything that follows from the counts is computed here, once:
 * shares, intervals, trends, suggestions, reasons for what is NULL, confidence.
 *
 * Everything is counted over decided bot messages: those with a reply (a user message within
 * PP_OUTCOME_US behind it), and those whose PP_OUTCOME_US have passed without one. The reply is the
 * first such message. It is positive when it carries no emotion, when its valence is at least 0, or
 * when its valence is above that of the user message before it (the last one before the bot
 * message, of the same run, if it carries an emotion).
 *
 * Traits are those that bot messages name. While no bot message of the key names one, they are the
 * surface traits, each with a weight of 1.
 */
#pragma once

#include "core/clock.h"
#include "core/row.h"
#include "engines/kernels.h"

#define PP_TRAITS_MAX \
    32 /* names counted: those of the newest messages, then in a message's order */
#define PP_EMOTIONS   32 /* label ids (text.h) */
#define PP_DAYS       32 /* that the window touches: 720 h, the hour it began in, 5 minutes ahead */
#define PP_OUTCOME_US (30 * US_PER_MINUTE)
#define PP_WORDS_MIN  10 /* user messages before a bot message counts as long or short */

enum pp_surface {
    PP_INQUISITIVE, /* asks */
    PP_EXPRESSIVE,  /* has an emoji or an exclamation mark */
    PP_ELABORATE,   /* longer than the user's p90 of words, both as K4 shows them */
    PP_BRIEF,       /* has text, and is shorter than the user's p10 */
    PP_WARM,        /* positive valence */
    PP_SUBDUED,     /* negative valence */
    PP_SURFACE
};
struct str pp_surface_name(enum pp_surface trait);

/* Of the decided bot messages that show one trait. */
struct pp_sums {
    uint32_t weight;              /* 1/RECORD_TRAIT_WEIGHT */
    uint32_t words;               /* of the replies */
    uint32_t day_weight[PP_DAYS]; /* by kernel_day() mod PP_DAYS */
    uint16_t n;
    uint16_t k_reply;
    uint16_t k_pos;
    uint16_t n_emotion;             /* replies that carry one */
    uint16_t emotions[PP_EMOTIONS]; /* of them, by label */
    struct hist latency_s;          /* of the replies */
};

/* Of all decided bot messages, and of all traits they show. */
struct pp_totals {
    uint32_t n;
    uint32_t n_covered; /* that name a trait; with surface traits: that have text */
    uint32_t k_reply;
    uint32_t k_pos;
    uint32_t n_emotion;
    uint32_t n_other; /* traits shown beyond the PP_TRAITS_MAX that are counted by name */
    uint32_t weight;
    uint32_t day_weight[PP_DAYS];
    uint16_t day_shown[PP_DAYS]; /* traits shown */
    uint16_t day_n[PP_DAYS];     /* messages */
};

struct pp_trait {
    struct str name; /* distinct */
    const struct pp_sums *sums;
};

struct pp_counts {
    int64_t as_of_us;
    bool truncated;
    bool surface;
    struct pp_totals all;
    uint32_t n_pending; /* bot messages that are not decided yet */
    size_t n_traits;    /* in any order; those without a decided message may be missing */
    struct pp_trait traits[PP_TRAITS_MAX];
    /* Moments at which the counts change by themselves; INT64_MAX = never. */
    int64_t oldest_us; /* time of the oldest message */
    int64_t next_outcome_us;
};

/* Fills the four columns, flags, confidence, valid_until and details. */
MUST_CHECK enum status pp_write(const struct pp_counts *c, struct row *row, struct error *err);
