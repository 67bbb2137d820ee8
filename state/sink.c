#include "state/sink.h"

#include "core/counters.h"
#include "core/metrics.h"
#include "state/fault.h"
#include "state/histogram.h"
#include "state/sink_writer.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#define BACKOFF_MIN_US (100 * INT64_C(1000))
#define BACKOFF_MAX_US (10 * US_PER_SECOND)
/* How often dead rows are looked for, unless `keep` asks for more. */
#define SWEEP_MIN_US US_PER_SECOND
#define SWEEP_MAX_US (5 * US_PER_MINUTE)
/* A transaction takes rows until their strings reach this: bounds its memory and its locks. */
#define BATCH_BYTES ((size_t)4 << 20)

struct list {
    struct sink_node *head;
    struct sink_node **tail;
};

/*
 * An item is a node that moves from `queue` to the thread's batch to its worker's `results`, and is
 * freed by sink_poll(): nothing is allocated after submit, so an outcome can never be lost for want
 * of memory. `outstanding` counts all three and bounds them.
 */
struct sink {
    struct sink_config cfg; /* strings are ours */
    struct sink_writer writer;
    pthread_t thread;
    bool started;
    int cancel_fd; /* readable: give up waiting for the server */
    uint64_t random;
    size_t batch_rows; /* at most in a batch: halved by each that fails, doubled by each that
                          succeeds */

    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t work;  /* for the thread: items, heartbeat or stop */
    pthread_cond_t ended; /* for sink_stop() */
    struct list queue;
    struct list results[LIMIT_WORKERS];
    size_t outstanding;
    struct sink_heartbeat beat;
    bool stopping;        /* flush, then end */
    bool cancelled;       /* end now */
    bool done;            /* the thread has ended */
    struct error health;  /* why it stopped for good */
    struct error trouble; /* why it is retrying */
    struct error sweep;   /* why dead rows were not deleted */
    int64_t sweep_at_us;  /* monotonic; the thread's own */
    struct histogram latency;
};

static void list_init(struct list *l)
{
    l->head = NULL;
    l->tail = &l->head;
}

static void list_append(struct list *l, struct sink_node *node)
{
    node->next = NULL;
    *l->tail = node;
    l->tail = &node->next;
}

static struct sink_node *list_take(struct list *l)
{
    struct sink_node *node = l->head;
    if (!node)
        return NULL;
    l->head = node->next;
    if (!l->head)
        l->tail = &l->head;
    return node;
}

static void free_list(struct list *l)
{
    struct sink_node *node = NULL;
    while ((node = list_take(l))) {
        row_deinit(&node->item.row);
        free(node);
    }
}

/* ---- the thread ---- */

/* xorshift64*: only spreads retries, so any start but 0 will do. */
static uint64_t next_random(struct sink *s)
{
    s->random ^= s->random >> 12;
    s->random ^= s->random << 25;
    s->random ^= s->random >> 27;
    return s->random * UINT64_C(2685821657736338717);
}

/* Between half and all of the doubling delay, so that many sinks do not return together. */
static int64_t backoff_us(struct sink *s, int attempt)
{
    int64_t full = BACKOFF_MIN_US;
    for (int i = 1; i < attempt && full < BACKOFF_MAX_US; i++)
        full *= 2;
    if (full > BACKOFF_MAX_US)
        full = BACKOFF_MAX_US;
    return full / 2 + (int64_t)(next_random(s) % (uint64_t)(full / 2 + 1));
}

static struct timespec after_us(int64_t us)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += us / US_PER_SECOND;
    t.tv_nsec += (us % US_PER_SECOND) * 1000;
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    return t;
}

static void set_trouble(struct sink *s, const struct error *why)
{
    pthread_mutex_lock(&s->lock);
    s->trouble = why ? *why : (struct error){0};
    pthread_mutex_unlock(&s->lock);
}

/* New items must not cut the wait short: the server is still away. */
static void wait_before_retry(struct sink *s, int attempt, const struct error *why)
{
    int64_t delay_us = backoff_us(s, attempt);
    struct timespec until = after_us(delay_us);
    struct error trouble;
    error_set(&trouble, why->code, "retrying in %" PRId64 " ms: %.200s", delay_us / 1000,
              why->text);
    set_trouble(s, &trouble);
    pthread_mutex_lock(&s->lock);
    while (!s->cancelled && pthread_cond_timedwait(&s->work, &s->lock, &until) == 0)
        ;
    pthread_mutex_unlock(&s->lock);
}

/* Waits for work and takes a batch. False: time to end. */
static bool take_batch(struct sink *s, struct sink_node **nodes, size_t *ret_n,
                       struct sink_heartbeat *ret_beat)
{
    pthread_mutex_lock(&s->lock);
    while (!s->queue.head && !s->beat.due && !s->stopping)
        pthread_cond_wait(&s->work, &s->lock);
    bool go_on = !s->cancelled && (s->queue.head || s->beat.due);
    size_t n = 0, bytes = 0;
    while (go_on && s->queue.head && n < s->batch_rows && bytes < BATCH_BYTES) {
        nodes[n] = list_take(&s->queue);
        bytes += nodes[n]->item.row.text.len;
        n++;
    }
    *ret_beat = s->beat;
    s->beat.due = false;
    pthread_mutex_unlock(&s->lock);
    *ret_n = n;
    return go_on;
}

static void note_latency(struct sink *s, int64_t us)
{
    histogram_add(&s->latency, us);
    metric_observe(METRIC_CACHE_LATENCY, NULL, NULL, us);
}

static void note_committed(struct sink *s, struct sink_node *const *nodes, size_t n,
                           const struct sink_counts *counts)
{
    COUNTER_ADD(sink_batches, 1);
    COUNTER_ADD(rows_upserted, counts->upserted);
    COUNTER_ADD(rows_removed, counts->removed);
    COUNTER_ADD(rows_touched, counts->touched);
    COUNTER_ADD(rows_stale, counts->stale);
    int64_t now_us = clock_wall_us(s->cfg.clock);
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < n; i++)
        if (nodes[i]->item.commit_us && nodes[i]->outcome != SINK_MISSING)
            note_latency(s, now_us - nodes[i]->item.commit_us);
    pthread_mutex_unlock(&s->lock);
}

/* After COMMIT. On failure no result may leave: what is not announced is not done. */
static enum status announce(struct sink *s, struct sink_node **nodes, size_t n, struct error *err)
{
    const struct sink_writer *w = &s->writer;
    if (!s->cfg.committed || w->n_announcements == 0)
        return STATUS_OK;
    if (!s->cfg.committed(s->cfg.committed_ctx, w->announcements, w->n_announcements, err))
        return STATUS_OK;
    for (size_t i = 0; i < n; i++)
        nodes[i]->done = false;
    struct error cause = *err;
    return error_set(err, STATUS_REFUSED, "%s", cause.text);
}

static void fail_nodes(struct sink_node **nodes, size_t n, const struct error *why)
{
    for (size_t i = 0; i < n; i++) {
        nodes[i]->outcome = SINK_FAILED;
        struct str text = str_cut(str_from(why->text), sizeof(nodes[i]->reason) - 1);
        memcpy(nodes[i]->reason, text.ptr, text.len);
        nodes[i]->reason[text.len] = '\0';
        nodes[i]->done = true;
    }
}

/*
 * Writes arranged nodes. When the server refuses the data, halves are tried one after the other,
 * each in a transaction of its own, until the key whose data it is stands alone. Depth: log2 of the
 * batch.
 */
static enum status write_nodes(struct sink *s, struct sink_node **nodes, size_t n,
                               const struct sink_heartbeat *beat, struct error *err)
{
    enum status st = sink_writer_connect(&s->writer, err);
    struct sink_counts counts = {0};
    int64_t began_us = clock_mono_us(s->cfg.clock);
    if (!st)
        st = sink_writer_run(&s->writer, nodes, n, beat, &counts, err);
    if (!st) {
        if (n > 0)
            metric_observe(METRIC_CACHE_WRITE_DURATION, NULL, NULL,
                           clock_mono_us(s->cfg.clock) - began_us);
        note_committed(s, nodes, n, &counts);
        return announce(s, nodes, n, err);
    }
    if (st != STATUS_INVALID || n == 0)
        return st;
    size_t middle = sink_writer_group_end(nodes, n, 0);
    if (middle == n) {
        fail_nodes(nodes, n, err);
        return STATUS_OK;
    }
    while (middle < n / 2)
        middle = sink_writer_group_end(nodes, n, middle);
    if (middle == n) /* the last key has more than half of the items */
        for (middle = 0; sink_writer_group_end(nodes, n, middle) < n;)
            middle = sink_writer_group_end(nodes, n, middle);
    struct sink_heartbeat quiet = *beat;
    quiet.due = false;
    st = write_nodes(s, nodes, middle, beat, err);
    return st ? st : write_nodes(s, nodes + middle, n - middle, &quiet, err);
}

/* Hands out what is done and puts the rest back, in front of what has come in since. */
static void return_batch(struct sink *s, struct sink_node *const *nodes, size_t n, bool beat_again)
{
    bool woken[LIMIT_WORKERS] = {false};
    struct list back;
    list_init(&back);
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < n; i++) {
        if (!nodes[i]->done) {
            list_append(&back, nodes[i]);
            continue;
        }
        row_deinit(&nodes[i]->item.row);
        woken[nodes[i]->item.worker] = true;
        list_append(&s->results[nodes[i]->item.worker], nodes[i]);
    }
    if (back.head) {
        *back.tail = s->queue.head;
        if (!s->queue.head)
            s->queue.tail = back.tail;
        s->queue.head = back.head;
    }
    s->beat.due = s->beat.due || beat_again;
    pthread_mutex_unlock(&s->lock);
    for (uint32_t i = 0; s->cfg.wake && i < LIMIT_WORKERS; i++)
        if (woken[i])
            s->cfg.wake(s->cfg.wake_ctx, i);
}

static void set_final(struct sink *s, enum status st, const struct error *why)
{
    pthread_mutex_lock(&s->lock);
    s->health = *why;
    s->health.code = st;
    pthread_mutex_unlock(&s->lock);
}

static bool is_final(enum status st)
{
    return st == STATUS_FENCED || st == STATUS_REFUSED;
}

static int64_t sweep_interval_us(const struct sink_config *cfg)
{
    int64_t us = cfg->keep_us / 4;
    return us < SWEEP_MIN_US ? SWEEP_MIN_US : us > SWEEP_MAX_US ? SWEEP_MAX_US : us;
}

/*
 * Between batches, when it is time: deletes one batch of dead rows. As long as there are more, the
 * next one follows behind the next batch of rows or heartbeat. What goes wrong is told and tried
 * again in time; only the fence is final, since rows and heartbeats do not depend on it.
 */
static enum status sweep(struct sink *s, struct error *err)
{
    int64_t now_us = clock_mono_us(s->cfg.clock);
    if (s->cfg.keep_us == 0 || now_us < s->sweep_at_us || !s->writer.conn)
        return STATUS_OK;
    size_t rows = 0;
    struct error why = {0};
    enum status st = sink_writer_sweep(&s->writer, &rows, &why);
    COUNTER_ADD(rows_swept, rows);
    if (rows < SWEEP_ROWS_MAX)
        s->sweep_at_us = now_us + sweep_interval_us(&s->cfg);
    pthread_mutex_lock(&s->lock);
    s->sweep = why;
    s->sweep.code = st;
    pthread_mutex_unlock(&s->lock);
    if (st == STATUS_FENCED)
        *err = why;
    return st == STATUS_FENCED ? st : STATUS_OK;
}

static void *run(void *arg)
{
    struct sink *s = arg;
    struct sink_node *nodes[LIMIT_SINK_BATCH_ROWS];
    size_t n = 0;
    struct sink_heartbeat beat;
    int attempt = 0;
    while (take_batch(s, nodes, &n, &beat)) {
        struct error err = {0};
        sink_writer_arrange(nodes, n);
        enum status st = write_nodes(s, nodes, n, &beat, &err);
        if (FAULT_POINT("sink_before_results"))
            st = STATUS_IO;
        return_batch(s, nodes, n, st && beat.due);
        if (!st) {
            st = sweep(s, &err);
            n = 0;
        }
        if (is_final(st)) {
            set_final(s, st, &err);
            break;
        }
        if (!st) {
            if (attempt)
                set_trouble(s, NULL);
            attempt = 0;
            if (s->batch_rows < LIMIT_SINK_BATCH_ROWS / 2)
                s->batch_rows *= 2;
            else
                s->batch_rows = LIMIT_SINK_BATCH_ROWS;
            continue;
        }
        /* A server that is too slow for a batch of this size, within its time-outs, may manage a
         * smaller one. */
        if (n > 0)
            s->batch_rows = (n + 1) / 2;
        COUNTER_ADD(sink_retries, 1);
        wait_before_retry(s, ++attempt, &err);
    }
    sink_writer_disconnect(&s->writer);
    pthread_mutex_lock(&s->lock);
    s->done = true;
    pthread_cond_broadcast(&s->ended);
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* ---- the callers' side ---- */

static void sink_free(struct sink *s)
{
    if (!s)
        return;
    sink_writer_deinit(&s->writer);
    free_list(&s->queue);
    for (size_t i = 0; i < LIMIT_WORKERS; i++)
        free_list(&s->results[i]);
    if (s->cancel_fd >= 0)
        close(s->cancel_fd);
    pthread_cond_destroy(&s->work);
    pthread_cond_destroy(&s->ended);
    pthread_mutex_destroy(&s->lock);
    free((char *)(uintptr_t)s->cfg.conninfo);
    free((char *)(uintptr_t)s->cfg.pipeline);
    free((char *)(uintptr_t)s->cfg.slot);
    free(s);
}
CLEANUP_FREEP(struct sink, sink_free);

static struct sink *sink_new(const struct sink_config *cfg)
{
    struct sink *s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    s->cfg = *cfg;
    s->batch_rows = LIMIT_SINK_BATCH_ROWS;
    s->cfg.conninfo = strdup(cfg->conninfo);
    s->cfg.pipeline = strdup(cfg->pipeline);
    s->cfg.slot = cfg->slot ? strdup(cfg->slot) : NULL;
    s->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (getrandom(&s->random, sizeof(s->random), GRND_NONBLOCK) < 0 || s->random == 0)
        s->random = (uint64_t)clock_mono_us(&clock_real) | 1;
    list_init(&s->queue);
    for (size_t i = 0; i < LIMIT_WORKERS; i++)
        list_init(&s->results[i]);
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&s->work, &monotonic);
    pthread_cond_init(&s->ended, &monotonic);
    pthread_condattr_destroy(&monotonic);
    sink_writer_init(&s->writer, &s->cfg, s->cancel_fd);
    return s;
}

enum status sink_start(const struct sink_config *cfg, struct sink **ret, struct error *err)
{
    assert(cfg->n_tables >= 1 && cfg->n_tables <= LIMIT_TABLES);
    assert(cfg->queue_rows_max >= 1 && cfg->ttl_us > 0 && cfg->keep_us >= 0);
    CLEANUP(sink_freep) struct sink *s = sink_new(cfg);
    if (!s || !s->cfg.conninfo || !s->cfg.pipeline || (cfg->slot && !s->cfg.slot))
        return error_set(err, STATUS_NOMEM, "could not allocate the sink");
    if (s->cancel_fd < 0)
        return error_set(err, STATUS_IO, "could not create an eventfd: %s", strerror(errno));
    int failed = pthread_create(&s->thread, NULL, run, s);
    if (failed)
        return error_set(err, STATUS_IO, "could not start the sink: %s", strerror(failed));
    *ret = TAKE(s);
    return STATUS_OK;
}

void sink_stop(struct sink *s, int64_t deadline_us)
{
    if (!s)
        return;
    struct timespec until = after_us(deadline_us);
    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    pthread_cond_broadcast(&s->work);
    while (!s->done && pthread_cond_timedwait(&s->ended, &s->lock, &until) == 0)
        ;
    s->cancelled = true;
    pthread_cond_broadcast(&s->work);
    pthread_mutex_unlock(&s->lock);
    uint64_t one = 1;
    ssize_t written = write(s->cancel_fd, &one, sizeof(one));
    assert(written == sizeof(one));
    pthread_join(s->thread, NULL);
    sink_free(s);
}

size_t sink_room(struct sink *s)
{
    pthread_mutex_lock(&s->lock);
    size_t room = s->cfg.queue_rows_max - s->outstanding;
    pthread_mutex_unlock(&s->lock);
    return room;
}

static enum status allocate_nodes(struct sink *s, const struct sink_item *items, size_t n,
                                  struct list *ret)
{
    for (size_t i = 0; i < n; i++) {
        assert(items[i].table < s->cfg.n_tables);
        assert(items[i].row.table == &s->cfg.tables[items[i].table]);
        assert(items[i].worker < LIMIT_WORKERS && items[i].partition < LIMIT_PARTITIONS);
        struct sink_node *node = calloc(1, sizeof(*node));
        if (!node)
            return STATUS_NOMEM;
        list_append(ret, node);
    }
    return STATUS_OK;
}

enum status sink_submit(struct sink *s, struct sink_item *items, size_t n)
{
    assert(n <= s->cfg.queue_rows_max);
    if (n == 0)
        return STATUS_OK;
    CLEANUP(free_list) struct list nodes;
    list_init(&nodes);
    enum status st = allocate_nodes(s, items, n, &nodes);
    if (st)
        return st;
    pthread_mutex_lock(&s->lock);
    if (s->health.code)
        st = s->health.code;
    else if (n > s->cfg.queue_rows_max - s->outstanding)
        st = STATUS_AGAIN;
    for (size_t i = 0; !st && i < n; i++) {
        struct sink_node *node = list_take(&nodes);
        assert(node);
        node->item = items[i];
        items[i].row = (struct row){0};
        list_append(&s->queue, node);
    }
    if (!st) {
        s->outstanding += n;
        pthread_cond_signal(&s->work);
    }
    pthread_mutex_unlock(&s->lock);
    return st;
}

static struct sink_result result_of(const struct sink_node *node)
{
    struct sink_result r = {
        .key_id = node->item.key_id,
        .worker = node->item.worker,
        .table = node->item.table,
        .row_version = node->item.row.row_version,
        .payload_hash = node->item.payload_hash,
        .outcome = node->outcome,
    };
    memcpy(r.reason, node->reason, sizeof(r.reason));
    return r;
}
_Static_assert(sizeof(((struct sink_result *)0)->reason) == sizeof(((struct sink_node *)0)->reason),
               "a reason fits into a result");

size_t sink_poll(struct sink *s, uint32_t worker, struct sink_result *out, size_t max)
{
    assert(worker < LIMIT_WORKERS);
    struct list taken;
    list_init(&taken);
    size_t n = 0;
    pthread_mutex_lock(&s->lock);
    for (; n < max && s->results[worker].head; n++) {
        struct sink_node *node = list_take(&s->results[worker]);
        out[n] = result_of(node);
        list_append(&taken, node);
    }
    s->outstanding -= n;
    pthread_mutex_unlock(&s->lock);
    free_list(&taken);
    return n;
}

void sink_progress(struct sink *s, const int64_t caught_up_to_us[LIMIT_PARTITIONS],
                   lsn_t covered_lsn, uint64_t events_applied)
{
    pthread_mutex_lock(&s->lock);
    memcpy(s->beat.caught_up_to_us, caught_up_to_us, sizeof(s->beat.caught_up_to_us));
    s->beat.covered_lsn = covered_lsn;
    s->beat.events_applied = events_applied;
    s->beat.due = true;
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
}

enum status sink_health(struct sink *s, struct error *err)
{
    pthread_mutex_lock(&s->lock);
    struct error health = s->health;
    pthread_mutex_unlock(&s->lock);
    if (health.code && err)
        *err = health;
    return health.code;
}

bool sink_retrying(struct sink *s, struct error *err)
{
    pthread_mutex_lock(&s->lock);
    struct error trouble = s->trouble;
    pthread_mutex_unlock(&s->lock);
    if (trouble.code && err)
        *err = trouble;
    return trouble.code != STATUS_OK;
}

bool sink_sweep_failed(struct sink *s, struct error *err)
{
    pthread_mutex_lock(&s->lock);
    struct error why = s->sweep;
    pthread_mutex_unlock(&s->lock);
    if (why.code && err)
        *err = why;
    return why.code != STATUS_OK;
}

uint64_t sink_latency(struct sink *s, int64_t *ret_p50_us, int64_t *ret_p99_us)
{
    pthread_mutex_lock(&s->lock);
    struct histogram h = s->latency;
    pthread_mutex_unlock(&s->lock);
    *ret_p50_us = histogram_quantile(&h, 0.5);
    *ret_p99_us = histogram_quantile(&h, 0.99);
    return h.n;
}
