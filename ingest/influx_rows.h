/*
 * ingest/influx_rows.h - answers of InfluxDB 1.x to /query (epoch=ns), as points. Pure.
 */
#pragma once

#include "core/buf.h"
#include "core/status.h"
#include "ingest/line_protocol.h"

/* One document of SELECT * ... GROUP BY *, whole or a chunk: fn is called for each row; the point
 * is plain and borrowed for the call, and a failure of fn ends the reading and is returned.
 * INVALID: the server says that the query failed, and the text how; PROTOCOL: not such an answer.
 */
MUST_CHECK enum status influx_rows_read(struct str json,
                                        enum status (*fn)(void *ctx, const struct line_point *p,
                                                          struct error *err),
                                        void *ctx, struct error *err);
/* Likewise for one whose rows begin with a name, as SHOW MEASUREMENTS. */
MUST_CHECK enum status
influx_names_read(struct str json, enum status (*fn)(void *ctx, struct str name, struct error *err),
                  void *ctx, struct error *err);
/* Appends SELECT * FROM measurement WHERE time >= from AND time < to GROUP BY *; to INT64_MAX: no
 * end. Units: nanoseconds. */
MUST_CHECK enum status influx_select(struct str measurement, int64_t from_ns, int64_t to_ns,
                                     struct buf *out);
