/* The part of core/pg.h that connects. */
#include "core/pg.h"

#include <assert.h>
#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define CONNECT_TIMEOUT_MS 10000

/* ---- the connection string ---- */

/* NULL: INVALID, and why. The caller frees the options. */
static PQconninfoOption *parse(const char *conninfo, struct error *err)
{
    char *why = NULL;
    PQconninfoOption *options = PQconninfoParse(conninfo, &why);
    if (!options) {
        /* libpq quotes the offending part, which may be a password; an option's name is safe. */
        bool safe = why && strncmp(why, "invalid connection option", 25) == 0;
        char line[256];
        pg_error_line(why, line, sizeof(line));
        error_set(err, STATUS_INVALID, "is not a connection string%s%s", safe ? ": " : "",
                  safe ? line : "");
        PQfreemem(why);
    }
    return options;
}

/* NULL when it is not set. */
static const char *value_of(const PQconninfoOption *options, const char *keyword)
{
    for (const PQconninfoOption *o = options; o->keyword; o++)
        if (strcmp(o->keyword, keyword) == 0)
            return o->val;
    return NULL;
}

enum status pg_conninfo_check(const char *conninfo, struct error *err)
{
    PQconninfoOption *options = parse(conninfo, err);
    if (!options)
        return STATUS_INVALID;
    bool set = value_of(options, "replication") != NULL;
    PQconninfoFree(options);
    return set ? error_set(err, STATUS_INVALID,
                           "must not hold \"replication\": it is added where it is needed")
               : STATUS_OK;
}

/* The options the conninfo (or the environment) asks for, then ours, which therefore win. */
static enum status session_options(const struct pg_options *o, struct buf *out, struct error *err)
{
    PQconninfoOption *given = parse(o->conninfo, err);
    if (!given)
        return STATUS_INVALID;
    const char *theirs = value_of(given, "options");
    if (!theirs)
        theirs = getenv("PGOPTIONS");
    enum status st = buf_printf(out,
                                "%s%s-c datestyle=ISO -c intervalstyle=postgres "
                                "-c extra_float_digits=3 -c timezone=UTC -c bytea_output=hex "
                                /* With row_security off, rows hidden from us are an error. */
                                "-c statement_timeout=0 -c idle_in_transaction_session_timeout=0 "
                                "-c row_security=off",
                                theirs ? theirs : "", theirs ? " " : "");
    PQconninfoFree(given);
    if (!st)
        st = buf_append(out, "", 1);
    return st ? error_set(err, st, "the connection options are too long") : STATUS_OK;
}

/* ---- several hosts ---- */

/* One of the servers that the conninfo names. */
struct host {
    char host[256];
    char hostaddr[64];
    char port[16];
};

static size_t count_items(const char *list)
{
    size_t n = list && *list ? 1 : 0;
    for (const char *c = list; c && *c; c++)
        n += *c == ',';
    return n;
}

/* The item at i of a list with commas, the only one for every i; false: empty, or does not fit. */
static bool item_of(const char *list, size_t i, char *out, size_t size)
{
    if (count_items(list) < 2)
        i = 0;
    const char *from = list ? list : "";
    for (; i > 0; i--)
        from = strchr(from, ',') + 1;
    size_t len = strcspn(from, ",");
    if (len >= size || (len == 0 && list))
        return false;
    memcpy(out, from, len);
    out[len] = '\0';
    return true;
}

/*
 * The hosts to try one after the other, each in a time of its own: libpq would spend all of it on a
 * first host that does not answer. 0: as libpq does it (one host, or a list that only it can read).
 */
static size_t find_hosts(const char *conninfo, struct host hosts[PG_HOSTS_MAX])
{
    PQconninfoOption *given = parse(conninfo, NULL);
    if (!given)
        return 0;
    const char *names = value_of(given, "host");
    const char *addresses = value_of(given, "hostaddr");
    const char *ports = value_of(given, "port");
    const char *wanted = value_of(given, "target_session_attrs");
    size_t n = count_items(addresses ? addresses : names);
    bool plain =
        n > 1 && n <= PG_HOSTS_MAX && (count_items(ports) <= 1 || count_items(ports) == n) &&
        (!names || count_items(names) == n) && (!wanted || strcmp(wanted, "prefer-standby") != 0);
    for (size_t i = 0; plain && i < n; i++)
        plain = item_of(names, i, hosts[i].host, sizeof(hosts[i].host)) &&
                item_of(addresses, i, hosts[i].hostaddr, sizeof(hosts[i].hostaddr)) &&
                item_of(ports, i, hosts[i].port, sizeof(hosts[i].port));
    PQconninfoFree(given);
    return plain ? n : 0;
}

/* ---- connecting ---- */

/* host: NULL = as the conninfo says. */
static PGconn *start_connecting(const struct pg_options *o, const char *options,
                                const struct host *host)
{
    const char *name = o->application_name ? o->application_name : "warmpath";
    /* Later keywords override earlier ones, so the conninfo stands between defaults and musts. */
    const char *keywords[16];
    const char *values[16];
    size_t n = 0;
#define SET(keyword, value) (keywords[n] = (keyword), values[n++] = (value))
    SET("fallback_application_name", name);
    SET("keepalives", "1");
    SET("keepalives_idle", "30");
    SET("keepalives_interval", "10");
    SET("keepalives_count", "3");
    SET("tcp_user_timeout", "30000");
    SET("dbname", o->conninfo);
    if (host) { /* an empty value is as good as none */
        SET("host", host->host);
        SET("hostaddr", host->hostaddr);
        SET("port", host->port);
    }
    SET("client_encoding", "UTF8");
    if (o->mode == PG_PLAIN)
        SET("application_name", name);
    else
        SET("options", options);
    if (o->mode == PG_REPLICATION)
        SET("replication", "database");
    SET(NULL, NULL);
#undef SET
    assert(n <= sizeof(keywords) / sizeof(keywords[0]));
    return PQconnectStartParams(keywords, values, 1);
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

static enum status connect_error(const struct pg_options *o, const PGconn *conn, struct error *err)
{
    char line[512];
    char sqlstate[6] = "";
    pg_error_line(PQerrorMessage(conn), line, sizeof(line));
    take_sqlstate(line, sqlstate);
    /* Of a connection it does not speak of a slot: the database takes none for now. */
    bool closed = strcmp(sqlstate, "55000") == 0;
    const char *hint = o->mode == PG_PLAIN || closed ? "" : pg_source_hint(sqlstate);
    bool final = o->mode != PG_PLAIN && !closed && pg_status_of(sqlstate) != STATUS_IO;
    return error_set(err, final ? STATUS_REFUSED : STATUS_IO,
                     "could not connect to PostgreSQL: %s%s%s%s%s%s", line, *hint ? "; " : "", hint,
                     *sqlstate ? " (" : "", sqlstate, *sqlstate ? ")" : "");
}

static enum status connect_in_time(const struct pg_options *o, PGconn *conn, int64_t timeout_us,
                                   struct error *err)
{
    int64_t deadline_us = clock_mono_us(o->wait ? o->wait->clock : &clock_real) + timeout_us;
    PostgresPollingStatusType step = PGRES_POLLING_WRITING;
    while (PQstatus(conn) != CONNECTION_BAD && step != PGRES_POLLING_OK &&
           step != PGRES_POLLING_FAILED) {
        struct error why;
        /* Waiting for both directions while only one is asked for would spin. */
        enum status st = pg_wait_socket(conn, step == PGRES_POLLING_READING,
                                        step == PGRES_POLLING_WRITING, deadline_us, o->wait, &why);
        if (st)
            return error_set(err, st, "could not connect to PostgreSQL: %s", why.text);
        step = PQconnectPoll(conn);
    }
    return PQstatus(conn) == CONNECTION_OK ? STATUS_OK : connect_error(o, conn, err);
}

static void drop_notice(void *ctx, const PGresult *res)
{
    (void)ctx;
    (void)res;
}

/* Statements without parameters. */
static enum status run_setup(PGconn *conn, const char *sql, int64_t timeout_us,
                             const struct pg_wait *wait, const char *what, struct error *err)
{
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st = pg_command_all(conn, sql, timeout_us, wait, &res, err);
    if (st)
        return st;
    return pg_succeeded(res) ? STATUS_OK : pg_error(err, conn, res, what);
}

/* A database without an encoding may hold bytes that are no text, and the server refuses to send
 * them as UTF-8. Taken as they are, each row is checked here, and only the bad ones are refused. */
static enum status take_any_bytes(PGconn *conn, int64_t timeout_us, const struct pg_wait *wait,
                                  struct error *err)
{
    const char *encoding = PQparameterStatus(conn, "server_encoding");
    if (!encoding || strcmp(encoding, "SQL_ASCII") != 0)
        return STATUS_OK;
    return run_setup(conn, "SET client_encoding = 'SQL_ASCII'", timeout_us, wait,
                     "could not set the client encoding", err);
}

static enum status connect_to(const struct pg_options *o, const char *options,
                              const struct host *host, int64_t timeout_us, PGconn **ret,
                              struct error *err)
{
    CLEANUP(PQfinishp) PGconn *conn = start_connecting(o, options, host);
    if (!conn)
        return error_set(err, STATUS_NOMEM, "could not allocate a connection");
    PQsetErrorVerbosity(conn, PQERRORS_VERBOSE);
    enum status st = connect_in_time(o, conn, timeout_us, err);
    if (!st)
        *ret = TAKE(conn);
    return st;
}

/* The first that takes us. When none does, all may have to say why; worth a retry, unless each of
 * them refuses for good. */
static enum status connect_to_any(const struct pg_options *o, const char *options,
                                  int64_t timeout_us, PGconn **ret, struct error *err)
{
    struct host hosts[PG_HOSTS_MAX] = {0};
    size_t n = find_hosts(o->conninfo, hosts);
    if (n == 0)
        return connect_to(o, options, NULL, timeout_us, ret, err);
    char all[512] = "";
    size_t len = 0;
    enum status worst = STATUS_REFUSED;
    for (size_t i = 0; i < n; i++) {
        struct error why;
        enum status st = connect_to(o, options, &hosts[i], timeout_us, ret, &why);
        if (st == STATUS_OK)
            return st;
        if (st != STATUS_REFUSED && st != STATUS_IO)
            return error_set(err, st, "%s", why.text);
        worst = st == STATUS_IO ? st : worst;
        if (len < sizeof(all))
            len += (size_t)snprintf(all + len, sizeof(all) - len, "%s%s", i ? "; " : "", why.text);
    }
    return error_set(err, worst, "%s", all);
}

enum status pg_open(const struct pg_options *o, PGconn **ret, struct error *err)
{
    assert(o->conninfo);
    struct error why;
    enum status st = pg_conninfo_check(o->conninfo, &why);
    if (st)
        return error_set(err, st, "the connection string %s", why.text);
    CLEANUP(buf_deinit) struct buf options;
    buf_init(&options, 16384);
    if (o->mode != PG_PLAIN)
        st = session_options(o, &options, err);
    if (st)
        return st;
    CLEANUP(PQfinishp) PGconn *conn = NULL;
    int64_t timeout_us = (o->timeout_ms ? o->timeout_ms : CONNECT_TIMEOUT_MS) * INT64_C(1000);
    st = connect_to_any(o, options.data, timeout_us, &conn, err);
    if (st)
        return st;
    PQsetErrorVerbosity(conn, PQERRORS_DEFAULT);
    PQsetNoticeReceiver(conn, drop_notice, NULL);
    if (o->mode == PG_REPLICATION)
        st = take_any_bytes(conn, timeout_us, o->wait, err);
    if (!st && o->setup)
        st = run_setup(conn, o->setup, timeout_us, o->wait, "could not set up the connection", err);
    if (!st)
        *ret = TAKE(conn);
    return st;
}
