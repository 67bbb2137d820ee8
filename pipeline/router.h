/*
 * pipeline/router.h - the sending side of the links: numbers events densely per partition, batches
 * them into frames, keeps within each worker's credit, and knows what is durable.
 *
 * Stateless across restarts: each worker's HELLO says what its state contains, and the first event
 * beyond that position gets the next pseq. Whatever the slot sends again is dropped here by
 * position; the worker's own check of pseq makes certain. Runs on the thread of the reader, which
 * calls it through receiver_ops.
 *
 * Durable LSN: the least, over all workers, of the covered LSN their last commit recorded. Feedback
 * to the server is never ahead of it.
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
    enum source source;
};
MUST_CHECK enum status router_new(const struct router_config *cfg, struct router **ret,
                                  struct error *err);
void router_free(struct router *r);
CLEANUP_FREEP(struct router, router_free);

/* Waits until every worker has said HELLO; IO after deadline_us. */
MUST_CHECK enum status router_handshake(struct router *r, int64_t deadline_us, struct error *err);
struct receiver_ops router_receiver(struct router *r);

/* The receiver's operations, for callers that are not the slot reader (`replay`, tests). */
MUST_CHECK enum status router_event(struct router *r, const struct event *e, struct position pos,
                                    int64_t commit_us, struct error *err);
MUST_CHECK enum status router_rebuild(struct router *r, const struct rebuild_event *e,
                                      struct position pos, int64_t commit_us, struct error *err);
MUST_CHECK enum status router_commit(struct router *r, lsn_t end_lsn, int64_t commit_us,
                                     struct error *err);
void router_idle(struct router *r, lsn_t wal_end, int64_t server_us);
/* Sends what is buffered, and the covered LSN to workers that have not heard it for a while.
 * Returns after how many microseconds it wants to be called again at the latest. */
int64_t router_drained(struct router *r);
lsn_t router_durable(struct router *r);
/* An ACK is on its way up. Any thread; the router then looks for it, and otherwise only now and
 * then. */
void router_expect(struct router *r, uint32_t worker);
/* T: the newest source time known, moved on by the passing of time while the input is idle. */
int64_t router_as_of(const struct router *r);
