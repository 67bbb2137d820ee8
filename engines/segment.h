/*
 * engines/segment.h - topics inside one session: segmentation and clustering (ENGINES.md E4, A1).
 *
 * Both are pure functions of the records given and of the thresholds of an epoch, in exact integer
 * arithmetic.
 *
 * Segmentation walks a session's records in time order, user and bot alike:
 * - the first record opens the first segment; each later one opens a segment when its p_switch
 *   (switch_model.h) reaches the threshold, judged against the segments as they stand then;
 * - a record without a token and without an embedding has p_switch 0;
 * - one-message merge-back: when the record right behind an opener is nearer to the segment that
 *   was left than to the opener, the two become one again. Near is the cosine of embeddings, at
 *   least 1/4, when record, opener and old segment have some of one model; else of the unweighted
 *   vectors, at least 1/2;
 * - a message without an embedding of the session's newest model is judged by its text alone.
 * Segments cover the whole session.
 */
#pragma once

#include "engines/record.h"
#include "engines/switch_model.h"

#include <stddef.h>
#include <stdint.h>

struct segment {
    uint16_t first;     /* of its records, counted from the start of the session */
    uint16_t n;         /* records, bot messages included */
    uint16_t n_user;    /* 0 when only the bot spoke */
    uint16_t n_valence; /* user messages with an emotion, and their valence (-127..127 each) */
    int32_t valence_sum;
    /* The 32 largest entries of the centroid, in which a user message weighs 2 and a bot message 1
     * (ties: lower bucket first). */
    uint8_t n_vector;
    uint8_t bucket[RECORD_VECTOR];
    int16_t weight[RECORD_VECTOR];
    uint64_t norm2;
};

/* What is known of the segment that is open, or of the one before it. */
struct segment_part {
    uint8_t first;
    uint8_t n_near;
    uint64_t norm2;
    int16_t w[256]; /* sum of the vectors */
    int16_t near[RECORD_EMBEDDING];
};

/* The walk over one session, record by record in O(1): the rest of F needs no more than this. */
struct segmenter {
    struct switch_threshold threshold;
    uint8_t n;         /* records so far, at most RECORD_SESSION_MAX */
    bool opened;       /* the newest record opened a segment: the next one may take that back */
    bool by_embedding; /* the newest record was judged by its embedding, too */
    uint8_t current;   /* of parts; the other one is the segment before it while opened */
    uint8_t n_starts;
    uint8_t starts[RECORD_SESSION_MAX]; /* first records of the segments */
    uint16_t p[RECORD_SESSION_MAX];     /* p_switch, as decided when the record came ... */
    bool embedded[RECORD_SESSION_MAX];  /* ... by its embedding, too */
    int32_t words_sum, question_sum, gap_sum, cosine_sum, cosine;
    uint8_t df[256];   /* records by vector bucket ... */
    uint8_t seen[256]; /* ... and the newest of them, counted from 1 */
    struct segment_part parts[2];
    uint32_t model; /* of the newest embedding; what follows is of this model only */
    uint8_t n_last, n_near;
    uint8_t last[SWITCH_NEAR];     /* newest embedded records first */
    int32_t near[SWITCH_NEAR];     /* of the newest record: NEAR_1, 2, 4, SEGMENT ... */
    int32_t near_sum[SWITCH_NEAR]; /* ... and of all so far */
    int16_t session[RECORD_EMBEDDING];
};

void segmenter_start(struct segmenter *s, struct switch_threshold threshold);
/* Adds record `first` + s->n of the log, where first is the session's first record. */
void segmenter_add(struct segmenter *s, const struct key_log *log, size_t first);
/* The segments so far; ret has room for s->n_starts, which is how many are written. */
void segmenter_segments(const struct segmenter *s, const struct key_log *log, size_t first,
                        struct segment *ret);

/*
 * Topic identity: greedy leader clustering of segments in time order. A segment joins the cluster
 * whose first segment is nearest (ties: the older cluster) if their cosine is at least 1/4, else it
 * starts one. When a 33rd is needed, the cluster with the fewest segments (ties: the oldest) is
 * given up and its segments become SEGMENT_OTHER, like segments without a vector.
 */
#define SEGMENT_CLUSTERS_MAX  32
#define SEGMENT_CLUSTERED_MAX 512 /* callers give the newest ones only */
#define SEGMENT_OTHER         UINT8_MAX

/* Writes the cluster number (0..31) of each segment to ret[n]. */
void segment_cluster(const struct segment *const *segments, size_t n, uint8_t *ret);
