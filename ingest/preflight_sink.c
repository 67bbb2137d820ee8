/* Checks of the cache tables: that they are there, and that the sink's role may do its work. */
#include "ingest/preflight_internal.h"

#include <stdio.h>
#include <string.h>

static const char *const cache_tables[] = {
    "strategic_memory_health",        "strategic_character_performance",
    "strategic_personality_profiles", "strategic_conversation_patterns",
    "strategic_memory_behavior",      "strategic_engagement_opportunities",
};

/*
 * What the program does with each of its tables, and deploy/roles.sql therefore grants. Tables that
 * are not there are not asked for: that they are missing is said elsewhere. $1: the role's search
 * path decides which one is meant; a schema that may not be used drops out of it silently.
 */
static const char rights_sql[] =
    "WITH need (name, rights) AS (VALUES"
    " ('strategic_memory_health', 'SELECT, INSERT, UPDATE, DELETE'),"
    " ('strategic_character_performance', 'SELECT, INSERT, UPDATE, DELETE'),"
    " ('strategic_personality_profiles', 'SELECT, INSERT, UPDATE, DELETE'),"
    " ('strategic_conversation_patterns', 'SELECT, INSERT, UPDATE, DELETE'),"
    " ('strategic_memory_behavior', 'SELECT, INSERT, UPDATE, DELETE'),"
    " ('strategic_engagement_opportunities', 'SELECT, INSERT, UPDATE, DELETE'),"
    " ('strategic_key_activity', 'SELECT, INSERT, UPDATE, DELETE'),"
    " ('strategic_bot_epoch', 'SELECT, INSERT, UPDATE'),"
    " ('strategic_processor', 'SELECT, INSERT, UPDATE'),"
    " ('strategic_progress', 'SELECT, INSERT, UPDATE'),"
    " ('strategic_lease', 'SELECT, INSERT, UPDATE'),"
    " ('strategic_epoch', 'SELECT, INSERT, UPDATE'),"
    " ('strategic_rebuild', 'SELECT, INSERT, UPDATE'),"
    " ('strategic_request', 'SELECT, DELETE'),"
    " ('strategic_source', 'SELECT, INSERT, UPDATE'),"
    " ('strategic_erasure', 'SELECT'),"
    " ('strategic_migrations', 'SELECT')),"
    " path AS (SELECT trim(BOTH ' \"' FROM s) AS schema, ord FROM pg_catalog.unnest("
    "   pg_catalog.string_to_array(pg_catalog.current_setting('search_path'), ','))"
    "   WITH ORDINALITY AS t (s, ord))"
    " SELECT f.schema, need.name, f.may_use, current_user AS role,"
    " (SELECT pg_catalog.string_agg(r, ', ' ORDER BY ord)"
    "   FROM pg_catalog.unnest(pg_catalog.string_to_array(need.rights, ', '))"
    "   WITH ORDINALITY AS w (r, ord)"
    "   WHERE NOT pg_catalog.has_table_privilege(f.oid, r)) AS lacking"
    " FROM need, LATERAL (SELECT c.oid, n.nspname AS schema,"
    "   pg_catalog.has_schema_privilege(n.oid, 'USAGE') AS may_use"
    "   FROM path JOIN pg_catalog.pg_namespace n ON n.nspname = CASE path.schema"
    "     WHEN '$user' THEN current_user ELSE path.schema END"
    "   JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = need.name"
    "   ORDER BY path.ord LIMIT 1) f"
    " ORDER BY f.may_use, need.name";

static enum status check_present(struct preflight *p, PGconn *conn, struct error *err)
{
    const char *const *tables = p->cfg->sink_tables ? p->cfg->sink_tables : cache_tables;
    size_t n = p->cfg->sink_tables ? p->cfg->n_sink_tables
                                   : sizeof(cache_tables) / sizeof(cache_tables[0]);
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

/* *ret_usable: the schema can be looked into; when not, tables only seem to be missing. */
static enum status check_rights(struct preflight *p, PGconn *conn, bool *ret_usable,
                                struct error *err)
{
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st = preflight_query(conn, rights_sql, 0, NULL, &res, err);
    if (st)
        return st;
    struct preflight_name role = preflight_quote(preflight_text(res, 0, "role"));
    *ret_usable = true;
    bool ok = true;
    for (int i = 0; i < PQntuples(res); i++) {
        const char *schema = preflight_text(res, i, "schema");
        const char *table = preflight_text(res, i, "name");
        const char *lacking = preflight_text(res, i, "lacking");
        if (!preflight_bool(res, i, "may_use")) {
            struct check *c = preflight_add(
                p, "cache_rights", CHECK_FAIL,
                "role %s may not use schema \"%s\", where the cache tables are", role.text, schema);
            preflight_fix(c, "GRANT USAGE ON SCHEMA %s TO %s;", preflight_quote(schema).text,
                          role.text);
            *ret_usable = false;
            return STATUS_OK;
        }
        if (!*lacking)
            continue;
        ok = false;
        struct check *c = preflight_add(p, "cache_rights", CHECK_FAIL, "role %s lacks %s on %s",
                                        role.text, lacking, table);
        preflight_fix(c, "GRANT %s ON %s TO %s;", lacking,
                      preflight_quote_table(schema, table).text, role.text);
    }
    if (ok && PQntuples(res) > 0)
        preflight_add(p, "cache_rights", CHECK_OK, "role %s may read and write them", role.text);
    return STATUS_OK;
}

enum status preflight_check_sink(struct preflight *p, struct error *err)
{
    CLEANUP(PQfinishp) PGconn *own = NULL;
    PGconn *conn = p->conn;
    if (p->cfg->sink_conninfo) {
        struct error why;
        if (preflight_connect(p->cfg->sink_conninfo, &own, &why)) {
            struct check *c = preflight_add(p, "cache_tables", CHECK_FAIL, "%.500s", why.text);
            preflight_connect_fix(c, p->cfg->sink_conninfo, "sink.conninfo", &why);
            return STATUS_OK;
        }
        conn = own;
    }
    bool usable = false;
    enum status st = check_rights(p, conn, &usable, err);
    return st || !usable ? st : check_present(p, conn, err);
}
