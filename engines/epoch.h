/*
 * engines/epoch.h - what is learned from all users of a bot, closed once per UTC day.
 *
 * An epoch is one vector of counters (document frequencies, score distributions, gap tables, ...):
 * the sums of all days before its day, each day weighing 1/30 less than the one after it. It is an
 * input of F like the log (ENGINES.md 1.1 rule 4): closed at the barrier that no event of its day
 * passes, durable, the same in every partition, and never rewritten.
 *
 * While a day runs, every partition gathers what its own keys teach (struct epoch_delta, from
 * engine_ops.learn) in sums of its own. At the barrier the sums of all partitions are added, which
 * no order and no number of partitions can change:
 *
 *   epoch(D) = decay(epoch(the one before)) + EPOCH_SCALE * sum of the partitions' sums
 *   decay(v) = v - ceil(v / 30)
 *
 * ENGINES.md section 2 asks for the sums of the trailing 30 days. The decay, in integers and with a
 * mean life of 30 days, needs the epoch before instead of the thirty days before it, which is one
 * vector a day rather than thirty-one of them in every partition.
 *
 * Cells saturate. A bot that nobody talked to closes no epoch. Retractions do not rewrite epochs:
 * they hold only counts, no text.
 *
 * To learn something new: add a section to enum epoch_cell (append only, it is durable) and a
 * learn() to the engine.
 */
#pragma once

#include "core/buf.h"
#include "core/status.h"
#include "engines/kernels.h"
#include "engines/record.h"

#include <stdbool.h>
#include <stdint.h>

#define EPOCH_FORMAT 1
/* Records of the window are at most this old; one epoch before them must stay. */
#define EPOCH_KEPT_DAYS 32
/* Those of 30 days more stay on disk, so that a row that old can be computed again (`verify`). */
#define EPOCH_STORED_DAYS (EPOCH_KEPT_DAYS + 30)
#define EPOCH_SCALE       16 /* one event of yesterday counts this much */
#define EPOCH_DAYS        30 /* mean life of what was learned */

#define EPOCH_DF_BUCKETS        4096 /* token hash mod this */
#define EPOCH_FREQUENT          32
#define EPOCH_FREQUENT_MESSAGES 100
#define EPOCH_SCORES            64  /* p_switch, by 1/64 */
#define EPOCH_HOURS             168 /* kernel_hour_of_week() */
#define EPOCH_GAP_BINS          40
#define EPOCH_GAP_ROWS          48 /* contexts: class of the previous gap x class of the hour */
#define EPOCH_RECALL            32 /* predicted retention, by 1/32 */

enum epoch_cell {
    EPOCH_MESSAGES = 0, /* messages with text, of either side: N of the DF table */
    EPOCH_DF,           /* messages of either side that hold a token of the bucket */
    EPOCH_DF_END = EPOCH_DF + EPOCH_DF_BUCKETS - 1,
    EPOCH_USER_MESSAGES, /* user messages with text */
    EPOCH_STYLE_FLAGS,   /* of them, by enum cp_flag */
    EPOCH_STYLE_FLAGS_END = EPOCH_STYLE_FLAGS + 8 - 1,
    EPOCH_WORDS, /* of them, by hist_bucket(words) */
    EPOCH_WORDS_END = EPOCH_WORDS + HIST_BUCKETS - 1,
    EPOCH_MARKS, /* of them, by the marks they have (text.h); a sample, scaled up */
    EPOCH_MARKS_END = EPOCH_MARKS + RECORD_MARKS - 1,
    EPOCH_HOW, /* user messages by hour of the week */
    EPOCH_HOW_END = EPOCH_HOW + EPOCH_HOURS - 1,
    EPOCH_SWITCH_TEXT, /* p_switch of messages without embeddings */
    EPOCH_SWITCH_TEXT_END = EPOCH_SWITCH_TEXT + EPOCH_SCORES - 1,
    EPOCH_SWITCH_EMBEDDING, /* and of those with */
    EPOCH_SWITCH_EMBEDDING_END = EPOCH_SWITCH_EMBEDDING + EPOCH_SCORES - 1,
    EPOCH_GAPS, /* gaps between user messages, by context, then length */
    EPOCH_GAPS_END = EPOCH_GAPS + EPOCH_GAP_ROWS * EPOCH_GAP_BINS - 1,
    EPOCH_REPLIES_DECIDED, /* bot messages whose 30 minutes have passed ... */
    EPOCH_REPLIES,         /* ... with a reply */
    EPOCH_OUTREACH_RESOLVED,
    EPOCH_OUTREACH_REPLIED,
    EPOCH_RECALL_N, /* graded accesses, by the retention predicted before them ... */
    EPOCH_RECALL_N_END = EPOCH_RECALL_N + EPOCH_RECALL - 1,
    EPOCH_RECALL_HITS, /* ... and how many were remembered */
    EPOCH_RECALL_HITS_END = EPOCH_RECALL_HITS + EPOCH_RECALL - 1,
    EPOCH_CELLS
};

struct epoch {
    int32_t
        day; /* days since 1970-01-01 UTC: it holds for this day and after, up to the next one */
    uint32_t v[EPOCH_CELLS];
    /* Derived by epoch_list_add(): the buckets of the most frequent words, the smaller bucket of
     * equals first; none while fewer than EPOCH_FREQUENT_MESSAGES were seen. */
    uint32_t n_frequent;
    uint64_t frequent[EPOCH_DF_BUCKETS / 64];
};

/* What one event teaches; a full delta drops what does not fit. */
#define EPOCH_DELTA_MAX 192
struct epoch_delta {
    uint32_t n;
    struct {
        uint16_t cell;
        uint16_t count;
    } at[EPOCH_DELTA_MAX];
};
void epoch_learn(struct epoch_delta *d, unsigned cell, uint16_t count);

/*
 * The closed epochs of one bot, oldest first; owned by the partition worker, shared by its keys.
 *
 * The newest EPOCH_DENSE are kept as they are read, 27 KB each. Rows are computed with the newest
 * one; older ones are asked for their scores (epoch_switch_scores) and by records that come late.
 * So older ones are kept packed, typically in 6 KB (a bot with 40 messages a day) to 14 KB (1,200),
 * and unpacked on demand into one of EPOCH_DENSE slots that the list has from its first packed
 * epoch on. Not for several threads: even reading uses the slots.
 */
#define EPOCH_DENSE 2
struct epoch_packed;
struct epoch_slots;
struct epoch_list {
    uint64_t generation; /* changes whenever an epoch is added */
    bool keeps_all;      /* drops no old ones; set before the first is added */
    size_t n;
    struct epoch_entry {
        int32_t day;                 /* strictly rising */
        struct epoch *dense;         /* NULL: packed */
        struct epoch_packed *packed; /* NULL: dense */
    } * at;
    struct epoch_slots *slots; /* NULL: none is packed; written by epoch_at() */
};
/* The newest one whose day is at most `day`; NULL when there is none. The pointer holds until an
 * epoch is added to the list, or epoch_at() is asked for EPOCH_DENSE other old ones. */
const struct epoch *epoch_at(const struct epoch_list *l, int32_t day);
/* The cells EPOCH_SWITCH_TEXT ... EPOCH_SWITCH_EMBEDDING_END of the same epoch, without unpacking
 * it; NULL when there is none. The pointer holds until an epoch is added. */
const uint32_t *epoch_switch_scores(const struct epoch_list *l, int32_t day);
/* Takes ownership of e, also on failure (NOMEM, and the list is as it was). A day that is there
 * already is left as it is and e freed: epochs are never rewritten. Days older than the window's
 * first are dropped. */
MUST_CHECK enum status epoch_list_add(struct epoch_list *l, struct epoch *e);
size_t epoch_list_bytes(const struct epoch_list *l); /* of heap */
void epoch_list_deinit(struct epoch_list *l);

/* round(1000 ln((N + 1) / (df + 1))), 0 at least; without an epoch 1000 (ENGINES.md section 2).
 * An integer, so that what follows from it does not depend on the last bit of a logarithm. */
uint32_t epoch_idf_milli(const struct epoch *e, uint64_t token_hash);

/* The sums of one partition and day. */
struct epoch_sums {
    uint32_t v[EPOCH_CELLS]; /* saturating */
};
void epoch_sums_add(struct epoch_sums *s, const struct epoch_delta *d);
void epoch_sums_merge(struct epoch_sums *into, const struct epoch_sums *from);
bool epoch_sums_empty(const struct epoch_sums *s);
/* The next epoch; before = NULL: the first one. NOMEM. */
MUST_CHECK enum status epoch_close(const struct epoch *before, const struct epoch_sums *sums,
                                   int32_t day, struct epoch **ret);

/* Sparse encodings, durable: [EPOCH_FORMAT u8, number of cells, (cell distance, value)...]. */
MUST_CHECK enum status epoch_cells_encode(const uint32_t v[EPOCH_CELLS], struct buf *out);
/* CORRUPT: cut short, another format, or cells that no encoding has. */
MUST_CHECK enum status epoch_cells_decode(struct reader *r, uint32_t v[EPOCH_CELLS],
                                          struct error *err);
