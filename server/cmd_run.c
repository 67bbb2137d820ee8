/*
 * warmpath run - the stream processor: one process, these threads (DESIGN.md section 3): the slot
 * reader, W partition workers, the sink writer, the lease keeper, those of the door
 * (server/door.h), and this one, which supervises.
 */
#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/counters.h"
#include "core/log.h"
#include "core/metrics.h"
#include "ingest/replication.h"
#include "pipeline/link.h"
#include "pipeline/route.h"
#include "pipeline/router.h"
#include "pipeline/worker.h"
#include "server/blocked.h"
#include "server/cli.h"
#include "server/config_secrets.h"
#include "server/door.h"
#include "server/eraser.h"
#include "server/feed.h"
#include "server/figures.h"
#include "server/load.h"
#include "server/readers.h"
#include "server/rebuild.h"
#include "server/redis_layer.h"
#include "server/reload.h"
#include "server/request_relay.h"
#include "server/slot_loss.h"
#include "server/source_watch.h"
#include "server/startup.h"
#include "state/sink.h"

#define HANDSHAKE_US    (30 * US_PER_SECOND)
#define DRAIN_US        (4 * US_PER_SECOND)
#define SINK_STOP_US    US_PER_SECOND
#define TICK_US         (100 * INT64_C(1000))
#define SINK_QUEUE_ROWS 2000

/* A thread and how it ended. */
struct stage {
    pthread_t thread;
    bool started;
    atomic_bool ended;
    enum status status;
    struct error error;
};

struct run {
    const struct config *cfg;
    struct startup start;
    struct feed *announcements;
    struct sink *sink;
    struct link *links[LIMIT_WORKERS];
    struct router *router;
    struct worker *workers[LIMIT_WORKERS];
    uint32_t n_workers;           /* started */
    struct receiver_ops receiver; /* replication holds a pointer to it */
    struct replication *replication;
    struct startup_source source; /* the reader's, once it runs */
    char reader_name[128];
    struct error sink_trouble;  /* logged last; code OK: none */
    struct error sweep_trouble; /* likewise */
    struct error blocked;       /* shown in the state directory; code OK: nothing is */
    struct reload reload;
    struct rebuild_feed *feed; /* between the two threads below */
    struct rebuild *rebuild;
    struct request_relay *relay;
    atomic_bool stop_reader;
    atomic_bool stop_lease;
    atomic_bool loading; /* the state is not complete: no row may leave it */
    struct door *door;
    atomic_bool begun; /* it is, and the workers are there: events may come */
    struct stage reader;
    struct stage lease;
    struct source_watch *watch;
    struct eraser *eraser;
    struct redis_layer *redis; /* NULL without redis.url */
    int64_t lag_at_us;         /* of the heartbeat shown last */
    struct private_board board;
    int64_t started_us; /* wall clock */
};

/* ---- threads ---- */

static void *reader_main(void *arg)
{
    struct run *r = arg;
    r->reader.status = router_handshake(r->router, HANDSHAKE_US, &r->reader.error);
    if (!r->reader.status && atomic_load(&r->loading)) {
        bool complete = false;
        r->reader.status =
            load_run(r->cfg, &r->start, r->router, &r->stop_reader, &complete, &r->reader.error);
        atomic_store(&r->loading, !complete);
    }
    if (!r->reader.status && !atomic_load(&r->loading)) {
        atomic_store(&r->begun, true);
        door_wake(r->door);
        r->reader.status =
            replication_run(r->replication, r->start.start, &r->stop_reader, &r->reader.error);
    }
    atomic_store(&r->reader.ended, true);
    return NULL;
}

static void nap(int64_t us)
{
    struct timespec ts = {us / US_PER_SECOND, (us % US_PER_SECOND) * 1000};
    nanosleep(&ts, NULL);
}

static void *lease_main(void *arg)
{
    struct run *r = arg;
    int64_t renewed = clock_mono_us(&clock_real);
    while (!atomic_load(&r->stop_lease)) {
        nap(TICK_US);
        if (clock_mono_us(&clock_real) - renewed < LEASE_RENEW_S * US_PER_SECOND)
            continue;
        struct error err = {0};
        enum status st = lease_renew(r->start.lease, &err);
        renewed = clock_mono_us(&clock_real);
        if (st == STATUS_OK)
            continue;
        if (st != STATUS_IO) {
            r->lease.status = st;
            r->lease.error = err;
            break;
        }
        log_write(LOG_WARN, "lease", "could not renew, trying again error=\"%s\"", err.text);
    }
    atomic_store(&r->lease.ended, true);
    return NULL;
}

static enum status stage_start(struct stage *s, void *(*fn)(void *), struct run *r,
                               struct error *err)
{
    int rc = pthread_create(&s->thread, NULL, fn, r);
    if (rc)
        return error_set(err, STATUS_NOMEM, "could not start a thread (error %d)", rc);
    s->started = true;
    return STATUS_OK;
}

static void stage_join(struct stage *s)
{
    if (s->started)
        pthread_join(s->thread, NULL);
    s->started = false;
}

/* ---- starting ---- */

/* "inproc" and "ipc" get a name of this process; anything else is a prefix the worker number ends.
 */
static void link_url(const struct run *r, uint32_t worker, char *out, size_t size)
{
    const char *url = r->cfg->link_url;
    const char *colon = strrchr(url, ':');
    if (strcmp(url, "inproc") == 0)
        snprintf(out, size, "inproc://warmpath-%d-%u", (int)getpid(), worker);
    else if (strcmp(url, "ipc") == 0)
        snprintf(out, size, "ipc://%s/link-%u.ipc", r->cfg->state_dir, worker);
    else if (strncmp(url, "tcp://", 6) == 0 && colon > url + 4)
        snprintf(out, size, "%.*s:%lu", (int)(colon - url), url,
                 strtoul(colon + 1, NULL, 10) + worker);
    else
        snprintf(out, size, "%s-%u", url, worker);
}

static size_t port_room(void *ctx)
{
    struct run *r = ctx;
    return atomic_load(&r->loading) ? 0 : sink_room(r->sink);
}

static enum status port_submit(void *ctx, struct sink_item *items, size_t n)
{
    return sink_submit(((struct run *)ctx)->sink, items, n);
}

static size_t port_poll(void *ctx, uint32_t worker, struct sink_result *out, size_t max)
{
    return sink_poll(((struct run *)ctx)->sink, worker, out, max);
}

static void worker_acked(void *ctx, uint32_t worker)
{
    struct run *r = ctx;
    router_expect(r->router, worker);
    replication_wake(r->replication);
    door_wake(r->door);
}

static enum status start_workers(struct run *r, struct error *err)
{
    for (uint32_t i = 0; i < r->start.workers; i++) {
        char url[CONFIG_PATH_BYTES + 64];
        link_url(r, i, url, sizeof(url));
        struct worker_config wc = {
            .partition =
                {
                    .worker = i,
                    .workers = r->start.workers,
                    .store = r->start.stores[i],
                    .sink = {port_room, port_submit, port_poll, r},
                    .erase = eraser_port(r->eraser),
                    .policy = startup_policy,
                    .policy_ctx = (void *)(uintptr_t)r->cfg, /* only read */
                    .memory_max = (size_t)r->cfg->memory_bytes / r->start.workers,
                    .ttl_us = r->cfg->ttl_us,
                    .catch_up_lag_us = r->cfg->catch_up_lag_us,
                    .epoch = lease_epoch(r->start.lease),
                },
            .url = url,
            .clock = &clock_real,
            .acked = worker_acked,
            .acked_ctx = r,
        };
        enum status st = worker_start(&wc, &r->workers[i], err);
        if (st)
            return st;
        r->n_workers++;
    }
    return STATUS_OK;
}

static enum status start_router(struct run *r, struct error *err)
{
    for (uint32_t i = 0; i < r->start.workers; i++) {
        char url[CONFIG_PATH_BYTES + 64];
        link_url(r, i, url, sizeof(url));
        enum status st = link_listen(url, &r->links[i], err);
        if (st)
            return st;
    }
    struct router_config rc = {
        .workers = r->start.workers,
        .links = r->links,
        .clock = &clock_real,
    };
    enum status st = router_new(&rc, &r->router, err);
    if (st)
        return st;
    r->receiver = router_receiver(r->router);
    snprintf(r->reader_name, sizeof(r->reader_name), STARTUP_READER_NAME, r->cfg->pipeline);
    r->source = (struct startup_source){
        .cfg = r->cfg, .epoch = lease_epoch(r->start.lease), .identity = r->start.identity};
    struct replication_config pc = {
        .application_name = r->reader_name,
        .heartbeat = r->cfg->heartbeat_us > 0 ? r->cfg->pipeline : NULL,
        .conninfo = r->cfg->source_conninfo,
        .slot = r->cfg->slot,
        .publication = r->cfg->publication,
        .mappings = &r->cfg->mappings,
        .clock = &clock_real,
        .status_interval_us = US_PER_SECOND,
        .backoff_min_us = US_PER_SECOND / 10,
        .backoff_max_us = 10 * US_PER_SECOND,
        .silence_us = r->cfg->source_silence_us,
        .timeline = r->source.identity.timeline,
        .check = startup_check_source,
        .check_ctx = &r->source,
        .rebuild = r->feed,
    };
    return replication_new(&pc, &r->receiver, &r->replication, err);
}

/* For the rebuilding thread. */
static lsn_t least_durable(void *ctx)
{
    struct run *r = ctx;
    lsn_t covered = UINT64_MAX;
    for (uint32_t i = 0; i < r->n_workers; i++) {
        lsn_t durable = worker_view(r->workers[i]).covered_durable[SOURCE_POSTGRES];
        if (durable < covered)
            covered = durable;
    }
    return covered;
}

/* Before the workers: they wake it. */
static enum status open_door(struct run *r, struct error *err)
{
    struct door_config dc = {
        .cfg = r->cfg,
        .router = r->router,
        .seen = r->start.inbox,
        .begin = &r->begun,
        .board = &r->board,
        .announcements = r->announcements,
        .clock = &clock_real,
    };
    return door_open(&dc, &r->door, err);
}

static enum status run_start(struct run *r, bool anew, struct error *err)
{
    enum status st = startup_run(r->cfg, anew, &r->start, err);
    if (st)
        return st;
    atomic_store(&r->loading, r->start.snapshot.conn != NULL);
    const struct feed_open fo = {
        .cfg = &r->cfg->feed, .state_dir = r->cfg->state_dir, .clock = &clock_real};
    st = feed_open(&fo, &r->announcements, err);
    if (st)
        return st;
    struct sink_config sc = {
        .conninfo = r->cfg->sink_conninfo,
        .pipeline = r->cfg->pipeline,
        .epoch = lease_epoch(r->start.lease),
        .slot = r->cfg->slot,
        .slot_birth = r->start.identity.slot_birth,
        .tables = tables,
        .n_tables = TABLE_COUNT,
        .ttl_us = r->cfg->ttl_us,
        .ttl_mode = r->cfg->ttl_mode,
        .keep_us = r->cfg->keep_us,
        .silence_us = r->cfg->sink_silence_us,
        .queue_rows_max = SINK_QUEUE_ROWS,
        .clock = &clock_real,
        .committed = feed_committed,
        .committed_ctx = r->announcements,
    };
    st = sink_start(&sc, &r->sink, err);
    if (!st)
        st = rebuild_feed_new(&r->feed, err);
    if (!st)
        st = start_router(r, err);
    if (!st)
        st = open_door(r, err);
    const struct eraser_config ec = {.cfg = r->cfg,
                                     .door = r->door,
                                     .feed = r->announcements,
                                     .epoch = lease_epoch(r->start.lease)};
    if (!st)
        st = eraser_start(&ec, &r->eraser, err);
    if (!st)
        st = start_workers(r, err);
    if (!st)
        st = stage_start(&r->reader, reader_main, r, err);
    if (!st)
        st = stage_start(&r->lease, lease_main, r, err);
    struct rebuild_config bc = {.cfg = r->cfg, .feed = r->feed, .durable = least_durable, .ctx = r};
    if (!st)
        st = source_watch_start(r->cfg, &r->watch, err);
    if (!st)
        st = rebuild_start(&bc, &r->rebuild, err);
    if (!st)
        st = redis_layer_start(r->cfg, &r->redis, err);
    if (!st)
        st = request_relay_start(r->cfg, &r->relay, err);
    if (!st)
        st = door_start(r->door, err);
    return st;
}

/* ---- watching ---- */

/* OK while everything runs; else what ended, and why. */
static enum status run_health(struct run *r, struct error *err)
{
    enum status st = sink_health(r->sink, err);
    for (uint32_t i = 0; i < r->n_workers && !st; i++)
        st = worker_health(r->workers[i], err);
    if (!st)
        st = door_health(r->door, err);
    struct stage *stages[] = {&r->reader, &r->lease};
    for (size_t i = 0; i < 2 && !st; i++) {
        if (!atomic_load(&stages[i]->ended))
            continue;
        st = stages[i]->status;
        *err = stages[i]->error;
        if (!st)
            st = error_set(err, STATUS_IO, "a stage ended early");
    }
    return st;
}

static void report_lag(struct run *r)
{
    int64_t lag_us = 0;
    int64_t at_us = 0;
    if (!replication_lag(r->replication, &lag_us, &at_us) || at_us == r->lag_at_us)
        return;
    r->lag_at_us = at_us;
    source_lag_write(r->cfg->state_dir, lag_us, at_us);
}

static void report_progress(struct run *r)
{
    int64_t caught_up[LIMIT_PARTITIONS];
    struct partition_view views[LIMIT_WORKERS];
    lsn_t covered = UINT64_MAX;
    /* What is delivered while the source is away moves T on, but nobody knows what is there. */
    int64_t read_us = router_caught_up(r->router);
    for (uint32_t i = 0; i < r->n_workers; i++) {
        views[i] = worker_view(r->workers[i]);
        if (views[i].covered_durable[SOURCE_POSTGRES] < covered)
            covered = views[i].covered_durable[SOURCE_POSTGRES];
    }
    for (uint32_t p = 0; p < LIMIT_PARTITIONS; p++) {
        int64_t us = views[route_worker(p, r->n_workers)].caught_up_us;
        caught_up[p] = us < read_us ? us : read_us;
        if (atomic_load(&r->loading)) /* no row leaves yet */
            caught_up[p] = 0;
    }
    sink_progress(r->sink, caught_up, covered, COUNTER_GET(events_applied));
    log_write(LOG_DEBUG, "run",
              "progress events=%" PRIu64 " rows=%" PRIu64 " covered=" LSN_FMT " keys=%zu",
              COUNTER_GET(events_applied), COUNTER_GET(rows_upserted), LSN_ARGS(covered),
              views[0].keys);
}

/* Each new attempt of the sink once, and the end of its trouble. */
static void report_sink(struct run *r)
{
    struct error trouble = {0};
    bool retrying = sink_retrying(r->sink, &trouble);
    if (retrying && strcmp(trouble.text, r->sink_trouble.text) != 0)
        log_write(LOG_WARN, "sink", "msg=\"could not write rows, %s\"", trouble.text);
    if (!retrying && r->sink_trouble.code)
        log_write(LOG_INFO, "sink", "msg=\"writing rows again\"");
    r->sink_trouble = trouble;
    struct error sweep = {0};
    (void)sink_sweep_failed(r->sink, &sweep);
    if (sweep.code && strcmp(sweep.text, r->sweep_trouble.text) != 0)
        log_write(LOG_WARN, "sink", "msg=\"rows that expired long ago stay for now: %s\"",
                  sweep.text);
    r->sweep_trouble = sweep;
}

/* Shows a reader that stands still, and looks for a mended configuration. */
static void report_blocked(struct run *r)
{
    struct error why = {0};
    struct error err = {0};
    (void)replication_blocked(r->replication, &why);
    if (why.code == r->blocked.code && strcmp(why.text, r->blocked.text) == 0)
        return;
    r->blocked = why;
    if (blocked_write(r->cfg->state_dir, why.code ? why.text : NULL, &err))
        log_write(LOG_WARN, "run", "status cannot show what the reader waits for error=\"%s\"",
                  err.text);
}

static void reload(struct run *r)
{
    const struct mapping_set *mappings = NULL;
    struct error err = {0};
    const struct config *before = r->reload.config;
    bool remap = reload_read(&r->reload, &mappings);
    if (r->reload.config != before) {
        door_reload(r->door, r->reload.config);
        if (feed_reload(r->announcements, &r->reload.config->feed, &err))
            log_write(LOG_ERROR, "feed", "could not take the new secrets error=\"%s\"", err.text);
    }
    if (!remap)
        return;
    rebuild_remap(r->rebuild, mappings);
    if (replication_remap(r->replication, mappings, &err))
        log_write(LOG_ERROR, "run", "could not change the mappings error=\"%s\"", err.text);
}

/* For /metrics and /readyz. */
static void report_figures(struct run *r)
{
    struct readiness ready = {0};
    const struct figures_input in = {
        .cfg = r->cfg,
        .workers = r->workers,
        .n_workers = r->n_workers,
        .sink = r->sink,
        .sink_rows_max = SINK_QUEUE_ROWS,
        .replication = r->replication,
        .watch = r->watch,
        .loading = atomic_load(&r->loading),
        .blocked = &r->blocked,
        .sink_trouble = &r->sink_trouble,
        .started_us = r->started_us,
        .door = r->door,
        .announcements = r->announcements,
        .redis = r->redis,
    };
    figures_take(&in, &ready);
    private_board_report(&r->board, &ready);
}

/* Until a signal asks to stop (OK) or something fails for good. */
static enum status run_watch(struct run *r, const sigset_t *signals, struct error *err)
{
    int64_t reported = 0;
    for (;;) {
        struct timespec tick = {0, TICK_US * 1000};
        int sig = sigtimedwait(signals, NULL, &tick);
        if (sig == SIGTERM || sig == SIGINT) {
            log_write(LOG_INFO, "run", "stopping signal=%d", sig);
            return STATUS_OK;
        }
        if (sig == SIGHUP)
            reload(r);
        enum status st = run_health(r, err);
        if (st)
            return st;
        report_sink(r);
        report_blocked(r);
        private_board_alive(&r->board);
        int64_t now = clock_mono_us(&clock_real);
        if (now - reported >= US_PER_SECOND) {
            reported = now;
            report_progress(r);
            report_lag(r);
            report_figures(r);
            if (r->blocked.code && reload_is_due(&r->reload))
                reload(r);
        }
    }
}

/* ---- stopping ---- */

static bool all_drained(struct run *r)
{
    for (uint32_t i = 0; i < r->n_workers; i++)
        if (!worker_drained(r->workers[i]))
            return false;
    return true;
}

/* graceful: flush what is dirty and wait for the sink, for as long as the deadline allows. Whatever
 * is left stays in the outbox and goes out after the next start. */
static enum status run_stop(struct run *r, bool graceful, struct error *err)
{
    private_board_stopping(&r->board);
    door_stop(r->door);
    source_watch_stop(r->watch);
    rebuild_stop(r->rebuild);
    request_relay_stop(r->relay);
    atomic_store(&r->stop_reader, true);
    graceful = graceful && !atomic_load(&r->loading); /* nothing of it is kept */
    if (r->reader.started)
        replication_wake(r->replication);
    stage_join(&r->reader);
    int64_t until = clock_mono_us(&clock_real) + DRAIN_US;
    for (uint32_t i = 0; i < r->n_workers && graceful; i++)
        worker_drain(r->workers[i]);
    while (graceful && !all_drained(r) && clock_mono_us(&clock_real) < until)
        nap(2000);
    if (graceful && r->n_workers > 0)
        report_progress(r);
    enum status st = STATUS_OK;
    for (uint32_t i = 0; i < r->n_workers; i++)
        worker_halt(r->workers[i]);
    for (uint32_t i = 0; i < r->n_workers; i++) {
        enum status one = worker_stop(r->workers[i], st ? NULL : err);
        st = st ? st : one;
    }
    eraser_free(r->eraser);
    door_free(r->door);
    sink_stop(r->sink, graceful ? SINK_STOP_US : 0);
    feed_close(r->announcements);
    redis_layer_stop(r->redis);
    atomic_store(&r->stop_lease, true);
    stage_join(&r->lease);
    replication_free(r->replication);
    rebuild_feed_free(r->feed);
    router_free(r->router);
    for (uint32_t i = 0; i < LIMIT_WORKERS; i++)
        link_close(r->links[i]);
    startup_release(&r->start);
    return st;
}

static void log_summary(void)
{
    log_write(LOG_INFO, "run",
              "stopped events=%" PRIu64 " rows=%" PRIu64 " touched=%" PRIu64
              " dead_letters=%" PRIu64 " commits=%" PRIu64 " pages=%" PRIu64 " evicted=%" PRIu64,
              COUNTER_GET(events_applied), COUNTER_GET(rows_upserted), COUNTER_GET(rows_touched),
              metric_total(METRIC_DEAD_LETTERS), COUNTER_GET(commits), COUNTER_GET(pages_folded),
              COUNTER_GET(keys_evicted));
}

/* From the start to the end of every stage. LOST: the slot was lost meanwhile. */
static enum status run_once(struct cli *cli, const sigset_t *signals, bool anew, struct error *err)
{
    struct run r = {.cfg = cli->config, .started_us = clock_wall_us(&clock_real)};
    reload_init(&r.reload, cli);
    private_board_init(&r.board, &clock_real);
    config_log_warnings(cli->config);
    enum status st = run_start(&r, anew, err);
    if (!st)
        st = blocked_write(r.cfg->state_dir, NULL, err); /* of an earlier run */
    if (!st) {
        log_write(LOG_INFO, "run", "running pipeline=\"%s\" pid=%d", r.cfg->pipeline,
                  (int)getpid());
        st = run_watch(&r, signals, err);
    }
    struct error stop_err = {0};
    enum status stopped = run_stop(&r, !st, &stop_err);
    reload_deinit(&r.reload);
    private_board_deinit(&r.board);
    if (!st && stopped) {
        st = stopped;
        *err = stop_err;
    }
    return st;
}

int cmd_run(struct cli *cli)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &signals, NULL); /* inherited by every thread */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a limit on file sizes is an error of a write, as a full disk is */

    struct error err = {0};
    enum status st = run_once(cli, &signals, false, &err);
    /* Lost while it was read: the policy decides, and everything starts again in this process. */
    while (st == STATUS_LOST) {
        struct error why = {0};
        if (readers_not_current(cli->config, &why))
            log_write(LOG_WARN, "run", "readers may still take rows for current error=\"%s\"",
                      why.text);
        st = slot_loss_decide(cli->config, clock_wall_us(&clock_real), &err);
        if (!st)
            st = run_once(cli, &signals, true, &err);
    }
    log_summary();
    if (st)
        return cli_fail(cli, CLI_FAILED, "%s", err.text);
    return CLI_OK;
}
