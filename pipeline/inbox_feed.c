/*
 * The feed's thread: reads rows, gives their events, and then looks after them until every worker
 * has made them durable: it sends what the router has gathered and takes its acknowledgements, as
 * the slot reader does, because that one may be away.
 */
#include "pipeline/inbox_feed.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/counters.h"
#include "core/event.h"
#include "core/limits.h"
#include "core/log.h"
#include "core/metrics.h"

#define SLICE_ROWS 256 /* read at a time */
/* Waits, while nobody wakes us: for rows, for `begin`, for workers that have something to do. */
#define IDLE_US    US_PER_SECOND
#define BEGIN_US   (50 * INT64_C(1000))
#define PENDING_US (5 * INT64_C(1000))
#define RETRY_US   (100 * INT64_C(1000)) /* before rows are given again */

struct inbox_feed {
    struct inbox_feed_config cfg;
    pthread_t thread;
    struct event_arena *arena;
    uint64_t after; /* rows up to here have been given */
    bool again;     /* the router has lost some of them */
    _Atomic uint64_t given, durable;
    atomic_bool stop;

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t wake;
    bool woken;
    struct error failure; /* code OK: none */
};

/* ---- does it fit ---- */

enum status inbox_feed_fit(struct inbox *b, struct inbox_seen seen, struct error *err)
{
    uint64_t trimmed = inbox_view(b).trimmed;
    /* A state that has seen nothing is a new one: what came before it went with the old one. */
    if (trimmed <= seen.covered || seen.newest == 0)
        return STATUS_OK;
    if (trimmed > seen.newest)
        return error_set(
            err, STATUS_REFUSED,
            "the state ends at row %" PRIu64 " of the inbox, but rows up to %" PRIu64
            " were counted and are no longer in inbox.db: an older copy of the state was restored "
            "beside a newer inbox. Restore the newest copy of both; or move inbox.db away to go on "
            "without the rows in between",
            seen.covered, trimmed);
    log_write(LOG_WARN, "inbox",
              "inbox.db was lost or is an older copy: going on with new rows, those from %" PRIu64
              " to %" PRIu64 " may not have been counted",
              seen.covered + 1, trimmed);
    return STATUS_OK;
}

/* ---- waiting ---- */

void inbox_feed_wake(struct inbox_feed *f)
{
    if (!f)
        return;
    pthread_mutex_lock(&f->lock);
    f->woken = true;
    pthread_cond_signal(&f->wake);
    pthread_mutex_unlock(&f->lock);
}

static bool stopped(const struct inbox_feed *f)
{
    return atomic_load(&f->stop);
}

/* Until somebody wakes us, or that long. In real time: whoever moves another clock wakes us. */
static void wait_for_news(struct inbox_feed *f, int64_t us)
{
    int64_t until_us = clock_mono_us(&clock_real) + us;
    struct timespec until = {until_us / US_PER_SECOND, until_us % US_PER_SECOND * 1000};
    pthread_mutex_lock(&f->lock);
    while (!f->woken && !stopped(f))
        if (pthread_cond_timedwait(&f->wake, &f->lock, &until) == ETIMEDOUT)
            break;
    f->woken = false;
    pthread_mutex_unlock(&f->lock);
}

/* ---- giving ---- */

static enum status give(struct inbox_feed *f, const struct event *e, struct position pos,
                        int64_t received_us, struct error *err)
{
    enum status st;
    while ((st = router_event(f->cfg.router, SOURCE_INBOX, e, pos, received_us, err)) ==
           STATUS_AGAIN) {
        if (stopped(f))
            return STATUS_END;
        int64_t us = router_drained(f->cfg.router);
        wait_for_news(f, us < PENDING_US ? us : PENDING_US);
    }
    f->again = st == STATUS_IO;
    return st;
}

static enum status give_dead_letter(struct inbox_feed *f, const struct inbox_row *row,
                                    struct position pos, const char *reason, struct str bytes,
                                    struct error *err)
{
    char where[80];
    char id[48];
    int where_len = snprintf(where, sizeof(where), "inbox:" STR_FMT, STR_ARGS(row->source));
    int id_len = snprintf(id, sizeof(id), "%" PRIu64 "/%" PRIu64, pos.lsn, pos.seq >> 8);
    if (bytes.len > LIMIT_DEAD_LETTER_BYTES)
        bytes.len = LIMIT_DEAD_LETTER_BYTES;
    struct str why = str_from(reason);
    struct event e = {
        .type = EVENT_DEAD_LETTER,
        .id = {id, (size_t)id_len},
        .user_id = STR(""),
        .bot_name = STR(""),
        .at_us = row->received_us,
        .u.dead_letter = {.where = {where, (size_t)where_len}, .reason = why, .bytes = bytes},
    };
    return give(f, &e, pos, row->received_us, err);
}

static enum status give_one(struct inbox_feed *f, const struct inbox_row *row, struct position pos,
                            struct str bytes, struct error *err)
{
    struct event e;
    struct error why = {0};
    event_arena_reset(f->arena);
    enum status st = event_decode(bytes, f->arena, &e, &why);
    if (!st)
        st = give(f, &e, pos, row->received_us, &why);
    if (st == STATUS_PROTOCOL || st == STATUS_INVALID || st == STATUS_LIMIT)
        return give_dead_letter(f, row, pos, why.text, bytes, err);
    return st ? error_set(err, st, "%s", why.text) : STATUS_OK;
}

static enum status give_row(void *ctx, const struct inbox_row *row, struct error *err)
{
    struct inbox_feed *f = ctx;
    struct reader r = reader_of(row->events.ptr, row->events.len);
    enum status st = STATUS_OK;
    for (uint32_t i = 0; i < row->n_events && !st && !r.bad; i++) {
        struct position pos = {row->id, (uint64_t)i << 8};
        struct str rest = {(const char *)r.at, reader_left(&r)};
        struct str bytes = reader_blob(&r);
        st = r.bad ? give_dead_letter(f, row, pos, "the list of events is cut short", rest, err)
                   : give_one(f, row, pos, bytes, err);
    }
    if (!st) {
        st = router_commit(f->cfg.router, SOURCE_INBOX, row->id, row->received_us, err);
        f->again = st == STATUS_IO;
    }
    if (st)
        return stopped(f) ? STATUS_END : st;
    char source[METRIC_LABEL_BYTES];
    snprintf(source, sizeof(source), STR_FMT, STR_ARGS(row->source));
    metric_set(METRIC_SOURCE_LAST_EVENT, source, NULL, (double)row->received_us / 1e6);
    f->after = row->id;
    atomic_store(&f->given, row->id);
    return STATUS_OK;
}

/* ---- what becomes of it ---- */

/* What is durable may leave the inbox. IO: a worker has lost something. */
static enum status settle(struct inbox_feed *f, struct error *err)
{
    enum status st = router_commit(f->cfg.router, SOURCE_INBOX, f->after, 0, err);
    f->again = st == STATUS_IO;
    uint64_t durable = router_durable(f->cfg.router, SOURCE_INBOX);
    if (durable > atomic_load(&f->durable)) {
        inbox_trim(f->cfg.inbox, durable);
        atomic_store(&f->durable, durable);
    }
    return st;
}

/* What an earlier state has had is gone (inbox_feed_fit()), and counts as given. */
static void begin_again(struct inbox_feed *f)
{
    uint64_t durable = router_durable(f->cfg.router, SOURCE_INBOX);
    inbox_trim(f->cfg.inbox, durable);
    atomic_store(&f->durable, durable);
    uint64_t trimmed = inbox_view(f->cfg.inbox).trimmed;
    f->after = trimmed > durable ? trimmed : durable;
    f->again = false;
    atomic_store(&f->given, f->after);
}

static enum status work(struct inbox_feed *f, struct error *err)
{
    enum status st = inbox_read(f->cfg.inbox, f->after, SLICE_ROWS, give_row, f, err);
    bool more = st == STATUS_OK;
    if (st == STATUS_END)
        st = STATUS_OK;
    bool pending = f->after > atomic_load(&f->durable);
    if (!st && pending && !stopped(f))
        st = settle(f, err);
    if (!st && !more && !stopped(f))
        wait_for_news(f, pending ? PENDING_US : IDLE_US);
    return st;
}

static void *feed_main(void *arg)
{
    struct inbox_feed *f = arg;
    while (!atomic_load(f->cfg.begin) && !stopped(f))
        wait_for_news(f, BEGIN_US);
    if (!stopped(f))
        begin_again(f);
    struct error err = {0};
    while (!stopped(f)) {
        enum status st = work(f, &err);
        if (st && !f->again)
            break;
        if (!st)
            continue;
        log_write(LOG_WARN, "inbox", "giving rows again error=\"%s\"", err.text);
        err.code = STATUS_OK;
        wait_for_news(f, RETRY_US);
        begin_again(f);
    }
    if (stopped(f))
        err.code = STATUS_OK;
    pthread_mutex_lock(&f->lock);
    f->failure = err;
    pthread_mutex_unlock(&f->lock);
    return NULL;
}

/* ---- life ---- */

static void feed_free(struct inbox_feed *f)
{
    event_arena_free(f->arena);
    pthread_cond_destroy(&f->wake);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

enum status inbox_feed_start(const struct inbox_feed_config *cfg, struct inbox_feed **ret,
                             struct error *err)
{
    struct inbox_feed *f = calloc(1, sizeof(*f));
    if (!f)
        return error_set(err, STATUS_NOMEM, "could not allocate the feed of the inbox");
    f->cfg = *cfg;
    pthread_mutex_init(&f->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&f->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    enum status st = event_arena_new(&f->arena, err);
    int rc = st ? 0 : pthread_create(&f->thread, NULL, feed_main, f);
    if (rc)
        st = error_set(err, STATUS_NOMEM, "could not start a thread (error %d)", rc);
    if (st)
        feed_free(f);
    else
        *ret = f;
    return st;
}

void inbox_feed_stop(struct inbox_feed *f)
{
    if (!f)
        return;
    atomic_store(&f->stop, true);
    inbox_feed_wake(f);
    pthread_join(f->thread, NULL);
    feed_free(f);
}

enum status inbox_feed_health(struct inbox_feed *f, struct error *err)
{
    pthread_mutex_lock(&f->lock);
    enum status st = f->failure.code;
    if (st && err)
        *err = f->failure;
    pthread_mutex_unlock(&f->lock);
    return st;
}

struct inbox_feed_view inbox_feed_view(struct inbox_feed *f)
{
    return (struct inbox_feed_view){atomic_load(&f->given), atomic_load(&f->durable)};
}
