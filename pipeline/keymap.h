/*
 * pipeline/keymap.h - the keys a worker holds in memory: found by id or by (user, bot), kept in
 * order of last use for paging, and in order of first becoming dirty for the freshness it reports.
 */
#pragma once

#include "engines/key.h"
#include "pipeline/trigger.h"

struct held_bot;

/* What a row says of its time, for its timers. */
struct row_times {
    int64_t valid_us;
    int64_t visit_from_us, visit_until_us;
};

struct held_key {
    uint64_t id;
    uint64_t hash; /* of (user, bot) */
    uint64_t user_hash;
    uint32_t partition;
    struct key *key;
    struct held_bot *bot;               /* whose epochs the key borrows (bots.h) */
    uint64_t jseq;                      /* newest journal entry about this key */
    uint64_t page_jseq;                 /* newest entry that its durable page contains */
    int64_t scheduled_us;               /* due time that stands in the heap, TRIGGER_NEVER = none */
    int64_t active_us;                  /* time of the newest applied event */
    int64_t visit_from_us;              /* as the newest row of TABLE_ENGAGEMENT_OPPORTUNITIES */
    int64_t visit_until_us;             /* that PostgreSQL holds says; equal: nothing said */
    int64_t commit_us;                  /* source commit time of the newest applied event */
    uint64_t lsn;                       /* of the newest applied event that has one */
    uint64_t sent_version[TABLE_COUNT]; /* row_version in flight to the sink, 0 = none */
    struct row_times sent[TABLE_COUNT]; /* ... and what that row says */
    enum flush_reason reason[TABLE_COUNT];
    bool queued[TABLE_COUNT]; /* in the outbox queue, not yet handed to the sink */
    struct trigger_state trigger[TABLE_COUNT];
    size_t bytes; /* last measured size, counted in the map's total */
    struct held_key *next_by_id;
    struct held_key *next_by_name;
    struct held_key *next_by_user;               /* of users' keys alone */
    struct held_key *older, *newer;              /* least recently used order */
    struct held_key *dirty_before, *dirty_after; /* order of first unflushed event */
    bool in_dirty;
    bool from_inbox; /* it has had an event from there, and the store has been told */
    bool listed;     /* its page goes with the commit being built */
};

struct keymap {
    struct held_key **by_id;
    struct held_key **by_name;
    struct held_key **by_user;
    size_t n_buckets; /* a power of two */
    size_t n;
    size_t bytes; /* sum of held_key.bytes */
    struct held_key *oldest, *newest;
    struct held_key *dirty_first, *dirty_last;
};

uint64_t keymap_hash(struct str user_id, struct str bot_name);

MUST_CHECK enum status keymap_init(struct keymap *m);
void keymap_deinit(struct keymap *m); /* frees the keys it holds */
struct held_key *keymap_find(struct keymap *m, uint64_t id);
struct held_key *keymap_find_name(struct keymap *m, uint64_t hash, struct str user_id,
                                  struct str bot_name);
/* The next of the keys of a user that are held, in no order; after NULL the first. */
struct held_key *keymap_of_user(struct keymap *m, struct str user_id, const struct held_key *after);
/* Takes h (allocated with calloc, key set). */
MUST_CHECK enum status keymap_add(struct keymap *m, struct held_key *h);
void keymap_remove(struct keymap *m, struct held_key *h); /* frees it */
void keymap_use(struct keymap *m, struct held_key *h);    /* most recently used; measures bytes */
/* Keeps the dirty list in step with the trigger states and the outbox. */
void keymap_track_dirty(struct keymap *m, struct held_key *h);
