/*
 * engines/klog.h - what a key is made of, shared by the files that implement key.h.
 *
 * klog.c keeps the arrays and finds records; key.c decides what an event does; key_page.c writes
 * and reads the durable page. A record enters and leaves only through klog_insert_* /
 * klog_remove_*, which tell the engines, so that accumulators and log never part.
 */
#pragma once

#include "core/event.h"
#include "engines/arena.h"
#include "engines/dialogue.h"
#include "engines/key.h"
#include "engines/metrics.h"
#include "engines/retention.h"

#include <stddef.h>
#include <stdint.h>

/*
 * Most keys never have a row of every table (chats without memories): an engine's state is made
 * when the first record of its row_kinds enters, from the log as it is then. Since a state is a
 * cache of the log, it is the same as if it had been there from the start.
 */

#define FUTURE_SLACK_US      (INT64_C(5) * 60 * 1000000) /* later than T + this: not shown yet */
#define LIMIT_FUTURE_RECORDS 256                         /* of messages and of accesses, per key */

/* id -> time of the record, so that a record is found by binary search; used from a size on. */
struct id_index {
    struct id_entry {
        uint64_t id; /* 0: empty */
        int64_t t_us;
    } * entries;
    uint32_t n;
    uint32_t cap; /* power of two, or 0 while the array is small enough to be searched */
};

enum mark_kind { MARK_MESSAGE, MARK_MEMORY, MARK_PIN };

/* A deleted message or memory, or a pin that came before its memory. Sorted by (kind, id). */
struct mark {
    uint64_t id;
    uint64_t ver;
    int64_t t_us;
    uint8_t kind;
    uint8_t source;
};

struct key {
    struct key_log log; /* first: engines only have this */
    /* Allocations behind log's arrays; those start *_head records in, so that the oldest can leave
     * without moving the rest. *_all counts future records too. */
    struct msg_rec *messages;
    struct access_rec *accesses;
    struct mem_rec *memories;
    struct outreach_rec *outreach;
    struct mark *marks;
    uint32_t messages_head, messages_all, messages_cap;
    uint32_t accesses_head, accesses_all, accesses_cap;
    uint32_t memories_cap;
    uint32_t outreach_all, outreach_cap;
    uint32_t n_marks, marks_cap;
    struct id_index message_ids;
    struct id_index access_ids;
    struct arena arena;
    struct embedding *embeddings; /* by slot - 1; one without a model is free */
    uint32_t embeddings_cap;
    uint32_t embeddings_free; /* slots before it are taken */
    struct metrics *metrics;  /* bot keys; what log.metrics points to */
    int64_t first_left_us;    /* oldest message that left the log by age or cap; INT64_MAX = none */
    int64_t message_cut_us;   /* youngest message that the cap pushed out; INT64_MIN = none */
    int64_t access_cut_us;
    uint32_t bytes; /* of this allocation: the names lie behind the states */
    uint32_t n_states;
    enum engine_scope scope;
    uint64_t epoch_generation; /* of the epochs that states were made with */
    void *states[]; /* by engine; NULL until the key has a record that justifies a row of it */
};

/* The user has refused what this engine does. */
bool klog_is_suppressed(const struct key *k, const struct engine_ops *ops);
/* What was kept for a profile of the user goes, in the records and in the engines' states. */
void klog_forget_profile(struct key *k);

/* Makes the state of an engine from the whole log, if there is none yet. */
MUST_CHECK enum status klog_start_engine(struct key *k, size_t engine, struct error *err);

/* Room for what engines share at emission (dialogue.h, retention.h); given back by
 * klog_close_shared() when the key is so small that working it out again costs next to nothing. */
MUST_CHECK enum status klog_open_shared(struct key *k, struct error *err);
void klog_close_shared(struct key *k);

/* Room for the metrics of a bot key. */
MUST_CHECK enum status klog_open_metrics(struct key *k, struct error *err);
/* Tells the engines that a point entered. */
MUST_CHECK enum status klog_metric_entered(struct key *k, struct error *err);

/* Throws away what depends on epochs when one was closed since: it is made again when needed. */
MUST_CHECK enum status klog_follow_epochs(struct key *k, struct error *err);

/* Oldest time that is inside the window at T. */
int64_t klog_horizon_us(int64_t as_of_us);

/* Derives first_seen and truncated from what is in the log and what left it; last in every change.
 */
void klog_settle(struct key *k);

/* Position of (t, id) in the array, counting future records. */
size_t klog_message_position(const struct key *k, int64_t t_us, uint64_t id);
size_t klog_access_position(const struct key *k, int64_t t_us, uint64_t id);
size_t klog_memory_position(const struct key *k, uint64_t id);
/* NULL when there is none. */
const struct msg_rec *klog_find_message(const struct key *k, uint64_t id);
const struct access_rec *klog_find_access(const struct key *k, uint64_t id);
const struct mem_rec *klog_find_memory(const struct key *k, uint64_t id);
const struct outreach_rec *klog_find_outreach(const struct key *k, uint64_t id, uint8_t op);
struct mark *klog_find_mark(const struct key *k, enum mark_kind kind, uint64_t id);

/* The references in the record become the log's. Room for one more is made first. */
MUST_CHECK enum status klog_insert_message(struct key *k, const struct msg_rec *m,
                                           size_t *ret_index, struct error *err);
MUST_CHECK enum status klog_insert_access(struct key *k, const struct access_rec *a,
                                          size_t *ret_index, struct error *err);
MUST_CHECK enum status klog_insert_memory(struct key *k, const struct mem_rec *m, size_t *ret_index,
                                          struct error *err);
MUST_CHECK enum status klog_insert_outreach(struct key *k, const struct outreach_rec *o,
                                            size_t *ret_index, struct error *err);
/* Releases the record's references. */
void klog_remove_message(struct key *k, size_t index);
void klog_remove_access(struct key *k, size_t index);
void klog_remove_memory(struct key *k, size_t index);
/* Gives back the references of a record that did not become the log's. */
void klog_release_message(struct key *k, const struct msg_rec *m);
/* A slot for the embedding, to be released with its message. NOMEM. */
MUST_CHECK enum status klog_keep_embedding(struct key *k, const struct embedding *e,
                                           uint16_t *ret_slot, struct error *err);
void klog_remove_outreach(struct key *k, size_t index);
/* Replaces the record in place: engines see a retraction and an insertion. */
MUST_CHECK enum status klog_change_memory(struct key *k, size_t index, const struct mem_rec *m,
                                          struct error *err);
/* Shows the first future record to the engines. */
MUST_CHECK enum status klog_show_message(struct key *k, struct error *err);
MUST_CHECK enum status klog_show_access(struct key *k, struct error *err);
MUST_CHECK enum status klog_show_outreach(struct key *k, struct error *err);
/* Message `index` leaves for good: attempts that it answered remember. */
void klog_fold_reply(struct key *k, size_t index);

MUST_CHECK enum status klog_set_mark(struct key *k, const struct mark *m, struct error *err);
void klog_clear_mark(struct key *k, enum mark_kind kind, uint64_t id);
