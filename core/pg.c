#include "core/pg.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- errors ---- */

enum status pg_status_of(const char *sqlstate)
{
    /* Whole codes, or classes by their first two characters. What is not listed (08, 40, 53, 55006,
     * 55P03, 57P0x, ...) may pass and is retried, with back-off and in the log: giving up for good
     * on an unknown hiccup would be worse. */
    static const struct {
        const char *code;
        enum status st;
    } classes[] = {
        {"WP001", STATUS_FENCED},  /* strategic_fence(): the epoch has moved on */
        {"22", STATUS_INVALID},    /* data exception */
        {"23", STATUS_INVALID},    /* constraint */
        {"54", STATUS_INVALID},    /* beyond a limit of the server */
        {"0A", STATUS_REFUSED},    /* feature not supported: the server is too old */
        {"28", STATUS_REFUSED},    /* authentication */
        {"3D", STATUS_REFUSED},    /* no such database */
        {"3F", STATUS_REFUSED},    /* no such schema */
        {"42", STATUS_REFUSED},    /* no such table, slot or publication, no right, syntax */
        {"55000", STATUS_REFUSED}, /* slot invalidated, wal_level too low */
        {"58P01", STATUS_REFUSED}, /* WAL segment already removed */
        {"F0000", STATUS_REFUSED}, /* configuration file error */
    };
    for (size_t i = 0; sqlstate && i < sizeof(classes) / sizeof(classes[0]); i++)
        if (strncmp(sqlstate, classes[i].code, strlen(classes[i].code)) == 0)
            return classes[i].st;
    return STATUS_IO;
}

static const struct hint {
    const char *code;
    const char *text;
} general_hints[] =
    {
        {"28", "the server refuses this role: check user, password and pg_hba.conf"},
        {"3D000", "the database does not exist"},
        {"53300", "no connection is free: raise max_connections or max_wal_senders"},
        {NULL, NULL},
},
  source_hints[] =
      {
          {"42704", "the slot or the publication does not exist (any more); run `warmpath doctor`"},
          {"55000", "the slot can no longer be read: it was invalidated (see wal_status in "
                    "pg_replication_slots and raise max_slot_wal_keep_size), or wal_level is not "
                    "logical; run `warmpath doctor`"},
          {"58P01", "WAL that the slot needs was removed; run `warmpath doctor`"},
          {"42501", "the role needs CONNECT, REPLICATION, and SELECT on the mapped tables; run "
                    "`warmpath doctor`"},
          {"55006", "another process reads the slot"},
          {"53400", "no replication slot is free: raise max_replication_slots"},
          {NULL, NULL},
},
  missing_hints[] = {
      {"42P01", "run \"warmpath migrate up\""},
      {"42703", "run \"warmpath migrate up\""},
      {"42883", "run \"warmpath migrate up\""},
      {NULL, NULL},
};

static const char *find_hint(const struct hint *hints, const char *sqlstate)
{
    for (; hints->code; hints++)
        if (strncmp(sqlstate, hints->code, strlen(hints->code)) == 0)
            return hints->text;
    return "";
}

const char *pg_source_hint(const char *sqlstate)
{
    const char *hint = find_hint(source_hints, sqlstate ? sqlstate : "");
    return *hint ? hint : find_hint(general_hints, sqlstate ? sqlstate : "");
}

const char *pg_sqlstate(const PGresult *res)
{
    const char *state = res ? PQresultErrorField(res, PG_DIAG_SQLSTATE) : NULL;
    return state ? state : "";
}

void pg_error_line(const char *message, char *out, size_t size)
{
    assert(size > 0);
    size_t len = message ? strcspn(message, "\n") : 0;
    while (len > 0 && isspace((unsigned char)message[len - 1]))
        len--;
    if (len > size - 1)
        len = size - 1;
    if (len > 0)
        memcpy(out, message, len);
    out[len] = '\0';
}

static const char *field(const PGresult *res, int which)
{
    const char *text = res ? PQresultErrorField(res, which) : NULL;
    return text ? text : "";
}

static enum status describe(struct error *err, enum status st, const char *what, const PGconn *conn,
                            const PGresult *res, const char *our_hint)
{
    const char *state = pg_sqlstate(res);
    const char *text = field(res, PG_DIAG_MESSAGE_PRIMARY);
    if (!*text && res)
        text = PQresultErrorMessage(res);
    if (!*text)
        text = conn ? PQerrorMessage(conn) : "out of memory";
    char line[400];
    pg_error_line(text, line, sizeof(line));
    /* The detail of refused data is the data, which must not get into a log. */
    const char *detail = st == STATUS_INVALID ? "" : field(res, PG_DIAG_MESSAGE_DETAIL);
    const char *hint = *our_hint ? our_hint : field(res, PG_DIAG_MESSAGE_HINT);
    return error_set(err, st, "%s: %s%s%s%s%s%s%s%s", what,
                     *line ? line : "no message from the server", *detail ? "; " : "", detail,
                     *hint ? "; " : "", hint, *state ? " (" : "", state, *state ? ")" : "");
}

enum status pg_error(struct error *err, const PGconn *conn, const PGresult *res, const char *what)
{
    const char *state = pg_sqlstate(res);
    /* An object of ours is missing: what helps is not what the server would suggest. */
    bool ours = strstr(field(res, PG_DIAG_MESSAGE_PRIMARY), "strategic_") != NULL;
    return describe(err, pg_status_of(state), what, conn, res,
                    find_hint(ours ? missing_hints : general_hints, state));
}

enum status pg_source_error(struct error *err, const PGconn *conn, const PGresult *res,
                            const char *what)
{
    const char *state = pg_sqlstate(res);
    enum status st = pg_status_of(state);
    return describe(err, st == STATUS_INVALID ? STATUS_REFUSED : st, what, conn, res,
                    pg_source_hint(state));
}

/* ---- waiting ---- */

static const struct pg_wait uninterrupted = {.clock = &clock_real, .wake_fd = -1};

static void drain(int fd)
{
    char bytes[64];
    while (read(fd, bytes, sizeof(bytes)) > 0)
        ;
}

enum status pg_poll(int socket, bool want_read, bool want_write, int64_t timeout_us,
                    const struct pg_wait *wait, struct pg_ready *ret, struct error *err)
{
    wait = wait ? wait : &uninterrupted;
    struct pollfd fds[2] = {
        {.fd = want_read || want_write ? socket : -1,
         .events = (short)((want_read ? POLLIN : 0) | (want_write ? POLLOUT : 0))},
        {.fd = wait->wake_fd, .events = POLLIN},
    };
    /* Rounded up: a wait must not end just before what it waits for. */
    int64_t ms = timeout_us <= 0 ? 0 : (timeout_us + 999) / 1000;
    int rc = poll(fds, 2, ms > 3600000 ? 3600000 : (int)ms);
    if (rc < 0 && errno != EINTR)
        return error_set(err, STATUS_IO, "could not wait on a socket: %s", strerror(errno));
    if (rc < 0)
        rc = 0;
    /* An error or a hang-up is found by reading. */
    *ret = (struct pg_ready){
        .readable = rc > 0 && (fds[0].revents & (POLLIN | POLLERR | POLLHUP | POLLNVAL)),
        .writable = rc > 0 && (fds[0].revents & (POLLOUT | POLLERR | POLLHUP | POLLNVAL)),
        .woken = rc > 0 && fds[1].revents,
    };
    if (ret->woken && !wait->wake_stops)
        drain(wait->wake_fd);
    return STATUS_OK;
}

enum status pg_wait_socket(const PGconn *conn, bool want_read, bool want_write, int64_t deadline_us,
                           const struct pg_wait *wait, struct error *err)
{
    wait = wait ? wait : &uninterrupted;
    for (;;) {
        struct pg_ready ready = {0};
        int64_t left_us = deadline_us - clock_mono_us(wait->clock);
        if (wait->stop && atomic_load(wait->stop))
            return error_set(err, STATUS_END, "stopped while waiting for the server");
        if (left_us <= 0)
            return error_set(err, STATUS_IO, "the server did not answer in time");
        enum status st = pg_poll(PQsocket(conn), want_read, want_write, left_us, wait, &ready, err);
        if (st)
            return st;
        if (ready.woken && wait->wake_stops)
            return error_set(err, STATUS_END, "stopped while waiting for the server");
        if (ready.readable || ready.writable)
            return STATUS_OK;
    }
}

/* ---- statements ---- */

bool pg_succeeded(const PGresult *res)
{
    ExecStatusType status = PQresultStatus(res); /* of NULL: fatal error */
    return status == PGRES_COMMAND_OK || status == PGRES_TUPLES_OK || status == PGRES_EMPTY_QUERY;
}

/* A connection that did not answer in time must not be used again: its answer may still come. */
static void break_connection(PGconn *conn)
{
    if (PQsocket(conn) >= 0)
        (void)shutdown(PQsocket(conn), SHUT_RDWR);
    (void)PQconsumeInput(conn); /* finds the end, and marks the connection as bad */
}

enum status pg_run_within(PGconn *conn, const char *sql, int n, const char *const *params,
                          int64_t timeout_us, PGresult **ret, struct error *err)
{
    CLEANUP(PQclearp) PGresult *last = NULL;
    if (!PQsendQueryParams(conn, sql, n, NULL, params, NULL, NULL, 0))
        return pg_error(err, conn, NULL, "could not send a statement");
    int64_t deadline_us = clock_mono_us(&clock_real) + timeout_us;
    for (;;) {
        PGresult *res = NULL;
        enum status st = pg_next_result(conn, deadline_us, NULL, &res, err);
        if (st) {
            break_connection(conn);
            return st;
        }
        if (!res)
            break;
        PQclear(last);
        last = res;
    }
    *ret = TAKE(last);
    return STATUS_OK;
}

PGresult *pg_run(PGconn *conn, const char *sql, int n, const char *const *params)
{
    return PQexecParams(conn, sql, n, NULL, params, NULL, NULL, 0);
}

enum status pg_query(PGconn *conn, const char *sql, int n, const char *const *params,
                     const char *what, PGresult **ret, struct error *err)
{
    CLEANUP(PQclearp) PGresult *res = pg_run(conn, sql, n, params);
    if (!pg_succeeded(res))
        return pg_error(err, conn, res, what);
    *ret = TAKE(res);
    return STATUS_OK;
}

enum status pg_query_within(PGconn *conn, const char *sql, int n, const char *const *params,
                            int64_t timeout_us, const char *what, PGresult **ret, struct error *err)
{
    CLEANUP(PQclearp) PGresult *res = NULL;
    struct error why = {.code = STATUS_OK};
    enum status st = pg_run_within(conn, sql, n, params, timeout_us, &res, &why);
    if (st)
        return error_set(err, st, "%s: %s", what, why.text);
    if (!pg_succeeded(res))
        return pg_error(err, conn, res, what);
    *ret = TAKE(res);
    return STATUS_OK;
}

enum status pg_exec(PGconn *conn, const char *sql, const char *what, struct error *err)
{
    CLEANUP(PQclearp) PGresult *res = PQexec(conn, sql);
    return pg_succeeded(res) ? STATUS_OK : pg_error(err, conn, res, what);
}

void pg_rollback(PGconn *conn)
{
    CLEANUP(PQclearp) PGresult *res = PQexec(conn, "ROLLBACK");
    (void)res;
}

enum status pg_next_result(PGconn *conn, int64_t deadline_us, const struct pg_wait *wait,
                           PGresult **ret, struct error *err)
{
    for (;;) {
        int unsent = PQflush(conn);
        if (unsent < 0)
            return pg_error(err, conn, NULL, "could not send to the server");
        if (!unsent && !PQisBusy(conn)) {
            *ret = PQgetResult(conn);
            return STATUS_OK;
        }
        enum status st = pg_wait_socket(conn, true, unsent > 0, deadline_us, wait, err);
        if (st)
            return st;
        if (!PQconsumeInput(conn))
            return pg_error(err, conn, NULL, "lost the connection");
    }
}

enum status pg_command(PGconn *conn, const char *sql, int64_t timeout_us,
                       const struct pg_wait *wait, PGresult **ret, struct error *err)
{
    if (PQsetnonblocking(conn, 1) != 0 || !PQsendQuery(conn, sql))
        return pg_error(err, conn, NULL, "could not send a command");
    int64_t now_us = clock_mono_us(wait ? wait->clock : &clock_real);
    PGresult *res = NULL;
    enum status st = pg_next_result(conn, now_us + timeout_us, wait, &res, err);
    if (st)
        return st;
    if (!res)
        return pg_error(err, conn, NULL, "no result from the server");
    *ret = res;
    return STATUS_OK;
}

enum status pg_command_all(PGconn *conn, const char *sql, int64_t timeout_us,
                           const struct pg_wait *wait, PGresult **ret, struct error *err)
{
    int64_t deadline_us = clock_mono_us(wait ? wait->clock : &clock_real) + timeout_us;
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st = pg_command(conn, sql, timeout_us, wait, &res, err);
    while (!st) {
        PGresult *next = NULL;
        st = pg_next_result(conn, deadline_us, wait, &next, err);
        if (!next)
            break;
        PGresult *unwanted = pg_succeeded(res) ? res : next;
        res = unwanted == res ? next : res;
        PQclear(unwanted);
    }
    if (st)
        return st;
    (void)PQsetnonblocking(conn, 0);
    *ret = TAKE(res);
    return STATUS_OK;
}

/* ---- quoting ---- */

/* out holds 2 * strlen(text) + 3 bytes. Returns the length without the NUL. */
static size_t quote_into(const char *text, char mark, char *out)
{
    size_t n = 0;
    out[n++] = mark;
    for (const char *c = text; *c; c++) {
        if (*c == mark)
            out[n++] = mark;
        out[n++] = *c;
    }
    out[n++] = mark;
    out[n] = '\0';
    return n;
}

static enum status quote(struct buf *out, const char *text, char mark)
{
    enum status st = buf_reserve(out, 2 * strlen(text) + 3);
    if (!st)
        out->len += quote_into(text, mark, out->data + out->len);
    return st;
}

size_t pg_quote_name(const char *name, char out[PG_QUOTED_NAME_BYTES])
{
    assert(strlen(name) < PG_NAME_BYTES);
    return quote_into(name, '"', out);
}

enum status pg_quote_ident(struct buf *out, const char *name)
{
    return quote(out, name, '"');
}

enum status pg_quote_literal(struct buf *out, const char *text)
{
    /* Replication commands know no escapes but the doubled quote, and SQL none either with
     * standard_conforming_strings; a backslash therefore stands for itself. */
    return quote(out, text, '\'');
}
