/*
 * core/counters.h - what the process has counted since it started, by name, for the log and
 * /metrics; with labels: core/metrics.h. Relaxed atomics: any thread may add, readers see a recent
 * value.
 */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

#define COUNTERS(X)                                                                  \
    X(transactions_received, "committed transactions read from the slot")            \
    X(changes_received, "row changes read from the slot")                            \
    X(events_routed, "events sent to a partition")                                   \
    X(events_skipped, "events already applied before a restart or reconnect")        \
    X(events_applied, "events applied to state")                                     \
    X(metrics_ignored, "metric events of a measurement that is not known")           \
    X(events_late, "events older than the horizon: counted, not applied")            \
    X(events_forgotten, "events of a user from before the user was forgotten")       \
    X(users_forgotten, "requests to forget a user, by worker")                       \
    X(dead_letters_dropped, "dead letters that made room for newer ones")            \
    X(commits, "group commits of the store")                                         \
    X(pages_folded, "key pages written")                                             \
    X(keys_evicted, "keys paged out of memory")                                      \
    X(flush_count, "rows due: message count reached")                                \
    X(flush_age, "rows due: oldest unflushed event reached its age")                 \
    X(flush_idle, "rows due: quiet after activity")                                  \
    X(flush_predicate, "rows due: an engine asked")                                  \
    X(flush_retraction, "rows due: something was taken back")                        \
    X(flush_character, "rows due: the bot's character was defined anew")             \
    X(flush_refresh, "rows due: refresh ahead of expiry")                            \
    X(flush_wake, "rows due: the first event after a pause")                         \
    X(flush_validity, "rows due: they ceased to hold")                               \
    X(flush_visit, "rows due: the user is likely to return")                         \
    X(flush_stop, "rows due: graceful stop or recovery")                             \
    X(flush_rebuild, "rows due: the key was rebuilt from the source tables")         \
    X(flush_touch, "rows due: the application asked to renew them")                  \
    X(flush_recompute, "rows due: somebody asked to compute them again")             \
    X(flush_invalidate, "rows due: the application said they were wrong")            \
    X(keys_rebuilt, "keys made again from the source tables")                        \
    X(rows_upserted, "rows written")                                                 \
    X(rows_removed, "rows deleted: nothing is left of the key")                      \
    X(rows_swept, "rows deleted: they expired long ago")                             \
    X(rows_touched, "rows whose content was unchanged: only the expiry moved")       \
    X(rows_stale, "rows not written: PostgreSQL has a newer one, or an invalid one") \
    X(sink_batches, "sink transactions committed")                                   \
    X(sink_retries, "sink transactions tried again")                                 \
    X(reconnects, "replication connections re-opened")

struct counters {
#define X(name, help) _Atomic uint64_t name;
    COUNTERS(X)
#undef X
};

extern struct counters counters;

#define COUNTER_ADD(name, n) \
    atomic_fetch_add_explicit(&counters.name, (uint64_t)(n), memory_order_relaxed)
#define COUNTER_GET(name) atomic_load_explicit(&counters.name, memory_order_relaxed)
