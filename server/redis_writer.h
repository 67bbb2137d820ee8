/*
 * server/redis_writer.h - brings what PostgreSQL has committed to Redis: hears of keys (LISTEN
 * strategic_cache), reads them, and sets or deletes their values. It never writes to PostgreSQL,
 * and nothing waits for it.
 *
 * Order: a key is read after its announcement was heard, and written before anything that is read
 * later. An announcement that comes meanwhile puts the key back into the set. So the last thing
 * written of a key was read after its last change, also with several writers at work, as each of
 * them hears of every change.
 *
 * What may have been missed is repaired by a sync: every key that Redis holds, and every key with a
 * row that has not expired, goes through the set once.
 *
 * All calls from one thread. Errors: IO (try again: the connection that failed is closed), REFUSED
 * (the same, but somebody must mend it first), END (stopped).
 */
#pragma once

#include "core/pg.h"
#include "server/config.h"
#include "server/redis_address.h"
#include "server/redis_keys.h"

#define REDIS_NAME_BYTES 24
#define REDIS_BATCH_KEYS 128 /* that one call of redis_writer_write() takes */

struct redis_link;
struct redis_writer {
    const struct config *cfg;
    const char *name; /* of both connections, as their servers show it */
    const struct pg_wait *wait;
    struct redis_address address;

    PGconn *conn;            /* NULL: not connected */
    struct redis_link *link; /* the same */
    int64_t former_id;       /* of the connection to Redis before this one, to be ended */
    char run_id[64];         /* of the server seen last */
    struct redis_keys pending;
    struct buf users_sql, bots_sql, live_sql;

    char nonce[REDIS_NAME_BYTES]; /* in the marker, and in what fence() says */
    bool sync_wanted;             /* something may have been missed */
    enum { SYNC_IDLE, SYNC_SCAN, SYNC_LIVE } sync;
    uint64_t cursor;          /* of SCAN */
    bool fenced;              /* the notification of redis_writer_fence() has come */
    char characters_seen[40]; /* the newest change that was seen */

    /* since the start */
    uint64_t sets, dels, errors, syncs;
    uint64_t sync_keys; /* of the sync under way, or of the last one */
};

MUST_CHECK enum status redis_writer_init(struct redis_writer *w, const struct config *cfg,
                                         const char *name, const struct pg_wait *wait,
                                         struct error *err);
void redis_writer_deinit(struct redis_writer *w);

/* Both do nothing while connected. A connection to PostgreSQL that is new may have missed
 * announcements, a server of Redis that is another may have lost keys: then a sync is wanted. */
MUST_CHECK enum status redis_writer_connect_pg(struct redis_writer *w, struct error *err);
MUST_CHECK enum status redis_writer_connect_redis(struct redis_writer *w, struct error *err);

/* Takes the announcements that have come, without waiting. */
MUST_CHECK enum status redis_writer_hear(struct redis_writer *w, struct error *err);
/* Writes some of the keys in the set, the oldest first. Keys that were not written stay in it.
 * REFUSED with both connections open: Redis did not take some values; it has none of them now, and
 * a sync is wanted. */
MUST_CHECK enum status redis_writer_write(struct redis_writer *w, struct error *err);
/* A sync, step by step: begin, then step (while not much is in the set) until sync is SYNC_IDLE. */
void redis_writer_sync_begin(struct redis_writer *w);
MUST_CHECK enum status redis_writer_sync_step(struct redis_writer *w, struct error *err);
/* The processor's progress, characters that have changed, and whether Redis still has what was
 * written: about once a second. */
MUST_CHECK enum status redis_writer_tick(struct redis_writer *w, struct error *err);
/* Returns when every announcement of what was committed before has been heard. */
MUST_CHECK enum status redis_writer_fence(struct redis_writer *w, struct error *err);
/* Removes the values of the keys in the set, and leaves it to another writer that is at work to
 * write them. */
MUST_CHECK enum status redis_writer_hand_over(struct redis_writer *w, struct error *err);
