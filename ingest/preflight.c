#include "ingest/preflight.h"

#include "ingest/preflight_internal.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define IDENTIFY_TIMEOUT_US (10 * US_PER_SECOND)
/* Longer than PREFLIGHT_STATEMENT_TIMEOUT. */
#define ANSWER_TIMEOUT_US (60 * US_PER_SECOND)

const char *check_result_name(enum check_result r)
{
    switch (r) {
    case CHECK_OK:
        return "ok";
    case CHECK_WARN:
        return "warn";
    case CHECK_FAIL:
        return "fail";
    }
    return "unknown";
}

enum check_result preflight_worst(const struct preflight_report *r)
{
    enum check_result worst = CHECK_OK;
    for (size_t i = 0; i < r->n; i++)
        if (r->checks[i].result > worst)
            worst = r->checks[i].result;
    return worst;
}

struct check *preflight_add(struct preflight *p, const char *name, enum check_result result,
                            const char *fmt, ...)
{
    struct preflight_report *r = p->report;
    if (r->n == CHECKS_MAX)
        r->n--;
    struct check *c = &r->checks[r->n++];
    *c = (struct check){.name = name, .result = result};
    va_list args;
    va_start(args, fmt);
    vsnprintf(c->found, sizeof(c->found), fmt, args);
    va_end(args);
    return c;
}

void preflight_fix(struct check *c, const char *fmt, ...)
{
    size_t len = strlen(c->fix);
    va_list args;
    va_start(args, fmt);
    vsnprintf(c->fix + len, sizeof(c->fix) - len, fmt, args);
    va_end(args);
}

/* An error's text ends with its SQLSTATE in parentheses. */
static bool has_sqlstate(const struct error *why, const char *sqlstate)
{
    size_t len = strlen(why->text);
    return len > 7 && strncmp(why->text + len - 6, sqlstate, 5) == 0;
}

void preflight_connect_fix(struct check *c, const char *conninfo, const char *key,
                           const struct error *why)
{
    PQconninfoOption *options = PQconninfoParse(conninfo, NULL);
    const char *user = NULL;
    const char *database = NULL;
    for (const PQconninfoOption *o = options; o && o->keyword; o++) {
        if (strcmp(o->keyword, "user") == 0)
            user = o->val;
        if (strcmp(o->keyword, "dbname") == 0)
            database = o->val;
    }
    bool named =
        user && database && strlen(user) < PG_NAME_BYTES && strlen(database) < PG_NAME_BYTES;
    if (named && has_sqlstate(why, "42501"))
        preflight_fix(c, "GRANT CONNECT ON DATABASE %s TO %s;", preflight_quote(database).text,
                      preflight_quote(user).text);
    else if (named && has_sqlstate(why, "28000"))
        preflight_fix(
            c, "ALTER ROLE %s LOGIN; -- or, when it may log in: a line for it in pg_hba.conf",
            preflight_quote(user).text);
    else
        preflight_fix(c, "correct %s, or start the server", key);
    PQconninfoFree(options);
}

enum status preflight_query(PGconn *conn, const char *sql, int n_params, const char *const *params,
                            PGresult **ret, struct error *err)
{
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st = pg_run_within(conn, sql, n_params, params, ANSWER_TIMEOUT_US, &res, err);
    if (st)
        return st;
    if (!pg_succeeded(res))
        return pg_source_error(err, conn, res, "could not query PostgreSQL");
    *ret = TAKE(res);
    return STATUS_OK;
}

const char *preflight_text(const PGresult *res, int row, const char *column)
{
    int i = PQfnumber(res, column);
    assert(i >= 0);
    return row < PQntuples(res) ? PQgetvalue(res, row, i) : "";
}

bool preflight_bool(const PGresult *res, int row, const char *column)
{
    return preflight_text(res, row, column)[0] == 't';
}

int64_t preflight_int(const PGresult *res, int row, const char *column, int64_t if_null)
{
    const char *text = preflight_text(res, row, column);
    char *end = NULL;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    return end == text || errno ? if_null : value;
}

enum status preflight_array(const char *const *items, size_t n, struct pg_array *out)
{
    pg_array_begin(out);
    for (size_t i = 0; i < n; i++)
        pg_array_text(out, str_from(items[i]));
    return pg_array_end(out);
}

struct preflight_name preflight_quote(const char *ident)
{
    struct preflight_name name;
    pg_quote_name(ident, name.text);
    return name;
}

struct preflight_name preflight_quote_table(const char *schema, const char *table)
{
    struct preflight_name name;
    size_t n = pg_quote_name(schema, name.text);
    name.text[n++] = '.';
    pg_quote_name(table, name.text + n);
    return name;
}

enum status preflight_connect(const char *conninfo, PGconn **ret, struct error *err)
{
    /* A check that hangs behind a lock would say nothing at all. */
    const struct pg_options o = {
        .conninfo = conninfo, .mode = PG_SOURCE, .setup = PREFLIGHT_STATEMENT_TIMEOUT};
    return pg_open(&o, ret, err);
}

lsn_t preflight_timeline_end(const char *history, uint32_t timeline)
{
    /* One ancestor per line: "1<tab>0/3000148<tab>reason". */
    for (const char *line = history; line && *line;) {
        char *end = NULL;
        unsigned long id = strtoul(line, &end, 10);
        char text[32] = "";
        lsn_t lsn = LSN_INVALID;
        if (end != line && id == timeline && sscanf(end, " %31s", text) == 1 &&
            lsn_parse(text, &lsn))
            return lsn;
        line = strchr(line, '\n');
        line = line ? line + 1 : NULL;
    }
    return LSN_INVALID;
}

/* When the server is on another timeline than the one asked about. */
static enum status read_history(PGconn *conn, uint32_t timeline, const struct pg_wait *wait,
                                struct server_identity *id, struct error *err)
{
    id->shared_lsn = LSN_INVALID;
    if (id->timeline < timeline)
        return STATUS_OK; /* the first one has no history, and no other knows later ones */
    char sql[64];
    snprintf(sql, sizeof(sql), "TIMELINE_HISTORY %" PRIu32, id->timeline);
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st = pg_command_all(conn, sql, IDENTIFY_TIMEOUT_US, wait, &res, err);
    if (st)
        return st;
    if (PQresultStatus(res) != PGRES_TUPLES_OK)
        return pg_source_error(err, conn, res, "could not read the server's timeline history");
    id->shared_lsn = preflight_timeline_end(preflight_text(res, 0, "content"), timeline);
    return STATUS_OK;
}

enum status preflight_identify_on(PGconn *conn, uint32_t timeline, const struct pg_wait *wait,
                                  struct server_identity *ret, struct error *err)
{
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st = pg_command_all(conn, "IDENTIFY_SYSTEM", IDENTIFY_TIMEOUT_US, wait, &res, err);
    if (st)
        return st;
    if (PQresultStatus(res) != PGRES_TUPLES_OK)
        return pg_source_error(err, conn, res, "could not identify the server");

    struct server_identity id = {.shared_lsn = UINT64_MAX};
    char *end = NULL;
    errno = 0;
    const char *system = preflight_text(res, 0, "systemid");
    id.system_identifier = strtoull(system, &end, 10);
    id.timeline = (uint32_t)preflight_int(res, 0, "timeline", 0);
    snprintf(id.database, sizeof(id.database), "%s", preflight_text(res, 0, "dbname"));
    if (end == system || *end || errno || id.system_identifier == 0 || id.timeline == 0 ||
        !lsn_parse(preflight_text(res, 0, "xlogpos"), &id.flush_lsn))
        return error_set(err, STATUS_PROTOCOL, "malformed answer to IDENTIFY_SYSTEM");
    if (timeline != 0 && timeline != id.timeline)
        st = read_history(conn, timeline, wait, &id, err);
    if (!st)
        *ret = id;
    return st;
}

enum status preflight_identify(const char *conninfo, uint32_t timeline, struct server_identity *ret,
                               struct error *err)
{
    const struct pg_options o = {.conninfo = conninfo, .mode = PG_REPLICATION};
    CLEANUP(PQfinishp) PGconn *conn = NULL;
    enum status st = pg_open(&o, &conn, err);
    return st ? st : preflight_identify_on(conn, timeline, NULL, ret, err);
}

enum status preflight_system_identifier(const char *conninfo, uint64_t *ret, struct error *err)
{
    struct server_identity id = {0};
    enum status st = preflight_identify(conninfo, 0, &id, err);
    if (!st)
        *ret = id.system_identifier;
    return st;
}

static const struct {
    const char *name; /* in the report when the group itself cannot be asked */
    preflight_fn *fn;
} groups[] = {
    {"server", preflight_check_server},           {"tables", preflight_check_tables},
    {"publication", preflight_check_publication}, {"slot", preflight_check_slot},
    {"cache_tables", preflight_check_sink},
};

enum status preflight_run(const struct preflight_config *cfg, struct preflight_report *ret,
                          struct error *err)
{
    CLEANUP(PQfinishp) PGconn *conn = NULL;
    struct error why = {.code = STATUS_OK};
    struct preflight p = {.cfg = cfg, .report = ret};
    ret->n = 0;
    if (preflight_connect(cfg->conninfo, &conn, &why)) {
        struct check *c = preflight_add(&p, "connection", CHECK_FAIL, "%.500s", why.text);
        preflight_connect_fix(c, cfg->conninfo, "source.conninfo", &why);
        return STATUS_OK;
    }
    p.conn = conn;
    p.version = PQserverVersion(conn);
    preflight_add(&p, "connection", CHECK_OK, "database \"%s\" as role \"%s\"", PQdb(conn),
                  PQuser(conn));
    for (size_t i = 0; i < sizeof(groups) / sizeof(groups[0]); i++) {
        if (groups[i].fn(&p, &why) == STATUS_OK)
            continue;
        if (PQstatus(conn) != CONNECTION_OK)
            return error_set(err, STATUS_IO, "%s", why.text);
        /* One check that cannot be asked (a right is missing) must not hide the others. */
        struct check *c = preflight_add(&p, groups[i].name, CHECK_FAIL, "%.500s", why.text);
        preflight_fix(c, "give the role the right to read the system catalogues");
    }
    return STATUS_OK;
}
