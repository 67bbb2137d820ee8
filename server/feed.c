#include "server/feed.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <nng/nng.h>
#include <nng/protocol/pubsub0/pub.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/log.h"
#include "core/metrics.h"
#include "engines/tables.h"
#include "server/feed_internal.h"

/* What a subscriber may be behind before nng drops for it: the most that nng takes. */
#define PUB_QUEUE 8192

/* ---- opening ---- */

static enum status open_pub(struct feed *f, struct error *err)
{
    const char *url = f->open.cfg->pub;
    int rc = nng_pub0_open(&f->pub);
    if (rc)
        return error_set(err, STATUS_IO, "could not open a PUB socket: %s", nng_strerror(rc));
    f->publishes = true;
    nng_listener l = NNG_LISTENER_INITIALIZER;
    rc = nng_socket_set_int(f->pub, NNG_OPT_SENDBUF, PUB_QUEUE);
    if (!rc)
        rc = nng_listener_create(&l, f->pub, url);
    if (!rc && strncmp(url, "ipc://", 6) == 0)
        rc = nng_listener_set_int(l, NNG_OPT_IPC_PERMISSIONS, 0660);
    if (!rc)
        rc = nng_listener_start(l, 0);
    if (rc)
        return error_set(err, STATUS_IO, "could not publish on \"%s\" (feed.pub): %s", url,
                         nng_strerror(rc));
    log_write(LOG_INFO, "feed", "publishing address=\"%s\"", url);
    return STATUS_OK;
}

/* Left from an earlier run: its dead letters, which an erasure has to find. */
static bool queue_is_there(const char *dir)
{
    char path[CONFIG_URL_BYTES * 4];
    snprintf(path, sizeof(path), "%s/" FEED_QUEUE_FILE, dir);
    return access(path, F_OK) == 0;
}

static enum status open_queue(struct feed *f, struct error *err)
{
    const struct config_feed *c = f->open.cfg;
    if (!c->n_webhooks && !queue_is_there(f->open.state_dir))
        return STATUS_OK;
    for (size_t i = 0; i < c->n_webhooks; i++)
        f->destinations[i] = (struct feed_destination){
            .name = c->webhooks[i].name,
            .bots = c->webhooks[i].bots,
            .tables = c->webhooks[i].tables,
        };
    struct feed_queue_config qc = {
        .dir = f->open.state_dir,
        .destinations = f->destinations,
        .n_destinations = c->n_webhooks,
        .rows_max = (uint64_t)c->queue,
        .clock = f->open.clock,
    };
    uint64_t dropped = 0;
    enum status st = feed_queue_open(&qc, &f->queue, &dropped, err);
    if (!st && dropped)
        log_write(LOG_WARN, "feed",
                  "announcements for destinations that are not configured any more were deleted "
                  "n=%" PRIu64,
                  dropped);
    for (size_t i = 0; i < c->n_webhooks && !st; i++)
        st = feed_sender_start(&c->webhooks[i], f->queue, i, f->open.clock, &f->senders[i], err);
    return st;
}

enum status feed_open(const struct feed_open *open, struct feed **ret, struct error *err)
{
    CLEANUP(feed_closep) struct feed *f = calloc(1, sizeof(*f));
    if (!f)
        return error_set(err, STATUS_NOMEM, "could not allocate the feed");
    if (sodium_init() < 0) {
        free(TAKE(f));
        return error_set(err, STATUS_IO, "could not get random bytes from the system");
    }
    f->open = *open;
    f->size = (size_t)open->cfg->history;
    f->next = 1;
    snprintf(f->mark, sizeof(f->mark), "%08" PRIx32, randombytes_random());
    pthread_mutex_init(&f->lock, NULL);
    pthread_mutex_init(&f->wake_lock, NULL);
    f->ring = calloc(f->size, sizeof(*f->ring));
    if (!f->ring)
        return error_set(err, STATUS_NOMEM, "could not allocate feed.history");
    enum status st = *open->cfg->pub ? open_pub(f, err) : STATUS_OK;
    if (!st)
        st = open_queue(f, err);
    if (!st)
        *ret = TAKE(f);
    return st;
}

void feed_close(struct feed *f)
{
    if (!f)
        return;
    assert(f->clients == 0);
    for (size_t i = 0; i < CONFIG_FEED_WEBHOOKS_MAX; i++)
        feed_sender_tell_stop(f->senders[i]);
    for (size_t i = 0; i < CONFIG_FEED_WEBHOOKS_MAX; i++)
        feed_sender_stop(f->senders[i]);
    feed_queue_close(f->queue);
    if (f->publishes)
        nng_close(f->pub);
    for (size_t i = 0; f->ring && i < f->size; i++)
        free(f->ring[i].text);
    free(f->ring);
    pthread_mutex_destroy(&f->wake_lock);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

/* ---- announcements ---- */

/* Never waits: what does not fit into a subscriber's queue is dropped for him. */
static void publish(struct feed *f, const struct announcement *a)
{
    nng_msg *msg = NULL;
    if (nng_msg_alloc(&msg, 0))
        return;
    if (nng_msg_append(msg, a->json.ptr, a->json.len) ||
        nng_sendmsg(f->pub, msg, NNG_FLAG_NONBLOCK))
        nng_msg_free(msg);
}

uint64_t feed_first(const struct feed *f)
{
    return f->next > f->size ? f->next - f->size : 1;
}

static void forget_key(struct feed *f, const struct announcement *a)
{
    for (uint64_t n = feed_first(f); n < f->next; n++) {
        struct feed_entry *e = &f->ring[n % f->size];
        if (!e->text || (a->bot.len && !str_equal(e->bot, a->bot)) || !str_equal(e->user, a->user))
            continue;
        free(e->text);
        *e = (struct feed_entry){0};
    }
}

static struct str copy_to(char **at, struct str s)
{
    char *start = *at;
    if (s.len)
        memcpy(start, s.ptr, s.len);
    *at += s.len;
    return (struct str){s.ptr ? start : NULL, s.len};
}

static void keep(struct feed *f, const struct announcement *a)
{
    struct feed_entry *e = &f->ring[f->next % f->size];
    free(e->text);
    *e = (struct feed_entry){.text = malloc(a->bot.len + a->user.len + a->json.len)};
    char *at = e->text;
    if (e->text) { /* else it is lost to the streams, which can read anew */
        e->bot = copy_to(&at, a->bot);
        e->user = copy_to(&at, a->user);
        e->json = copy_to(&at, a->json);
    }
    f->next++;
}

enum status feed_committed(void *ctx, const struct announcement *list, size_t n, struct error *err)
{
    struct feed *f = ctx;
    enum status st = f->queue ? feed_queue_append(f->queue, list, n, err) : STATUS_OK;
    if (st)
        return st;
    metric_add(METRIC_FEED_ANNOUNCEMENTS, NULL, NULL, n);
    for (size_t i = 0; i < n && f->publishes; i++)
        publish(f, &list[i]);
    pthread_mutex_lock(&f->lock);
    for (size_t i = 0; i < n; i++) {
        if (announcement_erases(&list[i]))
            forget_key(f, &list[i]);
        keep(f, &list[i]);
    }
    pthread_mutex_unlock(&f->lock);
    pthread_mutex_lock(&f->wake_lock);
    if (f->server)
        http_wake_streams(f->server);
    pthread_mutex_unlock(&f->wake_lock);
    return STATUS_OK;
}

enum status feed_erased(struct feed *f, struct str bot, struct str user, uint64_t row_version,
                        struct error *err)
{
    CLEANUP(buf_deinit) struct buf names;
    CLEANUP(buf_deinit) struct buf json;
    buf_init(&names, LIMIT_NOTIFY_BYTES);
    buf_init(&json, LIMIT_NOTIFY_BYTES);
    enum status st = STATUS_OK;
    for (size_t t = 0; t < TABLE_COUNT && !st; t++)
        if (!tables[t].by_window)
            st = buf_printf(&names, "%s%s", names.len ? "," : "", tables[t].name);
    struct announcement a = {
        .bot = bot.len ? bot : STR_NULL,
        .user = user,
        .tables = {names.data, names.len},
        .reason = STR(ANNOUNCEMENT_ERASE),
        .row_version = row_version,
    };
    if (!st)
        st = announcement_write(&a, &json);
    if (st)
        return error_set(err, st, "could not announce an erasure");
    a.json = (struct str){json.data, json.len};
    return feed_committed(f, &a, 1, err);
}

void feed_listen(struct feed *f, struct http_server *server)
{
    pthread_mutex_lock(&f->wake_lock);
    f->server = server;
    pthread_mutex_unlock(&f->wake_lock);
}

/* ---- meanwhile ---- */

enum status feed_reload(struct feed *f, const struct config_feed *cfg, struct error *err)
{
    const struct config_feed *now = f->open.cfg;
    enum status st = STATUS_OK;
    for (size_t i = 0; i < now->n_webhooks && !st; i++)
        for (size_t k = 0; k < cfg->n_webhooks && !st; k++)
            if (strcmp(now->webhooks[i].name, cfg->webhooks[k].name) == 0)
                st = feed_sender_reload(f->senders[i], &cfg->webhooks[k], err);
    return st;
}

void feed_figures(struct feed *f)
{
    pthread_mutex_lock(&f->lock);
    unsigned clients = f->clients;
    pthread_mutex_unlock(&f->lock);
    metric_set(METRIC_FEED_CLIENTS, NULL, NULL, clients);
    for (size_t i = 0; f->queue && i < f->open.cfg->n_webhooks; i++) {
        const char *name = f->destinations[i].name;
        struct feed_view v = {0};
        if (feed_queue_view(f->queue, i, &v, NULL))
            continue;
        metric_set(METRIC_FEED_WAITING, name, NULL, (double)v.waiting);
        metric_set(METRIC_FEED_OLDEST, name, NULL,
                   v.oldest_us ? (double)v.oldest_us / (double)US_PER_SECOND : NAN);
        metric_set(METRIC_FEED_DEAD, name, NULL, (double)v.dead);
    }
}
