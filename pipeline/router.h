/*
 * pipeline/router.h - the sending side of the links: numbers events densely per source and
 * partition, batches them into frames, keeps within each worker's credit, and knows what is
 * durable.
 *
 * Two threads give it events, one per source: the slot reader, which calls it through receiver_ops,
 * and the feed of the inbox (pipeline/inbox_feed.h). Neither waits for the other: one lock is held
 * for the length of a call, and no call waits. Events of both share frames and T; positions,
 * numbers, what is covered and what has to be read again are kept apart.
 *
 * Stateless across restarts: each worker's HELLO says what its state contains, and the first event
 * beyond that position gets the next pseq. Whatever a source gives again is dropped here by
 * position; the worker's own check of pseq makes certain.
 *
 * Durable: of each source the least, over all workers, of what their last commit recorded as
 * covered. Feedback to the server, and the trimming of the inbox, are never ahead of it.
 */
#pragma once

#include "core/clock.h"
#include "ingest/replication.h"
#include "pipeline/link.h"

struct router;

struct router_config {
    uint32_t workers;
    struct link **links; /* borrowed, workers of them, listening */
    const struct clock *clock;
};
MUST_CHECK enum status router_new(const struct router_config *cfg, struct router **ret,
                                  struct error *err);
void router_free(struct router *r);
CLEANUP_FREEP(struct router, router_free);

/* Waits until every worker has said HELLO; IO after deadline_us. Nothing else may be called before.
 */
MUST_CHECK enum status router_handshake(struct router *r, int64_t deadline_us, struct error *err);
/* For the slot reader. */
struct receiver_ops router_receiver(struct router *r);

/*
 * The receiver's operations, for every source. Events of one source come from one thread at a time,
 * with growing positions. AGAIN: no room, or midnight is being prepared: router_drained(), and
 * offer it again. IO: what was given of this source after router_durable() has to be given again.
 */
MUST_CHECK enum status router_event(struct router *r, enum source source, const struct event *e,
                                    struct position pos, int64_t commit_us, struct error *err);
/* Every event up to `covered` has been given: an LSN, or the id of a row of the inbox. */
MUST_CHECK enum status router_commit(struct router *r, enum source source, uint64_t covered,
                                     int64_t commit_us, struct error *err);
uint64_t router_durable(struct router *r, enum source source);
/* Of PostgreSQL alone. */
MUST_CHECK enum status router_rebuild(struct router *r, const struct rebuild_event *e,
                                      struct position pos, int64_t commit_us, struct error *err);
void router_idle(struct router *r, lsn_t wal_end, int64_t server_us);
/* Sends what is buffered, and what is covered to workers that have not heard it for a while.
 * Returns after how many microseconds it wants to be called again at the latest. */
int64_t router_drained(struct router *r);
/* An ACK is on its way up. Any thread; the router then looks for it, and otherwise only now and
 * then. */
void router_expect(struct router *r, uint32_t worker);
/*
 * PostgreSQL's time up to which the slot reader has read, as far as it is there: what T is without
 * the inbox. INT64_MAX: not known yet. Whoever says up to when rows show everything must not say
 * more.
 */
int64_t router_caught_up(struct router *r);
/* T: the newest time of either source, moved on by the passing of time while the input is idle. */
int64_t router_as_of(struct router *r);
