#include "server/source_rows.h"

#include "core/pg.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FETCH_ROWS 1000

/* One table: a cursor, the rows fetched last, and the event of the row it stands at. */
struct table_reader {
    struct relation relation;
    struct relation_column columns[MAPPING_FIELD_COUNT];
    struct mapping_binding binding;
    char cursor[32];
    PGresult *rows; /* NULL before the first FETCH */
    int next_row;
    bool ended;
    bool has_event;
    struct event event; /* borrows from rows and arena */
    struct event_arena *arena;
};

struct source_rows {
    PGconn *conn;
    size_t n_tables;
    struct table_reader tables[MAPPING_TABLES_MAX];
    struct table_reader *given; /* whose event the caller holds */
    uint64_t unusable;
    char reason[sizeof(((struct error *)0)->text)];
};

/* With PG_SOURCE every value is the text that pgoutput would send. */
static const char session[] = "SET standard_conforming_strings = on; "
                              "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; "
                              /* As replication does: bytes that are no text are seen here. */
                              "SELECT set_config('client_encoding', 'SQL_ASCII', false)"
                              " WHERE getdatabaseencoding() = 'SQL_ASCII'";

/*
 * Time order, so that the merge only has to look at the heads; rows of one time in the order in
 * which they were written. to_jsonb() lets any column be looked into without failing on odd text;
 * jsonb orders numbers as numbers and RFC 3339 texts by time.
 */
static enum status append_order(const struct mapping_source *at, struct buf *sql)
{
    if (!at->column[0])
        return STATUS_OK;
    enum status st =
        buf_append_str(sql, at->path[0] ? STR(" ORDER BY to_jsonb(") : STR(" ORDER BY "));
    if (st == STATUS_OK)
        st = pg_quote_ident(sql, at->column);
    if (st == STATUS_OK && at->path[0]) {
        st = buf_append_str(sql, STR(") #> string_to_array("));
        if (st == STATUS_OK)
            st = pg_quote_literal(sql, at->path);
        if (st == STATUS_OK)
            st = buf_append_str(sql, STR(", '.')"));
    }
    return st == STATUS_OK ? buf_append_str(sql, STR(", ctid")) : st;
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
        st = append_order(&m->fields[FIELD_AT], sql);
    return st == STATUS_OK ? buf_append(sql, "", 1) : st;
}

static enum status open_table(struct source_rows *s, const struct mapping *m, struct error *err)
{
    struct table_reader *t = &s->tables[s->n_tables];
    snprintf(t->cursor, sizeof(t->cursor), "warmpath_verify_%zu", s->n_tables);
    s->n_tables++;
    enum status st = event_arena_new(&t->arena, err);
    if (st != STATUS_OK)
        return st;
    const char *columns[MAPPING_FIELD_COUNT];
    t->relation.n_columns = (uint16_t)mapping_columns(m, columns);
    t->relation.columns = t->columns;
    t->relation.replica_identity = 'f';
    snprintf(t->relation.schema, sizeof(t->relation.schema), "%s", m->schema);
    snprintf(t->relation.name, sizeof(t->relation.name), "%s", m->table);
    for (int i = 0; i < t->relation.n_columns; i++)
        snprintf(t->columns[i].name, sizeof(t->columns[i].name), "%s", columns[i]);
    st = mapping_bind(m, &t->relation, &t->binding, err);
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
    struct value values[MAPPING_FIELD_COUNT];
    struct tuple tuple = {.n = t->relation.n_columns, .values = values};
    for (int i = 0; i < tuple.n; i++) {
        bool null = PQgetisnull(t->rows, t->next_row, i);
        values[i].kind = null ? VALUE_NULL : VALUE_TEXT;
        values[i].text = null ? STR_NULL
                              : (struct str){PQgetvalue(t->rows, t->next_row, i),
                                             (size_t)PQgetlength(t->rows, t->next_row, i)};
    }
    t->next_row++;
    struct event events[2];
    struct error why;
    size_t n = 0;
    event_arena_reset(t->arena);
    enum status st =
        mapping_apply(&t->binding, CHANGE_INSERT, NULL, &tuple, t->arena, events, &n, &why);
    if (st == STATUS_INVALID || st == STATUS_LIMIT) {
        count_unusable(s, &why);
        return STATUS_OK;
    }
    if (st != STATUS_OK) {
        if (err)
            *err = why;
        return st;
    }
    assert(n <= 1); /* two events only come from a changed key */
    t->has_event = n == 1;
    t->event = events[0];
    return STATUS_OK;
}

static enum status advance(struct source_rows *s, struct table_reader *t, struct error *err)
{
    enum status st = STATUS_OK;
    t->has_event = false;
    while (st == STATUS_OK && !t->has_event && !t->ended) {
        if (!t->rows || t->next_row == PQntuples(t->rows))
            st = fetch(s, t, err);
        else
            st = take_row(s, t, err);
    }
    return st;
}

enum status source_rows_next(struct source_rows *s, struct event *ret, struct error *err)
{
    /* The event given last borrows from its table's row, so only now may that table move on. */
    struct table_reader *best = NULL;
    for (size_t i = 0; i < s->n_tables; i++) {
        struct table_reader *t = &s->tables[i];
        if (t == s->given)
            t->has_event = false;
        if (!t->has_event) {
            enum status st = advance(s, t, err);
            if (st != STATUS_OK)
                return st;
        }
        if (t->has_event && (!best || t->event.at_us < best->event.at_us))
            best = t;
    }
    s->given = best;
    if (!best)
        return STATUS_END;
    *ret = best->event;
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
