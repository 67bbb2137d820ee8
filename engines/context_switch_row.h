/*
 * engines/context_switch_row.h - from the segments of a key to the columns of E4 (ENGINES.md E4).
 *
 * The engine and the oracle find segments and topics in separate code and fill this struct; what
 * they find must be equal to the last integer. Everything that follows is computed here, once.
 */
#pragma once

#include "core/limits.h"
#include "core/row.h"

#define CS_RECENT_MAX 16
#define CS_NODES_MAX  16
#define CS_EDGES_MAX  48
#define CS_BINS       8  /* messages in a segment: 1, 2, 3, 4, 5-6, 7-9, 10-14, 15 or more */
#define CS_TOPICS     33 /* 0..31 in order of their first segment, and CS_OTHER */
#define CS_OTHER      32 /* what is in none of them: only the bot spoke, no words, given up */

struct cs_segment {
    uint8_t topic;
    bool ends_session;
    uint32_t messages;  /* at least 1 */
    uint32_t n_valence; /* user messages with an emotion, -127..127 each */
    int32_t valence_sum;
    int64_t start_us;
    int64_t end_us;   /* its last message */
    int64_t until_us; /* the next segment's start, or its own last message when the session ends */
};

struct cs_counts {
    int64_t as_of_us;
    bool truncated;
    uint32_t n_user;
    uint32_t n_text;   /* user messages with at least one character */
    bool emotional;    /* a user message has an emotion */
    bool embedded;     /* a message has an embedding: segments follow from meaning, too */
    bool session_open; /* the last message is younger than a session's gap */
    size_t n_recent;   /* newest first */
    struct cs_segment recent[CS_RECENT_MAX];
    struct {
        char text[LIMIT_LABEL_BYTES];
        size_t len;
    } labels[CS_OTHER];
    /* What cs_segment() adds up. A trial is a message that could have opened a topic, by how many
     * the segment held before it; a hit is one that did. */
    uint32_t trials[CS_BINS];
    uint32_t hits[CS_BINS];
    uint32_t switches;
    uint32_t n_timed; /* all segments but one-message ends of a session, and how long they took */
    int64_t timed_us;
    uint32_t node_n[CS_TOPICS];
    int64_t node_us[CS_TOPICS];
    /* And what the caller does. */
    int64_t active_us;                    /* session spans, one minute at least each */
    uint32_t edges[CS_TOPICS][CS_TOPICS]; /* from one topic to another one within a session */
    uint32_t returns; /* runs behind another one, when the topics at both sides are known ... */
    uint32_t moved;   /* ... and differ */
    /* Moments at which the counts change by themselves; INT64_MAX = never. */
    int64_t next_expiry_us;
    int64_t session_close_us;
};

size_t cs_bin(uint32_t messages);
/* Counts one segment. */
void cs_segment(struct cs_counts *c, const struct cs_segment *s);
/* Fills the five columns and rates the row. */
MUST_CHECK enum status cs_write(const struct cs_counts *c, struct row *row, struct error *err);
