/*
 * The queue and its thread.
 *
 * What comes while a commit runs is committed together next: with one client every delivery has a
 * commit of its own at once, with many the groups grow by themselves. Left alone, though, many
 * clients fall into two camps that take turns, each waiting for the other's commit. So after a
 * commit the writer waits for about as many as were on their way at its end - those that have just
 * been answered are likely to come again - but no longer than a commit takes, nor than
 * commit_delay_us.
 */
#include "state/inbox_internal.h"

#include "core/limits.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define QUEUE_ITEMS 65536
#define QUEUE_BYTES (64u << 20)
#define GROUP_ITEMS 4096            /* in one transaction, */
#define GROUP_BYTES (16u << 20)     /* unless one delivery alone is larger */
#define TICK_US     INT64_C(500000) /* how often an idle writer looks for what others have appended */
/* All ids have been looked at once in this part of the time for which they are kept. */
#define WALKS_PER_KEEP 8

struct inbox {
    struct inbox_config cfg;
    struct inbox_file file; /* of the writer's thread */
    struct inbox_reader *reader;
    pthread_t thread;
    bool started;

    pthread_mutex_t lock;
    pthread_cond_t work;
    /* Under the lock: */
    struct inbox_item *first;
    struct inbox_item **last;
    size_t waiting;      /* in the list */
    size_t queued;       /* and those that the writer has taken, not answered yet */
    size_t queued_bytes; /* of their events */
    size_t wake_at;      /* the writer sleeps until so many wait; 0: it does not sleep */
    bool stop;
    struct error failure; /* code not OK: for good */

    /* Written by the writer's thread, read by all. */
    _Atomic uint64_t newest, trimmed, bytes;
    _Atomic int64_t committed_us, commit_max_us;
    _Atomic bool full;
    _Atomic uint64_t trim; /* rows up to here may go; from `trimmed` on they are still there */

    /* Of the writer's thread: */
    size_t in_flight;     /* deliveries that were answered or waiting when the last commit ended */
    int64_t ended_us;     /* when that was */
    int64_t commit_us;    /* how long commits take, lately */
    int64_t walk_next_us; /* when ids are to be looked at again; wall clock */
};

/* Waits and durations are in real time, whatever clock ids are aged by. */
static int64_t mono_us(void)
{
    return clock_mono_us(&clock_real);
}

/* ---- items ---- */

static struct str copy_to(char **at, struct str s)
{
    struct str copy = {*at, s.len};
    if (s.len)
        memcpy(*at, s.ptr, s.len);
    *at += s.len;
    return copy;
}

struct inbox_item *inbox_item_new(const struct inbox_delivery *d)
{
    size_t size =
        sizeof(struct inbox_item) + d->source.len + 1 + d->id.len + d->events.len + d->cursor.len;
    struct inbox_item *item = malloc(size);
    if (!item)
        return NULL;
    *item = (struct inbox_item){.d = *d};
    char *at = (char *)(item + 1);
    item->d.source = copy_to(&at, d->source);
    *at++ = '\0';
    item->d.id = copy_to(&at, d->id);
    if (d->id.len)
        item->dedupe = (struct str){item->d.source.ptr, d->source.len + 1 + d->id.len};
    item->d.events = copy_to(&at, d->events);
    if (d->cursor.ptr)
        item->d.cursor = copy_to(&at, d->cursor);
    return item;
}

/* n_events blobs and nothing else. */
static bool events_match(const struct inbox_delivery *d)
{
    struct reader r = reader_of(d->events.ptr, d->events.len);
    for (uint32_t i = 0; i < d->n_events && !r.bad; i++)
        reader_blob(&r);
    return !r.bad && reader_left(&r) == 0;
}

static bool has_room(struct inbox *b, size_t bytes, struct error *err)
{
    if (b->queued >= QUEUE_ITEMS || (b->queued && b->queued_bytes + bytes > QUEUE_BYTES)) {
        error_set(err, STATUS_AGAIN, "%zu deliveries with %zu bytes wait to be stored already",
                  b->queued, b->queued_bytes);
        return false;
    }
    uint64_t stored = atomic_load(&b->bytes);
    if (stored + b->queued_bytes + bytes <= b->cfg.bytes_max)
        return true;
    error_set(err, STATUS_AGAIN,
              "the inbox holds %llu bytes that are not applied yet, of at most %llu",
              (unsigned long long)stored, (unsigned long long)b->cfg.bytes_max);
    return false;
}

enum status inbox_submit(struct inbox *b, const struct inbox_delivery *d, inbox_done_fn *done,
                         void *ctx, struct error *err)
{
    assert(d->source.len >= 1 && d->source.len <= 63);
    assert(events_match(d));
    size_t bytes = d->events.len;
    if (bytes > LIMIT_DELIVERY_BYTES || bytes > b->cfg.bytes_max)
        return error_set(err, STATUS_LIMIT, "a delivery of %zu bytes is larger than any may be",
                         bytes);
    struct inbox_item *item = inbox_item_new(d);
    if (!item)
        return error_set(err, STATUS_AGAIN, "could not allocate a delivery of %zu bytes", bytes);
    item->done = done;
    item->ctx = ctx;

    pthread_mutex_lock(&b->lock);
    assert(!b->stop);
    bool room = has_room(b, bytes, err);
    if (room) {
        *b->last = item;
        b->last = &item->next;
        b->waiting++;
        b->queued++;
        b->queued_bytes += bytes;
    }
    bool wake = b->wake_at && b->waiting >= b->wake_at;
    if (wake)
        b->wake_at = 0; /* once is enough */
    pthread_mutex_unlock(&b->lock);
    if (wake)
        pthread_cond_signal(&b->work);
    if (!room)
        free(item);
    return room ? STATUS_OK : STATUS_AGAIN;
}

/* ---- the writer's thread ---- */

/* Sleeps until n wait, until_us has come, or it is to stop. Called with the lock held. */
static void sleep_until(struct inbox *b, size_t n, int64_t until_us)
{
    struct timespec until = {until_us / US_PER_SECOND, until_us % US_PER_SECOND * 1000};
    b->wake_at = n;
    while (b->wake_at && !b->stop)
        if (pthread_cond_timedwait(&b->work, &b->lock, &until) == ETIMEDOUT)
            break;
    b->wake_at = 0;
}

static bool has_trim(const struct inbox *b)
{
    return atomic_load(&b->trim) > atomic_load(&b->trimmed);
}

static int64_t min_i64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Takes everything that waits, or nothing after a while without any; *ret_stop: and nothing more
 * will come. */
static struct inbox_item *take(struct inbox *b, bool busy, bool *ret_stop)
{
    pthread_mutex_lock(&b->lock);
    if (!b->waiting && !b->stop && !busy)
        sleep_until(b, 1, mono_us() + TICK_US);
    size_t enough = b->in_flight - b->in_flight / 8;
    int64_t until_us = b->ended_us + min_i64(b->cfg.commit_delay_us, b->commit_us);
    if (b->waiting && b->waiting < enough && !b->stop && mono_us() < until_us)
        sleep_until(b, enough, until_us);
    struct inbox_item *items = b->first;
    b->first = NULL;
    b->last = &b->first;
    b->waiting = 0;
    *ret_stop = b->stop;
    pthread_mutex_unlock(&b->lock);
    return items;
}

/* Cuts the first group off the list. */
static struct inbox_item *cut_group(struct inbox_item **list)
{
    struct inbox_item *group = *list;
    size_t n = 0;
    size_t bytes = 0;
    struct inbox_item **at = list;
    while (*at && n < GROUP_ITEMS && (n == 0 || bytes + (*at)->d.events.len <= GROUP_BYTES)) {
        n++;
        bytes += (*at)->d.events.len;
        at = &(*at)->next;
    }
    struct inbox_item *rest = *at;
    *at = NULL;
    *list = rest;
    return group;
}

static void answer(struct inbox *b, struct inbox_item *items, bool stored)
{
    size_t n = 0;
    size_t bytes = 0;
    for (struct inbox_item *i = items; i; i = i->next) {
        n++;
        bytes += i->d.events.len;
    }
    /* First, so that whoever is answered finds the room that it has made. */
    pthread_mutex_lock(&b->lock);
    b->queued -= n;
    b->queued_bytes -= bytes;
    b->in_flight = n + b->waiting;
    pthread_mutex_unlock(&b->lock);
    while (items) {
        struct inbox_item *item = items;
        items = item->next;
        if (item->done)
            item->done(item->ctx, stored ? item->outcome : INBOX_FAILED);
        free(item);
    }
}

static void fail(struct inbox *b, const struct error *err)
{
    pthread_mutex_lock(&b->lock);
    if (!b->failure.code)
        b->failure = *err;
    pthread_mutex_unlock(&b->lock);
}

static bool failed(struct inbox *b)
{
    return inbox_health(b, NULL) != STATUS_OK;
}

/* Says what the file says now. */
static void publish(struct inbox *b)
{
    const struct inbox_meta *m = &b->file.meta;
    uint64_t before = atomic_load(&b->newest);
    atomic_store(&b->bytes, m->bytes);
    atomic_store(&b->trimmed, m->trimmed);
    atomic_store(&b->newest, m->newest);
    if (m->newest > before && b->cfg.stored)
        b->cfg.stored(b->cfg.stored_ctx, m->newest);
}

static bool ids_are_due(const struct inbox *b, int64_t now_us)
{
    return now_us >= b->walk_next_us;
}

/* All ids are to be looked at once in keep_ids_us / WALKS_PER_KEEP. */
static void plan_walk(struct inbox *b, int64_t now_us)
{
    uint64_t slices = b->file.meta.ids / INBOX_LOOK_IDS + 1;
    b->walk_next_us = now_us + b->cfg.keep_ids_us / WALKS_PER_KEEP / (int64_t)slices;
}

/* One transaction, with its answers. */
static void commit(struct inbox *b, struct inbox_item *items)
{
    struct inbox_chores chores = {.now_us = clock_wall_us(b->cfg.clock),
                                  .trim = atomic_load(&b->trim)};
    chores.forget_ids = ids_are_due(b, chores.now_us);
    struct error err = {0};
    bool again = false;
    int64_t from_us = mono_us();
    enum status st =
        failed(b) ? STATUS_IO : inbox_file_commit(&b->file, items, &chores, &again, &err);
    int64_t took_us = mono_us() - from_us;
    if (!st) {
        b->commit_us += (took_us - b->commit_us) / 4;
        if (took_us > atomic_load(&b->commit_max_us))
            atomic_store(&b->commit_max_us, took_us);
        atomic_store(&b->committed_us, clock_wall_us(b->cfg.clock));
        if (chores.forget_ids)
            plan_walk(b, chores.now_us);
    } else if (err.code && !again) {
        fail(b, &err);
    }
    atomic_store(&b->full, st && again);
    if (!st) /* first: who is answered may look */
        publish(b);
    answer(b, items, !st);
    b->ended_us = mono_us();
    if (!st && inbox_file_checkpoint(&b->file, &err))
        fail(b, &err);
}

/* Nobody has submitted anything: what have other processes done? */
static void follow(struct inbox *b)
{
    struct error err = {0};
    if (failed(b))
        return;
    if (inbox_file_follow(&b->file, &err)) {
        fail(b, &err);
        return;
    }
    publish(b);
}

static void *writer(void *arg)
{
    struct inbox *b = arg;
    bool stop = false;
    while (!stop) {
        bool chores = !failed(b) && (has_trim(b) || ids_are_due(b, clock_wall_us(b->cfg.clock)));
        /* Where there is no room now, once in a while is enough. */
        struct inbox_item *items = take(b, chores && !atomic_load(&b->full), &stop);
        if (!items && !stop)
            follow(b);
        if (!items && !stop && chores)
            commit(b, NULL);
        while (items)
            commit(b, cut_group(&items));
    }
    return NULL;
}

/* ---- the life of an inbox ---- */

static enum status start(struct inbox *b, struct error *err)
{
    const struct inbox_meta *m = &b->file.meta;
    b->newest = m->newest;
    b->trimmed = b->trim = m->trimmed;
    b->bytes = m->bytes;
    plan_walk(b, clock_wall_us(b->cfg.clock));
    int rc = pthread_create(&b->thread, NULL, writer, b);
    if (rc != 0)
        return error_set(err, STATUS_NOMEM, "could not start the inbox's thread: %s", strerror(rc));
    b->started = true;
    return STATUS_OK;
}

static struct inbox *new_inbox(const struct inbox_config *cfg)
{
    struct inbox *b = calloc(1, sizeof(*b));
    if (!b)
        return NULL;
    b->cfg = *cfg;
    b->last = &b->first;
    pthread_mutex_init(&b->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&b->work, &monotonic);
    pthread_condattr_destroy(&monotonic);
    return b;
}

enum status inbox_open(const struct inbox_config *cfg, struct inbox **ret, struct error *err)
{
    assert(cfg->clock && cfg->commit_delay_us >= 0 && cfg->keep_ids_us > 0);
    CLEANUP(inbox_closep) struct inbox *b = new_inbox(cfg);
    if (!b)
        return error_set(err, STATUS_NOMEM, "could not allocate an inbox");
    enum status st = inbox_file_open(cfg, &b->file, err);
    if (!st)
        st = inbox_reader_open(b->file.path, &b->reader, err);
    if (!st)
        st = start(b, err);
    if (st)
        return st;
    *ret = TAKE(b);
    return STATUS_OK;
}

void inbox_close(struct inbox *b)
{
    if (!b)
        return;
    if (b->started) {
        pthread_mutex_lock(&b->lock);
        b->stop = true;
        pthread_mutex_unlock(&b->lock);
        pthread_cond_signal(&b->work);
        pthread_join(b->thread, NULL);
    }
    inbox_reader_close(b->reader);
    inbox_file_close(&b->file, !failed(b));
    pthread_cond_destroy(&b->work);
    pthread_mutex_destroy(&b->lock);
    free(b);
}

enum status inbox_health(struct inbox *b, struct error *err)
{
    pthread_mutex_lock(&b->lock);
    enum status st = b->failure.code;
    if (st && err)
        *err = b->failure;
    pthread_mutex_unlock(&b->lock);
    return st;
}

/* ---- the reading side ---- */

enum status inbox_read(struct inbox *b, uint64_t after, uint32_t max,
                       enum status (*fn)(void *ctx, const struct inbox_row *row, struct error *err),
                       void *ctx, struct error *err)
{
    uint64_t trimmed = atomic_load(&b->trim);
    after = after > trimmed ? after : trimmed;
    if (after >= atomic_load(&b->newest))
        return STATUS_END;
    return inbox_reader_read(b->reader, after, &b->trim, max, fn, ctx, err);
}

enum status inbox_cursor(struct inbox *b, struct str source, struct buf *out, struct error *err)
{
    return inbox_file_cursor(b->file.path, source, out, err);
}

void inbox_trim(struct inbox *b, uint64_t id)
{
    uint64_t newest = atomic_load(&b->newest);
    uint64_t before = atomic_load(&b->trim);
    id = id < newest ? id : newest;
    while (before < id && !atomic_compare_exchange_weak(&b->trim, &before, id))
        ;
    /* While there is room it can wait for the next commit, or for the writer to look by itself. */
    if (atomic_load(&b->bytes) < b->cfg.bytes_max / 4)
        return;
    pthread_mutex_lock(&b->lock);
    b->wake_at = 0;
    pthread_mutex_unlock(&b->lock);
    pthread_cond_signal(&b->work);
}

uint64_t inbox_newest(struct inbox *b)
{
    return atomic_load(&b->newest);
}

struct inbox_view inbox_view(struct inbox *b)
{
    struct inbox_view v = {
        .newest = atomic_load(&b->newest),
        .trimmed = atomic_load(&b->trim),
        .deleted = atomic_load(&b->trimmed),
        .bytes = atomic_load(&b->bytes),
        .committed_us = atomic_load(&b->committed_us),
        .commit_max_us = atomic_load(&b->commit_max_us),
        .full = atomic_load(&b->full),
    };
    pthread_mutex_lock(&b->lock);
    v.queued = b->queued;
    pthread_mutex_unlock(&b->lock);
    return v;
}
