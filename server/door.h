/*
 * server/door.h - everything of one process that takes events from outside of PostgreSQL: the inbox
 * and its feed to the router, the public and the private listener with their routes, the pulls.
 *
 * A door without anything configured is one too: it does nothing.
 */
#pragma once

#include "core/cleanup.h"
#include "pipeline/inbox_feed.h"
#include "server/config.h"
#include "server/feed.h"
#include "server/http.h"
#include "server/private_board.h"

struct door;

struct door_config {
    const struct config *cfg; /* borrowed until door_free() */
    struct router *router;    /* borrowed until door_free() */
    struct inbox_seen seen;   /* of all stores */
    /* Borrowed: the router's handshake is done and the state is complete. Cleared again when no
     * more is to be given to the workers. */
    const atomic_bool *begin;
    const struct clock *clock;
    struct private_board *board; /* what the private routes answer from; borrowed */
    struct feed *announcements;  /* /api/v1/feed; borrowed */
};

/* The inbox is opened and fed to the router; nobody can deliver yet. With nothing configured and no
 * inbox from an earlier run: a door that does nothing. Errors: of inbox_open(), inbox_feed_fit().
 */
MUST_CHECK enum status door_open(const struct door_config *cfg, struct door **ret,
                                 struct error *err);
/* Listens and pulls. Errors: of http_start(), with what to do. */
MUST_CHECK enum status door_start(struct door *d, struct error *err);
/* Stops listening and pulling; what was acknowledged is in the inbox. */
void door_stop(struct door *d);
/* When no worker runs any more. Closes feed and inbox. NULL is a no-op. */
void door_free(struct door *d);
CLEANUP_FREEP(struct door, door_free);

/* A worker acknowledged, or `begin` was set. Any thread. NULL is a no-op. */
void door_wake(struct door *d);
/* OK while everything runs; a failed inbox ends the process. */
enum status door_health(struct door *d, struct error *err);
/* Secrets and certificates of a configuration that was read again. What does not work is logged and
 * stays as it was. */
void door_reload(struct door *d, const struct config *cfg);

/* For the private routes. */
struct inbox *door_inbox(struct door *d); /* NULL: there is none */
struct inbox_feed *door_feed(struct door *d);
/* NULL: there is no such listener. Only on the thread that starts and stops the door. */
const struct http_server *door_public(const struct door *d);
const struct http_server *door_private(const struct door *d);
