/*
 * ingest/replication.h - reads one replication slot: connect, START_REPLICATION, decode, hand on.
 *
 * One thread runs replication_run(). It waits on the socket, never sleeps; feedback goes out on its
 * own timer even while the receiver is full. Truth is the slot: after any failure the slot is read
 * again from what is durable, and the receiver skips what it has already been given.
 */
#pragma once

#include "core/clock.h"
#include "core/event.h"
#include "core/lsn.h"
#include "core/status.h"
#include "ingest/mapping.h"
#include "ingest/preflight.h"
#include "ingest/rebuild_feed.h"

#include <stdatomic.h>
#include <stdbool.h>

/* Who takes the events: the router of the pipeline, or a test. All calls come from the reader. */
struct receiver_ops {
    /* AGAIN: no room now; the reader stops reading, keeps feedback going, and offers it again. */
    enum status (*event)(void *ctx, const struct event *e, struct position pos, int64_t commit_us,
                         struct error *err);
    /* Every event of the transaction ending at end_lsn has been given. AGAIN as above. */
    enum status (*commit)(void *ctx, lsn_t end_lsn, int64_t commit_us, struct error *err);
    /* Nothing is outstanding upstream up to wal_end (a keepalive outside a transaction). */
    void (*idle)(void *ctx, lsn_t wal_end, int64_t server_us);
    /* The socket is drained: send what is buffered. Returns after how many microseconds it must be
     * called again at the latest. */
    int64_t (*drained)(void *ctx);
    /* Every event of every transaction that ends at or before this LSN is durable here. */
    lsn_t (*durable)(void *ctx);
    /* One step of a key that is rebuilt (rebuild_feed.h); AGAIN as above. NULL: never called. */
    enum status (*rebuild)(void *ctx, const struct rebuild_event *e, struct position pos,
                           int64_t commit_us, struct error *err);
    /* IO: something that was given after durable() is lost; the session is begun again from there.
     * Asked while nothing comes that could be answered so. NULL: never. */
    enum status (*intact)(void *ctx, struct error *err);
    void *ctx;
};

struct source_seen {
    struct server_identity server; /* shared_lsn: asked about the timeline last streamed from */
    struct slot_info slot;
};

struct replication_config {
    const char *conninfo; /* without replication=; options are added here */
    const char *slot;
    const char *publication;
    /* Shown in pg_stat_activity, so that the next holder of the lease knows whose reader holds the
     * slot; NULL = "warmpath". */
    const char *application_name;
    const char *heartbeat; /* the pipeline whose heartbeats are looked for; NULL = none */
    const struct mapping_set *mappings; /* until replication_remap() */
    const struct clock *clock;
    int64_t status_interval_us; /* feedback at least this often; 1 s */
    int64_t backoff_min_us;     /* reconnect: decorrelated jitter between min and max */
    int64_t backoff_max_us;
    /* The server is to give us up after this silence of ours, unless its own wal_sender_timeout is
     * shorter; 0 = 30 s. Feedback goes out at least three times as often. */
    int64_t sender_timeout_us;
    /* This silence of the server while we are reading makes us ask for a sign of life; without one
     * within half of it we reconnect. 0 = 60 s. */
    int64_t silence_us;
    uint32_t timeline; /* that the durable state was read from; 0 = not known */
    /* Asked on every connect, before streaming from durable: is this the source that our state
     * belongs to, and does its slot still have what follows? OK, or what replication_run() is to
     * return (IO: ask again later). NULL = it is. */
    enum status (*check)(void *ctx, const struct source_seen *seen, lsn_t durable,
                         struct error *err);
    void *check_ctx;
    struct rebuild_feed *rebuild; /* borrowed; NULL: nothing is rebuilt while streaming */
};

struct replication;
/* cfg is copied; what it points to, and receiver, must outlive the reader. */
MUST_CHECK enum status replication_new(const struct replication_config *cfg,
                                       const struct receiver_ops *receiver,
                                       struct replication **ret, struct error *err);
void replication_free(struct replication *r);
/*
 * Until *stop (OK) or an error that reconnecting cannot mend. start: the durable LSN. Reconnects by
 * itself; a server that shuts down or refuses for now is waited for, and so is a slot that another
 * process holds (its pid is in the log). A mapped column that is gone is waited for as well, until
 * replication_remap(). LOST: the slot no longer has what follows the durable LSN (it is gone or
 * invalidated, or the check says so), or cannot get past a time without the publication. REFUSED: a
 * right is missing: the text says what to do. PROTOCOL: bytes that cannot
 * be understood. Other codes come from the receiver.
 */
MUST_CHECK enum status replication_run(struct replication *r, lsn_t start, const atomic_bool *stop,
                                       struct error *err);
/*
 * Other mappings, copied, for what is read from now on. Any thread; the newest call counts.
 */
MUST_CHECK enum status replication_remap(struct replication *r, const struct mapping_set *mappings,
                                         struct error *err);
/* Whether the reader stands still because the mapping cannot read what comes next
 * (ingest/stream.h); why is filled then. Any thread. */
bool replication_blocked(struct replication *r, struct error *why);
/* The newest heartbeat that has become durable: how long that took, and when it did (wall clock).
 * False: none yet. Any thread. */
bool replication_lag(const struct replication *r, int64_t *ret_lag_us, int64_t *ret_at_us);
/* Whether it has the slot and streams from it. Any thread. */
bool replication_connected(const struct replication *r);
/* Writes a byte to the reader's wake pipe: durable() has moved or room was made. Any thread. */
void replication_wake(struct replication *r);
