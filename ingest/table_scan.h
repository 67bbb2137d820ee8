/*
 * ingest/table_scan.h - the rows of all mapped tables under one snapshot, as the events they stand
 * for, in the order of their times: the initial load and `verify` read through it.
 *
 * Per table one COPY (SELECT mapped columns ... ORDER BY at) TO STDOUT, on a connection of its own;
 * a large table is read in several ranges of blocks at once. The server sorts (on its disk when
 * need be), the scan merges by the head of each COPY, so that memory here is one row per
 * connection however large the tables are. A row becomes events by mapping_apply(CHANGE_INSERT);
 * one that cannot be used is an EVENT_DEAD_LETTER with its reason, as in ingest/stream.h. The row
 * filter of the publication, if there is one, holds here too.
 *
 * What is left out, with since_us: messages and metrics of before, since the engines forget them
 * after 30 days. Everything else is read whole. Memories have no horizon, and their accesses build
 * up their strength even when they have left the log; consent and the versions of a character hold
 * until the next one comes; attempts to reach out are few. The server leaves rows out as far as the
 * column's type allows, a day more generously; the exact bound is held here.
 *
 * Order: where the time is not a column of a type that sorts by time (a text, a path), events may
 * come late. One thread. Nothing is written.
 */
#pragma once

#include "core/cleanup.h"
#include "core/event.h"
#include "ingest/mapping.h"

#include <libpq-fe.h>

struct table_scan;

struct table_scan_config {
    const char *conninfo;
    const char *application_name;
    const char *snapshot;    /* an exported one; NULL: of this moment */
    const char *publication; /* whose row filters hold; it need not exist */
    const struct mapping_set *mappings;
    int64_t since_us; /* INT64_MIN: nothing is left out */
    unsigned jobs;    /* ranges that a large table is read in, 1.. */
};

/* Connects, and has every COPY begun: afterwards an exported snapshot is no longer needed. The
 * config is only read here, but for mappings. IO, REFUSED: as of core/pg.h for the source. */
MUST_CHECK enum status table_scan_open(const struct table_scan_config *cfg, struct table_scan **ret,
                                       struct error *err);
void table_scan_close(struct table_scan *s); /* NULL is a no-op */
CLEANUP_FREEP(struct table_scan, table_scan_close);

/* The earliest event not yet given, borrowed until the next call that is not answered with AGAIN.
 * AGAIN: the server has not sent it within timeout_us. END: that was all. */
MUST_CHECK enum status table_scan_next(struct table_scan *s, int64_t timeout_us,
                                       const struct event **ret, struct error *err);

/* A connection that sees the same snapshot, for other queries. */
PGconn *table_scan_connection(struct table_scan *s);

/* How far it is: one entry per mapping. */
struct table_scan_table {
    const char *schema;
    const char *table;
    uint64_t rows;    /* read so far */
    int64_t expected; /* rows in the table, as the server estimates; -1 = not known */
    bool ended;
};
size_t table_scan_count(const struct table_scan *s);
struct table_scan_table table_scan_at(const struct table_scan *s, size_t i);
