/*
 * ingest/heartbeat.h - a tiny transaction of our own that comes back through the slot: it gives an
 * idle database something to confirm, and tells how long a commit takes to become durable here.
 *
 * It is a transactional logical message (PostgreSQL documentation, pg_logical_emit_message): no
 * table, no row, never data. Its content is "PIPELINE MICROSECONDS", so that pipelines that share
 * a database know their own. Pure functions.
 */
#pragma once

#include "core/buf.h"
#include "core/lsn.h"
#include "core/status.h"

#include <stdbool.h>
#include <stdint.h>

/* The statement that sends one, NUL-terminated. now_us: wall clock. */
MUST_CHECK enum status heartbeat_sql(const char *pipeline, int64_t now_us, struct buf *out);
/* Whether a logical message is one of this pipeline; then when it was sent. */
bool heartbeat_read(struct str prefix, struct str content, const char *pipeline,
                    int64_t *ret_sent_us);

/* The newest one that came back and is not yet known to be durable. */
struct heartbeat {
    const char *pipeline; /* NULL = none is expected */
    int64_t sent_us;      /* 0 = none on its way */
    lsn_t final_lsn;      /* commit record of its transaction */
};
void heartbeat_came(struct heartbeat *h, struct str prefix, struct str content, lsn_t final_lsn);
/* True once for each that has become durable; then how long it took, at least 0. */
bool heartbeat_done(struct heartbeat *h, lsn_t durable, int64_t now_us, int64_t *ret_lag_us);
