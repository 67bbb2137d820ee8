/*
 * ingest/rebuild_feed.h - where rows that are read again meet the stream (DBLog, "A Watermark Based
 * Change-Data-Capture Framework").
 *
 * Two threads share it. The one that rebuilds opens a chunk, writes the low watermark into the log,
 * reads the chunk's rows, gives them, and writes the high watermark; it never holds up the other.
 * The reader sees both watermarks in commit order. Between them it records the events that concern
 * the chunk, while they are handed on as ever. When the high one comes, the rows and then the
 * recorded events are handed on key by key at its position: what they make is the state of the
 * source as of the high watermark, whenever in between the rows were read.
 *
 * A transaction is in the log a moment before others see what it did. One that committed before the
 * low watermark and was still unseen by the statement that read the rows would be missed by both;
 * the reader remembers the newest transactions, the rows come with their snapshot, and then they
 * are read again.
 *
 * A chunk counts only when the reader says that it was handed on, and everything up to the end of
 * its transaction is durable, and no session began in between (to be asked in this order): a rewind
 * reads the watermarks again, but there is nothing left to put between them. Then, and when too
 * much was recorded, the chunk is done once more with new watermarks.
 */
#pragma once

#include "core/cleanup.h"
#include "core/lsn.h"
#include "ingest/rebuild_chunk.h"

/* Prefixes of the transactional messages; the content is the token. */
#define REBUILD_LOW         "warmpath.low"
#define REBUILD_HIGH        "warmpath.high"
#define REBUILD_TOKEN_BYTES 64

enum rebuild_step { REBUILD_NONE, REBUILD_BEGIN, REBUILD_ROW, REBUILD_END };

/* What the pipeline is given instead of an event. */
struct rebuild_event {
    enum rebuild_step step;
    struct str user_id; /* of the key; empty: the bot's own */
    struct str bot_name;
    uint32_t types;   /* BEGIN: 1 << enum event_type of everything that the source has a table of */
    uint32_t tables;  /* END: 1 << enum table_id of the rows that are due at once */
    struct str event; /* ROW: event_decode() */
};

struct rebuild_feed;
MUST_CHECK enum status rebuild_feed_new(struct rebuild_feed **ret, struct error *err);
void rebuild_feed_free(struct rebuild_feed *f);
CLEANUP_FREEP(struct rebuild_feed, rebuild_feed_free);

/* ---- the thread that rebuilds ---- */

struct rebuild_open {
    const char *token;              /* of both watermarks, never used before */
    struct rebuild_chunk *recorded; /* with the names of the chunk and nothing else; taken */
    uint32_t types;
    uint32_t tables;
};
/* Before the low watermark is written. */
void rebuild_feed_open(struct rebuild_feed *f, const struct rebuild_open *o);
/* Before the high watermark is written. Takes the chunk. */
void rebuild_feed_give(struct rebuild_feed *f, struct rebuild_chunk *rows);

enum rebuild_outcome {
    REBUILD_WAITING,
    REBUILD_HANDED_ON, /* not durable yet: *ret_end is the end of its transaction */
    REBUILD_OVERFLOW,  /* too much was recorded: fewer keys at a time */
    REBUILD_UNSEEN,    /* the rows are older than the low watermark: read them again */
    REBUILD_LOST,      /* the stream began anew: so must whatever is not durable */
};
enum rebuild_outcome rebuild_feed_outcome(struct rebuild_feed *f, lsn_t *ret_end,
                                          uint64_t *ret_keys);
/* How many sessions have begun: while it stays the same, what was handed on is on its way. */
uint64_t rebuild_feed_sessions(struct rebuild_feed *f);
/* Drops the chunk, whatever has become of it, unless it is being handed on. */
void rebuild_feed_close(struct rebuild_feed *f);

/* What somebody inside the process wants to have rebuilt: true once for each
 * rebuild_feed_request(). The caller stores the request and says so. */
bool rebuild_feed_wanted(struct rebuild_feed *f, char *ret_reason, size_t size);
void rebuild_feed_stored(struct rebuild_feed *f);

/* ---- the reader ---- */

/* A session begins. */
void rebuild_feed_session(struct rebuild_feed *f);
/* The rows of a table changed without saying which: what is being read cannot be trusted. */
void rebuild_feed_lost(struct rebuild_feed *f);
/* A transaction that committed. */
void rebuild_feed_transaction(struct rebuild_feed *f, uint32_t xid);
/* An event on its way. */
void rebuild_feed_record(struct rebuild_feed *f, const struct event *e);
/* A transactional message. True: there is something to hand on, rebuild_feed_next(). */
bool rebuild_feed_message(struct rebuild_feed *f, struct str prefix, struct str content);
/* The step to hand on; false: that was all. The same again until rebuild_feed_taken(). */
bool rebuild_feed_next(struct rebuild_feed *f, struct rebuild_event *ret);
void rebuild_feed_taken(struct rebuild_feed *f);
/* The transaction that it was handed on in ends here. */
void rebuild_feed_committed(struct rebuild_feed *f, lsn_t end_lsn);
/*
 * Asks for everything to be rebuilt (strategic_rebuild). AGAIN until the request is stored in
 * PostgreSQL: to be called again, like an event that the receiver has no room for, so that what
 * made it necessary is not confirmed before. f NULL: nobody rebuilds here, OK.
 */
MUST_CHECK enum status rebuild_feed_request(struct rebuild_feed *f, const char *reason);
