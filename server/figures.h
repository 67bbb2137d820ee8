/*
 * server/figures.h - what the supervisor knows of its stages, about once a second: as gauges for
 * /metrics (core/metrics.h) and as checks for /readyz.
 */
#pragma once

#include "ingest/replication.h"
#include "pipeline/worker.h"
#include "server/config.h"
#include "server/door.h"
#include "server/feed.h"
#include "server/private_board.h"
#include "server/redis_layer.h"
#include "server/source_watch.h"
#include "state/sink.h"

/* All borrowed for the call. */
struct figures_input {
    const struct config *cfg;
    struct worker *const *workers;
    uint32_t n_workers;
    struct sink *sink;
    size_t sink_rows_max;
    const struct replication *replication;
    struct source_watch *watch;
    bool loading;                     /* the initial snapshot is being read */
    const struct error *blocked;      /* why the reader stands still; code OK: it does not */
    const struct error *sink_trouble; /* code OK: there is none */
    int64_t started_us;               /* wall clock */
    struct door *door;                /* NULL: there is none yet */
    struct feed *announcements;       /* likewise */
    struct redis_layer *redis;        /* NULL: there is none */
};
/* Sets the gauges and adds the checks to ret. */
void figures_take(const struct figures_input *in, struct readiness *ret);
