#include "server/load.h"

#include <inttypes.h>
#include <time.h>

#include "core/clock.h"
#include "core/log.h"
#include "core/metrics.h"
#include "ingest/table_scan.h"
#include "server/load_window.h"
#include "state/fault.h"

#define READ_WAIT_US  (100 * INT64_C(1000)) /* for the server; then a stop is looked for */
#define ROUTER_NAP_US INT64_C(2000)         /* at most, while the workers have no room */
#define REPORT_US     (5 * US_PER_SECOND)
#define LOOK_EVENTS   1000 /* between looks at the clock and the router */
/* T of rows from before: they are older than anything that is kept by time. */
#define EARLIEST_US US_PER_DAY

struct load {
    struct table_scan *scan;
    struct router *router;
    const atomic_bool *stop;
    lsn_t birth;
    int64_t at_us;    /* of the snapshot: T ends there */
    int64_t as_of_us; /* T */
    uint64_t n;       /* events handed on */
    struct load_window window;
    int64_t began_us, reported_us;
    bool told[MAPPING_TABLES_MAX]; /* that the table is done */
};

static bool stopped(const struct load *l)
{
    return atomic_load(l->stop);
}

/* Sends what is buffered, and sleeps for as long as the router does not need to be called. */
static void rest(struct load *l)
{
    int64_t us = router_drained(l->router);
    us = us < ROUTER_NAP_US ? us : ROUTER_NAP_US;
    const struct timespec ts = {0, us * 1000};
    nanosleep(&ts, NULL);
}

/* ---- progress ---- */

static void report_tables(struct load *l, int64_t now_us, uint64_t *rows, int64_t *expected)
{
    *rows = 0;
    *expected = 0;
    for (size_t i = 0; i < table_scan_count(l->scan); i++) {
        struct table_scan_table t = table_scan_at(l->scan, i);
        *rows += t.rows;
        if (*expected >= 0)
            *expected = t.expected < 0 ? -1 : *expected + t.expected;
        if (!t.ended || l->told[i])
            continue;
        l->told[i] = true;
        log_write(LOG_INFO, "load", "read table=\"%s.%s\" rows=%" PRIu64 " seconds=%.1f", t.schema,
                  t.table, t.rows, (double)(now_us - l->began_us) / 1e6);
    }
}

static void report(struct load *l)
{
    int64_t now_us = clock_mono_us(&clock_real);
    uint64_t rows;
    int64_t expected;
    report_tables(l, now_us, &rows, &expected);
    if (now_us - l->reported_us < REPORT_US)
        return;
    l->reported_us = now_us;
    char share[32] = "unknown"; /* the estimate may be old, and what is too old is left out */
    if (expected > 0)
        snprintf(share, sizeof(share), "%.0f%%",
                 (double)rows < (double)expected ? 100 * (double)rows / (double)expected : 99.0);
    log_write(LOG_INFO, "load", "loading rows=%" PRIu64 " rows_per_s=%.0f done=%s", rows,
              (double)rows * 1e6 / (double)(now_us - l->began_us + 1), share);
}

/* ---- events ---- */

/* T never goes back, nor beyond the snapshot; within a window it may be ahead of an event. */
static void move_time(struct load *l, int64_t at_us)
{
    if (at_us > l->at_us)
        at_us = l->at_us;
    if (at_us > l->as_of_us)
        l->as_of_us = at_us;
}

static enum status offer(struct load *l, const struct event *e, struct error *err)
{
    struct event copy = *e;
    move_time(l, e->at_us);
    if (e->type == EVENT_DEAD_LETTER)
        copy.at_us = l->at_us;
    struct position pos = {l->birth - 1, ++l->n << 8};
    enum status st;
    while ((st = router_event(l->router, SOURCE_POSTGRES, &copy, pos, l->as_of_us, err)) ==
           STATUS_AGAIN) {
        if (stopped(l))
            return STATUS_OK;
        rest(l);
    }
    if (!st)
        metric_add(METRIC_EVENTS_RECEIVED, METRIC_SOURCE_POSTGRES, event_type_name(e->type), 1);
    if (!st && FAULT_POINT("load_event"))
        st = error_set(err, STATUS_IO, "could not go on loading: injected fault");
    return st;
}

static enum status offer_window(struct load *l, struct error *err)
{
    enum status st = STATUS_OK;
    struct event e;
    while (!stopped(l) && (st = load_window_take(&l->window, &e, err)) == STATUS_OK) {
        st = offer(l, &e, err);
        if (st)
            return st;
        if (l->n % LOOK_EVENTS == 0)
            report(l);
    }
    return st == STATUS_END ? STATUS_OK : st;
}

static enum status gather(struct load *l, const struct event *e, struct error *err)
{
    enum status st = load_window_put(&l->window, e, err);
    if (st != STATUS_AGAIN)
        return st;
    st = offer_window(l, err);
    return st || stopped(l) ? st : load_window_put(&l->window, e, err);
}

static enum status feed(struct load *l, struct error *err)
{
    while (!stopped(l)) {
        const struct event *e = NULL;
        enum status st = table_scan_next(l->scan, READ_WAIT_US, &e, err);
        if (st == STATUS_END)
            return offer_window(l, err);
        if (st && st != STATUS_AGAIN)
            return st;
        if (st == STATUS_AGAIN || l->window.n % LOOK_EVENTS == 0) {
            (void)router_drained(l->router);
            report(l);
        }
        if (!st)
            st = gather(l, e, err);
        if (st && st != STATUS_AGAIN)
            return st;
    }
    return STATUS_OK;
}

/* Everything up to the birth of the slot is covered, and waited for. */
static enum status finish(struct load *l, struct error *err)
{
    move_time(l, l->at_us);
    enum status st;
    while ((st = router_commit(l->router, SOURCE_POSTGRES, l->birth, l->as_of_us, err)) ==
               STATUS_AGAIN &&
           !stopped(l))
        rest(l);
    while (!st && !stopped(l) && router_durable(l->router, SOURCE_POSTGRES) < l->birth)
        rest(l);
    return st;
}

static enum status open_scan(const struct config *cfg, struct startup *s, struct load *l,
                             struct error *err)
{
    struct table_scan_config sc = {
        .conninfo = cfg->source_conninfo,
        .application_name = "warmpath snapshot",
        .snapshot = s->snapshot.snapshot,
        .publication = cfg->publication,
        .mappings = &cfg->mappings,
        .since_us = s->identity.since_us,
        .jobs = (unsigned)cfg->snapshot_jobs,
    };
    enum status st = table_scan_open(&sc, &l->scan, err);
    preflight_export_end(&s->snapshot);
    return st;
}

static enum status load_all(const struct config *cfg, struct startup *s, struct load *l,
                            bool *ret_complete, struct error *err)
{
    enum status st = feed(l, err);
    if (!st && !stopped(l))
        st = finish(l, err);
    if (st || stopped(l))
        return st;
    l->reported_us = INT64_MAX; /* the tables, not the line of how far it is */
    report(l);
    if (FAULT_POINT("load_complete"))
        return error_set(err, STATUS_IO, "could not complete the load: injected fault");
    st = store_set_loaded(cfg->state_dir, lease_epoch(s->lease), err);
    if (!st && FAULT_POINT("load_marked"))
        st = error_set(err, STATUS_IO, "could not go on: injected fault");
    if (st)
        return st;
    *ret_complete = true;
    s->identity.loading = false;
    log_write(LOG_INFO, "load", "loaded events=%" PRIu64 " seconds=%.1f lsn=" LSN_FMT, l->n,
              (double)(clock_mono_us(&clock_real) - l->began_us) / 1e6, LSN_ARGS(l->birth));
    return STATUS_OK;
}

enum status load_run(const struct config *cfg, struct startup *s, struct router *router,
                     const atomic_bool *stop, bool *ret_complete, struct error *err)
{
    struct load l = {
        .router = router,
        .stop = stop,
        .birth = s->snapshot.birth,
        .at_us = s->snapshot.at_us,
        .as_of_us = EARLIEST_US,
        .began_us = clock_mono_us(&clock_real),
        .reported_us = clock_mono_us(&clock_real),
    };
    *ret_complete = false;
    log_write(LOG_INFO, "load", "reading the rows that are there lsn=" LSN_FMT, LSN_ARGS(l.birth));
    enum status st = load_window_init(&l.window, err);
    if (!st)
        st = open_scan(cfg, s, &l, err);
    if (!st)
        st = load_all(cfg, s, &l, ret_complete, err);
    table_scan_close(l.scan);
    load_window_deinit(&l.window);
    return st;
}
