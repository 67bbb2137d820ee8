/*
 * engines/topics.h - which topics a user likes or dislikes: clusters of segments by mean valence.
 *
 * A topic is labelled with its three heaviest tokens (user messages count twice, bot messages once;
 * ties: by their bytes), joined by blanks, and listed from CP_TOPIC_MIN emotional user messages on.
 */
#pragma once

#include "engines/conversation_patterns_row.h"
#include "engines/record.h"
#include "engines/segment.h"

struct topics {
    size_t n; /* in time order, the newest SEGMENT_CLUSTERED_MAX of a key */
    const struct segment *segments[SEGMENT_CLUSTERED_MAX];
    size_t starts[SEGMENT_CLUSTERED_MAX];   /* of each one's records in log->messages */
    uint8_t cluster[SEGMENT_CLUSTERED_MAX]; /* filled by topics_rank() */
};

/* The label of one cluster. NOMEM. */
MUST_CHECK enum status topics_label(const struct key_log *log, const struct topics *t,
                                    size_t cluster, char ret[LIMIT_LABEL_BYTES], size_t *ret_len);
/* Fills positive[] and negative[] of out, both ordered by distance from 0; equal means by size,
 * then the topic that began first. NOMEM is the only failure. */
MUST_CHECK enum status topics_rank(const struct key_log *log, struct topics *t,
                                   struct cp_counts *out);
