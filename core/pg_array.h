/*
 * core/pg_array.h - the text form of a one-dimensional PostgreSQL array, to be passed as one
 * parameter and taken apart by unnest() (PostgreSQL docs, Array Input and Output Syntax).
 *
 * pg_array_begin() empties it; pg_array_end() closes it and NUL-terminates buf.data. Elements must
 * not hold NUL bytes (ingest refuses them). A failed append (NOMEM, LIMIT) sticks in `st`.
 */
#pragma once

#include "core/buf.h"
#include "core/status.h"

#include <stddef.h>
#include <stdint.h>

struct pg_array {
    struct buf buf;
    enum status st;
    size_t n;
};

void pg_array_init(struct pg_array *a, size_t bytes_max);
void pg_array_deinit(struct pg_array *a);
void pg_array_begin(struct pg_array *a);
void pg_array_null(struct pg_array *a);
void pg_array_text(struct pg_array *a, struct str s); /* quoted; STR_NULL gives NULL */
void pg_array_plain(struct pg_array *a, const char *fmt, ...) PRINTF_LIKE(2, 3); /* numbers, LSNs */
void pg_array_double(struct pg_array *a, double v);   /* 17 digits: reads back as v */
void pg_array_time(struct pg_array *a, int64_t t_us); /* INT64_MAX gives infinity */
MUST_CHECK enum status pg_array_end(struct pg_array *a);
