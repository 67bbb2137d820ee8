/*
 * engines/switch_model.h - how likely a message opens a new topic: one logistic formula in exact
 * integers (ENGINES.md A1). The features are those below, all causal and of one session; weights
 * come from bench/train/context_switch.py. Engine and oracle compute features in separate code.
 *
 * Units: features in 1/256, logits in 1/65536, probabilities in 1/65536. log2 is log2_q8(), idf of
 * a vector bucket is log2_q8(n + 2) - log2_q8(df + 1) over the n records of the session so far, an
 * overlap is the share of the message's idf whose buckets lie in earlier records, a cosine is
 * cosine_q8() of the unweighted vectors. "Unusual" is the distance from the session's mean so far.
 * Divisions go towards zero. A record without such neighbours has 0.
 */
#pragma once

#include "engines/record.h"

#include <stdbool.h>
#include <stdint.h>

#define SWITCH_ONE      256
#define SWITCH_CERTAIN  65536 /* a probability of 1 */
#define SWITCH_SHORT    3     /* words at most */
#define SWITCH_NEAR     4     /* records that count as the last ones */
#define SWITCH_SIGMOIDS 257

enum switch_feature {
    SWITCH_BIAS, /* 1 */
    SWITCH_WORDS,
    SWITCH_WORDS_CHANGE,
    SWITCH_WORDS_UNUSUAL,
    SWITCH_CHARS_CHANGE,
    SWITCH_QUESTION,
    SWITCH_EXCLAIM,
    SWITCH_END_PUNCT,
    SWITCH_QUESTION_BEFORE, /* of the record before */
    SWITCH_EXCLAIM_BEFORE,
    SWITCH_END_PUNCT_BEFORE,
    SWITCH_QUESTION_BEFORE_2, /* and of the one before that */
    SWITCH_QUESTIONS,         /* both are */
    SWITCH_SHORT_NOW,
    SWITCH_SHORT_BEFORE,
    SWITCH_WORDS_BEFORE,
    SWITCH_AT_1, /* records in the segment so far: 1, 2, 3, 4, 5-6, 7-9, more */
    SWITCH_AT_2,
    SWITCH_AT_3,
    SWITCH_AT_4,
    SWITCH_AT_6,
    SWITCH_AT_9,
    SWITCH_AT_MORE,
    SWITCH_POSITION, /* log2 of them */
    SWITCH_SESSION,  /* log2 of the records in the session so far */
    SWITCH_SESSION_1,
    SWITCH_SESSION_2,
    SWITCH_MEAN_WORDS, /* of the session */
    SWITCH_QUESTION_RATE,
    SWITCH_OVERLAP_1, /* with the last 1, 2, 4 records, the segment, the session */
    SWITCH_OVERLAP_2,
    SWITCH_OVERLAP_4,
    SWITCH_OVERLAP_SEGMENT,
    SWITCH_OVERLAP_SESSION,
    SWITCH_COSINE_1,
    SWITCH_COSINE_4,
    SWITCH_COSINE_SEGMENT,
    SWITCH_COSINE_UNUSUAL, /* of COSINE_4 */
    SWITCH_INFORMATION,    /* log2 of 1 + the message's idf */
    SWITCH_OVERLAP_WORDS,  /* products: OVERLAP_1 x WORDS */
    SWITCH_NEW_QUESTION,   /* QUESTION x (1 - OVERLAP_SESSION) */
    SWITCH_NEW_WORDS,      /* WORDS x (1 - OVERLAP_SESSION) */
    SWITCH_OVERLAP_ANSWER, /* QUESTION_BEFORE x OVERLAP_1 */
    SWITCH_GAP,            /* doublings of the pause over the session's mean, 0..8 */
    SWITCH_TEXT_FEATURES,
    /* Cosines of embeddings of one model; "last" are the last embedded records. */
    SWITCH_NEAR_1 = SWITCH_TEXT_FEATURES,
    SWITCH_NEAR_2,
    SWITCH_NEAR_4,
    SWITCH_NEAR_SEGMENT, /* NEAR_4 when the segment has none yet */
    SWITCH_NEAR_SESSION,
    SWITCH_NEAR_MOST, /* the largest with any of the last four */
    SWITCH_NEAR_1_UNUSUAL,
    SWITCH_NEAR_2_UNUSUAL,
    SWITCH_NEAR_4_UNUSUAL,
    SWITCH_NEAR_SEGMENT_UNUSUAL,
    SWITCH_FEATURES
};

/* What p_switch is computed from. */
struct switch_input {
    bool embedding; /* the second half of x is there */
    int32_t x[SWITCH_FEATURES];
    uint8_t edge[2 * RECORD_EDGES]; /* of the message, then of the record before */
};

/* 0..65535. */
uint32_t switch_probability(const struct switch_input *in);

/*
 * The probability from which on a message opens a topic: the one with the best expected F1 on the
 * scores that the bot's messages had, as counted by the epoch, or the shipped one without an epoch
 * (NULL) or with few scores. scores: epoch_switch_scores().
 */
struct switch_threshold {
    uint32_t text;
    uint32_t embedding;
};
struct switch_threshold switch_threshold(const uint32_t *scores);
/* The epoch cell that a score is counted in. */
unsigned switch_cell(uint32_t p, bool embedding);

/* Piecewise linear logarithm, 1/256, exact at powers of two; x is at least 1. */
int32_t log2_q8(uint32_t x);
/* dot / sqrt(norm2_a norm2_b) in 1/256, 0 when a norm is 0; the norms' product is below 2^63. */
int32_t cosine_q8(int64_t dot, uint64_t norm2_a, uint64_t norm2_b);

#define SWITCH_EDGES (2 * RECORD_EDGES * 256)
extern const int32_t switch_weights_text[SWITCH_TEXT_FEATURES];
extern const int32_t switch_weights_embedding[SWITCH_FEATURES];
extern const int8_t switch_edges_text[SWITCH_EDGES];
extern const int8_t switch_edges_embedding[SWITCH_EDGES];
extern const uint16_t switch_sigmoid[SWITCH_SIGMOIDS];
