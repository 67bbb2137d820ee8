/*
 * core/pg.h - the seam to libpq: connections that fail in time, waits that can be ended, errors in
 * our own terms, statements and quoting.
 *
 * Two databases are talked to: the source, whose rows are read, and the sink, whose cache tables
 * are written. An error of the server means the same everywhere (pg_status_of()); what is said
 * about the source differs in its hints, and in that it is sent no data of ours.
 *
 * Errors: IO (connection, shutdown, lock, deadlock, resources: try again), INVALID (the server
 * refuses the data itself), FENCED (raised by strategic_fence()), REFUSED (wrong schema, rights,
 * role or setting, lost slot: trying again does not help), END (given up on request). The text is
 * one line, has detail and hint, and ends with the SQLSTATE in parentheses when there is one.
 */
#pragma once

#include "core/buf.h"
#include "core/cleanup.h"
#include "core/clock.h"
#include "core/status.h"

#include <libpq-fe.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

CLEANUP_FREEP(PGconn, PQfinish);
CLEANUP_FREEP(PGresult, PQclear);

/* ---- errors ---- */

/* What a SQLSTATE (PostgreSQL docs, appendix A) asks for: IO, INVALID, REFUSED or FENCED. NULL or
 * "" (no answer from the server) is IO. */
enum status pg_status_of(const char *sqlstate);
/* What to do about an error of the source, for the classes we know; "" otherwise. */
const char *pg_source_hint(const char *sqlstate);
/* "" when there is none. */
const char *pg_sqlstate(const PGresult *res);
/* libpq's message with its first line only, and without trailing blanks: it goes into a log line.
 */
void pg_error_line(const char *message, char *out, size_t size);

/* What a failed result (or, with NULL, the connection) means; what: "could not ..." */
enum status pg_error(struct error *err, const PGconn *conn, const PGresult *res, const char *what);
/* The same for the source: with pg_source_hint(), and never INVALID, as what it finds invalid is
 * our command. */
enum status pg_source_error(struct error *err, const PGconn *conn, const PGresult *res,
                            const char *what);

/* ---- waiting ---- */

/* Who interrupts a wait. A NULL pointer to it: nobody, and the real clock. */
struct pg_wait {
    const struct clock *clock;
    int wake_fd;             /* readable = look at stop; drained by the waiter. -1 = none */
    const atomic_bool *stop; /* NULL = none */
    bool wake_stops;         /* a readable wake_fd is itself the stop, and is left readable */
};

/*
 * Waits until the socket is readable (or writable, when asked), the wake descriptor is, or
 * timeout_us has passed (negative = 0).
 */
struct pg_ready {
    bool readable;
    bool writable;
    bool woken;
};
MUST_CHECK enum status pg_poll(int socket, bool want_read, bool want_write, int64_t timeout_us,
                               const struct pg_wait *wait, struct pg_ready *ret, struct error *err);

/* Waits for the connection's socket. END: stopped. IO: the time is up. deadline_us: monotonic, on
 * the wait's clock. */
MUST_CHECK enum status pg_wait_socket(const PGconn *conn, bool want_read, bool want_write,
                                      int64_t deadline_us, const struct pg_wait *wait,
                                      struct error *err);

/* ---- connecting ---- */

enum pg_mode {
    /* Ordinary statements in the session as the server's administrator set it up. */
    PG_PLAIN,
    /* To the source: ordinary statements, and settings that reading rows relies on, sent with the
     * start-up packet after any options of the conninfo: ISO dates, UTC, exact floats, no statement
     * time-outs. */
    PG_SOURCE,
    /* The same for replication commands. Bytes of a database without an encoding come as they are.
     */
    PG_REPLICATION,
};

struct pg_options {
    const char *conninfo;         /* libpq URI or keyword string */
    const char *application_name; /* NULL = "warmpath"; to the source, the conninfo's own wins */
    const char *setup;            /* statements run after connecting, or NULL */
    enum pg_mode mode;
    int timeout_ms;             /* for connecting; 0 = 10 s */
    const struct pg_wait *wait; /* what may end that early, or NULL */
};

/* Hosts of a conninfo that are tried one by one. */
#define PG_HOSTS_MAX 8

/*
 * Connects, in UTF-8 and silent about notices. TCP keep-alives make a vanished server an error
 * within a minute; the conninfo may say otherwise. Of several hosts the first that takes us (with
 * target_session_attrs=read-write: the primary); each has timeout_ms of its own.
 *
 * END: stopped meanwhile. INVALID: see pg_conninfo_check(). REFUSED, only from the source: no retry
 * mends it (wrong password, no such database, no right to replicate). With PG_PLAIN that is IO as
 * well: what runs for weeks waits until somebody mends it.
 */
MUST_CHECK enum status pg_open(const struct pg_options *o, PGconn **ret, struct error *err);

/* INVALID: not a connection string, or one that sets "replication", which is ours to set. The text
 * continues a sentence about it ("is not ...") and never quotes it, as it may hold a password. */
MUST_CHECK enum status pg_conninfo_check(const char *conninfo, struct error *err);

/* ---- statements ---- */

/* Whether a result is that of a statement that succeeded. */
bool pg_succeeded(const PGresult *res);
/* One statement with text parameters (NULL = SQL NULL) and a text result; the caller looks at
 * whether it succeeded, and clears it. */
PGresult *pg_run(PGconn *conn, const char *sql, int n, const char *const *params);
/* The same in bounded time; when it is up: IO, and the connection is broken for good. */
MUST_CHECK enum status pg_run_within(PGconn *conn, const char *sql, int n,
                                     const char *const *params, int64_t timeout_us, PGresult **ret,
                                     struct error *err);
/* The same two, failures as of pg_error(). */
MUST_CHECK enum status pg_query(PGconn *conn, const char *sql, int n, const char *const *params,
                                const char *what, PGresult **ret, struct error *err);
MUST_CHECK enum status pg_query_within(PGconn *conn, const char *sql, int n,
                                       const char *const *params, int64_t timeout_us,
                                       const char *what, PGresult **ret, struct error *err);
/* One or more statements without parameters, results dropped. */
MUST_CHECK enum status pg_exec(PGconn *conn, const char *sql, const char *what, struct error *err);
/* Ends a failed transaction; when even that fails the connection is broken and shows it later. */
void pg_rollback(PGconn *conn);

/* Sends what is pending and gives the next result, NULL as PQgetResult() means it; the connection
 * must be non-blocking. END, IO: as of pg_wait_socket(). */
MUST_CHECK enum status pg_next_result(PGconn *conn, int64_t deadline_us, const struct pg_wait *wait,
                                      PGresult **ret, struct error *err);
/*
 * Runs one command and gives its first result, which may be an error (the caller clears it). Leaves
 * the connection non-blocking. END: stopped. IO: connection lost or time up.
 */
MUST_CHECK enum status pg_command(PGconn *conn, const char *sql, int64_t timeout_us,
                                  const struct pg_wait *wait, PGresult **ret, struct error *err);
/* The same for commands that end, one or more: reads all their results and gives the last one, or
 * the first that failed. Leaves the connection blocking. */
MUST_CHECK enum status pg_command_all(PGconn *conn, const char *sql, int64_t timeout_us,
                                      const struct pg_wait *wait, PGresult **ret,
                                      struct error *err);

/* ---- quoting ---- */

#define PG_NAME_BYTES        64 /* NAMEDATALEN: names of the server are shorter */
#define PG_QUOTED_NAME_BYTES (2 * PG_NAME_BYTES + 2)
/* A name no longer than the server's, which is asserted. Returns the length without the NUL. */
size_t pg_quote_name(const char *name, char out[PG_QUOTED_NAME_BYTES]);

/* Appends "name" with quotes doubled, or 'text' as replication commands, and SQL with
 * standard_conforming_strings, read it. */
MUST_CHECK enum status pg_quote_ident(struct buf *out, const char *name);
MUST_CHECK enum status pg_quote_literal(struct buf *out, const char *text);
