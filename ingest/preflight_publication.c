/* The publication: what it must contain, what it must not, and creating it. */
#include "ingest/preflight_internal.h"

#include <stdlib.h>
#include <string.h>

enum status preflight_publication_read(PGconn *conn, const char *publication,
                                       struct publication_info *ret, struct error *err)
{
    const char *params[] = {publication};
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st =
        preflight_query(conn,
                        "SELECT puballtables, pubinsert, pubupdate, pubdelete, pubtruncate,"
                        " pubviaroot FROM pg_catalog.pg_publication WHERE pubname = $1",
                        1, params, &res, err);
    if (st)
        return st;
    if (PQntuples(res) == 0) {
        *ret = (struct publication_info){false, false, true, true, true, true, true};
        return STATUS_OK;
    }
    *ret = (struct publication_info){
        .exists = true,
        .all_tables = preflight_bool(res, 0, "puballtables"),
        .insert = preflight_bool(res, 0, "pubinsert"),
        .update = preflight_bool(res, 0, "pubupdate"),
        .delete = preflight_bool(res, 0, "pubdelete"),
        .truncate = preflight_bool(res, 0, "pubtruncate"),
        .via_root = preflight_bool(res, 0, "pubviaroot"),
    };
    return STATUS_OK;
}

/* "s"."a", "s"."b" */
static enum status table_list(const struct mapping_set *set, struct buf *out)
{
    enum status st = STATUS_OK;
    for (size_t i = 0; i < set->n && !st; i++) {
        const struct mapping *m = &set->tables[i];
        if (mapping_find(set, str_from(m->schema), str_from(m->table)) != m)
            continue; /* listed already */
        struct preflight_name name = preflight_quote_table(m->schema, m->table);
        st = buf_printf(out, "%s%s", i ? ", " : "", name.text);
    }
    return st;
}

static enum status create_sql(const struct preflight_config *cfg, struct buf *sql)
{
    enum status st =
        buf_printf(sql, "CREATE PUBLICATION %s FOR TABLE ", preflight_quote(cfg->publication).text);
    if (!st)
        st = table_list(cfg->mappings, sql);
    if (!st)
        st = buf_append_str(sql, STR(" WITH (publish = 'insert, update, delete, truncate', "
                                     "publish_via_partition_root = true);"));
    return st ? st : buf_append(sql, "", 1);
}

static void fix_set_table(struct preflight *p, struct check *c)
{
    CLEANUP(buf_deinit) struct buf list;
    buf_init(&list, 8192);
    if (table_list(p->cfg->mappings, &list) == STATUS_OK)
        preflight_fix(c, "ALTER PUBLICATION %s SET TABLE %.*s;",
                      preflight_quote(p->cfg->publication).text, (int)list.len, list.data);
}

/* One mapped table in the publication. Column lists and row filters exist from PostgreSQL 15. */
static enum status check_published(struct preflight *p, const struct mapping *m,
                                   const struct publication_info *pub, struct error *err)
{
    static const char plain[] = "SELECT NULL::text AS not_listed, false AS filtered"
                                " FROM pg_catalog.pg_publication_tables"
                                " WHERE pubname = $1 AND schemaname = $2 AND tablename = $3"
                                " AND $4::text[] IS NOT NULL";
    static const char with_lists[] =
        "SELECT (SELECT pg_catalog.string_agg(c, ', ') FROM pg_catalog.unnest($4::text[]) c"
        "  WHERE NOT c = ANY (attnames::text[]) AND EXISTS (SELECT FROM pg_catalog.pg_attribute a"
        "    WHERE a.attrelid = pg_catalog.format('%I.%I', $2::text, $3::text)::pg_catalog.regclass"
        "    AND a.attname = c)) AS not_listed, rowfilter IS NOT NULL AS filtered"
        " FROM pg_catalog.pg_publication_tables"
        " WHERE pubname = $1 AND schemaname = $2 AND tablename = $3";
    struct mapping_column mapped[MAPPING_COLUMNS_MAX];
    const char *names[MAPPING_COLUMNS_MAX];
    size_t n = mapping_columns(m, mapped);
    for (size_t i = 0; i < n; i++)
        names[i] = mapped[i].name;
    CLEANUP(pg_array_deinit) struct pg_array columns;
    pg_array_init(&columns, 8192);
    enum status st = preflight_array(names, n, &columns);
    if (st)
        return error_set(err, st, "too many mapped columns");
    const char *params[] = {p->cfg->publication, m->schema, m->table, columns.buf.data};
    CLEANUP(PQclearp) PGresult *res = NULL;
    st = preflight_query(p->conn, p->version >= 150000 ? with_lists : plain, 4, params, &res, err);
    if (st)
        return st;

    struct preflight_name name = preflight_quote_table(m->schema, m->table);
    struct preflight_name publication = preflight_quote(p->cfg->publication);
    if (PQntuples(res) == 0) {
        struct check *c =
            preflight_add(p, "publication_tables", CHECK_FAIL,
                          "publication \"%s\" does not send table %s%s", p->cfg->publication,
                          name.text, pub->via_root ? "" : " (or only under its partitions' names)");
        if (!pub->via_root)
            preflight_fix(c, "ALTER PUBLICATION %s SET (publish_via_partition_root = true); ",
                          publication.text);
        preflight_fix(c, "ALTER PUBLICATION %s ADD TABLE %s;", publication.text, name.text);
        return STATUS_OK;
    }
    const char *not_listed = preflight_text(res, 0, "not_listed");
    if (*not_listed) {
        struct check *c =
            preflight_add(p, "publication_tables", CHECK_FAIL,
                          "the column list of table %s leaves out %.200s", name.text, not_listed);
        fix_set_table(p, c);
    }
    if (preflight_bool(res, 0, "filtered"))
        preflight_add(p, "publication_tables", CHECK_WARN,
                      "table %s is sent with a row filter: rows it leaves out are not counted",
                      name.text);
    return STATUS_OK;
}

/* Tables that are sent but not mapped: the cache's own would feed its output back into its input.
 */
static enum status check_others(struct preflight *p, struct error *err)
{
    const char *params[] = {p->cfg->publication};
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st = preflight_query(p->conn,
                                     "SELECT schemaname, tablename,"
                                     " tablename LIKE 'strategic\\_%' AS ours"
                                     " FROM pg_catalog.pg_publication_tables WHERE pubname = $1"
                                     " ORDER BY 3 DESC, 1, 2",
                                     1, params, &res, err);
    if (st)
        return st;
    for (int i = 0; i < PQntuples(res); i++) {
        const char *schema = preflight_text(res, i, "schemaname");
        const char *table = preflight_text(res, i, "tablename");
        bool ours = preflight_bool(res, i, "ours");
        if (!ours && mapping_find(p->cfg->mappings, str_from(schema), str_from(table)))
            continue;
        struct check *c = preflight_add(
            p, ours ? "publication_cache_tables" : "publication_tables",
            ours ? CHECK_FAIL : CHECK_WARN, "publication \"%s\" sends table \"%s.%s\", %s",
            p->cfg->publication, schema, table,
            ours ? "which this program writes: its output would become its input"
                 : "which is not mapped: it costs decoding and is ignored");
        fix_set_table(p, c);
        return STATUS_OK; /* one is enough to say what to do */
    }
    return STATUS_OK;
}

static void check_kinds(struct preflight *p, const struct publication_info *pub)
{
    const char *publication = p->cfg->publication;
    struct check *c = NULL;
    if (pub->all_tables) {
        c = preflight_add(p, "publication", CHECK_FAIL,
                          "publication \"%s\" is FOR ALL TABLES: the cache's own tables are in it",
                          publication);
        preflight_fix(c, "DROP PUBLICATION %s; ", preflight_quote(publication).text);
        CLEANUP(buf_deinit) struct buf sql;
        buf_init(&sql, 8192);
        if (create_sql(p->cfg, &sql) == STATUS_OK)
            preflight_fix(c, "%s -- a slot made before it must be made again", sql.data);
        return;
    }
    if (!pub->insert) {
        c = preflight_add(p, "publication", CHECK_FAIL, "publication \"%s\" sends no inserts",
                          publication);
        preflight_fix(c, "ALTER PUBLICATION %s SET (publish = 'insert, update, delete, truncate');",
                      preflight_quote(publication).text);
        return;
    }
    preflight_add(p, "publication", CHECK_OK, "publication \"%s\" sends inserts%s%s%s", publication,
                  pub->update ? ", updates" : "", pub->delete ? ", deletes" : "",
                  pub->truncate ? ", truncates" : "");
}

/* Whether this role could make it: that takes CREATE on the database, and to own the tables. */
static enum status check_creator(struct preflight *p, bool *ret_may, struct error *err)
{
    const char *schemas[MAPPING_TABLES_MAX];
    const char *tables[MAPPING_TABLES_MAX];
    const struct mapping_set *set = p->cfg->mappings;
    for (size_t i = 0; i < set->n; i++) {
        schemas[i] = set->tables[i].schema;
        tables[i] = set->tables[i].table;
    }
    CLEANUP(pg_array_deinit) struct pg_array schema_array;
    CLEANUP(pg_array_deinit) struct pg_array table_array;
    pg_array_init(&schema_array, 16384);
    pg_array_init(&table_array, 16384);
    enum status st = preflight_array(schemas, set->n, &schema_array);
    if (!st)
        st = preflight_array(tables, set->n, &table_array);
    if (st)
        return error_set(err, st, "too many mapped tables");
    const char *params[] = {schema_array.buf.data, table_array.buf.data};
    CLEANUP(PQclearp) PGresult *res = NULL;
    st = preflight_query(
        p->conn,
        "SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')"
        " AND NOT EXISTS (SELECT FROM ROWS FROM (pg_catalog.unnest($1::text[]),"
        "   pg_catalog.unnest($2::text[])) AS m (s, t)"
        "   JOIN pg_catalog.pg_namespace n ON n.nspname = m.s"
        "   JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = m.t"
        "   WHERE NOT pg_catalog.pg_has_role(c.relowner, 'USAGE')) AS may_create",
        2, params, &res, err);
    if (!st)
        *ret_may = preflight_bool(res, 0, "may_create");
    return st;
}

static enum status check_missing(struct preflight *p, struct error *err)
{
    bool may_create = false;
    enum status st = p->cfg->create ? check_creator(p, &may_create, err) : STATUS_OK;
    if (st)
        return st;
    struct check *c = preflight_add(p, "publication", may_create ? CHECK_OK : CHECK_FAIL,
                                    "publication \"%s\" does not exist%s", p->cfg->publication,
                                    may_create       ? " yet; `warmpath run` creates it"
                                    : p->cfg->create ? ", and this role may not create it: run the "
                                                       "statement as the owner of the tables"
                                                     : "");
    CLEANUP(buf_deinit) struct buf sql;
    buf_init(&sql, 8192);
    if (!may_create && create_sql(p->cfg, &sql) == STATUS_OK)
        preflight_fix(c, "%s", sql.data);
    return STATUS_OK;
}

enum status preflight_check_publication(struct preflight *p, struct error *err)
{
    struct publication_info pub;
    enum status st = preflight_publication_read(p->conn, p->cfg->publication, &pub, err);
    if (st)
        return st;
    if (!pub.exists)
        return check_missing(p, err);
    check_kinds(p, &pub);
    if (pub.all_tables)
        return STATUS_OK;
    for (size_t i = 0; i < p->cfg->mappings->n && !st; i++)
        st = check_published(p, &p->cfg->mappings->tables[i], &pub, err);
    return st ? st : check_others(p, err);
}

/* The first failure of a report becomes the refusal. */
static enum status refuse(const struct preflight_report *report, struct error *err)
{
    for (size_t i = 0; i < report->n; i++)
        if (report->checks[i].result == CHECK_FAIL)
            return error_set(err, STATUS_REFUSED, "%.350s; run: %.400s", report->checks[i].found,
                             report->checks[i].fix);
    return STATUS_OK;
}

static enum status create_or_check(struct preflight *p, bool *ret_created, struct error *err)
{
    struct publication_info pub;
    enum status st = preflight_publication_read(p->conn, p->cfg->publication, &pub, err);
    if (!st && pub.exists) {
        st = preflight_check_publication(p, err);
        if (!st)
            st = refuse(p->report, err);
        if (!st)
            *ret_created = false;
        return st;
    }
    /* Publishing updates of a table without an identity would break the application. */
    if (!st)
        st = preflight_check_tables(p, err);
    if (!st)
        st = refuse(p->report, err);
    if (st)
        return st;

    CLEANUP(buf_deinit) struct buf sql;
    buf_init(&sql, 8192);
    if (create_sql(p->cfg, &sql))
        return error_set(err, STATUS_LIMIT, "too many mapped tables for one publication");
    CLEANUP(PQclearp) PGresult *res = pg_run(p->conn, sql.data, 0, NULL);
    if (!pg_succeeded(res))
        return pg_source_error(err, p->conn, res, "could not create the publication");
    *ret_created = true;
    return STATUS_OK;
}

enum status preflight_publication_create(PGconn *conn, const struct preflight_config *cfg,
                                         bool *ret_created, struct error *err)
{
    struct preflight_report *report = calloc(1, sizeof(*report));
    if (!report)
        return error_set(err, STATUS_NOMEM, "could not allocate a report");
    struct preflight p = {
        .cfg = cfg, .conn = conn, .version = PQserverVersion(conn), .report = report};
    enum status st = create_or_check(&p, ret_created, err);
    free(report);
    return st;
}
