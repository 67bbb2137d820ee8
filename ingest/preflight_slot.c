/* The slot: what the catalogue says of it, whether it is lost, and making it. */
#include "ingest/preflight_internal.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

void preflight_slot_sql(int version, char out[SLOT_SQL_BYTES])
{
    /* A column that the server does not have yet is asked for as what its absence means. */
    /* 16 says so of every slot that it has given up, 17 of those in conflict with recovery. */
    const char *conflicting = version >= 170000 ? "s.conflicting"
                              : version >= 160000
                                  ? "s.conflicting AND pg_catalog.pg_is_in_recovery()"
                                  : "false";
    const char *invalidation = "NULL::text";
    const char *since_17 =
        "NULL::timestamptz AS inactive_since, false AS failover, false AS synced";
    if (version >= 170000) {
        invalidation = "s.invalidation_reason";
        since_17 = "s.inactive_since, s.failover, s.synced";
    }
    const char *two_phase_at = version >= 180000 ? "s.two_phase_at" : "NULL::pg_lsn";
    int n = snprintf(
        out, SLOT_SQL_BYTES,
        "SELECT *, pg_catalog.pg_wal_lsn_diff(wal_end, restart_lsn)::bigint AS retained,"
        " pg_catalog.pg_wal_lsn_diff(wal_end, confirmed_flush_lsn)::bigint AS lag,"
        " pg_catalog.pg_wal_lsn_diff(confirmed_flush_lsn, restart_lsn)::bigint AS pinned,"
        " (extract(epoch FROM pg_catalog.clock_timestamp() - inactive_since) * 1000000)::bigint"
        "   AS inactive_us"
        " FROM (SELECT s.slot_type, s.plugin, s.database, s.active, s.active_pid,"
        " s.confirmed_flush_lsn, s.restart_lsn, s.wal_status, s.safe_wal_size, s.two_phase,"
        " %s AS conflicting, %s AS invalidation, %s, %s AS two_phase_at,"
        " CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()"
        "   ELSE pg_catalog.pg_current_wal_flush_lsn() END AS wal_end,"
        /* In bytes and seconds, whatever unit the server keeps them in; -1 and 0: no limit. */
        " (SELECT CASE WHEN setting = '-1' THEN -1 ELSE setting::bigint << 20 END"
        "   FROM pg_catalog.pg_settings WHERE name = 'max_slot_wal_keep_size') AS keep_bytes,"
        " (SELECT setting::bigint * CASE unit WHEN 'min' THEN 60 ELSE 1 END"
        "   FROM pg_catalog.pg_settings WHERE name = 'idle_replication_slot_timeout')"
        "   AS idle_timeout_s,"
        " 'pid ' || s.active_pid || coalesce(', application \"' || a.application_name || '\"', '')"
        "   || coalesce(', role \"' || a.usename || '\"', '')"
        "   || coalesce(', from ' || a.client_addr, '')"
        "   || coalesce(', since ' || to_char(a.backend_start AT TIME ZONE 'UTC',"
        "      'YYYY-MM-DD HH24:MI:SS\"Z\"'), '') AS holder"
        " FROM pg_catalog.pg_replication_slots s"
        " LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = s.active_pid"
        " WHERE s.slot_name = $1) x",
        conflicting, invalidation, since_17, two_phase_at);
    assert(n > 0 && n < SLOT_SQL_BYTES);
}

static void copy(char *out, size_t size, const PGresult *res, const char *column)
{
    snprintf(out, size, "%s", preflight_text(res, 0, column));
}

static void read_row(const PGresult *res, struct slot_info *s)
{
    s->logical = strcmp(preflight_text(res, 0, "slot_type"), "logical") == 0;
    copy(s->plugin, sizeof(s->plugin), res, "plugin");
    copy(s->database, sizeof(s->database), res, "database");
    s->active = preflight_bool(res, 0, "active");
    s->active_pid = (int)preflight_int(res, 0, "active_pid", 0);
    copy(s->holder, sizeof(s->holder), res, "holder");
    copy(s->wal_status, sizeof(s->wal_status), res, "wal_status");
    copy(s->invalidation, sizeof(s->invalidation), res, "invalidation");
    s->conflicting = preflight_bool(res, 0, "conflicting");
    s->failover = preflight_bool(res, 0, "failover");
    s->synced = preflight_bool(res, 0, "synced");
    s->two_phase = preflight_bool(res, 0, "two_phase");
    s->inactive_us = preflight_int(res, 0, "inactive_us", -1);
    s->safe_wal_bytes = preflight_int(res, 0, "safe_wal_size", -1);
    s->keep_bytes_max = preflight_int(res, 0, "keep_bytes", -1);
    s->idle_timeout_s = preflight_int(res, 0, "idle_timeout_s", 0);
    s->retained_bytes = preflight_int(res, 0, "retained", 0);
    s->lag_bytes = preflight_int(res, 0, "lag", 0);
    s->pinned_bytes = preflight_int(res, 0, "pinned", 0);
    lsn_parse(preflight_text(res, 0, "confirmed_flush_lsn"), &s->confirmed_flush);
    lsn_parse(preflight_text(res, 0, "restart_lsn"), &s->restart_lsn);
    lsn_parse(preflight_text(res, 0, "two_phase_at"), &s->two_phase_at);
    if (s->lag_bytes < 0)
        s->lag_bytes = 0; /* confirmed after the end was read */
}

enum status preflight_slot_read(PGconn *conn, const char *slot, struct slot_info *ret,
                                struct error *err)
{
    char sql[SLOT_SQL_BYTES];
    preflight_slot_sql(PQserverVersion(conn), sql);
    const char *params[] = {slot};
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st = preflight_query(conn, sql, 1, params, &res, err);
    if (st)
        return st;
    struct slot_info s = {.exists = PQntuples(res) > 0,
                          .safe_wal_bytes = -1,
                          .keep_bytes_max = -1,
                          .inactive_us = -1};
    if (s.exists)
        read_row(res, &s);
    *ret = s;
    return STATUS_OK;
}

/* Why the server may have given a slot up, and what keeps it from doing so again. */
static const struct {
    const char *reason; /* pg_replication_slots.invalidation_reason, PostgreSQL 17+ */
    const char *why;
    const char *mend;
} losses[] = {
    {"wal_removed",
     "the server removed WAL that the slot still needed, because more was kept for it than "
     "max_slot_wal_keep_size allows",
     "raise max_slot_wal_keep_size above the WAL that is written while this program is down"},
    {"idle_timeout", "nobody read it for longer than idle_replication_slot_timeout",
     "raise idle_replication_slot_timeout above the longest time this program is down"},
    {"rows_removed",
     "this is a standby, and the primary removed catalogue rows that the slot still needed",
     "set hot_standby_feedback = on here, and let it stream through a physical slot"},
    {"wal_level_insufficient",
     "this is a standby, and wal_level of the primary is no longer logical",
     "set wal_level = logical on the primary"},
};

bool preflight_slot_lost(const struct slot_info *s, char why[SLOT_LOSS_BYTES])
{
    const char *reason = s->invalidation;
    if (!*reason && strcmp(s->wal_status, "lost") == 0)
        reason = s->conflicting ? "rows_removed" : "wal_removed";
    if (!*reason && s->conflicting)
        reason = "rows_removed";
    if (!*reason)
        return false;
    char limits[128] = "";
    if (strcmp(reason, "wal_removed") == 0 && s->keep_bytes_max >= 0)
        snprintf(limits, sizeof(limits), " (now %" PRId64 " MB)", s->keep_bytes_max >> 20);
    if (strcmp(reason, "idle_timeout") == 0)
        snprintf(limits, sizeof(limits), " (now %" PRId64 " s)", s->idle_timeout_s);
    snprintf(why, SLOT_LOSS_BYTES, "it was invalidated: %.60s", reason);
    for (size_t i = 0; i < sizeof(losses) / sizeof(losses[0]); i++)
        if (strcmp(losses[i].reason, reason) == 0)
            snprintf(why, SLOT_LOSS_BYTES, "%s%s: %s", losses[i].why, limits, losses[i].mend);
    return true;
}

/* What makes a slot useless to us, or NULL. */
static const char *slot_defect(const struct preflight *p, const struct slot_info *s)
{
    if (!s->logical)
        return "it is a physical slot";
    if (strcmp(s->plugin, "pgoutput") != 0)
        return "its plug-in is not pgoutput";
    if (strcmp(s->database, PQdb(p->conn)) != 0)
        return "it belongs to another database";
    return NULL;
}

/* How near the end of what the server keeps for it the slot is, and what that end is. */
static void check_room_left(struct preflight *p, const struct slot_info *s)
{
    bool endangered = strcmp(s->wal_status, "unreserved") == 0;
    bool half = s->keep_bytes_max >= 0 && s->retained_bytes > s->keep_bytes_max / 2;
    bool much = s->keep_bytes_max < 0 && s->retained_bytes > SLOT_MUCH_BYTES;
    char limit[160];
    if (s->keep_bytes_max < 0)
        snprintf(limit, sizeof(limit),
                 "no limit (max_slot_wal_keep_size = -1): while nobody reads "
                 "the slot, WAL is kept until the disk is full");
    else
        snprintf(limit, sizeof(limit),
                 "max_slot_wal_keep_size = %" PRId64 " MB, lost after %" PRId64 " MB more",
                 s->keep_bytes_max >> 20, s->safe_wal_bytes > 0 ? s->safe_wal_bytes >> 20 : 0);
    struct check *c =
        preflight_add(p, "slot_wal", endangered || half || much ? CHECK_WARN : CHECK_OK,
                      "%" PRId64 " MB of WAL kept, wal_status %s; %s", s->retained_bytes >> 20,
                      s->wal_status, limit);
    if (endangered || half)
        preflight_fix(c,
                      "keep `warmpath run` running, or ALTER SYSTEM SET max_slot_wal_keep_size "
                      "= '%" PRId64 "MB'; SELECT pg_reload_conf();",
                      4 * (s->retained_bytes >> 20) + 1024);
    else if (much)
        preflight_fix(c,
                      "keep `warmpath run` running; if it will not run again: SELECT "
                      "pg_drop_replication_slot('%s');",
                      p->cfg->slot);
    if (s->idle_timeout_s > 0)
        preflight_add(p, "slot_idle_timeout", CHECK_OK,
                      "idle_replication_slot_timeout = %" PRId64
                      " s: the slot is lost when nobody reads it for so long",
                      s->idle_timeout_s);
}

/* A standby that is promoted has the slot only if the primary was told to send it there. */
static void check_failover(struct preflight *p, const struct slot_info *s)
{
    if (p->version < 170000 || !p->cfg->failover || s->failover || s->synced)
        return;
    struct check *c = preflight_add(p, "slot_failover", CHECK_WARN,
                                    "slot \"%s\" was made without FAILOVER: a promoted standby "
                                    "will not have it",
                                    p->cfg->slot);
    preflight_fix(c,
                  "stop warmpath, then on a replication connection: ALTER_REPLICATION_SLOT %s "
                  "(FAILOVER true); or set source.failover to false",
                  preflight_quote(p->cfg->slot).text);
}

static void check_holder(struct preflight *p, const struct slot_info *s)
{
    if (!s->active)
        return;
    struct check *c = preflight_add(p, "slot_holder", CHECK_WARN, "slot \"%s\" is being read by %s",
                                    p->cfg->slot, s->holder);
    preflight_fix(c,
                  "fine if that is the running instance; otherwise stop it, or: SELECT "
                  "pg_terminate_backend(%d);",
                  s->active_pid);
}

enum status preflight_check_slot(struct preflight *p, struct error *err)
{
    const char *slot = p->cfg->slot;
    struct slot_info s;
    enum status st = preflight_slot_read(p->conn, slot, &s, err);
    if (st)
        return st;
    if (!s.exists) {
        struct check *c = preflight_add(p, "slot", p->cfg->create ? CHECK_OK : CHECK_FAIL,
                                        "slot \"%s\" does not exist%s", slot,
                                        p->cfg->create ? " yet; `warmpath run` creates it" : "");
        if (!p->cfg->create)
            preflight_fix(c, "SELECT pg_create_logical_replication_slot('%s', 'pgoutput');", slot);
        return STATUS_OK;
    }
    const char *defect = slot_defect(p, &s);
    if (defect) {
        struct check *c =
            preflight_add(p, "slot", CHECK_FAIL, "slot \"%s\" cannot be used: %s", slot, defect);
        preflight_fix(c,
                      "name another slot in source.slot, or drop this one if nobody needs it: "
                      "SELECT pg_drop_replication_slot('%s');",
                      slot);
        return STATUS_OK;
    }
    char why[SLOT_LOSS_BYTES];
    if (preflight_slot_lost(&s, why)) {
        struct check *c =
            preflight_add(p, "slot_lost", CHECK_FAIL, "slot \"%s\" is lost: %s", slot, why);
        preflight_fix(c, "what was committed meanwhile is no longer in the WAL: begin anew with "
                         "source.on_slot_lost: rebuild, or as docs/OPERATIONS.md says under \"When "
                         "the slot is lost\"");
        return STATUS_OK;
    }
    preflight_add(p, "slot", CHECK_OK,
                  "slot \"%s\": confirmed " LSN_FMT ", restart " LSN_FMT " (%" PRId64
                  " MB before it), %" PRId64 " MB behind the end of the WAL",
                  slot, LSN_ARGS(s.confirmed_flush), LSN_ARGS(s.restart_lsn), s.pinned_bytes >> 20,
                  s.lag_bytes >> 20);
    check_room_left(p, &s);
    check_failover(p, &s);
    check_holder(p, &s);
    return preflight_check_pins(p, &s, err);
}

/* 57014 after statement_timeout: something older than the slot has not ended. */
enum status preflight_slot_blocked(PGconn *conn, const char *slot, struct error *err)
{
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st = preflight_query(
        conn,
        "SELECT who FROM (SELECT 'pid ' || pid || ' (' || coalesce(application_name, '') ||"
        " '), open since ' || xact_start AS who, xact_start AS since"
        " FROM pg_catalog.pg_stat_activity"
        " WHERE backend_xid IS NOT NULL AND pid <> pg_catalog.pg_backend_pid()"
        " UNION ALL SELECT 'prepared transaction \"' || gid || '\" since ' || prepared, prepared"
        " FROM pg_catalog.pg_prepared_xacts) x ORDER BY since NULLS FIRST LIMIT 1",
        0, NULL, &res, err);
    if (st)
        return st;
    const char *who = preflight_text(res, 0, "who");
    return error_set(err, STATUS_REFUSED,
                     "could not create slot \"%s\": it waits for older transactions to end, the "
                     "oldest is %s; end it and start again",
                     slot, *who ? who : "not visible to this role");
}

enum status preflight_slot_create(PGconn *conn, const char *slot, bool failover, int64_t timeout_us,
                                  lsn_t *ret_consistent_point, struct error *err)
{
    const char *sql =
        failover && PQserverVersion(conn) >= 170000
            ? "SELECT lsn FROM pg_catalog.pg_create_logical_replication_slot($1, 'pgoutput', "
              "false, false, NOT pg_catalog.pg_is_in_recovery())"
            : "SELECT lsn FROM pg_catalog.pg_create_logical_replication_slot($1, 'pgoutput')";
    char limit[96];
    snprintf(limit, sizeof(limit), "SET statement_timeout = %" PRId64, timeout_us / 1000);
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st = preflight_query(conn, limit, 0, NULL, &res, err);
    if (st)
        return st;

    const char *params[] = {slot};
    CLEANUP(PQclearp) PGresult *created = pg_run(conn, sql, 1, params);
    lsn_t lsn = LSN_INVALID;
    if (pg_succeeded(created))
        st = lsn_parse(preflight_text(created, 0, "lsn"), &lsn)
                 ? STATUS_OK
                 : error_set(err, STATUS_PROTOCOL, "malformed LSN of a new slot");
    else if (strcmp(pg_sqlstate(created), "57014") == 0)
        st = preflight_slot_blocked(conn, slot, err);
    else
        st = pg_source_error(err, conn, created, "could not create the replication slot");

    CLEANUP(PQclearp) PGresult *back = NULL;
    enum status restored =
        preflight_query(conn, PREFLIGHT_STATEMENT_TIMEOUT, 0, NULL, &back, st ? NULL : err);
    if (st)
        return st;
    if (restored)
        return restored;
    *ret_consistent_point = lsn;
    return STATUS_OK;
}
