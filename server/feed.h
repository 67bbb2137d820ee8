/*
 * server/feed.h - the invalidation feed: what the sink has committed, to everybody who wants to
 * know (docs/FEED.md). NOTIFY is the sink's own; here are the nng PUB socket, the streams of
 * /api/v1/feed and the destinations of feed.webhooks.
 *
 * Announcements come on the sink's thread, between COMMIT and its results. They are durable for
 * the destinations first; then they are published and kept in a ring for the streams. Nobody who
 * listens can hold anything up: PUB drops for who is slow, a stream that the ring has overtaken is
 * cut off, a destination has its queue.
 */
#pragma once

#include "core/cleanup.h"
#include "core/clock.h"
#include "server/config_feed.h"
#include "server/http.h"
#include "state/announcement.h"

#define FEED_PATH        "/api/v1/feed"
#define FEED_CLIENTS_MAX 32 /* of the private listener's connections */

struct feed;

struct feed_open {
    const struct config_feed *cfg; /* borrowed until feed_close() */
    const char *state_dir;
    const struct clock *clock;
};
/* Binds the PUB socket, opens the queue where there is or was a destination, starts sending. IO:
 * an address or the file cannot be had; of feed_queue_open(). */
MUST_CHECK enum status feed_open(const struct feed_open *open, struct feed **ret,
                                 struct error *err);
/* Ends senders and sockets; what waits is in the queue. No stream may be open any more. NULL is a
 * no-op. */
void feed_close(struct feed *f);
CLEANUP_FREEP(struct feed, feed_close);

/* For struct sink_config: ctx is the struct feed. */
enum status feed_committed(void *ctx, const struct announcement *list, size_t n, struct error *err);

/* A user is forgotten, with one bot or (bot empty) with every bot: one announcement with the reason
 * "erase"; what waits, is dead or is kept about the user goes with it. Any thread, and it may be
 * said twice. Errors of feed_queue_append(). */
MUST_CHECK enum status feed_erased(struct feed *f, struct str bot, struct str user,
                                   uint64_t row_version, struct error *err);

/* The route of the streams, and the server that has it, to be woken; NULL before it stops. */
struct http_route feed_route(struct feed *f);
void feed_listen(struct feed *f, struct http_server *server);

/* The secrets of a configuration that was read again; what does not work stays as it was. */
MUST_CHECK enum status feed_reload(struct feed *f, const struct config_feed *cfg,
                                   struct error *err);
/* Once a second: the gauges of /metrics. */
void feed_figures(struct feed *f);
