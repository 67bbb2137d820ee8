#include "ingest/table_scan_sql.h"

#include "core/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the server leaves out is older by at least this: zones, and units it need not know. */
#define SLACK_US US_PER_DAY

/* ---- the catalogue ---- */

/* The column that alone is the time; NULL: it is made of something else. */
static const char *time_column(const struct mapping *m)
{
    const struct mapping_source *at = mapping_source_first(m, FIELD_AT);
    return at->column[0] && !at->path[0] && !at->next ? at->column : NULL;
}

static void read_column(const PGresult *res, int row, struct scan_table *t)
{
    const char *name = PQgetvalue(res, row, 0);
    const char *time = time_column(t->mapping);
    snprintf(t->columns[t->relation.n_columns++].name, sizeof(t->columns[0].name), "%s", name);
    if (time && strcmp(name, time) == 0)
        snprintf(t->at_type, sizeof(t->at_type), "%s", PQgetvalue(res, row, 1));
}

/* Those of the mapped columns that the table has; whether one is missed, mapping_bind() says. */
static enum status read_columns(PGconn *conn, struct scan_table *t, struct error *err)
{
    const struct mapping *m = t->mapping;
    CLEANUP(PQclearp) PGresult *res = NULL;
    const char *params[] = {m->schema, m->table};
    enum status st =
        pg_query(conn,
                 "SELECT a.attname, y.typname FROM pg_catalog.pg_attribute a"
                 " JOIN pg_catalog.pg_class c ON c.oid = a.attrelid"
                 " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
                 " JOIN pg_catalog.pg_type y ON y.oid = a.atttypid"
                 " WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped",
                 2, params, "could not look at the columns of a table", &res, err);
    struct mapping_column mapped[MAPPING_COLUMNS_MAX];
    size_t n = st ? 0 : mapping_columns(m, mapped);
    for (size_t i = 0; i < n; i++)
        for (int row = 0; row < PQntuples(res); row++)
            if (strcmp(PQgetvalue(res, row, 0), mapped[i].name) == 0)
                read_column(res, row, t);
    return st;
}

/* Sizes are those of the largest partition, since a range of blocks holds in each of them. */
static enum status read_size(PGconn *conn, struct scan_table *t, struct error *err)
{
    CLEANUP(PQclearp) PGresult *res = NULL;
    const char *params[] = {t->mapping->schema, t->mapping->table};
    enum status st = pg_query(
        conn,
        "WITH t AS (SELECT c.oid, c.relkind FROM pg_catalog.pg_class c"
        "  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        "  WHERE n.nspname = $1 AND c.relname = $2),"
        " leaf AS (SELECT c.oid, c.reltuples FROM t, pg_catalog.pg_class c WHERE c.oid = t.oid"
        "   AND t.relkind <> 'p' UNION ALL"
        "  SELECT c.oid, c.reltuples FROM t, pg_catalog.pg_partition_tree(t.oid) p"
        "  JOIN pg_catalog.pg_class c ON c.oid = p.relid WHERE t.relkind = 'p' AND p.isleaf)"
        " SELECT t.relkind, (SELECT coalesce(max(pg_catalog.pg_relation_size(oid))"
        "   / pg_catalog.current_setting('block_size')::int, 0) FROM leaf)::bigint,"
        " (SELECT CASE WHEN min(reltuples) < 0 THEN -1 ELSE sum(reltuples) END FROM leaf)::bigint"
        " FROM t",
        2, params, "could not look at the size of a table", &res, err);
    if (st)
        return st;
    if (PQntuples(res) == 0)
        return error_set(err, STATUS_REFUSED, "table \"%s.%s\" does not exist", t->mapping->schema,
                         t->mapping->table);
    t->partitioned = PQgetvalue(res, 0, 0)[0] == 'p';
    t->blocks = strtoll(PQgetvalue(res, 0, 1), NULL, 10);
    t->expected = PQgetisnull(res, 0, 2) ? -1 : strtoll(PQgetvalue(res, 0, 2), NULL, 10);
    return STATUS_OK;
}

static enum status read_filter(PGconn *conn, const char *publication, struct scan_table *t,
                               struct error *err)
{
    if (PQserverVersion(conn) < 150000)
        return STATUS_OK;
    CLEANUP(PQclearp) PGresult *res = NULL;
    const char *params[] = {publication, t->mapping->schema, t->mapping->table};
    enum status st = pg_query(conn,
                              "SELECT rowfilter FROM pg_catalog.pg_publication_tables"
                              " WHERE pubname = $1 AND schemaname = $2 AND tablename = $3",
                              3, params, "could not look at the publication", &res, err);
    if (st || PQntuples(res) == 0 || PQgetisnull(res, 0, 0))
        return st;
    t->filter = strdup(PQgetvalue(res, 0, 0));
    return t->filter ? STATUS_OK : error_set(err, STATUS_NOMEM, "could not keep a row filter");
}

enum status scan_table_describe(PGconn *conn, const struct mapping *m, const char *publication,
                                struct scan_table *t, struct error *err)
{
    *t = (struct scan_table){.mapping = m};
    t->relation.columns = t->columns;
    t->relation.replica_identity = 'f';
    snprintf(t->relation.schema, sizeof(t->relation.schema), "%s", m->schema);
    snprintf(t->relation.name, sizeof(t->relation.name), "%s", m->table);
    enum status st = read_size(conn, t, err);
    if (!st)
        st = read_columns(conn, t, err);
    if (!st)
        st = read_filter(conn, publication, t, err);
    return st ? st : mapping_bind(m, &t->relation, &t->binding, err);
}

/* ---- the statement ---- */

bool scan_leaves_out(const struct event *e, int64_t since_us)
{
    return (e->type == EVENT_MESSAGE || e->type == EVENT_METRIC) && e->at_us < since_us;
}

/* The first time that is read, as a literal of the column's type; OK without one when the type does
 * not order as times do. */
static enum status append_bound(const struct scan_table *t, int64_t us, struct buf *sql)
{
    static const struct {
        const char *type;
        const char *cast;
    } times[] = {{"timestamptz", "timestamptz"}, {"timestamp", "timestamp"}, {"date", "timestamp"}};
    static const char *const numbers[] = {"int4", "int8", "numeric", "float8"};
    static const int64_t units[] = {
        [TIME_EPOCH_S] = US_PER_SECOND, [TIME_EPOCH_MS] = 1000, [TIME_EPOCH_US] = 1};
    enum time_unit unit = mapping_source_first(t->mapping, FIELD_AT)->time_unit;
    bool is_number = unit == TIME_EPOCH_S || unit == TIME_EPOCH_MS || unit == TIME_EPOCH_US ||
                     unit == TIME_EPOCH_NS;
    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]) && !is_number; i++)
        if (strcmp(t->at_type, times[i].type) == 0)
            return buf_printf(sql, "('epoch'::%s + %" PRId64 " * interval '1 microsecond')",
                              times[i].cast, us);
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]) && is_number; i++)
        if (strcmp(t->at_type, numbers[i]) == 0)
            return unit == TIME_EPOCH_NS ? buf_printf(sql, "%" PRId64 "000", us)
                                         : buf_printf(sql, "%" PRId64, us / units[unit]);
    return STATUS_OK;
}

/* Rows whose time is NULL or no time stay in: they become dead letters. */
static enum status append_since(const struct scan_table *t, int64_t since_us, struct buf *sql)
{
    const char *time = time_column(t->mapping);
    enum event_type type = t->mapping->type;
    bool windowed = type == EVENT_MESSAGE || type == EVENT_METRIC;
    if (!windowed || since_us < SLACK_US || !time)
        return STATUS_OK;
    int64_t plus_us = mapping_source_first(t->mapping, FIELD_AT)->plus_us;
    CLEANUP(buf_deinit) struct buf bound;
    buf_init(&bound, 256);
    enum status st = append_bound(t, since_us - SLACK_US - plus_us, &bound);
    if (st || bound.len == 0)
        return st;
    CLEANUP(buf_deinit) struct buf column;
    buf_init(&column, PG_QUOTED_NAME_BYTES + 16);
    st = pg_quote_ident(&column, time);
    if (st)
        return st;
    struct str c = {column.data, column.len};
    st = buf_printf(sql, " AND (" STR_FMT " >= " STR_FMT " OR " STR_FMT " IS NULL", STR_ARGS(c),
                    (int)bound.len, bound.data, STR_ARGS(c));
    if (!st && bound.data[0] == '(')
        st = buf_printf(sql, " OR " STR_FMT " = '-infinity'", STR_ARGS(c));
    return st ? st : buf_append_str(sql, STR(")"));
}

/* One source of the time, so that those of a field may be compared. */
static enum status append_time(const struct mapping_source *at, struct buf *sql)
{
    enum status st = buf_append_str(sql, STR("to_jsonb("));
    if (!st)
        st = pg_quote_ident(sql, at->column);
    if (!st && at->path[0]) {
        st = buf_append_str(sql, STR(") #> string_to_array("));
        if (!st)
            st = pg_quote_literal(sql, at->path);
        return st ? st : buf_append_str(sql, STR(", '.')"));
    }
    return st ? st : buf_append_str(sql, STR(")"));
}

/*
 * Time order, so that the merge only has to look at the heads; rows of one time in the order in
 * which they were written. to_jsonb() lets any column be looked into without failing on odd text;
 * jsonb orders numbers as numbers and RFC 3339 texts by time. A time from a template is not
 * ordered.
 */
static enum status append_order(const struct scan_table *t, struct buf *sql)
{
    const struct mapping *m = t->mapping;
    const char *time = time_column(m);
    enum status st = STATUS_OK;
    size_t n = 0;
    if (time) {
        st = buf_append_str(sql, STR(" ORDER BY "));
        if (!st)
            st = pg_quote_ident(sql, time);
        return st ? st : buf_append_str(sql, STR(", ctid"));
    }
    const struct mapping_source *at = mapping_source_first(m, FIELD_AT);
    for (; at && !st; at = mapping_source_next(m, at)) {
        if (!at->column[0] || t->binding.columns[mapping_source_slot(m, at)][0] < 0)
            continue;
        st = buf_append_str(sql, n++ ? STR(", ") : STR(" ORDER BY coalesce("));
        if (!st)
            st = append_time(at, sql);
    }
    return !st && n ? buf_append_str(sql, STR("), ctid")) : st;
}

/* ONLY: children by inheritance are relations of their own to a publication. */
static enum status append_from(const struct scan_table *t, struct buf *sql)
{
    enum status st = buf_append_str(sql, t->partitioned ? STR(" FROM ") : STR(" FROM ONLY "));
    if (!st)
        st = pg_quote_ident(sql, t->mapping->schema);
    if (!st)
        st = buf_append_str(sql, STR("."));
    return st ? st : pg_quote_ident(sql, t->mapping->table);
}

enum status scan_table_copy(const struct scan_table *t, struct scan_range range, int64_t since_us,
                            struct buf *sql)
{
    enum status st = buf_append_str(sql, STR("COPY (SELECT "));
    for (int i = 0; i < t->relation.n_columns && !st; i++) {
        if (i)
            st = buf_append_str(sql, STR(", "));
        if (!st)
            st = pg_quote_ident(sql, t->columns[i].name);
    }
    if (!st)
        st = append_from(t, sql);
    if (!st)
        st = buf_append_str(sql, STR(" WHERE true"));
    if (!st && range.from > 0)
        st = buf_printf(sql, " AND ctid >= '(%" PRId64 ",0)'", range.from);
    if (!st && range.to > 0)
        st = buf_printf(sql, " AND ctid < '(%" PRId64 ",0)'", range.to);
    if (!st && t->filter)
        st = buf_printf(sql, " AND (%s)", t->filter);
    if (!st)
        st = append_since(t, since_us, sql);
    if (!st)
        st = append_order(t, sql);
    return st ? st : buf_append(sql, ") TO STDOUT", sizeof(") TO STDOUT"));
}
