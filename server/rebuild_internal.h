/* server/rebuild_internal.h - shared by rebuild.c (the thread and its requests) and rebuild_work.c
 * (one request). */
#pragma once

#include "core/clock.h"
#include "core/pg.h"
#include "ingest/rebuild_rows.h"
#include "server/rebuild.h"

#include <pthread.h>
#include <stdatomic.h>

/* For what the sink answers at once, unless it does not answer at all. */
#define REBUILD_ANSWER_US (30 * US_PER_SECOND)

struct rebuild {
    struct rebuild_config cfg;
    pthread_t thread;
    atomic_bool stop;
    atomic_bool ended;
    uint64_t token; /* of the last watermark */
    uint64_t nonce; /* of this process */
    PGconn *sink;   /* NULL: to be opened */
    struct rebuild_rows *source;
    pthread_mutex_t lock; /* guards what follows */
    int socket[2];        /* of sink and source while they are open, -1 */
    struct mapping_set mappings;
};

struct rebuild_request {
    char id[24];
    char *user_id; /* NULL: all; owned, as are the others */
    char *bot_name;
    char *engine;
    char *cursor;
    bool users_done;
};

/* Waits; END when the thread is to end. */
enum status rebuild_nap(struct rebuild *r, int64_t us);

/* From the request's cursor to its end. OK: all is done; *note says what could not be ("" =
 * nothing). AGAIN: the stream began anew, to be called again with what is stored. IO: a connection
 * was lost. END: stopped. Others: it cannot be done. */
MUST_CHECK enum status rebuild_work(struct rebuild *r, const struct rebuild_request *q, char *note,
                                    size_t note_size, struct error *err);
