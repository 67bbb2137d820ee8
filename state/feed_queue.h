/*
 * state/feed_queue.h - announcements that wait for the destinations of feed.webhooks: feed.db in
 * the state directory.
 *
 * What is appended is durable when the call returns. For each destination a key has one place: a
 * newer announcement takes over the place of the one that waits, with the tables of both and a
 * message number of its own; an erasure stays one until it is delivered. Beyond rows_max the oldest
 * of that destination becomes a dead letter, so nothing ever waits for a receiver. What has been
 * deleted is overwritten, and after an erasure has been settled the journal is emptied as well.
 *
 * Threads: any; one transaction at a time. Another process (warmpath dlq) may read and write beside
 * it. Errors: of db_error(); a full disk is an IO whose text says so.
 */
#pragma once

#include "core/buf.h"
#include "core/cleanup.h"
#include "core/clock.h"
#include "core/limits.h"
#include "state/announcement.h"

#include <stddef.h>

#define FEED_QUEUE_FILE "feed.db"
/* Kept per destination; the oldest go first. */
#define FEED_DEAD_MAX 10000

struct feed_queue;

struct feed_destination {
    const char *name;
    const char *bots, *tables; /* only these, separated by commas; "" = all */
};

/* Borrowed until feed_queue_close(). */
struct feed_queue_config {
    const char *dir;
    const struct feed_destination *destinations;
    size_t n_destinations;
    uint64_t rows_max; /* of one destination */
    const struct clock *clock;
};
/* Takes over the file, or makes it. What waits for a destination that is not configured any more
 * is deleted; *ret_dropped says how many there were. */
MUST_CHECK enum status feed_queue_open(const struct feed_queue_config *cfg, struct feed_queue **ret,
                                       uint64_t *ret_dropped, struct error *err);
void feed_queue_close(struct feed_queue *q); /* NULL is a no-op */
CLEANUP_FREEP(struct feed_queue, feed_queue_close);

/* For every destination that wants them. One transaction. */
MUST_CHECK enum status feed_queue_append(struct feed_queue *q, const struct announcement *list,
                                         size_t n, struct error *err);

struct feed_item {
    int64_t place;
    uint64_t message;
    int64_t queued_us;
    bool erases;
    char id[64]; /* the webhook-id: the same for every attempt, never used for another content */
    char json[LIMIT_NOTIFY_BYTES + 1];
    size_t json_len;
};
/* The first that waits for destination d behind this place, 0 = the first of all. END: none. */
MUST_CHECK enum status feed_queue_next(struct feed_queue *q, size_t d, int64_t after,
                                       struct feed_item *ret, struct error *err);
/* Grows with every append and feed_queue_wake(). */
uint64_t feed_queue_generation(struct feed_queue *q);
/* Until it is not `seen` any more, or us have passed. */
void feed_queue_wait(struct feed_queue *q, uint64_t seen, int64_t us);
void feed_queue_wake(struct feed_queue *q);

/* What has been delivered. One whose place has been taken over meanwhile stays. */
struct feed_settled {
    int64_t place;
    uint64_t message;
    bool erases;
};
MUST_CHECK enum status feed_queue_settle(struct feed_queue *q, size_t d,
                                         const struct feed_settled *done, size_t n,
                                         struct error *err);
/* Makes a dead letter of it, unless it has been taken over. */
MUST_CHECK enum status feed_queue_bury(struct feed_queue *q, size_t d, const struct feed_item *item,
                                       const char *why, struct error *err);

struct feed_view {
    uint64_t waiting, dead;
    int64_t oldest_us; /* wall clock: since when the first has been waiting; 0: none is */
};
MUST_CHECK enum status feed_queue_view(struct feed_queue *q, size_t d, struct feed_view *ret,
                                       struct error *err);

/* ---- from outside (warmpath dlq), with or without a process that runs ---- */

struct feed_letter {
    int64_t id;
    int64_t at_us;
    struct str destination;
    struct str why;
    struct str json;
};
/* Newest first; without a file: none. */
MUST_CHECK enum status feed_letters_read(const char *dir,
                                         enum status (*fn)(void *ctx, const struct feed_letter *l,
                                                           struct error *err),
                                         void *ctx, struct error *err);
/* again: puts it back into the queue. *ret_found: it was there. */
MUST_CHECK enum status feed_letter_remove(const char *dir, int64_t id, bool again, bool *ret_found,
                                          struct error *err);
