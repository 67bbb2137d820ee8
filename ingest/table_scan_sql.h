/*
 * ingest/table_scan_sql.h - what ingest/table_scan.c asks the server, in one place; for it alone.
 */
#pragma once

#include "core/pg.h"
#include "ingest/mapping.h"

/* One mapping and what the catalogue says about its table. */
struct scan_table {
    const struct mapping *mapping;
    struct relation relation; /* with the columns that are read */
    struct relation_column columns[MAPPING_COLUMNS_MAX];
    struct mapping_binding binding;
    bool partitioned;
    char at_type[64]; /* of the column the time is in; "" = none, or not known */
    char *filter;     /* owned; an SQL condition, or NULL */
    int64_t blocks;
    int64_t expected; /* rows, as estimated; -1 = not known */
    uint64_t rows;    /* read */
    unsigned reading; /* parts not yet at their end */
};

/* Fills t, all but what is counted. REFUSED: no such table or column. The caller frees the filter,
 * also after an error. */
MUST_CHECK enum status scan_table_describe(PGconn *conn, const struct mapping *m,
                                           const char *publication, struct scan_table *t,
                                           struct error *err);

/* The blocks a part reads: [from, to), to the end when to is 0. */
struct scan_range {
    int64_t from;
    int64_t to;
};
/* The COPY of one part, NUL-terminated. */
MUST_CHECK enum status scan_table_copy(const struct scan_table *t, struct scan_range range,
                                       int64_t since_us, struct buf *sql);

/* Whether events of this time may be left out. */
bool scan_leaves_out(const struct event *e, int64_t since_us);
