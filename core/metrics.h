/*
 * core/metrics.h - what the process counts with labels, for /metrics (server/prometheus.h). Plain
 * counters without labels are in core/counters.h.
 *
 * A family holds at most LIMIT_METRIC_SETS sets of label values; what comes later is counted under
 * the label "other", so that nothing from outside can make it grow. Nothing is allocated. Any
 * thread may add at any time: a set that is known is found without a lock.
 *
 * Labels are NUL-terminated and copied, cut at METRIC_LABEL_BYTES. Never a user, a bot, an id, or
 * anything else that a request has brought along; never a secret.
 */
#pragma once

#include "core/limits.h"

#include <stddef.h>
#include <stdint.h>

enum metric_kind { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };

/*
 * enum, name, kind, first label, second label, help. Labels are NULL where there is none. Names are
 * those of /metrics without the prefix and, for counters, without _total; histograms are durations.
 *
 * source: the name of a webhook, of `influx` or of a `qdrant` entry in the configuration, or
 * "postgres".
 */
#define METRICS(X)                                                                                 \
    X(METRIC_WEBHOOK_REQUESTS, "webhook_requests", METRIC_COUNTER, "source", "code",               \
      "requests to the public listener's routes by what was answered")                             \
    X(METRIC_WEBHOOK_REJECTED, "webhook_rejected", METRIC_COUNTER, "source", "reason",             \
      "requests that were refused, by the reason the sender is not told")                          \
    X(METRIC_WEBHOOK_DURATION, "webhook_request_duration_seconds", METRIC_HISTOGRAM, "source",     \
      NULL, "from the headers of a request to its answer, the durable commit included")            \
    X(METRIC_WEBHOOK_VERIFIED, "webhook_verified", METRIC_COUNTER, "source", "key_id",             \
      "requests by the secret that verified them: one at zero may be removed")                     \
    X(METRIC_EVENTS_RECEIVED, "events_received", METRIC_COUNTER, "source", "kind",                 \
      "events that came in, by their type")                                                        \
    X(METRIC_EVENTS_IGNORED, "events_ignored", METRIC_COUNTER, "source", NULL,                     \
      "elements that were understood and map to no event")                                         \
    X(METRIC_EVENTS_DUPLICATE, "events_duplicate", METRIC_COUNTER, "source", NULL,                 \
      "deliveries that had been stored before and were acknowledged again without effect")         \
    X(METRIC_PULL_REQUESTS, "pull_requests", METRIC_COUNTER, "source", "outcome",                  \
      "requests to a source that is pulled (influx.catch_up, qdrant), by how they ended")          \
    X(METRIC_PULL_CURSOR, "pull_cursor_timestamp_seconds", METRIC_GAUGE, "source", NULL,           \
      "how far a source that is pulled has been read, by the times of what it holds")              \
    X(METRIC_DEAD_LETTERS, "dead_letters", METRIC_COUNTER, "where", NULL,                          \
      "inputs that could not be used, kept with their reason (warmpath dlq)")                      \
    X(METRIC_CACHE_WRITE_DURATION, "cache_write_duration_seconds", METRIC_HISTOGRAM, NULL, NULL,   \
      "one transaction that writes cache rows, from its first statement to its commit")            \
    X(METRIC_CACHE_LATENCY, "cache_latency_seconds", METRIC_HISTOGRAM, NULL, NULL,                 \
      "from the commit of a change at its source to the commit of the cache row that shows it")    \
    X(METRIC_CONFIG_RELOADS, "config_reloads", METRIC_COUNTER, "outcome", NULL,                    \
      "times the configuration was read again: ok or failed")                                      \
    X(METRIC_CONFIG_RELOAD_SUCCESS, "config_reload_success", METRIC_GAUGE, NULL, NULL,             \
      "1: the configuration was read without error the last time, 0: the earlier one is in use")   \
    X(METRIC_CONFIG_RELOAD_TIMESTAMP, "config_reload_timestamp_seconds", METRIC_GAUGE, NULL, NULL, \
      "when the configuration in use was read")                                                    \
    X(METRIC_SOURCE_CONNECTED, "source_connected", METRIC_GAUGE, "source", NULL,                   \
      "1: the source is being read, 0: it is not reached or not asked yet")                        \
    X(METRIC_SOURCE_BLOCKED, "source_blocked", METRIC_GAUGE, "source", NULL,                       \
      "1: the reader stands still before a change that its mapping cannot read")                   \
    X(METRIC_SOURCE_LAG, "source_lag_seconds", METRIC_GAUGE, "source", NULL,                       \
      "from the sending of a heartbeat through the source to its being durable here; grows while " \
      "none comes back")                                                                           \
    X(METRIC_SOURCE_LAG_BYTES, "source_lag_bytes", METRIC_GAUGE, "source", NULL,                   \
      "write-ahead log that the slot has not been confirmed for")                                  \
    X(METRIC_SOURCE_LAST_EVENT, "source_last_event_timestamp_seconds", METRIC_GAUGE, "source",     \
      NULL,                                                                                        \
      "when the newest change that was read was committed at its source; of others: came in")      \
    X(METRIC_SLOT_RETAINED, "slot_retained_bytes", METRIC_GAUGE, NULL, NULL,                       \
      "write-ahead log that the server keeps for the slot")                                        \
    X(METRIC_SLOT_SAFE, "slot_safe_wal_bytes", METRIC_GAUGE, NULL, NULL,                           \
      "write-ahead log that may be written until the slot is lost; only where "                    \
      "max_slot_wal_keep_size is set")                                                             \
    X(METRIC_SNAPSHOT_LOADING, "snapshot_loading", METRIC_GAUGE, NULL, NULL,                       \
      "1: the initial snapshot is being read and no row leaves before its end")                    \
    X(METRIC_SINK_CONNECTED, "sink_connected", METRIC_GAUGE, NULL, NULL,                           \
      "0: cache rows could not be written the last time and are tried again")                      \
    X(METRIC_QUEUE_DEPTH, "queue_depth", METRIC_GAUGE, "queue", NULL,                              \
      "what waits: rows for the sink, bytes in the inbox that a worker still needs")               \
    X(METRIC_QUEUE_CAPACITY, "queue_capacity", METRIC_GAUGE, "queue", NULL,                        \
      "how much of it may wait")                                                                   \
    X(METRIC_CHECKPOINT_TIMESTAMP, "checkpoint_last_success_timestamp_seconds", METRIC_GAUGE,      \
      "worker", NULL, "when the worker last made its state durable")                               \
    X(METRIC_CHECKPOINT_BYTES, "checkpoint_bytes", METRIC_GAUGE, NULL, NULL,                       \
      "size of the state on disk, the inbox not included")                                         \
    X(METRIC_JOURNAL_BYTES, "journal_bytes", METRIC_GAUGE, "worker", NULL,                         \
      "journal that is not folded into key pages yet: what a start reads")                         \
    X(METRIC_STATE_KEYS, "state_keys", METRIC_GAUGE, "worker", NULL, "keys held in memory")        \
    X(METRIC_STATE_BYTES, "state_memory_bytes", METRIC_GAUGE, "worker", NULL,                      \
      "memory that keys take")                                                                     \
    X(METRIC_ENGINE_EVENTS, "engine_events", METRIC_COUNTER, "engine", NULL,                       \
      "events that reached a key the engine reads")                                                \
    X(METRIC_DEAD_LETTERS_KEPT, "dead_letters_kept", METRIC_GAUGE, "worker", NULL,                 \
      "dead letters in the state, to be looked at, retried or dropped")                            \
    X(METRIC_DEAD_LETTERS_KEPT_BYTES, "dead_letters_kept_bytes", METRIC_GAUGE, "worker", NULL,     \
      "room that they take")                                                                       \
    X(METRIC_INBOX_QUEUED, "inbox_queued", METRIC_GAUGE, NULL, NULL,                               \
      "deliveries that wait for their commit")                                                     \
    X(METRIC_INBOX_ROWS, "inbox_rows", METRIC_GAUGE, NULL, NULL,                                   \
      "committed rows that a worker still needs")                                                  \
    X(METRIC_INBOX_COMMIT, "inbox_last_commit_timestamp_seconds", METRIC_GAUGE, NULL, NULL,        \
      "when deliveries were last committed")                                                       \
    X(METRIC_INBOX_COMMIT_MAX, "inbox_commit_max_seconds", METRIC_GAUGE, NULL, NULL,               \
      "the longest commit since the start")                                                        \
    X(METRIC_FEED_ANNOUNCEMENTS, "feed_announcements", METRIC_COUNTER, NULL, NULL,                 \
      "announcements of committed cache rows (NOTIFY, PUB, /api/v1/feed, webhooks)")               \
    X(METRIC_FEED_CLIENTS, "feed_clients", METRIC_GAUGE, NULL, NULL,                               \
      "clients of /api/v1/feed that are connected")                                                \
    X(METRIC_FEED_STREAMS, "feed_streams", METRIC_COUNTER, "event", NULL,                          \
      "what happened to clients of /api/v1/feed: opened, resumed, reset (has to read anew), cut "  \
      "(was too slow), refused (too many)")                                                        \
    X(METRIC_FEED_DELIVERIES, "feed_deliveries", METRIC_COUNTER, "destination", "result",          \
      "attempts to deliver to feed.webhooks by how they ended: ok, 3xx, 4xx, 5xx, gone, error")    \
    X(METRIC_FEED_DELIVERY_DURATION, "feed_delivery_duration_seconds", METRIC_HISTOGRAM,           \
      "destination", NULL, "one attempt to deliver, whatever became of it")                        \
    X(METRIC_FEED_WAITING, "feed_waiting", METRIC_GAUGE, "destination", NULL,                      \
      "announcements that wait to be delivered")                                                   \
    X(METRIC_FEED_OLDEST, "feed_oldest_timestamp_seconds", METRIC_GAUGE, "destination", NULL,      \
      "since when the first of them has been waiting; left out while none is")                     \
    X(METRIC_FEED_DEAD, "feed_dead_letters_kept", METRIC_GAUGE, "destination", NULL,               \
      "announcements that could not be delivered (warmpath dlq)")                                  \
    X(METRIC_HTTP_CONNECTIONS, "http_connections", METRIC_GAUGE, "listener", NULL,                 \
      "connections that are open")                                                                 \
    X(METRIC_HTTP_BODY_BYTES, "http_body_bytes", METRIC_GAUGE, "listener", NULL,                   \
      "bodies of requests under way")                                                              \
    X(METRIC_HTTP_REFUSED, "http_connections_refused", METRIC_COUNTER, "listener", NULL,           \
      "connections that were closed because there were too many")                                  \
    X(METRIC_HTTP_REQUESTS, "http_requests", METRIC_COUNTER, "listener", NULL,                     \
      "requests whose headers arrived")                                                            \
    X(METRIC_HTTP_RESPONSES, "http_responses", METRIC_COUNTER, "listener", "class",                \
      "answers by the class of their status: 2xx, 4xx, 5xx")                                       \
    X(METRIC_HTTP_GUARD, "http_refused_framing", METRIC_COUNTER, "listener", NULL,                 \
      "requests that were refused for how they were framed: broken or hostile senders")            \
    X(METRIC_HTTP_TIMEOUTS, "http_timeouts", METRIC_COUNTER, "listener", NULL,                     \
      "connections whose headers or body did not come in time")                                    \
    X(METRIC_HTTP_UNANSWERED, "http_unanswered", METRIC_COUNTER, "listener", NULL,                 \
      "requests that were answered 503 because what they asked for took too long")                 \
    X(METRIC_REDIS_SETS, "redis_sets", METRIC_COUNTER, NULL, NULL, "values written to Redis")      \
    X(METRIC_REDIS_DELS, "redis_dels", METRIC_COUNTER, NULL, NULL, "values removed from Redis")    \
    X(METRIC_REDIS_ERRORS, "redis_errors", METRIC_COUNTER, NULL, NULL,                             \
      "times Redis, or the cache on the way there, could not be reached or refused")               \
    X(METRIC_REDIS_SYNCS, "redis_syncs", METRIC_COUNTER, NULL, NULL,                               \
      "times everything in Redis was compared and written anew")                                   \
    X(METRIC_REDIS_CONNECTED, "redis_connected", METRIC_GAUGE, NULL, NULL,                         \
      "0: Redis is not reached; only with redis.url")                                              \
    X(METRIC_REDIS_PENDING, "redis_pending", METRIC_GAUGE, NULL, NULL,                             \
      "keys that have changed and are still to be written to Redis")                               \
    X(METRIC_REDIS_SYNCED, "redis_last_sync_timestamp_seconds", METRIC_GAUGE, NULL, NULL,          \
      "when everything in Redis was last compared and written anew")

enum metric_id {
#define X(id, name, kind, a, b, help) id,
    METRICS(X)
#undef X
        METRIC_IDS
};

#define METRIC_SOURCE_POSTGRES "postgres"

#define METRIC_LABEL_BYTES 128
#define METRIC_BUCKETS     14

/* Upper bounds in microseconds; the last bucket of a set, beyond them all, is +Inf. */
extern const int64_t metric_bounds_us[METRIC_BUCKETS];

struct metric_family {
    const char *name;
    const char *help;
    const char *labels[2];
    enum metric_kind kind;
};
const struct metric_family *metric_family(enum metric_id m);

/*
 * a and b are the values of the family's labels, NULL where it has none. n = 0 makes a set of
 * labels visible as 0 before anything happened, which an alert on its rate needs: do so for what
 * the configuration names.
 */
void metric_add(enum metric_id m, const char *a, const char *b, uint64_t n);
/* A counter that somebody else counts (http_view(), ...): its value is now total. */
void metric_follow(enum metric_id m, const char *a, const char *b, uint64_t total);
/* NAN: not known any more, so that /metrics leaves it out. */
void metric_set(enum metric_id m, const char *a, const char *b, double value);
void metric_observe(enum metric_id m, const char *a, const char *b, int64_t us);

/* One set of label values, as it is now. */
struct metric_sample {
    const char *labels[2];
    uint64_t count; /* COUNTER: its value; HISTOGRAM: how many were observed */
    double value;   /* GAUGE */
    uint64_t sum_us;
    uint64_t buckets[METRIC_BUCKETS + 1]; /* each its own, not added up; they add up to count */
};
/* Every set in the order of their first use; gauges only while they are known. */
void metric_each(enum metric_id m, void (*fn)(void *ctx, const struct metric_sample *sample),
                 void *ctx);
/* All sets of a counter or histogram added up. */
uint64_t metric_total(enum metric_id m);
