/*
 * state/sink.h - writes cache rows to PostgreSQL: one thread, one connection, one transaction per
 * batch.
 *
 * Every transaction (DESIGN.md section 5, S5): reads its lease epoch row FOR SHARE (0 rows: FENCED,
 * nothing is written), upserts by unnest per table in key order, guarded by (row_version, as_of),
 * touches expiry of unchanged rows, writes its progress row, NOTIFYs strategic_cache, commits.
 * A failed connection is retried for ever with exponential back-off and jitter; the outcome of a
 * COMMIT that got no answer is unknown, and sending again is harmless because of the guard. A row
 * that PostgreSQL refuses for its data (SQLSTATE class 22 or 23) is found by bisecting the batch
 * and reported as failed; the others go through.
 * Every few minutes rows that expired long ago are deleted, a few hundred to a transaction
 * (strategic_sweep()); a later touch of one finds it MISSING.
 *
 * Threads: submit and poll may be called from any thread; rows are moved in.
 */
#pragma once

#include "core/clock.h"
#include "core/lsn.h"
#include "core/row.h"
#include "core/status.h"
#include "state/announcement.h"

struct sink;

/* How long a row counts as fresh: for the time to live, or also for as long as its engine says that
 * nothing changes (valid_until), which suits readers that look at expires_at alone. */
enum ttl_mode { TTL_STRICT, TTL_VALIDITY };

enum sink_outcome { SINK_WRITTEN, SINK_TOUCHED, SINK_MISSING, SINK_FAILED };

/* What became of one submitted item. MISSING: a touch found no row, send it whole. */
struct sink_result {
    uint64_t key_id;
    uint32_t worker;
    uint32_t table; /* index in the sink's table list */
    uint64_t row_version;
    uint64_t payload_hash;
    enum sink_outcome outcome;
    char reason[200]; /* SINK_FAILED */
};

/* What a bot is meant to be, as the worker knew it when it computed a row. */
struct sink_character {
    int64_t defined_us; /* source time; 0 = nobody has said */
    int64_t version;
    uint64_t definition; /* the same for the same version and traits, whenever they were said */
};

struct sink_item {
    uint64_t key_id;
    uint32_t worker;
    uint32_t table;
    uint32_t partition;
    bool touch;  /* only as_of, computed_at, expires_at, valid_until, row_version move */
    bool remove; /* the key has nothing left for this table: DELETE the row, guarded alike */
    bool first;  /* the key's first row: strategic_key_activity gets it too */
    int64_t
        cleared_us; /* the row may replace one that was invalidated no later than then, 0 = none */
    bool told;      /* the user has said whether bots may begin conversations: it gets that */
    bool opted_out; /* with first or told: they may not */
    /* A definition that strategic_bot_epoch does not have enters it in the row's own transaction,
     * so that what was computed before reads as invalid; a bot's row that does not know of one that
     * is there is entered as computed before it. */
    struct sink_character character;
    uint64_t payload_hash;
    int64_t erased_us;  /* newest request to forget the user that the row knows of, 0 = none */
    int64_t commit_us;  /* source commit time of the newest event covered, 0 = none: for latency */
    const char *reason; /* static string for NOTIFY: "count", "age", "idle", "predicate", "refresh",
                           "stop" */
    struct row row;     /* finished */
};

struct sink_config {
    const char *conninfo;
    const char *pipeline;
    uint64_t epoch;
    const struct table_def *tables;
    size_t n_tables;
    int64_t ttl_us; /* expires_at = computed_at + ttl, or what ttl_mode makes of it */
    enum ttl_mode ttl_mode;
    int64_t keep_us;           /* rows that expired longer ago are deleted; 0 = never */
    int64_t silence_us;        /* of the server, until the connection counts as lost; 0 = 60 s */
    size_t queue_rows_max;     /* submit() answers AGAIN beyond this */
    const struct clock *clock; /* wall time, for latency */
    const char *slot;          /* shown in strategic_progress; NULL = leave as it is */
    lsn_t slot_birth;          /* likewise; LSN_INVALID = leave as it is */
    /* Called from the sink's thread when results for a worker have arrived; may be NULL. */
    void (*wake)(void *ctx, uint32_t worker);
    void *wake_ctx;
    /* Called from the sink's thread with what a transaction has announced, after its COMMIT and
     * before any worker hears of its results: so whatever a crash cuts off here is computed and
     * announced again. A failure stops the sink. May be NULL. */
    enum status (*committed)(void *ctx, const struct announcement *list, size_t n,
                             struct error *err);
    void *committed_ctx;
};

MUST_CHECK enum status sink_start(const struct sink_config *cfg, struct sink **ret,
                                  struct error *err);
/* Flushes what was submitted for at most deadline_us (a duration), then stops and drops the rest;
 * frees s, so that results not taken before are gone too. NULL is a no-op. */
void sink_stop(struct sink *s, int64_t deadline_us);

size_t sink_room(struct sink *s);
/* Moves the rows of items in, all or none. AGAIN: more than sink_room(); n must not exceed
 * queue_rows_max. An item counts against the queue until its result is taken by sink_poll().
 * FENCED, REFUSED: see sink_health(). */
MUST_CHECK enum status sink_submit(struct sink *s, struct sink_item *items, size_t n);
/* Takes results for one worker, at most max. */
size_t sink_poll(struct sink *s, uint32_t worker, struct sink_result *out, size_t max);
/* Called about once a second by the owner: written with the heartbeat of each partition
 * (strategic_processor) in a transaction of its own if no batch carries it. */
void sink_progress(struct sink *s, const int64_t caught_up_to_us[LIMIT_PARTITIONS],
                   lsn_t covered_lsn, uint64_t events_applied);
/* OK, or what stopped it for good: FENCED, or REFUSED (schema or rights). */
enum status sink_health(struct sink *s, struct error *err);
/* The last transaction failed and will be tried again; err says when ("retrying in 200 ms: ...")
 * and why. Items are safe in the queue.
 */
bool sink_retrying(struct sink *s, struct error *err);
/* Deleting dead rows failed the last time; err says why. It is tried again later, and nothing else
 * waits for it. */
bool sink_sweep_failed(struct sink *s, struct error *err);
/* Latency of rows with commit_us, source commit to sink commit, since start: p50, p99 in
 * microseconds; returns how many. */
uint64_t sink_latency(struct sink *s, int64_t *ret_p50_us, int64_t *ret_p99_us);
