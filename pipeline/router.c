#include "pipeline/router_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "core/counters.h"
#include "core/log.h"
#include "engines/kernels.h"
#include "pipeline/route.h"
#include "state/fault.h"

/* A worker that got no events still learns what is covered, this often. */
#define MARKER_US (200 * INT64_C(1000))
/* Looking for frames costs a few microseconds: without a hint it is done this often. */
#define LOOK_US 2000
/* A frame that was announced is looked for again after this. */
#define EXPECT_US 200
/* A slot reader that is not heard of for so long has no connection, or stands still. */
#define AWAY_US (3 * US_PER_SECOND)

enum status router_new(const struct router_config *cfg, struct router **ret, struct error *err)
{
    assert(cfg->workers >= 1 && cfg->workers <= LIMIT_WORKERS);
    CLEANUP(router_freep) struct router *r = calloc(1, sizeof(*r));
    if (!r)
        return error_set(err, STATUS_NOMEM, "could not allocate the router");
    r->cfg = *cfg;
    pthread_mutex_init(&r->lock, NULL);
    r->day_end_us = INT64_MAX;
    buf_init(&r->scratch, LIMIT_FRAME_MAX_BYTES);
    buf_init(&r->head, 256);
    for (uint32_t i = 0; i < cfg->workers; i++) {
        r->out[i].link = cfg->links[i];
        buf_init(&r->out[i].body, LIMIT_FRAME_MAX_BYTES);
    }
    if (frame_reader_init(&r->reader))
        return error_set(err, STATUS_NOMEM, "could not allocate the router's frame reader");
    *ret = TAKE(r);
    return STATUS_OK;
}

void router_free(struct router *r)
{
    if (!r)
        return;
    for (uint32_t i = 0; i < r->cfg.workers; i++)
        buf_deinit(&r->out[i].body);
    day_sums_deinit(&r->sums);
    buf_deinit(&r->scratch);
    buf_deinit(&r->head);
    frame_reader_deinit(&r->reader);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

static void lock(struct router *r)
{
    pthread_mutex_lock(&r->lock);
}

static void unlock(struct router *r)
{
    pthread_mutex_unlock(&r->lock);
}

static int64_t heard_time(const struct router *r, int64_t mono_us)
{
    return r->as_of_us == 0 ? 0 : r->as_of_us + (mono_us - r->as_of_mono_us);
}

/* What the workers knew does not move on by itself: the source may first repeat what is older. */
int64_t router_source_time(const struct router *r, int64_t mono_us)
{
    int64_t t_us = heard_time(r, mono_us);
    return t_us > r->floor_us ? t_us : r->floor_us;
}

/* T: source time, but not beyond a midnight that is not prepared. */
static int64_t as_of_at(const struct router *r, int64_t mono_us)
{
    int64_t t_us = router_source_time(r, mono_us);
    return t_us < r->day_end_us ? t_us : r->day_end_us;
}

int64_t router_as_of(struct router *r)
{
    lock(r);
    int64_t as_of_us = as_of_at(r, clock_mono_us(r->cfg.clock));
    unlock(r);
    return as_of_us;
}

static void learn_time(struct router *r, int64_t source_us, int64_t mono_us)
{
    if (source_us <= heard_time(r, mono_us))
        return;
    r->as_of_us = source_us;
    r->as_of_mono_us = mono_us;
    if (r->day_end_us == INT64_MAX) /* no worker has been in any day: nothing was learned */
        r->day_end_us = router_day_end(kernel_day(source_us));
}

static void note_read(struct router *r, int64_t source_us, int64_t mono_us)
{
    if (source_us <= r->slot.as_of_us)
        return;
    /* By its own clock this was just now. */
    if (source_us >= r->slot.as_of_us + (mono_us - r->slot.mono_us) - AWAY_US)
        r->slot.away = false;
    r->slot.as_of_us = source_us;
    r->slot.mono_us = mono_us;
}

/* While the reader is there and nothing comes, nothing has happened there either. */
int64_t router_caught_up(struct router *r)
{
    lock(r);
    int64_t us = r->slot.as_of_us;
    if (us == 0)
        us = r->floor_us ? r->floor_us : INT64_MAX;
    else if (!r->slot.away && r->slot.seen_us > r->slot.mono_us)
        us += r->slot.seen_us - r->slot.mono_us;
    unlock(r);
    return us;
}

/* A worker has been at this T, and so has its day begun everywhere. */
static void learn_floor(struct router *r, int64_t as_of_us)
{
    if (as_of_us <= r->floor_us)
        return;
    r->floor_us = as_of_us;
    if (r->day_end_us == INT64_MAX || r->day_end_us < as_of_us)
        r->day_end_us = router_day_end(kernel_day(as_of_us));
}

void router_expect(struct router *r, uint32_t worker)
{
    atomic_store(&r->expected[worker], true);
}

/* ---- from the workers ---- */

static enum status take_positions(struct router *r, const struct frame_header *h, struct error *err)
{
    for (uint32_t i = 0; i < h->n; i++) {
        struct frame_applied a;
        enum status st = frame_next_applied(&r->reader, &a, err);
        if (st)
            return st;
        r->partitions[a.source][a.partition] = (struct partition_out){a.pos, a.pseq};
    }
    return STATUS_OK;
}

static uint64_t least_durable(const struct router *r, enum source source)
{
    uint64_t durable = UINT64_MAX;
    for (uint32_t i = 0; i < r->cfg.workers; i++)
        if (r->out[i].covered_durable[source] < durable)
            durable = r->out[i].covered_durable[source];
    return durable;
}

/* A worker begins (again): nothing that was sent to it before counts, of either source. Until a
 * source gives it again, frames say that only what is durable is covered. */
static enum status take_start(struct router *r, struct outgoing *o, const struct frame_header *h,
                              struct error *err)
{
    enum status st = take_positions(r, h, err);
    if (st)
        return st;
    o->n = 0;
    buf_reset(&o->body);
    o->number = 0;
    o->acked = 0;
    o->unacked_bytes = 0;
    memcpy(o->covered_durable, h->covered, sizeof(h->covered));
    memcpy(o->covered_sent, h->covered, sizeof(h->covered));
    for (int s = 0; s < SOURCE_COUNT && o->greeted; s++) {
        r->rewind[s] = true;
        r->covered[s] = least_durable(r, (enum source)s);
    }
    o->greeted = true;
    o->opened = h->opened;
    o->closed = h->closed;
    r->starts++;
    learn_floor(r, h->as_of_us);
    router_day_settle(r);
    return STATUS_OK;
}

static uint32_t *unacked_frame(struct outgoing *o, uint64_t number)
{
    return &o->frame_bytes[number % (CREDIT_FRAMES + PROBE_FRAMES)];
}

static void take_ack(struct outgoing *o, const struct frame_header *h)
{
    o->opened = h->opened;
    o->closed = h->closed;
    while (o->acked < h->number && o->acked < o->number) {
        o->acked++;
        o->unacked_bytes -= *unacked_frame(o, o->acked);
    }
    for (int s = 0; s < SOURCE_COUNT; s++)
        if (h->covered[s] > o->covered_durable[s])
            o->covered_durable[s] = h->covered[s];
}

/* One frame from one worker; AGAIN when there is none. */
static enum status receive_one(struct router *r, struct outgoing *o, int timeout_ms,
                               struct error *err)
{
    struct str bytes;
    enum status st = link_receive(o->link, timeout_ms, &bytes, err);
    if (st)
        return st;
    struct frame_header h;
    st = frame_open(&r->reader, bytes, &h, err);
    if (st)
        return st;
    o->heard_us = clock_mono_us(r->cfg.clock);
    switch (h.kind) {
    case FRAME_HELLO:
    case FRAME_REWIND:
        return take_start(r, o, &h, err);
    case FRAME_ACK:
        take_ack(o, &h);
        return STATUS_OK;
    case FRAME_PARTS:
    case FRAME_CLOSED:
        return router_day_answer(r, o, &h, err);
    case FRAME_EVENTS:
    case FRAME_FLUSH:
    case FRAME_CLOSE:
    case FRAME_SUMS:
    case FRAME_DAY:
        break;
    }
    return error_set(err, STATUS_PROTOCOL, "a worker sent a frame of kind %d upstream", h.kind);
}

enum status router_receive(struct router *r, int64_t now_us, struct error *err)
{
    bool all = now_us - r->looked_us >= LOOK_US;
    if (all)
        r->looked_us = now_us;
    for (uint32_t i = 0; i < r->cfg.workers; i++) {
        if (!all && !atomic_load(&r->expected[i]))
            continue;
        enum status st = receive_one(r, &r->out[i], 0, err);
        /* The hint may be ahead of the frame: it stands until one has come. */
        if (st == STATUS_OK)
            atomic_store(&r->expected[i], false);
        while (!st)
            st = receive_one(r, &r->out[i], 0, err);
        if (st != STATUS_AGAIN)
            return st;
    }
    return STATUS_OK;
}

enum status router_handshake(struct router *r, int64_t deadline_us, struct error *err)
{
    int64_t until = clock_mono_us(r->cfg.clock) + deadline_us;
    for (uint32_t i = 0; i < r->cfg.workers; i++) {
        struct outgoing *o = &r->out[i];
        while (!o->greeted) {
            enum status st = receive_one(r, o, 50, err);
            if (st && st != STATUS_AGAIN)
                return st;
            if (!o->greeted && clock_mono_us(r->cfg.clock) > until)
                return error_set(err, STATUS_IO, "worker %u did not say hello in time", i);
        }
    }
    lock(r);
    for (int s = 0; s < SOURCE_COUNT; s++)
        r->covered[s] = least_durable(r, (enum source)s);
    unlock(r);
    return STATUS_OK;
}

/* ---- to the workers ---- */

bool router_has_credit(const struct outgoing *o)
{
    return o->number - o->acked < CREDIT_FRAMES && o->unacked_bytes < LIMIT_CREDIT_BYTES;
}

enum status router_send(struct router *r, struct outgoing *o, enum frame_kind kind, int64_t now_us,
                        struct error *err)
{
    struct frame_header h = {
        .kind = kind,
        .number = o->number + 1,
        .as_of_us = as_of_at(r, now_us),
        .n = o->n,
        .opened = r->turn_day,
        .closed = r->turn_day,
    };
    memcpy(h.covered, r->covered, sizeof(h.covered));
    buf_reset(&r->head);
    enum status st = frame_put_header(&r->head, &h);
    if (st)
        return error_set(err, st, "could not build a frame header");
    if (FAULT_POINT("frame_before_send"))
        return error_set(err, STATUS_IO, "fault point frame_before_send");
    struct str body = {o->body.data, o->body.len};
    /* The link has room for more frames than the credit allows. */
    st = link_send(o->link, (struct str){r->head.data, r->head.len}, body, 0, err);
    if (st)
        return st;
    if (FAULT_POINT("frame_after_send"))
        return error_set(err, STATUS_IO, "fault point frame_after_send");
    o->number++;
    *unacked_frame(o, o->number) = (uint32_t)o->body.len;
    o->unacked_bytes += o->body.len;
    o->sent_us = now_us;
    o->n = 0;
    buf_reset(&o->body);
    return STATUS_OK;
}

enum status router_send_events(struct router *r, struct outgoing *o, int64_t now_us,
                               struct error *err)
{
    enum status st = router_send(r, o, FRAME_EVENTS, now_us, err);
    if (!st)
        memcpy(o->covered_sent, r->covered, sizeof(o->covered_sent));
    return st;
}

/* Puts what is in scratch into the frame of its partition's worker; the caller checked room. */
static enum status put_event(struct router *r, struct frame_event f, int64_t now_us,
                             struct error *err)
{
    struct partition_out *p = &r->partitions[f.source][f.partition];
    struct outgoing *o = &r->out[route_worker(f.partition, r->cfg.workers)];
    f.pseq = p->pseq + 1;
    f.as_of_us = as_of_at(r, now_us);
    f.bytes = (struct str){r->scratch.data, r->scratch.len};
    enum status st = frame_put_event(&o->body, &f);
    if (st)
        return error_set(err, st, "could not put an event of %zu bytes into a frame",
                         r->scratch.len);
    if (o->n++ == 0)
        o->first_us = now_us;
    p->pseq++;
    p->sent = f.pos;
    COUNTER_ADD(events_routed, 1);
    return STATUS_OK;
}

/* After a rewind the input is read again from what is durable; positions decide what is new. Until
 * then nothing of this source may be taken: what was lost would be missing before it. */
static enum status check_rewind(struct router *r, enum source source, struct error *err)
{
    if (!r->rewind[source])
        return STATUS_OK;
    r->rewind[source] = false;
    if (source == SOURCE_INBOX)
        return error_set(err, STATUS_IO, "a worker missed events: reading again from row %" PRIu64,
                         r->covered[source]);
    return error_set(err, STATUS_IO, "a worker missed events: reading again from " LSN_FMT,
                     LSN_ARGS(r->covered[source]));
}

/* Sends frames that are full or old enough; AGAIN when one that must go cannot. */
static enum status make_room(struct router *r, enum source source, uint32_t partition,
                             int64_t now_us, struct error *err)
{
    struct outgoing *o = &r->out[route_worker(partition, r->cfg.workers)];
    bool full = o->body.len >= LIMIT_FRAME_BYTES;
    if (o->n == 0 || (!full && now_us - o->first_us < LIMIT_FRAME_DELAY_US))
        return STATUS_OK;
    if (!router_has_credit(o)) {
        enum status st = router_receive(r, now_us, err);
        if (!st)
            st = check_rewind(r, source, err);
        if (st)
            return st;
        if (!router_has_credit(o))
            return STATUS_AGAIN;
    }
    return router_send_events(r, o, now_us, err);
}

/* Before anything is sent that was committed then: AGAIN while it has to wait. */
static enum status may_send(struct router *r, enum source source, int64_t commit_us, int64_t now_us,
                            struct error *err)
{
    enum status st = check_rewind(r, source, err);
    if (st)
        return st;
    learn_time(r, commit_us, now_us);
    return router_day_follow(r, commit_us, now_us, err);
}

static enum status take_event(struct router *r, enum source source, const struct event *e,
                              struct position pos, int64_t commit_us, struct error *err)
{
    int64_t now_us = clock_mono_us(r->cfg.clock);
    enum status st = may_send(r, source, commit_us, now_us, err);
    if (st)
        return st;
    struct route route = route_event(e);
    for (uint32_t i = 0; i < route.n && !route.all; i++) {
        st = make_room(r, source, route.partition[i], now_us, err);
        if (st)
            return st;
    }
    bool encoded = false;
    for (uint32_t i = 0; i < route.n; i++) {
        struct frame_event f = {source, route_at(&route, i), .pos = pos, .commit_us = commit_us};
        if (position_compare(pos, r->partitions[source][f.partition].sent) <= 0) {
            COUNTER_ADD(events_skipped, 1);
            continue;
        }
        /* There may not be room for all at once: offered again, it goes on behind those that were
         * sent. */
        st = route.all ? make_room(r, source, f.partition, now_us, err) : STATUS_OK;
        if (st)
            return st;
        if (!encoded) {
            buf_reset(&r->scratch);
            st = event_encode(e, &r->scratch, err);
            if (st)
                return st;
            encoded = true;
        }
        st = put_event(r, f, now_us, err);
        if (st)
            return st;
    }
    return STATUS_OK;
}

enum status router_event(struct router *r, enum source source, const struct event *e,
                         struct position pos, int64_t commit_us, struct error *err)
{
    lock(r);
    enum status st = take_event(r, source, e, pos, commit_us, err);
    unlock(r);
    return st;
}

/* To the home of its key alone, whoever else an event like it concerns. */
static enum status take_rebuild(struct router *r, const struct rebuild_event *e,
                                struct position pos, int64_t commit_us, struct error *err)
{
    int64_t now_us = clock_mono_us(r->cfg.clock);
    enum status st = may_send(r, SOURCE_POSTGRES, commit_us, now_us, err);
    struct frame_event f = {SOURCE_POSTGRES, route_home(e->user_id, e->bot_name), .pos = pos,
                            .commit_us = commit_us, .step = e->step};
    st = st ? st : make_room(r, SOURCE_POSTGRES, f.partition, now_us, err);
    if (st)
        return st;
    if (position_compare(pos, r->partitions[SOURCE_POSTGRES][f.partition].sent) <= 0) {
        COUNTER_ADD(events_skipped, 1);
        return STATUS_OK;
    }
    buf_reset(&r->scratch);
    st = e->step == REBUILD_ROW ? buf_append_str(&r->scratch, e->event)
                                : frame_mark_encode(e, &r->scratch);
    if (st)
        return error_set(err, st, "could not put a step of a rebuilt key into a frame");
    return put_event(r, f, now_us, err);
}

enum status router_rebuild(struct router *r, const struct rebuild_event *e, struct position pos,
                           int64_t commit_us, struct error *err)
{
    lock(r);
    enum status st = take_rebuild(r, e, pos, commit_us, err);
    unlock(r);
    return st;
}

enum status router_commit(struct router *r, enum source source, uint64_t covered, int64_t commit_us,
                          struct error *err)
{
    lock(r);
    enum status st = check_rewind(r, source, err);
    if (!st) {
        int64_t now_us = clock_mono_us(r->cfg.clock);
        learn_time(r, commit_us, now_us);
        if (source == SOURCE_POSTGRES)
            note_read(r, commit_us, now_us);
        if (covered > r->covered[source])
            r->covered[source] = covered;
    }
    unlock(r);
    return st;
}

void router_idle(struct router *r, lsn_t wal_end, int64_t server_us)
{
    lock(r);
    int64_t now_us = clock_mono_us(r->cfg.clock);
    learn_time(r, server_us, now_us);
    note_read(r, server_us, now_us);
    r->slot.away = false;
    /* While the reader is to begin again, what it has read may be missing below. */
    if (wal_end > r->covered[SOURCE_POSTGRES] && !r->rewind[SOURCE_POSTGRES])
        r->covered[SOURCE_POSTGRES] = wal_end;
    unlock(r);
}

/* Events leave at once when the worker has nothing left to make durable; else they wait for its ACK
 * (which wakes the reader), so that frames and commits grow with the load and never with time. */
static bool frame_must_go(const struct router *r, const struct outgoing *o, int64_t now_us)
{
    if (o->n > 0)
        return o->unacked_bytes == 0 || now_us - o->first_us >= LIMIT_FRAME_DELAY_US;
    bool news = false;
    for (int s = 0; s < SOURCE_COUNT; s++)
        news |= r->covered[s] > o->covered_sent[s];
    return news && now_us - o->sent_us >= MARKER_US;
}

/* Without credit nothing more would go to a worker that misses a frame, and it would never know. */
static enum status probe(struct router *r, struct outgoing *o, int64_t now_us, struct error *err)
{
    bool silent =
        o->number > o->acked && now_us - o->heard_us >= PROBE_US && now_us - o->sent_us >= PROBE_US;
    if (!silent || o->number - o->acked >= CREDIT_FRAMES + PROBE_FRAMES - 1)
        return STATUS_OK;
    o->heard_us = now_us;
    return o->n > 0 ? router_send_events(r, o, now_us, err)
                    : router_send(r, o, FRAME_FLUSH, now_us, err);
}

/* How long the events of this link may still wait for the ACK of the frame before them. */
static int64_t wait_of(const struct router *r, const struct outgoing *o, uint32_t worker,
                       int64_t now_us)
{
    if (o->n == 0)
        return INT64_MAX;
    if (atomic_load(&r->expected[worker]))
        return EXPECT_US;
    int64_t left_us = o->first_us + LIMIT_FRAME_DELAY_US - now_us;
    return left_us > EXPECT_US ? left_us : EXPECT_US;
}

static int64_t drained(struct router *r)
{
    struct error err = {0};
    int64_t now = clock_mono_us(r->cfg.clock);
    int64_t again_us = INT64_MAX;
    enum status st = router_receive(r, now, &err);
    if (!st)
        st = router_day_follow(r, router_source_time(r, now), now, &err);
    if (st == STATUS_AGAIN)
        return LOOK_US;
    for (uint32_t i = 0; i < r->cfg.workers && !st; i++) {
        struct outgoing *o = &r->out[i];
        if (frame_must_go(r, o, now) && router_has_credit(o))
            st = router_send_events(r, o, now, &err);
        if (!st)
            st = probe(r, o, now, &err);
        if (st == STATUS_AGAIN)
            st = STATUS_OK; /* stays buffered; the next call tries again */
        int64_t wait_us = wait_of(r, o, i, now);
        if (wait_us < again_us)
            again_us = wait_us;
    }
    if (st && st != STATUS_END)
        log_write(LOG_ERROR, "ingest", "could not send to a worker error=\"%s\"", err.text);
    return again_us;
}

int64_t router_drained(struct router *r)
{
    lock(r);
    int64_t again_us = drained(r);
    unlock(r);
    return again_us;
}

uint64_t router_durable(struct router *r, enum source source)
{
    lock(r);
    (void)drained(r); /* a broken link shows at the next send */
    uint64_t durable = least_durable(r, source);
    unlock(r);
    return durable;
}

/* ---- receiver_ops ---- */

static enum status op_event(void *ctx, const struct event *e, struct position pos,
                            int64_t commit_us, struct error *err)
{
    return router_event(ctx, SOURCE_POSTGRES, e, pos, commit_us, err);
}

static enum status op_commit(void *ctx, lsn_t end_lsn, int64_t commit_us, struct error *err)
{
    return router_commit(ctx, SOURCE_POSTGRES, end_lsn, commit_us, err);
}

static void op_idle(void *ctx, lsn_t wal_end, int64_t server_us)
{
    router_idle(ctx, wal_end, server_us);
}

static int64_t op_drained(void *ctx)
{
    struct router *r = ctx;
    lock(r);
    int64_t now_us = clock_mono_us(r->cfg.clock);
    r->slot.away |= r->slot.seen_us && now_us - r->slot.seen_us > AWAY_US;
    r->slot.seen_us = now_us;
    int64_t again_us = drained(r);
    unlock(r);
    return again_us;
}

static lsn_t op_durable(void *ctx)
{
    return router_durable(ctx, SOURCE_POSTGRES);
}

static enum status op_rebuild(void *ctx, const struct rebuild_event *e, struct position pos,
                              int64_t commit_us, struct error *err)
{
    return router_rebuild(ctx, e, pos, commit_us, err);
}

static enum status op_intact(void *ctx, struct error *err)
{
    struct router *r = ctx;
    lock(r);
    enum status st = check_rewind(r, SOURCE_POSTGRES, err);
    unlock(r);
    return st;
}

struct receiver_ops router_receiver(struct router *r)
{
    return (struct receiver_ops){op_event,   op_commit,  op_idle,   op_drained,
                                 op_durable, op_rebuild, op_intact, r};
}
