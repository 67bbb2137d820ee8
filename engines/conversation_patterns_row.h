/*
 * engines/conversation_patterns_row.h - from the counts of E6 to its four columns (ENGINES.md E6).
 *
 * The engine and the oracle count in separate code and fill this struct; what they count must be
 * equal to the last integer. Everything that follows from the counts is computed here, once: rates,
 * intervals, the fingerprint, reasons for what is NULL, confidence.
 */
#pragma once

#include "core/clock.h"
#include "core/row.h"
#include "engines/epoch.h"
#include "engines/kernels.h"
#include "engines/record.h"

#define CP_HOW_TOP      5
#define CP_EMOTIONS_TOP 5
#define CP_TOPICS_TOP   5
#define CP_LENGTHS      8
#define CP_OUTCOME_US   (30 * US_PER_MINUTE)

/* User messages that carry each of these flags, in this order. */
enum cp_flag {
    CP_FLAG_QUESTION,
    CP_FLAG_EXCLAIM,
    CP_FLAG_EMOJI,
    CP_FLAG_LINK,
    CP_FLAG_UPPER_START,
    CP_FLAG_END_PUNCT,
    CP_FLAGS
};

/* How many words somebody says, and how many of them are of each class of common words (text.h): of
 * the messages for which the bot's frequent words were known. */
struct cp_speech {
    uint32_t n;
    uint32_t words;
    uint32_t common[RECORD_COMMON];
};

enum cp_drift { CP_DRIFT_NONE, CP_DRIFT_RISING, CP_DRIFT_FLAT, CP_DRIFT_FALLING };

struct cp_topic {
    char label[LIMIT_LABEL_BYTES];
    size_t label_len;
    uint32_t n;          /* user messages with an emotion */
    int32_t valence_sum; /* -127..127 each */
};

struct cp_counts {
    int64_t as_of_us;
    bool truncated;
    const struct epoch *epoch; /* of the day of T, or NULL */
    /* communication_style; all of user messages */
    uint32_t n;
    uint32_t n_text; /* with at least one character */
    int64_t words_sum;
    int64_t words_sum2;
    int64_t chars_sum;
    struct hist words;
    struct hist chars;
    struct hist latency_s; /* user message right after a bot message of the same run */
    uint32_t flags[CP_FLAGS];
    uint32_t marks[RECORD_MARKS];
    struct cp_speech user, bot;
    uint32_t runs; /* sessions without the splits of long ones */
    uint32_t runs_by_user;
    size_t n_how; /* busiest hours of the week, by count desc, then hour */
    struct {
        uint32_t how;
        uint32_t count;
    } how[CP_HOW_TOP];
    enum cp_drift drift;
    /* preferred_depth; over sessions with a user message */
    uint32_t n_sessions;
    uint32_t n_segments;
    uint32_t n_deep;   /* segments of at least 8 user messages */
    struct hist turns; /* user messages per segment */
    /* emotional_engagement; of user messages with an emotion */
    uint32_t n_emotion;
    size_t n_dominant; /* by count desc, then label id */
    struct {
        uint8_t emotion;
        uint32_t count;
    } dominant[CP_EMOTIONS_TOP];
    int64_t valence_sum;
    int64_t valence_sum2;
    struct pair_sums lag1; /* valence of one and of the next in the same session */
    uint32_t negatives;    /* negative ones that a next one in the session follows ... */
    uint32_t recoveries;   /* ... which is positive */
    size_t n_positive, n_negative;
    struct cp_topic positive[CP_TOPICS_TOP]; /* best first */
    struct cp_topic negative[CP_TOPICS_TOP]; /* worst first */
    /* optimal_response_length; decided bot messages by length, and those with a reply in time */
    uint32_t length_n[CP_LENGTHS];
    uint32_t length_k[CP_LENGTHS];
    /* Moments at which the counts change by themselves; INT64_MAX = never. */
    int64_t next_expiry_us;
    int64_t session_close_us;
    int64_t next_outcome_us;
};

/* Which enum cp_flag a message carries, as bits. */
uint32_t cp_flags_of(const struct msg_rec *m);
/* Bucket of a bot message's length: at most 8, 16, 32, 64, 128, 256, 512, or more words. */
size_t cp_length_bucket(uint32_t words);
/* When a record of time t leaves the window: the first full hour H with t < H - 30 d. */
int64_t cp_expiry_us(int64_t t_us);
/* rising, flat or falling from the daily medians of days with enough messages; NONE below 5 days.
 */
enum cp_drift cp_drift_of(const double *medians, size_t n);
/* Orders two clusters by mean valence, exactly: < 0 when a is lower. */
int cp_valence_compare(const struct cp_topic *a, const struct cp_topic *b);

#define CP_TOPIC_MIN     5 /* emotional user messages of a topic before it is listed */
#define CP_DRIFT_DAY_MIN 3 /* user messages of a day before its median counts */
#define CP_DEEP_TURNS    8

/* Fills the four columns, flags, confidence, valid_until and one detail. */
MUST_CHECK enum status cp_write(const struct cp_counts *c, struct row *row, struct error *err);
