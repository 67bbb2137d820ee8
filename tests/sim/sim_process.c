/* tests/sim/sim_process.c - one process of warmpath: what server/cmd_run.c and the loop of
 * ingest/replication.c put around the real parts, one step at a time. */
#include "tests/sim/sim.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ingest/feedback.h"
#include "ingest/stream.h"
#include "pipeline/trigger.h"
#include "tests/fault/faultvfs.h"

#define FEEDBACK_US US_PER_SECOND

struct sim_process {
    struct sim_world *w;
    uint64_t epoch;
    struct clock clock;
    struct store *stores[LIMIT_WORKERS];
    struct link *links[LIMIT_WORKERS];
    struct worker *workers[LIMIT_WORKERS];
    struct router *router;
    struct receiver_ops receiver;
    struct stream *stream;
    struct sim_sink *sink;
    struct sim_session session;
    struct buf message;
    bool held; /* the receiver had no room for message */
};

/* ---- starting ---- */

static struct trigger_policy policy(void *ctx, enum table_id table, struct str bot)
{
    (void)ctx;
    (void)bot;
    struct trigger_policy all = {0};
    bool first = true;
    for (size_t i = 0; engine_at(i); i++) {
        const struct engine_ops *e = engine_at(i);
        if (!engine_fills(e, table))
            continue;
        all = first ? e->trigger : trigger_either(&all, &e->trigger);
        first = false;
    }
    return all;
}

/* What the disk still holds must cover everything that others were told. */
static void check_recovered(struct sim_process *p)
{
    lsn_t applied[LIMIT_PARTITIONS] = {0};
    lsn_t covered = UINT64_MAX;
    for (uint32_t i = 0; i < p->w->workers; i++) {
        lsn_t c = store_covered(p->stores[i]);
        covered = c < covered ? c : covered;
    }
    for (uint32_t i = 0; i < LIMIT_PARTITIONS; i++) {
        struct store *s = p->stores[i % p->w->workers];
        applied[i] = store_applied(s, SOURCE_POSTGRES, i)->pos.lsn;
    }
    lsn_t confirmed = sim_source_confirmed(p->w->source);
    if (confirmed > SIM_BIRTH_LSN && confirmed > covered)
        sim_fail("the slot was told " LSN_FMT ", but only " LSN_FMT " is durable",
                 LSN_ARGS(confirmed), LSN_ARGS(covered));
    sim_cache_check_durable(p->w->cache, applied);
}

static enum status open_state(struct sim_process *p, struct error *err)
{
    struct store_identity id = {.pipeline = "sim", .slot = "sim", .partitions = LIMIT_PARTITIONS};
    bool fresh = false;
    enum status st =
        store_set_open(p->w->dir, p->w->workers, p->epoch, &id, &fresh, p->stores, err);
    if (st)
        return st;
    check_recovered(p);
    return STATUS_OK;
}

static enum status open_parts(struct sim_process *p, struct error *err)
{
    struct sim_world *w = p->w;
    enum status st = STATUS_OK;
    char url[64];
    for (uint32_t i = 0; i < w->workers && !st; i++) {
        snprintf(url, sizeof(url), "sim://%" PRIu64 "/%u", p->epoch, i);
        st = link_listen(url, &p->links[i], err);
        struct worker_config wc = {
            .partition = {.worker = i,
                          .workers = w->workers,
                          .store = p->stores[i],
                          .sink = sim_sink_port(p->sink),
                          .policy = policy,
                          .memory_max = w->memory,
                          .catch_up_lag_us = 5 * US_PER_SECOND,
                          .epoch = p->epoch},
            .url = url,
            .clock = &p->clock,
        };
        if (!st)
            st = worker_new(&wc, &p->workers[i], err);
        if (!st)
            st = worker_step(p->workers[i], err); /* HELLO */
    }
    struct router_config rc = {.workers = w->workers, .links = p->links, .clock = &p->clock};
    if (!st)
        st = router_new(&rc, &p->router, err);
    if (!st)
        st = router_handshake(p->router, 0, err);
    if (st)
        return st;
    p->receiver = router_receiver(p->router);
    return stream_new(sim_mappings(), &p->receiver, &p->stream, err);
}

static void release(struct sim_process *p)
{
    if (p->w->reader == p)
        p->w->reader = NULL;
    faultvfs_freeze(true); /* closing must leave what is there as it is */
    stream_free(p->stream);
    router_free(p->router);
    for (uint32_t i = 0; i < LIMIT_WORKERS; i++) {
        worker_free(p->workers[i]);
        link_close(p->links[i]);
        store_close(p->stores[i]);
    }
    faultvfs_freeze(false);
    sim_sink_free(p->sink);
    buf_deinit(&p->message);
    free(p);
}

/* Only a fault that was armed may end a process, and never as damage that it did not see. */
static void check_end(struct sim_process *p, const char *where, enum status st,
                      const struct error *err)
{
    bool fenced = st == STATUS_FENCED && p->epoch != 0;
    bool disk = p->w->disk_armed && st == STATUS_IO;
    if (p->w->options.verbose)
        fprintf(stderr, "%" PRId64 " epoch %" PRIu64 " ends in %s: %s\n", p->w->time.mono_us,
                p->epoch, where, err->text);
    if (!fenced && !disk)
        sim_fail("a process ended in %s with %d: %s", where, (int)st, err->text);
}

struct sim_process *sim_process_start(struct sim_world *w)
{
    struct sim_process *p = calloc(1, sizeof(*p));
    assert(p);
    struct error err = {0};
    p->w = w;
    p->clock = sim_clock(&w->time);
    p->epoch = sim_cache_take_over(w->cache);
    p->sink = sim_sink_new(w->cache, p->epoch);
    buf_init(&p->message, 1 << 20);
    enum status st = open_state(p, &err);
    if (!st)
        st = open_parts(p, &err);
    w->starts++;
    if (!st)
        return p;
    check_end(p, "start", st, &err);
    release(p);
    return NULL;
}

void sim_process_kill(struct sim_process *p)
{
    release(p);
}

/* ---- the slot reader ---- */

static void disconnect(struct sim_process *p)
{
    p->session.open = false;
    p->held = false;
    if (p->w->reader == p)
        p->w->reader = NULL;
}

static void connect(struct sim_process *p)
{
    if (p->w->reader) /* the slot is active */
        return;
    lsn_t start = p->receiver.durable(p->receiver.ctx);
    stream_start(p->stream, start, p->w->time.mono_us);
    sim_session_open(p->w->source, &p->session, start);
    p->w->reader = p;
}

static void send_feedback(struct sim_process *p)
{
    struct feedback *f = stream_feedback(p->stream);
    if (!feedback_is_due(f, FEEDBACK_US, p->w->time.mono_us))
        return;
    struct feedback_report report = feedback_report(f, p->receiver.durable(p->receiver.ctx));
    sim_source_confirm(p->w->source, report.flush);
    feedback_sent(f, &report, p->w->time.mono_us);
}

static enum status read_one(struct sim_process *p, struct error *err)
{
    struct sim_world *w = p->w;
    int64_t server_us = SIM_START_US + w->time.mono_us;
    if (p->held) {
        enum status st = stream_retry(p->stream, err);
        p->held = st == STATUS_AGAIN;
        return p->held ? STATUS_OK : st;
    }
    buf_reset(&p->message);
    if (!sim_session_next(w->source, &p->session, server_us, &p->message)) {
        (void)p->receiver.drained(p->receiver.ctx);
        enum status st = p->receiver.intact(p->receiver.ctx, err);
        if (st || !sim_chance(&w->random, 1, 4))
            return st;
        sim_session_keepalive(w->source, server_us, &p->message);
    }
    enum status st = stream_put(p->stream, (struct str){p->message.data, p->message.len}, err);
    p->held = st == STATUS_AGAIN;
    return p->held ? STATUS_OK : st;
}

static enum status read_step(struct sim_process *p, struct error *err)
{
    if (!p->session.open) {
        connect(p);
        return STATUS_OK;
    }
    if (p->w->reader != p) { /* the server has ended the session */
        disconnect(p);
        return STATUS_OK;
    }
    send_feedback(p);
    enum status st = STATUS_OK;
    uint32_t n = 1 + sim_below(&p->w->random, 40);
    for (uint32_t i = 0; i < n && !st; i++) {
        st = read_one(p, err);
        if (p->held)
            (void)p->receiver.drained(p->receiver.ctx);
    }
    if (st == STATUS_IO) { /* read again from what is durable */
        disconnect(p);
        return STATUS_OK;
    }
    return st;
}

/* ---- steps ---- */

bool sim_process_step(struct sim_process *p)
{
    struct sim_world *w = p->w;
    struct error err = {0};
    const char *where = "worker";
    enum status st = STATUS_OK;
    uint32_t turn = sim_below(&w->random, 10);
    if (turn < 3) {
        where = "reader";
        st = read_step(p, &err);
    } else if (turn < 5) {
        where = "sink";
        st = sim_sink_step(p->sink, &w->random, w->faults && w->options.faults & SIM_SINK);
    } else {
        struct worker *worker = p->workers[sim_below(&w->random, w->workers)];
        if (w->draining)
            worker_drain(worker);
        st = worker_step(worker, &err);
    }
    if (!st)
        return true;
    check_end(p, where, st, &err);
    release(p);
    return false;
}

bool sim_process_rests(struct sim_process *p)
{
    lsn_t durable = p->receiver.durable(p->receiver.ctx);
    bool rests = durable >= sim_source_end(p->w->source) && sim_sink_idle(p->sink);
    for (uint32_t i = 0; i < p->w->workers && rests; i++)
        rests = !p->w->draining || worker_drained(p->workers[i]);
    return rests;
}

int64_t sim_process_as_of(struct sim_process *p)
{
    return router_as_of(p->router);
}

void sim_process_print(struct sim_process *p)
{
    fprintf(stderr,
            "epoch %" PRIu64 ": the log ends at " LSN_FMT ", durable " LSN_FMT
            ", session %d, transaction %zu, row %zu, held %d, sink %s\n",
            p->epoch, LSN_ARGS(sim_source_end(p->w->source)),
            LSN_ARGS(p->receiver.durable(p->receiver.ctx)), p->session.open, p->session.transaction,
            p->session.row, p->held, sim_sink_idle(p->sink) ? "idle" : "busy");
    for (uint32_t i = 0; i < p->w->workers; i++) {
        struct partition_view v = worker_view(p->workers[i]);
        fprintf(stderr,
                "worker %u: durable " LSN_FMT
                ", uncommitted %u, queued %d, in flight %d, as of %" PRId64 "\n",
                i, LSN_ARGS(v.covered_durable[SOURCE_POSTGRES]), v.uncommitted, v.queued,
                v.in_flight, v.as_of_us);
    }
}
