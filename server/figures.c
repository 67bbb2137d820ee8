#include "server/figures.h"

#include "core/metrics.h"
#include "state/inbox.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#define SECONDS(us) ((double)(us) / 1e6)

/* "0": the label of a worker. */
struct worker_label {
    char text[12];
};

static struct worker_label label_of(uint32_t worker)
{
    struct worker_label l;
    snprintf(l.text, sizeof(l.text), "%u", worker);
    return l;
}

/* ---- the source ---- */

/* A heartbeat that has not come back yet tells as much as one that has: the lag is at least the
 * time since it should have. NAN: there are no heartbeats. */
static double source_lag(const struct figures_input *in)
{
    int64_t lag_us = 0;
    int64_t at_us = 0;
    if (in->cfg->heartbeat_us == 0 || in->loading)
        return NAN;
    if (!replication_lag(in->replication, &lag_us, &at_us))
        at_us = in->started_us;
    int64_t overdue_us = clock_wall_us(&clock_real) - at_us - in->cfg->heartbeat_us;
    return SECONDS(overdue_us > lag_us ? overdue_us : lag_us);
}

static void take_slot(struct source_watch *watch)
{
    struct source_slot slot = source_watch_slot(watch);
    metric_set(METRIC_SOURCE_LAG_BYTES, METRIC_SOURCE_POSTGRES, NULL,
               slot.lag_bytes < 0 ? NAN : (double)slot.lag_bytes);
    metric_set(METRIC_SLOT_RETAINED, NULL, NULL,
               slot.retained_bytes < 0 ? NAN : (double)slot.retained_bytes);
    metric_set(METRIC_SLOT_SAFE, NULL, NULL,
               slot.safe_wal_bytes < 0 ? NAN : (double)slot.safe_wal_bytes);
}

static void take_source(const struct figures_input *in, struct readiness *r)
{
    bool connected = replication_connected(in->replication);
    bool blocked = in->blocked->code != STATUS_OK;
    double lag = source_lag(in);
    double bound = SECONDS(in->cfg->catch_up_lag_us);
    metric_set(METRIC_SNAPSHOT_LOADING, NULL, NULL, in->loading);
    metric_set(METRIC_SOURCE_CONNECTED, METRIC_SOURCE_POSTGRES, NULL, connected);
    metric_set(METRIC_SOURCE_BLOCKED, METRIC_SOURCE_POSTGRES, NULL, blocked);
    metric_set(METRIC_SOURCE_LAG, METRIC_SOURCE_POSTGRES, NULL, lag);
    take_slot(in->watch);
    ready_check(r, "snapshot", !in->loading, "the initial snapshot is being read");
    ready_check(r, "source", in->loading || (connected && !blocked), "%s",
                blocked ? in->blocked->text : "the slot is not being read");
    ready_check(r, "lag", !(lag > bound), "a heartbeat takes %.1f s, more than catch_up_lag (%g s)",
                lag, bound);
}

/* ---- the sink ---- */

static void take_sink(const struct figures_input *in, struct readiness *r)
{
    bool trouble = in->sink_trouble->code != STATUS_OK;
    metric_set(METRIC_SINK_CONNECTED, NULL, NULL, !trouble);
    metric_set(METRIC_QUEUE_DEPTH, "sink", NULL, (double)(in->sink_rows_max - sink_room(in->sink)));
    metric_set(METRIC_QUEUE_CAPACITY, "sink", NULL, (double)in->sink_rows_max);
    ready_check(r, "sink", !trouble, "%s", in->sink_trouble->text);
}

/* ---- the state ---- */

static void follow_engines(uint64_t read[2][RECORD_KINDS])
{
    for (size_t i = 0; engine_at(i); i++) {
        const struct engine_ops *ops = engine_at(i);
        uint64_t total = 0;
        for (int kind = 0; kind < RECORD_KINDS; kind++)
            total += ops->kinds & 1u << kind ? read[ops->scope][kind] : 0;
        metric_follow(METRIC_ENGINE_EVENTS, ops->name, NULL, total);
    }
}

static void take_state(const struct figures_input *in, struct readiness *r)
{
    uint64_t read[2][RECORD_KINDS] = {{0}};
    struct error err = {0};
    enum status health = STATUS_OK;
    for (uint32_t i = 0; i < in->n_workers; i++) {
        struct worker_label worker = label_of(i);
        struct partition_view v = worker_view(in->workers[i]);
        struct worker_figures f = worker_figures(in->workers[i]);
        if (!health)
            health = worker_health(in->workers[i], &err);
        metric_set(METRIC_CHECKPOINT_TIMESTAMP, worker.text, NULL,
                   f.committed_us ? SECONDS(f.committed_us) : NAN);
        metric_set(METRIC_JOURNAL_BYTES, worker.text, NULL, (double)v.journal_bytes);
        metric_set(METRIC_STATE_KEYS, worker.text, NULL, (double)v.keys);
        metric_set(METRIC_STATE_BYTES, worker.text, NULL, (double)v.key_bytes);
        metric_set(METRIC_DEAD_LETTERS_KEPT, worker.text, NULL, (double)f.partition.letters.n);
        metric_set(METRIC_DEAD_LETTERS_KEPT_BYTES, worker.text, NULL,
                   (double)f.partition.letters.bytes);
        for (int scope = 0; scope < 2; scope++)
            for (int kind = 0; kind < RECORD_KINDS; kind++)
                read[scope][kind] += f.partition.read[scope][kind];
    }
    follow_engines(read);
    uint64_t bytes = store_set_bytes(in->cfg->state_dir);
    metric_set(METRIC_CHECKPOINT_BYTES, NULL, NULL, bytes ? (double)bytes : NAN);
    ready_check(r, "state", health == STATUS_OK, "%s", err.text);
}

/* ---- the door ---- */

static void take_inbox(const struct figures_input *in, struct readiness *r)
{
    struct inbox *inbox = door_inbox(in->door);
    if (!inbox)
        return;
    struct inbox_view v = inbox_view(inbox);
    struct error err = {0};
    bool healthy = door_health(in->door, &err) == STATUS_OK;
    uint64_t max = (uint64_t)in->cfg->inbox.max_size;
    metric_set(METRIC_QUEUE_DEPTH, "inbox", NULL, (double)v.bytes);
    metric_set(METRIC_QUEUE_CAPACITY, "inbox", NULL, (double)max);
    metric_set(METRIC_INBOX_QUEUED, NULL, NULL, (double)v.queued);
    metric_set(METRIC_INBOX_ROWS, NULL, NULL, (double)(v.newest - v.trimmed));
    metric_set(METRIC_INBOX_COMMIT, NULL, NULL, v.committed_us ? SECONDS(v.committed_us) : NAN);
    metric_set(METRIC_INBOX_COMMIT_MAX, NULL, NULL, SECONDS(v.commit_max_us));
    if (healthy && v.full)
        ready_check(r, "inbox", false, "no room to write: deliveries are answered 503");
    else if (healthy && v.bytes >= max)
        ready_check(r, "inbox", false, "full: deliveries are answered 503 (inbox.max_size)");
    else
        ready_check(r, "inbox", healthy, "%s", err.text);
}

static void take_listener(const char *name, const struct http_server *s)
{
    static const char *const classes[6] = {NULL, "1xx", "2xx", "3xx", "4xx", "5xx"};
    if (!s)
        return;
    struct http_view v = http_view(s);
    metric_set(METRIC_HTTP_CONNECTIONS, name, NULL, (double)v.connections);
    metric_set(METRIC_HTTP_BODY_BYTES, name, NULL, (double)v.bodies);
    metric_follow(METRIC_HTTP_REFUSED, name, NULL, v.connections_refused);
    metric_follow(METRIC_HTTP_REQUESTS, name, NULL, v.requests);
    metric_follow(METRIC_HTTP_GUARD, name, NULL, v.refused_guard);
    metric_follow(METRIC_HTTP_TIMEOUTS, name, NULL, v.timed_out);
    metric_follow(METRIC_HTTP_UNANSWERED, name, NULL, v.unanswered);
    for (size_t i = 1; i < 6; i++)
        metric_follow(METRIC_HTTP_RESPONSES, name, classes[i], v.by_class[i]);
}

/* Nothing waits for Redis: it is shown, and makes nobody less ready. */
static void take_redis(const struct figures_input *in, struct readiness *r)
{
    char trouble[REDIS_TROUBLE_BYTES];
    if (!in->redis)
        return;
    redis_layer_trouble(in->redis, trouble);
    ready_note(r, "redis", !*trouble, "%s", trouble);
}

void figures_take(const struct figures_input *in, struct readiness *ret)
{
    ready_check(ret, "config", true, "%s", "");
    if (in->announcements)
        feed_figures(in->announcements);
    take_state(in, ret);
    take_sink(in, ret);
    take_source(in, ret);
    take_redis(in, ret);
    if (!in->door)
        return;
    take_inbox(in, ret);
    take_listener("public", door_public(in->door));
    take_listener("private", door_private(in->door));
}
