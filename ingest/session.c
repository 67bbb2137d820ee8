#include "ingest/session.h"

#include "core/log.h"
#include "ingest/preflight.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define START_TIMEOUT_US   (60 * US_PER_SECOND)
#define CONNECT_TIMEOUT_US (10 * US_PER_SECOND)
#define COMMAND_TIMEOUT_US (10 * US_PER_SECOND)
#define END_READER_US      (5 * US_PER_SECOND)
#define END_READER_STEP_US (US_PER_SECOND / 10)

/* ---- what the server is ---- */

static enum status open_to_source(const struct replication_config *cfg, const struct pg_wait *wait,
                                  enum pg_mode mode, PGconn **ret, struct error *err)
{
    const struct pg_options what = {
        .conninfo = cfg->conninfo,
        .mode = mode,
        .application_name = mode == PG_REPLICATION ? cfg->application_name : NULL,
        .setup = mode == PG_REPLICATION ? NULL : "SET statement_timeout = '10s'",
        .timeout_ms =
            (int)((cfg->silence_us < CONNECT_TIMEOUT_US ? cfg->silence_us : CONNECT_TIMEOUT_US) /
                  1000),
        .wait = wait,
    };
    return pg_open(&what, ret, err);
}

/* A standby has no slot of ours, or one that it may not hand out: it is not the end of anything,
 * but a source that is being replaced. */
static enum status check_primary(PGconn *conn, const struct slot_info *slot, struct error *err)
{
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st =
        pg_query_within(conn, "SELECT pg_catalog.pg_is_in_recovery()", 0, NULL, COMMAND_TIMEOUT_US,
                        "could not ask whether the server is a standby", &res, err);
    if (st || *PQgetvalue(res, 0, 0) != 't')
        return st;
    /* From version 16 a standby can have logical slots of its own; its copies of the primary's
     * cannot be read. */
    if (PQserverVersion(conn) >= 160000 && slot->exists && !slot->synced)
        return STATUS_OK;
    return error_set(err, STATUS_IO,
                     "the server is a standby; waiting until it is promoted, or until the primary "
                     "is found (name all hosts, with target_session_attrs=read-write)");
}

/* Everything that cfg->check judges. conn: for ordinary statements; repl: for IDENTIFY_SYSTEM. */
static enum status look(const struct session *s, const struct replication_config *cfg, PGconn *conn,
                        PGconn *repl, const struct pg_wait *wait, lsn_t start,
                        struct source_seen *seen, struct error *err)
{
    enum status st = preflight_identify_on(repl, s->timeline, wait, &seen->server, err);
    if (!st)
        st = preflight_slot_read(conn, cfg->slot, &seen->slot, err);
    if (!st)
        st = check_primary(conn, &seen->slot, err);
    if (!st && cfg->check)
        st = cfg->check(cfg->check_ctx, seen, start, err);
    return st;
}

/* ---- who holds the slot ---- */

enum status session_end_reader(PGconn *conn, const char *slot, int pid, const struct pg_wait *wait,
                               struct error *err)
{
    char text[16];
    snprintf(text, sizeof(text), "%d", pid);
    const char *values[] = {text};
    const struct clock *clock = wait ? wait->clock : &clock_real;
    int64_t until_us = clock_mono_us(clock) + END_READER_US;
    struct slot_info now = {0};
    do {
        CLEANUP(PQclearp) PGresult *res = NULL;
        struct pg_ready ready;
        /* Without the right to do that, waiting for the slot is all that is left. */
        enum status st = pg_run_within(conn, "SELECT pg_catalog.pg_terminate_backend($1::int)", 1,
                                       values, COMMAND_TIMEOUT_US, &res, err);
        if (!st)
            st = pg_poll(-1, false, false, END_READER_STEP_US, wait, &ready, err);
        if (!st)
            st = preflight_slot_read(conn, slot, &now, err);
        if (st)
            return st;
        if (wait && wait->stop && atomic_load(wait->stop))
            return error_set(err, STATUS_END, "stopped while waiting for the slot");
    } while (now.active && now.active_pid == pid && clock_mono_us(clock) < until_us);
    return STATUS_OK;
}

/* Our last session may have ended for us alone: the server has not noticed yet. */
static enum status free_slot(const struct session *s, const struct replication_config *cfg,
                             PGconn *conn, PGconn *repl, const struct slot_info *slot,
                             const struct pg_wait *wait, struct error *err)
{
    if (!slot->active)
        return STATUS_OK;
    const char *ours = PQparameterStatus(repl, "application_name");
    char name[128];
    snprintf(name, sizeof(name), "\"%s\"", ours ? ours : "");
    if (s->pid == 0 || slot->active_pid != s->pid || !strstr(slot->holder, name))
        return error_set(err, STATUS_IO, "slot \"%s\" is being read by %s", cfg->slot,
                         *slot->holder ? slot->holder : "another process");
    log_write(LOG_WARN, "ingest",
              "the server still serves our last connection; asking it to end that pid=%d", s->pid);
    return session_end_reader(conn, cfg->slot, s->pid, wait, err);
}

/* ---- the session ---- */

/*
 * wal_sender_timeout: what the administrator chose stays when it is shorter than ours. Longer, or
 * off, a vanished client would hold the slot for as long.
 */
static enum status agree_on_timeout(PGconn *conn, const struct replication_config *cfg,
                                    const struct pg_wait *wait, int64_t *ret_us, struct error *err)
{
    char sql[400];
    snprintf(sql, sizeof(sql),
             "SELECT ms, pg_catalog.set_config('wal_sender_timeout', ms::text, false) FROM (SELECT "
             "CASE WHEN setting::bigint BETWEEN 1 AND %" PRId64 " THEN setting::bigint"
             " ELSE %" PRId64 " END AS ms FROM pg_catalog.pg_settings"
             " WHERE name = 'wal_sender_timeout') s",
             cfg->sender_timeout_us / 1000, cfg->sender_timeout_us / 1000);
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st = pg_command_all(conn, sql, COMMAND_TIMEOUT_US, wait, &res, err);
    if (st)
        return st;
    if (!pg_succeeded(res) || PQntuples(res) != 1)
        return pg_source_error(err, conn, res, "could not set wal_sender_timeout");
    *ret_us = strtoll(PQgetvalue(res, 0, 0), NULL, 10) * 1000;
    return STATUS_OK;
}

static enum status start_command(const struct replication_config *cfg, lsn_t start, struct buf *sql)
{
    CLEANUP(buf_deinit) struct buf list;
    buf_init(&list, 1024);
    /* publication_names is a list of identifiers inside a literal: quoted twice. */
    enum status st = pg_quote_ident(&list, cfg->publication);
    if (!st)
        st = buf_append(&list, "", 1);
    if (!st)
        st = buf_append_str(sql, STR("START_REPLICATION SLOT "));
    if (!st)
        st = pg_quote_ident(sql, cfg->slot);
    if (!st)
        st = buf_printf(sql, " LOGICAL " LSN_FMT " (proto_version '1', publication_names ",
                        LSN_ARGS(start));
    if (!st)
        st = pg_quote_literal(sql, list.data);
    if (!st)
        st = buf_append_str(sql, STR(", messages 'true')"));
    return st ? st : buf_append(sql, "", 1);
}

static enum status start_streaming(PGconn *conn, const struct replication_config *cfg,
                                   const struct pg_wait *wait, lsn_t start, struct error *err)
{
    CLEANUP(buf_deinit) struct buf sql;
    buf_init(&sql, 4096);
    enum status st = start_command(cfg, start, &sql);
    if (st)
        return error_set(err, st, "could not write the START_REPLICATION command");
    CLEANUP(PQclearp) PGresult *res = NULL;
    st = pg_command(conn, sql.data, START_TIMEOUT_US, wait, &res, err);
    if (!st && PQresultStatus(res) != PGRES_COPY_BOTH)
        st = pg_source_error(err, conn, res, "could not start replication");
    return st;
}

enum status session_open(struct session *s, const struct replication_config *cfg,
                         const struct pg_wait *wait, lsn_t start, struct error *err)
{
    CLEANUP(PQfinishp) PGconn *repl = NULL;
    CLEANUP(PQfinishp) PGconn *conn = NULL;
    struct source_seen seen = {0};
    int64_t timeout_us = 0;
    enum status st = open_to_source(cfg, wait, PG_REPLICATION, &repl, err);
    if (!st)
        st = open_to_source(cfg, wait, PG_SOURCE, &conn, err);
    if (!st)
        st = look(s, cfg, conn, repl, wait, start, &seen, err);
    if (!st)
        st = free_slot(s, cfg, conn, repl, &seen.slot, wait, err);
    if (!st)
        st = agree_on_timeout(repl, cfg, wait, &timeout_us, err);
    if (!st)
        st = start_streaming(repl, cfg, wait, start, err);
    if (st)
        return st;
    s->timeline = seen.server.timeline;
    s->pid = PQbackendPID(repl);
    s->feedback_us =
        timeout_us / 3 < cfg->status_interval_us ? timeout_us / 3 : cfg->status_interval_us;
    s->conn = TAKE(repl);
    log_write(LOG_INFO, "ingest",
              "streaming slot=\"%s\" publication=\"%s\" start=" LSN_FMT
              " server_version=%d timeline=%" PRIu32 " wal_sender_timeout_ms=%" PRId64,
              cfg->slot, cfg->publication, LSN_ARGS(start), PQserverVersion(s->conn), s->timeline,
              timeout_us / 1000);
    return STATUS_OK;
}

void session_close(struct session *s)
{
    PQfinish(s->conn);
    s->conn = NULL;
}

enum status session_explain(const struct session *s, const struct replication_config *cfg,
                            const struct pg_wait *wait, lsn_t start, struct error *err)
{
    CLEANUP(PQfinishp) PGconn *repl = NULL;
    CLEANUP(PQfinishp) PGconn *conn = NULL;
    struct source_seen seen = {0};
    struct error why = {.code = STATUS_OK};
    enum status st = open_to_source(cfg, wait, PG_REPLICATION, &repl, &why);
    if (!st)
        st = open_to_source(cfg, wait, PG_SOURCE, &conn, &why);
    if (!st)
        st = look(s, cfg, conn, repl, wait, start, &seen, &why);
    if (st == STATUS_LOST)
        *err = why;
    return err->code;
}
