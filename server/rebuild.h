/*
 * server/rebuild.h - works on the requests in strategic_rebuild, one after the other, while
 * everything else goes on (ingest/rebuild_feed.h).
 *
 * A thread of its own with connections of its own: the stream never waits for it. What is durable
 * behind a request's cursor is done for good; a restart, a lost connection or a rewind of the
 * stream goes on there.
 */
#pragma once

#include "ingest/rebuild_feed.h"
#include "server/config.h"

struct rebuild;

struct rebuild_config {
    const struct config *cfg;
    struct rebuild_feed *feed; /* borrowed */
    /* Everything up to here is durable in all workers. Called by the thread. */
    lsn_t (*durable)(void *ctx);
    void *ctx;
};
MUST_CHECK enum status rebuild_start(const struct rebuild_config *cfg, struct rebuild **ret,
                                     struct error *err);
/* Ends the thread, whatever it waits for. NULL is a no-op. */
void rebuild_stop(struct rebuild *r);
/* Other mappings, copied: from the next request, or the next attempt at this one, on. Any thread.
 */
void rebuild_remap(struct rebuild *r, const struct mapping_set *mappings);
