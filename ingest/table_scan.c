#include "ingest/table_scan.h"

#include "core/clock.h"
#include "core/limits.h"
#include "ingest/copy_text.h"
#include "ingest/dead_letter.h"
#include "ingest/table_scan_sql.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PART_BLOCKS INT64_C(2048) /* a range is worth a connection from here on: 16 MiB */
#define JOBS_MAX    8
#define PARTS_MAX   (MAPPING_TABLES_MAX * JOBS_MAX)

/* One COPY: the row it stands at, and that row's events. */
struct part {
    struct scan_table *table;
    PGconn *conn;
    bool copying; /* the server has begun to answer */
    bool ended;
    char *row; /* of libpq; values and events borrow from it */
    struct event_arena *arena;
    struct buf dead_letter;
    struct event events[MAPPING_EVENTS_MAX];
    size_t n_events;
    size_t next_event;
    int64_t last_us; /* of the event before: a row without a time goes where it stands */
};

struct table_scan {
    struct table_scan_config cfg;
    char snapshot[64];
    PGconn *conn;
    size_t n_tables;
    struct scan_table tables[MAPPING_TABLES_MAX];
    size_t n_parts;
    struct part *parts[PARTS_MAX];
    struct part *given; /* whose event the caller holds */
};

/* ---- connections ---- */

/* With PG_SOURCE every value is the text that pgoutput would send. */
#define SESSION                              \
    "SET standard_conforming_strings = on; " \
    "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; "

/* As replication does: bytes that are no text are seen here. */
#define ANY_BYTES                                              \
    "SELECT set_config('client_encoding', 'SQL_ASCII', false)" \
    " WHERE getdatabaseencoding() = 'SQL_ASCII'"

static enum status connect_snapshot(const struct table_scan *s, PGconn **ret, struct error *err)
{
    CLEANUP(buf_deinit) struct buf setup;
    buf_init(&setup, 1024);
    enum status st = buf_append_str(&setup, STR(SESSION));
    if (!st && *s->snapshot) {
        st = buf_append_str(&setup, STR("SET TRANSACTION SNAPSHOT "));
        if (!st)
            st = pg_quote_literal(&setup, s->snapshot);
        if (!st)
            st = buf_append_str(&setup, STR("; "));
    }
    if (!st)
        st = buf_append(&setup, ANY_BYTES, sizeof(ANY_BYTES));
    if (st)
        return error_set(err, st, "could not write the set-up of a connection");
    struct pg_options options = {.conninfo = s->cfg.conninfo,
                                 .application_name = s->cfg.application_name,
                                 .setup = setup.data,
                                 .mode = PG_SOURCE};
    return pg_open(&options, ret, err);
}

static enum status open_leader(struct table_scan *s, struct error *err)
{
    enum status st = connect_snapshot(s, &s->conn, err);
    if (st || *s->snapshot)
        return st;
    CLEANUP(PQclearp) PGresult *res = NULL;
    st = pg_query(s->conn, "SELECT pg_catalog.pg_export_snapshot()", 0, NULL,
                  "could not export a snapshot", &res, err);
    if (!st)
        snprintf(s->snapshot, sizeof(s->snapshot), "%s", PQgetvalue(res, 0, 0));
    return st;
}

static void part_free(struct part *p)
{
    if (!p)
        return;
    PQfreemem(p->row);
    PQfinish(p->conn);
    event_arena_free(p->arena);
    buf_deinit(&p->dead_letter);
    free(p);
}
CLEANUP_FREEP(struct part, part_free);

static enum status start_copy(const struct table_scan *s, struct part *p, struct scan_range range,
                              struct error *err)
{
    CLEANUP(buf_deinit) struct buf sql;
    buf_init(&sql, 256 << 10);
    enum status st = scan_table_copy(p->table, range, s->cfg.since_us, &sql);
    if (st)
        return error_set(err, st, "could not write the COPY of \"%s.%s\"",
                         p->table->relation.schema, p->table->relation.name);
    st = connect_snapshot(s, &p->conn, err);
    if (!st && !PQsendQuery(p->conn, sql.data))
        st = pg_source_error(err, p->conn, NULL, "could not read a table");
    return st;
}

static enum status add_part(struct table_scan *s, struct scan_table *t, struct scan_range range,
                            struct error *err)
{
    CLEANUP(part_freep) struct part *p = calloc(1, sizeof(*p));
    if (!p)
        return error_set(err, STATUS_NOMEM, "could not allocate the reader of a table");
    p->table = t;
    buf_init(&p->dead_letter, LIMIT_DEAD_LETTER_BYTES);
    enum status st = event_arena_new(&p->arena, err);
    if (!st)
        st = start_copy(s, p, range, err);
    if (st)
        return st;
    t->reading++;
    s->parts[s->n_parts++] = TAKE(p);
    return STATUS_OK;
}

static enum status open_table(struct table_scan *s, const struct mapping *m, struct error *err)
{
    struct scan_table *t = &s->tables[s->n_tables++];
    enum status st = scan_table_describe(s->conn, m, s->cfg.publication, t, err);
    int64_t n = st ? 0 : t->blocks / PART_BLOCKS;
    if (n > s->cfg.jobs)
        n = s->cfg.jobs;
    if (n < 1)
        n = 1;
    for (int64_t i = 0; i < n && !st; i++) {
        struct scan_range range = {t->blocks * i / n, i + 1 < n ? t->blocks * (i + 1) / n : 0};
        st = add_part(s, t, range, err);
    }
    return st;
}

enum status table_scan_open(const struct table_scan_config *cfg, struct table_scan **ret,
                            struct error *err)
{
    assert(cfg->jobs >= 1 && cfg->jobs <= JOBS_MAX);
    CLEANUP(table_scan_closep) struct table_scan *s = calloc(1, sizeof(*s));
    if (!s)
        return error_set(err, STATUS_NOMEM, "could not allocate the scan of the tables");
    s->cfg = *cfg;
    snprintf(s->snapshot, sizeof(s->snapshot), "%s", cfg->snapshot ? cfg->snapshot : "");
    enum status st = open_leader(s, err);
    for (size_t i = 0; i < cfg->mappings->n && !st; i++)
        st = open_table(s, &cfg->mappings->tables[i], err);
    if (!st)
        *ret = TAKE(s);
    return st;
}

void table_scan_close(struct table_scan *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->n_parts; i++)
        part_free(s->parts[i]);
    for (size_t i = 0; i < s->n_tables; i++)
        free(s->tables[i].filter);
    PQfinish(s->conn);
    free(s);
}

/* ---- rows ---- */

static enum status keep_dead_letter(struct part *p, const struct tuple *tuple, const char *why,
                                    struct error *err)
{
    event_arena_reset(p->arena);
    buf_reset(&p->dead_letter);
    enum status st = dead_letter_render(&p->table->relation, NULL, tuple, &p->dead_letter);
    if (st)
        return error_set(err, st, "could not render a dead letter");
    struct position nth = {0, p->table->rows};
    struct str bytes = {p->dead_letter.data, p->dead_letter.len};
    p->n_events = 1;
    return dead_letter_event(&p->table->relation, why, nth, p->last_us, bytes, p->arena,
                             &p->events[0], err);
}

/* Drops what is left out, and gives a deletion, which has no time, the one of its neighbour. */
static void settle_events(const struct table_scan *s, struct part *p)
{
    size_t n = 0;
    for (size_t i = 0; i < p->n_events; i++) {
        struct event *e = &p->events[i];
        if (scan_leaves_out(e, s->cfg.since_us))
            continue;
        if (e->type == EVENT_MESSAGE_DELETED ||
            (e->type == EVENT_MEMORY && e->u.memory.op == MEMORY_DELETE && e->at_us == 0))
            e->at_us = p->last_us;
        p->events[n++] = *e;
    }
    p->n_events = n;
}

/* p->row to events: none, or a dead letter. */
static enum status take_row(const struct table_scan *s, struct part *p, size_t len,
                            struct error *err)
{
    struct value values[MAPPING_COLUMNS_MAX];
    struct tuple tuple = {.n = p->table->relation.n_columns, .values = values};
    p->n_events = 0;
    p->next_event = 0;
    p->table->rows++;
    event_arena_reset(p->arena);
    enum status st = copy_text_decode(p->row, len, values, tuple.n, err);
    if (st)
        return st;
    struct error why = {.code = STATUS_OK};
    st = mapping_apply(&p->table->binding, CHANGE_INSERT, NULL, &tuple, p->arena, p->events,
                       &p->n_events, &why);
    if (st == STATUS_INVALID || st == STATUS_LIMIT)
        return keep_dead_letter(p, &tuple, why.text, err);
    if (st)
        return error_set(err, st, "%s", why.text);
    settle_events(s, p);
    return STATUS_OK;
}

/* The result after the last row, or in place of the first. */
static enum status end_part(struct part *p, struct error *err)
{
    CLEANUP(PQclearp) PGresult *res = PQgetResult(p->conn);
    if (!pg_succeeded(res))
        return pg_source_error(err, p->conn, res, "could not read a table");
    p->ended = true;
    p->table->reading--;
    PQfinish(TAKE(p->conn));
    return STATUS_OK;
}

/* AGAIN when nothing comes in time. */
static enum status wait_for_server(struct part *p, int64_t timeout_us, struct error *err)
{
    struct pg_ready ready;
    enum status st = pg_poll(PQsocket(p->conn), true, false, timeout_us, NULL, &ready, err);
    if (st)
        return st;
    if (!ready.readable)
        return STATUS_AGAIN;
    return PQconsumeInput(p->conn)
               ? STATUS_OK
               : pg_source_error(err, p->conn, NULL, "lost the connection while reading a table");
}

/* The answer to COPY: AGAIN while there is none. */
static enum status begin_copying(struct part *p, int64_t timeout_us, struct error *err)
{
    while (PQisBusy(p->conn)) {
        enum status st = wait_for_server(p, timeout_us, err);
        if (st)
            return st;
    }
    CLEANUP(PQclearp) PGresult *res = PQgetResult(p->conn);
    if (PQresultStatus(res) != PGRES_COPY_OUT)
        return pg_source_error(err, p->conn, res, "could not read a table");
    p->copying = true;
    return STATUS_OK;
}

static enum status read_row(const struct table_scan *s, struct part *p, int64_t timeout_us,
                            struct error *err)
{
    PQfreemem(TAKE(p->row));
    int len = PQgetCopyData(p->conn, &p->row, 1);
    if (len > 0)
        return take_row(s, p, (size_t)len, err);
    if (len == 0)
        return wait_for_server(p, timeout_us, err);
    if (len == -1)
        return end_part(p, err);
    return pg_source_error(err, p->conn, NULL, "lost the connection while reading a table");
}

/* Until the part stands at an event, or has ended. */
static enum status advance(const struct table_scan *s, struct part *p, int64_t timeout_us,
                           struct error *err)
{
    enum status st = STATUS_OK;
    while (!st && !p->ended && p->next_event == p->n_events)
        st = p->copying ? read_row(s, p, timeout_us, err) : begin_copying(p, timeout_us, err);
    return st;
}

enum status table_scan_next(struct table_scan *s, int64_t timeout_us, const struct event **ret,
                            struct error *err)
{
    if (s->given) {
        s->given->last_us = s->given->events[s->given->next_event].at_us;
        s->given->next_event++;
        s->given = NULL;
    }
    struct part *best = NULL;
    for (size_t i = 0; i < s->n_parts; i++) {
        struct part *p = s->parts[i];
        enum status st = advance(s, p, timeout_us, err);
        if (st)
            return st;
        if (p->ended)
            continue;
        if (!best || p->events[p->next_event].at_us < best->events[best->next_event].at_us)
            best = p;
    }
    s->given = best;
    if (!best)
        return STATUS_END;
    *ret = &best->events[best->next_event];
    return STATUS_OK;
}

PGconn *table_scan_connection(struct table_scan *s)
{
    return s->conn;
}

size_t table_scan_count(const struct table_scan *s)
{
    return s->n_tables;
}

struct table_scan_table table_scan_at(const struct table_scan *s, size_t i)
{
    const struct scan_table *t = &s->tables[i];
    return (struct table_scan_table){
        .schema = t->relation.schema,
        .table = t->relation.name,
        .rows = t->rows,
        .expected = t->expected,
        .ended = t->reading == 0,
    };
}
