/* pipeline/partition_internal.h - the state shared by partition.c, partition_keys.c,
 * partition_character.c, partition_commit.c, partition_epochs.c, partition_erase.c,
 * partition_rebuild.c and
 * partition_request.c; nobody else includes it. */
#pragma once

#include "pipeline/bots.h"
#include "pipeline/entry.h"
#include "pipeline/heap.h"
#include "pipeline/id_set.h"
#include "pipeline/keymap.h"
#include "pipeline/outbox.h"
#include "pipeline/partition.h"
#include "pipeline/tombs.h"

#define PAGE_FORMAT     2   /* 1 had no requests, validity and visits; it is read */
#define PAGE_DUE_OUTBOX 0   /* due time of a page whose row is on its way: look at once */
#define FOLD_SLICE      256 /* pages written per commit while the journal is being folded */
#define FOLD_BYTES      ((size_t)4 << 20) /* ... or as many as fill this */
#define EVICT_SLICE     4096          /* pages written per commit while over the memory budget */
#define SUBMIT_SLICE    64            /* rows computed and handed over at a time */
#define CLOCK_SLACK_US  US_PER_SECOND /* a clock that is set back by less is only slow */
#define REBUILT_WEIGHT  16 /* a rebuilt key counts like so many events towards a commit */
#define EPOCH_WEIGHT    16 /* a closed epoch counts like so many events towards a commit */

struct dead_letter_text {
    struct store_dead_letter record; /* its strings point into text */
    char *text;
};

/* Bytes of a closed epoch that is not yet stored: name and sums in partition.new_epoch_bytes. */
struct new_epoch {
    int32_t day;
    size_t at, name_len, bytes_len;
};

/* The key that is being made again (partition_rebuild.c). */
struct shadow {
    struct key *key;      /* NULL: none is */
    struct held_bot *bot; /* whose epochs it borrows */
    uint32_t types;
};

/* A request to forget that is not finished. */
struct open_erasure {
    struct store_erasure e; /* its strings point into names */
    char *names;
    bool scrubbed;  /* nothing that e.step says is gone is left in the WAL */
    bool submitted; /* the port works on it */
    bool moved;     /* e.step goes with the next commit */
};

struct partition {
    struct partition_config cfg;
    struct keymap keys;
    struct botmap bots;
    struct store_day day; /* as durable: days are changed by commits of their own */
    struct heap timers;
    int64_t tick_us; /* wall clock, the newest seen; while recovering: not known, INT64_MAX */
    struct outbox outbox;

    struct store_applied applied[SOURCE_COUNT][LIMIT_PARTITIONS];
    uint64_t covered[SOURCE_COUNT];
    uint64_t covered_durable[SOURCE_COUNT];
    int64_t as_of_us;
    bool catching_up;
    uint64_t next_key_id;
    uint64_t jseq; /* newest entry, durable or not */
    uint64_t row_counter;
    size_t in_flight; /* rows the sink has not answered for */

    /* Of the commit that is being gathered. */
    struct buf entries;
    uint64_t n_entries;
    uint32_t n_events;
    bool lazy;
    struct dead_letter_text *dead_letters;
    size_t n_dead_letters, cap_dead_letters;
    struct new_epoch *new_epochs;
    size_t n_new_epochs, cap_new_epochs;
    struct buf new_epoch_bytes;
    uint64_t *inbox_keys; /* keys with their first event from the inbox */
    size_t n_inbox_keys, cap_inbox_keys;
    uint64_t *replaced; /* keys whose pages must go with it */
    size_t n_replaced, cap_replaced;
    int64_t replaced_us;
    struct shadow shadow;

    /* The folding pass: keys in order, until every entry up to fold_target is in a page. */
    uint64_t *fold_ids;
    size_t n_fold, fold_at;
    uint64_t fold_target;

    struct tombs tombs;
    struct open_erasure *erasures; /* in order of their ids */
    size_t n_erasures, cap_erasures;
    struct open_erasure *erasing; /* goes with the commit being built; NULL: none */
    bool erasing_home;            /* it takes the user's keys with it */
    struct id_set erased_ids;     /* keys whose journal entries go with it */

    uint64_t read[2][RECORD_KINDS]; /* partition_figures() */
    struct event_arena *arena;
    struct buf scratch;
};

/* The time of an event that was read at now_us has moved the key on. */
static inline void partition_note_active(struct held_key *h, int64_t event_us, int64_t now_us)
{
    int64_t us = event_us < now_us ? event_us : now_us;
    if (us > h->active_us)
        h->active_us = us;
}

/* PostgreSQL holds the row that says so. */
static inline void partition_note_times(struct held_key *h, uint32_t table,
                                        const struct row_times *times)
{
    h->trigger[table].valid_us = times->valid_us;
    if (table != TABLE_ENGAGEMENT_OPPORTUNITIES)
        return;
    h->visit_from_us = times->visit_from_us;
    h->visit_until_us = times->visit_until_us;
}

/* Memory that keys and epochs take. */
static inline size_t partition_bytes(const struct partition *p)
{
    return p->keys.bytes + p->bots.bytes;
}

/* ---- partition_keys.c ---- */
/* Finds, pages in or creates the key; a new one is journaled. */
MUST_CHECK enum status partition_get_key(struct partition *p, uint32_t partition,
                                         struct str user_id, struct str bot_name,
                                         struct held_key **ret, struct error *err);
/* The same for a key that exists, else END: what only concerns a key's rows does not make one. */
MUST_CHECK enum status partition_find_key(struct partition *p, struct str user_id,
                                          struct str bot_name, struct held_key **ret,
                                          struct error *err);
/* Calls fn for every key of the user in this partition's store, held, paged out or only in the
 * journal, in key id order; an event without a bot concerns them all. fn may journal and drop keys,
 * not commit; its failure stops and is returned. */
typedef enum status partition_key_fn(void *ctx, struct held_key *h, struct error *err);
MUST_CHECK enum status partition_each_of_user(struct partition *p, struct str user_id,
                                              partition_key_fn *fn, void *ctx, struct error *err);
/* In memory or paged out. */
bool partition_has_key(struct partition *p, struct str user_id, struct str bot_name);
/* The key of an id that exists; pages it in if need be. */
MUST_CHECK enum status partition_load_key(struct partition *p, uint64_t id, struct held_key **ret,
                                          struct error *err);
MUST_CHECK enum status partition_add_key(struct partition *p, uint64_t id, uint32_t partition,
                                         struct key *key, struct held_key **ret, struct error *err);
/* Out of memory, whatever its page says. */
void partition_drop_key(struct partition *p, struct held_key *h);
MUST_CHECK enum status partition_encode_page(const struct held_key *h, struct buf *out);
struct trigger_policy partition_policy(const struct partition *p, const struct held_key *h,
                                       enum table_id table);
struct trigger_due partition_due(const struct partition *p, const struct held_key *h,
                                 int64_t now_us, enum table_id *ret_table);
/* Puts the key's next due time into the heap if it is earlier than what stands there. */
MUST_CHECK enum status partition_schedule(struct partition *p, struct held_key *h, int64_t now_us,
                                          struct error *err);
/* A broadcast definition of a bot: rows of its users who are talking become due (see the file). */
MUST_CHECK enum status partition_character(struct partition *p, const struct event *e,
                                           int64_t now_us, struct error *err);
struct sink_character partition_character_of(int64_t at_us, const struct character_feature *f);
MUST_CHECK enum status partition_journal(struct partition *p, const struct entry *e,
                                         struct held_key *h, struct error *err);
/* That the key has an event from the inbox goes with the next commit, unless it is known. */
MUST_CHECK enum status partition_note_inbox(struct partition *p, struct held_key *h,
                                            struct error *err);
MUST_CHECK enum status partition_queue_row(struct partition *p, struct held_key *h,
                                           enum table_id table, struct error *err);
/* Takes the event out of play with its reason; bytes may be STR_NULL. */
MUST_CHECK enum status partition_dead_letter(struct partition *p, enum source source,
                                             struct position pos, int64_t at_us, struct str where,
                                             struct str reason, struct str bytes,
                                             struct error *err);

/* ---- partition_epochs.c ---- */
/* Finds or loads a bot. It stays while a key borrows its epochs, and longer while there is room. */
MUST_CHECK enum status partition_hold_bot(struct partition *p, struct str name,
                                          struct held_bot **ret, struct error *err);
/* Drops a bot that no key borrows from, when room is needed. */
void partition_release_bot(struct partition *p, struct held_bot *bot);
MUST_CHECK enum status partition_teach(struct partition *p, struct held_bot *bot,
                                       const struct epoch_delta *delta, struct error *err);

/* ---- partition.c ---- */
/* The row of the table is due now. */
MUST_CHECK enum status partition_flush(struct partition *p, struct held_key *h, enum table_id table,
                                       enum flush_reason reason, int64_t now_us, struct error *err);

/* ---- partition_request.c ---- */
/* An EVENT_REQUEST, for the key or keys it names. */
MUST_CHECK enum status partition_request(struct partition *p, const struct event *e, int64_t now_us,
                                         struct error *err);
/* What the journaled step does to the key. */
void partition_note_request(const struct partition *p, struct held_key *h, enum request_op op,
                            int64_t token_us, int64_t now_us);

/* ---- partition_rebuild.c ---- */
/* One step of a key that is rebuilt. */
MUST_CHECK enum status partition_rebuild(struct partition *p, const struct frame_event *f,
                                         int64_t now_us, struct error *err);
void partition_drop_shadow(struct partition *p);

MUST_CHECK enum status partition_note_replaced(struct partition *p, const struct held_key *h,
                                               int64_t now_us, struct error *err);

/* ---- partition_erase.c ---- */
MUST_CHECK enum status partition_erase_open(struct partition *p, struct error *err);
void partition_erase_close(struct partition *p);
/* Everything of the user leaves memory; the rest leaves with the commit that follows at once. */
MUST_CHECK enum status partition_erase(struct partition *p, const struct frame_event *f,
                                       const struct event *e, int64_t now_us, struct error *err);
/* Goes on with what is outside of the state. Only at a commit boundary. */
MUST_CHECK enum status partition_erase_tick(struct partition *p, struct error *err);
/* What the commit being built erases, and how far erasures are: array of n_erasures. */
void partition_erase_list(struct partition *p, struct store_erasing *ret_erase,
                          struct store_erasure *ret_moved, size_t *ret_n);
/* It is durable. */
void partition_erase_committed(struct partition *p);
/* Whether an event of the user with this time is from before the user was forgotten. */
bool partition_is_forgotten(const struct partition *p, struct str user_id, struct str bot_name,
                            int64_t at_us);
/* The newest token with which the user was forgotten, 0: never. */
int64_t partition_erased_token(const struct partition *p, struct str user_id, struct str bot_name);

/* ---- partition_commit.c ---- */
/* A commit without rows that closes or opens a day (0: it does not). */
MUST_CHECK enum status partition_commit_day(struct partition *p, int32_t close_day,
                                            int32_t open_day, struct error *err);
MUST_CHECK enum status partition_take_results(struct partition *p, int64_t now_us,
                                              struct error *err);
