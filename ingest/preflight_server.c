/* Checks of the server as a whole. */
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
    /* Who has it off besides us: roles and databases with a setting of their own. */
    " (SELECT pg_catalog.string_agg(coalesce('role \"' || r.rolname || '\"', 'every role')"
    "    || coalesce(' in database \"' || d.datname || '\"', ''), ', ' ORDER BY r.rolname)"
    "   FROM pg_catalog.pg_db_role_setting o"
    "   LEFT JOIN pg_catalog.pg_roles r ON r.oid = o.setrole"
    "   LEFT JOIN pg_catalog.pg_database d ON d.oid = o.setdatabase"
    "   WHERE 'synchronous_commit=off' = ANY (o.setconfig)"
    "   AND (o.setdatabase = 0 OR d.datname = pg_catalog.current_database())) AS asynchronous,"
    " (SELECT setting || ' ' || unit FROM pg_catalog.pg_settings WHERE name = 'wal_writer_delay')"
    "   AS wal_writer_delay,"
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

bool preflight_list_has(const char *list, const char *name)
{
    size_t len = strlen(name);
    bool quoted = false;
    bool item_begins = true;
    for (const char *c = list; *c; c++) {
        if (item_begins && *c == ' ')
            continue;
        const char *word = *c == '"' ? c + 1 : c;
        /* In the second string strchr() finds the end of the list as well. */
        const char *ends = *c == '"' ? "\"" : ", ";
        if (item_begins && strncmp(word, name, len) == 0 && strchr(ends, word[len]) &&
            (word[len] || word == c))
            return true;
        quoted ^= *c == '"';
        item_begins = *c == ',' && !quoted;
    }
    return false;
}

static void check_plugins(struct preflight *p, const PGresult *res)
{
    const char *plugins = preflight_text(res, 0, "plugins");
    if (!*plugins)
        return; /* unknown to this server, or not shown to this role */
    bool ok = preflight_list_has(plugins, "pgoutput");
    bool one_name = !ok && strstr(plugins, "pgoutput");
    struct check *c = preflight_add(
        p, "output_plugin_libraries", ok ? CHECK_OK : CHECK_FAIL, "output_plugin_libraries = %s%s",
        plugins, one_name ? ": quoted as a whole, the list is one name, and allows nothing" : "");
    if (!ok)
        preflight_fix(c, "ALTER SYSTEM SET output_plugin_libraries = 'pgoutput', 'test_decoding'; "
                         "SELECT pg_reload_conf();");
}

static void check_commit(struct preflight *p, const PGresult *res)
{
    const char *sync = preflight_text(res, 0, "synchronous_commit");
    const char *others = preflight_text(res, 0, "asynchronous");
    bool off = strcmp(sync, "off") == 0;
    struct check *c = preflight_add(p, "synchronous_commit", off ? CHECK_WARN : CHECK_OK,
                                    "synchronous_commit = %s%s", sync,
                                    off ? ": a crash of the server can lose cache rows that were "
                                          "reported as written, until their next refresh"
                                        : "");
    if (off)
        preflight_fix(c, "ALTER ROLE %s SET synchronous_commit = 'on';",
                      preflight_quote(preflight_text(res, 0, "role")).text);
    if (!*others)
        return;
    c = preflight_add(
        p, "asynchronous_commits", CHECK_WARN,
        "synchronous_commit is off for %.300s: their changes reach the slot only when "
        "the WAL writer has flushed them, up to 3 times %s later",
        others, preflight_text(res, 0, "wal_writer_delay"));
    preflight_fix(c, "nothing is lost by that; for fresher rows set synchronous_commit = 'on' for "
                     "the application's role, or shorten wal_writer_delay");
}

/* Who waits for whom: commits of the application must not wait for us. */
static void check_standbys(struct preflight *p, const PGresult *res)
{
    const char *names = preflight_text(res, 0, "synchronous_standby_names");
    bool waits = strchr(names, '*') || strstr(names, "warmpath");
    if (!*names)
        return;
    struct check *c =
        preflight_add(p, "synchronous_standby_names", waits ? CHECK_WARN : CHECK_OK,
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
    check_standbys(p, res);
    if (strcmp(preflight_text(res, 0, "encoding"), "SQL_ASCII") == 0)
        preflight_add(p, "encoding", CHECK_WARN,
                      "the database is SQL_ASCII: rows that are not UTF-8 become dead letters");
    return STATUS_OK;
}
