#include "server/source_rows.h"

#include "core/pg.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FETCH_ROWS 1000

/* One table: a cursor, the rows fetched last, and the event of the row it stands at. */
struct table_reader {
    struct relation relation;
    struct relation_column columns[MAPPING_COLUMNS_MAX];
    struct mapping_binding binding;
    char cursor[32];
    PGresult *rows; /* NULL before the first FETCH */
    int next_row;
    bool ended;
    struct event events[MAPPING_EVENTS_MAX]; /* of the row; borrow from rows and arena */
    size_t n_events;
    size_t next_event; /* the one to give next */
    struct event_arena *arena;
};

struct source_rows {
    PGconn *conn;
    size_t n_tables;
    struct table_reader tables[MAPPING_TABLES_MAX];
    uint64_t unusable;
    char reason[sizeof(((struct error *)0)->text)];
};

/* With PG_SOURCE every value is the text that pgoutput would send. */
static const char session[] = "SET standard_conforming_strings = on; "
                              "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; "
                              /* As replication does: bytes that are no text are seen here. */
                              "SELECT set_config('client_encoding', 'SQL_ASCII', false)"
                              " WHERE getdatabaseencoding() = 'SQL_ASCII'";

/* One source of the time, so that those of a field may be compared. */
static enum status append_time(const struct mapping_source *at, struct buf *sql)
{
    enum status st = buf_append_str(sql, STR("to_jsonb("));
    if (st == STATUS_OK)
        st = pg_quote_ident(sql, at->column);
    if (st == STATUS_OK && at->path[0]) {
        st = buf_append_str(sql, STR(") #> string_to_array("));
        if (st == STATUS_OK)
            st = pg_quote_literal(sql, at->path);
        return st == STATUS_OK ? buf_append_str(sql, STR(", '.')")) : st;
    }
    return st == STATUS_OK ? buf_append_str(sql, STR(")")) : st;
}

/*
 * Time order, so that the merge only has to look at the heads; rows of one time in the order in
 * which they were written. to_jsonb() lets any column be looked into without failing on odd text;
 * jsonb orders numbers as numbers and RFC 3339 texts by time. A time from a template is not
 * ordered.
 */
static enum status append_order(const struct table_reader *t, struct buf *sql)
{
    const struct mapping *m = t->binding.mapping;
    const struct mapping_source *at = mapping_source_first(m, FIELD_AT);
    enum status st = STATUS_OK;
    size_t n = 0;
    if (at->column[0] && !at->path[0] && !at->next) {
        st = buf_append_str(sql, STR(" ORDER BY "));
        if (st == STATUS_OK)
            st = pg_quote_ident(sql, at->column);
        return st == STATUS_OK ? buf_append_str(sql, STR(", ctid")) : st;
    }
    for (; at && st == STATUS_OK; at = mapping_source_next(m, at)) {
        if (!at->column[0] || t->binding.columns[mapping_source_slot(m, at)][0] < 0)
            continue;
        st = buf_append_str(sql, n++ ? STR(", ") : STR(" ORDER BY coalesce("));
        if (st == STATUS_OK)
            st = append_time(at, sql);
    }
    return st == STATUS_OK && n ? buf_append_str(sql, STR("), ctid")) : st;
}

static enum status append_select(const struct table_reader *t, struct buf *sql)
{
    const struct mapping *m = t->binding.mapping;
    enum status st = buf_printf(sql, "DECLARE %s NO SCROLL CURSOR FOR SELECT ", t->cursor);
    for (int i = 0; i < t->relation.n_columns && st == STATUS_OK; i++) {
        if (i)
            st = buf_append_str(sql, STR(", "));
        if (st == STATUS_OK)
            st = pg_quote_ident(sql, t->columns[i].name);
    }
    if (st == STATUS_OK)
        st = buf_append_str(sql, STR(" FROM "));
    if (st == STATUS_OK)
        st = pg_quote_ident(sql, m->schema);
    if (st == STATUS_OK)
        st = buf_append_str(sql, STR("."));
    if (st == STATUS_OK)
        st = pg_quote_ident(sql, m->table);
    if (st == STATUS_OK)
        st = append_order(t, sql);
    return st == STATUS_OK ? buf_append(sql, "", 1) : st;
}

/* The mapped columns that the table has, in any order: as a RELATION would describe them. */
static enum status describe(struct source_rows *s, struct table_reader *t, const struct mapping *m,
                            struct error *err)
{
    static const char sql[] =
        "SELECT a.attname FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c"
        " ON c.oid = a.attrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped"
        " ORDER BY a.attnum";
    const char *params[] = {m->schema, m->table};
    struct mapping_column wanted[MAPPING_COLUMNS_MAX];
    size_t n = mapping_columns(m, wanted);
    CLEANUP(PQclearp) PGresult *res = NULL;
    enum status st =
        pg_query(s->conn, sql, 2, params, "could not read the source table's columns", &res, err);
    t->relation.columns = t->columns;
    t->relation.replica_identity = 'f';
    snprintf(t->relation.schema, sizeof(t->relation.schema), "%s", m->schema);
    snprintf(t->relation.name, sizeof(t->relation.name), "%s", m->table);
    for (int row = 0; !st && row < PQntuples(res); row++)
        for (size_t i = 0; i < n; i++)
            if (strcmp(wanted[i].name, PQgetvalue(res, row, 0)) == 0)
                memcpy(t->columns[t->relation.n_columns++].name, wanted[i].name,
                       sizeof(wanted[i].name));
    return st ? st : mapping_bind(m, &t->relation, &t->binding, err);
}

static enum status open_table(struct source_rows *s, const struct mapping *m, struct error *err)
{
    struct table_reader *t = &s->tables[s->n_tables];
    snprintf(t->cursor, sizeof(t->cursor), "warmpath_verify_%zu", s->n_tables);
    s->n_tables++;
    enum status st = event_arena_new(&t->arena, err);
    if (st != STATUS_OK)
        return st;
    st = describe(s, t, m, err);
    if (st != STATUS_OK)
        return st;
    struct buf sql;
    buf_init(&sql, 16 << 10);
    st = append_select(t, &sql);
    if (st != STATUS_OK)
        st = error_set(err, st, "could not write the SELECT for \"%s.%s\"", m->schema, m->table);
    else
        st = pg_exec(s->conn, sql.data, "could not read the source table", err);
    buf_deinit(&sql);
    return st;
}

enum status source_rows_open(const char *conninfo, const struct mapping_set *mappings,
                             struct source_rows **ret, struct error *err)
{
    CLEANUP(source_rows_closep) struct source_rows *s = calloc(1, sizeof(*s));
    if (!s)
        return error_set(err, STATUS_NOMEM, "could not allocate the reader of source rows");
    struct pg_options options = {.conninfo = conninfo,
                                 .application_name = "warmpath verify",
                                 .setup = session,
                                 .mode = PG_SOURCE};
    enum status st = pg_open(&options, &s->conn, err);
    for (size_t i = 0; i < mappings->n && st == STATUS_OK; i++)
        st = open_table(s, &mappings->tables[i], err);
    if (st == STATUS_OK)
        *ret = TAKE(s);
    return st;
}

void source_rows_close(struct source_rows *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->n_tables; i++) {
        PQclear(s->tables[i].rows);
        event_arena_free(s->tables[i].arena);
    }
    PQfinish(s->conn);
    free(s);
}

static enum status fetch(struct source_rows *s, struct table_reader *t, struct error *err)
{
    char sql[80];
    snprintf(sql, sizeof(sql), "FETCH %d FROM %s", FETCH_ROWS, t->cursor);
    PQclear(TAKE(t->rows));
    t->next_row = 0;
    enum status st =
        pg_query(s->conn, sql, 0, NULL, "could not read the source table", &t->rows, err);
    if (st == STATUS_OK && PQntuples(t->rows) == 0)
        t->ended = true;
    return st;
}

static void count_unusable(struct source_rows *s, const struct error *err)
{
    if (s->unusable++ == 0)
        snprintf(s->reason, sizeof(s->reason), "%s", err->text);
}

/* One row to t->event, or to a count. */
static enum status take_row(struct source_rows *s, struct table_reader *t, struct error *err)
{
    struct value values[MAPPING_COLUMNS_MAX];
    struct tuple tuple = {.n = t->relation.n_columns, .values = values};
    for (int i = 0; i < tuple.n; i++) {
        bool null = PQgetisnull(t->rows, t->next_row, i);
        values[i].kind = null ? VALUE_NULL : VALUE_TEXT;
        values[i].text = null ? STR_NULL
                              : (struct str){PQgetvalue(t->rows, t->next_row, i),
                                             (size_t)PQgetlength(t->rows, t->next_row, i)};
    }
    t->next_row++;
    struct error why;
    t->n_events = 0;
    t->next_event = 0;
    event_arena_reset(t->arena);
    enum status st = mapping_apply(&t->binding, CHANGE_INSERT, NULL, &tuple, t->arena, t->events,
                                   &t->n_events, &why);
    if (st == STATUS_INVALID || st == STATUS_LIMIT) {
        count_unusable(s, &why);
        return STATUS_OK;
    }
    if (st != STATUS_OK && err)
        *err = why;
    return st;
}

static enum status advance(struct source_rows *s, struct table_reader *t, struct error *err)
{
    enum status st = STATUS_OK;
    while (st == STATUS_OK && t->next_event == t->n_events && !t->ended) {
        if (!t->rows || t->next_row == PQntuples(t->rows))
            st = fetch(s, t, err);
        else
            st = take_row(s, t, err);
    }
    return st;
}

static const struct event *head(const struct table_reader *t)
{
    return &t->events[t->next_event];
}

enum status source_rows_next(struct source_rows *s, struct event *ret, struct error *err)
{
    /* The event given last borrows from its table's row, so only now may that table move on. */
    struct table_reader *best = NULL;
    for (size_t i = 0; i < s->n_tables; i++) {
        struct table_reader *t = &s->tables[i];
        enum status st = advance(s, t, err);
        if (st != STATUS_OK)
            return st;
        if (t->next_event < t->n_events && (!best || head(t)->at_us < head(best)->at_us))
            best = t;
    }
    if (!best)
        return STATUS_END;
    *ret = *head(best);
    best->next_event++;
    return STATUS_OK;
}

PGconn *source_rows_connection(struct source_rows *s)
{
    return s->conn;
}

uint64_t source_rows_unusable(const struct source_rows *s)
{
    return s->unusable;
}

const char *source_rows_unusable_reason(const struct source_rows *s)
{
    return s->reason;
}
