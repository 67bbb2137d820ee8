/*
 * server/door_write.h - the routes of InfluxDB's writers: POST /write (1.x) and /api/v2/write (2.x,
 * Telegraf), /ping and /health (docs/HTTP.md, "InfluxDB and Telegraf").
 *
 * A request is one delivery: its points are events of the inbox before it is answered 204. What
 * cannot be read is kept as dead letters; 400 only when nothing of a body could be used. Who writes
 * is known by one of the secrets: as a token (Authorization: Token or Bearer, or the query
 * parameter token), or as the password of Basic or of the query parameter p, with any user.
 */
#pragma once

#include "core/cleanup.h"
#include "core/clock.h"
#include "core/seen_mark.h"
#include "core/status.h"
#include "server/http.h"

struct config_influx;
struct door_write;
struct influx_batch;
struct inbox;

#define DOOR_WRITE_ROUTES 4

struct door_write_config {
    const struct config_influx *influx; /* read while it starts */
    int64_t body_max;
    struct inbox *inbox; /* borrowed, as is clock */
    const struct clock *clock;
    /* What a request has brought is stored: for influx_pull_note(). May be NULL. The inbox's
     * thread. */
    void (*stored)(void *ctx, const struct seen_mark *marks, size_t n);
    /* influx_pull_seen(), or NULL. Any thread. */
    bool (*seen)(void *ctx, const struct seen_mark *mark);
    void *pull; /* ctx of both */
};
/* INVALID: a secret. */
MUST_CHECK enum status door_write_new(const struct door_write_config *cfg, struct door_write **ret,
                                      struct error *err);
/* Not before the listener is stopped and the inbox is closed. NULL is a no-op. */
void door_write_free(struct door_write *w);
CLEANUP_FREEP(struct door_write, door_write_free);
/* Other secrets and another rate; on failure the old ones stay. Any thread. */
MUST_CHECK enum status door_write_reload(struct door_write *w, const struct config_influx *influx,
                                         struct error *err);
void door_write_routes(struct door_write *w, struct http_route out[DOOR_WRITE_ROUTES]);

/* Counts what a batch has become, for the metrics. */
void influx_count(const char *source, const struct influx_batch *b);
