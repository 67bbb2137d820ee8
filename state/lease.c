#include "state/lease.h"

#include "core/pg.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STRING(x)  #x
#define TEXT_OF(x) STRING(x)

/* A take-over waits for a sink transaction in flight. One that has been silent for this long
 * belongs to a process that is stopped or unreachable and would block us for ever. */
#define SILENT_S 3

/* Beyond what a statement may wait for locks; two of them, and a connection, fit into LEASE_TTL_S.
 */
#define ANSWER_TIMEOUT_US (4 * US_PER_SECOND)

struct lease {
    char *conninfo;
    char *pipeline;
    char *holder;
    uint64_t epoch;
    bool (*is_dead)(const char *holder); /* only while acquiring */
    PGconn *conn;                        /* NULL between connections */
    bool unreachable;                    /* when last renewed */
};

static void lease_free(struct lease *l)
{
    if (!l)
        return;
    PQfinish(l->conn);
    free(l->conninfo);
    free(l->pipeline);
    free(l->holder);
    free(l);
}
CLEANUP_FREEP(struct lease, lease_free);

/* A server, or a network, that hangs must not hang us: the lease is renewed on another connection.
 */
static enum status query(const struct lease *l, const char *sql, int n, const char *const *params,
                         const char *what, PGresult **ret, struct error *err)
{
    return pg_query_within(l->conn, sql, n, params, ANSWER_TIMEOUT_US, what, ret, err);
}

/* The same, and the result is not looked at. */
static enum status run(const struct lease *l, const char *sql, const char *what, struct error *err)
{
    CLEANUP(PQclearp) PGresult *res = NULL;
    return query(l, sql, 0, NULL, what, &res, err);
}

static enum status connect_lease(struct lease *l, struct error *err)
{
    if (l->conn && PQstatus(l->conn) == CONNECTION_OK)
        return STATUS_OK;
    PQfinish(TAKE(l->conn));
    struct pg_options o = {
        .conninfo = l->conninfo,
        .application_name = "warmpath lease",
        .setup = "SET synchronous_commit = on; SET lock_timeout = '" TEXT_OF(
            SILENT_S) "s';"
                      " SET statement_timeout = '10s';"
                      " SET idle_in_transaction_session_timeout = '5s'",
        .timeout_ms = 4000,
    };
    return pg_open(&o, &l->conn, err);
}

/* Ends the sinks that hold an epoch row but have stopped talking in the middle of a transaction.
 * Their pipeline's rows are rolled back; a sink that was only slow sends them again. */
static enum status end_silent_sinks(struct lease *l, struct error *err)
{
    return run(
        l,
        "SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a"
        " WHERE a.application_name = 'warmpath sink' AND a.wait_event = 'ClientRead'"
        " AND a.xact_start < clock_timestamp() - interval '" TEXT_OF(
            SILENT_S) " s'"
                      " AND EXISTS (SELECT FROM pg_locks k WHERE k.pid = a.pid"
                      " AND k.relation = 'strategic_epoch'::regclass AND k.mode = 'RowShareLock')",
        "could not end a silent sink", err);
}

static enum status refuse(struct lease *l, struct error *err)
{
    const char *params[] = {l->pipeline};
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st =
        query(l,
              "SELECT holder, greatest(1, ceil(extract(epoch FROM until - clock_timestamp())))"
              "::int FROM strategic_lease WHERE pipeline = $1",
              1, params, "could not read the lease", &res, err);
    if (st)
        return st;
    if (PQntuples(res) == 0)
        return error_set(err, STATUS_IO, "the lease of pipeline \"%s\" has just been given back",
                         l->pipeline);
    return error_set(err, STATUS_REFUSED,
                     "pipeline \"%s\" is held by %s for another %s s; stop it, or wait",
                     l->pipeline, PQgetvalue(res, 0, 0), PQgetvalue(res, 0, 1));
}

/* The statements of one transaction; the caller ends it. */
static enum status take(struct lease *l, uint64_t *ret_epoch, struct error *err)
{
    const char *params[] = {l->pipeline, l->holder, ""};
    const char *what = "could not take the lease";
    CLEANUP(PQclearp) PGresult *held = NULL;
    enum status st = query(l, "SELECT holder FROM strategic_lease WHERE pipeline = $1", 1, params,
                           what, &held, err);
    if (st)
        return st;
    if (l->is_dead && PQntuples(held) == 1 && l->is_dead(PQgetvalue(held, 0, 0)))
        params[2] = PQgetvalue(held, 0, 0);
    CLEANUP(PQclearp) PGresult *lease = NULL;
    st = query(
        l,
        "INSERT INTO strategic_lease AS l (pipeline, holder, until)"
        " VALUES ($1, $2, clock_timestamp() + interval '" TEXT_OF(
            LEASE_TTL_S) " s')"
                         " ON CONFLICT (pipeline) DO UPDATE"
                         " SET holder = EXCLUDED.holder, until = EXCLUDED.until"
                         " WHERE l.until <= clock_timestamp() OR l.holder IN (EXCLUDED.holder, $3)"
                         " RETURNING 1",
        3, params, what, &lease, err);
    if (st)
        return st;
    if (PQntuples(lease) == 0)
        return refuse(l, err);
    /* Also for the same holder's name: it is another process, whose predecessor may still write. */
    CLEANUP(PQclearp) PGresult *epoch = NULL;
    st = query(l,
               "INSERT INTO strategic_epoch (pipeline, epoch)"
               " SELECT $1, coalesce(max(epoch), 0) + 1 FROM strategic_epoch"
               " ON CONFLICT (pipeline) DO UPDATE SET epoch = EXCLUDED.epoch RETURNING epoch",
               1, params, what, &epoch, err);
    if (st)
        return st;
    *ret_epoch = strtoull(PQgetvalue(epoch, 0, 0), NULL, 10);
    return STATUS_OK;
}

static enum status take_in_transaction(struct lease *l, struct error *err)
{
    uint64_t epoch = 0;
    enum status st = run(l, "BEGIN", "could not take the lease", err);
    if (!st)
        st = take(l, &epoch, err);
    if (st) {
        pg_rollback(l->conn);
        return st;
    }
    st = run(l, "COMMIT", "could not take the lease", err);
    if (!st)
        l->epoch = epoch;
    return st;
}

enum status lease_acquire(const char *conninfo, const char *pipeline, const char *holder,
                          bool (*is_dead)(const char *holder), struct lease **ret,
                          struct error *err)
{
    CLEANUP(lease_freep) struct lease *l = calloc(1, sizeof(*l));
    if (l) {
        l->conninfo = strdup(conninfo);
        l->pipeline = strdup(pipeline);
        l->holder = strdup(holder);
        l->is_dead = is_dead;
    }
    if (!l || !l->conninfo || !l->pipeline || !l->holder)
        return error_set(err, STATUS_NOMEM, "could not allocate a lease");
    enum status st = connect_lease(l, err);
    if (!st)
        st = take_in_transaction(l, err);
    if (st == STATUS_IO && PQstatus(l->conn) == CONNECTION_OK) {
        /* Most likely the lock of a transaction that does not end. */
        st = end_silent_sinks(l, err);
        if (!st)
            st = take_in_transaction(l, err);
    }
    if (st)
        return st;
    *ret = TAKE(l);
    return STATUS_OK;
}

uint64_t lease_epoch(const struct lease *l)
{
    return l->epoch;
}

static enum status renew(struct lease *l, struct error *err)
{
    char epoch[24];
    snprintf(epoch, sizeof(epoch), "%" PRIu64, l->epoch);
    const char *params[] = {l->pipeline, l->holder};
    CLEANUP(PQclearp) PGresult *renewed = NULL;
    enum status st =
        query(l,
              "UPDATE strategic_lease SET until = clock_timestamp() + interval '" TEXT_OF(
                  LEASE_TTL_S) " s' WHERE pipeline = $1 AND holder = $2 RETURNING 1",
              2, params, "could not renew the lease", &renewed, err);
    if (st)
        return st;
    /* A statement of its own: the UPDATE may have waited for a take-over that its snapshot is too
     * old to see. */
    CLEANUP(PQclearp) PGresult *current = NULL;
    st = query(l, "SELECT epoch FROM strategic_epoch WHERE pipeline = $1", 1, params,
               "could not read the epoch", &current, err);
    if (st)
        return st;
    bool same = PQntuples(current) == 1 && strcmp(PQgetvalue(current, 0, 0), epoch) == 0;
    if (PQntuples(renewed) == 1 && same)
        return STATUS_OK;
    return error_set(err, STATUS_FENCED, "pipeline \"%s\" was taken over: its epoch is %s, not %s",
                     l->pipeline, PQntuples(current) ? PQgetvalue(current, 0, 0) : "none", epoch);
}

enum status lease_renew(struct lease *l, struct error *err)
{
    enum status st = connect_lease(l, err);
    if (!st)
        st = renew(l, err);
    /* libpq may call a connection good whose peer has gone. */
    l->unreachable = st == STATUS_IO;
    if (l->unreachable)
        PQfinish(TAKE(l->conn));
    return st;
}

void lease_release(struct lease *l)
{
    if (!l)
        return;
    char epoch[24];
    snprintf(epoch, sizeof(epoch), "%" PRIu64, l->epoch);
    const char *params[] = {l->pipeline, l->holder, epoch};
    CLEANUP(PQclearp) PGresult *res = NULL;
    /* Without an answer the lease simply runs out. The epoch condition leaves a successor that uses
     * the same name alone. */
    if (!l->unreachable && !connect_lease(l, NULL)) {
        enum status st =
            query(l,
                  "UPDATE strategic_lease SET until = clock_timestamp() WHERE pipeline = $1"
                  " AND holder = $2 AND EXISTS (SELECT FROM strategic_epoch"
                  " WHERE pipeline = $1 AND epoch = $3::bigint)",
                  3, params, "could not give the lease back", &res, NULL);
        (void)st;
    }
    lease_free(l);
}
