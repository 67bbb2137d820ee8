#include "state/pg.h"

#include "core/clock.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define CONNECT_TIMEOUT_MS 10000

const char *pg_sqlstate(const PGresult *res)
{
    const char *state = res ? PQresultErrorField(res, PG_DIAG_SQLSTATE) : NULL;
    return state ? state : "";
}

static bool has_class(const char *sqlstate, const char *const *classes)
{
    for (; *classes; classes++)
        if (strncmp(sqlstate, *classes, strlen(*classes)) == 0)
            return true;
    return false;
}

static enum status code_of(const char *sqlstate)
{
    /* 40P01, 55P03, 57P0x, 53xxx, 08xxx and everything unknown may pass: IO. */
    static const char *const data[] = {"22", "23", "54", NULL};
    static const char *const schema[] = {"42", "3F", "0A", "28", NULL};
    if (strcmp(sqlstate, "WP001") == 0)
        return STATUS_FENCED;
    if (has_class(sqlstate, data))
        return STATUS_INVALID;
    return has_class(sqlstate, schema) ? STATUS_REFUSED : STATUS_IO;
}

enum status pg_error(struct error *err, const PGconn *conn, const PGresult *res, const char *what)
{
    const char *state = pg_sqlstate(res);
    const char *text = res ? PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY) : NULL;
    if (!text && res)
        text = PQresultErrorMessage(res);
    if (!text || !*text)
        text = conn ? PQerrorMessage(conn) : "out of memory";
    const char *hint = res ? PQresultErrorField(res, PG_DIAG_MESSAGE_HINT) : NULL;
    /* An object of ours is missing: what helps is not what the server would suggest. */
    static const char *const undefined[] = {"42P01", "42703", "42883", NULL};
    if (has_class(state, undefined) && strstr(text, "strategic_"))
        hint = "run \"warmpath migrate up\"";
    size_t len = strlen(text);
    while (len && (text[len - 1] == '\n' || text[len - 1] == ' '))
        len--;
    return error_set(err, code_of(state), "%s: %.*s%s%s%s%s%s", what, (int)len, text,
                     hint ? "; hint: " : "", hint ? hint : "", *state ? " (" : "", state,
                     *state ? ")" : "");
}

static void drop_notice(void *ctx, const PGresult *res)
{
    (void)ctx;
    (void)res;
}

/* A replication connection cannot run ordinary statements in pipelines; the message that libpq
 * would give later does not lead back to the setting. */
static enum status check_conninfo(const char *conninfo, struct error *err)
{
    char *why = NULL;
    PQconninfoOption *options = PQconninfoParse(conninfo, &why);
    if (!options) {
        error_set(err, STATUS_INVALID, "could not read the connection string: %s",
                  why ? why : "out of memory");
        PQfreemem(why);
        return STATUS_INVALID;
    }
    enum status st = STATUS_OK;
    for (const PQconninfoOption *o = options; o->keyword && !st; o++)
        if (strcmp(o->keyword, "replication") == 0 && o->val)
            st = error_set(err, STATUS_INVALID,
                           "the connection string must not set \"replication\"");
    PQconninfoFree(options);
    return st;
}

enum status pg_wait(PGconn *conn, bool for_write, int64_t deadline_us, int cancel_fd,
                    struct error *err)
{
    for (;;) {
        int64_t left_us = deadline_us - clock_mono_us(&clock_real);
        if (left_us <= 0)
            return error_set(err, STATUS_IO, "the server did not answer in time");
        struct pollfd fds[2] = {
            {.fd = PQsocket(conn), .events = (short)(POLLIN | (for_write ? POLLOUT : 0))},
            {.fd = cancel_fd, .events = POLLIN},
        };
        int64_t left_ms = left_us / 1000 + 1;
        int n = poll(fds, cancel_fd >= 0 ? 2 : 1, left_ms > 60000 ? 60000 : (int)left_ms);
        if (n < 0 && errno != EINTR)
            return error_set(err, STATUS_IO, "could not poll: %s", strerror(errno));
        if (n <= 0)
            continue;
        if (fds[1].revents)
            return error_set(err, STATUS_AGAIN, "given up on request");
        return STATUS_OK;
    }
}

static enum status wait_connected(PGconn *conn, int64_t deadline_us, int cancel_fd,
                                  struct error *err)
{
    PostgresPollingStatusType step = PGRES_POLLING_WRITING;
    while (step != PGRES_POLLING_OK) {
        if (step == PGRES_POLLING_FAILED)
            return pg_error(err, conn, NULL, "could not connect");
        /* Waiting for both directions while only one is asked for would spin. */
        enum status st = STATUS_OK;
        if (step == PGRES_POLLING_WRITING)
            st = pg_wait(conn, true, deadline_us, cancel_fd, err);
        else
            st = pg_wait(conn, false, deadline_us, cancel_fd, err);
        if (st)
            return st;
        step = PQconnectPoll(conn);
    }
    return STATUS_OK;
}

enum status pg_open(const struct pg_options *o, PGconn **ret, struct error *err)
{
    assert(o->conninfo && o->application_name);
    enum status st = check_conninfo(o->conninfo, err);
    if (st)
        return st;
    /* Keywords before dbname are defaults, those after it are ours whatever the user says. */
    const char *const keys[] = {
        "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout",
        "dbname",          "application_name",    "client_encoding",  NULL};
    const char *const values[] = {"30",   "10", "3", "30000", o->conninfo, o->application_name,
                                  "UTF8", NULL};
    int timeout_ms = o->timeout_ms ? o->timeout_ms : CONNECT_TIMEOUT_MS;
    int64_t deadline_us = clock_mono_us(&clock_real) + timeout_ms * INT64_C(1000);
    CLEANUP(PQfinishp) PGconn *conn = PQconnectStartParams(keys, values, 1);
    if (!conn)
        return error_set(err, STATUS_NOMEM, "could not allocate a connection");
    if (PQstatus(conn) == CONNECTION_BAD)
        return pg_error(err, conn, NULL, "could not connect");
    st = wait_connected(conn, deadline_us, o->cancel_fd, err);
    if (st)
        return st;
    PQsetNoticeReceiver(conn, drop_notice, NULL);
    if (o->setup) {
        st = pg_exec(conn, o->setup, "could not set up the connection", err);
        if (st)
            return st;
    }
    *ret = TAKE(conn);
    return STATUS_OK;
}

enum status pg_exec(PGconn *conn, const char *sql, const char *what, struct error *err)
{
    CLEANUP(PQclearp) PGresult *res = PQexec(conn, sql);
    ExecStatusType status = PQresultStatus(res);
    if (status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK || status == PGRES_EMPTY_QUERY)
        return STATUS_OK;
    return pg_error(err, conn, res, what);
}

void pg_rollback(PGconn *conn)
{
    CLEANUP(PQclearp) PGresult *res = PQexec(conn, "ROLLBACK");
    (void)res;
}

enum status pg_query(PGconn *conn, const char *sql, int n, const char *const *params,
                     const char *what, PGresult **ret, struct error *err)
{
    CLEANUP(PQclearp)
    PGresult *res = PQexecParams(conn, sql, n, NULL, params, NULL, NULL, 0);
    ExecStatusType status = PQresultStatus(res);
    if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK)
        return pg_error(err, conn, res, what);
    *ret = TAKE(res);
    return STATUS_OK;
}

void pg_array_init(struct pg_array *a, size_t bytes_max)
{
    *a = (struct pg_array){0};
    buf_init(&a->buf, bytes_max);
}

void pg_array_deinit(struct pg_array *a)
{
    buf_deinit(&a->buf);
}

static void append(struct pg_array *a, const char *bytes, size_t len)
{
    if (!a->st)
        a->st = buf_append(&a->buf, bytes, len);
}

void pg_array_begin(struct pg_array *a)
{
    buf_reset(&a->buf);
    a->st = STATUS_OK;
    a->n = 0;
    append(a, "{", 1);
}

static void next(struct pg_array *a)
{
    if (a->n++)
        append(a, ",", 1);
}

void pg_array_null(struct pg_array *a)
{
    next(a);
    append(a, "NULL", 4);
}

void pg_array_text(struct pg_array *a, struct str s)
{
    if (!s.ptr) {
        pg_array_null(a);
        return;
    }
    /* Always quoted: then an element "NULL", an empty one, and braces, commas and blanks need no
     * rule of their own (PostgreSQL docs, Array Input and Output Syntax). */
    next(a);
    append(a, "\"", 1);
    size_t done = 0;
    for (size_t i = 0; i < s.len; i++) {
        if (s.ptr[i] != '"' && s.ptr[i] != '\\')
            continue;
        append(a, s.ptr + done, i - done);
        append(a, "\\", 1);
        done = i;
    }
    append(a, s.ptr + done, s.len - done);
    append(a, "\"", 1);
}

void pg_array_plain(struct pg_array *a, const char *fmt, ...)
{
    char text[64];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    assert(n > 0 && (size_t)n < sizeof(text));
    next(a);
    append(a, text, (size_t)n);
}

void pg_array_double(struct pg_array *a, double v)
{
    assert(isfinite(v));
    pg_array_plain(a, "%.17g", v);
}

void pg_array_time(struct pg_array *a, int64_t t_us)
{
    if (t_us == INT64_MAX) {
        pg_array_plain(a, "infinity");
        return;
    }
    char text[40];
    int n = time_format(t_us, 1, text);
    next(a);
    append(a, text, (size_t)n);
}

enum status pg_array_end(struct pg_array *a)
{
    append(a, "}", 2); /* with its NUL */
    return a->st;
}
