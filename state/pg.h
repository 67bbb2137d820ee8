/*
 * state/pg.h - the narrow seam to libpq: connections that fail in time, errors in our own terms,
 * and the text form of arrays.
 *
 * Errors: IO (connection, shutdown, lock, deadlock, resources: try again), INVALID (the server
 * refuses the data itself: SQLSTATE classes 22, 23 and 54), FENCED (WP001, raised by
 * strategic_fence()), REFUSED (classes 42, 3F, 0A and 28: wrong schema, rights or role; trying
 * again does not help). The text ends with the SQLSTATE in parentheses when there is one.
 */
#pragma once

#include "core/buf.h"
#include "core/cleanup.h"
#include "core/status.h"

#include <libpq-fe.h>
#include <stdbool.h>
#include <stddef.h>

CLEANUP_FREEP(PGconn, PQfinish);
CLEANUP_FREEP(PGresult, PQclear);

struct pg_options {
    const char *conninfo;         /* libpq URI or keyword string; its own settings win */
    const char *application_name; /* shown in pg_stat_activity */
    const char *setup;            /* statements run after connecting, or NULL */
    int timeout_ms;               /* for all of it; 0 = 10 s */
    int cancel_fd;                /* readable = give up with AGAIN; -1 = none */
};

/* Connects; TCP keep-alives make a vanished server an error within a minute. The connection is in
 * UTF-8 and silent about notices. */
MUST_CHECK enum status pg_open(const struct pg_options *o, PGconn **ret, struct error *err);

/* Waits until the socket is readable (or writable too). AGAIN: cancel_fd became readable. IO: the
 * time is up. deadline_us: on CLOCK_MONOTONIC (clock_mono_us(&clock_real)). */
MUST_CHECK enum status pg_wait(PGconn *conn, bool for_write, int64_t deadline_us, int cancel_fd,
                               struct error *err);

/* What a failed result (or, with NULL, the connection) means; what: "could not ..." */
enum status pg_error(struct error *err, const PGconn *conn, const PGresult *res, const char *what);
/* "" when there is none. */
const char *pg_sqlstate(const PGresult *res);

/* One or more statements without parameters, results dropped. */
MUST_CHECK enum status pg_exec(PGconn *conn, const char *sql, const char *what, struct error *err);
/* Ends a failed transaction; when even that fails the connection is broken and shows it later. */
void pg_rollback(PGconn *conn);
/* One statement with text parameters (NULL = SQL NULL); the caller clears *ret. */
MUST_CHECK enum status pg_query(PGconn *conn, const char *sql, int n, const char *const *params,
                                const char *what, PGresult **ret, struct error *err);

/*
 * The text form of a one-dimensional array, to be passed as one parameter and taken apart by
 * unnest(). pg_array_begin() empties it; pg_array_end() closes it and NUL-terminates data.
 * Elements must not hold NUL bytes (ingest refuses them). A failed append sticks in `st`.
 */
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
