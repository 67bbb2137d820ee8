/*
 * server/qdrant_internal.h - one pull, shared by its two files: qdrant_pull.c (the thread, what it
 * submits) and qdrant_read.c (what it asks, what becomes of the answers).
 */
#pragma once

#include "core/event.h"
#include "ingest/qdrant_walk.h"
#include "server/config_door.h"
#include "server/http_client.h"
#include "server/qdrant_pull.h"
#include "state/inbox.h"
#include "state/points.h"

#include <pthread.h>
#include <stdatomic.h>

#define QDRANT_DELIVERY_BYTES (1u << 20)  /* a delivery is submitted when it is so large */
#define QDRANT_EVENTS_BYTES   (32u << 20) /* with one more point at its worst */

struct qdrant_pull {
    const struct config_qdrant *cfg;
    const char *state_dir;
    struct inbox *inbox;
    const struct clock *clock;
    struct qdrant_rules rules;
    char url[CONFIG_URL_BYTES + 512];
    char api_key[CONFIG_SECRET_BYTES + 16]; /* the header */
    uint64_t random;

    pthread_t thread;
    atomic_bool stop;
    pthread_mutex_t lock; /* of what follows, up to the blank line */
    pthread_cond_t wake;  /* a stop, or a delivery is done */
    bool delivered;
    enum inbox_outcome outcome;

    /* The thread's own. */
    struct http_client *client;
    struct points *points;
    struct event_arena *arena;
    struct buf request, events, scratch;
    struct buf changes; /* what points is told after the commit: id, known */
    uint32_t n_events;
    struct qdrant_events found; /* of one point; too large for a stack */
    bool loaded;
    int64_t at_us;     /* the cursor: timestamps up to here have been read */
    bool has_at;       /* the first sweep is complete */
    uint64_t delivery; /* number of the newest one */
    bool ordered;      /* try order_by */
    bool told_unordered;
    bool sweeping, removing;
    struct qdrant_walk sweep;
    int64_t sweep_started_us;            /* wall */
    int64_t next_poll_us, next_sweep_us; /* mono */
    bool away;                           /* the last failure: no answer, or one that says later */
    unsigned status, retry_after_s;      /* of the last refusal, 0 = it was none */
    int64_t wait_us;                     /* the last one, 0 = all is well */
    enum status trouble;                 /* logged last, at trouble_us, with trouble_status */
    unsigned trouble_status;
    int64_t trouble_us;
};

/* One page, or what is due at the end of a reading. END: a stop; AGAIN, IO: the server is away, and
 * the same is asked again; REFUSED: somebody has to set something right. */
MUST_CHECK enum status qdrant_read_step(struct qdrant_pull *p, struct error *err);

/* The events gathered and the cursor become durable together, then the changes of points. Both are
 * empty afterwards, whatever comes of it. */
MUST_CHECK enum status qdrant_deliver(struct qdrant_pull *p, struct error *err);
/* Writes down the changes of points alone. */
MUST_CHECK enum status qdrant_remember(struct qdrant_pull *p, struct error *err);
void qdrant_forget_batch(struct qdrant_pull *p);
