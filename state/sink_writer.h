/*
 * state/sink_writer.h - one connection of the sink and one transaction on it (private to state/).
 *
 * A transaction is one libpq pipeline: BEGIN, fence, one upsert, delete and touch per cache table,
 * first-seen keys, progress, heartbeats, notifications, COMMIT, all sent without waiting, so that
 * it costs one round trip. The fence raises WP001 when the epoch has moved on; that error aborts
 * the rest of the pipeline and the transaction with it, COMMIT included.
 *
 * Not thread-safe: the sink's thread owns it.
 */
#pragma once

#include "core/limits.h"
#include "core/pg.h"
#include "core/pg_array.h"
#include "core/status.h"
#include "state/sink.h"
#include "state/sink_sql.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One submitted item from queue to result. */
struct sink_node {
    struct sink_node *next;
    struct sink_node *leader; /* the item that is sent for this key; itself when it is sent */
    struct sink_item item;
    /* The newest version of its owner that may have been announced: what goes out for an owner
     * later never shows a lower one. 0 = not arranged yet. */
    uint64_t announced;
    bool done; /* outcome is known */
    enum sink_outcome outcome;
    char reason[200];
};

struct sink_heartbeat {
    int64_t caught_up_to_us[LIMIT_PARTITIONS];
    lsn_t covered_lsn; /* LSN_INVALID = nothing said yet */
    uint64_t events_applied;
    bool due; /* write strategic_processor too */
};

/* What a committed transaction did, for the counters. */
struct sink_counts {
    uint64_t upserted;
    uint64_t removed;
    uint64_t touched;
    uint64_t stale;
};

struct sink_writer {
    const struct sink_config *cfg; /* borrowed; its strings live as long as the writer */
    struct pg_wait wait;           /* a readable cancel_fd ends it */
    PGconn *conn;                  /* NULL while not connected */
    int former_pid; /* server process of a connection that was given up, to be ended; 0 = none */
    struct pg_array arrays[SINK_PARAMS_MAX];
    struct buf text; /* of the announcements of the transaction under way */
    struct announcement announcements[LIMIT_SINK_BATCH_ROWS];
    size_t n_announcements; /* valid after sink_writer_run(), while its nodes are there */
};

void sink_writer_init(struct sink_writer *w, const struct sink_config *cfg, int cancel_fd);
void sink_writer_deinit(struct sink_writer *w);

/* Connects and prepares every statement; no-op when connected. */
MUST_CHECK enum status sink_writer_connect(struct sink_writer *w, struct error *err);
void sink_writer_disconnect(struct sink_writer *w);

/* Sorts nodes by (table, key), newest first, and chooses the leaders: the newest whole row of each
 * key, and the newest touch if that is newer still. */
void sink_writer_arrange(struct sink_node **nodes, size_t n);
/* The end of the key group that begins at from, in arranged nodes. */
size_t sink_writer_group_end(struct sink_node *const *nodes, size_t n, size_t from);

/*
 * Writes arranged nodes (n may be 0) and the heartbeat in one transaction; on success every node is
 * done. INVALID: the server refuses the data of some node, nothing was written. IO: nothing may
 * have been written, or the outcome of COMMIT is unknown; send again. END: cancelled. FENCED,
 * REFUSED: final. The connection is closed unless it can be used again.
 */
MUST_CHECK enum status sink_writer_run(struct sink_writer *w, struct sink_node **nodes, size_t n,
                                       const struct sink_heartbeat *beat,
                                       struct sink_counts *ret_counts, struct error *err);
/*
 * Deletes rows that expired more than cfg->keep_us ago, at most SWEEP_ROWS_MAX of them, in a
 * transaction of its own. Statuses as above; REFUSED says that the schema or the rights lack
 * something.
 */
#define SWEEP_ROWS_MAX 500
MUST_CHECK enum status sink_writer_sweep(struct sink_writer *w, size_t *ret_rows,
                                         struct error *err);
