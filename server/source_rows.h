/*
 * server/source_rows.h - the mapped source tables read through SELECT, as the events they stand
 * for.
 *
 * All tables are read side by side and their events come merged by time, as they would have arrived
 * from the slot. Rows that cannot become an event are counted, as the pipeline dead-letters them.
 * Everything is read in one REPEATABLE READ, READ ONLY transaction that the caller may use for
 * other queries of the same snapshot: source_rows_connection().
 */
#pragma once

#include "core/cleanup.h"
#include "core/event.h"
#include "ingest/mapping.h"

#include <libpq-fe.h>

struct source_rows;

MUST_CHECK enum status source_rows_open(const char *conninfo, const struct mapping_set *mappings,
                                        struct source_rows **ret, struct error *err);
void source_rows_close(struct source_rows *s); /* NULL is a no-op */
CLEANUP_FREEP(struct source_rows, source_rows_close);

/* The earliest event not yet given; borrowed until the next call. STATUS_END after the last one. */
MUST_CHECK enum status source_rows_next(struct source_rows *s, struct event *ret,
                                        struct error *err);
PGconn *source_rows_connection(struct source_rows *s);
uint64_t source_rows_unusable(const struct source_rows *s);
/* Why the first unusable row was one, or "". */
const char *source_rows_unusable_reason(const struct source_rows *s);
