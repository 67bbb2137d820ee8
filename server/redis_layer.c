#include "server/redis_layer.h"

#include "core/log.h"
#include "core/metrics.h"
#include "server/redis_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TICK_US      US_PER_SECOND
#define RETRY_MIN_US (US_PER_SECOND / 10)
#define RETRY_MAX_US (5 * US_PER_SECOND)
#define SYNC_MIN_US  (2 * US_PER_SECOND) /* from one sync to the next ... */
#define SYNC_SHARE   5                   /* ... and this many times what the last one took */
#define SYNC_MAX_US  (5 * US_PER_MINUTE) /* while Redis keeps on giving trouble */
#define SYNC_ROOM    1000                /* a step when fewer keys wait */

struct retry {
    int64_t next_us;
    int64_t delay_us;
};

struct redis_layer {
    const struct config *cfg;
    pthread_t thread;
    int wake[2];
    struct pg_wait wait;
    atomic_bool stop;
    struct redis_writer writer;
    struct retry pg, redis, sync;
    int64_t next_tick_us;
    bool refused;     /* since the sync began */
    int64_t begun_us; /* when it did */
    uint64_t syncs;
    int64_t synced_us;    /* wall clock, 0 = not yet */
    pthread_mutex_t lock; /* guards what follows */
    char trouble[REDIS_TROUBLE_BYTES];
};

static int64_t now_us(void)
{
    return clock_mono_us(&clock_real);
}

static int64_t within(int64_t us, int64_t min, int64_t max)
{
    return us < min ? min : us > max ? max : us;
}

static void retry_later(struct retry *r)
{
    r->delay_us = within(2 * r->delay_us, RETRY_MIN_US, RETRY_MAX_US);
    r->next_us = now_us() + r->delay_us;
}

/* ---- what is told ---- */

static void set_trouble(struct redis_layer *l, const char *text)
{
    bool changed = strncmp(l->trouble, text, sizeof(l->trouble) - 1) != 0;
    if (!changed || atomic_load(&l->stop))
        return;
    if (*text)
        log_write(LOG_WARN, "redis", "Redis is behind the cache, trying again error=\"%s\"", text);
    else
        log_write(LOG_INFO, "redis", "Redis follows the cache");
    pthread_mutex_lock(&l->lock);
    snprintf(l->trouble, sizeof(l->trouble), "%s", text);
    pthread_mutex_unlock(&l->lock);
}

void redis_layer_trouble(struct redis_layer *l, char out[REDIS_TROUBLE_BYTES])
{
    pthread_mutex_lock(&l->lock);
    memcpy(out, l->trouble, REDIS_TROUBLE_BYTES);
    pthread_mutex_unlock(&l->lock);
}

static void publish(const struct redis_layer *l)
{
    const struct redis_writer *w = &l->writer;
    metric_follow(METRIC_REDIS_SETS, NULL, NULL, w->sets);
    metric_follow(METRIC_REDIS_DELS, NULL, NULL, w->dels);
    metric_follow(METRIC_REDIS_ERRORS, NULL, NULL, w->errors);
    metric_follow(METRIC_REDIS_SYNCS, NULL, NULL, w->syncs);
    metric_set(METRIC_REDIS_CONNECTED, NULL, NULL, w->link != NULL);
    metric_set(METRIC_REDIS_PENDING, NULL, NULL, (double)w->pending.n);
    metric_set(METRIC_REDIS_SYNCED, NULL, NULL, l->synced_us ? (double)l->synced_us / 1e6 : NAN);
}

/* ---- one round ---- */

static enum status connect_both(struct redis_layer *l, struct error *err)
{
    struct redis_writer *w = &l->writer;
    enum status st = STATUS_OK;
    if (!w->conn && now_us() >= l->pg.next_us) {
        st = redis_writer_connect_pg(w, err);
        if (st)
            retry_later(&l->pg);
        else
            l->pg = (struct retry){0};
    }
    if (!st && !w->link && now_us() >= l->redis.next_us) {
        st = redis_writer_connect_redis(w, err);
        if (st) {
            w->errors++;
            retry_later(&l->redis);
        }
    }
    return st;
}

/* Rarer and rarer while Redis does not take what it is given. */
static enum status sync_some(struct redis_layer *l, struct error *err)
{
    struct redis_writer *w = &l->writer;
    if (w->sync == SYNC_IDLE && w->sync_wanted && now_us() >= l->sync.next_us) {
        l->sync.delay_us =
            l->refused ? within(2 * l->sync.delay_us, SYNC_MIN_US, SYNC_MAX_US) : SYNC_MIN_US;
        l->begun_us = now_us();
        l->sync.next_us = l->begun_us + l->sync.delay_us;
        l->refused = false;
        redis_writer_sync_begin(w);
        log_write(LOG_DEBUG, "redis", "sync begins");
    }
    if (w->sync == SYNC_IDLE || w->pending.n >= SYNC_ROOM)
        return STATUS_OK;
    return redis_writer_sync_step(w, err);
}

static void end_sync(struct redis_layer *l)
{
    const struct redis_writer *w = &l->writer;
    int64_t next = l->begun_us + SYNC_SHARE * (now_us() - l->begun_us);
    if (next > l->sync.next_us)
        l->sync.next_us = next;
    l->syncs = w->syncs;
    l->synced_us = clock_wall_us(&clock_real);
    log_write(LOG_INFO, "redis", "synced keys=%" PRIu64 " sets=%" PRIu64 " dels=%" PRIu64,
              w->sync_keys, w->sets, w->dels);
}

static enum status write_some(struct redis_layer *l, struct error *err)
{
    struct redis_writer *w = &l->writer;
    enum status st = STATUS_OK;
    if (now_us() >= l->next_tick_us) {
        st = redis_writer_tick(w, err);
        l->next_tick_us = now_us() + TICK_US;
    }
    if (!st)
        st = sync_some(l, err);
    if (!st && w->pending.n)
        st = redis_writer_write(w, err);
    if (!st && w->pending.n == 0 && w->sync == SYNC_IDLE && w->syncs != l->syncs)
        end_sync(l);
    return st;
}

static enum status round_once(struct redis_layer *l, struct error *err)
{
    struct redis_writer *w = &l->writer;
    enum status st = connect_both(l, err);
    if (w->conn) {
        struct error heard = {0};
        enum status lost = redis_writer_hear(w, &heard);
        if (lost && !st) {
            st = lost;
            *err = heard;
        }
    }
    if (st || !w->conn || !w->link)
        return st;
    st = write_some(l, err);
    if (st)
        w->errors += st == STATUS_IO;
    else
        l->redis = (struct retry){0};
    l->refused |= st == STATUS_REFUSED;
    return st;
}

/* What to wait for, when there is nothing to do at once. */
static int64_t next_us(const struct redis_layer *l)
{
    const struct redis_writer *w = &l->writer;
    int64_t next = l->next_tick_us;
    if (!w->conn || !w->link)
        next = INT64_MAX;
    else if (w->sync_wanted && l->sync.next_us < next)
        next = l->sync.next_us;
    if (!w->conn && l->pg.next_us < next)
        next = l->pg.next_us;
    if (!w->link && l->redis.next_us < next)
        next = l->redis.next_us;
    return next;
}

/* True when there is something to do. */
static bool is_busy(const struct redis_layer *l)
{
    const struct redis_writer *w = &l->writer;
    return w->conn && w->link && (w->pending.n || w->sync != SYNC_IDLE);
}

static void *layer_main(void *arg)
{
    struct redis_layer *l = arg;
    struct redis_writer *w = &l->writer;
    while (!atomic_load(&l->stop)) {
        struct error err = {0};
        struct pg_ready ready;
        enum status st = round_once(l, &err);
        /* Until a connection is tried again, its trouble stands. */
        if (st)
            set_trouble(l, err.text);
        else if (w->conn && w->link)
            set_trouble(l, "");
        /* A connection that was just lost is tried anew at a bounded rate, too. */
        if (st == STATUS_IO && !w->link && now_us() >= l->redis.next_us)
            retry_later(&l->redis);
        if (st == STATUS_IO && !w->conn && now_us() >= l->pg.next_us)
            retry_later(&l->pg);
        publish(l);
        int64_t left = st || !is_busy(l) ? next_us(l) - now_us() : 0;
        if (st)
            left = within(left, RETRY_MIN_US, RETRY_MAX_US);
        if (pg_poll(w->conn ? PQsocket(w->conn) : -1, w->conn != NULL, false, left, &l->wait,
                    &ready, NULL))
            break;
    }
    return NULL;
}

/* ---- life ---- */

static void layer_free(struct redis_layer *l)
{
    redis_writer_deinit(&l->writer);
    close(l->wake[0]);
    close(l->wake[1]);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

enum status redis_layer_start(const struct config *cfg, struct redis_layer **ret, struct error *err)
{
    *ret = NULL;
    if (!cfg->redis.url[0])
        return STATUS_OK;
    struct redis_layer *l = calloc(1, sizeof(*l));
    if (!l)
        return error_set(err, STATUS_NOMEM, "could not allocate the Redis layer");
    l->cfg = cfg;
    if (pipe2(l->wake, O_NONBLOCK | O_CLOEXEC) != 0) {
        free(l);
        return error_set(err, STATUS_IO, "could not open a pipe: %s", strerror(errno));
    }
    pthread_mutex_init(&l->lock, NULL);
    snprintf(l->trouble, sizeof(l->trouble), "not connected yet");
    l->wait = (struct pg_wait){.clock = &clock_real, .wake_fd = l->wake[0], .wake_stops = true};
    enum status st = redis_writer_init(&l->writer, cfg, "warmpath redis", &l->wait, err);
    int rc = st ? 0 : pthread_create(&l->thread, NULL, layer_main, l);
    if (rc)
        st = error_set(err, STATUS_NOMEM, "could not start a thread (error %d)", rc);
    if (st) {
        layer_free(l);
        return st;
    }
    *ret = l;
    return STATUS_OK;
}

void redis_layer_stop(struct redis_layer *l)
{
    if (!l)
        return;
    atomic_store(&l->stop, true);
    ssize_t ignored = write(l->wake[1], "w", 1);
    (void)ignored;
    pthread_join(l->thread, NULL);
    layer_free(l);
}
