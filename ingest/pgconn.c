#include "ingest/pgconn.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool in_class(const char *sqlstate, const char *const list[])
{
    for (size_t i = 0; list[i]; i++)
        if (strncmp(sqlstate, list[i], strlen(list[i])) == 0)
            return true;
    return false;
}

enum pg_failure pg_failure_of(const char *sqlstate)
{
    /* Whole codes, or classes by their first two characters. What is not listed is retried, with
     * back-off and in the log: giving up for good on an unknown hiccup would be worse. */
    static const char *const fatal[] = {
        "0A",    /* feature not supported: the server is too old */
        "22",    /* an option the plug-in does not know */
        "28",    /* authentication */
        "3D",    /* no such database */
        "42",    /* no such slot or publication, no right, syntax */
        "55000", /* slot invalidated, wal_level too low */
        "58P01", /* WAL segment already removed */
        "F0000", /* configuration file error */
        NULL,
    };
    if (!sqlstate || !*sqlstate)
        return PG_RETRY;
    if (strcmp(sqlstate, "55006") == 0)
        return PG_SLOT_ACTIVE;
    return in_class(sqlstate, fatal) ? PG_FATAL : PG_RETRY;
}

const char *pg_failure_hint(const char *sqlstate)
{
    static const struct {
        const char *code;
        const char *hint;
    } hints[] = {
        {"42704", "the slot or the publication does not exist (any more); run `warmpath doctor`"},
        {"55000", "the slot can no longer be read: it was invalidated (see wal_status in "
                  "pg_replication_slots and raise max_slot_wal_keep_size), or wal_level is not "
                  "logical; run `warmpath doctor`"},
        {"58P01", "WAL that the slot needs was removed; run `warmpath doctor`"},
        {"42501", "the role needs REPLICATION, and SELECT on the mapped tables; run `warmpath "
                  "doctor`"},
        {"28", "the server refuses this role: check user, password and pg_hba.conf"},
        {"3D000", "the database does not exist"},
        {"55006", "another process reads the slot"},
        {"53300", "no connection is free: raise max_connections or max_wal_senders"},
        {"53400", "no replication slot is free: raise max_replication_slots"},
    };
    for (size_t i = 0; sqlstate && i < sizeof(hints) / sizeof(hints[0]); i++)
        if (strncmp(sqlstate, hints[i].code, strlen(hints[i].code)) == 0)
            return hints[i].hint;
    return "";
}

static enum status quote(struct buf *out, const char *text, char mark)
{
    enum status st = buf_append(out, &mark, 1);
    for (const char *c = text; !st && *c; c++) {
        if (*c == mark)
            st = buf_append(out, &mark, 1);
        if (!st)
            st = buf_append(out, c, 1);
    }
    return st ? st : buf_append(out, &mark, 1);
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

static void drain(int fd)
{
    char bytes[64];
    while (read(fd, bytes, sizeof(bytes)) > 0)
        ;
}

enum status pg_poll(int socket, bool want_read, bool want_write, int64_t timeout_us,
                    const struct pg_wait *wait, struct pg_ready *ret, struct error *err)
{
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
    if (ret->woken)
        drain(wait->wake_fd);
    return STATUS_OK;
}

static bool stopped(const struct pg_wait *wait)
{
    return wait->stop && atomic_load(wait->stop);
}

/*
 * libpq gives no SQLSTATE for a refused connection, but with verbose errors it is in the text:
 * "... FATAL:  28P01: password authentication failed". Cuts it out of the text too.
 */
static bool take_sqlstate(char *message, char sqlstate[6])
{
    for (char *at = strstr(message, ":  "); at; at = strstr(at + 1, ":  ")) {
        const char *code = at + 3;
        size_t len = 0;
        while (len < 5 && (isdigit((unsigned char)code[len]) || isupper((unsigned char)code[len])))
            len++;
        if (len != 5 || code[5] != ':' || code[6] != ' ')
            continue;
        memcpy(sqlstate, code, 5);
        sqlstate[5] = '\0';
        memmove(at + 2, code + 7, strlen(code + 7) + 1);
        return true;
    }
    return false;
}

static enum status connect_error(PGconn *conn, struct error *err)
{
    char line[512];
    char sqlstate[6] = "";
    pg_error_line(PQerrorMessage(conn), line, sizeof(line));
    take_sqlstate(line, sqlstate);
    const char *hint = pg_failure_hint(sqlstate);
    enum status st = pg_failure_of(sqlstate) == PG_FATAL ? STATUS_REFUSED : STATUS_IO;
    return error_set(err, st, "could not connect to PostgreSQL: %s%s%s", line, *hint ? "; " : "",
                     hint);
}

/* The options the conninfo (or the environment) asks for, then ours, which therefore win. */
static enum status session_options(const struct pg_connect *what, struct buf *out,
                                   struct error *err)
{
    char *why = NULL;
    PQconninfoOption *given = PQconninfoParse(what->conninfo, &why);
    if (!given) {
        char line[256];
        pg_error_line(why, line, sizeof(line));
        PQfreemem(why);
        return error_set(err, STATUS_INVALID, "malformed connection string: %s", line);
    }
    const char *theirs = getenv("PGOPTIONS");
    for (PQconninfoOption *o = given; o->keyword; o++)
        if (strcmp(o->keyword, "options") == 0 && o->val)
            theirs = o->val;
    enum status st = buf_printf(out,
                                "%s%s-c datestyle=ISO -c intervalstyle=postgres "
                                "-c extra_float_digits=3 -c timezone=UTC -c bytea_output=hex "
                                "-c statement_timeout=0 -c idle_in_transaction_session_timeout=0",
                                theirs ? theirs : "", theirs ? " " : "");
    PQconninfoFree(given);
    if (!st && what->mode == PG_REPLICATION && what->sender_timeout_us > 0)
        st = buf_printf(out, " -c wal_sender_timeout=%" PRId64, what->sender_timeout_us / 1000);
    if (!st)
        st = buf_append(out, "", 1);
    return st ? error_set(err, st, "the connection options are too long") : STATUS_OK;
}

static PGconn *start_connecting(const struct pg_connect *what, const char *options)
{
    /* Later keywords override earlier ones, so the conninfo stands between defaults and musts. */
    const char *keywords[] = {"fallback_application_name",
                              "keepalives",
                              "keepalives_idle",
                              "keepalives_interval",
                              "keepalives_count",
                              "tcp_user_timeout",
                              "dbname",
                              "client_encoding",
                              "options",
                              what->mode == PG_REPLICATION ? "replication" : NULL,
                              NULL};
    const char *name = what->application_name ? what->application_name : "warmpath";
    const char *values[] = {name,           "1",    "30",    "10",       "3", "30000",
                            what->conninfo, "UTF8", options, "database", NULL};
    return PQconnectStartParams(keywords, values, 1);
}

static enum status lost(PGconn *conn, const char *doing, struct error *err)
{
    char line[400];
    pg_error_line(PQerrorMessage(conn), line, sizeof(line));
    return error_set(err, STATUS_IO, "%s: %s", doing, *line ? line : "connection lost");
}

enum status pg_command(PGconn *conn, const char *sql, int64_t timeout_us,
                       const struct pg_wait *wait, PGresult **ret, struct error *err)
{
    if (PQsetnonblocking(conn, 1) != 0 || !PQsendQuery(conn, sql))
        return lost(conn, "could not send a command", err);
    int64_t deadline_us = clock_mono_us(wait->clock) + timeout_us;
    for (;;) {
        struct pg_ready ready;
        int flushed = PQflush(conn);
        if (flushed < 0 || !PQconsumeInput(conn))
            return lost(conn, "could not run a command", err);
        if (flushed == 0 && !PQisBusy(conn))
            break;
        int64_t left_us = deadline_us - clock_mono_us(wait->clock);
        if (stopped(wait))
            return error_set(err, STATUS_END, "stopped while waiting for the server");
        if (left_us <= 0)
            return error_set(err, STATUS_IO, "no answer from the server in %d s",
                             (int)(timeout_us / US_PER_SECOND));
        enum status st = pg_poll(PQsocket(conn), true, flushed == 1, left_us, wait, &ready, err);
        if (st)
            return st;
    }
    PGresult *res = PQgetResult(conn);
    if (!res)
        return lost(conn, "no result from the server", err);
    *ret = res;
    return STATUS_OK;
}

/* A database without an encoding may hold bytes that are no text, and the server refuses to send
 * them as UTF-8. Taken as they are, each row is checked here, and only the bad ones are refused. */
static enum status take_any_bytes(PGconn *conn, const struct pg_connect *what,
                                  const struct pg_wait *wait, struct error *err)
{
    const char *encoding = PQparameterStatus(conn, "server_encoding");
    if (!encoding || strcmp(encoding, "SQL_ASCII") != 0)
        return STATUS_OK;
    CLEANUP(pg_clearp) PGresult *res = NULL;
    enum status st =
        pg_command(conn, "SET client_encoding = 'SQL_ASCII'", what->timeout_us, wait, &res, err);
    if (st)
        return st;
    if (PQresultStatus(res) != PGRES_COMMAND_OK)
        return pg_result_error(res, "could not set the client encoding", err);
    PGresult *end = PQgetResult(conn); /* the command's end, which came with its result */
    PQclear(end);
    return STATUS_OK;
}

enum status pgconn_open(const struct pg_connect *what, const struct pg_wait *wait, PGconn **ret,
                        struct error *err)
{
    CLEANUP(buf_deinit) struct buf options;
    buf_init(&options, 16384);
    enum status st = session_options(what, &options, err);
    if (st)
        return st;
    CLEANUP(pg_finishp) PGconn *conn = start_connecting(what, options.data);
    if (!conn)
        return error_set(err, STATUS_NOMEM, "could not allocate a connection");
    PQsetErrorVerbosity(conn, PQERRORS_VERBOSE);

    int64_t deadline_us = clock_mono_us(wait->clock) + what->timeout_us;
    PostgresPollingStatusType step = PGRES_POLLING_WRITING;
    while (PQstatus(conn) != CONNECTION_BAD && step != PGRES_POLLING_OK) {
        struct pg_ready ready;
        int64_t left_us = deadline_us - clock_mono_us(wait->clock);
        if (stopped(wait))
            return error_set(err, STATUS_END, "stopped while connecting");
        if (left_us <= 0)
            return error_set(err, STATUS_IO, "could not connect to PostgreSQL: no answer in %d s",
                             (int)(what->timeout_us / US_PER_SECOND));
        st = pg_poll(PQsocket(conn), step == PGRES_POLLING_READING, step == PGRES_POLLING_WRITING,
                     left_us, wait, &ready, err);
        if (st)
            return st;
        if (!ready.readable && !ready.writable)
            continue;
        step = PQconnectPoll(conn);
        if (step == PGRES_POLLING_FAILED)
            break;
    }
    if (PQstatus(conn) != CONNECTION_OK)
        return connect_error(conn, err);
    PQsetErrorVerbosity(conn, PQERRORS_DEFAULT);
    st = what->mode == PG_REPLICATION ? take_any_bytes(conn, what, wait, err) : STATUS_OK;
    if (!st)
        *ret = TAKE(conn);
    return st;
}

enum status pg_result_error(const PGresult *res, const char *doing, struct error *err)
{
    const char *sqlstate = PQresultErrorField(res, PG_DIAG_SQLSTATE);
    const char *text = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
    const char *detail = PQresultErrorField(res, PG_DIAG_MESSAGE_DETAIL);
    const char *hint = pg_failure_hint(sqlstate);
    char line[400];
    pg_error_line(text ? text : PQresultErrorMessage(res), line, sizeof(line));
    enum status st = pg_failure_of(sqlstate) == PG_FATAL ? STATUS_REFUSED : STATUS_IO;
    return error_set(err, st, "%s: %s%s%s%s%s (SQLSTATE %s)", doing,
                     *line ? line : "no error message", detail ? "; " : "", detail ? detail : "",
                     *hint ? "; " : "", hint, sqlstate ? sqlstate : "none");
}
