#include "ingest/rebuild_rows.h"

#include "ingest/table_scan_sql.h"
#include "ingest/template.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FETCH_NAMES 1000

struct source_table {
    struct mapping mapping;
    struct relation relation;
    struct relation_column columns[MAPPING_COLUMNS_MAX];
    struct mapping_binding binding;
    char *filter; /* of the publication; NULL = none */
};

struct rebuild_rows {
    PGconn *conn;
    size_t n_tables;
    struct source_table *tables;
    struct event_arena *arena;
    int64_t since_us;
    bool listing;
    PGresult *names;
    int next_name;
};

static const char session[] = "SET standard_conforming_strings = on";

static enum status append_text(struct buf *sql, const char *text)
{
    return buf_append_str(sql, str_from(text));
}

/* ---- whose a row is ---- */

static bool has_column(const struct source_table *t, const char *name)
{
    for (int i = 0; i < t->relation.n_columns; i++)
        if (strcmp(t->columns[i].name, name) == 0)
            return true;
    return false;
}

/* A source whose column the table lacks is passed over (mapping.h). */
static bool is_readable(const struct source_table *t, const struct mapping_source *s)
{
    struct mapping_column columns[MAPPING_TEMPLATE_COLUMNS];
    size_t n = mapping_source_columns(s, columns);
    for (size_t i = 0; i < n; i++)
        if (!has_column(t, columns[i].name))
            return false;
    return true;
}

static enum status append_template(const struct mapping_source *s, struct buf *sql)
{
    const char *at = s->template;
    struct template_part part;
    enum status st = append_text(sql, "''");
    while (!st && template_next(&at, &part) == TEMPLATE_PART) {
        char text[sizeof(s->template)];
        (void)snprintf(text, sizeof(text), STR_FMT, STR_ARGS(part.text));
        st = append_text(sql, " || ");
        if (!st)
            st = part.is_column ? pg_quote_ident(sql, text) : pg_quote_literal(sql, text);
        if (!st && part.is_column)
            st = append_text(sql, "::text");
    }
    return st;
}

static enum status append_source(const struct mapping_source *s, struct buf *sql)
{
    if (*s->template)
        return append_template(s, sql);
    if (!*s->column)
        return pg_quote_literal(sql, s->constant);
    enum status st = *s->path ? append_text(sql, "to_jsonb(") : STATUS_OK;
    st = st ? st : pg_quote_ident(sql, s->column);
    if (st || !*s->path)
        return st ? st : append_text(sql, "::text");
    st = append_text(sql, ") #>> string_to_array(");
    st = st ? st : pg_quote_literal(sql, s->path);
    return st ? st : append_text(sql, ", '.')");
}

/* The field's value as text; NULL where no source has one. */
static enum status append_field(const struct source_table *t, enum mapping_field f, struct buf *sql)
{
    const struct mapping *m = &t->mapping;
    enum status st = append_text(sql, "coalesce(NULL");
    for (const struct mapping_source *s = mapping_source_first(m, f); s && !st;
         s = mapping_source_next(m, s)) {
        if (!is_readable(t, s))
            continue;
        st = append_text(sql, ", ");
        st = st ? st : append_source(s, sql);
    }
    return st ? st : append_text(sql, ")");
}

/* "the field is one of $1": in the column's own type where that is possible, for its index. */
static enum status append_is_named(const struct source_table *t, enum mapping_field f,
                                   struct buf *sql)
{
    const struct mapping_source *s = mapping_source_first(&t->mapping, f);
    bool plain = s && *s->column && !*s->path && !s->next;
    enum status st = plain ? pg_quote_ident(sql, s->column) : append_field(t, f, sql);
    return st ? st : append_text(sql, plain ? " = ANY($1)" : " = ANY($1::text[])");
}

static enum status append_from(const struct source_table *t, struct buf *sql)
{
    enum status st = append_text(sql, " FROM ");
    st = st ? st : pg_quote_ident(sql, t->relation.schema);
    st = st ? st : append_text(sql, ".");
    st = st ? st : pg_quote_ident(sql, t->relation.name);
    return st ? st : append_text(sql, " WHERE ");
}

static enum status append_filter(const struct source_table *t, struct buf *sql)
{
    return t->filter ? buf_printf(sql, " AND (%s)", t->filter) : STATUS_OK;
}

/* Tables of users' keys, or of the bots' own. */
static bool is_about(const struct source_table *t, bool bots)
{
    bool of_bot = t->mapping.type == EVENT_METRIC || t->mapping.type == EVENT_CHARACTER;
    return bots ? of_bot || t->mapping.type == EVENT_MESSAGE : !of_bot;
}

/* ---- opening ---- */

static enum status read_columns(struct rebuild_rows *r, struct source_table *t, struct error *err)
{
    struct mapping_column wanted[MAPPING_COLUMNS_MAX];
    size_t n = mapping_columns(&t->mapping, wanted);
    const char *params[] = {t->mapping.schema, t->mapping.table};
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st =
        pg_query(r->conn,
                 "SELECT a.attname FROM pg_catalog.pg_attribute a "
                 "JOIN pg_catalog.pg_class c ON c.oid = a.attrelid "
                 "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
                 "WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped",
                 2, params, "could not read the columns of a table", &res, err);
    for (size_t i = 0; i < n && !st; i++)
        for (int k = 0; k < PQntuples(res); k++)
            if (strcmp(PQgetvalue(res, k, 0), wanted[i].name) == 0)
                (void)snprintf(t->columns[t->relation.n_columns++].name, sizeof(t->columns[0].name),
                               "%s", wanted[i].name);
    return st;
}

/* Servers before 15 have neither filters nor the column. */
static enum status read_filter(struct rebuild_rows *r, struct source_table *t,
                               const char *publication, struct error *err)
{
    const char *params[] = {publication, t->mapping.schema, t->mapping.table};
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st =
        pg_query(r->conn,
                 "SELECT to_jsonb(p) ->> 'rowfilter' FROM pg_catalog.pg_publication_tables p "
                 "WHERE p.pubname = $1 AND p.schemaname = $2 AND p.tablename = $3",
                 3, params, "could not read the row filter of a table", &res, err);
    if (st || PQntuples(res) == 0 || PQgetisnull(res, 0, 0))
        return st;
    t->filter = strdup(PQgetvalue(res, 0, 0));
    return t->filter ? STATUS_OK : error_set(err, STATUS_NOMEM, "could not keep a row filter");
}

static enum status open_table(struct rebuild_rows *r, const struct mapping *m,
                              const char *publication, struct error *err)
{
    struct source_table *t = &r->tables[r->n_tables++];
    t->mapping = *m;
    t->relation.columns = t->columns;
    t->relation.replica_identity = 'f';
    (void)snprintf(t->relation.schema, sizeof(t->relation.schema), "%s", m->schema);
    (void)snprintf(t->relation.name, sizeof(t->relation.name), "%s", m->table);
    enum status st = read_columns(r, t, err);
    st = st ? st : read_filter(r, t, publication, err);
    return st ? st : mapping_bind(&t->mapping, &t->relation, &t->binding, err);
}

enum status rebuild_rows_open(const char *conninfo, const char *publication,
                              const struct mapping_set *mappings, int64_t since_us,
                              struct rebuild_rows **ret, struct error *err)
{
    CLEANUP(rebuild_rows_closep) struct rebuild_rows *r = calloc(1, sizeof(*r));
    if (r)
        r->tables = calloc(mappings->n + 1, sizeof(*r->tables));
    if (!r || !r->tables)
        return error_set(err, STATUS_NOMEM, "could not allocate the reader of tables");
    r->since_us = since_us;
    struct pg_options options = {.conninfo = conninfo,
                                 .application_name = "warmpath rebuild",
                                 .setup = session,
                                 .mode = PG_SOURCE};
    enum status st = event_arena_new(&r->arena, err);
    st = st ? st : pg_open(&options, &r->conn, err);
    for (size_t i = 0; i < mappings->n && !st; i++)
        st = open_table(r, &mappings->tables[i], publication, err);
    if (st)
        return st;
    *ret = TAKE(r);
    return STATUS_OK;
}

void rebuild_rows_close(struct rebuild_rows *r)
{
    if (!r)
        return;
    for (size_t i = 0; i < r->n_tables; i++)
        free(r->tables[i].filter);
    free(r->tables);
    PQclear(r->names);
    PQfinish(r->conn);
    event_arena_free(r->arena);
    free(r);
}

PGconn *rebuild_rows_connection(struct rebuild_rows *r)
{
    return r->conn;
}

uint32_t rebuild_rows_types(const struct rebuild_rows *r)
{
    uint32_t types = 0;
    for (size_t i = 0; i < r->n_tables; i++)
        types |= 1u << r->tables[i].mapping.type;
    return types;
}

/* ---- names ---- */

static enum status append_list(const struct rebuild_rows *r, bool bots, const char *after,
                               struct buf *sql)
{
    enum status st = append_text(
        sql, "DECLARE warmpath_names NO SCROLL CURSOR WITH HOLD FOR SELECT v FROM (SELECT u "
             "COLLATE \"C\" AS v FROM (SELECT NULL AS u");
    for (size_t i = 0; i < r->n_tables && !st; i++) {
        const struct source_table *t = &r->tables[i];
        if (!is_about(t, bots))
            continue;
        st = append_text(sql, " UNION ALL SELECT ");
        st = st ? st : append_field(t, bots ? FIELD_BOT_NAME : FIELD_USER_ID, sql);
        st = st ? st : append_from(t, sql);
        st = st ? st : append_text(sql, "true");
        st = st ? st : append_filter(t, sql);
    }
    st = st ? st : append_text(sql, ") s) t WHERE v > ");
    st = st ? st : pg_quote_literal(sql, after);
    st = st ? st : append_text(sql, " GROUP BY v ORDER BY v");
    return st ? st : buf_append(sql, "", 1);
}

enum status rebuild_rows_list(struct rebuild_rows *r, bool bots, const char *after,
                              struct error *err)
{
    PQclear(r->names);
    r->names = NULL;
    CLEANUP(buf_deinit) struct buf sql;
    buf_init(&sql, 1 << 20);
    enum status st = r->listing ? append_text(&sql, "CLOSE warmpath_names; ") : STATUS_OK;
    st = st ? st : append_list(r, bots, after, &sql);
    if (st)
        return error_set(err, st, "could not write the list of what is to be rebuilt");
    r->listing = false;
    st = pg_exec(r->conn, sql.data, "could not list what is to be rebuilt", err);
    r->listing = !st;
    return st;
}

enum status rebuild_rows_name(struct rebuild_rows *r, struct str *ret, struct error *err)
{
    if (!r->names || r->next_name == PQntuples(r->names)) {
        char sql[64];
        (void)snprintf(sql, sizeof(sql), "FETCH %d FROM warmpath_names", FETCH_NAMES);
        PQclear(TAKE(r->names));
        r->next_name = 0;
        enum status st =
            pg_query(r->conn, sql, 0, NULL, "could not list what is to be rebuilt", &r->names, err);
        if (st)
            return st;
        if (PQntuples(r->names) == 0)
            return STATUS_END;
    }
    int i = r->next_name++;
    *ret = (struct str){PQgetvalue(r->names, i, 0), (size_t)PQgetlength(r->names, i, 0)};
    return STATUS_OK;
}

/* ---- rows ---- */

static enum status take_row(struct rebuild_rows *r, struct source_table *t, const PGresult *res,
                            struct rebuild_chunk *c, struct error *err)
{
    struct value values[MAPPING_COLUMNS_MAX];
    struct tuple tuple = {.n = t->relation.n_columns, .values = values};
    for (int i = 0; i < tuple.n; i++) {
        bool null = PQgetisnull(res, 0, i);
        values[i].kind = null ? VALUE_NULL : VALUE_TEXT;
        values[i].text =
            null ? STR_NULL : (struct str){PQgetvalue(res, 0, i), (size_t)PQgetlength(res, 0, i)};
    }
    struct event events[MAPPING_EVENTS_MAX];
    struct error why = {.code = STATUS_OK};
    size_t n = 0;
    event_arena_reset(r->arena);
    enum status st =
        mapping_apply(&t->binding, CHANGE_INSERT, NULL, &tuple, r->arena, events, &n, &why);
    if (st == STATUS_INVALID || st == STATUS_LIMIT)
        return STATUS_OK; /* a dead letter, when it came through the slot */
    if (st)
        return error_set(err, st, "%s", why.text);
    for (size_t i = 0; i < n && !st; i++)
        if (!scan_leaves_out(&events[i], r->since_us))
            st = rebuild_chunk_row(c, &events[i]);
    return st ? error_set(err, st, "could not keep a row of \"%s.%s\"", t->relation.schema,
                          t->relation.name)
              : STATUS_OK;
}

static enum status select_rows(struct rebuild_rows *r, struct source_table *t, bool bots,
                               const char *names, struct error *err)
{
    CLEANUP(buf_deinit) struct buf sql;
    buf_init(&sql, 1 << 20);
    enum status st = append_text(&sql, "SELECT ");
    for (int i = 0; i < t->relation.n_columns && !st; i++) {
        st = i ? append_text(&sql, ", ") : STATUS_OK;
        st = st ? st : pg_quote_ident(&sql, t->columns[i].name);
    }
    st = st ? st : append_from(t, &sql);
    st = st ? st : append_is_named(t, bots ? FIELD_BOT_NAME : FIELD_USER_ID, &sql);
    st = st ? st : append_filter(t, &sql);
    st = st ? st : buf_append(&sql, "", 1);
    if (st)
        return error_set(err, st, "could not write the SELECT of \"%s.%s\"", t->relation.schema,
                         t->relation.name);
    if (!PQsendQueryParams(r->conn, sql.data, 1, NULL, &names, NULL, NULL, 0) ||
        !PQsetSingleRowMode(r->conn))
        return pg_source_error(err, r->conn, NULL, "could not read a table");
    return STATUS_OK;
}

/* Row by row: what does not fit into the chunk must not fit into memory either. */
static enum status read_table(struct rebuild_rows *r, struct source_table *t, bool bots,
                              const char *names, struct rebuild_chunk *c, struct error *err)
{
    enum status st = select_rows(r, t, bots, names, err);
    if (st)
        return st;
    PGresult *res = NULL;
    while ((res = PQgetResult(r->conn))) {
        if (!st && PQresultStatus(res) == PGRES_SINGLE_TUPLE)
            st = take_row(r, t, res, c, err);
        else if (!st && !pg_succeeded(res))
            st = pg_source_error(err, r->conn, res, "could not read a table");
        PQclear(res);
    }
    return st;
}

enum status rebuild_rows_read(struct rebuild_rows *r, bool bots, const char *names,
                              struct rebuild_chunk *c, struct error *err)
{
    enum status st = pg_exec(r->conn, "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",
                             "could not begin to read the tables", err);
    CLEANUP(PQclearp) PGresult *res = NULL;
    if (!st)
        st = pg_query(r->conn, "SELECT pg_catalog.pg_current_snapshot()", 0, NULL,
                      "could not ask for the snapshot", &res, err);
    st = st ? st : rebuild_chunk_snapshot(c, PQgetvalue(res, 0, 0), err);
    for (size_t i = 0; i < r->n_tables && !st; i++)
        if (is_about(&r->tables[i], bots))
            st = read_table(r, &r->tables[i], bots, names, c, err);
    if (st) {
        pg_rollback(r->conn);
        return st;
    }
    return pg_exec(r->conn, "COMMIT", "could not end reading the tables", err);
}

enum status rebuild_rows_watermark(struct rebuild_rows *r, const char *prefix, const char *token,
                                   struct error *err)
{
    const char *params[] = {prefix, token};
    CLEANUP(PQclearp) PGresult *res = NULL;
    return pg_query(r->conn, "SELECT pg_catalog.pg_logical_emit_message(true, $1, $2::text)", 2,
                    params, "could not write a watermark into the log", &res, err);
}
