#include "pipeline/worker.h"

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "core/log.h"
#include "pipeline/link.h"
#include "pipeline/route.h"
#include "state/fault.h"

/* The longest wait when nothing is due: results of the sink are looked at this often. */
#define WAIT_MAX_US 50000
/* Sink answers and a covered LSN alone are committed this often. */
#define LAZY_COMMIT_US  US_PER_SECOND
#define SEND_TIMEOUT_MS 1000
/* What is only for /metrics is taken this often. */
#define FIGURES_US (US_PER_SECOND / 2)

struct worker {
    struct worker_config cfg;
    struct partition *partition;
    struct link *link;
    struct frame_reader reader;
    struct buf head;
    struct buf body;
    pthread_t thread;
    bool greeted;
    bool flushed; /* draining: what was dirty is made due */
    atomic_bool draining;
    atomic_bool drained;
    atomic_bool stop;
    uint64_t frame_number;        /* newest frame received */
    bool missing;                 /* a frame was lost: nothing counts until frame 1 */
    int64_t first_uncommitted_us; /* mono, 0 = nothing waits */
    int64_t committed_us;         /* mono */
    int64_t committed_wall_us;    /* 0 = none yet */
    int64_t figures_us;           /* mono: when the figures were taken */
    size_t committed_bytes;       /* of keys, then */
    pthread_mutex_t lock;         /* guards what follows */
    struct partition_view view;
    struct worker_figures figures;
    enum status status;
    struct error error;
};

/* ---- upstream ---- */

static enum status send_up(struct worker *w, enum frame_kind kind, uint32_t n, struct error *err)
{
    struct partition_view v = partition_view(w->partition);
    struct frame_header h = {
        .kind = kind,
        .number = w->frame_number,
        .as_of_us = v.as_of_us,
        .n = n,
        .opened = v.day.opened,
        .closed = v.day.closed,
    };
    memcpy(h.covered, v.covered_durable, sizeof(h.covered));
    buf_reset(&w->head);
    enum status st = frame_put_header(&w->head, &h);
    if (st)
        return error_set(err, st, "could not build a frame");
    return link_send(w->link, (struct str){w->head.data, w->head.len},
                     (struct str){w->body.data, w->body.len}, SEND_TIMEOUT_MS, err);
}

static void wake_router(struct worker *w)
{
    if (w->cfg.acked)
        w->cfg.acked(w->cfg.acked_ctx, w->cfg.partition.worker);
}

/* HELLO or REWIND: where each partition of this worker stands. */
static enum status send_positions(struct worker *w, enum frame_kind kind, struct error *err)
{
    const struct partition_config *pc = &w->cfg.partition;
    uint32_t n = 0;
    buf_reset(&w->body);
    for (uint32_t i = 0; i < LIMIT_PARTITIONS; i++) {
        if (route_worker(i, pc->workers) != pc->worker)
            continue;
        for (int s = 0; s < SOURCE_COUNT; s++, n++) {
            struct store_applied a = partition_applied(w->partition, (enum source)s, i);
            struct frame_applied f = {(enum source)s, i, a.pos, a.pseq};
            if (frame_put_applied(&w->body, &f))
                return error_set(err, STATUS_NOMEM, "could not build a frame");
        }
    }
    return send_up(w, kind, n, err);
}

static enum status ask_rewind(struct worker *w, struct error *err)
{
    w->missing = true;
    log_write(LOG_WARN, "worker", "a frame is missing, asking to read again after=%" PRIu64,
              w->frame_number);
    return send_positions(w, FRAME_REWIND, err);
}

static enum status apply_events(struct worker *w, const struct frame_header *h, int64_t now_us,
                                struct error *err)
{
    for (uint32_t i = 0; i < h->n; i++) {
        struct frame_event f;
        enum status st = frame_next_event(&w->reader, &f, err);
        if (!st)
            st = partition_event(w->partition, &f, now_us, err);
        if (st == STATUS_AGAIN)
            return ask_rewind(w, err);
        if (st)
            return st;
    }
    if (FAULT_POINT("frame_applied"))
        return error_set(err, STATUS_IO, "fault point frame_applied");
    w->frame_number = h->number;
    partition_covered(w->partition, h->covered, h->as_of_us);
    return STATUS_OK;
}

/* How long to wait for a frame: until the next timer, or not at all when a commit waits. */
static int wait_ms(struct worker *w)
{
    struct partition_view v = partition_view(w->partition);
    if (v.uncommitted > 0)
        return 0;
    int64_t wait_us = WAIT_MAX_US;
    if (v.next_us != TRIGGER_NEVER) {
        int64_t until_us = v.next_us - clock_wall_us(w->cfg.clock);
        if (until_us < wait_us)
            wait_us = until_us;
    }
    return wait_us <= 0 ? 0 : (int)((wait_us + 999) / 1000);
}

static bool commit_is_due(struct worker *w, bool idle)
{
    struct partition_view v = partition_view(w->partition);
    int64_t now = clock_mono_us(w->cfg.clock);
    /* Keys can only leave memory with a commit. */
    size_t room = w->cfg.partition.memory_max / 8;
    if (v.uncommitted > 0)
        return idle || v.uncommitted >= LIMIT_COMMIT_EVENTS ||
               v.key_bytes > w->committed_bytes + room ||
               now - w->first_uncommitted_us >= LIMIT_COMMIT_US;
    return v.lazy && now - w->committed_us >= LAZY_COMMIT_US;
}

static void take_figures(struct worker *w)
{
    int64_t now_us = clock_mono_us(w->cfg.clock);
    if (now_us - w->figures_us < FIGURES_US)
        return;
    w->figures_us = now_us;
    struct partition_figures f = partition_figures(w->partition);
    pthread_mutex_lock(&w->lock);
    w->figures = (struct worker_figures){f, w->committed_wall_us};
    pthread_mutex_unlock(&w->lock);
}

static void publish(struct worker *w)
{
    struct partition_view v = partition_view(w->partition);
    pthread_mutex_lock(&w->lock);
    w->view = v;
    pthread_mutex_unlock(&w->lock);
    take_figures(w);
    if (w->flushed && !v.queued && !v.in_flight && v.uncommitted == 0)
        atomic_store(&w->drained, true);
}

static enum status acknowledge(struct worker *w, struct error *err)
{
    if (FAULT_POINT("ack_before_send"))
        return error_set(err, STATUS_IO, "fault point ack_before_send");
    buf_reset(&w->body);
    enum status st = send_up(w, FRAME_ACK, 0, err);
    if (st == STATUS_AGAIN)
        st = STATUS_OK; /* cumulative: the next one says the same and more */
    if (FAULT_POINT("ack_after_send"))
        return error_set(err, STATUS_IO, "fault point ack_after_send");
    if (!st)
        wake_router(w);
    return st;
}

/* always: acknowledge even when there was nothing to commit. */
static enum status commit(struct worker *w, bool always, struct error *err)
{
    struct partition_view before = partition_view(w->partition);
    int64_t now_us = clock_wall_us(w->cfg.clock);
    enum status st = partition_commit(w->partition, now_us, err);
    if (st)
        return st;
    w->committed_us = clock_mono_us(w->cfg.clock);
    w->committed_wall_us = now_us;
    w->committed_bytes = partition_view(w->partition).key_bytes;
    w->first_uncommitted_us = 0;
    publish(w);
    return always || before.uncommitted > 0 || before.lazy ? acknowledge(w, err) : STATUS_OK;
}

/* ---- the change of day ---- */

/* What the router waits for: given up only when the worker is stopped. */
static enum status send_surely(struct worker *w, enum frame_kind kind, uint32_t n,
                               struct error *err)
{
    enum status st = STATUS_AGAIN;
    while (st == STATUS_AGAIN && !atomic_load(&w->stop))
        st = send_up(w, kind, n, err);
    wake_router(w);
    return st == STATUS_AGAIN ? STATUS_OK : st;
}

struct parts {
    struct worker *w;
    uint32_t n;   /* in the frame being built */
    uint32_t all; /* so far */
};

static enum status send_parts(struct parts *p, struct error *err)
{
    if (p->n == 0)
        return STATUS_OK;
    enum status st = send_surely(p->w, FRAME_PARTS, p->n, err);
    p->n = 0;
    buf_reset(&p->w->body);
    return st;
}

static enum status add_part(void *ctx, const struct store_part *part, struct error *err)
{
    struct parts *p = ctx;
    struct frame_sums s = {part->bot_name, part->bytes};
    if (frame_put_sums(&p->w->body, &s))
        return error_set(err, STATUS_NOMEM, "could not build a frame");
    p->n++;
    p->all++;
    return p->w->body.len < LIMIT_FRAME_BYTES ? STATUS_OK : send_parts(p, err);
}

static enum status close_day(struct worker *w, const struct frame_header *h, struct error *err)
{
    enum status st = partition_close_day(w->partition, h->closed, err);
    if (st)
        return st;
    w->frame_number = h->number;
    st = commit(w, true, err);
    struct parts parts = {.w = w};
    buf_reset(&w->body);
    if (!st)
        st = partition_day_parts(w->partition, h->closed, add_part, &parts, err);
    if (!st)
        st = send_parts(&parts, err);
    return st ? st : send_surely(w, FRAME_CLOSED, parts.all, err);
}

static enum status take_sums(struct worker *w, const struct frame_header *h, struct error *err)
{
    for (uint32_t i = 0; i < h->n; i++) {
        struct frame_sums f;
        struct epoch_sums sums;
        enum status st = frame_next_sums(&w->reader, &f, err);
        struct reader r = reader_of(st ? "" : f.bytes.ptr, st ? 0 : f.bytes.len);
        if (!st)
            st = epoch_cells_decode(&r, sums.v, err);
        if (!st)
            st = partition_learned(w->partition, h->opened, f.bot_name, &sums, err);
        if (st)
            return st;
    }
    w->frame_number = h->number;
    /* Of a day that is open already: nothing to commit, but the router waits for its credit. */
    return partition_view(w->partition).uncommitted == 0 ? commit(w, true, err) : STATUS_OK;
}

static enum status open_day(struct worker *w, const struct frame_header *h, struct error *err)
{
    enum status st = partition_open_day(w->partition, h->opened, err);
    if (st)
        return st;
    w->frame_number = h->number;
    return commit(w, true, err);
}

/* ---- the loop ---- */

static enum status apply_frame(struct worker *w, struct str bytes, int64_t now_us,
                               struct error *err)
{
    struct frame_header h;
    enum status st = frame_open(&w->reader, bytes, &h, err);
    if (st)
        return st;
    if (h.number == 1)
        w->missing = false;
    else if (w->missing)
        return STATUS_OK;
    else if (h.number != w->frame_number + 1)
        return ask_rewind(w, err);
    switch (h.kind) {
    case FRAME_EVENTS:
        return apply_events(w, &h, now_us, err);
    case FRAME_FLUSH:
        w->frame_number = h.number;
        return commit(w, true, err);
    case FRAME_CLOSE:
        return close_day(w, &h, err);
    case FRAME_SUMS:
        return take_sums(w, &h, err);
    case FRAME_DAY:
        return open_day(w, &h, err);
    case FRAME_HELLO:
    case FRAME_ACK:
    case FRAME_REWIND:
    case FRAME_PARTS:
    case FRAME_CLOSED:
        break;
    }
    return error_set(err, STATUS_PROTOCOL, "a worker was sent a frame of kind %d", h.kind);
}

static enum status step(struct worker *w, struct error *err)
{
    if (!w->greeted) {
        w->greeted = true;
        return send_positions(w, FRAME_HELLO, err);
    }
    struct str bytes;
    enum status st = link_receive(w->link, wait_ms(w), &bytes, err);
    bool idle = st == STATUS_AGAIN;
    if (st == STATUS_OK)
        st = apply_frame(w, bytes, clock_wall_us(w->cfg.clock), err);
    if (st && !idle)
        return st;
    if (idle && atomic_load(&w->draining) && !w->flushed) {
        w->flushed = true;
        st = partition_flush_all(w->partition, clock_wall_us(w->cfg.clock), err);
        if (st)
            return st;
    }
    st = partition_tick(w->partition, clock_wall_us(w->cfg.clock), err);
    if (st)
        return st;
    if (w->first_uncommitted_us == 0 && partition_view(w->partition).uncommitted > 0)
        w->first_uncommitted_us = clock_mono_us(w->cfg.clock);
    if (commit_is_due(w, idle))
        return commit(w, false, err);
    if (!idle)
        return STATUS_OK;
    publish(w);
    /* Rows wait for room in the sink, and nothing is uncommitted: this is a commit boundary. */
    return partition_view(w->partition).uncommitted == 0 ? partition_submit(w->partition, err)
                                                         : STATUS_OK;
}

enum status worker_step(struct worker *w, struct error *err)
{
    enum status st = step(w, err);
    return st && st != STATUS_FENCED ? store_explain(w->cfg.partition.store, st, err) : st;
}

static void *run(void *arg)
{
    struct worker *w = arg;
    struct error err = {0};
    enum status st = STATUS_OK;
    while (!st && !atomic_load(&w->stop))
        st = worker_step(w, &err);
    if (!st)
        st = partition_fold_all(w->partition, clock_wall_us(w->cfg.clock), &err);
    pthread_mutex_lock(&w->lock);
    w->view = partition_view(w->partition);
    w->status = st;
    w->error = err;
    pthread_mutex_unlock(&w->lock);
    atomic_store(&w->drained, true);
    return NULL;
}

/* ---- life ---- */

void worker_free(struct worker *w)
{
    if (!w)
        return;
    partition_close(w->partition);
    link_close(w->link);
    frame_reader_deinit(&w->reader);
    buf_deinit(&w->head);
    buf_deinit(&w->body);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

enum status worker_new(const struct worker_config *cfg, struct worker **ret, struct error *err)
{
    CLEANUP(worker_freep) struct worker *w = calloc(1, sizeof(*w));
    if (!w)
        return error_set(err, STATUS_NOMEM, "could not allocate a worker");
    w->cfg = *cfg;
    pthread_mutex_init(&w->lock, NULL);
    buf_init(&w->head, 256);
    buf_init(&w->body, LIMIT_FRAME_MAX_BYTES);
    w->committed_us = clock_mono_us(cfg->clock);
    enum status st = frame_reader_init(&w->reader);
    if (st)
        return error_set(err, st, "could not allocate a worker's frame reader");
    st = partition_open(&cfg->partition, clock_wall_us(cfg->clock), &w->partition, err);
    if (!st)
        st = link_dial(cfg->url, &w->link, err);
    if (st)
        return st;
    w->view = partition_view(w->partition);
    take_figures(w);
    *ret = TAKE(w);
    return STATUS_OK;
}

enum status worker_start(const struct worker_config *cfg, struct worker **ret, struct error *err)
{
    CLEANUP(worker_freep) struct worker *w = NULL;
    enum status st = worker_new(cfg, &w, err);
    if (st)
        return st;
    assert(w);
    int rc = pthread_create(&w->thread, NULL, run, w);
    if (rc)
        return error_set(err, STATUS_NOMEM, "could not start a worker thread (error %d)", rc);
    *ret = TAKE(w);
    return STATUS_OK;
}

void worker_drain(struct worker *w)
{
    atomic_store(&w->draining, true);
}

void worker_halt(struct worker *w)
{
    atomic_store(&w->stop, true);
}

enum status worker_stop(struct worker *w, struct error *err)
{
    if (!w)
        return STATUS_OK;
    worker_halt(w);
    pthread_join(w->thread, NULL);
    enum status st = worker_health(w, err);
    worker_free(w);
    return st;
}

enum status worker_health(struct worker *w, struct error *err)
{
    pthread_mutex_lock(&w->lock);
    enum status st = w->status;
    if (st && err)
        *err = w->error;
    pthread_mutex_unlock(&w->lock);
    return st;
}

struct partition_view worker_view(struct worker *w)
{
    pthread_mutex_lock(&w->lock);
    struct partition_view v = w->view;
    pthread_mutex_unlock(&w->lock);
    return v;
}

struct worker_figures worker_figures(struct worker *w)
{
    pthread_mutex_lock(&w->lock);
    struct worker_figures f = w->figures;
    pthread_mutex_unlock(&w->lock);
    return f;
}

bool worker_drained(struct worker *w)
{
    return atomic_load(&w->drained);
}
