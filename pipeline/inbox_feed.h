/*
 * pipeline/inbox_feed.h - gives the rows of the inbox (state/inbox.h) to the router, as
 * SOURCE_INBOX.
 *
 * A thread of its own, so that what came in by HTTP moves on while the slot reader stands still,
 * reconnects or waits. Rows go in order of their ids, from the least that is durable in every
 * worker; the position of an event is (row id, index in row << 8), its commit time that at which we
 * received it. What every worker has made durable is trimmed from the inbox. After a crash, or when
 * a worker missed a frame, rows are given again, and positions decide what is new.
 *
 * A stored event that cannot be decoded, or is too large for a frame, becomes a dead letter with
 * its bytes; it never stops the feed.
 */
#pragma once

#include "core/cleanup.h"
#include "core/clock.h"
#include "core/status.h"
#include "pipeline/router.h"
#include "state/inbox.h"

#include <stdatomic.h>

/* What the state has seen of the inbox, over all stores (state/store.h). */
struct inbox_seen {
    uint64_t covered; /* every row up to here is in it: the least store_covered_inbox() */
    uint64_t newest;  /* the largest store_newest_inbox(); 0 = none */
};
/*
 * Do this state and this inbox belong together? To be asked between inbox_open(), whose `applied`
 * is seen.newest, and the first delivery. REFUSED: rows that this state has not seen were trimmed,
 * so it is an older copy; the text says what to do. An inbox that was lost, or is an older copy
 * itself, goes on with ids above what the state has seen; that is logged when rows may be gone with
 * it.
 */
MUST_CHECK enum status inbox_feed_fit(struct inbox *b, struct inbox_seen seen, struct error *err);

struct inbox_feed;

struct inbox_feed_config {
    struct inbox *inbox;   /* borrowed */
    struct router *router; /* borrowed */
    /* Borrowed. Nothing is given while it is false: set once the router's handshake is done and the
     * state is complete (no initial snapshot is loading). The inbox may be written to before. */
    const atomic_bool *begin;
    const struct clock *clock;
};
MUST_CHECK enum status inbox_feed_start(const struct inbox_feed_config *cfg,
                                        struct inbox_feed **ret, struct error *err);
/* There may be something to do: a row was stored, a worker acknowledged, `begin` is set. Any
 * thread, cheap. NULL is a no-op. */
void inbox_feed_wake(struct inbox_feed *f);
/* Ends the thread. Before the router and the inbox go. NULL is a no-op. */
void inbox_feed_stop(struct inbox_feed *f);
CLEANUP_FREEP(struct inbox_feed, inbox_feed_stop);
/* OK while it runs; else what ended it: CORRUPT or IO of the inbox, NOMEM. Any thread. */
enum status inbox_feed_health(struct inbox_feed *f, struct error *err);

/* For /metrics and readyz. Any thread. */
struct inbox_feed_view {
    uint64_t given;   /* rows up to this id have gone to the workers */
    uint64_t durable; /* rows up to this id are in the state */
};
struct inbox_feed_view inbox_feed_view(struct inbox_feed *f);
