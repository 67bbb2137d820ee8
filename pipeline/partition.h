/*
 * pipeline/partition.h - the partition worker: a pure core with impure edges.
 *
 * It is given events, time and answers; it gives back store commits and rows, through the store
 * handle and the sink_port. It owns no thread, socket or clock, so a simulator can drive it.
 *
 * Exactly once (DESIGN.md section 5):
 *   S2  partition_event() applies in memory and appends a journal entry;
 *   S3  partition_commit() makes entries, positions, fired triggers and what is covered of each
 *       source durable in ONE store transaction;
 *   S4  only after it covered_durable moves, which is all that the slot and the inbox are told;
 *   S5  right after the same commit, before anything else is applied, rows of fired triggers are
 *       computed from exactly the durable state and handed to the sink; the journal holds key and
 *       table, no payload. A row that PostgreSQL has no room for stays in the outbox and is
 * computed at a later commit boundary, from the newer state; S6  the sink's answer goes into the
 * next commit. After a crash, entries beyond each key's page are applied again to exactly the old
 * state, and what is still in the outbox is computed again.
 */
#pragma once

#include "core/event.h"
#include "engines/key.h"
#include "pipeline/frame.h"
#include "pipeline/trigger.h"
#include "state/sink.h"
#include "state/store.h"

struct partition;

/* Where rows go. submit takes all or none (AGAIN) and moves the rows. */
struct sink_port {
    size_t (*room)(void *ctx);
    enum status (*submit)(void *ctx, struct sink_item *items, size_t n);
    size_t (*poll)(void *ctx, uint32_t worker, struct sink_result *out, size_t max);
    void *ctx;
};
/*
 * A user that is forgotten (partition_erase.c) has left the state with the commit of the event that
 * asked for it. What is outside of it, cache rows, inbox and the receipt, is done by others, in two
 * steps that can be repeated: after the first one the names go from the state as well.
 */
struct erase_task {
    uint32_t worker, workers;
    uint64_t id;            /* in this worker */
    enum erasure_step step; /* ERASURE_STATE: remove rows, store what was counted; ERASURE_ROWS:
                               this worker is done with it */
    struct str user_id, bot_name; /* ERASURE_STATE only */
    int64_t token_us;
    uint64_t row_version; /* rows below it */
    uint64_t receipt;     /* ERASURE_ROWS: what the first step answered */
    struct erasure_counts counts;
};
struct erase_result {
    uint64_t id;
    enum erasure_step step; /* the task's */
    uint64_t receipt;
};
/* submit copies; AGAIN: no room now. submit NULL: there is nothing outside. */
struct erase_port {
    enum status (*submit)(void *ctx, const struct erase_task *task);
    size_t (*poll)(void *ctx, uint32_t worker, struct erase_result *out, size_t max);
    void *ctx;
};

/* One that never has room: rows stay due in the outbox. */
extern const struct sink_port sink_port_closed;

struct partition_config {
    uint32_t worker;
    uint32_t workers;
    struct store *store; /* borrowed */
    struct sink_port sink;
    struct erase_port erase;
    /* The policy of one table for one bot. */
    struct trigger_policy (*policy)(void *ctx, enum table_id table, struct str bot_name);
    void *policy_ctx;
    size_t memory_max;       /* bytes of keys to hold; colder ones are paged out */
    int64_t ttl_us;          /* lifetime of a row: touches renew what is older than half of it */
    int64_t catch_up_lag_us; /* beyond this lag only max_age triggers stay */
    uint64_t epoch;          /* row_version = epoch << 40 | counter */
    /* The engine to trace and where its lines go (`replay --trace`); NULL: none. */
    const struct engine_ops *trace;
    void (*trace_line)(void *ctx, struct str line);
    void *trace_ctx;
};

/* Recovers what the store holds. */
MUST_CHECK enum status partition_open(const struct partition_config *cfg, int64_t now_us,
                                      struct partition **ret, struct error *err);
void partition_close(struct partition *p); /* does not commit */
CLEANUP_FREEP(struct partition, partition_close);

/* One event of the frame. Rule: pseq <= applied is dropped, applied + 1 is applied, a gap is AGAIN:
 * ask for a rewind; so is an event in the middle of a change of day. Content that cannot be used
 * becomes a dead letter, never an error. */
MUST_CHECK enum status partition_event(struct partition *p, const struct frame_event *f,
                                       int64_t now_us, struct error *err);
/* The same for an event that is already decoded (`replay`). */
MUST_CHECK enum status partition_apply(struct partition *p, const struct frame_event *f,
                                       const struct event *e, int64_t now_us, struct error *err);
/* Everything up to covered has been given, by source; T is at least as_of_us. */
void partition_covered(struct partition *p, const uint64_t covered[SOURCE_COUNT], int64_t as_of_us);
/* Appends the line of a message as it stands with hindsight (key_trace_final()), or returns END. */
MUST_CHECK enum status partition_trace_final(struct partition *p, uint32_t partition,
                                             struct str user_id, struct str bot_name, struct str id,
                                             struct buf *out, struct error *err);
/* Fires the timers that are due and takes the sink's answers. */
MUST_CHECK enum status partition_tick(struct partition *p, int64_t now_us, struct error *err);
MUST_CHECK enum status partition_commit(struct partition *p, int64_t now_us, struct error *err);
/*
 * The change of day (engines/epoch.h). Before T enters a day it has not been in, somebody who sees
 * all partitions (the router, `replay`) takes them through these steps, where day is the one after
 * the day T is in:
 *   1. partition_close_day() of all: what this day taught becomes durable as the parts of `day`;
 *   2. partition_day_parts() of all, added up by bot;
 *   3. partition_learned() for each bot's sums, then partition_open_day(), in every partition.
 * Only then may an event with a later T follow. Every step may be repeated from 1 on, after a crash
 * or because an answer was lost: a closed day gives the same parts again, and an epoch that exists
 * stays as it is. No rows are computed between 1 and 3. PROTOCOL: another day is under way.
 */
MUST_CHECK enum status partition_close_day(struct partition *p, int32_t day, struct error *err);
MUST_CHECK enum status partition_day_parts(struct partition *p, int32_t day, store_part_fn *fn,
                                           void *ctx, struct error *err);
MUST_CHECK enum status partition_learned(struct partition *p, int32_t day, struct str bot,
                                         const struct epoch_sums *sums, struct error *err);
MUST_CHECK enum status partition_open_day(struct partition *p, int32_t day, struct error *err);

/* Computes queued rows and hands them over as far as the sink has room. Only at a commit boundary:
 * no event may be uncommitted. partition_commit() does it by itself. */
MUST_CHECK enum status partition_submit(struct partition *p, struct error *err);
/* Makes every dirty row due, for a graceful stop. */
MUST_CHECK enum status partition_flush_all(struct partition *p, int64_t now_us, struct error *err);
/* Writes every key's page, so that the journal is empty: before a change of the worker count, and
 * at a graceful stop. Commits. */
MUST_CHECK enum status partition_fold_all(struct partition *p, int64_t now_us, struct error *err);

/* What the caller needs to decide when to commit and how long to wait. */
struct partition_view {
    uint32_t uncommitted; /* events applied since the last commit */
    bool lazy;            /* sink answers or a covered LSN wait for a commit, without hurry */
    bool queued;          /* rows wait for room in the sink */
    bool in_flight;       /* rows wait for the sink's answer */
    int64_t next_us;      /* the next timer, TRIGGER_NEVER = none */
    uint64_t covered_durable[SOURCE_COUNT];
    int64_t as_of_us;
    int64_t caught_up_us; /* source time up to which every event is reflected in rows */
    size_t keys, key_bytes, journal_bytes; /* key_bytes: with the epochs they borrow */
    struct store_day day;
};
struct partition_view partition_view(const struct partition *p);
/* What is only looked at now and then, for /metrics. */
struct partition_figures {
    uint64_t read[2][RECORD_KINDS]; /* events since the start by engine_scope and kind of record */
    struct store_letters letters;
};
struct partition_figures partition_figures(const struct partition *p);
struct store_applied partition_applied(const struct partition *p, enum source source,
                                       uint32_t partition);

/* Calls fn for every key, paged out ones too, in key id order; for `replay` and `inspect`. */
MUST_CHECK enum status partition_each_key(struct partition *p,
                                          enum status (*fn)(void *ctx, struct key *key,
                                                            struct error *err),
                                          void *ctx, struct error *err);
