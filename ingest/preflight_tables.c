/* Checks of each mapped table: its columns and their types, rights, and the replica identity. */
#include "ingest/preflight_internal.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

/* One mapped table, found in the catalogue. */
struct table {
    const struct mapping *mapping;
    const char *oid; /* text; borrowed from a result */
    struct preflight_name name;
};

static const char table_sql[] =
    "SELECT c.oid, c.relkind, pg_catalog.has_table_privilege(c.oid, 'SELECT') AS may_select,"
    " pg_catalog.has_schema_privilege(n.oid, 'USAGE') AS may_use, current_user AS role"
    " FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
    " WHERE n.nspname = $1 AND c.relname = $2";

static const char columns_sql[] =
    "SELECT a.attname, t.typname, t.typcategory,"
    " a.attgenerated <> '' AND (a.attgenerated <> 's' OR"
    "  pg_catalog.current_setting('server_version_num')::int < 180000) AS never_sent"
    " FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid"
    " WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped";

static bool one_of(const char *word, const char *const list[])
{
    for (size_t i = 0; list[i]; i++)
        if (strcmp(word, list[i]) == 0)
            return true;
    return false;
}

static bool is_json(const char *type)
{
    static const char *const types[] = {"json", "jsonb", NULL};
    return one_of(type, types);
}

static bool is_text(const char *type)
{
    static const char *const types[] = {"text", "varchar", "bpchar", "name", NULL};
    return one_of(type, types);
}

static bool is_number(const char *type)
{
    static const char *const types[] = {"int2",   "int4",   "int8", "numeric",
                                        "float4", "float8", NULL};
    return one_of(type, types);
}

/* Why a column of this type cannot hold the times its unit promises; NULL = it can. Text is taken
 * on trust: its rows are checked one by one. */
static const char *time_mismatch(enum time_unit unit, const char *type)
{
    if (is_text(type))
        return NULL;
    switch (unit) {
    case TIME_TIMESTAMP:
        return strcmp(type, "timestamptz") == 0 ? NULL : "timestamptz, or a unit in the mapping";
    case TIME_NAIVE_UTC:
        return strncmp(type, "timestamp", 9) == 0 || strcmp(type, "date") == 0
                   ? NULL
                   : "timestamp, for times without a zone";
    case TIME_EPOCH_S:
    case TIME_EPOCH_MS:
    case TIME_EPOCH_US:
    case TIME_EPOCH_NS:
        return is_number(type) ? NULL : "a number, for an epoch unit";
    }
    return NULL;
}

/* What type the field needs, when this one cannot do; NULL = it can. */
static const char *type_mismatch(const struct mapping_source *s, enum mapping_field f,
                                 const char *type)
{
    static const char *const embeddings[] = {"_float4", "_float8", "_numeric",
                                             "vector",  "halfvec", NULL};
    if (*s->path)
        return is_json(type) || is_text(type) ? NULL : "json or jsonb, for a path";
    if (f == FIELD_AT)
        return time_mismatch(*s->zone ? TIME_NAIVE_UTC : s->time_unit, type);
    if (f == FIELD_TRAITS || f == FIELD_FIELDS || f == FIELD_TAGS)
        return is_json(type) || is_text(type) ? NULL : "json or jsonb";
    if (f == FIELD_EMBEDDING)
        return is_json(type) || is_text(type) || one_of(type, embeddings)
                   ? NULL
                   : "real[], vector or a JSON list";
    if (f == FIELD_SCORE || f == FIELD_IMPORTANCE || f == FIELD_EMOTION_CONFIDENCE ||
        f == FIELD_GRADE || f == FIELD_VALUE || f == FIELD_VERSION)
        return s->n_enum > 0 || is_number(type) || is_text(type) ? NULL : "a number";
    return is_json(type) || strcmp(type, "bytea") == 0 ? "text (or a path into the JSON)" : NULL;
}

static int find_column(const PGresult *columns, const char *name)
{
    for (int i = 0; i < PQntuples(columns); i++)
        if (strcmp(preflight_text(columns, i, "attname"), name) == 0)
            return i;
    return -1;
}

/* The first column of the source that the table lacks; "" = none. */
static const char *missing_column(const PGresult *columns, const struct mapping_source *s,
                                  struct mapping_column read[MAPPING_TEMPLATE_COLUMNS])
{
    size_t n = mapping_source_columns(s, read);
    for (size_t i = 0; i < n; i++)
        if (find_column(columns, read[i].name) < 0)
            return read[i].name;
    return "";
}

static bool check_type(struct preflight *p, const struct table *t, enum mapping_field f,
                       const struct mapping_source *s, const PGresult *columns)
{
    int row = find_column(columns, s->column);
    const char *type = preflight_text(columns, row, "typname");
    const char *needed = type_mismatch(s, f, type);
    if (preflight_bool(columns, row, "never_sent")) {
        struct check *c = preflight_add(
            p, "columns", CHECK_FAIL,
            "table %s, column \"%s\" (field %s) is generated: this server does not send it",
            t->name.text, s->column, mapping_field_name(f));
        preflight_fix(c, "map the columns that it is made of (a template can join them)");
        return false;
    }
    if (!needed)
        return true;
    struct check *c = preflight_add(p, "columns", CHECK_FAIL,
                                    "table %s, column \"%s\" (field %s) is of type %s, not %s",
                                    t->name.text, s->column, mapping_field_name(f), type, needed);
    if (f == FIELD_AT && strcmp(type, "timestamp") == 0)
        preflight_fix(c,
                      "set fields.at.unit: naive_utc in the mapping if the times are UTC, or "
                      "ALTER TABLE %s ALTER COLUMN %s TYPE timestamptz USING %s AT TIME ZONE "
                      "'UTC';",
                      t->name.text, preflight_quote(s->column).text,
                      preflight_quote(s->column).text);
    else
        preflight_fix(c, "map another column, or a path into this one");
    return false;
}

/* A field can do without some of its sources, not without all: that is how a renamed column is
 * bridged. */
static bool check_field(struct preflight *p, const struct table *t, enum mapping_field f,
                        const PGresult *columns)
{
    struct mapping_column read[MAPPING_TEMPLATE_COLUMNS];
    struct preflight_name lacks = {""};
    bool found = false;
    bool ok = true;
    for (const struct mapping_source *s = mapping_source_first(t->mapping, f); s;
         s = mapping_source_next(t->mapping, s)) {
        const char *missing = missing_column(columns, s, read);
        if (!*missing) {
            found = true;
            ok &= !*s->column || check_type(p, t, f, s, columns);
        } else if (!*lacks.text) {
            snprintf(lacks.text, sizeof(lacks.text), "%.63s", missing);
        }
    }
    if (!*lacks.text)
        return ok;
    struct check *c =
        preflight_add(p, "columns", found ? CHECK_WARN : CHECK_FAIL,
                      "table %s has no column \"%s\" (field %s)%s", t->name.text, lacks.text,
                      mapping_field_name(f), found ? "; what else the field lists is used" : "");
    preflight_fix(c, "correct fields.%s of the mapping, or ALTER TABLE %s ADD COLUMN %s ...;",
                  mapping_field_name(f), t->name.text, preflight_quote(lacks.text).text);
    return false;
}

static bool check_condition(struct preflight *p, const struct table *t, const char *key,
                            const char *column, const PGresult *columns)
{
    if (!*column)
        return true;
    int row = find_column(columns, column);
    const char *type = row < 0 ? "" : preflight_text(columns, row, "typname");
    if (row < 0) {
        struct check *c =
            preflight_add(p, "columns", CHECK_FAIL, "table %s has no column \"%s\" (%s)",
                          t->name.text, column, key);
        preflight_fix(c, "correct %s of the mapping, or ALTER TABLE %s ADD COLUMN %s ...;", key,
                      t->name.text, preflight_quote(column).text);
        return false;
    }
    if (strcmp(key, "counter") != 0 || is_number(type))
        return true;
    struct check *c = preflight_add(p, "columns", CHECK_FAIL,
                                    "table %s, column \"%s\" (counter) is of type %s, not a number",
                                    t->name.text, column, type);
    preflight_fix(c, "map another column");
    return false;
}

static void check_columns(struct preflight *p, const struct table *t, const PGresult *columns)
{
    const struct mapping *m = t->mapping;
    bool ok = check_condition(p, t, "soft_delete", m->soft_delete, columns);
    ok &= check_condition(p, t, "only_if", m->only_if, columns);
    ok &= check_condition(p, t, "counter", m->counter, columns);
    for (int f = 0; f < MAPPING_FIELD_COUNT; f++)
        ok &= check_field(p, t, (enum mapping_field)f, columns);
    if (ok)
        preflight_add(p, "columns", CHECK_OK, "table %s has every mapped column", t->name.text);
}

/* The columns without which an UPDATE or DELETE of this table cannot be understood. */
static size_t needed_columns(const struct mapping *m, const PGresult *columns,
                             struct mapping_column out[MAPPING_COLUMNS_MAX])
{
    static const enum mapping_field keys[] = {FIELD_ID, FIELD_USER_ID, FIELD_BOT_NAME,
                                              FIELD_MEMORY_ID};
    size_t n = 0;
    size_t n_there = 0;
    /* Deletes from a log are no events (ingest/mapping.h). */
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]) && !mapping_is_log(m); i++)
        n = mapping_add_field_columns(m, keys[i], out, n);
    if (*m->counter)
        snprintf(out[n++].name, sizeof(out[0].name), "%s", m->counter);
    for (size_t i = 0; i < n; i++)
        if (find_column(columns, out[i].name) >= 0)
            out[n_there++] = out[i];
    return n_there;
}

/* The table itself, or every partition that holds rows: identity is a property of each. */
static const char identity_sql[] =
    "WITH leaf AS (SELECT relid::oid AS oid FROM pg_catalog.pg_partition_tree($1::oid::regclass)"
    "              WHERE isleaf UNION SELECT $1::oid)"
    " SELECT n.nspname, c.relname, c.relreplident,"
    " c.relreplident = 'f' OR (c.relreplident <> 'n' AND EXISTS (SELECT FROM pg_catalog.pg_index i"
    "   WHERE i.indrelid = c.oid AND CASE c.relreplident WHEN 'd' THEN i.indisprimary"
    "   ELSE i.indisreplident END)) AS has_identity,"
    " c.relreplident = 'f' OR (c.relreplident <> 'n' AND EXISTS (SELECT FROM pg_catalog.pg_index i"
    "   WHERE i.indrelid = c.oid AND CASE c.relreplident WHEN 'd' THEN i.indisprimary"
    "   ELSE i.indisreplident END AND $2::text[] <@ ARRAY(SELECT a.attname::text"
    "     FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY"
    "     ((i.indkey::int2[])[0:i.indnkeyatts - 1])))) AS covers,"
    " (SELECT x.relname FROM pg_catalog.pg_index i"
    "   JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid"
    "   WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND i.indisvalid"
    "   AND i.indpred IS NULL AND i.indexprs IS NULL"
    "   AND $2::text[] <@ ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a"
    "     WHERE a.attrelid = c.oid AND a.attnum = ANY"
    "     ((i.indkey::int2[])[0:i.indnkeyatts - 1]))"
    "   AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid"
    "     AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]) AND NOT a.attnotnull)"
    "   ORDER BY i.indnkeyatts, x.relname LIMIT 1) AS candidate"
    " FROM leaf JOIN pg_catalog.pg_class c ON c.oid = leaf.oid"
    " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.relkind = 'r' ORDER BY 1, 2";

static enum status read_identity(struct preflight *p, const struct table *t,
                                 const struct mapping_column *columns, size_t n, PGresult **ret,
                                 struct error *err)
{
    const char *names[MAPPING_COLUMNS_MAX];
    for (size_t i = 0; i < n; i++)
        names[i] = columns[i].name;
    CLEANUP(pg_array_deinit) struct pg_array needed;
    pg_array_init(&needed, 4096);
    enum status st = preflight_array(names, n, &needed);
    if (st)
        return error_set(err, st, "too many key columns");
    const char *params[] = {t->oid, needed.buf.data};
    return preflight_query(p->conn, identity_sql, 2, params, ret, err);
}

/* One bad table or partition. The SQL is safe to run at once: it takes a short lock. */
static void report_identity(struct preflight *p, const struct table *t, const PGresult *res,
                            int row)
{
    struct preflight_name name = preflight_quote_table(preflight_text(res, row, "nspname"),
                                                       preflight_text(res, row, "relname"));
    const char *candidate = preflight_text(res, row, "candidate");
    bool has = preflight_bool(res, row, "has_identity");
    struct check *c = preflight_add(
        p, "replica_identity", CHECK_FAIL,
        !has ? "table %s has no replica identity: the application's own UPDATE and DELETE fail "
               "while it is published"
        : *t->mapping->counter
            ? "table %s: its replica identity does not bring the old value of the counter with an "
              "UPDATE; its growth could not be seen"
            : "table %s: its replica identity does not bring id, user_id and bot_name with an "
              "UPDATE or DELETE; deletes could not be applied",
        name.text);
    if (*candidate)
        preflight_fix(c, "ALTER TABLE %s REPLICA IDENTITY USING INDEX %s; -- or: ", name.text,
                      preflight_quote(candidate).text);
    preflight_fix(c,
                  "ALTER TABLE %s REPLICA IDENTITY FULL; -- or, when rows are never changed: ALTER "
                  "PUBLICATION %s SET (publish = 'insert');",
                  name.text, preflight_quote(p->cfg->publication).text);
}

/*
 * An UPDATE that leaves a long value alone does not send it. Of content the state remembers what it
 * had; other columns of types that grow long would have to come with the old row.
 */
static void check_toast(struct preflight *p, const struct table *t, const PGresult *columns,
                        const PGresult *identity)
{
    bool full = true;
    for (int i = 0; i < PQntuples(identity); i++)
        full &= preflight_text(identity, i, "relreplident")[0] == 'f';
    if (full)
        return;
    if (*t->mapping->soft_delete || *t->mapping->only_if) {
        struct check *c = preflight_add(
            p, "replica_identity", CHECK_WARN,
            "table %s: an UPDATE does not tell whether the row was %s before; one that leaves a "
            "long text unchanged becomes a dead letter",
            t->name.text, *t->mapping->soft_delete ? "deleted" : "there");
        preflight_fix(c, "ALTER TABLE %s REPLICA IDENTITY FULL;", t->name.text);
        return;
    }
    struct mapping_column read[MAPPING_COLUMNS_MAX];
    size_t n = 0;
    for (int f = 0; f < MAPPING_FIELD_COUNT; f++)
        if (f != FIELD_CONTENT)
            n = mapping_add_field_columns(t->mapping, (enum mapping_field)f, read, n);
    for (size_t i = 0; i < n; i++) {
        int row = find_column(columns, read[i].name);
        const char *type = row < 0 ? "" : preflight_text(columns, row, "typname");
        if (row < 0 || (!is_json(type) && strcmp(type, "vector") != 0 &&
                        preflight_text(columns, row, "typcategory")[0] != 'A'))
            continue;
        struct check *c = preflight_add(
            p, "replica_identity", CHECK_WARN,
            "table %s: an UPDATE that leaves a long \"%s\" unchanged does not send it and becomes "
            "a dead letter",
            t->name.text, read[i].name);
        preflight_fix(c, "ALTER TABLE %s REPLICA IDENTITY FULL;", t->name.text);
        return;
    }
}

static enum status check_identity(struct preflight *p, const struct table *t,
                                  const PGresult *columns, struct error *err)
{
    struct publication_info pub;
    CLEANUP(PQclearp) PGresult *res = NULL;
    struct mapping_column needed[MAPPING_COLUMNS_MAX];
    size_t n_needed = needed_columns(t->mapping, columns, needed);
    enum status st = preflight_publication_read(p->conn, p->cfg->publication, &pub, err);
    if (!st)
        st = read_identity(p, t, needed, n_needed, &res, err);
    if (st)
        return st;
    if (!pub.update && !pub.delete) {
        preflight_add(p, "replica_identity", CHECK_OK,
                      "table %s: not needed, the publication sends no updates and no deletes",
                      t->name.text);
        return STATUS_OK;
    }
    int bad = 0;
    for (int i = 0; i < PQntuples(res); i++) {
        if (preflight_bool(res, i, "covers"))
            continue;
        /* Partitions are many: the first few tell the story. */
        if (bad++ < 4)
            report_identity(p, t, res, i);
    }
    if (bad == 0) {
        preflight_add(p, "replica_identity", CHECK_OK,
                      "table %s: updates and deletes bring id, user_id and bot_name", t->name.text);
        check_toast(p, t, columns, res);
    }
    return STATUS_OK;
}

static void check_select(struct preflight *p, const struct table *t, const PGresult *res)
{
    bool may_use = preflight_bool(res, 0, "may_use");
    bool may_select = preflight_bool(res, 0, "may_select");
    struct preflight_name role = preflight_quote(preflight_text(res, 0, "role"));
    /* Streaming needs no SELECT; verify and rebuild read the table. */
    struct check *c = preflight_add(p, "select", may_use && may_select ? CHECK_OK : CHECK_WARN,
                                    "table %s %s", t->name.text,
                                    may_use && may_select ? "can be read"
                                                          : "cannot be read by this role: "
                                                            "streaming works, verify does not");
    if (!may_use)
        preflight_fix(c, "GRANT USAGE ON SCHEMA %s TO %s; ",
                      preflight_quote(t->mapping->schema).text, role.text);
    if (!may_select)
        preflight_fix(c, "GRANT SELECT ON %s TO %s;", t->name.text, role.text);
}

static enum status check_table(struct preflight *p, const struct mapping *m, struct error *err)
{
    const char *params[] = {m->schema, m->table};
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st = preflight_query(p->conn, table_sql, 2, params, &res, err);
    if (st)
        return st;
    struct table t = {.mapping = m, .name = preflight_quote_table(m->schema, m->table)};
    const char kind = *preflight_text(res, 0, "relkind"); /* NUL when there is no row */
    if (kind != 'r' && kind != 'p') {
        struct check *c =
            preflight_add(p, "table", CHECK_FAIL, "table %s %s", t.name.text,
                          kind ? "is not a table: views and foreign tables cannot be replicated"
                               : "does not exist");
        preflight_fix(c, "correct the mapping's table, or create it");
        return STATUS_OK;
    }
    t.oid = preflight_text(res, 0, "oid");
    check_select(p, &t, res);

    CLEANUP(PQclearp) PGresult *columns = NULL;
    const char *oid[] = {t.oid};
    st = preflight_query(p->conn, columns_sql, 1, oid, &columns, err);
    if (st)
        return st;
    check_columns(p, &t, columns);
    return check_identity(p, &t, columns, err);
}

enum status preflight_check_tables(struct preflight *p, struct error *err)
{
    enum status st = STATUS_OK;
    if (p->cfg->mappings->n == 0) {
        struct check *c = preflight_add(p, "table", CHECK_FAIL, "no table is mapped");
        preflight_fix(c, "add a table to source.tables");
    }
    for (size_t i = 0; i < p->cfg->mappings->n && !st; i++)
        st = check_table(p, &p->cfg->mappings->tables[i], err);
    return st;
}
