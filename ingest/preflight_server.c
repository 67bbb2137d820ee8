/* Checks of the server as a whole, of the slot, and of the cache tables. */
#include "ingest/preflight_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define VERSION_MIN    140000
#define VERSION_TESTED 190000

/* output_plugin_libraries can only be seen by a role with pg_read_all_settings, and asking for it
 * by current_setting() is an error for others; the view just leaves it out. */
static const char settings_sql[] =
    "SELECT pg_catalog.current_setting('wal_level') AS wal_level,"
    " pg_catalog.current_setting('max_replication_slots')::int AS max_slots,"
    " (SELECT count(*) FROM pg_catalog.pg_replication_slots) AS used_slots,"
    " EXISTS (SELECT FROM pg_catalog.pg_replication_slots WHERE slot_name = $1) AS slot_exists,"
    " pg_catalog.current_setting('max_wal_senders')::int AS max_senders,"
    " (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'walsender')"
    "   AS used_senders,"
    " pg_catalog.current_setting('synchronous_commit') AS synchronous_commit,"
    " pg_catalog.current_setting('synchronous_standby_names') AS synchronous_standby_names,"
    " pg_catalog.current_setting('server_encoding') AS encoding,"
    " (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'output_plugin_libraries')"
    "   AS plugins,"
    " current_user AS role,"
    " (SELECT rolreplication OR rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)"
    "   OR EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = 'rds_replication'"
    "              AND pg_catalog.pg_has_role(current_user, r.oid, 'member')) AS may_replicate";

static void check_version(struct preflight *p)
{
    int major = p->version / 10000;
    if (p->version < VERSION_MIN) {
        struct check *c = preflight_add(p, "server_version", CHECK_FAIL, "PostgreSQL %d", major);
        preflight_fix(c, "upgrade the server to PostgreSQL 14 or later");
    } else if (p->version >= VERSION_TESTED) {
        preflight_add(p, "server_version", CHECK_WARN, "PostgreSQL %d is newer than what is tested",
                      major);
    } else {
        preflight_add(p, "server_version", CHECK_OK, "PostgreSQL %d.%d", major, p->version % 10000);
    }
}

static void check_wal_level(struct preflight *p, const PGresult *res)
{
    const char *level = preflight_text(res, 0, "wal_level");
    bool ok = strcmp(level, "logical") == 0;
    struct check *c =
        preflight_add(p, "wal_level", ok ? CHECK_OK : CHECK_FAIL, "wal_level = %s", level);
    if (!ok)
        preflight_fix(c, "ALTER SYSTEM SET wal_level = 'logical'; -- then restart the server");
}

/* slots and WAL senders: what is configured, what is in use, what we still need. */
static void check_room(struct preflight *p, const PGresult *res, const char *name,
                       const char *setting, const char *max_column, const char *used_column,
                       bool have_ours)
{
    int64_t max = preflight_int(res, 0, max_column, 0);
    int64_t used = preflight_int(res, 0, used_column, 0);
    bool ok = have_ours || used < max;
    struct check *c = preflight_add(p, name, ok ? CHECK_OK : CHECK_FAIL,
                                    "%" PRId64 " of %s = %" PRId64 " in use%s", used, setting, max,
                                    have_ours ? ", one of them ours" : "");
    if (!ok)
        preflight_fix(c, "ALTER SYSTEM SET %s = %" PRId64 "; -- then restart the server", setting,
                      used + 5);
}

static void check_role(struct preflight *p, const PGresult *res)
{
    const char *role = preflight_text(res, 0, "role");
    bool ok = preflight_bool(res, 0, "may_replicate");
    struct check *c =
        preflight_add(p, "replication_role", ok ? CHECK_OK : CHECK_FAIL, "role \"%s\" %s", role,
                      ok ? "may replicate" : "may not replicate");
    if (!ok)
        preflight_fix(c, "ALTER ROLE %s REPLICATION;", preflight_quote(role).text);
}

static void check_plugins(struct preflight *p, const PGresult *res)
{
    const char *plugins = preflight_text(res, 0, "plugins");
    if (!*plugins)
        return; /* unknown to this server, or not shown to this role */
    bool ok = strstr(plugins, "pgoutput") != NULL;
    struct check *c = preflight_add(p, "output_plugin_libraries", ok ? CHECK_OK : CHECK_FAIL,
                                    "output_plugin_libraries = %s", plugins);
    if (!ok)
        preflight_fix(c, "ALTER SYSTEM SET output_plugin_libraries = 'pgoutput', ...; "
                         "SELECT pg_reload_conf();");
}

static void check_commit(struct preflight *p, const PGresult *res)
{
    const char *sync = preflight_text(res, 0, "synchronous_commit");
    const char *names = preflight_text(res, 0, "synchronous_standby_names");
    bool off = strcmp(sync, "off") == 0;
    struct check *c = preflight_add(p, "synchronous_commit", off ? CHECK_WARN : CHECK_OK,
                                    "synchronous_commit = %s%s", sync,
                                    off ? ": a crash of the server can lose cache rows that were "
                                          "reported as written, until their next refresh"
                                        : "");
    if (off)
        preflight_fix(c, "ALTER ROLE %s SET synchronous_commit = 'on';",
                      preflight_quote(preflight_text(res, 0, "role")).text);
    bool waits = strchr(names, '*') || strstr(names, "warmpath");
    if (!*names)
        return;
    c = preflight_add(p, "synchronous_standby_names", waits ? CHECK_WARN : CHECK_OK,
                      "synchronous_standby_names = %.300s%s", names,
                      waits ? ": commits of the application may wait for this program" : "");
    if (waits)
        preflight_fix(c, "name the real standbys in synchronous_standby_names");
}

enum status preflight_check_server(struct preflight *p, struct error *err)
{
    const char *params[] = {p->cfg->slot};
    CLEANUP(PQclearp) PGresult *res = NULL;
    check_version(p);
    enum status st = preflight_query(p->conn, settings_sql, 1, params, &res, err);
    if (st)
        return st;
    bool have_slot = preflight_bool(res, 0, "slot_exists");
    check_wal_level(p, res);
    check_room(p, res, "replication_slots", "max_replication_slots", "max_slots", "used_slots",
               have_slot);
    check_room(p, res, "wal_senders", "max_wal_senders", "max_senders", "used_senders", false);
    check_role(p, res);
    check_plugins(p, res);
    check_commit(p, res);
    if (strcmp(preflight_text(res, 0, "encoding"), "SQL_ASCII") == 0)
        preflight_add(p, "encoding", CHECK_WARN,
                      "the database is SQL_ASCII: rows that are not UTF-8 become dead letters");
    return STATUS_OK;
}

enum status preflight_slot_read(PGconn *conn, const char *slot, struct slot_info *ret,
                                struct error *err)
{
    /* Column names are built from literals below, never from input. */
    const int version = PQserverVersion(conn);
    const char *invalidation = "NULL::text";
    if (version >= 170000)
        invalidation = "s.invalidation_reason";
    else if (version >= 160000)
        invalidation = "CASE WHEN s.conflicting THEN 'conflict with recovery' END";
    char sql[1400];
    snprintf(sql, sizeof(sql),
             "SELECT s.slot_type, s.plugin, s.database, s.active, s.active_pid,"
             " s.confirmed_flush_lsn, s.restart_lsn, s.wal_status, s.safe_wal_size,"
             " %s AS invalidation,"
             " pg_catalog.pg_wal_lsn_diff(CASE WHEN pg_catalog.pg_is_in_recovery()"
             "   THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_lsn() END,"
             "   s.restart_lsn)::bigint AS retained,"
             " 'pid ' || s.active_pid || coalesce(', application \"' || a.application_name || '\"',"
             "   '') || coalesce(', role \"' || a.usename || '\"', '')"
             "   || coalesce(', from ' || a.client_addr, '')"
             "   || coalesce(', since ' || to_char(a.backend_start AT TIME ZONE 'UTC',"
             "      'YYYY-MM-DD HH24:MI:SS\"Z\"'), '') AS holder"
             " FROM pg_catalog.pg_replication_slots s"
             " LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = s.active_pid"
             " WHERE s.slot_name = $1",
             invalidation);
    const char *params[] = {slot};
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st = preflight_query(conn, sql, 1, params, &res, err);
    if (st)
        return st;

    struct slot_info s = {.exists = PQntuples(res) > 0, .safe_wal_bytes = -1};
    if (s.exists) {
        s.logical = strcmp(preflight_text(res, 0, "slot_type"), "logical") == 0;
        snprintf(s.plugin, sizeof(s.plugin), "%s", preflight_text(res, 0, "plugin"));
        snprintf(s.database, sizeof(s.database), "%s", preflight_text(res, 0, "database"));
        s.active = preflight_bool(res, 0, "active");
        s.active_pid = (int)preflight_int(res, 0, "active_pid", 0);
        snprintf(s.holder, sizeof(s.holder), "%s", preflight_text(res, 0, "holder"));
        snprintf(s.wal_status, sizeof(s.wal_status), "%s", preflight_text(res, 0, "wal_status"));
        snprintf(s.invalidation, sizeof(s.invalidation), "%s",
                 preflight_text(res, 0, "invalidation"));
        s.safe_wal_bytes = preflight_int(res, 0, "safe_wal_size", -1);
        s.retained_bytes = preflight_int(res, 0, "retained", 0);
        lsn_parse(preflight_text(res, 0, "confirmed_flush_lsn"), &s.confirmed_flush);
        lsn_parse(preflight_text(res, 0, "restart_lsn"), &s.restart_lsn);
    }
    *ret = s;
    return STATUS_OK;
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
    if (strcmp(s->wal_status, "lost") == 0)
        return "it is lost: WAL it needs was removed (max_slot_wal_keep_size)";
    if (*s->invalidation)
        return "it was invalidated";
    return NULL;
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
        struct check *c = preflight_add(p, "slot", CHECK_FAIL, "slot \"%s\" cannot be used: %s%s%s",
                                        slot, defect, *s.invalidation ? ": " : "", s.invalidation);
        preflight_fix(c,
                      "SELECT pg_drop_replication_slot('%s'); -- then `warmpath rebuild`: what "
                      "was committed meanwhile is no longer in the WAL",
                      slot);
        return STATUS_OK;
    }
    bool endangered = strcmp(s.wal_status, "unreserved") == 0;
    struct check *c = preflight_add(p, "slot", endangered ? CHECK_WARN : CHECK_OK,
                                    "slot \"%s\": confirmed " LSN_FMT ", restart " LSN_FMT
                                    ", wal_status %s, %" PRId64 " MiB of WAL kept",
                                    slot, LSN_ARGS(s.confirmed_flush), LSN_ARGS(s.restart_lsn),
                                    s.wal_status, s.retained_bytes >> 20);
    if (endangered)
        preflight_fix(c, "start `warmpath run` now, or ALTER SYSTEM SET max_slot_wal_keep_size = "
                         "'-1'; SELECT pg_reload_conf();");
    if (s.active) {
        c = preflight_add(p, "slot_holder", CHECK_WARN, "slot \"%s\" is being read by %s", slot,
                          s.holder);
        preflight_fix(c,
                      "fine if that is the running instance; otherwise stop it, or: SELECT "
                      "pg_terminate_backend(%d);",
                      s.active_pid);
    }
    return STATUS_OK;
}

/* 57014 after statement_timeout: something older than the slot has not ended. */
static enum status slot_blocked(PGconn *conn, const char *slot, struct error *err)
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

enum status preflight_slot_create(PGconn *conn, const char *slot, int64_t timeout_us,
                                  lsn_t *ret_consistent_point, struct error *err)
{
    /* From version 17 a slot can be kept on the standbys, for a failover. */
    const char *sql =
        PQserverVersion(conn) >= 170000
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
        st = slot_blocked(conn, slot, err);
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

static const char *const cache_tables[] = {
    "strategic_memory_health",        "strategic_character_performance",
    "strategic_personality_profiles", "strategic_conversation_patterns",
    "strategic_memory_behavior",      "strategic_engagement_opportunities",
};

enum status preflight_check_sink(struct preflight *p, struct error *err)
{
    const char *const *tables = p->cfg->sink_tables ? p->cfg->sink_tables : cache_tables;
    size_t n = p->cfg->sink_tables ? p->cfg->n_sink_tables
                                   : sizeof(cache_tables) / sizeof(cache_tables[0]);
    CLEANUP(PQfinishp) PGconn *own = NULL;
    PGconn *conn = p->conn;
    if (p->cfg->sink_conninfo) {
        struct error why;
        if (preflight_connect(p->cfg->sink_conninfo, &own, &why)) {
            struct check *c = preflight_add(p, "cache_tables", CHECK_FAIL, "%.500s", why.text);
            preflight_fix(c, "correct sink.conninfo, or start that server");
            return STATUS_OK;
        }
        conn = own;
    }
    CLEANUP(pg_array_deinit) struct pg_array names;
    pg_array_init(&names, 16384);
    enum status st = preflight_array(tables, n, &names);
    if (st)
        return error_set(err, st, "too many cache tables");
    const char *params[] = {names.buf.data};
    CLEANUP(PQclearp) PGresult *res = NULL;
    st = preflight_query(conn,
                         "SELECT pg_catalog.string_agg(t, ', ') AS missing"
                         " FROM pg_catalog.unnest($1::text[]) t"
                         " WHERE pg_catalog.to_regclass(pg_catalog.quote_ident(t)) IS NULL",
                         1, params, &res, err);
    if (st)
        return st;
    const char *missing = preflight_text(res, 0, "missing");
    struct check *c = preflight_add(p, "cache_tables", *missing ? CHECK_FAIL : CHECK_OK, "%s%.400s",
                                    *missing ? "missing: " : "all present", missing);
    if (*missing)
        preflight_fix(c, "warmpath migrate up");
    return STATUS_OK;
}
