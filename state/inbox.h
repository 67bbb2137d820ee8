/*
 * state/inbox.h - what came in by HTTP or was pulled, durable before it is acknowledged.
 *
 * One SQLite file, DIR/inbox.db (WAL, synchronous=FULL), written by one thread of its own. It is
 * the truth of SOURCE_INBOX, as the slot is that of SOURCE_POSTGRES: a position is (row id, index
 * in row << 8), row ids are dense and grow in commit order, and a row stays until every worker has
 * made its events durable. Deliveries are gathered and committed together (group commit): a
 * delivery, its events, its dedupe key and its cursor are one transaction, or none of them is.
 *
 * Dedupe: (source, delivery id), kept for keep_ids_us after they were last seen. A duplicate is
 * answered as if it had been stored, and is stored once.
 */
#pragma once

#include "core/buf.h"
#include "core/cleanup.h"
#include "core/clock.h"
#include "core/lsn.h"
#include "core/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct inbox;

struct inbox_config {
    const char *dir; /* the state directory */
    const struct clock *clock;
    int64_t commit_delay_us; /* a delivery waits at most so long for others; at most 50 ms */
    int64_t keep_ids_us;     /* of delivery ids; 7 days */
    uint64_t bytes_max;      /* of rows not yet durable in the workers; beyond: AGAIN */
    /* The newest row id that any worker has applied. When the file knows less (it was lost, or an
     * older copy was restored), ids go on from there: a worker would skip any it has seen. */
    uint64_t applied;
    /* Rows up to this id are readable: called by the writer after each commit that stored any. */
    void (*stored)(void *ctx, uint64_t id);
    void *stored_ctx;
};
/* Opens or creates the file and starts the writer. CORRUPT, IO; REFUSED: a newer format. */
MUST_CHECK enum status inbox_open(const struct inbox_config *cfg, struct inbox **ret,
                                  struct error *err);
/* Commits what was submitted, answers it, and ends the writer. NULL is a no-op. */
void inbox_close(struct inbox *b);
CLEANUP_FREEP(struct inbox, inbox_close);
/* OK while the writer runs. After a failed commit (disk, fsync) it is ended for good: every
 * delivery is answered INBOX_FAILED and the process must stop. A full disk is none: what cannot be
 * stored is answered INBOX_FAILED, and the next delivery tries again. */
enum status inbox_health(struct inbox *b, struct error *err);

enum inbox_outcome { INBOX_STORED, INBOX_DUPLICATE, INBOX_FAILED };
/* Called once per delivery by the writer's thread, after the commit; must not block. */
typedef void inbox_done_fn(void *ctx, enum inbox_outcome outcome);

/* Strings and bytes are copied by inbox_submit(). */
struct inbox_delivery {
    struct str source; /* name of the webhook or pull: [a-z0-9_-]{1,63} */
    struct str id;     /* of the delivery; len 0: there is none, and no duplicate is known */
    int64_t received_us;
    struct str events; /* n_events times: varint length + event_encode() bytes */
    uint32_t n_events; /* 0: only the id and the cursor are kept */
    struct str cursor; /* ptr not NULL: replaces the cursor of `source` in the same transaction */
};
/* AGAIN: the queue or the file is full, try later (503); nothing was taken and done is not called.
 * done may be NULL. LIMIT: larger than any delivery may be. */
MUST_CHECK enum status inbox_submit(struct inbox *b, const struct inbox_delivery *d,
                                    inbox_done_fn *done, void *ctx, struct error *err);

/* The cursor of a pull, appended to out. END: there is none. */
MUST_CHECK enum status inbox_cursor(struct inbox *b, struct str source, struct buf *out,
                                    struct error *err);

/* ---- the reading side: one thread ---- */
struct inbox_row {
    uint64_t id;
    struct str source;
    int64_t received_us;
    struct str events; /* as submitted; borrowed until the callback returns */
    uint32_t n_events;
};
/* Rows after `after` in order, at most `max` of them; fn's failure stops and is returned. END:
 * there is none yet. CORRUPT. */
MUST_CHECK enum status inbox_read(struct inbox *b, uint64_t after, uint32_t max,
                                  enum status (*fn)(void *ctx, const struct inbox_row *row,
                                                    struct error *err),
                                  void *ctx, struct error *err);
/* Everything up to id is durable in every worker: the rows may go. Any thread. */
void inbox_trim(struct inbox *b, uint64_t id);
/* The newest row ever stored, 0 = none. Any thread. */
uint64_t inbox_newest(struct inbox *b);

/* For /metrics and readyz. Any thread. */
struct inbox_view {
    uint64_t newest;       /* id of the newest row */
    uint64_t trimmed;      /* rows up to here are gone, or may go */
    uint64_t deleted;      /* rows up to here are gone */
    uint64_t bytes;        /* of rows that are still needed */
    uint64_t queued;       /* deliveries that wait for their commit */
    int64_t committed_us;  /* wall clock of the last commit, 0 = none */
    int64_t commit_max_us; /* the longest commit since it was opened */
    bool full;             /* the last commit failed for lack of room */
};
struct inbox_view inbox_view(struct inbox *b);

/* Nothing that was deleted is left in the WAL of the inbox of DIR. Any thread. AGAIN: somebody
 * reads it, try later. */
MUST_CHECK enum status inbox_scrub(const char *dir, struct error *err);

/* ---- from another process, for `dlq retry` ---- */
/* Appends one delivery to the inbox of DIR, which a running process may have open; that one finds
 * it by itself within a second. END: there is no inbox yet (no process ever had one). */
MUST_CHECK enum status inbox_append(const char *dir, const struct inbox_delivery *d,
                                    struct error *err);
