/*
 * ingest/pgconn.h - libpq connections of this folder: options, quoting, waiting, classes of
 * failure.
 *
 * Nothing here blocks for longer than its deadline: connecting and commands run on libpq's
 * asynchronous calls, waiting on the socket and on a wake descriptor, so that a stop is seen at
 * once.
 */
#pragma once

#include "core/buf.h"
#include "core/cleanup.h"
#include "core/clock.h"
#include "core/status.h"

#include <libpq-fe.h>
#include <stdatomic.h>
#include <stdbool.h>

/* What a failure asks for, by SQLSTATE (PostgreSQL documentation, appendix A). */
enum pg_failure {
    PG_RETRY,       /* connection lost, server starting or stopping, too many connections */
    PG_SLOT_ACTIVE, /* 55006: another process has the slot */
    PG_FATAL,       /* no retry mends it: missing object, no right, lost slot, wrong setting */
};
/* NULL or "" (no answer from the server) is PG_RETRY. */
enum pg_failure pg_failure_of(const char *sqlstate);
/* What to do about it, for the classes we know; "" otherwise. */
const char *pg_failure_hint(const char *sqlstate);

/* Appends "name" with quotes doubled, or 'text'. */
MUST_CHECK enum status pg_quote_ident(struct buf *out, const char *name);
MUST_CHECK enum status pg_quote_literal(struct buf *out, const char *text);

/* libpq's message with its first line only, and without trailing blanks: it goes into a log line.
 */
void pg_error_line(const char *message, char *out, size_t size);

/* Who interrupts a wait. Both may be left out: fd -1, stop NULL. */
struct pg_wait {
    const struct clock *clock;
    int wake_fd; /* readable = look at stop; drained by the waiter */
    const atomic_bool *stop;
};

enum pg_mode { PG_ORDINARY, PG_REPLICATION };

/*
 * Connects within timeout_us. END: stopped meanwhile. IO: worth a retry. REFUSED: it is not (wrong
 * password, no such database, no right to replicate).
 *
 * Session settings that decoding relies on are sent with the start-up packet, together with any
 * options of the conninfo: ISO dates, UTC, UTF-8, exact floats, no statement time-outs, and
 * wal_sender_timeout = sender_timeout_us (0 = the server's own). TCP keepalives find a dead peer in
 * about a minute; the conninfo may say otherwise.
 */
struct pg_connect {
    const char *conninfo;
    enum pg_mode mode;
    const char *application_name; /* unless the conninfo names one; NULL = "warmpath" */
    int64_t sender_timeout_us;
    int64_t timeout_us;
};
MUST_CHECK enum status pgconn_open(const struct pg_connect *what, const struct pg_wait *wait,
                                   PGconn **ret, struct error *err);

/*
 * Runs one command and gives its first result (the caller clears it). END: stopped. IO: connection
 * lost or deadline passed. A result that is an error is given as it is: see pg_result_error().
 */
MUST_CHECK enum status pg_command(PGconn *conn, const char *sql, int64_t timeout_us,
                                  const struct pg_wait *wait, PGresult **ret, struct error *err);

/* IO for PG_RETRY and PG_SLOT_ACTIVE, REFUSED for PG_FATAL; the text has message, detail and hint.
 */
enum status pg_result_error(const PGresult *res, const char *doing, struct error *err);

/*
 * Waits until the socket is readable (or writable, when asked), the wake descriptor is, or
 * timeout_us has passed (negative = 0). A woken descriptor is drained.
 */
struct pg_ready {
    bool readable;
    bool writable;
    bool woken;
};
MUST_CHECK enum status pg_poll(int socket, bool want_read, bool want_write, int64_t timeout_us,
                               const struct pg_wait *wait, struct pg_ready *ret, struct error *err);

static inline void pg_finishp(PGconn **slot)
{
    PQfinish(*slot);
}
static inline void pg_clearp(PGresult **slot)
{
    PQclear(*slot);
}
