/*
 * core/log.h - one line per record, logfmt, on stderr: ts level stage msg key=value...
 *
 * Message style as PostgreSQL's: lower case, no full stop, "could not ...". error = someone must
 * act; warn = degraded, says what happens next; info = lifecycle; debug = per batch, never per row.
 * Never log row data or secrets. Only server/ and the stage threads of pipeline/ log.
 */
#pragma once

#include "core/status.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

void log_set_level(enum log_level level);
/* stage: "ingest", "worker", "sink", "run"...; fmt: `could not connect error="..." retry_ms=200` */
void log_write(enum log_level level, const char *stage, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* Lets one record through per period; returns how many were held back before it, or -1 = hold back.
 */
struct log_limit {
    long long next_us;
    int held;
};
int log_limit_pass(struct log_limit *l, long long now_us, long long period_us);
