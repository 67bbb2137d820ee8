#include "server/door.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/log.h"
#include "server/door_webhook.h"
#include "server/door_write.h"
#include "server/http.h"
#include "server/influx_pull.h"
#include "server/private_routes.h"
#include "server/qdrant_pull.h"

#define ROUTES_MAX (CONFIG_WEBHOOKS_MAX + 16)
/* For requests under way when the process ends; systemd and the drain of the workers wait as well.
 */
#define GRACE_US (3 * US_PER_SECOND)

struct door {
    struct door_config cfg;
    struct inbox *inbox;
    pthread_mutex_t lock; /* guards feed: wakers come from threads that outlive it */
    struct inbox_feed *feed;
    struct http_server *public_server, *private_server;
    struct http_route public_routes[ROUTES_MAX], private_routes[ROUTES_MAX];
    size_t n_public, n_private;
    struct door_write *write;      /* NULL: influx is not configured */
    struct door_webhook *webhooks; /* NULL: there are none */
    struct influx_pull *influx;    /* NULL: influx.catch_up is not configured */
    struct qdrant_pull *qdrant[CONFIG_QDRANT_MAX];
};

/* ---- the inbox ---- */

static bool takes_events(const struct config *c)
{
    return *c->http.listen || *c->influx.catch_up.url || c->n_qdrant > 0;
}

/* Rows of an earlier run, whose events are owed to the state, whatever is configured now. */
static bool inbox_is_there(const struct config *c)
{
    char path[CONFIG_PATH_BYTES + 16];
    snprintf(path, sizeof(path), "%s/inbox.db", c->state_dir);
    return access(path, F_OK) == 0;
}

static void stored(void *ctx, uint64_t id)
{
    (void)id;
    door_wake(ctx);
}

static enum status open_inbox(struct door *d, struct error *err)
{
    const struct config *c = d->cfg.cfg;
    struct inbox_config ic = {
        .dir = c->state_dir,
        .clock = d->cfg.clock,
        .commit_delay_us = c->inbox.commit_delay_us,
        .keep_ids_us = c->inbox.keep_ids_us,
        .bytes_max = (uint64_t)c->inbox.max_size,
        .applied = d->cfg.seen.newest,
        .stored = stored,
        .stored_ctx = d,
    };
    enum status st = inbox_open(&ic, &d->inbox, err);
    if (!st)
        st = inbox_feed_fit(d->inbox, d->cfg.seen, err);
    if (!st && *c->influx.catch_up.url)
        st = influx_pull_recover(&c->influx, c->state_dir, d->inbox, err);
    struct inbox_feed_config fc = {
        .inbox = d->inbox, .router = d->cfg.router, .begin = d->cfg.begin, .clock = d->cfg.clock};
    struct inbox_feed *feed = NULL;
    if (!st)
        st = inbox_feed_start(&fc, &feed, err);
    pthread_mutex_lock(&d->lock);
    d->feed = feed;
    pthread_mutex_unlock(&d->lock);
    return st;
}

enum status door_open(const struct door_config *cfg, struct door **ret, struct error *err)
{
    CLEANUP(door_freep) struct door *d = calloc(1, sizeof(*d));
    if (!d)
        return error_set(err, STATUS_NOMEM, "could not allocate the door");
    d->cfg = *cfg;
    pthread_mutex_init(&d->lock, NULL);
    if (takes_events(cfg->cfg) || inbox_is_there(cfg->cfg)) {
        enum status st = open_inbox(d, err);
        if (st)
            return st;
    }
    *ret = TAKE(d);
    return STATUS_OK;
}

/* ---- listeners ---- */

static void add_route(struct http_route *routes, size_t *n, struct http_route route)
{
    assert(*n < ROUTES_MAX);
    routes[(*n)++] = route;
}

static enum status open_write(struct door *d, struct error *err)
{
    const struct config *c = d->cfg.cfg;
    struct http_route routes[DOOR_WRITE_ROUTES];
    struct door_write_config wc = {.influx = &c->influx,
                                   .body_max = c->http.max_write_body,
                                   .inbox = d->inbox,
                                   .clock = d->cfg.clock,
                                   .stored = d->influx ? influx_pull_note : NULL,
                                   .seen = d->influx ? influx_pull_seen : NULL,
                                   .pull = d->influx};
    if (!config_influx_is_open(&c->influx))
        return STATUS_OK;
    enum status st = door_write_new(&wc, &d->write, err);
    if (st)
        return st;
    door_write_routes(d->write, routes);
    for (size_t i = 0; i < DOOR_WRITE_ROUTES; i++)
        add_route(d->public_routes, &d->n_public, routes[i]);
    return STATUS_OK;
}

static enum status open_webhooks(struct door *d, struct error *err)
{
    const struct config *c = d->cfg.cfg;
    struct door_webhook_config wc = {.webhooks = c->webhooks,
                                     .n = c->n_webhooks,
                                     .body_max = c->http.max_body,
                                     .inbox = d->inbox,
                                     .clock = d->cfg.clock};
    if (!c->n_webhooks)
        return STATUS_OK;
    enum status st = door_webhook_new(&wc, &d->webhooks, err);
    if (!st)
        add_route(d->public_routes, &d->n_public, door_webhook_route(d->webhooks));
    return st;
}

static enum status add_public_routes(struct door *d, struct error *err)
{
    enum status st = open_write(d, err);
    return st ? st : open_webhooks(d, err);
}

static const char *or_null(const char *text)
{
    return *text ? text : NULL;
}

static enum status listen_public(struct door *d, struct error *err)
{
    const struct config_http *h = &d->cfg.cfg->http;
    if (!*h->listen)
        return STATUS_OK;
    enum status st = add_public_routes(d, err);
    if (st)
        return st;
    struct http_config hc = {
        .name = "public",
        .listen = h->listen,
        .routes = d->public_routes,
        .n_routes = d->n_public,
        .clock = d->cfg.clock,
        .threads = (unsigned)h->threads,
        .connections = (unsigned)h->connections,
        .connections_per_address = (unsigned)h->connections_per_address,
        .headers_max = (size_t)h->max_headers,
        .header_us = h->header_timeout_us,
        .body_us = h->body_timeout_us,
        .idle_us = h->idle_timeout_us,
        .answer_us = h->answer_timeout_us,
        .rate_per_address = (unsigned)h->rate_per_address,
        .tls_cert = or_null(h->tls_cert),
        .tls_key = or_null(h->tls_key),
        .behind_proxy = h->behind_proxy,
        .trusted_proxies = or_null(h->trusted_proxies),
        .allow_plain = h->insecure_plain,
    };
    st = http_start(&hc, &d->public_server, err);
    if (!st)
        log_write(LOG_INFO, "http", "listening name=public address=\"%s\" port=%u tls=%s",
                  h->listen, http_port(d->public_server), hc.tls_cert ? "yes" : "no");
    return st;
}

static enum status listen_private(struct door *d, struct error *err)
{
    const struct config_http *h = &d->cfg.cfg->http;
    if (!*h->private_listen)
        return STATUS_OK;
    private_routes(d->cfg.board, d->private_routes);
    d->n_private = PRIVATE_ROUTES;
    add_route(d->private_routes, &d->n_private, feed_route(d->cfg.announcements));
    struct http_config hc = {
        .name = "private",
        .listen = h->private_listen,
        .routes = d->private_routes,
        .n_routes = d->n_private,
        .clock = d->cfg.clock,
        .threads = 1,
        .connections = 64,
    };
    enum status st = http_start(&hc, &d->private_server, err);
    if (!st)
        feed_listen(d->cfg.announcements, d->private_server);
    if (!st)
        log_write(LOG_INFO, "http", "listening name=private address=\"%s\" port=%u",
                  h->private_listen, http_port(d->private_server));
    return st;
}

/* ---- pulls ---- */

/* What is pushed is noted by what pulls: that is there first. */
static enum status start_pulls(struct door *d, struct error *err)
{
    const struct config *c = d->cfg.cfg;
    enum status st = STATUS_OK;
    if (*c->influx.catch_up.url)
        st = influx_pull_start(&c->influx, c->state_dir, d->inbox, d->cfg.clock, &d->influx, err);
    for (size_t i = 0; i < c->n_qdrant && !st; i++)
        st = qdrant_pull_start(&c->qdrant[i], c->state_dir, d->inbox, d->cfg.clock, &d->qdrant[i],
                               err);
    return st;
}

enum status door_start(struct door *d, struct error *err)
{
    enum status st = listen_private(d, err);
    if (!st)
        st = start_pulls(d, err);
    if (!st)
        st = listen_public(d, err);
    return st;
}

void door_stop(struct door *d)
{
    if (!d)
        return;
    for (size_t i = 0; i < CONFIG_QDRANT_MAX; i++)
        qdrant_pull_stop(TAKE(d->qdrant[i]));
    http_stop(TAKE(d->public_server), GRACE_US);
    influx_pull_stop(d->influx);
    pthread_mutex_lock(&d->lock);
    struct inbox_feed *feed = TAKE(d->feed);
    pthread_mutex_unlock(&d->lock);
    inbox_feed_stop(feed);
}

void door_free(struct door *d)
{
    if (!d)
        return;
    door_stop(d);
    if (d->cfg.announcements)
        feed_listen(d->cfg.announcements, NULL);
    /* Last, so that /readyz can say what goes on until then. */
    http_stop(TAKE(d->private_server), 0);
    inbox_close(d->inbox); /* answers what was submitted: its routes are there until then */
    door_write_free(d->write);
    influx_pull_free(d->influx);
    door_webhook_free(d->webhooks);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

/* ---- meanwhile ---- */

void door_wake(struct door *d)
{
    if (!d)
        return;
    pthread_mutex_lock(&d->lock);
    inbox_feed_wake(d->feed);
    pthread_mutex_unlock(&d->lock);
}

enum status door_health(struct door *d, struct error *err)
{
    if (!d || !d->inbox)
        return STATUS_OK;
    enum status st = inbox_health(d->inbox, err);
    return st ? st : inbox_feed_health(d->feed, err);
}

void door_reload(struct door *d, const struct config *cfg)
{
    struct error tls = {0}, webhooks = {0}, influx = {0};
    if (!d || !d->public_server)
        return;
    if (http_reload_tls(d->public_server, &tls))
        log_write(LOG_ERROR, "http", "could not read the certificate again error=\"%s\"", tls.text);
    if (d->webhooks && door_webhook_reload(d->webhooks, cfg->webhooks, cfg->n_webhooks, &webhooks))
        log_write(LOG_ERROR, "http", "could not take the secrets of the webhooks error=\"%s\"",
                  webhooks.text);
    if (d->write && door_write_reload(d->write, &cfg->influx, &influx))
        log_write(LOG_ERROR, "http", "could not change the secrets of influx error=\"%s\"",
                  influx.text);
    if (!tls.code && !webhooks.code && !influx.code)
        log_write(LOG_INFO, "http", "secrets and certificates are those of the configuration now");
}

struct inbox *door_inbox(struct door *d)
{
    return d->inbox;
}

struct inbox_feed *door_feed(struct door *d)
{
    return d->feed;
}

const struct http_server *door_public(const struct door *d)
{
    return d->public_server;
}

const struct http_server *door_private(const struct door *d)
{
    return d->private_server;
}
