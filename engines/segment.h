/*
 * engines/segment.h - topics inside one session: lexical segmentation and clustering (ENGINES.md
 * E4).
 *
 * Both are pure functions of the records given, in exact integer arithmetic. Vectors are the signed
 * feature hashes of mode L; no daily epoch exists yet, so idf is 1 and tau is fixed.
 *
 * Segmentation walks a session's messages in time order:
 * - every message adds its vector to the centroid of the current segment, a user message with
 * weight 2 and a bot message with weight 1;
 * - only a user message that is MSG_INFORMATIVE and has a vector can open a segment, and only when
 *   the current one already holds such a message: before that there is no topic to leave;
 * - it becomes a candidate boundary when cos(v, centroid) < 1/10, decided exactly:
 *   d <= 0 or 100 d^2 < |v|^2 |c|^2;
 * - the next informative user message decides: if it fits the old centroid (not below 1/10) and is
 *   closer to it than to the candidate's, both go back to the old segment; otherwise the boundary
 *   stands, and the message is tested against the new segment;
 * - a candidate that the session ends on counts as a boundary.
 * A session without a user message has no segment; otherwise segments cover the whole session.
 */
#pragma once

#include "engines/record.h"

#include <stddef.h>
#include <stdint.h>

struct segment {
    uint16_t first;     /* of its records, counted from the start of the session */
    uint16_t n;         /* records, bot messages included */
    uint16_t n_user;    /* at least 1 */
    uint16_t n_valence; /* user messages with an emotion, and their valence (-127..127 each) */
    int32_t valence_sum;
    /* The 32 largest entries of the centroid (ties: lower bucket first). */
    uint8_t n_vector;
    uint8_t bucket[RECORD_VECTOR];
    int16_t weight[RECORD_VECTOR];
    uint64_t norm2;
};

/* records: one session, n in 1..RECORD_SESSION_MAX. ret has room for n; returns how many were
 * written. */
size_t segment_session(const struct msg_rec *records, size_t n, struct segment *ret);

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
