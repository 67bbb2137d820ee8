/* A slot with an exported snapshot, for the initial load (PostgreSQL documentation, "Streaming
 * Replication Protocol", CREATE_REPLICATION_SLOT). */
#include "ingest/preflight_internal.h"

#include "core/clock.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* A standby's slots are its own: the server refuses to make one for failover there. */
static bool on_standby(const PGconn *conn)
{
    const char *standby = PQparameterStatus(conn, "in_hot_standby");
    return standby && strcmp(standby, "on") == 0;
}

static enum status create_command(const PGconn *conn, const char *slot, bool failover,
                                  struct buf *out)
{
    int version = PQserverVersion(conn);
    enum status st = buf_append_str(out, STR("CREATE_REPLICATION_SLOT "));
    if (!st)
        st = pg_quote_ident(out, slot);
    if (!st)
        st = buf_append_str(out, STR(" LOGICAL pgoutput "));
    if (st)
        return st;
    if (version < 150000)
        st = buf_append_str(out, STR("EXPORT_SNAPSHOT"));
    else if (version < 170000)
        st = buf_append_str(out, STR("(SNAPSHOT 'export')"));
    else
        st = buf_printf(out, "(SNAPSHOT 'export', FAILOVER %s)",
                        failover && !on_standby(conn) ? "true" : "false");
    return st ? st : buf_append(out, "", 1);
}

/* The server would go on waiting for older transactions, and then make the slot. */
static void cancel(PGconn *conn)
{
    char why[256];
    PGcancel *c = PQgetCancel(conn);
    if (c)
        PQcancel(c, why, sizeof(why));
    PQfreeCancel(c);
}

static enum status take_answer(const PGresult *res, struct slot_export *ret, struct error *err)
{
    snprintf(ret->snapshot, sizeof(ret->snapshot), "%s", preflight_text(res, 0, "snapshot_name"));
    if (!*ret->snapshot || !lsn_parse(preflight_text(res, 0, "consistent_point"), &ret->birth))
        return error_set(err, STATUS_PROTOCOL, "malformed answer to CREATE_REPLICATION_SLOT");
    return STATUS_OK;
}

/* The server's clock, asked by another connection: a command on this one would end the snapshot. */
static enum status read_clock(PGconn *conn, int64_t *ret_us, struct error *err)
{
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st = preflight_query(
        conn, "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now", 0, NULL,
        &res, err);
    if (!st)
        *ret_us = preflight_int(res, 0, "now", 0);
    return st;
}

enum status preflight_slot_export(const char *conninfo, PGconn *conn, const char *slot,
                                  bool failover, int64_t timeout_us, struct slot_export *ret,
                                  struct error *err)
{
    const struct pg_options o = {.conninfo = conninfo, .mode = PG_REPLICATION};
    CLEANUP(PQfinishp) PGconn *own = NULL;
    CLEANUP(PQclearp) PGresult *res = NULL;
    CLEANUP(buf_deinit) struct buf sql;
    struct slot_export e = {0};
    buf_init(&sql, 1024);
    /* Before the slot, so that no transaction it sends is from before this time. */
    enum status st = read_clock(conn, &e.at_us, err);
    if (!st)
        st = pg_open(&o, &own, err);
    if (!st && create_command(own, slot, failover, &sql))
        st = error_set(err, STATUS_LIMIT, "could not write CREATE_REPLICATION_SLOT");
    if (st)
        return st;
    int64_t until_us = clock_mono_us(&clock_real) + timeout_us;
    st = pg_command(own, sql.data, timeout_us, NULL, &res, err);
    if (st == STATUS_IO && PQstatus(own) == CONNECTION_OK &&
        clock_mono_us(&clock_real) >= until_us) {
        cancel(own);
        return preflight_slot_blocked(conn, slot, err);
    }
    if (st)
        return st;
    if (PQresultStatus(res) != PGRES_TUPLES_OK)
        return pg_source_error(err, own, res, "could not create the replication slot");
    st = take_answer(res, &e, err);
    if (st)
        return st;
    e.conn = TAKE(own);
    *ret = e;
    return STATUS_OK;
}

void preflight_export_end(struct slot_export *e)
{
    PQfinish(TAKE(e->conn));
}

enum status preflight_slot_drop(PGconn *conn, const char *slot, struct error *err)
{
    CLEANUP(PQclearp) PGresult *res = NULL;
    const char *params[] = {slot};
    return preflight_query(conn,
                           "SELECT pg_catalog.pg_drop_replication_slot(slot_name)"
                           " FROM pg_catalog.pg_replication_slots WHERE slot_name = $1",
                           1, params, &res, err);
}
